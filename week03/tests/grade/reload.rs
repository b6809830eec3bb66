use std::fs::{self, File};
use std::hint::spin_loop;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use notify::event::{
    AccessKind, AccessMode, CreateKind, DataChange, EventKind, MetadataKind,
    ModifyKind, RemoveKind, RenameMode,
};
use tempfile::TempDir;
use week03::reload::{Debounce, Reloader, Schedule, is_hint};

use crate::common::{PanicsOnDrop, Random, with_deadline};

/// The longest wait for something that must happen.
const DEADLINE: Duration = Duration::from_secs(3);

/// The time for another thread to do something that it must not do. A correct
/// subject passes, however slow the machine is.
const GRACE: Duration = Duration::from_millis(120);

const NEVER: Duration = Duration::from_secs(3600);

/// A change or a trigger leads to a read, and nothing else does.
const ONLY_CHANGES: Debounce = Debounce {
    quiet: Duration::from_millis(4),
    max_delay: NEVER,
    max_interval: NEVER,
};

/// A trigger leads to a read, and nothing else does.
const ONLY_TRIGGERS: Debounce =
    Debounce { quiet: NEVER, max_delay: NEVER, max_interval: NEVER };

mod schedule {
    use super::*;

    const TICK: Duration = Duration::from_secs(1);

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Step {
        Wait,
        Hint,
        Trigger,
        Begin,
    }

    use Step::{Begin, Hint, Trigger, Wait};

    fn debounce(quiet: u32, max_delay: u32, max_interval: u32) -> Debounce {
        Debounce {
            quiet: quiet * TICK,
            max_delay: max_delay * TICK,
            max_interval: max_interval * TICK,
        }
    }

    /// The definition: when a read is due after `steps`, each at its time.
    fn due(
        steps: &[(Duration, Step)],
        Debounce { quiet, max_delay, max_interval }: Debounce,
    ) -> Duration {
        let begun = steps.iter().rposition(|(_, step)| *step == Begin);
        let after = begun.map_or(0, |index| index + 1);
        let is = |which: Step| {
            let steps = steps[after..].iter();
            steps.filter(move |(_, step)| *step == which).map(|(at, _)| *at)
        };
        let triggered = match begun {
            None => Some(Duration::ZERO),
            Some(_) => is(Trigger).next(),
        };
        let hinted = is(Hint).next().zip(is(Hint).next_back());
        let hinted =
            hinted.map(|(first, last)| (first + max_delay).min(last + quiet));
        let interval = begun.map(|index| steps[index].0 + max_interval);
        let all = triggered.into_iter().chain(hinted).chain(interval);
        all.min().expect("either no read has begun, or the interval is set")
    }

    /// Runs `steps`, each at its time, and checks the due time after each step.
    fn check(steps: &[(Duration, Step)], debounce: Debounce) {
        let start = Instant::now();
        let mut schedule = Schedule::new(debounce, start);
        for (index, (at, step)) in steps.iter().enumerate() {
            let now = start + *at;
            match step {
                Wait => {}
                Hint => schedule.hint(now),
                Trigger => schedule.trigger(now),
                Begin => schedule.begin(now),
            }
            let done = &steps[..=index];
            // A read that is already due may have any earlier due time.
            let expected = (start + due(done, debounce)).max(now) - now;
            let seen = schedule.due().max(now) - now;
            assert!(
                seen == expected,
                "after {:?}, with {debounce:?}: expected the read to be due in \
                 {expected:?}, but it is due in {seen:?}",
                &done[index.saturating_sub(9)..],
            );
        }
    }

    /// Checks every sequence of `length` steps out of `steps`, each after
    /// `before`, with one step per tick.
    fn check_every_order(
        before: &[Step],
        steps: &[Step],
        length: u32,
        debounce: Debounce,
    ) {
        for mut number in 0..steps.len().pow(length) {
            let rest = (0..length).map(|_| {
                let step = steps[number % steps.len()];
                number /= steps.len();
                step
            });
            let all = before.iter().copied().chain(rest);
            let all: Vec<_> = (1..).map(|tick| tick * TICK).zip(all).collect();
            check(&all, debounce);
        }
    }

    #[test]
    fn a_read_becomes_due_when_no_hint_has_come_for_the_quiet_time() {
        check_every_order(&[Begin], &[Wait, Hint], 8, debounce(2, 100, 200));
    }

    #[test]
    fn a_read_waits_no_longer_than_max_delay_even_if_hints_never_stop() {
        check_every_order(&[Begin], &[Wait, Hint], 8, debounce(2, 4, 200));
        check_every_order(&[Begin, Hint], &[Hint], 8, debounce(3, 3, 200));
    }

    #[test]
    fn a_trigger_makes_a_read_due_at_once() {
        check_every_order(
            &[Begin, Trigger],
            &[Wait, Hint, Trigger],
            6,
            debounce(2, 4, 200),
        );
        check_every_order(
            &[Begin, Hint, Trigger],
            &[Wait, Hint],
            6,
            debounce(2, 4, 9),
        );
    }

    #[test]
    fn the_due_time_is_correct_for_every_sequence_of_calls() {
        let steps = [Wait, Hint, Trigger, Begin];
        check_every_order(&[], &steps, 6, debounce(2, 4, 3));
        check_every_order(&[Begin], &steps, 6, debounce(2, 4, 9));
        check_every_order(&[], &steps, 5, debounce(1, 1, 5));
        check_every_order(&[], &steps, 5, debounce(3, 2, 1));
        // Times of all sizes, also zero, and many steps without a read.
        let mut random = Random(1);
        for length in [1500].into_iter().chain([40; 500]) {
            let mut time = || match random.below(8) {
                0 => Duration::ZERO,
                1 => Duration::from_nanos(1),
                2 => 1000 * NEVER,
                exponent => Duration::from_millis(
                    random.next() % 4_u64.pow(u32::try_from(exponent).unwrap()),
                ),
            };
            let debounce = Debounce {
                quiet: time(),
                max_delay: time(),
                max_interval: time(),
            };
            let mut now = Duration::ZERO;
            let steps: Vec<_> = (0..length)
                .map(|_| {
                    now += time().min(TICK);
                    let hints = [Hint, Hint, Hint, Trigger, Wait, Begin];
                    (now, hints[now.subsec_nanos() as usize % hints.len()])
                })
                .collect();
            check(&steps, debounce);
        }
    }

    #[test]
    fn errors_and_all_events_except_read_accesses_are_hints() {
        const WRITTEN: AccessKind = AccessKind::Close(AccessMode::Write);

        let modes = [
            AccessMode::Any,
            AccessMode::Execute,
            AccessMode::Read,
            AccessMode::Write,
            AccessMode::Other,
        ];
        let accesses = (modes.map(AccessKind::Close).into_iter())
            .chain(modes.map(AccessKind::Open))
            .chain([AccessKind::Any, AccessKind::Read, AccessKind::Other]);
        let creates = [CreateKind::Any, CreateKind::File, CreateKind::Folder];
        let removes = [RemoveKind::Any, RemoveKind::File, RemoveKind::Folder];
        let changes = [
            DataChange::Any,
            DataChange::Size,
            DataChange::Content,
            DataChange::Other,
        ];
        let metadata = [
            MetadataKind::Any,
            MetadataKind::AccessTime,
            MetadataKind::WriteTime,
            MetadataKind::Permissions,
            MetadataKind::Ownership,
            MetadataKind::Extended,
            MetadataKind::Other,
        ];
        let renames = [
            RenameMode::Any,
            RenameMode::To,
            RenameMode::From,
            RenameMode::Both,
            RenameMode::Other,
        ];
        let modifies = (changes.map(ModifyKind::Data).into_iter())
            .chain(metadata.map(ModifyKind::Metadata))
            .chain(renames.map(ModifyKind::Name))
            .chain([ModifyKind::Any, ModifyKind::Other]);
        let all = (accesses.map(EventKind::Access))
            .chain(modifies.map(EventKind::Modify))
            .chain(creates.map(EventKind::Create))
            .chain(removes.map(EventKind::Remove))
            .chain([
                EventKind::Create(CreateKind::Other),
                EventKind::Remove(RemoveKind::Other),
                EventKind::Any,
                EventKind::Other,
            ]);
        for kind in all {
            let expected = match kind {
                EventKind::Access(kind) => kind == WRITTEN,
                _ => true,
            };
            for path in [None, Some("app.toml".into()), Some("other".into())] {
                let event = notify::Event::new(kind).add_some_path(path);
                let seen = is_hint(&Ok(event.clone()));
                assert_eq!(seen, expected, "whether {event:?} is a hint");
            }
        }
        for error in [
            notify::Error::generic("events were lost"),
            notify::Error::io(std::io::ErrorKind::NotFound.into()),
            notify::Error::new(notify::ErrorKind::MaxFilesWatch),
            notify::Error::path_not_found(),
            notify::Error::watch_not_found(),
        ] {
            let event = Err(error);
            assert!(is_hint(&event), "expected {event:?} to be a hint");
        }
    }
}

/// A temporary folder with the file `app.toml`.
struct Folder {
    folder: TempDir,
    file: PathBuf,
}

impl Folder {
    fn with(text: &str) -> Self {
        let new = Self::empty();
        new.write(text);
        new
    }

    fn empty() -> Self {
        let folder =
            tempfile::tempdir().expect("a temporary folder can be made");
        let file = folder.path().join("app.toml");
        Self { folder, file }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the file in place.
    fn write(&self, text: &str) {
        fs::write(&self.file, text).expect("the file can be written");
    }

    /// Replaces the file by a rename, as most editors do. The new file comes
    /// from another folder, so the rename is the only event.
    fn replace_by_rename(&self, text: &str) {
        let elsewhere = tempfile::tempdir();
        let elsewhere = elsewhere.expect("a temporary folder can be made");
        let beside = elsewhere.path().join("app.toml");
        fs::write(&beside, text).expect("the file can be written");
        // As `cp -p` and deployments do: the time says nothing.
        let file = File::options().write(true).open(&beside);
        file.and_then(|file| file.set_modified(UNIX_EPOCH))
            .expect("the time can be set");
        fs::rename(&beside, &self.file).expect("the file can be renamed");
    }

    /// Replaces the file by a symlink to `target`.
    fn link_to(&self, target: &str) {
        let beside = self.path("app.toml~");
        symlink(target, &beside).expect("the link can be made");
        fs::rename(&beside, &self.file).expect("the link can be renamed");
    }

    /// Starts a `Reloader`. Also returns the texts that it reads.
    fn start(&self, debounce: Debounce) -> (Reloader, Reads) {
        start(&self.file, debounce)
    }
}

fn start(file: &Path, debounce: Debounce) -> (Reloader, Reads) {
    let ((sender, reads), path) = (channel(), file.to_owned());
    let read = move || drop(sender.send(text_of(&path)));
    let reloader = Reloader::start(file, debounce, read);
    (reloader.expect("the folder is there"), Reads(reads))
}

/// Starts a `Reloader`. Also returns the time of each read.
fn start_clock(
    file: &Path,
    debounce: Debounce,
) -> (Reloader, Receiver<Instant>) {
    let (sender, times) = channel();
    let read = move || {
        let _ = sender.send(Instant::now());
    };
    let reloader = Reloader::start(file, debounce, read);
    (reloader.expect("the folder is there"), times)
}

fn text_of(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| error.kind().to_string())
}

struct Reads(Receiver<String>);

impl Reads {
    /// Waits until `text` is read.
    fn wait_for(&self, text: &str) {
        let (start, mut last) = (Instant::now(), None);
        while last.as_deref() != Some(text) {
            let left = DEADLINE.saturating_sub(start.elapsed());
            match self.0.recv_timeout(left) {
                Ok(found) => last = Some(found),
                Err(_) => panic!(
                    "expected {text:?} to be read within {DEADLINE:?}, but the \
                     last text that was read meanwhile is {last:?}"
                ),
            }
        }
    }

    fn next(&self) -> String {
        self.0.recv_timeout(DEADLINE).expect("a read before the deadline")
    }

    /// Checks that nothing is read for a while.
    fn expect_none(&self, when: &str) {
        let read = self.0.recv_timeout(GRACE);
        let none = Err(RecvTimeoutError::Timeout);
        assert_eq!(read, none, "expected no read {when}, but saw {read:?}");
    }
}

mod changes {
    use super::*;

    #[test]
    fn the_file_is_read_at_the_start_and_after_each_change() {
        let folder = Folder::with("one");
        let (_reloader, reads) = folder.start(ONLY_CHANGES);
        assert_eq!(reads.next(), "one");
        // A second one does not disturb the first.
        let other = Folder::with("another file");
        let (_other_reloader, other_reads) = other.start(ONLY_CHANGES);
        assert_eq!(other_reads.next(), "another file");
        for text in ["two", "three", "", "four"] {
            folder.write(text);
            reads.wait_for(text);
            other.write(text);
            other_reads.wait_for(text);
        }
    }

    /// All texts have the same length.
    #[test]
    fn a_file_that_is_renamed_deleted_linked_or_appended_to_is_read_again() {
        let folder = Folder::empty();
        let (_reloader, reads) = folder.start(ONLY_CHANGES);
        let missing = text_of(&folder.file);
        reads.wait_for(&missing);
        let remove = || {
            fs::remove_file(&folder.file).expect("the file can be removed");
            reads.wait_for(&missing);
        };
        let link = |text: &str| {
            let target = format!("version {text}");
            fs::write(folder.path(&target), text).expect("it can be written");
            folder.link_to(&target);
        };
        let write_in_pieces = |text: &str| {
            let mut file = File::create(&folder.file).expect("it is writable");
            reads.wait_for("");
            for end in 1..=text.len() {
                let piece = &text.as_bytes()[end - 1..end];
                file.write_all(piece).expect("it is writable");
                reads.wait_for(&text[..end]);
            }
        };
        let mut random = Random(2);
        for number in 1000..1040 {
            let text = number.to_string();
            let is_missing = !folder.file.exists();
            match random.below(5) {
                0 => folder.write(&text),
                1 => folder.replace_by_rename(&text),
                2 => link(&text),
                3 => {
                    write_in_pieces(&text);
                    continue;
                }
                _ if is_missing => continue,
                _ => {
                    remove();
                    continue;
                }
            }
            reads.wait_for(&text);
        }
    }

    /// As Kubernetes mounts a `ConfigMap`: the file is a symlink through
    /// `..data`, and only `..data` is swapped. The link may have any name.
    #[test]
    fn a_file_behind_a_swapped_symlink_is_read_again() {
        for link in ["..data", "current", "version ü"] {
            let folder = Folder::empty();
            let swap = |text: &str| {
                let version = format!("..version {text}");
                fs::create_dir(folder.path(&version))
                    .expect("the folder can be made");
                let file = folder.path(&version).join("app.toml");
                fs::write(file, text).expect("the file can be written");
                let next = folder.path("..data_tmp");
                symlink(&version, &next).expect("the link can be made");
                fs::rename(&next, folder.path(link))
                    .expect("the link can be swapped");
            };
            swap("one");
            folder.link_to(&format!("{link}/app.toml"));
            let (_reloader, reads) = folder.start(ONLY_CHANGES);
            reads.wait_for("one");
            for text in ["two", "six"] {
                swap(text);
                reads.wait_for(text);
            }
        }
    }

    #[test]
    fn changes_in_a_replaced_folder_are_seen_after_the_next_read() {
        for has_link in [true, false] {
            let parent = Folder::empty();
            let current = parent.path("current");
            let switch_to = |text: &str| {
                let version = parent.path(text);
                fs::create_dir(&version).expect("the folder can be made");
                fs::write(version.join("app.toml"), text)
                    .expect("the file can be written");
                let next = parent.path("next");
                if has_link {
                    symlink(&version, &next).expect("the link can be made");
                } else {
                    fs::rename(&version, &next).expect("it can be renamed");
                    let _ = fs::rename(&current, parent.path("old"));
                    let _ = fs::remove_dir_all(parent.path("old"));
                }
                fs::rename(&next, &current).expect("it can be replaced");
            };
            switch_to("one");
            let file = current.join("app.toml");
            let (reloader, reads) = start(&file, ONLY_CHANGES);
            reads.wait_for("one");
            for text in ["two", "three", "four"] {
                switch_to(text);
                reloader.trigger();
                reads.wait_for(text);
                let text = format!("{text}, edited");
                fs::write(&file, &text).expect("the file can be written");
                reads.wait_for(&text);
            }
            // For a while there is no folder.
            fs::rename(&current, parent.path("away"))
                .expect("it can be renamed");
            reloader.trigger();
            reads.wait_for(&text_of(&file));
            fs::rename(parent.path("away"), &current)
                .expect("it can be renamed");
            reloader.trigger();
            reads.wait_for("four, edited");
            fs::write(&file, "five").expect("the file can be written");
            reads.wait_for("five");
        }
    }

    #[test]
    fn changes_in_a_subfolder_do_not_cause_reads() {
        let folder = Folder::with("one");
        let below = folder.path("below");
        fs::create_dir(&below).expect("the folder can be made");
        let (_reloader, reads) = folder.start(ONLY_CHANGES);
        assert_eq!(reads.next(), "one");
        fs::write(below.join("app.toml"), "").expect("the file can be written");
        reads.expect_none("after a change in a subfolder");
    }

    #[test]
    fn a_read_that_saves_each_new_text_in_the_folder_is_not_called_for_ever() {
        let folder = Folder::with("one");
        let (file, copy) = (folder.file.clone(), folder.path("last good"));
        let (found, reads) = channel();
        let read = move || {
            let text = text_of(&file);
            if text != text_of(&copy) {
                fs::write(&copy, &text).expect("the copy can be written");
            }
            let _ = found.send(text);
        };
        let _reloader = Reloader::start(&folder.file, ONLY_CHANGES, read);
        let reads = Reads(reads);
        for text in ["one", "two"] {
            folder.write(text);
            reads.wait_for(text);
            let more = (0..20).take_while(|_| {
                let read = reads.0.recv_timeout(GRACE);
                read != Err(RecvTimeoutError::Timeout)
            });
            let more = more.count();
            assert!(more < 20, "{more} reads or more after one change");
        }
    }

    #[test]
    fn a_change_made_just_after_the_first_read_is_not_missed() {
        let folder = Folder::with("one");
        let (file, (found, reads)) = (folder.file.clone(), channel());
        let mut is_first = true;
        let read = move || {
            let text = text_of(&file);
            if is_first {
                fs::write(&file, "two").expect("the file can be written");
            }
            is_first = false;
            let _ = found.send(text);
        };
        let _reloader = Reloader::start(&folder.file, ONLY_CHANGES, read);
        Reads(reads).wait_for("two");
    }

    #[test]
    fn a_change_made_during_a_read_is_picked_up_by_a_later_read() {
        let folder = Folder::with("one");
        let (file, (found, reads)) = (folder.file.clone(), channel());
        let never = channel::<()>();
        let read = move || {
            let text = text_of(&file);
            if text == "two" {
                // The same length, and probably the same modification time.
                fs::write(&file, "six").expect("the file can be written");
                // The event arrives before this read ends.
                let _ = never.1.recv_timeout(GRACE);
            }
            let _ = found.send(text);
        };
        let _reloader = Reloader::start(&folder.file, ONLY_CHANGES, read);
        let reads = Reads(reads);
        reads.wait_for("one");
        folder.write("two");
        reads.wait_for("six");
    }

    #[test]
    fn a_file_that_is_written_all_the_time_is_still_read() {
        const READS: u32 = 4;

        let max_delay = Duration::from_millis(50);
        let debounce =
            Debounce { quiet: NEVER, max_delay, max_interval: NEVER };
        let folder = Folder::with("");
        let (_reloader, reads) = start_clock(&folder.file, debounce);
        let first = reads.recv_timeout(DEADLINE).expect("a first read");
        let end = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !end.load(Relaxed) {
                    folder.write("again");
                    thread::yield_now();
                }
            });
            let more = (0..READS).map(|_| reads.recv_timeout(DEADLINE).ok());
            let all: Option<Vec<_>> = more.collect();
            end.store(true, Relaxed);
            let time = all.map(|all| *all.last().expect("a read") - first);
            let (least, most) = (max_delay * READS / 2, max_delay * READS * 15);
            assert!(
                time.is_some_and(|time| least <= time && time <= most),
                "{READS} reads of a file that is always written took {time:?}: \
                 expected a read every {max_delay:?}"
            );
        });
    }

    /// A busy machine may interrupt a burst for longer than the quiet time. So
    /// one of six bursts must be right.
    #[test]
    fn a_burst_of_changes_is_read_only_after_the_quiet_time() {
        const QUIET: Duration = Duration::from_millis(80);
        /// A read comes at the latest so long after it is due.
        const LATE: Duration = Duration::from_secs(1);
        /// The pause between two writes.
        const PAUSE: Duration = Duration::from_millis(1);

        let debounce =
            Debounce { quiet: QUIET, max_delay: NEVER, max_interval: NEVER };
        let burst = || {
            let folder = Folder::with("");
            let (_reloader, reads) = start_clock(&folder.file, debounce);
            reads.recv_timeout(DEADLINE).expect("the first read");
            let start = Instant::now();
            let mut last = start;
            let mut early = 0;
            while start.elapsed() < 2 * QUIET {
                last = Instant::now();
                folder.write(&format!("{last:?}"));
                early += u32::from(reads.recv_timeout(PAUSE).is_ok());
            }
            if early > 0 {
                return Err(format!("{early} reads while it was written"));
            }
            let Ok(read) = reads.recv_timeout(QUIET + LATE) else {
                return Err(format!("no read within {:?}", QUIET + LATE));
            };
            if read - last < QUIET {
                return Err(format!("a read {:?} later", read - last));
            }
            let more = reads.recv_timeout(2 * QUIET);
            more.map_or(Ok(()), |_| Err("two reads".to_owned()))
        };
        let mut wrong = Vec::new();
        let is_right =
            (0..6).any(|_| burst().map_err(|e| wrong.push(e)).is_ok());
        assert!(
            is_right,
            "expected one read {QUIET:?} after the last write of a burst, but \
             saw {wrong:?}"
        );
    }

    #[test]
    fn a_change_without_an_event_is_read_after_max_interval() {
        let max_interval = Duration::from_millis(20);
        let debounce =
            Debounce { quiet: NEVER, max_delay: NEVER, max_interval };
        // A link leads to a file in another folder. A change there causes no
        // event in this folder.
        let (folder, elsewhere) = (Folder::empty(), Folder::with("one"));
        symlink(&elsewhere.file, &folder.file).expect("the link can be made");
        let (_reloader, reads) = folder.start(debounce);
        reads.wait_for("one");
        let start = Instant::now();
        for text in ["two", "three", "four", "five"] {
            elsewhere.write(text);
            reads.wait_for(text);
        }
        let (time, least) = (start.elapsed(), 2 * max_interval);
        assert!(
            time >= least,
            "expected reads {max_interval:?} apart, but saw four in {time:?}"
        );
    }

    /// `max_interval` counts from the begin of a read, even if it is slow.
    #[test]
    fn a_slow_read_does_not_make_the_maximum_interval_longer() {
        let max_interval = Duration::from_millis(60);
        let debounce =
            Debounce { quiet: NEVER, max_delay: NEVER, max_interval };
        let folder = Folder::with("one");
        let (begun, begins) = channel();
        let never = channel::<()>();
        let read = move || {
            let _ = begun.send(Instant::now());
            let _ = never.1.recv_timeout(max_interval);
        };
        let reloader = Reloader::start(&folder.file, debounce, read);
        let times: Vec<_> = (0..5)
            .map(|_| begins.recv_timeout(DEADLINE).expect("a next read"))
            .collect();
        drop(reloader);
        let gaps = times.windows(2).map(|two| two[1] - two[0]);
        let least = gaps.min().expect("two reads");
        assert!(
            least < max_interval * 7 / 4,
            "expected slow reads to begin about {max_interval:?} apart, but saw \
             at least {least:?}"
        );
    }
}

mod lifecycle {
    use super::*;

    /// Longer than a hint takes to arrive. A correct subject passes, however
    /// slow the machine is.
    const ARRIVAL: Duration = Duration::from_millis(50);

    #[test]
    fn start_fails_if_the_parent_folder_does_not_exist_or_is_a_file() {
        let folder = Folder::with("a file, and no folder");
        for no_folder in [folder.path("no such folder"), folder.file.clone()] {
            let file = no_folder.join("app.toml");
            let started = Reloader::start(&file, ONLY_CHANGES, || {});
            let file = file.strip_prefix(folder.folder.path()).unwrap();
            assert!(
                started.is_err(),
                "expected `start` to fail for {file:?}, but it succeeded"
            );
        }
    }

    #[test]
    fn a_bare_file_name_is_a_file_in_the_working_folder() {
        let (found, reads) = channel();
        let read = move || found.send(()).expect("the test receives");
        // The file does not exist: only its folder can be watched.
        let file = Path::new("no such file.toml");
        let started = Reloader::start(file, ONLY_TRIGGERS, read);
        let error = started.as_ref().err();
        assert!(
            error.is_none(),
            "expected `start` to succeed, but saw {error:?}"
        );
        reads.recv_timeout(DEADLINE).expect("`read` is called");
    }

    #[test]
    fn trigger_called_during_a_read_returns_at_once_and_causes_a_new_read() {
        thread::scope(|scope| {
            let all = ["t", "T", "wt", "tww", "wtw", "w"].map(|steps| {
                scope.spawn(|| check_triggers_during_a_read(steps))
            });
            for thread in all {
                thread.join().unwrap_or_else(|panic| resume_unwind(panic));
            }
        });
    }

    /// Each character of `steps` is a step during a read.
    fn check_triggers_during_a_read(steps: &'static str) {
        let folder = Arc::new(Folder::with("one"));
        let (begun, begins) = channel();
        let (go_on, may_go_on) = channel::<()>();
        let inside = AtomicU32::new(0);
        let most = Arc::new(AtomicU32::new(0));
        let saw = most.clone();
        let mut is_first = true;
        let read = move || {
            saw.fetch_max(inside.fetch_add(1, Relaxed) + 1, Relaxed);
            let _ = begun.send(());
            if !is_first {
                let _ = may_go_on.recv_timeout(DEADLINE);
            }
            is_first = false;
            inside.fetch_sub(1, Relaxed);
        };
        let reloader = Reloader::start(&folder.file, ONLY_TRIGGERS, read);
        let reloader = reloader.expect("the folder is there");
        begins.recv_timeout(DEADLINE).expect("the first read");
        let (writes, never) = (folder.clone(), channel::<()>());
        let (begins, reloader) = with_deadline("`trigger`", move || {
            reloader.trigger();
            begins.recv_timeout(DEADLINE).expect("the triggered read");
            let start = Instant::now();
            for step in steps.chars() {
                match step {
                    't' => reloader.trigger(),
                    'T' => (0..1500).for_each(|_| reloader.trigger()),
                    _ => {
                        writes.write("two");
                        let _ = never.1.recv_timeout(ARRIVAL);
                    }
                }
            }
            let elapsed = start.elapsed();
            assert!(
                elapsed < DEADLINE / 2,
                "expected `trigger` to return at once during a read, but \
                     it took {elapsed:?}"
            );
            (begins, reloader)
        });
        let mut reads = 0;
        go_on.send(()).expect("the read waits for it");
        let triggers = steps.contains(['t', 'T']);
        let mut patience = if triggers { DEADLINE } else { ARRIVAL };
        while begins.recv_timeout(patience).is_ok() {
            reads += 1;
            patience = ARRIVAL;
            go_on.send(()).expect("the read waits for it");
        }
        drop(reloader);
        assert_eq!(
            reads,
            u32::from(triggers),
            "reads after a read with the steps {steps:?} (t: trigger, T: 1500 triggers, w: \
                 write), when only a trigger makes a read due"
        );
        let most = most.load(Relaxed);
        assert_eq!(most, 1, "the most calls of `read` at one time");
    }

    /// The trigger comes a little later in each round, so that it meets each
    /// step of the thread that reads.
    #[test]
    fn no_trigger_is_lost_and_each_one_causes_a_read_at_once() {
        let folder = Folder::with("one");
        let reads = Arc::new(AtomicU32::new(0));
        let counts = reads.clone();
        let read = move || {
            counts.fetch_add(1, Relaxed);
        };
        let reloader = Reloader::start(&folder.file, ONLY_TRIGGERS, read);
        let reloader = reloader.expect("the folder is there");
        let wait_for = |expected: u32| {
            let start = Instant::now();
            for spins in 0.. {
                if reads.load(Relaxed) >= expected {
                    return;
                }
                let elapsed = start.elapsed();
                assert!(elapsed < DEADLINE, "no read after trigger {expected}");
                if spins > 100 {
                    thread::yield_now();
                }
            }
        };
        wait_for(1);
        let start = Instant::now();
        let mut fastest = DEADLINE;
        for round in 1..100_000 {
            if round > 20 && start.elapsed() > Duration::from_millis(200) {
                break;
            }
            for _ in 0..round % 16 {
                spin_loop();
            }
            let triggered = Instant::now();
            reloader.trigger();
            wait_for(round + 1);
            fastest = fastest.min(triggered.elapsed());
        }
        // A busy machine delays some of them.
        assert!(
            fastest < Duration::from_millis(100),
            "expected a read at once after a trigger, but the fastest of many \
             took {fastest:?}"
        );
    }

    #[test]
    fn a_read_that_panics_does_not_prevent_later_reads() {
        let folder = Folder::with("one");
        let (found, reads) = channel();
        let mut number = 0_u32;
        let read = move || {
            number += 1;
            let _ = found.send(number);
            assert!(number != 10, "on purpose: a bug in `read`");
            resume_unwind(Box::new(PanicsOnDrop(number % 3)));
        };
        with_deadline("a reloader whose reads panic", move || {
            let started = Reloader::start(&folder.file, ONLY_TRIGGERS, read);
            let reloader = started.expect("the folder is there");
            for number in 1..=130 {
                assert_eq!(
                    reads.recv_timeout(DEADLINE / 2),
                    Ok(number),
                    "the number of the next read, after reads that panicked"
                );
                reloader.trigger();
            }
        });
    }

    #[test]
    fn a_read_can_trigger_another_read_and_can_drop_the_reloader() {
        const READS: u32 = 5;

        let folder = Folder::with("one");
        let kept = Arc::new(Mutex::new(None::<Reloader>));
        let (returned, returns) = channel();
        let (own, mut number) = (kept.clone(), 0);
        let read = move || {
            let mut own = own.lock().unwrap();
            if let Some(reloader) = &*own {
                number += 1;
                match number {
                    READS => *own = None,
                    _ => reloader.trigger(),
                }
                let _ = returned.send(number);
            }
        };
        let reloader = Reloader::start(&folder.file, ONLY_CHANGES, read);
        *kept.lock().unwrap() = Some(reloader.expect("the folder is there"));
        folder.write("two");
        for number in 1..=READS {
            let next = returns.recv_timeout(DEADLINE);
            assert_eq!(next, Ok(number), "the number of the next read");
        }
        assert_eq!(
            returns.recv_timeout(DEADLINE),
            Err(RecvTimeoutError::Disconnected),
            "expected no read after the drop, and a closure that is dropped"
        );
    }

    #[test]
    fn a_dropped_reloader_reads_no_more_and_drops_its_closure() {
        let folder = Folder::with("one");
        let held = Arc::new((AtomicBool::new(false), PanicsOnDrop(0)));
        let (begun, begins) = channel();
        let never = channel::<()>();
        let (holds, panics) = (held.clone(), PanicsOnDrop(2));
        let mut is_first = true;
        let read = move || {
            let _holds_all = &panics;
            let _ = begun.send(());
            if is_first {
                is_first = false;
                return;
            }
            // The drop begins during this read.
            let start = Instant::now();
            while !holds.0.load(Relaxed) && start.elapsed() < DEADLINE {
                thread::yield_now();
            }
            let _ = never.1.recv_timeout(GRACE);
        };
        let reloader = Reloader::start(&folder.file, ONLY_CHANGES, read);
        let reloader = reloader.expect("the folder is there");
        begins.recv_timeout(DEADLINE).expect("the first read");
        folder.write("two");
        begins.recv_timeout(DEADLINE).expect("a read after a change");
        for _ in 0..5 {
            reloader.trigger();
        }
        let dropping = held.clone();
        with_deadline("the drop during a read", move || {
            dropping.0.store(true, Relaxed);
            drop(reloader);
        });
        assert_eq!(
            Arc::strong_count(&held),
            1,
            "owners of a value that the closure held, after the drop"
        );
        folder.write("three");
        assert_eq!(
            begins.recv_timeout(GRACE),
            Err(RecvTimeoutError::Disconnected),
            "expected no read after the drop, even if one was due"
        );
    }

    #[test]
    fn a_dropped_reloader_leaves_no_watcher_behind() {
        /// More than other tests use at the same time.
        const OTHERS: usize = 24;

        let instances = || {
            let files = fs::read_dir("/proc/self/fd").into_iter().flatten();
            let links = files.flatten().map(|file| fs::read_link(file.path()));
            let inotify = Path::new("anon_inode:inotify");
            links
                .filter(|link| link.as_deref().is_ok_and(|it| it == inotify))
                .count()
        };
        let folder = Folder::with("one");
        let before = instances();
        for _ in 0..2 * OTHERS {
            drop(folder.start(ONLY_CHANGES));
        }
        // The thread of a watcher ends some time after the drop.
        let start = Instant::now();
        while instances() > before + OTHERS {
            let seen = instances();
            assert!(
                start.elapsed() < DEADLINE,
                "expected about {before} inotify instances after {} drops, but \
                 saw {seen}",
                2 * OTHERS
            );
            thread::yield_now();
        }
    }
}

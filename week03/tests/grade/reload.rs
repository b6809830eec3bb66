use std::env;
use std::fs::{self, File};
use std::hint::spin_loop;
use std::io::Write;
use std::mem;
use std::os::unix::fs::symlink;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
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

use crate::common::{PanicsOnDrop, Random, with_deadline, within};

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
        let (steps, soon) = ([Wait, Hint, Trigger], debounce(2, 4, 9));
        check_every_order(&[Begin, Trigger], &steps, 6, debounce(2, 4, 200));
        check_every_order(&[Begin, Hint, Trigger], &steps, 6, soon);
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
                2 => 26_000 * NEVER, // about three years
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
                    now += time().min(2400 * NEVER);
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
        let errors = [
            notify::Error::generic("events were lost"),
            notify::Error::invalid_config(&notify::Config::default()),
            notify::Error::new(notify::ErrorKind::MaxFilesWatch),
            notify::Error::path_not_found().add_path("other".into()),
            notify::Error::watch_not_found(),
        ];
        let numbers = (0..140).map(std::io::Error::from_raw_os_error);
        for error in errors.into_iter().chain(numbers.map(notify::Error::io)) {
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
    let path = file.to_owned();
    let (reloader, reads) = start_with(file, debounce, move || text_of(&path));
    (reloader, Reads(reads))
}

/// Starts a `Reloader`. Also returns the results of `read`.
fn start_with<T: Send + 'static>(
    file: &Path,
    debounce: Debounce,
    mut read: impl FnMut() -> T + Send + 'static,
) -> (Reloader, Receiver<T>) {
    let (sender, results) = channel();
    let read = move || drop(sender.send(read()));
    let reloader = Reloader::start(file, debounce, read);
    (reloader.expect("the folder is there"), results)
}

fn text_of(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| error.kind().to_string())
}

/// Appends to the file. A truncation could wait for the disk, but this does not.
fn append(file: &Path, text: &str) {
    let file = File::options().append(true).open(file);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .expect("the file can be written");
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
        let links = "..data,current,version ü,current~,current.bak,\
            .current.swp,.current.tmp,.#current,#current#,4913";
        for link in links.split(',') {
            let (folder, elsewhere) = (Folder::empty(), Folder::empty());
            for text in ["one", "two", "six"] {
                let version = folder.path(&format!("..version {text}"));
                fs::create_dir(&version).expect("the folder can be made");
                fs::write(version.join("app.toml"), text)
                    .expect("the file can be written");
            }
            let swap = |text: &str| {
                // The rename is the only event in the folder.
                let next = elsewhere.path("next");
                symlink(format!("..version {text}"), &next)
                    .expect("the link can be made");
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

    /// The folder is a symlink that is switched, or it is replaced by a rename,
    /// or deleted and created again, mostly with the same inode number.
    #[test]
    fn changes_in_a_replaced_folder_are_seen_from_the_next_read_on() {
        let again = ["created again"; 4];
        for way in ["switched", "renamed"].into_iter().chain(again) {
            let parent = Folder::empty();
            let current = parent.path("current");
            let switch_to = |text: &str| {
                let name =
                    if way == "created again" { "current" } else { text };
                let folder = parent.path(name);
                let _ = fs::remove_dir_all(&folder);
                fs::create_dir(&folder).expect("the folder can be made");
                fs::write(folder.join("app.toml"), text)
                    .expect("the file can be written");
                if way == "switched" {
                    let next = parent.path("next");
                    symlink(&folder, &next).expect("the link can be made");
                    fs::rename(&next, &current).expect("it can be replaced");
                } else if way == "renamed" {
                    let _ = fs::rename(&current, parent.path("old"));
                    let _ = fs::remove_dir_all(parent.path("old"));
                    fs::rename(&folder, &current).expect("it can be renamed");
                }
            };
            switch_to("one");
            let file = current.join("app.toml");
            let path = file.clone();
            let read = move || {
                let text = text_of(&path);
                // The first read after a switch also changes the file.
                if ["two", "three", "four"].contains(&&*text) {
                    append(&path, ", edited");
                }
                text
            };
            let (reloader, reads) = start_with(&file, ONLY_CHANGES, read);
            let reads = Reads(reads);
            reads.wait_for("one");
            let texts = [("two", "one"), ("three", "two"), ("four", "none")];
            for (text, old) in texts {
                switch_to(text);
                // A change in the old folder leads to a read, or a trigger does.
                let old = parent.path(old).join("app.toml");
                if way != "switched" || fs::write(old, "").is_err() {
                    reloader.trigger();
                }
                reads.wait_for(&format!("{text}, edited"));
                fs::write(&file, "again").expect("the file can be written");
                reads.wait_for("again");
            }
            // For a while there is no folder.
            fs::rename(&current, parent.path("away"))
                .expect("it can be renamed");
            reloader.trigger();
            reads.wait_for(&text_of(&file));
            fs::rename(parent.path("away"), &current)
                .expect("it can be renamed");
            reloader.trigger();
            reads.wait_for("again");
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
        let read = reads.0.recv_timeout(GRACE).ok();
        assert_eq!(read, None, "a read after a change in a subfolder");
    }

    #[test]
    fn a_read_that_saves_each_new_text_in_the_folder_is_not_called_for_ever() {
        let folder = Folder::with("one");
        let (file, copy) = (folder.file.clone(), folder.path("last good"));
        let read = move || {
            let text = text_of(&file);
            if text != text_of(&copy) {
                fs::write(&copy, &text).expect("the copy can be written");
            }
            text
        };
        let (_reloader, reads) = start_with(&folder.file, ONLY_CHANGES, read);
        let reads = Reads(reads);
        for text in ["one", "two"] {
            folder.write(text);
            reads.wait_for(text);
            let is_read = || reads.0.recv_timeout(GRACE).is_ok();
            let more = (0..20).take_while(|_| is_read()).count();
            assert!(more < 20, "{more} reads or more after one change");
        }
    }

    /// Each read changes the file, so each one must lead to another.
    #[test]
    fn a_change_made_during_a_read_is_picked_up_by_a_later_read() {
        let folder = Folder::with("100");
        let (file, never) = (folder.file.clone(), channel::<()>());
        let read = move || {
            let text = text_of(&file);
            if let Ok(number @ ..108) = text.parse::<u32>() {
                // The same length, and probably the same modification time.
                fs::write(&file, (number + 1).to_string())
                    .expect("the file can be written");
                // The event arrives during this read, or mostly after it.
                let wait = [0, 2, 2, 2, 30][number as usize % 5];
                let _ = never.1.recv_timeout(wait * ONLY_CHANGES.quiet);
            }
            text
        };
        let (_reloader, reads) = start_with(&folder.file, ONLY_CHANGES, read);
        Reads(reads).wait_for("108");
    }

    #[test]
    fn a_file_that_is_written_all_the_time_is_still_read() {
        const READS: u32 = 4;

        // A busy machine may interrupt the writer, but not often for so long.
        let max_delay = Duration::from_millis(100);
        let debounce =
            Debounce { quiet: NEVER, max_delay, max_interval: NEVER };
        let folder = Folder::with("");
        let (_held, reads) = start_with(&folder.file, debounce, Instant::now);
        let first = reads.recv_timeout(DEADLINE).expect("a first read");
        let end = AtomicBool::new(false);
        thread::scope(|scope| {
            // The second thread only opens and closes the file: this never
            // waits for the disk.
            for text in ["again", ""] {
                let (file, end) = (&folder.file, &end);
                scope.spawn(move || {
                    while !end.load(Relaxed) {
                        append(file, text);
                        thread::yield_now();
                    }
                });
            }
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
            let (_held, reads) =
                start_with(&folder.file, debounce, Instant::now);
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

    /// A slow read makes no interval longer, and leads to no burst of reads.
    #[test]
    fn the_maximum_interval_counts_from_the_begin_of_each_read() {
        let max_interval = Duration::from_millis(60);
        let debounce =
            Debounce { quiet: NEVER, max_delay: NEVER, max_interval };
        let folder = Folder::with("one");
        let (never, mut number) = (channel::<()>(), 0);
        let read = move || {
            let begin = Instant::now();
            let intervals = [1, 1, 1, 1, 4].get(number).unwrap_or(&0);
            number += 1;
            let _ = never.1.recv_timeout(max_interval * *intervals);
            (begin, Instant::now())
        };
        let (reloader, reads) = start_with(&folder.file, debounce, read);
        let times: Vec<_> = (0..8)
            .map(|_| reads.recv_timeout(DEADLINE).expect("a next read"))
            .collect();
        drop(reloader);
        let gaps = times[..5].windows(2).map(|two| two[1].0 - two[0].0);
        let least = gaps.min().expect("two reads");
        assert!(
            least < max_interval * 7 / 4,
            "expected slow reads to begin about {max_interval:?} apart, but saw \
             at least {least:?}"
        );
        let time = times[7].0 - times[4].1;
        assert!(
            time >= 2 * max_interval,
            "expected three reads after a very slow one to begin \
             {max_interval:?} apart, but they took {time:?}"
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

    /// A child process has a working folder of its own.
    #[test]
    fn a_bare_file_name_is_a_file_in_the_working_folder() {
        const CHILD: &str = "GRADE_RELOAD_CHILD";
        if env::var_os(CHILD).is_none() {
            let (_crate, module) = module_path!().split_once("::").unwrap();
            let test = "a_bare_file_name_is_a_file_in_the_working_folder";
            let folder = Folder::empty();
            let own = env::current_exe().expect("this program's file");
            let mut child = Command::new(own);
            child.args(["--exact", &format!("{module}::{test}")]);
            child.env(CHILD, "").current_dir(folder.folder.path());
            let output = child.output().expect("this program can be started");
            let seen = String::from_utf8_lossy(&output.stdout);
            assert!(seen.contains("1 passed"), "in a child process: {seen}");
            return;
        }
        let (_reloader, reads) = start(Path::new("app.toml"), ONLY_CHANGES);
        reads.next();
        for text in ["one", "two"] {
            fs::write("app.toml", text).expect("the file can be written");
            reads.wait_for(text);
        }
    }

    #[test]
    fn trigger_called_during_a_read_returns_at_once_and_causes_a_new_read() {
        thread::scope(|scope| {
            let all = ["t", "T", "wt", "tww", "wtw", "rt", "w"].map(|steps| {
                scope.spawn(move || {
                    assert_eq!(
                        reads_after_a_read(steps, ONLY_TRIGGERS),
                        u32::from(steps != "w"),
                        "reads after a read with the steps {steps:?} (t: \
                         trigger, T: 70000 triggers, w: write, r: 500 \
                         renames), when only a trigger makes a read due"
                    );
                })
            });
            for thread in all {
                thread.join().unwrap_or_else(|panic| resume_unwind(panic));
            }
        });
    }

    #[test]
    fn many_hints_during_a_read_lead_to_one_more_read() {
        let reads = reads_after_a_read("rw", ONLY_CHANGES);
        // On a busy machine, a few of the hints arrive after the read.
        assert!(
            (1..20).contains(&reads),
            "expected one read after 500 renames during a read, but saw {reads}"
        );
    }

    /// Each character of `steps` is a step during a read. Returns the number of
    /// reads after it.
    fn reads_after_a_read(steps: &'static str, debounce: Debounce) -> u32 {
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
            if !mem::take(&mut is_first) {
                let _ = may_go_on.recv_timeout(DEADLINE);
            }
            inside.fetch_sub(1, Relaxed);
        };
        let (reloader, _) = start_with(&folder.file, debounce, read);
        begins.recv_timeout(DEADLINE).expect("the first read");
        let (changed, never) = (folder.clone(), channel::<()>());
        let beside = folder.path("app.toml~");
        let (begins, reloader) = within(DEADLINE / 2, "`trigger`", move || {
            reloader.trigger();
            begins.recv_timeout(DEADLINE).expect("the triggered read");
            for step in steps.chars() {
                match step {
                    't' => reloader.trigger(),
                    'T' => (0..70_000).for_each(|_| reloader.trigger()),
                    'r' => (0..250).for_each(|_| {
                        let away = fs::rename(&changed.file, &beside);
                        away.and_then(|()| fs::rename(&beside, &changed.file))
                            .expect("the file can be renamed");
                    }),
                    _ => changed.write("two"),
                }
                let _ = never.1.recv_timeout(ARRIVAL);
            }
            (begins, reloader)
        });
        let mut reads = 0;
        go_on.send(()).expect("the read waits for it");
        let mut patience = if steps == "w" { ARRIVAL } else { DEADLINE };
        while begins.recv_timeout(patience).is_ok() {
            reads += 1;
            patience = ARRIVAL;
            go_on.send(()).expect("the read waits for it");
        }
        drop(reloader);
        let most = most.load(Relaxed);
        assert_eq!(most, 1, "the most calls of `read` at one time");
        reads
    }

    /// The trigger comes a little later in each round, so that it meets each
    /// step of the thread that reads.
    #[test]
    fn no_trigger_is_lost_and_each_one_causes_a_read_at_once() {
        let folder = Folder::with("one");
        let reads = Arc::new(AtomicU32::new(0));
        let counts = reads.clone();
        let read = move || counts.fetch_add(1, Relaxed);
        let (reloader, _) = start_with(&folder.file, ONLY_TRIGGERS, read);
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
    fn a_read_that_panics_neither_prevents_nor_causes_later_reads() {
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
            let started = Reloader::start(&folder.file, ONLY_CHANGES, read);
            let reloader = started.expect("the folder is there");
            for number in 1..=130 {
                assert_eq!(
                    reads.recv_timeout(DEADLINE / 2),
                    Ok(number),
                    "the number of the next read, after reads that panicked"
                );
                reloader.trigger();
            }
            reads.recv_timeout(DEADLINE).expect("the last triggered read");
            let more = reads.recv_timeout(GRACE).ok();
            assert_eq!(more, None, "a read after a panic, without a trigger");
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
                assert!(number < READS, "on purpose: a bug in the last `read`");
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
        // The test drops the `Reloader`, or a read of another `Reloader` does.
        for is_by_another_read in [false, true] {
            let folder = Folder::with("one");
            let held = Arc::new((AtomicBool::new(false), PanicsOnDrop(0)));
            let ((begun, begins), never) = (channel(), channel::<()>());
            let (holds, panics) = (held.clone(), PanicsOnDrop(2));
            let mut is_first = true;
            let read = move || {
                let _holds_all = &panics;
                let _ = begun.send(());
                if mem::take(&mut is_first) {
                    return;
                }
                // The drop begins during this read.
                let start = Instant::now();
                while !holds.0.load(Relaxed) && start.elapsed() < DEADLINE {
                    thread::yield_now();
                }
                let _ = never.1.recv_timeout(GRACE);
            };
            let (reloader, _) = start_with(&folder.file, ONLY_CHANGES, read);
            begins.recv_timeout(DEADLINE).expect("the first read");
            folder.write("two");
            begins.recv_timeout(DEADLINE).expect("a read after a change");
            (0..5).for_each(|_| reloader.trigger());
            let (dropping, mut reloader) = (held.clone(), Some(reloader));
            let mut drop_it = move || {
                dropping.0.store(true, Relaxed);
                drop(reloader.take());
            };
            with_deadline("the drop during a read", move || {
                if !is_by_another_read {
                    return drop_it();
                }
                let other = Folder::empty();
                let (_other, drops) =
                    start_with(&other.file, ONLY_TRIGGERS, drop_it);
                drops.recv_timeout(DEADLINE).expect("the first read ends");
            });
            assert_eq!(
                Arc::strong_count(&held),
                1,
                "owners of a value that the closure held, after the drop \
                 (in a read of another `Reloader`: {is_by_another_read})"
            );
            folder.write("three");
            assert_eq!(
                begins.recv_timeout(GRACE),
                Err(RecvTimeoutError::Disconnected),
                "expected no read after the drop, even if one was due"
            );
        }
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
        for number in 0..4 * OTHERS {
            let kept = Arc::new(Mutex::new(None::<Reloader>));
            let own = kept.clone();
            let read = move || drop(own.lock().unwrap().take());
            let (it, reads) = start_with(&folder.file, ONLY_TRIGGERS, read);
            if number % 2 == 0 {
                drop(it);
            } else {
                // A read drops it.
                let mut kept = kept.lock().unwrap();
                it.trigger();
                *kept = Some(it);
            }
            let end = (0..).find_map(|_| reads.recv_timeout(DEADLINE).err());
            let dropped = Some(RecvTimeoutError::Disconnected);
            assert_eq!(end, dropped, "after the drop, the closure is dropped");
            // The thread of a watcher ends some time after the drop.
            let start = Instant::now();
            while instances() > before + OTHERS {
                let seen = instances();
                assert!(
                    start.elapsed() < DEADLINE,
                    "expected about {before} inotify instances after {number} \
                     drops, half of them in `read`, but saw {seen}"
                );
                thread::yield_now();
            }
        }
    }
}

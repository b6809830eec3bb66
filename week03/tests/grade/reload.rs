use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use notify::event::{
    AccessKind, AccessMode, CreateKind, DataChange, EventKind, MetadataKind,
    ModifyKind, RemoveKind, RenameMode,
};
use tempfile::TempDir;
use week03::reload::{Debounce, Reloader, Schedule, is_hint};

/// The longest wait for something that must happen.
const DEADLINE: Duration = Duration::from_secs(5);

/// The time for another thread to do something that it must not do. A correct
/// subject passes, however slow the machine is.
const GRACE: Duration = Duration::from_millis(200);

const NEVER: Duration = Duration::from_secs(3600);

/// A change or a trigger leads to a read, and nothing else does.
const ONLY_CHANGES: Debounce = Debounce {
    quiet: Duration::from_millis(10),
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

    /// The definition: when a read is due after `steps`. The first step is at
    /// tick 1, and each later step is one tick after the one before.
    fn due(
        steps: &[Step],
        Debounce { quiet, max_delay, max_interval }: Debounce,
    ) -> Duration {
        let at = |index: usize| (u32::try_from(index).unwrap() + 1) * TICK;
        let begun = steps.iter().rposition(|step| *step == Begin);
        let after = begun.map_or(0, |index| index + 1);
        let is = |which: Step| {
            let steps = steps.iter().enumerate().skip(after);
            steps.filter(move |(_, step)| **step == which).map(|(i, _)| at(i))
        };
        let triggered = match begun {
            None => Some(Duration::ZERO),
            Some(_) => is(Trigger).next(),
        };
        let hinted = is(Hint).next().zip(is(Hint).next_back());
        let hinted =
            hinted.map(|(first, last)| (first + max_delay).min(last + quiet));
        let interval = begun.map(|index| at(index) + max_interval);
        let all = triggered.into_iter().chain(hinted).chain(interval);
        all.min().expect("either no read has begun, or the interval is set")
    }

    /// Runs every sequence of `length` steps out of `steps`, each after
    /// `before`, and checks the due time after every step.
    fn check_every_order(
        before: &[Step],
        steps: &[Step],
        length: u32,
        debounce: Debounce,
    ) {
        let start = Instant::now();
        let count = steps.len().pow(length);
        for mut number in 0..count {
            let mut schedule = Schedule::new(debounce, start);
            let mut done = Vec::new();
            let rest = (0..length).map(|_| {
                let step = steps[number % steps.len()];
                number /= steps.len();
                step
            });
            let mut now = start;
            for step in before.iter().copied().chain(rest) {
                now += TICK;
                match step {
                    Wait => {}
                    Hint => schedule.hint(now),
                    Trigger => schedule.trigger(now),
                    Begin => schedule.begin(now),
                }
                done.push(step);
                // A read that is already due may have any earlier due time.
                let expected = (start + due(&done, debounce)).max(now);
                let seen = schedule.due().max(now);
                let seconds = |time: Instant| (time - now).as_secs_f32();
                assert!(
                    seen == expected,
                    "after {done:?}, one step per second, with {debounce:?}: \
                     expected the read to be due in {} s, but it is due in {} s",
                    seconds(expected),
                    seconds(seen),
                );
            }
        }
    }

    #[test]
    fn the_first_read_is_due_at_once() {
        check_every_order(&[], &[Wait, Hint, Trigger], 4, debounce(2, 5, 7));
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
    fn a_file_event_or_a_trigger_during_a_read_leads_to_another_read() {
        for before in [[Hint, Begin], [Trigger, Begin], [Begin, Begin]] {
            let debounce = debounce(2, 4, 200);
            check_every_order(&before, &[Hint, Wait], 6, debounce);
            check_every_order(&before, &[Trigger, Wait], 3, debounce);
        }
    }

    #[test]
    fn the_time_between_two_reads_is_never_longer_than_max_interval() {
        check_every_order(&[Begin], &[Wait, Begin], 8, debounce(2, 4, 3));
        check_every_order(&[Hint, Begin], &[Wait], 8, debounce(2, 4, 6));
        check_every_order(&[Begin], &[Wait, Hint], 6, debounce(9, 9, 3));
    }

    #[test]
    fn the_due_time_is_correct_for_every_sequence_of_calls() {
        let steps = [Wait, Hint, Trigger, Begin];
        check_every_order(&[], &steps, 7, debounce(2, 4, 3));
        check_every_order(&[], &steps, 6, debounce(1, 1, 5));
        check_every_order(&[], &steps, 6, debounce(3, 2, 1));
    }

    #[test]
    fn an_event_for_a_mere_read_of_the_file_does_not_cause_a_reload() {
        for reads in [
            AccessKind::Any,
            AccessKind::Read,
            AccessKind::Open(AccessMode::Any),
            AccessKind::Open(AccessMode::Read),
            AccessKind::Close(AccessMode::Read),
            AccessKind::Other,
        ] {
            let event = notify::Event::new(EventKind::Access(reads));
            assert!(
                !is_hint(&Ok(event)),
                "expected {reads:?} not to be a hint, but it is one"
            );
        }
    }

    #[test]
    fn watch_errors_and_all_events_but_read_access_are_hints_to_reload() {
        for changes in [
            EventKind::Access(AccessKind::Close(AccessMode::Write)),
            EventKind::Create(CreateKind::File),
            EventKind::Create(CreateKind::Any),
            EventKind::Modify(ModifyKind::Data(DataChange::Any)),
            EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)),
            EventKind::Modify(ModifyKind::Name(RenameMode::To)),
            EventKind::Remove(RemoveKind::File),
            EventKind::Any,
            EventKind::Other,
        ] {
            let event = notify::Event::new(changes);
            assert!(
                is_hint(&Ok(event)),
                "expected {changes:?} to be a hint, but it is not"
            );
        }
        let lost = Err(notify::Error::generic("events were lost"));
        assert!(
            is_hint(&lost),
            "expected an error to be a hint, but it is not"
        );
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

    /// Replaces the file by a rename, as most editors do.
    fn replace_by_rename(&self, text: &str) {
        let beside = self.path("app.toml~");
        fs::write(&beside, text).expect("the file can be written");
        fs::rename(&beside, &self.file).expect("the file can be renamed");
    }

    /// Starts a `Reloader`. Also returns the texts that it reads.
    fn start(&self, debounce: Debounce) -> (Reloader, Reads) {
        let ((sender, reads), file) = (channel(), self.file.clone());
        let read = move || drop(sender.send(text_of(&file)));
        let reloader = Reloader::start(&self.file, debounce, read);
        (reloader.expect("the folder is there"), Reads(reads))
    }
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
        for text in ["two", "three", "", "four"] {
            folder.write(text);
            reads.wait_for(text);
        }
    }

    #[test]
    fn a_file_that_is_replaced_by_a_rename_is_read_again() {
        let folder = Folder::with("one");
        let (_reloader, reads) = folder.start(ONLY_CHANGES);
        reads.wait_for("one");
        for text in ["two", "three", "four"] {
            folder.replace_by_rename(text);
            reads.wait_for(text);
        }
        folder.write("five");
        reads.wait_for("five");
    }

    #[test]
    fn a_file_that_is_written_in_pieces_is_read_to_its_end() {
        let folder = Folder::with("one");
        let (_reloader, reads) = folder.start(ONLY_CHANGES);
        reads.wait_for("one");
        let mut file =
            File::create(&folder.file).expect("the file can be truncated");
        reads.wait_for("");
        file.write_all(b"half").expect("the file can be written");
        reads.wait_for("half");
        file.write_all(b" and half").expect("the file can be written");
        reads.wait_for("half and half");
    }

    #[test]
    fn a_file_that_is_deleted_and_created_again_is_read_again() {
        let folder = Folder::empty();
        let (_reloader, reads) = folder.start(ONLY_CHANGES);
        let missing = text_of(&folder.file);
        reads.wait_for(&missing);
        for text in ["one", "two"] {
            folder.write(text);
            reads.wait_for(text);
            fs::remove_file(&folder.file).expect("the file can be removed");
            reads.wait_for(&missing);
        }
        folder.replace_by_rename("three");
        reads.wait_for("three");
    }

    /// As Kubernetes mounts a `ConfigMap`: the file is a symlink through
    /// `..data`, and only `..data` is swapped.
    #[test]
    fn a_file_behind_a_swapped_symlink_is_read_again() {
        let folder = Folder::empty();
        let swap = |text: &str| {
            let version = format!("..version {text}");
            fs::create_dir(folder.path(&version))
                .expect("the folder can be made");
            let file = folder.path(&version).join("app.toml");
            fs::write(file, text).expect("the file can be written");
            let next = folder.path("..data_tmp");
            symlink(&version, &next).expect("the link can be made");
            fs::rename(&next, folder.path("..data"))
                .expect("the link can be swapped");
        };
        swap("one");
        symlink("..data/app.toml", &folder.file).expect("the link can be made");
        let (_reloader, reads) = folder.start(ONLY_CHANGES);
        reads.wait_for("one");
        for text in ["two", "three"] {
            swap(text);
            reads.wait_for(text);
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
                fs::write(&file, "three").expect("the file can be written");
                // The event arrives before this read ends.
                let _ = never.1.recv_timeout(GRACE);
            }
            let _ = found.send(text);
        };
        let _reloader = Reloader::start(&folder.file, ONLY_CHANGES, read);
        let reads = Reads(reads);
        reads.wait_for("one");
        folder.write("two");
        reads.wait_for("three");
    }

    #[test]
    fn a_file_that_is_written_all_the_time_is_still_read() {
        let max_delay = Duration::from_millis(100);
        let debounce =
            Debounce { quiet: NEVER, max_delay, max_interval: NEVER };
        let folder = Folder::with("");
        let (_reloader, reads) = folder.start(debounce);
        reads.next();
        let end = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !end.load(Relaxed) {
                    folder.write("again");
                    thread::yield_now();
                }
            });
            let mut more = (0..3).map(|_| reads.0.recv_timeout(DEADLINE));
            let all_came = more.all(|read| read.is_ok());
            end.store(true, Relaxed);
            assert!(
                all_came,
                "expected three more reads, but one took over {DEADLINE:?}"
            );
        });
    }

    #[test]
    fn a_burst_of_changes_is_read_only_after_the_quiet_time() {
        let folder = Folder::with("one");
        let (reloader, reads) = folder.start(ONLY_TRIGGERS);
        assert_eq!(reads.next(), "one");
        reads.expect_none("after the first one");
        for text in ["two", "three", "four"] {
            folder.write(text);
        }
        reads.expect_none("before an hour without changes");
        reloader.trigger();
        assert_eq!(reads.next(), "four", "the read after the trigger");
        reads.expect_none("without a second trigger");
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
        elsewhere.write("two");
        reads.wait_for("two");
    }
}

mod lifecycle {
    use super::*;

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
        let folder = Folder::with("one");
        let (begun, begins) = channel();
        let (go_on, may_go_on) = channel::<()>();
        let inside = AtomicU32::new(0);
        let most = Arc::new(AtomicU32::new(0));
        let saw = most.clone();
        let read = move || {
            saw.fetch_max(inside.fetch_add(1, Relaxed) + 1, Relaxed);
            let _ = begun.send(());
            let _ = may_go_on.recv_timeout(DEADLINE);
            inside.fetch_sub(1, Relaxed);
        };
        let reloader = Reloader::start(&folder.file, ONLY_TRIGGERS, read);
        let reloader = reloader.expect("the folder is there");
        begins.recv_timeout(DEADLINE).expect("the first read");
        let (returned, has_returned) = channel();
        let triggers = thread::spawn(move || {
            reloader.trigger();
            let _ = returned.send(());
            reloader
        });
        // Half of the deadline: the read itself continues after all of it.
        let returned = has_returned.recv_timeout(DEADLINE / 2);
        assert!(
            returned.is_ok(),
            "expected `trigger` to return at once, but it waits for the read"
        );
        go_on.send(()).expect("the read waits for it");
        let next = begins.recv_timeout(DEADLINE);
        assert!(
            next.is_ok(),
            "expected another read after a trigger during a read, but saw none"
        );
        go_on.send(()).expect("the read waits for it");
        drop(triggers.join().expect("`trigger` does not panic"));
        assert_eq!(
            most.load(Relaxed),
            1,
            "the most calls of `read` at one time"
        );
    }

    #[test]
    fn a_read_that_panics_does_not_prevent_later_reads() {
        let folder = Folder::with("one");
        let (file, (found, reads)) = (folder.file.clone(), channel());
        let read = move || {
            let text = text_of(&file);
            let _ = found.send(text.clone());
            assert!(text != "bad", "on purpose: a bug in `read`");
        };
        let reloader = Reloader::start(&folder.file, ONLY_CHANGES, read);
        let _reloader = reloader.expect("the folder is there");
        let reads = Reads(reads);
        reads.wait_for("one");
        for text in ["bad", "two", "bad", "three"] {
            folder.replace_by_rename(text);
            reads.wait_for(text);
        }
    }

    #[test]
    fn a_dropped_reloader_reads_no_more_and_drops_its_closure() {
        let folder = Folder::with("one");
        let held = Arc::new(Mutex::new(()));
        let (begun, begins) = channel();
        let never = channel::<()>();
        let holds = held.clone();
        let read = move || {
            let _held = holds.lock();
            let _ = begun.send(());
            let _ = never.1.recv_timeout(GRACE);
        };
        let reloader = Reloader::start(&folder.file, ONLY_CHANGES, read);
        begins.recv_timeout(DEADLINE).expect("the first read");
        let (dropped, is_dropped) = channel();
        thread::spawn(move || {
            drop(reloader);
            let _ = dropped.send(());
        });
        let is_dropped = is_dropped.recv_timeout(DEADLINE);
        assert!(
            is_dropped.is_ok(),
            "expected the drop to return within {DEADLINE:?}"
        );
        assert_eq!(
            Arc::strong_count(&held),
            1,
            "owners of a value that the closure held, after the drop"
        );
        folder.write("two");
        let more = begins.recv_timeout(GRACE);
        assert_eq!(
            more,
            Err(RecvTimeoutError::Disconnected),
            "expected no read after the drop"
        );
    }
}

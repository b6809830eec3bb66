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
use week03::reload::{Pace, Reloader, Timing, is_hint};

/// Nobody waits longer for what has to happen.
const DEADLINE: Duration = Duration::from_secs(5);

/// How long another thread has the chance to do what it must not do. Where it
/// does not, the test passes however long it takes.
const CHANCE: Duration = Duration::from_millis(200);

const NEVER: Duration = Duration::from_secs(3600);

/// A reading follows a change, and nothing else leads to one.
const QUICK: Timing =
    Timing { quiet: Duration::from_millis(10), at_most: NEVER, anyway: NEVER };

/// Nothing leads to a reading, unless somebody asks.
const STILL: Timing = Timing { quiet: NEVER, at_most: NEVER, anyway: NEVER };

mod paces {
    use super::*;

    const TICK: Duration = Duration::from_secs(1);

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Step {
        Wait,
        Touch,
        Ask,
        Begin,
    }

    use Step::{Ask, Begin, Touch, Wait};

    fn timing(quiet: u32, at_most: u32, anyway: u32) -> Timing {
        Timing {
            quiet: quiet * TICK,
            at_most: at_most * TICK,
            anyway: anyway * TICK,
        }
    }

    /// When a reading is due after `steps`, the first of which is made at tick 1,
    /// and each other one a tick after the one before. This is the definition,
    /// and looks at all of them.
    fn due(
        steps: &[Step],
        Timing { quiet, at_most, anyway }: Timing,
    ) -> Duration {
        let at = |index: usize| (u32::try_from(index).unwrap() + 1) * TICK;
        let begun = steps.iter().rposition(|step| *step == Begin);
        let after = begun.map_or(0, |index| index + 1);
        let is = |which: Step| {
            let steps = steps.iter().enumerate().skip(after);
            steps.filter(move |(_, step)| **step == which).map(|(i, _)| at(i))
        };
        let asked = match begun {
            None => Some(Duration::ZERO),
            Some(_) => is(Ask).next(),
        };
        let touched = is(Touch).next().zip(is(Touch).next_back());
        let touched =
            touched.map(|(first, last)| (first + at_most).min(last + quiet));
        let anyway = begun.map(|index| at(index) + anyway);
        let all = asked.into_iter().chain(touched).chain(anyway);
        all.min().expect("it is asked for, or has begun once")
    }

    /// Makes all `length` steps out of `steps`, in every order, after `before`.
    fn in_every_order(
        before: &[Step],
        steps: &[Step],
        length: u32,
        timing: Timing,
    ) {
        let start = Instant::now();
        let count = steps.len().pow(length);
        for mut number in 0..count {
            let mut pace = Pace::new(timing, start);
            let mut made = Vec::new();
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
                    Touch => pace.touch(now),
                    Ask => pace.ask(now),
                    Begin => pace.begin(now),
                }
                made.push(step);
                // What is due by now may have become so at any time.
                let expected = (start + due(&made, timing)).max(now);
                let seen = pace.due().max(now);
                let ticks = |time: Instant| (time - now).as_secs_f32();
                assert!(
                    seen == expected,
                    "one tick after the other, after {made:?}, with {timing:?}: \
                     due in {} ticks, and not in {}",
                    ticks(seen),
                    ticks(expected),
                );
            }
        }
    }

    #[test]
    fn in_the_beginning_a_reading_is_due_at_once() {
        in_every_order(&[], &[Wait, Touch, Ask], 4, timing(2, 5, 7));
    }

    #[test]
    fn a_reading_is_due_when_it_has_been_quiet() {
        in_every_order(&[Begin], &[Wait, Touch], 8, timing(2, 100, 200));
    }

    #[test]
    fn what_is_touched_all_the_time_is_read_now_and_then() {
        in_every_order(&[Begin], &[Wait, Touch], 8, timing(2, 4, 200));
        in_every_order(&[Begin, Touch], &[Touch], 8, timing(3, 3, 200));
    }

    #[test]
    fn who_asks_is_answered_at_once() {
        in_every_order(
            &[Begin, Ask],
            &[Wait, Touch, Ask],
            6,
            timing(2, 4, 200),
        );
        in_every_order(
            &[Begin, Touch, Ask],
            &[Wait, Touch],
            6,
            timing(2, 4, 9),
        );
    }

    #[test]
    fn what_comes_while_it_is_read_is_for_the_next_reading() {
        for before in [[Touch, Begin], [Ask, Begin], [Begin, Begin]] {
            let timing = timing(2, 4, 200);
            in_every_order(&before, &[Touch, Wait], 6, timing);
            in_every_order(&before, &[Ask, Wait], 3, timing);
        }
    }

    #[test]
    fn it_is_read_after_a_while_in_any_case() {
        in_every_order(&[Begin], &[Wait, Begin], 8, timing(2, 4, 3));
        in_every_order(&[Touch, Begin], &[Wait], 8, timing(2, 4, 6));
        in_every_order(&[Begin], &[Wait, Touch], 6, timing(9, 9, 3));
    }

    #[test]
    fn all_of_that_holds_in_every_order() {
        let steps = [Wait, Touch, Ask, Begin];
        in_every_order(&[], &steps, 7, timing(2, 4, 3));
        in_every_order(&[], &steps, 6, timing(1, 1, 5));
        in_every_order(&[], &steps, 6, timing(3, 2, 1));
    }

    #[test]
    fn to_read_is_no_hint() {
        for reads in [
            AccessKind::Any,
            AccessKind::Read,
            AccessKind::Open(AccessMode::Any),
            AccessKind::Open(AccessMode::Read),
            AccessKind::Close(AccessMode::Read),
            AccessKind::Other,
        ] {
            let event = notify::Event::new(EventKind::Access(reads));
            assert!(!is_hint(&Ok(event)), "{reads:?} is a hint");
        }
    }

    #[test]
    fn anything_else_is_a_hint() {
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
            assert!(is_hint(&Ok(event)), "{changes:?} is no hint");
        }
        let lost = Err(notify::Error::generic("events were lost"));
        assert!(is_hint(&lost), "an error is no hint");
    }
}

/// A folder with a file in it.
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
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("app.toml");
        Self { folder, file }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// In place.
    fn write(&self, text: &str) {
        fs::write(&self.file, text).expect("it is written");
    }

    /// As most editors do.
    fn rename_over(&self, text: &str) {
        let beside = self.path("app.toml~");
        fs::write(&beside, text).expect("it is written");
        fs::rename(&beside, &self.file).expect("it is renamed");
    }

    /// Starts to read it: what each reading has found.
    fn start(&self, timing: Timing) -> (Reloader, Readings) {
        let (readings, file) = (channel(), self.file.clone());
        let read = move || drop(readings.0.send(text_of(&file)));
        let reloader = Reloader::start(&self.file, timing, read);
        (reloader.expect("the folder is there"), Readings(readings.1))
    }
}

fn text_of(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| error.kind().to_string())
}

struct Readings(Receiver<String>);

impl Readings {
    /// Waits until this has been read.
    fn find(&self, text: &str) {
        let (start, mut last) = (Instant::now(), None);
        while last.as_deref() != Some(text) {
            let left = DEADLINE.saturating_sub(start.elapsed());
            match self.0.recv_timeout(left) {
                Ok(found) => last = Some(found),
                Err(_) => panic!(
                    "{text:?} has not been read in {DEADLINE:?}, the last that \
                     was read since is {last:?}"
                ),
            }
        }
    }

    fn next(&self) -> String {
        self.0.recv_timeout(DEADLINE).expect("a reading")
    }

    /// There is none, although there was a chance.
    fn none(&self, why: &str) {
        let found = self.0.recv_timeout(CHANCE);
        assert_eq!(found, Err(RecvTimeoutError::Timeout), "{why}");
    }
}

mod sees {
    use super::*;

    #[test]
    fn the_first_reading_comes_at_once_and_one_after_each_change() {
        let folder = Folder::with("one");
        let (_reloader, readings) = folder.start(QUICK);
        assert_eq!(readings.next(), "one");
        for text in ["two", "three", "", "four"] {
            folder.write(text);
            readings.find(text);
        }
    }

    #[test]
    fn a_file_that_is_renamed_over() {
        let folder = Folder::with("one");
        let (_reloader, readings) = folder.start(QUICK);
        readings.find("one");
        for text in ["two", "three", "four"] {
            folder.rename_over(text);
            readings.find(text);
        }
        folder.write("five");
        readings.find("five");
    }

    #[test]
    fn a_file_that_is_written_in_pieces() {
        let folder = Folder::with("one");
        let (_reloader, readings) = folder.start(QUICK);
        readings.find("one");
        let mut file = File::create(&folder.file).expect("it is truncated");
        readings.find("");
        file.write_all(b"half").expect("it is written");
        readings.find("half");
        file.write_all(b" and half").expect("it is written");
        readings.find("half and half");
    }

    #[test]
    fn a_file_that_comes_and_goes_and_comes_again() {
        let folder = Folder::empty();
        let (_reloader, readings) = folder.start(QUICK);
        let missing = text_of(&folder.file);
        readings.find(&missing);
        for text in ["one", "two"] {
            folder.write(text);
            readings.find(text);
            fs::remove_file(&folder.file).expect("it is there");
            readings.find(&missing);
        }
        folder.rename_over("three");
        readings.find("three");
    }

    /// As Kubernetes mounts a `ConfigMap`: the file leads through `..data`, which
    /// is the only thing that is swapped.
    #[test]
    fn a_file_behind_a_link_that_is_swapped() {
        let folder = Folder::empty();
        let swap = |text: &str| {
            let version = format!("..version {text}");
            fs::create_dir(folder.path(&version)).expect("it is made");
            let file = folder.path(&version).join("app.toml");
            fs::write(file, text).expect("it is written");
            let next = folder.path("..data_tmp");
            symlink(&version, &next).expect("it is linked");
            fs::rename(&next, folder.path("..data")).expect("it is swapped");
        };
        swap("one");
        symlink("..data/app.toml", &folder.file).expect("it is linked");
        let (_reloader, readings) = folder.start(QUICK);
        readings.find("one");
        for text in ["two", "three"] {
            swap(text);
            readings.find(text);
        }
    }

    #[test]
    fn a_change_between_the_first_reading_and_what_follows() {
        let folder = Folder::with("one");
        let (file, (found, readings)) = (folder.file.clone(), channel());
        let mut is_first = true;
        let read = move || {
            let text = text_of(&file);
            if is_first {
                fs::write(&file, "two").expect("it is written");
            }
            is_first = false;
            let _ = found.send(text);
        };
        let _reloader = Reloader::start(&folder.file, QUICK, read);
        Readings(readings).find("two");
    }

    #[test]
    fn a_change_while_it_is_read() {
        let folder = Folder::with("one");
        let (file, (found, readings)) = (folder.file.clone(), channel());
        let never = channel::<()>();
        let read = move || {
            let text = text_of(&file);
            if text == "two" {
                fs::write(&file, "three").expect("it is written");
                // The event comes before the reading has ended.
                let _ = never.1.recv_timeout(CHANCE);
            }
            let _ = found.send(text);
        };
        let _reloader = Reloader::start(&folder.file, QUICK, read);
        let readings = Readings(readings);
        readings.find("one");
        folder.write("two");
        readings.find("three");
    }

    #[test]
    fn a_file_that_is_written_all_the_time_now_and_then() {
        let at_most = Duration::from_millis(100);
        let timing = Timing { quiet: NEVER, at_most, anyway: NEVER };
        let folder = Folder::with("");
        let (_reloader, readings) = folder.start(timing);
        readings.next();
        let end = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !end.load(Relaxed) {
                    folder.write("again");
                    thread::yield_now();
                }
            });
            let mut more = (0..3).map(|_| readings.0.recv_timeout(DEADLINE));
            let all_came = more.all(|reading| reading.is_ok());
            end.store(true, Relaxed);
            assert!(all_came, "it has not been read in {DEADLINE:?}");
        });
    }

    #[test]
    fn a_burst_when_it_is_quiet() {
        let folder = Folder::with("one");
        let (reloader, readings) = folder.start(STILL);
        assert_eq!(readings.next(), "one");
        readings.none("a second reading at the start");
        for text in ["two", "three", "four"] {
            folder.write(text);
        }
        readings.none("a reading, and it has not been quiet for an hour");
        reloader.ask();
        assert_eq!(readings.next(), "four", "when somebody asks");
        readings.none("a reading, and nobody has asked again");
    }

    #[test]
    fn what_no_event_has_announced() {
        let anyway = Duration::from_millis(20);
        let timing = Timing { quiet: NEVER, at_most: NEVER, anyway };
        // A link leads to it. That it changes in its folder is not seen in this.
        let (folder, elsewhere) = (Folder::empty(), Folder::with("one"));
        symlink(&elsewhere.file, &folder.file).expect("it is linked");
        let (_reloader, readings) = folder.start(timing);
        readings.find("one");
        elsewhere.write("two");
        readings.find("two");
    }
}

mod stays {
    use super::*;

    #[test]
    fn without_a_folder_there_is_nothing_to_watch() {
        let folder = Folder::with("a file, and no folder");
        for no_folder in [folder.path("no such folder"), folder.file.clone()] {
            let file = no_folder.join("app.toml");
            let started = Reloader::start(&file, QUICK, || {});
            let file = file.strip_prefix(folder.folder.path()).unwrap();
            assert!(started.is_err(), "it has started with {file:?}");
        }
    }

    #[test]
    fn a_name_alone_is_a_file_of_the_working_folder() {
        let (found, readings) = channel();
        let read = move || found.send(()).expect("the test listens");
        // Which is not there: only its folder can be watched.
        let file = Path::new("no such file.toml");
        let started = Reloader::start(file, STILL, read);
        assert!(started.is_ok(), "{:?}", started.err());
        readings.recv_timeout(DEADLINE).expect("it is read");
    }

    #[test]
    fn who_asks_does_not_wait_and_is_answered_by_a_reading_of_his_own() {
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
        let reloader = Reloader::start(&folder.file, STILL, read);
        let reloader = reloader.expect("the folder is there");
        begins.recv_timeout(DEADLINE).expect("the first reading");
        let (asked, has_asked) = channel();
        let asks = thread::spawn(move || {
            reloader.ask();
            let _ = asked.send(());
            reloader
        });
        // Sooner than the reading goes on by itself.
        let returned = has_asked.recv_timeout(DEADLINE / 2);
        assert!(returned.is_ok(), "`ask` waits for a reading");
        go_on.send(()).expect("it waits for that");
        let next = begins.recv_timeout(DEADLINE);
        assert!(next.is_ok(), "it was asked while it read, and does not again");
        go_on.send(()).expect("it waits for that");
        drop(asks.join().expect("it does not panic"));
        assert_eq!(most.load(Relaxed), 1, "readings at the same time");
    }

    #[test]
    fn a_reading_that_panics_is_not_the_last() {
        let folder = Folder::with("one");
        let (file, (found, readings)) = (folder.file.clone(), channel());
        let read = move || {
            let text = text_of(&file);
            let _ = found.send(text.clone());
            assert!(text != "bad", "on purpose: a bug of the reader");
        };
        let reloader = Reloader::start(&folder.file, QUICK, read);
        let _reloader = reloader.expect("the folder is there");
        let readings = Readings(readings);
        readings.find("one");
        for text in ["bad", "two", "bad", "three"] {
            folder.rename_over(text);
            readings.find(text);
        }
    }

    #[test]
    fn when_it_has_been_dropped_nothing_is_read_any_more() {
        let folder = Folder::with("one");
        let held = Arc::new(Mutex::new(()));
        let (begun, begins) = channel();
        let never = channel::<()>();
        let holds = held.clone();
        let read = move || {
            let _held = holds.lock();
            let _ = begun.send(());
            let _ = never.1.recv_timeout(CHANCE);
        };
        let reloader = Reloader::start(&folder.file, QUICK, read);
        begins.recv_timeout(DEADLINE).expect("the first reading");
        let (dropped, is_dropped) = channel();
        thread::spawn(move || {
            drop(reloader);
            let _ = dropped.send(());
        });
        let is_dropped = is_dropped.recv_timeout(DEADLINE);
        assert!(is_dropped.is_ok(), "it is not dropped in {DEADLINE:?}");
        assert_eq!(Arc::strong_count(&held), 1, "who holds what `read` held");
        folder.write("two");
        let more = begins.recv_timeout(CHANCE);
        assert_eq!(more, Err(RecvTimeoutError::Disconnected), "it reads on");
    }
}

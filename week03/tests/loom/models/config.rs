//! Properties that hold for every order in which threads take their locks.
//! shuttle runs the threads.

// In this crate, `std` may mean another crate.
extern crate std as real_std;

use self::real_std::sync::{Arc, Mutex};
use core::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst,
};

use serde::Deserialize;
use shuttle::thread;
use toml::Value;

use crate::common::shuffle_threads;
use crate::config::{Config, Snapshot, Subscription};
use crate::layers::{Error, Layer};

#[derive(Debug, PartialEq, Deserialize)]
struct Number {
    n: u64,
}

/// Creates a configuration of one layer that contains one number. Reading the
/// layer lets other threads run.
fn config(number: impl Fn() -> u64 + Send + Sync + 'static) -> Config<Number> {
    let layer = Layer::new("number", move || {
        let n = number().cast_signed();
        thread::yield_now();
        Ok([("n".to_owned(), Value::Integer(n))].into_iter().collect())
    });
    Config::new(vec![layer], |_| Ok(())).expect("valid settings were rejected")
}

/// Creates a configuration with a new number at each reload.
fn counting_config() -> Config<Number> {
    let number = AtomicU64::new(0);
    config(move || number.fetch_add(1, SeqCst))
}

fn version(config: &Config<Number>) -> u64 {
    config.snapshot().version
}

fn reload(config: &Config<Number>) {
    config.reload().expect("valid settings were rejected");
}

/// Runs `reload` in `threads` threads at the same time, at least two.
fn reload_in(threads: usize, config: &Config<Number>) {
    let reloads = [config; 2].map(|config| {
        let config = config.clone();
        thread::spawn(move || reload(&config))
    });
    for _ in 2..threads {
        reload(config);
    }
    for thread in reloads {
        thread.join().unwrap();
    }
}

/// The calls of an observer, as `[old, new]` versions.
///
/// The observer sets flags instead of asserting: `reload` catches its panics.
#[derive(Clone, Default)]
struct Log {
    calls: Arc<Mutex<Vec<[u64; 2]>>>,
    is_called: Arc<AtomicBool>,
    overlaps: Arc<AtomicBool>,
    is_early: Arc<AtomicBool>,
}

impl Log {
    /// Subscribes an observer that lets other threads run during its calls.
    fn subscribe(config: &Config<Number>) -> (Self, Subscription) {
        let log = Self::default();
        let (records, reads) = (log.clone(), config.clone());
        let subscription = config.subscribe(move |old, new| {
            let is_early = version(&reads) < new.version;
            records.is_early.fetch_or(is_early, SeqCst);
            let overlaps = records.is_called.swap(true, SeqCst);
            records.overlaps.fetch_or(overlaps, SeqCst);
            thread::yield_now();
            records.add(old, new);
            records.is_called.store(false, SeqCst);
        });
        (log, subscription)
    }

    fn add(&self, old: &Snapshot<Number>, new: &Snapshot<Number>) {
        self.calls.lock().unwrap().push([old.version, new.version]);
    }

    fn calls(&self) -> Vec<[u64; 2]> {
        let calls = self.calls.lock().unwrap().clone();
        let overlaps = self.overlaps.load(SeqCst);
        assert!(!overlaps, "two calls of an observer overlap: {calls:?}");
        let is_early = self.is_early.load(SeqCst);
        assert!(
            !is_early,
            "an observer was called before its change was published: {calls:?}"
        );
        calls
    }
}

/// Returns all changes in order, from version 1 to `last`.
fn changes(last: u64) -> Vec<[u64; 2]> {
    (1..last).map(|version| [version, version + 1]).collect()
}

#[test]
fn the_code_imports_the_locks_that_shuttle_can_model_check() {
    shuffle_threads(|| {
        let layer = Layer::new("number", || Ok("n = 1".parse()?));
        let config = Config::<Number>::new(vec![layer], |_| Ok(()));
        let config = config.expect("valid settings were rejected");
        let before = shuttle::current::context_switches();
        reload(&config);
        let steps = shuttle::current::context_switches() - before;
        assert!(
            steps > 0,
            "shuttle sees no lock in `reload`: import it from `shuttle_locks`"
        );
    });
}

#[test]
fn all_changes_have_been_delivered_by_the_time_the_last_reload_returns() {
    shuffle_threads(|| {
        let config = counting_config();
        let (log, _subscription) = Log::subscribe(&config);
        reload_in(2, &config);
        assert_eq!(
            log.calls(),
            changes(version(&config)),
            "calls of the observer after all reloads, as [old, new]"
        );
    });
}

#[test]
fn changes_of_concurrent_reloads_are_delivered_in_version_order() {
    shuffle_threads(|| {
        let config = counting_config();
        let (log, _subscription) = Log::subscribe(&config);
        reload_in(3, &config);
        assert_eq!(
            log.calls(),
            changes(version(&config)),
            "calls of the observer after all reloads, as [old, new]"
        );
    });
}

#[test]
fn an_observer_subscribed_during_a_reload_gets_only_later_changes() {
    shuffle_threads(|| {
        let config = counting_config();
        let reloads = thread::spawn({
            let config = config.clone();
            move || reload(&config)
        });
        let before = version(&config);
        let (log, _subscription) = Log::subscribe(&config);
        let after = version(&config);
        reloads.join().unwrap();
        let calls = log.calls();
        for [_, new] in &calls {
            assert!(
                *new > before,
                "an observer subscribed after version {before} was called for \
                 version {new}"
            );
        }
        for new in after + 1..=version(&config) {
            assert!(
                calls.contains(&[new - 1, new]),
                "version {new} was published after `subscribe` and is missing \
                 in the calls {calls:?}"
            );
        }
    });
}

#[test]
fn a_version_whose_read_began_before_subscribe_is_not_delivered() {
    shuffle_threads(|| {
        let config = counting_config();
        let reloads = thread::spawn({
            let config = config.clone();
            move || reload(&config)
        });
        while version(&config) == 1 {
            thread::yield_now();
        }
        let (log, _subscription) = Log::subscribe(&config);
        reloads.join().unwrap();
        let calls = log.calls();
        assert!(
            calls.is_empty(),
            "version 2 was read before `subscribe`, and delivered: {calls:?}"
        );
    });
}

#[test]
fn edits_made_before_reload_is_called_are_in_the_snapshot_after_it() {
    shuffle_threads(|| {
        let content = Arc::new(AtomicU64::new(0));
        let reads = content.clone();
        let config = config(move || reads.load(SeqCst));
        let writers = [config.clone(), config].map(|config| {
            let content = content.clone();
            thread::spawn(move || {
                let least = content.fetch_add(1, SeqCst) + 1;
                reload(&config);
                let now = config.snapshot();
                let later = version(&config);
                let seen = now.version;
                assert!(later >= seen, "version {later} was read after {seen}");
                let n = now.value.n;
                assert!(
                    n >= least,
                    "expected {least} or more after `reload`, got {n}"
                );
            })
        });
        for writer in writers {
            writer.join().unwrap();
        }
    });
}

/// What a read of the layer finds.
#[derive(Debug, Clone, Copy)]
enum Found {
    NewNumber,
    SameNumber,
    Error,
}

/// Runs three reloads at the same time. Each schedule has another sequence of
/// `Found`.
#[test]
fn each_reload_returns_its_own_result_and_the_last_one_sets_last_error() {
    let schedules = AtomicUsize::new(0);
    shuffle_threads(move || {
        let mut sequence = schedules.fetch_add(1, SeqCst);
        let script = [(); 3].map(|()| {
            let found = [Found::NewNumber, Found::SameNumber, Found::Error];
            let next = found[sequence % 3];
            sequence /= 3;
            next
        });
        // The results of the reads so far, in order. The first one is of `new`.
        let reads = Arc::new(Mutex::new(vec![Ok(0)]));
        let results = reads.clone();
        let is_new = AtomicBool::new(true);
        let layer = Layer::new("number", move || {
            if is_new.swap(false, SeqCst) {
                return Ok("n = 0".parse()?);
            }
            thread::yield_now();
            let mut results = results.lock().unwrap();
            let number = results.len();
            let last = results.iter().rev().find_map(|read| read.ok());
            let read = match script[(number - 1) % 3] {
                Found::NewNumber => Ok(number),
                Found::SameNumber => Ok(last.expect("`new` succeeds")),
                Found::Error => Err(number),
            };
            results.push(read);
            drop(results);
            thread::yield_now();
            match read {
                Ok(n) => Ok(format!("n = {n}").parse()?),
                Err(number) => Err(number.to_string().into()),
            }
        });
        let config = Config::<Number>::new(vec![layer], |_| Ok(()));
        let config = config.expect("valid settings were rejected");
        let reloads = [(); 3].map(|()| {
            let config = config.clone();
            thread::spawn(move || match config.reload() {
                Ok(now) => Ok(usize::try_from(now.value.n).unwrap()),
                Err(error) => Err(number_of(&error)),
            })
        });
        let mut returned: Vec<_> =
            reloads.into_iter().map(|it| it.join().unwrap()).collect();
        let mut reads = reads.lock().unwrap().split_off(1);
        let last = reads.last().copied();
        let last_error = config.last_error().map(|error| number_of(&error));
        assert_eq!(
            last_error,
            last.and_then(Result::err),
            "`last_error` after these reads: {reads:?}"
        );
        returned.sort_unstable();
        reads.sort_unstable();
        assert_eq!(
            returned, reads,
            "the results of reloads, and of their reads"
        );
    });
}

#[test]
fn last_error_is_cleared_when_a_new_version_can_be_read() {
    shuffle_threads(|| {
        let reads = AtomicU64::new(0);
        let layer =
            Layer::new("number", move || match reads.fetch_add(1, SeqCst) {
                1 => Err("the second read fails".into()),
                n => Ok(format!("n = {n}").parse()?),
            });
        let config = Config::<Number>::new(vec![layer], |_| Ok(()));
        let config = config.expect("valid settings were rejected");
        assert!(config.reload().is_err(), "expected the first reload to fail");
        let reloads = thread::spawn({
            let config = config.clone();
            move || reload(&config)
        });
        while version(&config) == 1 {
            thread::yield_now();
        }
        let error = config.last_error().map(|error| error.to_string());
        assert_eq!(error, None, "`last_error` after version 2 was read");
        reloads.join().unwrap();
    });
}

/// Returns the number of the read that failed with `error`.
fn number_of(error: &Error) -> usize {
    match error {
        Error::Layer { source, .. } => source.to_string().parse().unwrap(),
        other => panic!("expected an error of the layer, but saw {other:?}"),
    }
}

#[test]
fn at_most_one_call_continues_after_a_subscription_is_dropped() {
    shuffle_threads(|| {
        let config = counting_config();
        let is_dropped = Arc::new(AtomicBool::new(false));
        let (calls, reads) = (Arc::new(AtomicU64::new(0)), is_dropped.clone());
        let counts = calls.clone();
        let subscription = config.subscribe(move |_, _| {
            counts.fetch_add(reads.load(SeqCst).into(), SeqCst);
            thread::yield_now();
        });
        let reloads = thread::spawn({
            let config = config.clone();
            move || reload_in(3, &config)
        });
        thread::yield_now();
        drop(subscription);
        is_dropped.store(true, SeqCst);
        reloads.join().unwrap();
        let calls = calls.load(SeqCst);
        assert!(
            calls <= 1,
            "{calls} calls began after the drop: expected 0 or 1"
        );
    });
}

#[test]
fn a_change_published_by_an_observer_is_delivered_too() {
    shuffle_threads(|| {
        let config = counting_config();
        let (log, _subscription) = Log::subscribe(&config);
        let nested = config.clone();
        let _nested = config.subscribe(move |_, new| {
            if new.version == 2 {
                reload(&nested);
            }
        });
        reload_in(2, &config);
        assert_eq!(
            log.calls(),
            changes(version(&config)),
            "calls of the observer after all reloads, as [old, new]"
        );
    });
}

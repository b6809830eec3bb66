//! Properties that hold for every order in which threads take their locks.
//! shuttle runs the threads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use serde::Deserialize;
use shuttle::thread;
use toml::Value;

use crate::common::shuffle_threads;
use crate::config::{Config, Snapshot, Subscription};
use crate::layers::Layer;

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

#[test]
fn last_error_belongs_to_the_reload_that_read_its_layers_last() {
    for threads in [2, 3] {
        shuffle_threads(move || {
            let reads = Arc::new(AtomicU64::new(0));
            let counts = reads.clone();
            let layer = Layer::new("number", move || {
                thread::yield_now();
                let n = counts.fetch_add(1, SeqCst);
                thread::yield_now();
                match n % 2 {
                    0 => Ok(format!("n = {n}").parse()?),
                    _ => Err("odd".into()),
                }
            });
            let config = Config::<Number>::new(vec![layer], |_| Ok(()));
            let config = config.expect("valid settings were rejected");
            let reload = |config: &Config<Number>| drop(config.reload());
            let reloads = [(); 2].map(|()| {
                let config = config.clone();
                thread::spawn(move || reload(&config))
            });
            if threads == 3 {
                reload(&config);
            }
            for thread in reloads {
                thread.join().unwrap();
            }
            let last = reads.load(SeqCst) - 1;
            let (fails, error) = (last % 2 == 1, config.last_error());
            assert_eq!(
                error.is_some(),
                fails,
                "whether `last_error` is set: read {last} was the last one"
            );
        });
    }
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

//! What holds in whichever order threads come to their locks. shuttle runs them.

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

/// A layer that says one number at each time, and takes a moment to say it.
fn config(number: impl Fn() -> u64 + Send + Sync + 'static) -> Config<Number> {
    let layer = Layer::new("number", move || {
        let n = number().cast_signed();
        thread::yield_now();
        Ok([("n".to_owned(), Value::Integer(n))].into_iter().collect())
    });
    Config::new(vec![layer], |_| Ok(())).expect("it is a number")
}

/// Another number at each reload.
fn numbers() -> Config<Number> {
    let number = AtomicU64::new(0);
    config(move || number.fetch_add(1, SeqCst))
}

fn version(config: &Config<Number>) -> u64 {
    config.snapshot().version
}

fn reload(config: &Config<Number>) {
    config.reload().expect("it is a number");
}

/// Runs `reload` in so many threads at a time.
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

/// What an observer has been told. What it panics with, nobody would hear.
#[derive(Clone, Default)]
struct Log {
    told: Arc<Mutex<Vec<[u64; 2]>>>,
    is_telling: Arc<AtomicBool>,
    met: Arc<AtomicBool>,
    is_early: Arc<AtomicBool>,
}

impl Log {
    /// An observer that takes a moment.
    fn of(config: &Config<Number>) -> (Self, Subscription) {
        let log = Self::default();
        let (tells, reads) = (log.clone(), config.clone());
        let subscription = config.subscribe(move |old, new| {
            let is_early = version(&reads) < new.version;
            tells.is_early.fetch_or(is_early, SeqCst);
            let others = tells.is_telling.swap(true, SeqCst);
            tells.met.fetch_or(others, SeqCst);
            thread::yield_now();
            tells.add(old, new);
            tells.is_telling.store(false, SeqCst);
        });
        (log, subscription)
    }

    fn add(&self, old: &Snapshot<Number>, new: &Snapshot<Number>) {
        self.told.lock().unwrap().push([old.version, new.version]);
    }

    fn told(&self) -> Vec<[u64; 2]> {
        assert!(!self.met.load(SeqCst), "two changes are told at a time");
        let is_early = self.is_early.load(SeqCst);
        assert!(!is_early, "a change is told before it is published");
        self.told.lock().unwrap().clone()
    }
}

/// One change after the other, up to `last`.
fn changes(last: u64) -> Vec<[u64; 2]> {
    (1..last).map(|version| [version, version + 1]).collect()
}

#[test]
fn locks_are_of_the_module_that_the_stub_names() {
    shuffle_threads(|| {
        let layer = Layer::new("number", || Ok("n = 1".parse()?));
        let config = Config::<Number>::new(vec![layer], |_| Ok(()));
        let config = config.expect("it is a number");
        let before = shuttle::current::context_switches();
        reload(&config);
        let steps = shuttle::current::context_switches() - before;
        assert!(steps > 0, "shuttle sees no lock in `reload`");
    });
}

#[test]
fn no_change_is_left_untold_by_those_who_return() {
    shuffle_threads(|| {
        let config = numbers();
        let (log, _subscription) = Log::of(&config);
        reload_in(2, &config);
        assert_eq!(log.told(), changes(version(&config)));
    });
}

#[test]
fn changes_are_told_one_after_the_other() {
    shuffle_threads(|| {
        let config = numbers();
        let (log, _subscription) = Log::of(&config);
        reload_in(3, &config);
        assert_eq!(log.told(), changes(version(&config)));
    });
}

#[test]
fn who_subscribes_is_told_of_what_comes_and_not_of_what_was_there() {
    shuffle_threads(|| {
        let config = numbers();
        let reloads = thread::spawn({
            let config = config.clone();
            move || reload(&config)
        });
        let before = version(&config);
        let (log, _subscription) = Log::of(&config);
        let after = version(&config);
        reloads.join().unwrap();
        let told = log.told();
        for [_, new] in &told {
            assert!(*new > before, "told of {new}, and had seen {before}");
        }
        for new in after + 1..=version(&config) {
            let is_told = told.contains(&[new - 1, new]);
            assert!(is_told, "{new} came after `subscribe`: {told:?}");
        }
    });
}

#[test]
fn who_has_seen_a_version_and_then_subscribes_is_not_told_of_it() {
    shuffle_threads(|| {
        let config = numbers();
        let reloads = thread::spawn({
            let config = config.clone();
            move || reload(&config)
        });
        while version(&config) == 1 {
            thread::yield_now();
        }
        let (log, _subscription) = Log::of(&config);
        reloads.join().unwrap();
        assert_eq!(log.told().len(), 0, "it has seen version 2");
    });
}

#[test]
fn the_snapshot_is_no_older_than_what_the_layers_said() {
    shuffle_threads(|| {
        let says = Arc::new(AtomicU64::new(0));
        let reads = says.clone();
        let config = config(move || reads.load(SeqCst));
        let writers = [config.clone(), config].map(|config| {
            let says = says.clone();
            thread::spawn(move || {
                let least = says.fetch_add(1, SeqCst) + 1;
                reload(&config);
                let now = config.snapshot();
                let n = now.value.n;
                assert!(n >= least, "it says {n}, and {least} was there");
            })
        });
        for writer in writers {
            writer.join().unwrap();
        }
    });
}

#[test]
fn the_last_error_is_of_the_latest_reload() {
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
            let config = config.expect("0 is even");
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
            assert_eq!(error.is_some(), fails, "{last} was read last");
        });
    }
}

#[test]
fn what_an_observer_publishes_is_told_as_well() {
    shuffle_threads(|| {
        let config = numbers();
        let (log, _subscription) = Log::of(&config);
        let nested = config.clone();
        let _nested = config.subscribe(move |_, new| {
            if new.version == 2 {
                reload(&nested);
            }
        });
        reload_in(2, &config);
        assert_eq!(log.told(), changes(version(&config)));
    });
}

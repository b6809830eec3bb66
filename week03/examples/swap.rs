//! Keeps a guard while a configuration is replaced: with hazard pointers, with epochs, and with a lock.
//!
//! ```console
//! $ cargo run -p week03 --example swap
//! ```

use std::sync::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, Barrier, RwLock};
use std::time::{Duration, Instant};
use std::{io, thread};

use lab::guess;
use week03::epoch;
use week03::swap::Swap;

const STORES: usize = 10_000;

/// The time for which a slow request keeps its guard.
const GUARD_TIME: Duration = Duration::from_millis(300);

/// The number of configurations that are created and not dropped.
static ALIVE: AtomicUsize = AtomicUsize::new(0);

/// All numbers are equal, unless a reader sees a torn value.
struct Config {
    numbers: [usize; 64],
}

impl Config {
    fn new(number: usize) -> Self {
        ALIVE.fetch_add(1, Relaxed);
        Self { numbers: [number; 64] }
    }

    fn is_torn(&self) -> bool {
        self.numbers.iter().any(|number| *number != self.numbers[0])
    }
}

impl Drop for Config {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Relaxed);
        // A reader that reads a dropped value sees it as torn.
        self.numbers[32] = usize::MAX;
    }
}

fn main() -> io::Result<()> {
    let config = Swap::new(Config::new(0), 3);
    let mut reader = config.reader().expect("one of three");
    let kept = reader.load();

    println!(
        "Hazard pointers: two threads load a configuration as fast as they \
         can, while it is\nreplaced {STORES} times. A third reader loaded a \
         guard before that, and keeps it."
    );
    let guess = guess::ask(
        "\nHow many configurations are in memory after the last store?",
    )?;
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let mut reader = config.reader().expect("one of three");
            let done = Arc::clone(&done);
            thread::spawn(move || {
                let (mut loads, mut torn, mut seen) = (0_u64, 0, 0);
                let mut last = usize::MAX;
                while !done.load(Acquire) {
                    let config = reader.load();
                    torn += usize::from(config.is_torn());
                    seen += usize::from(config.numbers[0] != last);
                    last = config.numbers[0];
                    loads += 1;
                }
                (loads, torn, seen)
            })
        })
        .collect();
    let start = Instant::now();
    for number in 1..=STORES {
        config.store(Config::new(number));
        // A store every few microseconds is plenty, and lets others run.
        thread::yield_now();
    }
    let took = start.elapsed();
    done.store(true, Release);
    let results: Vec<_> =
        readers.into_iter().map(|reader| reader.join()).collect();
    // This store frees the values that the two readers loaded last.
    config.store(Config::new(STORES));
    let alive = ALIVE.load(Relaxed);
    println!(
        "{alive}: the configuration that the guard shows, and the current \
         one.{}",
        guess::remark(guess.as_deref(), alive)
    );
    for result in results {
        let (loads, torn, seen) = result.expect("a reader does not panic");
        println!(
            "A reader: {:.1} million loads per second, {seen} configurations \
             seen, {torn} torn.",
            loads as f64 / took.as_secs_f64() / 1e6
        );
    }
    assert_eq!(kept.numbers[0], 0, "the guard still shows configuration 0");
    drop(kept);

    println!("\nEpochs: a guard is kept during 1000 stores.");
    let guess = guess::ask(
        "How many configurations are in memory after the last store?",
    )?;
    let before = ALIVE.load(Relaxed);
    let by_epochs = epoch::Swap::new(Config::new(0));
    let idle = by_epochs.reader();
    let kept = idle.load();
    for number in 1..=1000 {
        by_epochs.store(Config::new(number));
    }
    let alive = ALIVE.load(Relaxed) - before;
    println!(
        "{alive}: an epoch guard keeps every value that is replaced after \
         the guard began.{}",
        guess::remark(guess.as_deref(), alive)
    );
    assert_eq!(kept.numbers[0], 0, "the guard still shows configuration 0");
    drop(kept);

    println!(
        "\nA request keeps its guard for {} ms. Meanwhile, another thread \
         stores.",
        GUARD_TIME.as_millis()
    );
    let guess =
        guess::ask("How many milliseconds does the store take with a lock?")?;
    let locked = RwLock::new(Config::new(0));
    let wait = time_store_while_kept(
        |ready| {
            let _guard = locked.read().expect("not poisoned");
            ready.wait();
            slow_query();
        },
        || *locked.write().expect("not poisoned") = Config::new(1),
    );
    println!(
        "With an RwLock: {} ms.{}",
        wait.as_millis(),
        guess::remark(guess.as_deref(), wait.as_millis())
    );
    let wait = time_store_while_kept(
        |ready| {
            let _guard = reader.load();
            ready.wait();
            slow_query();
        },
        || config.store(Config::new(1)),
    );
    println!("With a Swap: {:.3} ms.", wait.as_secs_f64() * 1e3);
    Ok(())
}

/// Returns the time that `store` takes while another thread runs `keep`, which
/// waits on the barrier once it has its guard.
fn time_store_while_kept(
    keep: impl FnOnce(&Barrier) + Send,
    store: impl FnOnce(),
) -> Duration {
    let ready = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| keep(&ready));
        ready.wait();
        let start = Instant::now();
        store();
        start.elapsed()
    })
}

#[allow(clippy::disallowed_methods, reason = "stands for a slow query")]
fn slow_query() {
    thread::sleep(GUARD_TIME);
}

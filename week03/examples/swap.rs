//! A configuration is replaced ten thousand times while one guard is kept: by hazard pointers, by epochs, behind a lock.
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

/// How long a request keeps its guard.
const KEPT: Duration = Duration::from_millis(300);

/// Values that have been made and not dropped.
static ALIVE: AtomicUsize = AtomicUsize::new(0);

/// Every number in it is the same, or it is torn.
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
        // What reads it now reads something else.
        self.numbers[32] = usize::MAX;
    }
}

fn main() -> io::Result<()> {
    let config = Swap::new(Config::new(0), 3);
    let mut reader = config.reader().expect("one of three");
    let kept = reader.load();

    println!(
        "Two threads read a configuration as fast as they can. It is replaced \
         {STORES} times.\nA third reader has taken a guard before that, and \
         keeps it."
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
    let ended: Vec<_> =
        readers.into_iter().map(|reader| reader.join()).collect();
    // What the two readers looked at last.
    config.store(Config::new(STORES));
    let alive = ALIVE.load(Relaxed);
    println!(
        "{alive}: the one that is kept, and the current one.{}",
        guess::remark(guess.as_deref(), alive)
    );
    for ended in ended {
        let (loads, torn, seen) = ended.expect("a reader does not panic");
        println!(
            "A reader: {:.1} million loads a second, {seen} of the \
             configurations, {torn} torn.",
            loads as f64 / took.as_secs_f64() / 1e6
        );
    }
    assert_eq!(kept.numbers[0], 0, "the guard shows what it showed");
    drop(kept);

    println!("\nBy epochs, a guard is kept beside 1000 stores.");
    let guess = guess::ask(
        "How many configurations are in memory after the last one?",
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
        "{alive}: it says when it began, and not what it reads.{}",
        guess::remark(guess.as_deref(), alive)
    );
    assert_eq!(kept.numbers[0], 0, "the guard shows what it showed");
    drop(kept);

    println!(
        "\nA request keeps its guard for {} ms, and meanwhile there is a store.",
        KEPT.as_millis()
    );
    let guess =
        guess::ask("How many milliseconds does the store take, with a lock?")?;
    let locked = RwLock::new(Config::new(0));
    let wait = store_while_kept(
        |kept| {
            let _kept = locked.read().expect("not poisoned");
            kept.wait();
            slow_query();
        },
        || *locked.write().expect("not poisoned") = Config::new(1),
    );
    println!(
        "RwLock: {} ms.{}",
        wait.as_millis(),
        guess::remark(guess.as_deref(), wait.as_millis())
    );
    let wait = store_while_kept(
        |kept| {
            let _kept = reader.load();
            kept.wait();
            slow_query();
        },
        || config.store(Config::new(1)),
    );
    println!("Swap: {:.3} ms.", wait.as_secs_f64() * 1e3);
    Ok(())
}

/// How long `store` takes, once another thread has begun to keep the value.
fn store_while_kept(
    keep: impl FnOnce(&Barrier) + Send,
    store: impl FnOnce(),
) -> Duration {
    let kept = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| keep(&kept));
        kept.wait();
        let start = Instant::now();
        store();
        start.elapsed()
    })
}

#[allow(clippy::disallowed_methods, reason = "somebody else takes this long")]
fn slow_query() {
    thread::sleep(KEPT);
}

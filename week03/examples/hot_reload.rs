//! A file is edited 300 times while threads read its settings: versions seen, reads, and torn reads.
//!
//! ```console
//! $ cargo run -p week03 --example hot_reload
//! ```

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use lab::guess;
use serde::Deserialize;
use week03::config::{Config, Snapshot};
use week03::layers::{Cause, Layer};
use week03::reload::{Reloader, Timing};

const EDITS: u64 = 300;

const READERS: usize = 2;

/// Between two edits, most of the time. Every tenth edit is left alone longer.
const PAUSE: Duration = Duration::from_millis(1);

const TIMING: Timing = Timing {
    quiet: Duration::from_millis(5),
    at_most: Duration::from_millis(50),
    anyway: Duration::from_secs(30),
};

/// All of them are the same number, in every version.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    limits: [u64; LIMITS],
    workers: u32,
}

const LIMITS: usize = 8;

fn validate(settings: &Settings) -> Result<(), Cause> {
    if settings.workers == 0 { Err("no workers".into()) } else { Ok(()) }
}

/// The same numbers one by one, as they are kept where each setting has a
/// variable of its own.
#[derive(Debug, Default)]
struct Loose([AtomicU64; LIMITS]);

/// What one thread has read.
#[derive(Debug, Default)]
struct Reads {
    all: u64,
    versions: u64,
    torn: u64,
    torn_loose: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("app.toml");
    fs::write(&file, text(0))?;
    let (config, _reloader) = open(&file)?;

    println!(
        "A file is edited {EDITS} times, in place, in two pieces and by renaming, \
         most of the\ntimes {} ms after the edit before. It is read when it has \
         been quiet for {} ms,\nand {} ms after the first event at the latest. \
         {READERS} threads read the settings.",
        PAUSE.as_millis(),
        TIMING.quiet.as_millis(),
        TIMING.at_most.as_millis(),
    );
    let guess = guess::ask("\nHow many versions are published?")?;
    let told = Arc::new(AtomicU64::new(0));
    let loose = Arc::new(Loose::default());
    let _subscription = observe(&config, &told, &loose);
    let start = Instant::now();
    let reads = read_while(&config, &loose, || edit(&file, &config))?;
    let seconds = start.elapsed().as_secs_f64();
    let last = config.snapshot();
    let versions = last.version - 1;
    // It is published first, and told then.
    wait(|| told.load(Relaxed) == versions)?;
    println!(
        "{versions} versions after the first, and an observer was told {} times.{}",
        told.load(Relaxed),
        guess::remark(guess.as_deref(), versions)
    );
    println!(
        "The last one says {}, as the file does after edit {EDITS}.",
        last.value.limits[0]
    );
    let all: u64 = reads.iter().map(|reads| reads.all).sum();
    let most = reads.iter().map(|reads| reads.versions).max();
    #[expect(clippy::cast_precision_loss, reason = "it is printed in millions")]
    let rate = all as f64 / seconds / 1e6;
    println!(
        "{all} reads, {rate:.1} million a second in this build. One thread has \
         seen {} of them.",
        most.unwrap_or(0)
    );
    let torn: u64 = reads.iter().map(|reads| reads.torn).sum();
    let loose: u64 = reads.iter().map(|reads| reads.torn_loose).sum();
    println!(
        "Torn reads: {torn} of a snapshot, and {loose} of the same numbers in \
         {LIMITS} variables."
    );

    println!("\nThen somebody saves half a line.");
    fs::write(&file, "limits = [1, 2")?;
    wait(|| config.last_error().is_some())?;
    say(&config);
    println!("And corrects it, but for the number of workers.");
    fs::write(&file, text(EDITS).replace("workers = 4", "workers = 0"))?;
    wait(|| {
        let error = config.last_error();
        error.is_some_and(|error| error.to_string().contains("valid"))
    })?;
    say(&config);
    println!("And that, too: it is what it was, and no new version.");
    fs::write(&file, text(EDITS))?;
    wait(|| config.last_error().is_none())?;
    say(&config);
    Ok(())
}

fn text(number: u64) -> String {
    format!("limits = {:?}\nworkers = 4\n", [number; LIMITS])
}

/// A configuration of one file, and what reads it again.
fn open(file: &Path) -> Result<(Config<Settings>, Reloader), Box<dyn Error>> {
    let path = file.to_owned();
    let read = move || Ok(fs::read_to_string(&path)?.parse()?);
    let config = Config::new(vec![Layer::new("file", read)], validate)?;
    let reloads = config.clone();
    // An error stays with the configuration, for whoever asks.
    let again = move || drop(reloads.reload());
    let reloader = Reloader::start(file, TIMING, again)?;
    Ok((config, reloader))
}

fn observe(
    config: &Config<Settings>,
    told: &Arc<AtomicU64>,
    loose: &Arc<Loose>,
) -> impl Sized + use<> {
    let (told, loose) = (Arc::clone(told), Arc::clone(loose));
    config.subscribe(move |_, new: &Snapshot<Settings>| {
        told.fetch_add(1, Relaxed);
        for (variable, number) in loose.0.iter().zip(new.value.limits) {
            variable.store(number, Relaxed);
        }
    })
}

/// Edits the file in three ways, and waits until the last one has arrived.
fn edit(file: &Path, config: &Config<Settings>) -> io::Result<()> {
    for number in 1..=EDITS {
        let text = text(number);
        match number % 3 {
            0 => fs::write(file, text)?,
            1 => {
                let beside = file.with_extension("new");
                fs::write(&beside, text)?;
                fs::rename(beside, file)?;
            }
            _ => {
                let (one, other) = text.split_at(text.len() / 2);
                let mut file = File::create(file)?;
                file.write_all(one.as_bytes())?;
                pause(1);
                file.write_all(other.as_bytes())?;
            }
        }
        let rest = if number % 10 == 0 { 20 } else { 1 };
        pause(rest);
    }
    wait(|| config.snapshot().value.limits[0] == EDITS)
}

/// Reads as fast as one can, until `edit` has ended.
fn read_while(
    config: &Config<Settings>,
    loose: &Loose,
    edit: impl FnOnce() -> io::Result<()>,
) -> io::Result<Vec<Reads>> {
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = || {
            let mut reads = Reads::default();
            let mut version = config.snapshot().version;
            while !end.load(Relaxed) {
                let now = config.snapshot();
                let limits = now.value.limits;
                let numbers = loose.0.each_ref().map(|it| it.load(Relaxed));
                reads.all += 1;
                reads.versions += u64::from(now.version != version);
                reads.torn += u64::from(is_torn(&limits));
                reads.torn_loose += u64::from(is_torn(&numbers));
                version = now.version;
            }
            reads
        };
        let threads: Vec<_> =
            (0..READERS).map(|_| scope.spawn(reader)).collect();
        let edited = edit();
        end.store(true, Relaxed);
        let reads = threads.into_iter().map(|thread| thread.join());
        let reads = reads.map(|reads| reads.expect("readers do not panic"));
        let reads = reads.collect();
        edited.map(|()| reads)
    })
}

fn is_torn(numbers: &[u64; LIMITS]) -> bool {
    numbers.iter().any(|number| *number != numbers[0])
}

/// Waits until something has happened, but not for ever.
fn wait(has_happened: impl Fn() -> bool) -> io::Result<()> {
    let start = Instant::now();
    while !has_happened() {
        if start.elapsed() > Duration::from_secs(20) {
            return Err(io::Error::other("it has not been read in 20 s"));
        }
        pause(1);
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "whoever edits takes his time")]
fn pause(times: u32) {
    thread::sleep(times * PAUSE);
}

fn say(config: &Config<Settings>) {
    let now = config.snapshot();
    println!("   version {}, workers: {}", now.version, now.value.workers);
    if let Some(error) = config.last_error() {
        println!("   error: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            println!("      by: {}", text.trim().replace('\n', "\n          "));
            cause = error.source();
        }
    }
}

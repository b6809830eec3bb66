//! Edits a config file 300 times while threads read it: versions and torn reads.
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
use week03::reload::{Debounce, Reloader};

const EDITS: u64 = 300;

const READERS: usize = 2;

/// The time between most edits. After every tenth edit it is longer.
const PAUSE: Duration = Duration::from_millis(1);

const DEBOUNCE: Debounce = Debounce {
    quiet: Duration::from_millis(5),
    max_delay: Duration::from_millis(50),
    max_interval: Duration::from_secs(30),
};

/// In every version, all `limits` are the same number.
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

/// The same numbers in separate variables, one for each setting.
#[derive(Debug, Default)]
struct Variables([AtomicU64; LIMITS]);

/// The counts of one reading thread.
#[derive(Debug, Default)]
struct Reads {
    all: u64,
    versions: u64,
    torn: u64,
    torn_variables: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("app.toml");
    fs::write(&file, text(0))?;
    let (config, _reloader) = open(&file)?;

    println!(
        "A file is edited {EDITS} times: in place, in two pieces, and by renaming. \
         Most edits\ncome {} ms after the edit before. The file is read after \
         {} ms without an event,\nand at most {} ms after the first event. \
         Meanwhile {READERS} threads read the settings.",
        PAUSE.as_millis(),
        DEBOUNCE.quiet.as_millis(),
        DEBOUNCE.max_delay.as_millis(),
    );
    let guess = guess::ask("\nHow many new versions are published?")?;
    let calls = Arc::new(AtomicU64::new(0));
    let variables = Arc::new(Variables::default());
    let _subscription = subscribe(&config, &calls, &variables);
    let start = Instant::now();
    let reads = read_while(&config, &variables, || edit(&file, &config))?;
    let seconds = start.elapsed().as_secs_f64();
    let last = config.snapshot();
    let versions = last.version - 1;
    // A version is published first. Then the subscriber is called.
    wait(|| calls.load(Relaxed) == versions)?;
    println!(
        "{versions} versions after the first. The subscriber was called {} times.{}",
        calls.load(Relaxed),
        guess::remark(guess.as_deref(), versions)
    );
    println!(
        "The limits of the last version are {}, as in the file after edit {EDITS}.",
        last.value.limits[0]
    );
    let all: u64 = reads.iter().map(|reads| reads.all).sum();
    let most = reads.iter().map(|reads| reads.versions).max();
    #[expect(
        clippy::cast_precision_loss,
        reason = "the rate is printed in millions"
    )]
    let rate = all as f64 / seconds / 1e6;
    println!(
        "{all} reads, {rate:.1} million per second in this build. One thread \
         has seen {} versions.",
        most.unwrap_or(0)
    );
    let torn: u64 = reads.iter().map(|reads| reads.torn).sum();
    let torn_variables: u64 =
        reads.iter().map(|reads| reads.torn_variables).sum();
    println!(
        "Torn reads: {torn} of snapshots, and {torn_variables} of the same \
         numbers in {LIMITS} separate variables."
    );

    println!("\nAn edit saves half a line.");
    fs::write(&file, "limits = [1, 2")?;
    wait(|| config.last_error().is_some())?;
    print_state(&config);
    println!(
        "The next edit completes it, but sets the number of workers to 0."
    );
    fs::write(&file, text(EDITS).replace("workers = 4", "workers = 0"))?;
    wait(|| {
        let error = config.last_error();
        error.is_some_and(|error| error.to_string().contains("valid"))
    })?;
    print_state(&config);
    println!(
        "The last edit restores the settings. They are unchanged, so there is no \
         new version."
    );
    fs::write(&file, text(EDITS))?;
    wait(|| config.last_error().is_none())?;
    print_state(&config);
    Ok(())
}

fn text(number: u64) -> String {
    format!("limits = {:?}\nworkers = 4\n", [number; LIMITS])
}

/// Loads a configuration from `file`, and watches the file.
fn open(file: &Path) -> Result<(Config<Settings>, Reloader), Box<dyn Error>> {
    let path = file.to_owned();
    let read = move || Ok(fs::read_to_string(&path)?.parse()?);
    let config = Config::new(vec![Layer::new("file", read)], validate)?;
    let reloads = config.clone();
    // `last_error` returns the error of a failed reload.
    let reload = move || drop(reloads.reload());
    let reloader = Reloader::start(file, DEBOUNCE, reload)?;
    Ok((config, reloader))
}

fn subscribe(
    config: &Config<Settings>,
    calls: &Arc<AtomicU64>,
    variables: &Arc<Variables>,
) -> impl Sized + use<> {
    let (calls, variables) = (Arc::clone(calls), Arc::clone(variables));
    config.subscribe(move |_, new: &Snapshot<Settings>| {
        calls.fetch_add(1, Relaxed);
        for (variable, number) in variables.0.iter().zip(new.value.limits) {
            variable.store(number, Relaxed);
        }
    })
}

/// Edits the file in three ways, and waits until the last edit is published.
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
        let pauses = if number % 10 == 0 { 20 } else { 1 };
        pause(pauses);
    }
    wait(|| config.snapshot().value.limits[0] == EDITS)
}

/// Runs `edit` while threads read as fast as they can, and returns their
/// counts.
fn read_while(
    config: &Config<Settings>,
    variables: &Variables,
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
                let numbers = variables.0.each_ref().map(|it| it.load(Relaxed));
                reads.all += 1;
                reads.versions += u64::from(now.version != version);
                reads.torn += u64::from(is_torn(&limits));
                reads.torn_variables += u64::from(is_torn(&numbers));
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

/// Waits until `has_happened` returns `true`, but at most 20 s.
fn wait(has_happened: impl Fn() -> bool) -> io::Result<()> {
    let start = Instant::now();
    while !has_happened() {
        if start.elapsed() > Duration::from_secs(20) {
            return Err(io::Error::other(
                "the change was not read within 20 s",
            ));
        }
        pause(1);
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "an editor needs time")]
fn pause(times: u32) {
    thread::sleep(times * PAUSE);
}

fn print_state(config: &Config<Settings>) {
    let now = config.snapshot();
    println!("   version {}, workers: {}", now.version, now.value.workers);
    if let Some(error) = config.last_error() {
        println!("   error: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            println!(
                "      caused by: {}",
                text.trim().replace('\n', "\n                 ")
            );
            cause = error.source();
        }
    }
}

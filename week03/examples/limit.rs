//! A hundred downloads, ten at a time, and one of them fails: how many downloads start.
//!
//! ```console
//! $ cargo run -p week03 --example limit
//! ```

use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use lab::guess;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use week03::limit::{Group, Refused};

const FILES: usize = 100;
const AT_A_TIME: usize = 10;

/// The time that one download takes.
const DOWNLOAD: Duration = Duration::from_millis(50);

/// The number of the file that is missing.
const MISSING: usize = 35;

/// Counts the downloads that have started, and the most that ran at a time.
#[derive(Clone, Default)]
struct Stats {
    started: Arc<AtomicUsize>,
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

async fn download(file: usize, stats: Stats) -> Result<(), String> {
    stats.started.fetch_add(1, Relaxed);
    let running = stats.running.fetch_add(1, Relaxed) + 1;
    stats.most.fetch_max(running, Relaxed);
    sleep(DOWNLOAD).await;
    stats.running.fetch_sub(1, Relaxed);
    match file == MISSING {
        true => Err(format!("file {file} is missing")),
        false => Ok(()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    println!(
        "{FILES} files, {} ms each, {AT_A_TIME} at a time. File {MISSING} is \
         missing.",
        DOWNLOAD.as_millis()
    );

    let guess = guess::ask(
        "\nOne task is spawned for each file, and each task waits for a permit. The \
         error is\nreturned when all tasks are joined. How many downloads start?",
    )?;
    let (start, stats) = (Instant::now(), Stats::default());
    let permits = Arc::new(Semaphore::new(AT_A_TIME));
    let mut tasks = JoinSet::new();
    for file in 0..FILES {
        let (permits, stats) = (Arc::clone(&permits), stats.clone());
        tasks.spawn(async move {
            let _permit = permits.acquire().await;
            download(file, stats).await
        });
    }
    let spawned = tasks.len();
    while tasks.join_next().await.is_some() {}
    report("JoinSet and a semaphore", start, &stats, guess.as_deref());
    println!(
        "{spawned} tasks were in memory at once, and most of them waited."
    );

    let guess = guess::ask("\nAnd in a group with a limit?")?;
    let (start, stats) = (Instant::now(), Stats::default());
    let limit = NonZero::new(AT_A_TIME).expect("the limit is not 0");
    let group = Group::new(&CancellationToken::new(), limit);
    let spawner = group.spawner();
    let mut not_started = None;
    for file in 0..FILES {
        let download = download(file, stats.clone());
        if let Err(Refused::Cancelled(_)) = spawner.spawn(download).await {
            not_started = Some(FILES - file);
            break;
        }
    }
    let ended = group.wait().await;
    report("limit::Group", start, &stats, guess.as_deref());
    println!(
        "{ended:?}, and {} downloads were not started.",
        not_started.unwrap_or_default()
    );
    Ok(())
}

fn report(method: &str, start: Instant, stats: &Stats, guess: Option<&str>) {
    let started = stats.started.load(Relaxed);
    println!(
        "{method}: {started} started, at most {} at a time, after {} ms.{}",
        stats.most.load(Relaxed),
        start.elapsed().as_millis(),
        guess::remark(guess, started)
    );
}

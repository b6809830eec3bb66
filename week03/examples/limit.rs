//! A hundred downloads, ten at a time, and one that fails: how many of them were begun.
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

/// How long a download takes.
const DOWNLOAD: Duration = Duration::from_millis(50);

/// The one that is not there.
const BROKEN: usize = 35;

/// Downloads that have begun, and that were under way at a time, at most.
#[derive(Clone, Default)]
struct Seen {
    begun: Arc<AtomicUsize>,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

async fn download(file: usize, seen: Seen) -> Result<(), String> {
    seen.begun.fetch_add(1, Relaxed);
    let now = seen.now.fetch_add(1, Relaxed) + 1;
    seen.most.fetch_max(now, Relaxed);
    sleep(DOWNLOAD).await;
    seen.now.fetch_sub(1, Relaxed);
    match file == BROKEN {
        true => Err(format!("file {file} is not there")),
        false => Ok(()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    println!(
        "{FILES} files, {} ms each, {AT_A_TIME} at a time. File {BROKEN} is not \
         there.",
        DOWNLOAD.as_millis()
    );

    let guess = guess::ask(
        "\nA task is spawned for each, and waits inside for a permit. The error \
         is returned\nwhen the last one is joined. How many downloads begin?",
    )?;
    let (start, seen) = (Instant::now(), Seen::default());
    let permits = Arc::new(Semaphore::new(AT_A_TIME));
    let mut tasks = JoinSet::new();
    for file in 0..FILES {
        let (permits, seen) = (Arc::clone(&permits), seen.clone());
        tasks.spawn(async move {
            let _permit = permits.acquire().await;
            download(file, seen).await
        });
    }
    let waiting = tasks.len();
    while tasks.join_next().await.is_some() {}
    report("JoinSet and a semaphore", start, &seen, guess.as_deref());
    println!("{waiting} tasks were in memory at once, most of them to wait.");

    let guess = guess::ask("\nAnd in a group with a limit?")?;
    let (start, seen) = (Instant::now(), Seen::default());
    let limit = NonZero::new(AT_A_TIME).expect("it is not 0");
    let group = Group::new(&CancellationToken::new(), limit);
    let spawner = group.spawner();
    let mut left = None;
    for file in 0..FILES {
        let download = download(file, seen.clone());
        if let Err(Refused::Cancelled(_)) = spawner.spawn(download).await {
            left = Some(FILES - file);
            break;
        }
    }
    let ended = group.wait().await;
    report("limit::Group", start, &seen, guess.as_deref());
    println!(
        "{ended:?}, and {} files were never asked for.",
        left.unwrap_or_default()
    );
    Ok(())
}

fn report(what: &str, start: Instant, seen: &Seen, guess: Option<&str>) {
    let begun = seen.begun.load(Relaxed);
    println!(
        "{what}: {begun} begun, {} at a time, after {} ms.{}",
        seen.most.load(Relaxed),
        start.elapsed().as_millis(),
        guess::remark(guess, begun)
    );
}

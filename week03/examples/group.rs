//! One of three tasks fails: what the other two still finish, in a group and with `try_join!`.
//!
//! ```console
//! $ cargo run -p week03 --example group
//! ```

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use lab::guess;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use week03::group::Group;

/// How long an order takes to be written, once it has come in.
const WRITE: Duration = Duration::from_millis(300);

/// When the metrics port turns out to be taken.
const FAILURE: Duration = Duration::from_millis(100);

/// How many orders were written to the end.
#[derive(Debug, Default, Clone)]
struct Written(Arc<AtomicU32>);

/// Takes one order after another until it is told to stop, and writes each.
async fn take_orders(
    written: Written,
    stop: CancellationToken,
) -> Result<(), &'static str> {
    while !stop.is_cancelled() {
        sleep(WRITE).await;
        written.0.fetch_add(1, Relaxed);
    }
    Ok(())
}

async fn serve_metrics() -> Result<(), &'static str> {
    sleep(FAILURE).await;
    Err("the metrics port is taken")
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    println!(
        "Two tasks take orders: each writes one in {} ms, and then looks if it \
         should stop.\nA third fails after {} ms.",
        WRITE.as_millis(),
        FAILURE.as_millis()
    );
    let guess = guess::ask("\nHow many orders are written with `try_join!`?")?;
    let (start, written) = (Instant::now(), Written::default());
    let never = CancellationToken::new();
    let ended = tokio::try_join!(
        take_orders(written.clone(), never.clone()),
        take_orders(written.clone(), never.clone()),
        serve_metrics(),
    );
    let failed = ended.expect_err("the port is taken");
    report("try_join!", failed, start, &written, guess.as_deref());
    println!("It drops what is not done: two orders are lost halfway.");

    let guess = guess::ask("\nAnd in a group?")?;
    let (start, written) = (Instant::now(), Written::default());
    let mut group = Group::new(&CancellationToken::new());
    for _ in 0..2 {
        group.spawn(take_orders(written.clone(), group.token()));
    }
    group.spawn(serve_metrics());
    let failed = group.wait().await.expect_err("the port is taken");
    report("Group", failed, start, &written, guess.as_deref());
    println!(
        "It asks them to stop, and waits: {} ms longer, and nothing is lost.",
        (WRITE - FAILURE).as_millis()
    );
    Ok(())
}

fn report(
    what: &str,
    failed: &str,
    start: Instant,
    written: &Written,
    guess: Option<&str>,
) {
    let after = start.elapsed().as_millis();
    let written = written.0.load(Relaxed);
    let guess = guess::remark(guess, written);
    println!("{what}: {failed:?} after {after} ms, {written} written.{guess}");
}

//! One of three tasks fails: how many orders the other two finish, in a group and with `try_join!`.
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

/// The time that it takes to write one order.
const WRITE: Duration = Duration::from_millis(300);

/// The time after which the metrics task fails.
const FAILURE: Duration = Duration::from_millis(100);

/// The number of orders that were written completely.
#[derive(Debug, Default, Clone)]
struct Written(Arc<AtomicU32>);

/// Writes one order after another until `cancel` is cancelled.
async fn take_orders(
    written: Written,
    cancel: CancellationToken,
) -> Result<(), &'static str> {
    while !cancel.is_cancelled() {
        sleep(WRITE).await;
        written.0.fetch_add(1, Relaxed);
    }
    Ok(())
}

async fn serve_metrics() -> Result<(), &'static str> {
    sleep(FAILURE).await;
    Err("the metrics port is in use")
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    println!(
        "Two tasks take orders. Each writes an order in {} ms, and then checks \
         its token.\nA third task fails after {} ms.",
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
    let failed = ended.expect_err("the metrics task fails");
    report("try_join!", failed, start, &written, guess.as_deref());
    println!(
        "It drops the unfinished futures: two half-written orders are lost."
    );

    let guess = guess::ask("\nAnd in a group?")?;
    let (start, written) = (Instant::now(), Written::default());
    let mut group = Group::new(&CancellationToken::new());
    for _ in 0..2 {
        group.spawn(take_orders(written.clone(), group.token()));
    }
    group.spawn(serve_metrics());
    let failed = group.wait().await.expect_err("the metrics task fails");
    report("Group", failed, start, &written, guess.as_deref());
    println!(
        "It cancels the other tasks and waits for them: this takes {} ms more, \
         and no order is lost.",
        (WRITE - FAILURE).as_millis()
    );
    Ok(())
}

fn report(
    method: &str,
    failed: &str,
    start: Instant,
    written: &Written,
    guess: Option<&str>,
) {
    let after = start.elapsed().as_millis();
    let written = written.0.load(Relaxed);
    let guess = guess::remark(guess, written);
    println!(
        "{method}: {failed:?} after {after} ms, {written} orders written.{guess}"
    );
}

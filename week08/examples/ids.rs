//! Three issuers take ids from one row, and the database goes away: how long do
//! the ids last, and how many are lost in a restart?
//!
//! ```console
//! $ cargo run -p week08 --example ids
//! ```
//!
//! The database is simulated, and so is the time: the program ends at once.

use std::collections::HashSet;
use std::error::Error;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lab::guess;
use tokio::time::sleep;
use week08::segment::{Config, Segments, Store};

const STEP: u64 = 1_000;
const ISSUERS: usize = 3;
/// The calls of each issuer in a second.
const PER_SECOND: u64 = 100;
const SECONDS: u64 = 120;
/// The seconds in which the database is away.
const OUTAGE: Range<u64> = 40..80;
/// The second in which the first issuer is restarted.
const RESTARTED: u64 = 100;

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn Error>> {
    println!(
        "{ISSUERS} issuers hand out {PER_SECOND} ids a second each. A range \
         has {STEP} ids. The database\nis away from second {} to {}, and \
         issuer 1 is restarted in second {RESTARTED}.\n",
        OUTAGE.start, OUTAGE.end
    );
    let question = "For how many seconds of the outage does a call get no id?";
    let guess = guess::ask(question)?;

    let db = Database::default();
    let mut issuers = [(); ISSUERS].map(|()| issuer(&db));
    let (mut seen, mut repeats) = (HashSet::new(), 0);
    let mut seconds_without = 0;
    println!("\nsecond    ids issued   calls without an id   ids leased");
    for second in 0..SECONDS {
        db.lock().is_away = OUTAGE.contains(&second);
        if second == RESTARTED {
            // The ids of both ranges are lost.
            issuers[0] = issuer(&db);
        }
        let mut failed = 0;
        for _ in 0..PER_SECOND {
            for ids in &issuers {
                match ids.next().await {
                    Ok(id) => repeats += u64::from(!seen.insert(id)),
                    Err(_) => failed += 1,
                }
            }
            sleep(Duration::from_millis(1000 / PER_SECOND)).await;
        }
        seconds_without += u64::from(failed > 0);
        if second % 10 == 9 {
            let (issued, leased) = (seen.len(), db.lock().max_id);
            println!("{:6} {issued:13} {failed:21} {leased:12}", second + 1);
        }
    }

    let at_hand: u64 = db.lock().max_id - seen.len() as u64;
    println!(
        "\nIn {seconds_without} seconds, calls got no id.{}",
        guess::remark(guess.as_deref(), seconds_without)
    );
    println!(
        "{} ids issued, {repeats} repeats, {at_hand} ids leased and not \
         issued: lost in the restart,\nor still at hand.",
        seen.len()
    );
    Ok(())
}

fn issuer(db: &Database) -> Segments<Database> {
    let step = STEP.try_into().expect("a step is not 0");
    let config = Config {
        min_step: step,
        max_step: step,
        lease_timeout: Duration::from_secs(1),
        backoff: Duration::from_secs(1),
        max_wait: Duration::ZERO,
    };
    Segments::new(db.clone(), config)
}

/// One row.
#[derive(Clone, Default)]
struct Database(Arc<Mutex<Row>>);

#[derive(Default)]
struct Row {
    max_id: u64,
    is_away: bool,
}

impl Database {
    fn lock(&self) -> std::sync::MutexGuard<'_, Row> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Database {
    type Error = &'static str;

    async fn lease(&self, step: u64) -> Result<Range<u64>, &'static str> {
        let mut row = self.lock();
        if row.is_away {
            return Err("connection refused");
        }
        row.max_id += step;
        Ok(row.max_id - step..row.max_id)
    }
}

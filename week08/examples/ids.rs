//! Three issuers take ids from one row, and the database goes away: how long do
//! the ids last, and how many are lost in a restart? Then two pods make
//! Snowflake ids: which ids repeat when a worker id or a clock is wrong?
//!
//! ```console
//! $ cargo run -p week08 --example ids
//! ```
//!
//! The database is simulated, and so is the time: the program ends at once.

use std::collections::HashSet;
use std::error::Error;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lab::guess;
use tokio::time::{Instant, sleep};
use week08::segment::{Config, Segments, Store};
use week08::snowflake::{self, EPOCH, Grant, Ids, Millis, Registry, Table};

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
    segments().await?;
    snowflakes().await
}

async fn segments() -> Result<(), Box<dyn Error>> {
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

/// The number of pods of a service.
const PODS: u16 = 20;
const WORKERS: u16 = 1_024;

async fn snowflakes() -> Result<(), Box<dyn Error>> {
    println!(
        "\nNow Snowflake ids. {PODS} pods choose their worker ids: a hash of \
         the pod's name modulo {WORKERS}.\n"
    );
    let question =
        "With which probability, in %, do two pods have the same worker id?";
    let guess = guess::ask(question)?;
    let free = (0..PODS).map(|i| 1.0 - f64::from(i) / f64::from(WORKERS));
    let percent = format!("{:.0}", 100.0 * (1.0 - free.product::<f64>()));
    println!("{percent} %.{}", guess::remark(guess.as_deref(), &percent));

    let ([first, second], worker) = same_worker();
    println!(
        "\nFor instance, `{first}` and `{second}` both get the worker id \
         {worker}. Each makes\nan id in each millisecond. A naive generator is \
         compared with `Ids`, which leases its\n\
         worker id for 6 s, and waits up to 20 ms for an id. From the second row on, \
         the naive\npods have different worker ids.\n"
    );
    println!("{:40}|  naive         |  leased worker ids", "");
    println!(
        "{:40}|{:>7}{:>9}|{:>7}{:>9}{:>8}{:>8}",
        "", "ids", "repeats", "ids", "repeats", "waited", "failed"
    );
    let table = Arc::new((Table::new(WORKERS), AtomicBool::new(false)));
    let mut pods = [(); 2].map(|()| Pod::new(worker, &table));
    let (mut naive, mut leased) = (HashSet::new(), HashSet::new());
    let phases: [Phase; 6] = [
        ("both pods start", 2, |_| {}),
        ("the naive worker ids differ", 2, |pods| pods[0].worker += 1),
        ("clock 1 steps 3 ms back", 2, |pods| pods[0].step(-3)),
        ("clock 1 steps 1 s back", 2, |pods| pods[0].step(-1_000)),
        ("the registry is away", 8, |pods| {
            pods[0].table.1.store(true, Relaxed)
        }),
        ("it is back; new pod 1, 3 s behind", 10, |pods| {
            pods[0].table.1.store(false, Relaxed);
            pods[0] = Pod::new(pods[0].worker, &pods[0].table);
            pods[0].step(-3_000);
        }),
    ];
    for (name, seconds, begin) in phases {
        begin(&mut pods);
        let [one, two] = &mut pods;
        let (one, two) = tokio::join!(one.run(seconds), two.run(seconds));
        let (mut waited, mut failed) = (0, 0);
        let mut ids = [0; 2];
        let mut repeats = [0; 2];
        for run in [one, two] {
            (waited, failed) = (waited + run.waited, failed + run.failed);
            let all = [(&mut naive, run.naive), (&mut leased, run.leased)];
            for (n, (seen, new)) in all.into_iter().enumerate() {
                ids[n] += new.len();
                let repeated = new.into_iter().filter(|id| !seen.insert(*id));
                repeats[n] += repeated.count();
            }
        }
        println!(
            "{:<40}|{:>7}{:>9}|{:>7}{:>9}{waited:>8}{failed:>8}",
            format!("{name} ({seconds} s)"),
            ids[0],
            repeats[0],
            ids[1],
            repeats[1],
        );
    }
    Ok(())
}

/// Returns the first two pods whose names have the same hash modulo 1024.
fn same_worker() -> ([String; 2], u16) {
    let mut names = vec![None; WORKERS.into()];
    for pod in 0.. {
        let name = format!("comments-{pod}");
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let worker = hasher.finish() % u64::from(WORKERS);
        if let Some(other) = names[worker as usize].replace(name.clone()) {
            return ([other, name], worker as u16);
        }
    }
    unreachable!("there are more pods than worker ids")
}

/// A process with its own wall clock, and two generators.
struct Pod {
    worker: u16,
    /// The table of the worker ids, and whether it is away.
    table: Arc<(Table, AtomicBool)>,
    skew: Arc<AtomicI64>,
    clock: snowflake::Clock,
    naive: (Millis, u64),
    leased: Ids<Away>,
}

/// A name, the number of seconds, and the event at the beginning.
type Phase = (&'static str, u64, fn(&mut [Pod; 2]));

/// What a pod has done in a phase.
#[derive(Default)]
struct Run {
    naive: Vec<u64>,
    leased: Vec<u64>,
    waited: u64,
    failed: u64,
}

impl Pod {
    fn new(worker: u16, table: &Arc<(Table, AtomicBool)>) -> Self {
        let skew = Arc::new(AtomicI64::new(0));
        let clock: snowflake::Clock = Arc::new({
            let skew = Arc::clone(&skew);
            move || now().saturating_add_signed(skew.load(Relaxed))
        });
        let config = snowflake::Config {
            ttl: Duration::from_secs(6),
            margin: Duration::from_secs(1),
            max_wait: Duration::from_millis(20),
        };
        let registry = Away(Arc::clone(table));
        let leased = Ids::new(registry, config, Arc::clone(&clock));
        let table = Arc::clone(table);
        Self { worker, table, skew, clock, naive: (0, 0), leased }
    }

    fn step(&self, millis: i64) {
        self.skew.fetch_add(millis, Relaxed);
    }

    async fn run(&mut self, seconds: u64) -> Run {
        let end = Instant::now() + Duration::from_secs(seconds);
        let millisecond = Duration::from_millis(1);
        let (mut run, mut naive) = (Run::default(), Vec::new());
        let leased = async {
            while Instant::now() < end {
                let before = Instant::now();
                match self.leased.next().await {
                    Ok(id) => {
                        let waited = before.elapsed() > Duration::ZERO;
                        run.waited += u64::from(waited);
                        run.leased.push(id);
                    }
                    Err(_) => run.failed += 1,
                }
                sleep(millisecond).await;
            }
        };
        let (worker, clock, state) =
            (self.worker, &self.clock, &mut self.naive);
        tokio::join!(leased, async {
            while Instant::now() < end {
                naive.push(naive_next(worker, clock(), state));
                sleep(millisecond).await;
            }
        });
        Run { naive, ..run }
    }
}

/// Returns the timestamp of the clock with the next sequence number.
fn naive_next(worker: u16, now: Millis, state: &mut (u64, u64)) -> u64 {
    let (latest, sequence) = *state;
    let now = now - EPOCH;
    let sequence = if now == latest { sequence + 1 } else { 0 };
    *state = (now, sequence);
    now << 22 | u64::from(worker) << 12 | sequence & 4_095
}

/// Returns a time that advances with the clock of tokio.
fn now() -> Millis {
    use std::sync::LazyLock;
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    EPOCH + 1_000_000 + START.elapsed().as_millis() as u64
}

/// A table of worker ids that may be away.
struct Away(Arc<(Table, AtomicBool)>);

impl Away {
    fn table(&self) -> Result<&Table, &'static str> {
        let (table, is_away) = &*self.0;
        let away = is_away.load(Relaxed);
        if away { Err("connection refused") } else { Ok(table) }
    }
}

impl Registry for Away {
    type Error = &'static str;

    async fn acquire(
        &self,
        ttl: Duration,
        until: Millis,
    ) -> Result<Grant, &'static str> {
        let grant = self.table()?.acquire(ttl, until).await;
        grant.map_err(|_| "all worker ids are leased")
    }

    async fn renew(
        &self,
        grant: Grant,
        ttl: Duration,
        until: Millis,
    ) -> Result<bool, &'static str> {
        let is_held = self.table()?.renew(grant, ttl, until).await;
        is_held.map_err(|_| "all worker ids are leased")
    }
}

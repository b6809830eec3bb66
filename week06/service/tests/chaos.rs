//! Jobs are killed and stalled while they write 10,000 numbered comments.

use std::env;
use std::io::{self, Write as _};
use std::process::{self, Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use common::*;
use lab::servers::Postgres;
use rdkafka::consumer::BaseConsumer;
use rdkafka::message::Message as _;
use sqlx::{AnyPool, Row as _, raw_sql};
use week06_service::broker;
use week06_service::comment::Comment;
use week06_service::job::{self, AfterWrite, Runner};
use week06_service::store::Store;

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod common;

const RECORDS: u64 = 10_000;
const PARTITIONS: i32 = 6;
const BATCH: usize = 20;
const JOBS: usize = 3;

/// The time of a batch beside the write. Most kills fall into it: the batch is
/// written then, and not committed.
const PACE: Duration = Duration::from_millis(8);

const MAX_POLL_INTERVAL: Duration = Duration::from_millis(1000);
const STALL: Duration = Duration::from_millis(2200);

/// Holds the bootstrap servers and the URL of the database.
const JOB: &str = "WEEK06_CHAOS_JOB";

/// May hold another seed of the faults.
const SEED: &str = "WEEK06_CHAOS_SEED";

/// The process of the broker, and otherwise nothing.
#[test]
fn broker_process() {
    broker::run_if_asked();
}

/// The process of a job, and otherwise nothing. It ends when its standard input
/// does. Each line stalls it for so many milliseconds.
#[test]
fn job_process() {
    let Ok(job) = env::var(JOB) else { return };
    let (brokers, url) = job.split_once(' ').unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let job = runtime.block_on(async {
        let store = Store::connect(url).await.unwrap();
        let pace: AfterWrite =
            Arc::new(|_, _| Box::pin(tokio::time::sleep(PACE)));
        let config = job::Config {
            max_poll_interval: MAX_POLL_INTERVAL,
            ..job_config(brokers, BATCH)
        };
        Runner::start(&config, store, Some(pace)).unwrap()
    });
    for line in io::stdin().lines().map_while(Result::ok) {
        job.stall(Duration::from_millis(line.parse().unwrap()));
    }
    process::exit(0);
}

/// A job in a process of its own.
struct Job(Child);

impl Job {
    fn spawn(brokers: &str, url: &str) -> Self {
        let child = Command::new(env::current_exe().unwrap())
            .args(["job_process", "--exact", "--nocapture"])
            .env(JOB, format!("{brokers} {url}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    fn stall(&mut self) {
        let input = self.0.stdin.as_mut().unwrap();
        writeln!(input, "{}", STALL.as_millis()).unwrap();
    }

    /// Returns when the process has ended, so it writes nothing more.
    fn kill(&mut self) {
        self.0.kill().unwrap(); // SIGKILL
        self.0.wait().unwrap();
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// Kills a job, and starts another one.
    Kill,
    /// Stalls a job for longer than its `max.poll.interval.ms`.
    Stall,
    /// Starts one more job.
    Add,
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_and_stalled_jobs_write_each_record_exactly_once() {
    let (store, url, _dir) = sqlite().await;
    raw_sql(
        "CREATE TABLE repeated (id BIGINT NOT NULL);
        CREATE TRIGGER repeats BEFORE INSERT ON comment
        WHEN EXISTS (SELECT 1 FROM comment WHERE id = NEW.id)
        BEGIN INSERT INTO repeated VALUES (NEW.id); END;",
    )
    .execute(store.pool())
    .await
    .unwrap();
    chaos(&store, &url).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs postgres"]
async fn killed_and_stalled_jobs_write_each_record_exactly_once_on_postgres() {
    let server = Postgres::start().unwrap();
    let store = Store::connect(&server.url()).await.unwrap();
    raw_sql(
        "CREATE TABLE repeated (id BIGINT NOT NULL);
        CREATE FUNCTION note_repeat() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO repeated SELECT id FROM comment WHERE id = NEW.id;
            RETURN NEW;
        END $$;
        CREATE TRIGGER repeats BEFORE INSERT ON comment
        FOR EACH ROW EXECUTE FUNCTION note_repeat();",
    )
    .execute(store.pool())
    .await
    .unwrap();
    chaos(&store, &server.url()).await;
    store.close().await;
}

/// Injects faults until all is written. `store` has a trigger that notes each
/// write of a comment that is in the table.
async fn chaos(store: &Store, url: &str) {
    let seed = env::var(SEED).map_or(0, |seed| seed.parse().unwrap());
    let mut random = fastrand::Rng::with_seed(seed);
    let mut faults = [
        [Fault::Kill; 2],
        [Fault::Kill; 2],
        [Fault::Stall; 2],
        [Fault::Add, Fault::Kill],
    ]
    .concat();
    random.shuffle(&mut faults);

    let mut broker = broker(PARTITIONS);
    let brokers = broker.bootstrap().to_owned();
    let comments: Vec<_> =
        (0..RECORDS).map(|id| comment(id, id % 97)).collect();
    publish_all(&producer(&brokers, 5 * SECOND), &comments).await;
    let log = Log::read(&brokers);
    let watch = Watch::start(&brokers);
    let observer = observer(&brokers);

    let mut jobs: Vec<_> =
        (0..JOBS).map(|_| Job::spawn(&brokers, url)).collect();
    // A batch of each job may be in flight when it has to give up a partition.
    let mut bound = JOBS * BATCH;
    for (number, fault) in (1..).zip(&faults) {
        let progress = RECORDS * number / (faults.len() as u64 + 1);
        wait_until(&mut broker, "the next fault", async || {
            rows(store.pool()).await >= progress
        })
        .await;
        let victim = random.usize(..jobs.len());
        match fault {
            Fault::Kill => {
                jobs[victim].kill();
                jobs[victim] = Job::spawn(&brokers, url);
            }
            Fault::Stall => {
                jobs[victim].stall();
                // When it continues, it does not know yet that it has lost its
                // partitions, and writes one more batch.
                bound += BATCH;
            }
            Fault::Add => jobs.push(Job::spawn(&brokers, url)),
        }
        let uncommitted = log.uncommitted(store.pool(), &observer).await;
        // A job commits a batch while it writes the next one, and a victim leaves
        // both.
        let most = 2 * BATCH * (jobs.len() + number as usize);
        assert!(uncommitted <= most, "{uncommitted} rows are not committed");
        bound += uncommitted + jobs.len() * BATCH;
    }
    wait_until(&mut broker, "all is written and committed", async || {
        rows(store.pool()).await == RECORDS
            && committed(&observer, PARTITIONS).is_some_and(|committed| {
                committed.iter().sum::<i64>() == log.len()
            })
    })
    .await;
    drop(jobs);
    watch.stop();

    let repeated = sqlx::query_scalar("SELECT COUNT(*) FROM repeated");
    let repeated: i64 = repeated.fetch_one(store.pool()).await.unwrap();
    println!("seed {seed}: {faults:?}: {repeated} repeated of {bound}");
    assert!(
        repeated.unsigned_abs() <= bound as u64,
        "{repeated} records were written again, expected at most {bound}"
    );
    log.assert_written_in_order(store.pool()).await;
}

/// The records of each partition.
struct Log {
    partitions: Vec<Vec<Comment>>,
}

impl Log {
    fn read(brokers: &str) -> Self {
        let mut partitions = vec![Vec::new(); PARTITIONS as usize];
        for record in read_all(brokers, TOPIC, PARTITIONS) {
            let comment = Comment::from_bytes(record.payload().unwrap());
            let partition = &mut partitions[record.partition() as usize];
            assert_eq!(partition.len() as i64, record.offset());
            partition.push(comment.unwrap());
        }
        Self { partitions }
    }

    fn len(&self) -> i64 {
        self.partitions.iter().map(|p| p.len() as i64).sum()
    }

    /// Returns the number of rows that are written and not committed.
    async fn uncommitted(
        &self,
        pool: &AnyPool,
        observer: &BaseConsumer,
    ) -> usize {
        let committed = committed(observer, PARTITIONS).expect("it answers");
        let query = sqlx::query_scalar("SELECT id FROM comment");
        let written: Vec<i64> = query.fetch_all(pool).await.unwrap();
        let written: std::collections::HashSet<_> =
            written.into_iter().map(i64::cast_unsigned).collect();
        let partitions = self.partitions.iter().zip(committed);
        let after = partitions.flat_map(|(p, next)| &p[next as usize..]);
        after.filter(|comment| written.contains(&comment.id)).count()
    }

    /// Asserts that each record is one row, and that the rows of a subject are
    /// in the order of the records.
    async fn assert_written_in_order(&self, pool: &AnyPool) {
        let select = "SELECT subject, id FROM comment ORDER BY arrival";
        let rows = sqlx::query(select).fetch_all(pool).await.unwrap();
        let mut written: Vec<(i64, i64)> =
            rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        written.sort_by_key(|&(subject, _)| subject); // it is stable
        let sent = self.partitions.iter().flatten();
        let mut sent: Vec<_> =
            sent.map(|c| (c.subject as i64, c.id as i64)).collect();
        sent.sort_by_key(|&(subject, _)| subject);
        assert_eq!(sent.len() as u64, RECORDS);
        assert!(written == sent, "the table differs from the log");
    }
}

/// A client that reads the committed offsets all the time.
struct Watch {
    ends: Arc<AtomicBool>,
    thread: thread::JoinHandle<u32>,
}

impl Watch {
    fn start(brokers: &str) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (ends, observer) = (Arc::clone(&ends), observer(brokers));
            move || {
                let (mut last, mut reads) = (vec![0; PARTITIONS as usize], 0);
                while !ends.load(Relaxed) {
                    let Some(now) = committed(&observer, PARTITIONS) else {
                        continue;
                    };
                    let fell =
                        now.iter().zip(&last).any(|(now, last)| now < last);
                    assert!(!fell, "committed offsets fell: {last:?}, {now:?}");
                    (last, reads) = (now, reads + 1);
                    thread::park_timeout(Duration::from_millis(3));
                }
                reads
            }
        });
        Self { ends, thread }
    }

    fn stop(self) {
        self.ends.store(true, Relaxed);
        let reads = self.thread.join().expect("no committed offset fell");
        assert!(reads > 100, "the offsets were read only {reads} times");
    }
}

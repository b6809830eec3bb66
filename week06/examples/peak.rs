//! A hundred thousand comments are accepted at once, and a job is killed while it
//! writes them. Which ones are lost, and which are written twice?
//!
//! ```console
//! $ cargo run --release -p week06 --example peak
//! ```
//!
//! The broker is a process of this example, and the database a SQLite file. With
//! `--brokers host:port` and `--database postgres://…` they are real ones. The
//! brokers have to create topics that do not exist, and the database has to be
//! empty.

use std::collections::HashMap;
use std::env;
use std::io::{BufRead as _, BufReader, stdin};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use lab::guess;
use sqlx::Row as _;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::interval;
use week06::shave;
use week06_service::backlog::{self, Backlog};
use week06_service::broker::{self, MockBroker, Setup};
use week06_service::comment::Comment;
use week06_service::job::{self, Runner};
use week06_service::producer::{self, Producer};
use week06_service::store::Store;

const COMMENTS: u64 = 100_000;

/// Each subject has as many comments, except that every fifth comment is about
/// subject 0, the celebrity's.
const SUBJECTS: u64 = 1000;

const PARTITIONS: i32 = 12;
const BATCH: usize = 512;

/// The number of tasks that publish. Each has many comments on the way.
const CLIENTS: u64 = 10;

const SECOND: Duration = Duration::from_secs(1);
const SAMPLE: Duration = Duration::from_millis(50);

/// The longest time of the whole example, after which something hangs.
const DEADLINE: Duration = Duration::from_secs(80);

/// Makes a process a job: the brokers, the topic, and the database.
const JOB: &str = "WEEK06_PEAK_JOB";

#[tokio::main]
async fn main() -> Result<()> {
    broker::run_if_asked();
    if let Ok(job) = env::var(JOB) {
        let words: Vec<_> = job.split(' ').collect();
        let [brokers, topic, database] = words[..] else {
            bail!("{JOB} is {job:?}, expected three words");
        };
        return run_job(brokers, topic, database).await;
    }
    println!(
        "{COMMENTS} comments arrive at once. Kafka accepts them, and two jobs \
         write them to the\ndatabase, {BATCH} in a batch. When half is written, \
         one job is killed with SIGKILL, and\nanother one started."
    );
    let guess = guess::ask(
        "\nHow many comments are written a second time, because a job had not \
         committed them?",
    )?;
    let options = Options::parse()?;
    let dir = tempfile::tempdir()?;
    let file = format!("sqlite:{}", dir.path().join("peak.db").display());
    let database = options.database.unwrap_or(file);
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let topic = format!("peak-{}", since_1970.as_millis());
    let mut mock = None;
    let brokers = match options.brokers {
        Some(brokers) => brokers,
        None => {
            let broker = MockBroker::spawn(Setup {
                arguments: &[],
                topics: &[(&topic, PARTITIONS), (&dead_letters(&topic), 1)],
                session: SECOND,
            })?;
            mock.insert(broker).bootstrap().to_owned()
        }
    };
    let store = Store::connect(&database).await?;
    let peak = Peak { brokers, topic, database, store, mock };
    peak.run(guess.as_deref()).await
}

#[derive(Default)]
struct Options {
    brokers: Option<String>,
    database: Option<String>,
}

impl Options {
    fn parse() -> Result<Self> {
        let mut options = Self::default();
        let mut words = env::args().skip(1);
        while let Some(word) = words.next() {
            let value = words.next();
            match word.as_str() {
                "--brokers" => options.brokers = value,
                "--database" => options.database = value,
                _ => bail!("unknown option {word:?}"),
            }
        }
        Ok(options)
    }
}

struct Peak {
    brokers: String,
    topic: String,
    database: String,
    store: Store,
    mock: Option<MockBroker>,
}

impl Peak {
    async fn run(mut self, guess: Option<&str>) -> Result<()> {
        let rows = self.rows().await?;
        ensure!(rows.is_empty(), "the table is not empty");
        let producer = producer::Config {
            brokers: self.brokers.clone(),
            topic: self.topic.clone(),
            timeout: 30 * SECOND,
        };
        let producer = Producer::new(&producer, None)?;
        // Connected, and a topic that did not exist exists.
        producer.publish(&comment(0)).await?;
        let backlog = Backlog::watch(backlog::Config {
            brokers: self.brokers.clone(),
            topic: self.topic.clone(),
            group: self.topic.clone(),
            high: u64::MAX,
            low: 0,
            every: SAMPLE,
            stale_after: 10 * SECOND,
        })?;
        let mut jobs = vec![self.start_job()?, self.start_job()?];

        let start = Instant::now();
        let accepted = Arc::new(AtomicU64::new(1));
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let (producer, accepted) = (producer.clone(), accepted.clone());
            clients.spawn(publish_share(producer, client, accepted));
        }
        let (mut accepted_after, mut killed) = (None, false);
        let mut lags = Vec::new();
        let mut samples = interval(SAMPLE);
        loop {
            samples.tick().await;
            while let Some(client) = clients.try_join_next() {
                client??;
            }
            if accepted_after.is_none() && clients.is_empty() {
                accepted_after = Some(start.elapsed());
            }
            if let Some(mock) = &mut self.mock {
                mock.check()?;
            }
            ensure!(start.elapsed() < DEADLINE, "the jobs hang");
            let Some(lag) = backlog.lag() else { continue };
            lags.push(lag);
            let committed = accepted.load(Relaxed).saturating_sub(lag);
            if !killed && committed >= COMMENTS / 2 {
                jobs[0].kill()?;
                killed = true;
                jobs.push(self.start_job()?);
            }
            if accepted_after.is_some() && lag == 0 {
                break;
            }
        }
        let drained_after = start.elapsed();
        let mut repeated = 0;
        for job in jobs {
            repeated += job.stop()?;
        }
        let accepted_after = accepted_after.context("it has ended")?;

        println!("\nrecords in Kafka that are not committed:\n");
        print_lags(&lags);
        let rows = self.rows().await?;
        let per_second = |time: Duration| COMMENTS as f64 / time.as_secs_f64();
        let table = [
            ("accepted per second", per_second(accepted_after)),
            ("written per second", per_second(drained_after)),
            ("longest backlog", lags.iter().copied().max().unwrap_or(0) as f64),
            ("rows", rows.len() as f64),
            ("missing", missing(&rows) as f64),
            ("not in the order of acceptance", violations(&rows) as f64),
            ("written twice, stored once", repeated as f64),
        ];
        println!();
        for (name, value) in table {
            println!("{name:30} {value:10.0}");
        }
        println!(
            "\nAll were accepted after {:.1} s, and written after {:.1} s. \
             {repeated} comments were written\nagain.{}",
            accepted_after.as_secs_f64(),
            drained_after.as_secs_f64(),
            guess::remark(guess, repeated)
        );
        Ok(())
    }

    fn start_job(&self) -> Result<Job> {
        Job::start(&self.brokers, &self.topic, &self.database)
    }

    /// Returns the subject and the id of all comments, in the order in which
    /// they were inserted.
    async fn rows(&self) -> Result<Vec<(i64, i64)>> {
        let select = "SELECT subject, id FROM comment ORDER BY arrival";
        let rows = sqlx::query(select).fetch_all(self.store.pool()).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}

/// Its id is its position in the order of acceptance.
fn comment(id: u64) -> Comment {
    let subject = if id.is_multiple_of(5) { 0 } else { id % SUBJECTS };
    let text = "I was here".to_owned();
    Comment { id, subject, author: id % 977, text, created_ms: id }
}

fn dead_letters(topic: &str) -> String {
    format!("{topic}-dead")
}

/// Publishes all comments of one share of the subjects, at once.
async fn publish_share(
    producer: Producer,
    client: u64,
    accepted: Arc<AtomicU64>,
) -> Result<()> {
    let mine = (1..COMMENTS).map(comment);
    let mine = mine.filter(|comment| comment.subject % CLIENTS == client);
    let publish = mine.map(|comment| {
        let (producer, accepted) = (&producer, &accepted);
        async move {
            producer.publish(&comment).await?;
            accepted.fetch_add(1, Relaxed);
            Ok(())
        }
    });
    // It polls them in this order, which is then the order in Kafka.
    let published = futures_util::future::join_all(publish).await;
    published.into_iter().collect()
}

/// A job in a process of its own.
struct Job {
    child: Child,
    /// What it has reported last: the number of repeated comments.
    repeated: Arc<Mutex<u64>>,
    reader: Option<JoinHandle<()>>,
}

impl Job {
    fn start(brokers: &str, topic: &str, database: &str) -> Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .env(JOB, format!("{brokers} {topic} {database}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().context("it is piped")?;
        let repeated = Arc::<Mutex<u64>>::default();
        let reader = thread::spawn({
            let repeated = Arc::clone(&repeated);
            move || {
                let lines = BufReader::new(output).lines();
                for line in lines.map_while(Result::ok) {
                    if let Ok(number) = line.parse() {
                        *lock(&repeated) = number;
                    }
                }
            }
        });
        Ok(Self { child, repeated, reader: Some(reader) })
    }

    fn kill(&mut self) -> Result<()> {
        self.child.kill()?; // SIGKILL
        self.child.wait()?;
        Ok(())
    }

    /// Stops a job that still runs, and returns its number of repeated comments.
    fn stop(mut self) -> Result<u64> {
        drop(self.child.stdin.take()); // asks it to stop
        self.child.wait()?;
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        let repeated = *lock(&self.repeated);
        Ok(repeated)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs until the standard input ends, and reports all the time: a killed job
/// reports nothing more.
async fn run_job(brokers: &str, topic: &str, database: &str) -> Result<()> {
    let store = Store::connect(database).await?;
    let number = |n: usize| n.try_into().context("it is not zero");
    let config = job::Config {
        brokers: brokers.to_owned(),
        group: topic.to_owned(),
        topic: topic.to_owned(),
        dead_letters: dead_letters(topic),
        batch: shave::Config {
            max_batch: number(BATCH)?,
            linger: Duration::from_millis(5),
            max_waiting: number(10 * BATCH)?,
            retry_after: SECOND / 10,
        },
        max_poll_interval: 300 * SECOND,
        write_timeout: 10 * SECOND,
    };
    let job = Runner::start(&config, store, None)?;
    let mut end = spawn_blocking(|| stdin().lines().for_each(drop));
    let mut reports = interval(SECOND / 100);
    let mut last = 0;
    loop {
        tokio::select! {
            _ = &mut end => break,
            _ = reports.tick() => {}
        }
        let repeated = job.report().repeated;
        if repeated != last {
            println!("{repeated}");
            last = repeated;
        }
    }
    println!("{}", job.stop(10 * SECOND).await?.repeated);
    Ok(())
}

/// Returns the number of comments that are no row, or more than one.
fn missing(rows: &[(i64, i64)]) -> usize {
    let mut counts = vec![0; COMMENTS as usize];
    for &(_, id) in rows {
        counts[id as usize] += 1;
    }
    counts.iter().filter(|&&count| count != 1).count()
}

/// Returns the number of rows that come after a later comment of their subject.
fn violations(rows: &[(i64, i64)]) -> usize {
    let mut last = HashMap::new();
    let mut is_late = |&(subject, id): &(i64, i64)| {
        last.insert(subject, id).is_some_and(|last| last > id)
    };
    rows.iter().filter(|&row| is_late(row)).count()
}

/// Prints a bar for each part of the time.
fn print_lags(lags: &[u64]) {
    const BARS: usize = 16;
    let per_bar = lags.len().div_ceil(BARS).max(1);
    for (bar, lags) in lags.chunks(per_bar).enumerate() {
        let lag = lags.iter().copied().max().unwrap_or(0);
        let at = SAMPLE * (bar * per_bar) as u32;
        let stars = "#".repeat((60 * lag / COMMENTS) as usize);
        println!("{:5.1} s |{stars} {lag}", at.as_secs_f64());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

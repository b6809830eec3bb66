//! The job: reads comments from Kafka, and writes them to the database.
//!
//! **Question.** [`shave::Job`] decides what is written, committed and paused.
//! What does a process have to do so that its guarantee holds with real brokers
//! and a real database?
//!
//! **Idea.** One thread polls the consumer every few milliseconds, whatever the
//! database does: a member that does not poll loses its partitions. Each write
//! runs on the tokio runtime and answers through a channel. Commits are made on
//! the polling thread, and it waits for their answer. So when a rebalance takes a
//! partition, no commit of it is under way that could arrive after the commits of
//! the next owner.
//!
//! **Guarantee.** At least once, and in the order of the offsets of each
//! partition, as [`shave`] promises; the table makes it exactly once. A record
//! that does not decode, or that the table refuses, is sent to the dead-letter
//! topic with the reason, and the others go on. After [`stop`](Runner::stop) has
//! returned `Ok`, all that was read is written and committed.
//!
//! **Cost.** While the brokers do not answer a commit, the thread waits, and
//! nothing is written. A batch that is in flight when its partition is revoked is
//! written again by the next owner.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use week06::shave::{self, Event};

use crate::comment::Comment;
use crate::producer::RECONNECT_MS;
use crate::store::{Inserted, Store};
use shell::Shell;
use tasks::{Counters, Message, Tasks};

mod shell;
mod tasks;

/// The settings of a [`Runner`].
#[derive(Debug, Clone)]
pub struct Config {
    /// The bootstrap servers.
    pub brokers: String,
    /// The consumer group. Its members share the partitions.
    pub group: String,
    /// The topic of the comments.
    pub topic: String,
    /// The topic of records that cannot be written.
    pub dead_letters: String,
    /// The settings of the state machine.
    pub batch: shave::Config,
    /// A member that does not poll for so long loses its partitions.
    pub max_poll_interval: Duration,
    /// A write that takes longer has failed.
    pub write_timeout: Duration,
}

/// Called after each batch is written and before it is committed, for instance
/// to refresh caches. The arguments are the comments of the batch, and how many
/// of them were new. A comment can be passed more than once. The next batch
/// waits, for a second at most. A panic is ignored.
pub type AfterWrite = Arc<
    dyn Fn(Vec<Arc<Comment>>, Inserted) -> BoxFuture<'static, ()> + Send + Sync,
>;

/// A running job. If it is dropped, the job ends at once, as if it were killed:
/// the next member writes again what was not committed.
#[derive(Debug)]
pub struct Runner {
    inputs: SyncSender<Input>,
    counters: Arc<Counters>,
    ended: oneshot::Receiver<()>,
}

/// What a job has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// The number of comments that were not in the table before.
    pub written: u64,
    /// The number of comments that were in the table already.
    pub repeated: u64,
    /// The number of records in the dead-letter topic.
    pub dead_letters: u64,
    /// The number of failed writes and dead letters, which were tried again.
    pub failures: u64,
    /// The number of commits that the brokers have refused.
    pub refused_commits: u64,
}

/// The job has not stopped gracefully. Records may be written and not committed,
/// so they are written again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StopFailed {
    /// The stop has taken longer than its limit.
    #[error("the job did not stop in time")]
    TimedOut,
    /// The thread that polls has ended before the stop.
    #[error("the thread of the job has panicked")]
    Panicked,
}

/// What the thread receives.
#[derive(Debug)]
enum Input {
    Event(Event<Arc<Message>>),
    Stop,
    Abort,
    Stall(Duration),
}

/// The longest time for which the thread does not look at its inputs.
const POLL: Duration = Duration::from_millis(5);

/// The number of records between two looks at inputs and events.
const RECORDS: usize = 64;

/// The most inputs at a time: an answer, and a call of each method.
const INPUTS: usize = 16;

impl Runner {
    /// Joins the consumer group, and starts to write. The writes run on the
    /// current tokio runtime.
    ///
    /// # Errors
    ///
    /// Returns an error if librdkafka refuses a setting.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    pub fn start(
        config: &Config,
        store: Store,
        after_write: Option<AfterWrite>,
    ) -> KafkaResult<Self> {
        let (inputs, received) = sync_channel(INPUTS);
        let counters = Arc::<Counters>::default();
        let tasks = Tasks::new(
            config,
            Handle::current(),
            store,
            after_write,
            inputs.clone(),
            Arc::clone(&counters),
        )?;
        let consumer = consumer(config, Shell::new(config, tasks))?;
        let consumer = Arc::new(consumer);
        Shell::subscribe(&consumer)?;
        let (end, ended) = oneshot::channel();
        thread::spawn(move || {
            run(&consumer, &received);
            consumer.context().close();
            drop(consumer); // leaves the group
            let _ = end.send(()); // nobody may wait
        });
        Ok(Self { inputs, counters, ended })
    }

    /// Returns what the job has done so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.counters.report()
    }

    /// Writes and commits what was read, leaves the group, and returns the
    /// report.
    ///
    /// # Errors
    ///
    /// Returns an error if the job's thread has panicked, or if this takes longer
    /// than `limit`. The job ends as soon as it can then.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the job ends at once.
    pub async fn stop(mut self, limit: Duration) -> Result<Report, StopFailed> {
        self.send(Input::Stop);
        match tokio::time::timeout(limit, &mut self.ended).await {
            Ok(Ok(())) => Ok(self.report()),
            Ok(Err(_dropped)) => Err(StopFailed::Panicked),
            Err(_elapsed) => Err(StopFailed::TimedOut),
        }
    }

    /// Blocks the thread that polls, as a bug or a paused machine would. This is
    /// for tests.
    #[doc(hidden)]
    pub fn stall(&self, time: Duration) {
        self.send(Input::Stall(time));
    }

    fn send(&self, input: Input) {
        // It can only fail when the thread has ended.
        let _ = self.inputs.try_send(input);
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.send(Input::Abort);
    }
}

fn consumer(config: &Config, shell: Shell) -> KafkaResult<BaseConsumer<Shell>> {
    let poll_ms = config.max_poll_interval.as_millis().to_string();
    ClientConfig::new()
        .set("bootstrap.servers", &config.brokers)
        .set("reconnect.backoff.max.ms", RECONNECT_MS)
        .set("group.id", &config.group)
        // The broker moves single partitions, and accepts commits meanwhile.
        .set("group.protocol", "consumer")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("max.poll.interval.ms", poll_ms)
        // Of each partition, so that a pause of the job is one of the client,
        // too. By default, it notices a second later that it is over.
        .set("queued.min.messages", config.batch.max_waiting.to_string())
        .set("fetch.queue.backoff.ms", "5")
        .create_with_context(shell)
}

/// Polls until the job is finished or aborted.
fn run(consumer: &BaseConsumer<Shell>, inputs: &Receiver<Input>) {
    let shell = consumer.context();
    loop {
        while let Ok(input) = inputs.try_recv() {
            if !shell.handle(consumer, input) {
                return;
            }
        }
        let now = Instant::now();
        let wait = match shell.wake_at() {
            Some(at) if at <= now => {
                shell.step(consumer, Event::Tick);
                Duration::ZERO
            }
            Some(at) => (at - now).min(POLL),
            None => POLL,
        };
        // Serves rebalances. Records are in queues of their own. Errors are
        // logged by the client, which connects and joins again on its own.
        let _ = consumer.poll(Duration::ZERO);
        let received = (0..RECORDS).take_while(|_| shell.receive(consumer));
        if received.count() == 0 {
            // While a write runs, its answer is awaited: the next one starts at
            // once.
            if !shell.awaits_answer() {
                let _ = consumer.poll(wait);
            } else if let Ok(input) = inputs.recv_timeout(wait)
                && !shell.handle(consumer, input)
            {
                return;
            }
        }
        if shell.is_finished() {
            return;
        }
    }
}

//! Events of the consumer to the state machine, and its effects to the consumer.
//!
//! All of it runs on the polling thread: librdkafka calls the context only
//! within `poll`.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{
    BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance,
};
use rdkafka::error::KafkaResult;
use rdkafka::message::Message as _;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use week06::shave::{self, Effect, Event, Partition, Record};

use super::tasks::{Message, Tasks};
use super::{Config, Input};

/// The context of the consumer.
pub(super) struct Shell {
    state: Mutex<State>,
    queues: Mutex<Queues>,
    /// The consumer that has this context.
    consumer: OnceLock<Weak<BaseConsumer<Self>>>,
    tasks: Tasks,
    topic: String,
}

/// The records of each partition, in queues of their own. A pause is then that
/// nobody takes records. It is tempting to call `pause`, but librdkafka 2.12
/// discards the records that it has fetched ahead, and continues up to a second
/// after `resume`.
#[derive(Default)]
struct Queues {
    all: VecDeque<(Partition, PartitionQueue<Shell>)>,
    is_paused: bool,
}

/// Locked for one step, and never while librdkafka is called.
struct State {
    job: shave::Job<Arc<Message>>,
    /// Whether a write or a dead letter has no answer yet.
    awaits_answer: bool,
}

/// The most attempts to read the committed offsets, and the wait for each. The
/// polling thread waits for them.
const COMMITTED_TRIES: u32 = 5;
const COMMITTED_WAIT: Duration = Duration::from_secs(1);

type Effects = Vec<Effect<Arc<Message>>>;

impl Shell {
    pub(super) fn new(config: &Config, tasks: Tasks) -> Self {
        let job = shave::Job::new(config.batch);
        let state = Mutex::new(State { job, awaits_answer: false });
        let queues = Mutex::default();
        let consumer = OnceLock::new();
        Self { state, queues, consumer, tasks, topic: config.topic.clone() }
    }

    /// Subscribes, and from then on takes the records of each partition.
    pub(super) fn subscribe(
        consumer: &Arc<BaseConsumer<Self>>,
    ) -> KafkaResult<()> {
        let shell = consumer.context();
        let weak = Arc::downgrade(consumer);
        shell.consumer.set(weak).expect("it subscribes once");
        consumer.subscribe(&[&shell.topic])
    }

    /// Releases the consumer, which the queues hold.
    pub(super) fn close(&self) {
        self.queues().all.clear();
    }

    /// Handles an input. Returns false if the job is aborted.
    pub(super) fn handle(
        &self,
        consumer: &BaseConsumer<Self>,
        input: Input,
    ) -> bool {
        match input {
            Input::Event(answer) => {
                self.state().awaits_answer = false;
                self.step(consumer, answer);
            }
            Input::Stop => self.step(consumer, Event::Stop),
            Input::Abort => return false,
            Input::Stall(time) => {
                let until = Instant::now() + time;
                while let Some(left) =
                    until.checked_duration_since(Instant::now())
                {
                    thread::park_timeout(left);
                }
            }
        }
        true
    }

    /// Steps with the next record, one of each partition in turn. Returns false
    /// if there is none, or while the job pauses.
    pub(super) fn receive(&self, consumer: &BaseConsumer<Self>) -> bool {
        let Some(record) = self.queues().pop() else { return false };
        self.step(consumer, Event::Polled(record));
        true
    }

    pub(super) fn step(
        &self,
        consumer: &BaseConsumer<Self>,
        event: Event<Arc<Message>>,
    ) {
        let effects = self.state().job.step(event, Instant::now());
        self.perform(consumer, effects);
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.state().job.wake_at()
    }

    pub(super) fn awaits_answer(&self) -> bool {
        self.state().awaits_answer
    }

    pub(super) fn is_finished(&self) -> bool {
        self.state().job.is_finished()
    }

    fn perform(&self, consumer: &BaseConsumer<Self>, effects: Effects) {
        for effect in effects {
            match effect {
                Effect::Write(batch) => {
                    self.state().awaits_answer = true;
                    self.tasks.write(batch);
                }
                Effect::DeadLetter(record) => {
                    self.state().awaits_answer = true;
                    self.tasks.send_dead_letter(&record);
                }
                Effect::Commit(offsets) => {
                    let committed = self.commit(consumer, &offsets);
                    let event = if committed.is_ok() {
                        Event::Committed
                    } else {
                        Event::CommitFailed
                    };
                    self.step(consumer, event);
                }
                Effect::LastCommit(partition, offset) => {
                    let _ = self.commit(consumer, &[(partition, offset)]);
                }
                Effect::Pause => self.queues().is_paused = true,
                Effect::Resume => self.queues().is_paused = false,
            }
        }
    }

    /// Waits for the answer, because nothing of the partition may be under way
    /// when it is revoked. Without a callback in C, librdkafka does not report
    /// the result of an asynchronous commit either.
    fn commit(
        &self,
        consumer: &BaseConsumer<Self>,
        offsets: &[(Partition, i64)],
    ) -> KafkaResult<()> {
        let mut list = TopicPartitionList::new();
        for &(partition, offset) in offsets {
            let offset = Offset::Offset(offset);
            list.add_partition_offset(&self.topic, partition, offset)?;
        }
        let committed = consumer.commit(&list, CommitMode::Sync);
        if committed.is_err() {
            self.tasks.counters.refused_commits.fetch_add(1, Relaxed);
        }
        committed
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queues {
    fn pop(&mut self) -> Option<Record<Arc<Message>>> {
        if self.is_paused {
            return None;
        }
        for _ in 0..self.all.len() {
            self.all.rotate_left(1);
            let (partition, queue) = self.all.front()?;
            // An error is logged by the client, which tries again.
            if let Some(Ok(message)) = queue.poll(Duration::ZERO) {
                let payload = message.payload().unwrap_or_default();
                let value = Arc::new(Message::decode(payload));
                let (partition, offset) = (*partition, message.offset());
                return Some(Record { partition, offset, value });
            }
        }
        None
    }
}

impl ClientContext for Shell {}

impl ConsumerContext for Shell {
    /// Called before partitions are given back, or taken.
    fn pre_rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        rebalance: &Rebalance<'_>,
    ) {
        match rebalance {
            Rebalance::Assign(partitions) => {
                let consumer = self.consumer.get().and_then(Weak::upgrade);
                for element in partitions.elements() {
                    // Before the first record is fetched: none may be in the
                    // queue of the consumer, behind which it would be overtaken.
                    let partition = element.partition();
                    let queue = consumer.as_ref().and_then(|consumer| {
                        consumer.split_partition_queue(&self.topic, partition)
                    });
                    let queue = queue.map(|queue| (partition, queue));
                    self.queues().all.extend(queue);
                }
            }
            Rebalance::Revoke(partitions) => {
                let is_lost = consumer.assignment_lost();
                for element in partitions.elements() {
                    let partition = element.partition();
                    self.queues().all.retain(|(other, _)| *other != partition);
                    let event = match is_lost {
                        true => Event::Lost(partition),
                        false => Event::Revoked(partition),
                    };
                    self.step(consumer, event);
                }
            }
            Rebalance::Error(_) => {} // the client has logged it
        }
    }

    fn post_rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        rebalance: &Rebalance<'_>,
    ) {
        let Rebalance::Assign(partitions) = rebalance else { return };
        let committed = committed(consumer, partitions);
        for element in partitions.elements() {
            let partition = element.partition();
            let found = committed.as_ref().and_then(|committed| {
                committed.find_partition(&self.topic, partition)
            });
            let next = match found.map(|element| element.offset()) {
                Some(Offset::Offset(next)) => next,
                _ => 0, // nothing was committed
            };
            self.step(consumer, Event::Assigned { partition, next });
        }
    }
}

/// Returns the committed offsets, or `None` if the broker does not say them.
///
/// The client reads them, too, and begins there. But it has been seen to begin
/// again at the first record of a partition that was read to its end. The job
/// drops records below the committed offset, so that the offset never falls.
fn committed(
    consumer: &BaseConsumer<Shell>,
    partitions: &TopicPartitionList,
) -> Option<TopicPartitionList> {
    (0..COMMITTED_TRIES).find_map(|_| {
        consumer.committed_offsets(partitions.clone(), COMMITTED_WAIT).ok()
    })
}

#[cfg(test)]
mod tests {
    use std::num::NonZero;
    use std::sync::mpsc::sync_channel;

    use rdkafka::ClientConfig;
    use rdkafka::mocking::MockCluster;
    use tokio::runtime::Handle;

    use super::super::{Config, consumer};
    use super::*;
    use crate::store::Store;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(flavor = "multi_thread")]
    async fn records_below_the_committed_offset_are_not_written_again() {
        let brokers = MockCluster::new(1).unwrap();
        brokers.create_topic("comments", 2, 1).unwrap();
        let max_waiting = NonZero::new(10).unwrap();
        let config = Config {
            brokers: brokers.bootstrap_servers(),
            group: "job".to_owned(),
            topic: "comments".to_owned(),
            dead_letters: "dead".to_owned(),
            batch: shave::Config {
                max_batch: max_waiting,
                linger: SECOND,
                max_waiting,
                retry_after: SECOND,
            },
            max_poll_interval: 60 * SECOND,
            write_timeout: SECOND,
        };
        let mut offsets = TopicPartitionList::new();
        let next = Offset::Offset(5);
        offsets.add_partition_offset("comments", 0, next).unwrap();
        let earlier: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &config.brokers)
            .set("group.id", &config.group)
            .create()
            .unwrap();
        earlier.commit(&offsets, CommitMode::Sync).unwrap();

        let dir = tempfile::tempdir().unwrap();
        let url =
            format!("sqlite:{}", dir.path().join("comments.db").display());
        let store = Store::connect(&url).await.unwrap();
        let (inputs, _received) = sync_channel(10);
        let runtime = Handle::current();
        let counters = Arc::default();
        let tasks = Tasks::new(&config, runtime, store, None, inputs, counters);
        let shell = Shell::new(&config, tasks.unwrap());
        let consumer = consumer(&config, shell).unwrap();
        let mut assigned = TopicPartitionList::new();
        assigned.add_partition("comments", 0);
        assigned.add_partition("comments", 1);
        let shell = consumer.context();
        shell.post_rebalance(&consumer, &Rebalance::Assign(&assigned));

        let polled = |partition, offset| {
            let value = Arc::new(Message::decode(b"{}"));
            Event::Polled(Record { partition, offset, value })
        };
        let is_waiting = || shell.wake_at().is_some();
        shell.step(&consumer, polled(0, 0));
        shell.step(&consumer, polled(0, 4));
        assert!(!is_waiting(), "offsets 0 and 4 are below the committed 5");
        shell.step(&consumer, polled(0, 5));
        assert!(is_waiting(), "offset 5 is the first to be written");
        shell.step(&consumer, Event::Revoked(0));
        assert!(!is_waiting(), "the partition was revoked");
        shell.step(&consumer, polled(1, 0));
        assert!(is_waiting(), "nothing was committed of partition 1");
    }
}

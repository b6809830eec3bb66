//! Back-pressure: the producer refuses comments while too many wait.
//!
//! **Question.** Kafka accepts comments faster than the database stores them,
//! until its disks are full or old records are deleted. How does the API notice
//! in time, and without flapping?
//!
//! **Idea.** The **lag** is the number of records from the committed offsets of
//! the job to the ends of the partitions. A thread asks the brokers for it. Above
//! `high` the gate closes, and it opens when the lag is at most `low`: between the
//! two it stays as it is (hysteresis). Records that this process has sent since
//! the last answer count as well, so a burst between two answers is seen.
//!
//! **Guarantee.** While the gate is closed, this process sends nothing. It closes
//! at the latest with the answer after the one in which the lag has passed
//! `high`. A refused caller gets a time to wait that follows from the speed of the
//! job.
//!
//! **Cost.** If the brokers do not answer for `stale_after`, the gate opens. The
//! same brokers have to acknowledge each comment, so they are the gate then. It is
//! tempting to close it, but then a fault of the measurement alone is an outage.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::{Offset, TopicPartitionList};

/// The settings of a [`Backlog`].
#[derive(Debug, Clone)]
pub struct Config {
    /// The bootstrap servers.
    pub brokers: String,
    /// The topic of the comments.
    pub topic: String,
    /// The consumer group of the job.
    pub group: String,
    /// With a larger lag, comments are refused.
    pub high: u64,
    /// With a lag of at most this, they are accepted again.
    pub low: u64,
    /// The time between two questions to the brokers.
    pub every: Duration,
    /// A lag that is older is unknown.
    pub stale_after: Duration,
}

/// Watches the lag of the job. Clones share what they know. When the last one is
/// dropped, the thread ends.
#[derive(Debug, Clone)]
pub struct Backlog {
    gate: Arc<Mutex<Gate>>,
}

/// The decision, without the brokers.
#[derive(Debug)]
struct Gate {
    high: u64,
    low: u64,
    stale_after: Duration,
    is_closed: bool,
    measured: Option<Measured>,
    /// The records that were sent since then.
    sent: u64,
    /// Records per second that the job has written lately.
    speed: f64,
}

#[derive(Debug, Clone, Copy)]
struct Measured {
    lag: u64,
    /// The sum of the committed offsets.
    written: u64,
    at: Instant,
}

/// The bounds of the time after which a refused caller tries again.
const RETRY_AFTER: [Duration; 2] =
    [Duration::from_secs(1), Duration::from_secs(30)];

/// The longest wait for one answer of a broker.
const ANSWER: Duration = Duration::from_secs(1);

impl Backlog {
    /// Starts the thread that measures the lag.
    ///
    /// # Errors
    ///
    /// Returns an error if librdkafka refuses a setting.
    pub fn watch(config: Config) -> KafkaResult<Self> {
        let client: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &config.brokers)
            .set("group.id", &config.group)
            .set("enable.auto.commit", "false")
            .create()?;
        let gate = Gate {
            high: config.high,
            low: config.low,
            stale_after: config.stale_after,
            is_closed: false,
            measured: None,
            sent: 0,
            speed: 0.0,
        };
        let gate = Arc::new(Mutex::new(gate));
        let shared = Arc::downgrade(&gate);
        thread::spawn(move || measure_until_dropped(&client, &config, &shared));
        Ok(Self { gate })
    }

    /// Counts a record that is to be sent. `in_flight` is the number of records
    /// of this process that wait for their acknowledgment.
    ///
    /// # Errors
    ///
    /// Returns the time after which another attempt makes sense, if too many
    /// records wait. The record is not counted.
    pub fn admit(&self, in_flight: u64) -> Result<(), Duration> {
        lock(&self.gate).admit(in_flight, Instant::now())
    }

    /// Returns the number of records that wait to be written, as far as it is
    /// known.
    #[must_use]
    pub fn lag(&self) -> Option<u64> {
        lock(&self.gate).lag(0, Instant::now())
    }
}

impl Gate {
    fn admit(&mut self, in_flight: u64, now: Instant) -> Result<(), Duration> {
        let Some(lag) = self.lag(in_flight, now) else {
            self.is_closed = false;
            return Ok(());
        };
        if lag > self.high {
            self.is_closed = true;
        } else if lag <= self.low {
            self.is_closed = false;
        }
        if self.is_closed {
            let seconds = lag.saturating_sub(self.low) as f64 / self.speed;
            let [shortest, longest] = RETRY_AFTER;
            // The job may stand still: the quotient is infinite then.
            let retry_after = Duration::try_from_secs_f64(seconds.ceil());
            let retry_after = retry_after.unwrap_or(longest);
            return Err(retry_after.clamp(shortest, longest));
        }
        self.sent += 1;
        Ok(())
    }

    fn lag(&self, in_flight: u64, now: Instant) -> Option<u64> {
        let measured = self.measured?;
        let age = now.saturating_duration_since(measured.at);
        // Records in flight were sent since, or were not yet there to measure.
        let unseen = self.sent.max(in_flight);
        (age <= self.stale_after).then_some(measured.lag + unseen)
    }

    /// Takes a measurement that began when `sent_before` records were sent.
    fn update(&mut self, new: Measured, sent_before: u64) {
        if let Some(old) = self.measured {
            let time = new.at.saturating_duration_since(old.at).as_secs_f64();
            let speed = new.written.saturating_sub(old.written) as f64 / time;
            // The mean of the last few measurements: one batch is no speed.
            self.speed += (speed - self.speed) / 4.0;
        }
        self.measured = Some(new);
        self.sent -= sent_before;
    }
}

fn measure_until_dropped(
    client: &BaseConsumer,
    config: &Config,
    gate: &Weak<Mutex<Gate>>,
) {
    while let Some(sent) = gate.upgrade().map(|gate| lock(&gate).sent) {
        // An error leaves the last measurement, until it is stale.
        if let Ok(measured) = measure(client, config)
            && let Some(gate) = gate.upgrade()
        {
            lock(&gate).update(measured, sent);
        }
        // Serves the events of the client, of which none is a record.
        let _ = client.poll(config.every);
    }
}

fn measure(client: &BaseConsumer, config: &Config) -> KafkaResult<Measured> {
    let at = Instant::now();
    let metadata = client.fetch_metadata(Some(&config.topic), ANSWER)?;
    let partitions = metadata.topics().iter().flat_map(|t| t.partitions());
    let mut asked = TopicPartitionList::new();
    for partition in partitions {
        asked.add_partition(&config.topic, partition.id());
    }
    let committed = client.committed_offsets(asked, ANSWER)?;
    let (mut lag, mut written) = (0, 0);
    for element in committed.elements() {
        let (first, end) = client.fetch_watermarks(
            &config.topic,
            element.partition(),
            ANSWER,
        )?;
        let next = match element.offset() {
            Offset::Offset(next) => next.max(first),
            _ => first, // nothing was committed
        };
        lag += u64::try_from(end - next).unwrap_or(0);
        written += next.unsigned_abs();
    }
    Ok(Measured { lag, written, at })
}

fn lock(gate: &Mutex<Gate>) -> MutexGuard<'_, Gate> {
    gate.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
impl Backlog {
    /// Creates a backlog that has measured no waiting record just now.
    pub(crate) fn measured_as_empty(high: u64) -> Self {
        let measured = Measured { lag: 0, written: 0, at: Instant::now() };
        let gate = Gate {
            high,
            low: 0,
            stale_after: Duration::MAX,
            is_closed: false,
            measured: Some(measured),
            sent: 0,
            speed: 0.0,
        };
        Self { gate: Arc::new(Mutex::new(gate)) }
    }

    /// Measures the same again. No record counts as sent since.
    pub(crate) fn measure_again(&self) {
        let mut gate = lock(&self.gate);
        let sent = gate.sent;
        let at = Instant::now();
        gate.update(Measured { lag: 0, written: 0, at }, sent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn gate() -> Gate {
        Gate {
            high: 100,
            low: 40,
            stale_after: 5 * SECOND,
            is_closed: false,
            measured: None,
            sent: 0,
            speed: 0.0,
        }
    }

    #[test]
    fn the_gate_closes_above_high_and_opens_at_low() {
        let (mut gate, at) = (gate(), Instant::now());
        let mut is_open = |lag| {
            let sent = gate.sent;
            gate.update(Measured { lag, written: 0, at }, sent);
            gate.admit(0, at).is_ok()
        };
        assert!(is_open(100));
        assert!(!is_open(101));
        assert!(!is_open(41));
        assert!(is_open(40));
        assert!(is_open(99));
    }

    #[test]
    fn records_that_were_sent_since_the_measurement_count() {
        let (mut gate, at) = (gate(), Instant::now());
        gate.update(Measured { lag: 50, written: 0, at }, 0);
        let admitted = (0..1000).filter(|_| gate.admit(0, at).is_ok()).count();
        assert_eq!(admitted, 51);
        assert_eq!(gate.lag(0, at), Some(101));
        assert_eq!(gate.lag(200, at), Some(250), "200 are in flight");
        gate.update(Measured { lag: 10, written: 91, at }, 51);
        assert!(gate.admit(0, at).is_ok());
    }

    #[test]
    fn a_lag_that_is_unknown_or_stale_opens_the_gate() {
        let (mut gate, at) = (gate(), Instant::now());
        assert_eq!(gate.admit(0, at), Ok(()));
        gate.update(Measured { lag: 1000, written: 0, at }, 0);
        assert!(gate.admit(0, at + 5 * SECOND).is_err());
        assert_eq!(gate.admit(0, at + 6 * SECOND), Ok(()));
        assert_eq!(gate.lag(0, at + 6 * SECOND), None);
    }

    #[test]
    fn the_time_to_wait_follows_from_the_speed_of_the_job() {
        let (mut gate, mut at) = (gate(), Instant::now());
        gate.update(Measured { lag: 1040, written: 0, at }, 0);
        assert_eq!(gate.admit(0, at), Err(RETRY_AFTER[1]));
        for second in 1..50 {
            at += SECOND;
            gate.update(Measured { lag: 1040, written: 100 * second, at }, 0);
        }
        let retry_after = gate.admit(0, at).unwrap_err();
        assert!(
            (10..=11).contains(&retry_after.as_secs()),
            "1,000 records at 100 per second: {retry_after:?}"
        );
    }
}

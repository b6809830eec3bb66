//! The process that publishes the outbox from the log of Postgres.
//!
//! The slot exists before the first debit. In a run with chaos, the process may
//! be killed at two moments that are rare otherwise:
//!
//! - after it has received a message, and before it publishes the message. Then
//!   its successor has to receive the message again. The pause before it is long
//!   enough for a status update, so a tailer that confirms on receipt loses the
//!   message;
//! - between the acknowledgment of a message and the confirmation of its
//!   position. Then its successor publishes the message again, and the inbox
//!   drops it.

use std::num::NonZero;
use std::str::FromStr as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rdkafka::producer::FutureProducer;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use week08::tailer::{self, Message};
use week08_transfer::tail::{self, Config, Publisher};

use crate::child::Context;
use crate::report::Reports;
use crate::{kafka, outbox, print};

/// The messages in flight, as many as a relay reads at a time.
const IN_FLIGHT: NonZero<usize> = NonZero::new(100).expect("it is positive");

/// How long the process waits if the server has not noticed yet that its
/// predecessor is dead.
const IN_USE: Duration = Duration::from_millis(10);

/// How often a status update is sent.
const STATUS: Duration = Duration::from_secs(1);

/// With chaos, how often a status update is sent.
const CHAOS_STATUS: Duration = Duration::from_millis(1);

/// With chaos, how long a message waits before it is published. It is as if the
/// broker were slow: the mock acknowledges at once.
const DELAY: Duration = Duration::from_millis(20);

/// How long the process waits after another error. It has nothing to give up
/// for: the log is kept until it is confirmed.
const AGAIN: Duration = Duration::from_millis(500);

/// Kafka, and the parent that is told about each message that is received and
/// about each acknowledgment.
struct Reported {
    producer: FutureProducer,
    reports: Reports,
}

/// Publishes the outbox until the process is killed.
pub(crate) async fn tail(
    context: Context,
    url: &str,
    brokers: &str,
) -> Result<()> {
    let producer = kafka::producer(brokers)?;
    let mut config = config(url)?;
    if context.reports.are_all_written() {
        config.tailer.status_interval_ms = CHAOS_STATUS.as_millis() as u64;
    }
    let publisher = Reported { producer, reports: context.reports };
    loop {
        let never = CancellationToken::new();
        match tail::run(config.clone(), &publisher, never).await {
            Ok(()) => return Ok(()),
            Err(error) if error.needs_a_person() => return Err(error.into()),
            Err(error) if error.is_slot_in_use() => sleep(IN_USE).await,
            Err(error) => {
                let error = print::chain(&error.into());
                eprintln!("the tailer connects again: {error}");
                sleep(AGAIN).await;
            }
        }
    }
}

impl Publisher for Reported {
    async fn publish(&self, message: Message) -> bool {
        let text = &message.value;
        if self.reports.are_all_written() {
            sleep(DELAY).await;
            let id = outbox::id(text);
            self.reports.report(&format!("has received {id}")).await;
        }
        let published = outbox::publish(&self.producer, text).await;
        let Some(id) = published else { return false };
        self.reports.report(&format!("has published {id}")).await;
        true
    }
}

/// Returns the settings for a database. All databases of a server share the
/// names of its slots, so a slot has the name of its database.
pub(crate) fn config(url: &str) -> Result<Config> {
    let options = PgConnectOptions::from_str(url)?;
    let slot = options.get_database().context("the URL names no database")?;
    let (reports, _) = watch::channel(None);
    Ok(Config {
        url: url.to_owned(),
        slot: slot.to_owned(),
        tailer: tailer::Config {
            schema: "public".to_owned(),
            table: "outbox".to_owned(),
            max_unacknowledged: IN_FLIGHT,
            retry_ms: 50,
            status_interval_ms: STATUS.as_millis() as u64,
            lag_limit: 1 << 30,
        },
        tick: Duration::from_millis(50),
        probe: Duration::from_secs(1),
        reports,
    })
}

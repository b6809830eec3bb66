//! Transaction log tailing on Postgres.
//!
//! *Question.* [`Tailer`] is pure. How does it get the log of a real server, and
//! how does the server learn the confirmed position?
//!
//! *Idea.* One task waits for three things at a time: the stream, if the tailer
//! wants input, the acknowledgments of the broker, and the clock. The client
//! decodes `Begin` and `Commit` for its own use, so their bytes are written once
//! more for [`Decoder`]. The end of the log comes from a second connection.
//!
//! *Guarantee.* After [`run`] has ended in any way, also by a crash or by a
//! dropped future, the next call publishes what is not confirmed.
//!
//! *Cost.* Messages that were acknowledged shortly before the end may be
//! published again. The server may need a moment to see that a connection has
//! ended, and refuses the next one: see [`TailError::is_slot_in_use`]. A message
//! may be published before its transaction is visible in the database.

pub mod kafka;

use std::pin::pin;
use std::str::FromStr;
use std::time::Duration;

use futures_util::stream::{self, FuturesUnordered, Stream, StreamExt as _};
use pgwire_replication::{
    Lsn as WireLsn, PgWireError, ReplicationClient, ReplicationConfig,
    ReplicationEvent,
};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use week08::pgoutput::Decoder;
use week08::replication::{self, Lsn, StreamError};
use week08::tailer::{self, BadRow, Effect, Event, Lag, Message, Tailer};

/// What [`run`] tails.
#[derive(Debug, Clone)]
pub struct Config {
    /// The database: `postgres://user@host/database`. Its server has the setting
    /// `wal_level = logical`, and trusts the user. (For a password, the client
    /// needs its feature `scram`.)
    pub url: String,
    /// The name of the slot and of the publication: lower-case letters, digits
    /// and `_`.
    pub slot: String,
    /// The settings of the tailer.
    pub tailer: tailer::Config,
    /// How often the tailer looks at the clock.
    pub tick: Duration,
    /// How often the end of the log is asked for.
    pub probe: Duration,
    /// Has the last report of the lag.
    pub reports: watch::Sender<Option<Lag>>,
}

/// A broker.
pub trait Publisher: Sync {
    /// Stores a message durably, and returns whether it was acknowledged. After
    /// `false`, the broker may have stored it all the same.
    ///
    /// If the future is dropped, the broker may store it, also later.
    fn publish(&self, message: Message) -> impl Future<Output = bool> + Send;
}

/// The reason why [`run`] has ended.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// A statement has failed.
    #[error("failed to ask the database")]
    Database(#[from] sqlx::Error),
    /// [`create`] was not called, or somebody has dropped the slot. A new slot
    /// does not have the messages that were not published yet, so a person has
    /// to decide: first [`create`], and then publish what is missing.
    #[error("the slot {0} does not exist")]
    NoSlot(String),
    /// The replication connection has failed, or the slot has another reader.
    #[error("failed to read the log")]
    Replication(#[from] PgWireError),
    /// The log has bytes that are not understood.
    #[error("failed to decode the log")]
    Stream(#[from] StreamError),
    /// The outbox has a row that is no message. A person has to decide.
    #[error("failed to read the outbox")]
    BadRow(#[from] BadRow),
}

impl TailError {
    /// Returns whether the slot has another reader. It may be the connection of
    /// an earlier [`run`], which the server has not ended yet.
    #[must_use]
    pub fn is_slot_in_use(&self) -> bool {
        // `object_in_use`. The client has the code only in its text.
        matches!(self, Self::Replication(PgWireError::Server(text))
            if text.contains("55006"))
    }

    /// Returns whether the next [`run`] fails, too, until a person has decided.
    #[must_use]
    pub fn needs_a_person(&self) -> bool {
        matches!(self, Self::BadRow(_) | Self::NoSlot(_))
    }
}

/// Creates the publication and the slot if they are missing.
///
/// The slot comes last: it decodes with the publications that existed at each
/// position of the log. It has the log from its creation on. If each row is
/// deleted in the transaction that inserts it, create the slot before the first
/// row: an earlier one is never published.
///
/// # Errors
///
/// Returns an error if the database does not answer, or refuses a statement.
pub async fn create(config: &Config) -> sqlx::Result<()> {
    let options = PgConnectOptions::from_str(&config.url)?;
    let mut database = PgConnection::connect_with(&options).await?;
    let Config { slot, tailer, .. } = config;
    let exists = "SELECT count(*) FROM pg_publication WHERE pubname = $1";
    let exists = sqlx::query_scalar::<_, i64>(exists).bind(slot);
    if exists.fetch_one(&mut database).await? == 0 {
        let (schema, table) = (quote(&tailer.schema), quote(&tailer.table));
        let create = format!(
            "CREATE PUBLICATION {} FOR TABLE {schema}.{table}
            WITH (publish = 'insert')",
            quote(slot)
        );
        sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut database).await?;
    }
    let create = "
        SELECT pg_create_logical_replication_slot($1, 'pgoutput')
        WHERE NOT EXISTS
            (SELECT FROM pg_replication_slots WHERE slot_name = $1)";
    sqlx::query(create).bind(slot).execute(&mut database).await?;
    database.close().await
}

/// Publishes the messages of the outbox until `shutdown` is cancelled. Call
/// [`create`] before, once.
///
/// # Errors
///
/// Returns an error if a connection fails. The caller calls again after a pause,
/// unless a person [has to decide](TailError::needs_a_person).
///
/// # Cancel safety
///
/// If the future is dropped, no message is lost: the next call publishes it.
pub async fn run<P: Publisher>(
    config: Config,
    publisher: &P,
    shutdown: CancellationToken,
) -> Result<(), TailError> {
    let options = PgConnectOptions::from_str(&config.url)?;
    let mut database = PgConnection::connect_with(&options).await?;
    let Some(confirmed) = confirmed(&mut database, &config.slot).await? else {
        return Err(TailError::NoSlot(config.slot));
    };
    let mut client =
        ReplicationClient::connect(wire_config(&options, &config, confirmed))
            .await?;
    client.wait_started().await?;

    let begin = Instant::now();
    let now_ms = || begin.elapsed().as_millis() as u64;
    let mut tailer = Tailer::new(config.tailer, confirmed, now_ms());
    let mut decoder = Decoder::default();
    let mut publishing = FuturesUnordered::new();
    let mut ticks = interval(config.tick);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ends = pin!(log_ends(database, config.probe));
    loop {
        let event = tokio::select! {
            () = shutdown.cancelled() => break,
            received = client.recv(), if tailer.wants_input() => {
                let Some(received) = received? else { break };
                match decode(&mut decoder, received)? {
                    Some(event) => event,
                    None => continue,
                }
            }
            Some(event) = publishing.next() => event,
            Some(end) = ends.next() => Event::LogEnd(end?),
            _ = ticks.tick() => Event::Tick,
        };
        for effect in tailer.step(event, now_ms())? {
            match effect {
                Effect::Publish(message) => {
                    publishing.push(publish(publisher, message));
                }
                // The client sends it within `status_interval`. It has already
                // answered a keepalive, and repeats the position by itself.
                Effect::Confirm(Lsn(end)) => {
                    client.update_applied_lsn(WireLsn(end));
                }
                Effect::Report(lag) => {
                    config.reports.send_replace(Some(lag));
                }
            }
        }
    }
    Ok(client.shutdown().await?)
}

async fn publish<P: Publisher>(publisher: &P, message: Message) -> Event {
    let id = message.id;
    if publisher.publish(message).await {
        Event::Published(id)
    } else {
        Event::PublishFailed(id)
    }
}

/// Returns the confirmed position of a slot, or none if there is no such slot.
async fn confirmed(
    database: &mut PgConnection,
    slot: &str,
) -> sqlx::Result<Option<Lsn>> {
    let confirmed = "
        SELECT (confirmed_flush_lsn - '0/0')::bigint
        FROM pg_replication_slots WHERE slot_name = $1";
    let confirmed = sqlx::query_scalar::<_, i64>(confirmed).bind(slot);
    let confirmed = confirmed.fetch_optional(database).await?;
    Ok(confirmed.map(|confirmed| Lsn(confirmed.cast_unsigned())))
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn wire_config(
    options: &PgConnectOptions,
    config: &Config,
    Lsn(confirmed): Lsn,
) -> ReplicationConfig {
    let host = match options.get_socket() {
        Some(socket) => socket.to_string_lossy().into_owned(),
        None => options.get_host().to_owned(),
    };
    let user = options.get_username();
    let mut wire = ReplicationConfig::new(
        host,
        user,
        "", // without the feature `scram`, it is never sent
        options.get_database().unwrap_or(user),
        config.slot.as_str(),
        config.slot.as_str(),
    );
    wire.port = options.get_port();
    wire.start_lsn = WireLsn(confirmed);
    let interval = Duration::from_millis(config.tailer.status_interval_ms);
    wire.status_interval = interval;
    wire.idle_wakeup_interval = interval;
    // A few: the tailer limits what is in memory.
    wire.buffer_events = 64;
    wire
}

/// Returns the end of the log, again and again.
fn log_ends(
    database: PgConnection,
    pause: Duration,
) -> impl Stream<Item = sqlx::Result<Lsn>> {
    stream::unfold(database, move |mut database| async move {
        sleep(pause).await;
        let end = "SELECT (pg_current_wal_lsn() - '0/0')::bigint";
        let end = sqlx::query_scalar::<_, i64>(end).fetch_one(&mut database);
        let end = end.await.map(|end| Lsn(end.cast_unsigned()));
        Some((end, database))
    })
}

/// Returns the event of the tailer that `received` completes.
fn decode(
    decoder: &mut Decoder,
    received: ReplicationEvent,
) -> Result<Option<Event>, StreamError> {
    let decoded = match received {
        ReplicationEvent::KeepAlive { wal_end, reply_requested, .. } => {
            let end = Lsn(wal_end.as_u64());
            return Ok(Some(Event::KeepAlive { end, reply_requested }));
        }
        ReplicationEvent::Begin { final_lsn, xid, commit_time_micros } => {
            let mut begin = vec![b'B'];
            begin.extend(final_lsn.as_u64().to_be_bytes());
            begin.extend(commit_time_micros.to_be_bytes());
            begin.extend(xid.to_be_bytes());
            decoder.push(&begin)?
        }
        ReplicationEvent::XLogData { data, .. } => decoder.push(&data)?,
        ReplicationEvent::Commit { lsn, end_lsn, commit_time_micros } => {
            let mut commit = vec![b'C', 0];
            commit.extend(lsn.as_u64().to_be_bytes());
            commit.extend(end_lsn.as_u64().to_be_bytes());
            commit.extend(commit_time_micros.to_be_bytes());
            decoder.push(&commit)?
        }
        // They are no rows of the outbox.
        ReplicationEvent::Message { .. }
        | ReplicationEvent::StoppedAt { .. } => None,
    };
    Ok(match decoded {
        Some(replication::Event::Transaction(transaction)) => {
            Some(Event::Transaction(transaction))
        }
        Some(replication::Event::Message(_)) | None => None,
    })
}

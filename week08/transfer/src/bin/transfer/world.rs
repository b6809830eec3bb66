//! What the processes of a run share: databases, sockets, and Kafka.

use std::process;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sqlx::any::install_default_drivers;
use sqlx::{AnyConnection, AssertSqlSafe, Connection as _};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use week06_service::broker::{MockBroker, Setup};
use week08_transfer::sql::Ledger;
use week08_transfer::tail;

use crate::child::Options;
use crate::pattern::{Pattern, Role};
use crate::report::Mode;
use crate::{kafka, print, tailer};

/// The databases of a run, its folder of sockets, and its Kafka.
pub(crate) struct World {
    pub(crate) pattern: Pattern,
    pub(crate) dir: TempDir,
    kafka: Option<MockBroker>,
    /// The URL of the database in which others are created.
    server: String,
    prefix: String,
}

/// The accounts of the payment service.
pub(crate) const FROM: std::ops::Range<u64> = 1..9;

/// The accounts of the savings service.
pub(crate) const TO: std::ops::Range<u64> = 101..109;

/// The balance of each account of the payment service.
pub(crate) const BALANCE: i64 = 100_000_000;

/// A consumer that is killed keeps its partitions for so long.
const SESSION: Duration = Duration::from_millis(500);

/// The settings of a server whose log is tailed. Without the second one, a
/// commit is written to the log's file up to 0.6 s later, and only then sent to
/// a tailer.
pub(crate) const SETTINGS: [&str; 2] =
    ["wal_level=logical", "synchronous_commit=on"];

/// The longest time until a server has noticed that a tailer is dead.
const RELEASE: Duration = Duration::from_secs(20);

const PAUSE: Duration = Duration::from_millis(5);

impl World {
    /// Starts Kafka. The server gets the databases from [`Self::create`].
    pub(crate) fn new(pattern: Pattern, server: &str) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let setup =
            Setup { arguments: &[], topics: &[kafka::TOPIC], session: SESSION };
        let kafka =
            pattern.uses_kafka().then(|| MockBroker::spawn(setup)).transpose();
        Ok(Self {
            pattern,
            dir: TempDir::new()?,
            kafka: kafka.context("the mock of Kafka does not start")?,
            server: server.to_owned(),
            prefix: format!("transfer_{}_{number}", process::id()),
        })
    }

    /// Creates the databases on the server. The database of the URL is their
    /// template, so it has to be empty, and nobody may use it.
    ///
    /// After an error, [`Self::delete`] deletes those that were created.
    pub(crate) async fn create(&self) -> Result<()> {
        let (_, template, _) = self.parts()?;
        for name in self.databases() {
            let create = format!("CREATE DATABASE {name} TEMPLATE {template}");
            self.execute(&create).await?;
        }
        for &role in self.pattern.roles() {
            // Creates the tables.
            let ledger = Ledger::connect(&self.url(role)?).await?;
            let (accounts, balance) = match role {
                Role::Payment => (FROM, BALANCE),
                Role::Savings => (TO, 0),
                Role::Relay
                | Role::Tailer
                | Role::Broker
                | Role::Coordinator => (0..0, 0),
            };
            for account in accounts {
                ledger.open_account(account, balance).await?;
            }
            if role == Role::Tailer {
                // Before the first debit.
                tail::create(&tailer::config(&self.url(role)?)?).await?;
            }
        }
        Ok(())
    }

    /// Deletes the databases that exist, and their slots. It is called when the
    /// processes have ended.
    ///
    /// # Errors
    ///
    /// Returns the names of those that are left.
    pub(crate) async fn delete(&self) -> Result<()> {
        let mut left = Vec::new();
        for name in self.databases() {
            if let Err(error) = self.delete_database(&name).await {
                left.push(format!("{name} ({})", print::chain(&error)));
            }
        }
        ensure!(
            left.is_empty(),
            "failed to delete databases, or slots of these names: {}",
            left.join(", ")
        );
        Ok(())
    }

    async fn delete_database(&self, name: &str) -> Result<()> {
        if self.pattern.roles().contains(&Role::Tailer) {
            let dropping = timeout(RELEASE, self.drop_slot(name));
            dropping.await.context("the slot has a reader")??;
        }
        let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
        self.execute(&drop).await
    }

    /// Drops the slot of a database, if there is one. It waits until the server
    /// has noticed that the tailer has ended.
    async fn drop_slot(&self, database: &str) -> Result<()> {
        let drop = format!(
            "SELECT pg_drop_replication_slot(slot_name)
            FROM pg_replication_slots WHERE slot_name = '{database}'"
        );
        while let Err(error) = self.execute(&drop).await {
            let cause = error.downcast_ref::<sqlx::Error>();
            if cause.and_then(sqlx::Error::as_database_error).is_none() {
                return Err(error);
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Returns what a process is told.
    pub(crate) fn options(&self, role: Role, mode: Mode) -> Result<Options> {
        let kafka = self.kafka();
        Ok(Options {
            role,
            pattern: self.pattern,
            mode,
            dir: self.dir.path().to_owned(),
            url: self.url(role)?,
            kafka: kafka.to_owned(),
        })
    }

    /// Returns the bootstrap servers, or nothing without Kafka.
    pub(crate) fn kafka(&self) -> &str {
        self.kafka.as_ref().map_or("", MockBroker::bootstrap)
    }

    /// Returns the URL of the database that a process uses.
    pub(crate) fn url(&self, role: Role) -> Result<String> {
        let (server, _, options) = self.parts()?;
        Ok(format!("{server}/{}{options}", self.name(role.database())))
    }

    /// Splits the URL at the name of its database.
    fn parts(&self) -> Result<(&str, &str, &str)> {
        let end = self.server.find('?').unwrap_or(self.server.len());
        let (url, options) = self.server.split_at(end);
        let (server, database) =
            url.rsplit_once('/').context("the URL names no database")?;
        Ok((server, database, options))
    }

    fn name(&self, database: &str) -> String {
        format!("{}_{database}", self.prefix)
    }

    /// Returns the names of the databases on the server.
    pub(crate) fn databases(&self) -> Vec<String> {
        let roles = self.pattern.roles().iter();
        let mut databases: Vec<_> =
            roles.map(|role| self.name(role.database())).collect();
        databases.dedup();
        databases
    }

    async fn execute(&self, statement: &str) -> Result<()> {
        install_default_drivers();
        let mut connection = AnyConnection::connect(&self.server).await?;
        let statement = sqlx::raw_sql(AssertSqlSafe(statement.to_owned()));
        statement.execute(&mut connection).await?;
        connection.close().await?;
        Ok(())
    }
}

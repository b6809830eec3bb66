//! What the processes of a run share: databases, sockets, and Kafka.

use std::process;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, Result};
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
use crate::{kafka, tailer};

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
    /// Creates the databases on a server. The database of the URL is their
    /// template, so it has to be empty, and nobody may use it.
    pub(crate) async fn create(pattern: Pattern, server: &str) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let setup =
            Setup { arguments: &[], topics: &[kafka::TOPIC], session: SESSION };
        let kafka =
            pattern.uses_kafka().then(|| MockBroker::spawn(setup)).transpose();
        let world = Self {
            pattern,
            dir: TempDir::new()?,
            kafka: kafka.context("the mock of Kafka does not start")?,
            server: server.to_owned(),
            prefix: format!("transfer_{}_{number}", process::id()),
        };
        let (_, template, _) = world.parts()?;
        for database in world.databases() {
            let name = world.name(database);
            let create = format!("CREATE DATABASE {name} TEMPLATE {template}");
            world.execute(create).await?;
        }
        for &role in pattern.roles() {
            // Creates the tables.
            let ledger = Ledger::connect(&world.url(role)?).await?;
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
                tail::create(&tailer::config(&world.url(role)?)?).await?;
            }
        }
        Ok(world)
    }

    /// Deletes the databases. It is called when the processes have ended.
    pub(crate) async fn delete(self) -> Result<()> {
        for database in self.databases() {
            let name = self.name(database);
            if self.pattern.roles().contains(&Role::Tailer) {
                let dropping = timeout(RELEASE, self.drop_slot(&name));
                dropping.await.context("the slot has a reader")?;
            }
            self.execute(format!("DROP DATABASE {name} WITH (FORCE)")).await?;
        }
        Ok(())
    }

    /// Drops the slot of a database, if there is one. It waits until the server
    /// has noticed that the tailer has ended.
    async fn drop_slot(&self, database: &str) {
        let drop = format!(
            "SELECT pg_drop_replication_slot(slot_name)
            FROM pg_replication_slots WHERE slot_name = '{database}'"
        );
        while self.execute(drop.clone()).await.is_err() {
            sleep(PAUSE).await;
        }
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

    fn databases(&self) -> Vec<&'static str> {
        let roles = self.pattern.roles();
        let mut databases: Vec<_> =
            roles.iter().map(|r| r.database()).collect();
        databases.dedup();
        databases
    }

    async fn execute(&self, statement: String) -> Result<()> {
        install_default_drivers();
        let mut connection = AnyConnection::connect(&self.server).await?;
        let statement = sqlx::raw_sql(AssertSqlSafe(statement));
        statement.execute(&mut connection).await?;
        connection.close().await?;
        Ok(())
    }
}

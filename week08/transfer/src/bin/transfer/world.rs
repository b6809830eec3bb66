//! What the processes of a run share: databases, sockets, and Kafka.

use std::process;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, Result};
use sqlx::any::install_default_drivers;
use sqlx::{AnyConnection, AssertSqlSafe, Connection as _};
use tempfile::TempDir;
use week06_service::broker::{MockBroker, Setup};
use week08_transfer::sql::Ledger;

use crate::child::Options;
use crate::kafka;
use crate::pattern::{Pattern, Role};
use crate::report::Mode;

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
                Role::Relay | Role::Broker | Role::Coordinator => (0..0, 0),
            };
            for account in accounts {
                ledger.open_account(account, balance).await?;
            }
        }
        Ok(world)
    }

    /// Deletes the databases. It is called when the processes have ended.
    pub(crate) async fn delete(self) -> Result<()> {
        for database in self.databases() {
            let name = self.name(database);
            self.execute(format!("DROP DATABASE {name} WITH (FORCE)")).await?;
        }
        Ok(())
    }

    /// Returns what a process is told.
    pub(crate) fn options(&self, role: Role, mode: Mode) -> Result<Options> {
        let kafka = self.kafka.as_ref().map_or("", MockBroker::bootstrap);
        Ok(Options {
            role,
            pattern: self.pattern,
            mode,
            dir: self.dir.path().to_owned(),
            url: self.url(role)?,
            kafka: kafka.to_owned(),
        })
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

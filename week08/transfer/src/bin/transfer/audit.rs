//! The auditor: reads both databases, and compares balances with transfers.
//!
//! *Guarantee.* Each database is read in one statement, and so at one moment:
//! first the savings service, and then the payment service. A transfer is
//! debited before it is credited. So each transfer that was seen credited is
//! seen debited, whatever happens between both moments.
//!
//! A tailer is an exception: Postgres writes a commit to its log before it makes
//! the transaction visible. So a transfer may be credited before its debit can
//! be seen, and the auditor reads the payment service again for a while.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use sqlx::{AnyPool, AssertSqlSafe, Row as _};
use tokio::time::{Instant, sleep};
use week08::money::{Message, Transfer};

use crate::pattern::Pattern;
use crate::world::{BALANCE, FROM, World};

/// Reads the databases of a run.
pub(crate) struct Auditor {
    pattern: Pattern,
    payment: AnyPool,
    savings: AnyPool,
    /// The database of the broker or of the coordinator.
    third: AnyPool,
    requested: BTreeMap<u64, Transfer>,
}

/// What the databases have.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Books {
    /// The balances of the payment service.
    pub(crate) payment: i64,
    /// The balances of the savings service.
    pub(crate) savings: i64,
    /// The transfers whose money has left the payment service.
    pub(crate) debited: BTreeMap<u64, Transfer>,
    /// The transfers whose money has arrived.
    pub(crate) credited: BTreeMap<u64, Transfer>,
    /// The rows that some process has still to handle.
    pub(crate) open: usize,
}

/// After so long, a transaction whose commit is in the log is visible.
const VISIBLE: Duration = Duration::from_secs(5);

const PAUSE: Duration = Duration::from_millis(5);

/// The rows of a database, by table and key.
type Rows = BTreeMap<(String, String), String>;

impl Auditor {
    pub(crate) async fn connect(
        world: &World,
        requested: impl IntoIterator<Item = Transfer>,
    ) -> Result<Self> {
        let roles = world.pattern.roles();
        let &[payment, third, savings] = roles else {
            bail!("this pattern is only measured");
        };
        let requested = requested.into_iter().map(|t| (t.id, t)).collect();
        Ok(Self {
            pattern: world.pattern,
            payment: AnyPool::connect(&world.url(payment)?).await?,
            savings: AnyPool::connect(&world.url(savings)?).await?,
            third: AnyPool::connect(&world.url(third)?).await?,
            requested,
        })
    }

    /// Reads the databases, and checks that no money is lost or created.
    ///
    /// # Errors
    ///
    /// Returns what is wrong with the money, or the error of a database.
    pub(crate) async fn read(&self) -> Result<Books> {
        let savings = read(&self.savings).await?;
        let credited = self.transfers(&savings, false)?;
        let begin = Instant::now();
        let (payment, debited) = loop {
            let payment = read(&self.payment).await?;
            let debited = self.transfers(&payment, true)?;
            let is_seen = credited.keys().all(|id| debited.contains_key(id));
            let may_be_late =
                self.pattern == Pattern::Tail && begin.elapsed() < VISIBLE;
            if is_seen || !may_be_late {
                break (payment, debited);
            }
            sleep(PAUSE).await;
        };
        let third = read(&self.third).await?;
        let books = Books {
            payment: balance(&payment)?,
            savings: balance(&savings)?,
            debited,
            credited,
            open: third.iter().filter(|row| self.is_open(*row)).count(),
        };
        let parked = [&payment, &savings].into_iter().flatten();
        if let Some((_, row)) = parked.into_iter().find(|r| r.0.0 == "parked") {
            bail!("{row} is parked");
        }
        books.check(&self.requested)?;
        Ok(books)
    }

    /// Returns the transfers that are debited, or those that are credited.
    fn transfers(
        &self,
        rows: &Rows,
        is_debit: bool,
    ) -> Result<BTreeMap<u64, Transfer>> {
        let mut transfers = BTreeMap::new();
        for ((table, key), value) in rows {
            let transfer = match (self.pattern, is_debit, &table[..]) {
                (Pattern::Outbox | Pattern::Tail, true, "transfers") => {
                    value.parse()?
                }
                (Pattern::Half, true, "transfers") => {
                    match value.strip_prefix("committed ") {
                        Some(transfer) => transfer.parse()?,
                        None => continue,
                    }
                }
                (
                    Pattern::Outbox | Pattern::Tail | Pattern::Half,
                    false,
                    "inbox",
                ) => value.parse::<Message>()?.transfer,
                (Pattern::Tcc, _, "fence") => {
                    // The money leaves with the try, and arrives with the
                    // confirm.
                    match (is_debit, value.split_once(' ')) {
                        (_, Some(("confirmed", transfer)))
                        | (true, Some(("tried", transfer))) => {
                            transfer.parse()?
                        }
                        _ => continue,
                    }
                }
                _ => continue,
            };
            let transfer: Transfer = transfer;
            let other = transfers.insert(transfer.id, transfer);
            ensure!(other.is_none(), "{key} of {table} has the id of another");
        }
        Ok(transfers)
    }

    fn is_open(
        &self,
        ((table, _), value): (&(String, String), &String),
    ) -> bool {
        match (self.pattern, &table[..]) {
            // With a tailer, no row is left after its transaction.
            (Pattern::Outbox | Pattern::Tail | Pattern::Half, "outbox") => true,
            (Pattern::Tcc, "transfers") => {
                let phase = value.split(' ').next();
                !matches!(phase, Some("confirmed" | "cancelled"))
            }
            _ => false,
        }
    }
}

impl Books {
    /// Checks that no money is lost or created.
    fn check(&self, requested: &BTreeMap<u64, Transfer>) -> Result<()> {
        let Self { payment, savings, debited, credited, .. } = self;
        for (id, transfer) in debited.iter().chain(credited) {
            let requested = requested.get(id);
            ensure!(
                requested == Some(transfer),
                "{transfer:?} took effect, but the request is {requested:?}"
            );
        }
        for id in credited.keys() {
            ensure!(debited.contains_key(id), "{id} is credited, not debited");
        }
        let start = BALANCE * FROM.count() as i64;
        let (sum, left) = (sum(debited), start - payment);
        ensure!(left == sum, "{left} cents have left, but {sum} are debited");
        let sum = self::sum(credited);
        ensure!(
            *savings == sum,
            "{savings} cents have arrived, but {sum} are credited"
        );
        Ok(())
    }

    /// Returns the cents of all accounts, with those in flight.
    pub(crate) fn total(&self) -> i64 {
        self.payment + self.in_flight() + self.savings
    }

    /// Returns the cents that are debited and not credited.
    pub(crate) fn in_flight(&self) -> i64 {
        sum(&self.debited) - sum(&self.credited)
    }

    /// Returns the ids of the transfers that are debited and not credited.
    pub(crate) fn transfers_in_flight(&self) -> Vec<u64> {
        let ids = self.debited.keys().copied();
        ids.filter(|id| !self.credited.contains_key(id)).collect()
    }

    /// Returns whether nothing is in flight, and no process has work to do.
    pub(crate) fn are_settled(&self) -> bool {
        self.debited == self.credited && self.open == 0
    }
}

fn sum(transfers: &BTreeMap<u64, Transfer>) -> i64 {
    transfers.values().map(|transfer| i64::from(transfer.cents.get())).sum()
}

fn balance(rows: &Rows) -> Result<i64> {
    let accounts = rows.iter().filter(|row| row.0.0 == "account");
    accounts.map(|(_, cents)| Ok(cents.parse::<i64>()?)).sum()
}

/// Reads a database in one statement.
async fn read(database: &AnyPool) -> Result<Rows> {
    let tables = ["transfers", "outbox", "inbox", "fence", "parked"];
    let mut select =
        "SELECT 'account', id::text, cents::text FROM account".to_owned();
    for table in tables {
        select +=
            &format!(" UNION ALL SELECT '{table}', key, value FROM {table}");
    }
    let rows = sqlx::query(AssertSqlSafe(select)).fetch_all(database).await?;
    let row = |row: &sqlx::any::AnyRow| {
        Ok(((row.try_get(0)?, row.try_get(1)?), row.try_get(2)?))
    };
    rows.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use std::num::NonZero;

    use super::*;

    #[test]
    fn books_that_are_wrong_by_one_cent_or_one_transfer_are_refused() {
        let cents = NonZero::new(100).unwrap();
        let transfer = |id| (id, Transfer { id, from: 1, to: 101, cents });
        let requested = BTreeMap::from([1, 2].map(transfer));
        let start = BALANCE * FROM.count() as i64;
        let books = Books {
            payment: start - 200,
            savings: 100,
            debited: requested.clone(),
            credited: BTreeMap::from([transfer(2)]),
            open: 1,
        };
        books.check(&requested).unwrap();
        assert_eq!(books.in_flight(), 100);
        assert!(!books.are_settled());
        for wrong in [
            Books { payment: start - 201, ..books.clone() },
            Books { payment: start - 300, ..books.clone() },
            Books { savings: 99, ..books.clone() },
            Books { savings: 200, ..books.clone() },
            Books { debited: BTreeMap::new(), ..books.clone() },
            Books { credited: BTreeMap::new(), ..books.clone() },
            Books { credited: BTreeMap::from([transfer(3)]), ..books.clone() },
        ] {
            assert!(wrong.check(&requested).is_err(), "{wrong:?}");
        }
        let other = BTreeMap::from([transfer(2)]);
        assert!(books.check(&other).is_err(), "1 was not requested");
    }
}

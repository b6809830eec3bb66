//! A service's database in memory.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::{Row, Table, Tx};

/// The accounts and tables of one service. Transactions run one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Database {
    /// The balance of each account in cents.
    pub accounts: BTreeMap<u64, i64>,
    /// The rows of all tables.
    pub rows: BTreeMap<(Table, String), Row>,
    next_seq: u64,
}

impl Database {
    /// Creates a database with these accounts and balances.
    pub fn new(accounts: impl IntoIterator<Item = (u64, i64)>) -> Self {
        let accounts = accounts.into_iter().collect();
        Self { accounts, ..Self::default() }
    }

    /// Runs a transaction. It is committed if `should_commit` returns true for
    /// its result, and rolled back otherwise.
    ///
    /// # Panics
    ///
    /// Panics if the transaction waits for anything but this database.
    pub fn transaction<R>(
        &mut self,
        body: impl AsyncFnOnce(&mut Self) -> R,
        should_commit: impl FnOnce(&R) -> bool,
    ) -> R {
        let mut changed = self.clone();
        let result = now(body(&mut changed));
        if should_commit(&result) {
            *self = changed;
        }
        result
    }

    /// Returns the sum of all balances.
    pub fn total(&self) -> i64 {
        self.accounts.values().sum()
    }

    /// Returns the rows of a table by `seq`.
    pub fn table(&self, table: Table) -> Vec<Row> {
        let rows = self.rows.iter().filter(|((other, _), _)| *other == table);
        let mut rows: Vec<_> = rows.map(|(_, row)| row.clone()).collect();
        rows.sort();
        rows
    }
}

/// Returns the result of a future that never waits.
fn now<R>(future: impl Future<Output = R>) -> R {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("a transaction waits for its database alone"),
    }
}

impl Tx for Database {
    type Error = Infallible;

    async fn add(
        &mut self,
        account: u64,
        cents: i64,
    ) -> Result<bool, Infallible> {
        let Some(balance) = self.accounts.get_mut(&account) else {
            return Ok(false);
        };
        let new = balance.checked_add(cents).filter(|new| *new >= 0);
        *balance = new.unwrap_or(*balance);
        Ok(new.is_some())
    }

    async fn insert(
        &mut self,
        table: Table,
        key: &str,
        value: &str,
    ) -> Result<bool, Infallible> {
        let (key, value) = (key.to_owned(), value.to_owned());
        let id = (table, key.clone());
        if self.rows.contains_key(&id) {
            return Ok(false);
        }
        self.next_seq += 1;
        self.rows.insert(id, Row { seq: self.next_seq, key, value });
        Ok(true)
    }

    async fn get(
        &mut self,
        table: Table,
        key: &str,
    ) -> Result<Option<String>, Infallible> {
        let row = self.rows.get(&(table, key.to_owned()));
        Ok(row.map(|row| row.value.clone()))
    }

    async fn replace(
        &mut self,
        table: Table,
        key: &str,
        from: &str,
        to: &str,
    ) -> Result<bool, Infallible> {
        let row = self.rows.get_mut(&(table, key.to_owned()));
        let Some(row) = row.filter(|row| row.value == from) else {
            return Ok(false);
        };
        to.clone_into(&mut row.value);
        Ok(true)
    }

    async fn delete(
        &mut self,
        table: Table,
        key: &str,
    ) -> Result<bool, Infallible> {
        Ok(self.rows.remove(&(table, key.to_owned())).is_some())
    }

    async fn oldest(
        &mut self,
        table: Table,
        limit: usize,
    ) -> Result<Vec<Row>, Infallible> {
        let mut rows = self.table(table);
        rows.truncate(limit);
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_that_is_rolled_back_changes_nothing() {
        let mut database = Database::new([(1, 100)]);
        let mut insert = |key: &'static str, commit: bool| {
            database.transaction(
                async |tx: &mut Database| {
                    assert_eq!(tx.add(1, -10).await, Ok(true));
                    tx.insert(Table::Outbox, key, "").await
                },
                |_| commit,
            )
        };
        assert_eq!(insert("a", true), Ok(true));
        assert_eq!(insert("b", false), Ok(true));
        assert_eq!(insert("c", true), Ok(true));
        assert_eq!(insert("a", false), Ok(false));
        let rows = database.table(Table::Outbox);
        let rows: Vec<_> = rows.iter().map(|r| (r.seq, &r.key[..])).collect();
        assert_eq!(rows, [(1, "a"), (2, "c")]);
        assert_eq!(database.total(), 80);
    }

    #[test]
    fn a_balance_is_never_below_zero() {
        let mut database = Database::new([(1, 100)]);
        for (account, cents, expected) in [
            (1, -101, false),
            (1, -100, true),
            (1, i64::MAX, true),
            (1, 1, false),
            (2, 1, false),
        ] {
            let added = now(database.add(account, cents));
            assert_eq!(added, Ok(expected), "{cents} to account {account}");
        }
        assert_eq!(database.total(), i64::MAX);
    }
}

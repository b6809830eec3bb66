//! Transactions that a test interrupts before each of their statements.

use std::collections::{BTreeMap, BTreeSet};

use week08::money::simulated::Database;
use week08::money::{Row, Table, Tx};

/// The error of a statement that a test lets fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failed;

/// Called before each statement, with what the transaction sees.
pub(crate) type Before<'a> =
    &'a mut (dyn FnMut(&mut Database) -> Result<(), Failed> + Send);

pub(crate) struct Interrupted<'a> {
    pub(crate) tx: &'a mut Database,
    pub(crate) before: Before<'a>,
}

/// Returns what is called before each statement, to let one of them fail.
pub(crate) fn fail_at(
    number: usize,
    seen: &mut usize,
) -> impl FnMut(&mut Database) -> Result<(), Failed> + Send {
    move |_| {
        *seen += 1;
        let seen = *seen;
        assert!(seen <= number, "statement {seen} follows an error of another");
        if seen == number { Err(Failed) } else { Ok(()) }
    }
}

/// Commits another transaction between two statements: it changes `committed`
/// to `after`, and `tx` sees it. Returns false, and changes nothing, if it has to
/// wait, as `tx` has changed one of its rows.
pub(crate) fn commit_between(
    tx: &mut Database,
    committed: &Database,
    after: &Database,
) -> bool {
    let (ours, theirs) = (changed(committed, tx), changed(committed, after));
    if !ours.0.is_disjoint(&theirs.0) || !ours.1.is_disjoint(&theirs.1) {
        return false;
    }
    for account in theirs.0 {
        tx.accounts.insert(account, after.accounts[&account]);
    }
    for id in theirs.1 {
        match after.rows.get(&id) {
            Some(row) => _ = tx.rows.insert(id, row.clone()),
            None => _ = tx.rows.remove(&id),
        }
    }
    true
}

type Changed = (BTreeSet<u64>, BTreeSet<(Table, String)>);

fn changed(before: &Database, after: &Database) -> Changed {
    let accounts = after.accounts.iter();
    let accounts = accounts.filter(|(id, n)| before.accounts[id] != **n);
    let rows = before.rows.keys().chain(after.rows.keys());
    let rows = rows.filter(|id| before.rows.get(id) != after.rows.get(id));
    (accounts.map(|(id, _)| *id).collect(), rows.cloned().collect())
}

/// Returns the balances, and the rows without their numbers.
pub(crate) fn content(
    database: &Database,
) -> (BTreeMap<u64, i64>, BTreeMap<(Table, String), String>) {
    let rows = database.rows.iter();
    let rows = rows.map(|(id, row)| (id.clone(), row.value.clone()));
    (database.accounts.clone(), rows.collect())
}

impl Tx for Interrupted<'_> {
    type Error = Failed;

    async fn add(&mut self, account: u64, cents: i64) -> Result<bool, Failed> {
        (self.before)(self.tx)?;
        let Ok(added) = self.tx.add(account, cents).await;
        Ok(added)
    }

    async fn insert(
        &mut self,
        table: Table,
        key: &str,
        value: &str,
    ) -> Result<bool, Failed> {
        (self.before)(self.tx)?;
        let Ok(inserted) = self.tx.insert(table, key, value).await;
        Ok(inserted)
    }

    async fn get(
        &mut self,
        table: Table,
        key: &str,
    ) -> Result<Option<String>, Failed> {
        (self.before)(self.tx)?;
        let Ok(value) = self.tx.get(table, key).await;
        Ok(value)
    }

    async fn replace(
        &mut self,
        table: Table,
        key: &str,
        from: &str,
        to: &str,
    ) -> Result<bool, Failed> {
        (self.before)(self.tx)?;
        let Ok(replaced) = self.tx.replace(table, key, from, to).await;
        Ok(replaced)
    }

    async fn delete(
        &mut self,
        table: Table,
        key: &str,
    ) -> Result<bool, Failed> {
        (self.before)(self.tx)?;
        let Ok(deleted) = self.tx.delete(table, key).await;
        Ok(deleted)
    }

    async fn oldest(
        &mut self,
        table: Table,
        limit: usize,
    ) -> Result<Vec<Row>, Failed> {
        (self.before)(self.tx)?;
        let Ok(rows) = self.tx.oldest(table, limit).await;
        Ok(rows)
    }
}

//! Transactions that a test interrupts before each of their statements.

use std::collections::BTreeSet;

use week08::money::simulated::Database;
use week08::money::{Row, Table, Tx};

/// The error of a statement that a test lets fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failed;

/// What a transaction has locked: it has changed this row or balance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lock {
    Account(u64),
    Row(Table, String),
}

/// Is called before each statement with what the transaction sees and locks.
pub(crate) struct Watch<'a> {
    pub(crate) locks: BTreeSet<Lock>,
    /// Whether a statement has failed.
    pub(crate) has_failed: bool,
    before: Box<Before<'a>>,
}

type Before<'a> =
    dyn FnMut(&mut Database, &BTreeSet<Lock>) -> Result<(), Failed> + Send + 'a;

/// A transaction that is watched.
pub(crate) struct Watched<'a, 'b> {
    tx: &'a mut Database,
    watch: &'a mut Watch<'b>,
}

/// A transaction that has run: what was committed before and after it, and what
/// it has locked.
pub(crate) struct Other<'a> {
    pub(crate) committed: &'a Database,
    pub(crate) after: Database,
    pub(crate) locks: BTreeSet<Lock>,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(
        before: impl FnMut(&mut Database, &BTreeSet<Lock>) -> Result<(), Failed>
        + Send
        + 'a,
    ) -> Self {
        let before = Box::new(before);
        Self { locks: BTreeSet::new(), has_failed: false, before }
    }

    /// Does nothing before a statement.
    pub(crate) fn idle() -> Self {
        Self::new(|_, _| Ok(()))
    }

    /// Lets a statement fail. It counts the statements in `seen`.
    pub(crate) fn fail_at(number: usize, seen: &'a mut usize) -> Self {
        Self::new(move |_, _| {
            *seen += 1;
            let seen = *seen;
            assert!(seen <= number, "statement {seen} follows a failed one");
            if seen == number { Err(Failed) } else { Ok(()) }
        })
    }

    pub(crate) fn begin<'t>(
        &'t mut self,
        tx: &'t mut Database,
    ) -> Watched<'t, 'a> {
        self.locks.clear();
        Watched { tx, watch: self }
    }
}

impl Other<'_> {
    /// Commits between two statements of `tx`, which sees the changes. Returns
    /// false, and changes nothing, if it has to wait for `tx`.
    pub(crate) fn commit(
        &self,
        tx: &mut Database,
        locks: &BTreeSet<Lock>,
    ) -> bool {
        if !self.locks.is_disjoint(locks) {
            return false;
        }
        for lock in &self.locks {
            match lock {
                Lock::Account(account) => {
                    let change = self.after.accounts[account]
                        - self.committed.accounts[account];
                    *tx.accounts.get_mut(account).expect("it is locked") +=
                        change;
                }
                Lock::Row(table, key) => {
                    let id = (*table, key.clone());
                    match self.after.rows.get(&id) {
                        Some(row) => _ = tx.rows.insert(id, row.clone()),
                        None => _ = tx.rows.remove(&id),
                    }
                }
            }
        }
        true
    }
}

impl Watched<'_, '_> {
    fn before(&mut self) -> Result<(), Failed> {
        let result = (self.watch.before)(self.tx, &self.watch.locks);
        self.watch.has_failed |= result.is_err();
        result
    }

    fn lock(&mut self, is_changed: bool, lock: Lock) -> bool {
        if is_changed {
            self.watch.locks.insert(lock);
        }
        is_changed
    }
}

impl Tx for Watched<'_, '_> {
    type Error = Failed;

    async fn add(&mut self, account: u64, cents: i64) -> Result<bool, Failed> {
        self.before()?;
        let Ok(added) = self.tx.add(account, cents).await;
        Ok(self.lock(added, Lock::Account(account)))
    }

    async fn insert(
        &mut self,
        table: Table,
        key: &str,
        value: &str,
    ) -> Result<bool, Failed> {
        self.before()?;
        let Ok(inserted) = self.tx.insert(table, key, value).await;
        Ok(self.lock(inserted, Lock::Row(table, key.to_owned())))
    }

    async fn get(
        &mut self,
        table: Table,
        key: &str,
    ) -> Result<Option<String>, Failed> {
        self.before()?;
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
        self.before()?;
        let Ok(replaced) = self.tx.replace(table, key, from, to).await;
        Ok(self.lock(replaced, Lock::Row(table, key.to_owned())))
    }

    async fn delete(
        &mut self,
        table: Table,
        key: &str,
    ) -> Result<bool, Failed> {
        self.before()?;
        let Ok(deleted) = self.tx.delete(table, key).await;
        Ok(self.lock(deleted, Lock::Row(table, key.to_owned())))
    }

    async fn oldest(
        &mut self,
        table: Table,
        limit: usize,
    ) -> Result<Vec<Row>, Failed> {
        self.before()?;
        let Ok(rows) = self.tx.oldest(table, limit).await;
        Ok(rows)
    }
}

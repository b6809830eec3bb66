//! The model of the rules, and a transaction in which another one may commit.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use week08::money::coordinator::{Call, Operation, Reply, Side};
use week08::money::simulated::Database;
use week08::money::{Row, Table, Transfer, Tx};
use week08::tcc::transact;

/// The accounts, and the state of each branch.
#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) accounts: BTreeMap<u64, i64>,
    branches: BTreeMap<(u64, Side), (Transfer, Operation)>,
}

impl Model {
    pub(crate) fn new(database: &Database) -> Self {
        let accounts = database.accounts.clone();
        Self { accounts, branches: BTreeMap::new() }
    }

    pub(crate) fn call(&mut self, Call { operation, branch }: Call) -> Reply {
        use Operation::{Cancel, Confirm, Try};
        let transfer = branch.transfer;
        let key = (transfer.id, branch.side);
        let last = self.branches.get(&key).copied();
        if last.is_some_and(|(first, _)| first != transfer) {
            return Reply::Conflict;
        }
        let (account, sign) = match (branch.side, operation) {
            (Side::Debit, Try) => (transfer.from, -1),
            (Side::Debit, Cancel) => (transfer.from, 1),
            (Side::Debit, Confirm) => (0, 0),
            (Side::Credit, Try) => (transfer.to, 0),
            (Side::Credit, Cancel) => (0, 0),
            (Side::Credit, Confirm) => (transfer.to, 1),
        };
        match (last.map(|(_, last)| last), operation) {
            (None, Try) | (Some(Try), Confirm | Cancel) => {
                let cents = i64::from(transfer.cents.get()) * sign;
                if account != 0 {
                    let Some(balance) = self.accounts.get_mut(&account) else {
                        return Reply::Refused;
                    };
                    match balance.checked_add(cents) {
                        Some(new) if new >= 0 => *balance = new,
                        _ => return Reply::Refused,
                    }
                }
            }
            (None, Cancel) => {}
            (None, Confirm) => return Reply::NotTried,
            (Some(Cancel), Try | Confirm) => return Reply::Cancelled,
            (Some(Confirm), Cancel) => return Reply::Confirmed,
            (Some(_), _) => return Reply::Done,
        }
        self.branches.insert(key, (transfer, operation));
        Reply::Done
    }
}

/// Runs a call alone, and commits it.
pub(crate) fn run(database: &mut Database, call: Call) -> Reply {
    let Ok(reply) = now(transact(database, &call));
    reply
}

fn now<R>(future: impl Future<Output = R>) -> R {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("a call waits for its transaction alone"),
    }
}

/// A transaction, `READ COMMITTED`: each statement sees what is committed before
/// it and what the transaction itself has changed.
pub(crate) struct Session {
    committed: Database,
    changes: Vec<Change>,
    /// All that it has tried to change.
    attempts: BTreeSet<String>,
    pub(crate) statements: usize,
    /// The statement that fails.
    pub(crate) fails_at: Option<usize>,
    /// Another call, and the statement before which it runs. If it needs a row
    /// that this transaction has changed, it waits until this one has committed.
    pub(crate) rival: Option<(usize, Call)>,
    rival_reply: Option<Reply>,
    pub(crate) account_was_first: bool,
}

#[derive(Clone)]
enum Change {
    Add(u64, i64),
    Insert(Table, String, String),
    Replace(Table, String, String, String),
    Delete(Table, String),
}

type Failure = &'static str;

impl Session {
    pub(crate) fn new(committed: Database) -> Self {
        Self {
            committed,
            changes: Vec::new(),
            attempts: BTreeSet::new(),
            statements: 0,
            fails_at: None,
            rival: None,
            rival_reply: None,
            account_was_first: false,
        }
    }

    pub(crate) fn run(&mut self, call: Call) -> Result<Reply, Failure> {
        now(transact(self, &call))
    }

    /// Commits, then runs the rival if it has waited. Returns its reply.
    pub(crate) fn commit(self) -> (Database, Reply) {
        let mut database = self.view();
        let reply = self.rival_reply.unwrap_or_else(|| {
            let (_, rival) = self.rival.expect("there is a rival");
            run(&mut database, rival)
        });
        (database, reply)
    }

    fn view(&self) -> Database {
        let mut view = self.committed.clone();
        self.changes.iter().for_each(|change| {
            change.apply(&mut view);
        });
        view
    }

    fn begin_statement(&mut self) -> Result<(), Failure> {
        assert!(self.statements < 100, "more than 100 statements for one call");
        let statement = self.statements;
        self.statements += 1;
        if self.fails_at.is_some_and(|at| statement >= at) {
            return Err("on purpose");
        }
        match self.rival {
            Some((at, call)) if at == statement => {
                let mut rival = Self::new(self.committed.clone());
                let reply = rival.run(call).expect("no statement fails");
                let mut locked = self.changes.iter().map(Change::target);
                if !locked.any(|row| rival.attempts.contains(&row)) {
                    self.committed = rival.view();
                    self.rival_reply = Some(reply);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn execute(&mut self, change: Change) -> Result<bool, Failure> {
        self.begin_statement()?;
        self.attempts.insert(change.target());
        let is_changed = change.apply(&mut self.view());
        if is_changed {
            self.changes.push(change);
        }
        Ok(is_changed)
    }
}

impl Change {
    fn apply(&self, database: &mut Database) -> bool {
        let Ok(is_changed) = match self {
            Self::Add(account, cents) => now(database.add(*account, *cents)),
            Self::Insert(table, key, value) => {
                now(database.insert(*table, key, value))
            }
            Self::Replace(table, key, from, to) => {
                now(database.replace(*table, key, from, to))
            }
            Self::Delete(table, key) => now(database.delete(*table, key)),
        };
        is_changed
    }

    /// Returns the row that is locked.
    fn target(&self) -> String {
        match self {
            Self::Add(account, _) => format!("account {account}"),
            Self::Insert(table, key, _)
            | Self::Replace(table, key, ..)
            | Self::Delete(table, key) => format!("{table:?} {key}"),
        }
    }
}

impl Tx for Session {
    type Error = Failure;

    async fn add(&mut self, account: u64, cents: i64) -> Result<bool, Failure> {
        let is_fence = |change: &Change| {
            matches!(
                change,
                Change::Insert(Table::Fence, ..)
                    | Change::Replace(Table::Fence, ..)
                    | Change::Delete(Table::Fence, _)
            )
        };
        self.account_was_first |= !self.changes.iter().any(is_fence);
        self.execute(Change::Add(account, cents))
    }

    async fn insert(
        &mut self,
        table: Table,
        key: &str,
        value: &str,
    ) -> Result<bool, Failure> {
        self.execute(Change::Insert(table, key.into(), value.into()))
    }

    async fn get(
        &mut self,
        table: Table,
        key: &str,
    ) -> Result<Option<String>, Failure> {
        self.begin_statement()?;
        let Ok(value) = now(self.view().get(table, key));
        Ok(value)
    }

    async fn replace(
        &mut self,
        table: Table,
        key: &str,
        from: &str,
        to: &str,
    ) -> Result<bool, Failure> {
        let (key, from, to) = (key.into(), from.into(), to.into());
        self.execute(Change::Replace(table, key, from, to))
    }

    async fn delete(
        &mut self,
        table: Table,
        key: &str,
    ) -> Result<bool, Failure> {
        self.execute(Change::Delete(table, key.into()))
    }

    async fn oldest(
        &mut self,
        table: Table,
        limit: usize,
    ) -> Result<Vec<Row>, Failure> {
        self.begin_statement()?;
        let Ok(rows) = now(self.view().oldest(table, limit));
        Ok(rows)
    }
}

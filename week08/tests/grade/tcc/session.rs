//! The model of the rules, and a transaction in which another one may commit.

use std::collections::BTreeMap;
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
        let change = match (branch.side, operation) {
            (Side::Debit, Try) => Some((transfer.from, -1)),
            (Side::Debit, Cancel) => Some((transfer.from, 1)),
            (Side::Credit, Try) => Some((transfer.to, 0)),
            (Side::Credit, Confirm) => Some((transfer.to, 1)),
            (Side::Debit, Confirm) | (Side::Credit, Cancel) => None,
        };
        match (last.map(|(_, last)| last), operation) {
            (None, Try) | (Some(Try), Confirm | Cancel) => {
                if let Some((account, sign)) = change {
                    let cents = i64::from(transfer.cents.get()) * sign;
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
    /// Each row that it has tried to change, and how many it had changed before.
    attempts: Vec<(String, usize)>,
    pub(crate) statements: usize,
    /// The statement that fails.
    pub(crate) fails_at: Option<usize>,
    /// Another call, and the statement before which it runs. After the last one
    /// is the commit. If it needs a row that this transaction has changed, it
    /// waits until this one has committed.
    pub(crate) rival: Option<(usize, Call)>,
    rival_reply: Option<Reply>,
    /// What the rival has changed before it waits.
    rival_locks: Vec<String>,
    /// This transaction needs one of them.
    pub(crate) is_deadlock: bool,
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
            attempts: Vec::new(),
            statements: 0,
            fails_at: None,
            rival: None,
            rival_reply: None,
            rival_locks: Vec::new(),
            is_deadlock: false,
            account_was_first: false,
        }
    }

    pub(crate) fn run(&mut self, call: Call) -> Result<Reply, Failure> {
        now(transact(self, &call))
    }

    /// Commits, then runs the rival if it has waited. Returns its reply.
    pub(crate) fn commit(mut self) -> (Database, Reply) {
        self.run_rival();
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
        self.run_rival();
        let statement = self.statements;
        self.statements += 1;
        match self.fails_at {
            Some(at) if statement >= at => Err("on purpose"),
            _ => Ok(()),
        }
    }

    /// Runs the rival if it is its turn: to its commit, or until it has to wait.
    fn run_rival(&mut self) {
        let due = self.rival.filter(|(at, _)| *at == self.statements);
        let Some((_, call)) = due else { return };
        let mut rival = Self::new(self.committed.clone());
        let reply = rival.run(call).expect("no statement fails");
        let locks = self.locks();
        let waits = rival.attempts.iter().find(|(row, _)| locks.contains(row));
        if let Some((_, changed)) = waits {
            self.rival_locks = rival.locks();
            self.rival_locks.truncate(*changed);
        } else {
            self.committed = rival.view();
            self.rival_reply = Some(reply);
        }
    }

    fn locks(&self) -> Vec<String> {
        self.changes.iter().map(Change::target).collect()
    }

    fn execute(&mut self, change: Change) -> Result<bool, Failure> {
        self.begin_statement()?;
        let row = change.target();
        self.is_deadlock |= self.rival_locks.contains(&row);
        self.attempts.push((row, self.changes.len()));
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

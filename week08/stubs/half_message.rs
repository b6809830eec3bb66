//! Half messages: prepare, commit, check back. Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! The `Producer`
//!
//! - A request has the effect `Prepare` (given). When the broker has stored a
//!   message with this id, the producer runs the transaction `Debit`.
//! - After its commit, it confirms the decision, and then replies `Accepted` if
//!   the decision is `Commit`, and `Refused` if not.
//! - If the broker refuses to prepare, the producer replies `Refused`. If the
//!   wait for the broker times out, it replies `Unknown`. In both cases, it
//!   runs no transaction.
//! - If the debit is rolled back, or its outcome is unknown, the producer
//!   replies `Unknown`, and confirms nothing.
//! - A check-back has the effect `Check`, and a refund `Refund` (given). After
//!   the commit, the producer confirms the decision of the transaction. After
//!   `RolledBack`, it confirms `Unknown`.
//! - Answers may be late. `TimedOut` counts only while the producer waits for
//!   the broker, and `Prepared` and `PrepareRefused` only while it waits for
//!   the answer to their id. Otherwise they have no effect, and change nothing.
//! - After its last effect, the producer is idle. It remembers nothing of
//!   earlier events.
//!
//! The transactions
//!
//! - The first command for an id decides its outcome. A `Debit` debits the
//!   account if it has enough money. Then the transfer is debited. A `Debit`
//!   without enough money, a `Check` or a `Refund` rolls back the id, and
//!   changes no balance.
//! - Later commands change no balance and no row, with one exception: a
//!   `Refund` of a debited transfer returns the money, and rolls back the id
//!   (given).
//! - The decision is `Commit` if this transfer is debited after the command.
//!   Otherwise it is `Rollback`, also if the id belongs to a transfer with
//!   other fields. The decision of a `Refund` is `Unknown` if the account
//!   cannot take back the money (given).
//! - Commands run at the same time. Between two of your statements, another
//!   transaction may commit, unless it waits for a row or an account that you
//!   have changed. Decisions and balances are as if one command had run after
//!   the other.
//! - If a statement returns an error, `transact` returns it at once.
//!
//! The broker (`next`)
//!
//! - A prepared or parked message is committed by `Confirmed(Commit)`, and
//!   rolled back by `Confirmed(Rollback)`.
//! - Each time that a prepared message is due, it has one more check. But if it
//!   already has `max_checks` checks, it is parked.
//! - `Retry` makes a parked message prepared, with no checks. `Refund` makes it
//!   refunding. Only `Confirmed(Rollback)` makes a refunding message rolled
//!   back.
//! - `Delivered` makes a committed message delivered.
//! - Any other event leaves the state as it is.
//!
//! All together
//!
//! - Each process may crash before and after each effect, and calls may be
//!   lost. No transfer is debited twice, or credited without a debit. In the
//!   end, each transfer is debited and credited, or neither. Without faults,
//!   each transfer is credited if there is enough money.
//!
//! Help: the docs of `Tx` have the SQL of each statement.

use std::mem;

use crate::money::broker::{Decision, Input, State};
use crate::money::{Message, Table, Transfer, Tx};

/// Handles requests, check-backs and refunds, one at a time. Each instance of
/// the payment service has many producers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Producer {
    /// Waits for a request, a check-back, or a refund.
    #[default]
    Idle,
    /// Waits until the broker has stored the message.
    Preparing(Transfer),
    /// Runs the debit of the transfer with this id.
    Debiting(u64),
    /// Runs the check or the refund that the broker has asked for.
    Checking(u64),
}

/// An event that a producer handles.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// A client has requested a transfer, for the first time or again.
    Requested(Message),
    /// The broker has stored a message with this id. This answer may be late.
    Prepared(u64),
    /// The broker has another transfer with this id. This answer may be late.
    PrepareRefused(u64),
    /// The broker has not answered. It may have stored the message.
    TimedOut,
    /// The broker asks what became of a message.
    CheckBack(Message),
    /// A person gives up a transfer whose message is parked.
    Refund(Message),
    /// The transaction is committed.
    Committed(Decision),
    /// The transaction is rolled back, or its outcome is unknown.
    RolledBack,
}

/// An effect that the caller performs. If an effect has a result, the caller
/// reports it as an [`Event`] before it performs the next effect.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Let the broker store a message that no consumer sees.
    Prepare(Message),
    /// Run [`transact`] in one transaction, and commit it if it returns `Ok`.
    Transact(Command),
    /// Tell the broker the decision for this id, once. The call may be lost.
    Confirm(u64, Decision),
    /// Answer the request.
    Reply(Reply),
}

/// What a transaction does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// Debits the account, if the transfer has no outcome yet.
    Debit(Transfer),
    /// Rolls the transfer back, if it has no outcome yet.
    Check(Transfer),
    /// Rolls the transfer back, and returns the money if it was debited.
    Refund(Transfer),
}

/// The answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reply {
    /// The transfer is debited, by this request or by an earlier one.
    Accepted,
    /// The transfer is not debited, and never will be under this id.
    Refused,
    /// The outcome is unknown: the client has to send its request again.
    Unknown,
}

impl Producer {
    /// Handles an event, and returns the effects to perform, in order.
    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        match (mem::take(self), event) {
            (Self::Idle, Event::Requested(message)) => {
                *self = Self::Preparing(message.transfer);
                vec![Effect::Prepare(message)]
            }
            (Self::Idle, Event::CheckBack(Message { transfer, .. })) => {
                *self = Self::Checking(transfer.id);
                vec![Effect::Transact(Command::Check(transfer))]
            }
            (Self::Idle, Event::Refund(Message { transfer, .. })) => {
                *self = Self::Checking(transfer.id);
                vec![Effect::Transact(Command::Refund(transfer))]
            }
            (Self::Preparing(transfer), Event::PrepareRefused(id))
                if id == transfer.id =>
            {
                vec![Effect::Reply(Reply::Refused)]
            }
            (_state, _event) => {
                todo!("what does the producer know in each of its states?")
            }
        }
    }
}

/// Performs a command in a transaction. The outcome of a transfer is a row of
/// [`Table::Transfers`].
///
/// # Errors
///
/// Returns the error of the database. The transaction has to be rolled back.
///
/// # Cancel safety
///
/// If the future is dropped, the transaction has to be rolled back.
pub async fn transact<T: Tx>(
    tx: &mut T,
    command: &Command,
) -> Result<Decision, T::Error> {
    match command {
        Command::Debit(transfer) => debit(tx, transfer).await,
        Command::Check(transfer) => check(tx, transfer).await,
        Command::Refund(transfer) => refund(tx, transfer).await,
    }
}

async fn debit<T: Tx>(
    _tx: &mut T,
    _transfer: &Transfer,
) -> Result<Decision, T::Error> {
    todo!("which statement comes first, and who else has run it?")
}

async fn check<T: Tx>(
    _tx: &mut T,
    _transfer: &Transfer,
) -> Result<Decision, T::Error> {
    todo!("no outcome is found: what if the debit comes later?")
}

async fn refund<T: Tx>(
    tx: &mut T,
    transfer: &Transfer,
) -> Result<Decision, T::Error> {
    // Afterwards there is an outcome, and only a refund changes it.
    if check(tx, transfer).await? == Decision::Rollback {
        return Ok(Decision::Rollback);
    }
    let [key, committed, rolled_back] = row(transfer);
    if !tx.replace(Table::Transfers, &key, &committed, &rolled_back).await? {
        // Another refund was faster.
        return Ok(Decision::Rollback);
    }
    if tx.add(transfer.from, transfer.cents.get().into()).await? {
        return Ok(Decision::Rollback);
    }
    // The account is closed. The message stays with the broker.
    tx.replace(Table::Transfers, &key, &rolled_back, &committed).await?;
    Ok(Decision::Unknown)
}

/// Returns the key of a transfer's row, and its values for both outcomes.
fn row(transfer: &Transfer) -> [String; 3] {
    let key = transfer.id.to_string();
    [key, format!("committed {transfer}"), format!("rolled back {transfer}")]
}

/// Returns the next state of a message in the broker, which asks `max_checks`
/// times before it parks the message.
pub fn next(_state: State, _input: Input, _max_checks: u32) -> State {
    todo!("which states are final?")
}

//! Half messages: prepare, commit, check back.
//!
//! *Question.* The team may not put an outbox into its database, but the broker
//! can store a message before it is visible. The producer dies between its
//! commit and the confirmation. What becomes of the message?
//!
//! *Idea.* A **two-phase message**, as in RocketMQ. The producer *prepares* it:
//! the broker stores it, and shows it to nobody. After that, the producer runs
//! its local transaction, which also stores the outcome of the transfer. Then
//! it *confirms* commit or rollback. If no confirmation comes, the broker
//! **checks back**: it asks any instance of the service, which reads the
//! outcome from its database.
//!
//! *Guarantee.* Neither the database nor the broker turns a rollback into a
//! commit. A check-back that finds no outcome stores a **tombstone**: the
//! outcome "rolled back". A later debit finds the tombstone, and changes no
//! balance. So a message becomes visible if and only if its transfer is
//! debited. If the producer never answers, the message is parked, and a person
//! decides.
//!
//! *Cost.* Each transfer needs two calls to the broker. The database stores an
//! outcome for each id, also for a refused transfer. A check-back waits for the
//! row that a running transaction has inserted. If a confirmation is lost, the
//! message is delayed until the check-back.
//!
//! ```
//! use std::num::NonZero;
//! use week08::half_message::{Command, Effect, Event, Producer, transact};
//! use week08::money::broker::Decision;
//! use week08::money::simulated::Database;
//! use week08::money::{Message, Transfer};
//!
//! let mut database = Database::new([(1, 500)]);
//! let cents = NonZero::new(100).unwrap();
//! let transfer = Transfer { id: 7, from: 1, to: 2, cents };
//! let mut run = |command| {
//!     let body = async |tx: &mut Database| transact(tx, &command).await;
//!     database.transaction(body, Result::is_ok).unwrap()
//! };
//! // The broker has stored the message, and checks back before the debit.
//! let mut producer = Producer::default();
//! producer.step(Event::Requested(Message { debited_s: 9, transfer }));
//! assert_eq!(run(Command::Check(transfer)), Decision::Rollback);
//! let effects = producer.step(Event::Prepared(7));
//! assert_eq!(effects, [Effect::Transact(Command::Debit(transfer))]);
//! assert_eq!(run(Command::Debit(transfer)), Decision::Rollback);
//! assert_eq!(database.total(), 500);
//! ```

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
            // The broker has the message, so it can check back.
            (Self::Preparing(transfer), Event::Prepared(id))
                if id == transfer.id =>
            {
                *self = Self::Debiting(id);
                vec![Effect::Transact(Command::Debit(transfer))]
            }
            (Self::Preparing(transfer), Event::PrepareRefused(id))
                if id == transfer.id =>
            {
                vec![Effect::Reply(Reply::Refused)]
            }
            (Self::Preparing(_), Event::TimedOut) => {
                vec![Effect::Reply(Reply::Unknown)]
            }
            (Self::Debiting(id), Event::Committed(decision)) => {
                let is_debited = decision == Decision::Commit;
                let reply =
                    if is_debited { Reply::Accepted } else { Reply::Refused };
                vec![Effect::Confirm(id, decision), Effect::Reply(reply)]
            }
            // The debit may be committed. The broker checks back.
            (Self::Debiting(_), Event::RolledBack) => {
                vec![Effect::Reply(Reply::Unknown)]
            }
            (Self::Checking(id), Event::Committed(decision)) => {
                vec![Effect::Confirm(id, decision)]
            }
            (Self::Checking(id), Event::RolledBack) => {
                vec![Effect::Confirm(id, Decision::Unknown)]
            }
            // A late answer.
            (state, _) => {
                *self = state;
                Vec::new()
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
    tx: &mut T,
    transfer: &Transfer,
) -> Result<Decision, T::Error> {
    let [key, committed, rolled_back] = row(transfer);
    // The first statement. It waits for a check-back that runs.
    if !tx.insert(Table::Transfers, &key, &committed).await? {
        return outcome(tx, transfer).await;
    }
    if tx.add(transfer.from, -i64::from(transfer.cents.get())).await? {
        return Ok(Decision::Commit);
    }
    // The broker drops the message, so no later request may debit.
    tx.replace(Table::Transfers, &key, &committed, &rolled_back).await?;
    Ok(Decision::Rollback)
}

async fn check<T: Tx>(
    tx: &mut T,
    transfer: &Transfer,
) -> Result<Decision, T::Error> {
    let [key, _, rolled_back] = row(transfer);
    // The tombstone. This insert waits for a debit that runs.
    tx.insert(Table::Transfers, &key, &rolled_back).await?;
    outcome(tx, transfer).await
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

/// Returns the stored outcome of a transfer. If another transfer has its id,
/// this one is never debited.
async fn outcome<T: Tx>(
    tx: &mut T,
    transfer: &Transfer,
) -> Result<Decision, T::Error> {
    let [key, committed, _] = row(transfer);
    let stored = tx.get(Table::Transfers, &key).await?;
    let is_committed = stored.is_some_and(|stored| stored == committed);
    Ok(if is_committed { Decision::Commit } else { Decision::Rollback })
}

/// Returns the key of a transfer's row, and its values for both outcomes.
fn row(transfer: &Transfer) -> [String; 3] {
    let key = transfer.id.to_string();
    [key, format!("committed {transfer}"), format!("rolled back {transfer}")]
}

/// Returns the next state of a message in the broker, which asks `max_checks`
/// times before it parks the message.
pub fn next(state: State, input: Input, max_checks: u32) -> State {
    match (state, input) {
        (
            State::Prepared { .. } | State::Parked,
            Input::Confirmed(Decision::Commit),
        ) => State::Committed,
        (
            State::Prepared { .. } | State::Parked | State::Refunding,
            Input::Confirmed(Decision::Rollback),
        ) => State::RolledBack,
        (State::Prepared { checks }, Input::Due) if checks < max_checks => {
            State::Prepared { checks: checks + 1 }
        }
        (State::Prepared { .. }, Input::Due) => State::Parked,
        (State::Parked, Input::Retry) => State::Prepared { checks: 0 },
        (State::Parked, Input::Refund) => State::Refunding,
        (State::Committed, Input::Delivered) => State::Delivered,
        // The state is final, or the event does not decide it.
        (state, _) => state,
    }
}

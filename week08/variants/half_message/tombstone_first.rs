//! Every command inserts the tombstone first.
//!
//! A debit that has inserted it replaces it after the account is debited. So a
//! refused debit needs no statement to leave the outcome "rolled back". The
//! producer is a struct of two optional fields.

use crate::money::broker::{Decision, Input, State};
use crate::money::{Message, Table, Transfer, Tx};

/// Handles requests, check-backs and refunds, one at a time. Each instance of
/// the payment service has many producers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Producer {
    /// The transfer that the broker has not stored yet.
    prepared: Option<Transfer>,
    /// The id whose transaction runs, and whether a client waits for it.
    running: Option<(u64, bool)>,
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
        let waits_for = self.prepared.map(|transfer| transfer.id);
        match event {
            Event::Requested(message) => {
                self.prepared = Some(message.transfer);
                vec![Effect::Prepare(message)]
            }
            Event::Prepared(id) if waits_for == Some(id) => {
                let transfer = self.prepared.take().expect("it waits");
                self.run(Command::Debit(transfer), id)
            }
            Event::PrepareRefused(id) if waits_for == Some(id) => {
                self.prepared = None;
                vec![Effect::Reply(Reply::Refused)]
            }
            Event::TimedOut if waits_for.is_some() => {
                self.prepared = None;
                vec![Effect::Reply(Reply::Unknown)]
            }
            Event::CheckBack(Message { transfer, .. }) => {
                self.run(Command::Check(transfer), transfer.id)
            }
            Event::Refund(Message { transfer, .. }) => {
                self.run(Command::Refund(transfer), transfer.id)
            }
            Event::Committed(decision) => self.end(decision),
            Event::RolledBack => self.end(Decision::Unknown),
            _ => Vec::new(),
        }
    }

    fn run(&mut self, command: Command, id: u64) -> Vec<Effect> {
        self.running = Some((id, matches!(command, Command::Debit(_))));
        vec![Effect::Transact(command)]
    }

    fn end(&mut self, decision: Decision) -> Vec<Effect> {
        let Some((id, has_client)) = self.running.take() else {
            return Vec::new();
        };
        let reply = match decision {
            Decision::Commit => Reply::Accepted,
            Decision::Rollback => Reply::Refused,
            Decision::Unknown => Reply::Unknown,
        };
        // Only a broker that has asked is told that nobody knows.
        let confirms = !has_client || decision != Decision::Unknown;
        let confirm = confirms.then_some(Effect::Confirm(id, decision));
        let reply = has_client.then_some(Effect::Reply(reply));
        confirm.into_iter().chain(reply).collect()
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
    let (Command::Debit(transfer)
    | Command::Check(transfer)
    | Command::Refund(transfer)) = command;
    let (key, text) = (transfer.id.to_string(), transfer.to_string());
    let (from, cents) = (transfer.from, i64::from(transfer.cents.get()));
    let table = Table::Transfers;
    // An id is rolled back until its transfer is debited.
    let is_new = tx.insert(table, &key, ROLLED_BACK).await?;
    let is_debited = match command {
        Command::Debit(_) if is_new => {
            tx.add(from, -cents).await?
                && tx.replace(table, &key, ROLLED_BACK, &text).await?
        }
        Command::Refund(_) => {
            if tx.replace(table, &key, &text, ROLLED_BACK).await?
                && !tx.add(from, cents).await?
            {
                tx.replace(table, &key, ROLLED_BACK, &text).await?;
                return Ok(Decision::Unknown);
            }
            false
        }
        _ => !is_new && tx.get(table, &key).await? == Some(text),
    };
    Ok(if is_debited { Decision::Commit } else { Decision::Rollback })
}

/// The value of a row whose transfer is not debited.
const ROLLED_BACK: &str = "rolled back";

/// Returns the next state of a message in the broker, which asks `max_checks`
/// times before it parks the message.
pub fn next(state: State, input: Input, max_checks: u32) -> State {
    let is_undecided = matches!(state, State::Prepared { .. } | State::Parked);
    let is_refunding = state == State::Refunding;
    match input {
        Input::Confirmed(Decision::Commit) if is_undecided => State::Committed,
        Input::Confirmed(Decision::Rollback)
            if is_undecided || is_refunding =>
        {
            State::RolledBack
        }
        Input::Due => match state {
            State::Prepared { checks } if checks >= max_checks => State::Parked,
            State::Prepared { checks } => {
                State::Prepared { checks: checks + 1 }
            }
            other => other,
        },
        Input::Delivered if state == State::Committed => State::Delivered,
        Input::Retry if state == State::Parked => State::Prepared { checks: 0 },
        Input::Refund if state == State::Parked => State::Refunding,
        _ => state,
    }
}

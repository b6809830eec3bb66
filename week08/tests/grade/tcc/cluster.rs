//! The coordinator, and the participants of both services, as processes.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;

use week08::money::cluster::{
    Cluster, Fate, Faults, Id, Output, Process, Service, transfers,
};
use week08::money::coordinator::{
    self, Branch, Call, Command, Coordinator, Effect, Event, Operation, Reply,
    Side,
};
use week08::money::simulated::Database;
use week08::money::{Table, Transfer};
use week08::tcc;

/// A process, and the effects that it has still to perform.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    /// Its transaction and its answer are one effect. A crash between them has
    /// the same effects as an answer that is lost.
    Participant(Side, Option<Call>),
    Coordinator(Coordinator, VecDeque<Effect>, Option<Transfer>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Message {
    Request(Transfer),
    Call(Call),
    Answer(Call, Reply),
}

/// The participants are 0 and 1.
const COORDINATOR: Id = 2;

/// Returns a cluster that makes `number` transfers. The coordinator cancels one
/// that has waited `patience` times for an answer.
pub(crate) fn cluster(
    number: u32,
    balance: i64,
    patience: Option<u32>,
    faults: Faults,
) -> Cluster<Part> {
    let coordinator = Coordinator::new(patience);
    let parts = vec![
        Part::Participant(Side::Debit, None),
        Part::Participant(Side::Credit, None),
        Part::Coordinator(coordinator, VecDeque::new(), None),
    ];
    let transfers = transfers(number);
    let all: u32 = transfers.iter().map(|t| t.cents.get()).sum();
    let must_complete = patience.is_none() && balance >= i64::from(all);
    let cluster = Cluster::new(parts, number, balance, must_complete, faults);
    transfers.into_iter().fold(cluster, |cluster, transfer| {
        let request = Message::Request(transfer);
        cluster.with_message(COORDINATOR, transfer.id, request)
    })
}

/// Runs a call in a transaction.
fn transact(database: &mut Database, call: &Call, fate: Fate) -> Reply {
    let body = async |tx: &mut Database| tcc::transact(tx, call).await;
    let commit = |_: &Result<_, Infallible>| fate != Fate::Refused;
    let Ok(reply) = database.transaction(body, commit);
    reply
}

impl Process for Part {
    type Message = Message;

    fn name(&self) -> String {
        format!("{:?}", self.service()).to_lowercase()
    }

    fn service(&self) -> Service {
        match self {
            Self::Participant(Side::Debit, _) => Service::Payment,
            Self::Participant(Side::Credit, _) => Service::Savings,
            Self::Coordinator(..) => Service::Coordinator,
        }
    }

    fn restart(&mut self) {
        match self {
            Self::Participant(_, work) => *work = None,
            Self::Coordinator(machine, effects, request) => {
                machine.step(Event::RolledBack);
                effects.clear();
                *request = None;
            }
        }
    }

    fn receive(&mut self, message: Message) {
        match (self, message) {
            (Self::Participant(_, work), Message::Call(call)) => {
                *work = Some(call);
            }
            (Self::Coordinator(machine, effects, request), message) => {
                effects.extend(match message {
                    Message::Request(transfer) => {
                        *request = Some(transfer);
                        machine.step(Event::Requested(transfer))
                    }
                    Message::Answer(call, reply) => {
                        machine.step(Event::Answered(call, reply))
                    }
                    Message::Call(_) => unreachable!("it makes the calls"),
                });
            }
            (Self::Participant(..), _) => unreachable!("it only gets calls"),
        }
    }

    fn has_work(&self, database: &Database) -> bool {
        let Self::Coordinator(machine, ..) = self else { return false };
        let rows = database.table(Table::Transfers);
        machine.is_running() || coordinator::unfinished(&rows).is_some()
    }

    fn is_waiting(&self) -> bool {
        matches!(self, Self::Coordinator(machine, ..) if machine.is_running())
    }

    fn wake(&mut self) {
        if let Self::Coordinator(machine, effects, _) = self {
            effects.extend(machine.step(Event::Wake));
        }
    }

    fn has_effect(&self) -> bool {
        match self {
            Self::Participant(_, work) => work.is_some(),
            Self::Coordinator(_, effects, _) => !effects.is_empty(),
        }
    }

    fn describe_effect(&self) -> String {
        match self {
            Self::Participant(_, work) => {
                let call = work.expect("an effect is due");
                format!("commits {call}, and answers")
            }
            Self::Coordinator(_, effects, _) => match &effects[0] {
                Effect::Call(call) => format!("sends {call}"),
                Effect::Transact(Command::Begin(_)) => "stores it".to_owned(),
                Effect::Transact(Command::Load) => "reads its table".to_owned(),
                Effect::Transact(Command::Change(_, from, to)) => {
                    format!("{from:?} becomes {to:?}")
                }
                Effect::Accept => "accepts the request".to_owned(),
                Effect::Refuse => "refuses the request".to_owned(),
            },
        }
    }

    fn perform(
        &mut self,
        database: &mut Database,
        fate: Fate,
    ) -> Output<Message> {
        let call = match self {
            Self::Participant(_, work) => {
                let call = work.take().expect("an effect is due");
                let reply = transact(database, &call, fate);
                return match fate {
                    Fate::Performed => Output::Call {
                        to: COORDINATOR,
                        message: Message::Answer(call, reply),
                    },
                    // The participant knows no outcome, and does not answer.
                    _ => Output::None,
                };
            }
            Self::Coordinator(machine, effects, request) => {
                match effects.pop_front().expect("an effect is due") {
                    Effect::Transact(command) => {
                        let body = async |tx: &mut Database| {
                            coordinator::transact(tx, &command).await
                        };
                        let commit =
                            |_: &Result<_, Infallible>| fate != Fate::Refused;
                        let Ok(outcome) = database.transaction(body, commit);
                        let event = match fate {
                            Fate::Performed => Event::Committed(outcome),
                            _ => Event::RolledBack,
                        };
                        effects.extend(machine.step(event));
                        return Output::None;
                    }
                    Effect::Accept | Effect::Refuse => {
                        let request = request.take().expect("it is requested");
                        return Output::Acknowledge(Message::Request(request));
                    }
                    Effect::Call(call) => call,
                }
            }
        };
        let to = match call.branch.side {
            Side::Debit => 0,
            Side::Credit => 1,
        };
        match fate {
            Fate::Refused => Output::None,
            _ => Output::Call { to, message: Message::Call(call) },
        }
    }

    /// No call may move money any more.
    fn check_settled(&self, database: &Database) -> Result<(), String> {
        if let Self::Participant(side, _) = *self {
            for transfer in transfers(9) {
                let branch = Branch { side, transfer };
                for operation in [Operation::Confirm, Operation::Cancel] {
                    let call = Call { operation, branch };
                    let mut after = database.clone();
                    transact(&mut after, &call, Fate::Performed);
                    if after.accounts != database.accounts {
                        let id = transfer.id;
                        return Err(format!(
                            "the {side} of transfer {id} is still reserved"
                        ));
                    }
                }
            }
            return Ok(());
        }
        let rows = database.table(Table::Transfers);
        let rows = rows.iter().map(|row| coordinator::parse(&row.value));
        let mut rows = rows.filter(|(p, _)| *p == coordinator::Phase::Parked);
        rows.next().map_or(Ok(()), |(_, transfer)| {
            let id = transfer.id;
            Err(format!("a participant contradicts the decision on {id}"))
        })
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(transfer) => write!(f, "request {transfer}"),
            Self::Call(call) => write!(f, "{call}"),
            Self::Answer(call, reply) => write!(f, "{reply:?} of {call}"),
        }
    }
}

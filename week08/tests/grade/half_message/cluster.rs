//! Two instances of the payment service, the broker, and the consumer, as
//! processes.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::mem;

use week08::half_message::{Effect, Event, Producer, Reply, next, transact};
use week08::inbox::{self, Consumer};
use week08::money::broker::{self, Decision, Input};
use week08::money::cluster::{
    Cluster, Fate, Faults, Id, Output, Process, Service, transfers,
};
use week08::money::simulated::Database;
use week08::money::{Message, Table};

const BROKER: Id = 0;
const SAVINGS: Id = 1;
/// Answers the check-backs.
const SECOND: Id = 2;
/// Handles the requests.
const FIRST: Id = 3;

/// The size of a cluster.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) transfers: u32,
    /// What the payment service has at the beginning.
    pub(crate) balance: i64,
    /// How often a client sends a request that is not answered.
    pub(crate) attempts: u32,
    /// How often the broker asks before it parks a message.
    pub(crate) max_checks: u32,
    /// How often a person lets the broker ask again. Then they give up.
    pub(crate) retries: u32,
    pub(crate) must_complete: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    Broker(Broker),
    Savings(Savings),
    Payment(Payment),
}

/// The broker, and the person who looks at its parked messages.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Broker {
    max_checks: u32,
    retries: u32,
    work: VecDeque<Work>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Work {
    /// Finds messages that are open or parked.
    Look,
    Prepare(Message),
    Apply(u64, Input),
    Deliver(Message),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Savings {
    received: Option<String>,
    effects: VecDeque<inbox::Effect>,
}

/// An instance of the payment service, and the client who sends it requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Payment {
    is_second: bool,
    producer: Producer,
    effects: VecDeque<Effect>,
    is_waiting: bool,
    requested: Option<u64>,
    /// The requests that are not answered, and how often they are sent.
    client: Vec<(Message, u32)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Call {
    Prepare(Message),
    Prepared(u64),
    PrepareRefused(u64),
    Confirm(u64, Decision),
    CheckBack(Message),
    Refund(Message),
    Delivered(String),
}

pub(crate) fn cluster(setup: Setup, faults: Faults) -> Cluster<Part> {
    let Setup { transfers: number, attempts, max_checks, retries, .. } = setup;
    let request = |transfer| (Message { debited_s: 1_000, transfer }, attempts);
    let client = transfers(number).into_iter().map(request).collect();
    let work = VecDeque::new();
    let parts = vec![
        Part::Broker(Broker { max_checks, retries, work }),
        Part::Savings(Savings::default()),
        Part::Payment(Payment { is_second: true, ..Payment::default() }),
        Part::Payment(Payment { client, ..Payment::default() }),
    ];
    let Setup { balance, must_complete, .. } = setup;
    Cluster::new(parts, number, balance, must_complete, faults)
}

impl Process for Part {
    type Message = Call;

    fn name(&self) -> String {
        let name = match self {
            Self::Broker(_) => "broker",
            Self::Savings(_) => "savings",
            Self::Payment(payment) if payment.is_second => "payment 2",
            Self::Payment(_) => "payment",
        };
        name.to_owned()
    }

    fn service(&self) -> Service {
        match self {
            Self::Broker(_) => Service::Coordinator,
            Self::Savings(_) => Service::Savings,
            Self::Payment(_) => Service::Payment,
        }
    }

    fn restart(&mut self) {
        match self {
            Self::Broker(broker) => broker.work.clear(),
            Self::Savings(savings) => *savings = Savings::default(),
            Self::Payment(payment) => {
                // The client has not crashed.
                let client = mem::take(&mut payment.client);
                let is_second = payment.is_second;
                *payment = Payment { is_second, client, ..Payment::default() };
            }
        }
    }

    fn receive(&mut self, call: Call) {
        match (self, call) {
            (Self::Broker(broker), Call::Prepare(message)) => {
                broker.work.push_back(Work::Prepare(message));
            }
            (Self::Broker(broker), Call::Confirm(id, decision)) => {
                let input = Input::Confirmed(decision);
                broker.work.push_back(Work::Apply(id, input));
            }
            (Self::Savings(savings), Call::Delivered(message)) => {
                savings.received = Some(message.clone());
                let effects = Consumer.step(inbox::Event::Received(message));
                savings.effects.extend(effects);
            }
            (Self::Payment(payment), Call::Prepared(id)) => {
                payment.step(Event::Prepared(id));
            }
            (Self::Payment(payment), Call::PrepareRefused(id)) => {
                payment.step(Event::PrepareRefused(id));
            }
            (Self::Payment(payment), Call::CheckBack(message)) => {
                payment.step(Event::CheckBack(message));
            }
            (Self::Payment(payment), Call::Refund(message)) => {
                payment.step(Event::Refund(message));
            }
            (part, call) => unreachable!("{call} is not sent to {part:?}"),
        }
    }

    fn has_work(&self, database: &Database) -> bool {
        match self {
            Self::Broker(_) => [Table::Outbox, Table::Parked]
                .into_iter()
                .any(|table| !database.table(table).is_empty()),
            Self::Savings(_) => false,
            Self::Payment(payment) => {
                payment.is_waiting || !payment.client.is_empty()
            }
        }
    }

    fn is_waiting(&self) -> bool {
        true
    }

    fn wake(&mut self) {
        match self {
            Self::Broker(broker) => broker.work.push_back(Work::Look),
            Self::Savings(_) => {}
            Self::Payment(payment) if payment.is_waiting => {
                payment.is_waiting = false;
                payment.step(Event::TimedOut);
            }
            Self::Payment(payment) => {
                let (message, attempts) = &mut payment.client[0];
                let message = *message;
                *attempts -= 1;
                payment.client.retain(|(_, attempts)| *attempts > 0);
                payment.requested = Some(message.transfer.id);
                payment.step(Event::Requested(message));
            }
        }
    }

    fn has_effect(&self) -> bool {
        match self {
            Self::Broker(broker) => !broker.work.is_empty(),
            Self::Savings(savings) => !savings.effects.is_empty(),
            Self::Payment(payment) => !payment.effects.is_empty(),
        }
    }

    fn describe_effect(&self) -> String {
        match self {
            Self::Broker(broker) => match &broker.work[0] {
                Work::Look => "which messages are open, or parked?".to_owned(),
                Work::Prepare(message) => format!("store {message:?}"),
                Work::Apply(id, input) => format!("message {id} is {input:?}"),
                Work::Deliver(message) => format!("deliver {message:?}"),
            },
            Self::Savings(savings) => format!("{:?}", savings.effects[0]),
            Self::Payment(payment) => format!("{:?}", payment.effects[0]),
        }
    }

    fn perform(&mut self, database: &mut Database, fate: Fate) -> Output<Call> {
        match self {
            Self::Broker(broker) => broker.perform(database, fate),
            Self::Savings(savings) => savings.perform(database, fate),
            Self::Payment(payment) => payment.perform(database, fate),
        }
    }
}

impl Broker {
    /// A transaction and the call after it are one effect. A crash between them
    /// has the same result as a lost call.
    fn perform(&mut self, database: &mut Database, fate: Fate) -> Output<Call> {
        let is_known = fate == Fate::Performed;
        let commit = fate != Fate::Refused;
        let max_checks = self.max_checks;
        match self.work.pop_front().expect("an effect is due") {
            Work::Look => {
                let look = async |tx: &mut Database| {
                    let Ok(open) = broker::open(tx, 100).await;
                    let Ok(parked) = broker::parked(tx, 1).await;
                    (open, parked)
                };
                let (open, parked) = database.transaction(look, |_| false);
                let due = open.iter().map(|m| (m.transfer.id, Input::Due));
                self.work.extend(due.map(|(id, due)| Work::Apply(id, due)));
                if let ([], [message]) = (&open[..], &parked[..]) {
                    let can_retry = self.retries > 0;
                    self.retries -= u32::from(can_retry);
                    let input =
                        if can_retry { Input::Retry } else { Input::Refund };
                    let work = Work::Apply(message.transfer.id, input);
                    self.work.push_back(work);
                }
                Output::None
            }
            Work::Prepare(message) => {
                let id = message.transfer.id;
                let prepare = async |tx: &mut Database| {
                    broker::prepare(tx, &message).await
                };
                let Ok(stored) = database.transaction(prepare, |_| commit);
                let message = match stored {
                    true => Call::Prepared(id),
                    false => Call::PrepareRefused(id),
                };
                let call = Output::Call { to: FIRST, message };
                if is_known { call } else { Output::None }
            }
            Work::Apply(id, input) => {
                let apply = async |tx: &mut Database| {
                    let next = |state, input| next(state, input, max_checks);
                    broker::apply(tx, id, input, next).await
                };
                let Ok(output) = database.transaction(apply, |_| commit);
                let message = match output.filter(|_| is_known) {
                    None => return Output::None,
                    Some(broker::Output::CheckBack(m)) => Call::CheckBack(m),
                    Some(broker::Output::Refund(m)) => Call::Refund(m),
                    Some(broker::Output::Deliver(message)) => {
                        self.work.push_back(Work::Deliver(message));
                        return Output::None;
                    }
                };
                Output::Call { to: SECOND, message }
            }
            Work::Deliver(message) => {
                let Message { transfer, .. } = message;
                if is_known {
                    let work = Work::Apply(transfer.id, Input::Delivered);
                    self.work.push_back(work);
                }
                let message = Call::Delivered(message.to_string());
                let (to, key) = (SAVINGS, transfer.from);
                let queue = Output::Queue { to, key, message };
                if commit { queue } else { Output::None }
            }
        }
    }
}

impl Savings {
    fn perform(&mut self, database: &mut Database, fate: Fate) -> Output<Call> {
        match self.effects.pop_front().expect("an effect is due") {
            inbox::Effect::Transact(command) => {
                let body = async |tx: &mut Database| {
                    inbox::transact(tx, &command).await
                };
                let commit = |_: &Result<_, Infallible>| fate != Fate::Refused;
                let Ok(outcome) = database.transaction(body, commit);
                let event = match fate {
                    Fate::Performed => inbox::Event::Committed(outcome),
                    _ => inbox::Event::RolledBack,
                };
                self.effects.extend(Consumer.step(event));
                Output::None
            }
            inbox::Effect::Acknowledge => {
                let received = self.received.take();
                match received.filter(|_| fate != Fate::Refused) {
                    Some(text) => Output::Acknowledge(Call::Delivered(text)),
                    None => Output::None,
                }
            }
        }
    }
}

impl Payment {
    fn step(&mut self, event: Event) {
        self.effects.extend(self.producer.step(event));
        self.is_waiting &= self.effects.is_empty();
    }

    fn perform(&mut self, database: &mut Database, fate: Fate) -> Output<Call> {
        let message = match self.effects.pop_front().expect("an effect is due")
        {
            Effect::Prepare(message) => {
                self.is_waiting = fate == Fate::Performed;
                if !self.is_waiting {
                    self.step(Event::TimedOut);
                }
                Call::Prepare(message)
            }
            Effect::Transact(command) => {
                let body =
                    async |tx: &mut Database| transact(tx, &command).await;
                let commit = |_: &Result<_, Infallible>| fate != Fate::Refused;
                let Ok(decision) = database.transaction(body, commit);
                self.step(match fate {
                    Fate::Performed => Event::Committed(decision),
                    _ => Event::RolledBack,
                });
                return Output::None;
            }
            Effect::Confirm(id, decision) => Call::Confirm(id, decision),
            Effect::Reply(reply) => {
                let id = self.requested.take();
                if reply != Reply::Unknown && fate != Fate::Refused {
                    self.client.retain(|(m, _)| Some(m.transfer.id) != id);
                }
                return Output::None;
            }
        };
        let call = Output::Call { to: BROKER, message };
        if fate == Fate::Refused { Output::None } else { call }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

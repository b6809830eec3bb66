//! From the request to the credit: the processes of `outbox` and `inbox`, and
//! the queues between them.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::num::NonZero;

use week08::inbox::{self, Consumer};
use week08::money::cluster::{
    Cluster, Fate, Faults, Id, Output, Process, Service, transfers,
};
use week08::money::simulated::Database;
use week08::money::{Message, Table};
use week08::outbox::{self, Api, Relay};

/// A part of one of the services, and the effects that it has still to perform.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Part<S, E> {
    machine: S,
    /// What it handles, until it is acknowledged.
    received: Option<String>,
    effects: VecDeque<E>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Any {
    Api(Part<Api, outbox::Effect>),
    /// The relay, and how many rows it reads at a time.
    Relay(Part<Relay, outbox::Effect>, NonZero<usize>),
    Consumer(Part<Consumer, inbox::Effect>),
}

const API: Id = 0;
const CONSUMER: Id = 2;

/// The second in which all transfers are requested.
const NOW_S: u64 = 1_000;

/// Returns the whole way of some transfers. The relay has batches of this size.
pub(crate) fn pipeline(
    number: u32,
    batch: usize,
    faults: Faults,
) -> Cluster<Any> {
    let batch = NonZero::new(batch).unwrap();
    let parts = vec![
        Any::Api(Part::new(Api)),
        Any::Relay(Part::new(Relay::new(batch)), batch),
        Any::Consumer(Part::new(Consumer)),
    ];
    let cluster = Cluster::new(parts, number, 1_000_000_000, true, faults);
    transfers(number).into_iter().fold(cluster, |cluster, transfer| {
        let request = Message { debited_s: NOW_S, transfer }.to_string();
        cluster.with_message(API, transfer.from, request)
    })
}

impl<S, E> Part<S, E> {
    fn new(machine: S) -> Self {
        Self { machine, received: None, effects: VecDeque::new() }
    }
}

impl Process for Any {
    type Message = String;

    fn name(&self) -> String {
        let name = match self {
            Self::Api(_) => "payment",
            Self::Relay(..) => "relay",
            Self::Consumer(_) => "savings",
        };
        name.to_owned()
    }

    fn service(&self) -> Service {
        match self {
            Self::Api(_) | Self::Relay(..) => Service::Payment,
            Self::Consumer(_) => Service::Savings,
        }
    }

    fn restart(&mut self) {
        match self {
            Self::Api(part) => *part = Part::new(Api),
            Self::Relay(part, batch) => {
                *part = Part::new(Relay::new(*batch));
            }
            Self::Consumer(part) => *part = Part::new(Consumer),
        }
    }

    fn receive(&mut self, message: String) {
        match self {
            Self::Api(part) => {
                let request: Message =
                    message.parse().expect("it is a request");
                let Message { debited_s: now_s, transfer } = request;
                let event = outbox::Event::Requested { transfer, now_s };
                part.effects.extend(part.machine.step(event));
                part.received = Some(message);
            }
            Self::Relay(..) => unreachable!("nobody sends to the relay"),
            Self::Consumer(part) => {
                let event = inbox::Event::Received(message.clone());
                part.effects.extend(part.machine.step(event));
                part.received = Some(message);
            }
        }
    }

    fn has_work(&self, database: &Database) -> bool {
        let is_relay = matches!(self, Self::Relay(..));
        is_relay && !database.table(Table::Outbox).is_empty()
    }

    fn wake(&mut self) {
        let Self::Relay(part, _) = self else { return };
        part.effects.extend(part.machine.step(outbox::Event::Wake));
    }

    fn has_effect(&self) -> bool {
        match self {
            Self::Api(part) => !part.effects.is_empty(),
            Self::Relay(part, _) => !part.effects.is_empty(),
            Self::Consumer(part) => !part.effects.is_empty(),
        }
    }

    fn describe_effect(&self) -> String {
        match self {
            Self::Api(part) => format!("{:?}", part.effects[0]),
            Self::Relay(part, _) => format!("{:?}", part.effects[0]),
            Self::Consumer(part) => format!("{:?}", part.effects[0]),
        }
    }

    fn perform(
        &mut self,
        database: &mut Database,
        fate: Fate,
    ) -> Output<String> {
        match self {
            Self::Api(Part { machine, received, effects }) => {
                let step = |event| machine.step(event);
                perform_outbox(step, received, effects, database, fate)
            }
            Self::Relay(Part { machine, received, effects }, _) => {
                let step = |event| machine.step(event);
                perform_outbox(step, received, effects, database, fate)
            }
            Self::Consumer(part) => part.perform(database, fate),
        }
    }
}

fn perform_outbox(
    mut step: impl FnMut(outbox::Event) -> Vec<outbox::Effect>,
    received: &mut Option<String>,
    effects: &mut VecDeque<outbox::Effect>,
    database: &mut Database,
    fate: Fate,
) -> Output<String> {
    use outbox::{Effect, Event, Reply};
    let (event, output) = match effects.pop_front().expect("an effect is due") {
        Effect::Transact(command) => {
            let transact =
                async |tx: &mut Database| outbox::transact(tx, &command).await;
            let commit = |_: &Result<_, Infallible>| fate != Fate::Refused;
            let Ok(outcome) = database.transaction(transact, commit);
            let event = match fate {
                Fate::Performed => Event::Committed(outcome),
                Fate::AnswerLost | Fate::Refused => Event::RolledBack,
            };
            (event, Output::None)
        }
        Effect::Publish(message) => {
            let parsed: Result<Message, _> = message.parse();
            let key = parsed.map_or(0, |message| message.transfer.from);
            let output = Output::Queue { to: CONSUMER, key, message };
            match fate {
                Fate::Performed => (Event::Published, output),
                Fate::AnswerLost => (Event::PublishFailed, output),
                Fate::Refused => (Event::PublishFailed, Output::None),
            }
        }
        Effect::Reply(reply) => {
            // A client without an answer repeats its request.
            let request = received.take();
            let is_answer = reply != Reply::Unknown && fate != Fate::Refused;
            return match request.filter(|_| is_answer) {
                Some(request) => Output::Acknowledge(request),
                None => Output::None,
            };
        }
    };
    effects.extend(step(event));
    output
}

impl Part<Consumer, inbox::Effect> {
    fn perform(
        &mut self,
        database: &mut Database,
        fate: Fate,
    ) -> Output<String> {
        use inbox::{Effect, Event};
        match self.effects.pop_front().expect("an effect is due") {
            Effect::Transact(command) => {
                let transact = async |tx: &mut Database| {
                    inbox::transact(tx, &command).await
                };
                let commit = |_: &Result<_, Infallible>| fate != Fate::Refused;
                let Ok(outcome) = database.transaction(transact, commit);
                let event = match fate {
                    Fate::Performed => Event::Committed(outcome),
                    Fate::AnswerLost | Fate::Refused => Event::RolledBack,
                };
                self.effects.extend(self.machine.step(event));
                Output::None
            }
            Effect::Acknowledge => {
                let received = self.received.take();
                match received.filter(|_| fate != Fate::Refused) {
                    Some(message) => Output::Acknowledge(message),
                    None => Output::None,
                }
            }
        }
    }
}

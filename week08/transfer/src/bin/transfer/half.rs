//! The processes of half messages: the producer, the broker, and the consumer.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::spawn_local;
use tokio::time::interval;
use week08::half_message::{
    Command, Effect, Event, Producer, Reply, next, transact,
};
use week08::money::broker::{self, Decision, Input, Output};
use week08::money::{Message, Transfer};

use crate::child::{Context, drive, now_s};
use crate::outbox::credit_one;
use crate::pattern::Role;
use crate::wire::{Caller, serve};

/// A message that is open for so long is due.
const DUE: Duration = Duration::from_millis(500);

/// How often the broker looks for open messages.
const LOOK: Duration = Duration::from_millis(50);

/// The most open messages that the broker looks at.
const OPEN: usize = 1_000;

/// After so many check-backs, a person has to decide.
const MAX_CHECKS: u32 = 100;

/// Handles requests, check-backs and refunds, all at the same time.
pub(crate) async fn payment(context: Context) -> Result<()> {
    let dir = context.dir.clone();
    let broker = Rc::new(Caller::new(&dir, Role::Broker));
    serve(&dir, Role::Payment, async move |line| {
        let (verb, rest) = line.split_once(' ')?;
        let event = match verb {
            "check" => Event::CheckBack(rest.parse().ok()?),
            "refund" => Event::Refund(rest.parse().ok()?),
            _ => Event::Requested(Message {
                debited_s: now_s(),
                transfer: line.parse().ok()?,
            }),
        };
        let reply = produce(&context, &broker, event).await;
        Some(reply.map_or("ok".to_owned(), |reply| format!("{reply:?}")))
    })
    .await?;
    Ok(())
}

/// Lets a producer handle an event. Returns its reply to a client, if any.
async fn produce(
    context: &Context,
    broker: &Rc<Caller>,
    event: Event,
) -> Option<Reply> {
    let mut producer = Producer::default();
    let mut answer = None;
    let perform = async |effect| match effect {
        Effect::Prepare(message) => {
            let id = message.transfer.id;
            let answer = broker.call(&format!("prepare {message}")).await;
            Some(match answer.as_deref() {
                Ok("prepared") => Event::Prepared(id),
                Ok(_) => Event::PrepareRefused(id),
                Err(_) => Event::TimedOut,
            })
        }
        Effect::Transact(command) => {
            let body = async |tx: &mut _| transact(tx, &command).await;
            let committed = context.ledger.transaction(body).await;
            let Ok(decision) = committed else {
                return Some(Event::RolledBack);
            };
            let text = describe(&command, decision);
            context.reports.report(&text).await;
            Some(Event::Committed(decision))
        }
        Effect::Confirm(id, decision) => {
            let broker = Rc::clone(broker);
            // It may be lost: nobody waits for it.
            spawn_local(async move {
                let _ =
                    broker.call(&format!("confirm {id} {decision:?}")).await;
            });
            None
        }
        Effect::Reply(reply) => {
            answer = Some(reply);
            None
        }
    };
    drive(|event| producer.step(event), event, perform).await;
    answer
}

fn describe(command: &Command, decision: Decision) -> String {
    let (verb, Transfer { id, .. }) = match command {
        Command::Debit(transfer) => ("commits", transfer),
        Command::Check(transfer) => ("checks", transfer),
        Command::Refund(transfer) => ("refunds", transfer),
    };
    format!("{verb} {id}: {decision:?}")
}

/// Stores messages, and delivers those that are committed.
pub(crate) async fn broker(context: Context) -> Result<()> {
    let dir = context.dir.clone();
    let broker = Rc::new(Broker {
        payment: Caller::new(&dir, Role::Payment),
        savings: Caller::new(&dir, Role::Savings),
        context,
    });
    spawn_local({
        let broker = Rc::clone(&broker);
        async move { broker.look().await }
    });
    serve(&dir, Role::Broker, async move |line| {
        let (verb, rest) = line.split_once(' ')?;
        if verb == "prepare" {
            let is_stored = broker.prepare(&rest.parse().ok()?).await?;
            let answer = if is_stored { "prepared" } else { "refused" };
            return Some(answer.to_owned());
        }
        let (id, decision) = rest.split_once(' ')?;
        let decision = match decision {
            "Commit" => Decision::Commit,
            "Rollback" => Decision::Rollback,
            _ => Decision::Unknown,
        };
        let input = Input::Confirmed(decision);
        let output = broker.apply(id.parse().ok()?, input).await;
        let broker = Rc::clone(&broker);
        spawn_local(async move { broker.send(output).await });
        Some("ok".to_owned())
    })
    .await?;
    Ok(())
}

struct Broker {
    context: Context,
    payment: Caller,
    savings: Caller,
}

impl Broker {
    /// Returns none if the database has failed.
    async fn prepare(&self, message: &Message) -> Option<bool> {
        let body = async |tx: &mut _| broker::prepare(tx, message).await;
        let is_stored = self.context.ledger.transaction(body).await.ok()?;
        let text = format!("stores half message {}", message.transfer.id);
        self.context.reports.report(&text).await;
        Some(is_stored)
    }

    async fn apply(&self, id: u64, input: Input) -> Option<Output> {
        let next = |state, input| next(state, input, MAX_CHECKS);
        let body = async |tx: &mut _| broker::apply(tx, id, input, next).await;
        // After an error, the message is due later.
        let output = self.context.ledger.transaction(body).await.ok()?;
        let text = match (input, &output) {
            (Input::Due, None) => return None,
            (Input::Due, Some(Output::CheckBack(_))) => {
                format!("checks back {id}")
            }
            (Input::Due, _) => format!("sends {id} again"),
            (Input::Confirmed(decision), _) => {
                format!("receives {decision:?} of {id}")
            }
            (input, _) => format!("stores {input:?} of {id}"),
        };
        self.context.reports.report(&text).await;
        output
    }

    /// Makes the call that follows a transaction. A call that fails is made
    /// again when the message is due.
    async fn send(&self, output: Option<Output>) {
        match output {
            None => {}
            Some(Output::CheckBack(message)) => {
                let _ = self.payment.call(&format!("check {message}")).await;
            }
            Some(Output::Refund(message)) => {
                let _ = self.payment.call(&format!("refund {message}")).await;
            }
            Some(Output::Deliver(message)) => {
                let answer = self.savings.call(&message.to_string()).await;
                if answer.is_ok() {
                    self.apply(message.transfer.id, Input::Delivered).await;
                }
            }
        }
    }

    /// Finds messages that are open for too long.
    async fn look(self: Rc<Self>) {
        let mut since = HashMap::new();
        let mut looks = interval(LOOK);
        loop {
            looks.tick().await;
            let open = async |tx: &mut _| broker::open(tx, OPEN).await;
            let Ok(open) = self.context.ledger.transaction(open).await else {
                continue;
            };
            let now = Instant::now();
            let mut still_open = HashMap::new();
            for Message { transfer: Transfer { id, .. }, .. } in open {
                let mut first = *since.get(&id).unwrap_or(&now);
                if now - first >= DUE {
                    first = now;
                    let broker = Rc::clone(&self);
                    spawn_local(async move {
                        let output = broker.apply(id, Input::Due).await;
                        broker.send(output).await;
                    });
                }
                still_open.insert(id, first);
            }
            since = still_open;
        }
    }
}

/// Credits the messages that the broker delivers.
pub(crate) async fn savings(context: Context) -> Result<()> {
    let dir = context.dir.clone();
    serve(&dir, Role::Savings, async move |message| {
        credit_one(&context, &message.to_owned()).await;
        Some("ok".to_owned())
    })
    .await?;
    Ok(())
}

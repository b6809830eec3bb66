//! The processes of the outbox: the API, the relay, and the consumer.
//!
//! The relay deletes a row after it is published. A tailer reads the log, which
//! keeps the row, so there the API deletes it in the transaction that inserts
//! it. The table stays empty, and needs no clean-up. The price: if the slot is
//! lost, no row is left to publish again.

use std::num::NonZero;
use std::slice;
use std::time::Duration;

use anyhow::Result;
use rdkafka::producer::FutureProducer;
use tokio::time::sleep;
use week08::inbox::{self, Consumer};
use week08::money::{Message, Table, Transfer, Tx as _};
use week08::outbox::{Api, Command, Effect, Event, Outcome, Relay, transact};
use week08_transfer::sql::{Ledger, SqlTx};

use crate::child::{Context, drive, now_s};
use crate::pattern::Role;
use crate::{kafka, wire};

/// The rows that the relay reads at a time.
const BATCH: NonZero<usize> = NonZero::new(100).expect("it is positive");

/// How long the relay waits after it has found no rows.
const POLL: Duration = Duration::from_millis(10);

/// How long a consumer waits before it tries a message again.
const RETRY: Duration = Duration::from_millis(50);

/// The rows of the outbox after the transaction that inserts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    /// The relay deletes them.
    Stay,
    /// They are in the log alone.
    AreDeleted,
}

/// Handles the requests of clients. Each is the text of a transfer.
pub(crate) async fn payment(context: Context, rows: Rows) -> Result<()> {
    let Context { ledger, dir, reports } = context;
    wire::serve(&dir, Role::Payment, async move |line| {
        let transfer = line.parse().ok()?;
        let mut answer = None;
        let event = Event::Requested { transfer, now_s: now_s() };
        let perform = async |effect| match effect {
            Effect::Transact(command) => {
                let event = run(&ledger, &command, rows).await;
                if let Event::Committed(Outcome::Debit(reply)) = event {
                    let id = transfer.id;
                    reports.report(&format!("commits {id}: {reply:?}")).await;
                }
                Some(event)
            }
            Effect::Reply(reply) => {
                answer = Some(format!("{reply:?}"));
                None
            }
            Effect::Publish(_) => unreachable!("the relay publishes"),
        };
        drive(|event| Api.step(event), event, perform).await;
        answer
    })
    .await?;
    Ok(())
}

/// Publishes the rows of the outbox. One relay runs at a time.
pub(crate) async fn relay(context: Context, brokers: &str) -> Result<()> {
    let Context { ledger, reports, .. } = context;
    let producer = kafka::producer(brokers)?;
    let publish = async |text: &str| {
        let id = publish(&producer, text).await?;
        reports.report(&format!("has published {id}")).await;
        Some(id)
    };
    let deleted = async |rows: usize| {
        reports.report(&format!("deletes {rows} rows")).await;
    };
    poll(&ledger, POLL, publish, deleted).await
}

/// Publishes the rows of the outbox, and waits for `pause` after it has found
/// none. `publish` returns none if the message is not acknowledged, and `deleted`
/// is called with the number of rows after their deletion.
pub(crate) async fn poll(
    ledger: &Ledger,
    pause: Duration,
    publish: impl AsyncFn(&str) -> Option<u64>,
    deleted: impl AsyncFn(usize),
) -> ! {
    let mut relay = Relay::new(BATCH);
    loop {
        let perform = async |effect| match effect {
            Effect::Transact(command) => {
                let event = run(ledger, &command, Rows::Stay).await;
                if let (Command::Delete(keys), Event::Committed(_)) =
                    (&command, &event)
                {
                    deleted(keys.len()).await;
                }
                Some(event)
            }
            Effect::Publish(text) => Some(match publish(&text).await {
                Some(_) => Event::Published,
                None => Event::PublishFailed,
            }),
            Effect::Reply(_) => unreachable!("the API replies"),
        };
        drive(|event| relay.step(event), Event::Wake, perform).await;
        sleep(pause).await;
    }
}

/// Publishes a message of the outbox with the account as its key. Returns the id
/// of the transfer if Kafka has acknowledged the message.
pub(crate) async fn publish(
    producer: &FutureProducer,
    text: &str,
) -> Option<u64> {
    let transfer = transfer(text);
    let key = transfer.from.to_string();
    kafka::publish(producer, &key, text).await.then_some(transfer.id)
}

/// Returns the id of the transfer of a message of the outbox.
pub(crate) fn id(text: &str) -> u64 {
    transfer(text).id
}

fn transfer(text: &str) -> Transfer {
    let message: Result<Message, _> = text.parse();
    message.expect("a debit wrote it").transfer
}

async fn run(ledger: &Ledger, command: &Command, rows: Rows) -> Event {
    let body = async |tx: &mut SqlTx| {
        let outcome = transact(tx, command).await?;
        if let (Command::Debit(message), Rows::AreDeleted) = (command, rows) {
            let key = message.transfer.id.to_string();
            tx.delete(Table::Outbox, &key).await?;
        }
        Ok(outcome)
    };
    match ledger.transaction(body).await {
        Ok(outcome) => Event::Committed(outcome),
        Err(_) => Event::RolledBack,
    }
}

/// Credits the messages of Kafka.
pub(crate) async fn savings(context: Context, brokers: &str) -> Result<()> {
    let handle = async move |texts: &[String]| {
        if !credit(&context, texts).await {
            // One of them may fail each time: those before it are credited.
            for text in texts {
                credit_one(&context, text).await;
            }
        }
    };
    kafka::consume(brokers, handle).await
}

/// Credits a message, and returns when it may be acknowledged.
pub(crate) async fn credit_one(context: &Context, text: &String) {
    while !credit(context, slice::from_ref(text)).await {
        sleep(RETRY).await;
    }
}

/// Credits messages in one transaction, which costs less than one for each.
/// Returns whether they may be acknowledged.
async fn credit(context: &Context, texts: &[String]) -> bool {
    use inbox::{Effect, Event, Outcome};
    let mut texts: Vec<_> =
        texts.iter().map(|text| (target(text), text)).collect();
    // Two transactions that lock accounts in one order have no deadlock.
    texts.sort_by_key(|((account, _), _)| *account);
    let received =
        texts.iter().map(|(_, text)| Event::Received((*text).clone()));
    let effects: Vec<_> =
        received.flat_map(|event| Consumer.step(event)).collect();
    let body = async |tx: &mut _| {
        let mut outcomes = Vec::new();
        for effect in &effects {
            if let Effect::Transact(command) = effect {
                outcomes.push(inbox::transact(tx, command).await?);
            }
        }
        Ok(outcomes)
    };
    let Ok(outcomes) = context.ledger.transaction(body).await else {
        return false;
    };
    let mut acknowledged = 0;
    for (((_, id), _), outcome) in texts.iter().zip(outcomes) {
        let text = match outcome {
            Outcome::Credited => format!("has credited {id}"),
            Outcome::Repeated => format!("drops {id} as repeated"),
            Outcome::Parked | Outcome::Cleaned(_) => format!("parks {id}"),
        };
        if outcome == Outcome::Credited {
            context.reports.report_credit(*id, &text).await;
        } else {
            context.reports.report(&text).await;
        }
        let effects = Consumer.step(Event::Committed(outcome));
        acknowledged +=
            effects.iter().filter(|e| **e == Effect::Acknowledge).count();
    }
    acknowledged == texts.len()
}

/// Returns the account that a message credits, and the id of its transfer.
fn target(text: &str) -> (u64, u64) {
    let message = text.parse::<Message>();
    message
        .map_or((0, 0), |Message { transfer, .. }| (transfer.to, transfer.id))
}

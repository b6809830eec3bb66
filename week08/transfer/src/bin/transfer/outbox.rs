//! The processes of the outbox: the API, the relay, and the consumer.

use std::num::NonZero;
use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;
use week08::inbox::{self, Consumer};
use week08::money::Message;
use week08::outbox::{Api, Command, Effect, Event, Outcome, Relay, transact};
use week08_transfer::sql::Ledger;

use crate::child::{Context, drive, now_s};
use crate::pattern::Role;
use crate::{kafka, wire};

/// The rows that the relay reads at a time.
const BATCH: NonZero<usize> = NonZero::new(100).expect("it is positive");

/// How long the relay waits after it has found no rows.
const POLL: Duration = Duration::from_millis(10);

/// How long a consumer waits before it tries a message again.
const RETRY: Duration = Duration::from_millis(50);

/// Handles the requests of clients. Each is the text of a transfer.
pub(crate) async fn payment(context: Context) -> Result<()> {
    let Context { ledger, dir, reports } = context;
    wire::serve(&dir, Role::Payment, async move |line| {
        let transfer = line.parse().ok()?;
        let mut answer = None;
        let event = Event::Requested { transfer, now_s: now_s() };
        let perform = async |effect| match effect {
            Effect::Transact(command) => {
                let event = run(&ledger, &command).await;
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
    let mut relay = Relay::new(BATCH);
    loop {
        let perform = async |effect| match effect {
            Effect::Transact(command) => {
                let event = run(&ledger, &command).await;
                if let (Command::Delete(keys), Event::Committed(_)) =
                    (&command, &event)
                {
                    let text = format!("deletes {} rows", keys.len());
                    reports.report(&text).await;
                }
                Some(event)
            }
            Effect::Publish(text) => {
                let message: Result<Message, _> = text.parse();
                let transfer = message.expect("a debit wrote it").transfer;
                let key = transfer.from.to_string();
                if !kafka::publish(&producer, &key, &text).await {
                    return Some(Event::PublishFailed);
                }
                reports.report(&format!("has published {}", transfer.id)).await;
                Some(Event::Published)
            }
            Effect::Reply(_) => unreachable!("the API replies"),
        };
        drive(|event| relay.step(event), Event::Wake, perform).await;
        sleep(POLL).await;
    }
}

async fn run(ledger: &Ledger, command: &Command) -> Event {
    let body = async |tx: &mut _| transact(tx, command).await;
    match ledger.transaction(body).await {
        Ok(outcome) => Event::Committed(outcome),
        Err(_) => Event::RolledBack,
    }
}

/// Credits the messages of Kafka.
pub(crate) async fn savings(context: Context, brokers: &str) -> Result<()> {
    kafka::consume(brokers, async move |text| credit(&context, text).await)
        .await
}

/// Credits a message, and returns when it may be acknowledged.
pub(crate) async fn credit(context: &Context, text: &str) {
    use inbox::{Effect, Event, Outcome};
    let Context { ledger, reports, .. } = context;
    let message = text.parse::<Message>();
    let id = message.map_or(0, |message| message.transfer.id);
    loop {
        let mut is_acknowledged = false;
        let perform = async |effect| match effect {
            Effect::Transact(command) => {
                let body =
                    async |tx: &mut _| inbox::transact(tx, &command).await;
                let Ok(outcome) = ledger.transaction(body).await else {
                    return Some(Event::RolledBack);
                };
                match outcome {
                    Outcome::Credited => {
                        let text = format!("has credited {id}");
                        reports.report_credit(id, &text).await;
                    }
                    Outcome::Repeated => {
                        let text = format!("drops {id}, which is repeated");
                        reports.report(&text).await;
                    }
                    Outcome::Parked | Outcome::Cleaned(_) => {
                        reports.report(&format!("parks {id}")).await;
                    }
                }
                Some(Event::Committed(outcome))
            }
            Effect::Acknowledge => {
                is_acknowledged = true;
                None
            }
        };
        let event = Event::Received(text.to_owned());
        drive(|event| Consumer.step(event), event, perform).await;
        if is_acknowledged {
            return;
        }
        sleep(RETRY).await;
    }
}

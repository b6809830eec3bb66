//! Tells every process which subjects have changed, so that it forgets what it
//! has stored about them.
//!
//! Processes hear of changes on a channel of Redis, on which the index publishes
//! them. Redis does not repeat a message for a subscriber that was away. So a
//! process that has subscribed, again or for the first time, forgets everything.
//! Without Redis, a [`Bus`] connects the services of one process.

use std::time::Duration;

use futures_util::StreamExt as _;
use redis::aio::{PubSubSink, PubSubStream};
use redis::{Client, RedisResult};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{sleep, timeout};

use crate::index::CHANNEL;

/// A message to the caches of all processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The comments of this subject have changed.
    Subject(u64),
    /// Any subject may have changed, because messages may have been missed.
    Everything,
}

/// Connects the services of one process. A clone is the same bus.
#[derive(Debug, Clone)]
pub struct Bus {
    changed: broadcast::Sender<u64>,
}

/// A subscriber that is further behind forgets everything.
const MAX_BEHIND: usize = 1024;

/// The time to connect, and for the answer to a ping.
const PATIENCE: Duration = Duration::from_secs(1);

/// After so long without a message, the connection is tested.
const QUIET: Duration = Duration::from_secs(1);

const PAUSE: Duration = Duration::from_millis(100);

impl Bus {
    /// Tells all subscribers that a subject has changed.
    pub fn publish(&self, subject: u64) {
        // An error means that there is no subscriber.
        let _ = self.changed.send(subject);
    }

    /// Calls `forget` for each change from now on. Ends when the bus is dropped.
    pub fn listen<F: Fn(Change)>(
        &self,
        forget: F,
    ) -> impl Future<Output = ()> + use<F> {
        let mut changes = self.changed.subscribe();
        async move {
            loop {
                match changes.recv().await {
                    Ok(subject) => forget(Change::Subject(subject)),
                    Err(RecvError::Lagged(_)) => forget(Change::Everything),
                    Err(RecvError::Closed) => return,
                }
            }
        }
    }
}

impl Default for Bus {
    fn default() -> Self {
        Self { changed: broadcast::Sender::new(MAX_BEHIND) }
    }
}

/// Calls `forget` for each change that is published in Redis. Never ends, and
/// connects again when the connection is lost.
pub async fn listen(client: Client, forget: impl Fn(Change)) {
    loop {
        if let Ok(Ok((sink, messages))) =
            timeout(PATIENCE, subscribe(&client)).await
        {
            // After the subscription: what is published now will arrive.
            forget(Change::Everything);
            receive(sink, messages, &forget).await;
            forget(Change::Everything);
        }
        sleep(PAUSE.mul_f64(0.5 + fastrand::f64())).await;
    }
}

async fn subscribe(client: &Client) -> RedisResult<(PubSubSink, PubSubStream)> {
    let mut connection = client.get_async_pubsub().await?;
    connection.subscribe(CHANNEL).await?;
    Ok(connection.split())
}

/// Returns when the connection is lost.
async fn receive(
    mut sink: PubSubSink,
    mut messages: PubSubStream,
    forget: &impl Fn(Change),
) {
    loop {
        match timeout(QUIET, messages.next()).await {
            Ok(Some(message)) => {
                let subject = message.get_payload().ok();
                forget(subject.map_or(Change::Everything, Change::Subject));
            }
            Ok(None) => return,
            Err(_quiet) => {
                let pong = timeout(PATIENCE, sink.ping::<redis::Value>());
                if !matches!(pong.await, Ok(Ok(_))) {
                    return;
                }
            }
        }
    }
}

//! The remote level in Redis, with pub/sub as the channel.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fastbloom::AtomicBloomFilter;
use redis::aio::{ConnectionManager, MultiplexedConnection};
use redis::{
    AsyncConnectionConfig, Client, PushInfo, PushKind, RedisError, Value,
};
use tokio::sync::mpsc::{Receiver, channel as queue};
use tokio::time::{sleep, timeout};
use week08::levels::{Levels, Origin, Remote, Stored};

/// Entries with a common prefix, which is also the name of the channel.
#[derive(Clone)]
pub(crate) struct RedisLevel {
    connection: ConnectionManager,
    prefix: String,
}

impl RedisLevel {
    /// Connects to the server.
    pub(crate) async fn new(
        client: &Client,
        prefix: &str,
    ) -> Result<Self, RedisError> {
        let connection = client.get_connection_manager().await?;
        Ok(Self { connection, prefix: prefix.to_owned() })
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

impl Remote for RedisLevel {
    type Error = RedisError;

    async fn get(&self, key: &str) -> Result<Option<Stored>, RedisError> {
        let key = self.key(key);
        // In one transaction: the entry must not be replaced in between.
        let mut both = redis::pipe();
        both.atomic().get(&key).pttl(&key);
        let both = both.query_async(&mut self.connection.clone()).await;
        let (bytes, ttl): (Option<Vec<u8>>, i64) = both?;
        // Without an expiry time, the command returns -1.
        let ttl = u64::try_from(ttl).unwrap_or(u64::MAX);
        let ttl = Duration::from_millis(ttl);
        Ok(bytes.map(|bytes| Stored { bytes, ttl }))
    }

    async fn set(
        &self,
        key: &str,
        bytes: Vec<u8>,
        ttl: Duration,
    ) -> Result<(), RedisError> {
        let ms = ttl.as_millis().try_into().unwrap_or(1 << 50).min(1 << 50);
        if ms == 0 {
            return Ok(()); // Redis refuses it.
        }
        let set = redis::Cmd::pset_ex(self.key(key), bytes, ms);
        set.query_async(&mut self.connection.clone()).await
    }

    async fn delete(&self, key: &str) -> Result<(), RedisError> {
        let delete = redis::Cmd::del(self.key(key));
        let n: Result<u32, _> =
            delete.query_async(&mut self.connection.clone()).await;
        n.map(drop)
    }

    async fn publish(&self, key: &str) -> Result<(), RedisError> {
        let publish = redis::Cmd::publish(&self.prefix, key);
        let n: Result<u32, _> =
            publish.query_async(&mut self.connection.clone()).await;
        n.map(drop)
    }
}

/// Handles the messages of the channel, and subscribes again if it breaks.
/// `keys` reads the keys of the origin.
pub(crate) async fn follow<O: Origin>(
    client: &Client,
    channel: &str,
    levels: &Levels<RedisLevel, O>,
    keys: impl AsyncFn() -> AtomicBloomFilter,
) {
    loop {
        if let Ok((mut connection, mut pushes)) =
            subscribe(client, channel).await
        {
            // After the subscription: the keys that are created from now on
            // come as messages, which wait in `pushes`.
            levels.channel_restored(keys().await);
            while let Some(push) = next(&mut connection, &mut pushes).await {
                if let (PushKind::Message, [_, Value::BulkString(key)]) =
                    (push.kind, &*push.data)
                {
                    levels.on_invalidation(&String::from_utf8_lossy(key));
                }
            }
        }
        levels.channel_lost();
        sleep(Duration::from_millis(50)).await;
    }
}

type Pushes = Receiver<PushInfo>;

async fn subscribe(
    client: &Client,
    channel: &str,
) -> Result<(MultiplexedConnection, Pushes), RedisError> {
    let (sender, pushes) = queue(10_000);
    let sender = Mutex::new(Some(sender));
    let config = AsyncConnectionConfig::new().set_push_sender(move |push| {
        let mut sender = sender.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = sender.as_ref().map(|sender| sender.try_send(push));
        if !matches!(sent, Some(Ok(()))) {
            // The queue is full, and a message is lost. Without a sender, the
            // queue ends, and counts as a broken connection.
            *sender = None;
        }
        Ok::<(), redis::aio::SendError>(())
    });
    let mut connection =
        client.get_multiplexed_async_connection_with_config(&config).await?;
    // Returns when the server has confirmed it.
    connection.subscribe(channel).await?;
    Ok((connection, pushes))
}

/// Returns the next push, or `None` if the connection is broken. A silent one
/// may be broken without a sign, so it has to answer a ping.
async fn next(
    connection: &mut MultiplexedConnection,
    pushes: &mut Pushes,
) -> Option<PushInfo> {
    const SILENT: Duration = Duration::from_secs(1);
    loop {
        if let Ok(push) = timeout(SILENT, pushes.recv()).await {
            return push.filter(|p| p.kind != PushKind::Disconnection);
        }
        let ping = redis::cmd("PING");
        let pong = ping.query_async::<String>(connection);
        if !matches!(timeout(SILENT, pong).await, Ok(Ok(_))) {
            return None;
        }
    }
}

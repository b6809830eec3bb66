//! Two caches with a real Redis.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use redis::Client;
use tokio::time::sleep;
use week08::levels::{Config, Levels, Origin};

use crate::redis_level::{RedisLevel, follow};
use crate::{BOOK, Price, products};

const CHANNEL: &str = "price:";

#[derive(Clone, Default)]
struct Row(Arc<AtomicU32>);

impl Origin for Row {
    type Value = Price;
    type Error = Infallible;

    async fn load(&self, _: &str) -> Result<Option<Price>, Infallible> {
        Ok(Some(Price(self.0.load(SeqCst))))
    }
}

type Process = Arc<Levels<RedisLevel, Row>>;

#[tokio::main]
pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let server = lab::servers::Redis::start()?;
    let client = Client::open(format!("{}?protocol=resp3", server.url()))?;
    let mut admin = client.get_multiplexed_async_connection().await?;
    let row = Row::default();
    let a = process(&client, &row).await?;
    let b = process(&client, &row).await?;
    println!("Two caches, one redis-server. Each changes the price in turn.\n");
    println!("price   channel            the other reads it after");
    for price in 1..=8 {
        let (writer, reader) = if price % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let is_killed = price > 4;
        for process in [&a, &b] {
            process.get(BOOK, 0.5).await?; // Both have the old price.
        }
        if is_killed {
            let mut kill = redis::cmd("CLIENT");
            kill.arg("KILL").arg("TYPE").arg("pubsub");
            kill.query_async::<u32>(&mut admin).await?;
        }
        row.0.store(price, SeqCst);
        let changed = Instant::now();
        writer.invalidate(BOOK).await?;
        while reader.get(BOOK, 0.5).await? != Some(Price(price)) {
            sleep(Duration::from_micros(100)).await;
        }
        let after = changed.elapsed().as_secs_f64() * 1_000.0;
        let channel = if is_killed { "CLIENT KILL" } else { "good" };
        println!("{price:5}   {channel:15} {after:20.1} ms");
        sleep(Duration::from_millis(200)).await; // It subscribes again.
    }
    Ok(())
}

async fn process(
    client: &Client,
    row: &Row,
) -> Result<Process, Box<dyn Error>> {
    let config = Config {
        capacity: 1_000.try_into()?,
        local_ttl: Duration::from_secs(600),
        remote_ttl: Duration::from_secs(3600),
        negative_ttl: Duration::from_secs(30),
        unsynced_ttl: Duration::ZERO,
        jitter: 0.1,
        remote_timeout: Duration::from_millis(500),
        loads_without_remote: 10,
    };
    let remote = RedisLevel::new(client, CHANNEL).await?;
    let levels = Arc::new(Levels::new(config, remote, row.clone()));
    let (followed, client) = (Arc::clone(&levels), client.clone());
    tokio::spawn(async move {
        follow(&client, CHANNEL, &followed, async || products()).await;
    });
    // Refused by the filter, once the channel is there.
    while levels.get("no such book", 0.5).await?.is_some() {
        sleep(Duration::from_millis(1)).await;
    }
    Ok(levels)
}

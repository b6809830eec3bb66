//! The cost of a hit in the local level, against `moka` and `quick_cache` alone.
//!
//! A hit of `levels` reads the clock, to compare with the life of the entry, and
//! counts the references to the current local level. The peers' entries do not
//! expire. `moka` has a time to live in a second measurement.

use std::convert::Infallible;
use std::hint::black_box;
use std::time::Duration;

use fastbloom::AtomicBloomFilter;
use lab::ratio::{Plan, measure};
use tokio::runtime::Builder;
use week08::levels::{Config, Levels, Origin, Remote, Stored, Value};

/// The number of hits in one measured call.
const HITS: usize = 20_000;
/// The number of keys, which fit into each cache.
const KEYS: usize = 1_000;
const HOUR: Duration = Duration::from_secs(3600);

#[derive(Clone)]
struct Price(u64);

impl Value for Price {
    fn encode(&self) -> Vec<u8> {
        self.0.to_be_bytes().into()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(u64::from_be_bytes(bytes)))
    }
}

struct NoRemote;

impl Remote for NoRemote {
    type Error = Infallible;

    async fn get(&self, _: &str) -> Result<Option<Stored>, Infallible> {
        Ok(None)
    }

    async fn set(
        &self,
        _: &str,
        _: Vec<u8>,
        _: Duration,
    ) -> Result<(), Infallible> {
        Ok(())
    }

    async fn delete(&self, _: &str) -> Result<(), Infallible> {
        Ok(())
    }

    async fn publish(&self, _: &str) -> Result<(), Infallible> {
        Ok(())
    }
}

struct Prices;

impl Origin for Prices {
    type Value = Price;
    type Error = Infallible;

    async fn load(&self, key: &str) -> Result<Option<Price>, Infallible> {
        Ok(Some(Price(key.len() as u64)))
    }
}

fn main() {
    let runtime = Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime starts");
    let keys: Vec<_> = (0..KEYS).map(|i| format!("price:{i}")).collect();
    let config = Config {
        capacity: (10 * KEYS).try_into().expect("not 0"),
        local_ttl: HOUR,
        remote_ttl: HOUR,
        negative_ttl: HOUR,
        unsynced_ttl: HOUR,
        jitter: 0.1,
        remote_timeout: HOUR,
        loads_without_remote: 1,
    };
    let levels = Levels::new(config, NoRemote, Prices);
    let filter = AtomicBloomFilter::with_false_pos(0.01).expected_items(KEYS);
    keys.iter().for_each(|key| _ = filter.insert(key.as_str()));
    levels.channel_restored(filter);
    let build =
        || moka::future::Cache::builder().max_capacity(10 * KEYS as u64);
    let moka = build().build();
    let moka_ttl = build().time_to_live(HOUR).build();
    let quick = quick_cache::sync::Cache::new(10 * KEYS);
    runtime.block_on(async {
        for key in &keys {
            let _ = levels.get(key, 0.5).await;
            moka.insert(key.clone(), Price(1)).await;
            moka_ttl.insert(key.clone(), Price(1)).await;
            quick.insert(key.clone(), Price(1));
        }
    });

    let hits = || keys.iter().cycle().take(HITS);
    let ours = || {
        runtime.block_on(async {
            for key in hits() {
                let price = levels.get(key, 0.5).await;
                black_box(price.expect("it does not fail").expect("a hit").0);
            }
        });
    };
    let of_moka = |cache: &moka::future::Cache<String, Price>| {
        runtime.block_on(async {
            for key in hits() {
                black_box(cache.get(key.as_str()).await.expect("a hit").0);
            }
        });
    };
    let plan = Plan { rounds: 51, sample: Duration::from_millis(10) };
    let ratio = measure(plan, ours, || of_moka(&moka));
    println!("levels, a local hit / moka = {ratio}");
    let ratio = measure(plan, ours, || of_moka(&moka_ttl));
    println!("levels, a local hit / moka with a time to live = {ratio}");
    let ratio = measure(plan, ours, || {
        for key in hits() {
            black_box(quick.get(key.as_str()).expect("a hit").0);
        }
    });
    println!("levels, a local hit / quick_cache = {ratio}");
}

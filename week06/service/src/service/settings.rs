//! The settings of the parts.

use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::KafkaResult;
use week06::shave;

use super::{DEAD_LETTERS, GROUP, Parts, TOPIC};
use crate::backlog::{self, Backlog};
use crate::job::{self, AfterWrite, Runner};
use crate::producer::{self, Producer};
use crate::reads::Local;
use crate::store::Store;
use crate::writes::Refresh;
use crate::{index, own, reads, redis_client};
/// Starts the producer, which watches the backlog, and the job.
pub(super) fn start_kafka(
    brokers: &str,
    store: &Store,
    refresh: Refresh,
) -> KafkaResult<(Producer, Runner)> {
    let backlog = Backlog::watch(backlog::Config {
        brokers: brokers.to_owned(),
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        high: 200_000,
        low: 100_000,
        every: Duration::from_millis(200),
        stale_after: Duration::from_secs(10),
    })?;
    let producer = producer::Config {
        brokers: brokers.to_owned(),
        topic: TOPIC.to_owned(),
        timeout: Duration::from_secs(4),
    };
    let producer = Producer::new(&producer, Some(backlog))?;
    let number = |n| NonZero::new(n).expect("it is not zero");
    let job = job::Config {
        brokers: brokers.to_owned(),
        group: GROUP.to_owned(),
        topic: TOPIC.to_owned(),
        dead_letters: DEAD_LETTERS.to_owned(),
        batch: shave::Config {
            max_batch: number(1000),
            linger: Duration::from_millis(10),
            max_waiting: number(10_000),
            retry_after: Duration::from_millis(200),
        },
        max_poll_interval: Duration::from_secs(60),
        write_timeout: Duration::from_secs(5),
    };
    let after_write: AfterWrite = Arc::new(move |batch, inserted| {
        let refresh = refresh.clone();
        // A task of its own: the job waits for a limited time, and pages that
        // have not changed by then must still change.
        let changed = tokio::spawn(async move {
            refresh.written(&batch, inserted).await;
        });
        Box::pin(async move { drop(changed.await) })
    });
    let job = Runner::start(&job, store.clone(), Some(after_write))?;
    Ok((producer, job))
}

pub(super) fn redis(url: &str) -> redis_client::Config {
    let timeout = Duration::from_millis(50);
    redis_client::Config { url: url.to_owned(), timeout }
}

pub(super) fn index() -> index::Config {
    index::Config {
        size: 200,
        ttl: Duration::from_secs(600),
        empty_ttl: Duration::from_secs(60),
        lease_ttl: Duration::from_secs(10),
    }
}

pub(super) fn reads(parts: Parts) -> reads::Config {
    let local = Local {
        hot_at: NonZero::new(50).expect("it is not zero"),
        ttl: Duration::from_secs(1),
    };
    reads::Config {
        local_cache: parts.local_cache.then_some(local),
        singleflight: parts.singleflight,
        max_queries: NonZero::new(8).expect("it is not zero"),
        max_waiting: 1000,
    }
}

pub(super) fn own() -> own::Config {
    own::Config {
        ttl: Duration::from_secs(60),
        capacity: 100_000,
        per_author: 100,
    }
}

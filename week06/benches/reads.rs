//! Measures a hit of the read path against the cache crate alone.
//!
//! A hit of the service counts its key to find out whether it is hot, reads the
//! clock, and checks the age of the value. `quick_cache` does none of this. The
//! peer's value is also behind an `Arc`, and its key is the same.

use std::future::Future;
use std::hint::black_box;
use std::num::NonZero;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use lab::ratio::{Plan, measure};
use quick_cache::sync::Cache;
use week05::window;
use week06::hot::{self, HotKeys};
use week06::local_cache::{self, LocalCache};
use week06_service::comment::Comment;
use week06_service::page::{Cursor, Page};
use week06_service::reads::{Answer, Config, Local, Reads, Source};

const SUBJECT: u64 = 7;

/// So long that no value expires.
const TTL: Duration = Duration::from_secs(3600);

/// The number of hits in one measured call.
const CALLS: u32 = 10_000;

/// A database with one page.
struct OnePage;

impl Source for OnePage {
    fn page(
        &self,
        subject: u64,
        _before: Option<Cursor>,
        limit: usize,
    ) -> Answer<'_> {
        let comment = |id| Comment {
            id,
            subject,
            author: 1,
            text: "a comment".to_owned(),
            created_ms: 1000 + id,
        };
        let page: Vec<_> = (0..limit as u64).rev().map(comment).collect();
        Box::pin(async { Ok(page) })
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime starts");
    let number = |n| NonZero::new(n).expect("it is not zero");

    let local = Local { hot_at: NonZero::<u64>::MIN, ttl: TTL };
    let config = Config {
        local_cache: Some(local),
        singleflight: true,
        max_queries: NonZero::<u32>::MIN,
        max_waiting: 10,
    };
    let reads = Reads::new(Arc::new(OnePage), None, &config);
    let page = runtime.block_on(reads.page(SUBJECT, None, 20));
    let page = page.expect("there is one");

    let hot = hot::Config {
        capacity: number(1000),
        window: window::Config {
            bucket: Duration::from_millis(100),
            buckets: number(10),
        },
        hot_at: NonZero::<u64>::MIN,
        cool_below: NonZero::<u64>::MIN,
    };
    let config = local_cache::Config {
        capacity: number(1000),
        ttl: TTL,
        jitter: 0.0,
        negative_ttl: TTL,
        stale_for: TTL,
    };
    let now = Instant::now();
    let local = LocalCache::new(config, HotKeys::new(hot, now));
    let load = |page: &Page| {
        let page = page.clone();
        move || async move { Ok::<_, ()>(Some(page)) }
    };
    let loaded = runtime.block_on(local.get(&SUBJECT, now, 0.5, load(&page)));
    assert!(loaded.is_ok_and(|page| page.is_some()), "the page is stored");

    let peer = Cache::new(1000);
    peer.insert(SUBJECT, page.clone());

    let path = || {
        let page = reads.page(SUBJECT, None, 20);
        ready(page).expect("it is a hit").len()
    };
    compare("read path", path, || get(&peer));
    let cache = || {
        let unused = || async { Err(()) };
        let now = Instant::now();
        let page = ready(local.get(&SUBJECT, now, 0.5, unused));
        page.expect("it is a hit").expect("the page is not empty").len()
    };
    compare("local cache", cache, || get(&peer));
    compare(
        "clock",
        || Instant::now().elapsed().as_secs() as usize,
        || get(&peer),
    );
    let queries = reads.counts().queries;
    assert_eq!(queries, 1, "expected hits only, got {queries} queries");
}

fn get(peer: &Cache<u64, Page>) -> usize {
    peer.get(black_box(&SUBJECT)).expect("it is stored").len()
}

/// Returns the result of a future that is ready at its first poll.
fn ready<F: Future>(future: F) -> F::Output {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("expected a hit, got a load"),
    }
}

fn compare(
    name: &str,
    mut answer: impl FnMut() -> usize,
    mut peer: impl FnMut() -> usize,
) {
    let plan = Plan { rounds: 50, sample: Duration::from_millis(5) };
    let ratio = measure(
        plan,
        || {
            for _ in 0..CALLS {
                black_box(answer());
            }
        },
        || {
            for _ in 0..CALLS {
                black_box(peer());
            }
        },
    );
    println!("{name:12} / quick_cache get: {ratio}");
}

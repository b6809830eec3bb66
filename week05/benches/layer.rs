//! Measures the layer of this week against layers of tower: one request that is
//! admitted, to a service that answers at once.

use std::convert::Infallible;
use std::future::{Ready, poll_fn, ready};
use std::num::NonZero;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use lab::ratio::{Plan, measure};
use tokio::runtime::{Builder, Runtime};
use tower::limit::{ConcurrencyLimitLayer, RateLimitLayer};
use tower_layer::Layer as _;
use tower_service::Service;
use week05::bulkhead::{self, Bulkheads};
use week05::gcra::{Limiter, Quota};
use week05::layer::{Layer, Outcome};

/// A service that answers at once.
#[derive(Debug, Clone)]
struct Echo;

impl Service<u64> for Echo {
    type Response = u64;
    type Error = Infallible;
    type Future = Ready<Result<u64, Infallible>>;

    fn poll_ready(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        ready(Ok(request))
    }
}

const CALLS: u64 = 10_000;

fn main() {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime starts");
    // tower's RateLimit creates a timer.
    let _entered = runtime.enter();
    let permits = NonZero::new(100).expect("it is not zero");
    let config = bulkhead::Config { permits, max_waiting: 100 };
    let ours = Layer {
        policy: Arc::new(Bulkheads::new([((), config)].into())),
        key: |_: &u64| (),
        judge: |_: &Result<u64, Infallible>| Outcome::Success,
        refuse: |_| Ok(0),
    };
    compare(
        &runtime,
        "bulkhead / tower's ConcurrencyLimit",
        &mut ours.layer(Echo),
        &mut ConcurrencyLimitLayer::new(100).layer(Echo),
    );
    let many = NonZero::new(1_000_000_000).expect("it is not zero");
    let quota = Quota { per_second: many, burst: NonZero::<u32>::MAX };
    let ours = Layer {
        policy: Arc::new(Limiter::new(quota, Instant::now())),
        key: |_: &u64| (),
        judge: |_: &Result<u64, Infallible>| Outcome::Success,
        refuse: |_| Ok(0),
    };
    compare(
        &runtime,
        "gcra / tower's RateLimit",
        &mut ours.layer(Echo),
        &mut RateLimitLayer::new(u64::MAX, Duration::from_secs(1)).layer(Echo),
    );
}

fn compare(
    runtime: &Runtime,
    name: &str,
    ours: &mut impl Service<u64, Response = u64, Error = Infallible>,
    peer: &mut impl Service<u64, Response = u64, Error = Infallible>,
) {
    let plan = Plan { rounds: 51, sample: Duration::from_millis(10) };
    let ratio = measure(
        plan,
        || runtime.block_on(calls(ours)),
        || runtime.block_on(calls(peer)),
    );
    println!("{name}: {ratio}");
}

async fn calls(
    service: &mut impl Service<u64, Response = u64, Error = Infallible>,
) {
    for request in 0..CALLS {
        let Ok(()) = poll_fn(|cx| service.poll_ready(cx)).await;
        let Ok(answer) = service.call(request).await;
        assert_eq!(answer, request, "the request was refused");
    }
}

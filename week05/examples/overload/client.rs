//! The clients: they give up after a while, and may try again.

use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use axum::body::Body;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use lab::load::Outcome;
use week05::criticality::Criticality;
use week05::deadline::Deadline;
use week05::retry::{self, Backoff, Budget, Failure, Limits, Policy};
use week05::sre_breaker::{self, Breaker};
use week05::window;

use crate::server::CRITICALITY;

/// How long a user waits for an attempt.
const TIMEOUT: Duration = Duration::from_millis(250);

/// Of ten requests, how many are of each class.
const CLASSES: [Criticality; 10] = {
    use Criticality::*;
    [
        Critical,
        SheddablePlus,
        Critical,
        Sheddable,
        Critical,
        CriticalPlus,
        SheddablePlus,
        Critical,
        Sheddable,
        SheddablePlus,
    ]
};

/// All users of one service.
pub(crate) struct Client {
    http: HttpClient<HttpConnector, Body>,
    address: SocketAddr,
    retries: Policy,
    /// One for each class, or none.
    breakers: Option<[Breaker; Criticality::ALL.len()]>,
    sent: [AtomicU64; Criticality::ALL.len()],
    served: [AtomicU64; Criticality::ALL.len()],
}

impl Client {
    /// Creates clients of the service at `address`.
    pub(crate) fn new(address: SocketAddr, is_protected: bool) -> Self {
        let now = Instant::now();
        let window = window::Config {
            bucket: Duration::from_millis(250),
            buckets: NonZero::new(8).expect("it is not zero"),
        };
        let breaker = |_| {
            let config = sre_breaker::Config {
                k: 2.0,
                min_requests: 10,
                window,
                probe_interval: Duration::from_secs(1),
                slow_call: TIMEOUT,
            };
            Breaker::new(config, now)
        };
        // Without protection, all retries are allowed.
        let (percent, min_retries) =
            if is_protected { (10, 1) } else { (u32::MAX, u64::MAX) };
        let limits = Limits { percent, min_retries, window };
        let backoff = Backoff {
            base: Duration::from_millis(50),
            cap: Duration::from_secs(1),
        };
        Self {
            http: HttpClient::builder(TokioExecutor::new())
                .build(HttpConnector::new()),
            address,
            retries: Policy {
                max_attempts: 3,
                backoff,
                budget: Arc::new(Budget::new(limits, now)),
            },
            breakers: is_protected.then(|| Criticality::ALL.map(breaker)),
            sent: Default::default(),
            served: Default::default(),
        }
    }

    /// Sends a request, and repeats it as the policy allows.
    pub(crate) async fn request(self: Arc<Self>, number: u64) -> Outcome {
        let class = CLASSES[number as usize % CLASSES.len()];
        self.sent[class as usize].fetch_add(1, Relaxed);
        let request = retry::Request { idempotent: true, deadline: None };
        // Why the latest attempt has failed.
        let was_refused = AtomicBool::new(false);
        let attempt = async |_| {
            let result = self.attempt(class).await;
            let refused = matches!(result, Err(Failure::Overloaded { .. }));
            was_refused.store(refused, Relaxed);
            result
        };
        let answer = self.retries.run(request, fastrand::f64, attempt).await;
        match answer {
            Ok(outcome) => {
                if outcome == Outcome::Served {
                    self.served[class as usize].fetch_add(1, Relaxed);
                }
                outcome
            }
            Err(_gave_up) if was_refused.load(Relaxed) => Outcome::Refused,
            Err(_gave_up) => Outcome::Failed,
        }
    }

    async fn attempt(&self, class: Criticality) -> Result<Outcome, Failure> {
        let breaker = self.breakers.as_ref().map(|b| &b[class as usize]);
        let call = match breaker {
            None => None,
            Some(breaker) => {
                match breaker.allow(Instant::now(), fastrand::f64()) {
                    Ok(call) => Some(call),
                    // A retry would only be one more request.
                    Err(_refused) => return Ok(Outcome::Refused),
                }
            }
        };
        let result = self.send(class).await;
        if let Some(call) = call {
            match result {
                Ok(_) => call.success(Instant::now()),
                Err(_) => call.failure(Instant::now()),
            }
        }
        result
    }

    async fn send(&self, class: Criticality) -> Result<Outcome, Failure> {
        let now = Instant::now();
        let deadline = Deadline::after(now, TIMEOUT);
        let mut request = Request::builder()
            .method(Method::GET)
            .uri(format!("http://{}/v1/subjects/rust", self.address))
            .header(CRITICALITY, class.header());
        if self.breakers.is_some()
            && let Ok(Some(timeout)) = deadline.to_header(now)
        {
            request = request.header("grpc-timeout", timeout);
        }
        let request = request.body(Body::empty()).expect("it is valid");
        let answer = deadline.run(async {
            let answer = self.http.request(request).await.ok()?;
            let status = answer.status();
            answer.into_body().collect().await.ok()?;
            Some(status)
        });
        match answer.await {
            // The subject does not exist: an answer like any other.
            Ok(Some(StatusCode::OK | StatusCode::NOT_FOUND)) => {
                Ok(Outcome::Served)
            }
            Ok(Some(StatusCode::SERVICE_UNAVAILABLE)) => {
                let retry_after = Duration::ZERO;
                Err(Failure::Overloaded { retry_after })
            }
            Ok(_) | Err(_) => Err(Failure::NoAnswer),
        }
    }

    /// Returns the share of requests of each class that were served.
    pub(crate) fn shares(&self) -> [f64; Criticality::ALL.len()] {
        Criticality::ALL.map(|class| {
            let count = |counts: &[AtomicU64; 4]| {
                counts[class as usize].load(Relaxed) as f64
            };
            count(&self.served) / count(&self.sent).max(1.0)
        })
    }
}

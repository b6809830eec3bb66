//! Counts requests, for Prometheus.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tonic::Code;

use crate::google_rpc::NAMES;

/// The metrics of all requests.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: Family<Outcome, Counter>,
    seconds: Family<Method, Histogram>,
    in_flight: Gauge,
}

/// A request in flight. Dropping it counts the request as cancelled.
#[derive(Debug)]
pub struct InFlight {
    metrics: Metrics,
    method: Arc<str>,
    since: Instant,
    code: Code,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    method: Arc<str>,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    method: Arc<str>,
}

impl Metrics {
    /// Creates metrics without a request.
    #[must_use]
    pub fn new() -> Self {
        // From 1 ms to 8 s, each limit twice the one before.
        let seconds = || {
            let limits = (0..14).map(|n| 0.001 * f64::from(1 << n));
            Histogram::new(limits)
        };
        Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(seconds),
            in_flight: Gauge::default(),
        }
    }

    /// Counts a request that begins now. `method` must be one of a fixed set:
    /// each value makes a time series of its own.
    #[must_use]
    pub fn begin(&self, method: &Arc<str>) -> InFlight {
        self.in_flight.inc();
        InFlight {
            metrics: self.clone(),
            method: Arc::clone(method),
            since: Instant::now(),
            // Until there is an answer: the client may disconnect.
            code: Code::Cancelled,
        }
    }

    /// Returns all metrics in the OpenMetrics text format.
    ///
    /// # Panics
    ///
    /// Never: writing to a string does not fail.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut registry = Registry::default();
        registry.register(
            "requests",
            "Requests by method and code",
            self.requests.clone(),
        );
        registry.register_with_unit(
            "request",
            "Time to the answer",
            Unit::Seconds,
            self.seconds.clone(),
        );
        registry.register(
            "requests_in_flight",
            "Requests without an answer",
            self.in_flight.clone(),
        );
        let mut text = String::new();
        encode(&mut text, &registry).expect("a string grows");
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl InFlight {
    /// Ends the request with an answer.
    pub fn end(mut self, code: Code) {
        self.code = code;
    }

    /// Returns the time since the request began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let metrics = &self.metrics;
        metrics.in_flight.dec();
        let method = Arc::clone(&self.method);
        let name = NAMES.iter().find(|(code, _)| *code == self.code);
        let code = name.map_or("UNKNOWN", |(_, name)| name);
        let label = Method { method: method.clone() };
        let seconds = self.since.elapsed().as_secs_f64();
        metrics.seconds.get_or_create(&label).observe(seconds);
        metrics.requests.get_or_create(&Outcome { method, code }).inc();
    }
}

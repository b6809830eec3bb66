//! What every request passes, from outside to inside: a request id, a log span
//! and metrics, a deadline, and a panic barrier.

use std::hash::{BuildHasher as _, RandomState};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use futures_util::FutureExt as _;
use http::header::HeaderValue;
use http::{HeaderMap, Request};
use tokio::time::timeout;
use tonic::{Code, Status};
use tracing::Instrument as _;

use super::metrics::Metrics;
use crate::failure::Failure;
use crate::service::failure;
use crate::status::to_grpc;

pub(super) const REQUEST_ID: &str = "x-request-id";

/// What the middleware needs.
#[derive(Debug)]
struct Context {
    metrics: Metrics,
    /// The longest time of one request.
    limit: Duration,
    /// The paths of the contract.
    methods: Vec<Arc<str>>,
    /// The name of all other paths.
    other: Arc<str>,
}

/// Adds the middleware to a router of gRPC services. `methods` are the paths
/// that are counted by their name, all others are counted together. No request
/// takes longer than `limit`.
pub fn add(
    grpc: Router,
    metrics: Metrics,
    methods: Vec<String>,
    limit: Duration,
) -> Router {
    let methods = methods.into_iter().map(Arc::from).collect();
    let context = Context { metrics, limit, methods, other: "other".into() };
    grpc.layer(from_fn_with_state(Arc::new(context), pass))
}

async fn pass(
    State(context): State<Arc<Context>>,
    request: Request<axum::body::Body>,
    next: Next,
) -> Response {
    let id = request_id(request.headers());
    let path = request.uri().path();
    let known = context.methods.iter().find(|method| ***method == *path);
    let method = known.unwrap_or(&context.other);
    let span = tracing::info_span!(
        "request",
        id = id.to_str().unwrap_or_default(),
        method = &**method,
    );
    let in_flight = context.metrics.begin(method);
    let limit = deadline(request.headers(), context.limit);
    let answer = async {
        // A handler holds nothing that a panic could leave half changed: a
        // transaction rolls back when it is dropped.
        let handled = AssertUnwindSafe(next.run(request)).catch_unwind();
        // A timeout of zero would poll the handler once.
        if limit.is_zero() {
            return refuse(&to_grpc(&late()));
        }
        match timeout(limit, handled).await {
            Ok(Ok(response)) => response,
            Ok(Err(_panic)) => {
                let message = "the handler panicked".to_owned();
                refuse(&to_grpc(&failure(Code::Internal, "INTERNAL", message)))
            }
            Err(_elapsed) => refuse(&to_grpc(&late())),
        }
    };
    let mut response = answer.instrument(span.clone()).await;
    response.headers_mut().insert(REQUEST_ID, id);
    let code = Status::from_header_map(response.headers())
        .map_or(Code::Ok, |status| status.code());
    let ms = in_flight.elapsed().as_millis();
    span.in_scope(|| tracing::info!(?code, ms, "answered"));
    in_flight.end(code);
    response
}

/// Returns what a client gets if its request took too long.
pub(super) fn late() -> Failure {
    let message = "the deadline has passed".to_owned();
    failure(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", message)
}

/// Returns the id of the client, if it is fit for a log, and else a new one.
pub(super) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let fit = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=64).contains(&bytes.len())
            && bytes.iter().all(u8::is_ascii_graphic)
    };
    headers.get(REQUEST_ID).filter(fit).cloned().unwrap_or_else(|| {
        let id = format!("{:016x}", RandomState::new().hash_one(0));
        HeaderValue::from_str(&id).expect("hexadecimal digits")
    })
}

/// Returns the time that the client waits, or `limit` if that is shorter.
fn deadline(headers: &HeaderMap, limit: Duration) -> Duration {
    let parse = || {
        let text = headers.get("grpc-timeout")?.to_str().ok()?;
        let unit = text.len().checked_sub(1)?;
        let (number, unit) = text.split_at_checked(unit)?;
        if number.len() > 8 || !number.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let number: u64 = number.parse().ok()?;
        match unit {
            "H" => Some(Duration::from_secs(number * 3600)),
            "M" => Some(Duration::from_secs(number * 60)),
            "S" => Some(Duration::from_secs(number)),
            "m" => Some(Duration::from_millis(number)),
            "u" => Some(Duration::from_micros(number)),
            "n" => Some(Duration::from_nanos(number)),
            _ => None,
        }
    };
    parse().map_or(limit, |time| time.min(limit))
}

fn refuse(status: &Status) -> Response {
    status.clone().into_http()
}

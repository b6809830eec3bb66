//! What every request passes, from outside to inside: a request id, a log span
//! and metrics, a deadline, and a panic barrier.

use std::convert::Infallible;
use std::hash::{BuildHasher as _, RandomState};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::Route;
use futures_util::FutureExt as _;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response};
use tokio::time::timeout;
use tonic::{Code, Status};
use tower::layer::layer_fn;
use tower::{Service, ServiceExt as _, service_fn};
use tracing::Instrument as _;

use super::metrics::Metrics;
use crate::failure::Failure;
use crate::service::failure;
use crate::status::to_grpc;

pub(super) static REQUEST_ID: HeaderName =
    HeaderName::from_static("x-request-id");

/// How long the client waits.
static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

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

impl Context {
    fn new(
        metrics: Metrics,
        methods: Vec<String>,
        limit: Duration,
    ) -> Arc<Self> {
        let methods = methods.into_iter().map(Arc::from).collect();
        Arc::new(Self { metrics, limit, methods, other: "other".into() })
    }
}

/// A service that answers gRPC requests. `A` is the body of a request, and `B`
/// the body of an answer.
pub trait GrpcService<A, B>:
    Service<
        Request<A>,
        Response = Response<B>,
        Error = Infallible,
        Future: Send,
    > + Clone
    + Send
    + Sync
    + 'static
{
}

impl<A, B, S> GrpcService<A, B> for S where
    S: Service<
            Request<A>,
            Response = Response<B>,
            Error = Infallible,
            Future: Send,
        > + Clone
        + Send
        + Sync
        + 'static
{
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
    let context = Context::new(metrics, methods, limit);
    grpc.layer(layer_fn(move |route: Route| wrap(route, Arc::clone(&context))))
}

/// Adds the middleware to one gRPC service, as [`add`] does to a router.
pub fn add_to_service<A: Send + 'static, B: Default + 'static>(
    grpc: impl GrpcService<A, B>,
    metrics: Metrics,
    methods: Vec<String>,
    limit: Duration,
) -> impl GrpcService<A, B> {
    wrap(grpc, Context::new(metrics, methods, limit))
}

fn wrap<A: Send + 'static, B: Default + 'static>(
    inner: impl GrpcService<A, B>,
    context: Arc<Context>,
) -> impl GrpcService<A, B> {
    service_fn(move |request| {
        pass(Arc::clone(&context), request, inner.clone())
    })
}

async fn pass<A, B: Default>(
    context: Arc<Context>,
    request: Request<A>,
    inner: impl GrpcService<A, B>,
) -> Result<Response<B>, Infallible> {
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
        let handled = AssertUnwindSafe(inner.oneshot(request)).catch_unwind();
        // A timeout of zero would poll the handler once.
        if limit.is_zero() {
            return refuse(&to_grpc(&late()));
        }
        match timeout(limit, handled).await {
            Ok(Ok(Ok(response))) => response,
            Ok(Err(_panic)) => {
                let message = "the handler panicked".to_owned();
                refuse(&to_grpc(&failure(Code::Internal, "INTERNAL", message)))
            }
            Err(_elapsed) => refuse(&to_grpc(&late())),
        }
    };
    let mut response = answer.instrument(span.clone()).await;
    response.headers_mut().insert(&REQUEST_ID, id);
    let code = Status::from_header_map(response.headers())
        .map_or(Code::Ok, |status| status.code());
    let ms = in_flight.elapsed().as_millis();
    span.in_scope(|| tracing::info!(?code, ms, "answered"));
    in_flight.end(code);
    Ok(response)
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
    headers.get(&REQUEST_ID).filter(fit).cloned().unwrap_or_else(|| {
        let id = format!("{:016x}", RandomState::new().hash_one(0));
        HeaderValue::try_from(id).expect("hexadecimal digits")
    })
}

/// Returns the time that the client waits, or `limit` if that is shorter.
fn deadline(headers: &HeaderMap, limit: Duration) -> Duration {
    let parse = || {
        let text = headers.get(&GRPC_TIMEOUT)?.to_str().ok()?;
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

fn refuse<B: Default>(status: &Status) -> Response<B> {
    status.clone().into_http()
}

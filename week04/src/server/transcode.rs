//! Calls gRPC methods over HTTP with JSON, as the contract says.
//!
//! The option `google.api.http` of each method gives its HTTP method, path and
//! body. A request is turned into the bytes of a gRPC request, and passes the
//! same handler as gRPC's own requests: each method is written once.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{
    ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue,
};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, MethodDescriptor, SerializeOptions,
};
use tokio::time::timeout;
use tonic::{Code, Status};
use tower::ServiceExt as _;

use self::message::Input;
pub use self::route::{RequestBody, Route, routes};
use super::metrics::Metrics;
use super::middleware::{GrpcService, REQUEST_ID, late, request_id};
use crate::failure::Failure;
use crate::google_rpc;
use crate::service::failure;
use crate::status::{from_grpc, to_http};

mod message;
mod route;

/// The request headers that handlers get.
static FORWARDED: [HeaderName; 4] = [
    AUTHORIZATION,
    HeaderName::from_static("grpc-timeout"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("x-request-id"),
];

/// A service that answers the gRPC requests into which requests with JSON are
/// turned.
pub trait Grpc: GrpcService<Full<Bytes>, tonic::body::Body> {}

impl<S: GrpcService<Full<Bytes>, tonic::body::Body>> Grpc for S {}

struct Transcoder<S> {
    routes: Vec<Route>,
    grpc: S,
    limits: Limits,
    metrics: Metrics,
    /// The name of requests that reach no method, in metrics.
    other: Arc<str>,
}

/// The limits of one request.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The largest body.
    pub max_body_bytes: usize,
    /// The longest time to read the body.
    pub timeout: Duration,
}

/// Returns a router that serves the methods of all services in `pool` that have
/// an HTTP form. `grpc` answers their gRPC requests.
///
/// # Panics
///
/// Panics if a path in the contract is malformed.
pub fn router(
    pool: &DescriptorPool,
    grpc: impl Grpc,
    metrics: Metrics,
    limits: Limits,
) -> Router {
    let (routes, other) = (routes(pool), "other".into());
    let transcoder = Transcoder { routes, grpc, limits, metrics, other };
    Router::new().fallback(handle).with_state(Arc::new(transcoder))
}

/// Returns the gRPC paths of all methods of the services in `pool`.
#[must_use]
pub fn methods(pool: &DescriptorPool) -> Vec<String> {
    let methods = pool.services().flat_map(|service| {
        let name = service.full_name().to_owned();
        let methods: Vec<_> = service.methods().collect();
        methods.into_iter().map(move |m| format!("/{name}/{}", m.name()))
    });
    methods.collect()
}

async fn handle(
    State(transcoder): State<Arc<Transcoder<impl Grpc>>>,
    mut request: Request<Body>,
) -> Response {
    let id = request_id(request.headers());
    request.headers_mut().insert(&REQUEST_ID, id.clone());
    let call = transcoder.call(request).await;
    let mut response = call.unwrap_or_else(|refused| *refused);
    // A request that reaches a method is counted by the middleware there.
    if !response.headers().contains_key(&REQUEST_ID) {
        let status = response.status();
        let id_text = id.to_str().unwrap_or_default();
        tracing::info!(id = id_text, %status, "refused");
        let in_flight = transcoder.metrics.begin(&transcoder.other);
        in_flight.end(google_rpc::code_of_http(status));
        response.headers_mut().insert(&REQUEST_ID, id);
    }
    response
}

impl<S: Grpc> Transcoder<S> {
    async fn call(
        &self,
        request: Request<Body>,
    ) -> Result<Response, Box<Response>> {
        let (head, body) = request.into_parts();
        let (route, variables) = self.find(&head.method, head.uri.path())?;
        let body = self.read(&head.headers, body);
        let body = timeout(self.limits.timeout, body).await;
        let body = body.map_err(|_| refuse(&late()))??;
        let query = head.uri.query().unwrap_or_default();
        let Input { message, mask } =
            message::read(route, variables, query, &body)
                .map_err(|failure| refuse(&failure))?;

        let mut call = Request::new(Full::new(frame(&message)));
        *call.method_mut() = Method::POST;
        *call.uri_mut() = route.grpc_path.clone();
        *call.version_mut() = http::Version::HTTP_2;
        for name in &FORWARDED {
            if let Some(value) = head.headers.get(name) {
                call.headers_mut().insert(name, value.clone());
            }
        }
        if let Some(mask) = mask {
            call.extensions_mut().insert(mask);
        }
        let grpc = HeaderValue::from_static("application/grpc");
        call.headers_mut().insert(CONTENT_TYPE, grpc);
        let Ok(answer) = self.grpc.clone().oneshot(call).await;
        to_json(&route.method, answer).await
    }

    /// Finds the method of the contract for a path.
    fn find(
        &self,
        method: &Method,
        path: &str,
    ) -> Result<(&Route, Vec<String>), Box<Response>> {
        let mut allowed = Vec::new();
        for route in self.routes.iter().filter(|route| route.matches(path)) {
            if route.http_method == method {
                return Ok((route, route.values(path)));
            }
            allowed.push(route.http_method.as_str());
        }
        if allowed.is_empty() {
            let failure = failure(
                Code::NotFound,
                "PATH_NOT_FOUND",
                "the contract has no such path".to_owned(),
            );
            return Err(refuse(&failure));
        }
        let allowed = allowed.join(", ");
        let message = format!("this path allows {allowed}");
        let failure =
            failure(Code::Unimplemented, "METHOD_NOT_ALLOWED", message);
        let status = StatusCode::METHOD_NOT_ALLOWED;
        let mut refused = refuse_with(status, &failure);
        let allowed = HeaderValue::from_str(&allowed)
            .expect("the names of HTTP methods are valid in a header");
        refused.headers_mut().insert(ALLOW, allowed);
        Err(refused)
    }

    /// Reads the body of a request.
    async fn read(
        &self,
        headers: &HeaderMap,
        mut body: Body,
    ) -> Result<Bytes, Box<Response>> {
        let limit = self.limits.max_body_bytes;
        let body = match Limited::new(&mut body, limit).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                discard(&mut body).await;
                let message = format!("the body exceeds {limit} bytes");
                let failure = invalid("BODY_TOO_LARGE", message);
                let status = StatusCode::PAYLOAD_TOO_LARGE;
                return Err(refuse_with(status, &failure));
            }
            Err(_) => {
                let message = "the body ends too early".to_owned();
                return Err(refuse(&invalid("MALFORMED_BODY", message)));
            }
        };
        let json = headers.get(CONTENT_TYPE).is_none_or(|value| {
            let value = value.as_bytes().to_ascii_lowercase();
            value.starts_with(b"application/json")
        });
        if !body.is_empty() && !json {
            let message = "expected application/json".to_owned();
            let failure = invalid("UNSUPPORTED_MEDIA_TYPE", message);
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(refuse_with(status, &failure));
        }
        Ok(body)
    }
}

/// Reads the rest of a body that is too large. Unread bytes would reset the
/// connection, often before the client has read why it is refused.
async fn discard(body: &mut Body) {
    let rest = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > DISCARDED {
                break;
            }
        }
    };
    // After a second, the client has to live with a reset.
    let _ = timeout(Duration::from_secs(1), rest).await;
}

/// The largest rest that is read, in bytes.
const DISCARDED: usize = 32 << 20;

/// Returns a message as the body of a gRPC request: a flag for compression, the
/// length, and the message.
fn frame(message: &DynamicMessage) -> Bytes {
    let length = message.encoded_len();
    let mut body = BytesMut::with_capacity(5 + length);
    body.put_u8(0);
    body.put_u32(u32::try_from(length).expect("the body was smaller"));
    message.encode(&mut body).expect("the buffer grows");
    body.freeze()
}

/// Turns the answer of a method into JSON.
async fn to_json(
    method: &MethodDescriptor,
    answer: http::Response<tonic::body::Body>,
) -> Result<Response, Box<Response>> {
    let (head, body) = answer.into_parts();
    let request_id = head.headers.get(&REQUEST_ID).cloned();
    let with_id = |mut response: Response| {
        if let Some(id) = request_id.clone() {
            response.headers_mut().insert(&REQUEST_ID, id);
        }
        response
    };
    let refused = |status: &Status| {
        let refused = refuse(&from_grpc(status));
        Box::new(with_id(*refused))
    };
    // A refused request is answered by headers alone.
    if let Some(status) = failed(&head.headers) {
        return Err(refused(&status));
    }
    let body = body.collect().await.map_err(|error| {
        refused(&Status::internal(format!("the answer ends early: {error}")))
    })?;
    if let Some(status) = body.trailers().and_then(failed) {
        return Err(refused(&status));
    }
    let bytes = body.to_bytes();
    let message = bytes.get(5..).and_then(|message| {
        DynamicMessage::decode(method.output(), message).ok()
    });
    let message = message.ok_or_else(|| {
        refused(&Status::internal("the answer is not of the contract's type"))
    })?;
    let mut json = Vec::with_capacity(bytes.len() * 3);
    // Clients see every field, also those that have no value.
    let options = SerializeOptions::new().skip_default_fields(false);
    let mut serializer = serde_json::Serializer::new(&mut json);
    message
        .serialize_with_options(&mut serializer, &options)
        .map_err(|error| refused(&Status::internal(error.to_string())))?;
    // The map keeps its memory, and loses the headers of gRPC.
    let mut headers = head.headers;
    headers.clear();
    let json_type = HeaderValue::from_static("application/json");
    headers.insert(CONTENT_TYPE, json_type);
    let mut response = Response::new(Body::from(json));
    *response.headers_mut() = headers;
    Ok(with_id(response))
}

/// Returns the status of a call that has failed.
fn failed(headers: &HeaderMap) -> Option<Status> {
    // A status copies all headers: a call that succeeds needs none.
    if headers.get("grpc-status")? == "0" {
        return None;
    }
    Status::from_header_map(headers)
}

/// Returns a failure of the request, as a client sees it.
fn invalid(reason: &str, message: String) -> Box<Failure> {
    Box::new(failure(Code::InvalidArgument, reason, message))
}

fn refuse(failure: &Failure) -> Box<Response> {
    Box::new(to_http(failure).map(Body::from))
}

/// Refuses a request with a status that no code of gRPC has.
fn refuse_with(status: StatusCode, failure: &Failure) -> Box<Response> {
    let body = google_rpc::to_json(&failure.to_rpc(), status);
    let mut refused = to_http(failure).map(|_| Body::from(body));
    *refused.status_mut() = status;
    Box::new(refused)
}

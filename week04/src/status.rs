//! Error model: a coarse code and a fine reason, over gRPC and HTTP.
//!
//! *Question.* A request fails. What does the service send, so that clients of
//! both protocols can act on the failure, and see no internals?
//!
//! *Idea.* Two levels, as in AIP-193. The **code** is one of gRPC's: generic
//! layers, such as retries and alerts, act on it. The **reason** is a constant
//! of the service: the code of a client acts on it. Both travel in one
//! `google.rpc.Status`. gRPC sends it in a header, and HTTP as JSON.
//!
//! *Guarantee.* A client of either protocol gets an equal [`Failure`], except
//! for the parts that are hidden or cut. If the service itself is at fault, the
//! message, the violations and the metadata are hidden, except for the id of
//! the request. For gRPC, the failure is cut until its headers fit into
//! [`HEADER_BUDGET`]: this always succeeds, because the reason and the domain
//! are short. A peer's detail that does not decode is lost, but nothing else.
//!
//! *Cost.* gRPC sends the message twice, percent-encoded and in base64, so a
//! Chinese character takes 13 bytes. Each failure is encoded four times, to
//! measure and to send it, and some dozens of times if it has to be cut. A
//! client does not learn that a failure was cut.
//!
//! ```
//! use tonic::Code;
//! use week04::failure::Failure;
//! use week04::status::{from_grpc, from_http, to_grpc, to_http};
//!
//! let failure = Failure {
//!     code: Code::NotFound,
//!     reason: "COMMENT_NOT_FOUND".to_owned(),
//!     domain: "comments.example.com".to_owned(),
//!     message: "there is no comment 7".to_owned(),
//!     ..Failure::default()
//! };
//! assert_eq!(from_grpc(&to_grpc(&failure)), failure);
//!
//! let response = to_http(&failure);
//! assert_eq!(response.status(), 404);
//! assert_eq!(from_http(&response), failure);
//! ```

use std::time::Duration;

use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response};
use prost::Message;
use prost_types::Any;
use tonic::{Code, Status};
use tonic_types::{BadRequest, ErrorInfo, RetryInfo, pb};

use crate::failure::Failure;
use crate::google_rpc::{
    code_of_http, from_json, header_size, http_status, to_json,
};

/// The limit for the headers of a gRPC status: the 8 KiB that some peers accept
/// for all headers of a response, less 1 KiB for the other headers.
pub const HEADER_BUDGET: usize = 7 * 1024;

/// The message that a client gets if the service is at fault.
pub const INTERNAL_MESSAGE: &str = "internal error";

/// The key of the metadata that a client gets even if the service is at fault.
pub const REQUEST_ID: &str = "requestId";

/// Returns the status that a gRPC handler returns. Hides the internals, and
/// cuts the failure until its headers fit into [`HEADER_BUDGET`].
pub fn to_grpc(failure: &Failure) -> Status {
    let failure = public(failure);
    let fits = |part: &Failure| header_size(&encode(part)) <= HEADER_BUDGET;
    let mut part = failure.clone();
    // A client can do without the last violations, and then without metadata.
    longest(failure.violations.len(), |count| {
        part.violations = failure.violations[..count].to_vec();
        fits(&part)
    });
    longest(failure.metadata.len(), |count| {
        let first = failure.metadata.iter().take(count);
        part.metadata = first.map(|(k, v)| (k.clone(), v.clone())).collect();
        fits(&part)
    });
    longest(failure.message.len(), |len| {
        let len = failure.message.floor_char_boundary(len);
        part.message = failure.message[..len].to_owned();
        fits(&part)
    });
    encode(&part)
}

/// Reads the status that a gRPC client gets.
pub fn from_grpc(status: &Status) -> Failure {
    // The code and the message have headers of their own. The bytes of the
    // details may be absent, cut, or written by any library.
    let rpc = pb::Status::decode(status.details()).unwrap_or_default();
    read(status.code(), status.message(), &rpc.details)
}

/// Returns the response that an HTTP handler returns. Hides the internals.
pub fn to_http(failure: &Failure) -> Response<Vec<u8>> {
    let failure = public(failure);
    let status = http_status(failure.code);
    let mut response = Response::new(to_json(&failure.to_rpc(), status));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let json = HeaderValue::from_static("application/json");
    headers.insert(CONTENT_TYPE, json);
    if let Some(delay) = failure.retry_after {
        // Rounded up: a client that comes too early is rejected again.
        let begun = u64::from(delay.subsec_nanos() > 0);
        let seconds = delay.as_secs().saturating_add(begun);
        headers.insert(RETRY_AFTER, seconds.into());
    }
    response
}

/// Reads the response that an HTTP client gets, from the service or from a
/// proxy in front of it.
pub fn from_http(response: &Response<impl AsRef<[u8]>>) -> Failure {
    let status = response.status();
    let mut failure = match from_json(response.body().as_ref()) {
        Some(rpc) => read(Code::from_i32(rpc.code), &rpc.message, &rpc.details),
        None => read(code_of_http(status), &status.to_string(), &[]),
    };
    let header = response.headers().get(RETRY_AFTER);
    let seconds = header.and_then(|text| text.to_str().ok()?.parse().ok());
    let delay = seconds.map(Duration::from_secs);
    failure.retry_after = failure.retry_after.or(delay);
    failure
}

/// Returns the failure as clients may see it.
fn public(failure: &Failure) -> Failure {
    let mut failure = failure.clone();
    failure.code = not_ok(failure.code);
    if let Code::Unknown | Code::Internal | Code::DataLoss = failure.code {
        failure.message = INTERNAL_MESSAGE.to_owned();
        failure.metadata.retain(|key, _| key == REQUEST_ID);
        failure.violations.clear();
    }
    failure
}

/// Encodes a failure of any size.
fn encode(failure: &Failure) -> Status {
    let details = failure.to_rpc().encode_to_vec();
    Status::with_details(failure.code, &*failure.message, details.into())
}

/// Reads each detail by itself, so that the others survive a malformed one.
fn read(code: Code, message: &str, details: &[Any]) -> Failure {
    let failure = Failure::from_details(
        first(details, ErrorInfo::TYPE_URL),
        first(details, RetryInfo::TYPE_URL),
        first(details, BadRequest::TYPE_URL),
    );
    Failure { code: not_ok(code), message: message.to_owned(), ..failure }
}

/// No failure says `Ok`, so that no client takes it for a success.
fn not_ok(code: Code) -> Code {
    if code == Code::Ok { Code::Unknown } else { code }
}

/// Returns the first detail of this type that decodes.
fn first<M: Message + Default>(details: &[Any], type_url: &str) -> Option<M> {
    let mut same_type = details.iter().filter(|any| any.type_url == type_url);
    same_type.find_map(|any| M::decode(&*any.value).ok())
}

/// Calls `fits` with numbers up to `max`. The last call is with the largest
/// number that fits, or with 0 if none does.
fn longest(max: usize, mut fits: impl FnMut(usize) -> bool) {
    if fits(max) {
        return;
    }
    let (mut fitting, mut too_long) = (0, max);
    while too_long - fitting > 1 {
        let middle = fitting + (too_long - fitting) / 2;
        if fits(middle) {
            fitting = middle;
        } else {
            too_long = middle;
        }
    }
    fits(fitting);
}

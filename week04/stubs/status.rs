//! Error model: a coarse code and a fine reason, over gRPC and HTTP. Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - Before a failure is sent, by `to_grpc` or by `to_http`, it is made public:
//!   a code of `Ok` becomes `Unknown`. Then, if the code is `Unknown`,
//!   `Internal` or `DataLoss`, the message becomes `INTERNAL_MESSAGE`, the
//!   metadata keeps only the key that is equal to `REQUEST_ID`, and the
//!   violations are removed.
//! - `to_http` returns the public failure with `http_status` of its code, with
//!   the header `content-type: application/json`, and with the body of
//!   `to_json`. Nothing is cut. If there is a `retry_after`, the response also
//!   has the header `retry-after`, whatever the code is: the delay in seconds,
//!   rounded up.
//! - `to_grpc` returns the code and the message of the public failure, and its
//!   `google.rpc.Status` as details: see `encode`.
//! - `header_size` of the status that `to_grpc` returns is at most
//!   `HEADER_BUDGET`, whatever the code is. If the public failure is larger, it
//!   is cut: first the violations, from the last one; if it is still too large
//!   without them, the metadata, from the last key; then the message, to a
//!   prefix of whole characters. Each is cut only as far as necessary. You may
//!   assume that the other fields fit into the budget.
//! - `to_grpc` takes less than 5 seconds for 20,000 violations, or 20,000
//!   entries in the metadata, or a message of 1 MB.
//! - `from_grpc` takes the code and the message from the status itself, and the
//!   other fields from its details. If the bytes of the details do not decode
//!   as a `google.rpc.Status`, the other fields are empty.
//! - `from_http` takes all fields from the body if `from_json` can read it,
//!   whatever the HTTP status and the `content-type` are.
//! - If `from_json` returns `None`, the body comes from another server, such as
//!   a proxy. Then the code is `code_of_http` of the status, the message is the
//!   status as text (`502 Bad Gateway`), and the other fields are empty.
//! - If the body yields no delay, `from_http` takes `retry_after` from the
//!   header `retry-after`, whatever the body, the code and the status are. A
//!   delay of 0 in the body is a delay. The header counts if it is an unsigned
//!   integer, which is a number of seconds (`120`). In any other form, such as
//!   a date, `-1` or `1.0`, it is ignored.
//! - `from_grpc` and `from_http` read each detail by itself. The reason, the
//!   domain and the metadata are in the `ErrorInfo`, `retry_after` is in the
//!   `RetryInfo`, and the violations are in the `BadRequest`. A detail that
//!   does not decode or has another `type_url` is ignored. If there are several
//!   details of one type, the first that decodes counts. The fields of a
//!   missing detail are empty.
//! - `from_grpc` and `from_http` return the message as it is, also for an
//!   internal error. They return `Unknown` instead of `Ok`. They do not panic,
//!   whatever the peer sends.
//!
//! Help: the modules `crate::failure` and `crate::google_rpc` are given: read
//! both. `tonic_types::pb::Status::decode` reads the details of a gRPC status,
//! and `Failure::from_details` returns their fields. The types `ErrorInfo`,
//! `RetryInfo` and `BadRequest` exist twice: in `tonic_types`, with a
//! `TYPE_URL`, and in `tonic_types::pb`, with `decode`.

use http::Response;
use prost::Message;
use prost_types::Any;
use tonic::{Code, Status};

use crate::failure::Failure;

/// The limit for the headers of a gRPC status: the 8 KiB that some peers accept
/// for all headers of a response, less 1 KiB for the other headers.
pub const HEADER_BUDGET: usize = 7 * 1024;

/// The message that a client gets if the service is at fault.
pub const INTERNAL_MESSAGE: &str = "internal error";

/// The key of the metadata that a client gets even if the service is at fault.
pub const REQUEST_ID: &str = "requestId";

/// Returns the status that a gRPC handler returns. Hides the internals, and
/// cuts the failure until its headers fit into [`HEADER_BUDGET`].
pub fn to_grpc(_failure: &Failure) -> Status {
    todo!("what is hidden, what is cut, and in which order?")
}

/// Reads the status that a gRPC client gets.
pub fn from_grpc(_status: &Status) -> Failure {
    todo!("what do you know if the details do not decode?")
}

/// Returns the response that an HTTP handler returns. Hides the internals.
pub fn to_http(_failure: &Failure) -> Response<Vec<u8>> {
    todo!("which parts of the failure does the body not contain?")
}

/// Reads the response that an HTTP client gets, from the service or from a
/// proxy in front of it.
pub fn from_http(_response: &Response<impl AsRef<[u8]>>) -> Failure {
    todo!("which server has written the body?")
}

/// No failure says `Ok`, so that no client takes it for a success.
fn not_ok(code: Code) -> Code {
    if code == Code::Ok { Code::Unknown } else { code }
}

/// Encodes a failure of any size.
fn encode(failure: &Failure) -> Status {
    let details = failure.to_rpc().encode_to_vec();
    Status::with_details(failure.code, &*failure.message, details.into())
}

/// Returns the first detail of this type that decodes.
fn first<M: Message + Default>(details: &[Any], type_url: &str) -> Option<M> {
    let mut same_type = details.iter().filter(|any| any.type_url == type_url);
    same_type.find_map(|any| M::decode(&*any.value).ok())
}

/// Calls `fits` with numbers up to `max`. The last call is with the largest
/// number that fits, or with 0 if none does. A binary search.
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

//! `google.rpc.Status`: the names and the HTTP statuses of its codes, its
//! details, its size as gRPC headers, and its JSON form, which is the body of an
//! HTTP error (AIP-193).
//!
//! ```
//! use http::StatusCode;
//! use tonic::Code;
//! use week04::failure::Failure;
//! use week04::google_rpc::to_json;
//!
//! let failure = Failure {
//!     code: Code::NotFound,
//!     reason: "COMMENT_NOT_FOUND".to_owned(),
//!     domain: "comments.example.com".to_owned(),
//!     message: "there is no comment 7".to_owned(),
//!     ..Failure::default()
//! };
//! let body = to_json(&failure.to_rpc(), StatusCode::NOT_FOUND);
//! let body: serde_json::Value = serde_json::from_slice(&body)?;
//! let expected = serde_json::json!({
//!     "error": {
//!         "code": 404,
//!         "status": "NOT_FOUND",
//!         "message": "there is no comment 7",
//!         "details": [{
//!             "@type": "type.googleapis.com/google.rpc.ErrorInfo",
//!             "reason": "COMMENT_NOT_FOUND",
//!             "domain": "comments.example.com",
//!         }],
//!     },
//! });
//! assert_eq!(body, expected);
//! # Ok::<(), serde_json::Error>(())
//! ```

use std::sync::LazyLock;

use http::{HeaderMap, StatusCode};
use prost::Message;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor,
};
use prost_types::Any;
use serde_json::{Value, json};
use tonic::Code;
use tonic_types::pb;

/// The codes in the order of their numbers, with the names that JSON uses.
pub const NAMES: [(Code, &str); 17] = [
    (Code::Ok, "OK"),
    (Code::Cancelled, "CANCELLED"),
    (Code::Unknown, "UNKNOWN"),
    (Code::InvalidArgument, "INVALID_ARGUMENT"),
    (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
    (Code::NotFound, "NOT_FOUND"),
    (Code::AlreadyExists, "ALREADY_EXISTS"),
    (Code::PermissionDenied, "PERMISSION_DENIED"),
    (Code::ResourceExhausted, "RESOURCE_EXHAUSTED"),
    (Code::FailedPrecondition, "FAILED_PRECONDITION"),
    (Code::Aborted, "ABORTED"),
    (Code::OutOfRange, "OUT_OF_RANGE"),
    (Code::Unimplemented, "UNIMPLEMENTED"),
    (Code::Internal, "INTERNAL"),
    (Code::Unavailable, "UNAVAILABLE"),
    (Code::DataLoss, "DATA_LOSS"),
    (Code::Unauthenticated, "UNAUTHENTICATED"),
];

/// Returns the HTTP status of a code, as `google/rpc/code.proto` defines it.
#[expect(clippy::missing_panics_doc, reason = "it never panics")]
pub fn http_status(code: Code) -> StatusCode {
    let number = match code {
        Code::Ok => 200,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            400
        }
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::ResourceExhausted => 429,
        Code::Cancelled => 499,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::DeadlineExceeded => 504,
    };
    StatusCode::from_u16(number).expect("each number is from 100 to 999")
}

/// Returns the code of a response that has nothing but an HTTP status, such as
/// the page of a proxy. Several codes share a status: the most likely one is
/// chosen.
///
/// ```
/// use http::StatusCode;
/// use tonic::Code;
/// use week04::google_rpc::code_of_http;
///
/// assert_eq!(code_of_http(StatusCode::CONFLICT), Code::Aborted);
/// assert_eq!(code_of_http(StatusCode::BAD_GATEWAY), Code::Unavailable);
/// assert_eq!(code_of_http(StatusCode::IM_A_TEAPOT), Code::Unknown);
/// ```
pub fn code_of_http(status: StatusCode) -> Code {
    match status.as_u16() {
        400 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        409 => Code::Aborted,
        416 => Code::OutOfRange,
        429 => Code::ResourceExhausted,
        499 => Code::Cancelled,
        500 => Code::Internal,
        501 => Code::Unimplemented,
        502 | 503 => Code::Unavailable,
        504 => Code::DeadlineExceeded,
        _ => Code::Unknown,
    }
}

/// Returns the size of the headers that gRPC sends for `status`: the length of
/// each name and value, and 32 bytes for each header. HTTP/2 computes the size
/// of a header list in this way.
///
/// # Panics
///
/// Panics if the metadata of `status` contains an invalid header.
pub fn header_size(status: &tonic::Status) -> usize {
    let mut headers = HeaderMap::new();
    status.add_header(&mut headers).expect("gRPC encodes every text");
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 32)
        .sum()
}

/// Packs a message as a detail.
pub fn pack(type_url: &str, message: &impl Message) -> Any {
    Any { type_url: type_url.to_owned(), value: message.encode_to_vec() }
}

/// `google.protobuf.Any`, in a pool that also has the types of details.
static ANY: LazyLock<MessageDescriptor> = LazyLock::new(|| {
    let mut pool = DescriptorPool::global();
    pool.decode_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
        .expect("tonic-types has compiled these files");
    pool.get_message_by_name("google.protobuf.Any")
        .expect("the global pool has the well-known types")
});

/// Returns the JSON body of an HTTP error. Skips each detail whose type is not
/// in `google/rpc/error_details.proto`.
pub fn to_json(status: &pb::Status, http: StatusCode) -> Vec<u8> {
    let name = NAMES[Code::from_i32(status.code) as usize].1;
    let details: Vec<Value> =
        status.details.iter().filter_map(detail_to_json).collect();
    let error = json!({
        "code": http.as_u16(),
        "status": name,
        "message": status.message,
        "details": details,
    });
    json!({ "error": error }).to_string().into_bytes()
}

/// Reads such a body. Returns `None` if `body` is not a JSON object with an
/// `error` that has the name of a code as its `status`.
///
/// The number in `code` is ignored. A message that is not a string counts as
/// empty. Skips each detail that is malformed or has an unknown type.
pub fn from_json(body: &[u8]) -> Option<pb::Status> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let error = body.get("error")?;
    let name = error.get("status")?.as_str()?;
    let (code, _) = NAMES.iter().find(|row| row.1 == name)?;
    let message = error.get("message").and_then(Value::as_str);
    let details = error.get("details").and_then(Value::as_array);
    Some(pb::Status {
        code: (*code).into(),
        message: message.unwrap_or_default().to_owned(),
        details: details
            .into_iter()
            .flatten()
            .filter_map(detail_from_json)
            .collect(),
    })
}

fn detail_to_json(detail: &Any) -> Option<Value> {
    let mut any = DynamicMessage::new(ANY.clone());
    any.transcode_from(detail).ok()?;
    serde_json::to_value(any).ok()
}

fn detail_from_json(detail: &Value) -> Option<Any> {
    // A newer server may send fields that this client does not know.
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let any = ANY.clone();
    DynamicMessage::deserialize_with_options(any, detail, &options)
        .ok()?
        .transcode_to()
        .ok()
}

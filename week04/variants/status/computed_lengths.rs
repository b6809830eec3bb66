//! Error model, with computed sizes. To cut a failure, this variant does not
//! encode it again and again: it computes how many bytes of headers each part
//! takes, and subtracts these bytes for each part that it removes. Details are
//! read in one pass.

use std::time::Duration;

use http::Response;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use prost::Message;
use prost::encoding::encoded_len_varint;
use tonic::{Code, Status};
use tonic_types::{BadRequest, ErrorInfo, RetryInfo, pb};

use crate::failure::{Failure, Violation};
use crate::google_rpc::{code_of_http, from_json, http_status, to_json};

/// The limit for the headers of a gRPC status.
pub const HEADER_BUDGET: usize = 7 * 1024;

/// The message that a client gets if the service is at fault.
pub const INTERNAL_MESSAGE: &str = "internal error";

/// The key of the metadata that a client gets even if the service is at fault.
pub const REQUEST_ID: &str = "requestId";

/// Returns the status that a gRPC handler returns.
pub fn to_grpc(failure: &Failure) -> Status {
    let mut failure = public(failure);
    let mut lengths = Lengths::of(&failure);
    while lengths.headers() > HEADER_BUDGET {
        if let Some(violation) = failure.violations.pop() {
            lengths.violations -= violation_len(&violation);
        } else if let Some((key, value)) = failure.metadata.pop_last() {
            lengths.metadata -= entry_len(&key, &value);
        } else if let Some(last) = failure.message.pop() {
            lengths.message -= last.len_utf8();
            lengths.percent_encoded -= percent_len(last);
        } else {
            break;
        }
    }
    let details = failure.to_rpc().encode_to_vec();
    Status::with_details(failure.code, failure.message, details.into())
}

/// Reads the status that a gRPC client gets.
pub fn from_grpc(status: &Status) -> Failure {
    let rpc = pb::Status::decode(status.details()).unwrap_or_default();
    read(status.code(), status.message(), &rpc)
}

/// Returns the response that an HTTP handler returns.
pub fn to_http(failure: &Failure) -> Response<Vec<u8>> {
    let failure = public(failure);
    let status = http_status(failure.code);
    let mut response = Response::builder()
        .status(status)
        .header(CONTENT_TYPE, "application/json");
    if let Some(delay) = failure.retry_after {
        let seconds = delay.as_nanos().div_ceil(1_000_000_000);
        response = response.header(RETRY_AFTER, seconds.to_string());
    }
    response
        .body(to_json(&failure.to_rpc(), status))
        .expect("the headers are digits and a constant")
}

/// Reads the response that an HTTP client gets.
pub fn from_http(response: &Response<impl AsRef<[u8]>>) -> Failure {
    let mut failure = match from_json(response.body().as_ref()) {
        Some(rpc) => read(Code::from_i32(rpc.code), &rpc.message, &rpc),
        None => Failure {
            code: code_of_http(response.status()),
            message: response.status().to_string(),
            ..Failure::default()
        },
    };
    if failure.retry_after.is_none()
        && let Some(header) = response.headers().get(RETRY_AFTER)
        && let Ok(text) = header.to_str()
        && let Ok(seconds) = text.parse()
    {
        failure.retry_after = Some(Duration::from_secs(seconds));
    }
    failure
}

fn public(failure: &Failure) -> Failure {
    let mut public = failure.clone();
    match failure.code {
        Code::Ok | Code::Unknown => public.code = Code::Unknown,
        Code::Internal | Code::DataLoss => {}
        _ => return public,
    }
    public.message = INTERNAL_MESSAGE.to_owned();
    public.violations = Vec::new();
    let request_id = failure.metadata.get_key_value(REQUEST_ID);
    public.metadata =
        request_id.map(|(k, v)| (k.clone(), v.clone())).into_iter().collect();
    public
}

fn read(code: Code, message: &str, rpc: &pb::Status) -> Failure {
    let (mut info, mut retry, mut bad) = (None, None, None);
    for detail in &rpc.details {
        let bytes = &*detail.value;
        match &*detail.type_url {
            ErrorInfo::TYPE_URL if info.is_none() => {
                info = pb::ErrorInfo::decode(bytes).ok();
            }
            RetryInfo::TYPE_URL if retry.is_none() => {
                retry = pb::RetryInfo::decode(bytes).ok();
            }
            BadRequest::TYPE_URL if bad.is_none() => {
                bad = pb::BadRequest::decode(bytes).ok();
            }
            _ => {}
        }
    }
    let mut failure = Failure::from_details(info, retry, bad);
    failure.code = if code == Code::Ok { Code::Unknown } else { code };
    failure.message = message.to_owned();
    failure
}

/// The lengths of the encoded parts of a failure.
struct Lengths {
    code: usize,
    /// The reason and the domain.
    info: usize,
    metadata: usize,
    /// The detail, or 0 without a delay.
    retry_info: usize,
    violations: usize,
    message: usize,
    percent_encoded: usize,
}

impl Lengths {
    fn of(failure: &Failure) -> Self {
        let Failure { reason, domain, message, metadata, violations, .. } =
            failure;
        let without_violations =
            Failure { violations: Vec::new(), ..failure.clone() };
        let retry = without_violations.to_rpc().details.into_iter().nth(1);
        Self {
            code: (failure.code as i32).to_string().len(),
            info: text_len(reason.len()) + text_len(domain.len()),
            metadata: metadata.iter().map(|(k, v)| entry_len(k, v)).sum(),
            retry_info: retry.map_or(0, |any| field_len(any.encoded_len())),
            violations: violations.iter().map(violation_len).sum(),
            message: message.len(),
            percent_encoded: message.chars().map(percent_len).sum(),
        }
    }

    /// Returns the size of the headers.
    fn headers(&self) -> usize {
        let mut rpc = 2 + text_len(self.message) + self.retry_info;
        rpc += detail_len(ErrorInfo::TYPE_URL, self.info + self.metadata);
        if self.violations > 0 {
            rpc += detail_len(BadRequest::TYPE_URL, self.violations);
        }
        let base64 = (rpc * 4).div_ceil(3);
        let mut size = header_len("grpc-status", self.code)
            + header_len("grpc-status-details-bin", base64);
        if self.percent_encoded > 0 {
            size += header_len("grpc-message", self.percent_encoded);
        }
        size
    }
}

fn header_len(name: &str, value: usize) -> usize {
    name.len() + value + 32
}

/// Returns the length of a field with a tag below 16 and `len` bytes.
fn field_len(len: usize) -> usize {
    1 + encoded_len_varint(len as u64) + len
}

/// An empty text is not encoded.
fn text_len(len: usize) -> usize {
    if len == 0 { 0 } else { field_len(len) }
}

fn detail_len(type_url: &str, value: usize) -> usize {
    field_len(field_len(type_url.len()) + text_len(value))
}

fn violation_len(violation: &Violation) -> usize {
    let Violation { field, description } = violation;
    field_len(text_len(field.len()) + text_len(description.len()))
}

fn entry_len(key: &str, value: &str) -> usize {
    field_len(text_len(key.len()) + text_len(value.len()))
}

/// Returns the length of a character in `grpc-message`.
fn percent_len(character: char) -> usize {
    match character {
        ' ' | '"' | '#' | '%' | '<' | '>' | '`' | '?' | '{' | '}' => 3,
        '!'..='~' => 1,
        _ => 3 * character.len_utf8(),
    }
}

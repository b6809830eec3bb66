//! The error type of [`status`](crate::status): a failed request, and its
//! `google.rpc.Status`.

use std::collections::BTreeMap;
use std::time::Duration;

use tonic::Code;
use tonic_types::pb::bad_request::FieldViolation;
use tonic_types::{BadRequest, ErrorInfo, RetryInfo, pb};

use crate::google_rpc::pack;

/// A failed request: what clients act on, and a message for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code:?} {reason}: {message}")]
pub struct Failure {
    /// The kind of failure, for generic layers such as retries.
    pub code: Code,
    /// The cause, for the code of clients. The service chooses one that matches
    /// `[A-Z][A-Z0-9_]+[A-Z0-9]` and has at most 63 characters. Empty if the
    /// peer has sent none.
    pub reason: String,
    /// The service that defines the reason: at most 253 characters.
    pub domain: String,
    /// An explanation for developers. No program parses it.
    pub message: String,
    /// The variables of the message. Keys are in `lowerCamelCase`.
    pub metadata: BTreeMap<String, String>,
    /// The time to wait before the request is sent again: at most
    /// [`RetryInfo::MAX_RETRY_DELAY`], which is 10,000 years.
    pub retry_after: Option<Duration>,
    /// The fields of the request that are invalid.
    pub violations: Vec<Violation>,
}

/// An invalid field of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The path of the field, such as `comment.text`.
    pub field: String,
    /// Why the value is invalid.
    pub description: String,
}

impl Failure {
    /// Returns the message that both protocols send: all fields, with one
    /// `ErrorInfo`, a `RetryInfo` if there is a delay, and a `BadRequest` if
    /// there are violations.
    pub fn to_rpc(&self) -> pb::Status {
        let info = pb::ErrorInfo {
            reason: self.reason.clone(),
            domain: self.domain.clone(),
            metadata: self.metadata.clone().into_iter().collect(),
        };
        let mut details = vec![pack(ErrorInfo::TYPE_URL, &info)];
        if let Some(delay) = self.retry_after {
            let delay = delay.min(RetryInfo::MAX_RETRY_DELAY);
            let retry_delay = delay.try_into().ok();
            details.push(pack(
                RetryInfo::TYPE_URL,
                &pb::RetryInfo { retry_delay },
            ));
        }
        if !self.violations.is_empty() {
            let violations = self.violations.iter().map(|violation| {
                let Violation { field, description } = violation.clone();
                FieldViolation { field, description, ..Default::default() }
            });
            let field_violations = violations.collect();
            details.push(pack(
                BadRequest::TYPE_URL,
                &pb::BadRequest { field_violations },
            ));
        }
        let (code, message) = (self.code.into(), self.message.clone());
        pb::Status { code, message, details }
    }

    /// Returns a failure with the fields of these details. Its code is
    /// `Unknown`, and its message is empty. There is no `retry_after` if the
    /// delay is missing or negative.
    pub fn from_details(
        info: Option<pb::ErrorInfo>,
        retry: Option<pb::RetryInfo>,
        bad: Option<pb::BadRequest>,
    ) -> Self {
        let info = info.unwrap_or_default();
        let violations = bad.unwrap_or_default().field_violations.into_iter();
        Self {
            reason: info.reason,
            domain: info.domain,
            metadata: info.metadata.into_iter().collect(),
            retry_after: retry.and_then(|retry| delay_of(&retry)),
            violations: violations
                .map(|FieldViolation { field, description, .. }| Violation {
                    field,
                    description,
                })
                .collect(),
            ..Self::default()
        }
    }
}

/// It is tempting to use `try_into`, but with prost-types 0.14.6 it overflows
/// for a delay of `i64::MIN` seconds, and a peer can send one.
fn delay_of(retry: &pb::RetryInfo) -> Option<Duration> {
    let delay = retry.retry_delay?;
    let nanos = delay.nanos.try_into().ok()?;
    Some(Duration::new(delay.seconds.try_into().ok()?, nanos))
}

impl Default for Failure {
    /// Returns a failure of unknown kind whose other fields are empty.
    fn default() -> Self {
        Self {
            code: Code::Unknown,
            reason: String::new(),
            domain: String::new(),
            message: String::new(),
            metadata: BTreeMap::new(),
            retry_after: None,
            violations: Vec::new(),
        }
    }
}

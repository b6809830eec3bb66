//! The one table from errors of the business layer to codes and reasons.

use std::collections::BTreeMap;
use std::time::Duration;

use tonic::{Code, Status};
use week04_biz::{Error, Invalid};

use crate::failure::{Failure, Violation};
use crate::field_path::MaskError;
use crate::status::to_grpc;

/// The domain of all reasons, in the sense of `google.rpc.ErrorInfo`.
pub(crate) const DOMAIN: &str = "comments.example";

/// Returns what a client gets for `error`, and logs what it does not get.
pub(super) fn from_error(error: &Error) -> Status {
    to_grpc(&of_error(error))
}

/// Returns what a client gets for the error of a request that it must not send
/// twice: it may have been executed. So it gets no time for a retry.
pub(super) fn from_error_of_unrepeatable(error: &Error) -> Status {
    to_grpc(&Failure { retry_after: None, ..of_error(error) })
}

fn of_error(error: &Error) -> Failure {
    let message = error.to_string();
    let with = |code, reason: &str| {
        let mut failure = failure(code, reason, message.clone());
        if let Error::NotFound { id, .. }
        | Error::AlreadyExists { id, .. }
        | Error::Changed { id } = error
        {
            failure.metadata.insert("id".to_owned(), id.clone());
        }
        failure
    };
    match error {
        Error::NotFound { kind: "subject", .. } => {
            with(Code::NotFound, "SUBJECT_NOT_FOUND")
        }
        Error::NotFound { .. } => with(Code::NotFound, "COMMENT_NOT_FOUND"),
        Error::AlreadyExists { .. } => {
            with(Code::AlreadyExists, "SUBJECT_ALREADY_EXISTS")
        }
        Error::Invalid(invalid) => of_invalid(*invalid),
        Error::Changed { .. } => with(Code::Aborted, "COMMENT_CHANGED"),
        Error::Unavailable(cause) => {
            tracing::warn!(cause = chain(&**cause), "{message}");
            let mut failure = with(Code::Unavailable, "STORAGE_UNAVAILABLE");
            failure.retry_after = Some(Duration::from_secs(1));
            failure
        }
        Error::Internal(cause) => {
            tracing::error!(cause = chain(&**cause), "{message}");
            with(Code::Internal, "INTERNAL")
        }
    }
}

/// Returns what a client gets for an invalid field.
pub(super) fn from_invalid(invalid: Invalid) -> Status {
    to_grpc(&of_invalid(invalid))
}

fn of_invalid(invalid: Invalid) -> Failure {
    let Invalid { field, problem } = invalid;
    // The business layer does not know the messages of the contract.
    let field = match field {
        "title" => "subject.title".to_owned(),
        "text" | "labels" => format!("comment.{field}"),
        place if place.starts_with("place.") => format!("comment.{field}"),
        field => field.to_owned(),
    };
    let message = format!("{field}: {problem}");
    let mut failure = failure(Code::InvalidArgument, "INVALID_FIELD", message);
    let description = problem.to_owned();
    failure.violations = vec![Violation { field, description }];
    failure
}

/// Returns what a client gets for a field mask that cannot be applied.
pub(crate) fn from_mask(error: &MaskError) -> Status {
    let message = error.to_string();
    let mut failure =
        failure(Code::InvalidArgument, "INVALID_FIELD_MASK", message.clone());
    failure.violations = vec![Violation {
        field: "update_mask".to_owned(),
        description: message,
    }];
    to_grpc(&failure)
}

/// Creates a failure with a reason of this service.
pub(crate) fn failure(code: Code, reason: &str, message: String) -> Failure {
    Failure {
        code,
        reason: reason.to_owned(),
        domain: DOMAIN.to_owned(),
        message,
        metadata: BTreeMap::new(),
        retry_after: None,
        violations: Vec::new(),
    }
}

/// Returns an error and its sources in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        line += &format!(": {source}");
        next = source.source();
    }
    line
}

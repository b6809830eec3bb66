//! Error reporting at the edge: one log event and one reply for each failure.
//!
//! **Question.** A request fails three layers below the edge. Which layer logs
//! the failure, what may the client see of it, and what decides on the status
//! code?
//!
//! **Idea.** A [`Failure`] has a [`Reason`], which programs match on, and a
//! chain of causes, which people read. The layers below the edge add causes and
//! log nothing. The edge calls [`report`] once. This function writes the chain
//! to the log, and builds the reply from the reason's row in the status table.
//! The log event and the reply both have the request id, so each leads to the
//! other. If the client disconnects, the server drops the handler. So
//! [`respond`] runs the handler with a guard, whose destructor reports the
//! cancellation.
//!
//! **Guarantee.** The reply depends only on the reason and the request id. No
//! code copies text from the chain to the reply, so the chain cannot leak.
//! [`report`] logs one event, which contains every cause once. [`respond`]
//! reports a failed request or a cancelled one exactly once. The HTTP status,
//! the gRPC code, the exit code and the retryable flag are in one row, so they
//! cannot disagree.
//!
//! **Cost.** The client receives only what the table contains. Anything more,
//! such as the invalid field or the time to wait, needs a field of its own in
//! the reply. A failure that is never reported is never logged. [`respond`]
//! takes every drop of its future for a cancellation by the caller, so a
//! deadline has to be inside the handler.
//!
//! ```
//! use week02::report::{Failure, Reason, report};
//!
//! let failure = Failure::new(Reason::NotFound, sqlx::Error::RowNotFound)
//!     .context("cannot read row 7 of accounts")
//!     .context("cannot publish on article 20");
//! let reply = report("req-81", &failure); // and one event in the log
//!
//! assert_eq!((reply.http, reply.reason), (404, "NOT_FOUND"));
//! assert_eq!(reply.message, "no such thing");
//! assert!(!reply.retryable);
//! ```

use std::error::Error;
use std::future::poll_fn;
use std::iter::successors;
use std::pin::pin;
use std::process::ExitCode;

/// The reason for a failure. It tells the caller what to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The requested resource does not exist.
    NotFound,
    /// The request is invalid. It can never succeed as it is.
    InvalidArgument,
    /// The resource to create exists already.
    AlreadyExists,
    /// The store works, but has no capacity now: a lock is held, or a
    /// connection pool is empty.
    Busy,
    /// The store cannot be reached.
    Unavailable,
    /// The deadline has passed. The request may have been carried out.
    DeadlineExceeded,
    /// The caller has cancelled the request, or has disconnected. The request
    /// may have been carried out.
    Cancelled,
    /// A bug, or a failure that the code does not expect.
    Internal,
}

/// A row of the status table: all that clients and scripts see of a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusRow {
    /// The name of the reason, for programs. It matches
    /// `[A-Z][A-Z0-9_]+[A-Z0-9]` and has at most 63 characters (AIP-193).
    pub name: &'static str,
    /// The HTTP status code.
    pub http: u16,
    /// The number of the gRPC status code.
    pub grpc: i32,
    /// The exit code of a command, from BSD's `sysexits.h`. A cancelled command
    /// exits with 130, as after Ctrl-C.
    pub exit: u8,
    /// Whether it helps to send the same request again after a short delay.
    pub retryable: bool,
    /// The message, for people. It contains no detail of the request or of the
    /// service.
    pub message: &'static str,
}

/// The reply to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status code.
    pub http: u16,
    /// The name of the reason.
    pub reason: &'static str,
    /// The message of the reason.
    pub message: String,
    /// Whether it helps to send the same request again after a short delay.
    pub retryable: bool,
    /// The id of the request. With it, support finds the log event.
    pub request_id: String,
}

/// A failed request: a reason, and the chain of its causes.
///
/// `Display` is the message of the reason, which every client may see. All
/// other text is in [`source`](Error::source) and the links below it.
#[derive(Debug, thiserror::Error)]
#[error("{}", reason.row().message)]
pub struct Failure {
    reason: Reason,
    source: BoxError,
}

/// A link of the chain: the text that a layer added, and the error below it.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Context {
    text: String,
    source: BoxError,
}

/// Reports that a request was cancelled, if it is dropped before the handler
/// has completed.
struct CancelGuard<'a> {
    request_id: &'a str,
    /// Whether the handler waits. It does not wait before its first poll, while
    /// it is polled, and after it has completed.
    waiting: bool,
}

/// An error of any type.
pub type BoxError = Box<dyn Error + Send + Sync>;

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 8] = [
        Self::NotFound,
        Self::InvalidArgument,
        Self::AlreadyExists,
        Self::Busy,
        Self::Unavailable,
        Self::DeadlineExceeded,
        Self::Cancelled,
        Self::Internal,
    ];

    /// Returns the row of this reason in the status table. No other code of the
    /// service contains a status code.
    #[rustfmt::skip]
    pub fn row(self) -> StatusRow {
        let (name, http, grpc, exit, retryable, message) = match self {
            Self::NotFound =>
                ("NOT_FOUND",         404,  5, 66, false, "no such thing"),
            Self::InvalidArgument =>
                ("INVALID_ARGUMENT",  400,  3, 65, false, "invalid request"),
            Self::AlreadyExists =>
                ("ALREADY_EXISTS",    409,  6, 73, false, "exists already"),
            // Not 429: that says that this client has sent too many requests.
            Self::Busy =>
                ("BUSY",              503, 14, 75, true,  "busy for now"),
            Self::Unavailable =>
                ("UNAVAILABLE",       503, 14, 75, true,  "not available"),
            // The request may have been carried out: only the caller knows
            // whether it may be sent twice.
            Self::DeadlineExceeded =>
                ("DEADLINE_EXCEEDED", 504,  4, 69, false, "no answer in time"),
            // 499 is nginx's "client closed request". Shells report 130 (128 +
            // SIGINT) for a command that Ctrl-C has ended.
            Self::Cancelled =>
                ("CANCELLED",         499,  1, 130, false, "request cancelled"),
            Self::Internal =>
                ("INTERNAL",          500, 13, 70, false, "internal error"),
        };
        StatusRow { name, http, grpc, exit, retryable, message }
    }
}

impl Failure {
    /// Creates a failure with this reason. `source` is its cause.
    pub fn new(reason: Reason, source: impl Into<BoxError>) -> Self {
        Self { reason, source: source.into() }
    }

    /// Adds a fact that the calling layer knows, as a new link above the
    /// causes. Logs nothing.
    #[must_use]
    pub fn context(self, text: impl Into<String>) -> Self {
        let Self { reason, source } = self;
        Self::new(reason, Context { text: text.into(), source })
    }

    /// Returns the reason, which programs match on.
    pub fn reason(&self) -> Reason {
        self.reason
    }
}

/// Logs the failure once, and returns the reply to the client.
pub fn report(request_id: &str, failure: &Failure) -> Reply {
    let StatusRow { name: reason, http, retryable, message, .. } =
        failure.reason().row();
    let links = successors(failure.source(), |&link| link.source());
    let chain = links.map(ToString::to_string).collect::<Vec<_>>().join(": ");

    // ERROR is for failures that an operator has to look at. A client can cause
    // the others as often as it likes, so they must not page an operator.
    if http >= 500 {
        tracing::error!(request_id, reason, chain, "request failed");
    } else {
        tracing::info!(request_id, reason, chain, "request refused");
    }

    Reply {
        http,
        reason,
        message: message.to_owned(),
        retryable,
        request_id: request_id.to_owned(),
    }
}

/// Returns the exit code of a command that ends with this failure.
pub fn exit_code(failure: &Failure) -> ExitCode {
    failure.reason().row().exit.into()
}

/// Runs the handler of a request. If it fails, reports the failure, and returns
/// the reply to the client.
///
/// If the client disconnects, the server drops the returned future. It has no
/// client to reply to, but it reports the cancellation.
pub async fn respond<T>(
    request_id: &str,
    handler: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Reply> {
    let mut handler = pin!(handler);
    let mut guard = CancelGuard { request_id, waiting: false };
    let result = poll_fn(|context| {
        // A panic of the handler leaves `waiting` false: it is no cancellation,
        // even if the runtime drops this future after it has caught the panic.
        guard.waiting = false;
        let poll = handler.as_mut().poll(context);
        guard.waiting = poll.is_pending();
        poll
    });
    result.await.map_err(|failure| report(request_id, &failure))
}

impl Drop for CancelGuard<'_> {
    fn drop(&mut self) {
        if self.waiting {
            let cause = "the request was dropped before it had completed";
            report(self.request_id, &Failure::new(Reason::Cancelled, cause));
        }
    }
}

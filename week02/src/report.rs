//! One failure: one line for the operator, one answer for the client.
//!
//! **Question.** A request fails three layers down. Who logs it, what may the
//! client see of it, and who decides on the status code?
//!
//! **Idea.** A failure carries a [`Reason`], a word that programs decide on,
//! and the chain of its causes, which people read. Layers between add causes
//! and log nothing. The edge calls [`report`] once, and it splits the two: the
//! chain goes to the log, and what stands beside the reason in one table goes
//! to the client. The request's id is in both, so that either leads to the
//! other.
//!
//! **Guarantee.** The reply depends on the reason and the request's id alone,
//! so nothing in a chain can leak: no code copies from there. Each report is
//! one log event, with every cause once. HTTP status, gRPC code, exit code and
//! "may I send it again?" stand in one row, so they cannot disagree.
//!
//! **Cost.** The client learns nothing that is not in the table. What it should
//! know beyond that (which field, how long to wait) needs a field that is meant
//! for it. And a failure that nobody reports is not logged at all.
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
use std::iter::successors;
use std::process::ExitCode;

/// What the caller has to know to decide what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// What was asked for is not there.
    NotFound,
    /// The request can never succeed as it is.
    InvalidArgument,
    /// What was to be made is there already.
    AlreadyExists,
    /// The store works, and has no room now: a lock is held, a pool is empty.
    Busy,
    /// The store cannot be reached.
    Unavailable,
    /// Time ran out. The request may have been carried out.
    DeadlineExceeded,
    /// A bug, or something nobody thought of.
    Internal,
}

/// All that the outside sees of a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// For programs: `[A-Z][A-Z0-9_]+[A-Z0-9]`, up to 63 characters (AIP-193).
    pub name: &'static str,
    /// The HTTP status.
    pub http: u16,
    /// The number of the gRPC code.
    pub grpc: i32,
    /// A command's exit code, from BSD's `sysexits.h`.
    pub exit: u8,
    /// Whether it helps to send the same request again, a little later.
    pub retryable: bool,
    /// For people. Says nothing about this request or this service.
    pub message: &'static str,
}

/// What the client gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub http: u16,
    /// The reason's name.
    pub reason: &'static str,
    /// The reason's message.
    pub message: String,
    /// Whether it helps to send the same request again, a little later.
    pub retryable: bool,
    /// What to quote to whoever can read the log.
    pub request_id: String,
}

/// A reason, and below it the chain of causes.
///
/// `Display` is the reason's message, which is fit for anybody. Whatever is not
/// lies in [`source`](Error::source) and beyond.
#[derive(Debug, thiserror::Error)]
#[error("{}", reason.row().message)]
pub struct Failure {
    reason: Reason,
    source: BoxError,
}

/// A sentence that a layer adds.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Context {
    text: String,
    source: BoxError,
}

/// Any error.
pub type BoxError = Box<dyn Error + Send + Sync>;

impl Reason {
    /// Every reason there is.
    pub const ALL: [Self; 7] = [
        Self::NotFound,
        Self::InvalidArgument,
        Self::AlreadyExists,
        Self::Busy,
        Self::Unavailable,
        Self::DeadlineExceeded,
        Self::Internal,
    ];

    /// The one table. Nothing else in the service knows a status code.
    #[rustfmt::skip]
    pub fn row(self) -> Row {
        let (name, http, grpc, exit, retryable, message) = match self {
            Self::NotFound =>
                ("NOT_FOUND",         404,  5, 66, false, "no such thing"),
            Self::InvalidArgument =>
                ("INVALID_ARGUMENT",  400,  3, 65, false, "invalid request"),
            Self::AlreadyExists =>
                ("ALREADY_EXISTS",    409,  6, 73, false, "exists already"),
            // Not 429, which tells this client that it asked too much.
            Self::Busy =>
                ("BUSY",              503, 14, 75, true,  "busy for now"),
            Self::Unavailable =>
                ("UNAVAILABLE",       503, 14, 75, true,  "not available"),
            // It may have happened: only the caller knows if twice is right.
            Self::DeadlineExceeded =>
                ("DEADLINE_EXCEEDED", 504,  4, 69, false, "no answer in time"),
            Self::Internal =>
                ("INTERNAL",          500, 13, 70, false, "internal error"),
        };
        Row { name, http, grpc, exit, retryable, message }
    }
}

impl Failure {
    /// A failure for this reason, made by this error.
    pub fn new(reason: Reason, source: impl Into<BoxError>) -> Self {
        Self { reason, source: source.into() }
    }

    /// Adds what a layer knows, on top of the causes. Logs nothing.
    #[must_use]
    pub fn context(self, text: impl Into<String>) -> Self {
        let Self { reason, source } = self;
        Self::new(reason, Context { text: text.into(), source })
    }

    /// Why it failed, for a program.
    pub fn reason(&self) -> Reason {
        self.reason
    }
}

/// Logs the failure, once, and answers the client.
pub fn report(request_id: &str, failure: &Failure) -> Reply {
    let Row { name: reason, http, retryable, message, .. } =
        failure.reason().row();
    let links = successors(failure.source(), |&link| link.source());
    let chain = links.map(ToString::to_string).collect::<Vec<_>>().join(": ");

    // ERROR is for what the operator has to look at. Anybody can ask for what
    // is not there, as often as they like, and that wakes nobody.
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

/// The exit code of a command that ends in this failure.
pub fn exit_code(failure: &Failure) -> ExitCode {
    failure.reason().row().exit.into()
}

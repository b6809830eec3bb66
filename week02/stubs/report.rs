//! One failure: one line for the operator, one answer for the client. Your
//! turn.
//!
//! What is graded, and nothing else:
//!
//! - [`Reason::row`] is this table. Messages are yours to write: not empty, and
//!   none alike.
//!
//!   | name              | http | grpc | exit | retryable |
//!   |-------------------|------|------|------|-----------|
//!   | NOT_FOUND         | 404  | 5    | 66   | no        |
//!   | INVALID_ARGUMENT  | 400  | 3    | 65   | no        |
//!   | ALREADY_EXISTS    | 409  | 6    | 73   | no        |
//!   | BUSY              | 503  | 14   | 75   | yes       |
//!   | UNAVAILABLE       | 503  | 14   | 75   | yes       |
//!   | DEADLINE_EXCEEDED | 504  | 4    | 69   | no        |
//!   | INTERNAL          | 500  | 13   | 70   | no        |
//!
//!   BUSY is not 429 (RESOURCE_EXHAUSTED, 8): that tells one client that it
//!   asked too much, and here the store has no room for anybody. Exit code 75
//!   is `EX_TEMPFAIL`, the one that asks for a retry. DEADLINE_EXCEEDED does
//!   not: the request may have been carried out.
//! - [`exit_code`] is the row's.
//! - A [`Failure`]'s `Display` is its reason's message. Its `source` is the
//!   context that was added last, and so on down to the error that it was made
//!   from and that error's own sources: one link each, `Display` without the
//!   link below. What it was made from is found by a downcast, as are its
//!   sources.
//! - A failure can be made from another one. Its own reason counts, and the
//!   other is a link like any error, with its own links below.
//! - The [`Reply`] is the row's, with the request's id as it is. Nothing of the
//!   chain is in it: two failures for one reason get equal replies, whatever
//!   they were made from.
//! - [`report`] logs one `tracing` event. Nothing else logs.
//! - The event has the fields `request_id`, `reason` (the row's name) and
//!   `chain`, each as plain text, without the quotes of `Debug`. `chain` is
//!   every link below the failure, outermost first, each once, joined by ": ":
//!   however many there are, and also where two of them say the same.
//! - The level is ERROR from HTTP status 500 up, INFO below.

use std::error::Error;
use std::fmt;
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
#[derive(Debug)]
pub struct Failure {}

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
    pub fn row(self) -> Row {
        todo!("whose fault is it, and does it help to try again?")
    }
}

impl Failure {
    /// A failure for this reason, made by this error.
    pub fn new(_reason: Reason, _source: impl Into<BoxError>) -> Self {
        todo!("what has to survive until the edge?")
    }

    /// Adds what a layer knows, on top of the causes. Logs nothing.
    #[must_use]
    pub fn context(self, _text: impl Into<String>) -> Self {
        todo!("which type is a link that is only a sentence?")
    }

    /// Why it failed, for a program.
    pub fn reason(&self) -> Reason {
        todo!("what was it made with?")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!("what is fit for anybody to read?")
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        todo!("where do the causes begin?")
    }
}

/// Logs the failure, once, and answers the client.
pub fn report(_request_id: &str, _failure: &Failure) -> Reply {
    todo!("what goes to the log, what to the client, and what to both?")
}

/// The exit code of a command that ends in this failure.
pub fn exit_code(_failure: &Failure) -> ExitCode {
    todo!("which column is it?")
}

//! Variant: rows in an array, and links written by hand.
//!
//! The rows stand in the order of the enum. That reads well, and nothing but a
//! test notices when the two orders part. The chain is built in a loop.

use std::error::Error;
use std::fmt::{self, Write as _};
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
pub struct Failure {
    reason: Reason,
    causes: BoxError,
}

/// Any error.
pub type BoxError = Box<dyn Error + Send + Sync>;

#[derive(Debug)]
struct Link(Box<str>, BoxError);

const ROWS: [Row; 7] = [
    row("NOT_FOUND", 404, 5, 66, "we have none of that"),
    row("INVALID_ARGUMENT", 400, 3, 65, "please check what you sent"),
    row("ALREADY_EXISTS", 409, 6, 73, "we have that already"),
    row("BUSY", 503, 14, TEMPFAIL, "too much to do, come back later"),
    row("UNAVAILABLE", 503, 14, TEMPFAIL, "out of order, come back later"),
    row("DEADLINE_EXCEEDED", 504, 4, 69, "it took too long"),
    row("INTERNAL", 500, 13, 70, "our mistake"),
];

/// The exit code that asks for a retry.
const TEMPFAIL: u8 = 75;

const fn row(
    name: &'static str,
    http: u16,
    grpc: i32,
    exit: u8,
    message: &'static str,
) -> Row {
    Row { name, http, grpc, exit, retryable: exit == TEMPFAIL, message }
}

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

    /// The one table.
    pub fn row(self) -> Row {
        ROWS[self as usize]
    }
}

impl Failure {
    /// A failure for this reason, made by this error.
    pub fn new(reason: Reason, source: impl Into<BoxError>) -> Self {
        Self { reason, causes: source.into() }
    }

    /// Adds what a layer knows, on top of the causes. Logs nothing.
    #[must_use]
    pub fn context(mut self, text: impl Into<String>) -> Self {
        let text = text.into().into_boxed_str();
        self.causes = Box::new(Link(text, self.causes));
        self
    }

    /// Why it failed, for a program.
    pub fn reason(&self) -> Reason {
        self.reason
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.row().message)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.causes)
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Link {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.1)
    }
}

/// Logs the failure, once, and answers the client.
pub fn report(request_id: &str, failure: &Failure) -> Reply {
    let row = failure.reason.row();
    let mut chain = failure.causes.to_string();
    let mut link = failure.causes.source();
    while let Some(cause) = link {
        write!(chain, ": {cause}").expect("a string takes all");
        link = cause.source();
    }
    macro_rules! log {
        ($level:ident) => {
            tracing::event!(
                tracing::Level::$level,
                %request_id,
                reason = %row.name,
                %chain,
            )
        };
    }
    match row.http {
        500.. => log!(ERROR),
        _ => log!(INFO),
    }
    Reply {
        http: row.http,
        reason: row.name,
        message: row.message.into(),
        retryable: row.retryable,
        request_id: request_id.into(),
    }
}

/// The exit code of a command that ends in this failure.
pub fn exit_code(failure: &Failure) -> ExitCode {
    ExitCode::from(failure.reason.row().exit)
}

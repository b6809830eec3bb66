//! Variant: the rows in an array, and the error traits written by hand.
//!
//! The rows have the order of the enum's variants. The table is easy to read,
//! but only a test notices when the two orders differ. A loop builds the chain.
//! A guard reports a cancelled request. It is disarmed after the handler's await,
//! and does nothing if its destructor runs because of a panic.

use std::error::Error;
use std::fmt::{self, Write as _};
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
#[derive(Debug)]
pub struct Failure {
    reason: Reason,
    causes: BoxError,
}

/// An error of any type.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A link of the chain: the text that a layer added, and the error below it.
#[derive(Debug)]
struct Link(Box<str>, BoxError);

const ROWS: [StatusRow; 8] = [
    row("NOT_FOUND", 404, 5, 66, "we have none of that"),
    row("INVALID_ARGUMENT", 400, 3, 65, "please check what you sent"),
    row("ALREADY_EXISTS", 409, 6, 73, "we have that already"),
    row("BUSY", 503, 14, TEMPFAIL, "too much to do, come back later"),
    row("UNAVAILABLE", 503, 14, TEMPFAIL, "out of order, come back later"),
    row("DEADLINE_EXCEEDED", 504, 4, 69, "it took too long"),
    row("CANCELLED", 499, 1, 130, "you did not wait for it"),
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
) -> StatusRow {
    StatusRow { name, http, grpc, exit, retryable: exit == TEMPFAIL, message }
}

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

    /// Returns the row of this reason in the status table.
    pub fn row(self) -> StatusRow {
        ROWS[self as usize]
    }
}

impl Failure {
    /// Creates a failure with this reason. `source` is its cause.
    pub fn new(reason: Reason, source: impl Into<BoxError>) -> Self {
        Self { reason, causes: source.into() }
    }

    /// Adds a fact that the calling layer knows, as a new link above the
    /// causes. Logs nothing.
    #[must_use]
    pub fn context(mut self, text: impl Into<String>) -> Self {
        let text = text.into().into_boxed_str();
        self.causes = Box::new(Link(text, self.causes));
        self
    }

    /// Returns the reason, which programs match on.
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

/// Logs the failure once, and returns the reply to the client.
pub fn report(request_id: &str, failure: &Failure) -> Reply {
    let row = failure.reason.row();
    let mut chain = failure.causes.to_string();
    let mut link = failure.causes.source();
    while let Some(cause) = link {
        write!(chain, ": {cause}").expect("a write to a `String` cannot fail");
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

/// Returns the exit code of a command that ends with this failure.
pub fn exit_code(failure: &Failure) -> ExitCode {
    ExitCode::from(failure.reason.row().exit)
}

/// Runs the handler of a request. If it fails, reports the failure, and returns
/// the reply to the client.
pub async fn respond<T>(
    request_id: &str,
    handler: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Reply> {
    let mut guard = Guard(Some(request_id));
    let result = handler.await;
    guard.0 = None;
    result.map_err(|failure| report(request_id, &failure))
}

/// Reports the cancellation of this request when it is dropped.
struct Guard<'a>(Option<&'a str>);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some(request_id) = self.0
            && !std::thread::panicking()
        {
            report(request_id, &Failure::new(Reason::Cancelled, "cancelled"));
        }
    }
}

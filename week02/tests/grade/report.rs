use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{Interest, with_default};
use tracing::{Event, Level, Metadata, Subscriber};
use week02::report::{
    BoxError, Failure, Reason, Reply, Row, exit_code, report,
};

/// What no client may see: SQL, a password, a path, a row.
const SECRETS: [&str; 4] = [
    "SELECT name FROM accounts WHERE id = $1",
    "postgres://comments:hunter2@db.internal/comments",
    "/var/lib/comments/comments.db is locked",
    "row 70001 of accounts",
];

mod table {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_reason_has_its_row() {
        let mut messages = BTreeSet::new();
        for (reason, name, http, grpc, exit, retryable) in [
            (Reason::NotFound, "NOT_FOUND", 404, 5, 66, false),
            (Reason::InvalidArgument, "INVALID_ARGUMENT", 400, 3, 65, false),
            (Reason::AlreadyExists, "ALREADY_EXISTS", 409, 6, 73, false),
            (Reason::Busy, "BUSY", 503, 14, 75, true),
            (Reason::Unavailable, "UNAVAILABLE", 503, 14, 75, true),
            (Reason::DeadlineExceeded, "DEADLINE_EXCEEDED", 504, 4, 69, false),
            (Reason::Internal, "INTERNAL", 500, 13, 70, false),
        ] {
            let row = reason.row();
            assert_eq!(row.name, name, "the name of {reason:?}");
            assert_eq!(row.http, http, "the HTTP status of {name}");
            assert_eq!(row.grpc, grpc, "the gRPC code of {name}");
            assert_eq!(row.exit, exit, "the exit code of {name}");
            assert_eq!(row.retryable, retryable, "whether to retry {name}");
            let message = row.message;
            assert!(!message.trim().is_empty(), "{name} has no message");
            assert!(messages.insert(message), "{name} says again: {message}");
        }
    }
}

mod chain {
    use super::*;

    #[test]
    fn a_context_is_one_link_above_what_it_is_added_to() {
        for reason in Reason::ALL {
            let failure = failure(reason);
            let links = below(&failure).map(ToString::to_string);

            assert_eq!(failure.reason(), reason, "the reason, in the end");
            assert_eq!(links.collect::<Vec<_>>(), SECRETS, "outermost first");
            let made_from: Vec<_> = below(&failure).skip(2).collect();
            let kept = made_from.iter().all(|link| link.is::<Driver>());
            assert!(kept, "not as they were put in: {made_from:?}");
        }
    }
}

mod client {
    use std::process::ExitCode;

    use super::*;

    #[test]
    fn the_reply_is_the_row_and_the_request_s_id() {
        for reason in Reason::ALL {
            for id in ["req-81", "req-82"] {
                let (reply, _) = reported(id, &failure(reason));
                let Row { name, http, retryable, message, .. } = reason.row();

                assert_eq!(reply.request_id, id, "the id of a {name}");
                assert_eq!(reply.reason, name, "the reason of a {name}");
                assert_eq!(reply.http, http, "the status of a {name}");
                assert_eq!(reply.retryable, retryable, "retry a {name}?");
                assert_eq!(reply.message, message, "the message of a {name}");
            }
        }
    }

    #[test]
    fn nothing_of_the_chain_is_shown() {
        for reason in Reason::ALL {
            let failure = failure(reason);
            let shown = failure.to_string();
            assert_eq!(shown, reason.row().message, "the failure's Display");

            let (reply, _) = reported("req-81", &failure);
            let shown = format!("{reply:?}");
            for secret in SECRETS {
                assert!(!shown.contains(secret), "`{secret}` is in {shown}");
            }
            let other = Failure::new(reason, "another cause");
            let (expected, _) = reported("req-81", &other);
            assert_eq!(reply, expected, "replies to two failures, one reason");
        }
    }

    #[test]
    fn a_command_exits_with_the_code_of_its_row() {
        for reason in Reason::ALL {
            let Row { name, exit, .. } = reason.row();
            let seen = exit_code(&failure(reason));
            assert_eq!(seen, ExitCode::from(exit), "the exit code of {name}");
        }
    }
}

mod log {
    use super::*;

    #[test]
    fn a_failure_is_logged_once_and_only_by_report() {
        for reason in Reason::ALL {
            let (failure, early) = recorded(|| failure(reason));
            assert!(early.is_empty(), "logged on the way up: {early:?}");
            let (_, events) = reported("req-81", &failure);
            assert_eq!(events.len(), 1, "events of one report: {events:#?}");
            let (_, late) = recorded(|| {
                exit_code(&failure);
                drop(failure);
            });
            assert!(late.is_empty(), "logged after the report: {late:?}");
        }
    }

    #[test]
    fn the_event_tells_the_request_and_the_reason() {
        for reason in Reason::ALL {
            for id in ["req-81", "req-82"] {
                let event = event(id, &failure(reason));
                assert_eq!(event.text("request_id"), id, "in {event:#?}");
                let name = reason.row().name;
                assert_eq!(event.text("reason"), name, "in {event:#?}");
            }
        }
    }

    #[test]
    fn the_event_tells_every_cause_once_and_in_order() {
        for reason in Reason::ALL {
            let long = event("req-81", &failure(reason));
            assert_eq!(long.text("chain"), SECRETS.join(": "), "in {long:#?}");

            let bare = event("req-81", &Failure::new(reason, SECRETS[0]));
            assert_eq!(bare.text("chain"), SECRETS[0], "in {bare:#?}");
        }
    }

    #[test]
    fn faults_of_the_service_are_errors_and_the_caller_s_are_not() {
        for (reason, level) in [
            (Reason::NotFound, Level::INFO),
            (Reason::InvalidArgument, Level::INFO),
            (Reason::AlreadyExists, Level::INFO),
            (Reason::Busy, Level::ERROR),
            (Reason::Unavailable, Level::ERROR),
            (Reason::DeadlineExceeded, Level::ERROR),
            (Reason::Internal, Level::ERROR),
        ] {
            let event = event("req-81", &failure(reason));
            assert_eq!(event.level, level, "the level of {reason:?}");
        }
    }
}

/// A failure whose every link has something to hide: two were added on the way
/// up, and two are the cause and its own source.
fn failure(reason: Reason) -> Failure {
    let driver = Driver { text: SECRETS[3], source: None };
    let cause = Driver { text: SECRETS[2], source: Some(Box::new(driver)) };
    Failure::new(reason, cause).context(SECRETS[1]).context(SECRETS[0])
}

/// The causes, outermost first.
fn below(failure: &Failure) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let first = failure.source();
    // Bounded: a `source` that returns its own error makes a chain without end.
    std::iter::successors(first, |&link| link.source()).take(16)
}

/// Stands for a driver's error.
#[derive(Debug)]
struct Driver {
    text: &'static str,
    source: Option<BoxError>,
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

impl Error for Driver {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

fn reported(request_id: &str, failure: &Failure) -> (Reply, Vec<Seen>) {
    recorded(|| report(request_id, failure))
}

/// The one event of a report.
fn event(request_id: &str, failure: &Failure) -> Seen {
    let (_, mut events) = reported(request_id, failure);
    assert_eq!(events.len(), 1, "events of one report: {events:#?}");
    events.remove(0)
}

/// What `run` returns, and the events that it logs on this thread.
fn recorded<T>(run: impl FnOnce() -> T) -> (T, Vec<Seen>) {
    let recorder = Recorder::default();
    let events = Arc::clone(&recorder.events);
    let returned = with_default(recorder, run);
    let events = std::mem::take(&mut *events.lock().unwrap());
    (returned, events)
}

#[derive(Debug)]
struct Seen {
    level: Level,
    fields: BTreeMap<&'static str, String>,
}

impl Seen {
    fn text(&self, field: &str) -> &str {
        self.fields.get(field).map_or("(no such field)", String::as_str)
    }
}

impl Visit for Seen {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }
}

/// Records every event, whatever its level, and no span.
#[derive(Default)]
struct Recorder {
    events: Arc<Mutex<Vec<Seen>>>,
}

impl Subscriber for Recorder {
    // Not `always`, nor the `never` of a thread that records nothing: the
    // answer is cached for all threads, and the other tests run on those.
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn event(&self, event: &Event<'_>) {
        let level = *event.metadata().level();
        let mut seen = Seen { level, fields: BTreeMap::new() };
        event.record(&mut seen);
        self.events.lock().unwrap().push(seen);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

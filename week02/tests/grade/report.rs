use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::{fmt, io};

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

/// Links that repeat their neighbours, or a part of them.
const ECHOES: [&str; 4] = [
    "cannot read: the row is locked",
    "the row is locked",
    "the row is locked",
    "locked",
];

/// The request's id is whatever the request says that it is.
const IDS: [&str; 2] = ["req-81", "Req-9F3C-0000000000000000000000000082"];

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
            assert!(
                messages.insert(message),
                "{name} has the message of another reason: {message}"
            );
        }
    }
}

mod chain {
    use super::*;

    #[test]
    fn a_context_is_one_link_above_what_it_is_added_to() {
        for reason in Reason::ALL {
            for links in [SECRETS.to_vec(), ECHOES.repeat(5)] {
                let failure = linked(reason, &links);
                let seen = below(&failure).map(ToString::to_string);

                assert_eq!(failure.reason(), reason, "the reason, in the end");
                assert_eq!(seen.collect::<Vec<_>>(), links, "outermost first");
                let made_from = below(&failure).skip(links.len() / 2);
                for link in made_from {
                    assert!(
                        link.is::<Driver>(),
                        "no longer a `Driver` to a downcast: {link:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_failure_below_another_is_one_link() {
        for reason in Reason::ALL {
            let inner = Failure::new(reason, SECRETS[2]).context(SECRETS[1]);
            let outer = Failure::new(Reason::Busy, inner).context(SECRETS[0]);
            let seen = below(&outer).map(ToString::to_string);

            assert_eq!(outer.reason(), Reason::Busy, "the outer reason counts");
            let message = reason.row().message;
            let links = [SECRETS[0], message, SECRETS[1], SECRETS[2]];
            assert_eq!(seen.collect::<Vec<_>>(), links, "outermost first");
            let inner =
                below(&outer).find_map(|it| it.downcast_ref::<Failure>());
            let inner = inner.expect("the inner failure is found");
            assert_eq!(inner.reason(), reason, "the inner reason is kept");
        }
    }
}

mod client {
    use std::process::ExitCode;

    use super::*;

    #[test]
    fn the_reply_is_the_row_and_the_request_s_id() {
        for reason in Reason::ALL {
            for id in IDS {
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
            let other = Failure::new(reason, "another cause");
            let (expected, _) = reported("req-81", &other);
            for failure in failures(reason) {
                let shown = failure.to_string();
                assert_eq!(shown, reason.row().message, "the Display");

                let (reply, _) = reported("req-81", &failure);
                let shown = format!("{reply:?}");
                for secret in SECRETS {
                    let hidden = !shown.contains(secret);
                    assert!(hidden, "`{secret}` is in {shown}");
                }
                assert_eq!(reply, expected, "two failures, one reason");
            }
        }
    }

    #[test]
    fn a_command_exits_with_the_code_of_its_row() {
        for reason in Reason::ALL {
            let Row { name, exit, .. } = reason.row();
            for failure in failures(reason) {
                let seen = exit_code(&failure);
                assert_eq!(seen, ExitCode::from(exit), "the code of {name}");
            }
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
                let row = failure.reason().row();
                let links = below(&failure).map(|link| format!("{link}"));
                let read = format!("{failure} {failure:?} {row:?}");
                drop((links.collect::<Vec<_>>(), read, failure));
            });
            assert!(late.is_empty(), "logged by whoever reads it: {late:?}");
        }
    }

    #[test]
    fn the_event_tells_the_request_and_the_reason() {
        for reason in Reason::ALL {
            for id in IDS {
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
            let one = SECRETS[..1].to_vec();
            for links in [one, SECRETS.to_vec(), ECHOES.repeat(5)] {
                let event = event("req-81", &linked(reason, &links));
                let chain = event.text("chain");
                assert_eq!(chain, links.join(": "), "in {event:#?}");
            }
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
            for failure in failures(reason) {
                let event = event("req-81", &failure);
                assert_eq!(event.level, level, "the level of {reason:?}");
            }
        }
    }
}

/// A failure whose every link has something to hide.
fn failure(reason: Reason) -> Failure {
    linked(reason, &SECRETS)
}

/// A failure with these links. The upper half was added on the way up, the
/// lower half is the cause and its own sources.
fn linked(reason: Reason, links: &[&'static str]) -> Failure {
    let (contexts, causes) = links.split_at(links.len() / 2);
    let cause = causes.iter().rev().fold(None, |source, text| {
        Some(BoxError::from(Driver { text, source }))
    });
    let failure = Failure::new(reason, cause.expect("one link at least"));
    contexts.iter().rev().fold(failure, |it, &text| it.context(text))
}

/// One reason, and every kind of cause that might talk somebody out of it.
fn failures(reason: Reason) -> Vec<Failure> {
    let mut failures = vec![
        failure(reason),
        Failure::new(reason, format!("invalid name: {}", SECRETS[3])),
        Failure::new(reason, "seven".parse::<i64>().unwrap_err()),
        Failure::new(reason, io::Error::from(io::ErrorKind::NotFound)),
        Failure::new(reason, io::Error::other(SECRETS[2])),
        Failure::new(reason, sqlx::Error::RowNotFound),
        Failure::new(reason, sqlx::Error::Protocol(SECRETS[1].to_owned())),
        Failure::new(reason, sqlx::Error::PoolTimedOut).context(SECRETS[0]),
    ];
    let below = Reason::ALL.map(|inner| Failure::new(reason, failure(inner)));
    failures.extend(below);
    failures
}

/// The causes, outermost first.
fn below(failure: &Failure) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let first = failure.source();
    // Bounded: a `source` that returns its own error makes a chain without end.
    std::iter::successors(first, |&link| link.source()).take(64)
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

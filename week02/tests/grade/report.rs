use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::{fmt, io};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{Interest, with_default};
use tracing::{Event, Level, Metadata, Subscriber};
use week02::report::{
    BoxError, Failure, Reason, Reply, StatusRow, exit_code, report,
};

/// Texts that no client may see: SQL, a password, a path, a row.
const SECRETS: [&str; 4] = [
    "SELECT name FROM accounts WHERE id = $1",
    "postgres://comments:hunter2@db.internal/comments",
    "/var/lib/comments/comments.db is locked",
    "row 70001 of accounts",
];

/// Links whose texts are equal, or contain one another. `chain` keeps them all.
const REPEATS: [&str; 4] = [
    "cannot read: the row is locked",
    "the row is locked",
    "the row is locked",
    "locked",
];

/// Request ids of different formats. The reply and the event keep them as is.
const REQUEST_IDS: [&str; 2] =
    ["req-81", "Req-9F3C-0000000000000000000000000082"];

mod table {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_failure_reason_has_the_status_listed_for_it_in_the_stub() {
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
            assert_eq!(row.name, name, "the name in the row of {reason:?}");
            assert_eq!(row.http, http, "the HTTP status in the row of {name}");
            assert_eq!(row.grpc, grpc, "the gRPC code in the row of {name}");
            assert_eq!(row.exit, exit, "the exit code in the row of {name}");
            assert_eq!(
                row.retryable, retryable,
                "`retryable` in the row of {name}"
            );
            let message = row.message;
            assert!(
                !message.trim().is_empty(),
                "expected a message in the row of {name}, got {message:?}"
            );
            assert!(
                messages.insert(message),
                "{name} and another reason have the same message: {message:?}"
            );
        }
    }
}

mod chain {
    use super::*;

    #[test]
    fn context_adds_one_source_link_and_keeps_the_type_of_every_cause() {
        for reason in Reason::ALL {
            for links in [SECRETS.to_vec(), REPEATS.repeat(5)] {
                let failure = failure_with_links(reason, &links);
                let seen = sources(&failure).map(ToString::to_string);

                assert_eq!(
                    failure.reason(),
                    reason,
                    "the reason after {} contexts",
                    links.len() / 2
                );
                assert_eq!(
                    seen.collect::<Vec<_>>(),
                    links,
                    "the texts of the source chain, outermost first"
                );
                let causes = sources(&failure).skip(links.len() / 2);
                for cause in causes {
                    assert!(
                        cause.is::<DriverError>(),
                        "expected a downcast to `DriverError` to succeed, \
                         got {cause:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_failure_wrapped_in_a_failure_is_its_source_and_keeps_its_reason() {
        for reason in Reason::ALL {
            let inner = Failure::new(reason, SECRETS[2]).context(SECRETS[1]);
            let outer = Failure::new(Reason::Busy, inner).context(SECRETS[0]);
            let seen = sources(&outer).map(ToString::to_string);

            assert_eq!(
                outer.reason(),
                Reason::Busy,
                "the reason of the outer failure"
            );
            let message = reason.row().message;
            let links = [SECRETS[0], message, SECRETS[1], SECRETS[2]];
            assert_eq!(
                seen.collect::<Vec<_>>(),
                links,
                "the texts of the source chain, outermost first"
            );
            let inner =
                sources(&outer).find_map(|it| it.downcast_ref::<Failure>());
            let inner = inner.unwrap_or_else(|| {
                panic!(
                    "expected a downcast to find the wrapped failure, \
                     got {outer:?}"
                )
            });
            assert_eq!(
                inner.reason(),
                reason,
                "the reason of the wrapped failure"
            );
        }
    }
}

mod client {
    use std::process::ExitCode;

    use super::*;

    #[test]
    fn the_reply_has_the_request_id_and_the_status_of_its_reason() {
        for reason in Reason::ALL {
            for id in REQUEST_IDS {
                let (reply, _) = report_recorded(id, &failure(reason));
                let StatusRow { name, http, retryable, message, .. } =
                    reason.row();

                assert_eq!(
                    reply.request_id, id,
                    "the request id in the reply to {name}"
                );
                assert_eq!(
                    reply.reason, name,
                    "the reason in the reply to {name}"
                );
                assert_eq!(
                    reply.http, http,
                    "the HTTP status in the reply to {name}"
                );
                assert_eq!(
                    reply.retryable, retryable,
                    "`retryable` in the reply to {name}"
                );
                assert_eq!(
                    reply.message, message,
                    "the message in the reply to {name}"
                );
            }
        }
    }

    #[test]
    fn the_reply_and_the_displayed_failure_contain_nothing_from_the_sources() {
        for reason in Reason::ALL {
            let other = Failure::new(reason, "another cause");
            let (expected, _) = report_recorded("req-81", &other);
            for failure in failures(reason) {
                let display = failure.to_string();
                assert_eq!(
                    display,
                    reason.row().message,
                    "the Display of a failure with reason {reason:?}"
                );

                let (reply, _) = report_recorded("req-81", &failure);
                let shown = format!("{reply:?}");
                for secret in SECRETS {
                    assert!(
                        !shown.contains(secret),
                        "the reply contains `{secret}` from the chain: {shown}"
                    );
                }
                assert_eq!(
                    reply, expected,
                    "the replies to two failures with reason {reason:?}"
                );
            }
        }
    }

    #[test]
    fn exit_code_returns_the_exit_code_of_the_failure_reason() {
        for reason in Reason::ALL {
            let StatusRow { name, exit, .. } = reason.row();
            for failure in failures(reason) {
                let seen = exit_code(&failure);
                assert_eq!(
                    seen,
                    ExitCode::from(exit),
                    "the exit code for {name}"
                );
            }
        }
    }
}

mod log {
    use super::*;

    #[test]
    fn only_the_function_report_logs_a_failure_and_it_logs_it_once() {
        for reason in Reason::ALL {
            let (failure, early) = record_events(|| failure(reason));
            assert!(
                early.is_empty(),
                "expected no event from `new` or `context`, got {early:#?}"
            );
            let (_, events) = report_recorded("req-81", &failure);
            assert_eq!(
                events.len(),
                1,
                "the number of events that `report` logged: {events:#?}"
            );
            let (_, late) = record_events(|| {
                exit_code(&failure);
                let row = failure.reason().row();
                let links = sources(&failure).map(|link| format!("{link}"));
                let read = format!("{failure} {failure:?} {row:?}");
                drop((links.collect::<Vec<_>>(), read, failure));
            });
            assert!(
                late.is_empty(),
                "expected no event from `exit_code`, from the methods of the \
                 failure or from its drop, got {late:#?}"
            );
        }
    }

    #[test]
    fn the_log_event_has_the_request_id_and_the_reason_as_plain_text() {
        for reason in Reason::ALL {
            for id in REQUEST_IDS {
                let event = event(id, &failure(reason));
                assert_eq!(
                    event.field("request_id"),
                    id,
                    "the field `request_id` of {event:#?}"
                );
                assert_eq!(
                    event.field("reason"),
                    reason.row().name,
                    "the field `reason` of {event:#?}"
                );
            }
        }
    }

    #[test]
    fn the_log_event_lists_each_cause_one_time_from_outermost_to_innermost() {
        for reason in Reason::ALL {
            let one = SECRETS[..1].to_vec();
            for links in [one, SECRETS.to_vec(), REPEATS.repeat(5)] {
                let failure = failure_with_links(reason, &links);
                let event = event("req-81", &failure);
                assert_eq!(
                    event.field("chain"),
                    links.join(": "),
                    "the field `chain` of {event:#?}"
                );
            }
        }
    }

    #[test]
    fn server_errors_are_logged_at_error_and_client_errors_at_info() {
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
                assert_eq!(
                    event.level, level,
                    "the level of the event for {reason:?}"
                );
            }
        }
    }
}

/// Returns a failure whose links all contain secrets.
fn failure(reason: Reason) -> Failure {
    failure_with_links(reason, &SECRETS)
}

/// Returns a failure with these links. The upper half are contexts, the lower
/// half is the cause and its own sources.
fn failure_with_links(reason: Reason, links: &[&'static str]) -> Failure {
    let (contexts, causes) = links.split_at(links.len() / 2);
    let cause = causes.iter().rev().fold(None, |source, text| {
        Some(BoxError::from(DriverError { text, source }))
    });
    let failure = Failure::new(reason, cause.expect("at least one link"));
    contexts.iter().rev().fold(failure, |it, &text| it.context(text))
}

/// Returns failures with one reason and different kinds of causes. None of the
/// causes may change the reply, the exit code or the level.
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
    let wrapped = Reason::ALL.map(|inner| Failure::new(reason, failure(inner)));
    failures.extend(wrapped);
    failures
}

/// Iterates over the source chain, outermost first.
fn sources(failure: &Failure) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let first = failure.source();
    // Limited: if `source` returns its own error, the chain has no end.
    std::iter::successors(first, |&link| link.source()).take(64)
}

/// An error of a driver, with a text and a source of its own.
#[derive(Debug)]
struct DriverError {
    text: &'static str,
    source: Option<BoxError>,
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

impl Error for DriverError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Calls `report`. Returns the reply and the events that it logs.
fn report_recorded(
    request_id: &str,
    failure: &Failure,
) -> (Reply, Vec<LoggedEvent>) {
    record_events(|| report(request_id, failure))
}

/// Calls `report`. Returns the only event that it logs.
fn event(request_id: &str, failure: &Failure) -> LoggedEvent {
    let (_, mut events) = report_recorded(request_id, failure);
    assert_eq!(
        events.len(),
        1,
        "the number of events that `report` logged: {events:#?}"
    );
    events.remove(0)
}

/// Calls `run`. Returns its result and the events that it logs on this thread.
fn record_events<T>(run: impl FnOnce() -> T) -> (T, Vec<LoggedEvent>) {
    let recorder = Recorder::default();
    let events = Arc::clone(&recorder.events);
    let returned = with_default(recorder, run);
    let events = std::mem::take(&mut *events.lock().unwrap());
    (returned, events)
}

/// The level and the fields of a recorded event.
#[derive(Debug)]
struct LoggedEvent {
    level: Level,
    fields: BTreeMap<&'static str, String>,
}

impl LoggedEvent {
    fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("(no such field)", String::as_str)
    }
}

impl Visit for LoggedEvent {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }
}

/// Records every event of any level, and no spans.
#[derive(Default)]
struct Recorder {
    events: Arc<Mutex<Vec<LoggedEvent>>>,
}

impl Subscriber for Recorder {
    // Neither `always` nor `never`: tracing caches the answer for all threads,
    // and other tests run on other threads, with recorders of their own.
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn event(&self, event: &Event<'_>) {
        let level = *event.metadata().level();
        let mut logged = LoggedEvent { level, fields: BTreeMap::new() };
        event.record(&mut logged);
        self.events.lock().unwrap().push(logged);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

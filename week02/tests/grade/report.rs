use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::{fmt, io};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{Interest, with_default};
use tracing::{Event, Level, Metadata, Subscriber};
use week02::report::{
    BoxError, Failure, Reason, Reply, StatusRow, exit_code, report, respond,
};

/// The status table of the stub, and the level of each reason's event.
#[rustfmt::skip]
const TABLE: [(Reason, &str, u16, i32, u8, bool, Level); 8] = [
    (Reason::NotFound, "NOT_FOUND", 404, 5, 66, false, Level::INFO),
    (Reason::InvalidArgument, "INVALID_ARGUMENT", 400, 3, 65, false, Level::INFO),
    (Reason::AlreadyExists, "ALREADY_EXISTS", 409, 6, 73, false, Level::INFO),
    (Reason::Busy, "BUSY", 503, 14, 75, true, Level::ERROR),
    (Reason::Unavailable, "UNAVAILABLE", 503, 14, 75, true, Level::ERROR),
    (Reason::DeadlineExceeded, "DEADLINE_EXCEEDED", 504, 4, 69, false, Level::ERROR),
    (Reason::Cancelled, "CANCELLED", 499, 1, 130, false, Level::INFO),
    (Reason::Internal, "INTERNAL", 500, 13, 70, false, Level::ERROR),
];

/// Texts of links. Some are equal, or end with one another.
const TEXTS: [&str; 13] = [
    "SELECT name FROM accounts WHERE id = $1",
    "cannot read: the row is locked",
    "the row is locked",
    "the row is locked",
    "",
    "",
    " padded \t",
    "two\r\nlines: \u{1b}[31mred\u{1b}[0m",
    "postgres://comments:hunter2@db.internal/comments",
    "\"quoted\", 'quoted', \\, %s, {}, {0}",
    ": ",
    "Zoë 読む 🔒\0",
    "Locked",
];

const REQUEST_IDS: [&str; 8] = [
    "req-81",
    "",
    " ",
    "Req-9F3C-00000000000000000000000000000000000000000000000000000082-\
     00000000000000000000000000000000000000000000000000000000000000000\
     0000000000000000000000000000000000000000000000000000000000000008A",
    "\"req\"-'81'\\n",
    "%7B{id}",
    "req\t81\n\u{1b}[31m",
    "é-錠-🔒",
];

mod table {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_failure_reason_has_the_status_listed_for_it_in_the_stub() {
        let mut messages = BTreeSet::new();
        for (reason, name, http, grpc, exit, retryable, _) in TABLE {
            let row = reason.row();
            let message = row.message;
            let expected =
                StatusRow { name, http, grpc, exit, retryable, message };
            assert_eq!(row, expected, "the row of {reason:?}");
            assert!(
                !message.trim().is_empty(),
                "expected a message in the row of {name}, got {message:?}"
            );
            assert!(
                messages.insert(message),
                "{name} and another reason have the same message: {message:?}"
            );
            assert!(Reason::ALL.contains(&reason), "{reason:?} is not in ALL");
        }
    }
}

mod chain {
    use super::*;

    #[test]
    fn context_adds_one_source_link_and_changes_no_other_link() {
        for case in cases() {
            let reason = case.failure.reason();
            assert_eq!(reason, case.reason, "the reason of the failure");
            let seen: Vec<_> =
                sources(&case.failure).map(ToString::to_string).collect();
            for (n, (seen, expected)) in
                seen.iter().zip(&case.links).enumerate()
            {
                assert_eq!(
                    seen, expected,
                    "the text of source {n}, counted from the outermost"
                );
            }
            let expected = case.links.len();
            assert_eq!(seen.len(), expected, "the length of the source chain");
        }
    }

    #[test]
    fn a_downcast_finds_every_cause_with_its_original_type() {
        for case in cases() {
            for (n, link) in sources(&case.failure).enumerate() {
                match case.types[n] {
                    Type::Context => {}
                    Type::Failure(reason) => {
                        let found = link.downcast_ref::<Failure>();
                        let found = found.map(Failure::reason);
                        assert_eq!(
                            found,
                            Some(reason),
                            "the reason of the wrapped failure at source {n}"
                        );
                    }
                    Type::Cause(address) => {
                        let found = link.downcast_ref::<DriverError>();
                        let found = found.map(|it| Arc::as_ptr(&it.text));
                        assert!(
                            found.is_some_and(|it| it.addr() == address),
                            "expected the DriverError passed to `new` at \
                             source {n}, got {link}"
                        );
                    }
                }
            }
        }
        for reason in Reason::ALL {
            let row = Failure::new(reason, sqlx::Error::RowNotFound);
            let io = Failure::new(reason, io::Error::from_raw_os_error(104));
            let boxed = BoxError::from("x".parse::<i64>().unwrap_err());
            let boxed = Failure::new(reason, boxed).context("boxed");
            let seen = (
                sources(&row).any(|it| it.is::<sqlx::Error>()),
                sources(&io)
                    .filter_map(|it| it.downcast_ref::<io::Error>())
                    .find_map(io::Error::raw_os_error),
                sources(&boxed).any(|it| it.is::<std::num::ParseIntError>()),
            );
            assert_eq!(
                seen,
                (true, Some(104), true),
                "downcasts to sqlx::Error, to io::Error with error number 104, \
                 and to a boxed ParseIntError"
            );
        }
    }
}

mod client {
    use std::process::ExitCode;

    use super::*;

    #[test]
    fn the_reply_has_only_the_request_id_and_the_status_of_its_reason() {
        for case in cases() {
            let (reply, _) = report_recorded(case.id, &case.failure);
            assert_eq!(
                reply,
                expected_reply(case.id, case.reason),
                "the reply to a failure with reason {:?}",
                case.reason
            );
        }
        for reason in Reason::ALL {
            for failure in failures(reason) {
                let (reply, _) = report_recorded("req-81", &failure);
                let expected = expected_reply("req-81", reason);
                assert_eq!(reply, expected, "the reply to {failure:?}");
            }
        }
    }

    #[test]
    fn the_displayed_failure_is_only_the_message_of_its_reason() {
        let few = Reason::ALL.into_iter().flat_map(failures);
        for failure in cases().into_iter().map(|it| it.failure).chain(few) {
            let message = failure.reason().row().message;
            for display in [format!("{failure}"), format!("{failure:#}")] {
                assert_eq!(
                    display,
                    message,
                    "the Display of a failure with reason {:?}",
                    failure.reason()
                );
            }
        }
    }

    #[test]
    fn exit_code_returns_the_exit_code_of_the_failure_reason() {
        for (reason, name, _, _, exit, ..) in TABLE {
            for failure in failures(reason) {
                let seen = exit_code(&failure);
                assert_eq!(
                    seen,
                    ExitCode::from(exit),
                    "the exit code for {name}"
                );
            }
        }
        for case in cases() {
            let exit = case.reason.row().exit;
            assert_eq!(
                exit_code(&case.failure),
                ExitCode::from(exit),
                "the exit code for {:?}",
                case.reason
            );
        }
    }
}

mod log {
    use std::env;
    use std::future::poll_fn;
    use std::pin::{Pin, pin};
    use std::process::Command;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Context, Poll, Wake, Waker};

    use super::*;

    const CHILD: &str = "WEEK02_PRINTS_NOTHING";

    #[test]
    fn only_the_function_report_logs_a_failure_and_it_logs_it_once() {
        for reason in Reason::ALL {
            let (failures, early) = record_events(|| failures(reason));
            assert!(
                early.is_empty(),
                "expected no event from `new` or `context`, got {early:#?}"
            );
            for failure in failures {
                // The second report of the same failure is one event, too.
                event("req-81", &failure);
                event("req-81", &failure);
                let (_, late) = record_events(|| {
                    exit_code(&failure);
                    let row = failure.reason().row();
                    let links = sources(&failure).map(|link| format!("{link}"));
                    let read = format!("{failure} {failure:?} {row:?}");
                    drop((links.collect::<Vec<_>>(), read, failure));
                });
                assert!(
                    late.is_empty(),
                    "expected no event from `exit_code`, from the methods of \
                     the failure or from its drop, got {late:#?}"
                );
            }
        }
    }

    #[test]
    fn a_failure_is_printed_neither_to_stdout_nor_to_stderr() {
        // The test harness prints, too, so the failures are in a child process.
        if env::var_os(CHILD).is_some() {
            println!("\n{CHILD}");
            for reason in Reason::ALL {
                for failure in failures(reason) {
                    report("req-81", &failure.context("read accounts"));
                }
                let mut request = Box::pin(respond("req-81", async {
                    std::future::pending::<()>().await;
                    Ok(())
                }));
                assert!(poll(request.as_mut()).is_pending());
            }
            println!("\n{CHILD}");
            return;
        }
        let (_crate, module) = module_path!().split_once("::").unwrap();
        let test = format!(
            "{module}::a_failure_is_printed_neither_to_stdout_nor_to_stderr"
        );
        let mut child = Command::new(env::current_exe().unwrap());
        child.args(["--exact", &test, "--nocapture", "--include-ignored"]);
        let output = child.env(CHILD, "1").output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && stderr.is_empty(),
            "expected nothing on stderr, got: {stderr}"
        );
        let stdout = String::from_utf8_lossy(&output.stdout);
        let printed = stdout.split(CHILD).nth(1).expect("the text in between");
        assert_eq!(printed.trim(), "", "the text on stdout");
    }

    #[test]
    fn the_log_event_has_the_request_id_and_the_reason_as_plain_text() {
        for case in cases() {
            let event = event(case.id, &case.failure);
            let seen = (event.field("request_id"), event.field("reason"));
            assert_eq!(
                seen,
                (case.id, case.reason.row().name),
                "the fields `request_id` and `reason`"
            );
        }
    }

    #[test]
    fn the_log_event_lists_each_cause_one_time_from_outermost_to_innermost() {
        for case in cases() {
            let event = event(case.id, &case.failure);
            let (seen, expected) =
                (event.field("chain"), case.links.join(": "));
            let same = seen
                .bytes()
                .zip(expected.bytes())
                .take_while(|(seen, expected)| seen == expected)
                .count();
            let around = |text: &str| {
                let bytes = text.as_bytes();
                let end = bytes.len().min(same + 80);
                String::from_utf8_lossy(&bytes[same.min(end)..end]).into_owned()
            };
            assert!(
                seen == expected,
                "the field `chain` for {} links differs from byte {same} on: \
                 expected {:?}…, seen {:?}…",
                case.links.len(),
                around(&expected),
                around(seen)
            );
        }
    }

    #[test]
    fn server_errors_are_logged_at_error_and_client_errors_at_info() {
        for (reason, .., level) in TABLE {
            for failure in failures(reason) {
                assert_eq!(
                    event("req-81", &failure).level,
                    level,
                    "the level of the event for {reason:?}"
                );
            }
        }
        for case in cases() {
            let (.., level) =
                *TABLE.iter().find(|it| it.0 == case.reason).unwrap();
            assert_eq!(
                event(case.id, &case.failure).level,
                level,
                "the level of the event for {:?}",
                case.reason
            );
        }
    }

    #[test]
    fn a_dropped_request_is_logged_once_as_cancelled_at_info() {
        for (pauses, id) in [1, 2, 17].into_iter().zip(REQUEST_IDS) {
            for polls in 0..=pauses {
                let alive = Arc::new(());
                let handler = pausing(pauses, &alive, || Ok(()));
                let mut dropped = Box::pin(send(respond(id, handler)));
                let handler = pausing(polls, &alive, || Ok(()));
                let mut other = Box::pin(send(respond("other", handler)));
                let (_, events) = record_events(|| {
                    for _ in 0..polls {
                        assert!(poll(dropped.as_mut()).is_pending());
                        assert!(poll(other.as_mut()).is_pending());
                    }
                });
                assert!(
                    events.is_empty(),
                    "events before the drop: {events:?}"
                );

                let (_, events) = record_events(|| drop(dropped));
                let seen: Vec<_> = events
                    .iter()
                    .map(|it| {
                        (it.level, it.field("reason"), it.field("request_id"))
                    })
                    .collect();
                // A handler that was never polled has done nothing.
                let expected = [(Level::INFO, "CANCELLED", id)];
                assert_eq!(
                    seen,
                    expected[..expected.len().min(polls as usize)],
                    "the events after a drop at await {polls} of {pauses}"
                );
                assert!(
                    events.iter().all(|it| it.fields.contains_key("chain")),
                    "no field `chain` in {events:?}"
                );
                let left = Arc::strong_count(&alive);
                assert_eq!(left, 2, "expected the drop to drop the handler");

                let (_, events) = record_events(|| {
                    assert!(poll(other.as_mut()).is_ready());
                    drop(other);
                });
                assert!(
                    events.is_empty(),
                    "expected no event for a request that succeeded after \
                     another was dropped, got {events:?}"
                );
            }
        }
    }

    #[test]
    fn a_failed_handler_is_reported_once_and_a_successful_one_is_not_logged() {
        for pauses in [0, 1, 2, 17] {
            let alive = Arc::new(());
            for (reason, id) in Reason::ALL.into_iter().zip(REQUEST_IDS) {
                for failure in failures(reason) {
                    let expected = event(id, &failure);
                    let handler =
                        pausing(pauses, &alive, || Err::<(), _>(failure));
                    let (result, events) =
                        record_events(|| complete(respond(id, handler)));
                    let reply = expected_reply(id, reason);
                    assert_eq!(result, Err(reply), "the result of `respond`");
                    assert_eq!(events, [expected], "the events of `respond`");
                }
                let handler = pausing(pauses, &alive, || Ok(id.to_owned()));
                let (result, events) =
                    record_events(|| complete(respond(id, handler)));
                assert_eq!(
                    result,
                    Ok(id.to_owned()),
                    "the value of the handler"
                );
                assert!(
                    events.is_empty(),
                    "expected no event for a handler that succeeds, got \
                     {events:?}"
                );
            }
        }
    }

    #[test]
    fn a_panic_of_the_handler_is_passed_on_and_not_logged_as_cancelled() {
        use std::panic::{AssertUnwindSafe, catch_unwind};

        for pauses in [0, 1, 2, 17] {
            let alive = Arc::new(());
            let handler = pausing(pauses, &alive, || -> Result<(), Failure> {
                std::panic::panic_any("on purpose: a bug in the handler")
            });
            let mut request = Box::pin(respond("req-81", handler));
            let (payload, events) = record_events(|| {
                for _ in 0..pauses {
                    assert!(poll(request.as_mut()).is_pending());
                }
                let last = AssertUnwindSafe(|| poll(request.as_mut()));
                let payload = catch_unwind(last).expect_err("a panic");
                // A runtime drops the task after it has caught the panic.
                drop(request);
                payload
            });
            assert_eq!(
                payload.downcast_ref(),
                Some(&"on purpose: a bug in the handler"),
                "the payload of the panic"
            );
            assert!(events.is_empty(), "events after the panic: {events:?}");
        }
    }

    fn send<F: Future + Send>(future: F) -> F {
        future
    }

    fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    /// Polls a future until it completes, and drops it. Polls it again only if
    /// the handler has woken the task.
    fn complete<F: Future>(future: F) -> F::Output {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut future = pin!(future);
        for _ in 0..100 {
            let mut context = Context::from_waker(&waker);
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return output;
            }
            let woken = woken.0.swap(false, Ordering::Relaxed);
            assert!(woken, "`respond` hid the task's waker from the handler");
        }
        panic!("`respond` is pending after 100 polls, its handler after 17");
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// A handler that is pending `pauses` times. It has a clone of `alive`.
    fn pausing<T>(
        mut pauses: u32,
        alive: &Arc<()>,
        result: impl FnOnce() -> Result<T, Failure> + Send,
    ) -> impl Future<Output = Result<T, Failure>> + Send {
        let alive = Arc::clone(alive);
        async move {
            poll_fn(|context| {
                let waits = pauses > 0;
                pauses = pauses.saturating_sub(1);
                context.waker().wake_by_ref();
                if waits { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
            drop(alive);
            result()
        }
    }
}

/// A generated failure, and what a correct implementation makes of it.
struct Case {
    failure: Failure,
    id: &'static str,
    reason: Reason,
    /// The texts of the source chain, outermost first.
    links: Vec<String>,
    /// The types of the source chain.
    types: Vec<Type>,
}

enum Type {
    Context,
    /// A wrapped failure with this reason.
    Failure(Reason),
    /// A `DriverError` whose text is at this address.
    Cause(usize),
}

/// Generates failures with every reason and chains of many lengths. The links
/// are causes, then contexts and wrapped failures in any order.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let lengths = [1, 2, 3, 5, 17, 130, 1_500];
    for (n, length) in (0..8).flat_map(|_| lengths).enumerate() {
        cases.push(Case::generate(n, length));
    }
    cases
}

impl Case {
    fn generate(seed: usize, length: usize) -> Self {
        let mut state = seed as u64;
        let mut random = |end: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005) + 1;
            (state >> 33) as usize % end
        };
        // Neighbours in TEXTS are mostly neighbours in the chain.
        let start = random(TEXTS.len());
        let text = |n: usize| match n % 40 {
            39 => "long ".repeat(1_000),
            _ => TEXTS[(start + TEXTS.len() * length - n) % TEXTS.len()].into(),
        };
        let causes = 1 + random(length);
        let mut reason = Reason::ALL[seed / 7 % 8];

        let (mut links, mut types) = (Vec::new(), Vec::new());
        let mut cause = None;
        for n in 0..causes {
            let text: Arc<str> = text(n).into();
            links.push(text.to_string());
            types.push(Type::Cause(Arc::as_ptr(&text).addr()));
            cause = Some(BoxError::from(DriverError { text, source: cause }));
        }
        let mut failure = Failure::new(reason, cause.expect("a cause"));
        for n in causes..length {
            if random(3) == 0 {
                links.push(reason.row().message.to_owned());
                types.push(Type::Failure(reason));
                reason = Reason::ALL[random(8)];
                failure = Failure::new(reason, failure);
            } else {
                links.push(text(n));
                types.push(Type::Context);
                failure = failure.context(text(n));
            }
        }
        links.reverse();
        types.reverse();
        let id = REQUEST_IDS[(seed + seed / 7) % REQUEST_IDS.len()];
        Self { failure, id, reason, links, types }
    }
}

/// Returns failures with one reason and different kinds of causes. None of the
/// causes may change the reply, the exit code or the level.
fn failures(reason: Reason) -> Vec<Failure> {
    let mut failures = vec![
        Failure::new(reason, format!("invalid name: {}", TEXTS[9])),
        Failure::new(reason, "seven".parse::<i64>().unwrap_err()),
        Failure::new(reason, io::Error::from(io::ErrorKind::NotFound)),
        Failure::new(reason, io::Error::other(TEXTS[8])),
        Failure::new(reason, sqlx::Error::RowNotFound),
        Failure::new(reason, sqlx::Error::Protocol(TEXTS[8].to_owned())),
        Failure::new(reason, sqlx::Error::PoolTimedOut).context(TEXTS[0]),
        Failure::new(reason, "").context("").context(""),
    ];
    for inner in Reason::ALL {
        let inner = Failure::new(inner, TEXTS[0]).context(TEXTS[6]);
        failures.push(Failure::new(reason, inner));
    }
    failures
}

/// Returns the reply that the stub describes. It contains no cause.
fn expected_reply(request_id: &str, reason: Reason) -> Reply {
    let StatusRow { name, http, retryable, message, .. } = reason.row();
    let (message, request_id) = (message.to_owned(), request_id.to_owned());
    Reply { http, reason: name, message, retryable, request_id }
}

/// Iterates over the source chain, outermost first.
fn sources(failure: &Failure) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let first = failure.source();
    // Limited: if `source` returns its own error, the chain has no end.
    std::iter::successors(first, |&link| link.source()).take(2_000)
}

/// An error of a driver, with a text and a source of its own.
#[derive(Debug)]
struct DriverError {
    text: Arc<str>,
    source: Option<BoxError>,
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
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
#[derive(Debug, PartialEq)]
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

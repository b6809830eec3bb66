use std::collections::BTreeMap;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
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
    // "F" 9,000 times.
    if let Ok(id) = str::from_utf8(&[b'F'; 9_000]) { id } else { "" },
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
            for (n, (link, expected)) in
                sources(&case.failure).zip(&case.links).enumerate()
            {
                let seen = link.to_string();
                assert_text(&seen, expected, format_args!("link {n}"));
                if let Type::Context = case.types[n] {
                    let seen = format!("{link:#}");
                    let what = format_args!("link {n}, a context, with {{:#}}");
                    assert_text(&seen, expected, what);
                }
            }
            let seen = sources(&case.failure).count();
            assert_eq!(seen, case.links.len(), "the length of the chain");
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
                            "the reason of link {n}, a wrapped failure"
                        );
                    }
                    Type::Cause(address) => {
                        let query = link.downcast_ref();
                        let found = query.map(|QueryError::Driver(it)| it);
                        let found = found.or_else(|| link.downcast_ref());
                        let found = found.map(|it| Arc::as_ptr(&it.text));
                        assert!(
                            found.is_some_and(|it| it.addr() == address),
                            "expected link {n} to have the type and the text \
                             of the cause passed to `new`, got {link}"
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
        for (id, reason, failure) in requests() {
            assert_reply(&report(id, &failure), id, reason);
        }
    }

    #[test]
    fn the_displayed_failure_is_only_the_message_of_its_reason() {
        for (_, reason, failure) in requests() {
            let message = reason.row().message;
            for display in [format!("{failure}"), format!("{failure:#}")] {
                assert_eq!(display, message, "the Display for {reason:?}");
            }
        }
    }

    #[test]
    fn exit_code_returns_the_exit_code_of_the_failure_reason() {
        for (_, reason, failure) in requests() {
            let seen = exit_code(&failure);
            let expected = ExitCode::from(exit_and_level(reason).0);
            assert_eq!(seen, expected, "the exit code for {reason:?}");
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
    fn report_logs_one_event_for_a_failure_and_no_other_function_logs() {
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
                    let failure = failure.context("read accounts");
                    report("req-81", &failure);
                    exit_code(&failure);
                    let handler = async { Err::<(), _>(failure) };
                    assert!(complete(respond("req-81", handler)).is_err());
                }
                assert!(complete(respond("req-81", async { Ok(()) })).is_ok());
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
            "expected nothing on stderr, got: {stderr:.300}"
        );
        let stdout = String::from_utf8_lossy(&output.stdout);
        let printed = stdout.split(CHILD).nth(1).expect("two marks on stdout");
        assert_eq!(printed.trim(), "", "the text on stdout");
    }

    #[test]
    fn the_log_event_has_the_request_id_and_the_reason_as_plain_text() {
        for case in cases() {
            let event = event(case.id, &case.failure);
            let reason = case.reason.row().name;
            let fields = [("request_id", case.id), ("reason", reason)];
            for (name, expected) in fields {
                let what = format_args!("the field `{name}`");
                assert_text(event.field(name), expected, what);
            }
        }
    }

    #[test]
    fn the_log_event_lists_each_cause_one_time_from_outermost_to_innermost() {
        for case in cases() {
            let event = event(case.id, &case.failure);
            let (links, expected) = (case.links.len(), case.links.join(": "));
            let what = format_args!("the field `chain` for {links} links");
            assert_text(event.field("chain"), &expected, what);
        }
    }

    #[test]
    fn server_errors_are_logged_at_error_and_client_errors_at_info() {
        for (id, reason, failure) in requests() {
            let (_, level) = exit_and_level(reason);
            for lowest in [Level::TRACE, level] {
                let run = || report(id, &failure);
                let (_, events) = record_events_up_to(lowest, run);
                let seen: Vec<_> = events.iter().map(|it| it.level).collect();
                assert_eq!(
                    seen,
                    [level],
                    "the levels of the events for {reason:?}, if the lowest \
                     level that the subscriber enables is {lowest}"
                );
            }
        }
    }

    #[test]
    fn a_dropped_request_is_logged_once_as_cancelled_at_info() {
        for (n, id) in REQUEST_IDS.into_iter().enumerate() {
            let pauses = [1, 2, 17][n % 3];
            for polls in 0..=pauses {
                let alive = Arc::new(());
                let handler = pausing(pauses, &alive, || Ok(()));
                let mut dropped = Box::pin(send(respond(id, handler)));
                let handler = pausing(polls, &alive, || Ok(()));
                let mut other = Box::pin(send(respond(id, handler)));
                let (_, events) = record_events(|| {
                    for _ in 0..polls {
                        assert!(poll(dropped.as_mut()).is_pending());
                        assert!(poll(other.as_mut()).is_pending());
                    }
                });
                assert!(events.is_empty(), "events before drop: {events:?}");

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
        for (reason, id) in Reason::ALL.into_iter().zip(REQUEST_IDS) {
            for (n, failure) in failures(reason).into_iter().enumerate() {
                let (pauses, alive) = ([0, 1, 2, 17][n % 4], Arc::new(()));
                let expected = event(id, &failure);
                let handler = pausing(pauses, &alive, || Err::<(), _>(failure));
                let (result, events) =
                    record_events(|| complete(respond(id, handler)));
                let reply = result.expect_err("a reply if the handler fails");
                assert_reply(&reply, id, reason);
                assert_eq!(events, [expected], "the events of `respond`");

                let handler = pausing(pauses, &alive, || Ok(81));
                let (result, events) =
                    record_events(|| complete(send(respond(id, handler))));
                assert_eq!(result, Ok(81), "the handler's value");
                assert!(events.is_empty(), "events of a success: {events:?}");
            }
        }
    }

    #[test]
    fn a_panic_of_the_handler_is_passed_on_and_not_logged_as_cancelled() {
        for pauses in [0, 1, 2, 17] {
            let alive = Arc::new(());
            let handler = pausing(pauses, &alive, || -> Result<(), Failure> {
                panic_any(81_u32)
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
            let payload = payload.downcast_ref::<u32>();
            assert_eq!(payload, Some(&81), "the payload of the panic");
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
        panic!("`respond` is still pending after 100 polls, of at most 18");
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
    /// A `DriverError` whose text is at this address, or its `QueryError`.
    Cause(usize),
}

/// Generates failures with every reason and chains of many lengths. The links
/// are of every type, in any order, but no context is below a cause.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let lengths = (0..8).flat_map(|_| [1, 2, 3, 5, 17, 130, 1_500]);
    for (n, length) in lengths.chain([5_000]).enumerate() {
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
        let text = |n: usize| match n {
            _ if n % 400 == 39 => "long ".repeat(20_000),
            // All characters from U+0000 on, one at both ends of each text.
            _ if n / 20 % 2 == 1 => {
                let end = char::from_u32((n / 40 * 20 + n % 20) as u32);
                format!("{0}{n}{0}", end.unwrap())
            }
            _ => TEXTS[(start + TEXTS.len() * length - n) % TEXTS.len()].into(),
        };
        let causes = 1 + random(length);
        let mut reason = Reason::ALL[seed / 7 % 8];

        let (mut links, mut types) = (Vec::new(), Vec::new());
        let mut cause = None;
        for n in 0..causes {
            let text: Arc<str> = text(n).into();
            let address = Arc::as_ptr(&text).addr();
            links.push(text.to_string());
            types.push(Type::Cause(address));
            let driver = DriverError { text, source: cause };
            cause = Some(match random(5) {
                0 => {
                    links.push("the query failed".to_owned());
                    types.push(Type::Cause(address));
                    BoxError::from(QueryError::Driver(driver))
                }
                1 => {
                    let inner = Reason::ALL[random(8)];
                    links.push(inner.row().message.to_owned());
                    types.push(Type::Failure(inner));
                    BoxError::from(Failure::new(inner, driver))
                }
                _ => BoxError::from(driver),
            });
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
        Failure::new(reason, io::Error::other(TEXTS[8])),
        Failure::new(reason, sqlx::Error::RowNotFound),
        Failure::new(reason, sqlx::Error::Protocol(TEXTS[8].to_owned())),
        Failure::new(reason, sqlx::Error::PoolTimedOut).context(TEXTS[0]),
        Failure::new(reason, "").context("").context(""),
    ];
    // Every error number of Linux. A few kinds have none.
    let errors = (0..134).map(io::Error::from_raw_os_error);
    let kinds = [io::ErrorKind::UnexpectedEof, io::ErrorKind::WriteZero];
    let errors = errors.chain(kinds.map(io::Error::from));
    failures.extend(errors.map(|error| Failure::new(reason, error)));
    for inner in Reason::ALL {
        let inner = Failure::new(inner, TEXTS[0]).context(TEXTS[6]);
        failures.push(Failure::new(reason, inner));
    }
    failures
}

/// Returns the failures of `cases` and `failures`, each with a request id and
/// its reason.
fn requests() -> impl Iterator<Item = (&'static str, Reason, Failure)> {
    let cases = cases().into_iter().map(|it| (it.id, it.reason, it.failure));
    cases.chain(Reason::ALL.into_iter().flat_map(|reason| {
        let failures = failures(reason).into_iter();
        failures.map(move |failure| ("req-81", reason, failure))
    }))
}

/// Returns the exit code and the level that the stub lists for the reason.
fn exit_and_level(reason: Reason) -> (u8, Level) {
    let row = TABLE.iter().find(|row| row.0 == reason);
    let &(_, _, _, _, exit, _, level) = row.expect("a row for each reason");
    (exit, level)
}

/// Asserts that the reply has the request id, the row of the reason, and no
/// cause.
#[track_caller]
fn assert_reply(reply: &Reply, id: &str, reason: Reason) {
    assert_text(&reply.request_id, id, format_args!("the id in the reply"));
    let StatusRow { name, http, retryable, message, .. } = reason.row();
    let (message, request_id) = (message.to_owned(), id.to_owned());
    let expected = Reply { http, reason: name, message, retryable, request_id };
    assert_eq!(reply, &expected, "the reply to a failure with {reason:?}");
}

/// Iterates over the source chain, outermost first.
fn sources(failure: &Failure) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let first = failure.source();
    // Limited: if `source` returns its own error, the chain has no end.
    std::iter::successors(first, |&link| link.source()).take(20_000)
}

/// Asserts that the texts are equal. The message shows the first difference.
#[track_caller]
fn assert_text(seen: &str, expected: &str, what: fmt::Arguments<'_>) {
    let pairs = || seen.bytes().zip(expected.bytes());
    let same = || pairs().take_while(|(seen, right)| seen == right).count();
    let after = |text: &str| {
        let bytes = &text.as_bytes()[same()..];
        String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned()
    };
    assert!(
        seen == expected,
        "{what} differs from byte {} on: expected {:?}…, seen {:?}…",
        same(),
        after(expected),
        after(seen)
    );
}

/// An error of a driver, with a text and a source of its own.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct DriverError {
    text: Arc<str>,
    source: Option<BoxError>,
}

/// Has the address of its source. `{:#}` adds the source, as in `anyhow`.
#[derive(Debug, thiserror::Error)]
enum QueryError {
    #[error(fmt = query_failed)]
    Driver(#[source] DriverError),
}

fn query_failed(
    cause: &DriverError,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    f.write_str("the query failed")?;
    if f.alternate() { write!(f, ": {cause}") } else { Ok(()) }
}

/// Calls `report`. Returns the only event that it logs.
fn event(request_id: &str, failure: &Failure) -> LoggedEvent {
    let (_, mut events) = record_events(|| report(request_id, failure));
    assert_eq!(
        events.len(),
        1,
        "the number of events that `report` logged: {events:#?}"
    );
    events.remove(0)
}

/// Calls `run`. Returns its result and the events that it logs on this thread.
fn record_events<T>(run: impl FnOnce() -> T) -> (T, Vec<LoggedEvent>) {
    record_events_up_to(Level::TRACE, run)
}

/// The same with a subscriber that disables the levels below `lowest`.
fn record_events_up_to<T>(
    lowest: Level,
    run: impl FnOnce() -> T,
) -> (T, Vec<LoggedEvent>) {
    let recorder = Recorder { lowest, events: Arc::default() };
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

/// Records every event of an enabled level, and no spans.
struct Recorder {
    lowest: Level,
    events: Arc<Mutex<Vec<LoggedEvent>>>,
}

impl Subscriber for Recorder {
    // Neither `always` nor `never`: tracing caches the answer for all threads,
    // and other tests run on other threads, with recorders of their own.
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.lowest
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

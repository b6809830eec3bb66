use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::try_join_all;
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};
use week04::wire::{BuildError, Cause, Cleanups, Failure, build};

use Event::{Closed, Closing, Composed, Cut, Opened};

/// The limit of each clean-up.
const LIMIT: Duration = ms(10);

/// How long a test waits. The clock is paused, so it costs no real time.
const HOUR: Duration = Duration::from_secs(3600);

const SIZES: [usize; 5] = [0, 1, 2, 17, 130];

static NAMES: LazyLock<Vec<String>> =
    LazyLock::new(|| (0..=130).map(|part| format!("part {part}")).collect());

/// A constructor and its clean-up.
#[derive(Debug, Clone, Copy)]
struct Part {
    /// How many times the constructor returns `Pending`.
    awaits: usize,
    open: End,
    /// How long the clean-up takes before it ends, in milliseconds.
    takes: u64,
    close: End,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Ok,
    Err,
    Panic,
    /// The function panics that should return the future of the clean-up.
    PanicInCall,
    Hang,
}

/// A part that opens and closes without an error.
const GOOD: Part = Part { awaits: 1, open: End::Ok, takes: 2, close: End::Ok };
const FAILS: Part = Part { open: End::Err, ..GOOD };
const HANGS: Part = Part { close: End::Hang, ..GOOD };

const ANY_CLOSE: [Part; 5] = [
    GOOD,
    HANGS,
    Part { close: End::Err, ..GOOD },
    Part { close: End::Panic, takes: 0, ..GOOD },
    Part { close: End::PanicInCall, ..GOOD },
];

/// An event of the part with this number.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Event {
    /// Its constructor returned a value.
    Opened(usize),
    /// The future of `compose` has ended or was dropped.
    Composed,
    /// Its clean-up was called.
    Closing(usize),
    /// Its clean-up returned.
    Closed(usize),
    /// Its clean-up was dropped, or panicked, before it returned.
    Cut(usize),
}

/// Parts, and what happened to them.
#[derive(Clone)]
struct App<'a> {
    parts: &'a [Part],
    concurrent: bool,
    log: Arc<Mutex<Vec<Event>>>,
}

type Built = Result<(Vec<usize>, Cleanups), BuildError<usize>>;

/// Logs its event when it is dropped.
struct OnDrop(Arc<Mutex<Vec<Event>>>, Event);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.lock().unwrap().push(self.1);
    }
}

impl<'a> App<'a> {
    fn new(parts: &'a [Part]) -> Self {
        Self { parts, concurrent: false, log: Arc::default() }
    }

    fn events(&self) -> Vec<Event> {
        self.log.lock().unwrap().clone()
    }

    async fn build(&self, limit: Duration) -> Built {
        let built = build(limit, async |cleanups| self.compose(cleanups).await);
        soon("build", built).await
    }

    async fn compose(&self, cleanups: &Cleanups) -> Result<Vec<usize>, usize> {
        let _composed = OnDrop(self.log.clone(), Composed);
        let all = 0..self.parts.len();
        if self.concurrent {
            return try_join_all(all.map(|n| self.provide(cleanups, n))).await;
        }
        let mut values = Vec::new();
        for number in all {
            values.push(self.provide(cleanups, number).await?);
        }
        Ok(values)
    }

    async fn provide(
        &self,
        all: &Cleanups,
        number: usize,
    ) -> Result<usize, usize> {
        let Part { awaits, open, takes, close } = self.parts[number];
        let constructor = async {
            for _ in 0..awaits {
                yield_now().await;
            }
            match open {
                End::Ok => self.log.lock().unwrap().push(Opened(number)),
                End::Err => return Err(number),
                _ => panic_any(on_purpose(number)),
            }
            Ok(number)
        };
        let log = self.log.clone();
        let close = move |value| {
            log.lock().unwrap().push(Closing(value));
            let mut ended = OnDrop(log, Cut(value));
            if close == End::PanicInCall {
                panic_any(on_purpose(value));
            }
            async move {
                sleep(ms(takes)).await;
                let ended = &mut ended;
                match close {
                    End::Panic => panic_any(on_purpose(value)),
                    End::Hang => sleep(10 * HOUR).await,
                    _ => ended.1 = Closed(value),
                }
                (close == End::Ok).then_some(()).ok_or(on_purpose(value).into())
            }
        };
        all.provide(&NAMES[number], constructor, close).await
    }

    /// Asserts that the constructed parts were closed in reverse order, each as
    /// it is described, and returns how many were constructed.
    fn assert_closed_in_reverse(&self, when: &str) -> usize {
        let seen = self.events();
        let mut expected = seen.clone();
        expected.retain(|event| matches!(event, Opened(_)));
        let opened = expected.len();
        // A future that was dropped before its first poll has logged nothing.
        expected.extend(seen.contains(&Composed).then_some(Composed));
        for index in (0..opened).rev() {
            let Opened(number) = expected[index] else { unreachable!() };
            let close = self.parts[number].close;
            let is_cut = close != End::Ok && close != End::Err;
            let end = if is_cut { Cut(number) } else { Closed(number) };
            expected.extend([Closing(number), end]);
        }
        assert_eq!(
            seen, expected,
            "events seen (left), expected (right), {when}"
        );
        opened
    }

    /// Asserts that `close` has returned these failures.
    fn assert_failures(&self, failures: &[Failure]) {
        let all = self.parts.iter().enumerate().rev();
        let all = all.filter(|(_, part)| part.open == End::Ok);
        let expected = all.filter_map(|(number, part)| {
            let cause = match part.close {
                End::Ok => return None,
                End::Err => Cause::Failed(on_purpose(number).into()),
                End::Panic | End::PanicInCall => Cause::Panicked,
                End::Hang => Cause::TimedOut,
            };
            Some(Failure { name: &NAMES[number], cause })
        });
        let expected: Vec<_> = expected.collect();
        let [seen, expected] =
            [failures, &expected].map(|all| format!("{all:#?}"));
        assert_eq!(seen, expected, "failures seen (left), expected (right)");
    }
}

/// Runs `test` with a new runtime, and asserts that all values are closed in
/// the end. Returns how many were constructed.
fn run(parts: &[Part], when: &str, test: impl AsyncFnOnce(App)) -> usize {
    let app = App::new(parts);
    runtime().block_on(async {
        test(app.clone()).await;
        sleep(HOUR).await;
    });
    app.assert_closed_in_reverse(&format!("an hour after {when}"))
}

/// Returns a runtime of one thread with a paused clock.
fn runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap()
}

/// Waits for `future`, and panics if it hangs.
async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    let ended = timeout(HOUR, future).await;
    ended.unwrap_or_else(|_| panic!("`{what}` has not returned in an hour"))
}

/// Polls `future` up to `polls` times, 1 ms apart. Then drops it, or the output.
async fn poll_and_drop(polls: usize, future: impl Future) {
    let mut future = Box::pin(AssertUnwindSafe(future).catch_unwind());
    for _ in 0..polls {
        if (&mut future).now_or_never().is_some() {
            break;
        }
        sleep(ms(1)).await;
    }
}

/// Drops `build` after each number of polls, with constructors that run one
/// after the other, and concurrently.
fn drop_build_after_every_poll(parts: &[Part], max_polls: usize) {
    for concurrent in [true, false] {
        let mut opened = 0;
        for polls in 0..=max_polls {
            let when = format!("`build` was dropped after {polls} polls");
            opened = run(parts, &when, async |mut app| {
                app.concurrent = concurrent;
                poll_and_drop(polls, app.build(LIMIT)).await;
            });
        }
        let good = parts.iter().take_while(|part| part.open == End::Ok).count();
        let is_good = concurrent || opened == good;
        assert!(is_good, "{opened} parts were constructed, not {good}");
    }
}

/// Asserts that the clean-ups of `parts` take this time, in milliseconds.
fn assert_close_takes(expected: u64, limit: Duration, parts: &[Part]) {
    run(parts, "`close`", async |app| {
        let (_, cleanups) = app.build(limit).await.unwrap();
        let start = Instant::now();
        soon("close", cleanups.close()).await;
        app.assert_closed_in_reverse("after `close`");
        let took = start.elapsed();
        // The precision of tokio's timer is 1 ms.
        let latest = ms(expected + 2 * parts.len() as u64);
        assert!(
            (ms(expected)..=latest).contains(&took),
            "`close` took {took:?}, not {expected} ms: {parts:?}"
        );
    });
}

/// Returns all lists of up to `max` of these parts.
fn lists(max: usize, parts: &[Part]) -> Vec<Vec<Part>> {
    let mut all = vec![vec![]];
    if max > 0 {
        let shorter = lists(max - 1, parts);
        all.extend(shorter.iter().flat_map(|list| {
            parts.iter().map(|part| [&list[..], &[*part]].concat())
        }));
    }
    all
}

/// Returns parts of which one opens like `open`: the first, the last or another.
fn parts_with_one(open: End) -> impl Iterator<Item = (usize, Vec<Part>)> {
    [1, 2, 17, 130].into_iter().flat_map(move |size| {
        (0..size).step_by(1 + size / 20).map(move |at| {
            let mut parts = vec![GOOD; size];
            parts[at].open = open;
            (at, parts)
        })
    })
}

fn on_purpose(number: usize) -> String {
    format!("on purpose, in part {number}")
}

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

mod builds {
    use super::*;

    #[test]
    fn build_returns_the_value_and_runs_no_clean_up() {
        for size in SIZES {
            run(&vec![GOOD; size], "`close`", async |app| {
                let (values, cleanups) = app.build(LIMIT).await.unwrap();
                let expected: Vec<_> = (0..size).collect();
                assert_eq!(values, expected, "values that `provide` returned");
                sleep(HOUR).await;
                let mut expected: Vec<_> = (0..size).map(Opened).collect();
                expected.push(Composed);
                assert_eq!(app.events(), expected, "events before `close`");
                soon("close", cleanups.close()).await;
            });
        }
    }

    #[test]
    fn close_runs_each_clean_up_once_in_reverse_order() {
        for size in SIZES {
            run(&vec![GOOD; size], "`close`", async |app| {
                let (_, cleanups) = app.build(LIMIT).await.unwrap();
                let failures = soon("close", cleanups.close()).await;
                let closed = app.assert_closed_in_reverse("after `close`");
                assert_eq!(closed, size, "number of values closed");
                app.assert_failures(&failures);
            });
        }
    }
}

mod failures {
    use super::*;

    #[test]
    fn a_failed_constructor_closes_the_earlier_parts_before_build_returns() {
        for (at, parts) in parts_with_one(End::Err) {
            run(&parts, "`build`", async |app| {
                let error = app.build(LIMIT).await.unwrap_err().error;
                assert_eq!(error, at, "the error of the constructor");
                let closed = app.assert_closed_in_reverse("after `build`");
                assert_eq!(closed, at, "number of values closed");
            });
        }
    }

    #[test]
    fn a_panic_is_raised_again_when_the_clean_ups_have_run() {
        for (at, parts) in parts_with_one(End::Panic) {
            run(&parts, "`build`", async |app| {
                let built = AssertUnwindSafe(app.build(LIMIT)).catch_unwind();
                let payload = built.await.expect_err("expected a panic");
                let text = payload.downcast_ref::<String>();
                assert_eq!(text, Some(&on_purpose(at)), "payload of the panic");
                let closed = app.assert_closed_in_reverse("after the panic");
                assert_eq!(closed, at, "number of values closed");
            });
        }
    }

    #[test]
    fn a_failed_constructor_whose_error_is_handled_has_no_clean_up() {
        run(&[GOOD, FAILS, GOOD, FAILS], "`close`", async |app| {
            let built = build(LIMIT, async |cleanups| {
                let mut all = Vec::new();
                for number in 0..4 {
                    all.push(app.provide(cleanups, number).await);
                }
                Ok::<_, usize>(all)
            });
            let (all, cleanups) = soon("build", built).await.unwrap();
            assert_eq!(
                all,
                [Ok(0), Err(1), Ok(2), Err(3)],
                "results of `provide`"
            );
            let failures = soon("close", cleanups.close()).await;
            app.assert_failures(&failures);
        });
    }

    #[test]
    fn a_failed_clean_up_is_reported_and_the_others_still_run() {
        for mut parts in lists(4, &ANY_CLOSE) {
            for failing in [None, Some(FAILS)] {
                parts.extend(failing);
                run(&parts, "`close`", async |app| {
                    let failures = match app.build(LIMIT).await {
                        Ok((_, all)) => soon("close", all.close()).await,
                        Err(failed) => failed.failures,
                    };
                    app.assert_closed_in_reverse("after the clean-ups");
                    app.assert_failures(&failures);
                });
            }
        }
    }

    #[test]
    fn each_clean_up_has_the_whole_limit_from_its_own_start() {
        assert_close_takes(17 * 9, LIMIT, &[Part { takes: 9, ..GOOD }; 17]);
        let slow = Part { takes: 1_000_000, ..GOOD };
        assert_close_takes(1_000_000, Duration::MAX, &[slow]);
    }

    #[test]
    fn a_clean_up_that_hangs_delays_close_only_by_its_limit() {
        assert_close_takes(17 * 10, LIMIT, &[HANGS; 17]);
        assert_close_takes(2 * (10 + 2), LIMIT, &[HANGS, GOOD, HANGS, GOOD]);
    }

    #[test]
    fn concurrent_constructors_close_in_reverse_order_of_their_return() {
        let parts = [3, 1, 2].map(|awaits| Part { awaits, ..GOOD });
        run(&parts, "`close`", async |mut app| {
            app.concurrent = true;
            let (_, cleanups) = app.build(LIMIT).await.unwrap();
            let expected = [Opened(1), Opened(2), Opened(0), Composed];
            assert_eq!(
                app.events(),
                expected,
                "constructors with 3, 1 and 2 awaits"
            );
            soon("close", cleanups.close()).await;
        });
    }

    #[test]
    fn a_constructor_may_provide_its_own_dependency() {
        run(&[GOOD], "`close`", async |app| {
            let built = build(LIMIT, async |cleanups| {
                let outer = app.provide(cleanups, 0);
                let close = |_| async { Ok(()) };
                cleanups.provide("outer", outer, close).await
            });
            let (_, cleanups) = soon("build", built).await.unwrap();
            soon("close", cleanups.close()).await;
        });
    }
}

mod drops {
    use super::*;

    #[test]
    fn a_build_dropped_at_any_await_closes_what_was_constructed() {
        drop_build_after_every_poll(&[GOOD; 17], 20);
        let at_once = Part { awaits: 0, ..GOOD };
        drop_build_after_every_poll(&[at_once; 130], 2);
        let panics = Part { open: End::Panic, ..GOOD };
        let slow = Part { awaits: 2, ..GOOD };
        for parts in lists(3, &[at_once, slow, FAILS, panics]) {
            drop_build_after_every_poll(&parts, 8);
        }
    }

    #[test]
    fn clean_ups_continue_after_the_build_that_runs_them_is_dropped() {
        for mut parts in lists(2, &ANY_CLOSE) {
            for open in [End::Err, End::Panic] {
                parts.push(Part { open, ..GOOD });
                drop_build_after_every_poll(&parts, 30);
                parts.pop();
            }
        }
    }

    #[test]
    fn clean_ups_continue_after_close_is_dropped() {
        for parts in lists(2, &ANY_CLOSE) {
            for polls in 0..30 {
                let when = format!("`close` was dropped after {polls} polls");
                run(&parts, &when, async |app| {
                    let (_, cleanups) = app.build(LIMIT).await.unwrap();
                    poll_and_drop(polls, cleanups.close()).await;
                });
            }
        }
    }

    #[test]
    fn cleanups_dropped_outside_of_the_runtime_of_build_run_on_it() {
        for case in ["no runtime", "another runtime", "a panic"] {
            let app = App::new(&[GOOD; 17]);
            let (home, other) = (runtime(), runtime());
            let (_, cleanups) = home.block_on(app.build(LIMIT)).unwrap();
            let (running, ended) = mpsc::channel::<()>();
            let thread = thread::spawn(move || {
                let _running = running;
                let _entered =
                    (case == "another runtime").then(|| other.enter());
                let _dropped_first = cleanups;
                if case == "a panic" {
                    panic!("on purpose");
                }
            });
            let ended = ended.recv_timeout(Duration::from_secs(5));
            let expected = Err(RecvTimeoutError::Disconnected);
            assert_eq!(ended, expected, "the drop blocks its thread: {case}");
            assert_eq!(thread.join().is_err(), case == "a panic", "{case}");
            home.block_on(async { sleep(HOUR).await });
            let closed = app.assert_closed_in_reverse(case);
            assert_eq!(closed, 17, "number of values closed: {case}");
        }
    }

    #[test]
    fn clean_ups_are_dropped_without_a_panic_after_runtime_shutdown() {
        let app = App::new(&[GOOD; 17]);
        let home = runtime();
        let (_, cleanups) = home.block_on(app.build(LIMIT)).unwrap();
        drop(home);
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(cleanups)));
        assert!(
            dropped.is_ok(),
            "expected no panic when `Cleanups` is dropped"
        );
        let is_opened = |event: &Event| matches!(event, Opened(_) | Composed);
        let events = app.events();
        assert!(events.iter().all(is_opened), "a clean-up ran: {events:?}");
        // Each clean-up has a clone of the log.
        let left = Arc::strong_count(&app.log) - 1;
        assert_eq!(left, 0, "number of clean-ups that are not dropped");
    }
}

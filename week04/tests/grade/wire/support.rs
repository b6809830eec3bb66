//! Applications of parts that fail as described, and what happens to them.

use std::future::pending;
use std::panic::{AssertUnwindSafe, panic_any, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::try_join_all;
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use week04::wire::{BoxError, BuildError, Cause, Cleanups, Failure, build};

use Event::{Closed, Closing, Composed, Cut, Opened};

/// The limit of each clean-up, if a test sets no other.
pub(super) const LIMIT: Duration = ms(10);

pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Several parts have the same name.
const NAMES: [&str; 3] = ["pool", "lease", ""];

/// A constructor and its clean-up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// How many times the constructor returns `Pending`.
    pub(super) awaits: usize,
    pub(super) open: End,
    /// How long the clean-up takes before it ends. `MAX`: it hangs.
    pub(super) takes: Duration,
    pub(super) close: End,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum End {
    Ok,
    Err,
    Panic,
    /// For a clean-up: the function that should return its future panics. For a
    /// constructor: its value panics when it is cloned.
    PanicInCall,
}

/// A part that opens and closes without an error.
pub(super) const GOOD: Part =
    Part { awaits: 1, open: End::Ok, takes: ms(2), close: End::Ok };
pub(super) const AT_ONCE: Part =
    Part { awaits: 0, takes: Duration::ZERO, ..GOOD };
pub(super) const FAILS: Part = Part { open: End::Err, ..GOOD };
pub(super) const HANGS: Part = Part { takes: Duration::MAX, ..GOOD };

pub(super) const ANY_CLOSE: [Part; 5] = [
    GOOD,
    HANGS,
    Part { close: End::Err, ..GOOD },
    Part { close: End::Panic, ..AT_ONCE },
    Part { close: End::PanicInCall, ..GOOD },
];

/// The error, or the payload of the panic, of the constructor or clean-up of
/// the part with this number.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("on purpose")]
pub(super) struct OnPurpose(pub(super) usize);

/// What a constructor returns: the number of its part.
#[derive(Debug, PartialEq)]
pub(super) struct Value(pub(super) usize, End);

impl Clone for Value {
    fn clone(&self) -> Self {
        if self.1 == End::PanicInCall {
            resume_unwind(Box::new(OnPurpose(self.0)));
        }
        Self(self.0, self.1)
    }
}

/// An event of the part with this number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Event {
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

/// Calls its function when it is dropped.
pub(super) struct OnDrop<F: FnMut()>(pub(super) Option<F>);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(|function| function());
    }
}

/// Parts, and what happened to them.
#[derive(Clone, Default)]
pub(super) struct App {
    pub(super) parts: Arc<[Part]>,
    pub(super) limit: Duration,
    /// Whether `compose` runs the constructors concurrently.
    pub(super) concurrent: bool,
    /// Whether `compose` continues after an error of a constructor.
    pub(super) continues: bool,
    pub(super) log: Arc<Mutex<Vec<Event>>>,
}

type Opening<T> = Result<T, OnPurpose>;
type Built = Result<(Vec<Value>, Cleanups), BuildError<OnPurpose>>;

impl App {
    pub(super) fn new(parts: &[Part]) -> Self {
        Self { parts: parts.into(), limit: LIMIT, ..Self::default() }
    }

    fn log(&self, event: Event) {
        self.log.lock().unwrap().push(event);
    }

    pub(super) fn events(&self) -> Vec<Event> {
        self.log.lock().unwrap().clone()
    }

    /// Returns how many clean-ups were called.
    pub(super) fn called(&self) -> usize {
        let is_call = |event: &&Event| matches!(event, Closing(_));
        self.events().iter().filter(is_call).count()
    }

    /// Returns the number of clean-ups that exist. Each has a clone of the log.
    pub(super) fn left(&self) -> usize {
        Arc::strong_count(&self.log) - 1
    }

    pub(super) fn build(&self) -> impl Future<Output = Built> + Send + use<> {
        let app = self.clone();
        build(self.limit, async move |all: &Cleanups| app.compose(all).await)
    }

    pub(super) async fn compose(&self, all: &Cleanups) -> Opening<Vec<Value>> {
        let _composed = OnDrop(Some(|| self.log(Composed)));
        let numbers = 0..self.parts.len();
        if self.concurrent {
            return try_join_all(numbers.map(|n| self.provide(all, n))).await;
        }
        let mut values = Vec::new();
        for number in numbers {
            match self.provide(all, number).await {
                Ok(value) => values.push(value),
                Err(_) if self.continues => {}
                Err(error) => return Err(error),
            }
        }
        Ok(values)
    }

    pub(super) async fn provide(
        &self,
        all: &Cleanups,
        number: usize,
    ) -> Opening<Value> {
        let Part { awaits, open, takes, close } = self.parts[number];
        let constructor = async {
            for _ in 0..awaits {
                yield_now().await;
            }
            match open {
                End::Ok => self.log(Opened(number)),
                End::Err => return Err(OnPurpose(number)),
                End::Panic => resume_unwind(Box::new(OnPurpose(number))),
                End::PanicInCall => {}
            }
            Ok(Value(number, open))
        };
        let app = self.clone();
        let close = move |Value(number, _)| {
            app.log(Closing(number));
            let cut = app.clone();
            let mut cut = OnDrop(Some(move || cut.log(Cut(number))));
            if close == End::PanicInCall {
                panic_any("on purpose");
            }
            async move {
                let cut = &mut cut;
                match takes {
                    Duration::ZERO => yield_now().await,
                    Duration::MAX => pending().await,
                    _ => sleep(takes).await,
                }
                if close == End::Panic {
                    panic_any("on purpose");
                }
                cut.0 = None;
                app.log(Closed(number));
                let is_ok = close == End::Ok;
                is_ok.then_some(()).ok_or(BoxError::from(OnPurpose(number)))
            }
        };
        all.provide(NAMES[number % NAMES.len()], constructor, close).await
    }

    /// How the clean-up of this part fails, if it does.
    fn cause(&self, number: usize) -> Option<Cause> {
        let Part { takes, close, .. } = self.parts[number];
        match close {
            End::PanicInCall => Some(Cause::Panicked),
            _ if takes > self.limit => Some(Cause::TimedOut),
            End::Panic => Some(Cause::Panicked),
            End::Err => Some(Cause::Failed(OnPurpose(number).into())),
            End::Ok => None,
        }
    }

    /// Asserts that the constructed parts were closed in reverse order, each as
    /// it is described, and returns how many were constructed.
    pub(super) fn assert_closed_in_reverse(&self, when: &str) -> usize {
        let seen = self.events();
        let mut expected = seen.clone();
        expected.retain(|event| matches!(event, Opened(_)));
        let opened = expected.len();
        // A future that was dropped before its first poll has logged nothing.
        expected.extend(seen.contains(&Composed).then_some(Composed));
        for index in (0..opened).rev() {
            let Opened(number) = expected[index] else { unreachable!() };
            let end = match self.cause(number) {
                Some(Cause::Panicked | Cause::TimedOut) => Cut(number),
                Some(Cause::Failed(_)) | None => Closed(number),
            };
            expected.extend([Closing(number), end]);
        }
        assert_eq!(seen, expected, "events seen (left), expected, {when}");
        opened
    }

    /// Asserts that the clean-ups have failed as described.
    pub(super) fn assert_failures(&self, failures: &[Failure]) {
        let mut expected = Vec::new();
        for (number, part) in self.parts.iter().enumerate().rev() {
            let cause = self.cause(number).filter(|_| part.open == End::Ok);
            let name = NAMES[number % NAMES.len()];
            expected.extend(cause.map(|cause| Failure { name, cause }));
        }
        let (seen, expected) = (failures, &expected[..]);
        let [seen, expected] = [seen, expected].map(|it| format!("{it:#?}"));
        assert_eq!(seen, expected, "failures seen (left), expected (right)");
    }

    /// Asserts that the parts are closed, and their failures reported, when
    /// `build` or `close` returns. Returns how many were constructed.
    pub(super) async fn build_and_close(&self) -> usize {
        let failures = match self.build().await {
            Ok((_, cleanups)) => cleanups.close().await,
            Err(failed) => failed.failures,
        };
        self.assert_failures(&failures);
        self.assert_closed_in_reverse("after the clean-ups")
    }

    /// Runs `test` on a new runtime, and asserts that all values are closed a
    /// day later.
    pub(super) fn run(&self, test: impl Future) {
        run_a_day(&runtime(), test);
        self.assert_closed_in_reverse("a day later");
    }
}

/// Waits for `future` and then for a day. The clock is paused, so it costs no
/// real time.
pub(super) fn run_a_day<T>(home: &Runtime, future: impl Future<Output = T>) {
    // Without the box, `block_on` would be compiled for each test.
    let future: Pin<Box<dyn Future<Output = T> + '_>> = Box::pin(future);
    home.block_on(async {
        let ended = timeout(300 * DAY, future).await;
        assert!(ended.is_ok(), "`build` or `close` has not returned");
        sleep(DAY).await;
    });
}

/// Returns a runtime of one thread with a paused clock.
pub(super) fn runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap()
}

/// Returns a runtime of several threads. Its clock shows the real time.
pub(super) fn threads() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(4).enable_time().build().unwrap()
}

/// Polls `future` up to `polls` times, 1 ms apart. Returns what has to be
/// dropped: the output, if it has ended, and the future.
pub(super) fn poll<F: Future>(
    home: &Runtime,
    polls: usize,
    future: F,
) -> (Option<F::Output>, Pin<Box<impl Future + use<F>>>) {
    let mut future = Box::pin(AssertUnwindSafe(future).catch_unwind());
    let output = home.block_on(async {
        for _ in 0..polls {
            if let Some(output) = (&mut future).now_or_never() {
                return output.ok();
            }
            sleep(ms(1)).await;
        }
        None
    });
    (output, future)
}

/// Drops `start(app, runtime)` after each number of polls: outside of a
/// runtime, in another one, or in its own. Returns how many parts were
/// constructed in the end.
pub(super) fn drop_after_every_poll<F: Future>(
    app: &App,
    max_polls: usize,
    start: impl Fn(&App, &Runtime) -> F,
) -> usize {
    let (other, mut opened) = (runtime(), 0);
    for polls in 0..=max_polls {
        let app = App { log: Arc::default(), ..app.clone() };
        let home = runtime();
        let to_drop = poll(&home, polls, start(&app, &home));
        let around = [None, Some(&other), Some(&home)][polls % 3];
        let entered = around.map(Runtime::enter);
        drop(to_drop);
        drop(entered);
        run_a_day(&home, async {});
        let when = format!("a day after the drop, after {polls} polls");
        opened = app.assert_closed_in_reverse(&when);
    }
    opened
}

/// Returns all lists of up to `max` of these parts.
pub(super) fn lists(max: usize, parts: &[Part]) -> Vec<Vec<Part>> {
    let mut all = vec![vec![]];
    if max > 0 {
        let shorter = lists(max - 1, parts);
        all.extend(shorter.iter().flat_map(|list| {
            parts.iter().map(|part| [&list[..], &[*part]].concat())
        }));
    }
    all
}

pub(super) const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

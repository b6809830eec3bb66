use std::fmt::Debug;
use std::future::pending;
use std::panic::panic_any;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use week03::app::run;
use week03::plan::{Ended, Entry, Limits, Plan, Ready, Report, Work};
use week03::signals::BoxError;

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Longer than any scenario. This time is paused: nothing really waits.
const HOUR: Duration = seconds(3600);

/// The limit of a test in which time is not paused.
const DEADLINE: Duration = seconds(5);

const LIMITS: Limits =
    Limits { call: seconds(2), lame_duck: seconds(5), budget: seconds(25) };

/// The time that a call takes, unless it hangs.
const CALL_TIME: Duration = Duration::from_millis(100);

/// How a part or a call ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Ok,
    Error(&'static str),
    Panic(Bug),
    /// It never ends.
    Never,
}

/// The payload of a panic.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bug(u32);

impl End {
    async fn reach(self) -> Result<(), BoxError> {
        match self {
            Self::Ok => Ok(()),
            Self::Error(error) => Err(error.into()),
            Self::Panic(bug) => panic_any(bug),
            Self::Never => pending().await,
        }
    }
}

/// Events, each with its time in milliseconds since the scenario began.
#[derive(Clone)]
struct Log {
    start: Instant,
    events: Arc<Mutex<Vec<(u64, String)>>>,
}

impl Log {
    fn add(&self, event: String) {
        let ms = self.start.elapsed().as_millis().try_into().unwrap();
        self.events.lock().unwrap().push((ms, event));
    }

    /// Checks the events for which `of` returns `true`.
    #[track_caller]
    fn expect(&self, of: impl Fn(u64, &str) -> bool, expected: &[(u64, &str)]) {
        let events = self.events.lock().unwrap().clone();
        let seen: Vec<_> = events
            .iter()
            .map(|(ms, event)| (*ms, event.as_str()))
            .filter(|(ms, event)| of(*ms, event))
            .collect();
        assert_same("log of (milliseconds, event)", &seen, expected);
    }

    /// Checks the events from `ms` on.
    #[track_caller]
    fn expect_since(&self, ms: u64, expected: &[(u64, &str)]) {
        self.expect(|at, _| at >= ms, expected);
    }

    /// Checks the events before `ms`.
    #[track_caller]
    fn expect_before(&self, ms: u64, expected: &[(u64, &str)]) {
        self.expect(|at, _| at < ms, expected);
    }
}

/// Checks that two lists are equal. Shows only where they differ.
#[track_caller]
fn assert_same<T: Debug + PartialEq>(what: &str, seen: &[T], expected: &[T]) {
    let equal = |(seen, expected): &(&T, &T)| seen == expected;
    let before = seen.iter().zip(expected).take_while(equal).count();
    let rest = seen[before..].iter().rev().zip(expected[before..].iter().rev());
    let after = rest.take_while(equal).count();
    let differs = |list: &[T]| {
        let list = &list[before..list.len() - after];
        let items = list.iter().map(|item| format!("\n  {item:?}"));
        let items: String = items.collect();
        if items.is_empty() { "\n  nothing".to_owned() } else { items }
    };
    assert!(
        seen == expected,
        "{what}: {before} match, then\nexpected:{}\nseen:{}\n{after} match",
        differs(expected),
        differs(seen)
    );
}

/// Logs that a part is aborted, if it is dropped before its end.
struct AbortLog {
    log: Log,
    name: &'static str,
    has_ended: bool,
}

impl Drop for AbortLog {
    fn drop(&mut self) {
        if !self.has_ended {
            self.log.add(format!("{} is aborted", self.name));
        }
    }
}

/// A plan, and the log of its parts and calls.
struct Scenario {
    plan: Plan,
    log: Log,
}

impl Scenario {
    fn new(limits: Limits) -> Self {
        let log = Log { start: Instant::now(), events: Arc::default() };
        Self { plan: Plan::new(limits), log }
    }

    /// Adds a part that is ready after a second. When it is cancelled, it
    /// stops within a second.
    fn part(&mut self, name: &'static str) {
        self.part_with(name, HOUR, End::Never, seconds(1), End::Ok);
    }

    /// Adds a part that ends by itself when it has been ready for `life`.
    fn exiting_part(&mut self, name: &'static str, life: Duration, end: End) {
        self.part_with(name, life, end, seconds(1), End::Ok);
    }

    /// Adds a part that takes `takes` to stop when it is cancelled.
    fn stopping_part(&mut self, name: &'static str, takes: Duration, end: End) {
        self.part_with(name, HOUR, End::Never, takes, end);
    }

    fn part_with(
        &mut self,
        name: &'static str,
        life: Duration,
        exit: End,
        takes: Duration,
        stop_end: End,
    ) {
        let log = self.log.clone();
        let part = async move |ready: Ready, stop: CancellationToken| {
            let mut part =
                AbortLog { log: log.clone(), name, has_ended: false };
            log.add(format!("{name} starts"));
            sleep(seconds(1)).await;
            log.add(format!("{name} is ready"));
            ready.set();
            let end = match stop.run_until_cancelled(sleep(life)).await {
                Some(()) => {
                    log.add(format!("{name} exits early"));
                    exit
                }
                None => {
                    log.add(format!("{name} is cancelled"));
                    sleep(takes).await;
                    stop_end
                }
            };
            if let End::Never = end {
                pending().await
            }
            part.has_ended = true;
            if let End::Ok = end {
                log.add(format!("{name} ends"));
            }
            end.reach().await
        };
        self.plan.part(name, part);
    }

    /// Returns a call that takes [`CALL_TIME`].
    fn call(
        &self,
        name: &'static str,
        end: End,
    ) -> impl Future<Output = Result<(), BoxError>> + Send + 'static {
        let log = self.log.clone();
        async move {
            log.add(format!("{name} begins"));
            sleep(CALL_TIME).await;
            end.reach().await?;
            log.add(format!("{name} ends"));
            Ok(())
        }
    }

    fn on_start(&mut self, name: &'static str, end: End) {
        let hook = self.call(name, end);
        self.plan.on_start(name, hook);
    }

    fn on_stop(&mut self, name: &'static str, end: End) {
        let hook = self.call(name, end);
        self.plan.on_stop(name, hook);
    }

    fn registry(&mut self, register: End, deregister: End) {
        let register = self.call("register", register);
        let deregister = self.call("deregister", deregister);
        self.plan.registry(register, deregister);
    }

    /// Creates a scenario of two parts and a registry.
    fn with_two_parts(limits: Limits) -> Self {
        let mut scenario = Self::new(limits);
        scenario.part("db");
        scenario.part("http");
        scenario.registry(End::Ok, End::Ok);
        scenario
    }

    /// Runs the plan, and cancels `stop` after `time`.
    async fn cancel_after(self, time: Duration) -> (Log, CheckedReport) {
        let stop = CancellationToken::new();
        let cancel = async {
            sleep(time).await;
            stop.cancel();
            pending().await
        };
        let report = async {
            let report = timeout(HOUR, run(self.plan, stop.clone())).await;
            report.expect("`run` should return within an hour")
        };
        let report = tokio::select! {
            // Poll in the same order in every run.
            biased;
            report = report => report,
            () = cancel => unreachable!("it never returns"),
        };
        (self.log, CheckedReport(report))
    }

    /// Runs the plan until something fails: `stop` is not cancelled.
    async fn run_uncancelled(self) -> (Log, CheckedReport) {
        self.cancel_after(2 * HOUR).await
    }
}

/// A report, with checks.
struct CheckedReport(Report);

impl CheckedReport {
    #[track_caller]
    fn expect_took(&self, expected: Duration) {
        assert_eq!(self.0.took, expected, "time that shutdown took");
    }

    /// Checks the names and outcomes of the failures, in order.
    #[track_caller]
    fn expect_failures(&self, expected: &[(&str, &str)]) {
        let failures = self.0.failures();
        let failures: Vec<_> =
            failures.map(|step| (step.name, text(&step.ended))).collect();
        let failures: Vec<_> =
            failures.iter().map(|(name, end)| (*name, end.as_str())).collect();
        assert_same("failures in the report, in order", &failures, expected);
    }
}

fn text(ended: &Ended) -> String {
    match ended {
        Ended::Ok => "ok".to_owned(),
        Ended::Early => "early".to_owned(),
        Ended::Failed(error) => format!("failed: {error}"),
        Ended::Panicked(_) => "panicked".to_owned(),
        Ended::Aborted => "aborted".to_owned(),
    }
}

/// A random plan, and a model of [`run`] that predicts the log and the report.
mod model {
    use super::*;

    /// In milliseconds: later than everything else.
    const NEVER: u64 = 1 << 40;

    /// A part or a call. All times are in milliseconds.
    #[derive(Clone, Copy, Debug)]
    pub(super) struct Task {
        kind: Kind,
        name: &'static str,
        /// The time until a part is ready, and until it exits by itself.
        ready: u64,
        life: u64,
        exit: End,
        /// The time that a call takes, or a part from its cancellation on.
        takes: u64,
        end: End,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Kind {
        Part,
        OnStart,
        OnStop,
    }

    #[derive(Debug)]
    pub(super) struct Random {
        state: u64,
        limits: Limits,
        tasks: Vec<Task>,
        registry: Option<[Task; 2]>,
        pub(super) stop: u64,
    }

    impl Random {
        pub(super) fn new(seed: u64, can_fail: bool, budget: u64) -> Self {
            let limits = Limits { budget: millis(budget), ..LIMITS };
            let (tasks, registry, stop) = (Vec::new(), None, 0);
            let mut it = Self { state: seed, limits, tasks, registry, stop };
            let [call, lame_duck] = [3000, 6000].map(|limit| it.below(limit));
            it.limits.call = millis(1 + call);
            let is_zero = it.below(8) == 0;
            it.limits.lame_duck = millis(if is_zero { 0 } else { lame_duck });
            let more = it.below(budget);
            it.limits.budget += millis(more);
            let size = if seed == 0 { 130 } else { it.below(8) };
            for _ in 0..size {
                let task = it.task(can_fail);
                it.tasks.push(task);
            }
            if it.below(4) != 0 {
                let calls = ["register", "deregister"];
                let task = |name| Task { name, ..it.task(can_fail) };
                it.registry = Some(calls.map(task));
            }
            it.stop = 1 + it.below(if seed == 0 { 100_000 } else { 20_000 });
            it
        }

        /// SplitMix64.
        pub(super) fn below(&mut self, limit: u64) -> u64 {
            self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut n = self.state;
            n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (n ^ (n >> 31)) % limit.max(1)
        }

        fn task(&mut self, can_fail: bool) -> Task {
            let kinds = [Kind::Part, Kind::Part, Kind::OnStart, Kind::OnStop];
            // Two entries can have the same name, also that of a call.
            let names = ["db", "db", "http", "queue", "register", "flush"];
            let end = |it: &mut Self| match it.below(8) {
                0 if can_fail => End::Error("broken"),
                1 if can_fail => End::Panic(Bug(1)),
                2 if can_fail => End::Never,
                _ => End::Ok,
            };
            let is_late = |it: &mut Self, n| can_fail && it.below(n) == 0;
            let mut task = Task {
                kind: kinds[self.below(4) as usize],
                name: names[self.below(6) as usize],
                ready: match is_late(self, 12) {
                    true => NEVER,
                    false => 1 + self.below(1000),
                },
                life: match is_late(self, 4) {
                    true => 1 + self.below(15_000),
                    false => NEVER,
                },
                exit: match end(self) {
                    // It ends, or it would not notice its cancellation.
                    End::Never => End::Ok,
                    end => end,
                },
                takes: match is_late(self, 4) {
                    true => 1 + self.below(5000),
                    false => 1 + self.below(500),
                },
                end: end(self),
            };
            if is_late(self, 8) {
                // It ends at the moment when it is ready.
                task.life = task.ready;
            }
            task
        }

        /// Builds the plan. Its log has when entries start and are cancelled.
        pub(super) fn scenario(&self) -> Scenario {
            let mut scenario = Scenario::new(self.limits);
            let call = |log: Log, task: Task| async move {
                log.add(format!("{} begins", task.name));
                sleep(millis(task.takes)).await;
                task.end.reach().await
            };
            for &task in &self.tasks {
                let log = scenario.log.clone();
                let plan = &mut scenario.plan;
                match task.kind {
                    Kind::OnStart => plan.on_start(task.name, call(log, task)),
                    Kind::OnStop => plan.on_stop(task.name, call(log, task)),
                    Kind::Part => {
                        plan.part(task.name, async move |ready, stop| {
                            task.run(log, ready, stop).await
                        })
                    }
                }
            }
            if let Some([register, deregister]) = self.registry {
                let log = &scenario.log;
                let register = call(log.clone(), register);
                let deregister = call(log.clone(), deregister);
                scenario.plan.registry(register, deregister);
            }
            scenario
        }

        /// Predicts what `run` does. Returns `None` if two events happen in the
        /// same millisecond, so that their order is not fixed.
        pub(super) fn predict(&self) -> Option<Model> {
            let mut model = Model {
                limits: self.limits,
                now: 0,
                stop: self.stop,
                live: Vec::new(),
                began: None,
                log: Vec::new(),
                steps: Vec::new(),
                has_tie: false,
            };
            model.run(self);
            (!model.has_tie).then_some(model)
        }
    }

    impl Task {
        async fn run(
            self,
            log: Log,
            ready: Ready,
            stop: CancellationToken,
        ) -> Result<(), BoxError> {
            log.add(format!("{} starts", self.name));
            // It cancels its own token when it ends, and no other token.
            let _guard = stop.clone().drop_guard();
            let serve = async {
                if self.ready <= self.life {
                    sleep(millis(self.ready)).await;
                    ready.set();
                    if self.ready < self.life {
                        sleep(millis(self.life - self.ready)).await;
                    }
                } else {
                    drop(ready);
                    sleep(millis(self.life)).await;
                }
            };
            match stop.run_until_cancelled(serve).await {
                Some(()) => self.exit.reach().await,
                None => {
                    log.add(format!("{} is cancelled", self.name));
                    sleep(millis(self.takes)).await;
                    self.end.reach().await
                }
            }
        }
    }

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn ms(duration: Duration) -> u64 {
        duration.as_millis().try_into().expect("less than an age")
    }

    /// A part that has not ended.
    struct Live {
        entry: usize,
        task: Task,
        start: u64,
        cancelled: Option<u64>,
    }

    impl Live {
        fn end(&self) -> (u64, End) {
            let (time, end) = match self.cancelled {
                Some(at) => (at + self.task.takes, self.task.end),
                None => (self.start + self.task.life, self.task.exit),
            };
            (if let End::Never = end { NEVER } else { time }, end)
        }
    }

    pub(super) struct Model {
        limits: Limits,
        now: u64,
        stop: u64,
        live: Vec<Live>,
        began: Option<u64>,
        pub(super) log: Vec<(u64, String)>,
        /// The time of each step's end, its name, its end and what it took.
        pub(super) steps: Vec<(u64, &'static str, String, u64)>,
        has_tie: bool,
    }

    impl Model {
        fn run(&mut self, plan: &Random) {
            let mut undo = Vec::new();
            for (entry, &task) in plan.tasks.iter().enumerate() {
                if self.began.is_some() {
                    break;
                }
                undo.push(entry);
                match task.kind {
                    Kind::OnStop => {}
                    Kind::OnStart => self.call(task),
                    Kind::Part => {
                        let start = self.now;
                        self.add(&task, "starts");
                        self.live.push(Live {
                            entry,
                            task,
                            start,
                            cancelled: None,
                        });
                        let is_first = task.ready < task.life;
                        let ready = if is_first { task.ready } else { NEVER };
                        let ready = start.saturating_add(ready);
                        self.wait(|_| ready, |it| it.began.is_some());
                    }
                }
            }
            let registry = plan.registry.filter(|_| self.began.is_none());
            if let Some([register, _]) = registry {
                self.call(register);
            }
            self.wait(|_| NEVER, |it| it.began.is_some());
            if let Some([_, deregister]) = registry {
                self.call(deregister);
                let end = self.now + ms(self.limits.lame_duck);
                self.wait(|it| end.min(it.end()), |it| it.live.is_empty());
            }
            for entry in undo.into_iter().rev() {
                let task = plan.tasks[entry];
                match task.kind {
                    Kind::OnStop => self.call(task),
                    Kind::OnStart => {}
                    Kind::Part => self.stop_part(entry),
                }
            }
        }

        /// The end of the budget.
        pub(super) fn end(&self) -> u64 {
            self.began.map_or(NEVER, |began| began + ms(self.limits.budget))
        }

        pub(super) fn took(&self) -> u64 {
            self.now - self.began.expect("shutdown has begun")
        }

        fn add(&mut self, task: &Task, event: &str) {
            self.log.push((self.now, format!("{} {event}", task.name)));
        }

        /// Handles events until a time, or until a condition is true.
        fn wait(
            &mut self,
            until: impl Fn(&Self) -> u64,
            is_over: impl Fn(&Self) -> bool,
        ) {
            while !is_over(self) {
                let until = until(self);
                let ends = self.live.iter().map(|it| it.end().0);
                let stop = self.began.is_none().then_some(self.stop);
                let mut times: Vec<_> = ends.chain(stop).collect();
                times.sort_unstable();
                let next = times.first().copied().unwrap_or(NEVER);
                let is_tie = times.get(1) == Some(&next) || next == until;
                self.has_tie |= is_tie && next < NEVER;
                if next >= until {
                    self.now = until;
                    return;
                }
                self.now = next;
                let ended = self.live.iter().position(|it| it.end().0 == next);
                match ended {
                    Some(at) => {
                        let part = self.live.remove(at);
                        let is_early = part.cancelled.is_none();
                        let since = part.cancelled.unwrap_or(next);
                        self.record(&part.task, part.end().1, is_early, since);
                    }
                    None => self.began = Some(next),
                }
            }
        }

        fn record(
            &mut self,
            task: &Task,
            end: End,
            is_early: bool,
            since: u64,
        ) {
            let end = match end {
                End::Ok if is_early => "early".to_owned(),
                End::Ok => "ok".to_owned(),
                End::Error(error) => format!("failed: {error}"),
                End::Panic(_) => "panicked".to_owned(),
                End::Never => "aborted".to_owned(),
            };
            if end != "ok" {
                self.began.get_or_insert(self.now);
            }
            self.steps.push((self.now, task.name, end, self.now - since));
        }

        fn call(&mut self, task: Task) {
            let begin = self.now;
            if self.end() <= begin {
                return self.record(&task, End::Never, false, begin);
            }
            self.add(&task, "begins");
            let takes = begin + task.takes;
            let is_endless = matches!(task.end, End::Never);
            let finish = if is_endless { NEVER } else { takes };
            let limit = begin + ms(self.limits.call);
            self.wait(|it| finish.min(limit).min(it.end()), |_| false);
            self.has_tie |= finish == limit || finish == self.end();
            let end = if finish <= self.now { task.end } else { End::Never };
            self.record(&task, end, false, begin);
        }

        fn stop_part(&mut self, entry: usize) {
            let find =
                |it: &Self| it.live.iter().position(|l| l.entry == entry);
            let Some(at) = find(self) else { return };
            let task = self.live[at].task;
            let since = self.now;
            if since < self.end() {
                self.add(&task, "is cancelled");
            }
            self.live[at].cancelled = Some(since);
            self.wait(Self::end, |it| find(it).is_none());
            if let Some(at) = find(self) {
                self.live.remove(at);
                self.record(&task, End::Never, false, since);
            }
        }
    }
}

mod startup {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_part_starts_when_the_previous_part_is_ready() {
        let mut scenario = Scenario::new(LIMITS);
        for name in ["db", "queue", "http"] {
            scenario.part(name);
        }
        let (log, _) = scenario.cancel_after(seconds(10)).await;
        log.expect_before(
            10_000,
            &[
                (0, "db starts"),
                (1000, "db is ready"),
                (1000, "queue starts"),
                (2000, "queue is ready"),
                (2000, "http starts"),
                (3000, "http is ready"),
            ],
        );
    }

    #[tokio::test(start_paused = true)]
    async fn each_start_hook_completes_before_the_next_part_or_hook_starts() {
        let mut scenario = Scenario::new(LIMITS);
        scenario.on_start("migrate", End::Ok);
        scenario.part("db");
        scenario.on_start("warm up", End::Ok);
        scenario.on_stop("flush", End::Ok);
        scenario.part("http");
        let (log, _) = scenario.cancel_after(seconds(10)).await;
        log.expect_before(
            10_000,
            &[
                (0, "migrate begins"),
                (100, "migrate ends"),
                (100, "db starts"),
                (1100, "db is ready"),
                (1100, "warm up begins"),
                (1200, "warm up ends"),
                (1200, "http starts"),
                (2200, "http is ready"),
            ],
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_drops_its_ready_handle_does_not_count_as_ready() {
        let mut scenario = Scenario::new(LIMITS);
        let log = scenario.log.clone();
        let drops_ready = async move |ready: Ready, stop: CancellationToken| {
            drop(ready);
            stop.cancelled().await;
            log.add("db is cancelled".to_owned());
            Ok(())
        };
        scenario.plan.part("db", drops_ready);
        scenario.on_start("warm up", End::Ok);
        scenario.registry(End::Ok, End::Ok);
        let (log, report) = scenario.cancel_after(seconds(10)).await;
        log.expect_since(0, &[(10_000, "db is cancelled")]);
        report.expect_failures(&[]);
    }

    #[tokio::test(start_paused = true)]
    async fn register_is_called_when_all_parts_are_ready() {
        let mut scenario = Scenario::with_two_parts(LIMITS);
        scenario.on_start("warm up", End::Ok);
        let (log, _) = scenario.cancel_after(seconds(10)).await;
        log.expect_before(
            10_000,
            &[
                (0, "db starts"),
                (1000, "db is ready"),
                (1000, "http starts"),
                (2000, "http is ready"),
                (2000, "warm up begins"),
                (2100, "warm up ends"),
                (2100, "register begins"),
                (2200, "register ends"),
            ],
        );
    }
}

mod shutdown {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn parts_stop_one_at_a_time_in_reverse_order() {
        let mut scenario = Scenario::new(LIMITS);
        for name in ["db", "queue", "http"] {
            scenario.part(name);
        }
        let (log, report) = scenario.cancel_after(seconds(10)).await;
        log.expect_since(
            10_000,
            &[
                (10_000, "http is cancelled"),
                (11_000, "http ends"),
                (11_000, "queue is cancelled"),
                (12_000, "queue ends"),
                (12_000, "db is cancelled"),
                (13_000, "db ends"),
            ],
        );
        report.expect_failures(&[]);
        report.expect_took(seconds(3));
    }

    #[tokio::test(start_paused = true)]
    async fn parts_are_cancelled_after_deregister_and_the_lame_duck_period() {
        let scenario = Scenario::with_two_parts(LIMITS);
        let (log, report) = scenario.cancel_after(seconds(10)).await;
        log.expect_since(
            10_000,
            &[
                (10_000, "deregister begins"),
                (10_100, "deregister ends"),
                (15_100, "http is cancelled"),
                (16_100, "http ends"),
                (16_100, "db is cancelled"),
                (17_100, "db ends"),
            ],
        );
        report.expect_failures(&[]);
    }

    #[tokio::test(start_paused = true)]
    async fn stop_hooks_run_and_parts_stop_in_one_common_reverse_order() {
        let mut scenario = Scenario::new(LIMITS);
        scenario.on_stop("goodbye", End::Ok);
        scenario.part("db");
        scenario.on_stop("flush", End::Ok);
        scenario.part("http");
        scenario.on_stop("log", End::Ok);
        let (log, report) = scenario.cancel_after(seconds(10)).await;
        log.expect_since(
            10_000,
            &[
                (10_000, "log begins"),
                (10_100, "log ends"),
                (10_100, "http is cancelled"),
                (11_100, "http ends"),
                (11_100, "flush begins"),
                (11_200, "flush ends"),
                (11_200, "db is cancelled"),
                (12_200, "db ends"),
                (12_200, "goodbye begins"),
                (12_300, "goodbye ends"),
            ],
        );
        report.expect_failures(&[]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_parts_or_hooks_are_started_after_a_cancellation() {
        let mut scenario = Scenario::new(LIMITS);
        scenario.on_stop("goodbye", End::Ok);
        scenario.part("db");
        scenario.part("queue");
        scenario.on_stop("flush", End::Ok);
        scenario.part("http");
        scenario.registry(End::Ok, End::Ok);
        // The queue is not ready yet.
        let (log, report) =
            scenario.cancel_after(Duration::from_millis(1500)).await;
        log.expect_since(
            1001,
            &[
                // This part checks its token only when it is ready.
                (2000, "queue is ready"),
                (2000, "queue is cancelled"),
                (3000, "queue ends"),
                (3000, "db is cancelled"),
                (4000, "db ends"),
                (4000, "goodbye begins"),
                (4100, "goodbye ends"),
            ],
        );
        report.expect_failures(&[]);
        report.expect_took(Duration::from_millis(2600));
    }

    #[tokio::test(start_paused = true)]
    async fn no_part_or_hook_is_started_if_run_is_cancelled_before_startup() {
        let mut full = Scenario::with_two_parts(LIMITS);
        full.on_start("warm up", End::Ok);
        full.on_stop("goodbye", End::Ok);
        let mut empty = Scenario::new(LIMITS);
        empty.registry(End::Ok, End::Ok);
        for Scenario { plan, log } in [full, empty] {
            let stop = CancellationToken::new();
            stop.cancel();
            let report = timeout(HOUR, run(plan, stop)).await;
            let Report { steps, .. } =
                report.expect("`run` should return within an hour");
            log.expect_since(0, &[]);
            assert!(steps.is_empty(), "expected no steps, seen: {steps:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_running_register_call_completes_after_cancellation() {
        let mut scenario = Scenario::new(LIMITS);
        scenario.part("http");
        scenario.registry(End::Ok, End::Ok);
        let (log, report) =
            scenario.cancel_after(Duration::from_millis(1050)).await;
        log.expect_since(
            1001,
            &[
                (1100, "register ends"),
                (1100, "deregister begins"),
                (1200, "deregister ends"),
                (6200, "http is cancelled"),
                (7200, "http ends"),
            ],
        );
        report.expect_failures(&[]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_report_states_how_long_each_step_took() {
        let mut scenario = Scenario::new(LIMITS);
        scenario.on_stop("goodbye", End::Ok);
        scenario.stopping_part("db", seconds(3), End::Ok);
        scenario.on_start("warm up", End::Ok);
        scenario.part("http");
        scenario.registry(End::Ok, End::Ok);
        let (_, CheckedReport(report)) =
            scenario.cancel_after(seconds(10)).await;
        let seen: Vec<_> = report
            .steps
            .iter()
            .map(|step| (step.name, text(&step.ended), step.took))
            .collect();
        let ok = |name, took| (name, "ok".to_owned(), took);
        assert_same(
            "steps of the report",
            &seen,
            &[
                ok("warm up", CALL_TIME),
                ok("register", CALL_TIME),
                ok("deregister", CALL_TIME),
                ok("http", seconds(1)),
                ok("db", seconds(3)),
                ok("goodbye", CALL_TIME),
            ],
        );
        assert_eq!(
            report.took,
            Duration::from_millis(9200),
            "time that shutdown took"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn renewals_of_the_registration_end_before_deregister() {
        for is_dropped in [false, true] {
            let mut scenario = Scenario::new(LIMITS);
            scenario.part("http");
            let log = scenario.log.clone();
            let renew = move || {
                let log = log.clone();
                async move {
                    log.add("renew begins".to_owned());
                    sleep(3 * CALL_TIME).await;
                    log.add("renew ends".to_owned());
                    Err("no answer".into())
                }
            };
            let register = scenario.call("register", End::Ok);
            let deregister = scenario.call("deregister", End::Ok);
            let plan = &mut scenario.plan;
            plan.registry_with_renewal(register, seconds(1), renew, deregister);
            let log = scenario.log.clone();
            let during_a_renewal = Duration::from_millis(3500);
            if is_dropped {
                let run = scenario.run_uncancelled();
                drop(timeout(during_a_renewal, run).await);
                sleep(HOUR).await;
            } else {
                let (_, report) = scenario.cancel_after(during_a_renewal).await;
                report.expect_failures(&[]);
            }
            let renewals = [(2100, "renew begins"), (2400, "renew ends")];
            let then = match is_dropped {
                true => &[(3500, "http is aborted")][..],
                false => &[
                    (3700, "renew ends"),
                    (3700, "deregister begins"),
                    (3800, "deregister ends"),
                    (8800, "http is cancelled"),
                    (9800, "http ends"),
                ],
            };
            let last = &[(3400, "renew begins")];
            log.expect_since(1101, &[&renewals[..], last, then].concat());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_run_aborts_all_parts_and_does_not_deregister() {
        let scenario = Scenario::with_two_parts(LIMITS);
        let run = run(scenario.plan, CancellationToken::new());
        let timed_out = timeout(seconds(10), run).await;
        assert!(timed_out.is_err(), "`run` returned without a cancellation");
        sleep(seconds(20)).await;
        let mut events = scenario.log.events.lock().unwrap().clone();
        events.retain(|(ms, _)| *ms >= 10_000);
        events.sort();
        let aborted = |name| (10_000, format!("{name} is aborted"));
        let expected = [aborted("db"), aborted("http")];
        assert_same("events after the drop", &events, &expected);
    }
}

mod failures {
    use super::*;

    /// Runs three registered parts, of which the second one exits after 12 s.
    async fn exits_early(end: End) -> (Log, CheckedReport) {
        let mut scenario = Scenario::new(LIMITS);
        scenario.part("db");
        scenario.exiting_part("http", seconds(10), end);
        scenario.part("queue");
        scenario.registry(End::Ok, End::Ok);
        scenario.run_uncancelled().await
    }

    const SHUTDOWN: [(u64, &str); 6] = [
        (12_000, "deregister begins"),
        (12_100, "deregister ends"),
        (17_100, "queue is cancelled"),
        (18_100, "queue ends"),
        (18_100, "db is cancelled"),
        (19_100, "db ends"),
    ];

    fn not_http(ms: u64, event: &str) -> bool {
        ms >= 12_000 && !event.starts_with("http")
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_part_begins_a_complete_shutdown() {
        let (log, report) = exits_early(End::Error("broken")).await;
        log.expect(not_http, &SHUTDOWN);
        report.expect_failures(&[("http", "failed: broken")]);
        let http = report.0.failures().next().map(|step| step.took);
        assert_eq!(
            http,
            Some(Duration::ZERO),
            "time of http, which was not cancelled"
        );
        report.expect_took(Duration::from_millis(7100));
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_returns_before_it_is_cancelled_counts_as_failed() {
        let (log, report) = exits_early(End::Ok).await;
        log.expect(not_http, &SHUTDOWN);
        report.expect_failures(&[("http", "early")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_begins_shutdown_and_is_in_the_report() {
        let (log, report) = exits_early(End::Panic(Bug(7))).await;
        log.expect(not_http, &SHUTDOWN);
        report.expect_failures(&[("http", "panicked")]);
        let step = report.0.steps.into_iter().find(|step| step.name == "http");
        let Ended::Panicked(error) =
            step.expect("http is in the failures").ended
        else {
            unreachable!("http has panicked, as checked above");
        };
        let payload = error.into_panic();
        assert_eq!(
            payload.downcast_ref(),
            Some(&Bug(7)),
            "payload of the panic"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_in_the_function_that_starts_a_part_is_a_failure() {
        let mut scenario = Scenario::new(LIMITS);
        scenario.part("db");
        let (sender, id) = oneshot::channel();
        let start = |_: Ready, _: CancellationToken| -> Work {
            sender.send(task::try_id()).unwrap();
            panic_any(Bug(8))
        };
        scenario.plan.entries.push(("http", Entry::Part(Box::new(start))));
        scenario.registry(End::Ok, End::Ok);
        let (log, report) = scenario.run_uncancelled().await;
        let then = [(1000, "db is cancelled"), (2000, "db ends")];
        log.expect_since(1000, &[&[(1000, "db is ready")], &then[..]].concat());
        report.expect_failures(&[("http", "panicked")]);
        let id = id.await.expect("the function is called");
        id.expect("the function should run in the task of its part");
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_fails_before_it_is_ready_ends_startup() {
        let mut scenario = Scenario::new(LIMITS);
        scenario.part("db");
        scenario.plan.part("queue", async |_ready: Ready, _stop| {
            sleep(seconds(1)).await;
            Err("broken".into())
        });
        scenario.part("http");
        scenario.on_stop("flush", End::Ok);
        scenario.registry(End::Ok, End::Ok);
        let (log, report) = scenario.run_uncancelled().await;
        let then = [(2000, "db is cancelled"), (3000, "db ends")];
        log.expect_since(1001, &then);
        report.expect_failures(&[("queue", "failed: broken")]);
    }

    #[tokio::test(start_paused = true)]
    async fn startup_ends_if_a_part_fails_while_another_part_starts() {
        let mut scenario = Scenario::new(LIMITS);
        scenario.exiting_part("db", seconds(5), End::Error("broken"));
        let log = scenario.log.clone();
        let never_ready =
            async move |_ready: Ready, stop: CancellationToken| {
                stop.cancelled().await;
                log.add("queue is cancelled".to_owned());
                Ok(())
            };
        scenario.plan.part("queue", never_ready);
        scenario.part("http");
        scenario.registry(End::Ok, End::Ok);
        let (log, report) = scenario.run_uncancelled().await;
        log.expect_since(
            1001,
            &[(6000, "db exits early"), (6000, "queue is cancelled")],
        );
        report.expect_failures(&[("db", "failed: broken")]);
    }

    #[tokio::test(start_paused = true)]
    async fn startup_ends_if_shutdown_begins_as_a_hook_or_part_succeeds() {
        for case in 0..16 {
            let (is_hook, is_failure) = (case & 1 == 0, case & 2 == 0);
            let [stop, failure] = [(); 2].map(|()| CancellationToken::new());
            let cause = if is_failure { &failure } else { &stop }.clone();
            let mut scenario = Scenario::new(LIMITS);
            let plan = &mut scenario.plan;
            plan.part("db", async move |ready: Ready, stop| {
                ready.set();
                let failed = stop.run_until_cancelled(failure.cancelled());
                failed.await.map_or(Ok(()), |()| Err("broken".into()))
            });
            let hook = async move {
                sleep(CALL_TIME).await;
                cause.cancel();
                Ok(())
            };
            match is_hook {
                true => plan.on_start("migrate", hook),
                false => plan.part("queue", async |ready: Ready, stop| {
                    hook.await?;
                    ready.set();
                    stop.cancelled().await;
                    Ok(())
                }),
            }
            match case / 4 {
                0 => scenario.part("http"),
                1 => scenario.on_start("warm up", End::Ok),
                2 => scenario.on_stop("flush", End::Ok),
                _ => scenario.registry(End::Ok, End::Ok),
            }
            let report = timeout(HOUR, run(scenario.plan, stop)).await;
            let report = report.expect("`run` should return within an hour");
            scenario.log.expect_since(0, &[]);
            let failures = &[("db", "failed: broken")][..is_failure.into()];
            CheckedReport(report).expect_failures(failures);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_stops_on_its_own_during_shutdown_has_failed() {
        let mut scenario = Scenario::new(LIMITS);
        let plan = &mut scenario.plan;
        let (http_ends, http_ended) = oneshot::channel();
        let (flush_ends, flush_ended) = oneshot::channel();
        let tokens = Arc::new(Mutex::new(Vec::new()));
        let pool = |ended: oneshot::Receiver<()>| {
            let tokens = tokens.clone();
            async move |ready: Ready, stop: CancellationToken| {
                tokens.lock().unwrap().push(stop);
                ready.set();
                let _ = ended.await;
                Ok(())
            }
        };
        plan.part("pool", pool(http_ended));
        plan.part("http", async |ready: Ready, stop| {
            ready.set();
            stop.cancelled().await;
            let _ = http_ends.send(());
            Ok(())
        });
        plan.part("queue", pool(flush_ended));
        plan.on_stop("flush", async {
            let _ = flush_ends.send(());
            Ok(())
        });
        let (_, report) = scenario.cancel_after(seconds(10)).await;
        report.expect_failures(&[("queue", "early"), ("pool", "early")]);
        assert!(
            tokens.lock().unwrap().iter().all(|token| token.is_cancelled()),
            "expected the tokens of both parts to be cancelled after the parts \
             have ended: other tasks of the parts may wait for them"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn startup_ends_if_a_start_hook_fails() {
        let ends = [
            (End::Error("broken"), "failed: broken"),
            (End::Panic(Bug(1)), "panicked"),
        ];
        for (end, text) in ends {
            let mut scenario = Scenario::new(LIMITS);
            scenario.part("db");
            scenario.on_start("migrate", end);
            scenario.on_start("warm up", End::Ok);
            scenario.part("http");
            let (log, report) = scenario.run_uncancelled().await;
            log.expect_since(
                1001,
                &[(1100, "db is cancelled"), (2100, "db ends")],
            );
            report.expect_failures(&[("migrate", text)]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn deregister_is_called_after_a_failed_register() {
        let mut scenario = Scenario::new(LIMITS);
        scenario.part("http");
        scenario.registry(End::Error("no answer"), End::Ok);
        let (log, report) = scenario.run_uncancelled().await;
        log.expect_since(
            1001,
            &[
                (1100, "deregister begins"),
                (1200, "deregister ends"),
                (6200, "http is cancelled"),
                (7200, "http ends"),
            ],
        );
        report.expect_failures(&[("register", "failed: no answer")]);
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_continues_after_a_failed_step() {
        let mut scenario = Scenario::new(LIMITS);
        scenario.part("db");
        scenario.on_stop("flush", End::Panic(Bug(2)));
        scenario.stopping_part("http", seconds(1), End::Error("broken"));
        scenario.registry(End::Ok, End::Error("no answer"));
        let (log, _) = scenario.cancel_after(seconds(10)).await;
        log.expect_since(
            10_000,
            &[
                (10_000, "deregister begins"),
                (15_100, "http is cancelled"),
                (16_100, "flush begins"),
                (16_200, "db is cancelled"),
                (17_200, "db ends"),
            ],
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_report_has_all_failures_in_the_order_they_happened() {
        let mut scenario = Scenario::new(LIMITS);
        scenario.stopping_part("db", seconds(1), End::Error("disk full"));
        scenario.on_stop("flush", End::Panic(Bug(3)));
        scenario.exiting_part("http", seconds(10), End::Error("broken"));
        // During the lame-duck period, before its cancellation.
        scenario.exiting_part("queue", seconds(10), End::Ok);
        scenario.stopping_part(
            "metrics",
            seconds(1),
            End::Error("broken, too"),
        );
        scenario.registry(End::Ok, End::Error("no answer"));
        let (_, report) = scenario.run_uncancelled().await;
        report.expect_failures(&[
            ("http", "failed: broken"),
            ("deregister", "failed: no answer"),
            ("queue", "early"),
            ("metrics", "failed: broken, too"),
            ("flush", "panicked"),
            ("db", "failed: disk full"),
        ]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_lame_duck_period_ends_early_only_when_no_part_is_left() {
        let events = [
            (11_000, "http exits early"),
            (11_000, "deregister begins"),
            (11_100, "deregister ends"),
            (13_000, "metrics exits early"),
            (16_100, "db is cancelled"),
            (17_100, "db ends"),
        ];
        let cases = [(false, &events[..4], 2000), (true, &events, 6100)];
        for (has_db, events, took) in cases {
            let mut scenario = Scenario::new(LIMITS);
            for (name, exits) in [("http", 10), ("metrics", 11)] {
                let end = End::Error("broken");
                scenario.exiting_part(name, seconds(exits), end);
            }
            if has_db {
                scenario.part("db");
            }
            scenario.registry(End::Ok, End::Ok);
            let (log, report) = scenario.run_uncancelled().await;
            log.expect_since(11_000, events);
            report.expect_took(Duration::from_millis(took));
        }
    }
}

mod budget {
    use super::*;

    const TEN: Limits = Limits { budget: seconds(10), ..LIMITS };

    fn is_abort(_: u64, event: &str) -> bool {
        event.ends_with("is aborted")
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_running_at_the_end_of_the_budget_are_aborted() {
        let mut scenario = Scenario::new(TEN);
        scenario.on_stop("goodbye", End::Ok);
        // It would stop at once.
        scenario.stopping_part("db", Duration::ZERO, End::Ok);
        scenario.stopping_part("http", seconds(1), End::Never);
        scenario.part("metrics");
        let (log, CheckedReport(mut report)) =
            scenario.cancel_after(seconds(10)).await;
        // The order of the two is not fixed.
        log.events.lock().unwrap().sort();
        log.expect(
            is_abort,
            &[(20_000, "db is aborted"), (20_000, "http is aborted")],
        );
        report.steps.sort_by_key(|step| step.name);
        let report = CheckedReport(report);
        report.expect_failures(&[
            ("db", "aborted"),
            ("goodbye", "aborted"),
            ("http", "aborted"),
        ]);
        report.expect_took(seconds(10));
    }

    // With two threads, a task can run as soon as it is spawned.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_hook_is_started_after_the_shutdown_budget_has_ended() {
        const HOOKS: usize = 200;
        let mut plan = Plan::new(Limits { budget: Duration::ZERO, ..LIMITS });
        let begun = Arc::new(AtomicUsize::new(0));
        for _ in 0..HOOKS {
            let begun = begun.clone();
            plan.on_stop("flush", async move {
                begun.fetch_add(1, Relaxed);
                Ok(())
            });
        }
        plan.part("db", async |ready: Ready, _stop| {
            ready.set();
            Err("broken".into())
        });
        // On a worker thread, as in a program that spawns `run`.
        let run = tokio::spawn(run(plan, CancellationToken::new()));
        let report =
            timeout(DEADLINE, run).await.expect("`run` should return").unwrap();
        let begun = begun.load(Relaxed);
        assert_eq!(begun, 0, "hooks that were started, of {HOOKS}");
        let aborted = report.failures().filter(|step| step.name == "flush");
        assert_eq!(aborted.count(), HOOKS, "hooks reported as aborted");
    }

    /// Returns a task that blocks its thread until some time after the limit
    /// of `limit` has passed, and whether it still blocks.
    fn blocking_task(
        limit: Duration,
    ) -> (impl FnOnce() + Send, Arc<AtomicBool>) {
        let is_blocked = Arc::new(AtomicBool::new(true));
        let blocks = Arc::clone(&is_blocked);
        let block = move || {
            let end = std::time::Instant::now() + 3 * limit;
            while let Some(left) =
                end.checked_duration_since(std::time::Instant::now())
                && !left.is_zero()
            {
                std::thread::park_timeout(left);
            }
            blocks.store(false, Relaxed);
        };
        (block, is_blocked)
    }

    /// The task `blocked` exceeds its own limit, or a part exceeds the budget.
    async fn shutdown_waits_for(blocked: &'static str) {
        // Long enough that the task begins, also on a busy machine.
        let limit = Duration::from_millis(200);
        let limits = Limits { lame_duck: Duration::ZERO, ..LIMITS };
        let mut plan = Plan::new(match blocked {
            "http" => Limits { budget: limit, ..limits },
            _ => Limits { call: limit, ..limits },
        });
        let (block, is_blocked) = blocking_task(limit);
        let has_overlap = Arc::new(AtomicBool::new(false));
        let step = || {
            let (seen, of) = (has_overlap.clone(), is_blocked.clone());
            async move {
                seen.fetch_or(of.load(Relaxed), Relaxed);
                Ok(())
            }
        };
        plan.on_stop("goodbye", step());
        let queue = step();
        plan.part("queue", async |ready: Ready, stop| {
            ready.set();
            stop.cancelled().await;
            queue.await
        });
        let is_startup = matches!(blocked, "migrate" | "register");
        let work = async move {
            block();
            if is_startup { Err("late".into()) } else { pending().await }
        };
        match blocked {
            "migrate" => plan.on_start(blocked, work),
            "register" => plan.registry(work, step()),
            "flush" => plan.on_stop(blocked, work),
            _ => plan.part(blocked, async |ready: Ready, stop| {
                ready.set();
                stop.cancelled().await;
                work.await
            }),
        }
        if !is_startup {
            plan.part("db", async |ready: Ready, _stop| {
                ready.set();
                Err("broken".into())
            });
        }
        let run = tokio::spawn(run(plan, CancellationToken::new()));
        let report = timeout(DEADLINE, run).await;
        let report = report.expect("`run` should return");
        let report = report.expect("`run` should not panic");
        assert!(
            !is_blocked.load(Relaxed),
            "expected `run` to return after the aborted task `{blocked}` \
             has ended; it still runs: {report}"
        );
        assert!(
            !has_overlap.load(Relaxed),
            "expected the next step to begin after the aborted task \
             `{blocked}` has ended; it still ran: {report}"
        );
        let step = report.steps.iter().find(|step| step.name == blocked);
        assert!(
            step.is_some_and(|step| step.took > 2 * limit),
            "expected `{blocked}` to take at least 600 ms, until the \
             aborted task has ended: {report}"
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 8)]
    async fn shutdown_waits_for_an_aborted_task_that_blocks_its_thread() {
        let tasks = ["migrate", "register", "flush", "http"];
        for run in tasks.map(|task| tokio::spawn(shutdown_waits_for(task))) {
            if let Err(error) = run.await {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_parts_share_one_shutdown_budget() {
        let mut scenario = Scenario::new(TEN);
        for name in ["db", "queue", "http"] {
            scenario.stopping_part(name, seconds(4), End::Ok);
        }
        let (log, report) = scenario.cancel_after(seconds(10)).await;
        log.expect_since(
            10_000,
            &[
                (10_000, "http is cancelled"),
                (14_000, "http ends"),
                (14_000, "queue is cancelled"),
                (18_000, "queue ends"),
                (18_000, "db is cancelled"),
                (20_000, "db is aborted"),
            ],
        );
        report.expect_failures(&[("db", "aborted")]);
        report.expect_took(seconds(10));
    }

    #[tokio::test(start_paused = true)]
    async fn the_budget_starts_when_shutdown_begins() {
        let mut scenario = Scenario::new(TEN);
        scenario.stopping_part("db", seconds(1), End::Never);
        scenario.exiting_part("http", seconds(10), End::Error("broken"));
        scenario.registry(End::Ok, End::Ok);
        let (log, report) = scenario.run_uncancelled().await;
        // The lame-duck period has used up a part of the budget.
        log.expect(
            |_, event| event.ends_with("is cancelled"),
            &[(17_100, "db is cancelled")],
        );
        report.expect_took(seconds(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_hangs_during_shutdown_is_aborted_at_its_limit() {
        let mut scenario = Scenario::new(LIMITS);
        scenario.on_stop("goodbye", End::Never);
        scenario.part("db");
        scenario.on_stop("flush", End::Never);
        scenario.part("http");
        scenario.registry(End::Ok, End::Never);
        let (log, report) = scenario.cancel_after(seconds(10)).await;
        log.expect_since(
            10_000,
            &[
                (10_000, "deregister begins"),
                (17_000, "http is cancelled"),
                (18_000, "http ends"),
                (18_000, "flush begins"),
                (20_000, "db is cancelled"),
                (21_000, "db ends"),
                (21_000, "goodbye begins"),
            ],
        );
        report.expect_failures(&[
            ("deregister", "aborted"),
            ("flush", "aborted"),
            ("goodbye", "aborted"),
        ]);
        report.expect_took(seconds(13));
    }

    #[tokio::test(start_paused = true)]
    async fn a_register_call_that_hangs_is_aborted_and_shutdown_begins() {
        let mut scenario = Scenario::new(LIMITS);
        scenario.part("http");
        scenario.registry(End::Never, End::Ok);
        let (_, report) = scenario.run_uncancelled().await;
        report.expect_failures(&[("register", "aborted")]);
        let Report { steps, .. } = report.0;
        let took_of = |name| {
            let step = steps.iter().find(|step| step.name == name);
            step.map(|step| step.took)
        };
        assert_eq!(
            took_of("register"),
            Some(LIMITS.call),
            "time of register in {steps:?}"
        );
        assert_eq!(
            took_of("http"),
            Some(seconds(1)),
            "time of http in {steps:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_budget_also_limits_a_start_hook_that_is_still_running() {
        for (life, cancelled_at) in [(HOUR, seconds(5)), (seconds(4), HOUR)] {
            let mut scenario =
                Scenario::new(Limits { call: seconds(60), ..TEN });
            scenario.exiting_part("db", life, End::Error("broken"));
            scenario.on_start("migrate", End::Never);
            let (_, report) = scenario.cancel_after(cancelled_at).await;
            report.expect_took(seconds(10));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_lame_duck_period_ends_when_the_budget_ends() {
        let scenario =
            Scenario::with_two_parts(Limits { lame_duck: seconds(60), ..TEN });
        let (_, report) = scenario.cancel_after(seconds(10)).await;
        report.expect_took(seconds(10));
    }

    /// Runs random plans, and compares the log and the report with the model's.
    async fn compare_with_model(seeds: u64, can_fail: bool, budget: u64) {
        let mut compared = 0;
        for seed in 0..seeds {
            let plan = model::Random::new(seed, can_fail, budget);
            let Some(model) = plan.predict() else { continue };
            compared += 1;
            let scenario = plan.scenario();
            let stop = Duration::from_millis(plan.stop);
            let (log, CheckedReport(report)) =
                scenario.cancel_after(stop).await;
            let about = format!("plan {seed}: {plan:?}\n");
            // The order of what happens at the end of the budget is not fixed.
            let end = model.end();
            let mut seen = log.events.lock().unwrap().clone();
            seen.retain(|(ms, _)| *ms < end);
            let mut log = model.log.clone();
            log.retain(|(ms, _)| *ms < end);
            assert_same(&format!("{about}log (ms, event)"), &seen, &log);
            let mut seen: Vec<_> = report
                .steps
                .iter()
                .map(|step| {
                    (step.name, text(&step.ended), step.took.as_millis())
                })
                .collect();
            let mut steps: Vec<_> = model
                .steps
                .iter()
                .map(|(_, name, end, took)| {
                    (*name, end.clone(), (*took).into())
                })
                .collect();
            let fixed = model.steps.iter().filter(|(ms, ..)| *ms < end).count();
            seen.get_mut(fixed..).unwrap_or_default().sort();
            steps[fixed..].sort();
            assert_same(&format!("{about}steps"), &seen, &steps);
            let took = report.took.as_millis();
            assert_eq!(took, model.took().into(), "{about}ms of shutdown");
        }
        assert!(compared > seeds / 2, "too many ties: {compared} of {seeds}");
    }

    #[tokio::test(start_paused = true)]
    async fn random_plans_start_and_stop_in_order_and_in_time() {
        compare_with_model(100, false, 1_000_000).await;
        compare_with_model(1000, true, 1_000_000).await;
        compare_with_model(400, true, 6000).await;
        // The budget can end before the limit of a call.
        compare_with_model(400, true, 800).await;
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_run_at_any_time_drops_all_tasks_and_starts_none() {
        for seed in 1..200 {
            let mut plan = model::Random::new(seed, true, 6000);
            let Scenario { plan: entries, log } = plan.scenario();
            let drop_at = 1 + plan.below(25_000);
            let token = CancellationToken::new();
            let cancel = async {
                sleep(Duration::from_millis(plan.stop)).await;
                token.cancel();
                pending::<()>().await;
            };
            let run = async { drop(run(entries, token.clone()).await) };
            let both = async {
                tokio::select! { biased; () = run => {}, () = cancel => {} }
            };
            drop(timeout(Duration::from_millis(drop_at), both).await);
            let before = log.events.lock().unwrap().len();
            sleep(HOUR).await;
            let seen = log.events.lock().unwrap()[before..].to_vec();
            let about =
                format!("events after a drop at {drop_at} ms: {plan:?}");
            assert_same(&about, &seen, &[]);
            assert_eq!(
                Arc::strong_count(&log.events),
                1,
                "users of the log after the drop, the test included: a task \
                 or a call is left"
            );
        }
    }
}

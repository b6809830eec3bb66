use std::fmt::Debug;
use std::future::pending;
use std::panic::panic_any;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use week03::app::run;
use week03::plan::{Ended, Limits, Plan, Ready, Report};
use week03::signals::BoxError;

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Longer than any test, and shorter than for ever.
const TOO_LONG: Duration = seconds(3600);

/// Where time is not paused.
const DEADLINE: Duration = seconds(5);

const LIMITS: Limits =
    Limits { call: seconds(2), lame_duck: seconds(5), budget: seconds(25) };

/// What a call takes that does not hang.
const CALL: Duration = Duration::from_millis(100);

/// How something ends that is not told to.
#[derive(Clone, Copy)]
enum How {
    Ok,
    Error(&'static str),
    Panic(Bug),
    /// Never.
    Hangs,
}

/// What a part panics with.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bug(u32);

impl How {
    async fn ends(self) -> Result<(), BoxError> {
        match self {
            Self::Ok => Ok(()),
            Self::Error(error) => Err(error.into()),
            Self::Panic(bug) => panic_any(bug),
            Self::Hangs => pending().await,
        }
    }
}

/// What happens, each with the milliseconds since the beginning.
#[derive(Clone)]
struct Log {
    start: Instant,
    lines: Arc<Mutex<Vec<(u64, String)>>>,
}

impl Log {
    fn add(&self, line: String) {
        let ms = self.start.elapsed().as_millis().try_into().unwrap();
        self.lines.lock().unwrap().push((ms, line));
    }

    /// Of what has happened, that which is `of`.
    #[track_caller]
    fn shows(&self, of: impl Fn(u64, &str) -> bool, expected: &[(u64, &str)]) {
        let lines = self.lines.lock().unwrap().clone();
        let seen: Vec<_> = lines
            .iter()
            .map(|(ms, line)| (*ms, line.as_str()))
            .filter(|(ms, line)| of(*ms, line))
            .collect();
        same(&seen, expected);
    }

    /// What has happened since `ms`.
    #[track_caller]
    fn shows_since(&self, ms: u64, expected: &[(u64, &str)]) {
        self.shows(|at, _| at >= ms, expected);
    }

    /// What has happened before `ms`.
    #[track_caller]
    fn shows_before(&self, ms: u64, expected: &[(u64, &str)]) {
        self.shows(|at, _| at < ms, expected);
    }
}

/// Lists that are the same. If not, it is shown where they differ.
#[track_caller]
fn same<T: Debug + PartialEq>(seen: &[T], expected: &[T]) {
    let alike = |(seen, expected): &(&T, &T)| seen == expected;
    let before = seen.iter().zip(expected).take_while(alike).count();
    let rest = seen[before..].iter().rev().zip(expected[before..].iter().rev());
    let after = rest.take_while(alike).count();
    let differs = |list: &[T]| {
        let list = &list[before..list.len() - after];
        let lines = list.iter().map(|line| format!("\n  {line:?}"));
        let lines: String = lines.collect();
        if lines.is_empty() { "\n  nothing".to_owned() } else { lines }
    };
    assert!(
        seen == expected,
        "{before} as expected, then\nexpected:{}\nseen:{}\nand {after} as \
         expected",
        differs(expected),
        differs(seen)
    );
}

/// Logs it when a part is dropped that has not come to its end.
struct CutOff {
    log: Log,
    name: &'static str,
    has_ended: bool,
}

impl Drop for CutOff {
    fn drop(&mut self) {
        if !self.has_ended {
            self.log.add(format!("{} is cut off", self.name));
        }
    }
}

/// A plan, and what has happened in it.
struct Story {
    plan: Plan,
    log: Log,
}

impl Story {
    fn of(limits: Limits) -> Self {
        let log = Log { start: Instant::now(), lines: Arc::default() };
        Self { plan: Plan::new(limits), log }
    }

    /// Is ready after a second, and takes a second to end.
    fn part(&mut self, name: &'static str) {
        self.part_with(name, TOO_LONG, How::Hangs, seconds(1), How::Ok);
    }

    /// Is ready after a second, and dies when it has served for `life`.
    fn part_that_dies(&mut self, name: &'static str, life: Duration, how: How) {
        self.part_with(name, life, how, seconds(1), How::Ok);
    }

    /// When it is told to stop, it takes `takes`, and then ends.
    fn part_told(&mut self, name: &'static str, takes: Duration, how: How) {
        self.part_with(name, TOO_LONG, How::Hangs, takes, how);
    }

    fn part_with(
        &mut self,
        name: &'static str,
        life: Duration,
        untold: How,
        takes: Duration,
        told: How,
    ) {
        let log = self.log.clone();
        let part = async move |ready: Ready, stop: CancellationToken| {
            let mut part = CutOff { log: log.clone(), name, has_ended: false };
            log.add(format!("{name} starts"));
            sleep(seconds(1)).await;
            log.add(format!("{name} is ready"));
            ready.set();
            let end = match stop.run_until_cancelled(sleep(life)).await {
                Some(()) => {
                    log.add(format!("{name} dies"));
                    untold
                }
                None => {
                    log.add(format!("{name} is told"));
                    sleep(takes).await;
                    told
                }
            };
            if let How::Hangs = end {
                pending().await
            }
            part.has_ended = true;
            if let How::Ok = end {
                log.add(format!("{name} ends"));
            }
            end.ends().await
        };
        self.plan.part(name, part);
    }

    /// Takes [`CALL`], and then ends.
    fn call(
        &self,
        name: &'static str,
        how: How,
    ) -> impl Future<Output = Result<(), BoxError>> + Send + 'static {
        let log = self.log.clone();
        async move {
            log.add(format!("{name} begins"));
            sleep(CALL).await;
            how.ends().await?;
            log.add(format!("{name} ends"));
            Ok(())
        }
    }

    fn on_start(&mut self, name: &'static str, how: How) {
        let hook = self.call(name, how);
        self.plan.on_start(name, hook);
    }

    fn on_stop(&mut self, name: &'static str, how: How) {
        let hook = self.call(name, how);
        self.plan.on_stop(name, hook);
    }

    fn registry(&mut self, register: How, deregister: How) {
        let register = self.call("register", register);
        let deregister = self.call("deregister", deregister);
        self.plan.registry(register, deregister);
    }

    /// Two parts and a registry.
    fn of_two(limits: Limits) -> Self {
        let mut story = Self::of(limits);
        story.part("db");
        story.part("http");
        story.registry(How::Ok, How::Ok);
        story
    }

    /// Runs it, and tells it to stop after `told`.
    async fn until(self, told: Duration) -> (Log, Seen) {
        let stop = CancellationToken::new();
        let teller = async {
            sleep(told).await;
            stop.cancel();
            pending().await
        };
        let report = async {
            let report = timeout(TOO_LONG, run(self.plan, stop.clone())).await;
            report.expect("it ends within an hour")
        };
        let report = tokio::select! {
            // The same order each time.
            biased;
            report = report => report,
            () = teller => unreachable!("it is pending"),
        };
        (self.log, Seen(report))
    }

    /// Runs it, and tells it nothing.
    async fn untold(self) -> (Log, Seen) {
        self.until(2 * TOO_LONG).await
    }
}

/// A report, and what it says.
struct Seen(Report);

impl Seen {
    #[track_caller]
    fn took(&self, expected: Duration) {
        assert_eq!(self.0.took, expected, "what the stop took");
    }

    /// What has not ended well.
    #[track_caller]
    fn failures(&self, expected: &[(&str, &str)]) {
        let failures = self.0.failures();
        let failures: Vec<_> =
            failures.map(|step| (step.name, text(&step.ended))).collect();
        let failures: Vec<_> =
            failures.iter().map(|(name, how)| (*name, how.as_str())).collect();
        same(&failures, expected);
    }
}

fn text(ended: &Ended) -> String {
    match ended {
        Ended::Well => "well".to_owned(),
        Ended::Unasked => "unasked".to_owned(),
        Ended::Failed(error) => format!("failed: {error}"),
        Ended::Panicked(_) => "panicked".to_owned(),
        Ended::Aborted => "aborted".to_owned(),
    }
}

mod starts {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_part_starts_when_the_one_before_is_ready() {
        let mut story = Story::of(LIMITS);
        for name in ["db", "queue", "http"] {
            story.part(name);
        }
        let (log, _) = story.until(seconds(10)).await;
        log.shows_before(
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
    async fn a_hook_is_waited_for_in_its_turn() {
        let mut story = Story::of(LIMITS);
        story.on_start("migrate", How::Ok);
        story.part("db");
        story.on_start("warm up", How::Ok);
        story.on_stop("flush", How::Ok);
        story.part("http");
        let (log, _) = story.until(seconds(10)).await;
        log.shows_before(
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
    async fn a_part_that_drops_its_ready_has_not_said_so() {
        let mut story = Story::of(LIMITS);
        let log = story.log.clone();
        let says_nothing =
            async move |ready: Ready, stop: CancellationToken| {
                drop(ready);
                stop.cancelled().await;
                log.add("db is told".to_owned());
                Ok(())
            };
        story.plan.part("db", says_nothing);
        story.on_start("warm up", How::Ok);
        story.registry(How::Ok, How::Ok);
        let (log, seen) = story.until(seconds(10)).await;
        log.shows_since(0, &[(10_000, "db is told")]);
        seen.failures(&[]);
    }

    #[tokio::test(start_paused = true)]
    async fn it_registers_when_all_are_ready() {
        let mut story = Story::of_two(LIMITS);
        story.on_start("warm up", How::Ok);
        let (log, _) = story.until(seconds(10)).await;
        log.shows_before(
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

mod stops {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn parts_end_one_after_the_other_in_reverse() {
        let mut story = Story::of(LIMITS);
        for name in ["db", "queue", "http"] {
            story.part(name);
        }
        let (log, seen) = story.until(seconds(10)).await;
        log.shows_since(
            10_000,
            &[
                (10_000, "http is told"),
                (11_000, "http ends"),
                (11_000, "queue is told"),
                (12_000, "queue ends"),
                (12_000, "db is told"),
                (13_000, "db ends"),
            ],
        );
        seen.failures(&[]);
        seen.took(seconds(3));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_deregistered_first_and_all_serve_on() {
        let story = Story::of_two(LIMITS);
        let (log, seen) = story.until(seconds(10)).await;
        log.shows_since(
            10_000,
            &[
                (10_000, "deregister begins"),
                (10_100, "deregister ends"),
                (15_100, "http is told"),
                (16_100, "http ends"),
                (16_100, "db is told"),
                (17_100, "db ends"),
            ],
        );
        seen.failures(&[]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hook_of_the_stop_runs_in_its_turn() {
        let mut story = Story::of(LIMITS);
        story.on_stop("goodbye", How::Ok);
        story.part("db");
        story.on_stop("flush", How::Ok);
        story.part("http");
        story.on_stop("log", How::Ok);
        let (log, seen) = story.until(seconds(10)).await;
        log.shows_since(
            10_000,
            &[
                (10_000, "log begins"),
                (10_100, "log ends"),
                (10_100, "http is told"),
                (11_100, "http ends"),
                (11_100, "flush begins"),
                (11_200, "flush ends"),
                (11_200, "db is told"),
                (12_200, "db ends"),
                (12_200, "goodbye begins"),
                (12_300, "goodbye ends"),
            ],
        );
        seen.failures(&[]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_is_told_to_stop_goes_no_further() {
        let mut story = Story::of(LIMITS);
        story.on_stop("goodbye", How::Ok);
        story.part("db");
        story.part("queue");
        story.on_stop("flush", How::Ok);
        story.part("http");
        story.registry(How::Ok, How::Ok);
        // The queue is not ready yet.
        let (log, seen) = story.until(Duration::from_millis(1500)).await;
        log.shows_since(
            1001,
            &[
                // A part that looks at its token only when it is ready.
                (2000, "queue is ready"),
                (2000, "queue is told"),
                (3000, "queue ends"),
                (3000, "db is told"),
                (4000, "db ends"),
                (4000, "goodbye begins"),
                (4100, "goodbye ends"),
            ],
        );
        seen.failures(&[]);
        seen.took(Duration::from_millis(2600));
    }

    #[tokio::test(start_paused = true)]
    async fn told_before_the_start_it_starts_nothing() {
        let mut full = Story::of_two(LIMITS);
        full.on_start("warm up", How::Ok);
        full.on_stop("goodbye", How::Ok);
        let mut empty = Story::of(LIMITS);
        empty.registry(How::Ok, How::Ok);
        for Story { plan, log } in [full, empty] {
            let stop = CancellationToken::new();
            stop.cancel();
            let report = timeout(TOO_LONG, run(plan, stop)).await;
            let Report { steps, .. } = report.expect("it ends within an hour");
            log.shows_since(0, &[]);
            assert!(steps.is_empty(), "what has ended: {steps:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_register_under_way_is_let_end() {
        let mut story = Story::of(LIMITS);
        story.part("http");
        story.registry(How::Ok, How::Ok);
        let (log, seen) = story.until(Duration::from_millis(1050)).await;
        log.shows_since(
            1001,
            &[
                (1100, "register ends"),
                (1100, "deregister begins"),
                (1200, "deregister ends"),
                (6200, "http is told"),
                (7200, "http ends"),
            ],
        );
        seen.failures(&[]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_report_says_what_took_how_long() {
        let mut story = Story::of(LIMITS);
        story.on_stop("goodbye", How::Ok);
        story.part_told("db", seconds(3), How::Ok);
        story.on_start("warm up", How::Ok);
        story.part("http");
        story.registry(How::Ok, How::Ok);
        let (_, Seen(report)) = story.until(seconds(10)).await;
        let seen: Vec<_> = report
            .steps
            .iter()
            .map(|step| (step.name, text(&step.ended), step.took))
            .collect();
        let well = |name, took| (name, "well".to_owned(), took);
        same(
            &seen,
            &[
                well("warm up", CALL),
                well("register", CALL),
                well("deregister", CALL),
                well("http", seconds(1)),
                well("db", seconds(3)),
                well("goodbye", CALL),
            ],
        );
        assert_eq!(report.took, Duration::from_millis(9200), "in all");
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_is_given_up_leaves_nothing() {
        let story = Story::of_two(LIMITS);
        let run = run(story.plan, CancellationToken::new());
        let given_up = timeout(seconds(10), run).await;
        assert!(given_up.is_err(), "it ends, and nobody has told it to");
        sleep(seconds(20)).await;
        let mut lines = story.log.lines.lock().unwrap().clone();
        lines.retain(|(ms, _)| *ms >= 10_000);
        lines.sort();
        let cut_off = |name| (10_000, format!("{name} is cut off"));
        same(&lines, &[cut_off("db"), cut_off("http")]);
    }
}

mod fails {
    use super::*;

    /// Of three parts that are registered, the second one dies after 12 s.
    async fn dies(how: How) -> (Log, Seen) {
        let mut story = Story::of(LIMITS);
        story.part("db");
        story.part_that_dies("http", seconds(10), how);
        story.part("queue");
        story.registry(How::Ok, How::Ok);
        story.untold().await
    }

    const WAY_OUT: [(u64, &str); 6] = [
        (12_000, "deregister begins"),
        (12_100, "deregister ends"),
        (17_100, "queue is told"),
        (18_100, "queue ends"),
        (18_100, "db is told"),
        (19_100, "db ends"),
    ];

    fn of_others(ms: u64, line: &str) -> bool {
        ms >= 12_000 && !line.starts_with("http")
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_fails_takes_all_the_same_way_out() {
        let (log, seen) = dies(How::Error("broken")).await;
        log.shows(of_others, &WAY_OUT);
        seen.failures(&[("http", "failed: broken")]);
        let http = seen.0.failures().next().map(|step| step.took);
        assert_eq!(http, Some(Duration::ZERO), "it was never told");
        seen.took(Duration::from_millis(7100));
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_ends_and_was_not_told_to_has_failed() {
        let (log, seen) = dies(How::Ok).await;
        log.shows(of_others, &WAY_OUT);
        seen.failures(&[("http", "unasked")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_a_failure_and_in_the_report() {
        let (log, seen) = dies(How::Panic(Bug(7))).await;
        log.shows(of_others, &WAY_OUT);
        seen.failures(&[("http", "panicked")]);
        let step = seen.0.steps.into_iter().find(|step| step.name == "http");
        let Ended::Panicked(error) = step.expect("it is there").ended else {
            unreachable!("it has just been looked at");
        };
        let payload = error.into_panic();
        assert_eq!(payload.downcast_ref(), Some(&Bug(7)), "the payload");
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_fails_before_it_is_ready_ends_the_start() {
        let mut story = Story::of(LIMITS);
        story.part("db");
        story.plan.part("queue", async |_ready: Ready, _stop| {
            sleep(seconds(1)).await;
            Err("broken".into())
        });
        story.part("http");
        story.on_stop("flush", How::Ok);
        story.registry(How::Ok, How::Ok);
        let (log, seen) = story.untold().await;
        let then = [(2000, "db is told"), (3000, "db ends")];
        log.shows_since(1001, &then);
        seen.failures(&[("queue", "failed: broken")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_dies_while_another_starts_ends_the_start() {
        let mut story = Story::of(LIMITS);
        story.part_that_dies("db", seconds(5), How::Error("broken"));
        let log = story.log.clone();
        let never_ready =
            async move |_ready: Ready, stop: CancellationToken| {
                stop.cancelled().await;
                log.add("queue is told".to_owned());
                Ok(())
            };
        story.plan.part("queue", never_ready);
        story.part("http");
        story.registry(How::Ok, How::Ok);
        let (log, seen) = story.untold().await;
        log.shows_since(1001, &[(6000, "db dies"), (6000, "queue is told")]);
        seen.failures(&[("db", "failed: broken")]);
    }

    /// A hook that returns `Ok`, and a part that fails in the same turn.
    fn fails_with_a_hook(story: &mut Story) {
        let (fail, told) = oneshot::channel();
        story.plan.part("db", async |ready: Ready, _stop| {
            ready.set();
            let _ = told.await;
            Err("broken".into())
        });
        story.plan.on_start("migrate", async {
            sleep(CALL).await;
            let _ = fail.send(());
            Ok(())
        });
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_while_a_hook_returns_ends_the_start() {
        let mut story = Story::of(LIMITS);
        fails_with_a_hook(&mut story);
        story.part("http");
        let (log, seen) = story.untold().await;
        log.shows_since(0, &[]);
        seen.failures(&[("db", "failed: broken")]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_failed_by_then_is_not_registered() {
        let mut story = Story::of(LIMITS);
        fails_with_a_hook(&mut story);
        story.registry(How::Ok, How::Ok);
        let (log, seen) = story.untold().await;
        log.shows_since(0, &[]);
        seen.failures(&[("db", "failed: broken")]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_ends_with_another_that_was_told_was_not_told() {
        let mut story = Story::of(LIMITS);
        let (ends, with_it) = oneshot::channel();
        story.plan.part("pool", async |ready: Ready, _stop| {
            ready.set();
            let _ = with_it.await;
            Ok(())
        });
        story.plan.part("http", async |ready: Ready, stop| {
            ready.set();
            stop.cancelled().await;
            let _ = ends.send(());
            Ok(())
        });
        let (_, seen) = story.until(seconds(10)).await;
        seen.failures(&[("pool", "unasked")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hook_that_fails_ends_the_start() {
        let ends = [
            (How::Error("broken"), "failed: broken"),
            (How::Panic(Bug(1)), "panicked"),
        ];
        for (how, text) in ends {
            let mut story = Story::of(LIMITS);
            story.part("db");
            story.on_start("migrate", how);
            story.on_start("warm up", How::Ok);
            story.part("http");
            let (log, seen) = story.untold().await;
            log.shows_since(1001, &[(1100, "db is told"), (2100, "db ends")]);
            seen.failures(&[("migrate", text)]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_register_that_fails_is_taken_back() {
        let mut story = Story::of(LIMITS);
        story.part("http");
        story.registry(How::Error("no answer"), How::Ok);
        let (log, seen) = story.untold().await;
        log.shows_since(
            1001,
            &[
                (1100, "deregister begins"),
                (1200, "deregister ends"),
                (6200, "http is told"),
                (7200, "http ends"),
            ],
        );
        seen.failures(&[("register", "failed: no answer")]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_in_the_stop_keeps_nothing_from_stopping() {
        let mut story = Story::of(LIMITS);
        story.part("db");
        story.on_stop("flush", How::Panic(Bug(2)));
        story.part_told("http", seconds(1), How::Error("broken"));
        story.registry(How::Ok, How::Error("no answer"));
        let (log, _) = story.until(seconds(10)).await;
        log.shows_since(
            10_000,
            &[
                (10_000, "deregister begins"),
                (15_100, "http is told"),
                (16_100, "flush begins"),
                (16_200, "db is told"),
                (17_200, "db ends"),
            ],
        );
    }

    #[tokio::test(start_paused = true)]
    async fn all_failures_are_kept_the_first_one_first() {
        let mut story = Story::of(LIMITS);
        story.part_told("db", seconds(1), How::Error("disk full"));
        story.on_stop("flush", How::Panic(Bug(3)));
        story.part_that_dies("http", seconds(10), How::Error("broken"));
        // In the lame duck, when it is not told to yet.
        story.part_that_dies("queue", seconds(10), How::Ok);
        story.part_told("metrics", seconds(1), How::Error("broken, too"));
        story.registry(How::Ok, How::Error("no answer"));
        let (_, seen) = story.untold().await;
        seen.failures(&[
            ("http", "failed: broken"),
            ("deregister", "failed: no answer"),
            ("queue", "unasked"),
            ("metrics", "failed: broken, too"),
            ("flush", "panicked"),
            ("db", "failed: disk full"),
        ]);
    }

    #[tokio::test(start_paused = true)]
    async fn when_nobody_is_left_who_serves_the_lame_duck_is_over() {
        let mut story = Story::of(LIMITS);
        story.part_that_dies("http", seconds(10), How::Error("broken"));
        story.part_that_dies("metrics", seconds(11), How::Error("broken, too"));
        story.registry(How::Ok, How::Ok);
        let (log, seen) = story.untold().await;
        log.shows_since(
            11_000,
            &[
                (11_000, "http dies"),
                (11_000, "deregister begins"),
                (11_100, "deregister ends"),
                (13_000, "metrics dies"),
            ],
        );
        seen.took(seconds(2));
    }
}

mod budget {
    use super::*;

    const TEN: Limits = Limits { budget: seconds(10), ..LIMITS };

    fn cut_off(_: u64, line: &str) -> bool {
        line.ends_with("is cut off")
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_when_it_is_over_is_cut_off() {
        let mut story = Story::of(TEN);
        story.on_stop("goodbye", How::Ok);
        story.part("db");
        story.part_told("http", seconds(1), How::Hangs);
        story.part("metrics");
        let (log, Seen(mut report)) = story.until(seconds(10)).await;
        // By the time that it returns, and in any order.
        log.lines.lock().unwrap().sort();
        log.shows(
            cut_off,
            &[(20_000, "db is cut off"), (20_000, "http is cut off")],
        );
        report.steps.sort_by_key(|step| step.name);
        let seen = Seen(report);
        seen.failures(&[
            ("db", "aborted"),
            ("goodbye", "aborted"),
            ("http", "aborted"),
        ]);
        seen.took(seconds(10));
    }

    // Threads that could run what has just been spawned.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_has_not_begun_when_it_is_over_does_not_begin() {
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
        // On a worker, as a program does that spawns it.
        let run = tokio::spawn(run(plan, CancellationToken::new()));
        let report = timeout(DEADLINE, run).await.expect("it ends").unwrap();
        let begun = begun.load(Relaxed);
        assert_eq!(begun, 0, "hooks that have begun, of {HOOKS}");
        let cut_off = report.failures().filter(|step| step.name == "flush");
        assert_eq!(cut_off.count(), HOOKS, "hooks that were cut off");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_one_for_all() {
        let mut story = Story::of(TEN);
        for name in ["db", "queue", "http"] {
            story.part_told(name, seconds(4), How::Ok);
        }
        let (log, seen) = story.until(seconds(10)).await;
        log.shows_since(
            10_000,
            &[
                (10_000, "http is told"),
                (14_000, "http ends"),
                (14_000, "queue is told"),
                (18_000, "queue ends"),
                (18_000, "db is told"),
                (20_000, "db is cut off"),
            ],
        );
        seen.failures(&[("db", "aborted")]);
        seen.took(seconds(10));
    }

    #[tokio::test(start_paused = true)]
    async fn it_counts_from_where_the_stop_begins() {
        let mut story = Story::of(TEN);
        story.part_told("db", seconds(1), How::Hangs);
        story.part_that_dies("http", seconds(10), How::Error("broken"));
        story.registry(How::Ok, How::Ok);
        let (log, seen) = story.untold().await;
        // Of which the lame duck takes a part.
        log.shows(
            |_, line| line.ends_with("is told"),
            &[(17_100, "db is told")],
        );
        seen.took(seconds(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_hangs_has_its_own_limit() {
        let mut story = Story::of(LIMITS);
        story.on_stop("goodbye", How::Hangs);
        story.part("db");
        story.on_stop("flush", How::Hangs);
        story.part("http");
        story.registry(How::Ok, How::Hangs);
        let (log, seen) = story.until(seconds(10)).await;
        log.shows_since(
            10_000,
            &[
                (10_000, "deregister begins"),
                (17_000, "http is told"),
                (18_000, "http ends"),
                (18_000, "flush begins"),
                (20_000, "db is told"),
                (21_000, "db ends"),
                (21_000, "goodbye begins"),
            ],
        );
        seen.failures(&[
            ("deregister", "aborted"),
            ("flush", "aborted"),
            ("goodbye", "aborted"),
        ]);
        seen.took(seconds(13));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_of_the_start_that_hangs_ends_the_start() {
        let mut story = Story::of(LIMITS);
        story.part("http");
        story.registry(How::Hangs, How::Ok);
        let (_, seen) = story.untold().await;
        seen.failures(&[("register", "aborted")]);
        let Report { steps, .. } = seen.0;
        let took_of = |name| {
            let step = steps.iter().find(|step| step.name == name);
            step.map(|step| step.took)
        };
        assert_eq!(took_of("register"), Some(LIMITS.call), "of {steps:?}");
        assert_eq!(took_of("http"), Some(seconds(1)), "of {steps:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn it_counts_while_a_call_of_the_start_is_let_end() {
        for (life, told) in [(TOO_LONG, seconds(5)), (seconds(4), TOO_LONG)] {
            let mut story = Story::of(Limits { call: seconds(60), ..TEN });
            story.part_that_dies("db", life, How::Error("broken"));
            story.on_start("migrate", How::Hangs);
            let (_, seen) = story.until(told).await;
            seen.took(seconds(10));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_lame_duck_does_not_outlive_it() {
        let story = Story::of_two(Limits { lame_duck: seconds(60), ..TEN });
        let (_, seen) = story.until(seconds(10)).await;
        seen.took(seconds(10));
    }
}

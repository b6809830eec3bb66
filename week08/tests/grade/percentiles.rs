use std::collections::{BTreeMap, BTreeSet};
use std::future::{pending, poll_fn};
use std::num::NonZero;
use std::panic::resume_unwind;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use lab::cancel::after_polls;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::{self, RngAlgorithm, TestRng, TestRunner};
use tokio::runtime::Builder;
use tokio::task::yield_now;
use tokio::time::{Instant, advance, sleep, sleep_until, timeout};
use week08::percentiles::{
    Connection, Failed, Outcome, Plan, Report, Spread, closed_loop, due,
    open_loop, spread,
};

const NANO: Duration = Duration::from_nanos(1);
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const YEARS: Duration = Duration::from_secs(1_000 * 31_557_600);

mod schedule {
    use super::*;

    #[test]
    fn requests_are_due_at_exact_fractions_of_a_second() {
        let rates = [1, 2, 3, 7, 1_000, 999_983, 1 << 32, u64::MAX - 1];
        let numbers = [0, 1, 2, 17, 1_500, 86_399_999_999, u64::MAX - 1];
        let more = |values: &[u64]| {
            let all = values.iter().flat_map(|v| [*v, v + 1]);
            let random =
                || any::<(u64, u32)>().prop_map(|(n, s)| n >> (s % 64));
            (select(all.collect::<Vec<_>>()), random(), any::<bool>())
                .prop_map(|(a, b, first)| if first { a } else { b })
        };
        for_all(20_000, (more(&rates), more(&numbers)), |(rate, number)| {
            let rate = rate.max(1);
            let seen = due(per_second(rate), number);
            let expected = exact_due(rate, number);
            let case = format!("request {number} at {rate} a second");
            assert_eq!(seen, expected, "due: seen, expected for {case}");
        });
    }
}

mod report {
    use super::*;

    #[test]
    fn requests_due_in_the_measured_time_are_counted_once_by_outcome() {
        for_all(1_000, any_run(20), |(plan, samples)| {
            check_counts(&recorded(plan, &samples), plan, &samples);
        });
    }

    #[test]
    fn percentiles_rank_requests_without_an_answer_above_all_others() {
        let plan = plan([0, 10_000, 5_000]);
        for n in [0_usize, 1, 2, 3, 17, 130, 1_500, 70_000] {
            for bad in [0, 1, n / 100, n / 10, n / 2, n.saturating_sub(1), n] {
                let samples = (0..n).map(|i| {
                    // A permutation, so that no order helps.
                    let rank = i * 7_919 % n.max(1);
                    let outcome = match rank < bad {
                        false => Outcome::Answered,
                        true if rank % 2 == 0 => Outcome::Failed,
                        true => Outcome::TimedOut,
                    };
                    let due = i as u32 * (SECOND / 10_000);
                    (due, due + rank as u32 * (SECOND / 20_000), outcome)
                });
                let samples: Vec<_> = samples.collect();
                check(&recorded(plan, &samples), plan, &samples);
            }
        }
    }

    #[test]
    fn latencies_of_any_length_are_kept_and_never_shortened() {
        for_all(60, any_run(60), |(plan, samples)| {
            let (duration, timeout) = (Duration::MAX, Duration::MAX);
            let plan = Plan { duration, timeout, ..plan };
            check(&recorded(plan, &samples), plan, &samples);
        });
    }

    #[test]
    fn throughput_counts_answers_until_the_end_per_second_of_the_duration() {
        for_all(1_000, any_run(20), |(plan, samples)| {
            check_throughput(&recorded(plan, &samples), plan, &samples);
        });
    }

    #[test]
    fn a_spread_ranks_a_run_without_a_value_above_all_others() {
        let plan = plan([0, 1_000, 1_000]);
        let run = |latency: &Option<u32>| {
            let mut report = Report::new(plan);
            let outcome =
                latency.map_or(Outcome::Failed, |_| Outcome::Answered);
            let latency = latency.unwrap_or(0) * MS;
            report.record(Duration::ZERO, latency, outcome);
            report
        };
        let latency = (0..900_u32).prop_map(|n| (n % 4 > 0).then_some(n));
        for_all(200, vec(latency, 0..40), |latencies| {
            let runs: Vec<_> = latencies.iter().map(run).collect();
            let mut values: Vec<_> =
                runs.iter().map(|run| run.percentile(50.0)).collect();
            values.sort_by_key(|value| value.unwrap_or(Duration::MAX));
            let expected = (!values.is_empty()).then(|| Spread {
                min: values[0],
                median: values[values.len() / 2],
                max: values[values.len() - 1],
            });
            let seen = spread(&runs, 50.0);
            assert_eq!(seen, expected, "seen, expected for {values:?}");
        });
        let mut report = Report::new(plan);
        for ms in 1..=100 {
            report.record(ms * MS, 2 * ms * MS, Outcome::Answered);
        }
        for p in [0.0, 1.0, 50.0, 99.0, 100.0] {
            let seen = spread(&[report.clone()], p).map(|spread| spread.max);
            let expected = Some(report.percentile(p));
            assert_eq!(seen, expected, "the only run: seen, expected at {p}");
        }
    }
}

mod loops {
    use super::*;

    #[test]
    fn closed_loops_send_a_request_when_the_one_before_has_ended() {
        for_all(150, any_case(), |case| {
            Case { rate: None, ..case }.check();
        });
    }

    #[test]
    fn open_loops_send_a_request_when_due_on_any_free_connection() {
        for_all(300, any_case(), |case| {
            case.check();
        });
        // The end is exactly when a request is due.
        for ms in (2..150).step_by(2) {
            let (rate, connections) = (Some(1_500), 17);
            let (ms, nanos, server) = ([0, ms, 10], [0, 0, 1], Server::brief());
            Case { rate, connections, ms, nanos, server }.check();
        }
    }

    #[test]
    fn a_stall_delays_each_request_that_was_due_in_it() {
        let server = Server::Stalls { every: 10_000, length: 1_000, ms: 0 };
        for connections in [1, 2, 17, 130] {
            let (rate, ms) = (Some(100), [0, 60_000, 5_000]);
            let (nanos, server) = ([0, 0, 1], server.clone());
            let case = Case { rate, connections, ms, nanos, server };
            Case { ms: [0, 60_000, 300], ..case.clone() }.check();
            let report = case.check();
            // Of 6,000 requests, 100 were due in each of 6 stalls.
            for (p, expected) in [(89.0, 0), (95.0, 500), (99.0, 900)] {
                let seen = report.percentile(p).expect("a percentile");
                let is_near = seen.abs_diff(expected * MS) <= 2 * MS;
                assert!(is_near, "p{p} is {seen:?}, expected {expected} ms");
            }
        }
    }

    #[test]
    fn an_overload_is_the_same_over_any_number_of_connections() {
        // The server needs a second for each request, and two are due.
        let samples = (0..1_000)
            .map(|i| (i * SECOND / 2, (i + 1) * SECOND, Outcome::Answered));
        let samples: Vec<_> = samples.collect();
        let plan = plan([0, 500_000, 3_600_000]);
        for connections in [1, 2, 17, 130, 1_500] {
            let report = paused(async move {
                let server = Server::Queue(Arc::default());
                let connections = Log::new().connections(connections, &server);
                open_loop(per_second(2), plan, connections).await
            });
            check(&report, plan, &samples);
        }
    }

    #[test]
    fn a_late_generator_sends_at_once_and_counts_from_the_due_time() {
        let plan = plan([0, 1_000, 60_000]);
        for (at, pause) in [(5, 500), (301, 17), (301, 1_000), (985, 2_000)] {
            let report = paused(async move {
                let connections = Log::new().connections(3, &Server::brief());
                let run = open_loop(per_second(100), plan, connections);
                let run = tokio::spawn(run);
                sleep(at * MS).await;
                // All timers of this time fire at its end.
                advance(pause * MS).await;
                run.await.expect("a report")
            });
            let fires = |time: Duration| {
                let is_late = (at * MS..(at + pause) * MS).contains(&time);
                if is_late { (at + pause) * MS } else { time }
            };
            let mut free = [Duration::ZERO; 3];
            let samples = (0..100).map(|i| {
                free.sort();
                let sent = free[0].max(fires(10 * i * MS));
                free[0] = fires(sent + 2 * MS);
                (10 * i * MS, free[0], Outcome::Answered)
            });
            check(&report, plan, &samples.collect::<Vec<_>>());
        }
        // It starts, and its tasks get no time before 300 ms.
        let report = paused(async move {
            let connections = Log::new().connections(3, &Server::brief());
            let mut run = pin!(open_loop(per_second(100), plan, connections));
            let is_over = poll_fn(|c| Poll::Ready(run.as_mut().poll(c))).await;
            assert!(is_over.is_pending(), "the run is over, expected a second");
            advance(300 * MS).await;
            run.await
        });
        let seen = report.percentile(100.0).expect("a percentile");
        let fits = (290 * MS..=303 * MS).contains(&seen);
        assert!(fits, "latency at the late start: {seen:?}, expected 300 ms");
    }

    #[test]
    fn a_connection_that_is_always_ready_lets_the_others_start() {
        /// Knows the first number of each connection.
        struct Ready(usize, Arc<Mutex<BTreeMap<usize, u64>>>);

        impl Connection for Ready {
            async fn request(&mut self, number: u64) -> Result<(), Failed> {
                let first = |mut all: MutexGuard<'_, BTreeMap<_, _>>| {
                    all.entry(self.0).or_insert(number);
                };
                first(self.1.lock().expect("no panic"));
                if number < 10_000 { Ok(()) } else { pending().await }
            }
        }

        let first = Arc::default();
        let connections = (0..17).map(|i| Ready(i, Arc::clone(&first)));
        let connections = connections.collect();
        paused(closed_loop(plan([0, 1_000, 1_000]), connections));
        let first = first.lock().expect("no panic");
        let seen: Vec<_> = first.values().copied().collect();
        let is_right = seen.len() == 17 && seen.iter().all(|n| *n < 10_000);
        assert!(
            is_right,
            "first numbers of 17 connections: {seen:?}, expected each below \
             10,000: requests before it end at once"
        );
    }

    #[test]
    fn threads_send_each_number_once() {
        for is_open in [true, false] {
            let runtime = Builder::new_multi_thread()
                .worker_threads(4)
                .enable_time()
                .build()
                .expect("a runtime");
            let plan = plan([0, 20, 60_000]);
            let (log, report) = runtime.block_on(async {
                let log = Log::new();
                let at_once = Server::Replies(vec![(0, Outcome::Answered)]);
                let connections = log.connections(8, &at_once);
                let report = if is_open {
                    open_loop(per_second(3_500_000), plan, connections).await
                } else {
                    closed_loop(plan, connections).await
                };
                (log, report)
            });
            let seen = report.answered() as usize;
            let sent = log.sent();
            let expected = if is_open { 70_000 } else { sent.len() };
            assert_eq!(seen, expected, "answered: seen, expected");
            let numbers: BTreeSet<_> = sent.iter().map(|(n, _)| *n).collect();
            assert_eq!(numbers.len(), seen, "numbers: seen, expected");
        }
    }
}

mod ends {
    use super::*;

    #[test]
    fn a_dropped_run_drops_its_requests_and_sends_no_more() {
        let polls = (1..7).map(|polls| (polls, HOUR, SECOND));
        let times = (0..60).map(|n| (100, n * 17 * MS, Duration::MAX));
        let both = |drop| [(drop, true), (drop, false)];
        for ((polls, time, duration), is_open) in
            polls.chain(times).flat_map(both)
        {
            paused(async move {
                let log = Log::new();
                let connections = log.connections(5, &Server::brief());
                let run = run(is_open, duration, connections);
                let _ = timeout(time, after_polls(polls, run)).await;
                log.expect_no_more().await;
            });
        }
    }

    #[test]
    fn a_panic_of_a_connection_ends_the_run_at_once_with_that_panic() {
        for (is_open, number) in
            [(true, 0), (true, 17), (false, 0), (false, 130)]
        {
            paused(async move {
                let log = Log::new();
                let connections = log.connections(3, &Server::Panics(number));
                let run = run(is_open, Duration::MAX, connections);
                let run = tokio::spawn(run);
                let error = run.await.expect_err("a panic and no report");
                let ended = log.0.start.elapsed();
                let last = log.sent().last().map(|(_, time)| *time);
                assert_eq!(Some(ended), last, "end: seen, expected");
                let payload = error.into_panic();
                let text = payload.downcast_ref::<String>().cloned();
                let seen = (text, payload.downcast_ref::<&str>().copied());
                let expected = match number {
                    0 => (None, Some("on purpose")),
                    n => (Some(format!("on purpose: {n}")), None),
                };
                assert_eq!(seen, expected, "payload: seen, expected");
                log.expect_no_more().await;
            });
        }
    }

    #[test]
    fn a_run_without_connections_panics() {
        for is_open in [true, false] {
            paused(async move {
                let log = Log::new();
                let one = log.connections(1, &Server::brief());
                run(is_open, SECOND, one).await;
                let none = log.connections(0, &Server::brief());
                let seen = tokio::spawn(run(is_open, SECOND, none)).await;
                assert!(seen.is_err(), "expected a panic, got {seen:?}");
            });
        }
    }

    async fn run(
        is_open: bool,
        duration: Duration,
        connections: Vec<Client>,
    ) -> Report {
        let plan = Plan { warm_up: SECOND / 10, duration, timeout: duration };
        if is_open {
            open_loop(per_second(1_000), plan, connections).await
        } else {
            closed_loop(plan, connections).await
        }
    }
}

/// The number of each request that is sent, and when it is sent.
type Sent = Vec<(u64, Duration)>;

/// A request, with the times from the start of the run.
type Sample = (Duration, Duration, Outcome);

/// A run, and what it has to do by the rules.
#[derive(Debug, Clone)]
struct Case {
    /// `None` for a closed loop.
    rate: Option<u64>,
    connections: usize,
    /// Warm-up, duration and time-out: the whole milliseconds.
    ms: [u64; 3],
    /// And the rest of each.
    nanos: [u64; 3],
    server: Server,
}

#[derive(Debug, Clone)]
enum Server {
    /// For each number: after how many milliseconds it ends, and how.
    Replies(Vec<(u64, Outcome)>),
    /// Stops for the last `length` of `every`. Needs `ms` otherwise.
    Stalls {
        every: u64,
        length: u64,
        ms: u64,
    },
    /// The first request needs this time, and later ones need less.
    WarmsUp(u64),
    /// Handles one request at a time, for a second.
    Queue(Arc<tokio::sync::Mutex<()>>),
    Panics(u64),
}

/// What the connections have seen.
#[derive(Debug, Clone)]
struct Log(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    start: Instant,
    sent: Mutex<Vec<(u64, Duration)>>,
    in_flight: AtomicUsize,
}

#[derive(Debug)]
struct Client {
    log: Log,
    server: Server,
}

struct InFlight(Log);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.in_flight.fetch_sub(1, Relaxed);
    }
}

impl Connection for Client {
    async fn request(&mut self, number: u64) -> Result<(), Failed> {
        let now = self.log.0.start.elapsed();
        let sent = {
            let mut sent = self.log.sent();
            sent.push((number, now));
            sent.len()
        };
        assert!(sent < 500_000, "{sent} requests in a run, expected fewer");
        self.log.0.in_flight.fetch_add(1, Relaxed);
        let _in_flight = InFlight(self.log.clone());
        match &self.server {
            Server::Panics(0) if number == 0 => panic!("on purpose"),
            Server::Panics(n) if *n == number => panic!("on purpose: {n}"),
            Server::Queue(queue) => {
                let _guard = queue.lock().await;
                sleep(SECOND).await;
                Ok(())
            }
            server => {
                let (time, outcome) = server.reply(number, now);
                if !time.is_zero() {
                    sleep(time).await;
                }
                match outcome {
                    Outcome::Answered => Ok(()),
                    Outcome::Failed => Err(Failed),
                    Outcome::TimedOut => pending().await,
                }
            }
        }
    }
}

impl Server {
    fn brief() -> Self {
        Self::Replies(vec![(2, Outcome::Answered)])
    }

    fn reply(&self, number: u64, now: Duration) -> (Duration, Outcome) {
        let now = now.as_millis() as u64;
        let (ms, outcome) = match self {
            Self::Replies(all) => all[number as usize % all.len()],
            Self::Stalls { every, length, ms } => {
                let rest = every - now % every;
                let ms = if rest <= *length { rest + ms } else { *ms };
                (ms, Outcome::Answered)
            }
            Self::WarmsUp(ms) => {
                (ms.saturating_sub(now).max(1), Outcome::Answered)
            }
            Self::Queue(_) | Self::Panics(_) => (2, Outcome::Answered),
        };
        (Duration::from_millis(ms), outcome)
    }
}

impl Log {
    fn new() -> Self {
        Self::of_run_in(Duration::ZERO)
    }

    /// The run starts after this time.
    fn of_run_in(time: Duration) -> Self {
        let (sent, in_flight) = Default::default();
        let start = Instant::now() + time;
        Self(Arc::new(Shared { start, sent, in_flight }))
    }

    fn connections(&self, n: usize, server: &Server) -> Vec<Client> {
        let client = || Client { log: self.clone(), server: server.clone() };
        (0..n).map(|_| client()).collect()
    }

    fn sent(&self) -> MutexGuard<'_, Vec<(u64, Duration)>> {
        self.0.sent.lock().expect("no panic with the lock held")
    }

    async fn expect_no_more(&self) {
        let state = || {
            let in_flight = self.0.in_flight.load(Relaxed);
            (in_flight, Arc::strong_count(&self.0) - 1)
        };
        for _ in 0..100 {
            if state() != (0, 0) {
                yield_now().await;
            }
        }
        let seen = state();
        assert_eq!(seen, (0, 0), "requests in flight, connections: seen, left");
        let before = self.sent().len();
        sleep(HOUR).await;
        let after = self.sent().len();
        assert_eq!(after, before, "requests: seen, expected after the drop");
    }
}

impl Case {
    fn check(self) -> Report {
        let case = self.clone();
        let (log, report, returned) = paused(async move {
            let log = Log::of_run_in(SECOND);
            let clients = log.connections(case.connections, &case.server);
            let report = match case.rate {
                Some(rate) => {
                    let run = open_loop(per_second(rate), case.plan(), clients);
                    sleep_until(log.0.start).await;
                    run.await
                }
                None => {
                    let run = closed_loop(case.plan(), clients);
                    sleep_until(log.0.start).await;
                    run.await
                }
            };
            let returned = log.0.start.elapsed();
            (log, report, returned)
        });
        let in_flight = log.0.in_flight.load(Relaxed);
        assert_eq!(in_flight, 0, "requests in flight after {self:?}");
        let Some((expected, samples)) = self.model() else {
            return report;
        };
        let mut sent = std::mem::take(&mut *log.sent());
        sent.sort_unstable();
        let differs = sent.iter().zip(&expected).position(|(s, e)| s != e);
        let index = differs.unwrap_or(sent.len().min(expected.len()));
        let (seen, expected) = (sent.get(index), expected.get(index));
        assert_eq!(
            seen, expected,
            "sent (number, time after the start): seen, expected for {self:?}"
        );
        let ends = samples.iter().map(|(_, ended, _)| *ended);
        let last = ends.max().unwrap_or_default();
        assert_eq!(returned, last, "end: seen, expected for {self:?}");
        check(&report, self.plan(), &samples);
        report
    }

    fn plan(&self) -> Plan {
        let Plan { warm_up, duration, timeout } = plan(self.ms);
        let [a, b, c] = self.nanos.map(Duration::from_nanos);
        let timeout = (timeout + c).max(NANO);
        Plan { warm_up: warm_up + a, duration: duration + b, timeout }
    }

    /// Returns which requests are sent, and when, and how all requests end. It
    /// is `None` if one is answered and times out at the same time.
    fn model(&self) -> Option<(Sent, Vec<Sample>)> {
        let plan = self.plan();
        let (mut sent, mut samples) = (Vec::new(), Vec::new());
        let mut free = vec![Duration::ZERO; self.connections];
        for number in 0.. {
            let free = free.iter_mut().min().expect("a connection");
            let due = self.rate.map_or(*free, |rate| exact_due(rate, number));
            if due >= plan.warm_up + plan.duration {
                break;
            }
            *free = timer(due).max(*free);
            let mut outcome = Outcome::TimedOut;
            if *free - due < plan.timeout {
                sent.push((number, *free));
                let (time, reply) = self.server.reply(number, *free);
                let deadline = timer(due + plan.timeout);
                if reply != Outcome::TimedOut
                    && *free + time == due + plan.timeout
                {
                    return None;
                }
                let has_ended = *free + time <= deadline;
                if has_ended && reply != Outcome::TimedOut {
                    outcome = reply;
                    *free += time;
                } else {
                    *free = deadline;
                }
            }
            samples.push((due, *free, outcome));
        }
        Some((sent, samples))
    }
}

/// Returns when tokio's timer fires.
fn timer(time: Duration) -> Duration {
    (time.as_nanos().div_ceil(1_000_000) as u32) * MS
}

fn any_case() -> impl Strategy<Value = Case> {
    let rates = [1, 3, 7, 10, 30, 99, 333, 1_000, 1_500, 7_000, 250_000];
    let times = || select(vec![0_u64, 1, 2, 10, 50, 100, 500, 1_000, 3_000]);
    let nanos = || select(vec![0_u64, 0, 1, 300_000, 500_001, 999_999]);
    let rate_and_connections =
        (select(rates.to_vec()), select(vec![1, 2, 3, 17, 130]));
    let times = [times(), times(), times()];
    let nanos = [nanos(), nanos(), nanos()];
    (rate_and_connections, times, nanos, any_server()).prop_map(
        |((rate, connections), ms, nanos, server)| {
            // At most some thousand requests.
            let most = 1_000_000 / rate.max(connections as u64 * 200);
            let ms = [ms[0].min(most), ms[1].min(most), ms[2]];
            Case { rate: Some(rate), connections, ms, nanos, server }
        },
    )
}

fn any_server() -> impl Strategy<Value = Server> {
    let ms = || select(vec![1_u64, 2, 3, 10, 30, 100, 700]);
    let answered = || ms().prop_map(|ms| (ms, Outcome::Answered));
    let other = select(vec![Outcome::Failed, Outcome::TimedOut]);
    let reply = prop_oneof![6 => answered(), 1 => (ms(), other)];
    prop_oneof![
        2 => vec(answered(), 1..5).prop_map(Server::Replies),
        3 => vec(reply, 1..40).prop_map(Server::Replies),
        1 => (20..2_000_u64, ms(), ms()).prop_map(|(every, length, ms)| {
            Server::Stalls { every, length: length.min(every - 1), ms }
        }),
        1 => (1..2_000_u64).prop_map(Server::WarmsUp),
    ]
}

fn any_plan() -> impl Strategy<Value = Plan> {
    let times = [Duration::ZERO, NANO, MS, SECOND, HOUR, Duration::MAX];
    let time = || {
        prop_oneof![
            select(times.to_vec()),
            (0..10_000_000_000_u64).prop_map(Duration::from_nanos)
        ]
    };
    [time(), time(), time()].prop_map(|[warm_up, duration, timeout]| Plan {
        warm_up,
        duration,
        timeout,
    })
}

/// Returns a plan and requests, with times at and around its limits.
fn any_run(n: usize) -> impl Strategy<Value = (Plan, Vec<Sample>)> {
    let outcomes = [Outcome::Answered, Outcome::Failed, Outcome::TimedOut];
    let outcome =
        prop_oneof![Just(Outcome::Answered), select(outcomes.to_vec())];
    let sample = (any::<u64>(), any::<u64>(), any::<u64>(), outcome);
    (any_plan(), vec(sample, 0..n)).prop_map(|(plan, random)| {
        let end = plan.warm_up.saturating_add(plan.duration);
        let nanos = |random: u64| Duration::from_nanos(random >> (random % 60));
        let near = |time: Duration, random: u64| match random % 3 {
            0 => time.saturating_sub(NANO),
            1 => time,
            _ => time.saturating_add(NANO),
        };
        let samples = random.into_iter().map(|(a, b, c, outcome)| {
            let due = match a % 8 {
                0 => near(plan.warm_up, c),
                1 => near(end, c),
                2 => nanos(b),
                _ => plan.warm_up.saturating_add(nanos(b)).min(end / 2),
            };
            let due = if a % 16 < 8 { due } else { plan.warm_up };
            let ended = match a / 16 % 8 {
                0 => near(end, c),
                1 | 2 => near(due.saturating_add(plan.timeout), c),
                3 => due.saturating_sub(nanos(c)),
                4 => Duration::MAX,
                5 => due.saturating_add(nanos(c).min(plan.timeout)),
                _ => due.saturating_add(nanos(c)),
            };
            (due, ended, outcome)
        });
        (plan, samples.collect())
    })
}

fn per_second(rate: u64) -> NonZero<u64> {
    NonZero::new(rate).expect("a rate")
}

fn exact_due(rate: u64, number: u64) -> Duration {
    let nanos = u128::from(number) * 1_000_000_000 / u128::from(rate);
    let seconds = (nanos / 1_000_000_000) as u64;
    Duration::new(seconds, (nanos % 1_000_000_000) as u32)
}

/// Returns a plan of a warm-up, a duration and a time-out in milliseconds.
fn plan(ms: [u64; 3]) -> Plan {
    let [warm_up, duration, timeout] = ms.map(Duration::from_millis);
    Plan { warm_up, duration, timeout }
}

/// Records in two reports, and merges them.
fn recorded(plan: Plan, samples: &[Sample]) -> Report {
    let mut reports = [Report::new(plan), Report::new(plan)];
    for (i, (due, ended, outcome)) in samples.iter().enumerate() {
        reports[i / 3 % 2].record(*due, *ended, *outcome);
    }
    let [mut report, other] = reports;
    report.merge(&other);
    report
}

fn check(report: &Report, plan: Plan, samples: &[Sample]) {
    check_counts(report, plan, samples);
    check_throughput(report, plan, samples);
    let mut latencies = answered(plan, samples);
    latencies.sort_unstable();
    let n = report.requests();
    let ranks = (0..n).step_by(n as usize / 8 + 1);
    let ranks = ranks.map(|rank| 100.0 * rank as f64 / n as f64);
    let more = [0.0, 0.1, 1.0, 50.0, 90.0, 95.0, 99.0, 99.9, 99.99, 100.0];
    let near = ranks.flat_map(|p| [p, p + 0.001, p - 0.001]);
    for p in near.chain(more) {
        let p = p.clamp(0.0, 100.0);
        let seen = report.percentile(p);
        let rank = p * n as f64 / 100.0;
        let exact = [rank - 1e-6, rank + 1e-6].map(|rank| {
            let index = (rank.ceil() as usize).max(1) - 1;
            latencies.get(index).copied()
        });
        let fits = |exact: Option<Duration>| match (exact, seen) {
            (Some(exact), Some(seen)) if exact > YEARS => seen >= YEARS,
            (Some(exact), Some(seen)) => {
                let most = exact + exact / 1_000 + Duration::from_micros(1);
                (exact..=most).contains(&seen)
            }
            (exact, seen) => exact == seen,
        };
        assert!(
            exact.into_iter().any(fits),
            "p{p} of {n} requests is {seen:?}, expected {:?}, for {plan:?}",
            exact[0]
        );
    }
}

fn check_counts(report: &Report, plan: Plan, samples: &[Sample]) {
    let late = measured(plan, samples).filter(|(due, ended, outcome)| {
        let latency = ended.saturating_sub(*due);
        latency > plan.timeout || *outcome == Outcome::TimedOut
    });
    let all = measured(plan, samples).count() as u64;
    let late = late.count() as u64;
    let answered = answered(plan, samples).len() as u64;
    let expected = [all, answered, all - answered - late, late];
    let seen = [
        report.requests(),
        report.answered(),
        report.failed(),
        report.timed_out(),
    ];
    assert_eq!(
        seen, expected,
        "requests, answered, failed, timed out: seen, expected for {plan:?}"
    );
}

fn check_throughput(report: &Report, plan: Plan, samples: &[Sample]) {
    let end = plan.warm_up.saturating_add(plan.duration);
    let in_time = samples.iter().copied().filter(|sample| sample.1 <= end);
    let n = answered(plan, &in_time.collect::<Vec<_>>()).len() as f64;
    let seconds = plan.duration.as_secs_f64();
    let expected = if seconds > 0.0 { n / seconds } else { 0.0 };
    let seen = report.throughput();
    let is_near = (seen - expected).abs() <= expected * 1e-9;
    let case = format!("{plan:?} and {samples:?}");
    assert!(is_near, "throughput is {seen}, expected {expected}, for {case}");
}

fn measured(plan: Plan, samples: &[Sample]) -> impl Iterator<Item = &Sample> {
    let end = plan.warm_up.saturating_add(plan.duration);
    samples.iter().filter(move |(due, ..)| (plan.warm_up..end).contains(due))
}

fn answered(plan: Plan, samples: &[Sample]) -> Vec<Duration> {
    let answered = measured(plan, samples)
        .filter(|(.., outcome)| *outcome == Outcome::Answered);
    let latencies = answered.map(|(due, ended, _)| ended.saturating_sub(*due));
    latencies.filter(|latency| *latency <= plan.timeout).collect()
}

/// Runs the future in paused time, on a thread of its own: a run that spins
/// does not end, and no time passes in it.
fn paused<F>(future: F) -> F::Output
where
    F: Future<Output: Send> + Send + 'static,
{
    let (sender, ended) = mpsc::channel();
    let thread = thread::spawn(move || {
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let ended = async { timeout(1_000 * HOUR, future).await };
        let output = runtime
            .block_on(ended)
            .expect("the run has no end: expected it at the latest time-out");
        sender.send(output).expect("the test waits");
    });
    match ended.recv_timeout(5 * SECOND) {
        Ok(output) => output,
        Err(RecvTimeoutError::Disconnected) => {
            resume_unwind(thread.join().expect_err("a panic"))
        }
        Err(RecvTimeoutError::Timeout) => {
            panic!("the run spins: it neither waits nor ends")
        }
    }
}

fn for_all<S>(cases: u32, inputs: S, check: impl Fn(S::Value))
where
    S: Strategy,
{
    let config = test_runner::Config {
        cases,
        failure_persistence: None,
        ..Default::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    for _ in 0..cases {
        let input = inputs.new_tree(&mut runner).expect("an input");
        check(input.current());
    }
}

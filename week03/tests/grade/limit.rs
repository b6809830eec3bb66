use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::{pending, ready};
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lab::alloc::bytes_in_use;
use tokio::runtime::Builder;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{JoinHandle, coop::unconstrained, yield_now};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use week03::limit::{Group, Refused, Spawner};

use crate::common::Random;

/// The longest wait for an event that must happen. The clock is paused: when no
/// task can run, the deadline passes at once.
const DEADLINE: Duration = Duration::from_secs(5);

/// The type of nearly all tasks: few types make this file compile faster.
type Boxed = BoxFuture<'static, Result<(), &'static str>>;

fn group(limit: usize) -> Group<&'static str> {
    let limit = NonZero::new(limit).expect("a limit is not 0");
    Group::new(&CancellationToken::new(), limit)
}

/// Runs all tasks until none can make progress.
async fn settle() {
    for _ in 0..30 {
        yield_now().await;
    }
}

/// Returns the output of `future`, or panics after the deadline.
async fn with_deadline<T>(
    operation: &str,
    future: impl Future<Output = T>,
) -> T {
    match timeout(DEADLINE, future).await {
        Ok(result) => result,
        Err(_) => panic!("{operation} has not completed in {DEADLINE:?}"),
    }
}

/// Counts the tasks that run now, and the most that ran at a time.
#[derive(Clone, Default)]
struct Work {
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Work {
    fn begin(&self) -> Running {
        let running = self.running.fetch_add(1, Relaxed) + 1;
        self.most.fetch_max(running, Relaxed);
        Running(Arc::clone(&self.running))
    }

    /// Returns a task that runs until the sender is used or dropped.
    fn task(&self) -> (oneshot::Sender<()>, Boxed) {
        let (finish, finished) = oneshot::channel();
        let work = self.clone();
        let task = async move {
            let _running = work.begin();
            let _ = finished.await;
            Ok(())
        };
        (finish, task.boxed())
    }

    fn running(&self) -> usize {
        self.running.load(Relaxed)
    }
}

/// Calls `spawn` on a task of its own, whose handle returns the result.
fn spawn_in_background(
    spawner: &Spawner<&'static str>,
    task: Boxed,
) -> JoinHandle<Result<(), Refused<Boxed>>> {
    let spawner = spawner.clone();
    tokio::spawn(async move { spawner.spawn(task).await })
}

/// Spawns `task`, and fails if the group refuses it.
async fn spawn_accepted(spawner: &Spawner<&'static str>, task: Boxed) {
    let spawned =
        with_deadline("`spawn` with a free slot", spawner.spawn(task)).await;
    assert!(spawned.is_ok(), "expected `Ok` with a free slot, saw {spawned:?}");
}

/// A panic payload that is no string. A task with an odd number raises it.
struct Bug(usize);

/// The panic payload of a task with an even number.
const EVEN: &str = "even";

/// What a task does at its end.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Ending {
    ReturnsOk,
    Fails,
    Panics,
}

/// What the test tells a running task to do.
enum Command {
    End(Ending),
    Spawn(Task),
    TrySpawn(Task),
}

/// The answer to a `spawn` or `try_spawn`.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Answer {
    Started,
    Full,
    Cancelled,
    AnotherTask,
}

/// What the tasks of a generated run do. They are numbered.
#[derive(Default)]
struct Seen {
    running: BTreeSet<usize>,
    answers: BTreeMap<usize, Answer>,
}

/// Records the answer to the call that spawns task `number`.
fn record(
    seen: &Mutex<Seen>,
    number: usize,
    answer: Result<(), Refused<Task>>,
) {
    let recorded = match &answer {
        Ok(()) => Answer::Started,
        Err(Refused::Full(task)) if task.number == number => Answer::Full,
        Err(Refused::Cancelled(task)) if task.number == number => {
            Answer::Cancelled
        }
        Err(_) => Answer::AnotherTask,
    };
    // A refused task locks `seen` when it is dropped.
    drop(answer);
    seen.lock().unwrap().answers.insert(number, recorded);
}

/// A task of a generated run.
struct Task {
    number: usize,
    seen: Arc<Mutex<Seen>>,
    run: Pin<Box<dyn Future<Output = Result<(), &'static str>> + Send>>,
}

impl Task {
    fn new(
        number: usize,
        spawner: Spawner<&'static str>,
        seen: Arc<Mutex<Seen>>,
    ) -> (mpsc::Sender<Command>, Self) {
        let (sender, mut commands) = mpsc::channel(100);
        let log = Arc::clone(&seen);
        let run = Box::pin(async move {
            loop {
                let (number, answer) = match commands.recv().await {
                    Some(Command::End(ending)) => {
                        return match ending {
                            ReturnsOk => Ok(()),
                            Fails => Err(error(number)),
                            Panics if number % 2 == 1 => panic_any(Bug(number)),
                            Panics => panic_any(EVEN),
                        };
                    }
                    Some(Command::Spawn(task)) => {
                        (task.number, spawner.spawn(task).await)
                    }
                    Some(Command::TrySpawn(task)) => {
                        (task.number, spawner.try_spawn(task))
                    }
                    None => pending().await,
                };
                record(&log, number, answer);
            }
        });
        (sender, Self { number, seen, run })
    }
}

impl Future for Task {
    type Output = Result<(), &'static str>;

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Self::Output> {
        let number = self.number;
        self.seen.lock().unwrap().running.insert(number);
        self.run.as_mut().poll(context)
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // The lock is poisoned if a check has failed: a second panic would
        // abort the process.
        if let Ok(mut seen) = self.seen.lock() {
            seen.running.remove(&self.number);
        }
    }
}

use Ending::*;

/// Returns one of many different texts.
fn error(number: usize) -> &'static str {
    const TEXT: &str = "broken broken broken broken broken broken broken";
    &TEXT[number % 7..7 + number % 41]
}

/// A group, as the rules describe it.
#[derive(Default)]
struct Model {
    limit: usize,
    running: BTreeSet<usize>,
    waiting: VecDeque<usize>,
    answers: BTreeMap<usize, Answer>,
    is_cancelled: bool,
    cancelled_by_parent: bool,
    has_ended: bool,
    error: Option<&'static str>,
    panics: Vec<usize>,
}

impl Model {
    /// `spawn`, or `try_spawn` if `is_try`.
    fn spawn(&mut self, number: usize, is_member: bool, is_try: bool) {
        let is_full = self.running.len() == self.limit;
        let answer = if self.has_ended || self.is_cancelled && !is_try {
            Answer::Cancelled
        } else if !is_full {
            self.running.insert(number);
            Answer::Started
        } else if is_member || is_try {
            Answer::Full
        } else {
            return self.waiting.push_back(number);
        };
        self.answers.insert(number, answer);
    }

    fn cancel(&mut self) {
        self.is_cancelled = true;
        for number in self.waiting.drain(..) {
            self.answers.insert(number, Answer::Cancelled);
        }
    }

    fn end(&mut self, number: usize, ending: Ending) {
        self.running.remove(&number);
        match ending {
            ReturnsOk => {}
            Fails => {
                self.error.get_or_insert(error(number));
                self.cancel();
            }
            Panics => {
                self.panics.push(number);
                self.cancel();
            }
        }
        if let Some(number) = self.waiting.pop_front() {
            self.spawn(number, false, false);
        }
    }
}

mod bounds {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_number_of_running_tasks_never_exceeds_the_limit() {
        for limit in [3, 300, 1 << 33, Semaphore::MAX_PERMITS] {
            let (group, work) = (group(limit), Work::default());
            let (spawner, tasks) = (group.spawner(), 3 * limit.min(300));
            for _ in 0..tasks {
                let work = work.clone();
                let task = async move {
                    let _running = work.begin();
                    sleep(Duration::from_secs(1)).await;
                    Ok(())
                };
                spawn_accepted(&spawner, task.boxed()).await;
            }
            assert_eq!(with_deadline("`wait`", group.wait()).await, Ok(()));
            let most = work.most.load(Relaxed);
            assert_eq!(
                most,
                limit.min(tasks),
                "the most tasks at a time, seen and expected, of {tasks} \
                 tasks with a limit of {limit}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn spawn_at_the_limit_waits_for_a_free_slot() {
        let (group, work) = (group(1), Work::default());
        let spawner = group.spawner();
        let (finish, task) = work.task();
        spawn_accepted(&spawner, task).await;
        let (_finish, second) = work.task();
        let waiting = spawn_in_background(&spawner, second);
        settle().await;
        assert!(
            !waiting.is_finished(),
            "`spawn` has returned with no free slot"
        );
        assert_eq!(work.running(), 1, "running tasks, with a limit of 1");
        finish.send(()).unwrap();
        let spawned =
            with_deadline("`spawn` with a free slot", waiting).await.unwrap();
        assert!(
            spawned.is_ok(),
            "expected `Ok` with a free slot, saw {spawned:?}"
        );
        settle().await;
        assert_eq!(work.running(), 1, "running tasks, with a limit of 1");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_spawns_get_a_slot_in_order_of_arrival() {
        let (group, work) = (group(1), Work::default());
        let spawner = group.spawner();
        let (finish, task) = work.task();
        spawn_accepted(&spawner, task).await;
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        for number in 0..150 {
            let order = Arc::clone(&order);
            let task = async move {
                order.lock().unwrap().push(number);
                Ok(())
            };
            spawn_in_background(&spawner, task.boxed());
            yield_now().await;
        }
        finish.send(()).unwrap();
        for _ in 0..100 {
            settle().await;
        }
        assert_eq!(
            *order.lock().unwrap(),
            Vec::from_iter(0..150),
            "order of the starts"
        );
    }
}

mod releases {
    use super::*;

    fn end(ending: Ending) -> Result<(), &'static str> {
        match ending {
            ReturnsOk => Ok(()),
            Fails => Err("failed"),
            Panics => panic!("on purpose"),
        }
    }

    /// A task whose destructor calls `try_spawn`.
    struct SpawnsOnDrop {
        spawner: Spawner<&'static str>,
        /// `None`: the task never ends.
        ending: Option<Ending>,
        is_full: Arc<AtomicBool>,
    }

    impl Future for SpawnsOnDrop {
        type Output = Result<(), &'static str>;

        fn poll(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Self::Output> {
            self.ending.map_or(Poll::Pending, |how| Poll::Ready(end(how)))
        }
    }

    impl Drop for SpawnsOnDrop {
        fn drop(&mut self) {
            let spawn = || self.spawner.try_spawn(ready(Ok(())).boxed());
            let answer = catch_unwind(AssertUnwindSafe(spawn));
            let is_full = matches!(answer, Ok(Err(Refused::Full(_))));
            self.is_full.store(is_full, Relaxed);
        }
    }

    #[test]
    fn a_slot_is_released_when_its_task_is_dropped_and_not_before() {
        let runtime =
            || Builder::new_current_thread().enable_all().build().unwrap();
        for ending in [Some(ReturnsOk), Some(Fails), Some(Panics), None] {
            for is_polled in [false, true] {
                let case = format!(
                    "how the task ends: {ending:?}, polled before its runtime \
                     is dropped: {is_polled}"
                );
                let (group, is_full) = (group(1), Arc::default());
                let (spawner, first) = (group.spawner(), runtime());
                let task = SpawnsOnDrop {
                    spawner: spawner.clone(),
                    ending,
                    is_full: Arc::clone(&is_full),
                };
                let spawned = first.block_on(async {
                    let spawned = spawner.try_spawn(task).is_ok();
                    if is_polled {
                        settle().await;
                    }
                    spawned
                });
                assert!(spawned, "expected `Ok` with a free slot; {case}");
                drop(first);
                assert!(
                    is_full.load(Relaxed),
                    "expected `Full`: the destructor of the task that holds \
                     the only slot calls `try_spawn`; {case}"
                );
                runtime().block_on(async {
                    let spawned = spawner.try_spawn(ready(Ok(())).boxed());
                    assert!(
                        spawned.is_ok(),
                        "expected `Ok`, since the task is dropped, saw \
                         {spawned:?}; {case}"
                    );
                    let wait = AssertUnwindSafe(group.wait()).catch_unwind();
                    let _ = with_deadline("`wait`", wait).await;
                });
            }
        }
    }

    #[tokio::test]
    async fn the_group_keeps_no_memory_for_tasks_that_have_ended() {
        let group = group(2);
        let in_use_after = async |tasks: usize| {
            for _ in 0..tasks {
                spawn_accepted(&group.spawner(), ready(Ok(())).boxed()).await;
            }
            settle().await;
            bytes_in_use()
        };
        // The first tasks may allocate what the group reuses.
        let before = in_use_after(1_000).await;
        let kept = in_use_after(10_000).await - before;
        assert!(
            kept < 10_000,
            "bytes kept for 10,000 tasks that have ended: {kept}, expected less \
             than one byte for each task"
        );
    }

    /// A waker that lets the other thread poll the waiting `spawn`, inside the
    /// call that wakes it.
    struct HoldWaker {
        woken: std::sync::mpsc::Sender<()>,
        polled: Mutex<std::sync::mpsc::Receiver<()>>,
    }

    impl Wake for HoldWaker {
        fn wake(self: Arc<Self>) {
            let polled = self.polled.lock().unwrap();
            while polled.try_recv().is_ok() {}
            let _ = self.woken.send(());
            // This times out if the attempt wakes while it holds a lock that the
            // other thread needs.
            let _ = polled.recv_timeout(Duration::from_millis(200));
        }
    }

    #[test]
    fn a_task_that_fails_or_panics_cancels_before_it_releases_its_slot() {
        use std::sync::mpsc::channel;
        for ending in [Fails, Panics] {
            let runtime = Builder::new_current_thread().build().unwrap();
            let handle = runtime.handle().clone();
            let (group, (finish, finished)) = (group(1), oneshot::channel());
            let spawner = group.spawner();
            let task = async move {
                let _ = finished.await;
                end(ending)
            };
            let spawned =
                runtime.block_on(async { spawner.try_spawn(task.boxed()) });
            assert!(spawned.is_ok(), "expected `Ok` with a free slot");
            let ((woken, wakes), (poll, polled)) = (channel(), channel());
            let (waits, is_waiting) = channel();
            let caller = thread::spawn(move || {
                let _entered = handle.enter();
                let waker = HoldWaker { woken, polled: polled.into() };
                let waker = Waker::from(Arc::new(waker));
                let mut context = Context::from_waker(&waker);
                let mut call = Box::pin(spawner.spawn(ready(Ok(())).boxed()));
                loop {
                    let answer = call.as_mut().poll(&mut context);
                    let _ = (poll.send(()), waits.send(()));
                    if let Poll::Ready(answer) = answer {
                        return Some(format!("{answer:?}"));
                    }
                    wakes.recv_timeout(DEADLINE).ok()?;
                }
            });
            let _ = is_waiting.recv_timeout(DEADLINE);
            finish.send(()).unwrap();
            runtime.block_on(settle());
            let answer = caller.join().unwrap();
            assert!(
                answer.as_ref().is_some_and(|a| a.contains("Cancelled")),
                "expected `Cancelled` from a waiting `spawn` that is polled \
                 as soon as it is woken, saw {answer:?}; the task that holds \
                 the slot: {ending:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_assigned_to_a_dropped_spawn_goes_to_the_next_one() {
        let (group, work) = (group(1), Work::default());
        let spawner = group.spawner();
        let (finish, task) = work.task();
        spawn_accepted(&spawner, task).await;
        let wait = || {
            let spawner = spawner.clone();
            let call = async move { spawner.spawn(pending().boxed()).await };
            let mut call = call.boxed();
            let polled = call.as_mut().now_or_never();
            assert!(polled.is_none(), "expected a wait, saw {polled:?}");
            call
        };
        // tokio's budget would stop some of these polls before they wait. An
        // attempt that passes a slot on by recursion overflows its stack.
        let calls = async {
            for _ in 0..20_000 {
                drop(wait());
            }
            (wait(), wait())
        };
        let (assigned, next) = unconstrained(calls).await;
        // This task polls `next` with another waker.
        let next = tokio::spawn(next);
        settle().await;
        finish.send(()).unwrap();
        settle().await;
        let late = spawner.try_spawn(pending().boxed());
        assert!(
            matches!(late, Err(Refused::Full(_))),
            "expected `Full`, since the released slot is assigned to a \
             waiting `spawn`, saw {late:?}"
        );
        drop(assigned);
        let next = with_deadline("the next `spawn`", next).await.unwrap();
        assert!(next.is_ok(), "expected `Ok` from it, saw {next:?}");
    }
}

mod refuses {
    use super::*;

    /// A group, its model, and the handles of its tasks.
    struct Run {
        random: Random,
        group: Option<Group<&'static str>>,
        wait: Option<JoinHandle<thread::Result<Result<(), &'static str>>>>,
        parent: CancellationToken,
        token: CancellationToken,
        spawner: Spawner<&'static str>,
        seen: Arc<Mutex<Seen>>,
        model: Model,
        next: usize,
        commands: BTreeMap<usize, mpsc::Sender<Command>>,
        /// Calls of `spawn` that are not made by members.
        calls: BTreeMap<usize, JoinHandle<()>>,
        /// The calls so far. Messages show them.
        steps: Vec<String>,
    }

    impl Run {
        fn new(seed: u64, limit: usize) -> Self {
            let parent = CancellationToken::new();
            let group = Group::new(&parent, NonZero::new(limit).unwrap());
            Self {
                random: Random(seed),
                wait: None,
                token: group.token(),
                spawner: group.spawner(),
                parent,
                group: Some(group),
                seen: Arc::default(),
                model: Model { limit, ..Model::default() },
                next: 0,
                commands: BTreeMap::new(),
                calls: BTreeMap::new(),
                steps: vec![format!("limit {limit}")],
            }
        }

        fn task(&mut self) -> Task {
            let (number, spawner) = (self.next, self.spawner.clone());
            self.next += 1;
            let (sender, task) =
                Task::new(number, spawner, Arc::clone(&self.seen));
            self.commands.insert(number, sender);
            task
        }

        fn spawn(&mut self) {
            let (task, spawner) = (self.task(), self.spawner.clone());
            let (number, seen) = (task.number, Arc::clone(&self.seen));
            self.steps.push(format!("spawn {number}"));
            let call = tokio::spawn(async move {
                let answer = spawner.spawn(task).await;
                record(&seen, number, answer);
            });
            self.calls.insert(number, call);
            self.model.spawn(number, false, false);
        }

        fn try_spawn(&mut self) {
            let task = self.task();
            let number = task.number;
            self.steps.push(format!("try_spawn {number}"));
            let answer = self.spawner.try_spawn(task);
            record(&self.seen, number, answer);
            self.model.spawn(number, false, true);
        }

        fn spawn_by_member(&mut self, member: usize) {
            let (task, is_try) = (self.task(), self.random.below(2) == 0);
            let number = task.number;
            let (call, command) = match is_try {
                true => ("try_spawn", Command::TrySpawn(task)),
                false => ("spawn", Command::Spawn(task)),
            };
            self.steps.push(format!("{call} {number} by member {member}"));
            let _ = self.commands[&member].try_send(command);
            self.model.spawn(number, true, is_try);
        }

        fn end(&mut self, number: usize, ending: Ending) {
            self.steps.push(format!("{number} {ending:?}"));
            let _ = self.commands[&number].try_send(Command::End(ending));
            self.model.end(number, ending);
        }

        fn cancel(&mut self) {
            self.steps.push("cancel".to_owned());
            match self.random.below(2) {
                0 => {
                    self.parent.cancel();
                    self.model.cancelled_by_parent = true;
                }
                _ => self.token.cancel(),
            }
            self.model.cancel();
        }

        fn step(&mut self, endings: &[Ending]) {
            let member =
                (!self.model.running.is_empty()).then(|| self.pick_running());
            match (self.random.below(20), member) {
                (0..6, _) => self.spawn(),
                (6..8, _) => self.try_spawn(),
                (8..11, Some(member)) => self.spawn_by_member(member),
                (11..17, Some(member)) => {
                    let has_waiting = !self.model.waiting.is_empty();
                    let is_last =
                        self.wait.is_some() && self.model.running.len() == 1;
                    let ending = match self.random.below(3) {
                        0 => *self.random.pick(endings),
                        // Otherwise two outcomes are right: `wait` ends the
                        // group, or the waiting spawn starts its task first.
                        _ if is_last && has_waiting => Fails,
                        _ => ReturnsOk,
                    };
                    self.end(member, ending);
                    // A call may arrive before a waiting spawn has seen its
                    // slot.
                    match self.random.below(3) {
                        _ if ending != ReturnsOk => {}
                        0 => self.spawn(),
                        1 if has_waiting => {
                            let other = self.pick_running();
                            self.spawn_by_member(other);
                        }
                        _ => {}
                    }
                }
                (17..19, _) if !self.model.waiting.is_empty() => {
                    let at = self.random.below(self.model.waiting.len());
                    let number = self.model.waiting.remove(at).unwrap();
                    self.steps.push(format!("drop the spawn of {number}"));
                    self.calls[&number].abort();
                }
                (19, Some(member)) => {
                    self.cancel();
                    if self.random.below(2) == 0 {
                        // A slot is released right after the cancellation.
                        self.end(member, ReturnsOk);
                    }
                }
                _ => {}
            }
        }

        fn pick_running(&mut self) -> usize {
            let running = Vec::from_iter(self.model.running.iter().copied());
            *self.random.pick(&running)
        }

        /// Compares the group with its model.
        fn check(&self) {
            let (seen, model) = (self.seen.lock().unwrap(), &self.model);
            let steps = || self.steps.join(", ");
            assert_eq!(
                seen.running,
                model.running,
                "running tasks, seen and expected, after: {}",
                steps()
            );
            assert_eq!(
                seen.answers,
                model.answers,
                "answers to calls, seen and expected, after: {}",
                steps()
            );
            assert_eq!(
                self.token.is_cancelled(),
                model.is_cancelled,
                "the token is cancelled: seen and expected, after: {}",
                steps()
            );
            assert!(
                !self.parent.is_cancelled() || model.cancelled_by_parent,
                "the group has cancelled its parent, after: {}",
                steps()
            );
            if let Some(wait) = &self.wait {
                assert_eq!(
                    wait.is_finished(),
                    model.has_ended,
                    "`wait` has finished: seen and expected, after: {}",
                    steps()
                );
            }
        }

        /// Checks what `wait` returned or raised.
        async fn check_outcome(&mut self) {
            let steps = self.steps.join(", ");
            let (error, panics) = (self.model.error, &self.model.panics);
            let wait = self.wait.take().expect("`wait` was called");
            match with_deadline("`wait`", wait).await.unwrap() {
                Ok(returned) => assert!(
                    panics.is_empty() && returned == error.map_or(Ok(()), Err),
                    "expected one of the panics {panics:?}, or else the error \
                     {error:?}, saw {returned:?}, after: {steps}"
                ),
                Err(payload) => {
                    let bug = payload.downcast_ref().map(|Bug(n)| *n);
                    let text = payload.downcast_ref::<&str>();
                    let is_seen = |n: &usize| match n % 2 {
                        0 => text == Some(&EVEN),
                        _ => bug == Some(*n),
                    };
                    assert!(
                        panics.iter().any(is_seen),
                        "expected the payload of one of the panics {panics:?}, \
                         saw the number {bug:?} or the text {text:?}, after: \
                         {steps}"
                    );
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn generated_sequences_of_calls_have_the_outcomes_of_a_model() {
        for seed in 0..150 {
            let mut run = Run::new(seed, [1, 1, 2, 3, 17][seed as usize % 5]);
            let ends_by_drop = seed % 4 == 0;
            let endings = &[Fails, Panics];
            for _ in 0..run.random.below(60) {
                run.step(endings);
                settle().await;
                run.check();
            }
            let group = run.group.take().expect("taken only here");
            if ends_by_drop {
                run.steps.push("drop the group".to_owned());
                drop(group);
                run.model.running.clear();
            } else {
                run.steps.push("wait".to_owned());
                let wait = AssertUnwindSafe(group.wait()).catch_unwind();
                run.wait = Some(tokio::spawn(wait));
                settle().await;
                for step in 0.. {
                    if run.model.running.is_empty() {
                        break;
                    }
                    run.check();
                    match run.model.running.first() {
                        Some(&first) if step > 10 => run.end(first, Fails),
                        _ => run.step(endings),
                    }
                    settle().await;
                }
            }
            run.model.has_ended = true;
            run.model.cancel();
            settle().await;
            run.check();
            run.spawn();
            run.try_spawn();
            settle().await;
            run.check();
            if !ends_by_drop {
                run.check_outcome().await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn spawn_by_a_member_that_dropped_the_group_is_refused() {
        let group = group(1);
        let (spawner, answers) =
            (group.spawner(), Arc::new(Mutex::new(Vec::new())));
        let (give, given) = oneshot::channel::<Group<&'static str>>();
        let seen = Arc::clone(&answers);
        let member = async move {
            drop(given.await);
            // This member holds the only slot.
            let spawned = spawner.try_spawn(ready(Ok(())).boxed());
            seen.lock().unwrap().push(format!("{spawned:?}"));
            let spawned = spawner.spawn(ready(Ok(())).boxed()).await;
            seen.lock().unwrap().push(format!("{spawned:?}"));
            Ok(())
        };
        spawn_accepted(&group.spawner(), member.boxed()).await;
        let _ = give.send(group);
        settle().await;
        let answers = answers.lock().unwrap();
        assert!(
            answers.len() == 2
                && answers.iter().all(|answer| answer.contains("Cancelled")),
            "expected `Cancelled` from `try_spawn` and `spawn`, since the \
             group has ended, saw {answers:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_nested_spawn_at_the_limit_fails_as_full_and_gives_the_task_back()
    {
        let group = group(1);
        let (spawner, (report, reported)) =
            (group.spawner(), oneshot::channel());
        let member = async move {
            let task = ready(Err("run by the caller")).boxed();
            let refused = spawner.spawn(task).await;
            let is_full = match refused {
                Err(Refused::Full(task)) => {
                    assert_eq!(
                        task.await,
                        Err("run by the caller"),
                        "output of the refused task"
                    );
                    true
                }
                _ => false,
            };
            report.send(is_full).unwrap();
            Ok(())
        };
        spawn_accepted(&group.spawner(), member.boxed()).await;
        let is_full =
            with_deadline("`spawn` by a member", reported).await.unwrap();
        assert!(
            is_full,
            "expected `Full` for a member that holds the only slot"
        );
        assert_eq!(with_deadline("`wait`", group.wait()).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn spawn_called_in_a_task_of_another_group_waits_for_a_slot() {
        let (outer, inner) = (group(1), group(1));
        let work = Work::default();
        let (finish, task) = work.task();
        spawn_accepted(&inner.spawner(), task).await;
        let spawner = inner.spawner();
        let member = async move {
            match spawner.spawn(ready(Ok(())).boxed()).await {
                Ok(()) => Ok(()),
                Err(_) => Err("expected `Ok` after a wait"),
            }
        };
        spawn_accepted(&outer.spawner(), member.boxed()).await;
        settle().await;
        finish.send(()).unwrap();
        assert_eq!(with_deadline("`wait`", outer.wait()).await, Ok(()));
        assert_eq!(with_deadline("`wait`", inner.wait()).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn after_cancellation_spawn_is_refused_and_try_spawn_is_not() {
        let group = group(1);
        let spawner = group.spawner();
        group.token().cancel();
        let refused =
            with_deadline("`spawn`", spawner.spawn(ready(Ok(())).boxed()))
                .await;
        assert!(
            matches!(refused, Err(Refused::Cancelled(_))),
            "expected `Cancelled`, saw {refused:?}"
        );
        let cleanup = spawner.try_spawn(ready(Err("the cleanup ran")).boxed());
        assert!(
            cleanup.is_ok(),
            "expected `Ok` with a free slot, saw {cleanup:?}"
        );
        assert_eq!(
            with_deadline("`wait`", group.wait()).await,
            Err("the cleanup ran")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_the_group_refuses_waiting_and_later_spawns() {
        let group = group(1);
        let spawner = group.spawner();
        spawn_accepted(&spawner, pending().boxed()).await;
        let waiting = spawn_in_background(&spawner, ready(Ok(())).boxed());
        settle().await;
        drop(group);
        // The task has not been dropped yet, and still holds the slot.
        let late = spawner.try_spawn(ready(Ok(())).boxed());
        assert!(
            matches!(late, Err(Refused::Cancelled(_))),
            "expected `Cancelled`, saw {late:?}"
        );
        let refused =
            with_deadline("the waiting `spawn`", waiting).await.unwrap();
        assert!(
            matches!(refused, Err(Refused::Cancelled(_))),
            "expected `Cancelled`, saw {refused:?}"
        );
        let late = spawner.try_spawn(ready(Ok(())).boxed());
        assert!(
            matches!(late, Err(Refused::Cancelled(_))),
            "expected `Cancelled`, saw {late:?}"
        );
    }
}

//! The layer around a service: what it polls, keeps and releases.

use std::future::{Future, Ready, ready};
use std::num::NonZero;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tower_layer::Layer as _;
use tower_service::Service;
use week05::bulkhead::{self, Bulkheads};
use week05::gcra::{Limiter, Quota};
use week05::layer::{Guarded, Layer, Outcome, Permit, Policy};

/// Admits or refuses everything, and counts.
#[derive(Debug, Default)]
struct Switch {
    refuses: AtomicBool,
    admitted: AtomicUsize,
    successes: AtomicUsize,
    failures: AtomicUsize,
    cancelled: AtomicUsize,
}

struct Held<'a>(&'a Switch, bool);

impl Policy<u32> for Switch {
    type Permit<'a> = Held<'a>;
    type Rejected = u32;

    async fn admit(
        &self,
        key: u32,
        _: Instant,
        _: f64,
    ) -> Result<Held<'_>, u32> {
        if self.refuses.load(SeqCst) {
            return Err(key);
        }
        self.admitted.fetch_add(1, SeqCst);
        Ok(Held(self, false))
    }
}

impl Permit for Held<'_> {
    fn end(mut self, outcome: Outcome, _: Instant) {
        self.1 = true;
        match outcome {
            Outcome::Success => self.0.successes.fetch_add(1, SeqCst),
            Outcome::Failure => self.0.failures.fetch_add(1, SeqCst),
        };
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if !self.1 {
            self.0.cancelled.fetch_add(1, SeqCst);
        }
    }
}

/// What the inner service does.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Inner {
    Succeeds,
    Fails,
    IsBusyOnce,
    UsesTheBudget,
    FailsToBeReady,
    NeverAnswers,
    Panics,
}

/// An inner service that counts how often it is polled and called.
#[derive(Debug)]
struct Backend {
    behaviour: Inner,
    was_busy: bool,
    is_ready: bool,
    polls: Arc<AtomicUsize>,
    calls: Arc<AtomicUsize>,
}

impl Clone for Backend {
    /// As in tower, a clone has to become ready itself.
    fn clone(&self) -> Self {
        Self {
            behaviour: self.behaviour,
            was_busy: self.was_busy,
            is_ready: false,
            polls: Arc::clone(&self.polls),
            calls: Arc::clone(&self.calls),
        }
    }
}

#[derive(Debug, PartialEq)]
struct OwnError(&'static str);

impl Service<u32> for Backend {
    type Response = u32;
    type Error = OwnError;
    type Future = Answer;

    fn poll_ready(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), OwnError>> {
        self.polls.fetch_add(1, SeqCst);
        match self.behaviour {
            Inner::FailsToBeReady => Poll::Ready(Err(OwnError("not ready"))),
            Inner::IsBusyOnce if !self.was_busy => {
                self.was_busy = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Inner::UsesTheBudget => {
                let budget = pin!(tokio::task::consume_budget());
                self.is_ready = budget.poll(cx).is_ready();
                if self.is_ready { Poll::Ready(Ok(())) } else { Poll::Pending }
            }
            _ => {
                self.is_ready = true;
                Poll::Ready(Ok(()))
            }
        }
    }

    fn call(&mut self, request: u32) -> Answer {
        assert!(self.is_ready, "called although it was not ready");
        self.is_ready = false;
        self.calls.fetch_add(1, SeqCst);
        Answer(self.behaviour, ready(Ok(request + 1)))
    }
}

struct Answer(Inner, Ready<Result<u32, OwnError>>);

impl Future for Answer {
    type Output = Result<u32, OwnError>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Self::Output> {
        match self.0 {
            Inner::Fails => Poll::Ready(Err(OwnError("failed"))),
            Inner::NeverAnswers => Poll::Pending,
            Inner::Panics => panic!("on purpose: the inner service panics"),
            _ => std::pin::Pin::new(&mut self.1).poll(cx),
        }
    }
}

type KeyOf = fn(&u32) -> u32;
type Judge = fn(&Result<u32, OwnError>) -> Outcome;
type Refuse = fn(u32) -> Result<u32, OwnError>;

fn guarded(
    policy: &Arc<Switch>,
    behaviour: Inner,
) -> (Guarded<Backend, Arc<Switch>, KeyOf, Judge, Refuse>, Backend) {
    let backend = Backend {
        behaviour,
        was_busy: false,
        is_ready: false,
        polls: Arc::default(),
        calls: Arc::default(),
    };
    let layer = Layer {
        policy: Arc::clone(policy),
        key: (|request| *request) as KeyOf,
        judge: (|result| match result {
            Ok(_) => Outcome::Success,
            Err(_) => Outcome::Failure,
        }) as Judge,
        refuse: (|key| Ok(key + 1000)) as Refuse,
    };
    (layer.layer(backend.clone()), backend)
}

fn counts(policy: &Switch) -> [usize; 4] {
    [&policy.admitted, &policy.successes, &policy.failures, &policy.cancelled]
        .map(|count| count.load(SeqCst))
}

#[tokio::test]
async fn an_admitted_request_reaches_the_service_and_ends_as_judged() {
    let policy = Arc::new(Switch::default());
    let (mut service, backend) = guarded(&policy, Inner::Succeeds);
    assert_eq!(service.call(7).await, Ok(8));
    assert_eq!(backend.calls.load(SeqCst), 1);
    assert_eq!(counts(&policy), [1, 1, 0, 0]);
}

#[tokio::test]
async fn an_error_of_the_service_keeps_its_type_and_is_a_failure() {
    for (behaviour, error) in
        [(Inner::Fails, "failed"), (Inner::FailsToBeReady, "not ready")]
    {
        let policy = Arc::new(Switch::default());
        let (mut service, _) = guarded(&policy, behaviour);
        assert_eq!(service.call(7).await, Err(OwnError(error)));
        assert_eq!(counts(&policy), [1, 0, 1, 0], "{behaviour:?}");
    }
}

#[tokio::test]
async fn a_refused_request_neither_polls_nor_calls_the_service() {
    let policy = Arc::new(Switch::default());
    policy.refuses.store(true, SeqCst);
    let (mut service, backend) = guarded(&policy, Inner::Succeeds);
    let mut cx = Context::from_waker(Waker::noop());
    assert_eq!(service.poll_ready(&mut cx), Poll::Ready(Ok(())));
    assert_eq!(service.call(7).await, Ok(1007));
    assert_eq!(backend.polls.load(SeqCst), 0, "polled although refused");
    assert_eq!(backend.calls.load(SeqCst), 0, "called although refused");
    assert_eq!(counts(&policy), [0, 0, 0, 0]);
}

#[tokio::test]
async fn a_service_that_is_busy_for_a_moment_is_waited_for() {
    let policy = Arc::new(Switch::default());
    let (mut service, backend) = guarded(&policy, Inner::IsBusyOnce);
    assert_eq!(service.call(7).await, Ok(8));
    assert_eq!(backend.polls.load(SeqCst), 2);
    assert_eq!(counts(&policy), [1, 1, 0, 0]);
}

#[tokio::test]
async fn clones_of_a_service_share_the_policy() {
    let policy = Arc::new(Switch::default());
    let (mut service, _) = guarded(&policy, Inner::Succeeds);
    let mut clone = service.clone();
    assert_eq!((service.call(1).await, clone.call(2).await), (Ok(2), Ok(3)));
    assert_eq!(counts(&policy), [2, 2, 0, 0]);
}

#[test]
fn a_dropped_request_releases_its_permit_as_cancelled() {
    let policy = Arc::new(Switch::default());
    // Before the first poll, no decision has been made.
    let (mut service, _) = guarded(&policy, Inner::NeverAnswers);
    drop(service.call(7));
    assert_eq!(counts(&policy), [0, 0, 0, 0]);
    // While the service is not ready, and while it does not answer.
    for behaviour in [Inner::IsBusyOnce, Inner::NeverAnswers] {
        let policy = Arc::new(Switch::default());
        let (mut service, _) = guarded(&policy, behaviour);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(pin!(service.call(7)).poll(&mut cx).is_pending());
        assert_eq!(counts(&policy), [1, 0, 0, 1], "{behaviour:?}");
    }
}

#[test]
fn a_panic_of_the_service_releases_the_permit() {
    let policy = Arc::new(Switch::default());
    let (mut service, _) = guarded(&policy, Inner::Panics);
    let mut call = service.call(7);
    let mut cx = Context::from_waker(Waker::noop());
    let poll = || call.as_mut().poll(&mut cx);
    assert!(std::panic::catch_unwind(AssertUnwindSafe(poll)).is_err());
    drop(call);
    assert_eq!(counts(&policy), [1, 0, 0, 1]);
}

/// tokio lets a resource say `Pending` after 128 operations without a pause. Then
/// the service is not full.
#[tokio::test]
async fn a_spent_cooperative_budget_refuses_no_request() {
    let policy = Arc::new(Switch::default());
    let (mut service, backend) = guarded(&policy, Inner::UsesTheBudget);
    let task = tokio::spawn(async move {
        let mut served = 0;
        for _ in 0..1000 {
            served += usize::from(service.call(7).await == Ok(8));
        }
        served
    });
    let limit = Duration::from_secs(10);
    let served = tokio::time::timeout(limit, task).await;
    assert_eq!(served.expect("it ends").expect("it returns"), 1000);
    let polls = backend.polls.load(SeqCst);
    assert!(polls > 1000, "the budget was never spent: {polls} polls");
}

#[tokio::test]
async fn a_spent_cooperative_budget_does_not_fill_a_bulkhead() {
    let permits = NonZero::<u32>::MIN;
    let config = bulkhead::Config { permits, max_waiting: 0 };
    let layer = Layer {
        policy: Arc::new(Bulkheads::new([((), config)].into())),
        key: |_: &u32| (),
        judge: |_: &Result<u32, OwnError>| Outcome::Success,
        refuse: |_| Ok(1000),
    };
    let (_, backend) = guarded(&Arc::default(), Inner::UsesTheBudget);
    let mut service = layer.layer(backend);
    let served = tokio::spawn(async move {
        let mut served = 0;
        for _ in 0..1000 {
            served += usize::from(service.call(7).await == Ok(8));
        }
        served
    });
    assert_eq!(served.await.expect("it returns"), 1000);
}

#[tokio::test(start_paused = true)]
async fn a_limiter_behind_the_layer_follows_tokios_clock() {
    let one = NonZero::<u32>::MIN;
    let quota = Quota { per_second: one, burst: one };
    let start = tokio::time::Instant::now().into_std();
    let layer = Layer {
        policy: Arc::new(Limiter::new(quota, start)),
        key: |_: &u32| (),
        judge: |_: &Result<u32, OwnError>| Outcome::Success,
        refuse: |_| Ok(1000),
    };
    let (_, backend) = guarded(&Arc::default(), Inner::Succeeds);
    let mut service = layer.layer(backend);
    assert_eq!(service.call(7).await, Ok(8));
    assert_eq!(service.call(7).await, Ok(1000), "the second in a second");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(service.call(7).await, Ok(8));
}

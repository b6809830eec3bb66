//! A service under overload, simulated: virtual time, one thread, a fixed seed.
//!
//! Users send requests to a server through clients. The server has some cores
//! and one queue, and each refusal costs it a little time. A client gives up on
//! an attempt after a timeout, and may retry. The server does not see that: it
//! computes the answer, and nobody reads it. The policies are the answers of
//! this week, unchanged: they get the virtual time as `now`.
//!
//! The model has no network, no packets and no garbage collection. It shows how
//! policies and queues work together, and is no prediction for a real service.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::random::Random;
pub use self::report::{Report, Slot};
use crate::criticality::{self, CpuMeter, Criticality, Shedder};
use crate::gcra::{Limiter, Quota};
use crate::retry::{Backoff, Budget, Failure, Limits, Policy, Request, Retry};
use crate::sre_breaker::{self, Breaker, Call};

pub mod overload;

mod random;
mod report;

/// The load, the server and the clients of a simulation.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Two runs with the same seed are equal.
    pub seed: u64,
    /// The time in which users send requests.
    pub duration: Duration,
    /// The width of a slot of the report.
    pub slot: Duration,
    /// Requests per second.
    pub load: f64,
    /// The share of requests of each class, in the order of
    /// [`Criticality::ALL`]. Their sum is 1.
    pub classes: [f64; Criticality::ALL.len()],
    /// The server.
    pub server: Server,
    /// The clients.
    pub client: Client,
}

/// A server with a queue.
#[derive(Debug, Clone)]
pub struct Server {
    /// The number of requests that are served at once.
    pub cores: usize,
    /// The mean time of a request. The times are exponentially distributed.
    pub service_time: Duration,
    /// The time of a core that a refusal costs.
    pub refusal_cost: Duration,
    /// The number of requests that wait. More are refused.
    pub max_queue: usize,
    /// Skips requests whose client has given up: their deadline was sent along.
    pub knows_deadlines: bool,
    /// Refuses what exceeds a rate.
    pub rate_limit: Option<Quota>,
    /// Refuses by utilisation, the least important requests first.
    pub shedding: Option<criticality::Config>,
    /// A time at which the server does not work as usual.
    pub fault: Option<(Range<Duration>, Fault)>,
}

/// A fault of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Each request takes so many times longer.
    Slow(u32),
    /// Each attempt fails at once.
    Down,
}

/// The clients of a server.
#[derive(Debug, Clone)]
pub struct Client {
    /// The number of clients. Each has a retry budget of its own, and a breaker
    /// for each class: refusals of one class must not stop another.
    pub count: usize,
    /// How long a client waits for an attempt.
    pub timeout: Duration,
    /// The number of attempts of a request, with the first one.
    pub max_attempts: u32,
    /// The delays of retries.
    pub backoff: Backoff,
    /// Limits the retries.
    pub retry_budget: Option<Limits>,
    /// Refuses requests while the server fails.
    pub breaker: Option<sre_breaker::Config>,
}

/// Runs a scenario. It ends when each request has ended.
///
/// # Panics
///
/// Panics if the load, the width of a slot, or the number of clients is zero.
#[must_use]
pub fn run(scenario: &Scenario) -> Report {
    assert!(scenario.load > 0.0, "expected a load above zero");
    assert!(!scenario.slot.is_zero(), "expected slots with a width");
    assert!(scenario.client.count > 0, "expected at least one client");
    let epoch = Instant::now();
    let client = &scenario.client;
    let breaker = client.breaker.map(|config| {
        let breaker = |_| Breaker::new(config, epoch);
        let count = client.count * Criticality::ALL.len();
        (0..count).map(breaker).collect::<Vec<_>>()
    });
    let simulation = Simulation::new(scenario, epoch, breaker.as_deref());
    simulation.run()
}

/// Time since the beginning.
type Time = Duration;

/// The index of a request in `Simulation::requests`.
type Id = usize;

/// Something that happens at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A user sends a request.
    Arrives,
    /// A client sends an attempt.
    Sends(Id),
    /// A core has completed a job.
    Completes(Job),
    /// A client waits no longer for an attempt.
    TimesOut(Id, u32),
    /// The utilisation is measured.
    Samples,
}

/// An attempt at the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Job {
    request: Id,
    attempt: u32,
}

#[derive(Debug)]
struct State<'a> {
    came: Time,
    class: Criticality,
    attempts: u32,
    /// The breaker's guard of the attempt that is in flight.
    call: Option<Call<'a>>,
    /// The granted retry that waits for its time.
    retry: Option<Retry>,
    is_waiting: bool,
    permits: Vec<(u32, criticality::Permit)>,
}

struct Simulation<'a> {
    scenario: &'a Scenario,
    epoch: Instant,
    random: Random,
    /// Events by time. Of two at the same time, the first one that was added.
    events: BinaryHeap<Reverse<(Time, u64, Event)>>,
    added: u64,
    now: Time,
    requests: Vec<State<'a>>,
    unfinished: usize,

    queue: VecDeque<Job>,
    idle_cores: usize,
    /// The time that refusals have cost, and no core has spent yet.
    debt: Duration,
    busy: Duration,
    cpu: CpuMeter,
    utilisation: f64,
    limiter: Option<Limiter>,
    shedder: Option<Shedder>,

    breakers: Option<&'a [Breaker]>,
    budgets: Vec<Arc<Budget>>,
    report: Report,
}

/// How often the utilisation is measured, and how fast old values fade.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
const TIME_CONSTANT: Duration = Duration::from_millis(300);

impl<'a> Simulation<'a> {
    fn new(
        scenario: &'a Scenario,
        epoch: Instant,
        breakers: Option<&'a [Breaker]>,
    ) -> Self {
        let Scenario { server, client, .. } = scenario;
        let unlimited = Limits {
            percent: u32::MAX,
            min_retries: u64::MAX,
            window: crate::window::Config {
                bucket: Duration::from_secs(1),
                buckets: std::num::NonZero::<usize>::MIN,
            },
        };
        let limits = client.retry_budget.unwrap_or(unlimited);
        let budget = |_| Arc::new(Budget::new(limits, epoch));
        let slots = scenario.duration.div_duration_f64(scenario.slot).ceil();
        Self {
            scenario,
            epoch,
            random: Random(scenario.seed),
            events: BinaryHeap::new(),
            added: 0,
            now: Time::ZERO,
            requests: Vec::new(),
            unfinished: 0,
            queue: VecDeque::new(),
            idle_cores: server.cores,
            debt: Duration::ZERO,
            busy: Duration::ZERO,
            cpu: CpuMeter::new(TIME_CONSTANT),
            utilisation: 0.0,
            limiter: server.rate_limit.map(|q| Limiter::new(q, epoch)),
            shedder: server.shedding.map(Shedder::new),
            breakers,
            budgets: (0..client.count).map(budget).collect(),
            report: Report {
                slot: scenario.slot,
                slots: vec![Slot::default(); slots as usize],
                classes: Default::default(),
                latencies: Vec::new(),
            },
        }
    }

    fn run(mut self) -> Report {
        self.next_arrival();
        self.after(Duration::ZERO, Event::Samples);
        while let Some(Reverse((time, _, event))) = self.events.pop() {
            self.now = time;
            match event {
                Event::Arrives => self.arrive(),
                Event::Sends(id) => self.send(id),
                Event::Completes(job) => self.complete(job),
                Event::TimesOut(id, attempt) => self.time_out(id, attempt),
                Event::Samples => self.sample(),
            }
        }
        self.report
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.added += 1;
        self.events.push(Reverse((self.now + delay, self.added, event)));
    }

    fn next_arrival(&mut self) {
        let gap = self.random.exponential() / self.scenario.load;
        let gap = Duration::from_secs_f64(gap);
        if self.now + gap < self.scenario.duration {
            self.after(gap, Event::Arrives);
        }
    }

    /// The slot of a time. What happens after the end counts in the last one.
    fn slot(&mut self, time: Time) -> &mut Slot {
        let slot = time.div_duration_f64(self.scenario.slot) as usize;
        let last = self.report.slots.len() - 1;
        &mut self.report.slots[slot.min(last)]
    }

    /// The virtual time, as the policies see it.
    fn instant(&self) -> Instant {
        self.epoch + self.now
    }

    // The clients.

    fn arrive(&mut self) {
        self.next_arrival();
        let mut share = self.random.uniform();
        let classes = Criticality::ALL.into_iter();
        let class = classes.zip(self.scenario.classes).find(|(_, part)| {
            share -= part;
            share < 0.0
        });
        let class = class.map_or(Criticality::CriticalPlus, |(c, _)| c);
        let id = self.requests.len();
        self.requests.push(State {
            came: self.now,
            class,
            attempts: 0,
            call: None,
            retry: None,
            is_waiting: false,
            permits: Vec::new(),
        });
        self.unfinished += 1;
        self.slot(self.now).offered += 1;
        self.report.classes[class as usize].0 += 1;
        self.budget(id).deposit(self.instant());
        self.send(id);
    }

    fn budget(&self, id: Id) -> &Arc<Budget> {
        &self.budgets[id % self.budgets.len()]
    }

    fn send(&mut self, id: Id) {
        let now = self.instant();
        if let Some(retry) = self.requests[id].retry.take() {
            retry.send(now);
        }
        if let Some(breakers) = self.breakers {
            let rand = self.random.uniform();
            let class = self.requests[id].class as usize;
            let client = id % self.scenario.client.count;
            let breaker = &breakers[client * Criticality::ALL.len() + class];
            match breaker.allow(now, rand) {
                Ok(call) => self.requests[id].call = Some(call),
                Err(_refused) => {
                    let came = self.requests[id].came;
                    self.slot(came).not_sent += 1;
                    self.unfinished -= 1;
                    return;
                }
            }
        }
        let request = &mut self.requests[id];
        request.attempts += 1;
        request.is_waiting = true;
        let job = Job { request: id, attempt: request.attempts };
        self.slot(self.now).attempts += 1;
        if self.admit(job) {
            let timeout = self.scenario.client.timeout;
            self.after(timeout, Event::TimesOut(id, job.attempt));
        } else {
            self.fail(id, Failure::Overloaded { retry_after: Duration::ZERO });
        }
    }

    fn time_out(&mut self, id: Id, attempt: u32) {
        let request = &self.requests[id];
        if request.is_waiting && request.attempts == attempt {
            self.fail(id, Failure::NoAnswer);
        }
    }

    fn fail(&mut self, id: Id, failure: Failure) {
        let (now, rand) = (self.instant(), self.random.uniform());
        let request = &mut self.requests[id];
        request.is_waiting = false;
        if let Some(call) = request.call.take() {
            call.failure(now);
        }
        let (came, attempts) = (request.came, request.attempts);
        let policy = Policy {
            max_attempts: self.scenario.client.max_attempts,
            backoff: self.scenario.client.backoff,
            budget: Arc::clone(self.budget(id)),
        };
        let request = Request { idempotent: true, deadline: None };
        match policy.next(request, attempts, failure, now, rand) {
            Ok((delay, retry)) => {
                self.requests[id].retry = Some(retry);
                self.after(delay, Event::Sends(id));
            }
            Err(_gives_up) => {
                self.unfinished -= 1;
                match failure {
                    Failure::NoAnswer => self.slot(came).timed_out += 1,
                    _ => self.slot(came).refused += 1,
                }
            }
        }
    }

    // The server.

    /// Takes an attempt into the queue, or refuses it.
    fn admit(&mut self, job: Job) -> bool {
        let now = self.instant();
        let class = self.requests[job.request].class;
        let is_refused = self.fault() == Some(Fault::Down)
            || self.queue.len() >= self.scenario.server.max_queue
            || (self.limiter.as_ref())
                .is_some_and(|limiter| limiter.try_acquire(now).is_err());
        let permit = match &self.shedder {
            Some(shedder) if !is_refused => {
                Some(shedder.try_acquire(class, self.utilisation))
            }
            _ => None,
        };
        match permit {
            Some(Ok(permit)) => {
                self.requests[job.request].permits.push((job.attempt, permit))
            }
            None if !is_refused => {}
            _ => {
                // An idle core refuses without delaying a request.
                let is_busy = self.idle_cores == 0;
                if is_busy && self.fault() != Some(Fault::Down) {
                    self.debt += self.scenario.server.refusal_cost;
                }
                return false;
            }
        }
        self.queue.push_back(job);
        self.start_jobs();
        true
    }

    fn fault(&self) -> Option<Fault> {
        let (time, fault) = self.scenario.server.fault.as_ref()?;
        time.contains(&self.now).then_some(*fault)
    }

    fn start_jobs(&mut self) {
        while self.idle_cores > 0 {
            let Some(job) = self.queue.pop_front() else { return };
            if self.scenario.server.knows_deadlines && !self.is_waited_for(job)
            {
                self.release(job);
                continue;
            }
            self.idle_cores -= 1;
            let mean = self.scenario.server.service_time;
            let mut time = mean.mul_f64(self.random.exponential());
            if let Some(Fault::Slow(factor)) = self.fault() {
                time *= factor;
            }
            // A refusal takes the core away from the next request.
            time += std::mem::take(&mut self.debt);
            self.busy += time;
            self.after(time, Event::Completes(job));
        }
    }

    fn complete(&mut self, job: Job) {
        self.idle_cores += 1;
        self.release(job);
        if self.is_waited_for(job) {
            let now = self.instant();
            let request = &mut self.requests[job.request];
            request.is_waiting = false;
            if let Some(call) = request.call.take() {
                call.success(now);
            }
            let (came, class) = (request.came, request.class);
            self.unfinished -= 1;
            self.slot(came).served += 1;
            self.report.classes[class as usize].1 += 1;
            self.report.latencies.push((came, self.now - came));
        } else {
            self.slot(self.now).wasted += 1;
        }
        self.start_jobs();
    }

    fn is_waited_for(&self, job: Job) -> bool {
        let request = &self.requests[job.request];
        request.is_waiting && request.attempts == job.attempt
    }

    /// Gives the permit of an attempt back.
    fn release(&mut self, job: Job) {
        let permits = &mut self.requests[job.request].permits;
        permits.retain(|(attempt, _)| *attempt != job.attempt);
    }

    fn sample(&mut self) {
        let now = self.instant();
        let cores = self.scenario.server.cores as f64;
        // `busy` contains the rest of the jobs that run: nearly right, and a
        // service does not know better what its threads will do.
        self.utilisation = self.cpu.sample(now, self.busy, cores);
        if self.now < self.scenario.duration || self.unfinished > 0 {
            self.after(SAMPLE_EVERY, Event::Samples);
        }
    }
}

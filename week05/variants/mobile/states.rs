//! Variant: an enum of states, and an attempt that counts as failed when the
//! next tap finds that it is gone.
//!
//! `Attempt` has a `Drop` that sets a flag. A tap first settles the attempt in
//! flight: if its flag is set, or its time is over, the state becomes `Quiet`.
//! Failures are counted, and the ceiling is calculated from the count. The text
//! has keys, and times in seconds and nanoseconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Decides which taps of a user become attempts.
#[derive(Debug)]
pub struct Restraint {
    config: Config,
    failures: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    Ready,
    InFlight { started: SystemTime, wait: Duration, dropped: Arc<AtomicBool> },
    Quiet { since: SystemTime, wait: Duration },
}

/// The settings of a [`Restraint`].
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// The shortest time from the start of an attempt to that of the next one.
    pub min_gap: Duration,
    /// The largest backoff after the first failure. It doubles with each one.
    pub base: Duration,
    /// The largest backoff after any number of failures.
    pub cap: Duration,
    /// A longer time that a server asks for counts as this one.
    pub max_retry_after: Duration,
    /// An attempt without an outcome is no longer in flight after this time.
    pub timeout: Duration,
}

/// The answer to a tap.
#[derive(Debug)]
pub enum Tap {
    /// Store the text of [`Restraint::save`], and then send a request.
    Send(Attempt),
    /// Send nothing. The time after which a tap can send.
    Wait(Duration),
    /// Send nothing. The latest attempt has no outcome yet.
    InFlight,
}

/// An attempt in flight. Dropping it without an outcome is a failure.
#[derive(Debug)]
#[must_use = "dropping an attempt is a failure"]
pub struct Attempt {
    dropped: Arc<AtomicBool>,
}

/// How an attempt has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The server has served the request.
    Ok,
    /// There was no answer.
    Unreachable,
    /// The server has answered that it cannot serve the request now.
    Refused {
        /// The time after which the server wants to see the next attempt.
        retry_after: Option<Duration>,
    },
}

impl Restraint {
    /// Creates the state from the text that `save` has returned in an earlier
    /// run of the app, or from `None` in the first run.
    pub fn new(config: Config, saved: Option<&str>, now: SystemTime) -> Self {
        let mut restraint = Self { config, failures: 0, state: State::Ready };
        let Some(text) = saved else { return restraint };
        restraint.state = State::Quiet { since: now, wait: config.min_gap };
        if let Some((failures, since, wait)) = read(text) {
            let longest = [
                config.min_gap,
                config.cap,
                config.max_retry_after.saturating_mul(2),
            ];
            let wait = wait.min(longest.into_iter().max().unwrap());
            restraint.failures = failures;
            restraint.state = State::Quiet { since: since.min(now), wait };
        }
        restraint
    }

    /// The user wants a request to be sent. `rand` is random in `0.0..1.0`.
    pub fn tap(&mut self, now: SystemTime, rand: f64) -> Tap {
        if let State::InFlight { started, wait, dropped } = &mut self.state {
            *started = (*started).min(now);
            if !dropped.load(Ordering::Relaxed)
                && since(*started, now) < self.config.timeout
            {
                return Tap::InFlight;
            }
            // Without an outcome, the attempt may still be finished later. So
            // it stays in the state.
            let left = wait.saturating_sub(since(*started, now));
            if left > Duration::ZERO {
                return Tap::Wait(left);
            }
        }
        if let State::Quiet { since: begin, wait } = &mut self.state {
            *begin = (*begin).min(now);
            let left = wait.saturating_sub(since(*begin, now));
            if left > Duration::ZERO {
                return Tap::Wait(left);
            }
        }
        self.failures = self.failures.saturating_add(1);
        let wait = self.backoff(rand).max(self.config.min_gap);
        let dropped = Arc::new(AtomicBool::new(false));
        let attempt = Attempt { dropped: Arc::clone(&dropped) };
        self.state = State::InFlight { started: now, wait, dropped };
        Tap::Send(attempt)
    }

    fn backoff(&self, rand: f64) -> Duration {
        let Config { base, cap, .. } = self.config;
        // A base of one nanosecond is above any cap after 95 doublings.
        let mut ceiling = base.min(cap);
        for _ in 1..self.failures.min(100) {
            ceiling = ceiling.saturating_add(ceiling).min(cap);
        }
        ceiling.mul_f64(rand)
    }

    /// Ends an attempt. `rand` is random in `0.0..1.0`.
    ///
    /// An attempt of an earlier run, or one that timed out and has a successor,
    /// changes nothing.
    pub fn finish(
        &mut self,
        attempt: Attempt,
        outcome: Outcome,
        now: SystemTime,
        rand: f64,
    ) {
        let started = match &self.state {
            State::InFlight { started, dropped, .. }
                if Arc::ptr_eq(dropped, &attempt.dropped) =>
            {
                *started
            }
            _ => return,
        };
        let wait = match outcome {
            Outcome::Ok => Duration::ZERO,
            Outcome::Unreachable | Outcome::Refused { retry_after: None } => {
                self.backoff(rand)
            }
            Outcome::Refused { retry_after: Some(after) } => {
                let after = after.min(self.config.max_retry_after);
                after.saturating_add(after.mul_f64(rand))
            }
        };
        if outcome == Outcome::Ok {
            self.failures = 0;
        }
        let elapsed = since(started, now);
        let gap_left = self.config.min_gap.saturating_sub(elapsed);
        self.state = State::Quiet { since: now, wait: wait.max(gap_left) };
    }

    /// Returns the state as text, for `new` in the next run of the app. An
    /// attempt in flight is saved as a failed one.
    pub fn save(&self) -> String {
        let (begin, wait) = match self.state {
            State::Ready => (UNIX_EPOCH, Duration::ZERO),
            State::InFlight { started: begin, wait, .. }
            | State::Quiet { since: begin, wait } => (begin, wait),
        };
        let begin = since(UNIX_EPOCH, begin);
        format!(
            "failures={} since={}.{} wait={}.{} end",
            self.failures,
            begin.as_secs(),
            begin.subsec_nanos(),
            wait.as_secs(),
            wait.subsec_nanos()
        )
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::Relaxed);
    }
}

/// Returns the time from `begin` to `now`, or zero if the clock was set back.
fn since(begin: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(begin).unwrap_or_default()
}

fn read(text: &str) -> Option<(u32, SystemTime, Duration)> {
    let mut fields = text.strip_suffix(" end")?.split(' ');
    let failures = fields.next()?.strip_prefix("failures=")?.parse().ok()?;
    let since = read_time(fields.next()?.strip_prefix("since=")?)?;
    let wait = read_time(fields.next()?.strip_prefix("wait=")?)?;
    let since = UNIX_EPOCH.checked_add(since)?;
    fields.next().is_none().then_some((failures, since, wait))
}

fn read_time(text: &str) -> Option<Duration> {
    let (secs, nanos) = text.split_once('.')?;
    let nanos = Duration::from_nanos(nanos.parse().ok()?);
    Duration::from_secs(secs.parse().ok()?).checked_add(nanos)
}

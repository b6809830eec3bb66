//! Client restraint: an app that stays quiet while its server is unreachable.
//!
//! *Question.* A server fails, and a million users tap "refresh" again and
//! again. How does an app send few attempts, however often its user taps, also
//! if it is restarted, crashes, or runs on a phone whose clock is wrong?
//!
//! *Idea.* A state machine between the button and the network: **one attempt in
//! flight**, a **minimum gap** between attempts, **exponential backoff with full
//! jitter**, and a server that says when to come back. An attempt begins as a
//! failed one: when it is sent, the wait after a failure is already in the
//! state, and only an outcome replaces it. So a crash needs no code. A wait is
//! stored as its beginning and its length. If the clock is before the
//! beginning, it was set back, and the wait begins again.
//!
//! *Guarantee.* Whatever a user taps, attempts start at least the minimum gap
//! apart, and so do those before and after a restart. A wait is never longer
//! than the largest of `min_gap`, `cap` and twice `max_retry_after`, whatever
//! a server says or a file contains. A clock that is set back begins it again,
//! and one that jumps forward releases one attempt.
//!
//! *Cost.* The caller has to store the text of `save` before each attempt is
//! sent, or a crash forgets it. If a server works again, some users still wait.
//! With full jitter, only the minimum gap is a lower bound of a wait.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//! use week05::mobile::{Config, Outcome, Restraint, Tap};
//!
//! let second = Duration::from_secs(1);
//! let config = Config {
//!     min_gap: 2 * second,
//!     base: 4 * second,
//!     cap: 300 * second,
//!     max_retry_after: 3_600 * second,
//!     timeout: 10 * second,
//! };
//! let start = SystemTime::now();
//! let mut restraint = Restraint::new(config, None, start);
//! let Tap::Send(attempt) = restraint.tap(start, 0.5) else { panic!() };
//! assert!(matches!(restraint.tap(start, 0.5), Tap::InFlight));
//!
//! let busy = Outcome::Refused { retry_after: Some(60 * second) };
//! restraint.finish(attempt, busy, start + second, 0.5);
//! let saved = restraint.save();
//!
//! // The app is killed, and started again.
//! let now = start + 2 * second;
//! let mut restraint = Restraint::new(config, Some(&saved), now);
//! let Tap::Wait(left) = restraint.tap(now, 0.5) else { panic!() };
//! assert_eq!(left, 89 * second); // 60 s, and half as much again as jitter
//! ```

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Decides which taps of a user become attempts.
#[derive(Debug)]
pub struct Restraint {
    config: Config,
    /// The start of the latest attempt while it is in flight, and then the time
    /// of its outcome.
    since: SystemTime,
    /// No attempt starts until it has passed since `since`.
    wait: Duration,
    /// The largest backoff after the latest failure. 0 after a success.
    ceiling: Duration,
    /// The `Arc` is in the latest attempt, and ends with it.
    in_flight: Weak<()>,
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
    alive: Arc<()>,
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
        let (since, wait, ceiling) = match saved.map(from_text) {
            None => (now, Duration::ZERO, Duration::ZERO),
            Some(Some([a, wait, ceiling])) => (UNIX_EPOCH + a, wait, ceiling),
            // It is tempting to start afresh. But then an app in a crash loop
            // that cannot write its file sends an attempt each time.
            Some(None) => (now, config.min_gap, Duration::ZERO),
        };
        let longest_refusal = config.max_retry_after.saturating_mul(2);
        let longest = config.min_gap.max(config.cap).max(longest_refusal);
        Self {
            config,
            since: since.min(now),
            wait: wait.min(longest),
            ceiling,
            in_flight: Weak::new(),
        }
    }

    /// The user wants a request to be sent. `rand` is random in `0.0..1.0`.
    pub fn tap(&mut self, now: SystemTime, rand: f64) -> Tap {
        let elapsed = self.elapsed(now);
        let is_in_flight = self.in_flight.strong_count() > 0;
        if is_in_flight && elapsed < self.config.timeout {
            return Tap::InFlight;
        }
        if elapsed < self.wait {
            return Tap::Wait(self.wait - elapsed);
        }
        self.since = now;
        self.ceiling = self.ceiling.saturating_mul(2).max(self.config.base);
        self.ceiling = self.ceiling.min(self.config.cap);
        self.wait = self.ceiling.mul_f64(rand).max(self.config.min_gap);
        let alive = Arc::new(());
        self.in_flight = Arc::downgrade(&alive);
        Tap::Send(Attempt { alive })
    }

    /// Ends an attempt. `rand` is random in `0.0..1.0`.
    ///
    /// An attempt of an earlier run, or one that timed out and has a successor,
    /// changes nothing.
    pub fn finish(
        &mut self,
        Attempt { alive }: Attempt,
        outcome: Outcome,
        now: SystemTime,
        rand: f64,
    ) {
        if !self.in_flight.ptr_eq(&Arc::downgrade(&alive)) {
            return;
        }
        let gap_left = self.config.min_gap.saturating_sub(self.elapsed(now));
        let wait = match outcome {
            Outcome::Ok => {
                self.ceiling = Duration::ZERO;
                Duration::ZERO
            }
            // The jitter comes after the bound. Otherwise, all phones that were
            // told a longer time would come back at the same moment.
            Outcome::Refused { retry_after: Some(after) } => {
                let after = after.min(self.config.max_retry_after);
                after.saturating_add(after.mul_f64(rand))
            }
            Outcome::Unreachable | Outcome::Refused { retry_after: None } => {
                self.ceiling.mul_f64(rand)
            }
        };
        self.wait = wait.max(gap_left);
        self.since = now;
    }

    /// Returns the state as text, for `new` in the next run of the app. An
    /// attempt in flight is saved as a failed one.
    pub fn save(&self) -> String {
        let since = self.since.duration_since(UNIX_EPOCH).unwrap_or_default();
        to_text([since, self.wait, self.ceiling])
    }

    /// Returns the time since `since`, which is never in the future afterwards.
    fn elapsed(&mut self, now: SystemTime) -> Duration {
        self.since = self.since.min(now);
        now.duration_since(self.since).unwrap_or_default()
    }
}

/// Writes times of up to 584 years.
fn to_text(times: [Duration; 3]) -> String {
    let [a, b, c] =
        times.map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    format!("v1 {a} {b} {c};")
}

/// Reads what `to_text` has written. The `;` shows that the text is complete.
fn from_text(text: &str) -> Option<[Duration; 3]> {
    let text = text.strip_prefix("v1 ")?.strip_suffix(';')?;
    let times = text.split(' ').map(|n| n.parse().map(Duration::from_nanos));
    times.collect::<Result<Vec<_>, _>>().ok()?.try_into().ok()
}

//! Client restraint: an app that stays quiet while its server is unreachable.
//! Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - `tap` returns `InFlight` while an attempt is in flight. Otherwise it
//!   returns `Wait` with the time that is left, or `Send` if none is left. A
//!   new state without a saved text has nothing to wait for. `InFlight` and
//!   `Wait` change nothing, however often they are returned.
//! - An attempt is in flight from `Send` until `finish`, or until the `Attempt`
//!   is dropped, or until `timeout` has passed since its start.
//! - An attempt without an outcome is a failure that ended when it started. So
//!   the wait after it begins at the `now` of the tap that sent it, with the
//!   `rand` of this tap.
//! - `finish` replaces this by the outcome: the wait begins at its `now`, with
//!   its `rand`. If a newer attempt was sent, or if the attempt is from another
//!   `Restraint` (from before a restart), `finish` changes nothing.
//! - The *ceiling* of the n-th failure in a row is `base × 2ⁿ⁻¹`, or `cap` if
//!   that is less. `Unreachable`, `Refused` and no outcome are failures. After
//!   `Ok`, the next failure is the first one.
//! - The wait after a failure is `rand × ceiling` (full jitter). The wait after
//!   `Refused` with a `retry_after` is `r × (1 + rand)` instead, where `r` is
//!   `retry_after`, or `max_retry_after` if that is less. The wait after `Ok` is
//!   zero.
//! - In each case, the wait lasts at least until `min_gap` has passed since the
//!   start of the attempt.
//! - `new` with the text of `save` continues the waits and the count of
//!   failures where they were. An attempt that was in flight has no outcome.
//!   Times are from 1970 to 2500, and exact to a microsecond. Waits of more
//!   than 500 years may become shorter.
//! - If the text is not one that `save` returns, if its end is missing, or if
//!   more text follows, `new` waits for `min_gap` from its `now`, and the next
//!   failure is the first one.
//!   Changed digits need not be noticed. No text makes `new` or a later call
//!   panic.
//! - No wait is longer than the largest of `min_gap`, `cap` and `2 ×
//!   max_retry_after`, also if the text is from an app with other settings, or
//!   has changed digits.
//! - The clock may jump. If `now` is before the beginning of a wait or of an
//!   attempt in flight, this wait or attempt begins again at `now`, with its
//!   full length. If the clock jumps forward, the time counts as passed: at
//!   most one attempt is sent.
//! - Any setting and any `retry_after` may be zero or `Duration::MAX`.
//!
//! Help: `to_text` and `from_text` at the end are given. You may use another
//! format.

use std::time::{Duration, SystemTime};

/// Decides which taps of a user become attempts.
#[derive(Debug)]
pub struct Restraint {
    // What has to survive a restart, and what must not?
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
    // How does the state notice that it has been dropped?
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
    pub fn new(_config: Config, saved: Option<&str>, _now: SystemTime) -> Self {
        let _times = saved.map(from_text);
        todo!("which of the saved times can you trust?")
    }

    /// The user wants a request to be sent. `rand` is random in `0.0..1.0`.
    pub fn tap(&mut self, _now: SystemTime, _rand: f64) -> Tap {
        todo!("which state would a crash right after `Send` need?")
    }

    /// Ends an attempt. `rand` is random in `0.0..1.0`.
    ///
    /// An attempt of an earlier run, or one that timed out and has a successor,
    /// changes nothing.
    pub fn finish(
        &mut self,
        _attempt: Attempt,
        _outcome: Outcome,
        _now: SystemTime,
        _rand: f64,
    ) {
        todo!("how long is the wait, and when does it begin?")
    }

    /// Returns the state as text, for `new` in the next run of the app. An
    /// attempt in flight is saved as a failed one.
    pub fn save(&self) -> String {
        let text = to_text([Duration::ZERO; 3]);
        todo!("which times go into `{text}`?")
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

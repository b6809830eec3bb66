//! Load shedding by criticality: under overload, refuse the least important
//! requests first. Your turn.
//!
//! These rules are graded, and nothing else.
//!
//! Classes:
//!
//! - `inherited` returns the class whose `header` is exactly the given text.
//!   For any other text, and for `None`, it returns `Critical`.
//! - A call can have a lower class than the request that makes it, and never a
//!   higher one: `for_call` returns `wanted`, or `self` if `wanted` is higher.
//!
//! CPU utilisation:
//!
//! - An *interval* is the time from one sample to the next. Its utilisation is
//!   the CPU time that was used in it, divided by its length and by the `cores`
//!   of the sample at its end. It is 0 if the second `used` is less than the
//!   first: the counter of a new cgroup begins at 0.
//! - It may be far more than 1, since the kernel updates the counter late. It
//!   is not limited, or CPU time would be lost.
//! - The first interval sets the average to its utilisation. Each further one
//!   changes it: `average = u + (average - u) × e^(-length / time_constant)`,
//!   where `u` is its utilisation. So it does not matter how often a sample is
//!   taken. The time constant may be zero (the latest interval counts alone) or
//!   `Duration::MAX`.
//! - `sample` returns the average, or NaN before the end of the first interval.
//! - If `now` is not later than the `now` of all samples before, `sample` only
//!   returns this: it changes nothing.
//!
//! Shedding:
//!
//! - The *utilisation* is `cpu`, or `n / max_in_flight` if that is higher. `n` is
//!   the number of requests in flight, of all classes, without the new one. A
//!   `cpu` of more than 1 counts as 1, and NaN as 0.
//! - `try_acquire` refuses a request if `max_in_flight` requests are in flight,
//!   or if the utilisation is `refuse_at` of its class or more. The error has
//!   this utilisation. Otherwise the request is admitted: with a degraded answer
//!   if the utilisation is `degrade_at` or more, else with a full one.
//! - A threshold is a percentage: 29 is reached by a utilisation of 0.29, and 101
//!   or more never. If `degrade_at` is more than `refuse_at` of the same class,
//!   it counts as `refuse_at`. After that, a threshold that is less than that
//!   of a lower class counts as the highest of the lower classes. So at equal
//!   utilisation, a request never gets less than one of a lower class.
//! - An admitted request is in flight until its permit is dropped, also in a
//!   panic or in another thread. A refused request is never in flight, not even
//!   for a moment.
//! - `stats` counts the results of `try_acquire` for each class on its own.
//! - Clones of a shedder are one shedder.
//! - All this holds for threads: the last rung (group of tests) runs your file
//!   under loom. loom does not see the types of `std`. So import `Arc` and
//!   atomics from `crate::model_checked::loom_atomics`.
//!
//! Help: `try_update` of an atomic is a read-modify-write that may decide not
//! to write. It returns the value that it has found, as `Ok` or as `Err`.

use std::num::NonZero;
use std::time::{Duration, Instant};

/// How important a request is, the least important class first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Criticality {
    /// Often refused, and hardly missed: a prefetch.
    Sheddable,
    /// Refused for minutes, and retried later: a batch job.
    SheddablePlus,
    /// A user sees the failure. The default.
    Critical,
    /// The failure is serious: a payment.
    CriticalPlus,
}

/// The average CPU utilisation of a service. One task owns it, and samples.
#[derive(Debug)]
pub struct CpuMeter {
    // What must the next sample know?
}

/// Decides which requests are served. Clones share their state.
#[derive(Debug, Clone)]
pub struct Shedder {
    // What do clones and permits share?
}

/// The settings of a [`Shedder`]. Thresholds are percentages of utilisation,
/// one for each class of [`Criticality::ALL`], in this order. 101 is never
/// reached.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// With so many requests in flight, all further ones are refused.
    pub max_in_flight: NonZero<u32>,
    /// From here on, a request gets a degraded answer.
    pub degrade_at: [u8; 4],
    /// From here on, a request is refused.
    pub refuse_at: [u8; 4],
}

/// A request that is in flight until the permit is dropped.
#[derive(Debug)]
#[must_use = "dropping a permit ends the request"]
pub struct Permit {
    /// Which answer the request may compute.
    pub quality: Quality,
    // What must a drop know? A permit may outlive the shedder.
}

/// Which answer a request may compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quality {
    /// The usual answer.
    Full,
    /// A cheaper one: from a cache, or without recommendations.
    Degraded,
}

/// The numbers of requests of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Admitted, with [`Quality::Full`].
    pub full: u64,
    /// Admitted, with [`Quality::Degraded`].
    pub degraded: u64,
    /// Refused.
    pub refused: u64,
}

/// The request was refused. Only the direct caller may retry, and elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("request refused at a utilisation of {utilisation:.2}")]
pub struct Overloaded {
    /// The utilisation that the decision saw, from 0 to 1.
    pub utilisation: f64,
}

impl Criticality {
    /// All classes, the least important first.
    pub const ALL: [Self; 4] = {
        use Criticality::*;
        [Sheddable, SheddablePlus, Critical, CriticalPlus]
    };

    /// Returns the header value that tells a callee the class.
    pub fn header(self) -> &'static str {
        ["SHEDDABLE", "SHEDDABLE_PLUS", "CRITICAL", "CRITICAL_PLUS"]
            [self as usize]
    }

    /// Returns the class of a request from another service. Not for the edge,
    /// where a client could choose its own class.
    pub fn inherited(_header: Option<&str>) -> Self {
        todo!("which class has a request from a service that sends none?")
    }

    /// Returns the class of a call that a request of this class makes.
    pub fn for_call(self, _wanted: Self) -> Self {
        todo!("may a prefetch make a critical call?")
    }
}

impl CpuMeter {
    /// Creates a meter without a sample.
    pub fn new(_time_constant: Duration) -> Self {
        todo!("what is the average before the first interval?")
    }

    /// Takes the CPU time that was `used` until `now`, and the number of
    /// `cores` that may be used, which is above 0. Returns the average, or NaN
    /// if it is not known yet.
    pub fn sample(
        &mut self,
        _now: Instant,
        _used: Duration,
        _cores: f64,
    ) -> f64 {
        todo!("how much does an interval of this length weigh?")
    }
}

impl Shedder {
    /// Creates a shedder without requests.
    pub fn new(_config: Config) -> Self {
        todo!("what if the thresholds are not in order?")
    }

    /// Admits a request, unless the utilisation is too high for its class.
    /// `cpu` is the CPU utilisation, or NaN if it is not known.
    pub fn try_acquire(
        &self,
        _class: Criticality,
        _cpu: f64,
    ) -> Result<Permit, Overloaded> {
        todo!("how do you decide and count in one step?")
    }

    /// Returns the counts of a class since `new`.
    pub fn stats(&self, _class: Criticality) -> Stats {
        todo!("where are the counts of each class?")
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        todo!("which number changes?")
    }
}

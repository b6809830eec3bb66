//! Load shedding by criticality: under overload, refuse the least important
//! requests first.
//!
//! *Question.* A service gets more requests than it can serve. How does it know,
//! which ones does it refuse, and what can it do before that?
//!
//! *Idea.* The edge gives each request one of four **criticalities**, and calls
//! inherit it. The **utilisation** is the share of its CPU time that a service
//! uses, or of `max_in_flight` that is in flight, whichever is higher. From one
//! threshold of its class on, a request gets a cheaper, **degraded** answer, and
//! from another one on, it is refused.
//!
//! *Guarantee.* At equal utilisation, a request is refused only if all less
//! critical ones are: no threshold counts as less than that of the class below.
//! At most `max_in_flight` requests are in flight, and a refused one never takes
//! a place: one atomic read-modify-write decides and counts.
//!
//! *Cost.* All requests write one word. CPU utilisation is an average, so it is
//! late, and requests that wait do not show in it. Within a class, all are equal.
//!
//! ```
//! use week05::criticality::{Config, Criticality, Shedder};
//!
//! let batch = Criticality::inherited(Some("SHEDDABLE_PLUS"));
//! let shedder = Shedder::new(Config {
//!     max_in_flight: 100.try_into().unwrap(),
//!     degrade_at: [50, 60, 80, 100],
//!     refuse_at: [60, 70, 95, 101], // no CPU utilisation refuses a payment
//! });
//! assert!(shedder.try_acquire(batch, 0.75).is_err());
//! assert!(shedder.try_acquire(Criticality::Critical, 0.75).is_ok());
//! ```

use std::num::NonZero;
use std::time::{Duration, Instant};

use crate::model_checked::loom_atomics::Ordering::Relaxed;
use crate::model_checked::loom_atomics::{Arc, AtomicU32, AtomicU64};
use Criticality::{Critical, CriticalPlus, Sheddable, SheddablePlus};

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
    time_constant: Duration,
    /// The latest sample, and the CPU time that was used until then.
    last: Option<(Instant, Duration)>,
    average: Option<f64>,
}

/// Decides which requests are served. Clones share their state.
#[derive(Debug, Clone)]
pub struct Shedder {
    shared: Arc<Shared>,
}

/// The settings of a [`Shedder`]. Thresholds are percentages of utilisation, one
/// for each class of [`Criticality::ALL`], in this order. 101 is never reached.
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
    shared: Arc<Shared>,
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
pub struct Stats<Count = u64> {
    /// Admitted, with [`Quality::Full`].
    pub full: Count,
    /// Admitted, with [`Quality::Degraded`].
    pub degraded: Count,
    /// Refused.
    pub refused: Count,
}

/// The request was refused. Only the direct caller may retry, and elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("request refused at a utilisation of {utilisation:.2}")]
pub struct Overloaded {
    /// The utilisation that the decision saw, from 0 to 1.
    pub utilisation: f64,
}

#[derive(Debug)]
struct Shared {
    /// With thresholds in order.
    config: Config,
    in_flight: AtomicU32,
    stats: [Stats<AtomicU64>; 4],
}

impl Criticality {
    /// All classes, the least important first.
    pub const ALL: [Self; 4] =
        [Sheddable, SheddablePlus, Critical, CriticalPlus];

    /// Returns the header value that tells a callee the class.
    pub fn header(self) -> &'static str {
        ["SHEDDABLE", "SHEDDABLE_PLUS", "CRITICAL", "CRITICAL_PLUS"]
            [self as usize]
    }

    /// Returns the class of a request from another service. Not for the edge,
    /// where a client could choose its own class.
    pub fn inherited(header: Option<&str>) -> Self {
        let is_sent = |class: &Self| Some(class.header()) == header;
        Self::ALL.into_iter().find(is_sent).unwrap_or(Critical)
    }

    /// Returns the class of a call that a request of this class makes.
    pub fn for_call(self, wanted: Self) -> Self {
        wanted.min(self)
    }
}

impl CpuMeter {
    /// Creates a meter without a sample.
    pub fn new(time_constant: Duration) -> Self {
        Self { time_constant, last: None, average: None }
    }

    /// Takes the CPU time that was `used` until `now`, and the number of `cores`
    /// that may be used. Returns the average, or NaN if it is not known yet.
    pub fn sample(&mut self, now: Instant, used: Duration, cores: f64) -> f64 {
        let (then, before) = *self.last.get_or_insert((now, used));
        let elapsed = now.saturating_duration_since(then).as_secs_f64();
        if elapsed > 0.0 {
            self.last = Some((now, used));
            let used = used.saturating_sub(before).as_secs_f64();
            let utilisation = used / (elapsed * cores);
            let old = self.average.unwrap_or(utilisation);
            // The weights of two intervals multiply to that of both together,
            // so it does not matter how often a sample is taken.
            let kept = (-elapsed / self.time_constant.as_secs_f64()).exp();
            self.average = Some(utilisation + (old - utilisation) * kept);
        }
        self.average.unwrap_or(f64::NAN)
    }
}

impl Shedder {
    /// Creates a shedder without requests.
    pub fn new(mut config: Config) -> Self {
        let mut lower = (0, 0);
        for class in Criticality::ALL.map(|class| class as usize) {
            let refuse_at = config.refuse_at[class];
            let degrade_at = config.degrade_at[class].min(refuse_at);
            lower = (lower.0.max(degrade_at), lower.1.max(refuse_at));
            (config.degrade_at[class], config.refuse_at[class]) = lower;
        }
        let (in_flight, stats) = Default::default();
        Self { shared: Arc::new(Shared { config, in_flight, stats }) }
    }

    /// Admits a request, unless the utilisation is too high for its class. `cpu`
    /// is the CPU utilisation, or NaN if it is not known.
    pub fn try_acquire(
        &self,
        class: Criticality,
        cpu: f64,
    ) -> Result<Permit, Overloaded> {
        let Shared { config, in_flight, stats } = &*self.shared;
        let max = config.max_in_flight.get();
        // If `cpu` is NaN, `f64::max` returns the other number.
        let utilisation = |n| (f64::from(n) / f64::from(max)).max(cpu).min(1.0);
        let reaches = |n, thresholds: &[u8; 4]| {
            utilisation(n) >= f64::from(thresholds[class as usize]) / 100.0
        };
        // Relaxed: the word publishes no other memory. It is tempting to add and
        // to undo it after a refusal, but in between, a place would be taken.
        let decision = in_flight.try_update(Relaxed, Relaxed, |n| {
            let is_refused = n >= max || reaches(n, &config.refuse_at);
            (!is_refused).then(|| n + 1)
        });
        let stats = &stats[class as usize];
        let before = decision.map_err(|n| {
            stats.refused.fetch_add(1, Relaxed);
            Overloaded { utilisation: utilisation(n) }
        })?;
        let (quality, count) = if reaches(before, &config.degrade_at) {
            (Quality::Degraded, &stats.degraded)
        } else {
            (Quality::Full, &stats.full)
        };
        count.fetch_add(1, Relaxed);
        Ok(Permit { quality, shared: Arc::clone(&self.shared) })
    }

    /// Returns the counts of a class since `new`.
    pub fn stats(&self, class: Criticality) -> Stats {
        let stats = &self.shared.stats[class as usize];
        Stats {
            full: stats.full.load(Relaxed),
            degraded: stats.degraded.load(Relaxed),
            refused: stats.refused.load(Relaxed),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.in_flight.fetch_sub(1, Relaxed);
    }
}

//! Variant: each threshold is turned into limits when the shedder is created.
//!
//! A limit is a whole number of requests in flight and a CPU utilisation. A
//! decision compares each with its own limit, so the two are never mixed into
//! one number. A loop with compare-and-swap takes the place. The meter divides
//! durations, and weighs the new interval instead of the old average.

use std::num::NonZero;
use std::time::{Duration, Instant};

use crate::model_checked::loom_atomics::Ordering::Relaxed;
use crate::model_checked::loom_atomics::{Arc, AtomicU32, AtomicU64};

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
/// for each class, in the order of [`Criticality::ALL`]. 101 is never reached.
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

#[derive(Debug)]
struct Shared {
    config: Config,
    in_flight: AtomicU32,
    classes: [Class; 4],
}

#[derive(Debug, Default)]
struct Class {
    degrade: Limit,
    refuse: Limit,
    full: AtomicU64,
    degraded: AtomicU64,
    refused: AtomicU64,
}

/// A threshold: either of the two reaches it.
#[derive(Debug, Default)]
struct Limit {
    in_flight: u64,
    cpu: f64,
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
    pub fn inherited(header: Option<&str>) -> Self {
        let is_sent = |class: &Self| Some(class.header()) == header;
        Self::ALL.into_iter().find(is_sent).unwrap_or(Self::Critical)
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

    /// Takes the CPU time that was `used` until `now`, and the number of
    /// `cores` that may be used. Returns the average, or NaN if it is not known
    /// yet.
    pub fn sample(&mut self, now: Instant, used: Duration, cores: f64) -> f64 {
        if let Some((then, before)) = self.last {
            if now <= then {
                return self.average.unwrap_or(f64::NAN);
            }
            let elapsed = now - then;
            let busy = used.checked_sub(before).unwrap_or_default();
            let utilisation = busy.div_duration_f64(elapsed) / cores;
            self.average = Some(match self.average {
                None => utilisation,
                Some(_) if self.time_constant.is_zero() => utilisation,
                Some(average) => {
                    let steps = elapsed.div_duration_f64(self.time_constant);
                    let weight = -(-steps).exp_m1();
                    (1.0 - weight) * average + weight * utilisation
                }
            });
        }
        self.last = Some((now, used));
        self.average.unwrap_or(f64::NAN)
    }
}

impl Shedder {
    /// Creates a shedder without requests.
    pub fn new(config: Config) -> Self {
        let limit = |percent: u8| Limit {
            in_flight: (u64::from(percent)
                * u64::from(config.max_in_flight.get()))
            .div_ceil(100),
            cpu: f64::from(percent) / 100.0,
        };
        let pairs = config.degrade_at.into_iter().zip(config.refuse_at);
        let classes = [1, 2, 3, 4].map(|count| {
            let lower = pairs.clone().take(count);
            let degrade_at = lower.clone().map(|(d, r)| d.min(r)).max();
            let refuse_at = lower.map(|(_, r)| r).max();
            Class {
                degrade: limit(degrade_at.unwrap_or_default()),
                refuse: limit(refuse_at.unwrap_or_default()),
                ..Class::default()
            }
        });
        let in_flight = AtomicU32::new(0);
        Self { shared: Arc::new(Shared { config, in_flight, classes }) }
    }

    /// Admits a request, unless the utilisation is too high for its class.
    /// `cpu` is the CPU utilisation, or NaN if it is not known.
    pub fn try_acquire(
        &self,
        class: Criticality,
        cpu: f64,
    ) -> Result<Permit, Overloaded> {
        let max = self.shared.config.max_in_flight.get();
        let class = &self.shared.classes[class as usize];
        let cpu = if cpu.is_nan() { 0.0 } else { cpu.clamp(0.0, 1.0) };
        let mut seen = self.shared.in_flight.load(Relaxed);
        loop {
            if seen >= max || class.refuse.is_reached(seen, cpu) {
                class.refused.fetch_add(1, Relaxed);
                let share = f64::from(seen) / f64::from(max);
                return Err(Overloaded { utilisation: share.max(cpu) });
            }
            match self.shared.in_flight.compare_exchange_weak(
                seen,
                seen + 1,
                Relaxed,
                Relaxed,
            ) {
                Ok(_) => break,
                Err(other) => seen = other,
            }
        }
        let mut permit =
            Permit { quality: Quality::Full, shared: self.shared.clone() };
        if class.degrade.is_reached(seen, cpu) {
            permit.quality = Quality::Degraded;
            class.degraded.fetch_add(1, Relaxed);
        } else {
            class.full.fetch_add(1, Relaxed);
        }
        Ok(permit)
    }

    /// Returns the counts of a class since `new`.
    pub fn stats(&self, class: Criticality) -> Stats {
        let class = &self.shared.classes[class as usize];
        Stats {
            full: class.full.load(Relaxed),
            degraded: class.degraded.load(Relaxed),
            refused: class.refused.load(Relaxed),
        }
    }
}

impl Limit {
    fn is_reached(&self, in_flight: u32, cpu: f64) -> bool {
        u64::from(in_flight) >= self.in_flight || cpu >= self.cpu
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.in_flight.fetch_sub(1, Relaxed);
    }
}

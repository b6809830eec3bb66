//! What happened in a simulation, in slots of time.

use std::time::Duration;

use crate::criticality::Criticality;

/// The counts of one slot of time. Requests count in the slot in which they
/// came, attempts and work in the slot in which they happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slot {
    /// Requests of users, without retries.
    pub offered: u64,
    /// Attempts that reached the server.
    pub attempts: u64,
    /// Requests whose client got the answer before its timeout.
    pub served: u64,
    /// Requests whose last attempt the server refused.
    pub refused: u64,
    /// Requests whose last attempt the client did not send.
    pub not_sent: u64,
    /// Requests whose last attempt had no answer before its timeout.
    pub timed_out: u64,
    /// Answers that the server computed, and no client waited for.
    pub wasted: u64,
}

/// The result of a simulation.
#[derive(Debug, Clone)]
pub struct Report {
    /// The width of a slot.
    pub slot: Duration,
    /// The slots, in order.
    pub slots: Vec<Slot>,
    /// Requests offered and served of each class, in the order of
    /// [`Criticality::ALL`].
    pub classes: [(u64, u64); Criticality::ALL.len()],
    /// The latencies of served requests, from the user's first attempt, with the
    /// time at which the request came.
    pub(super) latencies: Vec<(Duration, Duration)>,
}

impl Report {
    /// Returns the sums of the slots that begin at `from` or later.
    #[must_use]
    pub fn total(&self, from: Duration) -> Slot {
        let slots = self.slots.iter().zip(0..);
        let late = slots.filter(|(_, n)| self.slot * *n >= from);
        late.fold(Slot::default(), |sum, (slot, _)| Slot {
            offered: sum.offered + slot.offered,
            attempts: sum.attempts + slot.attempts,
            served: sum.served + slot.served,
            refused: sum.refused + slot.refused,
            not_sent: sum.not_sent + slot.not_sent,
            timed_out: sum.timed_out + slot.timed_out,
            wasted: sum.wasted + slot.wasted,
        })
    }

    /// Returns the mean latency of served requests that came at `from` or later,
    /// or `None` if there are none.
    #[must_use]
    pub fn mean_latency(&self, from: Duration) -> Option<Duration> {
        let late = self.latencies.iter().filter(|(came, _)| *came >= from);
        let count = u32::try_from(late.clone().count()).ok()?;
        late.map(|(_, latency)| *latency).sum::<Duration>().checked_div(count)
    }

    /// Returns a quantile of the latencies of served requests that came at
    /// `from` or later, or `None` if there are none.
    #[must_use]
    pub fn latency(&self, q: f64, from: Duration) -> Option<Duration> {
        let late = self.latencies.iter().filter(|(came, _)| *came >= from);
        let mut latencies: Vec<_> = late.map(|(_, latency)| *latency).collect();
        latencies.sort_unstable();
        let last = latencies.len().checked_sub(1)?;
        Some(latencies[(last as f64 * q).round() as usize])
    }
}

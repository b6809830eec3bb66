//! Foil: counts from one.

/// Milliseconds before try `n`: 10, doubled each time, at most 1000.
pub fn delay(n: u32) -> u64 {
    (0..=n.min(10)).fold(10, |delay, _| delay * 2).min(1000)
}

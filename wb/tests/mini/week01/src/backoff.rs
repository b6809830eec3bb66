//! How long to wait before the next try.

/// Milliseconds before try `n`: 10, doubled each time, at most 1000.
pub fn delay(n: u32) -> u64 {
    let doubled = 10_u64.saturating_mul(1_u64.checked_shl(n).unwrap_or(0));
    if n > 6 { 1000 } else { doubled }
}

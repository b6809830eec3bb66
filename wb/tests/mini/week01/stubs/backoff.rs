//! How long to wait before the next try. Your turn.

/// Milliseconds before try `n`: 10, doubled each time, at most 1000.
pub fn delay(_n: u32) -> u64 {
    todo!("what is twice as long as the wait before?")
}

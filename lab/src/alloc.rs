//! Counts the memory that each thread allocates, for tests that limit it.
//!
//! A test binary installs [`Counting`] once. Without it, every function of this
//! module returns 0.
//!
//! ```
//! use lab::alloc::{Counting, allocated_bytes, allocations, bytes_in_use};
//!
//! #[global_allocator]
//! static ALLOCATOR: Counting = Counting;
//!
//! let before = (allocations(), allocated_bytes(), bytes_in_use());
//! drop(std::hint::black_box(vec![0_u8; 1_000]));
//! assert_eq!(allocations() - before.0, 1);
//! assert_eq!(allocated_bytes() - before.1, 1_000);
//! assert_eq!(bytes_in_use(), before.2);
//! ```

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
    static FREED: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, with counters of each thread's allocations, allocated
/// bytes and freed bytes.
///
/// A vector that grows counts as a new allocation of its full size, and the
/// memory that it had before as freed.
#[derive(Debug, Clone, Copy)]
pub struct Counting;

// SAFETY: `System` does all the work. The counters have no destructor and wrap
// around, so counting neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get().wrapping_add(1));
        ALLOCATED.set(ALLOCATED.get().wrapping_add(layout.size()));
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        FREED.set(FREED.get().wrapping_add(layout.size()));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Returns how often this thread has allocated memory.
pub fn allocations() -> usize {
    ALLOCATIONS.get()
}

/// Returns how many bytes this thread has ever allocated. Freed bytes count,
/// too.
pub fn allocated_bytes() -> usize {
    ALLOCATED.get()
}

/// Returns how many bytes this thread has allocated minus those that it has
/// freed. This is negative if most of the freed memory is from other threads.
pub fn bytes_in_use() -> isize {
    ALLOCATED.get().wrapping_sub(FREED.get()).cast_signed()
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::thread;

    use super::*;

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;

    #[test]
    fn a_vector_that_grows_is_counted_as_allocated_again() {
        let before = (allocations(), allocated_bytes(), bytes_in_use());
        let mut vector = black_box(vec![1_u8; 100]);
        vector.reserve_exact(200);
        assert_eq!(allocations() - before.0, 2);
        assert_eq!(allocated_bytes() - before.1, 100 + 300);
        assert_eq!(bytes_in_use() - before.2, 300);
        drop(vector);
        assert_eq!(allocated_bytes() - before.1, 100 + 300);
        assert_eq!(bytes_in_use() - before.2, 0);
    }

    #[test]
    fn memory_that_another_thread_frees_is_still_counted_as_in_use() {
        let large = black_box(vec![1_u8; 1 << 20]);
        let before = bytes_in_use();
        let freed = thread::scope(|scope| {
            let other = scope.spawn(|| {
                let before = bytes_in_use();
                drop(large);
                bytes_in_use() - before
            });
            other.join().expect("the other thread does not panic")
        });
        assert_eq!(freed, -(1 << 20));
        let here = bytes_in_use() - before;
        assert!(here.abs() < 1 << 16, "{here} bytes counted for this thread");
    }
}

//! A value that is read without a lock, as in the exercise `swap`, but with
//! epoch-based reclamation. Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - A load that begins after a store has returned sees that store's value or a
//!   later one. All clones of a `Swap` share one value. A reader still works
//!   after the last `Swap` is dropped. There may be any number of readers, and
//!   each of them may have any number of guards.
//! - A guard shows the value that was current when the guard was loaded, for as
//!   long as the guard lives. Neither `load`, nor `store`, nor the drop of a
//!   `Swap` waits for a guard.
//! - `Reader` and `Guard` are neither `Send` nor `Sync`. So the compiler
//!   rejects a guard that is held across an `.await` of a task of
//!   `tokio::spawn`. `Swap` is `Send` and `Sync`.
//! - If each guard lives for at most k stores, a replaced value is dropped
//!   within 3k + 3 more stores, also if there is always some guard. So if there
//!   are no guards, it is dropped within three. Guards of one reader that
//!   overlap count as one guard, from the first load to the last drop.
//! - If n replaced values are kept when the last guard is dropped, at most three
//!   are kept after n + 3 more stores without a guard.
//! - Each reader that is dropped may delay these drops by one more store. No
//!   limit holds while calls on different threads overlap.
//! - A reader without a guard keeps no replaced value. A guard of another
//!   `Swap` does not keep the values of this `Swap`.
//! - The `drop` of a value may call `load` and `store` of the same `Swap`.
//! - When the last `Swap` and the last reader have been dropped, each value has
//!   been dropped exactly once, also if a thread that called `store` still runs.
//! - All these rules hold for every interleaving of the threads, and for every
//!   value that an atomic load may return. The last group of tests (rung) runs
//!   your file under the model checker loom.
//!
//! For loom, take `Arc`, `Ordering` and atomics from
//! `crate::model_checked::loom_atomics`, and the types of crossbeam-epoch from
//! `crate::model_checked::loom_epoch`. loom treats a `SeqCst` *access* as
//! `AcqRel`, and so reports errors in code that is correct: use a `SeqCst` fence
//! or a read-modify-write instead.
//!
//! crossbeam-epoch does the work. A `Collector` has handles, and a handle pins
//! its thread. A pinned thread can defer a function. The function runs only
//! after each thread that was pinned when the function was deferred has
//! unpinned. The documentation of crossbeam-epoch says where deferred functions
//! wait, and what they wait for. It calls them garbage.
//!
//! loom cannot look into crossbeam-epoch. So under loom, `loom_epoch` is a
//! stand-in, which runs each deferred function at the first moment that
//! crossbeam allows. The stand-in has the methods of these types, except for
//! pointer tags (`tag`, `with_tag`, `fetch_or`, and so on), slices and `init`,
//! and the deprecated `compare_and_set`.
//!
//! A pin keeps loaded values from being freed. It does not order memory
//! accesses: your orderings have to make sure that a loaded value is visible as
//! a whole.

#![allow(unsafe_code, reason = "memory reclamation is the exercise")]

use std::marker::PhantomData;
use std::ops::Deref;

use crate::model_checked::loom_atomics::Arc;

/// A shared value that is replaced as a whole. Clones share the same value.
#[derive(Debug)]
pub struct Swap<T> {
    shared: Arc<Shared<T>>,
}

/// Reads the value of a [`Swap`]. A reader and its guards stay in one thread.
#[derive(Debug)]
pub struct Reader<T> {
    shared: Arc<Shared<T>>,
}

/// Gives access to one value, which is not dropped while the guard lives.
#[derive(Debug)]
pub struct Guard<'a, T> {
    value: PhantomData<&'a T>,
}

#[derive(Debug)]
struct Shared<T> {
    value: PhantomData<T>,
}

impl<T: Send + Sync + 'static> Swap<T> {
    /// Creates a `Swap` that holds `value`.
    pub fn new(_value: T) -> Self {
        todo!("may a guard of another `Swap` delay the drop of this value?")
    }

    /// Returns a reader for this thread.
    pub fn reader(&self) -> Reader<T> {
        todo!("what does a thread need before it can pin itself?")
    }

    /// Replaces the value.
    pub fn store(&self, _value: T) {
        todo!("which call drops the old value, and when?")
    }
}

impl<T> Reader<T> {
    /// Returns a guard of the current value.
    pub fn load(&self) -> Guard<'_, T> {
        todo!("which has to come first, the load or the pin?")
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        todo!("why has the value not been freed?")
    }
}

impl<T> Clone for Swap<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

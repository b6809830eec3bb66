//! A value as in `swap`, with epoch-based reclamation. Your turn.
//!
//! What is graded, and nothing else:
//!
//! - A load that begins after a store has returned sees that store's value or a
//!   later one. All clones of a `Swap` share one value. A reader still works
//!   after the last `Swap` is dropped. There may be any number of readers, and
//!   each of them may have any number of guards.
//! - A guard shows the value that was current when it was loaded, for as long
//!   as the guard lives. Neither `load` nor `store` waits for a guard.
//! - A replaced value is dropped within three more stores, if no guard is older
//!   than these stores, and no load or other store overlaps them.
//! - Once a guard is dropped, the values that it has kept are dropped within as
//!   many stores as there are such values, and three more.
//! - A reader without a guard keeps no value. A guard of another `Swap` does
//!   not keep the values of this one.
//! - When the last `Swap` and the last reader have been dropped, each value has
//!   been dropped exactly once.
//! - All of this holds for every interleaving of the threads, and for every
//!   value that a load may return. The last rung runs your file under the model
//!   checker loom.
//!
//! For loom, take `Arc` and `Ordering` from
//! `crate::model_checked::loom_atomics`, and the types of crossbeam-epoch from
//! `crate::model_checked::loom_epoch`.
//!
//! crossbeam-epoch does the work. A `Collector` has handles, and a handle pins
//! its thread. What is deferred under a pin runs once every thread that was
//! pinned at that time has unpinned. The documentation of crossbeam-epoch says
//! where garbage waits, and for what.
//!
//! loom cannot look into crossbeam-epoch. So under loom, `loom_epoch` is a
//! stand-in, which runs each deferred function at the first moment that
//! crossbeam allows. It has the most used methods of these types, and no
//! pointer tags.
//!
//! A pin keeps loaded values from being freed. It does not order memory: your
//! orderings have to make sure that a loaded value is visible as a whole.

#![allow(unsafe_code, reason = "memory reclamation is the exercise")]

use std::marker::PhantomData;
use std::ops::Deref;

use crate::model_checked::loom_atomics::Arc;

/// A shared value that is replaced as a whole. Clones share the same value.
#[derive(Debug)]
pub struct Swap<T> {
    shared: Arc<Shared<T>>,
}

/// Reads the value of a [`Swap`], in the thread that created the reader.
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
        todo!("which guards should be able to delay the drops of this value?")
    }

    /// Returns a reader for this thread.
    pub fn reader(&self) -> Reader<T> {
        todo!("what does a thread need before it can pin itself?")
    }

    /// Replaces the value. Never waits for another thread.
    pub fn store(&self, _value: T) {
        todo!("which call drops the old value, and when?")
    }
}

impl<T> Reader<T> {
    /// Returns a guard of the current value. Never waits and never retries.
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

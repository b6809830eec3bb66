//! The same value as in `swap`, reclaimed by epochs. Your turn.
//!
//! What is graded, and nothing else:
//!
//! - A load that begins after a store has ended sees that value, or a later one.
//!   A clone of a `Swap` stores into the same value. A reader outlives the last
//!   `Swap`. There may be any number of readers, and each may have any number of
//!   guards.
//! - A guard shows what was current when it was loaded, for as long as it lives.
//!   Neither `load` nor `store` waits for it.
//! - What is replaced is dropped within three more stores, if no guard is older
//!   than they are, and no load or other store gets in their way. What a guard
//!   has kept is dropped within as many stores as it has kept values, and the
//!   three.
//! - A reader without a guard keeps nothing, and neither does a guard of another
//!   `Swap`. In the end each value has been dropped once.
//! - All that holds for every interleaving of the threads and every value that a
//!   load may return: the last rung runs your file under the model checker loom.
//!   So take `Arc` and `Ordering` from `crate::model_checked::loom_atomics`, and what crossbeam-epoch
//!   has from `crate::model_checked::loom_epoch`.
//!
//! crossbeam-epoch does the work: a `Collector` has handles, a handle pins its
//! thread, and what is deferred while one is pinned is done when nobody is that
//! was pinned before. Its documentation says where garbage waits, and for what.
//! loom cannot look into it. So `crate::model_checked::loom_epoch` has another one under loom,
//! which does each thing at the first moment that crossbeam allows. It has what
//! these types are mostly used for, and no tags. A pin keeps what is loaded while
//! it lasts. It does not say that what is loaded is seen whole: your orderings
//! do.

#![allow(unsafe_code, reason = "to reclaim memory is the exercise")]

use std::marker::PhantomData;
use std::ops::Deref;

use crate::model_checked::loom_atomics::Arc;

/// A value that is replaced as a whole. A clone shares it.
#[derive(Debug)]
pub struct Swap<T> {
    shared: Arc<Shared<T>>,
}

/// Reads the value of a [`Swap`], in the thread that has made it.
#[derive(Debug)]
pub struct Reader<T> {
    shared: Arc<Shared<T>>,
}

/// A value that is not dropped while this lives.
#[derive(Debug)]
pub struct Guard<'a, T> {
    of: PhantomData<&'a T>,
}

#[derive(Debug)]
struct Shared<T> {
    of: PhantomData<T>,
}

impl<T: Send + Sync + 'static> Swap<T> {
    /// Holds `value` until another one is stored.
    pub fn new(_value: T) -> Self {
        todo!("whose guards should be able to hold this up?")
    }

    /// A reader for this thread.
    pub fn reader(&self) -> Reader<T> {
        todo!("what does a thread need to say when it began?")
    }

    /// Replaces the value. Never waits.
    pub fn store(&self, _value: T) {
        todo!("who drops the old value, and when?")
    }
}

impl<T> Reader<T> {
    /// The current value. Never waits, and never repeats.
    pub fn load(&self) -> Guard<'_, T> {
        todo!("what has to come first, the pointer or the pin?")
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        todo!("why is it still there?")
    }
}

impl<T> Clone for Swap<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

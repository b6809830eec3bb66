//! The pointer leads to an `Arc`, and what is put off is to drop that one. A guard
//! could be kept as an `Arc` beyond its epoch: the count then is one of the two
//! that keep the value.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use crate::model_checked::loom_atomics::{
    Arc,
    Ordering::{AcqRel, Acquire, Relaxed},
};
use crate::model_checked::loom_epoch::{
    self, Atomic, Collector, LocalHandle, Owned, unprotected,
};

/// A value that is replaced as a whole. A clone shares it.
pub struct Swap<T> {
    shared: Arc<Shared<T>>,
}

/// Reads the value of a [`Swap`], in the thread that has made it.
pub struct Reader<T> {
    handle: LocalHandle,
    shared: Arc<Shared<T>>,
}

/// A value that is not dropped while this lives.
pub struct Guard<'a, T> {
    /// Not a reference: that would promise to be valid until a call returns
    /// which is given the guard, and `drop` unpins before that.
    arc: *const Arc<T>,
    /// Keeps the value.
    _pinned: loom_epoch::Guard,
    reader: PhantomData<&'a Reader<T>>,
}

struct Shared<T> {
    /// Never null.
    current: Atomic<Arc<T>>,
    /// Of its own: nobody else's guards hold it up.
    collector: Collector,
}

impl<T: Send + Sync + 'static> Swap<T> {
    /// Holds `value` until another one is stored.
    pub fn new(value: T) -> Self {
        let current = Atomic::new(Arc::new(value));
        let shared = Shared { current, collector: Collector::new() };
        Self { shared: Arc::new(shared) }
    }

    /// A reader for this thread. It may outlive the `Swap`.
    pub fn reader(&self) -> Reader<T> {
        let shared = Arc::clone(&self.shared);
        Reader { handle: shared.collector.register(), shared }
    }

    /// Replaces the value. Never waits.
    pub fn store(&self, value: T) {
        let handle = self.shared.collector.register();
        let pinned = handle.pin();
        // Release: whoever loads it sees the value. Acquire: the old one may be
        // another thread's.
        let old = self.shared.current.swap(
            Owned::new(Arc::new(value)),
            AcqRel,
            &pinned,
        );
        // SAFETY: taken out of `current`, by this thread alone. Who has it has
        // loaded it before, and is pinned.
        unsafe { pinned.defer_destroy(old) };
        // It collects, too: also what other stores have put aside.
        pinned.flush();
    }
}

impl<T> Reader<T> {
    /// The current value. Never waits, and never repeats.
    pub fn load(&self) -> Guard<'_, T> {
        let pinned = self.handle.pin();
        // Acquire: the value behind the pointer.
        let current = self.shared.current.load(Acquire, &pinned);
        let arc = current.as_raw();
        Guard { arc, _pinned: pinned, reader: PhantomData }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: never null. What was replaced after this thread was pinned is
        // kept while it is, and this guard keeps it pinned.
        unsafe { &*self.arc }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: nobody else is left. What was replaced, the collector drops.
        unsafe {
            let current = self.current.load(Relaxed, unprotected());
            drop(current.into_owned());
        }
    }
}

impl<T> Clone for Swap<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> fmt::Debug for Swap<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Swap").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Reader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl<T: fmt::Debug> fmt::Debug for Guard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guard").field(&**self).finish()
    }
}

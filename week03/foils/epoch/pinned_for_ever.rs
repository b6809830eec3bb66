//! A reader is pinned when it is made, and its loads are as cheap as a pointer's.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use crossbeam_epoch::{Atomic, Collector, LocalHandle, Owned, unprotected};

/// A value that is replaced as a whole. A clone shares it.
pub struct Swap<T> {
    shared: Arc<Shared<T>>,
}

/// Reads the value of a [`Swap`], in the thread that has made it.
pub struct Reader<T> {
    pinned: crossbeam_epoch::Guard,
    _handle: LocalHandle,
    shared: Arc<Shared<T>>,
}

/// A value that is not dropped while this lives.
pub struct Guard<'a, T> {
    /// Not a reference: that would promise to be valid until a call returns
    /// which is given the guard, and `drop` unpins before that.
    value: *const T,
    reader: PhantomData<&'a Reader<T>>,
}

struct Shared<T> {
    /// Never null.
    current: Atomic<T>,
    /// Of its own: nobody else's guards hold it up.
    collector: Collector,
}

impl<T: Send + Sync + 'static> Swap<T> {
    /// Holds `value` until another one is stored.
    pub fn new(value: T) -> Self {
        let current = Atomic::new(value);
        let shared = Shared { current, collector: Collector::new() };
        Self { shared: Arc::new(shared) }
    }

    /// A reader for this thread. It may outlive the `Swap`.
    pub fn reader(&self) -> Reader<T> {
        let shared = Arc::clone(&self.shared);
        let handle = shared.collector.register();
        Reader { pinned: handle.pin(), _handle: handle, shared }
    }

    /// Replaces the value. Never waits.
    pub fn store(&self, value: T) {
        let handle = self.shared.collector.register();
        let pinned = handle.pin();
        // Release: whoever loads it sees the value. Acquire: the old one may be
        // another thread's.
        let old = self.shared.current.swap(Owned::new(value), AcqRel, &pinned);
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
        // Acquire: the value behind the pointer.
        let current = self.shared.current.load(Acquire, &self.pinned);
        let value = current.as_raw();
        Guard { value, reader: PhantomData }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: never null. What was replaced after this thread was pinned is
        // kept while it is, and this guard keeps it pinned.
        unsafe { &*self.value }
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

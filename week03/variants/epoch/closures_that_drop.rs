//! A store defers a closure that drops the old value, instead of the value
//! itself: a closure could do more than that.

use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::ops::Deref;

use crate::model_checked::loom_atomics::{
    Arc,
    Ordering::{AcqRel, Acquire},
};
use crate::model_checked::loom_epoch::{
    self, Atomic, Collector, LocalHandle, Owned,
};

/// A shared value that is replaced as a whole. Clones share the same value.
pub struct Swap<T> {
    shared: Arc<Shared<T>>,
}

/// Reads the value of a [`Swap`]. A reader and its guards stay in one thread.
pub struct Reader<T> {
    handle: LocalHandle,
    shared: Arc<Shared<T>>,
}

/// Gives access to one value, which is not dropped while the guard lives.
pub struct Guard<'a, T> {
    /// A pointer, not a reference: a reference in an argument must be valid
    /// until the call returns, and `drop(guard)` unpins before it returns.
    value: *const T,
    /// Keeps the value from being dropped.
    _pinned: loom_epoch::Guard,
    reader: PhantomData<&'a Reader<T>>,
}

struct Shared<T> {
    /// Never null.
    current: Atomic<T>,
    /// The `Swap` has its own collector: only its own guards delay drops.
    collector: Collector,
}

impl<T: Send + Sync + 'static> Swap<T> {
    /// Creates a `Swap` that holds `value`.
    pub fn new(value: T) -> Self {
        let current = Atomic::new(value);
        let shared = Shared { current, collector: Collector::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Returns a reader for this thread. A reader may outlive the `Swap`.
    pub fn reader(&self) -> Reader<T> {
        let shared = Arc::clone(&self.shared);
        Reader { handle: shared.collector.register(), shared }
    }

    /// Replaces the value. Never waits for another thread.
    pub fn store(&self, value: T) {
        let handle = self.shared.collector.register();
        let pinned = handle.pin();
        // Release pairs with the Acquire in `load`: a reader of the pointer
        // sees the value. Acquire pairs with the Release of the store that
        // published the old value: another thread may have written it.
        let old = self.shared.current.swap(Owned::new(value), AcqRel, &pinned);
        let old = Garbage(old.as_raw().cast_mut());
        // SAFETY: only this thread took `old` out of `current`.
        unsafe { pinned.defer_unchecked(move || old.drop()) };
        // `flush` also collects garbage, including that of other stores.
        pinned.flush();
    }
}

impl<T> Reader<T> {
    /// Returns a guard of the current value. Never waits and never retries.
    pub fn load(&self) -> Guard<'_, T> {
        let pinned = self.handle.pin();
        // Acquire pairs with the Release in `store`: the value is visible.
        let current = self.shared.current.load(Acquire, &pinned);
        let value = current.as_raw();
        Guard { value, _pinned: pinned, reader: PhantomData }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the pointer is never null. A value that is replaced after
        // this thread has pinned is kept until the thread unpins, and this
        // guard keeps the thread pinned.
        unsafe { &*self.value }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let current = mem::take(&mut self.current);
        // SAFETY: no other thread can access `self` any more. The collector
        // drops the values that were replaced.
        drop(unsafe { current.try_into_owned() });
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

struct Garbage<T>(*mut T);

impl<T> Garbage<T> {
    fn drop(self) {
        // SAFETY: this is called once, when no guard can have the pointer.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

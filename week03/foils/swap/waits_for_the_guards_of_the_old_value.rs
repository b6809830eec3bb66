//! Two halves hold a value each, and a count of the guards that show it. A
//! store fills the free half, switches over to it, and waits until the other
//! half has no guard.

use std::ops::Deref;

use crate::model_checked::loom_atomics::{
    Arc, AtomicBool, AtomicUsize,
    Ordering::{AcqRel, Acquire, Release},
    UnsafeCell,
};

/// How many times a store checks whether the guards are dropped.
const ATTEMPTS: usize = 100;

pub struct Swap<T> {
    shared: Arc<Shared<T>>,
}

pub struct Reader<T> {
    shared: Arc<Shared<T>>,
    slot: usize,
}

pub struct Guard<'a, T> {
    half: &'a Half<T>,
}

struct Shared<T> {
    halves: [Half<T>; 2],
    live: AtomicUsize,
    writing: AtomicBool,
    taken: Box<[AtomicBool]>,
}

struct Half<T> {
    value: UnsafeCell<Option<T>>,
    guards: AtomicUsize,
}

// SAFETY: `value` is written by one thread at a time, and while no guard is
// counted.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Send for Shared<T> {}

impl<T> Half<T> {
    fn new(value: Option<T>) -> Self {
        Self { value: UnsafeCell::new(value), guards: AtomicUsize::new(0) }
    }

    fn wait(&self) {
        for _ in 0..ATTEMPTS {
            if self.guards.fetch_add(0, AcqRel) == 0 {
                return;
            }
        }
        panic!("a half still has guards after {ATTEMPTS} checks");
    }

    fn set(&self, value: Option<T>) {
        // SAFETY: no guard is counted, and no other store writes.
        drop(self.value.with_mut(|old| unsafe { old.replace(value) }));
    }
}

impl<T: Send + Sync> Swap<T> {
    pub fn new(value: T, readers: usize) -> Self {
        let shared = Shared {
            halves: [Half::new(Some(value)), Half::new(None)],
            live: AtomicUsize::new(0),
            writing: AtomicBool::new(false),
            taken: (0..readers).map(|_| AtomicBool::new(false)).collect(),
        };
        Self { shared: Arc::new(shared) }
    }

    pub fn reader(&self) -> Option<Reader<T>> {
        let free = |taken: &AtomicBool| !taken.swap(true, Acquire);
        let slot = self.shared.taken.iter().position(free)?;
        Some(Reader { shared: Arc::clone(&self.shared), slot })
    }

    pub fn store(&self, value: T) {
        let shared = &*self.shared;
        let alone = (0..ATTEMPTS).any(|_| !shared.writing.swap(true, Acquire));
        assert!(alone, "another store still runs after {ATTEMPTS} checks");
        let live = shared.live.load(Acquire);
        let (old, new) = (&shared.halves[live], &shared.halves[1 - live]);
        new.wait(); // for readers that loaded `live` before the last switch
        new.set(Some(value));
        shared.live.swap(1 - live, AcqRel);
        old.wait();
        old.set(None);
        shared.writing.store(false, Release);
    }
}

impl<T> Reader<T> {
    pub fn load(&mut self) -> Guard<'_, T> {
        loop {
            let live = self.shared.live.load(Acquire);
            let half = &self.shared.halves[live];
            half.guards.fetch_add(1, AcqRel);
            if self.shared.live.load(Acquire) == live {
                return Guard { half };
            }
            half.guards.fetch_sub(1, AcqRel);
        }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this guard is counted, so no store writes the value.
        let value = self.half.value.with(|value| unsafe { &*value });
        value.as_ref().expect("the half is live")
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        self.half.guards.fetch_sub(1, AcqRel);
    }
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        self.shared.taken[self.slot].store(false, Release);
    }
}

impl<T> Clone for Swap<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

//! A reader announces the epoch in which its guard began, not the value that it
//! reads. A replaced value is dropped when every guard began in a later epoch.

use std::ops::Deref;
use std::ptr;

use crate::model_checked::loom_atomics::{
    Arc, AtomicBool, AtomicPtr, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
    UnsafeCell,
};

pub struct Swap<T> {
    shared: Arc<Shared<T>>,
}

pub struct Reader<T> {
    shared: Arc<Shared<T>>,
    slot: usize,
}

pub struct Guard<'a, T> {
    slot: &'a Slot,
    node: *const Node<T>,
}

struct Shared<T> {
    current: AtomicPtr<Node<T>>,
    retired: AtomicPtr<Node<T>>,
    /// The number of stores so far, plus one.
    epoch: AtomicUsize,
    slots: Box<[Slot]>,
}

struct Node<T> {
    value: T,
    /// The next node of the `retired` list, and the epoch of this node's
    /// replacement.
    next: UnsafeCell<(*mut Node<T>, usize)>,
}

struct Slot {
    /// The epoch in which its reader's guard began, or 0 without a guard.
    since: AtomicUsize,
    sync: AtomicUsize,
    taken: AtomicBool,
}

impl<T> Node<T> {
    fn boxed(value: T) -> *mut Self {
        let next = UnsafeCell::new((ptr::null_mut(), 0));
        Box::into_raw(Box::new(Self { value, next }))
    }
}

impl<T: Send + Sync> Swap<T> {
    pub fn new(value: T, readers: usize) -> Self {
        let slot = |_| Slot {
            since: AtomicUsize::new(0),
            sync: AtomicUsize::new(0),
            taken: AtomicBool::new(false),
        };
        let shared = Shared {
            current: AtomicPtr::new(Node::boxed(value)),
            retired: AtomicPtr::new(ptr::null_mut()),
            epoch: AtomicUsize::new(1),
            slots: (0..readers).map(slot).collect(),
        };
        Self { shared: Arc::new(shared) }
    }

    pub fn reader(&self) -> Option<Reader<T>> {
        let free = |slot: &Slot| !slot.taken.swap(true, Acquire);
        let slot = self.shared.slots.iter().position(free)?;
        Some(Reader { shared: Arc::clone(&self.shared), slot })
    }

    pub fn store(&self, value: T) {
        let shared = &*self.shared;
        let old = shared.current.swap(Node::boxed(value), AcqRel);
        let epoch = shared.epoch.fetch_add(1, AcqRel);
        let rest = shared.retired.swap(ptr::null_mut(), Acquire);
        // SAFETY: only this thread took `old` out of `current`.
        unsafe { (*old).next.with_mut(|next| *next = (rest, epoch)) };

        let since = |slot: &Slot| {
            slot.sync.swap(0, AcqRel);
            match slot.since.load(Acquire) {
                0 => usize::MAX,
                since => since,
            }
        };
        let oldest = shared.slots.iter().map(since).min();
        let oldest = oldest.unwrap_or(usize::MAX);
        let (mut node, mut free) = (old, Vec::new());
        while !node.is_null() {
            // SAFETY: only this thread has the node: whole lists are taken.
            let (next, epoch) = unsafe { (*node).next.with(|next| *next) };
            if epoch < oldest {
                // SAFETY: all guards began after the node was replaced.
                free.push(unsafe { Box::from_raw(node) });
            } else {
                let push = |top| {
                    let next = (top, epoch);
                    // SAFETY: only this thread has the node.
                    unsafe { (*node).next.with_mut(|old| *old = next) };
                    Some(node)
                };
                let pushed =
                    shared.retired.fetch_update(Release, Relaxed, push);
                pushed.expect("`push` always returns `Some`");
            }
            node = next;
        }
    }
}

impl<T> Reader<T> {
    pub fn load(&mut self) -> Guard<'_, T> {
        let slot = &self.shared.slots[self.slot];
        slot.since.store(self.shared.epoch.load(Acquire), Release);
        slot.sync.swap(0, AcqRel);
        let node = self.shared.current.load(Acquire);
        Guard { slot, node }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the node was replaced in this guard's epoch or later, or not
        // at all.
        unsafe { &(*self.node).value }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        self.slot.since.store(0, Release);
    }
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        self.shared.slots[self.slot].taken.store(false, Release);
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let current = self.current.load(Relaxed);
        let rest = self.retired.load(Relaxed);
        // SAFETY: no other thread can access `self` any more.
        unsafe { (*current).next.with_mut(|next| *next = (rest, 0)) };
        let (mut node, mut free) = (current, Vec::new());
        while !node.is_null() {
            // SAFETY: as above.
            let (next, _) = unsafe { (*node).next.with(|next| *next) };
            // SAFETY: each node is in the list once, and nowhere else.
            free.push(unsafe { Box::from_raw(node) });
            node = next;
        }
    }
}

impl<T> Clone for Swap<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

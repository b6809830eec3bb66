//! A reader announces when it began, and not what it reads. What was replaced at
//! some time may be dropped when every guard is from a later one.

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
    /// How many stores there have been, and one more.
    epoch: AtomicUsize,
    slots: Box<[Slot]>,
}

struct Node<T> {
    value: T,
    below: UnsafeCell<(*mut Node<T>, usize)>,
}

struct Slot {
    /// The epoch in which its guard began, or 0.
    since: AtomicUsize,
    meeting: AtomicUsize,
    taken: AtomicBool,
}

impl<T> Node<T> {
    fn boxed(value: T) -> *mut Self {
        let below = UnsafeCell::new((ptr::null_mut(), 0));
        Box::into_raw(Box::new(Self { value, below }))
    }
}

impl<T: Send + Sync> Swap<T> {
    pub fn new(value: T, readers: usize) -> Self {
        let slot = |_| Slot {
            since: AtomicUsize::new(0),
            meeting: AtomicUsize::new(0),
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
        // SAFETY: this thread alone has taken it out.
        unsafe { (*old).below.with_mut(|below| *below = (rest, epoch)) };

        let since = |slot: &Slot| {
            slot.meeting.swap(0, AcqRel);
            match slot.since.load(Acquire) {
                0 => usize::MAX,
                since => since,
            }
        };
        let oldest = shared.slots.iter().map(since).min();
        let oldest = oldest.unwrap_or(usize::MAX);
        let mut node = old;
        while !node.is_null() {
            // SAFETY: whole stacks are taken.
            let (next, epoch) = unsafe { (*node).below.with(|below| *below) };
            if epoch < oldest {
                // SAFETY: all guards began after it was replaced.
                drop(unsafe { Box::from_raw(node) });
            } else {
                let push = |top| {
                    let below = (top, epoch);
                    // SAFETY: this thread's alone.
                    unsafe { (*node).below.with_mut(|old| *old = below) };
                    Some(node)
                };
                let pushed =
                    shared.retired.fetch_update(Release, Relaxed, push);
                pushed.expect("`push` never gives up");
            }
            node = next;
        }
    }
}

impl<T> Reader<T> {
    pub fn load(&mut self) -> Guard<'_, T> {
        let slot = &self.shared.slots[self.slot];
        slot.since.store(self.shared.epoch.load(Acquire), Release);
        slot.meeting.swap(0, AcqRel);
        let node = self.shared.current.load(Acquire);
        Guard { slot, node }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: it was replaced in this guard's epoch, or later, or never.
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
        // SAFETY: nobody else is left.
        unsafe { (*current).below.with_mut(|below| *below = (rest, 0)) };
        let mut node = current;
        while !node.is_null() {
            // SAFETY: as above.
            let (next, _) = unsafe { (*node).below.with(|below| *below) };
            // SAFETY: each is in one place alone.
            drop(unsafe { Box::from_raw(node) });
            node = next;
        }
    }
}

impl<T> Clone for Swap<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

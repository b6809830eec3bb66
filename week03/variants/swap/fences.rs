//! Two fences in the place of the meeting: Dekker's pattern. Of two fences that
//! are sequentially consistent one comes first, and the thread of the other sees
//! what was written before it. On x86-64 each of them is one locked instruction.

use std::fmt;
use std::ops::Deref;
use std::ptr::{self, NonNull};

use crate::model_checked::loom_atomics::{
    Arc, AtomicBool, AtomicPtr,
    Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
    UnsafeCell, fence,
};

/// A value that is replaced as a whole. A clone shares it.
pub struct Swap<T> {
    shared: Arc<Shared<T>>,
}

/// Reads the value of a [`Swap`], one guard at a time.
pub struct Reader<T> {
    shared: Arc<Shared<T>>,
    /// Its own among the slots.
    slot: usize,
}

/// A value that is not dropped while this lives. It stays in its thread, so that
/// no task that may move to another one can keep it across an `.await`.
pub struct Guard<'a, T> {
    slot: &'a Slot<T>,
    node: *const Node<T>,
}

struct Shared<T> {
    /// Never null.
    current: AtomicPtr<Node<T>>,
    /// A list of nodes that were announced when they were replaced.
    retired: AtomicPtr<Node<T>>,
    slots: Box<[Slot<T>]>,
}

struct Node<T> {
    value: T,
    /// After it in `retired`. Plain memory, and seen by the model checker.
    next: UnsafeCell<*mut Node<T>>,
}

/// Alone on its two cache lines: on x86-64 they are fetched in pairs.
#[repr(align(128))]
struct Slot<T> {
    /// What its reader may be looking at, or null.
    announced: AtomicPtr<Node<T>>,
    taken: AtomicBool,
}

impl<T: Send + Sync> Swap<T> {
    /// Holds `value` until another one is stored, and allows at most `readers`
    /// readers at a time.
    pub fn new(value: T, readers: usize) -> Self {
        let shared = Shared {
            current: AtomicPtr::new(Node::boxed(value)),
            retired: AtomicPtr::new(ptr::null_mut()),
            slots: (0..readers).map(|_| Slot::new()).collect(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// A reader, for one thread or task, or none if all are taken. It may
    /// outlive the `Swap`.
    pub fn reader(&self) -> Option<Reader<T>> {
        // Acquire: what its last reader announced comes before what this one
        // does.
        let free = |slot: &Slot<T>| !slot.taken.swap(true, Acquire);
        let slot = self.shared.slots.iter().position(free)?;
        Some(Reader { shared: Arc::clone(&self.shared), slot })
    }

    /// Replaces the value. Never waits.
    pub fn store(&self, value: T) {
        let Shared { current, retired, .. } = &*self.shared;
        // Release: whoever loads the node sees its value. Acquire: the value of
        // the old one may be another thread's.
        let mut node = current.swap(Node::boxed(value), AcqRel);
        // SAFETY: it was taken out of `current`, by this thread alone.
        // Acquire: who took those out of `current`, and who has read them.
        unsafe { Node::put(node, retired.swap(ptr::null_mut(), Acquire)) };
        let (mut kept, mut free) = (ptr::null_mut(), Vec::new());
        while !node.is_null() {
            // SAFETY: as above; whole lists are taken out of `retired`.
            let next = unsafe { Node::next(node) };
            if self.shared.is_announced(node) {
                // SAFETY: as above.
                unsafe { Node::put(node, kept) };
                kept = node;
            } else {
                // SAFETY: no reader has it, and none will: it is current no
                // more, and a reader looks at that last.
                free.push(unsafe { Box::from_raw(node) });
            }
            node = next;
        }
        self.shared.retire(kept);
        // `free` is dropped last: that may run anybody's code.
    }
}

impl<T> Reader<T> {
    /// The current value. Never waits, and tries again each time that a store
    /// comes in between.
    pub fn load(&mut self) -> Guard<'_, T> {
        let slot = &self.shared.slots[self.slot];
        // Relaxed: it is compared, and nothing else. It may be freed by now.
        let mut node = self.shared.current.load(Relaxed);
        loop {
            // Release: what the last guard showed has been read.
            slot.announced.store(node, Release);
            fence(SeqCst);
            // Acquire: the value of the node.
            let current = self.shared.current.load(Acquire);
            if current == node {
                // Not `node`: of the same address, it may be one that is gone.
                return Guard { slot, node: current };
            }
            node = current;
        }
    }
}

impl<T> Shared<T> {
    /// Whether a reader may be looking at `node`, which is current no more.
    fn is_announced(&self, node: *mut Node<T>) -> bool {
        fence(SeqCst);
        self.slots.iter().any(|slot| {
            // Acquire: if it says something else by now, `node` has been read.
            slot.announced.load(Acquire) == node
        })
    }

    /// Leaves a list of nodes to the next store.
    fn retire(&self, mut nodes: *mut Node<T>) {
        while !nodes.is_null() {
            // Release: who replaced them, and who has read them.
            let others = self.retired.swap(nodes, Release);
            if others.is_null() {
                return;
            }
            // Another store has left its own. It is tempting to push one upon
            // the other by compare-and-swap, but an address says nothing of what
            // lives there now: take both out, and try again with one list.
            // Acquire: of the others, too. Each swap goes on with the release
            // sequence of the one before.
            nodes = self.retired.swap(ptr::null_mut(), Acquire);
            // SAFETY: both lists are this thread's alone.
            nodes = unsafe { Node::join(nodes, others) };
        }
    }
}

impl<T> Node<T> {
    fn boxed(value: T) -> *mut Self {
        let next = UnsafeCell::new(ptr::null_mut());
        Box::into_raw(Box::new(Self { value, next }))
    }

    /// Puts `node` before `next`.
    ///
    /// # Safety
    ///
    /// It is not dropped, and no other thread puts it anywhere.
    unsafe fn put(node: *mut Self, next: *mut Self) {
        // SAFETY: by contract; readers do not look at it.
        unsafe { (*node).next.with_mut(|below| *below = next) }
    }

    /// What comes after `node`.
    ///
    /// # Safety
    ///
    /// As for `put`.
    unsafe fn next(node: *mut Self) -> *mut Self {
        // SAFETY: by contract.
        unsafe { (*node).next.with(|below| *below) }
    }

    /// `list`, and after its last node `rest`.
    ///
    /// # Safety
    ///
    /// As for `put`, for each node of `list`.
    unsafe fn join(list: *mut Self, rest: *mut Self) -> *mut Self {
        let mut last = list;
        // SAFETY: by contract.
        while let Some(next) = NonNull::new(unsafe { Self::next(last) }) {
            last = next.as_ptr();
        }
        // SAFETY: by contract.
        unsafe { Self::put(last, rest) };
        list
    }
}

impl<T> Slot<T> {
    fn new() -> Self {
        Self {
            announced: AtomicPtr::new(ptr::null_mut()),
            taken: AtomicBool::new(false),
        }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: it is announced, and was current after that: a writer that
        // has replaced it since keeps it.
        unsafe { &(*self.node).value }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        // Release: the value has been read.
        self.slot.announced.store(ptr::null_mut(), Release);
    }
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        // Release: pairs with the next one to take it.
        self.shared.slots[self.slot].taken.store(false, Release);
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // Relaxed: nobody else is left.
        let current = self.current.load(Relaxed);
        // SAFETY: never null, and nobody else is left.
        unsafe { Node::put(current, self.retired.load(Relaxed)) };
        let mut node = current;
        while !node.is_null() {
            // SAFETY: each is in one place alone.
            let next = unsafe { Node::next(node) };
            // SAFETY: as above.
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

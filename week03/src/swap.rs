//! A value that is read and replaced without a lock: hazard pointers.
//!
//! *Question.* Every request, on every core, reads the configuration, and once
//! a day it is replaced. How does a reader get the value without waiting for
//! another thread, and when may the old value be freed?
//!
//! *Idea.* A store publishes a value by swapping a pointer. To free the old
//! value is the hard part: a reader may have loaded the pointer, but not
//! dereferenced it yet. So a reader first **announces** the pointer, in a slot
//! of its own, and then checks that the pointer is still the current one. A
//! writer replaces the pointer, then scans the slots, and frees a value only if
//! no slot announces it. These are hazard pointers (Michael, "Hazard Pointers:
//! Safe Memory Reclamation for Lock-Free Objects", IEEE TPDS 15(6), 2004). A
//! reader keeps its announcement until the value has been replaced. Most loads
//! then only compare two pointers.
//!
//! *Guarantee.* A guard shows one complete value for as long as the guard
//! lives. A load that begins after a store returns that store's value or a
//! later one. `load` and `store` never wait: not for a guard that is kept for
//! an hour, and not for a thread that is not scheduled. Each value is dropped
//! once. After a store that no other store overlaps, at most one old value per
//! reader is left: the one that the reader loaded last.
//!
//! *Cost.* If the value has not been replaced since the reader's last load, a
//! load is one `Acquire` load and a comparison. Otherwise it is one
//! read-modify-write, of a word that only this reader and stores touch. A store
//! allocates, and scans every slot. An idle reader keeps the value that it
//! loaded last, until its next load or its drop. A later store drops the value,
//! not the reader. Each thread or task needs its own reader, and the maximum
//! number of readers is fixed at the start.
//!
//! ```
//! use week03::swap::Swap;
//!
//! let config = Swap::new("v1", 8);
//! let mut reader = config.reader().expect("one of eight");
//! let seen = reader.load();
//! config.store("v2"); // does not wait for `seen`
//! assert_eq!(*seen, "v1");
//! drop(seen);
//! assert_eq!(*reader.load(), "v2");
//! ```

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::{self, NonNull};

use crate::model_checked::loom_atomics::{
    Arc, AtomicBool, AtomicPtr, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
    UnsafeCell,
};

/// A shared value that is replaced as a whole. Clones share the same value.
pub struct Swap<T> {
    shared: Arc<Shared<T>>,
}

/// Reads the value of a [`Swap`], through one guard at a time.
///
/// A reader keeps the value that it loaded last from being dropped, until its
/// next load or its own drop.
pub struct Reader<T> {
    shared: Arc<Shared<T>>,
    /// The index of this reader's own slot.
    slot: usize,
    /// The address of the node that the slot announces, or 0.
    announced: usize,
}

/// Gives access to one value, which is not dropped while the guard lives.
///
/// A guard is not `Send`: a task that may move to another thread cannot keep it
/// across an `.await`.
pub struct Guard<'a, T> {
    node: *const Node<T>,
    reader: PhantomData<&'a mut Reader<T>>,
}

struct Shared<T> {
    /// Never null.
    current: AtomicPtr<Node<T>>,
    /// A linked list of replaced nodes that were still announced by a slot.
    retired: AtomicPtr<Node<T>>,
    slots: Box<[Slot<T>]>,
}

struct Node<T> {
    value: T,
    /// The next node of the `retired` list. This is plain memory: the model
    /// checker reports a data race on it.
    next: UnsafeCell<*mut Node<T>>,
}

/// A reader's slot. It has two cache lines to itself, since x86-64 fetches
/// lines in pairs.
#[repr(align(128))]
struct Slot<T> {
    /// The node that this slot's reader may be using, or null.
    announced: AtomicPtr<Node<T>>,
    sync: SyncWord,
    taken: AtomicBool,
}

/// Orders a reader and a writer. Each calls `synchronize` between its two
/// steps, and the later call sees what the thread of the earlier call did
/// before it.
///
/// Without it, both threads of this program can act on their `if`:
///
/// ```text
///     reader:  announced = node;  if current == node { read it }
///     writer:  current = new;     if announced != node { free it }
/// ```
///
/// Each store can wait in its core's store buffer while the load after it runs.
/// Read-modify-writes of one word have an order. With `AcqRel`, each of them
/// synchronizes with all earlier ones.
///
/// It is tempting to use `announced` itself as this word. But a reader ends with
/// a plain store to `announced`, and that ends the release sequence: a swap by
/// the slot's next reader would not synchronize with a writer that came before
/// the store.
#[derive(Default)]
struct SyncWord(AtomicUsize);

impl SyncWord {
    fn synchronize(&self) {
        self.0.swap(0, AcqRel);
    }
}

impl<T: Send + Sync> Swap<T> {
    /// Creates a `Swap` that holds `value` and allows at most `readers` readers
    /// at a time.
    pub fn new(value: T, readers: usize) -> Self {
        let shared = Shared {
            current: AtomicPtr::new(Node::boxed(value)),
            retired: AtomicPtr::new(ptr::null_mut()),
            slots: (0..readers).map(|_| Slot::new()).collect(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Returns a reader for one thread or task, or `None` if all readers are
    /// taken. A reader may outlive the `Swap`.
    pub fn reader(&self) -> Option<Reader<T>> {
        // Acquire pairs with the Release in `Reader::drop`: all announcements
        // of the slot's last reader come before those of the new one.
        let free = |slot: &Slot<T>| !slot.taken.swap(true, Acquire);
        let slot = self.shared.slots.iter().position(free)?;
        Some(Reader { shared: Arc::clone(&self.shared), slot, announced: 0 })
    }

    /// Replaces the value. Never waits for another thread.
    pub fn store(&self, value: T) {
        let Shared { current, retired, .. } = &*self.shared;
        // Release pairs with the Acquire in `announce`: a reader of the new node
        // sees its value. Acquire pairs with the Release of the store that
        // published the old node: another thread may have written its value.
        let mut node = current.swap(Node::boxed(value), AcqRel);
        // Acquire pairs with the Release in `retire`. Before this store come
        // the stores that took the nodes of this list out of `current`, and
        // the finished reads of these nodes.
        // SAFETY: only this thread took `node` out of `current`.
        unsafe { Node::set_next(node, retired.swap(ptr::null_mut(), Acquire)) };
        let (mut kept, mut free) = (ptr::null_mut(), Vec::new());
        while !node.is_null() {
            // SAFETY: only this thread has the node: it took the node out of
            // `current`, or out of `retired` with the whole list.
            let next = unsafe { Node::next(node) };
            if self.shared.is_announced(node) {
                // SAFETY: as above.
                unsafe { Node::set_next(node, kept) };
                kept = node;
            } else {
                // SAFETY: as above. No reader uses the node, and no reader can
                // start to: the node is no longer current, and a reader checks
                // `current` after it has announced a node.
                free.push(unsafe { Box::from_raw(node) });
            }
            node = next;
        }
        self.shared.retire(kept);
        // `free` is dropped last: the values' `drop` may run any code. If one
        // of them panics, the others are dropped all the same.
    }
}

impl<T> Reader<T> {
    /// Returns a guard of the current value. Never waits for another thread,
    /// and retries each time that a store replaces the value in between.
    pub fn load(&mut self) -> Guard<'_, T> {
        // Relaxed: if this is the announced node, its value has been visible
        // since the `announce` that returned it.
        let mut node = self.shared.current.load(Relaxed);
        // An announced node is not freed, so no other node has its address.
        while node.addr() != self.announced {
            node = self.announce(node);
        }
        Guard { node, reader: PhantomData }
    }

    /// Announces `node`, whose memory may already have been freed, and returns
    /// the node that is current after that. If both have the same address, the
    /// returned node is announced, and is not freed.
    #[cold]
    fn announce(&mut self, node: *mut Node<T>) -> *mut Node<T> {
        let slot = &self.shared.slots[self.slot];
        self.announced = node.addr();
        // Release pairs with the Acquire in `is_announced`: a writer that sees
        // this announcement knows that the reads through this reader's last
        // guard have ended.
        slot.announced.store(node, Release);
        slot.sync.synchronize();
        // This returns the second pointer, also if both have the same address:
        // the first one may be the pointer to an earlier node, which has been
        // freed. Acquire pairs with the Release in `store`: the node's value is
        // visible.
        self.shared.current.load(Acquire)
    }
}

impl<T> Shared<T> {
    /// Returns whether a reader may be using `node`, which is no longer
    /// current.
    fn is_announced(&self, node: *mut Node<T>) -> bool {
        self.slots.iter().any(|slot| {
            slot.sync.synchronize();
            // Acquire pairs with the Release in `announce` and in
            // `Reader::drop`: if this slot announces another node or null, its
            // reader's reads of `node` have ended.
            slot.announced.load(Acquire) == node
        })
    }

    /// Leaves the list `nodes` to the next store.
    fn retire(&self, mut nodes: *mut Node<T>) {
        while !nodes.is_null() {
            // Release pairs with the Acquire here and in `store`: the stores
            // that replaced these nodes, and the finished reads of the nodes,
            // come before the next store frees one of them.
            let others = self.retired.swap(nodes, Release);
            if others.is_null() {
                return;
            }
            // Another store has left its own list. It is tempting to push one
            // list onto the other by compare-and-swap. But an equal address
            // does not mean that the same node is still there. So take both
            // lists out, join them, and try again.
            // This Acquire also covers `others`, which a Release took out: each
            // swap continues the release sequence of the swap before it.
            let rest = self.retired.swap(ptr::null_mut(), Acquire);
            // `rest` is null if a third store has taken our list meanwhile.
            // SAFETY: `others` is not null, and only this thread has both lists.
            nodes = unsafe { Node::append(others, rest) };
        }
    }
}

impl<T> Node<T> {
    fn boxed(value: T) -> *mut Self {
        let next = UnsafeCell::new(ptr::null_mut());
        Box::into_raw(Box::new(Self { value, next }))
    }

    /// Makes `next` the node after `node`.
    ///
    /// # Safety
    ///
    /// `node` has not been freed, and no other thread reads or writes its
    /// `next`.
    unsafe fn set_next(node: *mut Self, next: *mut Self) {
        // SAFETY: the caller's promise; guards never access `next`.
        unsafe { (*node).next.with_mut(|link| *link = next) }
    }

    /// Returns the node after `node`, or null.
    ///
    /// # Safety
    ///
    /// The conditions of `set_next` hold.
    unsafe fn next(node: *mut Self) -> *mut Self {
        // SAFETY: the caller's promise.
        unsafe { (*node).next.with(|link| *link) }
    }

    /// Puts `rest`, which may be null, after the last node of `list`, and returns
    /// `list`.
    ///
    /// # Safety
    ///
    /// `list` is not null, and each of its nodes meets the conditions of
    /// `set_next`.
    unsafe fn append(list: *mut Self, rest: *mut Self) -> *mut Self {
        let mut last = list;
        // SAFETY: the caller's promise.
        while let Some(next) = NonNull::new(unsafe { Self::next(last) }) {
            last = next.as_ptr();
        }
        // SAFETY: the caller's promise.
        unsafe { Self::set_next(last, rest) };
        list
    }
}

impl<T> Slot<T> {
    fn new() -> Self {
        Self {
            announced: AtomicPtr::new(ptr::null_mut()),
            sync: SyncWord::default(),
            taken: AtomicBool::new(false),
        }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the node is announced, and was current after that. A writer
        // that has replaced it since then sees the announcement and keeps it.
        unsafe { &(*self.node).value }
    }
}

impl<T> Drop for Guard<'_, T> {
    /// Does nothing: the reader keeps its announcement. This `drop` only makes
    /// the end of a guard visible to the compiler, which then keeps the reader
    /// borrowed until there.
    fn drop(&mut self) {}
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        let slot = &self.shared.slots[self.slot];
        // Release pairs with the Acquire in `is_announced`: the reads of the
        // value have ended before a writer frees it.
        slot.announced.store(ptr::null_mut(), Release);
        // Release pairs with the Acquire in `Swap::reader`, of the slot's next
        // reader.
        slot.taken.store(false, Release);
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // Relaxed: no other thread can access `self` any more.
        let current = self.current.load(Relaxed);
        // SAFETY: `current` is never null, and no other thread has it.
        unsafe { Node::set_next(current, self.retired.load(Relaxed)) };
        let (mut node, mut free) = (current, Vec::new());
        while !node.is_null() {
            // SAFETY: each node is in the list once, and nowhere else.
            let next = unsafe { Node::next(node) };
            // SAFETY: as above.
            free.push(unsafe { Box::from_raw(node) });
            node = next;
        }
        // `free` drops the other values even if the `drop` of one panics.
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

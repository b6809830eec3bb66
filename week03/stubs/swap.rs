//! A value that is read without a lock: hazard pointers. Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - A load that begins after a store has returned sees that store's value or a
//!   later one. All clones of a `Swap` share one value.
//! - `new` gets the maximum number of readers, which may be 0 or thousands.
//!   `reader` succeeds while fewer readers exist, and returns `None` otherwise.
//!   Dropping a reader makes room for another. A reader still works after the
//!   last `Swap` is dropped.
//! - A guard shows the value that was current when the guard was loaded, for as
//!   long as the guard lives.
//! - A guard is not `Send`. So the compiler rejects a task that keeps a guard
//!   across an `.await` and may move to another thread. `Swap` and `Reader` are
//!   `Send`, and `Swap` is `Sync`.
//! - Neither `load` nor `store` waits for a guard, however long the guard is
//!   kept.
//! - A reader may keep the value that it loaded last, even after the guard has
//!   been dropped: this value need not be dropped before the reader's next load
//!   or the reader's own drop. Apart from that, if no other thread loads or
//!   stores at the same time, a store drops the replaced value before it
//!   returns. A value that a reader has kept is dropped by a later store,
//!   through any clone. So, beside the current value, at most one old value per
//!   reader is left.
//! - When the last `Swap` and the last reader have been dropped, each value has
//!   been dropped exactly once.
//! - The `drop` of a value may call `load` and `store` of the same `Swap`, and
//!   it may panic. If it panics in a store, the panic reaches the caller of that
//!   store, with its payload. The other values are dropped all the same, and the
//!   `Swap` still works. (If the drops of two values panic in one store, your
//!   code may abort the process. No test does this.)
//! - All these rules hold for every interleaving of the threads, and for every
//!   value that an atomic load may return, as far as the model checker loom can
//!   see. The last group of tests (rung) runs your file under loom.
//!
//! For loom, take these types from `crate::model_checked::loom_atomics`, not
//! from `std`: `Arc`, the atomics, and `UnsafeCell` for plain memory that one
//! thread hands to another. That module has no lock, and you need none. If a
//! thread holds a lock of `std` while loom switches threads, the model hangs.
//!
//! You can solve one group of tests (rung) after the other. First publish
//! values, and never drop one. Then let `load` write the guard's pointer into
//! its reader's slot (*announce* it), and let `store` drop each value that is
//! in no slot. Then think of a reader that has loaded the pointer, but has not
//! announced it yet.
//!
//! How to read loom's errors, and what loom cannot judge:
//!
//! - A *causality violation* is a data race: one thread uses memory that
//!   another thread writes or frees, and nothing orders the two accesses. A
//!   release store in one thread orders them if an acquire load in the other
//!   thread reads it.
//! - loom treats a `SeqCst` *access* as `AcqRel`, and so reports errors in code
//!   that is correct. To order two threads, use `SeqCst` fences. Or use
//!   read-modify-writes of one atomic variable, and never write this variable
//!   with a plain store.
//! - In loom, a `SeqCst` fence orders more than a real fence, so loom can miss
//!   an error.
//! - loom overlooks two mistakes with reused addresses (see the page of notes
//!   on this exercise). After a node is freed, a new node may have the same
//!   address. The first mistake: a `load` announces a pointer, reads the
//!   current pointer again, finds that both are equal, and returns the pointer
//!   of the first read. It must return the pointer of the second read, and the
//!   second read must be an `Acquire`. The second mistake: a compare-and-swap
//!   pushes a new node to a list, although the old head, to which the new node
//!   links, may have been freed since it was read.
//!
//! The stub has the types, their constructors and the cleanup at the end.
//! Change them as you like. `unsafe` is allowed: say at each block why it is
//! sound.

#![allow(
    dead_code,
    unsafe_code,
    unused_imports,
    reason = "memory reclamation is the exercise, and the code is unfinished"
)]

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr;

use crate::model_checked::loom_atomics::{
    Arc, AtomicBool, AtomicPtr, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
    UnsafeCell, fence,
};

/// A shared value that is replaced as a whole. Clones share the same value.
pub struct Swap<T> {
    shared: Arc<Shared<T>>,
}

/// Reads the value of a [`Swap`], through one guard at a time.
///
/// A reader may keep the value that it loaded last from being dropped, until its
/// next load or its own drop.
pub struct Reader<T> {
    shared: Arc<Shared<T>>,
    /// The index of this reader's own slot.
    slot: usize,
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
    taken: AtomicBool,
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
        todo!("two threads call this at once: which one gets the last slot?")
    }

    /// Replaces the value. Never waits for another thread.
    pub fn store(&self, _value: T) {
        todo!("which readers may still use the old value?")
    }
}

impl<T> Reader<T> {
    /// Returns a guard of the current value. Never waits for another thread.
    /// Retries when a store replaces the value between the load of the pointer
    /// and its announcement.
    pub fn load(&mut self) -> Guard<'_, T> {
        todo!("what can a store do between the load and the announcement?")
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
        todo!("why has the value not been freed?")
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        // Does anything have to be undone? (There is no `todo!` here: it would
        // hide the panic of the `todo!` in `deref`.)
    }
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        // What has to be undone here?
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

//! A value that many threads read and some replace, without a lock. Your turn.
//!
//! What is graded, and nothing else:
//!
//! - A load that begins after a store has ended sees that value, or a later one.
//!   A clone of a `Swap` stores into the same value.
//! - There are as many readers at a time as `new` was told, and no more. One that
//!   is dropped makes room for another. A reader outlives the last `Swap`.
//! - A guard shows what was current when it was loaded, for as long as it lives.
//! - Neither `load` nor `store` waits for a guard, however long it is kept.
//! - While no other store and no load is under way: what is replaced, and no guard
//!   shows, is dropped before the store returns, and what a guard has kept is
//!   dropped by a later store. So what is left is at most a value for each reader,
//!   and the current one. In the end each value has been dropped once.
//! - All that holds for every interleaving of the threads and every value that a
//!   load may return, as far as the model checker loom can see: the last rung runs
//!   it on your file. So take `Arc`, what is atomic, and an `UnsafeCell` for plain
//!   memory that threads hand to each other, from `crate::model_checked::loom_atomics` and not from `std`.
//!   There is no lock in it, and none is needed: one of `std` that is held while
//!   loom switches threads makes a model hang.
//!
//! What loom calls a *causality violation*: one thread uses memory that another
//! one writes to or frees, and no release that an acquire has seen lies between
//! the two. And loom takes a `SeqCst` *access* for `AcqRel`, so that it finds
//! mistakes where there are none: order two threads by fences, or by
//! read-modify-writes of a word to which nothing else is written. A fence of it
//! orders more than a real one. So it overlooks two mistakes, of which the notes
//! tell more: to return the pointer that was read before it was announced, or to
//! read it the second time without `Acquire`, since another value may have got
//! its address by then; and to push to a list by compare-and-swap where what it
//! links to may have been freed.
//!
//! A way there, a rung at a time: first publish, and never drop anything. Then let
//! a guard write into the slot of its reader what it shows, and a store drop what
//! is in no slot. Then think of a reader that has loaded the pointer, and has not
//! yet written it down.
//!
//! What is here already: the parts, and how they are made and taken down in the
//! end. Change them as you like. `unsafe` is allowed: say in each block why it
//! holds.

#![allow(
    dead_code,
    unsafe_code,
    unused_imports,
    reason = "to reclaim memory is the exercise, and it has just begun"
)]

use std::fmt;
use std::ops::Deref;
use std::ptr;

use crate::model_checked::loom_atomics::{
    Arc, AtomicBool, AtomicPtr, AtomicUsize,
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
        todo!("two threads ask at once. Who gets the last slot?")
    }

    /// Replaces the value. Never waits.
    pub fn store(&self, _value: T) {
        todo!("who may still be looking at the old value?")
    }
}

impl<T> Reader<T> {
    /// The current value. Never waits, and tries again each time that a store
    /// comes in between.
    pub fn load(&mut self) -> Guard<'_, T> {
        todo!("between loading the pointer and saying so, what can happen?")
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
        todo!("why is it still there?")
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        // What does it take back? (Not `todo!`: it would hide the one above.)
    }
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        // And this one?
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

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
//! - What is replaced, and no guard shows, is dropped before the store returns.
//!   What a guard has kept is dropped by a later store at the latest, so that
//!   what is left is never more than a value for each reader, and the current
//!   one. In the end each value has been dropped once.
//! - All that holds for every interleaving of the threads and every value that a
//!   load may return: the last rung is run by the model checker loom, on your
//!   file. So take `Arc` and what is atomic from `crate::sync` and not from
//!   `std`. There is no lock in it. What loom calls a *causality violation*: one
//!   thread uses memory that another one writes to or frees, and no release that
//!   an acquire has seen lies between the two.
//!
//! A way there, a rung at a time: first publish, and never drop anything: one
//! `AtomicPtr` from `Box::into_raw`. Then let a guard write into a slot of its
//! reader what it shows, and a store drop what is in no slot. Then think of a
//! reader that has loaded the pointer, and has not yet written it down.
//!
//! `unsafe` is allowed: say in each block why it holds. Orderings count: what you
//! may and may not weaken, `cargo wb check swap` tells you.

#![allow(unsafe_code, reason = "to reclaim memory is the exercise")]

use std::marker::PhantomData;
use std::ops::Deref;

use crate::sync::{Arc, AtomicBool, AtomicPtr, AtomicUsize, Ordering};

/// A value that is replaced as a whole. A clone shares it.
#[derive(Debug)]
pub struct Swap<T> {
    shared: Arc<Shared<T>>,
}

/// Reads the value of a [`Swap`], one guard at a time.
#[derive(Debug)]
pub struct Reader<T> {
    shared: Arc<Shared<T>>,
}

/// A value that is not dropped while this lives.
#[derive(Debug)]
pub struct Guard<'a, T> {
    of: PhantomData<&'a T>,
}

#[derive(Debug)]
struct Shared<T> {
    current: AtomicPtr<T>,
}

impl<T: Send + Sync> Swap<T> {
    /// Holds `value` until another one is stored, and has so many `readers` at
    /// most at a time.
    pub fn new(_value: T, _readers: usize) -> Self {
        todo!("where does the value live, and where is it said who reads it?")
    }

    /// A reader, for one thread or task, or none if all are taken.
    pub fn reader(&self) -> Option<Reader<T>> {
        todo!("two threads ask at once. Who gets the last one?")
    }

    /// Replaces the value. Never waits.
    pub fn store(&self, _value: T) {
        todo!("who may still be looking at the old value?")
    }
}

impl<T> Reader<T> {
    /// The current value. Never waits.
    pub fn load(&mut self) -> Guard<'_, T> {
        todo!("between loading the pointer and saying so, what can happen?")
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
        // Not `todo!`: a panic here would hide the one above.
    }
}

impl<T> Clone for Swap<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

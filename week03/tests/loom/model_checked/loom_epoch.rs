//! `loom_epoch` under loom: a stand-in that keeps the promises of
//! crossbeam-epoch, and promises as little more as loom can express.
//!
//! It counts no epochs. A deferred function has a list of the pins that existed
//! when it was deferred, and runs as soon as the last of them has ended.
//!
//! A pin panics if another thread is pinned through the same handle.
//!
//! It is stronger in one place. crossbeam's fences promise that a thread that
//! pins later does not load what was deferred before. loom can only express
//! that everything before the `defer` happens before that pin, which is more.

#![allow(dead_code, reason = "an attempt may need more than the answer")]

// In `tests/loom`, the name `std` may mean another crate.
extern crate std as real_std;

use self::real_std::sync::{Arc, Mutex};
use std::borrow::{Borrow, BorrowMut};
use std::cell::Cell;
use std::cmp;
use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::ptr;
use std::rc::Rc;

use loom::sync::atomic::{
    AtomicPtr, AtomicUsize,
    Ordering::{self, Acquire, Relaxed, Release},
};
use loom::thread::ThreadId;

#[derive(Debug, Clone)]
pub(crate) struct Collector(Arc<Global>);

#[derive(Debug)]
struct Global {
    /// Each step adds to it, so that loom runs the steps in every order.
    steps: AtomicUsize,
    /// Makes each `defer` happen before all later pins.
    defers: AtomicUsize,
    /// Makes all that is done under a pin happen before what waited for the
    /// pin.
    unpins: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pins: usize,
    /// The numbers of the active pins.
    pinned: Vec<usize>,
    garbage: Vec<Garbage>,
}

/// A deferred function.
struct Garbage {
    /// The pins that it still waits for.
    waits_for: Vec<usize>,
    run: Box<dyn FnOnce()>,
}

// SAFETY: the caller of `defer_unchecked` promises that any thread may run it.
unsafe impl Send for Garbage {}

#[derive(Debug)]
pub(crate) struct LocalHandle(Rc<Local>);

#[derive(Debug)]
struct Local {
    collector: Collector,
    guards: Cell<usize>,
    pin: Cell<usize>,
    /// The thread that pinned last.
    thread: Cell<Option<ThreadId>>,
}

/// A pin of its thread. `None` is the guard of `unprotected`.
#[derive(Debug)]
pub(crate) struct Guard(Option<Rc<Local>>);

impl Collector {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Global {
            steps: AtomicUsize::new(0),
            defers: AtomicUsize::new(0),
            unpins: AtomicUsize::new(0),
            state: Mutex::default(),
        }))
    }

    pub(crate) fn register(&self) -> LocalHandle {
        LocalHandle(Rc::new(Local {
            collector: self.clone(),
            guards: Cell::new(0),
            pin: Cell::new(0),
            thread: Cell::new(None),
        }))
    }

    fn pin(&self) -> usize {
        self.0.steps.fetch_add(1, Relaxed);
        // Acquire pairs with the Release in `defer`: the new pin keeps nothing
        // that was deferred earlier, and so its thread must not load it.
        self.0.defers.fetch_add(1, Acquire);
        let mut state = self.0.state.lock().unwrap();
        state.pins += 1;
        let pin = state.pins;
        state.pinned.push(pin);
        pin
    }

    fn unpin(&self, pin: usize) {
        self.0.unpins.fetch_add(1, Release);
        self.0.steps.fetch_add(1, Relaxed);
        let mut state = self.0.state.lock().unwrap();
        state.pinned.retain(|other| *other != pin);
        let waits_for_none = |garbage: &mut Garbage| {
            garbage.waits_for.retain(|other| *other != pin);
            garbage.waits_for.is_empty()
        };
        let ready: Vec<_> =
            state.garbage.extract_if(.., waits_for_none).collect();
        drop(state);
        if !ready.is_empty() {
            self.0.unpins.fetch_add(1, Acquire);
        }
        ready.into_iter().for_each(|garbage| (garbage.run)());
    }

    fn defer(&self, run: Box<dyn FnOnce()>) {
        self.0.defers.fetch_add(1, Release);
        self.0.steps.fetch_add(1, Relaxed);
        let mut state = self.0.state.lock().unwrap();
        let waits_for = state.pinned.clone();
        state.garbage.push(Garbage { waits_for, run });
    }
}

impl Drop for Global {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap();
        mem::take(&mut state.garbage)
            .into_iter()
            .for_each(|garbage| (garbage.run)());
    }
}

impl fmt::Debug for Garbage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Garbage").field(&self.waits_for).finish()
    }
}

impl LocalHandle {
    pub(crate) fn pin(&self) -> Guard {
        let local = &self.0;
        let thread = Some(loom::thread::current().id());
        if local.guards.replace(local.guards.get() + 1) == 0 {
            local.thread.set(thread);
            local.pin.set(local.collector.pin());
        }
        assert_eq!(
            thread,
            local.thread.get(),
            "the thread that pins through a handle (left), and the one that has \
             pinned through it already (right): expected the same"
        );
        Guard(Some(Rc::clone(local)))
    }

    pub(crate) fn is_pinned(&self) -> bool {
        self.0.guards.get() > 0
    }

    pub(crate) fn collector(&self) -> &Collector {
        &self.0.collector
    }
}

impl Guard {
    pub(crate) fn defer<F, R>(&self, run: F)
    where
        F: FnOnce() -> R + Send + 'static,
    {
        // SAFETY: `run` is `Send` and borrows nothing.
        unsafe { self.defer_unchecked(run) }
    }

    /// # Safety
    ///
    /// Any thread may call `run`, and `run` is valid until it is called.
    pub(crate) unsafe fn defer_unchecked<F, R>(&self, run: F)
    where
        F: FnOnce() -> R,
    {
        let Some(local) = &self.0 else { return drop(run()) };
        let run: Box<dyn FnOnce() + '_> = Box::new(move || drop(run()));
        // SAFETY: the caller's promise. Only the lifetime changes.
        local.collector.defer(unsafe {
            mem::transmute::<Box<dyn FnOnce() + '_>, Box<dyn FnOnce()>>(run)
        });
    }

    /// # Safety
    ///
    /// No thread that pins later can load `shared`, and nothing else drops it.
    pub(crate) unsafe fn defer_destroy<T>(&self, shared: Shared<'_, T>) {
        // SAFETY: the caller's promise.
        unsafe { self.defer_unchecked(move || drop(shared.into_owned())) }
    }

    /// Does nothing: each deferred function already runs as early as possible.
    pub(crate) fn flush(&self) {}

    pub(crate) fn repin(&mut self) {
        self.repin_after(|| {});
    }

    pub(crate) fn repin_after<R>(&mut self, run: impl FnOnce() -> R) -> R {
        let alone = self.0.as_ref().filter(|local| local.guards.get() == 1);
        let Some(local) = alone else { return run() };
        local.guards.set(0);
        local.collector.unpin(local.pin.get());
        let _repins = Repins(local);
        run()
    }

    pub(crate) fn collector(&self) -> Option<&Collector> {
        self.0.as_ref().map(|local| &local.collector)
    }
}

/// Pins again on drop, also if the function of `repin_after` panics.
struct Repins<'a>(&'a Local);

impl Drop for Repins<'_> {
    fn drop(&mut self) {
        self.0.guards.set(self.0.guards.get() + 1);
        if self.0.guards.get() == 1 {
            self.0.pin.set(self.0.collector.pin());
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(local) = &self.0 else { return };
        if local.guards.replace(local.guards.get() - 1) == 1 {
            local.collector.unpin(local.pin.get());
        }
    }
}

loom::lazy_static! {
    static ref DEFAULT: Collector = Collector::new();
}

pub(crate) fn default_collector() -> &'static Collector {
    &DEFAULT
}

pub(crate) fn pin() -> Guard {
    DEFAULT.register().pin()
}

struct Unprotected(Guard);

// SAFETY: the guard is always `None`.
unsafe impl Sync for Unprotected {}

/// # Safety
///
/// No other thread uses what is loaded or deferred with this guard.
pub(crate) unsafe fn unprotected() -> &'static Guard {
    static UNPROTECTED: Unprotected = Unprotected(Guard(None));
    &UNPROTECTED.0
}

#[derive(Debug)]
pub(crate) struct Atomic<T>(AtomicPtr<T>);

#[derive(Debug)]
pub(crate) struct Owned<T>(Box<T>);

#[derive(Debug)]
pub(crate) struct Shared<'g, T>(*const T, PhantomData<&'g Guard>);

pub(crate) trait Pointer<T> {
    fn into_raw(self) -> *mut T;

    /// # Safety
    ///
    /// `raw` comes from `into_raw`, and is passed to this function only once.
    unsafe fn from_raw(raw: *mut T) -> Self;
}

#[derive(Debug)]
pub(crate) struct CompareExchangeError<'g, T, P: Pointer<T>> {
    pub(crate) current: Shared<'g, T>,
    pub(crate) new: P,
}

impl<T> Atomic<T> {
    pub(crate) fn new(value: T) -> Self {
        Owned::new(value).into()
    }

    pub(crate) fn null() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    pub(crate) fn load<'g>(
        &self,
        order: Ordering,
        _: &'g Guard,
    ) -> Shared<'g, T> {
        Shared::from(self.0.load(order).cast_const())
    }

    pub(crate) fn store<P: Pointer<T>>(&self, new: P, order: Ordering) {
        self.0.store(new.into_raw(), order);
    }

    pub(crate) fn swap<'g, P: Pointer<T>>(
        &self,
        new: P,
        order: Ordering,
        _: &'g Guard,
    ) -> Shared<'g, T> {
        Shared::from(self.0.swap(new.into_raw(), order).cast_const())
    }

    pub(crate) fn compare_exchange<'g, P: Pointer<T>>(
        &self,
        current: Shared<'_, T>,
        new: P,
        success: Ordering,
        failure: Ordering,
        _: &'g Guard,
    ) -> Result<Shared<'g, T>, CompareExchangeError<'g, T, P>> {
        let (old, new) = (current.0.cast_mut(), new.into_raw());
        match self.0.compare_exchange(old, new, success, failure) {
            Ok(_) => Ok(Shared::from(new.cast_const())),
            Err(now) => Err(CompareExchangeError {
                current: Shared::from(now.cast_const()),
                // SAFETY: `new` comes from `into_raw`, and was not stored.
                new: unsafe { P::from_raw(new) },
            }),
        }
    }

    pub(crate) fn compare_exchange_weak<'g, P: Pointer<T>>(
        &self,
        current: Shared<'_, T>,
        new: P,
        success: Ordering,
        failure: Ordering,
        guard: &'g Guard,
    ) -> Result<Shared<'g, T>, CompareExchangeError<'g, T, P>> {
        self.compare_exchange(current, new, success, failure, guard)
    }

    /// Loads with `Acquire`, which promises more than crossbeam does here.
    pub(crate) fn load_consume<'g>(&self, guard: &'g Guard) -> Shared<'g, T> {
        self.load(Acquire, guard)
    }

    pub(crate) fn fetch_update<'g, F>(
        &self,
        success: Ordering,
        failure: Ordering,
        guard: &'g Guard,
        mut update: F,
    ) -> Result<Shared<'g, T>, Shared<'g, T>>
    where
        F: FnMut(Shared<'g, T>) -> Option<Shared<'g, T>>,
    {
        let mut old = self.load(failure, guard);
        while let Some(new) = update(old) {
            match self.compare_exchange(old, new, success, failure, guard) {
                Ok(_) => return Ok(old),
                Err(error) => old = error.current,
            }
        }
        Err(old)
    }

    /// # Safety
    ///
    /// The pointer is not null, and no other thread has it.
    pub(crate) unsafe fn into_owned(self) -> Owned<T> {
        // SAFETY: the caller's promise.
        unsafe { Owned::from_raw(self.0.into_inner()) }
    }

    /// # Safety
    ///
    /// The pointer is null, or no other thread has it.
    pub(crate) unsafe fn try_into_owned(self) -> Option<Owned<T>> {
        let raw = self.0.into_inner();
        // SAFETY: the caller's promise.
        (!raw.is_null()).then(|| unsafe { Owned::from_raw(raw) })
    }
}

impl<T> Clone for Atomic<T> {
    fn clone(&self) -> Self {
        Self(AtomicPtr::new(self.0.load(Relaxed)))
    }
}

impl<T> fmt::Pointer for Atomic<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Pointer::fmt(&self.0.load(Ordering::SeqCst), f)
    }
}

impl<T> From<*const T> for Atomic<T> {
    fn from(raw: *const T) -> Self {
        Self(AtomicPtr::new(raw.cast_mut()))
    }
}

impl<T> From<Owned<T>> for Atomic<T> {
    fn from(owned: Owned<T>) -> Self {
        Self(AtomicPtr::new(owned.into_raw()))
    }
}

impl<T> From<T> for Atomic<T> {
    fn from(value: T) -> Self {
        Owned::new(value).into()
    }
}

impl<T> From<Shared<'_, T>> for Atomic<T> {
    fn from(shared: Shared<'_, T>) -> Self {
        Self(AtomicPtr::new(shared.into_raw()))
    }
}

impl<T> Default for Atomic<T> {
    fn default() -> Self {
        Self::null()
    }
}

impl Default for Collector {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for Collector {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Collector {}

impl<T> From<T> for Owned<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl<T> From<Box<T>> for Atomic<T> {
    fn from(value: Box<T>) -> Self {
        Owned(value).into()
    }
}

impl<T> Pointer<T> for Owned<T> {
    fn into_raw(self) -> *mut T {
        Box::into_raw(self.0)
    }

    unsafe fn from_raw(raw: *mut T) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { Box::from_raw(raw) })
    }
}

impl<T> Owned<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Box::new(value))
    }

    /// # Safety
    ///
    /// `raw` comes from `Box::into_raw`, and is passed to this function only
    /// once.
    pub(crate) unsafe fn from_raw(raw: *mut T) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { Box::from_raw(raw) })
    }

    pub(crate) fn into_box(self) -> Box<T> {
        self.0
    }

    pub(crate) fn into_shared(self, _: &Guard) -> Shared<'_, T> {
        Shared::from(self.into_raw().cast_const())
    }
}

impl<T> From<Box<T>> for Owned<T> {
    fn from(value: Box<T>) -> Self {
        Self(value)
    }
}

impl<T> Deref for Owned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Owned<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: Clone> Clone for Owned<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> AsRef<T> for Owned<T> {
    fn as_ref(&self) -> &T {
        self
    }
}

impl<T> AsMut<T> for Owned<T> {
    fn as_mut(&mut self) -> &mut T {
        self
    }
}

impl<T> Borrow<T> for Owned<T> {
    fn borrow(&self) -> &T {
        self
    }
}

impl<T> BorrowMut<T> for Owned<T> {
    fn borrow_mut(&mut self) -> &mut T {
        self
    }
}

impl<T> Pointer<T> for Shared<'_, T> {
    fn into_raw(self) -> *mut T {
        self.0.cast_mut()
    }

    unsafe fn from_raw(raw: *mut T) -> Self {
        Shared::from(raw.cast_const())
    }
}

impl<'g, T> Shared<'g, T> {
    pub(crate) fn null() -> Self {
        Shared::from(ptr::null())
    }

    pub(crate) fn is_null(&self) -> bool {
        self.0.is_null()
    }

    pub(crate) fn as_raw(&self) -> *const T {
        self.0
    }

    /// # Safety
    ///
    /// The pointer is not null, and its value lives as long as the guard.
    pub(crate) unsafe fn deref(&self) -> &'g T {
        // SAFETY: the caller's promise.
        unsafe { &*self.0 }
    }

    /// # Safety
    ///
    /// The conditions of `deref` hold, and nothing else uses the value.
    pub(crate) unsafe fn deref_mut(&mut self) -> &'g mut T {
        // SAFETY: the caller's promise.
        unsafe { &mut *self.0.cast_mut() }
    }

    /// # Safety
    ///
    /// The pointer is null, or its value lives as long as the guard.
    pub(crate) unsafe fn as_ref(&self) -> Option<&'g T> {
        // SAFETY: the caller's promise.
        unsafe { self.0.as_ref() }
    }

    /// # Safety
    ///
    /// The pointer is not null, and no other thread has it.
    pub(crate) unsafe fn into_owned(self) -> Owned<T> {
        // SAFETY: the caller's promise.
        unsafe { Owned::from_raw(self.0.cast_mut()) }
    }

    /// # Safety
    ///
    /// The pointer is null, or no other thread has it.
    pub(crate) unsafe fn try_into_owned(self) -> Option<Owned<T>> {
        // SAFETY: the caller's promise.
        (!self.is_null()).then(|| unsafe { self.into_owned() })
    }
}

impl<T> From<*const T> for Shared<'_, T> {
    fn from(raw: *const T) -> Self {
        Self(raw, PhantomData)
    }
}

impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<'_, T> {}

impl<T> PartialEq for Shared<'_, T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<T> Eq for Shared<'_, T> {}

impl<T> PartialOrd for Shared<'_, T> {
    fn partial_cmp(&self, other: &Self) -> Option<cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Shared<'_, T> {
    fn cmp(&self, other: &Self) -> cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

impl<T> fmt::Pointer for Shared<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Pointer::fmt(&self.0, f)
    }
}

impl<T> Default for Shared<'_, T> {
    fn default() -> Self {
        Self::null()
    }
}

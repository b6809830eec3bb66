//! `crate::model_checked::loom_epoch` under the model checker: what crossbeam-epoch promises, and
//! as little more as loom can say. Nothing is counted in epochs here: what is put
//! off knows who was pinned by then, and is done as soon as the last of them has
//! gone. crossbeam's fences say that who pins later does not load what was put
//! off before. loom can only say that all of it happened before, which is more.

#![allow(dead_code, reason = "an attempt may need more than the answer")]

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::ptr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use loom::sync::atomic::{
    AtomicPtr, AtomicUsize,
    Ordering::{self, Acquire, Relaxed, Release},
};

#[derive(Debug, Clone)]
pub(crate) struct Collector(Arc<Global>);

#[derive(Debug)]
struct Global {
    /// Each step adds to it, so that loom tries the steps in each order.
    steps: AtomicUsize,
    /// Orders what is put off before who pins later.
    deferred: AtomicUsize,
    /// Orders what was done while pinned before what waited for it.
    gone: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pins: usize,
    /// The numbers of the pins that have not ended.
    pinned: Vec<usize>,
    garbage: Vec<Garbage>,
}

struct Garbage {
    waits_for: Vec<usize>,
    run: Box<dyn FnOnce()>,
}

// SAFETY: who puts it off, promises that any thread may do it.
unsafe impl Send for Garbage {}

#[derive(Debug)]
pub(crate) struct LocalHandle(Rc<Local>);

#[derive(Debug)]
struct Local {
    collector: Collector,
    guards: Cell<usize>,
    pin: Cell<usize>,
}

/// Of nobody where it is `unprotected`.
#[derive(Debug)]
pub(crate) struct Guard(Option<Rc<Local>>);

impl Collector {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Global {
            steps: AtomicUsize::new(0),
            deferred: AtomicUsize::new(0),
            gone: AtomicUsize::new(0),
            state: Mutex::default(),
        }))
    }

    pub(crate) fn register(&self) -> LocalHandle {
        LocalHandle(Rc::new(Local {
            collector: self.clone(),
            guards: Cell::new(0),
            pin: Cell::new(0),
        }))
    }

    fn pin(&self) -> usize {
        self.0.steps.fetch_add(1, Relaxed);
        // What has been put off by now, it does not keep, and must not load.
        self.0.deferred.fetch_add(1, Acquire);
        let mut state = self.0.state.lock().unwrap();
        state.pins += 1;
        let pin = state.pins;
        state.pinned.push(pin);
        pin
    }

    fn unpin(&self, pin: usize) {
        self.0.gone.fetch_add(1, Release);
        self.0.steps.fetch_add(1, Relaxed);
        let mut state = self.0.state.lock().unwrap();
        state.pinned.retain(|other| *other != pin);
        let nobody = |garbage: &mut Garbage| {
            garbage.waits_for.retain(|other| *other != pin);
            garbage.waits_for.is_empty()
        };
        let ripe: Vec<_> = state.garbage.extract_if(.., nobody).collect();
        drop(state);
        if !ripe.is_empty() {
            self.0.gone.fetch_add(1, Acquire);
        }
        ripe.into_iter().for_each(|garbage| (garbage.run)());
    }

    fn defer(&self, run: Box<dyn FnOnce()>) {
        self.0.deferred.fetch_add(1, Release);
        self.0.steps.fetch_add(1, Relaxed);
        let mut state = self.0.state.lock().unwrap();
        let waits_for = state.pinned.clone();
        state.garbage.push(Garbage { waits_for, run });
    }
}

impl Drop for Global {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap();
        mem::take(&mut state.garbage).into_iter().for_each(|it| (it.run)());
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
        if local.guards.replace(local.guards.get() + 1) == 0 {
            local.pin.set(local.collector.pin());
        }
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
        // SAFETY: it is `Send` and borrows nothing.
        unsafe { self.defer_unchecked(run) }
    }

    /// # Safety
    ///
    /// Any thread may do it, and as late as it will be done.
    pub(crate) unsafe fn defer_unchecked<F, R>(&self, run: F)
    where
        F: FnOnce() -> R,
    {
        let Some(local) = &self.0 else { return drop(run()) };
        let run: Box<dyn FnOnce() + '_> = Box::new(move || drop(run()));
        // SAFETY: as promised. Only the lifetime is another one.
        local.collector.defer(unsafe {
            mem::transmute::<Box<dyn FnOnce() + '_>, Box<dyn FnOnce()>>(run)
        });
    }

    /// # Safety
    ///
    /// Nobody can load it any more, and nobody else drops it.
    pub(crate) unsafe fn defer_destroy<T>(&self, shared: Shared<'_, T>) {
        // SAFETY: as promised.
        unsafe { self.defer_unchecked(move || drop(shared.into_owned())) }
    }

    /// Everything is done as early as it may be.
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
    static ref EVERYBODY: Collector = Collector::new();
}

pub(crate) fn default_collector() -> &'static Collector {
    &EVERYBODY
}

pub(crate) fn pin() -> Guard {
    EVERYBODY.register().pin()
}

struct Nobody(Guard);

// SAFETY: there is nothing in it.
unsafe impl Sync for Nobody {}

/// # Safety
///
/// Nobody else uses what is loaded and deferred with it.
pub(crate) unsafe fn unprotected() -> &'static Guard {
    static NOBODY: Nobody = Nobody(Guard(None));
    &NOBODY.0
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
    /// It has come from `into_raw`, and comes back once.
    unsafe fn back(raw: *mut T) -> Self;
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
                // SAFETY: it has just come from there, and was not stored.
                new: unsafe { P::back(new) },
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

    /// # Safety
    ///
    /// Nobody else has it, and it is not null.
    pub(crate) unsafe fn into_owned(self) -> Owned<T> {
        // SAFETY: as promised.
        unsafe { Owned::back(self.0.into_inner()) }
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

    unsafe fn back(raw: *mut T) -> Self {
        // SAFETY: as promised.
        Self(unsafe { Box::from_raw(raw) })
    }
}

impl<T> Owned<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Box::new(value))
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

impl<T> Pointer<T> for Shared<'_, T> {
    fn into_raw(self) -> *mut T {
        self.0.cast_mut()
    }

    unsafe fn back(raw: *mut T) -> Self {
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
    /// It is not null, and is kept as long as the guard.
    pub(crate) unsafe fn deref(&self) -> &'g T {
        // SAFETY: as promised.
        unsafe { &*self.0 }
    }

    /// # Safety
    ///
    /// It is null, or kept as long as the guard.
    pub(crate) unsafe fn as_ref(&self) -> Option<&'g T> {
        // SAFETY: as promised.
        unsafe { self.0.as_ref() }
    }

    /// # Safety
    ///
    /// It is not null, and nobody else has it.
    pub(crate) unsafe fn into_owned(self) -> Owned<T> {
        // SAFETY: as promised.
        unsafe { Owned::back(self.0.cast_mut()) }
    }

    /// # Safety
    ///
    /// It is null, or nobody else has it.
    pub(crate) unsafe fn try_into_owned(self) -> Option<Owned<T>> {
        // SAFETY: as promised.
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

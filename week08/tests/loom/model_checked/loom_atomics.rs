//! `loom_atomics` under loom, which runs threads in every order. Also under
//! shuttle, for async code that uses these types: each value is of the checker
//! that runs when it is created.

#![allow(dead_code, reason = "an attempt may need more than the answers")]

use std::ops::{Deref, DerefMut};
use std::sync::{LockResult, PoisonError, TryLockError, TryLockResult};

pub(crate) use loom::sync::atomic::Ordering;

fn is_shuttle() -> bool {
    shuttle::current::try_get_current_task().is_some()
}

macro_rules! atomic {
    ($name:ident, $value:ty, $($fetch:ident)*) => {
        #[derive(Debug)]
        pub(crate) enum $name {
            Loom(loom::sync::atomic::$name),
            Shuttle(shuttle::sync::atomic::$name),
        }

        impl $name {
            #[track_caller]
            pub(crate) fn new(value: $value) -> Self {
                match is_shuttle() {
                    false => Self::Loom(loom::sync::atomic::$name::new(value)),
                    true => {
                        Self::Shuttle(shuttle::sync::atomic::$name::new(value))
                    }
                }
            }

            pub(crate) fn into_inner(self) -> $value {
                match self {
                    Self::Loom(atomic) => atomic.into_inner(),
                    Self::Shuttle(atomic) => atomic.into_inner(),
                }
            }

            #[track_caller]
            pub(crate) fn fetch_update(
                &self,
                set: Ordering,
                fetch: Ordering,
                update: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                match self {
                    Self::Loom(atomic) => {
                        atomic.fetch_update(set, fetch, update)
                    }
                    Self::Shuttle(atomic) => {
                        atomic.fetch_update(set, fetch, update)
                    }
                }
            }

            call!(load(order: Ordering) -> $value);
            call!(store(value: $value, order: Ordering) -> ());
            call!(swap(value: $value, order: Ordering) -> $value);
            call!(compare_exchange(
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering
            ) -> Result<$value, $value>);
            call!(compare_exchange_weak(
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering
            ) -> Result<$value, $value>);
            $(call!($fetch(value: $value, order: Ordering) -> $value);)*
        }

        impl Default for $name {
            #[track_caller]
            fn default() -> Self {
                Self::new(Default::default())
            }
        }

        impl From<$value> for $name {
            #[track_caller]
            fn from(value: $value) -> Self {
                Self::new(value)
            }
        }
    };
}

macro_rules! call {
    ($name:ident($($arg:ident: $type:ty),*) -> $result:ty) => {
        #[track_caller]
        pub(crate) fn $name(&self, $($arg: $type),*) -> $result {
            match self {
                Self::Loom(atomic) => atomic.$name($($arg),*),
                Self::Shuttle(atomic) => atomic.$name($($arg),*),
            }
        }
    };
}

macro_rules! integer {
    ($name:ident, $value:ty) => {
        atomic!(
            $name, $value,
            fetch_add fetch_sub fetch_max fetch_min fetch_and fetch_nand fetch_or
            fetch_xor
        );
    };
}

atomic!(AtomicBool, bool, fetch_and fetch_nand fetch_or fetch_xor);
integer!(AtomicI64, i64);
integer!(AtomicU32, u32);
integer!(AtomicU64, u64);
integer!(AtomicUsize, usize);

#[derive(Debug)]
pub(crate) enum Arc<T: ?Sized> {
    Loom(loom::sync::Arc<T>),
    Shuttle(shuttle::sync::Arc<T>),
}

impl<T> Arc<T> {
    #[track_caller]
    pub(crate) fn new(value: T) -> Self {
        match is_shuttle() {
            false => Self::Loom(loom::sync::Arc::new(value)),
            true => Self::Shuttle(shuttle::sync::Arc::new(value)),
        }
    }

    #[track_caller]
    pub(crate) fn try_unwrap(this: Self) -> Result<T, Self> {
        match this {
            Self::Loom(arc) => {
                loom::sync::Arc::try_unwrap(arc).map_err(Self::Loom)
            }
            Self::Shuttle(arc) => {
                shuttle::sync::Arc::try_unwrap(arc).map_err(Self::Shuttle)
            }
        }
    }
}

impl<T: ?Sized> Arc<T> {
    #[track_caller]
    pub(crate) fn strong_count(this: &Self) -> usize {
        match this {
            Self::Loom(arc) => loom::sync::Arc::strong_count(arc),
            Self::Shuttle(arc) => shuttle::sync::Arc::strong_count(arc),
        }
    }

    #[track_caller]
    pub(crate) fn get_mut(this: &mut Self) -> Option<&mut T> {
        match this {
            Self::Loom(arc) => loom::sync::Arc::get_mut(arc),
            Self::Shuttle(arc) => shuttle::sync::Arc::get_mut(arc),
        }
    }

    pub(crate) fn ptr_eq(this: &Self, other: &Self) -> bool {
        std::ptr::eq(&raw const **this, &raw const **other)
    }
}

impl<T: ?Sized> Clone for Arc<T> {
    #[track_caller]
    fn clone(&self) -> Self {
        match self {
            Self::Loom(arc) => Self::Loom(arc.clone()),
            Self::Shuttle(arc) => Self::Shuttle(arc.clone()),
        }
    }
}

impl<T: ?Sized> Deref for Arc<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Loom(arc) => arc,
            Self::Shuttle(arc) => arc,
        }
    }
}

impl<T: Default> Default for Arc<T> {
    #[track_caller]
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> From<T> for Arc<T> {
    #[track_caller]
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

#[derive(Debug)]
pub(crate) enum Mutex<T> {
    Loom(loom::sync::Mutex<T>),
    Shuttle(shuttle::sync::Mutex<T>),
}

#[derive(Debug)]
pub(crate) enum MutexGuard<'a, T> {
    Loom(loom::sync::MutexGuard<'a, T>),
    Shuttle(shuttle::sync::MutexGuard<'a, T>),
}

impl<T> Mutex<T> {
    #[track_caller]
    pub(crate) fn new(value: T) -> Self {
        match is_shuttle() {
            false => Self::Loom(loom::sync::Mutex::new(value)),
            true => Self::Shuttle(shuttle::sync::Mutex::new(value)),
        }
    }

    #[track_caller]
    pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        match self {
            Self::Loom(lock) => guard(lock.lock(), MutexGuard::Loom),
            Self::Shuttle(lock) => guard(lock.lock(), MutexGuard::Shuttle),
        }
    }

    #[track_caller]
    pub(crate) fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        match self {
            Self::Loom(lock) => try_guard(lock.try_lock(), MutexGuard::Loom),
            Self::Shuttle(lock) => {
                try_guard(lock.try_lock(), MutexGuard::Shuttle)
            }
        }
    }

    pub(crate) fn get_mut(&mut self) -> LockResult<&mut T> {
        match self {
            Self::Loom(lock) => lock.get_mut(),
            Self::Shuttle(lock) => lock.get_mut(),
        }
    }

    pub(crate) fn into_inner(self) -> LockResult<T> {
        match self {
            Self::Loom(lock) => lock.into_inner(),
            Self::Shuttle(lock) => lock.into_inner(),
        }
    }
}

fn guard<A, B>(result: LockResult<A>, wrap: fn(A) -> B) -> LockResult<B> {
    match result {
        Ok(guard) => Ok(wrap(guard)),
        Err(error) => Err(PoisonError::new(wrap(error.into_inner()))),
    }
}

fn try_guard<A, B>(
    result: TryLockResult<A>,
    wrap: fn(A) -> B,
) -> TryLockResult<B> {
    match result {
        Ok(guard) => Ok(wrap(guard)),
        Err(TryLockError::WouldBlock) => Err(TryLockError::WouldBlock),
        Err(TryLockError::Poisoned(error)) => {
            Err(PoisonError::new(wrap(error.into_inner())).into())
        }
    }
}

impl<T: Default> Default for Mutex<T> {
    #[track_caller]
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> From<T> for Mutex<T> {
    #[track_caller]
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Loom(guard) => guard,
            Self::Shuttle(guard) => guard,
        }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match self {
            Self::Loom(guard) => guard,
            Self::Shuttle(guard) => guard,
        }
    }
}

//! An `Arc` behind a mutex, which `load` holds while it clones the `Arc`.

use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::{Arc, Mutex};

pub struct Swap<T> {
    shared: Arc<Shared<T>>,
}

pub struct Reader<T> {
    shared: Arc<Shared<T>>,
}

pub struct Guard<'a, T> {
    value: Arc<T>,
    reader: PhantomData<(&'a Reader<T>, *const T)>,
}

struct Shared<T> {
    current: Mutex<Arc<T>>,
    readers: Mutex<usize>,
}

impl<T: Send + Sync> Swap<T> {
    pub fn new(value: T, readers: usize) -> Self {
        let current = Mutex::new(Arc::new(value));
        let readers = Mutex::new(readers);
        Self { shared: Arc::new(Shared { current, readers }) }
    }

    pub fn reader(&self) -> Option<Reader<T>> {
        let mut free = self.shared.readers.lock().unwrap();
        *free = free.checked_sub(1)?;
        Some(Reader { shared: Arc::clone(&self.shared) })
    }

    pub fn store(&self, value: T) {
        let mut current = self.shared.current.lock().unwrap();
        let old = std::mem::replace(&mut *current, Arc::new(value));
        drop(current);
        drop(old);
    }
}

impl<T> Reader<T> {
    pub fn load(&mut self) -> Guard<'_, T> {
        let value = Arc::clone(&self.shared.current.lock().unwrap());
        Guard { value, reader: PhantomData }
    }
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        *self.shared.readers.lock().unwrap() += 1;
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Clone for Swap<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

//! The payload of a caught panic.

use std::any::Any;
use std::mem;
use std::panic::{self, AssertUnwindSafe};

/// The payload of a caught panic, which can be dropped safely.
///
/// The payload of `panic_any` may be a value whose destructor panics. If code
/// that has caught a panic drops the plain payload, this second panic unwinds
/// through that code. Dropping a `Payload` never panics.
///
/// ```
/// use std::panic::{catch_unwind, panic_any};
/// use week03::payload::Payload;
///
/// struct PanicsOnDrop;
///
/// impl Drop for PanicsOnDrop {
///     fn drop(&mut self) {
///         panic!("on purpose: in the destructor of a payload");
///     }
/// }
///
/// let payload = catch_unwind(|| panic_any(PanicsOnDrop)).unwrap_err();
/// drop(Payload::new(payload));
/// ```
#[derive(Debug)]
pub struct Payload(Option<Box<dyn Any + Send>>);

impl Payload {
    /// Takes the payload that `catch_unwind` or a `JoinError` returns.
    pub fn new(payload: Box<dyn Any + Send>) -> Self {
        Self(Some(payload))
    }

    /// Raises the panic again, without a call of the panic hook.
    ///
    /// # Panics
    ///
    /// Always.
    pub fn resume(mut self) -> ! {
        let payload = self.0.take().expect("taken only here and on drop");
        panic::resume_unwind(payload)
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        let payload = self.0.take();
        let dropped = panic::catch_unwind(AssertUnwindSafe(|| drop(payload)));
        if let Err(second) = dropped {
            // The destructor of this payload may panic, too: leak it.
            mem::forget(second);
        }
    }
}

//! What the pool's protocol is made of: the standard library's, or, under `--cfg loom`, that of a model checker, which runs
//! a test under every order of events and every value that the memory model allows a load to see.
//!
//! `tests/model.rs` says how to run the model.

#[cfg(not(loom))]
mod chosen {
    pub(crate) use std::hint::spin_loop as pause;
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
    pub(crate) use std::sync::{Arc, Mutex, mpsc};
    pub(crate) use std::thread::{JoinHandle, park, yield_now};

    /// A cell that several threads share; who may look at it when is the protocol's matter.
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) const fn new(value: T) -> Self {
            UnsafeCell(std::cell::UnsafeCell::new(value))
        }

        /// Hands out the address, to be read.
        pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }

        /// Hands out the address, to be written.
        pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }

    /// The stack of a thread, as the standard library makes it.
    const STACK_BYTES: usize = 2 << 20;

    pub(crate) fn spawn(name: String, f: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
        // A thread that starts and then has no memory for its name would end the process.
        cotangent_host::Memory::default().ask(STACK_BYTES).map_err(std::io::Error::other)?;
        std::thread::Builder::new().name(name).spawn(f)
    }

    pub(crate) fn elapsed(start: std::time::Instant) -> std::time::Duration {
        start.elapsed()
    }
}

#[cfg(loom)]
mod chosen {
    pub(crate) use loom::cell::UnsafeCell;
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
    pub(crate) use loom::sync::{Arc, Mutex, mpsc};
    /// A model would look in vain for ever; whoever waits lets the others go on.
    pub(crate) use loom::thread::yield_now as pause;
    pub(crate) use loom::thread::{JoinHandle, park, yield_now};

    pub(crate) fn spawn(name: String, f: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
        loom::thread::Builder::new().name(name).spawn(f)
    }

    /// A model has no time: it must take the same way whenever it is run.
    pub(crate) fn elapsed(_: std::time::Instant) -> std::time::Duration {
        std::time::Duration::ZERO
    }
}

pub(crate) use chosen::*;

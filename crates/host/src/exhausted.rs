//! The end of a program that runs out of memory: an error, not an abort.
//!
//! Why it exists: whoever needs much asks first ([`Memory`](crate::Memory)), but a program is made of many small allocations that
//! nobody asks for, and the language ends the process by a signal where one of those is refused. A library cannot change that; a
//! program can, by its allocator.
//!
//! Assumes: whoever can do without memory says so by [`refusable`]. Promises: any other refusal ends the process with exit code 1
//! and a line on the standard error that says how much was asked for.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{self, Write};

thread_local! {
    /// Whether this thread takes a refusal.
    static REFUSABLE: Cell<bool> = const { Cell::new(false) };
}

/// Calls `f`, which takes it that memory is refused.
pub fn refusable<R>(f: impl FnOnce() -> R) -> R {
    let before = REFUSABLE.replace(true);
    let result = f();
    REFUSABLE.set(before);
    result
}

/// The system's allocator; a refusal that nobody takes ends the process with an error. For programs:
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: cotangent_host::OrExit = cotangent_host::OrExit;
/// # assert!(cotangent_host::refusable(|| Vec::<u8>::new().try_reserve(1 << 60)).is_err());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct OrExit;

// SAFETY: every call goes to the system's allocator as it is, and so does what that answers.
unsafe impl GlobalAlloc for OrExit {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller promises what the system's allocator asks for.
        granted(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        granted(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, n_bytes: usize) -> *mut u8 {
        // SAFETY: as above.
        granted(unsafe { System.realloc(at, layout, n_bytes) }, n_bytes)
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

/// What the system has answered, unless that is a refusal that nobody takes.
fn granted(address: *mut u8, n_bytes: usize) -> *mut u8 {
    if address.is_null() && !REFUSABLE.try_with(Cell::get).unwrap_or(false) {
        end(n_bytes);
    }
    address
}

/// Says so, without memory, and ends the process.
#[cold]
fn end(n_bytes: usize) -> ! {
    let mut line = [0; 128];
    let mut rest = &mut line[..];
    let _ = writeln!(rest, "error[E0309]: the work takes {n_bytes} B more of memory, which the system refuses");
    let n_left = rest.len();
    let _ = io::stderr().write_all(&line[..line.len() - n_left]);
    std::process::exit(1)
}

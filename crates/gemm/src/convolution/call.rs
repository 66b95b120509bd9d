//! What the threads of a call share, and what each has of its own.

use super::lines::Room;
use crate::kernel::KernelSet;
use crate::product::Epilogue;

/// One call: everything its threads read.
pub(super) struct Call<'a, T: 'static> {
    pub kernels: &'static KernelSet<T>,
    pub a: *const T,
    pub b: *const T,
    pub c: *mut T,
    pub epilogue: Option<&'a Epilogue<'a>>,
    /// Memory that all threads share, then that of each.
    pub shared: *mut u8,
    pub shared_bytes: usize,
    /// Ends of the parts of a thread's memory: zeros, lines, marks, table, result.
    pub ends: [usize; 5],
}

// SAFETY: threads read the operands, write disjoint rectangles of the result and disjoint parts of the workspace, and read what
// others wrote there only after they have met; the caller of `run` vouches for operands and result.
unsafe impl<T> Sync for Call<'_, T> {}

/// A thread's own memory.
pub(super) struct Memory<T> {
    pub room: Room<T>,
    /// Rows of the result under way.
    pub c: *mut T,
}

impl<T> Call<'_, T> {
    /// The memory of one thread.
    pub fn own(&self, part: usize) -> Memory<T> {
        let start = self.shared.wrapping_add(self.shared_bytes + part * self.ends[4]);
        let at = |k: usize| start.wrapping_add(if k == 0 { 0 } else { self.ends[k - 1] });
        let room = Room { zeros: at(0).cast(), lines: at(1).cast(), copied: at(2), starts: at(3).cast() };
        Memory { room, c: at(4).cast() }
    }
}

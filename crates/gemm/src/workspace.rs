//! The memory for packed panels, kept from one product to the next.

use std::mem::MaybeUninit;

/// Bytes of a cache line, to which everything in a workspace is aligned.
pub(crate) const LINE: usize = 64;

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "only its size and alignment matter")] [u8; LINE]);

/// Scratch memory for products, aligned to cache lines. It grows to what the largest product needs and never
/// shrinks, so that a run after the first allocates nothing.
#[derive(Default)]
pub struct Workspace {
    lines: Box<[MaybeUninit<Line>]>,
}

impl std::fmt::Debug for Workspace {
    fn fmt(&self, fmt: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        fmt.debug_struct("Workspace").field("bytes", &self.bytes()).finish()
    }
}

impl Workspace {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that products of up to `bytes` (see [`Gemm::workspace_bytes`](crate::Gemm::workspace_bytes)) need not
    /// grow.
    pub fn with_bytes(bytes: usize) -> Self {
        let mut workspace = Self::new();
        workspace.reserve(bytes);
        workspace
    }

    /// Makes room for `bytes`. The contents do not survive growth, and nobody relies on them between runs.
    pub fn reserve(&mut self, bytes: usize) {
        if bytes > self.bytes() {
            // Free the old memory first: both together may be too much.
            self.lines = Box::default();
            self.lines = Box::new_uninit_slice(bytes.div_ceil(LINE));
        }
    }

    /// The present size.
    pub fn bytes(&self) -> usize {
        self.lines.len() * LINE
    }

    /// The start of the memory.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.lines.as_mut_ptr().cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_aligned_and_never_shrinks() {
        let mut workspace = Workspace::with_bytes(100);
        assert_eq!(workspace.bytes(), 128);
        let before = workspace.as_mut_ptr();
        workspace.reserve(64);
        assert_eq!((workspace.bytes(), workspace.as_mut_ptr()), (128, before));
        workspace.reserve(1000);
        assert_eq!(workspace.as_mut_ptr() as usize % LINE, 0);
        assert!(workspace.bytes() >= 1000);
    }
}

//! The memory for packed panels, kept from one product to the next.

use cotangent_host::{Block, Refused};

pub(crate) use cotangent_host::LINE;

/// Scratch memory for products, aligned to cache lines. It grows to what the largest product needs and never
/// shrinks, so that a run after the first allocates nothing.
#[derive(Debug, Default)]
pub struct Workspace {
    block: Block,
}

impl Workspace {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that products of up to `bytes` (see [`Gemm::workspace_bytes`](crate::Gemm::workspace_bytes)) need not
    /// grow.
    ///
    /// # Errors
    /// [`Refused`] if the system does not give so much.
    pub fn with_bytes(bytes: usize) -> Result<Self, Refused> {
        let mut workspace = Self::new();
        workspace.reserve(bytes)?;
        Ok(workspace)
    }

    /// Makes room for `bytes`. The contents do not survive growth, and nobody relies on them between runs.
    ///
    /// # Errors
    /// [`Refused`] if the system does not give so much; the workspace is empty then.
    pub fn reserve(&mut self, bytes: usize) -> Result<(), Refused> {
        if bytes > self.bytes() {
            // Free the old memory first: both together may be too much.
            self.block = Block::default();
            self.block = Block::zeroed(bytes.next_multiple_of(LINE))?;
        }
        Ok(())
    }

    /// Makes room for a product under way.
    ///
    /// # Panics
    /// If the system refuses the memory.
    pub(crate) fn reserve_now(&mut self, bytes: usize) {
        if let Err(refused) = self.reserve(bytes) {
            panic!("a product needs a workspace: {refused}");
        }
    }

    /// The present size.
    pub fn bytes(&self) -> usize {
        self.block.n_bytes()
    }

    /// The start of the memory.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.block.as_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_aligned_and_never_shrinks() {
        let mut workspace = Workspace::with_bytes(100).unwrap();
        assert_eq!(workspace.bytes(), 128);
        let before = workspace.as_ptr();
        workspace.reserve(64).unwrap();
        assert_eq!((workspace.bytes(), workspace.as_ptr()), (128, before));
        workspace.reserve(1000).unwrap();
        assert_eq!(workspace.as_ptr() as usize % LINE, 0);
        assert!(workspace.bytes() >= 1000);
    }

    #[test]
    fn too_much_is_an_error() {
        let mut workspace = Workspace::with_bytes(64).unwrap();
        assert_eq!(workspace.reserve(1 << 62).map_err(|refused| refused.n_bytes), Err(1 << 62));
        assert_eq!(workspace.bytes(), 0);
    }
}

//! Memory at a fixed address, aligned to cache lines, that the system may refuse.
//!
//! Why not a `Box` or a `Vec`: kernels and products hold raw addresses into a block while its owner is moved about, and the
//! language lets only raw memory be used so: moving a `Box` claims its memory for the `Box` alone.
//!
//! Promises: the address does not change while the block lives, wherever the block itself goes; nobody makes a reference
//! into the memory but [`Block::bytes`] and [`Block::bytes_mut`], and those end with their borrow of the block.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fmt;
use std::num::NonZero;
use std::ptr::NonNull;
use std::slice;

use crate::exhausted::refusable;
use crate::memory::{Because, Refused};

/// Bytes of a cache line, to which blocks are aligned.
pub const LINE: usize = 64;

/// Zeroed bytes at a fixed address, aligned to a cache line.
pub struct Block {
    start: NonNull<u8>,
    n_bytes: usize,
}

// SAFETY: a block owns its bytes, which belong to no thread.
unsafe impl Send for Block {}
// SAFETY: through a shared block its bytes are only read; whoever writes by address answers for that.
unsafe impl Sync for Block {}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({} bytes)", self.n_bytes)
    }
}

impl Default for Block {
    /// No bytes.
    fn default() -> Self {
        Block { start: NonNull::without_provenance(const { NonZero::new(LINE).unwrap() }), n_bytes: 0 }
    }
}

impl Block {
    /// So many zeros. Whoever needs much asks [`Memory`](crate::Memory) for all of it first.
    ///
    /// # Errors
    /// [`Refused`] if the allocator does not give them.
    pub fn zeroed(n_bytes: usize) -> Result<Self, Refused> {
        if n_bytes == 0 {
            return Ok(Block::default());
        }
        let refused = Refused { n_bytes, because: Because::Allocator };
        let layout = Layout::from_size_align(n_bytes, LINE).map_err(|_| refused)?;
        // SAFETY: the size is not zero.
        let start = NonNull::new(refusable(|| unsafe { alloc_zeroed(layout) })).ok_or(refused)?;
        Ok(Block { start, n_bytes })
    }

    /// How many bytes there are.
    pub fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// The address of the first byte, for reads and writes of all bytes while the block lives. Whoever writes sees to it that
    /// nobody else looks at them meanwhile, [`Block::bytes`] included.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: so many bytes, initialized (they were zeroed), are this block's; whoever writes by address does not do so
        // while they are borrowed.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.n_bytes) }
    }

    /// The bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and the block is borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.n_bytes) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.n_bytes > 0 {
            // SAFETY: it was allocated with this very layout, which was checked then.
            unsafe { dealloc(self.start.as_ptr(), Layout::from_size_align_unchecked(self.n_bytes, LINE)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What kernels do: addresses are kept, the block moves, others read and write its bytes in between.
    #[test]
    fn addresses_stay_while_the_block_moves() {
        let mut block = Block::zeroed(100).unwrap();
        let kept = block.as_ptr();
        assert_eq!((kept as usize % LINE, block.n_bytes()), (0, 100));
        assert!(block.bytes().iter().all(|&byte| byte == 0));
        block.bytes_mut()[7] = 3;
        let mut homes = vec![block];
        homes.push(Block::default());
        homes.swap(0, 1);
        // SAFETY: the block lives, and nobody has borrowed its bytes.
        unsafe { *kept.add(7) += 1 };
        assert_eq!(homes[1].bytes()[7], 4);
        homes[1].bytes_mut()[7] = 9;
        // SAFETY: as before.
        assert_eq!(unsafe { *kept.add(7) }, 9);
    }

    #[test]
    fn no_bytes_are_a_block_too() {
        let mut block = Block::zeroed(0).unwrap();
        assert_eq!((block.bytes(), block.n_bytes()), (&[][..], 0));
        assert!(block.bytes_mut().is_empty() && (block.as_ptr() as usize).is_multiple_of(LINE));
    }

    #[test]
    fn what_the_system_does_not_have_is_an_error() {
        for n_bytes in [usize::MAX, isize::MAX as usize + 1, isize::MAX as usize - LINE] {
            let refused = Block::zeroed(n_bytes).unwrap_err();
            assert_eq!(refused, Refused { n_bytes, because: Because::Allocator });
        }
    }
}

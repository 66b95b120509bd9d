//! Packing: copying a block of A or B into panels that a micro-kernel reads from front to back.
//!
//! A panel holds `width` adjacent rows of A (or columns of B) over one K block, the `width` values of one k next
//! to each other. Packed memory is contiguous, so that the kernel's loads miss neither cache sets nor pages,
//! whatever strides the matrix has; the copy costs O(1/n) (or O(1/m)) of the product.

use crate::kernel::KernelSet;
use crate::number::Number;

/// Rows of K that are copied before going to the next panel, where a panel's own rows are far apart in memory:
/// the lines they touch are still in L1 when the neighboring panel needs their other half.
pub(crate) const PACK_DEPTH: usize = 64;

/// What to pack: value (i, k) is at `from + i * width_stride + k * depth_stride`.
pub(crate) struct Source<T> {
    pub from: *const T,
    pub width_stride: isize,
    pub depth_stride: isize,
    /// How many elements further that lies which will be packed next: it is fetched meanwhile.
    pub ahead: isize,
}

/// Packs `width` × `depth` values into `to[k * to_stride + i]` and fills `i` in `width..to_stride` with zeros.
///
/// # Safety
/// The CPU has the features of `kernels`; `source` is readable for `width` × `depth` values, `to` is writable
/// for `depth * to_stride`, `width <= to_stride`, and they do not overlap.
pub(crate) unsafe fn pack_panel<T: Number>(
    kernels: &KernelSet<T>,
    source: &Source<T>,
    width: usize,
    depth: usize,
    to: *mut T,
    to_stride: usize,
) {
    let &Source { from, width_stride, depth_stride, ahead } = source;
    if width_stride == 1 {
        // SAFETY: what the caller promises.
        unsafe { (kernels.copy)(from, depth_stride, to, to_stride, width, depth, ahead) }
    } else if depth_stride == 1 {
        // SAFETY: what the caller promises.
        unsafe { (kernels.transpose)(from, width_stride, to, to_stride, width, depth) }
    } else {
        for k in 0..depth {
            for i in 0..width {
                // SAFETY: `i < width` and `k < depth`, for which the caller vouches.
                unsafe {
                    *to.add(k * to_stride + i) = *from.offset(i as isize * width_stride + k as isize * depth_stride);
                }
            }
        }
    }
    if width < to_stride {
        for k in 0..depth {
            for i in width..to_stride {
                // SAFETY: `i < to_stride` and `k < depth`, for which the caller vouches.
                unsafe { *to.add(k * to_stride + i) = T::ZERO };
            }
        }
    }
}

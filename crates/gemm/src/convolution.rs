//! Convolutions and their adjoints.

use cotangent_host::Target;
use cotangent_host::float::in_default;
use cotangent_pool::Pool;
use cotangent_scalar::{Conv, Direction};

use crate::element::Element;
use crate::kernel::KernelSet;
use crate::product::{Epilogue, EpilogueNeeds};
use crate::workspace::Workspace;

/// One of the three sums of a convolution, made once and run many times.
pub struct Convolution<T: Element> {
    conv: Conv,
    direction: Direction,
    epilogue: EpilogueNeeds,
    kernels: &'static KernelSet<T>,
}

impl<T: Element> std::fmt::Debug for Convolution<T> {
    fn fmt(&self, fmt: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        fmt.debug_struct("Convolution").field("conv", &self.conv).field("direction", &self.direction).finish()
    }
}

impl<T: Element> Convolution<T> {
    /// `None` if this build has no kernels for the target's instruction set.
    pub fn new(conv: Conv, direction: Direction, epilogue: EpilogueNeeds, target: &Target) -> Option<Self> {
        Some(Convolution { conv, direction, epilogue, kernels: T::kernels(target.isa())? })
    }

    /// Bytes of workspace that a run on `n_threads` threads needs.
    pub fn workspace_bytes(&self, _n_threads: usize) -> usize {
        let [rows, cols] = self.conv.matrix(self.direction);
        if self.epilogue.owns_c { rows * cols * size_of::<T>() } else { 0 }
    }

    /// What it is predicted to take on one thread, in nanoseconds, without the epilogue.
    pub fn nanos(&self) -> f64 {
        self.conv.multiply_adds() as f64 / (self.kernels.nr as f64)
    }

    /// How it is made, in words.
    pub fn way(&self) -> String {
        format!("{} convolution", self.direction.name())
    }

    /// Computes the result, row-major, its rows and columns as [`Conv::matrix`] says: `a`, `b` and `c` are the addresses of the
    /// first elements of the operands, row-major without gaps, and of the result.
    ///
    /// # Safety
    /// The CPU has the instruction set of the target that this was made for; all elements of the operands are readable and those
    /// of the result writable for the whole call (none of the result if the epilogue owns it), and the result is not where the
    /// operands are; nobody else uses them meanwhile, except the epilogue on the rectangles it is given.
    ///
    /// # Panics
    /// If the epilogue panics, or the workspace has to grow and the system refuses the memory.
    pub unsafe fn run(
        &self,
        pool: &Pool,
        [a, b]: [*const T; 2],
        c: *mut T,
        epilogue: Option<&Epilogue<'_>>,
        workspace: &mut Workspace,
    ) {
        let [rows, cols] = self.conv.matrix(self.direction);
        if rows == 0 || cols == 0 {
            return;
        }
        workspace.reserve_now(self.workspace_bytes(pool.n_threads()));
        let c = if self.epilogue.owns_c { workspace.as_ptr().cast() } else { c };
        in_default(|| {
            for row in 0..rows {
                for col in 0..cols {
                    let mut sum = T::ZERO;
                    self.conv.terms(self.direction, row, col, |of_a, of_b| {
                        // SAFETY: the terms lie in the operands, for which the caller vouches.
                        let (x, y) = unsafe { (of_a.map_or(T::ZERO, |at| *a.add(at)), *b.add(of_b)) };
                        sum = x.mul_add(y, sum);
                    });
                    // SAFETY: an element of the result, for which the caller vouches, or of the workspace.
                    unsafe { *c.add(row * cols + col) = sum };
                }
            }
            if let Some(epilogue) = epilogue {
                epilogue(0, 0..rows, 0..cols, c.cast());
            }
        });
    }
}

//! Dense matrix products, C = A·B or C += A·B, blocked for the caches and packed for the vector units.
//!
//! Knows nothing of graphs: it gets pointers and strides, and a callback (the *epilogue*) that it calls on every
//! finished rectangle of C while that is still in cache.
//!
//! **Bits are part of the semantics**, and [`cotangent_scalar::order`] states them. Every element of C is one chain of
//! fused multiply-adds over k in ascending order, `c = fma(a[i, k], b[k, j], c)`, from +0.0 or, when accumulating, from
//! the C there was. If C has one row or one column, the chain is divided into the lanes of row reductions; when
//! accumulating, their sum is added to C. Block sizes, instruction set, thread count, strides and batching cannot change
//! a bit of it (the sign and payload of a NaN excepted, which hardware does not define). This is why the K dimension is
//! never split between threads or accumulators: each K block after the first starts from what the one before left in C.
//!
//! Layout of the crate, in the order data flows: `plan` (shapes → kernels and block sizes, once), `drive` (the five
//! loops and the threads), `pack` (operands → panels), `kernel` (panels → a tile of C); and `vector` (products with a
//! vector).
//!
//! ```
//! use cotangent_gemm::{Call, Gemm, MatMut, MatRef, Workspace};
//! use cotangent_pool::Pool;
//!
//! let (a, b, mut c) = ([1.0_f32, 2.0, 3.0, 4.0], [5.0_f32, 6.0, 7.0, 8.0], [f32::NAN; 4]);
//! let gemm = Gemm::<f32>::new(2, 2, 2);
//! let (a, b) = (MatRef::row_major(a.as_ptr(), 2, 2), MatRef::row_major(b.as_ptr(), 2, 2));
//! let c_view = MatMut::row_major(c.as_mut_ptr(), 2, 2);
//! // SAFETY: the arrays outlive the call, and C is not one of the operands.
//! unsafe { gemm.run(&Pool::new(1), a, b, c_view, &Call::default(), &mut Workspace::new()) };
//! assert_eq!(c, [19.0, 22.0, 43.0, 50.0]);
//! ```

mod cpu;
mod drive;
mod element;
mod kernel;
mod pack;
mod plan;
mod vector;
mod view;
mod workspace;

pub use cotangent_host::Refused;
pub use cpu::IsaChoice;
pub use element::Element;
pub use plan::{Batch, Blocking, Call, Epilogue, EpilogueNeeds, Gemm, Options};
pub use view::{MatMut, MatRef};
pub use workspace::Workspace;

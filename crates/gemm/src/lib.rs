//! Dense matrix products, C = A·B, blocked for the caches and packed for the vector units.
//!
//! Knows nothing of graphs: it gets extents, strides and pointers, and a callback (the *epilogue*) that it calls on every
//! finished rectangle of C while that is still in cache.
//!
//! **Bits are part of the semantics**, and [`cotangent_scalar::order`] states them. Every element of C is one chain of
//! fused multiply-adds over k in ascending order, `c = fma(a[i, k], b[k, j], c)`, from +0.0. If C has one row or one column,
//! the chain is divided into the lanes of row reductions. Ways, block sizes, instruction set, thread count, strides and
//! batching cannot change a bit of it (the sign and payload of a NaN excepted, which hardware does not define). This is why
//! the K dimension is never split between threads or accumulators: each K block after the first starts from what the one
//! before left in C.
//!
//! **Ways are values.** [`ways`] lists all that are legal for a [`Product`] on a [`Target`], each with its condition and its
//! predicted time, the one to take first. [`Gemm::new`] takes that one, [`Gemm::by`] any other.
//!
//! Layout of the crate, from the ground up; no file imports one further down. `number`, `workspace`, `kernel` (panels → a tile
//! of C), `element` (which kernels), `pack` (operands → panels), `product` (what is to be computed), `way` (how), `time` (how
//! long that takes), `choice` (which way), `shape` (block sizes and memory of a way), `drive` (the five loops and the threads)
//! `vector` (products with a vector), `gemm` (a product with its way) and `convolution` (sums over windows).
//!
//! ```
//! use cotangent_gemm::{Gemm, Product, Target, Workspace};
//! use cotangent_pool::Pool;
//!
//! let (a, b, mut c) = ([1.0_f32, 2.0, 3.0, 4.0], [5.0_f32, 6.0, 7.0, 8.0], [f32::NAN; 4]);
//! let gemm = Gemm::<f32>::new(Product::new(2, 2, 2), Target::here()).expect("kernels for this machine");
//! let (operands, workspace) = ([a.as_ptr(), b.as_ptr()], &mut Workspace::new());
//! // SAFETY: the arrays outlive the call, C is not one of the operands, and the target is this machine.
//! unsafe { gemm.run(&Pool::new(1), operands, c.as_mut_ptr(), None, workspace) };
//! assert_eq!(c, [19.0, 22.0, 43.0, 50.0]);
//! ```

mod choice;
mod convolution;
mod drive;
mod element;
mod gemm;
mod kernel;
mod number;
mod pack;
mod product;
mod shape;
mod time;
mod vector;
mod way;
mod workspace;

pub use choice::{Candidate, ways};
pub use convolution::{ConvWay, Convolution};
pub use cotangent_host::{Isa, Refused, Target};
pub use element::Element;
pub use gemm::Gemm;
pub use product::{Epilogue, EpilogueNeeds, Product, Strides};
pub use way::{Blocking, Grid, Operand, Order, Pieces, Way};
pub use workspace::Workspace;

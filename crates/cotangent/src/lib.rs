//! Cotangent compiles a neural network, its gradient and its optimiser update into one static program, and runs that
//! program many times.
//!
//! ```
//! use cotangent::prelude::*;
//! use ndarray::array;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A network is defined once; the gradient and the update are part of the same graph.
//! let graph = build(|g| {
//!     let x = g.input("x", F32, [4, 2]);
//!     let y = g.input("y", F32, [4, 1]);
//!     let logits = x.dense("hidden", 8).tanh().dense("out", 1);
//!     let loss = logits.bce_with_logits(y).mean();
//!     g.output("loss", loss);
//!     g.minimize(loss, Adam::new(0.05));
//! })?;
//!
//! // It is compiled once, and stepped many times.
//! let runtime = Runtime::new(Threads::Exactly(1));
//! let mut session = Session::new(&runtime, Compiler::new().compile(&graph)?, Seed(1))?;
//! let x = array![[0.0f32, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]];
//! let y = array![[0.0f32], [1.0], [1.0], [0.0]];
//! let mut loss = f64::INFINITY;
//! for _ in 0..500 {
//!     loss = session.step(inputs![x, y])?.scalar("loss")?;
//! }
//! assert!(loss < 0.05, "{loss}");
//! # Ok(())
//! # }
//! ```
//!
//! Features, all of them on by default: `data` (datasets and files; brings flate2 and serde_json), `train` (the trainer, on `data`)
//! and `progress` (its progress bar; brings indicatif). Building, compiling and running graphs needs none of them.
//!
//! The rooms of the house, in the order in which data flows through them: [`graph`] (IR, ops, builder, text form,
//! interpreter), [`passes`], [`kernel`] (fusion, loops, plan), [`exec`] (compiler driver and sessions); beside them [`nn`],
//! `data` and `train`. `docs/ARCHITECTURE.md` is the map.
#![forbid(unsafe_code)]

#[cfg(feature = "data")]
pub use cotangent_data as data;
pub use cotangent_exec as exec;
pub use cotangent_graph as graph;
pub use cotangent_kernel as kernel;
pub use cotangent_nn as nn;
pub use cotangent_passes as passes;
pub use cotangent_scalar as scalar;
#[cfg(feature = "train")]
pub use cotangent_train as train;
/// The arrays that inputs and results are made of: the version that this crate was built with.
pub use ndarray;

/// What most programs need.
pub mod prelude {
    pub use cotangent_exec::{
        BackendChoice, Choice, CompileError, Compiler, Executable, Fusion, Fusions, HostTensor, Outputs, ProgramId,
        Runtime, Seed, Session, StageView, Store, StoreMut, Threads, Tuning, Ways, inputs,
    };
    pub use cotangent_graph::DType::{self, Bool, F32, F64, I32, I64, U8};
    pub use cotangent_graph::{
        Attention, Diag, Diags, Graph, GraphBuilder, Init, Mode, Shape, Tensor, TensorData, Type, build,
    };
    pub use cotangent_nn::{
        AdaDelta, AdaGrad, Adam, AdamW, AdaptiveMaxPool, AdaptiveMeanPool, BatchNorm, Border, Conv, ConvTransposed,
        CrossEntropyOptions, Dense, Dropout, Embedding, GaussianNoise, GlobalMaxPool, GlobalMeanPool, Group, GroupNorm,
        InstanceNorm, Lamb, Layer, LayerNorm, Layers, Layout, Lion, Losses, MaxPool, MeanPool, Metrics, Minimize,
        Momentum, MultiHeadAttention, NAdam, Nesterov, Optimizer, PRelu, Padding, ParamInfo, Positions, Recipe,
        Recurrent, RmsNorm, RmsProp, Schedule, Sequential, Sgd, Statistics, TransformerBlock, Tuned, UpdateCx,
        Whitening, function, global_norm, model, pruning, summary,
    };
}

/// The pages whose examples are run as tests.
#[cfg(all(doctest, feature = "progress"))]
mod pages {
    #[doc = include_str!("../../../README.md")]
    struct Readme;
    #[doc = include_str!("../../../docs/tour/graph.md")]
    struct TourGraph;
    #[doc = include_str!("../../../docs/tour/derivative.md")]
    struct TourDerivative;
    #[doc = include_str!("../../../docs/tour/rules.md")]
    struct TourRules;
    #[doc = include_str!("../../../docs/tour/fusion.md")]
    struct TourFusion;
    #[doc = include_str!("../../../docs/tour/kernels.md")]
    struct TourKernels;
    #[doc = include_str!("../../../docs/tour/memory.md")]
    struct TourMemory;
    #[doc = include_str!("../../../docs/tour/threads.md")]
    struct TourThreads;
    #[doc = include_str!("../../../docs/tour/loops.md")]
    struct TourLoops;
    #[doc = include_str!("../../../docs/tour/training.md")]
    struct TourTraining;
    #[doc = include_str!("../../../docs/training.md")]
    struct Training;
    #[doc = include_str!("../../../docs/inference.md")]
    struct Inference;
    #[doc = include_str!("../../../docs/errors.md")]
    struct Errors;
    #[doc = include_str!("../../../docs/knobs.md")]
    struct Knobs;
    #[doc = include_str!("../../../docs/adding-an-op.md")]
    struct AddingAnOp;
    #[doc = include_str!("../../../docs/adding-a-pass.md")]
    struct AddingAPass;
    #[doc = include_str!("../../../docs/from-dense-to-instruction.md")]
    struct FromDenseToInstruction;
    #[doc = include_str!("../../../docs/limits.md")]
    struct Limits;
}

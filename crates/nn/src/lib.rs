//! Layers, optimisers and metrics: extension traits that build graphs, and nothing else.
//!
//! Nothing here computes. A layer makes parameters and ops, an optimiser makes `grad` nodes, states and updates in the
//! same graph, a metric makes an output; the compiler sees one program. Activations and losses are ops and live with
//! their derivatives in `cotangent_graph`. Names are dotted and depend only on what the user wrote, so that checkpoints
//! and random streams stay valid when another layer comes or goes.
//!
//! ```
//! use cotangent_graph::DType::{F32, I64};
//! use cotangent_graph::build;
//! use cotangent_nn::{Adam, Layers, Metrics, Minimize};
//!
//! let graph = build(|g| {
//!     let x = g.input("x", F32, [32, 784]);
//!     let y = g.input("y", I64, [32]);
//!     let logits = x.dense("hidden", 128).relu().dense("out", 10);
//!     let loss = logits.cross_entropy(y).mean();
//!     g.output("loss", loss);
//!     g.output("accuracy", logits.accuracy(y));
//!     g.minimize(loss, Adam::new(1e-3));
//! })
//! .expect("the model is well formed");
//! assert!(graph.source("hidden.weight").is_some() && graph.source("adam.m.hidden.weight").is_some());
//! ```
#![forbid(unsafe_code)]

pub mod layers;
pub mod losses;
pub mod metrics;
pub mod optim;
mod summary;

pub use layers::{
    AdaptiveMaxPool, AdaptiveMeanPool, Around, BatchNorm, Border, Conv, ConvTransposed, Dense, Dropout, Embedding,
    GaussianNoise, Given, GlobalMaxPool, GlobalMeanPool, GroupNorm, InstanceNorm, Layer, LayerNorm, Layers, Layout,
    MaxPool, MeanPool, MultiHeadAttention, PRelu, Padding, Positions, Recurrent, RmsNorm, Sequences, Sequential,
    Statistics, TransformerBlock, Whitening, function, model,
};
pub use losses::{CrossEntropyOptions, Losses};
pub use metrics::Metrics;
pub use optim::{
    AdaDelta, AdaGrad, Adam, AdamW, Group, Lamb, Lion, Minimize, Momentum, NAdam, Nesterov, Optimizer, ParamInfo,
    Recipe, RmsProp, Schedule, Sgd, Tuned, UpdateCx, global_norm, pruning,
};
pub use summary::{Summary, SummaryRow, product_flops, summary};

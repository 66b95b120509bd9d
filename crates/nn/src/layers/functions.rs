//! Closures as models and as parts of them.
//!
//! A closure that takes and returns tensors of whatever graph it is called in must be written where its type is asked for,
//! since the compiler does not guess that it is meant for every graph. These functions ask, and return the closure as it is.

use cotangent_graph::{GraphBuilder, Tensor};

/// The closure as it is, known to be a model for every graph: for one that stands in a variable.
///
/// ```
/// use cotangent_nn::{Layers, model};
///
/// let width = 16;
/// let net = model(move |_, x| x.dense("hidden", width).relu().dense("out", 2));
/// // As a trainer takes it.
/// fn takes(_: impl for<'g> Fn(&'g cotangent_graph::GraphBuilder, cotangent_graph::Tensor<'g>) -> cotangent_graph::Tensor<'g>) {}
/// takes(net);
/// ```
pub fn model<M>(model: M) -> M
where
    M: for<'g> Fn(&'g GraphBuilder, Tensor<'g>) -> Tensor<'g>,
{
    model
}

/// The closure as it is, known to be a function of tensors of every graph: a helper inside of a model.
///
/// ```
/// use cotangent_graph::DType::F32;
/// use cotangent_graph::build;
/// use cotangent_nn::{Layers, function};
///
/// let scale = 0.5;
/// let soft = function(move |x| x * scale * x.sigmoid());
/// let graph = build(|g| g.output("y", soft(soft(g.input("x", F32, [4])))))?;
/// # Ok::<(), cotangent_graph::Diags>(())
/// ```
pub fn function<F>(function: F) -> F
where
    F: for<'g> Fn(Tensor<'g>) -> Tensor<'g>,
{
    function
}

//! Magnitude pruning: the program that makes masks.

use cotangent_graph::ops::source::PARAM;
use cotangent_graph::{DType, Diags, Graph, GraphBuilder, Init, Tensor, build};

use super::recipe::MASK;

/// How often the interval of the threshold is halved. After so many it is as narrow as two f32 next to each other.
const N_HALVINGS: usize = 30;

/// The program that prunes what `training` trains (Han et al. 2015): of each parameter whose optimiser has
/// [`Recipe::masked`](super::Recipe::masked), the smallest weights are set to zero and masked, so that training goes on
/// without them.
///
/// It works on the store of the training program. Its input `share`, an f32, is the share of each parameter's elements that
/// is zero afterwards, to be raised from call to call: what is masked stays masked. The output `kept.<param>` is the number
/// of weights left, an i32. The threshold is found by halving an interval: ties with it are zeroed too.
///
/// # Errors
/// `E0111` (no outputs) if nothing that `training` trains is masked.
pub fn pruning(training: &Graph) -> Result<Graph, Diags> {
    let states = training.states().filter_map(|(_, state)| state.name());
    let masks: Vec<(&str, &str)> = states.filter_map(|state| masked_param(training, state)).collect();
    build(|g| {
        if masks.is_empty() {
            return;
        }
        let share = g.input("share", DType::F32, []);
        for (mask, name) in masks {
            if let Some(id) = training.source(name) {
                let node = training.node(id);
                let init = node.init().copied().unwrap_or(Init::ZEROS);
                let (dtype, shape) = (node.ty.dtype(), node.ty.shape().clone());
                let weight = g.param(name, dtype, shape.clone(), init);
                let mask = g.state(mask, dtype, shape, Init::ONES);
                prune(g, name, weight, mask, share);
            }
        }
    })
}

/// A mask's name and that of its parameter, if the state is one.
fn masked_param<'a>(training: &Graph, state: &'a str) -> Option<(&'a str, &'a str)> {
    let name = &state[state.find(MASK)? + MASK.len()..];
    let param = training.source(name)?;
    training.node(param).is(&PARAM).then_some((state, name))
}

/// Declares what becomes of one weight.
#[track_caller]
fn prune<'g>(g: &'g GraphBuilder, name: &str, weight: Tensor<'g>, mask: Tensor<'g>, share: Tensor<'g>) {
    let n = weight.shape().n_elements();
    let size = (weight * mask).abs();
    let count = |mask: Tensor<'g>| mask.cast(DType::I32).sum();
    let wanted = ((1.0 - share.cast(DType::F64)) * n as f64).round().cast(DType::I32);
    let mut high = size.max();
    let mut low = -high;
    for _ in 0..N_HALVINGS {
        let middle = (low + high) * 0.5;
        let few = count(size.gt(middle.broadcast_to(size.shape()))).le(wanted);
        (low, high) = (few.select(low, middle), few.select(middle, high));
    }
    let kept = size.gt(high.broadcast_to(size.shape())) & mask.gt(mask.constant_like(0.0).broadcast_to(mask.shape()));
    let mask_next = kept.cast(mask.dtype());
    g.output(&format!("kept.{name}"), count(kept));
    g.update(mask, mask_next);
    g.update(weight, weight * mask_next);
}

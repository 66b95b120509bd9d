//! Weights of PyTorch's modules as those of the layers here.
//!
//! Why it exists: PyTorch keeps matrices as `[out, in]` and filters as `[out, in, spatial..]`, where layers here have the outputs last;
//! it calls gains weights, and keeps the weights of all layers and directions of a recurrent module in one place. Which of
//! these a tensor is its name does not tell, so whoever loads says which module stands where, and under what name the layer is.
//! Promises: nothing is read before a store has room for it; elements are copied; only the two biases of a cell that adds both are
//! added up. What no module claims stays as it is, so that [`load`](super::load) tells of it.

use std::collections::BTreeMap;

use cotangent_data::DataError;
use cotangent_data::safetensors::Unread;
use cotangent_graph::diag::nearest;
use cotangent_graph::{DType, HostTensor, TensorData, Type};
use cotangent_scalar::plain;

use super::Value;
use crate::TrainError;

/// A module of PyTorch, and so the layer that its weights are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Module {
    /// `nn.Linear`, for `Dense`.
    Linear,
    /// `nn.Conv1d` to `nn.Conv3d`, for `Conv`.
    Conv,
    /// `nn.ConvTranspose1d` to `nn.ConvTranspose3d`, for `ConvTransposed`.
    ConvTransposed,
    /// `nn.Embedding`, for `Embedding`.
    Embedding,
    /// `nn.BatchNorm*d`, `nn.LayerNorm`, `nn.GroupNorm`, `nn.InstanceNorm*d` and `nn.RMSNorm`, for the norms of these names. The number
    /// of batches that were averaged is left out.
    Norm,
    /// `nn.RNN` with tanh, for `Recurrent::rnn`.
    Rnn,
    /// `nn.LSTM`, for `Recurrent::lstm`.
    Lstm,
    /// `nn.GRU`, for `Recurrent::gru`.
    Gru,
    /// `nn.MultiheadAttention` that attends to its own operand, for `MultiHeadAttention`.
    Attention,
    /// `nn.MultiheadAttention` that attends to another sequence of as many features, for `MultiHeadAttention` with a memory.
    CrossAttention,
}

/// A weight of a layer that is made of tensors in a file when it is read: of one, of the sum of several, or of zeros.
#[derive(Clone, Debug)]
pub struct Weight<'a> {
    ty: Type,
    summands: Vec<Unread<'a>>,
}

impl Value for Weight<'_> {
    fn ty(&self) -> Type {
        self.ty.clone()
    }

    fn write(&self, to: &mut [u8]) -> Result<(), DataError> {
        let Some((first, others)) = self.summands.split_first() else {
            to.fill(0);
            return Ok(());
        };
        first.read_into(to)?;
        for other in others {
            let so_far = TensorData::from_native_bytes(self.ty.dtype(), self.ty.shape(), to);
            match (so_far, other.read()?) {
                (HostTensor::F32(x), HostTensor::F32(y)) => TensorData::from(&x + &y).write_native_bytes(to),
                (HostTensor::F64(x), HostTensor::F64(y)) => TensorData::from(&x + &y).write_native_bytes(to),
                _ => {}
            }
        }
        Ok(())
    }
}

impl<'a> From<Unread<'a>> for Weight<'a> {
    fn from(tensor: Unread<'a>) -> Self {
        Weight { ty: tensor.ty(), summands: vec![tensor] }
    }
}

/// The tensors of a `state_dict` under the names and in the forms of the layers here: for each module where it stands in the
/// `state_dict`, what it is, and the name of the layer. A module that is the whole `state_dict` stands at `""`. They are read when a
/// store has room for them.
///
/// ```no_run
/// # fn load_all(session: &mut cotangent_exec::Session) -> Result<(), Box<dyn std::error::Error>> {
/// use cotangent_data::safetensors::Archive;
/// use cotangent_train::checkpoint::pytorch::{Module, translated};
/// use cotangent_train::checkpoint::{Load, load};
///
/// // Large models: `Archive::open_shards("folder")`.
/// let weights = Archive::open("model.safetensors")?.tensors;
/// let modules = [("embed", Module::Embedding, "letters"), ("rnn", Module::Lstm, "lstm"), ("head", Module::Linear, "out")];
/// load(&translated(weights, &modules)?, Load::Complete, session.store_mut())?;
/// # Ok(())
/// # }
/// ```
///
/// Where a `Linear` reads a flattened picture its features are channels first; flatten what
/// `transpose([0, 3, 1, 2])` makes of it. A recurrent module without biases gives a layer biases of 0.
///
/// # Errors
/// [`TrainError::Invalid`] if there is no such module, if tensors are not those of one, or if two would be called the same.
pub fn translated<'a>(
    mut weights: BTreeMap<String, Unread<'a>>,
    modules: &[(&str, Module, &str)],
) -> Result<BTreeMap<String, Weight<'a>>, TrainError> {
    let mut result = BTreeMap::new();
    for &(at, module, name) in modules {
        let own = Own::taken(&mut weights, at, module)?;
        for (part, weight) in own.translated(module)? {
            insert(&mut result, format!("{name}.{part}"), weight)?;
        }
    }
    weights.into_iter().try_for_each(|(name, tensor)| insert(&mut result, name, tensor.into()))?;
    Ok(result)
}

fn insert<'a>(weights: &mut BTreeMap<String, Weight<'a>>, name: String, weight: Weight<'a>) -> Result<(), TrainError> {
    match weights.insert(name.clone(), weight) {
        None => Ok(()),
        Some(_) => Err(TrainError::invalid("weights of modules", "a name for each", format!("`{name}` twice"))),
    }
}

/// The tensors of a module, by what PyTorch calls them inside of it.
struct Own<'a, 'n> {
    at: &'n str,
    tensors: BTreeMap<String, Unread<'a>>,
}

/// Weights by what the layer calls them.
type Parts<'a> = Vec<(String, Weight<'a>)>;

impl<'a, 'n> Own<'a, 'n> {
    /// Takes those of the module that stands at `at`.
    fn taken(weights: &mut BTreeMap<String, Unread<'a>>, at: &'n str, module: Module) -> Result<Self, TrainError> {
        let prefix = if at.is_empty() { String::new() } else { format!("{at}.") };
        let inside = |name: &String| Some(name.strip_prefix(&prefix)?.to_owned()).filter(|own| module.has(own));
        let names: Vec<(String, String)> =
            weights.keys().filter_map(|name| Some((name.clone(), inside(name)?))).collect();
        let tensors: BTreeMap<_, _> =
            names.into_iter().filter_map(|(name, own)| Some((own, weights.remove(&name)?))).collect();
        if tensors.is_empty() {
            let places = weights.keys().filter_map(|name| Some(name.rsplit_once('.')?.0));
            let near =
                nearest(at, places.collect::<Vec<_>>()).map(|near| format!(", the nearest is `{}`", plain(near)));
            let got = format!("none{}", near.unwrap_or_default());
            return Err(TrainError::invalid(format!("weights of `{at}`"), format!("tensors of a {module:?}"), got));
        }
        Ok(Own { at, tensors })
    }

    /// The tensors as the layer has them.
    fn translated(mut self, module: Module) -> Result<Parts<'a>, TrainError> {
        let mut parts = Parts::new();
        if let Some(n_gates) = module.n_gates() {
            self.recurrent(n_gates, module == Module::Gru, &mut parts)?;
            return Ok(parts);
        }
        for (name, tensor) in std::mem::take(&mut self.tensors) {
            let rank = tensor.ty().shape().rank();
            let part = match (module, name.as_str()) {
                (Module::Attention | Module::CrossAttention, _) => {
                    self.projection(&name, tensor, module == Module::CrossAttention, &mut parts)?;
                    continue;
                }
                (Module::Linear | Module::Conv | Module::ConvTransposed, "weight") => {
                    let least = if module == Module::Linear { 2..=2 } else { 3..=usize::MAX };
                    if !least.contains(&rank) {
                        let required = format!("a weight of rank {} of a {module:?}", least.start());
                        return Err(self.invalid(&required, format!("shape {}", tensor.ty().shape())));
                    }
                    // Outputs and inputs change sides, behind what is spatial.
                    let order: Vec<usize> = (2..rank).chain([1, 0]).collect();
                    parts.push((name, tensor.transposed(&order)?.into()));
                    continue;
                }
                (Module::Norm, "weight") => "gain",
                (Module::Norm, "running_mean") => "mean",
                (Module::Norm, "running_var") => "variance",
                (Module::Norm, "num_batches_tracked") => continue,
                (_, name) => name,
            };
            parts.push((part.to_owned(), tensor.into()));
        }
        Ok(parts)
    }

    /// A weight or bias of an attention, that of queries apart from those of keys and values if it attends to a memory.
    fn projection(
        &self,
        name: &str,
        tensor: Unread<'a>,
        to_memory: bool,
        parts: &mut Parts<'a>,
    ) -> Result<(), TrainError> {
        let (of_input, kind) = match name {
            "in_proj_weight" => (true, "weight"),
            "in_proj_bias" => (true, "bias"),
            "out_proj.weight" => (false, "weight"),
            "out_proj.bias" => (false, "bias"),
            _ => {
                let required = "one weight of queries, keys and values of as many features, without further biases";
                return Err(self.invalid(required, format!("`{}`", plain(name))));
            }
        };
        let rank = if kind == "weight" { 2 } else { 1 };
        let ty = tensor.ty();
        let n = ty.shape().first().copied().unwrap_or(0);
        if ty.shape().rank() != rank || (of_input && n % 3 != 0) {
            return Err(self.invalid("weights of rank 2 and biases of rank 1", format!("{} of `{name}`", ty.shape())));
        }
        let mut push = |layer: &str, tensor: Unread<'a>| {
            let tensor = if rank == 2 { tensor.transposed(&[1, 0])? } else { tensor };
            parts.push((format!("{layer}.{kind}"), tensor.into()));
            Ok(())
        };
        if of_input && to_memory {
            push("q", tensor.rows(0, n / 3)?)?;
            push("kv", tensor.rows(n / 3, n)?)
        } else {
            push(if of_input { "qkv" } else { "out" }, tensor)
        }
    }

    /// Those of all layers and directions of a recurrent module.
    fn recurrent(&mut self, n_gates: usize, two_biases: bool, parts: &mut Parts<'a>) -> Result<(), TrainError> {
        let n_layers = (0..).take_while(|k| self.tensors.contains_key(&format!("weight_ih_l{k}"))).count();
        let both_ways = self.tensors.contains_key("weight_ih_l0_reverse");
        for layer in 0..n_layers {
            for (suffix, way) in
                [("", ".forward"), ("_reverse", ".backward")].into_iter().take(1 + usize::from(both_ways))
            {
                let mut prefix = if n_layers == 1 { String::new() } else { format!(".{layer}") };
                prefix.push_str(if both_ways { way } else { "" });
                let mut take = |part: &str| self.tensors.remove(&format!("{part}_l{layer}{suffix}"));
                let (input, recurrent) = (take("weight_ih"), take("weight_hh"));
                let (bias, other) = (take("bias_ih"), take("bias_hh"));
                let (Some(input), Some(recurrent)) = (input, recurrent) else {
                    return Err(
                        self.invalid("weights of inputs and of states for each layer and direction", "one of them")
                    );
                };
                let (of_input, of_state) = (input.ty(), recurrent.ty());
                let (of_input, of_state) = (of_input.shape(), of_state.shape());
                let n = of_state.last().copied().unwrap_or(0);
                if of_input.rank() != 2 || of_input[0] != n_gates * n || of_state[..] != [n_gates * n, n] {
                    let required = format!("{n_gates} times as many rows as the state has numbers in both weights");
                    return Err(self.invalid(&required, format!("{of_input} and {of_state}")));
                }
                let biases = match (bias, other) {
                    (Some(bias), Some(other)) if two_biases => {
                        vec![("bias", bias.into()), ("recurrent_bias", other.into())]
                    }
                    (Some(bias), Some(other)) => vec![("bias", self.sum(bias, other)?)],
                    (None, None) => {
                        let ty = Type::tensor(input.ty().dtype(), [n_gates * n]);
                        let zeros = Weight { ty, summands: Vec::new() };
                        let names = ["bias", "recurrent_bias"].into_iter().take(1 + usize::from(two_biases));
                        names.map(|name| (name, zeros.clone())).collect()
                    }
                    _ => return Err(self.invalid("biases of inputs and of states, or none", "one of them")),
                };
                let weights = [("weight", input.transposed(&[1, 0])?), ("recurrent", recurrent.transposed(&[1, 0])?)];
                let weights = weights.map(|(name, tensor)| (name, tensor.into()));
                let named = weights.into_iter().chain(biases).map(|(name, weight)| {
                    let name = format!("{prefix}.{name}");
                    (name.trim_start_matches('.').to_owned(), weight)
                });
                parts.extend(named);
            }
        }
        match self.tensors.keys().next() {
            None => Ok(()),
            Some(odd) => {
                let required = "layers from 0 on, all with the same directions, without projections";
                Err(self.invalid(required, format!("`{}` beside {n_layers} layers", plain(odd))))
            }
        }
    }

    /// The sum of two biases.
    fn sum(&self, a: Unread<'a>, b: Unread<'a>) -> Result<Weight<'a>, TrainError> {
        let ty = a.ty();
        if ty != b.ty() || !matches!(ty.dtype(), DType::F32 | DType::F64) {
            return Err(self.invalid("biases of floats, of one type and shape", format!("{ty} and {}", b.ty())));
        }
        Ok(Weight { ty, summands: vec![a, b] })
    }

    fn invalid(&self, required: &str, got: impl std::fmt::Display) -> TrainError {
        TrainError::invalid(format!("weights of `{}`", self.at), required, got)
    }
}

impl Module {
    /// Blocks of gates in the weights of a recurrent module.
    fn n_gates(self) -> Option<usize> {
        match self {
            Module::Rnn => Some(1),
            Module::Lstm => Some(4),
            Module::Gru => Some(3),
            _ => None,
        }
    }

    /// Whether a tensor of this name inside of the module is its own.
    fn has(self, name: &str) -> bool {
        match self {
            Module::Embedding => name == "weight",
            Module::Norm => ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"].contains(&name),
            Module::Rnn | Module::Lstm | Module::Gru => {
                ["weight_ih_l", "weight_hh_l", "weight_hr_l", "bias_ih_l", "bias_hh_l"]
                    .iter()
                    .any(|start| name.starts_with(start))
            }
            Module::Attention | Module::CrossAttention => {
                ["in_proj_", "out_proj.", "q_proj_", "k_proj_", "v_proj_", "bias_k", "bias_v"]
                    .iter()
                    .any(|start| name.starts_with(start))
            }
            Module::Linear | Module::Conv | Module::ConvTransposed => name == "weight" || name == "bias",
        }
    }
}

//! From an archive's arrays to parameters and batches.
//!
//! Why it exists: archives are written for other systems, so convolutional networks find their arrays under other names, and
//! channels first. What the archive must hold follows from the graph; it is rearranged once, when it is loaded.

use std::collections::BTreeMap;

use cotangent_graph::{Shape, TensorData, Type};
use ndarray::{ArrayD, IxDyn};

use super::Layers;
use super::networks::FLATTENED;
use crate::TrainError;

/// Arrays by name.
pub(super) type Arrays = BTreeMap<String, TensorData>;

/// Where the axes of an array stand in the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Where the graph has them.
    Same,
    /// `[h, w, c, o]` is `[o, c, h, w]` there.
    Filters,
    /// `[n, h, w, c]` is `[n, c, h, w]` there.
    Pictures,
    /// Rows `[h·w·c, o]` stand in the order `[c, h, w]` there.
    Rows([usize; 3]),
}

impl Layout {
    /// That of a network's parameter or input of this name and rank.
    pub(super) fn of(layers: Option<&Layers>, name: &str, rank: usize) -> Self {
        let (flattened, shape) = FLATTENED;
        match layers {
            None | Some(Layers::Mlp(_) | Layers::Letters(_) | Layers::Gpt(_)) => Layout::Same,
            Some(Layers::Lenet) if name == flattened => Layout::Rows(shape),
            Some(_) if rank != 4 => Layout::Same,
            Some(_) if name == "x" => Layout::Pictures,
            Some(_) => Layout::Filters,
        }
    }

    /// The shape of four axes that the graph's array has, or splits into, and which of them each axis in the archive is.
    fn axes(self, shape: &Shape) -> Option<(Vec<usize>, [usize; 4])> {
        match self {
            Layout::Same => None,
            Layout::Filters => Some((shape.to_vec(), [3, 2, 0, 1])),
            Layout::Pictures => Some((shape.to_vec(), [0, 3, 1, 2])),
            Layout::Rows([h, w, c]) => Some((vec![h, w, c, shape[1]], [2, 0, 1, 3])),
        }
    }

    /// The type in the archive of what has this type in the graph.
    fn stored(self, ty: &Type) -> Type {
        let shape = ty.shape();
        match self.axes(shape) {
            Some((split, axes)) if split[..] == shape[..] => {
                Type::tensor(ty.dtype(), axes.iter().map(|&axis| split[axis]).collect::<Shape>())
            }
            _ => ty.clone(),
        }
    }

    /// An array of the archive as the graph has it, of this shape.
    fn arranged(self, array: ArrayD<f32>, shape: &Shape) -> ArrayD<f32> {
        let Some((split, axes)) = self.axes(shape) else { return array };
        let stored: Vec<usize> = axes.iter().map(|&axis| split[axis]).collect();
        let mut back = [0; 4];
        axes.iter().enumerate().for_each(|(place, &axis)| back[axis] = place);
        let reshaped = |array: ArrayD<f32>, shape: &[usize]| {
            array
                .into_shape_with_order(IxDyn(shape))
                .expect("the type was compared, and tensors are in row-major order")
        };
        let moved = reshaped(array, &stored).permuted_axes(IxDyn(&back));
        reshaped(moved.as_standard_layout().into_owned(), shape)
    }
}

/// The name in the archive of a parameter: what layers call `c0.weight` and `c0.bias` is `c0` and `c0b` there, gain and bias of a
/// norm, `c0.norm.gain` and `c0.norm.bias`, are `c0.g` and `c0.h`. A recurrent layer's are `Wx`, `Wh` and `b`, what follows it `Wo` and
/// `bo`; the parts of a transformer's block are those of nanoGPT.
pub(super) fn key(param: &str) -> String {
    let single = [
        ("recurrent.weight", "Wx"),
        ("recurrent.recurrent", "Wh"),
        ("recurrent.bias", "b"),
        ("recurrent.recurrent_bias", "bh"),
        ("out.weight", "Wo"),
        ("out.bias", "bo"),
        ("last.gain", "lnf"),
    ];
    if let Some((_, theirs)) = single.into_iter().find(|(ours, _)| *ours == param) {
        return theirs.to_owned();
    }
    let endings = [
        (".norm.gain", ".g"),
        (".norm.bias", ".h"),
        (".norm1.gain", ".ln1"),
        (".norm2.gain", ".ln2"),
        (".attention.qkv.weight", ".qkv"),
        (".attention.out.weight", ".proj"),
        (".up.weight", ".fc"),
        (".down.weight", ".out"),
        (".weight", ""),
        (".bias", "b"),
    ];
    let param = param.strip_prefix("block.").unwrap_or(param);
    let renamed = |(ours, theirs): &(&str, &str)| Some(format!("{}{theirs}", param.strip_suffix(ours)?));
    endings.iter().find_map(renamed).unwrap_or_else(|| param.to_owned())
}

/// An array of an archive as a tensor of the type required.
pub(super) fn loaded(arrays: &Arrays, key: &str, ty: &Type, layout: Layout) -> Result<TensorData, TrainError> {
    let of = || format!("array `{key}`");
    let stored = layout.stored(ty);
    let Some(array) = arrays.get(key) else {
        let known = arrays.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let got = match known.as_str() {
            "" => "an archive without any of the workload's arrays".to_owned(),
            known => format!("an archive with {known} only"),
        };
        return Err(TrainError::invalid(of(), stored.to_string(), got));
    };
    if array.ty() != stored {
        return Err(TrainError::invalid(of(), stored.to_string(), array.ty()));
    }
    Ok(match array {
        TensorData::F32(array) => layout.arranged(array.to_owned(), ty.shape()).into(),
        // Networks have no filters and pictures of another type.
        other => other.clone(),
    })
}

/// The first `n` examples of the batches `x0`, `x1`, …, each of type `batch`, of which the archive has `n_batches`.
pub(super) fn examples(
    arrays: &Arrays,
    n: usize,
    n_batches: usize,
    batch: &Type,
    layout: Layout,
) -> Result<TensorData, TrainError> {
    let size = batch.shape()[0];
    if n > n_batches * size {
        let required = format!("at most {}, as many examples as the arrays of batches hold", n_batches * size);
        return Err(TrainError::invalid("batch", required, n));
    }
    let mut bits = Vec::with_capacity(n_batches * batch.shape().n_elements());
    for i in 0..n.div_ceil(size) {
        bits.extend(loaded(arrays, &format!("x{i}"), batch, layout)?.bits());
    }
    let shape: Shape = [n].iter().chain(&batch.shape()[1..]).copied().collect();
    bits.truncate(shape.n_elements());
    Ok(TensorData::from_bits(batch.dtype(), &shape, &bits))
}

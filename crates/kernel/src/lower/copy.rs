//! Kernels that copy or fill: what `concat` and `pad` are made of.

use std::collections::HashMap;

use cotangent_graph::{Graph, NodeId};
use smallvec::SmallVec;

use super::{ArgRef, Args, Blocked, Draft, Lowered, Lowerer, merge};
use crate::cluster::{Cluster, Clusters};
use crate::index::identity;
use crate::ir::{IndexMap, Kernel, Space, Sweep};

/// A kernel that copies a node into a corner of a larger buffer (`concat`, `pad`): `strides` and `offset` are those of the
/// place in the target.
pub(crate) fn lower_copy(
    graph: &Graph,
    clusters: &Clusters,
    from: NodeId,
    target: NodeId,
    place: IndexMap,
) -> Result<Lowered, Blocked> {
    let shape = graph.ty(from).shape().clone();
    let cluster = Cluster {
        nodes: vec![from],
        sweeps: vec![0],
        is_reduced: vec![false],
        is_column: vec![false],
        domain: shape.clone(),
        loops: None,
        axes: SmallVec::new(),
        product: None,
    };
    let extents: SmallVec<[usize; 4]> = shape.iter().copied().collect();
    let mut lowerer = Lowerer {
        graph,
        clusters,
        index: usize::MAX,
        extents,
        args: Args::default(),
        slots: HashMap::new(),
        kept: HashMap::new(),
    };
    let mut draft = Draft { is_empty: shape.contains(&0), ..Draft::new(Space::Full, 0) };
    let value = lowerer.value(&mut draft, from, &identity(shape.rank()))?;
    let arg = lowerer.args.write(ArgRef::Node(target), graph.ty(target).dtype());
    draft.stores.push((value, arg, place));
    let Lowerer { args, extents, .. } = lowerer;
    let mut drafts = [draft];
    let merged = merge(graph, &cluster, &extents, &mut drafts)?;
    let dims = merged.extents();
    let total = dims.iter().product();
    let phases = drafts.into_iter().map(Draft::finish).collect();
    let name = format!("copy into {}", graph.node(target).op.name);
    let kernel = Kernel { name, sweep: merged.sweep, dims, total, args: args.args, phases };
    Ok(Lowered { kernel, args: args.refs })
}

/// A kernel that stores a constant to every element of a node's memory.
pub(crate) fn lower_fill(graph: &Graph, target: NodeId, bits: u64) -> Lowered {
    let ty = graph.ty(target);
    let n = ty.shape().n_elements();
    let mut args = Args::default();
    let mut draft = Draft::new(Space::Full, 0);
    let value = draft.s.const_from_bits(bits, ty.dtype());
    let arg = args.write(ArgRef::Node(target), ty.dtype());
    draft.stores.push((value, arg, IndexMap { offset: 0, strides: SmallVec::from_slice(&[1]) }));
    let dims = SmallVec::from_slice(&[n]);
    let name = "fill".to_owned();
    let kernel =
        Kernel { name, sweep: Sweep::Elementwise, dims, total: n, args: args.args, phases: vec![draft.finish()] };
    Lowered { kernel, args: args.refs }
}

//! Loops that become one: the dims of a kernel from the axes of a cluster's domain.

use cotangent_graph::Graph;

use super::{Blocked, Draft};
use crate::cluster::Cluster;
use crate::cost::{LONG_ROW, SHORT_LOOP};
use crate::ir::{IndexMap, Input};
use crate::nest::{Nest, Seams};

/// Merges a cluster's loops, of these extents, and rewrites all maps.
pub(super) fn merge(
    graph: &Graph,
    cluster: &Cluster,
    extents: &[usize],
    drafts: &mut [Draft],
) -> Result<Nest, Blocked> {
    let mut seams = Seams::default();
    for draft in drafts.iter() {
        for input in &draft.inputs {
            let maps = input.map().into_iter().chain(input.clamps().iter().map(|clamp| &clamp.map));
            seams = maps.fold(seams, |seams, map| seams.and(Seams::of_map(map, extents)));
            seams.borders |= !input.clamps().is_empty();
        }
        seams = draft.stores.iter().fold(seams, |seams, store| seams.and(Seams::of_map(&store.2, extents)));
    }
    let failure = |why| Blocked::new(cluster.nodes[0], why);
    let mut nest = Nest::new(&cluster.frame(graph, extents), seams).map_err(|refusal| failure(refusal.text()))?;
    if let (true, [.., outer, last, inner]) = (cluster.loops.is_none() && cluster.product.is_none(), &mut nest.dims[..])
        && last.1 <= SHORT_LOOP
        && last.1 < outer.1
        && inner.1 >= LONG_ROW
    {
        std::mem::swap(outer, last);
    }
    let rewrite = |map: &mut IndexMap| {
        map.strides = nest.dims.iter().map(|dim| dim.2.map_or(0, |axis| map.strides[axis])).collect();
    };
    for draft in drafts.iter_mut() {
        draft.inputs.iter_mut().filter_map(Input::map_mut).for_each(rewrite);
        draft.inputs.iter_mut().flat_map(Input::clamps_mut).for_each(|clamp| rewrite(&mut clamp.map));
        draft.stores.iter_mut().for_each(|s| rewrite(&mut s.2));
    }
    // A border is told once for each row.
    let mut clamps = drafts.iter().flat_map(|draft| &draft.inputs).flat_map(|input| input.clamps());
    if clamps.any(|clamp| clamp.map.strides.last().is_some_and(|&stride| stride != 0)) {
        return Err(failure("a border runs along its innermost loop"));
    }
    Ok(nest)
}

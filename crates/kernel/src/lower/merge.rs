//! Loops that become one: the dims of a kernel from the axes of a cluster's domain.

use cotangent_graph::NodeId;
use smallvec::SmallVec;

use super::{BORDERED, Draft, Force, LOOPS};
use crate::cluster::Cluster;
use crate::ir::{Clamp, IndexMap, Input, Sweep};

/// What loops merge into.
pub(super) struct Merged {
    pub(super) sweep: Sweep,
    pub(super) dims: SmallVec<[usize; 4]>,
}

/// Where an elementwise kernel's last loop over rows has at most so many, each a few lines of cache at least, it changes places
/// with a longer one around it: addresses move on by additions within the loop, and are made afresh around it. The phases of
/// strided windows make such loops.
const SHORT_LOOP: usize = 8;

/// Elements of a row that is long: see [`SHORT_LOOP`].
pub(super) const LONG_ROW: usize = 32;

/// Merges a cluster's loops, of these extents: axes of extent 1 go, neighbours join where every map allows it. Rewrites all maps.
pub(super) fn merge(cluster: &Cluster, extents: &[usize], drafts: &mut [Draft]) -> Result<Merged, Force> {
    let rank = extents.len();
    // The section of each axis: rows, reduced, inner. Sections never merge with each other.
    let (sweep, sections): (Sweep, Vec<u8>) = match cluster.loops {
        None if cluster.product.is_some() => (Sweep::Elementwise, (0..rank).map(|a| u8::from(a + 1 == rank)).collect()),
        None => (Sweep::Elementwise, vec![0; rank]),
        Some(loops) => {
            let last = cluster.axes.last().copied().unwrap_or(0);
            let section = |a: usize| if cluster.axes.contains(&a) { 1 } else { u8::from(a > last) * 2 };
            let sweep = if loops.inner == 1 { Sweep::Row } else { Sweep::Column };
            let flatten = |a: usize| if sweep == Sweep::Row && section(a) == 2 { 0 } else { section(a) };
            (sweep, (0..rank).map(flatten).collect())
        }
    };
    let is_free = sweep == Sweep::Elementwise && cluster.product.is_none();
    let maps = |drafts: &[Draft]| -> Vec<(IndexMap, Option<NodeId>)> {
        let mut all = Vec::new();
        for d in drafts {
            for ((input, blame), by) in d.inputs.iter().zip(&d.blame).zip(&d.combined_by) {
                // Windows are no loops that merge, wherever they are read from: what they are combined to is.
                let blame = by.filter(|_| !is_free).or(*blame);
                let clamps = input.clamps().iter().map(|clamp| &clamp.map);
                all.extend(input.map().into_iter().chain(clamps).map(|map| (map.clone(), blame)));
            }
            all.extend(d.stores.iter().map(|s| (s.2.clone(), None)));
        }
        all
    };
    let all = maps(drafts);
    // Groups of axes that become one dim, outermost first: (section, extent, the axis whose stride counts).
    let mut groups: Vec<(u8, usize, usize)> = Vec::new();
    for (axis, &section) in sections.iter().enumerate() {
        let extent = extents[axis];
        if extent == 1 {
            continue;
        }
        let joins = groups.last().is_some_and(|&(s, _, _)| s == section);
        if joins {
            let (_, size, previous) = groups[groups.len() - 1];
            let stands = all.iter().find(|(m, _)| m.strides[previous] != m.strides[axis] * extent as i64);
            match stands {
                None => {
                    let last = groups.len() - 1;
                    groups[last] = (section, size * extent, axis);
                    continue;
                }
                // Reduced and inner loops must be one; rows need not.
                Some((_, blame)) if must_be_one(sweep, section, cluster) => {
                    return Err(Force::new(blame.unwrap_or(cluster.nodes[0]), LOOPS));
                }
                Some(_) => {}
            }
        }
        groups.push((section, extent, axis));
    }
    // Sections that must exist although all their axes have extent 1.
    let wanted: &[u8] = match (sweep, cluster.product.is_some()) {
        (Sweep::Elementwise, true) => &[0, 1],
        (Sweep::Elementwise, false) => &[0],
        (Sweep::Row, _) => &[1],
        (Sweep::Column, _) => &[1, 2],
    };
    let mut order: Vec<(u8, usize, Option<usize>)> = groups.iter().map(|&(s, n, a)| (s, n, Some(a))).collect();
    for &section in wanted {
        if !order.iter().any(|g| g.0 == section) {
            let at = order.iter().position(|g| g.0 > section).unwrap_or(order.len());
            order.insert(at, (section, 1, None));
        }
    }
    if sweep == Sweep::Row {
        // Rows come first, the reduced loop last, whatever the position of axes of extent 1.
        order.sort_by_key(|g| g.0);
    }
    if let (Sweep::Elementwise, None, [.., outer, last, inner]) = (sweep, cluster.product, &mut order[..])
        && last.1 <= SHORT_LOOP
        && last.1 < outer.1
        && inner.1 >= LONG_ROW
    {
        std::mem::swap(outer, last);
    }
    let rewrite = |map: &mut IndexMap| {
        map.strides = order.iter().map(|g| g.2.map_or(0, |axis| map.strides[axis])).collect();
    };
    for draft in drafts.iter_mut() {
        draft.inputs.iter_mut().filter_map(Input::map_mut).for_each(rewrite);
        draft.inputs.iter_mut().flat_map(Input::clamps_mut).for_each(|clamp| rewrite(&mut clamp.map));
        draft.stores.iter_mut().for_each(|s| rewrite(&mut s.2));
    }
    // A border is told once for each row.
    let inputs = |draft: &Draft| {
        let of = draft.inputs.iter().zip(draft.blame.iter().zip(&draft.combined_by));
        of.map(|(input, (blame, by))| (input.clone(), by.filter(|_| !is_free).or(*blame))).collect::<Vec<_>>()
    };
    for (input, blame) in drafts.iter().flat_map(inputs) {
        let moves = |clamp: &Clamp| clamp.map.strides.last().is_some_and(|&stride| stride != 0);
        if !input.clamps().is_empty() && (sweep != Sweep::Elementwise || input.clamps().iter().any(moves)) {
            return Err(Force::new(blame.unwrap_or(cluster.nodes[0]), BORDERED));
        }
    }
    Ok(Merged { sweep, dims: order.iter().map(|g| g.1).collect() })
}

fn must_be_one(sweep: Sweep, section: u8, cluster: &Cluster) -> bool {
    match sweep {
        // The rows of a product's tiles are counted linearly.
        Sweep::Elementwise => cluster.product.is_some() && section == 0,
        Sweep::Row => section == 1 || cluster.is_column.contains(&true),
        Sweep::Column => section >= 1,
    }
}

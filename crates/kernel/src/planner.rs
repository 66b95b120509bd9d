//! From a primitive graph to its plan.
//!
//! [`plan`] goes clusters → units (a cluster lowered to kernels, or a step of its own) → an order of units → buffers and
//! steps. Where lowering finds that a value must be in memory first, clustering starts again with that value forced.

mod build;
mod schedule;
mod streams;
mod units;

use std::collections::{HashSet, VecDeque};

use cotangent_graph::eval::reduction_groups;
use cotangent_graph::{CompilerBug, Graph, Lower, NodeId};

use crate::cluster::{self, ClusterOptions};
use crate::lower::{self, Force};
use crate::plan::Plan;

/// Plans a primitive graph.
///
/// # Errors
/// A graph that is not primitive or canonical, a mistake in the record of an op from outside, or one of this crate.
pub fn plan(graph: &Graph, options: &ClusterOptions) -> Result<Plan, CompilerBug> {
    for id in graph.ids() {
        let node = graph.node(id);
        if matches!(node.op.lower, Lower::Scalar(_)) && !node.op.0.is_builtin() {
            cluster::scalar_ops(graph, node).map_err(|fault| CompilerBug::new("plan", fault.message))?;
        }
        if matches!(node.op.lower, Lower::Reduce(_))
            && reduction_groups(graph.ty(node.inputs[0]).shape(), &node.attrs.sizes("axes")).len() > 1
        {
            let text =
                format!("{id} = {} reduces axes that are not neighbors; `canonicalize` takes it apart", node.op.name);
            return Err(CompilerBug::new("plan", text));
        }
    }
    let mut forced: HashSet<NodeId> = HashSet::new();
    let mut reasons: Vec<(NodeId, &'static str)> = Vec::new();
    // Every round forces at least one node more.
    for _ in 0..=graph.n_nodes() {
        let clusters = cluster::cluster(graph, options, &forced);
        let failures = match units::units(graph, &clusters) {
            Ok(units) => {
                let mut plan = schedule::schedule(graph, clusters, units)?;
                streams::mark(&mut plan, &options.cost);
                return Ok(Plan { forced: reasons, ..plan });
            }
            Err(failures) => failures,
        };
        let n_before = forced.len();
        // What making the memory of these will find in its way is forced with them: a chain of views has many such places, and
        // every round takes all of the graph.
        let mut todo: VecDeque<Force> = failures.iter().map(|(force, _)| *force).collect();
        while let Some(Force { node, why }) = todo.pop_front() {
            if forced.insert(node) {
                reasons.push((node, why));
                todo.extend(lower::behind(graph, &clusters, node));
            }
        }
        if forced.len() == n_before {
            // The loops of the clusters themselves stand in the way: their members go separate ways.
            let members = failures.iter().filter_map(|(_, cluster)| *cluster).map(|c| &clusters.clusters[c].nodes);
            forced.extend(members.flatten().copied());
        }
        if forced.len() == n_before {
            let Force { node, why } = failures[0].0;
            let text = format!("{node} = {} cannot be lowered: {why}", graph.node(node).op.name);
            return Err(CompilerBug::new("lower", text));
        }
    }
    Err(CompilerBug::new("lower", "lowering does not come to an end"))
}

//! From a primitive graph to its plan.
//!
//! [`plan`] goes clusters → units (a cluster lowered to kernels, or a step of its own) → an order of units → buffers and
//! steps.

mod build;
mod schedule;
mod streams;
mod units;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use cotangent_graph::eval::reduction_groups;
use cotangent_graph::{BodyId, CompilerBug, Graph, Lower, NodeId};

use crate::cluster::{self, ClusterOptions};
use crate::lower::Blocked;
use crate::plan::Plan;
use crate::repeat::program_of;

/// The plan of each loop's body.
type Bodies = HashMap<NodeId, Arc<Plan>>;

/// Plans a primitive graph.
///
/// # Errors
/// A graph that is not primitive or canonical, a mistake in the record of an op from outside, or one of this crate.
pub fn plan(graph: &Graph, options: &ClusterOptions) -> Result<Plan, CompilerBug> {
    let mut plan = planned(graph, options, false)?;
    streams::mark(&mut plan, &options.cost);
    Ok(plan)
}

/// The plans of the bodies of all loops, each once.
fn bodies(graph: &Graph, options: &ClusterOptions) -> Result<Bodies, CompilerBug> {
    let mut known: HashMap<(BodyId, usize), Arc<Plan>> = HashMap::new();
    let mut bodies = HashMap::new();
    let live = graph.live();
    for id in graph.ids().filter(|id| live[id.index()]) {
        let node = graph.node(id);
        let (Some(scan), Some(body)) = (graph.scan(node), node.attrs.body("body")) else { continue };
        let plan = match known.entry((body, scan.n_carries)) {
            Entry::Occupied(entry) => Arc::clone(entry.get()),
            Entry::Vacant(entry) => {
                let program = program_of(&scan)?;
                let mut plan = planned(&program, options, true)?;
                of_values(&mut plan, &program, scan.body.nodes().len());
                Arc::clone(entry.insert(Arc::new(plan)))
            }
        };
        bodies.insert(id, plan);
    }
    Ok(bodies)
}

/// Lets the plan of a loop's body speak of the body's nodes alone, of which there are `n`: of what its program has beside them, copies
/// of values, it says what is true of the values.
fn of_values(plan: &mut Plan, program: &Graph, n: usize) {
    let is_of_body = |id: NodeId| id.index() < n;
    let value = |id: NodeId| if is_of_body(id) { id } else { program.node(id).inputs[0] };
    plan.clusters.iter_mut().for_each(|nodes| nodes.retain(|&id| is_of_body(id)));
    plan.edges.retain(|edge| is_of_body(edge.from) && is_of_body(edge.to));
    plan.forced.retain(|&(id, _)| is_of_body(id));
    plan.step_nodes.iter_mut().for_each(|id| *id = value(*id));
    plan.step_values.iter_mut().flatten().for_each(|(id, _)| *id = value(*id));
}

/// The plan of a program, or of a loop's body, whose results lie where the loop says.
fn planned(graph: &Graph, options: &ClusterOptions, is_body: bool) -> Result<Plan, CompilerBug> {
    let bodies = bodies(graph, options)?;
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
    let clusters = cluster::cluster(graph, options);
    let units = units::units(graph, &clusters, &bodies).map_err(|Blocked { node, why }| {
        CompilerBug::new("lower", format!("{node} = {} cannot be lowered: {why}", graph.node(node).op.name))
    })?;
    schedule::schedule(graph, clusters, units, (&bodies, is_body))
}

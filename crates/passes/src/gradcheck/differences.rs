//! Central differences of one scalar of a graph: the machinery under the gradient check and the validation of
//! `differentiate`.
//!
//! It works on f64 graphs. A [`Primal`] is a graph opened up so that differences see what derivatives see: composites that
//! are differentiated through their expansion are expanded, and what a gradient must not pass (`stop_gradient`) is an
//! input that stays as it is. A [`Section`] is the part of a graph that moves with one tensor; everything else is computed
//! once. Nested derivatives are those of `differentiate`, which its own inner derivatives were checked for.

use std::collections::HashMap;
use std::sync::Arc;

use cotangent_graph::expand::{MAX_EXPANSION_DEPTH, too_deep};
use cotangent_graph::interp::{Value, interpret, interpret_nodes};
use cotangent_graph::op::Fault;
use cotangent_graph::ops::region::TUPLE;
use cotangent_graph::ops::source::INPUT;
use cotangent_graph::{
    Attrs, Code, DType, Diag, Env, Graph, GraphBuilder, Limits, Lower, Node, NodeId, OpRef, Output, Role, Tensor,
    TensorData, Type, Vjp,
};

use crate::anchor::set_anchors;
use crate::differentiate::differentiate;
use crate::pass::{PassCx, PassError, PassOptions};
use crate::rebuild::{Copier, expand_in, kept};

/// Steps relative to the operand's magnitude: the first where the function is smooth, smaller ones to get out of the way
/// of a kink nearby.
const STEPS: [f64; 3] = [1e-4, 3e-6, 1e-7];

/// Rounding of a function's values, in units of their magnitude.
const ROUNDING: f64 = 64.0 * f64::EPSILON;

/// Differences of derivatives below this are rounding inside of the function, which its own magnitude does not show.
const FLOOR: f64 = 1e-9;

/// Whether a node is the end of gradients: its value passes, its derivative does not.
fn is_stop(node: &Node) -> bool {
    matches!((&node.op.lower, &node.op.vjp), (Lower::Identity, Vjp::Zero(_)))
}

pub(crate) fn is_grad(node: &Node) -> bool {
    matches!(node.op.lower, Lower::Grad)
}

/// Whether outputs need a derivative that is not there yet.
pub(crate) fn has_gradients(graph: &Graph) -> bool {
    kept(graph).iter().any(|&id| is_grad(graph.node(id)))
        || graph.bodies().iter().any(|body| body.nodes().iter().any(is_grad))
}

/// The graph without `grad`.
pub(crate) fn differentiated(graph: &Graph, limits: Limits) -> Result<Graph, PassError> {
    let options = PassOptions { limits, ..PassOptions::default() };
    Ok(differentiate(graph, &mut PassCx::new(&options))?.unwrap_or_else(|| graph.clone()))
}

/// The graph with every composite that is differentiated through its expansion expanded, and anchors at the intermediate
/// values that derivatives are taken with respect to.
pub(crate) fn opened(graph: &Graph, limits: Limits) -> Result<Graph, PassError> {
    let options = PassOptions { limits, ..PassOptions::default() };
    let mut cx = PassCx::new(&options);
    let mut current = set_anchors(graph)?.unwrap_or_else(|| graph.clone());
    for _ in 0..=MAX_EXPANSION_DEPTH {
        let opens = |node: &Node| matches!((&node.op.lower, &node.op.vjp), (Lower::Expand(_), Vjp::ViaExpansion));
        if !kept(&current).iter().any(|&id| opens(current.node(id))) {
            return Ok(current);
        }
        cx.begin();
        let builder = cx.builder(&current);
        let mut copier = Copier::new(&current, current.bodies(), &builder);
        for id in copier.order() {
            let node = current.node(id);
            if opens(node) {
                builder.set_origin(Some(node.origin.clone()));
                let results = expand_in(&builder, node, current.bodies(), &copier.operands(id))?;
                let value = match results.as_slice() {
                    [one] => *one,
                    several => builder.op(&TUPLE, several, Attrs::none(), None),
                };
                copier.set(id, value);
            } else if matches!(node.op.lower, Lower::Item) {
                let value = copier.operands(id)[0].item(node.attrs.size("index"));
                copier.set(id, value);
            } else {
                copier.copy(id);
            }
            cx.check_room(&builder, node)?;
        }
        copier.outputs();
        let next = builder.into_graph()?;
        // Bodies that are inlined may hold derivatives by intermediate values of their own.
        current = set_anchors(&next)?.unwrap_or(next);
    }
    Err(too_deep().into())
}

/// The same nodes, with some of them as the outputs.
pub(crate) fn with_outputs(graph: &Graph, outputs: &[NodeId]) -> Result<Graph, PassError> {
    let mut out = Graph::with_registry(Arc::clone(graph.name()), graph.registry());
    for body in graph.bodies() {
        out.add_body(Arc::clone(body)).map_err(Fault::diag)?;
    }
    for node in graph.nodes() {
        let (inputs, attrs, ty) = (node.inputs.clone(), node.attrs.clone(), node.ty.clone());
        out.add(node.op, inputs, attrs, ty, node.origin.clone()).map_err(Fault::diag)?;
    }
    for (k, &value) in outputs.iter().enumerate() {
        let output = Output { name: k.to_string().into(), value, role: Role::Result };
        out.add_output(output).map_err(Fault::diag)?;
    }
    Ok(out)
}

/// A graph of one scalar for differences, with the values of its inputs.
pub(crate) struct Primal {
    /// One output, a scalar; without `grad`.
    pub graph: Graph,
    /// Values for its sources.
    pub env: Env,
    /// The input that stands for the node that was cut, if one was.
    pub cut: Option<String>,
}

/// What [`primal`] is asked for.
pub(crate) struct Wanted {
    /// The value.
    pub y: NodeId,
    /// The seed, which stays as it is.
    pub seed: Option<NodeId>,
    /// The node to put an input in the place of, unless it is a named source; `None` if only sources will move.
    pub wrt: Option<NodeId>,
}

/// The value of a tensor node.
pub(crate) type Known = HashMap<NodeId, TensorData>;

/// The nodes of an opened graph whose values [`primal`] needs for what is wanted.
pub(crate) fn needed(graph: &Graph, wanted: &[Wanted]) -> Vec<NodeId> {
    let mut ids: Vec<NodeId> = kept(graph).into_iter().filter(|&id| is_stop(graph.node(id))).collect();
    ids.extend(wanted.iter().flat_map(|w| [w.wrt, w.seed]).flatten());
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// The values of some nodes of an opened graph.
pub(crate) fn values_of(graph: &Graph, ids: Vec<NodeId>, env: &Env) -> Result<Known, PassError> {
    let values = interpret(&differentiated(&with_outputs(graph, &ids)?, env.limits)?, env)?;
    Ok(ids.into_iter().zip(values).collect())
}

/// The scalar `Σ y·seed` as a graph of its own, or why differences of it are not its derivative: moving the node would move what
/// an inner derivative is taken with respect to, or what a gradient must not pass inside of a loop.
pub(crate) fn primal(
    graph: &Graph,
    wanted: &Wanted,
    known: &Known,
    env: &Env,
) -> Result<Result<Primal, &'static str>, PassError> {
    let cut_at = wanted.wrt.filter(|&id| !graph.node(id).op.is_named());
    if cut_at.is_some_and(|at| moves_an_inner_end(graph, wanted.y, at)) {
        return Ok(Err("what an inner derivative is taken with respect to would move"));
    }
    if moves_a_stop_in_a_loop(graph, wanted) {
        return Ok(Err("a loop stops gradients inside of its body, where differences would move what is stopped"));
    }
    let mut env = env.clone();
    let builder = GraphBuilder::like(graph);
    let live = before(graph, &[wanted.y]);
    let mut copier = Copier::new(graph, graph.bodies(), &builder);
    let mut cut = None;
    for id in graph.ids().filter(|id| live[id.index()] || Some(*id) == wanted.wrt) {
        let node = graph.node(id);
        let is_cut = cut_at == Some(id);
        match known.get(&id).filter(|_| is_cut || is_stop(node)) {
            Some(value) => {
                let name = format!("#{}", id.0);
                copier.set(id, fixed_input(&builder, &name, value, &mut env));
                if is_cut {
                    cut = Some(name);
                }
            }
            None => {
                copier.copy(id);
            }
        }
    }
    let y = copier.get(wanted.y);
    let scalar = match wanted.seed.and_then(|seed| known.get(&seed)) {
        Some(seed) => (y * fixed_input(&builder, "#seed", seed, &mut env)).sum(),
        None => y,
    };
    builder.push_output(Output { name: "y".into(), value: scalar.id(), role: Role::Result });
    let graph = builder.into_graph()?;
    Ok(Ok(Primal { graph: differentiated(&graph, env.limits)?, env, cut }))
}

fn fixed_input<'g>(builder: &'g GraphBuilder, name: &str, value: &TensorData, env: &mut Env) -> Tensor<'g> {
    env.values.insert(name.to_owned(), value.clone());
    let attrs = Attrs::none().with("name", name);
    builder.push_node(OpRef(&INPUT), Default::default(), attrs, value.ty(), Default::default())
}

/// Whether some derivative that depends on the node is taken with respect to something before that node.
fn moves_an_inner_end(graph: &Graph, y: NodeId, at: NodeId) -> bool {
    let (cone, moving, sources) =
        (before(graph, &[y]), after(graph, at, |_| false), before(graph, &graph.node(at).inputs));
    let mut inner = graph.ids().filter(|id| cone[id.index()] && moving[id.index()] && is_grad(graph.node(*id)));
    inner.any(|id| graph.node(id).inputs.get(1).is_some_and(|end| sources[end.index()]))
}

/// Whether a loop whose body stops gradients lies between the value and what moves: outside of loops stopped values are inputs
/// that stay as they are, but inside there is another in each iteration.
fn moves_a_stop_in_a_loop(graph: &Graph, wanted: &Wanted) -> bool {
    let cone = before(graph, &[wanted.y]);
    let moving = wanted.wrt.map(|at| after(graph, at, is_stop));
    let stops = |body: &Graph| {
        let within = |body: &Graph| body.nodes().iter().any(is_stop);
        within(body) || body.all_bodies().iter().any(|body| within(body))
    };
    let between = |id: NodeId| cone[id.index()] && moving.as_ref().is_none_or(|moving| moving[id.index()]);
    graph.ids().filter(|&id| between(id)).any(|id| graph.scan(graph.node(id)).is_some_and(|scan| stops(scan.body)))
}

/// For each node, whether it is one of `roots` or before one of them.
fn before(graph: &Graph, roots: &[NodeId]) -> Vec<bool> {
    let mut seen = vec![false; graph.n_nodes()];
    roots.iter().for_each(|root| seen[root.index()] = true);
    for id in graph.ids().rev() {
        if seen[id.index()] {
            graph.node(id).inputs.iter().for_each(|input| seen[input.index()] = true);
        }
    }
    seen
}

/// For each node, whether it is `root` or computed from it on a path that no node of `ends` interrupts.
fn after(graph: &Graph, root: NodeId, ends: impl Fn(&Node) -> bool) -> Vec<bool> {
    let mut seen = vec![false; graph.n_nodes()];
    for id in graph.ids() {
        let node = graph.node(id);
        seen[id.index()] = id == root || (!ends(node) && node.inputs.iter().any(|input| seen[input.index()]));
    }
    seen
}

/// The part of a scalar's graph that moves with one of its sources.
pub(crate) struct Section {
    graph: Graph,
    env: Env,
    wrt: String,
    dtype: DType,
    ty: Type,
    /// The bits of the source at the point.
    bits: Vec<u64>,
    /// The scalar at the point.
    base: f64,
    moves: bool,
}

impl Section {
    /// Computes everything that does not move with the source `wrt` of a graph without `grad`, whose first output is a
    /// scalar. A source that has a value but is not in the graph moves nothing.
    pub fn new(graph: &Graph, env: &Env, wrt: &str) -> Result<Section, PassError> {
        let point = env.values.get(wrt);
        let point = point.ok_or_else(|| Diag::new(Code::UnknownName, format!("`{wrt}` has no value")))?;
        let root = graph.source(wrt);
        let output = graph.outputs().first().ok_or_else(|| Diag::new(Code::NoOutputs, "nothing to differentiate"))?;
        let scalar = with_outputs(graph, &[output.value])?;
        let values = interpret_nodes(&scalar, env)?;
        let base = values[output.value.index()].as_ref().and_then(Value::tensor).and_then(TensorData::as_scalar);
        let base = base.ok_or_else(|| Diag::new(Code::NotDifferentiable, "only a scalar has a gradient"))?;
        let live = before(graph, &[output.value]);
        let moving = root.map_or_else(|| vec![false; graph.n_nodes()], |root| after(graph, root, is_stop));
        let moves = moving[output.value.index()];
        let builder = GraphBuilder::like(graph);
        let mut fixed = Env { values: HashMap::new(), ..*env };
        fixed.values.insert(wrt.to_owned(), point.clone());
        let mut copier = Copier::new(graph, graph.bodies(), &builder);
        if moves {
            for id in graph.ids().filter(|&id| live[id.index()] && moving[id.index()]) {
                for &operand in &graph.node(id).inputs {
                    if moving[operand.index()] || !copier.get(operand).is_poisoned() {
                        continue;
                    }
                    match values[operand.index()].as_ref().and_then(Value::tensor) {
                        Some(value) => {
                            let input = fixed_input(&builder, &format!("@{}", operand.0), value, &mut fixed);
                            copier.set(operand, input);
                        }
                        // A tuple stays as it is computed.
                        None => copy_all(graph, operand, &mut copier, env, &mut fixed),
                    }
                }
                copier.copy(id);
            }
            let value = copier.get(output.value).id();
            builder.push_output(Output { name: "y".into(), value, role: Role::Result });
        }
        let (dtype, ty, bits) = (point.dtype(), point.ty(), point.bits());
        Ok(Section { graph: builder.into_graph()?, env: fixed, wrt: wrt.to_owned(), dtype, ty, bits, base, moves })
    }

    /// The number of elements of the source.
    pub fn n_elements(&self) -> usize {
        self.bits.len()
    }

    /// What one evaluation computes.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Moves one element of the source away from the point, and all others back to it.
    fn move_to(&mut self, element: usize, delta: f64) {
        let mut bits = self.bits.clone();
        bits[element] = self.dtype.bits_of_f64(self.dtype.f64_of_bits(bits[element]) + delta);
        let moved = TensorData::from_bits(self.dtype, self.ty.shape(), &bits);
        self.env.values.insert(self.wrt.clone(), moved);
    }

    /// The scalar with one element of the source moved; NaN if the step is an error there.
    fn value(&mut self, element: usize, delta: f64) -> f64 {
        if !self.moves {
            return self.base;
        }
        self.move_to(element, delta);
        let values = interpret(&self.graph, &self.env).ok();
        values.and_then(|values| values.first()?.as_scalar()).unwrap_or(f64::NAN)
    }

    /// The results of all comparisons that move, with one element of the source moved.
    fn truths(&mut self, element: usize, delta: f64) -> Vec<Option<TensorData>> {
        self.move_to(element, delta);
        let values = interpret_nodes(&self.graph, &self.env).unwrap_or_default();
        let is_truth = |id: &NodeId| self.graph.ty(*id).as_tensor().is_some_and(|(dtype, _)| dtype == DType::Bool);
        let value = |id: NodeId| values.get(id.index())?.as_ref()?.tensor().cloned();
        self.graph.ids().filter(is_truth).map(value).collect()
    }

    /// Whether a comparison at the point has another result on either side of it, as that of a value with its own
    /// `stop_gradient` has: the function then takes a branch at the point that differences next to it do not see.
    fn branches(&mut self, element: usize, step: f64) -> bool {
        let here = self.truths(element, 0.0);
        here != self.truths(element, step) || here != self.truths(element, -step)
    }

    /// Compares a symbolic derivative by one element with differences; `scale` is the size below which derivatives count
    /// as zero up to `tolerance`.
    pub fn judge(&mut self, element: usize, symbolic: f64, scale: f64, tolerance: f64) -> Judgment {
        let size = self.dtype.f64_of_bits(self.bits[element]).abs().max(1.0);
        let base = self.base;
        let mut best = Judgment { finite: f64::NAN, verdict: Seen::NotFinite };
        for step in STEPS {
            let h = step * size;
            let (high, low) = (self.value(element, h), self.value(element, -h));
            let slope = (high - low) / (2.0 * h);
            let noise = ROUNDING * base.abs().max(high.abs()) / h + FLOOR;
            let allowed = |finite: f64| tolerance * scale.max(finite.abs()).max(symbolic.abs()) + noise;
            if (symbolic - slope).abs() <= allowed(slope) {
                return Judgment { finite: slope, verdict: Seen::Agrees };
            }
            if !slope.is_finite() || !symbolic.is_finite() || !base.is_finite() {
                continue;
            }
            // Richardson: the error of fourth order in the step, where the function is smooth.
            let half = 0.5 * h;
            let (high_half, low_half) = (self.value(element, half), self.value(element, -half));
            let narrow = (high_half - low_half) / h;
            let finite = (4.0 * narrow - slope) / 3.0;
            if (symbolic - finite).abs() <= allowed(finite) {
                return Judgment { finite, verdict: Seen::Agrees };
            }
            // Where the function is smooth, one-sided slopes approach each other as the step shrinks.
            let gap = ((high - base) - (base - low)) / h;
            let gap_half = ((high_half - base) - (base - low_half)) / half;
            let persists = gap_half.abs() > allowed(finite) && gap_half.abs() > 0.75 * gap.abs();
            let moved = (narrow - slope).abs() > allowed(finite);
            let is_kink = persists || moved || self.branches(element, half);
            let verdict = if is_kink { Seen::Kink } else { Seen::Disagrees };
            best = Judgment { finite, verdict };
            if verdict == Seen::Disagrees {
                break;
            }
        }
        best
    }
}

/// Copies a node and all that it needs.
fn copy_all(graph: &Graph, root: NodeId, copier: &mut Copier<'_, '_>, env: &Env, fixed: &mut Env) {
    let needed = before(graph, &[root]);
    for id in graph.ids().filter(|id| needed[id.index()]) {
        if copier.get(id).is_poisoned() {
            copier.copy(id);
            if let Some((name, value)) = graph.node(id).name().and_then(|name| env.values.get_key_value(name)) {
                fixed.values.insert(name.clone(), value.clone());
            }
        }
    }
}

/// What differences say of one element.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judgment {
    /// The derivative by differences.
    pub finite: f64,
    /// Whether it is the symbolic one.
    pub verdict: Seen,
}

/// What differences see at an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The symbolic derivative.
    Agrees,
    /// Another derivative.
    Disagrees,
    /// No derivative: the slopes on both sides differ, or a comparison goes otherwise beside the point.
    Kink,
    /// An infinity or NaN.
    NotFinite,
}

/// Up to `most` of `n` elements, in ascending order, chosen by a seed.
pub(crate) fn chosen(n: usize, most: usize, seed: u64) -> Vec<usize> {
    if n <= most {
        return (0..n).collect();
    }
    // One element of each of `most` equal parts: spread over rows and columns.
    let word = |k: usize| cotangent_scalar::philox::word(seed, 41, 0, k as u64) as usize;
    (0..most)
        .map(|k| {
            let (start, end) = (k * n / most, (k + 1) * n / most);
            start + word(k) % (end - start).max(1)
        })
        .collect()
}

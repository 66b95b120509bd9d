//! The interpreter: the oracle that everything else is compared with.
//!
//! It evaluates any graph at any stage, node by node: composites by expanding them, regions by running their bodies,
//! `grad` by central differences, so that the symbolic derivative has an independent twin.

use cotangent_host::float::in_default;
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::diag::{Code, Diag, Loc};
use crate::expand::{self, MAX_EXPANSION_DEPTH};
use crate::ir::{Graph, Node, NodeId, Role};
use crate::limits::Limits;
use crate::memory;
use crate::op::{EvalCx, Fault, Lower, Source, Vjp};
use crate::ops::scan::Scan;
use crate::tensor::TensorData;
use crate::types::{Shape, Type};

/// What random numbers depend on besides their stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// The seed of the run.
    pub seed: u64,
    /// The number of steps taken.
    pub step: u32,
}

impl Counters {
    /// Those of draw `d` under this seed; of draw 0 these themselves.
    pub fn draw(self, draw: u64) -> Self {
        Counters { seed: mixed(self.seed, draw), ..self }
    }

    /// Those of iteration `i` of a loop: what its body draws there. Of a loop in a loop, iteration by iteration.
    pub fn iteration(self, i: usize) -> Self {
        self.draw(i as u64 + 1)
    }

    /// The three words that kernels take: low and high half of the seed, and the step.
    pub fn words(self) -> [u32; 3] {
        [self.seed as u32, (self.seed >> 32) as u32, self.step]
    }
}

/// A key for each draw under a seed; the seed itself for draw 0. The mixing is that of SplitMix64 (Steele, Lea, Flood 2014), a
/// bijection.
fn mixed(seed: u64, draw: u64) -> u64 {
    if draw == 0 {
        return seed;
    }
    let mut key = seed.wrapping_add(draw.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    key = (key ^ key >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    key = (key ^ key >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    key ^ key >> 31
}

/// The values of named sources, and the counters.
#[derive(Clone, Debug, Default)]
pub struct Env {
    /// Inputs, parameters and states by name.
    pub values: HashMap<String, TensorData>,
    /// What random numbers depend on.
    pub counters: Counters,
    /// How much may be evaluated inside of calls, composites and differences.
    pub limits: Limits,
    /// Whether every zero that a node makes is made positive. A value that then is another depends on the sign of a zero, which
    /// some rewrites may change.
    pub unsigned_zeros: bool,
}

impl Env {
    /// The same environment with one more value.
    pub fn with(mut self, name: &str, value: impl Into<TensorData>) -> Self {
        self.values.insert(name.to_owned(), value.into());
        self
    }

    /// Starting values for every parameter and state of a graph, from their initialisers under this seed.
    ///
    /// # Errors
    /// `E0309` if there is no memory for them; nothing has changed then.
    pub fn initialize(&mut self, graph: &Graph, seed: u64) -> Result<(), Diag> {
        let is_missing = |node: &&Node| node.name().is_some_and(|name| !self.values.contains_key(name));
        let missing: Vec<&Node> = graph.stored().map(|(_, node)| node).filter(is_missing).collect();
        let beside = |node: &&Node| node.init().map_or(0, |init| init.bytes_beside(node.ty.shape()));
        let beside = missing.iter().map(beside).max().unwrap_or(0);
        memory::ask("the start of parameters and states", missing.iter().copied(), beside)?;
        self.counters.seed = seed;
        for node in missing {
            if let (Some(name), Some(init), Some((dtype, shape))) = (node.name(), node.init(), node.ty.as_tensor()) {
                self.values.insert(name.to_owned(), init.sample(seed, name, dtype, shape));
            }
        }
        Ok(())
    }
}

/// A value: one tensor, or several.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// One tensor.
    One(Arc<TensorData>),
    /// Several.
    Many(Vec<Value>),
}

impl Value {
    /// The tensor, if it is one.
    pub fn tensor(&self) -> Option<&TensorData> {
        match self {
            Value::One(t) => Some(t),
            Value::Many(_) => None,
        }
    }
}

/// Evaluates a graph's outputs, in their order.
///
/// # Errors
/// `E0115` if the graph is not well formed; `E0301` and `E0302` if a source has no value or one of another type; `E0303` and
/// `E0305` where a check fails; `E0114` if the record of an op is wrong; `E0901` for composites of tuples.
pub fn interpret(graph: &Graph, env: &Env) -> Result<Vec<TensorData>, Diag> {
    outputs(graph, trace(graph, env))
}

/// The values of outputs among those of all nodes.
fn outputs(graph: &Graph, (values, error): (Vec<Option<Value>>, Option<Diag>)) -> Result<Vec<TensorData>, Diag> {
    if let Some(diag) = error {
        return Err(diag);
    }
    let output = |o: &crate::ir::Output| match &values[o.value.index()] {
        Some(Value::One(t)) => Ok(t.as_ref().clone()),
        _ => Err(Diag::new(Code::NoSuchValue, format!("output `{}` is not a tensor", o.name))),
    };
    graph.outputs().iter().map(output).collect()
}

/// Evaluates a graph's outputs by name: results, and updates under `update NAME`.
///
/// # Errors
/// As [`interpret`].
pub fn interpret_named(graph: &Graph, env: &Env) -> Result<Vec<(String, TensorData)>, Diag> {
    let names = graph.outputs().iter().map(|o| match o.role {
        Role::Result => o.name.to_string(),
        Role::Update(_) => format!("update {}", o.name),
    });
    Ok(names.zip(interpret(graph, env)?).collect())
}

/// Evaluates every node that an output or a check needs.
///
/// # Errors
/// As [`interpret`].
pub fn interpret_nodes(graph: &Graph, env: &Env) -> Result<Vec<Option<Value>>, Diag> {
    match trace(graph, env) {
        (values, None) => Ok(values),
        (_, Some(diag)) => Err(diag),
    }
}

/// Evaluates every node that an output or a check needs, up to the first error: the values so far, and the error.
pub fn trace(graph: &Graph, env: &Env) -> (Vec<Option<Value>>, Option<Diag>) {
    let spent = Spent { nodes: &Cell::new(0), depth: MAX_EXPANSION_DEPTH };
    match graph.well_formed().and_then(|()| expand::with_flat_bodies(graph, env.limits)) {
        Ok(None) => in_default(|| run(graph, env, spent)),
        Ok(Some((flat, places))) => {
            let (values, error) = in_default(|| run(&flat, env, spent));
            (places.iter().map(|place| values[place.index()].clone()).collect(), error)
        }
        Err(diag) => (vec![None; graph.n_nodes()], Some(diag)),
    }
}

/// What goes into calls, composites and differences.
#[derive(Clone, Copy)]
struct Spent<'a> {
    /// Nodes that were evaluated inside of them.
    nodes: &'a Cell<usize>,
    /// How many more may hold each other.
    depth: usize,
}

/// The same for a graph that is known to be well formed.
fn run(graph: &Graph, env: &Env, spent: Spent<'_>) -> (Vec<Option<Value>>, Option<Diag>) {
    let live = graph.live();
    let mut values: Vec<Option<Value>> = vec![None; graph.n_nodes()];
    if let Err(diag) = room_for(graph, &live) {
        return (values, Some(diag));
    }
    for id in graph.ids().filter(|id| live[id.index()]) {
        match eval_node(graph, id, env, &values, spent) {
            Ok(value) => values[id.index()] = Some(value),
            Err(diag) => return (values, Some(diag)),
        }
    }
    (values, None)
}

/// Counts nodes that are about to be evaluated inside of the node at `at`.
fn spend(spent: Spent<'_>, n_nodes: usize, env: &Env, at: &Node) -> Result<(), Diag> {
    spent.nodes.set(spent.nodes.get().saturating_add(n_nodes));
    match spent.nodes.get() > env.limits.max_nodes {
        true => Err(env.limits.too_many_nodes(at.origin.loc())),
        false => Ok(()),
    }
}

/// Asks for the memory that interpreting a graph takes, as [`interpret`] and the others do themselves.
///
/// # Errors
/// `E0309` if there is not so much.
pub fn room(graph: &Graph) -> Result<(), Diag> {
    room_for(graph, &graph.live())
}

/// The same for the nodes that are needed: all values are held to the end, and evaluating one takes the bits of its operands
/// and of itself beside.
fn room_for(graph: &Graph, needed: &[bool]) -> Result<(), Diag> {
    let nodes = graph.nodes().iter().zip(needed).filter(|(_, needed)| **needed).map(|(node, _)| node);
    let beside = |node: &Node| {
        let operands = node.inputs.iter().map(|id| graph.ty(*id));
        let elements = operands.chain([&node.ty]).filter_map(Type::as_tensor).map(|(_, shape)| shape.n_elements());
        elements.fold(0, usize::saturating_add).saturating_mul(size_of::<u64>())
    };
    memory::ask("interpreting the graph", nodes.clone(), nodes.map(beside).max().unwrap_or(0))
}

fn eval_node(graph: &Graph, id: NodeId, env: &Env, values: &[Option<Value>], spent: Spent<'_>) -> Result<Value, Diag> {
    let value = signed_value(graph, id, env, values, spent)?;
    Ok(if env.unsigned_zeros { without_signs(value) } else { value })
}

/// A value whose zeros are all positive.
fn without_signs(value: Value) -> Value {
    match value {
        Value::One(t) if t.dtype().is_float() => {
            let dtype = t.dtype();
            let positive = |bits| if dtype.f64_of_bits(bits) == 0.0 { dtype.bits_of_f64(0.0) } else { bits };
            let bits: Vec<u64> = t.bits().into_iter().map(positive).collect();
            Value::One(Arc::new(TensorData::from_bits(dtype, &t.shape(), &bits)))
        }
        Value::One(t) => Value::One(t),
        Value::Many(members) => Value::Many(members.into_iter().map(without_signs).collect()),
    }
}

fn signed_value(
    graph: &Graph,
    id: NodeId,
    env: &Env,
    values: &[Option<Value>],
    spent: Spent<'_>,
) -> Result<Value, Diag> {
    let node = graph.node(id);
    let fail = |fault: Fault| fault.diag().at(node.origin.loc());
    let operands: SmallVec<[&Value; 4]> = node.inputs.iter().filter_map(|i| values[i.index()].as_ref()).collect();
    let cx = EvalCx { op: node.op.0, attrs: &node.attrs, ty: &node.ty, counters: env.counters, bodies: graph.bodies() };
    match &node.op.lower {
        Lower::Source(Source::Input | Source::Param | Source::State) => {
            let name = node.name().unwrap_or_default();
            let value = env
                .values
                .get(name)
                .ok_or_else(|| fail(Fault::new(Code::InputNames, format!("`{name}` has no value"))))?;
            if value.ty() != node.ty {
                let text = format!("`{name}` requires {}, got {}", node.ty, value.ty());
                return Err(fail(Fault::new(Code::InputType, text)));
            }
            Ok(Value::One(Arc::new(value.clone())))
        }
        Lower::Tuple => Ok(Value::Many(operands.into_iter().cloned().collect())),
        Lower::Item => match operands[0] {
            Value::Many(members) if node.attrs.size("index") < members.len() => {
                Ok(members[node.attrs.size("index")].clone())
            }
            _ => Err(fail(Fault::new(Code::NoSuchValue, "`item` of a single tensor"))),
        },
        Lower::Grad => central_differences(graph, id, env, spent),
        Lower::Expand(_) => {
            let expansion;
            let body: &Graph = match graph.called(node) {
                Some(body) => body,
                None => {
                    expansion = expand::one_op_graph(graph, id).map_err(|d| d.0[0].clone())?;
                    &expansion
                }
            };
            spend(spent, body.n_nodes(), env, node)?;
            let depth = spent.depth.checked_sub(1).ok_or_else(|| expand::too_deep().at(node.origin.loc()))?;
            let spent = Spent { depth, ..spent };
            let mut inner = Env { values: HashMap::new(), ..*env };
            for ((_, input), operand) in body.inputs().zip(&operands) {
                let tensor = operand
                    .tensor()
                    .ok_or_else(|| fail(Fault::new(Code::Unsupported, format!("`{}` of a tuple", node.op.name))))?;
                inner.values.insert(input.name().unwrap_or_default().to_owned(), tensor.clone());
            }
            let results = outputs(body, run(body, &inner, spent)).map_err(|d| d.at(node.origin.loc()))?;
            let mut results: Vec<Value> = results.into_iter().map(|t| Value::One(Arc::new(t))).collect();
            Ok(match &node.ty {
                Type::Tensor { .. } => results.swap_remove(0),
                Type::Tuple(_) => Value::Many(results),
            })
        }
        Lower::Loop => {
            let missing = || fail(Fault::new(Code::BadBody, "`scan` names a body that does not exist"));
            let depth = spent.depth.checked_sub(1).ok_or_else(|| expand::too_deep().at(node.origin.loc()))?;
            let tensors: Vec<&TensorData> = operands.iter().filter_map(|v| v.tensor()).collect();
            repeat(node, graph.scan(node).ok_or_else(missing)?, env, &tensors, Spent { depth, ..spent })
        }
        _ => {
            let tensors: SmallVec<[&TensorData; 4]> = operands.iter().filter_map(|v| v.tensor()).collect();
            Ok(Value::One(Arc::new(node.op.0.eval(&cx, &tensors).map_err(fail)?)))
        }
    }
}

/// The results of a loop: its body iteration by iteration, on copies of the parts of its slices.
fn repeat(node: &Node, scan: Scan<'_>, env: &Env, operands: &[&TensorData], spent: Spent<'_>) -> Result<Value, Diag> {
    let Type::Tuple(results) = &node.ty else { return Ok(Value::Many(Vec::new())) };
    let inputs: Vec<(&str, &Type)> =
        scan.body.inputs().map(|(_, input)| (input.name().unwrap_or_default(), &input.ty)).collect();
    let mut carries: Vec<TensorData> = operands[..scan.n_carries].iter().map(|&start| start.clone()).collect();
    let slices: Vec<Vec<u64>> = operands[scan.n_carries..][..scan.n_slices].iter().map(|slice| slice.bits()).collect();
    let mut stacked: Vec<Vec<u64>> =
        results[scan.n_carries..].iter().map(|ty| vec![0; ty.shape().n_elements()]).collect();
    let mut inner = Env { values: HashMap::new(), ..*env };
    for ((name, _), capture) in inputs.iter().zip(operands).skip(scan.n_carries + scan.n_slices) {
        inner.values.insert((*name).to_owned(), (*capture).clone());
    }
    for i in scan.iterations() {
        spend(spent, scan.body.n_nodes(), env, node)?;
        inner.counters = env.counters.iteration(i);
        let parts = inputs.iter().skip(scan.n_carries).zip(&slices).map(|((_, ty), bits)| {
            let n = ty.shape().n_elements();
            TensorData::from_bits(ty.dtype(), ty.shape(), &bits[i * n..][..n])
        });
        for ((name, _), value) in inputs.iter().zip(carries.drain(..).chain(parts)) {
            inner.values.insert((*name).to_owned(), value);
        }
        carries = outputs(scan.body, run(scan.body, &inner, spent))
            .map_err(|diag| in_iteration(diag, i, node.origin.loc()))?;
        for (made, all) in carries.split_off(scan.n_carries).into_iter().zip(&mut stacked) {
            let bits = made.bits();
            all[i * bits.len()..][..bits.len()].copy_from_slice(&bits);
        }
    }
    let all = results[scan.n_carries..].iter().zip(&stacked);
    let all = all.map(|(ty, bits)| TensorData::from_bits(ty.dtype(), ty.shape(), bits));
    Ok(Value::Many(carries.into_iter().chain(all).map(|value| Value::One(Arc::new(value))).collect()))
}

/// An error of a body in one of its iterations.
pub fn in_iteration(diag: Diag, iteration: usize, of: Loc) -> Diag {
    diag.note(format!("in iteration {iteration} of the loop"), of)
}

/// The derivative of the first operand of a `grad` node with respect to the second, element by element, by central
/// differences; meant for f64 graphs, where it is good to about 1e-9.
fn central_differences(graph: &Graph, id: NodeId, env: &Env, spent: Spent<'_>) -> Result<Value, Diag> {
    let node = graph.node(id);
    let (y, wrt) = (node.inputs[0], node.inputs[1]);
    let base = eval_with(graph, &node.inputs, env, &HashMap::new(), (node, spent))?;
    // What a gradient must not pass stays as it is while the operand moves.
    let stops =
        |id: &NodeId| matches!((&graph.node(*id).op.lower, &graph.node(*id).op.vjp), (Lower::Identity, Vjp::Zero(_)));
    let stops: Vec<NodeId> = before(graph, y).filter(stops).collect();
    let values = eval_with(graph, &stops, env, &HashMap::new(), (node, spent))?;
    let mut fixed: HashMap<NodeId, TensorData> = stops.into_iter().zip(values).collect();
    let x = &base[1];
    let seed: Option<Vec<f64>> = base.get(2).map(TensorData::to_f64);
    let dtype = x.dtype();
    let bits = x.bits();
    let mut out = Vec::with_capacity(bits.len());
    for i in 0..bits.len() {
        let at = dtype.f64_of_bits(bits[i]);
        let step = 1e-5 * at.abs().max(1.0);
        let mut sides = [0.0; 2];
        for (side, sign) in sides.iter_mut().zip([1.0, -1.0]) {
            let mut moved = bits.clone();
            moved[i] = dtype.bits_of_f64(at + sign * step);
            let moved = TensorData::from_bits(dtype, &x.shape(), &moved);
            fixed.insert(wrt, moved);
            let value = eval_with(graph, &[y], env, &fixed, (node, spent))?[0].to_f64();
            *side = match &seed {
                Some(seed) => value.iter().zip(seed).map(|(v, s)| v * s).sum(),
                None => value.first().copied().unwrap_or(0.0),
            };
        }
        out.push(dtype.bits_of_f64((sides[0] - sides[1]) / (2.0 * step)));
    }
    let shape: Shape = x.shape();
    Ok(Value::One(Arc::new(TensorData::from_bits(dtype, &shape, &out))))
}

/// The nodes that a value is computed from, itself among them.
fn before(graph: &Graph, y: NodeId) -> impl Iterator<Item = NodeId> {
    let mut needed = vec![false; y.index() + 1];
    needed[y.index()] = true;
    for i in (0..needed.len()).rev() {
        if needed[i] {
            for input in &graph.node(NodeId(i as u32)).inputs {
                needed[input.index()] = true;
            }
        }
    }
    needed.into_iter().enumerate().filter(|(_, n)| *n).map(|(i, _)| NodeId(i as u32))
}

/// Evaluates some nodes with the values of others given.
fn eval_with(
    graph: &Graph,
    wanted: &[NodeId],
    env: &Env,
    fixed: &HashMap<NodeId, TensorData>,
    (at, spent): (&Node, Spent<'_>),
) -> Result<Vec<TensorData>, Diag> {
    /// Nodes that are looked at in the time in which one is evaluated; elements that are copied, too.
    const LOOKED_AT: usize = 256;
    let n_elements: usize = fixed.values().map(|tensor| tensor.shape().n_elements()).sum();
    spend(spent, (graph.n_nodes() + n_elements) / LOOKED_AT, env, at)?;
    let mut needed = vec![false; graph.n_nodes()];
    for id in wanted {
        needed[id.index()] = true;
    }
    for id in graph.ids().rev() {
        if needed[id.index()] && !fixed.contains_key(&id) {
            for input in &graph.node(id).inputs {
                needed[input.index()] = true;
            }
        }
    }
    room_for(graph, &needed)?;
    let mut values: Vec<Option<Value>> = vec![None; graph.n_nodes()];
    for id in graph.ids().filter(|id| needed[id.index()]) {
        let value = match fixed.get(&id) {
            Some(tensor) => Value::One(Arc::new(tensor.clone())),
            None => {
                spend(spent, 1, env, at)?;
                eval_node(graph, id, env, &values, spent)?
            }
        };
        values[id.index()] = Some(value);
    }
    let tensor = |id: &NodeId| values[id.index()].as_ref().and_then(Value::tensor).cloned();
    let missing = || Diag::new(Code::NoSuchValue, "a derivative of a tuple");
    wanted.iter().map(|id| tensor(id).ok_or_else(missing)).collect()
}

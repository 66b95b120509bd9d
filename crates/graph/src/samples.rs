//! Sample values: operands of ops for the tests derived from the registry, and environments for whole graphs.
//!
//! An op's `samples` function asks the [`Sampler`] for operands where the op is defined and, if it has a derivative, where
//! it is smooth, so that central differences mean something. [`environment`] makes values for every source of any graph
//! of a user: what validation and gradient checks run it on. The same seed gives the same values, and a source's values
//! depend on its name alone, so that they stay when a graph around it changes.

use cotangent_host::float::in_default;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use cotangent_scalar::{DType, philox};

use crate::attrs::{Attr, Attrs};
use crate::builder::infer_type;
use crate::diag::{Diag, Loc};
use crate::expand::one_op_graph;
use crate::interp::Env;
use crate::ir::{Graph, Node, NodeId, Output, Role};
use crate::memory;
use crate::op::{Check, Fault, Lower, Source};
use crate::ops::arithmetic::{MAXIMUM, MINIMUM};
use crate::ops::compare::{CAST, SELECT};
use crate::step::StepCx;
use crate::tensor::TensorData;
use crate::types::{Shape, Type};

/// Operands and attributes of one op.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The operands.
    pub inputs: Vec<TensorData>,
    /// The attributes.
    pub attrs: Attrs,
    /// The declared type, for ops without operands to infer from.
    pub declared: Option<Type>,
}

impl Sample {
    /// Operands without attributes.
    pub fn new(inputs: Vec<TensorData>) -> Self {
        Sample { inputs, attrs: Attrs::none(), declared: None }
    }

    /// The same operands with attributes.
    pub fn attrs(mut self, attrs: Attrs) -> Self {
        self.attrs = attrs;
        self
    }
}

/// A source of reproducible operands of one float type.
#[derive(Clone, Debug)]
pub struct Sampler {
    dtype: DType,
    seed: u64,
    drawn: u64,
}

impl Sampler {
    /// A sampler whose floats have the given type.
    pub fn new(dtype: DType, seed: u64) -> Self {
        Sampler { dtype, seed, drawn: 0 }
    }

    /// The float type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// A number uniform on `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        self.drawn += 1;
        f64::from(philox::uniform_f32(philox::word(self.seed, 77, 0, self.drawn)))
    }

    /// A whole number of the range.
    pub fn int(&mut self, range: Range<i64>) -> i64 {
        range.start + (self.unit() * (range.end - range.start) as f64) as i64
    }

    /// Floats uniform on the range.
    pub fn float_in(&mut self, range: Range<f64>, shape: impl Into<Shape>) -> TensorData {
        let dtype = self.dtype;
        self.of(dtype, shape, |s| range.start + s.unit() * (range.end - range.start))
    }

    /// Floats whose magnitude is uniform on the range, of either sign: away from kinks at zero.
    pub fn away_from_zero(&mut self, range: Range<f64>, shape: impl Into<Shape>) -> TensorData {
        let dtype = self.dtype;
        self.of(dtype, shape, |s| {
            let magnitude = range.start + s.unit() * (range.end - range.start);
            if s.unit() < 0.5 { -magnitude } else { magnitude }
        })
    }

    /// Distinct floats at least 0.05 apart in a random order: away from ties.
    pub fn distinct(&mut self, shape: impl Into<Shape>) -> TensorData {
        let shape = shape.into();
        let n = shape.n_elements();
        let mut values: Vec<f64> = (0..n).map(|i| 0.1 * i as f64 - 0.05 * n as f64 + 0.05 * self.unit()).collect();
        for i in (1..n).rev() {
            values.swap(i, self.int(0..i as i64 + 1) as usize);
        }
        let bits: Vec<u64> = values.iter().map(|&v| self.dtype.bits_of_f64(v)).collect();
        TensorData::from_bits(self.dtype, &shape, &bits)
    }

    /// Whole numbers of the range, of an integer type.
    pub fn ints(&mut self, dtype: DType, range: Range<i64>, shape: impl Into<Shape>) -> TensorData {
        self.of(dtype, shape, |s| s.int(range.clone()) as f64)
    }

    /// Truth values.
    pub fn bools(&mut self, shape: impl Into<Shape>) -> TensorData {
        self.of(DType::Bool, shape, |s| f64::from(u8::from(s.unit() < 0.5)))
    }

    /// Elements from a function.
    pub fn of(&mut self, dtype: DType, shape: impl Into<Shape>, mut f: impl FnMut(&mut Self) -> f64) -> TensorData {
        let shape = shape.into();
        let bits: Vec<u64> = (0..shape.n_elements()).map(|_| dtype.bits_of_f64(f(self))).collect();
        TensorData::from_bits(dtype, &shape, &bits)
    }
}

/// What the values of an environment are like. All are finite, and all indices in range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What a step of training sees: parameters and states close to their starts, inputs of magnitude around 1.
    Ordinary,
    /// Every float of magnitude 0.05 to 1.5, whatever the initialisers: away from 0, where many functions have a kink.
    Smooth,
    /// As [`Kind::Smooth`], with zeros of either sign and a few whole numbers among them.
    Mixed,
    /// Huge and tiny floats, subnormals, zeros of either sign, and the ends of the integers.
    Extreme,
}

/// Ordinary values for every input, parameter and state of a graph, and counters; see [`environment_of`].
///
/// # Errors
/// As [`environment_of`].
pub fn environment(graph: &Graph, seed: u64) -> Result<Env, Diag> {
    environment_of(graph, seed, Kind::Ordinary)
}

/// Values of a kind for every input, parameter and state of a graph, and counters.
///
/// Integers that are used as indices, as far as that can be seen through ops that keep values and through composites and
/// calls, lie in their range.
///
/// # Errors
/// `E0309` if there is no memory for them.
pub fn environment_of(graph: &Graph, seed: u64, kind: Kind) -> Result<Env, Diag> {
    let sources = graph.nodes().iter().filter(|node| node.name().is_some());
    // Each is made from its bits.
    let bits = sources.clone().map(|node| node.ty.shape().n_elements().saturating_mul(size_of::<u64>())).max();
    memory::ask("a sample of inputs, parameters and states", sources, bits.unwrap_or(0))?;
    let bounds = index_bounds(graph, MAX_DEPTH);
    let mut env = Env::default();
    let word = |element| philox::word(seed, philox::stream_of("environment"), 0, element);
    env.counters.seed = (u64::from(word(0)) << 32) | u64::from(word(1));
    env.counters.step = word(2) % 1000;
    for (node, bound) in graph.nodes().iter().zip(bounds) {
        if let (Some(name), Some(_)) = (node.name(), node.ty.as_tensor()) {
            env.values.insert(name.to_owned(), in_default(|| source_values(node, name, bound, seed, kind)));
        }
    }
    Ok(env)
}

fn source_values(node: &Node, name: &str, bound: Option<usize>, seed: u64, kind: Kind) -> TensorData {
    let (dtype, shape) = (node.ty.dtype(), node.ty.shape());
    let mut s = Sampler::new(dtype, seed.rotate_left(32) ^ 0x5eed ^ u64::from(philox::stream_of(name)));
    if let (Kind::Ordinary, true, Some(init)) = (kind, dtype.is_float(), node.init()) {
        // Nearby, so that not all units of a layer are alike; states only upwards, as variances must not be negative.
        let start = init.sample(seed, name, dtype, shape).to_f64();
        let is_state = node.source() == Some(Source::State);
        let low = if is_state { 0.0 } else { -0.1 };
        let near = start.iter().map(|v| dtype.bits_of_f64(v + low + s.unit() * (0.1 - low)));
        return TensorData::from_bits(dtype, shape, &near.collect::<Vec<u64>>());
    }
    match (dtype, bound) {
        (DType::F32 | DType::F64, _) => s.of(dtype, shape, |s| s.float_of(dtype, kind)),
        (DType::Bool, _) => s.bools(shape),
        (DType::I32 | DType::I64, Some(bound)) => s.ints(dtype, 0..bound.max(1) as i64, shape),
        (DType::U8, _) => {
            s.of(dtype, shape, |s| if kind == Kind::Extreme { s.int(0..256) } else { s.int(0..9) } as f64)
        }
        _ => s.of(dtype, shape, |s| {
            const ENDS: [f64; 4] = [-2147483648.0, 2147483647.0, 65536.0, -65537.0];
            let ordinary = kind != Kind::Extreme || s.unit() < 0.6;
            if ordinary { s.int(-8..9) as f64 } else { *s.pick(&ENDS) }
        }),
    }
}

impl Sampler {
    /// One of the items, which must be some.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.int(0..items.len() as i64) as usize]
    }

    /// A float of an environment.
    fn float_of(&mut self, dtype: DType, kind: Kind) -> f64 {
        const SPECIAL: [f64; 6] = [0.0, -0.0, 1.0, -1.0, 0.5, 2.0];
        const EXTREME: [f64; 8] = [0.0, -0.0, 1.0, 1e-20, 3e4, 16_777_217.0, 1e20, 100.0];
        let chosen = self.unit();
        let sign = if self.unit() < 0.5 { -1.0 } else { 1.0 };
        match kind {
            Kind::Mixed if chosen < 0.05 => *self.pick(&SPECIAL),
            Kind::Extreme if chosen < 0.1 => {
                let (largest, subnormal, normal) = match dtype {
                    DType::F32 => (f64::from(f32::MAX), 1e-41, f64::from(f32::MIN_POSITIVE)),
                    _ => (f64::MAX, 1e-310, f64::MIN_POSITIVE),
                };
                sign * *self.pick(&[largest, subnormal, normal])
            }
            Kind::Extreme if chosen < 0.6 => sign * *self.pick(&EXTREME),
            _ => sign * (0.05 + 1.45 * self.unit()),
        }
    }
}

/// How deep composites are looked into.
const MAX_DEPTH: usize = 64;

/// For each node, the bound that its values must stay below because they are used as indices.
fn index_bounds(graph: &Graph, depth: usize) -> Vec<Option<usize>> {
    // A body uses its inputs alike wherever it is called.
    let mut of_bodies = HashMap::new();
    for body in graph.all_bodies() {
        let within = index_bounds_of_one(body, depth, &of_bodies);
        of_bodies.insert(Arc::as_ptr(body), body.inputs().map(|(id, _)| within[id.index()]).collect());
    }
    index_bounds_of_one(graph, depth, &of_bodies)
}

/// The same, given the bounds of the inputs of its bodies.
fn index_bounds_of_one(
    graph: &Graph,
    depth: usize,
    of_bodies: &HashMap<*const Graph, Vec<Option<usize>>>,
) -> Vec<Option<usize>> {
    let mut bounds: Vec<Option<usize>> = vec![None; graph.n_nodes()];
    for id in graph.ids().rev() {
        let node = graph.node(id);
        let own = bounds[id.index()];
        match &node.op.lower {
            Lower::Step(step) => {
                for (k, bound) in step.indices(&StepCx::of(graph, node)) {
                    tighten(&mut bounds, node.inputs[k], Some(bound));
                }
            }
            Lower::Check(check) => {
                tighten(&mut bounds, node.inputs[0], own);
                if *check == Check::Index {
                    tighten(&mut bounds, node.inputs[0], Some(node.attrs.size("bound")));
                }
            }
            Lower::View(_) | Lower::Join | Lower::Identity => {
                node.inputs.iter().for_each(|&input| tighten(&mut bounds, input, own));
            }
            Lower::Scalar(_) if node.op.is_any(&[&CAST, &SELECT, &MAXIMUM, &MINIMUM]) => {
                node.inputs.iter().for_each(|&input| tighten(&mut bounds, input, own));
            }
            Lower::Expand(_) if graph.called(node).is_some() => {
                let within = graph.called(node).and_then(|body| of_bodies.get(&Arc::as_ptr(body)));
                node.inputs
                    .iter()
                    .zip(within.into_iter().flatten())
                    .for_each(|(&input, &bound)| tighten(&mut bounds, input, bound));
            }
            Lower::Loop => {
                let within = graph.scan(node).and_then(|scan| of_bodies.get(&Arc::as_ptr(scan.body)));
                let bound = |k: usize| within.and_then(|bounds| bounds.get(k).copied().flatten());
                node.inputs.iter().enumerate().for_each(|(k, &input)| tighten(&mut bounds, input, bound(k)));
            }
            // A composite uses its operands as its expansion does.
            Lower::Expand(_) if depth > 0 && node.inputs.iter().any(|&i| is_integer(graph, i)) => {
                let Ok(expansion) = one_op_graph(graph, id) else { continue };
                let within = index_bounds(&expansion, depth - 1);
                for (k, &input) in node.inputs.iter().enumerate() {
                    let place = expansion.source(&k.to_string());
                    tighten(&mut bounds, input, place.and_then(|id| within[id.index()]));
                }
            }
            _ => {}
        }
    }
    bounds
}

fn is_integer(graph: &Graph, id: NodeId) -> bool {
    graph.ty(id).as_tensor().is_some_and(|(dtype, _)| matches!(dtype, DType::I32 | DType::I64))
}

fn tighten(bounds: &mut [Option<usize>], input: NodeId, bound: Option<usize>) {
    let known = &mut bounds[input.index()];
    *known = match (*known, bound) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
}

/// The same graph with f64 in the place of f32: sources, constants and conversions; everything else is inferred anew.
///
/// # Errors
/// If the graph is not well formed, or an op takes f32 alone.
pub fn to_f64(graph: &Graph) -> Result<Graph, Diag> {
    let mut wide = HashMap::new();
    for body in graph.all_bodies() {
        let new = Arc::new(one_to_f64(body, &wide)?);
        wide.insert(Arc::as_ptr(body), new);
    }
    one_to_f64(graph, &wide)
}

/// The same, given what its bodies became.
fn one_to_f64(graph: &Graph, wide: &HashMap<*const Graph, Arc<Graph>>) -> Result<Graph, Diag> {
    let mut out = Graph::with_registry(Arc::clone(graph.name()), graph.registry());
    let refused = |fault: Fault| fault.diag().at(Loc::Internal);
    let mut bodies = Vec::with_capacity(graph.bodies().len());
    for body in graph.bodies() {
        bodies.push(out.add_body(Arc::clone(&wide[&Arc::as_ptr(body)])).map_err(refused)?);
    }
    let mut map: Vec<NodeId> = Vec::with_capacity(graph.n_nodes());
    for node in graph.nodes() {
        let inputs = node.inputs.iter().map(|input| map[input.index()]).collect::<crate::ir::Inputs>();
        let attrs = node.attrs.map_bodies(|body| bodies[body.index()]);
        let attrs = attrs.iter().fold(Attrs::none(), |attrs, (name, value)| attrs.with(name, wide_attr(value)));
        let declared = wide_type(&node.ty);
        let ty = infer_type(&out, node.op.0, &inputs, &attrs, Some(&declared)).map_err(|fault| {
            Diag::new(fault.code, format!("`{}` in f64: {}", node.op.name, fault.message)).at(node.origin.loc())
        })?;
        map.push(out.add(node.op, inputs, attrs, ty, node.origin.clone()).map_err(refused)?);
    }
    for output in graph.outputs() {
        let role = match output.role {
            Role::Result => Role::Result,
            Role::Update(target) => Role::Update(map[target.index()]),
        };
        let output = Output { name: Arc::clone(&output.name), value: map[output.value.index()], role };
        out.add_output(output).map_err(refused)?;
    }
    Ok(out)
}

fn wide_type(ty: &Type) -> Type {
    match ty {
        Type::Tensor { dtype: DType::F32, shape } => Type::tensor(DType::F64, shape),
        Type::Tensor { .. } => ty.clone(),
        Type::Tuple(members) => Type::Tuple(members.iter().map(wide_type).collect()),
    }
}

fn wide_attr(value: &Attr) -> Attr {
    match value {
        Attr::DType(DType::F32) => Attr::DType(DType::F64),
        Attr::Tensor(data) => wide_data(data).into(),
        other => other.clone(),
    }
}

/// The same numbers with f64 in the place of f32.
pub fn wide_data(data: &TensorData) -> TensorData {
    match data {
        TensorData::F32(array) => array.mapv(f64::from).into(),
        other => other.clone(),
    }
}

/// The same environment with f64 in the place of f32.
pub fn wide_env(env: &Env) -> Env {
    let values = env.values.iter().map(|(name, data)| (name.clone(), wide_data(data))).collect();
    Env { values, ..*env }
}

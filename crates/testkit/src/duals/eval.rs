//! Graphs, written onto a tape: an element is a number on it, views, joins and selections are other places of the same
//! numbers. Composites are what they expand to. Integers and truth values are computed as they are.

use std::collections::HashMap;

use cotangent_graph::expand::one_op_graph;
use cotangent_graph::op::{EvalCx, Source};
use cotangent_graph::ops::arithmetic::{ADD, DIV, MAXIMUM, MINIMUM, MUL, SUB};
use cotangent_graph::ops::compare::{CAST, EQ, GE, GT, LE, LT, NE, SELECT};
use cotangent_graph::ops::cumulative::{CUMPROD, CUMSUM, LINEAR_RECURRENCE};
use cotangent_graph::ops::dynamic::{DYNAMIC_SLICE, DYNAMIC_UPDATE_SLICE, SCATTER_SET};
use cotangent_graph::ops::index::{GATHER, SCATTER_ADD};
use cotangent_graph::ops::math::{EXP, LOG, POW, SQRT};
use cotangent_graph::ops::norm::{LOG_SUM_EXP, VARIANCE};
use cotangent_graph::ops::sort::{ARG_TOP_K, ARGSORT};
use cotangent_graph::ops::view::{BROADCAST, PAD, SLICE};
use cotangent_graph::{
    Attrs, Counters, DType, Env, Graph, Lower, Node, NodeId, Number, OpDef, OpTraits, Shape, TensorData, Type, Vjp,
};
use cotangent_scalar::ReduceOp;

use super::slopes::{self, FUNCTIONS, Function};
use super::tape::{Dense, Id, Order, SLACK, Tape, fits};

/// How deep composites may hold each other.
const MAX_DEPTH: usize = 64;

/// The most numbers on a tape.
const MAX_NUMBERS: usize = 1 << 18;

/// A value.
#[derive(Clone, Debug)]
pub enum Value {
    /// Floats on the tape.
    Floats(DType, Shape, Vec<Id>),
    /// Integers or truth values, and for each whether rounding decides it, so that it is not known.
    Plain(TensorData, Vec<bool>),
    /// Several.
    Many(Vec<Value>),
}

/// A graph on a tape.
pub struct Taped {
    /// The numbers.
    pub tape: Tape,
    /// The sources that are floats, by name.
    pub sources: Vec<(String, Vec<Id>)>,
    /// The outputs.
    pub outputs: Vec<Value>,
}

/// Writes a graph without `grad` onto a tape.
///
/// # Errors
/// What has no values, or is not known to the tape.
pub fn tape(graph: &Graph, env: &Env) -> Result<Taped, String> {
    let mut writer = Writer { tape: Tape::default(), counters: env.counters, tag: 0 };
    let mut sources = Vec::new();
    let values = writer.graph(graph, MAX_DEPTH, |writer, name, ty| {
        let data = env.values.get(name).ok_or_else(|| format!("`{name}` has no value"))?;
        let value = writer.given(data, false);
        if let (Value::Floats(_, _, ids), true) = (&value, ty.dtype().is_float()) {
            sources.push((name.to_owned(), ids.clone()));
        }
        Ok(value)
    })?;
    Ok(Taped { tape: writer.tape, sources, outputs: values })
}

/// The row of the table for an op, if it has one.
pub fn function_of(op: &OpDef) -> Option<Function> {
    FUNCTIONS.iter().find(|(known, _)| std::ptr::eq(*known, op)).map(|(_, f)| *f)
}

/// Steps that move elements to places known at run time.
static MOVES: [&OpDef; 4] = [&GATHER, &DYNAMIC_SLICE, &DYNAMIC_UPDATE_SLICE, &SCATTER_SET];

pub(super) struct Writer {
    pub(super) tape: Tape,
    pub(super) counters: Counters,
    /// A number for each node that is written, so that only its own elements are found to be equal.
    pub(super) tag: u64,
}

pub(super) type Result<T, E = String> = std::result::Result<T, E>;

impl Writer {
    /// The outputs of a graph, with what `source` makes of inputs, parameters and states.
    pub(super) fn graph(
        &mut self,
        graph: &Graph,
        depth: usize,
        mut source: impl FnMut(&mut Writer, &str, &Type) -> Result<Value>,
    ) -> Result<Vec<Value>> {
        let depth = depth.checked_sub(1).ok_or("composites hold each other too deep")?;
        let live = graph.live();
        let mut values: HashMap<NodeId, Value> = HashMap::new();
        for id in graph.ids().filter(|id| live[id.index()] || graph.node(*id).source() == Some(Source::Input)) {
            let node = graph.node(id);
            let value = match node.source() {
                Some(Source::Input | Source::Param | Source::State) => {
                    source(self, node.name().unwrap_or_default(), &node.ty)?
                }
                _ => {
                    let operands = node.inputs.iter().map(|i| values.get(i).cloned().ok_or("an operand is missing"));
                    let operands: Vec<Value> = operands.collect::<Result<_, _>>()?;
                    self.tag += 1;
                    self.node(graph, id, operands, depth)?
                }
            };
            if self.tape.n_numbers() > MAX_NUMBERS {
                return Err("the graph is too large for a tape".into());
            }
            values.insert(id, value);
        }
        graph.outputs().iter().map(|o| values.get(&o.value).cloned().ok_or("an output is missing".into())).collect()
    }

    /// A tensor that is given.
    fn given(&mut self, data: &TensorData, is_constant: bool) -> Value {
        if !data.dtype().is_float() {
            let n = data.shape().n_elements();
            return Value::Plain(data.clone(), vec![false; n]);
        }
        let dtype = data.dtype();
        let ids = data.to_f64().into_iter().map(|v| self.tape.leaf(dtype, v, is_constant)).collect();
        Value::Floats(dtype, data.shape(), ids)
    }

    fn node(&mut self, graph: &Graph, id: NodeId, operands: Vec<Value>, depth: usize) -> Result<Value> {
        let node = graph.node(id);
        let not = |what: &str| format!("`{}` {what}", node.op.name);
        match &node.op.lower {
            Lower::Tuple => return Ok(Value::Many(operands)),
            Lower::Item => {
                return match &operands[0] {
                    Value::Many(members) => Ok(members[node.attrs.size("index")].clone()),
                    _ => Err(not("of a single tensor")),
                };
            }
            Lower::Loop => {
                let scan = graph.scan(node).ok_or_else(|| not("has no body"))?;
                return self.repeat(node, scan, &operands, depth);
            }
            Lower::Grad => return Err(not("is what the tape is compared with")),
            Lower::Expand(_) if function_of(node.op.0).is_some() => {
                return Ok(Value::Floats(node.ty.dtype(), node.ty.shape().clone(), self.scalar(node, &operands)?));
            }
            Lower::Expand(_) if node.is(&LOG_SUM_EXP) => return self.log_sum_exp(node, &operands),
            Lower::Expand(_) => {
                let expansion;
                let body: &Graph = match graph.called(node) {
                    Some(body) => body,
                    None => {
                        expansion = one_op_graph(graph, id).map_err(|diags| diags.to_string())?;
                        &expansion
                    }
                };
                let names = body.inputs().filter_map(|(_, input)| input.name().map(str::to_owned));
                let given: HashMap<String, Value> = names.zip(operands).collect();
                let missing = || not("has an operand too few");
                let has_rule = usize::from(matches!(node.op.vjp, Vjp::Rule(_)));
                self.tape.rules += has_rule;
                let mut results = self.graph(body, depth, |_, name, _| given.get(name).cloned().ok_or_else(missing))?;
                self.tape.rules -= has_rule;
                if has_rule > 0 && !node.op.traits.has(OpTraits::POINTWISE) {
                    results.iter_mut().for_each(|value| self.note_dense(value));
                }
                if node.is(&VARIANCE) {
                    // Of a row with an infinity the table says nothing but that it is not finite.
                    results.iter_mut().for_each(|value| self.open_where_nan(value));
                }
                return match &node.ty {
                    Type::Tuple(_) => Ok(Value::Many(results)),
                    Type::Tensor { .. } => results.into_iter().next().ok_or_else(|| not("expands to nothing")),
                };
            }
            _ => {}
        }
        if let Lower::Check(_) | Lower::Identity = &node.op.lower {
            let stops = matches!(node.op.vjp, Vjp::Zero(_));
            return Ok(match operands.into_iter().next().ok_or_else(|| not("of nothing"))? {
                Value::Floats(dtype, shape, ids) if stops => {
                    Value::Floats(dtype, shape, ids.into_iter().map(|x| self.tape.stopped(x)).collect())
                }
                other => other,
            });
        }
        let has_floats = operands.iter().any(|operand| matches!(operand, Value::Floats(..)));
        if !node.ty.dtype().is_float() {
            return if has_floats { self.plain_of_floats(node, &operands) } else { self.plain(node, &operands) };
        }
        if !has_floats {
            // From integers, or from nothing: exact.
            return match self.plain(node, &operands)? {
                Value::Plain(data, unknown) => {
                    let value = self.given(&data, matches!(node.source(), Some(Source::Constant)));
                    Ok(self.with_unknown(value, &unknown))
                }
                other => Ok(other),
            };
        }
        self.floats(node, &operands)
    }

    /// Floats, some of which are not known.
    fn with_unknown(&mut self, value: Value, unknown: &[bool]) -> Value {
        let Value::Floats(dtype, shape, ids) = value else { return value };
        let ids = ids.into_iter().zip(unknown).map(|(x, &u)| if u { self.tape.lost(x) } else { x });
        Value::Floats(dtype, shape, ids.collect())
    }

    /// Notes that a zero comes back to each element that is dropped by itself.
    fn note_dense(&mut self, value: &mut Value) {
        let Value::Floats(_, _, ids) = value else { return };
        ids.iter_mut().for_each(|id| *id = self.dense(*id, Dense::Sum));
    }

    /// Leaves open what becomes of elements that are NaN.
    fn open_where_nan(&mut self, value: &mut Value) {
        let Value::Floats(_, _, ids) = value else { return };
        for id in ids {
            if self.tape.value(*id).value.is_nan() {
                *id = self.tape.open(*id);
            }
        }
    }

    /// What the op's own function makes of tensors that are no floats, or of places on the tape.
    fn moved(&self, node: &Node, dtype: DType, attrs: &Attrs, inputs: &[&TensorData]) -> Result<TensorData> {
        let ty = Type::tensor(dtype, node.ty.shape());
        let cx = EvalCx { op: node.op.0, attrs, ty: &ty, counters: self.counters, bodies: &[] };
        (node.op.eval)(&cx, inputs).map_err(|fault| fault.message)
    }

    /// Integers or truth values of such.
    fn plain(&mut self, node: &Node, operands: &[Value]) -> Result<Value> {
        let mut inputs = Vec::new();
        let n = node.ty.shape().n_elements();
        let mut unknown = vec![false; n];
        for operand in operands {
            let Value::Plain(data, known) = operand else { return Err(format!("`{}` of a tuple", node.op.name)) };
            inputs.push(data);
            let is_pointwise = matches!(node.op.lower, Lower::Scalar(_));
            for (k, unknown) in unknown.iter_mut().enumerate() {
                *unknown |= if is_pointwise { known[k] } else { known.contains(&true) };
            }
        }
        Ok(Value::Plain(self.moved(node, node.ty.dtype(), &node.attrs, &inputs)?, unknown))
    }

    /// Comparisons and conversions of floats.
    fn plain_of_floats(&mut self, node: &Node, operands: &[Value]) -> Result<Value> {
        let dtype = node.ty.dtype();
        let mut bits = Vec::new();
        let mut unknown = Vec::new();
        match operands {
            [Value::Floats(_, _, a), Value::Floats(_, _, b)] => {
                let holds: fn(Order) -> bool = match () {
                    () if node.is(&EQ) => |o| o == Order::Equal,
                    () if node.is(&NE) => |o| o != Order::Equal,
                    () if node.is(&LT) => |o| o == Order::Less,
                    () if node.is(&LE) => |o| matches!(o, Order::Less | Order::Equal),
                    () if node.is(&GT) => |o| o == Order::Greater,
                    () if node.is(&GE) => |o| matches!(o, Order::Greater | Order::Equal),
                    () => return Err(format!("`{}` is not known to the tape", node.op.name)),
                };
                for (&a, &b) in a.iter().zip(b) {
                    let order = self.tape.compare(a, b);
                    bits.push(u64::from(holds(order)));
                    unknown.push(order == Order::Unknown);
                }
            }
            [Value::Floats(_, shape, ids)] if node.op.is_any(&[&ARGSORT, &ARG_TOP_K]) => {
                let values: Vec<f64> = ids.iter().map(|&id| self.tape.value(id).value.to_f64()).collect();
                let bits = values.iter().map(|v| v.to_bits()).collect::<Vec<u64>>();
                let places =
                    self.moved(node, dtype, &node.attrs, &[&TensorData::from_bits(DType::F64, shape, &bits)])?;
                // Whoever of a row is not told apart from another may be anywhere.
                let is_unsure = |row: &[Id]| {
                    let pairs = || row.iter().enumerate().flat_map(|(k, &a)| row[..k].iter().map(move |&b| (a, b)));
                    pairs().any(|(a, b)| self.tape.compare(a, b) == Order::Unknown)
                };
                let n = shape[shape.rank() - 1].max(1);
                let unsure = ids.chunks(n).any(is_unsure);
                return Ok(Value::Plain(places, vec![unsure; node.ty.shape().n_elements()]));
            }
            [Value::Floats(from, _, ids)] if node.is(&CAST) => {
                let zero = self.tape.leaf(*from, 0.0, true);
                for &id in ids {
                    let x = self.tape.value(id);
                    let at = |off: f64| dtype.bits_of_f64((x.value + off).to_f64());
                    let is_same = if dtype == DType::Bool {
                        self.tape.compare(id, zero) != Order::Unknown
                    } else {
                        at(SLACK * x.error) == at(-SLACK * x.error)
                    };
                    bits.push(at(0.0));
                    unknown.push(x.lost || !is_same);
                }
            }
            _ => return Err(format!("`{}` is not known to the tape", node.op.name)),
        }
        Ok(Value::Plain(TensorData::from_bits(dtype, node.ty.shape(), &bits), unknown))
    }

    /// Floats of floats.
    fn floats(&mut self, node: &Node, operands: &[Value]) -> Result<Value> {
        let (dtype, shape) = (node.ty.dtype(), node.ty.shape().clone());
        let ids = match &node.op.lower {
            Lower::Scalar(_) => self.scalar(node, operands)?,
            Lower::View(_) | Lower::Join => return self.places(node, operands),
            Lower::Reduce(how) => self.reduce(node, *how, operands)?,
            Lower::Gemm => self.product(node, operands)?,
            Lower::Conv(_) => self.convolution(node, operands)?,
            Lower::Step(_) if node.is(&SCATTER_ADD) => self.scatter(node, operands)?,
            Lower::Step(_) if node.op.is_any(&[&CUMSUM, &CUMPROD, &LINEAR_RECURRENCE]) => self.along(node, operands)?,
            Lower::Step(_) if node.op.is_any(&MOVES) => return self.places(node, operands),
            _ => return Err(format!("`{}` is not known to the tape", node.op.name)),
        };
        Ok(Value::Floats(dtype, shape, ids))
    }

    fn scalar(&mut self, node: &Node, operands: &[Value]) -> Result<Vec<Id>> {
        match operands {
            [Value::Floats(_, _, ids)] if node.is(&CAST) => {
                Ok(ids.iter().map(|&x| self.tape.cast(x, node.ty.dtype())).collect())
            }
            [Value::Floats(_, _, ids)] => {
                let f = function_of(node.op.0).ok_or_else(|| format!("`{}` has no row of slopes", node.op.name))?;
                Ok(ids.iter().map(|&x| self.unary(node, f, x)).collect())
            }
            [Value::Floats(_, _, a), Value::Floats(_, _, b)] => {
                a.iter().zip(b).map(|(&a, &b)| self.binary(node, a, b)).collect()
            }
            [Value::Plain(condition, unknown), Value::Floats(_, _, a), Value::Floats(_, _, b)] if node.is(&SELECT) => {
                let conditions = condition.bits();
                let mut taken = Vec::with_capacity(a.len());
                for k in 0..a.len() {
                    let id = if conditions[k] != 0 { a[k] } else { b[k] };
                    taken.push(if unknown[k] && a[k] != b[k] { self.tape.unsure(a[k], b[k]) } else { id });
                }
                Ok(taken)
            }
            _ => Err(format!("`{}` is not known to the tape", node.op.name)),
        }
    }

    fn unary(&mut self, node: &Node, f: Function, x: Id) -> Id {
        let is_length = node.is(&SQRT) && self.tape.is_squares(x);
        let id = self.tape.unary(if is_length { slopes::length } else { f }, &node.attrs, x, self.tag);
        if node.op.traits.has(OpTraits::POLE) && self.tape.rules == 0 {
            self.tape.note_pole(id);
        }
        id
    }

    fn binary(&mut self, node: &Node, a: Id, b: Id) -> Result<Id> {
        let positive = |tape: &Tape, id: Id| tape.constant(id).is_some_and(|c| c > 0.0 && c.is_finite());
        Ok(match () {
            () if node.is(&ADD) => self.add(a, b),
            () if node.is(&SUB) => self.tape.binary(|a, b| slopes::sum(a, b, -1.0), a, b, self.tag),
            () if node.is(&MUL) => {
                let id = self.tape.binary(slopes::product, a, b, self.tag);
                let scaled = |x, c| self.tape.is_squares(x) && positive(&self.tape, c);
                if a == b || scaled(a, b) || scaled(b, a) {
                    self.tape.note_squares(id);
                }
                id
            }
            () if node.is(&DIV) => {
                let id = self.tape.binary(slopes::quotient, a, b, self.tag);
                if self.tape.is_squares(a) && positive(&self.tape, b) {
                    self.tape.note_squares(id);
                }
                if self.tape.rules == 0 && self.tape.constant(b).is_none() {
                    self.tape.note_pole(id);
                }
                id
            }
            () if node.is(&POW) => {
                let id = self.tape.binary(slopes::power, a, b, self.tag);
                if self.tape.constant(b) == Some(2.0) {
                    self.tape.note_squares(id);
                }
                if self.tape.rules == 0 {
                    self.tape.note_pole(id);
                }
                id
            }
            () if node.is(&MAXIMUM) => self.extreme(a, b, Order::Greater),
            () if node.is(&MINIMUM) => self.extreme(a, b, Order::Less),
            () => return Err(format!("`{}` is not known to the tape", node.op.name)),
        })
    }

    pub(super) fn add(&mut self, a: Id, b: Id) -> Id {
        let id = self.tape.binary(|a, b| slopes::sum(a, b, 1.0), a, b, self.tag);
        if self.tape.is_squares(a) && self.tape.is_squares(b) {
            self.tape.note_squares(id);
        }
        id
    }

    /// `a` if it compares so with `b`, otherwise `b`; NaN if one is NaN, with the derivative of `b`.
    fn extreme(&mut self, a: Id, b: Id, wins: Order) -> Id {
        let is_nan = |id| self.tape.value(id).value.is_nan();
        match self.tape.compare(a, b) {
            Order::Unknown if a != b => {
                let value = if self.is_beyond(b, a, wins) { b } else { a };
                self.tape.either(value, a, b)
            }
            order if order == wins => self.tape.chosen(a, a),
            _ if is_nan(a) => self.tape.chosen(a, b),
            _ => self.tape.chosen(b, b),
        }
    }

    /// Whether the value of `x` is beyond that of `y`, whatever is rounded.
    fn is_beyond(&self, x: Id, y: Id, wins: Order) -> bool {
        let (x, y) = (self.tape.value(x).value, self.tape.value(y).value);
        if wins == Order::Greater { x > y } else { x < y }
    }

    /// Views, joins and gathers: the op moves places on the tape as it moves elements.
    fn places(&mut self, node: &Node, operands: &[Value]) -> Result<Value> {
        let mut attrs = node.attrs.clone();
        if node.is(&PAD) {
            let border = self.tape.leaf(node.ty.dtype(), node.attrs.number("value").value(), true);
            let kept = node.attrs.iter().filter(|(name, _)| *name != "value");
            attrs = kept.fold(Attrs::none(), |attrs, (name, value)| attrs.with(name, value.clone()));
            attrs = attrs.with("value", Number::from(i64::from(border)));
        }
        let mut inputs: Vec<TensorData> = Vec::new();
        let mut is_unknown = false;
        for operand in operands {
            match operand {
                Value::Floats(_, shape, ids) => {
                    let places: Vec<u64> = ids.iter().map(|&id| u64::from(id)).collect();
                    inputs.push(TensorData::from_bits(DType::I64, shape, &places));
                }
                Value::Plain(data, unknown) => {
                    is_unknown |= unknown.contains(&true);
                    inputs.push(data.clone());
                }
                Value::Many(_) => return Err(format!("`{}` of a tuple", node.op.name)),
            }
        }
        let is_moved = node.op.is_any(&MOVES);
        // Not for good at order 2 what lies between the elements of a slice.
        let has_steps = node.is(&SLICE) && node.attrs.sizes("step").iter().any(|&step| step > 1);
        if let (true, Value::Floats(_, shape, ids)) = (has_steps, &operands[0]) {
            let places: Vec<u64> = ids.iter().map(|&id| u64::from(self.dense(id, Dense::Second))).collect();
            inputs[0] = TensorData::from_bits(DType::I64, shape, &places);
        }
        if is_moved || inputs.iter().any(|input| is_repeated(node, &input.shape())) {
            // What comes back to an element that is used several times is a sum.
            for (operand, input) in operands.iter().zip(&mut inputs) {
                if let (Value::Floats(_, shape, ids), false) = (operand, matches!(node.op.lower, Lower::Join)) {
                    // Which elements a slice at a place known at run time takes is not followed.
                    let is_followed = node.ty.shape().n_elements() > 0 && (!is_moved || node.is(&GATHER));
                    let how = if is_followed { Dense::Sum } else { Dense::Product };
                    let places: Vec<u64> = ids.iter().map(|&id| u64::from(self.dense(id, how))).collect();
                    *input = TensorData::from_bits(DType::I64, shape, &places);
                }
            }
        }
        let inputs: Vec<&TensorData> = inputs.iter().collect();
        let places = self.moved(node, DType::I64, &attrs, &inputs)?;
        let mut ids: Vec<Id> = places.bits().into_iter().map(|place| place as Id).collect();
        if node.is(&SLICE) {
            // What is dropped of a part is not dropped for good: the mask would have to be padded.
            ids = ids.into_iter().map(|id| self.dense(id, Dense::Sum)).collect();
        }
        let unknown = vec![is_unknown; ids.len()];
        Ok(self.with_unknown(Value::Floats(node.ty.dtype(), node.ty.shape().clone(), ids), &unknown))
    }

    /// Running sums and products, and linear recurrences: element by element along an axis.
    fn along(&mut self, node: &Node, operands: &[Value]) -> Result<Vec<Id>> {
        let mut all: Vec<Vec<Id>> = Vec::new();
        for operand in operands {
            let Value::Floats(_, _, ids) = operand else { return Err("a recurrence of no floats".into()) };
            // Zeros come back to what is not used, and along the line to what is before something that is dropped.
            all.push(ids.iter().map(|&id| self.dense(id, Dense::Product)).collect());
        }
        let (dtype, shape, axis) = (node.ty.dtype(), node.ty.shape(), node.attrs.size("axis"));
        let (mut results, mut places) = (vec![0; shape.n_elements()], vec![0; shape.n_elements()]);
        places.iter_mut().enumerate().for_each(|(k, place)| *place = k as Id);
        for mut line in groups(shape, &[axis], &places) {
            if node.attrs.bool("reverse") {
                line.reverse();
            }
            let mut before: Vec<Id> = Vec::new();
            let places = line.clone();
            for at in line {
                let at = at as usize;
                let y = if node.is(&LINEAR_RECURRENCE) {
                    match before.last() {
                        None => all[1][at],
                        Some(&y) => {
                            let term = self.tape.binary(slopes::product, all[0][at], y, self.tag);
                            self.tape.note_dense(term, Dense::Product);
                            self.add(term, all[1][at])
                        }
                    }
                } else {
                    let exclusive = node.attrs.bool("exclusive");
                    let factors: Vec<Id> = before.iter().copied().chain((!exclusive).then_some(all[0][at])).collect();
                    self.reduced(if node.is(&CUMSUM) { ReduceOp::Sum } else { ReduceOp::Prod }, dtype, &factors)
                };
                results[at] = self.dense(y, Dense::Product);
                before.push(if node.is(&LINEAR_RECURRENCE) { results[at] } else { all[0][at] });
            }
            // Along a line with an infinity, zeros that come back from what is dropped meet it.
            let is_finite = |id: &Id| self.tape.value(*id).value.to_f64().is_finite();
            let links = places.iter().map(|&at| all[0][at as usize]).chain(before);
            if node.is(&LINEAR_RECURRENCE) && !links.collect::<Vec<Id>>().iter().all(is_finite) {
                for at in places {
                    results[at as usize] = self.tape.lost(results[at as usize]);
                }
            }
        }
        Ok(results)
    }

    /// A number to which a zero comes back where nothing does.
    pub(super) fn dense(&mut self, id: Id, how: Dense) -> Id {
        let id = self.tape.chosen(id, id);
        self.tape.note_dense(id, how);
        id
    }

    fn reduce(&mut self, node: &Node, how: ReduceOp, operands: &[Value]) -> Result<Vec<Id>> {
        let [Value::Floats(dtype, shape, ids)] = operands else { return Err("a reduction of no floats".into()) };
        let groups = groups(shape, &node.attrs.sizes("axes"), ids);
        Ok(groups.into_iter().map(|group| self.reduced(how, *dtype, &group)).collect())
    }

    /// `log Σ eˣ`, of which the expansion, but not the derivative, is made for infinite rows.
    fn log_sum_exp(&mut self, node: &Node, operands: &[Value]) -> Result<Value> {
        let [Value::Floats(dtype, shape, ids)] = operands else { return Err("rows of no floats".into()) };
        let (exp, log) = (function_of(&EXP).ok_or("no `exp`")?, function_of(&LOG).ok_or("no `log`")?);
        let mut results = Vec::new();
        self.tape.rules += 1;
        for group in groups(shape, &[node.attrs.size("axis")], ids) {
            let most = self.reduced(ReduceOp::Max, *dtype, &group);
            let most = self.tape.stopped(most);
            let mut terms = Vec::new();
            for x in group {
                let shifted = self.tape.binary(|a, b| slopes::sum(a, b, -1.0), x, most, self.tag);
                terms.push(self.tape.unary(exp, &node.attrs, shifted, self.tag));
            }
            let sum = self.reduced(ReduceOp::Sum, *dtype, &terms);
            let log = self.tape.unary(log, &node.attrs, sum, self.tag);
            let value = self.add(log, most);
            let is_finite = self.tape.value(most).value.is_finite();
            results.push(if is_finite { value } else { self.tape.chosen(most, value) });
        }
        self.tape.rules -= 1;
        Ok(Value::Floats(*dtype, node.ty.shape().clone(), results))
    }

    fn reduced(&mut self, how: ReduceOp, dtype: DType, group: &[Id]) -> Id {
        let Some((&first, rest)) = group.split_first() else {
            let nothing = match how {
                ReduceOp::Sum => 0.0,
                ReduceOp::Prod => 1.0,
                ReduceOp::Max => f64::NEG_INFINITY,
                ReduceOp::Min => f64::INFINITY,
            };
            return self.tape.leaf(dtype, nothing, true);
        };
        match how {
            ReduceOp::Sum => rest.iter().fold(first, |sum, &x| self.add(sum, x)),
            ReduceOp::Prod => self.multiplied(dtype, first, rest),
            ReduceOp::Max => self.first_extreme(first, rest, Order::Greater),
            ReduceOp::Min => self.first_extreme(first, rest, Order::Less),
        }
    }

    /// A product, which a program may form in another order: where one of some of the factors is not in the type, it is not known.
    fn multiplied(&mut self, dtype: DType, first: Id, rest: &[Id]) -> Id {
        let sizes = || rest.iter().chain([&first]).map(|&x| self.tape.value(x).value.size());
        let is_infinite = !sizes().all(f64::is_finite);
        let small: f64 = sizes().filter(|&size| size > 0.0).map(|size| size.min(1.0)).product();
        let large: f64 = sizes().filter(|size| size.is_finite()).map(|size| size.max(1.0)).product();
        let how = if is_infinite { slopes::infinite_product } else { slopes::product };
        let all = rest.iter().fold(first, |all, &x| {
            let all = self.tape.binary(how, all, x, self.tag);
            self.tape.note_dense(all, Dense::Second);
            all
        });
        if fits(small, dtype) && fits(large, dtype) { all } else { self.tape.lost(all) }
    }

    /// The first of the extreme elements, or the first NaN.
    fn first_extreme(&mut self, first: Id, rest: &[Id], wins: Order) -> Id {
        let mut best = first;
        for &x in rest {
            let is_nan = |id| self.tape.value(id).value.is_nan();
            if is_nan(best) {
                continue;
            }
            match self.tape.compare(x, best) {
                Order::Unknown if x != best => {
                    let value = if self.is_beyond(x, best, wins) { x } else { best };
                    best = self.tape.either(value, best, x);
                }
                order if order == wins || is_nan(x) => best = x,
                _ => {}
            }
        }
        self.tape.chosen(best, best)
    }

    fn scatter(&mut self, node: &Node, operands: &[Value]) -> Result<Vec<Id>> {
        let [Value::Floats(dtype, _, ids), Value::Plain(indices, unknown)] = operands else {
            return Err("a scatter of no floats".into());
        };
        let shape = node.ty.shape();
        let row: usize = shape[1..].iter().product();
        let mut rows: Vec<Option<Id>> = vec![None; shape.n_elements()];
        for (k, index) in indices.bits().into_iter().enumerate() {
            let index = if indices.dtype() == DType::I32 { i64::from(index as u32 as i32) } else { index as i64 };
            for j in 0..row {
                let place = rows.get_mut(index as usize * row + j).ok_or("an index out of range")?;
                let x = ids[k * row + j];
                let x = if unknown[k] { self.tape.lost(x) } else { self.dense(x, Dense::Product) };
                *place = Some(place.map_or(x, |sum| self.add(sum, x)));
            }
        }
        Ok(rows.into_iter().map(|x| x.unwrap_or_else(|| self.tape.leaf(*dtype, 0.0, true))).collect())
    }
}

/// Whether elements of the operand may be used several times, or never.
fn is_repeated(node: &Node, operand: &Shape) -> bool {
    node.is(&BROADCAST) && node.ty.shape().n_elements() != operand.n_elements()
}

/// The places of a tensor by the place of what they are reduced to, in row-major order.
fn groups(shape: &Shape, axes: &[usize], ids: &[Id]) -> Vec<Vec<Id>> {
    let kept: Vec<usize> = (0..shape.rank()).filter(|axis| !axes.contains(axis)).collect();
    let reduced = shape.without(axes);
    let (from, to) = (shape.strides(), reduced.strides());
    let mut groups: Vec<Vec<Id>> = vec![Vec::new(); reduced.n_elements()];
    for (place, &id) in ids.iter().enumerate() {
        let index = |axis: usize| place as i64 / from[axis] % shape[axis] as i64;
        let group: i64 = kept.iter().zip(&to).map(|(&axis, stride)| index(axis) * stride).sum();
        groups[group as usize].push(id);
    }
    groups
}

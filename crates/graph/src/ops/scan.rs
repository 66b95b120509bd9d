//! Loops: `scan`, and what is made of it, `fori` and `while_loop`.

use std::sync::Arc;

use cotangent_scalar::DType;
use smallvec::SmallVec;

use crate::attrs::{AttrKind, AttrSpec, Attrs};
use crate::builder::{GraphBuilder, Tensor};
use crate::diag::{Code, Diag};
use crate::eval;
use crate::ir::{Graph, Node, NodeId};
use crate::op::{Arity, Fault, InferCx, Lower, OpDef, OpTraits, Vjp};
use crate::ops::arithmetic::ADD;
use crate::ops::region::Body;
use crate::types::{Shape, Type};

/// The most iterations of a loop.
pub const MAX_ITERATIONS: usize = 1 << 40;

/// A body that is run again and again.
pub static SCAN: OpDef = OpDef {
    name: "scan",
    doc: "Runs a body `n` times. Operands: where the carries start, then slices `[n, ..]`, then captures. The body takes the \
          carries, one part of each slice without the leading axis, and the captures; it makes the next carries, then outputs. \
          The value is a tuple: the last carries, then the outputs of all iterations `[n, ..]`. Iteration `i` takes part `i` of \
          the slices and makes part `i` of the outputs; iterations go from 0 on, with `reverse` from `n - 1` down. Random \
          numbers of the body are those of the iteration.",
    arity: Arity::AtLeast(0),
    attrs: &[
        AttrSpec { name: "body", kind: AttrKind::Body, doc: "the body" },
        AttrSpec { name: "n", kind: AttrKind::Int, doc: "number of iterations, from 0 on" },
        AttrSpec { name: "carries", kind: AttrKind::Int, doc: "how many of the operands are starts of carries" },
        AttrSpec { name: "slices", kind: AttrKind::Int, doc: "how many of those that follow are slices" },
        AttrSpec { name: "reverse", kind: AttrKind::Bool, doc: "whether iterations go from the last to the first" },
    ],
    traits: OpTraits::NONE,
    infer,
    eval: eval::unbound,
    vjp: Vjp::None("a loop is differentiated through its items"),
    lower: Lower::Loop,
    samples: |_| Vec::new(),
};

/// The ops of this file.
pub(crate) static OPS: &[&OpDef] = &[&SCAN];

/// What a loop is, read off its node.
#[derive(Clone, Copy, Debug)]
pub struct Scan<'a> {
    /// The body.
    pub body: &'a Arc<Graph>,
    /// Number of iterations.
    pub n: usize,
    /// Operands that are starts of carries; as many of the body's outputs are the next ones.
    pub n_carries: usize,
    /// Operands after these that are slices. The others are captures.
    pub n_slices: usize,
    /// Whether iterations go from the last to the first.
    pub reverse: bool,
}

impl<'a> Scan<'a> {
    /// Of a node's attributes and the bodies of its graph; `None` if there is no such body.
    pub fn of(attrs: &Attrs, bodies: &'a [Arc<Graph>]) -> Option<Self> {
        let body = bodies.get(attrs.body("body")?.index())?;
        let (n, reverse) = (attrs.size("n"), attrs.bool("reverse"));
        Some(Scan { body, n, n_carries: attrs.size("carries"), n_slices: attrs.size("slices"), reverse })
    }

    /// The numbers of the iterations in their order.
    pub fn iterations(&self) -> impl Iterator<Item = usize> + use<> {
        let (n, reverse) = (self.n, self.reverse);
        (0..n).map(move |k| if reverse { n - 1 - k } else { k })
    }

    /// The attributes of a loop over another body.
    pub fn attrs(&self, body: crate::ir::BodyId) -> Attrs {
        let counts = Attrs::none().with("body", body).with("n", self.n as i64).with("carries", self.n_carries as i64);
        counts.with("slices", self.n_slices as i64).with("reverse", self.reverse)
    }
}

impl Graph {
    /// What a node runs again and again, if it is a loop.
    pub fn scan(&self, node: &Node) -> Option<Scan<'_>> {
        matches!(node.op.lower, Lower::Loop).then(|| Scan::of(&node.attrs, self.bodies())).flatten()
    }

    /// Whether a node is one of the results of a loop.
    pub fn is_of_loop(&self, node: &Node) -> bool {
        let of = node.inputs.first().filter(|_| matches!(node.op.lower, Lower::Item));
        of.is_some_and(|&of| matches!(self.node(of).op.lower, Lower::Loop))
    }
}

/// What of a body a derivative had better read than compute again: convolutions, and products of at least `DEAR` terms, that go by
/// a carry, each with what is only added to it.
pub fn dear_values(body: &Graph, n_carries: usize) -> Vec<NodeId> {
    let mut readers: Vec<SmallVec<[NodeId; 2]>> = vec![SmallVec::new(); body.n_nodes()];
    let mut carried = vec![false; body.n_nodes()];
    body.inputs().take(n_carries).for_each(|(id, _)| carried[id.index()] = true);
    // What nothing needs is not there in a copy of the body.
    let live = body.live();
    for (id, node) in body.ids().zip(body.nodes()).filter(|(id, _)| live[id.index()]) {
        node.inputs.iter().for_each(|input| readers[input.index()].push(id));
        carried[id.index()] |= node.inputs.iter().any(|input| carried[input.index()]);
    }
    // A result has readers outside of the body.
    body.outputs().iter().for_each(|output| readers[output.value.index()].push(output.value));
    let is_dear = |id: &NodeId| {
        let node = body.node(*id);
        let is_long = match node.op.lower {
            Lower::Gemm => {
                let a = body.ty(node.inputs[0]).shape();
                a[a.rank() - if node.attrs.bool("ta") { 2 } else { 1 }] >= DEAR
            }
            Lower::Conv(_) => true,
            _ => false,
        };
        is_long && live[id.index()] && carried[id.index()]
    };
    let mut dear: Vec<NodeId> = Vec::new();
    for mut id in body.ids().filter(is_dear) {
        while let [reader] = readers[id.index()][..] {
            let is_sum = body.node(reader).is(&ADD) && reader != id;
            if !is_sum {
                break;
            }
            id = reader;
        }
        if !dear.contains(&id) {
            dear.push(id);
        }
    }
    dear
}

/// From how many terms on an element of a product is read rather than computed again: in the time of writing and reading four bytes,
/// at some 10 GB/s, a core with vectors of 256 bits does about so many multiplications and additions.
const DEAR: usize = 32;

/// A shape with the iterations in front.
fn stacked(n: usize, shape: &Shape) -> Shape {
    std::iter::once(n).chain(shape.iter().copied()).collect()
}

fn infer(cx: &InferCx<'_>) -> Result<Type, Fault> {
    let bad = |text: String| Fault::new(Code::BadBody, text);
    let scan = Scan::of(cx.attrs, cx.bodies).ok_or_else(|| bad("`scan` names a body that does not exist".into()))?;
    for name in ["n", "carries", "slices"] {
        let got = cx.attrs.int(name);
        if !(0..=MAX_ITERATIONS as i64).contains(&got) {
            return Err(cx.attr_fault(format_args!("requires `{name}` from 0 to 2^40, got {got}")));
        }
    }
    let (body, n_operands) = (scan.body, cx.inputs.len());
    let (n_inputs, n_outputs) = (body.inputs().count(), body.outputs().len());
    if scan.n_carries + scan.n_slices > n_operands || n_inputs != n_operands {
        let text = format!(
            "`scan` over @{} requires an operand for each of its {n_inputs} inputs, among them {} carries and {} slices; got \
             {n_operands}",
            body.name(),
            scan.n_carries,
            scan.n_slices
        );
        return Err(bad(text));
    }
    if n_outputs < scan.n_carries.max(1) {
        let text = format!(
            "`scan` requires a body with at least one result, and a next value for each of {} carries; @{} has {n_outputs} results",
            scan.n_carries,
            body.name()
        );
        return Err(bad(text));
    }
    let n_taken = scan.n_carries + scan.n_slices;
    for (k, ((_, input), operand)) in body.inputs().zip(cx.inputs).enumerate() {
        let (_, shape) = cx.tensor(k)?;
        let wrong = |what: String| {
            let mut fault = bad(format!("`scan` over @{} {what}", body.name()));
            fault
                .notes
                .push((format!("input {k} of the body, of type {}, was declared", input.ty), input.origin.loc()));
            Err(fault)
        };
        if (scan.n_carries..n_taken).contains(&k) {
            if shape.first() != Some(&scan.n) {
                let slice = k - scan.n_carries;
                let text = format!(
                    "requires slices with a leading axis of {} iterations, got {operand} as slice {slice}",
                    scan.n
                );
                return wrong(text);
            }
            if input.ty != Type::tensor(operand.dtype(), &shape[1..]) {
                return wrong(format!(
                    "takes parts of type {} of slice {}, got {operand}",
                    input.ty,
                    k - scan.n_carries
                ));
            }
        } else if input.ty != **operand {
            let what = if k < scan.n_carries { "carry" } else { "capture" };
            let number = if k < scan.n_carries { k } else { k - n_taken };
            return wrong(format!("requires {what} {number} of type {}, got {operand}", input.ty));
        }
    }
    let mut results = Vec::with_capacity(n_outputs);
    for (k, output) in body.outputs().iter().enumerate() {
        let ty = body.ty(output.value);
        let Some((dtype, shape)) = ty.as_tensor() else {
            return Err(bad(format!(
                "`scan` requires tensors as results of its body, result {k} of @{} is {ty}",
                body.name()
            )));
        };
        if k >= scan.n_carries {
            results.push(Type::tensor(dtype, stacked(scan.n, shape)));
            continue;
        }
        if ty != cx.inputs[k] {
            let text = format!(
                "`scan` requires carries that keep their type: carry {k} of @{} starts as {} and becomes {ty}",
                body.name(),
                cx.inputs[k]
            );
            let mut fault = bad(text).help("start it with that type, or `cast` what the body makes of it");
            fault.notes.push(("the next value is made".into(), body.node(output.value).origin.loc()));
            return Err(fault);
        }
        results.push(ty.clone());
    }
    Ok(Type::Tuple(results))
}

/// What is kept of a loop's carries for its derivative. Less memory is more work: what is not kept is computed again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checkpoint {
    /// Each iteration's.
    #[default]
    All,
    /// Those of every so many iterations; the others are computed again, at most so many of them at a time.
    Every(usize),
    /// Those of every so many iterations that what is kept, with what is computed again at a time, takes at most so many bytes, or as
    /// few as can be.
    Budget(usize),
}

impl Checkpoint {
    /// Every how many of `n` iterations carries of so many bytes are kept: at least 1. Derivatives read `dear_bytes` more of each
    /// iteration that is not computed again, or is just being ([`dear_values`]).
    pub fn every(self, n: usize, carry_bytes: usize, dear_bytes: usize) -> usize {
        match self {
            Checkpoint::All => 1,
            Checkpoint::Every(k) => k.clamp(1, n.max(1)),
            Checkpoint::Budget(bytes) => {
                let all = carry_bytes.saturating_add(dear_bytes);
                let takes = |k: usize| match k {
                    1 => n.saturating_mul(all),
                    _ => n.div_ceil(k).saturating_mul(carry_bytes).saturating_add(k.saturating_mul(all)),
                };
                // Beyond what is computed again at a time takes more than what is kept.
                let most = (n.saturating_mul(carry_bytes) / all.max(1)).isqrt().max(1);
                (1..=most).find(|&k| takes(k) <= bytes).unwrap_or(most)
            }
        }
    }
}

/// What a loop runs over; see [`GraphBuilder::scan`].
#[derive(Clone, Debug, Default)]
pub struct Loop<'g> {
    carries: Vec<Tensor<'g>>,
    slices: Vec<Tensor<'g>>,
    captures: Vec<Tensor<'g>>,
    n: Option<usize>,
    reverse: bool,
    checkpoint: Checkpoint,
}

impl<'g> Loop<'g> {
    /// Nothing yet.
    pub fn new() -> Self {
        Loop::default()
    }

    /// One more value that each iteration makes anew, and where it starts.
    pub fn carry(mut self, start: Tensor<'g>) -> Self {
        self.carries.push(start);
        self
    }

    /// One more tensor `[n, ..]` of which iteration `i` takes part `i`.
    pub fn slice(mut self, tensor: Tensor<'g>) -> Self {
        self.slices.push(tensor);
        self
    }

    /// One more tensor that every iteration sees as it is. The body is closed: what it uses from outside is captured.
    pub fn capture(mut self, tensor: Tensor<'g>) -> Self {
        self.captures.push(tensor);
        self
    }

    /// The number of iterations; needed if there is no slice.
    pub fn times(mut self, n: usize) -> Self {
        self.n = Some(n);
        self
    }

    /// From the last slice to the first.
    pub fn reversed(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// What is kept for the derivative.
    pub fn checkpoint(mut self, checkpoint: Checkpoint) -> Self {
        self.checkpoint = checkpoint;
        self
    }
}

/// What an iteration is given, in the order in which the [`Loop`] names it.
#[derive(Clone, Debug)]
pub struct Iteration<'b> {
    /// The carries.
    pub carries: Vec<Tensor<'b>>,
    /// The parts of the slices.
    pub slices: Vec<Tensor<'b>>,
    /// The captures.
    pub captures: Vec<Tensor<'b>>,
}

/// What an iteration makes.
#[derive(Clone, Debug, Default)]
pub struct Made<'b> {
    /// The next carries.
    pub carries: Vec<Tensor<'b>>,
    /// The outputs.
    pub outputs: Vec<Tensor<'b>>,
}

/// What a loop makes.
#[derive(Clone, Debug, Default)]
pub struct Looped<'g> {
    /// The carries after the last iteration.
    pub carries: Vec<Tensor<'g>>,
    /// The outputs of all iterations `[n, ..]`.
    pub outputs: Vec<Tensor<'g>>,
}

/// A body and what it is run over.
struct Run<'a, 'g> {
    body: &'a Body,
    carries: Vec<Tensor<'g>>,
    slices: Vec<Tensor<'g>>,
    captures: &'a [Tensor<'g>],
    n: usize,
    reverse: bool,
}

impl GraphBuilder {
    /// Runs a body once for each part of the slices, and hands what it carries on from one iteration to the next.
    ///
    /// ```
    /// use cotangent_graph::{DType::F32, Init, build, ops::scan::{Loop, Made}};
    ///
    /// // h ← tanh(x·w + h·u), over 20 steps of a batch of 8.
    /// let graph = build(|g| {
    ///     let (x, h) = (g.input("x", F32, [20, 8, 3]), g.input("h", F32, [8, 4]));
    ///     let (w, u) = (g.param("w", F32, [3, 4], Init::GlorotUniform), g.param("u", F32, [4, 4], Init::GlorotUniform));
    ///     let run = g.scan("rnn", Loop::new().carry(h).slice(x).capture(w).capture(u), |_, i| {
    ///         let h = (i.slices[0].matmul(i.captures[0]) + i.carries[0].matmul(i.captures[1])).tanh();
    ///         Made { carries: vec![h], outputs: vec![h] }
    ///     });
    ///     g.output("all", run.outputs[0]);
    ///     g.output("dw", g.grad(run.carries[0].sum(), &[w])[0]);
    /// })?;
    /// # Ok::<(), cotangent_graph::Diags>(())
    /// ```
    ///
    /// The number of iterations is that of the slices, or [`Loop::times`]; 0 is allowed. With a [`Checkpoint`] other than
    /// [`Checkpoint::All`] it is a loop of loops. Random numbers are drawn for each iteration anew.
    #[track_caller]
    pub fn scan<'g>(
        &'g self,
        name: &str,
        over: Loop<'g>,
        f: impl for<'b> FnOnce(&'b GraphBuilder, &Iteration<'b>) -> Made<'b>,
    ) -> Looped<'g> {
        let n = match self.iterations(name, &over) {
            Ok(n) => n,
            Err(diag) => {
                self.error(diag);
                1
            }
        };
        let part = |slice: &Tensor<'g>| Type::tensor(slice.dtype(), slice.shape().get(1..).unwrap_or_default());
        let whole = |tensor: &Tensor<'g>| Type::tensor(tensor.dtype(), tensor.shape());
        let types = over.carries.iter().map(whole).chain(over.slices.iter().map(part));
        let types: Vec<Type> = types.chain(over.captures.iter().map(whole)).collect();
        let (n_carries, n_slices) = (over.carries.len(), over.slices.len());
        let stream = self.stream_name(name);
        let mut n_next = 0;
        let body = self.body_in(&stream, Some(&stream), &types, |g, inputs| {
            let iteration = Iteration {
                carries: inputs[..n_carries].to_vec(),
                slices: inputs[n_carries..][..n_slices].to_vec(),
                captures: inputs[n_carries + n_slices..].to_vec(),
            };
            let Made { carries, outputs } = f(g, &iteration);
            n_next = carries.len();
            carries.into_iter().chain(outputs).collect()
        });
        if n_next != n_carries {
            let text = format!(
                "`scan` requires a next value for each of its {n_carries} carries, the body `{name}` makes {n_next}"
            );
            self.error(Diag::new(Code::BadBody, text).operands(&over.carries));
        }
        let bytes: usize = over.carries.iter().map(|carry| whole(carry).n_bytes()).sum();
        let dear = |body: &Arc<Graph>| -> usize {
            dear_values(body, n_carries).into_iter().map(|id| body.ty(id).n_bytes()).sum()
        };
        let every = over.checkpoint.every(n, bytes, body.graph().map_or(0, dear));
        let Loop { carries, slices, captures, reverse, .. } = over;
        let run = Run { body: &body, carries, slices, captures: &captures, n, reverse };
        if every == 1 { self.run(run) } else { self.run_in_parts(&stream, run, every) }
    }

    /// Runs a body `n` times with the number of the iteration, an i64 scalar.
    #[track_caller]
    pub fn fori<'g>(
        &'g self,
        name: &str,
        n: usize,
        over: Loop<'g>,
        f: impl for<'b> FnOnce(&'b GraphBuilder, Tensor<'b>, &Iteration<'b>) -> Made<'b>,
    ) -> Looped<'g> {
        let over = over.times(n).slice(self.iota(DType::I64, [n], 0));
        self.scan(name, over, |g, iteration| {
            let mut iteration = iteration.clone();
            match iteration.slices.pop() {
                Some(number) => f(g, number, &iteration),
                None => Made::default(),
            }
        })
    }

    /// Runs a body as long as a condition on the carries, a scalar truth value, holds, at most `bound` times: the carries then, and
    /// how often it ran, an i64 scalar. If that is `bound`, the condition may hold still.
    ///
    /// The program is static, so that the loop goes on to the bound, and drops what is made from where the condition fails on.
    #[track_caller]
    pub fn while_loop<'g>(
        &'g self,
        name: &str,
        bound: usize,
        over: Loop<'g>,
        holds: impl for<'b> FnOnce(&'b GraphBuilder, &Iteration<'b>) -> Tensor<'b>,
        f: impl for<'b> FnOnce(&'b GraphBuilder, &Iteration<'b>) -> Vec<Tensor<'b>>,
    ) -> (Vec<Tensor<'g>>, Tensor<'g>) {
        let n_carries = over.carries.len();
        let (going, count) = (self.constant(true), self.scalar(0, DType::I64));
        let run = self.scan(name, over.times(bound).carry(going).carry(count), |g, iteration| {
            let mut inner = iteration.clone();
            let counted = inner.carries.split_off(n_carries);
            let goes_on = holds(g, &inner) & counted[0];
            let next = f(g, &inner);
            let mut carries = Vec::with_capacity(next.len() + 2);
            for (new, old) in next.into_iter().zip(&inner.carries) {
                carries.push(goes_on.broadcast_to(new.shape()).select(new, *old));
            }
            carries.push(goes_on);
            carries.push(counted[1] + goes_on.cast(DType::I64));
            Made { carries, outputs: Vec::new() }
        });
        let mut carries = run.carries;
        let count = carries.pop().unwrap_or_else(|| self.poisoned());
        carries.pop();
        (carries, count)
    }

    /// How often a loop runs.
    fn iterations(&self, name: &str, over: &Loop<'_>) -> Result<usize, Diag> {
        let mut known: Option<(usize, Option<Tensor<'_>>)> = over.n.map(|n| (n, None));
        for (k, &slice) in over.slices.iter().enumerate() {
            let shape = slice.shape();
            let Some(&n) = shape.first() else {
                let text = format!(
                    "`scan` requires slices with a leading axis of iterations, slice {k} of `{name}` is a scalar"
                );
                return Err(Diag::new(Code::ShapeMismatch, text).operands(&[slice]));
            };
            match known {
                Some((wanted, of)) if wanted != n && !slice.is_poisoned() => {
                    let text = format!(
                        "`scan` requires slices of {wanted} iterations, slice {k} of `{name}` is {}",
                        slice.ty()
                    );
                    let diag = Diag::new(Code::ShapeMismatch, text).made("the slice", slice);
                    return Err(of.into_iter().fold(diag, |diag, of| diag.made("the first slice", of)));
                }
                None => known = Some((n, Some(slice))),
                _ => {}
            }
        }
        let missing = || {
            let text = format!("`scan` requires slices or a number of iterations, `{name}` has neither");
            Diag::new(Code::BadBody, text).operands(&over.carries).help("say how often with `Loop::times`")
        };
        known.map(|(n, _)| n).ok_or_else(missing)
    }

    /// The node, and its results.
    #[track_caller]
    fn run<'g>(&'g self, run: Run<'_, 'g>) -> Looped<'g> {
        let operands: Vec<Tensor<'g>> = run.carries.iter().chain(&run.slices).chain(run.captures).copied().collect();
        let value = match run.body.graph() {
            None => self.poisoned(),
            Some(body) => {
                let id = self.add_body(Arc::clone(body));
                let (n, n_carries, n_slices) = (run.n, run.carries.len(), run.slices.len());
                let scan = Scan { body, n, n_carries, n_slices, reverse: run.reverse };
                self.op(&SCAN, &operands, scan.attrs(id), None)
            }
        };
        let mut results = Vec::with_capacity(run.body.results().len());
        for (k, ty) in run.body.results().iter().enumerate() {
            let stacked = || Type::tensor(ty.dtype(), stacked(run.n, ty.shape()));
            results.push(match value.is_poisoned() {
                true if k < run.carries.len() => self.poisoned_as(ty.clone()),
                true => self.poisoned_as(stacked()),
                false => value.item(k),
            });
        }
        results.resize_with(results.len().max(run.carries.len()), || self.poisoned());
        let outputs = results.split_off(run.carries.len());
        Looped { carries: results, outputs }
    }

    /// As loops over parts of `every` iterations, of which one loop keeps the carries, and one over the rest.
    #[track_caller]
    fn run_in_parts<'g>(&'g self, name: &str, run: Run<'_, 'g>, every: usize) -> Looped<'g> {
        let (n_parts, rest) = (run.n / every, run.n % every);
        let n_whole = n_parts * every;
        // In reverse the rest, which is what lies beyond the parts, comes first.
        let piece = |slice: &Tensor<'g>, from: usize, to: usize| {
            let mut limit = slice.shape();
            let start: Shape = (0..limit.rank()).map(|axis| if axis == 0 { from } else { 0 }).collect();
            limit = (0..limit.rank()).map(|axis| if axis == 0 { to } else { limit[axis] }).collect();
            slice.slice(&start, &limit)
        };
        let last = |carries: Vec<Tensor<'g>>| {
            let slices = run.slices.iter().map(|slice| piece(slice, n_whole, run.n)).collect();
            self.run(Run { body: run.body, carries, slices, captures: run.captures, n: rest, reverse: run.reverse })
        };
        let parts = |carries: Vec<Tensor<'g>>| {
            let split = |slice: &Tensor<'g>| {
                let shape = slice.shape();
                let inner = shape.get(1..).unwrap_or_default();
                piece(slice, 0, n_whole)
                    .reshape([n_parts, every].into_iter().chain(inner.iter().copied()).collect::<Shape>())
            };
            let mut over =
                Loop { carries, captures: run.captures.to_vec(), reverse: run.reverse, ..Loop::new() }.times(n_parts);
            over.slices = run.slices.iter().map(split).collect();
            let (body, reverse) = (run.body, run.reverse);
            let made = self.scan(&format!("{name}_parts"), over, |g, i| {
                let (carries, slices) = (i.carries.clone(), i.slices.clone());
                let inner = g.run(Run { body, carries, slices, captures: &i.captures, n: every, reverse });
                Made { carries: inner.carries, outputs: inner.outputs }
            });
            let join = |output: Tensor<'g>| {
                let shape = output.shape();
                let inner = shape.get(2..).unwrap_or_default();
                output.reshape(std::iter::once(n_whole).chain(inner.iter().copied()).collect::<Shape>())
            };
            Looped { carries: made.carries, outputs: made.outputs.into_iter().map(join).collect() }
        };
        let start = run.carries.clone();
        if rest == 0 {
            return parts(start);
        }
        let (whole, rest, carries) = if run.reverse {
            let rest = last(start);
            let whole = parts(rest.carries.clone());
            let carries = whole.carries.clone();
            (whole, rest, carries)
        } else {
            let whole = parts(start);
            let rest = last(whole.carries.clone());
            let carries = rest.carries.clone();
            (whole, rest, carries)
        };
        let both = whole.outputs.into_iter().zip(rest.outputs);
        Looped { carries, outputs: both.map(|(a, b)| self.concat(&[a, b], 0)).collect() }
    }
}

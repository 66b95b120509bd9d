//! Regions and what holds several values: `call`, `tuple`, `item`; `grad`, the derivative to be, and `anchor`, which keeps
//! apart what it is taken with respect to.

use std::sync::Arc;

use cotangent_scalar::DType;
use smallvec::smallvec;

use crate::attrs::{AttrKind, AttrSpec, Attrs};
use crate::builder::{GraphBuilder, Tensor};
use crate::diag::{Code, Diag, Diags};
use crate::eval;
use crate::expand;
use crate::ir::{Graph, Role};
use crate::op::{Arity, Fault, Lower, OpDef, OpTraits, Vjp};
use crate::ops::infer_same;
use crate::samples::Sample;
use crate::types::{MAX_TUPLE_MEMBERS, Type};

/// The results of a body applied to operands.
pub static CALL: OpDef = OpDef {
    name: "call",
    doc: "The results of a body applied to operands; a tuple if there are several.",
    arity: Arity::AtLeast(0),
    attrs: &[AttrSpec { name: "body", kind: AttrKind::Body, doc: "the body" }],
    traits: OpTraits::NONE,
    infer: |cx| {
        let bad = |text: String| Fault::new(Code::BadBody, text);
        let id = cx.attrs.body("body").filter(|b| b.index() < cx.bodies.len());
        let body = &cx.bodies[id.ok_or_else(|| bad("`call` names a body that does not exist".into()))?.index()];
        let wanted: Vec<&Type> = body.inputs().map(|(_, input)| &input.ty).collect();
        if !wanted.iter().copied().eq(cx.inputs.iter().copied()) {
            let list = |types: &[&Type]| types.iter().map(|t| t.to_string()).collect::<Vec<_>>().join(", ");
            let text =
                format!("`call` of @{} requires operands ({}), got ({})", body.name(), list(&wanted), list(cx.inputs));
            let mut fault = bad(text);
            for (k, (_, node)) in
                body.inputs().enumerate().filter(|(k, (_, node))| cx.inputs.get(*k) != Some(&&node.ty))
            {
                let text = format!("input {k} of the body, of type {}, was declared", node.ty);
                fault.notes.push((text, node.origin.loc()));
            }
            return Err(fault);
        }
        let results: Vec<Type> = body.outputs().iter().map(|o| body.ty(o.value).clone()).collect();
        match results.as_slice() {
            [] => Err(bad(format!("the body @{} has no results", body.name()))),
            [one] => Ok(one.clone()),
            _ => Ok(Type::Tuple(results)),
        }
    },
    eval: eval::unbound,
    vjp: Vjp::ViaExpansion,
    lower: Lower::Expand(|cx| match cx.attrs.body("body") {
        Some(id) => expand::inline_body(cx.builder, &cx.bodies[id.index()], &cx.inputs),
        None => smallvec![],
    }),
    samples: |_| Vec::new(),
};

/// Several values as one.
pub static TUPLE: OpDef = OpDef {
    name: "tuple",
    doc: "Several values as one; taken apart by `item`.",
    arity: Arity::AtLeast(1),
    attrs: &[],
    traits: OpTraits::NONE,
    infer: |cx| {
        // Counted before it is made: tuples of tuples grow fast.
        if cx.inputs.iter().map(|t| t.n_members()).sum::<usize>() >= MAX_TUPLE_MEMBERS {
            let text = format!("`tuple` would make a tuple of more than {MAX_TUPLE_MEMBERS} members");
            return Err(Fault::new(Code::TooLarge, text));
        }
        Ok(Type::Tuple(cx.inputs.iter().map(|t| (*t).clone()).collect()))
    },
    eval: eval::unbound,
    vjp: Vjp::None("a tuple is differentiated through its items"),
    lower: Lower::Tuple,
    samples: |_| Vec::new(),
};

/// One of several values.
pub static ITEM: OpDef = OpDef {
    name: "item",
    doc: "Member `index` of a tuple.",
    arity: Arity::Exact(1),
    attrs: &[AttrSpec { name: "index", kind: AttrKind::Int, doc: "which member, from 0" }],
    traits: OpTraits::NONE,
    infer: |cx| match cx.inputs[0] {
        Type::Tuple(members) => members.get(cx.attrs.size("index")).cloned().ok_or_else(|| {
            cx.attr_fault(format_args!("requires an index below {}, got {}", members.len(), cx.attrs.int("index")))
        }),
        other => Err(cx.dtype_fault(format_args!("requires a tuple, got {other}"))),
    },
    eval: eval::unbound,
    vjp: Vjp::None("a tuple is differentiated through the op that made it"),
    lower: Lower::Item,
    samples: |_| Vec::new(),
};

/// A derivative to be.
pub static GRAD: OpDef = OpDef {
    name: "grad",
    doc: "The derivative of the first operand with respect to the second. With a third operand `s` (required unless the \
          first is a scalar) it is that of `Σ y·s`. Equal values are one value: where `%1` and `%2` are both `neg x`, the \
          derivative of `%1 · %2` with respect to `%1` is `2 · %1`. Values that shall count apart are inputs, parameters or \
          states. The pass `differentiate` replaces it.",
    arity: Arity::Between(2, 3),
    attrs: &[],
    traits: OpTraits::NONE,
    infer: |cx| {
        let ((y, y_shape), (x, x_shape)) = (cx.tensor(0)?, cx.tensor(1)?);
        let bad = |text: String| Fault::new(Code::NotDifferentiable, text);
        if !y.is_float() || !x.is_float() {
            return Err(bad(format!("`grad` requires floats, got {y} with respect to {x}")));
        }
        if cx.inputs.len() == 3 {
            if cx.inputs[2] != cx.inputs[0] {
                return Err(bad(format!("`grad` requires a seed of type {}, got {}", cx.inputs[0], cx.inputs[2])));
            }
        } else if y_shape.rank() != 0 {
            let fault =
                bad(format!("`grad` of a tensor of shape {y_shape} requires a seed: only a scalar has a gradient"));
            return Err(fault.help("reduce it to a scalar (`.sum()`, `.mean()`), or give the seed"));
        }
        Ok(Type::tensor(x, x_shape))
    },
    eval: eval::unbound,
    vjp: Vjp::ViaExpansion,
    lower: Lower::Grad,
    samples: |_| Vec::new(),
};

/// What keeps a value apart.
pub static ANCHOR: OpDef = OpDef {
    name: "anchor",
    doc: "The operand itself, kept apart from equal values because a gradient is taken with respect to it. Made and removed by \
          passes.",
    arity: Arity::Exact(1),
    attrs: &[AttrSpec { name: "number", kind: AttrKind::Int, doc: "no other anchor of the graph has it" }],
    traits: OpTraits::NONE,
    infer: infer_same,
    eval: eval::identity,
    vjp: Vjp::Rule(|cx| smallvec![Some(cx.dy)]),
    lower: Lower::Identity,
    samples: |s| vec![Sample::new(vec![s.float_in(-2.0..2.0, [3, 4])]).attrs(Attrs::none().with("number", 0))],
};

/// The ops of this file.
pub(crate) static OPS: &[&OpDef] = &[&CALL, &TUPLE, &ITEM, &GRAD, &ANCHOR];

/// A closed graph that can be called: what [`GraphBuilder::body`] makes. Calls of one with mistakes are poisoned.
#[derive(Clone, Debug)]
pub struct Body {
    graph: Option<Arc<Graph>>,
    results: Vec<Type>,
}

impl Body {
    /// The graph, unless it has mistakes.
    pub(crate) fn graph(&self) -> Option<&Arc<Graph>> {
        self.graph.as_ref()
    }

    /// The types of its results.
    pub(crate) fn results(&self) -> &[Type] {
        &self.results
    }
}

impl From<Arc<Graph>> for Body {
    fn from(graph: Arc<Graph>) -> Self {
        let results = graph.outputs().iter().map(|output| graph.ty(output.value).clone()).collect();
        Body { graph: Some(graph), results }
    }
}

impl GraphBuilder {
    /// A closed body: `f` gets its inputs, of the given types, and returns its results.
    #[track_caller]
    pub fn body<'a>(
        &self,
        name: &str,
        inputs: &[Type],
        f: impl for<'b> FnOnce(&'b GraphBuilder, &[Tensor<'b>]) -> Vec<Tensor<'b>>,
    ) -> Body {
        self.body_in(name, None, inputs, f)
    }

    /// The same; random streams of the body are named in a scope.
    #[track_caller]
    pub(crate) fn body_in(
        &self,
        name: &str,
        scope: Option<&str>,
        inputs: &[Type],
        f: impl for<'b> FnOnce(&'b GraphBuilder, &[Tensor<'b>]) -> Vec<Tensor<'b>>,
    ) -> Body {
        let inner = self.with_graph(|graph| GraphBuilder::with_registry(name, graph.registry()));
        let inner = if self.rounds() { inner.rounding() } else { inner };
        let inner = inner.inside(self);
        let mut tensors = Vec::with_capacity(inputs.len());
        // Not a closure: those do not pass the caller's place on.
        for (k, ty) in inputs.iter().enumerate() {
            tensors.push(inner.input(&k.to_string(), ty.dtype(), ty.shape()));
        }
        let mut results = Vec::new();
        inner.set_mode(self.mode());
        let made = match scope {
            Some(scope) => inner.named_in(scope, || f(&inner, &tensors)),
            None => f(&inner, &tensors),
        };
        for (k, result) in made.into_iter().enumerate() {
            results.push(result.ty());
            inner.output(&k.to_string(), result);
        }
        let graph = inner.finish();
        let diags = match graph.map(|graph| (closed(&graph), graph)) {
            Ok((Ok(()), graph)) => return Body { graph: Some(Arc::new(graph)), results },
            Ok((Err(diag), _)) => Diags::from(diag),
            Err(diags) => diags,
        };
        diags.0.into_iter().for_each(|diag| self.error(diag));
        Body { graph: None, results }
    }

    /// The results of a body applied to operands.
    #[track_caller]
    pub fn call(&self, body: &Body, operands: &[Tensor<'_>]) -> Vec<Tensor<'_>> {
        let mut results = Vec::with_capacity(body.results.len());
        let value = match &body.graph {
            None => self.poisoned(),
            Some(graph) => {
                let id = self.add_body(Arc::clone(graph));
                self.op(&CALL, operands, Attrs::none().with("body", id), None)
            }
        };
        for (k, ty) in body.results.iter().enumerate() {
            results.push(match value.ty() {
                _ if value.is_poisoned() => self.poisoned_as(ty.clone()),
                Type::Tuple(_) => value.item(k),
                Type::Tensor { .. } => value,
            });
        }
        if results.is_empty() {
            // That a body has no results has been said; the caller may ask for the first all the same.
            results.push(self.poisoned());
        }
        results
    }

    /// The derivative of a scalar with respect to each of some tensors.
    ///
    /// Equal values are one value: if `a` and `b` are both `-x`, the derivative of `a · b` with respect to `a` is `2 a`. Inputs,
    /// parameters and states are values of their own.
    #[track_caller]
    pub fn grad<'g>(&'g self, y: Tensor<'g>, wrt: &[Tensor<'g>]) -> Vec<Tensor<'g>> {
        let mut grads = Vec::with_capacity(wrt.len());
        for &x in wrt {
            grads.push(self.op(&GRAD, &[y, x], Attrs::none(), None));
        }
        grads
    }

    /// The directional derivative of `y` along `v` at `x`: `d/dt y(x + t·v)` at `t = 0`. Derived from the reverse rules: the
    /// gradient of `Σ y·u` is linear in `u`, and its derivative with respect to `u` along `v` is the answer; `u` itself
    /// cancels out.
    #[track_caller]
    pub fn jvp<'g>(&'g self, y: Tensor<'g>, x: Tensor<'g>, v: Tensor<'g>) -> Tensor<'g> {
        if y.is_poisoned() || x.is_poisoned() || v.is_poisoned() {
            return self.poisoned();
        }
        // A tensor of its own: nothing else depends on it, and nothing in the end depends on its value.
        let u = self.uniform("jvp", y.dtype(), y.shape());
        let pulled = self.op(&GRAD, &[y, x, u], Attrs::none(), None);
        self.op(&GRAD, &[pulled, u, v], Attrs::none(), None)
    }

    /// The derivative of `Σ y·seed` with respect to each of some tensors.
    #[track_caller]
    pub fn grad_with_seed<'g>(&'g self, y: Tensor<'g>, seed: Tensor<'g>, wrt: &[Tensor<'g>]) -> Vec<Tensor<'g>> {
        let mut grads = Vec::with_capacity(wrt.len());
        for &x in wrt {
            grads.push(self.op(&GRAD, &[y, x, seed], Attrs::none(), None));
        }
        grads
    }
}

/// Whether a graph can be a body: its only sources are inputs, constants and indices, and it updates nothing.
pub(crate) fn closed(graph: &Graph) -> Result<(), Diag> {
    for node in graph.nodes() {
        if let Some(name) = node.name().filter(|_| node.is_stored()) {
            let text = format!("a body is closed: the {} `{name}` must be an operand", node.op.name);
            return Err(Diag::new(Code::BadBody, text)
                .at(node.origin.loc())
                .help("hand it in as an operand of the call"));
        }
    }
    if graph.outputs().iter().any(|o| matches!(o.role, Role::Update(_))) {
        return Err(Diag::new(Code::BadBody, "a body cannot update parameters or states"));
    }
    Ok(())
}

impl<'g> Tensor<'g> {
    /// Member `index` of a tuple.
    #[track_caller]
    pub fn item(self, index: usize) -> Tensor<'g> {
        if !self.is_poisoned() {
            let made_of = self.builder().with_graph(|graph| {
                let node = graph.node(self.id());
                node.is(&TUPLE).then(|| node.inputs.get(index).copied()).flatten()
            });
            if let Some(id) = made_of {
                return self.builder().tensor(id);
            }
        }
        self.unary_with(&ITEM, Attrs::none().with("index", index as i64))
    }

    /// Whether this is a float tensor, so that it can have a gradient.
    pub fn is_float(self) -> bool {
        let ty = self.ty();
        ty.as_tensor().is_some_and(|(dtype, _): (DType, _)| dtype.is_float())
    }
}

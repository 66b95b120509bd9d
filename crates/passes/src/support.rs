//! Where a cotangent can be other than zero: its support.
//!
//! A selection, an extreme, a slice or a gather drops values. Nothing of them reaches the result, so their cotangent is zero
//! for good, and the derivative of what computed them, be it infinite or NaN, does not matter: the derivative of
//! `select(x > 0, √x, 0)` at 0 is that of the branch taken. Yet a derivative rule multiplies, and `0 · ∞` is NaN. So the sweep
//! carries the support beside each cotangent, and puts zeros back behind a rule whose result may have lost them. A zero that
//! is the outcome of arithmetic is no such zero: `0 · √x` at 0 has the derivative NaN, as by hand.
//!
//! The support is read off what the rules themselves build: an analysis goes through the expression from a rule's result down
//! to the cotangent that it was given. It keeps to ops that work element by element or move elements, and assumes that rules
//! are linear in the cotangent, as derivatives are. A sum has a term wherever one of its terms is taken, which costs a
//! reduction to know; it is made only for derivatives with a pole, which need no overflow to be infinite. Matrix products are
//! not looked through. A support may be too large, never too small.
//!
//! Masks are built when they are needed, and once. So that equal nodes of the graph are not taken for cotangents, a sweep starts
//! from a seed that equals nothing ([`crate::anchor`]).

use std::cell::OnceCell;
use std::rc::Rc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use cotangent_graph::ops::arithmetic::{ADD, AND, DIV, MUL, NEG, NOT, OR, SUB};
use cotangent_graph::ops::compare::{CAST, SELECT};
use cotangent_graph::ops::index::SCATTER_ADD;
use cotangent_graph::ops::pool::{MAX_POOL, MEAN_POOL};
use cotangent_graph::ops::reduce::{MEAN, REDUCE_SUM};
use cotangent_graph::ops::view::{BROADCAST, PAD, RESHAPE, SLICE};
use cotangent_graph::ops::windows::{OVERLAP_ADD, WINDOWS, held};
use cotangent_graph::{Attr, Attrs, DType, GraphBuilder, Lower, Node, NodeId, OpRef, Shape, Tensor};

use crate::rules::splat;

/// Masks made of more masks than this are given up for a larger support.
const DEPTH_LIMIT: u32 = 32;

/// How deep truth values are looked into for what they are made of.
const LOOKED_INTO: u32 = 4;

/// Where a tensor can be other than zero.
#[derive(Clone)]
pub enum Support<'g> {
    /// Nowhere.
    Nowhere,
    /// Where a mask holds.
    Within(Rc<Mask<'g>>),
    /// Perhaps everywhere.
    Everywhere,
}

/// A mask over the elements of a tensor.
pub struct Mask<'g> {
    kind: Kind<'g>,
    shape: Shape,
    depth: u32,
    built: OnceCell<Tensor<'g>>,
}

type Axes = SmallVec<[usize; 4]>;

enum Kind<'g> {
    /// The elements of a truth value.
    Given(Tensor<'g>),
    /// The others.
    Not(Tensor<'g>),
    And(Rc<Mask<'g>>, Rc<Mask<'g>>),
    Or(Rc<Mask<'g>>, Rc<Mask<'g>>),
    /// A view of the mask, by an op and its attributes.
    View(OpRef, Attrs, Rc<Mask<'g>>),
    /// What lies inside a border: on each axis from `low` on, `extent` elements.
    Inside {
        low: Axes,
        extent: Axes,
    },
    /// Every so many elements: on each axis `extent` of them from `low` on, `step` apart.
    Strided {
        low: Axes,
        extent: Axes,
        step: Axes,
    },
    /// What lies inside a border, where the mask holds; and the border alone.
    Padded {
        attrs: Attrs,
        of: Rc<Mask<'g>>,
        border: Rc<Mask<'g>>,
    },
    /// For each group of elements, whether the mask holds for one of them.
    Any(Axes, Rc<Mask<'g>>),
    /// Rows that an index names; of those with a mask, where it holds for one that is added.
    Rows {
        indices: Tensor<'g>,
        of: Option<Rc<Mask<'g>>>,
    },
}

impl<'g> Mask<'g> {
    fn of(kind: Kind<'g>, shape: Shape) -> Rc<Self> {
        let depth = match &kind {
            Kind::Given(_)
            | Kind::Not(_)
            | Kind::Inside { .. }
            | Kind::Strided { .. }
            | Kind::Rows { of: None, .. } => 0,
            Kind::And(a, b) | Kind::Or(a, b) => a.depth.max(b.depth),
            Kind::View(.., of) | Kind::Any(_, of) | Kind::Padded { of, .. } | Kind::Rows { of: Some(of), .. } => {
                of.depth
            }
        };
        Rc::new(Mask { kind, shape, depth: depth + 1, built: OnceCell::new() })
    }

    /// Where truth values hold, or do not: of repeated ones, a view of what is repeated, and of combined ones, which an earlier
    /// sweep may have made, what they are combined of.
    fn given(t: Tensor<'g>, holds: bool) -> Rc<Self> {
        Mask::given_within(t, holds, LOOKED_INTO)
    }

    fn given_within(t: Tensor<'g>, holds: bool, depth: u32) -> Rc<Self> {
        let g = t.builder();
        let (op, inputs, attrs) = g.with_graph(|graph| {
            let node = graph.node(t.id());
            (node.op, node.inputs.clone(), node.attrs.clone())
        });
        let plain = || Mask::of(if holds { Kind::Given(t) } else { Kind::Not(t) }, t.shape());
        let Some(depth) = depth.checked_sub(1) else { return plain() };
        let part = |k: usize, holds: bool| Mask::given_within(g.tensor(inputs[k]), holds, depth);
        match () {
            () if op == OpRef(&BROADCAST) => Mask::of(Kind::View(op, attrs, part(0, holds)), t.shape()),
            () if op == OpRef(&NOT) => part(0, !holds),
            () if op == OpRef(if holds { &AND } else { &OR }) => {
                Mask::of(Kind::And(part(0, holds), part(1, holds)), t.shape())
            }
            () if op == OpRef(if holds { &OR } else { &AND }) => {
                Mask::of(Kind::Or(part(0, holds), part(1, holds)), t.shape())
            }
            () => plain(),
        }
    }

    /// The mask as a tensor of truth values.
    fn build(&self, g: &'g GraphBuilder) -> Tensor<'g> {
        *self.built.get_or_init(|| match &self.kind {
            Kind::Given(t) => *t,
            Kind::Not(t) => !*t,
            Kind::And(a, b) => a.build(g) & b.build(g),
            Kind::Or(a, b) => a.build(g) | b.build(g),
            Kind::View(op, attrs, of) => of.build(g).unary_with(op.0, attrs.clone()),
            Kind::Inside { low, extent } => inside(g, &self.shape, low, extent),
            Kind::Strided { low, extent, step } => strided(g, &self.shape, low, extent, step),
            Kind::Padded { attrs, of, .. } => of.build(g).unary_with(&PAD, attrs.clone()),
            Kind::Any(axes, of) => {
                // Of nothing the largest is less than 0.
                let most = of.build(g).cast(DType::I32).max_over(axes);
                most.gt(most.constant_like(0))
            }
            Kind::Rows { indices, of: Some(of) } => {
                of.build(g).cast(DType::I32).scatter_add(*indices, self.shape[0]).cast(DType::Bool)
            }
            Kind::Rows { indices, of: None } => {
                let ones = g.scalar(1.0, DType::I32).broadcast_to(indices.shape());
                ones.scatter_add(*indices, self.shape[0]).cast(DType::Bool).broadcast_along(&self.shape, [0])
            }
        })
    }

    /// A mask that holds wherever this one does and costs no pass over memory, if there is one.
    fn cheap(self: &Rc<Self>) -> Option<Rc<Self>> {
        match &self.kind {
            Kind::Given(_) | Kind::Not(_) | Kind::Inside { .. } | Kind::Strided { .. } => Some(Rc::clone(self)),
            Kind::View(op, attrs, of) => {
                let cheap = of.cheap()?;
                let same = Rc::ptr_eq(&cheap, of);
                Some(if same { Rc::clone(self) } else { self.like(Kind::View(*op, attrs.clone(), cheap)) })
            }
            Kind::And(a, b) => match (a.cheap(), b.cheap()) {
                (Some(x), Some(y)) if Rc::ptr_eq(&x, a) && Rc::ptr_eq(&y, b) => Some(Rc::clone(self)),
                (Some(x), Some(y)) => Some(self.like(Kind::And(x, y))),
                (x, y) => x.or(y),
            },
            Kind::Or(a, b) => Some(self.like(Kind::Or(a.cheap()?, b.cheap()?))),
            Kind::Padded { of, border, .. } => Some(match of.beyond(&self.shape) {
                Some(repeated) => self.like(Kind::And(Rc::clone(border), repeated)),
                None => Rc::clone(border),
            }),
            Kind::Any(axes, of) => of.repeated(axes),
            Kind::Rows { .. } => None,
        }
    }

    fn like(&self, kind: Kind<'g>) -> Rc<Self> {
        Mask::of(kind, self.shape.clone())
    }

    /// This mask seen through a view.
    fn viewed(self: Rc<Self>, node: &Node, shape: &Shape) -> Kind<'g> {
        match self.uniform() {
            Some(one) => {
                let attrs = Attrs::none().with("shape", &shape[..]).with("axes", Attr::Ints(SmallVec::new()));
                Kind::View(OpRef(&BROADCAST), attrs, one)
            }
            None => Kind::View(node.op, node.attrs.clone(), self),
        }
    }

    /// A mask of one element, without axes, that is repeated everywhere here.
    fn uniform(self: &Rc<Self>) -> Option<Rc<Self>> {
        match &self.kind {
            _ if self.shape.rank() == 0 => Some(Rc::clone(self)),
            Kind::View(op, _, of) if *op == OpRef(&BROADCAST) => of.uniform(),
            _ => None,
        }
    }

    /// A mask that does not vary along `axes` and holds wherever this one does, without these axes; if there is one.
    fn repeated(self: &Rc<Self>, axes: &Axes) -> Option<Rc<Self>> {
        match &self.kind {
            Kind::View(op, attrs, of) if *op == OpRef(&BROADCAST) => {
                let (kept, of) = (attrs.sizes("axes"), of.cheap()?);
                let (mut extents, mut left) = (Vec::new(), Vec::new());
                for (&axis, &extent) in kept.iter().zip(of.shape.iter()) {
                    match axes.contains(&axis) {
                        // Repeated along this axis.
                        true if extent == 1 => {}
                        true => return None,
                        false => {
                            extents.push(extent);
                            left.push(axis - axes.iter().filter(|&&r| r < axis).count());
                        }
                    }
                }
                let to = Attrs::none().with("shape", extents.as_slice());
                let of = Mask::of(Kind::View(OpRef(&RESHAPE), to, of), Shape::new(&extents));
                let shape = self.shape.without(axes);
                let attrs = Attrs::none().with("shape", &shape[..]).with("axes", left.as_slice());
                Some(Mask::of(Kind::View(*op, attrs, of), shape))
            }
            Kind::And(a, b) => match (a.repeated(axes), b.repeated(axes)) {
                (Some(a), Some(b)) => Some(Mask::of(Kind::And(a, b), self.shape.without(axes))),
                (a, b) => a.or(b),
            },
            Kind::Or(a, b) => {
                let either = Kind::Or(a.repeated(axes)?, b.repeated(axes)?);
                Some(Mask::of(either, self.shape.without(axes)))
            }
            _ => None,
        }
    }

    /// This mask, which does not vary along the axes on which the shape is larger, in that shape.
    fn beyond(self: &Rc<Self>, shape: &Shape) -> Option<Rc<Self>> {
        let (padded, kept): (Axes, Axes) = (0..shape.rank()).partition(|&axis| shape[axis] != self.shape[axis]);
        let of = self.repeated(&padded)?.cheap()?;
        let attrs = Attrs::none().with("shape", &shape[..]).with("axes", kept.as_slice());
        Some(Mask::of(Kind::View(OpRef(&BROADCAST), attrs, of), shape.clone()))
    }

    /// Whether this and another mask hold everywhere between them.
    fn is_rest_of(&self, other: &Mask<'g>) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Given(a), Kind::Not(b)) | (Kind::Not(a), Kind::Given(b)) => a.id() == b.id(),
            (Kind::View(f, x, a), Kind::View(g, y, b)) => f == g && x == y && a.is_rest_of(b),
            _ => false,
        }
    }

    /// Whether this mask holds only where the other one does, as far as can be seen.
    fn implies(self: &Rc<Self>, other: &Rc<Self>, depth: u32) -> bool {
        if self.is(other) {
            return true;
        }
        let Some(depth) = depth.checked_sub(1) else { return false };
        let (a, b) = (self, other);
        (match &a.kind {
            Kind::And(x, y) => x.implies(b, depth) || y.implies(b, depth),
            Kind::Or(x, y) => x.implies(b, depth) && y.implies(b, depth),
            _ => false,
        }) || (match (&a.kind, &b.kind) {
            (_, Kind::And(x, y)) => a.implies(x, depth) && a.implies(y, depth),
            (_, Kind::Or(x, y)) => a.implies(x, depth) || a.implies(y, depth),
            (Kind::View(f, x, a), Kind::View(g, y, b)) => f == g && x == y && a.implies(b, depth),
            _ => false,
        })
    }

    fn is(self: &Rc<Self>, other: &Rc<Self>) -> bool {
        Rc::ptr_eq(self, other)
            || match (&self.kind, &other.kind) {
                (Kind::Given(a), Kind::Given(b)) | (Kind::Not(a), Kind::Not(b)) => a.id() == b.id(),
                (Kind::View(f, x, a), Kind::View(g, y, b)) => f == g && x == y && a.is(b),
                _ => false,
            }
    }
}

/// Truth values of a shape: on each axis from `low` on, `extent` elements.
fn inside<'g>(g: &'g GraphBuilder, shape: &Shape, low: &Axes, extent: &Axes) -> Tensor<'g> {
    let mut mask: Option<Tensor<'g>> = None;
    let mut both = |part: Tensor<'g>| mask = Some(mask.map_or(part, |mask| mask & part));
    for axis in (0..shape.rank()).filter(|&a| extent[a] < shape[a]) {
        let index = g.iota(DType::I64, shape, axis);
        if low[axis] > 0 {
            both(index.ge(index.constant_like(low[axis] as i64)));
        }
        if low[axis] + extent[axis] < shape[axis] {
            both(index.lt(index.constant_like((low[axis] + extent[axis]) as i64)));
        }
    }
    mask.unwrap_or_else(|| g.scalar(1.0, DType::Bool).broadcast_to(shape))
}

/// Truth values of a shape: on each axis `extent` elements from `low` on, `step` apart.
fn strided<'g>(g: &'g GraphBuilder, shape: &Shape, low: &Axes, extent: &Axes, step: &Axes) -> Tensor<'g> {
    let whole: Axes = (0..shape.rank()).map(|a| extent[a].saturating_sub(1) * step[a] + extent[a].min(1)).collect();
    (0..shape.rank()).filter(|&axis| step[axis] > 1 && extent[axis] > 1).fold(
        inside(g, shape, low, &whole),
        |mask, axis| {
            let index = g.iota(DType::I64, shape, axis);
            // The same rest as the first one, and nothing below that, which `inside` leaves out.
            let (step, rest) = (step[axis] as i64, (low[axis] % step[axis]) as i64);
            let rests = index - index / index.constant_like(step) * index.constant_like(step);
            mask & rests.eq(index.constant_like(rest))
        },
    )
}

/// Where the cotangent of an operand can be at most, given the support of the op's own, if its rule does not show it: of a
/// reduction in rows whose result has one, and of a slice at the elements that it takes.
pub fn bound<'g>(node: &Node, operand: &Shape, support: &Support<'g>) -> Support<'g> {
    let attrs = &node.attrs;
    match &node.op.lower {
        Lower::Reduce(_) => {
            let axes = attrs.sizes("axes");
            let kept: Axes = (0..operand.rank()).filter(|axis| !axes.contains(axis)).collect();
            let attrs = || Attrs::none().with("shape", &operand[..]).with("axes", kept.as_slice());
            support.clone().map(operand, |mask| Kind::View(OpRef(&BROADCAST), attrs(), mask))
        }
        _ if node.is(&SLICE) && attrs.sizes("step").iter().any(|&step| step > 1) => {
            let extent = node.ty.shape().iter().copied().collect();
            let kind = Kind::Strided { low: attrs.sizes("start"), extent, step: attrs.sizes("step") };
            Support::of(kind, operand)
        }
        _ if node.op.is_any(&[&WINDOWS, &MAX_POOL, &MEAN_POOL]) => {
            let Some(held) = held(attrs, operand) else { return Support::Everywhere };
            if held.iter().zip(operand.iter()).all(|(&(_, n, step), &extent)| n == extent && step == 1) {
                return Support::Everywhere;
            }
            let low = held.iter().map(|h| h.0).collect();
            let (extent, step) = (held.iter().map(|h| h.1).collect(), held.iter().map(|h| h.2).collect());
            Support::of(Kind::Strided { low, extent, step }, operand)
        }
        _ => Support::Everywhere,
    }
}

impl<'g> Support<'g> {
    fn of(kind: Kind<'g>, shape: &Shape) -> Self {
        Support::Within(Mask::of(kind, shape.clone()))
    }

    /// Where this or the other is.
    pub fn or(self, other: Self) -> Self {
        match (self, other) {
            (Support::Nowhere, s) | (s, Support::Nowhere) => s,
            (Support::Everywhere, _) | (_, Support::Everywhere) => Support::Everywhere,
            (Support::Within(a), Support::Within(b)) => match () {
                () if a.implies(&b, LOOKED_INTO) => Support::Within(b),
                () if b.implies(&a, LOOKED_INTO) => Support::Within(a),
                () if a.is_rest_of(&b) || a.depth.max(b.depth) >= DEPTH_LIMIT => Support::Everywhere,
                () => Support::Within(Mask::of(Kind::Or(Rc::clone(&a), b), a.shape.clone())),
            },
        }
    }

    /// Where both are.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Support::Nowhere, _) | (_, Support::Nowhere) => Support::Nowhere,
            (Support::Everywhere, s) | (s, Support::Everywhere) => s,
            (Support::Within(a), Support::Within(b)) => match () {
                () if a.implies(&b, LOOKED_INTO) => Support::Within(a),
                () if b.implies(&a, LOOKED_INTO) => Support::Within(b),
                // The shallower one: the larger support is right as well.
                () if a.depth.max(b.depth) >= DEPTH_LIMIT => Support::Within(if a.depth < b.depth { a } else { b }),
                () => Support::Within(Mask::of(Kind::And(Rc::clone(&a), b), a.shape.clone())),
            },
        }
    }

    /// What a mask of the support becomes, unless it is too deep.
    fn map(self, to: &Shape, f: impl FnOnce(Rc<Mask<'g>>) -> Kind<'g>) -> Self {
        match self {
            Support::Within(mask) if mask.depth >= DEPTH_LIMIT => Support::Everywhere,
            Support::Within(mask) => Support::of(f(mask), to),
            other => other,
        }
    }

    /// The mask to put zeros back by, if that is worth its cost. `has_pole`: the derivative is infinite at finite operands.
    fn mask(&self, has_pole: bool) -> Option<Rc<Mask<'g>>> {
        match self {
            Support::Within(mask) if has_pole => Some(Rc::clone(mask)),
            Support::Within(mask) => mask.cheap(),
            Support::Nowhere | Support::Everywhere => None,
        }
    }
}

/// What is known of the zeros of a tensor that is linear in a cotangent.
#[derive(Clone)]
struct Zeros<'g> {
    support: Support<'g>,
    /// Whether it is zero outside of the support whatever finite or other numbers it was made of.
    kept: bool,
}

/// The zeros of cotangents that a sweep has made.
#[derive(Default)]
pub struct Supports<'g> {
    /// `None` for what depends on no cotangent.
    known: FxHashMap<NodeId, Option<Zeros<'g>>>,
}

impl<'g> Supports<'g> {
    /// What a rule makes of the cotangent `dy`, with zeros put back where they may have been lost, and its support, which lies
    /// within `bound`. The nodes from `first` on are the rule's own. `has_pole`: the derivative is infinite at finite operands.
    pub fn restore(
        &mut self,
        cotangent: Tensor<'g>,
        (dy, support, bound): (Tensor<'g>, &Support<'g>, Support<'g>),
        first: NodeId,
        has_pole: bool,
    ) -> (Tensor<'g>, Support<'g>) {
        let g = cotangent.builder();
        let mut analysis = Analysis { g, dy, support, first, known: &mut self.known };
        let Some(zeros) = analysis.zeros(cotangent.id()) else { return (cotangent, Support::Everywhere) };
        let zeros = Zeros { support: zeros.support.and(bound), ..zeros };
        let mask = if zeros.kept { None } else { zeros.support.mask(has_pole) };
        let Some(mask) = mask else { return (cotangent, zeros.support) };
        let restored = mask.build(g).select(cotangent, cotangent.constant_like(0.0));
        // All that is known, also where the mask is a cheaper one: a pole further on asks for it.
        (restored, zeros.support)
    }
}

/// The expression of a rule's result, down to the cotangent that it was made of.
struct Analysis<'g, 'a> {
    g: &'g GraphBuilder,
    dy: Tensor<'g>,
    support: &'a Support<'g>,
    first: NodeId,
    known: &'a mut FxHashMap<NodeId, Option<Zeros<'g>>>,
}

impl<'g> Analysis<'g, '_> {
    /// The zeros of a node; `None` if it does not depend on the cotangent.
    fn zeros(&mut self, id: NodeId) -> Option<Zeros<'g>> {
        if id == self.dy.id() {
            return Some(Zeros { support: self.support.clone(), kept: true });
        }
        // An equal node may have been made by another rule.
        if let Some(known) = self.known.get(&id) {
            return known.clone();
        }
        if id < self.first {
            return None;
        }
        let node = self.g.with_graph(|graph| graph.node(id).clone());
        let operands: SmallVec<[Option<Zeros<'g>>; 3]> = node.inputs.iter().map(|&i| self.zeros(i)).collect();
        let depends = operands.iter().any(Option::is_some);
        let zeros = depends.then(|| self.combined(&node, &operands));
        self.known.insert(id, zeros.clone());
        zeros
    }

    /// The zeros of a node that depends on the cotangent through some of its operands.
    fn combined(&self, node: &Node, operands: &[Option<Zeros<'g>>]) -> Zeros<'g> {
        let unknown = Zeros { support: Support::Everywhere, kept: false };
        let is = |op| node.op == OpRef(op);
        let tensor = |k: usize| self.g.tensor(node.inputs[k]);
        let of = |k: usize| operands[k].clone();
        let shape = node.ty.shape();
        match &node.op.lower {
            Lower::Identity | Lower::Check(_) => of(0).unwrap_or(unknown),
            Lower::View(_) => {
                let Some(Zeros { support, kept }) = of(0) else { return unknown };
                Zeros { support: support.map(shape, |mask| mask.viewed(node, shape)), kept }
            }
            Lower::Join if is(&PAD) && node.attrs.number("value").value() == 0.0 => {
                let Some(Zeros { support, kept }) = of(0) else { return unknown };
                let extent = tensor(0).shape().iter().copied().collect();
                let border = Mask::of(Kind::Inside { low: node.attrs.sizes("low"), extent }, shape.clone());
                let attrs = || node.attrs.clone();
                let support = match support {
                    Support::Nowhere => support,
                    _ if *shape == tensor(0).shape() => support,
                    Support::Everywhere => Support::Within(border),
                    Support::Within(of) => Support::of(Kind::Padded { attrs: attrs(), of, border }, shape),
                };
                Zeros { support, kept }
            }
            _ if is(&SCATTER_ADD) => {
                let Some(Zeros { support, kept }) = of(0) else { return unknown };
                let rows = |of| Support::of(Kind::Rows { indices: tensor(1), of }, shape);
                let support = match support {
                    Support::Nowhere => Support::Nowhere,
                    Support::Everywhere => rows(None),
                    Support::Within(mask) => rows(Some(mask)),
                };
                Zeros { support, kept }
            }
            _ if is(&REDUCE_SUM) || is(&MEAN) => {
                let Some(Zeros { support, kept }) = of(0) else { return unknown };
                let axes = node.attrs.sizes("axes");
                // A sum of one term each is that term.
                let is_view = axes.iter().all(|&axis| tensor(0).shape()[axis] == 1);
                let reshape = || Attrs::none().with("shape", &shape[..]);
                let summed = |mask| match is_view {
                    true => Kind::View(OpRef(&RESHAPE), reshape(), mask),
                    false => Kind::Any(axes, mask),
                };
                Zeros { support: support.map(shape, summed), kept }
            }
            // Elements that no window holds are sums of nothing.
            _ if is(&OVERLAP_ADD) && of(0).is_some() && node.attrs.number("divisor").value() != 0.0 => {
                Zeros { support: Support::Everywhere, kept: true }
            }
            _ if is(&NEG) => of(0).unwrap_or(unknown),
            _ if is(&CAST) && node.ty.dtype().is_float() => of(0).unwrap_or(unknown),
            _ if is(&ADD) || is(&SUB) => match (of(0), of(1)) {
                (Some(a), Some(b)) => Zeros { support: a.support.or(b.support), kept: a.kept && b.kept },
                _ => unknown,
            },
            _ if is(&MUL) => {
                let is_finite = |k: usize| splat(self.g, tensor(k)).is_some_and(f64::is_finite);
                match (of(0), of(1)) {
                    (Some(a), Some(b)) => Zeros { support: a.support.and(b.support), kept: false },
                    (Some(a), None) => Zeros { support: a.support, kept: a.kept && is_finite(1) },
                    (None, Some(b)) => Zeros { support: b.support, kept: b.kept && is_finite(0) },
                    (None, None) => unknown,
                }
            }
            _ if is(&DIV) => match (of(0), of(1)) {
                (Some(a), None) => {
                    let divides = splat(self.g, tensor(1)).is_some_and(|c| c != 0.0 && !c.is_nan());
                    Zeros { support: a.support, kept: a.kept && divides }
                }
                _ => unknown,
            },
            _ if is(&SELECT) => {
                let branch = |k: usize| match of(k) {
                    Some(zeros) => zeros,
                    None if splat(self.g, tensor(k)) == Some(0.0) => Zeros { support: Support::Nowhere, kept: true },
                    None => Zeros { support: Support::Everywhere, kept: false },
                };
                let ((a, b), condition) = ((branch(1), branch(2)), tensor(0));
                Zeros { support: selected(condition, a.support, b.support), kept: a.kept && b.kept }
            }
            _ => unknown,
        }
    }
}

/// The support of `select(condition, a, b)`.
fn selected<'g>(condition: Tensor<'g>, a: Support<'g>, b: Support<'g>) -> Support<'g> {
    match (&a, &b) {
        (Support::Everywhere, Support::Everywhere) => return Support::Everywhere,
        (Support::Within(x), Support::Within(y)) if x.is(y) => return a,
        _ => {}
    }
    let [holds, not] = [true, false].map(|holds| Support::Within(Mask::given(condition, holds)));
    holds.and(a).or(not.and(b))
}

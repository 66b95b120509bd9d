//! Rules and their driver.
//!
//! A rule is a row: name, equation, safety, the ops at its root, and the code, which looks at a node over operands that
//! have been rewritten already and returns what may stand in its place. The driver owns everything else: which rules are
//! allowed, the fuel, the sweeps until nothing changes (with a limit and a named reason for stopping), the counters, and
//! the origin of new nodes. Rules keep the type of what they replace; the driver checks it.

use std::cell::RefCell;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use cotangent_graph::ops::view::{BROADCAST, RESHAPE};
use cotangent_graph::{
    Attrs, CompilerBug, DType, Graph, GraphBuilder, Lower, NodeId, Number, OpDef, OpRef, OpTraits, Origin, Source,
    Tensor, TensorData, Type,
};

pub use crate::pass::Safety;
use crate::pass::{PassCx, PassError, StopReason};
use crate::rebuild::{Copier, Operands, bottom_up};

/// Sweeps over a graph before a pass gives up.
const ROUND_LIMIT: u32 = 32;

/// Rules applied one after the other at one node in one sweep.
const CHAIN_LIMIT: u32 = 32;

/// Views looked through by [`RuleCx::splat`].
const LOOK_THROUGH: u32 = 4;

/// The code of a rule.
pub type RuleFn = for<'g, 'a> fn(&RuleCx<'g, 'a>) -> Option<Tensor<'g>>;

/// Where a rule is tried.
#[derive(Clone, Copy, Debug)]
pub enum Roots {
    /// At these ops.
    Ops(&'static [&'static OpDef]),
    /// At every op that is a scalar program applied to each element.
    Pointwise,
    /// At every op.
    Any,
}

/// One rule.
pub struct Rule {
    /// The name in counters, origins and tests.
    pub name: &'static str,
    /// What it says.
    pub equation: &'static str,
    /// What it preserves.
    pub safety: Safety,
    /// The ops at which it is tried.
    pub roots: Roots,
    /// What may stand in the place of the node.
    pub apply: RuleFn,
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rule({}: {}; {})", self.name, self.equation, self.safety)
    }
}

/// Tables of rules, by the op at the root.
pub struct RuleSet {
    by_root: FxHashMap<OpRef, Vec<&'static Rule>>,
    pointwise: Vec<&'static Rule>,
    anywhere: Vec<&'static Rule>,
}

impl RuleSet {
    /// The rules of some tables; earlier rows are tried first.
    pub fn new(tables: &[&'static [Rule]]) -> Self {
        let mut set = RuleSet { by_root: FxHashMap::default(), pointwise: Vec::new(), anywhere: Vec::new() };
        for rule in tables.iter().copied().flatten() {
            match rule.roots {
                Roots::Ops(ops) => ops.iter().for_each(|op| set.by_root.entry(OpRef(op)).or_default().push(rule)),
                Roots::Pointwise => set.pointwise.push(rule),
                Roots::Any => set.anywhere.push(rule),
            }
        }
        set
    }

    fn rules_of(&self, op: OpRef) -> impl Iterator<Item = &'static Rule> {
        let is_pointwise = op.traits.has(OpTraits::POINTWISE) && matches!(op.lower, Lower::Scalar(_));
        let pointwise: &[&'static Rule] = if is_pointwise { &self.pointwise } else { &[] };
        self.by_root.get(&op).into_iter().flatten().chain(pointwise).chain(&self.anywhere).copied()
    }
}

/// What a rule sees: a node over rewritten operands, and the graph under construction.
pub struct RuleCx<'g, 'a> {
    /// The builder of the new graph.
    pub g: &'g GraphBuilder,
    /// The op of the node.
    pub op: OpRef,
    /// The attributes of the node.
    pub attrs: &'a Attrs,
    /// The type of the node, which the rule keeps.
    pub ty: &'a Type,
    /// The operands.
    pub inputs: &'a [Tensor<'g>],
    single_use: u32,
    keys: &'a RefCell<Vec<OrderKey>>,
}

/// The place of a value among commutative operands: computed values, then sources, then broadcasts, then constants; deep
/// ones before shallow ones; and otherwise by a hash of the structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OrderKey {
    kind: u8,
    shallowness: u32,
    hash: u64,
}

impl<'g> RuleCx<'g, '_> {
    /// The first operand.
    pub fn x(&self) -> Tensor<'g> {
        self.inputs[0]
    }

    /// The second operand.
    pub fn y(&self) -> Tensor<'g> {
        self.inputs[1]
    }

    /// Whether the node's values are floats.
    pub fn is_float(&self) -> bool {
        self.ty.dtype().is_float()
    }

    /// Whether operand `k` has no other reader.
    pub fn single_use(&self, k: usize) -> bool {
        self.single_use & (1 << k) != 0
    }

    /// Operands and attributes of `t`, if it is made by `op`.
    pub fn parts(&self, t: Tensor<'g>, op: &'static OpDef) -> Option<(Operands<'g>, Attrs)> {
        self.g.with_graph(|graph| {
            let node = graph.node(t.id());
            let operands = || node.inputs.iter().map(|&i| self.g.tensor(i)).collect();
            node.is(op).then(|| (operands(), node.attrs.clone()))
        })
    }

    /// The operands of `t`, if it is made by `op`.
    pub fn args(&self, t: Tensor<'g>, op: &'static OpDef) -> Option<Operands<'g>> {
        self.g.with_graph(|graph| {
            let node = graph.node(t.id());
            node.is(op).then(|| node.inputs.iter().map(|&i| self.g.tensor(i)).collect())
        })
    }

    /// The first operand of `t`, if it is made by `op`.
    pub fn arg(&self, t: Tensor<'g>, op: &'static OpDef) -> Option<Tensor<'g>> {
        self.args(t, op).and_then(|args| args.first().copied())
    }

    /// Both operands of this node in both orders, for commutative patterns.
    pub fn both_ways(&self) -> [(Tensor<'g>, Tensor<'g>); 2] {
        [(self.x(), self.y()), (self.y(), self.x())]
    }

    /// The elements of `t`, if it is a constant.
    pub fn constant(&self, t: Tensor<'g>) -> Option<std::sync::Arc<TensorData>> {
        self.g.with_graph(|graph| graph.node(t.id()).constant().cloned())
    }

    /// The bits that all elements of `t` have, if it is a constant of one element, repeated or not.
    pub fn splat_bits(&self, t: Tensor<'g>) -> Option<u64> {
        splat_bits(self.g, t)
    }

    /// The number that all elements of `t` are, if it is a constant of one element, repeated or not.
    pub fn splat(&self, t: Tensor<'g>) -> Option<f64> {
        splat(self.g, t)
    }

    /// Whether every element of `t` is this number; the sign of zeros counts.
    pub fn is_splat(&self, t: Tensor<'g>, value: f64) -> bool {
        self.splat(t).is_some_and(|v| v.to_bits() == value.to_bits())
    }

    /// A constant of the node's type.
    pub fn fill(&self, value: impl Into<Number>) -> Tensor<'g> {
        self.g.scalar(value, self.ty.dtype()).broadcast_to(self.ty.shape())
    }

    /// The place of `t` among commutative operands.
    pub fn order_key(&self, t: Tensor<'g>) -> OrderKey {
        let mut keys = self.keys.borrow_mut();
        self.g.with_graph(|graph| {
            while keys.len() <= t.id().index() {
                let key = key_of(graph, NodeId(keys.len() as u32), &keys);
                keys.push(key);
            }
        });
        keys[t.id().index()]
    }
}

/// The bits that all elements of `t` have, if it is a constant of one element, repeated or not.
fn splat_bits(g: &GraphBuilder, t: Tensor<'_>) -> Option<u64> {
    g.with_graph(|graph| {
        let mut node = graph.node(t.id());
        for _ in 0..LOOK_THROUGH {
            if let Some(value) = node.attrs.tensor("value") {
                return (value.shape().n_elements() == 1).then(|| value.bits()[0]);
            }
            match (&node.op.lower, node.op.name) {
                (Lower::View(_), "broadcast" | "reshape") => node = graph.node(node.inputs[0]),
                _ => return None,
            }
        }
        None
    })
}

/// The number that all elements of `t` are, if it is a constant of one element, repeated or not.
pub(crate) fn splat(g: &GraphBuilder, t: Tensor<'_>) -> Option<f64> {
    splat_bits(g, t).map(|bits| t.dtype().f64_of_bits(bits))
}

fn key_of(graph: &Graph, id: NodeId, keys: &[OrderKey]) -> OrderKey {
    let node = graph.node(id);
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    node.op.name.hash(&mut hasher);
    node.attrs.hash(&mut hasher);
    node.ty.hash(&mut hasher);
    let mut depth = 0;
    for input in &node.inputs {
        keys[input.index()].hash.hash(&mut hasher);
        depth = depth.max(u32::MAX - keys[input.index()].shallowness + 1);
    }
    let repeats_constant = || node.inputs.first().is_some_and(|i| keys[i.index()].kind == 3);
    let kind = match node.source() {
        Some(Source::Constant) => 3,
        Some(_) => 1,
        None if node.op.is_any(&[&BROADCAST, &RESHAPE]) && repeats_constant() => 3,
        None if node.is(&BROADCAST) => 2,
        None => 0,
    };
    OrderKey { kind, shallowness: u32::MAX - depth, hash: hasher.finish() }
}

/// FNV-1a, word by word where it can: the same numbers in every run, which the standard hasher does not promise.
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0 ^ word ^ (word >> 32)).wrapping_mul(0x100_0000_01b3);
    }
}

/// Applies rules, in bodies as well, until none applies.
pub fn apply_rules(graph: &Graph, rules: &RuleSet, cx: &mut PassCx<'_>) -> Result<Option<Graph>, PassError> {
    let mut current: Option<Graph> = None;
    cx.stop = Some(StopReason::Fixpoint);
    for round in 0.. {
        cx.begin();
        if round == ROUND_LIMIT {
            cx.stop = Some(StopReason::RoundLimit);
            break;
        }
        let swept = bottom_up(current.as_ref().unwrap_or(graph), |graph, bodies, changed| {
            sweep(graph, bodies, changed, rules, cx)
        });
        match swept? {
            Some(new) => current = Some(new),
            None => break,
        }
    }
    if cx.fuel == 0 {
        cx.stop = Some(StopReason::OutOfFuel);
    }
    Ok(current)
}

/// One sweep over a graph, whose bodies have been swept; `None` if no rule applied.
fn sweep(
    graph: &Graph,
    bodies: &[Arc<Graph>],
    mut changed: bool,
    rules: &RuleSet,
    cx: &mut PassCx<'_>,
) -> Result<Option<Graph>, PassError> {
    cx.rounds += 1;
    let builder = cx.builder(graph);
    let mut copier = Copier::new(graph, bodies, &builder);
    let keys = RefCell::default();
    let order = copier.order();
    let n_uses = uses(graph, &order);
    for id in order {
        let node = graph.node(id);
        let copied = copier.copy(id);
        let mut tensor = copied;
        let mut single_use = 0;
        for (k, input) in node.inputs.iter().enumerate().take(32) {
            single_use |= u32::from(n_uses[input.index()] == 1) << k;
        }
        for _ in 0..CHAIN_LIMIT {
            match apply_one(&builder, tensor, single_use, rules, &keys, &node.origin, cx)? {
                Some(new) => tensor = new,
                None => break,
            }
            changed = true;
            single_use = 0;
        }
        cx.check_room(&builder, node)?;
        if tensor.id() != copied.id() {
            // What a rule puts in the place of a check says as much.
            builder.drop_check(copied);
        }
        copier.set(id, tensor);
    }
    if !changed {
        cx.note_made(&builder);
        return Ok(None);
    }
    copier.outputs();
    Ok(Some(cx.finish(builder, "rules")?))
}

/// For each node, how many operands and outputs read it.
fn uses(graph: &Graph, order: &[NodeId]) -> Vec<u32> {
    let mut n_uses = vec![0; graph.n_nodes()];
    let operands = order.iter().flat_map(|&id| &graph.node(id).inputs).copied();
    for id in operands.chain(graph.outputs().iter().map(|output| output.value)) {
        n_uses[id.index()] += 1;
    }
    n_uses
}

/// What the first rule that applies puts in the place of a tensor.
fn apply_one<'g>(
    builder: &'g GraphBuilder,
    tensor: Tensor<'g>,
    single_use: u32,
    rules: &RuleSet,
    keys: &RefCell<Vec<OrderKey>>,
    origin: &Origin,
    cx: &mut PassCx<'_>,
) -> Result<Option<Tensor<'g>>, PassError> {
    let op = builder.with_graph(|graph| graph.node(tensor.id()).op);
    if rules.rules_of(op).next().is_none() {
        return Ok(None);
    }
    let node = builder.with_graph(|graph| graph.node(tensor.id()).clone());
    let inputs: SmallVec<[Tensor<'g>; 3]> = node.inputs.iter().map(|&i| builder.tensor(i)).collect();
    let rule_cx =
        RuleCx { g: builder, op: node.op, attrs: &node.attrs, ty: &node.ty, inputs: &inputs, single_use, keys };
    for rule in rules.rules_of(node.op) {
        if cx.fuel == 0 || !cx.options.allows(rule.safety) {
            continue;
        }
        builder.set_origin(Some(Origin { rule: Some(rule.name), ..origin.clone() }));
        let Some(new) = (rule.apply)(&rule_cx) else { continue };
        if !builder.owns(new) || new.ty() != node.ty {
            let made = made_of(builder, new);
            let text = format!("the rule makes {made} in the place of `{}` of type {}", node.op.name, node.ty);
            return Err(CompilerBug::new(rule.name, text).into());
        }
        if new.id() == tensor.id() {
            continue;
        }
        cx.fuel -= 1;
        cx.count(rule.name);
        return Ok(Some(new));
    }
    Ok(None)
}

/// What a rule or an op's record has made, as messages say it.
pub(crate) fn made_of(builder: &GraphBuilder, tensor: Tensor<'_>) -> String {
    match builder.last_error().filter(|_| tensor.is_poisoned()) {
        _ if !std::ptr::eq(tensor.builder(), builder) => "a tensor of another graph".into(),
        Some(error) => format!("an ill-typed node ({})", error.message),
        None if tensor.is_poisoned() => "no node".into(),
        None => tensor.ty().to_string(),
    }
}

/// Whether an element type can hold every value of another without rounding.
pub fn widens(from: DType, to: DType) -> bool {
    use DType::{Bool, F32, F64, I32, I64, U8};
    match from {
        Bool => true,
        U8 => matches!(to, U8 | I32 | I64 | F32 | F64),
        I32 => matches!(to, I32 | I64 | F64),
        I64 => to == I64,
        F32 => matches!(to, F32 | F64),
        F64 => to == F64,
    }
}

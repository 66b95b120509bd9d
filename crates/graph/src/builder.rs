//! The builder: how users, derivative rules, expansions and passes make graphs.
//!
//! A [`Tensor`] is a copyable handle to a node of the graph under construction, so formulas read as formulas. Mistakes do
//! not panic and do not return `Result`: the builder records a [`Diag`] with the user's line and hands out a poisoned
//! tensor, on which every further op is silently poisoned too; [`GraphBuilder::finish`] returns all errors at once. A poisoned
//! tensor shows the type that it would probably have, so that the user's code goes on to its next mistake.
//! NumPy broadcasting happens here: pointwise ops see operands of equal shapes, with explicit `broadcast` nodes.

mod sources;
mod tensor;

use cotangent_host::float::in_default;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::attrs::{Attr, Attrs};

use crate::diag::{Code, Diag, Diags, Loc};
use crate::ir::{BodyId, Graph, Inputs, Node, NodeId, OpRef, Output, Role};
use crate::limits::Limits;
use crate::op::{Fault, InferCx, Lower, OpDef, Registry};
use crate::origin::Origin;
use crate::types::Type;
use crate::verify;

/// Ids from here on are of no node, but of what an error was recorded of: places in the list of guessed types.
const FIRST_POISON: u32 = 1 << 31;
/// What an error was recorded of, and nothing is known about.
const UNKNOWN: NodeId = NodeId(u32::MAX);
/// Axes that such a tensor shows: more than are asked for, and less than a tensor can have, for users join shapes.
const UNKNOWN_RANK: usize = 16;
/// What no graph has.
const NO_BODY: BodyId = BodyId(u32::MAX);

/// A value of the graph under construction.
#[derive(Clone, Copy)]
pub struct Tensor<'g> {
    builder: &'g GraphBuilder,
    id: NodeId,
}

impl fmt::Debug for Tensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({})", self.id)
    }
}

/// What layers that behave differently in training and at test time (dropout, noise, batch norm) shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// Dropout and noise are on; normalizations take their statistics from the batch and keep averages of them.
    #[default]
    Train,
    /// Dropout and noise are off; normalizations use the averages. Nothing is changed.
    Evaluate,
    /// Dropout and noise are off; normalizations take their statistics from the batch and average them over all batches
    /// since their count of rows was set to zero: a pass over the training data that measures the averages anew.
    Calibrate,
}

/// What an output is known by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Declared {
    Result(String),
    Update(NodeId),
}

/// Builds one graph. See the module's documentation.
#[derive(Debug)]
pub struct GraphBuilder {
    graph: RefCell<Graph>,
    diags: RefCell<Vec<Diag>>,
    scopes: RefCell<Vec<String>>,
    names: RefCell<HashMap<String, NodeId>>,
    streams: RefCell<HashSet<String>>,
    /// Where outputs and updates were declared, those of results under their names.
    declared: RefCell<HashMap<Declared, Loc>>,
    origin: RefCell<Option<Origin>>,
    /// The scope of what is made now, and that which the whole graph is in, if it is a body.
    place: RefCell<Option<Arc<str>>>,
    outer_place: Option<Arc<str>>,
    mode: Cell<Mode>,
    params_from: RefCell<Option<String>>,
    /// What was made, as [`Limits::cost`] counts it.
    n_made: Cell<usize>,
    limits: Cell<Limits>,
    /// Types that poisoned tensors show.
    guesses: RefCell<Vec<Type>>,
    rounds: Cell<bool>,
    /// Whether names that exist are shared.
    is_shared: Cell<bool>,
}

/// Builds a graph with a closure; all errors at once.
pub fn build(f: impl FnOnce(&GraphBuilder)) -> Result<Graph, Diags> {
    // Numbers are computed on the way, such as the bounds of initialisers, and must not depend on the caller's modes.
    in_default(|| {
        let builder = GraphBuilder::new("main");
        f(&builder);
        builder.finish()
    })
}

impl GraphBuilder {
    /// A builder of an empty graph of built-in ops; [`GraphBuilder::register`] adds others.
    pub fn new(name: &str) -> Self {
        GraphBuilder::with_registry(name, &Registry::builtin())
    }

    /// A builder of an empty graph with the name and the registry of another, for what is made from that.
    pub fn like(graph: &Graph) -> Self {
        GraphBuilder::with_registry(graph.name(), graph.registry()).rounding()
    }

    /// This builder, but numbers that an element type cannot hold are rounded to it: for what is derived from a graph, whose
    /// constants nobody has written. For users they are errors.
    pub fn rounding(self) -> Self {
        self.rounds.set(true);
        self
    }

    /// Whether numbers that an element type cannot hold are rounded.
    pub(crate) fn rounds(&self) -> bool {
        self.rounds.get()
    }

    /// A builder of an empty graph of these ops.
    pub fn with_registry(name: &str, registry: &Registry) -> Self {
        GraphBuilder {
            graph: RefCell::new(Graph::with_registry(name, registry)),
            diags: RefCell::default(),
            scopes: RefCell::default(),
            names: RefCell::default(),
            streams: RefCell::default(),
            declared: RefCell::default(),
            origin: RefCell::default(),
            place: RefCell::default(),
            outer_place: None,
            mode: Cell::default(),
            params_from: RefCell::default(),
            n_made: Cell::default(),
            limits: Cell::default(),
            guesses: RefCell::default(),
            rounds: Cell::default(),
            is_shared: Cell::default(),
        }
    }

    /// Lets the graph have an op from outside. Nothing happens if it is known already, so that a method which makes nodes of
    /// the op may call this first; what [`Registry::register`] refuses is an error of the graph.
    #[track_caller]
    pub fn register(&self, op: &'static OpDef) {
        let done = self.graph.borrow_mut().register(op);
        if let Err(fault) = done {
            self.error(fault.diag());
        }
    }

    /// Counts what is made, nodes that are merged with equal ones included, on from `n_made`; for passes, which ask
    /// [`GraphBuilder::is_full`] after each node that they replace.
    pub fn count_from(&self, n_made: usize, limits: Limits) {
        self.n_made.set(n_made);
        self.limits.set(limits);
    }

    /// What was made so far, as [`Limits::max_nodes`] counts it.
    pub fn n_made(&self) -> usize {
        self.n_made.get()
    }

    /// Counts work that makes no nodes, such as a search through nodes.
    pub fn spend(&self, n_nodes: usize) {
        self.n_made.set(self.n_made.get().saturating_add(n_nodes));
    }

    /// What the graph may grow to.
    pub fn limits(&self) -> Limits {
        self.limits.get()
    }

    /// Whether more was made than the limits allow. Nodes can still be added: that is for whoever made the builder to end.
    pub fn is_full(&self) -> bool {
        self.n_made.get() > self.limits.get().max_nodes
    }

    /// Makes room for so many more nodes.
    pub fn reserve(&self, n_nodes: usize) {
        self.graph.borrow_mut().reserve(n_nodes);
    }

    /// What layers that behave differently in training and at test time do; [`Mode::Train`] at first.
    pub fn mode(&self) -> Mode {
        self.mode.get()
    }

    /// Chooses what such layers do from here on.
    pub fn set_mode(&self, mode: Mode) {
        self.mode.set(mode);
    }

    /// Whether the mode is [`Mode::Train`].
    pub fn is_training(&self) -> bool {
        self.mode() == Mode::Train
    }

    /// Chooses [`Mode::Train`] or [`Mode::Evaluate`] for the layers that follow.
    pub fn set_training(&self, training: bool) {
        self.set_mode(if training { Mode::Train } else { Mode::Evaluate });
    }

    // ---- origins ----------------------------------------------------------------------------------------------------

    /// Makes every node that follows come from `origin` instead of the caller's line; `None` ends that. The
    /// origin before is returned, to be set again.
    pub fn set_origin(&self, origin: Option<Origin>) -> Option<Origin> {
        self.origin.replace(origin)
    }

    /// Where what is made now comes from: the origin that was set, or the caller's line; the scope of that origin, or the one that
    /// is open.
    #[track_caller]
    pub fn origin(&self) -> Origin {
        // Not a closure: those do not pass the caller's place on.
        let mut origin = match self.origin.borrow().clone() {
            Some(origin) => origin,
            None => Origin::at(Loc::here()),
        };
        if origin.scope.is_none() {
            origin.scope.clone_from(&self.place.borrow());
        }
        origin
    }

    // ---- ops -----------------------------------------------------------------------------------------------------

    /// Records an error and returns a poisoned tensor; see [`GraphBuilder::error`].
    pub fn poison(&self, diag: Diag) -> Tensor<'_> {
        self.error(diag);
        self.poisoned()
    }

    /// A poisoned tensor for an error that has been recorded already. It shows sixteen axes, so that none that is asked for is
    /// missing.
    pub fn poisoned(&self) -> Tensor<'_> {
        Tensor { builder: self, id: UNKNOWN }
    }

    /// A poisoned tensor, for an error that has been recorded already, of the type that it would have without the mistake.
    pub fn poisoned_as(&self, ty: Type) -> Tensor<'_> {
        let mut guesses = self.guesses.borrow_mut();
        let id = FIRST_POISON + guesses.len() as u32;
        guesses.push(ty);
        Tensor { builder: self, id: NodeId(id) }
    }

    /// Whether no error has been recorded.
    pub fn is_ok(&self) -> bool {
        self.diags.borrow().is_empty()
    }

    /// The last error that was recorded.
    pub fn last_error(&self) -> Option<Diag> {
        self.diags.borrow().last().cloned()
    }

    /// The first error of a kind that was recorded.
    pub fn error_of(&self, code: Code) -> Option<Diag> {
        self.diags.borrow().iter().find(|diag| diag.code == code).cloned()
    }

    /// The handle of a node of this builder's graph; an error and a poisoned tensor if there is no such node.
    #[track_caller]
    pub fn tensor(&self, id: NodeId) -> Tensor<'_> {
        let (tensor, n_nodes) = (Tensor { builder: self, id }, self.graph.borrow().n_nodes());
        // What is poisoned has an error to it.
        if id.index() < n_nodes || tensor.is_poisoned() && !self.is_ok() {
            return tensor;
        }
        self.poison(Diag::new(Code::UnknownName, format!("the graph has no node {id}")))
    }

    /// Whether a tensor is one of this builder's and not poisoned.
    pub fn owns(&self, tensor: Tensor<'_>) -> bool {
        std::ptr::eq(tensor.builder, self) && !tensor.is_poisoned()
    }

    /// Read access to the graph so far.
    ///
    /// # Panics
    /// If `f` adds to the graph.
    pub fn with_graph<R>(&self, f: impl FnOnce(&Graph) -> R) -> R {
        f(&self.graph.borrow())
    }

    /// Adds a body; see [`Graph::add_body`]. If that refuses, it is an error of the graph, and the id is one of no body.
    #[track_caller]
    pub fn add_body(&self, body: Arc<Graph>) -> BodyId {
        let added = self.graph.borrow_mut().add_body(body);
        added.unwrap_or_else(|fault| {
            self.error(fault.diag());
            NO_BODY
        })
    }

    /// Any op: infers the type and appends the node. `declared` is the type of ops that have no operands to infer from.
    #[track_caller]
    pub fn op(&self, op: &'static OpDef, inputs: &[Tensor<'_>], attrs: Attrs, declared: Option<Type>) -> Tensor<'_> {
        self.op_of(op, inputs, inputs, attrs, declared)
    }

    /// An op on operands that were made of the user's, such as broadcast ones: errors show where the user's were made.
    #[track_caller]
    pub(crate) fn op_of(
        &self,
        op: &'static OpDef,
        inputs: &[Tensor<'_>],
        of: &[Tensor<'_>],
        attrs: Attrs,
        declared: Option<Type>,
    ) -> Tensor<'_> {
        if let Some(foreign) = inputs.iter().find(|t| !std::ptr::eq(t.builder, self)) {
            let diag = Diag::new(Code::ForeignTensor, format!("`{}` got a tensor of another graph", op.name));
            return self.poison(diag.made("the tensor", *foreign).operands(of));
        }
        // A body that was refused has been reported.
        if inputs.iter().any(|t| t.is_poisoned()) || attrs.iter().any(|(_, attr)| *attr == Attr::Body(NO_BODY)) {
            let types: SmallVec<[Type; 4]> = inputs.iter().map(|t| t.ty()).collect();
            return self.guessed(op, &types, &attrs, declared.as_ref()).unwrap_or_else(|| self.poisoned());
        }
        let ids: Inputs = inputs.iter().map(|t| t.id).collect();
        let origin = self.origin();
        let inferred = infer_type(&self.graph.borrow(), op, &ids, &attrs, declared.as_ref());
        self.spend(Limits::cost(ids.len()));
        let added = inferred.and_then(|ty| self.graph.borrow_mut().add(OpRef(op), ids, attrs, ty, origin));
        match added {
            Ok(id) => Tensor { builder: self, id },
            Err(mut fault) => {
                // After the places of the operands.
                let notes = std::mem::take(&mut fault.notes);
                let mut diag = fault.diag().operands(of);
                diag.notes.extend(notes);
                self.error(diag);
                declared.map_or_else(|| self.poisoned(), |ty| self.poisoned_as(ty))
            }
        }
    }

    /// The poisoned tensor that an op on such operands makes, if it can be told.
    fn guessed(
        &self,
        op: &'static OpDef,
        operands: &[Type],
        attrs: &Attrs,
        declared: Option<&Type>,
    ) -> Option<Tensor<'_>> {
        let types: SmallVec<[&Type; 4]> = operands.iter().collect();
        let inferred = infer_type_of(&self.graph.borrow(), op, &types, attrs, declared);
        inferred.ok().map(|ty| self.poisoned_as(ty))
    }

    // ---- outputs -------------------------------------------------------------------------------------------------

    /// Declares a result of the graph.
    #[track_caller]
    pub fn output(&self, name: &str, value: Tensor<'_>) {
        if !self.own(value, "output") {
            return;
        }
        if self.graph.borrow().has_result(name) {
            let diag = Diag::new(Code::DuplicateName, format!("two outputs are named `{name}`"));
            let first = self.declared.borrow().get(&Declared::Result(name.to_owned())).cloned();
            let diag = first.into_iter().fold(diag, |diag, first| diag.note("first declared", first));
            self.error(diag);
            return;
        }
        if let Err(diag) = check_result(&self.graph.borrow(), name, value.id) {
            self.error(diag.at(Loc::here()).made("the tuple", value));
            return;
        }
        self.declared.borrow_mut().insert(Declared::Result(name.to_owned()), self.origin().loc());
        self.push_output(Output { name: name.into(), value: value.id, role: Role::Result });
    }

    /// Declares the next value of a parameter or state.
    #[track_caller]
    pub fn update(&self, target: Tensor<'_>, value: Tensor<'_>) {
        if !self.own(target, "update") || !self.own(value, "update") {
            return;
        }
        let fault = {
            let graph = self.graph.borrow();
            check_update(&graph, target.id, value.id)
        };
        match fault {
            Err(diag) => {
                let diag = diag.at(Loc::here()).made("the target", target).made("the value", value);
                let first = self.updated_at(target);
                let diag = first.into_iter().fold(diag, |diag, first| diag.note("first updated", first));
                self.error(diag);
            }
            Ok(name) => {
                let origin = self.origin();
                self.declared.borrow_mut().insert(Declared::Update(target.id), origin.loc());
                self.push_output(Output { name, value: value.id, role: Role::Update(target.id) });
            }
        }
    }

    /// Where the update of a parameter or state was declared, if it has one.
    pub fn updated_at(&self, target: Tensor<'_>) -> Option<Loc> {
        self.declared.borrow().get(&Declared::Update(target.id)).cloned()
    }

    #[track_caller]
    fn own(&self, value: Tensor<'_>, what: &str) -> bool {
        if !std::ptr::eq(value.builder, self) {
            let diag = Diag::new(Code::ForeignTensor, format!("`{what}` got a tensor of another graph"));
            self.error(diag.made("the tensor", value));
            return false;
        }
        !value.is_poisoned()
    }

    /// Records an error that belongs to no tensor. It is at the origin that was set, if one was: see
    /// [`GraphBuilder::set_origin`].
    pub fn error(&self, diag: Diag) {
        let diag = match &*self.origin.borrow() {
            Some(origin) => diag.at(origin.loc()),
            None => diag,
        };
        self.diags.borrow_mut().push(diag);
    }

    /// The finished graph, or every error that was made.
    pub fn finish(self) -> Result<Graph, Diags> {
        let mut diags = self.diags.into_inner();
        let graph = self.graph.into_inner();
        if diags.is_empty() && graph.outputs().is_empty() {
            let help = "declare what the graph computes with `g.output(name, tensor)` or `g.update(target, value)`";
            diags.push(Diag::new(Code::NoOutputs, "the graph has no outputs").at(Loc::Internal).help(help));
        }
        if diags.is_empty() { Ok(graph) } else { Err(Diags(diags)) }
    }

    /// The graph without the check for outputs; for passes, whose own checks follow.
    pub fn into_graph(self) -> Result<Graph, Diags> {
        let diags = self.diags.into_inner();
        if diags.is_empty() { Ok(self.graph.into_inner()) } else { Err(Diags(diags)) }
    }

    /// Declares an output of a graph that a pass rebuilds.
    #[track_caller]
    pub fn push_output(&self, output: Output) {
        let added = self.graph.borrow_mut().add_output(output);
        if let Err(fault) = added {
            self.error(fault.diag());
        }
    }

    /// Says that a check has become needless; see [`Graph::drop_check`].
    pub fn drop_check(&self, check: Tensor<'_>) {
        self.graph.borrow_mut().drop_check(check.id);
    }

    /// Appends a node as it is, without inference, keeping its origin; for passes that copy nodes. What [`Graph::add`] refuses
    /// is an error of the graph; what is otherwise wrong with the node is the verifier's matter.
    #[track_caller]
    pub fn push_node(&self, op: OpRef, inputs: Inputs, attrs: Attrs, ty: Type, origin: Origin) -> Tensor<'_> {
        self.spend(Limits::cost(inputs.len()));
        let added = self.graph.borrow_mut().add(op, inputs, attrs, ty, origin);
        match added {
            Ok(id) => Tensor { builder: self, id },
            Err(fault) => self.poison(fault.diag()),
        }
    }
}

/// The type of a node that is not there yet.
///
/// # Errors
/// Why there can be no such node: the op is not of the graph's registry, or what it was given is not what it takes; or a
/// mistake in the record of the op, whose type must fit the way it lowers.
pub fn infer_type(
    graph: &Graph,
    op: &'static OpDef,
    inputs: &[NodeId],
    attrs: &Attrs,
    declared: Option<&Type>,
) -> Result<Type, Fault> {
    let types: SmallVec<[&Type; 4]> = inputs.iter().map(|&i| graph.ty(i)).collect();
    infer_type_of(graph, op, &types, attrs, declared)
}

/// The type of a node with operands of these types.
fn infer_type_of(
    graph: &Graph,
    op: &'static OpDef,
    types: &[&Type],
    attrs: &Attrs,
    declared: Option<&Type>,
) -> Result<Type, Fault> {
    if !graph.registry().contains(OpRef(op)) {
        return Err(graph.registry().unknown(OpRef(op)));
    }
    if !op.arity.allows(types.len()) {
        let text = format!("`{}` requires {} operands, got {}", op.name, op.arity, types.len());
        return Err(Fault::new(Code::BadArity, text));
    }
    verify::check_attrs(op, attrs)?;
    let cx = InferCx { op, inputs: types, attrs, declared, bodies: graph.bodies() };
    let ty = op.infer(&cx)?;
    if matches!(op.lower, Lower::Scalar(_)) {
        let shape = ty.as_tensor().map(|(_, shape)| shape);
        if shape.is_none() || types.iter().any(|operand| operand.as_tensor().map(|(_, shape)| shape) != shape) {
            let got = types.iter().map(|t| t.to_string()).collect::<Vec<_>>().join(", ");
            return Err(op.mistake(format!("applies to each element, and makes {ty} of ({got})")));
        }
    }
    Ok(ty)
}

/// Checks that a result is a tensor.
pub fn check_result(graph: &Graph, name: &str, value: NodeId) -> Result<(), Diag> {
    let ty = graph.ty(value);
    if ty.as_tensor().is_some() {
        return Ok(());
    }
    let text = format!("output `{name}` requires a tensor, got the tuple {ty}");
    Err(Diag::new(Code::BadUpdate, text).at(Loc::Internal).help("take it apart with `item`, one output for each"))
}

/// Checks an update and returns the name of its target.
pub fn check_update(graph: &Graph, target: NodeId, value: NodeId) -> Result<Arc<str>, Diag> {
    let node = graph.node(target);
    let text = |text: String| Diag::new(Code::BadUpdate, text).at(Loc::Internal);
    let Some(name) = node.name().filter(|_| node.is_stored()) else {
        return Err(text(format!("an update requires a parameter or state, got `{}`", node.op.name)));
    };
    let name: Arc<str> = name.into();
    if graph.ty(value) != &node.ty {
        return Err(text(format!("the update of `{name}` requires {}, got {}", node.ty, graph.ty(value))));
    }
    if graph.is_updated(target) {
        return Err(text(format!("`{name}` is updated twice")));
    }
    Ok(name)
}

impl Diag {
    /// The same error with the place where a tensor was made, which `what` says what it is.
    pub fn made(self, what: &str, tensor: Tensor<'_>) -> Self {
        if tensor.is_poisoned() { self } else { self.note(format!("{what} was made"), tensor.made_at()) }
    }

    /// The same error with the places where all operands were made.
    pub fn operands(self, operands: &[Tensor<'_>]) -> Self {
        operands.iter().enumerate().fold(self, |diag, (k, operand)| match operand.is_poisoned() {
            true => diag,
            false => diag.operand(k, operand.builder.graph.borrow().node(operand.id)),
        })
    }

    /// The same error with the place where operand `k` was made.
    pub(crate) fn operand(self, k: usize, node: &Node) -> Self {
        self.note(format!("operand {k}, `{}` of type {}, was made", node.op.name, node.ty), node.origin.loc())
    }
}

//! Named sources of a graph (inputs, parameters, states), the scopes that their names stand in, and how they are shared.

use std::sync::Arc;

use crate::attrs::Attrs;
use crate::diag::{Code, Diag};
use crate::init::Init;
use crate::op::OpDef;
use crate::ops::source::{INPUT, PARAM, STATE};
use crate::types::{Shape, Type};
use cotangent_scalar::DType;

use super::{GraphBuilder, Tensor};

impl GraphBuilder {
    /// A tensor given at every step.
    #[track_caller]
    pub fn input(&self, name: &str, dtype: DType, shape: impl Into<Shape>) -> Tensor<'_> {
        self.named(&INPUT, self.scoped(name), Attrs::none(), Type::tensor(dtype, shape))
    }

    /// A trained tensor that starts as `init` says.
    #[track_caller]
    pub fn param(&self, name: &str, dtype: DType, shape: impl Into<Shape>, init: Init) -> Tensor<'_> {
        let attrs = Attrs::none().with("init", init);
        let replaced = self.params_from.borrow().as_ref().map(|prefix| format!("{prefix}.{}", self.scoped(name)));
        if let Some(state) = replaced {
            return self.named(&STATE, state, attrs, Type::tensor(dtype, shape));
        }
        self.named(&PARAM, self.scoped(name), attrs, Type::tensor(dtype, shape))
    }

    /// A tensor carried from step to step, which changes only by [`GraphBuilder::update`].
    #[track_caller]
    pub fn state(&self, name: &str, dtype: DType, shape: impl Into<Shape>, init: Init) -> Tensor<'_> {
        let attrs = Attrs::none().with("init", init);
        self.named(&STATE, self.scoped(name), attrs, Type::tensor(dtype, shape))
    }

    /// Runs `f` with the state `prefix.name` in the place of every parameter `name` made inside: a model that reads, for
    /// example, running averages of its weights, as a program beside the one that trains them.
    pub fn params_from<R>(&self, prefix: &str, f: impl FnOnce() -> R) -> R {
        let before = self.params_from.replace(Some(self.scoped(prefix)));
        let result = f();
        self.params_from.replace(before);
        result
    }

    #[track_caller]
    fn named(&self, op: &'static OpDef, name: String, attrs: Attrs, ty: Type) -> Tensor<'_> {
        let attrs = attrs.iter().fold(Attrs::none().with("name", name.as_str()), |a, (n, v)| a.with(n, v.clone()));
        if let Some(known) = self.known(op, &name, &attrs, &ty) {
            return known;
        }
        let tensor = self.op(op, &[], attrs, Some(ty));
        if !tensor.is_poisoned() {
            self.names.borrow_mut().insert(name, tensor.id);
        }
        tensor
    }

    /// What has the name already: the tensor itself where that is shared, an error otherwise.
    #[track_caller]
    fn known(&self, op: &'static OpDef, name: &str, attrs: &Attrs, ty: &Type) -> Option<Tensor<'_>> {
        let id = *self.names.borrow().get(name)?;
        let diag = {
            let graph = self.graph.borrow();
            let node = graph.node(id);
            let is_input = node.is(&INPUT) || std::ptr::eq(op, &INPUT);
            let is_same = node.is(op) && node.ty == *ty && node.attrs == *attrs;
            if self.is_shared.get() && is_same && !is_input {
                return Some(Tensor { builder: self, id });
            }
            let diag = if self.is_shared.get() && !is_input {
                let start =
                    |init: Option<&Init>| init.map(|init| format!(" that starts as {init}")).unwrap_or_default();
                let known = format!("a {} {}{}", node.op.name, node.ty, start(node.init()));
                let asked = format!("a {} {ty}{}", op.name, start(attrs.init("init")));
                let text = format!("`{name}` is shared, so it requires {known}, got {asked}");
                Diag::new(Code::DuplicateName, text)
            } else {
                let help = "choose another name, or share what is made under it: `g.shared_scope(name, ..)` for layers, \
                            `g.shared(name)` for one tensor";
                Diag::new(Code::DuplicateName, format!("the name `{name}` is already used")).help(help)
            };
            diag.note("first used", node.origin.loc())
        };
        self.error(diag);
        Some(self.poisoned_as(ty.clone()))
    }

    /// The input, parameter or state of this (scoped) name, made earlier: sharing is asked for, never guessed.
    #[track_caller]
    pub fn shared(&self, name: &str) -> Tensor<'_> {
        let full = self.scoped(name);
        let replaced = self.params_from.borrow().as_ref().map(|prefix| format!("{prefix}.{full}"));
        for known in replaced.iter().chain([&full]) {
            if let Some(&id) = self.names.borrow().get(known) {
                return Tensor { builder: self, id };
            }
        }
        let diag = Diag::new(Code::UnknownName, format!("no input, parameter or state is named `{full}`"));
        self.poison(diag.suggest(&full, self.names.borrow().keys().map(String::as_str)))
    }

    /// A fresh random stream's name in the current scope: `name`, or `name_2`, … if it is taken.
    #[track_caller]
    pub fn stream_name(&self, name: &str) -> String {
        let full = self.scoped(name);
        let mut streams = self.streams.borrow_mut();
        let mut unique = full.clone();
        let mut n = 1;
        while !streams.insert(unique.clone()) {
            n += 1;
            unique = format!("{full}_{n}");
        }
        unique
    }

    // ---- scopes and origins --------------------------------------------------------------------------------------

    /// Runs `f` with `name.` in front of every name made inside, and with that scope in the origin of every node.
    pub fn scope<R>(&self, name: &str, f: impl FnOnce() -> R) -> R {
        let outer = self.enter(name);
        let result = self.named_in(name, f);
        self.leave(outer);
        result
    }

    /// Runs `f` with `name.` in front of every name made inside.
    pub(crate) fn named_in<R>(&self, name: &str, f: impl FnOnce() -> R) -> R {
        self.scopes.borrow_mut().push(name.to_owned());
        let result = f();
        self.scopes.borrow_mut().pop();
        result
    }

    /// This builder, for a body of the graph of another one: it is in the scope that is open there.
    pub(crate) fn inside(mut self, outer: &GraphBuilder) -> Self {
        self.outer_place.clone_from(&outer.place.borrow());
        self.place.replace(self.outer_place.clone());
        self
    }

    /// Makes every node that follows be of the scope `name`, behind the open ones, without a change of its name: for layers, which
    /// write their name in front themselves. What is returned is for [`GraphBuilder::leave`].
    pub fn enter(&self, name: &str) -> Option<Arc<str>> {
        let name = self.scoped(name);
        let place = self.outer_place.as_ref().map_or_else(|| name.clone(), |outer| format!("{outer}.{name}"));
        self.place.replace(Some(place.into()))
    }

    /// Ends what [`GraphBuilder::enter`] began.
    pub fn leave(&self, outer: Option<Arc<str>>) {
        self.place.replace(outer);
    }

    /// A name with the current scopes in front.
    pub fn scoped(&self, name: &str) -> String {
        let scopes = self.scopes.borrow();
        scopes.iter().map(String::as_str).chain([name]).collect::<Vec<_>>().join(".")
    }

    /// Runs `f` as [`GraphBuilder::scope`] does, but parameters and states that exist under their names are used again: a model
    /// that is applied twice has one set of weights.
    ///
    /// ```
    /// use cotangent_graph::DType::F32;
    /// use cotangent_graph::{Init, Tensor, build};
    ///
    /// fn encode(x: Tensor<'_>) -> Tensor<'_> {
    ///     let g = x.builder();
    ///     g.shared_scope("encoder", || x.matmul(g.param("weight", F32, [3, 2], Init::GlorotUniform)).tanh())
    /// }
    ///
    /// let graph = build(|g| {
    ///     let (left, right) = (g.input("left", F32, [8, 3]), g.input("right", F32, [8, 3]));
    ///     g.output("distance", (encode(left) - encode(right)).square().sum_over(-1));
    /// })?;
    /// assert_eq!(graph.params().count(), 1);
    /// # Ok::<(), cotangent_graph::Diags>(())
    /// ```
    ///
    /// What is shared must have one type and one start, otherwise it is an error. A state is updated once a step, so a layer that
    /// updates one (batch norm in training) cannot be applied twice. Random numbers (dropout) are drawn for each use.
    pub fn shared_scope<R>(&self, name: &str, f: impl FnOnce() -> R) -> R {
        let before = self.is_shared.replace(true);
        let result = self.scope(name, f);
        self.is_shared.set(before);
        result
    }
}

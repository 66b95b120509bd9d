//! Tensors by name: the fields of a batch, and what a model makes of them.
//!
//! A field becomes an input of the program when somebody asks for it first. So a program that predicts has no labels, and data
//! may have fields that a model does not know.

use std::cell::RefCell;
use std::fmt;

use cotangent_data::Field;
use cotangent_graph::{Code, Diag, GraphBuilder, Origin, Shape, Tensor};

/// The name of the output of a model that has one.
pub const OUTPUTS: &str = "outputs";

/// Named tensors of a graph.
pub struct Named<'g> {
    g: &'g GraphBuilder,
    what: &'static str,
    known: RefCell<Vec<(String, Tensor<'g>)>>,
    /// Fields that are not inputs yet, the rows of a batch, and where such inputs are asked for.
    offered: Option<(Vec<Field>, usize, Origin)>,
    /// Fields that are, with the inputs' names.
    inputs: RefCell<Vec<(String, String)>>,
}

impl fmt::Debug for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl<'g> Named<'g> {
    /// What a model makes: tensors with a row for each example, by name.
    pub fn outputs<N: Into<String>>(
        g: &'g GraphBuilder,
        tensors: impl IntoIterator<Item = (N, Tensor<'g>)>,
    ) -> Named<'g> {
        let known = tensors.into_iter().map(|(name, tensor)| (name.into(), tensor)).collect();
        Named {
            g,
            what: "the model has no output",
            known: RefCell::new(known),
            offered: None,
            inputs: RefCell::default(),
        }
    }

    /// The fields of a batch of so many rows.
    pub(crate) fn batch(g: &'g GraphBuilder, fields: &[Field], rows: usize, origin: Origin) -> Named<'g> {
        let offered = Some((fields.to_vec(), rows, origin));
        Named { g, what: "the examples have no field", known: RefCell::default(), offered, inputs: RefCell::default() }
    }

    /// The graph that they are in.
    pub fn builder(&self) -> &'g GraphBuilder {
        self.g
    }

    /// The tensor of a name. That there is none is an error of the graph, with the names that there are.
    #[track_caller]
    pub fn get(&self, name: &str) -> Tensor<'g> {
        if let Some((_, tensor)) = self.known.borrow().iter().find(|(known, _)| known == name) {
            return *tensor;
        }
        let offered = self.offered.iter().find_map(|(fields, rows, origin)| {
            fields.iter().find(|field| field.name == name).map(|field| (field, *rows, origin))
        });
        let Some((field, rows, origin)) = offered else {
            let names: Vec<String> = self.names().iter().map(|name| format!("`{name}`")).collect();
            let diag = Diag::new(Code::NoSuchValue, format!("{} `{name}`", self.what));
            return self.g.poison(diag.help(format!("there are {}", names.join(", "))));
        };
        // The model has lines of its own; fields come from the call that handed the examples in.
        let outer = self.g.set_origin(Some(origin.clone()));
        let shape: Shape = [rows].into_iter().chain(field.shape.iter().copied()).collect();
        let input = self.g.input(name, field.dtype, shape);
        self.g.set_origin(outer);
        self.inputs.borrow_mut().push((name.to_owned(), self.g.scoped(name)));
        self.known.borrow_mut().push((name.to_owned(), input));
        input
    }

    /// Another tensor under a name that was asked for.
    pub(crate) fn replace(&self, name: &str, tensor: Tensor<'g>) {
        let mut known = self.known.borrow_mut();
        known.iter_mut().filter(|(known, _)| known == name).for_each(|(_, old)| *old = tensor);
    }

    /// The names that can be asked for.
    pub fn names(&self) -> Vec<String> {
        match &self.offered {
            Some((fields, ..)) => fields.iter().map(|field| field.name.clone()).collect(),
            None => self.known.borrow().iter().map(|(name, _)| name.clone()).collect(),
        }
    }

    /// The tensors there are.
    pub(crate) fn tensors(&self) -> Vec<(String, Tensor<'g>)> {
        self.known.borrow().clone()
    }

    /// The fields that were asked for, with the names of their inputs.
    pub(crate) fn inputs(&self) -> Vec<(String, String)> {
        self.inputs.borrow().clone()
    }
}

impl<'g> From<Tensor<'g>> for Named<'g> {
    /// The one output of a model, under the name [`OUTPUTS`].
    fn from(tensor: Tensor<'g>) -> Self {
        Named::outputs(tensor.builder(), [(OUTPUTS, tensor)])
    }
}

/// What maps the fields of a batch to outputs: a function of the field `x`, or one of all fields ([`ByName`]).
pub trait Net {
    /// Builds the outputs; the same parameters for every number of rows.
    #[track_caller]
    fn outputs<'g>(&self, g: &'g GraphBuilder, batch: &Named<'g>) -> Named<'g>;
}

impl<F: for<'g> Fn(&'g GraphBuilder, Tensor<'g>) -> Tensor<'g>> Net for F {
    #[track_caller]
    fn outputs<'g>(&self, g: &'g GraphBuilder, batch: &Named<'g>) -> Named<'g> {
        let x = batch.get("x");
        let outer = g.set_origin(None);
        let outputs = self(g, x);
        g.set_origin(outer);
        outputs.into()
    }
}

/// A function of all fields as a model; see [`Trainer::named`](crate::Trainer::named).
#[derive(Clone, Copy)]
pub struct ByName<F>(pub F);

impl<F> fmt::Debug for ByName<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ByName")
    }
}

impl<F: for<'g> Fn(&'g GraphBuilder, &Named<'g>) -> Named<'g>> Net for ByName<F> {
    #[track_caller]
    fn outputs<'g>(&self, g: &'g GraphBuilder, batch: &Named<'g>) -> Named<'g> {
        let outer = g.set_origin(None);
        let outputs = (self.0)(g, batch);
        g.set_origin(outer);
        outputs
    }
}

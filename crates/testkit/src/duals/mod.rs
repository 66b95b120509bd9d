//! Gradients of orders 1 and 2 against dual numbers, at any operands: infinities, NaN, zeros, subnormals, ties, the ends of a
//! type.
//!
//! Central differences see nothing there. So the graph is written onto a [`tape`] of scalar operations in double-double numbers,
//! with derivatives from a table of their own ([`slopes`]), and dual numbers go over it forward along unit directions: what
//! comes out is the derivative, whatever a program rounds. A sweep backward over the same tape says what a program that
//! accumulates backward, as gradients are, may round: 16 times that bound is let pass. Where a value, a derivative or a partial
//! sum on the way leaves the graph's own type, or where rounding decides a comparison, the element is left out and counted.
//!
//! The symbolic side is the source graph with `grad`, through the whole pipeline, in its own types, by the interpreter, whose
//! bits are those of machine code.

pub mod dd;
pub mod eval;
mod loops;
mod products;
pub mod slopes;
pub mod tape;

use std::fmt;

use cotangent_graph::interp::interpret;
use cotangent_graph::{DType, Env, Graph, GraphBuilder, NodeId, Role, Tensor, TensorData};
use cotangent_passes::rebuild::Copier;
use cotangent_passes::{PassOptions, optimize};

use crate::Rng;
use dd::Dd;
use eval::{Taped, Value};
use tape::{Id, SLACK, Term, add, mul};

/// The most elements whose derivatives are compared in one graph.
const MAX_ELEMENTS: usize = 24;

/// A derivative that is not that of dual numbers.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// 1: of the weighted sum of all results. 2: of the derivative of that along a direction.
    pub order: usize,
    /// The source.
    pub name: String,
    /// The element, in row-major order.
    pub element: usize,
    /// What the pipeline makes of it.
    pub got: f64,
    /// What dual numbers give.
    pub want: f64,
    /// The bound of rounding errors.
    pub bound: f64,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mismatch { order, name, element, got, want, bound } = self;
        write!(f, "order {order} by element {element} of `{name}`: {got:e}, by dual numbers {want:e} ± {bound:.1e}")
    }
}

/// Counts of one order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Elements that agree.
    pub n_agree: u64,
    /// Those of them that are neither infinite nor NaN.
    pub n_finite: u64,
    /// Elements left out: something on the way is not in the type, or rounding decides.
    pub n_left_out: u64,
    /// Elements that are otherwise by a row of the table of conventions that is about how derivatives are accumulated:
    /// infinities of both signs that meet where paths join, and zeros that meet infinities in matrix products.
    pub n_open: u64,
}

/// What was found of a graph.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Orders 1 and 2.
    pub orders: [Counts; 2],
    /// What does not agree.
    pub mismatches: Vec<Mismatch>,
}

/// Compares the derivatives of a graph's float results by its float sources at `env`. The results are weighted, and the
/// direction of order 2 chosen, by the seed.
///
/// # Errors
/// The graph has `grad`, is too large, or is an error at these values.
pub fn check(graph: &Graph, env: &Env, seed: u64) -> Result<Report, String> {
    let mut report = Report::default();
    let taped = eval::tape(graph, env)?;
    let mut rng = Rng::new(seed ^ 0xd0a1);
    let mut ask = Asked::default();
    let mut seeds: Vec<(Id, Term)> = Vec::new();
    for (output, value) in graph.outputs().iter().zip(&taped.outputs) {
        let (Value::Floats(dtype, shape, ids), Role::Result) = (value, output.role) else { continue };
        let weights = away_from_zero(&mut rng, ids.len());
        seeds.extend(ids.iter().zip(&weights).map(|(&id, &w)| (id, Term::exact(Dd::from(w)))));
        let bits: Vec<u64> = weights.iter().map(|&w| dtype.bits_of_f64(w)).collect();
        ask.weights.push((output.value, TensorData::from_bits(*dtype, shape, &bits)));
    }
    let mut along: Vec<(Id, Term)> = Vec::new();
    for (name, ids) in &taped.sources {
        let Some(ty) = graph.source(name).map(|id| graph.ty(id)).filter(|_| !ids.is_empty()) else { continue };
        let steps = away_from_zero(&mut rng, ids.len());
        along.extend(ids.iter().zip(&steps).map(|(&id, &v)| (id, Term::exact(Dd::from(v)))));
        let bits: Vec<u64> = steps.iter().map(|&v| ty.dtype().bits_of_f64(v)).collect();
        ask.directions.push((name.clone(), TensorData::from_bits(ty.dtype(), ty.shape(), &bits)));
    }
    if ask.weights.is_empty() || ask.directions.is_empty() {
        return Ok(report);
    }
    let symbolic = ask.derivatives(graph, env)?;
    let elements: Vec<(usize, usize)> = (0..ask.directions.len())
        .flat_map(|k| (0..ask.directions[k].1.shape().n_elements()).map(move |element| (k, element)))
        .collect();
    let chosen: Vec<(usize, usize)> = match elements.len() > MAX_ELEMENTS {
        true => (0..MAX_ELEMENTS).map(|_| *rng.pick(&elements)).collect(),
        false => elements,
    };
    let sweeps = Sweeps::new(&taped, seeds, along);
    for (k, element) in chosen {
        let (name, direction) = &ask.directions[k];
        let Some((_, ids)) = taped.sources.iter().find(|(known, _)| known == name) else { continue };
        let forward = sweeps.forward(ids[element]);
        for order in [1, 2] {
            let got = symbolic[order - 1][k].to_f64()[element];
            let counts = &mut report.orders[order - 1];
            let want = forward[order - 1];
            let (rounded, meets) = sweeps.backward(ids[element], order);
            let seen = match judge(got, want, rounded, direction.dtype()) {
                // Where dropped elements are not dropped for good, by the table of conventions.
                Seen::Differs if got.is_nan() => meets.unwrap_or(Seen::Differs),
                seen => seen,
            };
            match seen {
                Seen::Agrees => {
                    counts.n_agree += 1;
                    counts.n_finite += u64::from(got.is_finite());
                }
                Seen::LeftOut => counts.n_left_out += 1,
                Seen::Open => counts.n_open += 1,
                Seen::Differs => {
                    let want = want.map_or(0.0, |want| want.value.to_f64());
                    let bound = rounded.map_or(0.0, |rounded| rounded.error);
                    report.mismatches.push(Mismatch { order, name: name.clone(), element, got, want, bound });
                }
            }
        }
    }
    Ok(report)
}

/// Random numbers of magnitude 0.5 to 1.5 with few digits, so that every float type holds them.
fn away_from_zero(rng: &mut Rng, n: usize) -> Vec<f64> {
    let number = |rng: &mut Rng| (0.5 + rng.below(257) as f64 / 256.0) * if rng.chance(0.5) { -1.0 } else { 1.0 };
    (0..n).map(|_| number(rng)).collect()
}

/// What is differentiated by what.
#[derive(Default)]
struct Asked {
    /// Results and the weights of their elements.
    weights: Vec<(NodeId, TensorData)>,
    /// Sources, and the direction of order 2.
    directions: Vec<(String, TensorData)>,
}

impl Asked {
    /// The derivatives by each source, of orders 1 and 2, by the pipeline.
    fn derivatives(&self, graph: &Graph, env: &Env) -> Result<[Vec<TensorData>; 2], String> {
        let differentiated = self.graph(graph).map_err(|error| error.to_string())?;
        let options = PassOptions { verify: true, ..PassOptions::default() };
        let optimized = optimize(&differentiated, &options).map_err(|error| error.to_string())?;
        let mut first = interpret(&optimized.graph, env).map_err(|diag| diag.to_string())?;
        let second = first.split_off(self.directions.len());
        Ok([first, second])
    }

    fn graph(&self, graph: &Graph) -> Result<Graph, cotangent_graph::Diags> {
        let builder = GraphBuilder::like(graph);
        let mut copier = Copier::new(graph, graph.bodies(), &builder);
        let mut order = copier.order();
        order.extend(self.directions.iter().filter_map(|(name, _)| graph.source(name)));
        order.sort_unstable();
        order.dedup();
        for id in order {
            copier.copy(id);
        }
        let contracted = |parts: Vec<(Tensor<'_>, &TensorData)>| {
            let is_wide = parts.iter().any(|(t, _)| t.dtype() == DType::F64);
            let dtype = if is_wide { DType::F64 } else { DType::F32 };
            let parts =
                parts.into_iter().map(|(t, weights)| (t * builder.constant(weights.clone())).sum().cast(dtype).id());
            let parts: Vec<NodeId> = parts.collect();
            parts.into_iter().map(|id| builder.tensor(id)).reduce(|a, b| a + b)
        };
        let parts = self.weights.iter().map(|(id, weights)| (copier.get(*id), weights)).collect();
        let sources: Vec<Tensor<'_>> =
            self.directions.iter().filter_map(|(name, _)| Some(copier.get(graph.source(name)?))).collect();
        let Some(loss) = contracted(parts) else { return builder.into_graph() };
        let first = builder.grad(loss, &sources);
        for (k, gradient) in first.iter().enumerate() {
            builder.output(&format!("d{k}"), *gradient);
        }
        let parts = first.iter().copied().zip(self.directions.iter().map(|(_, v)| v)).collect();
        if let Some(slope) = contracted(parts) {
            for (k, gradient) in builder.grad(slope, &sources).iter().enumerate() {
                builder.output(&format!("dd{k}"), *gradient);
            }
        }
        builder.into_graph()
    }
}

/// The sweeps over a tape that do not depend on the element, and what is needed for those that do.
struct Sweeps<'a> {
    taped: &'a Taped,
    seeds: Vec<(Id, Term)>,
    along: Vec<Option<Term>>,
    backward: [Vec<Option<Term>>; 2],
    dense: [Vec<Option<Term>>; 2],
}

impl<'a> Sweeps<'a> {
    fn new(taped: &'a Taped, seeds: Vec<(Id, Term)>, along: Vec<(Id, Term)>) -> Self {
        let tape = &taped.tape;
        let mut steps = vec![None; tape.n_numbers()];
        along.iter().for_each(|&(id, step)| steps[id as usize] = Some(step));
        let along = tape.forward(|id| steps[id as usize]);
        let [backward, dense] = [false, true].map(|dense| {
            let first = tape.backward(&seeds, dense);
            let second = tape.backward_second(&first, &along, dense);
            [first, second]
        });
        Sweeps { taped, seeds, along, backward, dense }
    }

    /// The derivatives of orders 1 and 2 by a number, by dual numbers.
    fn forward(&self, x: Id) -> [Option<Term>; 2] {
        let tape = &self.taped.tape;
        let first = tape.forward(|id| (id == x).then(|| Term::exact(Dd::ONE)));
        let second = tape.forward_second(&self.along, &first);
        [first, second].map(|duals| {
            let terms = self.seeds.iter().map(|&(id, seed)| mul(duals[id as usize], Some(seed), DType::F64));
            terms.fold(None, |sum, term| add(sum, term, DType::F64))
        })
    }

    /// The same as a program accumulates them; and, where zeros then meet infinities that dual numbers do not see, what this
    /// makes of an element that is NaN.
    fn backward(&self, x: Id, order: usize) -> (Option<Term>, Option<Seen>) {
        let dense = self.dense[..order].iter().filter_map(|all| all[x as usize]);
        let seen = dense.filter(|term| term.lost || term.value.is_nan());
        let seen = seen.map(|term| if term.lost { Seen::LeftOut } else { Seen::Open }).next_back();
        (self.backward[order - 1][x as usize], seen)
    }
}

/// What is seen of a derivative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Agrees,
    LeftOut,
    Open,
    Differs,
}

/// Compares a derivative with that of dual numbers, given what a program may round.
fn judge(got: f64, want: Option<Term>, rounded: Option<Term>, dtype: DType) -> Seen {
    let same = |term: Option<Term>| match term {
        Some(term) => term.value.to_f64() == got || (term.value.is_nan() && got.is_nan()),
        // Nothing depends on the element.
        None => got == 0.0,
    };
    if same(want) {
        return Seen::Agrees;
    }
    let (Some(want), Some(rounded)) = (want.or(rounded.map(|r| Term { value: Dd::ZERO, ..r })), rounded) else {
        return Seen::Differs;
    };
    if want.value.is_finite() && got.is_finite() && (want.value + -got).size() <= SLACK * rounded.error {
        return Seen::Agrees;
    }
    if want.lost || rounded.lost || rounded.error.is_nan() || rounded.error == f64::INFINITY {
        return Seen::LeftOut;
    }
    let most = if dtype == DType::F32 { f64::from(f32::MAX) } else { f64::MAX };
    if want.value.is_finite() && got.is_infinite() && want.value.size() + SLACK * rounded.error >= most {
        return Seen::LeftOut;
    }
    if want.open || rounded.open || (!rounded.value.is_finite() && same(Some(rounded))) {
        return Seen::Open;
    }
    Seen::Differs
}

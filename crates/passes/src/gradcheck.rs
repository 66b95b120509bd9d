//! A gradient check for any graph or model: what the pipeline makes of a loss's gradient against central differences.
//!
//! The graph is converted to f64. The symbolic gradient goes through the whole pipeline; the differences are taken of the
//! graph as the user built it, by the interpreter, so that both share nothing but the ops' values. Random numbers
//! (dropout) depend on counters that stay as they are. Where the loss has a kink it has no derivative: such elements are
//! counted and not judged. If something disagrees, every op on the way is checked by itself, to name the culprit.

pub(crate) mod differences;

use cotangent_host::float::in_default;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use cotangent_graph::expand::with_flat_bodies;
use cotangent_graph::interp::{Value, interpret, interpret_nodes};
use cotangent_graph::memory;
use cotangent_graph::samples::{Sampler, environment, to_f64, wide_env};
use cotangent_graph::{
    Code, DType, Diag, Env, Graph, GraphBuilder, Limits, Loc, Node, NodeId, OpRef, Role, Shape, Tensor, TensorData, Vjp,
};

use cotangent_scalar::plain;

use crate::pass::{PassError, PassOptions};
use crate::pipeline::optimize;
use crate::rebuild::{Copier, kept};
use differences::{
    Judgment, Known, Section, Seen, Wanted, chosen, differentiated, needed, opened, primal, values_of, with_outputs,
};

/// Elements of each operand of each op when the culprit is looked for.
const SUSPECT_ELEMENTS: usize = 12;

/// Occurrences of each op when the culprit is looked for.
const SUSPECT_OCCURRENCES: usize = 4;

/// Derivatives below this share of a tensor's largest count as zero.
pub(crate) const SMALL_SHARE: f64 = 1e-2;

/// What a gradient is taken with respect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrt {
    /// Every parameter that is a float.
    Params,
    /// The inputs, parameters and states of these names.
    Named(Vec<String>),
}

/// What a gradient check does.
#[derive(Clone, Debug)]
pub struct GradCheck {
    /// The output that is differentiated; by default `loss`, or else the first float result. One that is no scalar is
    /// contracted with random numbers.
    pub loss: Option<String>,
    /// What it is differentiated with respect to.
    pub wrt: Wrt,
    /// 1: the gradient. 2: also the derivative of its product with a random direction (a Hessian-vector product).
    pub order: u32,
    /// What values, directions and the choice of elements depend on.
    pub seed: u64,
    /// Elements checked of each tensor; the rest is not looked at.
    pub max_elements_per_tensor: usize,
    /// The largest relative error let pass.
    pub tolerance: f64,
    /// Values of the sources; [`environment`] of the seed fills in what is missing.
    pub env: Option<Env>,
    /// What graphs may grow to.
    pub limits: Limits,
}

impl Default for GradCheck {
    fn default() -> Self {
        GradCheck {
            loss: None,
            wrt: Wrt::Params,
            order: 1,
            seed: 0,
            max_elements_per_tensor: 16,
            tolerance: 1e-6,
            env: None,
            limits: Limits::default(),
        }
    }
}

/// Whether a derivative is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Every element that was judged agrees with the differences.
    Agrees,
    /// Some element does not.
    Disagrees,
    /// No element could be judged: there is a kink at each.
    Kinks,
    /// Some element, symbolic or by differences, is infinite or NaN.
    NotFinite,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Verdict::Agrees => "agrees",
            Verdict::Disagrees => "DISAGREES",
            Verdict::Kinks => "kinks",
            Verdict::NotFinite => "NOT FINITE",
        })
    }
}

/// What was found of one tensor.
#[derive(Clone, Debug)]
pub struct GradEntry {
    /// The source that was moved.
    pub name: String,
    /// 1 for the gradient, 2 for the Hessian-vector product.
    pub order: u32,
    /// Its shape.
    pub shape: Shape,
    /// Elements that were checked, kinks included.
    pub n_checked: usize,
    /// Elements at which the slopes of both sides differ.
    pub n_kinks: usize,
    /// The largest difference between both derivatives.
    pub worst_absolute: f64,
    /// The largest of these differences relative to the derivative, or to a hundredth of the tensor's largest.
    pub worst_relative: f64,
    /// The element with the largest relative error, in row-major order.
    pub worst_element: usize,
    /// Whether it is right.
    pub verdict: Verdict,
}

/// An op whose own derivative disagrees with differences of its own value.
#[derive(Clone, Debug)]
pub struct Suspect {
    /// The op.
    pub op: &'static str,
    /// The user's line.
    pub at: Loc,
    /// Which operand, from 0.
    pub operand: usize,
    /// The largest relative error.
    pub worst_relative: f64,
}

impl fmt::Display for Suspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the derivative of `{}` by operand {} is off by {:.1e}", self.op, self.operand, self.worst_relative)?;
        if self.at == Loc::Internal { Ok(()) } else { write!(f, " ({})", self.at) }
    }
}

/// What a gradient check found.
#[derive(Clone, Debug)]
pub struct GradReport {
    /// The output that was differentiated.
    pub loss: String,
    /// Each source, order 1 first.
    pub entries: Vec<GradEntry>,
    /// If something disagrees: the ops that are wrong by themselves.
    pub suspects: Vec<Suspect>,
}

impl GradReport {
    /// Whether nothing disagrees and everything is finite.
    pub fn passed(&self) -> bool {
        self.entries.iter().all(|entry| matches!(entry.verdict, Verdict::Agrees | Verdict::Kinks))
    }
}

impl fmt::Display for GradReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<String> = self.entries.iter().map(|e| plain(&e.name).to_string()).collect();
        let width = shown.iter().map(|name| name.chars().count()).max().unwrap_or(0).max("source".len());
        writeln!(f, "gradient of `{}` against central differences in f64", plain(&self.loss))?;
        let headings = ["checked", "kinks", "absolute", "relative", "at", "verdict"];
        let [checked, kinks, absolute, relative, at, verdict] = headings;
        writeln!(
            f,
            "order  {:<width$}  {checked:>11} {kinks:>6} {absolute:>9} {relative:>9}  {at:<12} {verdict}",
            "source"
        )?;
        for (e, name) in self.entries.iter().zip(&shown) {
            let n = e.shape.n_elements();
            let at = index_text(e.worst_element, &e.shape);
            writeln!(
                f,
                "{:<5}  {:<width$}  {:>11} {:>6} {:>9.1e} {:>9.1e}  {at:<12} {}",
                e.order,
                name,
                format!("{}/{n}", e.n_checked),
                e.n_kinks,
                e.worst_absolute,
                e.worst_relative,
                e.verdict,
            )?;
        }
        self.suspects.iter().try_for_each(|suspect| writeln!(f, "{suspect}"))
    }
}

/// An element's index along each axis.
pub(crate) fn index_text(element: usize, shape: &Shape) -> String {
    let strides = shape.strides();
    let index = shape.iter().zip(&strides).map(|(&extent, &stride)| element / (stride.max(1) as usize) % extent.max(1));
    format!("[{}]", index.map(|i| i.to_string()).collect::<Vec<_>>().join(", "))
}

/// Compares the gradient that the pipeline makes of a graph's loss with central differences; see the top of the file.
///
/// # Errors
/// [`PassError::Diags`] if a number makes no sense, an output or source is not known, is no float, has no derivative, or a step on the values is an
/// error; [`PassError::Bug`] if the compiler fails.
pub fn check_gradients(graph: &Graph, options: &GradCheck) -> Result<GradReport, PassError> {
    in_default(|| check(graph, options))
}

/// What is wrong with the numbers, if anything: with such a check everything would agree, or nothing.
fn check_numbers(options: &GradCheck) -> Result<(), PassError> {
    let (tolerance, order) = (options.tolerance, options.order);
    let wrong = match options {
        _ if !tolerance.is_finite() || tolerance < 0.0 => {
            format!("a tolerance that is finite and not negative, got {tolerance}")
        }
        GradCheck { max_elements_per_tensor: 0, .. } => "at least 1 element of each tensor, got 0".to_owned(),
        _ if !matches!(order, 1 | 2) => format!("order 1 or 2, got {order}"),
        _ => return Ok(()),
    };
    let diag = Diag::new(Code::BadAttribute, format!("the gradient check requires {wrong}"));
    Err(diag.at(Loc::Internal).into())
}

fn check(graph: &Graph, options: &GradCheck) -> Result<GradReport, PassError> {
    check_numbers(options)?;
    let wide = to_f64(graph)?;
    let flat = with_flat_bodies(&wide, options.limits)?;
    let wide = flat.map_or(wide, |(flat, _)| flat);
    // Values of this graph, of its derivatives and of the differences are there at once.
    let held = wide.nodes().iter().map(|node| node.ty.n_bytes()).fold(0, usize::saturating_add);
    memory::ask("checking the gradient", wide.nodes().iter(), held.saturating_mul(3))?;
    let loss = loss_of(&wide, options.loss.as_deref())?;
    let wrt = sources_of(&wide, &options.wrt)?;
    let mut env = environment(graph, options.seed)?;
    if let Some(given) = &options.env {
        env.values.extend(given.values.iter().map(|(name, value)| (name.clone(), value.clone())));
        env.counters = given.counters;
    }
    env.limits = options.limits;
    let env = wide_env(&env);
    let mut report =
        GradReport { loss: wide.outputs()[loss].name.to_string(), entries: Vec::new(), suspects: Vec::new() };
    let value = wide.outputs()[loss].value;
    // Differences see the graph opened and with the ends of gradients fixed, but otherwise as it was built.
    let open = opened(&with_outputs(&wide, &[value])?, env.limits)?;
    let wanted = Wanted { y: open.outputs()[0].value, seed: None, wrt: None };
    let ends: Vec<NodeId> = needed(&open, &[]);
    let known = values_of(&open, ends, &env)?;
    let fixed = scalar_of(&open, &wanted, &known, &env, options.seed)?;
    let symbolic = derivatives(&with_outputs(&wide, &[value])?, &wrt, 1, options.seed, &env)?;
    let differences = differentiated(&fixed.0, env.limits)?;
    compare(&differences, &fixed.1, &wrt, 1, &symbolic, options, &mut report)?;
    if options.order >= 2 {
        let symbolic = derivatives(&with_outputs(&wide, &[value])?, &wrt, 2, options.seed, &env)?;
        let directional = derivative_graph(&fixed.0, &wrt, Asked::Direction, options.seed)?;
        let directional = optimized(&directional, env.limits)?;
        compare(&directional, &fixed.1, &wrt, 2, &symbolic, options, &mut report)?;
    }
    if !report.passed() {
        report.suspects = suspects(&open, &env, options.tolerance)?;
    }
    Ok(report)
}

/// The place of the output that is differentiated.
fn loss_of(graph: &Graph, name: Option<&str>) -> Result<usize, Diag> {
    let is_float = |value: NodeId| graph.ty(value).as_tensor().is_some_and(|(dtype, _)| dtype.is_float());
    let results = || graph.outputs().iter().enumerate().filter(|(_, o)| o.role == Role::Result && is_float(o.value));
    let named = |name: &str| results().find(|(_, o)| o.name.as_ref() == name).map(|(k, _)| k);
    match name {
        Some(name) => named(name).ok_or_else(|| {
            let diag = Diag::new(Code::UnknownName, format!("no float result is named `{name}`")).at(Loc::Internal);
            diag.suggest(name, results().map(|(_, o)| o.name.as_ref()))
        }),
        None => named("loss").or_else(|| results().next().map(|(k, _)| k)).ok_or_else(|| {
            Diag::new(Code::NotDifferentiable, "the graph has no float result to differentiate").at(Loc::Internal)
        }),
    }
}

fn sources_of(graph: &Graph, wrt: &Wrt) -> Result<Vec<String>, Diag> {
    match wrt {
        Wrt::Params => {
            let floats = graph.params().filter(|(_, param)| param.ty.dtype().is_float());
            Ok(floats.filter_map(|(_, param)| param.name().map(str::to_owned)).collect())
        }
        Wrt::Named(names) => {
            for name in names {
                match graph.source(name) {
                    Some(id) if graph.ty(id).dtype().is_float() => {}
                    Some(id) => {
                        let text = format!("`{name}` is {} and has no gradient", graph.ty(id));
                        return Err(Diag::new(Code::NotDifferentiable, text).at(graph.node(id).origin.loc()));
                    }
                    None => {
                        let text = format!("no input, parameter or state is named `{name}`");
                        let diag = Diag::new(Code::UnknownName, text).at(Loc::Internal);
                        return Err(diag.suggest(name, graph.nodes().iter().filter_map(Node::name)));
                    }
                }
            }
            Ok(names.clone())
        }
    }
}

/// The first output of a graph as a scalar: itself, or contracted with random numbers of the seed.
fn contracted<'g>(t: Tensor<'g>, seed: u64) -> Tensor<'g> {
    if t.rank() == 0 { t } else { (t * direction(t, seed)).sum() }
}

/// Random numbers of a tensor's type, away from zero.
fn direction<'g>(t: Tensor<'g>, seed: u64) -> Tensor<'g> {
    let mut sampler = Sampler::new(t.dtype(), seed);
    t.builder().constant(sampler.away_from_zero(0.5..1.5, t.shape()))
}

/// The scalar that is differentiated, with the ends of gradients fixed, and values for its sources.
fn scalar_of(open: &Graph, wanted: &Wanted, known: &Known, env: &Env, seed: u64) -> Result<(Graph, Env), PassError> {
    let fixed = primal(open, wanted, known, env)?;
    let fixed = fixed.map_err(|why| {
        Diag::new(Code::NotDifferentiable, format!("the gradient cannot be compared with differences: {why}"))
            .at(Loc::Internal)
    })?;
    let builder = GraphBuilder::like(&fixed.graph);
    let mut copier = Copier::new(&fixed.graph, fixed.graph.bodies(), &builder);
    for id in copier.order() {
        copier.copy(id);
    }
    builder.output("scalar", contracted(copier.get(fixed.graph.outputs()[0].value), seed));
    Ok((builder.into_graph()?, fixed.env))
}

/// What [`derivative_graph`] is asked for.
#[derive(Clone, Copy, PartialEq)]
enum Asked {
    /// The first output as a scalar `L`, and its gradients.
    First,
    /// The directional derivative `M = Σ v·∂L/∂x` over the sources.
    Direction,
    /// `M` and its gradients.
    Second,
}

/// A graph of derivatives of a graph's first output by named sources.
fn derivative_graph(graph: &Graph, wrt: &[String], asked: Asked, seed: u64) -> Result<Graph, PassError> {
    let builder = GraphBuilder::like(graph);
    let mut copier = Copier::new(graph, graph.bodies(), &builder);
    let mut order = copier.order();
    // Sources that the loss does not depend on have a gradient too: zero.
    let sources: Vec<Option<NodeId>> = wrt.iter().map(|name| graph.source(name)).collect();
    order.extend(sources.iter().flatten());
    order.sort_unstable();
    order.dedup();
    for id in order {
        copier.copy(id);
    }
    let mut scalar = contracted(copier.get(graph.outputs()[0].value), seed);
    let at = |id: &Option<NodeId>| id.map(|id| copier.get(id));
    let places: Vec<(usize, Tensor<'_>)> =
        sources.iter().enumerate().filter_map(|(k, id)| Some((k, at(id)?))).collect();
    let tensors: Vec<Tensor<'_>> = places.iter().map(|(_, t)| *t).collect();
    if asked != Asked::First {
        let gradients = places.iter().zip(builder.grad(scalar, &tensors));
        let parts = gradients.map(|((k, _), g)| (g * direction(g, seed.wrapping_add(1 + *k as u64))).sum());
        scalar = parts.reduce(|a, b| a + b).unwrap_or_else(|| scalar.constant_like(0.0));
    }
    builder.output("scalar", scalar);
    if asked != Asked::Direction {
        for (name, gradient) in wrt.iter().zip(builder.grad(scalar, &tensors)) {
            builder.output(&format!("d {name}"), gradient);
        }
    }
    Ok(builder.into_graph()?)
}

fn optimized(graph: &Graph, limits: Limits) -> Result<Graph, PassError> {
    let options = PassOptions { verify: true, limits, ..PassOptions::default() };
    optimize(graph, &options).map(|done| done.graph)
}

/// The symbolic derivatives of a graph's first output, through the whole pipeline.
fn derivatives(graph: &Graph, wrt: &[String], order: u32, seed: u64, env: &Env) -> Result<Vec<TensorData>, PassError> {
    let asked = if order == 2 { Asked::Second } else { Asked::First };
    let source = derivative_graph(graph, wrt, asked, seed)?;
    let mut values = interpret(&optimized(&source, env.limits)?, env)?;
    Ok(if values.is_empty() { values } else { values.split_off(1) })
}

/// Holds symbolic derivatives against differences of a graph's first output.
fn compare(
    graph: &Graph,
    env: &Env,
    wrt: &[String],
    order: u32,
    symbolic: &[TensorData],
    options: &GradCheck,
    report: &mut GradReport,
) -> Result<(), PassError> {
    for (k, (name, symbolic)) in wrt.iter().zip(symbolic).enumerate() {
        let mut section = Section::new(graph, env, name)?;
        let values = symbolic.to_f64();
        let most = options.max_elements_per_tensor;
        let elements = chosen(values.len(), most, options.seed.wrapping_add(k as u64));
        report.entries.push(judge_tensor(&mut section, name, order, symbolic, &elements, options.tolerance));
    }
    Ok(())
}

/// Judges some elements of one derivative.
fn judge_tensor(
    section: &mut Section,
    name: &str,
    order: u32,
    symbolic: &TensorData,
    elements: &[usize],
    tolerance: f64,
) -> GradEntry {
    let values = symbolic.to_f64();
    let scale = SMALL_SHARE * values.iter().filter(|v| v.is_finite()).fold(0.0, |m: f64, v| m.max(v.abs()));
    let mut entry = GradEntry {
        name: name.to_owned(),
        order,
        shape: symbolic.shape(),
        n_checked: elements.len(),
        n_kinks: 0,
        worst_absolute: 0.0,
        worst_relative: 0.0,
        worst_element: 0,
        verdict: Verdict::Agrees,
    };
    for &element in elements {
        let value = values[element];
        let Judgment { finite, verdict } = section.judge(element, value, scale, tolerance);
        match verdict {
            Seen::Kink => {
                entry.n_kinks += 1;
                continue;
            }
            Seen::NotFinite => entry.verdict = Verdict::NotFinite,
            Seen::Disagrees if entry.verdict == Verdict::Agrees => entry.verdict = Verdict::Disagrees,
            Seen::Disagrees | Seen::Agrees => {}
        }
        let absolute = (value - finite).abs();
        let size = scale.max(value.abs()).max(finite.abs());
        let relative = if absolute == 0.0 { 0.0 } else { absolute / size };
        entry.worst_absolute = if absolute.is_nan() { f64::NAN } else { entry.worst_absolute.max(absolute) };
        if relative > entry.worst_relative || relative.is_nan() {
            (entry.worst_relative, entry.worst_element) = (relative, element);
        }
    }
    if entry.n_kinks == elements.len() && !elements.is_empty() {
        entry.verdict = Verdict::Kinks;
    }
    entry
}

/// The ops of an opened f64 graph whose own derivative is wrong at the values that they have there.
pub(crate) fn suspects(open: &Graph, env: &Env, tolerance: f64) -> Result<Vec<Suspect>, PassError> {
    let plain = differentiated(open, env.limits)?;
    let values = interpret_nodes(&plain, env)?;
    let mut found: Vec<Suspect> = Vec::new();
    let mut n_checked: HashMap<OpRef, usize> = HashMap::new();
    let mut wrong: HashSet<OpRef> = HashSet::new();
    for id in kept(&plain) {
        let node = plain.node(id);
        let is_float = |id: NodeId| plain.ty(id).as_tensor().is_some_and(|(dtype, _)| dtype == DType::F64);
        if !matches!(node.op.vjp, Vjp::Rule(_)) || !is_float(id) || wrong.contains(&node.op) {
            continue;
        }
        let n_checked = n_checked.entry(node.op).or_default();
        *n_checked += 1;
        if *n_checked > SUSPECT_OCCURRENCES {
            continue;
        }
        let operands: Option<Vec<&TensorData>> =
            node.inputs.iter().map(|i| values[i.index()].as_ref().and_then(Value::tensor)).collect();
        let Some(operands) = operands else { continue };
        let builder = GraphBuilder::with_registry(node.op.name, plain.registry()).rounding();
        for body in plain.bodies() {
            builder.add_body(Arc::clone(body));
        }
        let mut point = Env { values: Default::default(), ..*env };
        let mut inputs = Vec::new();
        for (k, value) in operands.into_iter().enumerate() {
            inputs.push(builder.input(&k.to_string(), value.dtype(), value.shape()));
            point.values.insert(k.to_string(), value.clone());
        }
        builder.output("y", builder.op(node.op.0, &inputs, node.attrs.clone(), Some(node.ty.clone())));
        let one = builder.into_graph()?;
        let floats: Vec<String> =
            (0..node.inputs.len()).filter(|&k| is_float(node.inputs[k])).map(|k| k.to_string()).collect();
        let symbolic = derivatives(&one, &floats, 1, 7, &point)?;
        let scalar = derivative_graph(&one, &[], Asked::First, 7)?;
        for (name, symbolic) in floats.iter().zip(&symbolic) {
            let elements = chosen(symbolic.shape().n_elements(), SUSPECT_ELEMENTS, 3);
            let mut section = Section::new(&scalar, &point, name)?;
            let entry = judge_tensor(&mut section, name, 1, symbolic, &elements, tolerance);
            if entry.verdict == Verdict::Disagrees {
                let operand = name.parse().unwrap_or(0);
                let (at, worst_relative) = (node.origin.loc(), entry.worst_relative);
                wrong.insert(node.op);
                found.push(Suspect { op: node.op.name, at, operand, worst_relative });
            }
        }
    }
    Ok(found)
}

//! The tests that follow from an op's record: what every op must satisfy, built-in or from another crate.
//!
//! An op says with `samples` where it is defined and smooth. On these operands, in f32 and f64, [`check_op`] asks that
//!
//! * its value has the type that it infers;
//! * a graph of it prints, parses back and prints the same;
//! * every pass keeps its meaning, and that of its gradient;
//! * programs compiled with and without fusion give the bits of the interpreter, gradient included;
//! * its first and second derivatives are those of central differences, in f64;
//! * on operands of any other element types it is an error of the user, or satisfies all of this but the differences.
//!
//! ```
//! use cotangent_graph::op::{Lower, OpTraits, Vjp};
//! use cotangent_graph::ops::arithmetic::{one, pointwise};
//! use cotangent_graph::ops::infer_float;
//! use cotangent_graph::OpDef;
//! use cotangent_testkit::derived::{check_op, check_values};
//!
//! static CUBE: OpDef = pointwise(
//!     "cube",
//!     "`x·x·x`.",
//!     1,
//!     OpTraits::ODD,
//!     infer_float,
//!     |s, v, _| {
//!         let square = s.mul(v[0], v[0]);
//!         s.mul(square, v[0])
//!     },
//!     Vjp::Rule(|cx| [Some(cx.dy * cx.x() * cx.x() * 3.0)].into_iter().collect()),
//!     one,
//! );
//!
//! let report = check_op(&CUBE).unwrap();
//! assert_eq!(report.n_derivatives, 4);
//! check_values(&CUBE, |x, _| x[0].powi(3)).unwrap();
//! ```

use std::fmt;
use std::sync::Arc;

use cotangent_exec::{Compiler, Executable, Runtime, Session, Threads};
use cotangent_graph::interp::{interpret, interpret_named};
use cotangent_graph::samples::{Sample, Sampler, environment};
use cotangent_graph::{
    Attr, Attrs, DType, Diag, Env, Graph, OpDef, Registry, Tensor, TensorData, Type, Vjp, build, text,
};
use cotangent_passes::{PassOptions, optimize};

use crate::finite::check_gradient;

/// The largest relative error of a derivative that is let pass.
pub const TOLERANCE: f64 = 1e-6;

/// What was checked of an op, all of it right.
#[derive(Clone, Debug)]
pub struct OpReport {
    /// The op.
    pub name: &'static str,
    /// How it is differentiated.
    pub derivative: &'static str,
    /// Samples, in both float types together.
    pub n_samples: usize,
    /// Elements of programs that were compared with the interpreter by their bits.
    pub n_elements: usize,
    /// Choices of other element types that the op refused, as it may, and that it took.
    pub n_types: [usize; 2],
    /// Derivatives by operands that were compared with central differences, of both orders together.
    pub n_derivatives: usize,
    /// The largest relative error of a first and of a second derivative.
    pub worst: [f64; 2],
}

impl fmt::Display for OpReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<32} {:<13} {:>3} samples {:>6} elements, {} other types, {} refused",
            self.name, self.derivative, self.n_samples, self.n_elements, self.n_types[1], self.n_types[0]
        )?;
        if self.n_derivatives > 0 {
            let [first, second] = self.worst;
            write!(f, " {:>3} derivatives, order 1: {first:.1e}, order 2: {second:.1e}", self.n_derivatives)?;
        }
        Ok(())
    }
}

/// How an op is differentiated, as [`OpReport`] names it.
fn derivative_of(op: &OpDef) -> &'static str {
    match op.vjp {
        Vjp::Rule(_) => "own rule",
        Vjp::ViaExpansion => "by expansion",
        Vjp::Zero(_) => "zero",
        Vjp::None(_) => "none",
    }
}

/// Checks everything that follows from an op's record; see the top of the file.
///
/// # Errors
/// Everything that does not hold, each with the sample.
pub fn check_op(op: &'static OpDef) -> Result<OpReport, Vec<String>> {
    let mut report = OpReport {
        name: op.name,
        derivative: derivative_of(op),
        n_samples: 0,
        n_elements: 0,
        n_types: [0; 2],
        n_derivatives: 0,
        worst: [0.0; 2],
    };
    let mut failures = Vec::new();
    let mut registry = Registry::builtin();
    registry.register(op).map_err(|fault| vec![fault.message])?;
    for dtype in [DType::F32, DType::F64] {
        let samples = (op.samples)(&mut Sampler::new(dtype, 17));
        if samples.is_empty() && !op.is_named() {
            failures.push(format!("`{}` has no samples, so nothing can be checked", op.name));
        }
        for (n, sample) in samples.into_iter().enumerate() {
            if dtype == DType::F32 {
                failures.extend(other_types(op, &registry, &sample, &mut report));
            }
            report.n_samples += 1;
            let mut check = || -> Result<(), String> {
                let case = Case::of(op, &sample)?;
                case.has_the_inferred_type()?;
                case.prints_and_parses(&registry)?;
                report.n_elements += case.runs_as_interpreted()?;
                if dtype == DType::F64 {
                    for deviation in case.derivatives()? {
                        report.n_derivatives += 1;
                        let worst = &mut report.worst[deviation.order - 1];
                        *worst = worst.max(deviation.worst);
                        if deviation.worst >= TOLERANCE {
                            return Err(format!("the derivative is wrong: {deviation:?}"));
                        }
                    }
                }
                Ok(())
            };
            failures.extend(check().err().map(|text| format!("`{}`, sample {n} in {dtype}: {text}", op.name)));
        }
    }
    if failures.is_empty() { Ok(report) } else { Err(failures) }
}

/// The sample with its operands, and the element type that an attribute or declaration names, of other types: each the same,
/// and each alone. What is wrong with those that the op takes.
fn other_types(op: &'static OpDef, registry: &Registry, sample: &Sample, report: &mut OpReport) -> Vec<String> {
    let with = |change: &dyn Fn(usize) -> Option<DType>, named: Option<DType>| {
        let inputs = sample.inputs.iter().enumerate().map(|(k, x)| change(k).map_or(x.clone(), |to| as_type(x, to)));
        let attr = |attrs: Attrs, (name, value): (&'static str, &Attr)| match (value, named) {
            (Attr::DType(_), Some(to)) => attrs.with(name, to),
            _ => attrs.with(name, value.clone()),
        };
        let declared = sample.declared.as_ref().map(|ty| Type::tensor(named.unwrap_or(ty.dtype()), ty.shape()));
        Sample { inputs: inputs.collect(), attrs: sample.attrs.iter().fold(Attrs::none(), attr), declared }
    };
    let mut failures = Vec::new();
    for to in DType::ALL {
        let mut choices = vec![with(&|_| Some(to), None), with(&|_| None, Some(to)), with(&|_| Some(to), Some(to))];
        choices.extend((0..sample.inputs.len()).map(|n| with(&|k| (k == n).then_some(to), None)));
        for choice in choices {
            let Ok(case) = Case::of(op, &choice) else {
                report.n_types[0] += 1;
                continue;
            };
            report.n_types[1] += 1;
            let checked = case.has_the_inferred_type().and_then(|()| case.prints_and_parses(registry));
            if let Err(text) = checked.and_then(|()| case.runs_as_interpreted()) {
                let types: Vec<String> = choice.inputs.iter().map(|x| x.dtype().to_string()).collect();
                failures.push(format!("`{}` of {types:?}, {:?}: {text}", op.name, choice.attrs));
            }
        }
    }
    failures
}

/// The tensor converted: indices stay indices, and truth values are every second number.
fn as_type(x: &TensorData, to: DType) -> TensorData {
    let of = |v: f64| if to == DType::Bool { f64::from(u8::from(v as i64 % 2 != 0)) } else { v };
    let bits: Vec<u64> = x.to_f64().into_iter().map(|v| to.bits_of_f64(of(v))).collect();
    TensorData::from_bits(to, &x.shape(), &bits)
}

/// Compares a pointwise op on floats with a formula in f64, on its samples: within 1e-5 in f32 and 1e-12 in f64, relative to
/// the value or to 1. The formula gets one element of each operand, and the attributes.
///
/// # Errors
/// Every element that is off.
pub fn check_values(op: &'static OpDef, reference: impl Fn(&[f64], &Attrs) -> f64) -> Result<(), Vec<String>> {
    let mut failures = Vec::new();
    for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F64, 1e-12)] {
        for sample in (op.samples)(&mut Sampler::new(dtype, 29)) {
            let case = Case::of(op, &sample).map_err(|text| vec![text])?;
            let got = interpret(&case.value, &case.env).map_err(|diag| vec![diag.to_string()])?[0].to_f64();
            let operands: Vec<Vec<f64>> = sample.inputs.iter().map(TensorData::to_f64).collect();
            for (k, got) in got.into_iter().enumerate() {
                let elements: Vec<f64> = operands.iter().map(|x| x[k]).collect();
                let exact = reference(&elements, &sample.attrs);
                // NaN must not pass for close.
                let close = (got - exact).abs() <= tolerance * exact.abs().max(1.0);
                if !close {
                    failures.push(format!("`{}` in {dtype} of {elements:?} is {got}, not {exact}", op.name));
                }
            }
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

/// An op on one sample.
struct Case {
    /// Its value alone.
    value: Graph,
    /// The value and, if there are any, the gradients of its product with fixed numbers.
    gradients: Graph,
    env: Env,
    /// The operands that can be differentiated by.
    wrt: Vec<String>,
}

impl Case {
    fn of(op: &'static OpDef, sample: &Sample) -> Result<Self, String> {
        let name = |k: usize| format!("x{k}");
        let floats = || (0..sample.inputs.len()).filter(|&k| sample.inputs[k].dtype().is_float());
        let graph = |gradients: bool| {
            build(|g| {
                g.register(op);
                let inputs: Vec<Tensor<'_>> =
                    sample.inputs.iter().enumerate().map(|(k, x)| g.input(&name(k), x.dtype(), x.shape())).collect();
                let y = g.op(op, &inputs, sample.attrs.clone(), sample.declared.clone());
                g.output("y", y);
                if gradients {
                    let numbers = Sampler::new(y.dtype(), 5).away_from_zero(0.5..1.5, y.shape());
                    let wrt: Vec<Tensor<'_>> = floats().map(|k| inputs[k]).collect();
                    for (k, slope) in g.grad((y * g.constant(numbers)).sum(), &wrt).into_iter().enumerate() {
                        g.output(&format!("d{k}"), slope);
                    }
                }
            })
            .map_err(|diags| diags.to_string())
        };
        let value = graph(false)?;
        let is_float = value.ty(value.outputs()[0].value).dtype().is_float();
        let differentiable = is_float && !matches!(op.vjp, Vjp::None(_)) && floats().next().is_some();
        let gradients = graph(differentiable)?;
        let mut env = environment(&value, 3).map_err(|diag| diag.to_string())?;
        for (k, x) in sample.inputs.iter().enumerate() {
            env = env.with(&name(k), x.clone());
        }
        // The derivative of an end of gradients is wrong on purpose.
        let is_end = matches!((&op.lower, &op.vjp), (cotangent_graph::Lower::Identity, Vjp::Zero(_)));
        let wrt = if differentiable && !is_end { floats().map(name).collect() } else { Vec::new() };
        Ok(Case { value, gradients, env, wrt })
    }

    fn has_the_inferred_type(&self) -> Result<(), String> {
        let values = interpret(&self.value, &self.env).map_err(|diag| diag.to_string())?;
        let inferred = self.value.ty(self.value.outputs()[0].value);
        if values[0].ty() == *inferred {
            return Ok(());
        }
        Err(format!("its value is of type {}, inferred was {inferred}", values[0].ty()))
    }

    fn prints_and_parses(&self, registry: &Registry) -> Result<(), String> {
        for graph in [&self.value, &self.gradients] {
            let printed = graph.to_string();
            let again = text::parse(&printed, "op.ct", registry).map_err(|diags| format!("{diags}\n{printed}"))?;
            if again.to_string() != printed {
                return Err(format!("it prints\n{printed}\nand is read as\n{again}"));
            }
        }
        Ok(())
    }

    /// Compares compiled programs with the interpreter; returns the number of elements.
    fn runs_as_interpreted(&self) -> Result<usize, String> {
        let runtime = Runtime::new(Threads::Exactly(1));
        let mut n_elements = 0;
        for fuse in [true, false] {
            let compiler = Compiler::new().fuse(fuse).passes(PassOptions::checked(1));
            let program = compiler.compile(&self.gradients).map_err(|error| error.to_string())?;
            let expected = interpret_named(program.optimized(), &self.env).map_err(|diag| diag.to_string())?;
            let got = run(&program, &runtime, &self.env).map_err(|diag| diag.to_string())?;
            for ((name, expected), got) in expected.iter().zip(&got) {
                if !expected.same_bits(got) {
                    let way = if fuse { "fused" } else { "unfused" };
                    return Err(format!("compiled, {way}, `{name}` is\n{got}\ninterpreted\n{expected}"));
                }
                n_elements += got.shape().n_elements();
            }
        }
        Ok(n_elements)
    }

    fn derivatives(&self) -> Result<Vec<crate::finite::Deviation>, String> {
        if self.wrt.is_empty() {
            return Ok(Vec::new());
        }
        let wrt: Vec<&str> = self.wrt.iter().map(String::as_str).collect();
        check_gradient(&self.value, &wrt, &self.env, 2, |graph| {
            let options = PassOptions { verify: true, ..PassOptions::default() };
            optimize(graph, &options).map(|done| done.graph).map_err(|error| error.to_string())
        })
    }
}

/// The results of one step of a program.
fn run(program: &Arc<Executable>, runtime: &Runtime, env: &Env) -> Result<Vec<TensorData>, Diag> {
    let mut session = Session::with_env(runtime, Arc::clone(program), env)?;
    let outputs = session.step(program.inputs_of(env))?;
    outputs.iter().map(|(name, _)| outputs.tensor(name)).collect()
}

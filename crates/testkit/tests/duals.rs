//! The validator by dual numbers itself: right derivatives pass at every edge, and planted wrong ones are found.

use cotangent_graph::eval::unbound;
use cotangent_graph::op::{Cotangents, ScalarCx, VjpCx};
use cotangent_graph::ops::arithmetic::pointwise;
use cotangent_graph::ops::infer_float;
use cotangent_graph::samples::{Sample, Sampler};
use cotangent_graph::{
    Attrs, DType, Env, Graph, GraphBuilder, Lower, OpDef, OpTraits, Registry, Shape, Tensor, TensorData, Vjp, build,
};
use cotangent_scalar::{BodyBuilder, ValueId};
use cotangent_testkit::duals::{Report, check};

const INF: f64 = f64::INFINITY;
const NAN: f64 = f64::NAN;

fn floats(dtype: DType, values: &[f64]) -> TensorData {
    let bits: Vec<u64> = values.iter().map(|&v| dtype.bits_of_f64(v)).collect();
    TensorData::from_bits(dtype, &Shape::new(&[values.len()]), &bits)
}

/// Numbers at the edges of a type, and ordinary ones.
fn edges(dtype: DType) -> Vec<f64> {
    let (most, normal, least) = match dtype {
        DType::F32 => (f64::from(f32::MAX), f64::from(f32::MIN_POSITIVE), 1e-45),
        _ => (f64::MAX, f64::MIN_POSITIVE, 5e-324),
    };
    let sizes = [0.0, INF, most, most.sqrt(), normal, normal.sqrt(), least, 1.0, 3.0, 6.0, 100.0, 0.3, 0.7];
    sizes.into_iter().flat_map(|size| [size, -size]).chain([NAN]).collect()
}

/// What is found of an op at a sample of its own type.
fn report_of(op: &'static OpDef, sample: &Sample) -> Report {
    let builder = GraphBuilder::new(op.name);
    builder.register(op);
    let mut env = Env::default();
    let mut inputs: Vec<Tensor<'_>> = Vec::new();
    for (k, value) in sample.inputs.iter().enumerate() {
        inputs.push(builder.input(&k.to_string(), value.dtype(), value.shape()));
        env.values.insert(k.to_string(), value.clone());
    }
    builder.output("y", builder.op(op, &inputs, sample.attrs.clone(), sample.declared.clone()));
    let graph = builder.finish().unwrap_or_else(|diags| panic!("{diags}"));
    check(&graph, &env, 5).unwrap_or_else(|text| panic!("`{}`: {text}", op.name))
}

fn differentiable() -> impl Iterator<Item = &'static OpDef> {
    let ops: Vec<&'static OpDef> = Registry::builtin().iter().map(|op| op.0).collect();
    ops.into_iter().filter(|op| !matches!(op.vjp, Vjp::None(_)) && op.source().is_none())
}

/// On its own samples every op has the derivatives of dual numbers: nothing is left out there, and no op is unknown.
#[test]
fn every_op_agrees_on_its_samples() {
    let mut n_ops = 0;
    for op in differentiable() {
        for dtype in [DType::F32, DType::F64] {
            for sample in (op.samples)(&mut Sampler::new(dtype, 3)) {
                let is_float = |x: &TensorData| x.dtype().is_float();
                if !sample.inputs.iter().any(is_float) || matches!(op.lower, Lower::Tuple | Lower::Item | Lower::Grad) {
                    continue;
                }
                let report = report_of(op, &sample);
                assert!(report.mismatches.is_empty(), "`{}` in {dtype}: {:?}", op.name, report.mismatches);
                let [first, second] = report.orders;
                assert_eq!((first.n_left_out, second.n_left_out, first.n_open), (0, 0, 0), "`{}` in {dtype}", op.name);
            }
        }
        n_ops += 1;
    }
    assert!(n_ops > 80, "{n_ops}");
}

/// Functions of one and of two floats at all edges, and at all pairs of them.
#[test]
fn functions_agree_at_the_edges() {
    let (mut n_agree, mut n_other, mut wrong) = (0, 0, Vec::new());
    for op in differentiable().filter(|op| op.traits.has(OpTraits::POINTWISE)) {
        for dtype in [DType::F32, DType::F64] {
            let Some(sample) = (op.samples)(&mut Sampler::new(dtype, 3)).into_iter().next() else { continue };
            if !sample.inputs.iter().all(|x| x.dtype() == dtype) || sample.inputs.len() > 2 {
                continue;
            }
            let edges = edges(dtype);
            let pairs = |first: bool| -> Vec<f64> {
                let pair = |a: f64| edges.iter().map(move |&b| if first { a } else { b }).collect::<Vec<f64>>();
                edges.iter().flat_map(|&a| pair(a)).collect()
            };
            let (a, b) =
                if sample.inputs.len() == 2 { (pairs(true), pairs(false)) } else { (edges.clone(), Vec::new()) };
            // Twenty at a time, so that all of them are looked at.
            for k in (0..a.len()).step_by(10) {
                let part = |all: &[f64]| floats(dtype, &all[k..(k + 10).min(all.len())]);
                let inputs = if b.is_empty() { vec![part(&a)] } else { vec![part(&a), part(&b)] };
                let sample = Sample { inputs, ..sample.clone() };
                let report = report_of(op, &sample);
                let found: Vec<String> = report.mismatches.iter().map(ToString::to_string).collect();
                if !found.is_empty() {
                    let at: Vec<Vec<f64>> = sample.inputs.iter().map(TensorData::to_f64).collect();
                    wrong.push(format!("`{}` in {dtype} at {at:?}: {found:#?}", op.name));
                }
                for counts in report.orders {
                    n_agree += counts.n_agree;
                    n_other += counts.n_left_out + counts.n_open;
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(n_agree > 20 * n_other / 3 && n_agree > 20_000, "{n_agree} agree, {n_other} do not count");
}

// ---- planted bugs ---------------------------------------------------------------------------------------------------

type Rule = for<'g, 'a> fn(&VjpCx<'g, 'a>) -> Cotangents<'g>;

/// A function of one float with a derivative rule of its own, but without a value.
const fn ruled(name: &'static str, rule: Rule) -> OpDef {
    let program = |s: &mut BodyBuilder, v: &[ValueId], _: &ScalarCx<'_>| s.sqrt(v[0]);
    pointwise(name, "A test.", 1, OpTraits::NONE, infer_float, program, Vjp::Rule(rule), |_| Vec::new())
}

/// Composites by their expansion and their rule.
macro_rules! composites {
    ($($name:ident: |$x:ident| $value:expr, |$cx:ident| $slope:expr;)*) => {
        $(static $name: OpDef = OpDef {
            lower: Lower::Expand(|cx| { let $x = cx.inputs[0]; [$value].into_iter().collect() }),
            eval: unbound,
            ..ruled(stringify!($name), |$cx| [Some($slope)].into_iter().collect())
        };)*
    };
}

composites! {
    EXP_MINUS_ONE: |x| x.exp() - 1.0, |cx| cx.dy * cx.x().exp();
    EXP_MINUS_ONE_BY_VALUE: |x| x.exp() - 1.0, |cx| cx.dy * (cx.output + 1.0);
    ROOT_ABOVE: |x| above(x, x.sqrt()), |cx| above(cx.x(), cx.dy * 0.5 / cx.output);
    ROOT_ABOVE_TIMES: |x| above(x, x.sqrt()), |cx| cx.dy * cx.x().threshold() * 0.5 / cx.x().sqrt();
    SLOPE_OF_BELL: |x| x.normal_cdf(), |cx| cx.dy * (-(cx.x() * cx.x()) * 0.5).exp() * 0.398_942_280_401_432_7;
    HALF_SQUARE: |x| x * x * 0.5, |cx| cx.dy * cx.x();
    HALF_SQUARE_STOPPED: |x| x * x * 0.5, |cx| cx.dy * cx.x().stop_gradient();
}

/// `y` where x is above 0, and 0 elsewhere.
fn above<'g>(x: Tensor<'g>, y: Tensor<'g>) -> Tensor<'g> {
    x.gt(x.constant_like(0.0)).select(y, y.constant_like(0.0))
}

fn mismatches(op: &'static OpDef, dtype: DType, at: &[f64]) -> Vec<(usize, usize)> {
    let sample = Sample { inputs: vec![floats(dtype, at)], attrs: Attrs::none(), declared: None };
    report_of(op, &sample).mismatches.iter().map(|m| (m.order, m.element)).collect()
}

#[test]
fn wrong_rules_are_found_at_the_edge_and_right_ones_pass() {
    for dtype in [DType::F32, DType::F64] {
        // All digits are gone where the value is close to -1, of both orders.
        let at = [0.5, -12.0, -30.0];
        assert_eq!(mismatches(&EXP_MINUS_ONE, dtype, &at), []);
        let found = mismatches(&EXP_MINUS_ONE_BY_VALUE, dtype, &at);
        assert!(found.contains(&(1, 1)) && found.contains(&(1, 2)) && !found.contains(&(1, 0)), "{found:?}");
        // Zero times infinity.
        assert_eq!(mismatches(&ROOT_ABOVE, dtype, &[0.0, 4.0, -1.0]), []);
        let found = mismatches(&ROOT_ABOVE_TIMES, dtype, &[0.0, 4.0, -1.0]);
        assert!(found.contains(&(1, 0)) && !found.contains(&(1, 1)), "{found:?}");
        // Of order 2 only.
        assert_eq!(mismatches(&HALF_SQUARE, dtype, &[0.0, 2.0]), []);
        assert_eq!(mismatches(&HALF_SQUARE_STOPPED, dtype, &[0.0, 2.0]), [(2, 0), (2, 1)]);
    }
    // A density by hand: fewer digits in the tail, as many as the argument of `exp` has, and those are enough.
    assert_eq!(mismatches(&SLOPE_OF_BELL, DType::F64, &[0.0, 1.0, -3.0]), []);
}

/// What rounding decides is left out, and what the type cannot hold; nothing else is.
#[test]
fn what_is_not_known_is_left_out() {
    let make = |f: fn(Tensor<'_>) -> Tensor<'_>| -> Graph {
        build(|g| g.output("y", f(g.input("x", DType::F32, [2])))).unwrap_or_else(|diags| panic!("{diags}"))
    };
    let counts = |graph: &Graph, at: &[f64]| {
        let report = check(graph, &Env::default().with("x", floats(DType::F32, at)), 1);
        let report = report.unwrap_or_else(|text| panic!("{text}"));
        assert!(report.mismatches.is_empty(), "{:?}", report.mismatches);
        (report.orders[0].n_agree, report.orders[0].n_left_out)
    };
    // exp(x) overflows at 100, and (x + 1e-9) - 1 is 0 at 1 by rounding alone.
    assert_eq!(counts(&make(|x| x.exp().sqrt()), &[1.0, 100.0]), (1, 1));
    assert_eq!(counts(&make(|x| ((x + 1e-9) - 1.0).relu()), &[1.0, 0.5]), (1, 1));
    assert_eq!(counts(&make(|x| (x - x).abs()), &[1.0, 0.0]), (2, 0));
    // A factor beside its kink: 1.5 rounds to 2 on the way, so what is -0.25 becomes 0.25, and so does the derivative by x.
    let factor = make(|x| {
        let large = x.builder().scalar(16_777_216.0, DType::F32);
        x * ((large + 1.5) - large - 1.75).relu()
    });
    assert_eq!(counts(&factor, &[1.0, 2.0]), (2, 0));
}

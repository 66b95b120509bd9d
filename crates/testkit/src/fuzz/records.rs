//! Ops from outside whose records are put together at random from functions that are right, wrong, or panic: whatever a graph with
//! them says, building, interpreting, compiling and running it ends in an error that names the op, or gives the same bits fused and
//! unfused. Nothing panics.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use cotangent_exec::{CompileError, Compiler, Runtime, Seed, Session, Threads};
use cotangent_graph::interp::interpret;
use cotangent_graph::op::{Arity, Lower, OpDef, OpTraits, Vjp};
use cotangent_graph::op::{EvalCx, Fault as Refusal};
use cotangent_graph::ops::arithmetic::{InferFn, one};
use cotangent_graph::ops::infer_float;
use cotangent_graph::{
    Attrs, Code, DType, Diags, Env, Graph, GraphBuilder, Init, NodeId, Tensor, TensorData, Type, build, eval,
};
use cotangent_scalar::{BodyBuilder, ReduceOp, ValueId};
use cotangent_testkit::Rng;

use super::{Fault, Limits, Mode, drive, replay};

const NAMES: [&str; 3] = ["outside_a", "outside_b", "outside_c"];

const INFERS: [InferFn; 9] = [
    infer_float,
    |cx| cx.inputs.first().map_or_else(|| Ok(Type::tensor(DType::F32, [3])), |ty| Ok((*ty).clone())),
    |_| Ok(Type::tensor(DType::F32, [])),
    |cx| Ok(Type::tensor(DType::F64, cx.inputs.first().map_or(&[][..], |ty| ty.shape()))),
    |cx| Ok(Type::Tuple(cx.inputs.iter().map(|ty| (*ty).clone()).collect())),
    |_| Ok(Type::tensor(DType::F32, [1 << 20])),
    |_| Ok(Type::tensor(DType::Bool, [1 << 40, 1 << 40])),
    |_| panic!("on purpose"),
    |_| {
        // Not the same twice.
        static CALLS: AtomicUsize = AtomicUsize::new(0);
        Ok(Type::tensor(DType::ALL[CALLS.fetch_add(1, Relaxed) % DType::ALL.len()], [3]))
    },
];

type Eval = fn(&EvalCx<'_>, &[&TensorData]) -> Result<TensorData, Refusal>;

const EVALS: [Eval; 6] = [
    eval::scalar,
    eval::unbound,
    |_, operands| Ok(operands[0].clone()),
    |_, _| Ok(TensorData::zeros(DType::I64, &[5].into())),
    |_, _| panic!("on purpose"),
    |_, _| Err(Refusal::new(Code::Unsupported, "on purpose")),
];

fn vjp(rng: &mut Rng) -> Vjp {
    match rng.below(11) {
        0 => Vjp::ViaExpansion,
        1 => Vjp::Zero("no reason"),
        2 => Vjp::None("no reason"),
        3 => Vjp::Rule(|cx| cx.inputs.iter().map(|_| None).collect()),
        4 => Vjp::Rule(|cx| cx.inputs.iter().map(|_| Some(cx.dy.sum())).collect()),
        5 => Vjp::Rule(|cx| [Some(cx.dy), Some(cx.dy), None].into_iter().collect()),
        6 => Vjp::Rule(|cx| cx.inputs.iter().map(|_| Some(cx.dy.builder().poisoned())).collect()),
        7 => Vjp::Rule(|_| panic!("on purpose")),
        8 => Vjp::Rule(|cx| {
            cx.inputs.iter().map(|x| Some(x.builder().input("smuggled", x.dtype(), x.shape()))).collect()
        }),
        9 => Vjp::Rule(|cx| cx.inputs.iter().map(|_| Some(cx.dy.builder().tensor(NodeId(u32::MAX / 3)))).collect()),
        _ => Vjp::Rule(|cx| cx.inputs.iter().map(|_| Some(cx.dy * cx.output)).collect()),
    }
}

fn lower(rng: &mut Rng) -> Lower {
    match rng.below(20) {
        0 => Lower::Scalar(|s, v, _| s.lt(v[0], v[0])),
        1 => Lower::Scalar(|_, _, _| ValueId(99)),
        2 => Lower::Scalar(|s, _, cx| s.input(7, cx.dtype)),
        3 => Lower::Scalar(|s, _, _| s.input(0, DType::I64)),
        4 => Lower::Scalar(|_, _, _| panic!("on purpose")),
        5 => Lower::Scalar(|s, v, _| {
            *s = BodyBuilder::new();
            v[0]
        }),
        6 => Lower::Scalar(|s, v, _| {
            let truth = s.lt(v[0], v[0]);
            s.combine(ReduceOp::Sum, truth, truth)
        }),
        7 => Lower::Scalar(|s, v, cx| {
            let value = *v.last().unwrap_or(&ValueId(0));
            s.cast(value, cx.dtype)
        }),
        8 => Lower::Expand(|_| [].into_iter().collect()),
        9 => Lower::Expand(|cx| cx.inputs.iter().copied().collect()),
        10 => Lower::Expand(|cx| [cx.inputs[0].sum()].into_iter().collect()),
        11 => Lower::Expand(|cx| [cx.builder.poisoned()].into_iter().collect()),
        12 => Lower::Expand(|cx| [cx.inputs[0].reshape([7])].into_iter().collect()),
        13 => Lower::Expand(|cx| [cx.builder.param("w", DType::F32, [3], Init::ONES)].into_iter().collect()),
        14 => Lower::Expand(|cx| {
            cx.builder.output("smuggled", cx.inputs[0]);
            [cx.inputs[0]].into_iter().collect()
        }),
        15 => Lower::Expand(|_| panic!("on purpose")),
        16 => Lower::Expand(|cx| [cx.builder.tensor(NodeId(0))].into_iter().collect()),
        17 => Lower::Expand(|cx| [cx.inputs[0].tanh()].into_iter().collect()),
        _ => Lower::Scalar(|s, v, _| s.sqrt(v[0])),
    }
}

/// A record, which lives as long as the process: that is what records do.
fn record(rng: &mut Rng, name: &'static str) -> &'static OpDef {
    let is_sound = rng.chance(0.5);
    let claims = [OpTraits::COMMUTATIVE, OpTraits::ODD, OpTraits::EVEN, OpTraits::MONOTONE, OpTraits::ZERO_PRESERVING];
    let claimed = claims.into_iter().chain([OpTraits::IDEMPOTENT, OpTraits::POLE]).filter(|_| rng.chance(0.2));
    let traits = claimed.fold(OpTraits::POINTWISE, OpTraits::with);
    Box::leak(Box::new(OpDef {
        name,
        doc: "Anything.",
        arity: *rng.pick(&[Arity::Exact(1), Arity::Exact(1), Arity::Exact(2), Arity::AtLeast(0), Arity::Between(1, 3)]),
        attrs: &[],
        traits,
        infer: if is_sound { infer_float } else { *rng.pick(&INFERS) },
        eval: if is_sound { eval::scalar } else { *rng.pick(&EVALS) },
        vjp: vjp(rng),
        lower: lower(rng),
        samples: one,
    }))
}

fn numbers(values: [f32; 3]) -> TensorData {
    TensorData::from_bits(DType::F32, &[3].into(), &values.map(|value| u64::from(value.to_bits())))
}

/// What is built of ops from outside and some of the house.
fn graph(rng: &mut Rng) -> Result<Graph, Diags> {
    let ops: Vec<&'static OpDef> = NAMES[..1 + rng.below(NAMES.len())].iter().map(|name| record(rng, name)).collect();
    build(|g: &GraphBuilder| {
        ops.iter().for_each(|op| g.register(op));
        let x = g.input("x", DType::F32, [3]);
        let w = g.param("w", DType::F32, [3], Init::ONES);
        let mut values: Vec<Tensor<'_>> = vec![x, w, g.constant(numbers([1.0, 4.0, 9.0]))];
        for _ in 0..1 + rng.below(6) {
            let operands: Vec<Tensor<'_>> = (0..rng.below(4)).map(|_| *rng.pick(&values)).collect();
            let first = *rng.pick(&values);
            values.push(match rng.below(5) {
                0 => first.check_finite(),
                1 => first * *rng.pick(&values) + 1.0,
                _ => g.op(
                    ops[rng.below(ops.len())],
                    if operands.is_empty() { std::slice::from_ref(&first) } else { &operands },
                    Attrs::none(),
                    None,
                ),
            });
        }
        let y = *values.last().unwrap_or(&x);
        g.output("y", y);
        if rng.chance(0.5) {
            g.update(w, w - g.grad(y.sum(), &[w])[0]);
        }
    })
}

/// What a step gives, or the error on the way; a bug must name an op.
fn outcome(graph: &Graph, fuse: bool, runtime: &Runtime) -> Result<Option<Vec<TensorData>>, Fault> {
    let file = std::env::temp_dir().join(format!("cotangent-records-{}.ct", std::process::id()));
    let program = match Compiler::new().fuse(fuse).memory_limit(1 << 28).reproducer(&file).compile(graph) {
        Ok(program) => program,
        Err(error) => {
            let (is_bug, text) = (matches!(error, CompileError::Bug(_)), error.to_string());
            // A graph may follow, which names them anyway.
            let said = text.split("cotangent 1").next().unwrap_or_default();
            let names = NAMES.iter().any(|name| said.contains(name));
            return if is_bug && !names { Err(Fault::new("an op that is not named", text)) } else { Ok(None) };
        }
    };
    let x = numbers([1.0, 4.0, 16.0]);
    let Ok(mut session) = Session::new(runtime, program, Seed(0)) else { return Ok(None) };
    let Ok(outputs) = session.step([("x", (&x).into())]) else { return Ok(None) };
    let names: Vec<&str> = outputs.iter().map(|(name, _)| name).collect();
    Ok(names.into_iter().map(|name| outputs.tensor(name).ok()).collect())
}

/// Runs the mode; returns the number of failures.
pub fn run(limits: &Limits) -> usize {
    let runtime = Runtime::new(Threads::Exactly(2));
    let (mut n_built, mut n_run) = (0u64, 0u64);
    let case = |seed: u64| {
        let mut rng = Rng::new(seed ^ 0x07ec_04d5);
        let Ok(graph) = graph(&mut rng) else { return Ok(()) };
        n_built += 1;
        let mut env = Env::default().with("x", numbers([1.0, 4.0, 16.0]));
        // What is wrong with it is an error, or none.
        if env.initialize(&graph, 0).is_ok() {
            let _ = interpret(&graph, &env);
        }
        let [fused, unfused] = [outcome(&graph, true, &runtime)?, outcome(&graph, false, &runtime)?];
        let (Some(fused), Some(unfused)) = (fused, unfused) else { return Ok(()) };
        n_run += 1;
        let same = fused.len() == unfused.len() && fused.iter().zip(&unfused).all(|(a, b)| a.same_bits(b));
        if same { Ok(()) } else { Err(Fault::new("other bits", format!("{graph}\n{fused:?}\nunfused\n{unfused:?}"))) }
    };
    let write = |seed: u64, _: &Fault| replay(Mode::Records, &format!("--seed {seed} --count 1"));
    let done = drive(Mode::Records, limits, case, write);
    done.summary(Mode::Records, limits, &format!("{n_built} graphs, {n_run} run"));
    done.n_failures
}

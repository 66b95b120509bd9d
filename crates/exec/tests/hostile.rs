//! Graphs put together at random from the low-level functions, with operands, attributes and types that belong to other nodes or
//! to none: each is refused with an error, or compiles, runs, and gives what the interpreter gives. Nothing panics.

use std::panic::{AssertUnwindSafe, catch_unwind};

use cotangent_exec::{CompileError, Compiler, Runtime, Session, Threads};
use cotangent_graph::interp::interpret_named;
use cotangent_graph::number::Number;
use cotangent_graph::samples::{Sampler, environment};
use cotangent_graph::{
    Attr, AttrKind, Attrs, BodyId, Code, DType, Graph, GraphBuilder, Init, NodeId, OpRef, Origin, Output, Registry,
    Role, Shape, TensorData, Type,
};

const N_GRAPHS: u64 = 6000;

fn any_type(s: &mut Sampler) -> Type {
    let dtype = *s.pick(&DType::ALL);
    let rank = s.int(0..4);
    let shape: Shape = (0..rank).map(|_| *s.pick(&[0, 1, 2, 3, 3, 3, 1 << 40, usize::MAX])).collect();
    if s.unit() < 0.05 { Type::Tuple(vec![Type::tensor(dtype, shape)]) } else { Type::tensor(dtype, shape) }
}

/// A value of a kind, more often than not one that some op would take.
fn any_attr(kind: AttrKind, s: &mut Sampler) -> Attr {
    const NUMBERS: [i64; 7] = [0, 1, 1, 2, -1, i64::MIN, i64::MAX];
    match kind {
        AttrKind::Int => Attr::Int(*s.pick(&NUMBERS)),
        AttrKind::Ints => Attr::Ints((0..s.int(0..4)).map(|_| *s.pick(&[0, 1, 2, 3, -1, i64::MAX])).collect()),
        AttrKind::Float => Attr::from(*s.pick(&[0.0, 0.5, -1.0, f64::NAN])),
        AttrKind::Number => Attr::Number(Number::of(*s.pick(&[0.0, -0.5, 1e300, f64::NAN]))),
        AttrKind::Bool => Attr::Bool(s.unit() < 0.5),
        AttrKind::Str => Attr::from(*s.pick(&["x", "w", "", "uniform", "normal"])),
        AttrKind::DType => Attr::DType(*s.pick(&DType::ALL)),
        AttrKind::Tensor => Attr::from(TensorData::zeros(*s.pick(&DType::ALL), &[3].into())),
        AttrKind::Init => Attr::Init(Init::ONES),
        AttrKind::Body => Attr::Body(BodyId(*s.pick(&[0, 1, u32::MAX]))),
    }
}

/// What the builder lets pass of some random nodes.
fn any_graph(seed: u64, ops: &[OpRef]) -> Result<Graph, Code> {
    let mut s = Sampler::new(DType::F32, seed);
    let g = GraphBuilder::new("hostile");
    let x = g.input("x", DType::F32, [3, 3]);
    let mut types = vec![x.ty()];
    for _ in 0..1 + s.int(0..4) {
        let op = *s.pick(ops);
        let n_operands = *s.pick(&[0, 1, 1, 2, 2, 3]);
        let inputs = (0..n_operands)
            .map(|_| {
                if s.unit() < 0.02 {
                    NodeId(*s.pick(&[99, u32::MAX]))
                } else {
                    NodeId(s.int(0..types.len() as i64) as u32)
                }
            })
            .collect();
        let attrs = op.attrs.iter().fold(Attrs::none(), |attrs, spec| match s.unit() {
            p if p < 0.02 => attrs,
            p if p < 0.04 => attrs.with(spec.name, any_attr(AttrKind::Ints, &mut s)),
            _ => attrs.with(spec.name, any_attr(spec.kind, &mut s)),
        });
        let ty = if s.unit() < 0.7 { s.pick(&types).clone() } else { any_type(&mut s) };
        let made = g.push_node(op, inputs, attrs, ty.clone(), Origin::default());
        if made.is_poisoned() {
            break;
        }
        types.push(ty);
    }
    let last = NodeId(types.len() as u32 - 1);
    let role = if s.unit() < 0.1 { Role::Update(NodeId(s.int(0..types.len() as i64) as u32)) } else { Role::Result };
    g.push_output(Output { name: "y".into(), value: last, role });
    g.finish().map_err(|diags| diags.0[0].code)
}

#[test]
fn whatever_is_put_together_is_refused_or_right() {
    let ops: Vec<OpRef> = Registry::builtin().iter().collect();
    let runtime = Runtime::new(Threads::Exactly(1));
    let (mut n_unsound, mut n_ill_formed, mut n_other, mut n_ran) = (0, 0, 0, 0);
    for seed in 0..N_GRAPHS {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let Ok(graph) = any_graph(seed, &ops) else { return "unsound" };
            assert!(!graph.to_string().is_empty());
            let compiler = Compiler::new().reproducer(std::env::temp_dir().join("cotangent-hostile.ct"));
            let program = match compiler.compile(&graph) {
                Ok(program) => program,
                Err(CompileError::User(diags)) if diags.0[0].code == Code::IllFormed => return "ill-formed",
                Err(CompileError::Bug(bug)) => panic!("{bug}\n{graph}"),
                Err(_) => return "other",
            };
            let Ok(env) = environment(program.optimized(), seed) else { return "other" };
            let Ok(mut session) = Session::with_env(&runtime, program.clone(), &env) else { return "other" };
            let expected = interpret_named(program.optimized(), &env);
            match (session.step(program.inputs_of(&env)), expected) {
                (Ok(out), Ok(expected)) => {
                    for (name, value) in expected.iter().filter(|(name, _)| !name.starts_with("update ")) {
                        assert!(out.tensor(name).is_ok_and(|got| got.same_bits(value)), "{name}\n{graph}");
                    }
                    "ran"
                }
                (Err(got), Err(expected)) => {
                    assert_eq!(got.code, expected.code, "{graph}");
                    "other"
                }
                (got, expected) => panic!("{:?} and {:?}\n{graph}", got.err(), expected.err()),
            }
        }));
        match outcome.unwrap_or_else(|_| panic!("seed {seed} panics")) {
            "unsound" => n_unsound += 1,
            "ill-formed" => n_ill_formed += 1,
            "ran" => n_ran += 1,
            _ => n_other += 1,
        }
    }
    println!("{n_unsound} refused by the graph, {n_ill_formed} by the verifier, {n_other} otherwise, {n_ran} ran");
    assert!(n_unsound > 300 && n_ill_formed > 1000 && n_ran > 30, "{n_unsound} {n_ill_formed} {n_other} {n_ran}");
}

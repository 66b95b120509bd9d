//! What is compiled follows the machine that was asked for, its bits do not, and what the CPU lacks is refused.

use cotangent_exec::{
    BackendChoice, Caches, Compiler, Costs, Executable, Isa, Runtime, Seed, Session, Target, Threads,
};
use cotangent_graph::diag::Code;
use cotangent_graph::interp::interpret_named;
use cotangent_graph::{DType, Env, Graph, Init, TensorData, build};
use ndarray::{ArrayD, IxDyn};
use std::sync::Arc;

/// A layer with its softmax, and the gradient of its weights.
fn graph() -> Graph {
    let graph = build(|g| {
        let (x, w) = (g.input("x", DType::F32, [96, 200]), g.param("w", DType::F32, [200, 300], Init::ONES));
        let y = (x.matmul(w) * 0.01).softmax(1);
        g.output("y", y);
        g.output("dw", g.grad((y * y).sum(), &[w])[0]);
    });
    graph.unwrap()
}

fn with_caches(caches: Caches) -> Target {
    let here = Target::here();
    Target::new(here.isa(), caches, here.cores(), *here.costs()).unwrap()
}

fn with_costs(costs: Costs) -> Target {
    let here = Target::here();
    Target::new(here.isa(), here.caches(), here.cores(), costs).unwrap()
}

fn compiled(target: Target) -> Arc<Executable> {
    Compiler::new().target(target).compile(&graph()).unwrap()
}

/// Machines with decisions of their own, of an instruction set that this CPU has.
fn machines() -> Vec<Target> {
    let here = Target::here();
    let small = Caches { l1: 4 << 10, l2: 32 << 10, l3: 64 << 10, l1_period: 1024 };
    let mut machines = vec![
        here.clone(),
        with_caches(small),
        with_costs(Costs { stream_bytes: 1, ..*here.costs() }),
        with_costs(Costs { split_ns: 1.0, split_product: 1, split_vector: 1, ..*here.costs() }),
        with_costs(Costs { op_ns: 1e6, ..*here.costs() }),
        Target::new(here.isa(), Caches { l1: 1 << 10, l2: 1 << 10, l3: 1 << 10, l1_period: 64 }, 1, *here.costs())
            .unwrap(),
        Target::new(here.isa(), Caches { l1: 1 << 24, l2: 1 << 32, l3: 1 << 40, l1_period: 64 }, 9, *here.costs())
            .unwrap(),
    ];
    machines.extend(Isa::ALL.into_iter().filter(|isa| isa.is_available()).map(|isa| here.clone().with_isa(isa)));
    machines
}

#[test]
fn bits_do_not_depend_on_the_machine() {
    let graph = graph();
    let mut env = Env::default();
    let value = |shape: &[usize]| {
        let mut k = 7usize;
        TensorData::from(ArrayD::from_shape_simple_fn(IxDyn(shape), || {
            k = (k * 1_103 + 12_345) % 65_521;
            k as f32 / 32_760.0 - 1.0
        }))
    };
    env.values.insert("x".into(), value(&[96, 200]));
    env.values.insert("w".into(), value(&[200, 300]));
    let runtime = Runtime::new(Threads::Exactly(2));
    for target in machines() {
        let program = Compiler::new().target(target.clone()).compile(&graph).unwrap();
        let expected = interpret_named(program.optimized(), &env).unwrap();
        let mut session = Session::with_env(&runtime, program.clone(), &env).unwrap();
        let results = session.step(program.inputs_of(&env)).unwrap();
        for (name, value) in &expected {
            assert!(results.tensor(name).unwrap().same_bits(value), "{name} for {target}");
        }
    }
}

#[test]
fn decisions_follow_the_machine() {
    let streams = |program: &Executable| {
        let kernels = program.plan().kernels.iter().flat_map(|kernel| &kernel.phases);
        kernels.flat_map(|phase| &phase.stores).filter(|store| store.stream).count()
    };
    let ways = |program: &Executable| {
        let steps = 0..program.plan().steps.len();
        steps.filter_map(|step| program.way(step)).map(|choice| choice.way.to_string()).collect::<Vec<_>>()
    };
    let [here, small, streaming, ..] = &machines()[..] else { panic!("three machines") };
    let [here, small, streaming] = [here, small, streaming].map(|target| compiled(target.clone()));
    assert_eq!(streams(&here), 0);
    assert!(streams(&streaming) > 0, "{}", streaming.plan_text());
    assert_eq!(ways(&here).len(), 2, "{:?}", ways(&here));
    assert_ne!(ways(&here), ways(&small), "blocks are as large as caches say");
    // A row of 300 elements does not fit: softmax is several kernels.
    let tiny = compiled(machines().into_iter().find(|target| target.caches().l2 == 1 << 10).unwrap());
    assert!(tiny.plan().figures().n_kernels > here.plan().figures().n_kernels, "{}", tiny.plan_text());
    // A step ten times as dear is predicted to take longer.
    let costs = *Target::here().costs();
    let dear = compiled(with_costs(Costs { step_ns: 10.0 * costs.step_ns, ..costs }));
    assert_eq!(dear.predicted_ns(0) - here.predicted_ns(0), 9.0 * costs.step_ns);
    assert_eq!(here.predicted_ns(here.plan().steps.len()), 0.0);
}

#[test]
fn the_machine_is_explained() {
    for target in machines() {
        let program = compiled(target.clone());
        assert_eq!(program.target(), &target);
        assert!(program.explain().ends_with(&format!("for {target}")), "{}", program.explain());
    }
    let wide = |isa| {
        let target = Target::here().clone().with_isa(isa);
        Compiler::new().target(target).backend(BackendChoice::Wide).compile(&graph())
    };
    let error = wide(Isa::Portable).unwrap_err().to_string();
    assert!(error.contains("wide code is for x86-64 with AVX2 or AVX-512, not for portable"), "{error}");
}

/// A program for another CPU can be looked at; nothing of it ever runs.
#[test]
fn what_the_cpu_lacks_is_refused() {
    let runtime = Runtime::new(Threads::Exactly(1));
    let foreign: Vec<Isa> = Isa::ALL.into_iter().filter(|isa| !isa.is_available()).collect();
    assert!(!foreign.is_empty(), "no CPU has all of them");
    for isa in foreign {
        let program = compiled(Target::here().clone().with_isa(isa));
        let text = [program.explain(), program.plan_text(), program.code_text()].concat();
        assert!(text.contains(&format!("for {}, ", isa.name())), "{text}");
        let error = Session::new(&runtime, program.clone(), Seed(1)).unwrap_err();
        assert_eq!(error.code, Code::OtherMachine);
        assert!(error.message.contains(isa.name()), "{error}");
        let mut session = Session::new(&runtime, compiled(Target::here().clone()), Seed(1)).unwrap();
        assert_eq!(session.load(program).unwrap_err().code, Code::OtherMachine);
        assert!(session.step(("x", &ArrayD::<f32>::zeros(IxDyn(&[96, 200])))).is_ok());
    }
}

//! Convolutions end to end: bits of machine code against the interpreters, and against windows times filters.

use cotangent_exec::{Compiler, Runtime, Session, Threads};
use cotangent_graph::DType::F32;
use cotangent_graph::interp::interpret_named;
use cotangent_graph::ops::conv::Convolution;
use cotangent_graph::samples::environment;
use cotangent_graph::{Init, build};
use cotangent_kernel::Step;

#[test]
fn a_training_step_has_the_bits_of_the_interpreter() {
    let graph = build(|g| {
        let x = g.input("x", F32, [2, 6, 7, 4]);
        let w = g.param("w", F32, [3, 3, 4, 5], Init::GlorotUniform);
        let b = g.param("b", F32, [5], Init::GlorotUniform);
        let y = (x.conv(w, &Convolution::new().padding(&[(1, 1), (1, 1)]).stride(&[2, 1])) + b).relu();
        let loss = (y * y).mean();
        let d = g.grad(loss, &[x, w, b]);
        g.update(w, w - d[1] * 0.1);
        g.output("y", y);
        g.output("loss", loss);
        g.output("dx", d[0]);
        g.output("db", d[2]);
    })
    .unwrap();
    let env = environment(&graph, 1).unwrap();
    for n_threads in [1, 2] {
        let program = Compiler::new().compile(&graph).unwrap();
        let oracle = interpret_named(program.optimized(), &env).unwrap();
        let runtime = Runtime::new(Threads::Exactly(n_threads));
        let mut session = Session::with_env(&runtime, program.clone(), &env).unwrap();
        let results = session.step(program.inputs_of(&env)).unwrap();
        for (name, value) in &oracle {
            if let Ok(got) = results.tensor(name) {
                assert!(got.same_bits(value), "{name}:\n{got}\nexpected\n{value}");
            }
        }
        assert!(program.plan().steps.iter().any(|step| matches!(step, Step::Product { .. })));
    }
}

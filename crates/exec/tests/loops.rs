//! Loops end to end: machine code for any number of threads and on all backends, the plan interpreter and the oracle give the same
//! bits; bodies are planned and compiled once; checks inside of loops leave everything as it was.

use std::collections::HashMap;

use cotangent_exec::{BackendChoice, Compiler, Executable, Runtime, Seed, Session, Threads};
use cotangent_graph::DType::{F32, F64, I64};
use cotangent_graph::interp::interpret_named;
use cotangent_graph::ops::scan::{Checkpoint, Iteration, Loop, Made};
use cotangent_graph::{Code, Counters, Env, Graph, GraphBuilder, Init, TensorData, build};
use cotangent_kernel::{Home, PlanMachine, Step, verify_plan};
use ndarray::{Array1, Array2, Array3, array};

fn graph(f: impl FnOnce(&GraphBuilder)) -> Graph {
    build(f).unwrap_or_else(|diags| panic!("{diags}"))
}

fn compiled(graph: &Graph, backend: BackendChoice) -> std::sync::Arc<Executable> {
    Compiler::new().backend(backend).compile(graph).unwrap_or_else(|error| panic!("{error}\n{graph}"))
}

/// Runs a graph of inputs and results on everything there is, and compares the bits.
fn agree(graph: &Graph, env: &Env) -> Vec<(String, TensorData)> {
    let program = compiled(graph, BackendChoice::Auto);
    let expected = interpret_named(program.optimized(), env).unwrap_or_else(|diag| panic!("{diag}"));
    assert_eq!(verify_plan(program.plan()), Vec::<String>::new());
    let inputs: HashMap<String, TensorData> = env.values.clone();
    let mut machine = PlanMachine::new(program.plan()).unwrap();
    let slow = machine.run(&inputs, &mut HashMap::new(), env.counters).unwrap_or_else(|error| panic!("{error}"));
    for ((name, a), (_, b)) in expected.iter().zip(&slow) {
        assert!(a.same_bits(b), "plan interpreter, {name}: {a} and {b}\n{}", program.plan_text());
    }
    for backend in [BackendChoice::Auto, BackendChoice::Cranelift] {
        let program = compiled(graph, backend);
        for threads in [1, 2] {
            let runtime = Runtime::new(Threads::Exactly(threads));
            let mut session = Session::new(&runtime, program.clone(), Seed(env.counters.seed)).unwrap();
            for _ in 0..2 {
                session.store_mut().set_draws(0);
                let out = session.step(program.inputs_of(env)).unwrap_or_else(|diag| panic!("{diag}"));
                for (name, a) in &expected {
                    let b = out.tensor(name).unwrap();
                    assert!(a.same_bits(&b), "{name} with {threads} threads: {a} and {b}\n{}", program.plan_text());
                }
            }
        }
    }
    expected
}

fn numbers(n: usize, seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(n as u64 + 77);
    move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    }
}

/// An LSTM's cell: gates from one product of the input and one of the state.
fn lstm<'b>(_: &'b GraphBuilder, i: &Iteration<'b>) -> Made<'b> {
    let [h, c] = [i.carries[0], i.carries[1]];
    let n = h.dim(1);
    let rows = h.dim(0);
    let gates = i.slices[0].matmul(i.captures[0]) + h.matmul(i.captures[1]) + i.captures[2];
    let gate = |k: usize| gates.slice(&[0, k * n], &[rows, (k + 1) * n]);
    let next = gate(1).sigmoid() * c + gate(0).sigmoid() * gate(2).tanh();
    let h = gate(3).sigmoid() * next.tanh();
    Made { carries: vec![h, next], outputs: vec![h] }
}

/// Outputs, last carries and all gradients of a net of one LSTM layer.
fn net(n: usize, reverse: bool, checkpoint: Checkpoint) -> Graph {
    let (rows, k, m) = (3, 5, 17);
    graph(|g| {
        let x = g.input("x", F32, [n, rows, k]);
        let (h, c) = (g.input("h", F32, [rows, m]), g.input("c", F32, [rows, m]));
        let weights = [("w", vec![k, 4 * m]), ("u", vec![m, 4 * m]), ("b", vec![4 * m])];
        let weights = weights.map(|(name, shape)| g.input(name, F32, shape));
        let over = Loop::new().carry(h).carry(c).slice(x).checkpoint(checkpoint);
        let over = weights.iter().fold(over, |over, &w| over.capture(w));
        let made = g.scan("lstm", if reverse { over.reversed() } else { over }, lstm);
        g.output("y", made.outputs[0]);
        g.output("h_n", made.carries[0]);
        g.output("c_n", made.carries[1]);
        let loss = made.outputs[0].square().sum() + made.carries[1].sum();
        let wrt = [x, h, c, weights[0], weights[1], weights[2]];
        for (name, grad) in ["dx", "dh", "dc", "dw", "du", "db"].iter().zip(g.grad(loss, &wrt)) {
            g.output(name, grad);
        }
    })
}

fn env_of(n: usize) -> Env {
    let (rows, k, m) = (3, 5, 17);
    let mut next = numbers(n, 3);
    let mut two = |a: usize, b: usize| Array2::from_shape_simple_fn((a, b), &mut next);
    let (h, c, w, u) = (two(rows, m), two(rows, m), two(k, 4 * m), two(m, 4 * m));
    let x = Array3::from_shape_simple_fn((n, rows, k), &mut next);
    let b = Array1::from_shape_simple_fn(4 * m, &mut next);
    Env::default().with("x", x).with("h", h).with("c", c).with("w", w).with("u", u).with("b", b)
}

#[test]
fn every_way_to_run_a_loop_gives_the_same_bits() {
    for n in [0, 1, 7] {
        for reverse in [false, true] {
            agree(&net(n, reverse, Checkpoint::All), &env_of(n));
        }
    }
}

#[test]
fn checkpoints_nest_loops_and_change_no_value() {
    let all = agree(&net(7, false, Checkpoint::All), &env_of(7));
    for checkpoint in [Checkpoint::Every(3), Checkpoint::Budget(1)] {
        let some = agree(&net(7, false, checkpoint), &env_of(7));
        for ((name, a), (_, b)) in all.iter().zip(&some).take(6) {
            assert!(a.same_bits(b), "{name}");
        }
    }
}

#[test]
fn code_and_plan_do_not_depend_on_the_number_of_iterations() {
    let sizes = |n: usize| {
        let program = compiled(&net(n, false, Checkpoint::All), BackendChoice::Auto);
        let code: Vec<usize> = program
            .code_text()
            .lines()
            .filter_map(|l| l.split(" bytes").next()?.rsplit(' ').next()?.parse().ok())
            .collect();
        let bodies: Vec<(usize, usize)> = program
            .plan()
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Loop(step) => Some((step.body.steps.len(), step.n)),
                _ => None,
            })
            .collect();
        (code, program.plan().steps.len(), bodies)
    };
    let (few, many) = (sizes(4), sizes(4000));
    assert_eq!((&few.0, few.1), (&many.0, many.1));
    assert_eq!(few.2.iter().map(|b| b.0).collect::<Vec<_>>(), many.2.iter().map(|b| b.0).collect::<Vec<_>>());
    assert!(many.2.iter().all(|b| b.1 == 4000) && many.2.len() == 2);
}

#[test]
fn carries_change_where_they_stand_and_outputs_are_written_where_they_end() {
    // Running sums: element by element, so nothing is copied.
    let sums = graph(|g| {
        let x = g.input("x", F32, [6, 100]);
        let made = g.scan("sums", Loop::new().carry(g.zeros(F32, [100])).slice(x), |_, i| {
            let sum = i.carries[0] + i.slices[0];
            Made { carries: vec![sum], outputs: vec![sum * 2.0] }
        });
        g.output("sum", made.carries[0]);
        g.output("all", made.outputs[0]);
    });
    let program = compiled(&sums, BackendChoice::Auto);
    let Some(Step::Loop(step)) = program.plan().steps.iter().find(|step| matches!(step, Step::Loop(_))) else {
        panic!()
    };
    assert!(step.body.steps.iter().all(|step| matches!(step, Step::Kernel(_))), "{}", program.plan_text());
    assert_eq!(step.body.steps.len(), 1, "{}", program.plan_text());
    assert_eq!(step.body.buffers[step.body.outputs[0].buffer.index()].home, Home::Output);
    assert_eq!(step.body.arena_bytes, 0);
    let mut next = numbers(1, 9);
    agree(&sums, &Env::default().with("x", Array2::from_shape_simple_fn((6, 100), &mut next)));
    // A row of a table: one row a step is written, and the table is not copied.
    let rows = graph(|g| {
        let (table, x) = (g.input("table", F32, [50, 4]), g.input("x", F32, [50, 1, 4]));
        let made = g.fori("rows", 50, Loop::new().carry(table * 1.0).slice(x), |g, number, i| {
            let next = i.carries[0].dynamic_update_slice(i.slices[0], &[number, g.scalar(0, I64)]);
            Made { carries: vec![next], outputs: vec![] }
        });
        g.output("table", made.carries[0]);
    });
    let program = compiled(&rows, BackendChoice::Auto);
    let Some(Step::Loop(step)) = program.plan().steps.iter().find(|step| matches!(step, Step::Loop(_))) else {
        panic!()
    };
    assert!(!step.body.steps.iter().any(|step| matches!(step, Step::Copy { .. })), "{}", program.plan_text());
    let x = Array3::from_shape_simple_fn((50, 1, 4), &mut next);
    let table = Array2::from_shape_simple_fn((50, 4), &mut next);
    let made = agree(&rows, &Env::default().with("table", table).with("x", x.clone()));
    assert!(made[0].1.same_bits(&TensorData::from(x.into_shape_with_order((50, 4)).unwrap())));
}

#[test]
fn results_that_are_carries_are_stored_by_the_kernel_and_what_explains_the_body_knows_its_nodes_alone() {
    // The value before the iteration, and that after it, are results.
    let kept = graph(|g| {
        let (h, x) = (g.input("h", F32, [100]), g.input("x", F32, [6, 100]));
        let made = g.scan("kept", Loop::new().carry(h).slice(x), |_, i| {
            let next = i.carries[0] * 0.5 + i.slices[0];
            Made { carries: vec![next], outputs: vec![i.carries[0], next] }
        });
        g.output("last", made.carries[0]);
        g.output("before", made.outputs[0]);
        g.output("after", made.outputs[1]);
    });
    let body = |program: &Executable| {
        let found = program.plan().steps.iter().find_map(|step| match step {
            Step::Loop(step) => Some(step.body.clone()),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("{}", program.plan_text()))
    };
    let program = compiled(&kept, BackendChoice::Auto);
    let fused = body(&program);
    assert!(matches!(fused.steps[..], [Step::Kernel(_)]), "{}", program.plan_text());
    assert!(fused.outputs.iter().all(|output| fused.buffers[output.buffer.index()].home == Home::Output));
    let mut next = numbers(1, 9);
    let x = Array2::from_shape_simple_fn((6, 100), &mut next);
    agree(&kept, &Env::default().with("x", x).with("h", ndarray::Array1::from_shape_simple_fn(100, &mut next)));
    let unfused = Compiler::new().fuse(false).compile(&kept).unwrap();
    assert!(body(&unfused).steps.len() > 1, "{}", unfused.plan_text());
    let n_nodes = program.optimized().all_bodies()[0].nodes().len();
    for program in [&*program, &unfused] {
        assert!(program.explain().contains("body @kept"), "{}", program.explain());
        let plan = body(program);
        let told = plan.clusters.iter().flatten().chain(&plan.step_nodes).copied();
        let told = told.chain(plan.edges.iter().flat_map(|edge| [edge.from, edge.to]));
        let told = told.chain(plan.step_values.iter().flatten().map(|(id, _)| *id));
        assert!(told.into_iter().all(|id| id.index() < n_nodes), "{}", program.plan_text());
    }
}

#[test]
fn carries_that_change_places_and_carries_that_stay() {
    let swap = graph(|g| {
        let (a, b, c) = (g.input("a", F64, [3]), g.input("b", F64, [3]), g.input("c", F64, [3]));
        let over = Loop::new().carry(a).carry(b).carry(c).times(3);
        let made = g.scan("swap", over, |_, i| {
            let [a, b, c] = [i.carries[0], i.carries[1], i.carries[2]];
            Made { carries: vec![b, a + c, c], outputs: vec![a, c] }
        });
        made.carries.iter().enumerate().for_each(|(k, carry)| g.output(&format!("c{k}"), *carry));
        made.outputs.iter().enumerate().for_each(|(k, output)| g.output(&format!("o{k}"), *output));
    });
    let env = Env::default()
        .with("a", array![1.0, 2.0, 3.0])
        .with("b", array![4.0, 5.0, 6.0])
        .with("c", array![0.5, 0.25, 0.125]);
    let made = agree(&swap, &env);
    assert_eq!(made[2].1, env.values["c"]);
    assert_eq!(made[0].1.to_f64(), [4.5, 5.25, 6.125]);
}

#[test]
fn iterations_draw_the_oracles_numbers() {
    let noisy = graph(|g| {
        let x = g.input("x", F32, [5, 40]);
        let made = g.scan("noise", Loop::new().carry(g.zeros(F32, [40])).slice(x), |g, i| {
            let inner = g.scan("inner", Loop::new().carry(i.carries[0]).times(3), |g, j| {
                let next = j.carries[0] * 0.5 + g.normal("n", F32, [40]);
                Made { carries: vec![next], outputs: vec![] }
            });
            let y = (i.slices[0] * inner.carries[0]).dropout("drop", 0.5);
            Made { carries: vec![y], outputs: vec![y] }
        });
        g.output("all", made.outputs[0]);
        g.output("dx", g.grad(made.outputs[0].square().sum(), &[x])[0]);
    });
    let mut next = numbers(5, 1);
    let mut env = Env::default().with("x", Array2::from_shape_simple_fn((5, 40), &mut next));
    env.counters = Counters { seed: 11, step: 0 };
    let made = agree(&noisy, &env);
    let dropped = |row: usize| made[0].1.to_f64()[row * 40..][..40].iter().map(|v| *v == 0.0).collect::<Vec<_>>();
    assert!((1..5).all(|row| dropped(0) != dropped(row)), "iterations draw the same mask");
}

#[test]
fn a_check_inside_of_a_loop_leaves_everything_as_it_was() {
    let picky = graph(|g| {
        let (rows, x) = (g.input("rows", I64, [4, 2]), g.input("x", F32, [3]));
        let (table, sum) = (g.param("table", F32, [5, 3], Init::ONES), g.state("sum", F32, [3], Init::ZEROS));
        let made = g.scan("pick", Loop::new().carry(x).slice(rows).capture(table), |_, i| {
            let next = i.carries[0] + i.captures[0].gather(i.slices[0]).sum_over(0);
            Made { carries: vec![next], outputs: vec![] }
        });
        g.update(sum, sum + made.carries[0]);
        g.update(table, table - g.grad(made.carries[0].sum(), &[table])[0] * 0.125);
        g.output("last", made.carries[0]);
    });
    let program = compiled(&picky, BackendChoice::Auto);
    let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(0)).unwrap();
    let x = array![0.0f32, 1.0, 2.0];
    let good = array![[0i64, 1], [2, 3], [4, 0], [1, 1]];
    assert_eq!(
        session.step([("rows", (&good).into()), ("x", (&x).into())]).unwrap().view::<f32>("last").unwrap()[0],
        8.0
    );
    let before = (session.store().get("sum").unwrap(), session.store().get("table").unwrap());
    let bad = array![[0i64, 1], [2, 3], [4, 5], [1, 1]];
    let Err(error) = session.step([("rows", (&bad).into()), ("x", (&x).into())]) else { panic!("row 5 of 5") };
    assert_eq!(error.code, Code::IndexOutOfRange);
    assert!(error.to_string().contains("in iteration 2 of the loop"), "{error}");
    assert_eq!(before, (session.store().get("sum").unwrap(), session.store().get("table").unwrap()));
    session.step([("rows", (&good).into()), ("x", (&x).into())]).unwrap();
    assert_ne!(before.0, session.store().get("sum").unwrap());
}

#[test]
fn hostile_loops_are_refused() {
    let program = compiled(&net(4, false, Checkpoint::All), BackendChoice::Auto);
    let broken = |what: &str, change: &dyn Fn(&mut cotangent_kernel::LoopStep)| {
        let mut plan = program.plan().clone();
        let step = plan.steps.iter_mut().find_map(|step| match step {
            Step::Loop(step) => Some(step),
            _ => None,
        });
        change(step.unwrap());
        let errors = verify_plan(&plan);
        assert!(errors.iter().any(|error| error.contains(what)), "{what}: {errors:?}");
    };
    broken("is not inside of", &|step| step.n = 5);
    broken("is not inside of", &|step| step.n = usize::MAX);
    broken("is not inside of", &|step| step.inputs.iter_mut().find(|given| given.moves).unwrap().from.offset = 1);
    broken("is not written whole", &|step| step.n = 3);
    broken("is not inside of", &|step| step.carries[0].start.offset = usize::MAX);
    broken("is given by nobody", &|step| step.inputs.truncate(1));
    broken("is given twice", &|step| step.inputs[1].to = step.inputs[0].to);
    broken("is no state of the body", &|step| {
        std::mem::swap(&mut step.inputs[0].to, &mut step.carries[0].state);
    });
    broken("is not apart from all else", &|step| step.outputs[0] = step.outputs[1]);
    broken("is not apart from all else", &|step| step.carries[0].end = step.carries[1].end);
    broken("does not fit", &|step| step.frame = step.outputs[0]);
    broken("results of the body", &|step| step.outputs.truncate(1));
    broken("of the body is named", &|step| step.carries[0].state.0 = 1000);
    broken("in the body", &|step| {
        let mut body = (*step.body).clone();
        body.steps.remove(0);
        step.body = std::sync::Arc::new(body);
    });
    broken("the body's arena", &|step| {
        let mut body = (*step.body).clone();
        body.arena_bytes += 1 << 20;
        step.body = std::sync::Arc::new(body);
    });
    broken("where no result goes", &|step| {
        let mut body = (*step.body).clone();
        let k = body.buffers.iter().position(|decl| matches!(decl.home, Home::Arena { .. }) && !decl.live.is_empty());
        body.buffers[k.unwrap()].home = Home::Output;
        step.body = std::sync::Arc::new(body);
    });
}

#[test]
fn plans_and_decisions_show_the_body_once() {
    let program = compiled(&net(6, true, Checkpoint::All), BackendChoice::Auto);
    let text = program.plan_text();
    assert!(text.contains("6 times, from the last to the first"), "{text}");
    // The product of the inputs has left the loop, and is one over the rows of all iterations.
    assert_eq!(text.matches("product 18×5×68").count(), 1, "{text}");
    assert!(program.explain().contains("body @lstm"), "{}", program.explain());
    assert!(program.explain().contains("loop, step"), "{}", program.explain());
    let loops = program.plan().steps.iter().position(|step| matches!(step, Step::Loop(_))).unwrap();
    let longer = compiled(&net(600, true, Checkpoint::All), BackendChoice::Auto);
    let n_products = |text: &str| text.matches("product 3×").count();
    assert_eq!(n_products(&longer.plan_text()), n_products(&text));
    assert!(n_products(&text) > 1, "{text}");
    assert!(longer.predicted_ns(loops) > 50.0 * program.predicted_ns(loops));
}

/// How many loops of a program are one function each.
fn n_whole(graph: &Graph) -> usize {
    compiled(graph, BackendChoice::Auto).compiled().loops().len()
}

#[test]
fn bodies_of_kernels_are_one_function_and_others_are_followed_step_by_step() {
    type Body = for<'b> fn(&'b GraphBuilder, &Iteration<'b>) -> Made<'b>;
    fn carried<'b>(next: cotangent_graph::Tensor<'b>) -> Made<'b> {
        Made { carries: vec![next], outputs: vec![] }
    }
    let of = |shape: &[usize], body: Body| {
        graph(|g| {
            let x = g.input("x", F32, [[4].as_slice(), shape].concat());
            let over = Loop::new().carry(g.input("h", F32, shape.to_vec())).slice(x);
            g.output("h", g.scan("loop", over, body).carries[0]);
        })
    };
    let tanh: Body = |_, i| carried((i.carries[0] + i.slices[0]).tanh());
    assert_eq!(n_whole(&of(&[], tanh)), 1);
    assert_eq!(n_whole(&of(&[40, 50], tanh)), 1);
    let product: Body = |_, i| carried(i.carries[0].matmul(i.slices[0]));
    assert_eq!(n_whole(&of(&[5, 5], product)), 0);
    let random: Body = |g, i| carried(i.carries[0] + g.uniform("noise", F32, [5]) * i.slices[0]);
    assert_eq!(n_whole(&of(&[5], random)), 1);
    let sorted: Body = |_, i| carried((i.carries[0] + i.slices[0]).cumsum(0));
    assert_eq!(n_whole(&of(&[5], sorted)), 0);
    // What a loop around others does is their calls; those are functions.
    let nested: Body = |g, i| {
        let over = Loop::new().carry(i.carries[0]).times(3).capture(i.slices[0]);
        carried(g.scan("inner", over, |_, i| carried((i.carries[0] * i.captures[0]).sin())).carries[0])
    };
    let mut next = numbers(9, 4);
    for (shape, body) in
        [(vec![], nested), (vec![3], nested), (vec![40, 50], tanh), (vec![5], random), (vec![5, 5], product)]
    {
        let graph = of(&shape, body);
        let mut values = |shape: &[usize]| ndarray::ArrayD::from_shape_simple_fn(shape, &mut next);
        let (x, h) = (values(&[&[4], &shape[..]].concat()), values(&shape));
        agree(&graph, &Env::default().with("x", x).with("h", h));
    }
    assert_eq!(n_whole(&of(&[3], nested)), 1);
}

#[test]
fn loops_in_one_function_draw_what_the_interpreter_draws_however_many_iterations_there_are() {
    for (n, size) in [(0, vec![3]), (1, vec![]), (255, vec![1]), (256, vec![7]), (257, vec![7]), (1030, vec![2])] {
        for reverse in [false, true] {
            let source = graph(|g| {
                let (x, h) = (g.input("x", F32, [&[n], &size[..]].concat()), g.input("h", F32, size.clone()));
                let over = Loop::new().carry(h).slice(x);
                let made = g.scan("all", if reverse { over.reversed() } else { over }, |g, i| {
                    let noise = g.uniform("noise", F32, i.carries[0].shape());
                    let next = (i.carries[0] * 0.5 + noise * i.slices[0]).dropout("drop", 0.25);
                    Made { carries: vec![next], outputs: vec![noise] }
                });
                g.output("h", made.carries[0]);
                g.output("noise", made.outputs[0]);
                g.output("dx", g.grad(made.carries[0].sum(), &[x])[0]);
            });
            assert!(n == 0 || n_whole(&source) == 2, "{n} {size:?}");
            let mut next = numbers(n, 5);
            let mut values = |shape: &[usize]| ndarray::ArrayD::from_shape_simple_fn(shape, &mut next);
            let env = Env::default().with("x", values(&[&[n], &size[..]].concat())).with("h", values(&size));
            let made = agree(&source, &Env { counters: Counters { seed: 77, step: 0 }, ..env });
            let noise = made.iter().find(|(name, _)| name == "noise").unwrap().1.to_f64();
            let distinct: std::collections::BTreeSet<u64> = noise.iter().map(|v| v.to_bits()).collect();
            assert!(distinct.len() * 100 >= noise.len() * 99, "{} of {}", distinct.len(), noise.len());
        }
    }
}

#[test]
fn explain_says_how_iterations_are_run() {
    let of = |product: bool| {
        let source = graph(|g| {
            let h = g.input("h", F32, [4, 4]);
            let made = g.scan("loop", Loop::new().carry(h).times(3), |_, i| {
                let h = i.carries[0];
                Made { carries: vec![if product { h.matmul(h) } else { h.sin() }], outputs: vec![] }
            });
            g.output("h", made.carries[0]);
        });
        compiled(&source, BackendChoice::Auto).explain()
    };
    let text = of(false);
    assert!(text.contains("one function for all iterations, where threads divide none of its kernels"), "{text}");
    let text = of(true);
    assert!(text.contains("iteration by iteration, since step 0 of its body is neither a kernel nor a copy"), "{text}");
}

#[test]
fn loops_in_one_function_carry_keep_swap_and_differentiate_as_the_interpreter_does() {
    // Sizes of one element, whose code the loop holds, and of more, which it calls; forwards and backwards.
    for (dtype, size) in [(F32, vec![]), (F64, vec![]), (F32, vec![1]), (F32, vec![3]), (F64, vec![19]), (F32, vec![0])]
    {
        for (n, reverse) in [(0, false), (1, true), (2, false), (9, true)] {
            let source = graph(|g| {
                let x = g.input("x", dtype, [&[n], &size[..]].concat());
                let [a, b, c] = ["a", "b", "c"].map(|name| g.input(name, dtype, size.clone()));
                let count = g.input("count", I64, size.clone());
                let over = Loop::new().carry(a).carry(b).carry(count).slice(x).capture(c);
                let made = g.scan("all", if reverse { over.reversed() } else { over }, |_, i| {
                    let ([a, b, count], x, c) =
                        ([i.carries[0], i.carries[1], i.carries[2]], i.slices[0], i.captures[0]);
                    let large = a.gt(x);
                    let next = (c * b + x).tanh() + large.select(a.sin(), a.pow(x.square()));
                    // The carries change places, and old ones and new ones are kept.
                    let count = count * 3 + large.cast(I64);
                    Made { carries: vec![b, next, count], outputs: vec![a, next * x, large.cast(F32)] }
                });
                for (k, value) in made.carries.iter().chain(&made.outputs).enumerate() {
                    g.output(&format!("y{k}"), *value);
                }
                let loss = made.carries[1].sum() + made.outputs[1].square().sum();
                for (name, value) in ["da", "db", "dc", "dx"].iter().zip(g.grad(loss, &[a, b, c, x])) {
                    g.output(name, value);
                }
            });
            assert!(n_whole(&source) >= 2, "{}", compiled(&source, BackendChoice::Auto).plan_text());
            let mut next = numbers(n, 8);
            let mut values = |shape: &[usize]| {
                let array = ndarray::ArrayD::from_shape_simple_fn(shape, || next() + 0.75);
                let data = TensorData::from(array);
                if dtype == F64 { cotangent_graph::samples::wide_data(&data) } else { data }
            };
            let env = Env::default().with("x", values(&[&[n], &size[..]].concat()));
            let env = ["a", "b", "c"].into_iter().fold(env, |env, name| env.with(name, values(&size)));
            let count = ndarray::ArrayD::from_elem(size.clone(), 5i64);
            agree(&source, &env.with("count", count));
        }
    }
}

//! Checked steps: the oracle beside the executor, and the search for the op that made the first NaN.

use cotangent_graph::interp::{Value, trace};
use cotangent_graph::{Code, Diag, Env, Graph, NodeId, TensorData};
use cotangent_host::files::write_text;

use crate::compile::Executable;
use crate::input::Inputs;
use crate::machine::Machine;
use crate::store::Store;

/// The values of a step: the store's, and the inputs given.
///
/// # Errors
/// As for the step, if it has no counters; `E0309` if there is no memory for the values.
#[track_caller]
pub(crate) fn environment(program: &Executable, store: &Store, inputs: &Inputs<'_>) -> Result<Env, Diag> {
    let mut env = Env::default();
    for (name, _) in store.iter() {
        env.values.insert(name.to_owned(), store.get(name)?);
    }
    let names = &program.interface.input_names;
    env.values.extend(inputs.iter().map(|(at, view)| (names[at].clone(), view.clone().into_owned())));
    env.counters = store.counters(program)?;
    Ok(env)
}

/// Every value of a step, as the interpreter computes it.
pub(crate) struct Oracle {
    values: Vec<Option<Value>>,
}

impl Oracle {
    pub(crate) fn new(program: &Executable, env: &Env) -> Self {
        // An error of the interpreter (an index out of range) is one of the step too, which reports it itself.
        Oracle { values: trace(&program.optimized, env).0 }
    }

    /// Compares what a step of the plan has just computed.
    pub(crate) fn compare(&self, machine: &Machine, step: usize) -> Result<(), Diag> {
        let program = machine.program();
        for &(id, buffer) in &program.plan.step_values[step] {
            let Some(expected) = self.values[id.index()].as_ref().and_then(Value::tensor) else { continue };
            let node = program.optimized.node(id);
            let got = machine.value(buffer, node.ty.shape());
            if !expected.same_bits(&got) {
                let at = first_difference(expected, &got);
                let text = format!(
                    "step {step} of the plan ({}) computes `{}` = {id} otherwise than the interpreter, first at element {at}",
                    program.plan.step_text(&program.plan.steps[step]),
                    node.op.name
                );
                return Err(diverged(program, Diag::new(Code::Diverged, text).at(node.origin.loc())));
            }
        }
        Ok(())
    }
}

/// The error of a step that computes something else than the interpreter, with the graph in a file.
fn diverged(program: &Executable, diag: Diag) -> Diag {
    let help = "this is a bug in the compiler, not in your program; please report it";
    let file = program.reproducer.display();
    diag.help(match write_text(&program.reproducer, &program.source.to_string()) {
        Ok(()) => {
            format!("{help} with the graph in {file}; look for it on sample values: cotangent reduce {file} --verify")
        }
        Err(error) => format!("{help}, with the graph ({error})"),
    })
}

fn first_difference(a: &TensorData, b: &TensorData) -> usize {
    let dtype = a.dtype();
    let is_nan = |bits: u64| dtype.is_float() && dtype.f64_of_bits(bits).is_nan();
    let differs = |(x, y): &(u64, u64)| x != y && !(is_nan(*x) && is_nan(*y));
    a.bits().into_iter().zip(b.bits()).position(|pair| differs(&pair)).unwrap_or(0)
}

/// The first op that makes an infinity or a NaN from finite operands.
pub(crate) fn first_non_finite(program: &Executable, env: &Env) -> Option<Diag> {
    let graph: &Graph = &program.optimized;
    let (values, _) = trace(graph, env);
    let is_finite = |id: NodeId| match values[id.index()].as_ref().and_then(Value::tensor) {
        Some(tensor) if tensor.dtype().is_float() => tensor.to_f64().into_iter().all(f64::is_finite),
        _ => true,
    };
    let culprit = graph.ids().find(|&id| !is_finite(id) && graph.node(id).inputs.iter().all(|&i| is_finite(i)))?;
    let node = graph.node(culprit);
    let tensor = values[culprit.index()].as_ref().and_then(Value::tensor)?;
    let element = tensor.to_f64().into_iter().position(|v| !v.is_finite()).unwrap_or(0);
    let what = match node.name() {
        None => format!("`{}` makes it from finite operands", node.op.name),
        Some(name) => format!("`{name}` holds it at the start of the step"),
    };
    let text = format!("an infinity or a NaN at element {element} of {culprit}, of type {}: {what}", node.ty);
    let mut diag = Diag::new(Code::NotFinite, text).at(node.origin.loc());
    for &input in &node.inputs {
        let operand = graph.node(input);
        diag =
            diag.note(format!("operand `{}` of type {} was made", operand.op.name, operand.ty), operand.origin.loc());
    }
    Some(match node.origin.rule {
        Some(rule) => diag.help(format!("the op was made by `{rule}` for this line")),
        None => diag,
    })
}

#[cfg(test)]
mod tests {
    //! Broken kernels, planted between planning and code generation: a checked step names the step, the op and the line.

    use std::path::PathBuf;
    use std::process::Command;
    use std::sync::Arc;

    use cotangent_graph::{Code, CompilerBug, DType, Diag, Graph, Init, build};
    use cotangent_kernel::Plan;
    use cotangent_kernel::ir::Phase;
    use cotangent_scalar::{ReduceOp, ScalarOp};
    use ndarray::Array2;

    use cotangent_graph::HostTensor;

    use crate::{CompileError, Compiler, Executable, Runtime, Seed, Session, Threads};

    /// The lines of the graph below on which the two ops stand that are planted bugs.
    struct Lines {
        sum: u32,
        shift: u32,
    }

    /// A train step with an elementwise chain, a row sum and an update.
    fn sample() -> (Graph, Lines) {
        let mut lines = Lines { sum: 0, shift: 0 };
        let graph = build(|g| {
            let x = g.input("x", DType::F32, [4, 6]);
            let w = g.param("w", DType::F32, [4, 6], Init::uniform(0.5, 1.5));
            let scaled = (x * w).exp();
            lines.shift = line!() + 1;
            let shifted = scaled + 3.0;
            g.output("y", shifted);
            lines.sum = line!() + 1;
            let total = x.square().sum_over([1]);
            g.output("total", total.sqrt());
            g.update(w, w * 0.5);
        });
        (graph.unwrap_or_else(|diags| panic!("{diags}")), lines)
    }

    fn phases(plan: &mut Plan) -> impl Iterator<Item = &mut Phase> {
        plan.kernels.iter_mut().flat_map(|kernel| &mut kernel.phases)
    }

    /// The kernel stores what it has before it adds 3.
    fn forgets_the_shift(plan: &mut Plan) {
        let mut n = 0;
        for phase in phases(plan) {
            for store in &mut phase.stores {
                let inst = &phase.body.insts()[store.value.index()];
                let is_constant = |v: &&cotangent_scalar::ValueId| matches!(phase.body.insts()[v.index()].op, ScalarOp::Const(bits) if bits == u64::from(3f32.to_bits()));
                if inst.op == ScalarOp::Add && inst.args.iter().any(|v| is_constant(&v)) {
                    store.value = *inst.args.iter().find(|v| !is_constant(v)).unwrap_or(&store.value);
                    n += 1;
                }
            }
        }
        assert_eq!(n, 1, "the kernel that was to be broken is not there");
    }

    /// The row sum takes the largest element instead.
    fn maximum_for_sum(plan: &mut Plan) {
        let mut n = 0;
        for reduce in phases(plan).flat_map(|phase| &mut phase.reduces) {
            reduce.op = ReduceOp::Max;
            n += 1;
        }
        assert_eq!(n, 1, "the kernel that was to be broken is not there");
    }

    fn file(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("cotangent-{name}-{}.ct", std::process::id()))
    }

    fn broken(fuse: bool, name: &str, change: fn(&mut Plan)) -> (Arc<Executable>, Lines, PathBuf) {
        let ((graph, lines), file) = (sample(), file(name));
        let program = Compiler::new().fuse(fuse).reproducer(&file).compile_with(&graph, change);
        (program.unwrap_or_else(|error| panic!("{error}")), lines, file)
    }

    /// One step of a session; `checked` as the environment says unless given.
    fn step(program: &Arc<Executable>, checked: Option<bool>) -> Result<(), Diag> {
        let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program.clone(), Seed(3))?;
        if let Some(checked) = checked {
            session.set_checked(checked);
        }
        let x = Array2::from_shape_fn((4, 6), |(i, j)| (i * 7 + j * 3) as f32 / 20.0);
        let before = session.store().get("w")?;
        let result = session.step([("x", HostTensor::from(&x))]).map(|_| ());
        let unchanged = session.store().get("w")?.same_bits(&before);
        assert_eq!(unchanged, result.is_err(), "a step that is an error changes nothing, another one everything");
        result
    }

    #[test]
    fn a_broken_kernel_is_named_with_its_step_op_and_line() {
        for fuse in [true, false] {
            let (program, lines, file) = broken(fuse, "shift", forgets_the_shift);
            assert!(step(&program, Some(false)).is_ok(), "without the check nobody sees it");
            let error = step(&program, Some(true)).unwrap_err();
            assert_eq!(error.code, Code::Diverged);
            assert!(error.message.contains("computes `add` = "), "{error}");
            assert!(error.message.starts_with("step ") && error.message.contains("first at element 0"), "{error}");
            assert!(error.at.to_string().ends_with(&format!("check.rs:{}", lines.shift)), "{error}");
            // The graph is there to be looked at.
            assert!(error.to_string().contains(&format!("cotangent reduce {} --verify", file.display())), "{error}");
            assert_eq!(std::fs::read_to_string(&file).ok(), Some(program.source().to_string()));
            std::fs::remove_file(&file).unwrap_or_else(|error| panic!("{error}"));

            let (program, lines, file) = broken(fuse, "sum", maximum_for_sum);
            let error = step(&program, Some(true)).unwrap_err();
            assert_eq!(error.code, Code::Diverged);
            // The root is taken in the same kernel where ops are fused, so it may be the first value in memory.
            assert!(error.message.contains("`reduce_sum`") || (fuse && error.message.contains("`sqrt`")), "{error}");
            assert!(
                (lines.sum..lines.sum + 2).any(|l| error.at.to_string().ends_with(&format!("check.rs:{l}"))),
                "{error}"
            );
            std::fs::remove_file(&file).unwrap_or_else(|error| panic!("{error}"));
        }
    }

    #[test]
    fn the_variable_turns_the_check_on() {
        let variable = |value: &str| {
            let me = std::env::current_exe().unwrap_or_else(|error| panic!("{error}"));
            let name = "check::tests::a_step_as_the_environment_says";
            let output = Command::new(me)
                .args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"])
                .env("COTANGENT_CHECK", value)
                .output();
            let output = output.unwrap_or_else(|error| panic!("{error}"));
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let on = variable("1");
        assert!(on.contains("error[E0307]: step ") && on.contains("computes `add` = "), "{on}");
        assert!(variable("0").contains("no error"), "{}", variable("0"));
    }

    /// Run by the test before, in a process of its own.
    #[test]
    #[ignore = "says something only under a variable of the environment"]
    fn a_step_as_the_environment_says() {
        let (program, _, file) = broken(true, "environment", forgets_the_shift);
        match step(&program, None) {
            Ok(()) => println!("no error"),
            Err(error) => println!("{error}"),
        }
        // Not there unless a step has diverged.
        let _ = std::fs::remove_file(file);
    }

    fn bug(graph: &Graph, compiler: &Compiler, change: fn(&mut Plan)) -> CompilerBug {
        match compiler.compile_with(graph, change) {
            Err(CompileError::Bug(bug)) => bug,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn bugs_of_every_stage_leave_the_graph_and_the_command() {
        let (graph, _) = sample();
        type Plant = (&'static str, fn(&mut Plan));
        let planted: [Plant; 2] = [
            ("leaves the arena of 0 bytes", |plan| plan.arena_bytes = 0),
            ("it panicked: on purpose", |_| panic!("on purpose")),
        ];
        for (k, (says, change)) in planted.into_iter().enumerate() {
            let file = file(&format!("plan{k}"));
            let found = bug(&graph, &Compiler::new().fuse(false).reproducer(&file), change);
            let text = found.to_string();
            assert!(text.starts_with("internal compiler error in `plan`") && text.contains(says), "{text}");
            assert!(text.contains(&format!("replay: cotangent explain {} --no-fuse", file.display())), "{text}");
            assert_eq!(std::fs::read_to_string(&file).ok(), Some(graph.to_string()));
            std::fs::remove_file(&file).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

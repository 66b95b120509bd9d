//! Checked steps: the oracle beside the executor, and the search for the op that made the first NaN.

use cotangent_graph::interp::{Value, trace};
use cotangent_graph::{Code, Diag, Env, Graph, NodeId, TensorData};

use crate::compile::Executable;
use crate::input::InputView;
use crate::machine::Machine;
use crate::store::Store;

/// The values of a step: the store's, and the inputs given.
pub(crate) fn environment<'n, 'v, 'd: 'v>(
    store: &Store,
    inputs: impl Iterator<Item = (&'n str, &'v InputView<'d>)>,
) -> Env {
    let mut env = Env::default();
    for (name, _) in store.iter() {
        if let Ok(value) = store.get(name) {
            env.values.insert(name.to_owned(), value);
        }
    }
    env.values.extend(inputs.map(|(name, view)| (name.to_owned(), view.to_tensor())));
    env.counters = cotangent_graph::Counters { seed: store.seed().0, step: store.step() };
    env
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
    pub(crate) fn compare(&self, program: &Executable, machine: &Machine, step: usize) -> Result<(), Diag> {
        for &(id, buffer) in &program.plan.step_values[step] {
            let Some(expected) = self.values[id.index()].as_ref().and_then(Value::tensor) else { continue };
            let node = program.optimized.node(id);
            let got = machine.value(buffer, &node.ty);
            if !expected.same_bits(&got) {
                let at = first_difference(expected, &got);
                let text = format!(
                    "step {step} of the plan ({}) computes `{}` = {id} otherwise than the interpreter, first at element {at}",
                    program.plan.step_text(&program.plan.steps[step]),
                    node.op.name
                );
                let diag = Diag::new(Code::Diverged, text).at(node.origin.loc());
                return Err(diag.help("this is a bug in the compiler, not in your program; please report it"));
            }
        }
        Ok(())
    }
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
    let what = match node.attrs.str("name") {
        "" => format!("`{}` makes it from finite operands", node.op.name),
        name => format!("`{name}` holds it at the start of the step"),
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

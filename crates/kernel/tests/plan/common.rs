//! What plan tests share: planning with all checks, and the oracle's answer beside the plan's.

use std::collections::HashMap;

use cotangent_graph::interp::interpret;
use cotangent_graph::{Env, Graph, GraphBuilder, Role, TensorData, build};
use cotangent_kernel::{ClusterOptions, Plan, PlanMachine, plan, verify_plan};
use cotangent_passes::{PassOptions, optimize};
use cotangent_testkit::random;

/// Options with fusion on or off.
pub fn fusion(fuse: bool) -> ClusterOptions {
    ClusterOptions { fusions: fuse.into(), ..ClusterOptions::default() }
}

/// A plan's results in the order of the graph's outputs.
pub fn run(graph: &Graph, env: &Env, plan: &Plan) -> Result<Vec<TensorData>, String> {
    let errors = verify_plan(plan);
    if !errors.is_empty() {
        return Err(format!("the plan is wrong:\n{}", errors.join("\n")));
    }
    let mut store = env.values.clone();
    let results = PlanMachine::new(plan)
        .map_err(|e| e.to_string())?
        .run(&env.values, &mut store, env.counters)
        .map_err(|e| e.to_string())?;
    let results: HashMap<String, TensorData> = results.into_iter().collect();
    let value = |name: &str, role: Role| match role {
        Role::Result => results.get(name).cloned(),
        Role::Update(_) => store.get(name).cloned(),
    };
    graph.outputs().iter().map(|o| value(&o.name, o.role).ok_or_else(|| format!("`{}` is missing", o.name))).collect()
}

/// Plans a graph fused and unfused and compares both with the oracle.
pub fn compare(graph: &Graph, env: &Env) -> Result<(), String> {
    compare_by(graph, env, [&fusion(true), &fusion(false)])
}

/// Plans a graph in several ways and compares all with the oracle.
pub fn compare_by<'a>(
    graph: &Graph,
    env: &Env,
    ways: impl IntoIterator<Item = &'a ClusterOptions>,
) -> Result<(), String> {
    let expected = interpret(graph, env);
    for options in ways {
        let fail = |text: String| Err(format!("{:?}: {text}\n{graph}", options.fusions));
        let got = plan(graph, options).map_err(|e| e.to_string()).and_then(|plan| run(graph, env, &plan));
        match (&expected, got) {
            (Ok(expected), Ok(got)) => {
                for ((output, a), b) in graph.outputs().iter().zip(expected).zip(&got) {
                    if !a.same_bits(b) {
                        return fail(format!("`{}` is {b}, expected {a}", output.name));
                    }
                }
            }
            (Ok(_), Err(error)) => return fail(error),
            (Err(_), Err(_)) => {}
            (Err(diag), Ok(_)) => return fail(format!("expected the error {diag}")),
        }
    }
    Ok(())
}

/// Builds a graph, without passes.
pub fn primitive(f: impl FnOnce(&GraphBuilder)) -> Graph {
    build(f).unwrap_or_else(|diags| panic!("{diags}"))
}

/// Runs the passes on a graph.
pub fn optimized(graph: &Graph) -> Graph {
    optimize(graph, &PassOptions::default()).unwrap_or_else(|e| panic!("{e}")).graph
}

/// The fused plan of a graph that was compared with the oracle on random values.
pub fn planned(graph: &Graph) -> Plan {
    let env = random::env(graph, 7);
    compare(graph, &env).unwrap_or_else(|e| panic!("{e}"));
    plan(graph, &fusion(true)).unwrap_or_else(|e| panic!("{e}"))
}

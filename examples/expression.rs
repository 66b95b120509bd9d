//! The smallest graph worth drawing: f = (x + y) · (y − z) at (1, 2, 3), forward and backward.
//!
//! ```text
//! cargo run --release --example expression -- --out target/expression
//! ```
//!
//! It shows what the compiler does with a formula: `grad` nodes stand in the graph like any other op, the passes replace
//! them by the symbolic derivative and simplify, and the rest is compiled. The pictures (`dot -Tsvg forward.dot`) carry
//! the value of every node and the derivative of f by it, the *cotangent*.

mod flags;

use std::error::Error;
use std::path::PathBuf;

use cotangent::graph::dot::{DotOptions, dot};
use cotangent::prelude::*;
use ndarray::arr0;

/// The formula's values in the order in which they are computed.
const NAMES: [&str; 6] = ["x", "y", "z", "g", "h", "f"];

/// x, y, z, g = x + y, h = y − z and f = g · h.
fn formula(builder: &GraphBuilder) -> [Tensor<'_>; 6] {
    let [x, y, z] = ["x", "y", "z"].map(|name| builder.input(name, F64, []));
    let g = x + y;
    let h = y - z;
    let f = g * h;
    [x, y, z, g, h, f]
}

fn main() -> Result<(), Box<dyn Error>> {
    let flags = flags::Flags::parse("f = (x + y)(y - z): values and derivatives", &[("out", "folder of the pictures")]);
    let out = flags.get("out", PathBuf::from("target/expression"))?;
    std::fs::create_dir_all(&out)?;

    // The graph with its derivatives: one `grad` node for each value, f itself included.
    let graph = build(|builder| {
        let values = formula(builder);
        let [.., f] = values;
        let cotangents = builder.grad(f, &values);
        for (k, name) in NAMES.iter().enumerate() {
            builder.output(name, values[k]);
            builder.output(&format!("df/d{name}"), cotangents[k]);
        }
    })?;
    let program = Compiler::new().compile(&graph)?;

    println!("as written, {} nodes:\n\n{}", program.source().n_nodes(), program.text(StageView::Source));
    println!("after the passes, {} nodes:\n\n{}", program.optimized().n_nodes(), program.text(StageView::Optimized));

    let runtime = Runtime::new(Threads::Exactly(1));
    let mut session = Session::new(&runtime, program, Seed(0))?;
    let [x, y, z] = [1.0, 2.0, 3.0].map(arr0::<f64>);
    let results = session.step(inputs![x, y, z])?;
    println!("at x = 1, y = 2, z = 3:\n");
    let mut lines = Vec::new();
    for name in NAMES {
        let (value, cotangent) = (results.scalar(name)?, results.scalar(&format!("df/d{name}"))?);
        println!("  {name} = {value:>2}    ∂f/∂{name} = {cotangent:>2}");
        lines.push(format!("{name} = {value}\n∂f/∂{name} = {cotangent}"));
    }

    // The picture of the lecture: the forward graph alone, both passes' values written into its nodes.
    let builder = GraphBuilder::new("expression");
    let values = formula(&builder);
    let annotations = values.iter().map(|value| value.id()).zip(lines).collect();
    builder.output("f", values[5]);
    let forward = builder.finish()?;

    let program = session.program();
    let files = [
        ("forward.dot", dot(&forward, &DotOptions { annotations, ..DotOptions::default() })),
        ("before.dot", program.dot(StageView::Source)),
        ("before.txt", program.text(StageView::Source)),
        ("after.dot", program.dot(StageView::Optimized)),
        ("after.txt", program.text(StageView::Optimized)),
    ];
    println!();
    for (name, text) in files {
        let path = out.join(name);
        std::fs::write(&path, text)?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

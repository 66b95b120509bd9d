//! Vanishing gradients: what reaches each layer of a deep net on the way back, for several activations.
//!
//! ```text
//! cargo run --release --example vanishing_gradients
//! ```
//!
//! The slope of a sigmoid is at most 1/4, so each layer of them shrinks the gradient by a factor; twenty of them leave
//! nothing to learn from. ReLU passes it on as it is, and batch norm keeps sigmoids where they have a slope. The graph's own
//! gradients are the outputs here: one number for each layer, nothing is trained.

mod flags;

use std::error::Error;
use std::path::PathBuf;

use cotangent::data::Mnist;
use cotangent::prelude::*;
use cotangent::train::plot::{Plot, save_grid};

const BATCH: usize = 128;
const WIDTH: usize = 100;

/// A kind of hidden layer.
struct Kind {
    name: &'static str,
    init: Init,
    norm: bool,
    activation: fn(Tensor<'_>) -> Tensor<'_>,
}

const KINDS: [Kind; 5] = [
    Kind { name: "sigmoid", init: Init::GlorotUniform, norm: false, activation: |z| z.sigmoid() },
    Kind { name: "tanh", init: Init::GlorotUniform, norm: false, activation: |z| z.tanh() },
    Kind { name: "ReLU, Glorot", init: Init::GlorotUniform, norm: false, activation: |z| z.relu() },
    Kind { name: "ReLU, He", init: Init::HeUniform, norm: false, activation: |z| z.relu() },
    Kind { name: "sigmoid, batch norm", init: Init::GlorotUniform, norm: true, activation: |z| z.sigmoid() },
];

/// Norms of the gradients, and standard deviations of the activations, of each layer from the first on.
fn measure<'a>(
    kind: &Kind,
    depth: usize,
    pictures: HostTensor<'a>,
    digits: HostTensor<'a>,
) -> Result<[Vec<f64>; 2], Box<dyn Error>> {
    let graph = build(|g| {
        let mut x = g.input("x", F32, [BATCH, 784]);
        for layer in 0..depth {
            x = x.layer(&format!("layer{layer}"), Dense::new(WIDTH).init(kind.init));
            if kind.norm {
                x = x.layer(&format!("norm{layer}"), BatchNorm::new());
            }
            x = (kind.activation)(x);
            g.output(&format!("deviation{layer}"), x.variance_over([0, 1]).sqrt());
        }
        let loss = x.dense("out", 10).cross_entropy(g.input("y", I64, [BATCH])).mean();
        let weights: Vec<Tensor<'_>> = (0..depth).map(|layer| g.shared(&format!("layer{layer}.weight"))).collect();
        for (layer, gradient) in g.grad(loss, &weights).into_iter().enumerate() {
            g.output(&format!("gradient{layer}"), gradient.square().sum().sqrt());
        }
    })?;
    let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), Compiler::new().compile(&graph)?, Seed(1))?;
    let results = session.step([("x", pictures), ("y", digits)])?;
    let of =
        |what: &str| (0..depth).map(|layer| results.scalar(&format!("{what}{layer}"))).collect::<Result<_, Diag>>();
    Ok([of("gradient")?, of("deviation")?])
}

fn main() -> Result<(), Box<dyn Error>> {
    let known = [("depth", "hidden layers (20)"), ("out", "folder of the picture (target/vanishing_gradients)")];
    let flags = flags::Flags::parse("What is left of a gradient after many layers", &known);
    let (depth, out) = (flags.get("depth", 20usize)?, flags.get("out", PathBuf::from("target/vanishing_gradients"))?);
    let mnist = Mnist::find()?;
    let (pictures, digits) = mnist.train().dataset().batches(BATCH).next().ok_or("no pictures")?;

    let mut gradients = Plot::new("Gradients of the weights")
        .x_label("layer, 1 next to the pictures")
        .y_label("norm of the gradient")
        .log_y();
    let mut deviations = Plot::new("Activations").x_label("layer").y_label("standard deviation").log_y();
    println!("norm of the gradient of a layer's weights, {depth} layers of {WIDTH} neurons:\n");
    println!("{:<22}{:>12}{:>12}{:>12}{:>16}", "", "layer 1", "middle", "last", "last : first");
    for kind in &KINDS {
        let [gradient, deviation] = measure(kind, depth, (&pictures).into(), (&digits).into())?;
        let (first, middle, last) = (gradient[0], gradient[depth / 2], gradient[depth - 1]);
        println!("{:<22}{first:>12.2e}{middle:>12.2e}{last:>12.2e}{:>16.1e}", kind.name, last / first);
        let numbered = |values: Vec<f64>| values.into_iter().enumerate().map(|(k, v)| (k as f64 + 1.0, v));
        gradients = gradients.dotted_line(kind.name, numbered(gradient));
        deviations = deviations.dotted_line(kind.name, numbered(deviation));
    }
    let path = out.join("vanishing_gradients.svg");
    save_grid(&path, &format!("{depth} layers of {WIDTH} neurons"), 2, &[gradients, deviations])?;
    println!("\nwrote {}", path.display());
    Ok(())
}

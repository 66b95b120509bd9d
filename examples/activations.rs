//! Activations: what they and their derivatives look like, and what the same net makes of each.
//!
//! ```text
//! cargo run --release --example activations
//! ```
//!
//! The derivatives are those that the compiler takes of the graph. Then a net of four hidden layers learns digits with each
//! activation in turn, several times from other weights. Without a nonlinearity it is a linear classifier, and through
//! thresholds no gradient comes: only its last layer learns. Sigmoids of mean one half start slowly; among the others the
//! differences are small, and those below the deviation say nothing. The slope of PReLU and the pieces of Maxout are trained.

mod flags;

use std::error::Error;
use std::path::PathBuf;

use cotangent::data::{Dataset, Mnist};
use cotangent::prelude::*;
use cotangent::train::plot::{Plot, save_grid};
use cotangent::train::{CrossEntropy, Options, Trainer};
use ndarray::{Array1, Array2, array};

const DEPTH: usize = 4;
const WIDTH: usize = 64;
const BATCH: usize = 50;
/// Pieces of Maxout, each with weights of its own.
const PIECES: usize = 2;
/// Points of a curve.
const N_POINTS: usize = 401;

/// A layer of neurons: pre-activations with a name for parameters into activations.
type Apply = for<'g> fn(Tensor<'g>, &str) -> Tensor<'g>;

struct Activation {
    name: &'static str,
    apply: Apply,
    /// Whether its training is drawn.
    in_race: bool,
}

const fn activation(name: &'static str, apply: Apply) -> Activation {
    Activation { name, apply, in_race: false }
}

impl Activation {
    const fn in_race(self) -> Self {
        Activation { in_race: true, ..self }
    }
}

/// Activations that are drawn together, from -edge to edge.
struct Family {
    name: &'static str,
    edge: f32,
    members: &'static [Activation],
}

const FAMILIES: [Family; 4] = [
    Family {
        name: "Bounded",
        edge: 5.0,
        members: &[
            activation("threshold", |z, _| z.threshold()),
            activation("sigmoid", |z, _| z.sigmoid()).in_race(),
            activation("hard sigmoid", |z, _| z.hard_sigmoid()),
            activation("tanh", |z, _| z.tanh()).in_race(),
            activation("softsign", |z, _| z.softsign()),
        ],
    },
    Family {
        name: "Straight pieces",
        edge: 8.0,
        members: &[
            activation("identity", |z, _| z),
            activation("ReLU", |z, _| z.relu()).in_race(),
            activation("leaky ReLU, 0.1", |z, _| z.leaky_relu(0.1)),
            activation("PReLU", |z, name| z.layer(name, PRelu::new())).in_race(),
            activation("ReLU6", |z, _| z.relu6()),
        ],
    },
    Family {
        name: "Exponentials",
        edge: 4.0,
        members: &[
            activation("ELU, α = 1", |z, _| z.elu(1.0)),
            activation("CELU, α = 2", |z, _| z.celu(2.0)),
            activation("SELU", |z, _| z.selu()).in_race(),
            activation("softplus", |z, _| z.softplus()),
            activation("log-sigmoid", |z, _| z.log_sigmoid()),
        ],
    },
    Family {
        name: "With a dip",
        edge: 4.0,
        members: &[
            activation("SiLU", |z, _| z.silu()),
            activation("GELU", |z, _| z.gelu()).in_race(),
            activation("mish", |z, _| z.mish()),
            activation("hard swish", |z, _| z.hard_swish()),
            activation("GELU, by tanh", |z, _| z.gelu_tanh()),
        ],
    },
];

const MAXOUT: Activation = activation("Maxout, 2 pieces", |z, _| z.maxout(PIECES)).in_race();

fn main() -> Result<(), Box<dyn Error>> {
    let known = [
        ("pictures", "pictures to train on (5000)"),
        ("epochs", "passes over them (5)"),
        ("runs", "nets with each activation, of which the mean is printed (3)"),
        ("threads", "number of threads (2)"),
        ("out", "folder of the picture (target/activations)"),
    ];
    let flags = flags::Flags::parse("Activations, their derivatives, and what a net makes of them", &known);
    let (n, epochs) = (flags.get("pictures", 5000usize)?, flags.get("epochs", 5usize)?.max(1));
    let runs = flags.get("runs", 3u64)?.max(1);
    let out = flags.get("out", PathBuf::from("target/activations"))?;
    let runtime = Runtime::new(Threads::Exactly(flags.get("threads", 2)?));

    softmax_of_the_lecture(&runtime)?;
    let mut plots = curves(&runtime)?;
    plots.extend(curves_of_vectors(&runtime)?);

    let (train, test) = Mnist::find()?.into_parts();
    let (train, test) = (train.into_dataset().head(n), test.into_dataset().head(4000));
    println!(
        "\n784-{WIDTH}-{WIDTH}-{WIDTH}-{WIDTH}-10, Adam, {} digits, {epochs} epochs, {runs} runs each:\n",
        train.len()
    );
    println!("{:<20}{:>16}{:>22}", "", "training loss", "test error, %");
    let mut race = Plot::new("Digits, mean of the runs").x_label("epoch").y_label("training loss").log_y();
    for activation in FAMILIES.iter().flat_map(|family| family.members).chain([&MAXOUT]) {
        let all = (0..runs).map(|run| learn(&runtime, &train, &test, activation, epochs, run));
        let all = all.collect::<Result<Vec<Run>, _>>()?;
        let losses: Vec<f64> = (0..epochs).map(|epoch| mean(all.iter().map(|run| run.losses[epoch]))).collect();
        let error = mean(all.iter().map(|run| run.error));
        let deviation = mean(all.iter().map(|run| (run.error - error).powi(2))).sqrt();
        let slopes = all[0].slopes.iter().map(|slope| format!(" {slope:.2}")).collect::<String>();
        let slopes = if slopes.is_empty() { slopes } else { format!("   slopes{slopes}") };
        println!("{:<20}{:>16.4}{error:>16.2} ±{deviation:4.2}{slopes}", activation.name, losses[epochs - 1]);
        if activation.in_race {
            race = race.dotted_line(activation.name, losses.into_iter().enumerate().map(|(k, l)| (k as f64 + 1.0, l)));
        }
    }
    plots.push(race);
    let path = out.join("activations.svg");
    save_grid(&path, "Activations and their derivatives", 2, &plots)?;
    println!("\nwrote {}", path.display());
    Ok(())
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len() as f64;
    values.sum::<f64>() / n
}

/// The numbers that the lecture prints.
fn softmax_of_the_lecture(runtime: &Runtime) -> Result<(), Box<dyn Error>> {
    for z in [array![0.5f32, 0.5, 0.1, 0.7], array![-1.0, 0.0, 1.0, 0.0, -1.0], array![1.0, 1.0, 1.0, 2.0, 1.0]] {
        let graph = build(|g| {
            let z = g.input("z", F32, [z.len()]);
            g.output("softmax", z.softmax(0));
            g.output("log_softmax", z.log_softmax(0));
        })?;
        let mut session = Session::new(runtime, Compiler::new().compile(&graph)?, Seed(1))?;
        let results = session.step(("z", &z))?;
        println!("softmax of {z}: {:.3}", results.view::<f32>("softmax")?);
        println!("    its logarithm: {:.3}", results.view::<f32>("log_softmax")?);
    }
    Ok(())
}

/// A plot of values and one of derivatives for each family.
fn curves(runtime: &Runtime) -> Result<Vec<Plot>, Box<dyn Error>> {
    let mut plots = Vec::new();
    for family in &FAMILIES {
        let z = Array1::linspace(-family.edge, family.edge, N_POINTS);
        let mut values = Plot::new(format!("{}: f(z)", family.name)).x_label("z").y_label("f(z)");
        let mut slopes = Plot::new(format!("{}: f′(z)", family.name)).x_label("z").y_label("f′(z)");
        for activation in family.members {
            let graph = build(|g| {
                let z = g.input("z", F32, [N_POINTS]);
                let f = (activation.apply)(z, "prelu");
                g.output("f", f);
                g.output("slope", g.grad(f.sum(), &[z])[0]);
            })?;
            let mut session = Session::new(runtime, Compiler::new().compile(&graph)?, Seed(1))?;
            let results = session.step(("z", &z))?;
            let curve = |name: &str| -> Result<Vec<(f64, f64)>, Diag> {
                let y = results.view::<f32>(name)?;
                Ok(z.iter().zip(y.iter()).map(|(&z, &y)| (f64::from(z), f64::from(y))).collect())
            };
            // What the one by erf would hide is dashed.
            let draw = |plot: Plot, curve: Vec<(f64, f64)>| match activation.name {
                "GELU, by tanh" => plot.dashed(activation.name, curve),
                name => plot.line(name, curve),
            };
            values = draw(values, curve("f")?);
            slopes = draw(slopes, curve("slope")?);
        }
        plots.extend([values, slopes]);
    }
    Ok(plots)
}

/// Softmax of three logits of which one moves, and Maxout of three straight lines.
fn curves_of_vectors(runtime: &Runtime) -> Result<[Plot; 1], Box<dyn Error>> {
    let z = Array2::from_shape_fn((N_POINTS, 1), |(i, _)| 8.0 * i as f32 / (N_POINTS - 1) as f32 - 4.0);
    let graph = build(|g| {
        let z = g.input("z", F32, [N_POINTS, 1]);
        g.output("softmax", g.concat(&[z, z * 0.0, z * 0.0 + 1.0], 1).softmax(1));
        g.output("maxout", g.concat(&[z * -0.5 - 0.5, z * 0.1 + 0.2, z * 0.6 - 0.2], 1).maxout(3));
    })?;
    let mut session = Session::new(runtime, Compiler::new().compile(&graph)?, Seed(1))?;
    let results = session.step(("z", &z))?;
    let (softmax, maxout) = (results.view::<f32>("softmax")?, results.view::<f32>("maxout")?);
    let mut plot = Plot::new("Of vectors").x_label("z").y_label("value");
    for (k, name) in ["softmax(z, 0, 1): z", "softmax(z, 0, 1): 0", "softmax(z, 0, 1): 1"].into_iter().enumerate() {
        plot = plot.line(name, z.iter().enumerate().map(|(i, &z)| (f64::from(z), f64::from(softmax[[i, k]]))));
    }
    let pieces = z.iter().enumerate().map(|(i, &z)| (f64::from(z), f64::from(maxout[[i, 0]])));
    Ok([plot.dashed("Maxout of three lines", pieces)])
}

/// What came of training one net.
struct Run {
    losses: Vec<f64>,
    /// In percent.
    error: f64,
    /// Those of PReLU in the end, layer by layer.
    slopes: Vec<f64>,
}

fn learn(
    runtime: &Runtime,
    train: &Dataset,
    test: &Dataset,
    activation: &Activation,
    epochs: usize,
    run: u64,
) -> Result<Run, Box<dyn Error>> {
    let pieces = if activation.name == MAXOUT.name { PIECES } else { 1 };
    let apply = activation.apply;
    let options = Options {
        epochs,
        batch_size: BATCH,
        eval_batch_size: 1000,
        seed: Seed(run),
        progress: false,
        ..Options::default()
    };
    let mut trainer = Trainer::new(
        runtime,
        |_, pictures| {
            let mut x = pictures;
            for layer in 0..DEPTH {
                let z = x.layer(&format!("layer{layer}"), Dense::new(pieces * WIDTH));
                x = apply(z, &format!("prelu{layer}"));
            }
            x.dense("out", 10)
        },
        CrossEntropy,
        Adam::new(1e-3),
        options,
    );
    let history = trainer.fit(train, None)?;
    let accuracy = trainer.evaluate(test)?.accuracy.unwrap_or_default();
    let slopes = (0..DEPTH).map_while(|layer| trainer.store().get(&format!("prelu{layer}.slope")).ok()?.as_scalar());
    Ok(Run {
        losses: history.iter().map(|epoch| epoch.train_loss).collect(),
        error: 100.0 * (1.0 - accuracy),
        slopes: slopes.collect(),
    })
}

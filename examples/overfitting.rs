//! Overfitting, and what helps against it: a large net that learns 500 digits by heart, with and without each cure.
//!
//! ```text
//! cargo run --release --example overfitting
//! ```
//!
//! Every net gets all of the training pictures right; what differs is what it makes of 4,000 that it has never seen. The
//! cures: an L2 and an L1 penalty, dropout, dropout with max-norm, DropConnect, noise on the pictures, weights and gradients, batch norm, the average
//! of the weights over the steps, stopping early, and the best of them all: more data. All but the last two are a line of the
//! model or of the optimiser's recipe, compiled into the step; who stops early needs a part of the pictures to tell when.

mod flags;

use std::error::Error;
use std::path::PathBuf;

use cotangent::data::{Dataset, LastBatch, Mnist, Order};
use cotangent::prelude::*;
use cotangent::train::plot::{Plot, save_grid};
use cotangent::train::{CrossEntropy, EarlyStopping, Options, Trainer};

const BATCH: usize = 50;
const N_TEST: usize = 4000;
const WIDTH: usize = 256;

/// What stands in a net besides its two hidden layers, and how it is trained.
#[derive(Clone, Default)]
struct Cure {
    name: &'static str,
    drop: f64,
    drop_connect: f64,
    noise: f64,
    weight_noise: f64,
    batch_norm: bool,
    recipe: Recipe,
    /// So many times the pictures.
    data: usize,
}

impl Cure {
    fn new(name: &'static str) -> Self {
        Cure { name, data: 1, ..Cure::default() }
    }

    /// Logits `[n, 10]` of pictures `[n, 784]`.
    fn net<'g>(&self, pictures: Tensor<'g>) -> Tensor<'g> {
        let mut x = pictures.layer("noise", GaussianNoise::new(self.noise)).dropout("drop", 0.4 * self.drop);
        for layer in ["first", "second"] {
            x = x.layer(
                layer,
                Dense::new(WIDTH).init(Init::HeNormal).drop_connect(self.drop_connect).weight_noise(self.weight_noise),
            );
            if self.batch_norm {
                x = x.layer(&format!("norm_{layer}"), BatchNorm::new());
            }
            x = x.relu().dropout(&format!("drop_{layer}"), self.drop);
        }
        x.dense("out", 10)
    }
}

fn cures() -> Vec<Cure> {
    vec![
        Cure::new("nothing"),
        Cure { recipe: Recipe::new().l2(2e-3), ..Cure::new("L2") },
        Cure { recipe: Recipe::new().l1(2e-4), ..Cure::new("L1") },
        Cure { drop: 0.5, ..Cure::new("dropout") },
        Cure { drop: 0.5, recipe: Recipe::new().max_norm(0.8), ..Cure::new("dropout, max-norm") },
        Cure { drop_connect: 0.5, ..Cure::new("DropConnect") },
        Cure { noise: 0.3, ..Cure::new("noise on pictures") },
        Cure { weight_noise: 0.1, ..Cure::new("noise on weights") },
        Cure { recipe: Recipe::new().gradient_noise(0.005), ..Cure::new("noise on gradients") },
        Cure { batch_norm: true, ..Cure::new("batch norm") },
        Cure { recipe: Recipe::new().average(0.99), ..Cure::new("average of weights") },
        Cure { recipe: Recipe::new().polyak(), ..Cure::new("average, Polyak's") },
        Cure { data: 8, ..Cure::new("8 times the data") },
    ]
}

/// Error and loss on the test set along the training, and the share of training pictures that are wrong at the end.
struct Curve {
    test_error: Vec<(f64, f64)>,
    test_loss: Vec<(f64, f64)>,
    train_error: f64,
}

/// Error (in percent) and mean loss of a program on a dataset; its batches have the program's size.
fn evaluate(
    session: &mut Session,
    program: ProgramId,
    set: &Dataset<i64>,
    size: usize,
) -> Result<(f64, f64), Box<dyn Error>> {
    let (mut loss, mut correct, mut n) = (0.0, 0.0, 0.0);
    for (x, y) in set.batches(size).last(LastBatch::Drop) {
        let results = session.run(program, [("x", (&x).into()), ("y", (&y).into())])?;
        loss += results.scalar("loss")?;
        correct += results.scalar("correct")?;
        n += size as f64;
    }
    Ok((100.0 * (1.0 - correct / n), loss * size as f64 / n))
}

fn train(
    cure: &Cure,
    train: &Dataset<i64>,
    test: &Dataset<i64>,
    steps: usize,
    n_threads: usize,
) -> Result<Curve, Box<dyn Error>> {
    let averaged = cure.name.starts_with("average");
    let program = |n: usize, mode: Mode| {
        build(|g| {
            g.set_mode(mode);
            let (x, y) = (g.input("x", F32, [n, 784]), g.input("y", I64, [n]));
            let logits =
                if averaged && mode == Mode::Evaluate { g.params_from("average", || cure.net(x)) } else { cure.net(x) };
            let loss = logits.cross_entropy(y).mean();
            g.output("loss", loss);
            g.output("correct", logits.n_correct(y));
            if mode == Mode::Train {
                g.minimize(loss, Adam::new(1e-3).with(cure.recipe.clone()));
            }
        })
    };
    let compile = |n, mode| -> Result<_, Box<dyn Error>> { Ok(Compiler::new().compile(&program(n, mode)?)?) };
    let runtime = Runtime::new(Threads::Exactly(n_threads));
    let mut session = Session::new(&runtime, compile(BATCH, Mode::Train)?, Seed(1))?;
    let large = session.load(compile(1000, Mode::Evaluate)?)?;
    let small = session.load(compile(BATCH, Mode::Evaluate)?)?;

    let mut curve = Curve { test_error: Vec::new(), test_loss: Vec::new(), train_error: f64::NAN };
    let epochs = (0..).flat_map(|epoch| train.shuffled_batches(BATCH, 1).last(LastBatch::Drop).epoch(epoch));
    for (step, (x, y)) in epochs.take(steps).enumerate() {
        session.step(inputs![x, y])?;
        if (step + 1) % (steps / 24).max(1) == 0 {
            let (error, loss) = evaluate(&mut session, large, test, 1000)?;
            curve.test_error.push((step as f64 + 1.0, error));
            curve.test_loss.push((step as f64 + 1.0, loss));
        }
    }
    curve.train_error = evaluate(&mut session, small, train, BATCH)?.0;
    Ok(curve)
}

fn plain<'g>(_: &'g GraphBuilder, pictures: Tensor<'g>) -> Tensor<'g> {
    Cure::new("early stopping").net(pictures)
}

/// A fifth of the pictures is held out. When its loss has not fallen for five epochs, training ends, and the weights of the best
/// epoch are put back. Errors in percent on the training part and on the test set, test loss, and the step of those weights.
fn stop_early(runtime: &Runtime, train: &Dataset, test: &Dataset, steps: usize) -> Result<[f64; 4], Box<dyn Error>> {
    let (part, held_out) = train.split(0.2, Order::Stratified, 1)?;
    let epochs = steps.div_ceil(part.len().div_ceil(BATCH));
    let options = Options { epochs, batch_size: BATCH, eval_batch_size: 1000, progress: false, ..Options::default() };
    let mut trainer = Trainer::new(runtime, plain, CrossEntropy, Adam::new(1e-3), options);
    let history = trainer.fit_with(&part, Some(&held_out), EarlyStopping::new(5))?;
    let loss = |epoch: &cotangent::train::Epoch| epoch.validation_loss.unwrap_or(f64::INFINITY);
    let best = history.iter().min_by(|a, b| loss(a).total_cmp(&loss(b))).ok_or("there was an epoch")?;
    let error = |accuracy: Option<f64>| 100.0 * (1.0 - accuracy.unwrap_or_default());
    let (on_part, on_test) = (trainer.evaluate(&part)?, trainer.evaluate(test)?);
    Ok([error(on_part.accuracy), error(on_test.accuracy), on_test.loss, best.step as f64])
}

fn main() -> Result<(), Box<dyn Error>> {
    let known = [
        ("pictures", "pictures to train on, a multiple of 50 (500)"),
        ("steps", "steps of training for each net (1000)"),
        ("threads", "number of threads (2)"),
        ("out", "folder of the picture (target/overfitting)"),
    ];
    let flags = flags::Flags::parse("Overfitting and its cures", &known);
    let (n, steps) = (flags.get("pictures", 500usize)?, flags.get("steps", 1000usize)?);
    let n_threads = flags.get("threads", 2)?;
    let out = flags.get("out", PathBuf::from("target/overfitting"))?;
    let mnist = Mnist::find()?;
    let test = mnist.test().dataset().head(N_TEST);

    println!("784-{WIDTH}-{WIDTH}-10 on {n} digits, Adam, {steps} steps of {BATCH}; errors in percent:\n");
    println!("{:<20}{:>10}{:>10}{:>12}{:>12}{:>14}", "", "training", "test", "least test", "at step", "test loss");
    let mut errors = Plot::new("Error on digits never seen").x_label("step").y_label("test error, %");
    let mut losses = Plot::new("Loss on digits never seen").x_label("step").y_label("test loss").log_y();
    for cure in cures() {
        let curve = train(&cure, &mnist.train().dataset().head(n * cure.data), &test, steps, n_threads)?;
        let last = curve.test_error.last().map_or(f64::NAN, |p| p.1);
        let loss = curve.test_loss.last().map_or(f64::NAN, |p| p.1);
        // The best that stopping early could have had, told by the test set itself.
        let (at, least) = curve.test_error.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or_default();
        println!("{:<20}{:>10.2}{last:>10.2}{least:>12.2}{at:>12.0}{loss:>14.3}", cure.name, curve.train_error);
        if ["nothing", "L2", "dropout", "batch norm", "average of weights", "8 times the data"].contains(&cure.name) {
            errors = errors.line(cure.name, curve.test_error);
            losses = losses.line(cure.name, curve.test_loss);
        }
    }
    let runtime = Runtime::new(Threads::Exactly(n_threads));
    let [training, error, loss, at] = stop_early(&runtime, &mnist.train().dataset().head(n), &test, steps)?;
    println!("{:<20}{training:>10.2}{error:>10.2}{error:>12.2}{at:>12.0}{loss:>14.3}", "early stopping");
    errors = errors.dots("early stopping", [(at, error)]);
    losses = losses.dots("early stopping", [(at, loss)]);
    let path = out.join("overfitting.svg");
    save_grid(&path, &format!("A net of {WIDTH} + {WIDTH} ReLUs learns {n} digits by heart"), 2, &[errors, losses])?;
    println!("\nwrote {}", path.display());
    Ok(())
}

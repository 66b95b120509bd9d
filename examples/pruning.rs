//! Magnitude pruning (Han et al. 2015): nine of ten weights of a net that reads digits are removed, and hardly missed.
//!
//! ```text
//! cargo run --release --example pruning
//! ```
//!
//! Three programs work on one store: the train step, whose optimiser multiplies weights by masks; evaluation; and the
//! program that zeroes the smallest weights and their masks. The share of zeros is raised in steps, with some training after
//! each. Beside it: the same shares cut from the trained net at once, without training after.

mod flags;

use std::error::Error;
use std::path::PathBuf;

use cotangent::data::{Dataset, Mnist};
use cotangent::prelude::*;
use cotangent::train::plot::{Plot, save_grid};

const BATCH: usize = 128;
const EVALUATED: usize = 1000;
const SHARES: [f32; 7] = [0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98];
const WEIGHTS: [&str; 3] = ["first.weight", "second.weight", "out.weight"];

fn net(pictures: Tensor<'_>) -> Tensor<'_> {
    pictures.dense("first", 300).relu().dense("second", 100).relu().dense("out", 10)
}

/// The programs on one store, and the pictures.
struct Lab {
    session: Session,
    evaluate: ProgramId,
    prune: ProgramId,
    train: Dataset,
    test: Dataset,
    epoch: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let known = [
        ("epochs", "epochs of training before anything is pruned (6)"),
        ("tune", "epochs of training after each cut (2)"),
        ("threads", "number of threads (2)"),
        ("out", "folder of the picture (target/pruning)"),
    ];
    let flags = flags::Flags::parse("A net with a tenth of its weights", &known);
    let (epochs, tune) = (flags.get("epochs", 6u64)?, flags.get("tune", 2u64)?);
    let out = flags.get("out", PathBuf::from("target/pruning"))?;
    let mut lab = Lab::new(flags.get("threads", 2)?)?;

    lab.train(epochs)?;
    let whole = lab.error()?;
    println!("the whole net: {whole:.2} % test error\n\nzeros    cut at once    trained after each cut");
    let histogram = lab.histogram()?;

    // Cut at once: everything is put back afterwards.
    let names: Vec<String> = lab.session.store().iter().map(|(name, _)| name.to_owned()).collect();
    let values = names.iter().map(|name| lab.session.store().get(name)).collect::<Result<Vec<_>, _>>()?;
    let mut at_once = Vec::new();
    for share in SHARES {
        lab.prune(share)?;
        at_once.push((100.0 * f64::from(share), lab.error()?));
        for (name, value) in names.iter().zip(&values) {
            lab.session.store_mut().set(name, value.clone())?;
        }
    }

    let mut tuned = Vec::new();
    let mut histogram_after = Vec::new();
    for (share, cut) in SHARES.into_iter().zip(&at_once) {
        let kept = lab.prune(share)?;
        lab.train(tune)?;
        let error = lab.error()?;
        println!("{:4.0} %   {:8.2} %    {error:8.2} %   weights left: {kept:?}", 100.0 * share, cut.1);
        tuned.push((100.0 * f64::from(share), error));
        if share == 0.9 {
            histogram_after = lab.histogram()?;
            println!("         at 90 %: {:+.2} points against the whole net", error - whole);
        }
    }

    let histogram_after = histogram_after.into_iter().filter(|(_, n)| *n > 0.0);
    let plots = [
        Plot::new("What pruning costs")
            .x_label("weights that are zero, %")
            .y_label("test error, %")
            .log_y()
            .dotted_line("cut at once", at_once)
            .dotted_line("trained after each cut", tuned)
            .level("the whole net", whole),
        Plot::new("The first layer's weights (without the zeros)")
            .x_label("weight")
            .y_label("number")
            .line("the whole net", histogram)
            .line("a tenth left", histogram_after),
    ];
    let path = out.join("pruning.svg");
    save_grid(&path, "Magnitude pruning", 2, &plots)?;
    println!("wrote {}", path.display());
    Ok(())
}

impl Lab {
    fn new(n_threads: usize) -> Result<Lab, Box<dyn Error>> {
        let training = build(|g| {
            let (x, y) = (g.input("x", F32, [BATCH, 784]), g.input("y", I64, [BATCH]));
            let loss = net(x).cross_entropy(y).mean();
            g.output("loss", loss);
            g.minimize(loss, Adam::new(1e-3).with(Recipe::new().masked()));
        })?;
        let evaluation = build(|g| {
            g.set_training(false);
            let (x, y) = (g.input("x", F32, [EVALUATED, 784]), g.input("y", I64, [EVALUATED]));
            g.output("correct", net(x).n_correct(y));
        })?;
        let compiler = Compiler::new();
        let runtime = Runtime::new(Threads::Exactly(n_threads));
        let mut session = Session::new(&runtime, compiler.compile(&training)?, Seed(1))?;
        let evaluate = session.load(compiler.compile(&evaluation)?)?;
        let prune = session.load(compiler.compile(&pruning(&training)?)?)?;
        let (train, test) = Mnist::find()?.into_parts();
        let train = train.head(30_000).into_dataset();
        Ok(Lab { session, evaluate, prune, train, test: test.into_dataset(), epoch: 0 })
    }

    fn train(&mut self, epochs: u64) -> Result<(), Diag> {
        for _ in 0..epochs {
            let batches = self.train.shuffled_batches(BATCH, 1).epoch(self.epoch);
            for (x, y) in batches.filter(|(_, y)| y.len() == BATCH) {
                self.session.step(inputs![x, y])?;
            }
            self.epoch += 1;
        }
        Ok(())
    }

    /// The share of the test set that is read wrongly, in percent.
    fn error(&mut self) -> Result<f64, Diag> {
        let mut correct = 0.0;
        for (x, y) in self.test.batches(EVALUATED) {
            let inputs = [("x", (&x).into()), ("y", (&y).into())];
            correct += self.session.run(self.evaluate, inputs)?.scalar("correct")?;
        }
        Ok(100.0 * (1.0 - correct / self.test.len() as f64))
    }

    /// Zeroes the smallest weights until this share of each layer is zero; the number left in each.
    fn prune(&mut self, share: f32) -> Result<Vec<usize>, Diag> {
        let share = ndarray::arr0(share);
        let kept = self.session.run(self.prune, [("share", (&share).into())])?;
        WEIGHTS.iter().map(|name| Ok(kept.scalar(&format!("kept.{name}"))? as usize)).collect()
    }

    /// Numbers of nonzero weights of the first layer in bins.
    fn histogram(&self) -> Result<Vec<(f64, f64)>, Diag> {
        const BINS: usize = 80;
        const RANGE: f64 = 0.3;
        let mut bins = [0.0; BINS];
        for w in self.session.store().get(WEIGHTS[0])?.to_f64().into_iter().filter(|w| *w != 0.0) {
            let at = ((w / RANGE + 1.0) / 2.0 * BINS as f64) as usize;
            if w > -RANGE && at < BINS {
                bins[at] += 1.0;
            }
        }
        let middle = |i: usize| RANGE * (2.0 * (i as f64 + 0.5) / BINS as f64 - 1.0);
        Ok(bins.into_iter().enumerate().map(|(i, n)| (middle(i), n)).collect())
    }
}

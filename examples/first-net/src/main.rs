use std::error::Error;

use cotangent::data::Dataset;
use cotangent::ndarray::{Array1, Array2, array};
use cotangent::prelude::*;
use cotangent::train::{Checkpoint, CrossEntropy, EarlyStopping, Load, Options, Trainer};

/// Points of the square, and whether they are inside of a circle. Any rows of numbers with a class each will do.
fn points(which: std::ops::Range<usize>) -> Result<Dataset, Box<dyn Error>> {
    let place = |i: usize| [0.754_877_7, 0.569_840_3].map(|step: f32| (i as f32 * step).fract() * 2.0 - 1.0);
    let features = Array2::from_shape_fn((which.len(), 2), |(row, column)| place(which.start + row)[column]);
    let labels: Array1<i64> = features.rows().into_iter().map(|p| i64::from(p[0] * p[0] + p[1] * p[1] < 0.6)).collect();
    Ok(Dataset::new(features.into_dyn(), labels)?)
}

/// Two layers; outputs are a score for each class.
fn net<'g>(_: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
    x.dense("hidden", 32).relu().dense("out", 2)
}

fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::temp_dir().join(format!("first-net-{}.safetensors", std::process::id()));

    // Train, keep the weights of the best epoch, and save them.
    let runtime = Runtime::new(Threads::All);
    let (train, test) = (points(0..2000)?, points(2000..2500)?);
    let options = Options { epochs: 60, batch_size: 32, ..Options::default() };
    let mut trainer = Trainer::new(&runtime, net, CrossEntropy, Adam::new(0.01), options);
    let history = trainer.fit_with(&train, Some(&test), EarlyStopping::new(10))?;
    history.last().into_iter().for_each(|epoch| println!("{epoch}"));
    trainer.checkpoint()?.write(&file)?;

    // Elsewhere: the model alone, for one point at a time.
    let graph = build(|g| {
        g.set_training(false);
        g.output("probabilities", net(g, g.input("x", F32, [1, 2])).softmax(-1));
    })?;
    let mut session = Session::new(&runtime, Compiler::new().compile(&graph)?, Seed(0))?;
    Checkpoint::open(&file)?.load(Load::Complete, session.store_mut())?;
    for x in [array![[0.1f32, 0.2]], array![[0.9f32, -0.8]]] {
        let out = session.step(inputs![x])?;
        println!("{x} is inside with probability {:.3}", out.view::<f32>("probabilities")?[[0, 1]]);
    }
    Ok(())
}

#[test]
fn the_readme_leads_from_nothing_to_a_trained_net() {
    main().unwrap();
    let file = std::env::temp_dir().join(format!("first-net-{}.safetensors", std::process::id()));
    let checkpoint = Checkpoint::read(&file).unwrap();
    std::fs::remove_file(file).unwrap();
    assert!(checkpoint.step > 0 && checkpoint.tensors.contains_key("hidden.weight"));
}

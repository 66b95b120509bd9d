//! Distillation (Hinton et al. 2015): a narrow deep net learns more from a wide shallow one than from the labels.
//!
//! ```text
//! cargo run --release --example distillation
//! ```
//!
//! The teacher has 800 hidden neurons in one layer and has learned from all pictures. The student has four layers of 32, a
//! twentieth of the parameters, and sees 2,000 pictures: alone, with their labels; taught, with what the teacher says of them
//! at several temperatures as well. At a high one it also hears which wrong digits a picture resembles. A last student is
//! taught without a single picture of a 3, and knows some of them all the same, from what the teacher finds in the others.
//! Each figure is the mean of several runs.

mod flags;

use std::error::Error;
use std::path::PathBuf;

use cotangent::data::{Dataset, LastBatch, Mnist};
use cotangent::prelude::*;
use cotangent::train::metrics::{Confusion, accuracy};
use cotangent::train::plot::{Plot, save_grid};
use cotangent::train::{CrossEntropy, Options, Trainer};
use ndarray::{ArrayD, Axis};

const BATCH: usize = 100;
const TEACHER_WIDTH: usize = 800;
const WIDTH: usize = 32;
const DEPTH: usize = 4;
const MISSING: i64 = 3;
const TEMPERATURES: [f64; 3] = [1.0, 2.0, 5.0];

fn teacher() -> Sequential {
    Sequential::new()
        .add("drop", Dropout::new(0.2))
        .add("hidden", Dense::new(TEACHER_WIDTH).init(Init::HeNormal))
        .then(|x| x.relu())
        .add("drop_hidden", Dropout::new(0.5))
        .add("out", Dense::new(10))
}

fn student() -> Sequential {
    let hidden =
        |net: Sequential, k| net.add(&format!("hidden{k}"), Dense::new(WIDTH).init(Init::HeNormal)).then(|x| x.relu());
    (0..DEPTH).fold(Sequential::new(), hidden).add("out", Dense::new(10))
}

/// What a student learns from.
#[derive(Clone, Copy)]
enum Lesson {
    Labels,
    /// The teacher's logits at a temperature, and the labels too.
    Teacher(f64),
}

fn main() -> Result<(), Box<dyn Error>> {
    let known = [
        ("pictures", "pictures that a student sees (2000)"),
        ("teaching", "epochs of the teacher (3)"),
        ("epochs", "epochs of each student (40)"),
        ("runs", "students of each kind, from other weights (3)"),
        ("threads", "number of threads (2)"),
        ("out", "folder of the picture (target/distillation)"),
    ];
    let flags = flags::Flags::parse("A narrow deep net, taught by a wide shallow one", &known);
    let (n, teaching) = (flags.get("pictures", 2000usize)?, flags.get("teaching", 3usize)?);
    let (epochs, runs) = (flags.get("epochs", 40usize)?.max(1), flags.get("runs", 3u64)?.max(1));
    let out = flags.get("out", PathBuf::from("target/distillation"))?;
    let runtime = Runtime::new(Threads::Exactly(flags.get("threads", 2)?));
    let (train, test) = Mnist::find()?.into_parts();
    let (everything, test) = (train.into_dataset(), test.into_dataset());
    let train = everything.head(n);

    for (name, net) in [("teacher", teacher()), ("student", student())] {
        let graph = build(|g| {
            g.set_mode(Mode::Evaluate);
            g.output("logits", net.forward(g.input("pictures", F32, [BATCH, 784])));
        })?;
        println!("the {name}:\n{}", summary(&graph));
    }

    let net = teacher();
    let options = Options { epochs: teaching, batch_size: BATCH, eval_batch_size: 1000, ..Options::default() };
    let schedule = Schedule::cosine((teaching * everything.len().div_ceil(BATCH)) as u64);
    let optimizer = Adam::new(1e-3).with(Recipe::new().schedule(schedule));
    let mut trainer = Trainer::new(&runtime, |_: &_, x| net.forward(x), CrossEntropy, optimizer, options);
    trainer.fit(&everything, None)?;
    let teachers = 100.0 * (1.0 - trainer.evaluate(&test)?.accuracy.unwrap_or_default());
    // It says the same in every epoch, so it is asked once.
    let said = trainer.predict(train.features())?;

    let missing: Vec<usize> = (0..train.len()).filter(|&place| train.labels()[place] != MISSING).collect();
    let (without, said_without) = (train.select(&missing)?, said.select(Axis(0), &missing));
    let mut lessons = vec![("alone".to_owned(), &train, &said, Lesson::Labels)];
    for t in TEMPERATURES {
        lessons.push((format!("taught, temperature {t}"), &train, &said, Lesson::Teacher(t)));
    }
    lessons.push((format!("alone, without any {MISSING}"), &without, &said_without, Lesson::Labels));
    let hottest = Lesson::Teacher(TEMPERATURES[TEMPERATURES.len() - 1]);
    lessons.push((format!("taught, without any {MISSING}"), &without, &said_without, hottest));

    println!("\ntest errors in percent, means of {runs} runs of {epochs} epochs:\n");
    println!("{:<28}{:>8}{:>14}", "", "all", format!("of every {MISSING}"));
    println!("{:<28}{teachers:>8.2}", "the teacher");
    let mut curves = Plot::new(format!("{} pictures", train.len())).x_label("epoch").y_label("test error, %").log_y();
    let mut digits =
        Plot::new(format!("Digit by digit, some never shown a {MISSING}")).x_label("digit").y_label("test error, %");
    digits = digits.x_range(-0.5, 9.5);
    for (name, set, said, lesson) in lessons {
        let all = (0..runs).map(|run| learn(&runtime, set, said, &test, lesson, epochs, run));
        let all = all.collect::<Result<Vec<Student>, _>>()?;
        let mean = |of: &dyn Fn(&Student) -> f64| all.iter().map(of).sum::<f64>() / runs as f64;
        let curve: Vec<f64> = (0..epochs).map(|epoch| mean(&|student| student.errors[epoch])).collect();
        let of_digit = |digit: usize| mean(&|student| student.of_digits[digit]);
        println!("{name:<28}{:>8.2}{:>14.2}", curve[epochs - 1], of_digit(MISSING as usize));
        let is_all = set.len() == train.len();
        if is_all {
            curves = curves.line(&name, curve.into_iter().enumerate().map(|(k, error)| (k as f64 + 1.0, error)));
        }
        if !is_all || matches!(lesson, Lesson::Labels) {
            digits = digits.dots(&name, (0..10).map(|digit| (digit as f64, of_digit(digit))));
        }
    }
    let path = out.join("distillation.svg");
    let curves = curves.level("the teacher", teachers);
    save_grid(
        &path,
        &format!("Students of {DEPTH} layers of {WIDTH}, a teacher of {TEACHER_WIDTH}"),
        2,
        &[curves, digits],
    )?;
    println!("\nwrote {}", path.display());
    Ok(())
}

/// Errors in percent: after each epoch, and on each digit in the end.
struct Student {
    errors: Vec<f64>,
    of_digits: Vec<f64>,
}

fn learn(
    runtime: &Runtime,
    set: &Dataset,
    said: &ArrayD<f32>,
    test: &Dataset,
    lesson: Lesson,
    epochs: usize,
    run: u64,
) -> Result<Student, Box<dyn Error>> {
    let net = student();
    let steps = epochs * (set.len() / BATCH);
    let step = build(|g| {
        let logits = net.forward(g.input("pictures", F32, [BATCH, 784]));
        let by_labels = logits.cross_entropy(g.input("labels", I64, [BATCH])).mean();
        let said = g.input("said", F32, [BATCH, 10]);
        let loss = match lesson {
            Lesson::Labels => by_labels,
            Lesson::Teacher(t) => logits.mean_distillation(said, t) + by_labels * 0.3,
        };
        g.minimize(loss, Adam::new(2e-3).with(Recipe::new().schedule(Schedule::cosine(steps as u64))));
    })?;
    let evaluation = build(|g| {
        g.set_mode(Mode::Evaluate);
        g.output("logits", net.forward(g.input("pictures", F32, [test.len(), 784])));
    })?;
    let mut session = Session::new(runtime, Compiler::new().compile(&step)?, Seed(run))?;
    let evaluation = session.load(Compiler::new().compile(&evaluation)?)?;
    // Places go through the shuffle in the place of labels, so that what the teacher said comes along.
    let places = Dataset::new(set.features().to_owned(), (0..set.len() as i64).collect())?;
    let (mut errors, mut confusion) = (Vec::new(), None);
    for epoch in 0..epochs as u64 {
        for (pictures, places) in places.shuffled_batches(BATCH, run).last(LastBatch::Drop).epoch(epoch) {
            let places: Vec<usize> = places.iter().map(|&place| place as usize).collect();
            let (labels, said) = (set.labels().select(Axis(0), &places), said.select(Axis(0), &places));
            session.step(inputs![pictures, labels, said])?;
        }
        let features = test.features();
        let results = session.run(evaluation, [("pictures", features.into())])?;
        let logits = results.view::<f32>("logits")?;
        errors.push(100.0 * (1.0 - accuracy(logits.view(), test.labels())?));
        confusion = Some(Confusion::new(logits.view(), test.labels())?);
    }
    let of_digits = confusion.ok_or("there was an epoch")?.recall().mapv(|recall| 100.0 * (1.0 - recall));
    Ok(Student { errors, of_digits: of_digits.to_vec() })
}

//! An LSTM that learns to write, letter by letter.
//!
//! ```text
//! cargo run --release --example char_lstm -- --file some.txt --steps 3000
//! ```
//!
//! Training goes through the text in rows side by side, a piece of each at a time, and hands the states at the end of a piece to the
//! next one (truncated backpropagation through time). A second program on the same weights writes: it draws the next letter from
//! what the network expects, by the largest of `logits / temperature + noise` with Gumbel noise, which are draws from their softmax.
//! Letter and states of one step are states of the program, so a step needs no input.

mod flags;

use std::collections::BTreeSet;
use std::error::Error;
use std::path::PathBuf;

use cotangent::nn::Given;
use cotangent::prelude::*;
use cotangent::train::plot::{Plot, save_grid};
use ndarray::Array2;

/// Rows of the text that are read side by side.
const ROWS: usize = 32;
/// Letters of a piece.
const PIECE: usize = 64;
/// Letters of a sample.
const SAMPLE: usize = 300;

/// Logits of the next letter, `[rows · time, letters]`, for letters `[rows, time]`, from the states of the program and back to them.
fn next_letters<'g>(g: &'g GraphBuilder, x: Tensor<'g>, n_letters: usize, cell: Recurrent, width: usize) -> Tensor<'g> {
    let (rows, time) = (x.dim(0), x.dim(1));
    let states = ["h", "c"].map(|name| g.state(&format!("{name}.{rows}"), F32, [rows, width], Init::ZEROS));
    let letters = x.embedding("letters", n_letters, width);
    let made = cell.run("lstm", letters, &Given::new().states(&states));
    for (state, last) in states.into_iter().zip(made.states) {
        g.update(state, last);
    }
    made.outputs.reshape([rows * time, width]).dense("out", n_letters)
}

fn main() -> Result<(), Box<dyn Error>> {
    let known = [
        ("file", "the text to learn (the first 100 KB of tiny Shakespeare)"),
        ("steps", "steps of training (1500)"),
        ("width", "numbers of a letter and of a state (128)"),
        ("dropout", "probability that a number of the state is dropped, in hundredths (0)"),
        ("temperature", "how freely samples are drawn, in hundredths (80)"),
        ("threads", "number of threads (2)"),
        ("out", "folder of the picture (target/char_lstm)"),
    ];
    let flags = flags::Flags::parse("An LSTM that learns to write", &known);
    let (steps, width) = (flags.get("steps", 1500usize)?, flags.get("width", 128usize)?);
    let cell = Recurrent::lstm(width).recurrent_dropout(flags.get("dropout", 0.0f64)? / 100.0);
    let temperature = flags.get("temperature", 80.0f64)? / 100.0;
    let bundled = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/text/tinyshakespeare.txt");
    let file = flags.get("file", PathBuf::from(bundled))?;
    let out = flags.get("out", PathBuf::from("target/char_lstm"))?;

    let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let letters: Vec<char> = text.chars().collect::<BTreeSet<_>>().into_iter().collect();
    let numbers: Vec<i64> = text.chars().filter_map(|c| Some(letters.binary_search(&c).ok()? as i64)).collect();
    let row = numbers.len().saturating_sub(1) / ROWS;
    if row < PIECE || letters.len() < 2 || temperature.is_nan() || temperature <= 0.0 || width == 0 {
        let required =
            format!("{} letters or more, of two kinds at least, and a temperature above 0", ROWS * PIECE + 1);
        return Err(format!("{}: required {required}, got {} and {temperature}", file.display(), numbers.len()).into());
    }

    let learn = build(|g| {
        let (x, y) = (g.input("x", I64, [ROWS, PIECE]), g.input("y", I64, [ROWS, PIECE]));
        let logits = next_letters(g, x, letters.len(), cell, width);
        let loss = logits.cross_entropy(y.reshape([ROWS * PIECE])).mean();
        g.output("loss", loss);
        g.minimize(loss, Adam::new(2e-3).with(Recipe::new().clip_norm(1.0)));
    })?;
    let write = build(|g| {
        g.set_training(false);
        let letter = g.state("letter", I64, [1, 1], Init::ZEROS);
        let logits = next_letters(g, letter, letters.len(), cell, width) / temperature;
        let noise = -(-(g.uniform("draw", F32, [1, letters.len()]) + 1e-9).log()).log();
        let next = (logits + noise).argmax(1).cast(I64).reshape([1, 1]);
        g.output("next", next);
        g.update(letter, next);
    })?;
    let runtime = Runtime::new(Threads::Exactly(flags.get("threads", 2)?));
    let mut session = Session::new(&runtime, Compiler::new().compile(&learn)?, Seed(1))?;
    let writer = session.load(Compiler::new().compile(&write)?)?;

    let n_pieces = (row - 1) / PIECE;
    let piece = |at: usize, ahead: usize| {
        Array2::from_shape_fn((ROWS, PIECE), |(r, t)| numbers[r * row + at * PIECE + t + ahead])
    };
    let mut curve = Vec::new();
    let (mut sum, mut n) = (0.0, 0.0);
    for step in 0..steps {
        let at = step % n_pieces;
        if at == 0 {
            // The beginning of the rows: nothing has been read.
            for name in ["h", "c"] {
                session.store_mut().set(&format!("{name}.{ROWS}"), Array2::<f32>::zeros((ROWS, width)))?;
            }
        }
        let (x, y) = (piece(at, 0), piece(at, 1));
        sum += session.step(inputs![x, y])?.scalar("loss")?;
        n += 1.0;
        if (step + 1).is_multiple_of(steps.div_ceil(10).max(1)) || step + 1 == steps {
            println!("step {}: loss {:.3} a letter, perplexity {:.2}", step + 1, sum / n, (sum / n).exp());
            curve.push(((step + 1) as f64, sum / n));
            (sum, n) = (0.0, 0.0);
            let mut sample = String::new();
            for _ in 0..SAMPLE {
                let next = session.run(writer, ())?.tensor("next")?.to_f64()[0];
                sample.push(letters[next as usize]);
            }
            println!("{sample}\n");
        }
    }

    let path = out.join("char_lstm.svg");
    let plot = Plot::new("An LSTM on letters").x_label("step").y_label("cross-entropy of a letter");
    let guess = (letters.len() as f64).ln();
    save_grid(
        &path,
        "An LSTM that learns to write",
        1,
        &[plot.dotted_line("training", curve).level("guessing", guess)],
    )?;
    println!("wrote {}", path.display());
    Ok(())
}

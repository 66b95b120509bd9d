//! A small GPT that learns to write, letter by letter.
//!
//! ```text
//! cargo run --release --example char_gpt -- --file some.txt --steps 2000
//! ```
//!
//! The settings are those of nanoGPT (Karpathy 2022) for a CPU: 4 blocks of width 128 with 4 heads over 64 letters, no biases, the head
//! tied to the table of letters, AdamW with a rate that grows over 100 steps and falls along a cosine to a tenth. The first nine tenths
//! of the text are learned, the last tenth is for validation.
//!
//! A second program on the same weights writes. It reads one letter a step: keys and values of the letters before are states, to which each
//! step adds its own where they stand, so a step costs the same wherever it is. It draws the next letter from what the network
//! expects, cut to the likeliest few (top-k) and to those that make up a share (top-p), by the largest of `logits / temperature + noise`
//! with Gumbel noise. When all places are taken, the last half of the text is read again from the start.

mod flags;

use std::collections::BTreeSet;
use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use cotangent::nn::Around;
use cotangent::prelude::*;
use cotangent::scalar::philox;
use cotangent::train::checkpoint::{Checkpoint, Load};
use cotangent::train::plot::{Plot, save_grid};
use ndarray::{Array2, arr0, arr2};

/// Letters that the network sees.
const BLOCK: usize = 64;
/// Pieces of a batch.
const BATCH: usize = 12;
/// Letters of a sample.
const SAMPLE: usize = 500;

/// The network's extents.
#[derive(Clone, Copy)]
struct Gpt {
    n_letters: usize,
    width: usize,
    blocks: usize,
    heads: usize,
}

impl Gpt {
    /// Logits of the next letter, `[rows · time, letters]`, for letters `[rows, time]`; with a position, of a sequence that goes on there.
    fn next_letters<'g>(self, x: Tensor<'g>, position: Option<Tensor<'g>>) -> Tensor<'g> {
        let start = Init::normal(0.0, 0.02);
        let residual = Init::normal(0.0, 0.02 / (2.0 * self.blocks as f64).sqrt());
        let attention = MultiHeadAttention::new(self.heads).causal().without_bias().init(start).out_init(residual);
        let around = position.map_or(Around::new(), |at| Around::new().cache(BLOCK, at));
        let letters = x.layer("letters", Embedding::new(self.n_letters, self.width).init(start));
        let mut h = Positions::learned(BLOCK).init(start).run("positions", letters, position);
        for block in 0..self.blocks {
            h = TransformerBlock::new(attention).run(&format!("block.{block}"), h, &around);
        }
        let h = h.layer("norm", LayerNorm::new().without_bias()).reshape([x.shape().n_elements(), self.width]);
        h.matmul_with(x.builder().shared("letters.weight"), false, true)
    }
}

/// How the next letter is drawn.
#[derive(Clone, Copy)]
struct Draw {
    temperature: f64,
    top_k: usize,
    top_p: f64,
}

impl Draw {
    /// A letter `[1]` from logits `[1, letters]`.
    fn letter<'g>(self, logits: Tensor<'g>) -> Tensor<'g> {
        let (g, n) = (logits.builder(), logits.dim(1));
        let mut logits = logits / self.temperature;
        let never = logits.constant_like(f64::NEG_INFINITY);
        let from = |least: Tensor<'g>, logits: Tensor<'g>| logits.ge(least).select(logits, never);
        if self.top_k < n {
            logits = from(logits.top_k(self.top_k, 1).0.min_keep(1), logits);
        }
        if self.top_p < 1.0 {
            // A letter stays if the likelier ones do not make up the share already.
            let sorted = logits.sort_with(1, true);
            let likelier = sorted.softmax(1).cumsum_with(1, false, true);
            let kept = likelier.lt(self.top_p).select(sorted, sorted.constant_like(f64::INFINITY));
            logits = from(kept.min_keep(1), logits);
        }
        let noise = -(-(g.uniform("draw", F32, [1, n]) + 1e-9).log()).log();
        (logits + noise).argmax(1).cast(I64)
    }
}

/// Cross-entropy of the letters that follow those of `x`, in nats a letter.
fn loss<'g>(g: &'g GraphBuilder, gpt: Gpt) -> Tensor<'g> {
    let (x, y) = (g.input("x", I64, [BATCH, BLOCK]), g.input("y", I64, [BATCH, BLOCK]));
    let loss = gpt.next_letters(x, None).cross_entropy(y.reshape([BATCH * BLOCK])).mean();
    g.output("loss", loss);
    loss
}

/// Writes `n` letters after a prompt.
fn written(session: &mut Session, writer: ProgramId, prompt: &[i64], n: usize) -> Result<Vec<i64>, Box<dyn Error>> {
    let mut text = prompt.to_vec();
    let (mut read, mut places) = (text.len().saturating_sub(BLOCK / 2), 0);
    session.store_mut().set("position", arr0(0i64))?;
    while text.len() < prompt.len() + n {
        if places == BLOCK {
            // All places are taken: the last letters are read again, from the first place on.
            (read, places) = (text.len() - BLOCK / 2, 0);
            session.store_mut().set("position", arr0(0i64))?;
        }
        session.store_mut().set("letter", arr2(&[[text[read]]]))?;
        let next = session.run(writer, ())?.tensor("next")?.to_f64()[0] as i64;
        (read, places) = (read + 1, places + 1);
        if read == text.len() {
            text.push(next);
        }
    }
    Ok(text.split_off(prompt.len()))
}

fn main() -> Result<(), Box<dyn Error>> {
    let known = [
        ("file", "the text to learn (the first 100 KB of tiny Shakespeare)"),
        ("steps", "steps of training (2000)"),
        ("blocks", "blocks (4)"),
        ("heads", "heads (4)"),
        ("width", "numbers of a letter (128)"),
        ("rate", "the learning rate, in millionths (1000)"),
        ("seed", "the seed of everything random (1)"),
        ("temperature", "how freely samples are drawn, in hundredths (80)"),
        ("top-k", "samples are drawn from the likeliest so many letters (all)"),
        ("top-p", "and from the likeliest that make up so many hundredths (100)"),
        ("prompt", "what samples go on from (a new line)"),
        ("resume", "goes on from the checkpoint in `out`"),
        ("threads", "number of threads (2)"),
        ("out", "folder of checkpoint and picture (target/char_gpt)"),
    ];
    let flags = flags::Flags::parse("A small GPT that learns to write", &known);
    let (steps, seed) = (flags.get("steps", 2000u32)?, flags.get("seed", 1u64)?);
    let bundled = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/text/tinyshakespeare.txt");
    let file = flags.get("file", PathBuf::from(bundled))?;
    let out = flags.get("out", PathBuf::from("target/char_gpt"))?;

    let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let letters: Vec<char> = text.chars().collect::<BTreeSet<_>>().into_iter().collect();
    let number = |c: char| letters.binary_search(&c).ok().map(|at| at as i64);
    let numbers: Vec<i64> = text.chars().filter_map(number).collect();
    let (train, validation) = numbers.split_at(numbers.len() / 10 * 9);
    let n_batches = validation.len().saturating_sub(1) / (BATCH * BLOCK);
    let draw = Draw {
        temperature: flags.get("temperature", 80.0f64)? / 100.0,
        top_k: flags.get("top-k", letters.len())?,
        top_p: flags.get("top-p", 100.0f64)? / 100.0,
    };
    if n_batches == 0 {
        let required = 10 * (BATCH * BLOCK + 1);
        return Err(
            format!("{}: required about {required} letters or more, got {}", file.display(), numbers.len()).into()
        );
    }
    if !(draw.temperature > 0.0 && draw.top_k > 0 && draw.top_p > 0.0) {
        let got = format!("{}, {} and {}", draw.temperature, draw.top_k, draw.top_p);
        return Err(format!("required a temperature, a top-k and a top-p above 0, got {got}").into());
    }
    let prompt: String = flags.get("prompt", "\n".to_owned())?;
    let prompt: Option<Vec<i64>> = prompt.chars().map(number).collect();
    let Some(prompt) = prompt.filter(|prompt| !prompt.is_empty()) else {
        return Err("required a prompt of letters that the text has, at least one".into());
    };

    let gpt = Gpt {
        n_letters: letters.len(),
        width: flags.get("width", 128)?,
        blocks: flags.get("blocks", 4)?,
        heads: flags.get("heads", 4)?,
    };
    let rate = flags.get("rate", 1000.0f64)? * 1e-6;
    let learn = build(|g| {
        let schedule = Schedule::cosine(u64::from(steps.saturating_sub(100).max(1))).floor(0.1).warm_up(100);
        let recipe = Recipe::new().clip_norm(1.0).schedule(schedule);
        g.minimize(loss(g, gpt), AdamW::new(rate, 0.1).beta2(0.99).with(recipe));
    })?;
    let judge = build(|g| {
        g.set_training(false);
        loss(g, gpt);
    })?;
    let write = build(|g| {
        g.set_training(false);
        let (letter, position) =
            (g.state("letter", I64, [1, 1], Init::ZEROS), g.state("position", I64, [], Init::ZEROS));
        g.output("next", draw.letter(gpt.next_letters(letter, Some(position))));
        g.update(position, position + 1);
    })?;
    let compiler = Compiler::new();
    let runtime = Runtime::new(Threads::Exactly(flags.get("threads", 2)?));
    let mut session = Session::new(&runtime, compiler.compile(&learn)?, Seed(seed))?;
    let [judge, writer] = [session.load(compiler.compile(&judge)?)?, session.load(compiler.compile(&write)?)?];

    let kept = out.join("char_gpt.safetensors");
    if flags.get("resume", false)? {
        Checkpoint::open(&kept)?.load(Load::Complete, session.store_mut())?;
        println!("going on from step {} of {}", session.store().step(), kept.display());
    }
    let pieces = |text: &[i64], starts: &[usize], ahead: usize| {
        Array2::from_shape_fn((BATCH, BLOCK), |(row, t)| text[starts[row] + t + ahead])
    };
    // The pieces of a step follow from its number alone, so a run that goes on has those it would have had.
    let random = |step: u32| -> Vec<usize> {
        let range = (train.len() - BLOCK) as u64;
        let place = |row: u64| (u64::from(philox::word(seed, philox::stream_of("pieces"), step, row)) * range) >> 32;
        (0..BATCH as u64).map(|row| place(row) as usize).collect()
    };
    let (mut training, mut validated) = (Vec::new(), Vec::new());
    let (mut sum, mut n, began) = (0.0, 0, Instant::now());
    while session.store().step() < steps {
        let step = session.store().step();
        let starts = random(step);
        let (x, y) = (pieces(train, &starts, 0), pieces(train, &starts, 1));
        sum += session.step(inputs![x, y])?.scalar("loss")?;
        n += 1;
        if (step + 1).is_multiple_of((steps / 8).max(1)) || step + 1 == steps {
            let mut total = 0.0;
            for batch in 0..n_batches {
                let starts: Vec<usize> = (0..BATCH).map(|row| (batch * BATCH + row) * BLOCK).collect();
                let (x, y) = (pieces(validation, &starts, 0), pieces(validation, &starts, 1));
                total += session.run(judge, inputs![x, y])?.scalar("loss")?;
            }
            let (of_training, of_validation) = (sum / f64::from(n), total / n_batches as f64);
            let seconds = began.elapsed().as_secs_f64();
            println!(
                "step {}: loss {of_training:.3} in training, {of_validation:.4} in validation, {seconds:.0} s",
                step + 1
            );
            training.push((f64::from(step + 1), of_training));
            validated.push((f64::from(step + 1), of_validation));
            (sum, n) = (0.0, 0);
            std::fs::create_dir_all(&out)?;
            Checkpoint::of_store(session.store())?.write(&kept)?;
        }
    }
    let began = Instant::now();
    let sample = written(&mut session, writer, &prompt, SAMPLE)?;
    let each = began.elapsed().as_secs_f64() * 1e6 / SAMPLE as f64;
    println!("{}\n\n{each:.0} µs a letter", sample.iter().map(|&at| letters[at as usize]).collect::<String>());

    if !training.is_empty() {
        let path = out.join("char_gpt.svg");
        let plot = Plot::new("A GPT on letters").x_label("step").y_label("cross-entropy of a letter");
        let guess = (letters.len() as f64).ln();
        let plot = plot.dotted_line("training", training).dotted_line("validation", validated).level("guessing", guess);
        save_grid(&path, "A GPT that learns to write", 1, &[plot])?;
        println!("wrote {} and {}", path.display(), kept.display());
    }
    Ok(())
}

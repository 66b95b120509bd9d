//! Attention layers and positions against formulas, and sequences in pieces against whole ones.

use cotangent_graph::DType::{F64, I64};
use cotangent_graph::interp::interpret_named;
use cotangent_graph::{Env, Graph, Init, Tensor};
use cotangent_nn::{Around, Layers, MultiHeadAttention, Positions, TransformerBlock};
use ndarray::{Array2, Array3, ArrayD, arr0, s};

use crate::{errors, graph, value};

const TIME: usize = 6;
const WIDTH: usize = 8;

fn sequence() -> Array3<f64> {
    Array3::from_shape_fn((2, TIME, WIDTH), |(b, t, c)| ((b * 31 + t * 7 + c * 3) as f64).sin())
}

#[test]
fn positions_are_their_formulas() {
    let g = graph(|g| {
        let x = g.input("x", F64, [2, TIME, WIDTH]);
        g.output("waves", x.layer("waves", Positions::sinusoidal()));
        g.output("rows", x.layer("rows", Positions::learned(9)));
        let at = g.input("at", I64, []);
        let last = x.slice(&[0, TIME - 2, 0], &[2, TIME, WIDTH]);
        g.output("late_waves", Positions::sinusoidal().run("waves", last, Some(at)));
    });
    let table = Array2::from_shape_fn((9, WIDTH), |(t, c)| (t * 10 + c) as f64);
    let x = sequence();
    let env = Env::default().with("x", x.clone()).with("rows.weight", table.clone()).with("at", arr0(TIME as i64 - 2));
    let outputs = interpret_named(&g, &env).expect("runs");
    let [waves, rows, late] = ["waves", "rows", "late_waves"].map(|name| value(&outputs, name).to_f64());
    for (n, ((b, t, c), v)) in x.indexed_iter().enumerate() {
        let angle = t as f64 / 1e4f64.powf((c - c % 2) as f64 / WIDTH as f64);
        let wave = if c % 2 == 0 { angle.sin() } else { angle.cos() };
        assert!((waves[n] - v - wave).abs() < 1e-12, "{t} {c}");
        assert_eq!(rows[n], v + table[[t, c]]);
        if t >= TIME - 2 {
            assert_eq!(late[(b * 2 + t + 2 - TIME) * WIDTH + c], waves[n]);
        }
    }
}

/// Attention with one head of keys and values for two of queries, rotary positions and a causal mask, by loops.
fn by_loops(env: &Env, x: &Array3<f64>) -> Vec<f64> {
    let of = |name: &str| -> ArrayD<f64> { env.values[name].array::<f64>().unwrap().to_owned() };
    let dense = |row: &[f64], name: &str| -> Vec<f64> {
        let (w, b) = (of(&format!("{name}.weight")), of(&format!("{name}.bias")));
        (0..b.len()).map(|j| b[j] + (0..row.len()).map(|i| row[i] * w[[i, j]]).sum::<f64>()).collect()
    };
    let (heads, d) = (4, WIDTH / 4);
    let turned = |v: &[f64], t: usize| -> Vec<f64> {
        let half = d / 2;
        let angle = |i: usize| t as f64 / 100f64.powf(i as f64 / half as f64);
        let first = (0..half).map(|i| v[i] * angle(i).cos() - v[i + half] * angle(i).sin());
        first.chain((0..half).map(|i| v[i + half] * angle(i).cos() + v[i] * angle(i).sin())).collect()
    };
    let mut out = Vec::new();
    for b in 0..x.dim().0 {
        let rows: Vec<Vec<f64>> = (0..TIME).map(|t| dense(&x.slice(s![b, t, ..]).to_vec(), "a.qkv")).collect();
        for t in 0..TIME {
            let mut joined = Vec::new();
            for h in 0..heads {
                let kv = h / 2;
                let q = turned(&rows[t][h * d..][..d], t);
                let key = |j: usize| turned(&rows[j][WIDTH + kv * d..][..d], j);
                let score = |j: usize| q.iter().zip(key(j)).map(|(a, b)| a * b).sum::<f64>() / (d as f64).sqrt();
                let weights: Vec<f64> = (0..=t).map(|j| score(j).exp()).collect();
                let sum: f64 = weights.iter().sum();
                joined.extend((0..d).map(|c| {
                    let values = (0..=t).map(|j| weights[j] * rows[j][WIDTH + 2 * d + kv * d + c]);
                    values.sum::<f64>() / sum
                }));
            }
            out.extend(dense(&joined, "a.out"));
        }
    }
    out
}

fn attention() -> MultiHeadAttention {
    MultiHeadAttention::new(4).kv_heads(2).causal().rotary(100.0)
}

#[test]
fn several_heads_are_their_formula() {
    let g = graph(|g| g.output("y", g.input("x", F64, [2, TIME, WIDTH]).layer("a", attention())));
    let mut env = Env::default();
    env.initialize(&g, 3).unwrap();
    let biases = |n: usize| ArrayD::from_shape_fn(vec![n], |at| (at[0] as f64 * 0.3).cos());
    let env = env.with("a.qkv.bias", biases(2 * WIDTH)).with("a.out.bias", biases(WIDTH)).with("x", sequence());
    let outputs = interpret_named(&g, &env).expect("runs");
    for (got, wanted) in value(&outputs, "y").to_f64().into_iter().zip(by_loops(&env, &sequence())) {
        assert!((got - wanted).abs() < 1e-12, "{got} {wanted}");
    }
}

/// Two blocks, of which `around` says where in the sequence `x` stands.
fn model<'g>(x: Tensor<'g>, position: Option<Tensor<'g>>, around: &Around<'g>) -> Tensor<'g> {
    let plain = MultiHeadAttention::new(2).causal().without_bias();
    let x = Positions::learned(TIME).run("places", x, position);
    let x = TransformerBlock::new(attention()).run("one", x, around);
    TransformerBlock::new(plain).norms_after().hidden(5).activation(|x| x.silu()).run("two", x, around)
}

fn in_pieces(n: usize) -> Graph {
    graph(|g| {
        let at = g.input("at", I64, []);
        let x = g.input("x", F64, [2, n, WIDTH]);
        g.output("y", model(x, Some(at), &Around::new().cache(TIME, at)));
    })
}

#[test]
fn a_sequence_in_pieces_through_the_cache_is_the_sequence() {
    let whole = graph(|g| g.output("y", model(g.input("x", F64, [2, TIME, WIDTH]), None, &Around::new())));
    let x = sequence();
    let mut env = Env::default();
    env.initialize(&whole, 4).unwrap();
    let outputs = interpret_named(&whole, &env.clone().with("x", x.clone())).expect("runs");
    let wanted = value(&outputs, "y").to_f64();
    for sizes in [vec![1; TIME], vec![3, 1, 2], vec![TIME]] {
        let mut env = env.clone();
        // What a state holds before it is written must not matter.
        for (name, n, d) in [("one", 2, WIDTH / 4), ("two", 2, WIDTH / 2)] {
            for part in ["keys", "values"] {
                let nan = ArrayD::from_elem(vec![2, n, TIME, d], f64::NAN);
                env = env.with(&format!("{name}.attention.{part}"), nan);
            }
        }
        let mut at = 0;
        for n in sizes {
            let g = in_pieces(n);
            let part = x.slice(s![.., at..at + n, ..]).to_owned();
            env = env.with("x", part).with("at", arr0(at as i64));
            let outputs = interpret_named(&g, &env).expect("runs");
            for (i, got) in value(&outputs, "y").to_f64().into_iter().enumerate() {
                let (b, t, c) = (i / (n * WIDTH), i / WIDTH % n, i % WIDTH);
                let wanted = wanted[(b * TIME + at + t) * WIDTH + c];
                // NaN fails.
                assert!((got - wanted).abs() < 1e-12, "{got} {wanted} at {} of {n}", at + t);
            }
            let updates = outputs.iter().filter_map(|(name, new)| Some((name.strip_prefix("update ")?, new)));
            env = updates.fold(env, |env, (name, new)| env.with(name, new.clone()));
            at += n;
        }
    }
    let beyond = Env::default().with("x", ArrayD::<f64>::zeros(vec![2, 2, WIDTH])).with("at", arr0(TIME as i64 - 1));
    let g = in_pieces(2);
    let mut env = beyond;
    env.initialize(&g, 1).unwrap();
    assert!(interpret_named(&g, &env).is_err());
}

#[test]
fn blocks_without_biases_have_none_and_mistakes_are_named() {
    let block = TransformerBlock::new(attention().without_bias().init(Init::normal(0.0, 0.02)));
    let g = graph(|g| g.output("y", g.input("x", F64, [2, TIME, WIDTH]).layer("block", block)));
    let names: Vec<&str> = g.params().filter_map(|(_, param)| param.name()).collect();
    let parts =
        ["norm1.gain", "attention.qkv.weight", "attention.out.weight", "norm2.gain", "up.weight", "down.weight"];
    assert_eq!(names, parts.map(|part| format!("block.{part}")));
    let said = |f: for<'g> fn(Tensor<'g>) -> Tensor<'g>| {
        errors(|g| g.output("y", f(g.input("x", F64, [2, TIME, 7])))).to_string()
    };
    assert!(said(|x| x.layer("a", Positions::sinusoidal())).contains("an even number of features for waves, got 7"));
    assert!(said(|x| x.layer("a", Positions::learned(5))).contains("rows for all places, got 5 for 6 places"));
    assert!(said(|x| x.sum().layer("a", TransformerBlock::new(attention()))).contains("rank 2 or more"));
    assert!(said(|x| x.layer("a", TransformerBlock::new(attention()))).contains("heads that divide the features"));
}

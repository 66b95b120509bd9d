//! Sequential models and the table of a model's parts.

use cotangent_graph::DType::F32;
use cotangent_graph::{Init, build};
use cotangent_nn::{Adam, BatchNorm, Dense, Dropout, Layer, Layers, Minimize, Sequential, product_flops, summary};

use crate::{errors, graph, is_line};

fn net() -> Sequential {
    Sequential::new()
        .add("hidden", Dense::new(128))
        .add("norm", BatchNorm::new())
        .then(|x| x.gelu())
        .add("drop", Dropout::new(0.2))
        .add("head", Sequential::new().add("inner", Dense::new(32)).then(|x| x.relu()).add("out", Dense::new(10)))
}

#[test]
fn a_sequential_is_the_same_graph_as_plain_functions() {
    let sequential = graph(|g| g.output("y", net().forward(g.input("x", F32, [8, 784]))));
    let plain = graph(|g| {
        let x = g.input("x", F32, [8, 784]);
        let x = x.dense("hidden", 128).layer("norm", BatchNorm::new()).gelu().dropout("drop", 0.2);
        g.output("y", x.dense("head.inner", 32).relu().dense("head.out", 10));
    });
    assert_eq!(sequential.to_string(), plain.to_string());
    let named = graph(|g| g.output("y", net().apply("net", g.input("x", F32, [8, 784]))));
    assert!(named.source("net.head.out.weight").is_some() && named.source("net.norm.mean").is_some());
    assert_eq!(format!("{:?}", net()), r#"["hidden", "norm", "fn", "drop", "head"]"#);
}

#[test]
fn errors_in_a_sequential_are_at_the_line_of_the_step() {
    let mut line = 0;
    let diags = errors(|g| {
        let net = Sequential::new().add("first", Dense::new(4)).add("first", Dense::new(4));
        line = line!() - 1;
        net.forward(g.input("x", F32, [2, 3]));
    });
    assert!(diags.0.iter().all(|diag| is_line(&diag.at, file!(), line)), "{diags}");
    assert!(diags.0[0].message.contains("`first.weight` is already used"), "{diags}");
}

#[test]
fn the_summary_counts_what_there_is() {
    let graph = graph(|g| {
        let logits = net().forward(g.input("x", F32, [8, 784]));
        let loss = logits.cross_entropy(g.input("y", cotangent_graph::DType::I64, [8])).mean();
        g.output("loss", loss);
        g.minimize(loss, Adam::new(1e-3));
    });
    let table = summary(&graph);
    let layers: Vec<&str> = table.rows.iter().map(|row| row.layer.as_str()).collect();
    assert_eq!(layers, ["hidden", "norm", "", "head.inner", "", "head.out", ""]);
    let params: Vec<usize> = table.rows.iter().map(|row| row.n_params).collect();
    assert_eq!(params, [784 * 128 + 128, 256, 0, 128 * 32 + 32, 0, 32 * 10 + 10, 0]);
    assert_eq!(table.rows[0].ty.to_string(), "f32[8,128]");
    assert_eq!(table.rows[2].ops, ["gelu", "dropout"]);
    assert_eq!(table.flops(), 2 * 8 * (784 * 128 + 128 * 32 + 32 * 10));
    assert_eq!(product_flops(&graph), table.flops());
    let text = table.to_string();
    assert!(text.contains("hidden      matmul, add") && text.contains("100,480") && text.contains("total"), "{text}");
    assert_eq!(summary(&cotangent_graph::Graph::new("empty")).rows, []);
}

/// A weight that is used twice, again and again, is one weight; and its name does not act on a terminal.
#[test]
fn a_weight_is_one_however_often_it_is_used() {
    let graph = build(|g| {
        let x = g.input("x", F32, [2, 2]);
        let mut w = g.param("\u{1b}[2Jlayer.w", F32, [2, 2], Init::ONES);
        for _ in 0..64 {
            w = w + w;
        }
        g.output("y", x.matmul(w));
    });
    let table = summary(&graph.unwrap());
    assert_eq!(table.n_params(), 4);
    assert!(table.to_string().contains("\\u{1b}[2Jlayer"), "{table}");
}

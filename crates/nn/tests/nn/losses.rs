//! Losses with options, against the numbers that PyTorch 2 prints.

use cotangent_graph::DType::{F64, I64};
use cotangent_graph::interp::{Env, interpret_named};
use cotangent_graph::{Code, GraphBuilder, Tensor};
use cotangent_nn::{CrossEntropyOptions, Losses};
use ndarray::{Array1, array};

use crate::{errors, graph, value};

/// The loss of fixed logits and labels.
fn loss(labels: [i64; 3], f: impl for<'g> FnOnce(&'g GraphBuilder, Tensor<'g>, Tensor<'g>) -> Tensor<'g>) -> f64 {
    let graph = graph(|g| {
        let (z, y) = (g.input("z", F64, [3, 3]), g.input("y", I64, [3]));
        g.output("loss", f(g, z, y));
    });
    let env = Env::default()
        .with("z", array![[1.0, 2.0, -1.0], [0.0, 0.5, 3.0], [-2.0, 1.0, 0.0]])
        .with("y", Array1::from(labels.to_vec()));
    value(&interpret_named(&graph, &env).expect("runs"), "loss").to_f64()[0]
}

fn weights(g: &GraphBuilder) -> Tensor<'_> {
    g.constant(array![1.0, 2.0, 0.5])
}

#[test]
fn options_of_cross_entropy_are_pytorchs() {
    let plain = loss([0, 2, 1], |_, z, y| z.cross_entropy(y).mean());
    let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-12, "{got}, not {want}");
    let with = CrossEntropyOptions::new;
    close(loss([0, 2, 1], |_, z, y| z.mean_cross_entropy(y, with())), plain);
    close(loss([0, 2, 1], |_, z, y| z.mean_cross_entropy(y, with().smoothing(0.1))), 0.7239657973019133);
    close(loss([0, 2, 1], |g, z, y| z.mean_cross_entropy(y, with().weights(weights(g)))), 0.6025637512826408);
    let both = loss([0, 2, 1], |g, z, y| z.mean_cross_entropy(y, with().weights(weights(g)).smoothing(0.1)));
    close(both, 0.7030372892179014);
    close(loss([0, -100, 1], |_, z, y| z.mean_cross_entropy(y, with().ignore(-100))), 0.8490122167681864);
    let all =
        loss([0, -100, 1], |g, z, y| z.mean_cross_entropy(y, with().weights(weights(g)).smoothing(0.1).ignore(-100)));
    close(all, 0.70792305639556);
    assert_eq!(loss([7, 7, 7], |_, z, y| z.mean_cross_entropy(y, with().ignore(7))), 0.0);
}

#[test]
fn distillation_follows_a_teacher_that_gets_no_gradient() {
    let teacher = array![[2.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, -1.0, 1.0]];
    let got = loss([0, 0, 0], |g, z, _| z.mean_distillation(g.constant(teacher), 3.0));
    assert!((got - 10.524752450565874).abs() < 1e-10, "{got}");
    let slope = graph(|g| {
        let (z, t) = (
            g.param("z", F64, [2, 3], cotangent_graph::Init::ONES),
            g.param("t", F64, [2, 3], cotangent_graph::Init::ONES),
        );
        let loss = z.mean_distillation(t, 2.0);
        let params = cotangent_nn::Minimize::params_of(g, loss);
        assert_eq!(params.len(), 1);
        g.output("loss", loss);
    });
    assert!(slope.source("t").is_some());
}

#[test]
fn options_that_make_no_sense_are_errors() {
    fn refused(code: Code, text: &str, f: impl for<'g> FnOnce(&'g GraphBuilder, Tensor<'g>, Tensor<'g>) -> Tensor<'g>) {
        let diags = errors(|g| {
            f(g, g.input("z", F64, [2, 3]), g.input("y", I64, [2]));
        });
        assert_eq!(diags.0.len(), 1, "{diags}");
        assert!(diags.0[0].code == code && diags.0[0].message.contains(text), "{diags}");
    }
    let with = CrossEntropyOptions::new;
    refused(Code::BadAttribute, "smoothing in [0, 1], got 2", |_, z, y| z.mean_cross_entropy(y, with().smoothing(2.0)));
    refused(Code::ShapeMismatch, "class weights require shape [3]", |g, z, y| {
        z.mean_cross_entropy(y, with().weights(g.constant(array![1.0, 2.0])))
    });
    refused(Code::DTypeMismatch, "class indices of i32 or i64", |_, z, _| z.mean_cross_entropy(z, with()));
    refused(Code::BadAttribute, "positive temperature, got 0", |_, z, _| z.mean_distillation(z, 0.0));
    refused(Code::ShapeMismatch, "two equal [.., classes]", |g, z, _| {
        z.mean_distillation(g.input("t", F64, [2, 4]), 1.0)
    });
}

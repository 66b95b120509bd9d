//! Errors: each mistake is one `Diag` with its code, at the user's line.

use cotangent_graph::DType::{F32, F64, I64};
use cotangent_graph::{Code, GraphBuilder, Init, Tensor};
use cotangent_nn::{
    AdaGrad, Adam, AdamW, BatchNorm, CrossEntropyOptions, Dense, Dropout, GaussianNoise, GroupNorm, InstanceNorm,
    LayerNorm, Layers, Losses, Metrics, Minimize, Momentum, Nesterov, Optimizer, PRelu, Recipe, RmsNorm, RmsProp, Sgd,
    Whitening,
};

use crate::{errors, graph, is_line};

/// Asserts that `f` makes exactly one error, of this code, with this text, and at the line that `f` returns.
fn check(code: Code, text: &str, f: impl FnOnce(&GraphBuilder) -> u32) {
    let mut line = 0;
    let diags = errors(|g| line = f(g)).0;
    assert_eq!(diags.len(), 1, "{diags:#?}");
    assert_eq!(diags[0].code, code, "{}", diags[0]);
    assert!(diags[0].message.contains(text), "{}", diags[0]);
    assert!(is_line(&diags[0].at, file!(), line), "expected line {line}: {}", diags[0]);
}

/// A loss of one parameter `w`.
fn loss(g: &GraphBuilder) -> Tensor<'_> {
    g.param("w", F64, [3], Init::ONES).square().sum()
}

#[test]
fn layers_refuse_what_they_cannot_take() {
    check(Code::ShapeMismatch, "`dense` requires rank 1 or more, got f32[] for layer `hidden`", |g| {
        let x = g.input("x", F32, []);
        let (_, line) = (x.dense("hidden", 3), line!());
        line
    });
    check(Code::DTypeMismatch, "`dense` requires floats (f32 or f64), got i64[2,3]", |g| {
        let x = g.input("x", I64, [2, 3]);
        let (_, line) = (x.dense("hidden", 3), line!());
        line
    });
    check(Code::DuplicateName, "`hidden.weight` is already used", |g| {
        let x = g.input("x", F32, [2, 3]);
        x.dense("hidden", 3);
        let (_, line) = (x.embedding_like("hidden"), line!());
        line
    });
    check(Code::DTypeMismatch, "`embedding` requires indices of i32 or i64, got f32[2]", |g| {
        let x = g.input("x", F32, [2]);
        let (_, line) = (x.embedding("words", 3, 2), line!());
        line
    });
    check(Code::ShapeMismatch, "`flatten` requires rank 1 or more", |g| {
        let x = g.input("x", F32, []);
        let (_, line) = (x.flatten(), line!());
        line
    });
}

/// A layer of the test's own that takes the name of another one, made of the layers of the crate.
trait EmbeddingLike<'g> {
    #[track_caller]
    fn embedding_like(self, name: &str) -> Tensor<'g>;
}

impl<'g> EmbeddingLike<'g> for Tensor<'g> {
    #[track_caller]
    fn embedding_like(self, name: &str) -> Tensor<'g> {
        self.cast(I64).embedding(name, 2, 2)
    }
}

#[test]
fn metrics_refuse_what_would_broadcast() {
    check(Code::ShapeMismatch, "got f32[2,4,3] and i64[4]", |g| {
        let (logits, labels) = (g.input("logits", F32, [2, 4, 3]), g.input("labels", I64, [4]));
        let (_, line) = (logits.accuracy(labels), line!());
        line
    });
    check(Code::DTypeMismatch, "labels of i32 or i64, got f32", |g| {
        let (logits, labels) = (g.input("logits", F32, [4, 3]), g.input("labels", F32, [4]));
        let (_, line) = (logits.n_correct(labels), line!());
        line
    });
}

#[test]
fn a_loss_is_a_scalar_float_of_this_graph() {
    check(Code::NotDifferentiable, "`minimize` requires a scalar float loss, got f64[3]", |g| {
        let w = g.param("w", F64, [3], Init::ONES);
        let ((), line) = (g.minimize(w.square(), Sgd::new(0.1)), line!());
        line
    });
    check(Code::NotDifferentiable, "requires a scalar float loss, got i64[]", |g| {
        let n = g.input("n", I64, []);
        let ((), line) = (g.minimize_params(n, &[], Sgd::new(0.1)), line!());
        line
    });
    let other = GraphBuilder::new("other");
    let foreign = loss(&other);
    check(Code::ForeignTensor, "`minimize` got a tensor of another graph", |g| {
        let ((), line) = (g.minimize(foreign, Sgd::new(0.1)), line!());
        line
    });
}

#[test]
fn a_poisoned_loss_is_reported_once() {
    let diags = errors(|g| {
        let w = g.param("w", F64, [3], Init::ONES);
        let bad = (w + g.input("x", F64, [4])).sum();
        g.minimize(bad, Adam::new(0.1));
        g.minimize_params(bad, &[w], Adam::new(0.1));
        g.apply_gradients(&[(w, bad)], Adam::new(0.1));
        bad.dense("hidden", 3).flatten().accuracy(bad);
        bad.embedding("words", 3, 2);
    });
    assert_eq!(diags.0.len(), 1, "{diags}");
}

#[test]
fn layers_and_training_go_on_after_a_mistake() {
    for mistake in [
        |g| g.input("a", F32, [4, 6]) + g.input("b", F32, [5, 6]),
        |g| g.input("a", F32, [4, 6]).gather(g.input("b", F32, [2])),
        |g| g.shared("nothing"),
        |g| g.input("a", I64, [5, 6]).exp(),
    ] as [fn(&GraphBuilder) -> Tensor<'_>; 4]
    {
        let diags = errors(|g| {
            let (x, labels) = (mistake(g), g.input("labels", I64, [5]));
            let norms =
                x.layer("batch", BatchNorm::new()).layer("layer", LayerNorm::new()).layer("rms", RmsNorm::new());
            let groups = norms.layer("group", GroupNorm::new(4)).layer("instance", InstanceNorm::new());
            let other = groups.layer("white", Whitening::new().groups(4)).layer("slope", PRelu::new().per_feature());
            let noisy = other.layer("drop", Dropout::new(0.1).classic()).layer("noise", GaussianNoise::new(0.1));
            let h = noisy.layer("hidden", Dense::new(8).weight_noise(0.1).drop_connect(0.1)).relu();
            assert_eq!(h.dim(-1), 8);
            let logits = h.dense("out", 3);
            assert_eq!(g.shared("out.weight").shape()[..], [8, 3]);
            let loss =
                logits.cross_entropy(labels).mean() + logits.mean_cross_entropy(labels, CrossEntropyOptions::new());
            assert_eq!(loss.rank(), 0);
            g.output("accuracy", logits.accuracy(labels) + logits.n_correct(labels).cast(F32));
            g.output("distilled", logits.mean_distillation(logits.flatten(), 2.0));
            x.embedding("words", 9, 4);
            g.minimize_params(loss, &g.params_of(loss)[..1], Adam::new(1e-3));
            g.minimize(loss, Adam::new(1e-3).with(Recipe::new().clip_norm(1.0)));
        });
        assert_eq!(diags.0.len(), 1, "{diags}");
    }
}

#[test]
fn a_loss_depends_on_parameters() {
    check(Code::NotDifferentiable, "depends on parameters", |g| {
        let x = g.input("x", F64, [3]).sum();
        let ((), line) = (g.minimize(x, Sgd::new(0.1)), line!());
        line
    });
    check(Code::NotDifferentiable, "depends on parameters", |g| {
        let frozen = loss(g).stop_gradient();
        let ((), line) = (g.minimize(frozen, Sgd::new(0.1)), line!());
        line
    });
    check(Code::NotDifferentiable, "it does not on `other`", |g| {
        let (loss, other) = (loss(g), g.param("other", F64, [3], Init::ONES));
        let ((), line) = (g.minimize_params(loss, &[other], Sgd::new(0.1)), line!());
        line
    });
    check(Code::NotDifferentiable, "at least one parameter", |g| {
        let loss = loss(g);
        let ((), line) = (g.minimize_params(loss, &[], Sgd::new(0.1)), line!());
        line
    });
}

#[test]
fn only_parameters_are_trained_once_by_a_gradient_of_their_type() {
    check(Code::BadUpdate, "requires parameters of floats, got `input` of type f64[3]", |g| {
        let x = g.input("x", F64, [3]);
        let loss = loss(g) + x.sum();
        let ((), line) = (g.minimize_params(loss, &[x], Sgd::new(0.1)), line!());
        line
    });
    check(Code::BadUpdate, "`minimize` would update `w` twice", |g| {
        let loss = loss(g);
        g.minimize(loss, Adam::new(0.1));
        let ((), line) = (g.minimize(loss, Adam::new(0.1)), line!());
        line
    });
    check(Code::ShapeMismatch, "the gradient of `w` requires f64[3], got f64[]", |g| {
        let loss = loss(g);
        let ((), line) = (g.apply_gradients(&[(g.shared("w"), loss)], Sgd::new(0.1)), line!());
        line
    });
    check(Code::DuplicateName, "starts as constant(0.1) and cannot start as 0.2 too", |g| {
        let other = g.param("other", F64, [], Init::ONES);
        g.minimize(loss(g), Sgd::new(0.1));
        let ((), line) = (g.minimize(other, Sgd::new(0.2)), line!());
        line
    });
}

#[test]
fn hyper_parameters_are_in_range() {
    fn refused(text: &str, optimizer: impl Optimizer) {
        check(Code::BadAttribute, text, |g| {
            let loss = loss(g);
            let ((), line) = (g.minimize(loss, optimizer), line!());
            line
        });
    }
    refused("`sgd` requires a learning rate that is finite and not negative, got -1", Sgd::new(-1.0));
    refused("got NaN", AdaGrad::new(f64::NAN));
    refused("`momentum` requires rho in [0, 1), got 1", Momentum::new(0.1, 1.0));
    refused("rho in [0, 1), got -0.1", Nesterov::new(0.1, -0.1));
    refused("`adagrad` requires eps to be finite", AdaGrad::new(0.1).eps(-1.0));
    refused("`adagrad` requires eps to be finite and above 0, got 0", AdaGrad::new(0.1).eps(0.0));
    refused("`adam` requires eps to be finite and above 0, got 0", Adam::new(0.1).eps(0.0));
    refused("`rmsprop` requires beta in [0, 1), got 2", RmsProp::new(0.1).beta(2.0));
    refused("`adam` requires beta1 in [0, 1), got NaN", Adam::new(0.1).beta1(f64::NAN));
    refused("`adam` requires beta2 in [0, 1), got 1", Adam::new(0.1).beta2(1.0));
    refused("`adamw` requires decay to be finite", AdamW::new(0.1, f64::INFINITY));
    refused("`adamw` requires eps to be finite", AdamW::new(0.1, 0.0).eps(f64::NAN));
}

#[test]
fn updates_carry_the_users_line_and_what_follows_does_not() {
    // The origin that `minimize` sets must not outlive it.
    let mut line = 0;
    let g = graph(|g| {
        let loss = loss(g);
        g.minimize(loss, Box::new(Adam::new(0.1)) as Box<dyn Optimizer>);
        line = line!() - 1;
        g.output("y", loss + loss);
    });
    let origin = |name: &str| {
        let output = g.outputs().iter().find(|o| &*o.name == name).expect("output");
        g.node(output.value).origin.clone()
    };
    assert_eq!(origin("w").rule, Some("adam"));
    assert!(is_line(&origin("w").loc(), file!(), line));
    assert_eq!(origin("y").rule, None);
    assert!(!is_line(&origin("y").loc(), file!(), line));
}

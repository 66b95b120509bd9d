//! Running averages of weights, and models that read them.

use cotangent_graph::DType::F64;
use cotangent_graph::interp::{Env, interpret_named};
use cotangent_nn::{Layers, Minimize, Optimizer, Recipe, Sgd};

use crate::optim::{RATE, quadratic, start, step};
use crate::{graph, value};

#[test]
fn averages_start_as_the_mean_and_go_on_exponentially() {
    for (recipe, decay) in [(Recipe::new().average(0.6), 0.6), (Recipe::new().polyak(), 1.0)] {
        let graph = graph(|g| quadratic(g, Sgd::new(RATE).with(recipe)));
        let mut env = start();
        env.initialize(&graph, 0).unwrap();
        let mut average = 0.0;
        for t in 1..=10 {
            step(&graph, &mut env);
            let d = f64::min(decay, f64::from(t - 1) / f64::from(t));
            average = d * average + (1.0 - d) * env.values["layer.weight"].to_f64()[3];
            let got = env.values["average.layer.weight"].to_f64()[3];
            assert!((got - average).abs() < 1e-12, "{got} {average}");
        }
    }
}

#[test]
fn a_model_can_read_the_averages_in_place_of_its_parameters() {
    let train = graph(|g| {
        let loss = g.scope("net", || g.input("x", F64, [4, 2]).dense("a", 3)).square().mean();
        g.minimize(loss, Sgd::new(0.1).with(Recipe::new().average(0.9)));
    });
    let evaluate = graph(|g| {
        g.set_training(false);
        let x = g.input("net.x", F64, [4, 2]);
        g.output("y", g.params_from("average", || g.scope("net", || x.dense("a", 3))));
        g.output("plain", g.scope("net", || x.dense("a", 3)));
        g.output("shared", g.params_from("average", || g.shared("net.a.weight")));
    });
    // Only the program with the parameters themselves has parameters.
    assert_eq!(evaluate.params().count(), 2);
    let x = ndarray::Array2::from_shape_fn((4, 2), |(i, j)| (i + 2 * j) as f64);
    let mut env = Env::default().with("net.x", x);
    env.initialize(&train, 1).unwrap();
    (0..3).for_each(|_| step(&train, &mut env));
    let outputs = interpret_named(&evaluate, &env).expect("runs");
    assert_eq!(value(&outputs, "shared"), &env.values["average.net.a.weight"]);
    let averaged = value(&outputs, "y").to_f64();
    assert_ne!(averaged, value(&outputs, "plain").to_f64());
    // As if the averages had been put into the parameters.
    for name in ["net.a.weight", "net.a.bias"] {
        let average = env.values[&format!("average.{name}")].clone();
        env.values.insert(name.to_owned(), average);
    }
    assert_eq!(value(&interpret_named(&evaluate, &env).expect("runs"), "plain").to_f64(), averaged);
}

//! Optimisers against figures that PyTorch printed.

use cotangent_nn::{AdaDelta, AdaGrad, Adam, AdamW, Momentum, NAdam, Nesterov, Optimizer, Recipe, RmsProp, Sgd};

use crate::graph;
use crate::optim::{RATE, quadratic, start, step};

/// Ten steps of PyTorch 2's optimisers in f64 on the same function, as printed by them: an implementation that shares
/// nothing with this one.
#[test]
fn ten_steps_are_those_of_pytorch() {
    let l2 = |lambda: f64| Recipe::new().l2(lambda / 2.0);
    let table: [(&str, Box<dyn Optimizer>, [f64; 8]); 12] = [
        (
            "SGD",
            Box::new(Sgd::new(RATE)),
            [
                0.719115857467,
                -0.3026431198,
                0.835505568715,
                -0.196874404341,
                0.195559478137,
                0.646455853562,
                0.089633043601,
                -1.408079953631,
            ],
        ),
        (
            "SGD momentum",
            Box::new(Momentum::new(RATE, 0.9)),
            [
                0.082353962531,
                -2.1775787776,
                1.741484196518,
                0.370791972961,
                0.792112649815,
                -1.850109924375,
                1.073891779767,
                -3.162453105787,
            ],
        ),
        (
            "SGD nesterov",
            Box::new(Nesterov::new(RATE, 0.9)),
            [
                0.116605282632,
                -1.693156343291,
                1.79764586994,
                0.130276637757,
                0.888222224433,
                -1.449150502139,
                1.088262236996,
                -2.554366048524,
            ],
        ),
        (
            "SGD wd",
            Box::new(Momentum::new(RATE, 0.9).with(l2(0.2))),
            [
                -0.07144495615,
                -2.000214498318,
                1.481351271262,
                0.30033688243,
                0.724775197239,
                -1.85109800184,
                1.073891779767,
                -3.162453105787,
            ],
        ),
        (
            "Adagrad",
            Box::new(AdaGrad::new(RATE).eps(1e-4).eps_outside_root()),
            [
                0.768162466471,
                0.755243800288,
                0.74254254412,
                -0.761994326308,
                0.247925410323,
                1.753949597815,
                -0.058832424492,
                0.004521363608,
            ],
        ),
        (
            "RMSprop",
            Box::new(RmsProp::new(RATE).beta(0.8).eps(1e-4).eps_outside_root()),
            [
                0.465121096021,
                0.367780767088,
                1.117697218344,
                -0.414982722873,
                0.651416706663,
                1.359711172808,
                0.308208570303,
                -0.386762137861,
            ],
        ),
        (
            "Adadelta",
            Box::new(AdaDelta::new(1.0)),
            [
                0.966746796678,
                0.966422757399,
                0.533518862113,
                -0.966597031162,
                0.03366324884,
                1.966387916001,
                -0.26651678314,
                0.216403394339,
            ],
        ),
        (
            "Adam",
            Box::new(Adam::new(RATE).eps(1e-3)),
            [
                0.521958599435,
                0.505085359286,
                0.992209459566,
                -0.512469846555,
                0.496498054167,
                1.503938096916,
                0.190868463909,
                -0.245605279851,
            ],
        ),
        (
            "Adam amsgrad",
            Box::new(Adam::new(RATE).beta1(0.5).beta2(0.6).amsgrad()),
            [
                0.572707172937,
                0.514773107212,
                0.977073450467,
                -0.543565354787,
                0.495399295132,
                1.510117576719,
                0.17078484261,
                -0.237826028284,
            ],
        ),
        (
            "AdamW",
            Box::new(AdamW::new(RATE, 0.3)),
            [
                0.422443551128,
                0.398469340889,
                0.892136706642,
                -0.408792151816,
                0.465508198772,
                1.258084550986,
                0.191445239008,
                -0.245697075201,
            ],
        ),
        (
            "NAdam",
            Box::new(NAdam::new(RATE)),
            [
                0.640311361663,
                0.610028089061,
                0.884956924058,
                -0.62562538424,
                0.397154594214,
                1.607106489093,
                0.081779523082,
                -0.141603063366,
            ],
        ),
        (
            "clip",
            Box::new(Momentum::new(RATE, 0.9).with(Recipe::new().clip_norm(1.0))),
            [
                0.816855411669,
                0.018519612853,
                0.702568804318,
                -0.310177568785,
                0.110806634302,
                1.04976492054,
                -0.057318730935,
                -1.086236141364,
            ],
        ),
    ];
    for (name, optimizer, expected) in table {
        let graph = graph(|g| quadratic(g, optimizer));
        let mut env = start();
        env.initialize(&graph, 0).unwrap();
        (0..10).for_each(|_| step(&graph, &mut env));
        let got = [env.values["layer.weight"].to_f64(), env.values["layer.bias"].to_f64()].concat();
        // PyTorch divides by ‖g‖ + 1e-6 when it clips.
        let tolerance = if name == "clip" { 1e-6 } else { 1e-8 };
        for (got, want) in got.iter().zip(expected) {
            assert!((got - want).abs() < tolerance, "{name}: {got} {want}");
        }
    }
}

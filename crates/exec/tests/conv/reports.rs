//! Geometries that other systems got wrong, by the reports of their users.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use cotangent_exec::{Compiler, Runtime, Seed, Session, Threads};
use cotangent_graph::DType::F32;
use cotangent_graph::ops::conv::Convolution;
use cotangent_graph::{GraphBuilder, Init, Tensor, TensorData, build};
use cotangent_nn::{AdaptiveMeanPool, Conv, ConvTransposed, Layers, MaxPool, MeanPool, Padding};

/// The outputs of a graph that takes nothing, in the order of their names.
fn run(make: impl for<'g> Fn(&'g GraphBuilder)) -> Vec<Vec<f64>> {
    let graph = build(|g| make(g)).unwrap_or_else(|diags| panic!("{diags}"));
    let program = Compiler::new().compile(&graph).unwrap();
    let mut session = Session::new(&Runtime::new(Threads::Exactly(2)), program, Seed(0)).unwrap();
    let out = session.step(()).unwrap();
    let mut names: Vec<String> = graph.outputs().iter().map(|output| output.name.to_string()).collect();
    names.sort();
    names.iter().map(|name| out.tensor(name).unwrap().to_f64()).collect()
}

fn of<'g>(g: &'g GraphBuilder, shape: &[usize], values: &[f32]) -> Tensor<'g> {
    let array = ndarray::ArrayD::from_shape_vec(shape.to_vec(), values.to_vec()).unwrap();
    // What is made of a state is not folded.
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let name = format!("zero{}", NUMBER.fetch_add(1, Relaxed));
    g.constant(TensorData::from(array)) + g.state(&name, F32, [], Init::ZEROS)
}

/// Padding, stride and dilation at once: half of the filter meets nothing (pytorch 15501).
#[test]
fn stride_and_dilation_and_padding() {
    let found = run(|g| {
        // Channels last: two examples of one channel, two filters' worth of one filter each.
        let x = of(g, &[2, 2, 1], &[7.0, 3.0, 3.0, 2.0]);
        let w = of(g, &[2, 1, 2], &[3.0, 4.0, 6.0, 2.0]);
        let y = x.conv(w, &Convolution::new().padding(&[(1, 1)]).stride(&[2]).dilation(&[2]));
        g.output("y", y);
        g.output("z", g.grad(y.sum(), &[w])[0]);
    });
    assert_eq!(found, [vec![18.0, 6.0, 12.0, 4.0], vec![0.0, 0.0, 5.0, 5.0]]);
}

/// The gradient of a transposed convolution that leaves gaps (pytorch 63314, candle 2337).
#[test]
fn gaps_of_a_transposed_convolution() {
    let found = run(|g| {
        let x = of(g, &[1, 2, 1], &[-1.5, -0.5]);
        let w = of(g, &[1, 1, 1], &[-2.0]);
        let y = x.conv_transposed(w, &Convolution::new().stride(&[2]), &[3]);
        let s = of(g, &[1, 3, 1], &[1.5, 9.0, 0.75]);
        let d = g.grad((y * s).sum(), &[x, w]);
        g.output("a", y);
        g.output("b", d[0]);
        g.output("c", d[1]);
    });
    assert_eq!(found, [vec![3.0, 0.0, 1.0], vec![-3.0, -1.5], vec![-2.625]]);
}

/// Output padding not below the stride is refused (pytorch 5112), and of two extents with one convolution both are made (tinygrad 875).
#[test]
fn output_padding() {
    let layer = |stride: usize, more: usize| {
        let padding = Padding::Sides(vec![(1, 1)]);
        ConvTransposed::new(1, &[3]).stride(&[stride]).dilation(&[2]).padding(padding).output_padding(&[more])
    };
    let shape = |stride, more| {
        let mut shape = Vec::new();
        build(|g| {
            let y = g.input("x", F32, [1, 3, 4]).layer("up", layer(stride, more));
            shape = y.shape().to_vec();
            g.output("y", y);
        })
        .map(|_| shape)
    };
    assert_eq!((shape(2, 0).unwrap(), shape(2, 1).unwrap()), (vec![1, 7, 1], vec![1, 8, 1]));
    assert!(shape(1, 1).unwrap_err().to_string().contains("output padding below the stride"));
}

/// Few channels in groups of many filters (pytorch 19912), and one filter that is broadcast to all channels (pytorch 15297).
#[test]
fn groups() {
    let found = run(|g| {
        let x = of(g, &[1, 1, 1, 4], &[0.0, 0.0, 0.0, 1.0]);
        let w = of(g, &[1, 1, 2, 16], &[1.0; 32]);
        g.output("a", x.conv(w, &Convolution::new().groups(2)));
        let edges: Vec<f32> = (0..9).map(|at| [-1.0, 0.0, 1.0][at % 3]).collect();
        let one = of(g, &[3, 3, 1, 1], &edges).broadcast_to([3, 3, 1, 8]);
        let ramp: Vec<f32> = (0..72).map(|at| (at / 8 % 3 * (at % 8)) as f32).collect();
        g.output("b", of(g, &[1, 3, 3, 8], &ramp).conv(one, &Convolution::new().groups(8)));
    });
    assert_eq!(found[0], [[0.0; 8], [1.0; 8]].concat());
    assert_eq!(found[1], (0..8).map(|c| f64::from(6 * c)).collect::<Vec<_>>());
}

/// Without examples the gradient of filters is zero, not what was in memory (NNlib 760), once more with the result of before.
#[test]
fn no_examples() {
    let found = run(|g| {
        let (x, w) = (of(g, &[0, 5, 3], &[]), of(g, &[3, 3, 2], &[1.0; 18]));
        let y = x.conv(w, &Convolution::new().padding(&[(1, 1)]).stride(&[2]));
        let d = g.grad(y.square().sum(), &[x, w]);
        g.output("a", d[0]);
        g.output("b", d[1]);
        g.output("c", g.grad(d[1].square().sum(), &[w])[0]);
        g.output("d", x.layer("max", MaxPool::new(&[2])).sum());
    });
    assert_eq!(found, [vec![], vec![0.0; 18], vec![0.0; 18], vec![0.0]]);
}

/// Padding as Keras has it is on both sides of one element and behind two (tensorflow 17654).
#[test]
fn padding_same_of_one_and_two() {
    let kernel: Vec<f32> = (0..9).map(|at| at as f32).collect();
    for (extent, wanted) in [(1, 4.0), (2, 8.0)] {
        let found = run(|g| {
            let x = of(g, &[1, extent, extent, 1], &vec![1.0; extent * extent]);
            g.output("y", x.layer("conv", Conv::new(1, &[3, 3]).stride(&[2, 2]).padding(Padding::Same)));
            let w = of(g, &[3, 3, 1, 1], &kernel);
            let missing = 3 - extent;
            let sides = (missing / 2, missing - missing / 2);
            g.output("z", x.conv(w, &Convolution::new().stride(&[2, 2]).padding(&[sides; 2])));
        });
        assert_eq!((found[0].len(), &found[1][..]), (1, &[wanted][..]));
    }
}

/// Ends of adaptive windows are rounded up (FlagGems 4915), also where there are more of them than elements.
#[test]
fn adaptive_windows() {
    let found = run(|g| {
        let x = of(g, &[1, 10, 1], &(0..10).map(|at| at as f32).collect::<Vec<_>>());
        g.output("a", x.layer("three", AdaptiveMeanPool::new(&[3])));
        let two = of(g, &[1, 2, 1], &[1.0, 5.0]);
        g.output("b", two.layer("five", AdaptiveMeanPool::new(&[5])));
    });
    assert_eq!(found, [vec![1.5, 4.5, 7.5], vec![1.0, 1.0, 3.0, 5.0, 5.0]]);
}

/// Windows of padding alone have a mean where it does not count in none (onnx 4958), and such that do not fit are refused
/// (pytorch 4986).
#[test]
fn windows_of_padding() {
    let found = run(|g| {
        let x = of(g, &[1, 4, 1], &[1.0, 2.0, 3.0, 4.0]);
        g.output("a", x.layer("mean", MeanPool::new(&[1]).stride(&[3]).padding(Padding::Same)));
        g.output("b", x.layer("sides", MeanPool::new(&[2]).padding(Padding::Sides(vec![(2, 2)]))));
    });
    assert_eq!(found[1], [0.0, 1.5, 3.5, 0.0]);
    assert!(found[0].iter().all(|x| x.is_finite()), "{found:?}");
    let refused = build(|g| g.output("y", g.input("x", F32, [1, 1, 1]).layer("max", MaxPool::new(&[2])))).unwrap_err();
    assert_eq!(refused.0.len(), 1, "{refused}");
}

/// The gradient of a gradient's norm through a stride (xla 2333).
#[test]
fn gradient_penalty_through_a_stride() {
    let found = run(|g| {
        let x = of(g, &[1, 4, 1], &[1.0, 2.0, 3.0, 4.0]);
        let w = of(g, &[3, 1, 1], &[1.0, -1.0, 2.0]);
        // Places at -1, 0, 1 and 1, 2, 3: y = (-1 + 4, 2 - 3 + 8), d(Σy²/2)/dx = (-y0, 2·y0 + y1, -y1, 2·y1).
        let y = x.conv(w, &Convolution::new().stride(&[2]).padding(&[(1, 1)]));
        let dx = g.grad(y.square().sum() * 0.5, &[x])[0];
        g.output("a", dx);
        g.output("b", g.grad(dx.square().sum() * 0.5, &[x])[0]);
    });
    assert_eq!(found[0], [-3.0, 13.0, -7.0, 14.0]);
    // J = [[-1, 2, 0, 0], [0, 1, -1, 2]], H = JᵀJ, and the second is H·H·x = H·dx.
    let jv = [3.0 + 26.0, 13.0 + 7.0 + 28.0];
    assert_eq!(found[1], [-jv[0], 2.0 * jv[0] + jv[1], -jv[1], 2.0 * jv[1]]);
}

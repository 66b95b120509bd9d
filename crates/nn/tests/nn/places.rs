//! Transposed convolutions, groups, borders, layouts, adaptive and global pooling: sizes by the rules of others, values by loops.

use cotangent_graph::DType::F64;
use cotangent_graph::interp::interpret_named;
use cotangent_graph::{Code, Env, Init, Shape, Tensor, build};
use cotangent_nn::{
    AdaptiveMaxPool, AdaptiveMeanPool, Border, Conv, ConvTransposed, GlobalMaxPool, GlobalMeanPool, Layer, Layers,
    Layout, MaxPool, Padding,
};
use ndarray::{Array, ArrayD, IxDyn};

fn numbers(shape: &[usize], scale: f64) -> ArrayD<f64> {
    let mut k = 0.0;
    Array::from_shape_simple_fn(IxDyn(shape), || {
        k += 1.0;
        (k * scale).sin()
    })
}

/// What a layer makes of numbers, with numbers for weights; its parameters are named `l.…`.
fn applied(layer: impl Layer, x: &ArrayD<f64>) -> (ArrayD<f64>, Vec<ArrayD<f64>>) {
    let graph = build(|g| {
        let y = g.input("x", F64, x.shape()).layer("l", layer);
        g.output("y", y);
    })
    .unwrap_or_else(|diags| panic!("{diags}"));
    let mut env = Env::default().with("x", x.clone());
    let mut parameters = Vec::new();
    for (k, (_, node)) in graph.params().enumerate() {
        let value = numbers(node.ty.shape(), 0.37 + k as f64);
        env.values.insert(node.name().unwrap_or_default().into(), value.clone().into());
        parameters.push(value);
    }
    let results = interpret_named(&graph, &env).unwrap_or_else(|diag| panic!("{diag}"));
    (results[0].1.array::<f64>().unwrap().to_owned(), parameters)
}

fn shape_of(layer: impl Layer, shape: &[usize]) -> Vec<usize> {
    applied(layer, &numbers(shape, 1.0)).0.shape().to_vec()
}

#[track_caller]
fn near(got: &ArrayD<f64>, want: &ArrayD<f64>) {
    assert_eq!(got.shape(), want.shape());
    for ((at, got), want) in got.indexed_iter().zip(want) {
        assert!((got - want).abs() < 1e-12, "at {at:?}: {got} but {want}");
    }
}

fn permuted(x: &ArrayD<f64>, axes: &[usize]) -> ArrayD<f64> {
    x.clone().permuted_axes(IxDyn(axes)).as_standard_layout().into_owned()
}

/// Examples of PyTorch's and Keras's documentation, and the rules that stand there.
#[test]
fn transposed_sizes_follow_the_rules_of_others() {
    let up = |size: &[usize]| ConvTransposed::new(5, size);
    // PyTorch: (n - 1)·stride - 2·padding + dilation·(size - 1) + output_padding + 1.
    let sides = |n: usize| Padding::Sides(vec![(n, n); 2]);
    assert_eq!(shape_of(up(&[3, 3]).stride(&[2, 2]).padding(sides(0)), &[1, 4, 6, 2]), [1, 9, 13, 5]);
    let halved = up(&[3, 3]).stride(&[2, 2]).padding(sides(1));
    assert_eq!(shape_of(halved.clone(), &[1, 6, 6, 2]), [1, 11, 11, 5]);
    assert_eq!(shape_of(halved.clone().output_padding(&[1, 1]), &[1, 6, 6, 2]), [1, 12, 12, 5]);
    let wide = up(&[3, 5]).stride(&[2, 1]).padding(Padding::Sides(vec![(4, 4), (2, 2)])).dilation(&[3, 1]);
    assert_eq!(shape_of(wide, &[1, 5, 6, 2]), [1, 7, 6, 5]);
    let gaps = up(&[2, 2]).stride(&[4, 3]).padding(sides(0)).output_padding(&[3, 0]);
    assert_eq!(shape_of(gaps, &[1, 3, 3, 2]), [1, 13, 8, 5]);
    // Keras: n·stride + max(size - stride, 0), and n·stride.
    assert_eq!(shape_of(up(&[3, 3]).stride(&[2, 2]), &[4, 10, 8, 2]), [4, 21, 17, 5]);
    assert_eq!(shape_of(up(&[2, 1]).stride(&[3, 2]), &[4, 10, 8, 2]), [4, 30, 16, 5]);
    assert_eq!(shape_of(up(&[3, 4]).stride(&[2, 3]).padding(Padding::Same), &[4, 10, 8, 2]), [4, 20, 24, 5]);
    assert_eq!(shape_of(up(&[2, 1]).stride(&[3, 2]).padding(Padding::Same), &[4, 10, 8, 2]), [4, 30, 16, 5]);
    assert_eq!(shape_of(ConvTransposed::new(4, &[3]).groups(2), &[1, 5, 6]), [1, 7, 4]);
    assert_eq!(shape_of(ConvTransposed::new(4, &[2, 2, 2]).stride(&[2, 2, 2]), &[1, 2, 3, 1, 3]), [1, 4, 6, 2, 4]);
}

/// Every element puts a multiple of each filter at its place.
#[test]
fn transposed_values_are_those_of_the_definition() {
    let cases = [
        (ConvTransposed::new(4, &[3, 2]).stride(&[2, 3]).padding(Padding::Sides(vec![(1, 0), (0, 1)])), [1, 0], [2, 3]),
        (ConvTransposed::new(4, &[3, 2]).stride(&[2, 3]).padding(Padding::Same).groups(2), [0, 0], [2, 3]),
        (ConvTransposed::new(4, &[3, 2]).groups(2), [0, 0], [1, 1]),
        (
            ConvTransposed::new(4, &[3, 2])
                .stride(&[3, 2])
                .padding(Padding::Sides(vec![(2, 1); 2]))
                .output_padding(&[2, 1]),
            [2, 2],
            [3, 2],
        ),
        // Depthwise: written as windows that are added up.
        (ConvTransposed::new(6, &[3, 2]).stride(&[2, 1]).groups(6), [0, 0], [2, 1]),
    ];
    let x = numbers(&[2, 4, 3, 6], 0.7);
    for (layer, low, stride) in cases {
        let (got, parameters) = applied(layer, &x);
        let [w, bias] = &parameters[..] else { panic!("{} parameters", parameters.len()) };
        let (n_filters, per_group) = (got.shape()[3], w.shape()[2]);
        let groups = n_filters / per_group;
        let mut want = ArrayD::from_shape_fn(got.raw_dim(), |at| bias[at[3]]);
        for (at, value) in x.indexed_iter() {
            let group = at[3] / (6 / groups);
            for (tap, weight) in w.indexed_iter().filter(|(tap, _)| tap[3] == at[3]) {
                let place = [0, 1].map(|k| (at[k + 1] * stride[k] + tap[k]).checked_sub(low[k]));
                if let [Some(h), Some(v)] = place
                    && h < want.shape()[1]
                    && v < want.shape()[2]
                {
                    want[[at[0], h, v, group * per_group + tap[2]]] += value * weight;
                }
            }
        }
        near(&got, &want);
    }
}

#[test]
fn groups_see_their_own_channels() {
    let x = numbers(&[2, 5, 4, 6], 0.7);
    for (groups, n_filters) in [(2, 4), (3, 3), (6, 6), (6, 12)] {
        let (got, parameters) = applied(Conv::new(n_filters, &[2, 3]).groups(groups), &x);
        let (w, bias) = (&parameters[0], &parameters[1]);
        assert_eq!(w.shape(), [2, 3, 6 / groups, n_filters]);
        let want = ArrayD::from_shape_fn(IxDyn(&[2, 4, 2, n_filters]), |at| {
            let first = at[3] / (n_filters / groups) * (6 / groups);
            let of_tap = |(tap, weight): (IxDyn, &f64)| {
                if tap[3] == at[3] { x[[at[0], at[1] + tap[0], at[2] + tap[1], first + tap[2]]] * weight } else { 0.0 }
            };
            bias[at[3]] + w.indexed_iter().map(of_tap).sum::<f64>()
        });
        near(&got, &want);
    }
}

#[test]
fn borders_mirror_or_repeat() {
    let x = numbers(&[1, 4, 5, 2], 0.7);
    let sides = vec![(2, 1), (0, 3)];
    for border in [Border::Zeros, Border::Reflect, Border::Replicate] {
        let layer = Conv::new(3, &[3, 2]).padding(Padding::Sides(sides.clone())).border(border);
        let (got, parameters) = applied(layer, &x);
        let place = |at: usize, low: usize, n: usize| -> Option<usize> {
            let (at, last) = (at as isize - low as isize, n as isize - 1);
            let found = match border {
                Border::Zeros => at,
                Border::Reflect => last - (last - at.abs()).abs(),
                Border::Replicate => at.clamp(0, last),
            };
            usize::try_from(found).ok().filter(|&found| found < n)
        };
        let padded = ArrayD::from_shape_fn(IxDyn(&[1, 7, 8, 2]), |at| {
            let found = place(at[1], 2, 4).zip(place(at[2], 0, 5));
            found.map_or(0.0, |(h, v)| x[[0, h, v, at[3]]])
        });
        let (want, same) = applied(Conv::new(3, &[3, 2]), &padded);
        assert_eq!(same, parameters);
        near(&got, &want);
    }
    let row = |border: Border| {
        let layer = Conv::new(1, &[1]).padding(Padding::Sides(vec![(2, 2)])).border(border).without_bias();
        let (y, w) = applied(layer, &Array::from_shape_vec(IxDyn(&[1, 3, 1]), vec![1.0, 2.0, 3.0]).unwrap());
        y.iter().map(|v| (v / w[0][[0, 0, 0]]).round() as i32).collect::<Vec<_>>()
    };
    assert_eq!(row(Border::Reflect), [3, 2, 1, 2, 3, 2, 1]);
    assert_eq!(row(Border::Replicate), [1, 1, 1, 2, 3, 3, 3]);
}

#[test]
fn channels_first_are_the_same_turned_round() {
    fn both(layer: impl Layer, turned: impl Layer, keeps: bool) {
        let x = numbers(&[2, 6, 5, 4], 0.7);
        let (want, _) = applied(layer, &x);
        let (got, _) = applied(turned, &permuted(&x, &[0, 3, 1, 2]));
        near(&if keeps { permuted(&got, &[0, 2, 3, 1]) } else { got }, &want);
    }
    let (first, conv) = (Layout::ChannelsFirst, Conv::new(3, &[3, 2]).padding(Padding::Same));
    both(conv.clone(), conv.layout(first), true);
    let up = ConvTransposed::new(3, &[3, 2]).stride(&[2, 1]);
    both(up.clone(), up.layout(first), true);
    both(MaxPool::new(&[2, 2]), MaxPool::new(&[2, 2]).layout(first), true);
    both(AdaptiveMeanPool::new(&[4, 2]), AdaptiveMeanPool::new(&[4, 2]).layout(first), true);
    both(GlobalMeanPool::new(), GlobalMeanPool::new().layout(first), false);
    both(GlobalMaxPool::new().keep_axes(), GlobalMaxPool::new().keep_axes().layout(first), true);
}

/// Windows from `⌊i·n/m⌋` to `⌈(i + 1)·n/m⌉`.
#[test]
fn adaptive_and_global_pooling_are_those_of_the_definition() {
    let x = numbers(&[2, 6, 5, 3], 0.7);
    for size in [[3, 5], [4, 2], [7, 1], [1, 1], [6, 8]] {
        let window = |k: usize, i: usize| {
            let (n, m) = (x.shape()[k + 1], size[k]);
            i * n / m..((i + 1) * n).div_ceil(m)
        };
        let of = |at: &IxDyn| -> Vec<f64> {
            let (rows, cols) = (window(0, at[1]), window(1, at[2]));
            rows.flat_map(|h| cols.clone().map(move |v| (h, v))).map(|(h, v)| x[[at[0], h, v, at[3]]]).collect()
        };
        let shape = IxDyn(&[2, size[0], size[1], 3]);
        let mean = ArrayD::from_shape_fn(shape.clone(), |at| of(&at).iter().sum::<f64>() / of(&at).len() as f64);
        let max = ArrayD::from_shape_fn(shape, |at| of(&at).into_iter().fold(f64::NEG_INFINITY, f64::max));
        near(&applied(AdaptiveMeanPool::new(&size), &x).0, &mean);
        near(&applied(AdaptiveMaxPool::new(&size), &x).0, &max);
        if size == [1, 1] {
            let flat = |of: &ArrayD<f64>| of.clone().into_shape_with_order(IxDyn(&[2, 3])).unwrap();
            near(&applied(GlobalMeanPool::new(), &x).0, &flat(&mean));
            near(&applied(GlobalMaxPool::new(), &x).0, &flat(&max));
            near(&applied(GlobalMaxPool::new().keep_axes(), &x).0, &max);
        }
    }
}

#[test]
fn transposed_filters_start_by_the_fans_of_others() {
    let graph = build(|g| {
        let x = g.input("x", F64, [2, 8, 8, 6]);
        g.output("y", x.layer("up", ConvTransposed::new(4, &[3, 5]).groups(2).init(Init::HeNormal)));
    })
    .unwrap();
    let node = graph.node(graph.source("up.weight").unwrap());
    assert_eq!(node.ty.shape()[..], [3, 5, 2, 6]);
    // PyTorch and Keras: the last axis but one of the channels is that of a fan in.
    assert_eq!(node.init().unwrap().law(&Shape::new(&[3, 5, 2, 6])), Init::normal(0.0, (2.0f64 / 30.0).sqrt()));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let refused = |code: Code, wanted: &str, make: &dyn for<'g> Fn(Tensor<'g>) -> Tensor<'g>| {
        let diags = build(|g| {
            make(g.input("x", F64, [2, 5, 6, 3])).relu();
        })
        .err()
        .unwrap_or_else(|| panic!("accepted: {wanted}"));
        assert_eq!(diags.to_string().matches("error[").count(), 1, "{diags}");
        assert!(diags.to_string().contains(wanted), "{diags}");
        assert!(diags.0.iter().any(|diag| diag.code == code), "{diags}");
        assert!(diags.to_string().contains("places.rs"), "{diags}");
    };
    let bad = Code::BadAttribute;
    let up = |size: &[usize]| ConvTransposed::new(6, size);
    refused(bad, "groups that divide channels and filters, got 2 for 3 and 4", &|x| {
        x.layer("l", Conv::new(4, &[1, 1]).groups(2))
    });
    refused(bad, "groups that divide channels and filters, got 0", &|x| x.layer("l", up(&[1, 1]).groups(0)));
    refused(bad, "groups that divide channels and filters, got 2 for 3 and 6", &|x| {
        x.layer("l", up(&[1, 1]).groups(2))
    });
    refused(bad, "at least 6 elements along spatial axis 0 for (5, 1) of padding by Reflect, got 5", &|x| {
        let sides = Padding::Sides(vec![(5, 1), (0, 0)]);
        x.layer("l", Conv::new(4, &[1, 1]).padding(sides).border(Border::Reflect))
    });
    refused(bad, "output padding below the stride", &|x| {
        let sides = Padding::Sides(vec![(0, 0); 2]);
        x.layer("l", up(&[2, 2]).stride(&[2, 2]).padding(sides).output_padding(&[0, 2]))
    });
    refused(bad, "only with `Padding::Sides`", &|x| x.layer("l", up(&[2, 2]).stride(&[2, 2]).output_padding(&[1, 1])));
    refused(bad, "of which padding leaves some, got 5 with (3, 3)", &|x| {
        x.layer("l", up(&[2, 2]).padding(Padding::Sides(vec![(3, 3), (0, 0)])))
    });
    refused(bad, "of at least 1 for each spatial axis", &|x| x.layer("l", up(&[2, 0])));
    refused(bad, "examples, 3 spatial axes and channels, got f64[2,5,6,3]", &|x| x.layer("l", up(&[2, 2, 2])));
    refused(bad, "results along each of 2 spatial axes, 1 to 65536, got [3]", &|x| {
        x.layer("l", AdaptiveMaxPool::new(&[3]))
    });
    refused(bad, "results along each of 2 spatial axes, 1 to 65536, got [3, 0]", &|x| {
        x.layer("l", AdaptiveMeanPool::new(&[3, 0]))
    });
    refused(bad, "spatial axes, 1 to 65536, got [3, 18446744073709551615]", &|x| {
        x.layer("l", AdaptiveMeanPool::new(&[3, usize::MAX]))
    });
    refused(bad, "elements along every spatial axis", &|x| {
        x.slice(&[0, 0, 0, 0], &[2, 0, 6, 3]).layer("l", GlobalMeanPool::new())
    });
    refused(Code::DTypeMismatch, "requires floats", &|x| {
        x.cast(cotangent_graph::DType::I32).layer("l", GlobalMaxPool::new())
    });
    refused(Code::ShapeMismatch, "requires rank 3 or more", &|x| x.reshape([10, 18]).layer("l", up(&[2])));
}

//! Convolution and pooling layers: shapes by the rules of others, values by loops, and what is refused.

use cotangent_graph::DType::{F32, I32};
use cotangent_graph::interp::interpret_named;
use cotangent_graph::{Code, Env, Init, Shape, Tensor, build};
use cotangent_nn::{Conv, ConvTransposed, Layer, Layers, MaxPool, MeanPool, Padding};
use ndarray::{Array, Array4, Ix4};

fn shape_of(layer: impl Layer, shape: &[usize]) -> Vec<usize> {
    let mut found = Vec::new();
    build(|g| {
        let y = g.input("x", F32, shape).layer("l", layer);
        found = y.shape().to_vec();
        g.output("y", y);
    })
    .unwrap_or_else(|diags| panic!("{diags}"));
    found
}

/// The sizes of Keras and PyTorch.
#[test]
fn sizes_follow_the_rules_of_others() {
    let conv = |size: &[usize]| Conv::new(7, size);
    assert_eq!(shape_of(conv(&[5, 5]), &[2, 28, 28, 1]), [2, 24, 24, 7]);
    assert_eq!(shape_of(conv(&[3, 3]).padding(Padding::Same), &[2, 9, 10, 4]), [2, 9, 10, 7]);
    assert_eq!(shape_of(conv(&[3, 2]).padding(Padding::Same).stride(&[2, 3]), &[2, 9, 10, 4]), [2, 5, 4, 7]);
    let strided = conv(&[3, 3]).padding(Padding::Sides(vec![(1, 1); 2])).stride(&[2, 2]).dilation(&[2, 1]);
    assert_eq!(shape_of(strided, &[2, 9, 10, 4]), [2, 4, 5, 7]);
    assert_eq!(shape_of(conv(&[4]), &[2, 9, 3]), [2, 6, 7]);
    assert_eq!(shape_of(conv(&[2, 2, 2]), &[2, 5, 6, 7, 3]), [2, 4, 5, 6, 7]);
    assert_eq!(shape_of(MaxPool::new(&[2, 2]), &[2, 9, 8, 3]), [2, 4, 4, 3]);
    assert_eq!(shape_of(MeanPool::new(&[3]).stride(&[2]).padding(Padding::Same), &[2, 9, 3]), [2, 5, 3]);
}

#[test]
fn values_are_those_of_the_definition() {
    let x = Array::from_shape_fn((2, 5, 4, 3), |(n, h, w, c)| ((n * 61 + h * 17 + w * 7 + c * 3) as f64).sin());
    let w = Array::from_shape_fn((2, 3, 3, 2), |(i, j, c, f)| ((i * 29 + j * 11 + c * 5 + f) as f64).cos());
    let graph = build(|g| {
        let x = g.input("x", cotangent_graph::DType::F64, [2, 5, 4, 3]);
        g.output("conv", x.layer("conv", Conv::new(2, &[2, 3]).padding(Padding::Same)));
        g.output("mean", x.layer("mean", MeanPool::new(&[3, 3]).stride(&[2, 2]).padding(Padding::Same)));
        g.output("counted", x.layer("counted", MeanPool::new(&[2, 2]).padding(Padding::Sides(vec![(1, 0), (0, 0)]))));
    })
    .unwrap();
    let bias = ndarray::arr1(&[0.5, -0.25]);
    let env = Env::default().with("x", x.clone()).with("conv.weight", w.clone()).with("conv.bias", bias.clone());
    let results = interpret_named(&graph, &env).unwrap();
    let get = |name: &str| -> Array4<f64> {
        let (_, value) = results.iter().find(|(found, _)| **found == *name).unwrap();
        value.array::<f64>().unwrap().to_owned().into_dimensionality::<Ix4>().unwrap()
    };
    let at = |n: usize, h: isize, w: isize, c: usize| -> Option<f64> {
        let inside = (0..5).contains(&h) && (0..4).contains(&w);
        inside.then(|| x[[n, h as usize, w as usize, c]])
    };
    // Same: of two rows none before and one behind, of three columns one on each side.
    for ((n, h, col, f), got) in get("conv").indexed_iter() {
        let mut want = bias[f];
        for ((i, j, c, of), weight) in w.indexed_iter() {
            let x = at(n, (h + i) as isize, (col + j) as isize - 1, c).unwrap_or(0.0);
            want += if of == f { x * weight } else { 0.0 };
        }
        assert!((got - want).abs() < 1e-12, "{got} but {want}");
    }
    // Of five rows in windows of three every two one lies on each side; of four columns one behind.
    for ((n, h, col, c), got) in get("mean").indexed_iter() {
        let places = (0..3).flat_map(|i| (0..3).map(move |j| (i, j)));
        let found: Vec<f64> =
            places.filter_map(|(i, j)| at(n, (2 * h + i) as isize - 1, (2 * col + j) as isize, c)).collect();
        let want = found.iter().sum::<f64>() / found.len() as f64;
        assert!((got - want).abs() < 1e-12, "{got} but {want}");
    }
    for ((n, h, col, c), got) in get("counted").indexed_iter() {
        let places = (0..2).flat_map(|i| (0..2).map(move |j| (i, j)));
        let sum: f64 = places.filter_map(|(i, j)| at(n, (2 * h + i) as isize - 1, (2 * col + j) as isize, c)).sum();
        assert!((got - sum / 4.0).abs() < 1e-12, "{got} but {}", sum / 4.0);
    }
}

/// As in Keras: a fan is the elements of a filter times the channels on that side.
#[test]
fn filters_start_by_the_fans_of_a_convolution() {
    let graph = build(|g| {
        let x = g.input("x", F32, [2, 8, 8, 3]);
        g.output("y", x.layer("plain", Conv::new(16, &[3, 5])));
        g.output("z", x.layer("normal", Conv::new(16, &[3, 5]).init(Init::HeNormal)));
    })
    .unwrap();
    let start = |name: &str| graph.node(graph.source(name).unwrap()).init().unwrap().law(&Shape::new(&[3, 5, 3, 16]));
    let limit = (6.0f64 / (15.0 * (3.0 + 16.0))).sqrt();
    assert_eq!(start("plain.weight"), Init::uniform(-limit, limit));
    assert_eq!(start("normal.weight"), Init::normal(0.0, (2.0f64 / 45.0).sqrt()));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let refused = |code: Code, wanted: &str, make: &dyn for<'g> Fn(Tensor<'g>) -> Tensor<'g>| {
        let diags = build(|g| {
            let y = make(g.input("x", F32, [2, 5, 6, 3]));
            // What follows goes on.
            y.relu();
        })
        .err()
        .unwrap_or_else(|| panic!("accepted: {wanted}"));
        assert_eq!(diags.to_string().matches("error[").count(), 1, "{diags}");
        assert!(diags.to_string().contains(wanted), "{diags}");
        assert!(diags.0.iter().any(|diag| diag.code == code), "{diags}");
    };
    let conv = |size: &[usize]| Conv::new(4, size);
    refused(Code::BadAttribute, "of at least 1 for each spatial axis", &|x| x.layer("l", conv(&[0, 3])));
    refused(Code::BadAttribute, "of at least 1 for each spatial axis", &|x| x.layer("l", conv(&[3, 3]).stride(&[1])));
    refused(Code::BadAttribute, "examples, 1 spatial axes and channels, got f32[2,5,6,3]", &|x| {
        x.layer("l", conv(&[3]))
    });
    refused(Code::BadAttribute, "channels and filters, got 3 and 0", &|x| x.layer("l", Conv::new(0, &[1, 1])));
    refused(Code::BadAttribute, "a padding for each of 2 spatial axes, got 1", &|x| {
        x.layer("l", MaxPool::new(&[2, 2]).padding(Padding::Sides(vec![(1, 1)])))
    });
    refused(Code::ShapeMismatch, "requires an extent of at least 7", &|x| x.layer("l", conv(&[7, 1])));
    refused(Code::ShapeMismatch, "requires an extent of at least 9", &|x| x.layer("l", MeanPool::new(&[9, 1])));
    refused(Code::DTypeMismatch, "requires floats", &|x| x.cast(I32).layer("l", MaxPool::new(&[2, 2])));
    refused(Code::ShapeMismatch, "requires rank 3 or more", &|x| x.reshape([10, 18]).layer("l", MaxPool::new(&[2, 2])));
}

/// A bias that cannot be made is the caller's mistake, as weights are.
#[test]
fn mistakes_have_the_line_of_the_caller() {
    for layer in [Box::new(Conv::new(2, &[3])) as Box<dyn Layer>, Box::new(ConvTransposed::new(2, &[3]))] {
        let errors = build(|g| {
            g.param("l.bias", F32, [7], Init::ZEROS);
            g.output("y", layer.apply("l", g.input("x", F32, [1, 5, 2])));
        })
        .unwrap_err();
        let text = errors.to_string();
        assert!(text.contains("tests/nn/conv.rs") && !text.contains("src/layers"), "{text}");
    }
}

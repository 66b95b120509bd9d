//! Convolutions as nodes: shapes, what is refused with which words, and the text form.

use cotangent_graph::DType::{F32, F64};
use cotangent_graph::interp::{interpret, interpret_named};
use cotangent_graph::ops::conv::{CONV_WEIGHTS, Convolution};
use cotangent_graph::text::parse;
use cotangent_graph::{Attr, Attrs, Code, DType, Env, GraphBuilder, Registry, Shape, Tensor, build};
use ndarray::{ArrayD, IxDyn, array};

fn sources<'g>(g: &'g GraphBuilder, x: &[usize], w: &[usize]) -> (Tensor<'g>, Tensor<'g>) {
    (g.input("x", F32, Shape::new(x)), g.input("w", F32, Shape::new(w)))
}

fn conv_shape(x: &[usize], w: &[usize], settings: &Convolution) -> Vec<usize> {
    let mut found = Vec::new();
    build(|g| {
        let (x, w) = sources(g, x, w);
        let y = x.conv(w, settings);
        found = y.shape().to_vec();
        // The adjoint goes back.
        let shape = x.shape();
        let back = y.conv_transposed(w, settings, &shape[1..shape.rank() - 1]);
        assert_eq!(back.shape(), shape);
        g.output("y", y);
    })
    .unwrap_or_else(|diags| panic!("{diags}"));
    found
}

#[test]
fn shapes_follow_the_formula() {
    let plain = Convolution::new();
    assert_eq!(conv_shape(&[2, 9, 4], &[3, 4, 5], &plain), [2, 7, 5]);
    let moved = plain.clone().stride(&[2, 3]).dilation(&[1, 2]).padding(&[(1, 0), (2, 3)]);
    assert_eq!(conv_shape(&[2, 9, 8, 4], &[3, 2, 4, 5], &moved), [2, 4, 4, 5]);
    assert_eq!(conv_shape(&[1, 3, 4, 5, 2], &[1, 2, 3, 2, 6], &plain), [1, 3, 3, 3, 6]);
    // More padding than elements; no examples, no channels; a window larger than the extent.
    assert_eq!(conv_shape(&[0, 1, 2], &[3, 1, 4], &plain.clone().padding(&[(4, 4)]).groups(2)), [0, 7, 4]);
    assert_eq!(conv_shape(&[1, 2, 0], &[3, 0, 2], &plain.clone().padding(&[(1, 0)])), [1, 1, 2]);
    assert_eq!(conv_shape(&[1, 0, 1], &[2, 1, 2], &plain.padding(&[(1, 1)])), [1, 1, 2]);
}

#[track_caller]
fn refused(code: Code, wanted: &str, make: &dyn for<'g> Fn(&'g GraphBuilder) -> Tensor<'g>) {
    let diags = build(|g| {
        make(g).exp();
    })
    .err()
    .unwrap_or_else(|| panic!("accepted: {wanted}"));
    assert_eq!(diags.0.len(), 1, "{diags}");
    assert!(diags.0[0].code == code && diags.to_string().contains(wanted), "{diags}");
    assert!(diags.to_string().contains("tests/conv.rs"), "{diags}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let conv = |x: &'static [usize], w: &'static [usize], settings: Convolution| {
        move |code: Code, wanted: &str| {
            refused(code, wanted, &|g| {
                let (x, w) = sources(g, x, w);
                x.conv(w, &settings)
            });
        }
    };
    let (x, w): (&[usize], &[usize]) = (&[2, 9, 4], &[3, 4, 5]);
    let plain = Convolution::new;
    let (shape, attribute) = (Code::ShapeMismatch, Code::BadAttribute);
    conv(&[9, 4], &[4, 5], plain())(shape, "operands of one rank, 3 to 5, got [9,4] and [4,5]");
    conv(x, &[3, 3, 4, 5], plain())(shape, "operands of one rank");
    conv(&[1, 1, 1, 1, 1, 1], &[1, 1, 1, 1, 1, 1], plain())(shape, "operands of one rank, 3 to 5");
    conv(x, &[3, 3, 5], plain())(shape, "requires filters of 4 channels (4 in 1 groups), got 3 in [3,3,5]");
    conv(x, w, plain().groups(2))(
        shape,
        "channels and filters in 2 groups of equal size, got 4 channels and 5 filters",
    );
    conv(x, &[3, 4, 6], plain().groups(2))(shape, "requires filters of 2 channels (4 in 2 groups), got 4");
    conv(x, w, plain().groups(0))(attribute, "groups of at least 1, got [1], [1] and 0");
    conv(x, w, plain().stride(&[0]))(attribute, "of at least 1, got [0], [1] and 1");
    conv(x, w, plain().dilation(&[0]))(attribute, "of at least 1, got [1], [0] and 1");
    conv(x, w, plain().stride(&[1, 1]))(attribute, "requires 1 numbers in `stride`, got [1, 1]");
    conv(x, w, plain().padding(&[(0, 0); 2]))(attribute, "requires 1 numbers in `low`");
    conv(x, &[0, 4, 5], plain())(shape, "filters of at least 1 element along spatial axis 0");
    conv(x, &[10, 4, 5], plain())(shape, "requires an extent of at least 10, got 9 along spatial axis 0");
    let apart = plain().dilation(&[5]).padding(&[(1, 0)]);
    conv(x, w, apart)(shape, "requires an extent of at least 11, got 9 and 1 + 0 of padding");
    conv(x, w, plain().padding(&[(usize::MAX, 5)]))(shape, "larger than what can be counted");
    conv(x, w, plain().padding(&[(1 << 62, 1 << 62)]))(shape, "larger than what can be counted");
    let apart = |by| plain().stride(&[by]).dilation(&[by]).padding(&[(2 * by, 0)]);
    conv(x, w, apart(1 << 60))(shape, "larger than what can be counted");
    conv(x, w, apart(1 << 48))(shape, "2⁶³ multiply-adds, or windows over 2⁴⁸ elements");
    conv(x, w, plain().groups(usize::MAX))(shape, "groups of equal size");
    refused(Code::DTypeMismatch, "requires two f32 or two f64 operands, got f32 and f64", &|g| {
        g.input("x", F32, [2, 9, 4]).conv(g.input("w", F64, [3, 4, 5]), &Convolution::new())
    });
    refused(Code::DTypeMismatch, "requires two f32 or two f64 operands, got i32 and i32", &|g| {
        g.input("x", DType::I32, [2, 9, 4]).conv(g.input("w", DType::I32, [3, 4, 5]), &Convolution::new())
    });
}

#[test]
fn adjoints_of_what_is_no_convolution_are_refused() {
    let transposed = |extents: &'static [usize], wanted: &str| {
        refused(if extents.len() == 1 { Code::ShapeMismatch } else { Code::BadAttribute }, wanted, &|g| {
            let (y, w) = (g.input("y", F32, [2, 4, 5]), g.input("w", F32, [3, 4, 5]));
            y.conv_transposed(w, &Convolution::new().stride(&[2]), extents)
        });
    };
    transposed(
        &[8],
        "requires the 3 places of filters of 3 elements, 1 apart, every 2 in 8 with 0 + 0 of padding, got 4",
    );
    transposed(&[2], "requires an extent of at least 3, got 2");
    transposed(&[9, 9], "requires 1 numbers in `extents`");
    refused(Code::ShapeMismatch, "requires a value for each of 6 filters, got 5", &|g| {
        let (y, w) = (g.input("y", F32, [2, 4, 5]), g.input("w", F32, [3, 4, 6]));
        y.conv_transposed(w, &Convolution::new(), &[6])
    });
    let weights = |y: &'static [usize], window: &'static [usize], wanted: &str| {
        refused(Code::ShapeMismatch, wanted, &|g| {
            let (x, y) = (g.input("x", F32, [2, 9, 4]), g.input("y", F32, Shape::new(y)));
            let attrs = Attrs::none().with("stride", &[1usize][..]).with("dilation", &[1usize][..]);
            let attrs = attrs.with("low", &[0usize][..]).with("high", &[0usize][..]).with("groups", Attr::Int(1));
            g.op(&CONV_WEIGHTS, &[x, y], attrs.with("window", window), None)
        });
    };
    weights(&[3, 7, 5], &[3], "requires as many examples in both operands, got 2 and 3");
    weights(&[2, 6, 5], &[3], "requires the 7 places");
    weights(&[2, 6, 5], &[10], "requires an extent of at least 10");
}

/// What the text form writes is what is read, and mistakes in it are told with their place.
#[test]
fn the_text_form_goes_by_attributes() {
    let text = "cotangent 1\ngraph @g {\n  %0 = input \"x\" : f32[1,3,1]\n  %1 = input \"w\" : f32[2,1,1]\n  \
                %2 = conv %0, %1 {stride = [1], dilation = [1], low = [1], high = [0], groups = 1} : f32[1,3,1]\n  \
                output \"y\" = %2\n}\n";
    let graph = parse(text, "g.ct", &Registry::builtin()).unwrap_or_else(|diags| panic!("{diags:?}"));
    assert_eq!(graph.to_string(), text);
    let env = Env::default().with("x", array![[[1.0f32], [2.0], [3.0]]]).with("w", array![[[10.0f32]], [[1.0]]]);
    assert_eq!(interpret(&graph, &env).unwrap()[0].to_f64(), [1.0, 12.0, 23.0]);
    for (from, to, wanted) in [
        ("low = [1]", "low = [-1]", "non-negative `low`, got [-1]"),
        ("stride = [1]", "stride = []", "requires 1 numbers in `stride`, got []"),
        ("groups = 1", "groups = -1", "of at least 1, got [1], [1] and -1"),
        ("f32[1,3,1]\n  output", "f32[1,4,1]\n  output", "f32[1,3,1]"),
    ] {
        let error = format!("{:?}", parse(&text.replace(from, to), "g.ct", &Registry::builtin()).unwrap_err());
        assert!(error.contains(wanted), "expected `{wanted}` in {error}");
    }
}

/// Every element by hand: two groups, strides, a dilated window, padding on one side.
#[test]
fn values_are_those_of_the_definition() {
    let x = ArrayD::from_shape_fn(IxDyn(&[2, 6, 4]), |at| ((at[0] * 24 + at[1] * 4 + at[2]) as f64 * 0.7).sin());
    let w = ArrayD::from_shape_fn(IxDyn(&[2, 2, 6]), |at| ((at[0] * 12 + at[1] * 6 + at[2]) as f64 * 0.3).cos());
    let graph = build(|g| {
        let (x, w) = (g.input("x", F64, [2, 6, 4]), g.input("w", F64, [2, 2, 6]));
        let settings = Convolution::new().stride(&[2]).dilation(&[3]).padding(&[(2, 0)]).groups(2);
        g.output("y", x.conv(w, &settings));
    })
    .unwrap_or_else(|diags| panic!("{diags}"));
    let env = Env::default().with("x", x.clone()).with("w", w.clone());
    let (_, y) = &interpret_named(&graph, &env).unwrap()[0];
    let y = y.array::<f64>().unwrap();
    assert_eq!(y.shape(), [2, 3, 6]);
    for (at, &got) in y.indexed_iter() {
        let mut want = 0.0f64;
        for tap in 0..2 {
            for c in 0..2 {
                let place = (at[1] * 2 + tap * 3).checked_sub(2).filter(|&place| place < 6);
                let element = place.map_or(0.0, |place| x[[at[0], place, at[2] / 3 * 2 + c]]);
                want = element.mul_add(w[[tap, c, at[2]]], want);
            }
        }
        assert_eq!(got.to_bits(), want.to_bits(), "{at:?}");
    }
}

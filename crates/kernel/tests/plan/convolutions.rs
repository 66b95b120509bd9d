//! Plans of convolutions that are wrong: every number of a geometry is checked, whatever it is.

use cotangent_graph::ops::conv::Convolution;
use cotangent_graph::{DType, Graph, Init};
use cotangent_kernel::{BufferId, Factors, Piece, Plan, Step, verify_plan};
use cotangent_scalar::{Conv, ConvAxis, Direction};

use crate::common::{optimized, planned, primitive};

/// The three sums.
fn graph() -> Graph {
    optimized(&primitive(|g| {
        let x = g.input("x", DType::F32, [2, 7, 6, 4]);
        let w = g.param("w", DType::F32, [3, 2, 2, 6], Init::GlorotUniform);
        let y = x.conv(w, &Convolution::new().stride(&[2, 1]).dilation(&[1, 2]).padding(&[(1, 0), (0, 1)]).groups(2));
        let d = g.grad((y * y).sum(), &[x, w]);
        g.output("dx", d[0]);
        g.update(w, d[1]);
    }))
}

fn convolutions(plan: &mut Plan) -> impl Iterator<Item = (&mut Conv, Direction, &mut Piece, &mut Piece)> {
    plan.steps.iter_mut().filter_map(|step| match step {
        Step::Product { factors: Factors::Conv { conv, direction, a, b }, .. } => Some((conv, *direction, a, b)),
        _ => None,
    })
}

fn refused(direction: Direction, text: &str, break_it: impl Fn(&mut Conv, &mut Piece, &mut Piece)) {
    let mut plan = planned(&graph());
    assert_eq!(verify_plan(&plan), [""; 0]);
    let mut n_broken = 0;
    for (conv, found, a, b) in convolutions(&mut plan).filter(|found| found.1 == direction) {
        assert_eq!(found, direction);
        break_it(conv, a, b);
        n_broken += 1;
    }
    let errors = verify_plan(&plan);
    assert!(n_broken == 1 && errors.iter().any(|e| e.contains(text)), "expected `{text}` in {errors:#?}\n{plan}");
}

#[test]
fn operands_lie_inside_of_their_buffers() {
    for direction in [Direction::Forward, Direction::Data, Direction::Weights] {
        refused(direction, "elements from 1 of", |_, a, _| a.offset += 1);
        refused(direction, "elements from", |_, _, b| b.offset = usize::MAX);
        refused(direction, "buffer 99 of", |_, _, b| b.buffer = BufferId(99));
        refused(direction, "is no convolution", |conv, _, _| conv.groups = 0);
        refused(direction, "is no convolution", |conv, _, _| conv.axes[0].stride = 0);
        refused(direction, "is no convolution", |conv, _, _| conv.axes.clear());
        refused(direction, "is no convolution", |conv, _, _| conv.axes[1].places = usize::MAX);
        refused(direction, "is no convolution", |conv, _, _| conv.n = 1 << 62);
    }
    refused(Direction::Forward, "is not a product of", |conv, _, _| conv.axes[0].places -= 1);
    refused(Direction::Forward, "elements from 0 of `x`", |conv, _, _| conv.axes[0].extent += 1);
    refused(Direction::Weights, "is not a product of", |conv, _, _| conv.axes[0].window += 1);
    refused(Direction::Data, "is not a product of", |conv, _, _| conv.axes[0].extent += 1);
}

#[test]
fn the_result_is_no_operand_and_all_are_of_one_type() {
    let mut plan = planned(&graph());
    for step in &mut plan.steps {
        if let Step::Product { factors: Factors::Conv { a, .. }, c, .. } = step {
            a.buffer = *c;
        }
    }
    let errors = verify_plan(&plan);
    assert!(errors.iter().any(|e| e.contains("is an operand of a product and written")), "{errors:#?}");
    let mut plan = planned(&graph());
    for step in &mut plan.steps {
        if let Step::Product { dtype, .. } = step {
            *dtype = DType::F64;
        }
    }
    let errors = verify_plan(&plan);
    assert!(errors.iter().any(|e| e.contains("a product of f64 reads")), "{errors:#?}");
}

/// Whatever numbers a geometry has: either the plan is refused, or every factor of every term lies in its operand. Nothing of it
/// panics.
#[test]
fn no_number_leads_out_of_bounds() {
    let numbers = [0, 1, 2, 3, 5, 1 << 20, 1 << 32, 1 << 62, usize::MAX / 2, usize::MAX - 1, usize::MAX];
    let fields: [fn(&mut Conv) -> &mut usize; 10] = [
        |conv| &mut conv.n,
        |conv| &mut conv.groups,
        |conv| &mut conv.channels,
        |conv| &mut conv.filters,
        |conv| &mut conv.axes[0].extent,
        |conv| &mut conv.axes[0].window,
        |conv| &mut conv.axes[0].places,
        |conv| &mut conv.axes[1].stride,
        |conv| &mut conv.axes[1].dilation,
        |conv| &mut conv.axes[1].low,
    ];
    let (mut n_refused, mut n_passed) = (0, 0);
    for (k, field) in fields.iter().enumerate() {
        for other in [None, Some(fields[(k + 3) % 10]), Some(fields[(k + 6) % 10])] {
            for number in numbers {
                let mut plan = planned(&graph());
                for (conv, ..) in convolutions(&mut plan) {
                    *field(conv) = number;
                    other.into_iter().for_each(|other| *other(conv) = number);
                }
                let errors = verify_plan(&plan);
                let text = plan.to_string();
                assert!(text.contains("conv data"), "{text}");
                if !errors.is_empty() {
                    n_refused += 1;
                    continue;
                }
                n_passed += 1;
                for (conv, direction, ..) in convolutions(&mut plan) {
                    let ([rows, cols], [of_a, of_b]) = (conv.matrix(direction), conv.operands(direction));
                    for (row, col) in (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col))) {
                        conv.terms(direction, row, col, |a, b| assert!(a.is_none_or(|a| a < of_a) && b < of_b));
                    }
                }
            }
        }
    }
    assert!(n_refused > 200 && n_passed > 20, "{n_refused} refused, {n_passed} passed");
}

#[test]
fn a_geometry_is_sound_or_not() {
    let axis = ConvAxis { extent: 5, window: 3, places: 3, stride: 1, dilation: 1, low: 0 };
    let conv = Conv { n: 2, axes: [axis].into_iter().collect(), groups: 1, channels: 3, filters: 4 };
    assert!(conv.is_sound());
    let broken = |change: fn(&mut Conv)| {
        let mut conv = conv.clone();
        change(&mut conv);
        !conv.is_sound()
    };
    assert!(broken(|conv| conv.axes[0].dilation = 0) && broken(|conv| conv.axes[0].window = 0));
    assert!(broken(|conv| conv.axes[0].places = 0) && broken(|conv| conv.axes[0].low = usize::MAX));
    assert!(broken(|conv| conv.axes = [conv.axes[0]; 4].into_iter().collect()));
    // What is nothing may be of anything, and nothing of it is counted.
    assert!(!broken(|conv| (conv.n, conv.channels, conv.filters, conv.axes[0].extent) = (0, 0, 0, 0)));
    // Each size is small, their product is not.
    assert!(broken(|conv| (conv.n, conv.filters) = (1 << 40, 1 << 40)));
    // Two places, two elements of a window and one element of `x`, but far apart.
    let apart = |at: usize| {
        let axis = ConvAxis { extent: 1, window: 2, places: 2, stride: at, dilation: at, low: at };
        Conv { axes: [axis].into_iter().collect(), channels: 16, ..conv.clone() }.is_sound()
    };
    assert!(apart(1 << 40) && !apart(1 << 44) && !apart(1 << 61));
}

//! Views: what may be computed may be differentiated, with huge steps and as many axes as there may be.

use cotangent::prelude::*;

use crate::{Function, assert_near, curvature, floats, gradient, value};

#[test]
fn slices_with_huge_steps_are_differentiated() {
    let x = || floats(F32, &[5], &[1.0, 2.0, 3.0, 4.0, 5.0]);
    let huge: Function = |x| x.slice_steps(&[0], &[5], &[1_000_000_000_000_000]);
    assert_near("value", &value(huge, x()), &[1.0], 0.0);
    assert_near("step 1e15", &gradient(huge, x()), &[1.0, 0.0, 0.0, 0.0, 0.0], 0.0);
    let largest: Function = |x| x.slice_steps(&[2], &[5], &[usize::MAX >> 1]);
    assert_near("the largest step", &gradient(largest, x()), &[0.0, 0.0, 1.0, 0.0, 0.0], 0.0);
    assert_near("step 4", &gradient(|x| x.slice_steps(&[0], &[5], &[4]), x()), &[1.0, 0.0, 0.0, 0.0, 1.0], 0.0);
    assert_near("step 3", &gradient(|x| x.slice_steps(&[1], &[5], &[3]), x()), &[0.0, 1.0, 0.0, 0.0, 1.0], 0.0);
    assert_near("nothing", &gradient(|x| x.slice_steps(&[3], &[3], &[7]), x()), &[0.0; 5], 0.0);
    let squared: Function = |x| x.slice_steps(&[0], &[5], &[1_000_000_000_000_000]).square();
    assert_near("order 2", &curvature(squared, x()), &[2.0, 0.0, 0.0, 0.0, 0.0], 0.0);
}

/// Every view of a tensor of 32 axes, with a gradient of both orders.
#[test]
fn views_of_32_axes_are_differentiated() {
    let views: [(&str, Function, [f64; 4]); 8] = [
        ("slice by 2", |x| x.slice_steps(&[0; 32], &full(x), &last(2, 1)), [1.0, 0.0, 1.0, 0.0]),
        ("slice", |x| x.slice(&last(1, 0), &full(x)), [0.0, 1.0, 1.0, 1.0]),
        ("flip", |x| x.flip([31]) * x, [4.0, 3.0, 2.0, 1.0].map(|v| 2.0 * v)),
        ("transpose", |x| x.transpose((0..32).rev().collect::<Vec<_>>()), [1.0; 4]),
        ("pad", |x| x.pad(&[0; 32], &last(2, 0), 1.0), [1.0; 4]),
        ("concat", |x| x.builder().concat(&[x, x], 31), [2.0; 4]),
        ("maxout", |x| x.maxout(2), [0.0, 1.0, 0.0, 1.0]),
        ("extreme", |x| x.max_over([31]), [0.0, 0.0, 0.0, 1.0]),
    ];
    let mut shape = [1; 32];
    shape[31] = 4;
    let x = || floats(F32, &shape, &[1.0, 2.0, 3.0, 4.0]);
    for (what, f, want) in views {
        assert_near(what, &gradient(f, x()), &want, 0.0);
        curvature(f, x());
    }
}

fn full(x: Tensor<'_>) -> Vec<usize> {
    x.shape().to_vec()
}

/// `rest` for every axis but the last of 32.
fn last(value: usize, rest: usize) -> Vec<usize> {
    let mut list = vec![rest; 32];
    list[31] = value;
    list
}

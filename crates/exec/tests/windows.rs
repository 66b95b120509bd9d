//! Windows, what is made of them, and their adjoint, against loops over their definition.

use std::collections::BTreeSet;

use cotangent_exec::{Compiler, Runtime, Seed, Session, Threads};
use cotangent_graph::interp::{interpret, interpret_named};
use cotangent_graph::ops::windows::{WINDOWS, Windows, held as held_by};
use cotangent_graph::{DType, Env, Tensor, build};
use ndarray::{ArrayD, Dimension, IxDyn};

fn values(shape: &[usize], scale: f64) -> ArrayD<f64> {
    let mut k = 0.0;
    ArrayD::from_shape_simple_fn(IxDyn(shape), || {
        k += 1.0;
        (k * scale).sin()
    })
}

/// Windows along the two middle axes of `[n, h, w, c]`.
#[derive(Clone, Copy, Debug)]
struct Case {
    shape: [usize; 4],
    size: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    padding: [(usize, usize); 2],
}

impl Case {
    fn windows(&self) -> Windows {
        Windows::new([1, 2], &self.size).stride(&self.stride).dilation(&self.dilation).padding(&self.padding)
    }

    fn counts(&self) -> [usize; 2] {
        [0, 1].map(|k| {
            let extent = self.shape[k + 1] + self.padding[k].0 + self.padding[k].1;
            (extent - (self.size[k] - 1) * self.dilation[k] - 1) / self.stride[k] + 1
        })
    }

    /// The element of the operand that a window has at a place, or `None` in the padding.
    fn place(&self, [oh, ow]: [usize; 2], [kh, kw]: [usize; 2]) -> Option<[usize; 2]> {
        let at = |k: usize, o: usize, t: usize| {
            (o * self.stride[k] + t * self.dilation[k])
                .checked_sub(self.padding[k].0)
                .filter(|&i| i < self.shape[k + 1])
        };
        Some([at(0, oh, kh)?, at(1, ow, kw)?])
    }
}

const CASES: &[Case] = &[
    Case { shape: [2, 6, 8, 3], size: [2, 2], stride: [2, 2], dilation: [1, 1], padding: [(0, 0); 2] },
    Case { shape: [2, 8, 6, 5], size: [3, 3], stride: [2, 2], dilation: [1, 1], padding: [(1, 1); 2] },
    Case { shape: [1, 7, 9, 17], size: [3, 2], stride: [1, 3], dilation: [1, 2], padding: [(0, 2), (1, 0)] },
    Case { shape: [1, 5, 7, 1], size: [3, 3], stride: [1, 1], dilation: [1, 1], padding: [(1, 1); 2] },
    Case { shape: [1, 9, 9, 2], size: [2, 3], stride: [2, 2], dilation: [3, 2], padding: [(2, 0), (0, 3)] },
    Case { shape: [3, 4, 4, 40], size: [4, 4], stride: [4, 4], dilation: [1, 1], padding: [(0, 0); 2] },
    // Rows long enough for loops over the phases of a stride to be written out.
    Case { shape: [1, 5, 4, 32], size: [3, 3], stride: [2, 3], dilation: [1, 1], padding: [(1, 1), (0, 1)] },
    Case { shape: [1, 4, 5, 33], size: [2, 4], stride: [4, 2], dilation: [2, 1], padding: [(0, 3), (2, 1)] },
    Case { shape: [1, 3, 3, 8], size: [2, 2], stride: [5, 1], dilation: [1, 1], padding: [(0, 0), (3, 3)] },
];

#[test]
fn pooling_and_its_gradient_are_those_of_the_definition() {
    for case in CASES {
        let [oh, ow] = case.counts();
        let out_shape = [case.shape[0], oh, ow, case.shape[3]];
        let (x, dy) = (values(&case.shape, 0.7), values(&out_shape, 0.3));
        let graph = build(|g| {
            let x = g.input("x", DType::F64, case.shape);
            let dy = g.input("dy", DType::F64, out_shape);
            let w = case.windows();
            let (max, mean, inside) = (x.max_pool(&w), x.mean_pool(&w), x.mean_pool(&w.clone().inside_only()));
            for (name, y) in [("max", max), ("mean", mean), ("inside", inside)] {
                g.output(name, y);
                g.output(&format!("d{name}"), g.grad((y * dy).sum(), &[x])[0]);
            }
        })
        .unwrap_or_else(|diags| panic!("{diags}"));
        let zeros = || ArrayD::<f64>::zeros(IxDyn(&out_shape));
        let (mut max, mut mean, mut inside) = (zeros(), zeros(), zeros());
        let grads = || ArrayD::<f64>::zeros(IxDyn(&case.shape));
        let (mut dmax, mut dmean, mut dinside) = (grads(), grads(), grads());
        for (at, &dy) in dy.indexed_iter() {
            let at = at.slice();
            let mut elements = Vec::new();
            for kh in 0..case.size[0] {
                for kw in 0..case.size[1] {
                    let place = case.place([at[1], at[2]], [kh, kw]).map(|[h, w]| IxDyn(&[at[0], h, w, at[3]]));
                    elements.push(place);
                }
            }
            let known: Vec<&IxDyn> = elements.iter().flatten().collect();
            let (all, n) = (elements.len() as f64, known.len() as f64);
            let sum: f64 = known.iter().map(|&place| x[place]).sum();
            let o = IxDyn(at);
            (mean[&o], inside[&o]) = (sum / all, sum / n);
            let best = known.iter().copied().fold(None, |best: Option<&IxDyn>, place| match best {
                Some(best) if x[best] >= x[place] => Some(best),
                _ => Some(place),
            });
            max[&o] = best.map_or(f64::NEG_INFINITY, |place| x[place]);
            if let Some(place) = best {
                dmax[place] += dy;
            }
            for &place in &known {
                dmean[place] += dy / all;
                dinside[place] += dy / n;
            }
        }
        let wanted = [max, mean, inside, dmax, dmean, dinside];
        let names = ["max", "mean", "inside", "dmax", "dmean", "dinside"];
        for threads in [1, 2] {
            let program = Compiler::new().compile(&graph).unwrap_or_else(|error| panic!("{error}"));
            let mut session = Session::new(&Runtime::new(Threads::Exactly(threads)), program, Seed(0)).unwrap();
            let out = session.step((("x", &x), ("dy", &dy))).unwrap();
            for (name, want) in names.iter().zip(&wanted) {
                let got = out.view::<f64>(name).unwrap();
                let close = |(a, b): (&f64, &f64)| a == b || (a - b).abs() < 1e-14 || a.is_nan() && b.is_nan();
                assert!(got.iter().zip(want).all(close), "{name} of {case:?}: {got} but {want}");
            }
        }
        let env = Env::default().with("x", x).with("dy", dy);
        for (name, value) in interpret_named(&graph, &env).unwrap() {
            let want = wanted[names.iter().position(|n| **n == *name).unwrap()].iter();
            let got = value.to_f64();
            // The interpreter's gradients are differences, of which infinities have none.
            if name.starts_with('d') && wanted[0].iter().any(|value| value.is_infinite()) {
                continue;
            }
            let close = |(a, b): (&f64, &f64)| a == b || (a - b).abs() < 1e-6 || a.is_nan() && b.is_nan();
            assert!(got.iter().zip(want).all(close), "{name} of {case:?} interpreted");
        }
    }
}

/// A convolution as a user writes it: windows, then one product. Its gradients are those of the definition.
#[test]
fn a_convolution_is_windows_and_a_product() {
    for case in CASES {
        let ([n, _, _, c], [oh, ow], [kh, kw]) = (case.shape, case.counts(), case.size);
        let n_filters = 3;
        let (k, out_shape) = (kh * kw * c, [n, oh, ow, n_filters]);
        let (x, filters) = (values(&case.shape, 0.7), values(&[kh, kw, c, n_filters], 0.4));
        let dy = values(&out_shape, 0.3);
        let graph = build(|g| {
            let x = g.input("x", DType::F64, case.shape);
            let filters = g.input("w", DType::F64, [kh, kw, c, n_filters]);
            let dy = g.input("dy", DType::F64, out_shape);
            let rows = x.windows(&case.windows()).reshape([n * oh * ow, k]);
            let y = rows.matmul(filters.reshape([k, n_filters])).reshape(out_shape);
            g.output("y", y);
            let grads = g.grad((y * dy).sum(), &[x, filters]);
            g.output("dx", grads[0]);
            g.output("dw", grads[1]);
        })
        .unwrap_or_else(|diags| panic!("{diags}"));
        let mut y = ArrayD::<f64>::zeros(IxDyn(&out_shape));
        let (mut dx, mut dw) = (ArrayD::<f64>::zeros(x.raw_dim()), ArrayD::<f64>::zeros(filters.raw_dim()));
        for (at, &dy) in dy.indexed_iter() {
            let (o, f) = ([at[1], at[2]], at[3]);
            for (i, j) in (0..kh).flat_map(|i| (0..kw).map(move |j| (i, j))) {
                let Some([h, w]) = case.place(o, [i, j]) else { continue };
                for channel in 0..c {
                    let (of_x, of_w) = ([at[0], h, w, channel], [i, j, channel, f]);
                    y[&at] += x[of_x] * filters[of_w];
                    dx[of_x] += dy * filters[of_w];
                    dw[of_w] += dy * x[of_x];
                }
            }
        }
        let program = Compiler::new().compile(&graph).unwrap_or_else(|error| panic!("{error}"));
        let mut session = Session::new(&Runtime::new(Threads::Exactly(2)), program, Seed(0)).unwrap();
        let out = session.step((("x", &x), ("w", &filters), ("dy", &dy))).unwrap();
        for (name, want) in [("y", &y), ("dx", &dx), ("dw", &dw)] {
            let got = out.view::<f64>(name).unwrap();
            assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-12), "{name} of {case:?}: {got} but {want}");
        }
    }
}

/// Second derivatives through windows and their adjoint: of `Σ (mean of squares)²`.
#[test]
fn windows_and_their_adjoint_differentiate_into_each_other() {
    let graph = build(|g| {
        let x = g.input("x", DType::F64, [2, 6, 5]);
        let w = Windows::new([-2, -1], &[3, 2]).stride(&[2, 1]);
        let y = x.square().windows(&w).mean_over([3, 4]).square().sum();
        let dx = g.grad(y, &[x])[0];
        let norm = (dx * dx).sum();
        g.output("norm", norm);
        g.output("ddx", g.grad(norm, &[x])[0]);
        let back = x.windows(&w).overlap_add(&w, &[6, 5]);
        g.output("counts", back / x);
    })
    .unwrap();
    let program = Compiler::new().compile(&graph).unwrap();
    let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(0)).unwrap();
    let x = values(&[2, 6, 5], 0.9);
    let (got, counts) = {
        let out = session.step(("x", &x)).unwrap();
        (out.tensor("ddx").unwrap().to_f64(), out.view::<f64>("counts").unwrap().to_owned())
    };
    for (at, &n) in counts.indexed_iter() {
        let (h, w) = (at[1], at[2]);
        let want = [1.0, 1.0, 2.0, 1.0, 1.0, 0.0][h] * [1.0, 2.0, 2.0, 2.0, 1.0][w];
        assert!((n - want).abs() < 1e-14, "{n} windows hold {h}, {w}, not {want}");
    }
    // Differences of what the first derivative gives.
    let mut norm = |x: &ArrayD<f64>| session.step(("x", x)).unwrap().view::<f64>("norm").unwrap().sum();
    for (i, got) in got.iter().enumerate() {
        let mut moved = |by: f64| {
            let mut x = x.clone();
            x.as_slice_mut().unwrap()[i] += by;
            norm(&x)
        };
        let want = (moved(1e-5) - moved(-1e-5)) / 2e-5;
        assert!((got - want).abs() < 1e-7, "{got} but {want}");
    }
}

/// Pieces added up, for every small geometry, against a loop over the pieces.
#[test]
fn pieces_are_added_up_at_their_places_whatever_the_padding() {
    let mut n_cases = 0;
    for (size, stride, dilation) in (1..5_usize).flat_map(|k| (1..5).flat_map(move |s| (1..3).map(move |d| (k, s, d))))
    {
        for (low, high, extent) in (0..6_usize).flat_map(|l| (0..4).flat_map(move |h| (1..8).map(move |n| (l, h, n)))) {
            let Some(room) = (low + extent + high).checked_sub((size - 1) * dilation + 1) else { continue };
            let n = room / stride + 1;
            let graph = build(|g| {
                let w = Windows::new([0], &[size]).stride(&[stride]).dilation(&[dilation]).padding(&[(low, high)]);
                let pieces = g.input("pieces", DType::F64, [n, size]);
                g.output("sums", pieces.overlap_add(&w, &[extent]));
                g.output("held", g.input("x", DType::F64, [extent]).windows(&w));
            })
            .unwrap_or_else(|diags| panic!("{diags}"));
            let (pieces, x) = (values(&[n, size], 0.7), values(&[extent], 0.4));
            let (mut sums, mut held) = (ArrayD::zeros(IxDyn(&[extent])), ArrayD::zeros(IxDyn(&[n, size])));
            for (at, piece) in pieces.indexed_iter() {
                let place = (at[0] * stride + at[1] * dilation).checked_sub(low).filter(|&i| i < extent);
                if let Some(place) = place {
                    sums[[place]] += piece;
                    held[&at] = x[[place]];
                }
            }
            // The elements that some piece holds, where they are known to lie evenly.
            let windows = graph.nodes().iter().find(|node| node.is(&WINDOWS)).expect("windows");
            let known = held_by(&windows.attrs, &[extent].into()).map(|held| {
                let (first, n, step) = held[0];
                (0..n).map(|i| first + i * step).collect::<BTreeSet<usize>>()
            });
            let place = |at: [usize; 2]| (at[0] * stride + at[1] * dilation).checked_sub(low).filter(|&i| i < extent);
            let places = (0..n).flat_map(|o| (0..size).map(move |t| [o, t])).filter_map(place).collect();
            assert!(known.is_none_or(|known| known == places), "{size}, {stride}, {dilation}, {low}, {high}, {extent}");
            let env = Env::default().with("pieces", pieces).with("x", x);
            let got = interpret(&graph, &env).unwrap_or_else(|diag| panic!("{diag}"));
            n_cases += 1;
            for (got, want) in got.iter().zip([&sums, &held]) {
                let close = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-12;
                assert!(
                    got.to_f64().iter().zip(want).all(close),
                    "{size} every {stride} by {dilation} of {low} + {extent} + {high}: {got} but {want}"
                );
            }
        }
    }
    assert!(n_cases > 3000, "{n_cases}");
}

/// What lies behind the last window, or between windows, reaches no result: its gradient is 0, although that of the logarithm there
/// is infinite. A sum of zeros is +0, also of negative ones.
#[test]
fn what_no_window_holds_takes_no_gradient() {
    let graph = build(|g| {
        let x = g.input("x", DType::F64, [7]);
        let (pairs, apart) = (Windows::new([0], &[2]).stride(&[2]), Windows::new([0], &[1]).stride(&[3]));
        let made =
            [x.log().max_pool(&pairs), x.log().mean_pool(&pairs), x.log().windows(&pairs), x.log().max_pool(&apart)];
        for (name, y) in ["max", "mean", "windows", "apart"].into_iter().zip(made) {
            g.output(name, g.grad(y.sum(), &[x])[0]);
        }
        g.output("zeros", (x * -0.0).windows(&pairs).sum_over(1));
    })
    .unwrap_or_else(|diags| panic!("{diags}"));
    let program = Compiler::new().compile(&graph).unwrap_or_else(|error| panic!("{error}"));
    let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(0)).unwrap();
    // Zeros stand where a result of each kind holds nothing.
    for (name, at) in [("max", 6), ("mean", 6), ("windows", 6), ("apart", 1), ("apart", 5)] {
        let mut x = ArrayD::<f64>::from_elem(IxDyn(&[7]), 2.0);
        x[[at]] = 0.0;
        let out = session.step(("x", &x)).unwrap();
        let got = out.view::<f64>(name).unwrap();
        assert_eq!(got[[at]], 0.0, "{name}: {got}");
        assert!(got.iter().all(|value| value.is_finite()) && got[[0]] > 0.0, "{name}: {got}");
        assert!(out.view::<f64>("zeros").unwrap().iter().all(|zero| zero.to_bits() == 0));
    }
}

/// The operand dies where a result of its size is made: at other elements, so not in its place.
#[test]
fn what_windows_read_is_not_overwritten_by_their_result() {
    let shape = [2, 5, 7, 16];
    let graph = build(|g| {
        let x = g.input("x", DType::F32, shape);
        let w = Windows::new([1, 2], &[3, 3]).padding(&[(1, 1); 2]);
        g.output("y", x.exp().max_pool(&w));
    })
    .unwrap();
    let program = Compiler::new().compile(&graph).unwrap();
    let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program.clone(), Seed(0)).unwrap();
    let x = values(&shape, 0.7).mapv(|v| v as f32);
    let out = session.step(("x", &x)).unwrap();
    let want = interpret(program.optimized(), &Env::default().with("x", x)).unwrap();
    assert!(out.tensor("y").unwrap().same_bits(&want[0]), "{}", program.plan_text());
    assert_eq!(program.plan().steps.len(), 2, "the operand is in memory: {}", program.plan_text());
}

/// Windows of windows and borders of borders, as many as a kernel takes, on little stack.
#[test]
fn many_windows_and_borders_need_no_deep_stack() {
    let many = || {
        for kind in 0..3 {
            let graph = build(|g| {
                let x = g.input("x", DType::F32, [4, 8]);
                let w = Windows::new([0], &[3]).padding(&[(1, 1)]);
                let y = (0..200).fold(x, |y, k| match kind {
                    0 => y.max_pool(&w),
                    1 => y.pad(&[k % 2, 0], &[(k + 1) % 2, 0], k as f64),
                    // Each reduction has the one before at its own elements.
                    _ => (x.windows(&w) * y.repeat_along(&[4, 3, 8].into(), [1])).sum_over([1]),
                });
                g.output("y", if kind == 1 { y.max_pool(&w) } else { y });
            })
            .unwrap();
            let program = Compiler::new().compile(&graph).unwrap_or_else(|error| panic!("{error}"));
            let x = values(&[4, 8], 0.7).mapv(|v| v as f32 / 4.0);
            let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program.clone(), Seed(0)).unwrap();
            let out = session.step(("x", &x)).unwrap();
            let want = interpret(program.optimized(), &Env::default().with("x", x)).unwrap();
            assert!(out.tensor("y").unwrap().same_bits(&want[0]), "kind {kind}");
        }
    };
    std::thread::Builder::new().stack_size(256 << 10).spawn(many).unwrap().join().unwrap();
}

#[test]
fn what_is_no_window_is_refused() {
    let refuse = |wanted: &str, make: &dyn for<'g> Fn(Tensor<'g>) -> Tensor<'g>| {
        let graph = build(|g| {
            make(g.input("x", DType::F32, [2, 5, 6, 3]));
        });
        let diags = graph.err().unwrap_or_else(|| panic!("accepted: {wanted}"));
        let text = diags.to_string();
        assert!(text.contains(wanted), "{text}");
    };
    let w = || Windows::new([1, 2], &[2, 2]);
    refuse("requires an extent of at least 6, got 5 on axis 1", &|x| x.windows(&Windows::new([1, 2], &[6, 2])));
    refuse("strides and dilations of at least 1", &|x| x.windows(&w().stride(&[0, 1])));
    refuse("requires sizes of at least 1", &|x| x.windows(&Windows::new([1, 2], &[0, 2])));
    refuse("windows along 2 axes require as many strides, got 1", &|x| x.windows(&w().stride(&[1])));
    refuse("distinct, ascending axes", &|x| x.max_pool(&Windows::new([1, 9], &[2, 2])));
    refuse("distinct, ascending axes", &|x| x.mean_pool(&Windows::new([1, 1], &[2, 2])));
    refuse("fit into 5 with 1 + 1 of padding every 1, got 4", &|x| {
        x.windows(&w()).overlap_add(&w().padding(&[(1, 1); 2]), &[5, 6])
    });
    refuse("got 5 and 2 + 1 of padding on axis 1", &|x| {
        x.windows(&Windows::new([1, 2], &[9, 2]).padding(&[(2, 1), (0, 0)]))
    });
    refuse("as many extents, got 1", &|x| x.windows(&w()).overlap_add(&w(), &[5]));
    refuse("as many windows of 2 elements", &|x| x.windows(&w()).overlap_add(&w(), &[9, 6]));
    refuse("requires an extent of at least", &|x| x.windows(&Windows::new([1], &[usize::MAX]).dilation(&[usize::MAX])));
}

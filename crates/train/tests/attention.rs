//! Attention against loops, against PyTorch, and where its operands are not numbers. The file was written by `attention/make.py`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use cotangent_data::safetensors::{Archive, SafeTensors, Tensors};
use cotangent_exec::{Compiler, Each, HostTensor, Runtime, Seed, Session, Threads};
use cotangent_graph::DType::{self, Bool, F32, F64, I64};
use cotangent_graph::interp::interpret_named;
use cotangent_graph::ops::attention::ATTENTION;
use cotangent_graph::samples::Sampler;
use cotangent_graph::{Attention, Attrs, Env, Graph, GraphBuilder, Tensor, TensorData, build};
use cotangent_nn::{Around, Layers, MultiHeadAttention, TransformerBlock};
use cotangent_train::checkpoint::pytorch::{Module, translated};
use cotangent_train::checkpoint::{Load, load};
use ndarray::{ArrayD, IxDyn};

fn path() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "attention", "expected.safetensors"].iter().collect()
}

fn expected() -> Tensors {
    SafeTensors::read(path()).unwrap().tensors
}

fn data(tensors: &Tensors, name: &str) -> TensorData {
    tensors[name].clone()
}

/// The results of a program on these inputs; those of the interpreter and of the program without fusion have the same bits.
fn run(graph: &Graph, inputs: &[(&str, TensorData)]) -> Vec<(String, TensorData)> {
    let mut made: Vec<Vec<(String, TensorData)>> = Vec::new();
    let fused = Compiler::new().compile(graph).unwrap();
    let env = inputs.iter().fold(Env::default(), |env, (name, value)| env.with(name, value.clone()));
    let interpreted = interpret_named(fused.optimized(), &env).unwrap();
    made.push(interpreted.iter().map(|(name, value)| (name.to_string(), value.clone())).collect());
    for program in [fused, Compiler::new().fuse(false).compile(graph).unwrap()] {
        let mut session = Session::new(&Runtime::new(Threads::Exactly(2)), program, Seed(0)).unwrap();
        let out = session.step(Each(inputs.iter().map(|(name, value)| (*name, HostTensor::from(value))))).unwrap();
        made.push(made[0].iter().map(|(name, _)| (name.clone(), out.tensor(name).unwrap())).collect());
    }
    for other in &made[1..] {
        for ((name, a), (_, b)) in made[0].iter().zip(other) {
            assert!(a.same_bits(b), "{name}: {a:?} {b:?}");
        }
    }
    made.swap_remove(0)
}

fn close(what: &str, got: &TensorData, wanted: &[f64], tolerance: f64) {
    let got = got.to_f64();
    assert_eq!(got.len(), wanted.len(), "{what}");
    for (g, w) in got.iter().zip(wanted) {
        assert!((g - w).abs() <= tolerance * w.abs().max(1.0), "{what}: got {g}, wanted {w}");
    }
}

/// `q`, `k` and `v` as inputs, attention, and its gradients given that of its value, `dy`.
fn program<'a>(shapes: [&[usize]; 3], dtype: DType, how: impl Fn(&GraphBuilder) -> Attention<'_> + 'a) -> Graph {
    let graph = build(|g| {
        let names = ["q", "k", "v"];
        let all: Vec<Tensor<'_>> = names.iter().zip(shapes).map(|(name, shape)| g.input(name, dtype, shape)).collect();
        let y = all[0].attention(all[1], all[2], how(g));
        g.output("y", y);
        let dy = g.input("dy", dtype, y.shape());
        for (name, gradient) in ["dq", "dk", "dv"].into_iter().zip(g.grad_with_seed(y, dy, &all)) {
            g.output(name, gradient);
        }
    });
    graph.unwrap_or_else(|diags| panic!("{diags}"))
}

#[test]
fn values_and_gradients_are_those_of_pytorch() {
    let tensors = expected();
    for name in ["plain", "causal", "grouped", "padded", "biased"] {
        let of = |part: &str| data(&tensors, &format!("{name}.{part}"));
        let mask = tensors.get(&format!("{name}.mask"));
        let [q, k, v] = ["q", "k", "v"].map(|part| of(part).shape().to_vec());
        let graph = program([&q, &k, &v], F32, |g| {
            let how = if ["causal", "grouped"].contains(&name) { Attention::new().causal() } else { Attention::new() };
            let how = if name == "causal" { how.scale(0.3) } else { how };
            match mask {
                Some(mask) if mask.dtype() == Bool => how.mask(g.input("mask", Bool, mask.shape())),
                Some(bias) => how.bias(g.input("mask", F32, bias.shape())),
                None => how,
            }
        });
        let mut inputs: Vec<(&str, TensorData)> = ["q", "k", "v", "dy"].map(|part| (part, of(part))).into();
        inputs.extend(mask.map(|_| ("mask", of("mask"))));
        for (part, got) in run(&graph, &inputs) {
            close(&format!("{name}.{part}"), &got, &of(&part).to_f64(), 2e-6);
        }
    }
}

/// Attention by loops, of `[batch, heads, n, d]`; `seen` and `bias` of (batch, head, query, key).
fn by_loops(
    [q, k, v]: [&ArrayD<f64>; 3],
    scale: f64,
    seen: &dyn Fn([usize; 4]) -> bool,
    bias: &dyn Fn([usize; 4]) -> f64,
) -> Vec<f64> {
    let (s, group) = (q.shape(), q.shape()[1] / k.shape()[1]);
    let (keys, width) = (k.shape()[2], v.shape()[3]);
    let mut out = Vec::new();
    for (b, h, i) in (0..s[0]).flat_map(|b| (0..s[1]).flat_map(move |h| (0..s[2]).map(move |i| (b, h, i)))) {
        let kv = h / group;
        let score = |j: usize| {
            let product: f64 = (0..s[3]).map(|c| q[[b, h, i, c]] * k[[b, kv, j, c]]).sum();
            product * scale + bias([b, h, i, j])
        };
        let weights: Vec<(usize, f64)> =
            (0..keys).filter(|&j| seen([b, h, i, j])).map(|j| (j, score(j).exp())).collect();
        let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
        out.extend((0..width).map(|c| weights.iter().map(|(j, w)| w / sum * v[[b, kv, *j, c]]).sum::<f64>()));
    }
    out
}

fn array(value: &TensorData) -> ArrayD<f64> {
    ArrayD::from_shape_vec(IxDyn(&value.shape()), value.to_f64()).unwrap()
}

#[test]
fn values_are_those_of_loops() {
    for (dtype, tolerance) in [(F32, 2e-5), (F64, 1e-13)] {
        for (heads, kv_heads, queries, keys, causal) in [
            (2, 2, 3, 7, false),
            (4, 2, 37, 37, true),
            (3, 1, 1, 70, false),
            (2, 2, 192, 192, true),
            (6, 3, 5, 1, false),
        ] {
            let mut s = Sampler::new(dtype, 5);
            let (b, d, width) = (2, 5, 3);
            let q = s.float_in(-2.0..2.0, [b, heads, queries, d]);
            let [k, v] = [d, width].map(|n| s.float_in(-2.0..2.0, [b, kv_heads, keys, n]));
            let dy = s.float_in(-1.0..1.0, [b, heads, queries, width]);
            let (mask, bias) = (s.bools([b, 1, queries, keys]), s.float_in(-1.0..1.0, [heads, queries, keys]));
            let graph = program([&q.shape(), &k.shape(), &v.shape()], dtype, |g| {
                let mask = g.input("mask", Bool, [b, 1, queries, keys]);
                let bias = g.input("bias", dtype, [heads, queries, keys]);
                let how = Attention::new().scale(0.4).mask(mask).bias(bias);
                if causal { how.causal() } else { how }
            });
            let (allowed, added) = (array(&mask), array(&bias));
            let seen = |[b, _, i, j]: [usize; 4]| allowed[[b, 0, i, j]] != 0.0 && (!causal || j <= i);
            let by = |[_, h, i, j]: [usize; 4]| added[[h, i, j]];
            let wanted = by_loops([&q, &k, &v].map(array).each_ref(), 0.4, &seen, &by);
            let inputs = [("q", q), ("k", k), ("v", v), ("dy", dy), ("mask", mask), ("bias", bias)];
            // A query that sees no key: 0, where the loops divide by zero.
            let wanted: Vec<f64> = wanted.into_iter().map(|w| if w.is_nan() { 0.0 } else { w }).collect();
            close("y", &run(&graph, &inputs)[0].1, &wanted, tolerance);
        }
    }
}

/// Elements of `[batch, 2, keys, 3]` with those of some keys of the last example replaced.
fn with(value: &TensorData, keys: &[usize], by: f64) -> TensorData {
    let mut array = array(value);
    let last = array.shape()[0] - 1;
    for &key in keys {
        for ((h, c), n) in (0..2).flat_map(|h| (0..3).map(move |c| (h, c))).zip(0..) {
            array[[last, h, key, c]] = if n % 2 == 0 { by } else { -by };
        }
    }
    let values: Vec<u64> = array.iter().map(|&v| value.dtype().bits_of_f64(v)).collect();
    TensorData::from_bits(value.dtype(), &value.shape(), &values)
}

#[test]
fn what_no_query_may_see_does_not_take_part() {
    let mut s = Sampler::new(F32, 8);
    let [q, k, v, dy] = [(); 4].map(|()| s.float_in(-2.0..2.0, [2, 2, 4, 3]));
    // Of the second example keys 1 and 3 are hidden: by a row for all queries, or by a whole matrix whose columns are false.
    for rows in [1, 4] {
        for causal in [false, true] {
            let hidden = |b: usize, j: usize| b == 1 && j % 2 == 1;
            let bits: Vec<u64> = (0..2 * rows * 4).map(|n| u64::from(!hidden(n / (rows * 4), n % 4))).collect();
            let mask = TensorData::from_bits(Bool, &[2, 1, rows, 4].into(), &bits);
            let shape = [2, 2, 4, 3];
            let graph = program([&shape; 3], F32, |g| {
                let how = Attention::new().mask(g.input("mask", Bool, [2, 1, rows, 4]));
                if causal { how.causal() } else { how }
            });
            let of = |k: TensorData, v: TensorData| {
                run(&graph, &[("q", q.clone()), ("k", k), ("v", v), ("dy", dy.clone()), ("mask", mask.clone())])
            };
            let clean = of(k.clone(), v.clone());
            for bad in [f64::NAN, f64::INFINITY, 1e38] {
                for ((name, a), (_, b)) in clean.iter().zip(of(with(&k, &[1, 3], bad), with(&v, &[1, 3], bad))) {
                    assert!(a.same_bits(&b), "{name}: {a:?} with {bad}: {b:?}");
                }
            }
        }
    }
}

#[test]
fn a_query_that_sees_nothing_has_the_result_0_and_no_gradient() {
    let mut s = Sampler::new(F32, 9);
    let [q, k, v, dy] = [(); 4].map(|()| s.float_in(-2.0..2.0, [1, 1, 3, 2]));
    let mask = TensorData::from_bits(Bool, &[3, 3].into(), &[1, 1, 0, 0, 0, 0, 0, 1, 1]);
    for additive in [false, true] {
        let graph = program([&[1, 1, 3, 2]; 3], F32, |g| {
            let mask = g.input("mask", Bool, [3, 3]);
            let zero = g.scalar(0.0, F32).broadcast_to([3, 3]);
            match additive {
                false => Attention::new().mask(mask),
                true => Attention::new().bias(mask.select(zero, zero.constant_like(f64::NEG_INFINITY))),
            }
        });
        let made = run(
            &graph,
            &[("q", q.clone()), ("k", k.clone()), ("v", v.clone()), ("dy", dy.clone()), ("mask", mask.clone())],
        );
        for (name, value) in &made[..2] {
            let value = value.to_f64();
            assert_eq!(value[2..4], [0.0, 0.0], "{name}");
            assert!(value.iter().all(|v| v.is_finite()) && value[0] != 0.0 && value[5] != 0.0, "{name}: {value:?}");
        }
        assert!(made[2..].iter().all(|(_, value)| value.to_f64().iter().all(|v| v.is_finite())));
    }
}

#[test]
fn what_comes_later_changes_nothing_before_it_unless_it_is_not_finite() {
    let mut s = Sampler::new(F32, 10);
    let [q, k, v, dy] = [(); 4].map(|()| s.float_in(-2.0..2.0, [2, 2, 4, 3]));
    let graph = program([&[2, 2, 4, 3]; 3], F32, |_| Attention::new().causal());
    let of = |k: TensorData, v: TensorData| {
        array(&run(&graph, &[("q", q.clone()), ("k", k), ("v", v), ("dy", dy.clone())])[0].1)
    };
    let clean = of(k.clone(), v.clone());
    let first = |y: &ArrayD<f64>| -> Vec<f64> {
        y.indexed_iter().filter(|(at, _)| at[0] == 1 && at[2] < 3).map(|(_, v)| *v).collect()
    };
    for bad in [9.0, f64::NAN, f64::INFINITY] {
        assert_eq!(first(&of(with(&k, &[3], bad), v.clone())), first(&clean), "a later key of {bad}");
        let values = first(&of(k.clone(), with(&v, &[3], bad)));
        match bad.is_finite() {
            true => assert_eq!(values, first(&clean)),
            // Its probability is 0, which a product multiplies all the same: see docs/limits.md.
            false => assert!(values.iter().all(|v| v.is_nan())),
        }
    }
}

#[test]
fn a_causal_mask_leaves_out_later_ranges_of_keys() {
    let (shape, width) = ([1, 4, 192, 5], 3);
    let mut s = Sampler::new(F32, 14);
    let q = s.float_in(-2.0..2.0, shape);
    let [k, v] = [5, width].map(|n| s.float_in(-2.0..2.0, [1, 2, 192, n]));
    let dy = s.float_in(-1.0..1.0, [1, 4, 192, width]);
    let (mask, bias) = (s.bools([1, 1, 1, 192]), s.float_in(-1.0..1.0, [4, 192, 192]));
    let graph = |causal: bool, more: bool| {
        program([&q.shape(), &k.shape(), &v.shape()], F32, move |g| {
            let (how, place) = (Attention::new(), |axis| g.iota(DType::I32, [192, 192], axis));
            let how = if more { how.bias(g.input("bias", F32, [4, 192, 192])) } else { how };
            let mask = if more { Some(g.input("mask", Bool, [1, 1, 1, 192])) } else { None };
            match (causal, mask) {
                (true, Some(mask)) => how.causal().mask(mask),
                (true, None) => how.causal(),
                (false, Some(mask)) => how.mask(mask & place(1).le(place(0)).broadcast_to([1, 1, 192, 192])),
                (false, None) => how.mask(place(1).le(place(0))),
            }
        })
    };
    for more in [false, true] {
        let mut inputs = vec![("q", q.clone()), ("k", k.clone()), ("v", v.clone()), ("dy", dy.clone())];
        if more {
            inputs.extend([("mask", mask.clone()), ("bias", bias.clone())]);
        }
        let [ranges, whole] = [true, false].map(|causal| run(&graph(causal, more), &inputs));
        for ((name, a), (_, b)) in ranges.iter().zip(&whole) {
            close(name, a, &b.to_f64(), 1e-5);
        }
        // The last of three ranges is nothing to the first two.
        inputs[2].1 = with(&v, &[191], f64::NAN);
        let bad = run(&graph(true, more), &inputs);
        let early = |y: &TensorData| -> Vec<f64> { y.to_f64().chunks(width).take(128).flatten().copied().collect() };
        assert_eq!(early(&bad[0].1), early(&ranges[0].1));
    }
}

/// Attention by strips of so many rows, or at once.
fn in_strips(shapes: [[usize; 4]; 3], causal: bool, strip: i64) -> Graph {
    let graph = build(|g| {
        let names = ["q", "k", "v"];
        let all: Vec<Tensor<'_>> = names.iter().zip(shapes).map(|(name, shape)| g.input(name, F32, shape)).collect();
        let attrs = Attrs::none().with("causal", causal).with("scale", 0.3).with("strip", strip);
        let y = g.op(&ATTENTION, &all, attrs.with("p", 0.0).with("stream", ""), None);
        g.output("y", y);
        let dy = g.input("dy", F32, y.shape());
        for (name, gradient) in ["dq", "dk", "dv"].into_iter().zip(g.grad_with_seed(y, dy, &all)) {
            g.output(name, gradient);
        }
    });
    graph.unwrap_or_else(|diags| panic!("{diags}"))
}

#[test]
fn strips_change_no_bit_of_the_value_and_gradients_by_rounding() {
    for (heads, kv_heads, queries, keys, causal, strips) in
        [(2, 2, 24, 37, false, [8, 12]), (4, 2, 160, 160, true, [10, 20]), (2, 1, 7, 33, false, [7, 7])]
    {
        let mut s = Sampler::new(F32, 12);
        let shapes = [[2, heads, queries, 5], [2, kv_heads, keys, 5], [2, kv_heads, keys, 3]];
        let [q, k, v] = shapes.map(|shape| s.float_in(-2.0..2.0, shape));
        let inputs = [("q", q), ("k", k), ("v", v), ("dy", s.float_in(-1.0..1.0, [2, heads, queries, 3]))];
        let whole = run(&in_strips(shapes, causal, 0), &inputs);
        for strip in strips {
            let parts = run(&in_strips(shapes, causal, strip), &inputs);
            assert!(whole[0].1.same_bits(&parts[0].1), "{strip} of {queries}");
            for ((name, a), (_, b)) in whole.iter().zip(&parts) {
                close(name, b, &a.to_f64(), 1e-5);
            }
        }
    }
}

#[test]
fn long_sequences_go_by_strips_in_memory_that_is_linear_in_their_length() {
    for causal in [false, true] {
        let bytes = [4096, 8192].map(|time| {
            let how = if causal { Attention::new().causal() } else { Attention::new() };
            let graph = program([&[1, 2, time, 16]; 3], F32, |_| how.clone());
            assert!(!graph.to_string().contains("strip = 0"), "{graph}");
            let program = Compiler::new().compile(&graph).unwrap();
            program.plan().figures().arena_bytes
        });
        // Scores at once would be four times as many, and 512 MiB.
        assert!(bytes[1] < bytes[0] / 10 * 23, "{bytes:?}");
        assert!(bytes[1] < 32 << 20, "{bytes:?}");
    }
}

#[test]
fn mistakes_are_named() {
    type Bad = (&'static str, for<'g> fn(Tensor<'g>, &'g GraphBuilder) -> Tensor<'g>);
    let cases: [Bad; 11] = [
        ("requires queries, keys and values all of f32 or all of f64", |x, _| {
            x.attention(x.cast(F64), x, Attention::new())
        }),
        ("requires queries [.., heads, queries, d]", |x, _| {
            x.attention(x.reshape([2, 2, 3, 4]).transpose([0, 1, 3, 2]), x, Attention::new())
        }),
        ("requires queries [.., heads, queries, d]", |x, _| x.sum_over([0, 1]).attention(x, x, Attention::new())),
        ("requires keys with elements", |x, g| {
            let k = g.input("k", F32, [2, 2, 0, 4]);
            x.attention(k, k, Attention::new())
        }),
        ("a multiple of that of keys and values, got 2 and 3", |x, g| {
            let k = g.input("k", F32, [2, 3, 3, 4]);
            x.attention(k, k, Attention::new())
        }),
        ("as many queries as keys, got 3 and 5", |x, g| {
            let k = g.input("k", F32, [2, 2, 5, 4]);
            x.attention(k, k, Attention::new().causal())
        }),
        ("a finite `scale`, got inf", |x, _| x.attention(x, x, Attention::new().scale(f64::INFINITY))),
        ("dropout in [0, 1), got 1", |x, _| x.attention(x, x, Attention::new().dropout("drop", 1.0))),
        ("dropout in [0, 1), got NaN", |x, _| x.attention(x, x, Attention::new().dropout("drop", f64::NAN))),
        ("a mask that broadcasts to the scores [2,2,3,3], got [2,3]", |x, g| {
            x.attention(x, x, Attention::new().mask(g.input("mask", Bool, [2, 3])))
        }),
        ("a bias of the scores' shape [2,2,3,3], got [3,2]", |x, g| {
            x.attention(x, x, Attention::new().bias(g.input("bias", F32, [3, 2])))
        }),
    ];
    for (message, bad) in cases {
        let diags = build(|g| g.output("y", bad(g.input("x", F32, [2, 2, 3, 4]), g))).unwrap_err();
        assert!(diags.to_string().contains(message), "{message}: {diags}");
    }
    let wrong = build(|g| {
        let x = g.input("x", F32, [2, 2, 3, 4]);
        g.output("y", x.attention(x, x, Attention::new().mask(g.input("mask", I64, [3, 3]))));
    });
    assert!(wrong.unwrap_err().to_string().contains("takes one mask of bool and then one bias of f32"));
    for (message, layer) in [
        ("heads that divide the features", MultiHeadAttention::new(5)),
        ("heads that divide the features", MultiHeadAttention::new(4).kv_heads(3)),
        ("heads of an even width", MultiHeadAttention::new(8).rotary(1e4)),
        ("a base above 0", MultiHeadAttention::new(4).rotary(0.0)),
    ] {
        let diags = build(|g| g.output("y", g.input("x", F32, [2, 3, 8]).layer("a", layer))).unwrap_err();
        assert!(diags.to_string().contains(message), "{message}: {diags}");
    }
    let not_causal = build(|g| {
        let around = Around::new().cache(9, g.input("at", I64, []));
        g.output("y", MultiHeadAttention::new(4).run("a", g.input("x", F32, [2, 3, 8]), &around));
    });
    assert!(not_causal.unwrap_err().to_string().contains("for a cache that it is causal"));
}

#[test]
fn modules_of_pytorch_load_and_give_its_outputs() {
    let tensors = expected();
    let graph = build(|g| {
        let (x, memory) = (g.input("x", F32, [2, 5, 8]), g.input("memory", F32, [2, 3, 8]));
        g.output("self", x.layer("self", MultiHeadAttention::new(2).causal()));
        let seen = g.input("seen", Bool, [2, 3]).reshape([2, 1, 1, 3]);
        let cross = MultiHeadAttention::new(2).run("cross", x, &Around::new().memory(memory).mask(seen));
        g.output("cross", cross);
        let block = TransformerBlock::new(MultiHeadAttention::new(2)).hidden(16);
        g.output("before", x.layer("before", block));
        g.output("after", x.layer("after", block.norms_after()));
    })
    .unwrap();
    let mut weights = BTreeMap::new();
    let mut modules = vec![
        ("one".to_owned(), Module::Attention, "self".to_owned()),
        ("two".to_owned(), Module::CrossAttention, "cross".to_owned()),
    ];
    for (name, tensor) in &Archive::open(path()).unwrap().tensors {
        let copies: &[&str] = if name.starts_with("module.") { &["one", "two"] } else { &[""] };
        for copy in copies {
            let name = name.strip_prefix("module").map_or(name.clone(), |rest| format!("{copy}{rest}"));
            if ["one.", "two.", "before.", "after."].iter().any(|at| name.starts_with(at)) {
                weights.insert(name, tensor.clone());
            }
        }
    }
    for at in ["before", "after"] {
        for (theirs, module, ours) in [
            ("self_attn", Module::Attention, "attention"),
            ("linear1", Module::Linear, "up"),
            ("linear2", Module::Linear, "down"),
            ("norm1", Module::Norm, "norm1"),
            ("norm2", Module::Norm, "norm2"),
        ] {
            modules.push((format!("{at}.{theirs}"), module, format!("{at}.{ours}")));
        }
    }
    let modules: Vec<_> = modules.iter().map(|(at, module, name)| (&at[..], *module, &name[..])).collect();
    let program = Compiler::new().compile(&graph).unwrap();
    let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(0)).unwrap();
    load(&translated(weights, &modules).unwrap(), Load::Strict, session.store_mut()).unwrap();
    let inputs: Vec<_> = ["x", "memory", "seen"].map(|name| (name, data(&tensors, name))).into();
    let out = session.step(Each(inputs.iter().map(|(name, value)| (*name, HostTensor::from(value))))).unwrap();
    for name in ["self", "cross", "before", "after"] {
        close(name, &out.tensor(name).unwrap(), &data(&tensors, name).to_f64(), 1e-5);
    }
}

//! Any graph that can be built can be written, read, run and differentiated from a file: all ops in one graph with their
//! derivatives, and what is unusual about names, shapes, constants, initialisers and bodies.

use std::collections::BTreeMap;

use cotangent::data::npz::{read_npz, write_npz};
use cotangent::graph::op::{Lower, Vjp};
use cotangent::graph::samples::Sampler;
use cotangent::graph::{Env, Registry, interp};
use cotangent::prelude::*;

use crate::{Scratch, check_success, cotangent, run, run_with_stdin};

/// Every way to run agrees by bits (NaNs being equal), the oracle closely; returns what they give.
fn every_way(name: &str, graph: &Graph, inputs: BTreeMap<String, TensorData>) -> BTreeMap<String, TensorData> {
    let (text, npz) = (Scratch::new(&format!("{name}.ct")), Scratch::new(&format!("{name}.npz")));
    std::fs::write(&text.0, graph.to_string()).unwrap();
    write_npz(&npz.0, &inputs).unwrap();
    let outputs = |way: &[&str]| {
        let out = Scratch::new(&format!("{name}-out.npz"));
        let output = run(&[&["run", text.path(), "-i", npz.path(), "-o", out.path(), "--seed", "3"], way].concat());
        assert_eq!(output.status.code(), Some(0), "{way:?}: {}", String::from_utf8_lossy(&output.stderr));
        read_npz(&out.0).unwrap()
    };
    let base = outputs(&["--verify", "--threads", "2"]);
    for way in [&["--no-fuse"][..], &["--backend", "interpreter"]] {
        for (key, value) in outputs(way) {
            assert!(value.same_bits(&base[&key]), "{way:?}: `{key}` is\n{value}\nnot\n{}", base[&key]);
        }
    }
    for (key, value) in outputs(&["--interpret"]) {
        let (got, exact) = (base[&key].to_f64(), value.to_f64());
        let near =
            |(a, b): (&f64, &f64)| a == b || (a - b).abs() <= 1e-4 * b.abs().max(1.0) || (a.is_nan() && b.is_nan());
        assert!(got.iter().zip(&exact).all(near), "the oracle's `{key}` is\n{value}\nnot\n{}", base[&key]);
    }
    // Optimized by itself, it is the same graph to every other command.
    let optimized = run_with_stdin(&["opt", "-"], graph.to_string().as_bytes());
    let again = run_with_stdin(&["opt", "-"], &optimized.stdout);
    assert_eq!(check_success(&again).as_bytes(), optimized.stdout);
    check_success(&run_with_stdin(&["explain", "-"], graph.to_string().as_bytes()));
    for stage in ["source", "optimized", "fused"] {
        check_success(&run_with_stdin(&["dot", "-", "--stage", stage], graph.to_string().as_bytes()));
    }
    base
}

#[test]
fn every_op_and_its_derivative_go_through_a_file() {
    let mut inputs = BTreeMap::new();
    let mut n_ops = 0;
    let graph = build(|g| {
        let sampled = |op: &&cotangent::graph::OpRef| !op.is_named() && !matches!(op.lower, Lower::Grad);
        for op in Registry::builtin().iter().collect::<Vec<_>>().iter().filter(sampled) {
            for dtype in [F32, F64] {
                for (n, sample) in (op.samples)(&mut Sampler::new(dtype, 11)).into_iter().enumerate() {
                    let prefix = format!("{}.{n}.{dtype}", op.name);
                    let mut operands: Vec<Tensor<'_>> = Vec::new();
                    for (k, x) in sample.inputs.iter().enumerate() {
                        inputs.insert(format!("{prefix}.x{k}"), x.clone());
                        operands.push(g.input(&format!("{prefix}.x{k}"), x.dtype(), x.shape()));
                    }
                    let y = g.op(op.0, &operands, sample.attrs.clone(), sample.declared.clone());
                    g.output(&format!("{prefix}.y"), y);
                    let floats: Vec<_> = operands.into_iter().filter(|x| x.is_float()).collect();
                    if y.is_float() && !matches!(op.vjp, Vjp::None(_)) {
                        for (k, slope) in g.grad(y.sum(), &floats).into_iter().enumerate() {
                            g.output(&format!("{prefix}.d{k}"), slope);
                        }
                    }
                    n_ops += usize::from(n == 0 && dtype == F32);
                }
            }
        }
    });
    let graph = graph.unwrap_or_else(|diags| panic!("{diags}"));
    assert!(n_ops > 90, "{n_ops}");
    every_way("all-ops", &graph, inputs);
}

#[test]
fn what_is_unusual_goes_through_a_file_too() {
    let mut s = Sampler::new(F32, 4);
    let names =
        ["", " ", "a b", "q\"uo\"te", "back\\slash", "new\nline\ttab", "péché 😀", "../up", "-", "%0", "; no comment"];
    let mut inputs: BTreeMap<String, TensorData> =
        names.iter().map(|name| (format!("x{name}"), s.float_in(-1.0..1.0, [2, 3]))).collect();
    inputs.insert("none".into(), TensorData::from_bits(F32, &[0, 3].into(), &[]));
    inputs.insert("one".into(), TensorData::from_bits(F64, &[1, 1, 1].into(), &[1.5f64.to_bits()]));
    inputs.insert("bytes".into(), TensorData::from_bits(U8, &[3].into(), &[0, 128, 255]));
    inputs.insert("long".into(), TensorData::from_bits(I64, &[2].into(), &[i64::MIN as u64, i64::MAX as u64]));
    inputs.insert("truth".into(), TensorData::from_bits(Bool, &[2].into(), &[1, 0]));
    let graph = build(|g| {
        let x: Vec<Tensor<'_>> = names.iter().map(|name| g.input(&format!("x{name}"), F32, [2, 3])).collect();
        // Bodies that call bodies and give several results, of other element types too; one is used twice.
        let body = g.body("a \"body\"", &[x[0].ty(), x[1].ty()], |g, v| {
            let inner =
                g.body("inner", &[v[0].ty()], |g, v| vec![v[0].tanh(), v[0].gt(g.scalar(0.0, F32)), v[0].cast(F64)]);
            let r = g.call(&inner, &[v[0] * v[1]]);
            vec![r[0] + v[1], r[1].select(v[0], v[1]), r[2].exp()]
        });
        let (first, second) = (g.call(&body, &[x[0], x[1]]), g.call(&body, &[x[2], x[3]]));
        for (name, result) in ["a", "b", "c"].iter().zip(&first) {
            g.output(&format!("first {name}"), *result);
        }
        let loss = first[0].sum() + (second[1] * first[1]).mean() + second[2].sum().cast(F32);
        g.output("loss", loss);
        for (name, slope) in names.iter().zip(g.grad(loss, &x)) {
            g.output(&format!("d{name}"), slope);
        }
        g.output("d2", g.grad(g.grad(loss, &x[..1])[0].square().sum(), &x[1..2])[0]);
        // Nothing, and next to nothing.
        let (none, one) = (g.input("none", F32, [0, 3]), g.input("one", F64, [1, 1, 1]));
        g.output("empty sum", none.sum_over([0]));
        g.output("empty max", none.exp().max_over([0]));
        g.output("empty", none.t().matmul(none) + 1.0);
        g.output("d none", g.grad(none.square().sum(), &[none])[0]);
        g.output("single", one.softmax(2).log() + one.sum_over([0, 1, 2]));
        // Other element types.
        let (bytes, long, truth) = (g.input("bytes", U8, [3]), g.input("long", I64, [2]), g.input("truth", Bool, [2]));
        g.output("bytes2", bytes * 3 + 200);
        g.output("long2", long - 1);
        g.output("truth2", !truth);
        // Constants of every kind of number, and a large one.
        let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, f32::MIN_POSITIVE / 2.0, f32::MAX, 0.1];
        let bits: Vec<u64> = special.iter().map(|v| u64::from(v.to_bits())).chain([0x7fc0_1234]).collect();
        g.output("special", g.constant(TensorData::from_bits(F32, &[8].into(), &bits)) * g.input("x8", F32, [8]));
        let large = g.constant(Sampler::new(F32, 9).float_in(-1.0..1.0, [200, 300]));
        g.output("large", large.sum_over([0]) * 2.0);
        // Every initialiser, in both float types; and counters.
        let inits = [
            Init::ZEROS,
            Init::ONES,
            Init::constant(-0.1),
            Init::uniform(-0.5, 0.25),
            Init::normal(1.0, 0.5),
            Init::GlorotUniform,
            Init::GlorotNormal,
            Init::HeUniform,
            Init::HeNormal,
            Init::LecunNormal,
        ];
        for (k, init) in inits.into_iter().enumerate() {
            for dtype in [F32, F64] {
                let w = g.param(&format!("w{k} {dtype}"), dtype, [4, 5], init);
                g.output(&format!("w{k} {dtype} after"), w * 2.0);
                g.update(w, w * 0.5);
            }
        }
        let n = g.state("n", I64, [], Init::ZEROS);
        g.update(n, n + 1);
        g.output("noise", x[0].dropout("drop", 0.5) + g.normal("noise", F32, [2, 3]));
    });
    let graph = graph.unwrap_or_else(|diags| panic!("{diags}"));
    inputs.insert("x8".into(), s.float_in(0.5..1.0, [8]));
    let got = every_way("unusual", &graph, inputs.clone());
    assert!(graph.outputs().iter().all(|o| got.contains_key(&*o.name)), "{:?}", got.keys());
    // What was written is what the library computes.
    let mut env = Env { values: inputs.into_iter().collect(), ..Env::default() };
    env.initialize(&graph, 3).unwrap();
    let program = Compiler::new().compile(&graph).unwrap();
    for (name, value) in interp::interpret_named(program.optimized(), &env).unwrap() {
        let key = name.strip_prefix("update ").unwrap_or(&name);
        assert!(value.same_bits(&got[key]), "{name}");
    }
}

/// Whatever a name holds, nothing of it acts on a terminal: neither in results nor in errors.
#[test]
fn names_from_files_do_not_act_on_a_terminal() {
    let hostile = r"a\n\u{1b}[2Jerror[E0999]: no\u{202e}gnp\u{9b}1m\u{200b}\r";
    let name = "a\n\u{1b}[2Jerror[E0999]: no\u{202e}gnp\u{9b}1m\u{200b}\r";
    let is_clean = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes).unwrap();
        let acts = |c: char| cotangent::scalar::plain::is_hidden(c) && c != '\n';
        assert!(!text.contains(acts), "{text:?}");
        assert!(!text.lines().any(|line| line.starts_with("error[E0999]")), "{text}");
        text.to_owned()
    };
    let graph =
        |rest: &str| format!("cotangent 1\ngraph @\"{hostile}\" {{\n%0 = input \"{hostile}\" : f32[2]\n{rest}\n}}\n");
    let good = graph(&format!(
        "%1 = param \"{hostile}p\" {{init = ones}} : f32[2]\n%2 = mul %0, %1\n%3 = reduce_sum %2 {{axes = [0]}}\n\
         output \"{hostile}\" = %3\nupdate \"{hostile}p\" = %2"
    ));
    let (file, npz) = (Scratch::new("names.ct"), Scratch::new("names.npz"));
    std::fs::write(&file.0, &good).unwrap();
    let ones = TensorData::from(ndarray::ArrayD::<f32>::ones(&[2][..]));
    write_npz(&npz.0, &BTreeMap::from([(name.to_owned(), ones.clone())])).unwrap();
    let (graph_path, values) = (file.path(), npz.path());
    for command in [
        &["opt", graph_path][..],
        &["opt", graph_path, "--verify", "--times"],
        &["explain", graph_path],
        &["dot", graph_path],
        &["dot", graph_path, "--stage", "source"],
        &["check", graph_path],
        &["run", graph_path, "-i", values],
    ] {
        let output = run(command);
        assert_eq!(output.status.code(), Some(0), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(is_clean(&output.stdout).contains("E0999") || command[0] == "explain", "{command:?}");
        is_clean(&output.stderr);
    }
    // Errors: of the text, of arrays, of archives, of files.
    for rest in [
        format!("output \"{hostile}\" = %0\noutput \"{hostile}\" = %0"),
        format!("update \"{hostile}\" = %0"),
        format!("%1 = input \"{hostile}\" : f32[2]"),
        "\u{1b}[2J\u{202e}".to_owned(),
        "%1 = t\u{202e} %0".to_owned(),
    ] {
        let output = run_with_stdin(&["opt", "-"], graph(&rest).as_bytes());
        assert_eq!(output.status.code(), Some(1), "{rest}");
        is_clean(&output.stderr);
    }
    let failed = |args: &[&str]| {
        let output = run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        is_clean(&output.stderr)
    };
    failed(&["run", graph_path]);
    let other = Scratch::new("other.npz");
    write_npz(&other.0, &BTreeMap::from([(format!("{name}x"), ones)])).unwrap();
    assert!(failed(&["run", graph_path, "-i", other.path()]).contains("\\u{1b}[2J"));
    let mut damaged = std::fs::read(&npz.0).unwrap();
    let one = damaged.windows(4).position(|bytes| bytes == 1f32.to_le_bytes()).unwrap();
    damaged[one] ^= 1;
    std::fs::write(&other.0, damaged).unwrap();
    assert!(failed(&["run", graph_path, "-i", other.path()]).contains("CRC-32"));
    failed(&["check", graph_path, "--wrt", &format!("{name}x")]);
    // A file may be called like that, too.
    let folder = std::env::temp_dir().join(format!("cotangent-cli-names-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(name);
    std::fs::write(&path, "cotangent 1 graph @a { %0 = nothing }").unwrap();
    failed(&["opt", path.to_str().unwrap()]);
    failed(&["run", graph_path, "-i", path.to_str().unwrap()]);
    // Also of one that is not there, and where dumps go.
    std::fs::remove_dir_all(&folder).unwrap();
    failed(&["opt", path.to_str().unwrap()]);
    failed(&["opt", name]);
    let dumped =
        cotangent(&["explain", graph_path]).env("COTANGENT_DUMP", format!("/dev/null/{name}")).output().unwrap();
    assert_eq!(dumped.status.code(), Some(1));
    is_clean(&dumped.stderr);
}

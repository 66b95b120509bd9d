//! `run`: every way to run agrees, what is written can be read, and wrong arrays are told at the lines of the graph.

use std::collections::BTreeMap;

use cotangent::data::npz::{read_npz, write_npz};
use cotangent::exec::Isa;
use cotangent::prelude::*;
use cotangent_testkit::archives::{Entry, npy_header, zip};
use ndarray::{CowArray, IxDyn, array};

use crate::{GRAPH, Scratch, check_failure, check_success, cotangent as command, run, run_with_stdin};

/// A training step with layers, a stable loss and Adam.
fn mlp() -> Graph {
    build(|g| {
        let x = g.input("x", F32, [4, 2]);
        let y = g.input("y", F32, [4, 1]);
        let logits = x.dense("hidden", 8).tanh().dense("out", 1);
        let loss = logits.bce_with_logits(y).mean();
        g.output("loss", loss);
        g.minimize(loss, Adam::new(0.05));
    })
    .unwrap()
}

fn xor_arrays() -> BTreeMap<String, TensorData> {
    let x = array![[0.0f32, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]].into_dyn();
    let y = array![[0.0f32], [1.0], [1.0], [0.0]].into_dyn();
    BTreeMap::from([("x".to_owned(), x.into()), ("y".to_owned(), y.into())])
}

/// A file of a graph and a file of arrays.
fn files(name: &str, graph: &str, arrays: &BTreeMap<String, TensorData>) -> (Scratch, Scratch) {
    let (text, npz) = (Scratch::new(&format!("{name}.ct")), Scratch::new(&format!("{name}.npz")));
    std::fs::write(&text.0, graph).unwrap();
    write_npz(&npz.0, arrays).unwrap();
    (text, npz)
}

fn one(name: &str, array: impl Into<TensorData>) -> BTreeMap<String, TensorData> {
    BTreeMap::from([(name.to_owned(), array.into())])
}

/// Runs a graph and reads what it writes.
fn outputs(graph: &Scratch, inputs: &[&Scratch], more: &[&str]) -> BTreeMap<String, TensorData> {
    let out = Scratch::new(&format!("out{}.npz", more.join("")));
    let mut args = vec!["run", graph.path(), "--outputs", out.path(), "--seed", "7"];
    inputs.iter().for_each(|input| args.extend(["--inputs", input.path()]));
    args.extend(more);
    let output = run(&args);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    read_npz(&out.0).unwrap()
}

fn f32s(array: &TensorData) -> &CowArray<'static, f32, IxDyn> {
    match array {
        TensorData::F32(array) => array,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_graph_from_the_builder_goes_through_a_file_and_every_way_to_run_agrees() {
    let graph = mlp();
    let (text, npz) = files("mlp", &graph.to_string(), &xor_arrays());
    let expected = {
        let runtime = Runtime::new(Threads::Exactly(1));
        let mut session = Session::new(&runtime, Compiler::new().compile(&graph).unwrap(), Seed(7)).unwrap();
        let arrays = xor_arrays();
        let mut loss = 0.0;
        for _ in 0..5 {
            let inputs = arrays.iter().map(|(name, a)| (name.as_str(), HostTensor::from(f32s(a))));
            loss = session.step(cotangent::exec::Each(inputs)).unwrap().scalar("loss").unwrap();
        }
        (loss, session.store().get("hidden.weight").unwrap())
    };
    let base = outputs(&text, &[&npz], &["--steps", "5", "--threads", "1"]);
    assert_eq!(f64::from(f32s(&base["loss"])[IxDyn(&[])]), expected.0);
    assert_eq!(TensorData::from(f32s(&base["hidden.weight"]).clone()), expected.1);
    for way in [
        &["--steps", "5", "--threads", "2", "--verify"][..],
        &["--steps", "5", "--no-fuse"],
        &["--steps", "5", "--backend", "cranelift"],
        &["--steps", "5", "--backend", "interpreter"],
        &["--steps", "5", "--backend", "interpreter", "--no-fuse", "--verify"],
    ] {
        assert_eq!(outputs(&text, &[&npz], way), base, "{way:?}");
    }
    // The oracle runs the graph as written: rules that improve rounding are not applied.
    let oracle = outputs(&text, &[&npz], &["--steps", "5", "--interpret"]);
    assert!(oracle.keys().eq(base.keys()));
    for (name, value) in &base {
        let TensorData::F32(value) = value else {
            assert_eq!(value, &oracle[name], "{name}");
            continue;
        };
        let far = value.iter().zip(f32s(&oracle[name])).any(|(a, b)| (a - b).abs() > 1e-4);
        assert!(!far, "{name}");
    }
    let checked = run(&["check", text.path(), "--elements", "4"]);
    assert!(check_success(&checked).contains("hidden.weight"));
}

/// What stands under "code" in an explanation, with a backend and an instruction set.
fn explained_code(backend: &str, isa: &str) -> std::process::Output {
    command(&["explain", "xor", "--backend", backend]).env("COTANGENT_ISA", isa).output().unwrap()
}

#[test]
fn the_instruction_set_of_wide_code_can_be_forced() {
    let cranelift = check_success(&explained_code("cranelift", "")).to_owned();
    assert!(cranelift.contains(", cranelift\n") && !cranelift.contains(", wide, "), "{cranelift}");
    for isa in Isa::ALL {
        let has_wide_code = matches!(isa, Isa::Avx2 | Isa::Avx512);
        let forced = explained_code("wide", isa.name());
        if isa.is_available() && has_wide_code {
            let text = check_success(&forced);
            assert!(text.contains(&format!(", wide, {}\n", isa.name())), "{forced:?}");
            assert!(text.contains(&format!("for {}, ", isa.name())), "{forced:?}");
        } else {
            check_failure(&forced, 1, isa.name());
        }
    }
    let portable = check_success(&explained_code("auto", "portable")).to_owned();
    assert!(portable.contains(", cranelift\n") && !portable.contains(", wide, "), "{portable}");
    check_failure(
        &explained_code("auto", "avx9000"),
        1,
        "COTANGENT_ISA requires one of portable, neon, avx2, avx512, got `avx9000`",
    );
}

#[test]
fn a_run_goes_on_from_what_an_earlier_one_wrote() {
    let (text, npz) = files("resume", &mlp().to_string(), &xor_arrays());
    let whole = outputs(&text, &[&npz], &["--steps", "5"]);
    let first = Scratch::new("first.npz");
    write_npz(&first.0, &outputs(&text, &[&npz], &["--steps", "3"])).unwrap();
    assert_eq!(outputs(&text, &[&npz, &first], &["--steps", "2"]), whole);
}

#[test]
fn every_element_type_goes_in_and_out() {
    let graph = "cotangent 1 graph @types {
      %0 = input \"a\" : f64[2] %1 = input \"b\" : i32[2] %2 = input \"c\" : i64[2] %3 = input \"d\" : u8[2]
      %4 = input \"e\" : bool[2] %5 = input \"f\" : f32[]
      output \"a2\" = %0 output \"b2\" = %1 output \"c2\" = %2 output \"d2\" = %3 output \"e2\" = %4 output \"f2\" = %5 }";
    let arrays: BTreeMap<String, TensorData> = BTreeMap::from([
        ("a".to_owned(), array![f64::MIN_POSITIVE, -0.0].into_dyn().into()),
        ("b".to_owned(), array![i32::MIN, i32::MAX].into_dyn().into()),
        ("c".to_owned(), array![i64::MIN, i64::MAX].into_dyn().into()),
        ("d".to_owned(), array![0u8, 255].into_dyn().into()),
        ("e".to_owned(), array![true, false].into_dyn().into()),
        ("f".to_owned(), ndarray::ArrayD::from_elem(IxDyn(&[]), 1.5f32).into()),
    ]);
    let (text, npz) = files("types", graph, &arrays);
    for way in [&[][..], &["--interpret"], &["--backend", "interpreter"]] {
        let got = outputs(&text, &[&npz], way);
        let expected: BTreeMap<String, TensorData> = arrays.iter().map(|(n, a)| (format!("{n}2"), a.clone())).collect();
        assert_eq!(got, expected, "{way:?}");
    }
    let printed = run(&["run", text.path(), "-i", npz.path()]);
    assert!(check_success(&printed).contains("c2 : i64[2] = -9223372036854775808 9223372036854775807\n"));
}

#[test]
fn a_result_called_like_a_parameter_is_written_beside_it() {
    let graph = "cotangent 1 graph @same { %0 = param \"w\" {init = ones} : f32[2] %1 = neg %0 output \"w\" = %1 }";
    let (text, npz) = files("same", graph, &BTreeMap::new());
    let got = outputs(&text, &[&npz], &[]);
    assert_eq!((f32s(&got["w"])[[0]], f32s(&got["result w"])[[0]]), (1.0, -1.0));
    write_npz(&npz.0, &got).unwrap();
    assert_eq!(outputs(&text, &[&npz], &[]), got);
}

#[test]
fn the_graph_or_the_arrays_come_from_the_standard_input() {
    let (text, npz) = files("piped", GRAPH, &one("x", array![0.0f32, 0.0, 0.0, 0.0].into_dyn()));
    let piped = run_with_stdin(&["run", "-", "--inputs", npz.path()], GRAPH.as_bytes());
    assert_eq!(check_success(&piped), "y : f32[4] = 1.0 1.0 1.0 1.0\n");
    let bytes = std::fs::read(&npz.0).unwrap();
    assert_eq!(run_with_stdin(&["run", text.path(), "--inputs", "-"], &bytes).stdout, piped.stdout);
    check_failure(&run(&["run", "-", "--inputs", "-"]), 2, "'-' was given twice");
}

#[test]
fn wrong_arrays_are_told_at_the_lines_of_the_graph() {
    let (text, npz) = files("wrong", GRAPH, &one("x", array![0.0f64, 0.0, 0.0, 0.0].into_dyn()));
    let args = ["run", text.path(), "--inputs", npz.path()];
    let place = format!("{}:3:3", text.path());
    let output = run(&args);
    check_failure(&output, 1, "error[E0302]: the input `x` requires f32[4], got f64[4]");
    check_failure(&output, 1, &place);
    check_failure(&output, 1, "`.astype(\"float32\")`");
    write_npz(&npz.0, &one("x", array![0.0f32].into_dyn())).unwrap();
    check_failure(&run(&args), 1, "requires f32[4], got f32[1]");
    write_npz(&npz.0, &one("xx", array![0.0f32].into_dyn())).unwrap();
    let output = run(&args);
    check_failure(&output, 1, "error[E0301]: the input `x` of type f32[4] has no value");
    check_failure(&output, 1, &place);
    check_failure(&output, 1, "did you mean `x`?");
    check_failure(&run(&["run", text.path()]), 1, "hand it in: --inputs FILE.npz");
    std::fs::write(&npz.0, b"not an archive").unwrap();
    check_failure(&run(&args), 1, "wrong.npz");
    std::fs::write(&text.0, "cotangent 1\ngraph @broken {\n  %0 = inptu \"x\" : f32[4]\n}\n").unwrap();
    check_failure(&run(&args), 1, &format!("{}:3:8", text.path()));
}

#[test]
fn a_step_that_is_an_error_is_one_of_the_input() {
    let graph = "cotangent 1\ngraph @log {\n  %0 = input \"x\" : f32[2]\n  %1 = log %0\n  %2 = check_finite %1\n  \
                 output \"y\" = %2\n}\n";
    let (text, npz) = files("log", graph, &one("x", array![1.0f32, 0.0].into_dyn()));
    for way in [&[][..], &["--verify"], &["--interpret"], &["--backend", "interpreter"]] {
        let output = run(&[&["run", text.path(), "--inputs", npz.path()], way].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{way:?}: {stderr}");
        assert!(stderr.contains("error[E0305]") && stderr.contains("log.ct:"), "{way:?}: {stderr}");
        // Machine code tells that something is wrong, and the interpreter where it starts.
        let is_code = matches!(way, [] | ["--verify"]);
        let located = stderr.contains("`log` makes it from finite operands") && stderr.contains("log.ct:4:3");
        assert_eq!(located, is_code, "{way:?}: {stderr}");
    }
}

#[test]
fn ways_to_run_that_exclude_each_other_are_told() {
    for flag in ["--no-fuse", "--verify"] {
        check_failure(&run(&["run", "xor", "--interpret", flag]), 2, "cannot be used with");
    }
    check_failure(&run(&["run", "xor", "--steps", "0"]), 2, "0");
    check_failure(&run(&["run", "xor", "--backend", "gcc"]), 2, "interpreter");
}

/// What the graph does not name is not expanded, and what it names is not expanded without end.
#[test]
fn archives_that_expand_without_end_are_told_in_their_sizes() {
    let zeros = |n: usize| [npy_header("<f4", false, &[n]), vec![0; 4 * n]].concat();
    let (large, small) = (zeros(20 << 20), zeros(4));
    let archive = |x: &[u8], other: &str| {
        let file = Scratch::new("bomb.npz");
        std::fs::write(&file.0, zip(&[Entry::new("x.npy", x, true), Entry::new(other, &large, true)])).unwrap();
        file
    };
    let (graph, _) = files("bomb", GRAPH, &BTreeMap::new());
    // `result y` is what an earlier run left.
    let unnamed = archive(&small, "result y.npy");
    check_success(&run(&["run", graph.path(), "-i", unnamed.path()]));
    let unknown = archive(&small, "z.npy");
    check_failure(&run(&["run", graph.path(), "-i", unknown.path()]), 1, "no input, parameter or state named `z`");
    let named = archive(&large, "result y.npy");
    let size = named.0.metadata().unwrap().len();
    let says = format!("x.npy: expands to 83886208 bytes from {size}; at most 67108864 are allowed");
    check_failure(&run(&["run", graph.path(), "-i", named.path()]), 1, &says);
    let allowed = run(&["run", graph.path(), "-i", named.path(), "--max-bytes", "83886208"]);
    check_failure(&allowed, 1, "requires f32[4], got f32[20971520]");
    check_failure(
        &run(&["bench", "-w", "elementwise", "--load", named.path(), "--steps", "1", "--max-bytes", "9"]),
        1,
        "--max-bytes",
    );
    // Batches are `x0`, `x1`, …: `x` is nothing to this workload.
    let without = run(&["bench", "-w", "xor", "--load", named.path(), "--steps", "1"]);
    check_failure(&without, 1, "array `x0`: required f32[4,2], got an archive without any of the workload's arrays");
    let piped = run_with_stdin(&["run", graph.path(), "-i", "-"], &std::fs::read(&named.0).unwrap());
    check_failure(&piped, 1, "<stdin>: x.npy: expands to 83886208 bytes");
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_told_and_pipes_are_read() {
    let (graph, npz) = files("special", GRAPH, &one("x", array![0.0f32, 1.0, 2.0, 3.0].into_dyn()));
    for (path, what) in [("/dev/zero", "a device"), ("/", "a folder")] {
        let says = format!("{path}: required a file, got {what}");
        check_failure(&run(&["run", path]), 1, &says);
        check_failure(&run(&["run", graph.path(), "-i", path]), 1, &says);
        check_failure(&run(&["bench", "-w", "xor", "--load", path]), 1, &says);
    }
    let fifo = Scratch::new("input.fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo.0).status().unwrap().success());
    check_failure(&run(&["run", fifo.path()]), 1, "nobody writes to it");
    check_failure(&run(&["run", graph.path(), "-i", fifo.path()]), 1, "nobody writes to it");
    // As a shell does it for `<(command)`.
    for (args, from) in
        [(vec!["run", fifo.path(), "-i", npz.path()], &graph), (vec!["run", graph.path(), "-i", fifo.path()], &npz)]
    {
        let bytes = std::fs::read(&from.0).unwrap();
        let writer = std::thread::spawn({
            let path = fifo.0.clone();
            move || std::fs::write(path, bytes).unwrap()
        });
        assert!(check_success(&run(&args)).starts_with("y : f32[4] = "));
        writer.join().unwrap();
    }
    let text = std::fs::read(&graph.0).unwrap();
    assert!(check_success(&run_with_stdin(&["run", "/dev/stdin", "-i", npz.path()], &text)).starts_with("y : "));
    // Standard input without end.
    let mut endless = command(&["opt", "-", "--max-bytes", "1000000"]);
    let endless = endless.stdin(std::fs::File::open("/dev/zero").unwrap()).output().unwrap();
    check_failure(&endless, 1, "<stdin>: has more than the 1000000 bytes that are allowed");
    check_failure(&run_with_stdin(&["opt", "-"], &[0xff, 0xfe]), 1, "no text in UTF-8");
}

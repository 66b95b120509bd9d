//! The command line as a user meets it: exit codes, what goes where, JSON keys, closed pipes.

mod anything;
mod learn;
mod memory;
mod run;
mod tools;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const GRAPH: &str = r#"cotangent 1
graph @demo {
  %0 = input "x" : f32[4]
  %1 = exp %0
  %2 = add %1, %0
  output "y" = %2
}
"#;

fn cotangent(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cotangent"));
    command.args(args).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    cotangent(args).output().unwrap()
}

fn run_with_stdin(args: &[&str], input: &[u8]) -> Output {
    let mut command = cotangent(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Checks the exit code, and that an error goes to the standard error alone and says this.
fn check_failure(output: &Output, code: i32, expected: &str) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    assert!(stderr.contains(expected), "{stderr:?} should say {expected:?}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

fn check_success(output: &Output) -> &str {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// A file of this test run, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Scratch(std::env::temp_dir().join(format!("cotangent-cli-{}-{name}", std::process::id())))
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A file that was never written needs no removal.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn bench_prints_one_json_object_with_all_keys() {
    let output = run(&["bench", "--workload", "xor", "--threads", "1", "--steps", "3", "--json"]);
    let stdout = check_success(&output);
    assert_eq!(stdout.lines().count(), 1);
    let json: Value = serde_json::from_str(stdout).unwrap();
    for key in [
        "workload",
        "threads",
        "backend",
        "fused",
        "median_ms",
        "min_ms",
        "p90_ms",
        "steps",
        "build_ms",
        "compile_ms",
        "first_step_ms",
        "peak_rss_mib",
        "held_mib",
        "excess_mib",
        "arena_bytes",
        "n_nodes",
        "n_kernels",
        "n_distinct_kernels",
        "loss_first5",
        "gflops_median",
        "gflops_best",
    ] {
        assert!(json.get(key).is_some(), "{key} is missing in {stdout}");
    }
    assert_eq!((&json["workload"], &json["steps"], &json["fused"]), (&"xor".into(), &3.into(), &true.into()));
    assert_eq!(json["loss_first5"].as_array().unwrap().len(), 5);
}

#[test]
fn bench_of_inference_has_its_batch_and_no_losses() {
    let output = run(&["bench", "-w", "xor", "--infer", "--batch", "3", "-t", "1", "--steps", "3", "--json"]);
    let json: Value = serde_json::from_str(check_success(&output)).unwrap();
    assert_eq!((&json["batch"], json["loss_first5"].as_array().unwrap().len()), (&3.into(), 0));
    assert!(json["check"].as_f64().unwrap() > 0.0 && json["examples_per_s"].as_f64().unwrap() > 0.0, "{json}");
}

/// Ways are written once a trial is over, and then read; a file of another kind is refused.
#[test]
fn bench_keeps_the_ways_of_products() {
    let file = Scratch::new("ways.txt");
    let bench = |steps: Option<&str>| {
        let mut args =
            vec!["bench", "-w", "matmul", "--m", "96", "--k", "96", "--n", "96", "-t", "1", "--ways", file.path()];
        args.extend(steps.into_iter().flat_map(|n| ["--steps", n]));
        run(&args)
    };
    check_success(&bench(None));
    let text = std::fs::read_to_string(&file.0).unwrap();
    assert!(text.starts_with("cotangent ways 1\n") && text.lines().count() == 3, "{text}");
    check_success(&bench(Some("2")));
    std::fs::write(&file.0, "something else\n").unwrap();
    let refused = bench(Some("2"));
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("line 1: expected"), "{refused:?}");
}

/// Behind `@` stands how many examples a network predicts for.
#[test]
fn what_a_network_predicts_is_a_graph_too() {
    let plan = run(&["explain", "xor@3"]);
    assert!(check_success(&plan).contains("[3,1]"), "{plan:?}");
    for (source, why) in [("xor@many", "a number of examples, got `many`"), ("matmul@3", "required a network")] {
        let refused = run(&["explain", source]);
        assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains(why), "{refused:?}");
    }
}

#[test]
fn bench_compares_kinds_of_fusion() {
    let chart = Scratch::new("fusions.svg");
    let args = ["bench", "-w", "xor", "-t", "1", "--steps", "3", "--chart", chart.path(), "--compare"];
    let names = ["as it is", "without epilogue", "without update", "nothing fused"];
    for (what, shown) in [("fused,each,unfused", &[0, 1, 2, 3][..]), ("unfused,fused", &[0, 3])] {
        let output = run(&[&args[..], &[what]].concat());
        let text = check_success(&output);
        let picture = std::fs::read_to_string(&chart.0).unwrap();
        for (k, name) in names.into_iter().enumerate() {
            assert_eq!(text.lines().any(|line| line.starts_with(name)), shown.contains(&k), "{text}");
            assert_eq!(picture.contains(name), shown.contains(&k), "{picture}");
        }
    }
    check_failure(&run(&["bench", "-w", "xor", "--compare", "fused,unfuse"]), 2, "'unfused'");
    check_failure(&run(&["bench", "-w", "xor", "--chart", chart.path()]), 2, "--compare");
}

#[test]
fn bench_of_the_expression_and_of_products_takes_sizes() {
    let args = ["bench", "-w", "elementwise", "-t", "1", "--steps", "2", "--n", "500", "--what", "value", "--json"];
    let json: Value = serde_json::from_str(check_success(&run(&args))).unwrap();
    assert_eq!((&json["what"], &json["n"], &json["bytes_moved"]), (&"value".into(), &500.into(), &10_000.into()));
    assert!(json["ns_per_element"].as_f64().unwrap() > 0.0 && json["loss_first5"].as_array().unwrap().is_empty());
    let args =
        ["bench", "-w", "matmul", "-t", "1", "--steps", "2", "--m", "8", "--k", "16", "--n", "4", "--ta", "--no-fuse"];
    let output = run(&args);
    let table = check_success(&output);
    assert!(table.contains("gflops_median") && table.contains("fused                no"), "{table}");
}

#[test]
fn mistakes_on_the_command_line_exit_with_2() {
    check_failure(&run(&[]), 2, "Usage: cotangent");
    check_failure(&run(&["bench"]), 2, "--workload");
    check_failure(&run(&["bench", "-w", "mlp"]), 2, "mlp-s");
    check_failure(&run(&["bench", "-w", "xor", "--threads", "0"]), 2, "0");
    check_failure(&run(&["bench", "-w", "xor", "--steps", "x"]), 2, "--steps");
    check_failure(&run(&["bench", "-w", "xor", "--n", "5"]), 2, "the workload 'xor' has no option '--n'");
    check_failure(&run(&["bench", "-w", "elementwise", "--m", "5"]), 2, "has no option '--m'");
    check_failure(&run(&["bench", "-w", "matmul", "--what", "value"]), 2, "has no option '--what'");
    check_failure(&run(&["bench", "-w", "matmul", "--infer"]), 2, "has no option '--infer'");
    check_failure(&run(&["bench", "-w", "xor", "--batch", "2"]), 2, "--infer");
    check_failure(&run(&["bench", "-w", "xor", "--infer", "--batch", "0"]), 2, "--batch");
    check_failure(&run(&["dot", "xor", "--stage", "final"]), 2, "optimized");
    check_failure(&run(&["frobnicate"]), 2, "frobnicate");
}

#[test]
fn mistakes_in_the_input_exit_with_1() {
    check_failure(&run(&["bench", "-w", "xor", "--load", "no-such-file.npz"]), 1, "no-such-file.npz");
    check_failure(&run(&["bench", "-w", "elementwise", "--n", "999999999999999999"]), 1, "E0106");
    check_failure(&run(&["dot", "no-such-file.ct"]), 1, "it is no workload either (those are xor, mlp-s");
    check_failure(&run_with_stdin(&["explain", "-"], b"cotangent 1 graph"), 1, "error[E0201]");
    check_failure(&run_with_stdin(&["dot", "-"], b""), 1, "error[");
    check_failure(&run(&["dot", "xor", "-o", "no/such/folder/x.dot"]), 1, "no/such/folder/x.dot: could not write");
    let broken = Scratch::new("broken.npz");
    std::fs::write(&broken.0, b"not an archive").unwrap();
    check_failure(&run(&["bench", "-w", "xor", "--load", broken.path()]), 1, "broken.npz");
}

#[test]
fn dot_draws_each_stage_of_workloads_files_and_the_standard_input() {
    for stage in ["source", "optimized", "fused"] {
        let output = run(&["dot", "xor", "--stage", stage]);
        let stdout = check_success(&output);
        assert!(stdout.starts_with("digraph ") && stdout.ends_with("}\n"), "{stdout}");
        assert_eq!(stdout.contains("subgraph"), stage == "fused", "{stdout}");
    }
    let piped = run_with_stdin(&["dot", "-", "--stage", "source"], GRAPH.as_bytes());
    assert!(check_success(&piped).contains("exp"));
    let (graph, drawing) = (Scratch::new("demo.ct"), Scratch::new("demo.dot"));
    std::fs::write(&graph.0, GRAPH).unwrap();
    let output = run(&["dot", graph.path(), "--stage", "source", "-o", drawing.path()]);
    assert!(check_success(&output).is_empty());
    assert_eq!(std::fs::read(&drawing.0).unwrap(), piped.stdout);
}

#[test]
fn explain_tells_passes_fusion_and_plan() {
    let output = run(&["explain", "xor"]);
    let stdout = check_success(&output);
    for part in ["passes\n", "differentiate", "\nfusion\n", "\nplan\n", "\ncompiled in "] {
        assert!(stdout.contains(part), "{part:?} is missing in {stdout}");
    }
    check_success(&run_with_stdin(&["explain", "-", "--no-fuse"], GRAPH.as_bytes()));
    let output = run(&["explain", "mlp-s", "--no-fuse=update,epilogue", "--fuse=next-sweep"]);
    check_success(&output);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("keep: fusion `update` is turned off") && !text.contains("fuse epilogue:"), "{text}");
    check_failure(&run(&["explain", "xor", "--no-fuse=epilog"]), 2, "epilogue");
    check_failure(&run(&["explain", "xor", "--no-fuse=update", "--fuse=update"]), 2, "both forbidden and forced");
}

#[test]
fn help_and_version_go_to_the_standard_output() {
    let output = run(&["bench", "--help"]);
    let help = check_success(&output);
    assert!(help.contains("--no-fuse") && help.contains("784-1024-1024-10"), "{help}");
    let version = run(&["--version"]);
    assert!(check_success(&version).starts_with("cotangent "));
}

#[test]
fn a_pipe_closed_early_is_no_failure() {
    // The reading end is gone before the program has anything to write.
    let mut child = cotangent(&["dot", "mlp-l", "--stage", "optimized"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""));
}

//! `opt`, `check`, `reduce` and `ops`: text in, text out.

use cotangent::data::npz::write_npz;
use cotangent_testkit::growing::{nested_calls, repeated_gradients};
use ndarray::ArrayD;

use crate::{GRAPH, Scratch, check_failure, check_success, run, run_with_stdin, text};

/// A graph whose step is an error: the logarithm of what is never positive.
const FAILING: &str = r#"cotangent 1
graph @failing {
  %0 = input "x" : f32[8]
  %1 = param "w" {init = ones} : f32[8]
  %2 = mul %0, %1
  %3 = exp %2
  %4 = mul %2, %2
  %5 = neg %4
  %6 = log %5
  %7 = tanh %6
  %8 = check_finite %7
  %9 = add %8, %3
  %10 = reduce_sum %9 {axes = [0]}
  output "loss" = %10
  output "y" = %3
}
"#;

#[test]
fn opt_prints_what_it_reads_again() {
    let source = run(&["opt", "xor", "--passes", ""]);
    let source = check_success(&source);
    assert!(source.contains(" = grad "), "{source}");
    let again = run_with_stdin(&["opt", "-", "--passes="], source.as_bytes());
    assert_eq!(check_success(&again), source);
    let optimized = run_with_stdin(&["opt", "-"], source.as_bytes());
    let optimized = check_success(&optimized);
    assert!(!optimized.contains(" = grad "), "{optimized}");
    let twice = run_with_stdin(&["opt", "-"], optimized.as_bytes());
    assert_eq!(check_success(&twice), optimized);
    let file = Scratch::new("optimized.ct");
    assert!(check_success(&run(&["opt", "xor", "-o", file.path()])).is_empty());
    assert_eq!(std::fs::read_to_string(&file.0).unwrap(), optimized);
}

#[test]
fn opt_verifies_and_times_on_the_standard_error() {
    let plain = run(&["opt", "xor"]);
    let told = run(&["opt", "xor", "--verify", "--times", "--seed", "3"]);
    assert_eq!((told.status.code(), &told.stdout), (Some(0), &plain.stdout), "{}", text(&told.stderr));
    let stderr = text(&told.stderr);
    assert!(stderr.contains("differentiate  differences") && stderr.contains(" nodes "), "{stderr}");
    let stopped = run(&["opt", "xor", "--fuel", "0"]);
    assert_ne!(check_success(&stopped), text(&plain.stdout));
}

#[test]
fn opt_tells_unknown_and_misplaced_passes() {
    let output = run(&["opt", "xor", "--passes", "simplfy"]);
    check_failure(&output, 2, "no pass is named 'simplfy'; did you mean 'simplify'?");
    check_failure(&run(&["opt", "xor", "--passes", "dce,what-is-this"]), 2, "the passes are: stabilize, differentiate");
    check_failure(&run(&["opt", "xor", "--passes", "simplify"]), 1, "run the passes before it as well");
    let broken = run_with_stdin(&["opt", "-"], b"cotangent 1\ngraph @g {\n  %0 = ad %1\n}\n");
    check_failure(&broken, 1, "<stdin>:3:8");
    check_failure(&run(&["opt", "xor", "-o", "no/such/folder/x.ct"]), 1, "could not write");
}

/// Whatever has a name and is misspelled: the name that was meant is suggested.
#[test]
fn misspelled_names_are_met_with_the_nearest() {
    let cases: [(&[&str], i32, &str); 14] = [
        (&["explian", "xor"], 2, "'explain'"),
        (&["opt", "xor", "--pases", "dce"], 2, "'--passes'"),
        (&["opt", "xor", "--passes", "fold,simplfy"], 2, "did you mean 'simplify'?"),
        (&["ops", "matmull"], 2, "did you mean 'matmul'?"),
        (&["dot", "xor", "--stage", "fusd"], 2, "'fused'"),
        (&["explain", "xor", "--backend", "craneleft"], 2, "'cranelift'"),
        (&["run", "xor", "--backend", "interpeter"], 2, "'interpreter'"),
        (&["bench", "-w", "layer-norm"], 2, "'layernorm'"),
        (&["explain", "layer-norm"], 1, "did you mean `layernorm`?"),
        (&["check", "xor", "--loss", "los"], 1, "did you mean `loss`?"),
        (&["check", "xor", "--wrt", "optimiser.lr"], 1, "did you mean `optimizer.lr`?"),
        (&["check", "-", "--wrt", "inptu"], 1, "did you mean `input`?"),
        (&["check", "-", "--wrt", "nothing"], 1, "known: input"),
        (&["opt", "xor", "--passes", "exapnd"], 2, "did you mean 'expand'?"),
    ];
    let graph = "cotangent 1 graph @f { %0 = input \"input\" : f32[4] %1 = tanh %0 output \"y\" = %1 }";
    for (args, code, expected) in cases {
        // A command that does not read its input closes the pipe.
        let output = if args.contains(&"-") { run_with_stdin(args, graph.as_bytes()) } else { run(args) };
        check_failure(&output, code, expected);
    }
}

#[test]
fn explore_writes_a_page_and_why_answers() {
    let (page, graph) = (Scratch::new("page.html"), Scratch::new("why.ct"));
    std::fs::write(&graph.0, GRAPH).unwrap();
    assert!(check_success(&run(&["explore", graph.path(), "--measure", "-o", page.path()])).is_empty());
    let text = std::fs::read_to_string(&page.0).unwrap();
    assert!(text.starts_with("<!doctype html>") && text.contains("\"name\":\"demo\""), "{} bytes", text.len());
    let answer = run(&["why", graph.path(), "fused", "exp", "add"]);
    assert!(check_success(&answer).contains("why.ct:4:3") && check_success(&answer).contains("fuse "));
    check_failure(&run(&["why", graph.path(), "fused", "epx"]), 1, "did you mean `exp`?");
    check_failure(&run(&["why", graph.path(), "fsed", "exp"]), 2, "did you mean 'fused'?");
    check_failure(&run(&["why", graph.path(), "gradient", "x"]), 1, "asks for no gradient");
    check_failure(&run(&["explore", graph.path(), "-o", "no/such/folder/x.html"]), 1, "could not write");
}

#[test]
fn profile_tells_every_step_and_writes_a_trace() {
    let trace = Scratch::new("trace.json");
    let output = run(&["profile", "xor", "--threads", "2", "--steps", "3", "--trace", trace.path()]);
    let table = check_success(&output);
    assert!(table.contains("roofline") && table.contains("medians of 3 steps"), "{table}");
    let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&trace.0).unwrap()).unwrap();
    assert!(written["traceEvents"].as_array().unwrap().len() > 3);
    check_failure(&run(&["profile", "xor", "--steps", "0"]), 2, "--steps");
    check_failure(&run(&["profile", "xor", "--threads", "0"]), 2, "--threads");
    check_failure(&run(&["profile", "xro"]), 1, "did you mean `xor`?");
    check_failure(&run(&["profile", "xor", "--trace", "no/such/folder/t.json"]), 1, "could not write");
}

/// A file of a target is what programs are compiled for, and one with a mistake is named with its line.
#[test]
fn targets_come_from_files() {
    let file = Scratch::new("slow.target");
    let target = cotangent::exec::Target::usual().to_text();
    std::fs::write(&file.0, target.replace("step_ns = 100", "step_ns = 123456")).unwrap();
    let output = run(&["explain", "xor", "--target", file.path()]);
    assert!(check_success(&output).contains("step_ns 123456"));
    // What runs and what is timed takes it too, with the same results.
    let graph = Scratch::new("closed.ct");
    std::fs::write(&graph.0, "cotangent 1\ngraph @closed {\n  %0 = param \"w\" {init = ones} : f32[8]\n  %1 = exp %0\n  output \"y\" = %1\n}\n").unwrap();
    let plain = run(&["run", graph.path()]);
    assert_eq!(check_success(&plain), check_success(&run(&["run", graph.path(), "--target", file.path()])));
    check_success(&run(&["bench", "-w", "xor", "--steps", "2", "--target", file.path()]));
    check_success(&run(&["bench", "-w", "xor", "--steps", "2", "--compare", "fused,unfused", "--target", file.path()]));
    for command in
        [&["run", graph.path()][..], &["run", graph.path(), "--backend", "interpreter"], &["bench", "-w", "xor"]]
    {
        let args: Vec<&str> = command.iter().copied().chain(["--target", "no-such.target"]).collect();
        check_failure(&run(&args), 1, "no-such.target");
    }
    let told = run(&["calibrate", "--report", "xor", "--target", file.path()]);
    assert_eq!(told.status.code(), Some(0));
    assert!(text(&told.stdout).contains("within 2.5 times") && text(&told.stderr).contains("GFLOP/s"), "{told:?}");
    std::fs::write(&file.0, target.replace("cores = 1", "cores = none")).unwrap();
    check_failure(
        &run(&["explain", "xor", "--target", file.path()]),
        1,
        "line 3 of a target: `cores` must be a whole number",
    );
    check_failure(&run(&["explain", "xor", "--target", "no-such.target"]), 1, "no-such.target");
}

#[test]
fn check_reports_a_gradient_and_fails_unless_it_is_confirmed() {
    let output = run(&["check", "xor", "--order", "2", "--elements", "3"]);
    let stdout = check_success(&output);
    assert!(
        stdout.starts_with("gradient of `loss` against central differences") && stdout.contains("\n2  "),
        "{stdout}"
    );
    // Without parameters, by the inputs.
    let inputs = run_with_stdin(&["check", "-"], GRAPH.as_bytes());
    assert!(check_success(&inputs).contains("\n1      x "));
    // The logarithm of what is never positive has no gradient.
    let nowhere =
        b"cotangent 1 graph @n { %0 = input \"x\" : f32[4] %1 = mul %0, %0 %2 = neg %1 %3 = log %2 output \"y\" = %3 }";
    let failed = run_with_stdin(&["check", "-"], nowhere);
    assert_eq!(failed.status.code(), Some(1));
    assert!(text(&failed.stdout).contains("NOT FINITE"), "{}", text(&failed.stdout));
    assert!(text(&failed.stderr).contains("central differences do not confirm the gradient"));
}

#[test]
fn check_tells_what_cannot_be_differentiated() {
    check_failure(&run(&["check", "xor", "--order", "3"]), 2, "--order");
    check_failure(&run(&["check", "xor", "--loss", "los"]), 1, "no float result is named `los`");
    check_failure(&run(&["check", "xor", "--wrt", "nothing"]), 1, "no input, parameter or state is named `nothing`");
    let integers = b"cotangent 1 graph @i { %0 = input \"x\" : i32[4] output \"y\" = %0 }";
    check_failure(&run_with_stdin(&["check", "-"], integers), 1, "no float result");
    let constant = b"cotangent 1 graph @c { %0 = constant {value = 1.0} : f32[] output \"y\" = %0 }";
    check_failure(&run_with_stdin(&["check", "-"], constant), 1, "to differentiate by");
}

/// A text of some hundred bytes that would be a graph without end is an error of every command that makes graphs of it.
#[test]
fn graphs_without_end_are_errors_of_every_command() {
    for source in [nested_calls(15, 4), repeated_gradients(20)] {
        let (file, values) = (Scratch::new("endless.ct"), Scratch::new("endless.npz"));
        std::fs::write(&file.0, &source).unwrap();
        let shape: &[usize] = if source.contains("f32[2]") { &[2] } else { &[] };
        write_npz(&values.0, &[("x".to_owned(), ArrayD::<f32>::zeros(shape).into())].into()).unwrap();
        let (graph, limit) = (file.path(), ["--max-nodes", "20000"]);
        for command in [
            &["opt", graph][..],
            &["opt", graph, "--verify"],
            &["explain", graph],
            &["dot", graph],
            &["explore", graph],
            &["why", graph, "peak"],
            &["check", graph],
            &["run", graph, "-i", values.path()],
            &["run", graph, "-i", values.path(), "--interpret"],
            &["run", graph, "-i", values.path(), "--backend", "interpreter"],
        ] {
            check_failure(&run(&[command, &limit].concat()), 1, "error[E0116]: more than 20000 nodes would be made");
        }
        let reduced = run(&[&["reduce", graph][..], &limit].concat());
        assert!(text(&reduced.stderr).contains("error E0116"), "{}", text(&reduced.stderr));
        // As it is written it can be looked at.
        check_success(&run(&["dot", graph, "--stage", "source"]));
        check_success(&run(&["opt", graph, "--passes="]));
        // Also without a flag.
        check_failure(&run(&["opt", graph]), 1, "--max-nodes");
    }
    // Three nodes are made of three.
    check_success(&run_with_stdin(&["opt", "-", "--max-nodes", "3"], GRAPH.as_bytes()));
    check_failure(&run_with_stdin(&["explain", "-", "--max-nodes", "2"], GRAPH.as_bytes()), 1, "more than 2 nodes");
}

#[test]
fn reduce_makes_a_failing_graph_small() {
    for more in [&[][..], &["--verify"], &["--no-fuse"]] {
        let output = run_with_stdin(&[&["reduce", "-"], more].concat(), FAILING.as_bytes());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("which show the same: error E0305 of a step"));
        let small = text(&output.stdout);
        assert!(small.contains("log") && small.contains("check_finite"), "{small}");
        assert_eq!(small.matches(" = ").count() - small.matches("output").count(), 3, "{small}");
        // It still fails, and cannot be made smaller.
        assert_eq!(run_with_stdin(&["reduce", "-"], &output.stdout).stdout, output.stdout);
    }
}

#[test]
fn reduce_needs_a_graph_that_fails() {
    check_failure(&run(&["reduce", "xor"]), 1, "there is nothing to reduce");
    check_failure(&run_with_stdin(&["reduce", "-"], b"cotangent 2"), 1, "error[E02");
}

#[test]
fn ops_prints_the_reference() {
    let all = run(&["ops"]);
    let page = check_success(&all);
    assert!(page.starts_with("# Ops\n") && page.contains("\n## matmul\n"));
    let one = run(&["ops", "matmul"]);
    let section = check_success(&one);
    assert!(section.starts_with("## matmul\n") && page.contains(section), "{section}");
    check_failure(&run(&["ops", "matmull"]), 2, "did you mean 'matmul'?");
    check_failure(&run(&["ops", "no-such-thing"]), 2, "`cotangent ops` lists them");
}

/// What a path stands for stays that, as with other tools.
#[cfg(unix)]
#[test]
fn outputs_go_to_devices_pipes_and_through_links() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    let expected = run(&["opt", "xor"]).stdout;
    // `/dev/stdout` is the pipe that the test reads; nothing but the text comes.
    assert_eq!(check_success(&run(&["opt", "xor", "-o", "/dev/stdout"])).as_bytes(), expected);
    assert!(check_success(&run(&["opt", "xor", "-o", "/dev/null"])).is_empty());
    assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
    #[cfg(target_os = "linux")]
    check_failure(&run(&["opt", "xor", "-o", "/dev/full"]), 1, "/dev/full: could not write: No space left on device");
    check_failure(&run(&["opt", "xor", "-o", "/"]), 1, "/: required a file, got a folder");

    let fifo = Scratch::new("output.fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo.0).status().unwrap().success());
    let reader = std::thread::spawn({
        let path = fifo.0.clone();
        move || std::fs::read(path).unwrap()
    });
    check_success(&run(&["opt", "xor", "-o", fifo.path()]));
    assert_eq!(reader.join().unwrap(), expected);

    let (file, link) = (Scratch::new("private.ct"), Scratch::new("link.ct"));
    std::fs::write(&file.0, "old").unwrap();
    std::fs::set_permissions(&file.0, std::fs::Permissions::from_mode(0o600)).unwrap();
    symlink(&file.0, &link.0).unwrap();
    check_success(&run(&["opt", "xor", "-o", link.path()]));
    assert!(link.0.is_symlink() && std::fs::read(&file.0).unwrap() == expected);
    assert_eq!(file.0.metadata().unwrap().mode() & 0o777, 0o600);

    // Archives as well, which are not written from front to back.
    let (npz, values) = (Scratch::new("through.npz"), Scratch::new("values.npz"));
    write_npz(&values.0, &[("x".to_owned(), ArrayD::<f32>::zeros(&[4][..]).into())].into()).unwrap();
    let graph = Scratch::new("graph.ct");
    std::fs::write(&graph.0, GRAPH).unwrap();
    check_success(&run(&["run", graph.path(), "-i", values.path(), "-o", npz.path()]));
    let reader = std::thread::spawn({
        let path = fifo.0.clone();
        move || std::fs::read(path).unwrap()
    });
    check_success(&run(&["run", graph.path(), "-i", values.path(), "-o", fifo.path()]));
    assert_eq!(reader.join().unwrap(), std::fs::read(&npz.0).unwrap());
    // A reader that is gone is no failure.
    let reader = std::thread::spawn({
        let path = fifo.0.clone();
        move || drop(std::fs::File::open(path).unwrap())
    });
    assert_eq!(run(&["dot", "mlp-l", "--stage", "source", "-o", fifo.path()]).status.code(), Some(0));
    reader.join().unwrap();
}

/// Dumps are files like those of `-o`: whole or as they were, links stay links, and what cannot be written is an error.
#[cfg(unix)]
#[test]
fn dumps_are_whole_or_not_there() {
    use std::os::unix::fs::symlink;

    let folder = std::env::temp_dir().join(format!("cotangent-cli-dump-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let dump = |limit: &str| {
        let mut command = crate::Command::new("sh");
        command.args(["-c", &format!("trap '' XFSZ; ulimit -f {limit}; exec \"$0\" explain mlp-m")]);
        command.arg(env!("CARGO_BIN_EXE_cotangent")).env("COTANGENT_DUMP", &folder).output().unwrap()
    };
    // No file may be longer than 512 bytes: as on a full disk.
    let (source, mine) = (folder.join("00-source.txt"), "mine ".repeat(500));
    std::fs::write(&source, &mine).unwrap();
    check_failure(&dump("1"), 1, "the dump: `");
    assert_eq!(std::fs::read_to_string(&source).unwrap(), mine);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "nothing half written is left");
    // A link to a device and one to a file.
    let elsewhere = Scratch::new("elsewhere.txt");
    symlink("/dev/full", folder.join("91-plan.txt")).unwrap();
    std::fs::remove_file(&source).unwrap();
    symlink(&elsewhere.0, &source).unwrap();
    check_failure(&dump("unlimited"), 1, "91-plan.txt` could not be written: No space left on device");
    assert!(std::fs::read_to_string(&elsewhere.0).unwrap().starts_with("cotangent 1") && source.is_symlink());
    std::fs::remove_dir_all(&folder).unwrap();
}

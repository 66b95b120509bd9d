//! Shapes that the limits allow and the machine does not have: an error with the bytes and the line, never an abort.

use cotangent::data::npz::write_npz;

use super::*;

/// A machine that has this much would make some of these succeed, after days.
const EXTENTS: [u64; 2] = [1 << 40, 1 << 48];

/// Ways to make much of little, on `N` elements.
const STATEMENTS: [&str; 12] = [
    "%0 = param \"w\" {init = ones} : f32[N]\n  output \"y\" = %0",
    "%0 = param \"w\" {init = orthogonal(1.0)} : f32[N]\n  output \"y\" = %0",
    "%0 = state \"w\" {init = normal(0.0, 1.0)} : f32[N]\n  %1 = exp %0\n  output \"y\" = %1",
    "%0 = param \"w\" {init = ones} : f32[N]\n  %1 = reduce_sum %0 {axes = [0]}\n  output \"y\" = %1",
    "%0 = param \"w\" {init = ones} : f32[1]\n  %1 = broadcast %0 {shape = [N], axes = [0]}\n  output \"y\" = %1",
    "%0 = param \"w\" {init = ones} : f32[1]\n  %1 = broadcast %0 {shape = [N], axes = [0]}\n  %2 = softmax %1 {axis = 0}\n  \
     output \"y\" = %2",
    "%0 = iota {axis = 0} : i64[N]\n  %1 = cast %0 {to = f32}\n  output \"y\" = %1",
    "%0 = rng {stream = \"a\", dist = \"normal\"} : f32[N]\n  output \"y\" = %0",
    "%0 = param \"a\" {init = ones} : f32[1048576,1]\n  %1 = param \"b\" {init = ones} : f32[1,M]\n  %2 = matmul %0, %1\n  \
     output \"y\" = %2",
    "%0 = param \"t\" {init = ones} : f32[2]\n  %1 = constant {value = [0, 1]} : i64[2]\n  \
     %2 = scatter_add %0, %1 {rows = N}\n  output \"y\" = %2",
    "%0 = constant {value = [0]} : i64[1]\n  %1 = one_hot %0 {depth = N, to = f32}\n  output \"y\" = %1",
    "%0 = param \"w\" {init = ones} : f32[1]\n  %1 = broadcast %0 {shape = [N], axes = [0]}\n  \
     %2 = reshape %1 {shape = [1048576, M]}\n  %3 = transpose %2 {perm = [1, 0]}\n  %4 = mul %3, %3\n  output \"y\" = %4",
];

/// Commands that compute with the values of a graph.
const COMMANDS: [&[&str]; 5] = [
    &["run", "-"],
    &["run", "-", "--interpret"],
    &["run", "-", "--backend", "interpreter"],
    &["explain", "-", "--measure"],
    &["check", "-"],
];

#[test]
fn shapes_that_no_machine_holds_are_errors() {
    for n in EXTENTS {
        for statements in STATEMENTS {
            let statements = statements.replace('N', &n.to_string()).replace('M', &(n >> 20).to_string());
            let graph = format!("cotangent 1\ngraph @f {{\n  {statements}\n}}\n");
            for args in COMMANDS {
                let output = run_with_stdin(args, graph.as_bytes());
                let stderr = text(&output.stderr);
                assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}\n{graph}");
                // What has no float result to differentiate is another error.
                let says = if stderr.contains("E0112") { "E0112" } else { "E0309" };
                assert!(stderr.contains(says) && !stderr.contains("panicked"), "{args:?}: {stderr}\n{graph}");
                if says == "E0309" {
                    assert!(stderr.contains(" of memory, "), "{args:?}: {stderr}");
                }
            }
            // Whoever only looks needs none of it.
            for args in [["explain", "-"], ["opt", "-"], ["dot", "-"]] {
                let output = run_with_stdin(&args, graph.as_bytes());
                assert_eq!(output.status.code(), Some(0), "{args:?}: {}\n{graph}", text(&output.stderr));
            }
        }
    }
}

/// The message says how much, for what, where, and what to do.
#[test]
fn the_error_names_the_largest_values() {
    let graph = "cotangent 1\ngraph @f {\n  %0 = param \"w\" {init = ones} : f32[1]\n  \
                 %1 = broadcast %0 {shape = [80000000000000], axes = [0]}\n  output \"y\" = %1\n}\n";
    let output = run_with_stdin(&["run", "-"], graph.as_bytes());
    check_failure(&output, 1, "error[E0309]: the program takes 291.0 TiB of memory, more than");
    let stderr = text(&output.stderr);
    assert!(stderr.contains("291.0 TiB for values between kernels, 4 B for parameters and states"), "{stderr}");
    assert!(
        stderr.contains("--> <stdin>:4:3") && stderr.contains("80000000000000 elements of f32, takes 291.0 TiB"),
        "{stderr}"
    );
    assert!(
        stderr.contains("`Compiler::memory_limit` or the variable COTANGENT_MEMORY sets another limit"),
        "{stderr}"
    );
}

/// The limit of the environment holds for all ways to run, also where the machine has more.
#[test]
fn the_variable_is_the_limit() {
    let graph = "cotangent 1\ngraph @f {\n  %0 = param \"w\" {init = ones} : f32[100000]\n  %1 = exp %0\n  output \"y\" = %1\n}\n";
    let path = Scratch::new("limit.ct");
    std::fs::write(&path.0, graph).unwrap();
    let file = path.path();
    for way in [&["run", file][..], &["run", file, "--interpret"], &["run", file, "--backend", "interpreter"]] {
        let limited = |limit: &str| cotangent(way).env("COTANGENT_MEMORY", limit).output().unwrap();
        check_failure(&limited("500000"), 1, "more than the limit of 488.3 KiB");
        check_success(&limited("100000000"));
        check_failure(&limited("plenty"), 1, "COTANGENT_MEMORY is not a number of bytes");
    }
}

/// Files that are larger than memory are errors before they are read: a text with holes, and arrays beyond the limit.
#[test]
fn files_that_memory_does_not_hold_are_errors() {
    let (text, graph, npz) = (Scratch::new("holes.ct"), Scratch::new("wide.ct"), Scratch::new("wide.npz"));
    let file = std::fs::File::create(&text.0).unwrap();
    // Not every file system has files so large.
    if file.set_len(1 << 43).is_ok() {
        check_failure(&run(&["opt", text.path()]), 1, "could not read: 8192.0 GiB of memory, more than");
    }
    std::fs::write(&graph.0, GRAPH.replace("f32[4]", "f32[1000000]")).unwrap();
    let x = ndarray::ArrayD::<f32>::zeros(&[1_000_000][..]);
    write_npz(&npz.0, &[("x".to_owned(), x.into())].into()).unwrap();
    let args = ["run", graph.path(), "-i", npz.path()];
    let output = cotangent(&args).env("COTANGENT_MEMORY", "3000000").output().unwrap();
    check_failure(&output, 1, "x.npy: could not read: 3906.4 KiB of memory, more than the limit of 2929.7 KiB");
}

/// Graphs that take memory in different ways: little of it but some code, many nodes, large values, products.
fn graphs() -> [(&'static str, String); 4] {
    let whole = |statements: &str| format!("cotangent 1\ngraph @f {{\n{statements}}}\n");
    let chain = |n: usize| {
        let mut text = "%0 = param \"w\" {init = ones} : f32[64,32]\n".to_owned();
        for k in (0..3 * n).step_by(3) {
            let function = ["exp", "tanh", "sin", "sqrt"][k / 3 % 4];
            text += &format!("%{} = transpose %{k} {{perm = [1, 0]}}\n%{} = {function} %{}\n", k + 1, k + 2, k + 1);
            text += &format!("%{} = softmax %{} {{axis = {}}}\n", k + 3, k + 2, k % 2);
        }
        whole(&(text + &format!("%{} = reduce_sum %{} {{axes = [0, 1]}}\noutput \"y\" = %{0}\n", 3 * n + 1, 3 * n)))
    };
    [
        ("some", chain(36)),
        ("many", chain(300)),
        (
            "large",
            whole(
                "%0 = param \"w\" {init = ones} : f32[2000000]\n%1 = exp %0\n%2 = reduce_sum %1 {axes = [0]}\n\
                 output \"y\" = %2\noutput \"z\" = %1\n",
            ),
        ),
        (
            "product",
            whole(
                "%0 = param \"a\" {init = glorot_uniform} : f32[300,300]\n%1 = matmul %0, %0\n%2 = tanh %1\n\
                 %3 = reduce_sum %2 {axes = [0, 1]}\n%4 = grad %3, %0\n%5 = sub %0, %4\noutput \"y\" = %3\n\
                 update \"a\" = %5\n",
            ),
        ),
    ]
}

/// In an address space of so many KiB.
#[cfg(target_os = "linux")]
fn run_within(kib: u64, args: &[&str]) -> Output {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -v $0 && exec \"$@\"", &kib.to_string(), env!("CARGO_BIN_EXE_cotangent")]);
    command.args(args).stdin(Stdio::null()).output().unwrap()
}

/// However little memory there is: what a command cannot have is an error, and no signal ends it. From the least with which the
/// program starts at all to what is enough.
#[cfg(target_os = "linux")]
#[test]
fn whatever_memory_is_refused_is_an_error() {
    let starts = |kib: u64| run_within(kib, &["ops", "add"]).status.success();
    let (mut too_little, mut enough) = (1 << 12, 1 << 20);
    assert!(starts(enough));
    while enough - too_little > 64 {
        let between = (too_little + enough) / 2;
        *if starts(between) { &mut enough } else { &mut too_little } = between;
    }
    let mut said = Vec::new();
    for (name, graph) in graphs() {
        let file = Scratch::new(&format!("sweep-{name}.ct"));
        std::fs::write(&file.0, graph).unwrap();
        let path = file.path();
        let commands = [
            &["run", path, "--backend", "cranelift", "--threads", "2"][..],
            &["explain", path],
            &["run", path, "--interpret"],
            &["run", path],
            &["check", path],
            &["opt", path, "--verify"],
        ];
        // Validation of many nodes takes long.
        for args in &commands[..if name == "many" { 3 } else { commands.len() }] {
            // Small steps where code and threads are made, larger ones later.
            let (mut kib, mut n_good) = (enough, 0);
            while n_good < 2 && kib < 1 << 20 {
                let output = run_within(kib, args);
                let stderr = text(&output.stderr);
                match output.status.code() {
                    Some(0) => n_good += 1,
                    Some(1) if stderr.contains("E0309") => n_good = 0,
                    code => panic!("{name} {args:?} within {kib} KiB: {code:?} {}: {stderr}", output.status),
                }
                said.push(stderr.to_owned());
                kib += 160 + (kib - enough) / 3;
            }
            assert!(n_good > 0, "{name} {args:?}");
        }
    }
    for what in ["the work takes", "compiling a graph of 902 nodes takes about", "the program takes"] {
        assert!(said.iter().any(|text| text.contains(what)), "{what}");
    }
}

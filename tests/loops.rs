//! Loops as the user sees them: what `explain` says of them, the size of their code, and the memory of their gradients.

use std::path::PathBuf;

use cotangent::graph::ops::scan::{Checkpoint, Loop, Made};
use cotangent::prelude::*;
use cotangent::train::workloads::Workload;
use cotangent_testkit::filetest::check_file;

/// The part of an explanation that is about what leaves loops, without lines and numbers of nodes, which change with everything.
fn of_loops(explained: &str) -> String {
    let about = |line: &&str| {
        let line = line.trim_start_matches(['|', ' ']);
        ["loop %", "once,", "for all iterations,", "stays: ", "stay: "].iter().any(|start| line.starts_with(start))
    };
    let plain = |line: &str| {
        let (line, reason) = line.rsplit_once(": ").filter(|_| line.contains("stays: ")).unwrap_or((line, ""));
        let line = line.split("  at ").next().unwrap_or(line).split("  (").next().unwrap_or(line);
        let words = line.split(' ').map(|word| if word.starts_with('%') { "%" } else { word });
        let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        words.collect::<Vec<_>>().join(" ") + &reason
    };
    explained.lines().filter(about).map(plain).collect::<Vec<_>>().join("\n")
}

#[test]
fn explain_says_what_leaves_loops_and_why_the_rest_stays() {
    for name in ["lstm-char", "gru-char"] {
        let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "loops", &format!("{name}.txt")].iter().collect();
        check_file(path, |text| {
            let graph = Workload::named(text.trim()).unwrap().build().unwrap();
            of_loops(&Compiler::new().compile(&graph).unwrap().explain())
        });
    }
}

/// What leaves, and one of each reason to stay.
#[test]
fn explain_knows_each_reason() {
    let graph = build(|g| {
        let (x, one) = (g.input("x", F32, [20, 4, 8]), g.input("one", F32, [20, 1, 8]));
        let (w, table) = (g.param("w", F32, [8, 8], Init::GlorotUniform), g.param("table", F32, [9, 8], Init::ZEROS));
        let (h, k) = (g.input("h", F32, [4, 8]), g.input("k", I64, [4]));
        let over = Loop::new().carry(h).slice(x).slice(one).capture(w).capture(table).capture(k);
        let made = g.scan("reasons", over, |g, i| {
            let (x, one, w) = (i.slices[0], i.slices[1], i.captures[0]);
            let rows = i.captures[1].gather(i.captures[2]);
            let inner = g.fori("inner", 3, Loop::new().carry(i.carries[0]), |_, _, i| Made {
                carries: vec![i.carries[0] * 0.5],
                outputs: Vec::new(),
            });
            let alone = one.matmul(w).broadcast_to([4, 8]);
            let norm = x.square().sum_keep([1]);
            let h = (x.matmul(w) + w.sum_over([0]) + rows + inner.carries[0].matmul(w) + alone + norm).tanh();
            Made { carries: vec![h], outputs: Vec::new() }
        });
        g.output("h", made.carries[0]);
    })
    .unwrap();
    let text = of_loops(&Compiler::new().compile(&graph).unwrap().explain());
    for part in [
        "for all iterations, before it: % matmul : f32[80,8]",
        "once, before it: % reduce_sum : f32[8]",
        "it may fail, which must not happen where the loop does not run",
        "it depends on a carry",
        "it is a loop of its own",
        "% matmul : f32[1,8]: of one row it is summed in lanes",
        "% reduce_sum : f32[4]: it depends on a part of a slice, and is no product of that with captures",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

/// Bytes that a step holds of the gradient of h ← tanh(a·h + x) over so many iterations, of rows of 16 f32.
fn bytes_of_gradient(n: usize, checkpoint: Checkpoint) -> usize {
    let graph = build(|g| {
        let (x, h, a) = (g.input("x", F32, [n, 16]), g.input("h", F32, [16]), g.input("a", F32, [16]));
        let over = Loop::new().carry(h).slice(x).capture(a).checkpoint(checkpoint);
        let made = g.scan("cell", over, |_, i| {
            let h = (i.captures[0] * i.carries[0] + i.slices[0]).tanh();
            Made { carries: vec![h], outputs: Vec::new() }
        });
        g.output("da", g.grad(made.carries[0].sum(), &[a])[0]);
    });
    Compiler::new().compile(&graph.unwrap()).unwrap().arena_bytes()
}

/// What is kept is a row for each part, and for each iteration of the part that is computed again; beside it are some rows that do
/// not depend on the number of iterations: the last carry, cotangents of carry and capture, and where these change.
#[test]
fn gradients_of_10_000_iterations_take_the_memory_that_is_predicted() {
    const N: usize = 10_000;
    const ROW: usize = 64;
    let predicted = |every: usize| match every {
        1 => (N + 3) * ROW,
        // A loop over the rest goes before the parts, and needs a row of its own.
        _ => (N / every + every + 5 + usize::from(!N.is_multiple_of(every))) * ROW,
    };
    assert_eq!(bytes_of_gradient(N, Checkpoint::All), predicted(1));
    for every in [2, 10, 16, 100, 125, 128, 1000, 3000] {
        assert_eq!(bytes_of_gradient(N, Checkpoint::Every(every)), predicted(every), "every {every}");
    }
    // The least distance whose rows, those kept and those computed again, are within the budget; at most the square root.
    for budget in [N * ROW, N * ROW - 1, 400_000, 100_000, 20_000, 1] {
        let rows = |every: usize| N.div_ceil(every) + if every == 1 { 0 } else { every };
        let every = (1..=100).find(|&every| rows(every) * ROW <= budget).unwrap_or(100);
        assert_eq!(bytes_of_gradient(N, Checkpoint::Budget(budget)), predicted(every), "{budget} bytes");
    }
}

//! Profiles: what was measured is of the program that ran, and adds up.

use cotangent_exec::{Compiler, Runtime, Seed, Session, Threads, inputs};
use cotangent_graph::DType::F32;
use cotangent_graph::{Code, Graph, Init, build};
use ndarray::Array2;

const N: usize = 256;

/// A product that two threads divide, and a kernel after a sum of it.
fn graph() -> Graph {
    build(|g| {
        let (x, w) = (g.input("x", F32, [N, N]), g.param("w", F32, [N, N], Init::GlorotUniform));
        let y = x.matmul(w).tanh();
        let s = y.sum_over([1]);
        g.output("s", s.exp());
        g.update(w, w * 0.5);
    })
    .unwrap()
}

#[test]
fn a_profile_is_of_the_steps_that_ran() {
    let program = Compiler::new().compile(&graph()).unwrap();
    let x = Array2::<f32>::from_elem((N, N), 0.01);
    for n_threads in [1, 2] {
        let mut session = Session::new(&Runtime::new(Threads::Exactly(n_threads)), program.clone(), Seed(1)).unwrap();
        let profile = session.profile(session.main(), inputs![x], 9).unwrap();
        let n_steps = program.plan().steps.len();
        assert_eq!((profile.n_threads, profile.n_runs, profile.steps.len()), (n_threads, 9, n_steps));
        assert!(profile.steps.iter().all(|times| times.best <= times.median));
        // The least times of the steps are together no more than any run, and a run holds its steps.
        let best: std::time::Duration = profile.steps.iter().map(|times| times.best).sum();
        assert!(best <= profile.wall.best && profile.wall.best <= profile.wall.median);
        assert!(profile.total() > std::time::Duration::ZERO);
        // Five runs are noted, each with all its steps in order; shares lie within their step.
        let whole: Vec<_> = profile.spans.iter().filter(|span| !span.is_part).collect();
        assert_eq!(whole.iter().map(|span| span.step).collect::<Vec<_>>(), (0..n_steps).collect::<Vec<_>>().repeat(5));
        assert!(whole.iter().all(|span| span.thread == 0) && whole.windows(2).all(|pair| pair[0].end <= pair[1].start));
        for part in profile.spans.iter().filter(|span| span.is_part) {
            assert!(part.thread < n_threads);
            let inside = |step: &&&cotangent_exec::Span| step.start <= part.start && part.end <= step.end;
            assert_eq!(whole.iter().filter(inside).map(|step| step.step).collect::<Vec<_>>(), [part.step]);
        }
        let n_parts = profile.spans.iter().filter(|span| span.is_part).count();
        // On several threads there may be none: a session that is faster on one core stays there.
        assert!(n_parts == 0 || n_threads > 1, "{n_parts}");
    }
}

#[test]
fn what_a_step_does_follows_from_its_sizes() {
    let program = Compiler::new().compile(&graph()).unwrap();
    let is_product = |step: &cotangent_kernel::Step| matches!(step, cotangent_kernel::Step::Product { .. });
    let at = program.plan().steps.iter().position(is_product).unwrap();
    let (work, multiply_adds) = (program.work(at), (N * N * N) as f64);
    assert!(work.flop >= 2.0 * multiply_adds && work.flop < 2.5 * multiply_adds, "{work:?}");
    assert!(work.bytes >= (3 * N * N * 4) as u64, "{work:?}");
    assert!(work.least_nanos >= program.target().flop_time(2.0 * multiply_adds, 4), "{work:?}");
    assert_eq!(program.work(1000), Default::default());
}

#[test]
fn a_mistake_is_an_error_and_leaves_nothing_on() {
    let program = Compiler::new().compile(&graph()).unwrap();
    let mut session = Session::new(&Runtime::new(Threads::Exactly(2)), program, Seed(1)).unwrap();
    let wrong = Array2::<f32>::zeros((N, 3));
    let id = session.main();
    assert_eq!(session.profile(id, [("x", (&wrong).into())], 3).unwrap_err().code, Code::InputType);
    assert_eq!(session.profile(id, (), 3).unwrap_err().code, Code::InputNames);
    let x = Array2::<f32>::zeros((N, N));
    let none = session.profile(id, inputs![x], 0).unwrap();
    assert_eq!((none.n_runs, none.spans.len(), none.total()), (0, 0, std::time::Duration::ZERO));
}

/// A map has a line for each piece of code: address and size in hexadecimal digits, and a name.
#[test]
fn the_map_for_perf_names_every_piece_of_code() {
    let program = Compiler::new().compile(&graph()).unwrap();
    let map = program.perf_map();
    assert_eq!(map.lines().count(), program.compiled().n_distinct());
    for line in map.lines() {
        let words: Vec<&str> = line.splitn(3, ' ').collect();
        let [address, size] = [0, 1].map(|k| usize::from_str_radix(words[k], 16).unwrap());
        assert!(address > 0 && size > 0 && words[2].starts_with("cotangent kernel "), "{line}");
    }
}

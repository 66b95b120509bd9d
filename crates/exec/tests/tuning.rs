//! Choice by trial: ways are tried in steps that count, none changes a bit, and what was found can be kept.

use std::sync::Arc;

use cotangent_exec::{Compiler, Executable, Runtime, Seed, Session, Threads, Tuning, Ways, inputs};
use cotangent_graph::DType::F32;
use cotangent_graph::ops::conv::Convolution;
use cotangent_graph::ops::scan::{Loop, Made};
use cotangent_graph::{Init, build};
use ndarray::ArrayD;

/// A step that trains a convolution and a product, both long enough to be tried.
fn program() -> Arc<Executable> {
    let graph = build(|g| {
        let x = g.input("x", F32, [16, 12, 12, 16]);
        let w = g.param("w", F32, [3, 3, 16, 24], Init::GlorotUniform);
        let v = g.param("v", F32, [24 * 100, 96], Init::GlorotUniform);
        let loss = x.conv(w, &Convolution::new()).relu().reshape([16, 24 * 100]).matmul(v).square().mean();
        for (param, gradient) in [w, v].into_iter().zip(g.grad(loss, &[w, v])) {
            g.update(param, param - gradient * 0.01);
        }
        g.output("loss", loss);
    });
    Compiler::new().compile(&graph.expect("a graph")).expect("a program")
}

fn input() -> ArrayD<f32> {
    let values = (0..16 * 12 * 12 * 16).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
    ArrayD::from_shape_vec(vec![16, 12, 12, 16], values).expect("as many as the shape has")
}

fn session(n_threads: usize, tuning: Tuning) -> Session {
    let runtime = Runtime::new(Threads::Exactly(n_threads));
    let mut session = Session::new(&runtime, program(), Seed(3)).expect("a session");
    session.set_tuning(tuning);
    session
}

/// Steps until nothing is tried any more, and how many there were; at most 500.
fn settle(session: &mut Session) -> usize {
    let x = input();
    let mut n = 0;
    while !session.is_settled(session.main()).unwrap() {
        session.step(inputs!["x" => &x]).unwrap();
        n += 1;
        assert!(n < 500, "the trial does not end");
    }
    n
}

#[test]
fn ways_are_tried_and_change_no_bit() {
    let x = input();
    for n_threads in [1, 2] {
        let mut plain = session(n_threads, Tuning::Off);
        assert!(plain.is_settled(plain.main()).unwrap());
        let mut tried = session(n_threads, Tuning::Trial);
        let mut n = 0;
        loop {
            let loss =
                |session: &mut Session| session.step(inputs!["x" => &x]).unwrap().scalar("loss").unwrap().to_bits();
            assert_eq!(loss(&mut plain), loss(&mut tried), "step {n} on {n_threads} threads");
            n += 1;
            if tried.is_settled(tried.main()).unwrap() {
                break;
            }
            assert!(n < 500, "the trial does not end");
        }
        for name in ["w", "v"] {
            assert_eq!(plain.store().get(name), tried.store().get(name));
        }
        let text = tried.explain(tried.main()).unwrap();
        assert!(text.contains("conv") && text.contains("tiles of") && text.contains(" * "), "{text}");
        assert!(!text.contains("not tried"), "{text}");
        assert!(plain.explain(plain.main()).unwrap().is_empty());
        assert!(plain.found().is_empty() && !tried.found().is_empty());
    }
}

#[test]
fn what_was_found_is_kept() {
    let folder = std::env::temp_dir().join(format!("cotangent-ways-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("ways.txt");
    let mut first = session(2, Tuning::Trial);
    let n_tried = settle(&mut first);
    let ways = first.found();
    ways.save(&path).unwrap();
    assert_eq!(Ways::load(&path).unwrap(), ways);

    let mut second = session(2, Tuning::Found(Ways::load(&path).unwrap()));
    let stars = |text: &str| text.lines().filter(|line| line.starts_with("  *")).count();
    // Whether one core is faster is tried still.
    assert!(settle(&mut second) < n_tried, "what is known is not tried");
    assert_eq!(second.found(), ways);
    let text = second.explain(second.main()).unwrap();
    assert_eq!(stars(&text), ways.len(), "{text}");

    // Each product's last way instead of the one that was found.
    let chosen = |session: &Session| -> Vec<String> {
        let text = session.explain(session.main()).unwrap();
        text.lines().filter(|line| line.starts_with("  *")).map(|line| line[17..].to_owned()).collect()
    };
    let text = std::fs::read_to_string(&path).unwrap();
    let explained = first.explain(first.main()).unwrap();
    let last = explained.lines().last().unwrap()[17..].trim().to_owned();
    let key = text.lines().rfind(|line| !line.starts_with(' ')).unwrap();
    std::fs::write(&path, format!("cotangent ways 1\n{key}\n  {last}\n")).unwrap();
    let third = session(2, Tuning::Found(Ways::load(&path).unwrap()));
    assert!(chosen(&third).iter().any(|way| way.trim() == last), "{last}: {:?}", chosen(&third));

    // Ways of other machines or products, and words that are no way, say nothing.
    let foreign = text.replace(" threads | ", " threads | another ");
    std::fs::write(&path, foreign).unwrap();
    let fourth = session(2, Tuning::Found(Ways::load(&path).unwrap()));
    let off = session(2, Tuning::Found(Ways::default()));
    assert_eq!(chosen(&fourth), chosen(&off));
    assert!(fourth.found().is_empty() && off.found().is_empty(), "what was never tried is not found");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn files_of_another_kind_are_refused() {
    let folder = std::env::temp_dir().join(format!("cotangent-no-ways-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("ways.txt");
    let missing = Ways::load(&path).unwrap_err();
    assert!(missing.kind() == std::io::ErrorKind::NotFound && missing.to_string().contains("ways.txt"), "{missing}");
    for (text, line) in
        [("", 1), ("something else\n", 1), ("cotangent ways 1\nproduct\n", 3), ("cotangent ways 1\na\nb\n", 3)]
    {
        std::fs::write(&path, text).unwrap();
        let error = Ways::load(&path).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        assert!(error.to_string().contains(&format!("line {line}:")), "{text:?}: {error}");
    }
    let no_file = Ways::load(&folder).unwrap_err();
    assert!(no_file.to_string().ends_with(": required a file, got a folder"), "{no_file}");
    std::fs::remove_dir_all(&folder).unwrap();
}

/// A loop whose product is short, but is made in every iteration: together they matter.
fn recurrence() -> Arc<Executable> {
    let graph = build(|g| {
        let (h, u) = (g.input("h", F32, [32, 64]), g.param("u", F32, [64, 64], Init::GlorotUniform));
        let run = g.scan("rnn", Loop::new().times(40).carry(h).capture(u), |_, i| Made {
            carries: vec![i.carries[0].matmul(i.captures[0]).tanh()],
            outputs: Vec::new(),
        });
        let loss = run.carries[0].square().mean();
        g.update(u, u - g.grad(loss, &[u])[0] * 0.01);
        g.output("loss", loss);
    });
    Compiler::new().compile(&graph.expect("a graph")).expect("a program")
}

#[test]
fn products_in_loops_are_tried() {
    let program = recurrence();
    let h = ArrayD::from_elem(vec![32, 64], 0.3f32);
    for n_threads in [1, 2] {
        let with = |tuning: Tuning| {
            let runtime = Runtime::new(Threads::Exactly(n_threads));
            let mut session = Session::new(&runtime, Arc::clone(&program), Seed(3)).expect("a session");
            session.set_tuning(tuning);
            session
        };
        let step = |session: &mut Session| session.step(inputs!["h" => &h]).unwrap().scalar("loss").unwrap().to_bits();
        let (mut plain, mut tried) = (with(Tuning::Off), with(Tuning::Trial));
        for n in 0.. {
            assert_eq!(step(&mut plain), step(&mut tried), "step {n} on {n_threads} threads");
            if tried.is_settled(tried.main()).unwrap() {
                break;
            }
            assert!(n < 500, "the trial does not end");
        }
        assert_eq!(plain.store().get("u"), tried.store().get("u"));
        let text = tried.explain(tried.main()).unwrap();
        assert!(text.contains("loop, step ") && !text.contains("not tried"), "{text}");
        let ways = tried.found();
        assert!(!ways.is_empty());
        // Both loops, forward and backward, go as they were found.
        let mut found = with(Tuning::Found(ways.clone()));
        assert_eq!(found.found(), ways);
        let mut off = with(Tuning::Off);
        assert_eq!(step(&mut found), step(&mut off));
    }
}

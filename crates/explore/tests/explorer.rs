//! The page: one file without anything from elsewhere, whose data are those of the program, and which a browser shows.

use std::path::PathBuf;
use std::process::Command;

use cotangent_exec::Compiler;
use cotangent_explore::{Inside, measured};
use cotangent_graph::DType::F32;
use cotangent_graph::{Graph, build};
use cotangent_nn::{Layers, Minimize, Momentum};
use cotangent_train::workloads::Workload;
use serde_json::Value;

fn inside(graph: &Graph) -> Inside {
    Inside::of(&Compiler::new(), graph).unwrap()
}

fn workload(name: &str) -> Inside {
    inside(&Workload::named(name).unwrap().build().unwrap())
}

/// The data of a page, as its script reads them.
fn data(page: &str) -> Value {
    let (_, rest) = page.split_once("<script type=\"application/json\" id=\"data\">").unwrap();
    let (json, _) = rest.split_once("</script>").unwrap();
    serde_json::from_str(json).unwrap()
}

fn array<'v>(value: &'v Value, key: &str) -> &'v Vec<Value> {
    value[key].as_array().unwrap_or_else(|| panic!("{key} is a list"))
}

/// Every element is closed, and nothing is asked of a network.
fn check_markup(page: &str) {
    assert!(page.starts_with("<!doctype html>") && !page.contains("http"), "an address");
    for name in
        ["html", "head", "style", "body", "header", "main", "aside", "nav", "section", "script", "canvas", "label"]
    {
        let opened = page.matches(&format!("<{name}>")).count() + page.matches(&format!("<{name} ")).count();
        assert!(opened > 0 && opened == page.matches(&format!("</{name}>")).count(), "<{name}>");
    }
    for mark in ["/* style */", "/* code */", "/* data */", " src=", "import(", "fetch("] {
        assert!(!page.contains(mark), "{mark}");
    }
}

/// The figures of the data are those of the program.
fn check_counts(inside: &Inside, data: &Value) {
    let (program, plan) = (&inside.program, inside.program.plan());
    let part = &data["parts"][0];
    assert_eq!(array(part, "steps").len(), plan.steps.len());
    assert_eq!(array(part, "edges").len(), plan.edges.len());
    assert_eq!(array(part, "kernels").len(), plan.kernels.len());
    assert_eq!(array(part, "buffers").len(), plan.buffers.len());
    assert_eq!(array(part, "clusters").len(), plan.clusters.len());
    assert_eq!(part["arena"], plan.arena_bytes);
    assert_eq!(array(&data["unfused"], "steps").len(), inside.unfused.plan().steps.len());
    let stages = array(data, "stages");
    assert_eq!(stages.len(), inside.trace.stages.len());
    let n_live = |graph: &Graph| cotangent_graph::text::print::post_order(graph).len();
    assert_eq!(array(&stages[stages.len() - 1]["sheets"][0], "nodes").len(), n_live(program.optimized()));
    assert_eq!(array(&stages[0]["sheets"][0], "nodes").len(), n_live(program.source()));
    // What a pass leaves is what it found, less what went, and what came.
    let mut here = stages.iter().map(|stage| {
        array(stage, "sheets")
            .iter()
            .flat_map(|sheet| array(sheet, "nodes"))
            .map(|row| row[0].as_u64().unwrap())
            .collect()
    });
    let mut before: std::collections::BTreeSet<u64> = here.next().unwrap();
    for (stage, after) in stages[1..].iter().zip(here) {
        let uids = |key| array(stage, key).iter().map(|uid| uid.as_u64().unwrap());
        uids("removed").for_each(|uid| assert!(before.remove(&uid), "{} removes what is not there", stage["pass"]));
        uids("added").for_each(|uid| assert!(before.insert(uid), "{} adds what is there", stage["pass"]));
        assert_eq!(before, after, "after {}", stage["pass"]);
        for pair in array(stage, "replaced") {
            assert!(!after.contains(&pair[0].as_u64().unwrap()) && after.contains(&pair[1].as_u64().unwrap()));
        }
    }
    // Every node and every scope stands in one row.
    for sheet in stages.iter().flat_map(|stage| array(stage, "sheets")) {
        let scopes = array(sheet, "scopes");
        let rows = scopes.iter().flat_map(|scope| scope[7].as_array().unwrap());
        let mut items: Vec<i64> =
            rows.flat_map(|row| row.as_array().unwrap()).map(|item| item.as_i64().unwrap()).collect();
        items.sort_unstable();
        let n_results = array(sheet, "outputs").iter().filter(|output| output["size"].is_array()).count();
        let n_leaves = (array(sheet, "nodes").len() + n_results) as i64;
        assert_eq!(items, (-(scopes.len() as i64)..-1).chain(0..n_leaves).collect::<Vec<_>>());
        assert_eq!(scopes[0][3], array(sheet, "nodes").len());
    }
}

#[test]
fn the_data_are_those_of_the_program() {
    for name in ["xor", "mlp-s"] {
        let inside = workload(name);
        let page = inside.page();
        check_markup(&page);
        check_counts(&inside, &data(&page));
    }
}

#[test]
fn passes_are_told_by_what_they_replace() {
    let inside = workload("xor");
    let stage = |pass: &str| inside.trace.stages.iter().find(|stage| stage.pass == pass).unwrap();
    // Every gradient of the source is something else after `differentiate`.
    let (before, after) = (&inside.trace.stages[0], stage("differentiate"));
    let is_grad = |n: &usize| {
        matches!(before.sheets[0].graph.node(before.sheets[0].order[*n]).op.lower, cotangent_graph::Lower::Grad)
    };
    let grads: Vec<usize> = (0..before.sheets[0].order.len()).filter(is_grad).collect();
    assert!(!grads.is_empty());
    for n in grads {
        let uid = before.sheets[0].uids[n];
        let made = after.change.replaced[&uid];
        let (sheet, number) = after.find(made).unwrap();
        let made = after.sheets[sheet].graph.node(after.sheets[sheet].order[number]);
        assert_eq!(made.ty, before.sheets[0].graph.node(before.sheets[0].order[n]).ty);
    }
    // What the user wrote and no pass touched is the same node from the first stage to the last.
    let last = inside.trace.last();
    let x = |stage: &cotangent_explore::StageOf| {
        stage.sheets[0].uids[stage.sheets[0].number[&stage.sheets[0].graph.source("x").unwrap()]]
    };
    assert_eq!(x(before), x(last));
}

/// Each node of the net has the nodes that its own derivative rule made, also where several nodes are of one line.
#[test]
fn nodes_have_their_derivatives() {
    let graph = build(|g| {
        let (x, w) = (g.input("x", F32, [4, 3]), g.param("w", F32, [3, 2], cotangent_graph::Init::ONES));
        let loss = x.matmul(w).tanh().exp().sum();
        g.output("loss", loss);
        g.output("gradient", g.grad(loss, &[w])[0]);
    });
    let data = inside(&graph.unwrap()).data();
    let op = |uid: &Value| data["nodes"][uid.as_u64().unwrap() as usize][0].as_str().unwrap();
    let made_by = |of: &str| {
        let pairs = array(&data, "derivatives").iter().filter(|pair| op(&pair[0]) == of);
        pairs.map(|pair| op(&pair[1])).collect::<Vec<_>>()
    };
    // d matmul = xᵀ·dy, d exp = dy·exp, d tanh = dy·(1 - tanh²).
    assert_eq!(made_by("matmul"), ["matmul"]);
    assert_eq!(made_by("exp"), ["mul"]);
    assert!(made_by("tanh").len() >= 2 && !made_by("tanh").contains(&"matmul"), "{:?}", made_by("tanh"));
    for name in ["mlp-s", "lstm-char"] {
        let data = workload(name).data();
        assert!(array(&data, "derivatives").len() > 10, "{name}");
    }
    let plain = build(|g| g.output("y", g.input("x", F32, [4]).exp()));
    assert!(array(&inside(&plain.unwrap()).data(), "derivatives").is_empty());
}

#[test]
fn bodies_of_loops_have_sheets_and_plans() {
    let inside = workload("lstm-char");
    let page = inside.page();
    check_markup(&page);
    let data = data(&page);
    check_counts(&inside, &data);
    let n_loops =
        inside.program.plan().steps.iter().filter(|step| matches!(step, cotangent_kernel::Step::Loop(_))).count();
    assert!(n_loops > 0 && array(&data, "parts").len() > n_loops, "{n_loops} loops");
    let last = &array(&data, "stages")[inside.trace.stages.len() - 1];
    for part in &array(&data, "parts")[1..] {
        assert_eq!(part["name"], last["sheets"][part["sheet"].as_u64().unwrap() as usize]["name"]);
    }
}

/// A net of so many blocks of two layers, and its training.
fn blocks(n: usize) -> Inside {
    let graph = build(|g| {
        let mut x = g.input("x", F32, [4, 8]);
        for block in 0..n {
            x = g.scope("block", || g.scope(&block.to_string(), || x + x.dense("up", 16).tanh().dense("down", 8)));
        }
        g.minimize(x.square().mean(), Momentum::new(0.1, 0.9));
    });
    inside(&graph.unwrap())
}

/// Scopes, layers, derivatives and optimisers say where their nodes stand, and all later stages keep it.
#[test]
fn nodes_stand_in_the_scopes_that_made_them() {
    let data = blocks(2).data();
    let scopes = |stage: &Value| -> Vec<(String, u64, u64)> {
        let rows = array(&stage["sheets"][0], "scopes").iter();
        rows.map(|row| (row[1].as_str().unwrap().to_owned(), row[3].as_u64().unwrap(), row[4].as_u64().unwrap()))
            .collect()
    };
    let stages = array(&data, "stages");
    let names = |stage: &Value| scopes(stage).into_iter().map(|(path, ..)| path).collect::<Vec<_>>();
    // A layer has a matmul, an add, two parameters, and a broadcast of one.
    for path in ["block.0.up", "block.1.down"] {
        let layer = scopes(&stages[0]).into_iter().find(|(known, ..)| known == path);
        assert_eq!(layer, Some((path.to_owned(), 5, if path.ends_with("up") { 8 * 16 + 16 } else { 16 * 8 + 8 })));
    }
    assert!(!names(&stages[0]).iter().any(|path| path.starts_with("gradient")));
    for stage in &stages[1..] {
        for path in ["block.0", "block.1.up", "gradient", "gradient.block", "optimizer", "optimizer.block.0.up.weight"]
        {
            assert!(names(stage).contains(&path.to_owned()), "{path} after {}: {:?}", stage["pass"], names(stage));
        }
    }
}

const HOSTILE: [&str; 4] =
    ["</script><script>window.stolen = 1;</script>", "<!--<script>", "\" & ' \\ \u{2028}", "a\u{202e}b"];

fn hostile() -> Inside {
    let graph = build(|g| {
        let sum = HOSTILE.iter().map(|name| g.input(name, F32, [4])).reduce(|a, b| a + b).unwrap();
        g.output("</script>", sum.tanh());
    });
    inside(&graph.unwrap())
}

#[test]
fn hostile_names_stay_text() {
    let page = hostile().page();
    check_markup(&page);
    let data = data(&page);
    let names: Vec<&str> = array(&data, "nodes").iter().filter_map(|row| row[1].as_str()).collect();
    assert!(names.contains(&HOSTILE[0]) && names.contains(&HOSTILE[1]), "{names:?}");
    assert!(!page.contains('\u{202e}') && !page.contains('\u{2028}'));
}

#[test]
fn measured_times_are_beside_predicted_ones() {
    let mut inside = workload("xor");
    inside.measured = Some(measured(&inside.program, 1, 50).unwrap());
    let data = data(&inside.page());
    for step in array(&data["parts"][0], "steps") {
        assert!(step["measured"].as_f64().unwrap() >= 0.0 && step["predicted"].as_f64().unwrap() > 0.0, "{step}");
    }
    assert_eq!(data["threads"], 1);
    assert!(data["timeline"].as_str().unwrap().contains("data-step=\"0\""));
    assert_eq!(inside.charts().len(), 3);
}

/// Values, and machine code of the kernels of the program and of its loops, each beside its own kernel.
#[test]
fn values_and_code_are_shown_when_asked_for() {
    let mut inside = workload("lstm-char");
    let without = data(&inside.page());
    assert!(without["values"].is_null() && without["timeline"].is_null());
    assert!(array(&without["parts"][0], "code").iter().all(|code| code["listing"].is_null()));
    inside.with_code = true;
    let with = data(&inside.page());
    let mut first = 0;
    for part in array(&with, "parts") {
        let code = array(part, "code");
        assert_eq!(code.len(), array(part, "kernels").len());
        for (k, code) in code.iter().enumerate() {
            let stats = inside.program.compiled().stats(first + k);
            assert_eq!(code["bytes"], stats.code_bytes);
            assert_eq!(code["clif"].is_string(), stats.clif.is_some());
            if cfg!(target_arch = "x86_64") {
                assert!(code["listing"].as_str().unwrap().contains("ret"), "{code}");
            }
        }
        first += code.len();
    }
    let mut inside = workload("xor");
    inside.compute_values().unwrap();
    let data = data(&inside.page());
    let values = array(&data, "values");
    assert_eq!(values.len(), inside.trace.last().sheets[0].order.len());
    assert!(values.iter().any(|value| value[6].as_u64() == Some(1)), "the loss is one number: {values:?}");
}

/// The last stage has as many nodes as the reports of the passes say.
#[test]
fn nodes_are_counted_as_in_reports() {
    let inside = workload("mlp-s");
    let (data, reports) = (inside.data(), inside.program.pass_reports());
    let stages = array(&data, "stages");
    assert_eq!(stages[stages.len() - 1]["n_nodes"], reports[reports.len() - 1].after);
    assert_eq!(stages[0]["n_nodes"], reports[0].before);
}

/// Uses every part of the page as a user does, and says in the title what went wrong.
const VISIT: &str = include_str!("visit.js");

fn browser() -> Option<&'static str> {
    let runs = |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
    ["chromium", "chromium-browser", "google-chrome"].into_iter().find(runs)
}

/// Where no browser is installed there is nothing to ask.
#[test]
fn a_browser_shows_every_part_of_the_page() {
    let Some(browser) = browser() else { return };
    let folder: PathBuf = std::env::temp_dir().join(format!("cotangent-explore-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let pages = [
        ("mlp", workload("mlp-s").page()),
        ("lstm", workload("lstm-char").page()),
        ("hostile", hostile().page()),
        ("large", blocks(125).page()),
    ];
    let mut titles = Vec::new();
    for (name, page) in pages {
        let file = folder.join(format!("{name}.html"));
        std::fs::write(&file, page.replace("</body>", &format!("<script>{VISIT}</script></body>"))).unwrap();
        let profile = format!("--user-data-dir={}", folder.join("profile").display());
        let flags = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,900", &profile, "--dump-dom"];
        let output = Command::new(browser).args(flags).arg(&file).output().unwrap();
        let dom = String::from_utf8_lossy(&output.stdout).into_owned();
        let title = dom
            .split_once("<title>")
            .and_then(|(_, rest)| rest.split_once("</title>"))
            .map(|(title, _)| title.to_owned());
        titles.push((name, title));
    }
    std::fs::remove_dir_all(&folder).unwrap();
    for (name, title) in titles {
        assert_eq!(title.as_deref(), Some("all is well"), "{name}");
    }
}

//! Answers, as text with the expected text beside it: `why/*.why` have a graph, and questions behind `?`.

use std::path::Path;

use cotangent_exec::{Compiler, Target};
use cotangent_explore::{Inside, Question};
use cotangent_graph::Registry;
use cotangent_graph::text::parse;
use cotangent_testkit::filetest::{check_files, difference};
use cotangent_train::workloads::Workload;

/// For the machine that answers are the same everywhere.
fn compiler() -> Compiler {
    Compiler::new().target(Target::usual())
}

fn words(question: &str) -> Vec<String> {
    question.split_whitespace().map(str::to_owned).collect()
}

fn ask(inside: &Inside, question: &str) -> String {
    match Question::of(&words(question)).map(|question| inside.why(&question)) {
        Ok(Ok(answer)) => answer,
        Ok(Err(diag)) => format!("{diag}\n"),
        Err(usage) => format!("{usage}\n"),
    }
}

#[test]
fn answers_are_as_expected() {
    check_files("tests/why", "why", |_, input| {
        let (questions, text): (Vec<&str>, Vec<&str>) = input.lines().partition(|line| line.starts_with('?'));
        let graph = parse(&text.join("\n"), "g.ct", &Registry::builtin()).unwrap();
        let inside = Inside::of(&compiler(), &graph).unwrap();
        questions.iter().map(|question| format!("{question}\n{}\n", ask(&inside, &question[1..]))).collect()
    });
}

/// The same of training steps that are too long to stand in a file: the first line names the workload.
#[test]
fn answers_about_workloads_are_as_expected() {
    check_files("tests/why", "workload", |_, input| {
        let (name, questions) = input.split_once('\n').unwrap();
        // Through the text form, so that lines are those of the text and not of the source that builds it.
        let text = Workload::named(name).unwrap().build().unwrap().to_string();
        let graph = parse(&text, &format!("{name}.ct"), &Registry::builtin()).unwrap();
        let inside = Inside::of(&compiler(), &graph).unwrap();
        questions.lines().map(|question| format!("{question}\n{}\n", ask(&inside, &question[1..]))).collect()
    });
}

/// Every node and buffer of workloads has an answer to every question, the same in a second program.
#[test]
fn every_question_has_an_answer_and_it_stays() {
    for name in ["xor", "mlp-s", "lstm-char"] {
        let graph = Workload::named(name).unwrap().build().unwrap();
        let [first, second] = [0, 1].map(|_| Inside::of(&compiler(), &graph).unwrap());
        let mut questions = vec!["peak".to_owned()];
        questions.extend(graph.params().filter_map(|(_, node)| Some(format!("gradient {}", node.name()?))));
        questions.extend((0..first.program.plan().buffers.len()).map(|b| format!("copied b{b}")));
        let n_nodes = first.trace.last().sheets[0].order.len();
        questions.extend((0..n_nodes).flat_map(|n| [format!("fused %{n}"), format!("rule %{n}")]));
        questions.extend((1..n_nodes).map(|n| format!("fused %{} %{n}", n / 2)));
        for question in questions {
            let answer = ask(&first, &question);
            assert!(!answer.starts_with("error") && answer.lines().count() >= 1, "{name}: {question}: {answer}");
            assert_eq!(answer, ask(&second, &question), "{name}: {question}");
        }
    }
}

/// A gradient's answer names the value that the update of the parameter reads.
#[test]
fn gradients_lead_to_the_updates() {
    let graph = Workload::named("mlp-s").unwrap().build().unwrap();
    let inside = Inside::of(&compiler(), &graph).unwrap();
    for (_, node) in graph.params() {
        let name = node.name().unwrap();
        let answer = ask(&inside, &format!("gradient {name}"));
        assert!(answer.contains("is one term") && answer.contains("in the program: %"), "{answer}");
        assert!(answer.contains(&format!("param `{name}`")), "{answer}");
    }
}

#[test]
fn what_is_not_known_is_met_with_the_nearest() {
    let inside = Inside::of(&compiler(), &Workload::named("xor").unwrap().build().unwrap()).unwrap();
    for (question, expected) in [
        ("fused %9999", "has no node `%9999`; its nodes are %0 to %"),
        ("fused %", "has no node `%`"),
        ("fused los", "did you mean `loss`?"),
        ("fused tahn", "did you mean `tanh`?"),
        ("fused %1 %x", "has no node `%x`"),
        ("fused @cell%1", "no loop of the program has a body @cell"),
        ("rule mul", "nodes of @"),
        ("copied b9999", "has no buffer `b9999`; required a name or b0 to b"),
        ("copied W00", "did you mean `W0`?"),
        ("gradient w0", "did you mean `W0`?"),
        ("gradient x", "no gradient with respect to `x` is asked for"),
        ("gradent W0", "did you mean 'gradient'?"),
        ("fused", "required 'fused NODE [NODE]', got 'fused'"),
        ("peak now", "required 'peak', got 'peak now'"),
        ("copied", "required 'copied BUFFER'"),
        ("", "those are fused NODE [NODE], copied BUFFER, peak, gradient PARAM, rule NODE"),
    ] {
        let answer = ask(&inside, question);
        assert!(answer.contains(expected), "{question}: {answer}");
    }
}

/// The answers on the page are those to its questions, about the graph on the page of the command line.
#[test]
fn the_pages_answers_are_real() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let read = |name: &str| std::fs::read_to_string(docs.join(name)).unwrap();
    let page = read("inside.md");
    let commands = read("cli.md");
    let (_, graph) = commands.split_once("```text\n").unwrap();
    let (graph, _) = graph.split_once("```").unwrap();
    let graph = parse(graph, "step.ct", &Registry::builtin()).unwrap();
    let inside = Inside::of(&compiler(), &graph).unwrap();
    const COMMAND: &str = "$ cotangent why step.ct ";
    let (mut written, mut inside_block, mut n_questions) = (String::new(), false, 0);
    for line in page.lines() {
        // What stands behind a question until the next one or the end of the block is its answer.
        inside_block &= !line.starts_with("```") && !line.starts_with('$');
        if !inside_block {
            written += line;
            written.push('\n');
        }
        if let Some(question) = line.strip_prefix(COMMAND) {
            (inside_block, n_questions) = (true, n_questions + 1);
            written += &ask(&inside, question);
        }
    }
    assert!(n_questions > 4, "{n_questions}");
    if std::env::var_os("COTANGENT_BLESS").is_some_and(|v| v == "1") {
        std::fs::write(docs.join("inside.md"), written).unwrap();
    } else {
        let next = "COTANGENT_BLESS=1 cargo test -p cotangent-explore --test why rewrites it";
        assert!(page == written, "{}\n{next}", difference(&page, &written));
    }
}

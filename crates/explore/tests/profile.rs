//! Tables, traces and charts of what was measured, and what is said of predictions.

use cotangent_exec::Compiler;
use cotangent_explore::chart;
use cotangent_explore::{compared, measured, summary};
use cotangent_train::workloads::Workload;
use serde_json::Value;

fn program(name: &str) -> std::sync::Arc<cotangent_exec::Executable> {
    Compiler::new().compile(&Workload::named(name).unwrap().build().unwrap()).unwrap()
}

#[test]
fn tables_and_traces_have_every_step() {
    let program = program("mlp-s");
    let (measured, n_steps) = (measured(&program, 2, 7).unwrap(), program.plan().steps.len());
    let table = measured.table(&program);
    let rows = table.lines().filter(|line| line.contains(" → ") && line.contains(" % ")).count();
    assert_eq!(rows, n_steps, "{table}");
    assert!(table.contains("medians of 7 steps") && table.contains("2 threads"), "{table}");
    let trace: Value = serde_json::from_str(&measured.trace(&program)).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let steps = events.iter().filter(|event| event["cat"] == "step");
    assert_eq!(steps.clone().count(), 5 * n_steps);
    for event in steps {
        assert!(event["dur"].as_f64().unwrap() >= 0.0 && event["args"]["bytes"].as_u64().is_some(), "{event}");
    }
    let names = events.iter().filter(|event| event["name"] == "thread_name").count();
    assert_eq!(names, 2);
}

/// Every element is closed, and each step stands in the chart.
#[test]
fn charts_hold_every_step() {
    let program = program("mlp-s");
    let measured = measured(&program, 2, 3).unwrap();
    let plan = program.plan();
    let charts = [
        chart::roofline(&program, None),
        chart::roofline(&program, Some(&measured.profile)),
        chart::timeline(&program, &measured.profile),
        chart::arena(plan, |id| format!("b{}", id.0)),
        chart::bars("a < b", &[("\"fused\"".into(), 1.0, "1 ms & less".into()), ("not".into(), 0.0, "0".into())]),
    ];
    for svg in &charts {
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"));
        for name in ["text", "title"] {
            assert_eq!(svg.matches(&format!("<{name}")).count(), svg.matches(&format!("</{name}>")).count());
        }
    }
    for step in 0..plan.steps.len() {
        let mark = format!("data-step=\"{step}\"");
        assert!(charts[2].contains(&mark), "step {step}");
        let work = program.work(step);
        assert_eq!(charts[0].contains(&mark), work.flop > 0.0 && work.bytes > 0, "step {step}");
        assert_eq!(charts[1].contains(&mark), charts[0].contains(&mark), "step {step}");
    }
    assert!(charts[4].contains("a &lt; b") && charts[4].contains("&quot;fused&quot;"));
}

#[test]
fn short_steps_are_summed_by_kind_and_every_step_counts_once() {
    let program = program("xor");
    let rows = compared("xor", &program).unwrap();
    let n_steps = program.plan().steps.len();
    let counted = |text: &str| {
        let (first, rest) = text.split_once(' ').unwrap();
        if rest.starts_with("short ") { first.parse::<usize>().unwrap() } else { 1 }
    };
    assert_eq!(rows.iter().map(|row| counted(&row.text)).sum::<usize>(), n_steps, "{rows:?}");
    assert!(rows.iter().all(|row| row.factor() >= 1.0 && row.measured > 0.0 && row.predicted > 0.0), "{rows:?}");
    let text = summary(&rows);
    assert!(text.contains(&format!("of {} within 1.5 times", rows.len())), "{text}");
    assert!(summary(&[]).contains("0 of 0 within 2.5 times: 0.0 %"));
}

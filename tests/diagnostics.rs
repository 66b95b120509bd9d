//! What errors show, over all codes: where an error is about operands or about two places, the user's line of each; where a
//! name is unknown, the nearest one that is known.
//!
//! [`about`] says for every code which of the two it concerns, and every code that concerns one has a case for each way in
//! which users meet it: in Rust and in the text form. A new code does not compile before it is in that table, and a new place
//! in the sources that makes an error of these codes without saying more is found by [`every_source_of_such_errors_says_more`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cotangent::graph::{Attrs, Code, Registry, text};
use cotangent::passes::{GradCheck, PassError, PassOptions, Wrt, check_gradients, optimize};
use cotangent::prelude::*;
use ndarray::array;

/// How users meet an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Rust,
    Text,
}
use Way::{Rust, Text};

/// What the errors of a code must show, and in which ways they can be met.
struct About {
    /// Lines of operands, or of the first of two places.
    lines: &'static [Way],
    /// The nearest known name.
    name: &'static [Way],
}

/// A new code must be entered here, and its cases below.
fn about(code: Code) -> About {
    const NO: &[Way] = &[];
    const BOTH: &[Way] = &[Rust, Text];
    let (lines, name) = match code {
        Code::ShapeMismatch | Code::DTypeMismatch | Code::BadAxis | Code::BadArity | Code::TooLarge => (BOTH, NO),
        Code::BadAttribute => (BOTH, &[Text][..]),
        Code::DuplicateName | Code::BadUpdate | Code::NotDifferentiable | Code::BadBody => (BOTH, NO),
        // The text form has no tensors of other graphs.
        Code::ForeignTensor => (&[Rust][..], NO),
        Code::UnknownName | Code::NoSuchValue => (NO, BOTH),
        Code::Syntax | Code::UnknownOp => (NO, &[Text][..]),
        // Types follow from operands, whose lines are shown. Rust has no annotations.
        Code::TypeAnnotation => (&[Text][..], NO),
        Code::InputNames => (BOTH, BOTH),
        Code::InputType | Code::IndexOutOfRange | Code::StoreMismatch | Code::NoMemory => (BOTH, NO),
        // The line of the op; `find_non_finite` adds those of its operands.
        Code::NotFinite => (BOTH, NO),
        // About the graph, the compiler or the machine as a whole; about ids, which have no lines; about configurations.
        Code::NoOutputs | Code::TooManyNodes | Code::BadVersion | Code::Diverged | Code::Unsupported => (NO, NO),
        Code::ForeignId | Code::OutOfSteps | Code::OtherMachine | Code::Config => (NO, NO),
        // About the record of an op, and a graph that was put together node by node.
        Code::BadOp | Code::IllFormed => (NO, NO),
        _ => panic!("{code:?} is a new code: say here what it is about"),
    };
    About { lines, name }
}

/// One mistake.
struct Case {
    code: Code,
    way: Way,
    shown: Shown,
    make: fn() -> Met,
}

/// Which promise a case is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Lines,
    Name,
}

/// An error as it was met, and what it must show.
struct Met {
    code: Code,
    printed: String,
    shows: Vec<String>,
}

fn met(diag: &Diag, shows: Vec<String>) -> Met {
    Met { code: diag.code, printed: diag.to_string(), shows }
}

/// A mistake in a builder; the closure returns the lines of this file that must be shown.
fn built(f: impl FnOnce(&GraphBuilder) -> Vec<u32>) -> Met {
    let g = GraphBuilder::new("mistake");
    let lines = f(&g);
    let diags = g.finish().expect_err("a mistake");
    assert_eq!(diags.0.len(), 1, "one mistake, one error: {diags}");
    met(&diags.0[0], lines.into_iter().map(here).collect())
}

/// A name that was not known to a builder.
fn misnamed(nearest: &str, f: impl FnOnce(&GraphBuilder)) -> Met {
    let met = built(|g| {
        f(g);
        Vec::new()
    });
    Met { shows: vec![meant(nearest)], ..met }
}

fn here(line: u32) -> String {
    format!("{}:{line}\n", file!())
}

fn meant(name: &str) -> String {
    format!("did you mean `{name}`?")
}

/// A graph in text form whose statements start at line 3.
fn source(statements: &str) -> String {
    format!("cotangent 1\ngraph @f {{\n{statements}\n}}")
}

/// A mistake in a text; `lines` must be shown.
fn read(statements: &str, lines: &[u32]) -> Met {
    let diags = text::parse(&source(statements), "f.ct", &Registry::builtin()).expect_err("a mistake");
    met(&diags.0[0], at(lines))
}

fn misread(statements: &str, nearest: &str) -> Met {
    Met { shows: vec![meant(nearest)], ..read(statements, &[]) }
}

fn at(lines: &[u32]) -> Vec<String> {
    lines.iter().map(|line| format!("f.ct:{line}:")).collect()
}

fn compiled(graph: &Graph) -> Session {
    let program = Compiler::new().compile(graph).expect("compiles");
    Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(0)).expect("a session")
}

fn session(statements: &str) -> Session {
    compiled(&text::parse(&source(statements), "f.ct", &Registry::builtin()).expect("well formed"))
}

macro_rules! cases {
    ($($code:ident $way:ident $shown:ident: $make:expr;)*) => {
        &[$(Case { code: Code::$code, way: $way, shown: Shown::$shown, make: || $make },)*]
    };
}

const CASES: &[Case] = cases! {
    // ---- lines ------------------------------------------------------------------------------------------------------
    ShapeMismatch Rust Lines: built(|g| {
        let a = g.input("a", F32, [2, 3]);
        let b = g.input("b", F32, [2, 4]);
        g.output("y", a + b);
        vec![line!() - 3, line!() - 2, line!() - 1]
    });
    ShapeMismatch Rust Lines: built(|g| {
        let a = g.input("a", F32, [2, 3]);
        let b = g.input("b", F32, [3]);
        g.output("y", a.matmul(b));
        vec![line!() - 3, line!() - 2, line!() - 1]
    });
    ShapeMismatch Rust Lines: built(|g| {
        // The leading axes are broadcast first.
        let a = g.input("a", F32, [5, 2, 3]);
        let b = g.input("b", F32, [4, 2]);
        g.output("y", a.matmul(b));
        vec![line!() - 3, line!() - 2, line!() - 1]
    });
    ShapeMismatch Rust Lines: built(|g| {
        let a = g.input("a", F32, [2, 3]);
        let b = g.input("b", F32, [3, 3]);
        let c = g.input("c", F32, [2, 4]);
        g.output("y", g.concat(&[a, b, c], 0));
        vec![line!() - 4, line!() - 3, line!() - 2, line!() - 1]
    });
    ShapeMismatch Rust Lines: built(|g| {
        let condition = g.input("c", Bool, [2]);
        let a = g.input("a", F32, [3]);
        let b = g.input("b", F32, [3]);
        g.output("y", condition.select(a, b));
        vec![line!() - 4, line!() - 3, line!() - 2, line!() - 1]
    });
    ShapeMismatch Rust Lines: built(|g| {
        let logits = g.input("x", F32, [4, 3]);
        let labels = g.input("l", I64, [5]);
        g.output("y", logits.cross_entropy(labels));
        vec![line!() - 3, line!() - 2, line!() - 1]
    });
    ShapeMismatch Rust Lines: built(|g| {
        let logits = g.input("x", F32, [4, 3]);
        let labels = g.input("l", I64, [5]);
        g.output("y", logits.accuracy(labels));
        vec![line!() - 3, line!() - 2, line!() - 1]
    });
    ShapeMismatch Rust Lines: built(|g| {
        let a = g.input("a", F32, [4, 3]);
        let b = g.input("b", F32, [4, 2]);
        g.output("y", a.mse(b));
        vec![line!() - 3, line!() - 2, line!() - 1]
    });
    ShapeMismatch Rust Lines: built(|g| {
        let a = g.input("a", F32, [4, 3]);
        let b = g.input("b", F32, [4, 2]);
        g.output("y", a.huber(b, 1.0));
        vec![line!() - 3, line!() - 2, line!() - 1]
    });
    ShapeMismatch Rust Lines: built(|g| {
        let student = g.input("a", F32, [4, 3]);
        let teacher = g.input("b", F32, [4, 2]);
        g.output("y", student.mean_distillation(teacher, 2.0));
        vec![line!() - 3, line!() - 2, line!() - 1]
    });
    ShapeMismatch Rust Lines: built(|g| {
        let logits = g.input("x", F32, [4, 3]);
        let weights = g.input("w", F32, [4]);
        let options = CrossEntropyOptions::new().weights(weights);
        let labels = g.input("l", I64, [4]);
        g.output("y", logits.mean_cross_entropy(labels, options));
        vec![line!() - 5, line!() - 4, line!() - 1]
    });
    ShapeMismatch Rust Lines: built(|g| {
        let w = g.param("w", F32, [4], Init::ONES);
        let gradient = g.input("x", F32, [3]);
        g.apply_gradients(&[(w, gradient)], Sgd::new(0.1));
        vec![line!() - 3, line!() - 2, line!() - 1]
    });
    ShapeMismatch Rust Lines: built(|g| {
        let x = g.input("x", F32, [4, 3]);
        let gain = g.input("g", F32, [4]);
        let bias = g.input("b", F32, [3]);
        g.output("y", x.layer_norm(gain, bias, 1e-5));
        vec![line!() - 4, line!() - 3, line!() - 2, line!() - 1]
    });
    ShapeMismatch Rust Lines: built(|g| {
        let x = g.input("x", F32, []);
        g.output("y", x.flatten());
        vec![line!() - 2, line!() - 1]
    });
    ShapeMismatch Text Lines:
        read("  %0 = input \"a\" : f32[2]\n  %1 = input \"b\" : f32[3]\n  %2 = add %0, %1", &[3, 4, 5]);
    DTypeMismatch Rust Lines: built(|g| {
        let a = g.input("a", F32, [3]);
        let b = g.input("b", I32, [3]);
        g.output("y", a * b);
        vec![line!() - 3, line!() - 2, line!() - 1]
    });
    DTypeMismatch Rust Lines: built(|g| {
        // One is broadcast first, and its own line counts.
        let a = g.input("a", F32, [2, 3]);
        let b = g.input("b", F64, [3]);
        g.output("y", a * b);
        vec![line!() - 3, line!() - 2, line!() - 1]
    });
    DTypeMismatch Rust Lines: built(|g| {
        let a = g.input("a", F32, [5, 2, 3]);
        let b = g.input("b", F64, [3, 2]);
        g.output("y", a.matmul(b));
        vec![line!() - 3, line!() - 2, line!() - 1]
    });
    DTypeMismatch Rust Lines: built(|g| {
        let table = g.input("t", F32, [5, 2]);
        let rows = g.input("i", F32, [3]);
        g.output("y", table.gather(rows));
        vec![line!() - 3, line!() - 2, line!() - 1]
    });
    DTypeMismatch Rust Lines: built(|g| {
        let logits = g.input("x", F32, [4, 3]);
        let labels = g.input("l", F32, [4]);
        g.output("y", logits.accuracy(labels));
        vec![line!() - 3, line!() - 2, line!() - 1]
    });
    DTypeMismatch Rust Lines: built(|g| {
        let x = g.input("x", I32, [4, 3]);
        g.output("y", x.dense("layer", 3));
        vec![line!() - 2, line!() - 1]
    });
    DTypeMismatch Rust Lines: built(|g| {
        let x = g.input("x", F32, [4]);
        g.output("y", x.embedding("table", 3, 2));
        vec![line!() - 2, line!() - 1]
    });
    DTypeMismatch Text Lines:
        read("  %0 = input \"a\" : f32[2]\n  %1 = input \"b\" : f64[2]\n  %2 = mul %0, %1", &[3, 4, 5]);
    BadAxis Rust Lines: built(|g| {
        let x = g.input("x", F32, [2, 3]);
        g.output("y", x.sum_over([2]));
        vec![line!() - 2, line!() - 1]
    });
    BadAxis Text Lines: read("  %0 = input \"a\" : f32[2]\n  %1 = reduce_sum %0 {axes = [3]}", &[3, 4]);
    BadAttribute Rust Lines: built(|g| {
        let x = g.input("x", F32, [8]);
        g.output("y", x.dropout("drop", 1.5));
        vec![line!() - 2, line!() - 1]
    });
    BadAttribute Text Lines: read("  %0 = input \"a\" : f32[2]\n  %1 = tuple %0, %0\n  %2 = item %1 {index = 2}", &[4, 5]);
    BadArity Rust Lines: built(|g| {
        let x = g.input("x", F32, [8]);
        g.output("y", g.op(Registry::builtin().get("add").expect("known").0, &[x], Attrs::none(), None));
        vec![line!() - 2, line!() - 1]
    });
    BadArity Text Lines: read("  %0 = input \"a\" : f32[2]\n  %1 = add %0", &[3, 4]);
    TooLarge Rust Lines: built(|g| {
        let a = g.input("a", F32, [1 << 30, 1]);
        let b = g.input("b", F32, [1, 1 << 30]);
        g.output("y", a.matmul(b));
        vec![line!() - 3, line!() - 2, line!() - 1]
    });
    TooLarge Text Lines: read(
        "  %0 = input \"a\" : f32[16777217,1]\n  %1 = input \"b\" : f32[1,16777217]\n  %2 = matmul %0, %1",
        &[3, 4, 5]
    );
    DuplicateName Rust Lines: built(|g| {
        g.output("a", g.input("x", F32, [2]));
        g.output("b", g.param("x", F32, [2], Init::ONES));
        vec![line!() - 2, line!() - 1]
    });
    DuplicateName Rust Lines: built(|g| {
        let x = g.input("x", F32, [2]);
        g.output("y", x);
        g.output("y", x + 1.0);
        vec![line!() - 2, line!() - 1]
    });
    DuplicateName Rust Lines: built(|g| {
        let x = g.input("x", F32, [4, 4]);
        let first = x.dense("layer", 4);
        g.output("y", first.layer("layer", PRelu::new()));
        let rates = line!() + 1;
        g.minimize_params(g.shared("layer.slope").sum(), &[g.shared("layer.slope")], Sgd::new(0.1));
        g.minimize_params(g.shared("layer.weight").sum(), &[g.shared("layer.weight")], Sgd::new(0.2));
        vec![rates, rates + 1]
    });
    DuplicateName Text Lines: read("  %0 = input \"x\" : f32[2]\n  %1 = param \"x\" {init = ones} : f32[2]", &[3, 4]);
    DuplicateName Text Lines: read("  %0 = input \"x\" : f32[2]\n  output \"y\" = %0\n  output \"y\" = %0", &[4, 5]);
    DuplicateName Text Lines: read("  %0 = input \"x\" : f32[2]\n  %0 = tanh %0", &[3, 4]);
    DuplicateName Text Lines: read("  body 0 @b {\n  }\n  body 0 @c {\n  }", &[3, 5]);
    ForeignTensor Rust Lines: {
        let other = GraphBuilder::new("other");
        let b = other.input("b", F32, [2]);
        let line = line!() - 1;
        built(|g| {
            let a = g.input("a", F32, [2]);
            g.output("y", a + b);
            vec![line, line!() - 2, line!() - 1]
        })
    };
    ForeignTensor Rust Lines: {
        let other = GraphBuilder::new("other");
        let b = other.input("b", F32, [2]);
        let line = line!() - 1;
        built(|g| {
            g.output("y", b);
            vec![line, line!() - 1]
        })
    };
    ForeignTensor Rust Lines: {
        let other = GraphBuilder::new("other");
        let loss = other.input("b", F32, []);
        let line = line!() - 1;
        built(|g| {
            g.minimize(loss, Sgd::new(0.1));
            vec![line, line!() - 1]
        })
    };
    BadUpdate Rust Lines: built(|g| {
        let n = g.state("n", I64, [], Init::ZEROS);
        let value = n.cast(F32);
        g.update(n, value);
        vec![line!() - 3, line!() - 2, line!() - 1]
    });
    BadUpdate Rust Lines: built(|g| {
        let n = g.state("n", I64, [], Init::ZEROS);
        g.update(n, n + 1);
        g.update(n, n + 2);
        vec![line!() - 3, line!() - 2, line!() - 1]
    });
    BadUpdate Rust Lines: built(|g| {
        let w = g.param("w", F32, [2], Init::ONES);
        let loss = w.sum();
        g.minimize(loss, Sgd::new(0.1));
        g.minimize(loss, Sgd::new(0.1));
        vec![line!() - 4, line!() - 2, line!() - 1]
    });
    BadUpdate Rust Lines: built(|g| {
        let x = g.input("x", F32, [2]);
        g.minimize_params(x.sum(), &[x], Sgd::new(0.1));
        vec![line!() - 2, line!() - 1]
    });
    BadUpdate Text Lines:
        read("  %0 = param \"w\" {init = ones} : f32[2]\n  %1 = reduce_sum %0 {axes = [0]}\n  update \"w\" = %1", &[3, 4, 5]);
    BadUpdate Text Lines: read(
        "  %0 = param \"w\" {init = ones} : f32[2]\n  %1 = neg %0\n  update \"w\" = %1\n  update \"w\" = %0",
        &[3, 5, 6]
    );
    BadUpdate Text Lines: read("  %0 = input \"a\" : f32[2]\n  %1 = tuple %0, %0\n  output \"y\" = %1", &[4, 5]);
    NotDifferentiable Rust Lines: built(|g| {
        let x = g.input("x", F32, [4]);
        let y = x.tanh();
        g.output("dx", g.grad(y, &[x])[0]);
        vec![line!() - 3, line!() - 2, line!() - 1]
    });
    NotDifferentiable Rust Lines: built(|g| {
        let loss = g.input("x", F32, [4]).tanh();
        g.minimize(loss, Sgd::new(0.1));
        vec![line!() - 2, line!() - 1]
    });
    NotDifferentiable Rust Lines: built(|g| {
        let w = g.param("w", F32, [4], Init::ONES);
        let loss = g.input("x", F32, [4]).sum();
        g.minimize_params(loss, &[w], Sgd::new(0.1));
        vec![line!() - 3, line!() - 2, line!() - 1]
    });
    NotDifferentiable Text Lines:
        read("  %0 = input \"a\" : f32[2]\n  %1 = tanh %0\n  %2 = grad %1, %0", &[3, 4, 5]);
    BadBody Rust Lines: built(|g| {
        let body = g.body("f", &[Type::tensor(F32, [2])], |_, x| vec![x[0].tanh()]);
        let x = g.input("x", F32, [3]);
        g.output("y", g.call(&body, &[x])[0]);
        vec![line!() - 3, line!() - 2, line!() - 1]
    });
    BadBody Text Lines: read(
        "  body 0 @b {\n    %0 = input \"0\" : f32[2]\n    output \"0\" = %0\n  }\n  %0 = input \"x\" : f32[3]\n  %1 = call \
         %0 {body = body 0}",
        &[4, 7, 8]
    );
    TypeAnnotation Text Lines: read("  %0 = input \"x\" : f32[2]\n  %1 = tanh %0 : f32[3]", &[3, 4]);
    InputType Rust Lines: {
        let line = line!() + 1;
        let graph = build(|g| g.output("y", g.input("x", F32, [2]) * 2.0)).expect("well formed");
        let x = array![1.0f64];
        let met = met(&compiled(&graph).step([("x", (&x).into())]).expect_err("a mistake"), vec![here(line)]);
        Met { shows: [met.shows, vec![format!("{}:{}", file!(), line!() - 1)]].concat(), ..met }
    };
    InputType Text Lines: {
        let x = array![1.0f64];
        let mut session = session("  %0 = input \"x\" : f32[2]\n  output \"y\" = %0");
        met(&session.step([("x", (&x).into())]).expect_err("a mistake"), at(&[3]))
    };
    InputNames Rust Lines: {
        let line = line!() + 1;
        let graph = build(|g| g.output("y", g.input("x", F32, [2]) * 2.0)).expect("well formed");
        let none: [(&str, HostTensor<'_>); 0] = [];
        met(&compiled(&graph).step(none).expect_err("a mistake"), vec![here(line)])
    };
    InputNames Text Lines: {
        let none: [(&str, HostTensor<'_>); 0] = [];
        let mut session = session("  %0 = input \"x\" : f32[2]\n  output \"y\" = %0");
        met(&session.step(none).expect_err("a mistake"), at(&[3]))
    };
    IndexOutOfRange Rust Lines: {
        let mut lines = Vec::new();
        let graph = build(|g| {
            let table = g.input("table", F32, [3, 2]);
            let rows = g.input("rows", I64, [2]) + 1;
            g.output("y", table.gather(rows));
            lines = vec![line!() - 2, line!() - 1];
        })
        .expect("well formed");
        let (table, rows) = (array![[0.0f32, 0.0], [0.0, 0.0], [0.0, 0.0]], array![0i64, 2]);
        let error = compiled(&graph).step([("table", (&table).into()), ("rows", (&rows).into())]).expect_err("a mistake");
        met(&error, lines.into_iter().map(here).collect())
    };
    IndexOutOfRange Text Lines: {
        let mut session = session("  %0 = input \"t\" : f32[3]\n  %1 = input \"i\" : i64[2]\n  %2 = gather %0, %1\n  output \"y\" = %2");
        let (table, rows) = (array![0.0f32, 1.0, 2.0], array![0i64, 3]);
        let error = session.step([("t", (&table).into()), ("i", (&rows).into())]).expect_err("a mistake");
        met(&error, at(&[4, 5]))
    };
    NotFinite Rust Lines: {
        let mut line = 0;
        let graph = build(|g| {
            let x = g.input("x", F32, [2]);
            line = line!() + 1;
            g.output("y", x.log().check_finite());
        })
        .expect("well formed");
        let x = array![1.0f32, -1.0];
        met(&compiled(&graph).step([("x", (&x).into())]).expect_err("a mistake"), vec![here(line)])
    };
    NotFinite Text Lines: {
        let session = session("  %0 = input \"x\" : f32[1]\n  %1 = log %0\n  output \"y\" = %1");
        let x = array![-1.0f32];
        let found = session.find_non_finite(session.main(), [("x", (&x).into())]).expect("runs").expect("a NaN");
        met(&found, at(&[3, 4]))
    };
    // The lines of the largest values.
    NoMemory Rust Lines: {
        let graph = build(|g| g.output("w", g.param("w", F32, [1 << 46], Init::ONES).sum())).expect("well formed");
        let line = line!() - 1;
        let program = Compiler::new().memory_limit(usize::MAX).compile(&graph).expect("compiles");
        let error = Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(0)).expect_err("too much");
        met(&error, vec![here(line).trim_end().to_owned()])
    };
    NoMemory Text Lines: {
        let text = source("  %0 = param \"w\" {init = ones} : f32[70368744177664]\n  %1 = exp %0\n  output \"y\" = %1");
        let graph = text::parse(&text, "f.ct", &Registry::builtin()).expect("well formed");
        let program = Compiler::new().memory_limit(usize::MAX).compile(&graph).expect("compiles");
        let error = Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(0)).expect_err("too much");
        met(&error, at(&[3, 4]))
    };
    StoreMismatch Rust Lines: {
        let program = |n: usize| build(|g| g.output("w", g.param("w", F32, [n], Init::ONES) * 2.0)).expect("well formed");
        let line = line!() - 1;
        let store = compiled(&program(3)).into_store();
        let other = Compiler::new().compile(&program(4)).expect("compiles");
        let error = Session::with_store(&Runtime::new(Threads::Exactly(1)), other, store).expect_err("a mistake");
        met(&error, vec![here(line).trim_end().to_owned()])
    };
    StoreMismatch Text Lines: {
        let store = session("  %0 = param \"w\" {init = ones} : f32[2]\n  output \"y\" = %0").into_store();
        let text = source("  %0 = param \"w\" {init = ones} : f32[3]\n  output \"y\" = %0");
        let other = text::parse(&text, "f.ct", &Registry::builtin()).expect("well formed");
        let other = Compiler::new().compile(&other).expect("compiles");
        let error = Session::with_store(&Runtime::new(Threads::Exactly(1)), other, store).expect_err("a mistake");
        met(&error, at(&[3]))
    };

    // ---- names ------------------------------------------------------------------------------------------------------
    UnknownName Rust Name: misnamed("hidden.weight", |g| {
        let x = g.input("x", F32, [2, 8]).dense("hidden", 8);
        g.output("y", x.matmul(g.shared("hiden.weight")));
    });
    UnknownName Rust Name: {
        let graph = build(|g| g.output("y", g.input("x", F32, [2]))).expect("well formed");
        let options = PassOptions { only: Some(vec!["simplfy".to_owned()]), ..PassOptions::default() };
        let Err(PassError::Diags(diags)) = optimize(&graph, &options) else { panic!("no error") };
        met(&diags.0[0], vec![meant("simplify")])
    };
    UnknownName Rust Name: {
        let graph = build(|g| g.output("loss", g.input("features", F32, [2]).sum())).expect("well formed");
        let wrt = Wrt::Named(vec!["feature".to_owned()]);
        let options = GradCheck { wrt, ..GradCheck::default() };
        let Err(PassError::Diags(diags)) = check_gradients(&graph, &options) else { panic!("no error") };
        met(&diags.0[0], vec![meant("features")])
    };
    UnknownName Rust Name: {
        let graph = build(|g| g.output("loss", g.input("features", F32, [2]).sum())).expect("well formed");
        let options = GradCheck { loss: Some("los".to_owned()), ..GradCheck::default() };
        let Err(PassError::Diags(diags)) = check_gradients(&graph, &options) else { panic!("no error") };
        met(&diags.0[0], vec![meant("loss")])
    };
    UnknownName Text Name:
        misread("  %0 = param \"weight\" {init = ones} : f32[2]\n  update \"wieght\" = %0", "weight");
    BadAttribute Text Name: misread("  %0 = input \"x\" : f32[2]\n  %1 = reduce_sum %0 {axis = [0]}", "axes");
    BadAttribute Text Name: misread("  %0 = param \"w\" {init = he_norml} : f32[2]", "he_normal");
    BadAttribute Text Name: misread("  %0 = param \"w\" {init = unifrom(0.0, 1.0)} : f32[2]", "uniform");
    Syntax Text Name: misread("  %0 = input \"x\" : f23[2]", "f32");
    Syntax Text Name: misread("  %0 = input \"x\" : f32[2]\n  %1 = cast %0 {to = fp32}", "f32");
    Syntax Text Name: misread("  %0 = input \"x\" : f32[2]\n  outptu \"y\" = %0", "output");
    UnknownOp Text Name: misread("  %0 = input \"x\" : f32[2]\n  %1 = tahn %0", "tanh");
    InputNames Rust Name: {
        let graph = build(|g| g.output("y", g.input("labels", F32, [2]) * 2.0)).expect("well formed");
        let x = array![1.0f32, 2.0];
        met(&compiled(&graph).step([("lables", (&x).into())]).expect_err("a mistake"), vec![meant("labels")])
    };
    InputNames Rust Name: {
        let graph = build(|g| g.output("y", g.input("labels", F32, [2]) * 2.0)).expect("well formed");
        let error = compiled(&graph).program().input_id("lables").expect_err("a mistake");
        met(&error, vec![meant("labels")])
    };
    InputNames Text Name: {
        let x = array![1.0f32, 2.0];
        let mut session = session("  %0 = input \"labels\" : f32[2]\n  output \"y\" = %0");
        met(&session.step([("lables", (&x).into())]).expect_err("a mistake"), vec![meant("labels")])
    };
    NoSuchValue Rust Name: {
        let graph = build(|g| g.output("loss", g.input("x", F32, [2]).sum())).expect("well formed");
        let (mut session, x) = (compiled(&graph), array![1.0f32, 2.0]);
        let error = session.step([("x", (&x).into())]).expect("runs").scalar("lss").expect_err("a mistake");
        met(&error, vec![meant("loss")])
    };
    NoSuchValue Rust Name: {
        let graph = build(|g| g.output("y", g.param("weight", F32, [2], Init::ONES))).expect("well formed");
        met(&compiled(&graph).store().get("wieght").expect_err("a mistake"), vec![meant("weight")])
    };
    NoSuchValue Rust Name: {
        let graph = build(|g| g.output("y", g.param("weight", F32, [2], Init::ONES))).expect("well formed");
        let error = compiled(&graph).store_mut().set("wieght", array![1.0f32, 1.0]).expect_err("a mistake");
        met(&error, vec![meant("weight")])
    };
    NoSuchValue Text Name: {
        let x = array![1.0f32, 2.0];
        let mut session = session("  %0 = input \"x\" : f32[2]\n  output \"loss\" = %0");
        let error = session.step([("x", (&x).into())]).expect("runs").tensor("losss").expect_err("a mistake");
        met(&error, vec![meant("loss")])
    };
};

#[test]
fn every_error_shows_the_lines_and_names_that_it_is_about() {
    let mut missing = Vec::new();
    for (k, case) in CASES.iter().enumerate() {
        let met = (case.make)();
        // The last line of an error has no end.
        let printed = format!("{}\n", met.printed);
        if met.code != case.code {
            missing.push(format!("case {k} is not {:?}:\n{printed}", case.code));
        }
        assert!(!met.shows.is_empty(), "case {k} shows nothing");
        missing.extend(
            met.shows.iter().filter(|shows| !printed.contains(shows.as_str())).map(|shows| {
                format!("case {k} ({:?} in {:?}) does not show {shows:?}:\n{printed}", case.code, case.way)
            }),
        );
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn every_code_has_the_cases_that_it_needs() {
    for (code, _) in Code::ALL {
        let about = about(*code);
        for (shown, expected) in [(Shown::Lines, about.lines), (Shown::Name, about.name)] {
            let cases = CASES.iter().filter(|case| case.code == *code && case.shown == shown);
            let ways: BTreeSet<Way> = cases.map(|case| case.way).collect();
            let expected: BTreeSet<Way> = expected.iter().copied().collect();
            assert_eq!(ways, expected, "cases of {code:?} for {shown:?}");
        }
    }
}

/// Where no line of the user's is known, or a caller adds it: file, code and reason.
const WITHOUT: &[(&str, &str, &str)] = &[
    ("graph/src/builder.rs", "BadUpdate", "`check_result` and `check_update`: builder and parser add the lines"),
    (
        "graph/src/ops/region.rs",
        "BadBody",
        "`closed` of updates: a body's updates have no lines; the parser adds the body's",
    ),
    ("exec/src/store.rs", "InputType", "a store holds values, not lines"),
    ("kernel/src/interp_plan.rs", "InputType", "a plan has no lines; users do not meet it"),
    ("kernel/src/interp_plan.rs", "InputNames", "a plan has no lines; users do not meet it"),
    ("exec/src/machine.rs", "StoreMismatch", "the store was accepted before, so that nothing is missing"),
    ("exec/src/machine.rs", "InputType", "the inputs were checked before, so that none is of another type"),
];

#[test]
fn every_source_of_such_errors_says_more() {
    // Errors that are made from a `Fault` get the operands' lines where they become a `Diag`; these are made as one.
    let lines = ["ShapeMismatch", "DTypeMismatch", "DuplicateName", "ForeignTensor", "BadUpdate", "BadBody"];
    let lines = [&lines[..], &["TypeAnnotation", "InputType", "StoreMismatch"]].concat();
    let names = ["UnknownOp", "InputNames"];
    let says_lines = [".operands(", ".made(", ".note(", "with_operands(", ".declared_at(", ".origin.loc()"];
    let says_names = [".suggest(", ".note(", ".origin.loc()"];
    let mut wrong = Vec::new();
    let mut excused = BTreeSet::new();
    for path in sources() {
        let text = std::fs::read_to_string(&path).expect("readable");
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        let rows: Vec<&str> = text.lines().collect();
        for (at, row) in rows.iter().enumerate() {
            for made in ["Diag::new(", "cursor.error("] {
                // The code stands on the same line or on the next.
                let Some((_, rest)) = row.split_once(made) else { continue };
                let rest = format!("{rest} {}", rows.get(at + 1).unwrap_or(&""));
                let Some((_, code)) = rest.split_once("Code::") else { continue };
                let code: String = code.chars().take_while(|c| c.is_alphanumeric()).collect();
                let window = rows[at..rows.len().min(at + 9)].join("\n");
                let says = |parts: &[&str]| parts.iter().any(|part| window.contains(part));
                let is_wrong = (lines.contains(&code.as_str()) && !says(&says_lines))
                    || (names.contains(&code.as_str()) && !says(&says_names));
                if !is_wrong {
                    continue;
                }
                match WITHOUT.iter().position(|(file, of, _)| path.ends_with(file) && *of == code) {
                    Some(reason) => {
                        excused.insert(reason);
                    }
                    None => wrong.push(format!("{}:{}: {code}", path.display(), at + 1)),
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "these errors show neither the lines nor the names that they are about:\n{}",
        wrong.join("\n")
    );
    let stale: Vec<_> = (0..WITHOUT.len()).filter(|k| !excused.contains(k)).map(|k| WITHOUT[k]).collect();
    assert!(stale.is_empty(), "exceptions that nothing needs: {stale:?}");
}

/// The sources of the library and the command line.
fn sources() -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                walk(&entry, found);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                found.push(entry);
            }
        }
    }
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&crates).expect("crates").map(|entry| entry.expect("an entry").path()) {
        if entry.file_name().is_some_and(|name| name != "testkit") {
            walk(&entry.join("src"), &mut found);
        }
    }
    found.sort();
    found
}

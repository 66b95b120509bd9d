//! Translation validation: quiet about passes that are right, and exact about those that are not.

use cotangent_graph::DType::{self, F32, F64, I64};
use cotangent_graph::interp::interpret;
use cotangent_graph::ops;
use cotangent_graph::ops::arithmetic::{ADD, SUB, pointwise};
use cotangent_graph::ops::infer_float;
use cotangent_graph::ops::scan::{Loop, Made};
use cotangent_graph::samples::{Kind, environment_of};
use cotangent_graph::text::parse::parse;
use cotangent_graph::{
    Attrs, CompilerBug, Env, Graph, GraphBuilder, Init, Lower, OpDef, OpRef, OpTraits, Registry, Role, Stage, Tensor,
    TensorData, Vjp, build, eval, samples,
};
use cotangent_passes::rebuild::rebuild;
use cotangent_passes::validate::How;
use cotangent_passes::{
    Optimized, Pass, PassCx, PassError, PassOptions, Roots, Rule, RuleSet, Safety, ValidateOptions, Validator,
    apply_rules, optimize, optimize_with, pipeline,
};

fn graph(f: impl FnOnce(&GraphBuilder)) -> Graph {
    build(f).unwrap_or_else(|diags| panic!("{diags}"))
}

/// Runs the pipeline under a validator; what it checked.
fn validated(graph: &Graph, options: ValidateOptions) -> (Result<Optimized, PassError>, Validator) {
    let validator = Validator::new(options);
    let passes = PassOptions { verify: true, validate: Some(validator.hook()), ..PassOptions::default() };
    (optimize(graph, &passes), validator)
}

/// A training step with everything in it: embedding, dropout, normalization, momentum, an update by a clipped gradient.
fn training_step(g: &GraphBuilder) {
    let tokens = g.input("tokens", I64, [6]);
    let labels = g.input("labels", I64, [6]);
    let table = g.param("table", F32, [7, 4], Init::normal(0.0, 1.0));
    let (w1, b1) = (g.param("w1", F32, [4, 5], Init::GlorotUniform), g.param("b1", F32, [5], Init::ZEROS));
    let (gain, bias) = (g.param("gain", F32, [5], Init::ONES), g.param("bias", F32, [5], Init::ZEROS));
    let w2 = g.param("w2", F32, [5, 3], Init::HeNormal);
    let hidden = (table.gather(tokens).matmul(w1) + b1).layer_norm(gain, bias, 1e-5).gelu();
    let mask = g.uniform("mask", F32, [6, 5]).gt(hidden.constant_like(0.3)).cast(F32);
    let loss = (hidden * mask).matmul(w2).cross_entropy(labels).mean();
    g.output("loss", loss);
    let params = [table, w1, b1, gain, bias, w2];
    let gradients = g.grad(loss, &params);
    let norm = gradients.iter().map(|d| d.square().sum()).reduce(|a, b| a + b).map(|sum| (sum + 1e-12).sqrt());
    for (k, (p, d)) in params.iter().zip(&gradients).enumerate() {
        let m = g.state(&format!("m{k}"), F32, p.shape(), Init::ZEROS);
        let clipped = match norm {
            Some(norm) => *d / norm.maximum(norm.constant_like(1.0)).broadcast_to(d.shape()),
            None => *d,
        };
        let next = m * 0.9 + clipped;
        g.update(m, next);
        g.update(*p, *p - next * 0.1);
    }
}

#[test]
fn a_right_pipeline_passes_and_says_what_was_checked() {
    let source = graph(training_step);
    let (done, validator) = validated(&source, ValidateOptions { seed: 3, n_samples: 3, ..ValidateOptions::default() });
    done.unwrap_or_else(|error| panic!("{error}"));
    let report = validator.report();
    let find = |pass: &str| report.checks.iter().find(|c| c.pass == pass).unwrap_or_else(|| panic!("{report}"));
    let differentiate = find("differentiate");
    assert_eq!(differentiate.how, How::Differences);
    assert!(differentiate.skipped.is_empty() && differentiate.n_unjudged == 0, "{report}");
    // The elements of the six parameters once by differences, and of every output by value.
    assert!(differentiate.n_elements > 73, "{report}");
    assert_eq!(find("expand").how, How::Bits);
    assert_eq!(find("expand").n_samples, 3, "{report}");
    assert!(report.to_string().contains("differentiate"), "{report}");
    optimize(&source, &PassOptions::checked(5)).unwrap_or_else(|error| panic!("{error}"));
}

/// Every op of the registry, with its gradient where it has one, goes through the pipeline under validation.
#[test]
fn every_op_is_validated_with_its_derivative() {
    let (mut n_graphs, mut n_by_differences) = (0, 0);
    for op in Registry::builtin().iter() {
        for (k, sample) in (op.0.samples)(&mut samples::Sampler::new(F32, 3)).into_iter().enumerate() {
            let source = graph(|g| {
                let name = |k: usize| format!("x{k}");
                let inputs: Vec<Tensor<'_>> =
                    sample.inputs.iter().enumerate().map(|(k, x)| g.input(&name(k), x.dtype(), x.shape())).collect();
                let y = g.op(op.0, &inputs, sample.attrs.clone(), sample.declared.clone());
                g.output("y", y);
                let floats: Vec<Tensor<'_>> = inputs.iter().copied().filter(|x| x.is_float()).collect();
                if y.is_float() && !matches!(op.0.vjp, Vjp::None(_)) {
                    let weights = g.constant(samples::Sampler::new(y.dtype(), 5).away_from_zero(0.5..1.5, y.shape()));
                    for (k, d) in g.grad((y * weights).sum(), &floats).into_iter().enumerate() {
                        g.output(&format!("d{k}"), d);
                    }
                }
            });
            let (done, validator) = validated(&source, ValidateOptions { n_samples: 3, ..ValidateOptions::default() });
            done.unwrap_or_else(|error| panic!("{} sample {k}: {error}", op.0.name));
            n_graphs += 1;
            let checks = validator.report().checks;
            n_by_differences += checks.iter().filter(|c| c.how == How::Differences && c.n_elements > 0).count();
        }
    }
    assert!(n_graphs > 90 && n_by_differences > 60, "{n_graphs} graphs, {n_by_differences} with differences");
}

#[test]
fn derivatives_of_derivatives_and_along_directions_are_checked() {
    let source = graph(|g| {
        let x = g.input("x", F64, [3]);
        let w = g.param("w", F64, [3], Init::uniform(0.5, 1.5));
        let y = (x * w).tanh().softmax(0);
        let slope = g.grad((y * y).sum(), &[w])[0];
        g.output("curvature", g.grad(slope.square().sum(), &[w])[0]);
        g.output("along", g.jvp(y, x, w));
        let middle = (w * 2.0).exp();
        g.output("middle", g.grad((middle * middle.sin()).sum(), &[middle])[0]);
        g.output("gated", g.grad(((w * w).stop_gradient() * w).sum(), &[w])[0]);
    });
    let (done, validator) = validated(&source, ValidateOptions::default());
    done.unwrap_or_else(|error| panic!("{error}"));
    let report = validator.report();
    let check = report.checks.iter().find(|c| c.pass == "differentiate").unwrap_or_else(|| panic!("{report}"));
    assert!(check.skipped.is_empty() && check.n_unjudged == 0, "{report}");
    // Six `grad` nodes of three elements each, and four outputs of three.
    assert!(check.n_elements >= 30, "{report}");
}

#[test]
fn stabilizing_is_compared_where_the_naive_form_is_fine() {
    let source = graph(|g| {
        let x = g.input("x", F32, [3, 4]);
        g.output("a", x.softmax(1).log());
        g.output("b", (x.exp() + 1.0).log());
        g.output("c", (x * 200.0).exp().sum_over([1]).log());
    });
    let (done, validator) = validated(&source, ValidateOptions { n_samples: 3, ..ValidateOptions::default() });
    done.unwrap_or_else(|error| panic!("{error}"));
    let report = validator.report();
    assert_eq!((report.checks[0].pass.as_str(), report.checks[0].how), ("stabilize", How::Tolerance), "{report}");
    // exp(200 x) overflows in f32 for most x: nothing can be said of `c` there.
    assert!(report.checks[0].n_unjudged > 0 && report.checks[0].n_elements >= 24, "{report}");
}

// ---- what looks like a bug and is none ---------------------------------------------------------------------------

/// The scale of SELU.
const SCALE: f64 = 1.050_700_987_355_480_5;

/// `SCALE · x²/2`, of which the derivative above 0 is SELU.
static SELU_INTEGRAL: OpDef = OpDef {
    name: "selu_integral",
    doc: "The integral of SELU above 0.",
    vjp: Vjp::Rule(|cx| [Some(cx.dy * cx.x().selu())].into_iter().collect()),
    lower: Lower::Expand(|cx| [cx.inputs[0] * cx.inputs[0] * (SCALE / 2.0)].into_iter().collect()),
    eval: eval::unbound,
    ..pointwise(
        "selu_integral",
        "The integral of SELU above 0.",
        1,
        OpTraits::NONE,
        infer_float,
        |s, v, _| s.mul(v[0], v[0]),
        Vjp::None(""),
        |_| Vec::new(),
    )
};

/// The integral of SELU and the same by hand, apart by nothing, times 4096. The derivative of the one is SELU, whose scale is
/// rounded to f32 where SELU is expanded; that of the other is seven times a seventh of the scale, rounded before.
fn two_integrals(dtype: DType) -> Graph {
    graph(|g| {
        g.register(&SELU_INTEGRAL);
        let w = g.param("w", dtype, [1], Init::constant(1.3));
        let by_hand = w * w * (SCALE / 7.0) * 3.5;
        let value = ((w.unary(&SELU_INTEGRAL) - by_hand) * 4096.0).sum();
        g.output("value", value);
        g.output("derivative", g.grad(value, &[w])[0]);
    })
}

/// What is left of a random graph (seed 1634 of its day): a value beside its own `stop_gradient`, told apart by a comparison. At the
/// point they are equal, and the branch that is taken there has no derivative; next to it differences see the other one.
const OWN_STOP: &str = r#"cotangent 1
graph @own_stop {
  %0 = param "w" {init = constant(0.37)} : f32[1,1,1]
  %1 = stop_gradient %0
  %2 = ne %0, %1
  %3 = select %2, %0, %1
  %4 = reduce_sum %3 {axes = [0, 1, 2]}
  %5 = grad %4, %0
  output "value" = %4
  output "derivative" = %5
}"#;

fn text(source: &str) -> Graph {
    parse(source, "f.ct", &Registry::builtin()).unwrap_or_else(|diags| panic!("{diags}"))
}

/// The outputs of a graph as f64, with `w` moved.
fn at(graph: &Graph, env: &Env, delta: f64) -> Vec<f64> {
    let mut env = env.clone();
    let w = env.values.get_mut("w").unwrap_or_else(|| panic!("`w` has no value"));
    let moved: Vec<u64> = w.to_f64().into_iter().map(|v| w.dtype().bits_of_f64(v + delta)).collect();
    *w = TensorData::from_bits(w.dtype(), &w.shape(), &moved);
    let values = interpret(graph, &env).unwrap_or_else(|diag| panic!("{diag}"));
    values.iter().flat_map(TensorData::to_f64).collect()
}

const STEPS: [f64; 4] = [1e-2, 1e-3, 1e-4, 1e-5];

#[test]
fn constants_that_are_rounded_are_no_wrong_derivative() {
    let source = two_integrals(F32);
    let env = environment_of(&source, 0, Kind::Ordinary).unwrap();
    let derivative = |source: &Graph| {
        let done = optimize(source, &PassOptions::default()).unwrap_or_else(|error| panic!("{error}"));
        samples::to_f64(&done.graph).unwrap_or_else(|diag| panic!("{diag}"))
    };
    let wide_env = samples::wide_env(&env);
    // In f64 the derivative is 0, and so is every difference.
    let wide = two_integrals(F64);
    let exact = derivative(&wide);
    assert!(at(&exact, &wide_env, 0.0)[1].abs() < 1e-11);
    for step in STEPS {
        let difference = (at(&exact, &wide_env, step)[0] - at(&exact, &wide_env, -step)[0]) / (2.0 * step);
        assert!(difference.abs() < 1e-11 / step, "{difference:e}");
    }
    // Validation asks again in f64, and says so.
    let (done, validator) = validated(&source, ValidateOptions::default());
    done.unwrap_or_else(|error| panic!("{error}"));
    let report = validator.report();
    assert!(report.checks.iter().any(|check| check.is_rounded), "{report}");
    assert!(report.to_string().contains("not where constants are not rounded"), "{report}");
}

#[test]
fn rounded_constants_excuse_no_wrong_derivative() {
    let source = two_integrals(F32);
    let differentiate = pipeline().into_iter().find(|pass| pass.name() == "differentiate");
    let differentiate = differentiate.unwrap_or_else(|| panic!("no such pass"));
    let done = differentiate.run(&source, &mut PassCx::new(&PassOptions::default()));
    let done = done.unwrap_or_else(|error| panic!("{error}")).unwrap_or_else(|| panic!("nothing was done"));
    let check = |after: &Graph| Validator::new(ValidateOptions::default()).check("differentiate", &source, after);
    assert_eq!(check(&done), Ok(()));
    // Twice what the pass makes is as small, but not its own.
    let printed = done.to_string();
    let (_, value) = printed.split_once("output \"derivative\" = ").unwrap_or_else(|| panic!("{printed}"));
    let value = value.split_whitespace().next().unwrap_or_default();
    let wrong = format!("%9999 = add {value}, {value}\n  output \"derivative\" = %9999");
    let wrong = printed.replace(&format!("output \"derivative\" = {value}"), &wrong);
    let known = Registry::builtin().with(&SELU_INTEGRAL).unwrap_or_else(|fault| panic!("{}", fault.message));
    let wrong = parse(&wrong, "f.ct", &known).unwrap_or_else(|diags| panic!("{diags}"));
    let error = check(&wrong).unwrap_err();
    assert!(error.contains("output `derivative` changes in f64"), "{error}");
}

#[test]
fn a_branch_that_is_taken_at_the_point_only_is_a_kink() {
    let source = text(&OWN_STOP.replace("f32", "f64"));
    let done = optimize(&source, &PassOptions::default()).unwrap_or_else(|error| panic!("{error}"));
    let env = environment_of(&source, 0, Kind::Ordinary).unwrap();
    // The derivative of the branch that is taken, which is the stopped one.
    assert_eq!(at(&done.graph, &env, 0.0)[1], 0.0);
    // With the stopped value where it was, the function is `w` on either side of the point and at it.
    let held = build(|g| {
        let (w, stopped) = (g.param("w", F64, [1, 1, 1], Init::ZEROS), g.input("stopped", F64, [1, 1, 1]));
        g.output("value", w.ne(stopped).select(w, stopped).sum());
    });
    let held = held.unwrap_or_else(|diags| panic!("{diags}"));
    let mut held_env = env.clone();
    held_env.values.insert("stopped".to_owned(), env.values["w"].clone());
    for step in STEPS {
        let difference = (at(&held, &held_env, step)[0] - at(&held, &held_env, -step)[0]) / (2.0 * step);
        assert!((difference - 1.0).abs() < 1e-9, "{difference:e}");
    }
    for source in [&source, &text(OWN_STOP)] {
        let (done, validator) = validated(source, ValidateOptions::default());
        done.unwrap_or_else(|error| panic!("{error}"));
        let report = validator.report();
        let check = report.checks.iter().find(|c| c.pass == "differentiate").unwrap_or_else(|| panic!("{report}"));
        assert_eq!((check.n_unjudged, check.is_rounded), (1, false), "{report}");
    }
}

/// A carry times itself, once with its gradient stopped: the derivative is the product of the stopped values.
fn stopped_in_a_loop(g: &GraphBuilder) {
    let (h, x) = (g.param("h", F64, [2], Init::uniform(0.5, 1.5)), g.input("x", F64, [3, 2]));
    let made = g.scan("stops", Loop::new().carry(h).slice(x), |_, i| {
        let h = i.carries[0];
        Made { carries: vec![h.stop_gradient() * h + i.slices[0]], outputs: Vec::new() }
    });
    g.output("value", made.carries[0]);
    g.output("slope", g.grad(made.carries[0].sum(), &[h])[0]);
}

#[test]
fn what_a_loop_stops_is_not_held_against_differences() {
    let source = graph(stopped_in_a_loop);
    let (done, validator) = validated(&source, ValidateOptions::default());
    let done = done.unwrap_or_else(|error| panic!("{error}"));
    let report = validator.report();
    assert!(report.to_string().contains("skipped: differences by `h`: a loop stops gradients"), "{report}");
    let env = environment_of(&source, 0, Kind::Ordinary).unwrap();
    let values = interpret(&done.graph, &env).unwrap_or_else(|diag| panic!("{diag}"));
    let (h, x) = (env.values["h"].to_f64(), env.values["x"].to_f64());
    for k in 0..2 {
        let (mut carry, mut slope) = (h[k], 1.0);
        for i in 0..3 {
            slope *= carry;
            carry = carry * carry + x[2 * i + k];
        }
        assert!((values[0].to_f64()[k] - carry).abs() <= 1e-12 * carry.abs().max(1.0));
        assert!((values[1].to_f64()[k] - slope).abs() <= 1e-12 * slope.abs().max(1.0), "{slope} {:?}", values[1]);
    }
    // Beside a loop that stops nothing, differences speak as ever.
    let other = graph(|g| {
        stopped_in_a_loop(g);
        let w = g.param("w", F64, [2], Init::uniform(0.5, 1.5));
        let made = g.scan("goes", Loop::new().carry(w).times(2), |_, i| Made {
            carries: vec![i.carries[0].sin()],
            outputs: Vec::new(),
        });
        g.output("free", g.grad(made.carries[0].sum(), &[w])[0]);
    });
    let (done, validator) = validated(&other, ValidateOptions::default());
    done.unwrap_or_else(|error| panic!("{error}"));
    assert!(!validator.report().to_string().contains("by `w`"), "{}", validator.report());
}

#[test]
fn elements_that_depend_on_the_sign_of_a_zero_are_not_judged_and_all_others_are() {
    fn program(f: impl for<'g> FnOnce(Tensor<'g>) -> Tensor<'g>) -> Graph {
        graph(|g| g.output("y", f(g.input("x", F32, [4096]))))
    }
    let (naive, simple) = (program(|x| 1.0 / (x + 0.0)), program(|x| 1.0 / x));
    let check = |before: &Graph, after: &Graph| {
        let validator = Validator::new(ValidateOptions::default());
        (validator.check("simplify", before, after), validator.report().checks.remove(0))
    };
    // −0 + 0 is +0, whose reciprocal has the other sign.
    let (done, checked) = check(&naive, &simple);
    assert_eq!(done, Ok(()));
    assert!(checked.n_unjudged > 0 && checked.n_elements > 20 * checked.n_unjudged, "{checked}");
    // Any other value, and a change of sign that no rule makes, are found.
    let (wrong, _) = check(&naive, &program(|x| 2.0 / x));
    assert!(wrong.is_err_and(|text| text.contains("output `y` changes at element")));
    let (wrong, _) = check(&program(|x| 1.0 / (x - 0.0)), &naive);
    assert!(wrong.is_err_and(|text| text.contains("inf")));
}

// ---- planted bugs ------------------------------------------------------------------------------------------------

type Change = for<'g> fn(&'g GraphBuilder, OpRef, &[Tensor<'g>]) -> Option<Tensor<'g>>;

/// A pass that puts something else in the place of nodes.
struct Planted {
    name: &'static str,
    change: Change,
}

impl Pass for Planted {
    fn name(&self) -> &'static str {
        self.name
    }

    fn purpose(&self) -> &'static str {
        "Is wrong on purpose."
    }

    fn stage(&self) -> (Stage, Stage) {
        (Stage::Source, Stage::Source)
    }

    fn run(&self, graph: &Graph, _: &mut PassCx<'_>) -> Result<Option<Graph>, PassError> {
        let new = rebuild(graph, self.name, |g, _, node, operands| (self.change)(g, node.op, operands))?;
        Ok((new.to_string() != graph.to_string()).then_some(new))
    }
}

/// Runs the pipeline with a planted pass at its end; the bug that validation reports.
fn caught(source: &Graph, planted: &Planted, options: ValidateOptions) -> CompilerBug {
    caught_in(source, planted, options, None)
}

/// The same, with a file for the graph that shows the bug.
fn caught_in(
    source: &Graph,
    planted: &Planted,
    options: ValidateOptions,
    reproducer: Option<std::path::PathBuf>,
) -> CompilerBug {
    let mut passes = pipeline();
    passes.push(planted);
    let validate = Some(Validator::new(options).hook());
    let options = PassOptions { verify: true, validate, reproducer, ..PassOptions::default() };
    match optimize_with(&passes, source, &options) {
        Err(PassError::Bug(bug)) => bug,
        Err(other) => panic!("{other}"),
        Ok(done) => panic!("the planted bug was not found:\n{}", done.graph),
    }
}

fn sum_and_product(g: &GraphBuilder) {
    let (x, w) = (g.input("x", F32, [2, 3]), g.param("w", F32, [3], Init::HeNormal));
    g.output("product", x * w);
    g.output("sum", x + w);
}

#[test]
fn a_changed_value_names_the_pass_the_element_and_the_replay() {
    let planted = Planted {
        name: "planted",
        change: |g, op, x| op.is(&ops::arithmetic::ADD).then(|| g.op(&SUB, x, Attrs::none(), None)),
    };
    let file = std::env::temp_dir().join(format!("cotangent-validate-{}.ct", std::process::id()));
    let source = graph(sum_and_product);
    let bug = caught_in(&source, &planted, ValidateOptions::default(), Some(file.clone()));
    assert_eq!(bug.pass, "planted");
    assert!(bug.graph.as_ref().is_some_and(|text| text.contains("= add ")), "{bug}");
    for part in ["output `sum` changes at element [0, 0]", "6 of 6 elements differ", "sample 0 (seed 0, Ordinary"] {
        assert!(bug.message.contains(part), "{part} in {bug}");
    }
    assert!(bug.to_string().contains(&format!("cotangent opt {} --passes planted --verify", file.display())), "{bug}");
    // The reproducer is the graph before the pass, and the bug is there again.
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{error}"));
    let again = parse(&text, "reproducer.ct", &Registry::builtin()).unwrap_or_else(|diags| panic!("{diags}"));
    assert_eq!(caught(&again, &planted, ValidateOptions::default()).pass, "planted");
    std::fs::remove_file(&file).unwrap_or_else(|error| panic!("{error}"));
}

/// A pass of two rules, one of which is wrong.
struct Rules;

/// The first is wrong, the second right.
static RULES: [Rule; 2] = [
    Rule {
        name: "turned_around",
        equation: "x - y = y - x",
        safety: Safety::Exact,
        roots: Roots::Ops(&[&SUB]),
        apply: |cx| (cx.order_key(cx.x()) > cx.order_key(cx.y())).then(|| cx.y() - cx.x()),
    },
    Rule {
        name: "fine",
        equation: "x + x = x * 2",
        safety: Safety::Exact,
        roots: Roots::Ops(&[&ADD]),
        apply: |cx| (cx.x().id() == cx.y().id()).then(|| cx.x() * 2.0),
    },
];

impl Pass for Rules {
    fn name(&self) -> &'static str {
        "rules"
    }

    fn purpose(&self) -> &'static str {
        "Has a rule that is wrong on purpose."
    }

    fn stage(&self) -> (Stage, Stage) {
        (Stage::Source, Stage::Source)
    }

    fn run(&self, graph: &Graph, cx: &mut PassCx<'_>) -> Result<Option<Graph>, PassError> {
        apply_rules(graph, &RuleSet::new(&[&RULES]), cx)
    }
}

#[test]
fn a_broken_rule_is_named() {
    let source = graph(|g| {
        let (x, y) = (g.input("x", F32, [3]), g.input("y", F32, [3]));
        let doubled = [x, y, x.exp(), y.exp()].map(|t| t + t);
        g.output("a", doubled.into_iter().reduce(|a, b| a * b).unwrap_or(x));
        g.output("b", (x - y) * (y - x));
    });
    match optimize_with(&[&Rules], &source, &PassOptions::checked(0)) {
        Err(PassError::Bug(bug)) => {
            assert_eq!(bug.pass, "rules");
            assert!(bug.message.starts_with("the rule `turned_around` is to blame"), "{bug}");
            assert!(bug.message.contains("output `b` changes at element"), "{bug}");
        }
        other => panic!("{:?}", other.map(|done| done.graph.to_string())),
    }
}

#[test]
fn a_pass_that_panics_is_named_and_leaves_its_graph() {
    let planted = Planted {
        name: "planted",
        change: |_, op, _| if op.is(&ops::arithmetic::ADD) { panic!("on purpose") } else { None },
    };
    let file = std::env::temp_dir().join(format!("cotangent-panic-{}.ct", std::process::id()));
    let source = graph(sum_and_product);
    let bug = caught_in(&source, &planted, ValidateOptions::default(), Some(file.clone()));
    assert_eq!((bug.pass.as_str(), bug.message.as_str()), ("planted", "it panicked: on purpose"));
    assert!(bug.to_string().contains(&format!("replay: cotangent opt {} --passes planted", file.display())), "{bug}");
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{error}"));
    assert!(text.contains("= add "), "{text}");
    std::fs::remove_file(&file).unwrap_or_else(|error| panic!("{error}"));
    // Where no file can be written, the message says so and holds the graph.
    let nowhere = std::env::temp_dir().join("no-such-folder").join("x.ct");
    let bug = caught_in(&source, &planted, ValidateOptions::default(), Some(nowhere));
    assert!(bug.to_string().contains("could not be written") && bug.to_string().contains("= add "), "{bug}");
}

#[test]
fn what_only_extreme_values_show_is_found() {
    let change: Change = |_, op, x| op.is(&ops::arithmetic::ABS).then(|| x[0].abs().minimum(x[0].constant_like(1e3)));
    let planted = Planted { name: "planted", change };
    let source = graph(|g| g.output("y", g.input("x", F32, [40]).abs() + 1.0));
    let one = ValidateOptions { n_samples: 2, ..ValidateOptions::default() };
    assert!(caught(&source, &planted, one).message.contains("Extreme"));
}

#[test]
fn small_errors_are_not_excused_by_rounding() {
    let planted =
        Planted { name: "simplify", change: |_, op, x| op.is(&ops::math::TANH).then(|| x[0].tanh() * 1.000_000_2) };
    let source = graph(|g| g.output("y", g.input("x", F32, [4]).tanh()));
    assert_eq!(caught(&source, &planted, ValidateOptions::default()).pass, "simplify");
    // A pass of one's own that may round is compared within the tolerance, and no further.
    let approximate = vec!["mine".to_owned()];
    let rough = Planted { name: "mine", change: |_, op, x| op.is(&ops::math::TANH).then(|| x[0].tanh() * 1.001) };
    let options = ValidateOptions { approximate: approximate.clone(), ..ValidateOptions::default() };
    assert!(caught(&source, &rough, options).message.contains("in f64"));
    let fine =
        Planted { name: "mine", change: |_, op, x| op.is(&ops::math::TANH).then(|| (x[0] * 1.000_000_2).tanh()) };
    let validator = Validator::new(ValidateOptions { approximate, ..ValidateOptions::default() });
    let options = PassOptions { validate: Some(validator.hook()), ..PassOptions::default() };
    optimize_with(&[&fine], &source, &options).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(validator.report().checks[0].how, How::Tolerance);
}

#[test]
fn lost_and_renamed_outputs_are_found() {
    let source = graph(sum_and_product);
    let mut fewer = Graph::new("main");
    source.nodes().iter().for_each(|n| {
        fewer.add(n.op, n.inputs.clone(), n.attrs.clone(), n.ty.clone(), n.origin.clone()).unwrap();
    });
    let validator = Validator::default();
    assert!(validator.check("any", &source, &fewer).unwrap_err().contains("2 outputs become 0"));
    for (name, value) in [("product", 0), ("total", 1)] {
        let value = source.outputs()[value].value;
        fewer.add_output(cotangent_graph::Output { name: name.into(), value, role: Role::Result }).unwrap();
    }
    let text = validator.check("any", &source, &fewer).unwrap_err();
    assert!(text.contains("output `sum` : f32[2,3] becomes output `total`"), "{text}");
}

/// `x²` with the derivative `3x`.
static WRONG: OpDef = pointwise(
    "wrong_square",
    "Square with a wrong derivative.",
    1,
    OpTraits::NONE,
    infer_float,
    |s, v, _| s.mul(v[0], v[0]),
    Vjp::Rule(|cx| [Some(cx.dy * cx.x() * 3.0)].into_iter().collect()),
    |_| Vec::new(),
);

#[test]
fn a_wrong_derivative_rule_names_the_op() {
    let source = graph(|g| {
        g.register(&WRONG);
        let w = g.param("w", F32, [3, 2], Init::HeNormal);
        let y = g.op(&WRONG, &[w.exp()], Attrs::none(), None);
        let loss = (y + w.sin()).mean();
        g.output("loss", loss);
        g.update(w, w - g.grad(loss, &[w])[0] * 0.1);
    });
    let error = optimize(&source, &PassOptions::checked(1)).err().unwrap_or_else(|| panic!("not found"));
    let PassError::Bug(bug) = error else { panic!("{error}") };
    assert_eq!(bug.pass, "differentiate");
    for part in ["the derivative by `w` is wrong at element", "the derivative of `wrong_square` by operand 0 is off"] {
        assert!(bug.message.contains(part), "{part} in {bug}");
    }
    assert!(!bug.message.contains("`exp`") && !bug.message.contains("`sin`"), "{bug}");
}

/// `differentiate`, but a product of its result is too large.
struct Scaled;

impl Pass for Scaled {
    fn name(&self) -> &'static str {
        "differentiate"
    }

    fn purpose(&self) -> &'static str {
        "Is wrong on purpose."
    }

    fn stage(&self) -> (Stage, Stage) {
        (Stage::Source, Stage::Differentiated)
    }

    fn run(&self, graph: &Graph, cx: &mut PassCx<'_>) -> Result<Option<Graph>, PassError> {
        let Some(graph) = cotangent_passes::differentiate::differentiate(graph, cx)? else { return Ok(None) };
        rebuild(&graph, "planted", |_, _, node, x| node.is(&ops::math::COS).then(|| x[0].cos() * 1.001)).map(Some)
    }
}

#[test]
fn a_wrong_differentiation_is_found() {
    let source = graph(|g| {
        let x = g.input("x", F32, [3]);
        g.output("slope", g.grad(x.sin().sum(), &[x])[0]);
    });
    let options = PassOptions::checked(0);
    match optimize_with(&[&Scaled], &source, &options) {
        Err(PassError::Bug(bug)) => {
            assert_eq!(bug.pass, "differentiate");
            assert!(bug.message.contains("output `slope` changes in f64"), "{bug}");
        }
        other => panic!("{:?}", other.map(|done| done.graph.to_string())),
    }
}

#[test]
fn what_is_too_slow_is_left_out_and_said() {
    let source = graph(|g| {
        let (x, w) = (g.input("x", F32, [300, 300]), g.param("w", F32, [300, 300], Init::HeNormal));
        let loss = x.matmul(w).relu().mean() + 0.0;
        g.output("loss", loss);
        g.output("dw", g.grad(loss, &[w])[0]);
    });
    let options = ValidateOptions { budget: 1_000_000, ..ValidateOptions::default() };
    let (done, validator) = validated(&source, options);
    done.unwrap_or_else(|error| panic!("{error}"));
    let report = validator.report();
    assert!(report.checks.len() > 2);
    assert!(report.checks.iter().all(|check| check.n_samples == 0 && !check.skipped.is_empty()), "{report}");
    assert!(report.to_string().contains("of a budget of 1000000"), "{report}");
    // Enough for the values and some of the elements: the rest is named.
    let options = ValidateOptions { budget: 600_000_000, max_gradient_elements: 1000, ..ValidateOptions::default() };
    let small = graph(|g| {
        let (x, w) = (g.input("x", F32, [40, 40]), g.param("w", F32, [40, 40], Init::HeNormal));
        g.output("dw", g.grad(x.matmul(w).tanh().mean(), &[w])[0]);
    });
    let (done, validator) = validated(&small, ValidateOptions { budget: 6_000_000, ..options });
    done.unwrap_or_else(|error| panic!("{error}"));
    let report = validator.report();
    let check = report.checks.iter().find(|c| c.pass == "differentiate").unwrap_or_else(|| panic!("{report}"));
    assert!(check.skipped.iter().any(|note| note.contains("elements instead of 1000")), "{report}");
}

#[test]
fn environments_of_any_graph_keep_indices_in_range() {
    let source = graph(|g| {
        let table = g.param("t", F32, [3, 2], Init::ZEROS);
        let index = g.input("i", I64, [40]);
        g.output("y", table.gather(index.reshape([8, 5]).cast(DType::I32)));
        let body = g.body("pick", &[table.ty(), index.ty()], |_, v| vec![v[0].gather(v[1])]);
        let other = g.input("j", I64, [4, 10]);
        g.output("z", g.call(&body, &[table, other.reshape([40])])[0]);
        let logits = g.input("logits", F32, [5, 4]);
        g.output("nll", logits.log_softmax(1).nll(g.input("k", I64, [5])));
        g.output("ce", logits.cross_entropy(g.input("l", DType::I32, [5])));
        g.output("hot", g.input("h", I64, [6]).one_hot(2, F32));
        g.state("count", I64, [], Init::ZEROS);
    });
    for kind in [samples::Kind::Ordinary, samples::Kind::Smooth, samples::Kind::Mixed, samples::Kind::Extreme] {
        for seed in 0..10 {
            let env = samples::environment_of(&source, seed, kind).unwrap();
            assert_eq!(env.values.len(), 8);
            let finite = |t: &cotangent_graph::TensorData| t.to_f64().iter().all(|v| v.is_finite());
            assert!(env.values.values().all(finite), "{kind:?}");
            cotangent_graph::interp::interpret(&source, &env).unwrap_or_else(|diag| panic!("{kind:?} {seed}: {diag}"));
        }
    }
    // Starts of parameters are near their initialisers: values of a state stay where variances live.
    let env = samples::environment(&graph(|g| g.output("v", g.state("v", F32, [50], Init::ONES))), 1).unwrap();
    assert!(env.values["v"].to_f64().iter().all(|v| (1.0..1.1).contains(v)));
}

#[test]
fn what_rounding_decides_is_not_judged_and_every_other_choice_is() {
    fn program(f: impl for<'g> FnOnce(Tensor<'g>) -> Tensor<'g>) -> Graph {
        graph(|g| g.output("y", f(g.input("x", F32, [64, 5]))))
    }
    let check = |before: &Graph, after: &Graph| {
        let validator = Validator::new(ValidateOptions::default());
        (validator.check("simplify", before, after), validator.report().checks.remove(0))
    };
    // Equal but for rounding before `log_of_sigmoid`, zero after it.
    let (naive, simple) =
        (program(|x| (x.sigmoid().log() - x.log_sigmoid()).argmin(1)), program(|x| (x - x).argmin(1)));
    let (done, checked) = check(&naive, &simple);
    assert_eq!(done, Ok(()));
    assert!(checked.n_unjudged > 0, "{checked}");
    // With a difference that is more than rounding, nothing is left open.
    let other = program(|x| (x.sigmoid().log() + x).argmin(1));
    let (wrong, _) = check(&other, &simple);
    assert!(wrong.is_err_and(|text| text.contains("output `y` changes in f64")));
}

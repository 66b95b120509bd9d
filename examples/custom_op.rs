//! Two ops defined outside of the compiler: one scalar, one composite. Both differentiate, fuse, print and parse like the
//! built-in ones, because an op is one record and the registry is a value. Every test that follows from an op's record is
//! one call, which is meant for a `#[test]` of the crate that defines the op.
//!
//! ```text
//! cargo run --release --example custom_op
//! ```

use std::error::Error;

use cotangent::graph::op::{Arity, ExpandCx, Lower, OpDef, OpTraits, Registry, Vjp};
use cotangent::graph::ops::infer_float;
use cotangent::graph::samples::Sample;
use cotangent::graph::{AttrKind, AttrSpec, Attrs, eval, text};
use cotangent::passes::gradcheck::{GradCheck, check_gradients};
use cotangent::prelude::*;
use cotangent::scalar::math;
use cotangent_testkit::derived::{check_op, check_values};
use ndarray::Array2;
use smallvec::smallvec;

/// A scalar op: `x + sin²(a·x)/a` ("snake", Ziyin et al. 2020), with its derivative `1 + sin(2·a·x)`.
static SNAKE: OpDef = OpDef {
    name: "snake",
    doc: "`x + sin²(a·x)/a`, a periodic activation.",
    arity: Arity::Exact(1),
    attrs: &[AttrSpec { name: "a", kind: AttrKind::Float, doc: "the frequency, not 0" }],
    traits: OpTraits::POINTWISE,
    infer: infer_float,
    eval: eval::scalar,
    vjp: Vjp::Rule(|cx| smallvec![Some(cx.dy * (1.0 + (cx.x() * (2.0 * cx.attrs.float("a"))).sin()))]),
    lower: Lower::Scalar(|s, v, cx| {
        let a = s.like(cx.attrs.float("a"), v[0]);
        let angle = s.mul(v[0], a);
        let sine = math::sin(s, angle);
        let square = s.mul(sine, sine);
        let wave = s.div(square, a);
        s.add(v[0], wave)
    }),
    samples: |s| vec![Sample::new(vec![s.float_in(-2.0..2.0, [3, 5])]).attrs(Attrs::none().with("a", 1.5))],
};

/// A composite op: a gate `x · σ(g)`, which expands to ops that exist and is differentiated through them.
static GATED: OpDef = OpDef {
    name: "gated",
    doc: "`x · σ(g)`, element by element.",
    arity: Arity::Exact(2),
    attrs: &[],
    traits: OpTraits::POINTWISE,
    infer: infer_float,
    eval: eval::unbound,
    vjp: Vjp::ViaExpansion,
    lower: Lower::Expand(|cx: &ExpandCx<'_, '_>| smallvec![cx.inputs[0] * cx.inputs[1].sigmoid()]),
    samples: |s| vec![Sample::new(vec![s.float_in(-2.0..2.0, [3, 4]), s.float_in(-2.0..2.0, [3, 4])])],
};

/// Methods read better than calls of `op`.
trait MyOps<'g> {
    fn snake(self, a: f64) -> Tensor<'g>;
    fn gated(self, gate: Tensor<'g>) -> Tensor<'g>;
}

impl<'g> MyOps<'g> for Tensor<'g> {
    #[track_caller]
    fn snake(self, a: f64) -> Tensor<'g> {
        self.builder().register(&SNAKE);
        self.unary_with(&SNAKE, Attrs::none().with("a", a))
    }

    #[track_caller]
    fn gated(self, gate: Tensor<'g>) -> Tensor<'g> {
        self.builder().register(&GATED);
        self.binary(&GATED, gate)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let graph = build(|g| {
        let x = g.input("x", F32, [16, 8]);
        let hidden = x.dense("value", 32).snake(1.5).gated(x.dense("gate", 32));
        let loss = hidden.dense("out", 1).square().mean();
        g.output("loss", loss);
        g.minimize(loss, Sgd::new(0.1));
    })?;

    // It prints, and parses back with a registry that knows the two.
    let registry = Registry::builtin().with(&SNAKE).and_then(|r| r.with(&GATED)).map_err(|f| f.message)?;
    let printed = graph.to_string();
    let parsed = text::parse(&printed, "custom_op.ct", &registry)?;
    assert_eq!(parsed.to_string(), printed);
    println!(
        "{}",
        printed.lines().filter(|l| l.contains("snake") || l.contains("gated")).collect::<Vec<_>>().join("\n")
    );

    // What follows from their records: types, text, every pass, machine code, and both orders of derivatives.
    println!();
    for op in [&SNAKE, &GATED] {
        println!("{}", check_op(op).map_err(|failures| failures.join("\n"))?);
    }
    check_values(&SNAKE, |x, attrs| {
        let a = attrs.float("a");
        x[0] + (a * x[0]).sin().powi(2) / a
    })
    .map_err(|failures| failures.join("\n"))?;
    check_values(&GATED, |x, _| x[0] / (1.0 + (-x[1]).exp())).map_err(|failures| failures.join("\n"))?;

    // The gradient of a model of them is right.
    println!("\n{}", check_gradients(&graph, &GradCheck::default())?);

    // They share one kernel with built-in ops, and so do their derivatives.
    let chain = Compiler::new().compile(&build(|g| {
        let (x, gate) = (g.input("x", F32, [64, 32]), g.input("gate", F32, [64, 32]));
        let y = (x * 2.0).snake(1.5).gated(gate.tanh()) + 1.0;
        g.output("y", y);
        let seed = g.input("dy", F32, [64, 32]);
        g.output("dx", g.grad_with_seed(y, seed, &[x])[0]);
    })?)?;
    let kernels: Vec<&str> = chain.plan().kernels.iter().map(|kernel| kernel.name.as_str()).collect();
    println!("one kernel for value and derivative: {}", kernels.join(", "));
    assert_eq!((kernels.len(), chain.plan().steps.len()), (1, 1), "{}", chain.explain());

    let program = Compiler::new().compile(&graph)?;
    let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(1))?;
    let x = Array2::from_shape_fn((16, 8), |(i, j)| ((i * 7 + j * 3) % 11) as f32 / 5.0 - 1.0);
    let (mut first, mut last) = (0.0, 0.0);
    for step in 0..100 {
        last = session.step(("x", &x))?.scalar("loss")?;
        if step == 0 {
            first = last;
        }
    }
    println!("loss {first:.4} -> {last:.6} in 100 steps");
    Ok(())
}

//! Index checks: those that a range proves are removed, and of two the tighter stays.

use cotangent_graph::ops::index::CHECK_INDEX;

use crate::rules::{Roots, Rule, Safety::Exact};
use crate::simplify::ranges::range;

/// The rows.
pub static ROWS: &[Rule] = &[
    Rule {
        name: "check_proved",
        equation: "check_index(x) = x where x is known to lie in range",
        safety: Exact,
        roots: Roots::Ops(&[&CHECK_INDEX]),
        apply: |cx| {
            let range = cx.g.with_graph(|graph| range(graph, cx.x().id()))?;
            (range.0 >= 0 && range.1 < cx.attrs.int("bound")).then(|| cx.x())
        },
    },
    Rule {
        name: "check_of_check",
        equation: "check_index(check_index(x, a), b) = check_index(x, min(a, b))",
        safety: Exact,
        roots: Roots::Ops(&[&CHECK_INDEX]),
        apply: |cx| {
            let (args, inner) = cx.parts(cx.x(), &CHECK_INDEX)?;
            let bound = inner.int("bound").min(cx.attrs.int("bound"));
            let both = args[0].check_index(usize::try_from(bound).ok()?);
            if both.id() != cx.x().id() {
                // What passes both passes the inner one.
                cx.g.drop_check(cx.x());
            }
            Some(both)
        },
    },
];

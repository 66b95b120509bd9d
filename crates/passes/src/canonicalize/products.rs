//! Transposes become flags of the matrix product.

use cotangent_graph::ops::matmul::MATMUL;
use cotangent_graph::ops::view::TRANSPOSE;
use cotangent_graph::{Attrs, Tensor};

use crate::rules::{Roots, Rule, RuleCx, Safety::Exact};

/// The rows.
pub static ROWS: &[Rule] = &[
    Rule {
        name: "transpose_into_matmul",
        equation: "Aᵀ·B = matmul(A, B, ta), A·Bᵀ = matmul(A, B, tb)",
        safety: Exact,
        roots: Roots::Ops(&[&MATMUL]),
        apply: |cx| {
            let (a, b) = (turned(cx, cx.x()), turned(cx, cx.y()));
            if a.is_none() && b.is_none() {
                return None;
            }
            let flag = |name: &str, t: Option<Tensor<'_>>| cx.attrs.bool(name) != t.is_some();
            Some(product(cx, a.unwrap_or(cx.x()), b.unwrap_or(cx.y()), flag("ta", a), flag("tb", b)))
        },
    },
    Rule {
        name: "transpose_of_matmul",
        // Each element is the same chain of fused multiply-adds: the factors of each term change places.
        equation: "(A·B)ᵀ = Bᵀ·Aᵀ, if nothing else reads A·B",
        safety: Exact,
        roots: Roots::Ops(&[&TRANSPOSE]),
        apply: |cx| {
            if !cx.single_use(0) || !swaps_last(cx.attrs) {
                return None;
            }
            let (args, inner) = cx.parts(cx.x(), &MATMUL)?;
            Some(product(cx, args[1], args[0], !inner.bool("tb"), !inner.bool("ta")))
        },
    },
];

fn product<'g>(cx: &RuleCx<'g, '_>, a: Tensor<'g>, b: Tensor<'g>, ta: bool, tb: bool) -> Tensor<'g> {
    cx.g.op(&MATMUL, &[a, b], Attrs::none().with("ta", ta).with("tb", tb), None)
}

/// What `t` is the transpose of, in its last two axes.
fn turned<'g>(cx: &RuleCx<'g, '_>, t: Tensor<'g>) -> Option<Tensor<'g>> {
    let (args, attrs) = cx.parts(t, &TRANSPOSE)?;
    swaps_last(&attrs).then(|| args[0])
}

fn swaps_last(attrs: &Attrs) -> bool {
    let perm = attrs.sizes("perm");
    let n = perm.len();
    n >= 2 && perm[n - 2..] == [n - 1, n - 2] && perm[..n - 2].iter().copied().eq(0..n - 2)
}

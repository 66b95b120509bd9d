//! The matrix product.

use smallvec::smallvec;

use crate::attrs::{AttrKind, AttrSpec, Attrs};
use crate::builder::Tensor;
use crate::diag::{Code, Diag};
use crate::eval;
use crate::op::{Arity, Cotangents, Lower, OpDef, OpTraits, Vjp, VjpCx};
use crate::samples::Sample;
use crate::types::{Shape, Type};

fn vjp<'g>(cx: &VjpCx<'g, '_>) -> Cotangents<'g> {
    let (a, b, dy) = (cx.inputs[0], cx.inputs[1], cx.dy);
    // With A' = A or Aᵀ as used: dA' = dY·B'ᵀ, dB' = A'ᵀ·dY; the transpose flags absorb every transpose.
    let (ta, tb) = (cx.attrs.bool("ta"), cx.attrs.bool("tb"));
    let da = if ta { b.matmul_with(dy, tb, true) } else { dy.matmul_with(b, false, !tb) };
    let db = if tb { dy.matmul_with(a, true, ta) } else { a.matmul_with(dy, !ta, false) };
    smallvec![Some(da), Some(db)]
}

/// Matrix product in the last two axes.
pub static MATMUL: OpDef = OpDef {
    name: "matmul",
    doc: "Matrix product in the last two axes, `[.., m, k] · [.., k, n]`, leading axes equal; `ta` and `tb` read an operand \
          transposed. Every element is one chain of fused multiply-adds over k in order, or, if the result has one row or one column, \
          a sum of such chains in the lanes of a reduction over rows.",
    arity: Arity::Exact(2),
    attrs: &[
        AttrSpec { name: "ta", kind: AttrKind::Bool, doc: "the first operand is stored as `[.., k, m]`" },
        AttrSpec { name: "tb", kind: AttrKind::Bool, doc: "the second operand is stored as `[.., n, k]`" },
    ],
    traits: OpTraits::NONE,
    infer: |cx| {
        let ((a, a_shape), (b, b_shape)) = (cx.tensor(0)?, cx.tensor(1)?);
        if a != b || !a.is_float() {
            let fault = cx.dtype_fault(format_args!("requires two f32 or two f64 operands, got {a} and {b}"));
            return Err(fault.help("nothing is promoted implicitly: convert one of them with `cast`"));
        }
        let rank = a_shape.rank();
        if rank < 2 || rank != b_shape.rank() || a_shape[..rank - 2] != b_shape[..rank - 2] {
            let text = format_args!("requires matrices with equal leading axes, got {a_shape} and {b_shape}");
            return Err(cx.shape_fault(text));
        }
        let turned = |s: &Shape, flag: &str| match cx.attrs.bool(flag) {
            true => (s[rank - 1], s[rank - 2]),
            false => (s[rank - 2], s[rank - 1]),
        };
        let ((m, k), (k2, n)) = (turned(a_shape, "ta"), turned(b_shape, "tb"));
        if k != k2 {
            let (ta, tb) = (if cx.attrs.bool("ta") { "ᵀ" } else { "" }, if cx.attrs.bool("tb") { "ᵀ" } else { "" });
            let text =
                format_args!("requires inner extents to be equal, got {k} and {k2} in {a_shape}{ta} · {b_shape}{tb}");
            return Err(cx.shape_fault(text));
        }
        let leading = a_shape[..rank - 2].iter().copied();
        Ok(Type::tensor(a, leading.chain([m, n]).collect::<Shape>()))
    },
    eval: eval::matmul,
    vjp: Vjp::Rule(vjp),
    lower: Lower::Gemm,
    samples: |s| {
        let flags = |ta: bool, tb: bool| Attrs::none().with("ta", ta).with("tb", tb);
        vec![
            Sample::new(vec![s.float_in(-1.0..1.0, [3, 4]), s.float_in(-1.0..1.0, [4, 2])]).attrs(flags(false, false)),
            Sample::new(vec![s.float_in(-1.0..1.0, [4, 3]), s.float_in(-1.0..1.0, [4, 2])]).attrs(flags(true, false)),
            Sample::new(vec![s.float_in(-1.0..1.0, [3, 4]), s.float_in(-1.0..1.0, [2, 4])]).attrs(flags(false, true)),
            Sample::new(vec![s.float_in(-1.0..1.0, [2, 4, 3]), s.float_in(-1.0..1.0, [2, 2, 4])])
                .attrs(flags(true, true)),
        ]
    },
};

/// The ops of this file.
pub(crate) static OPS: &[&OpDef] = &[&MATMUL];

/// Whether the inner extents of `A·B`, or of `A·Bᵀ`, are equal.
fn fits(a: &Shape, b: &Shape, tb: bool) -> bool {
    a.last() == b.get(b.rank() - if tb { 1 } else { 2 })
}

/// How many of the innermost leading axes the second operand does not have, or has with extent 1, where the first has them all:
/// products along them share their matrix.
fn n_shared(a: &Shape, b: &Shape, lead: &Shape) -> usize {
    // Counted from the inside; an operand of fewer axes has extents of 1 outside.
    let extent = |s: &Shape, i: usize| s.rank().checked_sub(i + 1).map_or(1, |axis| s[axis]);
    let n = (0..lead.rank()).take_while(|&i| extent(b, i) == 1 && extent(a, i) == extent(lead, i)).count();
    if (0..n).any(|i| extent(lead, i) != 1) { n } else { 0 }
}

impl<'g> Tensor<'g> {
    /// Matrix product in the last two axes; leading axes broadcast. Products that share their second operand,
    /// `[b, m, k] · [k, n]`, are one product of `b·m` rows, and so are their gradients.
    #[track_caller]
    pub fn matmul(self, other: Tensor<'_>) -> Tensor<'g> {
        self.matmul_with(other, false, false)
    }

    /// Matrix product with transposed operands where asked for; leading axes broadcast.
    #[track_caller]
    pub fn matmul_with(self, other: Tensor<'_>, ta: bool, tb: bool) -> Tensor<'g> {
        let g = self.builder();
        let attrs = Attrs::none().with("ta", ta).with("tb", tb);
        if !std::ptr::eq(g, other.builder()) {
            return g.op(&MATMUL, &[self, other], attrs, None);
        }
        let other = g.tensor(other.id());
        let (a, b) = (self.shape(), other.shape());
        if a.rank() < 2 || b.rank() < 2 {
            if self.is_poisoned() || other.is_poisoned() {
                return g.poisoned();
            }
            let text = format!("`matmul` requires operands of rank 2 or more, got {a} and {b}");
            let diag = Diag::new(Code::ShapeMismatch, text).operands(&[self, other]);
            return g.poison(diag.help("add axes with `reshape`"));
        }
        let (a_lead, b_lead) = (Shape::new(&a[..a.rank() - 2]), Shape::new(&b[..b.rank() - 2]));
        // What it would be if the extents fitted.
        let like = || {
            let (m, n) = (a[a.rank() - if ta { 1 } else { 2 }], b[b.rank() - if tb { 2 } else { 1 }]);
            let lead = a_lead.broadcast_loosely(&b_lead);
            Type::tensor(self.dtype(), lead.iter().copied().chain([m, n]).collect::<Shape>())
        };
        let Some(lead) = a_lead.broadcast(&b_lead) else {
            return g.op(&MATMUL, &[self, other], attrs, None).or_like(like);
        };
        let rows_of = |s: &Shape| -> Shape { s[s.rank() - 2..].iter().copied().collect() };
        let n_shared = if ta || !fits(&a, &b, tb) { 0 } else { n_shared(&a_lead, &b_lead, &lead) };
        if n_shared == 0 {
            let widened = |s: &Shape| -> Shape { lead.iter().chain(&rows_of(s)[..]).copied().collect() };
            let operands = [self.broadcast_to(widened(&a)), other.broadcast_to(widened(&b))];
            return g.op_of(&MATMUL, &operands, &[self, other], attrs, None).or_like(like);
        }
        // The rows of all these products meet the same matrix: they are the rows of one.
        let (outer, shared) = lead.split_at(lead.rank() - n_shared);
        let (m, k) = (a[a.rank() - 2], a[a.rank() - 1]);
        let joint = |inner: &[usize]| -> Shape { outer.iter().chain(inner).copied().collect() };
        let full: Shape = lead.iter().chain(&[m, k]).copied().collect();
        let rows = self.broadcast_to(full).reshape(joint(&[shared.iter().product::<usize>() * m, k]));
        let b_outer = &b_lead[..b_lead.rank().saturating_sub(n_shared)];
        let b_shape: Shape = b_outer.iter().chain(&rows_of(&b)[..]).copied().collect();
        let matrix = other.reshape(b_shape).broadcast_to(joint(&rows_of(&b)));
        let product = g.op_of(&MATMUL, &[rows, matrix], &[self, other], attrs, None);
        let n = rows_of(&b)[usize::from(!tb)];
        product.reshape(lead.iter().chain(&[m, n]).copied().collect::<Shape>())
    }
}

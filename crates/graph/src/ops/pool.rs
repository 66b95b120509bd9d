//! Pooling: what windows are reduced to.

use cotangent_scalar::DType;
use smallvec::smallvec;

use crate::attrs::Attrs;
use crate::builder::Tensor;
use crate::eval;
use crate::number::Number;
use crate::op::{Arity, Lower, OpDef, OpTraits, Vjp};
use crate::ops::windows::{
    DILATION, Geometry, HIGH, LOW, MOVING, SIZE, STRIDE, WINDOWS, Windows, added_up, infer_windows,
};
use crate::samples::Sample;
use crate::types::Type;

/// Means of windows.
pub static MEAN_POOL: OpDef = OpDef {
    name: "mean_pool",
    doc: "The mean of every one of the `windows` along `axes`: the sum of its elements, of the padding zeros, divided by their number. \
          The gradient of an element is the sum of those of the windows that hold it, divided by the number once.",
    arity: Arity::Exact(1),
    attrs: &[MOVING, SIZE, STRIDE, DILATION, LOW, HIGH],
    traits: OpTraits::NONE,
    infer: |cx| {
        let (dtype, shape, w) = infer_windows(cx)?;
        if !dtype.is_float() {
            let fault = cx.dtype_fault(format_args!("requires floats (f32 or f64), got {dtype}"));
            return Err(fault.help("convert with `cast`"));
        }
        Ok(Type::tensor(dtype, shape.without(&w.size_axes().collect::<Vec<_>>())))
    },
    eval: eval::unbound,
    vjp: Vjp::Rule(|cx| {
        let (w, shape) = (Geometry::of(cx.attrs), cx.x().shape());
        let mut windows = cx.dy.shape().to_vec();
        let at = w.first_size_axis();
        windows.splice(at..at, w.size.iter().copied());
        let spread = cx.dy.repeat_along(&windows.into(), &w.size_axes().collect::<Vec<_>>());
        smallvec![Some(added_up(spread, &w, &shape, w.n_elements() as f64))]
    }),
    lower: Lower::Expand(|cx| {
        let w = Geometry::of(cx.attrs);
        let pieces = cx.inputs[0].unary_with(&WINDOWS, cx.attrs.clone().with("value", Number::of(0.0)));
        smallvec![pieces.sum_over(w.size_axes()) / w.n_elements() as f64]
    }),
    samples: |s| {
        let attrs =
            |axes: &[usize], size: &[usize], stride: &[usize], dilation: &[usize], low: &[usize], high: &[usize]| {
                let attrs = Attrs::none().with("axes", axes).with("size", size).with("stride", stride);
                attrs.with("dilation", dilation).with("low", low).with("high", high)
            };
        vec![
            Sample::new(vec![s.float_in(-2.0..2.0, [2, 7])]).attrs(attrs(&[1], &[3], &[2], &[1], &[1], &[1])),
            Sample::new(vec![s.float_in(-2.0..2.0, [5, 6, 2])]).attrs(attrs(
                &[0, 1],
                &[2, 3],
                &[2, 1],
                &[1, 2],
                &[0, 0],
                &[1, 0],
            )),
        ]
    },
};

/// The ops of this file.
pub(crate) static OPS: &[&OpDef] = &[&MEAN_POOL];

impl<'g> Tensor<'g> {
    /// The largest element of every window; NaN if one is NaN. Padding is below every number. Of several largest the first, in
    /// row-major order, gets the gradient.
    #[track_caller]
    pub fn max_pool(self, windows: &Windows) -> Tensor<'g> {
        let least = match self.dtype() {
            DType::I64 => i64::MIN.into(),
            DType::I32 => i64::from(i32::MIN).into(),
            DType::U8 | DType::Bool => Number::of(0.0),
            DType::F32 | DType::F64 => Number::of(f64::NEG_INFINITY),
        };
        let pieces = self.padded_windows(windows, least);
        if pieces.is_poisoned() { pieces } else { pieces.max_over(self.size_axes(windows)) }
    }

    /// The mean of every window: the sum of its elements, divided by their number. Padding is zeros, and counts unless
    /// [`Windows::inside_only`] was asked for.
    #[track_caller]
    pub fn mean_pool(self, windows: &Windows) -> Tensor<'g> {
        if !windows.inside_only || !windows.has_padding() {
            return self.of_windows(&MEAN_POOL, windows, |attrs| attrs);
        }
        let pieces = self.windows(windows);
        if pieces.is_poisoned() {
            return pieces;
        }
        let axes = self.size_axes(windows);
        let inside = self.constant_like(1.0).windows(windows).sum_over(axes.clone());
        pieces.sum_over(axes) / inside
    }
}

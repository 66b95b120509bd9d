//! Pooling: what windows are reduced to.

use cotangent_scalar::DType;
use smallvec::smallvec;

use crate::attrs::Attrs;
use crate::builder::Tensor;
use crate::eval;
use crate::number::Number;
use crate::op::{Arity, Lower, OpDef, OpTraits, Vjp};
use crate::ops::reduce::{first_place, linear_index};
use crate::ops::windows::{
    DILATION, Geometry, HIGH, LOW, MOVING, SIZE, STRIDE, WINDOWS, Windows, added_up, infer_windows, sample,
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
        let spread = cx.dy.repeat_along(&windows.into(), w.size_axes().collect::<Vec<_>>());
        smallvec![Some(added_up(spread, &w, &shape, w.n_elements() as f64))]
    }),
    lower: Lower::Expand(|cx| {
        let w = Geometry::of(cx.attrs);
        let pieces = cx.inputs[0].unary_with(&WINDOWS, cx.attrs.clone().with("value", Number::of(0.0)));
        smallvec![pieces.sum_over(w.size_axes()) / w.n_elements() as f64]
    }),
    samples: |s| {
        vec![
            Sample::new(vec![s.float_in(-2.0..2.0, [2, 7])]).attrs(sample([1], [[3, 2, 1, 1, 1]])),
            Sample::new(vec![s.float_in(-2.0..2.0, [5, 6, 2])])
                .attrs(sample([0, 1], [[2, 2, 1, 0, 1], [3, 1, 2, 0, 0]])),
        ]
    },
};

/// Largest elements of windows.
pub static MAX_POOL: OpDef = OpDef {
    name: "max_pool",
    doc: "The largest element of every one of the `windows` along `axes`; NaN if one is NaN. Padding is the least value of the type. The \
          gradient goes to the first largest in row-major order, or to the first NaN; in a window of nothing above -∞ that may be \
          padding, and then it is dropped.",
    arity: Arity::Exact(1),
    attrs: &[MOVING, SIZE, STRIDE, DILATION, LOW, HIGH],
    traits: OpTraits::NONE,
    infer: |cx| {
        let (dtype, shape, w) = infer_windows(cx)?;
        if dtype == DType::Bool {
            return Err(cx.dtype_fault("requires numbers, got bool").help("convert with `cast`"));
        }
        Ok(Type::tensor(dtype, shape.without(&w.size_axes().collect::<Vec<_>>())))
    },
    eval: eval::unbound,
    vjp: Vjp::Rule(|cx| {
        let (w, x) = (Geometry::of(cx.attrs), cx.x());
        let (pieces, axes) = (below_padding(x, cx.attrs), w.size_axes().collect::<Vec<_>>());
        let place = linear_index(pieces, &axes);
        let largest = first_largest(pieces, place, &w).repeat_along(&pieces.shape(), &axes);
        let dy = cx.dy.repeat_along(&pieces.shape(), &axes);
        let of_pieces = place.eq(largest).select(dy, dy.constant_like(0.0));
        smallvec![Some(added_up(of_pieces, &w, &x.shape(), 1.0))]
    }),
    lower: Lower::Expand(|cx| {
        let axes = Geometry::of(cx.attrs).size_axes();
        smallvec![below_padding(cx.inputs[0], cx.attrs).max_over(axes)]
    }),
    samples: |s| {
        vec![
            Sample::new(vec![s.distinct([2, 7])]).attrs(sample([1], [[3, 2, 1, 1, 1]])),
            Sample::new(vec![s.distinct([5, 6, 2])]).attrs(sample([0, 1], [[2, 2, 1, 0, 1], [3, 1, 2, 0, 0]])),
        ]
    },
};

/// The windows of a tensor with padding of the least value of its type, by the attributes of `max_pool`.
fn below_padding<'g>(x: Tensor<'g>, attrs: &Attrs) -> Tensor<'g> {
    let least = match x.dtype() {
        DType::I64 => i64::MIN.into(),
        DType::I32 => i64::from(i32::MIN).into(),
        DType::U8 | DType::Bool => Number::of(0.0),
        DType::F32 | DType::F64 => Number::of(f64::NEG_INFINITY),
    };
    x.unary_with(&WINDOWS, attrs.clone().with("value", least))
}

/// Elements of a window that are compared one after the other at most.
const MOST_COMPARED: usize = 64;

/// The place within its window of each one's first largest element, or first NaN; `place` has the places of all.
fn first_largest<'g>(pieces: Tensor<'g>, place: Tensor<'g>, w: &Geometry) -> Tensor<'g> {
    let (shape, first) = (pieces.shape(), w.first_size_axis());
    let axes: Vec<usize> = w.size_axes().collect();
    let n = w.n_elements();
    if n > MOST_COMPARED {
        let hit = pieces.eq(pieces.max_over(&axes).repeat_along(&shape, &axes)) | pieces.ne(pieces);
        return first_place(hit, place, &axes);
    }
    // One after the other: an element takes over unless it is at most the best so far, or that is NaN.
    let element = |number: usize| {
        let (mut start, mut limit) = (vec![0; shape.rank()], shape.to_vec());
        let mut rest = number;
        for axis in axes.iter().rev() {
            (start[*axis], limit[*axis]) = (rest % shape[*axis], rest % shape[*axis] + 1);
            rest /= shape[*axis];
        }
        let kept: Vec<usize> = [&shape[..first], &shape[first + axes.len()..]].concat();
        pieces.slice(&start, &limit).reshape(kept)
    };
    let mut best = element(0);
    let mut at = pieces.builder().scalar(0.0, place.dtype()).broadcast_to(best.shape());
    for number in 1..n {
        let next = element(number);
        let stays = next.le(best) | best.ne(best);
        at = stays.select(at, at.constant_like(number as i64));
        best = stays.select(best, next);
    }
    at
}

/// The ops of this file.
pub(crate) static OPS: &[&OpDef] = &[&MAX_POOL, &MEAN_POOL];

impl<'g> Tensor<'g> {
    /// The largest element of every window; NaN if one is NaN. Padding is the least value of the type. Of several largest the first,
    /// in row-major order, gets the gradient.
    #[track_caller]
    pub fn max_pool(self, windows: &Windows) -> Tensor<'g> {
        self.of_windows(&MAX_POOL, windows, |attrs| attrs)
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

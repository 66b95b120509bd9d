//! Windows: overlapping pieces of a tensor side by side, and their adjoint, which adds the pieces up again.
//!
//! Windows are a view ([`STRIDED`](super::view::STRIDED)): in kernels they cost nothing. So pooling is a reduction of windows, and a convolution is a product with
//! them. Their adjoint is in gather form: every element of the result is a sum of its own over the windows that hold it, computed
//! once, in order; windows further apart than one element are taken by the phases of their stride.

use cotangent_scalar::DType;
use smallvec::{SmallVec, smallvec};

use crate::attrs::{Attr, AttrKind, AttrSpec, Attrs};
use crate::axes::Axes;
use crate::builder::Tensor;
use crate::diag::{Code, Diag};
use crate::eval;
use crate::number::Number;
use crate::op::{Arity, Fault, InferCx, Lower, OpDef, OpTraits, Vjp};
use crate::ops::reduce::checked_axes;
use crate::ops::view::{ints, listed, strided};
use crate::samples::Sample;
use crate::types::{Shape, Type};

pub(super) const MOVING: AttrSpec =
    AttrSpec { name: "axes", kind: AttrKind::Ints, doc: "the axes along which windows move, ascending" };
pub(super) const SIZE: AttrSpec =
    AttrSpec { name: "size", kind: AttrKind::Ints, doc: "elements of a window along each of them" };
pub(super) const STRIDE: AttrSpec =
    AttrSpec { name: "stride", kind: AttrKind::Ints, doc: "from one window to the next along each, at least 1" };
pub(super) const DILATION: AttrSpec = AttrSpec {
    name: "dilation",
    kind: AttrKind::Ints,
    doc: "from one element of a window to the next along each, at least 1",
};

pub(super) const LOW: AttrSpec =
    AttrSpec { name: "low", kind: AttrKind::Ints, doc: "elements of padding before the tensor along each" };
pub(super) const HIGH: AttrSpec =
    AttrSpec { name: "high", kind: AttrKind::Ints, doc: "elements of padding behind the tensor along each" };

/// Elements from the first to the last of a window, both counted.
fn reach(size: usize, dilation: usize) -> usize {
    (size.saturating_sub(1)).saturating_mul(dilation).saturating_add(usize::from(size > 0))
}

/// The attributes of windows.
pub(super) struct Geometry {
    pub(super) axes: SmallVec<[usize; 4]>,
    pub(super) size: SmallVec<[usize; 4]>,
    pub(super) stride: SmallVec<[usize; 4]>,
    pub(super) dilation: SmallVec<[usize; 4]>,
    pub(super) low: SmallVec<[usize; 4]>,
    pub(super) high: SmallVec<[usize; 4]>,
}

impl Geometry {
    /// The attributes, with windows of these sizes.
    fn new(attrs: &Attrs, size: &[usize]) -> Self {
        let list = |name: &str| attrs.sizes(name).iter().copied().collect();
        Geometry {
            axes: list("axes"),
            size: size.iter().copied().collect(),
            stride: list("stride"),
            dilation: list("dilation"),
            low: list("low"),
            high: list("high"),
        }
    }

    /// Of `windows`, or another op that has its attributes.
    pub(super) fn of(attrs: &Attrs) -> Self {
        Geometry::new(attrs, &attrs.sizes("size"))
    }

    /// Of `overlap_add`, whose operand has this shape.
    fn of_sums(attrs: &Attrs, windows: &Shape) -> Self {
        let axes = attrs.sizes("axes");
        let at = axes.last().map_or(0, |last| last + 1);
        Geometry::new(attrs, &windows[at..at + axes.len()])
    }

    /// The attributes of windows over axes of a tensor of this shape, checked but for the sizes.
    fn check(cx: &InferCx<'_>, shape: &Shape) -> Result<usize, Fault> {
        let n = checked_axes(cx, shape)?.len();
        let (stride, dilation) = (listed(cx, "stride", n)?, listed(cx, "dilation", n)?);
        listed(cx, "low", n)?;
        listed(cx, "high", n)?;
        if n == 0 || stride.contains(&0) || dilation.contains(&0) {
            return Err(cx.attr_fault(format_args!(
                "requires at least one axis, and strides and dilations of at least 1, got {:?} and {:?}",
                stride.as_slice(),
                dilation.as_slice()
            )));
        }
        Ok(n)
    }

    /// An extent along axis number `k` of them, with the padding.
    fn padded(&self, k: usize, extent: usize) -> usize {
        extent.saturating_add(self.low[k]).saturating_add(self.high[k])
    }

    /// Windows that fit along axis number `k` of them, of a tensor with this extent there.
    fn count(&self, k: usize, extent: usize) -> Option<usize> {
        Some(self.padded(k, extent).checked_sub(reach(self.size[k], self.dilation[k]))? / self.stride[k].max(1) + 1)
    }

    /// The number of the first axis that counts the elements of a window.
    pub(super) fn first_size_axis(&self) -> usize {
        self.axes.last().map_or(0, |last| last + 1)
    }

    /// The axes that count the elements of a window.
    pub(super) fn size_axes(&self) -> std::ops::Range<usize> {
        let first = self.first_size_axis();
        first..first + self.axes.len()
    }

    /// Elements of a window.
    pub(super) fn n_elements(&self) -> usize {
        self.size.iter().fold(1, |n, &size| n.saturating_mul(size))
    }

    /// The attributes that `windows` and its adjoint share, with the sizes between for the first.
    fn attrs(&self, with_size: bool) -> Attrs {
        let list = |of: &[usize]| ints(of.iter().copied());
        let mut attrs = Attrs::none().with("axes", list(&self.axes));
        if with_size {
            attrs = attrs.with("size", list(&self.size));
        }
        let attrs = attrs.with("stride", list(&self.stride)).with("dilation", list(&self.dilation));
        attrs.with("low", list(&self.low)).with("high", list(&self.high))
    }
}

/// The elements of a tensor of a shape that windows with these attributes hold, if they lie evenly: along each axis the first, how
/// many there are, and from one to the next.
pub fn held(attrs: &Attrs, shape: &Shape) -> Option<Vec<(usize, usize, usize)>> {
    let w = Geometry::of(attrs);
    let mut held: Vec<(usize, usize, usize)> = shape.iter().map(|&n| (0, n, 1)).collect();
    for (k, &axis) in w.axes.iter().enumerate() {
        let (n, size, low) = (w.count(k, shape[axis])?, w.size[k], w.low[k]);
        let (stride, dilation) = (w.stride[k], w.dilation[k]);
        // So many, from one to the next, from the first place of the first window on.
        let (count, step) = match (size, n) {
            (1, _) => (n, stride),
            (_, 1) => (size, dilation),
            _ if dilation == 1 && stride <= size => ((n - 1) * stride + size, 1),
            _ if stride == 1 && dilation <= n => ((size - 1) * dilation + n, 1),
            _ => return None,
        };
        let first = low.div_ceil(step);
        let end = (low + shape[axis]).div_ceil(step).min(count);
        held[axis] = ((first * step).saturating_sub(low), end.saturating_sub(first), step);
    }
    Some(held)
}

/// The shape of windows of a tensor.
pub(super) fn infer_windows(cx: &InferCx<'_>) -> Result<(DType, Shape, Geometry), Fault> {
    let (dtype, from) = cx.tensor(0)?;
    let n = Geometry::check(cx, from)?;
    let size = listed(cx, "size", n)?;
    if size.contains(&0) {
        return Err(cx.attr_fault(format_args!("requires sizes of at least 1, got {:?}", size.as_slice())));
    }
    let w = Geometry::of(cx.attrs);
    let mut shape = from.to_vec();
    for (k, &axis) in w.axes.iter().enumerate() {
        let Some(n) = w.count(k, from[axis]) else {
            let (size, dilation) = (w.size[k], w.dilation[k]);
            let needed = reach(size, dilation);
            let padding = match (w.low[k], w.high[k]) {
                (0, 0) => String::new(),
                (low, high) => format!(" and {low} + {high} of padding"),
            };
            let text = format_args!(
                "of {size} elements, {dilation} apart, requires an extent of at least {needed}, got {}{padding} on axis {axis} of {from}",
                from[axis]
            );
            return Err(cx.shape_fault(text).help("take more padding, or smaller windows"));
        };
        shape[axis] = n;
    }
    let at = w.first_size_axis();
    shape.splice(at..at, w.size.iter().copied());
    Ok((dtype, Shape::new(&shape), w))
}

/// Windows added up at their places in a tensor of shape `x`, and divided by a number.
pub(super) fn added_up<'g>(windows: Tensor<'g>, w: &Geometry, x: &Shape, divisor: f64) -> Tensor<'g> {
    let attrs = w.attrs(false).with("extent", ints(w.axes.iter().map(|&axis| x[axis])));
    windows.unary_with(&OVERLAP_ADD, attrs.with("divisor", Number::of(divisor)))
}

/// Overlapping pieces.
pub static WINDOWS: OpDef = OpDef {
    name: "windows",
    doc: "Pieces of `size` elements, `dilation` apart, along `axes`, one every `stride` elements, as far as they fit into the tensor \
          with `low` elements of `value` before and `high` behind it. Each of the axes counts the windows, `(low + extent + high - \
          (size - 1)·dilation - 1) / stride + 1` of them, and behind the last of the axes follow as many new ones, which count the \
          elements of a window. A view: nothing is copied.",
    arity: Arity::Exact(1),
    attrs: &[
        MOVING,
        SIZE,
        STRIDE,
        DILATION,
        LOW,
        HIGH,
        AttrSpec { name: "value", kind: AttrKind::Number, doc: "what the padding is" },
    ],
    traits: OpTraits::NONE,
    infer: |cx| {
        let (dtype, shape, _) = infer_windows(cx)?;
        let value = cx.attrs.number("value");
        if !value.held_by(dtype) {
            let text = format_args!("of {dtype} padded with the number {value}: {dtype} holds {}", dtype.held());
            return Err(cx.dtype_fault(text).help(format!("write a number of {dtype}, or convert with `cast`")));
        }
        Ok(Type::tensor(dtype, shape))
    },
    eval: eval::unbound,
    vjp: Vjp::Rule(|cx| smallvec![Some(added_up(cx.dy, &Geometry::of(cx.attrs), &cx.x().shape(), 1.0))]),
    lower: Lower::Expand(|cx| {
        let (w, to) = (Geometry::of(cx.attrs), cx.ty.shape());
        let rank = cx.inputs[0].rank();
        let (mut low, mut high) = (vec![0; rank], vec![0; rank]);
        for (k, &axis) in w.axes.iter().enumerate() {
            (low[axis], high[axis]) = (w.low[k], w.high[k]);
        }
        let x = padded(cx.inputs[0], &low, &high, cx.attrs.number("value"));
        let at = w.first_size_axis();
        let steps = (0..rank).map(|axis| {
            let mut row = vec![0; to.rank()];
            let moving = if axis < at { axis } else { axis + w.axes.len() };
            row[moving] = 1;
            if let Some(k) = w.axes.iter().position(|&a| a == axis) {
                row[moving] = w.stride[k] as i64;
                row[at + k] = w.dilation[k] as i64;
            }
            row
        });
        smallvec![strided(x, to.clone(), &vec![0; rank], &steps.collect::<Vec<_>>())]
    }),
    samples: |s| {
        let attrs = [
            sample([0], [[3, 2, 1, 0, 0]]),
            sample([0, 1], [[2, 2, 1, 1, 0], [3, 1, 2, 0, 2]]),
            sample([1], [[3, 2, 3, 2, 1]]),
        ];
        let shapes: [&[usize]; 3] = [&[7], &[5, 6, 2], &[2, 9]];
        let sample = |(shape, attrs): (&[usize], Attrs)| {
            let attrs = attrs.with("value", Number::of(0.5));
            Sample::new(vec![s.float_in(-2.0..2.0, Shape::new(shape))]).attrs(attrs)
        };
        shapes.into_iter().zip(attrs).map(sample).collect()
    },
};

/// Attributes for samples: axes, then for each of them size, stride, dilation, low and high.
pub(super) fn sample<const N: usize>(axes: [usize; N], each: [[usize; 5]; N]) -> Attrs {
    let list = |k: usize| ints(each.iter().map(|numbers| numbers[k]));
    let attrs = Attrs::none().with("axes", ints(axes)).with("size", list(0)).with("stride", list(1));
    attrs.with("dilation", list(2)).with("low", list(3)).with("high", list(4))
}

/// Pieces added up.
pub static OVERLAP_ADD: OpDef = OpDef {
    name: "overlap_add",
    doc: "The adjoint of `windows`: a tensor in which each of `axes` has its `extent`, and each element is the sum of what the \
          windows (axes that count windows, and behind the last of them as many that count their elements) hold at its place, \
          from the last window that holds it to the first; 0 where none does; divided by `divisor`. What windows hold of the padding is \
          dropped.",
    arity: Arity::Exact(1),
    attrs: &[
        AttrSpec { name: "axes", kind: AttrKind::Ints, doc: "the axes that count windows, ascending" },
        STRIDE,
        DILATION,
        LOW,
        HIGH,
        AttrSpec { name: "extent", kind: AttrKind::Ints, doc: "the result's extents along them" },
        AttrSpec { name: "divisor", kind: AttrKind::Number, doc: "what each sum is divided by" },
    ],
    traits: OpTraits::NONE,
    infer: |cx| {
        let (dtype, from) = cx.tensor(0)?;
        if dtype == DType::Bool {
            return Err(cx.dtype_fault("requires numbers, got bool").help("convert with `cast`"));
        }
        let n = Geometry::check(cx, from)?;
        let (extent, divisor) = (listed(cx, "extent", n)?, cx.attrs.number("divisor"));
        if !divisor.held_by(dtype) {
            let text = format_args!("of {dtype} divided by {divisor}: {dtype} holds {}", dtype.held());
            return Err(cx.dtype_fault(text));
        }
        let at = cx.attrs.sizes("axes").last().map_or(0, |last| last + 1);
        if from.rank() < at + n {
            return Err(cx.shape_fault(format_args!(
                "requires axes of windows and as many behind the last for their elements, got {from} with axes {:?}",
                cx.attrs.sizes("axes").as_slice()
            )));
        }
        let w = Geometry::of_sums(cx.attrs, from);
        let mut shape = from.to_vec();
        for (k, &axis) in w.axes.iter().enumerate() {
            let (n, size) = (from[axis], w.size[k]);
            if size == 0 || w.count(k, extent[k]) != Some(n) {
                let padding = match (w.low[k], w.high[k]) {
                    (0, 0) => String::new(),
                    (low, high) => format!(" with {low} + {high} of padding"),
                };
                let text = format_args!(
                    "requires as many windows of {size} elements, {} apart, as fit into {}{padding} every {}, got {n} on axis \
                     {axis} of {from}",
                    w.dilation[k], extent[k], w.stride[k]
                );
                return Err(cx.shape_fault(text));
            }
            shape[axis] = extent[k];
        }
        shape.drain(at..at + n);
        Ok(Type::tensor(dtype, shape))
    },
    eval: eval::unbound,
    vjp: Vjp::Rule(|cx| {
        let attrs = Geometry::of_sums(cx.attrs, &cx.x().shape()).attrs(true).with("value", Number::of(0.0));
        smallvec![Some(divided(cx.dy, cx.attrs).unary_with(&WINDOWS, attrs))]
    }),
    lower: Lower::Expand(|cx| smallvec![overlap_add(cx.inputs[0], cx.attrs, cx.ty.shape())]),
    samples: |s| {
        let attrs =
            |axes: &[usize], stride: &[usize], dilation: &[usize], low: &[usize], high: &[usize], extent: &[usize]| {
                let attrs = Attrs::none().with("axes", axes).with("stride", stride).with("dilation", dilation);
                let attrs = attrs.with("low", low).with("high", high).with("extent", extent);
                attrs.with("divisor", Number::of(if low == [0] { 1.0 } else { 4.0 }))
            };
        let mut operand = |shape: &[usize]| vec![s.float_in(-2.0..2.0, Shape::new(shape))];
        vec![
            Sample::new(operand(&[3, 3])).attrs(attrs(&[0], &[2], &[1], &[0], &[0], &[8])),
            Sample::new(operand(&[3, 3])).attrs(attrs(&[0], &[2], &[1], &[1], &[1], &[6])),
            Sample::new(operand(&[2, 4, 3, 2, 2])).attrs(attrs(&[0, 1], &[2, 1], &[1, 3], &[0, 2], &[0, 1], &[5, 4])),
            Sample::new(operand(&[2, 3, 3])).attrs(attrs(&[1], &[2], &[3], &[0], &[0], &[11])),
            Sample::new(operand(&[4, 5])).attrs(attrs(&[0], &[3], &[1], &[7], &[2], &[6])),
        ]
    },
};

/// What `overlap_add` divides by its `divisor`.
fn divided<'g>(x: Tensor<'g>, attrs: &Attrs) -> Tensor<'g> {
    let divisor = attrs.number("divisor");
    if divisor == Number::of(1.0) { x } else { x / x.constant_like(divisor) }
}

/// A tensor with a border, if there is any.
fn padded<'g>(x: Tensor<'g>, low: &[usize], high: &[usize], value: Number) -> Tensor<'g> {
    if low.iter().chain(high).any(|&n| n > 0) { x.pad(low, high, value) } else { x }
}

/// How the elements along an axis are sums of what windows hold: element `stride·q + p` is the sum over `j` of what window
/// `q + window - j` has at `p + stride·j - element`, or, where windows are one apart, of what window `q + window - dilation·j` has
/// at `j`. Windows and elements that there are not count as zeros.
struct Taps {
    n: usize,
    window: usize,
    element: usize,
}

impl Taps {
    fn new(size: usize, stride: usize, low: usize) -> Self {
        if stride == 1 {
            return Taps { n: size, window: low, element: 0 };
        }
        // The padding in whole strides, rounded up: what is too much of it is before the first element of a window.
        let window = low.div_ceil(stride);
        let element = window * stride - low;
        Taps { n: (size + element).div_ceil(stride), window, element }
    }
}

fn overlap_add<'g>(windows: Tensor<'g>, attrs: &Attrs, to: &Shape) -> Tensor<'g> {
    let w = Geometry::of_sums(attrs, &windows.shape());
    let at = w.first_size_axis();
    // Where there is one window only, the next one may be any distance away: no phases beyond the tensor are made for it.
    let mut stride: SmallVec<[usize; 4]> =
        w.axes.iter().enumerate().map(|(k, &axis)| w.stride[k].min(w.padded(k, to[axis])).max(1)).collect();
    let Geometry { axes, size, dilation, low: padding, .. } = w;
    let mut x = windows;
    for (k, &axis) in axes.iter().enumerate() {
        let shape = x.shape();
        if stride[k] > 1 && dilation[k] > 1 && size[k] > 1 {
            // Windows of zeros between the windows: then there is one at every element.
            let (before, n, after) = (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product());
            let spaced = x.reshape([before, n, 1, after]).pad(&[0; 4], &[0, 0, stride[k] - 1, 0], Number::of(0.0));
            let mut extents = shape.to_vec();
            extents[axis] = n * stride[k];
            x = spaced.reshape(extents);
            stride[k] = 1;
        }
    }
    // For each axis of windows its elements by quotient and phase, and how many windows can hold one.
    let from = x.shape();
    let (mut low, mut high) = (vec![0; from.rank()], vec![0; from.rank()]);
    let (mut quotients, mut taps) = (Vec::new(), Vec::new());
    for (k, &axis) in axes.iter().enumerate() {
        let (n, s, t) = (from[axis], stride[k], Taps::new(size[k], stride[k], padding[k]));
        let quotient = to[axis].div_ceil(s);
        let back = if s == 1 { dilation[k] } else { 1 };
        low[axis] = (back * (t.n - 1)).saturating_sub(t.window);
        high[axis] = (quotient + t.window).saturating_sub(n);
        low[at + k] = t.element;
        high[at + k] = if s == 1 { 0 } else { (s * t.n).saturating_sub(t.element + size[k]) };
        quotients.push(quotient);
        taps.push(t);
    }
    let padded = padded(x, &low, &high, Number::of(0.0));
    // The view: each axis in turn, of windows as quotient and phase; then taps; then the rest.
    let n = axes.len();
    let (mut shape, mut offset) = (Vec::new(), vec![0; from.rank()]);
    let mut moves: Vec<Vec<(usize, i64)>> = vec![Vec::new(); from.rank()];
    for axis in 0..at {
        moves[axis].push((shape.len(), 1));
        match axes.iter().position(|&a| a == axis) {
            Some(k) => {
                offset[axis] = (low[axis] + taps[k].window) as i64;
                moves[at + k].push((shape.len() + 1, 1));
                shape.extend([quotients[k], stride[k]]);
            }
            None => shape.push(from[axis]),
        }
    }
    let first_tap = shape.len();
    for (k, &axis) in axes.iter().enumerate() {
        let back = if stride[k] == 1 { dilation[k] } else { 1 };
        moves[axis].push((shape.len(), -(back as i64)));
        moves[at + k].push((shape.len(), stride[k] as i64));
        shape.push(taps[k].n);
    }
    for axis in at + n..from.rank() {
        moves[axis].push((shape.len(), 1));
        shape.push(from[axis]);
    }
    let row = |moves: &Vec<(usize, i64)>| {
        let mut row = vec![0; shape.len()];
        moves.iter().for_each(|&(axis, step)| row[axis] = step);
        row
    };
    let steps: Vec<Vec<i64>> = moves.iter().map(row).collect();
    let held = strided(padded, Shape::new(&shape), &offset, &steps);
    let sums = divided(held.sum_over(first_tap..first_tap + n), attrs);
    let mut whole = to.to_vec();
    axes.iter().zip(&quotients).zip(&stride).for_each(|((&axis, quotient), stride)| whole[axis] = quotient * stride);
    let merged = sums.reshape(Shape::new(&whole));
    if whole[..] == to[..] { merged } else { merged.slice(&vec![0; to.rank()], to) }
}

/// The ops of this file.
pub(crate) static OPS: &[&OpDef] = &[&WINDOWS, &OVERLAP_ADD];

/// Which windows: along which axes they move, how large they are and how far apart, and what is put around the tensor first.
///
/// ```
/// use cotangent_graph::ops::windows::Windows;
/// use cotangent_graph::{DType::F32, build};
///
/// let graph = build(|g| {
///     let images = g.input("images", F32, [8, 28, 28, 16]);
///     // Three by three, every second pixel, centred on each: 28 pixels become 14.
///     let w = Windows::new([1, 2], &[3, 3]).stride(&[2, 2]).padding(&[(1, 1), (1, 1)]);
///     let pooled = images.max_pool(&w);
///     assert_eq!(pooled.shape()[..], [8, 14, 14, 16]);
///     g.output("pooled", pooled);
/// })?;
/// # Ok::<(), cotangent_graph::Diags>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    axes: Axes,
    size: Vec<usize>,
    stride: Vec<usize>,
    dilation: Vec<usize>,
    padding: Vec<(usize, usize)>,
    pub(super) inside_only: bool,
}

impl Windows {
    /// Windows of so many elements along each of the axes: one at every place where it fits, of adjacent elements.
    pub fn new(axes: impl Into<Axes>, size: &[usize]) -> Self {
        let n = size.len();
        Windows {
            axes: axes.into(),
            size: size.to_vec(),
            stride: vec![1; n],
            dilation: vec![1; n],
            padding: vec![(0, 0); n],
            inside_only: false,
        }
    }

    /// From one window to the next along each axis, at least 1.
    pub fn stride(mut self, stride: &[usize]) -> Self {
        self.stride = stride.to_vec();
        self
    }

    /// From one element of a window to the next along each axis, at least 1.
    pub fn dilation(mut self, dilation: &[usize]) -> Self {
        self.dilation = dilation.to_vec();
        self
    }

    /// Whether there is padding.
    pub(super) fn has_padding(&self) -> bool {
        self.padding.iter().any(|&p| p != (0, 0))
    }

    /// Elements put before and behind the tensor along each axis.
    pub fn padding(mut self, padding: &[(usize, usize)]) -> Self {
        self.padding = padding.to_vec();
        self
    }

    /// Means divide by the elements of a window that lie inside of the tensor, as Keras has it; otherwise the padding counts too,
    /// as PyTorch has it unless told otherwise.
    pub fn inside_only(mut self) -> Self {
        self.inside_only = true;
        self
    }

    /// The attributes for a tensor of a rank, or what is wrong.
    fn resolve(&self, rank: usize) -> Result<Attrs, String> {
        let axes = self.axes.number(rank);
        let n = axes.len();
        for (what, len) in [
            ("sizes", self.size.len()),
            ("strides", self.stride.len()),
            ("dilations", self.dilation.len()),
            ("paddings", self.padding.len()),
        ] {
            if len != n {
                return Err(format!("windows along {n} axes require as many {what}, got {len}"));
            }
        }
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by_key(|&k| axes[k]);
        let list = |of: &[usize]| ints(order.iter().map(|&k| of[k]));
        let attrs = Attrs::none().with("axes", Attr::Ints(order.iter().map(|&k| axes[k]).collect()));
        let attrs = attrs.with("size", list(&self.size)).with("stride", list(&self.stride));
        let (low, high): (Vec<usize>, Vec<usize>) = self.padding.iter().copied().unzip();
        Ok(attrs.with("dilation", list(&self.dilation)).with("low", list(&low)).with("high", list(&high)))
    }
}

impl<'g> Tensor<'g> {
    /// Overlapping pieces of this tensor, of which the windows' axes count the pieces; as many new axes behind the last of them
    /// count the elements of a piece: `[n, h, w, c]` with windows along 1 and 2 becomes `[n, oh, ow, kh, kw, c]`. A view, unless
    /// there is padding, which is of zeros.
    #[track_caller]
    pub fn windows(self, windows: &Windows) -> Tensor<'g> {
        self.of_windows(&WINDOWS, windows, |attrs| attrs.with("value", Number::of(0.0)))
    }

    /// An op with the attributes of windows and more.
    #[track_caller]
    pub(super) fn of_windows(
        self,
        op: &'static OpDef,
        windows: &Windows,
        more: impl FnOnce(Attrs) -> Attrs,
    ) -> Tensor<'g> {
        match windows.resolve(self.rank()) {
            Ok(attrs) => self.unary_with(op, more(attrs)),
            Err(text) => self.refuse(Diag::new(Code::BadAttribute, text).made("the operand", self)),
        }
    }

    /// The axes of [`Tensor::windows`] that count the elements of a window.
    pub(super) fn size_axes(self, windows: &Windows) -> std::ops::Range<usize> {
        let axes = windows.axes.ascending(self.rank());
        let first = axes.last().map_or(0, |&last| usize::try_from(last).map_or(0, |last| last.saturating_add(1)));
        first..first.saturating_add(axes.len())
    }

    /// The adjoint of [`Tensor::windows`]: pieces added up at their places in a tensor whose windowed axes have these extents. What
    /// lies in the padding is dropped.
    #[track_caller]
    pub fn overlap_add(self, windows: &Windows, extents: &[usize]) -> Tensor<'g> {
        let n = windows.size.len();
        let rank = self.rank().saturating_sub(n);
        let resolved = windows.resolve(rank).and_then(|attrs| match extents.len() == n {
            true => Ok(attrs),
            false => Err(format!("`overlap_add` along {n} axes requires as many extents, got {}", extents.len())),
        });
        let attrs = match resolved {
            Ok(attrs) => attrs,
            Err(text) => return self.refuse(Diag::new(Code::BadAttribute, text).made("the operand", self)),
        };
        // Extents are in the order of the windows' own axes, attributes ascend.
        let axes = windows.axes.number(rank);
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by_key(|&k| axes[k]);
        let attrs = attrs
            .iter()
            .filter(|(name, _)| *name != "size")
            .fold(Attrs::none(), |kept, (name, value)| kept.with(name, value.clone()));
        let attrs = attrs.with("extent", ints(order.iter().map(|&k| extents[k])));
        self.unary_with(&OVERLAP_ADD, attrs.with("divisor", Number::of(1.0)))
    }
}

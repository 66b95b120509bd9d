//! Windows: overlapping pieces of a tensor side by side, and their adjoint, which adds the pieces up again.
//!
//! Windows are a view: in kernels they cost nothing. So pooling is a reduction of windows, and a convolution is a product with
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
use crate::op::{Arity, AxisMap, Fault, InferCx, Lower, OpDef, OpTraits, ViewMap, Vjp};
use crate::ops::reduce::{checked_axes, index_type};
use crate::ops::view::{ints, listed, new_shape};
use crate::samples::Sample;
use crate::types::{Shape, Type};

/// Elements at affine indices.
pub static STRIDED: OpDef = OpDef {
    name: "strided",
    doc: "The view `y[i] = x[offset + steps · i]` of shape `shape`: `steps` has a row for each axis of the operand and a column for \
          each axis of the result. Every index must lie in the operand.",
    arity: Arity::Exact(1),
    attrs: &[
        AttrSpec { name: "shape", kind: AttrKind::Ints, doc: "the extents of the result" },
        AttrSpec {
            name: "offset",
            kind: AttrKind::Ints,
            doc: "the index of the first element, for each axis of the operand",
        },
        AttrSpec { name: "steps", kind: AttrKind::Ints, doc: "the matrix of steps, row by row" },
    ],
    traits: OpTraits::NONE,
    infer: |cx| {
        let (dtype, from) = cx.tensor(0)?;
        let to = new_shape(cx)?;
        let (offset, steps) = (cx.attrs.ints("offset"), cx.attrs.ints("steps"));
        if offset.len() != from.rank() || steps.len() != from.rank() * to.rank() {
            let text = format_args!(
                "requires {} offsets and {} × {} steps, got {} and {}",
                from.rank(),
                from.rank(),
                to.rank(),
                offset.len(),
                steps.len()
            );
            return Err(cx.attr_fault(text));
        }
        if to.contains(&0) {
            return Ok(Type::tensor(dtype, to));
        }
        for (axis, &extent) in from.iter().enumerate() {
            let (mut least, mut most) = (i128::from(offset[axis]), i128::from(offset[axis]));
            for (&step, &n) in steps[axis * to.rank()..].iter().zip(to.iter()) {
                let reach = i128::from(step) * (n as i128 - 1);
                (least, most) = (least + reach.min(0), most + reach.max(0));
            }
            if least < 0 || most >= extent as i128 {
                let text =
                    format_args!("requires indices in 0..{extent} on axis {axis} of {from}, got {least}..={most}");
                return Err(cx.shape_fault(text));
            }
        }
        Ok(Type::tensor(dtype, to))
    },
    eval: eval::view,
    // Elements may be in the view any number of times: the general rule adds them at their places.
    vjp: Vjp::Rule(|cx| {
        let (x, to) = (cx.x().shape(), cx.dy.shape());
        let (offset, steps) = (cx.attrs.ints("offset"), cx.attrs.ints("steps"));
        let dtype = index_type(x.n_elements());
        let mut place = cx.dy.builder().scalar(0.0, dtype).broadcast_to(to.clone());
        for (axis, &stride) in x.strides().iter().enumerate() {
            place += stride * offset[axis];
            for (moving, &step) in steps[axis * to.rank()..][..to.rank()].iter().enumerate().filter(|m| *m.1 != 0) {
                place += cx.dy.builder().iota(dtype, to.clone(), moving) * (stride * step);
            }
        }
        let n = to.n_elements();
        let sums = cx.dy.reshape([n, 1]).scatter_add(place.reshape([n]), x.n_elements());
        smallvec![Some(sums.reshape(x))]
    }),
    lower: Lower::View(|attrs, _, to| {
        let steps = attrs.ints("steps");
        let axis = |(axis, &offset): (usize, &i64)| AxisMap {
            offset,
            moves: steps[axis * to.rank()..][..to.rank()]
                .iter()
                .enumerate()
                .filter(|&(moving, &step)| step != 0 && to[moving] > 1)
                .map(|(moving, &step)| (moving, step))
                .collect(),
        };
        ViewMap::Affine(attrs.ints("offset").iter().enumerate().map(axis).collect())
    }),
    samples: |s| {
        let attrs = |shape: &[usize], offset: &[i64], steps: &[i64]| {
            let of = |values: &[i64]| Attr::Ints(values.iter().copied().collect());
            Attrs::none().with("shape", shape).with("offset", of(offset)).with("steps", of(steps))
        };
        vec![
            // Windows of three, from the end; the diagonal, twice; nothing.
            Sample::new(vec![s.float_in(-2.0..2.0, [6])]).attrs(attrs(&[4, 3], &[5], &[-1, -1])),
            Sample::new(vec![s.float_in(-2.0..2.0, [3, 4])]).attrs(attrs(&[3, 2], &[0, 1], &[1, 0, 1, 0])),
            Sample::new(vec![s.float_in(-2.0..2.0, [3, 4])]).attrs(attrs(&[0, 2], &[9, 9], &[1, 1, 1, 1])),
        ]
    },
};

const SIZE: AttrSpec = AttrSpec { name: "size", kind: AttrKind::Ints, doc: "elements of a window along each of them" };
const STRIDE: AttrSpec =
    AttrSpec { name: "stride", kind: AttrKind::Ints, doc: "from one window to the next along each, at least 1" };
const DILATION: AttrSpec = AttrSpec {
    name: "dilation",
    kind: AttrKind::Ints,
    doc: "from one element of a window to the next along each, at least 1",
};

/// Elements from the first to the last of a window, both counted.
fn reach(size: usize, dilation: usize) -> usize {
    (size.saturating_sub(1)).saturating_mul(dilation).saturating_add(usize::from(size > 0))
}

/// Windows that fit into an extent.
fn count(extent: usize, size: usize, stride: usize, dilation: usize) -> Option<usize> {
    Some(extent.checked_sub(reach(size, dilation))? / stride.max(1) + 1)
}

/// The attributes of windows, checked.
struct Geometry {
    axes: SmallVec<[usize; 4]>,
    size: SmallVec<[usize; 4]>,
    stride: SmallVec<[usize; 4]>,
    dilation: SmallVec<[usize; 4]>,
}

impl Geometry {
    /// For windows over axes of a tensor of this shape.
    fn checked(cx: &InferCx<'_>, shape: &Shape) -> Result<Self, Fault> {
        let axes = checked_axes(cx, shape)?;
        let n = axes.len();
        let (size, stride, dilation) = (listed(cx, "size", n)?, listed(cx, "stride", n)?, listed(cx, "dilation", n)?);
        if n == 0 || size.contains(&0) || stride.contains(&0) || dilation.contains(&0) {
            return Err(cx.attr_fault(format_args!(
                "requires at least one axis, and sizes, strides and dilations of at least 1, got {:?}, {:?} and {:?}",
                size.as_slice(),
                stride.as_slice(),
                dilation.as_slice()
            )));
        }
        Ok(Geometry { axes, size, stride, dilation })
    }

    /// The same attributes, known to be right.
    fn of(attrs: &Attrs) -> Self {
        let list = |name: &str| attrs.sizes(name).iter().copied().collect();
        Geometry { axes: list("axes"), size: list("size"), stride: list("stride"), dilation: list("dilation") }
    }

    /// The number of the first axis that counts the elements of a window.
    fn first_size_axis(&self) -> usize {
        self.axes.last().map_or(0, |last| last + 1)
    }
}

/// Overlapping pieces.
pub static WINDOWS: OpDef = OpDef {
    name: "windows",
    doc: "Pieces of `size` elements, `dilation` apart, along `axes`, one every `stride` elements, as far as they fit. Each of the \
          axes counts the windows, `(extent - (size - 1)·dilation - 1) / stride + 1` of them, and behind the last of the axes \
          follow as many new ones, which count the elements of a window. A view: nothing is copied.",
    arity: Arity::Exact(1),
    attrs: &[
        AttrSpec { name: "axes", kind: AttrKind::Ints, doc: "the axes along which windows move, ascending" },
        SIZE,
        STRIDE,
        DILATION,
    ],
    traits: OpTraits::NONE,
    infer: |cx| {
        let (dtype, from) = cx.tensor(0)?;
        let w = Geometry::checked(cx, from)?;
        let mut shape = from.to_vec();
        for (k, &axis) in w.axes.iter().enumerate() {
            let (size, stride, dilation) = (w.size[k], w.stride[k], w.dilation[k]);
            let Some(n) = count(from[axis], size, stride, dilation) else {
                let text = format_args!(
                    "of {size} elements, {dilation} apart, requires an extent of at least {}, got {} on axis {axis} of {from}",
                    reach(size, dilation),
                    from[axis]
                );
                return Err(cx.shape_fault(text).help("`pad` the operand, or take smaller windows"));
            };
            shape[axis] = n;
        }
        let at = w.first_size_axis();
        shape.splice(at..at, w.size.iter().copied());
        Ok(Type::tensor(dtype, shape))
    },
    eval: eval::unbound,
    vjp: Vjp::Rule(|cx| {
        let (w, x) = (Geometry::of(cx.attrs), cx.x().shape());
        let extents = ints(w.axes.iter().map(|&axis| x[axis]));
        let size = |(name, _): &(&str, &Attr)| *name != "size";
        let attrs =
            cx.attrs.iter().filter(size).fold(Attrs::none(), |attrs, (name, value)| attrs.with(name, value.clone()));
        smallvec![Some(cx.dy.unary_with(&OVERLAP_ADD, attrs.with("extent", extents)))]
    }),
    lower: Lower::Expand(|cx| {
        let (w, x, to) = (Geometry::of(cx.attrs), cx.inputs[0], cx.ty.shape());
        let at = w.first_size_axis();
        let steps = (0..x.rank()).map(|axis| {
            let mut row = vec![0; to.rank()];
            let moving = if axis < at { axis } else { axis + w.axes.len() };
            row[moving] = 1;
            if let Some(k) = w.axes.iter().position(|&a| a == axis) {
                row[moving] = w.stride[k] as i64;
                row[at + k] = w.dilation[k] as i64;
            }
            row
        });
        smallvec![strided(x, to.clone(), &vec![0; x.rank()], &steps.collect::<Vec<_>>())]
    }),
    samples: |s| {
        let attrs = |axes: &[usize], size: &[usize], stride: &[usize], dilation: &[usize]| {
            Attrs::none().with("axes", axes).with("size", size).with("stride", stride).with("dilation", dilation)
        };
        vec![
            Sample::new(vec![s.float_in(-2.0..2.0, [7])]).attrs(attrs(&[0], &[3], &[2], &[1])),
            Sample::new(vec![s.float_in(-2.0..2.0, [5, 6, 2])]).attrs(attrs(&[0, 1], &[2, 3], &[2, 1], &[1, 2])),
            Sample::new(vec![s.float_in(-2.0..2.0, [2, 9])]).attrs(attrs(&[1], &[3], &[2], &[3])),
        ]
    },
};

/// Pieces added up.
pub static OVERLAP_ADD: OpDef = OpDef {
    name: "overlap_add",
    doc: "The adjoint of `windows`: a tensor in which each of `axes` has its `extent`, and each element is the sum of what the \
          windows (axes that count windows, and behind the last of them as many that count their elements) hold at its place, \
          from the last window that holds it to the first; 0 where none does.",
    arity: Arity::Exact(1),
    attrs: &[
        AttrSpec { name: "axes", kind: AttrKind::Ints, doc: "the axes that count windows, ascending" },
        STRIDE,
        DILATION,
        AttrSpec { name: "extent", kind: AttrKind::Ints, doc: "the result's extents along them" },
    ],
    traits: OpTraits::NONE,
    infer: |cx| {
        let (dtype, from) = cx.tensor(0)?;
        if dtype == DType::Bool {
            return Err(cx.dtype_fault("requires numbers, got bool").help("convert with `cast`"));
        }
        let axes = checked_axes(cx, from)?;
        let n = axes.len();
        let (stride, dilation) = (listed(cx, "stride", n)?, listed(cx, "dilation", n)?);
        let extent = listed(cx, "extent", n)?;
        let at = axes.last().map_or(0, |last| last + 1);
        if n == 0 || stride.contains(&0) || dilation.contains(&0) || from.rank() < at + n {
            return Err(cx.shape_fault(format_args!(
                "requires at least one axis of windows, as many behind the last for their elements, and strides and dilations of \
                 at least 1, got {from} with axes {:?}, strides {:?} and dilations {:?}",
                axes.as_slice(),
                stride.as_slice(),
                dilation.as_slice()
            )));
        }
        let mut shape = from.to_vec();
        for (k, &axis) in axes.iter().enumerate() {
            let (n, size) = (from[axis], from[at + k]);
            if size == 0 || count(extent[k], size, stride[k], dilation[k]) != Some(n) {
                let text = format_args!(
                    "requires as many windows of {size} elements, {} apart, as fit into {} every {}, got {n} on axis {axis} of {from}",
                    dilation[k], extent[k], stride[k]
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
        let axes = cx.attrs.sizes("axes");
        let at = axes.last().map_or(0, |last| last + 1);
        let shape = cx.x().shape();
        let attrs = Attrs::none().with("axes", ints(axes.iter().copied()));
        let attrs = attrs.with("size", ints(shape[at..at + axes.len()].iter().copied()));
        let attrs = ["stride", "dilation"].into_iter().fold(attrs, |a, name| a.with(name, ints(cx.attrs.sizes(name))));
        smallvec![Some(cx.dy.unary_with(&WINDOWS, attrs))]
    }),
    lower: Lower::Expand(|cx| smallvec![overlap_add(cx.inputs[0], cx.attrs, cx.ty.shape())]),
    samples: |s| {
        let attrs = |axes: &[usize], stride: &[usize], dilation: &[usize], extent: &[usize]| {
            Attrs::none().with("axes", axes).with("stride", stride).with("dilation", dilation).with("extent", extent)
        };
        vec![
            Sample::new(vec![s.float_in(-2.0..2.0, [3, 3])]).attrs(attrs(&[0], &[2], &[1], &[8])),
            Sample::new(vec![s.float_in(-2.0..2.0, [2, 4, 3, 2, 2])]).attrs(attrs(&[0, 1], &[2, 1], &[1, 3], &[5, 7])),
            Sample::new(vec![s.float_in(-2.0..2.0, [2, 3, 3])]).attrs(attrs(&[1], &[2], &[3], &[11])),
        ]
    },
};

/// A view at affine indices, with a row of steps for each axis of the operand.
fn strided<'g>(x: Tensor<'g>, shape: Shape, offset: &[i64], steps: &[Vec<i64>]) -> Tensor<'g> {
    let attrs = Attrs::none().with("shape", ints(shape.iter().copied()));
    let attrs = attrs.with("offset", Attr::Ints(offset.iter().copied().collect()));
    x.unary_with(&STRIDED, attrs.with("steps", Attr::Ints(steps.iter().flatten().copied().collect())))
}

/// Element `h = stride·q + p` of an axis is the sum over `j` of what window `q - j` has at `p + stride·j`; where the stride is 1
/// it is what window `h - dilation·j` has at `j`. Windows and elements that there are not count as zeros.
fn overlap_add<'g>(windows: Tensor<'g>, attrs: &Attrs, to: &Shape) -> Tensor<'g> {
    let (axes, mut stride, dilation) = (attrs.sizes("axes"), attrs.sizes("stride"), attrs.sizes("dilation"));
    let at = axes.last().map_or(0, |last| last + 1);
    let mut x = windows;
    for (k, &axis) in axes.iter().enumerate() {
        let (shape, size) = (x.shape(), x.shape()[at + k]);
        if stride[k] > 1 && dilation[k] > 1 && size > 1 {
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
        let (n, size, s) = (from[axis], from[at + k], stride[k]);
        let n_taps = size.div_ceil(s);
        let quotient = to[axis].div_ceil(s);
        low[axis] = if s == 1 { (size - 1) * dilation[k] } else { n_taps - 1 };
        // Zero windows put in behind the last may reach beyond the end.
        high[axis] = quotient.saturating_sub(n);
        high[at + k] = s * n_taps - size;
        quotients.push(quotient);
        taps.push(n_taps);
    }
    let padded = if low.iter().chain(&high).any(|&n| n > 0) { x.pad(&low, &high, Number::of(0.0)) } else { x };
    // The view: each axis in turn, of windows as quotient and phase; then taps; then the rest.
    let n = axes.len();
    let (mut shape, mut offset) = (Vec::new(), vec![0; from.rank()]);
    let mut moves: Vec<Vec<(usize, i64)>> = vec![Vec::new(); from.rank()];
    for axis in 0..at {
        moves[axis].push((shape.len(), 1));
        match axes.iter().position(|&a| a == axis) {
            Some(k) => {
                offset[axis] = low[axis] as i64;
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
        shape.push(taps[k]);
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
    let sums = held.sum_over(first_tap..first_tap + n);
    let mut whole = to.to_vec();
    axes.iter().zip(&quotients).zip(&stride).for_each(|((&axis, quotient), stride)| whole[axis] = quotient * stride);
    let merged = sums.reshape(Shape::new(&whole));
    if whole[..] == to[..] { merged } else { merged.slice(&vec![0; to.rank()], to) }
}

/// The ops of this file.
pub(crate) static OPS: &[&OpDef] = &[&STRIDED, &WINDOWS, &OVERLAP_ADD];

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
    inside_only: bool,
}

/// An axis, and the elements before and behind it.
type AxisPadding = (usize, (usize, usize));

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

    /// The attributes and the paddings by axis, for a tensor of a rank; or what is wrong.
    fn resolve(&self, rank: usize) -> Result<(Attrs, Vec<AxisPadding>), String> {
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
        let attrs = attrs.with("dilation", list(&self.dilation));
        let padding = axes.iter().zip(&self.padding).filter(|(_, p)| **p != (0, 0));
        let padding = padding.filter_map(|(&axis, &p)| Some((usize::try_from(axis).ok().filter(|&a| a < rank)?, p)));
        Ok((attrs, padding.collect()))
    }
}

impl<'g> Tensor<'g> {
    /// Overlapping pieces of this tensor, of which the windows' axes count the pieces; as many new axes behind the last of them
    /// count the elements of a piece: `[n, h, w, c]` with windows along 1 and 2 becomes `[n, oh, ow, kh, kw, c]`. A view, unless
    /// there is padding, which is of zeros.
    #[track_caller]
    pub fn windows(self, windows: &Windows) -> Tensor<'g> {
        self.padded_windows(windows, 0.0.into())
    }

    #[track_caller]
    fn padded_windows(self, windows: &Windows, border: Number) -> Tensor<'g> {
        let rank = self.rank();
        let (attrs, padding) = match windows.resolve(rank) {
            Ok(resolved) => resolved,
            Err(text) => return self.refuse(Diag::new(Code::BadAttribute, text).made("the operand", self)),
        };
        let (mut low, mut high) = (vec![0; rank], vec![0; rank]);
        for &(axis, (before, after)) in &padding {
            (low[axis], high[axis]) = (before, after);
        }
        let padded = if padding.is_empty() { self } else { self.pad(&low, &high, border) };
        padded.unary_with(&WINDOWS, attrs)
    }

    /// The axes of [`Tensor::windows`] that count the elements of a window.
    fn size_axes(self, windows: &Windows) -> std::ops::Range<usize> {
        let axes = windows.axes.ascending(self.rank());
        let first = axes.last().map_or(0, |&last| usize::try_from(last).map_or(0, |last| last.saturating_add(1)));
        first..first.saturating_add(axes.len())
    }

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
        let pieces = self.windows(windows);
        if pieces.is_poisoned() {
            return pieces;
        }
        let axes = self.size_axes(windows);
        if !windows.inside_only || windows.padding.iter().all(|&p| p == (0, 0)) {
            return pieces.mean_over(axes);
        }
        let inside = self.constant_like(1.0).windows(windows).sum_over(axes.clone());
        pieces.sum_over(axes) / inside
    }

    /// The adjoint of [`Tensor::windows`] without padding: pieces added up at their places in a tensor whose windowed axes have
    /// these extents.
    #[track_caller]
    pub fn overlap_add(self, windows: &Windows, extents: &[usize]) -> Tensor<'g> {
        let n = windows.size.len();
        let resolved =
            windows.resolve(self.rank().saturating_sub(n)).and_then(|(attrs, padding)| match padding.is_empty() {
                true if extents.len() == n => Ok(attrs),
                true => Err(format!("`overlap_add` along {n} axes requires as many extents, got {}", extents.len())),
                false => Err("`overlap_add` requires windows without padding; `slice` the result instead".to_owned()),
            });
        let attrs = match resolved {
            Ok(attrs) => attrs,
            Err(text) => return self.refuse(Diag::new(Code::BadAttribute, text).made("the operand", self)),
        };
        // Extents are in the order of the windows' own axes, attributes ascend.
        let axes = windows.axes.number(self.rank().saturating_sub(n));
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by_key(|&k| axes[k]);
        let attrs = ["axes", "stride", "dilation"]
            .into_iter()
            .fold(Attrs::none(), |kept, name| kept.with(name, Attr::Ints(attrs.ints(name).iter().copied().collect())));
        self.unary_with(&OVERLAP_ADD, attrs.with("extent", ints(order.iter().map(|&k| extents[k]))))
    }
}

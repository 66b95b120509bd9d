//! Convolutions and their two adjoints, which are closed under differentiation: each one's derivatives are the other two.
//!
//! The order of their sums is stated once, in [`cotangent_scalar::conv`]; they are products to the compiler, with the same
//! epilogues as those of matrices.

use cotangent_scalar::conv::MOST_AXES;
use cotangent_scalar::{Conv, ConvAxis, DType, Direction};
use smallvec::{SmallVec, smallvec};

use crate::attrs::{Attr, AttrKind, AttrSpec, Attrs};
use crate::builder::Tensor;
use crate::ir::{Graph, Node, NodeId};
use crate::op::{Arity, Cotangents, EvalCx, Fault, InferCx, Lower, OpDef, OpTraits, Vjp, VjpCx};
use crate::ops::view::{ints, listed};
use crate::ops::windows::{DILATION, HIGH, LOW, STRIDE};
use crate::samples::{Sample, Sampler};
use crate::tensor::{Element, TensorData};
use crate::types::{Shape, Type};

const GROUPS: AttrSpec = AttrSpec {
    name: "groups",
    kind: AttrKind::Int,
    doc: "groups that channels and filters are divided into, at least 1; filters see the channels of their own group",
};
const EXTENTS: AttrSpec =
    AttrSpec { name: "extents", kind: AttrKind::Ints, doc: "the extents of the result along the spatial axes" };
const WINDOW: AttrSpec =
    AttrSpec { name: "window", kind: AttrKind::Ints, doc: "elements of a filter along each of the spatial axes" };

/// The geometry of a convolution or adjoint, which its op's lowering says, of these operands.
fn geometry(cx: &InferCx<'_>) -> Result<(DType, Conv, Direction), Fault> {
    let Lower::Conv(direction) = cx.op.lower else { return Err(cx.op.mistake("is no convolution")) };
    let ((a_type, a), (b_type, b)) = (cx.tensor(0)?, cx.tensor(1)?);
    if a_type != b_type || !a_type.is_float() {
        let fault = cx.dtype_fault(format_args!("requires two f32 or two f64 operands, got {a_type} and {b_type}"));
        return Err(fault.help("nothing is promoted implicitly: convert one of them with `cast`"));
    }
    let rank = a.rank();
    if rank != b.rank() || !(3..=MOST_AXES + 2).contains(&rank) {
        let text = format_args!("requires operands of one rank, 3 to {}, got {a} and {b}", MOST_AXES + 2);
        let help =
            "`[n, spatial.., channels]` and filters `[window.., channels / groups, filters]`, 1 to 3 spatial axes";
        return Err(cx.shape_fault(text).help(help));
    }
    let n_axes = rank - 2;
    let spatial = 1..1 + n_axes;
    let (stride, dilation) = (listed(cx, "stride", n_axes)?, listed(cx, "dilation", n_axes)?);
    let (low, high) = (listed(cx, "low", n_axes)?, listed(cx, "high", n_axes)?);
    let groups = cx.attrs.size("groups");
    if stride.contains(&0) || dilation.contains(&0) || !(1..usize::MAX).contains(&groups) {
        return Err(cx.attr_fault(format_args!(
            "requires strides, dilations and a number of groups of at least 1, got {:?}, {:?} and {}",
            stride.as_slice(),
            dilation.as_slice(),
            cx.attrs.int("groups")
        )));
    }
    // What each direction finds where: extents, windows, places if known, channels of x, filters.
    let (n, extents, windows, places, all_channels, all_filters) = match direction {
        Direction::Forward => (a[0], sizes(&a[spatial.clone()]), sizes(&b[..n_axes]), None, a[rank - 1], b[rank - 1]),
        Direction::Data => {
            let channels = b[rank - 2].saturating_mul(groups);
            (
                a[0],
                listed(cx, "extents", n_axes)?,
                sizes(&b[..n_axes]),
                Some(&a[spatial.clone()]),
                channels,
                a[rank - 1],
            )
        }
        Direction::Weights => {
            let windows = listed(cx, "window", n_axes)?;
            (a[0], sizes(&a[spatial.clone()]), windows, Some(&b[spatial.clone()]), a[rank - 1], b[rank - 1])
        }
    };
    if !all_channels.is_multiple_of(groups) || !all_filters.is_multiple_of(groups) {
        let text = format_args!(
            "requires channels and filters in {groups} groups of equal size, got {all_channels} channels and {all_filters} \
             filters in {a} and {b}"
        );
        return Err(cx.shape_fault(text));
    }
    let (channels, filters) = (all_channels / groups, all_filters / groups);
    let fits = match direction {
        Direction::Forward => b[rank - 2] == channels,
        Direction::Data => b[rank - 1] == all_filters,
        Direction::Weights => b[0] == n,
    };
    if !fits {
        let text = match direction {
            Direction::Forward => format!(
                "requires filters of {channels} channels ({all_channels} in {groups} groups), got {} in {b}",
                b[rank - 2]
            ),
            Direction::Data => {
                format!("requires a value for each of {} filters, got {all_filters} in {a}", b[rank - 1])
            }
            Direction::Weights => format!("requires as many examples in both operands, got {n} and {}", b[0]),
        };
        return Err(cx.shape_fault(text));
    }
    let mut axes: SmallVec<[ConvAxis; 3]> = SmallVec::new();
    for k in 0..n_axes {
        let (extent, window, stride, dilation) = (extents[k], windows[k], stride[k], dilation[k]);
        if window == 0 {
            return Err(
                cx.shape_fault(format_args!("requires filters of at least 1 element along spatial axis {k}, got 0"))
            );
        }
        let reach = (window - 1).saturating_mul(dilation).saturating_add(1);
        let padded = extent.saturating_add(low[k]).saturating_add(high[k]);
        let Some(left) = padded.checked_sub(reach) else {
            let padding = match (low[k], high[k]) {
                (0, 0) => String::new(),
                (low, high) => format!(" and {low} + {high} of padding"),
            };
            let text = format_args!(
                "with filters of {window} elements, {dilation} apart, requires an extent of at least {reach}, got \
                 {extent}{padding} along spatial axis {k} of {a} and {b}"
            );
            return Err(cx.shape_fault(text).help("take more padding, or smaller filters"));
        };
        let count = left / stride + 1;
        if let Some(got) = places.map(|places| places[k]).filter(|&got| got != count) {
            let text = format_args!(
                "requires the {count} places of filters of {window} elements, {dilation} apart, every {stride} in {extent} \
                 with {} + {} of padding, got {got} along spatial axis {k}",
                low[k], high[k]
            );
            return Err(cx.shape_fault(text));
        }
        axes.push(ConvAxis { extent, window, places: count, stride, dilation, low: low[k] });
    }
    let conv = Conv { n, axes, groups, channels, filters };
    if !conv.is_sound() {
        let text = format_args!(
            "of {a} and {b} is larger than what can be counted: 2⁶³ multiply-adds, or windows over 2⁴⁸ elements"
        );
        return Err(cx.shape_fault(text));
    }
    Ok((a_type, conv, direction))
}

fn sizes(of: &[usize]) -> SmallVec<[usize; 4]> {
    of.iter().copied().collect()
}

fn infer(cx: &InferCx<'_>) -> Result<Type, Fault> {
    let (dtype, conv, direction) = geometry(cx)?;
    let axes = |of: fn(&ConvAxis) -> usize| conv.axes.iter().map(of);
    let shape: Shape = match direction {
        Direction::Forward => [conv.n].into_iter().chain(axes(|a| a.places)).chain([conv.all_filters()]).collect(),
        Direction::Data => [conv.n].into_iter().chain(axes(|a| a.extent)).chain([conv.all_channels()]).collect(),
        Direction::Weights => axes(|a| a.window).chain([conv.channels, conv.all_filters()]).collect(),
    };
    Ok(Type::tensor(dtype, shape))
}

fn eval(cx: &EvalCx<'_>, inputs: &[&TensorData]) -> Result<TensorData, Fault> {
    fn sums<T: Element>(conv: &Conv, direction: Direction, a: &[T], b: &[T], fma: impl Fn(T, T, T) -> T) -> Vec<u64> {
        let [rows, cols] = conv.matrix(direction);
        let mut out = Vec::with_capacity(rows * cols);
        for row in 0..if cols > 0 { rows } else { 0 } {
            for col in 0..cols {
                let mut sum = T::from_bits(0);
                conv.terms(direction, row, col, |of_a, of_b| {
                    sum = fma(of_a.map_or(T::from_bits(0), |at| a[at]), b[of_b], sum);
                });
                out.push(Element::to_bits(sum));
            }
        }
        out
    }
    let types: SmallVec<[Type; 2]> = inputs.iter().map(|input| input.ty()).collect();
    let types: SmallVec<[&Type; 2]> = types.iter().collect();
    let infer = InferCx { op: cx.op, inputs: &types, attrs: cx.attrs, declared: None, bodies: cx.bodies };
    let (dtype, conv, direction) = geometry(&infer)?;
    let bits = match (inputs[0], inputs[1]) {
        (TensorData::F32(a), TensorData::F32(b)) => {
            let (a, b): (Vec<f32>, Vec<f32>) = (a.iter().copied().collect(), b.iter().copied().collect());
            sums(&conv, direction, &a, &b, f32::mul_add)
        }
        (TensorData::F64(a), TensorData::F64(b)) => {
            let (a, b): (Vec<f64>, Vec<f64>) = (a.iter().copied().collect(), b.iter().copied().collect());
            sums(&conv, direction, &a, &b, f64::mul_add)
        }
        _ => return Err(infer.dtype_fault("requires two f32 or two f64 operands")),
    };
    Ok(TensorData::from_bits(dtype, cx.ty.shape(), &bits))
}

/// The attributes that the three have in common, and one more.
fn shared(attrs: &Attrs, more: Option<(&'static str, Attr)>) -> Attrs {
    let all = [&STRIDE, &DILATION, &LOW, &HIGH, &GROUPS];
    let known = all.iter().filter_map(|spec| Some((spec.name, attrs.get(spec.name)?.clone())));
    known.chain(more).fold(Attrs::none(), |attrs, (name, value)| attrs.with(name, value))
}

fn spatial(of: Tensor<'_>) -> Attr {
    let shape = of.shape();
    ints(shape[1..shape.rank() - 1].iter().copied())
}

/// The three as functions of tensors, by the attributes of any of them.
struct Ops<'a>(&'a Attrs);

impl Ops<'_> {
    fn forward<'g>(&self, x: Tensor<'g>, w: Tensor<'g>) -> Tensor<'g> {
        x.builder().op(&CONV, &[x, w], shared(self.0, None), None)
    }

    /// The adjoint with respect to an operand with the spatial extents of `x`.
    fn data<'g>(&self, dy: Tensor<'g>, w: Tensor<'g>, extents: Attr) -> Tensor<'g> {
        dy.builder().op(&CONV_DATA, &[dy, w], shared(self.0, Some((EXTENTS.name, extents))), None)
    }

    /// The adjoint with respect to filters of the windows of `w`.
    fn weights<'g>(&self, x: Tensor<'g>, dy: Tensor<'g>, w: Tensor<'g>) -> Tensor<'g> {
        let shape = w.shape();
        let window = ints(shape[..shape.rank() - 2].iter().copied());
        x.builder().op(&CONV_WEIGHTS, &[x, dy], shared(self.0, Some((WINDOW.name, window))), None)
    }
}

fn vjp<'g>(cx: &VjpCx<'g, '_>) -> Cotangents<'g> {
    let (x, w) = (cx.inputs[0], cx.inputs[1]);
    let ops = Ops(cx.attrs);
    smallvec![Some(ops.data(cx.dy, w, spatial(x))), Some(ops.weights(x, cx.dy, w))]
}

fn vjp_data<'g>(cx: &VjpCx<'g, '_>) -> Cotangents<'g> {
    // The value is as x, its cotangent too.
    let (y, w, dx) = (cx.inputs[0], cx.inputs[1], cx.dy);
    let ops = Ops(cx.attrs);
    smallvec![Some(ops.forward(dx, w)), Some(ops.weights(dx, y, w))]
}

fn vjp_weights<'g>(cx: &VjpCx<'g, '_>) -> Cotangents<'g> {
    let (x, y, dw) = (cx.inputs[0], cx.inputs[1], cx.dy);
    let ops = Ops(cx.attrs);
    smallvec![Some(ops.data(y, dw, spatial(x))), Some(ops.forward(x, dw))]
}

/// Convolution.
pub static CONV: OpDef = OpDef {
    name: "conv",
    doc: "Convolution (cross-correlation) of `x [n, spatial.., c]` with filters `[window.., c / groups, f]` into `[n, places.., f]`, along \
          1 to 3 spatial axes with `low` zeros before and `high` behind: `(low + extent + high - (window - 1)·dilation - 1) / stride + \
          1` places. Every element is one chain of fused multiply-adds from +0 over its filter in row-major order, zeros of the padding \
          among it.",
    arity: Arity::Exact(2),
    attrs: &[STRIDE, DILATION, LOW, HIGH, GROUPS],
    traits: OpTraits::NONE,
    infer,
    eval,
    vjp: Vjp::Rule(vjp),
    lower: Lower::Conv(Direction::Forward),
    samples: |s| samples(s, Direction::Forward),
};

/// Transposed convolution.
pub static CONV_DATA: OpDef = OpDef {
    name: "conv_data",
    doc: "The adjoint of `conv` with respect to its first operand, the transposed convolution: of `y [n, places.., f]` and filters \
          `[window.., c / groups, f]` into `[n, extents.., c]`. Every element is one chain of fused multiply-adds from +0 over the places \
          whose windows hold it, in row-major order, and the filters of each; places outside of `y` are zeros that take part unless there \
          would be many.",
    arity: Arity::Exact(2),
    attrs: &[STRIDE, DILATION, LOW, HIGH, GROUPS, EXTENTS],
    traits: OpTraits::NONE,
    infer,
    eval,
    vjp: Vjp::Rule(vjp_data),
    lower: Lower::Conv(Direction::Data),
    samples: |s| samples(s, Direction::Data),
};

/// The gradient of filters.
pub static CONV_WEIGHTS: OpDef = OpDef {
    name: "conv_weights",
    doc: "The adjoint of `conv` with respect to its filters: of `x [n, spatial.., c]` and `y [n, places.., f]` into `[window.., c / groups, \
          f]`. Every element is one chain of fused multiply-adds from +0 over the examples and places in row-major order.",
    arity: Arity::Exact(2),
    attrs: &[STRIDE, DILATION, LOW, HIGH, GROUPS, WINDOW],
    traits: OpTraits::NONE,
    infer,
    eval,
    vjp: Vjp::Rule(vjp_weights),
    lower: Lower::Conv(Direction::Weights),
    samples: |s| samples(s, Direction::Weights),
};

/// The ops of this file.
pub(crate) static OPS: &[&OpDef] = &[&CONV, &CONV_DATA, &CONV_WEIGHTS];

fn samples(s: &mut Sampler, direction: Direction) -> Vec<Sample> {
    // Each axis as extent, window, places, stride, dilation, low, high; then examples, groups, channels and filters of a group.
    let some: [(&[[usize; 7]], [usize; 4]); 4] = [
        (&[[7, 3, 3, 2, 1, 0, 1]], [2, 1, 2, 3]),
        (&[[4, 2, 5, 1, 2, 1, 2], [5, 3, 2, 3, 1, 2, 0]], [1, 2, 1, 2]),
        (&[[3, 3, 3, 1, 1, 1, 1], [2, 2, 1, 1, 1, 0, 0]], [2, 1, 2, 1]),
        (&[[2, 2, 2, 1, 1, 1, 0], [3, 1, 2, 2, 1, 0, 0], [1, 2, 2, 1, 1, 1, 1]], [1, 1, 1, 2]),
    ];
    let sample = |(axes, [n, groups, channels, filters]): (&[[usize; 7]], [usize; 4])| {
        let list = |k: usize| axes.iter().map(move |axis| axis[k]);
        let shape = |of: &mut dyn Iterator<Item = usize>| Shape::new(&of.collect::<Vec<_>>());
        let x = shape(&mut [n].into_iter().chain(list(0)).chain([groups * channels]));
        let w = shape(&mut list(1).chain([channels, groups * filters]));
        let y = shape(&mut [n].into_iter().chain(list(2)).chain([groups * filters]));
        let (operands, more) = match direction {
            Direction::Forward => ([x, w], None),
            Direction::Data => ([y, w], Some((EXTENTS.name, ints(list(0))))),
            Direction::Weights => ([x, y], Some((WINDOW.name, ints(list(1))))),
        };
        let attrs = attrs_of(&ints(list(3)), &ints(list(4)), &ints(list(5)), &ints(list(6)), groups);
        let attrs = more.into_iter().fold(attrs, |attrs, (name, value)| attrs.with(name, value));
        Sample::new(operands.map(|shape| s.float_in(-1.0..1.0, shape)).into()).attrs(attrs)
    };
    some.into_iter().map(sample).collect()
}

fn attrs_of(stride: &Attr, dilation: &Attr, low: &Attr, high: &Attr, groups: usize) -> Attrs {
    let lists = [(STRIDE.name, stride), (DILATION.name, dilation), (LOW.name, low), (HIGH.name, high)];
    let attrs = lists.into_iter().fold(Attrs::none(), |attrs, (name, list)| attrs.with(name, list.clone()));
    attrs.with(GROUPS.name, Attr::Int(i64::try_from(groups).unwrap_or(i64::MAX)))
}

impl Node {
    /// What a node with operands of these types sums up if it is a convolution or one of its adjoints, and which of the three
    /// it is.
    pub fn convolution(&self, operands: &[&Type]) -> Option<(Conv, Direction)> {
        let cx = InferCx { op: self.op.0, inputs: operands, attrs: &self.attrs, declared: None, bodies: &[] };
        let is_one = matches!(self.op.lower, Lower::Conv(_)) && operands.len() == 2;
        let (_, conv, direction) = is_one.then(|| geometry(&cx).ok())??;
        Some((conv, direction))
    }
}

impl Graph {
    /// What a node sums up if it is a convolution or one of its adjoints, and which of the three it is.
    pub fn convolution(&self, id: NodeId) -> Option<(Conv, Direction)> {
        let node = self.node(id);
        let types: SmallVec<[&Type; 2]> = node.inputs.iter().map(|&input| self.ty(input)).collect();
        node.convolution(&types)
    }
}

/// How a convolution's filters move: how far apart, what is put around the tensor first, and in how many groups channels and filters
/// are. Each list has a number for each spatial axis; of what is not said, steps are 1 and there is no padding.
///
/// ```
/// use cotangent_graph::ops::conv::Convolution;
/// use cotangent_graph::{DType::F32, Init, build};
///
/// let graph = build(|g| {
///     let images = g.input("images", F32, [8, 28, 28, 16]);
///     let filters = g.param("filters", F32, [3, 3, 16, 32], Init::GlorotUniform);
///     let maps = images.conv(filters, &Convolution::new().stride(&[2, 2]).padding(&[(1, 1), (1, 1)]));
///     assert_eq!(maps.shape()[..], [8, 14, 14, 32]);
///     g.output("maps", maps);
/// })?;
/// # Ok::<(), cotangent_graph::Diags>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Convolution {
    stride: Vec<usize>,
    dilation: Vec<usize>,
    padding: Vec<(usize, usize)>,
    groups: usize,
}

impl Default for Convolution {
    fn default() -> Self {
        Convolution::new()
    }
}

impl Convolution {
    /// Filters at every place where they fit, of adjacent elements, that see all channels.
    pub fn new() -> Self {
        Convolution { stride: Vec::new(), dilation: Vec::new(), padding: Vec::new(), groups: 1 }
    }

    /// From one place to the next along each spatial axis, at least 1.
    pub fn stride(mut self, stride: &[usize]) -> Self {
        self.stride = stride.to_vec();
        self
    }

    /// From one element of a filter to the next along each spatial axis, at least 1.
    pub fn dilation(mut self, dilation: &[usize]) -> Self {
        self.dilation = dilation.to_vec();
        self
    }

    /// Zeros put before and behind the tensor along each spatial axis.
    pub fn padding(mut self, padding: &[(usize, usize)]) -> Self {
        self.padding = padding.to_vec();
        self
    }

    /// In how many groups channels and filters are, at least 1: a filter sees the channels of its group only.
    pub fn groups(mut self, groups: usize) -> Self {
        self.groups = groups;
        self
    }

    /// The attributes, for so many spatial axes.
    fn attrs(&self, n: usize) -> Attrs {
        fn full<T: Clone>(list: &[T], n: usize, otherwise: T) -> Vec<T> {
            if list.is_empty() { vec![otherwise; n] } else { list.to_vec() }
        }
        let (stride, dilation) = (full(&self.stride, n, 1), full(&self.dilation, n, 1));
        let padding = full(&self.padding, n, (0, 0));
        let (low, high): (Vec<usize>, Vec<usize>) = padding.iter().copied().unzip();
        attrs_of(&ints(stride), &ints(dilation), &ints(low), &ints(high), self.groups)
    }
}

/// How many filters each channel has, if it has several of its own; 1 otherwise.
fn multiplier(x: Tensor<'_>, w: Tensor<'_>, n_channels: usize, groups: usize) -> usize {
    if x.is_poisoned() || w.is_poisoned() || w.rank() < 2 || groups < 2 || n_channels != groups {
        return 1;
    }
    let (of_w, rank) = (w.shape(), w.rank());
    if of_w[rank - 2] == 1 && of_w[rank - 1].is_multiple_of(groups) { (of_w[rank - 1] / groups).max(1) } else { 1 }
}

/// Each channel so many times, one after the other.
#[track_caller]
fn repeated(x: Tensor<'_>, times: usize) -> Tensor<'_> {
    let shape = x.shape();
    let (outer, c) = (&shape[..shape.rank() - 1], shape[shape.rank() - 1]);
    let with = |last: &[usize]| -> Shape { outer.iter().chain(last).copied().collect() };
    x.reshape(with(&[c, 1])).broadcast_to(with(&[c, times])).reshape(with(&[c * times]))
}

impl<'g> Tensor<'g> {
    /// Convolution (cross-correlation) of this tensor `[n, spatial.., c]`, of 1 to 3 spatial axes, with filters
    /// `[window.., c / groups, f]` into `[n, places.., f]`.
    ///
    /// Every channel a group of its own is a *depthwise* convolution. Where each channel then has several filters, its elements are
    /// repeated for each. What is in the padding is a zero that takes part: times an infinity it is NaN.
    #[track_caller]
    pub fn conv(self, filters: Tensor<'_>, settings: &Convolution) -> Tensor<'g> {
        let n_channels = self.shape().last().copied().unwrap_or(0);
        let m = multiplier(self, filters, n_channels, settings.groups);
        let attrs = settings.clone().groups(settings.groups * m).attrs(self.rank().saturating_sub(2));
        let x = if m > 1 { repeated(self, m) } else { self };
        self.builder().op(&CONV, &[x, filters], attrs, None)
    }

    /// Transposed convolution, the adjoint of [`Tensor::conv`]: this tensor `[n, places.., f]` has a value for each place of a
    /// convolution with these settings of a tensor `[n, extents.., c]` with filters `[window.., c / groups, f]`, and the result
    /// has the extents of that one: the sum of all filters, each times its value, at their places.
    #[track_caller]
    pub fn conv_transposed(self, filters: Tensor<'_>, settings: &Convolution, extents: &[usize]) -> Tensor<'g> {
        let n_filters = self.shape().last().copied().unwrap_or(0);
        let m = multiplier(self, filters, settings.groups, settings.groups).min(n_filters.max(1));
        let attrs = settings.clone().groups(settings.groups * m).attrs(self.rank().saturating_sub(2));
        let attrs = attrs.with(EXTENTS.name, ints(extents.iter().copied()));
        let x = self.builder().op(&CONV_DATA, &[self, filters], attrs, None);
        if m == 1 || x.is_poisoned() {
            return x;
        }
        // The filters of a channel, one after the other.
        let shape = x.shape();
        let rank = shape.rank();
        let apart: Shape = shape[..rank - 1].iter().chain(&[settings.groups, m]).copied().collect();
        x.reshape(apart).sum_over(rank)
    }
}

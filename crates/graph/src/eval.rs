//! Reference semantics: how the families of ops compute their values on the host.
//!
//! Slow and obvious on purpose. Scalar ops run the very body that code generators compile, reductions follow
//! [`cotangent_scalar::order`], as do matrix products; everything else moves elements.

use cotangent_scalar::eval::Registers;
use cotangent_scalar::{BodyBuilder, DType, ReduceOp, ValueId, order};
use ndarray::{ArrayD, Axis, CowArray, IxDyn, Slice};
use smallvec::SmallVec;

use crate::diag::Code;
use crate::op::{EvalCx, Fault, Lower, ScalarCx, ViewMap};
use crate::tensor::{Element, TensorData};
use crate::types::Shape;
use crate::{map_array, with_array};

/// Lanes that scalar bodies are evaluated on at a time.
const LANES: usize = 4096;

/// An op whose lowering is a scalar program.
pub fn scalar(cx: &EvalCx<'_>, inputs: &[&TensorData]) -> Result<TensorData, Fault> {
    let mut s = BodyBuilder::new();
    let args: SmallVec<[ValueId; 3]> = inputs.iter().enumerate().map(|(k, t)| s.input(k as u32, t.dtype())).collect();
    let root = cx.op.scalar(&mut s, &args, &ScalarCx { attrs: cx.attrs, dtype: cx.ty.dtype() })?;
    let (body, roots) = s.finish(&[root]);
    let bits: Vec<Vec<u64>> = inputs.iter().map(|t| t.bits()).collect();
    let n = cx.ty.shape().n_elements();
    let mut out = Vec::with_capacity(n);
    let mut registers = Registers::default();
    let mut start = 0;
    while start < n {
        let end = n.min(start + LANES);
        registers.run(&body, end - start, |k, lanes| lanes.copy_from_slice(&bits[k as usize][start..end]));
        out.extend_from_slice(registers.lanes_of(roots[0]));
        start = end;
    }
    Ok(TensorData::from_bits(cx.ty.dtype(), cx.ty.shape(), &out))
}

/// A reduction over the attribute `axes`, in the fixed order.
pub fn reduce(cx: &EvalCx<'_>, inputs: &[&TensorData]) -> Result<TensorData, Fault> {
    let Lower::Reduce(op) = cx.op.lower else {
        return Err(Fault::new(Code::Unsupported, format!("`{}` is not a reduction", cx.op.name)));
    };
    let (dtype, shape, bits) = (inputs[0].dtype(), inputs[0].shape(), inputs[0].bits());
    let axes = cx.attrs.sizes("axes");
    Ok(TensorData::from_bits(dtype, cx.ty.shape(), &reduce_bits(op, dtype, &shape, &axes, bits)))
}

/// The groups of adjacent reduced axes, innermost first, axes of extent 1 left out: `(outer, reduced, inner)` extents at
/// the time when the group is reduced (groups further in are gone by then).
pub fn reduction_groups(shape: &Shape, axes: &[usize]) -> SmallVec<[(usize, usize, usize); 2]> {
    // Runs of equal kind, outermost first.
    let mut runs: SmallVec<[(bool, usize); 4]> = SmallVec::new();
    for (axis, &extent) in shape.iter().enumerate() {
        if extent == 1 {
            continue;
        }
        let reduced = axes.contains(&axis);
        match runs.last_mut() {
            Some((kind, n)) if *kind == reduced => *n *= extent,
            _ => runs.push((reduced, extent)),
        }
    }
    let mut groups = SmallVec::new();
    let mut inner = 1;
    while let Some((reduced, extent)) = runs.pop() {
        if reduced {
            groups.push((runs.iter().map(|r| r.1).product(), extent, inner));
        } else {
            inner *= extent;
        }
    }
    groups
}

fn reduce_bits(op: ReduceOp, dtype: DType, shape: &Shape, axes: &[usize], mut bits: Vec<u64>) -> Vec<u64> {
    for (outer, n, inner) in reduction_groups(shape, axes) {
        let mut out = Vec::with_capacity(outer * inner);
        // Rows of nothing may be any number.
        for o in 0..if inner == 0 { 0 } else { outer } {
            let block = &bits[o * n * inner..(o + 1) * n * inner];
            if inner == 1 {
                out.push(if outer == 1 {
                    order::reduce_full(op, dtype, block)
                } else {
                    order::reduce_row(op, dtype, block)
                });
            } else {
                out.extend(
                    (0..inner).map(|i| order::reduce_column(op, dtype, block.iter().skip(i).step_by(inner).copied())),
                );
            }
        }
        bits = out;
    }
    bits
}

/// A view: elements of the operand at other indices.
pub fn view(cx: &EvalCx<'_>, inputs: &[&TensorData]) -> Result<TensorData, Fault> {
    let Lower::View(map) = cx.op.lower else {
        return Err(Fault::new(Code::Unsupported, format!("`{}` is not a view", cx.op.name)));
    };
    let out_shape = cx.ty.shape();
    let in_shape = inputs[0].shape();
    let map = map(cx.attrs, &in_shape, out_shape);
    let bits = inputs[0].bits();
    let axes = match map {
        ViewMap::Reshape => return Ok(TensorData::from_bits(cx.ty.dtype(), out_shape, &bits)),
        ViewMap::Affine(axes) => axes,
    };
    let strides = in_shape.strides();
    let mut out = Vec::with_capacity(out_shape.n_elements());
    let mut index = vec![0i64; out_shape.rank()];
    for _ in 0..out_shape.n_elements() {
        let place: i64 = axes
            .iter()
            .zip(&strides)
            .map(|(m, stride)| {
                stride * (m.offset + m.moves.iter().map(|&(axis, step)| step * index[axis]).sum::<i64>())
            })
            .sum();
        out.push(bits[place as usize]);
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            if index[axis] < out_shape[axis] as i64 {
                break;
            }
            index[axis] = 0;
        }
    }
    Ok(TensorData::from_bits(cx.ty.dtype(), out_shape, &out))
}

/// The operand itself.
pub fn identity(_: &EvalCx<'_>, inputs: &[&TensorData]) -> Result<TensorData, Fault> {
    Ok(inputs[0].clone())
}

/// Sources are bound by the interpreter; reaching this is an error of the caller.
pub fn unbound(cx: &EvalCx<'_>, _: &[&TensorData]) -> Result<TensorData, Fault> {
    Err(Fault::new(Code::Unsupported, format!("`{}` has no value of its own", cx.op.name)))
}

/// Concatenation along `axis`.
pub fn concat(cx: &EvalCx<'_>, inputs: &[&TensorData]) -> Result<TensorData, Fault> {
    let axis = Axis(cx.attrs.int("axis") as usize);
    let mut out = TensorData::zeros(cx.ty.dtype(), cx.ty.shape());
    let mut start = 0;
    for input in inputs {
        let n = input.shape()[axis.index()];
        place(&mut out, input, &[(axis, start)]);
        start += n;
    }
    Ok(out)
}

/// Padding with the attribute `value`.
pub fn pad(cx: &EvalCx<'_>, inputs: &[&TensorData]) -> Result<TensorData, Fault> {
    let bits = cx.attrs.number("value").bits(cx.ty.dtype());
    let mut out = TensorData::from_bits(cx.ty.dtype(), cx.ty.shape(), &vec![bits; cx.ty.shape().n_elements()]);
    let corner: SmallVec<[(Axis, usize); 4]> =
        cx.attrs.sizes("low").iter().enumerate().map(|(axis, &low)| (Axis(axis), low)).collect();
    place(&mut out, inputs[0], &corner);
    Ok(out)
}

/// Copies `part` into `whole` at a corner.
fn place(whole: &mut TensorData, part: &TensorData, corner: &[(Axis, usize)]) {
    fn copy<T: Element>(whole: &mut CowArray<'_, T, IxDyn>, part: &TensorData, corner: &[(Axis, usize)]) {
        let Some(part) = part.array::<T>() else { return };
        let mut view = whole.view_mut();
        for &(axis, start) in corner {
            view.slice_axis_inplace(axis, Slice::from(start..start + part.shape()[axis.index()]));
        }
        view.assign(part);
    }
    with_array!(whole, a => copy(a, part, corner));
}

/// `C = A·B` in the last two axes, leading axes equal, optionally transposed, in the order of [`order::product_lanes`].
pub fn matmul(cx: &EvalCx<'_>, inputs: &[&TensorData]) -> Result<TensorData, Fault> {
    fn product<T: Element + std::ops::Add<Output = T>>(
        a: &CowArray<'_, T, IxDyn>,
        b: &CowArray<'_, T, IxDyn>,
        shape: &Shape,
        fma: impl Fn(T, T, T) -> T,
    ) -> TensorData {
        let rank = shape.rank();
        let (m, n) = (shape[rank - 2], shape[rank - 1]);
        let k = a.shape()[rank - 1];
        let n_lanes = order::product_lanes([m, n, k], T::DTYPE);
        let batch: usize = shape[..rank - 2].iter().product();
        let flat = |x: &CowArray<'_, T, IxDyn>| x.as_standard_layout().iter().copied().collect::<Vec<T>>();
        let (a, b) = (flat(a), flat(b));
        let mut out = Vec::with_capacity(shape.n_elements());
        for l in 0..batch {
            for i in 0..m {
                let row = &a[(l * m + i) * k..][..k];
                for j in 0..n {
                    let column = b[l * k * n..][..k * n].iter().skip(j).step_by(n.max(1));
                    let terms = row.iter().copied().zip(column.copied());
                    out.push(order::product_element(n_lanes, T::from_bits(0), terms, &fma, |x, y| x + y));
                }
            }
        }
        let mut next = out.into_iter();
        ArrayD::from_shape_simple_fn(IxDyn(shape), || next.next().unwrap_or_else(|| T::from_bits(0))).into()
    }
    let turned = |t: &TensorData, flag: &str| {
        let rank = t.shape().rank();
        if !cx.attrs.bool(flag) {
            return t.clone();
        }
        map_array!(t, a => { let mut a = a.clone(); a.swap_axes(rank - 1, rank - 2); a.as_standard_layout().into_owned() })
    };
    match (turned(inputs[0], "ta"), turned(inputs[1], "tb")) {
        (TensorData::F32(a), TensorData::F32(b)) => Ok(product(&a, &b, cx.ty.shape(), |x, y, c| x.mul_add(y, c))),
        (TensorData::F64(a), TensorData::F64(b)) => Ok(product(&a, &b, cx.ty.shape(), |x, y, c| x.mul_add(y, c))),
        _ => Err(Fault::new(Code::DTypeMismatch, "`matmul` requires two f32 or two f64 operands")),
    }
}

/// Run-time indices as numbers, checked against `bound`.
pub fn checked_indices(op: &str, indices: &TensorData, bound: usize) -> Result<Vec<usize>, Fault> {
    let dtype = indices.dtype();
    let index = |(row, bits): (usize, u64)| {
        let value = if dtype == DType::I32 { i64::from(bits as u32 as i32) } else { bits as i64 };
        usize::try_from(value).ok().filter(|&v| v < bound).ok_or_else(|| {
            let text = format!("`{op}` requires indices in 0..{bound}, got {value} at element {row}");
            Fault::new(Code::IndexOutOfRange, text)
        })
    };
    indices.bits().into_iter().enumerate().map(index).collect()
}

/// Rows of a table picked along axis 0.
pub fn gather(cx: &EvalCx<'_>, inputs: &[&TensorData]) -> Result<TensorData, Fault> {
    let shape = inputs[0].shape();
    let row: usize = shape[1..].iter().product();
    let bits = inputs[0].bits();
    let indices = checked_indices(cx.op.name, inputs[1], shape[0])?;
    let out: Vec<u64> = indices.iter().flat_map(|&i| bits[i * row..(i + 1) * row].iter().copied()).collect();
    Ok(TensorData::from_bits(cx.ty.dtype(), cx.ty.shape(), &out))
}

/// Rows added to zeros along axis 0, in the order of the indices.
pub fn scatter_add(cx: &EvalCx<'_>, inputs: &[&TensorData]) -> Result<TensorData, Fault> {
    let shape = cx.ty.shape();
    let dtype = cx.ty.dtype();
    let row: usize = shape[1..].iter().product();
    let indices = checked_indices(cx.op.name, inputs[1], shape[0])?;
    let updates = inputs[0].bits();
    let mut out = vec![0u64; shape.n_elements()];
    for (k, &i) in indices.iter().enumerate() {
        for j in 0..row {
            let place = &mut out[i * row + j];
            *place = ReduceOp::Sum.combine(dtype, *place, updates[k * row + j]);
        }
    }
    Ok(TensorData::from_bits(dtype, shape, &out))
}

/// The operand, after its values were seen to be finite.
pub fn check_finite(cx: &EvalCx<'_>, inputs: &[&TensorData]) -> Result<TensorData, Fault> {
    match inputs[0].to_f64().into_iter().enumerate().find(|(_, v)| !v.is_finite()) {
        Some((row, value)) => {
            let text = format!("`{}` requires finite values, got {value} at element {row}", cx.op.name);
            Err(Fault::new(Code::NotFinite, text))
        }
        None => Ok(inputs[0].clone()),
    }
}

/// The operand, after its values were checked against the attribute `bound`.
pub fn check_index(cx: &EvalCx<'_>, inputs: &[&TensorData]) -> Result<TensorData, Fault> {
    checked_indices(cx.op.name, inputs[0], cx.attrs.int("bound") as usize)?;
    Ok(inputs[0].clone())
}

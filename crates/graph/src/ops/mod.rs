//! The ops, a family to a file. A file holds the records and the methods of [`crate::Tensor`] that make the nodes;
//! adding an op touches that file alone.

use cotangent_scalar::DType;

use crate::op::{Fault, InferCx, OpDef};
use crate::types::Type;

pub mod activation;
pub mod along;
pub mod arithmetic;
pub mod attention;
pub mod compare;
pub mod conv;
pub mod cumulative;
pub mod dynamic;
pub mod einsum;
pub mod index;
pub mod loss;
pub mod math;
pub mod matmul;
pub mod norm;
pub mod piecewise;
pub mod pool;
pub mod reduce;
pub mod region;
pub mod scan;
pub mod sort;
pub mod source;
pub mod view;
pub mod windows;

/// All built-in ops by family.
pub(crate) static FAMILIES: &[&[&OpDef]] = &[
    source::OPS,
    arithmetic::OPS,
    math::OPS,
    compare::OPS,
    reduce::OPS,
    view::OPS,
    windows::OPS,
    pool::OPS,
    matmul::OPS,
    conv::OPS,
    index::OPS,
    along::OPS,
    dynamic::OPS,
    cumulative::OPS,
    sort::OPS,
    activation::OPS,
    piecewise::OPS,
    norm::OPS,
    loss::OPS,
    attention::OPS,
    region::OPS,
    scan::OPS,
];

/// The operand's type, which must be a float tensor.
pub fn infer_float(cx: &InferCx<'_>) -> Result<Type, Fault> {
    let (dtype, shape) = same(cx)?;
    if !dtype.is_float() {
        let fault = cx.dtype_fault(format_args!("requires floats (f32 or f64), got {dtype}"));
        return Err(fault.help("convert with `cast`"));
    }
    Ok(Type::tensor(dtype, shape))
}

/// The operands' common type, which must be numbers.
pub fn infer_number(cx: &InferCx<'_>) -> Result<Type, Fault> {
    let (dtype, shape) = same(cx)?;
    if dtype == DType::Bool {
        return Err(cx.dtype_fault("requires numbers, got bool").help("convert with `cast`"));
    }
    Ok(Type::tensor(dtype, shape))
}

/// The operands' common type, which must be integers or truth values.
pub fn infer_bits(cx: &InferCx<'_>) -> Result<Type, Fault> {
    let (dtype, shape) = same(cx)?;
    if dtype.is_float() {
        return Err(cx.dtype_fault(format_args!("requires integers or bool, got {dtype}")));
    }
    Ok(Type::tensor(dtype, shape))
}

/// Truth values of the operands' common shape.
pub fn infer_compare(cx: &InferCx<'_>) -> Result<Type, Fault> {
    let (_, shape) = same(cx)?;
    Ok(Type::tensor(DType::Bool, shape))
}

/// The first operand's type, whatever the others are: for ops of one operand, or beside checks of one's own.
pub fn infer_same(cx: &InferCx<'_>) -> Result<Type, Fault> {
    let (dtype, shape) = cx.tensor(0)?;
    Ok(Type::tensor(dtype, shape))
}

/// The element type and shape that all operands have in common.
fn same(cx: &InferCx<'_>) -> Result<(DType, crate::types::Shape), Fault> {
    let (dtype, shape) = cx.tensor(0)?;
    for k in 1..cx.inputs.len() {
        let (other_dtype, other_shape) = cx.tensor(k)?;
        if other_dtype != dtype {
            let text = format_args!("requires operands of one element type, got {dtype} and {other_dtype}");
            return Err(cx.dtype_fault(text).help("nothing is promoted implicitly: convert one of them with `cast`"));
        }
        if other_shape != shape {
            if shape.broadcast(other_shape).is_some() {
                // The builder broadcasts by itself, so this is met in text only.
                let text = format_args!("requires operands of one shape, got {shape} and {other_shape}");
                return Err(cx
                    .shape_fault(text)
                    .help("in the text form broadcasting is an op of its own, `broadcast`"));
            }
            let text = format_args!("requires operands whose shapes broadcast, got {shape} and {other_shape}");
            return Err(cx.shape_fault(text).help("aligned at the last axis, extents must be equal or 1"));
        }
    }
    Ok((dtype, shape.clone()))
}

//! Every scalar operation on every type it is defined for, on all pairs of edge values: as a vector, as a ragged end,
//! with a uniform operand, and from strided memory.

use crate::common::*;
use cotangent_kernel::ir::{Input, Kernel, Phase, Space, Store, Sweep};
use cotangent_scalar::{BodyBuilder, DType, LibmFn, ScalarOp, ValueId};

/// The operation applied to inputs of the given types.
fn build(s: &mut BodyBuilder, op: ScalarOp, a: &[ValueId], to: DType) -> ValueId {
    use ScalarOp::*;
    match op {
        Neg => s.neg(a[0]),
        Abs => s.abs(a[0]),
        Sqrt => s.sqrt(a[0]),
        Floor => s.floor(a[0]),
        Ceil => s.ceil(a[0]),
        Trunc => s.trunc(a[0]),
        RoundEven => s.round_even(a[0]),
        Not => s.not(a[0]),
        Add => s.add(a[0], a[1]),
        Sub => s.sub(a[0], a[1]),
        Mul => s.mul(a[0], a[1]),
        Div => s.div(a[0], a[1]),
        Min => s.min(a[0], a[1]),
        Max => s.max(a[0], a[1]),
        And => s.and(a[0], a[1]),
        Or => s.or(a[0], a[1]),
        Xor => s.xor(a[0], a[1]),
        Shl => s.shl(a[0], a[1]),
        ShrU => s.shr_u(a[0], a[1]),
        ShrS => s.shr_s(a[0], a[1]),
        MulHiU => s.mul_hi_u(a[0], a[1]),
        Eq => s.eq(a[0], a[1]),
        Ne => s.ne(a[0], a[1]),
        Lt => s.lt(a[0], a[1]),
        Le => s.le(a[0], a[1]),
        Select => s.select(a[0], a[1], a[2]),
        Fma => s.fma(a[0], a[1], a[2]),
        Cast => s.cast(a[0], to),
        Bitcast => s.bitcast(a[0], to),
        Call(function) => s.call(function, a),
        Input(_) | Const(_) => a[0],
    }
}

fn operand_types(op: ScalarOp, dtype: DType) -> Vec<Vec<DType>> {
    use ScalarOp::*;
    match op {
        Select => vec![vec![DType::Bool, dtype, dtype]],
        Eq | Ne | Lt | Le if dtype == DType::Bool => DType::ALL.iter().map(|&d| vec![d, d]).collect(),
        Bitcast => {
            let same = |d: &&DType| **d != dtype && d.size_bytes() == dtype.size_bytes();
            DType::ALL.iter().filter(same).map(|&d| vec![d]).collect()
        }
        Cast => DType::ALL.iter().filter(|&&d| d != dtype).map(|&d| vec![d]).collect(),
        _ => vec![vec![dtype; op.n_args()]],
    }
}

/// A kernel of one operation over three (possibly strided) inputs; `uniform` says which has inner stride 0.
fn one_op(op: ScalarOp, types: &[DType], dtype: DType, n: usize, stride: i64, uniform: Option<usize>) -> Kernel {
    let mut s = BodyBuilder::new();
    let inputs: Vec<ValueId> = types.iter().enumerate().map(|(k, &d)| s.input(k as u32, d)).collect();
    let value = build(&mut s, op, &inputs, dtype);
    let (body, roots) = s.finish(&[value]);
    let mut args: Vec<_> = types.iter().map(|&d| arg(d, true, false)).collect();
    args.push(arg(dtype, false, true));
    let loads = (0..types.len()).map(|k| {
        let inner = if uniform == Some(k) { 0 } else { stride };
        Input::Load { arg: id(k), map: map(0, &[if uniform == Some(k) { 1 } else { 0 }, inner]) }
    });
    let store =
        Store { value: roots[0], arg: id(types.len()), map: map(0, &[n as i64 * stride, stride]), stream: false };
    let phase = Phase { space: Space::Full, body, inputs: loads.collect(), stores: vec![store], reduces: vec![] };
    let rows = if uniform.is_some() { 40 } else { 1 };
    kernel(op.name(), Sweep::Elementwise, &[rows, n], args, vec![phase])
}

/// A kernel of the operation with a constant second operand.
fn with_constant(op: ScalarOp, dtype: DType, bits: u64, n: usize) -> Kernel {
    let mut s = BodyBuilder::new();
    let x = s.input(0, dtype);
    let c = s.const_from_bits(bits, dtype);
    let to = if op.is_compare() { DType::Bool } else { dtype };
    let (first, second) = (build(&mut s, op, &[x, c], to), build(&mut s, op, &[c, x], to));
    let (body, roots) = s.finish(&[first, second]);
    let args = vec![arg(dtype, true, false), arg(to, false, true), arg(to, false, true)];
    let stores = (0..2).map(|k| Store { value: roots[k], arg: id(k + 1), map: map(0, &[1]), stream: false }).collect();
    let inputs = vec![Input::Load { arg: id(0), map: map(0, &[1]) }];
    let phase = Phase { space: Space::Full, body, inputs, stores, reduces: vec![] };
    kernel(op.name(), Sweep::Elementwise, &[n], args, vec![phase])
}

fn all_ops() -> Vec<ScalarOp> {
    use ScalarOp::*;
    let mut ops = vec![
        Neg, Abs, Sqrt, Floor, Ceil, Trunc, RoundEven, Not, Add, Sub, Mul, Div, Min, Max, And, Or, Xor, Shl, ShrU,
        ShrS, MulHiU, Eq, Ne, Lt, Le, Select, Fma, Cast, Bitcast,
    ];
    ops.extend(LibmFn::ALL.iter().map(|&f| Call(f)));
    ops
}

#[test]
fn every_op_on_every_type_at_the_edges() {
    let mut cases: Vec<(Kernel, Vec<Vec<u8>>)> = Vec::new();
    let mut n_valid = 0;
    for op in all_ops() {
        for dtype in DType::ALL {
            for types in operand_types(op, dtype) {
                // All tuples of edge values, the first operand's varying fastest; triples are sampled.
                let edges: Vec<Vec<u64>> = types.iter().map(|&d| edge_bits(d)).collect();
                let all: usize = edges.iter().map(Vec::len).product();
                let n = all.min(4099);
                let stride_in_tuples = if all > n { all / n } else { 1 };
                let value = |k: usize, i: usize| {
                    let before: usize = edges[..k].iter().map(Vec::len).product();
                    edges[k][(i * stride_in_tuples / before) % edges[k].len()]
                };
                let whole = one_op(op, &types, dtype, n, 1, None);
                if whole.verify().is_err() {
                    continue;
                }
                n_valid += 1;
                for stride in [1, 2] {
                    let buffers: Vec<Vec<u8>> = (0..types.len())
                        .map(|k| elements(types[k], n * stride, |i| value(k, i / stride)))
                        .chain([elements(dtype, n * stride, |_| 0)])
                        .collect();
                    cases.push((one_op(op, &types, dtype, n, stride as i64, None), buffers));
                }
                for uniform in 0..types.len() {
                    let n = 43;
                    let buffers: Vec<Vec<u8>> = (0..types.len())
                        .map(|k| elements(types[k], n, |i| edges[k][(i * 7 + k) % edges[k].len()]))
                        .chain([elements(dtype, n * 40, |_| 0)])
                        .collect();
                    cases.push((one_op(op, &types, dtype, n, 1, Some(uniform)), buffers));
                }
            }
            if op.n_args() == 2 && !matches!(op, ScalarOp::Call(_)) && with_constant(op, dtype, 1, 1).verify().is_ok() {
                for bits in edge_bits(dtype) {
                    let edges = edge_bits(dtype);
                    let to = if op.is_compare() { DType::Bool } else { dtype };
                    let n = edges.len();
                    let buffers =
                        vec![elements(dtype, n, |i| edges[i]), elements(to, n, |_| 0), elements(to, n, |_| 0)];
                    cases.push((with_constant(op, dtype, bits, n), buffers));
                }
            }
        }
    }
    assert!(n_valid > 150, "only {n_valid} combinations are defined");
    for backend in backends() {
        for (kernel, buffers) in &cases {
            let compiled = backend.compile(&[kernel]).expect("code");
            let code = &compiled.functions()[0];
            let binding: Vec<usize> = (0..buffers.len()).collect();
            let inner = kernel.inner();
            for cols in [0..inner, inner / 2..inner / 2 + 1, 1..inner.min(4), inner.saturating_sub(7)..inner] {
                let found = difference(code, kernel, buffers, &binding, 0..kernel.n_rows(), cols).unwrap_or_default();
                assert!(found.is_empty(), "{}: {found}", compiled.stats(0).made_by);
            }
        }
    }
}

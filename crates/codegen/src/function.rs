//! One kernel to one function: the entry, the loop over rows, and the loops that everything inside is made of.
//!
//! The function's signature is `(ptrs, layout, row0, row1, col0, col1)`; see [`crate::KernelFn`]. Empty rectangles
//! return at once, so extents are nonzero wherever they divide.

use std::collections::HashMap;

use cotangent_kernel::ir::{Kernel, Stride, Sweep};
use cotangent_scalar::{DType, LibmFn, ScalarOp};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::I64;
use cranelift_codegen::ir::{Block, BlockArg, FuncRef, Function, InstBuilder, Value};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

use crate::access::{Access, Accesses, Position, Site, Sites, plain};
use crate::lanes::{Emitter, GROUP, Lanes};
use crate::phase::PhasePlan;

/// The `libm` functions that a kernel calls, with the precision of the call.
pub(crate) fn calls_of(kernel: &Kernel) -> Vec<(LibmFn, DType)> {
    let insts = kernel.phases.iter().flat_map(|p| p.body.insts());
    let mut calls: Vec<(LibmFn, DType)> = insts
        .filter_map(|inst| match inst.op {
            ScalarOp::Call(function) => Some((function, inst.dtype)),
            _ => None,
        })
        .collect();
    calls.sort_unstable();
    calls.dedup();
    calls
}

/// See [`Emitter::loads_apart`].
pub(crate) fn loads_apart(isa: &dyn TargetIsa) -> bool {
    let has_avx = isa.isa_flags().iter().any(|flag| flag.name == "has_avx" && flag.as_bool() == Some(true));
    cfg!(target_arch = "x86_64") && !has_avx
}

/// Fills `function`, whose signature is set, with the code of a verified kernel.
pub(crate) fn translate(
    kernel: &Kernel,
    function: &mut Function,
    context: &mut FunctionBuilderContext,
    calls: HashMap<(LibmFn, DType), FuncRef>,
    isa: &dyn TargetIsa,
) {
    let b = FunctionBuilder::new(function, context);
    let accesses = Accesses::of(kernel);
    let plans: Vec<PhasePlan> =
        kernel.phases.iter().zip(accesses).map(|(phase, a)| PhasePlan::new(kernel, phase, a)).collect();
    let mut emitter = Emitter { b, calls, loads_apart: loads_apart(isa) };
    let entry = emitter.b.create_block();
    emitter.b.append_block_params_for_function_params(entry);
    emitter.b.switch_to_block(entry);
    let p: Vec<Value> = emitter.b.block_params(entry).to_vec();
    let n_slots = kernel.phases.iter().flat_map(|p| &p.reduces).map(|r| r.slot as usize + 1).max().unwrap_or(0);
    let mut nest =
        Nest { e: emitter, kernel, ptrs: p[0], layout: p[1], cols: (p[4], p[5]), results: vec![Vec::new(); n_slots] };
    nest.strips(&plans, p[2], p[3]);
    let mut b = nest.e.b;
    b.ins().return_(&[]);
    b.seal_all_blocks();
    b.finalize(isa.frontend_config());
}

/// The loop nest being emitted.
pub(crate) struct Nest<'k, 'f> {
    pub(crate) e: Emitter<'f>,
    pub(crate) kernel: &'k Kernel,
    ptrs: Value,
    layout: Value,
    /// The inner range asked for.
    pub(crate) cols: (Value, Value),
    /// Results of reductions by slot: one group of equal lanes (`Row`), or one per group of columns.
    pub(crate) results: Vec<Vec<Lanes>>,
}

/// The indices of the current row: its number, and its index along each row dim.
pub(crate) struct RowIndex {
    pub(crate) row: Value,
    pub(crate) dims: Vec<Value>,
}

/// Columns of a strip: a cache line of 4-byte elements.
const STRIP: i64 = 16;

fn args(values: &[Value]) -> Vec<BlockArg> {
    values.iter().map(|&value| value.into()).collect()
}

impl<'k> Nest<'k, '_> {
    /// An integer of the layout.
    pub(crate) fn layout_at(&mut self, position: usize) -> Value {
        self.e.b.ins().load(I64, plain(), self.layout, 8 * position as i32)
    }

    /// An elementwise sweep with accesses across rows goes through strips of columns: the cache lines that a row of a
    /// strip touches are used up by the next rows, before they leave the cache.
    fn strips(&mut self, plans: &[PhasePlan<'k>], row0: Value, row1: Value) {
        let across = |access: &Access| access.arg.is_some() && access.inner == Stride::Any;
        let crosses = |plan: &PhasePlan| {
            plan.accesses.inputs.iter().flatten().any(across) || plan.accesses.stores.iter().any(across)
        };
        let has_rows = self.kernel.n_row_dims() > 0;
        if self.kernel.sweep != Sweep::Elementwise || !has_rows || !plans.iter().any(crosses) {
            self.rows(plans, row0, row1);
            return;
        }
        let (start, end) = self.cols;
        let last = self.e.b.ins().iadd_imm_s(end, -1);
        self.counted(start, last, STRIP, &[], |nest, strip, _| {
            let strip_end = nest.e.b.ins().iadd_imm_s(strip, STRIP);
            let cut = nest.e.b.ins().icmp(IntCC::SignedLessThan, end, strip_end);
            nest.cols = (strip, nest.e.b.ins().select(cut, end, strip_end));
            nest.rows(plans, row0, row1);
            vec![]
        });
    }

    /// The loop over rows. The index along each row dim is carried along like an odometer.
    fn rows(&mut self, plans: &[PhasePlan<'k>], row0: Value, row1: Value) {
        let n_row_dims = self.kernel.n_row_dims();
        let (work, done) = (self.e.b.create_block(), self.e.b.create_block());
        let any_rows = self.e.b.ins().icmp(IntCC::SignedLessThan, row0, row1);
        self.e.b.ins().brif(any_rows, work, &[], done, &[]);
        self.e.b.switch_to_block(work);
        let mut start = vec![];
        if n_row_dims > 1 {
            let mut rest = row0;
            for dim in (0..n_row_dims).rev() {
                let extent = self.layout_at(1 + dim);
                start.push(self.e.b.ins().urem(rest, extent));
                rest = self.e.b.ins().udiv(rest, extent);
            }
            start.reverse();
        }
        let last = self.e.b.ins().iadd_imm_s(row1, -1);
        self.counted(row0, last, 1, &start, |nest, row, indices| {
            let dims = if n_row_dims == 1 { vec![row] } else { indices.to_vec() };
            let index = RowIndex { row, dims };
            match nest.kernel.sweep {
                Sweep::Elementwise | Sweep::Row => nest.row(plans, &index),
                Sweep::Column => nest.columns(plans, &index),
            }
            nest.next_row(indices)
        });
        self.e.b.ins().jump(done, &[]);
        self.e.b.switch_to_block(done);
    }

    fn next_row(&mut self, indices: &[Value]) -> Vec<Value> {
        let mut next = indices.to_vec();
        let mut carry = None;
        for dim in (0..indices.len()).rev() {
            let raised = match carry {
                None => self.e.b.ins().iadd_imm_s(next[dim], 1),
                Some(carry) => self.e.b.ins().iadd(next[dim], carry),
            };
            next[dim] = raised;
            if dim > 0 {
                let extent = self.layout_at(1 + dim);
                let wraps = self.e.b.ins().icmp(IntCC::Equal, raised, extent);
                let zero = self.e.iconst(0);
                next[dim] = self.e.b.ins().select(wraps, zero, raised);
                carry = Some(self.e.b.ins().uextend(I64, wraps));
            }
        }
        next
    }

    /// A loop `for j in (start..=last).step_by(step)` with carried values; returns `j` and those after it.
    pub(crate) fn counted(
        &mut self,
        start: Value,
        last: Value,
        step: i64,
        carried: &[Value],
        body: impl FnOnce(&mut Self, Value, &[Value]) -> Vec<Value>,
    ) -> (Value, Vec<Value>) {
        let block = |nest: &mut Self| {
            let block = nest.e.b.create_block();
            nest.e.b.append_block_param(block, I64);
            for &value in carried {
                let ty = nest.e.b.func.dfg.value_type(value);
                nest.e.b.append_block_param(block, ty);
            }
            block
        };
        let (inside, after) = (block(self), block(self));
        let initial: Vec<Value> = std::iter::once(start).chain(carried.iter().copied()).collect();
        self.branch_if_at_most(start, last, (inside, &initial), (after, &initial));
        self.e.b.switch_to_block(inside);
        let params = self.e.b.block_params(inside).to_vec();
        let results = body(self, params[0], &params[1..]);
        let next = self.e.b.ins().iadd_imm_s(params[0], step);
        let next: Vec<Value> = std::iter::once(next).chain(results).collect();
        self.branch_if_at_most(next[0], last, (inside, &next), (after, &next));
        self.e.b.switch_to_block(after);
        let params = self.e.b.block_params(after).to_vec();
        (params[0], params[1..].to_vec())
    }

    fn branch_if_at_most(&mut self, j: Value, last: Value, yes: (Block, &[Value]), no: (Block, &[Value])) {
        let more = self.e.b.ins().icmp(IntCC::SignedLessThanOrEqual, j, last);
        self.e.b.ins().brif(more, yes.0, &args(yes.1), no.0, &args(no.1));
    }

    /// Covers an inner range: `unroll` groups at a time, then single groups, then the elements that are left.
    pub(crate) fn inner_range(
        &mut self,
        start: Value,
        end: Value,
        unroll: usize,
        body: &mut dyn FnMut(&mut Self, &[Position]),
    ) {
        let mut j = start;
        // After eight groups at a time up to seven would be left.
        let passes: &[usize] = match unroll {
            1 => &[1],
            8 => &[8, 2, 1],
            _ => &[unroll, 1],
        };
        for &n_groups in passes {
            let step = (GROUP * n_groups) as i64;
            let last = self.e.b.ins().iadd_imm_s(end, -step);
            (j, _) = self.counted(j, last, step, &[], |nest, j, _| {
                let positions: Vec<Position> = (0..n_groups).map(|group| Position::Group { j, group }).collect();
                body(nest, &positions);
                vec![]
            });
        }
        let (rest, done) = (self.e.b.create_block(), self.e.b.create_block());
        let any = self.e.b.ins().icmp(IntCC::SignedLessThan, j, end);
        self.e.b.ins().brif(any, rest, &[], done, &[]);
        self.e.b.switch_to_block(rest);
        let position = self.e.partial(j, end);
        body(self, &[position]);
        self.e.b.ins().jump(done, &[]);
        self.e.b.switch_to_block(done);
    }

    /// Where the accesses of a phase stand in a row.
    pub(crate) fn sites(&mut self, accesses: &Accesses, index: &RowIndex) -> Sites {
        let inputs = accesses.inputs.iter().map(|access| access.as_ref().map(|a| self.site(a, index))).collect();
        Sites { inputs, stores: accesses.stores.iter().map(|access| self.site(access, index)).collect() }
    }

    /// What the map at a position of the layout is for a row.
    fn at_row(&mut self, layout: usize, index: &RowIndex) -> Value {
        let mut at = self.layout_at(layout);
        for (dim, &i) in index.dims.iter().enumerate() {
            let stride = self.layout_at(layout + 1 + dim);
            let distance = self.e.b.ins().imul(i, stride);
            at = self.e.b.ins().iadd(at, distance);
        }
        at
    }

    fn site(&mut self, access: &Access, index: &RowIndex) -> Site {
        let n_dims = self.kernel.dims.len();
        let shift = access.arg.map_or(0, |_| access.dtype.size_bytes().trailing_zeros());
        let mut at = self.at_row(access.layout, index);
        for &(clamp, _) in &access.clamps {
            let along = self.at_row(clamp, index);
            let (zero, last) = (self.e.iconst(0), self.layout_at(clamp + 1 + n_dims));
            let along = self.e.b.ins().smin(along, last);
            let along = self.e.b.ins().smax(along, zero);
            let stride = self.layout_at(clamp + 2 + n_dims);
            let distance = self.e.b.ins().imul(along, stride);
            at = self.e.b.ins().iadd(at, distance);
        }
        let scaled = |nest: &mut Self, value: Value| match shift {
            0 => value,
            _ => nest.e.b.ins().ishl_imm_s(value, i64::from(shift)),
        };
        let mut base = scaled(self, at);
        if let Some(arg) = access.arg {
            let start = self.e.b.ins().load(I64, plain(), self.ptrs, 8 * arg as i32);
            base = self.e.b.ins().iadd(start, base);
        }
        let mut stride = |dim: usize| {
            let stride = self.layout_at(access.layout + 1 + dim);
            scaled(self, stride)
        };
        let inner = (access.inner == Stride::Any).then(|| stride(n_dims - 1));
        let step = access.steps.then(|| stride(n_dims - 2));
        Site { base, inner, step }
    }
}

//! A loop around kernels as one function: every iteration calls the kernels of the body, or holds their code, and moves what their
//! arguments point to on.
//!
//! The function's signature is `(table, n)`; see [`crate::LoopFn`]. The table holds the pointers of all calls, one call's arguments
//! side by side, and the addresses of the layouts. It stays in memory, so that a body may have any number of arguments; what
//! moves is moved there at the end of each iteration.
//!
//! A kernel of one element is not called: its code would be a few loads, its body and a store, and all else of a call is longer.

use std::collections::HashMap;

use cotangent_kernel::ir::{Input, Kernel, Sweep};
use cotangent_scalar::{DType, LibmFn};
use cranelift_codegen::ir::types::I64;
use cranelift_codegen::ir::{FuncRef, Function, InstBuilder, Value};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

use crate::access::{Access, Accesses, Position, Site, Sites, plain};
use crate::function::loads_apart;
use crate::lanes::Emitter;
use crate::phase::{Env, PhasePlan, Surroundings};

/// What an iteration does at one point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Runs a kernel, whole.
    Kernel {
        /// Its place in the batch.
        kernel: usize,
        /// Where the table holds the pointers of its arguments, one after the other.
        args: usize,
        /// Where the table holds the address of its layout.
        layout: usize,
    },
    /// Copies bytes between places that are apart.
    Copy {
        /// Where the table holds the address that is read.
        from: usize,
        /// Where the table holds the address that is written.
        to: usize,
        /// How many.
        n_bytes: usize,
    },
}

/// The body of a loop that is to be one function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoopBody {
    /// What an iteration does, in order.
    pub acts: Vec<Act>,
    /// The pointers of the table that change from iteration to iteration, and by how many bytes.
    pub moves: Vec<(usize, i64)>,
    /// Pointers in the table.
    pub n_pointers: usize,
}

/// Whether a kernel is one element, at a place that needs no holding inside.
pub(crate) fn is_inlined(kernel: &Kernel) -> bool {
    let held = |input: &Input| !input.clamps().is_empty() || matches!(input, Input::Carried { .. });
    kernel.sweep == Sweep::Elementwise
        && kernel.dims.iter().all(|&extent| extent == 1)
        && !kernel.phases.iter().flat_map(|phase| &phase.inputs).any(held)
}

/// What code may call: the kernels that are not inlined, by their place in the batch, and functions of `libm`.
#[derive(Default)]
pub(crate) struct Callees {
    pub(crate) kernels: HashMap<usize, FuncRef>,
    pub(crate) libm: HashMap<(LibmFn, DType), FuncRef>,
}

/// Fills `function`, whose signature is set, with the loop around a body of verified kernels.
pub(crate) fn translate(
    body: &LoopBody,
    kernels: &[&Kernel],
    function: &mut Function,
    context: &mut FunctionBuilderContext,
    callees: Callees,
    isa: &dyn TargetIsa,
) {
    let b = FunctionBuilder::new(function, context);
    let mut e = Emitter { b, calls: callees.libm, loads_apart: loads_apart(isa) };
    let (entry, again, done) = (e.b.create_block(), e.b.create_block(), e.b.create_block());
    e.b.append_block_params_for_function_params(entry);
    e.b.append_block_param(again, I64);
    e.b.switch_to_block(entry);
    let (table, n) = (e.b.block_params(entry)[0], e.b.block_params(entry)[1]);
    e.b.ins().brif(n, again, &[n.into()], done, &[]);
    e.b.switch_to_block(again);
    let left = e.b.block_params(again)[0];
    let at = |e: &mut Emitter<'_>, place: usize| e.b.ins().load(I64, plain(), table, 8 * place as i32);
    for act in &body.acts {
        match *act {
            Act::Kernel { kernel: number, args, layout } => match callees.kernels.get(&number) {
                None => inlined(&mut e, kernels[number], table, args),
                Some(&callee) => {
                    let kernel = kernels[number];
                    let args = e.b.ins().iadd_imm_s(table, 8 * args as i64);
                    let layout = at(&mut e, layout);
                    let extents = [0, kernel.n_rows(), 0, kernel.inner()].map(|extent| e.iconst(extent as i64));
                    let all: Vec<Value> = [args, layout].into_iter().chain(extents).collect();
                    e.b.ins().call(callee, &all);
                }
            },
            Act::Copy { from, to, n_bytes } => {
                let (from, to) = (at(&mut e, from), at(&mut e, to));
                e.b.emit_small_memory_copy(isa.frontend_config(), to, from, n_bytes as u64, 1, 1, true, plain());
            }
        }
    }
    for &(place, by) in &body.moves {
        let moved = at(&mut e, place);
        let moved = e.b.ins().iadd_imm_s(moved, by);
        e.b.ins().store(plain(), moved, table, 8 * place as i32);
    }
    let left = e.b.ins().iadd_imm_s(left, -1);
    e.b.ins().brif(left, again, &[left.into()], done, &[]);
    e.b.switch_to_block(done);
    e.b.ins().return_(&[]);
    e.b.seal_all_blocks();
    e.b.finalize(isa.frontend_config());
}

/// The code of a kernel of one element, whose pointers stand in the table from `args` on.
fn inlined(e: &mut Emitter<'_>, kernel: &Kernel, table: Value, args: usize) {
    let layout = kernel.layout();
    let site = |e: &mut Emitter<'_>, access: &Access| {
        // All indices are 0.
        let offset = layout[access.layout];
        let base = match access.arg {
            None => e.iconst(offset),
            Some(arg) => {
                let start = e.b.ins().load(I64, plain(), table, 8 * (args + arg) as i32);
                match offset {
                    0 => start,
                    _ => e.b.ins().iadd_imm_s(start, offset * access.dtype.size_bytes() as i64),
                }
            }
        };
        Site { base, inner: None, step: None }
    };
    for (phase, accesses) in kernel.phases.iter().zip(Accesses::of(kernel)) {
        let plan = PhasePlan::new(kernel, phase, accesses).of_one_element();
        let inputs = plan.accesses.inputs.iter().map(|access| access.as_ref().map(|access| site(e, access))).collect();
        let stores = plan.accesses.stores.iter().map(|access| site(e, access)).collect();
        let sites = Sites { inputs, stores };
        let around = Surroundings { sites: &sites, positions: &[Position::Uniform], results: &[] };
        let mut env = Env::new(&plan);
        e.evaluate(&plan, &mut env, &around, true, |_| true);
        e.store_all(&plan, &env, &around);
    }
}

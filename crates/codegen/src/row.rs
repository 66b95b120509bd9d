//! The phases of one row of an `Elementwise` or a `Row` sweep.
//!
//! A row reduction follows `cotangent_scalar::order` with all 32 virtual lanes (16 of 8-byte types) whatever the
//! extent. That gives the same bits as fewer lanes: surplus lanes hold the identity, and combining with the identity
//! changes no accumulator (a sum that started from +0 is never −0). Surplus lanes of the last group are replaced by
//! the identity for the same reason.
//!
//! Light bodies keep the lanes in registers through the main loop; heavy ones, and phases with several reductions,
//! keep them in a buffer on the stack, where the rest of every row goes too.

use cotangent_kernel::ir::{Input, Reduce, Space, Sweep};
use cotangent_scalar::DType;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I32, I32X4, I64};
use cranelift_codegen::ir::{InstBuilder, StackSlot, StackSlotData, StackSlotKind, Value};
use smallvec::smallvec;

use crate::access::{Access, Position, Site, Sites};
use crate::function::{Nest, RowIndex};
use crate::lanes::{GROUP, Lanes, n_parts};
use crate::phase::{Env, PhasePlan, Surroundings};

/// Bytes of the virtual lanes of one reduction: 32 of 4 bytes or 16 of 8.
const LANE_BYTES: usize = 128;

/// Groups that the lanes of a 4-byte type fill.
const MAIN_GROUPS: usize = 8;

/// A reduction's lanes in the stack buffer.
#[derive(Clone, Copy)]
struct Accumulator {
    reduce: Reduce,
    dtype: DType,
    slot: StackSlot,
}

impl Accumulator {
    /// Groups that the lanes fill.
    fn n_groups(&self) -> usize {
        MAIN_GROUPS / n_parts(self.dtype)
    }

    /// Bytes of a group.
    fn group_bytes(&self) -> usize {
        LANE_BYTES / self.n_groups()
    }
}

impl<'k> Nest<'k, '_> {
    /// All phases for one row.
    pub(crate) fn row(&mut self, plans: &[PhasePlan<'k>], index: &RowIndex) {
        let (start, end) =
            if self.kernel.sweep == Sweep::Row { (self.e.iconst(0), self.inner_of_row(index.row)) } else { self.cols };
        if self.kernel.is_carried() {
            self.start_block(plans, index, (start, end));
        }
        for plan in plans {
            let sites = self.sites(&plan.accesses, index);
            let mut env = Env::new(plan);
            let reduced = self.kernel.sweep == Sweep::Row && plan.phase.space == Space::Reduced;
            let positions = [Position::Uniform];
            let around = Surroundings { sites: &sites, positions: &positions, results: &self.results };
            self.e.evaluate(plan, &mut env, &around, reduced, |level| !level.inner);
            if reduced {
                self.e.store_all(plan, &env, &around);
                continue;
            }
            self.e.hoist_constants(plan, &mut env);
            self.full_phase(plan, &env, &sites, (start, end));
        }
    }

    /// In the first row of a block, puts what rows carry at its start.
    fn start_block(&mut self, plans: &[PhasePlan<'k>], index: &RowIndex, (start, end): (Value, Value)) {
        let (first, done) = (self.e.b.create_block(), self.e.b.create_block());
        let in_block = index.dims[index.dims.len() - 1];
        self.e.b.ins().brif(in_block, done, &[], first, &[]);
        self.e.b.switch_to_block(first);
        for plan in plans {
            let sites = self.sites(&plan.accesses, index);
            let carried: Vec<(&Access, Site, u64)> = plan
                .phase
                .inputs
                .iter()
                .zip(plan.accesses.inputs.iter().zip(&sites.inputs))
                .filter_map(|(input, (access, site))| match input {
                    Input::Carried { start, .. } => Some((access.as_ref()?, (*site)?, *start)),
                    _ => None,
                })
                .collect();
            if carried.is_empty() {
                continue;
            }
            self.inner_range(start, end, 1, &mut |nest, positions| {
                let mut values: Vec<(&Access, Site, Lanes)> = Vec::new();
                for &(access, site, start) in &carried {
                    values.push((access, site, nest.e.constant(start, access.dtype)));
                }
                match positions {
                    [Position::Group { j, group }] => {
                        for (access, site, lanes) in &values {
                            nest.e.store(access, *site, *j, *group, lanes);
                        }
                    }
                    _ => nest.e.store_partial(&values, positions[0]),
                }
            });
        }
        self.e.b.ins().jump(done, &[]);
        self.e.b.switch_to_block(done);
    }

    fn inner_of_row(&mut self, row: Value) -> Value {
        let (total, inner) = (self.layout_at(0), self.layout_at(self.kernel.dims.len()));
        let before = self.e.b.ins().imul(row, inner);
        let left = self.e.b.ins().isub(total, before);
        let full = self.e.b.ins().icmp(IntCC::SignedLessThan, inner, left);
        self.e.b.ins().select(full, inner, left)
    }

    fn full_phase(&mut self, plan: &PhasePlan, env: &Env, sites: &Sites, (start, end): (Value, Value)) {
        let accumulators: Vec<Accumulator> = plan
            .phase
            .reduces
            .iter()
            .map(|&reduce| {
                let data = StackSlotData::new(StackSlotKind::ExplicitSlot, LANE_BYTES as u32, 4);
                let slot = self.e.b.create_sized_stack_slot(data);
                Accumulator { reduce, dtype: plan.phase.body.dtype(reduce.value), slot }
            })
            .collect();
        let mut unroll = plan.unroll();
        let mut start = start;
        match accumulators[..] {
            [acc] if plan.is_light() => {
                start = self.main_loop(plan, env, sites, (start, end), acc);
                unroll = 1;
            }
            _ => {
                for acc in &accumulators {
                    let identity = self.identity(acc);
                    self.store_accumulator(acc, &vec![identity; acc.n_groups()]);
                }
            }
        }
        self.inner_range(start, end, unroll, &mut |nest, positions| {
            let mut env = env.clone();
            let around = Surroundings { sites, positions, results: &nest.results };
            nest.e.evaluate(plan, &mut env, &around, true, |_| true);
            nest.e.store_all(plan, &env, &around);
            for acc in &accumulators {
                nest.accumulate(acc, &env, positions);
            }
        });
        for acc in &accumulators {
            let result = self.halve(acc);
            self.results[acc.reduce.slot as usize] = vec![result];
        }
    }

    fn identity(&mut self, acc: &Accumulator) -> Lanes {
        self.e.constant(acc.reduce.op.identity(acc.dtype), acc.dtype)
    }

    fn store_accumulator(&mut self, acc: &Accumulator, groups: &[Lanes]) {
        let base = self.e.b.ins().stack_addr(I64, acc.slot, 0);
        for (group, lanes) in groups.iter().enumerate() {
            self.e.store_parts(lanes, base, (group * acc.group_bytes()) as i32);
        }
    }

    /// Eight groups per iteration, with the lanes of the only reduction in registers; returns where it stopped.
    fn main_loop(
        &mut self,
        plan: &PhasePlan,
        env: &Env,
        sites: &Sites,
        (start, end): (Value, Value),
        acc: Accumulator,
    ) -> Value {
        let step = (GROUP * MAIN_GROUPS) as i64;
        let last = self.e.b.ins().iadd_imm_s(end, -step);
        let n = n_parts(acc.dtype);
        let identity = self.identity(&acc);
        let initial: Vec<Value> = (0..acc.n_groups()).flat_map(|_| identity.0.to_vec()).collect();
        let unroll = plan.unroll();
        let (j, lanes) = self.counted(start, last, step, &initial, |nest, j, carried| {
            let mut carried = carried.to_vec();
            for first in (0..MAIN_GROUPS).step_by(unroll) {
                let positions: Vec<Position> =
                    (first..first + unroll).map(|group| Position::Group { j, group }).collect();
                let mut env = env.clone();
                let around = Surroundings { sites, positions: &positions, results: &nest.results };
                nest.e.evaluate(plan, &mut env, &around, true, |_| true);
                nest.e.store_all(plan, &env, &around);
                for group in 0..unroll {
                    let Some(value) = env.get(acc.reduce.value, group) else { continue };
                    let value = nest.e.for_accumulator(value, acc.dtype);
                    let at = n * ((first + group) % acc.n_groups());
                    let lanes = Lanes(carried[at..at + n].iter().copied().collect());
                    let combined = nest.e.combine(acc.reduce.op, acc.dtype, &lanes, &value);
                    carried[at..at + n].copy_from_slice(&combined.0);
                }
            }
            carried
        });
        let groups: Vec<Lanes> = lanes.chunks(n).map(|parts| Lanes(parts.iter().copied().collect())).collect();
        self.store_accumulator(&acc, &groups);
        j
    }

    /// Combines the groups in flight with their lanes in the buffer.
    fn accumulate(&mut self, acc: &Accumulator, env: &Env, positions: &[Position]) {
        for (number, &position) in positions.iter().enumerate() {
            let Some(value) = env.get(acc.reduce.value, number) else { continue };
            let mut value = self.e.for_accumulator(value, acc.dtype);
            let (j, group) = match position {
                Position::Group { j, group } => (j, group),
                Position::Partial { j, count, .. } => {
                    value = self.blank_surplus(acc, &value, count);
                    (j, 0)
                }
                Position::Uniform => continue,
            };
            // Groups in flight start at a multiple of their number, so their lanes lie side by side in the buffer.
            let n_lanes = (acc.n_groups() * GROUP) as i64;
            let lane = self.e.b.ins().band_imm_s(j, n_lanes - 1);
            let shift = i64::from((acc.group_bytes() / GROUP).trailing_zeros());
            let byte = self.e.b.ins().ishl_imm_s(lane, shift);
            let base = self.e.b.ins().stack_addr(I64, acc.slot, 0);
            let address = self.e.b.ins().iadd(base, byte);
            let offset = (group * acc.group_bytes()) as i32;
            let old = self.e.load_parts(acc.dtype, address, offset);
            let new = self.e.combine(acc.reduce.op, acc.dtype, &old, &value);
            self.e.store_parts(&new, address, offset);
        }
    }

    /// The identity in all lanes but the first `count`.
    fn blank_surplus(&mut self, acc: &Accumulator, value: &Lanes, count: Value) -> Lanes {
        let count = self.e.b.ins().ireduce(I32, count);
        let counts = self.e.b.ins().splat(I32X4, count);
        let numbers = self.e.words(I32X4, [0, 1, 2, 3]);
        let valid = Lanes(smallvec![self.e.b.ins().icmp(IntCC::SignedGreaterThan, counts, numbers)]);
        let valid = self.e.mask(&valid, n_parts(acc.dtype));
        let identity = self.identity(acc);
        let parts = (0..value.0.len()).map(|part| self.e.blend(valid.0[part], value.0[part], identity.0[part]));
        Lanes(parts.collect())
    }

    /// Combines the lanes by halving: lane `i` with lane `i + L/2`, until one is left; returns it in all lanes.
    fn halve(&mut self, acc: &Accumulator) -> Lanes {
        let (op, dtype) = (acc.reduce.op, acc.dtype);
        let base = self.e.b.ins().stack_addr(I64, acc.slot, 0);
        let mut parts: Vec<Value> =
            (0..LANE_BYTES / 16).map(|part| self.e.load_vector(dtype, base, 16 * part as i32)).collect();
        while parts.len() > 1 {
            let half = parts.len() / 2;
            parts = (0..half)
                .map(|i| {
                    let (low, high) = (Lanes(smallvec![parts[i]]), Lanes(smallvec![parts[i + half]]));
                    self.e.combine(op, dtype, &low, &high).0[0]
                })
                .collect();
        }
        let mut part = parts[0];
        // The high half of the vector, then (for four lanes) the second lane.
        let foldings: &[[u8; 4]] = if n_parts(dtype) == 2 { &[[2, 3, 2, 3]] } else { &[[2, 3, 2, 3], [1, 1, 1, 1]] };
        for &words in foldings {
            let other = self.e.shuffle_words(part, part, words);
            part = self.e.combine(op, dtype, &Lanes(smallvec![part]), &Lanes(smallvec![other])).0[0];
        }
        let first = if n_parts(dtype) == 2 { [0, 1, 0, 1] } else { [0, 0, 0, 0] };
        let result = self.e.shuffle_words(part, part, first);
        Lanes(std::iter::repeat_n(result, n_parts(dtype)).collect())
    }
}

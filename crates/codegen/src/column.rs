//! The phases of a range of columns of a `Column` sweep.
//!
//! A few groups of columns at a time go through all phases; their accumulators and results stay in registers. Along
//! the reduced dim the order is that of `cotangent_scalar::order`: blocks of 64 from the identity, their partials
//! combined in order.

use cotangent_kernel::ir::{Reduce, Space};
use cotangent_scalar::DType;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Value};

use crate::access::{Position, Sites};
use crate::function::{Nest, RowIndex};
use crate::lanes::{Lanes, n_parts};
use crate::phase::{Env, PhasePlan, Surroundings};

impl<'k> Nest<'k, '_> {
    /// All phases for the columns of one row.
    pub(crate) fn columns(&mut self, plans: &[PhasePlan<'k>], index: &RowIndex) {
        let unroll = plans.iter().map(PhasePlan::column_groups).min().unwrap_or(1);
        let prepared: Vec<(&PhasePlan, Sites, Env)> = plans
            .iter()
            .map(|plan| {
                let sites = self.sites(&plan.accesses, index);
                let mut env = Env::new(plan);
                let positions = [Position::Uniform];
                let around = Surroundings { sites: &sites, positions: &positions, results: &self.results };
                self.e.evaluate(plan, &mut env, &around, false, |level| !level.inner && !level.step);
                (plan, sites, env)
            })
            .collect();
        let (start, end) = self.cols;
        self.inner_range(start, end, unroll, &mut |nest, positions| {
            for (plan, sites, env) in &prepared {
                let mut env = env.clone();
                let lazy = plan.phase.space == Space::Reduced;
                let around = Surroundings { sites, positions, results: &nest.results };
                nest.e.evaluate(plan, &mut env, &around, lazy, |level| !level.step);
                if lazy {
                    nest.e.store_all(plan, &env, &around);
                } else {
                    nest.e.hoist_constants(plan, &mut env);
                    nest.steps(plan, &env, sites, positions);
                }
            }
        });
    }

    /// A `Full` phase: all steps along the reduced dim for the columns in flight.
    fn steps(&mut self, plan: &PhasePlan, env: &Env, sites: &Sites, positions: &[Position]) {
        let reduces: Vec<(Reduce, DType)> =
            plan.phase.reduces.iter().map(|&r| (r, plan.phase.body.dtype(r.value))).collect();
        let extent = self.layout_at(self.kernel.dims.len() - 1);
        let zero = self.e.iconst(0);
        let last = self.e.b.ins().iadd_imm_s(extent, -1);
        if reduces.is_empty() {
            self.counted(zero, last, 1, &[], |nest, k, _| {
                nest.step(plan, env, sites, positions, k);
                vec![]
            });
            return;
        }
        let n_groups = positions.len();
        let identities: Vec<Value> = reduces
            .iter()
            .flat_map(|(r, dtype)| {
                let identity = self.e.constant(r.op.identity(*dtype), *dtype);
                std::iter::repeat_n(identity.0.to_vec(), n_groups).flatten()
            })
            .collect();
        let size = plan.phase.block() as i64;
        let (_, totals) = self.counted(zero, last, size, &identities, |nest, block, totals| {
            let block_last = nest.e.b.ins().iadd_imm_s(block, size - 1);
            let cut = nest.e.b.ins().icmp(IntCC::SignedLessThan, last, block_last);
            let block_last = nest.e.b.ins().select(cut, last, block_last);
            let (_, partials) = nest.counted(block, block_last, 1, &identities, |nest, k, partials| {
                let env = nest.step(plan, env, sites, positions, k);
                let values: Vec<Lanes> = reduces
                    .iter()
                    .flat_map(|(r, dtype)| (0..n_groups).map(move |group| (r, *dtype, group)))
                    .filter_map(|(r, dtype, group)| {
                        let value = env.get(r.value, group)?;
                        Some(nest.e.for_accumulator(value, dtype))
                    })
                    .collect();
                let values: Vec<Value> = values.into_iter().flat_map(|lanes| lanes.0).collect();
                nest.combine_all(&reduces, n_groups, partials, &values)
            });
            nest.combine_all(&reduces, n_groups, totals, &partials)
        });
        let mut totals = totals.into_iter();
        for (r, dtype) in &reduces {
            let groups = (0..n_groups).map(|_| Lanes(totals.by_ref().take(n_parts(*dtype)).collect()));
            self.results[r.slot as usize] = groups.collect();
        }
    }

    fn step(&mut self, plan: &PhasePlan, env: &Env, sites: &Sites, positions: &[Position], k: Value) -> Env {
        let mut env = env.clone();
        let sites = Sites {
            inputs: sites.inputs.iter().map(|site| site.map(|site| self.e.site_at_step(site, k))).collect(),
            stores: sites.stores.iter().map(|&site| self.e.site_at_step(site, k)).collect(),
        };
        let around = Surroundings { sites: &sites, positions, results: &self.results };
        self.e.evaluate(plan, &mut env, &around, true, |_| true);
        self.e.store_all(plan, &env, &around);
        env
    }

    /// Accumulators of all reductions and groups, one after another, combined with as many values.
    fn combine_all(
        &mut self,
        reduces: &[(Reduce, DType)],
        n_groups: usize,
        accs: &[Value],
        values: &[Value],
    ) -> Vec<Value> {
        let mut combined = Vec::with_capacity(accs.len());
        for (r, dtype) in reduces {
            for _ in 0..n_groups {
                let range = combined.len()..combined.len() + n_parts(*dtype);
                let acc = Lanes(accs[range.clone()].iter().copied().collect());
                let value = Lanes(values[range].iter().copied().collect());
                combined.extend(self.e.combine(r.op, *dtype, &acc, &value).0);
            }
        }
        combined
    }
}

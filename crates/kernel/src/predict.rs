//! How long the steps of a plan are predicted to take, on one thread: `cotangent explain --measure` prints prediction and
//! measurement of every step side by side.

use crate::cost::CostModel;
use crate::ir::{Kernel, Space};
use crate::plan::{OpStep, Plan, Step};

impl CostModel {
    /// Whether a step that is not loops is long enough to be divided between threads.
    pub fn divides_op(&self, plan: &Plan, step: &Step, op: &OpStep) -> bool {
        let costs = self.target.costs();
        let n_ops = op.how().map_or(0.0, |how| how.n_ops(&op.cx()));
        plan.step_bytes(step) as f64 * costs.split_byte_ns + n_ops * costs.single_ns >= costs.split_ns
    }

    /// The time of a step on one thread, in nanoseconds. `product` is that of its matrix product, if it is one, which depends on
    /// the way that the product goes; of a loop that of all products of all iterations.
    pub fn step_time(&self, plan: &Plan, step: &Step, product: f64) -> f64 {
        let computing: f64 = step.calls().map(|call| self.compute_time(&plan.kernels[call.kernel])).sum();
        let time = match step {
            Step::Product { c, .. } => {
                let finished = step.calls().map(|call| plan.call_bytes(call, Some(*c))).sum::<u64>();
                product + (1.0 - self.hidden) * computing.max(self.bytes_time(finished))
            }
            Step::Op(op) => {
                let n_ops = op.how().map_or(0.0, |how| how.n_ops(&op.cx()));
                self.bytes_time(plan.step_bytes(step)) + n_ops * self.target.costs().single_ns
            }
            Step::Loop(step) => {
                let iteration: f64 = step.body.steps.iter().map(|inner| self.step_time(&step.body, inner, 0.0)).sum();
                product + iteration * step.n as f64
            }
            _ => computing.max(self.bytes_time(plan.step_bytes(step))),
        };
        self.target.costs().step_ns + time
    }

    /// The time of a kernel's operations.
    fn compute_time(&self, kernel: &Kernel) -> f64 {
        let of_phase = |space: Space| match space {
            Space::Full => kernel.total,
            Space::Reduced => kernel.total / kernel.reduced_extent().max(1),
        };
        let element = kernel.args.iter().map(|arg| arg.dtype.size_bytes()).max().unwrap_or(4);
        let phases = kernel.phases.iter();
        phases.map(|p| self.ops_time(p.body.n_ops() + p.reduces.len(), of_phase(p.space), element)).sum()
    }
}

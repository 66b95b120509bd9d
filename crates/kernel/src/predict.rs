//! How long the steps of a plan are predicted to take, on one thread: `cotangent explain --measure` prints prediction and
//! measurement of every step side by side.

use std::collections::HashMap;

use cotangent_scalar::{ScalarOp, ValueId};

use crate::cost::CostModel;
use crate::ir::{IndexMap, Input, Kernel, Phase, Space, Sweep};
use crate::plan::{BufferId, Home, OpStep, Plan, Step};

impl Plan {
    /// Operations on numbers in one step: two for each multiply-add of a product, and those of kernels' bodies for each element.
    pub fn step_flop(&self, step: &Step) -> f64 {
        // A sum of nothing is -0 otherwise.
        let finished = step.calls().fold(0.0, |sum, call| sum + kernel_ops(&self.kernels[call.kernel]));
        match step {
            Step::Product { factors, .. } => 2.0 * factors.multiply_adds() as f64 + finished,
            Step::Op(op) => op.how().map_or(0.0, |how| how.n_ops(&op.cx())),
            Step::Loop(step) => {
                step.n as f64 * step.body.steps.iter().map(|inner| step.body.step_flop(inner)).sum::<f64>()
            }
            _ => finished,
        }
    }

    /// Bytes of an element of what a step computes with.
    fn element_bytes(&self, step: &Step) -> usize {
        match step {
            Step::Product { dtype, .. } => dtype.size_bytes(),
            Step::Op(op) => op.ty.dtype().size_bytes(),
            _ => step.calls().map(|call| element_bytes(&self.kernels[call.kernel])).max().unwrap_or(4),
        }
    }
}

/// Bytes of the widest element of a kernel.
fn element_bytes(kernel: &Kernel) -> usize {
    kernel.args.iter().map(|arg| arg.dtype.size_bytes()).max().unwrap_or(4)
}

/// Elements that a phase runs over.
fn n_elements(kernel: &Kernel, phase: &Phase) -> usize {
    match phase.space {
        Space::Full => kernel.total,
        Space::Reduced => kernel.total / kernel.reduced_extent().max(1),
    }
}

fn kernel_ops(kernel: &Kernel) -> f64 {
    let of_phase = |phase: &Phase| (phase.body.n_ops() + phase.reduces.len()) as f64 * n_elements(kernel, phase) as f64;
    kernel.phases.iter().map(of_phase).sum()
}

/// How often code of a phase runs: operations, in all, and divisions and roots among them. What does not depend on the inner index
/// runs once for each row.
fn runs(kernel: &Kernel, phase: &Phase) -> (f64, f64) {
    /// A call of a function takes as long as so many divisions.
    const CALL: f64 = 30.0;
    let n = n_elements(kernel, phase) as f64;
    let is_row = phase.space == Space::Reduced && kernel.sweep == Sweep::Row;
    let n_outer = if is_row { n } else { n / kernel.inner().max(1) as f64 };
    let moves = |map: &IndexMap| map.strides.last().is_some_and(|stride| *stride != 0);
    let by_input = |input: &Input| match input {
        Input::Reduced(_) => kernel.sweep == Sweep::Column,
        _ => input.map().is_some_and(moves) || input.clamps().iter().any(|clamp| moves(&clamp.map)),
    };
    let mut varies: Vec<bool> = Vec::with_capacity(phase.body.insts().len());
    let (mut ops, mut slow) = (phase.reduces.len() as f64 * n, 0.0);
    for (at, inst) in phase.body.insts().iter().enumerate() {
        let is_varying = match inst.op {
            ScalarOp::Input(k) => phase.inputs.get(k as usize).is_some_and(by_input),
            _ => inst.args.iter().any(|arg| varies.get(arg.index()).copied().unwrap_or(false)),
        };
        varies.push(is_varying);
        let times = if is_varying { n } else { n_outer };
        ops += if phase.body.is_leaf(ValueId(at as u32)) { 0.0 } else { times };
        slow += match inst.op {
            ScalarOp::Div | ScalarOp::Sqrt => times,
            ScalarOp::Call(_) => CALL * times,
            _ => 0.0,
        };
    }
    (ops, slow)
}

/// Elements that are read or written one by one, because those that are neighbors along the inner dim are none in memory.
fn n_strided(kernel: &Kernel) -> f64 {
    let apart = |map: &IndexMap| map.strides.last().is_some_and(|stride| !matches!(stride, 0 | 1));
    let of_phase = |phase: &Phase| {
        let loads = phase.inputs.iter().filter_map(Input::access).map(|(_, map)| map);
        let maps = loads.chain(phase.stores.iter().map(|store| &store.map));
        maps.filter(|map| apart(map)).count() as f64 * n_elements(kernel, phase) as f64
    };
    kernel.phases.iter().filter(|phase| phase.space == Space::Full).map(of_phase).sum()
}

impl CostModel {
    /// The least time of a step on one thread, in nanoseconds: all operations at the rate of multiply-adds, or all bytes at that of
    /// the smallest cache that holds them, whichever takes longer.
    pub fn least_time(&self, plan: &Plan, step: &Step) -> f64 {
        let computing = self.target.flop_time(plan.step_flop(step), plan.element_bytes(step));
        computing.max(self.target.bytes_time(plan.step_bytes(step)))
    }

    /// Whether a step that is not loops is long enough to be divided between threads.
    pub fn divides_op(&self, plan: &Plan, step: &Step, op: &OpStep) -> bool {
        let costs = self.target.costs();
        let n_ops = op.how().map_or(0.0, |how| how.n_ops(&op.cx()));
        plan.step_bytes(step) as f64 * costs.split_byte_ns + n_ops * costs.single_ns >= costs.split_ns
    }

    /// The time of each step of a plan on one thread, in nanoseconds, when the plan is followed again and again. `product` tells that
    /// of the matrix product of a step, which depends on the way that the product goes; of a loop that of all products of all
    /// iterations.
    pub fn step_times(&self, plan: &Plan, product: &dyn Fn(usize) -> f64) -> Vec<f64> {
        let moving = self.moving_times(plan);
        let times = plan.steps.iter().zip(moving).enumerate();
        times
            .map(|(s, (step, moving))| self.target.costs().step_ns + self.time(plan, step, moving, product(s)))
            .collect()
    }

    /// The time of a step beside what every step takes, from that of moving its bytes, what is packed for its product left out, and that
    /// of its product.
    fn time(&self, plan: &Plan, step: &Step, moving: f64, product: f64) -> f64 {
        let computing: f64 = step.calls().map(|call| self.compute_time(&plan.kernels[call.kernel])).sum();
        match step {
            Step::Product { .. } => product + (1.0 - self.hidden) * computing.max(moving),
            Step::Op(op) => {
                let n_ops = op.how().map_or(0.0, |how| how.n_ops(&op.cx()));
                moving + n_ops * self.target.costs().single_ns
            }
            Step::Loop(step) => product + self.step_times(&step.body, &|_| 0.0).iter().sum::<f64>() * step.n as f64,
            _ => computing.max(moving),
        }
    }

    /// For each step the time of moving its bytes, of products those of what finishes them. A byte comes from the smallest cache that
    /// holds all that was touched since its buffer was touched last, in the run before if not in this one.
    fn moving_times(&self, plan: &Plan) -> Vec<f64> {
        // Buffers that take each other's place in the arena are the same memory.
        let place = |id: BufferId| match plan.buffers[id.index()].home {
            Home::Arena { offset } => (true, offset),
            _ => (false, id.index()),
        };
        let mut last: HashMap<(bool, usize), u64> = HashMap::new();
        let (mut times, mut clock) = (Vec::new(), 0);
        for _ in 0..2 {
            times.clear();
            for step in &plan.steps {
                let touched = plan.touched(step);
                let end = clock + touched.iter().map(|(_, n_bytes)| n_bytes).sum::<u64>();
                let factors = match step {
                    Step::Product { factors, c, .. } => [factors.buffers().to_vec(), vec![*c]].concat(),
                    _ => Vec::new(),
                };
                let mut time = 0.0;
                for &(id, n_bytes) in &touched {
                    let since = end - last.get(&place(id)).copied().unwrap_or(0).min(end);
                    if !factors.contains(&id) {
                        time += n_bytes as f64 * self.target.byte_ns(since);
                    }
                }
                last.extend(touched.iter().map(|&(id, _)| (place(id), end)));
                clock = end;
                times.push(time);
            }
        }
        times
    }

    /// The time of a kernel's operations, of what the reduction of a row takes beside its elements, and of elements that lie apart.
    fn compute_time(&self, kernel: &Kernel) -> f64 {
        let (costs, element) = (self.target.costs(), element_bytes(kernel) as f64);
        let each = |phase: &Phase| {
            let (ops, slow) = runs(kernel, phase);
            element * (ops * costs.op_ns + slow * (costs.divide_ns - costs.op_ns).max(0.0))
        };
        let rows = if kernel.sweep == Sweep::Row { kernel.n_rows() * kernel.n_reduces() } else { 0 };
        kernel.phases.iter().map(each).sum::<f64>() + rows as f64 * costs.row_ns + n_strided(kernel) * costs.strided_ns
    }
}

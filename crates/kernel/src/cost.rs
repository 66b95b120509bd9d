//! What things cost: the constants that decisions of the clusterer follow from, in one struct, and the predictions that they
//! make.
//!
//! Times are those of one thread. They need not be right, only to order alternatives as a measurement would:
//! `cotangent explain --measure` prints prediction and measurement of every step side by side.

use crate::ir::{Kernel, Space};
use crate::plan::{Home, Plan, Step};

/// The constants. Change them only with a measurement.
#[derive(Clone, Debug)]
pub struct CostModel {
    /// A scalar operation on an element, nanoseconds per byte of the element: vectors hold fewer of the wide ones.
    pub op_ns: f64,
    /// An operation of a step that computes one element after the other.
    pub single_ns: f64,
    /// An FMA of a matrix product, nanoseconds per byte of an element.
    pub fma_ns: f64,
    /// A byte read from or written to cache, in nanoseconds.
    pub near_byte_ns: f64,
    /// A byte read from or written to memory.
    pub far_byte_ns: f64,
    /// What a step costs beside its elements.
    pub step_ns: f64,
    /// The share of an epilogue's time that disappears behind the FMAs of its product.
    pub hidden: f64,
    /// Bytes that stay in the second-level cache between two sweeps or two steps.
    pub near_bytes: usize,
    /// Two kernels that nothing connects are joined if that saves this share of the shorter one's time.
    pub worth: f64,
    /// Scalar operations of all members of a cluster, times its sweeps, from which on nothing joins it but what is forced; bounds
    /// compile time and register pressure. A value that is recomputed has at most as many.
    pub max_kernel_ops: usize,
    /// Buffers that one kernel may touch.
    pub max_args: usize,
    /// Clusters that a cycle test visits before it gives up and keeps the edge.
    pub max_search: usize,
    /// Scalar operations from which on a value that several sweeps over a row need is kept in memory of the thread instead of
    /// computed in each: a store and a load of a line in the first-level cache.
    pub keep_ops: usize,
    /// Elements of the longest row that is kept so.
    pub keep_row: usize,
    /// Bytes that a step touches from which on what it only writes goes past the caches.
    pub stream_bytes: usize,
    /// Blocks of 64 rows from which on the kernel of a reduction of rows takes reductions of columns along: each block is
    /// one piece of work for a thread.
    pub min_blocks: usize,
}

/// Operands and results that a row kernel is taken to have, of four bytes an element.
const ROW_BYTES: usize = 8 * 4;
/// Bytes of a column that is swept several times, for each row: four operands, a cache line of neighbors each.
const COLUMN_BYTES: usize = 4 * 64;

impl Default for CostModel {
    fn default() -> Self {
        CostModel {
            op_ns: 0.0075,
            single_ns: 1.0,
            fma_ns: 0.0065,
            near_byte_ns: 0.015,
            far_byte_ns: 0.08,
            step_ns: 100.0,
            hidden: 0.5,
            near_bytes: 1 << 20,
            worth: 0.05,
            max_kernel_ops: 600,
            max_args: 40,
            max_search: 4096,
            keep_ops: 10,
            keep_row: 1 << 13,
            stream_bytes: 24 << 20,
            min_blocks: 2,
        }
    }
}

impl CostModel {
    /// Whether a reader that makes a value of so many bytes again, in `n_ops` operations, takes no longer than storing and loading
    /// it, near or far.
    pub fn recomputing_pays(&self, n_ops: usize, n_bytes: usize) -> bool {
        n_ops as f64 * n_bytes as f64 * self.op_ns <= 2.0 * self.bytes_time(n_bytes as u64)
    }

    /// Elements of a row whose operands and results are still near when it is swept again.
    pub fn max_row(&self) -> usize {
        self.near_bytes / ROW_BYTES
    }

    /// Elements of a column, of which a strip of neighbors is swept at once, that are still near when they are swept again.
    pub fn max_column(&self) -> usize {
        self.near_bytes / COLUMN_BYTES
    }

    /// The time of so many operations on each of so many elements.
    pub fn ops_time(&self, n_ops: usize, n_elements: usize, element_bytes: usize) -> f64 {
        n_ops as f64 * n_elements as f64 * element_bytes as f64 * self.op_ns
    }

    /// The time of moving bytes: from and to memory if they are more than what stays near.
    pub fn bytes_time(&self, n_bytes: u64) -> f64 {
        let byte = if n_bytes as usize <= self.near_bytes { self.near_byte_ns } else { self.far_byte_ns };
        n_bytes as f64 * byte
    }

    /// Whether joining two kernels that nothing connects pays: it saves a step, and loading `shared_bytes` once more.
    pub fn joining_pays(&self, shared_bytes: u64, shorter_time: f64) -> bool {
        self.step_ns + self.bytes_time(shared_bytes) >= self.worth * shorter_time
    }

    /// The time of a step on one thread, in nanoseconds.
    pub fn step_time(&self, plan: &Plan, step: &Step) -> f64 {
        let computing: f64 = step.calls().map(|call| self.compute_time(&plan.kernels[call.kernel])).sum();
        let time = match step {
            // The operands of a product are packed and used again: reading them disappears behind the FMAs.
            Step::Gemm { dims, dtype, c, .. } => {
                let products = [dims.batch, dims.m, dims.n, dims.k].iter().map(|&n| n as f64).product::<f64>();
                let fmas = products * dtype.size_bytes() as f64 * self.fma_ns;
                let finished = step.calls().map(|call| plan.call_bytes(call, Some(*c))).sum::<u64>();
                let result = &plan.buffers[c.index()];
                let stored = if result.home == Home::Rows { 0 } else { result.n_bytes() as u64 };
                fmas + (1.0 - self.hidden) * computing.max(self.bytes_time(finished + stored))
            }
            Step::Op(op) => {
                let n_ops = op.how().map_or(0.0, |how| how.n_ops(&op.cx()));
                self.bytes_time(plan.step_bytes(step)) + n_ops * self.single_ns
            }
            _ => computing.max(self.bytes_time(plan.step_bytes(step))),
        };
        self.step_ns + time
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_follow_from_the_constants() {
        let cost = CostModel::default();
        assert!(cost.recomputing_pays(4, 1000) && !cost.recomputing_pays(5, 1000));
        assert!(cost.recomputing_pays(21, 1 << 21) && !cost.recomputing_pays(22, 1 << 21));
        assert_eq!((cost.max_row(), cost.max_column()), (1 << 15, 1 << 12));
        assert!(cost.joining_pays(0, 10.0) && !cost.joining_pays(0, 1e6) && cost.joining_pays(1 << 20, 1e5));
        assert!(cost.bytes_time(1 << 21) > 2.0 * cost.bytes_time(1 << 20));
    }
}

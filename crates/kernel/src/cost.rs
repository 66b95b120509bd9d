//! What decisions of the clusterer follow from: the machine's caches and costs ([`Target`]), limits that are the same
//! everywhere, and the predictions that both make. Those of whole steps are in [`predict`](crate::predict).
//!
//! Times are those of one thread. They need not be right, only to order alternatives as a measurement would.

use cotangent_host::Target;

use crate::ir::Kernel;

/// A machine, and the limits of the clusterer. Change them only with a measurement.
#[derive(Clone, Debug)]
pub struct CostModel {
    /// What the machine's caches hold, and what things cost on it.
    pub target: Target,
    /// The share of an epilogue's time that disappears behind the FMAs of its product.
    pub hidden: f64,
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
    /// Blocks of 64 rows from which on the kernel of a reduction of rows takes reductions of columns along: each block is
    /// one piece of work for a thread.
    pub min_blocks: usize,
}

/// Operands and results that a row kernel is taken to have, of four bytes an element.
const ROW_BYTES: usize = 8 * 4;
/// Bytes of a column that is swept several times, for each row: four operands, a cache line of neighbors each.
const COLUMN_BYTES: usize = 4 * 64;

/// Of [`Target::usual`].
impl Default for CostModel {
    fn default() -> Self {
        CostModel::new(Target::usual())
    }
}

impl CostModel {
    /// For a machine.
    pub fn new(target: Target) -> Self {
        CostModel {
            target,
            hidden: 0.5,
            worth: 0.05,
            max_kernel_ops: 600,
            max_args: 40,
            max_search: 4096,
            keep_ops: 10,
            min_blocks: 2,
        }
    }

    /// Bytes that stay in the second-level cache between two sweeps or two steps.
    fn near_bytes(&self) -> usize {
        self.target.caches().l2
    }

    /// Elements of the longest row of which something is kept from sweep to sweep: four bytes each fill the first-level cache.
    pub fn keep_row(&self) -> usize {
        self.target.caches().l1 / 4
    }

    /// Whether a step that touches so many bytes stores past the caches what it only writes.
    pub fn streams(&self, n_bytes: u64) -> bool {
        n_bytes >= self.target.costs().stream_bytes as u64
    }

    /// Whether a kernel is long enough to be divided between threads.
    pub fn divides(&self, kernel: &Kernel) -> bool {
        let costs = self.target.costs();
        let elements = kernel.dims.iter().map(|&extent| extent as f64).product::<f64>();
        let (n_ops, n_accesses) = (kernel.n_ops() as f64, kernel.accesses().count() as f64);
        elements * (n_ops * costs.split_op_ns + n_accesses * costs.split_access_ns) >= costs.split_ns
    }

    /// Whether a reader that makes a value of so many bytes again, in `n_ops` operations, takes no longer than storing and loading
    /// it, near or far.
    pub fn recomputing_pays(&self, n_ops: usize, n_bytes: usize) -> bool {
        n_ops as f64 * n_bytes as f64 * self.target.costs().op_ns <= 2.0 * self.bytes_time(n_bytes as u64)
    }

    /// Elements of a row whose operands and results are still near when it is swept again.
    pub fn max_row(&self) -> usize {
        self.near_bytes() / ROW_BYTES
    }

    /// Elements of a column, of which a strip of neighbors is swept at once, that are still near when they are swept again.
    pub fn max_column(&self) -> usize {
        self.near_bytes() / COLUMN_BYTES
    }

    /// The time of so many operations on each of so many elements.
    pub fn ops_time(&self, n_ops: usize, n_elements: usize, element_bytes: usize) -> f64 {
        n_ops as f64 * n_elements as f64 * element_bytes as f64 * self.target.costs().op_ns
    }

    /// The time of moving bytes: from and to memory if they are more than what stays near.
    pub fn bytes_time(&self, n_bytes: u64) -> f64 {
        let (costs, is_near) = (self.target.costs(), n_bytes as usize <= self.near_bytes());
        n_bytes as f64 * if is_near { costs.near_byte_ns } else { costs.far_byte_ns }
    }

    /// Whether joining two kernels that nothing connects pays: it saves a step, and loading `shared_bytes` once more.
    pub fn joining_pays(&self, shared_bytes: u64, shorter_time: f64) -> bool {
        self.target.costs().step_ns + self.bytes_time(shared_bytes) >= self.worth * shorter_time
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

//! What decisions of the clusterer follow from: the machine's caches and costs ([`Target`]), limits that are the same
//! everywhere, and the predictions that both make. Those of whole steps are in [`predict`](crate::predict).
//!
//! Times are those of one thread. They need not be right, only to order alternatives as a measurement would.

use cotangent_host::Target;
use cotangent_scalar::order::{COLUMN_BLOCK, FULL_CHUNK};

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

/// Scalar operations that a random number is taken to cost.
pub(crate) const RNG_OPS: usize = 100;
/// Scalar operations that a border is taken to be in the body of its reader.
pub(crate) const BORDER_OPS: usize = 8;
/// Elements of a run beside which a choice by index is little: beside a border, which is not loaded.
pub(crate) const LONG_RUN: usize = 32;
/// The same beside other tensors, all of which are loaded.
pub(crate) const LONG_PART: usize = 64;
/// Tensors that are joined by a choice of their reader at most.
pub(crate) const MOST_JOINED: usize = 4;
/// Elements of a window that is written out at most: one block of the order of column reductions, which lowering relies on.
pub(crate) const MOST_TAPS: usize = COLUMN_BLOCK;
/// Clusters of the same loops, and readers of the same value, that a cluster is tried with as a sibling.
pub(crate) const MAX_SIBLINGS: usize = 4;
/// Where an elementwise kernel's last loop over rows has at most so many, each of [`LONG_ROW`] elements at least, it changes places
/// with a longer one around it: addresses move on by additions within the loop, and are made afresh around it. The phases of
/// strided windows make such loops.
pub(crate) const SHORT_LOOP: usize = 8;
/// Elements of a row that is long: a few lines of cache.
pub(crate) const LONG_ROW: usize = 32;
/// Iterations of a loop that is written out at most.
pub(crate) const MOST_ITERATIONS: usize = 4;

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

    /// Whether `n_readers` that each make a value of so many bytes again, in `n_ops` operations, of `n_leaves` operands of its size
    /// (a row or a column is less than one), take no longer than storing and loading it: in operations, and in operands loaded.
    /// What is made of little costs its readers no loads; only then it counts that memory may be far.
    pub fn recomputing_pays(&self, n_ops: usize, n_bytes: usize, [n_readers, n_leaves]: [f64; 2]) -> bool {
        let n_bytes = if n_readers * n_leaves <= 1.0 { n_bytes } else { 1 };
        let again = n_ops as f64 * n_bytes as f64 * self.target.costs().op_ns;
        again <= 2.0 * self.bytes_time(n_bytes as u64) && n_readers * n_leaves <= n_leaves + 1.0 + n_readers
    }

    /// Whether what is reduced, by loops of these extents (before, of and after the reduced axes), is still in cache when it is
    /// swept again; or is, if it may be as long as it likes. A reduction of everything goes by chunks if it is long, and then its
    /// result comes too late.
    pub fn is_near(&self, [outer, reduced, inner]: [usize; 3], any_length: bool) -> bool {
        let is_chunked = outer == 1 && reduced > FULL_CHUNK;
        let limit = match inner {
            _ if any_length => usize::MAX,
            1 => self.max_row(),
            _ => self.max_column(),
        };
        reduced <= limit && !(inner == 1 && is_chunked)
    }

    /// Whether a kernel of so many operations, those of all sweeps, and so many buffers is too large to be made.
    pub fn is_too_large(&self, n_ops: usize, n_args: usize) -> bool {
        n_ops > self.max_kernel_ops || n_args > self.max_args
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
        assert!(cost.recomputing_pays(4, 1000, [2.0, 0.1]) && !cost.recomputing_pays(5, 1000, [2.0, 0.1]));
        assert!(cost.recomputing_pays(21, 1 << 21, [2.0, 0.1]) && !cost.recomputing_pays(22, 1 << 21, [2.0, 0.1]));
        // Three readers of three operands each would load nine instead of three.
        assert!(cost.recomputing_pays(4, 1 << 21, [2.0, 3.0]) && !cost.recomputing_pays(4, 1000, [3.0, 3.0]));
        assert_eq!((cost.max_row(), cost.max_column()), (1 << 15, 1 << 12));
        assert!(cost.joining_pays(0, 10.0) && !cost.joining_pays(0, 1e6) && cost.joining_pays(1 << 20, 1e5));
        assert!(cost.bytes_time(1 << 21) > 2.0 * cost.bytes_time(1 << 20));
    }
}

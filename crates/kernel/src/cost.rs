//! Every constant that decisions of the clusterer depend on, in one place.

/// The constants. Change them only with a measurement.
#[derive(Clone, Debug)]
pub struct CostModel {
    /// A pointwise value of at most this many scalar operations may be recomputed by each reader instead of stored.
    pub cheap_ops: usize,
    /// Scalar operations that one kernel may hold; bounds compile time and register pressure.
    pub max_ops: usize,
    /// Buffers that one kernel may touch.
    pub max_args: usize,
    /// Clusters that a cycle test visits before it gives up and keeps the edge.
    pub max_search: usize,
    /// Clusters of values of at most this many elements are joined even if they share nothing but their shape.
    pub tiny_elements: usize,
    /// Elements of a row that may be swept several times: its operands and results are to stay in the second-level cache.
    pub max_row: usize,
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
    /// Elements of a column that may be swept several times, a strip of neighboring columns at once.
    pub max_column: usize,
}

impl Default for CostModel {
    fn default() -> Self {
        CostModel {
            cheap_ops: 4,
            max_ops: 600,
            max_args: 40,
            max_search: 4096,
            tiny_elements: 16,
            max_row: 1 << 15,
            max_column: 1 << 12,
            keep_ops: 10,
            keep_row: 1 << 13,
            stream_bytes: 24 << 20,
            min_blocks: 2,
        }
    }
}

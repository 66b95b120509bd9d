//! A topological order of clusters that survives their merging, and the cycle test it makes cheap.
//!
//! Every cluster has a position. A path from one cluster to another passes only through positions between theirs, so the
//! search for one never leaves that window; when two clusters merge, only those reached by the search move (Pearce and
//! Kelly, "A dynamic topological sort algorithm for directed acyclic graphs", 2007).

/// What keeps two clusters from merging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// A path between them through others; the first cluster on it.
    Path(u32),
    /// The search visited too many clusters.
    TooFar,
}

/// The edges between clusters, by root: pushes the neighbors of a cluster.
pub(super) trait Neighbors {
    /// Clusters that read from this one.
    fn readers(&self, root: u32, out: &mut Vec<u32>);
    /// Clusters that this one reads from.
    fn operands(&self, root: u32, out: &mut Vec<u32>);
}

/// Positions of clusters, named by their roots.
pub(super) struct Order {
    position: Vec<u32>,
    /// The number of the last search that visited a cluster.
    visited: Vec<u32>,
    search: u32,
    /// Clusters that one search visits at most.
    limit: usize,
    /// Edges that all searches together may still look at. Once they are used up, a search looks at [`FEW`] clusters.
    left: usize,
}

/// What a search may visit when the others have been long: enough for neighbors to find each other.
const FEW: usize = 64;

impl Order {
    /// The order in which every cluster is one node and nodes are in topological order already. One search visits at most
    /// `limit` clusters; all of them look at a number of edges that is linear in that of nodes, and far more than graphs of
    /// thousands of nodes ask for.
    pub(super) fn new(n_nodes: usize, limit: usize) -> Self {
        let left = limit.saturating_mul(1024).saturating_add(n_nodes.saturating_mul(FEW));
        Order { position: (0..n_nodes as u32).collect(), visited: vec![0; n_nodes], search: 0, limit, left }
    }

    /// The position of a cluster.
    pub(super) fn position(&self, root: u32) -> u32 {
        self.position[root as usize]
    }

    /// Makes room for the merger of two clusters and gives it its position, under the name `root` (one of them), unless
    /// there is a path between them through a third.
    pub(super) fn merge(&mut self, edges: &impl Neighbors, a: u32, b: u32, root: u32) -> Result<(), Obstacle> {
        let (low, high) = if self.position(a) < self.position(b) { (a, b) } else { (b, a) };
        let after = self.search_window(low, high, |c, out| edges.readers(c, out))?;
        let before = self.search_window(high, low, |c, out| edges.operands(c, out))?;
        let sorted = |mut list: Vec<u32>| {
            list.sort_unstable_by_key(|&c| self.position(c));
            list
        };
        let (after, before) = (sorted(after), sorted(before));
        let all = [low, high].into_iter().chain(after.iter().copied()).chain(before.iter().copied());
        let mut pool: Vec<u32> = all.map(|c| self.position(c)).collect();
        pool.sort_unstable();
        // What the merger waits for, the merger, what waits for it: one position is left over.
        for (&c, &position) in before.iter().zip(&pool) {
            self.position[c as usize] = position;
        }
        self.position[root as usize] = pool[before.len()];
        for (&c, &position) in after.iter().zip(&pool[pool.len() - after.len()..]) {
            self.position[c as usize] = position;
        }
        Ok(())
    }

    /// The clusters in the window between `from` and `to` that are reached from `from`, without `to`.
    fn search_window(
        &mut self,
        from: u32,
        to: u32,
        neighbors: impl Fn(u32, &mut Vec<u32>),
    ) -> Result<Vec<u32>, Obstacle> {
        self.search += 1;
        let limit = if self.left == 0 { self.limit.min(FEW) } else { self.limit };
        let (start, end) = (self.position(from), self.position(to));
        let inside = |p: u32| if start < end { p > start && p < end } else { p < start && p > end };
        let mut found: Vec<u32> = Vec::new();
        let mut next: Vec<u32> = Vec::new();
        let mut stack: Vec<u32> = vec![from];
        while let Some(current) = stack.pop() {
            next.clear();
            neighbors(current, &mut next);
            self.left = self.left.saturating_sub(1 + next.len());
            for &c in &next {
                if c == to {
                    // An edge from one to the other is what merging dissolves; a longer path is not.
                    if current != from {
                        return Err(Obstacle::Path(current));
                    }
                } else if self.visited[c as usize] != self.search && inside(self.position(c)) {
                    self.visited[c as usize] = self.search;
                    found.push(c);
                    stack.push(c);
                }
            }
            if found.len() > limit {
                return Err(Obstacle::TooFar);
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clusters of one node each, as edges from operand to reader.
    struct Edges(Vec<(u32, u32)>);

    impl Neighbors for Edges {
        fn readers(&self, root: u32, out: &mut Vec<u32>) {
            out.extend(self.0.iter().filter(|e| e.0 == root).map(|e| e.1));
        }
        fn operands(&self, root: u32, out: &mut Vec<u32>) {
            out.extend(self.0.iter().filter(|e| e.1 == root).map(|e| e.0));
        }
    }

    #[test]
    fn a_path_through_a_third_is_found() {
        let edges = Edges(vec![(0, 1), (1, 2), (0, 2)]);
        assert_eq!(Order::new(3, 10).merge(&edges, 0, 2, 0), Err(Obstacle::Path(1)));
        assert_eq!(Order::new(3, 10).merge(&edges, 0, 1, 0), Ok(()));
    }

    #[test]
    fn the_order_holds_after_a_merger() {
        // 0 → 3 merge; 1 reads 0, 3 reads 2: the merger comes after 2 and before 1.
        let mut edges = Edges(vec![(0, 3), (0, 1), (2, 3)]);
        let mut order = Order::new(4, 10);
        assert_eq!(order.merge(&edges, 0, 3, 0), Ok(()));
        edges.0 = vec![(0, 1), (2, 0)];
        assert!(edges.0.iter().all(|&(a, b)| order.position(a) < order.position(b)));
    }

    /// A chain and its mirror image, each member of which reads one of the chain: what a gradient looks like. No two of a pair can
    /// merge, and every search goes round by the far end.
    #[test]
    fn all_searches_together_are_bounded() {
        struct Mirror {
            n: u32,
            looked_at: std::cell::Cell<usize>,
        }
        impl Neighbors for Mirror {
            fn readers(&self, root: u32, out: &mut Vec<u32>) {
                let mirror = 2 * self.n - 1 - root;
                // The last of them is gone on with first: along the chain.
                out.extend([mirror, root + 1].into_iter().filter(|&r| r > root && r < 2 * self.n));
                self.looked_at.set(self.looked_at.get() + 1);
            }
            fn operands(&self, root: u32, out: &mut Vec<u32>) {
                let mirror = 2 * self.n - 1 - root;
                out.extend([mirror, root.wrapping_sub(1)].into_iter().filter(|&r| r < root));
                self.looked_at.set(self.looked_at.get() + 1);
            }
        }
        let n = 20_000;
        let edges = Mirror { n, looked_at: std::cell::Cell::new(0) };
        let mut order = Order::new(2 * n as usize, 4096);
        let whole = order.left;
        assert!(whole > 4000 * 1000, "graphs of thousands of nodes are searched whole");
        for a in 0..n - 1 {
            assert!(order.merge(&edges, a, 2 * n - 1 - a, a).is_err());
        }
        let looked_at = edges.looked_at.get();
        assert!(looked_at < whole + 2 * FEW * n as usize, "{looked_at}");
    }

    #[test]
    fn long_searches_end() {
        let n = 100;
        let edges = Edges((0..n - 1).map(|i| (i, i + 1)).chain([(0, n)]).collect());
        assert_eq!(Order::new(n as usize + 1, 10).merge(&edges, 0, n, 0), Err(Obstacle::TooFar));
    }
}

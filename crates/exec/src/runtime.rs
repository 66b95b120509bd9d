//! The runtime: the one pool of threads that sessions share.

use std::sync::Arc;

use cotangent_host::Target;
use cotangent_pool::Pool;

/// How many threads a runtime uses. Results have the same bits for any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Threads {
    /// As many as the machine offers.
    All,
    /// This many; 0 counts as 1.
    Exactly(usize),
}

/// Owns the threads. Clones share them.
#[derive(Clone)]
pub struct Runtime {
    pool: Arc<Pool>,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Runtime({} threads)", self.n_threads())
    }
}

impl Runtime {
    /// A runtime with its threads started.
    pub fn new(threads: Threads) -> Self {
        let n = match threads {
            Threads::All => Target::here().cores(),
            Threads::Exactly(n) => n.max(1),
        };
        Runtime { pool: Arc::new(Pool::new(n)) }
    }

    /// The number of threads, the caller's included.
    pub fn n_threads(&self) -> usize {
        self.pool.n_threads()
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }
}

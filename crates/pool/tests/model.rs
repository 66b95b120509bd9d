//! The pool's protocol under a model checker: every order of events, and every value that the memory model lets a load see.
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" cargo test --release -p cotangent-pool --test model --target-dir target/loom
//! ```
//!
//! Parts write to cells that the checker watches, without any order of their own: if the pool did not order a part before what
//! follows the run, or one run before the next, or let two threads run one part, the checker would report a data race; if a
//! caller waited for what never comes, a deadlock. (A worker that nobody wakes is no error: the caller does its parts.) Searches
//! are bounded to 2 or 3 preemptions; `LOOM_MAX_PREEMPTIONS` changes the bound where it is 3.
#![cfg(loom)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use cotangent_pool::Pool;
use loom::cell::UnsafeCell;
use loom::sync::Arc;

/// One cell for each part.
struct Cells(Vec<UnsafeCell<usize>>);

// SAFETY: the checker reports every access that is not ordered; that is what is tested.
unsafe impl Sync for Cells {}
// SAFETY: as above.
unsafe impl Send for Cells {}

impl Cells {
    fn new(n: usize) -> Self {
        Cells((0..n).map(|_| UnsafeCell::new(0)).collect())
    }

    fn add(&self, part: usize) {
        // SAFETY: the checker watches the access.
        self.0[part].with_mut(|cell| unsafe { *cell += 1 });
    }

    /// The sum of all cells; no part runs now.
    fn sum(&self) -> usize {
        // SAFETY: the checker watches the access.
        self.0.iter().map(|cell| cell.with(|cell| unsafe { *cell })).sum()
    }
}

fn model(f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(f);
}

#[test]
fn runs_are_ordered_and_parts_run_once() {
    model(|| {
        let pool = Pool::new(2);
        let cells = Cells::new(3);
        for n_runs in 1..=2 {
            pool.run(3, &|part| cells.add(part));
            assert_eq!(cells.sum(), 3 * n_runs);
        }
    });
}

#[test]
fn a_worker_may_sit_runs_out() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(|| {
        let pool = Pool::new(3);
        let cells = Cells::new(3);
        pool.run(2, &|part| cells.add(part));
        pool.run(3, &|part| cells.add(part));
        assert_eq!(cells.sum(), 5);
    });
}

#[test]
fn a_pool_that_is_not_used_ends() {
    model(|| drop(Pool::new(2)));
}

#[test]
fn a_panic_reaches_the_caller_after_all_parts() {
    model(|| {
        let pool = Pool::new(2);
        let cells = Cells::new(2);
        let run = AssertUnwindSafe(|| {
            pool.run(2, &|part| {
                cells.add(part);
                // Without a message: the checker has many of them.
                std::panic::resume_unwind(Box::new(part));
            });
        });
        assert!(catch_unwind(run).is_err());
        assert_eq!(cells.sum(), 2);
        pool.run(2, &|part| cells.add(part));
        assert_eq!(cells.sum(), 4);
    });
}

#[test]
fn two_callers_share_a_pool() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(|| {
        let pool = Arc::new(Pool::new(2));
        let other = Arc::clone(&pool);
        let second = loom::thread::spawn(move || {
            let cells = Cells::new(2);
            other.run(2, &|part| cells.add(part));
            assert_eq!(cells.sum(), 2);
        });
        let cells = Cells::new(2);
        pool.run(2, &|part| cells.add(part));
        assert_eq!(cells.sum(), 2);
        second.join().unwrap();
    });
}

//! After its first steps, `Session::step` allocates nothing: the arena, the pointers and the workspace are there.
//!
//! An allocator that counts stands in for the system's. The file holds a single test, because a test beside it would be
//! counted too.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use cotangent::prelude::*;
use ndarray::Array;

/// The system's allocator, counting calls.
struct Counting;

static N_CALLS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on to the system's allocator unchanged; counting touches no memory but the counter.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        N_CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract, which is the system's too.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        N_CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as for `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, n_bytes: usize) -> *mut u8 {
        N_CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: `at` came from the system's allocator with this layout, because all calls go there.
        unsafe { System.realloc(at, layout, n_bytes) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as for `realloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const BATCH: usize = 64;

#[test]
fn steps_allocate_nothing() {
    let graph = build(|g| {
        let x = g.input("x", F32, [BATCH, 100]);
        let y = g.input("y", I64, [BATCH]);
        let logits = x.dense("hidden", 256).relu().dropout("drop", 0.2).dense("out", 10);
        let loss = logits.cross_entropy(y).mean();
        g.output("loss", loss);
        g.output("logits", logits);
        g.output("accuracy", logits.accuracy(y));
        g.minimize(loss, Adam::new(1e-3));
    })
    .unwrap();
    let x = Array::from_shape_fn((BATCH, 100), |(i, j)| ((i * 31 + j * 17) % 23) as f32 / 11.0 - 1.0);
    let y = Array::from_shape_fn(BATCH, |i| (i * 7 % 10) as i64);
    for fuse in [true, false] {
        let program = Compiler::new().fuse(fuse).compile(&graph).unwrap();
        let (x_id, y_id) = (program.input_id("x").unwrap(), program.input_id("y").unwrap());
        for n_threads in [1, 2] {
            let runtime = Runtime::new(Threads::Exactly(n_threads));
            let mut session = Session::new(&runtime, program.clone(), Seed(0)).unwrap();
            let mut step = || {
                let results = session.step([(x_id, (&x).into()), (y_id, (&y).into())]).unwrap();
                let sum: f32 = results.view::<f32>("logits").unwrap().iter().sum();
                results.scalar("loss").unwrap() + f64::from(sum)
            };
            (0..3).for_each(|_| assert!(step().is_finite()));
            let before = N_CALLS.load(Ordering::Relaxed);
            for _ in 0..20 {
                assert!(step().is_finite());
            }
            let n_calls = N_CALLS.load(Ordering::Relaxed) - before;
            assert_eq!(n_calls, 0, "allocations in 20 steps, {n_threads} threads, fused: {fuse}");
            // Names are as good as ids.
            let before = N_CALLS.load(Ordering::Relaxed);
            session.step([("x", (&x).into()), ("y", (&y).into())]).unwrap();
            assert_eq!(N_CALLS.load(Ordering::Relaxed), before, "by name, {n_threads} threads, fused: {fuse}");
        }
    }
}

//! Work grows with the graph and not with its square: twice as long a chain makes everything that is done with a graph allocate
//! about twice as many bytes.
//!
//! Bytes are counted in the place of time, which no test may depend on: whoever goes over a graph once for each of its nodes also
//! makes something each time. An allocator that counts stands in for the system's. The file holds a single test, because a test
//! beside it would be counted too.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use cotangent::graph::interp::interpret;
use cotangent::graph::{Env, Registry, text};
use cotangent::prelude::*;
use ndarray::array;

/// The system's allocator, counting bytes.
struct Counting;

static N_BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on to the system's allocator unchanged; counting touches no memory but the counter.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        N_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract, which is the system's too.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        N_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as for `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, n_bytes: usize) -> *mut u8 {
        N_BYTES.fetch_add(n_bytes, Ordering::Relaxed);
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

type Link = for<'g> fn(usize, Tensor<'g>) -> Tensor<'g>;

/// A kind of chain, whether its gradient is taken, and the shorter of the two lengths: where joining clusters is tried at a
/// distance, the bound of that work must be reached.
static CHAINS: &[(&str, bool, usize, Link)] = &[
    ("functions", true, 1000, |k, y| if k % 2 == 0 { y.tanh() } else { y * 1.5 }),
    ("views", true, 1000, |k, y| if k % 2 == 0 { y.t() } else { y.flip([0]) }),
    ("views that need memory", true, 1000, |k, y| match k % 3 {
        0 => y.t(),
        1 => y.reshape([4]).flip([0]),
        _ => y.reshape([2, 2]),
    }),
    ("products", false, 1000, |_, y| y.matmul(y)),
    ("products and functions", true, 3000, |_, y| y.matmul(y).tanh()),
    ("rows", true, 2000, |k, y| if k % 2 == 0 { y.softmax(1) } else { y.tanh() }),
    ("slices", true, 500, |k, y| {
        let rows = y.split(2, 0);
        if k % 2 == 0 { y.builder().concat(&[rows[1], rows[0]], 0) } else { y.tanh() }
    }),
    ("sums", true, 1000, |_, y| y + y),
    ("squares", true, 3000, |_, y| y * y),
];

/// The bytes that each part of the work on a chain of so many links asks for.
fn work(length: usize, gradient: bool, link: Link) -> Vec<(&'static str, usize)> {
    let mut parts = Vec::new();
    let mut before = N_BYTES.load(Ordering::Relaxed);
    let mut part = |name| {
        let now = N_BYTES.load(Ordering::Relaxed);
        parts.push((name, now - std::mem::replace(&mut before, now)));
    };
    let graph = build(|g| {
        let x = g.input("x", F32, [2, 2]);
        let y = (0..length).fold(x, |y, k| link(k, y));
        g.output("y", y);
        if gradient {
            g.output("dx", g.grad(y.sum(), &[x])[0]);
        }
    })
    .unwrap();
    part("build");
    let printed = graph.to_string();
    part("print");
    text::parse(&printed, "chain.ct", &Registry::builtin()).unwrap();
    part("parse");
    let program = Compiler::new().compile(&graph).unwrap();
    part("compile");
    program.explain();
    part("explain");
    program.plan_text();
    part("plan");
    program.dot(StageView::Fused);
    part("dot");
    interpret(program.optimized(), &Env::default().with("x", array![[0.5f32, -0.25], [0.125, 0.75]])).unwrap();
    part("interpret");
    parts
}

#[test]
fn work_is_linear_in_the_length_of_a_chain() {
    let mut wrong = Vec::new();
    for &(name, gradient, length, link) in CHAINS {
        // What is made once, such as tables of rules, is not counted.
        work(10, gradient, link);
        for ((part, once), (_, twice)) in work(length, gradient, link).into_iter().zip(work(2 * length, gradient, link))
        {
            let ratio = twice as f64 / once as f64;
            if ratio > 2.7 {
                wrong.push(format!(
                    "{name}: {part} of {length} links asks for {once} bytes, of twice as many for {ratio:.2} times that"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

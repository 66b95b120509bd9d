//! Memory with guard pages: graphs, products and updates run on memory that ends, or begins, at a page that nobody may touch.
//!
//! Why it exists: an access past the end of an array mostly finds memory of somebody else, and no test fails. Here an allocator
//! gives every larger allocation pages of its own: most end at a forbidden page, every fourth begins behind one, so that a load
//! or store of one element too many ends the process, which then says with which case. Inputs, parameters, arenas, packed
//! panels and the compiler's own tables are all such allocations. (Buffers inside of one arena are next to each other; that
//! they do not overlap and that kernels stay inside of them is what the plan verifier proves.)
//!
//! `COTANGENT_GUARD` sets the number of cases of each kind (60), `COTANGENT_SEED` the first (0):
//! `COTANGENT_GUARD=2000 cargo test --release --test guard`. The values are compared with the interpreter's as well, bit by bit.
#![cfg(target_os = "linux")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use cotangent::exec::{BackendChoice, HostTensor};
use cotangent::graph::interp::interpret_named;
use cotangent::graph::{Env, Graph};
use cotangent::prelude::*;
use cotangent_testkit::{Rng, random};

/// Smaller allocations, of small alignment, are the system's: no kernel works on them, and there are too many.
const LEAST_BYTES: usize = 256;
const PAGE: usize = 4096;

/// Gives allocations pages of their own, beside a forbidden one.
struct Guarding;

static N_GUARDED: AtomicUsize = AtomicUsize::new(0);
/// The case under way, for the message of a process that ends.
static CASE: AtomicU64 = AtomicU64::new(0);

impl Guarding {
    fn is_guarded(layout: Layout) -> bool {
        (layout.size() >= LEAST_BYTES || layout.align() >= 64) && layout.size() > 0 && layout.align() <= PAGE
    }

    /// Bytes of the pages that may be touched.
    fn inner(layout: Layout) -> usize {
        layout.size().next_multiple_of(PAGE)
    }
}

// SAFETY: guarded allocations are mappings of their own, as long as asked for and aligned as asked for: a multiple of the
// alignment, which divides a page, before the end or at the start of a page. Others are the system's. Which of the two an
// allocation is follows from its layout alone.
unsafe impl GlobalAlloc for Guarding {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !Self::is_guarded(layout) {
            // SAFETY: the caller keeps `alloc`'s contract, which is the system's too.
            return unsafe { System.alloc(layout) };
        }
        let inner = Self::inner(layout);
        // SAFETY: a mapping of memory of its own, of which the first and last page are then forbidden.
        unsafe {
            let (private, none) = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, libc::PROT_NONE);
            let start = libc::mmap(null_mut(), inner + 2 * PAGE, none, private, -1, 0);
            if start == libc::MAP_FAILED {
                return null_mut();
            }
            let first = start.cast::<u8>().add(PAGE);
            if libc::mprotect(first.cast(), inner, libc::PROT_READ | libc::PROT_WRITE) != 0 {
                libc::munmap(start, inner + 2 * PAGE);
                return null_mut();
            }
            let n = N_GUARDED.fetch_add(1, Ordering::Relaxed);
            let gap = if n % 4 == 3 { 0 } else { (inner - layout.size()) / layout.align() * layout.align() };
            first.add(gap)
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if Self::is_guarded(layout) {
            // SAFETY: as for `alloc`; fresh mappings are zeroed.
            return unsafe { self.alloc(layout) };
        }
        // SAFETY: as for `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` came from `alloc` with this layout, so it lies in the first of the touchable pages, or is the system's.
        unsafe {
            if Self::is_guarded(layout) {
                let first = at.sub(at as usize % PAGE);
                libc::munmap(first.sub(PAGE).cast(), Self::inner(layout) + 2 * PAGE);
            } else {
                System.dealloc(at, layout);
            }
        }
    }
}

#[global_allocator]
static ALLOCATOR: Guarding = Guarding;

/// Says which case touched a forbidden page.
extern "C" fn on_fault(_: libc::c_int) {
    let mut text = *b"\na forbidden page was touched by case 00000000000000000000\n";
    let mut case = CASE.load(Ordering::Relaxed);
    for digit in text.iter_mut().rev().skip(1).take(20) {
        *digit = b'0' + (case % 10) as u8;
        case /= 10;
    }
    // SAFETY: both may be called in a handler of signals; the text is as long as said.
    unsafe {
        libc::write(2, text.as_ptr().cast(), text.len());
        libc::_exit(139);
    }
}

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Runs one step of a graph on all backends and thread counts, and compares with the interpreter.
fn check(graph: &Graph, env: &Env, runtimes: &[Runtime]) {
    for (fuse, backend) in [(true, BackendChoice::Auto), (true, BackendChoice::Cranelift), (false, BackendChoice::Auto)]
    {
        let program = Compiler::new().fuse(fuse).backend(backend).compile(graph).unwrap();
        let expected = interpret_named(program.optimized(), env);
        for runtime in runtimes {
            let mut session = Session::with_env(runtime, program.clone(), env).unwrap();
            // Arrays of exactly their elements, which the step borrows.
            let inputs: Vec<(&str, HostTensor<'_>)> = program.inputs_of(env);
            let results = match (session.step(inputs), &expected) {
                (Ok(results), Ok(_)) => results,
                (Err(got), Err(expected)) if got.code == expected.code => continue,
                (got, expected) => panic!("got {:?}, expected {:?}", got.err(), expected.as_ref().err()),
            };
            let names: Vec<String> = results.iter().map(|(name, _)| name.to_owned()).collect();
            let value = |name: &String| (name.clone(), results.tensor(name).unwrap());
            let mut got: Vec<_> = names.iter().map(value).collect();
            let updated = |name: &str| (format!("update {name}"), session.store().get(name).unwrap());
            let names: Vec<String> = session.store().iter().map(|(name, _)| name.to_owned()).collect();
            got.extend(names.iter().map(|name| updated(name)));
            for (name, value) in expected.as_ref().unwrap() {
                let found = got.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("`{name}` is missing"));
                assert!(found.1.same_bits(value), "`{name}`:\ngot\n{}\nexpected\n{value}", found.1);
            }
        }
    }
}

/// A product of any shape and layout with an epilogue, or an update of both its operands.
fn product(case: u64) -> Graph {
    let mut rng = Rng::new(case);
    let mut extent = |limit: usize| {
        let edges = [1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 96, 127, 129];
        let near = edges[rng.below(edges.len())];
        if rng.below(4) == 0 { 1 + rng.below(limit) } else { near }
    };
    let (m, k, n) = (extent(300), extent(300), extent(300));
    let ty = if rng.below(3) == 0 { F64 } else { F32 };
    let (a_turned, b_turned) = (rng.below(2) == 0, rng.below(2) == 0);
    let (cut, trained) = (rng.below(4) == 0, rng.below(2) == 0);
    build(|g| {
        let operand = |name: &str, rows: usize, cols: usize, turned: bool| {
            let extra = usize::from(cut);
            let shape = if turned { [cols + extra, rows] } else { [rows + extra, cols] };
            let full = if trained { g.param(name, ty, shape, Init::constant(0.0)) } else { g.input(name, ty, shape) };
            let used = full.slice(&[extra, 0], &shape);
            (full, if turned { used.t() } else { used })
        };
        let (a_full, a) = operand("a", m, k, a_turned);
        let (b_full, b) = operand("b", k, n, b_turned);
        let y = (a.matmul(b) + g.input("bias", ty, [n])).relu();
        g.output("y", y);
        g.output("columns", y.sum_over([0]));
        if trained {
            for (full, d) in [a_full, b_full].into_iter().zip(g.grad((y * y).sum(), &[a_full, b_full])) {
                g.update(full, full - d * 0.01);
            }
        }
    })
    .unwrap()
}

#[test]
fn nothing_is_touched_beside_its_memory() {
    // SAFETY: the handler calls nothing that a handler may not.
    unsafe { libc::signal(libc::SIGSEGV, on_fault as *const () as libc::sighandler_t) };
    let (n, first) = (variable("COTANGENT_GUARD", 60), variable("COTANGENT_SEED", 0));
    let runtimes = [1, 2].map(|n| Runtime::new(Threads::Exactly(n)));
    let start = N_GUARDED.load(Ordering::Relaxed);
    for case in first..first + n {
        CASE.store(case, Ordering::Relaxed);
        let graph = product(case);
        check(&graph, &random::env(&graph, case), &runtimes);
        for training in [0.0, 1.0] {
            let graph = random::graph(case, &random::Options { training, ..random::Options::default() });
            check(&graph, &random::env(&graph, case), &runtimes);
        }
    }
    let guarded = N_GUARDED.load(Ordering::Relaxed) - start;
    println!("{n} products, {} graphs, {guarded} allocations beside forbidden pages", 2 * n);
    assert!(guarded as u64 >= 100 * n, "memory was not guarded");
}

//! Every product equals its definition bit for bit: all sizes, layouts, instruction sets, block sizes, threads.

mod common;
mod convolution;

use common::{Case, LAYOUTS, Layout, Number, Random, Stack, check, isas, target};
use cotangent_gemm::{Blocking, Gemm, Isa, Product, Target, Workspace};
use cotangent_pool::Pool;

/// A random case with extents of `1..=most`.
fn sample(random: &mut Random, most: usize, isa: Isa) -> Case {
    let mut extent = || if random.below(8) == 0 { 1 } else { 1 + random.below(most) };
    let (m, n, k) = (extent(), extent(), extent());
    Case { layouts: [random.pick(&LAYOUTS), random.pick(&LAYOUTS)], ..Case::new(m, n, k, isa) }
}

fn small<T: Number>() {
    let pool = Pool::new(1);
    for isa in isas() {
        let mut random = Random(1);
        let n_cases = if isa == Isa::Portable { 150 } else { 1500 };
        for _ in 0..n_cases {
            let case = sample(&mut random, 70, isa);
            check::<T>(&case, &[&pool], &mut random);
        }
        // Each extent once, and each transpose.
        for extent in 1..=70 {
            let layout = [Layout::RowMajor, Layout::ColMajor];
            let layouts = [random.pick(&layout), random.pick(&layout)];
            let other = 1 + random.below(20);
            for (m, n, k) in
                [(extent, other, 9), (other, extent, 9), (7, other, extent), (1, extent, 5), (extent, 1, 5)]
            {
                check::<T>(&Case { layouts, ..Case::new(m, n, k, isa) }, &[&pool], &mut random);
            }
        }
    }
}

/// All of m, n, k in `1..=most`, each with transposes chosen at random, for every instruction set and both types.
///
/// Seventy cubed take minutes: `COTANGENT_GEMM_CUBE=70` asks for them, and ordinary runs make do with [`small`].
#[test]
fn cube() {
    let most = std::env::var("COTANGENT_GEMM_CUBE").map_or(8, |text| text.parse().expect("the largest extent"));
    let pool = Pool::new(1);
    let mut random = Random(8);
    for isa in isas() {
        for index in 0..most * most * most {
            let (m, n, k) = (1 + index / (most * most), 1 + index / most % most, 1 + index % most);
            let mut layout = || random.pick(&[Layout::RowMajor, Layout::ColMajor]);
            let case = Case { layouts: [layout(), layout()], ..Case::new(m, n, k, isa) };
            check::<f32>(&case, &[&pool], &mut random);
            check::<f64>(&case, &[&pool], &mut random);
        }
    }
}

/// Few rows times a B whose K dimension is the contiguous one, which kernels transpose in registers: whole blocks and
/// remainders of them in n and k, rows of all counts, over several K blocks.
fn transposed_in_registers<T: Number>() {
    let pools = [Pool::new(1), Pool::new(2)];
    let pools = [&pools[0], &pools[1]];
    let mut random = Random(9);
    for isa in isas() {
        for m in 1..=13 {
            for (n, k) in [(16, 16), (31, 15), (33, 17), (48, 130), (100, 47), (8, 8), (700, 300)] {
                if isa == Isa::Portable && n * k > 5000 {
                    continue;
                }
                let layouts = [random.pick(&LAYOUTS), Layout::ColMajor];
                let blocking = (random.below(3) == 0).then_some(Blocking { mc: 16, kc: 20, nc: 64 });
                let case = Case { layouts, blocking, ..Case::new(m, n, k, isa) };
                check::<T>(&case, &pools, &mut random);
            }
        }
    }
}

#[test]
fn transposed_in_registers_f32() {
    transposed_in_registers::<f32>();
}

#[test]
fn transposed_in_registers_f64() {
    transposed_in_registers::<f64>();
}

/// Products with a vector: all extents up to seventy in every layout, some longer ones on several threads, batches.
fn vectors<T: Number>() {
    let pools = [Pool::new(1), Pool::new(3)];
    let pools = [&pools[0], &pools[1]];
    let mut random = Random(10);
    for isa in isas() {
        let step = if isa == Isa::Portable { 9 } else { 1 };
        for long in (1..=70).step_by(step) {
            for k in (0..=70).step_by(step) {
                for (m, n) in [(1, long), (long, 1)] {
                    let layouts = [random.pick(&LAYOUTS), random.pick(&LAYOUTS)];
                    let blocking =
                        (random.below(3) == 0).then(|| Blocking { mc: random.below(40), kc: 1, nc: random.below(40) });
                    let case = Case { layouts, blocking, ..Case::new(m, n, k, isa) };
                    check::<T>(&case, &pools[..1], &mut random);
                }
            }
        }
        for (long, k) in [(1031, 555), (333, 1777), (4099, 70), (1, 9001), (70, 5003), (16385, 33)] {
            if isa == Isa::Portable && long > 1000 {
                continue;
            }
            for layout in LAYOUTS {
                for (m, n) in [(1, long), (long, 1)] {
                    let layouts = [if m == 1 { random.pick(&LAYOUTS) } else { layout }, layout];
                    let (count, broadcast) =
                        if long < 400 { (3, [random.below(2) == 0, false]) } else { (1, [false; 2]) };
                    let case = Case { layouts, count, broadcast, ..Case::new(m, n, k, isa) };
                    check::<T>(&case, &pools, &mut random);
                }
            }
        }
    }
}

#[test]
fn vectors_f32() {
    vectors::<f32>();
}

#[test]
fn vectors_f64() {
    vectors::<f64>();
}

/// Products that underflow to zeros of both signs: what pads lanes and ends must not change them.
#[test]
fn zeros_keep_their_signs() {
    let pool = Pool::new(1);
    let mut random = Random(11);
    for isa in isas() {
        for k in 1..=40 {
            for (m, n) in [(1, 1), (1, 19), (19, 1), (3, 19)] {
                for (layout_a, layout_b) in [
                    (Layout::RowMajor, Layout::RowMajor),
                    (Layout::ColMajor, Layout::ColMajor),
                    (Layout::BothGaps, Layout::BothGaps),
                ] {
                    let mut value = || random.pick(&[1e-30_f32, -1e-30, -1e-30]);
                    let a = Stack::new(layout_a, 1, m, k, &mut value);
                    let b = Stack::new(layout_b, 1, k, n, || 1e-30);
                    let expected = common::reference(&a, &b, 1);
                    let mut c = vec![f32::NAN; m * n];
                    let product = Product { a: a.strides(), b: b.strides(), ..Product::new(m, n, k) };
                    let gemm = Gemm::new(product, &target(isa)).unwrap();
                    let workspace = &mut Workspace::new();
                    // SAFETY: the stacks outlive the call and are distinct; the CPU has the instruction set.
                    unsafe { gemm.run(&pool, [a.ptr(), b.ptr()], c.as_mut_ptr(), None, workspace) };
                    for (found, expected) in c.iter().zip(&expected) {
                        assert_eq!(found.bits(), expected.bits(), "{found} {expected} {m}x{k}.{k}x{n} {layout_a:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn small_f32() {
    small::<f32>();
}

#[test]
fn small_f64() {
    small::<f64>();
}

/// Blocks of a few rows and columns, so that small products have many, under all layouts.
fn small_blocks<T: Number>() {
    let pools = [Pool::new(1), Pool::new(3)];
    let pools = [&pools[0], &pools[1]];
    for isa in isas() {
        let mut random = Random(2);
        let n_cases = if isa == Isa::Portable { 20 } else { 200 };
        for _ in 0..n_cases {
            let blocking = Blocking { mc: random.below(40), kc: random.below(20), nc: random.below(60) };
            let case = Case { blocking: Some(blocking), ..sample(&mut random, 130, isa) };
            check::<T>(&case, &pools, &mut random);
        }
    }
}

#[test]
fn small_blocks_f32() {
    small_blocks::<f32>();
}

#[test]
fn small_blocks_f64() {
    small_blocks::<f64>();
}

/// Sizes that several threads share, the same bits for one to four of them.
fn threads<T: Number>() {
    let pools: Vec<Pool> = (1..=4).map(Pool::new).collect();
    let pools: Vec<&Pool> = pools.iter().collect();
    let mut random = Random(3);
    let shapes = [
        (131, 257, 391),
        (1, 4099, 300),
        (4099, 1, 300),
        (2, 3000, 200),
        (3001, 10, 60),
        (10, 3001, 60),
        (23, 700, 130),
        (700, 23, 130),
        (1200, 90, 40),
        // Few steps of K or few rows, with rows of B that share cache sets and with others.
        (40, 1024, 7),
        (203, 700, 16),
        (1000, 130, 1),
        (3, 1024, 70),
        (6, 1060, 300),
        // Pieces of B in place, and one whose rows share cache sets.
        (33, 130, 500),
        (128, 203, 75),
        (40, 256, 70),
    ];
    for isa in isas().into_iter().filter(|&isa| isa != Isa::Portable) {
        for (m, n, k) in shapes {
            for index in 0..4 {
                let plain = [Layout::RowMajor, Layout::ColMajor];
                let layouts = [plain[index & 1], plain[index >> 1]];
                let blocking = (random.below(3) == 0).then_some(Blocking { mc: 48, kc: 64, nc: 256 });
                let case = Case { layouts, blocking, ..Case::new(m, n, k, isa) };
                check::<T>(&case, &pools, &mut random);
            }
        }
    }
    // The portable kernels drive the same loops; one shape shows that they fit.
    check::<T>(&Case::new(131, 67, 91, Isa::Portable), &pools, &mut random);
}

#[test]
fn threads_f32() {
    threads::<f32>();
}

#[test]
fn threads_f64() {
    threads::<f64>();
}

#[test]
fn large_and_odd() {
    let pools = [Pool::new(1), Pool::new(2)];
    let mut random = Random(4);
    let case = Case::new(385, 1031, 517, Target::here().isa());
    check::<f32>(&case, &[&pools[0], &pools[1]], &mut random);
    // Higher than one block of rows, so that threads share a packed block of B.
    let case = Case::new(1537, 203, 301, Target::here().isa());
    check::<f32>(&case, &[&pools[0], &pools[1]], &mut random);
    check::<f64>(&case, &[&pools[1]], &mut random);
}

#[test]
fn batches() {
    let pools = [Pool::new(1), Pool::new(2), Pool::new(4)];
    let pools = [&pools[0], &pools[1], &pools[2]];
    let mut random = Random(5);
    for isa in isas() {
        let n_cases = if isa == Isa::Portable { 8 } else { 60 };
        for index in 0..n_cases {
            let broadcast = [index % 3 == 1, index % 3 == 2];
            let count = random.below(9);
            let case = Case { count, broadcast, ..sample(&mut random, 60, isa) };
            check::<f32>(&case, &pools, &mut random);
            check::<f64>(&case, &pools, &mut random);
        }
    }
    // Enough work for threads: more products than threads, and fewer.
    for count in [3, 40] {
        for broadcast in [[false, false], [true, false], [false, true]] {
            let layouts = [Layout::RowMajor, Layout::ColMajor];
            let case = Case { count, broadcast, layouts, ..Case::new(70, 60, 90, Target::here().isa()) };
            check::<f32>(&case, &pools, &mut random);
            let case = Case { blocking: Some(Blocking { mc: 16, kc: 32, nc: 32 }), ..case };
            check::<f64>(&case, &pools, &mut random);
        }
    }
}

#[test]
fn empty_extents() {
    let pool = Pool::new(2);
    let mut random = Random(6);
    for isa in isas() {
        for (m, n) in [(0, 5), (5, 0), (0, 0), (1, 1), (3, 40), (40, 1), (130, 70)] {
            for k in [0, 1] {
                check::<f32>(&Case::new(m, n, k, isa), &[&pool], &mut random);
                check::<f64>(&Case::new(m, n, k, isa), &[&pool], &mut random);
            }
        }
    }
}

#[test]
fn infinities_and_nans_go_where_they_should() {
    let pool = Pool::new(1);
    for isa in isas() {
        for (index, (m, n, k)) in
            [(5, 7, 3), (40, 50, 70), (1, 33, 20), (33, 1, 20), (1, 33, 99), (33, 1, 99), (1, 1, 70), (100, 120, 110)]
                .into_iter()
                .enumerate()
        {
            let mut random = Random(7 + index as u64);
            let layouts = [[Layout::RowMajor, Layout::ColMajor], [Layout::ColMajor, Layout::RowMajor]][index % 2];
            let specials = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, f32::MAX, f32::MIN_POSITIVE / 8.0];
            let mut value = || if random.below(9) == 0 { random.pick(&specials) } else { common::value(&mut random) };
            let a = Stack::new(layouts[0], 1, m, k, &mut value);
            let b = Stack::new(layouts[1], 1, k, n, &mut value);
            let expected = common::reference(&a, &b, 1);
            let mut c = vec![0.0; m * n];
            let product = Product { a: a.strides(), b: b.strides(), ..Product::new(m, n, k) };
            let gemm = Gemm::new(product, &target(isa)).unwrap();
            // SAFETY: the stacks outlive the call and are distinct; the CPU has the instruction set.
            unsafe { gemm.run(&pool, [a.ptr(), b.ptr()], c.as_mut_ptr(), None, &mut Workspace::new()) };
            for (found, expected) in c.iter().zip(&expected) {
                assert_eq!(found.bits(), expected.bits(), "{found} {expected}");
            }
        }
    }
}

#[test]
fn a_panicking_epilogue_reaches_the_caller() {
    let pool = Pool::new(2);
    let (a, b) = (vec![1.0_f32; 200 * 200], vec![1.0_f32; 200 * 200]);
    let mut c = vec![0.0_f32; 200 * 200];
    let gemm = Gemm::<f32>::new(Product::new(200, 200, 200), Target::here()).unwrap();
    let (operands, to) = ([a.as_ptr(), b.as_ptr()], c.as_mut_ptr());
    let epilogue = |_, _, _, _| std::panic::resume_unwind(Box::new(1));
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        // SAFETY: the vectors outlive the call and are distinct; the target is this machine.
        unsafe { gemm.run(&pool, operands, to, Some(&epilogue), &mut Workspace::new()) }
    }));
    assert!(result.is_err());
    // SAFETY: as above.
    unsafe { gemm.run(&pool, operands, to, None, &mut Workspace::new()) };
    assert!(c.iter().all(|&c| c == 200.0));
}

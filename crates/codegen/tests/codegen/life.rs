//! The life of compiled code: equal kernels share it, and its memory is returned.

use cotangent_codegen::{Backend, CraneliftBackend, KernelFn, Options};
use cotangent_kernel::ir::{Input, Kernel, Phase, Reduce, Space, Store, Sweep};
use cotangent_scalar::{BodyBuilder, DType, ReduceOp, ValueId};

use crate::common::*;

/// `out = x · factor + 1` over `n` elements with the given offset.
fn scaled(n: usize, factor: f64, offset: i64) -> Kernel {
    let mut s = BodyBuilder::new();
    let x = s.input(0, DType::F32);
    let (a, b) = (s.like(factor, x), s.like(1.0, x));
    let scaled = s.mul(x, a);
    let value = s.add(scaled, b);
    let (body, roots) = s.finish(&[value]);
    let inputs = vec![Input::Load { arg: id(0), map: map(offset, &[1]) }];
    let stores = vec![Store { value: roots[0], arg: id(1), map: map(offset, &[1]), stream: false }];
    let phase = Phase { space: Space::Full, body, inputs, stores, reduces: vec![] };
    let args = vec![arg(DType::F32, true, false), arg(DType::F32, false, true)];
    kernel("scaled", Sweep::Elementwise, &[n], args, vec![phase])
}

#[test]
fn equal_keys_share_code() {
    let kernels = [scaled(100, 2.0, 0), scaled(7, 2.0, 3), scaled(100, 3.0, 0)];
    let backend = CraneliftBackend::new(Options { keep_clif: true, ..Options::default() }).expect("a code generator");
    let compiled = backend.compile(&kernels.each_ref()).expect("code");
    assert_eq!(compiled.n_distinct(), 2);
    let [a, b, c] = compiled.functions() else { panic!("three handles") };
    assert!(a.same_code(b) && !a.same_code(c));
    assert!(compiled.stats(0).clif.as_ref().is_some_and(|text| text.contains("f32x4")));
    assert!(compiled.code_bytes() > 0 && compiled.stats(2).code_bytes > 0);
    for (kernel, code) in kernels.iter().zip(compiled.functions()) {
        let buffers = vec![elements(DType::F32, 128, |i| i as u64 * 0x0100_0001); 2];
        assert_eq!(difference(code, kernel, &buffers, &[0, 1], 0..1, 0..kernel.inner()), None);
        assert_eq!(difference(code, kernel, &buffers, &[0, 0], 0..1, 0..kernel.inner()), None);
    }
}

#[test]
fn handles_keep_code_alive_and_cross_threads() {
    fn is_shareable<T: Send + Sync>() {}
    is_shareable::<KernelFn>();
    is_shareable::<cotangent_codegen::Compiled>();
    let kernel = scaled(33, 5.0, 0);
    let code = compile(&[&kernel]).functions()[0].clone();
    let buffers = vec![elements(DType::F32, 33, |i| i as u64); 2];
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| assert_eq!(difference(&code, &kernel, &buffers, &[0, 1], 0..1, 0..33), None));
        }
    });
}

/// Lines of the process's memory map, where the system has one.
fn n_mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps").map_or(0, |text| text.lines().count())
}

#[test]
fn dropped_code_returns_its_memory() {
    let backend = CraneliftBackend::host().expect("a code generator");
    let kernel = scaled(10, 2.0, 0);
    let run = |n: usize| {
        for _ in 0..n {
            let compiled = backend.compile(&[&kernel]).expect("code");
            assert_eq!(compiled.n_distinct(), 1);
        }
    };
    run(50);
    let before = n_mappings();
    run(1000);
    let after = n_mappings();
    // Other tests of this process come and go, but a leak would add a mapping or more per module.
    assert!(after < before + 200, "{before} mappings before, {after} after a thousand modules");
}

/// The sums of `n` multiples of a row: a frame that holds the lanes of all sums, which are touched from its far end on.
fn crowded(n: usize) -> Kernel {
    let mut s = BodyBuilder::new();
    let x = s.input(0, DType::F32);
    let multiples: Vec<_> = (0..n)
        .map(|k| {
            let c = s.like(1.0 + k as f64 / 1024.0, x);
            s.mul(x, c)
        })
        .collect();
    let (body, roots) = s.finish(&multiples);
    let inputs = vec![Input::Load { arg: id(0), map: map(0, &[1]) }];
    let reduce = |(k, &value): (usize, &ValueId)| Reduce { value, op: ReduceOp::Sum, slot: k as u32, chain: false };
    let reduces = roots.iter().enumerate().map(reduce).collect();
    let sums = Phase { space: Space::Full, body, inputs, stores: vec![], reduces };
    let mut s = BodyBuilder::new();
    let mut sum = s.input(0, DType::F32);
    for k in 1..n {
        let next = s.input(k as u32, DType::F32);
        sum = s.add(sum, next);
    }
    let (body, roots) = s.finish(&[sum]);
    let stores = vec![Store { value: roots[0], arg: id(1), map: map(0, &[0]), stream: false }];
    let inputs = (0..n as u32).map(Input::Reduced).collect();
    let total = Phase { space: Space::Reduced, body, inputs, stores, reduces: vec![] };
    let args = vec![arg(DType::F32, true, false), arg(DType::F32, false, true)];
    kernel("crowded", Sweep::Row, &[13], args, vec![sums, total])
}

/// Runs a crowded kernel of Cranelift's on a thread with so many bytes of stack.
fn run_crowded(n: usize, stack: usize) {
    let kernel = crowded(n);
    assert_eq!(kernel.verify(), Ok(()));
    let compiled = CraneliftBackend::host().expect("a code generator").compile(&[&kernel]).expect("code");
    let code = compiled.functions()[0].clone();
    let mut buffers = vec![elements(DType::F32, 13, |i| u64::from((i as f32 - 6.5).to_bits())); 2];
    let mut expected = buffers.clone();
    interpret(&kernel, &mut expected, &[0, 1], 0..1, 0..13);
    let run = move || {
        call(&code, &kernel, &mut buffers, &[0, 1], 0..1, 0..13);
        assert!(buffers == expected);
    };
    std::thread::Builder::new().stack_size(stack).spawn(run).expect("a thread").join().expect("the same bits");
}

#[test]
fn large_frames_compute_what_small_ones_do() {
    run_crowded(600, 2 << 20);
}

/// A frame that the stack has no room for ends at the guard page, as any overflow does, and not in other memory behind it.
#[cfg(target_os = "linux")]
#[test]
fn frames_larger_than_the_stack_touch_its_guard_page() {
    use std::os::unix::process::ExitStatusExt;
    const RUN: &str = "COTANGENT_TEST_RUN";
    if std::env::var_os(RUN).is_some() {
        run_crowded(1200, 32 << 10);
        return;
    }
    let program = std::env::current_exe().expect("this test");
    let name = "life::frames_larger_than_the_stack_touch_its_guard_page";
    let mut child = std::process::Command::new(program);
    let child = child.args([name, "--exact", "--nocapture"]).env(RUN, "crowded").output().expect("a child");
    let said = String::from_utf8_lossy(&child.stderr).into_owned();
    assert_eq!(child.status.signal(), Some(6), "{said}");
    assert!(said.contains("has overflowed its stack"), "{said}");
}

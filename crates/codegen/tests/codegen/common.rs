//! What the tests of this crate share: a random number generator, memory for kernels, and the comparison of machine
//! code with the interpreter, bit for bit (any NaN equals any NaN).

use std::ops::Range;

use cotangent_codegen::{Backend, Compiled, CraneliftBackend, KernelFn, Options, WideBackend};
use cotangent_host::{Isa, Target};
use cotangent_kernel::interp::{self, Place};
use cotangent_kernel::ir::{Arg, ArgId, IndexMap, Kernel, Sweep};
use cotangent_scalar::DType;
use smallvec::SmallVec;

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n.max(1) as u64) as usize
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of a slice's items.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }
}

/// Values at which rounding, signs, conversions and comparisons are decided.
pub fn edge_bits(dtype: DType) -> Vec<u64> {
    match dtype {
        DType::F32 => {
            let mut bits: Vec<u32> = vec![0, 1, 0x007f_ffff, 0x0080_0000, 0x7f7f_ffff, 0x7f80_0000, 0x7fc0_0000];
            let values = [
                0.5f32,
                1.0,
                1.5,
                2.5,
                3.0,
                0.1,
                1e-3,
                100.25,
                254.9,
                255.0,
                256.0,
                1e9,
                2147483500.0,
                2147483648.0,
                8388608.5,
                9.2e18,
                9223372036854775808.0,
                1e30,
            ];
            bits.extend(values.map(f32::to_bits));
            bits.iter().flat_map(|&b| [u64::from(b), u64::from(b | 0x8000_0000)]).collect()
        }
        DType::F64 => {
            let mut bits: Vec<u64> =
                vec![0, 1, 0x000f_ffff_ffff_ffff, 0x7fef_ffff_ffff_ffff, 0x7ff0 << 48, 0x7ff8 << 48];
            let values = [
                0.5f64,
                1.0,
                1.5,
                2.5,
                3.0,
                0.1,
                1e-3,
                255.5,
                256.0,
                2147483647.0,
                2147483647.5,
                2147483648.0,
                1e10,
                4503599627370496.5,
                9.2e18,
                9223372036854775808.0,
                1e39,
                1e300,
                1e-310,
            ];
            bits.extend(values.map(f64::to_bits));
            bits.iter().flat_map(|&b| [b, b | 1 << 63]).collect()
        }
        DType::I32 => [0i32, 1, 2, 3, 7, 31, 32, 33, 255, 256, 65536, 16777217, i32::MAX, i32::MIN, i32::MIN + 1]
            .iter()
            .flat_map(|&v| [u64::from(v as u32), u64::from(v.wrapping_neg() as u32)])
            .collect(),
        DType::I64 => {
            [0i64, 1, 2, 5, 31, 63, 64, 255, 1 << 31, 1 << 32, (1 << 53) + 1, 0x0123_4567_89ab_cdef, i64::MAX, i64::MIN]
                .iter()
                .flat_map(|&v| [v as u64, v.wrapping_neg() as u64])
                .collect()
        }
        DType::U8 => vec![0, 1, 2, 3, 7, 8, 9, 127, 128, 200, 254, 255],
        DType::Bool => vec![0, 1],
    }
}

/// A random value: often ordinary, sometimes an edge.
pub fn random_bits(random: &mut Random, dtype: DType) -> u64 {
    if random.one_in(6) {
        let edges = edge_bits(dtype);
        return random.pick(&edges);
    }
    let unit = random.bits() as f64 / u64::MAX as f64;
    match dtype {
        DType::F32 | DType::F64 => dtype.bits_of_f64((unit - 0.5) * [1.0, 8.0, 300.0][random.below(3)]),
        DType::I32 => u64::from(random.bits() as u32 >> random.below(32)),
        DType::I64 => random.bits() >> random.below(64),
        DType::U8 => random.bits() & 0xff,
        DType::Bool => random.bits() & 1,
    }
}

/// Appends an element's bytes.
pub fn push_element(bytes: &mut Vec<u8>, dtype: DType, bits: u64) {
    match dtype.size_bytes() {
        1 => bytes.push(bits as u8),
        4 => bytes.extend((bits as u32).to_ne_bytes()),
        _ => bytes.extend(bits.to_ne_bytes()),
    }
}

/// `n` elements by a function of their index.
pub fn elements(dtype: DType, n: usize, mut value: impl FnMut(usize) -> u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for i in 0..n {
        push_element(&mut bytes, dtype, value(i));
    }
    bytes
}

/// The element at an index.
pub fn element(bytes: &[u8], dtype: DType, index: usize) -> u64 {
    let size = dtype.size_bytes();
    let mut wide = [0; 8];
    wide[..size].copy_from_slice(&bytes[index * size..(index + 1) * size]);
    u64::from_le_bytes(wide)
}

fn is_nan(dtype: DType, bits: u64) -> bool {
    dtype.is_float() && dtype.f64_of_bits(bits).is_nan()
}

/// A map with strides.
pub fn map(offset: i64, strides: &[i64]) -> IndexMap {
    IndexMap { offset, strides: SmallVec::from_slice(strides) }
}

/// An argument.
pub fn arg(dtype: DType, read: bool, written: bool) -> Arg {
    Arg { dtype, read, written }
}

/// A kernel whose total is the product of its extents.
pub fn kernel(
    name: &str,
    sweep: Sweep,
    dims: &[usize],
    args: Vec<Arg>,
    phases: Vec<cotangent_kernel::ir::Phase>,
) -> Kernel {
    Kernel { name: name.into(), sweep, dims: SmallVec::from_slice(dims), total: dims.iter().product(), args, phases }
}

/// Compiles kernels for this machine.
pub fn compile(kernels: &[&Kernel]) -> Compiled {
    CraneliftBackend::host().expect("a code generator").compile(kernels).expect("code")
}

/// Every backend of this machine: Cranelift, and the wide one for each instruction set.
pub fn backends() -> Vec<Box<dyn Backend>> {
    let mut all: Vec<Box<dyn Backend>> = vec![Box::new(CraneliftBackend::host().expect("a code generator"))];
    for isa in [Isa::Avx2, Isa::Avx512].into_iter().filter(|isa| isa.is_available() && cfg!(unix)) {
        let target = Target::here().clone().with_isa(isa);
        all.push(Box::new(WideBackend::new(&target, Options::default()).expect("a code generator")));
    }
    all
}

/// Runs machine code on buffers, of which several arguments may share one.
pub fn call(
    code: &KernelFn,
    kernel: &Kernel,
    buffers: &mut [Vec<u8>],
    binding: &[usize],
    rows: Range<usize>,
    cols: Range<usize>,
) {
    let lengths: Vec<usize> =
        kernel.args.iter().zip(binding).map(|(a, &b)| buffers[b].len() / a.dtype.size_bytes()).collect();
    assert_eq!(kernel.check_bounds(&lengths), Ok(()), "{kernel}");
    let mut ptrs: Vec<*mut u8> = Vec::new();
    for &b in binding {
        ptrs.push(buffers[b].as_mut_ptr());
    }
    // SAFETY: the bounds have just been checked, and the buffers are alive and borrowed mutably.
    unsafe { code.call(&ptrs, &kernel.layout(), rows, cols) };
}

/// Runs the interpreter on the same.
pub fn interpret(kernel: &Kernel, buffers: &mut [Vec<u8>], binding: &[usize], rows: Range<usize>, cols: Range<usize>) {
    let places: Vec<Place> = binding.iter().map(|&buffer| Place { buffer, byte_offset: 0 }).collect();
    let mut slices: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
    interp::run_unit(kernel, &mut slices, &places, rows, cols).expect("the interpreter");
}

/// Runs both on copies of the same memory and describes the first difference.
pub fn difference(
    code: &KernelFn,
    kernel: &Kernel,
    buffers: &[Vec<u8>],
    binding: &[usize],
    rows: Range<usize>,
    cols: Range<usize>,
) -> Option<String> {
    let (mut expected, mut got) = (buffers.to_vec(), buffers.to_vec());
    interpret(kernel, &mut expected, binding, rows.clone(), cols.clone());
    call(code, kernel, &mut got, binding, rows.clone(), cols.clone());
    for (buffer, (expected, got)) in expected.iter().zip(&got).enumerate() {
        if expected == got {
            continue;
        }
        let arg = binding.iter().position(|&b| b == buffer)?;
        let dtype = kernel.args[arg].dtype;
        for i in 0..expected.len() / dtype.size_bytes() {
            let (e, g) = (element(expected, dtype, i), element(got, dtype, i));
            if e != g && !(is_nan(dtype, e) && is_nan(dtype, g)) {
                return Some(format!(
                    "rows {rows:?} cols {cols:?}: element {i} of argument {arg}: expected {} ({e:#x}), got {} ({g:#x})\n{kernel}",
                    dtype.f64_of_bits(e),
                    dtype.f64_of_bits(g)
                ));
            }
        }
    }
    None
}

/// The id of an argument.
pub fn id(number: usize) -> ArgId {
    ArgId(number as u32)
}

//! Memory that kernels work in: aligned to cache lines, never moved.

use std::fmt;

use cotangent_graph::{Shape, TensorData};
use cotangent_scalar::DType;

/// One cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Bytes at a fixed address, aligned to 64.
pub(crate) struct AlignedBytes {
    lines: Box<[Line]>,
    n_bytes: usize,
}

impl fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBytes({})", self.n_bytes)
    }
}

impl AlignedBytes {
    /// Zeroed bytes.
    pub(crate) fn zeroed(n_bytes: usize) -> Self {
        AlignedBytes { lines: vec![Line([0; 64]); n_bytes.div_ceil(64)].into_boxed_slice(), n_bytes }
    }

    /// How many there are.
    pub(crate) fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// The address of the first byte; valid for reads and writes of `n_bytes` while this value lives.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.lines.as_mut_ptr().cast()
    }

    /// Copies the elements of a tensor in row-major order to the start. The tensor must fit.
    pub(crate) fn write_tensor(&mut self, tensor: &TensorData) {
        self.write_bits(0, &tensor.bits(), tensor.dtype().size_bytes());
    }

    /// Writes elements of `size` bytes, given by their bits, from the element `at` on. They must fit.
    pub(crate) fn write_bits(&mut self, at: usize, bits: &[u64], size: usize) {
        let start = if cfg!(target_endian = "big") { 8 - size } else { 0 };
        let per_line = 64 / size;
        for (k, &bits) in (at..).zip(bits) {
            let place = k % per_line * size;
            self.lines[k / per_line].0[place..place + size].copy_from_slice(&bits.to_ne_bytes()[start..start + size]);
        }
    }

    /// All bytes, elements of `size` bytes turned to little-endian.
    pub(crate) fn to_le_bytes(&self, size: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.lines.len() * 64);
        self.lines.iter().for_each(|line| bytes.extend_from_slice(&line.0));
        bytes.truncate(self.n_bytes);
        if cfg!(target_endian = "big") {
            bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        bytes
    }

    /// Copies little-endian elements of `size` bytes to the start. They must fit.
    pub(crate) fn write_le_bytes(&mut self, bytes: &[u8], size: usize) {
        for (line, piece) in self.lines.iter_mut().zip(bytes.chunks(64)) {
            let line = &mut line.0[..piece.len()];
            line.copy_from_slice(piece);
            if cfg!(target_endian = "big") {
                line.chunks_exact_mut(size).for_each(<[u8]>::reverse);
            }
        }
    }

    /// The elements from the start as a tensor.
    pub(crate) fn read_tensor(&self, dtype: DType, shape: &Shape) -> TensorData {
        let bytes = self.lines.iter().flat_map(|l| l.0.iter().copied());
        tensor_of_bytes(dtype, shape, bytes)
    }
}

/// A tensor from native bytes.
pub(crate) fn tensor_of_bytes(dtype: DType, shape: &Shape, mut bytes: impl Iterator<Item = u8>) -> TensorData {
    let size = dtype.size_bytes();
    let start = if cfg!(target_endian = "big") { 8 - size } else { 0 };
    let bits: Vec<u64> = (0..shape.n_elements())
        .map(|_| {
            let mut word = [0u8; 8];
            for slot in word[start..start + size].iter_mut() {
                *slot = bytes.next().unwrap_or(0);
            }
            u64::from_ne_bytes(word)
        })
        .collect();
    TensorData::from_bits(dtype, shape, &bits)
}

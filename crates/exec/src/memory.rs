//! Tensors in blocks of memory: row-major, without gaps, in the machine's byte order.

use std::fmt;

use cotangent_graph::{Code, Diag, Element, Shape, TensorData, with_array};
use cotangent_host::{Block, Refused};
use cotangent_scalar::DType;
use ndarray::{ArrayD, IxDyn};

/// The error of whoever asked for memory in vain.
#[track_caller]
pub(crate) fn no_memory(what: impl fmt::Display, refused: Refused) -> Diag {
    Diag::new(Code::NoMemory, format!("there is no memory for {what}: {refused}"))
}

/// Elements of one type, of which there are `n`.
pub(crate) fn block_of<T: Element>(elements: impl Iterator<Item = T>, n: usize) -> Result<Block, Refused> {
    let n_bytes = n.checked_mul(T::DTYPE.size_bytes()).ok_or(Refused { n_bytes: usize::MAX })?;
    let mut block = Block::zeroed(n_bytes)?;
    write(&mut block, 0, elements);
    Ok(block)
}

/// The elements of a tensor in row-major order.
pub(crate) fn block_of_tensor(tensor: &TensorData) -> Result<Block, Refused> {
    with_array!(tensor, a => block_of(a.iter().copied(), a.len()))
}

/// Writes the elements of a tensor in row-major order to the start of a block.
pub(crate) fn write_tensor(block: &mut Block, tensor: &TensorData) {
    with_array!(tensor, a => write(block, 0, a.iter().copied()));
}

/// Writes elements of one type from the element `at` on, as far as there is room.
fn write<T: Element>(block: &mut Block, at: usize, elements: impl Iterator<Item = T>) {
    write_bits(block, at, elements.map(T::to_bits), T::DTYPE);
}

/// Writes elements given by their bits from the element `at` on, as far as there is room.
pub(crate) fn write_bits(block: &mut Block, at: usize, bits: impl Iterator<Item = u64>, dtype: DType) {
    let size = dtype.size_bytes();
    let places = block.bytes_mut().chunks_exact_mut(size).skip(at);
    match size {
        1 => places.zip(bits).for_each(|(place, bits)| place.copy_from_slice(&(bits as u8).to_ne_bytes())),
        4 => places.zip(bits).for_each(|(place, bits)| place.copy_from_slice(&(bits as u32).to_ne_bytes())),
        _ => places.zip(bits).for_each(|(place, bits)| place.copy_from_slice(&bits.to_ne_bytes())),
    }
}

/// A tensor from its elements' bytes. Missing elements are zeros, surplus is ignored.
pub(crate) fn tensor_of(bytes: &[u8], dtype: DType, shape: &Shape) -> TensorData {
    fn read<T: Element>(bytes: &[u8], shape: &Shape) -> TensorData {
        let mut elements = bytes.chunks_exact(T::DTYPE.size_bytes()).map(|place| T::from_bits(bits_of(place)));
        let next = || elements.next().unwrap_or(T::from_bits(0));
        T::wrap(ArrayD::from_shape_simple_fn(IxDyn(shape), next))
    }
    match dtype {
        DType::F32 => read::<f32>(bytes, shape),
        DType::F64 => read::<f64>(bytes, shape),
        DType::I32 => read::<i32>(bytes, shape),
        DType::I64 => read::<i64>(bytes, shape),
        DType::U8 => read::<u8>(bytes, shape),
        DType::Bool => read::<bool>(bytes, shape),
    }
}

/// The bits of one element, zero-extended.
pub(crate) fn bits_of(place: &[u8]) -> u64 {
    let mut word = [0u8; 8];
    let start = if cfg!(target_endian = "big") { 8 - place.len() } else { 0 };
    word[start..start + place.len()].copy_from_slice(place);
    u64::from_ne_bytes(word)
}

/// All bytes, elements of `size` bytes turned to little-endian, or back.
pub(crate) fn in_le(bytes: &mut [u8], size: usize) {
    if cfg!(target_endian = "big") {
        bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
}

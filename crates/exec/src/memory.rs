//! Blocks of memory that hold tensors, row-major and without gaps, and the errors of whoever asks for them in vain.

use std::fmt;

use cotangent_graph::tensor::write_native;
use cotangent_graph::{Code, Diag, Element, TensorData, Type};
use cotangent_host::{Because, Block, Memory, Refused};

/// The error of whoever asked for memory in vain.
#[track_caller]
pub(crate) fn no_memory(what: impl fmt::Display, refused: Refused) -> Diag {
    Diag::new(Code::NoMemory, format!("{what} takes {refused}"))
}

/// Asks for the memory of a copy of a value.
#[track_caller]
pub(crate) fn ask_for_copy(name: &str, ty: &Type) -> Result<(), Diag> {
    match Memory::default().ask(ty.n_bytes()) {
        Ok(()) => Ok(()),
        Err(refused) => Err(no_memory(format!("a copy of `{name}` of type {ty}"), refused)),
    }
}

/// Elements of one type, of which there are `n`.
pub(crate) fn block_of<T: Element>(elements: impl Iterator<Item = T>, n: usize) -> Result<Block, Refused> {
    let too_many = Refused { n_bytes: usize::MAX, because: Because::Allocator };
    let mut block = Block::zeroed(n.checked_mul(T::DTYPE.size_bytes()).ok_or(too_many)?)?;
    write_native(elements, block.bytes_mut());
    Ok(block)
}

/// The elements of a tensor.
pub(crate) fn block_of_tensor(tensor: &TensorData) -> Result<Block, Refused> {
    let mut block = Block::zeroed(tensor.ty().n_bytes())?;
    tensor.write_native_bytes(block.bytes_mut());
    Ok(block)
}

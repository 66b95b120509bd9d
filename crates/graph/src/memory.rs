//! Asking for the memory that values of a graph take, before they are made: a refusal names the largest of them and its line.

use cotangent_host::{Bytes, Memory};

use crate::diag::{Code, Diag};
use crate::ir::Node;
use crate::types::Type;

/// Bytes of a value; the members of a tuple are values of their own.
pub(crate) fn bytes_of(ty: &Type) -> usize {
    ty.as_tensor().map_or(0, |(dtype, shape)| shape.n_elements().saturating_mul(dtype.size_bytes()))
}

/// Asks for the values of some nodes, and so many bytes beside them, on behalf of `who`; and for as much again, because who
/// works on whole tensors copies some on the way.
///
/// # Errors
/// `E0309` at the line of the largest value, if there is not so much memory.
pub fn ask<'n>(who: &str, nodes: impl Iterator<Item = &'n Node> + Clone, more: usize) -> Result<(), Diag> {
    let n_bytes = nodes.clone().map(|node| bytes_of(&node.ty)).fold(more, usize::saturating_add);
    let Err(refused) = Memory::default().ask(n_bytes.saturating_mul(2)) else { return Ok(()) };
    let diag = Diag::new(Code::NoMemory, format!("{who} takes {refused}"));
    let Some(largest) = nodes.max_by_key(|node| bytes_of(&node.ty)) else { return Err(diag) };
    let what = match largest.attrs.str("name") {
        "" => format!("`{}`", largest.op.name),
        name => format!("`{name}`"),
    };
    let text = format!("the largest value is {what} of type {}, {}", largest.ty, Bytes(bytes_of(&largest.ty)));
    let place = largest.origin.loc();
    Err(diag.at(place.clone()).note(text, place))
}

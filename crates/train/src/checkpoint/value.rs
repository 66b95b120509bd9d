//! What a store can be given: tensors in memory, and tensors that are still in a file.

use std::collections::BTreeMap;
use std::fmt;

use cotangent_data::DataError;
use cotangent_data::safetensors::Unread;
use cotangent_exec::StoreMut;
use cotangent_graph::{TensorData, Type};

use crate::TrainError;

/// A tensor that can be written where it is to stand: one in memory ([`TensorData`]), one in a file ([`Unread`]), one in a checkpoint
/// ([`Saved`](super::Saved)), or what a module of PyTorch makes of some ([`Weight`](super::pytorch::Weight)).
pub trait Value: fmt::Debug + Send + Sync {
    /// Element type and shape.
    fn ty(&self) -> Type;

    /// Writes the elements to as many bytes as the type has, in row-major order and the machine's byte order.
    ///
    /// # Errors
    /// What is wrong with the file that they are in; some are written then.
    fn write(&self, to: &mut [u8]) -> Result<(), DataError>;
}

impl Value for TensorData {
    fn ty(&self) -> Type {
        TensorData::ty(self)
    }

    fn write(&self, to: &mut [u8]) -> Result<(), DataError> {
        self.write_native_bytes(to);
        Ok(())
    }
}

impl Value for Unread<'_> {
    fn ty(&self) -> Type {
        Unread::ty(self)
    }

    fn write(&self, to: &mut [u8]) -> Result<(), DataError> {
        self.read_into(to)
    }
}

impl<V: Value + ?Sized> Value for Box<V> {
    fn ty(&self) -> Type {
        (**self).ty()
    }

    fn write(&self, to: &mut [u8]) -> Result<(), DataError> {
        (**self).write(to)
    }
}

/// Writes the values of some names into a store: all of them, or none.
///
/// # Errors
/// What keeps a value from being read, and as [`Store::fill`](cotangent_exec::Store::fill).
pub(crate) fn fill<'n, V: Value>(
    values: &BTreeMap<String, V>,
    names: impl IntoIterator<Item = &'n String>,
    store: &mut StoreMut<'_>,
) -> Result<(), TrainError> {
    let named = names.into_iter().filter_map(|name| values.get_key_value(name));
    store.fill(named.map(|(name, value)| (name.as_str(), value.ty())), |name, bytes| {
        values.get(name).map_or(Ok(()), |value| Ok(value.write(bytes)?))
    })
}

//! A tensor that is still in its file: what it is, and how its elements get to where they are to stand.
//!
//! Promises: elements go through no memory but that which they are read for, and pieces of at most 64 KiB: numbers that are widened,
//! and axes that come in another order, go through such pieces.

use std::sync::Arc;

use cotangent_graph::tensor::bits_of_native;
use cotangent_graph::{Element, Shape, TensorData, Type, map_array};
use cotangent_scalar::DType;
use ndarray::{ArrayD, IxDyn};

use super::source::Source;
use crate::{DataError, reading};

/// Elements are read in pieces of so many bytes, as they are in memory.
const PIECE: usize = 1 << 16;

/// How elements stand in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// As they are.
    Whole,
    /// As the upper half of an f32.
    Upper,
    /// As IEEE binary16.
    Half,
}

impl Stored {
    /// Bytes of an element in a file.
    pub(super) fn n_bytes(self, dtype: DType) -> usize {
        if self == Stored::Whole { dtype.size_bytes() } else { 2 }
    }
}

/// A tensor in a file, of which nothing was read yet.
#[derive(Clone, Debug)]
pub struct Unread<'a> {
    source: Arc<Source<'a>>,
    dtype: DType,
    stored: Stored,
    /// In the file, where all elements lie side by side.
    shape: Shape,
    begin: u64,
    /// Which of the file's axes each axis is.
    order: Shape,
}

impl<'a> Unread<'a> {
    pub(super) fn new(source: Arc<Source<'a>>, dtype: DType, stored: Stored, shape: Shape) -> Self {
        let order = (0..shape.rank()).collect();
        Unread { source, dtype, stored, shape, begin: 0, order }
    }

    /// With elements from this byte of the file on.
    pub(super) fn at(self, begin: u64) -> Self {
        Unread { begin, ..self }
    }

    /// What errors call its file.
    pub fn file(&self) -> &str {
        &self.source.name
    }

    /// Element type and shape, as it will be read. Elements of 16 bits become f32.
    pub fn ty(&self) -> Type {
        Type::tensor(self.dtype, self.order.iter().map(|&axis| self.shape[axis]).collect::<Shape>())
    }

    /// The tensor with its axes in another order: axis `k` is axis `order[k]` of this one.
    ///
    /// # Errors
    /// [`DataError::Mismatch`] unless `order` names each axis once.
    pub fn transposed(&self, order: &[usize]) -> Result<Self, DataError> {
        let mut axes = order.to_vec();
        axes.sort_unstable();
        if !axes.into_iter().eq(0..self.shape.rank()) {
            let required = format!("each axis of {} once", self.ty());
            return Err(self.mismatch("order of axes", required, format!("{order:?}"), "name each axis once"));
        }
        Ok(Unread { order: order.iter().map(|&axis| self.order[axis]).collect(), ..self.clone() })
    }

    /// The rows `from..to` along the first axis, `[to - from, ..]`.
    ///
    /// # Errors
    /// [`DataError::Mismatch`] if there are no such rows, or if the first axis is another one in the file.
    pub fn rows(&self, from: usize, to: usize) -> Result<Self, DataError> {
        let Some((&n, rest)) = self.shape.split_first().filter(|(n, _)| from <= to && to <= **n) else {
            return Err(self.mismatch(
                "rows",
                format!("some of {}", self.ty()),
                format!("{from}..{to}"),
                "name others",
            ));
        };
        if self.order.first() != Some(&0) {
            let got = format!("those of {}, transposed from {n} rows", self.ty());
            return Err(self.mismatch("rows", "rows of the file", got, "take rows before axes change places"));
        }
        let row = rest.iter().product::<usize>() * self.stored.n_bytes(self.dtype);
        let shape = [to - from].iter().chain(rest).copied().collect();
        Ok(Unread { shape, begin: self.begin + (from * row) as u64, ..self.clone() })
    }

    /// Reads the elements into the memory that they are for, in row-major order and the machine's byte order.
    ///
    /// # Errors
    /// [`DataError::Malformed`] if the file has become shorter since it was opened, or has truth values other than 0 and 1,
    /// [`DataError::Io`] if the system refuses; part of the memory is written then. [`DataError::Mismatch`] if there are not as many
    /// bytes as the type has.
    pub fn read_into(&self, to: &mut [u8]) -> Result<(), DataError> {
        let (ty, size) = (self.ty(), self.dtype.size_bytes());
        if to.len() != ty.n_bytes() {
            let (required, got) = (format!("{} bytes for {ty}", ty.n_bytes()), to.len().to_string());
            return Err(self.mismatch("memory", required, got, "make room for the type"));
        }
        if self.order.is_sorted() {
            return to.chunks_mut(PIECE).enumerate().try_for_each(|(k, piece)| self.piece(k * PIECE / size, piece));
        }
        let strides = self.strides();
        let mut buffer = vec![0; PIECE.min(to.len())];
        for first in (0..to.len() / size).step_by(PIECE / size) {
            let n_bytes = PIECE.min(to.len() - first * size);
            let piece = &mut buffer[..n_bytes];
            self.piece(first, piece)?;
            match size {
                1 => self.scatter::<1>(first, piece, &strides, to),
                4 => self.scatter::<4>(first, piece, &strides, to),
                _ => self.scatter::<8>(first, piece, &strides, to),
            }
        }
        Ok(())
    }

    /// Reads the tensor into memory of its own.
    ///
    /// # Errors
    /// As [`Unread::read_into`]; [`DataError::Io`] if there is no memory for it, [`DataError::Malformed`] if no array can have its
    /// shape.
    pub fn read(&self) -> Result<TensorData, DataError> {
        let tensor = match self.dtype {
            DType::F32 => self.elements::<f32>(),
            DType::F64 => self.elements::<f64>(),
            DType::I32 => self.elements::<i32>(),
            DType::I64 => self.elements::<i64>(),
            DType::U8 => self.elements::<u8>(),
            DType::Bool => self.elements::<bool>(),
        }?;
        match self.order.is_sorted() {
            true => Ok(tensor),
            false => Ok(map_array!(&tensor, a => a.view().permuted_axes(IxDyn(&self.order))).into_owned()),
        }
    }

    /// The elements as they are in the file.
    fn elements<T: Element>(&self) -> Result<TensorData, DataError> {
        let (n, size) = (self.shape.n_elements(), T::DTYPE.size_bytes());
        reading::ask(&self.source.name, self.ty().n_bytes() as u64)?;
        let mut elements: Vec<T> = self.source.room(n, "elements")?;
        let mut buffer = [0; PIECE];
        while elements.len() < n {
            let piece = &mut buffer[..PIECE.min((n - elements.len()) * size)];
            self.piece(elements.len(), piece)?;
            elements.extend(piece.chunks_exact(size).map(|place| T::from_bits(bits_of_native(place))));
        }
        let array = ArrayD::from_shape_vec(IxDyn(&self.shape), elements);
        array
            .map(Into::into)
            .map_err(|error| self.source.malformed("header", "a shape that an array can have", error.to_string()))
    }

    /// Fills `to`, of at most a piece, with the file's elements from the `first` on, as they are in memory.
    fn piece(&self, first: usize, to: &mut [u8]) -> Result<(), DataError> {
        let at = self.begin + (first * self.stored.n_bytes(self.dtype)) as u64;
        if self.stored == Stored::Whole {
            self.source.fill(to, at, "elements")?;
            if self.dtype == DType::Bool && to.iter().any(|&byte| byte > 1) {
                return Err(self.source.malformed("elements", "truth values of 0 or 1", "another byte"));
            }
            if cfg!(target_endian = "big") {
                to.chunks_exact_mut(self.dtype.size_bytes()).for_each(<[u8]>::reverse);
            }
            return Ok(());
        }
        let mut buffer = [0; PIECE / 2];
        let halves = &mut buffer[..to.len() / 2];
        self.source.fill(halves, at, "elements")?;
        let (places, halves) = (to.as_chunks_mut::<4>().0, halves.as_chunks::<2>().0);
        match self.stored {
            Stored::Half => widen(places, halves, f32_of_half),
            _ => widen(places, halves, |bits| u32::from(bits) << 16),
        }
        Ok(())
    }

    /// How far apart neighbors along each of the file's axes are where they are to stand, in elements.
    fn strides(&self) -> Vec<usize> {
        let (mut strides, mut stride) = (vec![0; self.shape.rank()], 1);
        for &axis in self.order.iter().rev() {
            strides[axis] = stride;
            stride *= self.shape[axis];
        }
        strides
    }

    /// Puts the file's elements from the `first` on where they are to stand.
    fn scatter<const N: usize>(&self, mut first: usize, piece: &[u8], strides: &[usize], to: &mut [u8]) {
        let (mut piece, places) = (piece.as_chunks::<N>().0, to.as_chunks_mut::<N>().0);
        let Some(((&row, outer), (&stride, outer_strides))) = self.shape.split_last().zip(strides.split_last()) else {
            return;
        };
        while !piece.is_empty() {
            let (mut rest, within) = (first / row, first % row);
            let mut start = within * stride;
            for (&length, &stride) in outer.iter().zip(outer_strides).rev() {
                start += rest % length * stride;
                rest /= length;
            }
            let (run, after) = piece.split_at(piece.len().min(row - within));
            run.iter().enumerate().for_each(|(k, element)| places[start + k * stride] = *element);
            (piece, first) = (after, first + run.len());
        }
    }

    fn mismatch(&self, what: &str, required: impl Into<String>, got: String, fix: &str) -> DataError {
        let of = format!("{}: {what}", self.source.name);
        DataError::Mismatch { of, required: required.into(), got, fix: fix.to_owned() }
    }
}

/// Writes what numbers of 16 bits are as f32.
fn widen(places: &mut [[u8; 4]], halves: &[[u8; 2]], bits: impl Fn(u16) -> u32) {
    places.iter_mut().zip(halves).for_each(|(place, half)| *place = bits(u16::from_le_bytes(*half)).to_ne_bytes());
}

/// The bits of the f32 that an IEEE binary16 number is.
fn f32_of_half(bits: u16) -> u32 {
    let (sign, exponent, fraction) = (u32::from(bits >> 15) << 31, u32::from(bits >> 10) & 31, u32::from(bits) & 1023);
    sign | match exponent {
        // Subnormal: a multiple of 2⁻²⁴, which f32 holds as a normal number.
        0 => (fraction as f32 / 16_777_216.0).to_bits(),
        31 => 0x7f80_0000 | fraction << 13,
        _ => (exponent + 112) << 23 | fraction << 13,
    }
}

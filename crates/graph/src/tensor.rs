//! Host tensors: what users hand in and get out, what constants hold, and what the interpreter computes with.
//!
//! [`TensorData`] is one `ndarray` array of a dynamic shape, of any element type. Its bits view ([`TensorData::bits`])
//! is how scalar semantics are applied to it.

use cotangent_host::float::in_default;
use std::fmt;
use std::hash::{Hash, Hasher};

use cotangent_scalar::DType;
use ndarray::{ArrayBase, ArrayD, Data, Dimension, IxDyn};

use crate::number::Number;
use crate::step::Elements;
use crate::types::{Shape, Type};

/// A dense tensor on the host.
#[derive(Clone, Debug)]
pub enum TensorData {
    /// Elements of type f32.
    F32(ArrayD<f32>),
    /// Elements of type f64.
    F64(ArrayD<f64>),
    /// Elements of type i32.
    I32(ArrayD<i32>),
    /// Elements of type i64.
    I64(ArrayD<i64>),
    /// Elements of type u8.
    U8(ArrayD<u8>),
    /// Truth values.
    Bool(ArrayD<bool>),
}

/// Runs an expression on the array inside a [`TensorData`], whatever its element type.
#[macro_export]
macro_rules! with_array {
    ($data:expr, $a:ident => $body:expr) => {
        match $data {
            $crate::TensorData::F32($a) => $body,
            $crate::TensorData::F64($a) => $body,
            $crate::TensorData::I32($a) => $body,
            $crate::TensorData::I64($a) => $body,
            $crate::TensorData::U8($a) => $body,
            $crate::TensorData::Bool($a) => $body,
        }
    };
}

/// Maps the array inside a [`TensorData`] to another array of the same element type.
#[macro_export]
macro_rules! map_array {
    ($data:expr, $a:ident => $body:expr) => {
        match $data {
            $crate::TensorData::F32($a) => $crate::TensorData::F32($body),
            $crate::TensorData::F64($a) => $crate::TensorData::F64($body),
            $crate::TensorData::I32($a) => $crate::TensorData::I32($body),
            $crate::TensorData::I64($a) => $crate::TensorData::I64($body),
            $crate::TensorData::U8($a) => $crate::TensorData::U8($body),
            $crate::TensorData::Bool($a) => $crate::TensorData::Bool($body),
        }
    };
}

/// A Rust type that is the element of a tensor.
///
/// There are those that are here and no others, because memory of an element type is handed out as slices of the Rust type:
///
/// ```compile_fail,E0277
/// # use cotangent_graph::{DType, Element, Elements, TensorData};
/// # use ndarray::ArrayD;
/// #[derive(Clone, Copy)]
/// struct Text(&'static str);
///
/// impl Element for Text {
///     const DTYPE: DType = DType::I64;
///     fn to_bits(self) -> u64 { 0 }
///     fn from_bits(_: u64) -> Self { Text("") }
///     fn wrap(_: ArrayD<Self>) -> TensorData { TensorData::scalar(DType::I64, 0) }
///     fn unwrap(_: &TensorData) -> Option<&ArrayD<Self>> { None }
///     fn slice(_: Elements<'_>) -> Option<&[Self]> { None }
/// }
/// ```
pub trait Element: sealed::Sealed + Copy + Send + Sync + 'static {
    /// The element type.
    const DTYPE: DType;
    /// The value as bits, zero-extended.
    fn to_bits(self) -> u64;
    /// The value of bits.
    fn from_bits(bits: u64) -> Self;
    /// Wraps an array.
    fn wrap(array: ArrayD<Self>) -> TensorData;
    /// The array inside, if it has this element type.
    fn unwrap(data: &TensorData) -> Option<&ArrayD<Self>>;
    /// The slice inside, if it has this element type.
    fn slice(elements: Elements<'_>) -> Option<&[Self]>;
}

mod sealed {
    /// What keeps others from adding elements.
    pub trait Sealed {}
}

macro_rules! element {
    ($($t:ty, $variant:ident, |$v:ident| $to:expr, |$b:ident| $from:expr;)*) => {
        $(impl sealed::Sealed for $t {}

        impl Element for $t {
            const DTYPE: DType = DType::$variant;
            fn to_bits(self) -> u64 { let $v = self; $to }
            fn from_bits($b: u64) -> Self { $from }
            fn wrap(array: ArrayD<Self>) -> TensorData { TensorData::$variant(array) }
            fn unwrap(data: &TensorData) -> Option<&ArrayD<Self>> {
                match data { TensorData::$variant(a) => Some(a), _ => None }
            }
            fn slice(elements: Elements<'_>) -> Option<&[Self]> {
                match elements { Elements::$variant(a) => Some(a), _ => None }
            }
        })*
    };
}

element! {
    f32, F32, |v| u64::from(v.to_bits()), |b| f32::from_bits(b as u32);
    f64, F64, |v| f64::to_bits(v), |b| f64::from_bits(b);
    i32, I32, |v| u64::from(v as u32), |b| b as u32 as i32;
    i64, I64, |v| v as u64, |b| b as i64;
    u8, U8, |v| u64::from(v), |b| b as u8;
    bool, Bool, |v| u64::from(v), |b| b != 0;
}

impl TensorData {
    /// A scalar of the given type nearest to `value`.
    pub fn scalar(dtype: DType, value: impl Into<Number>) -> Self {
        TensorData::from_bits(dtype, &Shape::default(), &[in_default(|| value.into().bits(dtype))])
    }

    /// A tensor of zeros.
    ///
    /// # Panics
    /// As [`TensorData::from_bits`].
    pub fn zeros(dtype: DType, shape: &Shape) -> Self {
        TensorData::from_bits(dtype, shape, &[])
    }

    /// A tensor from the bits of its elements in row-major order. Missing elements are zero bits, surplus is ignored.
    ///
    /// # Panics
    /// If no array can have this shape: if its extents but for those of 0 multiply to more than an address can name.
    pub fn from_bits(dtype: DType, shape: &Shape, bits: &[u64]) -> Self {
        fn make<T: Element>(shape: &Shape, bits: &[u64]) -> TensorData {
            let mut next = bits.iter().copied().chain(std::iter::repeat(0));
            T::wrap(ArrayD::from_shape_simple_fn(IxDyn(shape), || T::from_bits(next.next().unwrap_or(0))))
        }
        match dtype {
            DType::F32 => make::<f32>(shape, bits),
            DType::F64 => make::<f64>(shape, bits),
            DType::I32 => make::<i32>(shape, bits),
            DType::I64 => make::<i64>(shape, bits),
            DType::U8 => make::<u8>(shape, bits),
            DType::Bool => make::<bool>(shape, bits),
        }
    }

    /// A tensor from its elements' bytes in row-major order, in the machine's byte order. Missing elements are zeros, surplus is
    /// ignored.
    ///
    /// # Panics
    /// As [`TensorData::from_bits`].
    pub fn from_native_bytes(dtype: DType, shape: &Shape, bytes: &[u8]) -> Self {
        fn read<T: Element>(shape: &Shape, bytes: &[u8]) -> TensorData {
            let mut elements =
                bytes.chunks_exact(T::DTYPE.size_bytes()).map(|place| T::from_bits(bits_of_native(place)));
            let next = || elements.next().unwrap_or(T::from_bits(0));
            T::wrap(ArrayD::from_shape_simple_fn(IxDyn(shape), next))
        }
        match dtype {
            DType::F32 => read::<f32>(shape, bytes),
            DType::F64 => read::<f64>(shape, bytes),
            DType::I32 => read::<i32>(shape, bytes),
            DType::I64 => read::<i64>(shape, bytes),
            DType::U8 => read::<u8>(shape, bytes),
            DType::Bool => read::<bool>(shape, bytes),
        }
    }

    /// Writes the elements' bytes in row-major order, in the machine's byte order, as far as there is room.
    pub fn write_native_bytes(&self, to: &mut [u8]) {
        with_array!(self, a => write_native(a.iter().copied(), to));
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        match self {
            TensorData::F32(_) => DType::F32,
            TensorData::F64(_) => DType::F64,
            TensorData::I32(_) => DType::I32,
            TensorData::I64(_) => DType::I64,
            TensorData::U8(_) => DType::U8,
            TensorData::Bool(_) => DType::Bool,
        }
    }

    /// The shape.
    pub fn shape(&self) -> Shape {
        with_array!(self, a => Shape::new(a.shape()))
    }

    /// The type.
    pub fn ty(&self) -> Type {
        Type::tensor(self.dtype(), self.shape())
    }

    /// The bits of all elements in logical row-major order.
    pub fn bits(&self) -> Vec<u64> {
        with_array!(self, a => a.iter().map(|&v| Element::to_bits(v)).collect())
    }

    /// The elements as f64 in row-major order.
    pub fn to_f64(&self) -> Vec<f64> {
        let dtype = self.dtype();
        in_default(|| self.bits().into_iter().map(|b| dtype.f64_of_bits(b)).collect())
    }

    /// The array inside, if it has element type `T`.
    pub fn array<T: Element>(&self) -> Option<&ArrayD<T>> {
        T::unwrap(self)
    }

    /// The value of a tensor of one element, as f64.
    pub fn as_scalar(&self) -> Option<f64> {
        (self.shape().n_elements() == 1).then(|| self.to_f64()[0])
    }

    /// Whether type and bits are equal, any NaN being equal to any other.
    pub fn same_bits(&self, other: &TensorData) -> bool {
        let canonical = |t: &TensorData| -> Vec<u64> {
            let dtype = t.dtype();
            let nan = dtype.bits_of_f64(f64::NAN);
            let is_nan = |b: u64| dtype.is_float() && dtype.f64_of_bits(b).is_nan();
            t.bits().into_iter().map(|b| if is_nan(b) { nan } else { b }).collect()
        };
        self.ty() == other.ty() && canonical(self) == canonical(other)
    }
}

/// The bits of an element of so many bytes in the machine's order, zero-extended.
pub fn bits_of_native(place: &[u8]) -> u64 {
    let mut word = [0u8; 8];
    let start = if cfg!(target_endian = "big") { 8 - place.len() } else { 0 };
    word[start..start + place.len()].copy_from_slice(place);
    u64::from_ne_bytes(word)
}

/// Writes an element given by its bits to so many bytes as it has, in the machine's order.
pub fn write_native_bits(bits: u64, place: &mut [u8]) {
    match place.len() {
        1 => place.copy_from_slice(&(bits as u8).to_ne_bytes()),
        4 => place.copy_from_slice(&(bits as u32).to_ne_bytes()),
        _ => place.copy_from_slice(&bits.to_ne_bytes()),
    }
}

/// Writes elements to bytes in the machine's order, as far as there is room.
pub fn write_native<T: Element>(elements: impl Iterator<Item = T>, to: &mut [u8]) {
    let places = to.chunks_exact_mut(T::DTYPE.size_bytes());
    places.zip(elements).for_each(|(place, value)| write_native_bits(value.to_bits(), place));
}

impl PartialEq for TensorData {
    /// Equality of type and bits: `-0.0` differs from `0.0`, and a NaN equals itself.
    fn eq(&self, other: &Self) -> bool {
        self.ty() == other.ty() && self.bits() == other.bits()
    }
}

impl Eq for TensorData {}

impl Hash for TensorData {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.ty().hash(state);
        self.bits().hash(state);
    }
}

impl fmt::Display for TensorData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        with_array!(self, a => write!(f, "{a}"))
    }
}

impl<T: Element, S: Data<Elem = T>, D: Dimension> From<ArrayBase<S, D>> for TensorData {
    fn from(array: ArrayBase<S, D>) -> Self {
        let array = array.into_owned().into_dyn();
        T::wrap(if array.is_standard_layout() { array } else { array.as_standard_layout().into_owned() })
    }
}

impl<T: Element> From<T> for TensorData {
    fn from(value: T) -> Self {
        T::wrap(ArrayD::from_elem(IxDyn(&[]), value))
    }
}

//! Host tensors: what users hand in and get out, what files hold, what constants are, and what the interpreter computes with.
//!
//! [`HostTensor`] is one `ndarray` array of a dynamic shape, of any element type, owned or borrowed; there is no other type of
//! tensors on the host. Its bits view ([`HostTensor::bits`]) is how scalar semantics are applied to it.

use cotangent_host::float::in_default;
use std::fmt;
use std::hash::{Hash, Hasher};

use cotangent_scalar::DType;
use ndarray::{Array, ArrayBase, ArrayD, ArrayView, ArrayView1, CowArray, Data, Dimension, IxDyn};

use crate::number::Number;
use crate::step::Elements;
use crate::types::{Shape, Type};

/// A dense tensor on the host: its elements are its own, or borrowed from an array for `'a`.
///
/// | made from | elements |
/// |---|---|
/// | an array, a `Vec`, a number | its own, in row-major order (those of another order are copied) |
/// | a reference to an array, vector or tensor, a slice, an array's view | borrowed, in whatever order they are |
///
/// ```
/// use cotangent_graph::{DType, HostTensor, TensorData};
/// use ndarray::array;
///
/// let rows = array![[1.0f32, 2.0, 3.0], [4.0, 5.0, 6.0]];
/// let borrowed = HostTensor::from(rows.t());
/// assert_eq!((borrowed.dtype(), &borrowed.shape()[..]), (DType::F32, &[3, 2][..]));
/// let owned: TensorData = borrowed.into_owned();
/// assert_eq!(owned.array::<f32>().unwrap().as_slice().unwrap(), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
/// assert_eq!(TensorData::from(vec![1i64, 2]), HostTensor::from(&[1i64, 2]));
/// ```
#[derive(Clone, Debug)]
pub enum HostTensor<'a> {
    /// Elements of type f32.
    F32(CowArray<'a, f32, IxDyn>),
    /// Elements of type f64.
    F64(CowArray<'a, f64, IxDyn>),
    /// Elements of type i32.
    I32(CowArray<'a, i32, IxDyn>),
    /// Elements of type i64.
    I64(CowArray<'a, i64, IxDyn>),
    /// Elements of type u8.
    U8(CowArray<'a, u8, IxDyn>),
    /// Truth values.
    Bool(CowArray<'a, bool, IxDyn>),
}

/// A tensor whose elements are its own.
pub type TensorData = HostTensor<'static>;

/// Runs an expression on the array inside a [`HostTensor`], whatever its element type.
#[macro_export]
macro_rules! with_array {
    ($data:expr, $a:ident => $body:expr) => {
        match $data {
            $crate::HostTensor::F32($a) => $body,
            $crate::HostTensor::F64($a) => $body,
            $crate::HostTensor::I32($a) => $body,
            $crate::HostTensor::I64($a) => $body,
            $crate::HostTensor::U8($a) => $body,
            $crate::HostTensor::Bool($a) => $body,
        }
    };
}

/// Maps the array inside a [`HostTensor`] to another array of the same element type.
#[macro_export]
macro_rules! map_array {
    ($data:expr, $a:ident => $body:expr) => {
        match $data {
            $crate::HostTensor::F32($a) => $crate::HostTensor::F32($body.into()),
            $crate::HostTensor::F64($a) => $crate::HostTensor::F64($body.into()),
            $crate::HostTensor::I32($a) => $crate::HostTensor::I32($body.into()),
            $crate::HostTensor::I64($a) => $crate::HostTensor::I64($body.into()),
            $crate::HostTensor::U8($a) => $crate::HostTensor::U8($body.into()),
            $crate::HostTensor::Bool($a) => $crate::HostTensor::Bool($body.into()),
        }
    };
}

/// A Rust type that is the element of a tensor.
///
/// There are those that are here and no others, because memory of an element type is handed out as slices of the Rust type:
///
/// ```compile_fail,E0277
/// # use cotangent_graph::{DType, Element, Elements, HostTensor, TensorData};
/// # use ndarray::{CowArray, IxDyn};
/// #[derive(Clone, Copy)]
/// struct Text(&'static str);
///
/// impl Element for Text {
///     const DTYPE: DType = DType::I64;
///     fn to_bits(self) -> u64 { 0 }
///     fn from_bits(_: u64) -> Self { Text("") }
///     fn wrap<'a>(_: CowArray<'a, Self, IxDyn>) -> HostTensor<'a> { TensorData::scalar(DType::I64, 0) }
///     fn unwrap<'t, 'a>(_: &'t HostTensor<'a>) -> Option<&'t CowArray<'a, Self, IxDyn>> { None }
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
    fn wrap<'a>(array: CowArray<'a, Self, IxDyn>) -> HostTensor<'a>;
    /// The array inside, if it has this element type.
    fn unwrap<'t, 'a>(data: &'t HostTensor<'a>) -> Option<&'t CowArray<'a, Self, IxDyn>>;
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
            fn wrap<'a>(array: CowArray<'a, Self, IxDyn>) -> HostTensor<'a> { HostTensor::$variant(array) }
            fn unwrap<'t, 'a>(data: &'t HostTensor<'a>) -> Option<&'t CowArray<'a, Self, IxDyn>> {
                match data { HostTensor::$variant(a) => Some(a), _ => None }
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
    /// As [`HostTensor::from_bits`].
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
            T::wrap(ArrayD::from_shape_simple_fn(IxDyn(shape), || T::from_bits(next.next().unwrap_or(0))).into())
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
    /// As [`HostTensor::from_bits`].
    pub fn from_native_bytes(dtype: DType, shape: &Shape, bytes: &[u8]) -> Self {
        fn read<T: Element>(shape: &Shape, bytes: &[u8]) -> TensorData {
            let mut elements =
                bytes.chunks_exact(T::DTYPE.size_bytes()).map(|place| T::from_bits(bits_of_native(place)));
            let next = || elements.next().unwrap_or(T::from_bits(0));
            T::wrap(ArrayD::from_shape_simple_fn(IxDyn(shape), next).into())
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
}

impl<'a> HostTensor<'a> {
    /// The same elements, borrowed.
    pub fn view(&self) -> HostTensor<'_> {
        map_array!(self, a => a.view())
    }

    /// The same elements, its own and in row-major order; copies them only where they are not so.
    pub fn into_owned(self) -> TensorData {
        with_array!(self, a => TensorData::from(a.into_owned()))
    }

    /// Writes the elements' bytes in row-major order, in the machine's byte order, as far as there is room.
    pub fn write_native_bytes(&self, to: &mut [u8]) {
        with_array!(self, a => write_native(a.iter().copied(), to));
    }

    /// Hands out the elements' bytes in row-major order, little-endian, some thousands at a time.
    ///
    /// # Errors
    /// The first of `take`.
    pub fn try_each_le<E>(&self, mut take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        const PIECE: usize = 1 << 14;
        fn pieces<T: Element, E>(
            mut elements: impl Iterator<Item = T>,
            take: &mut dyn FnMut(&[u8]) -> Result<(), E>,
        ) -> Result<(), E> {
            let mut piece = [0; PIECE];
            loop {
                let places = piece.chunks_exact_mut(T::DTYPE.size_bytes());
                let n = places.zip(&mut elements).map(|(place, value)| {
                    place.copy_from_slice(&value.to_bits().to_le_bytes()[..place.len()]);
                });
                match n.count() * T::DTYPE.size_bytes() {
                    0 => return Ok(()),
                    n => take(&piece[..n])?,
                }
            }
        }
        with_array!(self, a => pieces(a.iter().copied(), &mut take))
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        match self {
            HostTensor::F32(_) => DType::F32,
            HostTensor::F64(_) => DType::F64,
            HostTensor::I32(_) => DType::I32,
            HostTensor::I64(_) => DType::I64,
            HostTensor::U8(_) => DType::U8,
            HostTensor::Bool(_) => DType::Bool,
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
    pub fn array<T: Element>(&self) -> Option<&CowArray<'a, T, IxDyn>> {
        T::unwrap(self)
    }

    /// The value of a tensor of one element, as f64.
    pub fn as_scalar(&self) -> Option<f64> {
        (self.shape().n_elements() == 1).then(|| self.to_f64()[0])
    }

    /// Whether type and bits are equal, any NaN being equal to any other.
    pub fn same_bits(&self, other: &HostTensor<'_>) -> bool {
        let canonical = |t: &HostTensor<'_>| -> Vec<u64> {
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

impl PartialEq<HostTensor<'_>> for HostTensor<'_> {
    /// Equality of type and bits: `-0.0` differs from `0.0`, and a NaN equals itself.
    fn eq(&self, other: &HostTensor<'_>) -> bool {
        self.ty() == other.ty() && self.bits() == other.bits()
    }
}

impl Eq for HostTensor<'_> {}

impl Hash for HostTensor<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.ty().hash(state);
        self.bits().hash(state);
    }
}

impl fmt::Display for HostTensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        with_array!(self, a => write!(f, "{a}"))
    }
}

impl<'a, T: Element, D: Dimension> From<CowArray<'a, T, D>> for HostTensor<'a> {
    fn from(array: CowArray<'a, T, D>) -> Self {
        let is_in_order = array.is_view() || array.is_standard_layout();
        T::wrap(if is_in_order { array.into_dyn() } else { array.as_standard_layout().into_owned().into_dyn().into() })
    }
}

impl<T: Element, D: Dimension> From<Array<T, D>> for HostTensor<'_> {
    fn from(array: Array<T, D>) -> Self {
        CowArray::from(array).into()
    }
}

impl<'a, T: Element, D: Dimension> From<ArrayView<'a, T, D>> for HostTensor<'a> {
    fn from(array: ArrayView<'a, T, D>) -> Self {
        CowArray::from(array).into()
    }
}

impl<'a, T: Element, S: Data<Elem = T>, D: Dimension> From<&'a ArrayBase<S, D>> for HostTensor<'a> {
    fn from(array: &'a ArrayBase<S, D>) -> Self {
        array.view().into()
    }
}

impl<'a> From<&'a HostTensor<'_>> for HostTensor<'a> {
    fn from(tensor: &'a HostTensor<'_>) -> Self {
        tensor.view()
    }
}

impl<'a, T: Element> From<&'a [T]> for HostTensor<'a> {
    fn from(elements: &'a [T]) -> Self {
        ArrayView1::from(elements).into()
    }
}

impl<'a, T: Element, const N: usize> From<&'a [T; N]> for HostTensor<'a> {
    fn from(elements: &'a [T; N]) -> Self {
        elements[..].into()
    }
}

impl<'a, T: Element> From<&'a Vec<T>> for HostTensor<'a> {
    fn from(elements: &'a Vec<T>) -> Self {
        elements[..].into()
    }
}

impl<T: Element> From<Vec<T>> for HostTensor<'_> {
    fn from(elements: Vec<T>) -> Self {
        Array::from_vec(elements).into()
    }
}

impl<T: Element> From<T> for HostTensor<'_> {
    fn from(value: T) -> Self {
        T::wrap(ArrayD::from_elem(IxDyn(&[]), value).into())
    }
}

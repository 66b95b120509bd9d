//! Shapes and types.
//!
//! Shapes are static and row-major. A [`Shape`] is any list of extents; a graph refuses a node whose type is larger than
//! [`Type::check_size`] lets pass, so that no later arithmetic overflows. Numbers of elements and bytes of what is larger
//! still are the largest there are, never wrong ones.

use std::fmt;
use std::ops::Deref;

use cotangent_scalar::DType;
use smallvec::SmallVec;

/// The extents of a tensor, outermost axis first. Rank 0 is a scalar.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shape(SmallVec<[usize; 4]>);

/// The most elements that a tensor may have; eight bytes each stay below what an address can name.
pub const MAX_ELEMENTS: u64 = 1 << 48;

/// The most axes that a tensor may have.
pub const MAX_RANK: usize = 32;

/// How deep tuples may nest.
pub const MAX_TUPLE_DEPTH: usize = 16;

/// How many tuples and tensors a type may have.
pub const MAX_TUPLE_MEMBERS: usize = 1 << 16;

impl Shape {
    /// A shape of these extents.
    pub fn new(dims: &[usize]) -> Self {
        Shape(SmallVec::from_slice(dims))
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// Number of elements, or `None` if there are more than [`MAX_ELEMENTS`]. Extents of 0 do not excuse the others: their
    /// product bounds the strides.
    pub fn checked_elements(&self) -> Option<u64> {
        let extents = self.0.iter().filter(|&&d| d != 0);
        let n = extents.clone().try_fold(1u64, |n, &d| n.checked_mul(d as u64)).filter(|&n| n <= MAX_ELEMENTS)?;
        Some(if self.0.contains(&0) { 0 } else { n })
    }

    /// Number of elements; the largest number if it does not fit one.
    pub fn n_elements(&self) -> usize {
        if self.0.contains(&0) { 0 } else { self.0.iter().fold(1, |n: usize, &d| n.saturating_mul(d)) }
    }

    /// Strides in elements of the row-major layout; the largest number where one does not fit.
    pub fn strides(&self) -> SmallVec<[i64; 4]> {
        let mut strides: SmallVec<[i64; 4]> = SmallVec::from_elem(1, self.rank());
        for axis in (1..self.rank()).rev() {
            strides[axis - 1] = strides[axis].saturating_mul(i64::try_from(self.0[axis]).unwrap_or(i64::MAX));
        }
        strides
    }

    /// The shape without the given axes (ascending).
    pub fn without(&self, axes: &[usize]) -> Shape {
        Shape(self.0.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, &d)| d).collect())
    }

    /// NumPy broadcasting of two shapes, aligned at the last axis.
    pub fn broadcast(&self, other: &Shape) -> Option<Shape> {
        self.joined(other, |_, _| None)
    }

    /// The same, with the larger of two extents that do not fit: what was probably meant.
    pub(crate) fn broadcast_loosely(&self, other: &Shape) -> Shape {
        self.joined(other, |a, b| Some(a.max(b))).unwrap_or_default()
    }

    fn joined(&self, other: &Shape, unequal: impl Fn(usize, usize) -> Option<usize>) -> Option<Shape> {
        let rank = self.rank().max(other.rank());
        let at = |s: &Shape, i: usize| if i + s.rank() < rank { 1 } else { s[i + s.rank() - rank] };
        let join = |i: usize| match (at(self, i), at(other, i)) {
            (a, b) if a == b => Some(a),
            (1, b) => Some(b),
            (a, 1) => Some(a),
            (a, b) => unequal(a, b),
        };
        (0..rank).map(join).collect::<Option<SmallVec<_>>>().map(Shape)
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.0
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Self {
        Shape::new(dims)
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Self {
        Shape::new(&dims)
    }
}

impl From<Vec<usize>> for Shape {
    fn from(dims: Vec<usize>) -> Self {
        Shape::new(&dims)
    }
}

impl From<&Shape> for Shape {
    fn from(shape: &Shape) -> Self {
        shape.clone()
    }
}

impl FromIterator<usize> for Shape {
    fn from_iter<T: IntoIterator<Item = usize>>(dims: T) -> Self {
        Shape(dims.into_iter().collect())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, d) in self.0.iter().enumerate() {
            write!(f, "{}{d}", if i == 0 { "" } else { "," })?;
        }
        f.write_str("]")
    }
}

/// The type of a value: a tensor, or several values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// A tensor of one element type.
    Tensor {
        /// Element type.
        dtype: DType,
        /// Extents.
        shape: Shape,
    },
    /// The results of a region with several; taken apart by `item`.
    Tuple(Vec<Type>),
}

impl Type {
    /// A tensor type.
    pub fn tensor(dtype: DType, shape: impl Into<Shape>) -> Self {
        Type::Tensor { dtype, shape: shape.into() }
    }

    /// Element type and shape of a tensor type.
    pub fn as_tensor(&self) -> Option<(DType, &Shape)> {
        match self {
            Type::Tensor { dtype, shape } => Some((*dtype, shape)),
            Type::Tuple(_) => None,
        }
    }

    /// The shape; empty for a tuple.
    pub fn shape(&self) -> &Shape {
        static SCALAR: Shape = Shape(SmallVec::new_const());
        match self {
            Type::Tensor { shape, .. } => shape,
            Type::Tuple(_) => &SCALAR,
        }
    }

    /// The element type; that of the first member of a tuple.
    pub fn dtype(&self) -> DType {
        match self {
            Type::Tensor { dtype, .. } => *dtype,
            Type::Tuple(members) => members.first().map_or(DType::Bool, Type::dtype),
        }
    }

    /// Bytes of a tensor in memory; the largest number if they do not fit one.
    pub fn n_bytes(&self) -> usize {
        self.shape().n_elements().saturating_mul(self.dtype().size_bytes())
    }

    /// The number of tuples and tensors in it.
    pub fn n_members(&self) -> usize {
        match self {
            Type::Tensor { .. } => 1,
            Type::Tuple(members) => 1 + members.iter().map(Type::n_members).sum::<usize>(),
        }
    }

    /// Whether no value of a graph may be as large as this: what it is then.
    ///
    /// # Errors
    /// More elements than [`MAX_ELEMENTS`], more axes than [`MAX_RANK`], tuples that nest deeper than [`MAX_TUPLE_DEPTH`] or have
    /// more than [`MAX_TUPLE_MEMBERS`] members.
    pub fn check_size(&self) -> Result<(), String> {
        self.check_size_within(MAX_TUPLE_DEPTH)?;
        match self.n_members() {
            0..=MAX_TUPLE_MEMBERS => Ok(()),
            n => Err(format!("a tuple of {n} members, more than {MAX_TUPLE_MEMBERS}")),
        }
    }

    fn check_size_within(&self, depth: usize) -> Result<(), String> {
        match self {
            Type::Tuple(_) if depth == 0 => Err(format!("a tuple that nests more than {MAX_TUPLE_DEPTH} deep")),
            Type::Tuple(members) => members.iter().try_for_each(|member| member.check_size_within(depth - 1)),
            Type::Tensor { shape, .. } if shape.rank() > MAX_RANK => {
                Err(format!("a tensor of {} axes, more than {MAX_RANK}", shape.rank()))
            }
            Type::Tensor { shape, .. } if shape.checked_elements().is_none() => {
                Err(format!("a tensor of shape {shape}, which has more than 2^48 elements"))
            }
            Type::Tensor { .. } => Ok(()),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Tensor { dtype, shape } => write!(f, "{dtype}{shape}"),
            Type::Tuple(members) => {
                f.write_str("(")?;
                for (i, member) in members.iter().enumerate() {
                    write!(f, "{}{member}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str(")")
            }
        }
    }
}

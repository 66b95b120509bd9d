//! Shapes and types.
//!
//! Shapes are static and row-major. Element counts are checked: a shape whose byte size does not fit what can be
//! addressed is refused where it is made, so that no later arithmetic overflows.

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

    /// Number of elements of a shape that was checked when it was made.
    pub fn n_elements(&self) -> usize {
        self.0.iter().product()
    }

    /// Strides in elements of the row-major layout.
    pub fn strides(&self) -> SmallVec<[i64; 4]> {
        let mut strides: SmallVec<[i64; 4]> = SmallVec::from_elem(1, self.rank());
        for axis in (1..self.rank()).rev() {
            strides[axis - 1] = strides[axis] * self.0[axis] as i64;
        }
        strides
    }

    /// The shape without the given axes (ascending).
    pub fn without(&self, axes: &[usize]) -> Shape {
        Shape(self.0.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, &d)| d).collect())
    }

    /// NumPy broadcasting of two shapes, aligned at the last axis.
    pub fn broadcast(&self, other: &Shape) -> Option<Shape> {
        let rank = self.rank().max(other.rank());
        let at = |s: &Shape, i: usize| if i + s.rank() < rank { 1 } else { s[i + s.rank() - rank] };
        let mut out = SmallVec::new();
        for i in 0..rank {
            match (at(self, i), at(other, i)) {
                (a, b) if a == b => out.push(a),
                (1, b) => out.push(b),
                (a, 1) => out.push(a),
                _ => return None,
            }
        }
        Some(Shape(out))
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

    /// Bytes of a tensor in memory.
    pub fn n_bytes(&self) -> usize {
        self.shape().n_elements() * self.dtype().size_bytes()
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

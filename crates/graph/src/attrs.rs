//! Attributes: the static part of an op's arguments, uniform for all ops.
//!
//! An op declares its attributes ([`AttrSpec`]); a node carries values in the order of the declaration. One printer, one
//! parser, one hasher and one verifier then serve every op.

use std::sync::Arc;

use cotangent_scalar::DType;
use smallvec::SmallVec;

use crate::init::Init;
use crate::ir::BodyId;
use crate::number::Number;
use crate::tensor::TensorData;

/// The kind of an attribute's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttrKind {
    /// A whole number.
    Int,
    /// A list of whole numbers.
    Ints,
    /// A real number.
    Float,
    /// A number of an element type that the op knows.
    Number,
    /// `true` or `false`.
    Bool,
    /// Text in quotes.
    Str,
    /// An element type.
    DType,
    /// The elements of a constant.
    Tensor,
    /// How a parameter or state starts.
    Init,
    /// A body of the graph.
    Body,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Attr {
    /// A whole number.
    Int(i64),
    /// A list of whole numbers.
    Ints(SmallVec<[i64; 4]>),
    /// The bits of a real number.
    Float(u64),
    /// A number whose element type the op knows.
    Number(Number),
    /// A truth value.
    Bool(bool),
    /// Text.
    Str(Arc<str>),
    /// An element type.
    DType(DType),
    /// A constant's elements.
    Tensor(Arc<TensorData>),
    /// An initialiser.
    Init(Init),
    /// A body of the graph.
    Body(BodyId),
}

impl Attr {
    /// The kind of this value.
    pub fn kind(&self) -> AttrKind {
        match self {
            Attr::Int(_) => AttrKind::Int,
            Attr::Ints(_) => AttrKind::Ints,
            Attr::Float(_) => AttrKind::Float,
            Attr::Number(_) => AttrKind::Number,
            Attr::Bool(_) => AttrKind::Bool,
            Attr::Str(_) => AttrKind::Str,
            Attr::DType(_) => AttrKind::DType,
            Attr::Tensor(_) => AttrKind::Tensor,
            Attr::Init(_) => AttrKind::Init,
            Attr::Body(_) => AttrKind::Body,
        }
    }
}

impl From<i64> for Attr {
    fn from(v: i64) -> Self {
        Attr::Int(v)
    }
}

impl From<f64> for Attr {
    fn from(v: f64) -> Self {
        Attr::Float(v.to_bits())
    }
}

impl From<Number> for Attr {
    fn from(v: Number) -> Self {
        Attr::Number(v)
    }
}

impl From<bool> for Attr {
    fn from(v: bool) -> Self {
        Attr::Bool(v)
    }
}

impl From<&str> for Attr {
    fn from(v: &str) -> Self {
        Attr::Str(v.into())
    }
}

impl From<&[usize]> for Attr {
    fn from(v: &[usize]) -> Self {
        Attr::Ints(v.iter().map(|&d| d as i64).collect())
    }
}

impl From<DType> for Attr {
    fn from(v: DType) -> Self {
        Attr::DType(v)
    }
}

impl From<TensorData> for Attr {
    fn from(v: TensorData) -> Self {
        Attr::Tensor(Arc::new(v))
    }
}

impl From<Init> for Attr {
    fn from(v: Init) -> Self {
        Attr::Init(v)
    }
}

impl From<BodyId> for Attr {
    fn from(v: BodyId) -> Self {
        Attr::Body(v)
    }
}

/// The declaration of an attribute.
#[derive(Clone, Copy, Debug)]
pub struct AttrSpec {
    /// The name in the text form.
    pub name: &'static str,
    /// What it holds.
    pub kind: AttrKind,
    /// What it means, for the op reference.
    pub doc: &'static str,
}

/// The attributes of a node, in the order in which its op declares them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Attrs(SmallVec<[(&'static str, Attr); 2]>);

impl Attrs {
    /// No attributes.
    pub fn none() -> Self {
        Attrs::default()
    }

    /// These attributes and one more.
    pub fn with(mut self, name: &'static str, value: impl Into<Attr>) -> Self {
        self.0.push((name, value.into()));
        self
    }

    /// All names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Attr)> {
        self.0.iter().map(|(name, value)| (*name, value))
    }

    /// The value of an attribute.
    pub fn get(&self, name: &str) -> Option<&Attr> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// A whole number; 0 if absent (the verifier reports absence).
    pub fn int(&self, name: &str) -> i64 {
        match self.get(name) {
            Some(Attr::Int(v)) => *v,
            _ => 0,
        }
    }

    /// A whole number as an axis or size; a negative one becomes the largest, which no check lets pass.
    pub fn size(&self, name: &str) -> usize {
        usize::try_from(self.int(name)).unwrap_or(usize::MAX)
    }

    /// A list of whole numbers; empty if absent.
    pub fn ints(&self, name: &str) -> &[i64] {
        match self.get(name) {
            Some(Attr::Ints(v)) => v,
            _ => &[],
        }
    }

    /// A list of sizes or axes; negative numbers become the largest size, which no check lets pass.
    pub fn sizes(&self, name: &str) -> SmallVec<[usize; 4]> {
        self.ints(name).iter().map(|&v| usize::try_from(v).unwrap_or(usize::MAX)).collect()
    }

    /// A real number; 0 if absent.
    pub fn float(&self, name: &str) -> f64 {
        match self.get(name) {
            Some(Attr::Float(bits)) => f64::from_bits(*bits),
            _ => 0.0,
        }
    }

    /// A number; 0 if absent.
    pub fn number(&self, name: &str) -> Number {
        match self.get(name) {
            Some(Attr::Number(v)) => *v,
            _ => Number::of(0.0),
        }
    }

    /// A truth value; false if absent.
    pub fn bool(&self, name: &str) -> bool {
        matches!(self.get(name), Some(Attr::Bool(true)))
    }

    /// Text; empty if absent.
    pub fn str(&self, name: &str) -> &str {
        match self.get(name) {
            Some(Attr::Str(v)) => v,
            _ => "",
        }
    }

    /// An element type.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        match self.get(name) {
            Some(Attr::DType(v)) => Some(*v),
            _ => None,
        }
    }

    /// A constant's elements.
    pub fn tensor(&self, name: &str) -> Option<&Arc<TensorData>> {
        match self.get(name) {
            Some(Attr::Tensor(v)) => Some(v),
            _ => None,
        }
    }

    /// An initialiser.
    pub fn init(&self, name: &str) -> Option<&Init> {
        match self.get(name) {
            Some(Attr::Init(v)) => Some(v),
            _ => None,
        }
    }

    /// A body.
    pub fn body(&self, name: &str) -> Option<BodyId> {
        match self.get(name) {
            Some(Attr::Body(v)) => Some(*v),
            _ => None,
        }
    }

    /// Replaces every body by what `f` makes of it.
    pub fn map_bodies(&self, mut f: impl FnMut(BodyId) -> BodyId) -> Attrs {
        let map = |(name, value): &(&'static str, Attr)| match value {
            Attr::Body(id) => (*name, Attr::Body(f(*id))),
            other => (*name, other.clone()),
        };
        Attrs(self.0.iter().map(map).collect())
    }
}

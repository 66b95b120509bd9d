//! Steps: what is not loops over elements at affine indices, such as rows picked by index, running sums, orders.
//!
//! An op that lowers as [`Lower::Step`](crate::Lower::Step) says here, once and for all, what everybody below the graph asks: which
//! operands are indices and below what, what it costs, which operand its result may be made in the place of, and how it is done.
//! Planner, verifiers, reports and machine know this trait and no kinds of steps. The slow twin is the record's `eval`, which the
//! plan interpreter runs.
//!
//! A step reads its operands whole, and writes one result. Both are slices, so a mistake here breaks no memory.

use std::ops::Range;

use cotangent_scalar::DType;
use smallvec::SmallVec;

use crate::attrs::Attrs;
use crate::ir::{Graph, Node};
use crate::tensor::Element;
use crate::types::{Shape, Type};

/// What a step knows of its node.
#[derive(Clone, Debug)]
pub struct StepCx<'a> {
    /// The attributes.
    pub attrs: &'a Attrs,
    /// The operands' types.
    pub inputs: SmallVec<[&'a Type; 6]>,
    /// The type of the result.
    pub ty: &'a Type,
}

impl<'a> StepCx<'a> {
    /// What is known of a node.
    pub fn of(graph: &'a Graph, node: &'a Node) -> Self {
        let inputs = node.inputs.iter().map(|&input| graph.ty(input)).collect();
        StepCx { attrs: &node.attrs, inputs, ty: &node.ty }
    }

    /// The shape of operand `k`.
    pub fn shape(&self, k: usize) -> &'a Shape {
        self.inputs[k].shape()
    }

    /// The bytes of operand `k`.
    pub fn n_bytes(&self, k: usize) -> u64 {
        self.inputs[k].n_bytes() as u64
    }
}

/// What is not loops.
pub trait StepOp: Sync {
    /// What the step does, for the op reference.
    fn doc(&self) -> &'static str;

    /// What a step of this node does, for plans in print.
    fn text(&self, cx: &StepCx<'_>) -> String;

    /// The operands that are indices, each with the number that all its elements must be below. That is checked before the
    /// program's step changes anything, and [`StepOp::run`] may rely on it.
    fn indices(&self, _: &StepCx<'_>) -> SmallVec<[(usize, usize); 4]> {
        SmallVec::new()
    }

    /// The operand, of the result's type, that the result is but for what [`StepOp::run`] changes: it is there already when that
    /// is called, without a copy where the operand's memory may become the result's. `run` is handed nothing in its place.
    fn starts_as(&self) -> Option<usize> {
        None
    }

    /// The least and the largest value that an integer result may have, if the op knows.
    fn range(&self, _: &StepCx<'_>) -> Option<(i64, i64)> {
        None
    }

    /// Bytes that [`StepOp::run`] reads and writes.
    fn n_bytes(&self, cx: &StepCx<'_>) -> u64 {
        cx.inputs.iter().map(|ty| ty.n_bytes() as u64).sum::<u64>() + cx.ty.n_bytes() as u64
    }

    /// Operations, one element after the other, that take longer than moving the bytes.
    fn n_ops(&self, _: &StepCx<'_>) -> f64 {
        0.0
    }

    /// Into how many pieces of one length, in row-major order, the result can be divided so that each is made on its own.
    fn n_pieces(&self, cx: &StepCx<'_>) -> usize;

    /// Makes some pieces of the result. `out` holds those and no others; `operands` are whole.
    fn run(&self, cx: &StepCx<'_>, operands: &[Elements<'_>], pieces: Range<usize>, out: ElementsMut<'_>);
}

macro_rules! elements {
    ($($variant:ident, $t:ty;)*) => {
        /// The elements of an operand in row-major order.
        #[derive(Clone, Copy, Debug)]
        pub enum Elements<'a> {
            $(#[doc = concat!("Of type ", stringify!($t), ".")] $variant(&'a [$t]),)*
        }

        /// The elements of a result in row-major order.
        #[derive(Debug)]
        pub enum ElementsMut<'a> {
            $(#[doc = concat!("Of type ", stringify!($t), ".")] $variant(&'a mut [$t]),)*
        }

        impl Elements<'_> {
            /// No elements of a type.
            pub fn none(dtype: DType) -> Self {
                match dtype { $(DType::$variant => Elements::$variant(&[]),)* }
            }
        }
    };
}
elements! { F32, f32; F64, f64; I32, i32; I64, i64; U8, u8; Bool, bool; }

impl<'a> Elements<'a> {
    /// The slice; empty if the elements are of another type.
    pub fn of<T: Element>(self) -> &'a [T] {
        T::slice(self).unwrap_or(&[])
    }

    /// Element `k` of indices.
    pub fn index(self, k: usize) -> usize {
        match self {
            Elements::I32(v) => v[k] as usize,
            _ => self.of::<i64>()[k] as usize,
        }
    }
}

/// Elements that are added and multiplied: integers wrap.
pub(crate) trait Arithmetic: Element {
    const ZERO: Self;
    const ONE: Self;
    fn plus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
}

macro_rules! arithmetic {
    ($($t:ty, $one:expr, $plus:expr, $times:expr;)*) => {
        $(impl Arithmetic for $t {
            const ZERO: Self = $one - $one;
            const ONE: Self = $one;
            fn plus(self, other: Self) -> Self { $plus(self, other) }
            fn times(self, other: Self) -> Self { $times(self, other) }
        })*
    };
}
arithmetic! {
    f32, 1.0, std::ops::Add::add, std::ops::Mul::mul;
    f64, 1.0, std::ops::Add::add, std::ops::Mul::mul;
    i32, 1, i32::wrapping_add, i32::wrapping_mul;
    i64, 1, i64::wrapping_add, i64::wrapping_mul;
    u8, 1, u8::wrapping_add, u8::wrapping_mul;
}

/// Runs an expression on the slice inside [`Elements`].
macro_rules! with_slice {
    ($elements:expr, $slice:ident => $body:expr) => {
        match $elements {
            $crate::step::Elements::F32($slice) => $body,
            $crate::step::Elements::F64($slice) => $body,
            $crate::step::Elements::I32($slice) => $body,
            $crate::step::Elements::I64($slice) => $body,
            $crate::step::Elements::U8($slice) => $body,
            $crate::step::Elements::Bool($slice) => $body,
        }
    };
}

/// As [`with_elements`], for numbers; truth values, which ops of numbers do not take, are left alone.
macro_rules! with_numbers {
    ($out:expr, $slice:ident: $t:ident => $body:expr) => {
        $crate::step::with_numbers!(@ $out, $slice: $t => $body; F32 f32, F64 f64, I32 i32, I64 i64, U8 u8)
    };
    (@ $out:expr, $slice:ident: $t:ident => $body:expr; $($variant:ident $type:ty),*) => {
        match $out {
            $($crate::step::ElementsMut::$variant($slice) => { type $t = $type; $body })*
            $crate::step::ElementsMut::Bool(_) => {}
        }
    };
}
/// Runs an expression on the slice inside an [`ElementsMut`], as a slice of `$t`, whatever that is.
macro_rules! with_elements {
    ($out:expr, $slice:ident: $t:ident => $body:expr) => {
        $crate::step::with_elements!(@ $out, $slice: $t => $body;
            F32 f32, F64 f64, I32 i32, I64 i64, U8 u8, Bool bool)
    };
    (@ $out:expr, $slice:ident: $t:ident => $body:expr; $($variant:ident $type:ty),*) => {
        match $out {
            $($crate::step::ElementsMut::$variant($slice) => { type $t = $type; $body })*
        }
    };
}
pub(crate) use {with_elements, with_numbers, with_slice};

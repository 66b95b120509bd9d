//! Inputs of a step: borrowed views of the caller's arrays, by name or by an id resolved once.

use cotangent_graph::{Element, Shape, TensorData};
use cotangent_scalar::DType;
use ndarray::{ArrayBase, ArrayView, CowArray, Data, Dimension, IxDyn};

/// An input of a program, resolved once by [`crate::Executable::input_id`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InputId(pub(crate) usize);

/// What names an input of a step: its name, or its [`InputId`].
pub trait InputKey {
    /// The position among the program's inputs, given their names.
    fn position(&self, names: &[String]) -> Option<usize>;
    /// The name for messages.
    fn label(&self) -> String;
}

impl InputKey for &str {
    fn position(&self, names: &[String]) -> Option<usize> {
        names.iter().position(|n| n == self)
    }
    fn label(&self) -> String {
        (*self).to_owned()
    }
}

impl InputKey for String {
    fn position(&self, names: &[String]) -> Option<usize> {
        names.iter().position(|n| n == self)
    }
    fn label(&self) -> String {
        self.clone()
    }
}

impl InputKey for InputId {
    fn position(&self, names: &[String]) -> Option<usize> {
        (self.0 < names.len()).then_some(self.0)
    }
    fn label(&self) -> String {
        format!("#{}", self.0)
    }
}

/// A tensor handed to a step. Arrays in row-major order are borrowed; others are copied.
#[derive(Clone, Debug)]
pub enum InputView<'a> {
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

macro_rules! each {
    ($view:expr, $a:ident => $body:expr) => {
        match $view {
            InputView::F32($a) => $body,
            InputView::F64($a) => $body,
            InputView::I32($a) => $body,
            InputView::I64($a) => $body,
            InputView::U8($a) => $body,
            InputView::Bool($a) => $body,
        }
    };
}

impl InputView<'_> {
    /// The element type.
    pub fn dtype(&self) -> DType {
        match self {
            InputView::F32(_) => DType::F32,
            InputView::F64(_) => DType::F64,
            InputView::I32(_) => DType::I32,
            InputView::I64(_) => DType::I64,
            InputView::U8(_) => DType::U8,
            InputView::Bool(_) => DType::Bool,
        }
    }

    /// The extents.
    pub fn shape(&self) -> Shape {
        each!(self, a => Shape::new(a.shape()))
    }

    pub(crate) fn has_shape(&self, shape: &Shape) -> bool {
        each!(self, a => a.shape() == &shape[..])
    }

    /// A copy of the elements.
    pub fn to_tensor(&self) -> TensorData {
        match self {
            InputView::F32(a) => TensorData::F32(a.to_owned()),
            InputView::F64(a) => TensorData::F64(a.to_owned()),
            InputView::I32(a) => TensorData::I32(a.to_owned()),
            InputView::I64(a) => TensorData::I64(a.to_owned()),
            InputView::U8(a) => TensorData::U8(a.to_owned()),
            InputView::Bool(a) => TensorData::Bool(a.to_owned()),
        }
    }

    /// The address of the first element; the elements follow in row-major order.
    pub(crate) fn as_ptr(&self) -> *const u8 {
        each!(self, a => a.as_ptr().cast())
    }
}

/// An element type that views can have.
pub trait ViewElement: Element {
    /// Wraps an array in row-major order.
    fn view(array: CowArray<'_, Self, IxDyn>) -> InputView<'_>;
}

macro_rules! view_elements {
    ($($t:ty, $variant:ident;)*) => {
        $(impl ViewElement for $t {
            fn view(array: CowArray<'_, Self, IxDyn>) -> InputView<'_> { InputView::$variant(array) }
        })*
    };
}
view_elements! { f32, F32; f64, F64; i32, I32; i64, I64; u8, U8; bool, Bool; }

impl<'a, T: ViewElement, D: Dimension> From<ArrayView<'a, T, D>> for InputView<'a> {
    fn from(array: ArrayView<'a, T, D>) -> Self {
        let array = array.into_dyn();
        T::view(if array.is_standard_layout() {
            CowArray::from(array)
        } else {
            CowArray::from(array.as_standard_layout().into_owned())
        })
    }
}

impl<'a, T: ViewElement, S: Data<Elem = T>, D: Dimension> From<&'a ArrayBase<S, D>> for InputView<'a> {
    fn from(array: &'a ArrayBase<S, D>) -> Self {
        array.view().into()
    }
}

impl<'a> From<&'a TensorData> for InputView<'a> {
    fn from(tensor: &'a TensorData) -> Self {
        match tensor {
            TensorData::F32(a) => a.into(),
            TensorData::F64(a) => a.into(),
            TensorData::I32(a) => a.into(),
            TensorData::I64(a) => a.into(),
            TensorData::U8(a) => a.into(),
            TensorData::Bool(a) => a.into(),
        }
    }
}

//! Inputs of a step: borrowed views of the caller's arrays, by name or by an id resolved once; and all of them together,
//! checked, as a step takes them.

use cotangent_graph::{Code, Diag, Element, Shape, TensorData};
use cotangent_host::{Block, Refused};
use cotangent_scalar::DType;
use ndarray::{ArrayBase, ArrayView, Data, Dimension, IxDyn};
use smallvec::SmallVec;

use crate::compile::{Executable, Identity};
use crate::memory::{block_of, no_memory};

/// An input of a program, resolved once by [`crate::Executable::input_id`]. It is that program's alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InputId {
    pub(crate) program: Identity,
    pub(crate) at: usize,
}

/// What names an input of a step: its name, or its [`InputId`]. It can be implemented here only.
pub trait InputKey: Key {}

/// The part of [`InputKey`] that is not for others.
pub trait Key {
    /// The position among a program's inputs.
    ///
    /// # Errors
    /// `E0301` if the program has no such input, `E0308` for an id of another program.
    #[doc(hidden)]
    fn position(&self, program: &Executable) -> Result<usize, Diag>;
}

impl Key for &str {
    #[track_caller]
    fn position(&self, program: &Executable) -> Result<usize, Diag> {
        match program.interface.input_names.iter().position(|name| name == self) {
            Some(at) => Ok(at),
            None => Err(program.unknown_input(self)),
        }
    }
}

impl Key for String {
    #[track_caller]
    fn position(&self, program: &Executable) -> Result<usize, Diag> {
        self.as_str().position(program)
    }
}

impl Key for InputId {
    #[track_caller]
    fn position(&self, program: &Executable) -> Result<usize, Diag> {
        if self.program == program.id && self.at < program.interface.input_names.len() {
            return Ok(self.at);
        }
        let diag = Diag::new(Code::ForeignId, "the id of an input is of another program");
        Err(diag.help("each program has ids of its own: ask this one by `Executable::input_id`"))
    }
}

impl InputKey for &str {}
impl InputKey for String {}
impl InputKey for InputId {}

/// A tensor handed to a step, made from any array by `into()`, whatever the order of its elements in memory. Arrays in
/// row-major order are read where they are; others are copied by the step.
#[derive(Clone, Debug)]
pub struct InputView<'a>(View<'a>);

#[derive(Clone, Debug)]
enum View<'a> {
    F32(ArrayView<'a, f32, IxDyn>),
    F64(ArrayView<'a, f64, IxDyn>),
    I32(ArrayView<'a, i32, IxDyn>),
    I64(ArrayView<'a, i64, IxDyn>),
    U8(ArrayView<'a, u8, IxDyn>),
    Bool(ArrayView<'a, bool, IxDyn>),
}

macro_rules! each {
    ($view:expr, $a:ident => $body:expr) => {
        match &$view.0 {
            View::F32($a) => $body,
            View::F64($a) => $body,
            View::I32($a) => $body,
            View::I64($a) => $body,
            View::U8($a) => $body,
            View::Bool($a) => $body,
        }
    };
}

impl InputView<'_> {
    /// The element type.
    pub fn dtype(&self) -> DType {
        match self.0 {
            View::F32(_) => DType::F32,
            View::F64(_) => DType::F64,
            View::I32(_) => DType::I32,
            View::I64(_) => DType::I64,
            View::U8(_) => DType::U8,
            View::Bool(_) => DType::Bool,
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
        each!(self, a => TensorData::from(a.view()))
    }

    /// The address of the first element, and the number of elements, if they follow each other in row-major order.
    fn in_order(&self) -> Option<(*const u8, usize)> {
        each!(self, a => a.as_slice().map(|elements| (elements.as_ptr().cast(), elements.len())))
    }

    /// A copy of the elements in row-major order.
    fn copied(&self) -> Result<Block, Refused> {
        each!(self, a => block_of(a.iter().copied(), a.len()))
    }
}

/// An element type that views can have.
pub trait ViewElement: Element {
    #[doc(hidden)]
    fn view(array: ArrayView<'_, Self, IxDyn>) -> InputView<'_>;
}

macro_rules! view_elements {
    ($($t:ty, $variant:ident;)*) => {
        $(impl ViewElement for $t {
            fn view(array: ArrayView<'_, Self, IxDyn>) -> InputView<'_> { InputView(View::$variant(array)) }
        })*
    };
}
view_elements! { f32, F32; f64, F64; i32, I32; i64, I64; u8, U8; bool, Bool; }

impl<'a, T: ViewElement, D: Dimension> From<ArrayView<'a, T, D>> for InputView<'a> {
    fn from(array: ArrayView<'a, T, D>) -> Self {
        T::view(array.into_dyn())
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

/// An input that was given: its view, or a copy of its elements in row-major order as well.
#[derive(Debug)]
struct Given<'a> {
    view: InputView<'a>,
    copy: Option<Block>,
}

/// The inputs of a step of a program, in its order: all of them, each of the type that the program declares.
#[derive(Debug)]
pub(crate) struct Inputs<'a>(SmallVec<[Option<Given<'a>>; 8]>);

impl<'a> Inputs<'a> {
    /// Checks what is given against what a program asks for. Of several values for one input the last one counts.
    ///
    /// # Errors
    /// `E0301` for an unknown or missing input, `E0302` for one of another type, `E0308` for an id of another program.
    #[track_caller]
    pub(crate) fn new<K: InputKey>(
        program: &Executable,
        given: impl IntoIterator<Item = (K, InputView<'a>)>,
    ) -> Result<Self, Diag> {
        let mut inputs = Inputs((0..program.interface.input_names.len()).map(|_| None).collect());
        for (key, view) in given {
            let at = key.position(program)?;
            program.check_input(at, &view)?;
            inputs.0[at] = Some(Given { view, copy: None });
        }
        match inputs.0.iter().position(Option::is_none) {
            None => Ok(inputs),
            Some(missing) => Err(program.missing_input(missing)),
        }
    }

    /// Copies what is not in row-major order.
    ///
    /// # Errors
    /// `E0309` if there is no memory for it; the inputs that a program asks for may be large.
    #[track_caller]
    pub(crate) fn in_order(mut self, program: &Executable) -> Result<Self, Diag> {
        for (at, given) in self.0.iter_mut().enumerate() {
            let Some(given) = given.as_mut().filter(|given| given.view.in_order().is_none()) else { continue };
            match given.view.copied() {
                Ok(copy) => given.copy = Some(copy),
                Err(refused) => {
                    let what = format!("a copy of input `{}` in row-major order", program.interface.input_names[at]);
                    return Err(no_memory(what, refused).help("an array in row-major order is read where it is"));
                }
            }
        }
        Ok(self)
    }

    /// The views with their positions.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &InputView<'a>)> {
        self.0.iter().enumerate().filter_map(|(at, given)| Some((at, &given.as_ref()?.view)))
    }

    /// Where an input's elements are in row-major order, their type and their number; `None` if they are in another order and
    /// were not copied.
    pub(crate) fn place(&self, at: usize) -> Option<(*const u8, DType, usize)> {
        let Given { view, copy } = self.0.get(at)?.as_ref()?;
        let (address, n) = match copy {
            Some(copy) => (copy.as_ptr().cast_const(), copy.n_bytes() / view.dtype().size_bytes()),
            None => view.in_order()?,
        };
        Some((address, view.dtype(), n))
    }
}

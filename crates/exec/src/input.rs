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

/// The inputs of a step: names (or [`InputId`]s) with arrays, or anything else that an [`InputView`] is made from.
///
/// | written | for |
/// |---|---|
/// | `()` | a program without inputs |
/// | `("x", &x)` | one input |
/// | `(("x", &x), ("labels", &labels))` | two to eight, of any types |
/// | `inputs![x, labels, "mask" => &m]` | any number, named by the variables |
/// | an array or `Vec` of pairs of a name and an [`InputView`], or an iterator over such in [`Each`] | what is put together while the program runs |
pub trait StepInputs<'a>: Give<'a> {}

/// The part of [`StepInputs`] that is not for others.
pub trait Give<'a> {
    #[doc(hidden)]
    #[track_caller]
    fn give(self, program: &Executable, to: &mut Inputs<'a>) -> Result<(), Diag>;
}

impl<'a, T: Give<'a>> StepInputs<'a> for T {}

impl<'a, K: InputKey, const N: usize> Give<'a> for [(K, InputView<'a>); N] {
    #[track_caller]
    fn give(self, program: &Executable, to: &mut Inputs<'a>) -> Result<(), Diag> {
        Each(self).give(program, to)
    }
}

impl<'a, K: InputKey> Give<'a> for Vec<(K, InputView<'a>)> {
    #[track_caller]
    fn give(self, program: &Executable, to: &mut Inputs<'a>) -> Result<(), Diag> {
        Each(self).give(program, to)
    }
}

/// Inputs that an iterator gives.
#[derive(Clone, Debug)]
pub struct Each<I>(pub I);

impl<'a, K: InputKey, I: IntoIterator<Item = (K, InputView<'a>)>> Give<'a> for Each<I> {
    #[track_caller]
    fn give(self, program: &Executable, to: &mut Inputs<'a>) -> Result<(), Diag> {
        for (key, value) in self.0 {
            to.add(program, key, value)?;
        }
        Ok(())
    }
}

impl<'a, K: InputKey, V: Into<InputView<'a>>> Give<'a> for (K, V) {
    #[track_caller]
    fn give(self, program: &Executable, to: &mut Inputs<'a>) -> Result<(), Diag> {
        to.add(program, self.0, self.1.into())
    }
}

impl<'a> Give<'a> for () {
    fn give(self, _: &Executable, _: &mut Inputs<'a>) -> Result<(), Diag> {
        Ok(())
    }
}

macro_rules! give_tuples {
    ($($($k:ident $v:ident $pair:ident),*;)*) => {
        $(impl<'a, $($k: InputKey, $v: Into<InputView<'a>>),*> Give<'a> for ($(($k, $v),)*) {
            #[track_caller]
            fn give(self, program: &Executable, to: &mut Inputs<'a>) -> Result<(), Diag> {
                let ($($pair,)*) = self;
                $(to.add(program, $pair.0, $pair.1.into())?;)*
                Ok(())
            }
        })*
    };
}
give_tuples! {
    K1 V1 p1, K2 V2 p2;
    K1 V1 p1, K2 V2 p2, K3 V3 p3;
    K1 V1 p1, K2 V2 p2, K3 V3 p3, K4 V4 p4;
    K1 V1 p1, K2 V2 p2, K3 V3 p3, K4 V4 p4, K5 V5 p5;
    K1 V1 p1, K2 V2 p2, K3 V3 p3, K4 V4 p4, K5 V5 p5, K6 V6 p6;
    K1 V1 p1, K2 V2 p2, K3 V3 p3, K4 V4 p4, K5 V5 p5, K6 V6 p6, K7 V7 p7;
    K1 V1 p1, K2 V2 p2, K3 V3 p3, K4 V4 p4, K5 V5 p5, K6 V6 p6, K7 V7 p7, K8 V8 p8;
}

/// The inputs of a step: variables by their own names, and other expressions as `"name" => expression`; arrays and references to
/// arrays alike. See [`StepInputs`].
///
/// ```
/// use cotangent_exec::inputs;
/// use ndarray::array;
///
/// let (x, labels, factor) = (array![[0.5f32, 1.0]], array![1i64], array![2.0f32]);
/// let given = inputs![x, labels, "scale" => factor];
/// assert_eq!(given.len(), 3);
/// ```
#[macro_export]
macro_rules! inputs {
    (@done [$($done:tt)*]) => { [$($done)*] };
    (@done [$($done:tt)*] $name:ident $(, $($rest:tt)*)?) => {
        $crate::inputs!(@done [$($done)* (stringify!($name), $crate::AsInput::as_input(&$name)),] $($($rest)*)?)
    };
    (@done [$($done:tt)*] $name:expr => $value:expr $(, $($rest:tt)*)?) => {
        $crate::inputs!(@done [$($done)* ($name, $crate::AsInput::as_input(&$value)),] $($($rest)*)?)
    };
    ($($all:tt)*) => { $crate::inputs!(@done [] $($all)*) };
}

/// What can be viewed as an input: arrays, tensors and references to them.
pub trait AsInput {
    /// The view.
    fn as_input(&self) -> InputView<'_>;
}

impl<T: ViewElement, S: Data<Elem = T>, D: Dimension> AsInput for ArrayBase<S, D> {
    fn as_input(&self) -> InputView<'_> {
        self.into()
    }
}

impl AsInput for TensorData {
    fn as_input(&self) -> InputView<'_> {
        self.into()
    }
}

impl<T: AsInput + ?Sized> AsInput for &T {
    fn as_input(&self) -> InputView<'_> {
        (**self).as_input()
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

/// The inputs of a step of a program, in its order: all of them, each of the type that the program declares.
#[derive(Debug)]
pub struct Inputs<'a> {
    views: SmallVec<[Option<InputView<'a>>; 4]>,
    /// Copies in row-major order of those that are in another one, with their positions.
    copies: Vec<(usize, Block)>,
}

impl<'a> Inputs<'a> {
    /// Checks what is given against what a program asks for.
    ///
    /// # Errors
    /// `E0301` for an unknown or missing input or one given twice, `E0302` for one of another type, `E0308` for an id of another
    /// program.
    #[track_caller]
    pub(crate) fn new(program: &Executable, given: impl StepInputs<'a>) -> Result<Self, Diag> {
        let views = (0..program.interface.input_names.len()).map(|_| None).collect();
        let mut inputs = Inputs { views, copies: Vec::new() };
        given.give(program, &mut inputs)?;
        match inputs.views.iter().position(Option::is_none) {
            None => Ok(inputs),
            Some(missing) => Err(program.missing_input(missing)),
        }
    }

    #[track_caller]
    fn add(&mut self, program: &Executable, key: impl InputKey, view: InputView<'a>) -> Result<(), Diag> {
        let at = key.position(program)?;
        program.check_input(at, &view)?;
        if self.views[at].is_some() {
            let name = &program.interface.input_names[at];
            let diag = Diag::new(Code::InputNames, format!("input `{name}` requires one value, got two"));
            return Err(diag.note("the input was declared", program.declared_at(name)));
        }
        self.views[at] = Some(view);
        Ok(())
    }

    /// Copies what is not in row-major order.
    ///
    /// # Errors
    /// `E0309` if there is no memory for it; the inputs that a program asks for may be large.
    #[track_caller]
    pub(crate) fn in_order(&mut self, program: &Executable) -> Result<(), Diag> {
        for (at, view) in self.views.iter().enumerate() {
            let Some(view) = view.as_ref().filter(|view| view.in_order().is_none()) else { continue };
            match view.copied() {
                Ok(copy) => self.copies.push((at, copy)),
                Err(refused) => {
                    let what = format!("a copy of input `{}` in row-major order", program.interface.input_names[at]);
                    return Err(no_memory(what, refused).help("an array in row-major order is read where it is"));
                }
            }
        }
        Ok(())
    }

    /// The views with their positions.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &InputView<'a>)> {
        self.views.iter().enumerate().filter_map(|(at, view)| Some((at, view.as_ref()?)))
    }

    /// Where an input's elements are in row-major order, their type and their number; `None` if they are in another order and
    /// were not copied.
    pub(crate) fn place(&self, at: usize) -> Option<(*const u8, DType, usize)> {
        let view = self.views.get(at)?.as_ref()?;
        let copy = self.copies.iter().find(|(copied, _)| *copied == at);
        let (address, n) = match copy {
            Some((_, copy)) => (copy.as_ptr().cast_const(), copy.n_bytes() / view.dtype().size_bytes()),
            None => view.in_order()?,
        };
        Some((address, view.dtype(), n))
    }
}

//! Inputs of a step: tensors of the caller's, by name or by an id resolved once; and all of them together,
//! checked, as a step takes them.

use cotangent_graph::{Code, Diag, Element, HostTensor, with_array};
use cotangent_host::{Block, Refused};
use cotangent_scalar::DType;
use ndarray::{ArrayBase, Data, Dimension};
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

/// The address of the first element, and the number of elements, if they follow each other in row-major order.
fn in_order(tensor: &HostTensor<'_>) -> Option<(*const u8, usize)> {
    with_array!(tensor, a => a.as_slice().map(|elements| (elements.as_ptr().cast(), elements.len())))
}

/// A copy of the elements in row-major order.
fn copied(tensor: &HostTensor<'_>) -> Result<Block, Refused> {
    with_array!(tensor, a => block_of(a.iter().copied(), a.len()))
}

/// The inputs of a step: names (or [`InputId`]s) with arrays, or anything else that a [`HostTensor`] is made from. Elements in
/// row-major order are read where they are; others are copied by the step.
///
/// | written | for |
/// |---|---|
/// | `()` | a program without inputs |
/// | `("x", &x)` | one input |
/// | `(("x", &x), ("labels", &labels))` | two to eight, of any types |
/// | `inputs![x, labels, "mask" => &m]` | any number, named by the variables |
/// | an array or `Vec` of pairs of a name and a [`HostTensor`], or an iterator over such in [`Each`] | what is put together while the program runs |
pub trait StepInputs<'a>: Give<'a> {}

/// The part of [`StepInputs`] that is not for others.
pub trait Give<'a> {
    #[doc(hidden)]
    #[track_caller]
    fn give(self, program: &Executable, to: &mut Inputs<'a>) -> Result<(), Diag>;
}

impl<'a, T: Give<'a>> StepInputs<'a> for T {}

impl<'a, K: InputKey, const N: usize> Give<'a> for [(K, HostTensor<'a>); N] {
    #[track_caller]
    fn give(self, program: &Executable, to: &mut Inputs<'a>) -> Result<(), Diag> {
        Each(self).give(program, to)
    }
}

impl<'a, K: InputKey> Give<'a> for Vec<(K, HostTensor<'a>)> {
    #[track_caller]
    fn give(self, program: &Executable, to: &mut Inputs<'a>) -> Result<(), Diag> {
        Each(self).give(program, to)
    }
}

/// Inputs that an iterator gives.
#[derive(Clone, Debug)]
pub struct Each<I>(pub I);

impl<'a, K: InputKey, I: IntoIterator<Item = (K, HostTensor<'a>)>> Give<'a> for Each<I> {
    #[track_caller]
    fn give(self, program: &Executable, to: &mut Inputs<'a>) -> Result<(), Diag> {
        for (key, value) in self.0 {
            to.add(program, key, value)?;
        }
        Ok(())
    }
}

impl<'a, K: InputKey, V: Into<HostTensor<'a>>> Give<'a> for (K, V) {
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
        $(impl<'a, $($k: InputKey, $v: Into<HostTensor<'a>>),*> Give<'a> for ($(($k, $v),)*) {
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

/// What can be viewed as an input: arrays, tensors, vectors, slices and references to them.
pub trait AsInput {
    /// The view.
    fn as_input(&self) -> HostTensor<'_>;
}

impl<T: Element, S: Data<Elem = T>, D: Dimension> AsInput for ArrayBase<S, D> {
    fn as_input(&self) -> HostTensor<'_> {
        self.into()
    }
}

impl<T: Element> AsInput for [T] {
    fn as_input(&self) -> HostTensor<'_> {
        self.into()
    }
}

impl<T: Element, const N: usize> AsInput for [T; N] {
    fn as_input(&self) -> HostTensor<'_> {
        self.into()
    }
}

impl<T: Element> AsInput for Vec<T> {
    fn as_input(&self) -> HostTensor<'_> {
        self.into()
    }
}

impl AsInput for HostTensor<'_> {
    fn as_input(&self) -> HostTensor<'_> {
        self.view()
    }
}

impl<T: AsInput + ?Sized> AsInput for &T {
    fn as_input(&self) -> HostTensor<'_> {
        (**self).as_input()
    }
}

/// The inputs of a step of a program, in its order: all of them, each of the type that the program declares.
#[derive(Debug)]
pub struct Inputs<'a> {
    views: SmallVec<[Option<HostTensor<'a>>; 4]>,
    /// Where the elements of each are in row-major order, and their number: in its view or in one of the copies. Empty before
    /// [`Inputs::in_order`].
    places: SmallVec<[(*const u8, usize); 4]>,
    copies: Vec<Block>,
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
        let mut inputs = Inputs { views, places: SmallVec::new(), copies: Vec::new() };
        given.give(program, &mut inputs)?;
        match inputs.views.iter().position(Option::is_none) {
            None => Ok(inputs),
            Some(missing) => Err(program.missing_input(missing)),
        }
    }

    #[track_caller]
    fn add(&mut self, program: &Executable, key: impl InputKey, view: HostTensor<'a>) -> Result<(), Diag> {
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

    /// Finds the elements of each in row-major order, and copies those that are in another one.
    ///
    /// # Errors
    /// `E0309` if there is no memory for it; the inputs that a program asks for may be large.
    #[track_caller]
    pub(crate) fn in_order(&mut self, program: &Executable) -> Result<(), Diag> {
        self.places.clear();
        for (at, view) in self.views.iter().enumerate() {
            let Some(view) = view else { return Err(program.missing_input(at)) };
            self.places.push(match in_order(view) {
                Some(place) => place,
                None => match copied(view) {
                    Ok(copy) => {
                        let place = (copy.as_ptr().cast_const(), copy.n_bytes() / view.dtype().size_bytes());
                        self.copies.push(copy);
                        place
                    }
                    Err(refused) => {
                        let what =
                            format!("a copy of input `{}` in row-major order", program.interface.input_names[at]);
                        return Err(no_memory(what, refused).help("an array in row-major order is read where it is"));
                    }
                },
            });
        }
        Ok(())
    }

    /// The views with their positions.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &HostTensor<'a>)> {
        self.views.iter().enumerate().filter_map(|(at, view)| Some((at, view.as_ref()?)))
    }

    /// Where an input's elements are in row-major order, their type and their number; `None` if they were not looked for.
    pub(crate) fn place(&self, at: usize) -> Option<(*const u8, DType, usize)> {
        let (view, &(address, n)) = (self.views.get(at)?.as_ref()?, self.places.get(at)?);
        Some((address, view.dtype(), n))
    }
}

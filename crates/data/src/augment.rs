//! Examples that are changed at random whenever they are taken: pictures flipped, shifted, turned, with noise.
//!
//! Why it exists: what a net should not look at (where a digit stands, how bright a picture is) can be told to it by examples
//! that differ in just that. What is changed too far becomes another example: a 6 that is turned around is a 9.
//!
//! Pictures are channels last, `[height, width]` or `[height, width, channels]`; a sound, `[samples]`, is a picture of height 1 to
//! the same changes, and has some of its own. Words are changed by [`Synonyms`]. What is drawn from beyond a border is the
//! background, 0 unless told otherwise. Promises: what becomes of an example is a function of (seed, epoch, place), whatever
//! the batch and the number of threads; with the same examples, bit for bit.
//!
//! ```
//! use cotangent_data::augment::{Augmented, Flip, Noise, Shift};
//! use cotangent_data::{Examples, Table};
//! use ndarray::{Array1, Array3};
//!
//! # fn main() -> Result<(), cotangent_data::DataError> {
//! let pictures = Array3::from_shape_fn((10, 8, 8), |(i, r, c)| (i + r * c) as f32 / 60.0);
//! let set = Table::new().with("x", pictures)?.with("y", Array1::from_elem(10, 1i64))?;
//! let augmented = Augmented::new(&set, "x", 7)?
//!     .then(Shift::by(2))?
//!     .then(Flip::horizontal(0.5))?
//!     .then(Noise::of(0.1))?;
//! let (mut first, mut second) = (Vec::new(), Vec::new());
//! augmented.gather(0, &[3, 4], &mut first)?;
//! augmented.gather(1, &[3, 4], &mut second)?;
//! assert!(first[0] != second[0] && first[1] == second[1]);
//! # Ok(())
//! # }
//! ```

mod pictures;
mod sounds;
mod words;

use std::fmt;
use std::panic::resume_unwind;
use std::thread;

use cotangent_graph::TensorData;
use cotangent_host::float::in_default;
use cotangent_scalar::philox::PhiloxRng;
use cotangent_scalar::{DType, plain};
use ndarray::{ArrayD, IxDyn};
use rand::RngExt;

pub use self::pictures::{
    Brightness, Contrast, Crop, Cutout, Elastic, Flip, Lens, Noise, Palette, Rescale, Rotate, Shift,
};
pub use self::sounds::{Pitch, TimeShift};
pub use self::words::Synonyms;
use crate::DataError;
use crate::batches::Order;
use crate::table::{Examples, Field};

/// Keeps the streams of what is drawn for examples apart from every other use of the same seed.
const AUGMENT_STREAM: u64 = u64::from_be_bytes(*b"augment\0");
/// The stream of who is mixed with whom.
const MIXUP_STREAM: u64 = u64::from_be_bytes(*b"mixup\0\0\0");

/// The largest picture that is made: what becomes of a mistake in a size should be an error before it is a lack of memory.
const MOST_ELEMENTS: usize = 1 << 30;

/// The random numbers of one example in one epoch.
pub type Draw = PhiloxRng;

/// A picture that is being changed: channels last, row-major.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picture {
    /// Height, width, channels.
    pub shape: [usize; 3],
    /// The elements.
    pub values: Vec<f32>,
    /// A buffer for what is made of them.
    pub(crate) spare: Vec<f32>,
}

/// A random change of a picture. A user's own is another implementation.
pub trait Augment: Send + Sync {
    /// The shape of what is made of pictures of a shape: height, width, channels.
    ///
    /// # Errors
    /// What is required of shape or settings, and what was given.
    fn shape(&self, shape: [usize; 3]) -> Result<[usize; 3], (String, String)>;

    /// Changes a picture, to the shape that was said.
    fn apply(&self, picture: &mut Picture, draw: &mut Draw);
}

/// Examples whose pictures are changed at random in every epoch.
pub struct Augmented<'a> {
    set: &'a dyn Examples,
    /// The place of the field of pictures.
    at: usize,
    seed: u64,
    /// Changes, and the shapes of what they make.
    changes: Vec<(Box<dyn Augment>, [usize; 3])>,
    /// The shapes before and after the changes.
    given: [usize; 3],
    made: [usize; 3],
    /// Axes of a row: 1 of sounds, 2 or 3 of pictures.
    rank: usize,
    /// The places of the fields that are mixed.
    mixed: Vec<usize>,
    n_threads: usize,
}

impl fmt::Debug for Augmented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Augmented({} changes of {:?})", self.changes.len(), self.given)
    }
}

fn mismatch(of: &str, required: impl Into<String>, got: impl Into<String>) -> DataError {
    DataError::Mismatch {
        of: of.to_owned(),
        required: required.into(),
        got: got.into(),
        fix: "pictures are f32, [n, height, width] or [n, height, width, channels], sounds [n, samples], words ids of i64".to_owned(),
    }
}

impl<'a> Augmented<'a> {
    /// Examples whose field of pictures is to be changed. The seed is that of the changes alone.
    ///
    /// # Errors
    /// [`DataError::Mismatch`] if there is no such field, or it has no pictures of f32.
    pub fn new(set: &'a dyn Examples, field: &str, seed: u64) -> Result<Self, DataError> {
        let fields = set.fields();
        let at = position(&fields, field)?;
        let (given, rank) = match (&fields[at].shape[..], fields[at].dtype) {
            (&[samples], DType::F32) => ([1, samples, 1], 1),
            (&[height, width], DType::F32) => ([height, width, 1], 2),
            (&[height, width, channels], DType::F32) => ([height, width, channels], 3),
            (shape, dtype) => {
                let of = format!("field `{}` to augment", plain(field));
                return Err(mismatch(&of, "pictures or sounds of f32", format!("{dtype} rows of shape {shape:?}")));
            }
        };
        let (changes, mixed) = (Vec::new(), Vec::new());
        Ok(Augmented { set, at, seed, changes, given, made: given, rank, mixed, n_threads: 1 })
    }

    /// Makes another change, after those before.
    ///
    /// # Errors
    /// [`DataError::Mismatch`] if its settings have no meaning, for pictures of this shape.
    pub fn then(mut self, change: impl Augment + 'static) -> Result<Self, DataError> {
        let refused = |(required, got)| mismatch("augmentation of pictures", required, got);
        let made = change.shape(self.made).map_err(refused)?;
        let size = made.iter().try_fold(1usize, |size, &extent| size.checked_mul(extent));
        if size.is_none_or(|size| size > MOST_ELEMENTS) {
            return Err(refused((format!("pictures of at most {MOST_ELEMENTS} elements"), format!("{made:?}"))));
        }
        self.made = made;
        self.changes.push((Box::new(change), made));
        Ok(self)
    }

    /// Mixes every example with another one (mixup, Zhang et al. 2018, α = 1): `λ·a + (1 - λ)·b` of these fields, λ uniform in
    /// [0, 1], after all changes. Labels must be among them, as shares of classes.
    ///
    /// # Errors
    /// [`DataError::Mismatch`] if there is no such field, or it is not of f32.
    pub fn mixup(mut self, fields: &[&str]) -> Result<Self, DataError> {
        let known = self.set.fields();
        for field in fields {
            let at = position(&known, field)?;
            if known[at].dtype != DType::F32 {
                let of = format!("field `{}` to mix", plain(field));
                return Err(mismatch(&of, "f32 (labels as shares of classes)", known[at].dtype.to_string()));
            }
            self.mixed.push(at);
        }
        Ok(self)
    }

    /// The threads that make a batch, at least 1. They never change what is made.
    pub fn threads(mut self, n: usize) -> Self {
        self.n_threads = n.max(1);
        self
    }

    fn draw(&self, stream: u64, epoch: u64, place: usize) -> Draw {
        drawn_for(self.seed, stream, epoch, place)
    }

    /// The rows at places, with their pictures changed, and not mixed.
    fn changed(&self, epoch: u64, places: &[usize], batch: &mut Vec<TensorData>) -> Result<(), DataError> {
        self.set.gather(epoch, places, batch)?;
        let TensorData::F32(rows) = &mut batch[self.at] else {
            return Err(mismatch("field to augment", "f32, as it was", batch[self.at].dtype().to_string()));
        };
        let size = |shape: [usize; 3]| shape.iter().product::<usize>();
        let (given, made) = (size(self.given), size(self.made));
        if given == 0 || made == 0 || self.changes.is_empty() {
            return Ok(());
        }
        if self.given == self.made
            && let Some(rows) = rows.as_slice_mut()
        {
            // Where they are.
            return self.change(epoch, places, None, rows);
        }
        let rows = rows.as_standard_layout();
        let mut result = vec![0.0f32; places.len() * made];
        self.change(epoch, places, rows.as_slice(), &mut result)?;
        let shape: Vec<usize> = [places.len()].into_iter().chain(self.row_shape()).collect();
        let array = ArrayD::from_shape_vec(IxDyn(&shape), result);
        batch[self.at] = array.map_err(|e| mismatch("augmented pictures", "their shape", e.to_string()))?.into();
        Ok(())
    }

    /// Makes the changed pictures of those given, or of those that stand where they go, on all threads.
    fn change(&self, epoch: u64, places: &[usize], from: Option<&[f32]>, to: &mut [f32]) -> Result<(), DataError> {
        let size = |shape: [usize; 3]| shape.iter().product::<usize>();
        let (given, made) = (size(self.given), size(self.made));
        let work = |places: &[usize], from: Option<&[f32]>, to: &mut [f32]| {
            in_default(|| {
                let mut picture = Picture::default();
                for (k, (&place, to)) in places.iter().zip(to.chunks_mut(made)).enumerate() {
                    picture.shape = self.given;
                    picture.values.clear();
                    picture.values.extend_from_slice(from.map_or(&*to, |from| &from[k * given..][..given]));
                    let mut draw = self.draw(AUGMENT_STREAM, epoch, place);
                    for (change, made) in &self.changes {
                        change.apply(&mut picture, &mut draw);
                        if picture.shape != *made || picture.values.len() != size(*made) {
                            let got = format!("{} elements of shape {:?}", picture.values.len(), picture.shape);
                            let required = format!("{} elements of shape {made:?}, as its `shape` says", size(*made));
                            return Err(mismatch("picture that a change made", required, got));
                        }
                    }
                    to.copy_from_slice(&picture.values);
                }
                Ok(())
            })
        };
        let share = places.len().div_ceil(self.n_threads).max(1);
        if share >= places.len() {
            return work(places, from, to);
        }
        thread::scope(|scope| {
            let parts = places.chunks(share).zip(to.chunks_mut(share * made)).enumerate();
            let part_of = |k: usize| from.map(|from| &from[k * share * given..]);
            let started: Vec<_> = parts
                .map(|(k, (places, to))| {
                    let from = part_of(k);
                    scope.spawn(move || work(places, from, to))
                })
                .collect();
            started.into_iter().try_for_each(|part| part.join().unwrap_or_else(|panic| resume_unwind(panic)))
        })
    }

    /// The shape of a row of pictures.
    fn row_shape(&self) -> Vec<usize> {
        match self.rank {
            1 => vec![self.made[1]],
            rank => self.made[..rank].to_vec(),
        }
    }
}

/// The random numbers of an example in an epoch.
fn drawn_for(seed: u64, stream: u64, epoch: u64, place: usize) -> Draw {
    PhiloxRng::new(seed, stream.wrapping_add(epoch << 40).wrapping_add(place as u64))
}

fn position(fields: &[Field], name: &str) -> Result<usize, DataError> {
    fields.iter().position(|field| field.name == name).ok_or_else(|| {
        let known: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
        mismatch("augmentation", format!("a field of {known:?}"), format!("{name:?}"))
    })
}

impl Examples for Augmented<'_> {
    fn len(&self) -> usize {
        self.set.len()
    }

    fn fields(&self) -> Vec<Field> {
        let mut fields = self.set.fields();
        fields[self.at].shape = self.row_shape();
        fields
    }

    fn places(&self, order: Order, seed: u64, epoch: u64) -> Result<Vec<usize>, DataError> {
        self.set.places(order, seed, epoch)
    }

    fn gather(&self, epoch: u64, places: &[usize], batch: &mut Vec<TensorData>) -> Result<(), DataError> {
        self.changed(epoch, places, batch)?;
        if self.mixed.is_empty() || places.is_empty() {
            return Ok(());
        }
        let draws: Vec<(usize, f32)> = places
            .iter()
            .map(|&place| {
                let mut draw = self.draw(MIXUP_STREAM, epoch, place);
                (draw.random_range(0..self.set.len()), draw.random::<f32>())
            })
            .collect();
        let (others, mut partners): (Vec<usize>, _) = (draws.iter().map(|draw| draw.0).collect(), Vec::new());
        self.changed(epoch, &others, &mut partners)?;
        for &at in &self.mixed {
            let (TensorData::F32(own), TensorData::F32(other)) = (&mut batch[at], &partners[at]) else { continue };
            let rows = own.outer_iter_mut().zip(other.outer_iter()).zip(&draws);
            in_default(|| {
                rows.for_each(|((mut own, other), &(_, share))| {
                    own.zip_mut_with(&other, |own, other| *own = share * *own + (1.0 - share) * other);
                });
            });
        }
        Ok(())
    }

    fn is_slow(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;

//! Changes of sounds: one row of samples, which a picture of height 1 is.
//!
//! [`Noise`](super::Noise) and [`Contrast`](super::Contrast), which is loudness around the mean, are for sounds as they are.

use rand::RngExt;

use super::pictures::{Shaped, kept};
use super::{Augment, Draw, Picture};

/// Moves sounds in time, by up to so many samples either way; what comes in is silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeShift {
    most: usize,
}

impl TimeShift {
    /// By at most so many samples.
    pub fn by(most: usize) -> Self {
        TimeShift { most }
    }
}

impl Augment for TimeShift {
    fn shape(&self, shape: [usize; 3]) -> Shaped {
        let is_fine = shape[0] == 1 && self.most < shape[1];
        kept(shape, "a sound (one row) that is longer than the shift", self.most as f32, is_fine)
    }

    fn apply(&self, sound: &mut Picture, draw: &mut Draw) {
        let shift = draw.random_range(0..=2 * self.most) as isize - self.most as isize;
        sound.remade(sound.shape, |old, _, at, channel| old.at(0, at as isize - shift, channel, 0.0));
    }
}

/// Makes sounds higher or lower as a tape does that runs faster or slower: they last shorter or longer, too. Behind their end is
/// silence; what goes beyond the length is cut off. Between samples it is interpolated linearly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pitch {
    semitones: f32,
}

impl Pitch {
    /// By at most so many semitones either way, twelfths of an octave.
    pub fn by(semitones: f32) -> Self {
        Pitch { semitones }
    }
}

impl Augment for Pitch {
    fn shape(&self, shape: [usize; 3]) -> Shaped {
        let is_fine = shape[0] == 1 && (0.0..=48.0).contains(&self.semitones);
        kept(shape, "a sound (one row), and 0 to 48 semitones", self.semitones, is_fine)
    }

    fn apply(&self, sound: &mut Picture, draw: &mut Draw) {
        let semitones = (2.0 * draw.random::<f32>() - 1.0) * self.semitones;
        // Of the functions that do not differ from one machine to another.
        let factor = libm::exp2f(semitones / 12.0);
        sound.remade(sound.shape, |old, _, at, channel| {
            let from = at as f32 * factor;
            let (before, share) = (from.floor(), from - from.floor());
            let value = |ahead: isize| old.at(0, before as isize + ahead, channel, 0.0);
            value(0) * (1.0 - share) + value(1) * share
        });
    }
}

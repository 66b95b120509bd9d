//! Changes of pictures.

use std::mem;
use std::sync::LazyLock;

use cotangent_scalar::philox::fill_normal_f32;
use rand::RngExt;

use super::{Augment, Draw, Picture};

pub(super) type Shaped = Result<[usize; 3], (String, String)>;

/// The shape as it is, if a setting is in a range.
pub(super) fn kept(shape: [usize; 3], what: &str, value: f32, is_fine: bool) -> Shaped {
    if is_fine { Ok(shape) } else { Err((what.to_owned(), value.to_string())) }
}

impl Picture {
    /// Makes another picture of this one: of a shape, where the element at (row, column, channel) comes from `f`.
    pub(super) fn remade(&mut self, shape: [usize; 3], mut f: impl FnMut(&Picture, usize, usize, usize) -> f32) {
        let mut spare = mem::take(&mut self.spare);
        spare.clear();
        spare.reserve(shape.iter().product());
        for row in 0..shape[0] {
            for column in 0..shape[1] {
                spare.extend((0..shape[2]).map(|channel| f(self, row, column, channel)));
            }
        }
        self.spare = mem::replace(&mut self.values, spare);
        self.shape = shape;
    }

    /// The element at a place, or the background.
    pub(super) fn at(&self, row: isize, column: isize, channel: usize, background: f32) -> f32 {
        let [height, width, channels] = self.shape;
        let is_inside = (0..height as isize).contains(&row) && (0..width as isize).contains(&column);
        if is_inside { self.values[(row as usize * width + column as usize) * channels + channel] } else { background }
    }

    /// Draws every element from a place between others, bilinearly.
    fn resampled(&mut self, background: f32, mut from: impl FnMut(usize, usize) -> (f32, f32)) {
        let mut last = (usize::MAX, usize::MAX, (0.0, 0.0));
        // However far outside, it is the background.
        let [height, width, _] = self.shape.map(|extent| extent as f32 + 1.0);
        self.remade(self.shape, |old, row, column, channel| {
            if (last.0, last.1) != (row, column) {
                last = (row, column, from(row, column));
            }
            let (y, x) = (last.2.0.clamp(-2.0, height), last.2.1.clamp(-2.0, width));
            let (top, left) = (y.floor(), x.floor());
            let (down, right) = (y - top, x - left);
            let at = |dy: isize, dx: isize| old.at(top as isize + dy, left as isize + dx, channel, background);
            let above = at(0, 0) * (1.0 - right) + at(0, 1) * right;
            let below = at(1, 0) * (1.0 - right) + at(1, 1) * right;
            above * (1.0 - down) + below * down
        });
    }

    /// The middle, in places.
    fn middle(&self) -> (f32, f32) {
        ((self.shape[0] as f32 - 1.0) / 2.0, (self.shape[1] as f32 - 1.0) / 2.0)
    }
}

/// Mirrors some pictures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flip {
    is_horizontal: bool,
    probability: f32,
}

impl Flip {
    /// Left becomes right.
    pub fn horizontal(probability: f32) -> Self {
        Flip { is_horizontal: true, probability }
    }

    /// Above becomes below.
    pub fn vertical(probability: f32) -> Self {
        Flip { is_horizontal: false, probability }
    }
}

impl Augment for Flip {
    fn shape(&self, shape: [usize; 3]) -> Shaped {
        let p = self.probability;
        kept(shape, "a probability from 0 to 1", p, (0.0..=1.0).contains(&p))
    }

    fn apply(&self, picture: &mut Picture, draw: &mut Draw) {
        if draw.random::<f32>() >= self.probability {
            return;
        }
        let [height, width, channels] = picture.shape;
        if self.is_horizontal {
            for row in picture.values.chunks_mut(width * channels) {
                if channels == 1 {
                    row.reverse();
                    continue;
                }
                for left in 0..width / 2 {
                    let right = width - 1 - left;
                    (0..channels).for_each(|k| row.swap(left * channels + k, right * channels + k));
                }
            }
        } else {
            let row = width * channels;
            for above in 0..height / 2 {
                let (head, tail) = picture.values.split_at_mut((height - 1 - above) * row);
                head[above * row..][..row].swap_with_slice(&mut tail[..row]);
            }
        }
    }
}

/// Moves pictures by whole places, up to so many in each direction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shift {
    most: usize,
    background: f32,
}

impl Shift {
    /// By at most so many places.
    pub fn by(most: usize) -> Self {
        Shift { most, background: 0.0 }
    }

    /// What comes in from beyond the border.
    pub fn background(mut self, value: f32) -> Self {
        self.background = value;
        self
    }
}

impl Augment for Shift {
    fn shape(&self, shape: [usize; 3]) -> Shaped {
        let is_fine = self.most < shape[0].min(shape[1]);
        kept(shape, "a shift of less than height and width", self.most as f32, is_fine)
    }

    fn apply(&self, picture: &mut Picture, draw: &mut Draw) {
        let mut drawn = || draw.random_range(0..=2 * self.most) as isize - self.most as isize;
        let (down, right) = (drawn(), drawn());
        let [height, width, channels] = picture.shape;
        picture.spare.clear();
        picture.spare.resize(picture.values.len(), self.background);
        // The run of a row that stays inside.
        let (from, to) = ((-right).max(0) as usize, right.max(0) as usize);
        let n = (width - from.max(to)) * channels;
        for row in 0..height {
            let Some(source) = row.checked_add_signed(-down).filter(|&source| source < height) else { continue };
            let (to, from) = ((row * width + to) * channels, (source * width + from) * channels);
            picture.spare[to..to + n].copy_from_slice(&picture.values[from..from + n]);
        }
        mem::swap(&mut picture.values, &mut picture.spare);
    }
}

/// Cuts pieces of a size out of pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    height: usize,
    width: usize,
}

impl Crop {
    /// Pieces of a size, from anywhere.
    pub fn to(height: usize, width: usize) -> Self {
        Crop { height, width }
    }
}

impl Augment for Crop {
    fn shape(&self, [height, width, channels]: [usize; 3]) -> Shaped {
        if (1..=height).contains(&self.height) && (1..=width).contains(&self.width) {
            return Ok([self.height, self.width, channels]);
        }
        Err((format!("a piece of pictures of {height} by {width}"), format!("{} by {}", self.height, self.width)))
    }

    fn apply(&self, picture: &mut Picture, draw: &mut Draw) {
        let [height, width, channels] = picture.shape;
        let top = draw.random_range(0..=height - self.height);
        let left = draw.random_range(0..=width - self.width);
        picture.remade([self.height, self.width, channels], |old, row, column, channel| {
            old.values[((row + top) * width + column + left) * channels + channel]
        });
    }
}

/// Makes what is seen larger or smaller, around the middle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rescale {
    least: f32,
    most: f32,
}

impl Rescale {
    /// By a factor between these two.
    pub fn between(least: f32, most: f32) -> Self {
        Rescale { least, most }
    }
}

impl Augment for Rescale {
    fn shape(&self, shape: [usize; 3]) -> Shaped {
        let is_fine = self.least > 0.0 && self.least <= self.most && self.most.is_finite();
        kept(shape, "two positive factors in order", self.least, is_fine)
    }

    fn apply(&self, picture: &mut Picture, draw: &mut Draw) {
        let factor = self.least + (self.most - self.least) * draw.random::<f32>();
        let (y, x) = picture.middle();
        picture.resampled(0.0, |row, column| (y + (row as f32 - y) / factor, x + (column as f32 - x) / factor));
    }
}

/// Turns pictures around the middle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotate {
    degrees: f32,
}

impl Rotate {
    /// By an angle of at most so many degrees, either way.
    pub fn by(degrees: f32) -> Self {
        Rotate { degrees }
    }
}

impl Augment for Rotate {
    fn shape(&self, shape: [usize; 3]) -> Shaped {
        kept(shape, "an angle from 0 to 180 degrees", self.degrees, (0.0..=180.0).contains(&self.degrees))
    }

    fn apply(&self, picture: &mut Picture, draw: &mut Draw) {
        let angle = (2.0 * draw.random::<f32>() - 1.0) * self.degrees.to_radians();
        // Of the functions that do not differ from one machine to another.
        let (sin, cos) = (libm::sinf(angle), libm::cosf(angle));
        let (y, x) = picture.middle();
        picture.resampled(0.0, |row, column| {
            let (down, right) = (row as f32 - y, column as f32 - x);
            (y + cos * down - sin * right, x + sin * down + cos * right)
        });
    }
}

/// Adds normal noise to every element: one of 4096 numbers, up to 3.7 deviations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Noise {
    deviation: f32,
}

impl Noise {
    /// Noise of a standard deviation.
    pub fn of(deviation: f32) -> Self {
        Noise { deviation }
    }
}

impl Augment for Noise {
    fn shape(&self, shape: [usize; 3]) -> Shaped {
        let d = self.deviation;
        kept(shape, "a deviation that is finite and not negative", d, d.is_finite() && d >= 0.0)
    }

    fn apply(&self, picture: &mut Picture, draw: &mut Draw) {
        let table: &[f32; 4096] = &NORMAL;
        let normal = |bits: u32| self.deviation * table[(bits & 0xfff) as usize];
        let mut words = [0; 128];
        for piece in picture.values.chunks_mut(2 * words.len()) {
            let words = &mut words[..piece.len().div_ceil(2)];
            draw.fill_words(words);
            // The upper 12 bits of each half of a word.
            let (pairs, last) = piece.as_chunks_mut::<2>();
            for ([low, high], word) in pairs.iter_mut().zip(&*words) {
                *low += normal(word >> 4);
                *high += normal(word >> 20);
            }
            last.iter_mut().zip(words.last()).for_each(|(value, word)| *value += normal(word >> 4));
        }
    }
}

/// So many normal numbers, each as likely as the others: what noise is drawn from, because a table takes a fraction of the time
/// that the function takes.
static NORMAL: LazyLock<[f32; 4096]> = LazyLock::new(|| {
    let mut numbers = [0.0; 4096];
    let words: Vec<u32> = (0..4096).map(|k| (k << 20) + (1 << 19)).collect();
    fill_normal_f32(&words, &mut numbers);
    numbers
});

/// Adds one number to all elements of a picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Brightness {
    most: f32,
}

impl Brightness {
    /// A number of at most this size, either way.
    pub fn by(most: f32) -> Self {
        Brightness { most }
    }
}

impl Augment for Brightness {
    fn shape(&self, shape: [usize; 3]) -> Shaped {
        let most = self.most;
        kept(shape, "a change that is finite and not negative", most, most.is_finite() && most >= 0.0)
    }

    fn apply(&self, picture: &mut Picture, draw: &mut Draw) {
        let change = (2.0 * draw.random::<f32>() - 1.0) * self.most;
        picture.values.iter_mut().for_each(|value| *value += change);
    }
}

/// Multiplies what elements differ from the picture's mean by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Contrast {
    least: f32,
    most: f32,
}

impl Contrast {
    /// By a factor between these two.
    pub fn between(least: f32, most: f32) -> Self {
        Contrast { least, most }
    }
}

impl Augment for Contrast {
    fn shape(&self, shape: [usize; 3]) -> Shaped {
        let is_fine = self.least >= 0.0 && self.least <= self.most && self.most.is_finite();
        kept(shape, "two factors in order, not negative", self.least, is_fine)
    }

    fn apply(&self, picture: &mut Picture, draw: &mut Draw) {
        let factor = self.least + (self.most - self.least) * draw.random::<f32>();
        let mean = picture.values.iter().sum::<f32>() / picture.values.len() as f32;
        picture.values.iter_mut().for_each(|value| *value = mean + factor * (*value - mean));
    }
}

/// Changes the palette: each channel is multiplied by a factor of its own and moved by a number of its own, as light of another
/// color and another film do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Palette {
    most: f32,
}

impl Palette {
    /// Factors of `1 - most` to `1 + most`, numbers of half that size.
    pub fn by(most: f32) -> Self {
        Palette { most }
    }
}

impl Augment for Palette {
    fn shape(&self, shape: [usize; 3]) -> Shaped {
        kept(shape, "a change from 0 to 1", self.most, (0.0..=1.0).contains(&self.most))
    }

    fn apply(&self, picture: &mut Picture, draw: &mut Draw) {
        let mut drawn = || (2.0 * draw.random::<f32>() - 1.0) * self.most;
        let channels: Vec<(f32, f32)> = (0..picture.shape[2]).map(|_| (1.0 + drawn(), 0.5 * drawn())).collect();
        for place in picture.values.chunks_mut(channels.len().max(1)) {
            place.iter_mut().zip(&channels).for_each(|(value, (factor, number))| *value = *value * factor + number);
        }
    }
}

/// Distorts pictures as a lens does: what is seen at a distance r from the middle, of 1 in the corners, comes from `r · (1 + k · r²)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lens {
    least: f32,
    most: f32,
}

impl Lens {
    /// A strength k between these two: above 0 a barrel, below 0 a pincushion, which from -1/3 on would fold.
    pub fn between(least: f32, most: f32) -> Self {
        Lens { least, most }
    }
}

impl Augment for Lens {
    fn shape(&self, shape: [usize; 3]) -> Shaped {
        let is_fine = -1.0 / 3.0 < self.least && self.least <= self.most && self.most.is_finite();
        kept(shape, "two strengths in order, above -1/3", self.least, is_fine)
    }

    fn apply(&self, picture: &mut Picture, draw: &mut Draw) {
        let strength = self.least + (self.most - self.least) * draw.random::<f32>();
        let (y, x) = picture.middle();
        let corner = (y * y + x * x).max(f32::MIN_POSITIVE);
        picture.resampled(0.0, |row, column| {
            let (down, right) = (row as f32 - y, column as f32 - x);
            let factor = 1.0 + strength * (down * down + right * right) / corner;
            (y + factor * down, x + factor * right)
        });
    }
}

/// Covers a square of every picture (DeVries and Taylor 2017), which may reach beyond the border.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cutout {
    size: usize,
}

impl Cutout {
    /// A square of so many places.
    pub fn of(size: usize) -> Self {
        Cutout { size }
    }
}

impl Augment for Cutout {
    fn shape(&self, shape: [usize; 3]) -> Shaped {
        let is_fine = self.size <= shape[0].max(shape[1]);
        kept(shape, "a square not larger than the pictures", self.size as f32, is_fine)
    }

    fn apply(&self, picture: &mut Picture, draw: &mut Draw) {
        let [height, width, channels] = picture.shape;
        let (y, x) = (draw.random_range(0..height), draw.random_range(0..width));
        let range = |middle: usize, n: usize| {
            let start = middle.saturating_sub(self.size / 2);
            start..(middle + self.size.div_ceil(2)).min(n)
        };
        for row in range(y, height) {
            let columns = range(x, width);
            picture.values[(row * width + columns.start) * channels..(row * width + columns.end) * channels].fill(0.0);
        }
    }
}

/// Distorts pictures as if they were of rubber (after Simard et al. 2003): the knots of a grid are moved at random, and what is
/// between them goes along.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Elastic {
    strength: f32,
    grid: usize,
}

impl Elastic {
    /// Knots every `grid` places are moved by normal numbers of a deviation of `strength` places.
    pub fn of(strength: f32, grid: usize) -> Self {
        Elastic { strength, grid }
    }
}

impl Augment for Elastic {
    fn shape(&self, shape: [usize; 3]) -> Shaped {
        let strength = self.strength;
        let shape = kept(
            shape,
            "a strength that is finite and not negative",
            strength,
            strength.is_finite() && strength >= 0.0,
        )?;
        kept(shape, "a grid of at least 1 place", self.grid as f32, self.grid > 0)
    }

    fn apply(&self, picture: &mut Picture, draw: &mut Draw) {
        let [height, width, _] = picture.shape;
        let (n_rows, n_columns) = (height.div_ceil(self.grid) + 1, width.div_ceil(self.grid) + 1);
        let words: Vec<u32> = (0..2 * n_rows * n_columns).map(|_| draw.random()).collect();
        let mut moves = vec![0.0; words.len()];
        fill_normal_f32(&words, &mut moves);
        picture.resampled(0.0, |row, column| {
            let (down, right) =
                ((row % self.grid) as f32 / self.grid as f32, (column % self.grid) as f32 / self.grid as f32);
            let knot = |dy: usize, dx: usize, axis: usize| {
                moves[2 * ((row / self.grid + dy) * n_columns + column / self.grid + dx) + axis]
            };
            let moved = |axis: usize| {
                let above = knot(0, 0, axis) * (1.0 - right) + knot(0, 1, axis) * right;
                let below = knot(1, 0, axis) * (1.0 - right) + knot(1, 1, axis) * right;
                self.strength * (above * (1.0 - down) + below * down)
            };
            (row as f32 + moved(0), column as f32 + moved(1))
        });
    }
}

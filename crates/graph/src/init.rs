//! How parameters and states start.
//!
//! An initialiser is an attribute of the `param` or `state` node, so that it prints, parses and travels with the graph.
//! Samples are counter-based (Philox) and keyed on the seed and the parameter's dotted name: adding a layer elsewhere
//! changes no other layer's start. Weight matrices have shape `[in, out]`; in general the last axis counts outputs and
//! the product of the others inputs.

use cotangent_host::float::in_default;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use cotangent_scalar::{DType, philox};

use crate::number::Number;
use crate::tensor::{Element, TensorData};
use crate::types::Shape;
use crate::with_array;

/// Elements that are sampled at a time.
const BLOCK: usize = 4096;

/// The share of a normal distribution below two standard deviations under the mean.
pub const TAIL: f64 = 0.022_750_131_948_179_21;

/// A real number with equality and hash by bits.
#[derive(Clone, Copy, Debug)]
pub struct Real(pub f64);

impl PartialEq for Real {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Real {}

impl Hash for Real {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

/// An initialiser. `n_in` and `n_out` are the fan-in and fan-out of the parameter's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Init {
    /// The same value everywhere.
    Constant(Number),
    /// Uniform on `[low, high)`.
    Uniform(Real, Real),
    /// Normal with mean and standard deviation.
    Normal(Real, Real),
    /// Glorot and Bengio 2010, uniform on ±√(6/(n_in+n_out)).
    GlorotUniform,
    /// Glorot and Bengio 2010, normal with variance 2/(n_in+n_out).
    GlorotNormal,
    /// He et al. 2015 for ReLU, uniform on ±√(6/n_in).
    HeUniform,
    /// He et al. 2015 for ReLU, normal with variance 2/n_in.
    HeNormal,
    /// LeCun et al. 1998, uniform on ±√(3/n_in), which has variance 1/n_in.
    LecunUniform,
    /// LeCun et al. 1998, normal with variance 1/n_in.
    LecunNormal,
    /// Normal with mean and standard deviation, but for the tails beyond two standard deviations, which are cut off; the
    /// variance that is left is 0.7737 times that of the whole.
    TruncatedNormal(Real, Real),
    /// Saxe et al. 2014: the `n_in × n_out` matrix has orthonormal columns (rows, if it is wide) times a gain. It is
    /// uniform among such matrices.
    Orthogonal(Real),
    /// A value on the second of four blocks of the last axis, zeros elsewhere: biases of an LSTM whose gates stand in the order
    /// input, forget, new, output (Jozefowicz et al. 2015: 1 keeps what is remembered from fading at first).
    ForgetGate(Real),
}

impl Init {
    /// All zeros.
    pub const ZEROS: Init = Init::Constant(Number::of(0.0));
    /// All ones.
    pub const ONES: Init = Init::Constant(Number::of(1.0));

    /// The names of all initialisers, as they are printed.
    pub const NAMES: [&str; 14] = [
        "zeros",
        "ones",
        "constant",
        "uniform",
        "normal",
        "truncated_normal",
        "orthogonal",
        "forget_gate",
        "glorot_uniform",
        "glorot_normal",
        "he_uniform",
        "he_normal",
        "lecun_uniform",
        "lecun_normal",
    ];

    /// The same value everywhere: a float, or a whole number, of which no bit is lost.
    pub fn constant(value: impl Into<Number>) -> Self {
        Init::Constant(value.into())
    }

    /// Uniform on `[low, high)`.
    pub fn uniform(low: f64, high: f64) -> Self {
        Init::Uniform(Real(low), Real(high))
    }

    /// Normal with the given mean and standard deviation.
    pub fn normal(mean: f64, std: f64) -> Self {
        Init::Normal(Real(mean), Real(std))
    }

    /// Normal with the given mean and standard deviation, cut off beyond two standard deviations.
    pub fn truncated_normal(mean: f64, std: f64) -> Self {
        Init::TruncatedNormal(Real(mean), Real(std))
    }

    /// Orthonormal columns (or rows) times a gain.
    pub fn orthogonal(gain: f64) -> Self {
        Init::Orthogonal(Real(gain))
    }

    /// A value for the forget gates of an LSTM's biases, zeros for its other gates.
    pub fn forget_gate(value: f64) -> Self {
        Init::ForgetGate(Real(value))
    }

    /// Whether its numbers make sense, for a tensor of this element type.
    ///
    /// # Errors
    /// What is required, and what was got: a deviation below 0, a range that ends before it begins, what is no number or not one
    /// of the type, random numbers of integers.
    pub fn check(&self, dtype: DType) -> Result<(), String> {
        let held = |numbers: &[Real]| numbers.iter().all(|v| v.0.is_finite() && dtype.holds(v.0));
        let required = match *self {
            Init::Constant(v) if v.value().is_nan() => "a number".to_owned(),
            Init::Constant(v) if !v.held_by(dtype) => format!("a number that {dtype} holds ({})", dtype.held()),
            Init::Constant(_) => return Ok(()),
            _ if !dtype.is_float() => format!("floats for random numbers, not {dtype}; a constant, or `cast` after it"),
            Init::Uniform(low, high) if !held(&[low, high]) || low.0 > high.0 || !(high.0 - low.0).is_finite() => {
                format!("a finite range of {dtype} that does not end before it begins")
            }
            Init::Normal(mean, std) | Init::TruncatedNormal(mean, std) if !held(&[mean, std]) || std.0 < 0.0 => {
                format!("a finite mean and a finite deviation of {dtype} that is not below 0")
            }
            Init::Orthogonal(gain) if !held(&[gain]) => format!("a finite gain of {dtype}"),
            Init::ForgetGate(value) if !held(&[value]) => format!("a finite value of {dtype}"),
            _ => return Ok(()),
        };
        Err(format!("requires {required}, got `{self}`"))
    }

    /// What this initialiser is for a shape: a constant, or one of the five laws that have their numbers in them (uniform,
    /// normal, truncated normal, orthogonal, forget gate).
    pub fn law(&self, shape: &Shape) -> Init {
        let n_columns = shape.last().copied().unwrap_or(1).max(1);
        let (n_in, n_out) = ((shape.n_elements() / n_columns).max(1) as f64, n_columns as f64);
        let uniform = |limit: f64| Init::uniform(-limit, limit);
        match *self {
            Init::GlorotUniform => uniform((6.0 / (n_in + n_out)).sqrt()),
            Init::GlorotNormal => Init::normal(0.0, (2.0 / (n_in + n_out)).sqrt()),
            Init::HeUniform => uniform((6.0 / n_in).sqrt()),
            Init::HeNormal => Init::normal(0.0, (2.0 / n_in).sqrt()),
            Init::LecunUniform => uniform((3.0 / n_in).sqrt()),
            Init::LecunNormal => Init::normal(0.0, (1.0 / n_in).sqrt()),
            law => law,
        }
    }

    /// The starting value of a parameter of this name, type and shape, under a seed.
    pub fn sample(&self, seed: u64, name: &str, dtype: DType, shape: &Shape) -> TensorData {
        let mut tensor = TensorData::zeros(dtype, shape);
        with_array!(&mut tensor, array => {
            let mut places = array.iter_mut();
            self.sample_blocks(seed, name, dtype, shape, |block| {
                // In this order, so that the end of a block takes no place with it.
                block.iter().zip(places.by_ref()).for_each(|(&bits, place)| *place = Element::from_bits(bits));
            });
        });
        tensor
    }

    /// Bytes that making a value takes beside the value.
    pub fn bytes_beside(&self, shape: &Shape) -> usize {
        match self {
            // Words, normal numbers, vectors of them, the result and its bits are there at once, whole.
            Init::Orthogonal(_) | Init::ForgetGate(_) => {
                shape.n_elements().saturating_mul(size_of::<u32>() + 4 * size_of::<u64>())
            }
            _ => 0,
        }
    }

    /// The same some elements at a time, for tensors that should not be in memory twice: hands the bits of the elements to
    /// `each`, in row-major order.
    pub fn sample_blocks(&self, seed: u64, name: &str, dtype: DType, shape: &Shape, each: impl FnMut(&[u64])) {
        in_default(|| self.blocks(seed, name, dtype, shape, each));
    }

    fn blocks(&self, seed: u64, name: &str, dtype: DType, shape: &Shape, mut each: impl FnMut(&[u64])) {
        let n = shape.n_elements();
        if let Init::Constant(value) = self {
            let block = vec![value.bits(dtype); n.min(BLOCK)];
            (0..n).step_by(BLOCK).for_each(|start| each(&block[..(n - start).min(BLOCK)]));
            return;
        }
        let (law, stream) = (self.law(shape), philox::stream_of(name));
        // Vectors that are orthogonal depend on each other, and blocks are counted from the first element.
        let block = if matches!(law, Init::Orthogonal(_) | Init::ForgetGate(_)) { n.max(1) } else { BLOCK };
        for start in (0..n).step_by(block) {
            let words: Vec<u32> =
                (start..n.min(start + block)).map(|i| philox::word(seed, stream, 0, i as u64)).collect();
            let bits: Vec<u64> = law.values(&words, shape).into_iter().map(|v| dtype.bits_of_f64(v)).collect();
            each(&bits);
        }
    }

    /// The values that random words stand for under a law.
    fn values(&self, words: &[u32], shape: &Shape) -> Vec<f64> {
        let normal_f64 = |words: &[u32]| {
            let mut values = vec![0.0; words.len()];
            philox::fill_normal_f64(words, &mut values);
            values
        };
        match *self {
            Init::Constant(v) => vec![v.value(); words.len()],
            Init::Uniform(low, high) => {
                words.iter().map(|&word| low.0 + (high.0 - low.0) * f64::from(philox::uniform_f32(word))).collect()
            }
            Init::Normal(mean, std) => {
                let mut values = vec![0.0f32; words.len()];
                philox::fill_normal_f32(words, &mut values);
                values.iter().map(|&v| mean.0 + std.0 * f64::from(v)).collect()
            }
            Init::TruncatedNormal(mean, std) => {
                let inner: Vec<u32> = words.iter().map(|&word| without_tails(word)).collect();
                normal_f64(&inner).into_iter().map(|v| mean.0 + std.0 * v).collect()
            }
            Init::Orthogonal(gain) => {
                let n_columns = shape.last().copied().unwrap_or(1).max(1);
                orthonormal(normal_f64(words), n_columns).into_iter().map(|v| gain.0 * v).collect()
            }
            Init::ForgetGate(value) => {
                let n_columns = shape.last().copied().unwrap_or(1).max(1);
                let forgets = |i: usize| i % n_columns / n_columns.div_ceil(4) == 1;
                (0..words.len()).map(|i| if forgets(i) { value.0 } else { 0.0 }).collect()
            }
            law => law.law(shape).values(words, shape),
        }
    }
}

/// A word whose share of all words lies between those below which 2.3 and above which 97.7 % of a normal distribution lie.
fn without_tails(word: u32) -> u32 {
    ((TAIL + (1.0 - 2.0 * TAIL) * f64::from(word) / 4_294_967_296.0) * 4_294_967_296.0) as u32
}

/// The row-major matrix with its columns made orthonormal, or its rows if it has fewer of them.
///
/// By the modified method of Gram and Schmidt, once more where most of a vector cancels. The diagonal of the triangular
/// factor is positive, so normal entries give the uniform distribution (Mezzadri 2007).
fn orthonormal(values: Vec<f64>, n_columns: usize) -> Vec<f64> {
    let n_rows = values.len() / n_columns;
    let wide = n_columns > n_rows;
    let (n_vectors, len) = if wide { (n_rows, n_columns) } else { (n_columns, n_rows) };
    let at = |vector: usize, i: usize| if wide { vector * n_columns + i } else { i * n_columns + vector };
    let mut vectors: Vec<Vec<f64>> = (0..n_vectors).map(|v| (0..len).map(|i| values[at(v, i)]).collect()).collect();
    for v in 0..n_vectors {
        let (done, rest) = vectors.split_at_mut(v);
        let current = &mut rest[0];
        loop {
            let before = dot(current, current);
            for other in done.iter() {
                let along = dot(current, other);
                current.iter_mut().zip(other).for_each(|(c, o)| *c -= along * o);
            }
            // What cancels leaves rounding errors behind, which another round removes (Daniel et al. 1976).
            if dot(current, current) > 0.5 * before || before == 0.0 {
                break;
            }
        }
        let norm = dot(current, current).sqrt();
        current.iter_mut().for_each(|c| *c /= norm);
    }
    let mut result = values;
    for (v, vector) in vectors.iter().enumerate() {
        vector.iter().enumerate().for_each(|(i, value)| result[at(v, i)] = *value);
    }
    result
}

/// The inner product, summed in eight lanes so that it vectorizes.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 = a8.remainder().iter().zip(b8.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a8.zip(b8) {
        (0..8).for_each(|i| lanes[i] += x[i] * y[i]);
    }
    lanes.iter().sum::<f64>() + tail
}

impl fmt::Display for Init {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Init::Constant(v) if v == Number::of(0.0) => f.write_str("zeros"),
            Init::Constant(v) if v == Number::of(1.0) => f.write_str("ones"),
            Init::Constant(v) => write!(f, "constant({v})"),
            Init::Uniform(low, high) => write!(f, "uniform({:?}, {:?})", low.0, high.0),
            Init::Normal(mean, std) => write!(f, "normal({:?}, {:?})", mean.0, std.0),
            Init::GlorotUniform => f.write_str("glorot_uniform"),
            Init::GlorotNormal => f.write_str("glorot_normal"),
            Init::HeUniform => f.write_str("he_uniform"),
            Init::HeNormal => f.write_str("he_normal"),
            Init::LecunUniform => f.write_str("lecun_uniform"),
            Init::LecunNormal => f.write_str("lecun_normal"),
            Init::TruncatedNormal(mean, std) => write!(f, "truncated_normal({:?}, {:?})", mean.0, std.0),
            Init::Orthogonal(gain) => write!(f, "orthogonal({:?})", gain.0),
            Init::ForgetGate(value) => write!(f, "forget_gate({:?})", value.0),
        }
    }
}

impl FromStr for Init {
    type Err = String;

    /// Reads the printed form, for example `he_normal` or `uniform(-0.1, 0.1)`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let (name, args) = match text.split_once('(') {
            None => (text, Vec::new()),
            Some((name, rest)) => {
                let inner = rest.strip_suffix(')').ok_or_else(|| format!("`{text}` lacks a closing parenthesis"))?;
                let number = |s: &str| Number::parse(s.trim()).ok_or_else(|| format!("`{}` is not a number", s.trim()));
                (name.trim(), inner.split(',').map(number).collect::<Result<Vec<_>, _>>()?)
            }
        };
        Ok(match (name, args.as_slice()) {
            ("zeros", []) => Init::ZEROS,
            ("ones", []) => Init::ONES,
            ("constant", [v]) => Init::constant(*v),
            ("uniform", [low, high]) => Init::uniform(low.value(), high.value()),
            ("normal", [mean, std]) => Init::normal(mean.value(), std.value()),
            ("glorot_uniform", []) => Init::GlorotUniform,
            ("glorot_normal", []) => Init::GlorotNormal,
            ("he_uniform", []) => Init::HeUniform,
            ("he_normal", []) => Init::HeNormal,
            ("lecun_uniform", []) => Init::LecunUniform,
            ("lecun_normal", []) => Init::LecunNormal,
            ("truncated_normal", [mean, std]) => Init::truncated_normal(mean.value(), std.value()),
            ("orthogonal", [gain]) => Init::orthogonal(gain.value()),
            ("forget_gate", [value]) => Init::forget_gate(value.value()),
            _ => {
                return Err(format!(
                    "unknown initialiser `{text}`: expected zeros, ones, constant(v), uniform(low, high), normal(mean, std), \
                     truncated_normal(mean, std), orthogonal(gain), forget_gate(v), glorot_uniform, glorot_normal, he_uniform, \
                     he_normal, lecun_uniform or lecun_normal"
                ));
            }
        })
    }
}

//! Random numbers: Philox4x32-10, on the host and as expansions into scalar instructions.
//!
//! Philox (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) is a bijection of
//! 128-bit counters chosen by a 64-bit key. It carries no state, so element `i` of a mask can be computed by any
//! thread, in any order, and again in the backward pass.
//!
//! What is random here is a function of (seed, stream, step, element):
//! * the key is the seed, low word first;
//! * the counter is `[block low, block high, stream, step]`;
//! * element `i` (row-major order of the logical tensor) takes word `(i >> 4) & 3` of block `(i >> 6) * 16 + (i & 15)`,
//!   so that sixteen lanes unrolled by four need one block a lane for 64 values.
//!
//! Promises: this layout and the conversions below never change, because saved seeds rely on them; the expansions
//! (`*_body`) give the bits of the host functions. Streams are named: see [`stream_of`].

use std::sync::LazyLock;

use rand_core::{Infallible, SeedableRng, TryRng, utils};

use crate::body::{ScalarBody, ValueId};
use crate::builder::BodyBuilder;
use crate::dtype::DType;
use crate::eval::Registers;
use crate::math;

/// Multipliers of the two halves of a round (Random123, `philox.h`).
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// What a round adds to the key: the golden ratio and √3 − 1 in 32 bits (Random123, `philox.h`).
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const N_ROUNDS: u32 = 10;

/// One block of four words.
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..N_ROUNDS {
        let left = u64::from(c0) * u64::from(MULTIPLIERS[0]);
        let right = u64::from(c2) * u64::from(MULTIPLIERS[1]);
        [c0, c1, c2, c3] = [(right >> 32) as u32 ^ c1 ^ k0, right as u32, (left >> 32) as u32 ^ c3 ^ k1, left as u32];
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
    }
    [c0, c1, c2, c3]
}

/// [`philox4x32_10`] of several counters, word by word: loops over lanes, which compilers turn into vectors.
fn philox_lanes<const N: usize>(counters: [[u32; N]; 4], key: [u32; 2]) -> [[u32; N]; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counters;
    let [mut k0, mut k1] = key;
    for _ in 0..N_ROUNDS {
        for lane in 0..N {
            let left = u64::from(c0[lane]) * u64::from(MULTIPLIERS[0]);
            let right = u64::from(c2[lane]) * u64::from(MULTIPLIERS[1]);
            c0[lane] = (right >> 32) as u32 ^ c1[lane] ^ k0;
            c2[lane] = (left >> 32) as u32 ^ c3[lane] ^ k1;
            (c1[lane], c3[lane]) = (right as u32, left as u32);
        }
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
    }
    [c0, c1, c2, c3]
}

fn key_of(seed: u64) -> [u32; 2] {
    [seed as u32, (seed >> 32) as u32]
}

/// The random word of one element.
pub fn word(seed: u64, stream: u32, step: u32, element: u64) -> u32 {
    let block = ((element >> 6) << 4) | (element & 15);
    let words = philox4x32_10([block as u32, (block >> 32) as u32, stream, step], key_of(seed));
    words[(element >> 4) as usize & 3]
}

/// A uniform number in `[0, 1)`: the upper 24 bits of the word, a multiple of 2⁻²⁴.
pub fn uniform_f32(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// A uniform number in `[0, 1)`: all 32 bits of the word, a multiple of 2⁻³².
///
/// One word an element keeps f64 masks and initial values on the same counters as f32 ones. Where 32 bits are too
/// few, [`uniform_f64_of_two`] takes a second word.
pub fn uniform_f64(word: u32) -> f64 {
    f64::from(word) * (1.0 / 4_294_967_296.0)
}

/// A uniform number in `[0, 1)` with 53 random bits: the upper 21 bits of `low` extend those of `high`.
///
/// By convention `low` is the word of the same element in the stream `stream ^ 0x8000_0000`.
pub fn uniform_f64_of_two(high: u32, low: u32) -> f64 {
    let bits = (u64::from(high) << 21) | u64::from(low >> 11);
    bits as f64 * (1.0 / 9_007_199_254_740_992.0)
}

/// A standard normal number: √2 · erf⁻¹(2u − 1) with u = (⌊word / 2⁹⌋ + ½) · 2⁻²³.
///
/// It is never infinite because u is never 0 or 1; the extremes are ±5.4. The value is defined by
/// [`normal_body`], which this runs: for many numbers use [`fill_normal_f32`].
pub fn normal_f32(word: u32) -> f32 {
    let mut out = [0.0];
    fill_normal_f32(&[word], &mut out);
    out[0]
}

/// [`normal_f32`] of every word; surplus entries of the longer slice are left alone.
pub fn fill_normal_f32(words: &[u32], out: &mut [f32]) {
    static BODY: LazyLock<(ScalarBody, ValueId)> = LazyLock::new(|| normal_of_word(DType::F32));
    run_normal(&BODY, words, |i, bits| {
        if let Some(o) = out.get_mut(i) {
            *o = f32::from_bits(bits as u32);
        }
    });
}

/// The double-precision [`normal_f32`]: √2 · erf⁻¹(2u − 1) with u = (word + ½) · 2⁻³².
pub fn normal_f64(word: u32) -> f64 {
    let mut out = [0.0];
    fill_normal_f64(&[word], &mut out);
    out[0]
}

/// [`normal_f64`] of every word; surplus entries of the longer slice are left alone.
pub fn fill_normal_f64(words: &[u32], out: &mut [f64]) {
    static BODY: LazyLock<(ScalarBody, ValueId)> = LazyLock::new(|| normal_of_word(DType::F64));
    run_normal(&BODY, words, |i, bits| {
        if let Some(o) = out.get_mut(i) {
            *o = f64::from_bits(bits);
        }
    });
}

fn normal_of_word(dtype: DType) -> (ScalarBody, ValueId) {
    let mut s = BodyBuilder::new();
    let word = s.input(0, DType::I32);
    let value = normal_body(&mut s, word, dtype);
    let (body, roots) = s.finish(&[value]);
    (body, roots[0])
}

fn run_normal(body: &(ScalarBody, ValueId), words: &[u32], mut put: impl FnMut(usize, u64)) {
    /// Lanes at a time: few enough that the registers of the body stay in the second-level cache.
    const BLOCK: usize = 1024;
    let mut registers = Registers::default();
    for (b, block) in words.chunks(BLOCK).enumerate() {
        registers.run(&body.0, block.len(), |_, lanes| {
            for (lane, &word) in lanes.iter_mut().zip(block) {
                *lane = u64::from(word);
            }
        });
        for (i, &bits) in registers.lanes_of(body.1).iter().enumerate() {
            put(b * BLOCK + i, bits);
        }
    }
}

/// The stream of a dotted name: FNV-1a of its UTF-8 bytes in 64 bits, the upper half folded into the lower by
/// exclusive or. Stable for ever, so that adding a layer renumbers no other layer's masks.
pub fn stream_of(name: &str) -> u32 {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    (hash ^ (hash >> 32)) as u32
}

/// [`word`] as instructions: `seed_lo`, `seed_hi`, `stream` and `step` are `I32`, `index` is the element as `I32`
/// (read as unsigned) or `I64`; the result is `I32`.
///
/// All four words of the block are computed and one is selected: a backend that unrolls by four along the
/// elements finds the block to be common. With an `I32` index these are 109 instructions, of which the 18 that
/// advance the key do not depend on the element.
pub fn word_body(
    s: &mut BodyBuilder,
    seed_lo: ValueId,
    seed_hi: ValueId,
    stream: ValueId,
    step: ValueId,
    index: ValueId,
) -> ValueId {
    let (fifteen, four, six) = (s.like(15.0, index), s.like(4.0, index), s.like(6.0, index));
    let row = s.shr_u(index, six);
    let row = s.shl(row, four);
    let lane = s.and(index, fifteen);
    let block = s.or(row, lane);
    let (block_lo, block_hi) = if s.dtype(index) == DType::I64 {
        let width = s.constant(32.0, DType::I64);
        let high = s.shr_u(block, width);
        (s.cast(block, DType::I32), s.cast(high, DType::I32))
    } else {
        (block, s.constant(0.0, DType::I32))
    };
    let words = block_body(s, [block_lo, block_hi, stream, step], [seed_lo, seed_hi]);

    let low = s.cast(index, DType::I32);
    let zero = s.constant(0.0, DType::I32);
    let mut bit = |at: i32| {
        let mask = s.constant(f64::from(at), DType::I32);
        let masked = s.and(low, mask);
        s.ne(masked, zero)
    };
    let (odd, upper) = (bit(16), bit(32));
    let first = s.select(odd, words[1], words[0]);
    let second = s.select(odd, words[3], words[2]);
    s.select(upper, second, first)
}

/// [`philox4x32_10`] as instructions on `I32`.
pub fn block_body(s: &mut BodyBuilder, counter: [ValueId; 4], key: [ValueId; 2]) -> [ValueId; 4] {
    let mut constant = |bits: u32| s.const_from_bits(u64::from(bits), DType::I32);
    let multipliers = MULTIPLIERS.map(&mut constant);
    let weyl = WEYL.map(&mut constant);
    let ([mut c0, mut c1, mut c2, mut c3], [mut k0, mut k1]) = (counter, key);
    for round in 0..N_ROUNDS {
        if round > 0 {
            (k0, k1) = (s.add(k0, weyl[0]), s.add(k1, weyl[1]));
        }
        let (left_hi, left_lo) = (s.mul_hi_u(c0, multipliers[0]), s.mul(c0, multipliers[0]));
        let (right_hi, right_lo) = (s.mul_hi_u(c2, multipliers[1]), s.mul(c2, multipliers[1]));
        let (a, b) = (s.xor(c1, k0), s.xor(c3, k1));
        (c0, c1, c2, c3) = (s.xor(right_hi, a), right_lo, s.xor(left_hi, b), left_lo);
    }
    [c0, c1, c2, c3]
}

/// [`uniform_f32`] or [`uniform_f64`] as instructions, by `dtype`; the word is `I32`.
pub fn uniform_body(s: &mut BodyBuilder, word: ValueId, dtype: DType) -> ValueId {
    if dtype == DType::F32 {
        let eight = s.constant(8.0, DType::I32);
        let bits = s.shr_u(word, eight);
        let value = s.cast(bits, DType::F32);
        let scale = s.constant(1.0 / 16_777_216.0, DType::F32);
        s.mul(value, scale)
    } else {
        let value = unsigned_to_f64(s, word);
        let scale = s.constant(1.0 / 4_294_967_296.0, DType::F64);
        s.mul(value, scale)
    }
}

/// [`normal_f32`] or [`normal_f64`] as instructions, by `dtype`; the word is `I32`.
pub fn normal_body(s: &mut BodyBuilder, word: ValueId, dtype: DType) -> ValueId {
    // 2u − 1 = (k + ½) · 2⁻²² − 1 is exact: k + ½ has 24 bits, and the difference is a multiple of 2⁻²³ below 1.
    // In f64 the same holds with 32 bits of k.
    let (k, step) = if dtype == DType::F32 {
        let nine = s.constant(9.0, DType::I32);
        let bits = s.shr_u(word, nine);
        (s.cast(bits, DType::F32), 1.0 / 4_194_304.0)
    } else {
        (unsigned_to_f64(s, word), 1.0 / 2_147_483_648.0)
    };
    let (step, start) = (s.like(step, k), s.like(0.5 * step - 1.0, k));
    let centered = s.fma(k, step, start);
    let value = math::erf_inv(s, centered);
    let root_two = s.like(std::f64::consts::SQRT_2, value);
    s.mul(value, root_two)
}

/// An `I32` read as unsigned, as f64: the signed value, plus 2³² if that is negative (exact).
fn unsigned_to_f64(s: &mut BodyBuilder, word: ValueId) -> ValueId {
    let signed = s.cast(word, DType::F64);
    let (zero, span) = (s.constant(0.0, DType::F64), s.constant(4_294_967_296.0, DType::F64));
    let wrapped = s.add(signed, span);
    let negative = s.lt(signed, zero);
    s.select(negative, wrapped, signed)
}

/// A sequential generator over Philox for the host: shuffles, splits, augmentation.
///
/// The key is the seed, the counter is `[position low, position high, stream low, stream high]`, and words come in
/// order of position. Different streams of one seed are independent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhiloxRng {
    seed: u64,
    stream: u64,
    next_block: u64,
    words: [u32; 4],
    n_used: usize,
}

impl PhiloxRng {
    /// The generator at the start of a stream.
    pub fn new(seed: u64, stream: u64) -> Self {
        PhiloxRng { seed, stream, next_block: 0, words: [0; 4], n_used: 4 }
    }

    fn next_word(&mut self) -> u32 {
        if self.n_used == 4 {
            let ([b0, b1], [s0, s1]) = (key_of(self.next_block), key_of(self.stream));
            self.words = philox4x32_10([b0, b1, s0, s1], key_of(self.seed));
            self.next_block = self.next_block.wrapping_add(1);
            self.n_used = 0;
        }
        self.n_used += 1;
        self.words[self.n_used - 1]
    }

    /// The words that so many calls would give, several times as fast: some blocks side by side, in vectors where the CPU has them.
    pub fn fill_words(&mut self, words: &mut [u32]) {
        const LANES: usize = 16;
        let n_left = words.len().min(4 - self.n_used);
        let (first, rest) = words.split_at_mut(n_left);
        first.iter_mut().for_each(|word| *word = self.next_word());
        let (groups, rest) = rest.as_chunks_mut::<{ 4 * LANES }>();
        for group in groups {
            let blocks: [u64; LANES] = std::array::from_fn(|lane| self.next_block.wrapping_add(lane as u64));
            let [s0, s1] = key_of(self.stream);
            let counters = [blocks.map(|b| b as u32), blocks.map(|b| (b >> 32) as u32), [s0; LANES], [s1; LANES]];
            let lanes = philox_lanes(counters, key_of(self.seed));
            for (lane, block) in group.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                *block = [0, 1, 2, 3].map(|word| lanes[word][lane]);
            }
            self.next_block = self.next_block.wrapping_add(LANES as u64);
        }
        rest.iter_mut().for_each(|word| *word = self.next_word());
    }
}

impl TryRng for PhiloxRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.next_word())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        utils::next_u64_via_u32(self)
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        utils::fill_bytes_via_next_word(dst, || self.try_next_u32())
    }
}

impl SeedableRng for PhiloxRng {
    type Seed = [u8; 16];

    /// The first eight bytes are the seed, the others the stream, both little-endian.
    fn from_seed(seed: [u8; 16]) -> Self {
        let bits = u128::from_le_bytes(seed);
        PhiloxRng::new(bits as u64, (bits >> 64) as u64)
    }
}

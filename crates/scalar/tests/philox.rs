//! Philox: published vectors, expansions against the host functions bit by bit, and sanity of the distributions.

use cotangent_scalar::eval::Registers;
use cotangent_scalar::philox::{self, PhiloxRng};
use cotangent_scalar::{BodyBuilder, DType, ScalarBody, ValueId};
use rand_core::{Rng, SeedableRng};

#[test]
fn known_answers_of_random123() {
    // The `philox4x32 10` lines of `tests/kat_vectors`.
    for (counter, key, want) in [
        ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
        ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
        (
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        ),
    ] {
        assert_eq!(philox::philox4x32_10(counter, key), want);
    }
}

#[test]
fn elements_share_blocks_as_documented() {
    let (seed, stream, step) = (0x0123_4567_89ab_cdef, 77, 5);
    for element in [0u64, 15, 16, 47, 63, 64, 1000, (1 << 40) + 21] {
        let block = (element >> 6) * 16 + (element & 15);
        let words =
            philox::philox4x32_10([block as u32, (block >> 32) as u32, stream, step], [0x89ab_cdef, 0x0123_4567]);
        assert_eq!(philox::word(seed, stream, step, element), words[((element >> 4) & 3) as usize]);
    }
    // No two of the first elements take the same word of the same block.
    let places: std::collections::HashSet<_> = (0..4096u64).map(|i| ((i >> 6) * 16 + (i & 15), (i >> 4) & 3)).collect();
    assert_eq!(places.len(), 4096);
}

fn word_program(index: DType) -> (ScalarBody, Vec<ValueId>) {
    let mut s = BodyBuilder::new();
    let [seed_lo, seed_hi, stream, step] = [0, 1, 2, 3].map(|k| s.input(k, DType::I32));
    let index = s.input(4, index);
    let word = philox::word_body(&mut s, seed_lo, seed_hi, stream, step, index);
    let mut roots = vec![word];
    for dtype in [DType::F32, DType::F64] {
        roots.push(philox::uniform_body(&mut s, word, dtype));
        roots.push(philox::normal_body(&mut s, word, dtype));
    }
    s.finish(&roots)
}

#[test]
fn expansions_give_the_bits_of_the_host() {
    let (seed, stream, step) = (0xdead_beef_0bad_cafe_u64, philox::stream_of("net.dropout"), 0xffff_fff0_u32);
    for dtype in [DType::I32, DType::I64] {
        let (body, roots) = word_program(dtype);
        let far: u64 = if dtype == DType::I64 { (1 << 45) - 100 } else { u64::from(u32::MAX) - 300 };
        let elements: Vec<u64> = (0..300).chain(far..far + 300).collect();
        let mut registers = Registers::default();
        registers.run(&body, elements.len(), |k, lanes| match k {
            0 => lanes.fill(seed & 0xffff_ffff),
            1 => lanes.fill(seed >> 32),
            2 => lanes.fill(u64::from(stream)),
            3 => lanes.fill(u64::from(step)),
            _ => lanes.copy_from_slice(&elements),
        });
        for (i, &element) in elements.iter().enumerate() {
            let word = philox::word(seed, stream, step, element);
            let want = [
                u64::from(word),
                u64::from(philox::uniform_f32(word).to_bits()),
                u64::from(philox::normal_f32(word).to_bits()),
                philox::uniform_f64(word).to_bits(),
                philox::normal_f64(word).to_bits(),
            ];
            let got: Vec<u64> = roots.iter().map(|&root| registers.lanes_of(root)[i]).collect();
            assert_eq!(got, want, "element {element} with {dtype} indices");
        }
    }
}

/// The stated cost, so that a change of it is deliberate.
#[test]
fn a_word_costs_what_is_documented() {
    let (body, roots) = word_program(DType::I32);
    let mut s = BodyBuilder::new();
    let inputs: Vec<ValueId> = (0..5).map(|k| s.input(k, DType::I32)).collect();
    let map = s.inline(&body, &inputs);
    let (word_only, _) = s.finish(&[map[roots[0].index()]]);
    assert_eq!(word_only.n_ops(), 109);
}

#[test]
fn conversions_at_the_extremes() {
    assert_eq!(philox::uniform_f32(0), 0.0);
    assert_eq!(philox::uniform_f32(u32::MAX), 1.0 - 2f32.powi(-24));
    assert_eq!(philox::uniform_f64(u32::MAX), 1.0 - 2f64.powi(-32));
    assert_eq!(philox::uniform_f64_of_two(u32::MAX, u32::MAX), 1.0 - 2f64.powi(-53));
    assert_eq!(philox::uniform_f64_of_two(0x8000_0000, 0x0000_07ff), 0.5);
    assert_eq!(philox::normal_f32(0), -philox::normal_f32(u32::MAX));
    assert!((5.2..5.4).contains(&philox::normal_f32(u32::MAX)), "{}", philox::normal_f32(u32::MAX));
    assert!((6.2..6.4).contains(&philox::normal_f64(u32::MAX)), "{}", philox::normal_f64(u32::MAX));
    assert_eq!(philox::normal_f64(0), -philox::normal_f64(u32::MAX));
}

fn words(n: u64) -> Vec<u32> {
    let stream = philox::stream_of("test");
    (0..n).map(|i| philox::word(42, stream, 0, i)).collect()
}

#[test]
fn uniform_and_normal_numbers_have_their_moments() {
    const N: u64 = 1_000_000;
    let words = words(N);
    let moments = |values: &[f64]| {
        let mean = values.iter().sum::<f64>() / N as f64;
        let power = |k: i32| values.iter().map(|v| (v - mean).powi(k)).sum::<f64>() / N as f64;
        (mean, power(2), power(3), power(4))
    };
    // Tolerances are about five standard errors of each statistic.
    let uniforms: Vec<f64> = words.iter().map(|&w| f64::from(philox::uniform_f32(w))).collect();
    let (mean, variance, ..) = moments(&uniforms);
    assert!((mean - 0.5).abs() < 1.5e-3 && (variance - 1.0 / 12.0).abs() < 4e-4, "{mean} {variance}");

    let mut normals = vec![0f32; words.len()];
    philox::fill_normal_f32(&words, &mut normals);
    let mut precise = vec![0f64; words.len()];
    philox::fill_normal_f64(&words, &mut precise);
    for values in [normals.iter().map(|&v| f64::from(v)).collect::<Vec<_>>(), precise] {
        let (mean, variance, third, fourth) = moments(&values);
        assert!(mean.abs() < 5e-3 && (variance - 1.0).abs() < 7e-3, "{mean} {variance}");
        assert!(third.abs() < 2e-2 && (fourth - 3.0).abs() < 5e-2, "{third} {fourth}");
    }
}

#[test]
fn bytes_are_even() {
    let words = words(250_000);
    for shift in [0, 8, 16, 24] {
        let mut counts = [0u32; 256];
        for word in &words {
            counts[(word >> shift) as usize & 0xff] += 1;
        }
        let expected = words.len() as f64 / 256.0;
        let chi_square: f64 = counts.iter().map(|&c| (f64::from(c) - expected).powi(2) / expected).sum();
        // 255 degrees of freedom: mean 255, standard deviation 22.6.
        assert!((150.0..370.0).contains(&chi_square), "chi-square of byte {shift}: {chi_square}");
    }
}

#[test]
fn streams_steps_and_seeds_are_uncorrelated() {
    let pairs: [(u64, u32, u32); 4] = [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1)];
    let centered = |(seed, stream, step), i| f64::from(philox::uniform_f32(philox::word(seed, stream, step, i))) - 0.5;
    for (k, &a) in pairs.iter().enumerate() {
        for &b in &pairs[k + 1..] {
            let n = 100_000;
            let correlation = 12.0 * (0..n).map(|i| centered(a, i) * centered(b, i)).sum::<f64>() / n as f64;
            assert!(correlation.abs() < 0.016, "{a:?} and {b:?}: {correlation}");
        }
    }
}

#[test]
fn streams_of_names_are_stable() {
    // FNV-1a in 64 bits of "" and "a" is published: cbf29ce484222325 and af63dc4c8601ec8c.
    assert_eq!(philox::stream_of(""), 0xcbf2_9ce4 ^ 0x8422_2325);
    assert_eq!(philox::stream_of("a"), 0xaf63_dc4c ^ 0x8601_ec8c);
    assert_ne!(philox::stream_of("hidden.w"), philox::stream_of("hidden.b"));
}

#[test]
fn the_generator_is_sequential_and_repeatable() {
    let mut rng = PhiloxRng::new(0, 0);
    let first: Vec<u32> = (0..4).map(|_| rng.next_u32()).collect();
    assert_eq!(first, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    let mut again = PhiloxRng::new(0, 0);
    assert_eq!(again.next_u64(), 0xe169_c58d_6627_e8d5);
    let mut bytes = [0u8; 8];
    again.fill_bytes(&mut bytes);
    assert_eq!(bytes, [0x4c, 0xac, 0x57, 0xbc, 0xd8, 0xdb, 0x00, 0x9b]);
    assert_eq!(again.next_u32(), rng.next_u32());
    assert_ne!(PhiloxRng::new(0, 1).next_u64(), PhiloxRng::new(0, 0).next_u64());

    let mut seed = [0u8; 16];
    (seed[0], seed[8]) = (3, 4);
    assert_eq!(PhiloxRng::from_seed(seed), PhiloxRng::new(3, 4));
}

#[test]
fn words_at_once_are_those_one_by_one() {
    for n_before in 0..6 {
        for n in [0, 1, 2, 3, 5, 63, 64, 65, 128, 400, 1001] {
            let (mut one_by_one, mut at_once) = (PhiloxRng::new(7, u64::MAX - 1), PhiloxRng::new(7, u64::MAX - 1));
            for _ in 0..n_before {
                assert_eq!(one_by_one.next_u32(), at_once.next_u32());
            }
            let mut words = vec![0; n];
            at_once.fill_words(&mut words);
            assert_eq!(words, (0..n).map(|_| one_by_one.next_u32()).collect::<Vec<_>>(), "{n} after {n_before}");
            assert_eq!(at_once.next_u64(), one_by_one.next_u64());
        }
    }
}

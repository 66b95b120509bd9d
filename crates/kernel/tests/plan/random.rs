//! Random graphs: the oracle, the fused plan and the unfused plan give the same bits, and the verifier has no complaint.
//!
//! `COTANGENT_SEEDS=200..400` chooses other seeds.

use std::ops::Range;

use cotangent_testkit::random::{self, Options};

use crate::common;

fn seeds(default: Range<u64>) -> Range<u64> {
    let chosen = std::env::var("COTANGENT_SEEDS").ok().and_then(|text| {
        let (from, to) = text.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    });
    chosen.unwrap_or(default)
}

fn check_all(seeds: Range<u64>, options: &Options) {
    let check = |seed: u64| {
        let source = random::graph(seed, options);
        let env = random::env(&source, seed);
        common::compare(&common::optimized(&source), &env).err().map(|error| format!("seed {seed}: {error}"))
    };
    let failures: Vec<String> = seeds.filter_map(check).collect();
    assert!(failures.is_empty(), "{} failures, the first:\n{}", failures.len(), failures[0]);
}

#[test]
fn forward_graphs_keep_their_bits() {
    let options = Options { grads: false, second_order: false, max_elements: 512, ..Options::default() };
    check_all(seeds(0..200), &options);
}

#[test]
fn gradients_keep_their_bits() {
    check_all(seeds(1000..1200), &Options { max_elements: 512, ..Options::default() });
}

#[test]
fn large_graphs_keep_their_bits() {
    check_all(seeds(2000..2030), &Options { n_ops: 90, max_elements: 256, ..Options::default() });
}

#[test]
fn long_tensors_keep_their_bits() {
    let options = Options { max_elements: 20_000, n_ops: 8, second_order: false, ..Options::default() };
    check_all(seeds(3000..3040), &options);
}

#[test]
fn empty_tensors_keep_their_bits() {
    let options = Options { wild: 0.3, max_elements: 64, n_ops: 30, ..Options::default() };
    check_all(seeds(4000..4100), &options);
}

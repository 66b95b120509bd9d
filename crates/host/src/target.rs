//! What decisions follow from that depend on the machine: its vectors, caches, cores, and what things cost. One value, which is
//! found out once and can be replaced.
//!
//! No bit of a result depends on it. It only chooses which kernels run and how work is cut into pieces.

use std::fmt;
use std::sync::OnceLock;

use crate::memory::Bytes;

#[path = "target_text.rs"]
mod text;

/// An instruction set that there are kernels for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Nothing beyond what every CPU of the architecture has.
    Portable,
    /// x86-64 with AVX2, FMA and BMI2: 16 registers of 256 bits.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL besides: 32 registers of 512 bits, mask registers.
    Avx512,
    /// aarch64 with NEON: 32 registers of 128 bits.
    Neon,
}

impl Isa {
    /// All of them, the best last.
    pub const ALL: [Isa; 4] = [Isa::Portable, Isa::Neon, Isa::Avx2, Isa::Avx512];

    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Neon => "neon",
        }
    }

    /// The set with a name.
    pub fn named(name: &str) -> Option<Isa> {
        Isa::ALL.into_iter().find(|isa| isa.name() == name)
    }

    /// Whether this build has kernels for it: those for other architectures are left out.
    pub fn is_built(self) -> bool {
        match self {
            Isa::Portable => true,
            Isa::Avx2 | Isa::Avx512 => cfg!(target_arch = "x86_64"),
            Isa::Neon => cfg!(target_arch = "aarch64"),
        }
    }

    /// Whether this CPU runs it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                use std::is_x86_feature_detected as has;
                has!("avx2") && has!("fma") && has!("bmi2")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                use std::is_x86_feature_detected as has;
                let wide = has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
                wide && Isa::Avx2.is_available()
            }
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => false,
            Isa::Neon => cfg!(target_arch = "aarch64"),
        }
    }

    /// The best of this CPU.
    fn best() -> Isa {
        Isa::ALL.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(Isa::Portable)
    }
}

/// Sizes of the data caches, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caches {
    /// The first level, of one core.
    pub l1: usize,
    /// The second level, of one core.
    pub l2: usize,
    /// The third level, of all cores together; where there is none, what memory is taken to keep near.
    pub l3: usize,
    /// Addresses so many bytes apart fall into the same set of the first level: its size by its ways. A power of two.
    pub l1_period: usize,
}

/// What things cost, on one thread. Times are in nanoseconds; they need not be right, only to order alternatives as a
/// measurement would. The values of [`Target::here`] were fitted to a Zen 4 (November 2026, nothing else running), by
/// `cotangent explain --measure` and the tables of `docs/performance.md`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    /// A scalar operation on an element, for each byte of the element: vectors hold fewer of the wide ones.
    pub op_ns: f64,
    /// A division or a root of an element, for each byte of the element.
    pub divide_ns: f64,
    /// What the reduction of a row takes beside its elements.
    pub row_ns: f64,
    /// An operation of a step that computes one element after the other.
    pub single_ns: f64,
    /// A multiply-add of a matrix product, for each byte of an element.
    pub fma_ns: f64,
    /// A byte read from or written to the first-level cache.
    pub first_byte_ns: f64,
    /// A byte read from or written to the second-level cache; what decisions take for all that is near.
    pub near_byte_ns: f64,
    /// A byte read from or written to the third-level cache.
    pub third_byte_ns: f64,
    /// A byte read from or written to memory.
    pub far_byte_ns: f64,
    /// What a step takes beside its elements.
    pub step_ns: f64,
    /// What a step takes more in a program that touches more than stays near: its code and small operands come from afar.
    pub cold_ns: f64,
    /// An element that is read or written by itself, because its neighbors lie elsewhere.
    pub strided_ns: f64,
    /// A call of a kernel that makes one tile of a matrix product.
    pub tile_ns: f64,
    /// A step that is no product is divided between threads if it is taken to last so long, at the next three prices: dearer
    /// than those above, because short steps take longer than predicted.
    pub split_ns: f64,
    /// For dividing, a scalar operation on an element of a kernel.
    pub split_op_ns: f64,
    /// For dividing, a load or store of an element of a kernel.
    pub split_access_ns: f64,
    /// For dividing, a byte that a step reads or writes that is not loops.
    pub split_byte_ns: f64,
    /// Multiply-adds of a matrix product from which on several threads make it.
    pub split_product: usize,
    /// Multiply-adds of a product with a vector from which on several threads make it.
    pub split_vector: usize,
    /// Bytes of a piece of memory that is so long that the wait for its beginning does not count.
    pub long_piece: usize,
    /// Bytes that a step touches from which on what it only writes is stored past the caches.
    pub stream_bytes: usize,
}

impl Costs {
    /// The times, with their names.
    fn times(&self) -> [(&'static str, f64); N_TIMES] {
        { *self }.times_mut().map(|(name, value)| (name, *value))
    }

    fn times_mut(&mut self) -> [(&'static str, &mut f64); N_TIMES] {
        [
            ("op_ns", &mut self.op_ns),
            ("divide_ns", &mut self.divide_ns),
            ("row_ns", &mut self.row_ns),
            ("single_ns", &mut self.single_ns),
            ("fma_ns", &mut self.fma_ns),
            ("first_byte_ns", &mut self.first_byte_ns),
            ("near_byte_ns", &mut self.near_byte_ns),
            ("third_byte_ns", &mut self.third_byte_ns),
            ("far_byte_ns", &mut self.far_byte_ns),
            ("step_ns", &mut self.step_ns),
            ("cold_ns", &mut self.cold_ns),
            ("strided_ns", &mut self.strided_ns),
            ("tile_ns", &mut self.tile_ns),
            ("split_ns", &mut self.split_ns),
            ("split_op_ns", &mut self.split_op_ns),
            ("split_access_ns", &mut self.split_access_ns),
            ("split_byte_ns", &mut self.split_byte_ns),
        ]
    }

    /// The numbers of multiply-adds and bytes, with their names.
    fn counts(&self) -> [(&'static str, usize); N_COUNTS] {
        { *self }.counts_mut().map(|(name, value)| (name, *value))
    }

    fn counts_mut(&mut self) -> [(&'static str, &mut usize); N_COUNTS] {
        [
            ("split_product", &mut self.split_product),
            ("split_vector", &mut self.split_vector),
            ("long_piece", &mut self.long_piece),
            ("stream_bytes", &mut self.stream_bytes),
        ]
    }
}

const N_TIMES: usize = 17;
const N_COUNTS: usize = 4;

/// The variable that names another instruction set than the best.
const ISA_VARIABLE: &str = "COTANGENT_ISA";

/// A machine to compile for: instruction set, caches, cores, costs. Its values have been checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    isa: Isa,
    caches: Caches,
    cores: usize,
    costs: Costs,
}

/// A value that no machine has, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadTarget(String);

impl fmt::Display for BadTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadTarget {}

/// Caches of a common size, for CPUs that do not tell theirs.
const USUAL: Caches = Caches { l1: 32 << 10, l2: 1 << 20, l3: 32 << 20, l1_period: 4096 };

/// See [`Costs`].
const FITTED: Costs = Costs {
    op_ns: 0.0075,
    divide_ns: 0.06,
    row_ns: 8.0,
    single_ns: 1.0,
    fma_ns: 0.0065,
    first_byte_ns: 0.008,
    near_byte_ns: 0.015,
    third_byte_ns: 0.04,
    far_byte_ns: 0.08,
    step_ns: 100.0,
    cold_ns: 800.0,
    strided_ns: 0.3,
    tile_ns: 8.0,
    split_ns: 8_000.0,
    split_op_ns: 0.06,
    split_access_ns: 0.1,
    split_byte_ns: 0.1,
    // About 10 µs each.
    split_product: 2 * 64 * 64 * 64,
    split_vector: 1 << 17,
    long_piece: 48 << 10,
    stream_bytes: 24 << 20,
};

impl Target {
    /// A machine with these values.
    ///
    /// # Errors
    /// [`BadTarget`] names a value that is zero, not a number, or beyond what machines have, or a cache that is smaller than
    /// that of the level before.
    pub fn new(isa: Isa, caches: Caches, cores: usize, costs: Costs) -> Result<Target, BadTarget> {
        let within = |what: &str, value: usize, least: usize, most: usize| match (least..=most).contains(&value) {
            true => Ok(()),
            false => Err(BadTarget(format!("{what} of a target must be {least} to {most}, got {value}"))),
        };
        let Caches { l1, l2, l3, l1_period } = caches;
        within("bytes of the first-level cache", l1, 1 << 10, 1 << 24)?;
        within("bytes of the second-level cache", l2, l1, 1 << 32)?;
        within("bytes of the third-level cache", l3, l2, 1 << 40)?;
        within("bytes between addresses of the same cache set", l1_period, 64, l1)?;
        if !l1_period.is_power_of_two() {
            let text = format!("bytes between addresses of the same cache set must be a power of two, got {l1_period}");
            return Err(BadTarget(text));
        }
        within("cores", cores, 1, 1 << 16)?;
        for (what, ns) in costs.times() {
            if !(1e-9..=1e9).contains(&ns) {
                return Err(BadTarget(format!("`{what}` of a target must be 1e-9 to 1e9 nanoseconds, got {ns}")));
            }
        }
        for (what, count) in costs.counts() {
            within(&format!("`{what}`"), count, 1, 1 << 40)?;
        }
        Ok(Target { isa, caches, cores, costs })
    }

    /// This machine: what its CPU says about itself, asked once, and costs that were fitted elsewhere.
    pub fn here() -> &'static Target {
        static HERE: OnceLock<Target> = OnceLock::new();
        HERE.get_or_init(|| {
            let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
            Target { isa: Isa::best(), caches: sane(detect()), cores, costs: FITTED }
        })
    }

    /// A machine that is the same wherever it is asked for: one core, no instructions beyond the common ones, caches of 32 KiB,
    /// 1 MiB and 32 MiB, and the costs of [`Target::here`]. Tests that compare plans take it.
    pub fn usual() -> Target {
        Target { isa: Isa::Portable, caches: USUAL, cores: 1, costs: FITTED }
    }

    /// [`Target::here`], with the instruction set that `COTANGENT_ISA` names, if it names one.
    ///
    /// # Errors
    /// [`BadTarget`] if there is no set of that name, or this CPU lacks it.
    pub fn from_environment() -> Result<Target, BadTarget> {
        let here = Target::here().clone();
        let Some(name) = std::env::var_os(ISA_VARIABLE).filter(|name| !name.is_empty()) else { return Ok(here) };
        let Some(isa) = name.to_str().and_then(Isa::named) else {
            let names = Isa::ALL.map(Isa::name).join(", ");
            return Err(BadTarget(format!("{ISA_VARIABLE} requires one of {names}, got `{}`", name.display())));
        };
        if !isa.is_available() {
            return Err(BadTarget(format!("{ISA_VARIABLE} requires what this CPU runs, got `{}`", isa.name())));
        }
        Ok(here.with_isa(isa))
    }

    /// The same machine with another instruction set.
    #[must_use]
    pub fn with_isa(self, isa: Isa) -> Target {
        Target { isa, ..self }
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The caches.
    pub fn caches(&self) -> Caches {
        self.caches
    }

    /// How many cores a program may use.
    pub fn cores(&self) -> usize {
        self.cores
    }

    /// What things cost.
    pub fn costs(&self) -> &Costs {
        &self.costs
    }

    /// The same machine with other costs.
    ///
    /// # Errors
    /// As [`Target::new`].
    pub fn with_costs(self, costs: Costs) -> Result<Target, BadTarget> {
        Target::new(self.isa, self.caches, self.cores, costs)
    }

    /// The least nanoseconds of so many operations on elements of so many bytes: two to a multiply-add.
    pub fn flop_time(&self, flop: f64, element_bytes: usize) -> f64 {
        0.5 * flop * element_bytes as f64 * self.costs.fma_ns
    }

    /// What a byte costs where so many bytes stay: in the smallest cache that holds them, or in memory.
    pub fn byte_ns(&self, n_bytes: u64) -> f64 {
        let Caches { l1, l2, l3, .. } = self.caches;
        let Costs { first_byte_ns, near_byte_ns, third_byte_ns, far_byte_ns, .. } = self.costs;
        let levels = [(l1, first_byte_ns), (l2, near_byte_ns), (l3, third_byte_ns)];
        levels.into_iter().find(|(size, _)| n_bytes <= *size as u64).map_or(far_byte_ns, |(_, ns)| ns)
    }

    /// The nanoseconds of reading and writing so many bytes from the smallest cache that holds them, or from memory.
    pub fn bytes_time(&self, n_bytes: u64) -> f64 {
        n_bytes as f64 * self.byte_ns(n_bytes)
    }
}

/// What `explain` prints: three lines.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Caches { l1, l2, l3, l1_period } = self.caches;
        let (cores, isa) = (self.cores, self.isa.name());
        writeln!(f, "{isa}, {cores} core{}", if cores == 1 { "" } else { "s" })?;
        let [l1, l2, l3, period] = [l1, l2, l3, l1_period].map(Bytes);
        writeln!(f, "caches of {l1}, {l2} and {l3}; addresses {period} apart share a set of the first")?;
        let times = self.costs.times().map(|(what, ns)| format!("{what} {ns}"));
        let counts = self.costs.counts().map(|(what, count)| format!("{what} {count}"));
        writeln!(f, "costs: {}", [&times[..], &counts[..]].concat().join(", "))
    }
}

/// Replaces what cannot be: virtual machines report odd values, and some machines have no third level.
fn sane(found: Caches) -> Caches {
    let l1 = if (8 << 10..=1 << 20).contains(&found.l1) { found.l1 } else { USUAL.l1 };
    let l2 = if (2 * l1..=64 << 20).contains(&found.l2) { found.l2 } else { USUAL.l2 };
    let l3 = if (l2..=1 << 34).contains(&found.l3) { found.l3 } else { 4 * l2 };
    let is_period = found.l1_period.is_power_of_two() && (64..=l1).contains(&found.l1_period);
    let l1_period = if is_period { found.l1_period } else { USUAL.l1_period };
    Caches { l1, l2, l3, l1_period }
}

/// Reads the cache leaves of `cpuid`: 0x8000001D on AMD, 4 on Intel, with the same layout.
#[cfg(target_arch = "x86_64")]
fn detect() -> Caches {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const AMD: u32 = 0x8000_001d;
    const INTEL: u32 = 4;
    let leaf = if __cpuid(0x8000_0000).eax >= AMD {
        AMD
    } else if __cpuid(0).eax >= INTEL {
        INTEL
    } else {
        return USUAL;
    };
    let mut found = Caches { l1: 0, l2: 0, l3: 0, l1_period: 0 };
    // Leaves end with kind 0; the limit is for machines that do not end them.
    for index in 0..8 {
        let info = __cpuid_count(leaf, index);
        let (kind, level) = (info.eax & 31, info.eax >> 5 & 7);
        let field = |shift: u32, bits: u32| (info.ebx >> shift & ((1 << bits) - 1)) as usize + 1;
        let period = field(0, 12) * (info.ecx as usize + 1);
        let bytes = period * field(12, 10) * field(22, 10);
        match (kind, level) {
            (0, _) => break,
            (1 | 3, 1) => (found.l1, found.l1_period) = (bytes, period),
            (1 | 3, 2) => found.l2 = bytes,
            (1 | 3, 3) => found.l3 = bytes,
            _ => {}
        }
    }
    found
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Caches {
    USUAL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_plausible() {
        let here = Target::here();
        let Target { isa, caches, cores, costs } = here.clone();
        assert_eq!(Target::new(isa, caches, cores, costs).as_ref(), Ok(here));
        assert!(isa.is_available() && isa.is_built());
        assert!(caches.l1 >= 8 << 10 && caches.l1 < caches.l2, "{caches:?}");
    }

    #[test]
    fn what_a_machine_does_not_tell_is_replaced() {
        let nothing = Caches { l1: 0, l2: 0, l3: 0, l1_period: 0 };
        assert_eq!(sane(nothing), Caches { l3: 4 << 20, ..USUAL });
        assert_eq!(sane(USUAL), USUAL);
        assert_eq!(sane(Caches { l1_period: 4095, ..USUAL }), USUAL);
    }

    #[test]
    fn names_are_those_of_the_sets() {
        for isa in Isa::ALL {
            assert_eq!(Isa::named(isa.name()), Some(isa));
            assert!(isa.is_built() || !isa.is_available());
        }
        assert_eq!(Isa::named("avx9000"), None);
    }

    #[test]
    fn values_that_no_machine_has_are_refused() {
        let good = |caches: Caches, cores, costs| Target::new(Isa::Portable, caches, cores, costs);
        assert_eq!(good(USUAL, 1, FITTED), Ok(Target::usual()));
        let refused = |target: Result<Target, BadTarget>, text: &str| {
            let error = target.unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        };
        refused(good(Caches { l1: 0, ..USUAL }, 1, FITTED), "first-level");
        refused(good(Caches { l2: 1, ..USUAL }, 1, FITTED), "second-level cache of a target must be 32768 to");
        refused(good(Caches { l3: usize::MAX, ..USUAL }, 1, FITTED), "third-level");
        refused(good(Caches { l1_period: 1000, ..USUAL }, 1, FITTED), "power of two, got 1000");
        refused(good(Caches { l1_period: 0, ..USUAL }, 1, FITTED), "cache set");
        refused(good(USUAL, 0, FITTED), "cores of a target must be 1 to 65536, got 0");
        for ns in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            refused(good(USUAL, 1, Costs { fma_ns: ns, ..FITTED }), "`fma_ns`");
            refused(good(USUAL, 1, Costs { tile_ns: ns, ..FITTED }), "`tile_ns`");
        }
        refused(good(USUAL, 1, Costs { split_vector: 0, ..FITTED }), "`split_vector`");
        refused(good(USUAL, 1, Costs { stream_bytes: usize::MAX, ..FITTED }), "`stream_bytes`");
    }

    #[test]
    fn a_target_prints_everything_it_says() {
        let text = Target::usual().to_string();
        assert!(text.starts_with("portable, 1 core\ncaches of 32.0 KiB, 1024.0 KiB and 32.0 MiB; "), "{text}");
        let Costs { op_ns, split_product, .. } = FITTED;
        assert!(text.contains(&format!("op_ns {op_ns}, ")) && text.contains(&format!("split_product {split_product}")));
        // Every field of the costs has its name in one of the lists.
        let names = format!("{FITTED:?}");
        for name in names.split(['{', ',']).skip(1).filter_map(|part| part.split(':').next()) {
            assert!(text.contains(name.trim()), "{name}");
        }
    }
}

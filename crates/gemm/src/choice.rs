//! Which way a product goes: all that are legal for it, each with its condition and its predicted time. The first is the one to
//! take: the conditions are what measurements taught, in order. The others are for whoever wants to try them.

use cotangent_host::Target;
use cotangent_scalar::order::product_lanes;

use crate::element::Element;
use crate::product::{COLUMN_ALIGN, Product, lcm};
use crate::time::nanos;
use crate::way::{Blocking, Case, Operand, Order, Pieces, Way};

/// A way that is legal for a product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The way.
    pub way: Way,
    /// Why it is the one to take; `None` if its condition does not hold.
    pub why: Option<&'static str>,
    /// What it is predicted to take on one thread, in nanoseconds, without the epilogue.
    pub nanos: f64,
}

/// The longest K block: beyond it C is visited so rarely that longer blocks gain nothing.
const MAX_KC: usize = 1024;

/// Up to so many panels of rows, packing B costs more than it gains.
const LOW_PANELS: usize = 4;

/// With tiles of at least so many rows, reading an unpacked B from L2 again and again costs less than packing it.
const STAYING_ROWS: usize = 12;

/// A strip has as many rows as make its part of C a long piece of memory, and so many panels at least.
const STRIP_PANELS: usize = 2;

/// Products of at most so many steps of K are made by flat kernels.
const FLAT_DEPTH: usize = 16;

/// Products of at most so many panels of rows are made by flat kernels, so many steps of K at a time.
const FLAT_PANELS: usize = 1;
const FLAT_STEP: usize = 8;

/// Products of more than [`LOW_PANELS`] and at most so many rows, with operands that stay in L2, are made by flat kernels too
/// where tiles are low, so many steps of K at a time.
const FLAT_ROWS: usize = 128;
const FLAT_PIECE_STEPS: usize = 32;

/// From so many panels of rows on, copying what flat kernels read of B pays where its rows share cache sets.
const COPY_PANELS: usize = 4;

/// Elements of C that are made at a time where rows are read one after the other.
const LONG_CHUNK: usize = 4096;

/// Which products flat kernels make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FlatFor {
    /// Of few steps of K, which take less time than writing C by tiles does, or with a B that fits into half of L1: a call for
    /// each tile would take too long.
    FewSteps,
    /// Of few rows, where reading B by tiles takes longer than the arithmetic.
    FewRows,
    /// With operands that stay in L2: passing over pieces of B in place costs less than packing panels.
    ShortPieces,
}

/// All ways of a product on a machine, the one to take first, then by predicted time; none if this build has no kernels for
/// the machine's instruction set. How the elements of A and B lie decides as much as the extents do.
pub fn ways<T: Element>(product: &Product, target: &Target) -> Vec<Candidate> {
    let Some(kernels) = T::kernels(target.isa()) else { return Vec::new() };
    let case = Case { product, kernels, target };
    let mut ways: Vec<Candidate> = Vec::new();
    let mut add = |way: Way, why: Option<&'static str>| {
        let Some(way) = case.legal(way) else { return };
        if !ways.iter().any(|known| known.way == way) {
            ways.push(Candidate { way, why, nanos: nanos(&case, way) });
        }
    };
    if product.is_vector() {
        case.add_sums(&mut add);
    } else {
        case.add_tile(&mut add);
        case.add_flat(&mut add);
        case.add_panels(&mut add);
    }
    if let Some(first) = ways.iter().position(|choice| choice.why.is_some()) {
        ways[..=first].rotate_right(1);
        ways[1..].sort_by(|x, y| x.nanos.total_cmp(&y.nanos));
    }
    ways
}

impl<T: Element> Case<'_, T> {
    /// Ways of a product with a vector.
    fn add_sums(&self, add: &mut dyn FnMut(Way, Option<&'static str>)) {
        let Product { m, n, k, .. } = *self.product;
        let (matrix, ..) = self.turned();
        // Long pieces of M's rows keep the hardware's prefetching going, so chunks are as long as lanes fit into half of L2,
        // from where they come once for every few rows:
        //     chunk · lanes · size <= L2 / 2.
        let across = self.target.caches().l2 / 2 / (product_lanes([m, n, k], T::DTYPE) * size_of::<T>());
        let side_by_side = m.max(n) > 1 && matrix.row == 1 && (matrix.col != 1 || k == 1);
        let adjacent = matrix.col == 1 || k == 1;
        let why = side_by_side.then_some("the rows that are summed up lie side by side");
        add(Way::Sums { order: Order::Across, chunk: across }, why);
        let why = adjacent.then_some("the elements of a row that is summed up are adjacent");
        add(Way::Sums { order: Order::Along, chunk: LONG_CHUNK }, why);
        let why = "neither the rows that are summed up nor their elements are adjacent";
        add(Way::Sums { order: Order::Strided, chunk: LONG_CHUNK }, Some(why));
    }

    /// One tile.
    fn add_tile(&self, add: &mut dyn FnMut(Way, Option<&'static str>)) {
        let short = self.product.k <= self.max_kc();
        add(Way::Tile, short.then_some("loops would cost more than the arithmetic"));
    }

    /// Flat kernels.
    fn add_flat(&self, add: &mut dyn FnMut(Way, Option<&'static str>)) {
        let Product { m, n, a, .. } = *self.product;
        let suiting = self.flat_for();
        let (mr, nr, size) = (self.kernels.mr(), self.kernels.nr, size_of::<T>());
        let (piece, period) = (self.target.caches().l1 / 2 / size, self.target.caches().l1_period);
        let (is_for, depth) = suiting.unwrap_or((FlatFor::ShortPieces, FLAT_PIECE_STEPS));
        // B waits in L1 for the next panel of rows, and a C of few rows for the next steps of K:
        //     depth · cols · size <= L1 / 2,   m · cols · size <= L1 / 2.
        let most_cols = if is_for == FlatFor::FewRows { piece / m.max(1) } else { n };
        // Rows start at multiples of this in the cache sets. If that leaves too few sets they push each other out.
        let apart = 1 << self.row_bytes().trailing_zeros().min(period.trailing_zeros());
        let is_crowded = apart * depth > piece * size || apart >= period / 2;
        let should_copy = is_crowded && m.div_ceil(mr) >= COPY_PANELS;
        // Short pieces read A in place, where only adjacent steps of K share cache lines.
        let suits = suiting.is_some() && (is_for != FlatFor::ShortPieces || (a.col == 1 && !is_crowded));
        let why = match is_for {
            FlatFor::FewSteps => "few steps of K, or a B that stays in the first-level cache",
            FlatFor::FewRows => "few rows, for which reading B takes longer than the arithmetic",
            FlatFor::ShortPieces => "both operands stay in the second-level cache, and packing takes longer",
        };
        for copied in [should_copy, !should_copy] {
            // Few panels of rows take fewer steps instead of a copy.
            let depth = if is_crowded && !copied { depth.div_ceil(2) } else { depth };
            let cols = (piece / depth.max(1)).min(most_cols).max(1).next_multiple_of(nr);
            let way = Way::Flat { pieces: Pieces { depth, cols, copied }, blocking: self.blocking() };
            add(way, (suits && copied == should_copy).then_some(why));
        }
    }

    /// Panels, with all ways to read the operands.
    fn add_panels(&self, add: &mut dyn FnMut(Way, Option<&'static str>)) {
        let (chosen, why) = self.reading();
        let strip = self.strip();
        for a in [Operand::InPlace, Operand::Packed] {
            for b in [Operand::InPlace, Operand::Packed, Operand::Transposed] {
                let is_chosen = chosen == [a, b];
                if let Some(blocking) = strip {
                    let why = "strips of C stay in the second-level cache until their epilogue is done";
                    add(Way::Panels { a, b, blocking, strips: true }, is_chosen.then_some(why));
                }
                let why = (is_chosen && strip.is_none()).then_some(why);
                add(Way::Panels { a, b, blocking: self.blocking(), strips: false }, why);
            }
        }
    }

    /// How panels had better read the operands, and why.
    fn reading(&self) -> ([Operand; 2], &'static str) {
        let Product { m, n, k, b, .. } = *self.product;
        let (mr, nr, size) = (self.kernels.mr(), self.kernels.nr, size_of::<T>());
        let caches = self.target.caches();
        let bytes = |extent: usize| extent.saturating_mul(k).saturating_mul(size);
        let (a_bytes, b_bytes) = (bytes(m), bytes(n));
        let suiting = self.flat_for().map(|(is_for, _)| is_for);
        let in_place = b.col == 1;
        let is_crowded = self.rows_share_sets();
        let (is_low, is_narrow) = (m <= LOW_PANELS * mr, n <= 2 * nr);
        // Low tiles read B too often for that.
        let stays = mr >= STAYING_ROWS && a_bytes <= caches.l2 / 2 && b_bytes <= 4 * caches.l2;
        if stays && in_place && !is_crowded {
            return ([Operand::InPlace; 2], "A stays in the second-level cache while B, not much larger, passes once");
        }
        // B comes from L3, and tiles would fetch each of its lines once for every panel of rows.
        let from_far = is_low && !is_narrow && suiting.is_none() && m > mr && b_bytes > caches.l2;
        if from_far && in_place && is_crowded {
            return ([Operand::Packed; 2], "the rows of a B from far away fall into the same cache sets");
        }
        let is_small = a_bytes.saturating_add(b_bytes) <= caches.l1;
        let is_flat = matches!(suiting, Some(FlatFor::FewSteps | FlatFor::FewRows));
        let pick = |direct: bool, why: &'static str| direct.then_some(why);
        let b_why = pick(is_small, "both operands fit into the first-level cache")
            .or(pick(is_low, "few panels of rows read B"))
            .or(pick(is_flat, "few steps of K or few rows"));
        let a_why = b_why.or(pick(is_narrow, "few panels of columns read A"));
        let a = if a_why.is_some() { Operand::InPlace } else { Operand::Packed };
        let b = match b_why {
            Some(_) if in_place => Operand::InPlace,
            // Worth it if one panel of rows is all that reads B.
            _ if !in_place && b.row == 1 && m <= self.kernels.transposing.len() => Operand::Transposed,
            _ => Operand::Packed,
        };
        let why = match a_why {
            Some(why) if in_place || b_why.is_none() => why,
            Some(_) => "A is cheap to read in place, and the columns of B are not adjacent",
            None => "each element is read so often that packing pays",
        };
        ([a, b], why)
    }

    /// A panel of B (kc × nr) passes through L1 for every tile and takes at most an eighth of L2, from where it streams:
    ///     kc · nr · size <= L2 / 8.
    fn max_kc(&self) -> usize {
        (self.target.caches().l2 / 8 / (self.kernels.nr * size_of::<T>())).clamp(64, MAX_KC)
    }

    /// Why the product suits flat kernels, as far as its extents say, and how many steps of K they take at a time.
    fn flat_for(&self) -> Option<(FlatFor, usize)> {
        let found = self.flat_extents()?;
        (found.0 == FlatFor::FewSteps || found.0 == FlatFor::FewRows || self.strip().is_none()).then_some(found)
    }

    fn flat_extents(&self) -> Option<(FlatFor, usize)> {
        let Product { m, n, k, .. } = *self.product;
        let (mr, size, caches) = (self.kernels.mr(), size_of::<T>(), self.target.caches());
        if self.kernels.flat.is_empty() || n < 2 * self.kernels.nr || k == 0 {
            return None;
        }
        if k <= FLAT_DEPTH || k * n <= caches.l1 / 2 / size {
            Some((FlatFor::FewSteps, k))
        } else if m <= FLAT_PANELS * mr {
            Some((FlatFor::FewRows, FLAT_STEP))
        } else if mr < STAYING_ROWS
            && (LOW_PANELS * mr + 1..=FLAT_ROWS).contains(&m)
            && k * m.max(n) * size <= caches.l2 / 2
        {
            Some((FlatFor::ShortPieces, FLAT_PIECE_STEPS))
        } else {
            None
        }
    }

    /// The blocks of loops whose C is not kept in strips.
    fn blocking(&self) -> Blocking {
        let Product { m, n, k, epilogue, .. } = *self.product;
        let (mr, size, caches) = (self.kernels.mr(), size_of::<T>(), self.target.caches());
        // Long K blocks, because each visit to C costs a tile's worth of misses. They are equal, so that the last one is not
        // a short one.
        let kc = k.div_ceil(k.div_ceil(self.max_kc()).max(1)).max(1);
        // A block of A (mc × kc) takes half of L2; the rest is for panels of B and for C on their way:
        //     mc · kc · size <= L2 / 2,
        // but if all rows fit into L2 they are one block, because then B need not be packed as a whole.
        let fits = caches.l2 / (kc * size);
        let mc = if m <= fits { m.max(1) } else { (fits / 2).max(mr) };
        // Few steps of K: whole rows of C, which stay in L2 until the epilogue has seen them and its companions:
        //     mc · n · size · (1 + companions) <= L2 / 4.
        let mc = match self.flat_for() {
            Some((FlatFor::FewSteps, _)) => {
                (caches.l2 / 4 / (n * size * (1 + epilogue.n_companions))).clamp(mr, mc.max(mr))
            }
            _ => mc,
        };
        let mc = m.div_ceil(m.div_ceil(mc).max(1)).next_multiple_of(lcm(COLUMN_ALIGN, self.row_unit(false)));
        // A block of B (kc × nc) takes an eighth of L3, which other cores use too:
        //     kc · nc · size <= L3 / 8.
        let nc = (caches.l3 / 8 / (kc * size)).next_multiple_of(self.column_unit());
        Blocking { mc, kc, nc }
    }

    /// Blocks for a product whose epilogue streams matrices as large as C while each element of C takes few multiply-adds: the
    /// update of a weight by its gradient. Strips of few rows, so that what the epilogue touches are long pieces of memory that
    /// stay in L2 from their fetch to their use, while a block of B stays there too:
    ///     kc · nc · size <= L2 / 2,   mc · nc · size · (1 + companions) <= 3/8 L2.
    fn strip(&self) -> Option<Blocking> {
        let Product { m, n, k, epilogue, .. } = *self.product;
        let (mr, size, caches) = (self.kernels.mr(), size_of::<T>(), self.target.caches());
        let is_flat = matches!(self.flat_extents(), Some((FlatFor::FewSteps | FlatFor::FewRows, _)));
        if !epilogue.owns_c || is_flat || n == 0 || k == 0 || k > self.max_kc() {
            return None;
        }
        let unit = self.column_unit();
        let nc = (caches.l2 / 2 / (k * size)) / unit * unit;
        if nc < n.min(256) {
            return None;
        }
        // Equal blocks rather than a short last one.
        let nc = n.div_ceil(n.div_ceil(nc)).next_multiple_of(unit);
        let rows = caches.l2 * 3 / 8 / (nc * size * (1 + epilogue.n_companions));
        // As many rows as make long pieces, and two panels at least: each piece begins with a wait for memory.
        let most = (self.target.costs().long_piece / (nc * size * mr)).max(STRIP_PANELS);
        let mc = (rows / mr).clamp(1, most) * mr;
        (m > mc).then(|| Blocking { mc: mc.next_multiple_of(self.row_unit(true)), kc: k, nc })
    }
}

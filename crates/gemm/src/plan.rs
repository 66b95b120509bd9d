//! Plans: for given extents, which kernels to use and how large blocks are, decided once.
//!
//! Which operands to pack depends on strides too, which are known at each run; the plan holds the answers for
//! both orientations, C = A·B and Cᵀ = Bᵀ·Aᵀ.

use std::ops::Range;

use cotangent_host::float::in_default;
use cotangent_pool::Pool;

use crate::cpu::{Caches, caches};
use crate::drive::{Job, one_tile};
use crate::kernel::KernelSet;
use crate::vector::VectorShape;
use crate::workspace::LINE;
use crate::{Element, IsaChoice, MatMut, MatRef, Workspace};

/// What to do with a rectangle of C that is complete: its batch index, rows and columns, and the address that element (0, 0)
/// of that C would have if all of it were where the rectangle is.
///
/// It is called exactly once for every element, on the thread that finished it, as disjoint rectangles whose
/// first column is a multiple of 16. It may change the rectangle of C and nothing else that the product uses.
pub type Epilogue<'a> = dyn Fn(usize, Range<usize>, Range<usize>, *mut u8) + Sync + 'a;

/// How to call a product.
#[derive(Clone, Copy, Default)]
pub struct Call<'a> {
    /// Add to C (each chain starts from the old value); otherwise C is not read before it is written.
    pub accumulate: bool,
    /// Called on each finished rectangle of C.
    pub epilogue: Option<&'a Epilogue<'a>>,
}

impl std::fmt::Debug for Call<'_> {
    fn fmt(&self, fmt: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Call { accumulate, epilogue } = self;
        fmt.debug_struct("Call").field("accumulate", accumulate).field("epilogue", &epilogue.is_some()).finish()
    }
}

/// Several products of the same extents; strides from one product to the next are in elements.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// How many.
    pub count: usize,
    /// Of A; 0 uses the same A for all.
    pub a_stride: isize,
    /// Of B; 0 uses the same B for all.
    pub b_stride: isize,
    /// Of C; the matrices must not overlap.
    pub c_stride: isize,
}

/// Block sizes of the loops over rows, K and columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocking {
    /// Rows of a packed block of A, which stays in L2.
    pub mc: usize,
    /// K extent of a block: a panel of B with this many rows stays in L1.
    pub kc: usize,
    /// Columns of a packed block of B, which stays in L3.
    pub nc: usize,
}

/// Knobs, for tests and experiments. None of them changes a bit of a result.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Which kernels to use.
    pub isa: IsaChoice,
    /// Block sizes instead of those derived from the caches; zeros count as ones.
    pub blocking: Option<Blocking>,
    /// What the epilogue needs.
    pub epilogue: EpilogueNeeds,
}

/// What an epilogue needs of the product whose rectangles it finishes, known when that is planned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpilogueNeeds {
    /// Rectangles start at rows that are multiples of this, and end there or at the last row; 0 counts as 1. An epilogue
    /// that sums blocks of rows asks for whole blocks.
    pub row_multiple: usize,
    /// Matrices of C's extents and element type that it reads or writes beside C: they share the cache with C.
    pub n_companions: usize,
    /// It alone reads C, so C need not be stored: the workspace holds the rows under way. The C that is handed in must be
    /// row-major and is not touched; its address may be anything.
    pub owns_c: bool,
}

/// Below this many multiply-adds (about 10 µs) a product runs on one thread.
const PARALLEL_MULTIPLY_ADDS: usize = 2 * 64 * 64 * 64;

/// Row bounds between threads and blocks are multiples of this: a divisor of common tile heights.
const ROW_ALIGN: usize = 4;

/// Column starts that epilogues get, and column bounds between threads, are multiples of this.
pub(crate) const COLUMN_ALIGN: usize = 16;

/// The longest K block: beyond it C is visited so rarely that longer blocks gain nothing.
const MAX_KC: usize = 1024;

/// Up to so many panels of rows, packing B costs more than it gains.
const LOW_PANELS: usize = 4;

/// With tiles of at least so many rows, reading an unpacked B from L2 again and again costs less than packing it.
const STAYING_ROWS: usize = 12;

/// The most panels of B that are packed at a time, along their rows: more do not make reading B faster.
pub(crate) const MAX_PANELS: usize = 8;

/// A strip (see [`strip`]) has at most so many bytes of C, or so many panels of rows.
const STRIP_BYTES: usize = 48 << 10;
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

/// Addresses this far apart share a set of the L1 cache (and a page offset, by which caches are indexed).
pub(crate) const SET_PERIOD: usize = 4096;

/// A plan for products of m×k by k×n matrices of `T`.
pub struct Gemm<T: Element> {
    kernels: &'static KernelSet<T>,
    extents: [usize; 3],
    way: Way,
}

/// How a product is made.
#[derive(Debug)]
enum Way {
    /// With one row or one column.
    Vector(VectorShape),
    /// In blocks, C = A·B or Cᵀ = Bᵀ·Aᵀ.
    Blocks { straight: Box<Shape>, swapped: Box<Shape> },
}

impl<T: Element> std::fmt::Debug for Gemm<T> {
    fn fmt(&self, fmt: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        fmt.debug_struct("Gemm").field("kernels", &self.kernels.name).field("way", &self.way).finish()
    }
}

impl<T: Element> Gemm<T> {
    /// A plan with the best kernels of this CPU and block sizes for its caches.
    pub fn new(m: usize, n: usize, k: usize) -> Self {
        let kernels = T::kernels(crate::cpu::Isa::best());
        Self::with_kernels(m, n, k, kernels, &Options::default())
    }

    /// A plan with the given options, or `None` if this CPU lacks the instruction set asked for.
    pub fn with_options(m: usize, n: usize, k: usize, options: &Options) -> Option<Self> {
        let kernels = T::kernels(options.isa.resolve()?);
        Some(Self::with_kernels(m, n, k, kernels, options))
    }

    fn with_kernels(m: usize, n: usize, k: usize, kernels: &'static KernelSet<T>, options: &Options) -> Self {
        let caches = caches();
        let needs = options.epilogue;
        let extents = [m, n, k];
        if let Some(shape) = VectorShape::new::<T>(extents, caches, options.blocking, needs) {
            return Gemm { kernels, extents, way: Way::Vector(shape) };
        }
        let unit = needs.row_multiple.max(1);
        let shape =
            |extents, multiples| Box::new(Shape::new(extents, kernels, caches, options.blocking, multiples, needs));
        // The columns of the swapped product are the epilogue's rows.
        let (straight, swapped) = (shape(extents, [unit, 1]), shape([n, m, k], [1, unit]));
        Gemm { kernels, extents, way: Way::Blocks { straight, swapped } }
    }

    /// The name of the instruction set whose kernels are used.
    pub fn kernel_name(&self) -> &'static str {
        self.kernels.name
    }

    /// Bytes of workspace that a run on `n_threads` threads may need, batched or not.
    pub fn workspace_bytes(&self, n_threads: usize) -> usize {
        let n_threads = n_threads.max(1);
        let bytes = |shape: &Shape| shape.shared_bytes::<T>() + n_threads * shape.own_bytes::<T>();
        match &self.way {
            Way::Vector(shape) => shape.workspace_bytes::<T>(n_threads),
            Way::Blocks { straight, swapped } => bytes(straight).max(bytes(swapped)),
        }
    }

    /// C = A·B, or C += A·B.
    ///
    /// # Safety
    /// All elements of `a` and `b` are readable and those of `c` writable (readable too when accumulating) for
    /// the whole call; the elements of `c` overlap neither each other nor those of `a` and `b`, and nobody else
    /// uses them meanwhile, except the epilogue on the rectangles it is given.
    ///
    /// # Panics
    /// If the extents are not those of the plan, the epilogue panics, or the workspace has to grow and the system refuses
    /// the memory.
    pub unsafe fn run(
        &self,
        pool: &Pool,
        a: MatRef<T>,
        b: MatRef<T>,
        c: MatMut<T>,
        call: &Call<'_>,
        workspace: &mut Workspace,
    ) {
        let batch = Batch { count: 1, a_stride: 0, b_stride: 0, c_stride: 0 };
        // SAFETY: a batch of one is the product itself.
        unsafe { self.run_batch(pool, &batch, a, b, c, call, workspace) }
    }

    /// `batch.count` products, the first of which is `a`, `b`, `c`.
    ///
    /// # Safety
    /// As for [`Gemm::run`], for every product of the batch; the matrices C of different products do not overlap.
    ///
    /// # Panics
    /// If the extents are not those of the plan, the epilogue panics, or the workspace has to grow and the system refuses
    /// the memory.
    #[expect(clippy::too_many_arguments, reason = "three matrices, their batch, and what each call needs")]
    pub unsafe fn run_batch(
        &self,
        pool: &Pool,
        batch: &Batch,
        a: MatRef<T>,
        b: MatRef<T>,
        c: MatMut<T>,
        call: &Call<'_>,
        workspace: &mut Workspace,
    ) {
        // SAFETY: the caller vouches for the matrices.
        in_default(|| unsafe { self.run_batch_in(pool, batch, a, b, c, call, workspace) });
    }

    /// [`Gemm::run_batch`] under the default floating-point environment.
    ///
    /// # Safety
    /// As for [`Gemm::run_batch`].
    #[expect(clippy::too_many_arguments, reason = "three matrices, their batch, and what each call needs")]
    unsafe fn run_batch_in(
        &self,
        pool: &Pool,
        batch: &Batch,
        a: MatRef<T>,
        b: MatRef<T>,
        c: MatMut<T>,
        call: &Call<'_>,
        workspace: &mut Workspace,
    ) {
        let [m, n, k] = self.extents;
        assert_eq!((a.rows, a.cols), (m, k), "A has other extents than the plan");
        assert_eq!((b.rows, b.cols), (k, n), "B has other extents than the plan");
        assert_eq!((c.rows, c.cols), (m, n), "C has other extents than the plan");
        if m == 0 || n == 0 || batch.count == 0 {
            return;
        }
        let (straight, swapped) = match &self.way {
            Way::Vector(shape) => {
                // SAFETY: the caller vouches for the matrices; the kernels were chosen for this CPU.
                return unsafe { shape.run(&self.kernels.vector, pool, batch, [a, b], c, call, workspace) };
            }
            Way::Blocks { straight, swapped } => (straight, swapped),
        };
        if straight.is_one_tile && b.col_stride == 1 && c.col_stride == 1 {
            // SAFETY: the caller vouches for the matrices; the kernels were chosen for this CPU.
            return unsafe { one_tile(self.kernels, straight, batch, [a, b], c, call, workspace) };
        }
        let multiply_adds = [m, n, k, batch.count].into_iter().fold(1, usize::saturating_mul);
        let n_threads = if multiply_adds < PARALLEL_MULTIPLY_ADDS { 1 } else { pool.n_threads() };
        // The kernels want the columns of C adjacent. If its rows are, the transposed product has that.
        let swap = c.row_stride == 1 && c.col_stride != 1;
        let (shape, batch, a, b, c) = if swap {
            let batch = Batch { a_stride: batch.b_stride, b_stride: batch.a_stride, ..*batch };
            (swapped, batch, b.transposed(), a.transposed(), c.transposed())
        } else {
            (straight, *batch, a, b, c)
        };
        workspace.reserve_now(shape.shared_bytes::<T>() + n_threads * shape.own_bytes::<T>());
        let job = Job::new(self.kernels, shape, batch, [a, b], c, call, swap, workspace);
        // SAFETY: the caller vouches for the matrices; the kernels were chosen for this CPU; the workspace has
        // just been made large enough for this many threads.
        unsafe { job.run(pool, n_threads) }
    }
}

/// The extents and block sizes of one orientation of a product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub blocking: Blocking,
    /// Columns of the rectangles given to the epilogue.
    pub epilogue_cols: usize,
    /// Columns of B that a thread packs for itself at a time: whole panels.
    pub packed_cols: usize,
    /// Do not pack A: it is in L1 anyway, or each of its elements is used for one or two tiles only.
    pub a_direct: bool,
    /// Do not pack B, provided that its columns are adjacent in memory.
    pub b_direct: bool,
    /// Pack neither, provided that B's columns are adjacent and its rows do not all fall into the same cache sets:
    /// measured, packing then costs more than the better order of memory gains.
    pub stays: bool,
    /// Pack both all the same if B's rows fall into the same cache sets: B comes from L3, and tiles would fetch each of its
    /// lines once for every panel of rows.
    pub packs_crowded: bool,
    /// One call of a micro-kernel does it, if the columns of B and C are adjacent.
    pub is_one_tile: bool,
    /// Flat kernels, if strides suit them.
    pub flat: Option<Flat>,
    /// Row bounds between threads and blocks are multiples of this.
    pub row_unit: usize,
    /// Columns are divided between threads and rectangles in units of this.
    pub column_unit: usize,
    /// Rows of C that a thread keeps in the workspace: 0 if C is stored, all where it takes several K blocks.
    pub c_rows: usize,
    /// Columns of a packed panel of B.
    nr: usize,
}

/// Which products flat kernels make.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FlatFor {
    /// Of few steps of K, which take less time than writing C by tiles does, or with a B that fits into half of L1: a call for
    /// each tile would take too long.
    FewSteps,
    /// Of few rows, where reading B by tiles takes longer than the arithmetic.
    FewRows,
    /// With operands that stay in L2: passing over pieces of B in place costs less than packing panels.
    ShortPieces,
}

/// How flat kernels pass over a block, as far as that does not depend on strides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flat {
    pub is_for: FlatFor,
    /// Steps of K at a time, if B is used in place.
    depth: usize,
    /// Elements of a piece of B: half of L1.
    piece: usize,
    /// Columns of a piece, if C must stay in L1 as well.
    most_cols: usize,
    size: usize,
}

/// How flat kernels pass over a block of a matrix B: steps of K and columns at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pieces {
    pub depth: usize,
    pub cols: usize,
    /// They read a copy.
    pub copied: bool,
}

impl Flat {
    fn new<T: Element>([m, n, k]: [usize; 3], kernels: &KernelSet<T>, caches: Caches) -> Option<Flat> {
        let (mr, nr, size) = (kernels.mr(), kernels.nr, size_of::<T>());
        let piece = caches.l1 / 2 / size;
        if kernels.flat.is_empty() || n < 2 * nr || k == 0 {
            return None;
        }
        let (is_for, depth) = if k <= FLAT_DEPTH || k * n <= piece {
            (FlatFor::FewSteps, k)
        } else if m <= FLAT_PANELS * mr {
            (FlatFor::FewRows, FLAT_STEP)
        } else if mr < STAYING_ROWS
            && (LOW_PANELS * mr + 1..=FLAT_ROWS).contains(&m)
            && k * m.max(n) * size <= caches.l2 / 2
        {
            (FlatFor::ShortPieces, FLAT_PIECE_STEPS)
        } else {
            return None;
        };
        // B waits in L1 for the next panel of rows, and a C of few rows for the next steps of K:
        //     depth · cols · size <= L1 / 2,   m · cols · size <= L1 / 2.
        let most_cols = if matches!(is_for, FlatFor::FewRows) { piece / m.max(1) } else { usize::MAX };
        Some(Flat { is_for, depth, piece, most_cols, size })
    }

    /// The pieces of a B whose rows are so many bytes apart, for so many panels of rows; `None` if tiles do better.
    pub fn pieces(&self, row_bytes: usize, n_panels: usize, nr: usize) -> Option<Pieces> {
        // Rows start at multiples of this in the cache sets. If that leaves too few sets they push each other out.
        let apart = 1 << row_bytes.trailing_zeros().min(SET_PERIOD.trailing_zeros());
        let crowded = apart * self.depth > self.piece * self.size || apart >= SET_PERIOD / 2;
        let copied = crowded && n_panels >= COPY_PANELS;
        // Few panels of rows take fewer steps instead.
        let depth = match self.is_for {
            FlatFor::ShortPieces if crowded => return None,
            _ if crowded && !copied => self.depth.div_ceil(2),
            _ => self.depth,
        };
        let cols = (self.piece / depth).min(self.most_cols).max(1).next_multiple_of(nr);
        Some(Pieces { depth, cols, copied })
    }

    /// Elements of a copied piece, at most.
    fn elements(&self, nr: usize) -> usize {
        self.piece + nr * self.depth
    }
}

impl Shape {
    /// `multiples`: the bounds of rectangles, rows and columns, are multiples of these.
    fn new<T: Element>(
        [m, n, k]: [usize; 3],
        kernels: &KernelSet<T>,
        caches: Caches,
        forced: Option<Blocking>,
        multiples: [usize; 2],
        needs: EpilogueNeeds,
    ) -> Self {
        let (mr, nr, size) = (kernels.mr(), kernels.nr, size_of::<T>());
        let column_unit = lcm(nr.max(COLUMN_ALIGN), multiples[1]);
        let mut row_unit = lcm(ROW_ALIGN, multiples[0]);
        let max_kc = (caches.l2 / 8 / (nr * size)).clamp(64, MAX_KC);
        let flat = Flat::new([m, n, k], kernels, caches);
        let is_short_pieces = matches!(flat, Some(Flat { is_for: FlatFor::ShortPieces, .. }));
        let strip = if needs.owns_c && forced.is_none() && (flat.is_none() || is_short_pieces) {
            strip([n, k], max_kc, size, [mr, nr], caches, needs.n_companions).filter(|strip| m > strip.mc)
        } else {
            None
        };
        let flat = flat.filter(|_| strip.is_none());
        let blocking = match (forced, strip) {
            (Some(Blocking { mc, kc, nc }), _) => {
                let mc = mc.max(1).next_multiple_of(multiples[0]);
                row_unit = if mc.is_multiple_of(row_unit) { row_unit } else { multiples[0] };
                Blocking { mc, kc: kc.max(1), nc: nc.max(1).next_multiple_of(column_unit) }
            }
            (None, Some(strip)) => {
                row_unit = lcm(mr, multiples[0]);
                Blocking { mc: strip.mc.next_multiple_of(row_unit), ..strip }
            }
            (None, None) => {
                // Long K blocks, because each visit to C costs a tile's worth of misses. A panel of B (kc × nr)
                // passes through L1 for every tile and takes at most an eighth of L2, from where it streams:
                //     kc · nr · size <= L2 / 8.
                // The blocks are then made equal, so that the last one is not a short one.
                let kc = k.div_ceil(k.div_ceil(max_kc).max(1)).max(1);
                // A block of A (mc × kc) takes half of L2; the rest is for panels of B and for C on their way:
                //     mc · kc · size <= L2 / 2,
                // but if all rows fit into L2 they are one block, because then B need not be packed as a whole.
                let fits = caches.l2 / (kc * size);
                let mc = if m <= fits { m.max(1) } else { (fits / 2).max(mr) };
                // Few steps of K: whole rows of C, which stay in L2 until the epilogue has seen them and its companions:
                //     mc · n · size · (1 + companions) <= L2 / 4.
                let mc = match flat {
                    Some(Flat { is_for: FlatFor::FewSteps, .. }) => {
                        (caches.l2 / 4 / (n * size * (1 + needs.n_companions))).clamp(mr, mc.max(mr))
                    }
                    _ => mc,
                };
                let mc = m.div_ceil(m.div_ceil(mc).max(1)).next_multiple_of(lcm(COLUMN_ALIGN, row_unit));
                // A block of B (kc × nc) takes an eighth of L3, which other cores use too:
                //     kc · nc · size <= L3 / 8.
                let nc = (caches.l3 / 8 / (kc * size)).next_multiple_of(column_unit);
                Blocking { mc, kc, nc }
            }
        };
        // A rectangle of C takes a quarter of L2, so that it is still there when the epilogue reads it:
        //     mc · epilogue_cols · size <= L2 / 4.
        let rows = blocking.mc.min(m).max(1);
        let epilogue_cols = (caches.l2 / 4 / (rows * size)).max(column_unit).next_multiple_of(column_unit);
        // Panels of B that a thread packs at once, so that it reads longer pieces of B's rows, stay in L2:
        //     kc · packed_cols · size <= L2 / 4.
        let packed_cols = (caches.l2 / 4 / (blocking.kc * nr * size)).clamp(1, MAX_PANELS) * nr;
        let (a_bytes, b_bytes) = (m.saturating_mul(k).saturating_mul(size), n.saturating_mul(k).saturating_mul(size));
        // Both operands fit into L1 as they are, or each element is used for a few tiles only.
        let small = a_bytes.saturating_add(b_bytes) <= caches.l1;
        let (low, narrow) = (m <= LOW_PANELS * mr, n <= 2 * nr);
        let flat_needs = flat.is_some() && !is_short_pieces;
        let (a_direct, b_direct) = (small || low || narrow || flat_needs, small || low || flat_needs);
        let packs_crowded = low && !narrow && flat.is_none() && m > mr && b_bytes > caches.l2;
        // A stays in L2 while B, of a size that TLB and L3 handle well, streams by once.
        // Low tiles read B too often for that.
        let stays = mr >= STAYING_ROWS && a_bytes <= caches.l2 / 2 && b_bytes <= 4 * caches.l2;
        let widest = |m: usize| kernels.direct.get(m - 1).map_or(0, |kernels| kernels.len());
        let is_one_tile = (1..=mr).contains(&m)
            && (1..=widest(m) * kernels.lanes).contains(&n)
            && a_direct
            && b_direct
            && k <= blocking.kc;
        let c_rows = match needs.owns_c {
            false => 0,
            true if k <= blocking.kc => blocking.mc.min(m),
            true => m,
        };
        Shape {
            m,
            n,
            k,
            blocking,
            epilogue_cols,
            packed_cols,
            a_direct,
            b_direct,
            stays,
            packs_crowded,
            is_one_tile,
            flat,
            row_unit,
            column_unit,
            c_rows,
            nr,
        }
    }

    /// Elements of the packed block of A that a thread has.
    pub fn a_elements(&self) -> usize {
        if self.a_direct && !self.packs_crowded {
            0
        } else {
            self.blocking.mc.min(self.m) * self.blocking.kc.min(self.k)
        }
    }

    /// Elements of the panels of B that a thread packs for itself, or of what flat kernels read of B.
    fn panel_elements(&self) -> usize {
        let flat = self.flat.map_or(0, |flat| flat.elements(self.nr));
        flat.max(self.packed_cols.min(self.n.next_multiple_of(self.nr)) * self.blocking.kc.min(self.k))
    }

    /// Bytes that threads share: a packed block of B, for products too high for one block of rows.
    pub fn shared_bytes<T>(&self) -> usize {
        if self.m <= self.blocking.mc {
            return 0;
        }
        let n_cols = self.blocking.nc.min(self.n).next_multiple_of(self.nr);
        (n_cols * self.blocking.kc.min(self.k) * size_of::<T>()).next_multiple_of(LINE)
    }

    /// Where the parts of a thread's own memory end, in bytes from its start: a packed block of A, packed panels of B, and
    /// rows of C.
    pub fn own_ends<T>(&self) -> [usize; 3] {
        let mut end = 0;
        [self.a_elements(), self.panel_elements(), self.c_rows * self.n].map(|elements| {
            end += (elements * size_of::<T>()).next_multiple_of(LINE);
            end
        })
    }

    /// Bytes that each thread has of its own.
    pub fn own_bytes<T>(&self) -> usize {
        self.own_ends::<T>()[2]
    }

    /// A grid of threads, rows by columns, for one product: the one whose largest part costs least.
    pub fn grid(&self, n_threads: usize, row_align: usize, is_flat: bool) -> [usize; 2] {
        /// Multiply-adds that pass while one element is packed.
        const PACK_COST: usize = 12;
        let cost = |[n_rows, n_cols]: [usize; 2]| {
            let rows = cotangent_pool::split(self.m, n_rows, 0, row_align).len();
            let cols = cotangent_pool::split(self.n, n_cols, 0, self.column_unit).len();
            // Flat kernels pack nothing and go back to C often, so a row of C had better belong to one thread.
            rows * cols + PACK_COST * if is_flat { rows } else { rows + cols }
        };
        (1..=n_threads).map(|n_rows| [n_rows, n_threads / n_rows]).min_by_key(|&grid| cost(grid)).unwrap_or([1, 1])
    }
}

/// Blocks for a product whose epilogue streams matrices as large as C while each element of C takes few multiply-adds: the
/// update of a weight by its gradient. Strips of few rows, so that what the epilogue touches are long pieces of memory that
/// stay in L2 from their fetch to their use, while a block of B stays there too:
///     kc · nc · size <= L2 / 2,   mc · nc · size · (1 + companions) <= 3/8 L2.
fn strip(
    [n, k]: [usize; 2],
    max_kc: usize,
    size: usize,
    [mr, nr]: [usize; 2],
    caches: Caches,
    n_companions: usize,
) -> Option<Blocking> {
    if n == 0 || k == 0 || k > max_kc {
        return None;
    }
    let unit = nr.max(COLUMN_ALIGN);
    let nc = (caches.l2 / 2 / (k * size)) / unit * unit;
    if nc < n.min(256) {
        return None;
    }
    // Equal blocks rather than a short last one.
    let nc = n.div_ceil(n.div_ceil(nc)).next_multiple_of(unit);
    let rows = caches.l2 * 3 / 8 / (nc * size * (1 + n_companions));
    // As many rows as make long pieces, and two panels at least: each piece begins with a wait for memory.
    let most = (STRIP_BYTES / (nc * size * mr)).max(STRIP_PANELS);
    let mc = (rows / mr).clamp(1, most) * mr;
    Some(Blocking { mc, kc: k, nc })
}

/// The least common multiple.
pub(crate) fn lcm(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y > 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

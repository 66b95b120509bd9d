//! Micro-kernels: the innermost tile of a product, the only code here that depends on the instruction set.
//!
//! A micro-kernel computes one tile of C, at most `mr` rows by `nr` columns, over a whole K block, with the tile
//! held in registers. It exists for every height from one row to `mr`, so that a remainder of rows costs what it
//! is worth, and for every count of vectors up to the width of the tile; columns beyond the last whole vector
//! are masked.
//!
//! Promises, on which everything above relies: element (i, j) of the tile is the chain
//! `c = fma(a[i, k], b[k, j], c)` over ascending k, from zero or from C; nothing outside the `cols` columns of C
//! is read or written; an unpacked B is not read outside those columns either.

#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub(crate) mod portable;
#[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
pub(crate) mod tile;
pub(crate) mod vector;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86;

/// One call of a micro-kernel. Strides are in elements.
pub(crate) struct Tile<T> {
    /// Length of the chain.
    pub k: usize,
    /// First element of the rows of A.
    pub a: *const T,
    /// From a row of A to the next; a packed kernel takes 1.
    pub a_row_stride: isize,
    /// From a column of A to the next; a packed kernel takes the height of the tile.
    pub a_k_stride: isize,
    /// First element of the columns of B, which are adjacent in memory.
    pub b: *const T,
    /// From a row of B to the next; a packed kernel takes `nr`. For a transposing kernel: from a column to the next.
    pub b_k_stride: isize,
    /// First element of the tile of C, whose columns are adjacent in memory.
    pub c: *mut T,
    /// From a row of C to the next.
    pub c_row_stride: isize,
    /// The tile of C that comes next, to be fetched meanwhile (only a hint: it need not be valid).
    #[cfg_attr(
        not(any(target_arch = "aarch64", target_arch = "x86_64")),
        expect(dead_code, reason = "portable kernels do not prefetch")
    )]
    pub next_c: *const T,
    /// Columns of the tile: more than `lanes * (vectors - 1)`, at most `lanes * vectors`; for a flat kernel, any number.
    pub cols: usize,
    /// Start from C instead of from zero.
    pub load: bool,
}

/// A micro-kernel.
///
/// # Safety
/// The CPU has the features of the kernel's set, and the tile's pointers are valid for what the tile says. A
/// packed kernel reads `nr` columns of B whatever `cols` is.
pub(crate) type Kernel<T> = unsafe fn(&Tile<T>);

/// One call of a kernel for runs: a tile of C over several runs of K, whose rows of A are anywhere and whose rows of B lie evenly.
/// Strides are in elements.
pub(crate) struct RunTile<T> {
    /// Where A is for each run, but for `a_offset`.
    pub starts: *const *const T,
    /// How many runs.
    pub n: usize,
    /// Steps of a run.
    pub k: usize,
    /// From a start to the first element of the tile's rows.
    pub a_offset: isize,
    /// From a row of A to the next.
    pub a_row_stride: isize,
    /// From a column of A to the next.
    pub a_k_stride: isize,
    /// First element of the columns of B, which are adjacent in memory.
    pub b: *const T,
    /// From a row of B to the next.
    pub b_k_stride: isize,
    /// From a run's first row of B to the next run's.
    pub b_run_stride: isize,
    /// First element of the tile of C, whose columns are adjacent in memory.
    pub c: *mut T,
    /// From a row of C to the next.
    pub c_row_stride: isize,
    /// Columns of the tile: more than `lanes * (vectors - 1)`, at most `lanes * vectors`.
    pub cols: usize,
    /// Rows of B can be read to the end of the last vector; what is there beyond the columns does not matter.
    pub padded: bool,
    /// Start from C instead of from zero.
    pub load: bool,
}

/// A kernel for runs.
///
/// # Safety
/// The CPU has the features of the kernel's set, and the tile's pointers are valid for what the tile says.
pub(crate) type RunKernel<T> = unsafe fn(&RunTile<T>);

/// A packing routine: `to[k * to_stride + i] = from[i * width_stride + k]` for `i < width`, `k < depth`, that is
/// a transposition.
///
/// # Safety
/// The CPU has the features of the set; `from` and `to` are valid for those elements and do not overlap.
pub(crate) type Transpose<T> =
    unsafe fn(from: *const T, width_stride: isize, to: *mut T, to_stride: usize, width: usize, depth: usize);

/// A packing routine: `to[k * to_stride + i] = from[k * depth_stride + i]` for `i < width`, `k < depth`. Meanwhile
/// it fetches into the cache what lies `ahead` elements further (only a hint: it need not be valid).
///
/// # Safety
/// As [`Transpose`].
pub(crate) type CopyRows<T> = unsafe fn(
    from: *const T,
    depth_stride: isize,
    to: *mut T,
    to_stride: usize,
    width: usize,
    depth: usize,
    ahead: isize,
);

/// A packing routine for `n_panels` panels of `nr` columns at once:
/// `to[p * panel_stride + k * nr + i] = from[k * depth_stride + p * nr + i]` for `i < nr`, `k < depth`. It goes along the rows
/// of the matrix, because caches fetch long pieces of memory three times as fast as pieces of one line.
///
/// # Safety
/// As [`Transpose`].
pub(crate) type CopyPanels<T> =
    unsafe fn(from: *const T, depth_stride: isize, to: *mut T, panel_stride: usize, n_panels: usize, depth: usize);

/// The micro-kernels of one element type and instruction set.
pub(crate) struct KernelSet<T: 'static> {
    /// Elements in a vector.
    pub lanes: usize,
    /// Columns of a packed panel of B: two vectors.
    pub nr: usize,
    /// `packed[height - 1][vectors - 1]`: A and B packed; the length is `mr`.
    pub packed: &'static [[Kernel<T>; 2]],
    /// `direct[height - 1][vectors - 1]`: any strides; low tiles may be wider than `nr`.
    pub direct: &'static [&'static [Kernel<T>]],
    /// `flat[height - 1]`: any number of columns of a B used in place, strip by strip, any strides of A. For short K
    /// blocks, where a call for each tile would cost too much and where C and B had better be passed over in long
    /// pieces. Without any, `direct` kernels do it.
    pub flat: &'static [Kernel<T>],
    /// `runs[height - 1][vectors - 1]`: tiles over runs of K; the lower, the wider.
    pub runs: &'static [&'static [RunKernel<T>]],
    /// `depthwise[height - 1][vectors - 1]`: tiles over runs of K whose columns of C have columns of A of their own: where those of
    /// a kernel for runs are sums of products of a number of A and a row of B, these are of a row of A and a row of B.
    pub depthwise: &'static [&'static [RunKernel<T>]],
    /// `transposing[height - 1][vectors - 1]`: whole vectors of a B used in place whose K dimension is the contiguous
    /// one; any strides of A. Without any, such a B is packed.
    pub transposing: &'static [&'static [Kernel<T>]],
    /// Products with a vector.
    pub vector: vector::VectorKernels<T>,
    /// The packing of operands whose K dimension is the contiguous one.
    pub transpose: Transpose<T>,
    /// The packing of operands whose other dimension is the contiguous one.
    pub copy: CopyRows<T>,
    /// The same for whole panels of B.
    pub copy_panels: CopyPanels<T>,
}

impl<T> KernelSet<T> {
    /// The most rows of a tile.
    pub fn mr(&self) -> usize {
        self.packed.len()
    }
}

/// The table of packed kernels `$f::<height, vectors, true>` for the heights given.
macro_rules! packed_table {
    ($f:ident: $($m:literal)*) => { &[$([$f::<$m, 1, true>, $f::<$m, 2, true>]),*] };
}

/// The table of direct kernels `$f::<height, vectors, false>`: up to eight vectors for one row, four for two and
/// three rows (a tile needs some eight accumulators to hide the latency of an FMA), two for more.
macro_rules! direct_table {
    ($f:ident: 1 2 3 $($m:literal)*) => {
        &[
            &[
                $f::<1, 1, false>, $f::<1, 2, false>, $f::<1, 3, false>, $f::<1, 4, false>,
                $f::<1, 5, false>, $f::<1, 6, false>, $f::<1, 7, false>, $f::<1, 8, false>,
            ],
            &[$f::<2, 1, false>, $f::<2, 2, false>, $f::<2, 3, false>, $f::<2, 4, false>],
            &[$f::<3, 1, false>, $f::<3, 2, false>, $f::<3, 3, false>, $f::<3, 4, false>],
            $(&[$f::<$m, 1, false>, $f::<$m, 2, false>]),*
        ]
    };
}

/// The table of flat kernels `$f::<height>`.
macro_rules! flat_table {
    ($f:ident: $($m:literal)*) => { &[$($f::<$m>),*] };
}

/// The table of kernels for runs `$f::<height, vectors, each>`: the heights of up to four vectors, of three, of two and of one.
macro_rules! runs_table {
    ($f:ident, $each:literal: [$($four:literal)*] [$($three:literal)*] [$($two:literal)*] [$($one:literal)*]) => {
        &[
            $(&[$f::<$four, 1, $each>, $f::<$four, 2, $each>, $f::<$four, 3, $each>, $f::<$four, 4, $each>],)*
            $(&[$f::<$three, 1, $each>, $f::<$three, 2, $each>, $f::<$three, 3, $each>],)*
            $(&[$f::<$two, 1, $each>, $f::<$two, 2, $each>],)*
            $(&[$f::<$one, 1, $each>]),*
        ]
    };
}

/// The table of transposing kernels `$f::<height, vectors>`: two vectors while registers last.
macro_rules! transposing_table {
    ($f:ident: 1 2 $($m:literal)*) => {
        &[&[$f::<1, 1>, $f::<1, 2>], &[$f::<2, 1>, $f::<2, 2>], $(&[$f::<$m, 1>]),*]
    };
}

pub(crate) use {direct_table, flat_table, packed_table, runs_table, transposing_table};

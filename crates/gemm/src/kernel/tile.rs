//! The body of the vector micro-kernels, written once; the instruction sets differ in their operations only.

/// Rows of the highest tile.
pub(crate) const MAX_ROWS: usize = 12;

/// The same pointer, of unknown origin to the compiler. It would otherwise compute the address of each row from
/// that of the one before, a chain through the whole loop that takes longer than the arithmetic.
#[inline(always)]
pub(crate) fn opaque<T>(mut pointer: *const T) -> *const T {
    // SAFETY: there is no instruction; the pointer goes through a register.
    unsafe { std::arch::asm!("/* {0} */", inout(reg) pointer, options(pure, readonly, nostack, preserves_flags)) };
    pointer
}

/// Defines one family of micro-kernels. The body is the same for all; the operations are the instruction set's.
macro_rules! micro_kernels {
    (
        $(#[$doc:meta])*
        $name:ident, $flat:ident, $runs:ident, $features:literal, $elem:ty, $lanes:literal, mask: $mask:ident, zero: $zero:ident,
        splat: $splat:ident, fma: $fma:ident, prefetch: $prefetch:ident, load: $load:ident, store: $store:ident,
        load_masked: |$load_p:ident, $load_m:ident| $load_masked:expr,
        store_masked: |$store_p:ident, $store_m:ident, $store_x:ident| $store_masked:expr $(,)?
    ) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// The CPU has the features; the tile's pointers are valid for what the tile says, and for a packed
        /// kernel for whole vectors of B.
        #[target_feature(enable = $features)]
        unsafe fn $name<const M: usize, const V: usize, const PACKED: bool>(call: &Tile<$elem>) {
            let tail = call.cols - $lanes * (V - 1);
            let mask = $mask(tail);
            let whole = tail == $lanes;
            let mut sums = [[$zero(); V]; M];
            if call.load {
                for i in 0..M {
                    for v in 0..V {
                        // SAFETY: row `i < M` of the tile, and vector `v` of its columns, the last one masked
                        // (masked lanes are not accessed).
                        unsafe {
                            let from = call.c.offset(i as isize * call.c_row_stride).add(v * $lanes);
                            sums[i][v] = if v + 1 < V || whole {
                                $load(from)
                            } else {
                                let ($load_p, $load_m) = (from, mask);
                                $load_masked
                            };
                        }
                    }
                }
            }
            if PACKED {
                for i in 0..M {
                    // A chain starts from C: without this, each tile would begin with a wait for it.
                    let next = call.next_c.wrapping_offset(i as isize * call.c_row_stride);
                    $prefetch(next);
                    $prefetch(next.wrapping_add(V * $lanes - 1));
                }
            }
            let mut b = call.b;
            let (a_row_stride, a_k_stride, b_k_stride) = if PACKED {
                (1, M as isize, 2 * $lanes)
            } else {
                (call.a_row_stride, call.a_k_stride, call.b_k_stride)
            };
            // A pointer for every third row: the rows between are a stride away, which is an addressing mode.
            let mut a = [call.a; $crate::kernel::tile::MAX_ROWS / 3];
            for (group, a) in a.iter_mut().enumerate() {
                *a = a.wrapping_offset(3 * group as isize * a_row_stride);
                if !PACKED {
                    *a = $crate::kernel::tile::opaque(*a);
                }
            }
            for _ in 0..call.k {
                let mut columns = [$zero(); V];
                for v in 0..V {
                    // SAFETY: row `k` of B: whole vectors of a packed panel, or the columns of the tile with the
                    // last vector masked.
                    unsafe {
                        let from = b.add(v * $lanes);
                        columns[v] = if PACKED || v + 1 < V {
                            $load(from)
                        } else {
                            let ($load_p, $load_m) = (from, mask);
                            $load_masked
                        };
                    }
                }
                for i in 0..M {
                    // SAFETY: row `i < M`, column `k` of A.
                    let x = unsafe { $splat(*a[i / 3].offset((i % 3) as isize * a_row_stride)) };
                    for v in 0..V {
                        sums[i][v] = $fma(x, columns[v], sums[i][v]);
                    }
                }
                for a in &mut a {
                    *a = a.wrapping_offset(a_k_stride);
                }
                b = b.wrapping_offset(b_k_stride);
            }
            for i in 0..M {
                for v in 0..V {
                    // SAFETY: as for loading C.
                    unsafe {
                        let to = call.c.offset(i as isize * call.c_row_stride).add(v * $lanes);
                        if v + 1 < V || whole {
                            $store(to, sums[i][v]);
                        } else {
                            let ($store_p, $store_m, $store_x) = (to, mask, sums[i][v]);
                            $store_masked
                        }
                    }
                }
            }
        }

        /// A few rows of C from end to end, as a [flat kernel]($crate::kernel::KernelSet::flat).
        ///
        /// # Safety
        /// The CPU has the features; the tile's pointers are valid for what the tile says.
        #[target_feature(enable = $features)]
        unsafe fn $flat<const M: usize>(call: &Tile<$elem>) {
            /// Vectors of a strip of columns.
            const V: usize = 2;
            let &Tile { k, a_row_stride, a_k_stride, b_k_stride, c_row_stride, load, .. } = call;
            let mut rows = [call.a; M];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = row.wrapping_offset(i as isize * a_row_stride);
            }
            let whole = call.cols / (V * $lanes) * (V * $lanes);
            for j in (0..whole).step_by(V * $lanes) {
                let c = call.c.wrapping_add(j);
                let mut sums = [[$zero(); V]; M];
                if load {
                    for i in 0..M {
                        for v in 0..V {
                            // SAFETY: row `i < M` of the tile, a whole vector of its columns.
                            sums[i][v] = unsafe { $load(c.offset(i as isize * c_row_stride).add(v * $lanes)) };
                        }
                    }
                }
                let mut b = call.b.wrapping_add(j);
                for step in 0..k as isize {
                    let mut columns = [$zero(); V];
                    for v in 0..V {
                        // SAFETY: a whole vector of row `step` of B.
                        columns[v] = unsafe { $load(b.add(v * $lanes)) };
                    }
                    for i in 0..M {
                        // SAFETY: row `i < M`, column `step` of A.
                        let x = unsafe { $splat(*rows[i].offset(step * a_k_stride)) };
                        for v in 0..V {
                            sums[i][v] = $fma(x, columns[v], sums[i][v]);
                        }
                    }
                    b = b.wrapping_offset(b_k_stride);
                }
                for i in 0..M {
                    for v in 0..V {
                        // SAFETY: as for loading C.
                        unsafe { $store(c.offset(i as isize * c_row_stride).add(v * $lanes), sums[i][v]) };
                    }
                }
            }
            let left = call.cols - whole;
            if left > 0 {
                let (b, c) = (call.b.wrapping_add(whole), call.c.wrapping_add(whole));
                let end = Tile { b, c, cols: left, ..*call };
                // SAFETY: the last columns of the tile, for which the caller vouches.
                unsafe {
                    if left > $lanes { $name::<M, 2, false>(&end) } else { $name::<M, 1, false>(&end) }
                }
            }
        }

        /// A tile over several runs of K, as a [kernel for runs]($crate::kernel::KernelSet::runs), or, where each column of B has a
        /// column of A of its own, as a [depthwise one]($crate::kernel::KernelSet::depthwise).
        ///
        /// # Safety
        /// The CPU has the features; the tile's pointers are valid for what the tile says.
        #[target_feature(enable = $features)]
        unsafe fn $runs<const M: usize, const V: usize, const EACH: bool>(call: &RunTile<$elem>) {
            let tail = call.cols - $lanes * (V - 1);
            let mask = $mask(tail);
            let whole = tail == $lanes;
            let padded = whole || call.padded;
            let &RunTile { a_row_stride, a_k_stride, b_k_stride, c_row_stride, .. } = call;
            let mut sums = [[$zero(); V]; M];
            if call.load {
                for i in 0..M {
                    for v in 0..V {
                        // SAFETY: row `i < M` of the tile, and vector `v` of its columns, the last one masked.
                        unsafe {
                            let from = call.c.offset(i as isize * c_row_stride).add(v * $lanes);
                            sums[i][v] = if v + 1 < V || whole {
                                $load(from)
                            } else {
                                let ($load_p, $load_m) = (from, mask);
                                $load_masked
                            };
                        }
                    }
                }
            }
            for run in 0..call.n {
                let mut b = call.b.wrapping_offset(run as isize * call.b_run_stride);
                // SAFETY: as many starts as runs.
                let start = unsafe { *call.starts.add(run) }.wrapping_offset(call.a_offset);
                // A pointer for every third row, as above.
                let mut a = [start; $crate::kernel::tile::MAX_ROWS / 3];
                for (group, a) in a.iter_mut().enumerate() {
                    *a = $crate::kernel::tile::opaque(a.wrapping_offset(3 * group as isize * a_row_stride));
                }
                for _ in 0..call.k {
                    let mut columns = [$zero(); V];
                    for v in 0..V {
                        // SAFETY: this row of B, the columns of the tile, the last vector masked if it is not padded.
                        unsafe {
                            let from = b.add(v * $lanes);
                            columns[v] = if v + 1 < V || padded {
                                $load(from)
                            } else {
                                let ($load_p, $load_m) = (from, mask);
                                $load_masked
                            };
                        }
                    }
                    for i in 0..M {
                        let row = a[i / 3].wrapping_offset((i % 3) as isize * a_row_stride);
                        if EACH {
                            for v in 0..V {
                                // SAFETY: row `i < M`, these columns of A, the last vector masked.
                                let x = unsafe {
                                    let from = row.add(v * $lanes);
                                    if v + 1 < V || whole {
                                        $load(from)
                                    } else {
                                        let ($load_p, $load_m) = (from, mask);
                                        $load_masked
                                    }
                                };
                                sums[i][v] = $fma(x, columns[v], sums[i][v]);
                            }
                        } else {
                            // SAFETY: row `i < M`, this column of A.
                            let x = unsafe { $splat(*row) };
                            for v in 0..V {
                                sums[i][v] = $fma(x, columns[v], sums[i][v]);
                            }
                        }
                    }
                    for a in &mut a {
                        *a = a.wrapping_offset(a_k_stride);
                    }
                    b = b.wrapping_offset(b_k_stride);
                }
            }
            for i in 0..M {
                for v in 0..V {
                    // SAFETY: as for loading C.
                    unsafe {
                        let to = call.c.offset(i as isize * c_row_stride).add(v * $lanes);
                        if v + 1 < V || whole {
                            $store(to, sums[i][v]);
                        } else {
                            let ($store_p, $store_m, $store_x) = (to, mask, sums[i][v]);
                            $store_masked
                        }
                    }
                }
            }
        }
    };
}

/// Defines one family of transposing micro-kernels: those for a B whose *rows* run through memory column by column,
/// used in place. `$block` loads some adjacent values of as many columns as a vector has lanes and transposes them in
/// registers, to a vector for each step of K. This beats packing where no other tile would read the panel again.
macro_rules! transposing_kernels {
    (
        $name:ident, $features:literal, $elem:ty, $lanes:literal,
        depth: $depth:literal: $($step:literal)*, block: $block:ident,
        zero: $zero:ident, splat: $splat:ident, fma: $fma:ident, prefetch: $prefetch:ident, load: $load:ident,
        store: $store:ident $(,)?
    ) => {
        /// # Safety
        /// The CPU has the features; the tile's pointers are valid for what the tile says, and its columns are whole
        /// vectors.
        #[target_feature(enable = $features)]
        unsafe fn $name<const M: usize, const V: usize>(call: &Tile<$elem>) {
            /// Elements of a cache line.
            const LINE: usize = $crate::workspace::LINE / size_of::<$elem>();
            /// How far ahead the columns of B are fetched: they are more than the hardware follows at a time.
            const AHEAD: usize = 4 * LINE;
            let &Tile { k: depth, a_row_stride, a_k_stride, b_k_stride: column, c_row_stride, .. } = call;
            let mut sums = [[$zero(); V]; M];
            if call.load {
                for i in 0..M {
                    for v in 0..V {
                        // SAFETY: row `i < M` and vector `v < V` of the tile, which is whole.
                        sums[i][v] = unsafe { $load(call.c.offset(i as isize * c_row_stride).add(v * $lanes)) };
                    }
                }
            }
            let (mut a, mut b) = (call.a, call.b);
            let whole = depth / $depth;
            for step in 0..whole {
                if (step * $depth).is_multiple_of(LINE) {
                    for j in 0..(V * $lanes) as isize {
                        $prefetch(b.wrapping_offset(j * column).wrapping_add(AHEAD));
                    }
                }
                // One block after the other: more would not fit into the registers.
                for v in 0..V {
                    // SAFETY: as many columns as lanes, as many values as a block is deep.
                    let block = unsafe { $block(b.offset((v * $lanes) as isize * column), column) };
                    // Written out, so that the block stays in registers.
                    $(
                        for i in 0..M {
                            // SAFETY: row `i < M`, column `$step` of what is left of A.
                            let x = unsafe { $splat(*a.offset(i as isize * a_row_stride + $step * a_k_stride)) };
                            sums[i][v] = $fma(x, block[$step], sums[i][v]);
                        }
                    )*
                }
                a = a.wrapping_offset($depth * a_k_stride);
                b = b.wrapping_add($depth);
            }
            for k in 0..depth - whole * $depth {
                for v in 0..V {
                    let mut values = [0.0; $lanes];
                    for (lane, value) in values.iter_mut().enumerate() {
                        // SAFETY: column `v * lanes + lane` of the tile, step `k` of those left.
                        *value = unsafe { *b.offset((v * $lanes + lane) as isize * column).add(k) };
                    }
                    // SAFETY: the array is one vector.
                    let values = unsafe { $load(values.as_ptr()) };
                    for i in 0..M {
                        // SAFETY: as above.
                        let x = unsafe { $splat(*a.offset(i as isize * a_row_stride + k as isize * a_k_stride)) };
                        sums[i][v] = $fma(x, values, sums[i][v]);
                    }
                }
            }
            for i in 0..M {
                for v in 0..V {
                    // SAFETY: as for loading C.
                    unsafe { $store(call.c.offset(i as isize * c_row_stride).add(v * $lanes), sums[i][v]) };
                }
            }
        }
    };
}

pub(crate) use {micro_kernels, transposing_kernels};

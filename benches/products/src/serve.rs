//! The process of one library: a shape a line in, its times a line out.

use std::error::Error;
use std::hint::black_box;
use std::io::{BufRead, Write};
use std::time::Duration;

use cotangent_gemm::{Element, Gemm, Product, Strides, Target, Workspace};
use cotangent_pool::Pool;
use rayon::prelude::*;

use crate::limit::{self, Limit};
use crate::time::{self, Times};

/// What the peers need of a number.
trait Number: Element + Limit + From<f32> + Into<f64> {
    const ONE: Self;

    /// C = A·B by `matrixmultiply`.
    ///
    /// # Safety
    /// The matrices are valid and C is apart from the others.
    unsafe fn matrixmultiply(extents: [usize; 3], a: Operand<Self>, b: Operand<Self>, c: *mut Self);
}

/// A pointer, a row stride and a column stride.
type Operand<T> = (*const T, isize, isize);

macro_rules! number {
    ($elem:ty, $product:ident) => {
        impl Number for $elem {
            const ONE: $elem = 1.0;

            unsafe fn matrixmultiply([m, k, n]: [usize; 3], a: Operand<$elem>, b: Operand<$elem>, c: *mut $elem) {
                // SAFETY: the caller vouches for the matrices.
                unsafe { matrixmultiply::$product(m, k, n, 1.0, a.0, a.1, a.2, b.0, b.1, b.2, 0.0, c, n as isize, 1) }
            }
        }
    };
}

number!(f32, sgemm);
number!(f64, dgemm);

/// Pointers that the threads of a batch share.
#[derive(Clone, Copy)]
struct Shared<T>(*const T, *const T, *mut T);

// SAFETY: A and B are only read; each product of a batch has a C of its own.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Product `index` of the batch; `strides` are those of A, B and C.
    fn product(&self, index: usize, strides: [usize; 3]) -> Shared<T> {
        let [a, b, c] = strides.map(|stride| stride * index);
        Shared(self.0.wrapping_add(a), self.1.wrapping_add(b), self.2.wrapping_add(c))
    }
}

/// Answers until the input ends.
pub fn serve(library: &str, n_threads: usize) -> Result<(), Box<dyn Error>> {
    let ours = library == "cotangent";
    if !ours {
        rayon::ThreadPoolBuilder::new().num_threads(n_threads).build_global()?;
    }
    let pool = Pool::new(if ours { n_threads } else { 1 });
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let [elem, numbers @ ..] = words.as_slice() else { return Err("empty request".into()) };
        let numbers = numbers.iter().map(|word| word.parse()).collect::<Result<Vec<usize>, _>>()?;
        let request: [usize; 7] = numbers.try_into().map_err(|_| "seven numbers required")?;
        let times = if *elem == "f32" {
            measure::<f32>(library, n_threads, &pool, request)?
        } else {
            measure::<f64>(library, n_threads, &pool, request)?
        };
        let Times { median, best, limit_median, limit_best } = times;
        println!("{median:e} {best:e} {limit_median:e} {limit_best:e}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// Times one shape, and compares an element of the result with a sum in f64.
fn measure<T: Number>(
    library: &str,
    n_threads: usize,
    pool: &Pool,
    [batch, m, k, n, a_t, b_t, milliseconds]: [usize; 7],
) -> Result<Times, Box<dyn Error>> {
    let fill = |len: usize, mut x: u64| -> Vec<T> {
        let mut next = || {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            T::from((x >> 40) as f32 / (1 << 23) as f32 - 1.0)
        };
        (0..len).map(|_| next()).collect()
    };
    let strides = [m * k, k * n, m * n];
    let (a, b, mut c) = (fill(batch * strides[0], 1), fill(batch * strides[1], 2), fill(batch * strides[2], 3));
    let stride = |rows: usize, cols: usize, t: usize| if t == 1 { (1, rows as isize) } else { (cols as isize, 1) };
    let ((ars, acs), (brs, bcs)) = (stride(m, k, a_t), stride(k, n, b_t));
    let all = Shared(a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
    let length = Duration::from_millis(milliseconds as u64);
    let times = if library == "cotangent" {
        let [a_stride, b_stride, _] = strides.map(|stride| stride as isize);
        let a = Strides { batch: a_stride, row: ars, col: acs };
        let b = Strides { batch: b_stride, row: brs, col: bcs };
        let product = Product { batch, a, b, ..Product::new(m, n, k) };
        let gemm = Gemm::<T>::new(product, Target::here()).expect("kernels for this machine");
        let mut workspace = Workspace::with_bytes(gemm.workspace_bytes(n_threads)).expect("memory");
        let mut limit = || limit::limit::<T>(pool);
        time::time(length, Some(&mut limit), &mut || {
            // SAFETY: the vectors outlive the calls; C is a vector of its own; the target is this machine.
            unsafe { gemm.run(pool, [black_box(all.0), all.1], all.2, None, &mut workspace) };
        })
    } else {
        let one = |at: Shared<T>, threads: usize| {
            let threads = if threads > 1 { gemm::Parallelism::Rayon(threads) } else { gemm::Parallelism::None };
            let (a, row) = (black_box(at.0), n as isize);
            // SAFETY: the vectors outlive the calls; each C is a part of its own of a vector of its own.
            unsafe {
                if library == "gemm" {
                    gemm::gemm(
                        m,
                        n,
                        k,
                        at.2,
                        1,
                        row,
                        false,
                        a,
                        acs,
                        ars,
                        at.1,
                        bcs,
                        brs,
                        T::ZERO,
                        T::ONE,
                        false,
                        false,
                        false,
                        threads,
                    );
                } else {
                    T::matrixmultiply([m, k, n], (a, ars, acs), (at.1, brs, bcs), at.2);
                }
            }
        };
        // Neither crate has batches. Their users share the products out among threads.
        time::time(length, None, &mut || {
            if batch == 1 {
                one(all, n_threads);
            } else if n_threads == 1 {
                (0..batch).for_each(|index| one(all.product(index, strides), 1));
            } else {
                let part = batch.div_ceil(n_threads);
                (0..batch).into_par_iter().with_min_len(part).for_each(|index| one((&all).product(index, strides), 1));
            }
        })
    };
    let (i, j) = (m / 2, n / 3);
    let at = |x: &[T], index: isize| -> f64 { x[index as usize].into() };
    let products = (0..k as isize).map(|p| at(&a, i as isize * ars + p * acs) * at(&b, p * brs + j as isize * bcs));
    let (expected, found): (f64, f64) = (products.sum(), c[i * n + j].into());
    if (expected - found).abs() > 1e-2 {
        return Err(format!("{library}: element ({i}, {j}) of {m}x{k}.{k}x{n} is {found}, not {expected}").into());
    }
    Ok(times)
}

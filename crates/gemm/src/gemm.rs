//! A product with its way, made once and run many times.

use cotangent_host::Target;
use cotangent_host::float::in_default;
use cotangent_pool::Pool;

use crate::choice::{Candidate, ways};
use crate::drive::{Job, one_tile};
use crate::element::Element;
use crate::kernel::KernelSet;
use crate::product::{Epilogue, Matrix, Product};
use crate::shape::Shape;
use crate::time::nanos;
use crate::vector::VectorShape;
use crate::way::{Case, Grid, Way};
use crate::workspace::Workspace;

/// A product of matrices of `T` that goes one way.
#[derive(Clone)]
pub struct Gemm<T: Element> {
    kernels: &'static KernelSet<T>,
    product: Product,
    choice: Candidate,
    made: Made<T>,
    /// It is long enough for several threads.
    divides: bool,
    /// How that many threads divide one product, if not as its shape suggests.
    grid: Option<Grid>,
}

/// What runs it.
#[derive(Clone)]
enum Made<T: 'static> {
    Sums(VectorShape<T>),
    Tile(Shape),
    Loops(Shape),
}

impl<T: Element> std::fmt::Debug for Gemm<T> {
    fn fmt(&self, fmt: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Gemm { product, choice, .. } = self;
        fmt.debug_struct("Gemm").field("product", product).field("choice", choice).finish()
    }
}

impl<T: Element> Gemm<T> {
    /// A product by the way that its extents and strides suggest: the first of its [`ways`]. `None` if this build has no
    /// kernels for the target's instruction set.
    pub fn new(product: Product, target: &Target) -> Option<Self> {
        ways::<T>(&product, target).first().and_then(|&choice| Self::by_choice(product, choice, target))
    }

    /// The product by another way, for whoever wants to compare. Sizes of the way are rounded up to what kernels and the
    /// epilogue ask for. `None` if the way is not legal for the product, or this build has no kernels for the target's
    /// instruction set. The bits are the same for all ways.
    pub fn by(product: Product, way: Way, target: &Target) -> Option<Self> {
        let kernels = T::kernels(target.isa())?;
        let case = Case { product: &product, kernels, target };
        let way = case.legal(way)?;
        let choice = Candidate { way, why: None, nanos: nanos(&case, way) };
        Self::by_choice(product, choice, target)
    }

    /// A way that has been found legal.
    fn by_choice(product: Product, choice: Candidate, target: &Target) -> Option<Self> {
        let kernels = T::kernels(target.isa())?;
        let case = Case { product: &product, kernels, target };
        let (made, least) = match choice.way {
            Way::Sums { order, chunk } => {
                (Made::Sums(VectorShape::new(&case, order, chunk)), target.costs().split_vector)
            }
            Way::Tile => (Made::Tile(Shape::new(&case, choice.way)), usize::MAX),
            way => (Made::Loops(Shape::new(&case, way)), target.costs().split_product),
        };
        let divides = product.multiply_adds() >= least;
        Some(Gemm { kernels, product, choice, made, divides, grid: None })
    }

    /// The product.
    pub fn product(&self) -> &Product {
        &self.product
    }

    /// The way that it goes, why, and how long that is predicted to take.
    pub fn choice(&self) -> &Candidate {
        &self.choice
    }

    /// How so many threads can divide one product, as its shape suggests first; none where they do not.
    pub fn grids(&self, n_threads: usize) -> Vec<Grid> {
        let Made::Loops(shape) = &self.made else { return Vec::new() };
        if self.n_threads(n_threads) < 2 || self.product.batch >= n_threads {
            return Vec::new();
        }
        let first = shape.grid(n_threads);
        let mut grids = vec![first];
        for [rows, cols] in [[first.rows, first.cols], [n_threads, 1], [1, n_threads]] {
            for reversed in [false, true] {
                let grid = Grid { rows, cols, reversed };
                if !grids.contains(&grid) {
                    grids.push(grid);
                }
            }
        }
        grids
    }

    /// The same product, divided this way by as many threads as the grid has; other numbers of threads divide it as its shape
    /// suggests. The bits are the same for all grids.
    #[must_use]
    pub fn divided(mut self, grid: Grid) -> Self {
        self.grid = Some(grid);
        self
    }

    /// How threads divide the product, if not as its shape suggests.
    pub fn grid(&self) -> Option<Grid> {
        self.grid
    }

    /// Threads that a run on so many uses.
    fn n_threads(&self, n_threads: usize) -> usize {
        if self.divides { n_threads.max(1) } else { 1 }
    }

    /// Bytes of workspace that a run on `n_threads` threads needs.
    pub fn workspace_bytes(&self, n_threads: usize) -> usize {
        let n_threads = self.n_threads(n_threads);
        match &self.made {
            Made::Sums(shape) => n_threads * shape.own_bytes(),
            Made::Tile(shape) | Made::Loops(shape) => shape.shared_bytes + n_threads * shape.own_bytes(),
        }
    }

    /// Computes C: `a`, `b` and `c` are the addresses of element (0, 0) of the first matrices of the batch.
    ///
    /// # Safety
    /// The CPU has the instruction set of the target that the product was made for; all elements of A and B are readable and
    /// those of C writable for the whole call, and C is not where elements of A or B are; nobody else uses them meanwhile,
    /// except the epilogue on the rectangles it is given.
    ///
    /// # Panics
    /// If the epilogue panics, or the workspace has to grow and the system refuses the memory.
    pub unsafe fn run(
        &self,
        pool: &Pool,
        [a, b]: [*const T; 2],
        c: *mut T,
        epilogue: Option<&Epilogue<'_>>,
        workspace: &mut Workspace,
    ) {
        let Product { batch, m, n, a: a_strides, b: b_strides, .. } = self.product;
        if m == 0 || n == 0 || batch == 0 {
            return;
        }
        let n_threads = self.n_threads(pool.n_threads());
        workspace.reserve_now(self.workspace_bytes(n_threads));
        let workspace = workspace.as_ptr();
        let (a, b) = (Matrix { ptr: a, strides: a_strides }, Matrix { ptr: b, strides: b_strides });
        let grid = self.grid.filter(|grid| grid.rows.saturating_mul(grid.cols) == n_threads);
        let job = |shape| Job { kernels: self.kernels, shape, a, b, c, epilogue, grid, workspace };
        // SAFETY: the caller vouches for the matrices and for the CPU; the workspace has just been made large enough for this
        // many threads; ways are legal for their product.
        in_default(|| unsafe {
            match &self.made {
                Made::Sums(shape) => shape.run(pool, n_threads, [a, b], c, epilogue, workspace),
                Made::Tile(shape) => one_tile(&job(shape)),
                Made::Loops(shape) => job(shape).run(pool, n_threads),
            }
        });
    }
}

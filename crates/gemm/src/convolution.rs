//! Convolutions and their adjoints: sums over an image's neighbouring elements, made by the same kind of tiles as products.
//!
//! [`cotangent_scalar::conv`] states what is computed and in which order. Nothing like a matrix of windows is ever in memory: a
//! tile is a sum over *runs* of K, each with its own start in a line of the image. A line that reaches beyond the image's border
//! is copied with its zeros, some lines at a time; others are read where they are.

mod across;
mod call;
mod gather;
mod lines;
mod panels;
mod phase;
mod tiles;
mod way;
mod weights;

pub use way::ConvWay;

use cotangent_host::float::in_default;
use cotangent_host::{Isa, Target};
use cotangent_pool::Pool;
use cotangent_scalar::{Conv, ConvAxis, Direction};

use crate::element::Element;
use crate::kernel::KernelSet;
use crate::product::{Epilogue, EpilogueNeeds};
use crate::workspace::{LINE, Workspace};
use across::Across;
use call::Call;
use gather::Gather;
use lines::Size;
use tiles::Family;
use weights::Weights;

/// The kernels of half the width that a machine has beside its own.
fn narrow<T: Element>(target: &Target) -> Option<&'static KernelSet<T>> {
    // Whatever has AVX-512 has AVX2 with FMA too.
    if target.isa() == Isa::Avx512 { T::kernels(Isa::Avx2) } else { None }
}

/// One of the three sums of a convolution, made once and run many times.
#[derive(Clone)]
pub struct Convolution<T: Element> {
    conv: Conv,
    direction: Direction,
    epilogue: EpilogueNeeds,
    kernels: &'static KernelSet<T>,
    way: ConvWay,
    made: Made,
    /// It is long enough for several threads.
    divides: bool,
    nanos: f64,
}

/// The same; or where there are no channels or no filters, so that windows may be of any size, windows of one element with a result of
/// the same extents.
fn without_terms(conv: &Conv, direction: Direction) -> Conv {
    if conv.channels > 0 && conv.filters > 0 {
        return conv.clone();
    }
    let is_empty = conv.matrix(direction).contains(&0);
    let axis = |axis: &ConvAxis| {
        let places = match direction {
            _ if is_empty => 1,
            Direction::Data => axis.extent,
            _ => axis.places,
        };
        ConvAxis { extent: places, window: 1, places, stride: 1, dilation: 1, low: 0 }
    };
    Conv { axes: conv.axes.iter().map(axis).collect(), ..conv.clone() }
}

/// What runs it.
#[derive(Clone, Debug)]
enum Made {
    Gather(Box<Gather>),
    Across(Box<Across>),
    Weights(Box<Weights>),
}

impl<T: Element> std::fmt::Debug for Convolution<T> {
    fn fmt(&self, fmt: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Convolution { conv, direction, made, .. } = self;
        let mut debug = fmt.debug_struct("Convolution");
        debug.field("conv", conv).field("direction", direction).field("made", made).finish()
    }
}

impl<T: Element> Convolution<T> {
    /// A sum by the way that its extents suggest: the first of its [`ways`](Self::ways). `None` if this build has no kernels for the
    /// target's instruction set, or windows move along more than three axes.
    pub fn new(conv: Conv, direction: Direction, epilogue: EpilogueNeeds, target: &Target) -> Option<Self> {
        let way = *Self::ways(&conv, direction, target).first()?;
        Self::by(conv, direction, epilogue, way, target)
    }

    /// The ways that promise something, the one to take first; none if this build has no kernels for the target's instruction set,
    /// or windows move along more than three axes.
    pub fn ways(conv: &Conv, direction: Direction, target: &Target) -> Vec<ConvWay> {
        let conv = &without_terms(conv, direction);
        let (Some(kernels), Some(axes)) = (T::kernels(target.isa()), phase::three(&conv.axes)) else {
            return Vec::new();
        };
        way::ways(kernels, conv, &axes, direction, narrow::<T>(target), target)
    }

    /// A sum by any way. What the way says is brought within what the sum and the kernels allow. `None` as for [`Self::new`]. The
    /// bits are the same for all ways.
    pub fn by(
        conv: Conv,
        direction: Direction,
        epilogue: EpilogueNeeds,
        way: ConvWay,
        target: &Target,
    ) -> Option<Self> {
        let kernels = T::kernels(target.isa())?;
        let narrow = narrow::<T>(target).filter(|_| way.narrow);
        let (kernels, way) = (narrow.unwrap_or(kernels), ConvWay { narrow: narrow.is_some(), ..way });
        let of = without_terms(&conv, direction);
        let axes = phase::three(&of.axes)?;
        let most = Family::of(&of).most_vectors(kernels);
        let packed = way.packed || direction != Direction::Forward;
        let way = ConvWay { vectors: way.vectors.clamp(1, most), packed, ..way };
        let made = match direction {
            Direction::Weights => Made::Weights(Weights::new(kernels, &of, &axes, epilogue, way).into()),
            Direction::Data if of.skips_outside() => {
                Made::Across(Across::new(kernels, &of, &axes, epilogue, way).into())
            }
            _ => Made::Gather(Gather::new(kernels, &of, &axes, direction, epilogue, way).into()),
        };
        let nanos = way::nanos(kernels, &of, &axes, direction, way, target);
        let divides = conv.multiply_adds() >= target.costs().split_product;
        Some(Convolution { conv, direction, epilogue, kernels, way, made, divides, nanos })
    }

    /// Bytes that threads share.
    fn shared_bytes(&self) -> usize {
        match &self.made {
            Made::Gather(gather) => gather.panels().bytes(self.kernels).next_multiple_of(LINE),
            Made::Across(across) => across.panels().bytes(self.kernels).next_multiple_of(LINE),
            Made::Weights(_) => 0,
        }
    }

    /// Where the parts of a thread's memory end.
    fn ends(&self) -> [usize; 5] {
        let (room, own_c): (Size, usize) = match &self.made {
            Made::Gather(gather) => (gather.room(), gather.own_c()),
            Made::Across(across) => (across.room(), across.own_c()),
            Made::Weights(weights) => (weights.room(), weights.own_c()),
        };
        let [zeros, lines, marks, table] = room.parts::<T>();
        let mut end = 0;
        [zeros, lines, marks, table, own_c * size_of::<T>()].map(|bytes| {
            end += bytes.next_multiple_of(LINE);
            end
        })
    }

    /// Threads that a run on so many uses.
    fn n_threads(&self, n_threads: usize) -> usize {
        if self.divides { n_threads.max(1) } else { 1 }
    }

    /// Bytes of workspace that a run on `n_threads` threads needs.
    pub fn workspace_bytes(&self, n_threads: usize) -> usize {
        self.shared_bytes() + self.n_threads(n_threads) * self.ends()[4]
    }

    /// What it is predicted to take on one thread, in nanoseconds, without the epilogue.
    pub fn nanos(&self) -> f64 {
        self.nanos
    }

    /// The extents.
    pub fn conv(&self) -> &Conv {
        &self.conv
    }

    /// Which of the three sums.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// What its epilogue needs.
    pub fn epilogue(&self) -> EpilogueNeeds {
        self.epilogue
    }

    /// How it is made.
    pub fn way(&self) -> ConvWay {
        self.way
    }

    /// Computes the result, row-major, its rows and columns as [`Conv::matrix`] says: `a`, `b` and `c` are the addresses of the
    /// first elements of the operands, row-major without gaps, and of the result.
    ///
    /// # Safety
    /// The CPU has the instruction set of the target that this was made for; all elements of the operands are readable and those
    /// of the result writable for the whole call (none of the result if the epilogue owns it), and the result is not where the
    /// operands are; nobody else uses them meanwhile, except the epilogue on the rectangles it is given.
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
        let [rows, cols] = self.conv.matrix(self.direction);
        if rows == 0 || cols == 0 {
            return;
        }
        let n_threads = self.n_threads(pool.n_threads());
        workspace.reserve_now(self.workspace_bytes(n_threads));
        let (shared, shared_bytes, ends) = (workspace.as_ptr(), self.shared_bytes(), self.ends());
        let call = Call { kernels: self.kernels, a, b, c, epilogue, shared, shared_bytes, ends };
        // SAFETY: the caller vouches for operands and result and for the CPU; the workspace has just been made large enough for
        // this many threads.
        in_default(|| unsafe {
            match &self.made {
                Made::Gather(gather) => gather.run(&call, pool, n_threads),
                Made::Across(across) => across.run(&call, pool, n_threads),
                Made::Weights(weights) => weights.run(&call, pool, n_threads),
            }
        });
    }
}

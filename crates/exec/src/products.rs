//! The plan's products, each with the way that it goes: what ties `gemm` and `kernel`.

use std::fmt;

use cotangent_gemm::{Candidate, Convolution, Element, EpilogueNeeds, Gemm, Product, Strides, ways};
use cotangent_graph::{CompilerBug, DType};
use cotangent_host::Target;
use cotangent_kernel::ir::{Input, Space};
use cotangent_kernel::{BufferId, Factors, Home, KernelCall, MatrixView, Plan, Step};

/// Products that take at least so many nanoseconds of a step are tried by several ways, and at least this share of all products'
/// time.
const LEAST_TRIED: f64 = 10_000.0;
const LEAST_SHARE: f64 = 0.005;

/// Ways are tried that are predicted to take at most so many times what the best does, and at most so many.
const PROMISING: f64 = 1.6;
const MOST_TRIED: usize = 4;

/// A product with its way.
#[derive(Clone, Debug)]
pub(crate) enum Engine<T: Element> {
    Matrices(Gemm<T>),
    Conv(Convolution<T>),
}

impl<T: Element> Engine<T> {
    /// The predicted way, and others that promise something if the product takes long; none if this build has no kernels for the
    /// target.
    fn all(factors: &Factors, epilogue: EpilogueNeeds, times: usize, target: &Target) -> Vec<Self> {
        let (dims, a, b) = match factors {
            Factors::Conv { conv, direction, .. } => {
                let ways = Convolution::<T>::ways(conv, *direction, target);
                let made = ways.iter().map(|&way| Convolution::by(conv.clone(), *direction, epilogue, way, target));
                return made.flatten().map(Engine::Conv).collect();
            }
            Factors::Matrices { dims, a, b } => (dims, a, b),
        };
        let strides = |view: &MatrixView| Strides {
            batch: view.batch_stride as isize,
            row: view.row_stride as isize,
            col: view.col_stride as isize,
        };
        let (a, b) = (strides(a), strides(b));
        let product = Product { batch: dims.batch, m: dims.m, n: dims.n, k: dims.k, a, b, epilogue };
        let Some(first) = Gemm::new(product, target) else { return Vec::new() };
        let nanos = first.choice().nanos;
        let mut all = vec![Engine::Matrices(first)];
        if nanos * times as f64 >= LEAST_TRIED {
            let others = ways::<T>(&product, target).into_iter().skip(1);
            let promising = others.filter(|other| other.nanos <= PROMISING * nanos).take(MOST_TRIED);
            let made = promising.filter_map(|other| Gemm::by(product, other.way, target));
            all.extend(made.map(Engine::Matrices));
        }
        all
    }

    /// The same product by the same way, divided between so many threads in other ways.
    fn divided(&self, n_threads: usize) -> Vec<Self> {
        match self {
            Engine::Matrices(gemm) => {
                let grids = gemm.grids(n_threads).into_iter().skip(1);
                grids.map(|grid| Engine::Matrices(gemm.clone().divided(grid))).collect()
            }
            Engine::Conv(_) => Vec::new(),
        }
    }

    /// What is computed, whichever way.
    fn key(&self) -> String {
        match self {
            Engine::Matrices(gemm) => format!("{:?} of {}", gemm.product(), T::DTYPE),
            Engine::Conv(conv) => {
                format!("{:?} {:?} {:?} of {}", conv.direction(), conv.conv(), conv.epilogue(), T::DTYPE)
            }
        }
    }

    fn workspace_bytes(&self, n_threads: usize) -> usize {
        match self {
            Engine::Matrices(gemm) => gemm.workspace_bytes(n_threads),
            Engine::Conv(conv) => conv.workspace_bytes(n_threads),
        }
    }

    fn nanos(&self) -> f64 {
        match self {
            Engine::Matrices(gemm) => gemm.choice().nanos,
            Engine::Conv(conv) => conv.nanos(),
        }
    }

    fn choice(&self) -> Option<&Candidate> {
        match self {
            Engine::Matrices(gemm) => Some(gemm.choice()),
            Engine::Conv(_) => None,
        }
    }

    fn way(&self) -> String {
        match self {
            Engine::Matrices(gemm) => match gemm.grid() {
                Some(grid) => format!("{}; {grid}", gemm.choice().way),
                None => gemm.choice().way.to_string(),
            },
            Engine::Conv(conv) => conv.way().to_string(),
        }
    }
}

/// The same of either element type.
#[derive(Clone, Debug)]
pub(crate) enum AnyEngine {
    F32(Engine<f32>),
    F64(Engine<f64>),
}

/// What an engine says of itself, whatever it is of.
macro_rules! of_any {
    ($any:expr, $engine:ident => $what:expr) => {
        match $any {
            AnyEngine::F32($engine) => $what,
            AnyEngine::F64($engine) => $what,
        }
    };
}

impl AnyEngine {
    pub(crate) fn workspace_bytes(&self, n_threads: usize) -> usize {
        of_any!(self, engine => engine.workspace_bytes(n_threads))
    }

    /// The way that it goes, in words.
    pub(crate) fn way(&self) -> String {
        of_any!(self, engine => engine.way())
    }

    /// What is computed, whichever way.
    pub(crate) fn key(&self) -> String {
        of_any!(self, engine => engine.key())
    }
}

/// A step that is a product, ready to run.
#[derive(Debug)]
pub(crate) struct ProductPlan {
    /// The predicted way.
    pub(crate) engine: AnyEngine,
    /// Others that promise something.
    others: Vec<AnyEngine>,
    /// Which of the epilogue's arguments is the result, if that is kept some rows at a time.
    pub(crate) rows_at: Option<usize>,
    /// Rows of the result of one product of the batch, and their bytes.
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
}

impl ProductPlan {
    /// The plan of a step that is a product, `None` for another step, and if this build has no kernels for the target.
    /// It runs so many times in a step of the program.
    pub(crate) fn of(plan: &Plan, step: &Step, times: usize, target: &Target) -> Result<Option<Self>, CompilerBug> {
        let Step::Product { factors, dtype, c, epilogue } = step else { return Ok(None) };
        if !target.isa().is_built() {
            return Ok(None);
        }
        let n_companions = epilogue.as_ref().map_or(0, |e| n_companions(plan, &e.call, *c));
        let row_multiple = epilogue.as_ref().map_or(1, |e| e.block);
        let owns_c = plan.buffers[c.index()].home == Home::Rows;
        let args = epilogue.iter().flat_map(|e| &e.call.args);
        let rows_at = args.clone().position(|arg| arg == c).filter(|_| owns_c);
        let needs = EpilogueNeeds { row_multiple, n_companions, owns_c };
        let mut engines: Vec<AnyEngine> = match dtype {
            DType::F32 => Engine::all(factors, needs, times, target).into_iter().map(AnyEngine::F32).collect(),
            DType::F64 => Engine::all(factors, needs, times, target).into_iter().map(AnyEngine::F64).collect(),
            _ => Vec::new(),
        };
        if engines.is_empty() {
            return Err(CompilerBug::new("plan", format!("no {factors} of {dtype}")));
        }
        let others = engines.split_off(1);
        let dims = factors.dims();
        let (rows, bytes) = (dims.m, dims.m.saturating_mul(dims.n).saturating_mul(dtype.size_bytes()));
        Ok(engines.pop().map(|engine| ProductPlan { engine, others, rows_at, rows, bytes }))
    }

    /// Of the way that needs most.
    pub(crate) fn workspace_bytes(&self, n_threads: usize) -> usize {
        let engines = std::iter::once(&self.engine).chain(&self.others);
        let most = engines.map(|engine| engine.workspace_bytes(n_threads)).max();
        most.unwrap_or(0)
    }

    /// So many times it takes a share of the products' time, of all of them together, that another way can change to any effect.
    pub(crate) fn matters(&self, times: usize, total_nanos: f64) -> bool {
        self.nanos() * times as f64 >= LEAST_TRIED.max(LEAST_SHARE * total_nanos)
    }

    /// The predicted way, then others, and other divisions between so many threads.
    pub(crate) fn ways(&self, n_threads: usize) -> Vec<AnyEngine> {
        let mut all = vec![self.engine.clone()];
        match &self.engine {
            AnyEngine::F32(engine) => all.extend(engine.divided(n_threads).into_iter().map(AnyEngine::F32)),
            AnyEngine::F64(engine) => all.extend(engine.divided(n_threads).into_iter().map(AnyEngine::F64)),
        }
        all.extend(self.others.iter().cloned());
        all
    }

    /// The way that it goes, if it is of matrices.
    pub(crate) fn choice(&self) -> Option<&Candidate> {
        of_any!(&self.engine, engine => engine.choice())
    }

    /// The way that it goes, in words.
    pub(crate) fn way(&self) -> String {
        of_any!(&self.engine, engine => engine.way())
    }

    /// How long it is predicted to take on one thread, in nanoseconds, without its epilogue.
    pub(crate) fn nanos(&self) -> f64 {
        of_any!(&self.engine, engine => engine.nanos())
    }
}

impl fmt::Display for ProductPlan {
    /// The way that it goes; why, and the predicted time.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.way())?;
        if let Some(choice) = self.choice() {
            write!(f, "since {}; ", choice.why.unwrap_or("asked for"))?;
        }
        write!(f, "about {:.2} µs on one thread", self.nanos() * 1e-3)
    }
}

/// How many buffers an epilogue sweeps row by row beside the product's result `c`.
fn n_companions(plan: &Plan, call: &KernelCall, c: BufferId) -> usize {
    let mut found = vec![c];
    for phase in plan.kernels[call.kernel].phases.iter().filter(|p| p.space == Space::Full) {
        let loads = phase.inputs.iter().filter_map(|input| match input {
            Input::Load { arg, map } => Some((arg, map)),
            _ => None,
        });
        for (arg, map) in loads.chain(phase.stores.iter().map(|s| (&s.arg, &s.map))) {
            let buffer = call.args[arg.0 as usize];
            let by_rows = matches!(map.strides[..], [.., row, 1] if row != 0);
            if by_rows && !found.contains(&buffer) {
                found.push(buffer);
            }
        }
    }
    found.len() - 1
}

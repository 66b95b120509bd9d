//! The plan's products, each with the way that it goes: what ties `gemm` and `kernel`.

use cotangent_gemm::{Candidate, Convolution, Element, EpilogueNeeds, Gemm, Product, Strides};
use cotangent_graph::{CompilerBug, DType};
use cotangent_host::Target;
use cotangent_kernel::ir::{Input, Space};
use cotangent_kernel::{BufferId, Factors, Home, KernelCall, MatrixView, Plan, Step};

/// A product with its way, chosen once.
#[derive(Debug)]
pub(crate) enum Engine<T: Element> {
    Matrices(Gemm<T>),
    Conv(Convolution<T>),
}

impl<T: Element> Engine<T> {
    /// `None` if this build has no kernels for the target.
    fn new(factors: &Factors, epilogue: EpilogueNeeds, target: &Target) -> Option<Self> {
        let (dims, a, b) = match factors {
            Factors::Conv { conv, direction, .. } => {
                return Convolution::new(conv.clone(), *direction, epilogue, target).map(Engine::Conv);
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
        Gemm::new(product, target).map(Engine::Matrices)
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
            Engine::Matrices(gemm) => gemm.choice().way.to_string(),
            Engine::Conv(conv) => conv.way().to_string(),
        }
    }
}

/// The same of either element type.
#[derive(Debug)]
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

/// A step that is a product, ready to run.
#[derive(Debug)]
pub(crate) struct ProductPlan {
    pub(crate) engine: AnyEngine,
    /// Which of the epilogue's arguments is the result, if that is kept some rows at a time.
    pub(crate) rows_at: Option<usize>,
    /// Bytes of an element.
    pub(crate) size: usize,
}

impl ProductPlan {
    /// The plan of a step that is a product, `None` for another step, and if this build has no kernels for the target.
    pub(crate) fn of(plan: &Plan, step: &Step, target: &Target) -> Result<Option<Self>, CompilerBug> {
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
        let engine = match dtype {
            DType::F32 => Engine::new(factors, needs, target).map(AnyEngine::F32),
            DType::F64 => Engine::new(factors, needs, target).map(AnyEngine::F64),
            _ => None,
        };
        let bug = || CompilerBug::new("plan", format!("no {factors} of {dtype}"));
        Ok(Some(ProductPlan { engine: engine.ok_or_else(bug)?, rows_at, size: dtype.size_bytes() }))
    }

    pub(crate) fn workspace_bytes(&self, n_threads: usize) -> usize {
        of_any!(&self.engine, engine => engine.workspace_bytes(n_threads))
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

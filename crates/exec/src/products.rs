//! The plan's matrix products, each with the way that it goes: what ties `gemm` and `kernel`.

use cotangent_gemm::{Candidate, EpilogueNeeds, Gemm, Product, Strides};
use cotangent_graph::{CompilerBug, DType};
use cotangent_host::Target;
use cotangent_kernel::ir::{Input, Space};
use cotangent_kernel::{BufferId, Home, KernelCall, MatrixView, Plan, Step};

/// A matrix product with its way, chosen once.
#[derive(Debug)]
pub(crate) enum AnyGemm {
    F32(Gemm<f32>),
    F64(Gemm<f64>),
}

/// A step that is a product, ready to run.
#[derive(Debug)]
pub(crate) struct GemmPlan {
    pub(crate) gemm: AnyGemm,
    /// Which of the epilogue's arguments is the result, if that is kept some rows at a time.
    pub(crate) rows_at: Option<usize>,
    /// Bytes of an element.
    pub(crate) size: usize,
}

impl GemmPlan {
    /// The plan of a step that is a product, `None` for another step, and if this build has no kernels for the target.
    pub(crate) fn of(plan: &Plan, step: &Step, target: &Target) -> Result<Option<Self>, CompilerBug> {
        let Step::Gemm { dims, dtype, a, b, c, epilogue } = step else { return Ok(None) };
        if !target.isa().is_built() {
            return Ok(None);
        }
        let n_companions = epilogue.as_ref().map_or(0, |e| n_companions(plan, &e.call, *c));
        let row_multiple = epilogue.as_ref().map_or(1, |e| e.block);
        let owns_c = plan.buffers[c.index()].home == Home::Rows;
        let args = epilogue.iter().flat_map(|e| &e.call.args);
        let rows_at = args.clone().position(|arg| arg == c).filter(|_| owns_c);
        let strides = |view: &MatrixView| Strides {
            batch: view.batch_stride as isize,
            row: view.row_stride as isize,
            col: view.col_stride as isize,
        };
        let product = Product {
            batch: dims.batch,
            m: dims.m,
            n: dims.n,
            k: dims.k,
            a: strides(a),
            b: strides(b),
            epilogue: EpilogueNeeds { row_multiple, n_companions, owns_c },
        };
        let gemm = match dtype {
            DType::F32 => Gemm::new(product, target).map(AnyGemm::F32),
            DType::F64 => Gemm::new(product, target).map(AnyGemm::F64),
            _ => None,
        };
        let bug = || CompilerBug::new("plan", format!("no product of {dims:?} of {dtype}"));
        Ok(Some(GemmPlan { gemm: gemm.ok_or_else(bug)?, rows_at, size: dtype.size_bytes() }))
    }

    pub(crate) fn workspace_bytes(&self, n_threads: usize) -> usize {
        match &self.gemm {
            AnyGemm::F32(gemm) => gemm.workspace_bytes(n_threads),
            AnyGemm::F64(gemm) => gemm.workspace_bytes(n_threads),
        }
    }

    /// The way that it goes.
    pub(crate) fn choice(&self) -> &Candidate {
        match &self.gemm {
            AnyGemm::F32(gemm) => gemm.choice(),
            AnyGemm::F64(gemm) => gemm.choice(),
        }
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

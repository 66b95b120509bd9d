//! What is made of a plan beside its machine code, and of the plans of the loops in it: everything that a machine needs and that
//! does not depend on where it runs.

use cotangent_graph::CompilerBug;
use cotangent_host::Target;
use cotangent_kernel::{Kernel, Plan, Step};

use crate::place::Place;
use crate::products::ProductPlan;
use crate::turns::Turns;

/// A plan made ready.
#[derive(Debug)]
pub(crate) struct Ready {
    /// The place of its first kernel among those of the program, in the order of [`all_kernels`].
    pub(crate) first: usize,
    /// For each kernel.
    pub(crate) layouts: Vec<Vec<i64>>,
    /// For each step its product with the way that it goes, if it is one.
    pub(crate) products: Vec<Option<ProductPlan>>,
    /// For each buffer.
    pub(crate) places: Vec<Place>,
    /// For each step its body, if it is a loop.
    pub(crate) bodies: Vec<Option<Ready>>,
    /// Of a loop's body that is one function: what that is told, and its number among those of the program.
    pub(crate) turns: Option<(Turns, usize)>,
}

impl Ready {
    /// Of a program's plan whose buffers are in these places.
    ///
    /// # Errors
    /// A product that there is no way for, or a buffer of a body that does not fit.
    pub(crate) fn of(plan: &Plan, places: Vec<Place>, target: &Target) -> Result<Self, CompilerBug> {
        Ready::behind(plan, places, (0, &mut 0), 1, target)
    }

    /// Of a plan whose kernels and loops come after so many others, and which runs `times` times in a step.
    fn behind(
        plan: &Plan,
        places: Vec<Place>,
        (first, next_loop): (usize, &mut usize),
        times: usize,
        target: &Target,
    ) -> Result<Self, CompilerBug> {
        let products =
            plan.steps.iter().map(|step| ProductPlan::of(plan, step, times, target)).collect::<Result<_, _>>()?;
        let layouts = plan.kernels.iter().map(|kernel| kernel.layout()).collect();
        let mut next = first + plan.kernels.len();
        let mut bodies = Vec::with_capacity(plan.steps.len());
        for step in &plan.steps {
            bodies.push(match step {
                Step::Loop(step) => {
                    let turns = Turns::of(step, next).map(|turns| (turns, *next_loop));
                    *next_loop += usize::from(turns.is_some());
                    let (places, times) = (Place::of_body(&step.body)?, times.saturating_mul(step.n));
                    let body = Ready::behind(&step.body, places, (next, &mut *next_loop), times, target)?;
                    next += n_kernels(&step.body);
                    Some(Ready { turns, ..body })
                }
                _ => None,
            });
        }
        Ok(Ready { first, layouts, products, places, bodies, turns: None })
    }

    /// Bytes of panels that the products need, on so many threads.
    pub(crate) fn panel_bytes(&self, n_threads: usize) -> usize {
        let own = self.products.iter().flatten().map(|product| product.workspace_bytes(n_threads));
        let inner = self.bodies.iter().flatten().map(|body| body.panel_bytes(n_threads));
        own.chain(inner).max().unwrap_or(0)
    }

    /// The predicted time of the products of a step, in nanoseconds: of a loop, of all iterations.
    pub(crate) fn product_nanos(&self, plan: &Plan, step: usize) -> f64 {
        match (plan.steps.get(step), self.bodies.get(step).and_then(Option::as_ref)) {
            (Some(Step::Loop(step)), Some(code)) => {
                let each = (0..step.body.steps.len()).map(|inner| code.product_nanos(&step.body, inner)).sum::<f64>();
                each * step.n as f64
            }
            _ => self.products.get(step).and_then(Option::as_ref).map_or(0.0, ProductPlan::nanos),
        }
    }
}

/// The kernels of a plan, then those of the bodies of its loops, in the order of steps.
pub(crate) fn all_kernels(plan: &Plan) -> Vec<&Kernel> {
    let mut kernels: Vec<&Kernel> = plan.kernels.iter().collect();
    kernels.extend(bodies(plan).flat_map(all_kernels));
    kernels
}

pub(crate) fn n_kernels(plan: &Plan) -> usize {
    plan.kernels.len() + bodies(plan).map(n_kernels).sum::<usize>()
}

/// The bodies of a plan's loops.
pub(crate) fn bodies(plan: &Plan) -> impl Iterator<Item = &Plan> {
    plan.steps.iter().filter_map(|step| match step {
        Step::Loop(step) => Some(&*step.body),
        _ => None,
    })
}

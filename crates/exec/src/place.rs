//! Where the bytes of each buffer of a plan come from, and that there are enough of them.
//!
//! The plan names what lives outside of it; here every such name is looked up once, and element type and number of elements
//! are compared. So a machine that follows the places reads and writes nothing that is not there, whatever the plan says.

use std::sync::Arc;

use cotangent_graph::{CompilerBug, DType, TensorData, Type};
use cotangent_kernel::{BufferDecl, Home, Plan};

use crate::compile::Interface;

/// The words that random numbers depend on: the two halves of the seed, and the step.
const COUNTERS: (DType, usize) = (DType::I32, 3);

/// Their bytes.
pub(crate) const COUNTERS_BYTES: usize = 12;

/// Where a buffer's bytes are.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// What is handed in as the input of this number.
    Input(usize),
    /// The store's value of this number among the program's parameters and states.
    Stored(usize),
    /// A copy of this value.
    Constant(Arc<TensorData>),
    /// The counters of the session.
    Counters,
    /// So many bytes from the start of the arena.
    Arena(usize),
    /// Of a body: where the loop around it says, iteration by iteration.
    Given,
    /// In no place as a whole: threads keep what is under way.
    Nowhere,
}

impl Place {
    /// The places of all buffers, in their order.
    ///
    /// # Errors
    /// A buffer of another type or size than what it stands for, or that nothing stands behind; a result that would be gone
    /// after the step.
    pub(crate) fn of_plan(plan: &Plan, interface: &Interface) -> Result<Vec<Place>, CompilerBug> {
        let places = plan.buffers.iter().map(|decl| Place::of(plan, decl, interface)).collect::<Result<Vec<_>, _>>()?;
        for output in &plan.outputs {
            let decl = &plan.buffers[output.buffer.index()];
            same(decl, of_type(&output.ty))?;
            if matches!(places[output.buffer.index()], Place::Input(_) | Place::Counters | Place::Nowhere) {
                return Err(bug(decl, "is a result, and gone when the step is over"));
            }
        }
        Ok(places)
    }

    /// The places of the buffers of a loop's body. What it is given the plan verifier has compared with what it gets.
    ///
    /// # Errors
    /// A parameter, or what does not fit in its place.
    pub(crate) fn of_body(plan: &Plan) -> Result<Vec<Place>, CompilerBug> {
        let place = |decl: &BufferDecl| match decl.home {
            Home::Input | Home::State | Home::Output => Ok(Place::Given),
            _ => Place::of(plan, decl, &Interface::default()),
        };
        plan.buffers.iter().map(place).collect()
    }

    fn of(plan: &Plan, decl: &BufferDecl, interface: &Interface) -> Result<Place, CompilerBug> {
        match &decl.home {
            Home::Input => {
                let at = interface.input_names.iter().position(|name| *name == decl.name);
                let at = at.ok_or_else(|| bug(decl, "is no input of the program"))?;
                same(decl, of_type(&interface.input_types[at]))?;
                Ok(Place::Input(at))
            }
            Home::Param | Home::State => {
                let at = interface.stored.iter().position(|(name, ..)| *name == decl.name);
                let at = at.ok_or_else(|| bug(decl, "is no parameter or state of the program"))?;
                same(decl, of_type(&interface.stored[at].1))?;
                Ok(Place::Stored(at))
            }
            Home::Const(value) => {
                same(decl, of_type(&value.ty()))?;
                Ok(Place::Constant(Arc::clone(value)))
            }
            Home::Counters => {
                same(decl, COUNTERS)?;
                Ok(Place::Counters)
            }
            Home::Arena { offset } => {
                let end =
                    decl.n_elements.checked_mul(decl.dtype.size_bytes()).and_then(|bytes| bytes.checked_add(*offset));
                if end.is_none_or(|end| end > plan.arena_bytes) || !offset.is_multiple_of(decl.dtype.size_bytes()) {
                    return Err(bug(decl, &format!("is not inside the arena of {} bytes", plan.arena_bytes)));
                }
                Ok(Place::Arena(*offset))
            }
            Home::Output => Err(bug(decl, "is handed out by no loop")),
            Home::Rows => Ok(Place::Nowhere),
        }
    }
}

fn of_type(ty: &Type) -> (DType, usize) {
    (ty.dtype(), ty.shape().n_elements())
}

fn same(decl: &BufferDecl, (dtype, n_elements): (DType, usize)) -> Result<(), CompilerBug> {
    if (decl.dtype, decl.n_elements) == (dtype, n_elements) {
        return Ok(());
    }
    Err(bug(decl, &format!("stands for {n_elements} elements of {dtype}")))
}

fn bug(decl: &BufferDecl, what: &str) -> CompilerBug {
    CompilerBug::new("plan", format!("buffer `{}` of {} elements of {} {what}", decl.name, decl.n_elements, decl.dtype))
}

#[cfg(test)]
mod tests {
    //! Plans that do not fit the program, whatever the plan verifier thinks of them.

    use cotangent_graph::{Graph, Init, build};
    use cotangent_kernel::Step;

    use super::*;
    use crate::{CompileError, Compiler};

    /// Rows of a table picked by index, beside an update of a state, a constant, and random numbers.
    fn sample() -> Graph {
        let graph = build(|g| {
            let table = g.param("table", DType::F32, [5, 3], Init::ONES);
            let rows = g.input("rows", DType::I64, [4]);
            let seen = g.state("seen", DType::F32, [4, 3], Init::ZEROS);
            let numbers = g.constant(ndarray::Array2::from_shape_fn((4, 3), |(i, j)| (i * 3 + j) as f32));
            let picked = table.gather(rows);
            g.output("picked", picked.dropout("drop", 0.5));
            g.update(seen, seen + picked * numbers);
        });
        graph.unwrap_or_else(|diags| panic!("{diags}"))
    }

    fn error(change: impl Fn(&mut Plan)) -> String {
        let program = Compiler::new().compile(&sample()).unwrap_or_else(|error| panic!("{error}"));
        let mut plan = program.plan.clone();
        change(&mut plan);
        match Place::of_plan(&plan, &program.interface) {
            Err(bug) => bug.to_string(),
            Ok(places) => panic!("{places:?}"),
        }
    }

    /// Compiling asks for the places: this is more than the plan promises of itself.
    #[test]
    fn a_program_is_not_made_of_a_plan_that_does_not_fit() {
        let renamed = |plan: &mut Plan| {
            plan.buffers.iter_mut().filter(|d| d.home == Home::Param).for_each(|d| d.name = "nobody".to_owned());
        };
        match Compiler::new().compile_with(&sample(), renamed) {
            Err(CompileError::Bug(bug)) => assert!(bug.to_string().contains("is no parameter or state"), "{bug}"),
            other => panic!("{other:?}"),
        }
    }

    /// More elements than there are pass the plan's own checks: every access stays inside of what is declared.
    fn longer(is: impl Fn(&Home) -> bool) -> String {
        error(|plan| {
            let buffer = plan.buffers.iter_mut().find(|decl| is(&decl.home));
            buffer.unwrap_or_else(|| panic!("the buffer that was to be broken is not there")).n_elements += 3;
        })
    }

    #[test]
    fn every_buffer_has_the_type_and_size_of_what_it_stands_for() {
        assert!(Compiler::new().compile_with(&sample(), |_| {}).is_ok());
        let says = |text: String, what: &str| assert!(text.contains(what), "{text}");
        says(longer(|home| *home == Home::Param), "buffer `table` of 18 elements of f32 stands for 15 elements of f32");
        says(longer(|home| *home == Home::State), "stands for 12 elements of f32");
        says(
            longer(|home| *home == Home::Counters),
            "buffer `counters` of 6 elements of i32 stands for 3 elements of i32",
        );
        // A name that the program does not have, and a parameter taken for an input.
        let renamed = |home: Home| {
            error(|plan| {
                let buffer = plan.buffers.iter_mut().find(|decl| decl.home == home);
                buffer.unwrap_or_else(|| panic!("the buffer is not there")).name = "nobody".to_owned();
            })
        };
        says(renamed(Home::Param), "is no parameter or state of the program");
        says(renamed(Home::Input), "is no input of the program");
        says(
            error(|plan| plan.buffers.iter_mut().filter(|d| d.home == Home::Param).for_each(|d| d.home = Home::Input)),
            "buffer `table` of 15 elements of f32 is no input of the program",
        );
    }

    #[test]
    fn results_are_there_when_the_step_is_over() {
        let text = error(|plan| {
            let input = plan.buffers.iter().position(|decl| decl.home == Home::Input).unwrap_or(0);
            let ty = Type::tensor(DType::I64, [4]);
            plan.buffers[input].live = 0..plan.steps.len() + 1;
            plan.outputs[0].buffer = cotangent_kernel::BufferId(input as u32);
            plan.outputs[0].ty = ty;
        });
        assert!(text.contains("is a result, and gone when the step is over"), "{text}");
    }

    /// A product that the library has no plan for is an error, not a step that is left out.
    #[test]
    fn every_product_has_a_plan() {
        let graph = build(|g| {
            let (a, b) = (g.input("a", DType::F32, [4, 5]), g.input("b", DType::F32, [5, 6]));
            g.output("c", a.matmul(b));
        });
        let graph = graph.unwrap_or_else(|diags| panic!("{diags}"));
        let program = Compiler::new().compile(&graph).unwrap_or_else(|error| panic!("{error}"));
        let is_product = |step: &Step| matches!(step, Step::Product { .. });
        assert!(program.plan.steps.iter().any(is_product));
        let planned: Vec<bool> = program.ready.products.iter().map(Option::is_some).collect();
        let run: Vec<bool> = program.plan.steps.iter().map(is_product).collect();
        assert_eq!(planned, run);
        let mut plan = program.plan.clone();
        for step in &mut plan.steps {
            if let Step::Product { dtype, .. } = step {
                *dtype = DType::I32;
            }
        }
        assert!(
            plan.steps.iter().any(|step| crate::products::ProductPlan::of(&plan, step, 1, program.target()).is_err())
        );
    }
}

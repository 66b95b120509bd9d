//! How much memory a program takes, known before any of it is allocated, and the error that says what takes it.

use std::sync::Arc;

use cotangent_graph::{Code, Diag, Graph, Loc, Node, NodeId};
use cotangent_host::{Bytes, Refused};
use cotangent_kernel::{BufferDecl, BufferId, Home, Plan};

use crate::compile::{Executable, Interface};
use crate::machine::scratch_bytes;
use crate::ready::bodies;
use crate::runtime::Runtime;
use crate::store::Store;

/// The most buffers that an error names.
const MOST: usize = 3;

/// Bytes that a program takes, by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    arena: usize,
    constants: usize,
    stored: usize,
    /// What each thread has of its own, once it is known how many there are.
    threads: usize,
}

impl Needs {
    /// Of a plan, whatever the number of threads.
    pub(crate) fn of_plan(plan: &Plan, interface: &Interface) -> Self {
        let constants = all_buffers(plan).into_iter().filter(|decl| matches!(decl.home, Home::Const(_)));
        Needs {
            arena: plan.arena_bytes,
            constants: sum(constants.map(BufferDecl::n_bytes)),
            stored: sum(interface.stored.iter().map(|(_, ty, _)| ty.n_bytes())),
            threads: 0,
        }
    }

    /// Of a program that is loaded into a session with this store: what the store has is not needed again.
    pub(crate) fn of_session(program: &Executable, store: &Store, runtime: &Runtime) -> Self {
        let missing = program.interface.stored.iter().filter(|(name, ..)| store.type_of(name).is_none());
        let beside = missing.clone().map(|(_, ty, init)| init.bytes_beside(ty.shape())).max().unwrap_or(0);
        Needs {
            stored: sum(missing.map(|(_, ty, _)| ty.n_bytes())).saturating_add(beside),
            threads: scratch_bytes(program, runtime),
            ..Needs::of_plan(&program.plan, &program.interface)
        }
    }

    /// All of it.
    pub(crate) fn total(&self) -> usize {
        sum([self.arena, self.constants, self.stored, self.threads].into_iter())
    }

    /// The error of a program whose memory was refused: what takes how much, and the lines of the largest.
    pub(crate) fn refusal(&self, refused: Refused, plan: &Plan, graph: &Graph) -> Diag {
        let parts = [
            (self.arena, "values between kernels"),
            (self.stored, "parameters and states"),
            (self.constants, "constants"),
            (self.threads, "what threads have of their own"),
        ];
        let parts = parts.into_iter().filter(|(n_bytes, _)| *n_bytes > 0);
        let parts: Vec<String> = parts.map(|(n_bytes, what)| format!("{} for {what}", Bytes(n_bytes))).collect();
        let text = format!("the program takes {refused}: {}", parts.join(", "));
        let mut diag = Diag::new(Code::NoMemory, text).at(Loc::Internal);
        let takes = |decl: &BufferDecl| !matches!(decl.home, Home::Input | Home::Rows | Home::Counters | Home::Output);
        let mut largest: Vec<(usize, &BufferDecl)> =
            plan.buffers.iter().enumerate().filter(|(_, d)| takes(d)).collect();
        largest.sort_by_key(|(_, decl)| std::cmp::Reverse(decl.n_bytes()));
        for (k, decl) in largest.into_iter().take(MOST).filter(|(_, decl)| decl.n_bytes() >= self.total() / 100) {
            let origin = node_of(BufferId(k as u32), plan, graph).map_or(Loc::Internal, |node| node.origin.loc());
            if diag.at == Loc::Internal {
                diag.at = origin.clone();
            }
            let text = format!(
                "`{}`, {} elements of {}, takes {}",
                decl.name,
                decl.n_elements,
                decl.dtype,
                Bytes(decl.n_bytes())
            );
            diag = diag.note(text, origin);
        }
        diag.help(
            "take fewer rows at a time; `Compiler::memory_limit` or the variable COTANGENT_MEMORY sets another limit",
        )
    }
}

/// The buffers of a plan and of the bodies of its loops.
pub(crate) fn all_buffers(plan: &Plan) -> Vec<&BufferDecl> {
    plan.buffers.iter().chain(bodies(plan).flat_map(all_buffers)).collect()
}

fn sum(parts: impl Iterator<Item = usize>) -> usize {
    parts.fold(0, usize::saturating_add)
}

/// The node that a buffer holds the value of.
fn node_of<'g>(buffer: BufferId, plan: &Plan, graph: &'g Graph) -> Option<&'g Node> {
    let decl = &plan.buffers[buffer.index()];
    let id: Option<NodeId> = match &decl.home {
        Home::Input | Home::Param | Home::State => graph.source(&decl.name),
        Home::Const(value) => {
            graph.ids().find(|id| graph.node(*id).attrs.tensor("value").is_some_and(|known| Arc::ptr_eq(known, value)))
        }
        _ => plan.step_values.iter().flatten().find(|(_, made)| *made == buffer).map(|(id, _)| *id),
    };
    id.map(|id| graph.node(id))
}

//! What steps store: that no two iterations of a kernel store to one element, and that what is read has been stored, all of it.
//!
//! Threads take different iterations of a kernel, so two at one element would race; and an element that nobody has stored is
//! whatever was in its memory before.

use std::collections::HashMap;

use super::Verifier;
use crate::ir::{Input, Kernel, Phase, Space, Store};
use crate::lattice::{Lattice, apart, cover};
use crate::plan::{BufferId, Home, KernelCall, Step};

/// What of a buffer has been stored.
pub(super) enum Stored {
    /// All of it, or it was there from the start.
    All,
    /// These elements, by steps that follow each other.
    Parts(Vec<Lattice>),
}

/// Buffers of which something has been stored.
#[derive(Default)]
pub(super) struct Coverage {
    of: HashMap<BufferId, Stored>,
}

impl Coverage {
    /// Notes what a step has stored to a buffer of so many elements.
    fn add(&mut self, id: BufferId, stored: Stored, n_elements: usize) {
        let known = self.of.entry(id).or_insert_with(|| Stored::Parts(Vec::new()));
        match (&mut *known, stored) {
            (Stored::All, _) => {}
            (_, Stored::All) => *known = Stored::All,
            (Stored::Parts(parts), Stored::Parts(more)) => {
                parts.extend(more);
                if parts.iter().any(|part| part.n() == n_elements as u128) {
                    *known = Stored::All;
                }
            }
        }
    }

    /// Whether every element of a buffer has been stored.
    pub(super) fn is_whole(&mut self, id: BufferId, n_elements: usize) -> bool {
        match self.of.get_mut(&id) {
            None => n_elements == 0,
            Some(Stored::All) => true,
            Some(known @ Stored::Parts(_)) => {
                let is_whole = matches!(known, Stored::Parts(parts) if cover(parts, n_elements));
                if is_whole {
                    *known = Stored::All;
                }
                is_whole
            }
        }
    }

    /// Whether anything of a buffer has been stored.
    pub(super) fn has(&self, id: BufferId) -> bool {
        self.of.contains_key(&id)
    }
}

impl Verifier<'_> {
    /// No two iterations of a kernel store to one element, and no two stores.
    pub(super) fn stores(&mut self, s: usize, call: &KernelCall) {
        let kernel = &self.plan.kernels[call.kernel];
        let mut by: Vec<Option<usize>> = vec![None; kernel.args.len()];
        for (number, phase) in kernel.phases.iter().enumerate() {
            let mut reached: Vec<Vec<Lattice>> = vec![Vec::new(); kernel.args.len()];
            for store in &phase.stores {
                let arg = store.arg.0 as usize;
                // What belongs to the row under way belongs to a thread.
                let row = self.decl(call.args[arg]).home == Home::Rows;
                reached[arg].push(places(kernel, phase, store, row));
            }
            for (arg, sets) in reached.into_iter().enumerate().filter(|(_, sets)| !sets.is_empty()) {
                let name = self.name(call.args[arg]);
                if let Some(other) = by[arg].replace(number) {
                    self.wrong(format!("step {s}: phases {other} and {number} both store to {name}"));
                }
                if !sets.iter().all(Lattice::is_injective) || !apart(&sets) {
                    self.wrong(format!("step {s}: phase {number} stores to some element of {name} twice"));
                }
            }
        }
    }

    /// Notes what a step stores.
    pub(super) fn note_stores(&self, step: &Step, coverage: &mut Coverage) {
        let mut whole = |id: BufferId| coverage.add(id, Stored::All, 0);
        match step {
            Step::Product { c, .. } => whole(*c),
            Step::Op(op) => whole(op.out),
            Step::Loop(step) => step.writes().into_iter().for_each(whole),
            Step::Copy { to, .. } => whole(*to),
            Step::Kernel(_) | Step::Check { .. } => {}
        }
        for call in step.calls() {
            let kernel = &self.plan.kernels[call.kernel];
            // A kernel without elements runs only for what it reduces.
            let runs = kernel.total > 0 || kernel.n_reduces() > 0;
            for (phase, store) in kernel.phases.iter().flat_map(|p| p.stores.iter().map(move |s| (p, s))) {
                let id = call.args[store.arg.0 as usize];
                let places = places(kernel, phase, store, false);
                let parts = if runs { vec![places] } else { Vec::new() };
                coverage.add(id, Stored::Parts(parts), self.decl(id).n_elements);
            }
        }
    }
}

/// The elements that a store reaches, one for each iteration; those of one row if it is kept for the row under way. What rows
/// carry along they store to the same places, one row of a block after the other.
fn places(kernel: &Kernel, phase: &Phase, store: &Store, row: bool) -> Lattice {
    let is_carried = |input: &Input| matches!(input, Input::Carried { arg, .. } if *arg == store.arg);
    if kernel.dims.len() == 3 && phase.space == Space::Full && phase.inputs.iter().any(is_carried) {
        let blocks_and_inner = [0, 2].map(|dim| (kernel.dims[dim], store.map.strides[dim]));
        return Lattice::new(store.map.offset, blocks_and_inner);
    }
    Lattice::of(kernel, phase.space, &store.map, row)
}

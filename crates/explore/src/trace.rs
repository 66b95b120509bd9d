//! The graph after every pass, with a name for each node that it keeps from pass to pass.
//!
//! Passes make graphs anew, so node ids say nothing across them. [`crate::matching`] finds what is the same: a [`Uid`] stands for
//! one value of the user from the pass that makes it to the pass that takes it away. What was put in the place of what is
//! recorded where a reader that stayed reads something else.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use cotangent_exec::Executable;
use cotangent_graph::text::print::post_order;
use cotangent_graph::{Graph, NodeId};
use cotangent_passes::ValidateHook;

use crate::matching::matched;

/// What stays the same of a node from pass to pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(pub u32);

/// A graph or a body at a stage.
#[derive(Clone, Debug)]
pub struct Sheet {
    /// The graph.
    pub graph: Arc<Graph>,
    /// The nodes that the text form has, in its order: position = number.
    pub order: Vec<NodeId>,
    /// The number of each node of the graph.
    pub number: HashMap<NodeId, usize>,
    /// What each number stays from pass to pass.
    pub uids: Vec<Uid>,
}

impl Sheet {
    fn new(graph: Arc<Graph>) -> Self {
        let order = post_order(&graph);
        let number = order.iter().enumerate().map(|(n, &id)| (id, n)).collect();
        Sheet { graph, order, number, uids: Vec::new() }
    }

    /// The number of what has this name across passes.
    pub fn of_uid(&self, uid: Uid) -> Option<usize> {
        self.uids.iter().position(|known| *known == uid)
    }
}

/// A graph, then its bodies.
pub(crate) fn sheets_of(graph: Arc<Graph>) -> Vec<Sheet> {
    let bodies: Vec<Arc<Graph>> = graph.all_bodies().into_iter().rev().map(Arc::clone).collect();
    std::iter::once(graph).chain(bodies).map(Sheet::new).collect()
}

/// What a pass changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Nodes that were not there before.
    pub added: Vec<Uid>,
    /// Nodes that are not there any more.
    pub removed: Vec<Uid>,
    /// Of the removed ones what readers read instead.
    pub replaced: BTreeMap<Uid, Uid>,
}

/// The graph after a pass.
#[derive(Clone, Debug)]
pub struct StageOf {
    /// The pass; `source` is the graph as it came.
    pub pass: String,
    /// The graph, then its bodies.
    pub sheets: Vec<Sheet>,
    /// What changed.
    pub change: Change,
}

impl StageOf {
    /// The sheet of a graph or body of this stage.
    pub fn sheet_of(&self, graph: &Graph) -> Option<usize> {
        self.sheets.iter().position(|sheet| std::ptr::eq(&*sheet.graph, graph))
    }

    /// What a uid is here: the sheet and the number.
    pub fn find(&self, uid: Uid) -> Option<(usize, usize)> {
        self.sheets.iter().enumerate().find_map(|(k, sheet)| Some((k, sheet.of_uid(uid)?)))
    }
}

/// The graph at all stages, at least one.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The stages in order; the last is what is planned.
    pub stages: Vec<StageOf>,
    /// How many uids there are.
    pub n_uids: usize,
}

/// Keeps the graphs that a compiler shows.
#[derive(Clone, Default)]
pub(crate) struct Recorder(Arc<Mutex<Vec<Recorded>>>);

/// A pass with the graphs before and after it.
pub(crate) type Recorded = (String, Graph, Graph);

impl Recorder {
    pub(crate) fn hook(&self) -> ValidateHook {
        let kept = Arc::clone(&self.0);
        Arc::new(move |pass: &str, before: &Graph, after: &Graph| {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            // What was before is what came of the pass before.
            let before = if kept.is_empty() { before.clone() } else { Graph::default() };
            kept.push((pass.to_owned(), before, after.clone()));
            Ok(())
        })
    }

    pub(crate) fn changes(&self) -> Vec<Recorded> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Trace {
    pub(crate) fn of(program: &Executable, changes: Vec<Recorded>) -> Self {
        let mut trace = Trace { stages: Vec::new(), n_uids: 0 };
        let start = changes.first().map_or_else(|| program.optimized().clone(), |(_, before, _)| before.clone());
        trace.add("source".into(), start);
        for (pass, _, after) in changes {
            trace.add(pass, after);
        }
        trace
    }

    /// What the plan is made of.
    pub fn last(&self) -> &StageOf {
        &self.stages[self.stages.len() - 1]
    }

    fn add(&mut self, pass: String, graph: Graph) {
        let mut sheets = sheets_of(Arc::new(graph));
        let mut change = Change::default();
        let (old, mut taken) = (self.stages.last(), HashSet::new());
        // The bodies of what stays are what becomes of its bodies.
        let mut from: Vec<Option<usize>> = vec![None; sheets.len()];
        from[0] = old.map(|_| 0);
        for at in 0..sheets.len() {
            let unchanged = old.and_then(|old| old.sheet_of(&sheets[at].graph));
            let before = unchanged.or(from[at]).and_then(|k| Some(&old?.sheets[k]));
            let found = matched(before, &sheets[at], &mut taken, &mut self.n_uids);
            change.added.extend(found.fresh);
            let uid = |number: usize| found.uids[number];
            for (old, new) in found.replaced {
                change.replaced.entry(old).or_insert(uid(new));
            }
            for (was, is) in found.bodies {
                let [was, is] = [
                    old.and_then(|old| old.sheet_of(&was)),
                    sheets.iter().position(|sheet| Arc::ptr_eq(&sheet.graph, &is)),
                ];
                if let Some(is) = is {
                    from[is] = from[is].or(was);
                }
            }
            sheets[at].uids = found.uids;
        }
        if let Some(old) = old {
            let before = old.sheets.iter().flat_map(|sheet| sheet.uids.iter().copied());
            change.removed = before.filter(|uid| !taken.contains(uid)).collect();
            change.replaced.retain(|old, _| !taken.contains(old));
        } else {
            change.added.clear();
        }
        self.stages.push(StageOf { pass, sheets, change });
    }

    /// What has become of a node of a stage in the last one, by what was put in its place; `None` if nothing was.
    pub fn fate(&self, stage: usize, uid: Uid) -> Option<Uid> {
        let mut uid = uid;
        for later in &self.stages[stage + 1..] {
            if later.find(uid).is_none() {
                uid = *later.change.replaced.get(&uid)?;
            }
        }
        Some(uid)
    }

    /// The stage that a node of the last one was first seen at.
    pub fn first_seen(&self, uid: Uid) -> usize {
        self.stages.iter().position(|stage| stage.find(uid).is_some()).unwrap_or(0)
    }
}

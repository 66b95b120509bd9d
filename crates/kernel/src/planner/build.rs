//! Buffers and steps, from units in order.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use cotangent_graph::{DType, Graph, Lower, NodeId, Role, Source, TensorData, Type};
use smallvec::SmallVec;

use super::Bodies;
use super::schedule::Copied;
use super::units::{Operands, Unit, Work};
use crate::arena;
use crate::cluster::{Clusters, Part, memory_of};
use crate::ir::{Kernel, Sweep};
use crate::lower::{ArgRef, Lowered};
use crate::memory::Operand;
use crate::plan::{
    BufferDecl, BufferId, Epilogue, Factors, Home, KernelCall, MatrixView, OpStep, Piece, Plan, PlanOutput, Step,
};
use crate::repeat::{self, Carry, Given, LoopStep};

pub(super) struct Builder<'a> {
    graph: &'a Graph,
    clusters: &'a Clusters,
    bodies: &'a Bodies,
    buffers: Vec<BufferDecl>,
    of_node: HashMap<NodeId, BufferId>,
    of_partial: HashMap<ArgRef, BufferId>,
    counters: Option<BufferId>,
    steps: Vec<Step>,
    step_nodes: Vec<NodeId>,
    step_values: Vec<Vec<(NodeId, BufferId)>>,
    old_reads: Vec<Vec<BufferId>>,
    kernels: Vec<Kernel>,
    /// Places in `kernels`, by the hash of what makes kernels equal.
    known_kernels: HashMap<u64, SmallVec<[usize; 1]>>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(graph: &'a Graph, clusters: &'a Clusters, bodies: &'a Bodies) -> Self {
        Builder {
            graph,
            clusters,
            bodies,
            buffers: Vec::new(),
            of_node: HashMap::new(),
            of_partial: HashMap::new(),
            counters: None,
            steps: Vec::new(),
            step_nodes: Vec::new(),
            step_values: Vec::new(),
            old_reads: Vec::new(),
            kernels: Vec::new(),
            known_kernels: HashMap::new(),
        }
    }

    fn buffer(&mut self, name: String, dtype: DType, n_elements: usize, home: Home) -> BufferId {
        self.buffers.push(BufferDecl { name, dtype, n_elements, home, live: 0..0 });
        BufferId(self.buffers.len() as u32 - 1)
    }

    fn arena(&mut self, name: String, ty: &Type) -> BufferId {
        self.buffer(name, ty.dtype(), ty.shape().n_elements(), Home::Arena { offset: 0 })
    }

    fn node_buffer(&mut self, id: NodeId) -> BufferId {
        if let Some(&known) = self.of_node.get(&id) {
            return known;
        }
        let node = self.graph.node(id);
        let home = match &node.op.lower {
            Lower::Source(Source::Input) => Home::Input,
            Lower::Source(Source::Param) => Home::Param,
            Lower::Source(Source::State) => Home::State,
            Lower::Source(Source::Constant) if self.clusters.parts[id.index()] == Part::Buffer => {
                let empty = || Arc::new(TensorData::zeros(node.ty.dtype(), node.ty.shape()));
                Home::Const(node.constant().cloned().unwrap_or_else(empty))
            }
            _ => Home::Arena { offset: 0 },
        };
        let name = match home {
            Home::Input | Home::Param | Home::State => node.name().unwrap_or_default().to_owned(),
            _ => format!("{id} {}", node.op.name),
        };
        let buffer = self.buffer(name, node.ty.dtype(), node.ty.shape().n_elements(), home);
        self.of_node.insert(id, buffer);
        buffer
    }

    fn arg_buffer(&mut self, reference: ArgRef, dtype: DType) -> BufferId {
        match reference {
            ArgRef::Node(id) => self.node_buffer(id),
            ArgRef::Counters => match self.counters {
                Some(known) => known,
                None => {
                    let buffer = self.buffer("counters".into(), DType::I32, 3, Home::Counters);
                    self.counters = Some(buffer);
                    buffer
                }
            },
            ArgRef::Row(node) => {
                let known = self.of_partial.get(&reference).copied();
                known.unwrap_or_else(|| {
                    let axes = self.clusters.of[node.index()].map(|c| &self.clusters.clusters[c].axes);
                    let shape = self.graph.ty(node).shape();
                    let n = axes.into_iter().flatten().map(|&axis| shape[axis]).product();
                    let name = format!("{node} {} (a row)", self.graph.node(node).op.name);
                    let buffer = self.buffer(name, dtype, n, Home::Rows);
                    self.of_partial.insert(reference, buffer);
                    buffer
                })
            }
            ArgRef::Partial(partial) => {
                if let Some(&known) = self.of_partial.get(&reference) {
                    return known;
                }
                let buffer = self.buffer("partials".into(), dtype, partial.n, Home::Arena { offset: 0 });
                self.of_partial.insert(reference, buffer);
                buffer
            }
        }
    }

    fn args(&mut self, lowered: &Lowered) -> Vec<BufferId> {
        let args = lowered.kernel.args.iter().zip(&lowered.args);
        args.map(|(arg, &reference)| self.arg_buffer(reference, arg.dtype)).collect()
    }

    /// The number of a kernel; equal ones have one.
    fn kernel(&mut self, kernel: Kernel) -> usize {
        let same_hash =
            self.known_kernels.entry(BuildHasherDefault::<DefaultHasher>::default().hash_one(&kernel)).or_default();
        if let Some(&known) = same_hash.iter().find(|&&known| self.kernels[known] == kernel) {
            return known;
        }
        same_hash.push(self.kernels.len());
        self.kernels.push(kernel);
        self.kernels.len() - 1
    }

    /// What finishes a product of so many rows.
    fn epilogue(&mut self, lowered: &Lowered, n_rows: usize) -> Epilogue {
        let args = self.args(lowered);
        let call = KernelCall { kernel: self.kernel(lowered.kernel.clone()), args };
        let block = match (lowered.kernel.sweep, lowered.kernel.dims.len()) {
            (Sweep::Column, 2) => n_rows.max(1),
            (Sweep::Column, _) => lowered.kernel.reduced_extent(),
            _ => 1,
        };
        let left = n_rows % block;
        let last = (left > 0).then(|| {
            let kernel = self.kernel(lowered.kernel.last_block(left));
            KernelCall { kernel, args: call.args.clone() }
        });
        Epilogue { call, block, last }
    }

    /// Writes a step down; `reads` are the nodes whose memory it reads, `values` those whose values it completes.
    fn push(
        &mut self,
        step: Step,
        node: NodeId,
        reads: impl IntoIterator<Item = NodeId>,
        values: impl IntoIterator<Item = NodeId>,
    ) {
        let values: Vec<NodeId> = values.into_iter().collect();
        let values = values.into_iter().map(|n| (n, self.node_buffer(n))).collect();
        self.step_values.push(values);
        let mut old: Vec<BufferId> = Vec::new();
        for read in reads {
            if self.graph.node(read).is_stored() {
                old.push(self.node_buffer(read));
            }
        }
        old.sort_unstable();
        old.dedup();
        self.old_reads.push(old);
        self.steps.push(step);
        self.step_nodes.push(node);
    }

    fn push_kernel(&mut self, lowered: Lowered, node: NodeId, is_last: bool) {
        let args = self.args(&lowered);
        // A kernel of several that fill one buffer (`concat`) completes it only as the last one.
        // Nor does one that makes a part of it where it is joined.
        let completes = |&made: &NodeId| is_last && (made == node || self.clusters.of[made.index()].is_some());
        let values: Vec<NodeId> = writes_of(&lowered).filter(completes).collect();
        let reads: Vec<NodeId> = reads_of(&lowered).collect();
        let call = KernelCall { kernel: self.kernel(lowered.kernel), args };
        self.push(Step::Kernel(call), node, reads, values);
    }

    pub(super) fn build(
        mut self,
        units: Vec<Unit>,
        order: &[usize],
        (updates, copied): (&[Vec<(NodeId, NodeId)>], &Copied),
        is_body: bool,
    ) -> Plan {
        // Inputs keep their buffers even if nothing reads them, so that a step accepts what the program declares.
        for (id, _) in self.graph.inputs() {
            self.node_buffer(id);
        }
        if is_body {
            // Nor do carries that the body leaves alone, so that the loop hands them on.
            for (id, _) in self.graph.states() {
                self.node_buffer(id);
            }
        }
        // Values that are written straight to a parameter or state.
        let mut in_place: HashMap<NodeId, NodeId> = HashMap::new();
        for &(target, value) in updates.iter().flatten() {
            if !copied.contains_key(&target) {
                in_place.insert(value, target);
                let buffer = self.node_buffer(target);
                self.of_node.insert(value, buffer);
            }
        }
        let mut kept: HashMap<NodeId, BufferId> = HashMap::new();
        // Each unit once: its kernels go into the plan, for there may be very many.
        let mut units: Vec<Option<Unit>> = units.into_iter().map(Some).collect();
        for unit in order.iter().filter_map(|&i| units[i].take()) {
            self.emit(unit, &mut kept);
        }
        let mut updated: Vec<BufferId> = Vec::new();
        for output in self.graph.outputs() {
            let Role::Update(target) = output.role else { continue };
            if output.value == target {
                continue;
            }
            let to = self.node_buffer(target);
            updated.push(to);
            if in_place.get(&output.value) == Some(&target) {
                continue;
            }
            let from = kept.get(&output.value).copied().unwrap_or_else(|| self.node_buffer(output.value));
            let reason = copied.get(&target).copied().unwrap_or("the new value is used elsewhere");
            self.push(Step::Copy { from, to, reason }, target, [], []);
        }
        let mut outputs = Vec::new();
        for output in self.graph.outputs().iter().filter(|o| o.role == Role::Result) {
            let memory = memory_of(self.graph, output);
            let buffer = kept.get(&memory).copied().unwrap_or_else(|| self.node_buffer(memory));
            outputs.push(PlanOutput { name: output.name.clone(), buffer, ty: self.graph.ty(output.value).clone() });
        }
        let mut plan = Plan {
            steps: self.steps,
            old_reads: self.old_reads,
            forced: Vec::new(),
            kernels: self.kernels,
            buffers: self.buffers,
            outputs,
            updated,
            arena_bytes: 0,
            edges: Vec::new(),
            clusters: Vec::new(),
            step_nodes: self.step_nodes,
            step_values: self.step_values,
        };
        if is_body {
            repeat::hand_out(&mut plan);
        }
        arena::place(&mut plan);
        plan
    }

    fn emit(&mut self, unit: Unit, kept: &mut HashMap<NodeId, BufferId>) {
        match &unit.work {
            Work::Cluster(index) => match self.clusters.clusters[*index].product {
                None => {
                    for lowered in unit.lowered {
                        self.push_kernel(lowered, unit.order, true);
                    }
                }
                Some(product) => self.emit_product(unit, product),
            },
            &Work::Opaque(id) => self.emit_opaque(unit, id),
            Work::Check { node, values: read, what } => {
                let origin = self.graph.node(*node).origin.clone();
                let values = self.node_buffer(*read);
                let op = self.graph.node(*node).op;
                self.push(Step::Check { values, what: *what, op, origin }, *node, [*read], []);
            }
            Work::Keep(id) => {
                let from = self.node_buffer(*id);
                let ty = self.graph.ty(*id).clone();
                let name = format!("{} (kept)", self.buffers[from.index()].name);
                let to = self.arena(name, &ty);
                kept.insert(*id, to);
                let reason = "its value at the start of the step is asked for";
                self.push(Step::Copy { from, to, reason }, *id, [*id], []);
            }
        }
    }

    fn emit_product(&mut self, unit: Unit, product: NodeId) {
        let ty = self.graph.ty(product).clone();
        let Some(operands) = unit.factors else { return };
        let finish = unit.lowered.first();
        let reads = operands.bases().into_iter().chain(finish.into_iter().flat_map(reads_of));
        let factors = self.factors(operands);
        let dims = factors.dims();
        // If nobody else reads the product itself, its tiles are made in the memory of one of the epilogue's results.
        if !self.clusters.needed[product.index()] && !self.of_node.contains_key(&product) {
            let result = unit.writes.iter().copied().find(|&w| {
                w != product
                    && self.graph.ty(w) == &ty
                    && self.of_node.get(&w).is_none_or(|b| matches!(self.buffers[b.index()].home, Home::Arena { .. }))
            });
            if let Some(result) = result {
                let buffer = self.node_buffer(result);
                self.of_node.insert(product, buffer);
            }
        }
        let c = self.node_buffer(product);
        let epilogue = finish.map(|l| self.epilogue(l, dims.batch * dims.m));
        let own = (self.clusters.needed[product.index()] || unit.lowered.is_empty()).then_some(product);
        let values = own.into_iter().chain(finish.into_iter().flat_map(writes_of));
        self.push(Step::Product { factors, dtype: ty.dtype(), c, epilogue }, product, reads, values);
        for lowered in unit.lowered.into_iter().skip(1) {
            self.push_kernel(lowered, unit.order, true);
        }
    }

    /// What a product multiplies, with its memory.
    fn factors(&mut self, operands: Operands) -> Factors {
        match operands {
            Operands::Matrices(dims, [a, b]) => {
                let mut view = |o: Operand| MatrixView {
                    buffer: self.node_buffer(o.base),
                    offset: o.offset,
                    batch_stride: o.batch_stride,
                    row_stride: o.row_stride,
                    col_stride: o.col_stride,
                };
                Factors::Matrices { dims, a: view(a), b: view(b) }
            }
            Operands::Conv(conv, direction, [a, b]) => {
                let mut piece = |(base, offset)| Piece { buffer: self.node_buffer(base), offset };
                Factors::Conv { conv, direction, a: piece(a), b: piece(b) }
            }
        }
    }

    fn emit_opaque(&mut self, unit: Unit, id: NodeId) {
        let node = self.graph.node(id);
        match &node.op.lower {
            Lower::Step(_) => {
                let operand =
                    |(&base, input): (&NodeId, &NodeId)| (self.node_buffer(base), self.graph.ty(*input).clone());
                let operands = unit.reads.iter().zip(&node.inputs).map(operand).collect();
                let (out, attrs, ty) = (self.node_buffer(id), node.attrs.clone(), node.ty.clone());
                let step = OpStep { op: node.op, attrs, operands, out, ty };
                self.push(Step::Op(step), id, unit.reads.iter().copied(), [id]);
            }
            Lower::Loop => self.emit_loop(unit, id),
            _ => {
                let n = unit.lowered.len();
                for (k, lowered) in unit.lowered.into_iter().enumerate() {
                    self.push_kernel(lowered, id, k + 1 == n);
                }
                if n == 0 {
                    // Those that made its parts where they are joined have made it.
                    let buffer = self.node_buffer(id);
                    let makes = |step: &Step| matches!(step, Step::Kernel(call) if call.args.contains(&buffer));
                    if let Some(last) = self.steps.iter().rposition(makes) {
                        self.step_values[last].push((id, buffer));
                    }
                }
            }
        }
    }
}

impl Builder<'_> {
    fn emit_loop(&mut self, unit: Unit, id: NodeId) {
        let (Some(scan), Some(body)) = (self.graph.scan(self.graph.node(id)), self.bodies.get(&id)) else { return };
        let body = Arc::clone(body);
        let Type::Tuple(results) = &self.graph.node(id).ty else { return };
        let of_body = |name: Option<&str>| {
            let named = |decl: &BufferDecl| matches!(decl.home, Home::Input | Home::State) && Some(&*decl.name) == name;
            body.buffers.iter().position(named).map(|k| BufferId(k as u32))
        };
        let items: HashMap<usize, NodeId> =
            unit.writes.iter().map(|&item| (self.graph.node(item).attrs.size("index"), item)).collect();
        let mut places = Vec::with_capacity(results.len());
        for (k, ty) in results.iter().enumerate() {
            places.push(match items.get(&k) {
                Some(&item) => self.node_buffer(item),
                None => self.arena(format!("{id} result {k}, which nobody reads"), ty),
            });
        }
        let (mut carries, mut inputs) = (Vec::new(), Vec::new());
        for (k, ((_, input), &(base, offset))) in scan.body.inputs().zip(&unit.places).enumerate() {
            // What the body does not read it has no buffer for.
            let Some(to) = of_body(input.name()) else { continue };
            let buffer = self.node_buffer(base);
            if k < scan.n_carries {
                carries.push(Carry { start: Piece { buffer, offset }, end: places[k], state: to });
            } else {
                let moves = k < scan.n_carries + scan.n_slices;
                inputs.push(Given { from: Piece { buffer, offset }, to, moves });
            }
        }
        let outputs = places.split_off(scan.n_carries);
        let frame = Type::tensor(DType::U8, [body.arena_bytes]);
        let frame = self.arena(format!("{id} memory of the body"), &frame);
        let origin = self.graph.node(id).origin.clone();
        let step = LoopStep { body, n: scan.n, reverse: scan.reverse, carries, inputs, outputs, frame, origin };
        self.push(Step::Loop(step), id, unit.reads.iter().copied(), unit.writes.iter().copied());
    }
}

/// The nodes whose memory a kernel writes.
fn writes_of(lowered: &Lowered) -> impl Iterator<Item = NodeId> {
    let args = lowered.kernel.args.iter().zip(&lowered.args);
    args.filter_map(|(arg, reference)| match reference {
        ArgRef::Node(node) if arg.written => Some(*node),
        _ => None,
    })
}

/// The nodes whose memory a kernel reads.
fn reads_of(lowered: &Lowered) -> impl Iterator<Item = NodeId> {
    let args = lowered.kernel.args.iter().zip(&lowered.args);
    args.filter_map(|(arg, reference)| match reference {
        ArgRef::Node(node) if arg.read => Some(*node),
        _ => None,
    })
}

//! Kernel IR: loop nests over scalar bodies.
//!
//! A [`Kernel`] has loop dims, outermost first; the last one is the *inner* dim, which code generators vectorize.
//! What the dims mean is the kernel's [`Sweep`]:
//!
//! | sweep | dims | reductions | work unit |
//! |---|---|---|---|
//! | `Elementwise` | `[rows.., inner]` | none | any rectangle of rows × inner |
//! | `Row` | `[rows.., inner]` | over inner | whole rows |
//! | `Column` | `[rows.., reduced, inner]` | over reduced, for each inner element | a range of inner, for a row |
//!
//! For each work unit the [`Phase`]s run in order while the data is in cache. A `Full` phase sweeps all elements of the
//! unit; a `Reduced` phase runs once per row (`Row`) or once per inner element (`Column`). Results of reductions are
//! inputs of later phases. A phase may read what an earlier phase of the same unit stored to the same element.
//!
//! A `Row` kernel may also reduce along its columns: an [`Input::Carried`] is what the same phase stored one row earlier, so
//! a body that combines it with a value and stores it back accumulates. Rows then come in blocks (`[blocks, rows, inner]`),
//! each of which starts afresh and is one work unit; another kernel combines the blocks.
//!
//! The order of every reduction is fixed by its extent alone ([`cotangent_scalar::order`]), never by the code generator.
//!
//! What is *code* (bodies, dtypes, how the inner stride looks) and what is *data* (extents, strides, offsets, pointers)
//! is kept apart: kernels with equal [`CodeKey`]s share machine code and differ in their [`Kernel::layout`].

use std::collections::HashMap;
use std::fmt;

use cotangent_scalar::order::COLUMN_BLOCK;
use cotangent_scalar::{DType, ReduceOp, ScalarBody, ValueId};
use smallvec::SmallVec;

/// What the loops of a kernel mean; see the module's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sweep {
    /// No reductions.
    Elementwise,
    /// Reductions over the inner dim.
    Row,
    /// Reductions over the dim before the inner one.
    Column,
}

/// Where an element of an argument lies: `offset + Σ index[dim] · strides[dim]`, in elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IndexMap {
    /// Element offset of index 0.
    pub offset: i64,
    /// One stride per kernel dim; 0 repeats the element along that dim.
    pub strides: SmallVec<[i64; 4]>,
}

/// An axis of an access whose index is held inside of it, for loops that reach beyond: the border around a tensor, and windows
/// that are not there. It adds `stride · min(max(index, 0), last)`, in elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Clamp {
    /// The index along the axis: stride 0 along the inner dim.
    pub map: IndexMap,
    /// The last index of the axis.
    pub last: i64,
    /// From one index to the next.
    pub stride: i64,
}

/// The number of an argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ArgId(pub u32);

/// A buffer that a kernel touches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Arg {
    /// Element type.
    pub dtype: DType,
    /// Whether the kernel loads from it what it has not stored there before ([`Kernel::loads_own`]).
    pub read: bool,
    /// Whether the kernel stores to it.
    pub written: bool,
}

/// Where an input of a phase's body comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// An element of an argument.
    Load {
        /// The argument.
        arg: ArgId,
        /// The element.
        map: IndexMap,
    },
    /// An element of an argument, the indices of some of whose axes are held inside. Only in `Elementwise` kernels; whether what
    /// was loaded is meant is for the body to decide, by indices of its own.
    Clamped {
        /// The argument.
        arg: ArgId,
        /// The element without those axes.
        map: IndexMap,
        /// These axes.
        clamps: Vec<Clamp>,
    },
    /// The integer that the map computes (an index, not memory), as `I32` (wrapping) or `I64`.
    Index {
        /// The linear form.
        map: IndexMap,
        /// `I32` or `I64`.
        dtype: DType,
    },
    /// The result of the numbered reduction of an earlier phase.
    Reduced(u32),
    /// What this phase stored at the same place of the argument along the previous row of the block; in a block's first row
    /// the value with these bits. What the argument held before is never read, and nothing else touches it.
    Carried {
        /// The argument.
        arg: ArgId,
        /// The element: stride 1 along inner, 0 along the rows of a block; blocks lie apart.
        map: IndexMap,
        /// What a block starts from.
        start: u64,
    },
}

impl Input {
    /// The map of an access or index.
    pub fn map(&self) -> Option<&IndexMap> {
        match self {
            Input::Load { map, .. }
            | Input::Clamped { map, .. }
            | Input::Index { map, .. }
            | Input::Carried { map, .. } => Some(map),
            Input::Reduced(_) => None,
        }
    }

    /// The same, to be changed.
    pub fn map_mut(&mut self) -> Option<&mut IndexMap> {
        match self {
            Input::Load { map, .. }
            | Input::Clamped { map, .. }
            | Input::Index { map, .. }
            | Input::Carried { map, .. } => Some(map),
            Input::Reduced(_) => None,
        }
    }

    /// The axes whose indices are held inside.
    pub fn clamps(&self) -> &[Clamp] {
        if let Input::Clamped { clamps, .. } = self { clamps } else { &[] }
    }

    /// The same, to be changed.
    pub fn clamps_mut(&mut self) -> &mut [Clamp] {
        if let Input::Clamped { clamps, .. } = self { clamps } else { &mut [] }
    }

    /// The argument and element of an access to memory.
    pub fn access(&self) -> Option<(ArgId, &IndexMap)> {
        match self {
            Input::Load { arg, map } | Input::Clamped { arg, map, .. } | Input::Carried { arg, map, .. } => {
                Some((*arg, map))
            }
            Input::Index { .. } | Input::Reduced(_) => None,
        }
    }

    /// The argument of an access to memory, to be changed.
    pub fn arg_mut(&mut self) -> Option<&mut ArgId> {
        match self {
            Input::Load { arg, .. } | Input::Clamped { arg, .. } | Input::Carried { arg, .. } => Some(arg),
            Input::Index { .. } | Input::Reduced(_) => None,
        }
    }
}

/// A store of a body's value, for every element of the phase's space.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Store {
    /// The value.
    pub value: ValueId,
    /// The argument written.
    pub arg: ArgId,
    /// The element written; no two elements of the space, and no two stores, may be at the same place, unless it belongs to the row
    /// under way.
    pub map: IndexMap,
    /// Whether it had better go past the caches: nobody reads it before it would have left them. Only a hint.
    pub stream: bool,
}

/// A reduction of a body's value over the swept dim; its result is input `Reduced(slot)` of later phases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reduce {
    /// The value reduced.
    pub value: ValueId,
    /// How.
    pub op: ReduceOp,
    /// The number of the result, unique in the kernel.
    pub slot: u32,
    /// Down a column: one chain over all elements, not block by block. So are results of blocks combined. All reductions of a phase
    /// agree in this.
    pub chain: bool,
}

/// What a phase runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// Every element.
    Full,
    /// Once per row (`Row` sweep) or per inner element (`Column` sweep), after the phases before it.
    Reduced,
}

/// One pass over a work unit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Phase {
    /// What it runs over. `Reduced` phases have no reductions.
    pub space: Space,
    /// The scalar program.
    pub body: ScalarBody,
    /// What `ScalarOp::Input(k)` is, by `k`.
    pub inputs: Vec<Input>,
    /// What is written.
    pub stores: Vec<Store>,
    /// What is reduced.
    pub reduces: Vec<Reduce>,
}

impl Phase {
    /// Down a column: steps that are reduced from the identity before their result is combined with the others'.
    pub fn block(&self) -> usize {
        // More steps than a column has.
        const ALL: usize = 1 << 30;
        if self.reduces.iter().any(|reduce| reduce.chain) { ALL } else { COLUMN_BLOCK }
    }
}

/// A fused loop nest. See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// A readable name, made from the ops inside; not part of the identity.
    pub name: String,
    /// What the loops mean.
    pub sweep: Sweep,
    /// Extents, outermost first, at least one (two for `Column`).
    pub dims: SmallVec<[usize; 4]>,
    /// Number of elements in all. Less than the product of `dims` only for `Row` kernels: with one outer dim that cuts a
    /// flat range into rows, where the last row is shorter (the inner extent of row `r` is `min(inner, total - r·inner)`);
    /// and with rows in blocks, where the last block has fewer rows.
    pub total: usize,
    /// The buffers, in the order in which pointers are passed.
    pub args: Vec<Arg>,
    /// What is done, in order.
    pub phases: Vec<Phase>,
}

/// How an access moves along a dim that code is specialized on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stride {
    /// The same element all along.
    Zero,
    /// Neighbouring elements.
    One,
    /// Anything else; a run-time value.
    Any,
}

impl Stride {
    /// The class of a stride.
    pub fn of(stride: i64) -> Self {
        match stride {
            0 => Stride::Zero,
            1 => Stride::One,
            _ => Stride::Any,
        }
    }
}

/// Everything that generated code depends on. Kernels with equal keys share code.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CodeKey {
    sweep: Sweep,
    n_dims: usize,
    args: Vec<Arg>,
    phases: Vec<PhaseKey>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum InputKey {
    Load(ArgId, AccessKey),
    Clamped(ArgId, AccessKey, SmallVec<[ClampKey; 2]>),
    Index(DType, AccessKey),
    Reduced(u32),
    Carried(ArgId, AccessKey, u64),
}

type PhaseKey = (Space, ScalarBody, Vec<InputKey>, Vec<StoreKey>, Vec<Reduce>);

type StoreKey = (ValueId, ArgId, AccessKey, bool);

/// The classes of the strides along the inner dim, for `Column` sweeps the reduced one, and the last row dim.
type AccessKey = (Stride, Stride, Stride);

/// The number of the first clamp that is equal, and the class of its stride along the last row dim.
type ClampKey = (usize, Stride);

impl Kernel {
    /// The inner extent.
    pub fn inner(&self) -> usize {
        self.dims[self.dims.len() - 1]
    }

    /// The number of dims that make up rows: all but the inner one and, for `Column`, the reduced one.
    pub fn n_row_dims(&self) -> usize {
        self.dims.len() - if self.sweep == Sweep::Column { 2 } else { 1 }
    }

    /// The number of rows: the product of the row dims (1 if there are none), or less if the last block has fewer.
    pub fn n_rows(&self) -> usize {
        match self.is_carried() {
            true => self.total / self.inner().max(1),
            false => self.dims[..self.n_row_dims()].iter().product(),
        }
    }

    /// Whether rows carry values to the next ones of their block.
    pub fn is_carried(&self) -> bool {
        let carried = |input: &Input| matches!(input, Input::Carried { .. });
        self.sweep == Sweep::Row && self.dims.len() == 3 && self.phases.iter().flat_map(|p| &p.inputs).any(carried)
    }

    /// The rows of a work unit: those of a block if they carry values, otherwise 1.
    pub fn block(&self) -> usize {
        if self.is_carried() { self.dims[self.n_row_dims() - 1] } else { 1 }
    }

    /// The extent that reductions run over (for `Row`, of a row that is not cut short).
    pub fn reduced_extent(&self) -> usize {
        match self.sweep {
            Sweep::Elementwise => 1,
            Sweep::Row => self.inner(),
            Sweep::Column => self.dims[self.dims.len() - 2],
        }
    }

    /// The inner extent of a row: `inner`, or what is left of `total` for the last row of a flat range.
    pub fn inner_of_row(&self, row: usize) -> usize {
        match self.sweep {
            Sweep::Row => self.inner().min(self.total.saturating_sub(row * self.inner())),
            _ => self.inner(),
        }
    }

    /// All accesses in the order of [`Kernel::layout`]: for each phase its loads and indices, then its stores.
    pub fn accesses(&self) -> impl Iterator<Item = &IndexMap> {
        self.phases.iter().flat_map(|phase| {
            phase.inputs.iter().filter_map(Input::map).chain(phase.stores.iter().map(|store| &store.map))
        })
    }

    /// The run-time integers that generated code reads: `total`, the extents of all dims, then for each access (in the
    /// order of [`Kernel::accesses`]) its offset and its strides, one per dim; behind those of an input come its clamps, each
    /// with offset and strides of its index, its last index, and its stride.
    pub fn layout(&self) -> Vec<i64> {
        let mut layout = vec![self.total as i64];
        layout.extend(self.dims.iter().map(|&d| d as i64));
        let put = |layout: &mut Vec<i64>, map: &IndexMap| {
            layout.push(map.offset);
            layout.extend(&map.strides);
        };
        for phase in &self.phases {
            for input in &phase.inputs {
                input.map().into_iter().for_each(|map| put(&mut layout, map));
                for clamp in input.clamps() {
                    put(&mut layout, &clamp.map);
                    layout.extend([clamp.last, clamp.stride]);
                }
            }
            phase.stores.iter().for_each(|store| put(&mut layout, &store.map));
        }
        layout
    }

    /// Whether an access moves from one row to the next, along the last row dim.
    pub fn moves_by_row(&self, map: &IndexMap) -> bool {
        self.n_row_dims().checked_sub(1).is_none_or(|last| map.strides[last] != 0)
    }

    /// For each clamp, in the order of [`Kernel::layout`], the number of the first one that is equal, of an operand with elements
    /// as large: code computes only that.
    pub fn first_clamps(&self) -> Vec<usize> {
        let mut known: HashMap<(&Clamp, usize), usize> = HashMap::new();
        let inputs = self.phases.iter().flat_map(|phase| &phase.inputs);
        let clamps = inputs.flat_map(|input| {
            let size = input.access().map_or(1, |(arg, _)| self.args[arg.0 as usize].dtype.size_bytes());
            input.clamps().iter().map(move |clamp| (clamp, size))
        });
        clamps.enumerate().map(|(number, clamp)| *known.entry(clamp).or_insert(number)).collect()
    }

    /// For a `Column` kernel whose outer dim counts blocks of rows: the kernel of one more block, of `rows` rows only, that
    /// follows those. It shares this one's code.
    pub fn last_block(&self, rows: usize) -> Kernel {
        let mut kernel = self.clone();
        let n_blocks = std::mem::replace(&mut kernel.dims[0], 1);
        kernel.dims[1] = rows;
        kernel.total = kernel.dims.iter().product();
        for phase in &mut kernel.phases {
            let inputs = phase.inputs.iter_mut().filter_map(Input::map_mut);
            for map in inputs.chain(phase.stores.iter_mut().map(|store| &mut store.map)) {
                map.offset += n_blocks as i64 * map.strides[0];
            }
        }
        kernel
    }

    /// The identity of this kernel's code.
    pub fn code_key(&self) -> CodeKey {
        let class = |map: &IndexMap| {
            let n = self.dims.len();
            let moves = |by: bool| if by { Stride::Any } else { Stride::Zero };
            let steps = self.sweep != Sweep::Column || map.strides[n - 2] != 0;
            (Stride::of(map.strides[n - 1]), moves(steps), moves(self.moves_by_row(map)))
        };
        let mut firsts = self.first_clamps().into_iter();
        let phases = self.phases.iter().map(|phase| {
            let inputs = phase.inputs.iter().map(|input| match input {
                Input::Load { arg, map } => InputKey::Load(*arg, class(map)),
                Input::Clamped { arg, map, clamps } => {
                    let keys = clamps.iter().zip(&mut firsts).map(|(clamp, first)| (first, class(&clamp.map).2));
                    InputKey::Clamped(*arg, class(map), keys.collect())
                }
                Input::Index { map, dtype } => InputKey::Index(*dtype, class(map)),
                Input::Reduced(slot) => InputKey::Reduced(*slot),
                Input::Carried { arg, map, start } => InputKey::Carried(*arg, class(map), *start),
            });
            let stores = phase.stores.iter().map(|s| (s.value, s.arg, class(&s.map), s.stream));
            (phase.space, phase.body.clone(), inputs.collect(), stores.collect(), phase.reduces.clone())
        });
        CodeKey { sweep: self.sweep, n_dims: self.dims.len(), args: self.args.clone(), phases: phases.collect() }
    }

    /// Whether what a phase loads from an argument is what an earlier phase stored to the same element.
    pub fn loads_own(&self, phase: usize, arg: ArgId, map: &IndexMap) -> bool {
        let space = self.phases[phase].space;
        self.phases[..phase].iter().any(|earlier| {
            let stores = |s: &Store| s.arg == arg && s.map == *map;
            (earlier.space == space || earlier.space == Space::Reduced) && earlier.stores.iter().any(stores)
        })
    }

    /// The type of a body input of a phase.
    pub fn input_dtype(&self, phase: &Phase, number: usize) -> DType {
        match &phase.inputs[number] {
            Input::Load { arg, .. } | Input::Clamped { arg, .. } | Input::Carried { arg, .. } => {
                self.args[arg.0 as usize].dtype
            }
            Input::Index { dtype, .. } => *dtype,
            Input::Reduced(slot) => self.reduced_dtype(*slot).unwrap_or(DType::F32),
        }
    }

    /// The type of the numbered reduction's result.
    pub fn reduced_dtype(&self, slot: u32) -> Option<DType> {
        self.phases.iter().find_map(|p| {
            let reduce = p.reduces.iter().find(|r| r.slot == slot)?;
            Some(p.body.insts().get(reduce.value.index())?.dtype)
        })
    }

    /// Number of reductions in all phases.
    pub fn n_reduces(&self) -> usize {
        self.phases.iter().map(|p| p.reduces.len()).sum()
    }

    /// Whether there are no elements to store: however many rows there are, a call does nothing.
    pub fn stores_nothing(&self) -> bool {
        self.total == 0 && self.phases.iter().all(|phase| phase.space == Space::Full || phase.stores.is_empty())
    }

    /// Scalar operations per element of the full space, over all phases.
    pub fn n_ops(&self) -> usize {
        self.phases.iter().filter(|p| p.space == Space::Full).map(|p| p.body.n_ops() + p.reduces.len()).sum()
    }
}

impl fmt::Display for IndexMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:?}", self.offset, self.strides.as_slice())
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sweep = match self.sweep {
            Sweep::Elementwise => "elementwise",
            Sweep::Row => "row",
            Sweep::Column => "column",
        };
        writeln!(f, "kernel {} {sweep} dims={:?} total={}", self.name, self.dims.as_slice(), self.total)?;
        for (i, arg) in self.args.iter().enumerate() {
            let access = match (arg.read, arg.written) {
                (true, true) => "inout",
                (_, true) => "out",
                _ => "in",
            };
            writeln!(f, "  arg {i} {access} {}", arg.dtype)?;
        }
        for phase in &self.phases {
            let space = if phase.space == Space::Full { "full" } else { "reduced" };
            writeln!(f, "  phase {space}")?;
            for (k, input) in phase.inputs.iter().enumerate() {
                match input {
                    Input::Load { arg, map } => writeln!(f, "    input {k} = arg {} [{map}]", arg.0)?,
                    Input::Clamped { arg, map, clamps } => {
                        write!(f, "    input {k} = arg {} [{map}", arg.0)?;
                        for Clamp { map, last, stride } in clamps {
                            write!(f, "; [{map}] within 0..={last} by {stride}")?;
                        }
                        writeln!(f, "]")?;
                    }
                    Input::Index { map, dtype } => writeln!(f, "    input {k} = index {dtype} [{map}]")?,
                    Input::Reduced(slot) => writeln!(f, "    input {k} = reduced {slot}")?,
                    Input::Carried { arg, map, start } => {
                        writeln!(f, "    input {k} = carried arg {} [{map}] from {start:#x}", arg.0)?;
                    }
                }
            }
            for line in phase.body.to_string().lines() {
                writeln!(f, "    {line}")?;
            }
            for r in &phase.reduces {
                writeln!(
                    f,
                    "    reduced {} = {}{} {}",
                    r.slot,
                    r.op.name(),
                    if r.chain { " in one chain" } else { "" },
                    r.value
                )?;
            }
            for s in &phase.stores {
                let past = if s.stream { ", past the caches" } else { "" };
                writeln!(f, "    arg {} [{}] = {}{past}", s.arg.0, s.map, s.value)?;
            }
        }
        Ok(())
    }
}

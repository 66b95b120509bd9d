//! The plan: steps in order, buffers with lifetimes and places.
//!
//! A plan is complete and static: [`Step`]s say what they read and write, [`BufferDecl`]s where the bytes live. The plan
//! verifier ([`crate::verify_plan()`]) checks it; the executor only follows it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use cotangent_graph::eval::checked_indices;
use cotangent_graph::{Attrs, DType, Lower, NodeId, OpRef, Origin, StepCx, StepOp, TensorData, Type};
use cotangent_scalar::{Conv, ConvAxis, Direction};

use crate::cluster::Edge;
use crate::ir::Kernel;
use crate::repeat::LoopStep;

/// A buffer of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u32);

impl BufferId {
    /// The index into [`Plan::buffers`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where the bytes of a buffer live.
#[derive(Clone, Debug, PartialEq)]
pub enum Home {
    /// Handed in at every step.
    Input,
    /// In the store: trained.
    Param,
    /// In the store: carried.
    State,
    /// Part of the program.
    Const(Arc<TensorData>),
    /// The three i32 words that random numbers depend on: low and high half of the seed, and the step.
    Counters,
    /// In the session's arena.
    Arena {
        /// Bytes from its start.
        offset: usize,
    },
    /// Of a loop's body: where the loop says, anew for each iteration.
    Output,
    /// Nowhere as a whole: each thread keeps what is under way. So does a product with a result that only its epilogue reads
    /// (the rows being finished), and a kernel with values that it needs in several sweeps over a row (one row).
    Rows,
}

/// A buffer: its type, place and lifetime.
#[derive(Clone, Debug)]
pub struct BufferDecl {
    /// A readable name; that of the source for inputs, parameters and states.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Number of elements.
    pub n_elements: usize,
    /// Where it lives.
    pub home: Home,
    /// First and one past the last step that touches it.
    pub live: Range<usize>,
}

impl BufferDecl {
    /// Size in bytes; the largest number if it does not fit one.
    pub fn n_bytes(&self) -> usize {
        self.n_elements.saturating_mul(self.dtype.size_bytes())
    }
}

/// A matrix in a buffer, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixView {
    /// The buffer.
    pub buffer: BufferId,
    /// Element offset of the first matrix.
    pub offset: i64,
    /// From one matrix of the batch to the next; 0 repeats it.
    pub batch_stride: i64,
    /// From one row to the next, as multiplied (after transposition).
    pub row_stride: i64,
    /// From one column to the next.
    pub col_stride: i64,
}

/// Extents of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GemmDims {
    /// Number of products.
    pub batch: usize,
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Length of each chain; of a convolution the longest there may be.
    pub k: usize,
}

/// A whole tensor in a buffer, row-major without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The buffer.
    pub buffer: BufferId,
    /// Its first element there.
    pub offset: usize,
}

/// What a product multiplies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Factors {
    /// Two matrices, or two batches of them.
    Matrices {
        /// Extents.
        dims: GemmDims,
        /// Left operand.
        a: MatrixView,
        /// Right operand.
        b: MatrixView,
    },
    /// The operands of a convolution or one of its adjoints.
    Conv {
        /// The geometry.
        conv: Conv,
        /// Which of the three sums.
        direction: Direction,
        /// First operand.
        a: Piece,
        /// Second operand.
        b: Piece,
    },
}

impl Factors {
    /// Extents of the product: of a convolution as [`Conv::matrix`] says, if it [is one](Conv::is_sound), else all 0.
    pub fn dims(&self) -> GemmDims {
        match self {
            Factors::Matrices { dims, .. } => *dims,
            Factors::Conv { conv, direction, .. } if conv.is_sound() => {
                let [m, n] = conv.matrix(*direction);
                GemmDims { batch: 1, m, n, k: conv.most_terms(*direction) }
            }
            Factors::Conv { .. } => GemmDims { batch: 0, m: 0, n: 0, k: 0 },
        }
    }

    /// The buffers of the operands.
    pub fn buffers(&self) -> [BufferId; 2] {
        match self {
            Factors::Matrices { a, b, .. } => [a.buffer, b.buffer],
            Factors::Conv { a, b, .. } => [a.buffer, b.buffer],
        }
    }

    /// Multiply-adds.
    pub fn multiply_adds(&self) -> usize {
        match self {
            Factors::Matrices { dims: GemmDims { batch, m, n, k }, .. } => {
                [m, n, k].into_iter().fold(*batch, |product, &extent| product.saturating_mul(extent))
            }
            Factors::Conv { conv, .. } => conv.multiply_adds(),
        }
    }
}

impl fmt::Display for Factors {
    /// The extents: `32×784×128` of matrices, rows, terms and columns; of a convolution the operands of the forward one, with its
    /// steps and padding where there are any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (conv, direction) = match self {
            Factors::Matrices { dims: GemmDims { batch, m, n, k }, .. } => {
                let batch = if *batch == 1 { String::new() } else { format!("{batch} × ") };
                return write!(f, "product {batch}{m}×{k}×{n}");
            }
            Factors::Conv { conv, direction, .. } => (conv, direction),
        };
        let each =
            |of: fn(&ConvAxis) -> usize| conv.axes.iter().map(|axis| format!("{}×", of(axis))).collect::<String>();
        let (extents, windows) = (each(|axis| axis.extent), each(|axis| axis.window));
        write!(f, "conv")?;
        if *direction != Direction::Forward {
            write!(f, " {}", direction.name())?;
        }
        write!(f, " {}×{extents}{}", conv.n, conv.groups.saturating_mul(conv.channels))?;
        write!(f, " · {windows}{}×{}", conv.channels, conv.groups.saturating_mul(conv.filters))?;
        let lists = conv.axes.iter().map(|axis| [axis.stride, axis.dilation, axis.low]).collect::<Vec<_>>();
        for (k, (name, usual)) in [("stride", 1), ("dilation", 1), ("low", 0)].into_iter().enumerate() {
            if lists.iter().any(|list| list[k] != usual) {
                let list: Vec<String> = lists.iter().map(|list| list[k].to_string()).collect();
                write!(f, ", {name} {}", list.join("×"))?;
            }
        }
        if conv.groups > 1 { write!(f, ", {} groups", conv.groups) } else { Ok(()) }
    }
}

/// A kernel with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelCall {
    /// The index into [`Plan::kernels`].
    pub kernel: usize,
    /// One buffer for each argument.
    pub args: Vec<BufferId>,
}

/// What finishes a product's rows while they are in cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epilogue {
    /// The kernel. Its inner loop runs over the product's columns.
    pub call: KernelCall,
    /// Rows of the product, counted over the batch, that one row of the kernel stands for: 1, or the rows of a block that is
    /// reduced as a whole. Only whole blocks are finished at a time.
    pub block: usize,
    /// What finishes the rows after the last whole block, on the same arguments.
    pub last: Option<KernelCall>,
}

impl Epilogue {
    /// The calls that finish some rows of the product, with the rows of their kernels. The rows start at a multiple of the
    /// block, and end at one or at the product's last row.
    pub fn calls(&self, rows: Range<usize>) -> impl Iterator<Item = (&KernelCall, Range<usize>)> {
        let block = self.block.max(1);
        let whole = rows.start / block..rows.end / block;
        let last = self.last.as_ref().filter(|_| !rows.end.is_multiple_of(block)).map(|call| (call, 0..1));
        (!whole.is_empty()).then_some((&self.call, whole)).into_iter().chain(last)
    }

    /// All calls.
    fn kernels(&self) -> impl Iterator<Item = &KernelCall> {
        std::iter::once(&self.call).chain(&self.last)
    }
}

/// What a check demands of every element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CheckWhat {
    /// To be an index in `0..` this.
    Below(usize),
    /// To be neither infinite nor NaN.
    Finite,
}

impl CheckWhat {
    /// Whether it is known of a constant, so that nothing is left for the step to check.
    pub(crate) fn holds_of(self, constant: Option<&Arc<TensorData>>) -> bool {
        match (self, constant) {
            (CheckWhat::Below(bound), Some(indices)) => checked_indices("", indices, bound).is_ok(),
            _ => false,
        }
    }
}

/// A node that is not loops, with its memory.
#[derive(Clone, Debug)]
pub struct OpStep {
    /// The op; it lowers as [`Lower::Step`].
    pub op: OpRef,
    /// Its attributes.
    pub attrs: Attrs,
    /// The operands, row-major, and their types.
    pub operands: Vec<(BufferId, Type)>,
    /// The result, row-major.
    pub out: BufferId,
    /// Its type.
    pub ty: Type,
}

impl OpStep {
    /// How the step is done; `None` if the op is done otherwise, which the verifier refuses.
    pub fn how(&self) -> Option<&'static dyn StepOp> {
        match self.op.0.lower {
            Lower::Step(how) => Some(how),
            _ => None,
        }
    }

    /// What the op knows of its node.
    pub fn cx(&self) -> StepCx<'_> {
        StepCx { attrs: &self.attrs, inputs: self.operands.iter().map(|(_, ty)| ty).collect(), ty: &self.ty }
    }

    /// The buffer that the result starts as, if it starts as an operand.
    pub fn start(&self) -> Option<BufferId> {
        self.operands.get(self.how()?.starts_as()?).map(|(id, _)| *id)
    }

    /// The operand in whose memory the result may be made: the one that it starts as, if nothing else is read there.
    pub fn in_place_of(&self) -> Option<BufferId> {
        self.start().filter(|start| self.operands.iter().filter(|(id, _)| id == start).count() == 1)
    }
}

/// One step of a plan.
#[derive(Clone, Debug)]
pub enum Step {
    /// A kernel.
    Kernel(KernelCall),
    /// A product into a contiguous buffer, perhaps with a kernel that finishes its tiles.
    Product {
        /// What is multiplied.
        factors: Factors,
        /// f32 or f64.
        dtype: DType,
        /// The result, row-major.
        c: BufferId,
        /// What finishes the tiles.
        epilogue: Option<Epilogue>,
    },
    /// What is not loops.
    Op(OpStep),
    /// A plan that is followed again and again.
    Loop(LoopStep),
    /// All bytes of one buffer into another.
    Copy {
        /// Read.
        from: BufferId,
        /// Written.
        to: BufferId,
        /// Why a copy is needed.
        reason: &'static str,
    },
    /// Every element must be as demanded, or the step is an error.
    Check {
        /// The elements.
        values: BufferId,
        /// The demand.
        what: CheckWhat,
        /// The op that asks, for the message.
        op: OpRef,
        /// Where it comes from.
        origin: Origin,
    },
}

impl Step {
    /// The kernels that the step calls.
    pub fn calls(&self) -> impl Iterator<Item = &KernelCall> {
        let (alone, epilogue) = match self {
            Step::Kernel(call) => (Some(call), None),
            Step::Product { epilogue, .. } => (None, epilogue.as_ref()),
            _ => (None, None),
        };
        alone.into_iter().chain(epilogue.into_iter().flat_map(Epilogue::kernels))
    }

    /// The buffers read.
    pub fn reads(&self, plan: &Plan) -> Vec<BufferId> {
        let kernel_reads = |call: &KernelCall| -> Vec<BufferId> {
            let args = &plan.kernels[call.kernel].args;
            call.args.iter().zip(args).filter(|(_, a)| a.read).map(|(b, _)| *b).collect()
        };
        match self {
            Step::Kernel(call) => kernel_reads(call),
            Step::Product { factors, epilogue, .. } => {
                let mut reads = factors.buffers().to_vec();
                reads.extend(epilogue.iter().flat_map(Epilogue::kernels).flat_map(kernel_reads));
                reads
            }
            Step::Op(step) => step.operands.iter().map(|(id, _)| *id).collect(),
            Step::Loop(step) => step.reads(),
            Step::Copy { from, .. } => vec![*from],
            Step::Check { values, .. } => vec![*values],
        }
    }

    /// The buffers written.
    pub fn writes(&self, plan: &Plan) -> Vec<BufferId> {
        let kernel_writes = |call: &KernelCall| -> Vec<BufferId> {
            let args = &plan.kernels[call.kernel].args;
            call.args.iter().zip(args).filter(|(_, a)| a.written).map(|(b, _)| *b).collect()
        };
        match self {
            Step::Kernel(call) => kernel_writes(call),
            Step::Product { c, epilogue, .. } => {
                let mut writes = vec![*c];
                // The call for a last block has the same arguments.
                writes.extend(epilogue.iter().flat_map(|epilogue| kernel_writes(&epilogue.call)));
                writes
            }
            Step::Op(step) => vec![step.out],
            Step::Loop(step) => step.writes(),
            Step::Copy { to, .. } => vec![*to],
            Step::Check { .. } => Vec::new(),
        }
    }
}

/// A result handed to the caller.
#[derive(Clone, Debug)]
pub struct PlanOutput {
    /// Its name.
    pub name: Arc<str>,
    /// Where it is after the step.
    pub buffer: BufferId,
    /// Its type.
    pub ty: Type,
}

/// Steps, kernels and buffers: everything that happens in one step of the program.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What happens, in order.
    pub steps: Vec<Step>,
    /// The kernels that steps call.
    pub kernels: Vec<Kernel>,
    /// The buffers.
    pub buffers: Vec<BufferDecl>,
    /// The results.
    pub outputs: Vec<PlanOutput>,
    /// The parameters and states that steps update.
    pub updated: Vec<BufferId>,
    /// Bytes of the arena.
    pub arena_bytes: usize,
    /// The decisions of the clusterer.
    pub edges: Vec<Edge>,
    /// The clusters, for drawing.
    pub clusters: Vec<Vec<NodeId>>,
    /// For each step, the nodes whose values are in memory, whole, once it is done, and where.
    pub step_values: Vec<Vec<(NodeId, BufferId)>>,
    /// For each step, a node it computes, for messages. Steps that make one value together are neighbors with one node.
    pub step_nodes: Vec<NodeId>,
    /// For each step, the parameters and states whose values from before the program's step it reads.
    pub old_reads: Vec<Vec<BufferId>>,
    /// Values that got memory of their own because their readers could not be lowered otherwise, and why.
    pub forced: Vec<(NodeId, &'static str)>,
}

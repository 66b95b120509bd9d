//! Graphs: the IR, its text form and verifier, the ops (one record each), the builder that users and passes write
//! formulas with, and the interpreter that is the oracle of everything else.
#![forbid(unsafe_code)]

pub mod attrs;
pub mod axes;
pub mod builder;
pub mod diag;
pub mod dot;
pub mod eval;
pub mod expand;
pub mod init;
pub mod interp;
pub mod ir;
pub mod limits;
pub mod memory;
pub mod notebook;
pub mod number;
pub mod op;
pub mod ops;
pub mod origin;
pub mod picture;
pub mod reference;
pub mod rng;
pub mod samples;
pub mod step;
pub mod tensor;
pub mod text;
pub mod types;
pub mod verify;
pub mod view;

pub use attrs::{Attr, AttrKind, AttrSpec, Attrs};
pub use axes::{Axes, Axis};
pub use builder::{GraphBuilder, Mode, Tensor, build};
pub use cotangent_scalar::DType;
pub use diag::{Code, CompilerBug, Diag, Diags, Loc};
pub use init::{Init, Real};
pub use interp::{Counters, Env};
pub use ir::{BodyId, Graph, Inputs, Node, NodeId, OpRef, Output, Role};
pub use limits::Limits;
pub use number::Number;
pub use op::{Lower, OpDef, OpTraits, Registry, Source, Vjp};
pub use ops::arithmetic::Operand;
pub use ops::attention::Attention;
pub use ops::region::Body;
pub use origin::Origin;
pub use step::{Elements, ElementsMut, StepCx, StepOp};
pub use tensor::{Element, HostTensor, TensorData};
pub use types::{Shape, Type};
pub use verify::{Stage, verify};

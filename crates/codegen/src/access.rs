//! Addresses, loads and stores of groups of four elements.
//!
//! An [`Access`] is what the code knows of a load, store or index: its argument, types and stride classes. A [`Site`]
//! is where it stands at run time for the current row. Offsets and outer strides are read from the layout where they
//! are needed, so that they occupy no registers inside the inner loops.

use cotangent_kernel::ir::{Clamp, IndexMap, Input, Kernel, Phase, Stride, Sweep};
use cotangent_scalar::DType;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{F32X4, I8X16, I16X8, I32, I32X4, I64, I64X2};
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Value};
use smallvec::{SmallVec, smallvec};

use crate::lanes::{Emitter, GROUP, Lanes, lane_type, n_parts, reinterpret, vector_type};

/// The static side of an access.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    /// The argument, or `None` for an index.
    pub(crate) arg: Option<usize>,
    pub(crate) dtype: DType,
    /// Where the layout holds the offset; the strides follow.
    pub(crate) layout: usize,
    pub(crate) inner: Stride,
    /// Whether it moves along the reduced dim of a `Column` sweep.
    pub(crate) steps: bool,
    /// Whether it moves along the last row dim.
    pub(crate) by_row: bool,
    /// Where the layout holds each of its clamps, and whether that moves along the last row dim.
    pub(crate) clamps: SmallVec<[(usize, bool); 2]>,
}

/// The accesses of a phase.
#[derive(Clone, Debug)]
pub(crate) struct Accesses {
    /// By input number; `None` for results of reductions.
    pub(crate) inputs: Vec<Option<Access>>,
    pub(crate) stores: Vec<Access>,
}

impl Accesses {
    /// The accesses of all phases, in the order of `Kernel::layout`.
    pub(crate) fn of(kernel: &Kernel) -> Vec<Accesses> {
        let n = kernel.dims.len();
        let mut position = 1 + n;
        let mut access = |arg: Option<usize>, dtype: DType, map: &IndexMap, clamps: &[Clamp]| {
            let layout = position;
            position += 1 + n;
            let steps = kernel.sweep == Sweep::Column && map.strides[n - 2] != 0;
            position += clamps.len() * (1 + n + 2);
            let at = |k: usize| layout + (1 + n) + k * (1 + n + 2);
            let clamps = clamps.iter().enumerate().map(|(k, c)| (at(k), kernel.moves_by_row(&c.map))).collect();
            let by_row = kernel.moves_by_row(map);
            Access { arg, dtype, layout, inner: Stride::of(map.strides[n - 1]), steps, by_row, clamps }
        };
        let mut of_phase = |phase: &Phase| {
            let inputs = phase.inputs.iter().map(|input| match input {
                Input::Load { arg, map } | Input::Clamped { arg, map, .. } | Input::Carried { arg, map, .. } => {
                    Some(access(Some(arg.0 as usize), kernel.args[arg.0 as usize].dtype, map, input.clamps()))
                }
                Input::Index { map, dtype } => Some(access(None, *dtype, map, &[])),
                Input::Reduced(_) => None,
            });
            let inputs = inputs.collect();
            let stores = phase.stores.iter();
            let stores = stores
                .map(|s| access(Some(s.arg.0 as usize), kernel.args[s.arg.0 as usize].dtype, &s.map, &[]))
                .collect();
            Accesses { inputs, stores }
        };
        kernel.phases.iter().map(&mut of_phase).collect()
    }
}

/// The run-time side of an access: an address, or for an index the number itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site {
    /// At inner index 0 of the current row and step.
    pub(crate) base: Value,
    /// The inner stride in the unit of `base`, unless the access is at neighboring elements or one alone.
    pub(crate) inner: Option<Value>,
    /// The stride of the reduced dim in the unit of `base`, if the access moves along it.
    pub(crate) step: Option<Value>,
}

/// The sites of a phase.
#[derive(Clone, Debug)]
pub(crate) struct Sites {
    pub(crate) inputs: Vec<Option<Site>>,
    pub(crate) stores: Vec<Site>,
}

/// Which elements a group stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Position {
    /// The one element that does not depend on the inner index.
    Uniform,
    /// Four elements, `group` groups after inner index `j`.
    Group { j: Value, group: usize },
    /// The last `count` (1 to 3) elements from `j`; `clamped` has the indices of lanes 1 to 3, at most the last one.
    Partial { j: Value, count: Value, clamped: [Value; 3] },
}

/// Memory accesses neither trap nor are they aligned.
pub(crate) fn plain() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}

impl Emitter<'_> {
    /// The address of element `index` from a base, for neighboring elements of `size` bytes.
    fn element(&mut self, base: Value, index: Value, size: usize) -> Value {
        let bytes = match size.trailing_zeros() {
            0 => index,
            shift => self.b.ins().ishl_imm_s(index, i64::from(shift)),
        };
        self.b.ins().iadd(base, bytes)
    }

    /// The address (or number) at inner index `j`.
    fn locate(&mut self, access: &Access, site: Site, j: Value) -> Value {
        match site.inner {
            None if access.inner == Stride::Zero => site.base,
            None => self.element(site.base, j, access.arg.map_or(1, |_| access.dtype.size_bytes())),
            Some(stride) => {
                let distance = self.b.ins().imul(j, stride);
                self.b.ins().iadd(site.base, distance)
            }
        }
    }

    /// The addresses (or numbers) of the four lanes of a position, for accesses that are not at neighbors.
    fn locate_lanes(&mut self, access: &Access, site: Site, position: Position) -> [Value; GROUP] {
        match position {
            Position::Uniform => [site.base; GROUP],
            Position::Group { j, group } => {
                let j = self.b.ins().iadd_imm_s(j, (GROUP * group) as i64);
                let first = self.locate(access, site, j);
                let unit = access.arg.map_or(1, |_| access.dtype.size_bytes());
                let mut lanes = [first; GROUP];
                for lane in 1..GROUP {
                    lanes[lane] = match site.inner {
                        Some(stride) => self.b.ins().iadd(lanes[lane - 1], stride),
                        None if access.inner == Stride::Zero => first,
                        None => self.b.ins().iadd_imm_s(lanes[lane - 1], unit as i64),
                    };
                }
                lanes
            }
            Position::Partial { j, clamped, .. } => {
                let first = self.locate(access, site, j);
                let others = clamped.map(|index| self.locate(access, site, index));
                [first, others[0], others[1], others[2]]
            }
        }
    }

    /// The group of elements of a load or an index.
    pub(crate) fn load(&mut self, access: &Access, site: Site, position: Position) -> Lanes {
        if access.arg.is_none() {
            return self.index(access, site, position);
        }
        match position {
            Position::Group { j, group } if access.inner == Stride::One => {
                let address = self.locate(access, site, j);
                self.load_neighbors(access.dtype, address, group)
            }
            Position::Uniform => {
                let scalar = self.load_scalar(access.dtype, site.base);
                let lanes = self.splat(scalar, access.dtype);
                self.truth(lanes, access.dtype)
            }
            _ => {
                let addresses = self.locate_lanes(access, site, position);
                let scalars = addresses.map(|address| self.load_scalar(access.dtype, address));
                let lanes = self.gather(scalars, access.dtype);
                self.truth(lanes, access.dtype)
            }
        }
    }

    fn index(&mut self, access: &Access, site: Site, position: Position) -> Lanes {
        let dtype = access.dtype;
        let narrow =
            |e: &mut Self, value: Value| if dtype == DType::I32 { e.b.ins().ireduce(I32, value) } else { value };
        match position {
            Position::Uniform => {
                let scalar = narrow(self, site.base);
                self.splat(scalar, dtype)
            }
            Position::Group { j, group } if access.inner == Stride::One => {
                let first = self.locate(access, site, j);
                let scalar = narrow(self, first);
                let base = self.splat(scalar, dtype);
                let at = (GROUP * group) as u32;
                let ty = vector_type(dtype);
                let steps = if n_parts(dtype) == 2 {
                    Lanes(smallvec![self.words(ty, [at, 0, at + 1, 0]), self.words(ty, [at + 2, 0, at + 3, 0])])
                } else {
                    Lanes(smallvec![self.words(ty, [at, at + 1, at + 2, at + 3])])
                };
                self.map2(&base, &steps, |e, x, y| e.b.ins().iadd(x, y))
            }
            _ => {
                let numbers = self.locate_lanes(access, site, position).map(|number| narrow(self, number));
                self.gather(numbers, dtype)
            }
        }
    }

    fn load_scalar(&mut self, dtype: DType, address: Value) -> Value {
        match dtype.size_bytes() {
            1 => self.b.ins().uload8(I32, plain(), address, 0),
            _ => self.b.ins().load(lane_type(dtype), plain(), address, 0),
        }
    }

    /// Masks of the nonzero lanes of a `Bool`, as loaded; other types as they are.
    fn truth(&mut self, lanes: Lanes, dtype: DType) -> Lanes {
        if dtype != DType::Bool {
            return lanes;
        }
        let zero = self.constant(0, DType::I32);
        self.map2(&lanes, &zero, |e, x, y| e.b.ins().icmp(IntCC::SignedGreaterThan, x, y))
    }

    fn load_neighbors(&mut self, dtype: DType, address: Value, group: usize) -> Lanes {
        let offset = (group * GROUP * dtype.size_bytes()) as i32;
        if dtype.size_bytes() == 1 {
            let bytes = self.b.ins().load(I32, plain(), address, offset);
            let vector = self.b.ins().scalar_to_vector(I32X4, bytes);
            let vector = self.as_type(I8X16, vector);
            let vector = self.b.ins().uwiden_low(vector);
            let vector = self.b.ins().uwiden_low(vector);
            return self.truth(Lanes(smallvec![vector]), dtype);
        }
        self.load_parts(dtype, address, offset)
    }

    /// A group as whole vectors, `Bool` and `U8` in 32-bit lanes.
    pub(crate) fn load_parts(&mut self, dtype: DType, address: Value, offset: i32) -> Lanes {
        let parts = (0..n_parts(dtype)).map(|part| self.load_vector(dtype, address, offset + 16 * part as i32));
        Lanes(parts.collect())
    }

    /// One vector of lanes of a type.
    pub(crate) fn load_vector(&mut self, dtype: DType, address: Value, offset: i32) -> Value {
        let ty = vector_type(dtype);
        if !(self.loads_apart && dtype.is_float()) {
            return self.b.ins().load(ty, plain(), address, offset);
        }
        let int = if ty == F32X4 { I32X4 } else { I64X2 };
        let bits = self.b.ins().load(int, plain(), address, offset);
        self.as_type(ty, bits)
    }

    /// The reverse of [`Emitter::load_parts`].
    pub(crate) fn store_parts(&mut self, lanes: &Lanes, address: Value, offset: i32) {
        for (part, &value) in lanes.0.iter().enumerate() {
            self.b.ins().store(plain(), value, address, offset + 16 * part as i32);
        }
    }

    /// Stores a whole group.
    pub(crate) fn store(&mut self, access: &Access, site: Site, j: Value, group: usize, lanes: &Lanes) {
        if access.inner != Stride::One {
            let addresses = self.locate_lanes(access, site, Position::Group { j, group });
            for (lane, address) in addresses.into_iter().enumerate() {
                self.store_lane(access.dtype, address, lanes, lane);
            }
            return;
        }
        let address = self.locate(access, site, j);
        let offset = (group * GROUP * access.dtype.size_bytes()) as i32;
        match access.dtype {
            DType::U8 | DType::Bool => {
                let lanes = self.stored_form(lanes, access.dtype);
                let words = self.b.ins().snarrow(lanes.0[0], lanes.0[0]);
                debug_assert_eq!(self.b.func.dfg.value_type(words), I16X8);
                let bytes = self.b.ins().unarrow(words, words);
                let vector = self.b.ins().bitcast(I32X4, reinterpret(), bytes);
                let packed = self.b.ins().extractlane(vector, 0u8);
                self.b.ins().store(plain(), packed, address, offset);
            }
            _ => self.store_parts(lanes, address, offset),
        }
    }

    /// The first `count` lanes of several stores of one partial group.
    pub(crate) fn store_partial(&mut self, stores: &[(&Access, Site, Lanes)], position: Position) {
        let Position::Partial { j, count, clamped } = position else { return };
        let done = self.b.create_block();
        for lane in 0..GROUP - 1 {
            let index = if lane == 0 { j } else { clamped[lane - 1] };
            for (access, site, lanes) in stores {
                let address = self.locate(access, *site, index);
                self.store_lane(access.dtype, address, lanes, lane);
            }
            if lane + 1 < GROUP - 1 {
                let next = self.b.create_block();
                let more = self.b.ins().icmp_imm_s(IntCC::SignedGreaterThan, count, lane as i64 + 1);
                self.b.ins().brif(more, next, &[], done, &[]);
                self.b.switch_to_block(next);
            }
        }
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
    }

    /// Stores one lane at an address.
    pub(crate) fn store_lane(&mut self, dtype: DType, address: Value, lanes: &Lanes, lane: usize) {
        let lanes = if dtype == DType::Bool { self.mask(lanes, 1) } else { lanes.clone() };
        let scalar = self.extract(&lanes, lane);
        match dtype {
            DType::Bool => {
                let bit = self.b.ins().band_imm_s(scalar, 1);
                self.b.ins().istore8(plain(), bit, address, 0);
            }
            DType::U8 => {
                self.b.ins().istore8(plain(), scalar, address, 0);
            }
            _ => {
                self.b.ins().store(plain(), scalar, address, 0);
            }
        }
    }

    /// A `Bool` as 0 or 1 in 32-bit lanes; other types as they are.
    fn stored_form(&mut self, lanes: &Lanes, dtype: DType) -> Lanes {
        if dtype == DType::Bool { self.cast(lanes, DType::Bool, DType::U8, false) } else { lanes.clone() }
    }

    /// The site after `k` steps along the reduced dim.
    pub(crate) fn site_at_step(&mut self, site: Site, k: Value) -> Site {
        let Some(stride) = site.step else { return site };
        let distance = self.b.ins().imul(k, stride);
        Site { base: self.b.ins().iadd(site.base, distance), ..site }
    }

    /// The last group of a range that ends before `end`, starting at `j`.
    pub(crate) fn partial(&mut self, j: Value, end: Value) -> Position {
        let count = self.b.ins().isub(end, j);
        let last = self.b.ins().iadd_imm_s(end, -1);
        let clamped: SmallVec<[Value; 3]> = (1..GROUP as i64)
            .map(|lane| {
                let index = self.b.ins().iadd_imm_s(j, lane);
                let inside = self.b.ins().icmp(IntCC::SignedLessThan, index, last);
                self.b.ins().select(inside, index, last)
            })
            .collect();
        debug_assert_eq!(self.b.func.dfg.value_type(count), I64);
        Position::Partial { j, count, clamped: [clamped[0], clamped[1], clamped[2]] }
    }
}

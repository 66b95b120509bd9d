//! A phase's body as vector code: loads, several groups of lanes interleaved instruction by instruction, stores.
//!
//! What is evaluated where follows the levels of [`PhasePlan`]: values that do not change in a loop are computed before it
//! and kept in slots of the frame ([`Kept`]), which the loop's code sees as homes. Loads are emitted where they are first
//! used.

use cotangent_kernel::ir::{Input, Stride};
use cotangent_scalar::{DType, Inst, ReduceOp, ScalarOp, ValueId};
use smallvec::SmallVec;

use crate::phase::{Level, PhasePlan};
use crate::wide::isa::{Isa, Op};
use crate::wide::select::{Shape, lane};
use crate::wide::vcode::{Class, Constant, Home, Place, Reg, RegInfo, Vcode, What};

/// A value in the frame: one slot if it is the same for all groups, or one per group.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    pub(crate) slots: SmallVec<[i32; 4]>,
    /// Bytes of a lane of a `Bool` (AVX2).
    pub(crate) lane: u8,
}

/// By value: an `I64` in memory that is the same for a whole row and that is only narrowed to `I32` (a label, an index). Its
/// low half is loaded instead, so that it does not halve the number of lanes.
pub(crate) fn halves(plan: &PhasePlan) -> Vec<bool> {
    let insts = plan.phase.body.insts();
    let mut halves: Vec<bool> = insts
        .iter()
        .map(|inst| match inst.op {
            ScalarOp::Input(k) if inst.dtype == DType::I64 => {
                let access = plan.accesses.inputs[k as usize].as_ref();
                access.is_some_and(|a| a.arg.is_some() && a.inner == Stride::Zero)
            }
            _ => false,
        })
        .collect();
    for inst in insts.iter().filter(|inst| inst.op != ScalarOp::Cast || inst.dtype != DType::I32) {
        inst.args.iter().for_each(|arg| halves[arg.index()] = false);
    }
    plan.roots().for_each(|root| halves[root.index()] = false);
    halves
}

/// A phase and where its accesses stand.
pub(crate) struct PhaseCode<'k> {
    pub(crate) plan: PhasePlan<'k>,
    /// By input number; `None` for results of reductions.
    pub(crate) inputs: Vec<Option<usize>>,
    pub(crate) stores: Vec<usize>,
    /// By value: computed before the loop.
    pub(crate) kept: Vec<Option<Kept>>,
    /// By value: whether only its low half is loaded.
    pub(crate) halves: Vec<bool>,
    /// By input: the slot with `lane * stride`, for indices with a stride.
    pub(crate) lane_steps: Vec<Option<i32>>,
}

/// Masks of the elements that are left, a word of each kind for every group.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tail {
    /// Slots with masks of 4-byte and of 8-byte lanes, and the word with the count (AVX2).
    pub(crate) slots: Vec<(i32, i32, i32)>,
}

impl Tail {
    /// The mask register of a group (AVX-512).
    pub(crate) fn register(group: usize) -> u8 {
        7 - group as u8
    }
}

/// What surrounds an evaluation.
pub(crate) struct Scope<'a> {
    /// Results of reductions, by slot.
    pub(crate) results: &'a [Option<Kept>],
    /// The groups evaluated together: so many from the first one on.
    pub(crate) first: usize,
    pub(crate) n_groups: usize,
    /// Of a ragged end.
    pub(crate) tail: Option<&'a Tail>,
    /// Whether stores that had better go past the caches do so; their places are aligned to vectors.
    pub(crate) streams: bool,
}

/// The values computed so far, by value and group (one if they are the same for all).
pub(crate) struct Env {
    values: Vec<SmallVec<[Option<Reg>; 4]>>,
    /// The index of the first element, in every lane, by input.
    indices: SmallVec<[(usize, Reg); 2]>,
}

impl Vcode {
    /// The mask of a group of a ragged end, in lanes of so many bytes.
    pub(crate) fn tail_mask(&mut self, tail: &Tail, group: usize, lane: usize) -> Reg {
        if self.isa == Isa::Avx512 {
            let pinned = Some(Tail::register(group));
            return self.reg(RegInfo { class: Class::Mask, width: 0, lane: 0, home: None, pinned });
        }
        let (narrow, wide, _) = tail.slots[group];
        let (slot, width) = if lane == 8 { (wide, self.width(8)) } else { (narrow, self.width(4)) };
        self.housed(Class::Vector, width, lane as u8, Home::Frame(slot))
    }

    /// A value in the frame, for a group.
    pub(crate) fn kept(&mut self, kept: &Kept, dtype: DType, group: usize) -> Reg {
        let slot = kept.slots.get(group).or(kept.slots.first()).copied().unwrap_or(0);
        let info = self.info_of(dtype, kept.lane);
        self.reg(RegInfo { home: Some(Home::Frame(slot)), ..info })
    }

    /// `acc` combined with a value.
    pub(crate) fn combine(&mut self, op: ReduceOp, dtype: DType, acc: Reg, value: Reg) -> Result<Reg, String> {
        let shape = Shape { op: op.scalar_op(), dtype, from: dtype, first_not_nan: false, constants: [None; 3] };
        self.scalar(&shape, &[acc, value])
    }
}

impl PhaseCode<'_> {
    pub(crate) fn dtype(&self, value: ValueId) -> DType {
        self.plan.phase.body.dtype(value)
    }

    /// Emits what has the wanted levels, in the order of the body.
    pub(crate) fn evaluate(
        &self,
        code: &mut Vcode,
        scope: &Scope,
        wanted: impl Fn(Level) -> bool,
    ) -> Result<Env, String> {
        let insts = self.plan.phase.body.insts();
        let mut env = Env { values: vec![SmallVec::new(); insts.len()], indices: SmallVec::new() };
        for (i, inst) in insts.iter().enumerate() {
            let value = ValueId(i as u32);
            if inst.args.is_empty() || self.kept[i].is_some() || !wanted(self.plan.level(value)) {
                continue;
            }
            if let Some(result) = self.half(code, inst) {
                env.values[i].push(Some(result));
                continue;
            }
            let clamp = self.clamp(inst);
            let constant = |k: usize| match inst.args.get(k).map(|a| insts[a.index()].op) {
                Some(ScalarOp::Const(bits)) => Some(bits),
                _ => None,
            };
            let shape = Shape {
                op: inst.op,
                dtype: inst.dtype,
                from: inst.args.first().map_or(inst.dtype, |a| insts[a.index()].dtype),
                first_not_nan: inst.args.first().is_some_and(|a| self.plan.is_not_nan(*a)),
                constants: [constant(0), constant(1), constant(2)],
            };
            let n_groups = if self.plan.level(value).inner { scope.n_groups } else { 1 };
            for group in 0..n_groups {
                if let Some((op, first, second)) = clamp {
                    let first = self.get(code, scope, &mut env, first, group)?;
                    let second = self.get(code, scope, &mut env, second, group)?;
                    let result = code.op(op, &[first, second]);
                    env.values[i].push(Some(result));
                    continue;
                }
                let mut args: SmallVec<[Reg; 3]> = SmallVec::new();
                for &arg in &inst.args {
                    args.push(self.get(code, scope, &mut env, arg, group)?);
                }
                let result = code.scalar(&shape, &args)?;
                env.values[i].push(Some(result));
            }
        }
        Ok(env)
    }

    /// `select(a < b, a, b)` and `select(a < b, b, a)` are what the minimum and maximum of the machine do, with NaN and zeros as
    /// with all else: the second operand unless the comparison holds.
    fn clamp(&self, inst: &Inst) -> Option<(Op, ValueId, ValueId)> {
        let &[condition, yes, no] = inst.args.as_slice() else { return None };
        let condition = &self.plan.phase.body.insts()[condition.index()];
        if inst.op != ScalarOp::Select || condition.op != ScalarOp::Lt || !inst.dtype.is_float() {
            return None;
        }
        let (min, max) = if lane(inst.dtype) == 8 { (Op::MinPd, Op::MaxPd) } else { (Op::MinPs, Op::MaxPs) };
        match *condition.args.as_slice() {
            [a, b] if (a, b) == (yes, no) => Some((min, yes, no)),
            [a, b] if (b, a) == (yes, no) => Some((max, yes, no)),
            _ => None,
        }
    }

    /// The low half of an `I64`, if the instruction narrows one that only that is loaded of.
    fn half(&self, code: &mut Vcode, inst: &Inst) -> Option<Reg> {
        let &arg = inst.args.first().filter(|arg| self.halves[arg.index()])?;
        let ScalarOp::Input(k) = self.plan.phase.body.insts()[arg.index()].op else { return None };
        let place = Place { site: self.inputs[k as usize]?, after: 0 };
        let width = code.width(4);
        let dst = code.vector(width);
        code.push(What::Load(Op::PbroadcastD, place), Some(dst), &[], width);
        Some(dst)
    }

    /// A value in a group, loaded now if it is an input that was not needed before.
    pub(crate) fn get(
        &self,
        code: &mut Vcode,
        scope: &Scope,
        env: &mut Env,
        value: ValueId,
        group: usize,
    ) -> Result<Reg, String> {
        let i = value.index();
        let inst = &self.plan.phase.body.insts()[i];
        if let ScalarOp::Const(bits) = inst.op {
            return Ok(code.splat(bits, inst.dtype));
        }
        let group = if self.plan.level(value).inner { group } else { 0 };
        if env.values[i].len() <= group {
            env.values[i].resize(group + 1, None);
        }
        if let Some(reg) = env.values[i][group] {
            return Ok(reg);
        }
        let reg = match (&self.kept[i], inst.op) {
            (Some(kept), _) => code.kept(kept, inst.dtype, group),
            (None, ScalarOp::Input(k)) => self.input(code, scope, env, k as usize, inst.dtype, value, group)?,
            _ => return Err(format!("{value} is used before it is computed")),
        };
        env.values[i][group] = Some(reg);
        Ok(reg)
    }

    #[expect(clippy::too_many_arguments, reason = "what surrounds an evaluation, and which input of it")]
    fn input(
        &self,
        code: &mut Vcode,
        scope: &Scope,
        env: &mut Env,
        number: usize,
        dtype: DType,
        value: ValueId,
        group: usize,
    ) -> Result<Reg, String> {
        let phase = self.plan.phase;
        if let Input::Reduced(slot) = phase.inputs[number] {
            let kept = scope.results[slot as usize].as_ref();
            return kept.map(|kept| code.kept(kept, dtype, group)).ok_or("a reduction has no result".into());
        }
        let (Some(access), Some(site)) = (&self.plan.accesses.inputs[number], self.inputs[number]) else {
            return Err("an input has no access".into());
        };
        let place = Place { site, after: (scope.first + group) * code.lanes };
        let width = code.width(lane(dtype));
        if access.arg.is_none() {
            let size = lane(dtype) as u8;
            let index = |code: &mut Vcode, place: Place| {
                let dst = code.vector(width);
                code.push(What::Index(place, size), Some(dst), &[], width);
                dst
            };
            let steps = match (access.inner, self.lane_steps[number]) {
                (Stride::Zero, _) => return Ok(index(code, place)),
                (_, Some(slot)) => code.housed(Class::Vector, width, 0, Home::Frame(slot)),
                // All groups start from the index of the first one.
                _ => {
                    let first = Place { site, after: scope.first * code.lanes };
                    let known = env.indices.iter().find(|(k, _)| *k == number).map(|&(_, reg)| reg);
                    let start = known.unwrap_or_else(|| index(code, first));
                    if known.is_none() {
                        env.indices.push((number, start));
                    }
                    let steps = code.constant(Constant::Iota { size, start: (group * code.lanes) as u8 }, width);
                    return Ok(code.op(if size == 8 { Op::PaddQ } else { Op::PaddD }, &[start, steps]));
                }
            };
            let start = index(code, place);
            return Ok(code.op(if size == 8 { Op::PaddQ } else { Op::PaddD }, &[start, steps]));
        }
        let bytes = dtype.size_bytes() == 1;
        if !self.plan.level(value).inner {
            let dst = code.vector(width);
            let what = match dtype.size_bytes() {
                1 => What::BroadcastByte(place),
                8 => What::Load(Op::PbroadcastQ, place),
                _ => What::Load(Op::PbroadcastD, place),
            };
            code.push(what, Some(dst), &[], width);
            return Ok(code.truth(dst, dtype));
        }
        if access.inner == Stride::Any {
            return Err("neighbors along the inner dim are not neighbors in memory".into());
        }
        let Some(tail) = scope.tail else {
            if bytes {
                let dst = code.vector(width);
                code.push(What::Load(Op::Pmovzxbd, place), Some(dst), &[], width);
                return Ok(code.truth(dst, dtype));
            }
            return Ok(code.housed(Class::Vector, width, 0, Home::Argument(place)));
        };
        let dst = code.vector(width);
        if code.isa == Isa::Avx512 {
            let op = match dtype.size_bytes() {
                1 => Op::Pmovzxbd,
                8 => Op::MovUpd,
                _ => Op::MovUps,
            };
            let mask = code.tail_mask(tail, scope.first + group, lane(dtype));
            let inst = code.push(What::Load(op, place), Some(dst), &[], width);
            (inst.mask, inst.zero) = (Some(mask), true);
        } else if bytes {
            code.push(What::LoadBytes(place, tail.slots[scope.first + group].2), Some(dst), &[], width);
        } else {
            let mask = code.tail_mask(tail, scope.first + group, lane(dtype));
            code.push(What::LoadMasked(place, lane(dtype) as u8), Some(dst), &[mask], width);
        }
        Ok(code.truth(dst, dtype))
    }

    /// The stores of a phase, all groups; of the first lane alone if nothing moves along the inner dim.
    pub(crate) fn store_all(
        &self,
        code: &mut Vcode,
        scope: &Scope,
        env: &mut Env,
        uniform: bool,
    ) -> Result<(), String> {
        // Loaded values are taken from memory before anything is written, which may be in the same place.
        for group in 0..scope.n_groups {
            for store in &self.plan.phase.stores {
                let reg = self.get(code, scope, env, store.value, group)?;
                if let Some(Home::Argument(_)) = code.info(reg).home {
                    let width = code.width_of(reg);
                    let loaded = code.vector(width);
                    code.push(What::Op(Op::MovUps), Some(loaded), &[reg], width);
                    env.values[store.value.index()][group] = Some(loaded);
                }
            }
        }
        for group in 0..scope.n_groups {
            for (number, store) in self.plan.phase.stores.iter().enumerate() {
                let reg = self.get(code, scope, env, store.value, group)?;
                let access = &self.plan.accesses.stores[number];
                if uniform || access.inner == Stride::Zero {
                    let place = Place { site: self.stores[number], after: (scope.first + group) * code.lanes };
                    let (size, width) = (access.dtype.size_bytes() as u8, code.width(lane(access.dtype)));
                    let number = code.number_of_bool(reg, access.dtype);
                    code.push(What::StoreLane(place, size), None, &[number], width);
                    continue;
                }
                self.store(code, scope, number, reg, group)?;
            }
        }
        Ok(())
    }

    /// One store of a phase: of a value that moves along the inner dim, in a group.
    pub(crate) fn store(
        &self,
        code: &mut Vcode,
        scope: &Scope,
        number: usize,
        reg: Reg,
        group: usize,
    ) -> Result<(), String> {
        let access = &self.plan.accesses.stores[number];
        let place = Place { site: self.stores[number], after: (scope.first + group) * code.lanes };
        let dtype = access.dtype;
        let size = dtype.size_bytes() as u8;
        let width = code.width(lane(dtype));
        if access.inner == Stride::Any {
            return Err("neighbors along the inner dim are not neighbors in memory".into());
        }
        let tail = scope.tail;
        if size == 1 {
            let bytes = code.bytes(reg, dtype);
            match tail {
                Some(tail) if code.isa == Isa::Avx2 => {
                    code.push(What::StoreSomeBytes(place, tail.slots[scope.first + group].2), None, &[bytes], 16);
                }
                _ => {
                    let mask = tail.map(|tail| code.tail_mask(tail, scope.first + group, 4));
                    let n = code.lanes as u8;
                    code.push(What::StoreBytes(place, n), None, &[bytes], 16).mask = mask;
                }
            }
            return Ok(());
        }
        match tail {
            None if scope.streams && self.plan.phase.stores[number].stream => {
                code.push(What::Stream(place), None, &[reg], width);
            }
            Some(tail) if code.isa == Isa::Avx2 => {
                let mask = code.tail_mask(tail, scope.first + group, usize::from(size));
                code.push(What::StoreMasked(place, size), None, &[reg, mask], width);
            }
            _ => {
                let mask = tail.map(|tail| code.tail_mask(tail, scope.first + group, usize::from(size)));
                code.push(What::Store(place, size), None, &[reg], width).mask = mask;
            }
        }
        Ok(())
    }

    /// The stores that had better go past the caches, and have an instruction for it.
    pub(crate) fn streams(&self) -> impl Iterator<Item = usize> + '_ {
        let stores = self.plan.phase.stores.iter().zip(&self.plan.accesses.stores).enumerate();
        let can = |a: &crate::access::Access| a.inner == Stride::One && a.dtype.size_bytes() > 1;
        stores.filter(move |(_, (store, access))| store.stream && can(access)).map(|(number, _)| number)
    }

    /// The stores that put what rows carry, and the bits that a block starts from.
    pub(crate) fn starts(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.plan.phase.inputs.iter().filter_map(|input| {
            let Input::Carried { arg, start, .. } = input else { return None };
            let number = self.plan.phase.stores.iter().position(|store| store.arg == *arg)?;
            Some((number, *start))
        })
    }

    /// By value: whether code of other levels, or a store or reduction, reads it.
    pub(crate) fn read_elsewhere(&self, here: impl Fn(Level) -> bool, roots: bool) -> Vec<bool> {
        let insts = self.plan.phase.body.insts();
        let mut read = vec![false; insts.len()];
        for (i, inst) in insts.iter().enumerate() {
            if !here(self.plan.level(ValueId(i as u32))) {
                for arg in &inst.args {
                    read[arg.index()] = true;
                }
            }
        }
        if roots {
            for root in self.plan.roots() {
                read[root.index()] = true;
            }
        }
        read
    }
}

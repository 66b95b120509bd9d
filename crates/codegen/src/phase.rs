//! The evaluation of a phase's body: what varies along which dim, and in what order instructions are emitted.
//!
//! A value's [`Level`] says whether it changes along the inner dim, along the reduced dim of a `Column` sweep, and from row to
//! row; each is computed in the outermost loop that it allows. Several groups of lanes are evaluated interleaved,
//! instruction by instruction, so that their dependency chains overlap. Loads are emitted where they are first needed
//! and constants where they are used, which keeps registers free.

use cotangent_kernel::ir::{Input, Kernel, Phase, Stride, Sweep};
use cotangent_scalar::{DType, ScalarOp, ValueId};
use smallvec::SmallVec;

use crate::access::{Access, Accesses, Position, Site, Sites};
use crate::lanes::{Emitter, Lanes, Shape};

/// Along which dims a value changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Level {
    /// Along the inner dim.
    pub(crate) inner: bool,
    /// Along the reduced dim of a `Column` sweep.
    pub(crate) step: bool,
    /// From one row to the next; whatever depends on memory counts as such, for an earlier row may have written it.
    pub(crate) row: bool,
}

/// What is known of a phase before emission.
pub(crate) struct PhasePlan<'k> {
    pub(crate) phase: &'k Phase,
    pub(crate) accesses: Accesses,
    /// By value.
    levels: Vec<Level>,
    /// By value: known not to be NaN.
    not_nan: Vec<bool>,
}

/// Groups of lanes in flight, of types of up to 4 bytes.
const MAX_UNROLL: usize = 4;

/// Bodies with more operations than this are unrolled half as far: register allocation takes time that grows faster
/// than the code, for a gain of 15 %.
const LONG_OPS: usize = 128;

/// Bodies with at most this many operations leave most registers free.
const LIGHT_OPS: usize = 6;

/// Constants that a loop keeps in registers if it has no more than these.
const HOISTED_CONSTANTS: usize = 4;

impl<'k> PhasePlan<'k> {
    pub(crate) fn new(kernel: &'k Kernel, phase: &'k Phase, accesses: Accesses) -> Self {
        let mut levels: Vec<Level> = Vec::new();
        let mut not_nan: Vec<bool> = Vec::new();
        for inst in phase.body.insts() {
            let mut level = Level::default();
            if let ScalarOp::Input(k) = inst.op {
                level = match (&phase.inputs[k as usize], &accesses.inputs[k as usize]) {
                    (Input::Reduced(_), _) => Level { inner: kernel.sweep == Sweep::Column, step: false, row: true },
                    (_, Some(access)) => Level {
                        inner: access.inner != Stride::Zero,
                        step: access.steps,
                        row: access.arg.is_some() || access.by_row,
                    },
                    (_, None) => level,
                };
            }
            for arg in &inst.args {
                let of_arg = levels[arg.index()];
                level = Level {
                    inner: level.inner || of_arg.inner,
                    step: level.step || of_arg.step,
                    row: level.row || of_arg.row,
                };
            }
            levels.push(level);
            let known = |k: usize| not_nan[inst.args[k].index()];
            not_nan.push(match inst.op {
                _ if !inst.dtype.is_float() => true,
                ScalarOp::Const(bits) => !inst.dtype.f64_of_bits(bits).is_nan(),
                ScalarOp::Cast => known(0),
                ScalarOp::Neg | ScalarOp::Abs => known(0),
                ScalarOp::Floor | ScalarOp::Ceil | ScalarOp::Trunc | ScalarOp::RoundEven => known(0),
                ScalarOp::Min | ScalarOp::Max => known(0) && known(1),
                ScalarOp::Select => known(1) && known(2),
                _ => false,
            });
        }
        PhasePlan { phase, accesses, levels, not_nan }
    }

    /// The same of a kernel of one element, where nothing varies.
    pub(crate) fn of_one_element(mut self) -> Self {
        self.levels.fill(Level::default());
        self
    }

    pub(crate) fn level(&self, value: ValueId) -> Level {
        self.levels[value.index()]
    }

    /// Vectors per group of the widest value that changes along the inner dim.
    pub(crate) fn width(&self) -> usize {
        let wide = |(inst, level): (&cotangent_scalar::Inst, &Level)| level.inner && inst.dtype.size_bytes() == 8;
        if self.phase.body.insts().iter().zip(&self.levels).any(wide) { 2 } else { 1 }
    }

    /// Groups of lanes in flight.
    pub(crate) fn unroll(&self) -> usize {
        let longest = if self.n_varying_ops() > LONG_OPS { MAX_UNROLL / 2 } else { MAX_UNROLL };
        longest / self.width()
    }

    /// Whether most registers are free for accumulators.
    pub(crate) fn is_light(&self) -> bool {
        self.n_varying_ops() <= LIGHT_OPS
    }

    /// Groups of columns in flight: twice as many for light bodies, whose accumulators still fit the registers; wide
    /// chunks use more of each cache line and page that they touch.
    pub(crate) fn column_groups(&self) -> usize {
        let light = self.is_light() && self.phase.reduces.len() <= 1 && self.width() == 1;
        if light { 2 * MAX_UNROLL } else { self.unroll() }
    }

    /// Arithmetic instructions per element of the innermost loop.
    pub(crate) fn n_varying_ops(&self) -> usize {
        let insts = self.phase.body.insts().iter().zip(&self.levels);
        insts.filter(|(inst, level)| level.inner && !inst.args.is_empty()).count()
    }

    /// Whether a value is known not to be NaN.
    pub(crate) fn is_not_nan(&self, value: ValueId) -> bool {
        self.not_nan[value.index()]
    }

    /// The values that leave the body.
    pub(crate) fn roots(&self) -> impl Iterator<Item = ValueId> {
        self.phase.stores.iter().map(|s| s.value).chain(self.phase.reduces.iter().map(|r| r.value))
    }
}

/// The values computed so far: one group if uniform, otherwise one per group in flight.
#[derive(Clone, Debug)]
pub(crate) struct Env {
    values: Vec<Option<SmallVec<[Lanes; 4]>>>,
}

impl Env {
    pub(crate) fn new(plan: &PhasePlan) -> Self {
        Env { values: vec![None; plan.phase.body.insts().len()] }
    }

    /// A value that has been computed, in a group.
    pub(crate) fn get(&self, value: ValueId, group: usize) -> Option<&Lanes> {
        let groups = self.values[value.index()].as_ref()?;
        groups.get(group).or(groups.first())
    }
}

/// What evaluation needs besides the plan.
pub(crate) struct Surroundings<'a> {
    pub(crate) sites: &'a Sites,
    pub(crate) positions: &'a [Position],
    /// Results of reductions by slot: one, or one per group.
    pub(crate) results: &'a [Vec<Lanes>],
}

impl Emitter<'_> {
    /// Puts the constants of the inner loop in registers if they are few.
    pub(crate) fn hoist_constants(&mut self, plan: &PhasePlan, env: &mut Env) {
        let insts = plan.phase.body.insts();
        let mut used = vec![false; insts.len()];
        for (inst, level) in insts.iter().zip(&plan.levels) {
            for arg in inst.args.iter().filter(|_| level.inner) {
                used[arg.index()] |= matches!(insts[arg.index()].op, ScalarOp::Const(_));
            }
        }
        if used.iter().filter(|&&used| used).count() <= HOISTED_CONSTANTS {
            for (i, inst) in insts.iter().enumerate().filter(|(i, _)| used[*i]) {
                if let ScalarOp::Const(bits) = inst.op {
                    env.values[i] = Some([self.constant(bits, inst.dtype)].into_iter().collect());
                }
            }
        }
    }

    /// Emits what has the wanted levels, in the order of the body. In the innermost pass (`lazy`) loads wait until
    /// they are needed, and whatever the phase's results still lack is emitted at the end.
    pub(crate) fn evaluate(
        &mut self,
        plan: &PhasePlan,
        env: &mut Env,
        around: &Surroundings,
        lazy: bool,
        wanted: impl Fn(Level) -> bool,
    ) {
        let insts = plan.phase.body.insts();
        for (i, inst) in insts.iter().enumerate() {
            if env.values[i].is_some() || !wanted(plan.levels[i]) {
                continue;
            }
            match inst.op {
                ScalarOp::Const(_) => {}
                ScalarOp::Input(_) if lazy => {}
                ScalarOp::Input(_) => self.input(plan, env, around, ValueId(i as u32)),
                _ => self.instruction(plan, env, around, i),
            }
        }
        if lazy {
            for root in plan.roots() {
                match insts[root.index()].op {
                    _ if env.values[root.index()].is_some() => {}
                    ScalarOp::Input(_) => self.input(plan, env, around, root),
                    ScalarOp::Const(bits) => {
                        let lanes = self.constant(bits, insts[root.index()].dtype);
                        env.values[root.index()] = Some([lanes].into_iter().collect());
                    }
                    _ => {}
                }
            }
        }
    }

    fn input(&mut self, plan: &PhasePlan, env: &mut Env, around: &Surroundings, value: ValueId) {
        let ScalarOp::Input(k) = plan.phase.body.insts()[value.index()].op else { return };
        let number = k as usize;
        let lanes: SmallVec<[Lanes; 4]> = match &plan.phase.inputs[number] {
            Input::Reduced(slot) => around.results[*slot as usize].iter().cloned().collect(),
            _ => {
                let (Some(access), Some(site)) = (&plan.accesses.inputs[number], around.sites.inputs[number]) else {
                    return;
                };
                let uniform = [Position::Uniform];
                let positions = if plan.level(value).inner { around.positions } else { &uniform };
                positions.iter().map(|&position| self.load(access, site, position)).collect()
            }
        };
        env.values[value.index()] = Some(lanes);
    }

    fn instruction(&mut self, plan: &PhasePlan, env: &mut Env, around: &Surroundings, i: usize) {
        let insts = plan.phase.body.insts();
        let inst = &insts[i];
        let const_of = |arg: ValueId| match insts[arg.index()].op {
            ScalarOp::Const(bits) => Some(bits),
            _ => None,
        };
        let mut constants: SmallVec<[Option<Lanes>; 3]> = SmallVec::new();
        for &arg in &inst.args {
            let mut constant = None;
            if env.values[arg.index()].is_none() {
                match const_of(arg) {
                    Some(bits) => constant = Some(self.constant(bits, insts[arg.index()].dtype)),
                    None => self.input(plan, env, around, arg),
                }
            }
            constants.push(constant);
        }
        let level = plan.levels[i];
        let shape = Shape {
            op: inst.op,
            dtype: inst.dtype,
            from: inst.args.first().map_or(inst.dtype, |a| insts[a.index()].dtype),
            uniform: !level.inner,
            first_not_nan: inst.args.first().is_some_and(|a| plan.not_nan[a.index()]),
            second_uniform: inst.args.get(1).is_some_and(|a| !plan.levels[a.index()].inner),
            second_const: inst.args.get(1).and_then(|&a| const_of(a)),
        };
        let n_groups = if level.inner { around.positions.len() } else { 1 };
        let groups: SmallVec<[Lanes; 4]> = (0..n_groups)
            .map(|group| {
                let args: SmallVec<[&Lanes; 3]> = inst
                    .args
                    .iter()
                    .zip(&constants)
                    .filter_map(|(&arg, constant)| constant.as_ref().or_else(|| env.get(arg, group)))
                    .collect();
                self.apply(&shape, &args)
            })
            .collect();
        env.values[i] = Some(groups);
    }

    /// Emits the stores of a phase, all groups in flight.
    pub(crate) fn store_all(&mut self, plan: &PhasePlan, env: &Env, around: &Surroundings) {
        let stores = || plan.phase.stores.iter().zip(&plan.accesses.stores).zip(&around.sites.stores);
        for (group, &position) in around.positions.iter().enumerate() {
            let values = stores().filter_map(|((s, access), &site)| {
                let lanes = env.get(s.value, group)?.clone();
                Some((access, site, lanes))
            });
            match position {
                Position::Uniform => {
                    for (access, site, lanes) in values {
                        self.store_lane(access.dtype, site.base, &lanes, 0);
                    }
                }
                Position::Group { j, group } => {
                    for (access, site, lanes) in values {
                        self.store(access, site, j, group, &lanes);
                    }
                }
                Position::Partial { .. } => {
                    let values: Vec<(&Access, Site, Lanes)> = values.collect();
                    if !values.is_empty() {
                        self.store_partial(&values, position);
                    }
                }
            }
        }
    }

    /// A value in accumulator form: `Bool` as a mask of 32-bit lanes.
    pub(crate) fn for_accumulator(&mut self, lanes: &Lanes, dtype: DType) -> Lanes {
        if dtype == DType::Bool { self.mask(lanes, 1) } else { lanes.clone() }
    }
}

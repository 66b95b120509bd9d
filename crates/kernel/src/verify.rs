//! The kernel verifier: what code generators may rely on.
//!
//! Machine code runs without checks, so everything that would make it read or write outside of its arguments, or
//! mean something else than the interpreter, is refused here. [`Kernel::verify`] looks at the kernel alone:
//! 1. There is an inner dim, and for `Column` a reduced one; every map has one stride per dim.
//! 2. Extents multiply to what an index can count, those of 0 left out. `total` is the product of the extents, or, for `Row` with one outer dim, a number of elements whose last row is
//!    the only one cut short, or, for `Row` with carried values, a number of rows whose last block is the only one cut short.
//! 3. Arguments named by loads and stores exist; one is marked read if and only if something is loaded from it that the same
//!    unit did not store there before, and written if and only if it is stored to.
//! 4. Every input of a body is declared with the type the body reads; `Index` inputs are `I32` or `I64`; a store's
//!    value has its argument's type.
//! 5. Instructions have the operand types that they are defined for (`Bool` has no arithmetic), and values named by
//!    stores and reductions exist.
//! 6. Reductions stand only in `Full` phases of `Row` and `Column` sweeps, slots are unique and small, `Bool` is not
//!    summed or multiplied, and `Reduced` inputs name a slot of an earlier phase.
//! 7. Carried inputs stand only in `Full` phases of `Row` sweeps with three dims; the same phase stores to the same places,
//!    nothing else touches their argument, and the blocks' places lie apart.
//! 8. `Reduced` phases stand only in `Row` and `Column` sweeps; their maps have inner stride 0 in a `Row` sweep and
//!    reduced stride 0 in a `Column` sweep.
//!
//! [`Kernel::check_bounds`] proves, from the extents and by interval arithmetic, that every access stays inside its
//! argument. Where a loop has no iterations it counts loads that do not move along it: code makes them before the loop. Both
//! return all violations as sentences.

use cotangent_scalar::{DType, ReduceOp, ScalarOp};

use crate::ir::{ArgId, Clamp, IndexMap, Input, Kernel, Phase, Space, Sweep};

/// Slots index tables, so they are below this.
const MAX_SLOTS: u32 = 1 << 12;

impl Kernel {
    /// Checks the invariants listed in [`crate::verify`].
    ///
    /// # Errors
    /// Every violation, as a sentence.
    pub fn verify(&self) -> Result<(), Vec<String>> {
        let mut errors = Vec::new();
        self.verify_dims(&mut errors);
        if errors.is_empty() {
            self.verify_args(&mut errors);
            for (number, phase) in self.phases.iter().enumerate() {
                self.verify_inputs(number, phase, &mut errors);
                errors.extend(phase.body.verify().into_iter().map(|error| format!("phase {number}: {error}")));
                self.verify_results(number, phase, &mut errors);
                self.verify_reductions(number, phase, &mut errors);
                self.verify_carried(number, phase, &mut errors);
                self.verify_space(number, phase, &mut errors);
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Proves that every access stays inside its argument; `lengths` are in elements, one per argument.
    ///
    /// # Errors
    /// Every access that may leave its argument, as a sentence.
    pub fn check_bounds(&self, lengths: &[usize]) -> Result<(), Vec<String>> {
        let mut errors = Vec::new();
        if lengths.len() != self.args.len() {
            return Err(vec![format!("the kernel has {} arguments, got {} lengths", self.args.len(), lengths.len())]);
        }
        for (number, phase) in self.phases.iter().enumerate() {
            let loads = phase.inputs.iter().filter_map(|input| {
                let (arg, map) = input.access()?;
                Some((arg, map, input.clamps(), true))
            });
            let stores = phase.stores.iter().map(|s| (s.arg, &s.map, &[][..], false));
            for (arg, map, clamps, hoists) in loads.chain(stores) {
                let length = lengths.get(arg.0 as usize).copied().unwrap_or(0) as i128;
                let reach = |clamp: &Clamp| i128::from(clamp.last) * i128::from(clamp.stride);
                let below: i128 = clamps.iter().map(|clamp| reach(clamp).min(0)).sum();
                let above: i128 = clamps.iter().map(|clamp| reach(clamp).max(0)).sum();
                let span = self.span(phase.space, map, hoists).map(|(low, high)| (low + below, high + above));
                if let Some((low, high)) = span
                    && (low < 0 || high >= length)
                {
                    errors.push(format!(
                        "phase {number}: access [{map}] spans elements {low}..={high} of argument {}, which has {length}",
                        arg.0
                    ));
                }
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// The least and greatest element that a map reaches, or `None` if nothing is reached. What hoists is reached before a loop
    /// along which it does not move, also if that has no iterations.
    fn span(&self, space: Space, map: &IndexMap, hoists: bool) -> Option<(i128, i128)> {
        let ragged = self.sweep == Sweep::Row && self.total < self.dims.iter().product();
        let boxes: Vec<Vec<Range>> = if ragged && self.is_carried() {
            let (inner, block) = (self.inner(), self.block().max(1));
            let (whole, left) = (self.n_rows() / block, self.n_rows() % block);
            vec![vec![(0, whole), (0, block), (0, inner)], vec![(whole, whole + 1), (0, left), (0, inner)]]
        } else if ragged {
            let (inner, full_rows) = (self.inner(), self.total / self.inner().max(1));
            let last = self.n_rows().saturating_sub(1);
            vec![vec![(0, full_rows), (0, inner)], vec![(last, last + 1), (0, self.inner_of_row(last))]]
        } else {
            vec![self.dims.iter().map(|&extent| (0, extent)).collect()]
        };
        let mut span: Option<(i128, i128)> = None;
        for mut ranges in boxes {
            let n = ranges.len();
            match (space, self.sweep) {
                (Space::Reduced, Sweep::Row) => ranges[n - 1] = (0, 1),
                (Space::Reduced, Sweep::Column) => ranges[n - 2] = (0, 1),
                _ => {}
            }
            for (range, &stride) in ranges.iter_mut().zip(&map.strides).filter(|(range, _)| range.0 >= range.1) {
                if hoists && stride == 0 {
                    *range = (0, 1);
                }
            }
            if ranges.iter().any(|&(start, end)| start >= end) {
                continue;
            }
            let (mut low, mut high) = (i128::from(map.offset), i128::from(map.offset));
            for (&(start, end), &stride) in ranges.iter().zip(&map.strides) {
                let (a, b) = (start as i128 * i128::from(stride), (end as i128 - 1) * i128::from(stride));
                low += a.min(b);
                high += a.max(b);
            }
            span = Some(span.map_or((low, high), |(l, h)| (l.min(low), h.max(high))));
        }
        span
    }

    fn verify_dims(&self, errors: &mut Vec<String>) {
        let least = if self.sweep == Sweep::Column { 2 } else { 1 };
        if self.dims.len() < least {
            errors.push(format!("a {:?} sweep needs {least} dims, got {}", self.sweep, self.dims.len()));
            return;
        }
        for map in self.accesses() {
            if map.strides.len() != self.dims.len() {
                errors.push(format!("map [{map}] has {} strides for {} dims", map.strides.len(), self.dims.len()));
            }
        }
        // Extents of 0 do not excuse the others: loops count them.
        let counted = self.dims.iter().filter(|&&d| d != 0).try_fold(1usize, |n, &d| n.checked_mul(d));
        if counted.is_none_or(|n| isize::try_from(n).is_err()) {
            errors.push(format!("the extents {:?} overflow", self.dims.as_slice()));
            return;
        }
        let product: usize = self.dims.iter().product();
        let may_be_ragged = self.sweep == Sweep::Row && self.dims.len() == 2;
        let in_blocks = self.sweep == Sweep::Row && self.dims.len() == 3 && self.is_carried();
        let least_total = match product {
            1.. if may_be_ragged => product - self.inner() + 1,
            1.. if in_blocks => product - (self.dims[1] - 1) * self.inner(),
            _ => product,
        };
        if in_blocks && !self.total.is_multiple_of(self.inner().max(1)) {
            errors.push(format!("total {} is no number of rows of {}", self.total, self.inner()));
        }
        if self.total < least_total || self.total > product {
            errors.push(format!("total is {}, expected {least_total}..={product}", self.total));
        }
    }

    fn verify_args(&self, errors: &mut Vec<String>) {
        let (mut read, mut written) = (vec![false; self.args.len()], vec![false; self.args.len()]);
        let mut mark = |marks: &mut Vec<bool>, arg: ArgId| match marks.get_mut(arg.0 as usize) {
            Some(mark) => *mark = true,
            None => errors.push(format!("argument {} of {} is accessed", arg.0, self.args.len())),
        };
        for (number, phase) in self.phases.iter().enumerate() {
            for input in &phase.inputs {
                match input {
                    Input::Load { arg, map } if !self.loads_own(number, *arg, map) => mark(&mut read, *arg),
                    Input::Clamped { arg, .. } => mark(&mut read, *arg),
                    _ => {}
                }
            }
            for store in &phase.stores {
                mark(&mut written, store.arg);
            }
        }
        for (i, arg) in self.args.iter().enumerate() {
            if (arg.read, arg.written) != (read[i], written[i]) {
                errors.push(format!(
                    "argument {i} is marked read {} and written {}, used read {} and written {}",
                    arg.read, arg.written, read[i], written[i]
                ));
            }
        }
    }

    fn verify_inputs(&self, number: usize, phase: &Phase, errors: &mut Vec<String>) {
        for inst in phase.body.insts() {
            let ScalarOp::Input(k) = inst.op else { continue };
            let declared = match phase.inputs.get(k as usize) {
                None => None,
                Some(Input::Load { arg, .. } | Input::Clamped { arg, .. } | Input::Carried { arg, .. }) => {
                    self.args.get(arg.0 as usize).map(|a| a.dtype)
                }
                Some(Input::Index { dtype, .. }) => Some(*dtype),
                Some(Input::Reduced(slot)) => self.reduced_dtype(*slot),
            };
            if declared != Some(inst.dtype) {
                errors.push(format!("phase {number}: input {k} is read as {}, declared {declared:?}", inst.dtype));
            }
        }
        for (k, input) in phase.inputs.iter().enumerate() {
            match input {
                Input::Index { dtype, .. } if !matches!(dtype, DType::I32 | DType::I64) => {
                    errors.push(format!("phase {number}: index input {k} has type {dtype}, expected i32 or i64"));
                }
                Input::Clamped { clamps, .. } => {
                    let n = self.dims.len();
                    let inside = |c: &Clamp| c.last >= 0 && c.map.strides.len() == n && c.map.strides[n - 1] == 0;
                    if self.sweep != Sweep::Elementwise || !clamps.iter().all(inside) {
                        errors.push(format!(
                            "phase {number}: input {k} holds indices inside that move along the inner dim, or of an empty axis, \
                             or not in an elementwise sweep"
                        ));
                    }
                }
                Input::Reduced(slot) => {
                    let known = self.phases[..number].iter().any(|p| p.reduces.iter().any(|r| r.slot == *slot));
                    if !known {
                        errors.push(format!(
                            "phase {number}: input {k} is reduction {slot}, not made by an earlier phase"
                        ));
                    }
                }
                _ => {}
            }
        }
    }

    fn verify_results(&self, number: usize, phase: &Phase, errors: &mut Vec<String>) {
        let n = phase.body.insts().len();
        let named = phase.stores.iter().map(|s| s.value).chain(phase.reduces.iter().map(|r| r.value));
        for value in named.filter(|v| v.index() >= n) {
            errors.push(format!("phase {number}: {value} is used, but the body has {n} values"));
        }
        for store in phase.stores.iter().filter(|s| s.value.index() < n) {
            let (got, expected) = (phase.body.dtype(store.value), self.args.get(store.arg.0 as usize).map(|a| a.dtype));
            if Some(got) != expected {
                errors.push(format!("phase {number}: {got} is stored to argument {} of {expected:?}", store.arg.0));
            }
        }
    }

    fn verify_reductions(&self, number: usize, phase: &Phase, errors: &mut Vec<String>) {
        if !phase.reduces.is_empty() && (self.sweep == Sweep::Elementwise || phase.space == Space::Reduced) {
            errors.push(format!("phase {number}: {:?} {:?} phases have no reductions", self.sweep, phase.space));
        }
        if phase.reduces.iter().any(|reduce| reduce.chain != phase.reduces[0].chain) {
            errors.push(format!("phase {number}: some reductions are one chain and some go by blocks"));
        }
        if phase.reduces.iter().any(|reduce| reduce.chain) && self.sweep != Sweep::Column {
            errors.push(format!("phase {number}: only columns are reduced in one chain"));
        }
        for (i, reduce) in phase.reduces.iter().enumerate() {
            let earlier = self.phases[..number].iter().flat_map(|p| &p.reduces);
            if earlier.chain(&phase.reduces[..i]).any(|r| r.slot == reduce.slot) {
                errors.push(format!("phase {number}: reduction {} is defined twice", reduce.slot));
            }
            if reduce.slot >= MAX_SLOTS {
                errors.push(format!("phase {number}: reduction {} is not below {MAX_SLOTS}", reduce.slot));
            }
            let dtype = phase.body.insts().get(reduce.value.index()).map(|inst| inst.dtype);
            if dtype == Some(DType::Bool) && matches!(reduce.op, ReduceOp::Sum | ReduceOp::Prod) {
                errors.push(format!("phase {number}: reduction {} is a {} of bool", reduce.slot, reduce.op.name()));
            }
        }
    }

    fn verify_carried(&self, number: usize, phase: &Phase, errors: &mut Vec<String>) {
        for (k, input) in phase.inputs.iter().enumerate() {
            let Input::Carried { arg, map, .. } = input else { continue };
            let mut wrong = |text: &str| errors.push(format!("phase {number}: carried input {k} {text}"));
            if self.sweep != Sweep::Row || self.dims.len() != 3 || phase.space != Space::Full {
                wrong("needs a Full phase of a Row sweep over blocks of rows");
                continue;
            }
            if map.strides[2] != 1 || map.strides[1] != 0 || (self.dims[0] > 1 && map.strides[0] < self.inner() as i64)
            {
                wrong("does not lie apart from block to block, side by side in each");
            }
            let stores = phase.stores.iter().filter(|s| s.arg == *arg && s.map == *map).count();
            let all = self.phases.iter().map(|p| {
                let inputs = p.inputs.iter().filter_map(Input::access).filter(|(a, _)| a == arg).count();
                inputs + p.stores.iter().filter(|s| s.arg == *arg).count()
            });
            if stores != 1 || all.sum::<usize>() != 2 {
                wrong("is not stored once where it is read, or its argument is accessed elsewhere");
            }
        }
    }

    fn verify_space(&self, number: usize, phase: &Phase, errors: &mut Vec<String>) {
        if phase.space == Space::Full {
            return;
        }
        let n = self.dims.len();
        let (dim, name) = match self.sweep {
            Sweep::Elementwise => {
                errors.push(format!("phase {number}: elementwise sweeps have no Reduced phases"));
                return;
            }
            Sweep::Row => (n - 1, "inner"),
            Sweep::Column => (n - 2, "reduced"),
        };
        let inputs = phase.inputs.iter().filter_map(Input::map);
        for map in inputs.chain(phase.stores.iter().map(|s| &s.map)).filter(|map| map.strides[dim] != 0) {
            errors.push(format!("phase {number}: map [{map}] of a Reduced phase moves along the {name} dim"));
        }
    }
}

/// A half-open range of indices along one dim.
type Range = (usize, usize);

//! Translation validation: every pass is asked whether its result still means the same.
//!
//! The interpreter runs the graphs before and after a pass on sample environments of that very graph. Outputs must have
//! the same bits (NaNs being equal, and zeros of either sign); where a rule was applied that may change the sign of a zero, elements
//! that depend on one are not judged. Where a rule was applied that improves or relaxes rounding,
//! both are run in f64 and must agree within a tolerance wherever the naive form is finite and its rounding is small. A
//! pass that removes `grad` is checked twice: each derivative against central differences of the value that it is of, and
//! each output against derivatives made from the opened graph. The cost is bounded: what would be too slow is left out,
//! and the report says so.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use cotangent_graph::expand::one_op_graph;
use cotangent_graph::interp::interpret;
use cotangent_graph::samples::{Kind, environment_of, to_f64, wide_env};
use cotangent_graph::{DType, Env, Graph, Lower, NodeId, TensorData};

use cotangent_scalar::plain_lines;

use crate::gradcheck::differences::{
    Known, Section, Seen, Wanted, chosen, differentiated, has_gradients, is_grad, needed, opened, primal, values_of,
};
use crate::gradcheck::{SMALL_SHARE, index_text, suspects};
use crate::interface::{same_interface, title};
use crate::pass::{PassCx, PassError, PassOptions, ValidateHook};
use crate::pipeline::{all_rules, pipeline};
use crate::rebuild::kept;
use crate::rules::Safety;

/// The kinds of values of the samples, in turn.
const KINDS: [Kind; 3] = [Kind::Ordinary, Kind::Extreme, Kind::Mixed];

/// Where the naive form in its own element type is further than this from its value in f64, it says nothing.
const SETTLED: f64 = 1e-2;

/// How often operands are moved a little to see whether a value hangs on a tie. Rounding decides a tie of two anew each time, so one in
/// 2⁸ is taken for none.
const N_NUDGES: u32 = 8;

/// How deep composites are looked into for an estimate of the work.
const WORK_DEPTH: usize = 8;

/// What validation does.
#[derive(Clone, Debug)]
pub struct ValidateOptions {
    /// What values and the choice of elements depend on.
    pub seed: u64,
    /// Environments that each pass is run on: ordinary values, extreme ones, mixed ones, and again.
    pub n_samples: usize,
    /// The largest relative error let pass where values need not be equal.
    pub tolerance: f64,
    /// Elements of each derivative that are compared with differences.
    pub max_gradient_elements: usize,
    /// The most operations on elements that the interpreter may spend on one pass: by default about half a second.
    pub budget: u64,
    /// Every pass may round differently: rules that reassociate or assume finite values were allowed.
    pub relaxed: bool,
    /// Passes of your own that may round differently.
    pub approximate: Vec<String>,
}

impl Default for ValidateOptions {
    fn default() -> Self {
        ValidateOptions {
            seed: 0,
            n_samples: 2,
            tolerance: 1e-6,
            max_gradient_elements: 64,
            budget: 1 << 26,
            relaxed: false,
            approximate: Vec::new(),
        }
    }
}

/// How the values of a pass were compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// By their bits.
    Bits,
    /// Within the tolerance, in f64.
    Tolerance,
    /// Derivatives with central differences.
    Differences,
}

/// What was checked of one change of a graph.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The pass.
    pub pass: String,
    /// How.
    pub how: How,
    /// Environments that it was run on.
    pub n_samples: usize,
    /// Elements that were compared.
    pub n_elements: u64,
    /// Elements that were not: not finite, or badly rounded, in the naive form; dependent on the sign of a zero that a rule may
    /// change; or a kink.
    pub n_unjudged: u64,
    /// Whether values differ, but not where constants are not rounded to the graph's own element types.
    pub is_rounded: bool,
    /// What was left out, and why.
    pub skipped: Vec<String>,
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.how {
            How::Bits => "bits",
            How::Tolerance => "tolerance",
            How::Differences => "differences",
        };
        write!(f, "{:<14} {how:<11} {} samples, {} elements", self.pass, self.n_samples, self.n_elements)?;
        if self.n_unjudged > 0 {
            write!(f, ", {} not judged", self.n_unjudged)?;
        }
        self.skipped.iter().try_for_each(|note| write!(f, "\n  skipped: {}", plain_lines(note)))
    }
}

/// What a validator has checked so far.
#[derive(Clone, Debug, Default)]
pub struct ValidateReport {
    /// Each change, in order.
    pub checks: Vec<Checked>,
}

impl fmt::Display for ValidateReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.checks.iter().try_for_each(|check| writeln!(f, "{check}"))
    }
}

/// A validator that keeps a report; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Validator {
    options: Arc<ValidateOptions>,
    report: Arc<Mutex<ValidateReport>>,
}

impl Validator {
    /// A validator that has checked nothing yet.
    pub fn new(options: ValidateOptions) -> Self {
        Validator { options: Arc::new(options), report: Arc::default() }
    }

    /// What the pipeline calls after each change.
    pub fn hook(&self) -> ValidateHook {
        let validator = self.clone();
        Arc::new(move |pass, before, after| validator.check(pass, before, after))
    }

    /// What was checked so far, and what was left out.
    pub fn report(&self) -> ValidateReport {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Compares the graphs before and after a pass.
    ///
    /// # Errors
    /// What differs.
    pub fn check(&self, pass: &str, before: &Graph, after: &Graph) -> Result<(), String> {
        let mut checked = Checked {
            pass: pass.to_owned(),
            how: How::Bits,
            n_samples: 0,
            n_elements: 0,
            n_unjudged: 0,
            is_rounded: false,
            skipped: Vec::new(),
        };
        let mut run = Run { options: &self.options, before, after, checked: &mut checked };
        let result = run.check();
        self.report.lock().unwrap_or_else(PoisonError::into_inner).checks.push(checked);
        result
    }
}

/// The hook of a new [`Validator`], whose report is not asked for.
pub fn validator(options: ValidateOptions) -> ValidateHook {
    Validator::new(options).hook()
}

impl PassOptions {
    /// The default options with every check on: the verifier and translation validation after each pass.
    pub fn checked(seed: u64) -> Self {
        let validate = Some(validator(ValidateOptions { seed, ..ValidateOptions::default() }));
        PassOptions { verify: true, validate, ..PassOptions::default() }
    }
}

/// The largest finite size of some values, and at least 1.
fn largest_of(values: &[f64]) -> f64 {
    values.iter().filter(|v| v.is_finite()).fold(1.0, |m: f64, v| m.max(v.abs()))
}

/// Moves each element of f64 by a share of at most 2⁻³⁰, another in every turn: large beside rounding, small beside tolerances.
fn nudge(data: &mut TensorData, turn: u32) {
    if let TensorData::F64(array) = data {
        for (k, v) in array.iter_mut().enumerate() {
            // Multiples of the golden ratio are spread evenly.
            let share = ((k + 1) as f64 * f64::from(turn) * 0.618_033_988_749_895).fract() - 0.5;
            *v += *v * share * f64::from(2.0_f32.powi(-29));
        }
    }
}

/// The check of one change.
struct Run<'a> {
    options: &'a ValidateOptions,
    before: &'a Graph,
    after: &'a Graph,
    checked: &'a mut Checked,
}

impl Run<'_> {
    fn check(&mut self) -> Result<(), String> {
        same_interface(self.before, self.after)?;
        if has_gradients(self.before) {
            self.checked.how = if has_gradients(self.after) { How::Tolerance } else { How::Differences };
            let Some(env) = self.environment(0, Kind::Ordinary) else { return Ok(()) };
            return match self.checked.how {
                How::Differences => self.derivatives(&env),
                _ => self.with_derivatives(&env),
            };
        }
        let work = work_of(self.before, WORK_DEPTH).saturating_add(work_of(self.after, WORK_DEPTH)).max(1);
        let n_samples = self.options.n_samples.min(usize::try_from(self.options.budget / work).unwrap_or(usize::MAX));
        if n_samples < self.options.n_samples {
            let n = self.options.n_samples - n_samples;
            self.skip(format!("{n} samples: one takes {work} operations of a budget of {}", self.options.budget));
        }
        for k in 0..n_samples {
            let kind = KINDS[k % KINDS.len()];
            let Some(env) = self.environment(k, kind) else { return Ok(()) };
            self.sample(k, kind, &env)?;
        }
        Ok(())
    }

    /// The values of a sample; none, with a note, if there is no memory for them.
    fn environment(&mut self, k: usize, kind: Kind) -> Option<Env> {
        let env = environment_of(self.before, self.options.seed.wrapping_add(k as u64), kind);
        env.map_err(|diag| self.skip(format!("sample {k}: {}", diag.message))).ok()
    }

    fn skip(&mut self, note: String) {
        self.checked.skipped.push(note);
    }

    /// Both graphs on one environment: by bits, or within the tolerance if the rules that were applied ask for it.
    fn sample(&mut self, k: usize, kind: Kind, env: &Env) -> Result<(), String> {
        let what = format!("sample {k} (seed {}, {kind:?} values)", self.options.seed);
        let before = match interpret(self.before, env) {
            Ok(values) => values,
            Err(diag) => {
                self.skip(format!("{what}: the step is an error before the pass: {}", diag.message));
                return Ok(());
            }
        };
        let after = interpret(self.after, env)
            .map_err(|diag| format!("on {what} the step is an error after the pass only: {}", diag.message))?;
        self.checked.n_samples += 1;
        let n_elements = before.iter().map(|t| t.shape().n_elements() as u64).sum::<u64>();
        if first_difference(self.before, &before, &after, &[]).is_none() {
            self.checked.n_elements += n_elements;
            return Ok(());
        }
        let signed = self.signed((self.before, &before), (self.after, &after), env);
        let Some(difference) = first_difference(self.before, &before, &after, &signed) else {
            let n_signed = signed.iter().flatten().filter(|signed| **signed).count() as u64;
            self.checked.n_unjudged += n_signed;
            self.checked.n_elements += n_elements - n_signed;
            return Ok(());
        };
        if !self.may_round() {
            return Err(format!("{difference}, on {what}"));
        }
        self.checked.how = How::Tolerance;
        if kind != Kind::Ordinary {
            self.skip(format!("{what}: a rule that rounds differently was applied, and values are extreme"));
            return Ok(());
        }
        let tolerance = self.options.tolerance;
        self.close(self.before, self.after, Some(&before), env, tolerance).map_err(|text| format!("{text}, on {what}"))
    }

    /// Whether values may be rounded differently.
    fn may_round(&self) -> bool {
        let named = self.options.approximate.contains(&self.checked.pass);
        self.options.relaxed || named || self.applied(Safety::Stabilizes)
    }

    /// Whether a rule of a class was applied. Asked only where bits differ, so the pass is simply run once more.
    fn applied(&self, safety: Safety) -> bool {
        let of_class = |rule: &str| all_rules().iter().any(|(_, r)| r.name == rule && r.safety == safety);
        let options = PassOptions { verify: false, ..PassOptions::default() };
        let mut cx = PassCx::new(&options);
        let known = pipeline().into_iter().find(|pass| pass.name() == self.checked.pass);
        known
            .is_some_and(|pass| pass.run(self.before, &mut cx).is_ok() && cx.counters.keys().any(|rule| of_class(rule)))
    }

    /// For each output the elements that depend on the sign of a zero, before or after, if a rule was applied that may change
    /// one: they are others where all zeros are positive. Otherwise nothing.
    fn signed(&self, before: (&Graph, &[TensorData]), after: (&Graph, &[TensorData]), env: &Env) -> Vec<Vec<bool>> {
        if !self.applied(Safety::ZeroSign) {
            return Vec::new();
        }
        let env = Env { unsigned_zeros: true, ..env.clone() };
        let mut signed: Vec<Vec<bool>> = before.1.iter().map(|t| vec![false; t.shape().n_elements()]).collect();
        for (graph, values) in [before, after] {
            let Ok(unsigned) = interpret(graph, &env) else { return Vec::new() };
            for (signed, (x, y)) in signed.iter_mut().zip(values.iter().zip(&unsigned)) {
                let pairs = x.bits().into_iter().zip(y.bits());
                signed.iter_mut().zip(pairs).for_each(|(signed, pair)| *signed |= differ(x.dtype(), pair));
            }
        }
        signed
    }

    /// For each output the elements that hang on a tie, a comparison of values that are equal but for rounding, such as `argmin` of
    /// what is zero everywhere: in one of the graphs they are others when each operand is moved by about a part in a billion.
    fn tied(&self, graphs: [(&Graph, &[TensorData]); 2], env: &Env) -> Vec<Vec<bool>> {
        let mut tied: Vec<Vec<bool>> = graphs[0].1.iter().map(|t| vec![false; t.shape().n_elements()]).collect();
        for turn in 1..=N_NUDGES {
            let mut moved = env.clone();
            moved.values.values_mut().for_each(|data| nudge(data, turn));
            for (graph, values) in graphs {
                let Ok(others) = interpret(graph, &moved) else { continue };
                for (tied, (x, y)) in tied.iter_mut().zip(values.iter().zip(&others)) {
                    let (xs, ys) = (x.to_f64(), y.to_f64());
                    let tolerance = self.options.tolerance * largest_of(&xs);
                    let pairs = xs.into_iter().zip(ys);
                    // NaN must not pass for close.
                    let is_close = |(x, y): (f64, f64)| (x - y).abs() <= tolerance;
                    tied.iter_mut().zip(pairs).for_each(|(tied, pair)| *tied |= !is_close(pair));
                }
            }
        }
        tied
    }

    /// Both graphs in f64 within the tolerance, wherever the naive form is finite and, in its own element type, close to
    /// its value in f64.
    fn close(
        &mut self,
        before: &Graph,
        after: &Graph,
        own: Option<&[TensorData]>,
        env: &Env,
        tolerance: f64,
    ) -> Result<(), String> {
        let env = wide_env(env);
        let wide = |graph: &Graph| {
            let made = to_f64(graph).and_then(|graph| interpret(&graph, &env).map(|values| (graph, values)));
            made.map_err(|diag| diag.message)
        };
        let (x, y) = match (wide(before), wide(after)) {
            (Ok(x), Ok(y)) => (x, y),
            (Err(text), _) => {
                self.skip(format!("in f64 the step is an error: {text}"));
                return Ok(());
            }
            (Ok(_), Err(text)) => return Err(format!("in f64 the step is an error after the pass only: {text}")),
        };
        let mut signed: Option<Vec<Vec<bool>>> = None;
        let mut tied: Option<Vec<Vec<bool>>> = None;
        for (k, output) in before.outputs().iter().enumerate() {
            let own = own.map(|own| own[k].to_f64());
            let (shape, xs, ys) = (x.1[k].shape(), x.1[k].to_f64(), y.1[k].to_f64());
            let largest = largest_of(&xs);
            for (element, (&a, &b)) in xs.iter().zip(&ys).enumerate() {
                let settled = own.as_ref().is_none_or(|own| (own[element] - a).abs() <= SETTLED * largest);
                if !a.is_finite() || !settled {
                    self.checked.n_unjudged += 1;
                    continue;
                }
                // NaN must not pass for close.
                if (a - b).abs() <= tolerance * largest {
                    self.checked.n_elements += 1;
                    continue;
                }
                let signed = signed.get_or_insert_with(|| self.signed((&x.0, &x.1), (&y.0, &y.1), &env));
                let tied = tied.get_or_insert_with(|| self.tied([(&x.0, &x.1), (&y.0, &y.1)], &env));
                if !tied[k][element] && !signed.get(k).is_some_and(|signed| signed[element]) {
                    let at = index_text(element, &shape);
                    return Err(format!("{} changes in f64 at element {at} from {a:e} to {b:e}", title(output)));
                }
                self.checked.n_unjudged += 1;
            }
        }
        Ok(())
    }

    /// A pass that keeps `grad`: both graphs, differentiated, within the tolerance.
    fn with_derivatives(&mut self, env: &Env) -> Result<(), String> {
        let (before, after) = match (differentiated(self.before, env.limits), differentiated(self.after, env.limits)) {
            (Ok(before), Ok(after)) => (before, after),
            (Err(error), _) => {
                self.skip(format!("the graph has no derivative: {error}"));
                return Ok(());
            }
            (Ok(_), Err(error)) => return Err(format!("the graph has no derivative after the pass only: {error}")),
        };
        let work = work_of(&before, WORK_DEPTH).saturating_mul(3);
        if work > self.options.budget {
            self.skip(format!("values: they take {work} operations of a budget of {}", self.options.budget));
            return Ok(());
        }
        let own = interpret(&before, env).ok();
        self.checked.n_samples += 1;
        self.close(&before, &after, own.as_deref(), env, self.options.tolerance)
    }

    /// A pass that removes `grad`: every derivative against differences, and the outputs against the opened graph's.
    fn derivatives(&mut self, env: &Env) -> Result<(), String> {
        let plain = match opened(self.before, env.limits).and_then(|open| differentiated(&open, env.limits)) {
            Ok(plain) => plain,
            Err(error) => {
                self.skip(format!("everything: the opened graph cannot be differentiated: {error}"));
                return Ok(());
            }
        };
        let work = work_of(&plain, WORK_DEPTH).saturating_mul(2);
        if work > self.options.budget {
            self.skip(format!("everything: values take {work} operations of a budget of {}", self.options.budget));
            return Ok(());
        }
        self.checked.n_samples += 1;
        // Opened as well, so that both have the same constants, rounded alike.
        let after =
            opened(self.after, env.limits).map_err(|error| format!("its result cannot be expanded: {error}"))?;
        if let Err(difference) = self.close(&plain, &after, None, env, self.options.tolerance) {
            if self.close(&plain, &after, None, env, SETTLED).is_err() || !self.holds_in_f64(env) {
                return Err(difference);
            }
            self.checked.is_rounded = true;
            self.skip(format!("values: {difference}, but not where constants are not rounded"));
        }
        let open = match to_f64(self.before).map_err(PassError::from).and_then(|wide| opened(&wide, env.limits)) {
            Ok(open) => open,
            Err(error) => {
                self.skip(format!("differences: {error}"));
                return Ok(());
            }
        };
        let env = wide_env(env);
        let gradients: Vec<NodeId> = kept(&open).into_iter().filter(|&id| is_grad(open.node(id))).collect();
        let wanted = |id: NodeId| {
            let inputs = &open.node(id).inputs;
            Wanted { y: inputs[0], wrt: Some(inputs[1]), seed: inputs.get(2).copied() }
        };
        let all: Vec<Wanted> = gradients.iter().map(|&id| wanted(id)).collect();
        let mut ids = needed(&open, &all);
        ids.extend(&gradients);
        ids.sort_unstable();
        ids.dedup();
        let known = match values_of(&open, ids, &env) {
            Ok(known) => known,
            Err(error) => {
                self.skip(format!("differences: the step is an error: {error}"));
                return Ok(());
            }
        };
        let mut budget = self.options.budget.saturating_sub(work);
        for (k, &id) in gradients.iter().enumerate() {
            let share = budget / (gradients.len() - k) as u64;
            let spent = self.one_derivative(&open, id, &all[k], &known, &env, share)?;
            budget = budget.saturating_sub(spent);
        }
        Ok(())
    }

    /// Whether the pass keeps the meaning of this graph in f64, where constants that it makes are not rounded to f32: what
    /// cancels then leaves nothing. Asked only of what the pass itself has made.
    fn holds_in_f64(&self, env: &Env) -> bool {
        let name = self.checked.pass.as_str();
        let Some(pass) = pipeline().into_iter().find(|pass| pass.name() == name) else { return false };
        let options = PassOptions { verify: false, ..PassOptions::default() };
        let run = |graph: &Graph| pass.run(graph, &mut PassCx::new(&options)).ok().flatten();
        let is_its_own = run(self.before).is_some_and(|again| again.to_string() == self.after.to_string());
        let Ok(wide) = to_f64(self.before) else { return false };
        let plain = opened(&wide, env.limits).and_then(|open| differentiated(&open, env.limits));
        let (true, Ok(plain), Some(Ok(after))) =
            (is_its_own, plain, run(&wide).map(|after| opened(&after, env.limits)))
        else {
            return false;
        };
        let mut scratch = self.checked.clone();
        let mut run = Run { options: self.options, before: &wide, after: &after, checked: &mut scratch };
        run.close(&plain, &after, None, &wide_env(env), self.options.tolerance).is_ok()
    }

    /// Some elements of one derivative against differences; the operations spent.
    fn one_derivative(
        &mut self,
        open: &Graph,
        id: NodeId,
        wanted: &Wanted,
        known: &Known,
        env: &Env,
        budget: u64,
    ) -> Result<u64, String> {
        let source = open.node(open.node(id).inputs[1]);
        let name = match source.name() {
            None => format!("an intermediate value ({})", open.node(id).origin.loc()),
            Some(name) => format!("`{name}`"),
        };
        let scalar = match primal(open, wanted, known, env) {
            Ok(Ok(scalar)) => scalar,
            Ok(Err(why)) => {
                self.skip(format!("differences by {name}: {why}"));
                return Ok(0);
            }
            Err(error) => {
                self.skip(format!("differences by {name}: {error}"));
                return Ok(0);
            }
        };
        let wrt = scalar.cut.as_deref().or(source.name()).unwrap_or_default();
        let preparing = work_of(&scalar.graph, WORK_DEPTH);
        if preparing > budget {
            self.skip(format!("differences by {name}: one value takes {preparing} operations"));
            return Ok(0);
        }
        let mut section = match Section::new(&scalar.graph, &scalar.env, wrt) {
            Ok(section) => section,
            Err(error) => {
                self.skip(format!("differences by {name}: {error}"));
                return Ok(preparing);
            }
        };
        let each = work_of(section.graph(), WORK_DEPTH).saturating_mul(2).max(1);
        let affordable = usize::try_from((budget - preparing) / each).unwrap_or(usize::MAX);
        let most = self.options.max_gradient_elements.min(affordable);
        let n = section.n_elements();
        if most < n.min(self.options.max_gradient_elements) {
            self.skip(format!(
                "differences by {name}: {most} elements instead of {}",
                n.min(self.options.max_gradient_elements)
            ));
        }
        let Some(symbolic) = known.get(&id) else { return Ok(preparing) };
        let (shape, symbolic) = (symbolic.shape(), symbolic.to_f64());
        let scale = SMALL_SHARE * symbolic.iter().filter(|v| v.is_finite()).fold(0.0, |m: f64, v| m.max(v.abs()));
        for element in chosen(n, most, self.options.seed.wrapping_add(u64::from(id.0))) {
            let judgment = section.judge(element, symbolic[element], scale, self.options.tolerance);
            match judgment.verdict {
                Seen::Agrees => self.checked.n_elements += 1,
                Seen::Kink | Seen::NotFinite => self.checked.n_unjudged += 1,
                Seen::Disagrees => {
                    let at = index_text(element, &shape);
                    let (got, finite) = (symbolic[element], judgment.finite);
                    let mut text = format!(
                        "the derivative by {name} is wrong at element {at}: {got:e}, by central differences {finite:e}"
                    );
                    for suspect in suspects(open, env, self.options.tolerance).unwrap_or_default() {
                        text += &format!("\n  {suspect}");
                    }
                    return Err(text);
                }
            }
        }
        Ok(preparing.saturating_add(each.saturating_mul(most.min(n) as u64)))
    }
}

/// Whether bits are of different values: NaNs are equal, and so are zeros.
fn differ(dtype: DType, (x, y): (u64, u64)) -> bool {
    let (a, b) = (dtype.f64_of_bits(x), dtype.f64_of_bits(y));
    x != y && !(dtype.is_float() && (a == b || (a.is_nan() && b.is_nan())))
}

/// The first element whose value differs, but for those that are not judged.
fn first_difference(
    graph: &Graph,
    before: &[TensorData],
    after: &[TensorData],
    unjudged: &[Vec<bool>],
) -> Option<String> {
    for (k, (output, (x, y))) in graph.outputs().iter().zip(before.iter().zip(after)).enumerate() {
        let dtype = x.dtype();
        let pairs: Vec<(u64, u64)> = x.bits().into_iter().zip(y.bits()).collect();
        let is_judged = |element: usize| !unjudged.get(k).is_some_and(|unjudged| unjudged[element]);
        let differing: Vec<usize> =
            (0..pairs.len()).filter(|&element| is_judged(element) && differ(dtype, pairs[element])).collect();
        if let Some(&element) = differing.first() {
            let (a, b) = (dtype.f64_of_bits(pairs[element].0), dtype.f64_of_bits(pairs[element].1));
            let at = index_text(element, &x.shape());
            let text = format!("{} changes at element {at} from {a:e} to {b:e}", title(output));
            return Some(format!("{text} ({} of {} elements differ)", differing.len(), pairs.len()));
        }
    }
    None
}

/// About how many operations on elements the interpreter takes for what outputs need.
fn work_of(graph: &Graph, depth: usize) -> u64 {
    let mut of_bodies = HashMap::new();
    for body in graph.all_bodies() {
        let work = work_of_one(body, depth, &of_bodies);
        of_bodies.insert(Arc::as_ptr(body), work);
    }
    work_of_one(graph, depth, &of_bodies)
}

/// The same, given the work of its bodies.
fn work_of_one(graph: &Graph, depth: usize, of_bodies: &HashMap<*const Graph, u64>) -> u64 {
    let live = graph.live();
    let n_elements = |id: NodeId| graph.ty(id).shape().n_elements() as u64;
    let of_node = |id: NodeId| -> u64 {
        let node = graph.node(id);
        let operands = node.inputs.iter().map(|&i| n_elements(i)).sum::<u64>();
        match &node.op.lower {
            Lower::Gemm => {
                let inner = graph.ty(node.inputs[0]).shape();
                let rows =
                    if node.attrs.bool("ta") { inner.rank().checked_sub(2) } else { inner.rank().checked_sub(1) };
                n_elements(id).saturating_mul(rows.map_or(1, |axis| inner[axis] as u64))
            }
            Lower::Conv(_) => graph.convolution(id).map_or(operands, |(conv, _)| conv.multiply_adds() as u64),
            Lower::Expand(_) if graph.called(node).is_some() => {
                graph.called(node).map_or(operands, |body| of_bodies[&Arc::as_ptr(body)])
            }
            Lower::Loop => graph.scan(node).map_or(operands, |scan| {
                of_bodies[&Arc::as_ptr(scan.body)].saturating_mul(scan.n as u64).saturating_add(operands)
            }),
            Lower::Expand(_) if depth > 0 => {
                let expansion = one_op_graph(graph, id);
                expansion.map_or(operands, |expansion| work_of(&expansion, depth - 1))
            }
            _ => n_elements(id).max(operands),
        }
    };
    graph.ids().filter(|id| live[id.index()]).fold(0, |sum: u64, id| sum.saturating_add(of_node(id)))
}

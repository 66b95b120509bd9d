//! A tape of scalar operations with their derivatives, and sweeps over it: forward along directions, as dual numbers of orders
//! 1 and 2, and backward, for what a program that accumulates backward rounds and where its numbers leave their type.
//!
//! Every number has a running bound of what a program in the graph's own types rounds on the way to it (Wilkinson 1986), and
//! says whether anything that it was made of has left the type or is not known.

use cotangent_graph::{Attrs, DType};

use super::dd::Dd;
use super::slopes::{Function, Jet, Jet2, Kind};

/// How many times its bound an error may be.
pub const SLACK: f64 = 16.0;

/// Roundings of a function that is computed with several, and of a derivative of it.
const ROUNDINGS: f64 = 8.0;

/// How much faster than by its size over the radius a derivative may change.
const CHANGE: f64 = 4.0;

/// How far from its end a number must be to fit its type: products may be formed in another order.
const NEAR_END: f64 = 16.0;

/// A number with a bound of the error that a program makes of it.
#[derive(Clone, Copy, Debug)]
pub struct Term {
    /// The number.
    pub value: Dd,
    /// The bound.
    pub error: f64,
    /// Whether it is not known, or left the type on the way.
    pub lost: bool,
    /// Whether the table of conventions says that a program may make something else of it.
    pub open: bool,
    /// Whether it is a sum of terms of both signs, which an infinity is multiplied with one by one.
    pub mixed: bool,
}

/// What a float type holds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Scale {
    /// Half a unit in the last place of 1.
    unit: f64,
    /// The least positive number.
    least: f64,
    /// The least one with all digits.
    normal: f64,
    /// The largest.
    most: f64,
}

const F32: Scale = Scale {
    unit: f32::EPSILON as f64 / 2.0,
    least: 1.401_298_464_324_817e-45,
    normal: f32::MIN_POSITIVE as f64,
    most: f32::MAX as f64,
};
const F64: Scale = Scale { unit: f64::EPSILON / 2.0, least: 5e-324, normal: f64::MIN_POSITIVE, most: f64::MAX };

fn scale(dtype: DType) -> Scale {
    if dtype == DType::F32 { F32 } else { F64 }
}

/// Whether a size is in the range in which a type has all digits.
pub fn fits(size: f64, dtype: DType) -> bool {
    let scale = scale(dtype);
    (scale.normal * NEAR_END..=scale.most / NEAR_END).contains(&size)
}

/// `a · b` of bounds: nothing where one of them is nothing.
fn times(a: f64, b: f64) -> f64 {
    if a == 0.0 || b == 0.0 { 0.0 } else { a * b }
}

impl Term {
    /// A number that is exact.
    pub fn exact(value: Dd) -> Self {
        Term { value, error: 0.0, lost: false, open: false, mixed: false }
    }

    fn is_unit(self) -> bool {
        self.error == 0.0 && self.value.size() == 1.0
    }

    /// The number rounded `roundings` times, if it is finite, and what an operation on finite numbers makes of the type's end.
    fn rounded(mut self, scale: Scale, roundings: f64, from_finite: bool) -> Self {
        let size = self.value.size();
        if !size.is_finite() {
            self.lost |= from_finite && size == f64::INFINITY;
            self.error = 0.0;
            return self;
        }
        self.error += roundings * scale.unit * size;
        if size < scale.normal && (size != 0.0 || self.error != 0.0) {
            self.error += roundings.max(1.0) * scale.least;
        }
        self.lost |= size > scale.most / NEAR_END;
        self
    }

    fn times(self, other: Term, scale: Scale) -> Term {
        let (a, b) = (self.value.size(), other.value.size());
        let value = self.value * other.value;
        let error = times(a, other.error) + times(b, self.error) + times(self.error, other.error);
        let open = self.open || other.open || (self.mixed && b == f64::INFINITY) || (other.mixed && a == f64::INFINITY);
        let mixed = self.mixed || other.mixed;
        // What may be 0 in the type, but is not, must not meet an infinity.
        let vanishes = |a: f64, x: Term| a != 0.0 && a.is_finite() && (a < scale.normal || a <= SLACK * x.error);
        let meets = (vanishes(a, self) && b == f64::INFINITY) || (vanishes(b, other) && a == f64::INFINITY);
        let product = Term { value, error, lost: self.lost || other.lost || meets, open, mixed };
        let roundings = if self.is_unit() || other.is_unit() { 0.0 } else { 1.0 };
        // What is 0 because it is too small has an error too.
        let mut product = product.rounded(scale, roundings, a.is_finite() && b.is_finite());
        if value.is_zero() && a != 0.0 && b != 0.0 {
            product.error += scale.least;
        }
        product
    }

    fn plus(self, other: Term, scale: Scale) -> Term {
        let (a, b) = (self.value.size(), other.value.size());
        let value = self.value + other.value;
        let error = self.error + other.error + scale.unit * (a + b);
        let opposite = self.value.to_f64() * other.value.to_f64() < 0.0;
        let mixed = self.mixed || other.mixed || opposite;
        // Infinities of both signs: what comes first depends on the order.
        let open = self.open || other.open || (value.is_nan() && a == f64::INFINITY && b == f64::INFINITY);
        let sum = Term { value, error, lost: self.lost || other.lost, open, mixed };
        sum.rounded(scale, 0.0, a.is_finite() && b.is_finite())
    }
}

/// A sum of terms some of which may be absent.
pub fn add(a: Option<Term>, b: Option<Term>, dtype: DType) -> Option<Term> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.plus(b, scale(dtype))),
        (a, b) => a.or(b),
    }
}

/// A product of terms some of which may be absent, and then it is.
pub fn mul(a: Option<Term>, b: Option<Term>, dtype: DType) -> Option<Term> {
    Some(a?.times(b?, scale(dtype)))
}

/// The place of a number on a tape.
pub type Id = u32;

/// A number on a tape, and how it depends on at most two before it.
#[derive(Clone, Debug)]
struct Entry {
    dtype: DType,
    operands: [Option<Id>; 2],
    value: Term,
    /// By `a`, `b`, `aa`, `ab`, `bb`; `None` where nothing depends on the operand.
    slopes: [Option<Term>; 5],
    /// Equal for numbers whose bits are equal whatever is rounded.
    class: u64,
    /// Whether it is a sum of squares by its form.
    is_squares: bool,
    /// Whether it is a constant.
    is_constant: bool,
    /// Whether zero comes back where nothing does.
    dense: Dense,
    /// Whether the derivative is infinite at finite operands.
    has_pole: bool,
    /// Whether it is inside of a composite that has a derivative of its own.
    in_rule: bool,
}

/// Whether, and why, a program hands a zero back to a number where nothing comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dense {
    /// It does not.
    No,
    /// The number is used several times, or in a row that is not dropped as a whole, and what comes back is a sum.
    Sum,
    /// The number is a term of a matrix product, or a row that is added by index, or is used by nothing.
    Product,
    /// At order 2 only.
    Second,
}

/// How two numbers compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `a < b`.
    Less,
    /// `a = b`.
    Equal,
    /// `a > b`.
    Greater,
    /// One is NaN.
    Unordered,
    /// They are so close that rounding decides.
    Unknown,
}

/// Scalar operations in the order in which they are done.
#[derive(Clone, Debug, Default)]
pub struct Tape {
    entries: Vec<Entry>,
    /// How many composites with a derivative of their own what is written is inside of.
    pub rules: usize,
}

fn mixed(words: impl IntoIterator<Item = u64>) -> u64 {
    words.into_iter().fold(0x9e37_79b9_7f4a_7c15, |hash: u64, word| {
        (hash.rotate_left(23) ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd).wrapping_add(hash >> 31)
    })
}

/// Leaves the sign of a pole open.
fn mark_poles(slopes: &mut [Option<Term>; 5], is_open: bool) {
    for slope in slopes.iter_mut().flatten() {
        slope.open |= is_open && !slope.value.is_finite();
    }
}

impl Tape {
    /// How many numbers it has.
    pub fn n_numbers(&self) -> usize {
        self.entries.len()
    }

    fn push(&mut self, entry: Entry) -> Id {
        self.entries.push(Entry { in_rule: self.rules > 0, ..entry });
        (self.entries.len() - 1) as Id
    }

    fn entry(&self, id: Id) -> &Entry {
        &self.entries[id as usize]
    }

    /// The number at a place.
    pub fn value(&self, id: Id) -> Term {
        self.entry(id).value
    }

    /// A number that is given.
    pub fn leaf(&mut self, dtype: DType, value: f64, is_constant: bool) -> Id {
        let class = mixed([value.to_bits(), dtype as u64]);
        let value = Term::exact(Dd::from(value));
        self.push(Entry { is_constant, ..Entry::new(dtype, [None; 2], value, [None; 5], class) })
    }

    /// The same number, on which nothing that comes before depends.
    pub fn stopped(&mut self, x: Id) -> Id {
        let entry = Entry {
            operands: [None; 2],
            slopes: [None; 5],
            dense: Dense::No,
            has_pole: false,
            ..self.entry(x).clone()
        };
        self.push(entry)
    }

    /// The same number, of which neither the value nor what it depends on is known.
    pub fn lost(&mut self, x: Id) -> Id {
        self.unsure(x, x)
    }

    /// One of two numbers; which, is not known.
    pub fn unsure(&mut self, a: Id, b: Id) -> Id {
        let id = self.either(a, a, b);
        self.entries[id as usize].value.lost = true;
        id
    }

    /// The same number, of which the table of conventions leaves open what comes of it.
    pub fn open(&mut self, x: Id) -> Id {
        let id = self.chosen(x, x);
        let entry = &mut self.entries[id as usize];
        entry.value.open = true;
        entry.slopes.iter_mut().flatten().for_each(|slope| slope.open = true);
        id
    }

    /// The number `value` with the derivative of `by`.
    pub fn chosen(&mut self, value: Id, by: Id) -> Id {
        self.linked(value, [Some(by), None], Term::exact(Dd::ONE))
    }

    /// The number `value`, of which is not known whether it depends on `a` or on `b`.
    pub fn either(&mut self, value: Id, a: Id, b: Id) -> Id {
        let lost = self.value(a).lost || self.value(b).lost;
        let id = self.linked(value, [Some(a), Some(b)], Term { lost: true, ..Term::exact(Dd::ONE) });
        self.entries[id as usize].value.lost |= lost;
        id
    }

    fn linked(&mut self, value: Id, operands: [Option<Id>; 2], slope: Term) -> Id {
        let mut entry = Entry { operands, slopes: [None; 5], ..self.entry(value).clone() };
        for (k, operand) in operands.iter().enumerate() {
            entry.slopes[k] = operand.map(|_| slope);
        }
        entry.is_squares = false;
        (entry.dense, entry.has_pole) = (Dense::No, false);
        self.push(entry)
    }

    /// The number in another float type.
    pub fn cast(&mut self, x: Id, to: DType) -> Id {
        let from = self.entry(x);
        let is_wider = scale(to).unit <= scale(from.dtype).unit;
        let value = self.settled(from.value, to, if is_wider { Kind::Kinked } else { Kind::Rounded }, true);
        let class = mixed([from.class, 1 + to as u64]);
        let mut entry = Entry { dtype: to, operands: [Some(x), None], value, class, ..from.clone() };
        // What comes back is rounded where this was exact.
        let error = if is_wider { scale(from.dtype).unit - scale(to).unit } else { 0.0 };
        entry.slopes = [Some(Term { error, ..Term::exact(Dd::ONE) }), None, None, None, None];
        entry.is_squares = false;
        (entry.dense, entry.has_pole) = (Dense::No, false);
        self.push(entry)
    }

    /// A value as the program computes it.
    fn settled(&self, value: Term, dtype: DType, kind: Kind, from_finite: bool) -> Term {
        let (scale, v) = (scale(dtype), value.value);
        let held = dtype.f64_of_bits(dtype.bits_of_f64(v.to_f64()));
        let is_held = Dd::from(held) == v && v.size() <= scale.most / NEAR_END;
        let roundings = match kind {
            Kind::Kinked | Kind::Stepped => 0.0,
            // What is exact and representable is computed without an error.
            Kind::Rounded if value.error == 0.0 && is_held => 0.0,
            Kind::Approximate if value.error == 0.0 && v.is_zero() => 0.0,
            Kind::Rounded => 1.0,
            Kind::Approximate => ROUNDINGS,
        };
        if roundings == 0.0 && value.error == 0.0 && is_held {
            value
        } else {
            value.rounded(scale, roundings, from_finite)
        }
    }

    /// The error of a derivative whose size is `at`, when what it is taken at is wrong by a share of the radius.
    fn slope(at: Option<Dd>, changes: f64, dtype: DType, kind: Kind, from_finite: bool) -> Option<Term> {
        let at = at?;
        let roundings = match kind {
            Kind::Kinked | Kind::Stepped => 0.0,
            Kind::Rounded => 2.0,
            Kind::Approximate => ROUNDINGS,
        };
        let scale = scale(dtype);
        let error = if changes.is_nan() { f64::INFINITY } else { changes };
        let mut slope = Term { error, ..Term::exact(at) }.rounded(scale, roundings, from_finite);
        // It may be too small for double-double numbers as well.
        if roundings > 0.0 && at.size() < scale.normal {
            slope.error += scale.least;
        }
        Some(slope)
    }

    /// A function of one number. `tag` tells functions apart.
    pub fn unary(&mut self, f: Function, attrs: &Attrs, x: Id, tag: u64) -> Id {
        let operand = self.entry(x);
        let (dtype, at) = (operand.dtype, operand.value);
        let class = mixed([tag, operand.class]);
        let Jet { value, first, second, radius, kind, is_open, is_sum } = f(at.value, attrs);
        let is_near = at.error > 0.0 && !at.value.is_nan() && (radius.is_nan() || 2.0 * SLACK * at.error >= radius);
        let size = |slope: Option<Dd>| slope.map_or(0.0, Dd::size);
        let is_regular = at.value.is_finite() && radius != 0.0;
        let by = [size(first), size(second)];
        let lost = at.lost || (is_near && kind != Kind::Kinked);
        // Beside a kink the program may be on its other side, where the function is steeper.
        let steepness = if is_near && kind == Kind::Kinked { by[0].max(1.0) } else { by[0] };
        let value = Term { value, error: times(steepness, at.error), lost, open: at.open, mixed: false };
        let value = self.settled(value, dtype, kind, is_regular);
        let far = |change: f64| times(CHANGE * change, at.error / radius);
        let mut slopes = [None; 5];
        slopes[0] = Tape::slope(first, times(by[1], at.error), dtype, kind, is_regular);
        let unit = ROUNDINGS * scale(dtype).unit;
        let spread = if is_regular { by[1] + by[0] / radius } else { 0.0 };
        slopes[2] = Tape::slope(second, far(spread) + unit * spread, dtype, kind, is_regular);
        slopes[2] = slopes[2].map(|slope| Term { open: is_open, mixed: is_sum, ..slope });
        mark_poles(&mut slopes, radius == 0.0 && operand.has_free_sign());
        let mut entry = Entry::new(dtype, [Some(x), None], value, slopes, class);
        if kind == Kind::Kinked && (at.lost || is_near) {
            // It may depend on the operand after all.
            entry.slopes[0] = entry.slopes[0].or(Some(Term::exact(Dd::ZERO)));
        }
        entry.unknown(at.lost || is_near);
        self.push(entry)
    }

    /// A function of two numbers.
    pub fn binary(&mut self, f: impl Fn(Dd, Dd) -> Jet2, a: Id, b: Id, tag: u64) -> Id {
        let (x, y) = (self.entry(a), self.entry(b));
        let (dtype, p, q) = (x.dtype, x.value, y.value);
        let class = mixed([tag, x.class, y.class]);
        let Jet2 { value, slopes, radius, kind, is_open, spread, digits, parts } = f(p.value, q.value);
        let size = |k: usize| slopes[k].map_or(0.0, Dd::size);
        let share = |error: f64, radius: f64| if error == 0.0 { 0.0 } else { error / radius };
        let is_nan = p.value.is_nan() || q.value.is_nan();
        let near = |error: f64, radius: f64| error > 0.0 && (radius.is_nan() || 2.0 * SLACK * error >= radius);
        let is_near = !is_nan && (near(p.error, radius[0]) || near(q.error, radius[1]));
        let is_finite = p.value.is_finite() && q.value.is_finite();
        let is_regular = is_finite && radius[0] != 0.0 && radius[1] != 0.0;
        let error = times(size(0), p.error) + times(size(1), q.error) + times(p.error, q.error);
        let lost = p.lost || q.lost || is_near;
        let value = Term { value, error, lost, open: p.open || q.open, mixed: false };
        let value = self.settled(value, dtype, kind, is_regular);
        let rounded = digits * scale(dtype).unit;
        let first = |k: usize, aa: usize, bb: usize| {
            let changes = times(size(aa), p.error) + times(size(bb), q.error) + times(rounded, size(k));
            Tape::slope(slopes[k], changes, dtype, kind, is_regular)
        };
        // Of order 2 by the size of what changes.
        let changes = share(p.error, radius[0]) + share(q.error, radius[1]);
        let cancels = if kind == Kind::Approximate { ROUNDINGS * scale(dtype).unit + rounded } else { 0.0 };
        let second = |k: usize| {
            let spread = if is_regular { spread[k - 2] } else { 0.0 };
            let changes = times(CHANGE * spread, changes) + times(cancels, spread);
            Tape::slope(slopes[k], changes, dtype, kind, is_regular)
        };
        let mut slopes = [first(0, 2, 3), first(1, 3, 4), second(2), second(3), second(4)];
        for (k, slope) in slopes.iter_mut().enumerate().skip(2) {
            let open = (k == 3 && is_open[0]) || is_open[1];
            *slope = slope.map(|slope| Term { open, mixed: kind == Kind::Approximate, ..slope });
        }
        mark_poles(&mut slopes, (radius[0] == 0.0 && x.has_free_sign()) || (radius[1] == 0.0 && y.has_free_sign()));
        let mut entry = Entry::new(dtype, [Some(a), Some(b)], value, slopes, class);
        let in_range = |part: &f64| *part == 0.0 || !part.is_finite() && !is_regular || fits(*part, dtype);
        entry.unknown(p.lost || q.lost || is_near || !parts.iter().all(in_range));
        self.push(entry)
    }

    /// Notes that a program hands a zero back to a number where nothing comes back.
    pub fn note_dense(&mut self, id: Id, how: Dense) {
        self.entries[id as usize].dense = how;
    }

    /// Notes that the derivative of a number is infinite at some finite operands.
    pub fn note_pole(&mut self, id: Id) {
        self.entries[id as usize].has_pole = true;
    }

    /// Notes that a number is a sum of squares by its form.
    pub fn note_squares(&mut self, id: Id) {
        self.entries[id as usize].is_squares = true;
    }

    /// Whether a number is a sum of squares by its form.
    pub fn is_squares(&self, id: Id) -> bool {
        self.entry(id).is_squares
    }

    /// The number, if it is a constant.
    pub fn constant(&self, id: Id) -> Option<f64> {
        let entry = self.entry(id);
        entry.is_constant.then(|| entry.value.value.to_f64())
    }

    /// How two numbers compare in the program.
    pub fn compare(&self, a: Id, b: Id) -> Order {
        let (x, y) = (self.entry(a), self.entry(b));
        let (p, q) = (x.value, y.value);
        if p.lost || q.lost {
            return Order::Unknown;
        }
        if p.value.is_nan() || q.value.is_nan() {
            return Order::Unordered;
        }
        if a == b || x.class == y.class {
            return Order::Equal;
        }
        let apart = (p.value - q.value).size();
        let error = p.error + q.error;
        if apart.is_finite() && (error.is_nan() || (error > 0.0 && apart <= SLACK * error)) {
            return Order::Unknown;
        }
        match p.value.partial_cmp(&q.value) {
            Some(std::cmp::Ordering::Less) => Order::Less,
            Some(std::cmp::Ordering::Greater) => Order::Greater,
            _ => Order::Equal,
        }
    }

    /// The dual parts of all numbers along a direction, which `of` gives for numbers that are given.
    pub fn forward(&self, mut of: impl FnMut(Id) -> Option<Term>) -> Vec<Option<Term>> {
        let mut duals: Vec<Option<Term>> = Vec::with_capacity(self.n_numbers());
        for (id, entry) in self.entries.iter().enumerate() {
            let dual = |k: usize| entry.operands[k].and_then(|operand| duals[operand as usize]);
            let part = |k: usize| mul(entry.slopes[k], dual(k), entry.dtype);
            let given = if entry.operands[0].is_none() { of(id as Id) } else { None };
            duals.push(given.or_else(|| add(part(0), part(1), entry.dtype)));
        }
        duals
    }

    /// The mixed dual parts of order 2, given those of order 1 along two directions.
    pub fn forward_second(&self, x: &[Option<Term>], y: &[Option<Term>]) -> Vec<Option<Term>> {
        let mut duals: Vec<Option<Term>> = Vec::with_capacity(self.n_numbers());
        for entry in &self.entries {
            let of = |k: usize, of: &[Option<Term>]| entry.operands[k].and_then(|operand| of[operand as usize]);
            let t = |a, b| mul(a, b, entry.dtype);
            let s = |a, b| add(a, b, entry.dtype);
            let first = s(t(entry.slopes[0], of(0, &duals)), t(entry.slopes[1], of(1, &duals)));
            let [_, _, aa, ab, bb] = entry.slopes;
            let crossed = s(t(of(0, x), of(1, y)), t(of(1, x), of(0, y)));
            let second = s(t(aa, t(of(0, x), of(0, y))), s(t(ab, crossed), t(bb, t(of(1, x), of(1, y)))));
            duals.push(s(first, second));
        }
        duals
    }

    /// What a program that accumulates backward makes of the derivatives of `Σ seed · number`. Where nothing comes back it
    /// passes nothing on; if `dense`, it does pass on zeros from where [`Tape::note_dense`] said so, which meet infinities.
    pub fn backward(&self, seeds: &[(Id, Term)], dense: bool) -> Vec<Option<Term>> {
        let mut found: Vec<Option<Term>> = vec![None; self.n_numbers()];
        for &(id, seed) in seeds {
            found[id as usize] = add(found[id as usize], Some(seed), self.entry(id).dtype);
        }
        for (id, entry) in self.entries.iter().enumerate().rev() {
            let back = entry.back(found[id], dense && entry.dense != Dense::Second);
            for (k, operand) in entry.operands.iter().enumerate() {
                let Some(operand) = *operand else { continue };
                let dtype = self.entry(operand).dtype;
                let part = mul(entry.slopes[k], back, dtype);
                let part = if entry.puts_back(back) { part.and(back) } else { part };
                found[operand as usize] = add(found[operand as usize], part, dtype);
            }
        }
        found
    }

    /// The same of the derivatives of `Σ seed · dual`, given the derivatives of `Σ seed · number` and the dual parts.
    pub fn backward_second(&self, first: &[Option<Term>], duals: &[Option<Term>], dense: bool) -> Vec<Option<Term>> {
        let mut found: Vec<Option<Term>> = vec![None; self.n_numbers()];
        for (id, entry) in self.entries.iter().enumerate().rev() {
            let (back, slope) = (entry.back(found[id], dense), entry.back(first[id], dense));
            let dual = |k: usize| entry.operands[k].and_then(|operand| duals[operand as usize]);
            for (k, operand) in entry.operands.iter().enumerate() {
                let Some(operand) = *operand else { continue };
                let dtype = self.entry(operand).dtype;
                let t = |a, b| mul(a, b, dtype);
                // The own derivative of order 2 is at 2 or 4, the mixed one at 3.
                let bent = add(t(entry.slopes[2 + 2 * k], dual(k)), t(entry.slopes[3], dual(1 - k)), dtype);
                // In whichever order it is multiplied.
                let crossed = add(t(slope, dual(0)), t(slope, dual(1)), dtype).is_some_and(|term| term.lost);
                let bent = t(slope, bent).map(|term| Term { lost: term.lost || crossed, ..term });
                let passed = t(entry.slopes[k], back);
                let passed = if entry.puts_back(back) { passed.and(back) } else { passed };
                let bent = if entry.puts_back(slope) { bent.and(slope) } else { bent };
                let mut part = add(passed, bent, dtype);
                if entry.in_rule && [back, slope].into_iter().flatten().any(|term| term.value.size() == f64::INFINITY) {
                    // A rule multiplies other terms with it.
                    part = part.map(|term| Term { open: true, ..term });
                }
                found[operand as usize] = add(found[operand as usize], part, dtype);
            }
        }
        found
    }
}

impl Entry {
    fn new(dtype: DType, operands: [Option<Id>; 2], value: Term, slopes: [Option<Term>; 5], class: u64) -> Self {
        let (is_squares, is_constant, has_pole, in_rule) = (false, false, false, false);
        Entry { dtype, operands, value, slopes, class, is_squares, is_constant, dense: Dense::No, has_pole, in_rule }
    }

    /// Whether it is a zero of which the sign is nobody's: passes may change it, and the table says nothing of negative ones.
    fn has_free_sign(&self) -> bool {
        self.value.value.is_zero() && (self.operands[0].is_some() || self.value.value.to_f64().is_sign_negative())
    }

    /// What is passed on of what came back.
    fn back(&self, back: Option<Term>, dense: bool) -> Option<Term> {
        let zero = Term { open: true, ..Term::exact(Dd::ZERO) };
        let is_zero = |term: Term| term.open && term.value.is_zero() && term.error == 0.0;
        match (back, self.dense) {
            (Some(term), Dense::Product) if is_zero(term) => Some(Term { error: 1.0, ..term }),
            (None, Dense::Sum | Dense::Second) if dense => Some(zero),
            // With an error, as an outcome of arithmetic.
            (None, Dense::Product) if dense => Some(Term { error: 1.0, ..zero }),
            (other, _) => other,
        }
    }

    /// Whether a zero that comes back, and is no outcome of arithmetic, is put back: in front of poles.
    fn puts_back(&self, back: Option<Term>) -> bool {
        back.is_some_and(|back| self.has_pole && back.open && back.value.is_zero() && back.error == 0.0)
    }

    /// Marks the derivatives as not known, if so.
    fn unknown(&mut self, is: bool) {
        // Those of order 2 are made of those of order 1.
        let is_first = self.slopes[..2].iter().flatten().any(|slope| slope.lost);
        for slope in self.slopes[2..].iter_mut().flatten() {
            slope.lost |= is_first;
        }
        for slope in self.slopes.iter_mut().flatten() {
            slope.lost |= is;
        }
    }
}

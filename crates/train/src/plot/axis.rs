//! One axis: its ends, where a value stands between them, and the ticks.

/// An axis from the lesser to the greater end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Axis {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) log: bool,
    /// Whether its values are counted: no tick stands between whole numbers.
    pub(super) whole: bool,
}

/// A place on an axis with its label; lesser ticks have none.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tick {
    pub(super) value: f64,
    pub(super) label: Option<String>,
}

/// Ticks with labels, at most, on a linear axis.
const MAX_TICKS: f64 = 7.0;
/// More decades than that get a label only every second, third, .. decade.
const MAX_DECADES: i32 = 7;
/// The room left free at each end, as a share of the axis.
const MARGIN: f64 = 0.04;

impl Axis {
    /// The axis on which all of the values that can be shown are, with a margin, or exactly the given ends.
    pub(super) fn new(values: impl Iterator<Item = f64>, log: bool, ends: Option<(f64, f64)>) -> Axis {
        let shown = |v: &f64| v.is_finite() && (!log || *v > 0.0);
        if let Some((a, b)) = ends.filter(|(a, b)| a != b && shown(a) && shown(b)) {
            return Axis { low: a.min(b), high: a.max(b), log, whole: false };
        }
        let (low, high) =
            values.filter(shown).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            let (low, high) = if log { (0.1, 10.0) } else { (0.0, 1.0) };
            return Axis { low, high, log, whole: false };
        }
        if log {
            let margin = (high / low).powf(MARGIN).max(1.05);
            return Axis { low: low / margin, high: high * margin, log, whole: false };
        }
        // One value alone stands in the middle of an axis of its own size.
        let span = if high > low { high - low } else { low.abs().max(1.0) };
        let margin = if high > low { MARGIN * span } else { 0.5 * span };
        // Zero is a natural end: the margin does not go beyond it.
        let below = if low >= 0.0 { (low - margin).max(0.0) } else { low - margin };
        Axis { low: below, high: high + margin, log, whole: false }
    }

    /// The axis of values that are counted, such as epochs, if all that can be shown are whole numbers.
    pub(super) fn whole(self, values: impl Iterator<Item = f64>) -> Axis {
        let mut shown = values.filter(|v| v.is_finite()).peekable();
        Axis { whole: shown.peek().is_some() && shown.all(|v| v.fract() == 0.0), ..self }
    }

    /// Where a value stands, from 0 (low end) to 1 (high end), beyond them if it lies outside; `None` if it cannot be
    /// shown.
    pub(super) fn place(&self, value: f64) -> Option<f64> {
        let at = if self.log {
            if value <= 0.0 {
                return None;
            }
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        at.is_finite().then_some(at)
    }

    /// The axis with more room at its upper end, a share of what it has.
    pub(super) fn stretched(self, share: f64) -> Axis {
        let high = if self.log {
            self.high * (self.high / self.low).powf(share)
        } else {
            self.high + share * (self.high - self.low)
        };
        if high.is_finite() { Axis { high, ..self } } else { self }
    }

    /// The ticks, from low to high.
    pub(super) fn ticks(&self) -> Vec<Tick> {
        if self.log { self.log_ticks() } else { self.linear_ticks() }
    }

    /// Multiples of 1, 2 or 5 times a power of ten.
    fn linear_ticks(&self) -> Vec<Tick> {
        let step = nice_step((self.high - self.low) / MAX_TICKS);
        let step = if self.whole { step.max(1.0) } else { step };
        // Integers so that 0.1 + 0.1 + 0.1 is printed as 0.3; a span of so few steps fits easily.
        let (first, last) = ((self.low / step - 1e-9).ceil(), (self.high / step + 1e-9).floor());
        let n_digits = (-step.log10().floor()).max(0.0) as usize;
        let scientific = !(1e-4..1e6).contains(&self.low.abs().max(self.high.abs()));
        let mut ticks = Vec::new();
        let mut k = first;
        while k <= last && ticks.len() < 100 {
            let value = k * step;
            let label = match scientific {
                _ if k == 0.0 => "0".to_owned(),
                true => tidy_exponent(&format!("{value:.2e}")),
                false => format!("{value:.n_digits$}").replace('-', "−"),
            };
            ticks.push(Tick { value, label: Some(label) });
            k += 1.0;
        }
        ticks
    }

    /// Powers of ten with lesser ticks at 2 to 9 between them; if less than two of them are on the axis, 2 and 5 have
    /// labels too, and 3 and 7 on a short axis. Where that leaves less than three labels, those of a linear axis.
    fn log_ticks(&self) -> Vec<Tick> {
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let n_powers = (first..=last).filter(|&e| self.contains(10f64.powi(e))).count();
        let stride = ((last - first) / MAX_DECADES).max(0) + 1;
        let mut ticks = Vec::new();
        for exponent in first..=last {
            for digit in 1..10 {
                let value = f64::from(digit) * 10f64.powi(exponent);
                let labeled = match digit {
                    1 => exponent % stride == 0,
                    2 | 5 => n_powers < 2,
                    3 | 7 => n_powers < 2 && self.high / self.low < 6.0,
                    _ => n_powers == 0 && self.high / self.low < 2.5,
                };
                if self.contains(value) && (stride == 1 || digit == 1) {
                    ticks.push(Tick { value, label: labeled.then(|| power_label(digit, exponent)) });
                }
            }
        }
        if ticks.iter().filter(|tick| tick.label.is_some()).count() < 3 && n_powers < 2 {
            self.linear_ticks()
        } else {
            ticks
        }
    }

    fn contains(&self, value: f64) -> bool {
        self.place(value).is_some_and(|at| (-1e-9..=1.0 + 1e-9).contains(&at))
    }
}

/// The least of 1, 2, 5 times a power of ten that is not below `step`.
fn nice_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let times = [1.0, 2.0, 5.0].into_iter().find(|times| times * power >= step * (1.0 - 1e-9));
    times.unwrap_or(10.0) * power
}

/// "0.001", "20", "5·10⁶".
fn power_label(digit: i32, exponent: i32) -> String {
    match exponent {
        0..=4 => format!("{}", i64::from(digit) * 10i64.pow(exponent.unsigned_abs())),
        -3..=-1 => format!("{:.*}", exponent.unsigned_abs() as usize, f64::from(digit) * 10f64.powi(exponent)),
        _ if digit == 1 => format!("10{}", superscript(exponent)),
        _ => format!("{digit}·10{}", superscript(exponent)),
    }
}

/// "1.50e7" as "1.5·10⁷".
fn tidy_exponent(text: &str) -> String {
    let Some((mantissa, exponent)) = text.split_once('e') else { return text.to_owned() };
    let mantissa = mantissa.trim_end_matches('0').trim_end_matches('.').replace('-', "−");
    format!("{mantissa}·10{}", superscript(exponent.parse().unwrap_or(0)))
}

fn superscript(number: i32) -> String {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let of = |c: char| c.to_digit(10).map_or('⁻', |d| DIGITS[d as usize]);
    number.to_string().chars().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: Axis) -> Vec<String> {
        axis.ticks().into_iter().filter_map(|tick| tick.label).collect()
    }

    fn axis(low: f64, high: f64, log: bool) -> Axis {
        Axis { low, high, log, whole: false }
    }

    #[test]
    fn linear_ticks_are_round_numbers() {
        assert_eq!(labels(axis(0.0, 1.0, false)), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(axis(-1.5, 1.5, false)), ["−1.5", "−1.0", "−0.5", "0", "0.5", "1.0", "1.5"]);
        assert_eq!(labels(axis(0.0, 12.4, false)), ["0", "2", "4", "6", "8", "10", "12"]);
        assert_eq!(labels(axis(0.0, 3.1e7, false)), ["0", "5·10⁶", "1·10⁷", "1.5·10⁷", "2·10⁷", "2.5·10⁷", "3·10⁷"]);
    }

    #[test]
    fn logarithmic_ticks_are_powers_of_ten_or_finer_if_there_are_few() {
        assert_eq!(labels(axis(0.004, 300.0, true)), ["0.01", "0.1", "1", "10", "100"]);
        assert_eq!(labels(axis(1.5, 70.0, true)), ["2", "5", "10", "20", "50"]);
        assert_eq!(labels(axis(1e-12, 1.0, true)), ["10⁻¹²", "10⁻¹⁰", "10⁻⁸", "10⁻⁶", "10⁻⁴", "0.01", "1"]);
        assert_eq!(labels(axis(9.0, 40.0, true)), ["10", "20", "30"]);
        assert_eq!(labels(axis(0.031, 0.059, true)), ["0.035", "0.040", "0.045", "0.050", "0.055"]);
        assert_eq!(labels(axis(1.9, 2.3, true)), ["1.9", "2.0", "2.1", "2.2", "2.3"]);
        assert_eq!(labels(axis(0.3, 2.5, true)), ["0.5", "1", "2"]);
    }

    #[test]
    fn what_is_counted_has_ticks_at_whole_numbers() {
        let of = |values: &[f64]| labels(Axis::new(values.iter().copied(), false, None).whole(values.iter().copied()));
        assert_eq!(of(&[1.0]), ["1"]);
        assert_eq!(of(&[1.0, 2.0, f64::NAN]), ["1", "2"]);
        assert_eq!(of(&[1.0, 1.5, 2.0]), ["1.0", "1.2", "1.4", "1.6", "1.8", "2.0"]);
        assert_eq!(of(&[0.0, 20.0]), ["0", "5", "10", "15", "20"]);
        assert_eq!(of(&[]), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
    }

    #[test]
    fn axes_hold_what_can_be_shown() {
        let of = |values: &[f64], log| Axis::new(values.iter().copied(), log, None);
        assert_eq!(of(&[], false), axis(0.0, 1.0, false));
        assert_eq!(of(&[f64::NAN, f64::INFINITY], false), axis(0.0, 1.0, false));
        assert_eq!(of(&[-1.0, 0.0], true), axis(0.1, 10.0, true));
        let one = of(&[3.0], false);
        assert!(one.low < 3.0 && 3.0 < one.high);
        let some = of(&[1.0, 5.0, f64::NAN], false);
        assert!(some.low < 1.0 && some.low >= 0.0 && some.high > 5.0);
        assert_eq!(Axis::new([7.0].into_iter(), false, Some((2.0, 1.0))), axis(1.0, 2.0, false));
        assert_eq!(axis(1.0, 100.0, true).place(10.0), Some(0.5));
        assert_eq!((axis(1.0, 2.0, true).place(0.0), axis(0.0, 2.0, false).place(3.0)), (None, Some(1.5)));
        assert!(axis(f64::MIN, f64::MAX, false).ticks().len() <= 100);
    }
}

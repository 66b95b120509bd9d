//! Schedules: the learning rate as a function of the number of steps taken.
//!
//! What follows from the step number alone is part of the program: a schedule is a few scalar ops on the counter
//! `optimizer.t`, so a run that is resumed from its states goes on as it would have, and nobody has to set anything. The rate
//! in use is `optimizer.lr` times the schedule's factor, so `store.set("optimizer.lr", …)` still scales all of it. What
//! follows from a measurement is not a function of the step: somebody on the host sets `optimizer.lr`, such as the trainer's
//! `ReduceOnPlateau`.

use std::f64::consts::PI;

use cotangent_graph::{DType, GraphBuilder, Tensor};
use cotangent_host::float::in_default;

/// A factor of the learning rate for each step; at most 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    warm_up: u64,
    floor: f64,
    curve: Curve,
}

#[derive(Clone, Debug, PartialEq)]
enum Curve {
    Constant,
    Step { every: u64, gamma: f64 },
    Milestones { at: Vec<u64>, gamma: f64 },
    Exponential { gamma: f64 },
    Linear { steps: u64 },
    Cosine { steps: u64 },
    Restarts { period: u64, stretch: u64 },
    OneCycle { steps: u64, peak: f64 },
}

/// How far below its peak a one-cycle schedule starts (Smith and Topin 2017).
const ONE_CYCLE_START: f64 = 1.0 / 25.0;

impl Schedule {
    fn of(curve: Curve) -> Self {
        Schedule { warm_up: 0, floor: 0.0, curve }
    }

    /// 1 at every step.
    pub fn constant() -> Self {
        Schedule::of(Curve::Constant)
    }

    /// `gamma^⌊t / every⌋`.
    pub fn step(every: u64, gamma: f64) -> Self {
        Schedule::of(Curve::Step { every, gamma })
    }

    /// `gamma` to the number of milestones that `t` has reached.
    pub fn milestones(at: &[u64], gamma: f64) -> Self {
        Schedule::of(Curve::Milestones { at: at.to_vec(), gamma })
    }

    /// `gamma^t`.
    pub fn exponential(gamma: f64) -> Self {
        Schedule::of(Curve::Exponential { gamma })
    }

    /// A line from 1 to the floor after `steps` steps.
    pub fn linear(steps: u64) -> Self {
        Schedule::of(Curve::Linear { steps })
    }

    /// Half a cosine from 1 to the floor after `steps` steps: `(1 + cos(π t / steps)) / 2`, and the floor from there on.
    pub fn cosine(steps: u64) -> Self {
        Schedule::of(Curve::Cosine { steps })
    }

    /// Cosine cycles with warm restarts (SGDR, Loshchilov and Hutter 2016): the first takes `period` steps, each one
    /// `stretch` times as long as the one before. The steps after which a snapshot is worth keeping: [`Schedule::ends_cycle`].
    pub fn warm_restarts(period: u64, stretch: u64) -> Self {
        Schedule::of(Curve::Restarts { period, stretch })
    }

    /// One cycle (Smith and Topin 2017) with cosine flanks: from 1/25 up to 1 at 30 % of `steps`, then down to 1/250,000.
    pub fn one_cycle(steps: u64) -> Self {
        Schedule::of(Curve::OneCycle { steps, peak: 0.3 })
    }

    /// Another share of a one-cycle schedule's steps for the way up; others take no notice.
    pub fn peak_at(mut self, share: f64) -> Self {
        if let Curve::OneCycle { peak, .. } = &mut self.curve {
            *peak = share;
        }
        self
    }

    /// The factor below which linear and cosine schedules do not fall; 0 by default. Others take no notice.
    pub fn floor(mut self, factor: f64) -> Self {
        self.floor = factor;
        self
    }

    /// Begins with `steps` steps in which the factor grows by a line, `(t + 1) / steps`; what follows starts after them.
    pub fn warm_up(mut self, steps: u64) -> Self {
        self.warm_up = steps;
        self
    }

    /// What is wrong with it, if anything.
    pub(crate) fn check(&self) -> Result<(), String> {
        let positive = |what: &str, n: u64| if n > 0 { Ok(()) } else { Err(format!("{what} of at least 1")) };
        let gamma = |gamma: f64| {
            let fine = gamma > 0.0 && gamma <= 1.0;
            if fine { Ok(()) } else { Err(format!("a schedule's gamma in (0, 1], got {gamma}")) }
        };
        if !(0.0..=1.0).contains(&self.floor) {
            return Err(format!("a schedule's floor in [0, 1], got {}", self.floor));
        }
        match &self.curve {
            Curve::Constant => Ok(()),
            Curve::Step { every, gamma: g } => positive("a schedule with steps", *every).and(gamma(*g)),
            Curve::Milestones { gamma: g, .. } | Curve::Exponential { gamma: g } => gamma(*g),
            Curve::Linear { steps } | Curve::Cosine { steps } => positive("a schedule with a length", *steps),
            Curve::Restarts { period, stretch } => {
                positive("warm restarts with a period", *period).and(positive("warm restarts with a stretch", *stretch))
            }
            Curve::OneCycle { steps, peak } => {
                let fine = (0.0..1.0).contains(peak) && peak * *steps as f64 > 1.0;
                if fine { Ok(()) } else { Err("a one-cycle schedule whose peak comes after its first step".to_owned()) }
            }
        }
    }

    /// The factor at a step, counted from 0: what the program computes, for plots and for programs that step by hand.
    pub fn factor(&self, step: u64) -> f64 {
        in_default(|| self.factor_at(step))
    }

    fn factor_at(&self, step: u64) -> f64 {
        let t = step.saturating_sub(self.warm_up) as f64;
        let cosine = |share: f64| (1.0 + (PI * share.min(1.0)).cos()) / 2.0;
        let down = |share: f64| self.floor + (1.0 - self.floor) * share;
        let value = match &self.curve {
            Curve::Constant => 1.0,
            Curve::Step { every, gamma } => gamma.powf((t / *every as f64).floor()),
            Curve::Milestones { at, gamma } => gamma.powf(at.iter().filter(|&&m| t >= m as f64).count() as f64),
            Curve::Exponential { gamma } => gamma.powf(t),
            Curve::Linear { steps } => down(1.0 - (t / *steps as f64).min(1.0)),
            Curve::Cosine { steps } => down(cosine(t / *steps as f64)),
            Curve::Restarts { .. } => {
                let (at, length) = self.cycle(t as u64);
                down(cosine(at as f64 / length as f64))
            }
            Curve::OneCycle { steps, peak } => {
                let (top, last) = (peak * *steps as f64 - 1.0, *steps as f64 - 1.0);
                if t <= top {
                    1.0 + (ONE_CYCLE_START - 1.0) * cosine(t / top)
                } else {
                    let end = ONE_CYCLE_START * 1e-4;
                    end + (1.0 - end) * cosine((t - top) / (last - top))
                }
            }
        };
        if self.warm_up == 0 { value } else { value * ((step as f64 + 1.0) / self.warm_up as f64).min(1.0) }
    }

    /// Place and length, at least 1, of a step's cycle; of other schedules than warm restarts, of the one cycle that is all steps.
    fn cycle(&self, t: u64) -> (u64, u64) {
        let Curve::Restarts { period, stretch } = self.curve else { return (t, u64::MAX) };
        let (mut start, mut length) = (0u64, period.max(1));
        if stretch <= 1 {
            return (t % length, length);
        }
        while t - start >= length {
            start += length;
            length = length.saturating_mul(stretch);
        }
        (t - start, length)
    }

    /// Whether this step, counted from 0, is the last one of a cycle of warm restarts.
    pub fn ends_cycle(&self, step: u64) -> bool {
        let (at, length) = self.cycle(step.saturating_sub(self.warm_up));
        step >= self.warm_up && at == length - 1
    }

    /// The factor as a scalar f64, given the number of steps taken, a scalar f64.
    #[track_caller]
    pub(crate) fn factor_of<'g>(&self, g: &'g GraphBuilder, taken: Tensor<'g>) -> Tensor<'g> {
        let number = |v: f64| g.scalar(v, DType::F64);
        let t = if self.warm_up == 0 { taken } else { (taken - self.warm_up as f64).maximum(number(0.0)) };
        let value = match &self.curve {
            Curve::Constant => number(1.0),
            Curve::Step { every, gamma } => number(*gamma).pow((t / *every as f64).floor()),
            Curve::Milestones { at, gamma } => {
                let mut reached = number(0.0);
                for &milestone in at {
                    reached += t.ge(number(milestone as f64)).cast(DType::F64);
                }
                number(*gamma).pow(reached)
            }
            Curve::Exponential { gamma } => number(*gamma).pow(t),
            Curve::Linear { steps } => self.down(1.0 - (t / *steps as f64).minimum(number(1.0))),
            Curve::Cosine { steps } => self.down(cosine(t / *steps as f64)),
            Curve::Restarts { period, stretch } => {
                let (first, k) = (*period as f64, *stretch as f64);
                if *stretch == 1 {
                    self.down(cosine(t / first - (t / first).floor()))
                } else {
                    // Cycle n starts at first·(kⁿ − 1)/(k − 1). The small number keeps a rounded logarithm from falling
                    // just short of n at that very step.
                    let n = ((t * ((k - 1.0) / first) + 1.0).log() / k.ln() + 1e-9).floor();
                    let power = number(k).pow(n).round();
                    let start = (power - 1.0) * first / (k - 1.0);
                    self.down(cosine((t - start) / (power * first)))
                }
            }
            Curve::OneCycle { steps, peak } => {
                let (top, last) = (peak * *steps as f64 - 1.0, *steps as f64 - 1.0);
                let end = ONE_CYCLE_START * 1e-4;
                let up = cosine(t / top) * (ONE_CYCLE_START - 1.0) + 1.0;
                let down = cosine((t - top) / (last - top)) * (1.0 - end) + end;
                t.le(number(top)).select(up, down)
            }
        };
        if self.warm_up == 0 {
            return value;
        }
        value * ((taken + 1.0) / self.warm_up as f64).minimum(number(1.0))
    }

    #[track_caller]
    fn down<'g>(&self, share: Tensor<'g>) -> Tensor<'g> {
        if self.floor == 0.0 { share } else { share * (1.0 - self.floor) + self.floor }
    }
}

/// `(1 + cos(π · min(share, 1))) / 2`.
#[track_caller]
fn cosine(share: Tensor<'_>) -> Tensor<'_> {
    let one = share.constant_like(1.0);
    ((share.minimum(one) * PI).cos() + 1.0) / 2.0
}

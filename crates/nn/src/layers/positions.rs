//! Where in its sequence a row stands: tables and waves that are added to it, and turns of queries and keys.

use cotangent_graph::{Code, DType, Diag, Init, Shape, Tensor};

use super::{Layer, bad_setting, refused, takes};

/// Positions added to `[.., time, features]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Positions {
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Learned { length: usize, init: Init },
    Waves { base: f64 },
}

impl Positions {
    /// A trained row for each of `length` places, `name.weight` `[length, features]`, standard normal at first.
    pub fn learned(length: usize) -> Self {
        Positions { kind: Kind::Learned { length, init: Init::normal(0.0, 1.0) } }
    }

    /// Waves (Vaswani et al. 2017): features `2i` and `2i + 1` of place `t` are the sine and the cosine of `t / 10000^(2i/features)`.
    pub fn sinusoidal() -> Self {
        Positions { kind: Kind::Waves { base: 1e4 } }
    }

    /// Another start of a trained table.
    pub fn init(mut self, start: Init) -> Self {
        if let Kind::Learned { init, .. } = &mut self.kind {
            *init = start;
        }
        self
    }

    /// [`Layer::apply`] for rows that stand from `position` on, a scalar of i32 or i64 known when the step runs. A place beyond a
    /// table's end is an error of the step.
    #[track_caller]
    pub fn run<'g>(&self, name: &str, x: Tensor<'g>, position: Option<Tensor<'g>>) -> Tensor<'g> {
        let outer = x.builder().enter(name);
        let made = self.inside(name, x, position);
        x.builder().leave(outer);
        made
    }

    #[track_caller]
    fn inside<'g>(&self, name: &str, x: Tensor<'g>, position: Option<Tensor<'g>>) -> Tensor<'g> {
        const KIND: &str = "positions";
        if !takes(KIND, name, x, 2, "the last axes are time and features") {
            return refused(x, None);
        }
        let (g, time, features) = (x.builder(), x.dim(-2), x.dim(-1));
        let rows = match self.kind {
            Kind::Learned { length, init } => {
                if length < time || features == 0 {
                    let text = format!(
                        "`{KIND}` requires rows for all places, got {length} for {time} places of {features} features in layer `{}`",
                        g.scoped(name)
                    );
                    return x.refuse(Diag::new(Code::ShapeMismatch, text).made("the operand", x));
                }
                let table = g.param(&format!("{name}.weight"), x.dtype(), [length, features], init);
                match position {
                    None => table.slice(&[0, 0], &[time, features]),
                    Some(position) => table.dynamic_slice(&[position, g.scalar(0, DType::I64)], [time, features]),
                }
            }
            Kind::Waves { base } => {
                if !features.is_multiple_of(2) {
                    return bad_setting(
                        x,
                        KIND,
                        name,
                        &format!("an even number of features for waves, got {features}"),
                    );
                }
                let angles = angles(x, position, features / 2, base);
                let pairs = Shape::new(&[time, features / 2, 2]);
                let is_sine = g.iota(DType::I32, pairs.clone(), 2).eq(0);
                let [sine, cosine] = [angles.sin(), angles.cos()].map(|wave| wave.repeat_along(&pairs, [2]));
                is_sine.select(sine, cosine).reshape([time, features]).cast(x.dtype())
            }
        };
        x + rows
    }
}

impl Layer for Positions {
    #[track_caller]
    fn apply<'g>(&self, name: &str, x: Tensor<'g>) -> Tensor<'g> {
        self.run(name, x, None)
    }
}

/// `t / base^(i/n)` in f64, `[time, n]`, for the places `t` of `x` `[.., time, _]`.
fn angles<'g>(x: Tensor<'g>, position: Option<Tensor<'g>>, n: usize, base: f64) -> Tensor<'g> {
    let (g, shape) = (x.builder(), [x.dim(-2), n]);
    let counted = |axis: usize| g.iota(DType::I64, shape, axis);
    let place = position.map_or(counted(0), |start| counted(0) + start.cast(DType::I64)).cast(DType::F64);
    place * (counted(1).cast(DType::F64) * (-base.ln() / n as f64)).exp()
}

/// Rotary positions of `x` `[.., time, d]`: elements `i` and `i + d/2` are a point that is turned by `t / base^(2i/d)`.
pub(super) fn rotated<'g>(x: Tensor<'g>, position: Option<Tensor<'g>>, base: f64) -> Tensor<'g> {
    let (g, shape, half) = (x.builder(), x.shape(), x.dim(-1) / 2);
    let angles = angles(x, position, half, base);
    let apart: Shape = shape[..shape.rank() - 1].iter().copied().chain([2, half]).collect();
    let points = x.reshape(apart.clone());
    let rank = apart.rank();
    let along = |t: Tensor<'g>| t.cast(x.dtype()).broadcast_along(&apart, [rank - 3, rank - 1]);
    let (sine, cosine) = (along(angles.sin()), along(angles.cos()));
    let is_first = g.iota(DType::I32, apart.clone(), rank - 2).eq(0);
    (points * cosine + points.flip([rank - 2]) * is_first.select(-sine, sine)).reshape(shape)
}

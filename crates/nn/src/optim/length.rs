//! Lengths of vectors that neither overflow nor underflow, and products with their quotients.
//!
//! Squares of f32 are summed in f64, which holds all of them. Of f64, three sums are made in one pass: of the squares, and of
//! the squares of what was scaled down and up by powers of two. One of the latter counts where the plain sum is infinite, or 0
//! or subnormal (Blue 1978), so ordinary lengths keep their bits.

use cotangent_graph::{DType, Shape, Tensor};

/// Squares of f64 divided, or multiplied, by the square of this are far from the ends of the range.
const SCALE: f64 = 4.149_515_568_880_993e180; // 2⁶⁰⁰

/// A factor of f32 outside of the range of normal numbers is brought into it by this.
const SHIFT: f64 = 1.267_650_600_228_229_4e30; // 2¹⁰⁰

/// Sums of squares, in f64.
struct Squares<'g> {
    plain: Tensor<'g>,
    /// Of f64: of elements divided by [`SCALE`], and of elements times it.
    scaled: Option<[Tensor<'g>; 2]>,
}

impl<'g> Squares<'g> {
    #[track_caller]
    fn of(t: Tensor<'g>, axes: &[usize]) -> Self {
        let sum = |t: Tensor<'g>| t.square().sum_over(axes);
        match t.dtype() {
            DType::F64 => Squares { plain: sum(t), scaled: Some([sum(t / SCALE), sum(t * SCALE)]) },
            _ => Squares { plain: sum(t.cast(DType::F64)), scaled: None },
        }
    }

    /// The sums of two vectors as one. Squares of f32 are neither so large nor so small that they count in a scaled sum.
    #[track_caller]
    fn and(self, other: Self) -> Self {
        let scaled = match (self.scaled, other.scaled) {
            (Some([a, b]), Some([c, d])) => Some([a + c, b + d]),
            (a, b) => a.or(b),
        };
        Squares { plain: self.plain + other.plain, scaled }
    }

    #[track_caller]
    fn root(self) -> Tensor<'g> {
        let plain = self.plain;
        let Some([down, up]) = self.scaled else { return plain.sqrt() };
        let is_small = plain.lt(plain.constant_like(f64::MIN_POSITIVE));
        let is_large = plain.eq(plain.constant_like(f64::INFINITY));
        is_large.select(down.sqrt() * SCALE, is_small.select(up.sqrt() / SCALE, plain.sqrt()))
    }
}

/// `√Σ x²` over axes, in f64.
#[track_caller]
pub(super) fn length<'g>(t: Tensor<'g>, axes: &[usize]) -> Tensor<'g> {
    Squares::of(t, axes).root()
}

/// The length of some tensors together as one vector, a scalar f64; `None` of no tensors.
#[track_caller]
pub(super) fn joint_length<'g>(tensors: &[Tensor<'g>]) -> Option<Tensor<'g>> {
    let mut total: Option<Squares<'g>> = None;
    for tensor in tensors {
        let squares = Squares::of(*tensor, &(0..tensor.rank()).collect::<Vec<_>>());
        total = Some(match total {
            Some(total) => total.and(squares),
            None => squares,
        });
    }
    total.map(Squares::root)
}

/// `t` times factors of type f64 that broadcast to it. Of f32 they may lie outside of the range of that type.
#[track_caller]
pub(super) fn times<'g>(
    t: Tensor<'g>,
    factor: Tensor<'g>,
    along: impl Fn(Tensor<'g>, &Shape) -> Tensor<'g>,
) -> Tensor<'g> {
    let shape = t.shape();
    if t.dtype() == DType::F64 {
        return t * along(factor, &shape);
    }
    let (magnitude, one) = (factor.abs(), factor.constant_like(1.0));
    let is_small = magnitude.lt(magnitude.constant_like(f64::from(f32::MIN_POSITIVE)));
    let is_large = magnitude.gt(magnitude.constant_like(f64::from(f32::MAX)));
    // Two factors whose product it is; as a rule the second is 1.
    let rest = is_small.select(one / SHIFT, is_large.select(one * SHIFT, one));
    let first = factor / rest;
    t * along(first.cast(t.dtype()), &shape) * along(rest.cast(t.dtype()), &shape)
}

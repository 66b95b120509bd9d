//! Axes as users write them: counted from 0, or from the end with negative numbers.
//!
//! Graphs and their text know axes from 0 on only. Methods of tensors take an [`Axis`], or [`Axes`], which any kind of whole
//! number becomes, alone, in an array, a slice, a `Vec` or a range: `x.softmax(-1)`, `x.sum_over([0, -1])`,
//! `x.sum_over(0..2)`. An axis that is not there stays as it was written, so that the op's own check can name it.

use std::fmt;
use std::ops::Range;

use smallvec::{Array, SmallVec, smallvec};

/// One axis: 0 is the first, −1 the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Axis(i64);

impl Axis {
    /// The last axis.
    pub const LAST: Axis = Axis(-1);

    /// Its number from the start in a tensor of `rank` axes. What is out of range stays as it is.
    pub(crate) fn number(self, rank: usize) -> i64 {
        let n = rank as i64;
        if (-n..0).contains(&self.0) { self.0 + n } else { self.0 }
    }

    /// Its number from the start in a tensor of `rank` axes, if it is there.
    pub fn of(self, rank: usize) -> Option<usize> {
        usize::try_from(self.number(rank)).ok().filter(|&axis| axis < rank)
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What to do about an axis that a tensor of `rank` axes does not have.
pub(crate) fn advice(rank: usize) -> String {
    match rank {
        0 => "a scalar has no axes".to_owned(),
        n => format!("axes count from 0 to {}; methods of tensors also take -1 for the last and so on", n - 1),
    }
}

/// Some axes, in any order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Axes(SmallVec<[Axis; 4]>);

impl Axes {
    /// Their numbers from the start in a tensor of `rank` axes, in the order given.
    pub(crate) fn number(&self, rank: usize) -> SmallVec<[i64; 4]> {
        self.0.iter().map(|axis| axis.number(rank)).collect()
    }

    /// The same, ascending.
    pub(crate) fn ascending(&self, rank: usize) -> SmallVec<[i64; 4]> {
        let mut axes = self.number(rank);
        axes.sort_unstable();
        axes
    }
}

impl FromIterator<Axis> for Axes {
    fn from_iter<T: IntoIterator<Item = Axis>>(axes: T) -> Self {
        Axes(axes.into_iter().collect())
    }
}

impl From<Axis> for Axes {
    fn from(axis: Axis) -> Self {
        Axes(smallvec![axis])
    }
}

macro_rules! whole_numbers {
    ($($t:ty),*) => {
        $(
            impl From<$t> for Axis {
                fn from(axis: $t) -> Self {
                    // No tensor has so many axes that one is out of this range.
                    Axis(i64::try_from(axis).unwrap_or(i64::MAX))
                }
            }

            impl From<$t> for Axes {
                fn from(axis: $t) -> Self {
                    Axis::from(axis).into()
                }
            }

            impl From<&[$t]> for Axes {
                fn from(axes: &[$t]) -> Self {
                    axes.iter().map(|&axis| Axis::from(axis)).collect()
                }
            }

            impl<const N: usize> From<[$t; N]> for Axes {
                fn from(axes: [$t; N]) -> Self {
                    axes[..].into()
                }
            }

            impl<const N: usize> From<&[$t; N]> for Axes {
                fn from(axes: &[$t; N]) -> Self {
                    axes[..].into()
                }
            }

            impl From<Vec<$t>> for Axes {
                fn from(axes: Vec<$t>) -> Self {
                    axes[..].into()
                }
            }

            impl From<&Vec<$t>> for Axes {
                fn from(axes: &Vec<$t>) -> Self {
                    axes[..].into()
                }
            }

            impl From<Range<$t>> for Axes {
                fn from(axes: Range<$t>) -> Self {
                    axes.map(Axis::from).collect()
                }
            }
        )*
    };
}
whole_numbers!(i32, i64, isize, usize);

impl<A: Array<Item = usize>> From<&SmallVec<A>> for Axes {
    fn from(axes: &SmallVec<A>) -> Self {
        axes[..].into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_count_from_the_start_and_from_the_end() {
        assert_eq!(Axes::from([0, -1, 1]).number(3)[..], [0, 2, 1]);
        assert_eq!(Axes::from([0, -1, 1]).ascending(3)[..], [0, 1, 2]);
        assert_eq!(Axes::from(0..2usize), Axes::from(vec![0i64, 1]));
        assert_eq!(Axes::from(-2), Axes::from(&[-2isize]));
        assert_eq!((Axis::from(-3).of(3), Axis::from(2usize).of(3)), (Some(0), Some(2)));
    }

    #[test]
    fn what_is_out_of_range_stays_as_it_is() {
        assert_eq!(Axes::from([3, -4, 0]).number(3)[..], [3, -4, 0]);
        assert_eq!((Axis::from(3).of(3), Axis::from(-4).of(3), Axis::from(0).of(0)), (None, None, None));
        assert_eq!(Axis::from(usize::MAX).of(32), None);
    }
}

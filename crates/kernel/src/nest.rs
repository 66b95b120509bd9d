//! The loops of a kernel: which axes of its elements become one loop, and whether the kernel can have such loops at all.
//!
//! The clusterer asks [`Nest::new`] before it joins two clusters, with the [`Seams`] of all that they read; lowering asks it for the
//! loops, with those of the maps that it made.

use cotangent_scalar::order::COLUMN_BLOCK;
use smallvec::SmallVec;

use crate::ir::{IndexMap, Sweep};

/// Where what a kernel reads and writes keeps neighboring axes from being one loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seams {
    /// For each axis a bit: something does not step from row to row of it as from element to element.
    uneven: u32,
    /// Whether elements beyond a border are held at it: that is told once for each row of an elementwise kernel.
    pub(crate) borders: bool,
}

impl Seams {
    /// Of an access that is held at a border.
    pub(crate) fn border() -> Self {
        Seams { borders: true, ..Seams::default() }
    }

    /// Those of one access in loops of these extents. Axes of extent 1 are no loops.
    pub(crate) fn of_strides(strides: &[i64], extents: &[usize]) -> Self {
        let mut seams = Seams::default();
        let mut before: Option<usize> = None;
        for axis in (0..extents.len()).filter(|&axis| extents[axis] != 1) {
            // No element is read of what has none.
            let is_even =
                |b: usize| strides[b] == strides[axis] * extents[axis] as i64 || extents[b] == 0 || extents[axis] == 0;
            let is_even = before.is_none_or(is_even);
            seams.uneven |= u32::from(!is_even) << axis;
            before = Some(axis);
        }
        seams
    }

    pub(crate) fn of_map(map: &IndexMap, extents: &[usize]) -> Self {
        Seams::of_strides(&map.strides, extents)
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Seams { uneven: self.uneven | other.uneven, borders: self.borders || other.borders }
    }

    /// Of values whose axis `i` is axis `kept[i]` of the loops.
    pub(crate) fn on_axes(self, kept: &[usize]) -> Self {
        let moved = kept.iter().enumerate().map(|(own, axis)| (self.uneven >> own & 1) << axis);
        Seams { uneven: moved.fold(0, |a, b| a | b), ..self }
    }

    fn at(self, axis: usize) -> bool {
        self.uneven >> axis & 1 == 1
    }
}

/// What a kernel is to do, and over which elements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) extents: &'a [usize],
    /// The axes reduced, neighbors of each other.
    pub(crate) axes: &'a [usize],
    /// Whether it finishes the tiles of a product, and whether that is a convolution.
    pub(crate) product: Option<IsConv>,
    /// Whether it reduces columns beside the rows.
    pub(crate) carries_columns: bool,
    /// How often it goes over its elements, at most.
    pub(crate) n_sweeps: usize,
}

/// Whether a product is a convolution: all its leading axes are the rows of one product.
pub(crate) type IsConv = bool;

/// Why there are no such loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Something is not read evenly along axes that must be one loop.
    Uneven,
    /// Something is read around a border, and the kernel reduces.
    Border,
    /// The reduction does not fit the tiles of the product; the text says what is in the way.
    Product(&'static str),
}

/// One loop: its section (rows, reduced, inner), its extent, and the axis whose stride is its own, if any.
pub(crate) type Dim = (u8, usize, Option<usize>);

/// The loops, outermost first.
#[derive(Clone, Debug)]
pub(crate) struct Nest {
    pub(crate) sweep: Sweep,
    pub(crate) dims: SmallVec<[Dim; 4]>,
}

impl Refusal {
    /// What is in the way, to be said of a kernel.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Refusal::Uneven => "what it reads does not step evenly along axes that must be one loop",
            Refusal::Border => "it reduces what is read around a border",
            Refusal::Product(why) => why,
        }
    }
}

impl Nest {
    /// The extents of the loops.
    pub(crate) fn extents(&self) -> SmallVec<[usize; 4]> {
        self.dims.iter().map(|dim| dim.1).collect()
    }

    /// The loops of a kernel whose accesses have these seams: axes of extent 1 go, neighbors of one section join where every
    /// access allows it.
    pub(crate) fn new(frame: &Frame<'_>, seams: Seams) -> Result<Self, Refusal> {
        let Frame { extents, axes, product, .. } = *frame;
        let rank = extents.len();
        let last = axes.last().copied();
        let sweep = match last {
            None => Sweep::Elementwise,
            Some(last) if extents[last + 1..].iter().all(|&extent| extent == 1) => Sweep::Row,
            Some(_) => Sweep::Column,
        };
        if seams.borders && sweep != Sweep::Elementwise {
            return Err(Refusal::Border);
        }
        if let (Some(is_conv), Some(_)) = (product, last) {
            frame.sums_columns(is_conv).map_err(Refusal::Product)?;
        }
        if product.is_some() && frame.n_sweeps > 1 {
            return Err(Refusal::Product("sweeps once: the product makes its elements once only"));
        }
        let section = |axis: usize| match (sweep, last) {
            (Sweep::Elementwise, _) | (_, None) => u8::from(product.is_some() && axis + 1 == rank),
            _ if axes.contains(&axis) => 1,
            (Sweep::Column, Some(last)) if axis > last => 2,
            _ => 0,
        };
        let must_be_one = |section: u8| match sweep {
            // The rows of a product's tiles are counted linearly.
            Sweep::Elementwise => product.is_some() && section == 0,
            Sweep::Row => section == 1 || frame.carries_columns,
            Sweep::Column => section >= 1,
        };
        let mut dims: SmallVec<[Dim; 4]> = SmallVec::new();
        for axis in (0..rank).filter(|&axis| extents[axis] != 1) {
            let own = section(axis);
            match dims.last_mut().filter(|dim| dim.0 == own) {
                Some(dim) if !seams.at(axis) => *dim = (own, dim.1 * extents[axis], Some(axis)),
                Some(_) if must_be_one(own) => return Err(Refusal::Uneven),
                _ => dims.push((own, extents[axis], Some(axis))),
            }
        }
        // Sections that must exist although all their axes have extent 1.
        let wanted: &[u8] = match (sweep, product.is_some()) {
            (Sweep::Elementwise, true) => &[0, 1],
            (Sweep::Elementwise, false) => &[0],
            (Sweep::Row, _) => &[1],
            (Sweep::Column, _) => &[1, 2],
        };
        for &section in wanted {
            if !dims.iter().any(|dim| dim.0 == section) {
                let at = dims.iter().position(|dim| dim.0 > section).unwrap_or(dims.len());
                dims.insert(at, (section, 1, None));
            }
        }
        if sweep == Sweep::Row {
            // Rows come first, the reduced loop last, whatever the position of axes of extent 1.
            dims.sort_by_key(|dim| dim.0);
        }
        Ok(Nest { sweep, dims })
    }
}

impl Frame<'_> {
    /// Whether the reductions go down the columns of a product, so that its epilogue can do them block by block; otherwise what is
    /// in the way.
    fn sums_columns(&self, is_conv: bool) -> Result<(), &'static str> {
        let rank = self.extents.len();
        let (outer, inner) = self.extents[..rank - 1].split_at(if is_conv { 0 } else { rank - 2 });
        let (n_products, rows): (usize, usize) = (outer.iter().product(), inner.iter().product());
        if self.axes.contains(&(rank - 1)) || self.extents[rank - 1] == 1 || self.axes.len() + 1 != rank {
            Err("reduces whole columns only: rows are finished piece by piece")
        } else if n_products > 1 && !rows.is_multiple_of(COLUMN_BLOCK) {
            Err("reduces by blocks of 64 rows, which would reach from one product of the batch into the next")
        } else if n_products * rows == 0 {
            Err("has no rows to reduce")
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame<'a>(extents: &'a [usize], axes: &'a [usize]) -> Frame<'a> {
        Frame { extents, axes, product: None, carries_columns: false, n_sweeps: 1 }
    }

    fn dims(frame: &Frame<'_>, seams: Seams) -> Result<Vec<usize>, Refusal> {
        Ok(Nest::new(frame, seams)?.dims.iter().map(|dim| dim.1).collect())
    }

    #[test]
    fn axes_join_unless_an_access_steps_unevenly() {
        let (even, turned) = (Seams::default(), Seams::of_strides(&[15, 1, 3], &[2, 3, 5]));
        assert_eq!(dims(&frame(&[2, 3, 5], &[]), even), Ok(vec![30]));
        assert_eq!(dims(&frame(&[2, 3, 5], &[]), turned), Ok(vec![2, 3, 5]));
        assert_eq!(dims(&frame(&[2, 3, 5], &[2]), turned), Ok(vec![2, 3, 5]));
        assert_eq!(dims(&frame(&[2, 3, 5], &[1, 2]), turned), Err(Refusal::Uneven));
        assert_eq!(dims(&frame(&[2, 3, 5], &[0]), turned), Err(Refusal::Uneven));
        // A row that all rows read, and one element that all read.
        assert_eq!(dims(&frame(&[2, 3, 5], &[]), Seams::of_strides(&[0, 5, 1], &[2, 3, 5])), Ok(vec![2, 15]));
        assert_eq!(dims(&frame(&[2, 3, 5], &[]), Seams::of_strides(&[0, 0, 0], &[2, 3, 5])), Ok(vec![30]));
    }

    #[test]
    fn axes_of_extent_1_are_no_loops() {
        let seams = Seams::of_strides(&[5, 77, 1], &[4, 1, 5]);
        assert_eq!((seams, dims(&frame(&[4, 1, 5], &[]), seams)), (Seams::default(), Ok(vec![20])));
        assert_eq!(dims(&frame(&[1, 1], &[1]), seams), Ok(vec![1]));
        assert_eq!(dims(&frame(&[3, 4, 1], &[1]), seams), Ok(vec![3, 4]));
    }

    #[test]
    fn rows_of_a_product_are_one_loop() {
        let product = |product| Frame { product: Some(product), ..frame(&[2, 3, 5], &[]) };
        let seams = Seams::of_strides(&[0, 5, 1], &[2, 3, 5]);
        assert_eq!(dims(&product(false), Seams::default()), Ok(vec![6, 5]));
        assert_eq!(dims(&product(false), seams), Err(Refusal::Uneven));
        let sums = |product, axes| Frame { axes, ..self::tests::frame(&[2, 3, 5], axes) }.sums_columns(product);
        assert!(sums(true, &[0, 1]).is_ok() && sums(false, &[0, 1]).is_err() && sums(true, &[2]).is_err());
        let twice = Frame { n_sweeps: 2, ..product(false) };
        assert!(matches!(Nest::new(&twice, Seams::default()), Err(Refusal::Product(_))));
    }

    #[test]
    fn borders_are_for_elementwise_kernels() {
        let seams = Seams::border();
        assert!(Nest::new(&frame(&[4, 5], &[]), seams).is_ok());
        assert_eq!(dims(&frame(&[4, 5], &[1]), seams), Err(Refusal::Border));
    }

    #[test]
    fn seams_of_what_is_reduced_are_those_of_the_axes_kept() {
        let seams = Seams::of_strides(&[1, 2], &[2, 5]);
        assert_eq!(seams.on_axes(&[0, 2]), Seams::of_strides(&[25, 5, 2], &[2, 5, 5]));
    }
}

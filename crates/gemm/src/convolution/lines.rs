//! Lines of an image as kernels read them: where they are, or copied with the zeros around them, and a table of where each run of
//! K starts.

use std::ops::Range;

use super::phase::{Image, Phase};
use crate::number::Number;

/// Room for lines, in a thread's own memory.
pub(super) struct Room<T> {
    /// A line of zeros, for what lies above and below the image.
    pub zeros: *mut T,
    /// Copied lines.
    pub lines: *mut T,
    /// Which lines have been copied.
    pub copied: *mut u8,
    /// Where runs start.
    pub starts: *mut *const T,
}

/// What a room must hold.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Size {
    /// Elements of the longest line.
    pub line: usize,
    /// Copied lines.
    pub n_lines: usize,
    /// Entries of the table.
    pub n_starts: usize,
}

impl Size {
    /// For `n` lines of a phase's result, in at most `n_pieces` pieces of adjacent lines.
    pub fn of(phase: &Phase, n: usize, n_pieces: usize) -> Self {
        let lines = &phase.axes[1];
        let each = lines.reach(1);
        let n_lines = n * lines.stride + n_pieces.min(n) * each.saturating_sub(lines.stride);
        let n_lines = if phase.direct { 0 } else { n_lines * phase.axes[0].taps.len() };
        Size { line: phase.line, n_lines, n_starts: n * phase.n_runs }
    }

    /// What holds both.
    pub fn max(self, other: Size) -> Self {
        // Lines of different lengths: as many as the more, as long as the longer.
        Size {
            line: self.line.max(other.line),
            n_lines: self.n_lines.max(other.n_lines),
            n_starts: self.n_starts.max(other.n_starts),
        }
    }

    /// Bytes of its parts: zeros, lines, marks, table.
    pub fn parts<T>(self) -> [usize; 4] {
        let line = self.line * size_of::<T>();
        [line, line * self.n_lines, self.n_lines, self.n_starts * size_of::<*const T>()]
    }
}

/// The lines of some results of a phase, one group of channels.
pub(super) struct Lines<'a, T> {
    pub image: &'a Image,
    pub phase: &'a Phase,
    pub group: usize,
    /// The first element of the image.
    pub from: *const T,
    pub room: &'a Room<T>,
    /// Lines of the room that are taken.
    pub used: usize,
    /// Lines of the result that are there.
    pub n: usize,
    /// Entries of the table from one line of the result to the next, and from one run to the next.
    pub strides: [usize; 2],
}

impl<T: Number> Lines<'_, T> {
    /// Adds adjacent lines of the result in a plane of an example.
    ///
    /// # Safety
    /// The image is readable, and the room holds the lines.
    pub unsafe fn add(&mut self, example: usize, plane: usize, lines: Range<usize>) {
        let [planes, across, along] = &self.phase.axes;
        let Some(last) = lines.len().checked_sub(1) else { return };
        let runs = if self.phase.n_runs == 0 { 0 } else { self.phase.runs_of_line };
        let first = across.neighbour(lines.start, 0);
        let reach = last * across.stride + across.reach(1);
        for plane_tap in 0..planes.taps.len() {
            let plane = inside(planes.neighbour(plane, plane_tap), self.image.extents[0]);
            let base = self.used;
            if plane.is_some() && !self.phase.direct {
                self.used += reach;
                // SAFETY: marks of the room's lines.
                unsafe { self.room.copied.add(base).write_bytes(0, reach) };
            }
            for (number, line) in lines.clone().enumerate() {
                for line_tap in 0..across.taps.len() {
                    let at = across.neighbour(line, line_tap);
                    let start = match (plane, inside(at, self.image.extents[1])) {
                        (Some(plane), Some(inside)) => {
                            let slot = base + (at - first) as usize;
                            // SAFETY: the line lies in the image, and its slot in the room.
                            unsafe { self.line(example, plane, inside, slot) }
                        }
                        _ => self.room.zeros.cast_const(),
                    };
                    let run = (plane_tap * across.taps.len() + line_tap) * runs;
                    for tap in 0..runs {
                        let entry = (self.n + number) * self.strides[0] + (run + tap) * self.strides[1];
                        let start = start.wrapping_add(tap * along.dilation * self.image.channels);
                        // SAFETY: an entry of the table.
                        unsafe { *self.room.starts.add(entry) = start };
                    }
                }
            }
        }
        self.n += lines.len();
    }

    /// The first neighbour of a line's first result: in the image, or in a slot that is filled now if it was not.
    ///
    /// # Safety
    /// As [`Lines::add`].
    unsafe fn line(&self, example: usize, plane: usize, line: usize, slot: usize) -> *const T {
        let Image { extents: [n_planes, n_lines, width], channels, groups, .. } = *self.image;
        let all = channels * groups;
        let row = ((example * n_planes + plane) * n_lines + line) * width;
        let from = self.from.wrapping_add(row * all + self.group * channels);
        let low = self.phase.axes[2].low;
        if self.phase.direct {
            return from.wrapping_offset(-low * all as isize);
        }
        let to = self.room.lines.wrapping_add(slot * self.phase.line);
        // SAFETY: a mark of the room.
        let copied = unsafe { &mut *self.room.copied.add(slot) };
        if *copied == 0 {
            *copied = 1;
            let n = self.phase.line / channels.max(1);
            // Elements of the slot before, in and behind the image.
            let before = low.clamp(0, n as isize) as usize;
            let end = (width as isize + low).clamp(before as isize, n as isize) as usize;
            let first = from.wrapping_offset((before as isize - low) * all as isize);
            // SAFETY: the slot has `n` elements of so many channels; those from `before` to `end` lie in the image's line.
            unsafe {
                zero(to, before * channels);
                if groups == 1 {
                    to.add(before * channels).copy_from_nonoverlapping(first, (end - before) * channels);
                } else {
                    for k in 0..end - before {
                        let to = to.add((before + k) * channels);
                        to.copy_from_nonoverlapping(first.wrapping_add(k * all), channels);
                    }
                }
                zero(to.add(end * channels), (n - end) * channels);
            }
        }
        to.cast_const()
    }
}

/// Writes zeros.
///
/// # Safety
/// So many elements are writable.
pub(super) unsafe fn zero<T: Number>(to: *mut T, n: usize) {
    for k in 0..n {
        // SAFETY: `k < n`, for which the caller vouches.
        unsafe { *to.add(k) = T::ZERO };
    }
}

/// Writes zeros to a rectangle of a matrix with so many columns.
///
/// # Safety
/// The rectangle is writable.
pub(super) unsafe fn zero_rows<T: Number>(c: *mut T, all_cols: usize, rows: Range<usize>, cols: Range<usize>) {
    for row in rows {
        // SAFETY: a row of the rectangle.
        unsafe { zero(c.wrapping_add(row * all_cols + cols.start), cols.len()) };
    }
}

/// An index that is inside of an extent.
fn inside(at: isize, extent: usize) -> Option<usize> {
    usize::try_from(at).ok().filter(|&at| at < extent)
}

//! Matrices as the product sees them: a pointer and two strides.

/// A matrix to read: `rows` × `cols`, element (i, j) at `ptr + i * row_stride + j * col_stride`, in elements.
///
/// Any strides do: a transpose is [`MatRef::transposed`], a broadcast has stride 0, a reversal is negative.
#[derive(Debug)]
pub struct MatRef<T> {
    /// Element (0, 0).
    pub ptr: *const T,
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// From a row to the next.
    pub row_stride: isize,
    /// From a column to the next.
    pub col_stride: isize,
}

/// A matrix to write; as [`MatRef`], and its elements must not overlap each other.
#[derive(Debug)]
pub struct MatMut<T> {
    /// Element (0, 0).
    pub ptr: *mut T,
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// From a row to the next.
    pub row_stride: isize,
    /// From a column to the next; 1 is the fast case (as is a row stride of 1).
    pub col_stride: isize,
}

impl<T> Clone for MatRef<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for MatRef<T> {}

impl<T> Clone for MatMut<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for MatMut<T> {}

impl<T> MatRef<T> {
    /// A row-major matrix without gaps.
    pub fn row_major(ptr: *const T, rows: usize, cols: usize) -> Self {
        MatRef { ptr, rows, cols, row_stride: cols as isize, col_stride: 1 }
    }

    /// The same elements with rows and columns exchanged.
    #[must_use]
    pub fn transposed(self) -> Self {
        MatRef {
            ptr: self.ptr,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }

    /// The address of element (i, j).
    #[inline]
    pub(crate) fn at(&self, i: usize, j: usize) -> *const T {
        self.ptr.wrapping_offset(i as isize * self.row_stride + j as isize * self.col_stride)
    }
}

impl<T> MatMut<T> {
    /// A row-major matrix without gaps.
    pub fn row_major(ptr: *mut T, rows: usize, cols: usize) -> Self {
        MatMut { ptr, rows, cols, row_stride: cols as isize, col_stride: 1 }
    }

    /// The same elements with rows and columns exchanged.
    #[must_use]
    pub fn transposed(self) -> Self {
        MatMut {
            ptr: self.ptr,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }

    /// The address of element (i, j).
    #[inline]
    pub(crate) fn at(&self, i: usize, j: usize) -> *mut T {
        self.ptr.wrapping_offset(i as isize * self.row_stride + j as isize * self.col_stride)
    }
}

//! An output matrix that threads fill block by block, each block of columns handed out once.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A row-major matrix, cut into blocks of columns that are claimed one after the other. Claiming
/// balances the load: a thread that was held up claims fewer.
pub(crate) struct ColumnBlocks<'a, T> {
    data: *mut T,
    rows: usize,
    columns: usize,
    width: usize,
    next: AtomicUsize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: what is shared is a counter; the elements go to one thread each, with their block.
unsafe impl<T: Send> Sync for ColumnBlocks<'_, T> {}

impl<'a, T> ColumnBlocks<'a, T> {
    /// Blocks of `width` columns, the last perhaps narrower. `matrix` holds whole rows of `columns`.
    pub(crate) fn new(matrix: &'a mut [T], columns: usize, width: usize) -> Self {
        assert!(width > 0 && columns > 0 && matrix.len().is_multiple_of(columns));
        Self {
            data: matrix.as_mut_ptr(),
            rows: matrix.len() / columns,
            columns,
            width,
            next: AtomicUsize::new(0),
            borrow: PhantomData,
        }
    }

    /// How many blocks there are.
    pub(crate) fn count(&self) -> usize {
        self.columns.div_ceil(self.width)
    }

    /// The next block that nobody has.
    pub(crate) fn claim(&self) -> Option<ColumnBlock<'_, T>> {
        // Threads that find nothing left stop, so the counter passes `count` by few and cannot wrap.
        let first = self.next.fetch_add(1, Ordering::Relaxed) * self.width;
        (first < self.columns)
            .then(|| ColumnBlock { matrix: self, columns: first..self.columns.min(first + self.width) })
    }
}

/// A block of columns that belongs to its holder.
pub(crate) struct ColumnBlock<'a, T> {
    matrix: &'a ColumnBlocks<'a, T>,
    columns: Range<usize>,
}

impl<T> ColumnBlock<'_, T> {
    /// The columns of this block.
    pub(crate) fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }

    /// The block's part of a row.
    #[inline(always)]
    pub(crate) fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.matrix.rows);
        let start = row * self.matrix.columns + self.columns.start;
        // SAFETY: within the matrix, which is borrowed exclusively; the block's columns were handed
        // out once, so nobody else touches these elements, and `&mut self` lends them once.
        unsafe { std::slice::from_raw_parts_mut(self.matrix.data.add(start), self.columns.len()) }
    }
}

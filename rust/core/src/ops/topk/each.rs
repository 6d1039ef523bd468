//! One task for every row, in parallel where it is worth it.

use std::sync::Mutex;

use super::rows::{SERIAL_ELEMENTS, TASKS_EACH, Top};
use super::scratch::Scratch;
use crate::error::{Error, Result};
use crate::format::Element;
use crate::parallel::{Parallel, lock_whole};

/// Runs `task` on the places of every row, in parallel where it is worth it.
pub(super) fn for_each_row<E: Element>(
    pool: &dyn Parallel,
    count: usize,
    elements: usize,
    top: Top<'_, E>,
    task: impl Fn(usize, &mut [E], &mut [i64], &mut Scratch) + Sync,
) -> Result<()> {
    let Top { values, indices, width } = top;
    for (what, got) in [("values", values.len()), ("indices", indices.len())] {
        if got != count * width {
            return Err(Error::shape(what, got, format!("{count} rows of {width}")));
        }
    }
    let run = |first: usize, values: &mut [E], indices: &mut [i64]| {
        Scratch::with(|scratch| {
            for row in 0..values.len().checked_div(width).unwrap_or(0) {
                let places = row * width..(row + 1) * width;
                task(first + row, &mut values[places.clone()], &mut indices[places], scratch);
            }
        });
    };
    let threads = pool.num_threads();
    if elements < SERIAL_ELEMENTS || threads < 2 || count < 2 || width == 0 {
        run(0, values, indices);
        return Ok(());
    }
    let each = count.div_ceil(threads * TASKS_EACH);
    let parts = values.chunks_mut(each * width).zip(indices.chunks_mut(each * width));
    let parts: Vec<_> = parts.map(Mutex::new).collect();
    pool.run(parts.len(), &|part| {
        let (values, indices) = &mut *lock_whole(&parts[part]);
        run(part * each, values, indices);
    });
    Ok(())
}

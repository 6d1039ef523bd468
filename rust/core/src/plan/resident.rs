//! A plan of rows that were computed before, over the resident keys of their branch: what the mass of such
//! rows is summed by.

use crate::error::{Error, Result};
use crate::format::key_table::{KeyTable, ResidentKey};
use crate::format::plan::{Entry, Plan, Read, RowSlot};

/// The plan of `rows`, ascending logical positions, over the keys of `table`: a row sees
/// what lies at or before it. And the column of each key in [`crate::ops::attention::mass_columns`] of all
/// rows, plane after plane; -1 for a key that no row sees.
///
/// Where `own` is given, the rows are those of an open step: their keys are the last of every plane and
/// lie in these slots of all planes, which spares a read for each.
///
/// # Errors
/// [`Error::Value`] for rows or keys that are not in order of position, [`Error::Shape`] for more slots than a
/// plane has keys; and as [`Plan::check`].
pub fn resident_plan(table: &KeyTable, rows: &[i32], own: &[RowSlot]) -> Result<(Plan, Vec<i32>)> {
    if rows.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(Error::value("rows", format!("{rows:?}"), "ascending positions"));
    }
    if table.planes().any(|plane| plane.len() < own.len()) {
        return Err(Error::shape("own_slots", own.len(), "at most the keys of each plane"));
    }
    if table.planes().any(|plane| !plane.is_sorted_by_key(|key| key.position)) {
        return Err(Error::value("entries", "out of order", "ascending positions in every plane"));
    }
    let (plan, columns) = lay_out(table, rows, own);
    plan.check()?;
    Ok((plan, columns))
}

fn lay_out(table: &KeyTable, rows: &[i32], own: &[RowSlot]) -> (Plan, Vec<i32>) {
    let planes: Vec<&[ResidentKey]> = table.planes().collect();
    let num_rows = rows.len() as u32;
    let mut plan = Plan {
        row_positions: rows.to_vec(),
        row_end: (1..=num_rows).collect(),
        row_slots: vec![RowSlot { slab: 0, slot: 0 }; rows.len()],
        ..Plan::default()
    };
    let starts = table.offsets();
    let mut columns = vec![-1; table.keys().len()];
    let mut done = vec![0usize; planes.len()];
    let mut begin = 0u32;
    let firsts = if own.is_empty() { num_rows } else { num_rows.min(1) };
    for first in 0..firsts {
        let end_of = |plane: &[ResidentKey]| match own.len() {
            0 => plane.partition_point(|key| key.position <= rows[first as usize]),
            own => plane.len().saturating_sub(own),
        };
        let ends: Vec<usize> = planes.iter().map(|plane| end_of(plane)).collect();
        let most = ends.iter().zip(&done).map(|(end, done)| (end - done) as u32).max().unwrap_or(0);
        if most == 0 {
            continue;
        }
        let ranges = plan.head_ranges.len() as u32;
        for ((plane, start), (done, end)) in planes.iter().zip(starts).zip(done.iter_mut().zip(&ends)) {
            let entries = plan.entries.len() as u32;
            push_runs(&mut plan, &plane[*done..*end]);
            plan.head_ranges.push([entries, plan.entries.len() as u32]);
            let own = &mut columns[start + *done..start + *end];
            own.iter_mut().zip(begin as i32..).for_each(|(column, at)| *column = at);
            *done = *end;
        }
        plan.reads.push(Read {
            entry_begin: ranges,
            entry_end: plan.head_ranges.len() as u32,
            row_begin: first,
            row_end: num_rows,
            num_keys: most,
            flags: Read::BY_HEAD,
            mask: -1,
            rotary_offset: 0,
        });
        begin += most;
    }
    if !own.is_empty() {
        plan.row_slots = own.to_vec();
        plan.row_end = vec![num_rows; rows.len()];
        for ((plane, start), done) in planes.iter().zip(starts).zip(&done) {
            let own = &mut columns[start + done..start + plane.len()];
            own.iter_mut().zip(begin as i32..).for_each(|(column, at)| *column = at);
        }
        let entries = plan.entries.len() as u32;
        let key =
            |(slot, row): (&RowSlot, &i32)| ResidentKey { page: slot.slab, slot: slot.slot, position: *row };
        push_runs(&mut plan, &own.iter().zip(rows).map(key).collect::<Vec<_>>());
        plan.reads.push(Read {
            entry_begin: entries,
            entry_end: plan.entries.len() as u32,
            row_begin: 0,
            row_end: num_rows,
            num_keys: num_rows,
            flags: Read::OWN,
            mask: -1,
            rotary_offset: 0,
        });
    }
    (plan, columns)
}

/// Appends keys as entries of neighbouring slots.
fn push_runs(plan: &mut Plan, keys: &[ResidentKey]) {
    let follows = |a: &ResidentKey, b: &ResidentKey| a.page == b.page && a.slot + 1 == b.slot;
    for run in keys.chunk_by(follows) {
        let ResidentKey { page, slot, position } = run[0];
        let positions_at = plan.positions.len() as i32;
        plan.positions.extend(run.iter().map(|key| key.position));
        let (first, count) = (slot as u16, run.len() as u16);
        plan.entries.push(Entry { page, first, count, position, positions_at });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The plan over planes of (page, slot, position).
    fn planned(planes: &[&[(u32, u32, i32)]], rows: &[i32], own: &[RowSlot]) -> (Plan, Vec<i32>) {
        let keys = |plane: &&[(u32, u32, i32)]| {
            plane.iter().map(|&(page, slot, position)| ResidentKey { page, slot, position }).collect()
        };
        resident_plan(&KeyTable::new(planes.iter().map(keys), None), rows, own).unwrap()
    }

    #[test]
    fn a_row_sees_what_lies_at_or_before_it() {
        let a = [(7, 0, 2), (7, 1, 5), (9, 0, 6), (9, 1, 8)];
        let b = [(8, 3, 6), (8, 2, 7)];
        let (plan, columns) = planned(&[&a, &b], &[5, 7], &[]);
        assert_eq!(columns, [0, 1, 2, -1, 2, 3]);
        let reads: Vec<_> = plan.reads.iter().map(|r| (r.row_begin, r.row_end, r.num_keys)).collect();
        assert_eq!(reads, [(0, 2, 2), (1, 2, 2)]);
        assert_eq!(plan.head_ranges, [[0, 1], [1, 1], [1, 2], [2, 4]]);
        assert_eq!(plan.positions, [2, 5, 6, 6, 7]);
        assert_eq!(plan.num_rows(), 2);
    }

    #[test]
    fn rows_of_an_open_step_are_one_read() {
        let a = [(7, 0, 2), (9, 0, 6), (9, 1, 7)];
        let own = [RowSlot { slab: 4, slot: 0 }, RowSlot { slab: 4, slot: 1 }];
        let (plan, columns) = planned(&[&a, &a[1..]], &[6, 7], &own);
        assert_eq!(columns, [0, 1, 2, 1, 2]);
        assert_eq!(plan.reads.len(), 2);
        assert!(plan.reads[1].is_own());
        let entry = plan.entries[plan.reads[1].entry_begin as usize];
        assert_eq!(plan.reads[1].entry_end as usize, plan.entries.len());
        assert_eq!((entry.page, entry.first, entry.count, entry.position), (4, 0, 2, 6));
        assert_eq!(plan.row_end, [2, 2]);
        let (plan, columns) = planned(&[&a[1..]], &[6, 7], &own);
        assert_eq!((plan.reads.len(), columns), (1, vec![0, 1]));
    }
}

//! From what each row chose to what is read, and who sees it.

use super::frame::Bits;
use super::rows::{Rows, entries_of};
use crate::format::selection::Selection;

/// The queries that share one choice, counted from the first of a read's rows.
struct Sharers<'a> {
    first: usize,
    count: usize,
    bits: Bits<'a>,
}

/// What all rows together read. Rows without a rule read everything.
pub(super) fn unite(rows: &Rows<'_>) -> Selection {
    let (plan, params, group) = (rows.plan, rows.params, rows.group());
    let mut selection = Selection::new(plan, params.num_kv_heads, group);
    let (mut sharers, mut held, mut dense, mut mask) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for head in 0..params.num_kv_heads {
        for (number, read) in plan.reads.iter().enumerate() {
            let Some([begin, end]) = entries_of(plan, params, read, head) else {
                selection.push_all(0, 0);
                continue;
            };
            let entries = &plan.entries[begin as usize..end as usize];
            let plan_keys: u64 = entries.iter().map(|entry| u64::from(entry.count)).sum();
            let first = rows.ruled.partition_point(|ruled| ruled.row < read.row_begin);
            let last = rows.ruled.partition_point(|ruled| ruled.row < read.row_end);
            let num_queries = (read.row_end - read.row_begin) as usize * group;
            sharers.clear();
            dense.clear();
            dense.resize(num_queries.div_ceil(64), u64::MAX);
            for index in first..last {
                let query = (rows.ruled[index].row - read.row_begin) as usize * group;
                (query..query + group).for_each(|query| dense[query / 64] &= !(1 << (query % 64)));
                let sets: Vec<Bits<'_>> = rows.sets(head, index, number).collect();
                let count = group / sets.len().max(1);
                sharers.extend(sets.into_iter().enumerate().map(|(i, bits)| Sharers {
                    first: query + i * count,
                    count,
                    bits,
                }));
            }
            let is_dense = last - first < (read.row_end - read.row_begin) as usize;
            let words = || (0..entries.len()).step_by(64).map(|at| (at / 64, first_bits(entries.len() - at)));
            let is_whole =
                |sharers: &Sharers<'_>| words().all(|(word, all)| sharers.bits.word(word) & all == all);
            if sharers.iter().all(is_whole) {
                selection.push_all(entries.len(), plan_keys);
                continue;
            }
            let mut keys = 0;
            for (word, all) in words() {
                held.clear();
                held.extend(sharers.iter().map(|sharers| sharers.bits.word(word)));
                let full = held.iter().fold(all, |full, held| full & held);
                let mut left =
                    held.iter().fold(if is_dense { all } else { 0 }, |some, held| some | held) & all;
                while left != 0 {
                    let bit = left.trailing_zeros();
                    left &= left - 1;
                    let entry = 64 * word + bit as usize;
                    keys += u64::from(entries[entry].count);
                    if full >> bit & 1 == 1 {
                        selection.push_unit(begin + entry as u32, None);
                        continue;
                    }
                    mask.clear();
                    mask.extend_from_slice(&dense);
                    for (sharers, _) in sharers.iter().zip(&held).filter(|(_, held)| *held >> bit & 1 == 1) {
                        set(&mut mask, sharers.first, sharers.count);
                    }
                    selection.push_unit(begin + entry as u32, Some(&mask));
                }
            }
            selection.push_units(keys, plan_keys);
        }
    }
    selection
}

fn first_bits(count: usize) -> u64 {
    1u64.checked_shl(count as u32).map_or(u64::MAX, |bit| bit - 1)
}

/// Sets `count` bits from `first` on.
fn set(mask: &mut [u64], mut first: usize, mut count: usize) {
    while count > 0 {
        let here = count.min(64 - first % 64);
        mask[first / 64] |= first_bits(here) << (first % 64);
        (first, count) = (first + here, count - here);
    }
}

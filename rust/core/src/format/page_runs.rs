//! The parts of one page that several nodes of a path show, one behind the other: what an entry goes on from.

use smallvec::SmallVec;

use super::plan::{Entry, Plan};
use super::selection::plane_entries;

/// Tells every entry of a plan's prefix reads on a plane as `see(read, entry, run, goes_on)`. The `run` is the
/// entry together with those that it goes on from: the entries before it on its path that end, on the same page,
/// at the slot where it begins. `goes_on` says whether there are any. So what a path shows of a page is the same
/// run, however many nodes it was cut into.
///
/// The path of a read is that of the last read before it with some of its rows, if that has all of them.
pub fn page_runs(plan: &Plan, plane: usize, mut see: impl FnMut(usize, u32, &Entry, bool)) {
    // The last run of each read, and whether its page is one of a head.
    let mut last: SmallVec<[Option<(bool, Entry)>; 16]> = SmallVec::new();
    for (index, read) in plan.reads.iter().enumerate() {
        if read.is_own() {
            last.push(None);
            continue;
        }
        let by_head = read.is_by_head();
        let mut before = above(plan, index).and_then(|above| last[above]);
        let [begin, end] = plane_entries(plan, read, plane);
        let entries = plan.entries.get(begin as usize..end as usize).unwrap_or_default();
        for (at, entry) in (begin..).zip(entries) {
            let longer = before.filter(|(own, _)| *own == by_head).and_then(|(_, run)| joined(&run, entry));
            let run = longer.unwrap_or(*entry);
            see(index, at, &run, longer.is_some());
            before = Some((by_head, run));
        }
        last.push(before);
    }
}

/// The read above another on the path of its rows.
fn above(plan: &Plan, index: usize) -> Option<usize> {
    let read = &plan.reads[index];
    let meets = |&other: &usize| {
        let other = &plan.reads[other];
        !other.is_own() && other.row_begin < read.row_end && read.row_begin < other.row_end
    };
    let other = (0..index).rev().find(meets)?;
    let rows = plan.reads[other].row_begin..=plan.reads[other].row_end;
    (rows.contains(&read.row_begin) && rows.contains(&read.row_end)).then_some(other)
}

/// One run of two, if the second begins where the first ends.
fn joined(run: &Entry, entry: &Entry) -> Option<Entry> {
    let goes_on = run.page == entry.page
        && run.format() == entry.format()
        && run.slot() + u32::from(run.count) == entry.slot();
    goes_on.then(|| Entry { count: run.count + entry.count, ..*run })
}

#[cfg(test)]
mod tests {
    use super::super::plan::Read;
    use super::*;

    #[test]
    fn a_run_is_what_a_path_shows_of_a_page() {
        let entry = |page, first, count| Entry { page, first, count, position: 0, positions_at: -1 };
        let read = |entry_begin, entry_end, row_begin, row_end| Read {
            entry_begin,
            entry_end,
            row_begin,
            row_end,
            num_keys: 0,
            flags: 0,
            mask: -1,
            rotary_offset: 0,
        };
        // A prompt, two answers that part on its last page, and another text.
        let plan = Plan {
            entries: vec![
                entry(1, 0, 8),
                entry(2, 0, 3),
                entry(2, 3, 2),
                entry(4, 0, 1),
                entry(2, 4, 1),
                entry(2, 3, 5),
            ],
            reads: vec![read(0, 2, 0, 2), read(2, 4, 0, 1), read(4, 5, 1, 2), read(5, 6, 2, 3)],
            ..Plan::default()
        };
        let mut found = Vec::new();
        page_runs(&plan, 0, |read, at, run, goes_on| found.push((read, at, run.first, run.count, goes_on)));
        let want = [
            (0, 0, 0, 8, false),
            (0, 1, 0, 3, false),
            (1, 2, 0, 5, true),
            (1, 3, 0, 1, false),
            (2, 4, 4, 1, false),
            (3, 5, 3, 5, false),
        ];
        assert_eq!(found, want);
    }
}

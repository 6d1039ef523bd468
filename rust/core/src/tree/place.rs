//! Where the kept keys of a condensed branch go: which of its pages stay, what moves, what is encoded.
//!
//! The order of keys on pages means nothing to attention, so what is dropped leaves holes that few
//! moves fill: dropping one key of a thousand costs one copy. Keys in codes never move; their page
//! stays as long as one of them is kept, and shows that one alone.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::format::PageLayout;
use crate::format::key_table::ResidentKey;
use crate::format::page::CodedPage;
use crate::format::slot::Entry;

/// Keys stay on their pages while at most one page, or one of so many, comes free.
const SPARED: usize = 16;

/// One entry of the new table.
#[derive(Debug)]
pub(super) struct PlacedRun {
    /// A page that stays, or `None` for a new one.
    pub(super) page: Option<u32>,
    /// First slot and format, as [`Entry::first`] has them.
    pub(super) first: u16,
    /// The keys in order of their slots: indices into what the plane shows now.
    pub(super) keys: Vec<u32>,
}

/// What is kept of one plane (or of all of them, where they agree).
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept<'a> {
    /// What it shows now, in order of position.
    pub(super) old: &'a [ResidentKey],
    /// Ascending indices into `old`.
    pub(super) keys: &'a [u32],
    /// The format that each of `keys` shall have, 0 for plain; empty where nothing is to be encoded.
    pub(super) codes: &'a [u8],
}

/// The runs of a plane: pages in codes first, by format and page, then plain ones. `stays` says of a
/// plain page whether keys may be left on it.
pub(super) fn place(
    kept: Kept<'_>,
    layout: &PageLayout,
    stays: impl Fn(u32) -> bool,
) -> Result<Vec<PlacedRun>> {
    let mut runs = coded_runs(kept);
    let (new, plain) = encoded(kept, layout)?;
    runs.extend(new);
    runs.extend(plain_runs(kept.old, &plain, layout.page_tokens, stays));
    Ok(runs)
}

/// Keys that are in codes already, as runs of neighbouring slots.
fn coded_runs(kept: Kept<'_>) -> Vec<PlacedRun> {
    let resident = |key: u32| kept.old[key as usize];
    let mut keys: Vec<u32> = kept.keys.iter().copied().filter(|&key| resident(key).format() != 0).collect();
    keys.sort_unstable_by_key(|&key| (resident(key).format(), resident(key).page, resident(key).slot));
    let mut runs: Vec<PlacedRun> = Vec::new();
    for key in keys {
        let ResidentKey { page, slot: first, .. } = resident(key);
        match runs.last_mut() {
            Some(run) if run.page == Some(page) && u32::from(run.first) + run.keys.len() as u32 == first => {
                run.keys.push(key);
            }
            _ => runs.push(PlacedRun { page: Some(page), first: first as u16, keys: vec![key] }),
        }
    }
    runs
}

/// New pages in codes, whole ones only, and the keys that stay plain.
fn encoded(kept: Kept<'_>, layout: &PageLayout) -> Result<(Vec<PlacedRun>, Vec<u32>)> {
    let mut plain = Vec::new();
    let mut wanted: BTreeMap<u8, Vec<u32>> = BTreeMap::new();
    for (i, &key) in kept.keys.iter().enumerate() {
        if kept.old[key as usize].format() != 0 {
            continue;
        }
        match kept.codes.get(i).copied().unwrap_or(0) {
            0 => plain.push(key),
            format => wanted.entry(format).or_default().push(key),
        }
    }
    let mut runs = Vec::new();
    for (format, keys) in wanted {
        let pages = keys.chunks_exact(CodedPage::new(format, layout)?.tokens);
        plain.extend_from_slice(pages.remainder());
        let first = Entry::first_of(0, format);
        runs.extend(pages.map(|keys| PlacedRun { page: None, first, keys: keys.to_vec() }));
    }
    plain.sort_unstable();
    Ok((runs, plain))
}

/// Plain pages, all full but one. After a small cut keys stay where they are and others fill the holes;
/// after a large one everything goes to new pages, the lowest, so that the end of the pool empties.
fn plain_runs(
    old: &[ResidentKey],
    keys: &[u32],
    page_tokens: usize,
    stays: impl Fn(u32) -> bool,
) -> Vec<PlacedRun> {
    let needed = keys.len().div_ceil(page_tokens);
    let mut pages: BTreeMap<u32, Vec<Option<u32>>> = BTreeMap::new();
    for key in old {
        if key.format() == 0 && stays(key.page) {
            pages.entry(key.page).or_insert_with(|| vec![None; page_tokens]);
        }
    }
    if pages.len().saturating_sub(needed) > (pages.len() / SPARED).max(1) {
        pages.clear();
    }
    for &key in keys {
        let ResidentKey { page, slot, .. } = old[key as usize];
        if let Some(slots) = pages.get_mut(&page) {
            slots[slot as usize] = Some(key);
        }
    }
    let count = |slots: &[Option<u32>]| slots.iter().flatten().count();
    let mut chosen: Vec<(u32, Vec<Option<u32>>)> =
        pages.into_iter().filter(|(_, slots)| count(slots) > 0).collect();
    // Stable: of equally full pages the lowest stay.
    chosen.sort_by_key(|(_, slots)| std::cmp::Reverse(count(slots)));
    chosen.truncate(needed);
    let mut chosen: Vec<(Option<u32>, Vec<Option<u32>>)> =
        chosen.into_iter().map(|(page, slots)| (Some(page), slots)).collect();
    chosen.resize(needed, (None, vec![None; page_tokens]));
    if let Some((_, last)) = chosen.last_mut() {
        last.truncate(keys.len() - (needed - 1) * page_tokens);
    }
    let mut settled: Vec<u32> = chosen.iter().flat_map(|(_, slots)| slots).flatten().copied().collect();
    settled.sort_unstable();
    let mut others = keys.iter().filter(|key| settled.binary_search(key).is_err());
    let mut runs: Vec<PlacedRun> = Vec::with_capacity(needed);
    for (page, slots) in chosen {
        let keys = slots.into_iter().filter_map(|key| key.or_else(|| others.next().copied())).collect();
        runs.push(PlacedRun { page, first: 0, keys });
    }
    runs
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::format::Dtype;

    fn shown(runs: &[PlacedRun]) -> Vec<(Option<u32>, u16, Vec<u32>)> {
        runs.iter().map(|run| (run.page, run.first, run.keys.clone())).collect()
    }

    fn layout() -> PageLayout {
        PageLayout { num_planes: 1, slabs_per_chunk: 64, page_tokens: 4, head_dim: 32, dtype: Dtype::F32 }
    }

    fn key(page: u32, slot: u32, position: i32) -> ResidentKey {
        ResidentKey { page, slot, position }
    }

    /// Twelve keys on the pages 5, 6 and 7, and one on page 9.
    fn old() -> Vec<ResidentKey> {
        (0..12).map(|i| key(5 + i / 4, i % 4, i as i32)).chain([key(9, 0, 12)]).collect()
    }

    #[test]
    fn a_hole_is_filled_by_the_newest_key() {
        let old = old();
        let keys: Vec<u32> = (0..13).filter(|&key| key != 5).collect();
        let kept = Kept { old: &old, keys: &keys, codes: &[] };
        let runs = place(kept, &layout(), |page| page != 9).unwrap();
        let want = [
            (Some(5), 0, vec![0, 1, 2, 3]),
            (Some(7), 0, vec![8, 9, 10, 11]),
            (Some(6), 0, vec![4, 12, 6, 7]),
        ];
        assert_eq!(shown(&runs), want);
    }

    #[test]
    fn a_large_cut_goes_to_new_pages() {
        let old = old();
        let kept = Kept { old: &old, keys: &[1, 7], codes: &[] };
        assert_eq!(shown(&place(kept, &layout(), |page| page != 9).unwrap()), [(None, 0, vec![1, 7])]);
        let kept = Kept { old: &old, keys: &[], codes: &[] };
        assert!(place(kept, &layout(), |_| true).unwrap().is_empty());
    }

    #[test]
    fn codes_stay_and_only_whole_pages_are_encoded() {
        let tokens = CodedPage::new(1, &layout()).unwrap().tokens;
        let coded = |slot| u32::from(Entry::first_of(slot, 1));
        let mut old = vec![key(3, coded(0), 0), key(3, coded(1), 1), key(3, coded(2), 2)];
        old.extend((0..tokens as u32 + 2).map(|i| key(5 + i / 4, i % 4, i as i32 + 3)));
        let keys: Vec<u32> = (0..old.len() as u32).filter(|&key| key != 1).collect();
        let codes = vec![1; keys.len()];
        let runs = place(Kept { old: &old, keys: &keys, codes: &codes }, &layout(), |_| false).unwrap();
        let first_new = 3..3 + tokens as u32;
        let want = [
            (Some(3), coded(0) as u16, vec![0]),
            (Some(3), coded(2) as u16, vec![2]),
            (None, coded(0) as u16, first_new.clone().collect()),
            (None, 0, vec![first_new.end, first_new.end + 1]),
        ];
        assert_eq!(shown(&runs), want);
    }
}

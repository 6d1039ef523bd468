//! Pages in codes as the kernels read them: a plan whose entries each span one page's worth of plain
//! slots, the layout of every format, and the launches that write them and read single rows.

use std::borrow::Cow;

use hornbeam_core::format::PageLayout;
use hornbeam_core::format::page::{CodedPage, FORMATS, Formats, KeyBlocks};
use hornbeam_core::format::plan::{Entry, Plan};

use crate::error::{Error, Result};
use crate::kernels::{ENCODE_PAGES, GATHER_ROWS, PUT_ROWS};
use crate::lane::{Lane, Launch};
use crate::params::{self, ENCODE_THREADS, EncodePages, GatherRows, PutRows};
use crate::rows::a_warp_each;

/// Words of a format's layout.
pub const FORMAT_WORDS: usize = size_of::<params::CodedPage>() / 4;

/// The layouts of all formats on pages of this kind, zeros for those of which a page holds no token.
pub fn all_format_words(layout: &PageLayout) -> Vec<i32> {
    let formats =
        (0..FORMATS.len()).map(|i| CodedPage::new(i as u8 + 1, layout).map(|page| coded_page(&page)));
    params::words(&formats.map(Result::unwrap_or_default).collect::<Vec<_>>()).to_vec()
}

/// A format's layout as the kernels read it.
pub fn format_words(page: &CodedPage) -> Vec<i32> {
    params::words(&[coded_page(page)]).to_vec()
}

fn coded_page(page: &CodedPage) -> params::CodedPage {
    let format = &page.format;
    let key_group = if format.keys == KeyBlocks::Token { 0 } else { page.key_group() };
    params::CodedPage {
        bits: format.bits as i32,
        tokens: page.tokens as i32,
        row_bytes: page.row_bytes as i32,
        value_codes: page.value_codes as i32,
        key_params: page.key_params as i32,
        key_group: key_group as i32,
        value_params: page.value_params as i32,
        value_channels: format.value_channels as i32,
        factors: if format.value_factors { page.factors as i32 } else { 0 },
        head_dim: page.head_dim as i32,
        reserved: [0; 2],
    }
}

/// The layouts of all formats, zeros for those that no entry names; nothing for a plan of plain pages.
pub fn format_table(plan: &Plan, layout: &PageLayout) -> Result<Vec<params::CodedPage>> {
    if plan.entries.iter().all(|entry| entry.format() == 0) {
        return Ok(Vec::new());
    }
    let formats = formats(plan, layout)?;
    let page = |number: usize| formats.coded(number as u8 + 1).map(coded_page).unwrap_or_default();
    Ok((0..FORMATS.len()).map(page).collect())
}

/// The formats that a plan names.
///
/// # Errors
/// A number that is none, or one of which a page holds no token.
pub fn formats(plan: &Plan, layout: &PageLayout) -> Result<Formats> {
    Formats::of(&plan.entries, layout).map_err(|error| Error::Unsupported {
        what: "format of a page",
        got: error.to_string(),
        expected: "formats that fit the pool's pages".to_owned(),
    })
}

/// The plan with every entry in codes cut into runs of at most `page_tokens` slots, so that a slot of a
/// read lies on entry `slot / page_tokens`, whatever the formats.
pub fn cut<'a>(plan: &'a Plan, layout: &PageLayout) -> Cow<'a, Plan> {
    if plan.entries.iter().all(|entry| entry.format() == 0) {
        return Cow::Borrowed(plan);
    }
    let mut begins = Vec::with_capacity(plan.entries.len() + 1);
    let mut entries = Vec::with_capacity(plan.entries.len());
    for entry in &plan.entries {
        begins.push(entries.len() as u32);
        if entry.format() == 0 {
            entries.push(*entry);
            continue;
        }
        for done in (0..entry.count).step_by(layout.page_tokens) {
            let moved = |at: i32| at + i32::from(done);
            entries.push(Entry {
                page: entry.page,
                first: entry.first + done,
                count: (entry.count - done).min(layout.page_tokens as u16),
                position: moved(entry.position),
                positions_at: if entry.positions_at < 0 { -1 } else { moved(entry.positions_at) },
            });
        }
    }
    begins.push(entries.len() as u32);
    let at = |entry: u32| begins[entry as usize];
    let mut cut = plan.clone();
    cut.entries = entries;
    cut.head_ranges.iter_mut().for_each(|range| *range = range.map(at));
    for read in cut.reads.iter_mut().filter(|read| !read.is_by_head()) {
        (read.entry_begin, read.entry_end) = (at(read.entry_begin), at(read.entry_end));
    }
    Cow::Owned(cut)
}

/// Writes pages in codes.
///
/// # Safety
/// As [`Lane::launch`]: every address in `parameters` is valid on the device, and moves are of the pool.
///
/// # Errors
/// As [`Lane::launch`].
pub unsafe fn encode_pages(lane: &Lane, device: i32, stream: u64, parameters: &EncodePages) -> Result<()> {
    let planes = if parameters.by_page == 0 { parameters.pages.num_planes } else { 1 };
    if parameters.num_runs == 0 || planes == 0 {
        return Ok(());
    }
    let grid = [parameters.num_runs as u32, planes.min(65_535) as u32, 1];
    let launch = Launch { grid, threads: ENCODE_THREADS as u32, shared: 0 };
    // SAFETY: the caller's contract.
    unsafe { lane.launch(device, stream, ENCODE_PAGES, launch, parameters) }
}

/// Copies keys and values of single slots, as f32.
///
/// # Safety
/// As [`Lane::launch`]: every address in `parameters` is valid on the device, and slots are of the pool.
///
/// # Errors
/// As [`Lane::launch`].
pub unsafe fn gather_rows(lane: &Lane, device: i32, stream: u64, parameters: &GatherRows) -> Result<()> {
    if parameters.num_rows == 0 {
        return Ok(());
    }
    // SAFETY: the caller's contract.
    unsafe { lane.launch(device, stream, GATHER_ROWS, a_warp_each(parameters.num_rows as u32), parameters) }
}

/// Writes keys and values to single plain slots.
///
/// # Safety
/// As [`gather_rows`].
///
/// # Errors
/// As [`Lane::launch`].
pub unsafe fn put_rows(lane: &Lane, device: i32, stream: u64, parameters: &PutRows) -> Result<()> {
    if parameters.num_rows == 0 {
        return Ok(());
    }
    // SAFETY: the caller's contract.
    unsafe { lane.launch(device, stream, PUT_ROWS, a_warp_each(parameters.num_rows as u32), parameters) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hornbeam_core::format::Dtype;
    use hornbeam_core::format::plan::Read;

    #[test]
    fn entries_in_codes_are_cut_and_everything_points_where_it_did() {
        let layout = PageLayout {
            num_planes: 2,
            slabs_per_chunk: 4,
            page_tokens: 16,
            head_dim: 64,
            dtype: Dtype::Bf16,
        };
        let entry =
            |first, count, position, positions_at| Entry { page: 3, first, count, position, positions_at };
        let coded = Entry::first_of(3, 2);
        let read = |begin, end, flags| Read {
            entry_begin: begin,
            entry_end: end,
            row_begin: 0,
            row_end: 1,
            num_keys: 60,
            flags,
            mask: -1,
            rotary_offset: 0,
        };
        let plan = Plan {
            entries: vec![
                entry(2, 9, 0, -1),
                entry(coded, 40, 9, -1),
                entry(coded, 16, 49, 7),
                entry(0, 1, 65, -1),
            ],
            positions: vec![0; 23],
            head_ranges: vec![[0, 2], [2, 4]],
            reads: vec![read(1, 3, 0), read(0, 2, Read::BY_HEAD)],
            ..Plan::default()
        };
        let cut = cut(&plan, &layout);
        let shown: Vec<_> =
            cut.entries.iter().map(|e| (e.first, e.count, e.position, e.positions_at)).collect();
        assert_eq!(
            shown,
            [
                (2, 9, 0, -1),
                (coded, 16, 9, -1),
                (coded + 16, 16, 25, -1),
                (coded + 32, 8, 41, -1),
                (coded, 16, 49, 7),
                (0, 1, 65, -1),
            ]
        );
        assert_eq!(cut.head_ranges, [[0, 4], [4, 6]]);
        assert_eq!([cut.reads[0].entry_begin, cut.reads[0].entry_end], [1, 5]);
        assert_eq!([cut.reads[1].entry_begin, cut.reads[1].entry_end], [0, 2]);
        let plain = Plan { entries: plan.entries[..1].to_vec(), ..Plan::default() };
        assert!(matches!(super::cut(&plain, &layout), Cow::Borrowed(_)));
    }
}

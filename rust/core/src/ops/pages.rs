//! Plain slots into pages of codes, and back.
//!
//! Codes are `(x - least) / step`, rounded half to even; offset and step are kept in f16, least rounded
//! down and step rounded up, so that every element lies within the range of its codes and decoding errs
//! by half a step at most.

use std::ops::Range;
use std::sync::Mutex;

use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::format::page::{CodedPage, KeyBlocks};
use crate::format::slot::{MOST_TOKENS, PageMove};
use crate::format::{Dtype, PageLayout};
use crate::ops::rows::move_page_rows_at_once;
use crate::parallel::{Parallel, into_whole, lock_whole};

/// Pages that are encoded before any of them is written.
const BATCH: usize = 256;

/// Writes pages in codes. A run of moves to one page, to slots 0, 1, ..., is that page; `from` are plain
/// slots. With `planes` above 1, ids are those of slabs, and every plane's page is written; with 1,
/// they are page ids. `chunks[c]` is the memory of chunk `c`, empty where no slot lies.
///
/// # Errors
/// [`Error::Value`] for a format that is none, slots outside of the chunks or more than fit, and
/// elements that f16 does not hold; pages of earlier batches are written then.
pub fn write_coded_pages(
    moves: &[PageMove],
    format: u8,
    chunks: &mut [&mut [u8]],
    layout: &PageLayout,
    by_page: bool,
    pool: &dyn Parallel,
) -> Result<()> {
    let coder = Coder { page: CodedPage::new(format, layout)?, layout, by_page };
    let runs = coder.runs(moves, chunks)?;
    for plane in 0..if by_page { 1 } else { layout.num_planes } {
        for runs in runs.chunks(BATCH) {
            let pages = coder.encode(moves, runs, plane, chunks, pool)?;
            pages.into_iter().for_each(|(at, bytes)| put_page(chunks, at, &bytes));
        }
    }
    Ok(())
}

/// Copies plain slots, `moves`, and writes pages in codes, `codes`, all ids those of pages and everything
/// at once: every slot is read before any is written.
///
/// # Errors
/// As [`write_coded_pages`] and [`move_page_rows_at_once`]; nothing is written then.
pub fn condense_pages(
    moves: &[PageMove],
    codes: &[(u8, Vec<PageMove>)],
    chunks: &mut [&mut [u8]],
    layout: &PageLayout,
    pool: &dyn Parallel,
) -> Result<()> {
    let mut pages = Vec::new();
    for (format, moves) in codes {
        let coder = Coder { page: CodedPage::new(*format, layout)?, layout, by_page: true };
        pages.extend(coder.encode(moves, &coder.runs(moves, chunks)?, 0, chunks, pool)?);
    }
    move_page_rows_at_once(moves, chunks, layout)?;
    pages.into_iter().for_each(|(at, bytes)| put_page(chunks, at, &bytes));
    Ok(())
}

/// Checks that pages in codes can hold what lies at some plain slots, (page id, slot).
///
/// # Errors
/// [`Error::Value`] for elements that f16 does not hold, and for slots outside of the chunks.
pub fn check_encodable(
    slots: &[[u32; 2]],
    chunks: &[&mut [u8]],
    layout: &PageLayout,
    pool: &dyn Parallel,
) -> Result<()> {
    const TASK: usize = 4096;
    let width = layout.head_dim * layout.dtype.size();
    let chunk_bytes = layout.chunk_elements() * layout.dtype.size();
    let parts: Vec<Mutex<Result<()>>> = slots.chunks(TASK).map(|_| Mutex::new(Ok(()))).collect();
    pool.run(parts.len(), &|part| {
        let check = |&[page, slot]: &[u32; 2]| {
            let (chunk, element) = layout.page(page);
            let held = chunks.get(chunk).filter(|chunk| chunk.len() == chunk_bytes);
            let Some(bytes) = held.filter(|_| (slot as usize) < layout.page_tokens) else {
                let got = format!("page {page}, slot {slot}");
                return Err(Error::value("slots", got, "plain slots of the given chunks"));
            };
            let key = element * layout.dtype.size() + slot as usize * width;
            [key, key + layout.page_tokens * width]
                .iter()
                .try_for_each(|&at| expect_encodable(&widen(&bytes[at..at + width], layout.dtype)))
        };
        let checked = slots.chunks(TASK).nth(part).unwrap_or_default().iter().try_for_each(check);
        *lock_whole(&parts[part]) = checked;
    });
    parts.into_iter().try_for_each(into_whole)
}

fn expect_encodable(x: &[f32]) -> Result<()> {
    match x.iter().find(|x| x.is_nan() || x.abs() > f16::MAX.to_f32()) {
        Some(bad) => Err(Error::value("an element of a page to encode", bad, "a number of at most 65504")),
        None => Ok(()),
    }
}

fn put_page(chunks: &mut [&mut [u8]], (chunk, byte): (usize, usize), bytes: &[u8]) {
    chunks[chunk][byte..byte + bytes.len()].copy_from_slice(bytes);
}

/// Chunk of a page, and the byte at which it begins there.
type Place = (usize, usize);

/// Encodes pages of one format.
struct Coder<'a> {
    page: CodedPage,
    layout: &'a PageLayout,
    by_page: bool,
}

impl Coder<'_> {
    /// The moves of each page.
    fn runs(&self, moves: &[PageMove], chunks: &[&mut [u8]]) -> Result<Vec<Range<usize>>> {
        let layout = self.layout;
        let chunk_bytes = layout.chunk_elements() * layout.dtype.size();
        let per_chunk = layout.slabs_per_chunk * if self.by_page { layout.num_planes } else { 1 };
        let mut runs: Vec<Range<usize>> = Vec::new();
        for (i, m) in moves.iter().enumerate() {
            let slot = match runs.last_mut() {
                Some(run) if moves[run.start].to[0] == m.to[0] => {
                    run.end += 1;
                    run.len() - 1
                }
                _ => {
                    runs.push(i..i + 1);
                    0
                }
            };
            let held = [m.from[0], m.to[0]].iter().all(|&id| {
                chunks.get(id as usize / per_chunk).is_some_and(|chunk| chunk.len() == chunk_bytes)
            });
            if !held
                || m.from[1] as usize >= layout.page_tokens
                || m.to[1] as usize != slot
                || slot >= self.page.tokens
            {
                let most = self.page.tokens - 1;
                let want = format!("plain slots of the given chunks to slots 0 to {most} of a page");
                return Err(Error::value("moves", format!("{m:?}"), want));
            }
        }
        Ok(runs)
    }

    fn place(&self, id: u32, plane: usize) -> Place {
        let layout = self.layout;
        let (chunk, element) = if self.by_page { layout.page(id) } else { layout.slab_page(id, plane) };
        (chunk, element * layout.dtype.size())
    }

    /// The bytes of the pages of some runs, and where they belong.
    fn encode(
        &self,
        moves: &[PageMove],
        runs: &[Range<usize>],
        plane: usize,
        source: &[&mut [u8]],
        pool: &dyn Parallel,
    ) -> Result<Vec<(Place, Vec<u8>)>> {
        let layout = self.layout;
        let width = layout.head_dim * layout.dtype.size();
        let encoded: Vec<Mutex<Result<Vec<u8>>>> = runs.iter().map(|_| Mutex::new(Ok(Vec::new()))).collect();
        pool.run(runs.len(), &|run| {
            let slots: Vec<Place> = moves[runs[run].clone()]
                .iter()
                .map(|m| {
                    let (chunk, byte) = self.place(m.from[0], plane);
                    (chunk, byte + m.from[1] as usize * width)
                })
                .collect();
            let gather = |offset: usize| -> Vec<f32> {
                let rows = slots.iter().flat_map(|&(chunk, byte)| &source[chunk][byte + offset..][..width]);
                widen(&rows.copied().collect::<Vec<u8>>(), layout.dtype)
            };
            let values = gather(layout.page_tokens * width);
            let bytes = encode(&self.page, &gather(0), &values, layout.page_bytes());
            *lock_whole(&encoded[run]) = bytes;
        });
        let to = |run: &Range<usize>| self.place(moves[run.start].to[0], plane);
        let page = |(run, bytes): (&Range<usize>, Mutex<Result<Vec<u8>>>)| Ok((to(run), into_whole(bytes)?));
        runs.iter().zip(encoded).map(page).collect()
    }
}

/// Writes the key, or the value, at a slot of a page in codes, as attention sees it.
pub fn decode_row(page: &CodedPage, bytes: &[u8], slot: usize, values: bool, out: &mut [f32]) {
    let number = |at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32();
    let padded = page.head_dim.next_multiple_of(16);
    let codes = if values { page.value_codes } else { 0 } + slot * page.row_bytes;
    let mask = (1u32 << page.format.bits) - 1;
    for (channel, out) in out.iter_mut().enumerate().take(page.head_dim) {
        let (byte, shift) = page.code_at(channel);
        let code = (u32::from(bytes[codes + byte]) >> shift & mask) as f32;
        let (least, step) = if values {
            let at = page.value_params + 4 * (channel / page.format.value_channels) * page.tokens;
            (at + 2 * slot, at + 2 * (page.tokens + slot))
        } else {
            match page.format.keys {
                KeyBlocks::Token => (page.key_params + 2 * slot, page.key_params + 2 * (page.tokens + slot)),
                KeyBlocks::Channel(_) => {
                    let at = page.key_params + slot / page.key_group() * 4 * padded;
                    (at + 2 * channel, at + 2 * (padded + channel))
                }
            }
        };
        *out = number(least) + number(step) * code;
        if values && page.format.value_factors {
            *out *= number(page.factors + 2 * channel);
        }
    }
}

fn widen(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    match dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::Bf16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
    }
}

/// The bytes of a page with these keys and values, `[tokens][head_dim]`; what no token takes is zero.
fn encode(page: &CodedPage, keys: &[f32], values: &[f32], page_bytes: usize) -> Result<Vec<u8>> {
    let (dim, tokens) = (page.head_dim, keys.len() / page.head_dim.max(1));
    debug_assert!(tokens <= page.tokens.min(MOST_TOKENS));
    expect_encodable(keys)?;
    expect_encodable(values)?;
    let mut out = vec![0u8; page_bytes];
    let padded = dim.next_multiple_of(16);
    let block = |out: &mut [u8], x: &[f32], codes: usize, tokens: Range<usize>, channels: Range<usize>| {
        let elements = || tokens.clone().flat_map(|t| channels.clone().map(move |c| (t, c)));
        let (least, step) = range(elements().map(|(t, c)| x[t * dim + c]), page.format.bits);
        let (offset, size) = (least.to_f32(), step.to_f32());
        if size > 0.0 {
            let most = ((1usize << page.format.bits) - 1) as f32;
            for (t, c) in elements() {
                let code = ((x[t * dim + c] - offset) / size).round_ties_even().clamp(0.0, most) as u32;
                let (byte, shift) = page.code_at(c);
                out[codes + t * page.row_bytes + byte] |= (code << shift) as u8;
            }
        }
        (least, step)
    };
    let put = |out: &mut [u8], at: usize, x: f16| out[at..at + 2].copy_from_slice(&x.to_le_bytes());
    match page.format.keys {
        KeyBlocks::Token => {
            for t in 0..tokens {
                let (least, step) = block(&mut out, keys, 0, t..t + 1, 0..dim);
                put(&mut out, page.key_params + 2 * t, least);
                put(&mut out, page.key_params + 2 * (page.tokens + t), step);
            }
        }
        KeyBlocks::Channel(_) => {
            for (group, first) in (0..tokens).step_by(page.key_group()).enumerate() {
                let end = tokens.min(first + page.key_group());
                let at = page.key_params + group * 4 * padded;
                for c in 0..dim {
                    let (least, step) = block(&mut out, keys, 0, first..end, c..c + 1);
                    put(&mut out, at + 2 * c, least);
                    put(&mut out, at + 2 * (padded + c), step);
                }
            }
        }
    }
    let mut values = values.to_vec();
    if page.format.value_factors {
        for c in 0..dim {
            let most = (0..tokens).fold(0.0f32, |most, t| most.max(values[t * dim + c].abs()));
            // A factor that f16 rounds to nothing would divide by zero.
            let factor = f16::from_f32(most.sqrt());
            let factor = if factor > f16::ZERO { factor } else { f16::ONE };
            put(&mut out, page.factors + 2 * c, factor);
            (0..tokens).for_each(|t| values[t * dim + c] /= factor.to_f32());
        }
    }
    for t in 0..tokens {
        for group in 0..page.value_groups() {
            let first = group * page.format.value_channels;
            let channels = first..dim.min(first + page.format.value_channels);
            let (least, step) = block(&mut out, &values, page.value_codes, t..t + 1, channels);
            let at = page.value_params + 4 * group * page.tokens;
            put(&mut out, at + 2 * t, least);
            put(&mut out, at + 2 * (page.tokens + t), step);
        }
    }
    Ok(out)
}

/// Offset and step whose codes reach every element: the greatest f16 that is not above the least
/// element, and the least step that reaches the greatest one.
fn range(x: impl Iterator<Item = f32>, bits: usize) -> (f16, f16) {
    let (low, high) = x.fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
    // Zeros of one sign, whatever the order of the elements.
    let (low, high) = (low + 0.0, high + 0.0);
    let most = ((1usize << bits) - 1) as f32;
    let mut least = f16::from_f32(low);
    if least.to_f32() > low {
        least = next_below(least);
    }
    let reach = high - least.to_f32();
    let mut step = f16::from_f32(reach / most);
    while step.to_f32() * most < reach {
        step = f16::from_bits(step.to_bits() + 1);
    }
    (least, step)
}

/// The greatest f16 below a finite one.
fn next_below(x: f16) -> f16 {
    match x.to_bits() {
        0 => f16::from_bits(0x8001),
        bits if bits & 0x8000 == 0 => f16::from_bits(bits - 1),
        bits => f16::from_bits(bits + 1),
    }
}

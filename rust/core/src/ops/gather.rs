//! Keys and values of single slots, in float32.

use std::sync::Mutex;

use crate::error::{Error, Result};
use crate::format::key_table::{KeyTable, ResidentKey, split_planes};
use crate::format::page::Formats;
use crate::format::{Element, PageLayout};
use crate::ops::pages::decode_row;
use crate::parallel::{Parallel, lock_whole};
use crate::simd::bytes_of;

/// A key table, and the chunks that its keys lie in.
#[derive(Debug)]
pub struct Resident<'a, P> {
    /// Where the keys lie.
    pub table: &'a KeyTable,
    /// The geometry of a page.
    pub layout: &'a PageLayout,
    chunks: &'a [&'a [P]],
    formats: Formats,
}

impl<'a, P: Element> Resident<'a, P> {
    /// `chunks[c]` is the memory of chunk `c`, empty where no key lies.
    ///
    /// # Errors
    /// [`Error::Value`] for a slot outside of the chunks, and a format that is none.
    pub fn new(table: &'a KeyTable, chunks: &'a [&'a [P]], layout: &'a PageLayout) -> Result<Self> {
        let formats = Formats::numbered(table.keys().iter().map(ResidentKey::format), layout)?;
        for key in table.keys() {
            let chunk = chunks.get(layout.page(key.page).0);
            let known = chunk.is_some_and(|chunk| chunk.len() == layout.chunk_elements());
            if !known || key.slot_on_page() as usize >= formats.tokens_of(key.format()) {
                let got = format!("page {}, slot {}", key.page, key.slot);
                return Err(Error::value("entries", got, "a slot of the given chunks"));
            }
        }
        Ok(Self { table, layout, chunks, formats })
    }

    /// Appends the keys of a plane, or its values; codes are decoded.
    pub fn gather(&self, plane: usize, values: bool, out: &mut Vec<f32>) {
        let layout = self.layout;
        let d = layout.head_dim;
        let half = if values { layout.page_tokens * d } else { 0 };
        let keys = self.table.plane(plane);
        out.reserve(keys.len() * d);
        for key in keys {
            let (chunk, at) = layout.page(key.page);
            let slot = key.slot_on_page() as usize;
            match self.formats.coded(key.format()) {
                None => {
                    let row = &self.chunks[chunk][at + half + slot * d..][..d];
                    out.extend(row.iter().map(|x| x.to_f32()));
                }
                Some(page) => {
                    let bytes = bytes_of(&self.chunks[chunk][at..at + layout.page_elements()]);
                    let end = out.len();
                    out.resize(end + d, 0.0);
                    decode_row(page, bytes, slot, values, &mut out[end..]);
                }
            }
        }
    }

    /// Writes keys and values of all planes, `[T, head_dim]`.
    ///
    /// # Errors
    /// [`Error::Shape`] for outputs of other lengths.
    pub fn gather_all(&self, pool: &dyn Parallel, keys: &mut [f32], values: &mut [f32]) -> Result<()> {
        let d = self.layout.head_dim;
        let want = self.table.keys().len() * d;
        if keys.len() != want || values.len() != want {
            return Err(Error::shape("keys and values", (keys.len(), values.len()), format!("{want} each")));
        }
        for (out, values) in [(keys, false), (values, true)] {
            let parts: Vec<Mutex<&mut [f32]>> =
                split_planes(out, self.table.offsets(), d).into_iter().map(Mutex::new).collect();
            pool.run(parts.len(), &|plane| {
                let mut rows = Vec::new();
                self.gather(plane, values, &mut rows);
                lock_whole(&parts[plane]).copy_from_slice(&rows);
            });
        }
        Ok(())
    }
}

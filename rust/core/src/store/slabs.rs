//! Reference counts of slabs, and of single pages where a slab was broken up for tables by head.

use std::collections::{BTreeSet, HashMap};

use crate::error::{Error, Result};
use crate::format::PageLayout;

/// The slab pool: chunks come and go, slabs are handed out lowest id first, so that slabs taken one
/// after the other tend to be consecutive in memory, and the last chunks are the first to empty.
#[derive(Debug)]
pub struct Slabs {
    layout: PageLayout,
    /// References of each slab; a broken slab has one, from its pages together.
    references: Vec<u32>,
    /// One bit a slab, set where it is free.
    free: Vec<u64>,
    /// No word before this one has a free slab.
    first_free_word: usize,
    num_free: usize,
    max_chunks: usize,
    /// Broken slabs: references of each page.
    broken: HashMap<u32, Vec<u32>>,
    /// Free pages of broken slabs. A page serves any plane: budgets of heads differ, and a slab of
    /// which only one head's page is used would hold the memory of all.
    free_pages: BTreeSet<u32>,
}

impl Slabs {
    /// An empty pool that may grow to `max_chunks`.
    pub fn new(layout: PageLayout, max_chunks: usize) -> Self {
        Self {
            layout,
            references: Vec::new(),
            free: Vec::new(),
            first_free_word: 0,
            num_free: 0,
            max_chunks,
            broken: HashMap::new(),
            free_pages: BTreeSet::new(),
        }
    }

    /// The geometry of a page.
    pub fn layout(&self) -> &PageLayout {
        &self.layout
    }

    /// Slabs of all chunks.
    pub fn len(&self) -> usize {
        self.references.len()
    }

    /// Whether there is no chunk yet.
    pub fn is_empty(&self) -> bool {
        self.references.is_empty()
    }

    /// Slabs that nobody holds.
    pub fn num_free(&self) -> usize {
        self.num_free
    }

    /// Chunks that the caller has given.
    pub fn num_chunks(&self) -> usize {
        self.references.len() / self.layout.slabs_per_chunk
    }

    /// The hard limit; `usize::MAX` for none.
    pub fn max_chunks(&self) -> usize {
        self.max_chunks
    }

    /// Slabs that were broken into pages.
    pub fn num_broken(&self) -> usize {
        self.broken.len()
    }

    /// Slabs within the limit, for messages.
    pub fn budget(&self) -> usize {
        self.max_chunks.saturating_mul(self.layout.slabs_per_chunk)
    }

    /// Counts in one more chunk, whose memory the caller has. Errors at the limit.
    pub fn add_chunk(&mut self) -> Result<()> {
        let ids = (self.num_chunks() + 1) * self.layout.slabs_per_chunk * self.layout.num_planes;
        if self.num_chunks() >= self.max_chunks || u32::try_from(ids).is_err() {
            let free = self.num_free;
            return Err(Error::OutOfPages { needed: free + 1, free, budget: self.budget() });
        }
        let begin = self.references.len();
        self.references.resize(begin + self.layout.slabs_per_chunk, 0);
        self.free.resize(self.references.len().div_ceil(64), 0);
        (begin..self.references.len()).for_each(|slab| self.mark_free(slab as u32));
        Ok(())
    }

    /// Drops the last chunks of which nobody holds a slab; returns how many.
    pub fn trim(&mut self) -> usize {
        let size = self.layout.slabs_per_chunk;
        let mut dropped = 0;
        while self.references.len() >= size
            && self.references[self.references.len() - size..].iter().all(|&r| r == 0)
        {
            let begin = self.references.len() - size;
            (begin..self.references.len()).for_each(|slab| self.free[slab / 64] &= !(1 << (slab % 64)));
            self.references.truncate(begin);
            self.free.truncate(begin.div_ceil(64));
            self.num_free -= size;
            dropped += 1;
        }
        self.first_free_word = self.first_free_word.min(self.free.len());
        dropped
    }

    fn mark_free(&mut self, slab: u32) {
        let word = slab as usize / 64;
        self.free[word] |= 1 << (slab % 64);
        self.first_free_word = self.first_free_word.min(word);
        self.num_free += 1;
    }

    /// Takes the free slab of the lowest id, with one reference.
    pub fn take(&mut self) -> Option<u32> {
        while let Some(&word) = self.free.get(self.first_free_word) {
            if word != 0 {
                let slab = self.first_free_word as u32 * 64 + word.trailing_zeros();
                self.free[self.first_free_word] = word & (word - 1);
                self.num_free -= 1;
                self.references[slab as usize] = 1;
                return Some(slab);
            }
            self.first_free_word += 1;
        }
        None
    }

    /// References of a slab.
    pub fn references(&self, slab: u32) -> u32 {
        self.references[slab as usize]
    }

    /// One more reference.
    pub fn retain(&mut self, slab: u32) {
        self.references[slab as usize] += 1;
    }

    /// One reference less; the last frees the slab.
    pub fn release(&mut self, slab: u32) {
        let references = &mut self.references[slab as usize];
        *references -= 1;
        if *references == 0 {
            self.mark_free(slab);
        }
    }

    /// Whole slabs that taking `wanted` pages will break.
    pub fn slabs_for_pages(&self, wanted: usize) -> usize {
        wanted.saturating_sub(self.free_pages.len()).div_ceil(self.layout.num_planes)
    }

    /// Free pages of broken slabs.
    pub fn num_free_pages(&self) -> usize {
        self.free_pages.len()
    }

    /// Slab of a page id, and which of the slab's pages it is.
    pub fn slab_of_page(&self, page: u32) -> (u32, usize) {
        let (size, planes) = (self.layout.slabs_per_chunk as u32, self.layout.num_planes as u32);
        (page / (size * planes) * size + page % size, (page / size % planes) as usize)
    }

    /// Takes `count` slabs, lowest ids first. Takes none where there are too few.
    pub fn take_slabs(&mut self, count: usize) -> Result<Vec<u32>> {
        self.expect_free(count)?;
        Ok((0..count).filter_map(|_| self.take()).collect())
    }

    /// Takes `count` pages, with one reference each, lowest ids first; breaks free slabs for what
    /// broken ones do not have. Takes none where there are too few.
    pub fn take_pages(&mut self, count: usize) -> Result<Vec<u32>> {
        let slabs = self.take_slabs(self.slabs_for_pages(count))?;
        for slab in slabs {
            self.broken.insert(slab, vec![0; self.layout.num_planes]);
            self.free_pages.extend((0..self.layout.num_planes).map(|plane| self.layout.page_id(slab, plane)));
        }
        let pages: Vec<u32> = self.free_pages.iter().take(count).copied().collect();
        for page in &pages {
            self.free_pages.remove(page);
            self.retain_page(*page);
        }
        Ok(pages)
    }

    fn expect_free(&self, slabs: usize) -> Result<()> {
        if slabs <= self.num_free {
            return Ok(());
        }
        Err(Error::OutOfPages { needed: slabs, free: self.num_free, budget: self.budget() })
    }

    /// References of a page of a broken slab; 0 for others.
    pub fn page_references(&self, page: u32) -> u32 {
        let (slab, plane) = self.slab_of_page(page);
        self.broken.get(&slab).map_or(0, |pages| pages[plane])
    }

    /// Pages of a broken slab that somebody holds.
    pub fn pages_held(&self, slab: u32) -> usize {
        self.broken.get(&slab).map_or(0, |pages| pages.iter().filter(|&&r| r > 0).count())
    }

    /// One more reference on a page of a broken slab.
    pub fn retain_page(&mut self, page: u32) {
        let (slab, plane) = self.slab_of_page(page);
        if let Some(pages) = self.broken.get_mut(&slab) {
            pages[plane] += 1;
        }
    }

    /// One reference less; a slab whose pages are all free again is whole and free.
    pub fn release_page(&mut self, page: u32) {
        let (slab, plane) = self.slab_of_page(page);
        let Some(pages) = self.broken.get_mut(&slab) else { return };
        pages[plane] -= 1;
        if pages[plane] > 0 {
            return;
        }
        if pages.iter().all(|&r| r == 0) {
            self.broken.remove(&slab);
            for plane in 0..self.layout.num_planes {
                self.free_pages.remove(&self.layout.page_id(slab, plane));
            }
            self.release(slab);
        } else {
            self.free_pages.insert(page);
        }
    }

    /// Checks the bookkeeping itself: free bits, counts, broken slabs.
    pub fn check(&self) -> Result<(), String> {
        let bits = self.free.iter().map(|w| w.count_ones() as usize).sum::<usize>();
        if bits != self.num_free {
            return Err(format!("{bits} free bits, {} counted", self.num_free));
        }
        for (slab, &references) in self.references.iter().enumerate() {
            if (self.free[slab / 64] >> (slab % 64) & 1 == 1) != (references == 0) {
                return Err(format!("slab {slab} has {references} references and the wrong free bit"));
            }
        }
        if self.free.iter().take(self.first_free_word).any(|&w| w != 0) {
            return Err("a free slab lies before the first free word".to_owned());
        }
        for (slab, pages) in &self.broken {
            if self.references(*slab) != 1 || pages.iter().all(|&r| r == 0) {
                return Err(format!("broken slab {slab} is not held exactly once, or holds nothing"));
            }
            for (plane, &references) in pages.iter().enumerate() {
                if self.free_pages.contains(&self.layout.page_id(*slab, plane)) != (references == 0) {
                    return Err(format!("page {plane} of broken slab {slab} is listed wrongly"));
                }
            }
        }
        let listed = self.free_pages.len();
        let free: usize = self.broken.values().flatten().filter(|&&r| r == 0).count();
        if listed == free { Ok(()) } else { Err(format!("{listed} pages listed free, {free} are")) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::format::Dtype;

    fn layout() -> PageLayout {
        PageLayout { num_planes: 3, slabs_per_chunk: 4, page_tokens: 2, head_dim: 8, dtype: Dtype::F32 }
    }

    #[test]
    fn the_lowest_free_slab_comes_first() {
        let mut slabs = Slabs::new(layout(), 2);
        assert_eq!(slabs.take(), None);
        slabs.add_chunk().unwrap();
        slabs.add_chunk().unwrap();
        assert!(slabs.add_chunk().is_err());
        assert_eq!((0..8).map(|_| slabs.take().unwrap()).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
        slabs.release(6);
        slabs.release(2);
        assert_eq!((slabs.take(), slabs.take(), slabs.take()), (Some(2), Some(6), None));
        slabs.check().unwrap();
    }

    #[test]
    fn only_empty_chunks_at_the_end_are_given_back() {
        let mut slabs = Slabs::new(layout(), 3);
        (0..3).for_each(|_| slabs.add_chunk().unwrap());
        let held: Vec<u32> = (0..6).map(|_| slabs.take().unwrap()).collect();
        assert_eq!((slabs.trim(), slabs.num_chunks()), (1, 2));
        held[..4].iter().for_each(|&s| slabs.release(s));
        assert_eq!(slabs.trim(), 0);
        held[4..].iter().for_each(|&s| slabs.release(s));
        assert_eq!((slabs.trim(), slabs.len(), slabs.num_free()), (2, 0, 0));
        slabs.check().unwrap();
    }

    #[test]
    fn a_broken_slab_becomes_whole_again() {
        let mut slabs = Slabs::new(layout(), 1);
        slabs.add_chunk().unwrap();
        assert_eq!((slabs.slabs_for_pages(3), slabs.slabs_for_pages(4)), (1, 2));
        let pages = slabs.take_pages(4).unwrap();
        // Two slabs of three pages are broken; page ids go by plane, then slab.
        assert_eq!(pages, [0, 1, 4, 5]);
        assert_eq!(
            pages.iter().map(|p| slabs.slab_of_page(*p)).collect::<Vec<_>>(),
            [(0, 0), (1, 0), (0, 1), (1, 1)]
        );
        assert_eq!((slabs.num_free(), slabs.slabs_for_pages(3)), (2, 1));
        assert!(slabs.take_pages(9).is_err());
        let &[a, b, c, d] = pages.as_slice() else { panic!("{pages:?}") };
        slabs.retain_page(a);
        slabs.release_page(a);
        slabs.release_page(c);
        assert_eq!(slabs.num_free(), 2);
        slabs.release_page(a);
        assert_eq!((slabs.num_free(), slabs.pages_held(1)), (3, 2));
        slabs.release_page(b);
        slabs.release_page(d);
        assert_eq!((slabs.num_free(), slabs.num_broken()), (4, 0));
        slabs.check().unwrap();
    }
}

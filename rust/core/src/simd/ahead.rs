//! Memory that will be needed soon, asked for while something else is computed. In bursts the requests
//! would keep the loads behind them waiting.

use super::Lanes;
use crate::format::Element;

/// Memory that lies in one piece.
#[derive(Debug, Clone, Copy)]
pub struct MemoryRange {
    /// Where it begins. It is only ever prefetched.
    pub at: *const u8,
    /// How long it is.
    pub bytes: usize,
}

static NOWHERE: u8 = 0;

impl MemoryRange {
    /// No memory, at an address that may be asked for.
    pub(super) const NONE: Self = Self { at: &raw const NOWHERE, bytes: 0 };

    /// The memory of a row.
    #[inline(always)]
    pub fn of<E>(row: &[E]) -> Self {
        Self { at: row.as_ptr().cast(), bytes: size_of_val(row) }
    }

    /// Asks for its cache lines, in the second-level cache.
    #[inline(always)]
    pub fn prefetch<L: Lanes>(self, l: L) {
        for at in (0..self.bytes).step_by(64) {
            l.prefetch(self.at.wrapping_add(at));
        }
    }
}

/// Asks for the cache lines at these addresses, in the second-level cache, whatever lies there. No effect where
/// the instruction set has no such request.
pub fn prefetch_lines(addresses: impl Iterator<Item = usize>) {
    for address in addresses {
        prefetch_line(std::ptr::without_provenance(address));
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn prefetch_line(at: *const i8) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    // SAFETY: a prefetch may be given any address, and all processors of this kind have it.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(at) }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn prefetch_line(_at: *const i8) {}

/// Rows that are needed soon: a product asks for some of them while each of its groups is computed.
#[derive(Debug)]
pub struct Ahead<'a, E> {
    rows: &'a [&'a [E]],
    each: usize,
}

impl<'a, E: Element> Ahead<'a, E> {
    /// `rows`, spread over `groups` groups.
    pub fn new(rows: &'a [&'a [E]], groups: usize) -> Self {
        Self { rows, each: rows.len().div_ceil(groups.max(1)) }
    }

    /// Nothing.
    pub fn nothing() -> Self {
        Self { rows: &[], each: 0 }
    }

    /// Whether all rows were asked for.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The next rows: a run where they lie one after another; else they are asked for here.
    #[inline(always)]
    pub(super) fn take<L: Lanes>(&mut self, l: L) -> MemoryRange {
        let (rows, rest) = self.rows.split_at(self.each.min(self.rows.len()));
        self.rows = rest;
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return MemoryRange::NONE };
        let run = MemoryRange { at: first.as_ptr().cast(), bytes: rows.len() * size_of_val(*first) };
        if run.at.wrapping_add(run.bytes) == last.as_ptr_range().end.cast() {
            return run;
        }
        for row in rows {
            MemoryRange::of(row).prefetch(l);
        }
        MemoryRange::NONE
    }
}

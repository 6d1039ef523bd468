//! What a verification read of its logits, for tests and benches.

use std::sync::atomic::{AtomicU64, Ordering};

/// Sums over calls and threads. A [`super::Verification`] without it counts nothing.
#[derive(Debug, Default)]
pub struct Reads {
    target_rows: AtomicU64,
    draft_rows: AtomicU64,
    elements: AtomicU64,
}

impl Reads {
    /// Rows of the target that were read, a row that was read again counted again.
    #[must_use]
    pub fn target_rows(&self) -> u64 {
        self.target_rows.load(Ordering::Relaxed)
    }

    /// Rows of the draft, likewise.
    #[must_use]
    pub fn draft_rows(&self) -> u64 {
        self.draft_rows.load(Ordering::Relaxed)
    }

    /// Logits that were read, over all passes over rows, and over the copies that bias and penalties
    /// make of them. After the first pass a row lies in the cache.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.elements.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, is_target: bool, elements: u64) {
        let rows = if is_target { &self.target_rows } else { &self.draft_rows };
        rows.fetch_add(1, Ordering::Relaxed);
        self.elements.fetch_add(elements, Ordering::Relaxed);
    }
}

//! Memory that calls share.

/// Memory of the rules, for any number of calls.
#[derive(Debug, Default)]
pub struct Scratch {
    order: Vec<u32>,
    pub(super) table: Vec<u64>,
}

impl Scratch {
    /// Indices of `count` items, in the order of `compare`; equal ones by index.
    pub(super) fn sorted(
        &mut self,
        count: usize,
        compare: impl Fn(usize, usize) -> std::cmp::Ordering,
    ) -> &[u32] {
        self.order.clear();
        self.order.extend(0..count as u32);
        self.order.sort_unstable_by(|&a, &b| compare(a as usize, b as usize).then(a.cmp(&b)));
        &self.order
    }
}

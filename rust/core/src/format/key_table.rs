//! The resident keys of a branch: where the keys lie that each plane still shows.

use super::slot::Entry;

/// One resident key. Three 32-bit words.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResidentKey {
    /// Page id.
    pub page: u32,
    /// Slot, and above its twelve bits the number of the page's format, as [`Entry::first`] has them.
    pub slot: u32,
    /// Logical position.
    pub position: i32,
}

impl ResidentKey {
    /// The slot on the page.
    #[inline(always)]
    pub fn slot_on_page(&self) -> u32 {
        self.slot & ((1 << Entry::SLOT_BITS) - 1)
    }

    /// The number of the page's format; 0 where its slots are plain, more than there are where it names none.
    #[inline(always)]
    pub fn format(&self) -> u8 {
        u8::try_from(self.slot >> Entry::SLOT_BITS).unwrap_or(u8::MAX)
    }
}

/// The resident keys of all planes, plane after plane, each in order of position.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyTable {
    keys: Vec<ResidentKey>,
    offsets: Vec<usize>,
    /// What the table was made of, for whoever made it; `None` for one that somebody wrote by hand.
    origin: Option<[u64; 4]>,
}

impl KeyTable {
    /// The table of some planes.
    pub fn new(planes: impl IntoIterator<Item = Vec<ResidentKey>>, origin: Option<[u64; 4]>) -> Self {
        let (mut keys, mut offsets) = (Vec::new(), vec![0]);
        for plane in planes {
            keys.extend(plane);
            offsets.push(keys.len());
        }
        Self { keys, offsets, origin }
    }

    /// Keys of all planes, of which `counts` says how many each has; `None` if these do not add up.
    pub fn from_counts(counts: impl IntoIterator<Item = i32>, keys: Vec<ResidentKey>) -> Option<Self> {
        let mut offsets = vec![0usize];
        for count in counts {
            offsets.push(offsets[offsets.len() - 1].checked_add(usize::try_from(count).ok()?)?);
        }
        (offsets.last() == Some(&keys.len())).then_some(Self { keys, offsets, origin: None })
    }

    /// What the table was made of.
    pub fn origin(&self) -> Option<[u64; 4]> {
        self.origin
    }

    /// The keys of all planes.
    pub fn keys(&self) -> &[ResidentKey] {
        &self.keys
    }

    /// Where each plane begins, and one past the last.
    pub fn offsets(&self) -> &[usize] {
        &self.offsets
    }

    /// Planes.
    pub fn num_planes(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// The keys of a plane.
    pub fn plane(&self, plane: usize) -> &[ResidentKey] {
        &self.keys[self.offsets[plane]..self.offsets[plane + 1]]
    }

    /// The keys of each plane.
    pub fn planes(&self) -> impl ExactSizeIterator<Item = &[ResidentKey]> {
        self.offsets.windows(2).map(|pair| &self.keys[pair[0]..pair[1]])
    }

    /// Whether all planes show keys at the same positions.
    pub fn is_even(&self) -> bool {
        let at = |plane| self.plane(plane).iter().map(|key| key.position);
        (1..self.num_planes()).all(|plane| at(plane).eq(at(0)))
    }

    /// Pages of each plane that hold a key.
    pub fn pages_by_plane(&self) -> Vec<usize> {
        let pages = |keys: &[ResidentKey]| {
            let mut pages: Vec<u32> = keys.iter().map(|key| key.page).collect();
            pages.sort_unstable();
            pages.dedup();
            pages.len()
        };
        self.planes().map(pages).collect()
    }
}

/// Cuts what lies plane after plane, `width` of it for each key.
pub fn split_planes<'a, T>(mut all: &'a mut [T], offsets: &[usize], width: usize) -> Vec<&'a mut [T]> {
    let cut = |pair: &[usize]| {
        let (own, rest) = std::mem::take(&mut all).split_at_mut((pair[1] - pair[0]) * width);
        all = rest;
        own
    };
    offsets.windows(2).map(cut).collect()
}

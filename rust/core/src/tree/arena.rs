//! An arena whose ids know their generation: an id of something that is gone names nothing.

/// Index and generation, packed so that a foreign language can hold it as one integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    /// Place in the arena, reused.
    pub index: u32,
    /// How often the place was reused.
    pub generation: u32,
}

impl From<Id> for u64 {
    fn from(id: Id) -> u64 {
        u64::from(id.generation) << 32 | u64::from(id.index)
    }
}

impl From<u64> for Id {
    fn from(word: u64) -> Id {
        Id { index: word as u32, generation: (word >> 32) as u32 }
    }
}

#[derive(Debug)]
pub(super) struct Arena<T> {
    places: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Arena<T> {
    pub(super) fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }

    pub(super) fn insert(&mut self, value: T) -> Id {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            self.places.len() as u32 - 1
        });
        let place = &mut self.places[index as usize];
        place.1 = Some(value);
        Id { index, generation: place.0 }
    }

    pub(super) fn remove(&mut self, index: u32) -> Option<T> {
        let place = self.places.get_mut(index as usize)?;
        let value = place.1.take()?;
        place.0 = place.0.wrapping_add(1);
        self.free.push(index);
        Some(value)
    }

    pub(super) fn id(&self, index: u32) -> Id {
        Id { index, generation: self.places[index as usize].0 }
    }

    pub(super) fn get(&self, id: Id) -> Option<&T> {
        self.places.get(id.index as usize).filter(|p| p.0 == id.generation)?.1.as_ref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.places.iter().enumerate().filter_map(|(i, p)| Some((i as u32, p.1.as_ref()?)))
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Places, used or not.
    pub(super) fn capacity(&self) -> usize {
        self.places.len()
    }
}

/// By index, for ids that the tree itself keeps consistent.
impl<T> std::ops::Index<u32> for Arena<T> {
    type Output = T;
    fn index(&self, index: u32) -> &T {
        self.places[index as usize].1.as_ref().expect("a live index")
    }
}

impl<T> std::ops::IndexMut<u32> for Arena<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        self.places[index as usize].1.as_mut().expect("a live index")
    }
}

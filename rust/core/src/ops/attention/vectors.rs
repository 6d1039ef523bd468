//! Vectors in memory, each on a cache line of its own.

use std::ops::{Deref, DerefMut};

use crate::simd::WIDTH;

/// A cache line, in numbers.
const LINE: usize = 64 / size_of::<f32>();

/// As `Vec<[f32; WIDTH]>`, but the first vector starts on a cache line, so that no vector lies on two.
#[derive(Debug, Default)]
pub(in crate::ops) struct Vectors {
    numbers: Vec<f32>,
    first: usize,
    count: usize,
}

impl Vectors {
    /// Makes room for `count` vectors, whose values are any.
    pub(in crate::ops) fn resize(&mut self, count: usize) {
        let needed = count * WIDTH + LINE - 1;
        if self.numbers.len() < needed {
            self.numbers.resize(needed, 0.0);
            // More than a line away only where addresses mean nothing: then nothing is gained.
            self.first = self.numbers.as_ptr().align_offset(64).min(LINE - 1);
        }
        self.count = count;
    }

    /// `count` vectors of zeros.
    pub(in crate::ops) fn reset(&mut self, count: usize) {
        self.resize(count);
        self.fill([0.0; WIDTH]);
    }

    /// Numbers that its memory holds.
    pub(in crate::ops) fn capacity(&self) -> usize {
        self.numbers.capacity()
    }
}

impl Deref for Vectors {
    type Target = [[f32; WIDTH]];
    fn deref(&self) -> &Self::Target {
        self.numbers[self.first..].as_chunks().0.split_at(self.count).0
    }
}

impl DerefMut for Vectors {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.numbers[self.first..].as_chunks_mut().0.split_at_mut(self.count).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_start_on_cache_lines_and_keep_their_number() {
        let mut vectors = Vectors::default();
        assert!(vectors.is_empty());
        for count in [0, 1, 7, 3, 1000] {
            vectors.reset(count);
            assert_eq!(vectors.len(), count);
            assert!(vectors.iter().all(|v| *v == [0.0; WIDTH]));
            assert_eq!(vectors.as_ptr() as usize % 64, 0);
            vectors.fill([1.0; WIDTH]);
        }
    }
}

//! Bytes that begin on a cache line, so that numbers of any type may lie in them.

use std::ops::{Deref, DerefMut};

const LINE: usize = 64;

/// As `Vec<u8>`, but the first byte lies on a cache line.
#[derive(Debug)]
pub(super) struct LineBytes {
    /// Never grows, so that the first byte stays where it is.
    room: Vec<u8>,
    first: usize,
    len: usize,
}

impl LineBytes {
    /// So many zeros.
    pub(super) fn new(len: usize) -> Self {
        let room = vec![0; len + LINE - 1];
        // More than a line away only where addresses mean nothing: then whoever needs them refuses.
        let first = room.as_ptr().align_offset(LINE).min(LINE - 1);
        Self { room, first, len }
    }

    /// Makes it `len` bytes long, zeros behind what there is.
    pub(super) fn grow(&mut self, len: usize) {
        if self.first + len > self.room.len() {
            let mut grown = Self::new(len.max(2 * self.len));
            grown[..self.len].copy_from_slice(self);
            *self = grown;
        }
        self.len = len;
    }
}

impl Deref for LineBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.room[self.first..self.first + self.len]
    }
}

impl DerefMut for LineBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.room[self.first..self.first + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_on_their_line_and_keep_what_they_hold() {
        let mut bytes = LineBytes::new(3);
        bytes.copy_from_slice(&[1, 2, 3]);
        for len in [3, 5, 70, 1000] {
            bytes.grow(len);
            assert_eq!((bytes.len(), bytes.as_ptr() as usize % LINE), (len, 0));
            assert_eq!(bytes[..3], [1, 2, 3]);
            assert!(bytes[3..].iter().all(|byte| *byte == 0));
        }
    }
}

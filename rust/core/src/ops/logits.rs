//! Rows of raw logits, in whichever element type the model gives.

use half::{bf16, f16};

use crate::error::{Error, Result};

/// Elements of one of the types that models give.
#[derive(Debug, Clone, Copy)]
pub enum Row<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// bfloat16.
    Bf16(&'a [bf16]),
    /// IEEE half.
    F16(&'a [f16]),
}

impl Row<'_> {
    /// How many elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(row) => row.len(),
            Self::Bf16(row) => row.len(),
            Self::F16(row) => row.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A matrix of logits, one row a position.
#[derive(Debug, Clone, Copy)]
pub struct Logits<'a> {
    data: Row<'a>,
    num_rows: usize,
    stride: usize,
    vocabulary: usize,
}

impl<'a> Logits<'a> {
    /// `data` holds row `i` at elements `i * stride .. i * stride + vocabulary`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the last row does not end within `data`, or the vocabulary is empty or
    /// beyond 2^24.
    pub fn new(data: Row<'a>, num_rows: usize, stride: usize, vocabulary: usize) -> Result<Self> {
        if vocabulary == 0 || vocabulary > 1 << 24 {
            return Err(Error::shape("the vocabulary of logits", vocabulary, "1 to 16777216"));
        }
        if num_rows > 0 && data.len() < (num_rows - 1) * stride + vocabulary {
            return Err(Error::shape(
                "the length of logits",
                data.len(),
                (num_rows - 1) * stride + vocabulary,
            ));
        }
        Ok(Self { data, num_rows, stride, vocabulary })
    }

    /// Rows.
    pub fn num_rows(&self) -> usize {
        self.num_rows
    }

    /// Elements of a row.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// One row.
    pub fn row(&self, index: usize) -> Row<'a> {
        let range = index * self.stride..index * self.stride + self.vocabulary;
        match self.data {
            Row::F32(data) => Row::F32(&data[range]),
            Row::Bf16(data) => Row::Bf16(&data[range]),
            Row::F16(data) => Row::F16(&data[range]),
        }
    }
}

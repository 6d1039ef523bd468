//! Pages in codes of 2, 4 or 8 bits.
//!
//! A page has the bytes that [`PageLayout`] gives it, whatever it holds; its format says how many
//! tokens fit. A page in codes is written once, whole, from plain slots, and never again.
//!
//! Bytes of a page of `T` tokens, numbers little-endian, one part after the other:
//!
//! | part | bytes |
//! |---|---|
//! | codes of keys, then of values | `T` rows each of `ceil(head_dim / unit) * 16` bytes |
//! | offsets and steps of keys, f16 | by token `least[T]`, `step[T]`; by channel for each group of tokens `least[D']`, `step[D']`, where `D'` is the next multiple of 16 |
//! | offsets and steps of values, f16 | for each group of channels `least[T]`, `step[T]` |
//! | factors of channels, where there are any | f16 `[D']` |
//!
//! Sixteen bytes of codes hold a *unit* of `16 * 8 / bits` channels: channel `16 k + i` of the unit lies
//! in byte `i`, `k * bits` bits up. So sixteen neighbouring channels come out of one load by a mask.

use super::PageLayout;
use super::slot::{Entry, MOST_TOKENS};
use crate::error::{Error, Result};

/// Blocks of keys that share an offset and a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyBlocks {
    /// All channels of a token.
    Token,
    /// One channel of this many tokens of a page, the last ones of a page perhaps fewer.
    Channel(usize),
}

/// How a page holds keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageFormat {
    /// What Python calls it.
    pub name: &'static str,
    /// Bits of a code.
    pub bits: usize,
    /// Blocks of keys.
    pub keys: KeyBlocks,
    /// Channels of a token's value that share an offset and a step: a multiple of 32.
    pub value_channels: usize,
    /// Whether values are divided by a factor of their channel and page first, `sqrt(max |x|)`.
    pub value_factors: bool,
}

const fn by_token(name: &'static str, bits: usize) -> PageFormat {
    PageFormat { name, bits, keys: KeyBlocks::Token, value_channels: 256, value_factors: false }
}

const fn kivi(name: &'static str, bits: usize) -> PageFormat {
    PageFormat { name, bits, keys: KeyBlocks::Channel(32), value_channels: 32, value_factors: false }
}

const fn zip_cache(name: &'static str, bits: usize) -> PageFormat {
    PageFormat { name, bits, keys: KeyBlocks::Channel(usize::MAX), value_channels: 256, value_factors: true }
}

/// The formats, by number less one: number 0 is a plain page.
///
/// `int`: keys and values by token. `kivi` (Liu et al. 2024, arXiv 2402.02750): keys by channel, values
/// by token, in groups of 32. `zip_cache` (He et al. 2024, arXiv 2405.14256): keys by channel, and
/// values by token after their channels were brought to one size; the page is its group.
pub const FORMATS: [PageFormat; 7] = [
    by_token("int8", 8),
    by_token("int4", 4),
    by_token("int2", 2),
    kivi("kivi4", 4),
    kivi("kivi2", 2),
    zip_cache("zip_cache4", 4),
    zip_cache("zip_cache2", 2),
];

/// The number of a format by its name.
///
/// # Errors
/// [`Error::Value`] for a name that is none.
pub fn format_number(name: &str) -> Result<u8> {
    let number = FORMATS.iter().position(|format| format.name == name);
    number.map(|number| number as u8 + 1).ok_or_else(|| {
        let names: Vec<&str> = FORMATS.iter().map(|format| format.name).collect();
        Error::value("format", name, format!("one of {}", names.join(", ")))
    })
}

/// Where the parts of a page in codes lie, in bytes from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodedPage {
    /// How it holds them.
    pub format: PageFormat,
    /// Elements of a key.
    pub head_dim: usize,
    /// Tokens that fit.
    pub tokens: usize,
    /// Bytes of the codes of one key, or of one value.
    pub row_bytes: usize,
    /// Codes of values; those of keys are at 0.
    pub value_codes: usize,
    /// Offsets and steps of keys.
    pub key_params: usize,
    /// Offsets and steps of values.
    pub value_params: usize,
    /// Factors of channels.
    pub factors: usize,
}

impl CodedPage {
    /// The parts of a page in a format.
    ///
    /// # Errors
    /// [`Error::Value`] if there is no such format, or a page does not hold a single token in it.
    pub fn new(number: u8, layout: &PageLayout) -> Result<Self> {
        let Some(&format) = usize::from(number).checked_sub(1).and_then(|i| FORMATS.get(i)) else {
            return Err(Error::value("page format", number, format!("1 to {}", FORMATS.len())));
        };
        let bytes = |tokens| Self::of(format, layout.head_dim, tokens).end();
        if bytes(1) > layout.page_bytes() {
            let want = format!("at least {}", bytes(1));
            return Err(Error::value("bytes of a page", layout.page_bytes(), want));
        }
        let (mut tokens, mut beyond) = (1, MOST_TOKENS + 1);
        while beyond - tokens > 1 {
            let middle = tokens.midpoint(beyond);
            if bytes(middle) <= layout.page_bytes() {
                tokens = middle;
            } else {
                beyond = middle;
            }
        }
        Ok(Self::of(format, layout.head_dim, tokens))
    }

    fn of(format: PageFormat, head_dim: usize, tokens: usize) -> Self {
        let row_bytes = head_dim.div_ceil(128 / format.bits) * 16;
        let key_params = 2 * tokens * row_bytes;
        let padded = head_dim.next_multiple_of(16);
        let value_params = key_params
            + match format.keys {
                KeyBlocks::Token => 4 * tokens,
                KeyBlocks::Channel(group) => tokens.div_ceil(group) * 4 * padded,
            };
        let factors = value_params + 4 * tokens * head_dim.div_ceil(format.value_channels);
        let value_codes = tokens * row_bytes;
        Self { format, head_dim, tokens, row_bytes, value_codes, key_params, value_params, factors }
    }

    pub(crate) fn end(&self) -> usize {
        self.factors + if self.format.value_factors { 2 * self.head_dim.next_multiple_of(16) } else { 0 }
    }

    /// Groups of channels of a value.
    pub fn value_groups(&self) -> usize {
        self.head_dim.div_ceil(self.format.value_channels)
    }

    /// Tokens of a block of keys by channel; 1 by token.
    pub fn key_group(&self) -> usize {
        match self.format.keys {
            KeyBlocks::Token => 1,
            KeyBlocks::Channel(group) => group.min(self.tokens),
        }
    }

    /// Byte and shift of a channel's code in its row.
    pub fn code_at(&self, channel: usize) -> (usize, usize) {
        let unit = 128 / self.format.bits;
        let within = channel % unit;
        (channel / unit * 16 + within % 16, within / 16 * self.format.bits)
    }
}

/// The formats that the entries of a plan name, laid out for its pool.
#[derive(Debug, Clone, Copy)]
pub struct Formats {
    pages: [Option<CodedPage>; FORMATS.len()],
    plain_tokens: usize,
}

impl Formats {
    /// Those of some entries.
    ///
    /// # Errors
    /// As [`CodedPage::new`].
    pub fn of(entries: &[Entry], layout: &PageLayout) -> Result<Self> {
        Self::numbered(entries.iter().map(Entry::format), layout)
    }

    /// Those of some numbers; 0 is plain.
    ///
    /// # Errors
    /// As [`CodedPage::new`].
    pub fn numbered(numbers: impl Iterator<Item = u8>, layout: &PageLayout) -> Result<Self> {
        let mut pages = [None; FORMATS.len()];
        for number in numbers.filter(|number| *number != 0) {
            let at = usize::from(number) - 1;
            if pages.get(at).is_none_or(Option::is_none) {
                let page = CodedPage::new(number, layout)?;
                pages[at] = Some(page);
            }
        }
        Ok(Self { pages, plain_tokens: layout.page_tokens })
    }

    /// The page of a format; `None` for a plain one.
    #[inline(always)]
    pub fn coded(&self, number: u8) -> Option<&CodedPage> {
        self.pages.get(usize::from(number).wrapping_sub(1))?.as_ref()
    }

    /// Slots of a page in the format of an entry.
    pub fn tokens(&self, entry: &Entry) -> usize {
        self.tokens_of(entry.format())
    }

    /// Slots of a page in a format.
    pub fn tokens_of(&self, number: u8) -> usize {
        match number {
            0 => self.plain_tokens,
            number => self.coded(number).map_or(0, |page| page.tokens),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::format::Dtype;

    #[test]
    fn pages_hold_as_many_tokens_as_their_bytes_allow() {
        let layout = |head_dim, page_tokens| PageLayout {
            num_planes: 1,
            slabs_per_chunk: 1,
            page_tokens,
            head_dim,
            dtype: Dtype::Bf16,
        };
        let capacity = |name: &str, head_dim, page_tokens| {
            let page = CodedPage::new(format_number(name).unwrap(), &layout(head_dim, page_tokens)).unwrap();
            assert!(page.end() <= layout(head_dim, page_tokens).page_bytes());
            page.tokens
        };
        // 4096 bytes: 136 a token; 64 + 4 and 384; 32 + 8 and 256 a group of 32.
        assert_eq!(capacity("int8", 64, 16), 30);
        assert_eq!(capacity("zip_cache4", 64, 16), 54);
        assert_eq!(capacity("zip_cache2", 64, 16), 103);
        assert_eq!(capacity("kivi2", 64, 16), 83);
        assert!(CodedPage::new(0, &layout(64, 16)).is_err());
        assert!(CodedPage::new(8, &layout(64, 16)).is_err());
        assert!(CodedPage::new(6, &layout(64, 1)).is_err());
        assert!(format_number("int3").unwrap_err().to_string().contains("zip_cache2"));
    }

    #[test]
    fn sixteen_channels_share_a_mask() {
        let page = CodedPage::of(FORMATS[4], 80, 1);
        assert_eq!(page.row_bytes, 32);
        let places: Vec<_> = [0, 15, 16, 63, 64, 79].map(|channel| page.code_at(channel)).into();
        assert_eq!(places, [(0, 0), (15, 0), (0, 2), (15, 6), (16, 0), (31, 0)]);
    }
}

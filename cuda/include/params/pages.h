// Written from rust/cuda/src/params/pages.rs by `make cuda-headers`: edit that file.

#pragma once

#include <stdint.h>

namespace hornbeam {

// Elements that a kernel reads, or null, and elements that it writes.
template <class T>
using Address = const T*;
template <class T>
using AddressMut = T*;

}  // namespace hornbeam

namespace hornbeam {

/// An element type.
enum Dtype : int32_t {
    /// 32-bit floats.
    F32 = 0,
    /// bfloat16.
    BF16 = 1,
    /// IEEE half precision.
    F16 = 2,
};

/// Where pages lie.
struct Pages {
    /// Physical layers times kv heads.
    int32_t num_planes;
    /// Slabs in one chunk.
    int32_t slabs_per_chunk;
    /// Slots of one page.
    int32_t page_tokens;
    /// Elements of one key.
    int32_t head_dim;
    /// Element type.
    Dtype dtype;
    /// First plane of the layer.
    int32_t plane_begin;
    /// Planes of the layer.
    int32_t num_kv_heads;
    /// Zero.
    int32_t reserved;
};

/// One move: slot to slot, in every plane.
struct Move {
    /// Slab that is read, or page.
    uint32_t from_slab;
    /// Slot that is read.
    uint32_t from_slot;
    /// Slab that is written, or page.
    uint32_t to_slab;
    /// Slot that is written.
    uint32_t to_slot;
};

/// A slot of a page, as a branch holds it.
struct Held {
    /// Page id.
    uint32_t page;
    /// The slot; above its bits the number of the page's format, as in an entry of a plan.
    uint32_t slot;
    /// Logical position.
    int32_t position;
};

/// Where the parts of a page in codes lie, in bytes from its start; those of keys are at 0.
struct CodedPage {
    /// Bits of a code.
    int32_t bits;
    /// Tokens of the page.
    int32_t tokens;
    /// Bytes of the codes of one key, and of one value.
    int32_t row_bytes;
    /// Codes of values.
    int32_t value_codes;
    /// Offsets and steps of keys.
    int32_t key_params;
    /// Tokens of a block of keys by channel; 0: by token.
    int32_t key_group;
    /// Offsets and steps of values.
    int32_t value_params;
    /// Channels of a block of values.
    int32_t value_channels;
    /// Factors of channels of values; 0: none.
    int32_t factors;
    /// Elements of one key.
    int32_t head_dim;
    /// Zero.
    int32_t reserved[2];
};

}  // namespace hornbeam

static_assert(sizeof(hornbeam::CodedPage) == 48, "as in Rust");
static_assert(sizeof(hornbeam::Held) == 12, "as in Rust");
static_assert(sizeof(hornbeam::Move) == 16, "as in Rust");
static_assert(sizeof(hornbeam::Pages) == 32, "as in Rust");

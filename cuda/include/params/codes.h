// Written from rust/cuda/src/params/codes.rs by `make cuda-headers`: edit that file.

#pragma once

#include "params/pages.h"

namespace hornbeam {

/// Threads of a block that encodes a page.
constexpr const int32_t ENCODE_THREADS = 256;

/// `hornbeam_encode_pages`.
struct EncodePages {
    /// Addresses of the chunks, on the device.
    Address<uint64_t> chunks;
    /// Those of the chunks that pages are written to.
    Address<uint64_t> to;
    /// Page by page, to slots 0, 1, ... of each.
    Address<Move> moves;
    /// Where each page's moves begin, `[num_runs + 1]`.
    Address<int32_t> runs;
    /// The format.
    Address<CodedPage> format;
    /// Takes 1 where an element is no number that f16 holds; such a page is not written.
    AddressMut<int32_t> fault;
    /// All planes.
    Pages pages;
    /// Pages to write (of each plane).
    int32_t num_runs;
    /// 1 where ids are those of pages, 0 of slabs.
    int32_t by_page;
};

/// `hornbeam_gather_rows`.
struct GatherRows {
    /// Addresses of the chunks, on the device.
    Address<uint64_t> chunks;
    /// `[num_rows]`.
    Address<Held> held;
    /// By number less one; or 0 where all slots are plain.
    Address<CodedPage> formats;
    /// Takes `[num_rows, head_dim]` floats.
    AddressMut<float> keys;
    /// Likewise.
    AddressMut<float> values;
    /// What is read.
    Pages pages;
    /// Slots.
    int32_t num_rows;
    /// Zero.
    int32_t reserved;
};

/// `hornbeam_put_rows`.
struct PutRows {
    /// Addresses of the chunks, on the device.
    Address<uint64_t> chunks;
    /// `[num_rows]`, plain slots.
    Address<Held> held;
    /// `[num_rows, head_dim]` floats.
    Address<float> keys;
    /// Likewise.
    Address<float> values;
    /// Where to.
    Pages pages;
    /// Slots.
    int32_t num_rows;
    /// Zero.
    int32_t reserved;
};

}  // namespace hornbeam

static_assert(sizeof(hornbeam::EncodePages) == 88, "as in Rust");
static_assert(sizeof(hornbeam::GatherRows) == 80, "as in Rust");
static_assert(sizeof(hornbeam::PutRows) == 72, "as in Rust");

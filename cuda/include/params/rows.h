// Written from rust/cuda/src/params/rows.rs by `make cuda-headers`: edit that file.

#pragma once

#include "params/pages.h"

namespace hornbeam {

/// `hornbeam_write_rows`.
struct WriteRows {
    /// Keys `[num_rows, num_kv_heads, head_dim]`, unit last stride.
    Address<void> k;
    /// Values, likewise.
    Address<void> v;
    /// The packed plan.
    Address<int32_t> plan;
    /// Strides of `k`, rows then heads, then of `v`; in elements.
    int64_t strides[4];
    /// Where to.
    Pages pages;
    /// Element type of `k` and `v`.
    Dtype dtype;
    /// Rows of `k` and `v`; the plan may have fewer.
    int32_t num_rows;
};

/// `hornbeam_move_rows`; `hornbeam_move_page_rows`, whose slabs are page ids.
struct MoveRows {
    /// Addresses of the chunks, on the device.
    Address<uint64_t> chunks;
    /// `[num_moves]`, one after the other.
    Address<Move> moves;
    /// All planes.
    Pages pages;
    /// Moves.
    int32_t num_moves;
    /// Zero.
    int32_t reserved;
};

/// `hornbeam_copy_rows`: slots of pages to slots of others. Nothing that is read is written, so moves have no order.
struct CopyRows {
    /// Addresses of the chunks that are read, on the device.
    Address<uint64_t> from;
    /// Those of the chunks that are written.
    Address<uint64_t> to;
    /// `[num_moves]`, with page ids for slabs.
    Address<Move> moves;
    /// Of both.
    Pages pages;
    /// Moves.
    int32_t num_moves;
    /// Zero.
    int32_t reserved;
};

/// `hornbeam_commit_rows`: each sequence's accepted rows to the places behind its root, in every plane.
struct CommitRows {
    /// The packed plan.
    Address<int32_t> plan;
    /// Rows of the step, a sequence's root first, then its draft.
    Address<int32_t> order;
    /// `[num_sequences + 1]`, of draft tokens: where each sequence's tree begins.
    Address<int32_t> offsets;
    /// Accepted rows `[num_sequences, max_depth]`, ascending.
    Address<int32_t> accepted;
    /// Their number, `[num_sequences]`.
    Address<int32_t> num_accepted;
    /// All planes.
    Pages pages;
    /// Sequences.
    int32_t num_sequences;
    /// Columns of `accepted`.
    int32_t max_depth;
};

}  // namespace hornbeam

static_assert(sizeof(hornbeam::CommitRows) == 80, "as in Rust");
static_assert(sizeof(hornbeam::CopyRows) == 64, "as in Rust");
static_assert(sizeof(hornbeam::MoveRows) == 56, "as in Rust");
static_assert(sizeof(hornbeam::WriteRows) == 96, "as in Rust");

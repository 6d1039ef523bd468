// Written from rust/cuda/src/params/select.rs by `make cuda-headers`: edit that file.

#pragma once

#include "params/pages.h"

namespace hornbeam {

/// Threads of a block of the select kernels.
constexpr const int32_t SELECT_THREADS = 256;

/// `hornbeam_select_keys`.
struct SelectKeys {
    /// Plane after plane, `[T]`.
    Address<float> scores;
    /// Where planes begin, `[num_planes + 1]`.
    Address<int32_t> begin;
    /// Keys that each plane may keep.
    Address<int32_t> budgets;
    /// Planes whose scores decide, `[num_planes]`, or 0: each its own.
    Address<int32_t> leaders;
    /// Positions of keys, `[T]`, ascending in a plane, with leaders.
    Address<int32_t> positions;
    /// Takes 1 for keys that stay, `[T]`.
    AddressMut<uint8_t> kept;
    /// Planes.
    int32_t num_planes;
    /// Keys that are kept or dropped together.
    int32_t unit;
    /// Keys of the start that are protected.
    int32_t sinks;
    /// Keys of the end.
    int32_t recent;
    /// Likewise, in percent of a plane's budget.
    int32_t recent_percent;
    /// Zero.
    int32_t reserved;
};

/// `hornbeam_compete_heads`.
struct CompeteHeads {
    /// As for [`SelectKeys`].
    Address<float> scores;
    /// As for [`SelectKeys`].
    Address<int32_t> begin;
    /// What each head holds of its own, `[num_layers * num_heads]`.
    Address<int32_t> reserved;
    /// Keys for the best of the rest, `[num_layers]`.
    Address<int32_t> rooms;
    /// Takes how many each head holds.
    AddressMut<int32_t> counts;
    /// Layers.
    int32_t num_layers;
    /// Kv heads.
    int32_t num_heads;
    /// As for [`SelectKeys`].
    int32_t sinks;
    /// As for [`SelectKeys`].
    int32_t recent;
    /// As for [`SelectKeys`].
    int32_t recent_percent;
    /// Zero.
    int32_t reserved_word;
};

/// `hornbeam_column_sums`.
struct ColumnSums {
    /// As for [`SelectKeys`].
    Address<float> scores;
    /// As for [`SelectKeys`].
    Address<int32_t> begin;
    /// Takes `[num_layers, width]`.
    AddressMut<int64_t> sums;
    /// Layers.
    int32_t num_layers;
    /// Kv heads.
    int32_t num_heads;
    /// Columns of the widest layer.
    int32_t width;
    /// Zero.
    int32_t reserved;
};

}  // namespace hornbeam

static_assert(sizeof(hornbeam::ColumnSums) == 40, "as in Rust");
static_assert(sizeof(hornbeam::CompeteHeads) == 64, "as in Rust");
static_assert(sizeof(hornbeam::SelectKeys) == 72, "as in Rust");

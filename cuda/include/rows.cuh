// Rows into pages, and rows from page to page.
#pragma once

#include "hornbeam.cuh"
#include "params/rows.h"

namespace hornbeam {

// One warp a (row, kv head). Grid: warps over blocks, any size (the loop strides).
__device__ inline void write_rows(const WriteRows& p) {
    const PlanHeader& header = header_of(p.plan);
    const uint64_t* chunks = part<uint64_t>(p.plan, header.chunks);
    const RowSlot* slots = part<RowSlot>(p.plan, header.row_slots);
    const int rows = minimum(p.num_rows, header.num_rows);
    const int warps = int(blockDim.x) / WARP;
    const int lane = int(threadIdx.x) % WARP;
    const int64_t total = int64_t(rows) * p.pages.num_kv_heads;
    for (int64_t i = int64_t(blockIdx.x) * warps + int(threadIdx.x) / WARP; i < total;
         i += int64_t(gridDim.x) * warps) {
        const int row = int(i / p.pages.num_kv_heads), head = int(i % p.pages.num_kv_heads);
        const RowSlot slot = slots[row];
        if (slot.slab == NOWHERE) continue;
        unsigned char* page = slab_page(chunks, p.pages, slot.slab, p.pages.plane_begin + head);
        const int64_t to_k = int64_t(slot.slot) * p.pages.head_dim;
        const int64_t to_v = to_k + int64_t(p.pages.page_tokens) * p.pages.head_dim;
        const int64_t from_k = row * p.strides[0] + head * p.strides[1];
        const int64_t from_v = row * p.strides[2] + head * p.strides[3];
        for (int d = lane; d < p.pages.head_dim; d += WARP) {
            store_element(page, p.pages.dtype, to_k + d, load_element(p.k, p.dtype, from_k + d));
            store_element(page, p.pages.dtype, to_v + d, load_element(p.v, p.dtype, from_v + d));
        }
    }
}

// What is moved at a time: 32 bits, or 16 where the elements of a key are an odd number of those.
__device__ inline bool has_whole_words(const Pages& pages) { return pages.head_dim * size_of(pages.dtype) % 4 == 0; }

// A thread moves words one after the other, so that a move may overwrite what an earlier one read.
template <class Word>
__device__ inline void move_word(const MoveRows& p, int64_t within, int words, int plane, bool by_page) {
    for (int m = 0; m < p.num_moves; ++m) {
        const Move move = p.moves[m];
        const unsigned char* from = by_page ? page_of_id(p.chunks, p.pages, move.from_slab)
                                            : slab_page(p.chunks, p.pages, move.from_slab, plane);
        unsigned char* to = by_page ? page_of_id(p.chunks, p.pages, move.to_slab)
                                    : slab_page(p.chunks, p.pages, move.to_slab, plane);
        reinterpret_cast<Word*>(to)[within + int64_t(move.to_slot) * words] =
            reinterpret_cast<const Word*>(from)[within + int64_t(move.from_slot) * words];
    }
}

// A thread owns one column of words of one plane, or of all pages. Grid: columns over blocks, any size.
template <class Word>
__device__ inline void move_columns(const MoveRows& p, bool by_page) {
    const int words = p.pages.head_dim * size_of(p.pages.dtype) / int(sizeof(Word));  // of one key, and of one value
    const int64_t columns = int64_t(by_page ? 1 : p.pages.num_planes) * 2 * words;
    for (int64_t c = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; c < columns;
         c += int64_t(gridDim.x) * blockDim.x) {
        const int word = int(c % words), side = int(c / words % 2), plane = int(c / (2 * words));
        move_word<Word>(p, int64_t(side) * p.pages.page_tokens * words + word, words, plane, by_page);
    }
}
__device__ inline void move_rows(const MoveRows& p, bool by_page) {
    if (has_whole_words(p.pages)) move_columns<uint32_t>(p, by_page);
    else move_columns<uint16_t>(p, by_page);
}

// One warp a move. Grid: warps over blocks, any size.
template <class Word>
__device__ inline void copy_words(const CopyRows& p) {
    const int words = p.pages.head_dim * size_of(p.pages.dtype) / int(sizeof(Word));  // of one key, and of one value
    const int warps = int(blockDim.x) / WARP, lane = int(threadIdx.x) % WARP;
    const int64_t value = int64_t(p.pages.page_tokens) * words;
    for (int64_t m = int64_t(blockIdx.x) * warps + int(threadIdx.x) / WARP; m < p.num_moves;
         m += int64_t(gridDim.x) * warps) {
        const Move move = p.moves[m];
        const Word* from = reinterpret_cast<const Word*>(page_of_id(p.from, p.pages, move.from_slab)) +
                           int64_t(move.from_slot) * words;
        Word* to = reinterpret_cast<Word*>(page_of_id(p.to, p.pages, move.to_slab)) + int64_t(move.to_slot) * words;
        for (int i = lane; i < 2 * words; i += WARP) {
            const int64_t at = i < words ? i : value + i - words;
            to[at] = from[at];
        }
    }
}
__device__ inline void copy_rows(const CopyRows& p) {
    if (has_whole_words(p.pages)) copy_words<uint32_t>(p);
    else copy_words<uint16_t>(p);
}

// A thread owns one column of words of one plane of one sequence: rows move left, one after the other.
// Grid: columns over blocks, any size; y: sequences, any number.
template <class Word>
__device__ inline void commit_columns(const CommitRows& p) {
    const PlanHeader& header = header_of(p.plan);
    const uint64_t* chunks = part<uint64_t>(p.plan, header.chunks);
    const RowSlot* slots = part<RowSlot>(p.plan, header.row_slots);
    const int words = p.pages.head_dim * size_of(p.pages.dtype) / int(sizeof(Word));
    const int64_t columns = int64_t(p.pages.num_planes) * 2 * words;
    for (int b = int(blockIdx.y); b < p.num_sequences; b += int(gridDim.y)) {
        const int32_t* rows = p.order + p.offsets[b] + b;
        const int root = rows[0];
        for (int64_t c = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; c < columns;
             c += int64_t(gridDim.x) * blockDim.x) {
            const int word = int(c % words), side = int(c / words % 2), plane = int(c / (2 * words));
            const int64_t within = int64_t(side) * p.pages.page_tokens * words + word;
            for (int i = 0; i < p.num_accepted[b]; ++i) {
                const RowSlot from = slots[rows[p.accepted[int64_t(b) * p.max_depth + i]]], to = slots[root + 1 + i];
                if (from.slab == NOWHERE || (from.slab == to.slab && from.slot == to.slot)) continue;
                reinterpret_cast<Word*>(slab_page(chunks, p.pages, to.slab, plane))[within + int64_t(to.slot) * words] =
                    reinterpret_cast<const Word*>(
                        slab_page(chunks, p.pages, from.slab, plane))[within + int64_t(from.slot) * words];
            }
        }
    }
}
__device__ inline void commit_rows(const CommitRows& p) {
    if (has_whole_words(p.pages)) commit_columns<uint32_t>(p);
    else commit_columns<uint16_t>(p);
}

}  // namespace hornbeam

// Plain slots into pages of codes: rust/core/src/ops/pages.rs, bit by bit.
//
// A block of threads writes one page whole: offsets and steps first, then the codes that follow from them,
// which it reads back from the page.
#pragma once

#include "attention.cuh"
#include "params/codes.h"
#include "rows.cuh"

namespace hornbeam {

__device__ inline f16 half_of_bits(uint32_t bits) {
    f16 x;
    x.bits = uint16_t(bits);
    return x;
}

struct Range {
    f16 least, step;
};

// The greatest f16 that is not above `low`, and the least step whose codes reach `high` from it.
__device__ inline Range range_of(float low, float high, int bits) {
    const float most = float((1 << bits) - 1);
    Range range;
    from_float(low + 0.0f, range.least);
    if (to_float(range.least) > low) {
        const uint32_t now = range.least.bits;
        range.least = half_of_bits(now == 0 ? 0x8001u : now & 0x8000u ? now + 1 : now - 1);
    }
    const float reach = high + 0.0f - to_float(range.least);
    from_float(reach / most, range.step);
    while (to_float(range.step) * most < reach) range.step = half_of_bits(range.step.bits + 1u);
    return range;
}

// The slots that become one page, and the page.
struct Encoding {
    const EncodePages& p;
    const CodedPage& format;
    const Move* moves;
    int tokens, plane;
    unsigned char* page;

    __device__ unsigned char* page_at(const uint64_t* chunks, uint32_t id) const {
        return p.by_page != 0 ? page_of_id(chunks, p.pages, id) : slab_page(chunks, p.pages, id, plane);
    }
    __device__ float element(bool values, int token, int channel) const {
        const Move move = moves[token];
        const int64_t slot = int64_t(values ? p.pages.page_tokens : 0) + move.from_slot;
        return load_element(page_at(p.chunks, move.from_slab), p.pages.dtype, slot * p.pages.head_dim + channel);
    }
    // As it is encoded: a value by its channel's factor.
    __device__ float scaled(bool values, int token, int channel) const {
        const float x = element(values, token, channel);
        return values && format.factors != 0 ? x / load_half(page, format.factors + 2 * channel) : x;
    }
    __device__ void put(int64_t at, f16 x) const { *reinterpret_cast<f16*>(page + at) = x; }
};

// By token: a warp a block of channels. `groups` of `channels` each.
__device__ inline void put_token_ranges(const Encoding& e, bool values, int params, int channels, int groups) {
    const int warps = int(blockDim.x) / WARP, lane = int(threadIdx.x) % WARP, head_dim = e.p.pages.head_dim;
    for (int i = int(threadIdx.x) / WARP; i < e.tokens * groups; i += warps) {
        const int token = i / groups, group = i % groups, end = minimum(head_dim, (group + 1) * channels);
        float low = -minus_infinity(), high = minus_infinity();
        for (int c = group * channels + lane; c < end; c += WARP) {
            const float x = e.scaled(values, token, c);
            low = fminf(low, x);
            high = fmaxf(high, x);
        }
        for (int m = WARP / 2; m > 0; m /= 2) {
            low = fminf(low, __shfl_xor_sync(FULL, low, m));
            high = fmaxf(high, __shfl_xor_sync(FULL, high, m));
        }
        if (lane != 0) continue;
        const Range range = range_of(low, high, e.format.bits);
        const int64_t at = params + int64_t(4) * group * e.format.tokens + 2 * token;
        e.put(at, range.least);
        e.put(at + 2 * e.format.tokens, range.step);
    }
}

// By channel: a thread a channel of a group of tokens.
__device__ inline void put_channel_ranges(const Encoding& e) {
    const int head_dim = e.p.pages.head_dim, size = e.format.key_group, groups = (e.tokens + size - 1) / size;
    for (int i = int(threadIdx.x); i < groups * head_dim; i += int(blockDim.x)) {
        const int group = i / head_dim, channel = i % head_dim;
        float low = -minus_infinity(), high = minus_infinity();
        for (int token = group * size; token < minimum(e.tokens, (group + 1) * size); ++token) {
            const float x = e.element(false, token, channel);
            low = fminf(low, x);
            high = fmaxf(high, x);
        }
        const Range range = range_of(low, high, e.format.bits);
        const int64_t at = e.format.key_params + int64_t(4) * group * padded(e.format) + 2 * channel;
        e.put(at, range.least);
        e.put(at + 2 * padded(e.format), range.step);
    }
}

// The codes of keys, or of values: a thread a byte.
__device__ inline void put_codes(const Encoding& e, bool values) {
    const CodedPage& f = e.format;
    const int unit = 128 / f.bits;
    const float most = float((1 << f.bits) - 1);
    for (int i = int(threadIdx.x); i < e.tokens * f.row_bytes; i += int(blockDim.x)) {
        const int token = i / f.row_bytes, byte = i % f.row_bytes;
        uint32_t codes = 0;
        for (int k = 0; k < 8 / f.bits; ++k) {
            const int channel = byte / 16 * unit + 16 * k + byte % 16;
            if (channel >= f.head_dim) continue;
            int64_t least = f.key_params + 2 * token, apart = 2 * f.tokens;
            if (values) {
                least = f.value_params + int64_t(4) * (channel / f.value_channels) * f.tokens + 2 * token;
            } else if (f.key_group != 0) {
                least = f.key_params + int64_t(4) * (token / f.key_group) * padded(f) + 2 * channel;
                apart = 2 * padded(f);
            }
            const float offset = load_half(e.page, least), step = load_half(e.page, least + apart);
            if (!(step > 0.0f)) continue;
            const float code = rintf((e.scaled(values, token, channel) - offset) / step);
            codes |= uint32_t(fminf(fmaxf(code, 0.0f), most)) << (k * f.bits);
        }
        e.page[(values ? f.value_codes : 0) + int64_t(token) * f.row_bytes + byte] = static_cast<unsigned char>(codes);
    }
}

// Grid: pages and planes, of each any number.
__device__ inline void encode_pages(const EncodePages& p) {
    const int head_dim = p.pages.head_dim, planes = p.by_page != 0 ? 1 : p.pages.num_planes;
    const CodedPage& format = *p.format;
    for (int plane = int(blockIdx.y); plane < planes; plane += int(gridDim.y)) {
        for (int run = int(blockIdx.x); run < p.num_runs; run += int(gridDim.x)) {
            const Move* moves = p.moves + p.runs[run];
            Encoding e{p, format, moves, p.runs[run + 1] - p.runs[run], plane, nullptr};
            e.page = e.page_at(p.to, moves[0].to_slab);
            bool bad = false;
            for (int i = int(threadIdx.x); i < 2 * e.tokens * head_dim; i += int(blockDim.x)) {
                const float x = e.element(i >= e.tokens * head_dim, i / head_dim % e.tokens, i % head_dim);
                bad = bad || !(fabsf(x) <= 65504.0f);
            }
            if (block_any(bad)) {
                if (threadIdx.x == 0) atomicMax(p.fault, 1);
                continue;
            }
            const int words = p.pages.page_tokens * head_dim * size_of(p.pages.dtype) / 2;
            for (int i = int(threadIdx.x); i < words; i += int(blockDim.x)) reinterpret_cast<uint32_t*>(e.page)[i] = 0;
            __syncthreads();
            if (format.key_group == 0) put_token_ranges(e, false, format.key_params, head_dim, 1);
            else put_channel_ranges(e);
            if (format.factors != 0) {
                for (int c = int(threadIdx.x); c < head_dim; c += int(blockDim.x)) {
                    float most = 0.0f;
                    for (int token = 0; token < e.tokens; ++token) most = fmaxf(most, fabsf(e.element(true, token, c)));
                    f16 factor;
                    from_float(sqrtf(most), factor);
                    if (factor.bits == 0) from_float(1.0f, factor);
                    e.put(format.factors + 2 * c, factor);
                }
            }
            __syncthreads();
            const int groups = (head_dim + format.value_channels - 1) / format.value_channels;
            put_token_ranges(e, true, format.value_params, format.value_channels, groups);
            __syncthreads();
            put_codes(e, false);
            put_codes(e, true);
            __syncthreads();
        }
    }
}

// Keys and values of single slots, widened or decoded. One warp a slot. Grid: warps over blocks, any size.
__device__ inline void gather_rows(const GatherRows& p) {
    const int head_dim = p.pages.head_dim, pieces = (head_dim + 7) / 8;
    const int warps = int(blockDim.x) / WARP, lane = int(threadIdx.x) % WARP;
    for (int64_t i = int64_t(blockIdx.x) * warps + int(threadIdx.x) / WARP; i < p.num_rows;
         i += int64_t(gridDim.x) * warps) {
        const Held held = p.held[i];
        const unsigned char* page = page_of_id(p.chunks, p.pages, held.page);
        const int format = int(held.slot >> Entry_SLOT_BITS), slot = int(held.slot) & ENTRY_SLOTS;
        if (format == 0) {
            const int64_t key = int64_t(slot) * head_dim, value = key + int64_t(p.pages.page_tokens) * head_dim;
            for (int d = lane; d < head_dim; d += WARP) {
                p.keys[i * head_dim + d] = load_element(page, p.pages.dtype, key + d);
                p.values[i * head_dim + d] = load_element(page, p.pages.dtype, value + d);
            }
            continue;
        }
        for (int piece = lane; piece < 2 * pieces; piece += WARP) {
            const bool values = piece >= pieces;
            const int first = 8 * (piece % pieces);
            float x[8];
            decode_piece(p.formats[format - 1], page, slot, values, first / 8, x);
            float* out = (values ? p.values : p.keys) + i * head_dim;
            for (int j = 0; j < 8 && first + j < head_dim; ++j) out[first + j] = x[j];
        }
    }
}

// Keys and values to single slots, rounded to the pages' type. One warp a slot. Grid: warps over blocks, any size.
__device__ inline void put_rows(const PutRows& p) {
    const int head_dim = p.pages.head_dim;
    const int warps = int(blockDim.x) / WARP, lane = int(threadIdx.x) % WARP;
    for (int64_t i = int64_t(blockIdx.x) * warps + int(threadIdx.x) / WARP; i < p.num_rows;
         i += int64_t(gridDim.x) * warps) {
        const Held held = p.held[i];
        unsigned char* page = page_of_id(p.chunks, p.pages, held.page);
        const int64_t key = int64_t(held.slot) * head_dim, value = key + int64_t(p.pages.page_tokens) * head_dim;
        for (int d = lane; d < head_dim; d += WARP) {
            store_element(page, p.pages.dtype, key + d, p.keys[i * head_dim + d]);
            store_element(page, p.pages.dtype, value + d, p.values[i * head_dim + d]);
        }
    }
}

}  // namespace hornbeam

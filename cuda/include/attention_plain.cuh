// Tree attention in plain f32 arithmetic: any element types, any head up to 512. It is the form
// that the tiled kernel is judged by, and the one that serves f32 pages, odd heads and those above 256.
#pragma once

#include "attention.cuh"

namespace hornbeam {

// The weight of a key that a query does not see: 0, told apart from weights that are so small.
constexpr uint32_t HIDDEN_WEIGHT = 0x80000000u;

struct PlainShared {
    float* q;      // [PLAIN_QUERIES][head_dim]
    float* tile;   // [PLAIN_KEYS][head_dim + 1]: keys, then values
    float* weight; // [PLAIN_QUERIES][PLAIN_KEYS]
    float* alpha;  // [PLAIN_QUERIES]
    Key* keys;     // [PLAIN_KEYS]
};

__device__ inline PlainShared plain_shared(unsigned char* memory, int head_dim) {
    PlainShared s;
    s.keys = reinterpret_cast<Key*>(memory);
    s.q = reinterpret_cast<float*>(s.keys + PLAIN_KEYS);
    s.tile = s.q + PLAIN_QUERIES * head_dim;
    s.weight = s.tile + PLAIN_KEYS * (head_dim + 1);
    s.alpha = s.weight + PLAIN_QUERIES * PLAIN_KEYS;
    return s;
}

// Keys or values of the tile to shared memory, widened; zeros where no key is. Whether all that this thread
// loaded is finite.
__device__ inline bool plain_load(const int32_t* plan, const Pages& pages, const Key* keys, float* tile, bool values) {
    const int head_dim = pages.head_dim, pieces = (head_dim + 7) / 8;
    const int64_t offset = values ? int64_t(pages.page_tokens) * head_dim : 0;
    bool finite = true;
    for (int i = int(threadIdx.x); i < PLAIN_KEYS * head_dim; i += ATTENTION_THREADS) {
        const int k = i / head_dim, d = i % head_dim;
        const unsigned char* address = keys[k].address;
        if (keys[k].code != 0) continue;
        const float x = address == nullptr ? 0.0f : load_element(address, pages.dtype, offset + d);
        finite = finite && is_finite(x);
        tile[k * (head_dim + 1) + d] = x;
    }
    for (int i = int(threadIdx.x); i < PLAIN_KEYS * pieces; i += ATTENTION_THREADS) {
        const int k = i / pieces, piece = i % pieces, code = keys[k].code;
        if (code == 0) continue;
        float x[8];
        decode_piece(coded_page(plan, code), keys[k].address, code & ENTRY_SLOTS, values, piece, x);
        for (int j = 0; j < 8 && 8 * piece + j < head_dim; ++j) {
            finite = finite && is_finite(x[j]);
            tile[k * (head_dim + 1) + 8 * piece + j] = x[j];
        }
    }
    return finite;
}

// Warp w has queries 4w .. 4w + 3 of the sixteen, lane k the tile's key k; the output's element d of
// all sixteen is in thread d (and d + 128, up to DIMS of them).
template <int DIMS>
__device__ inline void attend_plain(const TreeAttention& p, const Item& item, int kv_head, int first,
                                    const PlainShared& s) {
    const int head_dim = p.pages.head_dim, group = p.num_heads / p.pages.num_kv_heads;
    const int warp = int(threadIdx.x) / WARP, lane = int(threadIdx.x) % WARP;
    const int queries = item.row_count * group;
    __syncthreads();
    for (int i = int(threadIdx.x); i < PLAIN_QUERIES * head_dim; i += ATTENTION_THREADS) {
        const int query = first + i / head_dim;
        const int row = item.row_begin + query / group, head = kv_head * group + query % group;
        const int64_t at = row * p.q_strides[0] + head * p.q_strides[1] + i % head_dim;
        s.q[i] = query < queries ? load_element(p.q, p.dtype, at) : 0.0f;
    }
    QueryRow rows[4];
    Stats stats[4];
    for (int i = 0; i < 4; ++i) {
        rows[i] = query_row(p, item, first + 4 * warp + i, group);
        stats[i] = {minus_infinity(), 0.0f};
    }
    float out[PLAIN_QUERIES][DIMS] = {};

    for (Tiles tiles(p.plan, item); !tiles.done(); tiles.advance(PLAIN_KEYS)) {
        bool seen = false;
        if (int(threadIdx.x) < PLAIN_KEYS) {
            const Key key = key_at(p, *tiles.segment, tiles.slot + lane, p.pages.plane_begin + kv_head);
            s.keys[lane] = key;
            seen = any_sees(p, item, key);
        }
        if (!block_any(seen)) continue;
        plain_load(p.plan, p.pages, s.keys, s.tile, false);
        __syncthreads();
        for (int i = 0; i < 4; ++i) {
            const int query = 4 * warp + i;
            float dot = 0.0f;
            for (int d = 0; d < head_dim; ++d) dot = fmaf(s.q[query * head_dim + d], s.tile[lane * (head_dim + 1) + d], dot);
            const bool is_seen = sees(p, rows[i], s.keys[lane]);
            const float x = is_seen ? logit(p, dot) : minus_infinity();
            float largest = x;
            for (int m = WARP / 2; m > 0; m /= 2) largest = fmaxf(largest, __shfl_xor_sync(FULL, largest, m));
            largest = fmaxf(largest, stats[i].largest);
            const float alpha = share_of(stats[i].largest, largest);
            const float weight = share_of(x, largest);
            float sum = weight;
            for (int m = WARP / 2; m > 0; m /= 2) sum += __shfl_xor_sync(FULL, sum, m);
            stats[i] = {largest, fmaf(stats[i].sum, alpha, sum)};
            s.weight[query * PLAIN_KEYS + lane] = is_seen ? weight : __uint_as_float(HIDDEN_WEIGHT);
            if (lane == 0) s.alpha[query] = alpha;
        }
        __syncthreads();
        const bool apart = block_any(!plain_load(p.plan, p.pages, s.keys, s.tile, true));
#pragma unroll
        for (int j = 0; j < DIMS; ++j) {
            const int d = int(threadIdx.x) + j * ATTENTION_THREADS;
            if (d >= head_dim) continue;
#pragma unroll
            for (int query = 0; query < PLAIN_QUERIES; ++query) {
                const float* weights = s.weight + query * PLAIN_KEYS;
                float sum = out[query][j] * s.alpha[query];
                if (!apart) {
                    for (int k = 0; k < PLAIN_KEYS; ++k) sum = fmaf(weights[k], s.tile[k * (head_dim + 1) + d], sum);
                } else {
                    // Rare, and there are sixteen of these loops: short rather than fast.
#pragma unroll 1
                    for (int k = 0; k < PLAIN_KEYS; ++k) {
                        const bool hidden = __float_as_uint(weights[k]) == HIDDEN_WEIGHT;
                        sum = fmaf(weights[k], hidden ? 0.0f : s.tile[k * (head_dim + 1) + d], sum);
                    }
                }
                out[query][j] = sum;
            }
        }
        __syncthreads();
    }

    // The statistics are in the warps, the sums in the threads: they meet in shared memory.
    __syncthreads();
    for (int i = 0; i < 4; ++i) {
        if (lane == 0) {
            s.weight[2 * (4 * warp + i)] = stats[i].largest;
            s.weight[2 * (4 * warp + i) + 1] = stats[i].sum;
        }
    }
    __syncthreads();
    for (int j = 0; j < DIMS; ++j) {
        const int d = int(threadIdx.x) + j * ATTENTION_THREADS;
        for (int query = 0; d < head_dim && query < PLAIN_QUERIES; ++query) {
            if (first + query >= queries) break;
            const Stats whole{s.weight[2 * query], s.weight[2 * query + 1]};
            finish(p, item, first + query, group, kv_head, d, whole, out[query][j]);
        }
    }
}

// Heads up to DIMS * 128.
template <int DIMS>
__device__ inline void attention_plain(const TreeAttention& p, unsigned char* memory) {
    const PlanHeader& header = header_of(p.plan);
    const PlainShared s = plain_shared(memory, p.pages.head_dim);
    const int group = p.num_heads / p.pages.num_kv_heads;
    for (int i = int(blockIdx.x); i < header.num_items; i += int(gridDim.x)) {
        const Item item = part<Item>(p.plan, header.items)[i];
        for (int first = 0; first < item.row_count * group; first += PLAIN_QUERIES) {
            attend_plain<DIMS>(p, item, int(blockIdx.y), first, s);
        }
    }
}

}  // namespace hornbeam

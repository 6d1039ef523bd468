// Tree attention on tensor cores: bf16 and f16 pages, heads padded to 64, 128 or 256.
//
// Four warps. Up to 16, 32 or 64 queries, each warp computes 16 of them; with fewer than 64 queries the warps of
// the same queries share out the keys of every tile and are combined at the end, so that few rows
// over many keys still keep four warps busy. Keys and values come by asynchronous copies, one tile
// ahead, and lie in shared memory with their 16-byte pieces permuted by row, which keeps ldmatrix
// free of bank conflicts.
#pragma once

#include "attention.cuh"
#include "tensor_core.cuh"

namespace hornbeam {

template <int HEAD>
struct TiledShared {
    static constexpr int KEYS = HEAD <= 128 ? 64 : 32;  // of a tile
    uint16_t q[TILE_QUERIES * HEAD];
    // Two tiles of keys, two of values; at the end, the warps' sums.
    uint16_t kv[4 * KEYS * HEAD];
    Key keys[3][KEYS];
    Stats stats[4 * TILE_QUERIES];
    uint32_t hidden[3][2];  // bit k of the words: some row of the item does not see key k
    static_assert(sizeof(kv) >= TILE_QUERIES * HEAD * 4, "the sums fit");
};

// Where the 16-byte piece `piece` of row `row` lies.
template <int HEAD>
__device__ inline int swizzled(int row, int piece) {
    return row * HEAD + ((piece ^ (row & 7)) << 3);
}

// The largest, or the sum, over the four lanes that hold a row of C.
__device__ inline float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(FULL, x, 1));
    return fmaxf(x, __shfl_xor_sync(FULL, x, 2));
}
__device__ inline float quad_sum(float x) {
    x += __shfl_xor_sync(FULL, x, 1);
    return x + __shfl_xor_sync(FULL, x, 2);
}

template <class T, int HEAD>
struct Tiled {
    using Shared = TiledShared<HEAD>;
    static constexpr int KEYS = Shared::KEYS, PIECES = HEAD / 8;

    // Stages the item's queries; zeros beyond them and beyond the head.
    __device__ static void load_queries(const TreeAttention& p, const Item& item, int kv_head, int group, int queries,
                                        Shared& s) {
        for (int i = int(threadIdx.x); i < TILE_QUERIES * PIECES; i += ATTENTION_THREADS) {
            const int query = i / PIECES, piece = i % PIECES;
            const bool valid = query < queries && piece * 8 < p.pages.head_dim;
            const int row = item.row_begin + query / group, head = kv_head * group + query % group;
            const int64_t at = row * p.q_strides[0] + head * p.q_strides[1] + piece * 8;
            const uint16_t* from = static_cast<const uint16_t*>(p.q) + (valid ? at : 0);
            copy_async_16(&s.q[swizzled<HEAD>(query, piece)], from, valid);
        }
        copy_commit();
    }

    // Eight channels of a key in codes, or of its value, to shared memory in the tile's own type.
    __device__ static void store_decoded(const CodedPage& format, const unsigned char* page, int slot, bool values,
                                         int piece, uint16_t* to) {
        float x[8];
        decode_piece(format, page, slot, values, piece, x);
        uint32_t* words = reinterpret_cast<uint32_t*>(to);
        for (int j = 0; j < 4; ++j) words[j] = pack_pair<T>(x[2 * j], x[2 * j + 1]);
    }

    // Finds the next tile with a key that some row sees and starts to copy it.
    __device__ static bool produce(const TreeAttention& p, const Item& item, int kv_head, Tiles& tiles, int number,
                                   Shared& s) {
        Key* keys = s.keys[number % 3];
        while (!tiles.done()) {
            bool seen = false;
            if (int(threadIdx.x) < KEYS) {  // whole warps
                const Key key = key_at(p, *tiles.segment, tiles.slot + int(threadIdx.x), p.pages.plane_begin + kv_head);
                keys[threadIdx.x] = key;
                seen = any_sees(p, item, key);
                const uint32_t hidden = __ballot_sync(FULL, key.address != nullptr && !all_see(p, item, key));
                if (threadIdx.x % WARP == 0) s.hidden[number % 3][threadIdx.x / WARP] = hidden;
            }
            tiles.advance(KEYS);
            if (!block_any(seen)) continue;
            uint16_t* to = s.kv + (number % 2) * 2 * KEYS * HEAD;
            const int64_t values = int64_t(p.pages.page_tokens) * p.pages.head_dim;
            for (int i = int(threadIdx.x); i < KEYS * PIECES; i += ATTENTION_THREADS) {
                const int k = i / PIECES, piece = i % PIECES;
                const uint16_t* from = reinterpret_cast<const uint16_t*>(keys[k].address);
                const bool valid = from != nullptr && piece * 8 < p.pages.head_dim;
                const int at = swizzled<HEAD>(k, piece), code = keys[k].code;
                if (code != 0 && valid) {
                    const CodedPage& format = coded_page(p.plan, code);
                    const int slot = code & ENTRY_SLOTS;
                    store_decoded(format, keys[k].address, slot, false, piece, to + at);
                    store_decoded(format, keys[k].address, slot, true, piece, to + KEYS * HEAD + at);
                    continue;
                }
                if (!valid) from = static_cast<const uint16_t*>(p.q);
                copy_async_16(to + at, valid ? from + piece * 8 : from, valid);
                copy_async_16(to + KEYS * HEAD + at, valid ? from + values + piece * 8 : from, valid);
            }
            copy_commit();
            return true;
        }
        return false;
    }

    __device__ static bool is_hidden(const uint32_t* hidden, int key) {
        return (hidden[key / WARP] >> (key % WARP) & 1u) != 0;
    }

    // Whether a value that some row does not see holds an infinity or a NaN; this thread's part of them.
    __device__ static bool hides_not_finite(const uint16_t* v_tile, const uint32_t* hidden) {
        uint32_t bad = 0;
        for (int i = int(threadIdx.x); i < KEYS * PIECES; i += ATTENTION_THREADS) {
            const int k = i / PIECES;
            if (!is_hidden(hidden, k)) continue;
            const uint32_t* words = reinterpret_cast<const uint32_t*>(&v_tile[swizzled<HEAD>(k, i % PIECES)]);
            for (int j = 0; j < 4; ++j) bad |= not_finite<T>(words[j]);
        }
        return bad != 0;
    }

    // Makes the infinities and NaN of such values zeros. Sums of rows that see one are no numbers already.
    __device__ static void clear_not_finite(uint16_t* v_tile, const uint32_t* hidden) {
        for (int i = int(threadIdx.x); i < KEYS * PIECES; i += ATTENTION_THREADS) {
            const int k = i / PIECES;
            if (!is_hidden(hidden, k)) continue;
            uint32_t* words = reinterpret_cast<uint32_t*>(&v_tile[swizzled<HEAD>(k, i % PIECES)]);
            for (int j = 0; j < 4; ++j) words[j] &= ~not_finite<T>(words[j]);
        }
    }

    // QUERY_WARPS of the four warps divide the queries, the rest the keys.
    template <int QUERY_WARPS>
    __device__ static void attend(const TreeAttention& p, const Item& item, int kv_head, Shared& s) {
        constexpr int KEY_WARPS = 4 / QUERY_WARPS, MY_KEYS = KEYS / KEY_WARPS;
        static_assert(MY_KEYS % 16 == 0, "one step of the second product takes 16 keys");
        const int group = p.num_heads / p.pages.num_kv_heads, queries = item.row_count * group;
        const int warp = int(threadIdx.x) / WARP, lane = int(threadIdx.x) % WARP;
        const int g = lane / 4, t = lane % 4;
        const int my_query = 16 * (warp % QUERY_WARPS), key_warp = warp / QUERY_WARPS, my_key = key_warp * MY_KEYS;
        const QueryRow rows[2] = {query_row(p, item, my_query + g, group), query_row(p, item, my_query + g + 8, group)};
        // ldmatrix: which row and piece this lane points at.
        const int q_row = my_query + lane % 16, q_piece = lane / 16;
        const int k_row = my_key + lane % 8 + 8 * (lane / 16), k_piece = lane / 8 % 2;
        const int v_row = my_key + lane % 16, v_piece = lane / 16;

        float out[HEAD / 8][4] = {};
        float largest[2] = {minus_infinity(), minus_infinity()}, sum[2] = {0.0f, 0.0f};
        Tiles tiles(p.plan, item);
        // One tile ahead; the first round only fetches.
        bool have = false;
        for (int number = -1; have || number < 0; ++number) {
            const bool next = produce(p, item, kv_head, tiles, number + 1, s);
            if (!have) {
                if (!next) break;
                have = true;
                continue;
            }
            if (next) copy_wait<1>();
            else copy_wait<0>();
            __syncthreads();
            const uint16_t* k_tile = s.kv + (number % 2) * 2 * KEYS * HEAD;
            uint16_t* v_tile = s.kv + (number % 2) * 2 * KEYS * HEAD + KEYS * HEAD;
            const Key* keys = s.keys[number % 3];
            const uint32_t* hidden = s.hidden[number % 3];
            bool apart = (hidden[0] | hidden[KEYS / WARP - 1]) != 0;
            if (apart) apart = block_any(hides_not_finite(v_tile, hidden));

            float x[MY_KEYS / 8][4] = {};
            // Unrolled so far that eight products are under way, no further: registers are scarce.
#pragma unroll(MY_KEYS <= 16 ? 4 : 2)
            for (int step = 0; step < HEAD / 16; ++step) {
                if (step * 16 >= p.pages.head_dim) break;
                uint32_t a[4], b[4];
                load_matrices<false>(a, &s.q[swizzled<HEAD>(q_row, 2 * step + q_piece)]);
#pragma unroll
                for (int j = 0; j < MY_KEYS / 16; ++j) {
                    load_matrices<false>(b, &k_tile[swizzled<HEAD>(k_row + 16 * j, 2 * step + k_piece)]);
                    multiply_add<T>(x[2 * j], a, b);
                    multiply_add<T>(x[2 * j + 1], a, b + 2);
                }
            }

            float tile_largest[2] = {minus_infinity(), minus_infinity()};
#pragma unroll
            for (int j = 0; j < MY_KEYS / 8; ++j) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const Key& key = keys[my_key + 8 * j + 2 * t + i % 2];
                    x[j][i] = sees(p, rows[i / 2], key) ? logit(p, x[j][i]) : minus_infinity();
                    tile_largest[i / 2] = fmaxf(tile_largest[i / 2], x[j][i]);
                }
            }
            float alpha[2];
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                const float now = fmaxf(largest[r], quad_max(tile_largest[r]));
                alpha[r] = share_of(largest[r], now);
                largest[r] = now;
                sum[r] *= alpha[r];
            }
#pragma unroll
            for (int j = 0; j < MY_KEYS / 8; ++j) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    x[j][i] = share_of(x[j][i], largest[i / 2]);
                    sum[i / 2] += x[j][i];
                }
            }
#pragma unroll
            for (int d = 0; d < HEAD / 8; ++d) {
#pragma unroll
                for (int i = 0; i < 4; ++i) out[d][i] *= alpha[i / 2];
            }
            if (apart) {
                // What is not finite goes to the rows that see it, and out of the tile.
                float weights[MY_KEYS / 8][4];
#pragma unroll
                for (int j = 0; j < MY_KEYS / 8; ++j) {
#pragma unroll
                    for (int i = 0; i < 4; ++i) weights[j][i] = x[j][i];
                }
#pragma unroll 1
                for (int k = 0; k < MY_KEYS; ++k) {
                    if (!is_hidden(hidden, my_key + k)) continue;
                    float weight[2];
                    bool is_seen[2];
                    for (int r = 0; r < 2; ++r) {
                        weight[r] = __shfl_sync(FULL, weights[k / 8][2 * r + k % 2], lane / 4 * 4 + k % 8 / 2);
                        is_seen[r] = sees(p, rows[r], keys[my_key + k]);
                    }
#pragma unroll
                    for (int d = 0; d < HEAD / 8; ++d) {
                        const uint16_t* pair = &v_tile[swizzled<HEAD>(my_key + k, d) + 2 * t];
                        for (int i = 0; i < 2; ++i) {
                            const float value = to_float(T{pair[i]});
                            if (is_finite(value)) continue;
                            if (is_seen[0]) out[d][i] = fmaf(weight[0], value, out[d][i]);
                            if (is_seen[1]) out[d][2 + i] = fmaf(weight[1], value, out[d][2 + i]);
                        }
                    }
                }
                __syncthreads();
                clear_not_finite(v_tile, hidden);
                __syncthreads();
            }
#pragma unroll
            for (int j = 0; j < MY_KEYS / 16; ++j) {
                const uint32_t a[4] = {pack_pair<T>(x[2 * j][0], x[2 * j][1]), pack_pair<T>(x[2 * j][2], x[2 * j][3]),
                                       pack_pair<T>(x[2 * j + 1][0], x[2 * j + 1][1]),
                                       pack_pair<T>(x[2 * j + 1][2], x[2 * j + 1][3])};
#pragma unroll
                for (int d = 0; d < HEAD / 16; ++d) {
                    if (d * 16 >= p.pages.head_dim) break;
                    uint32_t b[4];
                    load_matrices<true>(b, &v_tile[swizzled<HEAD>(v_row + 16 * j, 2 * d + v_piece)]);
                    multiply_add<T>(out[2 * d], a, b);
                    multiply_add<T>(out[2 * d + 1], a, b + 2);
                }
            }
            have = next;
        }

        // The key warps of a query meet in shared memory, in their order.
        __syncthreads();
        float* sums = reinterpret_cast<float*>(s.kv);
        constexpr int QUERIES = 16 * QUERY_WARPS;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int at = key_warp * QUERIES + my_query + g + 8 * r;
            const float whole = quad_sum(sum[r]);
            if (t == 0) s.stats[at] = {largest[r], whole};
#pragma unroll
            for (int d = 0; d < HEAD / 8; ++d) {
                sums[at * HEAD + 8 * d + 2 * t] = out[d][2 * r];
                sums[at * HEAD + 8 * d + 2 * t + 1] = out[d][2 * r + 1];
            }
        }
        __syncthreads();
        for (int i = int(threadIdx.x); i < QUERIES * HEAD; i += ATTENTION_THREADS) {
            const int query = i / HEAD, d = i % HEAD;
            if (query >= queries || d >= p.pages.head_dim) continue;
            Stats whole{minus_infinity(), 0.0f};
            for (int w = 0; w < KEY_WARPS; ++w) whole.largest = fmaxf(whole.largest, s.stats[w * QUERIES + query].largest);
            float value = 0.0f;
            for (int w = 0; w < KEY_WARPS; ++w) {
                const Stats part = s.stats[w * QUERIES + query];
                const float share = share_of(part.largest, whole.largest);
                whole.sum = fmaf(part.sum, share, whole.sum);
                value = fmaf(sums[(w * QUERIES + query) * HEAD + d], share, value);
            }
            finish(p, item, query, group, kv_head, d, whole, value);
        }
        __syncthreads();
    }

    __device__ static void run(const TreeAttention& p, unsigned char* memory) {
        Shared& s = *reinterpret_cast<Shared*>(memory);
        const PlanHeader& header = header_of(p.plan);
        const int group = p.num_heads / p.pages.num_kv_heads, kv_head = int(blockIdx.y);
        for (int i = int(blockIdx.x); i < header.num_items; i += int(gridDim.x)) {
            const Item item = part<Item>(p.plan, header.items)[i];
            const int queries = item.row_count * group;
            load_queries(p, item, kv_head, group, queries, s);
            if (queries > 32) attend<4>(p, item, kv_head, s);
            else if (queries > 16 || KEYS < 64) attend<2>(p, item, kv_head, s);
            else if constexpr (KEYS >= 64) attend<1>(p, item, kv_head, s);
        }
    }
};

}  // namespace hornbeam

// Tensor cores and asynchronous copies behind five functions, each with a plain host form that has
// the same lanes and fragments (PTX ISA, "matrix fragments for mma.m16n8k16" and "ldmatrix").
//
// Fragments of a warp, lane = 4 g + t, two 16-bit elements a register, the lower index in the low
// half. A (16 x 16): a0 = (g, 2t), a1 = (g + 8, 2t), a2 = (g, 2t + 8), a3 = (g + 8, 2t + 8).
// B (16 x 8): b0 = rows 2t, 2t + 1 of column g, b1 = rows 2t + 8, 2t + 9.
// C (16 x 8), f32: c0, c1 = (g, 2t), (g, 2t + 1); c2, c3 = (g + 8, 2t), (g + 8, 2t + 1).
#pragma once

#include "hornbeam.cuh"

namespace hornbeam {

// Of two elements in a word, all bits of those that are an infinity or a NaN: whose exponents are all ones.
template <class T>
__device__ inline uint32_t not_finite(uint32_t pair) {
    constexpr uint32_t EXPONENT = DtypeOf<T>::value == BF16 ? 0x7f80u : 0x7c00u, LEAST = 0x8000u - EXPONENT;
    return (((pair & EXPONENT * 0x10001u) + LEAST * 0x10001u) >> 15 & 0x10001u) * 0xffffu;
}

#ifdef HORNBEAM_SIMT

namespace host_form {

struct Matrices {
    const void* row;
    uint32_t* out;
};

// Lane l holds the address of row l % 8 of matrix l / 8; each row is 8 elements of 16 bits.
template <bool transposed>
inline void combine_load(void** payloads) {
    const auto element = [&](int matrix, int row, int column) {
        const auto* from = static_cast<const Matrices*>(payloads[matrix * 8 + row])->row;
        return uint32_t(static_cast<const uint16_t*>(from)[column]);
    };
    for (int lane = 0; lane < 32; ++lane) {
        const int g = lane / 4, t = lane % 4;
        for (int matrix = 0; matrix < 4; ++matrix) {
            const uint32_t low = transposed ? element(matrix, 2 * t, g) : element(matrix, g, 2 * t);
            const uint32_t high = transposed ? element(matrix, 2 * t + 1, g) : element(matrix, g, 2 * t + 1);
            static_cast<Matrices*>(payloads[lane])->out[matrix] = low | high << 16;
        }
    }
}

template <class T>
struct Fragments {
    float* c;
    const uint32_t* a;
    const uint32_t* b;
};

template <class T>
inline float half_of(uint32_t word, int which) {
    return to_float(T{uint16_t(word >> (16 * which))});
}

template <class T>
inline void combine_mma(void** payloads) {
    float a[16][16], b[16][8];
    for (int lane = 0; lane < 32; ++lane) {
        const int g = lane / 4, t = lane % 4;
        const auto* mine = static_cast<const Fragments<T>*>(payloads[lane]);
        for (int i = 0; i < 4; ++i)
            for (int h = 0; h < 2; ++h) a[g + 8 * (i % 2)][2 * t + 8 * (i / 2) + h] = half_of<T>(mine->a[i], h);
        for (int i = 0; i < 2; ++i)
            for (int h = 0; h < 2; ++h) b[2 * t + 8 * i + h][g] = half_of<T>(mine->b[i], h);
    }
    float c[16][8] = {};
    for (int i = 0; i < 16; ++i)
        for (int k = 0; k < 16; ++k)
            for (int j = 0; j < 8; ++j) c[i][j] += a[i][k] * b[k][j];
    for (int lane = 0; lane < 32; ++lane) {
        const int g = lane / 4, t = lane % 4;
        float* out = static_cast<Fragments<T>*>(payloads[lane])->c;
        for (int i = 0; i < 4; ++i) out[i] += c[g + 8 * (i / 2)][2 * t + i % 2];
    }
}

}  // namespace host_form

template <bool transposed>
inline void load_matrices(uint32_t (&out)[4], const void* row) {
    host_form::Matrices payload{row, out};
    simt::collective(SIMT_SITE("ldmatrix"), &payload, host_form::combine_load<transposed>);
}

template <class T>
inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t* b) {
    host_form::Fragments<T> payload{c, a, b};
    simt::collective(SIMT_SITE("mma"), &payload, host_form::combine_mma<T>);
}

template <class T>
inline uint32_t pack_pair(float low, float high) {
    T a, b;
    from_float(low, a);
    from_float(high, b);
    return uint32_t(a.bits) | uint32_t(b.bits) << 16;
}

// Eager: a copy that is used before it was waited for is not seen here.
inline void copy_async_16(void* to, const void* from, bool valid) {
    if (valid) memcpy(to, from, 16);
    else memset(to, 0, 16);
}
inline void copy_commit() {}
template <int pending>
inline void copy_wait() {}

#else

__device__ inline uint32_t shared_address(const void* pointer) {
    return uint32_t(__cvta_generic_to_shared(pointer));
}

template <bool transposed>
__device__ inline void load_matrices(uint32_t (&out)[4], const void* row) {
    if constexpr (transposed) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                     : "r"(shared_address(row))
                     : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                     : "r"(shared_address(row))
                     : "memory");
    }
}

template <class T>
__device__ inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t* b);

template <>
__device__ inline void multiply_add<bf16>(float (&c)[4], const uint32_t (&a)[4], const uint32_t* b) {
    asm(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <>
__device__ inline void multiply_add<f16>(float (&c)[4], const uint32_t (&a)[4], const uint32_t* b) {
    asm(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <class T>
__device__ inline uint32_t pack_pair(float low, float high);

template <>
__device__ inline uint32_t pack_pair<bf16>(float low, float high) {
    uint32_t out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}

template <>
__device__ inline uint32_t pack_pair<f16>(float low, float high) {
    uint32_t out;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}

// 16 bytes from global to shared memory; zeros where not valid (`from` is then not read).
__device__ inline void copy_async_16(void* to, const void* from, bool valid) {
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(to)), "l"(__cvta_generic_to_global(from)), "r"(bytes)
                 : "memory");
}
__device__ inline void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending>
__device__ inline void copy_wait() {
    asm volatile("cp.async.wait_group %0;" : : "n"(pending) : "memory");
}

#endif

}  // namespace hornbeam

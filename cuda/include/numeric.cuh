// The arithmetic that decides: the same bits as rust/core (simd/math.rs, rng.rs) on every device.
// Nothing here may be contracted: kernels are compiled with --fmad=false, and what is fused says so.
#pragma once

#include "hornbeam.cuh"

namespace hornbeam {

// exp(x) for x <= 0 or -inf; 0 where the result would be denormal. simd::math::exp_nonpositive. The same
// polynomial serves x up to 88.7, where exp overflows.
__device__ inline float exp_nonpositive(float x) {
    constexpr float ROUND = 12582912.0f, LN_2_HIGH = 0.6933594f, LN_2_LOW = -2.1219444e-4f;
    if (x < -87.33654f) return 0.0f;
    const float shifted = fmaf(x, 1.4426950408889634f, ROUND);
    const float n = shifted - ROUND;
    const float r = fmaf(n, -LN_2_LOW, fmaf(n, -LN_2_HIGH, x));
    float q = 0.001381454f;
    q = fmaf(q, r, 0.008368745f);
    q = fmaf(q, r, 0.04166839f);
    q = fmaf(q, r, 0.16666521f);
    q = fmaf(q, r, 0.49999994f);
    const float p = fmaf(q, r * r, r) + 1.0f;
    return __uint_as_float(__float_as_uint(p) + (__float_as_uint(shifted) << 23));
}

// log(x) for a normal x > 0. simd::math::log_scalar.
__device__ inline float logarithm(float x) {
    constexpr uint32_t SQRT_HALF_BITS = 0x3f3504f3u;
    constexpr float LN_2_HIGH = 0.6933594f, LN_2_LOW = -2.1219444e-4f;
    const uint32_t shifted = __float_as_uint(x) - SQRT_HALF_BITS;
    const float n = float(int32_t(shifted) >> 23);
    const float f = __uint_as_float((shifted & 0x007fffffu) + SQRT_HALF_BITS) - 1.0f;
    float q = -0.076345f;
    q = fmaf(q, f, 0.127615780f);
    q = fmaf(q, f, -0.131601830f);
    q = fmaf(q, f, 0.142017570f);
    q = fmaf(q, f, -0.166233570f);
    q = fmaf(q, f, 0.200012270f);
    q = fmaf(q, f, -0.250008200f);
    q = fmaf(q, f, 0.333333300f);
    const float square = f * f;
    const float y = fmaf(n, LN_2_LOW, q * (square * f));
    return fmaf(n, LN_2_HIGH, f + fmaf(square, -0.5f, y));
}

// tanh(x). simd::math::tanh.
__device__ inline float hyperbolic_tangent(float x) {
    const float twice = fabsf(x) + fabsf(x);
    const float e = twice > 88.72283f ? __int_as_float(0x7f800000) : exp_nonpositive(twice);
    const float y = 1.0f - 2.0f / (e + 1.0f);
    return x < 0.0f ? 0.0f - y : y;
}

// A float as an unsigned integer of the same order; -0 as 0. And back.
__device__ inline uint32_t ordered(float x) {
    const uint32_t bits = __float_as_uint(x + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ inline float unordered(uint32_t key) {
    return __uint_as_float(key & 0x80000000u ? key ^ 0x80000000u : ~key);
}

// The upper half of a 128-bit product.
__device__ inline uint64_t high_of_product(uint64_t a, uint64_t b) {
#ifdef HORNBEAM_SIMT
    __extension__ typedef unsigned __int128 Product;
    return uint64_t((Product(a) * b) >> 64);
#else
    return __umul64hi(a, b);
#endif
}

struct Words {
    uint32_t x[4];
};

// Philox4x32-10 (Salmon et al. 2011). rng::philox.
__device__ inline Words philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1) {
    for (int round = 0; round < 10; ++round) {
        const uint64_t a = uint64_t(0xD2511F53u) * c0, b = uint64_t(0xCD9E8D57u) * c2;
        c0 = uint32_t(b >> 32) ^ c1 ^ k0;
        c2 = uint32_t(a >> 32) ^ c3 ^ k1;
        c1 = uint32_t(b);
        c3 = uint32_t(a);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

__device__ inline uint64_t bits_of(double x) {
#ifdef HORNBEAM_SIMT
    return simt::bits<uint64_t>(x);
#else
    return uint64_t(__double_as_longlong(x));
#endif
}
__device__ inline double double_of(uint64_t bits) {
#ifdef HORNBEAM_SIMT
    return simt::bits<double>(bits);
#else
    return __longlong_as_double(int64_t(bits));
#endif
}

constexpr double MAGIC = 4503599627370496.0;  // 2^52: adding it rounds a smaller double to an integer

// The nearest integer of a number from 0 to 2^51, ties to even.
__device__ inline uint64_t rounded(double x) { return bits_of(x + MAGIC) - bits_of(MAGIC); }

// -ln((word + 1/2) / 2^32), within 1e-15. rng::exponential, operation by operation.
__device__ inline double exponential(uint32_t word) {
    constexpr uint64_t SQRT_HALF_BITS = 0x3FE6A09E667F3BCDull;
    const uint64_t bits = bits_of((double(word) + 0.5) * (1.0 / 4294967296.0));
    const int64_t shifted = int64_t(bits - SQRT_HALF_BITS) >> 52;
    const double m = double_of(bits - (uint64_t(shifted) << 52));
    const double s = (m - 1.0) / (m + 1.0);
    const double t = s * s;
    double series = 1.0 / 23.0;
    series = series * t + 1.0 / 21.0;
    series = series * t + 1.0 / 19.0;
    series = series * t + 1.0 / 17.0;
    series = series * t + 1.0 / 15.0;
    series = series * t + 1.0 / 13.0;
    series = series * t + 1.0 / 11.0;
    series = series * t + 1.0 / 9.0;
    series = series * t + 1.0 / 7.0;
    series = series * t + 1.0 / 5.0;
    series = series * t + 1.0 / 3.0;
    const double ln_m = 2.0 * (s + s * (t * series));
    return -(double(shifted) * 0.693147180559945309417232121458 + ln_m);
}

}  // namespace hornbeam

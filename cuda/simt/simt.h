// Host emulation of the CUDA execution model: one fibre a thread, one block at a time.
//
// Compiled with HORNBEAM_SIMT, the kernels of cuda/*.cu run here unchanged and are launched through
// the driver API's own entry points (driver.cpp), in an order of threads that a seed permutes.
// What it reports as a failed launch: a barrier or a warp collective that not all threads of the
// block or warp reach, or that they reach at different places; writes past the end of shared
// memory. What only shows as a wrong result: a missing barrier (try several seeds). What it cannot
// show: missing fences, data races that order well, bank conflicts, occupancy, register limits.
// Out-of-bounds access to global memory is the address sanitizer's business.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __host__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __restrict__

struct uint3 {
    unsigned x, y, z;
};
struct uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

namespace simt {

struct Site {
    const char* what;
    const char* file;
    int line;
};

struct Thread {
    uint3 index;
    int warp, lane;
};

extern Thread* current;
extern uint3 block_index, block_size, grid_size;
extern unsigned char* shared;

// Waits for all threads of the block.
void barrier(Site site);
// The same; true iff any thread said so.
bool barrier_or(Site site, bool mine);
// Waits for the 32 lanes of the warp; the last one calls `combine` with the payloads of all.
void collective(Site site, void* payload, void (*combine)(void** payloads));
// Ends the launch with a report; does not return.
[[noreturn]] void fail(const char* message, Site site);

using Entry = void (*)(void** parameters);
struct Kernel {
    const char* name;
    Entry entry;
    int max_threads;
    Kernel* next;
    Kernel(const char* name, Entry entry, int max_threads);
};

template <class T>
struct Exchange {
    T in, out;
    int argument;
};

// The source lane of each lane, by the rule of the CUDA shuffle of that name.
enum class Shuffle { Index, Xor, Down, Up };

template <class T, Shuffle kind>
void combine_shuffle(void** payloads) {
    for (int lane = 0; lane < 32; ++lane) {
        auto* mine = static_cast<Exchange<T>*>(payloads[lane]);
        int source = mine->argument;
        if (kind == Shuffle::Index) source &= 31;
        if (kind == Shuffle::Xor) source = lane ^ source;
        if (kind == Shuffle::Down) source = lane + source;
        if (kind == Shuffle::Up) source = lane - source;
        if (source < 0 || source > 31) source = lane;
        mine->out = static_cast<Exchange<T>*>(payloads[source])->in;
    }
}

inline void require_full(unsigned mask, Site site) {
    if (mask != 0xffffffffu) fail("only full-mask collectives are emulated", site);
}

template <Shuffle kind, class T>
T shuffle(Site site, unsigned mask, T value, int argument) {
    require_full(mask, site);
    Exchange<T> exchange{value, value, argument};
    collective(site, &exchange, combine_shuffle<T, kind>);
    return exchange.out;
}

struct Vote {
    int in;
    unsigned out;
};
inline void combine_vote(void** payloads) {
    unsigned bits = 0;
    for (int lane = 0; lane < 32; ++lane) bits |= unsigned(static_cast<Vote*>(payloads[lane])->in != 0) << lane;
    for (int lane = 0; lane < 32; ++lane) static_cast<Vote*>(payloads[lane])->out = bits;
}
inline unsigned ballot(Site site, unsigned mask, int predicate) {
    require_full(mask, site);
    Vote vote{predicate, 0};
    collective(site, &vote, combine_vote);
    return vote.out;
}
inline void combine_nothing(void**) {}

template <class T>
T atomic_add(T* address, T value) {
    const T old = *address;
    *address = old + value;
    return old;
}
template <class T>
T atomic_max(T* address, T value) {
    const T old = *address;
    if (value > old) *address = value;
    return old;
}
template <class T>
T atomic_min(T* address, T value) {
    const T old = *address;
    if (value < old) *address = value;
    return old;
}

template <class To, class From>
To bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

}  // namespace simt

#define SIMT_SITE(what) (simt::Site{what, __FILE__, __LINE__})
#define threadIdx (simt::current->index)
#define blockIdx (simt::block_index)
#define blockDim (simt::block_size)
#define gridDim (simt::grid_size)
#define __syncthreads() simt::barrier(SIMT_SITE("__syncthreads"))
#define __syncwarp() simt::collective(SIMT_SITE("__syncwarp"), nullptr, simt::combine_nothing)
#define __shfl_sync(mask, value, lane) \
    simt::shuffle<simt::Shuffle::Index>(SIMT_SITE("__shfl_sync"), mask, value, lane)
#define __shfl_xor_sync(mask, value, lanes) \
    simt::shuffle<simt::Shuffle::Xor>(SIMT_SITE("__shfl_xor_sync"), mask, value, lanes)
#define __shfl_down_sync(mask, value, delta) \
    simt::shuffle<simt::Shuffle::Down>(SIMT_SITE("__shfl_down_sync"), mask, value, delta)
#define __shfl_up_sync(mask, value, delta) \
    simt::shuffle<simt::Shuffle::Up>(SIMT_SITE("__shfl_up_sync"), mask, value, delta)
#define __ballot_sync(mask, predicate) simt::ballot(SIMT_SITE("__ballot_sync"), mask, predicate)
#define __any_sync(mask, predicate) (simt::ballot(SIMT_SITE("__any_sync"), mask, predicate) != 0u)
#define __all_sync(mask, predicate) (simt::ballot(SIMT_SITE("__all_sync"), mask, predicate) == 0xffffffffu)
#define atomicAdd simt::atomic_add
#define atomicMax simt::atomic_max
#define atomicMin simt::atomic_min

#define HORNBEAM_KERNEL(name, Parameters, threads, blocks)                                            \
    static void name(const Parameters& p);                                                         \
    static simt::Kernel name##_kernel(                                                             \
        #name, [](void** parameters) { name(*static_cast<const Parameters*>(parameters[0])); }, threads); \
    static void name(const Parameters& p)
#define HORNBEAM_SHARED(name) unsigned char* const name = simt::shared
#define HORNBEAM_CALLED inline

inline float __uint_as_float(uint32_t x) { return simt::bits<float>(x); }
inline uint32_t __float_as_uint(float x) { return simt::bits<uint32_t>(x); }
inline int __float_as_int(float x) { return simt::bits<int>(x); }
inline float __int_as_float(int x) { return simt::bits<float>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline uint32_t __umulhi(uint32_t a, uint32_t b) { return uint32_t((uint64_t(a) * b) >> 32); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
template <class T>
T __ldg(const T* address) {
    return *address;
}

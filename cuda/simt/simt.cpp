// The scheduler: fibres, barriers, warp collectives, and their failures.
#include "simt.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "simt_launch.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define SIMT_ASAN 1
#else
#define SIMT_ASAN 0
#endif

#if defined(__x86_64__)
// Callee-saved registers, the stack pointer, nothing else: a switch is 15 instructions.
extern "C" void simt_switch(void** save, void* load);
asm(R"(
.text
.globl simt_switch
.hidden simt_switch
.type simt_switch, @function
simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size simt_switch, .-simt_switch
)");
#else
#include <ucontext.h>
#endif

namespace simt {

Thread* current = nullptr;
uint3 block_index, block_size, grid_size;
unsigned char* shared = nullptr;

namespace {

constexpr size_t STACK = SIMT_ASAN ? 256 * 1024 : 64 * 1024;
constexpr size_t MOST_THREADS = 1024;
constexpr size_t GUARD = 1024;  // bytes behind shared memory that no thread may touch
constexpr unsigned char NAN_BYTE = 0xff, GUARD_BYTE = 0xa5;

enum class State { Ready, Barrier, Warp, Done };

struct Fibre {
    Thread thread;
    State state;
    Site site;
    unsigned char* stack;
#if defined(__x86_64__)
    void* sp;
#else
    ucontext_t context;
#endif
    void* fake_stack;
};

struct Warp {
    int arrived;
    Site site;
    void* payloads[32];
};

std::vector<Fibre> fibres;
std::vector<Warp> warps;
std::vector<int> order;     // of the block's threads
std::vector<int> place_of;  // inverse
std::vector<unsigned char> shared_memory;
Fibre home;  // the launching thread
int num_threads, at_barrier, num_done;
bool said[2];  // what the threads at this barrier, and at the last one, said
Site barrier_site;
std::string report;
Entry entry;
void** parameters;

void switch_to(Fibre& from, Fibre& to, bool from_ends) {
    current = &to.thread;
#if SIMT_ASAN
    const void* bottom = &to == &home ? home.stack : to.stack;
    const size_t size = &to == &home ? 0 : STACK;
    __sanitizer_start_switch_fiber(from_ends ? nullptr : &from.fake_stack, bottom, size);
#else
    (void)from_ends;
#endif
#if defined(__x86_64__)
    simt_switch(&from.sp, to.sp);
#else
    swapcontext(&from.context, &to.context);
#endif
#if SIMT_ASAN
    __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

Fibre& fibre_of(Thread* thread) { return *reinterpret_cast<Fibre*>(thread); }

// Runs whoever is next in the order; with nobody ready, the launching thread judges why.
void yield(Fibre& from, bool ends) {
    const int here = place_of[&from - fibres.data()];
    for (int step = 1; step <= num_threads; ++step) {
        int place = here + step;
        if (place >= num_threads) place -= num_threads;
        Fibre& next = fibres[order[place]];
        if (next.state == State::Ready) {
            if (&next != &from) switch_to(from, next, ends);
            return;
        }
    }
    switch_to(from, home, ends);
}

void fibre_main() {
#if SIMT_ASAN
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
    entry(parameters);
    Fibre& self = fibre_of(current);
    self.state = State::Done;
    ++num_done;
    yield(self, true);
    abort();
}

void prepare(Fibre& fibre) {
    fibre.state = State::Ready;
    fibre.fake_stack = nullptr;
    if (fibre.stack == nullptr) {
        void* memory = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) abort();
        fibre.stack = static_cast<unsigned char*>(memory);
    }
#if SIMT_ASAN
    __asan_unpoison_memory_region(fibre.stack, STACK);
#endif
#if defined(__x86_64__)
    void** top = reinterpret_cast<void**>(fibre.stack + STACK - 64);
    *--top = nullptr;  // where a return address would be: keeps the entry's stack aligned
    *--top = reinterpret_cast<void*>(fibre_main);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    fibre.sp = top;
#else
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack;
    fibre.context.uc_stack.ss_size = STACK;
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, fibre_main, 0);
#endif
}

std::string describe(Site site) {
    std::string file = site.file;
    return std::string(site.what) + " " + file.substr(file.rfind('/') + 1) + ":" + std::to_string(site.line);
}

// Nobody can run: says who waits where.
std::string deadlock() {
    std::string text = "deadlock:";
    std::vector<std::pair<std::string, int>> places;
    for (int i = 0; i < num_threads; ++i) {
        const std::string place =
            fibres[i].state == State::Done ? "exited" : "at divergent " + describe(fibres[i].site);
        auto found = std::find_if(places.begin(), places.end(), [&](auto& p) { return p.first == place; });
        if (found == places.end()) places.emplace_back(place, 1);
        else ++found->second;
    }
    for (auto& [place, count] : places) text += " " + std::to_string(count) + " " + place + ",";
    text.pop_back();
    return text;
}

void permute(uint64_t seed, uint64_t block) {
    order.resize(num_threads);
    place_of.resize(num_threads);
    for (int i = 0; i < num_threads; ++i) order[i] = i;
    if (seed == 1) std::reverse(order.begin(), order.end());
    if (seed > 1) {
        std::mt19937_64 random(seed * 0x9e3779b97f4a7c15ull + block);
        std::shuffle(order.begin(), order.end(), random);
    }
    for (int i = 0; i < num_threads; ++i) place_of[order[i]] = i;
}

bool run_block(size_t shared_bytes, uint64_t seed, uint64_t block) {
    permute(seed, block);
    const int num_warps = (num_threads + 31) / 32;
    warps.assign(num_warps, Warp{});
    at_barrier = num_done = 0;
    said[0] = said[1] = false;
    shared_memory.resize(shared_bytes + GUARD + 128);
    shared = reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(shared_memory.data()) + 127) & ~uintptr_t(127));
    memset(shared, NAN_BYTE, shared_bytes);
    const size_t guard = shared_memory.data() + shared_memory.size() - (shared + shared_bytes);
    memset(shared + shared_bytes, GUARD_BYTE, guard);
    for (int i = 0; i < num_threads; ++i) {
        Fibre& fibre = fibres[i];
        const unsigned x = unsigned(i) % block_size.x, rest = unsigned(i) / block_size.x;
        fibre.thread = {{x, rest % block_size.y, rest / block_size.y}, i / 32, i % 32};
        prepare(fibre);
    }
    switch_to(home, fibres[order[0]], false);
    if (!report.empty()) return false;
    if (num_done < num_threads) {
        report = deadlock();
        return false;
    }
    for (size_t i = 0; i < guard; ++i) {
        if (shared[shared_bytes + i] != GUARD_BYTE) {
            report = "a thread wrote " + std::to_string(i) + " bytes past the end of shared memory";
            return false;
        }
    }
    return true;
}

}  // namespace

void fail(const char* message, Site site) {
    report = std::string(message) + " at " + describe(site);
    Fibre& self = fibre_of(current);
    switch_to(self, home, true);
    abort();
}

void barrier(Site site) {
    Fibre& self = fibre_of(current);
    if (at_barrier > 0 && barrier_site.line != site.line) {
        fail(("divergent barrier: others wait at " + describe(barrier_site)).c_str(), site);
    }
    barrier_site = self.site = site;
    if (++at_barrier == num_threads) {
        at_barrier = 0;
        said[1] = said[0];
        said[0] = false;
        for (int i = 0; i < num_threads; ++i) fibres[i].state = State::Ready;
        // Not straight on: whoever is first in the order would else always be last to arrive.
        yield(self, false);
        return;
    }
    self.state = State::Barrier;
    yield(self, false);
}

bool barrier_or(Site site, bool mine) {
    if (mine) said[0] = true;
    barrier(site);
    return said[1];
}

void collective(Site site, void* payload, void (*combine)(void** payloads)) {
    Fibre& self = fibre_of(current);
    Warp& warp = warps[self.thread.warp];
    if (warp.arrived > 0 && warp.site.line != site.line) {
        fail(("divergent warp collective: others wait at " + describe(warp.site)).c_str(), site);
    }
    warp.site = self.site = site;
    warp.payloads[self.thread.lane] = payload;
    if (++warp.arrived < 32) {
        self.state = State::Warp;
        yield(self, false);
        return;
    }
    warp.arrived = 0;
    combine(warp.payloads);
    const int first = self.thread.warp * 32;
    for (int i = first; i < first + 32; ++i) fibres[i].state = State::Ready;
}

const char* launch(Entry kernel, int max_threads, uint3 grid, uint3 block, size_t shared_bytes, void** arguments,
                   uint64_t seed) {
    report.clear();
    num_threads = int(block.x * block.y * block.z);
    if (num_threads < 1 || num_threads > max_threads || size_t(num_threads) > MOST_THREADS) {
        report = "block of " + std::to_string(num_threads) + " threads, the kernel allows " + std::to_string(max_threads);
        return report.c_str();
    }
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535) {
        report = "empty or too large a grid";
        return report.c_str();
    }
    if (fibres.empty()) fibres.resize(MOST_THREADS);
    block_size = block;
    grid_size = grid;
    entry = kernel;
    parameters = arguments;
    uint64_t number = 0;
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) {
                block_index = {x, y, z};
                if (!run_block(shared_bytes, seed, number++)) return report.c_str();
            }
    return nullptr;
}

Kernel* kernels = nullptr;
Kernel::Kernel(const char* name, Entry entry, int max_threads)
    : name(name), entry(entry), max_threads(max_threads), next(kernels) {
    kernels = this;
}

}  // namespace simt

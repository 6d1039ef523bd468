// The driver API of the emulated device: the entry points that hornbeam calls, no more. A process
// that loads this library in the place of libcuda launches its kernels on the host.
#include <stdio.h>
#include <string.h>

#include <mutex>
#include <string>

#include "simt_launch.h"

namespace {

enum Result { SUCCESS = 0, INVALID_VALUE = 1, NOT_FOUND = 500, LAUNCH_FAILED = 719 };

std::mutex launching;
std::string last_report;
uint64_t seed = 0;
int context;  // its address is the context
void* bound = nullptr;

}  // namespace

extern "C" {

// Marks the library as an emulation: its device memory is host memory.
int hornbeam_simt_version() { return 1; }
// 0: threads in order; 1: in reverse; else: permuted anew for every block.
void hornbeam_simt_seed(uint64_t value) { seed = value; }
const char* hornbeam_simt_report() { return last_report.c_str(); }

int cuInit(unsigned) { return SUCCESS; }
int cuDriverGetVersion(int* version) { return *version = 13000, SUCCESS; }
int cuDeviceGetCount(int* count) { return *count = 1, SUCCESS; }
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, ordinal == 0 ? SUCCESS : 101; }
int cuDeviceGetName(char* name, int length, int) {
    snprintf(name, size_t(length), "host emulation");
    return SUCCESS;
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
        case 75: *value = 9; return SUCCESS;          // compute capability, major
        case 76: *value = 0; return SUCCESS;          // minor
        case 16: *value = 4; return SUCCESS;          // multiprocessors
        case 97: *value = 227 * 1024; return SUCCESS; // shared memory that a block can opt in to
        default: return INVALID_VALUE;
    }
}
int cuDevicePrimaryCtxRetain(void** out, int) { return *out = &context, SUCCESS; }
int cuCtxGetCurrent(void** out) { return *out = bound, SUCCESS; }
int cuCtxPushCurrent_v2(void* value) { return bound = value, SUCCESS; }
int cuCtxPopCurrent_v2(void** out) { return *out = bound, bound = nullptr, SUCCESS; }
int cuModuleLoadData(void** module, const void*) { return *module = &context, SUCCESS; }

int cuModuleGetFunction(void** function, void*, const char* name) {
    for (simt::Kernel* kernel = simt::kernels; kernel != nullptr; kernel = kernel->next) {
        if (strcmp(kernel->name, name) == 0) return *function = kernel, SUCCESS;
    }
    return NOT_FOUND;
}

int cuFuncSetAttribute(void*, int, int value) { return value <= 227 * 1024 ? SUCCESS : INVALID_VALUE; }

int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared_bytes, void*, void** parameters, void**) {
    std::lock_guard<std::mutex> lock(launching);
    auto* kernel = static_cast<simt::Kernel*>(function);
    const char* report = simt::launch(kernel->entry, kernel->max_threads, {gx, gy, gz}, {bx, by, bz}, shared_bytes,
                                      parameters, seed);
    last_report = report == nullptr ? "" : std::string(kernel->name) + ": " + report;
    return report == nullptr ? SUCCESS : LAUNCH_FAILED;
}

int cuGetErrorName(int code, const char** name) {
    *name = code == LAUNCH_FAILED ? "CUDA_ERROR_LAUNCH_FAILED" : code == NOT_FOUND ? "CUDA_ERROR_NOT_FOUND" : "CUDA_ERROR";
    return SUCCESS;
}
int cuGetErrorString(int code, const char** text) {
    *text = code == LAUNCH_FAILED ? last_report.c_str() : "emulated error";
    return SUCCESS;
}
}

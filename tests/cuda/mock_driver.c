/* A libcuda with one fault, chosen when it is compiled: FAULT_*. */
#include <string.h>

int cuInit(unsigned flags) {
    (void)flags;
#ifdef FAULT_NO_DEVICE
    return 100;
#elif defined FAULT_INIT
    return 999;
#else
    return 0;
#endif
}
int cuDriverGetVersion(int* version) {
#ifdef FAULT_OLD
    *version = 12040;
#else
    *version = 13000;
#endif
    return 0;
}
int cuDeviceGetCount(int* count) {
#ifdef FAULT_NO_COUNT
    *count = 0;
#else
    *count = 1;
#endif
    return 0;
}
int cuDeviceGet(int* device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char* name, int length, int device) {
    (void)device;
    strncpy(name, "Mock V100", (unsigned)length);
    return 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
    (void)device;
#ifdef FAULT_ARCHITECTURE
    *value = attribute == 75 ? 7 : attribute == 76 ? 0 : 80;
#else
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : 132;
#endif
    return 0;
}
static int context;
int cuDevicePrimaryCtxRetain(void** out, int device) { (void)device; *out = &context; return 0; }
int cuCtxGetCurrent(void** out) { *out = 0; return 0; }
int cuCtxPushCurrent_v2(void* value) { (void)value; return 0; }
int cuCtxPopCurrent_v2(void** out) { *out = &context; return 0; }
int cuModuleLoadData(void** module, const void* image) {
    (void)image;
    *module = &context;
#ifdef FAULT_IMAGE
    return 209;
#else
    return 0;
#endif
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
    (void)module;
    (void)name;
    *function = &context;
    return 0;
}
int cuFuncSetAttribute(void* function, int attribute, int value) {
    (void)function;
    (void)attribute;
    (void)value;
    return 0;
}
#ifndef FAULT_SYMBOL
int cuLaunchKernel(void* f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned g, unsigned s,
                   void* stream, void** parameters, void** extra) {
    (void)f, (void)a, (void)b, (void)c, (void)d, (void)e, (void)g, (void)s, (void)stream, (void)parameters, (void)extra;
    return 700;
}
#endif
int cuGetErrorName(int code, const char** name) {
    *name = code == 209 ? "CUDA_ERROR_NO_BINARY_FOR_GPU" : code == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR_UNKNOWN";
    return 0;
}
int cuGetErrorString(int code, const char** text) {
    *text = code == 209 ? "no kernel image is available" : "mock error";
    return 0;
}

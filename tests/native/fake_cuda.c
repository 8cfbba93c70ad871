// A CUDA driver whose devices' memory is files: what registering a GPU's memory with a NIC asks of it.
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

enum { kMax = 64, kOk = 0, kInvalidValue = 1, kInvalidContext = 201, kNotSupported = 801 };

static struct {
    uint64_t base;
    size_t size;
    int fd;
} known[kMax];
static int count;
static int ordering, options = 1;  // of what other devices write here, and of their flush
static int flushes;
static _Thread_local int current;  // whether a context is current in this thread

// An allocation at `base` whose bytes are those of `fd`.
void fake_cuda_add(uint64_t base, size_t size, int fd) {
    known[count].base = base;
    known[count].size = size;
    known[count++].fd = fd;
}

// How a device orders what others write (0 not at all, 100 for itself), and whether the host may flush.
void fake_cuda_order(int value, int flush_options) { ordering = value, options = flush_options; }
int fake_cuda_flushes(void) { return flushes; }

static int find(uint64_t address) {
    for (int index = count - 1; index >= 0; --index)
        if (address >= known[index].base && address - known[index].base < known[index].size) return index;
    return -1;
}

int cuInit(unsigned int flags) { return flags == 0 ? kOk : kInvalidValue; }
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, kOk; }
int cuDevicePrimaryCtxRetain(void** context, int device) { return (void)device, *context = &known, kOk; }
int cuDevicePrimaryCtxRelease_v2(int device) { return (void)device, kOk; }
int cuCtxPushCurrent_v2(void* context) { return (void)context, ++current, kOk; }
int cuCtxPopCurrent_v2(void** context) { return (void)context, --current, kOk; }

int cuDeviceGetAttribute(int* value, int attribute, int device) {
    if (device != 0 || (attribute != 117 && attribute != 118)) return kInvalidValue;
    return *value = attribute == 117 ? options : ordering, kOk;
}

int cuFlushGPUDirectRDMAWrites(int target, int scope) {
    if (current == 0) return kInvalidContext;
    if (target != 0 || scope != 100) return kInvalidValue;
    if ((options & 1) == 0) return kNotSupported;
    return ++flushes, kOk;
}

int cuPointerGetAttribute(void* value, int attribute, uint64_t address) {
    if (attribute != 9 || find(address) < 0) return kInvalidValue;
    return *(int*)value = 0, kOk;
}

int cuMemGetAddressRange_v2(uint64_t* base, size_t* size, uint64_t address) {
    const int index = find(address);
    if (current == 0) return kInvalidContext;
    if (index < 0) return kInvalidValue;
    *base = known[index].base;
    *size = known[index].size;
    return kOk;
}

int cuMemGetHandleForAddressRange(void* handle, uint64_t address, size_t size, int type, unsigned long long flags) {
    const int index = find(address);
    if (current == 0) return kInvalidContext;
    if (index < 0 || type != 1 || address % 4096 != 0 || size % 4096 != 0) return kInvalidValue;
    if (flags != 0 || address != known[index].base) return kNotSupported;  // a file has no other beginning
    *(int*)handle = fcntl(known[index].fd, F_DUPFD_CLOEXEC, 3);
    return kOk;
}

int cuGetErrorString(int error, const char** text) {
    *text = error == kInvalidContext ? "invalid device context" : error == kNotSupported ? "operation not supported" : "invalid argument";
    return kOk;
}

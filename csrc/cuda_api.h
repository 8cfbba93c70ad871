// The few functions of the CUDA driver that registering a GPU's memory with a NIC takes, opened at run time.
//
// Rules: no CUDA header or library is needed to build; the names and values are those of the driver's
// public interface; what it answers but 0 becomes a SysError with the driver's own words.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "raii.h"

namespace spoke {

struct CudaApi {
    int (*init)(unsigned int flags);
    int (*device_get)(int* device, int ordinal);
    int (*primary_retain)(void** context, int device);
    int (*primary_release)(int device);
    int (*push)(void* context);
    int (*pop)(void** context);
    int (*pointer_attribute)(void* value, int attribute, uint64_t address);
    int (*address_range)(uint64_t* base, size_t* size, uint64_t address);
    int (*range_handle)(void* handle, uint64_t address, size_t size, int type, unsigned long long flags);  // optional
    int (*error_string)(int error, const char** text);
    int (*device_attribute)(int* value, int attribute, int device);
    int (*flush_writes)(int target, int scope);  // optional
};

// The driver of this name ("libcuda.so.1"), opened once; SysError ENODEV where it cannot be.
const CudaApi& load_cuda(const std::string& library);

// A descriptor of a GPU's memory for other devices, and where in it an address lies.
struct DmaBuf {
    UniqueFd fd;
    uint64_t offset = 0;
};

// SysError EINVAL for memory that is made of several physical allocations, as torch's expandable segments
// are: no descriptor covers it.
void check_one_allocation(const CudaApi& cuda, uint64_t address, size_t length);
// SysError where driver or kernel cannot (dmabuf takes Linux 5.12 and NVIDIA's open kernel modules).
DmaBuf export_dmabuf(const CudaApi& cuda, uint64_t address, size_t length);
// Has what other devices wrote into the GPU that this memory is on seen by whatever runs there from now on.
void settle_writes(const CudaApi& cuda, uint64_t address);

}  // namespace spoke

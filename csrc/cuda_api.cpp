#include "cuda_api.h"

#include <dlfcn.h>
#include <unistd.h>

#include <map>
#include <mutex>

namespace spoke {
namespace {

constexpr int kDeviceOrdinal = 9;  // CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
constexpr int kDmaBufFd = 1;       // CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD
constexpr int kFlushOptions = 117;   // CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_FLUSH_WRITES_OPTIONS
constexpr int kWritesOrdering = 118;  // CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WRITES_ORDERING
constexpr int kFlushByHost = 1;      // CU_FLUSH_GPU_DIRECT_RDMA_WRITES_OPTION_HOST
constexpr int kCurrentContext = 0;   // CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TARGET_CURRENT_CTX
constexpr int kToOwner = 100;        // CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TO_OWNER, and the same of an ordering

void check_cuda(const CudaApi& cuda, int error, const char* what) {
    if (error == 0) return;
    const char* text = nullptr;
    cuda.error_string(error, &text);
    throw SysError(EIO, std::string(what) + ": " + (text != nullptr ? text : "unknown error") + " (CUDA error " + std::to_string(error) + ")");
}

// The primary context of the device that the memory is on, current in this thread meanwhile.
class Current {
  public:
    Current(const CudaApi& cuda, uint64_t address) : cuda_(cuda) {
        int ordinal = 0;
        void* context = nullptr;
        check_cuda(cuda_, cuda_.pointer_attribute(&ordinal, kDeviceOrdinal, address), "cuPointerGetAttribute");
        check_cuda(cuda_, cuda_.device_get(&device_, ordinal), "cuDeviceGet");
        check_cuda(cuda_, cuda_.primary_retain(&context, device_), "cuDevicePrimaryCtxRetain");
        if (const int error = cuda_.push(context); error != 0) {
            cuda_.primary_release(device_);
            check_cuda(cuda_, error, "cuCtxPushCurrent");
        }
    }
    ~Current() {
        void* context = nullptr;
        cuda_.pop(&context);
        cuda_.primary_release(device_);
    }
    Current(const Current&) = delete;
    Current& operator=(const Current&) = delete;
    int attribute(int which) const {
        int value = 0;
        check_cuda(cuda_, cuda_.device_attribute(&value, which, device_), "cuDeviceGetAttribute");
        return value;
    }

  private:
    const CudaApi& cuda_;
    int device_ = 0;
};

struct Range {
    uint64_t base = 0;
    size_t size = 0;
};

Range allocation_of(const CudaApi& cuda, uint64_t address) {
    Range range;
    check_cuda(cuda, cuda.address_range(&range.base, &range.size, address), "cuMemGetAddressRange");
    return range;
}

template <typename Function>
bool resolve(void* library, Function& function, const char* name) {
    function = reinterpret_cast<Function>(::dlsym(library, name));
    return function != nullptr;
}

CudaApi open_driver(const std::string& name) {
    CudaApi api{};
    void* library = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);  // never closed: it keeps state of the process
    if (library == nullptr) throw SysError(ENODEV, "the CUDA driver cannot be loaded: " + std::string(::dlerror()));
    const bool whole = resolve(library, api.init, "cuInit") && resolve(library, api.device_get, "cuDeviceGet") &&
                       resolve(library, api.primary_retain, "cuDevicePrimaryCtxRetain") &&
                       resolve(library, api.primary_release, "cuDevicePrimaryCtxRelease_v2") &&
                       resolve(library, api.push, "cuCtxPushCurrent_v2") && resolve(library, api.pop, "cuCtxPopCurrent_v2") &&
                       resolve(library, api.pointer_attribute, "cuPointerGetAttribute") &&
                       resolve(library, api.address_range, "cuMemGetAddressRange_v2") &&
                       resolve(library, api.error_string, "cuGetErrorString") &&
                       resolve(library, api.device_attribute, "cuDeviceGetAttribute");
    if (!whole) throw SysError(ENODEV, name + " is no CUDA driver, or too old");
    resolve(library, api.range_handle, "cuMemGetHandleForAddressRange");
    resolve(library, api.flush_writes, "cuFlushGPUDirectRDMAWrites");
    check_cuda(api, api.init(0), "cuInit");
    return api;
}

}  // namespace

const CudaApi& load_cuda(const std::string& library) {
    static std::mutex mutex;
    static std::map<std::string, CudaApi> opened;
    const std::lock_guard lock(mutex);
    const auto found = opened.find(library);
    return found != opened.end() ? found->second : opened.emplace(library, open_driver(library)).first->second;
}

void check_one_allocation(const CudaApi& cuda, uint64_t address, size_t length) {
    const Current current(cuda, address);
    const Range range = allocation_of(cuda, address);
    if (address - range.base > range.size || length > range.size - (address - range.base))
        throw SysError(EINVAL, "the tensor's memory is made of several CUDA allocations, as with expandable segments: start without "
                               "expandable_segments:True in PYTORCH_CUDA_ALLOC_CONF");
}

DmaBuf export_dmabuf(const CudaApi& cuda, uint64_t address, size_t length) {
    if (cuda.range_handle == nullptr) throw SysError(ENOTSUP, "this CUDA driver has no cuMemGetHandleForAddressRange (11.7 has)");
    const Current current(cuda, address);
    const Range range = allocation_of(cuda, address);
    // The driver takes whole pages; offset and address then share their place in a page.
    const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
    const uint64_t begin = address / page * page;
    const uint64_t end = (address + length + page - 1) / page * page;
    if (begin < range.base / page * page) throw SysError(EINVAL, "the memory begins before its allocation");
    int fd = -1;
    check_cuda(cuda, cuda.range_handle(&fd, begin, end - begin, kDmaBufFd, 0), "cuMemGetHandleForAddressRange");
    return {UniqueFd(fd), address - begin};
}

// The completion of a read tells that its bytes are on their way to the GPU, in order.  Work submitted to the
// GPU after that sees them ("GPUDirect RDMA" of NVIDIA, chapter "Synchronization and Memory Ordering"); a
// kernel that runs already does so where the platform orders such writes, or after a flush, which says of
// itself that it may be left out in the first case ("CUDA Driver API", cuFlushGPUDirectRDMAWrites).
void settle_writes(const CudaApi& cuda, uint64_t address) {
    if (cuda.flush_writes == nullptr) return;
    const Current current(cuda, address);
    if (current.attribute(kWritesOrdering) >= kToOwner || (current.attribute(kFlushOptions) & kFlushByHost) == 0) return;
    check_cuda(cuda, cuda.flush_writes(kCurrentContext, kToOwner), "cuFlushGPUDirectRDMAWrites");
}

}  // namespace spoke

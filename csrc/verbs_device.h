// Owners of what a verbs device hands out: Device <- Domain <- Region, and Device <- CompletionQueue.
//
// Rules: each child owns its parent, so nothing is destroyed before what depends on it; a failed verb
// becomes a SysError that names the verb, the device, and for a registration the limit that it met.
// All of these may be made and dropped by any thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cuda_api.h"
#include "raii.h"
#include "verbs_api.h"

namespace spoke {

constexpr size_t kMaxRegionBytes = size_t{7} << 29;  // 3.5 GiB: larger regions are slower on some devices

// One port of one device, as a person or a peer sees it.
struct PortInfo {
    std::string device;
    int port = 0;
    bool active = false;
    bool ethernet = false;
    int mtu = 0;  // the verbs enumeration: 1 is 256 bytes, 5 is 4096
    int lid = 0;
    int gid_index = -1;  // of the chosen GID, -1 where there is none that a peer could reach
    ib::Gid gid{};
    uint32_t gid_type = 0;
    uint32_t netdev = 0;  // interface index of the chosen GID
    std::string problem;  // why this port cannot be used; empty where it can
};

// All ports of all devices; a device that cannot be opened is one entry with its problem.
std::vector<PortInfo> scan_ports(const VerbsApi& api);

// The best GID of a port: RoCE v2 before others, IPv4-mapped before global IPv6, never link-local
// or zero.  `wanted` >= 0 takes that index.
std::optional<ib::GidEntry> choose_gid(const std::vector<ib::GidEntry>& table, int port, bool ethernet, int wanted);

class Device {
  public:
    // The named device, or with an empty name the first with a usable port; `port` 0 is the first
    // active one.
    static std::shared_ptr<Device> open(const VerbsApi& api, const std::string& name, int port, int gid_index);
    ~Device();
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;

    const VerbsApi& api() const noexcept { return api_; }
    ib::Context* context() const noexcept { return context_; }
    const ib::DeviceAttr& limits() const noexcept { return limits_; }
    PortInfo port() const;  // read anew

  private:
    Device(const VerbsApi& api, ib::Context* context, std::string name) : api_(api), context_(context), name_(std::move(name)) {}
    const VerbsApi& api_;
    ib::Context* context_;
    std::string name_;
    ib::DeviceAttr limits_{};
    int port_ = 1;
    int wanted_gid_ = -1;
};

// A protection domain: keys of one are worth nothing in another.
class Domain {
  public:
    explicit Domain(std::shared_ptr<Device> device);
    ~Domain();
    Domain(const Domain&) = delete;
    Domain& operator=(const Domain&) = delete;
    ib::Pd* get() const noexcept { return pd_; }
    const std::shared_ptr<Device>& device() const noexcept { return device_; }

  private:
    std::shared_ptr<Device> device_;
    ib::Pd* pd_;
};

// Registered memory.  `keep` is what owns the memory: it outlives the registration.
class Region {
  public:
    Region(std::shared_ptr<Domain> domain, void* address, size_t length, unsigned int access,
           std::shared_ptr<const void> keep = nullptr);
    // A GPU's memory (GPUDirect), by dmabuf or else by nvidia_peermem; `way` tells which.  SysError that
    // says of both why not.
    static std::shared_ptr<Region> of_gpu(std::shared_ptr<Domain> domain, const CudaApi& cuda, uint64_t address, size_t length, unsigned int access);
    ~Region();
    Region(const Region&) = delete;
    Region& operator=(const Region&) = delete;
    uint64_t address() const noexcept { return address_; }
    size_t length() const noexcept { return length_; }
    uint32_t lkey() const noexcept { return mr_->lkey; }
    uint32_t rkey() const noexcept { return mr_->rkey; }
    const std::string& way() const noexcept { return way_; }
    bool contains(uint64_t address, uint64_t length) const noexcept {
        return address >= this->address() && length <= this->length() &&
               address - this->address() <= this->length() - length;
    }

  private:
    Region(std::shared_ptr<Domain> domain, ib::Mr* mr, uint64_t address, size_t length)
        : domain_(std::move(domain)), mr_(mr), address_(address), length_(length), way_("dmabuf") {}

    std::shared_ptr<Domain> domain_;
    std::shared_ptr<const void> keep_;
    ib::Mr* mr_;
    uint64_t address_;  // of a dmabuf the library does not know it
    size_t length_;
    std::string way_ = "host";
};

// A completion queue with its channel.  `poll` and `drain_events` belong to one thread.
class CompletionQueue {
  public:
    CompletionQueue(std::shared_ptr<Device> device, int depth);
    ~CompletionQueue();
    CompletionQueue(const CompletionQueue&) = delete;
    CompletionQueue& operator=(const CompletionQueue&) = delete;
    ib::Cq* get() const noexcept { return cq_; }
    int fd() const noexcept { return channel_->fd; }
    int poll(ib::Wc* wc, int count) noexcept;
    // The next completion makes `fd` readable.  Poll once more afterwards: one may have come before.
    void arm();
    // Takes the events that made `fd` readable.
    void drain_events();
    // Takes one of them: all there is where the queue is armed only after its event was taken.
    void take_event();

  private:
    void acknowledge();

    std::shared_ptr<Device> device_;
    ib::CompChannel* channel_;
    ib::Cq* cq_;
    unsigned int unacknowledged_ = 0;
};

void set_nonblocking(int fd);

}  // namespace spoke

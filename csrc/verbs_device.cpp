#include "verbs_device.h"

#include <fcntl.h>
#include <sys/resource.h>

namespace spoke {
namespace {

constexpr unsigned int kAckEvery = 64;  // an acknowledgement takes a lock

class DeviceList {
  public:
    explicit DeviceList(const VerbsApi& api) : api_(api), list_(api.get_device_list(&count_)) {
        if (list_ == nullptr) throw SysError(errno != 0 ? errno : ENODEV, "ibv_get_device_list");
    }
    ~DeviceList() { api_.free_device_list(list_); }
    DeviceList(const DeviceList&) = delete;
    DeviceList& operator=(const DeviceList&) = delete;
    int count() const noexcept { return count_; }
    ib::Device* operator[](int index) const noexcept { return list_[index]; }

  private:
    const VerbsApi& api_;
    int count_ = 0;
    ib::Device** list_;
};

std::vector<ib::GidEntry> gid_table(const VerbsApi& api, ib::Context* context) {
    std::vector<ib::GidEntry> table(256);
    const ssize_t found = api.query_gid_table(context, table.data(), table.size(), 0, sizeof(ib::GidEntry));
    table.resize(found > 0 ? static_cast<size_t>(found) : 0);
    return table;
}

bool is_zero(const ib::Gid& gid) { return gid.global.subnet_prefix == 0 && gid.global.interface_id == 0; }
bool is_link_local(const ib::Gid& gid) { return gid.raw[0] == 0xfe && (gid.raw[1] & 0xc0) == 0x80; }
bool is_ipv4(const ib::Gid& gid) {
    return gid.global.subnet_prefix == 0 && gid.raw[8] == 0 && gid.raw[9] == 0 && gid.raw[10] == 0xff && gid.raw[11] == 0xff;
}

PortInfo port_info(const VerbsApi& api, ib::Context* context, const std::string& name, int port, int wanted_gid) {
    PortInfo info;
    info.device = name;
    info.port = port;
    ib::PortAttr attr{};
    if (const int error = api.query_port(context, static_cast<uint8_t>(port), &attr); error != 0) {
        info.problem = std::string("ibv_query_port: ") + std::strerror(error);
        return info;
    }
    info.active = attr.state == ib::kPortActive;
    info.ethernet = attr.link_layer == ib::kEthernet;
    info.mtu = attr.active_mtu;
    info.lid = attr.lid;
    const auto chosen = choose_gid(gid_table(api, context), port, info.ethernet, wanted_gid);
    if (chosen) {
        info.gid_index = static_cast<int>(chosen->gid_index);
        info.gid = chosen->gid;
        info.gid_type = chosen->gid_type;
        info.netdev = chosen->ndev_ifindex;
    }
    if (!info.active)
        info.problem = "the port is down";
    else if (!chosen)
        info.problem = wanted_gid >= 0 ? "GID index " + std::to_string(wanted_gid) + " is empty"
                                       : "no GID that a peer could reach (only link-local ones, or none)";
    return info;
}

// What a failed registration met, in words that say what to do.
std::string registration_advice(size_t length) {
    rlimit limit{};
    ::getrlimit(RLIMIT_MEMLOCK, &limit);
    std::string text = "ibv_reg_mr of " + std::to_string(length) + " bytes";
    if (limit.rlim_cur != RLIM_INFINITY)
        text += " (RLIMIT_MEMLOCK is " + std::to_string(limit.rlim_cur) + " bytes here: raise it with `ulimit -l unlimited`, "
                "memlock in limits.conf, or --ulimit memlock=-1 for a container)";
    return text;
}

}  // namespace

void set_nonblocking(int fd) { check(::fcntl(fd, F_SETFL, check(::fcntl(fd, F_GETFL), "F_GETFL") | O_NONBLOCK), "O_NONBLOCK"); }

std::optional<ib::GidEntry> choose_gid(const std::vector<ib::GidEntry>& table, int port, bool ethernet, int wanted) {
    std::optional<ib::GidEntry> best;
    int best_rank = 0;
    for (const ib::GidEntry& entry : table) {
        if (static_cast<int>(entry.port_num) != port) continue;
        if (wanted >= 0) {
            if (static_cast<int>(entry.gid_index) == wanted && !is_zero(entry.gid)) return entry;
            continue;
        }
        // On InfiniBand a link-local prefix is the default subnet and reachable.
        if (is_zero(entry.gid) || (ethernet && is_link_local(entry.gid))) continue;
        int rank = 1;
        if (is_ipv4(entry.gid)) rank += 1;
        if (entry.gid_type == ib::kGidRoceV2) rank += 4;
        if (rank > best_rank) {
            best_rank = rank;
            best = entry;
        }
    }
    return best;
}

std::vector<PortInfo> scan_ports(const VerbsApi& api) {
    std::vector<PortInfo> ports;
    const DeviceList devices(api);
    for (int index = 0; index < devices.count(); ++index) {
        const std::string name = api.get_device_name(devices[index]);
        ib::Context* context = api.open_device(devices[index]);
        ib::DeviceAttr attr{};
        if (context == nullptr || api.query_device(context, &attr) != 0) {
            PortInfo info;
            info.device = name;
            info.problem = std::string("the device cannot be opened: ") + std::strerror(errno);
            ports.push_back(info);
        }
        for (int port = 1; port <= attr.phys_port_cnt; ++port) ports.push_back(port_info(api, context, name, port, -1));
        if (context != nullptr) api.close_device(context);
    }
    return ports;
}

// -- Device

std::shared_ptr<Device> Device::open(const VerbsApi& api, const std::string& name, int port, int gid_index) {
    const DeviceList devices(api);
    std::string problems = devices.count() == 0 ? "no RDMA device on this machine" : "";
    for (int index = 0; index < devices.count(); ++index) {
        const std::string found = api.get_device_name(devices[index]);
        if (!name.empty() && found != name) continue;
        ib::Context* context = api.open_device(devices[index]);
        if (context == nullptr) {
            problems += found + " cannot be opened: " + std::strerror(errno) + "; ";
            continue;
        }
        std::shared_ptr<Device> device(new Device(api, context, found));
        if (const int error = api.query_device(context, &device->limits_); error != 0) throw SysError(error, "ibv_query_device " + found);
        set_nonblocking(context->async_fd);
        device->wanted_gid_ = gid_index;
        for (int number = 1; number <= device->limits_.phys_port_cnt; ++number) {
            if (port != 0 && number != port) continue;
            const PortInfo info = port_info(api, context, found, number, gid_index);
            if (info.problem.empty()) {
                device->port_ = number;
                return device;
            }
            problems += found + " port " + std::to_string(number) + ": " + info.problem + "; ";
        }
    }
    if (problems.empty()) problems = "there is no RDMA device " + name;
    throw SysError(ENODEV, problems);
}

Device::~Device() { api_.close_device(context_); }

PortInfo Device::port() const { return port_info(api_, context_, name_, port_, wanted_gid_); }

// -- Domain

Domain::Domain(std::shared_ptr<Device> device) : device_(std::move(device)), pd_(device_->api().alloc_pd(device_->context())) {
    if (pd_ == nullptr) throw SysError(errno, "ibv_alloc_pd");
}

Domain::~Domain() { device_->api().dealloc_pd(pd_); }

// -- Region

Region::Region(std::shared_ptr<Domain> domain, void* address, size_t length, unsigned int access, std::shared_ptr<const void> keep)
    : domain_(std::move(domain)), keep_(std::move(keep)), address_(reinterpret_cast<uint64_t>(address)), length_(length) {
    const VerbsApi& api = domain_->device()->api();
    if (length == 0 || length > kMaxRegionBytes)
        throw SysError(EINVAL, "a registered region has 1 to " + std::to_string(kMaxRegionBytes) + " bytes, not " + std::to_string(length));
    if (api.reg_mr_iova2 != nullptr)
        mr_ = api.reg_mr_iova2(domain_->get(), address, length, reinterpret_cast<uint64_t>(address), access | ib::kRelaxedOrdering);
    else
        mr_ = api.reg_mr(domain_->get(), address, length, static_cast<int>(access));
    if (mr_ == nullptr) throw SysError(errno, registration_advice(length));
}

std::shared_ptr<Region> Region::of_gpu(std::shared_ptr<Domain> domain, const CudaApi& cuda, uint64_t address, size_t length, unsigned int access) {
    check_one_allocation(cuda, address, length);
    const VerbsApi& api = domain->device()->api();
    std::string why;
    try {
        if (api.reg_dmabuf_mr == nullptr) throw SysError(ENOTSUP, "libibverbs has no ibv_reg_dmabuf_mr");
        const DmaBuf exported = export_dmabuf(cuda, address, length);
        ib::Mr* mr = api.reg_dmabuf_mr(domain->get(), exported.offset, length, address, exported.fd.get(), static_cast<int>(access));
        if (mr == nullptr) throw SysError(errno, "ibv_reg_dmabuf_mr");
        return std::shared_ptr<Region>(new Region(std::move(domain), mr, address, length));
    } catch (const SysError& error) {
        why = error.what();
    }
    try {  // the kernel module answers for addresses of the GPU
        auto region = std::make_shared<Region>(std::move(domain), reinterpret_cast<void*>(address), length, access);
        region->way_ = "nvidia_peermem";
        return region;
    } catch (const SysError& error) {
        throw SysError(error.code(), "the GPU's memory cannot be registered: by dmabuf: " + why + "; by nvidia_peermem: " + error.what());
    }
}

Region::~Region() { domain_->device()->api().dereg_mr(mr_); }

// -- CompletionQueue

CompletionQueue::CompletionQueue(std::shared_ptr<Device> device, int depth) : device_(std::move(device)) {
    const VerbsApi& api = device_->api();
    channel_ = api.create_comp_channel(device_->context());
    if (channel_ == nullptr) throw SysError(errno, "ibv_create_comp_channel");
    set_nonblocking(channel_->fd);
    cq_ = api.create_cq(device_->context(), std::min(depth, device_->limits().max_cqe), nullptr, channel_, 0);
    if (cq_ == nullptr) {
        const int error = errno;
        api.destroy_comp_channel(channel_);
        throw SysError(error, "ibv_create_cq");
    }
    arm();  // before the first work request
}

CompletionQueue::~CompletionQueue() {
    drain_events();
    const VerbsApi& api = device_->api();
    if (unacknowledged_ != 0) api.ack_cq_events(cq_, unacknowledged_);  // destroy_cq waits for all of them
    api.destroy_cq(cq_);
    api.destroy_comp_channel(channel_);
}

int CompletionQueue::poll(ib::Wc* wc, int count) noexcept { return cq_->context->ops.poll_cq(cq_, count, wc); }

void CompletionQueue::arm() {
    if (const int error = cq_->context->ops.req_notify_cq(cq_, 0); error != 0) throw SysError(error, "ibv_req_notify_cq");
}

void CompletionQueue::drain_events() {
    ib::Cq* cq = nullptr;
    void* context = nullptr;
    while (device_->api().get_cq_event(channel_, &cq, &context) == 0) ++unacknowledged_;
    acknowledge();
}

void CompletionQueue::take_event() {
    ib::Cq* cq = nullptr;
    void* context = nullptr;
    if (device_->api().get_cq_event(channel_, &cq, &context) == 0) ++unacknowledged_;
    acknowledge();
}

void CompletionQueue::acknowledge() {
    if (unacknowledged_ < kAckEvery) return;
    device_->api().ack_cq_events(cq_, unacknowledged_);
    unacknowledged_ = 0;
}

}  // namespace spoke

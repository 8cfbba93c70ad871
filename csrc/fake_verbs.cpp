#include "fake_verbs.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>

#include "fake_device.h"

namespace spoke::fake {
namespace {

constexpr uint32_t kMaxInline = 128;
std::atomic<uint32_t> next_key{0x100}, next_number{0x11};

Context& of(ib::Context* context) { return *static_cast<Context*>(context); }

// Takes one from an eventfd that counts; blocks where the descriptor does.
bool take_one(int fd) {
    uint64_t count = 0;
    return ::read(fd, &count, sizeof count) == sizeof count;
}

// -- the table's functions

struct FakeDevice {
    char name[16];
};
FakeDevice devices[2] = {{"fake0"}, {"fake1"}};

ib::Device** get_device_list(int* count) {
    auto** list = new ib::Device*[3];
    for (int index = 0; index < 2; ++index) list[index] = reinterpret_cast<ib::Device*>(&devices[index]);
    list[2] = nullptr;
    if (count != nullptr) *count = 2;
    return list;
}

void free_device_list(ib::Device** list) { delete[] list; }
const char* get_device_name(ib::Device* device) { return reinterpret_cast<FakeDevice*>(device)->name; }

int poll_cq(ib::Cq* cq, int count, ib::Wc* wc) {
    Context& context = of(cq->context);
    const std::lock_guard lock(context.mutex);
    auto& queue = *static_cast<CompletionQ*>(cq);
    if (context.lost) return 0;
    int taken = 0;
    while (taken < count && !queue.entries.empty()) {
        wc[taken++] = queue.entries.front();
        queue.entries.pop_front();
    }
    return taken;
}

int req_notify_cq(ib::Cq* cq, int) {
    Context& context = of(cq->context);
    const std::lock_guard lock(context.mutex);
    static_cast<CompletionQ*>(cq)->armed = true;
    return 0;
}

int post_send(ib::Qp* base, ib::SendWr* wr, ib::SendWr** bad) {
    Context& context = of(base->context);
    const std::lock_guard lock(context.mutex);
    auto& qp = *static_cast<QueuePair*>(base);
    for (; wr != nullptr; wr = wr->next) {
        *bad = wr;
        if (qp.state != ib::kRts && qp.state != ib::kErr) return EINVAL;
        if (qp.unretired >= qp.cap.max_send_wr) return ENOMEM;
        Posted posted{*wr, {}, {}};
        if (wr->num_sge == 1) posted.piece = *wr->sg_list;
        if (wr->num_sge == 1 && (wr->send_flags & ib::kInline) != 0) {
            if (wr->opcode == ib::kRdmaRead || posted.piece.length > qp.cap.max_inline_data) return EINVAL;
            posted.inline_data.assign(reinterpret_cast<const char*>(posted.piece.addr), posted.piece.length);
        }
        ++qp.unretired;
        qp.sends.push_back(std::move(posted));
    }
    if (qp.state == ib::kErr && !qp.busy) context.flush(qp);
    context.wake();
    return 0;
}

int post_recv(ib::Qp* base, ib::RecvWr* wr, ib::RecvWr** bad) {
    Context& context = of(base->context);
    const std::lock_guard lock(context.mutex);
    auto& qp = *static_cast<QueuePair*>(base);
    for (; wr != nullptr; wr = wr->next) {
        *bad = wr;
        if (qp.state == ib::kReset) return EINVAL;
        if (qp.receives.size() >= qp.cap.max_recv_wr) return ENOMEM;
        qp.receives.push_back(wr->wr_id);
    }
    if (qp.state == ib::kErr) context.flush(qp);
    return 0;
}

ib::Context* open_device(ib::Device* device) {
    if (script().take(&Script::no_permission)) {
        errno = EACCES;
        return nullptr;
    }
    auto* context = new Context;
    context->device = device;
    context->ops.poll_cq = &poll_cq;
    context->ops.req_notify_cq = &req_notify_cq;
    context->ops.post_send = &post_send;
    context->ops.post_recv = &post_recv;
    const std::lock_guard lock(contexts_mutex());
    contexts().insert(context);
    return context;
}

int close_device(ib::Context* base) {
    Context& context = of(base);
    {
        const std::lock_guard lock(contexts_mutex());
        contexts().erase(&context);
    }
    if (!context.pairs.empty() || !context.regions.empty() || !context.queues.empty() || context.domains != 0)
        broken_rule("closed with objects left");
    delete &context;
    return 0;
}

int query_device(ib::Context*, ib::DeviceAttr* attr) {
    *attr = {};
    attr->max_mr_size = uint64_t{1} << 40;
    attr->max_qp_wr = 4096;
    attr->max_cqe = 1 << 16;
    attr->max_mr = 1 << 16;
    attr->max_qp_rd_atom = attr->max_qp_init_rd_atom = 8;
    attr->phys_port_cnt = 1;
    return 0;
}

int query_port(ib::Context*, uint8_t, ib::PortAttr* attr) {
    const std::lock_guard lock(script().mutex);
    *attr = {};
    attr->state = script().port_up ? ib::kPortActive : ib::kPortDown;
    attr->active_mtu = attr->max_mtu = 5;
    attr->gid_tbl_len = 4;
    attr->link_layer = ib::kEthernet;
    return 0;
}

ssize_t query_gid_table(ib::Context* base, ib::GidEntry* entries, size_t count, uint32_t, size_t) {
    Context& context = of(base);
    const std::lock_guard lock(context.mutex);
    ib::Gid link_local{};
    link_local.raw[0] = 0xfe;
    link_local.raw[1] = 0x80;
    const ib::GidEntry table[] = {{link_local, 0, 1, ib::kGidRoceV2, 1}, {context.gid, 1, 1, ib::kGidRoceV1, 1}, {context.gid, 3, 1, ib::kGidRoceV2, 1}};
    const size_t filled = std::min(count, std::size(table));
    std::copy_n(table, filled, entries);
    return static_cast<ssize_t>(filled);
}

ib::Pd* alloc_pd(ib::Context* base) {
    Context& context = of(base);
    const std::lock_guard lock(context.mutex);
    auto* pd = new Domain{};
    pd->context = base;
    ++context.domains;
    return pd;
}

int dealloc_pd(ib::Pd* pd) {
    Context& context = of(pd->context);
    const std::lock_guard lock(context.mutex);
    if (static_cast<Domain*>(pd)->users != 0) broken_rule("a protection domain was freed before its children");
    --context.domains;
    delete static_cast<Domain*>(pd);
    return 0;
}

ib::Mr* add_region(ib::Pd* pd, std::unique_ptr<Region> region, uint64_t start, char* bytes, size_t length, int access) {
    Context& context = of(pd->context);
    const std::lock_guard lock(context.mutex);
    if ((access & ib::kRemoteWrite) != 0 && (access & ib::kLocalWrite) == 0) {
        errno = EINVAL;
        return nullptr;
    }
    region->context = pd->context;
    region->pd = pd;
    region->length = length;
    region->lkey = region->rkey = next_key.fetch_add(0x101);
    region->access = static_cast<unsigned int>(access);
    region->start = start;
    region->bytes = bytes;
    ++static_cast<Domain*>(pd)->users;
    ib::Mr* made = region.get();
    context.regions.emplace(region->rkey, std::move(region));
    return made;
}

ib::Mr* reg_mr(ib::Pd* pd, void* addr, size_t length, int access) {
    if (script().take(&Script::no_memory)) {
        errno = ENOMEM;
        return nullptr;
    }
    auto region = std::make_unique<Region>();
    region->addr = addr;
    return add_region(pd, std::move(region), reinterpret_cast<uint64_t>(addr), static_cast<char*>(addr), length, access);
}

// As hardware: offset and address lie at the same place of a page, and the access flags are few.
ib::Mr* reg_dmabuf_mr(ib::Pd* pd, uint64_t offset, size_t length, uint64_t iova, int fd, int access) {
    constexpr uint64_t kPage = 4096;
    constexpr unsigned int kAllowed = ib::kLocalWrite | ib::kRemoteRead | ib::kRemoteWrite;
    if (script().take(&Script::no_dmabuf) || offset % kPage != iova % kPage || (static_cast<unsigned int>(access) & ~kAllowed) != 0) {
        errno = EOPNOTSUPP;
        return nullptr;
    }
    auto region = std::make_unique<Region>();
    region->mapped = offset + length;
    void* mapping = ::mmap(nullptr, region->mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapping == MAP_FAILED) return nullptr;
    region->mapping = mapping;
    char* bytes = static_cast<char*>(mapping) + offset;
    return add_region(pd, std::move(region), iova, bytes, length, access);
}

int dereg_mr(ib::Mr* mr) {
    Context& context = of(mr->context);
    const std::lock_guard lock(context.mutex);
    --static_cast<Domain*>(mr->pd)->users;
    context.regions.erase(mr->rkey);
    return 0;
}

ib::CompChannel* create_comp_channel(ib::Context* context) {
    auto* channel = new Channel{};
    channel->context = context;
    channel->fd = ::eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
    return channel;
}

int destroy_comp_channel(ib::CompChannel* base) {
    auto* channel = static_cast<Channel*>(base);
    if (channel->refcnt != 0) broken_rule("a completion channel was destroyed before its queue");
    ::close(channel->fd);
    delete channel;
    return 0;
}

ib::Cq* create_cq(ib::Context* base, int cqe, void* cq_context, ib::CompChannel* channel, int) {
    Context& context = of(base);
    const std::lock_guard lock(context.mutex);
    auto* cq = new CompletionQ{};
    cq->context = base;
    cq->channel = channel;
    cq->cq_context = cq_context;
    cq->cqe = cqe;
    if (channel != nullptr) ++channel->refcnt;
    context.queues.insert(cq);
    return cq;
}

int destroy_cq(ib::Cq* base) {
    Context& context = of(base->context);
    const std::lock_guard lock(context.mutex);
    auto* cq = static_cast<CompletionQ*>(base);
    if (cq->users != 0) broken_rule("a completion queue was destroyed before its queue pairs");
    if (cq->unacknowledged != 0) broken_rule("a completion queue was destroyed with events that were not acknowledged");
    if (cq->channel != nullptr) {
        std::erase(static_cast<Channel*>(cq->channel)->events, base);
        --cq->channel->refcnt;
    }
    std::erase_if(context.held, [&](const auto& entry) { return entry.first == cq; });
    context.queues.erase(base);
    delete cq;
    return 0;
}

int get_cq_event(ib::CompChannel* base, ib::Cq** cq, void** cq_context) {
    if (!take_one(base->fd)) return -1;
    Context& context = of(base->context);
    const std::lock_guard lock(context.mutex);
    auto* channel = static_cast<Channel*>(base);
    if (channel->events.empty()) return -1;
    *cq = channel->events.front();
    channel->events.pop_front();
    *cq_context = (*cq)->cq_context;
    ++static_cast<CompletionQ*>(*cq)->unacknowledged;
    return 0;
}

void ack_cq_events(ib::Cq* cq, unsigned int count) {
    const std::lock_guard lock(of(cq->context).mutex);
    static_cast<CompletionQ*>(cq)->unacknowledged -= count;
}

ib::Qp* create_qp(ib::Pd* pd, ib::QpInitAttr* attr) {
    if (attr->cap.max_inline_data > kMaxInline) {
        errno = EINVAL;
        return nullptr;
    }
    Context& context = of(pd->context);
    const std::lock_guard lock(context.mutex);
    auto qp = std::make_unique<QueuePair>();
    qp->context = pd->context;
    qp->pd = pd;
    qp->send_cq = attr->send_cq;
    qp->recv_cq = attr->recv_cq;
    qp->qp_num = next_number.fetch_add(1) & 0xffffff;
    qp->cap = attr->cap;
    qp->socket = std::make_shared<UniqueFd>();
    ++static_cast<Domain*>(pd)->users;
    ++static_cast<CompletionQ*>(attr->send_cq)->users;
    ib::Qp* made = qp.get();
    context.pairs.emplace(made->qp_num, std::move(qp));
    return made;
}

// What each transition must name, as the real library demands it.
int needed_mask(int state) {
    switch (state) {
        case ib::kInit:
            return ib::kMaskPkeyIndex | ib::kMaskPort | ib::kMaskAccess;
        case ib::kRtr:
            return ib::kMaskAv | ib::kMaskPathMtu | ib::kMaskDestQpn | ib::kMaskRqPsn | ib::kMaskMaxDestRdAtomic | ib::kMaskMinRnrTimer;
        case ib::kRts:
            return ib::kMaskSqPsn | ib::kMaskMaxRdAtomic | ib::kMaskRetryCnt | ib::kMaskRnrRetry | ib::kMaskTimeout;
        default:
            return 0;
    }
}

void merge(ib::QpAttr& into, const ib::QpAttr& from, int state) {
    if (state == ib::kInit) {
        into.qp_access_flags = from.qp_access_flags;
        into.port_num = from.port_num;
    } else if (state == ib::kRtr) {
        into.ah_attr = from.ah_attr;
        into.dest_qp_num = from.dest_qp_num;
        into.rq_psn = from.rq_psn;
        into.path_mtu = from.path_mtu;
        into.max_dest_rd_atomic = from.max_dest_rd_atomic;
    } else if (state == ib::kRts) {
        into.sq_psn = from.sq_psn;
        into.max_rd_atomic = from.max_rd_atomic;
        into.rnr_retry = from.rnr_retry;
        into.retry_cnt = from.retry_cnt;
    }
}

int modify_qp(ib::Qp* base, ib::QpAttr* attr, int mask) {
    Context& context = of(base->context);
    const std::lock_guard lock(context.mutex);
    auto& qp = *static_cast<QueuePair*>(base);
    if (context.lost) return EIO;
    if (attr->qp_state == ib::kErr) {
        if (qp.state != ib::kErr) context.enter_error(qp);
        return 0;
    }
    const int needed = needed_mask(attr->qp_state) | ib::kMaskState;
    if (attr->qp_state != qp.state + 1 || (mask & needed) != needed) return EINVAL;
    if (attr->qp_state == ib::kRtr && (attr->max_dest_rd_atomic > 8 || attr->min_rnr_timer > 31 || attr->path_mtu < 1 || attr->path_mtu > 5)) return EINVAL;
    if (attr->qp_state == ib::kRts && (attr->max_rd_atomic > 8 || attr->timeout > 31)) return EINVAL;
    merge(qp.attr, *attr, attr->qp_state);
    qp.state = attr->qp_state;
    return 0;
}

int destroy_qp(ib::Qp* base) {
    Context& context = of(base->context);
    std::unique_lock lock(context.mutex);
    auto* qp = static_cast<QueuePair*>(base);
    qp->state = ib::kReset;
    if (*qp->socket) ::shutdown(qp->socket->get(), SHUT_RDWR);  // a request under way ends
    context.wake();
    context.changed.wait(lock, [&] { return !qp->busy; });
    const uint32_t number = qp->qp_num;
    const auto of_this = [&](const ib::Wc& wc) { return wc.qp_num == number; };
    std::erase_if(context.held, [&](const auto& entry) { return of_this(entry.second); });
    std::erase_if(static_cast<CompletionQ*>(qp->send_cq)->entries, of_this);
    --static_cast<CompletionQ*>(qp->send_cq)->users;
    --static_cast<Domain*>(qp->pd)->users;
    context.pairs.erase(number);
    return 0;
}

int get_async_event(ib::Context* base, ib::AsyncEvent* event) {
    if (!take_one(base->async_fd)) return -1;
    Context& context = of(base);
    const std::lock_guard lock(context.mutex);
    if (context.events.empty()) return -1;
    *event = context.events.front();
    context.events.pop_front();
    return 0;
}

void ack_async_event(ib::AsyncEvent*) {}
int fork_init() { return 0; }
int is_fork_initialized() { return ib::kForkUnneeded; }

const char* wc_status_str(int status) {
    switch (status) {
        case ib::kSuccess: return "success";
        case ib::kLocProtErr: return "local protection error";
        case ib::kFlushErr: return "Work Request Flushed Error";
        case ib::kRemAccessErr: return "remote access error";
        case ib::kRetryExcErr: return "transport retry counter exceeded";
        case ib::kRnrRetryExcErr: return "RNR retry counter exceeded";
        default: return "another error";
    }
}

void apply(Context& context, const std::string& command) {
    const std::lock_guard lock(context.mutex);
    if (command == "port") {
        context.event(script().port_up ? ib::kPortUp : ib::kPortErr, nullptr);
    } else if (command == "fatal") {
        context.lost = true;
        context.event(ib::kDeviceFatal, nullptr);
    } else if (command == "overrun") {
        for (ib::Cq* cq : context.queues) context.event(ib::kCqErr, cq);
    } else if (command == "gid_change") {
        context.event(ib::kGidChange, nullptr);
    }
    context.wake();
}

}  // namespace
}  // namespace spoke::fake

namespace spoke {

const VerbsApi& fake_verbs() {
    using namespace fake;  // the table's functions
    static const VerbsApi api = {
        &get_device_list, &free_device_list, &get_device_name, &open_device, &close_device, &query_device,
        &query_port, &query_gid_table, &alloc_pd, &dealloc_pd, &reg_mr, nullptr, &reg_dmabuf_mr, &dereg_mr,
        &create_comp_channel, &destroy_comp_channel, &create_cq, &destroy_cq, &get_cq_event, &ack_cq_events,
        &create_qp, &modify_qp, &destroy_qp, &get_async_event, &ack_async_event, &fork_init,
        &is_fork_initialized, &wc_status_str,
    };
    return api;
}

void fake_script(const std::string& command, int64_t value) {
    fake::Script& script = fake::script();
    {
        const std::lock_guard lock(script.mutex);
        if (command == "port") script.port_up = value != 0;
        else if (command == "fail") script.fail = value;
        else if (command == "drop") script.drop = value;
        else if (command == "rnr") script.rnr = value;
        else if (command == "delay") script.delay_us = value;
        else if (command == "reorder") script.reorder = value;
        else if (command == "no_memory") script.no_memory = value;
        else if (command == "no_dmabuf") script.no_dmabuf = value;
        else if (command == "no_permission") script.no_permission = value;
        else if (command == "no_flush") script.no_flush = value != 0;
        else if (command != "fatal" && command != "overrun" && command != "gid_change")
            throw SysError(EINVAL, "the software device has no fault " + command);
    }
    const std::lock_guard lock(fake::contexts_mutex());
    for (fake::Context* context : fake::contexts()) fake::apply(*context, command);
}

uint64_t fake_requests() {
    const std::lock_guard lock(fake::script().mutex);
    return fake::script().requests;
}

}  // namespace spoke

#include "fake_device.h"

#include <sys/eventfd.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>

namespace spoke::fake {

UniqueFd listen_as(const ib::Gid& gid);

Script& script() {
    static Script made;
    return made;
}

std::set<Context*>& contexts() {
    static std::set<Context*> made;
    return made;
}

std::mutex& contexts_mutex() {
    static std::mutex made;
    return made;
}

void broken_rule(const char* what) {
    std::fprintf(stderr, "software verbs device: %s\n", what);
    std::abort();
}

namespace {

std::atomic<uint32_t> next_context{1};

void signal(int fd) {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = ::write(fd, &one, sizeof one);
}

ib::Gid fresh_gid() {
    ib::Gid gid{};
    const uint32_t number = next_context.fetch_add(1);
    const auto pid = static_cast<uint32_t>(::getpid());
    gid.raw[0] = 0xfd;
    std::memcpy(gid.raw + 4, &pid, sizeof pid);
    std::memcpy(gid.raw + 8, &number, sizeof number);
    gid.raw[15] = 1;
    return gid;
}

}  // namespace

// -- Region

Region::~Region() {
    if (mapping != nullptr) ::munmap(mapping, mapped);
}

// -- Context

Context::Context() : ib::Context{}, gid(fresh_gid()), listener(listen_as(gid)), waker(check(::eventfd(0, EFD_CLOEXEC), "eventfd")) {
    async_fd = check(::eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE), "eventfd");
    num_comp_vectors = 1;
    requester = std::thread([this] { request_loop(); });
    responder = std::thread([this] { respond_loop(); });
}

Context::~Context() {
    {
        const std::lock_guard lock(mutex);
        stop = true;
        wake();
    }
    signal(waker.get());
    requester.join();
    responder.join();
    ::close(async_fd);
}

Region* Context::find_region(const QueuePair& qp, uint32_t key, uint64_t address, uint64_t length, unsigned int access) {
    const auto found = regions.find(key);
    if (found == regions.end()) return nullptr;
    Region& region = *found->second;
    const uint64_t start = region.start;
    const bool inside = address >= start && length <= region.length && address - start <= region.length - length;
    return inside && region.pd == qp.pd && (region.access & access) == access ? &region : nullptr;
}

void Context::push(CompletionQ& cq, const ib::Wc& wc) {
    if (static_cast<int>(cq.entries.size()) >= cq.cqe) {
        event(ib::kCqErr, &cq);
        return;
    }
    cq.entries.push_back(wc);
    if (cq.armed && cq.channel != nullptr) {
        cq.armed = false;
        auto& channel = *static_cast<Channel*>(cq.channel);
        channel.events.push_back(&cq);
        signal(channel.fd);
    }
}

void Context::complete(QueuePair& qp, const ib::Wc& wc, bool receive) {
    if (lost) return;
    auto& cq = *static_cast<CompletionQ*>(receive ? qp.recv_cq : qp.send_cq);
    int64_t hold = 0;
    {
        const std::lock_guard lock(script().mutex);
        hold = script().reorder;
    }
    if (hold <= 1) {
        deliver_held();
        push(cq, wc);
        return;
    }
    held.emplace_back(&cq, wc);
    if (static_cast<int64_t>(held.size()) >= hold) deliver_held();
}

// Another order across queue pairs, the same within each.
void Context::deliver_held() {
    std::stable_sort(held.begin(), held.end(), [](const auto& a, const auto& b) { return a.second.qp_num > b.second.qp_num; });
    for (const auto& [cq, wc] : held) push(*cq, wc);
    held.clear();
}

void Context::finish_send(QueuePair& qp, const ib::SendWr& wr, int status) {
    ++qp.since_signal;
    if ((wr.send_flags & ib::kSignaled) == 0 && status == ib::kSuccess) return;
    ib::Wc wc{};
    wc.wr_id = wr.wr_id;
    wc.status = status;
    wc.qp_num = qp.qp_num;
    if (status == ib::kSuccess) {
        wc.opcode = wr.opcode == ib::kRdmaRead ? ib::kWcRead : ib::kWcWrite;
    } else {
        wc.opcode = 0x5a5a;  // not valid after an error, and nobody may look
        wc.byte_len = 0x5a5a5a5a;
        wc.vendor_err = 77;
    }
    qp.unretired -= std::exchange(qp.since_signal, 0);
    complete(qp, wc, false);
}

void Context::enter_error(QueuePair& qp) {
    qp.state = ib::kErr;
    if (!qp.busy) flush(qp);
    wake();
}

void Context::flush(QueuePair& qp) {
    {
        const std::lock_guard lock(script().mutex);
        if (script().no_flush) return;
    }
    while (!qp.sends.empty()) {
        const Posted posted = std::move(qp.sends.front());
        qp.sends.pop_front();
        finish_send(qp, posted.wr, ib::kFlushErr);
    }
    for (const uint64_t wr_id : std::exchange(qp.receives, {})) {
        ib::Wc wc{};
        wc.wr_id = wr_id;
        wc.status = ib::kFlushErr;
        wc.qp_num = qp.qp_num;
        complete(qp, wc, true);
    }
}

void Context::event(int type, void* element) {
    ib::AsyncEvent made{};
    made.event_type = type;
    if (type == ib::kPortErr || type == ib::kPortUp || type == ib::kGidChange)
        made.element.port_num = 1;
    else
        made.element.other = element;
    events.push_back(made);
    signal(async_fd);
}

}  // namespace spoke::fake

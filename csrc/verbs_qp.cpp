#include "verbs_qp.h"

#include <sys/random.h>

#include <algorithm>

namespace spoke {
namespace {

constexpr uint8_t kVersion = 1;
constexpr uint8_t kReadDepth = 16;     // READs in flight, where both devices allow it
constexpr uint8_t kMinRnrTimer = 12;   // 0.64 ms; 5 bits, so 32 would mean 655 ms
constexpr uint8_t kTimeout = 14;       // 67 ms until a packet is sent again
constexpr uint8_t kRetries = 6;        // not 7: the kernel's software device takes that for "without end"
constexpr uint8_t kHopLimit = 255;     // a router on the way costs one

uint32_t random24() {
    uint32_t value = 0;
    if (::getrandom(&value, sizeof value, 0) != sizeof value) throw SysError(errno, "getrandom");
    return value & 0xffffff;
}

template <typename T>
void put(std::string& text, T value) { text.append(reinterpret_cast<const char*>(&value), sizeof value); }

template <typename T>
T take(const char*& at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    at += sizeof value;
    return value;
}

uint8_t read_depth(const Engine& engine) {
    const ib::DeviceAttr& limits = engine.device()->limits();
    const int depth = std::min({static_cast<int>(kReadDepth), limits.max_qp_rd_atom, limits.max_qp_init_rd_atom});
    return static_cast<uint8_t>(std::max(depth, 1));
}

}  // namespace

std::string QpAddress::pack() const {
    std::string text;
    put(text, kVersion);
    put(text, mtu);
    put(text, rd_atomic);
    put(text, uint8_t{0});
    put(text, lid);
    put(text, uint16_t{0});
    put(text, qpn);
    put(text, psn);
    text.append(reinterpret_cast<const char*>(gid.raw), sizeof gid.raw);
    return text;
}

QpAddress QpAddress::unpack(const std::string& text) {
    if (text.size() != kBytes) throw SysError(EPROTO, "a queue pair's address has 32 bytes, not " + std::to_string(text.size()));
    const char* at = text.data();
    QpAddress address;
    const auto version = take<uint8_t>(at);
    address.mtu = take<uint8_t>(at);
    address.rd_atomic = take<uint8_t>(at);
    const auto zero = take<uint8_t>(at);
    address.lid = take<uint16_t>(at);
    const auto zeros = take<uint16_t>(at);
    address.qpn = take<uint32_t>(at);
    address.psn = take<uint32_t>(at);
    std::memcpy(address.gid.raw, at, sizeof address.gid.raw);
    if (version != kVersion || zero != 0 || zeros != 0 || address.mtu < 1 || address.mtu > 5 || address.rd_atomic == 0 ||
        address.qpn > 0xffffff || address.psn > 0xffffff)
        throw SysError(EPROTO, "not a queue pair's address");
    return address;
}

QueuePair::QueuePair(std::shared_ptr<Engine> engine, const QpLimits& limits)
    : engine_(std::move(engine)), domain_(limits.domain ? limits.domain : engine_->domain()), sends_(limits.sends) {
    const PortInfo port = engine_->device()->port();
    if (!port.problem.empty()) throw SysError(ENETDOWN, port.device + ": " + port.problem);
    port_ = static_cast<uint8_t>(port.port);
    gid_index_ = port.gid_index;
    const VerbsApi& api = engine_->device()->api();
    ib::QpInitAttr init{};
    init.send_cq = init.recv_cq = (limits.queue != nullptr ? *limits.queue : engine_->completions()).get();
    init.cap = {limits.sends, limits.receives, 1, 1, limits.inline_bytes};
    init.qp_type = ib::kRc;
    qp_ = api.create_qp(domain_->get(), &init);
    if (qp_ == nullptr && errno == EINVAL) {  // a device without inline sends
        init.cap = {limits.sends, limits.receives, 1, 1, 0};
        qp_ = api.create_qp(domain_->get(), &init);
    }
    if (qp_ == nullptr) throw SysError(errno, "ibv_create_qp on " + port.device);
    inline_bytes_ = init.cap.max_inline_data;
    address_ = {static_cast<uint8_t>(port.mtu), read_depth(*engine_), static_cast<uint16_t>(port.lid), qp_->qp_num, random24(), port.gid};
    ib::QpAttr attr{};
    attr.qp_state = ib::kInit;
    attr.port_num = port_;
    attr.qp_access_flags = limits.access;
    try {
        modify(attr, ib::kMaskState | ib::kMaskPkeyIndex | ib::kMaskPort | ib::kMaskAccess, "to INIT");
    } catch (...) {
        destroy();
        throw;
    }
}

QueuePair::~QueuePair() { destroy(); }

void QueuePair::modify(ib::QpAttr& attr, int mask, const char* what) {
    if (qp_ == nullptr) throw SysError(ENOTCONN, "the queue pair is gone");
    if (const int error = engine_->device()->api().modify_qp(qp_, &attr, mask); error != 0)
        throw SysError(error, std::string("ibv_modify_qp ") + what);
}

void QueuePair::connect(const QpAddress& peer) {
    ib::QpAttr attr{};
    attr.qp_state = ib::kRtr;
    attr.path_mtu = std::min(peer.mtu, address_.mtu);
    attr.dest_qp_num = peer.qpn;
    attr.rq_psn = peer.psn;
    attr.max_dest_rd_atomic = std::min(peer.rd_atomic, address_.rd_atomic);
    attr.min_rnr_timer = kMinRnrTimer;
    attr.ah_attr.is_global = 1;
    attr.ah_attr.grh.dgid = peer.gid;
    attr.ah_attr.grh.sgid_index = static_cast<uint8_t>(gid_index_);
    attr.ah_attr.grh.hop_limit = kHopLimit;
    attr.ah_attr.dlid = peer.lid;
    attr.ah_attr.port_num = port_;
    modify(attr, ib::kMaskState | ib::kMaskAv | ib::kMaskPathMtu | ib::kMaskDestQpn | ib::kMaskRqPsn | ib::kMaskMaxDestRdAtomic | ib::kMaskMinRnrTimer, "to RTR");
    attr = {};
    attr.qp_state = ib::kRts;
    attr.sq_psn = address_.psn;
    attr.max_rd_atomic = std::min(peer.rd_atomic, address_.rd_atomic);
    attr.timeout = kTimeout;
    attr.retry_cnt = kRetries;
    attr.rnr_retry = 7;  // without end: credits keep it from happening, and a watchdog ends what hangs
    modify(attr, ib::kMaskState | ib::kMaskSqPsn | ib::kMaskMaxRdAtomic | ib::kMaskRetryCnt | ib::kMaskRnrRetry | ib::kMaskTimeout, "to RTS");
}

void QueuePair::stop() noexcept {
    if (qp_ == nullptr) return;
    ib::QpAttr attr{};
    attr.qp_state = ib::kErr;
    engine_->device()->api().modify_qp(qp_, &attr, ib::kMaskState);  // fails only where it stands there already
}

void QueuePair::destroy() noexcept {
    if (qp_ != nullptr) engine_->device()->api().destroy_qp(std::exchange(qp_, nullptr));
}

void QueuePair::post(ib::SendWr* first, uint32_t count) {
    if (qp_ == nullptr) throw SysError(ENOTCONN, "the queue pair is gone");
    ib::SendWr* bad = nullptr;
    const int error = qp_->context->ops.post_send(qp_, first, &bad);
    if (error == 0) {
        posted_ += count;
        return;
    }
    for (ib::SendWr* wr = first; wr != nullptr && wr != bad; wr = wr->next) ++posted_;  // all before `bad` were
    throw SysError(error, "ibv_post_send");
}

void QueuePair::post_receive(uint64_t wr_id) {
    if (qp_ == nullptr) throw SysError(ENOTCONN, "the queue pair is gone");
    ib::RecvWr wr{};
    wr.wr_id = wr_id;
    ib::RecvWr* bad = nullptr;
    if (const int error = qp_->context->ops.post_recv(qp_, &wr, &bad); error != 0) throw SysError(error, "ibv_post_recv");
}

void QueuePair::retire(uint32_t low) {
    const uint32_t step = (low + 1 - retired_) & 0x7fffffffu;
    if (step <= posted_ - retired_) retired_ += step;
}

std::string describe_failure(const Engine& engine, const char* what, const ib::Wc& wc, uint32_t qpn) {
    const char* status = engine.device()->api().wc_status_str(wc.status);
    return std::string(what) + " failed: " + (status != nullptr ? status : "unknown") + " (status " + std::to_string(wc.status) +
           ", vendor " + std::to_string(wc.vendor_err) + ") on " + engine.device()->port().device + ", queue pair " + std::to_string(qpn);
}

}  // namespace spoke

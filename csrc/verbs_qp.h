// One reliable connection: a queue pair and its way from RESET to RTS, with the accounting of its send queue.
//
// Rules: the access flags are given at birth and never widened; receives are posted before the peer can
// send; a work request is retired by a signalled completion of it or of one after it, so the last request
// of every list is signalled and one in every quarter of the queue; after an error every request that is
// not retired counts as failed.  Not thread-safe: whoever owns it has the lock.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "verbs_engine.h"

namespace spoke {

// What the peer needs to connect; travels over the authenticated control link only.
struct QpAddress {
    static constexpr size_t kBytes = 32;
    uint8_t mtu = 0, rd_atomic = 0;
    uint16_t lid = 0;
    uint32_t qpn = 0, psn = 0;
    ib::Gid gid{};

    std::string pack() const;
    // SysError EPROTO for anything that `pack` cannot have made.
    static QpAddress unpack(const std::string& text);
};

struct QpLimits {
    uint32_t sends = 1, receives = 1;
    unsigned int access = 0;
    uint32_t inline_bytes = 0;         // asked for; what the device gives is `inline_bytes` of the pair
    CompletionQueue* queue = nullptr;  // the engine's where there is none
    std::shared_ptr<Domain> domain{};  // the engine's where there is none
};

class QueuePair {
  public:
    QueuePair(std::shared_ptr<Engine> engine, const QpLimits& limits);
    ~QueuePair();
    QueuePair(const QueuePair&) = delete;
    QueuePair& operator=(const QueuePair&) = delete;

    const std::shared_ptr<Engine>& engine() const noexcept { return engine_; }
    const std::shared_ptr<Domain>& domain() const noexcept { return domain_; }
    const QpAddress& address() const noexcept { return address_; }
    uint32_t number() const noexcept { return qp_->qp_num; }
    uint32_t inline_bytes() const noexcept { return inline_bytes_; }
    // INIT to RTR to RTS.  `depth`: READs in flight that this end may have.
    void connect(const QpAddress& peer);
    // No work request is carried out any more; those posted complete with a flush error.
    void stop() noexcept;
    // Nothing reads or writes memory for this queue pair after this.
    void destroy() noexcept;
    bool gone() const noexcept { return qp_ == nullptr; }

    // -- send queue
    uint32_t room() const noexcept { return sends_ - (posted_ - retired_); }
    uint32_t posted() const noexcept { return posted_; }
    bool idle() const noexcept { return posted_ == retired_; }
    // Whether the request with this index should be signalled though it is not the last of its list.
    bool signal_due(uint32_t index) const noexcept { return index % (sends_ < 4 ? 1 : sends_ / 4) == 0; }
    // Posts a chain of `count`; what was posted counts even where this throws.
    void post(ib::SendWr* first, uint32_t count);
    void post_receive(uint64_t wr_id);
    // All requests up to the one with these low 31 bits are done.
    void retire(uint32_t low);
    uint32_t retired() const noexcept { return retired_; }

  private:
    void modify(ib::QpAttr& attr, int mask, const char* what);

    std::shared_ptr<Engine> engine_;
    std::shared_ptr<Domain> domain_;
    ib::Qp* qp_ = nullptr;
    QpAddress address_;
    uint32_t sends_;
    uint32_t inline_bytes_ = 0;
    uint32_t posted_ = 0, retired_ = 0;
    uint8_t port_ = 1;
    int gid_index_ = 0;
};

// "RDMA READ failed: remote access error (status 10, vendor 0) on rxe0, queue pair 17"
std::string describe_failure(const Engine& engine, const char* what, const ib::Wc& wc, uint32_t qpn);

}  // namespace spoke

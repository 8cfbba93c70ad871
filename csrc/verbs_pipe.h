// Two-way byte streams for calls: each end owns a ring that the other writes by RDMA WRITE with immediate.
//
// A ring is a row of slots.  The writer fills the next one and tells, in the immediate value, how many
// slots of its own ring it has emptied so far; that is the peer's credit.  An end that has nothing to say
// sends its credit alone once half of its ring was emptied.  So no slot is overwritten before it was read,
// and a receive is always posted (no RNR): receives are posted anew as completions are taken.
//
// A pipe has a completion queue of its own, which is polled by whoever waits for the process's sockets
// (`fd` stands in the reactor's epoll): a message wakes the thread that needs it, and no other.
//
// Rules: rings alone are registered for remote writes, each in a protection domain of its own pipe, so that a
// peer can write into no other's ring and into no object; what finds no credit waits here, in order; the
// staging slot of a message is used again only when the peer has emptied the slot it went to, so that what
// the peer did not receive is still here when the pipe fails; any failure ends the pipe, and is said in
// `failure`.  `pending` and `take` belong to one thread, all else may be called by any.
#pragma once

#include <array>
#include <deque>
#include <vector>

#include "tunnel.h"
#include "verbs_qp.h"

namespace spoke {

constexpr uint32_t kSlots = 64;
constexpr uint32_t kSlotBytes = 8192;

class Pipe final : public Port, public Tunnel {
  public:
    explicit Pipe(std::shared_ptr<Engine> engine);
    ~Pipe() override;
    // The queue pair's address, then where its ring is and by which key.
    std::string address() const;
    void connect(const std::string& peer);
    uint64_t messages();

    int fd() const override { return epoll_.get(); }
    int64_t send(std::span<const std::span<const char>> pieces, bool hold) override;
    void flush() override;
    int64_t queued() override;
    size_t pending() override;
    size_t take(char* into, size_t size) override;
    std::string failure() override;
    void close(const std::string& why) override;
    uint32_t finish(const std::string& why) override;
    bool unreceived(uint32_t count, std::vector<std::span<const char>>& pieces) override;

    void lost(const std::string& why) override { close(why); }

  private:
    struct Arrived {
        uint32_t slot, begin, end;
    };
    void watch(int fd);
    void pump();
    void post(uint32_t length, bool credit_only);
    void serve();
    void completed_one(const ib::Wc& wc);
    void received(const ib::Wc& wc);
    void fail(const std::string& why);
    static uint64_t wr_id(bool receive, uint32_t index) { return (receive ? 1u << 31 : 0u) | (index & 0x7fffffffu); }

    std::mutex mutex_;
    CompletionQueue queue_;
    QueuePair pair_;
    uint32_t number_ = 0;
    UniqueFd alarm_;             // readable once it has failed
    UniqueFd epoll_;             // of the queue's events and the alarm
    std::vector<char> memory_;   // the ring, then the staging slots
    char* ring_ = nullptr;
    char* staging_ = nullptr;
    std::unique_ptr<Region> ring_region_, staging_region_;
    uint64_t peer_ring_ = 0;
    uint32_t peer_key_ = 0;
    bool connected_ = false;

    uint32_t sent_ = 0;          // slots written to the peer's ring
    uint32_t peer_emptied_ = 0;  // of them, as the peer said
    uint32_t arrived_count_ = 0;  // slots that the peer wrote here
    uint32_t emptied_ = 0;       // of them, read
    uint32_t told_ = 0;          // as we said
    std::array<uint32_t, kSlots> lengths_{};  // of what lies in the staging slots
    std::deque<Arrived> arrived_;
    size_t arrived_bytes_ = 0;
    std::string backlog_;        // bytes without credit, or held
    size_t backlog_begin_ = 0;
    std::string failed_;
    uint64_t messages_ = 0;
};

}  // namespace spoke

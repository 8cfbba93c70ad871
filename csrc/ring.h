// Two byte streams in shared memory between two processes of a node: what a connection's frames go
// through once the connection is busy (Reactor::divert).  Sending is a copy, without a system call while
// the peer is awake.
//
// Memory: for each direction a control block and kBytes of data, used as a circle; `written` and `taken`
// only grow, and their difference is what lies in it.  Each direction has a bell, an eventfd that is
// rung when its reader is asleep, or when its writer wants room and gets it (then the other bell).
//
// Rules: one thread at a time reads (the poller), `send` has its own lock.  Who goes to sleep says so
// and looks again; who writes, writes and then looks whether the other is asleep: one of the two sees
// the other.  What finds no room waits in a queue of this process.  Nothing that the peer writes is
// trusted: a count that cannot be is a failure.
#pragma once

#include <atomic>
#include <mutex>
#include <vector>

#include "raii.h"
#include "tunnel.h"

namespace spoke {

class Ring final : public Tunnel {
  public:
    static constexpr size_t kBytes = 64 * 1024;
    static constexpr size_t kFds = 3;  // memory, and the bells of both directions

    // A new one; the peer joins it by its descriptors.
    Ring();
    // Takes the descriptors over.
    explicit Ring(UniqueFd (&fds)[kFds]);
    ~Ring() override;
    // To be passed on to the peer: memory, bell of what we read, bell of what it reads.
    int fd_to_pass(size_t index) const;
    void passed() { memory_fd_.reset(); }

    int fd() const override { return bell_in_.get(); }
    int64_t send(std::span<const std::span<const char>> pieces, bool hold) override;
    void flush() override;
    size_t pending() override;
    size_t take(char* into, size_t size) override;
    std::string failure() override;
    void close(const std::string& why) override;
    // A connection whose ring fails ends, so nobody asks what was received.
    uint32_t finish(const std::string& why) override {
        close(why);
        return 0;
    }
    bool unreceived(uint32_t, std::vector<std::span<const char>>&) override { return false; }
    int64_t queued() override;
    bool failed() const { return failed_.load(std::memory_order_acquire); }
    Ring* ring() override { return this; }

    // Bytes that went into it.
    uint64_t sent();

    // -- for the poller

    // Whether there is something to do: bytes to take, or room for what is queued.
    bool ready() const;
    // The poller goes to sleep; true where it had better not.
    bool doze();
    void rouse();
    // The peer's poller sleeps, so nothing comes from it without a bell.
    bool peer_sleeps() const;
    // On which CPU the peer was last seen; -1: not yet.
    int peer_cpu() const;
    void tell_cpu(int cpu);

  private:
    struct Way;

    void map();
    void write(std::span<const char> piece);
    void announce();
    bool pump();
    size_t room() const;

    UniqueFd memory_fd_, bell_in_, bell_out_;
    char* memory_ = nullptr;
    Way* in_ = nullptr;
    Way* out_ = nullptr;
    char* in_data_ = nullptr;
    char* out_data_ = nullptr;
    uint64_t taken_ = 0;  // our own counts: the shared ones are copies for the peer
    std::mutex mutex_;    // of what follows
    uint64_t written_ = 0;
    std::vector<char> backlog_;
    size_t backlog_begin_ = 0;
    std::atomic<bool> waits_for_room_{false};
    std::atomic<bool> failed_{false};
    std::string why_;
};

}  // namespace spoke

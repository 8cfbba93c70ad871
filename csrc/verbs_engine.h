// The verbs device of one process: its protection domain, its completion queue, and the one thread
// that takes completions and asynchronous events.
//
// What wants completions of that queue is a Port (verbs_reader.h): it has a number that stands in the
// upper half of each of its work-request ids, so that a late completion of a queue pair that is gone
// meets nobody, even where the device gives its number out again.  A port with a queue of its own
// (verbs_pipe.h) only hears of the loss of the device.
//
// Rules: the owner thread alone polls the completion queue, reads asynchronous events, and calls
// Port::completed and Port::tick, under `table_mutex_`, so that after `detach` no call is running.  A
// port never calls attach or detach from inside these.  It spins a bounded time after a completion, then
// arms, polls once more, and sleeps.  What the process must know comes out as notices through an eventfd.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "verbs_device.h"

namespace spoke {

using Clock = std::chrono::steady_clock;

constexpr int kQueueDepth = 16384;  // completions of all queue pairs together
constexpr std::chrono::milliseconds kDrainLimit{2000};  // a device that does not flush is not waited for

enum class NoticeKind : int { kPortDown = 1, kPortUp = 2, kGidChanged = 3, kFatal = 4, kBroken = 5, kArrived = 6 };

struct Notice {
    NoticeKind kind;
    uint32_t port = 0;  // the number of the port that it is about, 0 for the device
    std::string text;
};

class Port {
  public:
    virtual ~Port() = default;
    // One completion of this port; `receive` tells which queue it is of, `index` its place in it.
    virtual void completed(const ib::Wc&, bool /*receive*/, uint32_t /*index*/) {}
    // Called now and then while `engine.hurry` asked for it; false when there is nothing to wait for.
    virtual bool tick(Clock::time_point) { return false; }
    // The device, or its completion queue, is lost.
    virtual void lost(const std::string& why) = 0;
};

class Engine {
  public:
    Engine(const VerbsApi& api, const std::string& device, int port, int gid_index);
    ~Engine();
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    const std::shared_ptr<Device>& device() const noexcept { return device_; }
    const std::shared_ptr<Domain>& domain() const noexcept { return domain_; }
    CompletionQueue& completions() const noexcept { return *queue_; }
    bool alive() const noexcept { return !fatal_.load(std::memory_order_acquire); }
    // Readable while there are notices.
    int fd() const noexcept { return notice_fd_.get(); }
    std::vector<Notice> take_notices();
    void notify(Notice notice);

    // A number for a port with room for `entries` completions; SysError ENOSPC where there is none.
    uint32_t attach(Port* port, int entries);
    void detach(uint32_t number, int entries);
    // Calls the port's `tick` until it returns false.
    void hurry(uint32_t number);
    uint64_t completions_seen() const noexcept { return seen_.load(std::memory_order_relaxed); }

  private:
    void run();
    bool poll_once();
    void sleep();
    void take_events();
    void on_event(const ib::AsyncEvent& event);
    void lose_all(const std::string& why);
    void tick_all();

    std::shared_ptr<Device> device_;
    std::shared_ptr<Domain> domain_;
    std::unique_ptr<CompletionQueue> queue_;
    UniqueFd notice_fd_;
    UniqueFd wake_fd_;
    std::mutex notice_mutex_;
    std::vector<Notice> notices_;
    std::vector<uint32_t> asked_;  // ports that want ticks, not yet seen by the owner thread
    std::mutex table_mutex_;
    std::unordered_map<uint32_t, Port*> ports_;
    std::vector<uint32_t> hurried_;  // ports whose tick is wanted; the owner thread's
    int reserved_ = 0;               // completions that the ports may have outstanding
    uint32_t next_number_ = 1;
    std::atomic<bool> fatal_{false};
    std::atomic<bool> stop_{false};
    std::atomic<uint64_t> seen_{0};
    std::chrono::nanoseconds gap_{1000000};  // moving average between completions
    Clock::time_point last_{};
    std::thread thread_;
};

}  // namespace spoke

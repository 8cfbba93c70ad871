// One-sided reads: the end that reads, and the end whose memory is read.
//
// A Reader has one queue pair to one peer and reads lists of slices through it, in order, thousands in
// one list.  A Responder has the queue pair at the other end; it does nothing but exist: a lease on the
// owner's memory is worth as much as the Responder's queue pair, and `close` ends it for good.
//
// Rules: an operation owns its destination until it is finished, and it is finished only when each of its
// requests has completed or been flushed, or the queue pair is destroyed; the first failure ends the
// queue pair and with it every operation on it; a slice that is not inside its registered region is
// refused before anything is posted.
#pragma once

#include <condition_variable>
#include <deque>
#include <vector>

#include "verbs_qp.h"

namespace spoke {

constexpr uint64_t kReadBytes = 1 << 20;  // one work request
constexpr uint32_t kReadQueue = 256;      // work requests of one queue pair

struct Slice {
    std::shared_ptr<Region> into;  // stays registered until the operation is finished
    uint64_t local, remote, length;
    uint32_t rkey;
};

class Operation {
  public:
    // False after `limit` without an end.
    bool wait(std::chrono::nanoseconds limit);
    bool finished();
    std::string error();  // empty: it succeeded, once it is finished
    void finish(const std::string& error);

  private:
    std::mutex mutex_;
    std::condition_variable changed_;
    bool finished_ = false;
    std::string error_;
};

class Reader final : public Port {
  public:
    explicit Reader(std::shared_ptr<Engine> engine);
    ~Reader() override;
    std::string address() const { return pair_.address().pack(); }
    uint32_t number() const noexcept { return number_; }
    void connect(const std::string& peer);
    std::shared_ptr<Operation> read(std::vector<Slice> slices);
    // Ends the queue pair; its operations are finished, with this reason, as soon as nothing is under way.
    void abort(const std::string& why);
    // As abort, and returns when they are finished.
    void close(const std::string& why);
    bool usable();
    uint64_t bytes_read();

    void completed(const ib::Wc& wc, bool receive, uint32_t index) override;
    bool tick(Clock::time_point now) override;
    void lost(const std::string& why) override;

  private:
    struct Job {
        std::shared_ptr<Operation> operation;
        std::vector<Slice> slices;
        size_t next_slice = 0;
        uint64_t next_byte = 0;
        uint32_t end = 0;  // index behind its last request, once all are posted
        bool posted = false;
        uint64_t bytes = 0;
    };
    void pump();
    uint32_t fill(Job& job, uint32_t room);
    void retire_jobs();
    void fail(const std::string& why);
    void finish_all();

    std::mutex mutex_;
    std::condition_variable changed_;
    QueuePair pair_;
    uint32_t number_ = 0;
    std::deque<Job> jobs_;       // in order; the first ones may be posted
    std::vector<ib::SendWr> requests_;
    std::vector<ib::Sge> pieces_;
    std::string failed_;         // why, once it has
    bool connected_ = false;
    Clock::time_point give_up_{};
    uint64_t bytes_ = 0;
};

class Responder {
  public:
    explicit Responder(std::shared_ptr<Engine> engine) : pair_(std::move(engine), {1, 1, ib::kRemoteRead}) {}
    std::string address() const { return pair_.address().pack(); }
    void connect(const std::string& peer);
    // No read of the peer is answered after this.
    void close();
    bool usable();

  private:
    std::mutex mutex_;
    QueuePair pair_;
};

}  // namespace spoke

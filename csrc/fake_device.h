// The inside of the software verbs device: its objects and its two threads.
//
// Rules: everything of a context is under its one mutex, held while memory is read or written for a
// peer, so that what was destroyed or deregistered is touched by nobody afterwards.  The requester
// thread carries out posted requests one at a time; the responder thread answers peers and never waits
// for this context's own requester.
#pragma once

#include <sys/socket.h>

#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <unordered_map>
#include <vector>

#include "fake_verbs.h"
#include "raii.h"

namespace spoke::fake {

struct Script {
    std::mutex mutex;
    bool port_up = true, fatal = false, overrun = false, no_flush = false;
    int64_t fail = 0, drop = 0, rnr = 0, delay_us = 0, reorder = 0, no_memory = 0, no_dmabuf = 0, no_permission = 0, address = 0;
    uint64_t requests = 0;

    // Whether one of a counted fault is to happen now.
    bool take(int64_t Script::*count) {
        const std::lock_guard lock(mutex);
        if (this->*count <= 0) return false;
        --(this->*count);
        return true;
    }
};
Script& script();

struct Context;

struct Channel : ib::CompChannel {
    std::deque<ib::Cq*> events;
};

struct CompletionQ : ib::Cq {
    std::deque<ib::Wc> entries;
    bool armed = false;
    unsigned int unacknowledged = 0;
    int users = 0;
};

struct Domain : ib::Pd {
    int users = 0;
};

struct Region : ib::Mr {
    ~Region();
    // Where the byte lies that peers know by this address.
    char* at(uint64_t address) const { return bytes + (address - start); }

    unsigned int access = 0;
    uint64_t start = 0;      // as peers name it
    char* bytes = nullptr;   // as this process does; a dmabuf is mapped
    void* mapping = nullptr;
    size_t mapped = 0;
};

struct Posted {
    ib::SendWr wr;
    ib::Sge piece;
    std::string inline_data;
};

struct QueuePair : ib::Qp {
    ib::QpAttr attr{};
    ib::QpCap cap{};
    std::deque<Posted> sends;
    std::deque<uint64_t> receives;
    uint32_t unretired = 0;  // posted requests whose place in the queue is not free yet
    uint32_t since_signal = 0;
    bool busy = false;       // the requester works for it
    std::shared_ptr<UniqueFd> socket;
};

// What a request is on the wire between two devices.
struct WireRequest {
    uint32_t opcode, to_qpn, from_qpn, rkey, imm, with_imm;
    uint64_t address, length;
};
struct WireAnswer {
    int32_t status;  // of WcStatus, or one of the two below
    uint32_t zero;
    uint64_t length;
};
constexpr int32_t kNoAnswer = -1, kNotReady = -2;

struct Context : ib::Context {
    Context();
    ~Context();
    Context(const Context&) = delete;
    Context& operator=(const Context&) = delete;

    // -- with the mutex held
    Region* find_region(const QueuePair& qp, uint32_t key, uint64_t address, uint64_t length, unsigned int access);
    void complete(QueuePair& qp, const ib::Wc& wc, bool receive);
    void push(CompletionQ& cq, const ib::Wc& wc);
    void deliver_held();
    void finish_send(QueuePair& qp, const ib::SendWr& wr, int status);
    void enter_error(QueuePair& qp);
    void flush(QueuePair& qp);
    void event(int type, void* element);
    void wake() { changed.notify_all(); }

    // -- the two threads
    void request_loop();
    void respond_loop();
    bool answer(int fd);
    WireAnswer carry_out(const WireRequest& request, std::string& data);
    WireAnswer exchange(QueuePair& qp, const WireRequest& request, const std::string& data, std::string& answer,
                        std::unique_lock<std::mutex>& lock);
    int perform(QueuePair& qp, const Posted& posted, std::unique_lock<std::mutex>& lock);

    std::mutex mutex;
    std::condition_variable changed;
    ib::Gid gid{};
    std::map<uint32_t, std::unique_ptr<Region>> regions;  // by key
    std::map<uint32_t, std::unique_ptr<QueuePair>> pairs;  // by number
    std::set<ib::Cq*> queues;
    std::deque<ib::AsyncEvent> events;
    std::vector<std::pair<CompletionQ*, ib::Wc>> held;
    int domains = 0;
    bool stop = false, lost = false;
    UniqueFd listener, waker;
    std::thread requester, responder;
};

std::set<Context*>& contexts();  // all open ones, under contexts_mutex
std::mutex& contexts_mutex();

void broken_rule(const char* what);  // aborts: a rule of the verbs was broken

UniqueFd listen_as(const ib::Gid& gid);
bool send_all(int fd, const void* data, size_t size);
bool receive_all(int fd, void* data, size_t size);

}  // namespace spoke::fake

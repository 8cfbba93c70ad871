#include <poll.h>
#include <sys/un.h>

#include <algorithm>
#include <chrono>

#include "fake_device.h"

namespace spoke::fake {
namespace {

constexpr auto kRetryLimit = std::chrono::milliseconds(60);  // stands for retry_cnt times the timeout
constexpr auto kRnrPause = std::chrono::milliseconds(1);

// An abstract name: nothing on disk, gone with the process.
socklen_t fill_address(sockaddr_un& address, const ib::Gid& gid) {
    static const char digits[] = "0123456789abcdef";
    static const char prefix[] = "spoke-fake-verbs-";
    address.sun_family = AF_UNIX;
    char* at = address.sun_path;
    *at++ = 0;
    at = std::copy(prefix, prefix + sizeof prefix - 1, at);
    for (const uint8_t byte : gid.raw) {
        *at++ = digits[byte >> 4];
        *at++ = digits[byte & 15];
    }
    return static_cast<socklen_t>(at - reinterpret_cast<char*>(&address));
}

UniqueFd dial(const ib::Gid& gid) {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    const socklen_t size = fill_address(address, gid);
    if (!fd || ::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0) return UniqueFd();
    return fd;
}

int64_t setting(int64_t Script::*field) {
    const std::lock_guard lock(script().mutex);
    return script().*field;
}

bool port_up() {
    const std::lock_guard lock(script().mutex);
    return script().port_up;
}

}  // namespace

bool send_all(int fd, const void* data, size_t size) {
    const char* at = static_cast<const char*>(data);
    while (size != 0) {
        const ssize_t sent = ::send(fd, at, size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) return false;
        at += sent;
        size -= static_cast<size_t>(sent);
    }
    return true;
}

bool receive_all(int fd, void* data, size_t size) {
    char* at = static_cast<char*>(data);
    while (size != 0) {
        const ssize_t got = ::recv(fd, at, size, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        at += got;
        size -= static_cast<size_t>(got);
    }
    return true;
}

UniqueFd listen_as(const ib::Gid& gid) {
    UniqueFd fd(check(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"));
    sockaddr_un address{};
    const socklen_t size = fill_address(address, gid);
    check(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size), "bind");
    check(::listen(fd.get(), 64), "listen");
    return fd;
}

// -- the requester

WireAnswer Context::exchange(QueuePair& qp, const WireRequest& request, const std::string& data, std::string& answer,
                             std::unique_lock<std::mutex>& lock) {
    const std::shared_ptr<UniqueFd> socket = qp.socket;
    if (!*socket) {
        const ib::Gid peer = qp.attr.ah_attr.grh.dgid;
        lock.unlock();
        UniqueFd made = dial(peer);
        lock.lock();
        *socket = std::move(made);
    }
    const int fd = socket->get();
    if (fd < 0 || qp.state != ib::kRts) return {kNoAnswer, 0, 0};
    lock.unlock();
    WireAnswer reply{kNoAnswer, 0, 0};
    bool whole = send_all(fd, &request, sizeof request) && send_all(fd, data.data(), data.size()) &&
                 receive_all(fd, &reply, sizeof reply) && reply.length <= request.length;
    if (whole) {
        answer.resize(reply.length);
        whole = receive_all(fd, answer.data(), answer.size());
    }
    lock.lock();
    if (!whole) {
        socket->reset();
        reply.status = kNoAnswer;
    }
    return reply;
}

// Carries out one request; its status.  The lock is given up while the peer is asked.
int Context::perform(QueuePair& qp, const Posted& posted, std::unique_lock<std::mutex>& lock) {
    const ib::SendWr& wr = posted.wr;
    const bool read = wr.opcode == ib::kRdmaRead;
    const bool inlined = !posted.inline_data.empty() || wr.num_sge == 0;
    const uint64_t length = inlined ? posted.inline_data.size() : posted.piece.length;
    const Region* local = inlined ? nullptr : find_region(qp, posted.piece.lkey, posted.piece.addr, length, read ? ib::kLocalWrite : 0);
    if (!inlined && local == nullptr) return ib::kLocProtErr;
    std::string data = posted.inline_data;
    if (!read && !inlined) data.assign(local->at(posted.piece.addr), length);
    WireRequest request{static_cast<uint32_t>(wr.opcode), qp.attr.dest_qp_num, qp.qp_num, wr.wr.rdma.rkey, wr.imm_data,
                        wr.opcode == ib::kRdmaWriteImm, wr.wr.rdma.remote_addr, length};
    const auto give_up = std::chrono::steady_clock::now() + kRetryLimit;
    while (true) {
        const bool dropped = !port_up() || script().take(&Script::drop);
        std::string answer;
        const WireAnswer reply = dropped ? WireAnswer{kNoAnswer, 0, 0} : exchange(qp, request, data, answer, lock);
        if (qp.state != ib::kRts) return ib::kFlushErr;
        if (reply.status == kNotReady && qp.attr.rnr_retry == 7) {
            changed.wait_for(lock, kRnrPause);
        } else if (reply.status == kNotReady) {
            return ib::kRnrRetryExcErr;
        } else if (reply.status == kNoAnswer) {
            if (std::chrono::steady_clock::now() > give_up) return ib::kRetryExcErr;
            changed.wait_for(lock, std::chrono::milliseconds(10));
        } else {
            if (reply.status != ib::kSuccess || !read) return reply.status;
            // It may have been deregistered meanwhile.
            local = find_region(qp, posted.piece.lkey, posted.piece.addr, length, ib::kLocalWrite);
            if (local == nullptr) return ib::kLocProtErr;
            std::memcpy(local->at(posted.piece.addr), answer.data(), answer.size());
            return ib::kSuccess;
        }
        if (stop || lost || qp.state != ib::kRts) return ib::kFlushErr;
    }
}

void Context::request_loop() {
    std::unique_lock lock(mutex);
    uint32_t turn = 0;
    while (!stop) {
        QueuePair* next = nullptr;
        if (!lost) {
            // Round robin: the first pair with work after the last one served.
            for (auto& [number, pair] : pairs)
                if (pair->state == ib::kRts && !pair->sends.empty() && (next == nullptr || (number > turn && next->qp_num <= turn))) next = pair.get();
        }
        if (next == nullptr) {
            deliver_held();
            changed.wait(lock);
            continue;
        }
        QueuePair& qp = *next;
        turn = qp.qp_num;
        qp.busy = true;
        const Posted posted = qp.sends.front();
        int status = 0;
        {
            const std::lock_guard script_lock(script().mutex);
            status = static_cast<int>(std::exchange(script().fail, 0));
            ++script().requests;
        }
        if (status == 0) status = perform(qp, posted, lock);
        if (const int64_t delay = setting(&Script::delay_us); delay > 0) {
            lock.unlock();
            std::this_thread::sleep_for(std::chrono::microseconds(delay));
            lock.lock();
        }
        qp.busy = false;
        changed.notify_all();
        if (lost || qp.state != ib::kRts) {
            if (qp.state == ib::kErr) flush(qp);
            continue;
        }
        qp.sends.pop_front();
        finish_send(qp, posted.wr, status);
        if (status != ib::kSuccess) enter_error(qp);
    }
}

// -- the responder

// What a peer asks for; with the mutex held.
WireAnswer Context::carry_out(const WireRequest& request, std::string& data) {
    const auto found = pairs.find(request.to_qpn);
    if (lost || !port_up() || found == pairs.end()) return {kNoAnswer, 0, 0};
    QueuePair& qp = *found->second;
    if ((qp.state != ib::kRts && qp.state != ib::kRtr) || qp.attr.dest_qp_num != request.from_qpn) return {kNoAnswer, 0, 0};
    const bool read = request.opcode == ib::kRdmaRead;
    const unsigned int access = read ? ib::kRemoteRead : ib::kRemoteWrite;
    Region* region = request.length == 0 ? nullptr : find_region(qp, request.rkey, request.address, request.length, access);
    if ((qp.attr.qp_access_flags & access) == 0 || (request.length != 0 && region == nullptr)) {
        enter_error(qp);
        event(ib::kQpAccessErr, &qp);
        return {ib::kRemAccessErr, 0, 0};
    }
    if (request.with_imm != 0 && (qp.receives.empty() || script().take(&Script::rnr))) return {kNotReady, 0, 0};
    if (read) {
        if (region != nullptr) data.assign(region->at(request.address), request.length);
        return {ib::kSuccess, 0, data.size()};
    }
    if (request.length != 0) std::memcpy(region->at(request.address), data.data(), data.size());
    data.clear();
    if (request.with_imm != 0) {
        ib::Wc wc{};
        wc.wr_id = qp.receives.front();
        wc.opcode = ib::kWcRecvImm;
        wc.byte_len = static_cast<uint32_t>(request.length);
        wc.imm_data = request.imm;
        wc.qp_num = qp.qp_num;
        wc.wc_flags = ib::kWithImm;
        qp.receives.pop_front();
        complete(qp, wc, true);
    }
    return {ib::kSuccess, 0, 0};
}

bool Context::answer(int fd) {
    WireRequest request{};
    if (!receive_all(fd, &request, sizeof request) || request.length > (uint64_t{1} << 31)) return false;
    std::string data(request.opcode == ib::kRdmaRead ? 0 : request.length, '\0');
    if (!receive_all(fd, data.data(), data.size())) return false;
    WireAnswer reply{};
    {
        const std::lock_guard lock(mutex);
        reply = carry_out(request, data);
    }
    return send_all(fd, &reply, sizeof reply) && send_all(fd, data.data(), reply.length);
}

void Context::respond_loop() {
    std::vector<UniqueFd> peers;
    while (true) {
        std::vector<pollfd> fds{{listener.get(), POLLIN, 0}, {waker.get(), POLLIN, 0}};
        for (const UniqueFd& peer : peers) fds.push_back({peer.get(), POLLIN, 0});
        if (::poll(fds.data(), fds.size(), -1) < 0 && errno != EINTR) return;
        if (fds[1].revents != 0) return;
        for (size_t index = fds.size(); index > 2; --index)
            if (fds[index - 1].revents != 0 && !answer(fds[index - 1].fd)) peers.erase(peers.begin() + static_cast<ptrdiff_t>(index - 3));
        if (fds[0].revents != 0) {
            UniqueFd peer(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
            const timeval limit{5, 0};  // a peer that takes no answer does not hold up the others for ever
            if (peer) ::setsockopt(peer.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
            if (peer) peers.push_back(std::move(peer));
        }
    }
}

}  // namespace spoke::fake

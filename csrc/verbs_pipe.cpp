#include "verbs_pipe.h"

#include <arpa/inet.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>

namespace spoke {
namespace {

constexpr uint32_t kCreditOnly = 1u << 31;
constexpr uint32_t kCountMask = 0xffffff;
constexpr uint32_t kSends = 2 * kSlots;
constexpr uint32_t kReceives = kSlots + 16;  // credits alone come at most twice per ring
constexpr uint32_t kInlineBytes = 128;       // a small call; needs no look at its memory's registration
constexpr size_t kPage = 4096;
constexpr size_t kAddressBytes = QpAddress::kBytes + 20;
constexpr size_t kKeepBacklog = 1 << 20;

}  // namespace

Pipe::Pipe(std::shared_ptr<Engine> engine)
    : queue_(engine->device(), kSends + kReceives),
      pair_(engine, {kSends, kReceives, ib::kRemoteWrite, kInlineBytes, &queue_, std::make_shared<Domain>(engine->device())}),
      alarm_(check(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd")),
      epoll_(check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")),
      memory_(2 * size_t{kSlots} * kSlotBytes + kPage) {
    watch(queue_.fd());
    watch(alarm_.get());
    ring_ = memory_.data() + (kPage - reinterpret_cast<uintptr_t>(memory_.data()) % kPage) % kPage;
    staging_ = ring_ + size_t{kSlots} * kSlotBytes;
    const auto& domain = pair_.domain();
    ring_region_ = std::make_unique<Region>(domain, ring_, size_t{kSlots} * kSlotBytes, ib::kLocalWrite | ib::kRemoteWrite);
    staging_region_ = std::make_unique<Region>(domain, staging_, size_t{kSlots} * kSlotBytes, 0);
    for (uint32_t index = 0; index < kReceives; ++index) pair_.post_receive(wr_id(true, index));
    number_ = pair_.engine()->attach(this, 0);
}

Pipe::~Pipe() {
    pair_.engine()->detach(number_, 0);
    pair_.destroy();  // before the memory and the queue go
}

void Pipe::watch(int fd) {
    epoll_event event{};
    event.events = EPOLLIN;
    check(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event), "watching a pipe");
}

std::string Pipe::address() const {
    std::string text = pair_.address().pack();
    const uint64_t ring = ring_region_->address();
    const uint32_t rest[3] = {ring_region_->rkey(), kSlots, kSlotBytes};
    text.append(reinterpret_cast<const char*>(&ring), sizeof ring);
    text.append(reinterpret_cast<const char*>(rest), sizeof rest);
    return text;
}

void Pipe::connect(const std::string& peer) {
    if (peer.size() != kAddressBytes) throw SysError(EPROTO, "a pipe's address has " + std::to_string(kAddressBytes) + " bytes, not " + std::to_string(peer.size()));
    uint64_t ring = 0;
    uint32_t rest[3];
    std::memcpy(&ring, peer.data() + QpAddress::kBytes, sizeof ring);
    std::memcpy(rest, peer.data() + QpAddress::kBytes + sizeof ring, sizeof rest);
    if (rest[1] != kSlots || rest[2] != kSlotBytes) throw SysError(EPROTO, "the peer's ring has another shape");
    const QpAddress address = QpAddress::unpack(peer.substr(0, QpAddress::kBytes));
    const std::lock_guard lock(mutex_);
    if (!failed_.empty()) throw SysError(ENOTCONN, failed_);
    pair_.connect(address);
    peer_ring_ = ring;
    peer_key_ = rest[0];
    connected_ = true;
    pump();
}

uint64_t Pipe::messages() {
    const std::lock_guard lock(mutex_);
    return messages_;
}

// -- sending

int64_t Pipe::queued() {
    const std::lock_guard lock(mutex_);
    return static_cast<int64_t>(backlog_.size() - backlog_begin_);
}

int64_t Pipe::send(std::span<const std::span<const char>> pieces, bool hold) {
    const std::lock_guard lock(mutex_);
    for (const auto& piece : pieces) backlog_.append(piece.data(), piece.size());
    if (!hold) pump();
    return static_cast<int64_t>(backlog_.size() - backlog_begin_);
}

void Pipe::flush() {
    const std::lock_guard lock(mutex_);
    pump();
}

// Writes as much of the backlog as there is credit for.
void Pipe::pump() {
    while (connected_ && failed_.empty() && backlog_begin_ < backlog_.size() && sent_ - peer_emptied_ < kSlots && pair_.room() > 1) {
        const auto length = static_cast<uint32_t>(std::min<size_t>(kSlotBytes, backlog_.size() - backlog_begin_));
        std::memcpy(staging_ + size_t{sent_ % kSlots} * kSlotBytes, backlog_.data() + backlog_begin_, length);
        lengths_[sent_ % kSlots] = length;
        backlog_begin_ += length;
        post(length, false);
    }
    if (backlog_begin_ == backlog_.size()) {
        backlog_begin_ = 0;
        backlog_.clear();
        if (backlog_.capacity() > kKeepBacklog) backlog_.shrink_to_fit();
    }
    if (connected_ && failed_.empty() && emptied_ - told_ >= kSlots / 2 && pair_.room() > 0) post(0, true);
}

void Pipe::post(uint32_t length, bool credit_only) {
    const uint32_t index = pair_.posted();
    const size_t slot = size_t{sent_ % kSlots} * kSlotBytes;
    ib::Sge piece{reinterpret_cast<uint64_t>(staging_) + slot, length, staging_region_->lkey()};
    ib::SendWr wr{};
    wr.wr_id = wr_id(false, index);
    wr.sg_list = credit_only ? nullptr : &piece;
    wr.num_sge = credit_only ? 0 : 1;
    wr.opcode = ib::kRdmaWriteImm;
    wr.send_flags = pair_.signal_due(index) ? static_cast<unsigned int>(ib::kSignaled) : 0u;
    if (!credit_only && length <= pair_.inline_bytes()) wr.send_flags |= static_cast<unsigned int>(ib::kInline);
    wr.imm_data = htonl((credit_only ? kCreditOnly : 0u) | (emptied_ & kCountMask));
    wr.wr.rdma.remote_addr = peer_ring_ + (credit_only ? 0 : slot);
    wr.wr.rdma.rkey = peer_key_;
    told_ = emptied_;
    if (!credit_only) {
        ++sent_;
        ++messages_;
    }
    try {
        pair_.post(&wr, 1);
    } catch (const SysError& error) {
        fail(error.what());
    }
}

// -- receiving

size_t Pipe::pending() {
    const std::lock_guard lock(mutex_);
    serve();
    return arrived_bytes_;
}

// Takes all completions, and leaves the queue armed.
void Pipe::serve() {
    if (!failed_.empty()) return;
    queue_.take_event();
    std::array<ib::Wc, 16> batch;
    for (bool armed = false; failed_.empty();) {
        const int count = queue_.poll(batch.data(), static_cast<int>(batch.size()));
        for (int index = 0; index < count; ++index) completed_one(batch[static_cast<size_t>(index)]);
        if (count > 0) continue;
        if (armed) break;
        queue_.arm();
        armed = true;  // once more: one that came before the arming gives no event
    }
    pump();
}

void Pipe::completed_one(const ib::Wc& wc) {
    if (!failed_.empty()) return;  // what follows a failure was flushed, and is sent again by another way
    const bool receive = (wc.wr_id >> 31 & 1) != 0;
    if (wc.status != ib::kSuccess)
        fail(describe_failure(*pair_.engine(), receive ? "receiving a call" : "RDMA WRITE", wc, pair_.number()));
    else if (receive)
        received(wc);
    else
        pair_.retire(static_cast<uint32_t>(wc.wr_id));
}

void Pipe::received(const ib::Wc& wc) {
    const uint32_t imm = ntohl(wc.imm_data);
    const uint32_t step = ((imm & kCountMask) - peer_emptied_) & kCountMask;
    if (step > sent_ - peer_emptied_ || wc.byte_len > kSlotBytes || ((imm & kCreditOnly) == 0 && arrived_count_ - emptied_ >= kSlots)) {
        fail("the peer broke the rules of the ring");
        return;
    }
    peer_emptied_ += step;
    if ((imm & kCreditOnly) == 0) {
        arrived_.push_back({arrived_count_ % kSlots, 0, wc.byte_len});
        ++arrived_count_;
        arrived_bytes_ += wc.byte_len;
    }
    try {
        pair_.post_receive(wc.wr_id);
    } catch (const SysError& error) {
        fail(error.what());
    }
}

size_t Pipe::take(char* into, size_t size) {
    const std::lock_guard lock(mutex_);
    size_t done = 0;
    while (done < size && !arrived_.empty()) {
        Arrived& next = arrived_.front();
        const size_t part = std::min<size_t>(size - done, next.end - next.begin);
        std::memcpy(into + done, ring_ + size_t{next.slot} * kSlotBytes + next.begin, part);
        next.begin += static_cast<uint32_t>(part);
        done += part;
        if (next.begin == next.end) {
            arrived_.pop_front();
            ++emptied_;
        }
    }
    arrived_bytes_ -= done;
    pump();  // credit alone, where half of the ring was emptied
    return done;
}

// -- the end

std::string Pipe::failure() {
    const std::lock_guard lock(mutex_);
    return failed_;
}

void Pipe::fail(const std::string& why) {
    if (!failed_.empty()) return;
    failed_ = why;
    pair_.stop();
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = ::write(alarm_.get(), &one, sizeof one);
}

void Pipe::close(const std::string& why) {
    const std::lock_guard lock(mutex_);
    fail(why);
}

// What was received after the last look does not count, and is received by the other way.
uint32_t Pipe::finish(const std::string& why) {
    const std::lock_guard lock(mutex_);
    fail(why);
    return arrived_count_;
}

bool Pipe::unreceived(uint32_t count, std::vector<std::span<const char>>& pieces) {
    const std::lock_guard lock(mutex_);
    if (sent_ - count > sent_ - peer_emptied_) return false;  // not sent yet, or emptied already
    for (uint32_t run = count; run != sent_; ++run)
        pieces.emplace_back(staging_ + size_t{run % kSlots} * kSlotBytes, lengths_[run % kSlots]);
    if (backlog_begin_ < backlog_.size()) pieces.emplace_back(backlog_.data() + backlog_begin_, backlog_.size() - backlog_begin_);
    return true;
}

}  // namespace spoke

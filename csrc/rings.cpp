// Rings, as the poller sees them: it looks into them before it sleeps, and stays awake for them a while.
#include <algorithm>

#include <sched.h>
#include <sys/epoll.h>

#include <ctime>

#include "connection.h"
#include "reactor.h"
#include "ring.h"

namespace spoke {

namespace {

constexpr size_t kMaxEvents = 256;        // soft: no further ring is read beyond it
constexpr int kLooksPerClock = 16;        // into the rings, between two looks at the clock
constexpr int64_t kStolenNs = 100'000;    // so long between two looks: another program had this CPU
constexpr uint32_t kMaxMissed = 63;       // waits without spinning after spins that found nothing
constexpr uint32_t kMaxStolen = 4095;     // after spins that were interrupted

int64_t now_ns() {
    struct timespec now {};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace

// A descriptor goes by the socket, ahead of its frame, in a frame of its own.
void Reactor::send_carrier(Connection& conn, int fd) {
    char bytes[kHeader + 1];
    put_header(bytes, 1, 0);
    bytes[kHeader] = kCarrier;
    const Piece carrier[] = {Piece(bytes, sizeof bytes)};
    if (!conn.outbox.send(conn.fd.get(), carrier, fd)) fail(conn);
    else if (conn.outbox.bytes() != 0) arm(conn, true);
}

// What the ring brought so far, cut into frames; what comes meanwhile as well where `all` is wanted.
void Reactor::receive_ring(Connection& conn, Ring& ring, Batch& batch, bool all) {
    for (size_t size = ring.pending(); size != 0 && !conn.dropped; size = all ? ring.pending() : 0)
        take_from(conn, ring, size, batch);
    if (ring.failed() && !conn.dropped) end(conn, ring.failure(), batch);
}

// The rings as they are now; the poller keeps them alive until it looks again.
void Reactor::find_rings() {
    rings_.clear();
    hot_ = nullptr;
    const std::lock_guard lock(table_mutex_);
    for (const auto& [id, source] : table_) {
        if (source->kind != SourceKind::kTunnel) continue;
        const auto& carrier = static_cast<const TunnelSource&>(*source);
        const auto found = table_.find(carrier.carried);
        if (carrier.tunnel->ring() == nullptr || found == table_.end()) continue;
        rings_.push_back({carrier.tunnel, carrier.tunnel->ring(), std::static_pointer_cast<Connection>(found->second)});
    }
}

// Takes what lies in the rings.
void Reactor::receive_rings(Batch& batch) {
    for (const RingInUse& used : rings_) {
        if (batch.events.size() >= kMaxEvents) return;  // what is left is found at the next turn
        if (!used.ring->ready() || used.conn->dropped) continue;
        hot_ = used.ring;
        receive_ring(*used.conn, *used.ring, batch, false);
    }
}

bool Reactor::rings_ready() const {
    for (const RingInUse& used : rings_)
        if (used.ring->ready()) return true;
    return false;
}

// Stays awake for `limit_us` at most, for an answer that comes from another CPU; true when one is there.
bool Reactor::spin(int64_t limit_us) {
    const int cpu = ::sched_getcpu();
    hot_->tell_cpu(cpu);
    // Where the peer needs this very CPU, waiting awake keeps it from answering.
    if (hot_->peer_cpu() == cpu || hot_->peer_sleeps()) return false;
    if (unspun_ < spin_pause_) {
        ++unspun_;
        return false;
    }
    unspun_ = 0;
    const int64_t begin = now_ns();
    for (int64_t last = begin;;) {
        for (int i = 0; i < kLooksPerClock; ++i) {
            if (rings_ready()) {
                spin_pause_ = 0;
                return true;
            }
            relax();
        }
        const int64_t now = now_ns();
        if (now - last > kStolenNs) {
            spin_pause_ = std::min(2 * spin_pause_ + 15, kMaxStolen);
            return false;
        }
        if (now - begin > limit_us * 1000 || hot_->peer_sleeps()) {
            spin_pause_ = std::max(std::min(2 * spin_pause_ + 1, kMaxMissed), spin_pause_);
            return false;
        }
        last = now;
    }
}

// Tells the peers that the poller sleeps from here on; false where something is in a ring already.
bool Reactor::doze() {
    bool quiet = true;
    for (const RingInUse& used : rings_) quiet = !used.ring->doze() && quiet;
    return quiet;
}

void Reactor::rouse() {
    for (const RingInUse& used : rings_) used.ring->rouse();
}

}  // namespace spoke

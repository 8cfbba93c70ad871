// Frames out of bytes: what a connection received, by its socket or by a tunnel, becomes events.
#include <sys/epoll.h>

#include <algorithm>

#include "connection.h"
#include "reactor.h"

namespace spoke {

// -- tunnels

void Reactor::divert(int id, std::shared_ptr<Tunnel> tunnel, Piece last) {
    const auto conn = connection(id);
    if (!conn) throw SysError(ENOTCONN, "the connection is gone");
    const std::lock_guard lock(conn->send_mutex);
    if (!last.empty()) {
        char header[kHeader];
        put_header(header, last.size(), 0);
        const Piece pieces[] = {Piece(header, kHeader), last};
        if (send_frame(*conn, pieces, -1, false) < 0) throw SysError(ENOTCONN, "the connection is gone");
    }
    conn->tunnel = std::move(tunnel);
    conn->diverted = true;
}

void Reactor::receive_from(int id, std::shared_ptr<Tunnel> tunnel) {
    const auto conn = connection(id);
    if (!conn) throw SysError(ENOTCONN, "the connection is gone");
    {
        const std::lock_guard lock(conn->send_mutex);
        conn->tunnel = tunnel;
    }
    const bool is_ring = tunnel->ring() != nullptr;
    // A ring's bell is an eventfd that nobody reads.
    const uint32_t events = is_ring ? EPOLLIN | static_cast<uint32_t>(EPOLLET) : static_cast<uint32_t>(EPOLLIN);
    conn->tunnel_source = add(std::make_shared<TunnelSource>(tunnel, id), events);
    if (is_ring) rings_changed_ = true;
    if (conn->marked_early) tunnel->close("the peer's end failed");  // the poller sees it fail, and resumes
}

// All that the tunnel brought so far, cut into frames behind those of the socket.
void Reactor::receive_tunnel(Connection& conn, Batch& batch) {
    const std::shared_ptr<Tunnel> tunnel = conn.tunnel;
    if (Ring* ring = tunnel->ring()) {
        receive_ring(conn, *ring, batch, true);
        return;
    }
    const size_t size = tunnel->pending();
    const std::string failure = tunnel->failure();
    take_from(conn, *tunnel, size, batch);
    if (!failure.empty() && !conn.dropped) resume(conn, failure, batch);
}

void Reactor::take_from(Connection& conn, Tunnel& tunnel, size_t size, Batch& batch) {
    if (size == 0 || conn.dropped) return;
    Incoming& in = conn.by_tunnel;
    const size_t kept = in.large ? 0 : in.partial.size();
    char* tail = batch.tail(kept + size);
    if (kept != 0) std::memcpy(tail, in.partial.data(), kept);
    tunnel.take(tail + kept, size);
    in.partial.clear();
    if (in.large) continue_large(conn, in, batch, size);
    else parse(conn, in, batch, batch.used, kept + size);
}

// -- a tunnel that failed
//
// Each end sends a mark by the socket: how many runs it took from the tunnel.  When the peer's mark has
// come, an end sends by the socket what is behind that, then all later frames.  Nothing goes by the socket
// between an end's mark and that, so what follows a mark goes on where the tunnel's bytes ended.  Nobody
// marks before both of its directions go through the tunnel; the first mark can arrive before that here.

void Reactor::marked(Connection& conn, uint32_t count, std::span<const char> rest, Batch& batch) {
    if (conn.peer_mark || conn.local) {
        end(conn, "the peer broke the rules of the tunnel", batch);
        return;
    }
    const std::vector<char> kept(rest.begin(), rest.end());  // the batch is written to
    conn.peer_mark = count;
    conn.marked_early = !conn.mark_sent && conn.tunnel_source == 0;
    if (!conn.marked_early) resume(conn, "the peer's end failed", batch);
    if (!kept.empty() && !conn.dropped) feed(conn, batch, kept);
}

void Reactor::resume(Connection& conn, const std::string& why, Batch& batch) {
    if (conn.local) {
        end(conn, why, batch);
        return;
    }
    const std::shared_ptr<Tunnel> tunnel = conn.tunnel;
    if (!conn.mark_sent) {
        {
            const std::lock_guard lock(conn.send_mutex);
            if (!conn.diverted) return;  // between the two commands of a switch: seen again at once
        }
        const uint32_t count = tunnel->finish(why);
        take_from(conn, *tunnel, tunnel->pending(), batch);
        if (conn.dropped) return;
        remove(conn.tunnel_source.exchange(0));
        conn.mark_sent = true;
        send_mark(conn, count);
        batch.add_text(Event(EventKind::kResumed, conn.id), why);
    }
    if (conn.peer_mark && !undivert(conn)) end(conn, "the peer broke the rules of the tunnel", batch);
}

void Reactor::send_mark(Connection& conn, uint32_t count) {
    char mark[kHeader];
    store_u32(mark, kMark);
    store_u32(mark + 4, count);
    const Piece piece(mark, kHeader);
    const std::lock_guard lock(conn.send_mutex);
    if (conn.broken) return;
    if (!conn.outbox.send(conn.fd.get(), {&piece, 1}, -1)) fail(conn);
    else if (conn.outbox.bytes() != 0) arm(conn, true);
}

// Both marks are known: from here on everything goes by the socket.
bool Reactor::undivert(Connection& conn) {
    const std::lock_guard lock(conn.send_mutex);
    std::vector<Piece> pieces;
    if (!conn.tunnel->unreceived(*conn.peer_mark, pieces)) return false;
    conn.diverted = conn.mark_sent = conn.marked_early = false;
    conn.peer_mark.reset();
    conn.by_socket = std::exchange(conn.by_tunnel, {});
    if (!conn.broken && !pieces.empty()) {
        if (!conn.outbox.send(conn.fd.get(), pieces, -1)) fail(conn);
        else if (conn.outbox.bytes() != 0) arm(conn, true);
    }
    conn.tunnel.reset();  // the pieces lie in it
    return true;
}

// -- frames

// Cuts frames out of `size` bytes at `begin` (the end of what the batch uses), or, when there are
// none, out of those kept from an earlier call.  An incomplete rest is kept in the connection.
void Reactor::parse(Connection& conn, Incoming& in, Batch& batch, size_t begin, size_t size) {
    if (size == 0) {
        size = in.partial.size();
        std::memcpy(batch.tail(size), in.partial.data(), size);
        in.partial.clear();
    }
    size_t at = begin;
    const size_t stop = begin + size;
    bool delivered = false;
    while (stop - at >= kHeader && !conn.dropped.load(std::memory_order_relaxed)) {
        const uint32_t meta = load_u32(batch.bytes.data() + at);
        const uint32_t payload = load_u32(batch.bytes.data() + at + 4);
        if (meta == kMark && &in == &conn.by_socket && !conn.local) {
            batch.used = at + kHeader;
            marked(conn, payload, {batch.bytes.data() + batch.used, stop - batch.used}, batch);
            return;
        }
        const uint64_t body = uint64_t{meta} + payload;
        if (const uint64_t limit = conn.limit; body > limit) {
            if (delivered && &in == &conn.by_socket) {
                // The frame before may be the one that makes the caller raise the limit.
                recheck_.push_back(conn.id);
                break;
            }
            batch.used = at;
            const std::string sizes = std::to_string(body) + " bytes exceeds the limit of " + std::to_string(limit);
            end(conn, "a frame of " + sizes, batch);
            return;
        }
        if (meta > kInlinePayload || payload > kInlinePayload) {
            batch.used = at + kHeader;
            if (begin_large(conn, in, meta, payload, batch)) continue_large(conn, in, batch, stop - batch.used);
            return;
        }
        if (stop - at < kHeader + body) break;
        if (body == 1 && meta == 1 && batch.bytes.data()[at + kHeader] == kCarrier && conn.local) {
            at += kHeader + body;
            continue;
        }
        Event event(EventKind::kFrame, conn.id);
        event.meta_offset = at + kHeader;
        event.meta_size = meta;
        event.payload_offset = event.meta_offset + meta;
        event.payload_size = payload;
        batch.events.push_back(std::move(event));
        if (conn.until_busy != 0 && --conn.until_busy == 0) batch.events.push_back(Event(EventKind::kBusy, conn.id));
        delivered = true;
        at += kHeader + body;
    }
    batch.used = at;
    in.partial.assign(batch.bytes.data() + at, batch.bytes.data() + stop);
}

// Fills the large frame just begun with its part of the `size` bytes behind those used.
void Reactor::continue_large(Connection& conn, Incoming& in, Batch& batch, size_t size) {
    const char* from = batch.bytes.data() + batch.used;
    const size_t mine = std::min(size, in.large->missing());
    std::span<char> places[2];
    const size_t count = in.large->places(places);
    for (size_t i = 0, done = 0; i < count && done < mine; ++i) {
        const size_t part = std::min(places[i].size(), mine - done);
        std::memcpy(places[i].data(), from + done, part);
        done += part;
    }
    in.large->received += mine;
    batch.used += mine;
    if (in.large->missing() != 0) return;
    // Complete already (its meta is large, or it came behind others).  What follows makes room for
    // what finish_large puts into the batch.
    const std::vector<char> rest(from + mine, from + size);
    finish_large(conn, in, batch);
    if (rest.empty()) return;
    std::memcpy(batch.tail(rest.size()), rest.data(), rest.size());
    parse(conn, in, batch, batch.used, rest.size());
}

// Bytes that follow what the socket brought, from elsewhere than its own buffer.
void Reactor::feed(Connection& conn, Batch& batch, std::span<const char> bytes) {
    Incoming& in = conn.by_socket;
    const size_t kept = in.large ? 0 : in.partial.size();
    char* tail = batch.tail(kept + bytes.size());
    if (kept != 0) std::memcpy(tail, in.partial.data(), kept);
    std::memcpy(tail + kept, bytes.data(), bytes.size());
    in.partial.clear();
    if (in.large) continue_large(conn, in, batch, bytes.size());
    else parse(conn, in, batch, batch.used, kept + bytes.size());
}

bool Reactor::begin_large(Connection& conn, Incoming& in, uint32_t meta, uint32_t payload, Batch& batch) {
    try {
        auto frame = std::make_unique<LargeFrame>();
        frame->meta = RawBuffer(std::max<size_t>(meta, 1));
        frame->meta_size = meta;
        frame->payload = std::make_unique<RawBuffer>(std::max<size_t>(payload, 1));
        frame->payload_size = payload;
        in.large = std::move(frame);
        return true;
    } catch (const std::bad_alloc&) {
        end(conn, "no memory for a frame of " + std::to_string(uint64_t{meta} + payload) + " bytes", batch);
        return false;
    }
}

// Turns the frame that is complete into an event; its meta is copied to the end of the batch.
void Reactor::finish_large(Connection& conn, Incoming& in, Batch& batch) {
    const auto frame = std::move(in.large);
    Event event(EventKind::kFrame, conn.id);
    std::memcpy(batch.tail(frame->meta_size), frame->meta.data(), frame->meta_size);
    event.meta_offset = batch.used;
    event.meta_size = frame->meta_size;
    batch.used += frame->meta_size;
    event.payload_size = frame->payload_size;
    event.payload_offset = batch.used;
    if (frame->separate()) {
        event.large = std::move(frame->payload);
    } else {
        std::memcpy(batch.tail(frame->payload_size), frame->payload->data(), frame->payload_size);
        batch.used += frame->payload_size;
    }
    batch.events.push_back(std::move(event));
}

}  // namespace spoke

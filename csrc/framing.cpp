// Frames out of bytes: what a connection received, by its socket or by a tunnel, becomes events.
#include <sys/epoll.h>

#include <algorithm>

#include "connection.h"
#include "reactor.h"

namespace spoke {

// -- tunnels

void Reactor::divert(int id, std::shared_ptr<Tunnel> tunnel) {
    const auto conn = connection(id);
    if (!conn) throw SysError(ENOTCONN, "the connection is gone");
    const std::lock_guard lock(conn->send_mutex);
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
    conn->tunnel_source = add(std::make_shared<TunnelSource>(std::move(tunnel), id), EPOLLIN);
}

// All that the tunnel brought so far, cut into frames behind those of the socket.
void Reactor::receive_tunnel(Connection& conn, Batch& batch) {
    Tunnel& tunnel = *conn.tunnel;
    size_t size = tunnel.pending();
    const std::string failure = tunnel.failure();
    while (size != 0 && !conn.dropped) {
        if (conn.large) {
            char* tail = batch.tail(size);
            tunnel.take(tail, size);
            continue_large(conn, batch, size);
        } else {
            const size_t kept = conn.partial.size();
            char* tail = batch.tail(kept + size);
            if (kept != 0) std::memcpy(tail, conn.partial.data(), kept);
            tunnel.take(tail + kept, size);
            conn.partial.clear();
            parse(conn, batch, batch.used, kept + size);
        }
        size = tunnel.pending();
    }
    if (!failure.empty() && !conn.dropped) end(conn, failure, batch);
}

// -- frames

// Cuts frames out of `size` bytes at `begin` (the end of what the batch uses), or, when there are
// none, out of those kept from an earlier call.  An incomplete rest is kept in the connection.
void Reactor::parse(Connection& conn, Batch& batch, size_t begin, size_t size) {
    if (size == 0) {
        size = conn.partial.size();
        std::memcpy(batch.tail(size), conn.partial.data(), size);
        conn.partial.clear();
    }
    size_t at = begin;
    const size_t stop = begin + size;
    bool delivered = false;
    while (stop - at >= kHeader && !conn.dropped.load(std::memory_order_relaxed)) {
        const uint32_t meta = load_u32(batch.bytes.data() + at);
        const uint32_t payload = load_u32(batch.bytes.data() + at + 4);
        const uint64_t body = uint64_t{meta} + payload;
        if (const uint64_t limit = conn.limit; body > limit) {
            if (delivered) {
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
            if (begin_large(conn, meta, payload, batch)) continue_large(conn, batch, stop - batch.used);
            return;
        }
        if (stop - at < kHeader + body) break;
        Event event(EventKind::kFrame, conn.id);
        event.meta_offset = at + kHeader;
        event.meta_size = meta;
        event.payload_offset = event.meta_offset + meta;
        event.payload_size = payload;
        batch.events.push_back(std::move(event));
        delivered = true;
        at += kHeader + body;
    }
    batch.used = at;
    conn.partial.assign(batch.bytes.data() + at, batch.bytes.data() + stop);
}

// Fills the large frame just begun with its part of the `size` bytes behind those used.
void Reactor::continue_large(Connection& conn, Batch& batch, size_t size) {
    const char* from = batch.bytes.data() + batch.used;
    const size_t mine = std::min(size, conn.large->missing());
    std::span<char> places[2];
    const size_t count = conn.large->places(places);
    for (size_t i = 0, done = 0; i < count && done < mine; ++i) {
        const size_t part = std::min(places[i].size(), mine - done);
        std::memcpy(places[i].data(), from + done, part);
        done += part;
    }
    conn.large->received += mine;
    batch.used += mine;
    if (conn.large->missing() != 0) return;
    // Complete already (its meta is large, or it came behind others).  What follows makes room for
    // what finish_large puts into the batch.
    const std::vector<char> rest(from + mine, from + size);
    finish_large(conn, batch);
    if (rest.empty()) return;
    std::memcpy(batch.tail(rest.size()), rest.data(), rest.size());
    parse(conn, batch, batch.used, rest.size());
}

bool Reactor::begin_large(Connection& conn, uint32_t meta, uint32_t payload, Batch& batch) {
    try {
        auto frame = std::make_unique<LargeFrame>();
        frame->meta = RawBuffer(std::max<size_t>(meta, 1));
        frame->meta_size = meta;
        frame->payload = std::make_unique<RawBuffer>(std::max<size_t>(payload, 1));
        frame->payload_size = payload;
        conn.large = std::move(frame);
        return true;
    } catch (const std::bad_alloc&) {
        end(conn, "no memory for a frame of " + std::to_string(uint64_t{meta} + payload) + " bytes", batch);
        return false;
    }
}

// Turns the frame that is complete into an event; its meta is copied to the end of the batch.
void Reactor::finish_large(Connection& conn, Batch& batch) {
    const auto frame = std::move(conn.large);
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

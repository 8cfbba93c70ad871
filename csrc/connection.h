// State of one source of events: a listener, a watched descriptor, or a connection with its
// outgoing queue and its half-received frame.
//
// Rules: `outbox` and what belongs to it are guarded by `send_mutex`; the receiving half belongs
// to the polling thread; received descriptors have their own lock because any thread takes them.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "raii.h"
#include "tunnel.h"

namespace spoke {

using Piece = std::span<const char>;

constexpr size_t kInlinePayload = 64 * 1024;    // a larger payload gets a buffer of its own
constexpr size_t kHeader = 8;                // of a frame: u32 meta_bytes, u32 payload_bytes
constexpr uint32_t kMark = UINT32_MAX;       // in place of meta_bytes: a mark of framing.cpp, its count behind it
constexpr char kCarrier = '\xc1';            // all of a frame that only brings a descriptor; no message begins so
constexpr uint64_t kFirstFrameLimit = 64 * 1024;  // meta and payload, until the peer is trusted

inline void store_u32(char* at, uint32_t value) {
    for (int i = 0; i < 4; ++i) at[i] = static_cast<char>(value >> (8 * i));
}

inline uint32_t load_u32(const char* at) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(at);
    return static_cast<uint32_t>(bytes[0]) | static_cast<uint32_t>(bytes[1]) << 8 |
           static_cast<uint32_t>(bytes[2]) << 16 | static_cast<uint32_t>(bytes[3]) << 24;
}

enum class SourceKind { kWake, kListener, kWatch, kConnection, kTunnel };

struct Source {
    Source(SourceKind source_kind, UniqueFd own) : kind(source_kind), fd(std::move(own)) {}
    virtual ~Source() {
        if (kind == SourceKind::kWatch || kind == SourceKind::kTunnel) fd.release();  // the caller's
    }
    Source(const Source&) = delete;
    Source& operator=(const Source&) = delete;

    const SourceKind kind;
    UniqueFd fd;
    int id = 0;
    bool local = false;  // a unix socket: descriptors travel, and the peer's user is known
};

// The descriptor of a tunnel; its frames are those of the connection that it carries.
struct TunnelSource : Source {
    TunnelSource(std::shared_ptr<Tunnel> own, int connection)
        : Source(SourceKind::kTunnel, UniqueFd(own->fd())), tunnel(std::move(own)), carried(connection) {}
    const std::shared_ptr<Tunnel> tunnel;
    const int carried;
};

// Bytes that the socket did not take yet.
struct Chunk {
    RawBuffer data;
    size_t begin = 0;
    size_t end = 0;
    UniqueFd fd;  // travels with the first byte
};

class Outbox {
  public:
    // Writes what the socket takes and queues the rest.  False: the peer is gone.
    bool send(int socket, std::span<const Piece> pieces, int fd);
    // Queues without writing.
    void hold(std::span<const Piece> pieces, int fd) { queue(pieces, 0, fd); }
    // Writes queued bytes.  False: the peer is gone.
    bool flush(int socket);
    size_t bytes() const noexcept { return bytes_; }
    void clear();

  private:
    void queue(std::span<const Piece> pieces, size_t skip, int fd);

    std::deque<Chunk> chunks_;
    size_t bytes_ = 0;
};

// A frame too large for the batch, while it is being received.
struct LargeFrame {
    RawBuffer meta;
    size_t meta_size = 0;
    std::unique_ptr<RawBuffer> payload;
    size_t payload_size = 0;
    size_t received = 0;  // of meta and payload together

    bool separate() const noexcept { return payload_size > kInlinePayload; }
    // Bytes that go into the batch when the frame is complete.
    size_t in_batch() const noexcept { return meta_size + (separate() ? 0 : payload_size); }
    size_t missing() const noexcept { return meta_size + payload_size - received; }
    // Where the next bytes go: at most two places.
    size_t places(std::span<char> (&result)[2]) const noexcept;
};

// The half-received end of one stream of frames.
struct Incoming {
    std::vector<char> partial;  // the beginning of a small frame
    std::unique_ptr<LargeFrame> large;
};

struct Connection : Source {
    Connection(UniqueFd own, bool is_local) : Source(SourceKind::kConnection, std::move(own)) { local = is_local; }

    std::atomic<uint64_t> limit{kFirstFrameLimit};
    std::atomic<bool> dropped{false};  // by us: no more events
    std::atomic<uint32_t> until_busy{0};  // frames until the connection is reported as busy; 0: never

    std::mutex send_mutex;
    Outbox outbox;
    bool armed = false;   // the poller waits for room
    bool broken = false;  // writing failed; the poller will see the end
    bool diverted = false;  // what is sent goes through the tunnel
    std::shared_ptr<Tunnel> tunnel;
    std::atomic<int> tunnel_source{0};  // where what the tunnel brings is read

    Incoming by_socket, by_tunnel;
    // Of a tunnel that failed (framing.cpp).
    bool mark_sent = false;
    std::optional<uint32_t> peer_mark;
    std::atomic<bool> marked_early{false};  // the peer's mark came before the tunnel's first byte could

    std::mutex fds_mutex;
    std::deque<UniqueFd> fds;
    size_t fds_missed = 0;  // that come too late for their frames
};

}  // namespace spoke

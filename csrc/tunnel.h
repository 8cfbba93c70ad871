// Another way for the frames of a connection: the connection stays, as the peer's sign of life.
//
// Rules: the bytes of a tunnel are the bytes that the socket would have carried, in order, each once.
// They travel in runs.  A sender keeps each run until the receiver has used it, so where a tunnel fails,
// the connection goes on: each end says how many runs it received (`finish`), the other sends what comes
// after those by the socket (`unreceived`).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace spoke {

class Ring;

class Tunnel {
  public:
    virtual ~Tunnel() = default;
    // Readable when something arrived, or the tunnel failed.
    virtual int fd() const = 0;
    // Sends or queues all pieces, in order, also where it has failed; the bytes still queued.
    // `hold`: the peer need not be woken for them before `flush`.
    virtual int64_t send(std::span<const std::span<const char>> pieces, bool hold) = 0;
    // Wakes the peer for what was held.
    virtual void flush() {}
    // Bytes that are not sent yet.
    virtual int64_t queued() = 0;
    // Bytes that have arrived.
    virtual size_t pending() = 0;
    // Takes up to `size` of them.
    virtual size_t take(char* into, size_t size) = 0;
    // Why it failed; empty while it works.
    virtual std::string failure() = 0;
    // Nothing is sent or received any more; what arrived can still be taken.
    virtual void close(const std::string& why) = 0;
    // As `close`; how many runs were received, modulo 2^32.
    virtual uint32_t finish(const std::string& why) = 0;
    // All bytes behind the peer's first `count` runs, which stay as they are while the tunnel exists and
    // nothing is sent; false where that cannot be the peer's count.
    virtual bool unreceived(uint32_t count, std::vector<std::span<const char>>& pieces) = 0;
    // Itself, where it is one: the poller looks into rings before it sleeps.
    virtual Ring* ring() { return nullptr; }
};

}  // namespace spoke

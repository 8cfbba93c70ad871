// Another way for the frames of a connection: the connection stays, as the peer's sign of life.
//
// Rules: the bytes of a tunnel are the bytes that the socket would have carried, in order, each once.
// A tunnel that fails ends its connection; nothing is sent again by another way.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace spoke {

class Tunnel {
  public:
    virtual ~Tunnel() = default;
    // Readable when something arrived, or the tunnel failed.
    virtual int fd() const = 0;
    // Sends or queues all pieces as one run of bytes; the bytes still queued, -1 when it has failed.
    virtual int64_t send(std::span<const std::span<const char>> pieces) = 0;
    // Bytes that have arrived.
    virtual size_t pending() = 0;
    // Takes up to `size` of them.
    virtual size_t take(char* into, size_t size) = 0;
    // Why it failed; empty while it works.
    virtual std::string failure() = 0;
    // Nothing is sent or received any more.
    virtual void close(const std::string& why) = 0;
};

}  // namespace spoke

// Shared memory: a memfd mapped into this process.
//
// Rules: a Mapping is unmapped when its last user is gone (the segment and every view of it share
// it); sizes are sealed at creation, so that no peer can shrink a file under our feet and turn a
// read into SIGBUS; offsets are checked before memory is touched (std::invalid_argument).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "raii.h"

namespace spoke {

class Mapping {
  public:
    // Maps `size` bytes of `fd`, which it takes over.
    Mapping(UniqueFd fd, uint64_t size, bool writable);
    ~Mapping();
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;

    int fd() const noexcept { return fd_.get(); }
    uint64_t size() const noexcept { return size_; }
    bool writable() const noexcept { return writable_; }
    char* data() const noexcept { return data_; }
    // Address of [offset, offset + length), or std::invalid_argument.
    char* at(uint64_t offset, uint64_t length) const;

  private:
    UniqueFd fd_;
    uint64_t size_;
    bool writable_;
    char* data_;
};

using Piece = std::span<const char>;

class Segment {
  public:
    static Segment create(const std::string& name, uint64_t size);
    // Maps memory that another process made; keeps its own duplicate of `fd`.
    static Segment map(int fd, uint64_t size, bool writable);

    const std::shared_ptr<Mapping>& mapping() const noexcept { return mapping_; }
    // Copies the pieces one after the other to `offset`; the bytes copied.
    uint64_t write(uint64_t offset, std::span<const Piece> pieces) const;
    // Gives the range its pages now, so that a later write does not fault.  SysError(ENOMEM).
    void populate(uint64_t offset, uint64_t length) const;

  private:
    explicit Segment(std::shared_ptr<Mapping> mapping) : mapping_(std::move(mapping)) {}
    std::shared_ptr<Mapping> mapping_;
};

// Bytes of a mapping; keeps the mapping alive.
struct SegmentView {
    std::shared_ptr<Mapping> mapping;
    char* data;
    uint64_t length;
    bool writable;
};

// The same bytes as a view, mapped copy-on-write: writing changes no shared page.  For consumers that
// have no notion of read-only memory (torch).
class PrivateView {
  public:
    explicit PrivateView(const SegmentView& view);
    ~PrivateView();
    PrivateView(PrivateView&& other) noexcept;
    PrivateView(const PrivateView&) = delete;
    PrivateView& operator=(const PrivateView&) = delete;

    char* data() const noexcept { return data_; }
    uint64_t length() const noexcept { return length_; }

  private:
    char* base_;
    uint64_t mapped_;
    char* data_;
    uint64_t length_;
};

// Speed of one memcpy of `bytes` between two buffers that are already resident, in bytes/second.
double memcpy_rate(uint64_t bytes);

}  // namespace spoke

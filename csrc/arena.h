// Allocator of offsets over a byte range that it never touches: all bookkeeping lives beside it.
//
// Rules: one process owns an arena, any of its threads may use it; offsets and sizes are multiples
// of kGrain; neighbours that are free are always merged; memory that was handed out before (its
// pages exist, its cache lines may be warm) is preferred to memory never used, and among equal
// sizes the most recently freed is taken.  All operations are O(log blocks).
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <set>

namespace spoke {

class Arena {
  public:
    static constexpr uint64_t kGrain = 64;

    explicit Arena(uint64_t size);

    // Offset of `bytes` free bytes, or -1 when no hole is large enough.  `alignment` is a power of
    // two (std::invalid_argument otherwise); zero bytes take one grain.
    int64_t alloc(uint64_t bytes, uint64_t alignment = kGrain);
    // std::invalid_argument when `offset` is not the start of a live block.
    void free(int64_t offset);

    uint64_t size() const noexcept { return size_; }
    uint64_t used() const;
    uint64_t blocks() const;
    uint64_t largest_free() const;

  private:
    struct Hole {
        uint64_t size;
        uint64_t stamp;  // negated counter of frees: the most recent sorts first
    };
    struct Key {
        uint64_t size, stamp, offset;
        bool operator<(const Key& other) const noexcept {
            if (size != other.size) return size < other.size;
            return stamp < other.stamp;
        }
    };

    int64_t take(uint64_t offset, uint64_t bytes, uint64_t alignment);
    int64_t take_fresh(uint64_t bytes, uint64_t alignment);
    void add_hole(uint64_t offset, uint64_t size);
    void remove_hole(std::map<uint64_t, Hole>::iterator hole);

    const uint64_t size_;
    mutable std::mutex mutex_;
    uint64_t fresh_ = 0;  // [fresh_, size_) was never handed out
    uint64_t used_ = 0;
    uint64_t frees_ = 0;
    std::map<uint64_t, uint64_t> live_;  // offset -> size
    std::map<uint64_t, Hole> holes_;     // recycled holes by offset
    std::set<Key> by_size_;              // the same holes, smallest first
};

}  // namespace spoke

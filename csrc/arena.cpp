// See arena.h for the rules.
#include "arena.h"

#include <iterator>
#include <stdexcept>
#include <string>

namespace spoke {

namespace {

uint64_t round_up(uint64_t value, uint64_t alignment) { return (value + alignment - 1) & ~(alignment - 1); }

// Best-fitting holes tried for a large alignment before a hole that must fit is looked up.
constexpr int kTries = 16;

}  // namespace

Arena::Arena(uint64_t size) : size_(size & ~(kGrain - 1)) {
    if (size > (uint64_t{1} << 62)) throw std::invalid_argument("the size of an arena is at most 2**62 bytes");
}

void Arena::add_hole(uint64_t offset, uint64_t size) {
    const uint64_t stamp = ~frees_++;
    holes_.emplace(offset, Hole{size, stamp});
    by_size_.insert(Key{size, stamp, offset});
}

void Arena::remove_hole(std::map<uint64_t, Hole>::iterator hole) {
    by_size_.erase(Key{hole->second.size, hole->second.stamp, hole->first});
    holes_.erase(hole);
}

int64_t Arena::take(uint64_t offset, uint64_t bytes, uint64_t alignment) {
    const auto hole = holes_.find(offset);
    const uint64_t end = offset + hole->second.size;
    const uint64_t start = round_up(offset, alignment);
    remove_hole(hole);
    if (start > offset) add_hole(offset, start - offset);
    if (end > start + bytes) add_hole(start + bytes, end - start - bytes);
    live_.emplace(start, bytes);
    used_ += bytes;
    return static_cast<int64_t>(start);
}

int64_t Arena::take_fresh(uint64_t bytes, uint64_t alignment) {
    uint64_t begin = fresh_;
    auto last = holes_.end();
    if (!holes_.empty()) {
        last = std::prev(holes_.end());
        if (last->first + last->second.size == fresh_) begin = last->first;
        else last = holes_.end();
    }
    const uint64_t start = round_up(begin, alignment);
    if (start > size_ || bytes > size_ - start) return -1;
    if (last != holes_.end()) remove_hole(last);
    if (start > begin) add_hole(begin, start - begin);
    fresh_ = start + bytes;
    live_.emplace(start, bytes);
    used_ += bytes;
    return static_cast<int64_t>(start);
}

int64_t Arena::alloc(uint64_t bytes, uint64_t alignment) {
    if (alignment == 0 || (alignment & (alignment - 1)) != 0 || alignment > (uint64_t{1} << 40))
        throw std::invalid_argument("alignment must be a power of two up to 2**40, not " + std::to_string(alignment));
    if (bytes > size_) return -1;
    bytes = bytes == 0 ? kGrain : round_up(bytes, kGrain);
    if (alignment < kGrain) alignment = kGrain;
    const std::lock_guard lock(mutex_);
    int tries = 0;
    auto hole = by_size_.lower_bound(Key{bytes, 0, 0});
    for (; hole != by_size_.end(); ++hole) {
        if (round_up(hole->offset, alignment) + bytes <= hole->offset + hole->size)
            return take(hole->offset, bytes, alignment);
        if (++tries == kTries) {
            const auto sure = by_size_.lower_bound(Key{bytes + alignment - kGrain, 0, 0});
            if (sure != by_size_.end()) return take(sure->offset, bytes, alignment);
        }
    }
    return take_fresh(bytes, alignment);
}

void Arena::free(int64_t offset) {
    const std::lock_guard lock(mutex_);
    const auto found = offset < 0 ? live_.end() : live_.find(static_cast<uint64_t>(offset));
    if (found == live_.end())
        throw std::invalid_argument("no live block begins at offset " + std::to_string(offset));
    uint64_t begin = found->first;
    uint64_t end = begin + found->second;
    used_ -= found->second;
    live_.erase(found);
    auto next = holes_.lower_bound(begin);
    if (next != holes_.end() && next->first == end) {
        end += next->second.size;
        remove_hole(next++);
    }
    next = holes_.lower_bound(begin);
    if (next != holes_.begin()) {
        const auto previous = std::prev(next);
        if (previous->first + previous->second.size == begin) {
            begin = previous->first;
            remove_hole(previous);
        }
    }
    add_hole(begin, end - begin);
}

uint64_t Arena::used() const {
    const std::lock_guard lock(mutex_);
    return used_;
}

uint64_t Arena::blocks() const {
    const std::lock_guard lock(mutex_);
    return live_.size();
}

uint64_t Arena::largest_free() const {
    const std::lock_guard lock(mutex_);
    uint64_t tail = size_ - fresh_;
    if (!holes_.empty()) {
        const auto last = std::prev(holes_.end());
        if (last->first + last->second.size == fresh_) tail += last->second.size;
    }
    const uint64_t hole = by_size_.empty() ? 0 : by_size_.rbegin()->size;
    return hole > tail ? hole : tail;
}

}  // namespace spoke

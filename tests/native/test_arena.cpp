// Random operations on an arena against a plain model: blocks never overlap, accounting is exact,
// a hole that fits is always found, and all memory comes back as one hole.
#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "arena.h"
#include "check.h"

namespace {

constexpr uint64_t kSize = 1 << 20;

uint64_t rounded(uint64_t bytes) { return std::max<uint64_t>((bytes + 63) & ~uint64_t{63}, 64); }

// Largest gap between the model's blocks.
uint64_t largest_gap(const std::map<uint64_t, uint64_t>& blocks) {
    uint64_t best = 0;
    uint64_t at = 0;
    for (const auto& [offset, size] : blocks) {
        best = std::max(best, offset - at);
        at = offset + size;
    }
    return std::max(best, kSize - at);
}

void random_operations(uint32_t seed) {
    std::mt19937 random(seed);
    spoke::Arena arena(kSize);
    std::map<uint64_t, uint64_t> model;
    uint64_t used = 0;
    for (int step = 0; step < 20000; ++step) {
        if (random() % 100 < 55) {
            const uint64_t bytes = random() % (random() % 8 == 0 ? 100000 : 3000);
            const uint64_t alignment = uint64_t{1} << (random() % 4 == 0 ? random() % 13 : 6);
            const uint64_t gap = largest_gap(model);
            const int64_t offset = arena.alloc(bytes, alignment);
            if (offset < 0) {
                CHECK(gap < rounded(bytes) + (alignment > 64 ? alignment - 64 : 0));
                continue;
            }
            const auto begin = static_cast<uint64_t>(offset);
            const uint64_t end = begin + rounded(bytes);
            CHECK(begin % alignment == 0 && begin % 64 == 0 && end <= kSize);
            const auto next = model.lower_bound(begin);
            CHECK(next == model.end() || end <= next->first);
            CHECK(next == model.begin() || std::prev(next)->first + std::prev(next)->second <= begin);
            model.emplace(begin, end - begin);
            used += end - begin;
        } else if (!model.empty()) {
            auto victim = model.lower_bound(random() % kSize);
            if (victim == model.end()) victim = model.begin();
            arena.free(static_cast<int64_t>(victim->first));
            CHECK_THROWS(std::invalid_argument, arena.free(static_cast<int64_t>(victim->first)));
            used -= victim->second;
            model.erase(victim);
        }
        CHECK(arena.used() == used && arena.blocks() == model.size());
        if (step % 50 == 0) CHECK(arena.largest_free() == largest_gap(model));
    }
    for (const auto& [offset, size] : model) arena.free(static_cast<int64_t>(offset));
    CHECK(arena.used() == 0 && arena.blocks() == 0 && arena.largest_free() == kSize);
}

void warm_memory_first() {
    spoke::Arena arena(kSize);
    const int64_t first = arena.alloc(4096);
    const int64_t wall = arena.alloc(64);
    const int64_t second = arena.alloc(4096);
    const int64_t other_wall = arena.alloc(64);
    arena.free(first);
    arena.free(second);
    CHECK(arena.alloc(4096) == second);  // the most recently freed
    CHECK(arena.alloc(4096) == first);
    CHECK(arena.alloc(4096) > other_wall);  // only then memory never used
    static_cast<void>(wall);
}

void wrong_arguments() {
    spoke::Arena arena(1000);
    CHECK(arena.size() == 960);
    CHECK(arena.alloc(961) == -1);
    CHECK(arena.alloc(UINT64_MAX) == -1);
    CHECK(arena.alloc(960) == 0);
    CHECK(arena.alloc(0) == -1);
    CHECK_THROWS(std::invalid_argument, arena.alloc(1, 3));
    CHECK_THROWS(std::invalid_argument, arena.free(64));
    CHECK_THROWS(std::invalid_argument, arena.free(-1));
    CHECK_THROWS(std::invalid_argument, spoke::Arena(UINT64_MAX));
}

void many_threads() {
    spoke::Arena arena(kSize);
    std::vector<std::thread> threads;
    for (uint32_t seed = 0; seed < 4; ++seed)
        threads.emplace_back([&arena, seed] {
            std::mt19937 random(seed);
            std::vector<int64_t> mine;
            for (int step = 0; step < 5000; ++step) {
                if (random() % 2 == 0) {
                    if (const int64_t offset = arena.alloc(random() % 2000); offset >= 0) mine.push_back(offset);
                } else if (!mine.empty()) {
                    arena.free(mine.back());
                    mine.pop_back();
                }
            }
            for (const int64_t offset : mine) arena.free(offset);
        });
    for (auto& thread : threads) thread.join();
    CHECK(arena.used() == 0 && arena.largest_free() == kSize);
}

}  // namespace

int main() {
    for (uint32_t seed = 1; seed <= 5; ++seed) random_operations(seed);
    warm_memory_first();
    wrong_arguments();
    many_threads();
    std::puts("arena: ok");
}

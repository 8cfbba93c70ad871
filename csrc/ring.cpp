// See ring.h for the rules.
#include "ring.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>

namespace spoke {

// One direction.  What its two ends write lies in lines of their own.
struct Ring::Way {
    alignas(64) std::atomic<uint64_t> written;
    std::atomic<int32_t> cpu;  // of the writer, plus 1
    alignas(64) std::atomic<uint64_t> taken;
    alignas(64) std::atomic<uint32_t> asleep;  // the reader is, or has not looked yet
    std::atomic<uint32_t> wants_room;          // the writer does
};

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kSize = kPage + 2 * Ring::kBytes;
constexpr size_t kKeepBacklog = 1 << 20;

void sound(const UniqueFd& bell) {
    const uint64_t one = 1;
    // EAGAIN would mean 2**64 rings; nothing else can fail.
    if (::write(bell.get(), &one, sizeof one) < 0) return;
}

UniqueFd make_bell() { return UniqueFd(check(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "making an eventfd")); }

}  // namespace

Ring::Ring()
    : memory_fd_(check(::memfd_create("spoke-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING), "creating shared memory")),
      bell_in_(make_bell()),
      bell_out_(make_bell()) {
    check(::ftruncate(memory_fd_.get(), kSize), "sizing shared memory");
    check(::fcntl(memory_fd_.get(), F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL), "sealing shared memory");
    map();
    for (Way* way : {in_, out_}) way->asleep.store(1);
}

Ring::Ring(UniqueFd (&fds)[kFds])
    : memory_fd_(std::move(fds[0])), bell_in_(std::move(fds[2])), bell_out_(std::move(fds[1])) {
    struct stat info {};
    check(::fstat(memory_fd_.get(), &info), "looking at shared memory");
    // Sealed, so that the peer cannot turn a read of ours into SIGBUS.
    const int seals = check(::fcntl(memory_fd_.get(), F_GET_SEALS), "looking at shared memory");
    if (info.st_size != static_cast<off_t>(kSize) || (seals & F_SEAL_SHRINK) == 0)
        throw SysError(EPROTO, "the peer's ring has another shape");
    map();
    std::swap(in_, out_);
    std::swap(in_data_, out_data_);
    memory_fd_.reset();
}

Ring::~Ring() {
    if (memory_ != nullptr) ::munmap(memory_, kSize);
}

void Ring::map() {
    void* address = ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd_.get(), 0);
    if (address == MAP_FAILED) throw SysError(errno, "mapping shared memory");
    memory_ = static_cast<char*>(address);
    static_assert(2 * sizeof(Way) <= kPage && std::atomic<uint64_t>::is_always_lock_free);
    in_ = reinterpret_cast<Way*>(memory_);
    out_ = in_ + 1;
    in_data_ = memory_ + kPage;
    out_data_ = in_data_ + kBytes;
}

int Ring::fd_to_pass(size_t index) const {
    return (index == 0 ? memory_fd_ : index == 1 ? bell_in_ : bell_out_).get();
}

size_t Ring::room() const {
    const uint64_t filled = written_ - out_->taken.load(std::memory_order_seq_cst);
    return filled <= kBytes ? kBytes - filled : 0;
}

// Copies behind what is written; not to be seen yet.
void Ring::write(std::span<const char> piece) {
    const size_t at = written_ % kBytes;
    const size_t first = std::min(piece.size(), kBytes - at);
    if (first != 0) std::memcpy(out_data_ + at, piece.data(), first);
    if (first < piece.size()) std::memcpy(out_data_, piece.data() + first, piece.size() - first);
    written_ += piece.size();
}

// Wakes the peer if it sleeps.
void Ring::announce() {
    if (out_->asleep.load(std::memory_order_seq_cst) != 0 && out_->asleep.exchange(0) != 0) sound(bell_out_);
}

// Moves what is queued into the ring; true if some was.
bool Ring::pump() {
    size_t queued = backlog_.size() - backlog_begin_;
    bool moved = false;
    while (queued != 0) {
        size_t free = room();
        if (free == 0) {
            if (out_->wants_room.exchange(1, std::memory_order_seq_cst) != 0) break;
            free = room();  // perhaps made before the peer could see that we want it
            if (free == 0) break;
        }
        const size_t size = std::min(free, queued);
        write({backlog_.data() + backlog_begin_, size});
        out_->written.store(written_, std::memory_order_seq_cst);
        backlog_begin_ += size;
        queued -= size;
        moved = true;
    }
    if (queued == 0) {
        backlog_.clear();
        backlog_begin_ = 0;
        if (backlog_.capacity() > kKeepBacklog) backlog_.shrink_to_fit();
    }
    waits_for_room_.store(queued != 0, std::memory_order_relaxed);
    return moved;
}

int64_t Ring::send(std::span<const std::span<const char>> pieces, bool hold) {
    const std::lock_guard lock(mutex_);
    if (failed_.load(std::memory_order_relaxed)) return -1;
    size_t size = 0;
    for (const auto& piece : pieces) size += piece.size();
    if (backlog_.empty() && size <= room()) {
        for (const auto& piece : pieces) write(piece);
        out_->written.store(written_, std::memory_order_seq_cst);
    } else {
        for (const auto& piece : pieces) backlog_.insert(backlog_.end(), piece.begin(), piece.end());
        pump();
        hold = false;
    }
    if (!hold) announce();
    return static_cast<int64_t>(backlog_.size() - backlog_begin_);
}

void Ring::flush() {
    const std::lock_guard lock(mutex_);
    if (!failed_.load(std::memory_order_relaxed)) announce();
}

size_t Ring::pending() {
    if (waits_for_room_.load(std::memory_order_relaxed)) {
        const std::lock_guard lock(mutex_);
        if (pump()) announce();
    }
    const uint64_t filled = in_->written.load(std::memory_order_acquire) - taken_;
    if (filled > kBytes) {
        close("the ring's counts are broken");
        return 0;
    }
    return filled;
}

size_t Ring::take(char* into, size_t size) {
    const size_t at = taken_ % kBytes;
    const size_t first = std::min(size, kBytes - at);
    std::memcpy(into, in_data_ + at, first);
    if (first < size) std::memcpy(into + first, in_data_, size - first);
    taken_ += size;
    in_->taken.store(taken_, std::memory_order_seq_cst);
    if (in_->wants_room.load(std::memory_order_seq_cst) != 0 && in_->wants_room.exchange(0) != 0) sound(bell_out_);
    return size;
}

std::string Ring::failure() {
    if (!failed()) return {};
    const std::lock_guard lock(mutex_);
    return why_;
}

void Ring::close(const std::string& why) {
    const std::lock_guard lock(mutex_);
    if (failed_) return;
    if (pump()) announce();  // what still finds room
    why_ = why;
    failed_ = true;
}

int64_t Ring::queued() {
    const std::lock_guard lock(mutex_);
    return static_cast<int64_t>(backlog_.size() - backlog_begin_);
}

uint64_t Ring::sent() {
    const std::lock_guard lock(mutex_);
    return written_;
}

bool Ring::ready() const {
    if (in_->written.load(std::memory_order_seq_cst) != taken_) return true;
    return waits_for_room_.load(std::memory_order_relaxed) && out_->wants_room.load(std::memory_order_seq_cst) == 0;
}

bool Ring::doze() {
    in_->asleep.store(1, std::memory_order_seq_cst);
    return ready();
}

void Ring::rouse() { in_->asleep.store(0, std::memory_order_relaxed); }

bool Ring::peer_sleeps() const { return out_->asleep.load(std::memory_order_relaxed) != 0; }

int Ring::peer_cpu() const { return in_->cpu.load(std::memory_order_relaxed) - 1; }

void Ring::tell_cpu(int cpu) {
    if (out_->cpu.load(std::memory_order_relaxed) != cpu + 1) out_->cpu.store(cpu + 1, std::memory_order_relaxed);
}

}  // namespace spoke

// Owners of what the kernel hands out, and the one error type of the native layer.
//
// Rules: no Python here; a descriptor has exactly one owner; every failed system call becomes a
// SysError that carries errno and names what failed (the binding turns it into OSError).
#pragma once

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

namespace spoke {

class SysError : public std::runtime_error {
  public:
    SysError(int code, const std::string& what)
        : std::runtime_error(what + ": " + std::strerror(code)), code_(code) {}
    int code() const noexcept { return code_; }

  private:
    int code_;
};

class UniqueFd {
  public:
    UniqueFd() noexcept = default;
    explicit UniqueFd(int fd) noexcept : fd_(fd) {}
    UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
    UniqueFd& operator=(UniqueFd&& other) noexcept {
        if (this != &other) reset(other.release());
        return *this;
    }
    UniqueFd(const UniqueFd&) = delete;
    UniqueFd& operator=(const UniqueFd&) = delete;
    ~UniqueFd() { reset(); }

    int get() const noexcept { return fd_; }
    explicit operator bool() const noexcept { return fd_ >= 0; }
    int release() noexcept { return std::exchange(fd_, -1); }
    void reset(int fd = -1) noexcept {
        if (fd_ >= 0) ::close(fd_);
        fd_ = fd;
    }

  private:
    int fd_ = -1;
};

// Result of a system call, or SysError.
template <typename T>
T check(T result, const char* what) {
    if (result == static_cast<T>(-1)) throw SysError(errno, what);
    return result;
}

// Bytes that are not cleared when allocated; `grow` keeps the first `keep` of them.
class RawBuffer {
  public:
    RawBuffer() noexcept = default;
    explicit RawBuffer(size_t size) { grow(size, 0); }
    RawBuffer(RawBuffer&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    RawBuffer& operator=(RawBuffer&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        return *this;
    }
    RawBuffer(const RawBuffer&) = delete;
    RawBuffer& operator=(const RawBuffer&) = delete;
    ~RawBuffer() { std::free(data_); }

    char* data() const noexcept { return data_; }
    size_t size() const noexcept { return size_; }
    void grow(size_t size, size_t keep);

  private:
    char* data_ = nullptr;
    size_t size_ = 0;
};

inline void RawBuffer::grow(size_t size, size_t keep) {
    if (size <= size_) return;
    void* fresh = std::malloc(size);
    if (fresh == nullptr) throw std::bad_alloc();
    if (keep != 0) std::memcpy(fresh, data_, keep);
    std::free(data_);
    data_ = static_cast<char*>(fresh);
    size_ = size;
}

}  // namespace spoke

// See sockets.h for the rules.
#include "sockets.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <algorithm>
#include <chrono>
#include <memory>

namespace spoke {

namespace {

constexpr int kBacklog = 4096;
constexpr int kUnixConnectSeconds = 10;

std::string readable(const std::string& name) {
    return name.empty() || name[0] != '\0' ? "unix:" + name : "unix:@" + name.substr(1);
}

socklen_t unix_address(const std::string& name, struct sockaddr_un& address) {
    address = {};
    address.sun_family = AF_UNIX;
    if (name.empty() || name.size() >= sizeof address.sun_path)
        throw SysError(ENAMETOOLONG, "the unix socket name of " + std::to_string(name.size()) + " bytes");
    std::memcpy(address.sun_path, name.data(), name.size());
    // An abstract name is exactly its bytes; a path ends with a NUL.
    const size_t extra = name[0] == '\0' ? 0 : 1;
    return static_cast<socklen_t>(offsetof(struct sockaddr_un, sun_path) + name.size() + extra);
}

void set_nonblocking(int fd) {
    const int flags = check(::fcntl(fd, F_GETFL), "reading the flags of a socket");
    check(::fcntl(fd, F_SETFL, flags | O_NONBLOCK), "making a socket non-blocking");
}

using Addresses = std::unique_ptr<struct addrinfo, void (*)(struct addrinfo*)>;

Addresses resolve(const std::string& host, int port, bool listening) {
    if (port < 0 || port > 65535) throw SysError(EINVAL, "TCP port " + std::to_string(port));
    struct addrinfo hints {};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = listening ? AI_PASSIVE : 0;
    struct addrinfo* found = nullptr;
    const int failure =
        ::getaddrinfo(host.empty() ? nullptr : host.c_str(), std::to_string(port).c_str(), &hints, &found);
    if (failure != 0) {
        const int code = failure == EAI_SYSTEM ? errno : EHOSTUNREACH;
        throw SysError(code, "resolving host " + host + " (" + ::gai_strerror(failure) + ")");
    }
    return Addresses(found, &::freeaddrinfo);
}

// Waits for the end of a connect in progress; its errno, 0 when connected.
int await_connect(int fd, std::chrono::steady_clock::time_point deadline) {
    for (;;) {
        const auto left =
            std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
        struct pollfd entry {fd, POLLOUT, 0};
        const int ready = ::poll(&entry, 1, static_cast<int>(std::max<int64_t>(left.count(), 0)));
        if (ready < 0 && errno != EINTR) return errno;
        if (ready == 0) return ETIMEDOUT;
        if (ready < 0) continue;
        int error = 0;
        socklen_t size = sizeof error;
        if (::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) return errno;
        return error;
    }
}

}  // namespace

bool is_unix(int fd) {
    int domain = 0;
    socklen_t size = sizeof domain;
    check(::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size), "looking at a socket");
    return domain == AF_UNIX;
}

void tune_tcp(int fd) {
    const auto set = [fd](int level, int option, int value) { ::setsockopt(fd, level, option, &value, sizeof value); };
    set(IPPROTO_TCP, TCP_NODELAY, 1);
    set(SOL_SOCKET, SO_KEEPALIVE, 1);
    set(IPPROTO_TCP, TCP_KEEPIDLE, 15);
    set(IPPROTO_TCP, TCP_KEEPINTVL, 5);
    set(IPPROTO_TCP, TCP_KEEPCNT, 3);
}

UniqueFd listen_on_unix(const std::string& name) {
    struct sockaddr_un address;
    const socklen_t size = unix_address(name, address);
    UniqueFd fd(check(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), "making a unix socket"));
    if (::bind(fd.get(), reinterpret_cast<struct sockaddr*>(&address), size) != 0 ||
        ::listen(fd.get(), kBacklog) != 0)
        throw SysError(errno, "listening on " + readable(name));
    return fd;
}

UniqueFd connect_to_unix(const std::string& name) {
    struct sockaddr_un address;
    const socklen_t size = unix_address(name, address);
    UniqueFd fd(check(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "making a unix socket"));
    // A full backlog makes connect wait, for as long as a send may.
    const struct timeval patience {kUnixConnectSeconds, 0};
    ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    while (::connect(fd.get(), reinterpret_cast<struct sockaddr*>(&address), size) != 0) {
        if (errno == EINTR) continue;
        throw SysError(errno == EAGAIN ? ETIMEDOUT : errno, "connecting to " + readable(name));
    }
    set_nonblocking(fd.get());
    return fd;
}

std::pair<UniqueFd, int> listen_on_tcp(const std::string& host, int port) {
    const Addresses addresses = resolve(host, port, true);
    int error = EADDRNOTAVAIL;
    for (const struct addrinfo* entry = addresses.get(); entry != nullptr; entry = entry->ai_next) {
        UniqueFd fd(::socket(entry->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, entry->ai_protocol));
        const int yes = 1;
        if (!fd || ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0 ||
            ::bind(fd.get(), entry->ai_addr, entry->ai_addrlen) != 0 || ::listen(fd.get(), kBacklog) != 0) {
            error = errno;
            continue;
        }
        struct sockaddr_storage bound {};
        socklen_t size = sizeof bound;
        check(::getsockname(fd.get(), reinterpret_cast<struct sockaddr*>(&bound), &size), "looking at a listener");
        const uint16_t number = bound.ss_family == AF_INET6
                                    ? reinterpret_cast<struct sockaddr_in6*>(&bound)->sin6_port
                                    : reinterpret_cast<struct sockaddr_in*>(&bound)->sin_port;
        return {std::move(fd), ntohs(number)};
    }
    throw SysError(error, "listening on " + host + ":" + std::to_string(port));
}

UniqueFd connect_to_tcp(const std::string& host, int port, double timeout_s) {
    const auto deadline = std::chrono::steady_clock::now() +
                          std::chrono::microseconds(static_cast<int64_t>(std::clamp(timeout_s, 0.0, 1e6) * 1e6));
    const Addresses addresses = resolve(host, port, false);
    int error = EHOSTUNREACH;
    for (const struct addrinfo* entry = addresses.get(); entry != nullptr; entry = entry->ai_next) {
        UniqueFd fd(::socket(entry->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, entry->ai_protocol));
        if (!fd) {
            error = errno;
            continue;
        }
        tune_tcp(fd.get());
        if (::connect(fd.get(), entry->ai_addr, entry->ai_addrlen) == 0) return fd;
        error = errno;
        if (error == EINPROGRESS || error == EINTR) error = await_connect(fd.get(), deadline);
        if (error == 0) return fd;
    }
    throw SysError(error, "connecting to " + host + ":" + std::to_string(port));
}

}  // namespace spoke

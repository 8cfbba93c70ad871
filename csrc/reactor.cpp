// See reactor.h for the rules.
#include "reactor.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <algorithm>
#include <chrono>
#include <ctime>

#include "connection.h"
#include "sockets.h"

namespace spoke {

namespace {

constexpr int kMaxEpollEvents = 64;
constexpr size_t kMaxEvents = 256;              // soft: no further source is read beyond it
constexpr size_t kMaxBatchBytes = 1024 * 1024;  // soft as well
constexpr size_t kRead = 64 * 1024;             // one receive of small frames
constexpr size_t kMaxAccepts = 64;
constexpr size_t kMaxHeldFds = 64;  // descriptors received and not taken
constexpr size_t kFdsPerRead = 16;
constexpr uint64_t kWakeKey = 0;
constexpr uint32_t kMaxUnlooked = 32;  // turns that bring something without looking at the sockets

// epoll_wait in microseconds; where the kernel knows milliseconds only (before 5.11), rounded up.
int wait_us(int epoll, struct epoll_event* events, int64_t timeout_us) {
#ifdef SYS_epoll_pwait2
    static std::atomic<bool> fine{true};
    if (timeout_us > 0 && timeout_us % 1000 != 0 && fine.load(std::memory_order_relaxed)) {
        const struct {
            int64_t seconds, nanoseconds;
        } timeout{timeout_us / 1'000'000, timeout_us % 1'000'000 * 1000};
        const long ready = ::syscall(SYS_epoll_pwait2, epoll, events, kMaxEpollEvents, &timeout, nullptr, size_t{0});
        if (ready >= 0 || errno != ENOSYS) return static_cast<int>(ready);
        fine = false;
    }
#endif
    const int64_t most = 1'000'000'000;  // 11 days; the caller polls again
    const int timeout_ms = timeout_us < 0 ? -1 : static_cast<int>(std::min((timeout_us + 999) / 1000, most));
    return ::epoll_wait(epoll, events, kMaxEpollEvents, timeout_ms);
}

}  // namespace

void Batch::clear() {
    used = 0;
    events.clear();
    if (bytes.size() > 2 * kMaxBatchBytes) bytes = RawBuffer();
}

char* Batch::tail(size_t size) {
    if (used + size > bytes.size()) bytes.grow(std::max(used + size, 2 * bytes.size()), used);
    return bytes.data() + used;
}

void Batch::add_text(Event event, const std::string& text) {
    std::memcpy(tail(text.size()), text.data(), text.size());
    event.meta_offset = used;
    event.meta_size = text.size();
    used += text.size();
    events.push_back(std::move(event));
}

Reactor::Reactor()
    : owner_pid_(::getpid()),
      epoll_(check(::epoll_create1(EPOLL_CLOEXEC), "making an epoll")),
      wake_(check(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "making an eventfd")),
      spare_(::open("/dev/null", O_RDONLY | O_CLOEXEC)) {
    struct epoll_event event {};
    // Edge-triggered: every write to the eventfd is one event, and it never has to be read.
    event.events = EPOLLIN | EPOLLET;
    event.data.u64 = kWakeKey;
    check(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event), "watching an eventfd");
}

Reactor::~Reactor() { close_all(); }

// -- the table of sources

// A forked copy of the process shares our epoll and sockets: it may close its own descriptors, but
// must change nothing that we would see.
bool Reactor::in_our_process() const { return ::getpid() == owner_pid_; }

int Reactor::add(std::shared_ptr<Source> source, uint32_t events) {
    struct epoll_event event {};
    {
        const std::lock_guard lock(table_mutex_);
        source->id = next_id_++;
        table_.emplace(source->id, source);
    }
    event.events = events;
    event.data.u64 = static_cast<uint64_t>(source->id);
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, source->fd.get(), &event) != 0) {
        const int code = errno;
        take(source->id);
        throw SysError(code, "watching descriptor " + std::to_string(source->fd.get()));
    }
    return source->id;
}

std::shared_ptr<Source> Reactor::find(int id) {
    const std::lock_guard lock(table_mutex_);
    const auto found = table_.find(id);
    return found == table_.end() ? nullptr : found->second;
}

std::shared_ptr<Connection> Reactor::connection(int id) {
    auto source = find(id);
    if (!source || source->kind != SourceKind::kConnection) return nullptr;
    return std::static_pointer_cast<Connection>(std::move(source));
}

std::shared_ptr<Source> Reactor::take(int id) {
    const std::lock_guard lock(table_mutex_);
    const auto found = table_.find(id);
    if (found == table_.end()) return nullptr;
    auto source = std::move(found->second);
    table_.erase(found);
    return source;
}

void Reactor::drop(Source& source, bool flush) {
    if (!in_our_process()) return;
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, source.fd.get(), nullptr);
    if (source.kind != SourceKind::kConnection) return;
    auto& conn = static_cast<Connection&>(source);
    conn.dropped = true;
    if (conn.tunnel_source != 0) remove(conn.tunnel_source);
    const std::lock_guard lock(conn.send_mutex);
    if (conn.tunnel) {
        conn.tunnel->close("the connection was closed");
        rings_changed_ = true;
    }
    if (flush && !conn.broken) conn.outbox.flush(conn.fd.get());
    conn.outbox.clear();
    conn.broken = true;
    // The peer must see the end now, even while another thread still holds the descriptor.
    ::shutdown(conn.fd.get(), SHUT_RDWR);
}

void Reactor::remove(int id) {
    if (const auto source = take(id)) drop(*source, true);
}

void Reactor::close_all() {
    std::unordered_map<int, std::shared_ptr<Source>> all;
    {
        const std::lock_guard lock(table_mutex_);
        all.swap(table_);
    }
    for (const auto& entry : all) drop(*entry.second, true);
}

int Reactor::listen_unix(const std::string& name) {
    auto source = std::make_shared<Source>(SourceKind::kListener, listen_on_unix(name));
    source->local = true;
    return add(std::move(source), EPOLLIN);
}

std::pair<int, int> Reactor::listen_tcp(const std::string& host, int port) {
    auto [fd, bound] = listen_on_tcp(host, port);
    return {add(std::make_shared<Source>(SourceKind::kListener, std::move(fd)), EPOLLIN), bound};
}

int Reactor::connect_unix(const std::string& name) {
    return add(std::make_shared<Connection>(connect_to_unix(name), true), EPOLLIN);
}

int Reactor::connect_tcp(const std::string& host, int port, double timeout_s) {
    return add(std::make_shared<Connection>(connect_to_tcp(host, port, timeout_s), false), EPOLLIN);
}

int Reactor::adopt(UniqueFd fd) {
    const bool local = is_unix(fd.get());
    check(::fcntl(fd.get(), F_SETFD, FD_CLOEXEC), "making a socket close-on-exec");
    const int flags = check(::fcntl(fd.get(), F_GETFL), "reading the flags of a socket");
    check(::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK), "making a socket non-blocking");
    if (!local) tune_tcp(fd.get());
    return add(std::make_shared<Connection>(std::move(fd), local), EPOLLIN);
}

int Reactor::watch(int fd) { return add(std::make_shared<Source>(SourceKind::kWatch, UniqueFd(fd)), EPOLLIN); }

// -- sending and small questions

void Reactor::put_header(char* at, size_t meta, size_t payload) {
    store_u32(at, static_cast<uint32_t>(meta));
    store_u32(at + 4, static_cast<uint32_t>(payload));
}

void Reactor::arm(Connection& conn, bool writable) {
    if (conn.armed == writable) return;
    conn.armed = writable;
    struct epoll_event event {};
    event.events = EPOLLIN | (writable ? static_cast<uint32_t>(EPOLLOUT) : 0U);
    event.data.u64 = static_cast<uint64_t>(conn.id);
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, conn.fd.get(), &event);
}

// Writing failed.  The poller still delivers what lies in the receive buffer, then CLOSED.
void Reactor::fail(Connection& conn) {
    conn.broken = true;
    conn.outbox.clear();
    ::shutdown(conn.fd.get(), SHUT_RDWR);
}

std::optional<int64_t> Reactor::send(int id, Piece meta, std::span<const Piece> payload, int fd, bool wait,
                                     bool hold) {
    uint64_t payload_size = 0;
    for (const Piece& piece : payload) payload_size += piece.size();
    if (meta.size() > UINT32_MAX || payload_size > UINT32_MAX)
        throw SysError(EMSGSIZE, "a frame with a part of 4 GiB or more");
    const auto conn = connection(id);
    if (!conn) return -1;
    if (fd >= 0 && !conn->local) throw SysError(EOPNOTSUPP, "sending a descriptor over TCP");
    char header[kHeader];
    put_header(header, meta.size(), payload_size);
    Piece few[8];
    std::vector<Piece> many;
    std::span<Piece> pieces;
    if (payload.size() + 2 <= std::size(few)) {
        pieces = std::span(few).first(payload.size() + 2);
    } else {
        many.resize(payload.size() + 2);
        pieces = many;
    }
    pieces[0] = Piece(header, kHeader);
    pieces[1] = meta;
    std::copy(payload.begin(), payload.end(), pieces.begin() + 2);
    std::unique_lock lock(conn->send_mutex, std::defer_lock);
    if (wait) lock.lock();
    else if (!lock.try_lock()) return std::nullopt;
    return send_frame(*conn, pieces, fd, hold);
}

// The same with the connection's lock held.
int64_t Reactor::send_frame(Connection& conn, std::span<const Piece> pieces, int fd, bool hold) {
    if (conn.broken) return -1;
    if (conn.diverted) {
        if (fd >= 0) send_carrier(conn, fd);
        return conn.tunnel->send(pieces, hold);
    }
    if (hold) {
        conn.outbox.hold(pieces, fd);
        return static_cast<int64_t>(conn.outbox.bytes());
    }
    bool written = false;
    if (conn.outbox.bytes() != 0 && !conn.armed) {  // held back before: in one write with this
        conn.outbox.hold(pieces, fd);
        written = conn.outbox.flush(conn.fd.get());
    } else {
        written = conn.outbox.send(conn.fd.get(), pieces, fd);
    }
    if (!written) {
        fail(conn);
        return -1;
    }
    const auto left = static_cast<int64_t>(conn.outbox.bytes());
    if (left != 0) arm(conn, true);
    return left;
}

int64_t Reactor::flush(int id) {
    const auto conn = connection(id);
    if (!conn) return -1;
    const std::lock_guard lock(conn->send_mutex);
    if (conn->broken) return -1;
    if (conn->diverted) {
        conn->tunnel->flush();
        return conn->tunnel->queued();
    }
    if (conn->outbox.bytes() == 0 || conn->armed) return static_cast<int64_t>(conn->outbox.bytes());
    if (!conn->outbox.flush(conn->fd.get())) {
        fail(*conn);
        return -1;
    }
    const auto left = static_cast<int64_t>(conn->outbox.bytes());
    if (left != 0) arm(*conn, true);
    return left;
}

int Reactor::take_fd(int id) {
    const auto conn = connection(id);
    if (!conn) return -1;
    const auto first = [&] {
        const std::lock_guard lock(conn->fds_mutex);
        if (conn->fds.empty()) return -1;
        const int fd = conn->fds.front().release();
        conn->fds.pop_front();
        return fd;
    };
    int fd = first();
    if (fd >= 0 || conn->tunnel_source == 0) return fd;
    // Its frame came by the tunnel and was faster.
    if (const std::unique_lock lock(poll_mutex_, std::try_to_lock); lock.owns_lock()) receive(*conn, late_);
    fd = first();
    const std::lock_guard lock(conn->fds_mutex);
    if (fd < 0) ++conn->fds_missed;
    return fd;
}

void Reactor::wake() {
    const uint64_t one = 1;
    // EAGAIN would mean 2**64 wakes; nothing else can fail.
    if (::write(wake_.get(), &one, sizeof one) < 0) return;
}

void Reactor::report_busy(int id, uint32_t frames) {
    if (const auto conn = connection(id)) conn->until_busy = frames;
}

void Reactor::set_limit(int id, uint64_t bytes) {
    if (const auto conn = connection(id)) conn->limit = bytes;
}

int64_t Reactor::queued(int id) {
    const auto conn = connection(id);
    if (!conn) return -1;
    const std::lock_guard lock(conn->send_mutex);
    if (conn->broken) return -1;
    return static_cast<int64_t>(conn->outbox.bytes()) + (conn->diverted ? conn->tunnel->queued() : 0);
}

std::optional<uid_t> Reactor::peer_uid(int id) {
    const auto conn = connection(id);
    if (!conn || !conn->local) return std::nullopt;
    struct ucred peer {};
    socklen_t size = sizeof peer;
    if (::getsockopt(conn->fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return std::nullopt;
    return peer.uid;
}

// -- polling

// Sleeps until a socket, a watched descriptor or a bell has something.
int Reactor::wait(struct epoll_event* events, int64_t timeout_us) {
    if (timeout_us == 0 || rings_.empty()) return wait_us(epoll_.get(), events, timeout_us);
    const int ready = wait_us(epoll_.get(), events, doze() ? timeout_us : 0);
    const int code = errno;
    rouse();
    errno = code;
    return ready;
}

bool Reactor::poll(Batch& batch, int64_t timeout_us, int64_t spin_us) {
    const std::lock_guard lock(poll_mutex_);
    if (!late_.events.empty()) {
        std::swap(batch, late_);
        late_.clear();
        return true;
    }
    std::vector<int> again;
    again.swap(recheck_);
    for (const int id : again) {
        if (const auto conn = connection(id)) parse(*conn, conn->by_socket, batch, batch.used, 0);
    }
    if (rings_changed_.exchange(false)) find_rings();
    if (!rings_.empty() && batch.events.empty()) {
        if (rings_ready() || (hot_ != nullptr && timeout_us != 0 && spin_us != 0 && spin(spin_us)))
            receive_rings(batch);
        if (!batch.events.empty() && ++unlooked_ < kMaxUnlooked) return true;
    }
    unlooked_ = 0;
    if (!batch.events.empty()) timeout_us = 0;
    struct epoll_event events[kMaxEpollEvents];
    const int ready = wait(events, timeout_us);
    if (ready < 0) {
        if (errno == EINTR) return false;
        throw SysError(errno, "waiting for sockets");
    }
    for (int i = 0; i < ready; ++i) {
        if (batch.events.size() >= kMaxEvents || batch.used >= kMaxBatchBytes) {
            // What is left is level-triggered and comes again, except a wake.
            for (; i < ready; ++i)
                if (events[i].data.u64 == kWakeKey) batch.events.push_back(Event(EventKind::kWoken, 0));
            break;
        }
        dispatch(events[i], batch);
    }
    if (batch.events.empty() && !rings_.empty()) receive_rings(batch);
    return true;
}

void Reactor::dispatch(const struct epoll_event& event, Batch& batch) {
    if (event.data.u64 == kWakeKey) {
        batch.events.push_back(Event(EventKind::kWoken, 0));
        return;
    }
    const auto source = find(static_cast<int>(event.data.u64));
    if (!source) return;
    if (source->kind == SourceKind::kWatch) {
        batch.events.push_back(Event(EventKind::kReadable, source->id));
    } else if (source->kind == SourceKind::kListener) {
        accept_all(*source, batch);
    } else if (source->kind == SourceKind::kTunnel) {
        const auto carried = connection(static_cast<TunnelSource&>(*source).carried);
        if (carried) receive_tunnel(*carried, batch);
        else remove(source->id);
    } else {
        auto& conn = static_cast<Connection&>(*source);
        if ((event.events & EPOLLOUT) != 0) {
            const std::lock_guard lock(conn.send_mutex);
            if (!conn.broken && !conn.outbox.flush(conn.fd.get())) fail(conn);
            if (conn.broken || conn.outbox.bytes() == 0) arm(conn, false);
        }
        if ((event.events & ~static_cast<uint32_t>(EPOLLOUT)) == 0) return;
        if (conn.tunnel_source != 0) receive_tunnel(conn, batch);  // what came before the end
        receive(conn, batch);
    }
}

void Reactor::accept_all(Source& listener, Batch& batch) {
    for (size_t i = 0; i < kMaxAccepts; ++i) {
        UniqueFd fd(::accept4(listener.fd.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (!fd) {
            if ((errno == EMFILE || errno == ENFILE) && spare_) {
                // Refuse the caller at once rather than find it readable for ever.
                spare_.reset();
                UniqueFd(::accept4(listener.fd.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)).reset();
                spare_.reset(::open("/dev/null", O_RDONLY | O_CLOEXEC));
                return;
            }
            if (errno == ECONNABORTED || errno == EINTR) continue;
            return;
        }
        if (!listener.local) tune_tcp(fd.get());
        Event event(EventKind::kAccepted, 0);
        event.listener = listener.id;
        try {
            event.id = add(std::make_shared<Connection>(std::move(fd), listener.local), EPOLLIN);
        } catch (const SysError&) {
            continue;  // no room in epoll: the connection is closed, its caller sees that
        }
        batch.events.push_back(std::move(event));
    }
}

// The peer is gone: what its tunnel brought comes first.
void Reactor::end_by_peer(Connection& conn, const std::string& reason, Batch& batch) {
    if (conn.tunnel_source != 0) receive_tunnel(conn, batch);
    end(conn, reason, batch);
}

void Reactor::end(Connection& conn, const std::string& reason, Batch& batch) {
    if (!take(conn.id)) return;  // closed by us meanwhile
    drop(conn, false);
    batch.add_text(Event(EventKind::kClosed, conn.id), reason);
}

// One read of the socket; descriptors that came along are kept.  0 when nothing was read, also
// after the end of the connection, which is then reported.
ssize_t Reactor::read_some(Connection& conn, struct iovec* pieces, size_t count, Batch& batch) {
    struct msghdr message {};
    message.msg_iov = pieces;
    message.msg_iovlen = count;
    alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * kFdsPerRead)];
    if (conn.local) {
        message.msg_control = control;
        message.msg_controllen = sizeof control;
    }
    const ssize_t size = ::recvmsg(conn.fd.get(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (size < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
            end_by_peer(conn, std::strerror(errno), batch);
        return 0;
    }
    size_t held = 0;
    for (struct cmsghdr* header = message.msg_controllen == 0 ? nullptr : CMSG_FIRSTHDR(&message); header != nullptr;
         header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        const std::lock_guard lock(conn.fds_mutex);
        for (size_t i = 0; i < (header->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++i) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
            UniqueFd own(fd);
            if (conn.fds_missed == 0) conn.fds.push_back(std::move(own));
            else --conn.fds_missed;
        }
        held = conn.fds.size();
    }
    if ((message.msg_flags & MSG_CTRUNC) != 0 || held > kMaxHeldFds) {
        end(conn, "more descriptors arrived than can be held", batch);
        return 0;
    }
    if (size == 0) {
        const bool cut = !conn.by_socket.partial.empty() || conn.by_socket.large;
        end_by_peer(conn, cut ? "closed by the peer in the middle of a frame" : "closed by the peer", batch);
    }
    return size;
}

void Reactor::receive(Connection& conn, Batch& batch) {
    if (conn.by_socket.large) {
        receive_large(conn, batch);
        return;
    }
    const size_t kept = conn.by_socket.partial.size();
    char* tail = batch.tail(kept + kRead);
    if (kept != 0) std::memcpy(tail, conn.by_socket.partial.data(), kept);
    struct iovec piece {tail + kept, kRead};
    const ssize_t size = read_some(conn, &piece, 1, batch);
    if (size == 0) return;
    conn.by_socket.partial.clear();
    parse(conn, conn.by_socket, batch, batch.used, kept + static_cast<size_t>(size));
}

void Reactor::receive_large(Connection& conn, Batch& batch) {
    // What follows the frame is read in the same call, behind it.
    std::span<char> places[2];
    const size_t count = conn.by_socket.large->places(places);
    struct iovec pieces[3];
    for (size_t i = 0; i < count; ++i) pieces[i] = {places[i].data(), places[i].size()};
    const size_t missing = conn.by_socket.large->missing();
    // A frame that will not be finished by this read needs no room behind it.
    const size_t behind = missing <= 4 * kRead ? kRead : 0;
    // What finish_large puts into the batch comes first.
    const size_t first = conn.by_socket.large->in_batch();
    char* tail = batch.tail(first + behind);
    pieces[count] = {tail + first, behind};
    const ssize_t size = read_some(conn, pieces, count + (behind != 0 ? 1 : 0), batch);
    if (size == 0) return;
    const size_t mine = std::min(static_cast<size_t>(size), missing);
    conn.by_socket.large->received += mine;
    if (conn.by_socket.large->missing() != 0) return;
    finish_large(conn, conn.by_socket, batch);
    if (const size_t rest = static_cast<size_t>(size) - mine; rest != 0) parse(conn, conn.by_socket, batch, batch.used, rest);
}

}  // namespace spoke

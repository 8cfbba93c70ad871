// Sockets of one process: framing, gathering writes, one epoll.
//
// A frame is u32 meta_bytes | u32 payload_bytes | meta | payload, little endian.
//
// Rules: `poll` runs in one thread at a time (others wait for it); everything else may be called
// from any thread.  Ids are never reused.  A connection ends in exactly one CLOSED event, after the
// last complete frame that arrived, unless we closed it ourselves.  A connection's bytes are read
// by the poller only; its outgoing queue has its own lock; the table of sources has another, and
// no system call that can wait is made under it.  What is received goes from the kernel into the
// batch (small frames) or into the frame's own buffer (large ones): no copy in between.
// Who waits for frames out of shared memory (ring.h) says so before it sleeps; with `spin_us` it first
// stays awake for them while their sender runs on another CPU, as long as that pays.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "raii.h"

struct epoll_event;
struct iovec;

namespace spoke {

using Piece = std::span<const char>;

enum class EventKind : int { kFrame = 0, kClosed = 1, kAccepted = 2, kReadable = 3, kWoken = 4, kResumed = 5, kBusy = 6 };

// What happened.  meta and payload lie in Batch::bytes, except a payload above kInlinePayload.
struct Event {
    Event(EventKind event_kind, int event_id) : kind(event_kind), id(event_id) {}

    EventKind kind;
    int id;  // the source, for kAccepted the new connection
    size_t meta_offset = 0, meta_size = 0;
    size_t payload_offset = 0, payload_size = 0;
    std::unique_ptr<RawBuffer> large;
    int listener = 0;
};

struct Batch {
    RawBuffer bytes;
    size_t used = 0;
    std::vector<Event> events;

    void clear();
    // Room for `size` bytes behind those used.
    char* tail(size_t size);
    void add_text(Event event, const std::string& text);
};

class Ring;
class Tunnel;
struct Source;
struct Connection;
struct Incoming;

class Reactor {
  public:
    Reactor();
    ~Reactor();
    Reactor(const Reactor&) = delete;
    Reactor& operator=(const Reactor&) = delete;

    int listen_unix(const std::string& name);
    std::pair<int, int> listen_tcp(const std::string& host, int port);
    int connect_unix(const std::string& name);
    int connect_tcp(const std::string& host, int port, double timeout_s);
    int adopt(UniqueFd fd);
    int watch(int fd);
    void unwatch(int id) { remove(id); }
    void close(int id) { remove(id); }
    void close_all();

    // Bytes still queued, -1 when the connection is gone.  With `wait` false and the connection
    // busy with another thread's send: nothing, and nothing was sent.
    // `hold`: only queue it, for the next send or `flush`.
    std::optional<int64_t> send(int id, Piece meta, std::span<const Piece> payload, int fd, bool wait,
                                bool hold = false);
    // Writes what was held back; the bytes still queued, -1 when the connection is gone.
    int64_t flush(int id);
    // Fills the batch; returns false when a signal interrupted the wait.
    bool poll(Batch& batch, int64_t timeout_us, int64_t spin_us);
    // From now on what is sent goes through the tunnel; what is queued, and the frame of `last` where
    // it is not empty, goes by the socket before it.
    void divert(int id, std::shared_ptr<Tunnel> tunnel, Piece last = {});
    // From now on frames come out of the tunnel as well; the peer sends nothing by the socket any more
    // but the descriptors of frames.
    // Where both were done at both ends and the tunnel fails, the connection goes on by its socket, no
    // byte lost or twice, and says so with a RESUMED event (its text is why).  Between processes of one
    // node it ends instead: descriptors travel beside the tunnel there.
    void receive_from(int id, std::shared_ptr<Tunnel> tunnel);
    // One kBusy event when so many more frames have arrived.
    void report_busy(int id, uint32_t frames);
    int take_fd(int id);
    void wake();
    void set_limit(int id, uint64_t bytes);
    int64_t queued(int id);
    std::optional<uid_t> peer_uid(int id);

    // Writes the header of a frame.
    static void put_header(char* at, size_t meta, size_t payload);

  private:
    int add(std::shared_ptr<Source> source, uint32_t events);
    std::shared_ptr<Source> find(int id);
    std::shared_ptr<Connection> connection(int id);
    std::shared_ptr<Source> take(int id);
    void remove(int id);
    void drop(Source& source, bool flush);
    bool in_our_process() const;

    int wait(::epoll_event* events, int64_t timeout_us);
    int64_t send_frame(Connection& conn, std::span<const Piece> pieces, int fd, bool hold);
    void dispatch(const ::epoll_event& event, Batch& batch);
    void accept_all(Source& listener, Batch& batch);
    void receive(Connection& conn, Batch& batch);
    void receive_large(Connection& conn, Batch& batch);
    void receive_tunnel(Connection& conn, Batch& batch);
    void receive_ring(Connection& conn, Ring& ring, Batch& batch, bool all);
    void send_carrier(Connection& conn, int fd);
    void find_rings();
    void receive_rings(Batch& batch);
    bool rings_ready() const;
    bool spin(int64_t limit_us);
    bool doze();
    void rouse();
    void marked(Connection& conn, uint32_t count, std::span<const char> rest, Batch& batch);
    void resume(Connection& conn, const std::string& why, Batch& batch);
    void send_mark(Connection& conn, uint32_t count);
    bool undivert(Connection& conn);
    void parse(Connection& conn, Incoming& in, Batch& batch, size_t begin, size_t size);
    void feed(Connection& conn, Batch& batch, std::span<const char> bytes);
    void take_from(Connection& conn, Tunnel& tunnel, size_t size, Batch& batch);
    bool begin_large(Connection& conn, Incoming& in, uint32_t meta, uint32_t payload, Batch& batch);
    void continue_large(Connection& conn, Incoming& in, Batch& batch, size_t size);
    void finish_large(Connection& conn, Incoming& in, Batch& batch);
    ssize_t read_some(Connection& conn, ::iovec* pieces, size_t count, Batch& batch);
    void end_by_peer(Connection& conn, const std::string& reason, Batch& batch);
    void end(Connection& conn, const std::string& reason, Batch& batch);
    void arm(Connection& conn, bool writable);
    void fail(Connection& conn);

    const pid_t owner_pid_;
    UniqueFd epoll_;
    UniqueFd wake_;
    UniqueFd spare_;  // given up for a moment to refuse a connection when no descriptor is left
    std::mutex poll_mutex_;
    Batch late_;  // events of sockets read by `take_fd`
    std::vector<int> recheck_;  // connections whose next frame waits for a higher limit
    // Of the poller:
    struct RingInUse {
        std::shared_ptr<Tunnel> keep;
        Ring* ring;
        std::shared_ptr<Connection> conn;
    };
    std::vector<RingInUse> rings_;
    Ring* hot_ = nullptr;      // that brought something last
    uint32_t unlooked_ = 0;    // turns since the sockets were looked at
    uint32_t unspun_ = 0;      // waits since the last one awake
    uint32_t spin_pause_ = 0;  // how many there shall be
    std::atomic<bool> rings_changed_{false};
    std::mutex table_mutex_;
    std::unordered_map<int, std::shared_ptr<Source>> table_;
    int next_id_ = 1;
};

}  // namespace spoke

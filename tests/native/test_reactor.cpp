// The reactor: frames cut anywhere, large frames, descriptors, limits, ends, threads.
#include "reactor.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "check.h"

namespace {

using spoke::Batch;
using spoke::EventKind;
using spoke::Piece;
using spoke::Reactor;

struct Seen {
    EventKind kind;
    int id;
    std::string meta;
    std::string payload;
    int listener;
};

std::vector<Seen> poll(Reactor& reactor, int64_t timeout_us = 5'000'000) {
    Batch batch;
    CHECK(reactor.poll(batch, timeout_us, 0));
    std::vector<Seen> seen;
    for (const auto& event : batch.events) {
        const char* bytes = batch.bytes.data();
        const char* payload = event.large ? event.large->data() : bytes + event.payload_offset;
        seen.push_back({event.kind, event.id, {bytes + event.meta_offset, event.meta_size},
                        {payload, event.payload_size}, event.listener});
    }
    return seen;
}

std::string u32(uint32_t value) {
    std::string text;
    for (int i = 0; i < 4; ++i) text.push_back(static_cast<char>(value >> (8 * i)));
    return text;
}

std::string frame(const std::string& meta, const std::string& payload) {
    return u32(static_cast<uint32_t>(meta.size())) + u32(static_cast<uint32_t>(payload.size())) + meta + payload;
}

Piece piece(const std::string& text) { return {text.data(), text.size()}; }

struct Pair {
    Reactor reactor;
    int raw = -1;  // the peer as a plain socket
    int conn = 0;

    explicit Pair(uint64_t limit = 1 << 30) {
        int both[2];
        CHECK(::socketpair(AF_UNIX, SOCK_STREAM, 0, both) == 0);
        raw = both[0];
        conn = reactor.adopt(spoke::UniqueFd(both[1]));
        reactor.set_limit(conn, limit);
    }
    ~Pair() { hang_up(); }
    void hang_up() {
        if (raw >= 0) ::close(raw);
        raw = -1;
    }
    void write(const std::string& bytes) const {
        CHECK(::send(raw, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
    }
};

// One stream of frames, delivered in pieces of random sizes, comes out whole and in order.
void frames_cut_anywhere(uint32_t seed) {
    std::mt19937 random(seed);
    std::vector<std::pair<std::string, std::string>> frames;
    std::string stream;
    const size_t sizes[] = {0, 1, 7, 100, 65535, 65536, 65537, 70000, 200000};
    for (int i = 0; i < 60; ++i) {
        const size_t meta_size = random() % 12 == 0 ? sizes[random() % 9] : random() % 200;
        const std::string meta(meta_size, static_cast<char>('a' + i % 26));
        const std::string payload(sizes[random() % 9], static_cast<char>('A' + i % 26));
        frames.emplace_back(meta, payload);
        stream += frame(meta, payload);
    }
    Pair pair;
    std::thread writer([&] {
        for (size_t at = 0; at < stream.size();) {
            const size_t most = random() % 3 == 0 ? 9 : 150000;
            const size_t size = std::min<size_t>(1 + random() % most, stream.size() - at);
            pair.write(stream.substr(at, size));
            at += size;
        }
    });
    size_t count = 0;
    while (count < frames.size())
        for (const Seen& seen : poll(pair.reactor)) {
            CHECK(seen.kind == EventKind::kFrame && seen.id == pair.conn);
            CHECK(seen.meta == frames[count].first && seen.payload == frames[count].second);
            ++count;
        }
    writer.join();
}

void every_cut_of_small_frames() {
    const std::string stream = frame("one", "payload") + frame("", "") + frame("two", "");
    for (size_t cut = 0; cut <= stream.size(); ++cut) {
        Pair pair;
        std::vector<Seen> all;
        for (const std::string& part : {stream.substr(0, cut), stream.substr(cut)}) {
            if (part.empty()) continue;
            pair.write(part);
            for (auto& seen : poll(pair.reactor)) all.push_back(seen);
        }
        CHECK(all.size() == 3 && all[0].payload == "payload" && all[1].meta.empty() && all[2].meta == "two");
    }
}

void end_is_reported_once_after_the_frames() {
    Pair pair;
    pair.write(frame("last", "words") + "\1\2\3");
    pair.hang_up();
    std::vector<Seen> all;
    for (int i = 0; i < 4; ++i)
        for (auto& seen : poll(pair.reactor, 1000)) all.push_back(seen);
    CHECK(all.size() == 2);
    CHECK(all[0].kind == EventKind::kFrame && all[0].meta == "last");
    CHECK(all[1].kind == EventKind::kClosed && all[1].meta.find("middle of a frame") != std::string::npos);
    CHECK(pair.reactor.send(pair.conn, piece("x"), {}, -1, true) == -1);
    CHECK(pair.reactor.queued(pair.conn) == -1 && pair.reactor.take_fd(pair.conn) == -1);
}

void failed_send_still_delivers_what_arrived() {
    Pair pair;
    pair.write(frame("last", ""));
    pair.hang_up();
    CHECK(pair.reactor.send(pair.conn, piece("x"), {}, -1, true) == -1);
    std::vector<Seen> all;
    for (int i = 0; i < 4; ++i)
        for (auto& seen : poll(pair.reactor, 1000)) all.push_back(seen);
    CHECK(all.size() == 2 && all[0].meta == "last" && all[1].kind == EventKind::kClosed);
}

void limits() {
    Pair pair(100);
    pair.write(frame("small", "") + frame("large", std::string(200, 'x')) + frame("next", ""));
    auto seen = poll(pair.reactor);
    CHECK(seen.size() == 1 && seen[0].meta == "small");
    pair.reactor.set_limit(pair.conn, 1000);  // in time
    seen = poll(pair.reactor);
    CHECK(seen.size() == 2 && seen[0].payload.size() == 200 && seen[1].meta == "next");
    pair.write(u32(0xFFFFFFFF) + u32(0xFFFFFFFF));
    seen = poll(pair.reactor);
    CHECK(seen.size() == 1 && seen[0].kind == EventKind::kClosed);
    CHECK(seen[0].meta.find("exceeds the limit of 1000") != std::string::npos);
}

void descriptors_travel_in_order() {
    Reactor reactor;
    const std::string name("\0spoke-test-native", 18);
    const int listener = reactor.listen_unix(name);
    const int client = reactor.connect_unix(name);
    const auto accepted = poll(reactor);
    CHECK(accepted.size() == 1 && accepted[0].kind == EventKind::kAccepted && accepted[0].listener == listener);
    const int server = accepted[0].id;
    reactor.set_limit(server, 1 << 30);
    const std::string large(3'000'000, 'z');
    const Piece payload[] = {piece(large)};
    std::vector<int> sent;
    for (int i = 0; i < 5; ++i) {  // the first fills the socket, the others queue behind it
        int ends[2];
        CHECK(::pipe2(ends, O_CLOEXEC) == 0);
        const char tag = static_cast<char>('0' + i);
        CHECK(::write(ends[1], &tag, 1) == 1);
        ::close(ends[1]);
        const std::span<const Piece> pieces(payload, i == 0 ? 1 : 0);
        CHECK(reactor.send(client, piece("with fd"), pieces, ends[0], true) > 0);
        CHECK(reactor.send(client, piece("without"), {}, -1, true) > 0);
        ::close(ends[0]);
    }
    int frames = 0;
    while (frames < 10)
        for (const auto& seen : poll(reactor)) {
            CHECK(seen.kind == EventKind::kFrame && seen.id == server);
            CHECK(seen.meta == (frames % 2 == 0 ? "with fd" : "without"));
            if (frames % 2 == 0) {
                const int fd = reactor.take_fd(server);
                CHECK(fd >= 0 && (::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
                char tag = 0;
                CHECK(::read(fd, &tag, 1) == 1 && tag == static_cast<char>('0' + frames / 2));
                ::close(fd);
            }
            ++frames;
        }
    CHECK(reactor.take_fd(server) == -1 && reactor.queued(client) == 0);
    CHECK(reactor.peer_uid(server) == ::getuid());
}

void sent_before_close_arrives() {
    Reactor reactor;
    const auto [listener, port] = reactor.listen_tcp("127.0.0.1", 0);
    CHECK_THROWS(spoke::SysError, reactor.listen_tcp("127.0.0.1", port));
    const int client = reactor.connect_tcp("127.0.0.1", port, 5);
    const int server = poll(reactor).at(0).id;
    CHECK(!reactor.peer_uid(server).has_value());
    CHECK_THROWS(spoke::SysError, reactor.send(client, piece("x"), {}, 0, true));
    CHECK(reactor.send(client, piece("bye"), {}, -1, true) == 0);
    reactor.close(client);
    reactor.close(client);
    std::vector<Seen> all;
    for (int i = 0; i < 4; ++i)
        for (auto& seen : poll(reactor, 10000)) all.push_back(seen);
    CHECK(all.size() == 2 && all[0].meta == "bye" && all[1].kind == EventKind::kClosed && all[1].id == server);
    reactor.close(listener);
    CHECK_THROWS(spoke::SysError, reactor.connect_tcp("127.0.0.1", port, 1));
}

// Many senders on one connection, one poller, others wake, open and close at the same time.
void many_threads() {
    Reactor reactor;
    const std::string name("\0spoke-test-threads", 19);
    reactor.listen_unix(name);
    const int client = reactor.connect_unix(name);
    const int server = poll(reactor).at(0).id;
    reactor.set_limit(server, 1 << 30);
    constexpr int kSenders = 3;
    constexpr int kFrames = 400;
    std::atomic<bool> stop{false};
    std::vector<std::thread> threads;
    for (int i = 0; i < kSenders; ++i)
        threads.emplace_back([&reactor, client, i] {
            for (int j = 0; j < kFrames; ++j) {
                const std::string payload(j % 10 == 0 ? 100000 : 100, static_cast<char>('a' + i));
                const Piece pieces[] = {piece(payload)};
                CHECK(reactor.send(client, piece(std::to_string(i) + ":" + std::to_string(j)), pieces, -1, true) >= 0);
            }
        });
    threads.emplace_back([&] {
        while (!stop) {
            reactor.wake();
            reactor.close(reactor.connect_unix(name));
            int ends[2];
            CHECK(::pipe2(ends, O_CLOEXEC) == 0);
            const int watched = reactor.watch(ends[0]);
            reactor.unwatch(watched);
            ::close(ends[0]);
            ::close(ends[1]);
            std::this_thread::sleep_for(std::chrono::microseconds(200));
        }
    });
    int next[kSenders] = {};
    int total = 0;
    while (total < kSenders * kFrames)
        for (const auto& seen : poll(reactor)) {
            if (seen.kind != EventKind::kFrame) continue;
            const int sender = seen.meta[0] - '0';
            CHECK(seen.meta == std::to_string(sender) + ":" + std::to_string(next[sender]++));
            CHECK(seen.payload.front() == 'a' + sender && seen.payload.back() == 'a' + sender);
            ++total;
        }
    stop = true;
    for (auto& thread : threads) thread.join();
}

void watched_descriptors_and_wakes() {
    Reactor reactor;
    int ends[2];
    CHECK(::pipe2(ends, O_CLOEXEC) == 0);
    const int id = reactor.watch(ends[0]);
    CHECK(poll(reactor, 0).empty());
    CHECK(::write(ends[1], "x", 1) == 1);
    for (int i = 0; i < 2; ++i) {  // level-triggered
        const auto seen = poll(reactor);
        CHECK(seen.size() == 1 && seen[0].kind == EventKind::kReadable && seen[0].id == id);
    }
    reactor.unwatch(id);
    CHECK(poll(reactor, 1500).empty());
    reactor.wake();
    reactor.wake();
    CHECK(poll(reactor).at(0).kind == EventKind::kWoken);
    CHECK(poll(reactor, 0).empty());
    std::thread waker([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        reactor.wake();
    });
    CHECK(poll(reactor, -1).at(0).kind == EventKind::kWoken);
    waker.join();
    CHECK(::fcntl(ends[0], F_GETFD) >= 0);  // still the caller's
    ::close(ends[0]);
    ::close(ends[1]);
}

}  // namespace

int main() {
    for (uint32_t seed = 1; seed <= 4; ++seed) frames_cut_anywhere(seed);
    every_cut_of_small_frames();
    end_is_reported_once_after_the_frames();
    failed_send_still_delivers_what_arrived();
    limits();
    descriptors_travel_in_order();
    sent_before_close_arrives();
    many_threads();
    watched_descriptors_and_wakes();
    std::puts("reactor: ok");
}

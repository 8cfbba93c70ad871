// Rings: the switch from the socket, frames of all sizes, descriptors, sleeping ends, full rings, ends.
#include "ring.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <random>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "reactor.h"

namespace {

using spoke::Batch;
using spoke::EventKind;
using spoke::Piece;
using spoke::Reactor;
using spoke::Ring;

struct Seen {
    EventKind kind;
    std::string meta, payload;
};

std::vector<Seen> poll(Reactor& reactor, int64_t timeout_us = 5'000'000, int64_t spin_us = 0) {
    Batch batch;
    CHECK(reactor.poll(batch, timeout_us, spin_us));
    std::vector<Seen> seen;
    for (const auto& event : batch.events) {
        const char* bytes = batch.bytes.data();
        const char* payload = event.large ? event.large->data() : bytes + event.payload_offset;
        seen.push_back({event.kind, {bytes + event.meta_offset, event.meta_size}, {payload, event.payload_size}});
    }
    return seen;
}

Piece piece(const std::string& text) { return {text.data(), text.size()}; }

std::shared_ptr<Ring> join(const Ring& ring) {
    spoke::UniqueFd fds[Ring::kFds];
    for (size_t i = 0; i < Ring::kFds; ++i) fds[i] = spoke::UniqueFd(::fcntl(ring.fd_to_pass(i), F_DUPFD_CLOEXEC, 3));
    return std::make_shared<Ring>(fds);
}

// Two reactors with a connection between them, and the two ends of a ring.
struct Pair {
    Reactor near, far;
    int near_conn = 0, far_conn = 0;
    std::shared_ptr<Ring> near_ring, far_ring;

    Pair() {
        int both[2];
        CHECK(::socketpair(AF_UNIX, SOCK_STREAM, 0, both) == 0);
        near_conn = near.adopt(spoke::UniqueFd(both[0]));
        far_conn = far.adopt(spoke::UniqueFd(both[1]));
        near.set_limit(near_conn, 1 << 30);
        far.set_limit(far_conn, 1 << 30);
        near_ring = std::make_shared<Ring>();
        far_ring = join(*near_ring);
        near_ring->passed();
    }
    void switch_near_to_far() {
        near.divert(near_conn, near_ring, piece("switch"));
        CHECK(poll(far).at(0).meta == "switch");
        far.receive_from(far_conn, far_ring);
    }
    void switch_both() {
        switch_near_to_far();
        far.divert(far_conn, far_ring, piece("switch"));
        CHECK(poll(near).at(0).meta == "switch");
        near.receive_from(near_conn, near_ring);
    }
    int64_t send(const std::string& meta, const std::string& payload = "", int fd = -1, bool hold = false) {
        const Piece pieces[] = {piece(payload)};
        return *near.send(near_conn, piece(meta), std::span(pieces, payload.empty() ? 0 : 1), fd, true, hold);
    }
};

// Frames of all sizes in both directions at once, between threads that sleep, or stay awake a while.
void frames_of_all_sizes(uint32_t seed, int64_t spin_us) {
    constexpr int kFrames = 1500;
    constexpr size_t kSizes[] = {0, 1, 7, 100, 4000, 65535, 65536, 65537, 200'000};
    const auto text = [&](int side, int number) {
        std::mt19937 random(seed * 1'000'003 + static_cast<uint32_t>(side * 100'000 + number));
        const size_t size = random() % 40 == 0 ? kSizes[random() % std::size(kSizes)] : random() % 300;
        return std::to_string(number) + std::string(size, static_cast<char>('a' + number % 26));
    };
    Pair pair;
    pair.switch_both();
    const auto run = [&](Reactor& reactor, int conn, int side) {
        int sent = 0, received = 0;
        std::mt19937 random(seed + static_cast<uint32_t>(side));
        while (sent < kFrames || received < kFrames || reactor.queued(conn) > 0) {
            for (size_t burst = random() % 8; burst != 0 && sent < kFrames; --burst, ++sent) {
                const std::string own = text(side, sent);
                const bool hold = random() % 4 == 0;
                if (hold) CHECK(*reactor.send(conn, piece(own), {}, -1, true, true) >= 0);
                else CHECK(*reactor.send(conn, piece("m"), std::vector<Piece>{piece(own)}, -1, true) >= 0);
            }
            CHECK(reactor.flush(conn) >= 0);
            const bool done = received == kFrames;
            for (const Seen& seen : poll(reactor, done ? 1000 : sent < kFrames ? 100 : 5'000'000, spin_us)) {
                CHECK(seen.kind == EventKind::kFrame);
                CHECK((seen.payload.empty() ? seen.meta : seen.payload) == text(1 - side, received));
                ++received;
            }
        }
    };
    std::thread other([&] { run(pair.far, pair.far_conn, 1); });
    run(pair.near, pair.near_conn, 0);
    other.join();
}

void held_frames_lie_there_but_wake_nobody() {
    Pair pair;
    pair.switch_near_to_far();
    CHECK(poll(pair.far, 0).empty());
    CHECK(pair.send("one", "", -1, true) == 0);
    CHECK(poll(pair.far).at(0).meta == "one");  // who looks finds it
    std::thread sleeper([&] { CHECK(poll(pair.far).at(0).meta == "two"); });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    CHECK(pair.send("two", "", -1, true) == 0);
    CHECK(pair.near.flush(pair.near_conn) == 0);
    sleeper.join();
}

void a_full_ring_pushes_back_and_goes_on() {
    Pair pair;
    pair.switch_both();
    int sent = 0;
    while (pair.send(std::to_string(sent), std::string(1000, 'x')) == 0) ++sent;
    ++sent;
    CHECK(sent > 50 && sent < 70);
    for (int i = 0; i < 100; ++i, ++sent) CHECK(pair.send(std::to_string(sent), std::string(1000, 'x')) > 0);
    const int64_t queued = pair.near.queued(pair.near_conn);
    CHECK(queued > 90'000);
    int received = 0;
    while (received < sent) {
        for (const Seen& seen : poll(pair.far, 100'000)) CHECK(seen.meta == std::to_string(received++));
        CHECK(poll(pair.near, 0).empty());  // moves on what waited for room
    }
    CHECK(pair.near.queued(pair.near_conn) == 0);
}

// Who waits for room sleeps, and is woken when there is some.
void a_sleeping_writer_is_told_of_room() {
    Pair pair;
    pair.switch_both();
    const std::string large(5'000'000, 'y');
    CHECK(pair.send("large", large) > 0);
    std::thread writer([&] {
        while (pair.near.queued(pair.near_conn) > 0) poll(pair.near, 5'000'000);
    });
    std::vector<Seen> seen;
    while (seen.empty()) seen = poll(pair.far);
    CHECK(seen.size() == 1 && seen[0].meta == "large" && seen[0].payload == large);
    pair.near.wake();
    writer.join();
}

void descriptors_come_with_their_frames() {
    Pair pair;
    pair.switch_near_to_far();
    for (int i = 0; i < 100; ++i) {
        int ends[2];
        CHECK(::pipe2(ends, O_CLOEXEC) == 0);
        const char tag = static_cast<char>(i);
        CHECK(::write(ends[1], &tag, 1) == 1);
        CHECK(pair.send("without") == 0);
        CHECK(pair.send("with", i % 3 == 0 ? "payload" : "", ends[0]) == 0);
        ::close(ends[0]);
        ::close(ends[1]);
        if (i % 4 != 3) continue;  // four at a time
        for (int expected = i - 3, got = 0; got < 8;)
            for (const Seen& seen : poll(pair.far)) {
                CHECK(seen.kind == EventKind::kFrame && seen.meta == (got % 2 == 0 ? "without" : "with"));
                if (got++ % 2 == 0) continue;
                const int fd = pair.far.take_fd(pair.far_conn);
                char found = -1;
                CHECK(fd >= 0 && ::read(fd, &found, 1) == 1 && found == static_cast<char>(expected++));
                ::close(fd);
            }
    }
    CHECK(pair.far.take_fd(pair.far_conn) == -1);
}

void what_was_sent_before_the_end_comes_before_it() {
    for (const bool looked : {false, true}) {
        Pair pair;
        pair.switch_both();
        if (looked) CHECK(poll(pair.far, 0).empty());
        CHECK(pair.send("one") == 0 && pair.send("two", std::string(30'000, 'x')) == 0);
        pair.near.close(pair.near_conn);
        std::vector<Seen> all;
        for (int i = 0; i < 4; ++i)
            for (auto& seen : poll(pair.far, 10'000)) all.push_back(seen);
        CHECK(all.size() == 3 && all[0].meta == "one" && all[1].meta == "two" && all[2].kind == EventKind::kClosed);
        CHECK(*pair.far.send(pair.far_conn, piece("x"), {}, -1, true) == -1);
        CHECK(pair.far_ring->failure() == "the connection was closed");
    }
}

// A descriptor that is asked for may bring the end of the connection along: it is not lost.
void an_end_seen_while_taking_a_descriptor_is_reported() {
    Pair pair;
    pair.switch_near_to_far();
    CHECK(pair.send("last") == 0);
    CHECK(poll(pair.far).at(0).meta == "last");
    pair.near.close(pair.near_conn);
    CHECK(pair.far.take_fd(pair.far_conn) == -1);
    CHECK(poll(pair.far).at(0).kind == EventKind::kClosed);
}

void a_peer_that_breaks_the_rules_ends_the_connection() {
    Pair pair;
    pair.switch_near_to_far();
    Ring stranger;
    const size_t size = 4096 + 2 * Ring::kBytes;
    void* memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, stranger.fd_to_pass(0), 0);
    CHECK(memory != MAP_FAILED);
    std::memset(memory, 0xff, 4096);
    pair.far.receive_from(pair.far_conn, join(stranger));
    std::vector<Seen> all;
    for (int i = 0; i < 4 && all.empty(); ++i) all = poll(pair.far, 10'000);
    CHECK(all.size() == 1 && all[0].kind == EventKind::kClosed && all[0].meta == "the ring's counts are broken");
    ::munmap(memory, size);
}

void memory_of_another_shape_is_refused() {
    const Ring whole;
    for (const int kind : {0, 1}) {
        const int memory = ::memfd_create("test", MFD_CLOEXEC);
        CHECK(::ftruncate(memory, kind == 0 ? 4096 : 4096 + 2 * Ring::kBytes) == 0);  // too small; not sealed
        spoke::UniqueFd fds[Ring::kFds] = {spoke::UniqueFd(memory), spoke::UniqueFd(::dup(whole.fd_to_pass(1))),
                                           spoke::UniqueFd(::dup(whole.fd_to_pass(2)))};
        CHECK_THROWS(spoke::SysError, Ring{fds});
    }
}

void busy_connections_are_reported_once() {
    Pair pair;
    pair.far.report_busy(pair.far_conn, 3);
    for (int i = 0; i < 6; ++i) CHECK(pair.send(std::to_string(i)) == 0);
    std::vector<Seen> all;
    while (all.size() < 7)
        for (auto& seen : poll(pair.far)) all.push_back(seen);
    CHECK(all[3].kind == EventKind::kBusy && all[6].meta == "5");
}

}  // namespace

int main() {
    for (uint32_t seed = 1; seed <= 3; ++seed)
        for (const int64_t spin_us : {0, 50}) frames_of_all_sizes(seed, spin_us);
    held_frames_lie_there_but_wake_nobody();
    a_full_ring_pushes_back_and_goes_on();
    a_sleeping_writer_is_told_of_room();
    descriptors_come_with_their_frames();
    what_was_sent_before_the_end_comes_before_it();
    an_end_seen_while_taking_a_descriptor_is_reported();
    a_peer_that_breaks_the_rules_ends_the_connection();
    memory_of_another_shape_is_refused();
    busy_connections_are_reported_once();
    std::puts("ring: ok");
}

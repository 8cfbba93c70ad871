// Connections whose frames go through a pipe that fails: they go on by the socket, each frame once, in order.
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "fake_verbs.h"
#include "reactor.h"
#include "sockets.h"
#include "verbs_pipe.h"

namespace {

using spoke::Batch;
using spoke::Engine;
using spoke::EventKind;
using spoke::Piece;
using spoke::Pipe;
using spoke::Reactor;

constexpr auto kLong = std::chrono::seconds(60);

// Two processes in one: a reactor and a device each, a TCP connection between them.
struct Ends {
    Reactor reactors[2];
    std::shared_ptr<Engine> engines[2];
    int conns[2] = {0, 0};
    uint32_t sent[2] = {0, 0}, got[2] = {0, 0};
    int resumed[2] = {0, 0};
    std::string why[2], closed[2];

    Ends() {
        const auto [listener, port] = reactors[1].listen_tcp("127.0.0.1", 0);
        conns[0] = reactors[0].connect_tcp("127.0.0.1", port, 5);
        while (conns[1] == 0) {
            Batch batch;
            reactors[1].poll(batch, 1'000'000, 0);
            for (const auto& event : batch.events)
                if (event.kind == EventKind::kAccepted) conns[1] = event.id;
        }
        for (int side = 0; side < 2; ++side) reactors[side].set_limit(conns[side], 1 << 30);
    }

    // As core/rdma_calls.py does it, without the messages.
    void open_pipe() {
        std::shared_ptr<Pipe> pipes[2];
        for (int side = 0; side < 2; ++side) {
            engines[side] = std::make_shared<Engine>(spoke::fake_verbs(), "", 0, -1);
            pipes[side] = std::make_shared<Pipe>(engines[side]);
        }
        for (int side = 0; side < 2; ++side) pipes[side]->connect(pipes[1 - side]->address());
        for (int side = 0; side < 2; ++side) reactors[side].receive_from(conns[side], pipes[side]);
        for (int side = 0; side < 2; ++side) reactors[side].divert(conns[side], pipes[side]);
    }

    // A frame that tells its number, and has `size` bytes more.
    void send(int side, size_t size) {
        const uint32_t number = sent[side]++;
        std::string meta(4, 0), payload(size, static_cast<char>(number));
        std::memcpy(meta.data(), &number, 4);
        const Piece piece(payload.data(), payload.size());
        CHECK(*reactors[side].send(conns[side], {meta.data(), 4}, {&piece, 1}, -1, true) >= 0);
    }

    void poll(int side, int64_t timeout_us) {
        Batch batch;
        reactors[side].poll(batch, timeout_us, 0);
        for (const auto& event : batch.events) {
            const char* meta = batch.bytes.data() + event.meta_offset;
            if (event.kind == EventKind::kResumed) {
                ++resumed[side];
                why[side].assign(meta, event.meta_size);
            } else if (event.kind == EventKind::kClosed) {
                closed[side].assign(meta, event.meta_size);
            } else if (event.kind == EventKind::kFrame) {
                uint32_t number = 0;
                std::memcpy(&number, meta, 4);
                CHECK(number == got[side]++);
                const char* payload = event.large ? event.large->data() : batch.bytes.data() + event.payload_offset;
                for (size_t at = 0; at < event.payload_size; at += 997) CHECK(payload[at] == static_cast<char>(number));
            }
        }
    }

    void settle() {
        const auto deadline = std::chrono::steady_clock::now() + kLong;
        while (got[0] != sent[1] || got[1] != sent[0]) {
            for (int side = 0; side < 2; ++side) poll(side, 1000);
            CHECK(closed[0].empty() && closed[1].empty());
            CHECK(std::chrono::steady_clock::now() < deadline);
        }
    }
};

size_t some_size(std::mt19937& random) {
    switch (random() % 12) {
        case 0: return random() % 300'000;  // a frame of many slots, with a buffer of its own
        case 1: return random() % 20'000;
        default: return random() % 200;
    }
}

// Traffic both ways; at a random moment the device fails in one of its ways, for one end or both.
void frames_survive_the_pipe(unsigned int seed) {
    std::mt19937 random(seed);
    Ends ends;
    for (int round = 0; round < 2; ++round) {  // a second pipe after the first has failed
        for (int count = 0; count < 5; ++count) ends.send(static_cast<int>(random() % 2), some_size(random));
        ends.settle();  // what went by the socket is there before the tunnel is looked into
        ends.open_pipe();
        const uint32_t turns = 20 + random() % 60, fault = random() % turns;
        for (uint32_t turn = 0; turn < turns; ++turn) {
            if (turn == fault) {
                switch (random() % 3) {
                    case 0: spoke::fake_script("fail", 12); break;
                    case 1: spoke::fake_script("fatal", 0); break;
                    default: ends.engines[random() % 2].reset(); spoke::fake_script("fail", 10);
                }
            }
            const int side = static_cast<int>(random() % 2);
            ends.send(side, some_size(random));
            if (random() % 3 == 0) ends.poll(static_cast<int>(random() % 2), 0);
        }
        for (int side = 0; side < 2; ++side) ends.send(side, 10);
        ends.settle();
        const auto deadline = std::chrono::steady_clock::now() + kLong;
        while (ends.resumed[0] != round + 1 || ends.resumed[1] != round + 1) {
            for (int side = 0; side < 2; ++side) ends.poll(side, 1000);
            CHECK(std::chrono::steady_clock::now() < deadline);
        }
        spoke::fake_script("fail", 0);
    }
    for (int side = 0; side < 2; ++side) CHECK(!ends.why[side].empty());
    for (int count = 0; count < 50; ++count) ends.send(static_cast<int>(random() % 2), some_size(random));
    ends.settle();
}

// One thread at each end polls while others send.
void threads_send_while_it_fails() {
    Ends ends;
    ends.open_pipe();
    std::atomic<bool> stop{false};
    std::vector<std::thread> threads;
    for (int side = 0; side < 2; ++side) {
        threads.emplace_back([&ends, side] {
            for (int count = 0; count < 2000; ++count) ends.send(side, count % 50 == 0 ? 30'000 : 20);
        });
        threads.emplace_back([&ends, &stop, side] {
            while (!stop) ends.poll(side, 1000);
        });
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    spoke::fake_script("fail", 12);
    threads[0].join();
    threads[2].join();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    stop = true;
    threads[1].join();
    threads[3].join();
    ends.settle();
    spoke::fake_script("fail", 0);
}

// A mark that nobody can have sent ends the connection: between processes of one node, or of too many runs.
void a_lying_mark_is_refused() {
    for (const bool local : {true, false}) {
        spoke::UniqueFd raw;
        Reactor reactor;
        int conn = 0;
        if (local) {
            int pair[2];
            CHECK(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
            conn = reactor.adopt(spoke::UniqueFd(pair[0]));
            raw.reset(pair[1]);
        } else {
            auto [listener, port] = spoke::listen_on_tcp("127.0.0.1", 0);
            conn = reactor.connect_tcp("127.0.0.1", port, 5);
            raw.reset(::accept(listener.get(), nullptr, nullptr));
        }
        reactor.set_limit(conn, 1 << 20);
        const auto engine = std::make_shared<Engine>(spoke::fake_verbs(), "", 0, -1);
        const auto pipe = std::make_shared<Pipe>(engine), other = std::make_shared<Pipe>(engine);
        pipe->connect(other->address());
        reactor.receive_from(conn, pipe);
        reactor.divert(conn, pipe);
        const unsigned char mark[8] = {0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0};  // one run; none was sent
        CHECK(::send(raw.get(), mark, sizeof mark, 0) == sizeof mark);
        bool ended = false;
        while (!ended) {
            Batch batch;
            CHECK(reactor.poll(batch, 5'000'000, 0) && !batch.events.empty());
            ended = batch.events.back().kind == EventKind::kClosed;
        }
    }
}

}  // namespace

int main() {
    a_lying_mark_is_refused();
    for (unsigned int seed = 0; seed < 40; ++seed) frames_survive_the_pipe(seed);
    threads_send_while_it_fails();
    std::puts("tunnel: ok");
}

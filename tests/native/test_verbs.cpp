// One-sided reads over the software device: right bytes, keys, revocation, and every fault it can play.
#include <poll.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "check.h"
#include "fake_verbs.h"
#include "verbs_pipe.h"
#include "verbs_reader.h"

namespace {

using namespace std::chrono_literals;
using spoke::Engine;
using spoke::Operation;
using spoke::Reader;
using spoke::Region;
using spoke::Responder;
using spoke::Slice;

constexpr auto kLong = 20s;  // never met where the code works

struct Side {
    std::shared_ptr<Engine> engine = std::make_shared<Engine>(spoke::fake_verbs(), "", 0, -1);
    std::vector<char> memory;
    std::shared_ptr<Region> region;

    Side(size_t size, unsigned int access, char fill) : memory(size, fill) {
        region = std::make_shared<Region>(engine->domain(), memory.data(), memory.size(), access);
    }
    uint64_t at(size_t offset) { return reinterpret_cast<uint64_t>(memory.data()) + offset; }
};

struct Pair {
    Side owner, taker;
    std::unique_ptr<Responder> responder;
    std::unique_ptr<Reader> reader;

    explicit Pair(size_t size) : owner(size, spoke::ib::kLocalWrite | spoke::ib::kRemoteRead, 'o'), taker(size, spoke::ib::kLocalWrite, '.') {
        std::mt19937 random(7);
        for (char& byte : owner.memory) byte = static_cast<char>(random());
        responder = std::make_unique<Responder>(owner.engine);
        reader = std::make_unique<Reader>(taker.engine);
        responder->connect(reader->address());
        reader->connect(responder->address());
    }
    Slice slice(size_t local, size_t remote, size_t length) {
        return {taker.region, taker.at(local), owner.at(remote), length, owner.region->rkey()};
    }
    std::string read(std::vector<Slice> slices) {
        const auto operation = reader->read(std::move(slices));
        CHECK(operation->wait(kLong));
        return operation->error();
    }
};

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

std::vector<spoke::Notice> wait_for(Engine& engine, spoke::NoticeKind kind) {
    std::vector<spoke::Notice> seen;
    while (true) {
        pollfd fd{engine.fd(), POLLIN, 0};
        CHECK(::poll(&fd, 1, 20000) == 1);
        for (auto& notice : engine.take_notices()) {
            seen.push_back(notice);
            if (notice.kind == kind) return seen;
        }
    }
}

void reads_are_exact() {
    Pair pair(5 << 20);
    CHECK(pair.read({pair.slice(0, 0, pair.owner.memory.size())}).empty());  // five requests
    CHECK(pair.taker.memory == pair.owner.memory);
    std::mt19937 random(11);
    std::fill(pair.taker.memory.begin(), pair.taker.memory.end(), '.');
    std::vector<char> expected = pair.taker.memory;
    std::vector<Slice> slices;
    for (int count = 0; count < 1000; ++count) {  // more than the queue holds
        const size_t length = random() % 3000, local = random() % (1 << 20), remote = random() % (1 << 20);
        slices.push_back(pair.slice(local, remote, length));
        std::memcpy(expected.data() + local, pair.owner.memory.data() + remote, length);
    }
    CHECK(pair.read(slices).empty());
    CHECK(pair.taker.memory == expected);
    CHECK(pair.read({}).empty());
    std::vector<std::shared_ptr<Operation>> many;
    for (size_t index = 0; index < 64; ++index) many.push_back(pair.reader->read({pair.slice(index * 100, index * 100, 100)}));
    for (const auto& operation : many) CHECK(operation->wait(kLong) && operation->error().empty());
    CHECK(pair.reader->bytes_read() > 5u << 20);
}

void order_and_delay_do_not_matter() {
    Pair one(1 << 20);
    Reader other(one.taker.engine);
    Responder answer(one.owner.engine);
    answer.connect(other.address());
    other.connect(answer.address());
    spoke::fake_script("reorder", 3);
    spoke::fake_script("delay", 200);
    std::vector<std::shared_ptr<Operation>> many;
    for (size_t index = 0; index < 40; ++index) {
        many.push_back(one.reader->read({one.slice(index * 1000, index * 1000, 1000)}));
        many.push_back(other.read({one.slice(500000 + index * 1000, 500000 + index * 1000, 1000)}));
    }
    for (const auto& operation : many) CHECK(operation->wait(kLong) && operation->error().empty());
    spoke::fake_script("reorder", 0);
    spoke::fake_script("delay", 0);
    CHECK(std::memcmp(one.taker.memory.data(), one.owner.memory.data(), 40000) == 0);
    CHECK(std::memcmp(one.taker.memory.data() + 500000, one.owner.memory.data() + 500000, 40000) == 0);
}

void keys_are_checked() {
    const auto refused = [](auto change) {
        Pair pair(1 << 16);
        Slice slice = pair.slice(0, 0, 4096);
        change(pair, slice);
        const uint64_t before = spoke::fake_requests();
        const std::string error = pair.read({slice});
        CHECK(contains(error, "remote access error") && contains(error, "fake0") && contains(error, "queue pair"));
        CHECK(spoke::fake_requests() == before + 1);
        CHECK(pair.taker.memory == std::vector<char>(1 << 16, '.'));
        CHECK(!pair.reader->usable());
        CHECK_THROWS(spoke::SysError, pair.reader->read({slice}));
    };
    refused([](Pair&, Slice& slice) { slice.rkey += 1; });
    refused([](Pair&, Slice& slice) { slice.remote += (1 << 16) - 4095; });
    refused([](Pair&, Slice& slice) { slice.remote -= 1; });
    refused([](Pair& pair, Slice&) { pair.owner.region.reset(); });
    // Nothing is posted for what would be written outside the destination.
    Pair pair(1 << 16);
    const uint64_t before = spoke::fake_requests();
    CHECK_THROWS(spoke::SysError, pair.reader->read({pair.slice(1, 0, 1 << 16)}));
    Slice wrapping = pair.slice(0, 0, 4096);
    wrapping.remote = ~uint64_t{0} - 100;
    CHECK_THROWS(spoke::SysError, pair.reader->read({wrapping}));
    CHECK(spoke::fake_requests() == before && pair.reader->usable());
}

// The one way to end a lease early: once `close` is back, the memory may hold anything else.
void revocation_comes_before_reuse() {
    for (int round = 0; round < 100; ++round) {
        Pair pair(64 << 10);
        const std::vector<char> granted = pair.owner.memory;
        const auto operation = pair.reader->read({pair.slice(0, 0, 32 << 10), pair.slice(32 << 10, 32 << 10, 32 << 10)});
        if (round % 3 == 1) std::this_thread::sleep_for(std::chrono::microseconds(round));
        pair.responder->close();
        std::fill(pair.owner.memory.begin(), pair.owner.memory.end(), 'X');
        CHECK(operation->wait(kLong));
        if (operation->error().empty()) CHECK(pair.taker.memory == granted);
        CHECK(std::count(pair.taker.memory.begin(), pair.taker.memory.end(), 'X') < 1000);
    }
}

void closing_waits_for_the_destination() {
    Pair pair(1 << 20);
    spoke::fake_script("delay", 3000);
    std::vector<std::shared_ptr<Operation>> many;
    for (int index = 0; index < 100; ++index) many.push_back(pair.reader->read({pair.slice(0, 0, 1 << 20)}));
    pair.reader->close("the deadline passed");
    const std::vector<char> after = pair.taker.memory;
    for (const auto& operation : many) CHECK(operation->finished());
    CHECK(many.back()->error() == "the deadline passed");
    spoke::fake_script("delay", 0);
    std::this_thread::sleep_for(20ms);
    CHECK(pair.taker.memory == after);  // nothing arrives later
}

void a_device_that_does_not_flush_is_left() {
    Pair pair(1 << 16);
    spoke::fake_script("no_flush", 1);
    spoke::fake_script("drop", 1000000);
    const auto operation = pair.reader->read({pair.slice(0, 0, 1 << 16)});
    pair.reader->close("gone");
    CHECK(operation->finished() && operation->error() == "gone");
    spoke::fake_script("no_flush", 0);
    spoke::fake_script("drop", 0);
}

void lost_requests_are_named() {
    Pair pair(1 << 16);
    spoke::fake_script("drop", 3);  // within the retries
    CHECK(pair.read({pair.slice(0, 0, 100)}).empty());
    spoke::fake_script("drop", 1000000);
    CHECK(contains(pair.read({pair.slice(0, 0, 100)}), "retry counter exceeded"));
    spoke::fake_script("drop", 0);
    Pair other(1 << 16);
    spoke::fake_script("fail", spoke::ib::kLocProtErr);
    const auto first = other.reader->read({other.slice(0, 0, 100)});
    CHECK(first->wait(kLong) && contains(first->error(), "local protection error (status 4, vendor 77)"));
}

void events_are_told() {
    Pair pair(1 << 16);
    spoke::fake_script("port", 0);
    wait_for(*pair.taker.engine, spoke::NoticeKind::kPortDown);
    CHECK_THROWS(spoke::SysError, Reader(pair.taker.engine));
    CHECK(!spoke::scan_ports(spoke::fake_verbs()).front().problem.empty());
    spoke::fake_script("port", 1);
    wait_for(*pair.taker.engine, spoke::NoticeKind::kPortUp);
    CHECK(pair.read({pair.slice(0, 0, 100)}).empty());
    spoke::fake_script("gid_change", 0);
    wait_for(*pair.taker.engine, spoke::NoticeKind::kGidChanged);
    CHECK(pair.taker.engine->alive());
    for (const char* fault : {"fatal", "overrun"}) {
        Pair lost(1 << 16);
        spoke::fake_script("delay", 5000);
        const auto operation = lost.reader->read({lost.slice(0, 0, 1 << 16)});
        spoke::fake_script(fault, 0);
        spoke::fake_script("delay", 0);
        CHECK(operation->wait(kLong));
        wait_for(*lost.taker.engine, spoke::NoticeKind::kFatal);
        CHECK(!lost.taker.engine->alive() && !lost.reader->usable());
        CHECK_THROWS(spoke::SysError, lost.reader->read({lost.slice(0, 0, 1)}));
        CHECK_THROWS(spoke::SysError, Reader(lost.taker.engine));
    }
}

void memory_that_cannot_be_locked_is_named() {
    Side side(1 << 16, 0, '.');
    spoke::fake_script("no_memory", 1);
    try {
        Region(side.engine->domain(), side.memory.data(), side.memory.size(), 0);
        CHECK(false);
    } catch (const spoke::SysError& error) {
        CHECK(error.code() == ENOMEM && contains(error.what(), "65536 bytes"));
    }
    CHECK_THROWS(spoke::SysError, Region(side.engine->domain(), side.memory.data(), 0, 0));
    CHECK_THROWS(spoke::SysError, Region(side.engine->domain(), side.memory.data(), spoke::kMaxRegionBytes + 1, 0));
}

void the_completion_queue_is_never_oversold() {
    auto engine = std::make_shared<Engine>(spoke::fake_verbs(), "", 0, -1);
    std::vector<std::unique_ptr<Reader>> readers;
    bool full = false;
    try {
        for (int count = 0; count < 1000; ++count) readers.push_back(std::make_unique<Reader>(engine));
    } catch (const spoke::SysError& error) {
        full = error.code() == ENOSPC;
    }
    CHECK(full && readers.size() == spoke::kQueueDepth / (spoke::kReadQueue + 1));
    readers.pop_back();
    Reader again(engine);
}

void addresses_are_validated() {
    Side side(4096, 0, '.');
    Reader reader(side.engine);
    const std::string good = reader.address();
    CHECK(good.size() == spoke::QpAddress::kBytes);
    CHECK(spoke::QpAddress::unpack(good).pack() == good);
    CHECK_THROWS(spoke::SysError, reader.connect(good.substr(0, 31)));
    CHECK_THROWS(spoke::SysError, reader.connect(good + "x"));
    std::string lying = good;
    lying[1] = 9;  // no such path MTU
    CHECK_THROWS(spoke::SysError, reader.connect(lying));
    lying = good;
    lying[0] = 2;
    CHECK_THROWS(spoke::SysError, reader.connect(lying));
    CHECK_THROWS(spoke::SysError, reader.read({}));  // not connected
}

void the_best_address_is_chosen() {
    const auto entry = [](uint32_t index, uint32_t type, std::initializer_list<int> bytes) {
        spoke::ib::GidEntry made{};
        made.gid_index = index;
        made.port_num = 1;
        made.gid_type = type;
        size_t at = 0;
        for (const int byte : bytes) made.gid.raw[at++] = static_cast<uint8_t>(byte);
        return made;
    };
    const auto local = entry(0, spoke::ib::kGidRoceV2, {0xfe, 0x80, 0, 0, 0, 0, 0, 0, 1});
    const auto old = entry(1, spoke::ib::kGidRoceV1, {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1});
    const auto global = entry(2, spoke::ib::kGidRoceV2, {0x20, 1, 0, 0, 0, 0, 0, 0, 1});
    const auto ipv4 = entry(5, spoke::ib::kGidRoceV2, {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1});
    CHECK(spoke::choose_gid({local, old, global, ipv4}, 1, true, -1)->gid_index == 5);
    CHECK(spoke::choose_gid({local, old, global}, 1, true, -1)->gid_index == 2);
    CHECK(spoke::choose_gid({local, old}, 1, true, -1)->gid_index == 1);
    CHECK(!spoke::choose_gid({local}, 1, true, -1));
    CHECK(spoke::choose_gid({local}, 1, false, -1)->gid_index == 0);  // InfiniBand's default subnet
    CHECK(spoke::choose_gid({local, ipv4}, 1, true, 0)->gid_index == 0);
    CHECK(!spoke::choose_gid({local, ipv4}, 1, true, 3));
    CHECK(!spoke::choose_gid({ipv4}, 2, true, -1));
}

// -- pipes

struct Pipes {
    std::shared_ptr<Engine> engines[2] = {std::make_shared<Engine>(spoke::fake_verbs(), "", 0, -1),
                                          std::make_shared<Engine>(spoke::fake_verbs(), "", 0, -1)};
    std::unique_ptr<spoke::Pipe> ends[2];
    std::string sent[2], got[2];

    Pipes() {
        for (int side = 0; side < 2; ++side) ends[side] = std::make_unique<spoke::Pipe>(engines[side]);
        for (int side = 0; side < 2; ++side) ends[side]->connect(ends[1 - side]->address());
    }
    void send(int side, const std::string& text) {
        const std::span<const char> pieces[2] = {{text.data(), text.size() / 3}, {text.data() + text.size() / 3, text.size() - text.size() / 3}};
        CHECK(ends[side]->send(pieces, false) >= 0);
        sent[side] += text;
    }
    void take(int side, size_t most) {
        std::string part(std::min(ends[side]->pending(), most), 0);
        CHECK(ends[side]->take(part.data(), part.size()) == part.size());
        got[side] += part;
    }
    void settle() {
        const auto deadline = std::chrono::steady_clock::now() + kLong;
        while (got[0] != sent[1] || got[1] != sent[0]) {
            for (int side = 0; side < 2; ++side) take(side, 1 << 20);
            CHECK(std::chrono::steady_clock::now() < deadline);
            std::this_thread::yield();
        }
    }
};

void pipes_carry_bytes_in_order(bool faults) {
    if (faults) {
        spoke::fake_script("rnr", 5);
        spoke::fake_script("reorder", 2);
        spoke::fake_script("delay", 50);
    }
    Pipes pipes;
    std::mt19937 random(3);
    for (int turn = 0; turn < 300; ++turn) {
        const int side = static_cast<int>(random() % 2);
        std::string text(random() % 10 == 0 ? random() % 200000 : random() % 300, 0);
        for (char& byte : text) byte = static_cast<char>(random());
        pipes.send(side, text);
        if (random() % 3 == 0) pipes.take(static_cast<int>(random() % 2), random() % 5000);
    }
    if (faults) spoke::fake_script("reorder", 0);
    pipes.settle();
    spoke::fake_script("delay", 0);
    // More than a ring, one way only: credits come back alone.
    for (int turn = 0; turn < 500; ++turn) pipes.send(0, "call");
    pipes.settle();
}

void a_ring_that_is_not_emptied_is_not_overwritten() {
    Pipes pipes;
    for (uint32_t count = 0; count < 3 * spoke::kSlots; ++count) pipes.send(0, std::string(100, static_cast<char>('a' + count % 26)));
    std::this_thread::sleep_for(50ms);
    CHECK(pipes.ends[0]->messages() == spoke::kSlots);  // the rest waits for credit
    pipes.settle();
}

void what_is_held_goes_with_the_next() {
    Pipes pipes;
    const std::span<const char> word[1] = {{"held", 4}};
    for (int count = 0; count < 10; ++count) CHECK(pipes.ends[0]->send(word, true) == 4 * (count + 1));
    CHECK(pipes.ends[0]->messages() == 0);
    pipes.sent[0] = std::string("heldheldheldheldheldheldheldheldheldheld");
    pipes.send(0, "sent");
    CHECK(pipes.ends[0]->messages() == 1 && pipes.ends[0]->queued() == 0);
    pipes.settle();
    pipes.ends[0]->send(word, true);
    pipes.ends[0]->flush();
    CHECK(pipes.ends[0]->messages() == 2);
    pipes.sent[0] += "held";
    pipes.settle();
}

void a_pipe_ends_with_its_reason() {
    Pipes pipes;
    pipes.send(0, "first");
    pipes.settle();
    pipes.ends[1].reset();
    const auto deadline = std::chrono::steady_clock::now() + kLong;
    while (pipes.ends[0]->failure().empty()) {
        CHECK(std::chrono::steady_clock::now() < deadline);
        const std::span<const char> none[1] = {{"again", 5}};
        pipes.ends[0]->send(none, false);
        pipes.ends[0]->pending();  // where it looks
        std::this_thread::sleep_for(1ms);
    }
    CHECK(contains(pipes.ends[0]->failure(), "RDMA WRITE failed: transport retry counter exceeded"));
    Pipes lost;
    spoke::fake_script("fatal", 0);
    while (lost.ends[0]->failure().empty()) std::this_thread::sleep_for(1ms);
    CHECK(contains(lost.ends[0]->failure(), "fatal"));
    auto engine = std::make_shared<Engine>(spoke::fake_verbs(), "", 0, -1);
    spoke::Pipe pipe(engine);
    std::string address = pipe.address();
    CHECK_THROWS(spoke::SysError, pipe.connect(address.substr(1)));
    address.back() ^= 1;
    CHECK_THROWS(spoke::SysError, pipe.connect(address));
}

}  // namespace

int main() {
    pipes_carry_bytes_in_order(false);
    pipes_carry_bytes_in_order(true);
    a_ring_that_is_not_emptied_is_not_overwritten();
    what_is_held_goes_with_the_next();
    a_pipe_ends_with_its_reason();
    reads_are_exact();
    order_and_delay_do_not_matter();
    keys_are_checked();
    revocation_comes_before_reuse();
    closing_waits_for_the_destination();
    a_device_that_does_not_flush_is_left();
    lost_requests_are_named();
    events_are_told();
    memory_that_cannot_be_locked_is_named();
    the_completion_queue_is_never_oversold();
    addresses_are_validated();
    the_best_address_is_chosen();
}

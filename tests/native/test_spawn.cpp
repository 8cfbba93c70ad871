// Spawning from many threads while others allocate; descriptors; exit statuses; failures.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "spawn.h"

namespace {

spoke::SpawnRequest shell(const std::string& script) {
    spoke::SpawnRequest request;
    request.argv = {"/bin/sh", "-c", script};
    request.env = {"PATH=/usr/bin:/bin"};
    request.death_signal = SIGKILL;
    return request;
}

spoke::ExitStatus wait_for(const spoke::Child& child) {
    struct pollfd entry {child.pidfd.get(), POLLIN, 0};
    CHECK(::poll(&entry, 1, 20000) == 1);
    const auto status = spoke::reap(child.pidfd.get());
    CHECK(status.has_value());
    return *status;
}

void many_threads_while_others_allocate() {
    std::atomic<bool> stop{false};
    std::vector<std::thread> allocators;
    for (int i = 0; i < 2; ++i)
        allocators.emplace_back([&stop] {
            while (!stop) {
                std::vector<std::string> strings;
                for (int j = 0; j < 100; ++j) strings.emplace_back(static_cast<size_t>(100 + j * 50), 'x');
            }
        });
    std::vector<std::thread> spawners;
    for (int i = 0; i < 4; ++i)
        spawners.emplace_back([i] {
            for (int j = 0; j < 10; ++j) {
                auto request = shell("exit " + std::to_string(i * 10 + j));
                request.death_signal = j % 2 == 0 ? SIGKILL : 0;
                CHECK(wait_for(spoke::spawn(request)).code == i * 10 + j);
            }
        });
    for (auto& thread : spawners) thread.join();
    stop = true;
    for (auto& thread : allocators) thread.join();
}

void failures_are_named() {
    auto request = shell("exit 0");
    request.argv[0] = "/nowhere/program";
    try {
        spoke::spawn(request);
        CHECK(false);
    } catch (const spoke::SysError& error) {
        CHECK(error.code() == ENOENT);
        CHECK(std::string(error.what()).find("/nowhere/program") != std::string::npos);
    }
    request = shell("exit 0");
    request.cwd = "/nowhere";
    CHECK_THROWS(spoke::SysError, spoke::spawn(request));
    request = shell("exit 0");
    request.fds = {{9999, 1}};
    CHECK_THROWS(spoke::SysError, spoke::spawn(request));
    request.fds = {{1, 5}, {1, 5}};
    CHECK_THROWS(spoke::SysError, spoke::spawn(request));
    request.argv.clear();
    CHECK_THROWS(spoke::SysError, spoke::spawn(request));
}

// Sources and targets that cross: (a -> b), (b -> a).
void crossing_descriptors() {
    int a[2];
    int b[2];
    CHECK(::pipe(a) == 0 && ::pipe(b) == 0);
    auto request = shell("echo to-b >&" + std::to_string(a[1]) + "; echo to-a >&" + std::to_string(b[1]));
    request.fds = {{a[1], b[1]}, {b[1], a[1]}};
    if (a[1] > 9 || b[1] > 9) request.argv = {"/bin/bash", "-c", request.argv[2]};  // sh takes one digit
    CHECK(wait_for(spoke::spawn(request)).code == 0);
    char text[16] = {};
    CHECK(::read(b[0], text, sizeof text) == 5 && std::string(text, 4) == "to-b");
    CHECK(::read(a[0], text, sizeof text) == 5 && std::string(text, 4) == "to-a");
    for (const int fd : {a[0], a[1], b[0], b[1]}) ::close(fd);
}

void signals_and_groups() {
    ::signal(SIGTERM, SIG_IGN);
    auto request = shell("kill -TERM $$; sleep 5");  // reset in the child
    CHECK(wait_for(spoke::spawn(request)).signal == SIGTERM);
    ::signal(SIGTERM, SIG_DFL);
    request = shell("sleep 5");
    request.new_process_group = true;
    const spoke::Child child = spoke::spawn(request);
    CHECK(::getpgid(child.pid) == child.pid);
    CHECK(!spoke::reap(child.pidfd.get()).has_value());
    ::kill(child.pid, SIGKILL);
    CHECK(wait_for(child).signal == SIGKILL);
    CHECK_THROWS(spoke::SysError, spoke::reap(child.pidfd.get()));
}

// A child outlives the thread that asked for it.
void asking_thread_ends() {
    spoke::Child child{};
    std::thread([&child] { child = spoke::spawn(shell("sleep 0.3; exit 4")); }).join();
    const spoke::ExitStatus status = wait_for(child);
    CHECK(status.code == 4 && status.signal == 0);
}

}  // namespace

int main() {
    many_threads_while_others_allocate();
    failures_are_named();
    crossing_descriptors();
    signals_and_groups();
    asking_thread_ends();
    std::puts("spawn: ok");
}

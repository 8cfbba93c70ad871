#include "verbs_engine.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <csignal>

namespace spoke {
namespace {

constexpr std::chrono::nanoseconds kSpinMax{20000};
constexpr size_t kMaxNotices = 4096;  // beyond, the oldest of arrivals are merged anyway
constexpr int kTickMs = 50;

void signal_fd(const UniqueFd& fd) {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = ::write(fd.get(), &one, sizeof one);
}

void clear_fd(const UniqueFd& fd) {
    uint64_t count = 0;
    [[maybe_unused]] const ssize_t got = ::read(fd.get(), &count, sizeof count);
}

}  // namespace

Engine::Engine(const VerbsApi& api, const std::string& device, int port, int gid_index)
    : device_(Device::open(api, device, port, gid_index)),
      domain_(std::make_shared<Domain>(device_)),
      queue_(std::make_unique<CompletionQueue>(device_, kQueueDepth)),
      notice_fd_(check(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd")),
      wake_fd_(check(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd")) {
    // The process's signals are for its Python threads.
    sigset_t all;
    sigset_t before;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    thread_ = std::thread([this] { run(); });
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    ::pthread_setname_np(thread_.native_handle(), "spoke-verbs");
}

Engine::~Engine() {
    stop_.store(true, std::memory_order_release);
    signal_fd(wake_fd_);
    thread_.join();
}

std::vector<Notice> Engine::take_notices() {
    clear_fd(notice_fd_);
    const std::lock_guard lock(notice_mutex_);
    return std::exchange(notices_, {});
}

void Engine::notify(Notice notice) {
    {
        const std::lock_guard lock(notice_mutex_);
        if (notices_.size() >= kMaxNotices) notices_.erase(notices_.begin());
        notices_.push_back(std::move(notice));
    }
    signal_fd(notice_fd_);
}

uint32_t Engine::attach(Port* port, int entries) {
    const std::lock_guard lock(table_mutex_);
    // A completion queue that overruns is dead, with every queue pair on it.
    if (reserved_ + entries > kQueueDepth)
        throw SysError(ENOSPC, "the completion queue has no room for another connection: " + std::to_string(reserved_) +
                                   " of " + std::to_string(kQueueDepth) + " entries are reserved");
    if (!alive()) throw SysError(ENODEV, "the RDMA device was lost");
    reserved_ += entries;
    const uint32_t number = next_number_++;
    ports_.emplace(number, port);
    return number;
}

void Engine::detach(uint32_t number, int entries) {
    const std::lock_guard lock(table_mutex_);
    if (ports_.erase(number) != 0) reserved_ -= entries;
    std::erase(hurried_, number);
}

void Engine::hurry(uint32_t number) {
    {
        const std::lock_guard lock(notice_mutex_);
        asked_.push_back(number);
    }
    signal_fd(wake_fd_);
}

void Engine::run() {
    while (!stop_.load(std::memory_order_acquire)) {
        if (poll_once()) continue;
        const bool spin = alive() && 2 * gap_ < kSpinMax && Clock::now() - last_ < 2 * gap_;
        if (spin) continue;
        sleep();
    }
}

bool Engine::poll_once() {
    std::array<ib::Wc, 32> batch;
    const int count = queue_->poll(batch.data(), static_cast<int>(batch.size()));
    if (count <= 0) return false;
    const auto now = Clock::now();
    gap_ = (gap_ * 7 + std::min<std::chrono::nanoseconds>(now - last_, std::chrono::milliseconds(1))) / 8;
    last_ = now;
    seen_.fetch_add(static_cast<uint64_t>(count), std::memory_order_relaxed);
    const std::lock_guard lock(table_mutex_);
    for (int index = 0; index < count; ++index) {
        const ib::Wc& wc = batch[static_cast<size_t>(index)];
        const auto found = ports_.find(static_cast<uint32_t>(wc.wr_id >> 32));
        if (found == ports_.end()) continue;  // of a queue pair that is gone
        const auto low = static_cast<uint32_t>(wc.wr_id);
        found->second->completed(wc, (low >> 31) != 0, low & 0x7fffffffu);
    }
    return true;
}

void Engine::sleep() {
    if (alive()) {
        queue_->arm();
        if (poll_once()) return;  // one that came before the arming gives no event
    }
    bool pending = false;
    {
        const std::lock_guard lock(table_mutex_);
        pending = !hurried_.empty();
    }
    std::array<pollfd, 3> fds{{{queue_->fd(), POLLIN, 0}, {device_->context()->async_fd, POLLIN, 0}, {wake_fd_.get(), POLLIN, 0}}};
    ::poll(fds.data(), fds.size(), pending ? kTickMs : -1);
    clear_fd(wake_fd_);
    queue_->drain_events();
    if (fds[1].revents != 0) take_events();
    tick_all();
}

void Engine::tick_all() {
    const std::lock_guard lock(table_mutex_);
    {
        const std::lock_guard asked(notice_mutex_);
        for (const uint32_t number : asked_)
            if (std::find(hurried_.begin(), hurried_.end(), number) == hurried_.end()) hurried_.push_back(number);
        asked_.clear();
    }
    const auto now = Clock::now();
    std::erase_if(hurried_, [&](uint32_t number) {
        const auto found = ports_.find(number);
        return found == ports_.end() || !found->second->tick(now);
    });
}

void Engine::take_events() {
    ib::AsyncEvent event{};
    while (device_->api().get_async_event(device_->context(), &event) == 0) {
        on_event(event);
        device_->api().ack_async_event(&event);  // every event: destroying what it names waits for that
    }
}

void Engine::on_event(const ib::AsyncEvent& event) {
    switch (event.event_type) {
        case ib::kPortErr:
            notify({NoticeKind::kPortDown, 0, "the port went down"});
            break;
        case ib::kPortUp:
            notify({NoticeKind::kPortUp, 0, "the port came up"});
            break;
        case ib::kGidChange:
        case ib::kLidChange:
            notify({NoticeKind::kGidChanged, 0, "the port's address changed"});
            break;
        case ib::kDeviceFatal:
            lose_all("the RDMA device reported a fatal error");
            break;
        case ib::kCqErr:
            lose_all("the completion queue overran");
            break;
        default:
            break;  // an error of one queue pair also ends its work requests
    }
}

void Engine::lose_all(const std::string& why) {
    fatal_.store(true, std::memory_order_release);
    {
        const std::lock_guard lock(table_mutex_);
        for (const auto& [number, port] : ports_) port->lost(why);
    }
    notify({NoticeKind::kFatal, 0, why});
}

}  // namespace spoke

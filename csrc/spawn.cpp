// See spawn.h for the rules.
#include "spawn.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif

#ifdef __SANITIZE_THREAD__
// ThreadSanitizer takes a call of clone for a fork into memory of its own, which ours is not.
extern "C" int __clone(int (*function)(void*), void* stack, int flags, void* argument, ...);
#define clone __clone
#endif

namespace spoke {

namespace {

constexpr size_t kChildStack = 64 * 1024;
constexpr unsigned kLastFd = ~0U;

constexpr const char* kSettingDeathSignal = "setting the death signal of a process";
constexpr const char* kMakingGroup = "making a process group";
constexpr const char* kPassingDescriptors = "passing descriptors to a process";
constexpr const char* kEnteringDirectory = "entering the working directory ";
constexpr const char* kExecuting = "executing ";

struct Move {
    int source;     // ours
    int target;     // in the child
    int temporary;  // where the child parks it above all targets
};

// All that the child needs, made before the fork; the child writes `error` and `step` only.
struct Plan {
    char* const* argv;
    char* const* envp;
    const char* path;
    const char* cwd;
    Move* moves;  // sorted by target
    size_t move_count;
    int first_free;  // above every target
    int death_signal;
    bool new_process_group;
    pid_t parent;
    int error;
    const char* step;
};

// The child's code makes plain system calls only: what the C library (or a sanitizer) wraps around
// them may lock or keep books, in memory that is still the parent's.
#define SPOKE_CHILD_CODE __attribute__((no_sanitize("address", "thread", "undefined"), noinline))

SPOKE_CHILD_CODE void close_between(unsigned first, unsigned last) {
    if (first > last || ::syscall(SYS_close_range, first, last, 0U) == 0) return;
    // Linux before 5.9: no descriptor lies above the limit unless the limit was lowered later.
    struct rlimit limit {};
    unsigned end = 65536;
    if (::syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, nullptr, &limit) == 0 && limit.rlim_cur < end)
        end = static_cast<unsigned>(limit.rlim_cur);
    for (unsigned fd = first; fd < end && fd <= last; ++fd) ::syscall(SYS_close, fd);
}

SPOKE_CHILD_CODE void reset_signals() {
    const uint64_t as_default[4] = {};  // the kernel's struct sigaction: SIG_DFL, no flags, empty mask
    constexpr size_t kMaskBytes = 8;
    constexpr int kSignals = 64;
    for (int number = 1; number <= kSignals; ++number)
        ::syscall(SYS_rt_sigaction, number, as_default, nullptr, kMaskBytes);
    ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, as_default, nullptr, kMaskBytes);
}

SPOKE_CHILD_CODE bool place_descriptors(const Plan& plan) {
    for (size_t i = 0; i < plan.move_count; ++i) {
        Move& move = plan.moves[i];
        const long parked = ::syscall(SYS_fcntl, move.source, F_DUPFD_CLOEXEC, plan.first_free);
        if (parked < 0) return false;
        move.temporary = static_cast<int>(parked);
    }
    unsigned next = 0;
    for (size_t i = 0; i < plan.move_count; ++i) {
        const Move& move = plan.moves[i];
        if (::syscall(SYS_dup3, move.temporary, move.target, 0) < 0) return false;
        const auto target = static_cast<unsigned>(move.target);
        if (target > next) close_between(next, target - 1);
        next = target + 1;
    }
    close_between(next, kLastFd);
    return true;
}

SPOKE_CHILD_CODE const char* prepare(const Plan& plan) {
    // The parent may have died between the fork and prctl; then nobody is left to send the signal.
    if (plan.death_signal != 0) {
        if (::syscall(SYS_prctl, PR_SET_PDEATHSIG, plan.death_signal) != 0) return kSettingDeathSignal;
        if (::syscall(SYS_getppid) != plan.parent) ::syscall(SYS_exit_group, 127);
    }
    if (plan.new_process_group && ::syscall(SYS_setpgid, 0, 0) != 0) return kMakingGroup;
    if (!place_descriptors(plan)) return kPassingDescriptors;
    if (plan.cwd != nullptr && ::syscall(SYS_chdir, plan.cwd) != 0) return kEnteringDirectory;
    reset_signals();
    ::syscall(SYS_execve, plan.path, plan.argv, plan.envp);
    return kExecuting;
}

SPOKE_CHILD_CODE int child_main(void* argument) {
    auto* plan = static_cast<Plan*>(argument);
    plan->step = prepare(*plan);
    plan->error = errno;
    ::syscall(SYS_exit_group, 127);
    return 127;
}

std::string find_program(const SpawnRequest& request) {
    const std::string& name = request.argv.at(0);
    if (name.find('/') != std::string::npos) return name;
    std::string path = "/usr/local/bin:/usr/bin:/bin";
    for (const std::string& entry : request.env)
        if (entry.starts_with("PATH=")) path = entry.substr(5);
    for (size_t begin = 0; begin <= path.size();) {
        const size_t end = std::min(path.find(':', begin), path.size());
        std::string candidate = path.substr(begin, end - begin) + "/" + name;
        if (end > begin && ::access(candidate.c_str(), X_OK) == 0) return candidate;
        begin = end + 1;
    }
    throw SysError(ENOENT, "finding " + name + " in PATH");
}

std::vector<char*> pointers(const std::vector<std::string>& strings) {
    std::vector<char*> result;
    result.reserve(strings.size() + 1);
    for (const std::string& text : strings) result.push_back(const_cast<char*>(text.c_str()));
    result.push_back(nullptr);
    return result;
}

std::vector<Move> plan_moves(const SpawnRequest& request, int null_fd) {
    std::vector<Move> moves;
    std::set<int> targets;
    for (const auto& [source, target] : request.fds) {
        if (target < 0 || !targets.insert(target).second)
            throw SysError(EINVAL, "descriptor " + std::to_string(target) + " of a child is negative or named twice");
        moves.push_back(Move{source, target, -1});
    }
    for (int target = 0; target < 3; ++target)
        if (!targets.contains(target)) moves.push_back(Move{null_fd, target, -1});
    std::sort(moves.begin(), moves.end(), [](const Move& a, const Move& b) { return a.target < b.target; });
    return moves;
}

// All signals of this thread wait while it lives: a handler of ours must not run in the child,
// which shares our memory.
class SignalsBlocked {
  public:
    SignalsBlocked() {
        sigset_t all;
        ::sigfillset(&all);
        ::pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    ~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
    SignalsBlocked(const SignalsBlocked&) = delete;
    SignalsBlocked& operator=(const SignalsBlocked&) = delete;

  private:
    sigset_t before_;
};

Child fork_exec(const SpawnRequest& request) {
    const std::string path = find_program(request);
    const UniqueFd null_fd(check(::open("/dev/null", O_RDWR | O_CLOEXEC), "opening /dev/null"));
    std::vector<Move> moves = plan_moves(request, null_fd.get());
    const std::vector<char*> argv = pointers(request.argv);
    const std::vector<char*> envp = pointers(request.env);
    Plan plan{argv.data(), envp.data(),  path.c_str(), request.cwd ? request.cwd->c_str() : nullptr,
              moves.data(), moves.size(), moves.back().target + 1, request.death_signal,
              request.new_process_group, ::getpid(), 0, nullptr};
    RawBuffer stack(kChildStack);
    // The stack grows down from its aligned end.
    char* top = stack.data() + (kChildStack & ~size_t{63});
    top -= reinterpret_cast<uintptr_t>(top) & 15;
    int pidfd = -1;
    pid_t pid = -1;
    int clone_error = 0;
    {
        const SignalsBlocked blocked;
        pid = ::clone(child_main, top, CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, &plan, &pidfd);
        clone_error = errno;
    }
    if (pid < 0) throw SysError(clone_error, "forking");
    Child child{pid, UniqueFd(pidfd)};
    if (plan.step == nullptr) return child;
    siginfo_t info{};
    while (::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(pidfd), &info, WEXITED) != 0 && errno == EINTR) {
    }
    std::string what = plan.step;
    if (plan.step == kExecuting) what += path;
    if (plan.step == kEnteringDirectory) what += request.cwd.value_or("");
    throw SysError(plan.error, what);
}

// The thread that is the parent of every child with a death signal; it never ends, so the signal
// is sent exactly when the process dies.
class Spawner {
  public:
    Spawner() {
        const SignalsBlocked inherited;  // signals of the process are for Python's main thread
        std::thread([this] { serve(); }).detach();
    }

    Child run(const SpawnRequest& request) {
        Job job{&request, {}, nullptr, false};
        std::unique_lock lock(mutex_);
        jobs_.push_back(&job);
        work_.notify_one();
        done_.wait(lock, [&] { return job.finished; });
        if (job.error) std::rethrow_exception(job.error);
        return std::move(job.child);
    }

  private:
    struct Job {
        const SpawnRequest* request;
        Child child;
        std::exception_ptr error;
        bool finished;
    };

    void serve() {
        ::prctl(PR_SET_NAME, "spoke-spawner");
        std::unique_lock lock(mutex_);
        for (;;) {
            work_.wait(lock, [&] { return !jobs_.empty(); });
            Job* job = jobs_.front();
            jobs_.pop_front();
            lock.unlock();
            try {
                job->child = fork_exec(*job->request);
            } catch (...) {
                job->error = std::current_exception();
            }
            lock.lock();
            job->finished = true;
            done_.notify_all();
        }
    }

    std::mutex mutex_;
    std::condition_variable work_;
    std::condition_variable done_;
    std::deque<Job*> jobs_;
};

// Leaked on purpose: the thread outlives static destructors.  A forked copy of this process has no
// such thread, so it forgets the object and makes its own.
std::mutex spawner_mutex;
Spawner* spawner_instance = nullptr;

Spawner& spawner() {
    const std::lock_guard lock(spawner_mutex);
    if (spawner_instance == nullptr) {
        static const int registered = ::pthread_atfork([] { spawner_mutex.lock(); }, [] { spawner_mutex.unlock(); },
                                                       [] {
                                                           spawner_instance = nullptr;
                                                           spawner_mutex.unlock();
                                                       });
        static_cast<void>(registered);
        spawner_instance = new Spawner();
    }
    return *spawner_instance;
}

}  // namespace

Child spawn(const SpawnRequest& request) {
    if (request.argv.empty()) throw SysError(EINVAL, "spawning without a program");
    return request.death_signal == 0 ? fork_exec(request) : spawner().run(request);
}

std::optional<ExitStatus> reap(int pidfd) {
    siginfo_t info{};
    while (::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(pidfd), &info, WEXITED | WNOHANG) != 0)
        if (errno != EINTR) throw SysError(errno, "reaping a process");
    if (info.si_pid == 0) return std::nullopt;
    if (info.si_code == CLD_EXITED) return ExitStatus{info.si_status, 0};
    return ExitStatus{0, info.si_status};
}

bool become_subreaper() { return ::prctl(PR_SET_CHILD_SUBREAPER, 1UL, 0UL, 0UL, 0UL) == 0; }

pid_t fork_sibling() {
    // What fork() of the C library does besides: it keeps the thread's id, and the list of its robust mutexes.
    pid_t* thread_id = nullptr;
    if (::prctl(PR_GET_TID_ADDRESS, &thread_id, 0UL, 0UL, 0UL) != 0 || thread_id == nullptr)
        throw SysError(ENOSYS, "finding where the C library keeps the thread's id");
    void* robust = nullptr;
    size_t robust_size = 0;
    const bool has_robust = ::syscall(SYS_get_robust_list, 0, &robust, &robust_size) == 0;
    const auto flags = static_cast<unsigned long>(CLONE_PARENT | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD);
#if defined(__x86_64__)
    const long pid = ::syscall(SYS_clone, flags, nullptr, nullptr, thread_id, 0UL);
#else
    const long pid = ::syscall(SYS_clone, flags, nullptr, nullptr, 0UL, thread_id);
#endif
    if (pid < 0) throw SysError(errno, "forking");
    if (pid == 0 && has_robust) ::syscall(SYS_set_robust_list, robust, robust_size);
    return static_cast<pid_t>(pid);
}

bool set_death_signal(int signal) {
    return ::prctl(PR_SET_PDEATHSIG, static_cast<unsigned long>(signal), 0UL, 0UL, 0UL) == 0;
}

namespace {

// The memory between arg_start and arg_end, which ps shows; fields 48 and 49 of stat tell where it is.
struct CommandLine {
    char* at = nullptr;
    size_t room = 0;
    size_t used = 0;

    CommandLine() {
        const std::unique_ptr<std::FILE, int (*)(std::FILE*)> stat(std::fopen("/proc/self/stat", "re"), &std::fclose);
        char line[2048];
        if (!stat || std::fgets(line, sizeof line, stat.get()) == nullptr) return;
        const char* field_at = std::strrchr(line, ')');  // the name in field 2 may hold blanks
        uintptr_t bounds[2] = {0, 0};
        for (int field = 3; field_at != nullptr && field <= 49; ++field) {
            field_at = std::strchr(field_at + 1, ' ');
            if (field_at != nullptr && field >= 48) bounds[field - 48] = std::strtoull(field_at + 1, nullptr, 10);
        }
        if (bounds[0] == 0 || bounds[1] <= bounds[0] + 1) return;
        at = reinterpret_cast<char*>(bounds[0]);
        used = room = bounds[1] - bounds[0];
    }
};

}  // namespace

void show_title(const std::string& title) {
    static CommandLine line;  // a forked process has it at the same place
    if (line.room == 0) return;
    const size_t length = std::min(title.size(), line.room - 1);
    std::memcpy(line.at, title.data(), length);
    if (length < line.used) std::memset(line.at + length, 0, line.used - length);
    line.used = length;
}

void set_title(const std::string& title) {
    ::prctl(PR_SET_NAME, title.substr(0, 15).c_str());
    show_title(title);
}

}  // namespace spoke

// Starting, reaping and naming processes.
//
// Rules: between fork and exec the child runs only async-signal-safe system calls on data that the
// parent prepared (the child borrows the parent's memory, clone with CLONE_VM | CLONE_VFORK); it
// keeps no descriptor but those asked for; the kernel sends a death signal when the *thread* that
// forked ends, so all children come from one thread that lives as long as the process.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "raii.h"

namespace spoke {

struct SpawnRequest {
    std::vector<std::string> argv;         // argv[0] without a slash is looked up in PATH of `env`
    std::vector<std::string> env;          // NAME=value, the whole environment
    std::optional<std::string> cwd;
    std::vector<std::pair<int, int>> fds;  // (ours, number in the child); 0..2 default to /dev/null
    int death_signal = 0;                  // sent to the child when this process dies; 0: none
    bool new_process_group = false;
};

struct Child {
    pid_t pid;
    UniqueFd pidfd;
};

// SysError with the errno of the step that failed in the child, which is then already reaped.
Child spawn(const SpawnRequest& request);

struct ExitStatus {
    int code;    // meaningful when signal is 0
    int signal;  // 0: the process exited by itself
};

// Exit status of a child and its end as a zombie, or nothing while it runs.
std::optional<ExitStatus> reap(int pidfd);

// Orphans below this process become its children.
bool become_subreaper();

// A copy of this process that is its sibling: its parent is this process's parent.  0 in the copy, its pid
// here.  For processes of one thread only; the handlers of pthread_atfork do not run.
pid_t fork_sibling();

// This process gets `signal` when the thread that is its parent ends; 0: none.
bool set_death_signal(int signal);

// Name shown by ps, cut to the room that the command line had; no system call.  One thread at a time.
void show_title(const std::string& title);

// The same, and the name that the kernel keeps, which top shows too.
void set_title(const std::string& title);

}  // namespace spoke

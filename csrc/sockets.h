// Making stream sockets: listening and connecting, for unix and TCP, always close-on-exec.
//
// Rules: every socket returned does not block; every failure is a SysError naming the address.
#pragma once

#include <string>
#include <utility>

#include "raii.h"

namespace spoke {

// An abstract name begins with a NUL byte.
UniqueFd listen_on_unix(const std::string& name);
UniqueFd connect_to_unix(const std::string& name);
// The socket and the port it got (port 0 lets the kernel choose).
std::pair<UniqueFd, int> listen_on_tcp(const std::string& host, int port);
UniqueFd connect_to_tcp(const std::string& host, int port, double timeout_s);

// No delay for small frames; a vanished host is noticed after about 30 s of silence.
void tune_tcp(int fd);
bool is_unix(int fd);

}  // namespace spoke

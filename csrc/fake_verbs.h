// A software verbs device behind the same table of functions, for machines without one.
//
// It carries reads, writes and immediates between its queue pairs over abstract unix sockets, so two
// devices of one process or of two processes talk, and it is strict where hardware is: keys, access
// flags, states and counts are checked, a child left behind when its parent goes aborts the program.
// A script makes it fail in all the ways that hardware does.
#pragma once

#include <cstdint>
#include <string>

#include "verbs_api.h"

namespace spoke {

const VerbsApi& fake_verbs();

// Changes how all software devices of this process behave, from now on:
//   port 0|1        the port goes down or comes up, with its event
//   fatal           the device is lost: its event, no completion any more
//   overrun         the completion queues overrun, with their event
//   gid_change      the port gets another address, with its event
//   fail N          the next work request completes with status N
//   drop N          the next N requests are lost: they end when all retries have
//   rnr N           the next N writes with an immediate find no receive posted
//   delay N         every completion comes N microseconds late
//   reorder N       completions are held until there are N, and come in another order across queue pairs
//   no_memory N     the next N registrations fail as with a small RLIMIT_MEMLOCK
//   no_dmabuf N     the next N registrations of a dmabuf are not supported
//   no_flush 0|1    a queue pair in error does not flush
// SysError EINVAL for anything else.
void fake_script(const std::string& command, int64_t value);

// Work requests carried out so far by the software devices of this process.
uint64_t fake_requests();

}  // namespace spoke

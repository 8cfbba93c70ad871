"""The supervisor of a head: starts its daemon, waits for it, and starts it again when it was killed.

Started by `spoke start --head` in the place of the daemon, with the daemon's configuration on descriptor 3,
its link to the starter on 4, and as arguments how often it may start the daemon again and the daemon's paths.
Each life of the daemon gets the same configuration; the journal says the rest (HUB-2).  Rules:

- A daemon that ends in order (status 0), or that could not start the first time, ends the supervisor.
- Whatever else ends it, a signal or a fault, is followed by another life, after a pause that doubles from
  `PAUSE_S` to `PAUSE_MAX_S`; `restarts` times within `WINDOW_S`, then the supervisor gives up.
- SIGTERM, SIGINT and SIGHUP are passed on to the daemon as SIGTERM, and no life follows.
- It waits in the kernel, polls nothing, and holds no link.  Its own death takes nothing along: the daemon
  goes on, and is then not started again.

Only built-in modules, so that it costs little memory.
"""

from __future__ import annotations

import os
import sys
import time
from _signal import (  # type: ignore[import-not-found]  # signal itself imports enum
    SIG_BLOCK,
    SIG_SETMASK,
    SIGHUP,
    SIGINT,
    SIGTERM,
    pthread_sigmask,
    signal,
)
from _socket import AF_UNIX, SOCK_STREAM, socketpair

CONFIG_FD = 3  # as in spoke.spawning
LINK_FD = 4
REASON = "SPOKE_RESTART_REASON"  # for the daemon's log: why there is another life
WINDOW_S = 60.0
PAUSE_S = 0.1
PAUSE_MAX_S = 5.0
_SIGNALS = (SIGTERM, SIGINT, SIGHUP)


class Supervisor:
    """See the module.

    Args:
        argv: command line of the daemon.
        restarts: how often it is started again within `WINDOW_S`.
    """

    def __init__(self, argv: list[str], restarts: int) -> None:
        self._argv = argv
        self._restarts = restarts
        self._pid = 0  # of the daemon, while it is not reaped
        self._ending = False

    def run(self) -> int:
        """Serve until the last life of the daemon has ended; its exit status."""
        for number in _SIGNALS:
            signal(number, self._end)
        lives: list[float] = []  # when the latest ones began
        reason = ""
        while True:
            lives = [*(one for one in lives if one > time.monotonic() - WINDOW_S), time.monotonic()]
            first = self._start(reason)
            status = self._wait()
            if status == 0 or self._ending or (first and status == 1):
                return max(0, status)
            reason = f"killed by signal {-status}" if status < 0 else f"failed with status {status}"
            if len(lives) > self._restarts:
                return 1
            reason += f"; restart {len(lives)} of at most {self._restarts} within a minute"
            time.sleep(min(PAUSE_MAX_S, PAUSE_S * 2 ** (len(lives) - 1)))

    def _start(self, reason: str) -> bool:
        """Start the daemon in a process group of its own; whether it is the first life."""
        first = not reason
        files = []
        if not first:  # nobody is at the other end of its link any more
            near, far = socketpair(AF_UNIX, SOCK_STREAM)
            far.close()
            files.append((os.POSIX_SPAWN_DUP2, near.fileno(), LINK_FD))
        environment = {**os.environ, **({} if first else {REASON: reason})}
        old = pthread_sigmask(SIG_BLOCK, _SIGNALS)  # `_end` must know of the process
        try:
            self._pid = os.posix_spawn(
                self._argv[0], self._argv, environment, file_actions=files, setpgroup=0, setsigmask=()
            )
        finally:
            pthread_sigmask(SIG_SETMASK, old)
        if first:
            os.close(LINK_FD)  # the starter is to see when the daemon lets go of it, and of standard error
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 2)
            os.close(null)
        else:
            near.close()
        return first

    def _wait(self) -> int:
        """The daemon's exit status, or minus the signal that killed it."""
        pid = self._pid
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        self._pid = 0  # it is still a zombie: until here its id is no other's
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def _end(self, number: int, frame: object) -> None:
        self._ending = True
        if not self._pid:
            os._exit(0)  # between two lives
        os.kill(self._pid, SIGTERM)


def main() -> None:
    """Entry of the process."""
    restarts, *paths = sys.argv[1:]
    boot = os.path.join(os.path.dirname(os.path.abspath(__file__)), "boot.py")
    os._exit(Supervisor([sys.executable, "-I", "-S", boot, *paths], int(restarts)).run())


if __name__ == "__main__":
    main()

"""A process that ends what an agent's workers and jobs started, should the agent be killed (PROC-1).

The kernel ends workers and leaders of jobs with their agent, but not what those started.  The keeper is a
shell that reads from a pipe that only the agent holds; when the pipe ends, it kills

- the process groups that the agent's table names, a file in memory that the shell reads only then, so that
  an entry costs one system call and wakes nobody;
- every process that carries the agent's tag in its environment (`orphans.AGENT_VARIABLE`) or in a limit
  (`orphans.mark`), wherever it went, until there is none.

The keeper holds about one megabyte.
"""

from __future__ import annotations

import os
from _signal import SIGKILL, pidfd_send_signal  # type: ignore[import-not-found]  # signal imports enum
from typing import Final

from spoke import _native, orphans

_TABLE_FD: Final = 3
_ENTRY: Final = "%10d\n"
_ENTRY_BYTES: Final = 11
_SCRIPT: Final = """
read -r nothing
while read -r group; do
    [ "$group" -gt 1 ] && kill -9 "-$group" 2> /dev/null
done <&3
[ -n "$1" ] || exit 0
round=0
while [ "$round" -lt 50 ]; do
    round=$((round + 1)) found=
    for file in $(grep -lsF "$1" /proc/[0-9]*/environ; grep -ls " $2[0-9]\\{6\\} " /proc/[0-9]*/limits); do
        pid=${file#/proc/} pid=${pid%/*}
        read -r stat 2> /dev/null < "/proc/$pid/stat" || continue
        case ${stat##*) } in [ZX]*) continue ;; esac  # it is dead, and shows its limits still
        [ "$pid" != $$ ] && kill -9 "$pid" 2> /dev/null && found=1
    done
    [ -n "$found" ] || exit 0
done
"""


class Keeper:
    """The keeper of one agent.

    Args:
        tag: value of `orphans.AGENT_VARIABLE` in the environment of all that stems from the agent; "": none.
    """

    def __init__(self, tag: str = "") -> None:
        self.pid = 0
        self.tag = tag
        self._pipe = -1
        self._pidfd = -1
        self._table = os.memfd_create("spoke-groups", os.MFD_CLOEXEC)
        self._places: dict[int, int] = {}  # group -> index of its entry
        self._free: list[int] = []
        self._size = 0

    def start(self) -> None:
        """Watch over the agent from now on; without a shell on the system nobody does."""
        if self._pipe >= 0 or self._table < 0:
            return
        theirs, ours = os.pipe()
        try:
            wanted = f"{orphans.AGENT_VARIABLE}={self.tag}" if self.tag else ""
            mark = orphans.mark_of(self.tag) if self.tag else ""
            argv = ["/bin/sh", "-c", _SCRIPT, "spoke-keeper", wanted, mark]
            fds = [(theirs, 0), (self._table, _TABLE_FD)]
            self.pid, self._pidfd = _native.spawn(argv, {"PATH": os.defpath}, None, fds, 0, True)
            self._pipe = ours
        except OSError:
            os.close(ours)
        finally:
            os.close(theirs)

    def add(self, group: int) -> None:
        """A process group lives."""
        if self._table < 0:
            return
        if self._free:
            place = self._free.pop()
        else:
            place = self._size
            self._size += 1
        self._places[group] = place
        self._write(place, group)

    def remove(self, group: int) -> None:
        """It has ended."""
        place = self._places.pop(group, None)
        if place is not None:
            self._free.append(place)
            self._write(place, 0)

    def _write(self, place: int, group: int) -> None:
        if self._table >= 0:
            os.pwrite(self._table, (_ENTRY % group).encode(), place * _ENTRY_BYTES)

    def close(self) -> None:
        """All has ended: nothing is left to keep."""
        if self._table >= 0:
            os.close(self._table)
            self._table = -1
        if self._pipe < 0:
            return
        try:
            pidfd_send_signal(self._pidfd, SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(self._pipe)
        os.close(self._pidfd)
        self._pipe = self._pidfd = -1
        self.pid = 0

"""A process that ends what an agent's jobs started, should the agent be killed (PROC-1).

The kernel ends a job's leader with its agent, but not what the leader started.  The keeper is a shell that
reads, from a pipe that only the agent writes, which process groups live; when the pipe ends, it kills them
and ends.  It is started with the first job and holds about one megabyte.
"""

from __future__ import annotations

import os
from typing import Final

from spoke import _native

_SCRIPT: Final = """
groups=' '
while read -r verb group; do
    case $verb in
        +) groups="$groups$group " ;;
        -) groups="${groups%% $group *} ${groups#* $group }" ;;
    esac
done
for group in $groups; do kill -9 "-$group" 2> /dev/null; done
"""


class Keeper:
    """The keeper of one agent."""

    def __init__(self) -> None:
        self.pid = 0
        self._pipe = -1
        self._pidfd = -1
        self._groups: dict[int, bool] = {}

    def add(self, group: int) -> None:
        """A process group lives.  Raises OSError: there can be no keeper."""
        if self._pipe < 0:
            self._start()
        self._groups[group] = True
        self._say(f"+ {group}\n")

    def remove(self, group: int) -> None:
        """It has ended."""
        if self._groups.pop(group, None) is not None:
            self._say(f"- {group}\n")

    def _start(self) -> None:
        theirs, self._pipe = os.pipe()
        try:
            argv = ["/bin/sh", "-c", _SCRIPT]
            self.pid, self._pidfd = _native.spawn(argv, {}, None, [(theirs, 0)], 0, True)
        except OSError:
            os.close(self._pipe)
            self._pipe = -1
            raise
        finally:
            os.close(theirs)

    def _say(self, line: str) -> None:
        try:
            os.write(self._pipe, line.encode())
        except OSError:
            pass  # somebody killed it: the agent itself still ends its jobs

    def close(self) -> None:
        """Every group has ended."""
        if self._pipe < 0:
            return
        for group in list(self._groups):
            self.remove(group)
        os.close(self._pipe)
        self._pipe = -1
        try:
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            pass
        os.close(self._pidfd)

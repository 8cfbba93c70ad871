"""Containers of jobs and of workers: who runs them, and how they end for certain.

podman and docker give a container to a process of their own, so the death of the command that started it
ends nothing.  Rules:

- Whose command was killed is removed by another command, and only then counts as ended (GANG-3).
- What is inside carries the agent's tags in its environment, by which it is found and killed when the agent
  cannot (`keeper`, `orphans`).  The commands carry neither these nor the agent's mark: what they leave
  running is who removes the container after that.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from spoke import _native, orphans
from spoke.loop import Loop

TAGS: Final = (orphans.AGENT_VARIABLE, orphans.VARIABLE)
_STEERING: Final = ("LD_", "CONTAINER", "DOCKER_", "XDG_", "TMPDIR", "HTTP", "NO_PROXY")  # the command itself
END_S: Final = 10.0  # for the command that removes a container
COULD_NOT: Final = 125  # exit code of the command when it could not start the container


def find(name: str, path: str | None) -> str | None:
    """The program of this name on a PATH."""
    for directory in (path or os.defpath).split(os.pathsep):
        candidate = os.path.join(directory, name)
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    return None


def is_podman(executable: str) -> bool:
    """Or docker, which has other options for some things."""
    return os.path.basename(executable) == "podman"


def ender(executable: str, name: str) -> list[str]:
    """The command line that kills and removes a container; podman would first ask it to stop, for 10 s."""
    return [executable, "rm", "-f", *(("-t", "0") if is_podman(executable) else ()), name]


def outside(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of podman and docker themselves."""
    return {name: value for name, value in environment.items() if name not in TAGS}


def shown_to_all(name: str, environment: Mapping[str, str]) -> bool:
    """Whether a variable's value has to stand in the command line, where every user of the machine sees it.

    The others are in the environment of the command, which takes them from there.
    """
    return name in environment or name in TAGS or name.startswith(_STEERING)


class Endings:
    """Removes the containers of one agent.

    Args:
        environment: of the commands.
    """

    def __init__(self, loop: Loop, environment: Mapping[str, str]) -> None:
        self._loop = loop
        self._environment = outside(environment)
        self._running: dict[int, int] = {}  # pidfd -> pid

    def end(self, argv: list[str], then: Callable[[], None]) -> None:
        """Run an `ender`; call `then` when it has ended, and after END_S anyway."""
        pidfd = self._start(argv)
        if pidfd < 0:
            then()
            return
        source = self._loop.reactor.watch(pidfd)

        def over() -> None:
            timer.cancel()
            self._loop.reactor.unwatch(source)
            self._loop.forget(source)
            self._reap(pidfd)
            then()

        timer = self._loop.after_s(END_S, over)
        self._loop.handle(source, lambda kind, meta, payload: over())

    def close(self, argvs: Iterable[list[str]]) -> None:
        """At the agent's end: run these, and wait for all."""
        for argv in argvs:
            self._start(argv)
        deadline = time.monotonic() + END_S
        while self._running and time.monotonic() < deadline:
            for pidfd, pid in list(self._running.items()):
                if not orphans.is_running(pid):
                    self._reap(pidfd)
            time.sleep(0.002)

    def _start(self, argv: list[str]) -> int:
        try:
            pid, pidfd = _native.spawn(argv, self._environment, None, [], 0, True)
        except OSError:
            return -1  # the runtime is gone, and its containers with it
        self._running[pidfd] = pid
        return pidfd

    def _reap(self, pidfd: int) -> None:
        del self._running[pidfd]
        try:
            _native.reap(pidfd)
        except ChildProcessError:
            pass  # a sweep did
        os.close(pidfd)

"""Starting worker processes: by the zygote where that is possible, otherwise by fork and exec.

What a process can only be given at its start (variables that the loader or the interpreter reads)
needs an exec; so does a system without subreapers, and a zygote that died or is slow to listen.  Either
way the result is the same to the caller: a child of this process, leading a process group of its own,
that dies with it (PROC-1), and a pidfd to watch it.
"""

from __future__ import annotations

import os
from _signal import SIGKILL  # type: ignore[import-not-found]  # a plain number: signal imports enum
from _socket import socket as _Socket
from collections.abc import Callable
from typing import Any

from spoke import _native, orphans, spawning
from spoke.core.shape import AT_START
from spoke.loop import Loop
from spoke.zygote import NUMBER_BYTES, pack_fds

Done = Callable[[int, int, str], None]  # pid, pidfd, "" | 0, -1, why not


class Order:
    """One worker to be."""

    __slots__ = ("argv", "changes", "config", "config_fd", "cwd", "done", "files", "keep_config")

    def __init__(
        self,
        config: dict[str, Any],
        changes: dict[str, str | None],
        cwd: str | None,
        files: tuple[int, int],
        done: Done,
        keep_config: bool = False,
        argv: list[str] | None = None,
    ) -> None:
        self.argv = argv  # a command line of its own, so that it cannot be forked
        self.config = config
        self.config_fd = -1  # with `keep_config`, when `done` is told of a process: the caller's to close
        self.keep_config = keep_config
        self.changes = changes  # of the environment; None removes a variable
        self.cwd = cwd
        self.files = files  # standard output and error; stay the caller's
        self.done = done

    def hold(self, config_fd: int) -> None:
        """The process has the file of its configuration: close it, or keep it for the caller."""
        if self.keep_config:
            self.config_fd = config_fd
        else:
            os.close(config_fd)

    def close(self) -> None:
        """There is no process: nobody is handed the file."""
        if self.config_fd >= 0:
            os.close(self.config_fd)
            self.config_fd = -1


class Nursery:
    """Starts the workers of one agent.

    Args:
        environment: what workers get, before each order's changes.
    """

    def __init__(self, loop: Loop, environment: dict[str, str]) -> None:
        self._loop = loop
        self.environment = environment
        self._control: _Socket | None = None
        self._source = -1
        self._zygote = (0, -1)  # pid, pidfd
        self._waiting: dict[bytes, Order] = {}
        self._number = 0

    @property
    def zygote_pid(self) -> int:
        """Process id of the zygote, 0 when there is none."""
        return self._zygote[0]

    def adopt_zygote(self, pid: int, control_fd: int) -> None:
        """Use the zygote that `boot` started; without one every worker is started by exec."""
        ours = _Socket(fileno=control_fd)
        if not _native.become_subreaper():
            ours.close()  # which ends it
            return
        try:
            self._zygote = (pid, os.pidfd_open(pid))
        except OSError:  # a kernel or sandbox without pidfd_open
            ours.close()
            return
        ours.setblocking(False)
        self._control = ours
        self._source = self._loop.reactor.watch(ours.fileno())
        self._loop.handle(self._source, lambda kind, meta, payload: self._read_answers())

    def start(self, order: Order) -> None:
        """Start a worker; `order.done` is called once, at once or soon."""
        order.changes.pop(orphans.AGENT_VARIABLE, None)  # not the user's to choose
        heeded = "PYTHONPATH" if "env" in order.config else ""  # by `spoke.envs.entering`
        at_start = (name for name in order.changes if name.startswith(AT_START) and name != heeded)
        by_exec = order.argv or any(at_start)
        if self._control is None or by_exec:
            self._exec(order)
            return
        self._number += 1
        number = self._number.to_bytes(NUMBER_BYTES, "little")
        config_fd = spawning.config_file({**order.config, "environment": order.changes, "cwd": order.cwd})
        try:
            self._control.sendmsg([number], pack_fds((config_fd, *order.files)))
        except OSError:  # it is busy beyond its queue, or gone
            os.close(config_fd)
            self._exec(order)
            return
        self._waiting[number] = order
        order.hold(config_fd)

    def coming(self) -> list[str]:
        """The ids of what was ordered, and may have been forked already."""
        return [order.changes.get(orphans.VARIABLE) or "" for order in self._waiting.values()]

    def close(self) -> None:
        """End the zygote.  Workers that it was about to start are orphans of this process, to be swept."""
        self._drop_zygote()
        for order in self._waiting.values():
            order.close()
        self._waiting.clear()

    def _exec(self, order: Order) -> None:
        environment = {**self.environment}
        for name, value in order.changes.items():
            if value is None:
                environment.pop(name, None)
            else:
                environment[name] = value
        config_fd = -1
        try:
            config_fd = spawning.config_file(order.config)
            out, err = order.files
            fds = [(out, 1), (err, 2), (config_fd, spawning.CONFIG_FD)]
            argv = order.argv or spawning.worker_argv()
            pid, pidfd = _native.spawn(argv, environment, order.cwd, fds, SIGKILL, True)
        except OSError as error:
            if config_fd >= 0:
                os.close(config_fd)
            order.done(0, -1, f"the worker process could not be started: {error}")
        else:
            order.hold(config_fd)
            order.done(pid, pidfd, "")

    def _read_answers(self) -> None:
        while self._control is not None:
            try:
                answer = self._control.recv(2 * NUMBER_BYTES)
            except BlockingIOError:
                return
            except OSError:
                answer = b""
            if not answer:
                self._zygote_died()
                return
            order = self._waiting.pop(answer[:NUMBER_BYTES], None)
            if order is not None:
                self._born(order, int.from_bytes(answer[NUMBER_BYTES:], "little", signed=True))

    def _born(self, order: Order, pid: int) -> None:
        if pid < 0:
            order.close()
            order.done(0, -1, f"the worker process could not be started: {os.strerror(-pid)}")
            return
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            order.close()
            order.done(0, -1, f"the worker process ended at once: {error}")
        else:
            try:
                os.setpgid(pid, pid)  # the worker does so itself, and may not have come to it
            except OSError:
                pass  # it has ended
            order.done(pid, pidfd, "")

    def _zygote_died(self) -> None:
        """Whatever killed it: from now on workers are started by exec, those it still owed first."""
        self._drop_zygote()
        orders, self._waiting = list(self._waiting.values()), {}
        for order in orders:
            order.close()
            self._exec(order)

    def _drop_zygote(self) -> None:
        if self._control is None:
            return
        self._loop.reactor.unwatch(self._source)
        self._loop.forget(self._source)
        self._control.close()
        self._control = None
        pid, pidfd = self._zygote
        self._zygote = (0, -1)
        try:
            os.kill(pid, SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(pidfd)

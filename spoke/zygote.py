"""The zygote: a process that is a worker but for its identity, and becomes workers by forking.

Starting an interpreter and importing the worker's modules costs tens of milliseconds of CPU and some
10 MiB for each worker; a fork of a process that has done so costs one or two, and shares the memory.
The agent starts one zygote and sends it, over descriptor 4, one request per worker:

    8-byte number, with three descriptors: configuration, standard output, standard error
    ◀── 8-byte number, 8-byte pid (or minus errno)

Rules: the zygote has one thread, runs no code of the user but what Python's start runs, and holds no
secret.  A worker is not its child: it forks twice, so that the worker becomes the child of the agent,
which is its subreaper; so the agent reaps it, its death signal is tied to the agent, and a dead zygote
takes nobody along.  The worker leads a process group before the agent learns its pid.
"""

from __future__ import annotations

import os
import sys
import time
from _signal import SIGKILL  # type: ignore[import-not-found]  # a plain number: signal imports enum
from _socket import CMSG_SPACE, SCM_RIGHTS, SOL_SOCKET
from _socket import socket as _Socket

from spoke import _native, spawning

NUMBER_BYTES = 8
_FDS = 3
_FD_BYTES = 4


def pack_fds(fds: tuple[int, ...]) -> list[tuple[int, int, bytes]]:
    """Ancillary data that carries descriptors."""
    return [(SOL_SOCKET, SCM_RIGHTS, b"".join(fd.to_bytes(_FD_BYTES, sys.byteorder) for fd in fds))]


def main() -> None:
    """Entry of the zygote; in each worker it returns only when the worker has ended."""
    agent = os.getppid()
    _native.set_death_signal(SIGKILL)
    if os.getppid() != agent:
        return  # which has died before that
    control = _Socket(fileno=spawning.LINK_FD)
    import gc

    import cloudpickle  # noqa: F401  # what every function of the user is unpickled with

    import spoke.jobprocess
    import spoke.worker

    _native.set_title("spoke-zygote")
    gc.collect()
    gc.freeze()  # what is there now is never looked at again, so its pages stay shared
    if serve(control, agent):
        spoke.worker.main()


def serve(control: _Socket, agent: int) -> bool:
    """Fork a worker per request until the agent closes the link; True in a worker."""
    while True:
        request, ancillary, _flags, _address = control.recvmsg(NUMBER_BYTES, CMSG_SPACE(_FDS * _FD_BYTES))
        if not request:
            return False
        fds = _unpack_fds(ancillary)
        try:
            middle = os.fork()
        except OSError as error:
            _answer(control, request, -(error.errno or 1))
        else:
            if middle == 0:
                return _fork_again(control, request, fds, agent)
            os.waitpid(middle, 0)
        for fd in fds:
            os.close(fd)


def _fork_again(control: _Socket, request: bytes, fds: list[int], agent: int) -> bool:
    """In the middle process: fork the worker, report it, end.  Returns in the worker only."""
    middle = os.getpid()
    try:
        worker = os.fork()
    except OSError as error:
        _answer(control, request, -(error.errno or 1))
        os._exit(1)
    if worker:
        try:
            os.setpgid(worker, worker)
            _answer(control, request, worker)
        finally:
            os._exit(0)
    os.setpgid(0, 0)
    control.close()
    if not adopted(middle, agent):
        os._exit(1)  # the agent is gone
    _become_worker(fds)
    return True


def adopted(middle: int, agent: int) -> bool:
    """Wait until the middle process has ended; whether the agent is the parent then, and tied to it.

    A dead agent's orphans go to the next subreaper above it, which need not be process 1.
    """
    while os.getppid() == middle:
        time.sleep(0.0002)
    _native.set_death_signal(SIGKILL)
    return os.getppid() == agent


def _become_worker(fds: list[int]) -> None:
    config, out, err = fds
    for ours, theirs in ((out, 1), (err, 2), (config, spawning.CONFIG_FD)):
        if ours != theirs:
            os.dup2(ours, theirs, inheritable=theirs < spawning.CONFIG_FD)
    for fd in fds:
        if fd > spawning.CONFIG_FD:
            os.close(fd)
    _native.set_title("spoke-worker")


def _answer(control: _Socket, request: bytes, pid: int) -> None:
    control.send(request + pid.to_bytes(NUMBER_BYTES, "little", signed=True))


def _unpack_fds(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    data = b"".join(piece for level, kind, piece in ancillary if (level, kind) == (SOL_SOCKET, SCM_RIGHTS))
    fds = [
        int.from_bytes(data[start : start + _FD_BYTES], sys.byteorder)
        for start in range(0, len(data), _FD_BYTES)
    ]
    for fd in fds:
        os.set_inheritable(fd, False)
    return fds

"""The zygote: a process that is a worker but for its identity, and becomes workers by forking.

Starting an interpreter and importing the worker's modules costs tens of milliseconds of CPU and some
10 MiB for each worker; a fork of a process that has done so costs one or two, and shares the memory.
The agent starts one zygote and sends it, over descriptor 4, one request per worker:

    8-byte number, with three descriptors: configuration, standard output, standard error
    ◀── 8-byte number, 8-byte pid (or minus errno)

Rules: the zygote has one thread, runs no code of the user but what Python's start runs, and holds no
secret.  A worker is its sibling, not its child (`_native.fork_sibling`): the agent reaps it, its death
signal is tied to the agent, and a dead zygote takes nobody along.
"""

from __future__ import annotations

import os
import sys
from _signal import SIGKILL  # type: ignore[import-not-found]  # a plain number: signal imports enum
from _socket import CMSG_SPACE, SCM_RIGHTS, SOL_SOCKET
from _socket import socket as _Socket
from errno import ENOSYS

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
    import spoke.orphans
    import spoke.worker

    _native.set_title("spoke-zygote")
    gc.freeze()  # what is there now is never looked at again, so its pages stay shared
    gc.enable()
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
            pid = _native.fork_sibling()
        except OSError as error:
            if error.errno == ENOSYS:
                return False  # so that the agent starts this one and all others by itself
            pid = -(error.errno or 1)
        if pid == 0:
            control.close()
            if not tied(agent):
                os._exit(1)
            _become_worker(fds)
            return True
        control.send(request + pid.to_bytes(NUMBER_BYTES, "little", signed=True))
        for fd in fds:
            os.close(fd)


def tied(agent: int) -> bool:
    """Tie this process to its parent; whether that is the agent still.

    A dead agent's orphans go to the next subreaper above it, which need not be process 1.
    """
    _native.set_death_signal(SIGKILL)
    return os.getppid() == agent


def _become_worker(fds: list[int]) -> None:
    os.setpgid(0, 0)
    config, out, err = fds
    for ours, theirs in ((out, 1), (err, 2), (config, spawning.CONFIG_FD)):
        if ours != theirs:
            os.dup2(ours, theirs, inheritable=theirs < spawning.CONFIG_FD)
    for fd in fds:
        if fd > spawning.CONFIG_FD:
            os.close(fd)


def _unpack_fds(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    data = b"".join(piece for level, kind, piece in ancillary if (level, kind) == (SOL_SOCKET, SCM_RIGHTS))
    fds = [
        int.from_bytes(data[start : start + _FD_BYTES], sys.byteorder)
        for start in range(0, len(data), _FD_BYTES)
    ]
    for fd in fds:
        os.set_inheritable(fd, False)
    return fds

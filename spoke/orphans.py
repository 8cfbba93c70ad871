"""Processes that a worker started and left behind.

The daemon makes itself the subreaper of everything below it (`prctl.become_subreaper`), so that a
grandchild whose parent died becomes its child, however the grandchild changed its session or group.
Such children are reaped, and killed once the worker that they stem from (by `SPOKE_WORKER_ID` in their
environment, or where that was cleared by their `mark`) is gone.
"""

from __future__ import annotations

import os
import resource
from _signal import SIGKILL  # type: ignore[import-not-found]  # a plain number: signal imports enum
from binascii import crc32
from collections.abc import Iterable

from spoke import _native, config
from spoke.machine import read_text

VARIABLE = "SPOKE_WORKER_ID"
AGENT_VARIABLE = "SPOKE_AGENT"  # the same for all that stems from one life of an agent, see `keeper`


def mark_of(tag: str) -> str:
    """The first digits of the numbers by which limits show an agent's tag; no process has them by chance."""
    return f"4{int(tag, 16) % 10**12:012d}"


def mark(tag: str, pid: int, owner: str = "") -> None:
    """Mark a process (0: this one) and all that it will start, beyond what a program clears: by the soft
    limit RLIMIT_RTTIME, which children inherit, nobody uses, and everybody may read.

    Args:
        tag: of the agent; "" takes the mark away.
        owner: the id, in hexadecimal, of the worker or job that the process is of.
    """
    try:
        soft, hard = resource.prlimit(pid, resource.RLIMIT_RTTIME)
        soft = int(mark_of(tag) + _number_of(owner)) if tag else hard
        resource.prlimit(pid, resource.RLIMIT_RTTIME, (soft, hard))
    except (OSError, ValueError):
        pass  # it has ended, or another limit is set here: the environment has to do


def mark_this() -> None:
    """Mark this process by what its environment says that it is of."""
    environment = config.environment()
    if tag := environment.get(AGENT_VARIABLE, ""):
        mark(tag, 0, environment.get(VARIABLE, ""))


def spawn(
    tag: str,
    owner: str | None,
    argv: list[str],
    environment: dict[str, str],
    cwd: str | None,
    fds: list[tuple[int, int]],
) -> tuple[int, int]:
    """Start a process that dies with this one and is marked from its first moment, or not at all (None)."""
    mark(tag if owner is not None else "", 0, owner or "")
    try:
        return _native.spawn(argv, environment, cwd, fds, SIGKILL, True)
    finally:
        mark(tag, 0)


def _number_of(owner: str) -> str:
    """The last digits of a mark: an owner that shares them with another spares what that one left."""
    return f"{crc32(owner.encode()) % 999_999 + 1:06d}" if owner else "000000"


def children(parent: int = 0) -> list[int]:
    """Process ids of a process's children (default: this process's), zombies included."""
    parent = parent or os.getpid()
    tasks = f"/proc/{parent}/task"
    if os.path.exists(f"{tasks}/{parent}/children"):
        listed = [read_text(f"{tasks}/{thread}/children") for thread in _listdir(tasks)]
        return [int(word) for text in listed for word in text.split()]
    # A kernel built without that file: look at every process.
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and _parent(name) == parent]


def is_running(pid: int) -> bool:
    """Does a process live?  One that only waits to be reaped does not."""
    after_name = read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return bool(after_name) and after_name[0] not in "ZX"


NODE_VARIABLE = "SPOKE_NODE_ID"  # of the processes of submitted jobs


def end_earlier(node_id: bytes) -> int:
    """Kill what jobs of an earlier life of this node left, which was killed and could not; how many."""
    wanted = f"{NODE_VARIABLE}={node_id.hex()}"
    killed = 0
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        if wanted in read_text(f"/proc/{name}/environ").split("\0"):
            try:
                os.kill(int(name), SIGKILL)
                killed += 1
            except (ProcessLookupError, PermissionError):
                pass  # it ended by itself, or is another user's
    return killed


def sweep(
    workers: dict[int, bytes], everything: bool = False, tag: str = "", coming: Iterable[str] = ()
) -> int:
    """Reap dead orphans, kill those whose worker is gone; returns how many orphans still live.

    Args:
        workers: pid -> worker id of the live workers, which are left alone.
        everything: kill every orphan, whatever its worker.
        tag: of the agent whose marks count.
        coming: ids, in hexadecimal, of workers that may run already, though nobody has heard of their pids.
    """
    alive = {*(worker_id.hex() for worker_id in workers.values()), *coming}
    alive.update([_number_of(owner) for owner in alive])
    left = 0
    for pid in children():
        if pid in workers:
            continue
        try:
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                continue
        except ChildProcessError:
            continue
        left += 1
        origin = _origin(pid) or (_marked(pid, mark_of(tag)) if tag else "")
        if everything or (origin and origin not in alive):
            try:
                os.kill(pid, SIGKILL)
            except ProcessLookupError:
                continue
    return left


def signal_group(pid: int, number: int) -> None:
    """Send a signal to a process group; nothing happens where it is gone."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):  # gone, or only zombies are left
        pass


def _listdir(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _parent(pid: str) -> int:
    after_name = read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(after_name[1]) if len(after_name) > 1 else 0


def _origin(pid: int) -> str:
    for entry in read_text(f"/proc/{pid}/environ").split("\0"):
        if entry.startswith(VARIABLE + "="):
            return entry[len(VARIABLE) + 1 :]
    return ""


def _marked(pid: int, prefix: str) -> str:
    """The number of the owner in a process's mark; "" without one."""
    _, found, rest = read_text(f"/proc/{pid}/limits").partition(f" {prefix}")
    return rest[:6] if found and rest[:6].isdigit() and rest[:6] != "000000" else ""

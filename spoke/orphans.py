"""Processes that a worker started and left behind.

The daemon makes itself the subreaper of everything below it (`prctl.become_subreaper`), so that a
grandchild whose parent died becomes its child, however the grandchild changed its session or group.
Such children are reaped, and killed once the worker that they stem from (by `SPOKE_WORKER_ID` in their
environment) is gone.
"""

from __future__ import annotations

import os
from _signal import SIGKILL  # type: ignore[import-not-found]  # a plain number: signal imports enum

from spoke.machine import read_text

VARIABLE = "SPOKE_WORKER_ID"
AGENT_VARIABLE = "SPOKE_AGENT"  # the same for all that stems from one life of an agent, see `keeper`


def mark_of(tag: str) -> int:
    """A number for an agent's tag that no process's limit has by chance, and that limits nothing."""
    return 1 << 62 | int(tag, 16) >> 2


def mark(tag: str, pids: tuple[int, ...]) -> None:
    """Mark processes (0: this one) and all that they will start, beyond what a program clears: by the soft
    limit RLIMIT_RTTIME, which children inherit, nobody uses, and everybody may read.  "" takes it away.
    """
    import resource

    for pid in pids:
        try:
            hard = resource.prlimit(pid, resource.RLIMIT_RTTIME)[1]
            soft = mark_of(tag) if tag else hard
            resource.prlimit(pid, resource.RLIMIT_RTTIME, (soft, hard))
        except (OSError, ValueError):
            pass  # it has ended, or another limit is set here: the environment has to do


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


def sweep(workers: dict[int, bytes], everything: bool = False) -> int:
    """Reap dead orphans, kill those whose worker is gone; returns how many orphans still live.

    Args:
        workers: pid -> worker id of the live workers, which are left alone.
        everything: kill every orphan, whatever its worker.
    """
    alive = {worker_id.hex() for worker_id in workers.values()}
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
        origin = _origin(pid)
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

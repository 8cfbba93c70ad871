"""The memory limit of a job's processes: a cgroup where this user may make one, else a watcher.

With cgroup v2 the kernel ends all processes of the job at once when they pass the limit, and what is left
of a job ends with its cgroup, wherever it went.  Where the hierarchy is not delegated to this user, the
agent looks at what the job's processes hold, some times a second, and kills them all; what a process shares
with the page cache does not count.
"""

from __future__ import annotations

import os
from errno import EBUSY, ENODEV
from typing import Final

from spoke import orphans
from spoke.machine import read_text

ROOT: Final = "/sys/fs/cgroup"
_LEAF: Final = "spoke-agent"  # the cgroup of the agent and its workers, where it had to make room for jobs
LOOK_S: Final = 0.1  # between two looks of the watcher


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for one in found:
        try:
            found.extend(orphans.children(one))
        except OSError:
            pass  # it ended meanwhile
    return found


def held_bytes(pid: int) -> int:
    """What a process and all below it hold: anonymous and shared memory, without mapped files."""
    total = 0
    for one in tree(pid):
        for line in read_text(f"/proc/{one}/status").splitlines():
            if line.startswith(("RssAnon:", "RssShmem:")):
                total += int(line.split()[1]) * 1024
    return total


class Cgroup:
    """A cgroup of one job.

    Raises (from `create`):
        OSError: cgroup v2 with a memory controller is not there, or not this user's to divide.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    @classmethod
    def create(cls, name: str, memory: int, root: str = ROOT) -> Cgroup:
        """A new cgroup with a limit in bytes, in a place that `_parent` finds."""
        path = os.path.join(_parent(root), name)
        os.mkdir(path)
        found = cls(path)
        try:
            _write(os.path.join(path, "memory.max"), str(memory))
            _write(os.path.join(path, "memory.oom.group"), "1")
            if os.path.exists(os.path.join(path, "memory.swap.max")):
                _write(os.path.join(path, "memory.swap.max"), "0")
        except OSError:
            found.remove()
            raise
        return found

    @property
    def door(self) -> str:
        """A file: the process that writes "0" there is in the cgroup, and so is all that it starts then."""
        return os.path.join(self.path, "cgroup.procs")

    def entering(self) -> tuple[str, ...]:
        """A command line that enters and then becomes the one that follows it."""
        return "/bin/sh", "-c", 'echo 0 > "$0" && exec "$@"', self.door

    def exceeded(self) -> bool:
        """Whether the kernel killed for this limit."""
        words = read_text(os.path.join(self.path, "memory.events")).split()
        return "oom_kill" in words and words[words.index("oom_kill") + 1] != "0"

    def remove(self) -> bool:
        """Kill what is left in it and remove it; False while a process is still ending."""
        try:
            _write(os.path.join(self.path, "cgroup.kill"), "1")
        except OSError:
            pass  # Linux before 5.14, or it is gone
        try:
            os.rmdir(self.path)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True


def _parent(root: str) -> str:
    """A cgroup that gives its children limits of memory: this process's own, or the one above it.

    A cgroup with processes in it cannot, but for the root's.  So the own one serves where it is the root's,
    and where nothing but this process and what stems from it is in it, as in a service of its own to which
    systemd delegates (they go to a child then).  The one above serves where it does so for others already.
    """
    lines = read_text("/proc/self/cgroup").splitlines()
    own = next((line[3:] for line in lines if line.startswith("0::")), None)
    if own is None:
        raise OSError(ENODEV, "this process is in no cgroup of version 2")
    path = os.path.join(root, own.strip("/")).rstrip("/")
    if "memory" not in read_text(os.path.join(path, "cgroup.controllers")).split():
        raise OSError(ENODEV, f"no memory controller at {path}")
    above = os.path.dirname(path) if own.strip("/") else path
    if os.path.basename(path) == _LEAF and _divides(above):
        return above
    try:
        _write(os.path.join(path, "cgroup.subtree_control"), "+memory")
        return path
    except OSError as error:
        if error.errno == EBUSY and _step_down(path):
            _write(os.path.join(path, "cgroup.subtree_control"), "+memory")
            return path
        if _divides(above):
            return above
        raise


def _divides(path: str) -> bool:
    """Whether the cgroup gives its children limits of memory, and is this user's to make children in."""
    enabled = "memory" in read_text(os.path.join(path, "cgroup.subtree_control")).split()
    return enabled and os.access(path, os.W_OK) and os.access(os.path.join(path, "cgroup.procs"), os.W_OK)


def _step_down(path: str) -> bool:
    """Move what is in a cgroup to a child of it, if all of it stems from this process; whether it did."""
    inside = [int(word) for word in read_text(os.path.join(path, "cgroup.procs")).split()]
    if not set(inside) <= set(tree(os.getpid())):
        return False
    leaf = os.path.join(path, _LEAF)
    os.makedirs(leaf, exist_ok=True)
    for pid in inside:
        try:
            _write(os.path.join(leaf, "cgroup.procs"), str(pid))
        except ProcessLookupError:
            pass  # it has ended
    return True


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)

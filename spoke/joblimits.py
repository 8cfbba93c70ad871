"""The memory limit of a job's processes: a cgroup where this user may make one, else a watcher.

With cgroup v2 the kernel ends all processes of the job at once when they pass the limit.  Where the
hierarchy is not delegated to this user, the agent looks at what the job's processes hold, some times a
second, and kills them all; what a process shares with the page cache does not count.
"""

from __future__ import annotations

import os
from typing import Final

from spoke import orphans
from spoke.machine import read_text

ROOT: Final = "/sys/fs/cgroup"
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
        OSError: cgroup v2 is not there, or not this user's to divide.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    @classmethod
    def create(cls, name: str, memory: int, cpus: float = 0.0, root: str = ROOT) -> Cgroup:
        """A new cgroup below this process's own, with a limit in bytes."""
        own = ""
        for line in read_text("/proc/self/cgroup").splitlines():
            if line.startswith("0::"):
                own = line[3:].strip("/")
        parent = os.path.join(root, own)
        if not os.path.exists(os.path.join(parent, "cgroup.controllers")):
            raise OSError(f"no cgroup v2 at {parent}")
        _write(os.path.join(parent, "cgroup.subtree_control"), "+memory")
        path = os.path.join(parent, name)
        os.mkdir(path)
        found = cls(path)
        try:
            _write(os.path.join(path, "memory.max"), str(memory))
            _write(os.path.join(path, "memory.oom.group"), "1")
        except OSError:
            found.remove()
            raise
        return found

    def add(self, pid: int) -> None:
        """Move a process in; what it starts follows."""
        _write(os.path.join(self.path, "cgroup.procs"), str(pid))

    def exceeded(self) -> bool:
        """Whether the kernel killed for this limit."""
        words = read_text(os.path.join(self.path, "memory.events")).split()
        return "oom_kill" in words and words[words.index("oom_kill") + 1] != "0"

    def remove(self) -> None:
        """Remove it once its processes are gone."""
        try:
            os.rmdir(self.path)
        except OSError:
            pass  # a process is still ending; an empty cgroup holds nothing


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)

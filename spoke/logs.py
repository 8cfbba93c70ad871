"""Workers' output: one file per worker and stream, followed by the agent, shown by the driver.

A worker writes straight into its files and is never held up by a reader.  The agent looks at the files
again and again, often while something is written and rarely while nothing is, and sends on whole
lines.  Which task or actor printed is told by the worker in the stream itself: a line that begins with
`MARK` names what the following lines belong to, and is not shown.  A reader that falls far behind
skips, and says so (LIM-1); the file keeps everything.

The files are ``worker-<id>.out`` and ``.err``, never shared.  Those of a gang's ranks stand in the gang's
folder, with a link ``rank-<n>.out`` to the latest attempt of each rank.  Empty files go when their worker
does; in a directory of our own, so do all but the latest.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Final

from spoke import limits

MARK: Final = b"\x1espoke:"  # ASCII "record separator": not something that programs print

READ_BYTES: Final = 256 * 1024  # per file and look
BEHIND_BYTES: Final = 4 * 1024 * 1024  # further behind than this, the follower skips
BUSY_S: Final = 0.05  # between looks while something is written
IDLE_S: Final = 0.5
TAIL_BYTES: Final = 4096
KEPT_LOGS: Final = 200  # files of dead workers that are kept in a directory of our own
SUFFIXES: Final = (".out", ".err")
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


def marker(name: str) -> bytes:
    """What a worker writes into both its streams when `name` (task or actor) starts to use them."""
    return MARK + name.replace("\n", " ").encode("utf-8", "replace") + b"\n"


def format_lines(name: str, pid: int, host: str, lines: list[str], color: bool = False) -> str:
    """Lines of a worker as the driver prints them, each with its origin: ``(name pid=7) text``.

    Args:
        host: shown as ``ip=host``; empty for the driver's own node.
    """
    where = f", ip={host}" if host else ""
    prefix = f"({name + ' ' if name else ''}pid={pid}{where})"
    if color:
        prefix = f"\x1b[36m{prefix}\x1b[0m"
    return "".join(f"{prefix} {line}\n" for line in lines)


class Follower:
    """Reads what was appended to one file since the last look."""

    __slots__ = ("_fd", "_part", "_position", "name")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._position = 0
        self._part = b""
        self.name = ""

    def read(self, final: bool = False) -> list[tuple[str, list[str]]]:
        """New lines, in groups of (name of the task or actor, lines); at most `READ_BYTES` at a time.

        Args:
            final: also give out a last line that has no line end.
        """
        groups: list[tuple[str, list[str]]] = []
        behind = os.fstat(self._fd).st_size - self._position
        if behind > BEHIND_BYTES:
            skipped = behind - READ_BYTES
            self._position += skipped
            self._part = b""
            groups.append((self.name, [f"[{skipped} bytes of output not shown; the log file has them]"]))
            behind -= skipped
        if behind > 0:
            data = os.pread(self._fd, min(behind, READ_BYTES), self._position)
            self._position += len(data)
            lines = (self._part + data).split(b"\n")
            self._part = lines.pop()
            if len(self._part) > limits.MAX_LOG_LINE_CHARS and not self._part.startswith(MARK):
                lines.append(self._part)
                self._part = b""
            self._collect(lines, groups)
        if final and self._part:
            self._collect([self._part], groups)
            self._part = b""
        return groups

    def _collect(self, lines: list[bytes], groups: list[tuple[str, list[str]]]) -> None:
        for line in lines:
            text, mark, name = line.partition(MARK)
            if text or not mark:
                if not groups or groups[-1][0] != self.name:
                    groups.append((self.name, []))
                shown = text[: limits.MAX_LOG_LINE_CHARS].rstrip(b"\r")
                groups[-1][1].append(shown.decode("utf-8", "replace"))
            if mark:
                self.name = name.decode("utf-8", "replace")


def tail(fd: int) -> str:
    """The last lines of a file for an obituary: at most 4 KiB and `limits.STDERR_TAIL_LINES` lines."""
    size = os.fstat(fd).st_size
    data = os.pread(fd, TAIL_BYTES, max(0, size - TAIL_BYTES))
    lines = [line for line in data.split(b"\n") if line.strip() and not line.startswith(MARK)]
    return b"\n".join(lines[-limits.STDERR_TAIL_LINES :]).decode("utf-8", "replace")


def prepare_dir(path: str) -> None:
    """Make `path` (and what is above it) for this user's eyes only.

    Raises:
        OSError: it cannot be made or written, or belongs to another user (PermissionError).
    """
    os.makedirs(path, mode=0o700, exist_ok=True)
    status = os.lstat(path)
    if status.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to another user")
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} cannot be written")


class LogFiles:
    """The files below one directory.

    Args:
        keep: the user named the directory; nothing that was written there is removed.
    """

    def __init__(self, root: str, keep: bool) -> None:
        self._root = root
        self._keep = keep
        self._old: deque[str] = deque()

    def open(self, worker_id: bytes, place: str | None) -> tuple[str, tuple[int, int]]:
        """Make a worker's files: the path without suffix, and the two descriptors.

        Args:
            place: None, or folder and name of the link, such as ``gang-<id>/rank-0``.

        Raises:
            OSError: a file cannot be made.
            ValueError: `place` is not of that form.
        """
        folder, label = _split(place)
        directory = os.path.join(self._root, folder)
        if folder:
            os.makedirs(directory, mode=0o700, exist_ok=True)
        name = f"worker-{worker_id.hex()}"
        base = os.path.join(directory, name)
        out = os.open(base + ".out", _FLAGS, 0o600)
        try:
            files = out, os.open(base + ".err", _FLAGS, 0o600)
        except OSError:
            os.close(out)
            raise
        _link(directory, label, name)
        return base, files

    def move(self, base: str, place: str | None) -> str:
        """Give the files of a live worker another place; its descriptors and ours go on as they are.

        Raises:
            OSError: a file cannot be moved.
            ValueError: `place` is not of the form that `open` says.
        """
        folder, label = _split(place)
        if not folder:
            return base
        directory, name = os.path.join(self._root, folder), os.path.basename(base)
        os.makedirs(directory, mode=0o700, exist_ok=True)
        for suffix in SUFFIXES:
            os.rename(base + suffix, os.path.join(directory, name + suffix))
        _link(directory, label, name)
        return os.path.join(directory, name)

    def put_away(self, base: str, files: tuple[int, int]) -> None:
        """A worker is gone; its descriptors are still open."""
        for fd, suffix in zip(files, SUFFIXES, strict=True):
            if os.fstat(fd).st_size == 0:
                self._remove(base + suffix)
            elif not self._keep:
                self._old.append(base + suffix)
        while len(self._old) > KEPT_LOGS:
            self._remove(self._old.popleft())

    def _remove(self, path: str) -> None:
        unlink(path)
        directory, name = os.path.split(path)
        if directory == self._root:
            return
        try:
            for entry in os.listdir(directory):
                link = os.path.join(directory, entry)
                if os.path.islink(link) and os.readlink(link) == name:
                    unlink(link)
            os.rmdir(directory)
        except OSError:
            pass  # other files are there


def _link(directory: str, label: str, name: str) -> None:
    """Let the label of a rank name its latest files."""
    if label:
        for suffix in SUFFIXES:
            link = os.path.join(directory, label + suffix)
            unlink(link)
            os.symlink(name + suffix, link)


def _split(place: str | None) -> tuple[str, str]:
    if place is None:
        return "", ""
    folder, _, label = place.partition("/")
    if not all(part.replace("-", "").isalnum() and part.isascii() for part in (folder, label)):
        raise ValueError(f"{place!r} is no place for log files")
    return folder, label


def unlink(path: str) -> None:
    """Remove a file if it is there."""
    try:
        os.unlink(path)
    except OSError:
        pass

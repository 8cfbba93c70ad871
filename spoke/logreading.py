"""Answers for who wants to read the files of a node's log directory, asked through the hub.

A question names files and a position in each, and gets what follows there, at most `CHUNK_BYTES` in all;
one that wants to wait is answered as soon as a file has more.  Only regular files that really are below the
directory are read, whatever the names and links say.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, Final

from spoke.joblogs import CHUNK_BYTES, tail_offset
from spoke.logs import MARK
from spoke.loop import Loop, Timer
from spoke.wire import LOG_CHUNK

FILES_MAX: Final = 512  # of one question
LEAST_BYTES: Final = 2048  # of a file
NAMES_MAX: Final = 10_000  # of a list
WAIT_MAX_S: Final = 10.0
WAITING_MAX: Final = 256  # questions (LIM-1)
LOOK_S: Final = 0.1  # between looks while somebody waits
File = tuple[str, int | None, int]  # name, position, or None and how many of the last lines
_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


class LogReading:
    """The files below `root`."""

    def __init__(self, loop: Loop, root: str, emit: Callable[[tuple[Any, ...]], None]) -> None:
        self._loop = loop
        self._root = root
        self._emit = emit
        self._waiting: list[tuple[int, list[File], float]] = []  # question, files, until when
        self._timer: Timer | None = None

    def asked(self, number: int, args: dict[str, Any]) -> None:
        """A question of the hub: for names that match ``glob``, or for what stands in ``files``.

        Each of ``files`` is [name, position, lines]: where to begin, or, if that is None, how many of the
        last lines to begin before.  ``within_s`` is how long to wait for more.
        """
        try:
            if "glob" in args:
                self._emit((LOG_CHUNK, number, None, self._names(str(args["glob"]))))
                return
            files = [(str(name), position, lines) for name, position, lines in args["files"]]
            if len(files) > FILES_MAX:
                raise ValueError(f"at most {FILES_MAX} files are read at a time")
            within_s = min(float(args.get("within_s") or 0), WAIT_MAX_S)
            if within_s > 0 and len(self._waiting) >= WAITING_MAX:
                raise ValueError(f"{WAITING_MAX} readers wait for output of this node already")
            self._answer(number, files, time.monotonic() + within_s)
        except (KeyError, TypeError, ValueError, OSError) as error:
            self._emit((LOG_CHUNK, number, ["ValueError", str(error)], None))

    def _answer(self, number: int, files: list[File], until: float) -> None:
        """Now, or when there is something, or time is up."""
        found = self._read(files)
        if any(one and one[1] for one in found) or time.monotonic() >= until:
            self._emit((LOG_CHUNK, number, None, found))
            return
        files = [(file[0], one[0] if one else 0, 0) for file, one in zip(files, found, strict=True)]
        self._waiting.append((number, files, until))
        if self._timer is None:
            self._timer = self._loop.after_s(LOOK_S, self._look)

    def _look(self) -> None:
        self._timer = None
        waiting, self._waiting = self._waiting, []
        for number, files, until in waiting:
            try:
                self._answer(number, files, until)
            except (ValueError, OSError) as error:
                self._emit((LOG_CHUNK, number, ["ValueError", str(error)], None))

    def _names(self, pattern: str) -> dict[str, Any]:
        """Paths below the directory, at most one folder down, that match as a whole or by their last part."""
        found = []
        for name in self._listed(""):
            if os.path.isdir(os.path.join(self._root, name)):
                found += [f"{name}/{inner}" for inner in self._listed(name)]
            else:
                found.append(name)
        names = [
            name
            for name in found
            if fnmatchcase(name, pattern) or fnmatchcase(name.rpartition("/")[2], pattern)
        ]
        return {"names": names[:NAMES_MAX], "left_out": len(names[NAMES_MAX:])}

    def _listed(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(os.path.join(self._root, folder)))
        except OSError:
            return []

    def _read(self, files: list[File]) -> list[list[Any] | None]:
        """[position, what stands there] of each; None: there is no such file."""
        most = max(LEAST_BYTES, CHUNK_BYTES // max(1, len(files)))
        found: list[list[Any] | None] = []
        for name, position, lines in files:
            fd = self._open(name)
            if fd is None:
                found.append(None)
                continue
            try:
                start = _start(fd, lines) if position is None else position
                found.append([start, os.pread(fd, most, start)])
            finally:
                os.close(fd)
        return found

    def _open(self, name: str) -> int | None:
        """A file by its path below the directory, or by its name alone where it stands in a folder.

        Raises:
            ValueError: it leads out of the directory, or is no regular file.
        """
        folders = [""]
        if "/" not in name:
            folders += [each for each in self._listed("") if os.path.isdir(os.path.join(self._root, each))]
        for folder in folders:
            try:
                fd = os.open(os.path.join(self._root, folder, name), _FLAGS)
            except OSError:
                continue
            inside = os.path.realpath(self._root) + "/"
            if os.readlink(f"/proc/self/fd/{fd}").startswith(inside) and stat.S_ISREG(os.fstat(fd).st_mode):
                return fd
            os.close(fd)
            raise ValueError(f"{name!r} is no file of the log directory")
        return None


def _start(fd: int, lines: int) -> int:
    """Where the last lines of a file begin; those that only tell whose output follows are none."""
    return tail_offset(lambda at, size: os.pread(fd, size, at), os.fstat(fd).st_size, lines, MARK)

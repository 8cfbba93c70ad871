"""The files that attempts of jobs write their output to, and their use by one attempt after another.

Making a file costs 20 us on a good day, and a millisecond where many were removed in the minutes before (ext4
looks for inodes that were not freed lately).  So where nothing of an ended attempt is to stay on the disk, a
little output is kept in memory, and its file gets the next attempt's name.  Only a file that nobody else has
open is used again, which a lease of the kernel says for certain: what outlived its attempt never writes into
the log of another one.
"""

from __future__ import annotations

import fcntl
import os
from _signal import SIG_IGN, SIGIO, signal  # type: ignore[import-not-found]  # the module signal imports enum
from typing import Final

from spoke.joblogs import Output

KEPT_BYTES: Final = 4096  # of an ended attempt's output, in memory
SPARE_MAX: Final = 64


class OutputFiles:
    """The files of one agent's attempts.

    Args:
        keep: they stay on the disk; otherwise they are removed once nobody can read them.
    """

    def __init__(self, keep: bool) -> None:
        self._keep = keep
        self._spare: list[tuple[str, int]] = []  # empty ones: path, descriptor
        signal(SIGIO, SIG_IGN)  # comes when somebody opens a file while there is a lease on it

    def open(self, path: str) -> Output:
        """An empty file for the output of an attempt."""
        if self._spare:
            before, fd = self._spare.pop()
            try:
                os.rename(before, path)
                return Output(path, fd)
            except OSError:  # somebody has removed it
                os.close(fd)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return Output(path, os.open(path, flags, 0o600))

    def settle(self, output: Output) -> None:
        """The attempt has ended: its file may be used again."""
        size = output.size()
        if self._keep or size > KEPT_BYTES or len(self._spare) >= SPARE_MAX:
            return
        data = output.read(0)
        try:
            fd = os.open(output.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except OSError:
            return  # somebody has removed it
        if os.fstat(fd).st_ino != os.fstat(output.fd).st_ino:
            os.close(fd)
            return
        output.close()
        output.fd = fd  # no process of the attempt has this description of the file, which a lease would miss
        try:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError:
            return  # somebody has it open, or this file system has no leases
        if os.fstat(fd).st_size == len(data):
            os.ftruncate(fd, 0)
            self._spare.append((output.path, fd))
            output.keep(data)

    def forget(self, output: Output) -> None:
        """Nobody reads it any more."""
        if output.fd >= 0:
            output.close()
            if not self._keep:
                _unlink(output.path)

    def close(self) -> None:
        """Remove what is spare."""
        for path, fd in self._spare:
            os.close(fd)
            _unlink(path)
        self._spare.clear()


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass

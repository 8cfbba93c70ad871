"""The result of a job's function: a file that its process writes and its agent reads when it has ended.

The agent holds the file open, so the result has no name and leaves nothing behind.  It lies far behind what
else the file may hold, and its length is written last: one that was cut short is none.
"""

from __future__ import annotations

import os
from errno import EBADF
from typing import Final

from spoke.limits import MAX_JOB_BLOB_BYTES

VALUE: Final = b"V"  # first byte: a pickled value follows
ERROR: Final = b"E"  # what `errorpack.pack` made of an exception follows

# Of the directory that a container shares with its agent.
JOB_FILE: Final = "job"  # what `jobprocess` runs
RESULT_FILE: Final = "result"
HEALTH_FILE: Final = "health"

_START: Final = 4 * MAX_JOB_BLOB_BYTES
_LENGTH_BYTES: Final = 8
_MAX_BYTES: Final = MAX_JOB_BLOB_BYTES + 65536


class Result:
    """The writing end, in the process of the job."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._file = _file(fd)

    def write(self, kind: bytes, body: bytes) -> None:
        """Keep the result.

        Raises:
            OSError: there is no room, or the user's code has closed the file.
        """
        if _file(self._fd) != self._file:
            raise OSError(EBADF, "the file for the result was closed by the job's code")
        os.pwrite(self._fd, kind + body, _START + _LENGTH_BYTES)
        os.pwrite(self._fd, (1 + len(body)).to_bytes(_LENGTH_BYTES, "little"), _START)


def _file(fd: int) -> tuple[int, int]:
    try:
        found = os.fstat(fd)
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def read(fd: int) -> bytes | None:
    """The kind and the body; None when no result was kept."""
    length = int.from_bytes(os.pread(fd, _LENGTH_BYTES, _START), "little")
    if not 0 < length <= _MAX_BYTES:
        return None
    found = os.pread(fd, length, _START + _LENGTH_BYTES)
    return found if len(found) == length else None

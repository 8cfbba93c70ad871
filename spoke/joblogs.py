"""The output of job attempts on their node: two files each, read by offset, so that no line is lost.

Readers name a position in each file and get what follows it, whole (`Reader`); one that follows waits until
there is more, or the attempt has ended.  When something was written is known to a look of the agent (about
50 ms): `since` begins at the first look at or after the given time, rounded towards more lines.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

CHUNK_BYTES: Final = 1024 * 1024  # of one answer and file
SAMPLES_MAX: Final = 4096
LINE_BYTES: Final = 500  # of `last_line`, at most
TAIL_BYTES: Final = 32 * 1024 * 1024  # that are looked through for the last lines
SOURCES: Final = ("stdout", "stderr")


class Output:
    """One file of an attempt."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd  # -1: what it held is in memory (`keep`)
        self._kept = b""
        self._samples: list[tuple[int, int]] = []  # (milliseconds, size before what was written then)
        self._size = 0

    def size(self) -> int:
        return os.fstat(self.fd).st_size if self.fd >= 0 else len(self._kept)

    def keep(self, data: bytes) -> None:
        """The attempt has ended, this is all it wrote, and the file is another's from now on."""
        self.fd = -1
        self._kept = data

    def look(self, now_ms: int) -> bool:
        """Note the time of what was written since the last look; whether something was."""
        size = self.size()
        if size == self._size:
            return False
        self._samples.append((now_ms, self._size))
        self._size = size
        if len(self._samples) > SAMPLES_MAX:
            del self._samples[1::2]  # coarser, and still from the beginning
        return True

    def offset_at(self, since_ms: int) -> int:
        """Where what was written at or after this time begins, or before it."""
        for when, offset in self._samples:
            if when >= since_ms:
                return offset
        return self.size()

    def tail_offset(self, lines: int) -> int:
        """Where the last `lines` lines begin."""
        return tail_offset(self._piece, self.size(), lines)

    def read(self, offset: int) -> bytes:
        return self._piece(offset, CHUNK_BYTES)

    def last_line(self) -> str:
        """What was written last, for the reason of a failure."""
        lines = (
            self._piece(max(0, self.size() - LINE_BYTES), LINE_BYTES).decode("utf-8", "replace").split("\n")
        )
        return next((line for line in reversed(lines) if line.strip()), "")

    def _piece(self, offset: int, size: int) -> bytes:
        if self.fd < 0:
            return self._kept[offset : offset + size]
        return os.pread(self.fd, size, offset)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def tail_offset(
    piece: Callable[[int, int], bytes], size: int, lines: int, uncounted: bytes | None = None
) -> int:
    """Where the last `lines` lines of `size` bytes begin, at most `TAIL_BYTES` before their end.

    Args:
        piece: reads so many bytes at a position.
        uncounted: lines that begin with this are none.
    """
    if not lines:
        return size
    position = size
    least = max(0, size - TAIL_BYTES)
    found = 0
    last = True
    after = b""  # what follows the present block, as much as `uncounted` could be
    while position > least:
        step = min(65536, position - least)
        position -= step
        block = piece(position, step)
        text = block + after
        end = len(block)
        while True:
            end = block.rfind(b"\n", 0, end)
            if end < 0:
                break
            if last and position + end == size - 1:
                last = False  # the end of the last line begins none
                continue
            if uncounted is not None and text.startswith(uncounted, end + 1):
                continue
            found += 1
            if found == lines:
                return position + end + 1
        last = False
        after = text[: len(uncounted or b"")]
    return least


def start_offsets(outputs: dict[str, Output], args: dict[str, Any]) -> dict[str, int]:
    """Positions to read from: ``offsets`` as given, else by ``tail`` lines or ``since_ms``, else 0.

    Raises:
        ValueError: a position, a number of lines or a source that makes no sense.
    """
    source = args.get("source")
    if source is not None and source not in outputs:
        raise ValueError(f"the source of a log is one of {list(outputs)}, not {source!r}")
    chosen = [source] if source is not None else list(outputs)
    given = args.get("offsets")
    if given is not None:
        found = {name: given[name] for name in chosen if name in given}
        if not all(type(offset) is int and offset >= 0 for offset in found.values()):
            raise ValueError(f"{given!r} are no positions")
        return found
    tail, since = args.get("tail"), args.get("since_ms")
    if tail is not None and (type(tail) is not int or tail < 0):
        raise ValueError(f"tail is a number of lines, not {tail!r}")
    found = dict.fromkeys(chosen, 0)
    for name in chosen:
        if tail is not None:
            found[name] = outputs[name].tail_offset(tail)
        if since is not None:
            found[name] = max(found[name], outputs[name].offset_at(int(since)))
    return found


class Reader:
    """A question for output: answered at once, or when there is some."""

    __slots__ = ("follow", "number", "offsets")

    def __init__(self, number: int, offsets: dict[str, int], follow: bool) -> None:
        self.number = number
        self.offsets = offsets
        self.follow = follow

    def answer(self, outputs: dict[str, Output], ended: bool) -> dict[str, Any] | None:
        """Chunks by source, and whether that was all; None: nothing yet."""
        chunks: dict[str, list[Any]] = {}
        more = False
        for name, offset in self.offsets.items():
            data = outputs[name].read(offset)
            more = more or len(data) == CHUNK_BYTES
            if data:
                chunks[name] = [offset, data]
        if not chunks and self.follow and not ended:
            return None
        return {"chunks": chunks, "offsets": self.offsets, "done": not more and (ended or not self.follow)}

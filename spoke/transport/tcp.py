"""Blocks over a socket, from the agent of the node where they lie.

A batch is cut into pieces; several are asked for ahead, so that the link never runs dry, and no more
than its queue takes, so that nothing grows.  A block of one piece is handed on as it was received; a
longer one is copied once, piece by piece.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Final, Protocol

from spoke.errors import GetTimeoutError, ObjectLostError, RaySystemError
from spoke.limits import MIB
from spoke.transport.base import Part, Transport, landing

PIECE_BYTES: Final = 8 * MIB
AHEAD_BYTES: Final = 32 * MIB  # asked for and not yet received
AHEAD_PIECES: Final = 256


class Source(Protocol):
    """Who asks agents for pieces of blocks."""

    def block_link(self, part: Part) -> Any:
        """The link to whoever serves this block; OSError, KeyError where there is none."""

    def ask_piece(self, link: Any, part: Part, start: int, length: int) -> Any:
        """A question for these bytes of a block, sent."""

    def receive_piece(self, question: Any, length: int) -> Any:
        """Its answer, a read-only buffer; waits."""

    def forget_piece(self, question: Any) -> None:
        """Its answer is not wanted any more."""


class Tcp(Transport):
    """Reads blocks of any node, this one included."""

    name = "tcp"

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source

    def unable(self, node_id: bytes) -> str | None:
        return None

    def read(self, parts: list[Part], into: list[memoryview]) -> None:
        for index, start, data in self._receive(parts):
            into[index][start : start + len(data)] = data
        self.count(parts, len(parts))

    def fetch(self, parts: list[Part]) -> list[Any]:
        buffers: list[Any] = [None] * len(parts)
        copies = 0
        for index, start, data in self._receive(parts):
            length = parts[index][4]
            if len(data) == length:
                buffers[index] = data
                continue
            if buffers[index] is None:
                buffers[index] = landing(length)
                copies += 1
            buffers[index][start : start + len(data)] = data
        self.count(parts, copies)
        return [b"" if one is None else one.toreadonly() for one in buffers]

    def _receive(self, parts: list[Part]) -> Iterator[tuple[int, int, memoryview]]:
        """``(index of the block, offset in it, bytes)`` of all pieces, in order."""
        asked: deque[tuple[int, int, int, Any]] = deque()
        ahead = 0
        node_id = b""
        try:
            for index, start, size in _pieces(parts):
                part = parts[index]
                while asked and (ahead + size > AHEAD_BYTES or len(asked) == AHEAD_PIECES):
                    ahead -= asked[0][2]
                    node_id = parts[asked[0][0]][0]
                    yield self._answer(*asked.popleft())
                node_id = part[0]
                link = self._source.block_link(part)
                asked.append((index, start, size, self._source.ask_piece(link, part, start, size)))
                ahead += size
            while asked:
                node_id = parts[asked[0][0]][0]
                yield self._answer(*asked.popleft())
        except (OSError, KeyError, RaySystemError, GetTimeoutError) as error:
            raise ObjectLostError.from_message(
                f"the object's data on node {node_id.hex()[:12]} cannot be read: {error}"
            ) from error
        finally:
            for _, _, _, question in asked:
                self._source.forget_piece(question)

    def _answer(self, index: int, start: int, size: int, question: Any) -> tuple[int, int, memoryview]:
        data = memoryview(self._source.receive_piece(question, size))
        if data.nbytes != size:
            raise RaySystemError("the node sent a block of another length")
        return index, start, data


def _pieces(parts: list[Part]) -> Iterator[tuple[int, int, int]]:
    for index, part in enumerate(parts):
        for start in range(0, part[4], PIECE_BYTES):
            yield index, start, min(PIECE_BYTES, part[4] - start)

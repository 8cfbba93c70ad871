"""What every path between a block and its reader does.

A block is named by its descriptor ``[node_id, process_id, segment_id, offset, length, generation,
place]`` (`spoke.store`).
A path is asked for whole batches, so that a thousand parameters are one chain of requests.  It either
brings all bytes of the batch or raises:

- `TransportFailed`: this path cannot; another may.  Destinations may have been written.
- `ObjectLostError`: the bytes are gone; no path can.
"""

from __future__ import annotations

import mmap
from typing import Any, Protocol

Part = list[Any]  # the descriptor of a block


class OnDevice(Protocol):
    """A destination that the CPU cannot write: memory of a GPU."""

    address: int
    nbytes: int
    device: Any  # names the GPU

    def ready(self) -> None:
        """Wait until nothing that was given to the GPU before uses the memory."""

    def staging(self) -> memoryview:
        """As many bytes of the host; `land` brings them to their place."""

    def land(self) -> bool:
        """Copy what `staging` was asked for, if it was; whether it was."""


Destination = memoryview | OnDevice


def in_host(into: list[Destination]) -> list[memoryview]:
    """For a path that writes memory of the host: `land` follows when the bytes are there."""
    return [one if isinstance(one, memoryview) else one.staging() for one in into]


def land(into: list[Destination]) -> int:
    """Bring what was staged to its place; how many there were."""
    return sum(one.land() for one in into if not isinstance(one, memoryview))


class TransportFailed(Exception):
    """A path cannot move these blocks; the text says why, for whoever asks and for a forced path's error."""


class Transport:
    """One path.  `blocks`, `bytes` and `copies` count what it brought here.

    copies: how often this process copied the bytes of a block after they had arrived; 0 where they
    arrive in the reader's own memory.
    """

    name = ""

    def __init__(self) -> None:
        self.blocks = 0
        self.bytes = 0
        self.copies = 0

    def unable(self, node_id: bytes) -> str | None:
        """Why this path does not lead to a node; None where it does, as far as is known."""
        raise TypeError(f"{type(self).__name__} does not say where it leads")

    def read(self, parts: list[Part], into: list[memoryview]) -> None:
        """Bring each block into the destination of its index: writable, flat bytes of its length.

        The destinations belong to the path until this returns or raises.
        """
        raise TypeError(f"{type(self).__name__} does not read")

    def fetch(self, parts: list[Part]) -> list[Any]:
        """The blocks as read-only buffers in memory of the path's choice."""
        into = [landing(part[4]) for part in parts]
        self.read(parts, into)
        return [view.toreadonly() for view in into]

    def count(self, parts: list[Part], copies: int) -> None:
        """These blocks have arrived, and this many of them were copied then."""
        self.blocks += len(parts)
        self.bytes += sum(part[4] for part in parts)
        self.copies += copies


def landing(length: int) -> memoryview:
    """Zeroed memory that costs nothing before it is written."""
    return memoryview(mmap.mmap(-1, length)) if length else memoryview(bytearray())

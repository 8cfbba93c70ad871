"""The stamp of a block: a number behind its last byte that no other block has (MEM-3).

A descriptor names the stamp's value and place, so whoever reads shared memory, the owner's peers on its
node or the agent for other nodes, sees whether the block is still the one that was described: the owner
wipes the stamp when the memory is free again.  Where peers of a lost borrower may still look at the block,
memory is not used again, and the stamp stays.

It is a check on top of the reference protocol, which never reads a block that was freed.
"""

from __future__ import annotations

import itertools
import os
from typing import Any, Final

from spoke.errors import ObjectLostError, RayError

STAMP_BYTES: Final = 8
_SERIAL_BITS: Final = 40
_WIPED: Final = bytes(STAMP_BYTES)
# The upper part tells processes apart, as a segment may be filled by one and then by another.
_numbers = itertools.count((int.from_bytes(os.urandom(2), "little") >> 1 << _SERIAL_BITS) + 1)


def place_of(offset: int, length: int) -> int:
    """Where in its segment the stamp of a block stands."""
    return -(-(offset + max(length, 1)) // STAMP_BYTES) * STAMP_BYTES


def write(memory: Any, place: int) -> int:
    """Stamp a new block; returns its generation."""
    generation = next(_numbers)
    memory.write(place, [generation.to_bytes(STAMP_BYTES, "little")])
    return generation


def wipe(memory: Any, place: int) -> None:
    """The block is gone."""
    memory.write(place, [_WIPED])


def check(memory: Any, size: int, descriptor: list[Any]) -> None:
    """See that the block of a descriptor is there; registered memory (place 0) has no stamp.

    Args:
        descriptor: ``[segment_id, offset, length, generation, place]``.

    Raises:
        ObjectLostError: its memory is free, or another object's.
    """
    segment_id, offset, length, generation, place = descriptor
    if not place:
        return
    stamp = memory.view(place, STAMP_BYTES) if 0 < place <= size - STAMP_BYTES else b""
    if int.from_bytes(memoryview(stamp), "little") != generation:
        raise stale(segment_id, offset, length, generation)


def stale(segment_id: int, offset: int, length: int, generation: int) -> RayError:
    """The ObjectLostError of a descriptor whose block is gone."""
    return ObjectLostError.from_message(
        f"stale descriptor: the block of {length} bytes at {offset} of segment {segment_id} was freed, or is "
        f"another object's by now (generation {generation})"
    )

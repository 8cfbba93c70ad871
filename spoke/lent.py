"""The first bytes of a segment: how many uses of its blocks belong to other processes.

A task's result lies in a segment of the worker that made it and belongs to the caller.  When the worker
dies, its agent must know whether such blocks are left, so the number stands in the segment itself,
where it outlives its writer.  One writer (the segment's owner, under its own lock), and one reader
(the agent), which looks only after the writer's death.
"""

from __future__ import annotations

from typing import Any, Final

HEADER_BYTES: Final = 64  # that the owner keeps free of blocks, at the start of each of its segments
_MAGIC: Final = 0x746E656C656B6F70
_WORD = 8


class LentCount:
    """The owner's side: counts uses that went to others and came back.

    Args:
        memory: the segment's writable mapping (`_native.Segment`).
    """

    __slots__ = ("_words",)

    def __init__(self, memory: Any) -> None:
        self._words = memoryview(memory.view(0, 2 * _WORD, True)).cast("Q")
        self._words[1] = 0
        self._words[0] = _MAGIC

    def add(self, uses: int) -> None:
        """So many uses more (or, negative, less) belong to others."""
        self._words[1] += uses


def count(memory: Any) -> int | None:
    """Uses of a segment's blocks that others have; None when its owner does not count them."""
    words = memoryview(memory.view(0, 2 * _WORD)).cast("Q")
    return words[1] if words[0] == _MAGIC else None

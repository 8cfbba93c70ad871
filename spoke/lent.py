"""The first page of a segment: how many uses of its blocks belong to other processes.

A task's result lies in a segment of the worker that made it and belongs to the caller.  When the worker
dies, its agent must know whether such blocks are left, so the counts stand in the segment itself,
where they outlive their writer.  One writer (the segment's owner, under its own lock), and one reader
(the agent), which looks only after the writer's death.

Both sides count totals that only grow, per peer: the owner what it lent and what came back, the peer what
it gave back.  What the dead owner did not read of the peer's word, the peer repeats to the agent, and the
larger of the two totals holds; so nothing depends on what was under way when the owner died.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

HEADER_BYTES: Final = 4096  # that the owner keeps free of blocks, at the start of each of its segments
_MAGIC: Final = 0x746E656C656B6F71
_UNTRACKED, _SLOTS, _FIRST = 1, 2, 4  # words: uses by peers without a slot, slots in use, the first slot
_SLOT_WORDS: Final = 3  # peer, lent, returned
MAX_SLOTS: Final = (HEADER_BYTES // 8 - _FIRST) // _SLOT_WORDS


def key_of(peer: bytes) -> int:
    """What stands for a process in a slot: ids are random."""
    return int.from_bytes(peer[:8], "little")


class LentCount:
    """The owner's side: counts uses that went to others and came back.

    Args:
        memory: the segment's writable mapping (`_native.Segment`).
    """

    __slots__ = ("_slots", "_words")

    def __init__(self, memory: Any) -> None:
        self._words = memoryview(memory.view(0, HEADER_BYTES, True)).cast("Q")
        self._slots: dict[bytes, int] = {}
        self._words[_UNTRACKED] = self._words[_SLOTS] = 0
        self._words[0] = _MAGIC

    def lent(self, peer: bytes) -> None:
        """One use more belongs to `peer`."""
        slot = self._slots.get(peer)
        if slot is None and len(self._slots) < MAX_SLOTS:
            slot = self._slots[peer] = _FIRST + len(self._slots) * _SLOT_WORDS
            self._words[slot] = key_of(peer)
            self._words[slot + 1] = self._words[slot + 2] = 0
            self._words[_SLOTS] = len(self._slots)
        if slot is None:
            self._words[_UNTRACKED] += 1
        else:
            self._words[slot + 1] += 1

    def returned(self, peer: bytes) -> None:
        """One use of `peer` has come back."""
        slot = self._slots.get(peer)
        if slot is None:
            self._words[_UNTRACKED] -= 1
        else:
            self._words[slot + 2] += 1


def count(memory: Any, returned: Mapping[int, int]) -> int | None:
    """Uses of a segment's blocks that others have; None when its owner does not count them.

    Args:
        returned: by `key_of`, uses that a peer says it has given back so far.
    """
    if memory.size < HEADER_BYTES:
        return None
    words = memoryview(memory.view(0, HEADER_BYTES)).cast("Q")
    if words[0] != _MAGIC:
        return None
    uses = words[_UNTRACKED]
    for slot in range(_FIRST, _FIRST + words[_SLOTS] * _SLOT_WORDS, _SLOT_WORDS):
        uses += max(0, words[slot + 1] - max(words[slot + 2], returned.get(words[slot], 0)))
    return uses

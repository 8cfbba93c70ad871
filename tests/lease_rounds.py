"""Rounds of lease safety over a verbs device: a read that succeeds has read the bytes of its lease.

Reader and owner are in one process, so that rounds are many.  In each the owner takes the memory back at a
random moment, as the rule says by destroying its end of the connection, and uses it for something else at
once; the reader dies now and then.  A broken owner uses the memory while the connection stays, and must be
seen to give wrong bytes: else the check would prove nothing.
"""

from __future__ import annotations

import random
import time
from typing import NamedTuple

from spoke import _native

SLICE, SLICES = 16 * 1024, 16
GOOD, OTHER = b"\x5a", b"\xee"
WAIT_S = 60.0


class Totals(NamedTuple):
    """Of reads: those with the right bytes, those that failed, those with others."""

    rounds: int = 0
    good: int = 0
    failed: int = 0
    other: int = 0

    def __str__(self) -> str:
        reads = f"{self.good} reads good, {self.failed} failed, {self.other} with other bytes"
        return f"{self.rounds} rounds: {reads}"


class Bed:
    """Memory that is lent and memory that is read into.

    Args:
        library: of the device: "system" or "fake".
        under_way_s: about how long a round's reads take.
        slices: reads of a round.
    """

    def __init__(self, library: str, under_way_s: float, slices: int = SLICES) -> None:
        self.engine = _native.RdmaEngine(library)
        self.under_way_s, self.slices, self.size = under_way_s, slices, SLICE * slices
        self.lent, self.landing = (self._segment(self.size) for _ in range(2))
        self.source = self.engine.register_segment(self.lent)
        self.target = self.engine.register_segment(self.landing)

    @staticmethod
    def _segment(size: int) -> _native.Segment:
        created = _native.Segment.create("bed", size)
        return _native.Segment.map(created.fd, size, True)

    def connect(self) -> tuple[_native.RdmaReader, _native.RdmaResponder]:
        reader, responder = _native.RdmaReader(self.engine), _native.RdmaResponder(self.engine)
        reader.connect(responder.address)
        responder.connect(reader.address)
        return reader, responder

    def round(self, rng: random.Random, careful: bool) -> tuple[int, int, int]:
        """(good reads, failed ones, ones with other bytes) of one round."""
        self.lent.write(0, [GOOD * self.size])
        self.landing.write(0, [b"\0" * self.size])
        reader, responder = self.connect()
        order = list(range(self.slices))
        rng.shuffle(order)
        strike = self.slices if careful else rng.randrange(self.slices)
        operations = {}
        for turn, index in enumerate(order):
            if turn == strike:  # a broken owner's timer: the connection stays, the memory is another's
                self.lent.write(0, [OTHER * self.size])
            here, there = self.target.address + index * SLICE, self.source.address + index * SLICE
            operations[index] = reader.read([(self.target, here, there, self.source.rkey, SLICE)])
        time.sleep(rng.random() * self.under_way_s)
        if careful and rng.random() < 0.25:
            reader.abort("killed")
        if careful:
            responder.close()
        self.lent.write(0, [OTHER * self.size])
        good = failed = other = 0
        for index, operation in operations.items():
            assert operation.wait(WAIT_S), "it neither ends nor fails"
            if operation.error:
                failed += 1
            elif bytes(self.landing.view(index * SLICE, SLICE)) == GOOD * SLICE:
                good += 1
            else:
                other += 1
        responder.close()
        reader.close("the round is over")
        return good, failed, other

    def rounds(self, seed: int, careful: bool, most: int, limit_s: float) -> Totals:
        """So many rounds, or as many as the time allows; a broken owner's end when it is caught."""
        rng = random.Random(seed)
        totals = Totals()
        began = time.monotonic()
        while totals.rounds < most and time.monotonic() - began < limit_s and (careful or not totals.other):
            found = self.round(rng, careful)
            totals = Totals(totals.rounds + 1, *map(sum, zip(totals[1:], found, strict=True)))
        return totals

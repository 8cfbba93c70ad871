"""Lease safety on the device: a read that succeeds has read the bytes of its lease, whatever happens.

Reader and owner are in this process, over the device's loopback, so that rounds are many.  In each the
owner takes the memory back at a random moment and uses it for something else at once.  The same rounds
with an owner that takes it back without ending the connection must find wrong bytes: else the check
would prove nothing.
"""

from __future__ import annotations

import random
import re
import subprocess
import threading
import time

import pytest

from spoke import _native

SLICE, SLICES = 16 * 1024, 64
GOOD, OTHER = b"\x5a", b"\xee"


class Bed:
    """Memory that is lent and memory that is read into."""

    def __init__(self) -> None:
        self.engine = _native.RdmaEngine("system")
        size = SLICE * SLICES
        self.lent, self.landing = (self._segment(size) for _ in range(2))
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
        self.lent.write(0, [GOOD * (SLICE * SLICES)])
        self.landing.write(0, [b"\0" * (SLICE * SLICES)])
        reader, responder = self.connect()
        order = list(range(SLICES))
        rng.shuffle(order)
        strike = SLICES if careful else rng.randrange(SLICES)
        operations = {}
        for turn, index in enumerate(order):
            if turn == strike:  # a broken owner's timer: the connection stays, the memory is another's
                self.lent.write(0, [OTHER * (SLICE * SLICES)])
            here, there = self.target.address + index * SLICE, self.source.address + index * SLICE
            operations[index] = reader.read([(self.target, here, there, self.source.rkey, SLICE)])
        # While the reads are under way: all of them take some ten milliseconds on the emulated device.
        time.sleep(rng.random() * 0.008)
        kill_reader = careful and rng.random() < 0.25
        if kill_reader:
            reader.abort("killed")
        if careful:
            responder.close()
        self.lent.write(0, [OTHER * (SLICE * SLICES)])
        good = failed = other = 0
        for index, operation in operations.items():
            if careful:
                assert operation.wait(60), "it neither ends nor fails"
            elif not operation.wait(60):
                failed += 1
                continue
            if operation.error:
                failed += 1
            elif bytes(self.landing.view(index * SLICE, SLICE)) == GOOD * SLICE:
                good += 1
            else:
                other += 1
        responder.close()
        reader.close("the round is over")
        return good, failed, other


@pytest.mark.parametrize("careful", [True, False], ids=["an owner that keeps the rule", "a broken owner"])
def test_memory_is_used_again_right_after_the_lease(careful: bool) -> None:
    bed = Bed()
    rng = random.Random(11)
    totals = [0, 0, 0]
    began = time.monotonic()
    rounds = 0
    while rounds < 1000 and time.monotonic() - began < 15:
        totals = [sum(pair) for pair in zip(totals, bed.round(rng, careful), strict=True)]
        rounds += 1
        if not careful and totals[2]:
            break
    good, failed, other = totals
    print(f"{rounds} rounds: {good} reads good, {failed} failed, {other} with other bytes")
    if careful:
        assert other == 0 and good and failed and rounds >= 20
    else:
        assert other, "an owner that frees too early must be caught"


def _resources() -> dict[str, int]:
    shown = subprocess.run(["rdma", "resource", "show"], check=True, capture_output=True, text=True).stdout
    return {name: int(count) for name, count in re.findall(r"(\w+) (\d+)", shown)}


def test_five_hundred_connections_leave_nothing_behind() -> None:
    bed = Bed()
    reader, responder = bed.connect()
    reader.close("warm")
    responder.close()
    del reader, responder
    before = _resources()
    for turn in range(500):
        reader, responder = bed.connect()
        if turn % 5 == 0:
            operation = reader.read(
                [(bed.target, bed.target.address, bed.source.address, bed.source.rkey, 64)]
            )
            assert operation.wait(60) and operation.error == ""
            del operation
        if turn % 2:
            reader.close("done")
        responder.close()
        del reader, responder
    deadline = time.monotonic() + 20
    while _resources() != before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _resources() == before


def test_both_directions_and_sixty_four_at_once() -> None:
    bed = Bed()
    bed.lent.write(0, [bytes(range(256)) * (SLICE * SLICES // 256)])
    pairs = [bed.connect() for _ in range(4)]
    failures: list[str] = []

    def run(reader: _native.RdmaReader, seed: int) -> None:
        rng = random.Random(seed)
        spot = seed * SLICE
        for _ in range(16):
            operations = []
            for _ in range(16):
                start, length = rng.randrange(SLICE * (SLICES - 1)), rng.randrange(1, SLICE // 16)
                place = spot + len(operations) * (SLICE // 16)
                slices = [
                    (
                        bed.target,
                        bed.target.address + place,
                        bed.source.address + start,
                        bed.source.rkey,
                        length,
                    )
                ]
                operations.append((reader.read(slices), place, start, length))
            for operation, place, start, length in operations:
                if not operation.wait(120) or operation.error:
                    failures.append(operation.error or "late")
                elif bytes(bed.landing.view(place, length)) != bytes(bed.lent.view(start, length)):
                    failures.append("other bytes")

    threads = [threading.Thread(target=run, args=(pair[0], seed)) for seed, pair in enumerate(pairs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures

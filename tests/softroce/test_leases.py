"""Lease safety on the device, in rounds (`lease_rounds`), and connections that leave nothing behind."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from spoke import _native

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lease_rounds import SLICE, Bed

ROUNDS, ROUNDS_S = 5000, 75.0
UNDER_WAY_S = 0.008  # a round's reads on the emulated device
SLICES = 64


@pytest.mark.parametrize("careful", [True, False], ids=["an owner that keeps the rule", "a broken owner"])
def test_memory_is_used_again_right_after_the_lease(careful: bool) -> None:
    totals = Bed("system", UNDER_WAY_S).rounds(11, careful, ROUNDS, ROUNDS_S)
    print(totals)
    if careful:
        assert totals.other == 0 and totals.good and totals.failed and totals.rounds >= 200
    else:
        assert totals.other, "an owner that frees too early must be caught"


def _resources() -> dict[str, int]:
    shown = subprocess.run(["rdma", "resource", "show"], check=True, capture_output=True, text=True).stdout
    return {name: int(count) for name, count in re.findall(r"(\w+) (\d+)", shown)}


def test_five_hundred_connections_leave_nothing_behind() -> None:
    bed = Bed("system", UNDER_WAY_S, SLICES)
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
    bed = Bed("system", UNDER_WAY_S, SLICES)
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

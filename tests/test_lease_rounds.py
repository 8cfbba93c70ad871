"""Lease safety over the software device, in thousands of rounds of every run; see `lease_rounds`."""

from __future__ import annotations

from lease_rounds import Bed

ROUNDS, SLICES = 2200, 6
LIMIT_S = 300.0  # far more than they take: the rounds are to be done, however slow the machine is


def test_memory_is_used_again_right_after_the_lease() -> None:
    totals = Bed("fake", 0.0006, SLICES).rounds(11, True, ROUNDS, LIMIT_S)
    print(totals)
    assert totals.rounds == ROUNDS and totals.other == 0
    assert min(totals.good, totals.failed) > 0, "both ends of a race are to be seen"


def test_an_owner_that_frees_by_a_timer_is_caught() -> None:
    totals = Bed("fake", 0.0006, SLICES).rounds(12, False, ROUNDS, LIMIT_S)
    print(totals)
    assert totals.other, "an owner that frees too early must be caught"

"""The kinds of schedulers, as pure functions (rows F-02, F-09, F-11, M-18)."""

from __future__ import annotations

import random

import pytest

from spoke.core.ledger import Ledger
from spoke.core.schedulers import (
    KINDS,
    LOCALITY_WAIT_S,
    PATIENCE_S,
    Request,
    View,
    fifo,
    locality,
    spread,
    strict_fifo,
)


def nodes(*cpus: int, jobs: tuple[int, ...] = ()) -> list[View]:
    return [
        View(bytes([i]), Ledger({"CPU": n}), {"rack": str(i)}, jobs[i] if jobs else 0)
        for i, n in enumerate(cpus)
    ]


def one(cpus: int, since: float = 100.0, **more: object) -> Request:
    return Request([{"CPU": cpus}], since, **more)  # type: ignore[arg-type]


def test_fifo_in_order_and_who_does_not_fit_is_skipped() -> None:
    requests = [one(2), one(100), one(2), one(1)]
    assert fifo(requests, nodes(4), 100.0) == [(0, [b"\0"]), (2, [b"\0"])]


def test_fifo_order_on_one_slot() -> None:
    requests = [one(1) for _ in range(5)]
    order = []
    while requests:
        ((index, _),) = fifo(requests, nodes(1), 100.0)
        assert index == 0
        order.append(requests.pop(0))
    assert len(order) == 5


def test_fifo_keeps_a_node_for_who_waits_long() -> None:
    requests = [one(4, since=0.0), one(1), one(1)]
    busy = nodes(4, 4)
    for view in busy:
        view.ledger.take({"CPU": 2})
    assert [index for index, _ in fifo(requests, busy, PATIENCE_S - 1)] == [1, 2]
    busy = nodes(4, 4)
    for view in busy:
        view.ledger.take({"CPU": 2})
    # The first node that could hold it is kept; the small ones take the other.
    assert fifo(requests, busy, PATIENCE_S + 1) == [(1, [b"\1"]), (2, [b"\1"])]


def test_fifo_keeps_nothing_for_the_impossible() -> None:
    assert fifo([one(100, since=0.0), one(1)], nodes(4), PATIENCE_S + 1) == [(1, [b"\0"])]


def test_strict_fifo_stops_at_the_first_that_does_not_fit() -> None:
    assert strict_fifo([one(2), one(100), one(1)], nodes(4), 100.0) == [(0, [b"\0"])]


def test_spread_takes_the_node_with_the_fewest_jobs() -> None:
    starts = spread([one(1) for _ in range(4)], nodes(4, 4, jobs=(2, 0)), 100.0)
    assert [home for _, (home,) in starts] == [b"\1", b"\1", b"\0", b"\1"]


def test_locality_goes_where_the_data_are() -> None:
    request = one(1, locality={b"\1": 1 << 30, b"\0": 10})
    assert locality([request], nodes(4, 4), 100.0) == [(0, [b"\1"])]


def test_locality_waits_for_a_busy_holder_and_then_takes_the_least_used() -> None:
    request = one(1, since=100.0, locality={b"\1": 1 << 30})
    views = nodes(4, 1, 4)
    views[1].ledger.take({"CPU": 1})
    views[0].ledger.take({"CPU": 1})
    assert locality([request], views, 100.0 + LOCALITY_WAIT_S / 2) == []
    assert locality([request], views, 100.0 + LOCALITY_WAIT_S) == [(0, [b"\2"])]


def test_labels_limit_the_nodes() -> None:
    request = Request([{"CPU": 1}], 0.0, [(("rack", "in", ("1",)),)])
    assert fifo([request], nodes(4, 4), 0.0) == [(0, [b"\1"])]


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_starts_whole_or_not_at_all(kind: str) -> None:
    group = Request([{"CPU": 2}, {"CPU": 2}, {"CPU": 2}], 100.0)
    views = nodes(4)
    assert KINDS[kind]([group], views, 100.0) == []
    assert views[0].ledger.idle() and views[0].jobs == 0  # nothing is left taken
    ((index, homes),) = KINDS[kind]([group], nodes(4, 4), 100.0)
    assert index == 0 and sorted(homes) in ([b"\0", b"\0", b"\1"], [b"\0", b"\1", b"\1"])


@pytest.mark.parametrize("kind", KINDS)
def test_simulated_rounds_oversell_nothing_and_repeat_exactly(kind: str) -> None:
    """Random requests from a seed: every round fits the nodes, and equal input gives equal starts."""

    def simulate(seed: int) -> list[object]:
        rng = random.Random(seed)
        totals = [rng.randrange(1, 9) for _ in range(5)]
        used = [0] * 5
        waiting: list[Request] = []
        running: list[tuple[int, int]] = []
        trace: list[object] = []
        for now in range(60):
            waiting += [one(rng.randrange(1, 6), float(now)) for _ in range(rng.randrange(3))]
            views = nodes(*totals)
            for view, taken in zip(views, used, strict=True):
                if taken:
                    view.ledger.take({"CPU": taken})
            starts = KINDS[kind](waiting, views, float(now))
            assert [index for index, _ in starts] == sorted({index for index, _ in starts})
            for index, (home,) in starts:
                cpus = waiting[index].needs[0]["CPU"]
                used[home[0]] += cpus
                running.append((home[0], cpus))
            assert all(taken <= total for taken, total in zip(used, totals, strict=True))
            waiting = [one for i, one in enumerate(waiting) if i not in {index for index, _ in starts}]
            rng.shuffle(running)
            for home_index, cpus in running[: len(running) // 2]:
                used[home_index] -= cpus
            running = running[len(running) // 2 :]
            trace.append(starts)
        return trace

    for seed in range(10):
        assert simulate(seed) == simulate(seed)

"""Links through shared memory: busy ones get a ring, nothing above notices, nothing is left of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from spoke import rings
from spoke.links import BUSY_FRAMES, Link

ROUNDS = 4 * BUSY_FRAMES


class Echo:
    def __init__(self) -> None:
        self.seen: list[int] = []

    def value(self, x: Any) -> Any:
        return x

    def note(self, number: int, filler: Any = None) -> int:
        self.seen.append(number)
        return number

    def order(self) -> list[int]:
        return self.seen

    def pid(self) -> int:
        return os.getpid()

    def call(self, other: Any, count: int) -> list[int]:
        import spoke

        return [spoke.get(other.value.remote(i)) for i in range(count)]

    def rings(self) -> int:
        return len(ringed())


def ringed() -> list[Link]:
    """This process's links whose frames go through a ring."""
    from spoke import current

    assert current.client is not None
    with current.client.lock:
        links = list(current.client.links.by_conn.values())
    return [link for link in links if link.ring is not None and link.ring.sent > 0]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def until(condition: Callable[[], bool], limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_busy_link_gets_a_ring_and_answers_stay_right(fresh_cluster: Callable[..., Any]) -> None:
    ray = fresh_cluster(num_cpus=1)
    echo = ray.remote(Echo).remote()
    assert ray.get(echo.value.remote(0)) == 0
    assert not ringed(), "a link that is used seldom has none"
    assert [ray.get(echo.value.remote(i)) for i in range(ROUNDS)] == list(range(ROUNDS))
    assert len(ringed()) == 1 and ray.get(echo.rings.remote()) == 1
    before = ringed()[0].ring.sent  # type: ignore[union-attr]
    assert ray.get(echo.value.remote("x" * 50_000)) == "x" * 50_000
    assert ringed()[0].ring.sent > before + 50_000  # type: ignore[union-attr]


def test_calls_start_in_order_across_the_switch(fresh_cluster: Callable[..., Any]) -> None:
    """CALL-2, with calls under way at any moment, some larger than a ring."""
    ray = fresh_cluster(num_cpus=1)
    echo = ray.remote(Echo).remote()
    filler = os.urandom(90_000)
    refs = [echo.note.remote(i, filler if i % 50 == 7 else None) for i in range(2000)]
    assert ray.get(refs) == list(range(2000))
    refs = [echo.note.remote(i, filler if i % 5 == 3 else None) for i in range(2000, 2400)]
    assert ray.get(refs[::-1]) == list(range(2000, 2400))[::-1]
    assert ray.get(echo.order.remote()) == list(range(2400))
    assert ringed()


def test_workers_call_each_other_through_rings(fresh_cluster: Callable[..., Any]) -> None:
    ray = fresh_cluster(num_cpus=3)
    first, second = (ray.remote(Echo).remote() for _ in range(2))
    both = [first.call.remote(second, ROUNDS), second.call.remote(ray.remote(Echo).remote(), ROUNDS)]
    assert ray.get(both) == [list(range(ROUNDS))] * 2
    assert ray.get(first.rings.remote()) == 1


def test_segments_are_mapped_ahead_through_a_ring_too(fresh_cluster: Callable[..., Any]) -> None:
    """Descriptors go by the socket and are there when the message that names them is read."""
    numpy = pytest.importorskip("numpy")
    from spoke import current

    ray = fresh_cluster(num_cpus=1)
    echo = ray.remote(Echo).remote()
    assert [ray.get(echo.value.remote(i)) for i in range(ROUNDS)] == list(range(ROUNDS))
    assert ringed()

    def asked(segment_id: int) -> Any:
        raise AssertionError(f"the agent was asked for segment {segment_id}")

    assert current.client is not None
    current.client.store._map_segment = asked
    kept = []
    for fill in range(1, 9):  # of 40 MiB each: several segments
        kept.append(ray.get(echo.value.remote(numpy.full(40 << 20, fill, numpy.uint8))))
        assert int(kept[-1][0]) == int(kept[-1][-1]) == fill


def test_the_end_of_an_actor_is_told_and_its_ring_is_gone(fresh_cluster: Callable[..., Any]) -> None:
    ray = fresh_cluster(num_cpus=1)
    keeper = ray.remote(Echo).remote()
    assert ray.get(keeper.value.remote(1)) == 1
    before = None
    for _ in range(3):
        echo = ray.remote(num_cpus=0)(Echo).remote()
        pid = ray.get(echo.pid.remote())
        assert [ray.get(echo.value.remote(i)) for i in range(ROUNDS)] == list(range(ROUNDS))
        assert len(ringed()) == 1
        late = [echo.value.remote(i) for i in range(20)]
        os.kill(pid, signal.SIGKILL)
        answered = 0
        for ref in late:
            try:
                ray.get(ref, timeout=30)
                answered += 1
            except ray.exceptions.RayActorError:
                continue
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(echo.value.remote(1), timeout=30)
        until(lambda: not ringed())
        del echo, late
        if before is None:
            before = descriptors()
    until(lambda: descriptors() <= (before or 0))


def test_the_number_of_rings_is_bounded(fresh_cluster: Callable[..., Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(rings, "RINGS_MAX", 1)
    ray = fresh_cluster(num_cpus=2)
    actors = [ray.remote(Echo).remote() for _ in range(2)]
    for echo in actors:
        assert [ray.get(echo.value.remote(i)) for i in range(ROUNDS)] == list(range(ROUNDS))
    assert len(ringed()) == 1


def test_offers_that_cannot_be_taken_change_nothing(
    fresh_cluster: Callable[..., Any], monkeypatch: Any
) -> None:
    def none_left() -> Any:
        raise OSError(24, "no descriptors left")

    monkeypatch.setattr(rings, "Ring", none_left)
    ray = fresh_cluster(num_cpus=1)
    echo = ray.remote(Echo).remote()
    assert [ray.get(echo.value.remote(i)) for i in range(ROUNDS)] == list(range(ROUNDS))
    assert not ringed()

"""Streaming generators whose consumer goes away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import spoke as ray
from tests.conformance.kit import eventually


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2)
    yield
    ray.shutdown()


@pytest.mark.parametrize("ahead", [-1, 1])
def test_REF_1_a_dropped_generator_runs_to_its_end_and_leaves_nothing(tmp_path: Path, ahead: int) -> None:
    ended = tmp_path / "ended"

    @ray.remote(_generator_backpressure_num_objects=ahead)
    def items() -> Iterator[bytes]:
        for _ in range(8):
            yield bytes(300_000)
        ended.touch()

    generator = items.remote()
    first = next(generator)
    del generator
    assert eventually(ended.exists), "nobody waits for its items, so it need not either"
    assert len(ray.get(first)) == 300_000, "what was taken stays"
    del first
    assert eventually(lambda: ray.object_store_stats()["blocks"] == 0)


def test_a_cancelled_generator_does_not(tmp_path: Path) -> None:
    ended = tmp_path / "ended"

    @ray.remote(_generator_backpressure_num_objects=1, max_retries=0)
    def items() -> Iterator[int]:
        yield from range(100_000)  # it cannot be taken to its end before the cancellation comes
        ended.touch()

    generator = items.remote()
    next(generator)
    ray.cancel(generator)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        while True:
            ray.get(next(generator))
    assert not ended.exists()

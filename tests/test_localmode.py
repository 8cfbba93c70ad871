"""``init(local_mode=True)``: inline, with the results and exceptions of a cluster (row M-15)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

import spoke as ray
from spoke.errors import ActorDiedError, RayTaskError


@pytest.fixture(scope="module", params=[True, False], ids=["inline", "workers"])
def local(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Each test runs in both modes: what it expects is the same."""
    ray.init(num_cpus=2, local_mode=request.param, log_to_driver=False)
    yield request.param
    ray.shutdown()


@ray.remote
def add(a: int, b: int = 1) -> int:
    return a + b


@ray.remote
def fail(text: str) -> None:
    raise KeyError(text)


@ray.remote
class Counter:
    def __init__(self, start: int = 0) -> None:
        if start < 0:
            raise ValueError("negative")
        self.count = start

    def add(self, by: int = 1) -> int:
        self.count += by
        return self.count

    def fail(self) -> None:
        raise ZeroDivisionError("here")

    def pid(self) -> int:
        return os.getpid()


def test_m15_it_runs_in_this_process(local: bool) -> None:
    assert (ray.get(ray.remote(lambda: os.getpid()).remote()) == os.getpid()) is local
    assert (ray.get(Counter.remote().pid.remote()) == os.getpid()) is local


def test_values_refs_and_several_returns(local: bool) -> None:
    assert ray.get(add.remote(1, b=2)) == 3
    assert ray.get(add.remote(add.remote(1), ray.put(5))) == 7
    one, two = ray.remote(num_returns=2)(lambda: (1, 2)).remote()
    assert ray.get([one, two]) == [1, 2]
    assert ray.remote(num_returns=0)(lambda: None).remote() is None
    ready, rest = ray.wait([add.remote(1), add.remote(2)], num_returns=2)
    assert len(ready) == 2 and rest == []


def test_arguments_and_results_are_copies(local: bool) -> None:
    given = [1]

    @ray.remote
    def append(values: list[int]) -> list[int]:
        values.append(2)
        return values

    assert ray.get(append.remote(given)) == [1, 2] and given == [1]


def test_the_same_exceptions(local: bool) -> None:
    ref = fail.remote("mine")
    for _ in range(2):
        with pytest.raises(KeyError, match="mine") as caught:
            ray.get(ref)
        assert isinstance(caught.value, RayTaskError) and "in fail" in str(caught.value)
    with pytest.raises(KeyError, match="mine"):  # downstream does not run, and raises the same
        ray.get(add.remote(ref))
    with pytest.raises(TypeError, match="lock"):
        import threading

        add.remote(threading.Lock())
    with pytest.raises(TypeError, match="argument"):
        add.remote()
    with pytest.raises(ValueError, match="values"):
        ray.get(ray.remote(num_returns=2)(lambda: (1, 2, 3)).remote())


def test_actors(local: bool) -> None:
    counter = Counter.remote(5)
    assert ray.get([counter.add.remote(), counter.add.remote(add.remote(1))]) == [6, 8]
    with pytest.raises(ZeroDivisionError, match="here"):
        ray.get(counter.fail.remote())
    assert ray.get(counter.add.remote(0)) == 8

    @ray.remote
    def use(handle: Any) -> int:
        return int(ray.get(handle.add.remote(10)))

    assert ray.get(use.remote(counter)) == 18
    with pytest.raises(AttributeError):
        _ = counter.missing
    ray.kill(counter)
    with pytest.raises(ActorDiedError):
        ray.get(counter.add.remote())
    with pytest.raises(ActorDiedError, match="negative"):
        ray.get(Counter.remote(-1).add.remote())


def test_what_cannot_run_inline_goes_to_a_worker(local: bool) -> None:
    @ray.remote(num_returns="streaming")
    def items() -> Iterator[int]:
        yield from range(3)

    assert [ray.get(ref) for ref in items.remote()] == [0, 1, 2]
    named = Counter.options(name="named").remote()
    assert ray.get(ray.get_actor("named").add.remote()) == 1
    del named


@ray.remote
class Asker:
    async def ask(self, handle: Any) -> int:
        return int(await handle.add.remote())


def test_workers_and_what_runs_inline(local: bool) -> None:
    """A worker finds an actor that has a name; one that runs inline is an error by name, not a hang."""
    asker = Asker.remote()
    assert ray.get(asker.ask.remote(Counter.options(name="found").remote(4)), timeout=60) == 5
    handle = Counter.remote()
    if local:
        with pytest.raises(ActorDiedError, match="no such actor"):
            ray.get(asker.ask.remote(handle), timeout=60)
    else:
        assert ray.get(asker.ask.remote(handle), timeout=60) == 1

"""What the tests of RDMA between nodes share: two nodes over the software device, an actor on the other."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy
import pytest

import spoke
from spoke import _native, current, wire
from spoke.cluster_utils import Cluster

MIB = 1 << 20


def model_state() -> Any:
    import torch  # by those only that need it: it takes seconds

    torch.manual_seed(5)
    layers = [torch.nn.Linear(300, 300), torch.nn.Linear(300, 70)]
    return torch.nn.Sequential(*layers).state_dict()


class Far:
    """An actor on the other node."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def make(self, seed: int, size: int) -> Any:
        return numpy.random.default_rng(seed).integers(0, 256, size, dtype=numpy.uint8)

    def make_many(self, count: int, size: int) -> Any:
        return [numpy.full(size + index, index % 251, dtype=numpy.uint8) for index in range(count)]

    def state(self) -> Any:
        return model_state()

    def echo(self, value: Any) -> Any:
        self.kept.append(value)
        return value

    def seen(self) -> list[Any]:
        return self.kept

    def divide(self) -> float:
        return 1 / 0

    def count(self, end: int) -> Iterator[int]:
        yield from range(end)

    def die(self) -> None:
        os._exit(3)

    def pipe_messages(self) -> int:
        return current.client.rdma.pipes.messages()  # type: ignore[union-attr]

    def digest(self, array: Any) -> tuple[int, int]:
        return int(array.astype(numpy.int64).sum()), array.nbytes

    def stats(self) -> dict[str, int]:
        return spoke.object_store_stats()

    def fault(self, command: str, value: int = 0) -> None:
        _native.fake_rdma(command, value)

    def leases(self) -> int:
        mover = current.client.rdma.mover  # type: ignore[union-attr]
        return len(mover._leases)

    def offers(self) -> int:
        return sum(lease_id < 0 for _, lease_id in mover()._leases)

    def blocks(self) -> int:
        return current.client.store.stats()["blocks"]  # type: ignore[union-attr]

    def sent(self) -> list[int]:
        """Kinds of RDMA messages that this process sends from now on."""
        self.kinds = Spy(mover()._control).kinds
        return self.kinds

    def said(self) -> list[int]:
        return self.kinds

    def filled(self) -> Any:
        self.tensor = spoke.empty((MIB,), "uint8")
        self.tensor[:] = 7
        return self.tensor

    def forget(self) -> None:
        del self.tensor

    def lie(self, kind: int, places: list[Any]) -> None:
        """Send these in place of what is granted, by messages of this kind."""
        Spy(mover()._control).lies[kind] = places

    def responders(self) -> int:
        return len(mover()._responders)

    def address(self) -> list[Any]:
        return current.client.address  # type: ignore[union-attr]

    def node(self) -> str:
        return spoke.get_runtime_context().get_node_id()


class Spy:
    """Notes the kinds of messages that a process's RDMA sends, and may put other places into grants."""

    def __init__(self, control: Any) -> None:
        self.kinds: list[int] = []
        self.lies: dict[int, list[Any]] = {}
        for name in ("tell", "tell_ahead"):
            setattr(control, name, partial(self._note, getattr(control, name)))

    def _note(self, send: Any, peer: bytes, *message: Any) -> None:
        self.kinds.append(message[0])
        if message[0] in self.lies:
            place = 4 if message[0] == wire.RDMA_OFFER else 2
            message = (*message[:place], self.lies.pop(message[0]), *message[place + 1 :])
        send(peer, *message)


def start(**environment: str) -> Cluster:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    cluster.add_node(num_cpus=2, resources={"far": 10})
    spoke.init(address=cluster.address)
    return cluster


@contextmanager
def two_nodes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPOKE_RDMA_LIBRARY", "fake")
        cluster = start()
        yield
        spoke.shutdown()
        cluster.shutdown()


@contextmanager
def far_actor() -> Iterator[Any]:
    actor = spoke.remote(Far).options(resources={"far": 1}).remote()
    yield actor
    spoke.kill(actor)


def stats() -> dict[str, int]:
    return spoke.object_store_stats()


def gained(before: dict[str, int]) -> dict[str, int]:
    now = stats()
    return {name: now[name] - before[name] for name in now if now[name] != before[name]}


def none_left(question: Any) -> None:
    """Wait until what a method of the actor counts is gone."""
    deadline = time.monotonic() + 30
    while spoke.get(question.remote()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def expected(seed: int, size: int) -> Any:
    return numpy.random.default_rng(seed).integers(0, 256, size, dtype=numpy.uint8)


def mover() -> Any:
    return current.client.rdma.mover  # type: ignore[union-attr]

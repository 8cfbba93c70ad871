"""`get(into=)`: every kind of value and destination, what does not fit, and how often bytes are copied."""

from __future__ import annotations

import array
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
import torch

import spoke
from spoke.cluster_utils import Cluster
from spoke.errors import GetTimeoutError

MIB = 1 << 20


def _make(kind: str, count: int) -> Any:
    base = numpy.arange(count, dtype=numpy.float32)
    values = {
        "numpy": base,
        "torch": torch.from_numpy(base.copy()),
        "fortran": numpy.asfortranarray(base.reshape(2, -1)),
        "strided": base[::2],
        "bytes": base.tobytes(),
        "bytearray": bytearray(base.tobytes()),
        "dict": {"a": torch.from_numpy(base.copy()).view(2, -1), "b": [base[:7], base[7:]]},
    }
    return values[kind]


def _like(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _like(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_like(one) for one in value]
    if isinstance(value, torch.Tensor):
        return torch.full_like(value, -1)
    if isinstance(value, numpy.ndarray):
        return numpy.full(value.shape, -1, value.dtype)
    return bytearray(len(value))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, numpy.ndarray):
        return bool(numpy.array_equal(one, other))
    return bytes(one) == bytes(other)


KINDS = ["numpy", "torch", "fortran", "strided", "bytes", "bytearray", "dict"]


def test_between_nodes() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1, resources={"far": 1})
        spoke.init(address=cluster.address)
        make = spoke.remote(_make).options(resources={"far": 1})
        for kind in KINDS:
            want = _make(kind, 2 * MIB)
            target = _like(want)
            spoke.get(make.remote(kind, 2 * MIB), into=target)
            assert _equal(want, target)
    finally:
        spoke.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module", params=["auto", "tcp"])
def cluster(request: pytest.FixtureRequest) -> Iterator[str]:
    """A driver and an actor's node; blocks mapped, and all over sockets."""
    patch = pytest.MonkeyPatch()
    patch.setenv("SPOKE_TRANSPORT", request.param)
    spoke.init(num_cpus=2)
    yield request.param
    spoke.shutdown()
    patch.undo()


@pytest.mark.parametrize("count", [16, 3 * MIB])
@pytest.mark.parametrize("kind", KINDS)
def test_the_value_lands_in_the_callers_memory(cluster: str, kind: str, count: int) -> None:
    ref = spoke.remote(_make).remote(kind, count)
    want = _make(kind, count)
    target = _like(want)
    assert spoke.get(ref, into=target, timeout=60) is target
    assert _equal(want, target)
    mine = spoke.put(want)
    again = _like(want)
    assert spoke.get([mine, ref], into=[again, target])[0] is again and _equal(want, again)


def test_a_block_is_copied_once_and_lists_are_one_batch(cluster: str) -> None:
    values = [numpy.full(64 * 1024, index, numpy.int32) for index in range(40)]
    refs = [spoke.put(value) for value in values]
    targets = [numpy.empty_like(value) for value in values]
    path = "shm" if cluster == "auto" else "tcp"
    before = spoke.object_store_stats()
    spoke.get(refs, into=targets)
    after = spoke.object_store_stats()
    assert all(map(numpy.array_equal, values, targets))
    moved = {name: after[name] - before[name] for name in after}
    assert moved[f"{path}_blocks"] == moved[f"{path}_copies"] == 40
    assert moved[f"{path}_bytes"] == 40 * 256 * 1024 and moved["copied_bytes"] == 0


def test_a_buffer_takes_any_value_of_its_size(cluster: str) -> None:
    value = torch.arange(100_000, dtype=torch.int64).view(10, -1)
    ref = spoke.put(value)
    raw = bytearray(800_000)
    spoke.get(ref, into=memoryview(raw))
    assert bytes(raw) == value.numpy().tobytes()
    words = array.array("q", bytes(800_000))
    spoke.get(ref, into=words)
    assert words[99_999] == 99_999
    as_array = numpy.empty((10, 10_000), numpy.int64)
    spoke.get(ref, into=as_array)
    assert as_array[9, 9_999] == 99_999


def test_a_tensor_that_occurs_twice_and_empty_ones(cluster: str) -> None:
    one = torch.rand(50_000)
    ref = spoke.put([one, one, torch.empty(0, 4), torch.tensor(3.5), numpy.zeros((0,))])
    into = [torch.empty(50_000), torch.empty(50_000), torch.empty(0, 4), torch.tensor(0.0), numpy.empty((0,))]
    spoke.get(ref, into=into)
    assert torch.equal(into[0], one) and torch.equal(into[1], one) and into[3].item() == 3.5


def test_state_dicts_and_parameters(cluster: str) -> None:
    source, copy = torch.nn.Linear(300, 200), torch.nn.Linear(300, 200)
    version = copy.weight._version
    spoke.get(spoke.put(source.state_dict()), into=copy.state_dict())
    assert torch.equal(source.weight, copy.weight) and torch.equal(source.bias, copy.bias)
    assert copy.weight._version > version, "autograd must see that it changed"
    spoke.get(spoke.put(source.weight), into=copy.weight)
    half = torch.rand(64, 64).to(torch.bfloat16)
    target = torch.empty_like(half)
    spoke.get(spoke.put(half), into=target)
    assert torch.equal(half, target)


MISFITS = [
    (lambda: torch.empty(4, 6), r"into: its shape is \(4, 6\), the value's is \(4, 5\)"),
    (lambda: torch.empty(4, 5, dtype=torch.float16), "dtype is float16, the value's is float32"),
    (lambda: torch.empty(5, 4).t(), "not contiguous"),
    (lambda: numpy.empty((4, 5), ">f4"), "dtype"),
    (lambda: numpy.empty((4, 10), numpy.float32)[:, ::2], "not contiguous"),
    (lambda: numpy.empty((4, 5), object), "Python objects"),
    (lambda: numpy.frombuffer(bytes(80), numpy.float32).reshape(4, 5), "read-only"),
    (lambda: bytearray(79), "it has 79 bytes, the value has 80"),
    (lambda: bytes(80), "read-only"),
    (lambda: {"a": torch.empty(4, 5)}, "into is a dict, the value there is a Tensor"),
    (lambda: [torch.empty(4, 5)], "into has 1 items"),
]


@pytest.mark.parametrize(("target", "message"), MISFITS)
def test_what_does_not_fit_is_named_and_nothing_is_written(cluster: str, target: Any, message: str) -> None:
    brought = target()
    with pytest.raises(ValueError, match=message):
        spoke.get(spoke.put(torch.ones(4, 5)), into=brought)


def test_where_in_a_structure_is_said(cluster: str) -> None:
    ref = spoke.put({"layers": [torch.ones(2), torch.ones(3)], "x": 1})
    good = torch.zeros(2)
    with pytest.raises(ValueError, match=r"into\['layers'\]\[1\]: its shape is \(4,\)"):
        spoke.get(ref, into={"layers": [good, torch.zeros(4)], "x": bytearray(1)})
    assert good.sum() == 0
    with pytest.raises(ValueError, match="missing 'x'; not in the value: 'y'"):
        spoke.get(ref, into={"layers": [good, torch.zeros(3)], "y": bytearray(1)})
    with pytest.raises(ValueError, match=r"into\['x'\]: the value there is a int"):
        spoke.get(ref, into={"layers": [good, torch.zeros(3)], "x": bytearray(1)})


def test_misuse(cluster: str) -> None:
    ref = spoke.put(torch.ones(2))
    with pytest.raises(ValueError, match="2 refs, into=1"):
        spoke.get([ref, ref], into=[torch.empty(2)])
    with pytest.raises(TypeError, match="not 'x'"):
        spoke.get("x", into=torch.empty(2))
    with pytest.raises(TypeError, match=r"into: a destination is .* not int"):
        spoke.get(ref, into=5)
    sleeper = spoke.remote(lambda: __import__("time").sleep(30)).remote()
    with pytest.raises(GetTimeoutError):
        spoke.get(sleeper, into=bytearray(1), timeout=0.05)
    spoke.cancel(sleeper, force=True)
    failing = spoke.remote(lambda: {}["no such key"]).remote()
    with pytest.raises(KeyError, match="no such key"):
        spoke.get(failing, into=bytearray(1))

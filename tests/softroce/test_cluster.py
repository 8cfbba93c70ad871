"""A cluster of two nodes over the device: objects, lists, many calls, deaths, limits, the link, a model."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import spoke
from spoke import current, wire

TOKEN = "softroce-cluster-token"
HEAD = "10.77.0.1:6388"
MIB = 1 << 20
GET_S = 200.0


def pattern(size: int, seed: int) -> bytearray:
    """`size` bytes that differ by seed and do not repeat in step with pages."""
    block = random.Random(seed).randbytes(65_521)
    return bytearray((block * (size // len(block) + 1))[:size])


class Far:
    """An actor of the other node."""

    def __init__(self) -> None:
        self.kept: dict[tuple[int, int], Any] = {}
        self.numbers: list[int] = []

    def count(self, number: int) -> int:
        self.numbers.append(number)
        return number

    def counted(self) -> list[int]:
        return self.numbers

    def make(self, size: int, seed: int) -> Any:
        import pickle

        key = (size, seed)
        if key not in self.kept:
            self.kept = {key: pattern(size, seed)}
        return pickle.PickleBuffer(self.kept[key]) if size > 102_400 else bytes(self.kept[key])

    def many(self, count: int, size: int) -> list[Any]:
        import pickle

        return [pickle.PickleBuffer(pattern(size + index % 7, index)) for index in range(count)]

    def check(self, data: Any, size: int, seed: int) -> bool:
        return memoryview(data).cast("B") == memoryview(pattern(size, seed))

    def stats(self) -> dict[str, int]:
        return spoke.object_store_stats()

    def pid(self) -> int:
        return os.getpid()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """The driver on node 0, workers on node 1."""
    from peer import Peer

    patch = pytest.MonkeyPatch()
    patch.setenv("SPOKE_TOKEN", TOKEN)
    command = [sys.executable, "-m", "spoke", "start"]
    head = subprocess.Popen(
        [*command, "--head", "--host", "10.77.0.1", "--port", "6388", "--num-cpus", "1", "--block"],
        env=dict(os.environ), stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                spoke.init(address=HEAD, log_to_driver=False)
                break
            except (OSError, spoke.exceptions.RayError):
                assert time.monotonic() < deadline
                time.sleep(0.5)
        node = [*command, "--address", HEAD, "--host", "10.77.0.2", "--num-cpus", "3", "--block"]
        with Peer().start(*node, "--resources", '{"far": 10}', env={"SPOKE_TOKEN": TOKEN}):
            yield spoke.remote(Far).options(resources={"far": 1}, max_restarts=0, num_cpus=0)
            spoke.shutdown()
    finally:
        head.terminate()
        head.wait(60)
        patch.undo()


@pytest.fixture(scope="module")
def far(cluster: Any) -> Any:
    """One actor of the other node for all tests that let it live: starting one takes ten seconds here."""
    return cluster.remote()


def _moved(before: dict[str, int]) -> dict[str, int]:
    after = spoke.object_store_stats()
    return {name: count - before.get(name, 0) for name, count in after.items()}


@pytest.mark.parametrize("size", [1, 4095, 110_001, MIB + 1, 17 * MIB + 3, 256 * MIB])
def test_objects_of_every_size(far: Any, peer: Any, size: int) -> None:
    ref = far.make.remote(size, size)
    spoke.wait([ref], timeout=GET_S)
    into, before = bytearray(size), spoke.object_store_stats()
    began = time.monotonic()
    spoke.get(ref, into=into, timeout=GET_S)
    took = time.monotonic() - began
    assert into == pattern(size, size)
    moved = _moved(before)
    if size > 102_400:
        assert moved["rdma_bytes"] == size and moved["rdma_copies"] == 0 and moved["tcp_bytes"] == 0
        assert spoke.transport_of(ref) == ("rdma", "")
        print(f"{size} bytes by RDMA into place: {size / took / MIB:.1f} MiB/s")
    if size < 64 * MIB:
        assert spoke.get(far.check.remote(bytes(into), size, size), timeout=GET_S)


def test_a_thousand_parameters_are_one_batch(far: Any, peer: Any) -> None:
    ref = far.many.remote(1000, 8192)
    spoke.wait([ref], timeout=GET_S)
    into = [bytearray(8192 + index % 7) for index in range(1000)]
    before = spoke.object_store_stats()
    spoke.get(ref, into=into)
    assert all(one == pattern(8192 + index % 7, index) for index, one in enumerate(into))
    moved = _moved(before)
    assert moved["rdma_blocks"] == 1000 and moved["rdma_copies"] == 0


def test_a_grant_rides_on_the_answer(far: Any, peer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    control = current.client.rdma.mover._control  # type: ignore[union-attr]
    tell, kinds = control.tell, []

    def noted(to: bytes, *message: Any) -> None:
        kinds.append(message[0])
        tell(to, *message)

    spoke.get(far.make.remote(200_000, 2), timeout=GET_S)  # one who asks is offered what comes next
    monkeypatch.setattr(control, "tell", noted)
    for seed in range(3):
        assert memoryview(spoke.get(far.make.remote(300_000, seed), timeout=GET_S)) == pattern(300_000, seed)
    assert kinds == [wire.RDMA_DONE] * 3


def test_sixty_four_calls_in_flight_both_ways(far: Any, peer: Any) -> None:
    sizes = [random.Random(index).randrange(110_000, 400_000) for index in range(64)]
    mine = [spoke.put(pattern(size, index)) for index, size in enumerate(sizes)]
    there = [
        far.check.remote(ref, size, index) for index, (ref, size) in enumerate(zip(mine, sizes, strict=True))
    ]
    back = [far.many.remote(2, 150_000 + index) for index in range(8)]
    assert all(spoke.get(there, timeout=GET_S))
    for index, (one, two) in enumerate(spoke.get(back, timeout=GET_S)):
        assert bytes(one) == pattern(150_000 + index, 0) and bytes(two) == pattern(150_001 + index, 1)


def test_owners_and_readers_that_are_killed(cluster: Any, peer: Any) -> None:
    """A get either has the right bytes or an error by name; the cluster goes on."""
    rng = random.Random(5)
    good = failed = 0
    size = 2 * MIB
    for turn in range(2):
        far = cluster.remote()
        ref = far.make.remote(size, turn)
        spoke.wait([ref], timeout=GET_S)
        into = bytearray(size)
        killer = threading.Timer(rng.random() * 0.15, spoke.kill, (far,))
        killer.start()
        try:
            spoke.get(ref, into=into, timeout=GET_S)
            assert into == pattern(size, turn)
            good += 1
        except spoke.exceptions.RayError:
            failed += 1
        killer.join()
    print(f"{good} reads good, {failed} failed")
    far = cluster.remote()
    lent = spoke.put(pattern(4 * MIB, 1))
    for _ in range(1):
        reader = cluster.remote()
        pid = spoke.get(reader.pid.remote(), timeout=GET_S)
        pending = reader.check.remote(lent, 4 * MIB, 1)
        time.sleep(rng.random() * 0.2)
        peer.run("kill", "-9", str(pid))
        try:
            assert spoke.get(pending, timeout=GET_S)
        except spoke.exceptions.RayActorError:
            failed += 1
    assert spoke.get(far.check.remote(lent, 4 * MIB, 1), timeout=GET_S)
    spoke.kill(far)


def test_the_link_goes_down_and_up(far: Any, peer: Any) -> None:
    refs = [far.make.remote(3 * MIB, seed) for seed in range(4)]
    spoke.wait(refs, num_returns=4, timeout=GET_S)
    flap = threading.Timer(
        0.3,
        lambda: subprocess.run("ip link set eth0 down; sleep 1; ip link set eth0 up", shell=True, check=True),
    )
    flap.start()
    for seed, ref in enumerate(refs):
        into = bytearray(3 * MIB)
        spoke.get(ref, into=into, timeout=GET_S)
        assert into == pattern(3 * MIB, seed)
        time.sleep(0.4)
    flap.join()
    deadline = time.monotonic() + 60
    while spoke.transport_of(refs[0]).name != "rdma" and time.monotonic() < deadline:
        spoke.get(refs[0], into=bytearray(3 * MIB), timeout=GET_S)
        time.sleep(0.2)
    before = spoke.object_store_stats()
    spoke.get(refs[1], into=bytearray(3 * MIB), timeout=GET_S)
    assert _moved(before)["rdma_bytes"] == 3 * MIB, "RDMA is back"


def test_calls_of_a_broken_channel_go_on_over_tcp(far: Any, peer: Any) -> None:
    """The link stays down until the device gives its requests up: each call has its answer all the same."""
    assert spoke.get(far.count.remote(-1), timeout=GET_S) == -1
    assert far.init_rdma(timeout=GET_S), far._transport
    assert far._transport == ("rdma", "")
    refs = [far.count.remote(index) for index in range(20)]
    subprocess.run(["ip", "link", "set", "eth0", "down"], check=True)
    try:
        refs += [far.count.remote(index) for index in range(20, 40)]
        deadline = time.monotonic() + 3.5  # a node is dead after 5 s
        while far._transport[0] == "rdma" and time.monotonic() < deadline:
            spoke.wait(refs, num_returns=len(refs), timeout=0.1)
    finally:
        subprocess.run(["ip", "link", "set", "eth0", "up"], check=True)
    refs += [far.count.remote(index) for index in range(40, 60)]
    assert spoke.get(refs, timeout=GET_S) == list(range(60))
    assert spoke.get(far.counted.remote(), timeout=GET_S) == [-1, *range(60)]  # in order, each once
    path, why = far._transport
    assert path == "socket" and "the RDMA channel failed" in why
    assert far.init_rdma(timeout=GET_S), far._transport
    assert spoke.get([far.count.remote(index) for index in range(60, 70)], timeout=GET_S) == [*range(60, 70)]


MEMLOCK = """
import spoke
spoke.init(address="{head}", log_to_driver=False)
far = spoke.get_actor("owner", namespace="memlock")
into = bytearray(32 << 20)
ref = far.make.remote(32 << 20, 9)
spoke.get(ref, into=into)
assert spoke.get(far.check.remote(spoke.put(into[:200_000]), 200_000, 9))
stats = spoke.object_store_stats()
print("MOVED", stats["rdma_bytes"], stats["tcp_bytes"], spoke.transport_of(ref).why_not_rdma)
"""


def test_little_memory_that_may_be_locked(cluster: Any, peer: Any) -> None:
    far = cluster.options(resources={"far": 1}, num_cpus=0, name="owner", namespace="memlock").remote()
    spoke.get(far.pid.remote(), timeout=GET_S)
    limited = 'ulimit -l 8192; exec setpriv --bounding-set -ipc_lock --inh-caps -ipc_lock "$@"'
    words = ["bash", "-c", limited, "limited", sys.executable, "-c", MEMLOCK.format(head=HEAD)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("MOVED"))
    _, by_rdma, by_tcp, why = line.split(" ", 3)
    assert int(by_rdma) + int(by_tcp) == 32 * MIB
    assert int(by_rdma) == 32 * MIB or "memlock" in why.lower() or "lock" in why.lower(), line
    spoke.kill(far)


class Model:
    """Holds a model; imports torch, which takes its time here."""

    def __init__(self) -> None:
        import torch

        torch.manual_seed(4)
        layers = [torch.nn.Linear(256, 300), torch.nn.ReLU(), torch.nn.Linear(300, 300)]
        self.model = torch.nn.Sequential(*layers)
        self.kept = [spoke.register_memory(one) for one in self.model.state_dict().values()]

    def state(self) -> Any:
        return self.model.state_dict()

    def total(self) -> float:
        return sum(float(one.double().sum()) for one in self.model.state_dict().values())

    def copied(self) -> int:
        return spoke.object_store_stats()["copied_bytes"]


@pytest.mark.timeout_s(400)
def test_a_models_state_moves_between_nodes(cluster: Any, peer: Any) -> None:
    model = spoke.remote(Model).options(resources={"far": 1}).remote()
    ref = model.state.remote()
    torch = pytest.importorskip("torch")
    layers = [torch.nn.Linear(256, 300), torch.nn.ReLU(), torch.nn.Linear(300, 300)]
    copy = torch.nn.Sequential(*layers)
    spoke.wait([ref], timeout=280)
    before = spoke.object_store_stats()
    spoke.get(ref, into=copy.state_dict())
    moved = _moved(before)
    total = sum(float(one.double().sum()) for one in copy.state_dict().values())
    assert total == spoke.get(model.total.remote())
    assert moved["rdma_blocks"] == 4 and moved["rdma_copies"] == 0
    assert spoke.get(model.copied.remote()) == 0, "the sender copied nothing"


@pytest.mark.timeout_s(400)
def test_the_example_shows_rdma(cluster: Any, peer: Any) -> None:
    example = Path(__file__).resolve().parent.parent.parent / "examples" / "tensor_transfer.py"
    words = [sys.executable, str(example), "--address", HEAD, "--mib", "0.25", "4", "--rounds", "1"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=380)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if " MiB " in line]
    print(*rows, sep="\n")
    assert len(rows) == 4, done.stdout
    assert all(row.startswith("two nodes") and " rdma " in row for row in rows)
    assert all(row.count(" 0 copies here") == 2 and row.endswith("; 0 B copied there") for row in rows)

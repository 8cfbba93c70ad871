"""Ray's names for direct transfers of tensors, and CUDA tensors over a stand-in for torch.cuda."""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

import spoke
from spoke import codec, cudadriver, cudatensors
from spoke import experimental as experimental
from spoke.cluster_utils import Cluster


@pytest.fixture
def driver() -> Iterator[None]:
    spoke.init(num_cpus=2)
    yield
    spoke.shutdown()


def _wait_for(what: Any, value: Any) -> None:
    deadline = time.monotonic() + 30
    while what() != value and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.02)
    assert what() == value


def test_nixl_memory_is_registered_memory(driver: None) -> None:
    tensor = torch.rand(100_000)
    experimental.register_nixl_memory(tensor)
    experimental.register_nixl_memory(tensor)
    assert spoke.object_store_stats()["regions"] == 1
    ref = spoke.put([tensor[:10], tensor], _tensor_transport="nixl")
    assert torch.equal(spoke.get(ref)[1], tensor)
    assert spoke.object_store_stats()["copied_bytes"] == 0
    experimental.deregister_nixl_memory(tensor)
    experimental.deregister_nixl_memory(tensor)
    with pytest.raises(ValueError, match="register_nixl_memory comes first"):
        experimental.deregister_nixl_memory(tensor)
    with pytest.raises(TimeoutError, match="2 objects still carry"):
        experimental.wait_tensor_freed(tensor, timeout=0.1)
    del ref
    experimental.wait_tensor_freed(tensor, timeout=30)
    assert spoke.object_store_stats()["regions"] == 0
    with pytest.raises(TypeError, match="expected a torch tensor"):
        experimental.register_nixl_memory(b"x")


def test_wait_until_a_tensor_may_be_written_again(driver: None) -> None:
    tensor = spoke.empty(1000)
    registration = spoke.register_memory(tensor)
    ref = spoke.put(tensor)
    with pytest.raises(TimeoutError, match="1 objects"):
        experimental.wait_tensor_freed(tensor, timeout=0.05)
    del ref
    experimental.wait_tensor_freed(tensor, timeout=30)
    registration.unregister()
    experimental.wait_tensor_freed(torch.rand(5), timeout=0.0)


def test_targets_take_the_place_of_the_tensors(driver: None) -> None:
    one, two = torch.rand(50_000), torch.arange(6).view(2, 3)
    for value, count in (([one, two], 2), ((one,), 1), (one, 1), ({"b": two, "a": one}, 2)):
        tensors = [one, two] if count == 2 else [one]
        if isinstance(value, dict):
            tensors = [two, one]
        targets = [torch.zeros_like(tensor) for tensor in tensors]
        ref = spoke.put(value)
        experimental.set_target_for_ref(ref, [torch.empty(1)])
        experimental.set_target_for_ref(ref, targets)
        got = spoke.get(ref)
        inside = (
            list(got.values())
            if isinstance(got, dict)
            else list(got)
            if count == 2 or got is not targets[0]
            else [got]
        )
        assert all(a is b for a, b in zip(inside, targets, strict=True))
        assert all(map(torch.equal, targets, tensors))
        assert isinstance(spoke.get(ref), type(value)), "the target counts once"
    ref = spoke.put([one])
    experimental.set_target_for_ref(ref, [torch.zeros(3)])
    other = spoke.put(1)
    with pytest.raises(ValueError, match="shape"):
        spoke.get([other, ref])
    experimental.set_target_for_ref(ref, [torch.zeros(3), one])
    with pytest.raises(ValueError, match="has 2 tensors, the value 1"):
        spoke.get(ref)
    experimental.set_target_device_for_ref(ref, "cpu")
    assert torch.equal(spoke.get(ref)[0], one)
    with pytest.raises(TypeError, match="expected an ObjectRef"):
        experimental.set_target_for_ref(5, [])
    with pytest.raises(TypeError, match="must be a list"):
        experimental.set_target_for_ref(ref, one)


@pytest.mark.parametrize("name", ["NIXL", "gloo", "nccl", "cuda_ipc", "object_store"])
def test_every_transport_of_rays_carries_cpu_tensors(driver: None, name: str) -> None:
    class Model:
        @spoke.method(tensor_transport=name)
        def weights(self) -> Any:
            return {"w": torch.arange(100_000)}

    model = spoke.remote(Model).options(enable_tensor_transport=True).remote()
    assert torch.equal(spoke.get(model.weights.remote())["w"], torch.arange(100_000))
    assert torch.equal(spoke.get(spoke.put(torch.ones(3), _tensor_transport=name)), torch.ones(3))


def test_an_unknown_transport_is_refused(driver: None) -> None:
    with pytest.raises(ValueError, match="Invalid tensor transport: PIGEON"):
        spoke.put(torch.ones(3), _tensor_transport="pigeon")
    with pytest.raises(ValueError, match="Invalid tensor transport"):
        spoke.method(tensor_transport="pigeon")(lambda self: None)


def test_a_pool_is_memory_that_is_ready(driver: None) -> None:
    experimental.register_nixl_memory_pool(3 << 20, torch.device("cpu"))
    stats = spoke.object_store_stats()
    assert stats["segment_bytes"] >= 3 << 20 and stats["blocks"] == 0
    with pytest.raises(ValueError, match="positive number of bytes"):
        experimental.register_nixl_memory_pool(0, "cpu")


# -- CUDA, over files that stand in for a device's memory


class DeviceTensor:
    """What `cudatensors` uses of a CUDA tensor; its memory is a file that other processes can map."""

    def __init__(self, path: str, cpu: Any) -> None:
        self.path, self.cpu = path, cpu
        self.requires_grad = False

    device = type("device", (), {"index": 0, "type": "cuda"})
    dtype = property(lambda self: self.cpu.dtype)
    shape = property(lambda self: self.cpu.shape)

    def detach(self) -> DeviceTensor:
        return self

    contiguous = detach

    def numel(self) -> int:
        return int(self.cpu.numel())

    def data_ptr(self) -> int:
        return int(self.cpu.data_ptr())

    def view(self, *shape: Any) -> Any:
        return self.cpu.view(*shape)

    def untyped_storage(self) -> Any:
        return self.cpu.untyped_storage()


class FakeDriver:
    """One device, whose memory is in files: "mapping" a handle is mapping its file."""

    def __init__(self, folder: str, uuid: str = "GPU-1", handles: bool = True) -> None:
        self.folder, self.mine, self.handles = folder, uuid, handles
        self.staged = self.waited = 0
        self.streams: list[Any] = []
        self.published: list[str] = []

    def make(self, count: int) -> DeviceTensor:
        descriptor, path = tempfile.mkstemp(dir=self.folder)
        os.ftruncate(descriptor, count * 8)
        os.close(descriptor)
        tensor = DeviceTensor(path, torch.from_file(path, shared=True, size=count, dtype=torch.int64))
        tensor.cpu[:] = torch.arange(count)
        return tensor

    def export(self, tensor: DeviceTensor) -> tuple[str, Any]:
        if not self.handles:
            raise RuntimeError("expandable segments have no handle")
        self.published.append(tensor.path)
        return self.mine, tensor.path

    def open(self, index: int, handle: str) -> Any:
        return torch.from_file(handle, shared=True, size=os.path.getsize(handle) // 8, dtype=torch.int64)

    def uuid(self, index: int) -> str:
        return self.mine

    def find(self, uuid: str) -> int | None:
        return 0 if uuid == self.mine else None

    def on(self, stream: Any) -> Any:
        self.streams.append(stream)
        return nullcontext()

    def event(self, tensor: Any) -> str:
        return "filled"

    def wait(self, event: str) -> None:
        assert event == "filled"
        self.waited += 1

    def to_host(self, tensor: Any, after: str = "filled") -> Any:
        assert after == "filled", "a copy is made after what fills the tensor"
        self.staged += 1
        return getattr(tensor, "cpu", tensor).clone() if isinstance(tensor, DeviceTensor) else tensor.clone()

    def to_device(self, host: Any, index: int | None) -> Any:
        return host

    def empty(self, shape: Any, dtype: Any, index: int | None) -> Any:
        return torch.empty(shape, dtype=dtype)


class Gpu:
    """An actor with a device of its own kind."""

    def __init__(self, folder: str, uuid: str = "GPU-1", handles: bool = True) -> None:
        self.driver = cudadriver.driver = FakeDriver(folder, uuid, handles)
        codec.register_reducer(DeviceTensor, cudatensors.reduce_cuda)

    @spoke.method(tensor_transport="cuda_ipc")
    def weights(self, count: int) -> Any:
        self.tensor = self.driver.make(count)
        return {"w": self.tensor}

    def copy_of_weights(self) -> Any:
        return self.tensor

    def write(self, number: int) -> None:
        self.tensor.cpu[0] = number

    def held(self) -> tuple[int, int]:
        return spoke.object_store_stats()["regions"], self.driver.staged

    def read(self, value: Any) -> tuple[int, dict[str, int]]:
        self.seen = value["w"]
        return int(self.seen.sum()), cudadriver.counts

    def first(self) -> int:
        return int(self.seen[0])

    def forget(self) -> None:
        del self.seen


COUNT = 3 << 20  # of 8 bytes: more than a piece of a transfer
TOTAL = COUNT * (COUNT - 1) // 2


@pytest.fixture
def gpus(driver: None, tmp_path: Path) -> Any:
    return lambda *arguments: spoke.remote(Gpu).options(num_cpus=0).remote(str(tmp_path), *arguments)


def test_a_reader_on_the_node_shares_the_devices_memory(gpus: Any) -> None:
    owner, reader = gpus(), gpus()
    ref = owner.weights.remote(COUNT)
    total, counts = spoke.get(reader.read.remote(ref))
    assert total == TOTAL and counts == {"cuda_ipc": 1, "cuda_staged": 0}
    spoke.get(owner.write.remote(77))
    assert spoke.get(reader.first.remote()) == 77, "it is the same memory"
    assert spoke.get(owner.held.remote()) == (1, 0)
    del ref
    time.sleep(0.2)
    assert spoke.get(owner.held.remote())[0] == 1, "the reader's tensor keeps it"
    spoke.get(reader.forget.remote())
    _wait_for(lambda: spoke.get(owner.held.remote())[0], 0)


@pytest.mark.parametrize(("uuid", "handles"), [("GPU-2", True), ("GPU-1", False)])
def test_a_reader_that_cannot_share_gets_a_copy(gpus: Any, uuid: str, handles: bool) -> None:
    owner, reader = gpus("GPU-1", handles), gpus(uuid)
    ref = owner.weights.remote(COUNT)
    total, counts = spoke.get(reader.read.remote(ref))
    assert total == TOTAL and counts["cuda_ipc"] == 0
    assert spoke.get(owner.held.remote())[1] == 3, "three pieces, each through pinned memory"
    spoke.get(owner.write.remote(77))
    assert spoke.get(reader.first.remote()) == 0
    del ref
    _wait_for(lambda: spoke.get(owner.held.remote())[0], 0)


def test_without_a_transport_it_is_a_copy(gpus: Any) -> None:
    owner = gpus()
    kept = owner.weights.remote(1000)
    spoke.wait([kept])
    assert torch.equal(spoke.get(owner.copy_of_weights.remote()), torch.arange(1000))
    assert spoke.get(owner.held.remote())[1] == 1


class Stream:
    """What is asked of a torch.cuda.Stream."""

    cuda_stream = 7

    def wait_event(self, event: Any) -> None: ...


def test_the_stream_that_fills_tensors_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"torch\.cuda\.Stream or None, not int"):
        experimental.set_nixl_cuda_stream(3)
    seen = FakeDriver(str(tmp_path))
    monkeypatch.setattr(cudadriver, "driver", seen)
    stream = Stream()
    for given in (stream, None):
        experimental.set_nixl_cuda_stream(given)
        cudatensors.reduce_cuda(seen.make(10))
    assert seen.streams == [stream, None]
    assert experimental.rdt.set_nixl_cuda_stream is experimental.set_nixl_cuda_stream


def test_another_node_gets_a_copy(tmp_path: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1, resources={"far": 1})
        spoke.init(address=cluster.address)
        owner = spoke.remote(Gpu).options(resources={"far": 1}).remote(str(tmp_path))
        reader = spoke.remote(Gpu).options(num_cpus=0.5).remote(str(tmp_path))
        total, counts = spoke.get(reader.read.remote(owner.weights.remote(COUNT)))
        assert total == TOTAL and counts["cuda_ipc"] == 0
    finally:
        spoke.shutdown()
        cluster.shutdown()

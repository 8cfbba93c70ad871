"""GPUDirect over stand-ins: a CUDA driver whose memory is files, and the software verbs device.

A tensor "on a GPU" is one of torch's own kind without data, whose address is that of such a file.

What a real NIC and GPU do together is not shown here.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pickle
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import spoke
from spoke import _native, cudadriver, cudatensors, current
from spoke.cluster_utils import Cluster
from spoke.regions import RegionMemory
from spoke.transport.verbs import Device

ROOT = Path(__file__).resolve().parent.parent
PAGE = 4096
SIZE = 64 * PAGE


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    path = str(tmp_path_factory.mktemp("cuda") / "libfakecuda.so")
    source = str(ROOT / "tests" / "native" / "fake_cuda.c")
    subprocess.run([compiler, "-O1", "-Wall", "-Werror", "-shared", "-fPIC", source, "-o", path], check=True)
    return path


class Gpu:
    """An allocation: an address that this process cannot read, and the file of its bytes."""

    _next = 0x7F00_0000_0000

    def __init__(self, driver: str, size: int = SIZE) -> None:
        self.address, self.size = Gpu._next, size
        Gpu._next += 1 << 30
        self.fd = os.memfd_create("gpu")
        os.write(self.fd, os.urandom(size))
        add = ctypes.CDLL(driver).fake_cuda_add
        add.argtypes = [ctypes.c_uint64, ctypes.c_size_t, ctypes.c_int]
        add(self.address, size, self.fd)
        self.on_gpu = True  # as `cudatensors.DeviceMemory`

    def bytes(self) -> bytes:
        return os.pread(self.fd, self.size, 0)


def connected(one: Any, other: Any) -> tuple[Any, Any]:
    reader, responder = _native.RdmaReader(one), _native.RdmaResponder(other)
    reader.connect(responder.address)
    responder.connect(reader.address)
    return reader, responder


def test_a_peer_reads_a_gpus_memory_by_dmabuf(driver: str) -> None:
    gpu = Gpu(driver)
    owner, taker = _native.RdmaEngine("fake"), _native.RdmaEngine("fake")
    region = owner.register_gpu(gpu.address + 100, SIZE - 200, driver, True)
    assert region.way == "dmabuf" and region.address == gpu.address + 100 and len(region) == SIZE - 200
    into = bytearray(SIZE)
    landing = taker.register(_native.buffer_address(into), SIZE, False)
    reader, responder = connected(taker, owner)
    done = reader.read([(landing, landing.address, region.address, region.rkey, SIZE - 200)])
    assert done.wait(60) and done.error == ""
    assert into[: SIZE - 200] == gpu.bytes()[100 : SIZE - 100]
    outside = reader.read([(landing, landing.address, region.address + 1, region.rkey, SIZE - 200)])
    assert outside.wait(60) and "remote access error" in outside.error
    responder.close()
    reader.close("the test is over")
    os.close(gpu.fd)


def test_expandable_memory_is_refused_by_name(driver: str) -> None:
    gpu = Gpu(driver)
    engine = _native.RdmaEngine("fake")
    with pytest.raises(OSError, match="expandable_segments:True in PYTORCH_CUDA_ALLOC_CONF") as refused:
        engine.register_gpu(gpu.address, SIZE + PAGE, driver, True)
    assert refused.value.errno == errno.EINVAL
    os.close(gpu.fd)


def test_without_dmabuf_the_kernel_module_is_tried_and_else_both_are_named(driver: str) -> None:
    memory = bytearray(SIZE)  # as if nvidia_peermem made its address good for ibv_reg_mr
    address = _native.buffer_address(memory)
    add = ctypes.CDLL(driver).fake_cuda_add
    add.argtypes = [ctypes.c_uint64, ctypes.c_size_t, ctypes.c_int]
    add(address, SIZE, -1)
    engine = _native.RdmaEngine("fake")
    _native.fake_rdma("no_dmabuf", 1)
    assert engine.register_gpu(address, SIZE, driver, True).way == "nvidia_peermem"
    _native.fake_rdma("no_dmabuf", 1)
    _native.fake_rdma("no_memory", 1)
    with pytest.raises(OSError, match=r"by dmabuf: .*; by nvidia_peermem: ibv_reg_mr of") as refused:
        engine.register_gpu(address, SIZE, driver, True)
    assert refused.value.errno == errno.ENOMEM
    _native.fake_rdma("no_dmabuf", 0)
    assert engine.register(address, SIZE, True).way == "host"


def test_no_driver_is_an_error_that_says_so(tmp_path: Path) -> None:
    engine = _native.RdmaEngine("fake")
    with pytest.raises(OSError, match="the CUDA driver cannot be loaded"):
        engine.register_gpu(1 << 40, PAGE, str(tmp_path / "libcuda.so.1"), True)


def test_the_device_says_which_way_it_took(driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPOKE_RDMA_LIBRARY", "fake")
    monkeypatch.setenv("SPOKE_CUDA_LIBRARY", driver)
    gpu, device = Gpu(driver), Device(lambda fd: 1, lambda source: None)
    region = device.readable(-1, gpu)
    assert region.way == "dmabuf" and device.gpu_ways == {"dmabuf": 1} and device.why_no_gpu == ""
    assert device.readable(-1, gpu) is region
    gpu.size += PAGE
    with pytest.raises(OSError, match="expandable"):
        device.readable(-2, gpu)
    assert "expandable" in device.why_no_gpu and device.gpu_ways == {"dmabuf": 1}
    assert device.readable(-3, RegionMemory(memoryview(bytearray(PAGE)))).way == "host"
    device.close()
    os.close(gpu.fd)


# -- a reader's own GPU

torch = pytest.importorskip("torch")
COUNT = 40_000  # of 8 bytes


class OnGpu(torch.Tensor):
    """A tensor that says of itself that it is on a GPU, over an allocation of the stand-in driver."""

    @staticmethod
    def __new__(cls, gpu: Gpu, dtype: Any = torch.int64) -> Any:
        count = gpu.size // dtype.itemsize
        return torch.Tensor._make_wrapper_subclass(cls, (count,), dtype=dtype, device="cuda:0")

    def __init__(self, gpu: Gpu, dtype: Any = torch.int64) -> None:
        self.gpu = gpu
        self.copied: Any = None

    def view(self, what: Any) -> Any:  # type: ignore[override]
        return self if what == -1 else OnGpu(self.gpu, what)

    def copy_(self, source: Any) -> Any:  # type: ignore[override]
        self.copied = source
        return self

    @classmethod
    def __torch_dispatch__(cls, function: Any, *rest: Any) -> Any:
        raise AssertionError(f"{function} needs a GPU")

    def data_ptr(self) -> int:
        return self.gpu.address

    def values(self) -> Any:
        return torch.frombuffer(bytearray(self.gpu.bytes()), dtype=torch.int64)


class Streams:
    """The part of `cudadriver.Driver` that a target takes; notes what is done in which order."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.made: Any = None

    def event(self, tensor: Any) -> str:
        self.done.append("event")
        return "used"

    def wait(self, event: str) -> None:
        assert event == "used"
        self.done.append("wait")

    def pinned(self, size: int) -> Any:
        self.done.append("pinned")
        return torch.zeros(size, dtype=torch.uint8)

    def find(self, uuid: str) -> int | None:
        return None

    def empty(self, shape: Any, dtype: Any, index: int | None) -> Any:
        return self.made

    def from_host(self, host: Any, tensor: OnGpu) -> None:
        self.done.append("copy")
        os.pwrite(tensor.gpu.fd, host.numpy().tobytes(), 0)


class Far:
    """An actor of the other node, or of this one."""

    def make(self, seed: int) -> Any:
        return torch.arange(COUNT) * seed

    def twice(self, seed: int) -> Any:
        tensor = torch.arange(COUNT) * seed
        return [tensor, tensor, torch.arange(COUNT) - seed]

    def raw(self, seed: int) -> Any:
        return pickle.PickleBuffer((torch.arange(COUNT) * seed).numpy())


@pytest.fixture
def far(driver: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("SPOKE_RDMA_LIBRARY", "fake")
    monkeypatch.setenv("SPOKE_CUDA_LIBRARY", driver)
    monkeypatch.setattr(cudadriver, "driver", Streams())
    order(driver, 0, 1)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1, resources={"far": 1})
    spoke.init(address=cluster.address)
    yield spoke.remote(Far).options(resources={"far": 1}).remote()
    spoke.shutdown()
    cluster.shutdown()


@pytest.fixture
def target(driver: str) -> Iterator[OnGpu]:
    gpu = Gpu(driver, COUNT * 8)
    yield OnGpu(gpu)
    os.close(gpu.fd)


def order(driver: str, ordering: int, options: int) -> None:
    ctypes.CDLL(driver).fake_cuda_order(ordering, options)


def flushes(driver: str) -> int:
    return int(ctypes.CDLL(driver).fake_cuda_flushes())


def done() -> list[str]:
    """What was done since this was asked last."""
    found, cudadriver.driver.done = cudadriver.driver.done, []
    return found


def device() -> Any:
    return current.client.rdma.mover.device  # type: ignore[union-attr]


def gained(before: dict[str, int]) -> dict[str, int]:
    now = spoke.object_store_stats()
    return {name: now[name] - before[name] for name in now if now[name] != before[name]}


def test_bytes_of_another_node_go_straight_to_a_gpu(far: Any, target: OnGpu, driver: str) -> None:
    before, flushed = spoke.object_store_stats(), flushes(driver)
    assert spoke.get(far.make.remote(3), into=target) is target
    assert torch.equal(target.values(), torch.arange(COUNT) * 3)
    assert gained(before) == {"rdma_blocks": 1, "rdma_bytes": COUNT * 8}, "nothing was copied"
    assert done() == ["event", "wait"], "what used the memory before is done with it"
    assert flushes(driver) == flushed + 1 and device().gpu_ways == {"dmabuf": 1}
    order(driver, 100, 1)  # a GPU that orders what is written: there is nothing to flush
    spoke.get(far.make.remote(4), into=target)
    order(driver, 0, 0)  # one that cannot be flushed by the host
    spoke.get(far.make.remote(5), into=target)
    assert torch.equal(target.values(), torch.arange(COUNT) * 5)
    assert flushes(driver) == flushed + 1 and device().gpu_ways == {"dmabuf": 3}
    assert target._version == 3, "autograd is told"


def test_memory_that_a_card_cannot_write_goes_through_pinned_memory(far: Any, target: OnGpu) -> None:
    spoke.get(far.make.remote(1), into=target)
    for turn in range(2):
        before, staged = spoke.object_store_stats(), cudadriver.counts["cuda_staged"]
        done()
        _native.fake_rdma("no_dmabuf", 1)
        _native.fake_rdma("no_memory", 1)
        if turn == 0:
            with pytest.warns(RuntimeWarning, match=r"cannot write this GPU's memory .*by dmabuf: .*pinned"):
                spoke.get(far.make.remote(6), into=target)
        else:  # said once
            spoke.get(far.make.remote(6), into=target)
        assert torch.equal(target.values(), torch.arange(COUNT) * 6)
        assert gained(before) == {"rdma_blocks": 1, "rdma_bytes": COUNT * 8, "rdma_copies": 1}
        assert done() == ["event", "wait", "pinned", "copy"]
        assert cudadriver.counts["cuda_staged"] == staged + 1
        assert "by nvidia_peermem" in device().why_no_gpu and device().gpu_ways == {"dmabuf": 1}


def test_a_read_that_fails_goes_on_through_pinned_memory_over_tcp(far: Any, target: OnGpu) -> None:
    spoke.get(far.make.remote(1), into=target)
    done()
    before = spoke.object_store_stats()
    _native.fake_rdma("fail", 12)
    ref = far.make.remote(7)
    spoke.get(ref, into=target)
    assert torch.equal(target.values(), torch.arange(COUNT) * 7)
    assert gained(before).keys() == {"tcp_blocks", "tcp_bytes", "tcp_copies"}
    assert done() == ["event", "wait", "pinned", "copy"]
    assert spoke.transport_of(ref).name == "tcp"


def test_on_one_node_it_is_copied(far: Any, target: OnGpu) -> None:
    near = spoke.remote(Far).options(num_cpus=1).remote()
    before = spoke.object_store_stats()
    spoke.get(near.make.remote(8), into=target)
    assert torch.equal(target.values(), torch.arange(COUNT) * 8)
    assert gained(before)["shm_blocks"] == 1 and done() == ["event", "pinned", "copy"]


def test_gpus_and_host_memory_in_one_batch(far: Any, target: OnGpu) -> None:
    first = torch.zeros(COUNT, dtype=torch.int64)
    before = spoke.object_store_stats()
    spoke.get([far.make.remote(2), far.make.remote(3)], into=[first, target])
    assert torch.equal(first, torch.arange(COUNT) * 2)
    assert torch.equal(target.values(), torch.arange(COUNT) * 3)
    assert gained(before) == {"rdma_blocks": 2, "rdma_bytes": COUNT * 16}


def test_one_tensor_at_two_places_is_read_once(far: Any, target: OnGpu, driver: str) -> None:
    twice, other = torch.zeros(COUNT, dtype=torch.int64), OnGpu(Gpu(driver, COUNT * 8))
    before = spoke.object_store_stats()
    spoke.get(far.twice.remote(9), into=[twice, target, other])
    assert torch.equal(twice, torch.arange(COUNT) * 9)
    assert torch.equal(other.values(), torch.arange(COUNT) - 9)
    assert gained(before)["rdma_blocks"] == 2 and torch.equal(target.copied, twice)
    before = spoke.object_store_stats()
    spoke.get(far.twice.remote(4), into=[other, target, twice])
    assert torch.equal(other.values(), torch.arange(COUNT) * 4)
    assert gained(before)["rdma_blocks"] == 2 and target.copied is other
    os.close(other.gpu.fd)


def test_a_tensor_of_another_nodes_gpu_lands_on_this_ones(far: Any, target: OnGpu) -> None:
    """What is unpickled of a CUDA tensor that was put with a tensor transport."""
    ref = far.raw.remote(5)
    spoke.wait([ref])
    cudadriver.driver.made = target
    info = (b"n" * 28, "GPU-5", pickle.dumps(None), "int64", (COUNT,), False)
    assert cudatensors._rebuild(info, ref) is target
    assert torch.equal(target.values(), torch.arange(COUNT) * 5)
    assert device().gpu_ways == {"dmabuf": 1}

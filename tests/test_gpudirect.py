"""GPUDirect over stand-ins: a CUDA driver whose memory is files, and the software verbs device.

What a real NIC and GPU do together is not shown here.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from spoke import _native
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
    region = owner.register_gpu(gpu.address + 100, SIZE - 200, driver)
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
        engine.register_gpu(gpu.address, SIZE + PAGE, driver)
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
    assert engine.register_gpu(address, SIZE, driver).way == "nvidia_peermem"
    _native.fake_rdma("no_dmabuf", 1)
    _native.fake_rdma("no_memory", 1)
    with pytest.raises(OSError, match=r"by dmabuf: .*; by nvidia_peermem: ibv_reg_mr of") as refused:
        engine.register_gpu(address, SIZE, driver)
    assert refused.value.errno == errno.ENOMEM
    _native.fake_rdma("no_dmabuf", 0)
    assert engine.register(address, SIZE, True).way == "host"


def test_no_driver_is_an_error_that_says_so(tmp_path: Path) -> None:
    engine = _native.RdmaEngine("fake")
    with pytest.raises(OSError, match="the CUDA driver cannot be loaded"):
        engine.register_gpu(1 << 40, PAGE, str(tmp_path / "libcuda.so.1"))


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

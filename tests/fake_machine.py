"""A machine for tests: eight GPUs by `fake_nvml`, and a tree of devices as the kernel shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

FAKE_NVML = Path(__file__).resolve().parent / "fake_nvml"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="ascii")


def make_sysfs(root: Path, nics: int = 4) -> Path:
    """GPUs 0-3 and half of the NICs on NUMA node 0, the others on node 1; the last NIC's port is down."""
    for gpu in range(8):
        write(root / f"bus/pci/devices/0000:{0x10 * (gpu + 1):02x}:00.0/numa_node", str(gpu // 4))
    for nic in range(nics):
        pci = root / f"bus/pci/devices/0000:a{nic}:00.0"
        write(pci / "numa_node", str(nic * 2 // nics))
        (pci / "net" / f"eth{nic}").mkdir(parents=True)
        device = root / f"class/infiniband/mlx5_{nic}"
        write(device / "ports/1/state", "4: ACTIVE" if nic < nics - 1 else "1: DOWN")
        (device / "device").symlink_to(pci)
    write(root / "devices/system/node/node0/cpulist", "0")
    write(root / "devices/system/node/node1/cpulist", "1-4095")
    return root


def pretend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, links: str = "quads") -> Path:
    """Daemons that are started from here on find that machine; returns the file of GPU processes."""
    processes = tmp_path / "processes.json"
    monkeypatch.setenv("SPOKE_NVML", str(FAKE_NVML))
    monkeypatch.setenv("SPOKE_SYSFS", str(make_sysfs(tmp_path / "sys")))
    monkeypatch.setenv("FAKE_NVML_LINKS", links)
    monkeypatch.setenv("FAKE_NVML_PROCESSES", str(processes))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return processes


def make_amd(root: Path, gpus: int = 4) -> Path:
    """The kernel's list of computing devices: one of CPUs, then the GPUs, half of them on each NUMA node."""
    nodes = root / "class/kfd/kfd/topology/nodes"
    write(nodes / "0/gpu_id", "0")
    for gpu in range(gpus):
        node, bus = nodes / str(gpu + 1), 0x10 * (gpu + 1)
        write(node / "gpu_id", str(4000 + gpu))
        write(node / "properties", f"simd_count 416\nlocation_id {bus << 8}\ndomain 0\nvendor_id 4098")
        write(node / "mem_banks/0/properties", f"heap_type 1\nsize_in_bytes {64 << 30}\nflags 0")
        write(root / f"bus/pci/devices/0000:{bus:02x}:00.0/numa_node", str(2 * gpu // gpus))
    return root

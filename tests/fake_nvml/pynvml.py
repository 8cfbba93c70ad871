"""Stands in for NVML: a machine with eight GPUs on two NUMA nodes, NVLink among the four of each.

``FAKE_NVML_LINKS``: "quads" (default), "all" (a switch connects all eight) or "none".
``FAKE_NVML_PROCESSES``: a JSON file ``{"3": [pid, ...]}``: who computes on which GPU; missing: nobody.
"""

from __future__ import annotations

import json
import os
from typing import Any

COUNT = 8
NVML_P2P_CAPS_INDEX_NVLINK = 2
NVML_P2P_STATUS_OK = 0
NVML_P2P_STATUS_NOT_SUPPORTED = 5
MEMORY_BYTES = 80 * 2**30


class NVMLError(Exception):
    """What the real module raises."""


class _Record:
    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


def nvmlInit() -> None:
    pass


def nvmlDeviceGetCount() -> int:
    return COUNT


def nvmlDeviceGetHandleByIndex(index: int) -> int:
    if not 0 <= index < COUNT:
        raise NVMLError("Invalid Argument")
    return index


def nvmlDeviceGetHandleByUUID(uuid: str) -> int:
    raise NVMLError("Not Found")


def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle: int) -> int:
    raise NVMLError("Not Supported")


def nvmlDeviceGetUUID(handle: int) -> bytes:
    return f"GPU-{handle}0000000-fake".encode()


def nvmlDeviceGetName(handle: int) -> str:
    return "NVIDIA H100 80GB HBM3"


def nvmlDeviceGetPciInfo(handle: int) -> _Record:
    return _Record(busId=f"00000000:{0x10 * (handle + 1):02X}:00.0")


def nvmlDeviceGetMemoryInfo(handle: int) -> _Record:
    return _Record(total=MEMORY_BYTES)


def nvmlDeviceGetP2PStatus(one: int, other: int, capability: int) -> int:
    links = os.environ.get("FAKE_NVML_LINKS", "quads")
    linked = links == "all" or (links == "quads" and one // 4 == other // 4)
    return NVML_P2P_STATUS_OK if linked else NVML_P2P_STATUS_NOT_SUPPORTED


def nvmlDeviceGetComputeRunningProcesses(handle: int) -> list[_Record]:
    path = os.environ.get("FAKE_NVML_PROCESSES", "")
    if not path or not os.path.exists(path):
        return []
    with open(path, encoding="ascii") as file:
        pids = json.load(file).get(str(handle), [])
    return [_Record(pid=pid, usedGpuMemory=1 << 30) for pid in pids]

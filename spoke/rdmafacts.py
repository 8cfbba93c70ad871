"""What this machine says about RDMA without opening a device: ports and addresses by sysfs, limits, modules.

Rules of this module: read only, and nothing is loaded.  It answers `spoke doctor`, which must have an
answer where libibverbs or a permission is missing.
"""

from __future__ import annotations

import ipaddress
import os
import resource
from typing import Any, NamedTuple

from spoke import config
from spoke.machine import read_text

MIB = 1024 * 1024
RINGS_BYTES = 64 * MIB  # queues, landing memory and rings of one process on one device, at most


class Gid(NamedTuple):
    """One address of a port."""

    slot: int
    text: str  # as sysfs writes it
    kind: str  # "RoCE v2", "IB/RoCE v1"
    interface: str

    @property
    def address(self) -> str:
        """The IPv4 address inside, where there is one, else the IPv6 form."""
        parsed = ipaddress.IPv6Address(self.text)
        return str(parsed.ipv4_mapped or parsed)


class Port(NamedTuple):
    """One port of an RDMA device."""

    device: str
    number: int
    active: bool
    layer: str  # "Ethernet" | "InfiniBand"
    rate: str
    gids: list[Gid]

    @property
    def name(self) -> str:
        return f"{self.device}/{self.number}"

    def best_gid(self) -> Gid | None:
        """The one that connections use: RoCE v2 with an IPv4 address first, then global IPv6, then any."""
        return min(self.gids, key=_rank, default=None)


def _rank(gid: Gid) -> tuple[bool, bool, bool, int]:
    parsed = ipaddress.IPv6Address(gid.text)
    return gid.kind != "RoCE v2", parsed.is_link_local, parsed.ipv4_mapped is None, gid.slot


def ports() -> list[Port]:
    """All ports of all RDMA devices, in the order of their names."""
    root = os.path.join(config.get("sysfs"), "class/infiniband")
    found = []
    for device in _entries(root):
        for number in _entries(os.path.join(root, device, "ports")):
            folder = os.path.join(root, device, "ports", number)
            active = "ACTIVE" in read_text(os.path.join(folder, "state"))
            layer, rate = (read_text(os.path.join(folder, name)).strip() for name in ("link_layer", "rate"))
            found.append(Port(device, int(number), active, layer, rate, _gids(folder)))
    return found


def _gids(folder: str) -> list[Gid]:
    found = []
    for index in sorted(map(int, _entries(os.path.join(folder, "gids")))):
        text = read_text(os.path.join(folder, "gids", str(index))).strip()
        if not text or set(text) <= {"0", ":"}:
            continue
        kind = read_text(os.path.join(folder, "gid_attrs/types", str(index))).strip()
        interface = read_text(os.path.join(folder, "gid_attrs/ndevs", str(index))).strip()
        found.append(Gid(index, text, kind, interface))
    return found


def _entries(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def memlock(object_store_bytes: int) -> tuple[int | None, int]:
    """``(RLIMIT_MEMLOCK, bytes needed)``: None for unlimited; CAP_IPC_LOCK counts as that.

    Registered memory is pinned once per device, so the need grows with the number of devices.
    """
    needed = (object_store_bytes + RINGS_BYTES) * max(1, len({port.device for port in ports()}))
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return (None if soft == resource.RLIM_INFINITY or _may_lock() else soft), needed


def _may_lock() -> bool:
    for line in read_text("/proc/self/status").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> 14 & 1)  # CAP_IPC_LOCK
    return False


def fork_mode() -> str:
    """What libibverbs says of fork; "" without the library."""
    import ctypes

    try:
        answer = ctypes.CDLL("libibverbs.so.1").ibv_is_fork_initialized()
    except (OSError, AttributeError):
        return ""
    modes = {
        0: "memory that is registered does not survive a fork: start processes by spawn",
        1: "ibv_fork_init was called",
        2: "the kernel copies pinned pages on fork: safe",
    }
    return modes.get(answer, f"unknown ({answer})")


def gpu_direct() -> str:
    """How a GPU's memory can be registered here; "" where it cannot."""
    if not os.path.exists("/proc/driver/nvidia/version"):
        return ""
    version = tuple(int(part) for part in os.uname().release.split(".")[:2])
    ways = []
    if version >= (5, 12) and "Open Kernel Module" in read_text("/proc/driver/nvidia/version"):
        ways.append("dmabuf")
    if any(line.startswith("nvidia_peermem ") for line in read_text("/proc/modules").splitlines()):
        ways.append("nvidia_peermem")
    return ", ".join(ways)


def gid_of(address: str) -> tuple[Port, Gid] | None:
    """The port and GID that carry an IP address of this machine."""
    for port in ports():
        for gid in port.gids:
            if gid.address == address and gid.kind == "RoCE v2":
                return port, gid
    return None


def nic_text(nics: list[dict[str, Any]]) -> str:
    """The RDMA devices of a node in one cell, or why there is no RDMA; nics as a node reports them."""
    return ", ".join(nic["name"] + ("" if nic["up"] else ": no active port") for nic in nics) or "no device"

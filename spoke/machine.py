"""What this machine has: CPUs, memory, an address.  Read from the kernel, without importing anything heavy.

A container's limits count, not the host's: CPUs by affinity and cgroup quota, memory by cgroup limit.
GPUs and other devices are in `spoke.devices`.
"""

from __future__ import annotations

import os
from typing import Final

from spoke import config

# Hosts that one may listen on, and that name no machine.
_OF_NO_MACHINE: Final = frozenset({"", "127.0.0.1", "localhost", "::1", "0.0.0.0", "::"})
OBJECT_STORE_SHARE = 0.3  # of memory, when the user names no limit


def read_text(path: str) -> str:
    """The content of a small file, "" when it cannot be read."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def cpu_count() -> int:
    """CPUs that this process may use, at least 1: affinity, then the cgroup's quota (rounded up)."""
    count = len(os.sched_getaffinity(0))
    quota, _, period = read_text("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        count = min(count, -(-int(quota) // int(period)))
    return max(1, count)


def memory_bytes() -> int:
    """Bytes of memory of this container or machine, whichever is less."""
    total = 0
    for line in read_text("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            total = int(line.split()[1]) * 1024
            break
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = read_text(path).strip()
        if text.isdigit() and 0 < int(text) < total:
            total = int(text)
    return total


def outward_ip() -> str:
    """The address of this machine that others see: the source address of the default route."""
    from _socket import AF_INET, SOCK_DGRAM
    from _socket import socket as plain_socket

    probe = plain_socket(AF_INET, SOCK_DGRAM)
    try:
        probe.connect(("192.0.2.1", 9))  # a documentation address; a datagram socket sends nothing yet
        return str(probe.getsockname()[0])
    except OSError:
        return "127.0.0.1"
    finally:
        probe.close()


def known_address(host: str) -> str:
    """The address by which programs know a node that listens on `host`.

    It is the machine's own, also where the node listens on the loopback only: programs ask the kernel for
    it and name it in ``node:<address>``, and what they bind there must be found by all of the node.
    """
    return str(config.get("node_ip") or outward_ip()) if host in _OF_NO_MACHINE else host


def resources(
    num_cpus: float | None,
    num_gpus: float | None,
    memory: float | None,
    object_store_memory: int | None,
    custom: dict[str, float],
    gpus: int,
) -> dict[str, float]:
    """A node's resources by name; None asks for what was found (`gpus` of them).  Memory is in bytes.

    Raises:
        ValueError: a custom resource has the name of a built-in one, an amount is negative, or what the
            environment says instead (SPOKE_OVERRIDE_RESOURCES) cannot be read.
    """
    for name in ("CPU", "GPU", "memory", "object_store_memory"):
        if name in custom:
            raise ValueError(f"give {name} by its own option, not among the custom resources")
    total_memory = memory_bytes()
    store = int(total_memory * OBJECT_STORE_SHARE) if object_store_memory is None else object_store_memory
    found = {
        "CPU": float(cpu_count() if num_cpus is None else num_cpus),
        "GPU": float(gpus if num_gpus is None else num_gpus),
        "memory": float(max(0, total_memory - store) if memory is None else memory),
        "object_store_memory": float(store),
        **{name: float(amount) for name, amount in custom.items()},
        **config.get("override_resources"),
    }
    for name, amount in found.items():
        if amount < 0:
            raise ValueError(f"resource {name} is negative: {amount}")
    return {name: amount for name, amount in found.items() if amount or name == "CPU"}

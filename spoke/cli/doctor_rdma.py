"""What `spoke doctor` says about RDMA and shared memory: devices, addresses, limits, the way to a peer."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

from spoke import config, machine, rdmafacts

GIB = 1 << 30


def _devices() -> str:
    found = rdmafacts.ports()
    if not found:
        raise LookupError("no RDMA device; blocks travel between nodes over TCP")
    lines = [
        f"{port.name} {'active' if port.active else 'NOT ACTIVE'}, {port.layer}, {port.rate}"
        for port in found
    ]
    if not any(port.active for port in found):
        raise LookupError("; ".join(lines) + "; no port is active, so blocks travel over TCP")
    return "; ".join(lines)


def _addresses() -> str:
    chosen = [(port, port.best_gid()) for port in rdmafacts.ports() if port.active]
    if not chosen:
        raise LookupError("no active port")
    lines = [
        f"{port.name} GID {gid.slot} {gid.address} ({', '.join(filter(None, gid[2:]))})"
        for port, gid in chosen
        if gid is not None
    ]
    if not lines:
        raise LookupError("the ports have no GID: give their interface an address")
    return "; ".join(lines)


def _memlock() -> str:
    store = config.get("object_store_memory") or int(machine.memory_bytes() * 0.3)
    limit, needed = rdmafacts.memlock(store)
    need = f"{needed / GIB:.1f} GiB are needed to register the object store"
    if limit is None:
        return f"unlimited; {need}"
    if limit < needed:
        raise LookupError(
            f"{limit // 1024} KiB, and {need}: ulimit -l unlimited, LimitMEMLOCK=infinity (systemd), "
            "--ulimit memlock=-1 (docker), or CAP_IPC_LOCK"
        )
    return f"{limit / GIB:.1f} GiB; {need}"


def _fork() -> str:
    mode = rdmafacts.fork_mode()
    if not mode:
        raise LookupError("libibverbs is not installed (Debian: libibverbs1, ibverbs-providers)")
    return mode


def _shm() -> str:
    facts = os.statvfs("/dev/shm")
    size, free = facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize
    return f"{size / GIB:.1f} GiB, {free / GIB:.1f} GiB free (segments are memfds and do not count)"


def _gpu_direct() -> str:
    ways = rdmafacts.gpu_direct()
    if not ways:
        raise LookupError("no GPU memory can be registered; CUDA tensors cross nodes through pinned memory")
    return ways


def reach(peer: str) -> str:
    """Connect to a daemon, and see whether the way there leaves by an RDMA port.

    Raises:
        OSError, ValueError: it cannot be reached, or is no HOST:PORT.
    """
    host, _, port = peer.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"{peer!r} is not HOST:PORT, such as 10.0.0.2:6380")
    began = time.perf_counter()
    with socket.create_connection((host.strip("[]"), int(port)), timeout=5.0) as connection:
        took_ms = (time.perf_counter() - began) * 1e3
        mine = connection.getsockname()[0]
    found = rdmafacts.gid_of(mine)
    if found is None:
        way = "no RDMA port has that address: blocks go over TCP"
    else:
        port_, gid = found
        way = f"that is {port_.name} GID {gid.slot}: RDMA can go there"
    return f"{peer} answers in {took_ms:.1f} ms, reached from {mine}; {way}"


RDMA_CHECKS: list[tuple[str, Callable[[], str], bool]] = [
    ("/dev/shm", _shm, False),
    ("RDMA ports", _devices, False),
    ("RDMA addresses", _addresses, False),
    ("RLIMIT_MEMLOCK", _memlock, False),
    ("fork", _fork, False),
    ("GPUDirect", _gpu_direct, False),
]

"""Floors: what the machine can do without any engine, measured beside the workloads.

Each function takes a fraction of a second and gives samples of short rounds, so that it can be
repeated next to every row that refers to it: a floor measured an hour earlier proves nothing.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable

PING = b"x" * 64


def unix_round_trips(rounds: int = 5, round_s: float = 0.1) -> list[float]:
    """Round trips a second of 64 bytes between two Python processes over a unix stream socket."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    child = os.fork()
    if not child:
        try:  # the child must never return into the caller's program
            near.close()
            while data := far.recv(4096):
                far.sendall(data)
        finally:
            os._exit(0)
    far.close()
    samples = []
    try:
        for _ in range(rounds + 1):
            begin = time.perf_counter()
            done = 0
            while time.perf_counter() - begin < round_s:
                for _ in range(100):
                    near.sendall(PING)
                    near.recv(4096)
                done += 100
            samples.append(done / (time.perf_counter() - begin))
    finally:
        near.close()
        os.waitpid(child, 0)
    return samples[1:]


def memcpy(rounds: int = 5, nbytes: int = 1 << 28) -> list[float]:
    """GB/s of one thread copying `nbytes` between two buffers whose pages are already there."""
    import numpy as np

    source = np.ones(nbytes // 8, dtype=np.int64)
    target = np.zeros_like(source)
    samples = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        np.copyto(target, source)
        samples.append(nbytes / (time.perf_counter() - begin) / 1e9)
    return samples[1:]


def python_start(rounds: int = 5) -> list[float]:
    """Seconds from spawning a Python that does nothing to its end."""
    samples = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        samples.append(time.perf_counter() - begin)
    return samples[1:]


FLOORS: dict[str, tuple[str, Callable[[], list[float]]]] = {
    "unix socket ping-pong": ("/s", unix_round_trips),
    "memcpy": ("GB/s", memcpy),
    "Python start": ("s", python_start),
}

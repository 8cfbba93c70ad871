"""Free TCP ports on any node, found by a probe there.

Rules of this module: a port lies outside the range from which the kernel picks ports for outgoing
connections and for binds to port 0, and nothing is bound to it when the probe looks; ports that this
process has given out are not given out again for the same node.
"""

from __future__ import annotations

from typing import Final

from spoke.api import get, remote
from spoke.util.scheduling_strategies import NodeAffinitySchedulingStrategy

LOWEST: Final = 15_000  # below are the well-known services
TRIES: Final = 200
PROBE_S: Final = 30.0

_given: dict[str, list[int]] = {}  # by node


def probe(count: int, taken: list[int]) -> list[int]:
    """So many ports of this machine that nobody is bound to.

    Raises:
        OSError: there are not so many.
    """
    import random
    from socket import AF_INET, SOCK_STREAM, socket

    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
        low, high = (int(word) for word in file.read().split())
    below = range(LOWEST, low)
    candidates = below if len(below) >= 2 * count + len(taken) else range(high + 1, 65_536)
    if len(candidates) < 2 * count + len(taken):
        candidates = range(1024, 65_536)
    found: list[int] = []
    for port in random.sample(candidates, min(len(candidates), TRIES + 2 * count + len(taken))):
        if port in taken:
            continue
        with socket(AF_INET, SOCK_STREAM) as trial:
            try:
                trial.bind(("", port))  # without SO_REUSEADDR: a port that lingers is not free
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"only {len(found)} of {count} free ports were found")


def free_ports(node_id: str, count: int) -> list[int]:
    """So many ports that are free on a node.

    Args:
        node_id: hexadecimal, as `nodes()` shows it.

    Raises:
        OSError: there are not so many.
        GetTimeoutError: no worker there answered within 30 s.
    """
    taken = _given.setdefault(node_id, [])
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    task = remote(num_cpus=0, scheduling_strategy=there)(probe)
    ports: list[int] = get(task.remote(count, taken), timeout=PROBE_S)
    taken += ports
    del taken[:-1000]
    return ports

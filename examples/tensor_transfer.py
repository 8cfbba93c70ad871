"""A tensor from one process to another: copies, path and bandwidth: `python examples/tensor_transfer.py`.

An actor holds tensors of several sizes in memory that peers may read.  Each is read with `get`, which
makes a new tensor, and with `get(into=)`, into memory that is there already, on every path that this
machine has: `shm` (the same node), `tcp` (forced), and between two nodes whatever is best, which is
`rdma` where both have a verbs device.  With `--address HOST:PORT` a running cluster is used, and the
actor is placed on another node than this one where there is one.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

import torch

import spoke as ray
from spoke.cluster_utils import Cluster
from spoke.util.scheduling_strategies import NodeAffinitySchedulingStrategy

MIB = 1 << 20


class Source:
    """Holds one tensor per size, in shared memory or in memory of its own that is registered."""

    def __init__(self, sizes: list[int], registered: bool) -> None:
        self.tensors = {}
        for size in sizes:
            tensor = torch.empty(size // 4) if registered else ray.empty(size // 4)
            self.tensors[size] = tensor.fill_(float(size))
        self.kept = [ray.register_memory(one) for one in self.tensors.values()] if registered else []

    def give(self, size: int) -> torch.Tensor:
        """The tensor: not a byte of it is copied here."""
        return self.tensors[size]

    def copied(self) -> int:
        """Bytes that this process has copied into shared memory since it started."""
        return int(ray.object_store_stats()["copied_bytes"])


def copies() -> int:
    """How often this process has copied an arrived block, on any path."""
    stats = ray.object_store_stats()
    return sum(count for name, count in stats.items() if name.endswith("_copies"))


def measure(title: str, source: Any, sizes: list[int], rounds: int) -> None:
    """Print a row per size: path, copies at both ends, and the rate of both ways to read."""
    for size in sizes:
        target = torch.empty(size // 4)
        rates = []
        for into in (None, target):
            best = float("inf")
            for _ in range(rounds):
                ref = source.give.remote(size)
                ray.wait([ref])
                before, began = copies(), time.perf_counter()
                value = ray.get(ref) if into is None else ray.get(ref, into=into)
                best = min(best, time.perf_counter() - began)
                made = copies() - before
                assert value[0] == value[-1] == float(size)
                path = ray.transport_of(ref)
            rates.append(f"{size / best / 1e9:6.2f} GB/s, {made} copies here")
        sent = ray.get(source.copied.remote())
        start = f"{title:27}{size / MIB:8.2f} MiB {path.name:5}"
        print(f"{start} get: {rates[0]}; into: {rates[1]}; {sent} B copied there")
    if path.why_not_rdma:
        print(f"{'':27}not RDMA: {path.why_not_rdma}")


def on_one_node(mode: str, sizes: list[int], rounds: int) -> None:
    """The driver and the actor share a node; `mode` is SPOKE_TRANSPORT."""
    os.environ["SPOKE_TRANSPORT"] = mode
    ray.init(num_cpus=2)
    for registered in (False, True):
        source = ray.remote(Source).remote(sizes, registered)
        title = f"one node, {mode}" + (", registered" if registered else "")
        measure(title, source, sizes, rounds)
    ray.shutdown()
    os.environ["SPOKE_TRANSPORT"] = "auto"


def between_nodes(address: str | None, sizes: list[int], rounds: int) -> None:
    """The actor is on another node of a cluster, of a made-up one without an address."""
    cluster = None
    if address is None:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        cluster.add_node(num_cpus=1)
        address = cluster.address
    ray.init(address=address)
    here = ray.get_runtime_context().get_node_id()
    others = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    if others:
        there = NodeAffinitySchedulingStrategy(others[0], soft=False)
        for registered in (False, True):
            source = ray.remote(Source).options(scheduling_strategy=there).remote(sizes, registered)
            measure("two nodes" + (", registered" if registered else ""), source, sizes, rounds)
    else:
        print("the cluster has one node: nothing to send to")
    ray.shutdown()
    if cluster is not None:
        cluster.shutdown()


def main() -> None:
    """All paths, or those of a running cluster."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--address", metavar="HOST:PORT", help="use this cluster")
    parser.add_argument("--mib", type=float, nargs="+", default=[0.25, 4, 64], help="sizes in MiB")
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many counts (default 3)")
    given = parser.parse_args()
    sizes = [max(4, int(size * MIB) // 4 * 4) for size in given.mib]
    if given.address is None:
        on_one_node("auto", sizes, given.rounds)
        on_one_node("tcp", sizes, given.rounds)
    between_nodes(given.address, sizes, given.rounds)


if __name__ == "__main__":
    main()

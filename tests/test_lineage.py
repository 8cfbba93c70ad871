"""Results that are made again when their node is gone, on real clusters of several nodes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spoke as ray
from spoke import exceptions
from spoke.cluster_utils import Cluster, Node

LONG = 60_000  # doubles: in blocks


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 2, "resources": {"head": 4}})
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def kill(cluster: Cluster, node: Node) -> None:
    cluster.remove_node(node, allow_graceful=False)


def add(cluster: Cluster, **settings: Any) -> Node:
    return cluster.add_node(num_cpus=2, resources={"far": 4}, **settings)


def runs(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


@ray.remote(resources={"far": 1}, num_cpus=0)
def make(log: Path, value: float, *needed: Any) -> Any:
    with log.open("a") as file:
        file.write(f"{value}\n")
    return np.full(LONG, value + sum(float(one[0]) for one in needed))


def test_get_after_the_node_is_gone_makes_the_value_again(cluster: Cluster, tmp_path: Path) -> None:
    node = add(cluster)
    ref = make.remote(tmp_path / "log", 3.0)
    ray.wait([ref])
    add(cluster)
    kill(cluster, node)
    value = ray.get(ref, timeout=30)
    assert value.shape == (LONG,) and (value == 3.0).all()
    assert runs(tmp_path / "log") == 2

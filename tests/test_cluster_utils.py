"""`Cluster`: nodes come, are counted, and go, with everything that belongs to them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from spoke import cluster_utils, orphans
from spoke.cluster_utils import Cluster


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "dashboard_host": "ignored"})
    yield made
    made.shutdown()


def test_nodes_come_and_go(cluster: Cluster) -> None:
    assert cluster.address is not None and cluster.address.startswith("127.0.0.1:")
    first = cluster.add_node(num_cpus=1, resources={"special": 1}, labels={"zone": "b"})
    second = cluster.add_node(wait=False)
    cluster.wait_for_nodes()
    assert [node.head for node in cluster.list_all_nodes()] == [True, False, False]
    assert len({node.node_id for node in cluster.list_all_nodes()}) == 3
    observer = cluster._observer
    assert observer is not None
    assert observer.ask("cluster_resources")["CPU"] == 4.0
    assert observer.ask("cluster_resources")["special"] == 1.0
    cluster.remove_node(first)
    cluster.wait_for_nodes()
    assert not first.is_alive() and cluster.remaining_processes_alive()
    cluster.remove_node(second, allow_graceful=False)
    cluster.wait_for_nodes()
    assert [row["Alive"] for row in observer.ask("nodes")].count(True) == 1


def test_a_node_that_died_is_missed(cluster: Cluster) -> None:
    node = cluster.add_node()
    node.kill(allow_graceful=False)
    deadline = time.monotonic() + 10
    while len(cluster._alive()) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(TimeoutError, match="waiting for nodes"):
        cluster.wait_for_nodes(timeout=0.5)
    assert not cluster.remaining_processes_alive()


def test_shutdown_ends_all_processes(cluster: Cluster) -> None:
    cluster.add_node()
    daemons = [node.pid for node in cluster.list_all_nodes()]
    assert set(daemons) <= set(orphans.children())
    cluster.shutdown()
    assert not set(daemons) & set(orphans.children())
    assert cluster.address is None and cluster.list_all_nodes() == []


def test_a_node_that_the_program_has_killed_and_waited_for_is_just_gone(cluster: Cluster) -> None:
    node = cluster.add_node()
    os.kill(node.pid, signal.SIGKILL)
    os.waitpid(node.pid, 0)
    assert not node.is_alive()
    cluster.remove_node(node)
    assert len(cluster.list_all_nodes()) == 1


def test_misuse_is_named() -> None:
    with pytest.raises(RuntimeError, match="uninitialized"):
        Cluster(connect=True)
    empty = Cluster()
    with pytest.raises(RuntimeError, match="uninitialized"):
        empty.connect()
    with pytest.raises(TypeError, match="num_cpu'"):
        empty.add_node(num_cpu=1)
    assert cluster_utils.Cluster is Cluster

"""`spoke.testing.LocalCluster` (row F-46)."""

from __future__ import annotations

import time

import pytest

import spoke
from spoke import jobs
from spoke.testing import LocalCluster


def test_f46_nodes_with_made_up_resources() -> None:
    started = time.monotonic()
    with LocalCluster(num_nodes=2, cpus=3, gpus=8, node_labels=[{"rack": "a"}, {"rack": "b"}]):
        print(f"started in {time.monotonic() - started:.2f} s")
        assert spoke.cluster_resources()["CPU"] == 6 and spoke.cluster_resources()["GPU"] == 16
        assert sorted(node["Labels"]["rack"] for node in spoke.nodes()) == ["a", "b"]
        assert spoke.get(spoke.remote(num_gpus=8)(lambda: len(spoke.get_gpu_ids())).remote()) == 8
        job = jobs.submit("echo $SPOKE_NODE_ID", label_selector={"rack": "b"})
        assert job.wait(60) == "SUCCEEDED"
        there = next(node["NodeID"] for node in spoke.nodes() if node["Labels"]["rack"] == "b")
        assert list(job.logs()) == [there]
        with pytest.raises(RuntimeError, match=r"spoke\.shutdown"):
            LocalCluster().start()
    assert not spoke.is_initialized()


def test_a_job_whose_node_dies_is_tried_again_elsewhere() -> None:
    with LocalCluster(cpus=1) as cluster:
        node = cluster.add_node(num_cpus=1, resources={"far": 1})
        job = jobs.submit("sleep 300", resources={"far": 1})
        job.wait_until("RUNNING", 60)
        cluster.remove_node(node)
        cluster.add_node(num_cpus=1, resources={"far": 1})
        deadline = time.monotonic() + 60
        while [one.state for one in job.attempts()] != ["WORKER_FAILED", "RUNNING"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        job.terminate(force=True)
        assert job.wait(60) == "KILLED"


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="num_nodes"):
        LocalCluster(num_nodes=0)

"""Jobs and endpoints across a restart of the hub, with real daemons (HUB-2)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import spoke
from spoke import endpoints, jobs
from spoke.cluster_utils import Cluster

FAR = {"CPU": 0.1, "far": 1}


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head with a journal and a node with resource "far"; this process is a driver at the head."""
    monkeypatch.setenv("SPOKE_RECOVER_S", "2")
    cluster = Cluster(True, head_node_args={"num_cpus": 1, "state_dir": str(tmp_path / "state")})
    try:
        cluster.add_node(num_cpus=4, resources={"far": 8})
        spoke.init(address=cluster.address, log_to_driver=False)
        yield cluster
    finally:
        spoke.shutdown()
        cluster.shutdown()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_jobs_survive_the_hub(pair: Cluster, tmp_path: Path) -> None:
    """What runs on another node goes on, what ended meanwhile is heard, what waited still waits."""
    go = tmp_path / "go"
    done = jobs.submit(lambda: 42, name="done", resources=FAR)
    assert done.result(60) == 42
    on = jobs.submit(f"echo a; while [ ! -e {go} ]; do sleep 0.01; done; echo b", name="on", resources=FAR)
    short = jobs.submit(f"touch {tmp_path}/short; sleep 0.5; exit 7", name="short", resources=FAR)
    waits = jobs.submit("true", name="waits", resources={"absent": 1})
    for job in (on, short):
        job.wait_until("RUNNING", 60)
    wait_for(tmp_path / "short")
    pid = on.attempts()[0].pid
    assert pair.head_node is not None
    pair.head_node.kill(allow_graceful=False)
    time.sleep(1.0)  # `short` ends while nobody hears it
    pair.restart_head()
    assert short.wait(60) == "FAILED" and short.exit_code == 7
    assert (done.status(), done.result(60), waits.status()) == ("SUCCEEDED", 42, "PENDING")
    assert on.status() == "RUNNING" and on.attempts()[0].pid == pid and len(on.attempts()) == 1
    go.touch()
    assert on.wait(60) == "SUCCEEDED" and list(on.logs()) == ["a", "b"]
    assert waits.terminate() and waits.wait(60) == "KILLED"


def test_a_job_on_the_heads_node_is_preempted_and_tried_again(pair: Cluster, tmp_path: Path) -> None:
    count = tmp_path / "count"
    job = jobs.submit(
        f"echo x >> {count}; [ $(wc -l < {count}) = 2 ] || sleep 300",
        name="near", label_selector={"ray.io/node-id": spoke.nodes()[0]["NodeID"]},
    )  # fmt: skip
    wait_for(count)
    assert pair.head_node is not None
    pair.head_node.kill(allow_graceful=False)
    pair.restart_head()
    assert job.wait(60) == "SUCCEEDED"
    first, second = job.attempts()
    assert first.is_worker_failure and (second.attempt_id, second.state) == (1, "SUCCEEDED")


def test_endpoints_and_pools_survive_the_hub(pair: Cluster) -> None:
    @spoke.remote(num_cpus=0, resources={"far": 1})
    class Member:
        def who(self) -> int:
            return 7

    member, other = Member.remote(), Member.remote()
    endpoints.register("kept", member, {"k": 1})
    with spoke.lookup("kept") as pool:
        assert pool.call().who() == 7
        assert pair.head_node is not None
        pair.head_node.kill(allow_graceful=False)
        assert pool.call().who() == 7  # HUB-1
        pair.restart_head()
        found = endpoints.lookup("kept")
        assert found is not None and found.metadata == {"k": 1}
        endpoints.register("kept", other)
        pool.wait_for_size(2, timeout=60)  # still told of changes

"""Nodes with GPUs of AMD: found in the kernel's list, and given out by HIP_VISIBLE_DEVICES, as in Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spoke import jobs
from spoke.core.topology import Topology
from tests.fake_machine import make_amd
from tests.test_seed_rows_gang import Rank, about_all

pytestmark = pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="this machine has GPUs of NVIDIA")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPOKE_SYSFS", str(make_amd(tmp_path)))
    for name in ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def find(visible: list[str] | None) -> Any:
    code = f"import json; from spoke import devices; print(json.dumps(devices.topology({visible}, None)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_devices_are_found() -> None:
    found = find(None)
    assert found["variable"] == "HIP_VISIBLE_DEVICES" and len(found["gpus"]) == 4
    assert [gpu["pci"] for gpu in found["gpus"]] == [f"0000:{0x10 * n:02x}:00.0" for n in range(1, 5)]
    assert [gpu["numa"] for gpu in found["gpus"]] == [0, 0, 1, 1]
    assert found["gpus"][0]["memory"] == 64 << 30
    assert Topology(found).domains[1] == ((0, 1), (2, 3))
    assert [gpu["numa"] for gpu in find(["3", "0"])["gpus"]] == [1, 0]
    assert len(find(["0", "1", "2", "3", "4"])["gpus"]) == 4 and find([])["gpus"] == []


@pytest.mark.parametrize(("visible", "ids"), [(None, ["0", "1", "2", "3"]), ("3,1", ["3", "1"])])
def test_ranks_workers_and_jobs_see_their_own(
    visible: str | None, ids: list[str], monkeypatch: pytest.MonkeyPatch, fresh_cluster: Callable[..., Any]
) -> None:
    if visible is not None:
        monkeypatch.setenv("HIP_VISIBLE_DEVICES", visible)
    spoke = fresh_cluster(num_cpus=4, num_gpus=None)
    assert spoke.cluster_resources()["GPU"] == len(ids)
    with spoke.gang_allocate(1, 2, {"GPU": 1}) as gang:
        shown = [gang.environment(rank)["HIP_VISIBLE_DEVICES"] for rank in range(2)]
        assert shown == ids[:2] and "CUDA_VISIBLE_DEVICES" not in gang.environment(0)
        gang.launch(Rank)
        seen = about_all(spoke, gang)
        assert [one["env"]["HIP_VISIBLE_DEVICES"] for one in seen] == shown
        assert [one["ids"] for one in seen] == [[name] for name in shown]
        assert "CUDA_VISIBLE_DEVICES" not in seen[0]["env"]
        assert gang.release(10)
    job = jobs.submit("echo $HIP_VISIBLE_DEVICES,$CUDA_VISIBLE_DEVICES", resources={"GPU": 2})
    assert job.wait(60) == "SUCCEEDED" and list(job.logs()) == [f"{','.join(ids[:2])},"]


def test_the_opt_out(monkeypatch: pytest.MonkeyPatch, fresh_cluster: Callable[..., Any]) -> None:
    spoke = fresh_cluster(num_cpus=2, num_gpus=None)
    env = {"env_vars": {"RAY_EXPERIMENTAL_NOSET_HIP_VISIBLE_DEVICES": "1"}}
    left_alone = spoke.remote(num_gpus=1, runtime_env=env)(lambda: os.environ.get("HIP_VISIBLE_DEVICES"))
    assert spoke.get(left_alone.remote(), timeout=60) is None
    spoke.shutdown()
    monkeypatch.setenv("RAY_EXPERIMENTAL_NOSET_HIP_VISIBLE_DEVICES", "1")
    spoke = fresh_cluster(num_cpus=2, num_gpus=None)
    with spoke.gang_allocate(1, 1, {"GPU": 1}) as gang:
        assert "HIP_VISIBLE_DEVICES" not in gang.environment(0)


def test_the_variable_below_is_refused(
    monkeypatch: pytest.MonkeyPatch, fresh_cluster: Callable[..., Any]
) -> None:
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "0")
    with pytest.raises(RuntimeError, match="limit the node's GPUs by HIP_VISIBLE_DEVICES"):
        fresh_cluster()

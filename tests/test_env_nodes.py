"""Runtime environments on several nodes, for drivers that join, and when an agent is killed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import spoke
from spoke import orphans
from spoke.cluster_utils import Cluster
from spoke.errors import RuntimeEnvSetupError
from tests.env_kit import program, with_programs

pytestmark = pytest.mark.timeout_s(300)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
    yield made
    spoke.shutdown()
    made.shutdown()


@spoke.remote
def look(name: str) -> tuple[str, str, Any]:
    import importlib

    return os.getcwd(), sys.path[0], getattr(importlib.import_module(name), "VALUE", None)


def test_a_package_reaches_another_node_and_its_place_on_the_path(cluster: Cluster, tmp_path: Path) -> None:
    cluster.add_node(num_cpus=1, num_gpus=0, resources={"far": 1})
    (tmp_path / "far_mod.py").write_text("VALUE = 'far'\n")
    spoke.init(str(cluster.address), runtime_env={"working_dir": str(tmp_path)}, log_to_driver=False)
    near = spoke.get(look.remote("far_mod"))
    far = spoke.get(look.options(resources={"far": 1}).remote("far_mod"))
    assert near[2] == far[2] == "far"
    assert near[0] == near[1] and far[0] == far[1] and near[0] != far[0]


def test_a_package_goes_with_its_job_and_the_next_brings_it_again(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "twice_mod.py").write_text("VALUE = 2\n")
    for _ in range(2):
        spoke.init(str(cluster.address), runtime_env={"working_dir": str(tmp_path)}, log_to_driver=False)
        assert spoke.get(look.remote("twice_mod"))[2] == 2
        spoke.shutdown()


def test_a_package_that_the_cluster_never_had(cluster: Cluster) -> None:
    spoke.init(str(cluster.address), log_to_driver=False)
    env = {"working_dir": "gcs://_ray_pkg_0123456789.zip"}
    with pytest.raises(RuntimeEnvSetupError, match="is not in this cluster"):
        spoke.get(look.options(runtime_env=env).remote("os"))


def test_proc_1_an_installer_ends_with_its_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that the helper has started, which the kernel's death signal does not reach."""
    note = tmp_path / "pid"
    said = f"pathlib.Path({str(note)!r}).write_text(str(os.getpid()))"
    body = f"import os, pathlib, time\n{said}\ntime.sleep(600)\n"
    program(tmp_path / "bin", "uv", body)
    monkeypatch.setenv("PATH", with_programs(tmp_path / "bin"))
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
    try:
        spoke.init(str(made.address), log_to_driver=False)
        look.options(runtime_env={"uv": ["x"]}).remote("os")
        pid = int(_eventually(lambda: note.exists() and note.read_text()))
        head = made.head_node
        assert head is not None
        os.kill(head.pid, signal.SIGKILL)
        assert _eventually(lambda: not orphans.is_running(pid))
    finally:
        spoke.shutdown()
        made.shutdown()


def _eventually(look: Any, seconds: float = 100.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found
    return found

"""Runtime environments of submitted jobs: what they run in, and what their own drivers inherit."""

from __future__ import annotations

import os
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import spoke
from spoke import jobs
from spoke.cluster_utils import Cluster
from spoke.errors import RuntimeEnvSetupError
from tests.env_kit import offline, wheel

pytestmark = pytest.mark.timeout_s(300)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 4, "num_gpus": 0})
    yield made
    spoke.shutdown()
    made.shutdown()


def seen() -> dict[str, Any]:
    return {"cwd": os.getcwd(), "files": sorted(os.listdir(".")), "prefix": sys.prefix, "path": sys.path[:2]}


def test_f17_a_job_runs_in_the_directory_that_came_with_it(tmp_path: Path) -> None:
    (tmp_path / "job_mod.py").write_text("VERSION = 'mine'")
    (tmp_path / "left.log").write_text("")
    (tmp_path / ".gitignore").write_text("*.log\n")
    env = {"working_dir": str(tmp_path)}
    found = jobs.submit(seen, runtime_env=env).result(60)
    assert found["files"] == [".gitignore", "job_mod.py"] and found["cwd"] != str(tmp_path)
    assert found["path"][0] == found["cwd"]
    job = jobs.submit(f"{sys.executable} -c 'import job_mod; print(job_mod.VERSION)'; pwd", runtime_env=env)
    assert job.wait(60) == "SUCCEEDED"
    assert list(job.logs()) == ["mine", found["cwd"]]
    assert job.info()["runtime_env"]["working_dir"].startswith("gcs://_ray_pkg_")
    (tmp_path / "job_mod.py").write_text("VERSION = 'edited'")
    again = jobs.submit(seen, runtime_env=env).result(60)
    assert again["cwd"] != found["cwd"]


def test_f17_what_cannot_be_a_directory_of_a_job(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a valid path"):
        jobs.submit(seen, runtime_env={"working_dir": str(tmp_path / "nothing")})
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../out.txt", "")
    job = jobs.submit(seen, runtime_env={"working_dir": str(tmp_path / "evil.zip")})
    assert job.wait(60) == "FAILED"
    assert "RuntimeEnvSetupError" in job.message and "outside of its directory" in job.message


def test_f17_a_package_over_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "big.bin").write_bytes(b"x" * 2000)
    monkeypatch.setenv("SPOKE_RUNTIME_ENV_PACKAGE_BYTES", "1000")
    with pytest.raises(RuntimeEnvSetupError, match="exceeds the maximum size"):
        jobs.submit(seen, runtime_env={"working_dir": str(tmp_path)})


def test_f18_jobs_share_what_is_made_once(tmp_path: Path) -> None:
    wheel(tmp_path, "job_pkg", "4.2")
    env = {"pip": ["job_pkg"], "env_vars": offline(tmp_path)}
    first = jobs.submit("python -c 'import job_pkg; print(job_pkg.VERSION)'; which python", runtime_env=env)
    assert first.wait(200) == "SUCCEEDED", first.message
    version, python = first.logs()
    assert version == "4.2" and "environments/pip-" in python
    found = jobs.submit(seen, runtime_env=env).result(60)
    assert found["prefix"] == str(Path(python).parents[1])


def test_a_package_that_does_not_exist_fails_the_job_with_pips_words(tmp_path: Path) -> None:
    job = jobs.submit("true", runtime_env={"pip": ["job_none==1"], "env_vars": offline(tmp_path)})
    assert job.wait(200) == "FAILED"
    assert "RuntimeEnvSetupError" in job.message and "No matching distribution" in job.message


def test_the_driver_in_a_job_and_its_tasks_inherit_the_environment(tmp_path: Path) -> None:
    (tmp_path / "inherited_mod.py").write_text("VERSION = 7")
    program = (
        "import os, spoke\n"
        "spoke.init(log_to_driver=False, runtime_env={'env_vars': {'B': 'driver'}})\n"
        "@spoke.remote\n"
        "def f():\n"
        "    import inherited_mod\n"
        "    return inherited_mod.VERSION, os.environ['A'], os.environ['B']\n"
        "print(*spoke.get(f.remote()))\n"
    )
    (tmp_path / "main.py").write_text(program)
    env = {"working_dir": str(tmp_path), "env_vars": {"A": "job", "B": "job"}}
    job = jobs.submit(f"{sys.executable} main.py", runtime_env=env)
    assert job.wait(100) == "SUCCEEDED", (job.message, list(job.logs()))
    assert list(job.logs()) == ["7 job driver"]


def test_a_job_that_is_ended_while_its_environment_is_made(tmp_path: Path) -> None:
    started, go = tmp_path / "started", tmp_path / "go"
    slow = (
        "import pathlib, time\n"
        f"pathlib.Path({str(started)!r}).touch()\n"
        f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.02)\n"
    )
    source = tmp_path / "slow_job_pkg"
    source.mkdir()
    (source / "setup.py").write_text(slow + "raise SystemExit('no build')\n")
    pip = {"packages": [str(source)], "pip_install_options": ["--no-build-isolation", "--no-index"]}
    job = jobs.submit("true", runtime_env={"pip": pip})
    deadline = time.monotonic() + 100
    while not started.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert started.exists() and job.terminate()
    assert job.wait(60) == "KILLED"
    go.touch()

"""`JobSubmissionClient`, ``spoke job`` and ``spoke run`` (rows F-03, F-07, F-43, M-22)."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ray_compat
import spoke
from spoke import jobs
from spoke.job_submission import JobDetails, JobStatus, JobSubmissionClient, JobType
from tests.test_cli import Shell


@pytest.fixture
def client(spoke_cluster: Any) -> Iterator[JobSubmissionClient]:
    found = JobSubmissionClient()
    yield found
    found.close()


def ended(client: JobSubmissionClient, job_id: str) -> JobStatus:
    deadline = time.monotonic() + 60
    while not client.get_job_status(job_id).is_terminal():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return client.get_job_status(job_id)


def test_f03_the_same_job_through_both(client: JobSubmissionClient) -> None:
    job_id = client.submit_job(entrypoint="echo out; echo $MINE", runtime_env={"env_vars": {"MINE": "x"}},
                               metadata={"k": "v"})  # fmt: skip
    assert job_id.startswith("raysubmit_") and ended(client, job_id) == JobStatus.SUCCEEDED
    assert client.get_job_logs(job_id) == "out\nx\n"
    assert jobs.get(job_id).status() == "SUCCEEDED"
    info = client.get_job_info(job_id)
    assert isinstance(info, JobDetails) and info.type == JobType.SUBMISSION
    assert (info.submission_id, info.status, info.driver_exit_code) == (job_id, "SUCCEEDED", 0)
    assert info.metadata == {"k": "v"} and info.runtime_env == {"env_vars": {"MINE": "x"}}
    assert info.start_time <= info.end_time
    assert (info.message, info.error_type) == ("Job finished successfully.", None)
    assert (info.job_id, info.driver_info) == (None, None)  # it called no init
    assert job_id in [row.submission_id for row in client.list_jobs()]


def test_by_address_without_init(spoke_cluster: Any) -> None:
    port = spoke.nodes()[0]["NodeManagerPort"]
    client = JobSubmissionClient(f"http://127.0.0.1:{port}")
    assert client.get_address() == f"127.0.0.1:{port}"
    job_id = client.submit_job(entrypoint="seq 1 3; exit 4", submission_id="mine")
    assert job_id == "mine"

    async def tail() -> str:
        return "".join([piece async for piece in client.tail_job_logs(job_id)])

    assert asyncio.run(tail()) == "1\n2\n3\n"
    assert ended(client, job_id) == JobStatus.FAILED
    assert client.get_job_info(job_id).driver_exit_code == 4
    with pytest.raises(RuntimeError, match="mine already exists"):
        client.submit_job(entrypoint="true", submission_id="mine")
    assert client.delete_job("mine") is True
    client.close()


def test_stop_and_delete(client: JobSubmissionClient) -> None:
    job_id = client.submit_job(entrypoint="sleep 300")
    with pytest.raises(RuntimeError, match="it is in a non-terminal state"):
        client.delete_job(job_id)
    assert client.stop_job(job_id) is True and ended(client, job_id) == JobStatus.STOPPED
    assert client.stop_job(job_id) is False
    client.delete_job(job_id)
    for method in (client.get_job_status, client.get_job_info, client.stop_job, client.delete_job,
                   client.get_job_logs):  # fmt: skip
        with pytest.raises(RuntimeError, match=f"Job {job_id} does not exist"):
            method(job_id)


def test_a_job_is_a_driver_of_the_cluster(client: JobSubmissionClient, tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text("import spoke as ray\nprint(ray.get(ray.remote(lambda: 6 * 7).remote()), "
                      "ray.get_runtime_context().namespace)\n")  # fmt: skip
    job_id = client.submit_job(entrypoint=f"{_python()} {script}", submission_id="drv")
    assert ended(client, job_id) == JobStatus.SUCCEEDED, client.get_job_logs(job_id)
    assert client.get_job_logs(job_id) == "42 drv\n"
    info = client.get_job_info(job_id)
    assert info.type == JobType.SUBMISSION and info.driver_info.id == info.job_id != ""
    assert info.dict()["driver_info"] == info.model_dump()["driver_info"] == info.driver_info.dict()
    assert [(row.type, row.job_id) for row in client.list_jobs() if row.submission_id == job_id] == [
        (JobType.SUBMISSION, info.job_id)
    ]
    mine = [row for row in client.list_jobs() if row.type == JobType.DRIVER and row.status == "RUNNING"]
    assert [row.driver_info.pid for row in mine] == [str(os.getpid())]


def test_facts_and_refusals_are_those_of_ray(client: JobSubmissionClient) -> None:
    """As real Ray 2.60 answers the same program; its wording is its own."""
    failed = client.submit_job(entrypoint="echo last words; exit 3")
    assert ended(client, failed) == JobStatus.FAILED
    info = client.get_job_info(failed)
    assert (info.driver_exit_code, info.error_type) == (3, "JOB_ENTRYPOINT_COMMAND_ERROR")
    assert info.message.startswith("Job entrypoint command failed with exit code 3, last available logs")
    assert info.message.endswith("\nlast words")
    killed = client.submit_job(entrypoint="kill -9 $$")
    assert ended(client, killed) == JobStatus.FAILED and client.get_job_info(killed).driver_exit_code == -9
    loud = client.submit_job(entrypoint="exit 137")
    assert ended(client, loud) == JobStatus.FAILED and client.get_job_info(loud).driver_exit_code == 137
    stopped = client.submit_job(entrypoint="sleep 300")
    while client.get_job_status(stopped) != JobStatus.RUNNING:
        time.sleep(0.01)
    info = client.get_job_info(stopped)
    assert (info.message, info.end_time, info.driver_exit_code) == ("Job is currently running.", None, None)
    assert client.stop_job(stopped) and ended(client, stopped) == JobStatus.STOPPED
    info = client.get_job_info(stopped)
    assert info.message == "Job was intentionally stopped."
    assert (info.driver_exit_code, info.error_type) == (None, None)
    for options, error, text in (
        ({"metadata": {"a": 1}}, TypeError, "metadata values must be strings"),
        ({"metadata": "x"}, TypeError, "metadata is of type dict"),
        ({"runtime_env": "x"}, TypeError, "runtime_env is of type dict"),
        ({"runtime_env": {"working_dir": "/does/not/exist"}}, ValueError, "/does/not/exist"),
        ({"runtime_env": {"env_vars": {"a": 1}}}, TypeError, "env_vars"),
        ({"entrypoint": 5}, TypeError, "entrypoint is of type str"),
        ({"submission_id": 7}, TypeError, "submission_id is of type str"),
        ({"submission_id": "a/b"}, RuntimeError, "cannot contain '/'"),
        ({"submission_id": failed}, RuntimeError, "already exists"),
        ({"entrypoint_num_cpus": "x"}, TypeError, "entrypoint_num_cpus is of type int or float"),
        ({"entrypoint_num_cpus": -1}, ValueError, "not negative"),
    ):
        with pytest.raises(error, match=text):
            client.submit_job(**{"entrypoint": "true", **options})
    assert ended(client, client.submit_job(entrypoint="test -n \"$RAY_ADDRESS\"")) == JobStatus.SUCCEEDED


def _python() -> str:
    import sys

    return sys.executable


def test_waiting_job_is_pending_and_has_no_logs(client: JobSubmissionClient) -> None:
    job_id = client.submit_job(entrypoint="true", entrypoint_resources={"absent": 1})
    assert client.get_job_status(job_id) == JobStatus.PENDING and client.get_job_logs(job_id) == ""
    assert client.stop_job(job_id)
    with pytest.raises(TypeError, match="unexpected argument 'x'"):
        JobSubmissionClient(x=1)


def test_nobody_there_is_a_connection_error() -> None:
    with pytest.raises(ConnectionError):
        JobSubmissionClient("127.0.0.1:1")


# -- the command line -----------------------------------------------------------------------------


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    made = Shell(tmp_path)
    yield made
    made.run("stop", "--force")


def test_spoke_job_and_spoke_run(shell: Shell, tmp_path: Path) -> None:
    shell.done("start", "--head", "--port", "0", "--num-cpus", "2", "--scheduler", "spread",
               "--job-port-range", "31000-31010")  # fmt: skip
    out = shell.done("job", "submit", "--submission-id", "one", "--", "echo", "hello world")
    assert out.splitlines() == [
        "Job 'one' submitted successfully",
        "Tailing logs until the job exits (disable with --no-wait):",
        "hello world",
        "Job 'one' succeeded",
    ]
    # The client is gone, the job goes on: it outlives whoever submitted it.
    shell.done("job", "submit", "--no-wait", "--submission-id", "two", "sleep 300")
    shown = tuple(f"Status for job 'two': {state}" for state in ("RUNNING", "PENDING"))
    assert shell.done("job", "status", "two").startswith(shown)
    assert "Job 'two' was stopped" in shell.done("job", "stop", "two")
    assert "Job 'two' had ended\n" in shell.done("job", "stop", "two")
    result = shell.run("job", "submit", "--", "exit 3")
    assert result.returncode == 1 and "exit code 3" in result.stdout
    assert shell.done("job", "logs", "one") == "hello world\n"
    assert [line.split()[:2] for line in shell.done("job", "list").splitlines()][:2] == [
        ["one", "SUCCEEDED"], ["two", "KILLED"],
    ]  # fmt: skip
    rows = json.loads(shell.done("job", "list", "--json"))
    assert rows[0]["job_id"] == "one" and rows[0]["exit_code"] == 0
    assert shell.done("job", "delete", "one") == "Job 'one' deleted successfully\n"
    assert "does not exist" in shell.fails("job", "status", "one")
    script = tmp_path / "s.py"
    script.write_text("import sys, spoke\nspoke.init()\nprint(sys.argv[1:], len(spoke.nodes()))\n"
                      "print(spoke.cluster_resources()['CPU'])\n")  # fmt: skip
    assert shell.done("run", str(script), "-x", "1").splitlines() == ["['-x', '1'] 1", "2.0"]
    assert "no file" in shell.fails("run", str(tmp_path / "none.py"))
    ports = shell.run("job", "submit", "--", "echo $SPOKE_ADDRESS")
    assert "127.0.0.1" in ports.stdout


def test_f43_a_malformed_range_is_exit_code_2(shell: Shell) -> None:
    assert shell.run("start", "--head", "--job-port-range", "9-x").returncode == 2
    assert shell.run("job", "submit").returncode == 2


def test_rays_addresses_its_hook_and_a_file_of_the_environment(shell: Shell, tmp_path: Path) -> None:
    """What scripts for `ray job submit` say: this machine's cluster is where Ray's dashboard would be."""
    shell.done("start", "--head", "--port", "0", "--num-cpus", "1")
    dashboard = "http://127.0.0.1:8265"
    submit = ("job", "submit", "--job-id")
    assert "'one' succeeded" in shell.done(*submit, "one", "--", "true", RAY_ADDRESS=dashboard)
    assert "'two' succeeded" in shell.done(*submit, "two", "--", "true", RAY_API_SERVER_ADDRESS=dashboard)
    assert "1 of 1 nodes alive" in shell.done("status", "--address", "http://localhost:8265/")
    goes_first = {"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:1", "RAY_ADDRESS": dashboard}
    assert "127.0.0.1:1" in shell.fails("job", "list", **goes_first)
    under_ray = {"PYTHONPATH": os.pathsep.join([ray_compat.search_path(), *sys.path])}
    hooked = {**under_ray, "RAY_JOB_SUBMIT_HOOK": "ray._private.test_utils.job_hook"}
    assert shell.done("job", "submit", "--", "echo", "hello", **hooked) == "hook intercepted: echo hello\n"
    ray = [sys.executable, "-m", "ray.scripts.scripts", "job", "list"]
    listed = subprocess.run(ray, env={**shell.environment, **under_ray}, capture_output=True, text=True)
    assert listed.stdout.startswith("[JobDetails(") and "submission_id='two'" in listed.stdout
    pytest.importorskip("yaml")
    (tmp_path / "env.yaml").write_text("env_vars:\n  MINE: from the file\n")
    file = ("--runtime-env", str(tmp_path / "env.yaml"))
    assert "\nfrom the file\n" in shell.done("job", "submit", *file, "--", "echo $MINE")
    both = shell.run("job", "submit", *file, "--runtime-env-json", '{"pip": ["x"]}', "--", "ls")
    assert both.returncode == 2 and "Only one of" in both.stderr


def test_memory_of_an_embedded_node() -> None:
    code = "import spoke; spoke.init(num_cpus=1, _memory=5000000); print(spoke.cluster_resources()['memory'])"
    assert subprocess.check_output([sys.executable, "-c", code]) == b"5000000.0\n"

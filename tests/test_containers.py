"""Jobs and workers in real containers, by podman (row F-19); skipped where it cannot run one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spoke
from spoke import jobs
from spoke.jobs import HealthCheck, Job
from tests import container_kit
from tests.container_kit import IMAGE, ROOT

ENV = {"image_uri": IMAGE}


@pytest.fixture(scope="module")
def real_podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with container_kit.podman(tmp_path_factory.mktemp("podman")):
        yield


@pytest.fixture(scope="module")
def cluster(real_podman: None) -> Iterator[None]:
    spoke.init(num_cpus=2, num_gpus=0, log_to_driver=False)
    yield
    spoke.shutdown()


def until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def submit(entrypoint: Any, *args: Any, memory: str = "256MB", **options: Any) -> Job:
    options.setdefault("runtime_env", ENV)
    resources = {"CPU": 0.1, "memory": memory}
    return jobs.submit(entrypoint, *args, runtime="podman", resources=resources, **options)


def containers() -> list[str]:
    return container_kit.run("ps", "-a", "--format", "{{.Names}}").split()


# -- jobs -----------------------------------------------------------------------------------------


def test_f19_a_command_line_is_confined(cluster: None) -> None:
    env = {**ENV, "env_vars": {"MINE": "a b", "SPOKE_JOB_ID": "lie"}}
    line = 'echo "$MINE $SPOKE_JOB_ID"; pwd; ls /; grep -E "CapEff|NoNewPrivs" /proc/self/status; exit 3'
    job = submit(line, name="confined", runtime_env=env)
    assert job.wait(60) == "FAILED" and job.exit_code == 3, job.message
    lines = list(job.logs())
    assert lines[:2] == ["a b confined", "/workdir"]
    assert "workdir" in lines and "home" not in lines  # the image's own root
    assert [line.split() for line in lines[-2:]] == [["CapEff:", "0" * 16], ["NoNewPrivs:", "1"]]
    assert containers() == []


def test_secrets_do_not_stand_in_a_command_line(cluster: None) -> None:
    env = {**ENV, "env_vars": {"MY_TOKEN": "hunter2", "PATH": "/usr/bin:/mine"}}
    job = submit("echo $MY_TOKEN $PATH; sleep 300", runtime_env=env)
    until(lambda: job.status() == "RUNNING" and list(job.logs()) == ["hunter2 /usr/bin:/mine"])
    pid = job.attempts()[0].pid
    assert b"hunter2" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    job.terminate(force=True)
    assert job.wait(60) == "KILLED"


def numbers(count: int) -> tuple[int, list[int], str]:
    print("counting")
    return os.getppid(), list(range(count)), spoke.ctx().job_id


def fail() -> None:
    raise ZeroDivisionError("inside")


def test_f19_a_function_its_value_and_its_error(cluster: None) -> None:
    job = submit(numbers, 3, name="numbers")
    assert job.result(60) == (1, [0, 1, 2], "numbers")  # its parent is the container's first process
    assert list(job.logs()) == ["counting"]
    with pytest.raises(jobs.JobFailedError) as caught:
        submit(fail).result(60)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_f19_the_kernel_ends_a_container_over_its_memory_alone(cluster: None) -> None:
    other = submit("sleep 300")
    job = submit(lambda: len(bytearray(b"x" * 10**9)), memory="100MB")
    assert job.wait(60) == "FAILED" and job.exit_code == 137
    assert other.status() in ("PENDING", "RUNNING")
    other.terminate(force=True)
    assert other.wait(60) == "KILLED" and containers() == []


def listen() -> None:
    server = socket.create_server((os.environ["SPOKE_BIND_HOST"], spoke.ctx().get_port("http")))
    while True:
        server.accept()[0].close()


def test_f20_a_port_is_open_on_the_nodes_address(cluster: None) -> None:
    check = HealthCheck("http", period=0.2, timeout=0.2, threshold=100)
    job = submit(listen, ports=["http"], health_check=check)
    job.wait_until("RUNNING", 60)

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", job.ports["http"])) == 0

    until(answers)
    assert job.status() == "RUNNING"
    job.terminate(force=True)
    assert job.wait(60) == "KILLED"


def test_f23_sigterm_arrives_and_who_ignores_it_is_killed(cluster: None) -> None:
    polite = submit("trap 'echo bye; exit 0' TERM; echo on; while :; do sleep 0.1; done")
    plain = submit("echo on; sleep 300")
    deaf = submit("trap '' TERM; echo on; while :; do sleep 0.1; done", grace_s=0.5)
    for job in (polite, plain, deaf):
        until(lambda job=job: job.status() == "RUNNING" and "on" in list(job.logs()))
    for left, job in ((2, polite), (1, plain), (0, deaf)):
        assert job.terminate() and job.wait(60) == "KILLED"
        assert len(containers()) == left  # its end is told when it has come
    assert list(polite.logs(source="stdout")) == ["on", "bye"]
    assert plain.exit_code == 143 and deaf.exit_code == 137


def test_f17_a_working_dir_comes_along(cluster: None, tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("ANSWER = 42\n")
    env = {**ENV, "working_dir": str(tmp_path)}
    job = submit("python -c 'import helper; print(helper.ANSWER)'", runtime_env=env)
    assert job.wait(60) == "SUCCEEDED" and list(job.logs()) == ["42"]


def test_f55_a_functions_health_check_is_heard_from_inside(cluster: None) -> None:
    good = HealthCheck(lambda: True, period=0.3, threshold=30)
    assert submit(time.sleep, 1.0, health_check=good).wait(60) == "SUCCEEDED"
    bad = HealthCheck(lambda: False, period=0.2, threshold=10)
    job = submit(time.sleep, 300, health_check=bad)
    assert job.wait(60) == "FAILED" and job.message == "health check failed 10 times"


def test_f19_an_image_that_is_not_there_is_named(cluster: None) -> None:
    job = submit("true", runtime_env={"image_uri": "localhost:1/none:1"})
    assert job.wait(60) == "FAILED"
    assert "RuntimeEnvSetupError: podman could not run it" in job.message and "none" in job.message


# -- workers --------------------------------------------------------------------------------------


@spoke.remote(num_cpus=0.1, runtime_env={**ENV, "env_vars": {"MINE": "a b"}})
class Inside:
    def look(self) -> tuple[int, list[str], str]:
        return os.getpid(), sorted(os.listdir("/")), os.environ["MINE"]

    def twice(self, values: Any) -> Any:
        return values * 2

    def fail(self) -> None:
        raise KeyError("inside")

    def leave(self, code: int) -> None:
        os._exit(code)


def test_an_actor_in_a_container(cluster: None) -> None:
    actor = Inside.remote()
    pid, root, mine = spoke.get(actor.look.remote(), timeout=60)
    assert "home" not in root and mine == "a b" and pid != os.getpid()
    assert os.path.exists(f"/proc/{pid}")  # the processes of the node
    values = np.arange(1_000_000)
    assert np.array_equal(spoke.get(actor.twice.remote(spoke.put(values)), timeout=60), values * 2)
    with pytest.raises(KeyError, match="inside"):
        spoke.get(actor.fail.remote(), timeout=60)
    mine = set(containers())
    spoke.kill(actor)
    until(lambda: not os.path.exists(f"/proc/{pid}") and mine - set(containers()))


def test_a_worker_that_ends_itself_ends_its_container(cluster: None) -> None:
    actor = Inside.remote()
    pid = spoke.get(actor.look.remote(), timeout=60)[0]
    mine = set(containers())
    with pytest.raises(spoke.exceptions.ActorDiedError):
        spoke.get(actor.leave.remote(9), timeout=60)
    until(lambda: not os.path.exists(f"/proc/{pid}") and mine - set(containers()))


def test_options_of_the_runtime(cluster: None, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("seen")
    container = {"image": IMAGE, "run_options": ["-v", f"{tmp_path}:/given:ro"]}

    @spoke.remote(num_cpus=0.1, runtime_env={"container": container})
    def read() -> str:
        return Path("/given/file").read_text()

    assert spoke.get(read.remote(), timeout=60) == "seen"


# -- nothing is left (PROC-1, PROC-2) -------------------------------------------------------------

_DRIVER = """
import os, sys, time
import spoke
from spoke import jobs
env = {"image_uri": sys.argv[1]}

@spoke.remote(num_cpus=0.1, runtime_env=env)
class Actor:
    def hold(self):
        time.sleep(600)
    def pid(self):
        return os.getpid()

spoke.init(num_cpus=2, num_gpus=0, log_to_driver=False)
job = jobs.submit("echo on; sleep 600", runtime="podman", runtime_env=env, resources={"CPU": 0.1})
actor = Actor.remote()
pid = spoke.get(actor.pid.remote())
held = actor.hold.remote()
while job.status() != "RUNNING" or "on" not in list(job.logs()):
    time.sleep(0.02)
print(os.popen(f"pgrep -P {os.getpid()} spoke-daemon").read().strip(), pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["agent", "driver", "orderly"])
def test_PROC_1_no_container_outlives_its_agent(end: str, real_podman: None) -> None:
    before = set(containers())  # idle workers of the cluster above
    driver = subprocess.Popen(
        [sys.executable, "-c", _DRIVER, IMAGE],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    with driver:
        assert driver.stdout is not None
        agent, worker = map(int, driver.stdout.readline().split())
        mine = set(containers()) - before
        assert len(mine) == 2
        if end != "orderly":
            os.kill(agent if end == "agent" else driver.pid, signal.SIGKILL)
        driver.communicate(timeout=60)
        until(lambda: not mine & set(containers()) and not os.path.exists(f"/proc/{worker}"))

"""Submitted jobs as real processes: results, retries, ends, limits, output (rows F-04 to F-55)."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import spoke
from spoke import jobs
from spoke.jobs import HealthCheck, Job, JobFailedError, RetryPolicy

pytestmark = pytest.mark.usefixtures("spoke_cluster")
LITTLE = {"CPU": 0.01}
ROOT = Path(__file__).resolve().parent.parent


def until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def double(x: int, plus: int = 0) -> int:
    print("doubling", x)
    return 2 * x + plus


def environment() -> dict[str, str]:
    return dict(os.environ)


# -- results --------------------------------------------------------------------------------------


def test_f04_a_function_and_its_value() -> None:
    job = jobs.submit(double, 4, kwargs={"plus": 1}, name="f04", resources={"CPU": 1})
    assert job.id == "f04"
    assert job.wait(60) == "SUCCEEDED" and job.status() == "SUCCEEDED"
    assert job.result() == 9 and job.exit_code == 0
    (attempt,) = job.attempts()
    assert attempt.attempt_id == 0 and attempt.pid and 0 < attempt.started_at <= attempt.finished_at
    with pytest.raises(ValueError, match="f04 already exists"):
        jobs.submit(double, 1, name="f04")


def test_f05_closures_and_lambdas_run_and_what_does_not_pickle_is_a_type_error() -> None:
    base = 3
    assert jobs.submit(lambda x: x + base, 4).result(60) == 7
    assert jobs.submit(jobs.Entrypoint(double, (5,))).result(60) == 10
    assert jobs.submit(jobs.Entrypoint.from_callable(double, 5, plus=1)).result(60) == 11
    lock = threading.Lock()
    with pytest.raises(TypeError, match="lock"):
        jobs.submit(lambda: lock)
    with pytest.raises(TypeError, match="function or a command line"):
        jobs.submit(3)


def test_a_command_line_runs_in_a_shell() -> None:
    job = jobs.submit("echo one; echo two >&2; exit 3")
    assert job.wait(60) == "FAILED" and job.exit_code == 3
    assert list(job.logs(source="stdout")) == ["one"] and list(job.logs(source="stderr")) == ["two"]
    assert jobs.submit("true").result(60) is None


def test_an_exception_is_the_cause_and_its_traceback_in_the_log() -> None:
    def fail() -> None:
        raise ZeroDivisionError("mine")

    job = jobs.submit(fail)
    with pytest.raises(JobFailedError, match=r"FAILED \(exit code 1\)") as caught:
        job.result(60)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert any("ZeroDivisionError: mine" in line for line in job.logs(source="stderr"))
    with pytest.raises(JobFailedError):
        jobs.wait([job], raise_on_failure=True)


def test_sys_exit_is_the_exit_code() -> None:
    job = jobs.submit(sys.exit, 5)
    assert job.wait(60) == "FAILED" and job.exit_code == 5
    assert jobs.submit(sys.exit, 0).wait(60) == "SUCCEEDED"


def test_a_result_that_cannot_be_kept_is_a_failure_by_name() -> None:
    job = jobs.submit(threading.Lock)
    assert job.wait(60) == "FAILED" and job.exit_code == 75
    assert any("cannot be kept" in line for line in job.logs())
    job = jobs.submit(bytes, 9_000_000)
    assert job.wait(60) == "FAILED"
    assert any("write it to a file" in line for line in job.logs())


def test_f06_waiting() -> None:
    job = jobs.submit(time.sleep, 30)
    with pytest.raises(TimeoutError, match=r"did not complete in 0\.05s"):
        job.wait(0.05)
    assert job.wait_until("RUNNING", 60) == "RUNNING"
    job.terminate(force=True)
    assert job.wait(60) == "KILLED"
    with pytest.raises(KeyError, match="ghost"):
        jobs.get("ghost")
    with pytest.raises(KeyError, match="ghost"):
        Job("ghost", jobs._line).wait(1)


def test_f06_stream_logs_prints_each_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    job = jobs.submit("for i in 1 2 3; do echo line $i; done", name="streamed")
    job.wait(60, stream_logs=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("] ")[-1] for line in lines] == ["line 1", "line 2", "line 3"]
    assert all(line.startswith("[streamed][") for line in lines)


def test_f56_every_job_has_a_process_of_its_own() -> None:
    pids = {jobs.submit(os.getpid).result(60) for _ in range(3)}
    assert len(pids) == 3


# -- what a job is given --------------------------------------------------------------------------


def test_f16_variables_and_directory(tmp_path: Path) -> None:
    env = {"working_dir": f"local://{tmp_path}", "env_vars": {"MINE": "yes"}}
    assert jobs.submit(os.getcwd, runtime_env=env).result(60) == str(tmp_path)
    assert jobs.submit(environment, runtime_env=env).result(60)["MINE"] == "yes"
    job = jobs.submit("pwd; echo $MINE", runtime_env=env)
    job.wait(60)
    assert list(job.logs()) == [str(tmp_path), "yes"]
    with pytest.raises(ValueError, match="/not/there"):
        jobs.submit(os.getcwd, runtime_env={"working_dir": "/not/there"})
    job = jobs.submit(os.getcwd, runtime_env={"working_dir": "local:///not/there"})
    assert job.wait(60) == "FAILED" and "RuntimeEnvSetupError" in job.message
    with pytest.raises(ValueError, match="has no pip"):
        jobs.submit(os.getcwd, runtime_env={"pip": ["x"]}, runtime="podman")


def test_f16_secrets_are_not_forwarded() -> None:
    """Fluster gave every job the caller's tokens; here only what is named travels."""
    os.environ["WANDB_API_KEY"] = "secret"
    try:
        assert "WANDB_API_KEY" not in jobs.submit(environment).result(60)
    finally:
        del os.environ["WANDB_API_KEY"]


def test_f21_injected_variables_cannot_be_spoofed() -> None:
    lies = {"SPOKE_JOB_ID": "lie", "SPOKE_NAMESPACE": "lie", "SPOKE_PORT_X": "1", "SPOKE_ATTEMPT_ID": "9"}
    found = jobs.submit(environment, name="f21", ports=["http"], runtime_env={"env_vars": lies}).result(60)
    assert (found["SPOKE_JOB_ID"], found["SPOKE_NAMESPACE"], found["SPOKE_ATTEMPT_ID"]) == ("f21", "f21", "0")
    assert found["SPOKE_NODE_ID"] == spoke.get_runtime_context().get_node_id()
    assert "SPOKE_PORT_X" not in found and 30000 <= int(found["SPOKE_PORT_HTTP"]) <= 40000
    assert "SPOKE_TOKEN" not in found


def ports_of_context() -> tuple[str, int, str]:
    context = spoke.ctx()
    try:
        context.get_port("absent")
    except KeyError as error:
        return context.job_id, context.get_port("actor"), str(error)
    return "", 0, ""


def test_f20_f26_ports_and_context() -> None:
    job = jobs.submit(ports_of_context, name="f26", ports=["actor", "http"])
    name, port, text = job.result(60)
    assert name == "f26" and port == job.ports["actor"] and "['actor', 'http']" in text
    with pytest.raises(ValueError, match="name of a port"):
        jobs.submit(double, 1, ports=["a b"])
    with pytest.raises(TypeError, match="list of names"):
        jobs.submit(double, 1, ports="http")
    with pytest.raises(ValueError, match="two ports"):
        jobs.submit(double, 1, ports=["a", "A"])


def test_f20_two_jobs_have_disjoint_ports() -> None:
    pair = [jobs.submit("sleep 60", ports=["a", "b"], resources=LITTLE) for _ in range(2)]
    for job in pair:
        job.wait_until("RUNNING", 60)
    found = [port for job in pair for port in job.ports.values()]
    assert len(set(found)) == 4
    for job in pair:
        job.terminate(force=True)
        job.wait(60)


def test_f20_without_a_free_port_the_attempt_fails_by_name_and_ports_come_back() -> None:
    code = """
import spoke
from spoke import jobs
spoke.init(num_cpus=4, log_to_driver=False)
options = {"resources": {"CPU": 1}}
holder = jobs.submit("sleep 300", ports=["a", "b"], **options)
holder.wait_until("RUNNING", 60)
job = jobs.submit("true", ports=["c"], **options)
print(job.wait(60), job.message)
holder.terminate(force=True)
holder.wait(60)
print(jobs.submit("true", ports=["a", "b"], **options).wait(60))
"""
    low = 20_000 + os.getpid() % 10_000
    while not (_free(low) and _free(low + 1)):
        low += 2
    environment = {**os.environ, "SPOKE_JOB_PORT_RANGE": f"{low}-{low + 1}"}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, env=environment
    )
    lines = [f"FAILED No free ports available in {low}-{low + 1}", "SUCCEEDED"]
    assert out.stdout.splitlines() == lines, out.stderr


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"name": "a/b"}, ValueError, "cannot contain '/'"),
        ({"name": ""}, ValueError, "name of a job"),
        ({"resources": {"memory": "abc"}}, ValueError, "'abc' is not a size"),
        ({"resources": {"CPU": -1}}, ValueError, "not negative"),
        ({"scheduling_timeout_s": -1}, ValueError, "scheduling_timeout_s"),
        ({"job_timeout_s": "x"}, ValueError, "job_timeout_s"),
        ({"retries": -1}, ValueError, "retries"),
        ({"runtime": "jail"}, ValueError, "runtime"),
        ({"parent": "ghost"}, KeyError, "ghost"),
        ({"health_check": HealthCheck("http")}, ValueError, "asks port 'http'"),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        jobs.submit(double, 1, **options)


def test_f14_bad_policies() -> None:
    for wrong in ({"initial_delay": 0}, {"backoff_multiplier": 0.5}, {"max_retries_failure": -1}):
        with pytest.raises(ValueError, match=r"delay|multiplier|max_retries"):
            RetryPolicy(**wrong)
    for args in ({"period": 0}, {"threshold": 0}):
        with pytest.raises(ValueError, match="positive"):
            HealthCheck("a", **args)
    with pytest.raises(TypeError, match="health check"):
        HealthCheck(3)  # type: ignore[arg-type]


# -- attempts -------------------------------------------------------------------------------------


def fail_until(path: str, times: int) -> int:
    with open(path, "a") as file:
        file.write("x")
    count = os.path.getsize(path)
    print("attempt", count)
    if count <= times:
        sys.exit(10 + count)
    return count


def test_f15_fail_twice_then_succeed(tmp_path: Path) -> None:
    job = jobs.submit(fail_until, str(tmp_path / "n"), 2, retries=2)
    assert job.result(60) == 3
    assert [(one.attempt_id, one.state, one.exit_code) for one in job.attempts()] == [
        (0, "FAILED", 11), (1, "FAILED", 12), (2, "SUCCEEDED", 0),
    ]  # fmt: skip
    assert list(job.logs(attempt=0)) == ["attempt 1"] and list(job.logs()) == ["attempt 3"]
    assert list(job.logs(follow=True, attempt=0)) == ["attempt 1", "attempt 2", "attempt 3"]


def test_f14_exit_codes_decide(tmp_path: Path) -> None:
    policy = RetryPolicy(max_retries_failure=5, initial_delay=0.01, no_retry_on_exit_codes=[12])
    job = jobs.submit(fail_until, str(tmp_path / "n"), 9, retries=policy)
    assert job.wait(60) == "FAILED" and job.exit_code == 12 and len(job.attempts()) == 2


def test_f22_timeout_is_a_failure() -> None:
    job = jobs.submit("sleep 60", job_timeout_s=0.2)
    assert job.wait(60) == "FAILED"
    assert (job.exit_code, job.message) == (-1, "Timeout exceeded")


def test_f12_scheduling_timeout() -> None:
    job = jobs.submit(double, 1, resources={"CPU": 100}, scheduling_timeout_s=1)
    assert job.wait(60) == "UNSCHEDULABLE" and job.message == "Scheduling timeout exceeded (1s)"


# -- ends -----------------------------------------------------------------------------------------


def test_f23_terminate_ends_every_process_of_the_job(tmp_path: Path) -> None:
    one, two, three = tmp_path / "one", tmp_path / "two", tmp_path / "three"
    script = (f"(sleep 300 & echo $! > {one}); env -i setsid sleep 300 & echo $! > {three}; "
              f"setsid sleep 300 & echo $! > {two}; wait; sleep 300")  # fmt: skip
    job = jobs.submit(script)
    until(lambda: (tmp_path / "two").exists() and (tmp_path / "two").read_text().strip())
    pids = [int((tmp_path / name).read_text()) for name in ("one", "two", "three")] + [job.attempts()[0].pid]
    assert all(map(alive, pids))
    assert job.terminate() and job.wait(60) == "KILLED"
    assert job.message == "Terminated by user"
    until(lambda: not any(map(alive, pids)))
    assert job.terminate() is False


def ignore_term(path: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(path).touch()
    time.sleep(300)


def test_f23_who_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    job = jobs.submit(ignore_term, str(tmp_path / "on"), grace_s=0.3)
    until((tmp_path / "on").exists)
    pid = job.attempts()[0].pid
    job.terminate()
    assert job.wait(60) == "KILLED" and job.exit_code == 137 and not alive(pid)


def test_f23_sigterm_can_be_used_to_clean_up(tmp_path: Path) -> None:
    script = f"trap 'touch {tmp_path}/clean; exit 0' TERM; touch {tmp_path}/on; while :; do sleep 0.01; done"
    job = jobs.submit(script)
    until((tmp_path / "on").exists)
    job.terminate()
    assert job.wait(60) == "KILLED" and (tmp_path / "clean").exists()


def eat(megabytes: int) -> None:
    held = [bytearray(b"x" * 1_000_000) for _ in range(megabytes)]
    time.sleep(30)
    del held


def test_f19_a_job_over_its_memory_limit_dies_alone_with_137() -> None:
    other = jobs.submit("sleep 300", resources={**LITTLE, "memory": "64MB"})
    job = jobs.submit(eat, 500, resources={**LITTLE, "memory": "100MB"})
    assert job.wait(60) == "FAILED"
    assert job.exit_code == 137 and "memory limit exceeded" in job.message
    assert other.status() == "RUNNING"
    other.terminate(force=True)
    other.wait(60)


def test_jobs_end_with_the_cluster_that_init_started() -> None:
    code = (
        "import spoke, time; from spoke import jobs; spoke.init(num_cpus=1)\n"
        "job = jobs.submit('sleep 300'); job.wait_until('RUNNING', 60); print(job.attempts()[0].pid)"
    )
    argv = [sys.executable, "-c", code]
    out = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    until(lambda: not alive(int(out.stdout)))


# -- families -------------------------------------------------------------------------------------


def parent_of(path: str) -> list[str]:
    spoke.init()
    child = jobs.submit("sleep 300", name="child", resources=LITTLE)
    child.wait_until("RUNNING", 60)
    Path(path).write_text(str(child.attempts()[0].pid))
    return [child.id, spoke.get_runtime_context().namespace]


def test_f24_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    job = jobs.submit(parent_of, str(tmp_path / "pid"), name="mother", resources=LITTLE)
    assert job.result(60) == ["mother/child", "mother"]
    child = jobs.get("mother/child")
    assert child.status() == "KILLED" and "its parent mother ended" in child.message
    assert not alive(int((tmp_path / "pid").read_text()))


def test_f07_terminate_prefix_and_list() -> None:
    found = [jobs.submit("sleep 300", name=f"pre-{i}", resources=LITTLE) for i in range(3)]
    kept = jobs.submit("sleep 300", name="keep", resources=LITTLE)
    assert jobs.terminate_prefix("pre-") == [job.id for job in found]
    assert jobs.wait(found, 60) == ["KILLED"] * 3
    assert [row["job_id"] for row in jobs.list("pre-", states=["KILLED"])] == [job.id for job in found]
    assert kept.status() in ("PENDING", "RUNNING")
    assert jobs.terminate("keep", force=True)
    kept.wait(60)


def test_f49_launch_group() -> None:
    requests = [jobs.request(double, i, name=f"group-{i}", resources=LITTLE) for i in range(3)]
    group = jobs.launch_group(requests)
    assert [job.result(60) for job in group] == [0, 2, 4]
    requests = [jobs.request("sleep 300", name="g-a", resources=LITTLE),
                jobs.request("exit 4", name="g-b", resources=LITTLE)]  # fmt: skip
    assert jobs.wait(jobs.launch_group(requests), 60) == ["KILLED", "FAILED"]
    with pytest.raises(ValueError, match="two jobs"):
        jobs.launch_group([jobs.request(double, 1, name="same"), jobs.request(double, 1, name="same")])


# -- health ---------------------------------------------------------------------------------------


def listen(path: str) -> None:
    server = socket.create_server(("127.0.0.1", spoke.ctx().get_port("http")))
    until(lambda: os.path.exists(path))
    server.close()
    time.sleep(60)


def test_f55_a_port_that_stops_answering_is_a_failure(tmp_path: Path) -> None:
    check = HealthCheck("http", period=0.1, timeout=0.1, threshold=3)
    job = jobs.submit(listen, str(tmp_path / "go"), ports=["http"], health_check=check, resources=LITTLE)
    job.wait_until("RUNNING", 60)
    time.sleep(0.5)
    assert job.status() in ("RUNNING", "FAILED")  # a loaded machine may be slow to listen
    (tmp_path / "go").touch()
    assert job.wait(60) == "FAILED" and job.message == "health check failed 3 times"


def hang() -> bool:
    time.sleep(300)
    return True


def test_f55_a_check_that_hangs_is_a_failure() -> None:
    check = HealthCheck(hang, period=0.1, threshold=3)
    job = jobs.submit(time.sleep, 300, health_check=check, resources=LITTLE)
    assert job.wait(60) == "FAILED" and job.message == "health check failed 3 times"


def test_f55_a_healthy_job_goes_on() -> None:
    check = HealthCheck(lambda: True, period=0.3, threshold=30)
    assert jobs.submit(time.sleep, 1.0, health_check=check, resources=LITTLE).wait(60) == "SUCCEEDED"


# -- output ---------------------------------------------------------------------------------------


def burst(count: int) -> None:
    sys.stdout.write("".join(f"line {i}\n" for i in range(count)))  # one write, one millisecond


def test_f39_ten_thousand_lines_of_one_millisecond_each_once_in_order() -> None:
    """Fluster asked for what came after a millisecond, and lost the rest of that millisecond."""
    job = jobs.submit(burst, 10_000)
    assert list(job.logs(follow=True)) == [f"line {i}" for i in range(10_000)]
    assert list(job.logs()) == [f"line {i}" for i in range(10_000)]


def test_f39_follow_while_it_is_written() -> None:
    job = jobs.submit("for i in $(seq 1 50); do echo $i; sleep 0.01; done; printf last")
    assert list(job.logs(follow=True)) == [*map(str, range(1, 51)), "last"]


def test_f39_tail_grep_since_and_source() -> None:
    before = time.time()
    job = jobs.submit("seq 1 100; echo oops >&2")
    job.wait(60)
    assert list(job.logs(tail=3, source="stdout")) == ["98", "99", "100"]
    assert list(job.logs(tail=0)) == []
    assert list(job.logs(tail=1000, source="stdout")) == [str(i) for i in range(1, 101)]
    assert list(job.logs(grep="^9.$")) == [str(i) for i in range(90, 100)]
    assert list(job.logs(source="stderr")) == ["oops"]
    assert len(list(job.logs(since=before))) == 101
    assert list(job.logs(since=time.time() + 10)) == []
    for wrong in ({"source": "x"}, {"tail": -1}, {"attempt": 5}):
        with pytest.raises(ValueError, match=r"source|tail|attempt"):
            list(job.logs(**wrong))  # type: ignore[arg-type]


def test_f39_logs_before_a_node_is_found() -> None:
    job = jobs.submit(double, 1, resources={"CPU": 100})
    with pytest.raises(ValueError, match="no attempt on a node yet"):
        list(job.logs())
    job.terminate()
    assert list(job.logs(follow=True)) == []


def test_f40_a_callback_gets_every_line_and_its_error_ends_nothing() -> None:
    seen: list[str] = []

    def callback(line: str) -> None:
        seen.append(line)
        if line == "2":
            raise RuntimeError("not this one")

    job = jobs.submit("seq 1 5")
    subscription = job.on_log(callback)
    until(lambda: len(seen) == 5)
    assert seen == ["1", "2", "3", "4", "5"] and str(subscription.error) == "not this one"
    subscription.stop()


def test_f40_stop_returns_within_two_seconds() -> None:
    job = jobs.submit("sleep 300", resources=LITTLE)
    subscription = job.on_log(print)
    job.wait_until("RUNNING", 60)
    started = time.monotonic()
    subscription.stop()
    assert time.monotonic() - started < 2.5 and not subscription._thread.is_alive()
    job.terminate(force=True)
    job.wait(60)


# -- containers -----------------------------------------------------------------------------------

FAKE = """#!/bin/sh
# A runtime that isolates nothing: runs the command of `run` in the mounted directory.
echo "$@" >> "$FAKE_LOG"
if [ "$1" = rm ]; then exit 0; fi
shift
while [ $# -gt 0 ]; do
    case "$1" in
        --rm) shift ;;
        -v) dir="${2%%:*}"; shift 2 ;;
        -e) export "$2"; shift 2 ;;
        -*) shift 2 ;;
        *) break ;;
    esac
done
shift  # the image
cd "$dir" && for word in "$@"; do [ "$word" = /workdir ] && word="$dir"; set -- "$@" "$word"; shift; done
exec /bin/sh "$@"
"""


def test_f19_podman_and_docker(tmp_path: Path) -> None:
    python = f'#!/bin/sh\nexec {sys.executable} "$@"\n'
    for name, text in (("podman", FAKE), ("docker", FAKE), ("python", python)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    log = tmp_path / "log"
    code = """
import os, spoke
from spoke import jobs
spoke.init(num_cpus=2)
env = {"image_uri": "img:1", "env_vars": {"MINE": "yes"}}
options = dict(runtime_env=env, resources={"CPU": 1, "memory": "1GB"}, ports=["http"])
job = jobs.submit("echo in $MINE $SPOKE_JOB_ID", name="c1", runtime="podman", **options)
print(job.wait(60), list(job.logs()), job.message)
print(jobs.submit(os.getcwd, runtime="docker", **options).result(60) != os.getcwd())
job = jobs.submit("sleep 300", runtime="podman", **options)
job.wait_until("RUNNING", 60); job.terminate(); print(job.wait(60))
job = jobs.submit("sleep 300", runtime="podman", **options)
job.wait_until("RUNNING", 60); job.terminate(force=True); print(job.wait(60))
print(jobs.submit("true", runtime="podman").wait(60))
"""
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "FAKE_LOG": str(log),
                   "PYTHONPATH": str(ROOT)}  # fmt: skip
    argv = [sys.executable, "-c", code]
    out = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=90)
    expected = ["SUCCEEDED ['in yes c1'] ", "True", "KILLED", "KILLED", "FAILED"]
    assert out.stdout.splitlines() == expected, out.stderr
    words = log.read_text().split()
    for flag in ("--rm", "no-new-privileges", "ALL", "img:1"):
        assert flag in words
    for option in ("--memory", "--memory-swap"):
        assert words[words.index(option) + 1] == str(1024**3)
    assert words[words.index("--cpus") + 1] == "1"
    assert re.fullmatch(r"127\.0\.0\.1:(\d+):\1", words[words.index("-p") + 1])  # SEC-2
    assert any(line.startswith("rm -f -t 0 spoke-") for line in log.read_text().splitlines())


def test_f19_a_runtime_that_is_not_there_fails_by_name_and_harms_nobody(tmp_path: Path) -> None:
    (tmp_path / "sh").symlink_to("/bin/sh")
    code = """
import spoke
from spoke import jobs
spoke.init(num_cpus=1)
job = jobs.submit("true", runtime="podman", runtime_env={"image_uri": "x"})
print(job.wait(60), job.message)
print(jobs.submit(":").wait(60))
"""
    environment = {**os.environ, "PATH": str(tmp_path)}
    argv = [sys.executable, "-c", code]
    out = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=90)
    missing = "FAILED RuntimeEnvSetupError: podman is not installed on this node"
    assert out.stdout.splitlines() == [missing, "SUCCEEDED"], out.stderr

"""The commands that look at a cluster, as a user runs them: in a pipe and in a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spoke.machine import known_address
from spoke.util.state.common import ActorState, JobState, NodeState, ObjectState, TaskState, WorkerState
from tests.test_cli import Shell

DRIVER = """
import sys, time
import spoke

spoke.init(address="auto")

@spoke.remote
class Speaker:
    def say(self, word):
        print("heard", word, flush=True)
        print("to stderr", word, file=sys.stderr, flush=True)
        return word

@spoke.remote
def quiet():
    print("from the task", flush=True)

@spoke.remote
def broken():
    raise ValueError("no")

speaker = Speaker.options(name="speaker").remote()
spoke.get(speaker.say.remote("hello"))
task = quiet.remote()
spoke.get(task)
try:
    spoke.get(broken.remote())
except ValueError:
    pass
kept = spoke.put(b"x" * 500_000)
group = spoke.util.placement_group([{"CPU": 1}], name="pair")
group.wait(30)
print(speaker._actor_id.hex(), task.task_id().hex(), kept.hex(), flush=True)
time.sleep(600)
"""


class Cluster:
    """A head with a driver that has made an actor, tasks, an object and a group."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        shell.done("start", "--head", "--port", "0", "--num-cpus", "4")
        self.driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER], env=shell.environment, stdout=subprocess.PIPE, text=True
        )
        assert self.driver.stdout is not None
        for line in self.driver.stdout:
            if re.fullmatch(r"[0-9a-f]{32} [0-9a-f]{48} [0-9a-f]{56}\n", line):
                self.actor_id, self.task_id, self.object_id = line.split()
                return
        raise AssertionError("the driver ended")

    def close(self) -> None:
        self.driver.kill()
        self.driver.communicate()
        self.shell.run("stop", "--force")

    def rows(self, *arguments: str) -> Any:
        return json.loads(self.shell.done(*arguments, "--format", "json"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(Shell(tmp_path_factory.mktemp("cli")))
    yield made
    made.close()


def header(text: str) -> list[str]:
    """The columns of the first table of a report."""
    lines = text.splitlines()
    return next(lines[i + 2] for i, line in enumerate(lines) if line.startswith("Table")).split()


def on_terminal(shell: Shell, *arguments: str) -> str:
    """The output of a command in a terminal of 80 columns, without carriage returns."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {**shell.environment, "TERM": "xterm-256color"}
    environment.pop("COLUMNS", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "spoke.cli", *arguments],
        env=environment, stdin=follower, stdout=follower, stderr=follower,
    )  # fmt: skip
    os.close(follower)
    text = b""
    while True:
        try:
            data = os.read(leader, 65536)
        except OSError:  # the last writer is gone
            break
        if not data:
            break
        text += data
    os.close(leader)
    assert process.wait(60) == 0, text
    return text.decode().replace("\r", "")


# -- list, get, summary -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resource", "schema"),
    [("actors", ActorState), ("tasks", TaskState), ("nodes", NodeState), ("objects", ObjectState),
     ("workers", WorkerState), ("jobs", JobState)],
)  # fmt: skip
def test_a_list_has_the_columns_of_its_rows(cluster: Cluster, resource: str, schema: Any) -> None:
    text = cluster.shell.done("list", resource)
    assert header(text) == [name.upper() for name in schema.list_columns(detail=False)]
    assert "\x1b" not in text
    rows = cluster.rows("list", resource, "--detail")
    assert rows and all(list(row) == schema.list_columns() for row in rows)
    assert re.search(rf"^Total: {len(rows)}$", text, re.M)


def test_what_was_made_is_listed(cluster: Cluster) -> None:
    (actor,) = cluster.rows("list", "actors", "--filter", "state=alive", "--filter", "class_name!=Other")
    assert (actor["actor_id"], actor["name"], actor["state"]) == (cluster.actor_id, "speaker", "ALIVE")
    tasks = {row["name"]: row for row in cluster.rows("list", "tasks", "--detail")}
    assert {name: row["state"] for name, row in tasks.items()} == {
        "speaker:Speaker.__init__": "FINISHED", "Speaker.say": "FINISHED", "quiet": "FINISHED",
        "broken": "FAILED",
    }  # fmt: skip
    assert tasks["broken"]["error_type"] == "TASK_EXECUTION_EXCEPTION"
    assert tasks["quiet"]["task_id"] == cluster.task_id
    assert tasks["quiet"]["start_time_ms"] <= tasks["quiet"]["end_time_ms"]
    (group,) = cluster.rows("list", "placement-groups")
    assert (group["name"], group["state"]) == ("pair", "CREATED")
    sizes = {row["object_id"]: row["object_size"] for row in cluster.rows("list", "objects")}
    assert 500_000 < sizes[cluster.object_id] < 500_100
    assert [row["type"] for row in cluster.rows("list", "jobs")] == ["DRIVER"]
    few = cluster.shell.run("list", "workers", "--limit", "2")
    assert "Total: 2\n" in few.stdout and "rows are shown" in few.stderr
    none = cluster.shell.run("list", "actors", "--limit", "0")
    assert none.returncode == 0 and none.stdout.strip() == "No resource in the cluster"
    for empty in ("runtime-envs", "cluster-events"):
        assert cluster.shell.done("list", empty).strip() == "No resource in the cluster"


def test_a_terminal_shows_ids_in_one_piece(cluster: Cluster) -> None:
    text = on_terminal(cluster.shell, "list", "actors")
    node_id = cluster.rows("list", "nodes")[0]["node_id"]
    assert "\x1b[1m" in text and cluster.actor_id in text and node_id in text
    (line,) = [line for line in text.splitlines() if cluster.actor_id in line]
    assert line.split()[1:5] == [cluster.actor_id, "Speaker", "ALIVE", "01000000"]


def test_get_shows_everything(cluster: Cluster) -> None:
    (actor,) = cluster.rows("get", "actors", cluster.actor_id)
    assert list(actor) == ActorState.list_columns() and actor["is_detached"] is False
    (task,) = cluster.rows("get", "tasks", cluster.task_id)
    assert task["name"] == "quiet" and task["profiling_data"]["events"][0]["event_name"] == "task::quiet"
    assert cluster.rows("get", "objects", cluster.object_id)[0]["reference_type"] == "LOCAL_REFERENCE"
    text = cluster.shell.done("get", "actors", cluster.actor_id)
    assert text.startswith("---\n") and "class_name: Speaker\n" in text and text.endswith("...\n")
    assert "not found" in cluster.shell.done("get", "actors", "00")


def test_summaries_count(cluster: Cluster) -> None:
    assert header(cluster.shell.done("summary", "actors")) == ["CLASS_NAME", "STATE_COUNTS"]
    found = cluster.shell.done("summary", "tasks", "--format", "json")
    totals = json.loads(found)[0]
    assert (totals["total_tasks"], totals["total_actor_tasks"], totals["total_actor_scheduled"]) == (2, 1, 1)
    assert totals["summary"]["broken"]["state_counts"] == {"FAILED": 1}
    assert header(cluster.shell.done("summary", "tasks"))[0] == "FUNC_OR_CLASS_NAME"
    assert "total_objects:" in cluster.shell.done("summary", "objects")


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "actors", "--filter", "nothing=1"],
        ["list", "actors", "--filter", "state"],
        ["list", "actors", "--filter", "state<1"],
        ["list", "actors", "--filter", "pid=many"],
        ["list", "actors", "--limit", "-1"],
        ["list", "actors", "--limit", "1000000"],
        ["list", "actors", "--limit", "many"],
        ["list", "actors", "--format", "xml"],
        ["list", "actors", "--nonsense"],
        ["list", "nonsense"],
        ["list"],
        ["get", "actors"],
        ["get", "runtime-envs", "00"],
        ["summary", "nodes"],
        ["memory", "--sort-by", "COLOUR"],
        ["memory", "--units", "TB"],
        ["health-check", "--component", "gcs"],
        ["logs"],
        ["logs", "actor"],
        ["logs", "task"],
        ["logs", "worker", "--pid", "many"],
        ["logs", "--rank", "1"],
        ["microbenchmark", "--filter", "nothing like it"],
        ["timeline", "--nonsense"],
        ["status", "--address", "nowhere"],
        ["start"],
        ["start", "--head", "--address", "127.0.0.1:9"],
        ["start", "--head", "--num-cpus", "many"],
        ["start", "--head", "--resources", "[1]"],
        ["start", "--head", "--resources", '{"CPU": -1}'],
        ["job", "submit"],
        ["job", "submit", "--runtime-env-json", "[]", "--", "true"],
        ["job", "submit", "--runtime-env-json", "{", "--", "true"],
        ["job", "nonsense"],
    ],
)
def test_misuse_is_one_line_and_exit_code_2(cluster: Cluster, arguments: list[str]) -> None:
    result = cluster.shell.run(*arguments)
    assert result.returncode == 2 and result.stdout == "", result
    assert len(result.stderr.splitlines()) == 1 and result.stderr.startswith("Error: "), result


def test_what_cannot_be_done_is_one_line_and_exit_code_1(cluster: Cluster, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing" / "file")
    for arguments, text in (
        (["job", "logs", "none"], "spoke: no job 'none' is known"),
        (["logs", "job", "--id", "none"], "spoke: no job 'none' is known"),
        (["job", "status", "none"], "spoke: Job none does not exist"),
        (["timeline", "-o", missing], f"spoke: cannot write {missing}: No such file or directory"),
    ):
        result = cluster.shell.run(*arguments)
        assert (result.returncode, result.stdout, result.stderr) == (1, "", text + "\n"), arguments


def test_every_command_says_what_it_does_on_one_line(cluster: Cluster) -> None:
    assert "..." not in cluster.shell.done("--help").partition("Commands:")[2]


@pytest.mark.parametrize(
    "command",
    [["list", "tasks"], ["get", "nodes", "00"], ["summary", "actors"], ["memory"], ["timeline"],
     ["health-check"], ["logs", "cluster"]],
)  # fmt: skip
def test_no_cluster_is_one_line_and_exit_code_1(cluster: Cluster, command: list[str]) -> None:
    text = cluster.shell.run(*command, "--address", "127.0.0.1:9", SPOKE_TOKEN="x" * 20)
    assert text.returncode == 1 and "127.0.0.1:9" in text.stderr and len(text.stderr.splitlines()) == 1, text


def test_health_check_says_nothing_where_all_is_well(cluster: Cluster) -> None:
    assert cluster.shell.done("health-check") == ""
    more = ("--component", "ray_client_server", "--skip-version-check")
    assert cluster.shell.done("health-check", *more) == ""


# -- memory, timeline, logs -------------------------------------------------------------------------


def test_memory_shows_references_and_owners(cluster: Cluster) -> None:
    text = cluster.shell.done("memory", "--units", "KB", "--no-format", "--sort-by", "OBJECT_SIZE")
    lines = text.splitlines()
    assert f"--- Summary for node address: {known_address('')} ---" in lines
    start = next(i for i, line in enumerate(lines) if line.startswith("IP Address|PID|Type|Call Site|Status"))
    rows = [line.split("|") for line in lines[start + 1 :] if line.count("|") == 9]
    (kept,) = [row for row in rows if row[8] == cluster.object_id]
    assert kept[1] == str(cluster.driver.pid) and kept[6] == "488.3 KB" and kept[7] == "LOCAL_REFERENCE"
    assert rows[-1] == kept  # the largest is last
    assert "Shared memory usage 0.5 MiB, 1 objects" in cluster.shell.done("memory", "--stats-only")
    assert "IP Address" not in cluster.shell.done("memory", "--stats-only")
    by_site = cluster.shell.done("memory", "--group-by", "STACK_TRACE")
    assert "--- Summary for call site: disabled ---" in by_site


def test_timeline_is_a_chrome_trace(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    assert str(file) in cluster.shell.run("timeline", "-o", str(file)).stdout
    found = {event["cat"]: event for event in json.loads(file.read_text())}
    assert set(found) == {"task::Speaker.__init__", "task::Speaker.say", "task::quiet", "task::broken"}
    event = found["task::quiet"]
    assert event["ph"] == "X" and event["dur"] > 0 and event["tid"].startswith("worker:")
    assert event["args"]["task_id"] == cluster.task_id


def test_logs_by_id_and_by_pattern(cluster: Cluster) -> None:
    shell = cluster.shell
    assert shell.done("logs", "actor", "--id", cluster.actor_id) == "heard hello\n"
    assert shell.done("logs", "actor", "--id", cluster.actor_id, "--err") == "to stderr hello\n"
    (actor,) = cluster.rows("list", "actors")
    assert shell.done("logs", "actor", "--pid", str(actor["pid"]), "--tail", "1") == "heard hello\n"
    assert shell.done("logs", "worker", "--pid", str(actor["pid"]), "--tail", "0") == ""
    assert shell.done("logs", "task", "--id", cluster.task_id) == "from the task\n"
    listed = shell.done("logs", "cluster")
    name = next(line[2:] for line in listed.splitlines() if line.startswith("- worker-"))
    assert f"- {name}" in shell.done("logs", "worker-*").splitlines()
    assert shell.run("logs", name).returncode == 0  # one match: its content
    assert "no log file matches" in shell.fails("logs", "cluster", "nothing-*")
    assert "no actor 00" in shell.fails("logs", "actor", "--id", "00")
    assert "no task 00" in shell.fails("logs", "task", "--id", "00")
    assert "no worker has pid 1" in shell.fails("logs", "worker", "--pid", "1")


def test_logs_of_a_job_and_followed(cluster: Cluster) -> None:
    shell = cluster.shell
    shell.done("job", "submit", "--submission-id", "talker", "--", "echo", "from the job")
    assert shell.done("logs", "job", "--id", "talker") == "from the job\n"
    types = {row["type"]: row["submission_id"] for row in cluster.rows("list", "jobs")}
    assert types["SUBMISSION"] == "talker"
    process = subprocess.Popen(
        [sys.executable, "-m", "spoke.cli", "logs", "actor", "--id", cluster.actor_id, "--follow"],
        env=shell.environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "heard hello\n"
    process.kill()
    process.communicate()


def test_microbenchmark_has_rows_by_rays_names(cluster: Cluster) -> None:
    names = cluster.shell.done("microbenchmark", "--list").splitlines()
    assert {"1:1 actor calls sync", "single client tasks async", "single client put gigabytes"} <= set(names)
    line = cluster.shell.done("microbenchmark", "--quick", "--filter", "1:1 actor calls sync")
    assert re.fullmatch(r"1:1 actor calls sync per second [\d.]+ \+- [\d.]+\n", line)


# -- many -------------------------------------------------------------------------------------------

MANY = """
import spoke

spoke.init(address="auto")

@spoke.remote(num_cpus=1)
class Waits:
    pass

kept = [Waits.remote() for _ in range(10_000)]
spoke.util.state.list_nodes()
print("made", flush=True)
input()
"""


def test_ten_thousand_actors(shell: Shell) -> None:
    """All but one wait for the one CPU: records of a real hub, made by a driver, without processes."""
    shell.done("start", "--head", "--port", "0", "--num-cpus", "1")
    driver = subprocess.Popen(
        [sys.executable, "-c", MANY], env=shell.environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert driver.stdout is not None and driver.stdout.readline() == "made\n"
        text = shell.run("list", "actors")
        assert "Total: 100\n" in text.stdout and "100 of 10000 rows are shown" in text.stderr
        rows = json.loads(shell.done("list", "actors", "--limit", "10000", "--format", "json"))
        assert len({row["actor_id"] for row in rows}) == 10_000
        assert sum(row["state"] == "PENDING_CREATION" for row in rows) >= 9_999
        assert len(shell.done("list", "actors", "--limit", "10000").splitlines()) > 10_000
    finally:
        driver.communicate("\n")


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    made = Shell(tmp_path)
    yield made
    made.run("stop", "--force")

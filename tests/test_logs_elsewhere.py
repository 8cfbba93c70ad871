"""Log files are read where they are, through the hub: no reader needs to share a disk with them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spoke.cluster_utils import Cluster
from spoke.joblogs import tail_offset
from spoke.logreading import FILES_MAX, WAITING_MAX, LogReading
from spoke.logs import MARK, marker
from spoke.util.state.exception import RayStateApiException
from spoke.util.state.logs import PART_CHARS, Cutter, get_log, list_logs
from spoke.wire import LOG_CHUNK

# Whatever this program would open or list below the other node's folder ends it.
READER = """
import itertools, json, os, sys
address, far, program = sys.argv[1:]
def hook(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith(far):
        os._exit(66)
sys.addaudithook(hook)
import spoke
from spoke.util import state
spoke.init(address, log_to_driver=False)
exec(program)
"""

ASK = """
@spoke.remote(resources={"far": 1}, num_cpus=0)
class Speaker:
    def say(self, count):
        for number in range(count):
            print("line", number)
        print("an error", file=sys.stderr)
        sys.stdout.flush()
        return os.getpid(), spoke.get_runtime_context().get_node_id()

@spoke.remote(resources={"far": 1}, num_cpus=0)
def task():
    print("of the task", flush=True)

speaker = Speaker.remote()
pid, node_id = spoke.get(speaker.say.remote(3000))
actor_id = speaker._actor_id.hex()
lines = list(state.get_log(actor_id=actor_id))
following = state.get_log(actor_id=actor_id, follow=True, tail=1)
seen = [next(following)]
again = speaker.say.remote(2)
seen += itertools.islice(following, 2)
ref = task.remote()
spoke.get(ref)
names = state.list_logs(node_id=node_id)
name = next(name for name in names["worker_err"] if list(state.get_log(filename=name)))
print(json.dumps({
    "all": [len(lines), lines[0], lines[-1]],
    "tail": list(state.get_log(pid=pid, node_id=node_id, tail=2)),
    "none": list(state.get_log(actor_id=actor_id, tail=0)),
    "err": list(state.get_log(filename=name, tail=1)),
    "follow": seen,
    "task": list(state.get_log(task_id=ref.task_id().hex())),
}))
"""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    yield made
    made.shutdown()


def reads(cluster: Cluster, far: Path, program: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", READER, cluster.address, str(far), program],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def test_the_files_of_another_machine(cluster: Cluster, tmp_path: Path) -> None:
    far = tmp_path / "far"
    cluster.add_node(num_cpus=1, resources={"far": 4}, log_dir=str(far))
    found = reads(cluster, far, ASK)
    assert any(far.iterdir())
    assert found == {
        "all": [3000, "line 0\n", "line 2999\n"],
        "tail": ["line 0\n", "line 1\n"],
        "none": [],
        "err": ["an error\n"],
        "follow": ["line 2999\n", "line 0\n", "line 1\n"],
        "task": ["of the task\n"],
    }


def test_a_gang_on_two_nodes_and_one_that_is_gone(cluster: Cluster, tmp_path: Path) -> None:
    import spoke

    far = cluster.add_node(num_cpus=2, log_dir=str(tmp_path / "far"))
    cluster.connect()

    class Rank:
        def hello(self) -> str:
            print("hello from", spoke.get_runtime_context().get_node_id(), flush=True)
            return spoke.get_runtime_context().get_node_id()

    gang = spoke.gang_allocate(2, 1, {"CPU": 1})
    nodes = spoke.get([rank.hello.remote() for rank in gang.launch(Rank)])
    assert len(set(nodes)) == 2

    def shown() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "spoke.cli", "logs", "--gang", gang.id, "--address", cluster.address],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    assert sorted(shown().stdout.splitlines()) == [f"[{rank}] hello from {nodes[rank]}" for rank in (0, 1)]
    assert list_logs(node_id=far.node_id, glob_filter="gang-*/worker-*")["worker_out"]
    with pytest.raises(RayStateApiException, match=r"no log 'worker-none\.out'"):
        list(get_log(filename="worker-none.out"))
    with pytest.raises(RayStateApiException, match="no file of the log directory"):
        list(get_log(filename="../../../../../etc/passwd", node_id=far.node_id))
    pid = os.getpid()
    with pytest.raises(ValueError, match=f"no worker has pid {pid}"):
        list(get_log(pid=pid))
    cluster.remove_node(far)
    assert "the logs are gone with their node" in shown().stderr
    assert shown().stdout == f"[0] hello from {nodes[0]}\n"


# -- the agent's side


class Clock:
    """A loop whose timers the test runs."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []

    def after_s(self, seconds: float, call: Callable[[], object]) -> None:
        self.calls.append(call)

    def run(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


class Asker:
    """Puts questions to the files of a directory."""

    def __init__(self, root: Path) -> None:
        self.clock = Clock()
        self.answers: list[Any] = []
        self.reading = LogReading(self.clock, str(root), self.answers.append)  # type: ignore[arg-type]

    def ask(self, **args: Any) -> Any:
        """The answer, or the text of the error; None: it is not there yet."""
        self.reading.asked(1, args)
        return self.latest()

    def latest(self) -> Any:
        if not self.answers:
            return None
        kind, number, error, value = self.answers.pop(0)
        assert (kind, number) == (LOG_CHUNK, 1)
        return error[1] if error else value


def test_only_regular_files_below_the_directory(tmp_path: Path) -> None:
    root = tmp_path / "logs"
    (root / "gang-a").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (root / "gang-a" / "worker-1.out").write_text("text")
    (root / "gang-a" / "rank-0.out").symlink_to("worker-1.out")
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "up").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")
    ask = Asker(root).ask
    for name in (
        "../secret",
        str(tmp_path / "secret"),
        "out",
        "up/secret",
        "pipe",
        "gang-a",
        "",
        ".",
        "secret",
    ):
        assert "is no file of the log directory" in ask(files=[[name, 0, 0]]), name
    for name in ("worker-1.out", "gang-a/worker-1.out", "gang-a/rank-0.out", "gang-a/../gang-a/rank-0.out"):
        assert ask(files=[[name, 0, 0]]) == [[0, b"text"]], name
    assert ask(files=[["none", 0, 0], ["rank-0.out", 2, 0]]) == [None, [2, b"xt"]]
    assert ask(glob="rank-*") == {"names": ["gang-a/rank-0.out"], "left_out": 0}
    assert ask(glob="gang-a/w*")["names"] == ["gang-a/worker-1.out"]
    for args in ({}, {"files": 3}, {"files": [["x"]]}, {"files": [["rank-0.out", "x", 0]]},
                 {"files": [["rank-0.out", -1, 0]]}, {"files": [["x", 0, 0]] * (FILES_MAX + 1)},
                 {"files": [["a\0b", 0, 0]]}):  # fmt: skip
        assert isinstance(ask(**args), str), args


def test_who_waits_is_answered_when_something_is_written(tmp_path: Path) -> None:
    asker = Asker(tmp_path)
    (tmp_path / "a").write_text("one\n")
    assert asker.ask(files=[["a", 0, 0], ["b", None, 5]], within_s=60) == [[0, b"one\n"], None]
    assert asker.ask(files=[["a", 4, 0], ["b", None, 5]], within_s=60) is None
    asker.clock.run()
    assert asker.latest() is None and len(asker.clock.calls) == 1
    (tmp_path / "b").write_text("new\n")
    asker.clock.run()
    assert asker.latest() == [[4, b""], [0, b"new\n"]] and not asker.clock.calls
    assert asker.ask(files=[["a", 4, 0]]) == [[4, b""]]
    for _ in range(WAITING_MAX):
        assert asker.ask(files=[["a", 4, 0]], within_s=60) is None
    assert "wait for output of this node already" in asker.ask(files=[["a", 4, 0]], within_s=60)
    (tmp_path / "a").unlink()
    (tmp_path / "a").symlink_to("/etc/passwd")
    asker.clock.run()
    assert "no file of the log directory" in asker.latest()


@pytest.mark.parametrize("seed", range(20))
def test_the_last_lines(seed: int) -> None:
    chance = random.Random(seed)
    pieces = []
    for _ in range(chance.randrange(40)):
        if chance.random() < 0.4:
            pieces.append(marker("name" * chance.randrange(3)))
        else:
            pieces.append(b"x" * chance.choice((0, 1, 5, 65_530, 70_000)) + b"\n")
    text = b"".join(pieces) + b"end" * chance.randrange(2)
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith(MARK)]
    for count in range(45):
        start = tail_offset(lambda at, size: text[at : at + size], len(text), count, MARK)
        assert list(Cutter().cut(text[start:] + b"")) == [
            line.decode() for line in lines[len(lines) - min(count, len(lines)) :] if line.endswith(b"\n")
        ]


def test_a_line_without_an_end_is_given_out_in_parts() -> None:
    cutter = Cutter()
    found = [part for _ in range(3) for part in cutter.cut(b"x" * (PART_CHARS - 1))]
    assert [len(part) for part in found] == [2 * PART_CHARS - 2]
    assert [len(part) for part in cutter.cut(b"\n")] == [PART_CHARS]


def test_lines_in_pieces() -> None:
    text = marker("one") + "grüße\n".encode() + marker("two") + b"b\nc" + marker("one") + b"d"
    for size in range(1, len(text)):
        for name, wanted in (
            (None, ["grüße\n", "b\n", "c\n", "d"]),
            ("one", ["grüße\n", "d"]),
            ("two", ["b\n", "c\n"]),
        ):
            cutter = Cutter(name)
            found: list[str] = []
            for start in range(0, len(text), size):
                found += cutter.cut(text[start : start + size])
            assert found + list(cutter.cut(b"")) == wanted, (size, name)

"""HUB-2, row S2-20: the head is killed and started again, and the cluster goes on.

Real daemons: a head with a journal and one node beside it.  What is on the head's own node dies with it;
what is on the other node never stops.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import spoke
from spoke import errors
from spoke.cluster_utils import Cluster
from spoke.core import Journal
from spoke.experimental import internal_kv
from spoke.journal import InUse, JournalFile, facts_of

SOON_S = 30.0


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head with a journal and a node with resource "far"; this process is a driver at the head."""
    monkeypatch.setenv("SPOKE_RECOVER_S", "2")  # for those who do not come back
    cluster = Cluster(True, head_node_args={"num_cpus": 1, "state_dir": str(tmp_path / "state")})
    try:
        cluster.add_node(num_cpus=4, resources={"far": 8})
        spoke.init(address=cluster.address, log_to_driver=False)
        yield cluster
    finally:
        spoke.shutdown()
        cluster.shutdown()
    assert not (tmp_path / "state").exists(), "an orderly end leaves no journal"


def restart(cluster: Cluster, while_away: Callable[[], Any] = lambda: None) -> Any:
    """Kill the head with SIGKILL, do something, start it again."""
    assert cluster.head_node is not None
    cluster.head_node.kill(allow_graceful=False)
    found = while_away()
    cluster.restart_head()
    return found


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + SOON_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {SOON_S:g} s: {what}"
        time.sleep(0.02)
    return found


@spoke.remote(resources={"far": 1}, num_cpus=0)
class Counter:
    """Counts, and calls others."""

    def __init__(self) -> None:
        self.count = 0

    def add(self) -> int:
        self.count += 1
        return self.count

    def pid(self) -> int:
        return os.getpid()

    def drive(self, other: Any, path: str) -> int:
        """Call another actor without a pause until the file `path` is there."""
        calls = 0
        while not os.path.exists(path):
            calls += 1
            assert spoke.get(other.add.remote()) == calls
        return calls


def test_gangs_actors_and_names_are_there_and_calls_never_stopped(pair: Cluster, tmp_path: Path) -> None:
    named = Counter.options(name="kept", lifetime="detached").remote()
    mine, other = Counter.remote(), Counter.remote()
    pids = spoke.get([named.pid.remote(), mine.pid.remote()])
    spoke.get(named.add.remote())
    large = spoke.put(b"x" * 3_000_000)
    internal_kv._internal_kv_put("key", b"value")
    gang = spoke.gang_allocate(1, 2, {"far": 0.5})
    slots = repr(gang.slots)
    end = tmp_path / "end"
    driving = mine.drive.remote(other, str(end))

    def meanwhile() -> int:
        return sum(spoke.get(named.add.remote()) > 0 for _ in range(50))

    assert restart(pair, meanwhile) == 50  # HUB-1: no call needs the hub
    again = spoke.get_actor("kept")
    assert spoke.get(again.add.remote()) == 52
    end.touch()
    assert spoke.get(driving, timeout=SOON_S) > 0
    assert spoke.get([named.pid.remote(), mine.pid.remote()]) == pids
    assert internal_kv._internal_kv_get("key") == b"value"
    assert repr(gang.slots) == slots and gang.state == "CREATED"
    members = gang.launch(Counter)
    assert spoke.get([one.add.remote() for one in members]) == [1, 1]

    @spoke.remote
    def size(data: bytes) -> int:
        return len(data)

    assert spoke.get(size.remote(large), timeout=SOON_S) == 3_000_000
    assert gang.release(timeout=SOON_S)
    spoke.kill(named)
    del mine, other, members
    until(lambda: spoke.available_resources().get("far") == 8, "all is free")


def test_what_was_asked_while_the_hub_was_away_is_done(pair: Cluster) -> None:
    other = Counter.remote()
    spoke.get(other.add.remote())

    def ask() -> Any:
        fresh = Counter.options(name="late").remote  # a named one waits for the hub's answer
        plain = Counter.remote()
        spoke.kill(other)
        return fresh, plain, plain.add.remote()

    fresh, _plain, first = restart(pair, ask)
    assert spoke.get(first, timeout=SOON_S) == 1
    named = fresh()
    assert spoke.get(named.add.remote(), timeout=SOON_S) == 1
    with pytest.raises(errors.ActorDiedError, match="kill"):
        spoke.get(other.add.remote(), timeout=SOON_S)


def test_deaths_while_the_hub_was_away(pair: Cluster) -> None:
    """A worker's exit reaches those who wait, with its cause; an actor that may restart does."""
    again, gone = Counter.options(max_restarts=1).remote(), Counter.remote()
    pids = spoke.get([again.pid.remote(), gone.pid.remote()])

    def strike() -> None:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "the workers are dead")

    restart(pair, strike)
    with pytest.raises(errors.ActorDiedError, match="SIGKILL"):
        spoke.get(gone.add.remote(), timeout=SOON_S)

    def back() -> bool:
        try:
            return int(spoke.get(again.add.remote(), timeout=SOON_S)) > 0
        except errors.ActorUnavailableError:
            return False

    until(back, "the actor that may restart")
    assert spoke.get(again.pid.remote()) not in pids


OWNER = """
import sys, time, spoke
spoke.init(address=sys.argv[1], log_to_driver=False)
gang = spoke.gang_allocate(1, 4, {"far": 1})
class Member:
    def hi(self): return 1
spoke.get([one.hi.remote() for one in gang.launch(Member)])
print("ready", flush=True)
time.sleep(600)
"""


def owner_of_a_gang(cluster: Cluster) -> subprocess.Popen[str]:
    environment = {**os.environ, "SPOKE_TOKEN": cluster.token.decode()}
    command = [sys.executable, "-c", OWNER, str(cluster.address)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_an_owner_that_dies_while_the_hub_is_away_holds_nothing(pair: Cluster) -> None:
    """S2-14 across a restart: the ticket is held by a live connection, and there is none any more."""
    with owner_of_a_gang(pair) as process:
        assert spoke.available_resources()["far"] == 4

        def strike() -> None:
            process.kill()
            process.wait()

        restart(pair, strike)
    until(lambda: spoke.available_resources().get("far") == 8, "the dead owner's gang is released")
    assert [row["state"] for row in spoke.util.placement_group_table().values()] in ([], ["REMOVED"])


def test_an_orderly_end_of_the_head_ends_all(tmp_path: Path) -> None:
    cluster = Cluster(True, head_node_args={"num_cpus": 1, "state_dir": str(tmp_path / "state")})
    try:
        node = cluster.add_node(num_cpus=1)
        spoke.init(address=cluster.address, log_to_driver=False)
        assert cluster.head_node is not None
        cluster.head_node.kill(allow_graceful=True)
        until(lambda: not node.is_alive(), "the node ends with its head")
        with pytest.raises(errors.RaySystemError, match="the cluster ended"):
            spoke.get(spoke.put(1)), spoke.nodes()
    finally:
        spoke.shutdown()
        cluster.shutdown()
    assert not (tmp_path / "state").exists()


def test_the_head_is_restarted_by_its_command(tmp_path: Path) -> None:
    """`spoke start --head` again with the same state directory: same port, same token, same actors."""
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "SPOKE_TMPDIR": str(tmp_path / "tmp")}

    def cli(*arguments: str, check: bool = True) -> str:
        command = [sys.executable, "-m", "spoke.cli", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def run(code: str) -> str:
        command = [sys.executable, "-c", "import spoke; spoke.init('auto', namespace='n')\n" + code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    head = ("start", "--head", "--port", "0", "--num-cpus", "1", "--restarts", "0",
            "--state-dir", str(tmp_path / "state"))  # fmt: skip
    try:
        ready = cli(*head)
        address = ready.split("head of ")[1].split(" ")[0]
        cli("start", "--address", address, "--num-cpus", "2", "--resources", '{"far": 1}')
        run(
            "@spoke.remote(resources={'far': 1}, num_cpus=0)\n"
            "class Kept:\n"
            "    def pid(self):\n"
            "        import os\n"
            "        return os.getpid()\n"
            "a = Kept.options(name='kept', lifetime='detached').remote()\n"
            "open('%s', 'w').write(str(spoke.get(a.pid.remote())))" % (tmp_path / "pid")
        )
        assert "is that of a head that runs" in cli(*head, check=False)
        pid = int(ready.split("(pid ")[1].split(")")[0])
        os.kill(pid, signal.SIGKILL)
        again = cli(*head)
        assert f"head of {address} " in again
        found = run("print(spoke.get(spoke.get_actor('kept').pid.remote()))")
        assert found.strip() == (tmp_path / "pid").read_text()
    finally:
        cli("stop", check=False)
    assert not (tmp_path / "state").exists()


# -- the file


def test_records_come_back_in_order_and_forgotten_ones_do_not(tmp_path: Path) -> None:
    journal = JournalFile(str(tmp_path / "state"))
    journal.keep_facts(port=7, boot=0)
    journal.write([Journal("actor", b"1", {"n": 1}), Journal("actor", b"2", {"n": 2})])
    journal.write([Journal("actor", b"1", {"n": 3}), Journal("kv", b"k", [b"x", 1])])
    journal.write([Journal("kv", b"k", None)])
    with pytest.raises(InUse, match="a head that runs"):
        JournalFile(str(tmp_path / "state"))
    assert facts_of(str(tmp_path / "state")) == {}
    journal.close(forget=False)
    again = JournalFile(str(tmp_path / "state"))
    assert again.records() == [("actor", b"1", {"n": 3}), ("actor", b"2", {"n": 2})]
    assert again.facts() == {"port": 7, "boot": 0}
    again.close(forget=True)
    assert not (tmp_path / "state").exists()


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (state / "journal.sqlite3").write_bytes(b"something else" * 1000)
    with pytest.raises(OSError, match="cannot be used"):
        JournalFile(str(state))

"""A head that is killed is started again by its supervisor, so often and no more; `spoke stop` ends both."""

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

from tests.test_cli import Shell, gone

LIMIT_S = 60.0


class Head(Shell):
    """A head under a supervisor."""

    def __init__(self, root: Path, *options: str) -> None:
        super().__init__(root)
        self.state = root / "state"
        line = self.done(
            "start", "--head", "--port", "0", "--num-cpus", "1", "--state-dir", str(self.state), *options
        )
        self.address = line.split("head of ")[1].split(" ")[0]
        (self.record,) = self.records()
        assert f"(pid {self.daemon})" in line
        self.supervisor: int = self.record["supervisor"][0]

    @property
    def daemon(self) -> int:
        return int(self.record["pid"])

    def kill(self) -> None:
        """SIGKILL the daemon and wait for its next life."""
        before = self.daemon
        os.kill(before, signal.SIGKILL)
        until(lambda: [one for one in self.records() if one["pid"] != before])
        (self.record,) = [one for one in self.records() if one["pid"] != before]

    def drive(self, code: str) -> str:
        """Run a driver."""
        program = f"import spoke; spoke.init('{self.address}', namespace='n', log_to_driver=False)\n{code}"
        token = Path(self.record["token_file"]).read_text()
        done = subprocess.run(
            [sys.executable, "-c", program], env={**self.environment, "SPOKE_TOKEN": token},
            capture_output=True, text=True, timeout=90,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def left(self) -> list[str]:
        """Files of the cluster that are still there."""
        roots = [self.root / "tmp", self.runtime, self.state]
        return [str(path) for root in roots for path in root.rglob("*") if path.is_file()]


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Head]]:
    made: list[Head] = []

    def make(*options: str) -> Head:
        made.append(Head(tmp_path, *options))
        return made[0]

    yield make
    for head in made:
        head.run("stop", "--force")


def test_killed_twice_it_comes_back_with_what_it_knew(start: Callable[..., Head]) -> None:
    head = start()
    head.drive("spoke.util.placement_group([{'CPU': 1}], name='kept', lifetime='detached').wait(30)")
    for _ in range(2):
        head.kill()
        assert head.record["address"] == head.address
        assert head.record["supervisor"][0] == head.supervisor, "the same supervisor"
        found = head.drive("g = spoke.util.get_placement_group('kept'); print(g.wait(60), g.bundle_specs)")
        assert found == "True [{'CPU': 1.0}]"
    log = next(Path(head.record["log_dir"]).glob("daemon-*.log")).read_text()
    assert log.count("the one before was killed by signal 9") == 2
    assert "stopped 1 daemon(s)" in head.done("stop")
    until(lambda: gone(head.daemon) and gone(head.supervisor))
    assert not head.left(), "journal, records, token and logs of all lives are gone"


def test_it_gives_up_at_the_limit(start: Callable[..., Head]) -> None:
    head = start("--restarts", "1")
    head.kill()
    assert not gone(head.supervisor)
    os.kill(head.daemon, signal.SIGKILL)
    until(lambda: gone(head.supervisor))
    assert head.done("stop") == "nothing to stop\n"
    again = head.done("start", "--head", "--port", "0", "--state-dir", str(head.state))
    assert f"head of {head.address} " in again, "by hand it comes back as ever"


def test_stop_by_force_leaves_no_next_life(start: Callable[..., Head]) -> None:
    head = start()
    assert "1 by force" in head.done("stop", "--force")
    until(lambda: gone(head.daemon) and gone(head.supervisor))
    assert not head.records()
    assert not (head.state / "journal.sqlite3").exists(), "a cluster that was stopped has ended"


@pytest.mark.parametrize("whom", ["daemon", "supervisor"])
def test_an_orderly_end_of_either_is_the_end_of_both(start: Callable[..., Head], whom: str) -> None:
    head = start()
    os.kill(getattr(head, whom), signal.SIGTERM)
    until(lambda: gone(head.daemon) and gone(head.supervisor))
    assert not head.left()


def test_the_supervisors_death_takes_nothing_along(start: Callable[..., Head]) -> None:
    head = start()
    os.kill(head.supervisor, signal.SIGKILL)
    until(lambda: gone(head.supervisor))
    assert head.drive("print(spoke.get(spoke.put(7)))") == "7"
    assert "stopped 1 daemon(s)" in head.done("stop")
    assert gone(head.daemon) and not head.left()


def test_without_a_journal_or_by_request_there_is_none(tmp_path: Path, start: Callable[..., Head]) -> None:
    shell = Shell(tmp_path)
    try:
        shell.done("start", "--head", "--port", "0")
        (record,) = shell.records()
        assert record["supervisor"] is None
        os.kill(record["pid"], signal.SIGKILL)
    finally:
        shell.run("stop", "--force")


def test_it_costs_little(start: Callable[..., Head]) -> None:
    """An idle cluster is to stay under 60 MB, the supervisor included."""
    head = start()
    pages = int(Path(f"/proc/{head.supervisor}/statm").read_text().split()[1])
    shared = int(Path(f"/proc/{head.supervisor}/statm").read_text().split()[2])
    assert (pages - shared) * os.sysconf("SC_PAGE_SIZE") < 6 << 20


def test_a_head_that_cannot_start_is_one_line_and_no_process(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        begun = time.monotonic()
        assert "cannot listen" in shell.fails(
            "start", "--head", "--port", port, "--state-dir", str(tmp_path / "state")
        )
        assert time.monotonic() - begun < LIMIT_S
    assert not shell.records()

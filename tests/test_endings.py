"""How processes ended, in the state API; how long the actors of a job live that says so."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spoke.job_config import JobConfig
from spoke.util.state import list_workers
from tests.conformance.kit import eventually


class Actor:
    def __init__(self, note: str | None = None) -> None:
        if note is not None:
            Path(note).write_text(str(os.getpid()), encoding="utf-8")
            raise ValueError("no")

    def pid(self) -> int:
        return os.getpid()

    def leave(self, code: int | None) -> None:
        if code is None:
            from spoke.actor import exit_actor

            exit_actor()
        sys.exit(code)


def _ended(pid: int) -> tuple[Any, str]:
    found: list[Any] = []

    def look() -> bool:
        found[:] = [
            row for row in list_workers(detail=True, limit=1000) if row.pid == pid and not row.is_alive
        ]
        return bool(found)

    assert eventually(look)
    return found[0].exit_type, found[0].exit_detail


@pytest.mark.parametrize(
    ("end", "kind", "words"),
    [
        (lambda spoke, a, pid: a.leave.remote(4), "SYSTEM_ERROR", "exit code 4"),
        (lambda spoke, a, pid: a.leave.remote(0), "INTENDED_USER_EXIT", "exit code 0"),
        (lambda spoke, a, pid: a.leave.remote(None), "INTENDED_USER_EXIT", "exit_actor"),
        (lambda spoke, a, pid: spoke.kill(a), "INTENDED_SYSTEM_EXIT", "ray.kill"),
        (lambda spoke, a, pid: os.kill(pid, signal.SIGKILL), "SYSTEM_ERROR", "OOM"),
    ],
    ids=["code", "no_error", "exit_actor", "kill", "by_force"],
)
def test_the_end_of_an_actor(
    spoke_cluster: Any, end: Callable[[Any, Any, int], None], kind: str, words: str
) -> None:
    actor = spoke_cluster.remote(num_cpus=0)(Actor).remote()
    pid = spoke_cluster.get(actor.pid.remote())
    end(spoke_cluster, actor, pid)
    found, detail = _ended(pid)
    assert found == kind and words in detail


def test_the_end_by_a_constructor(spoke_cluster: Any, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    actor = spoke_cluster.remote(Actor).remote(str(note))
    with pytest.raises(spoke_cluster.exceptions.ActorDiedError):
        spoke_cluster.get(actor.pid.remote())
    found, detail = _ended(int(note.read_text(encoding="utf-8")))
    assert found == "USER_ERROR" and "exception in the initialization method" in detail and "no" in detail


def test_the_end_by_a_cancel(spoke_cluster: Any, tmp_path: Path) -> None:
    note = tmp_path / "pid"

    def long(path: str) -> None:
        Path(path).write_text(str(os.getpid()), encoding="utf-8")
        time.sleep(600)

    ref = spoke_cluster.remote(long).remote(str(note))
    assert eventually(lambda: note.exists() and note.read_text(encoding="utf-8"))
    spoke_cluster.cancel(ref, force=True)
    with pytest.raises(spoke_cluster.exceptions.TaskCancelledError):
        spoke_cluster.get(ref)
    pid = int(note.read_text(encoding="utf-8"))
    assert eventually(lambda: _ended(pid)[0] == "INTENDED_USER_EXIT")
    assert "ray.cancel" in _ended(pid)[1]


def test_the_end_by_a_removed_group(spoke_cluster: Any) -> None:
    group = spoke_cluster.util.placement_group([{"CPU": 1}])
    options = {"placement_group": group, "num_cpus": 1}
    actor = spoke_cluster.remote(Actor).options(**options).remote()
    pid = spoke_cluster.get(actor.pid.remote())
    spoke_cluster.util.remove_placement_group(group)
    found, detail = _ended(pid)
    assert found == "INTENDED_SYSTEM_EXIT" and "placement group was removed" in detail


@pytest.mark.parametrize(
    ("said", "lives"), [(None, True), ("detached", True), ("non_detached", False)], ids=str
)
def test_actors_of_a_detaching_job(fresh_cluster: Any, said: str | None, lives: bool) -> None:
    spoke = fresh_cluster(job_config=JobConfig(default_actor_lifetime="detached"))

    class Owner:
        def make(self, lifetime: str | None) -> Any:
            options = {"lifetime": lifetime} if lifetime else {}
            self.child = spoke.remote(num_cpus=0)(Actor).options(**options).remote()
            spoke.get(self.child.pid.remote())
            return self.child

    owner = spoke.remote(Owner).remote()
    child = spoke.get(owner.make.remote(said))
    spoke.kill(owner)
    if lives:
        with pytest.raises(spoke.exceptions.ActorDiedError):
            spoke.get(owner.make.remote(said))
        assert spoke.get(child.pid.remote())
    else:
        with pytest.raises(spoke.exceptions.ActorDiedError):
            while True:
                spoke.get(child.pid.remote())

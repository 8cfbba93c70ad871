"""Gangs under fire: owners, members, agents and the hub are killed at random moments; nothing is left.

Owners are real drivers that allocate, launch and release gangs without end; this process strikes.  After
it all, every resource is free again and no process of any gang lives.
"""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import spoke
from spoke.cluster_utils import Cluster, Node

NODES = 4
CPUS = 3
OWNERS = 3
SETTLE_S = 60.0

OWNER = """
import os, random, sys, time
import spoke
from spoke.exceptions import RayError
from spoke import errors

spoke.init(address=sys.argv[1], log_to_driver=False)
rng = random.Random(int(sys.argv[2]))

class Member:
    def __init__(self, slow):
        time.sleep(slow)
    def pid(self):
        return os.getpid()

def one():
    nodes, ranks = rng.choice([(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)])
    policy = {"restart": rng.choice(["none", "gang", "member"]), "max_restarts": rng.choice([0, 1, -1])}
    gang = spoke.gang_allocate(nodes, ranks, {"CPU": 1}, timeout=20, launch_timeout=30, **policy)
    print("gang", gang.id, flush=True)
    handles = gang.launch(Member, rng.choice([0, 0, 0.2]))
    if rng.random() < 0.2:
        return gang.release()  # during the launch
    gang.wait_ready(timeout=20)
    for pid in spoke.get([one.pid.remote() for one in gang.handles], timeout=20):
        print("member", pid, flush=True)
    time.sleep(rng.uniform(0, 0.3))
    gang.release()
    gang.release()

while True:
    try:
        one()
    except (RayError, ValueError, RuntimeError) as error:
        print("error", type(error).__name__, str(error)[:200].replace(chr(10), " "), flush=True)
        if spoke._client_closed():
            sys.exit(1)
        time.sleep(0.05)
"""


class Owner:
    """A driver that makes gangs, and what it said."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        environment = {**os.environ, "SPOKE_TOKEN": cluster.token.decode()}
        script = OWNER.replace("spoke._client_closed()", "__import__('spoke.current').current.client.closed")
        command = [sys.executable, "-c", script, str(cluster.address), str(seed)]
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self._rest = b""

    def lines(self) -> list[list[str]]:
        """What it said since the last look, by words."""
        assert self.process.stdout is not None
        data = self.process.stdout.read() or b""
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [line.decode().split() for line in whole if line]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Soak:
    """One run: `gangs` gangs under random strikes, from a seed."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.cluster = cluster
        self.rng = random.Random(seed)
        self.owners = [Owner(cluster, seed * 1000 + index) for index in range(OWNERS)]
        self.made = OWNERS
        self.gangs: list[str] = []
        self.members: list[int] = []
        self.errors: list[str] = []
        self.strikes: dict[str, int] = {}

    def listen(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            pipes: list[Any] = [owner.process.stdout for owner in self.owners]
            select.select(pipes, [], [], min(left, 0.05))
            for index, owner in enumerate(self.owners):
                for words in owner.lines():
                    if words[0] == "gang":
                        self.gangs.append(words[1])
                    elif words[0] == "member":
                        self.members.append(int(words[1]))
                    else:
                        self.errors.append(" ".join(words[1:]))
                if owner.process.poll() is not None:  # its own node was killed
                    owner.kill()
                    self.replace(index)
            time.sleep(0.01)

    def replace(self, index: int) -> None:
        self.made += 1
        self.owners[index] = Owner(self.cluster, self.made)

    def strike(self) -> None:
        what = self.rng.choices(["owner", "member", "agent", "hub"], [4, 8, 2, 1])[0]
        self.strikes[what] = self.strikes.get(what, 0) + 1
        if what == "owner":
            index = self.rng.randrange(OWNERS)
            self.owners[index].kill()
            self.replace(index)
        elif what == "member" and self.members:
            try:
                os.kill(self.rng.choice(self.members[-6:]), signal.SIGKILL)
            except ProcessLookupError:
                pass  # it was released meanwhile
        elif what == "agent":
            node: Node = self.rng.choice(self.cluster.worker_nodes)
            self.cluster.remove_node(node, allow_graceful=False)
            self.cluster.add_node(num_cpus=CPUS, wait=False)
        elif what == "hub":
            assert self.cluster.head_node is not None
            self.cluster.head_node.kill(allow_graceful=False)
            self.listen(self.rng.uniform(0.0, 0.5))
            self.cluster.restart_head()

    def run(self, gangs: int) -> None:
        while len(self.gangs) < gangs:
            self.listen(self.rng.uniform(0.1, 0.8))
            self.strike()

    def end(self) -> None:
        for owner in self.owners:
            owner.kill()


def all_free() -> str:
    """Empty, or what is not free."""
    whole, free = spoke.cluster_resources(), spoke.available_resources()
    if whole != free or whole.get("CPU") != NODES * CPUS:
        return f"{free} of {whole}"
    return ""


def soak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gangs: int, seed: int) -> Soak:
    monkeypatch.setenv("SPOKE_RECOVER_S", "2")
    cluster = Cluster(True, head_node_args={"num_cpus": CPUS, "state_dir": str(tmp_path / "state")})
    run = None
    try:
        for _ in range(NODES - 1):
            cluster.add_node(num_cpus=CPUS)
        run = Soak(cluster, seed)
        run.run(gangs)
        run.end()
        spoke.init(address=cluster.address, log_to_driver=False)
        deadline = time.monotonic() + SETTLE_S
        while left := all_free():
            assert time.monotonic() < deadline, f"not free: {left}; {spoke.util.placement_group_table()}"
            time.sleep(0.1)
        assert not [pid for pid in run.members if _is_worker(pid)], "a member outlived its gang"
        tickets = spoke.util.placement_group_table().values()
        assert all(row["state"] == "REMOVED" for row in tickets)
        print(f"{len(run.gangs)} gangs, {len(run.members)} members, {run.strikes}, {len(run.errors)} errors")
        return run
    finally:
        if run is not None:
            run.end()
        spoke.shutdown()
        cluster.shutdown()


def _is_worker(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        return b"spoke" in command and f"SPOKE_TEST_RUN={os.environ['SPOKE_TEST_RUN']}".encode() in (
            Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        )
    except OSError:
        return False


@pytest.mark.timeout_s(300)
def test_twenty_gangs_under_fire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = soak(tmp_path, monkeypatch, gangs=20, seed=7)
    assert len(run.gangs) >= 20 and run.members


@pytest.mark.slow
@pytest.mark.timeout_s(900)
def test_two_hundred_gangs_under_fire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = soak(tmp_path, monkeypatch, gangs=200, seed=11)
    assert len(run.gangs) >= 200 and set(run.strikes) == {"owner", "member", "agent", "hub"}

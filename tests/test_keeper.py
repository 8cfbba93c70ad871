"""What workers and jobs started ends with their agent, whatever ended it (PROC-1)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spoke import orphans
from spoke.keeper import Keeper

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SLEEP = ["sleep", "600"]

_DRIVER = """
import os, subprocess, sys, time
import spoke
from spoke import jobs
SLEEP = ["sleep", "600"]

def family():
    # In this one's group; in a session of its own; in one and without an environment; forked, not executed.
    plain, escaped = subprocess.Popen(SLEEP), subprocess.Popen(SLEEP, start_new_session=True)
    hidden = subprocess.Popen(["/bin/sleep", "600"], start_new_session=True, env={})
    forked = os.fork()
    if forked == 0:
        os.setsid()
        time.sleep(600)
    return [plain.pid, escaped.pid, hidden.pid, forked]

@spoke.remote
class Actor:
    def start(self):
        return [os.getpid(), *family()]

def job(path):
    with open(path + ".part", "w") as file:
        file.write(" ".join(map(str, [os.getpid(), *family()])))
    os.rename(path + ".part", path)
    time.sleep(600)

spoke.init(num_cpus=2, log_to_driver=False)
actor = Actor.remote()
pids = spoke.get(actor.start.remote())
line = "sleep 600 & env -i setsid sleep 600 & echo $$ $! > {0}.part; mv {0}.part {0}; wait"
for index, entry in enumerate((job, line)):
    path = f"{sys.argv[1]}/{index}"
    if callable(entry):
        jobs.submit(entry, path, resources={"CPU": 0.1})
    else:
        jobs.submit(entry.format(path), resources={"CPU": 0.1})
    while not os.path.exists(path):
        time.sleep(0.01)
    pids += map(int, open(path).read().split())
print(os.popen(f"pgrep -P {os.getpid()} spoke-daemon").read().strip(), *pids, flush=True)
sys.stdin.read()
"""


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 30
    while not all(map(gone, pids)):
        assert time.monotonic() < deadline, [pid for pid in pids if not gone(pid)]
        time.sleep(0.02)


@pytest.mark.parametrize("victim", ["agent", "driver"])
def test_PROC_1_nothing_outlives_an_agent_that_is_killed(victim: str, tmp_path: Path) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", _DRIVER, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": ROOT},
    )  # fmt: skip
    with driver:
        assert driver.stdout is not None
        agent, *pids = map(int, driver.stdout.readline().split())
        assert len(pids) == 12 and not any(map(gone, [agent, *pids]))
        time.sleep(0.5)  # the keeper is started a moment after the agent
        os.kill(agent if victim == "agent" else driver.pid, signal.SIGKILL)
        wait_until_gone([agent, *pids])
        driver.communicate(timeout=60)  # one that lives ends in order, and removes the session's files


def test_the_keeper_kills_the_groups_of_its_table_and_what_carries_the_tag() -> None:
    def start(**more: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(SLEEP, start_new_session=True, env={"PATH": os.environ["PATH"], **more})

    tag = os.urandom(8).hex()
    ended, kept, reused = start(), start(), start()
    tagged, alike = start(**{orphans.AGENT_VARIABLE: tag}), start(**{orphans.AGENT_VARIABLE: "0" * 16})
    marked, unmarked = start(), start()
    orphans.mark(tag, marked.pid, "some job")
    orphans.mark(tag, unmarked.pid)
    orphans.mark("", unmarked.pid)
    keeper = Keeper(tag)
    try:
        for one in (ended, kept):
            keeper.add(one.pid)
        keeper.start()
        keeper.remove(ended.pid)
        keeper.add(reused.pid)  # in the place of the one that ended
        pipe, keeper._pipe = keeper._pipe, os.open(os.devnull, os.O_RDONLY)
        os.close(pipe)  # as the end of the agent does
        for one in (kept, reused, tagged, marked):
            assert one.wait(30) == -signal.SIGKILL
        wait_until_gone([keeper.pid])
        assert ended.poll() is None and alike.poll() is None and unmarked.poll() is None
    finally:
        for one in (ended, kept, reused, tagged, alike, marked, unmarked):
            one.kill()
            one.wait()
        keeper.close()


def test_the_sweep_takes_what_is_marked_for_who_is_gone_and_not_for_who_comes() -> None:
    """A worker marks itself before its agent has heard that it was forked."""
    tag = os.urandom(8).hex()
    other = subprocess.Popen(SLEEP, start_new_session=True, env={})
    one = subprocess.Popen(SLEEP, start_new_session=True, env={})
    try:
        orphans.mark(tag, one.pid, "ab" * 28)
        orphans.mark(tag, other.pid)
        orphans.sweep({}, tag=tag, coming=["ab" * 28])
        orphans.sweep({1: bytes.fromhex("ab" * 28)}, tag=tag)
        orphans.sweep({}, tag="0" * 16)
        assert one.poll() is None
        orphans.sweep({}, tag=tag)
        assert one.wait(30) == -signal.SIGKILL and other.poll() is None
    finally:
        for left in (one, other):
            left.kill()
            left.wait()


def test_a_keeper_that_is_closed_is_gone_and_has_killed_nothing() -> None:
    one = subprocess.Popen(SLEEP, start_new_session=True)
    keeper = Keeper()
    try:
        keeper.start()
        pid = keeper.pid
        assert not gone(pid)
        keeper.add(one.pid)
        keeper.close()
        assert gone(pid) and one.poll() is None
    finally:
        one.kill()
        one.wait()


@pytest.mark.usefixtures("spoke_cluster")
def test_what_an_actor_hid_from_its_environment_ends_with_it() -> None:
    import spoke

    @spoke.remote(num_cpus=0)
    class Hiding:
        def hide(self) -> int:
            one = subprocess.Popen(["/bin/sleep", "600"], start_new_session=True, env={})
            return one.pid

    one, other = Hiding.remote(), Hiding.remote()
    hidden, kept = spoke.get([one.hide.remote(), other.hide.remote()])
    spoke.kill(one)
    wait_until_gone([hidden])
    assert not gone(kept), "it is another actor's, and that one lives"
    spoke.kill(other)
    wait_until_gone([kept])

"""``spoke.why`` and ``spoke why``: what an object, an actor or a gang waits for, or does, and since when."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spoke import wire
from spoke.core.inquiries import GIVE_UP_S
from tests.hub_harness import Harness, one_node

LIMIT_S = 60.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    import spoke

    spoke.init(num_cpus=2, log_to_driver=False)
    yield spoke
    spoke.shutdown()


def until(spoke: Any, of: Any, *parts: str) -> str:
    """Ask until the answer has all these parts."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        text = str(spoke.why(of))
        if all(re.search(part, text) for part in parts):
            return text
        assert time.monotonic() < deadline, text
        time.sleep(0.05)


def until_exists(path: str) -> str:
    """Stay until a file is there: what a task does while somebody looks at it."""
    while not Path(path).exists():
        time.sleep(0.01)
    return path


class Holder:
    """An actor that stays where it is told to."""

    def __init__(self, path: str = "") -> None:
        if path:
            until_exists(path)

    def stay(self, path: str) -> str:
        return until_exists(path)

    def start(self, task: Any, path: str) -> list[Any]:
        return [task.remote(path)]


class AsyncHolder:
    """The same in an event loop."""

    async def stay(self, path: str) -> None:
        import asyncio

        while not Path(path).exists():
            await asyncio.sleep(0.01)


PROCESS = r"process \d+ on node [0-9a-f]{8} \("


def test_a_task_that_runs_queues_or_waits_for_arguments(cluster: Any, tmp_path: Path) -> None:
    spoke, go = cluster, str(tmp_path / "go")
    stay = spoke.remote(until_exists)
    running = [stay.remote(go) for _ in range(2)]
    for one in running:
        until(spoke, one, r"^task until_exists was sent to a worker: " + PROCESS,
              r"until_exists runs for \d+\.\d s, now at .*test_why.py:\d+ in until_exists")  # fmt: skip
    queued = stay.remote(go)
    until(spoke, queued, r"^task until_exists waits", r"lacks \{CPU: 1\}; held by tasks of driver \d+")
    join = spoke.remote(lambda first, *, last: (first, last)).remote(running[0], last=queued)
    text = until(
        spoke, join, "waits for 2 arguments", rf"argument 0 {running[0].hex()}: task until_exists was"
    )
    assert f"argument last= {queued.hex()}: task until_exists waits" in text
    Path(go).touch()
    assert spoke.get(join, timeout=LIMIT_S) == (go, go)
    assert spoke.why(join) == "its value is there"


def test_a_failure_a_put_and_a_cancelled_one(cluster: Any, tmp_path: Path) -> None:
    spoke = cluster

    def fail() -> None:
        raise KeyError("x")

    failed = spoke.remote(fail).remote()
    spoke.wait([failed], timeout=LIMIT_S)
    assert spoke.why(failed) == "it is there: an exception that user code raised"
    assert spoke.why(spoke.put(1)) == "its value is there"
    never = spoke.remote(until_exists).options(num_cpus=64).remote(str(tmp_path))
    until(spoke, never, "No node can ever hold {CPU: 64}")
    spoke.cancel(never)
    assert "cancelled" in spoke.why(never)


def test_a_constructor_a_call_and_a_call_behind_it(cluster: Any, tmp_path: Path) -> None:
    spoke, born, go = cluster, str(tmp_path / "born"), str(tmp_path / "go")
    actor = spoke.remote(Holder).options(num_cpus=0).remote(born)
    call, second = actor.stay.remote(go), actor.stay.remote(go)
    until(spoke, actor, r"^the actor is STARTING for \d", PROCESS, "the constructor runs at .*test_why.py:")
    until(
        spoke,
        call,
        "call stay\\(\\) was sent to actor Holder",
        "waits there until the constructor has returned",
    )
    Path(born).touch()
    until(spoke, call, "which is ALIVE", r"Holder\.stay runs for \d+\.\d s, now at .*test_why.py:\d+")
    until(spoke, second, "it waits there behind 0 others, while Holder.stay runs")
    until(spoke, actor, "^the actor is ALIVE", "Holder.stay runs", "; 1 calls wait$")
    Path(go).touch()
    spoke.get([call, second], timeout=LIMIT_S)
    until(spoke, actor, "it runs nothing")
    spoke.kill(actor)
    until(spoke, actor, "^the actor is DEAD: it was killed")


def test_an_async_actor(cluster: Any, tmp_path: Path) -> None:
    spoke, go = cluster, str(tmp_path / "go")
    actor = spoke.remote(AsyncHolder).options(num_cpus=0).remote()
    calls = [actor.stay.remote(go) for _ in range(3)]
    for call in calls:
        until(spoke, call, r"AsyncHolder\.stay runs for \d+\.\d s, now at ")
    Path(go).touch()
    spoke.get(calls, timeout=LIMIT_S)


def test_an_actor_that_waits_for_its_arguments(cluster: Any, tmp_path: Path) -> None:
    spoke, go = cluster, str(tmp_path / "go")
    path = spoke.remote(until_exists).remote(go)
    actor = spoke.remote(Holder).options(num_cpus=0).remote(path)
    text = until(spoke, actor, "not created yet: its constructor waits for arguments", "task until_exists")
    assert path.hex() in text
    until(spoke, actor.stay.remote(go), "not created yet: its constructor waits for arguments", path.hex())
    Path(go).touch()
    until(spoke, actor, "ALIVE")


def test_an_object_of_another_process_and_the_command(cluster: Any, tmp_path: Path) -> None:
    spoke, go = cluster, str(tmp_path / "go")
    actor = spoke.remote(Holder).options(num_cpus=0).remote()
    (ref,) = spoke.get(actor.start.remote(spoke.remote(until_exists), go), timeout=LIMIT_S)
    owned = r"^owned by worker " + PROCESS + r".*: task until_exists was sent to a worker: " + PROCESS
    until(spoke, ref, owned, "until_exists runs for")
    until(spoke, ref.hex(), owned)
    assert re.search(rf"^{ref.hex()}: owned by worker ", command(spoke, ref.hex()))
    assert "the actor is ALIVE" in command(spoke, actor._actor_id.hex()[:12])
    assert "its owner is gone, or it is no id" in command(spoke, "ab" * 28, code=1)
    Path(go).touch()
    assert spoke.get(ref, timeout=LIMIT_S) == go


def command(spoke: Any, identity: str, code: int = 0) -> str:
    address = spoke.get_runtime_context().gcs_address
    done = subprocess.run(
        [sys.executable, "-m", "spoke.cli", "why", identity], capture_output=True, text=True, timeout=LIMIT_S,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "SPOKE_ADDRESS": address},
    )  # fmt: skip
    assert done.returncode == code, done
    return done.stdout if code == 0 else done.stderr


def test_a_gang_whose_ranks_are_not_ready(cluster: Any, tmp_path: Path) -> None:
    spoke, born = cluster, str(tmp_path / "born")
    with spoke.gang_allocate(1, 2) as gang:
        assert spoke.why(gang) == "the placement group is CREATED"
        gang.launch(Holder, born)
        until(spoke, gang, r"slot 0: actor Holder [0-9a-f]{12}.* for \d", "slot 1: ")
        until(spoke, gang.handles[1], "the constructor runs at")
        Path(born).touch()
        gang.wait_ready(LIMIT_S)
        assert spoke.why(gang.id) == "the placement group is CREATED"


def test_a_stopped_process_is_named(cluster: Any) -> None:
    """A process that cannot answer is an answer, too."""
    spoke = cluster
    actor = spoke.remote(Holder).options(num_cpus=0).remote()
    pid = spoke.get(actor.__ray_call__.remote(lambda self: os.getpid()), timeout=LIMIT_S)
    until(spoke, actor, "ALIVE")  # the hub has heard it, too: the answer may be here before
    os.kill(pid, signal.SIGSTOP)
    try:
        assert re.search(
            rf"ALIVE.* process {pid} .*it has not answered for {GIVE_UP_S:g} s", spoke.why(actor)
        )
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("wrong", ["", "xyz", "ab", "ab" * 20])
def test_what_is_no_id_is_refused(cluster: Any, wrong: str) -> None:
    with pytest.raises(ValueError, match="is not the hexadecimal id"):
        cluster.why(wrong)


def test_what_is_neither_is_refused(cluster: Any) -> None:
    with pytest.raises(
        TypeError, match=r"why\(\) takes a ref, actor handle, gang or placement group, not int"
    ):
        cluster.why(3)


# -- the hub's part


def asked(hub: Harness, driver: bytes, name: bytes, **args: Any) -> None:
    hub.say(driver, wire.REQUEST, 5, "explain", {"id": name, **args})


@pytest.fixture
def two() -> tuple[Harness, bytes, bytes, Callable[[], list[Any]]]:
    """A hub, an asker, a process that made objects, and the asker's answers."""
    hub, node, asker = one_node()
    other = hub.driver("other", node, calls=b"p" * 16)
    return hub, asker, other, lambda: [message[3] or message[2] for message in hub.take(asker, wire.RESPONSE)]


def test_a_question_goes_to_the_owner_and_back(two: Any) -> None:
    hub, asker, other, answers = two
    asked(hub, asker, b"p" * 28)
    ((_, number, name),) = hub.take(other, wire.EXPLAIN)
    assert name == b"p" * 28 and not answers()
    hub.say(asker, wire.REQUEST, 0, "explained", {"number": number, "text": "forged"})
    hub.say(other, wire.REQUEST, 0, "explained", {"number": number, "text": "it is on its way"})
    hub.say(other, wire.REQUEST, 0, "explained", {"number": number, "text": "twice"})
    found = [answer for answer in answers() if answer is not None]
    assert len(found) == 1 and found[0].endswith(": it is on its way")


def test_who_is_silent_or_ends_is_named(two: Any) -> None:
    hub, asker, other, answers = two
    node = next(iter(hub.hub.state.nodes))
    asked(hub, asker, b"p" * 28)
    hub.pass_time(GIVE_UP_S + 2, node)
    assert ["it has not answered for" in one for one in answers()] == [True]
    asked(hub, asker, b"p" * 28)
    hub.lose(other)
    assert ["it ended just now" in one for one in answers()] == [True]
    asked(hub, asker, b"p" * 28)
    assert answers()[0][0] == "ValueError"
    asked(hub, asker, b"c" * 24, worker=other)
    assert "its process is gone" in answers()[0]


def test_an_asker_that_is_gone_is_forgotten(two: Any) -> None:
    hub, asker, _other, _ = two
    asked(hub, asker, b"p" * 28)
    hub.lose(asker)
    assert not hub.hub.inquiries._open

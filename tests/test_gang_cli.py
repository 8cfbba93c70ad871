"""``spoke tickets``, ``obits``, ``why`` and ``logs`` on a cluster with a gang that lost a rank."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest


class Rank:
    """A rank that prints."""

    def __init__(self) -> None:
        print(f"hello from rank {os.environ['RANK']}", flush=True)
        print("a warning", file=sys.stderr, flush=True)

    def pid(self) -> int:
        return os.getpid()


def cli(*arguments: str, code: int = 0) -> str:
    import spoke

    address = spoke.get_runtime_context().gcs_address
    done = subprocess.run(
        [sys.executable, "-m", "spoke.cli", *arguments], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "SPOKE_ADDRESS": address},
    )  # fmt: skip
    assert done.returncode == code, done
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def gang() -> Iterator[Any]:
    import spoke

    spoke.init(num_cpus=4, num_gpus=2, log_to_driver=False)
    with spoke.gang_allocate(1, 2, {"CPU": 1, "GPU": 1}, name="tp", restart="gang") as made:
        made.launch(Rank)
        made.wait_ready(20)
        os.kill(spoke.get(made.handles[0].pid.remote()), signal.SIGKILL)
        while made.incarnation == 0:
            time.sleep(0.01)
        made.wait_ready(20)
        yield made
    spoke.shutdown()


def test_tickets(gang: Any) -> None:
    text = cli("tickets")
    assert f"{gang.id} 'tp': gang, restart=gang, 2 slots, STRICT_PACK, CREATED" in text
    assert "incarnation 1, restarts 1" in text and "1: CPU 1, GPU 1 on node" in text and "GPUs 1" in text
    row = json.loads(cli("tickets", "--json"))[0]
    assert row["group_id"] == gang.id and row["gpu_ids"] == [[0], [1]] and row["lost"][0] == 0


def test_obits(gang: Any) -> None:
    lines = cli("obits").splitlines()
    assert any("actor Rank rank 0" in line and "SIGKILL" in line for line in lines), lines
    assert any("actor Rank rank 1" in line and "rank 0 of its gang" in line for line in lines), lines
    assert "    | a warning" in lines
    rows = json.loads(cli("obits", "--json"))
    assert {row["rank"] for row in rows if row["what"] == "actor"} == {0, 1}


def test_every_death_leaves_one_record_with_memory_and_last_call(gang: Any) -> None:
    """Of an actor for good, of one that restarts, of a task's worker: each once, and the caller hears it."""
    import spoke

    @spoke.remote(num_cpus=0)
    class Doomed:
        def die(self) -> None:
            print("last words", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)

        def live(self) -> int:
            return 1

    @spoke.remote(num_cpus=0, max_retries=0)
    def doomed_task() -> None:
        os._exit(7)

    final, again = Doomed.remote(), Doomed.options(max_restarts=1).remote()
    with pytest.raises(spoke.exceptions.ActorDiedError) as caught:
        spoke.get(final.die.remote(), timeout=30)
    for part in ("SIGSEGV", "MiB of memory", "last call was die()", "last words"):
        assert part in str(caught.value)
    with pytest.raises(spoke.exceptions.RayActorError, match="SIGSEGV"):
        spoke.get(again.die.remote(), timeout=30)
    with pytest.raises(spoke.exceptions.WorkerCrashedError, match=r"doomed_task.*exit code 7"):
        spoke.get(doomed_task.remote(), timeout=30)
    deadline = time.monotonic() + 30
    while True:
        rows = json.loads(cli("obits", "--json", "-n", "50"))
        mine = [row for row in rows if "Doomed" in row["name"] or row["what"] == "worker"]
        if len(mine) == 3 and all(row["last_call"] for row in mine):
            break
        assert time.monotonic() < deadline, rows
        time.sleep(0.05)
    found = {row["what"]: row for row in mine}
    assert sorted(found) == ["actor", "restarted actor", "worker"]
    assert all(row["memory"] > 1 << 20 and row["pid"] for row in mine)
    assert found["worker"]["code"] == 7 and "doomed_task" in found["worker"]["last_call"]
    assert found["restarted actor"]["signal"] == signal.SIGSEGV == found["actor"]["signal"]
    assert "last words" in found["restarted actor"]["tail"]
    assert "last call die()" in cli("obits", "-n", "50")


def test_why(gang: Any) -> None:
    for name in ("tp", gang.id, gang.id[:10]):
        assert cli("why", name).startswith(f"{gang.id}: the placement group is CREATED; latest: rank 0")
    assert "knows no actor" in cli("why", "nothing", code=1)


def test_logs(gang: Any) -> None:
    lines = cli("logs", "--gang", "tp").splitlines()
    assert lines.count("[0] hello from rank 0") == lines.count("[1] hello from rank 1") == 2
    assert lines.count("[1!] a warning") == 2
    only = cli("logs", "--gang", gang.id, "--rank", "1").splitlines()
    assert only and all(line.startswith("[1") for line in only)
    assert "no gang" in cli("logs", "--gang", "none", code=1)

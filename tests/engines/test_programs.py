"""One script, two engines: programs of Spoke on real Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.running import ROOT, cluster, example, result, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout_s(900), pytest.mark.leaks("dirs")]


def test_calls() -> None:
    seen = result("calls.py")
    errors = seen.pop("errors")
    assert seen == {
        "engine": "spoke.runtime_context",
        "real": True,
        "tasks": [4, 6, [1, 2]],
        "streams": [0, 1, 2],
        "nested refs and handles": [[8, "put"], 11],
        "one object in a list": 8,
        "actor": [13, 5],
        "found by name": [True, 14, True],
        "await": "abab",
        "future": 42,
        "wait": [2, 0],
        "pool": [1, 2, 3],
        "queue": ["item", True],
        "facts": ["calls", 4.0, 1, True],
        "registered": [["kept"], "Named"],
        "shut down": True,
    }
    assert errors == {
        "task": ["RayTaskError(KeyError)", "RayTaskError", "RayError", "KeyError"],
        "below": ["RayTaskError(KeyError)", "RayTaskError", "RayError", "KeyError"],
        "timeout": ["GetTimeoutError", "RayError", "TimeoutError", "OSError"],
        "arguments": ["TypeError", "Exception", "BaseException", "object"],
        "name": ["ValueError", "Exception", "BaseException", "object"],
        "taken": ["ActorAlreadyExistsError", "ValueError", "RayError", "Exception"],
        "unfit": ["ActorUnschedulableError"],
        "group": ["RaySystemError"],
        "killed": ["ActorDiedError", "RayActorError", "RayError", "Exception"],
        "left": ["ActorDiedError", "RayActorError", "RayError", "Exception"],
    }


def test_gangs() -> None:
    seen = result("gangs.py")
    assert seen["slots"] == {
        "slots": [[0, 0, 2, [0, 1]], [1, 1, 2, [2, 3]]],
        "same node": True,
        "environment": {
            "RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2",
            "CUDA_VISIBLE_DEVICES": "2,3",
        },
        "reached": "node",
        "ports differ": True,
        "ranks": [["0", "0,1", [0, 1], "rank 0"], ["1", "2,3", [2, 3], "rank 1"]],
        "master port": True,
        "rank 0 listens there": True,
        "launched twice": "ValueError",
        "released": [True, "REMOVED", "ActorPlacementGroupRemoved"],
        "devices are back": True,
    }  # fmt: skip
    assert seen["policies"] == {
        "none": ["ActorDiedError", "ActorDiedError", True],
        "member": [True, False, 0],
        "gang": [False, False, 1],
        "constructor": "ActorDiedError",
        "its cause is told": True,
    }
    assert seen["refusals"] == {
        "never": "ActorUnschedulableError",
        "two nodes": "GetTimeoutError",
        "same": "EngineUnsupported",
        "gpu_ids": "EngineUnsupported",
        "launch_timeout": True,
        "shared device": 1,
    }


def test_what_ray_cannot_carry_is_refused_by_name() -> None:
    refused = ["EngineUnsupported", True]
    assert result("unsupported.py") == {
        **dict.fromkeys(("empty", "into", "endpoints", "jobs", "stats"), refused),
        "twice": ["RuntimeError"],
        "rdma": False,
        "rdma says why": True,
    }


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[str, str]]:
    """One cluster made by `ray start` for all that only join one, as each takes seconds to start and stop."""
    with cluster() as found:
        yield found


def test_an_existing_cluster_is_joined_and_left_alone(shared: tuple[str, str]) -> None:
    address, client_address = shared
    first = result("joining.py", address, SPOKE_ENGINE="")
    assert first["cpus"] == 3 and first["where"][1] == "joined" and first["slot"] == first["where"][0]
    assert first["rank"] == ["0", first["slot"]]
    by_variable = result("joining.py", address, "RAY_ADDRESS", RAY_ADDRESS=address)
    assert by_variable["where"][0] == first["where"][0], "the cluster goes on, and is the same"
    by_client = result("joining.py", client_address, SPOKE_ENGINE="")
    assert by_client == first


def test_spoke_is_shipped_to_workers_that_do_not_have_it() -> None:
    with cluster(PYTHONPATH="") as (address, _):
        assert result("shipping.py", address, "no") == {"error": True}
        assert result("shipping.py", address, "yes") == {"answer": 42}


def test_the_switch_of_ray_compat_refuses_the_engine() -> None:
    code = (
        "import ray_compat; ray_compat.install()\n"
        "import spoke\n"
        "try: spoke.init(engine='ray')\n"
        "except RuntimeError as error: print(error)\n"
    )
    assert "needs real Ray, and in this process `import ray` is Spoke" in run("-c", code)


def test_a_program_that_started_ray_itself_keeps_it() -> None:
    code = (
        "import ray, spoke\n"
        "ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)\n"
        "spoke.init(engine='ray')\n"
        "print('answer', spoke.get(spoke.remote(lambda: 42).remote()))\n"
        "spoke.shutdown()\n"
        "print('still there', ray.is_initialized(), spoke.is_initialized())\n"
    )
    lines = run("-c", code).splitlines()
    assert "answer 42" in lines and "still there True False" in lines


@pytest.mark.parametrize(
    ("name", "arguments", "wanted"),
    [
        ("hello.py", [], "running totals: [0, 1, 5, 14, 30]"),
        ("actor_counter.py", [], "[1, 2, 3, 4, 5]"),
        ("pi.py", ["--samples", "200000"], "pi is about 3.1"),
        ("wordcount.py", [str(ROOT / "README.md"), "--top", "1"], "the"),
        ("worker_pool.py", [], "[1, 4, 9, 16, 25]"),
    ],
)
def test_examples_in_a_cluster(name: str, arguments: list[str], wanted: str, shared: tuple[str, str]) -> None:
    lines = example(name, *arguments, RAY_ADDRESS=shared[0])
    assert any(wanted in line for line in lines), "\n".join(lines)


@pytest.mark.parametrize(
    ("name", "arguments", "wanted"),
    [
        ("gang_tp.py", ["2"], "released: True"),
        ("serve_embeddings.py", ["--once"], "The cat sleeps on the warm window sill."),
    ],
)
def test_examples(name: str, arguments: list[str], wanted: str, tmp_path: Path) -> None:
    lines = example(name, *arguments, HOME=os.environ.get("HOME", str(tmp_path)))
    assert any(wanted in line for line in lines), "\n".join(lines)

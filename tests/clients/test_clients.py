"""modin, joblib, verl and vLLM, unchanged from PyPI, on Spoke through the search path alone.

Every environment has real Ray as well; each program says which one it imported.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import ray_compat
from tests.clients.running import HERE, run

pytestmark = [pytest.mark.timeout_s(900), pytest.mark.slow]

VLLM = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",  # functions as arguments of collective_rpc
    "more_paths": str(HERE / "vllm_platform"),
}
IN_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", **VLLM}


def _is_spoke(seen: dict[str, Any]) -> bool:
    return str(seen.pop("engine")).startswith(ray_compat.search_path())


def test_modin_equals_pandas(tmp_path: Path) -> None:
    seen = run("modin", "modin_frames.py", str(tmp_path))
    assert _is_spoke(seen)
    assert seen == dict.fromkeys(("read_csv", "groupby", "merge", "apply", "map"), "equal")


def test_joblib_backend() -> None:
    seen = run("modin", "joblib_backend.py")
    assert _is_spoke(seen)
    assert seen == {
        "powers": [index**2 for index in range(100)],
        "closure": [0, 3, 6, 9, 12],
        "arrays": [0.0, 1000.0, 2000.0],
        "error": "KeyError",
    }


def test_verl_worker_groups() -> None:
    seen = run("verl", "verl_groups.py")
    assert _is_spoke(seen)
    assert seen == {
        "add": [11, 12],
        "size": 2,
        "double": [0, 2, 4, 6, 8, 10, 12, 14],
        "late": [0, 1],
        "names": [True, True],
        "parts": [[22, 23], ["t0", "t1"]],
    }


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder that keeps the tiny model for all runs."""
    return str(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("apart", ["0", "1"], ids=["engine in process", "engine as a second driver"])
def test_vllm_tokens_and_a_killed_worker(models: str, apart: str) -> None:
    seen = run("vllm", "vllm_engine.py", models, "--kill", VLLM_ENABLE_V1_MULTIPROCESSING=apart, **VLLM)
    assert _is_spoke(seen)
    assert seen["tokens"] == seen["wanted"]
    _removed(seen["shared_memory"])
    assert seen["kill"]["error"] is not None and seen["kill"]["seconds"] < 15, seen["kill"]


@pytest.mark.parametrize("ranks", ["tensor", "pipeline"])
def test_vllm_over_a_compiled_graph(models: str, ranks: str) -> None:
    """The older of vLLM's two Ray executors: each step is an execution of a compiled graph."""
    options = ("--pipeline",) if ranks == "pipeline" else ()
    seen = run("vllm", "vllm_engine.py", models, *options, **IN_PROCESS, VLLM_USE_RAY_V2_EXECUTOR_BACKEND="0")
    _removed(seen["shared_memory"])
    assert _is_spoke(seen) and seen["executor"] == "RayDistributedExecutor"
    assert seen["tokens"] == seen["wanted"]


def test_vllm_engines_as_actors(models: str) -> None:
    """Data parallel over Ray: each engine is an actor of a group of its own, and its worker another."""
    before = _shared()
    try:
        seen = run("vllm", "vllm_data_parallel.py", models, **VLLM)
    finally:  # the front kills its engines, as on Ray
        _removed(sorted(name for name in _shared() - before if not _mapped(name)))
    assert _is_spoke(seen)
    assert seen["tokens"] == seen["wanted"]
    assert seen["actors"] == ["EngineCoreActor"] * 2 + ["RayWorkerProc"] * 2


ROUNDS = 3  # on a machine that is busy with other things, the faster of several runs says more


@pytest.mark.timeout_s(2400)
def test_vllm_is_ready_sooner_than_on_real_ray(models: str) -> None:
    seconds: dict[str, list[float]] = {"spoke": [], "ray": []}
    for turn in range(ROUNDS):
        for engine in ("ray", "spoke") if turn % 2 == 0 else ("spoke", "ray"):
            seen = run("vllm", "vllm_engine.py", models, "--ready", engine=engine, **IN_PROCESS)
            _removed(seen["shared_memory"])
            assert _is_spoke(seen) is (engine == "spoke")
            seconds[engine].append(seen["ready_s"])
        if min(seconds["spoke"]) < min(seconds["ray"]):
            break
    print(f"init() to a ready engine, seconds: Spoke {seconds['spoke']}, Ray {seconds['ray']}")
    assert min(seconds["spoke"]) < min(seconds["ray"]), seconds


@pytest.mark.timeout_s(1200)
@pytest.mark.skipif(
    "SPOKE_BESIDE_RAY" not in os.environ, reason="SPOKE_BESIDE_RAY=1 compares; vLLM on real Ray takes minutes"
)
def test_vllm_leaves_no_more_than_on_real_ray(models: str) -> None:
    left: dict[str, int] = {}
    for engine in ("ray", "spoke"):
        seen = run("vllm", "vllm_engine.py", models, "--kill", engine=engine, **IN_PROCESS)
        assert seen["tokens"] == seen["wanted"]
        assert seen["kill"]["error"] is not None, seen["kill"]
        left[engine] = _removed(seen["shared_memory"])
    print(f"vLLM's own blocks of shared memory after a worker was killed: {left}")
    assert left["spoke"] <= left["ray"], left


def _shared() -> set[str]:
    """Blocks of Python's shared memory, as vLLM's are."""
    return {path.name for path in Path("/dev/shm").glob("psm_*")}


def _mapped(name: str) -> bool:
    """Whether a process still has a block: then it is another program's."""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            if name in maps.read_text():
                return True
        except OSError:
            continue  # it has ended, or is not ours
    return False


def _removed(names: list[str]) -> int:
    """How many of vLLM's blocks of shared memory its processes left; they are removed here."""
    there = [Path("/dev/shm") / name for name in names if (Path("/dev/shm") / name).exists()]
    for path in there:
        path.unlink()
    return len(there)

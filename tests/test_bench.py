"""The benchmarks run, and judge what they measured by the rules they state."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spoke.bench import __main__ as cli
from spoke.bench.budget import TARGETS, Target
from spoke.bench.floors import FLOORS
from spoke.bench.report import as_json, machine, markdown
from spoke.bench.runner import ROOT, Engine, Figure, Row, parse, run_once
from spoke.bench.workloads import WORKLOADS, Plan, cluster_processes, frames

SPOKE = Engine("spoke", "spoke", sys.executable)


def row(name: str, **samples: list[float]) -> Row:
    figures = {engine: Figure(list(values)) for engine, values in samples.items()}
    return Row(WORKLOADS[name], figures, TARGETS[name].floor if name in TARGETS else None)


def test_every_target_names_a_workload_and_a_floor() -> None:
    assert set(TARGETS) <= set(WORKLOADS)
    assert {target.floor for target in TARGETS.values()} <= {None, *FLOORS}


def test_names_are_those_of_ray_microbenchmark() -> None:
    assert {
        "single client get calls (Plasma Store)",
        "single client put gigabytes",
        "single client wait 1k refs",
        "single client tasks async",
        "1:1 actor calls sync",
        "n:n async-actor calls async",
        "placement group create/removal",
    } <= set(WORKLOADS)


def test_factor_over_ray_turns_round_where_less_is_better() -> None:
    assert row("1:1 actor calls sync", spoke=[300.0], ray=[10.0]).over_ray() == 30
    assert row("20 actors created and called", spoke=[0.5], ray=[10.0]).over_ray() == 20


def test_verdict_needs_every_part_and_stays_open_without_ray() -> None:
    target = Target(limit=0.15, over_ray=30)
    assert target.met(0.1, False, 31.0, None) is True
    assert target.met(0.1, False, 29.0, None) is False
    assert target.met(0.2, False, 31.0, None) is False
    assert target.met(0.1, False, None, None) is None
    assert target.met(0.2, False, None, None) is False


def test_failed_workload_misses_its_target_and_is_named() -> None:
    failed = Row(WORKLOADS["1:1 actor calls sync"], {"spoke": Figure(error="exit status 1: Boom")}, None)
    text = markdown([failed], machine())
    assert failed.met() is False
    assert "**failed**" in text
    assert "Boom" in text


def test_table_shows_spread_ratio_and_floor() -> None:
    measured = row("1:1 actor calls sync", spoke=[9000.0, 10000.0, 12000.0], ray=[300.0, 310.0, 330.0])
    measured.floor_samples = [20000.0]
    text = markdown([measured], machine())
    assert "10,000 (9,000..12,000)" in text
    assert "32.3x" in text
    assert "| 0.5x |" in text
    assert "| yes |" in text
    assert json.loads(json.dumps(as_json([measured], machine())))["rows"][0]["met"] is True


def test_result_is_found_behind_chatter_and_its_absence_is_an_error() -> None:
    good = parse('hello\nRESULT {"name": "x", "samples": [1.0], "version": "1"}\n(worker) bye\n', Figure())
    assert (good.samples, good.version, good.error) == ([1.0], "1", "")
    assert parse("Traceback\nBoom\n", Figure(error="exit status 1")).error == "exit status 1: Boom"


def test_rate_counts_calls() -> None:
    calls = 0

    def once() -> None:
        nonlocal calls
        calls += 1

    samples = Plan(warm_s=0.01, round_s=0.01, rounds=3).rate(once, 2)
    assert len(samples) == 3
    assert calls > 100
    assert min(samples) > 1000


def test_frames_counts_python_frames_only() -> None:
    def inner() -> int:
        return len([])

    assert frames(lambda: None) == 0
    assert frames(lambda: [inner(), inner()]) == 2


def test_processes_of_a_cluster_are_found_by_descent() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert child.pid in cluster_processes(os.getpid(), "no such mark")
        assert os.getpid() not in cluster_processes(os.getpid(), "no such mark")
    finally:
        child.communicate()


@pytest.mark.parametrize("name", FLOORS)
def test_floors_are_positive(name: str) -> None:
    samples = FLOORS[name][1]()
    assert len(samples) == 5
    assert min(samples) > 0


def test_workloads_file_is_self_contained() -> None:
    text = Path(ROOT, "spoke", "bench", "workloads.py").read_text(encoding="utf-8")
    assert "from ." not in text
    assert "import spoke" not in text


@pytest.mark.parametrize(
    "name",
    [
        "1:1 actor calls async",
        "single client tasks sync",
        "idle cluster processes",
        "tensor hand-over between actors, 1 MiB",
    ],
)
def test_workload_runs_on_spoke_and_leaves_nothing(name: str) -> None:
    figure = run_once(SPOKE, WORKLOADS[name], quick=True, timeout_s=60)
    assert figure.error == ""
    assert min(figure.samples) > 0
    assert figure.left_behind == 0


def test_command_writes_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    cli.main(["--quick", "--filter", "client put calls (plasma", "--json", str(out)])
    assert "| single client put calls (Plasma Store) | /s |" in capsys.readouterr().out
    assert json.loads(out.read_text())["rows"][0]["engines"]["spoke"]["median"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKLOADS)
def test_every_workload_runs_on_spoke(name: str) -> None:
    figure = run_once(SPOKE, WORKLOADS[name], quick=True, timeout_s=120)
    assert figure.error == ""
    assert figure.samples
    assert figure.left_behind == 0

"""The benchmark of the hub's decisions runs, reports every kind of request, and says what was promised."""

from __future__ import annotations

from pathlib import Path

import pytest

from spoke.bench import scheduler


def test_the_benchmark_runs_and_reports(tmp_path: Path) -> None:
    out = tmp_path / "scheduler.md"
    shown: list[str] = []
    code = scheduler.main(
        ["--actors", "300", "--sizes", "30", "300", "--rounds", "3", "--out", str(out)], shown.append
    )
    text = out.read_text(encoding="utf-8")
    assert code == 0 and shown == [text]
    for name in scheduler.requests(300):
        assert f"| {name} |" in text
    assert "| 30 nodes | 300 nodes |" in text and "one actor" in text and "####" in text
    assert "Promise" not in text, "nothing is promised for these sizes"


def test_a_gang_that_is_not_placed_is_no_figure() -> None:
    cluster = scheduler.Cluster(1, 0)
    with pytest.raises(RuntimeError, match="was not placed"):
        cluster.gang({"bundles": [{"GPU": 9.0}], "strategy": "PACK"})

"""Every recorded case, on Spoke: one process per area, one test per case."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import Any

import pytest

from tests.conformance import compare, kit, record, runner
from tests.conformance.differences import DIFFERENCES

_RESULTS: dict[str, dict[str, dict[str, Any]]] = {}
_CASES = [(area, name) for area in runner.areas() for name in runner.cases(area)]


def _result(area: str, name: str) -> dict[str, Any]:
    if area not in _RESULTS:
        _RESULTS[area] = runner.run_area(area)
    return _RESULTS[area][name]


@pytest.mark.timeout_s(900)
@pytest.mark.parametrize(("area", "name"), _CASES, ids=[f"{area}-{name}" for area, name in _CASES])
def test_case(area: str, name: str) -> None:
    assert name in record.read(area), "never recorded: run python -m tests.conformance.record"
    if runner.missing(area):
        pytest.skip(f"needs {', '.join(runner.missing(area))} beside the engine")
    wanted, line = compare.wanted_of(area, name), _result(area, name)
    assert compare.matches(wanted, line["result"]), "\n".join(
        [f"Ray:   {json.dumps(wanted)}", f"Spoke: {json.dumps(line['result'])}", line["log"]]
    )


def test_cases_leave_no_folder_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []
    removed = runner.shutil.rmtree

    def noted(path: str, **options: Any) -> None:
        seen.append({name[: len(kit.FLAG_PREFIX)] for name in os.listdir(path)})
        removed(path, **options)

    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setattr(runner.shutil, "rmtree", noted)
        (line, *_), log = runner._one_process(sys.executable, "spoke", "cancel", ["a_running_task"], [])
        assert line["case"] == "a_running_task" and seen == [{kit.FLAG_PREFIX}], log
        assert os.listdir(folder) == [], "the flags of a case, too"
        monkeypatch.undo()


def test_the_table_of_differences_names_existing_cases() -> None:
    assert set(DIFFERENCES) <= {f"{area}/{name}" for area, name in _CASES}

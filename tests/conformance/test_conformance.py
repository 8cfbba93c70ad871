"""Every recorded case, on Spoke: one process per area, one test per case."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conformance import compare, record, runner
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
    wanted, line = compare.wanted_of(area, name), _result(area, name)
    assert compare.matches(wanted, line["result"]), "\n".join(
        [f"Ray:   {json.dumps(wanted)}", f"Spoke: {json.dumps(line['result'])}", line["log"]]
    )


def test_the_table_of_differences_names_existing_cases() -> None:
    assert set(DIFFERENCES) <= {f"{area}/{name}" for area, name in _CASES}

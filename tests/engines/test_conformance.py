"""A good part of the recorded cases on real Ray through Spoke's face; all: `tests.engines.conformance`."""

from __future__ import annotations

import json

import pytest

from tests.conformance import record, runner
from tests.engines.conformance import NOT_HERE, agrees, answers

# The areas that show most of the engine in the least time.
AREAS = (
    "tasks",
    "actors",
    "errors",
    "objects",
    "refs",
    "generators",
    "names",
    "groups",
    "cancel",
    "gpus",
    "options",
    "compiled",
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout_s(1200), pytest.mark.leaks("dirs")]


@pytest.mark.parametrize("area", AREAS)
def test_area(area: str) -> None:
    found = answers(area)
    wrong = [name for name in runner.cases(area) if not agrees(area, name, found[name]["result"])]
    expected = [key.partition("/")[2] for key in NOT_HERE if key.startswith(f"{area}/")]
    told = [
        f"{one}: {json.dumps(record.read(area)[one])} {json.dumps(found[one]['result'])}" for one in wrong
    ]
    assert sorted(wrong) == sorted(expected), "\n".join(told)

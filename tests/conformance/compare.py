"""Compares Spoke's answers with the record.

``python -m tests.conformance.compare [--area A ...] [--case C ...]`` prints every case that answers
otherwise.  ``has`` lists which fragments a text shows: Spoke must show those that Ray shows and may
show more.  Everything else must be equal, or be in the table of deliberate differences.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from tests.conformance import record
from tests.conformance.differences import DIFFERENCES
from tests.conformance.runner import areas, cases, run_area


def matches(wanted: Any, found: Any) -> bool:
    """Whether `found` is `wanted`, with more fragments under ``has`` allowed."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return wanted.keys() == found.keys() and all(
            set(value) <= set(found[key]) if key == "has" else matches(value, found[key])
            for key, value in wanted.items()
        )
    if isinstance(wanted, list) and isinstance(found, list):
        return len(wanted) == len(found) and all(map(matches, wanted, found))
    return type(wanted) is type(found) and bool(wanted == found)


def wanted_of(area: str, name: str) -> Any:
    """What Spoke must answer: Ray's answer, or the deliberate difference.

    Raises:
        KeyError: the case was never recorded.
        ValueError: its difference is none any more.
    """
    recorded = record.read(area)[name]
    difference = DIFFERENCES.get(f"{area}/{name}")
    if difference is None:
        return recorded
    if matches(recorded, difference.spoke):
        raise ValueError(f"{area}/{name} does not differ from Ray any more: remove it from the table")
    return difference.spoke


def _main() -> int:
    parser = argparse.ArgumentParser(description="compare Spoke with the record")
    parser.add_argument("--area", action="append", default=[])
    parser.add_argument("--case", action="append", default=[])
    parser.add_argument("--log", action="store_true", help="show the output of hanging processes")
    arguments = parser.parse_args()
    wrong = total = 0
    for area in arguments.area or areas():
        names = [name for name in cases(area) if not arguments.case or name in arguments.case]
        found = run_area(area, names=names)
        bad = [name for name in names if not matches(wanted_of(area, name), found[name]["result"])]
        seconds = sum(line["seconds"] for line in found.values())
        print(f"{area}: {len(names) - len(bad)} of {len(names)} agree, {seconds:.1f} s", flush=True)
        wrong += len(bad)
        total += len(names)
        if names and all(found[name]["result"] == {"ends the process": True} for name in names):
            print(f"  the engine did not start: {found[names[0]]['log'].strip()[-300:]}")
            continue
        for name in bad:
            print(f"  {name}\n    Ray:   {json.dumps(wanted_of(area, name))[:600]}")
            print(f"    Spoke: {json.dumps(found[name]['result'])[:600]}")
            if arguments.log and found[name]["log"]:
                print(found[name]["log"])
    print(f"{total - wrong} of {total} cases agree")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(_main())

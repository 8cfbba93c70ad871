"""The recorded cases through the Ray engine: ``import spoke as ray`` with SPOKE_ENGINE=ray.

``python -m tests.engines.conformance [--area A ...]`` prints the share that answers as recorded, and every
case that does not.  A case may also answer as Spoke's own engine does on purpose
(`tests.conformance.differences`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from typing import Any

from tests.conformance import compare, record, runner
from tests.conformance.differences import DIFFERENCES
from tests.engines.running import environment, python

# Cases that this engine cannot answer as recorded: the reason.  One that agrees after all fails.
NOT_HERE: dict[str, str] = {
    "client_calls/a_method_with_a_direct_transport": "direct transports are those of Spoke's own engine",
    "client_calls/pickle_of_a_module_by_value": "Ray has a cloudpickle of its own, with its own register",
    "utilities/core_names_exist": "`client` is a module of Spoke's own engine, which is not loaded",
}
# Areas about clusters that a program makes of several nodes, and those in which Spoke is called `ray`.
LEFT_OUT = ("client_drivers", "client_imports", "multinode")


def areas() -> list[str]:
    """The areas whose programs run on any engine."""
    return [area for area in runner.areas() if area not in LEFT_OUT]


def answers(area: str) -> dict[str, dict[str, Any]]:
    """What the cases of an area answer on real Ray through Spoke's face."""
    with tempfile.TemporaryDirectory(prefix="sr-", ignore_cleanup_errors=True) as folder:
        before = dict(os.environ)
        told = environment(folder, SPOKE_ENGINE="ray")
        os.environ.clear()
        os.environ.update(told)
        try:
            return runner.run_area(area, python=python())
        finally:
            os.environ.clear()
            os.environ.update(before)


def agrees(area: str, name: str, found: Any) -> bool:
    """Is it Ray's answer, or the one that Spoke gives on purpose?"""
    difference = DIFFERENCES.get(f"{area}/{name}")
    if compare.matches(record.read(area)[name], found):
        return True
    return difference is not None and compare.matches(difference.spoke, found)


def _main() -> int:
    parser = argparse.ArgumentParser(description="the recorded cases through the Ray engine")
    parser.add_argument("--area", action="append", default=[])
    chosen = parser.parse_args().area or areas()
    good = total = 0
    for area in chosen:
        found = answers(area)
        bad = [name for name in runner.cases(area) if not agrees(area, name, found[name]["result"])]
        print(f"{area}: {len(found) - len(bad)} of {len(found)} agree", flush=True)
        for name in bad:
            reason = NOT_HERE.get(f"{area}/{name}", "")
            print(f"  {name} {reason}\n    recorded: {json.dumps(record.read(area)[name])[:500]}")
            print(f"    answer:   {json.dumps(found[name]['result'])[:500]}")
        good, total = good + len(found) - len(bad), total + len(found)
    print(f"{good} of {total} cases agree")
    return 0 if good == total else 1


if __name__ == "__main__":
    sys.exit(_main())

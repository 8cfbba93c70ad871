"""Records what real Ray answers, or checks the record against it.

``python -m tests.conformance.record --ray-python PYTHON [--area A ...] [--check] [--extra-path DIR]``
runs every case with the interpreter PYTHON, which must have ray, and writes ``expected/<area>.json``;
with ``--check`` it writes nothing and exits 1 where the record differs from what Ray answers now.
``--extra-path`` appends a folder of packages that only some cases need (torch).
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from tests.conformance.runner import HERE, areas, cases, run_area

EXPECTED = HERE / "expected"


def read(area: str) -> dict[str, Any]:
    """The recorded results of an area by case; empty if it was never recorded."""
    path = EXPECTED / f"{area}.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def write(area: str, results: dict[str, Any]) -> None:
    """Replace the record of an area; one line per case, in the order of the cases."""
    body = ",\n".join(
        f"{json.dumps(name)}: {json.dumps(results[name])}" for name in cases(area) if name in results
    )
    (EXPECTED / f"{area}.json").write_text("{\n" + body + "\n}\n", encoding="utf-8")


def _main() -> int:
    parser = argparse.ArgumentParser(description="record the answers of real Ray")
    parser.add_argument("--ray-python", required=True, help="interpreter that has ray")
    parser.add_argument("--area", action="append", default=[])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--extra-path", action="append", default=[])
    arguments = parser.parse_args()
    different = 0
    for area in arguments.area or areas():
        found = run_area(area, engine="ray", python=arguments.ray_python, extra=arguments.extra_path)
        results = {name: line["result"] for name, line in found.items()}
        before = read(area)
        changed = [name for name in results if results[name] != before.get(name)]
        slow = {name: line["seconds"] for name, line in found.items() if line["seconds"] > 3}
        print(
            f"{area}: {len(results)} cases, {len(changed)} differ from the record; slow: {slow}", flush=True
        )
        for name in changed:
            print(f"  {name}: {json.dumps(results[name])}")
            if found[name]["log"]:
                print(found[name]["log"][-1500:])
        different += len(changed)
        if not arguments.check:
            write(area, results)
    return 1 if arguments.check and different else 0


if __name__ == "__main__":
    sys.exit(_main())

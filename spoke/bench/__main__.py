"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import json
import sys

from .report import as_json, machine, markdown
from .runner import Engine, run_all
from .workloads import WORKLOADS


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m spoke.bench", description=__doc__)
    made.add_argument(
        "--ray-python", metavar="PATH", help="an interpreter that has ray and numpy; run on it too"
    )
    made.add_argument("--no-spoke", action="store_true", help="run on Ray only")
    made.add_argument(
        "--filter",
        action="append",
        metavar="NAME",
        help="only workloads whose name contains NAME; repeatable",
    )
    made.add_argument("--json", metavar="FILE", help="write all samples to FILE")
    made.add_argument("--quick", action="store_true", help="shorter rounds, smaller sizes, one pass")
    made.add_argument("--passes", type=int, default=0, help="turns of each engine per workload (default 2)")
    made.add_argument("--check", action="store_true", help="exit with 1 where a target is missed, too")
    made.add_argument("--list", action="store_true", help="print the names of the workloads, and end")
    return made


def main(argv: list[str] | None = None) -> int:
    """0 if no workload failed (with ``--check``: and no target was missed), 1 otherwise."""
    options = parser().parse_args(argv)
    wanted = [part.lower() for part in options.filter or [""]]
    names = [name for name in WORKLOADS if any(part in name.lower() for part in wanted)]
    if options.list:
        print("\n".join(names))
        return 0
    engines = [] if options.no_spoke else [Engine("spoke", "spoke", sys.executable)]
    if options.ray_python:
        engines.append(Engine("ray", "ray", options.ray_python))
    if not names or not engines:
        print("nothing to run: no workload has that name, or no engine is left", file=sys.stderr)
        return 2
    box = machine()
    passes = options.passes or (1 if options.quick else 2)
    rows = list(run_all(engines, names, passes=passes, quick=options.quick))
    print(markdown(rows, box))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump(as_json(rows, box), out, indent=1)
            out.write("\n")
    failed = any(figure.error for row in rows for figure in row.figures.values())
    missed = options.check and any(row.met() is False for row in rows)
    return 1 if failed or missed else 0


if __name__ == "__main__":
    sys.exit(main())

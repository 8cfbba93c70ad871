"""Runs the cases of one area on one engine, in this process.

``python -m tests.conformance.runner --engine ray --area tasks`` prints one JSON line per case as it
ends: ``{"case": name, "result": ..., "seconds": ...}``.  A case that raises gives its error's
description as its result.  A case that hangs ends the process: the parent (`run_area`) notes it as
hanging and starts another process for the cases after it, so that one hang hides nothing.

An area with ``THROUGH_RAY_COMPAT = True`` imports ``ray`` on both engines: Spoke under Ray's name.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import importlib
import importlib.util
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from tests.conformance import kit

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CASE_LIMIT_S = 40
DEFAULT_INIT: dict[str, Any] = {"num_cpus": 4, "num_gpus": 0}


class CaseTimeout(BaseException):
    """The case is over its limit; not an Exception, so that no case swallows it."""


def areas() -> list[str]:
    """The names of all areas, sorted."""
    return sorted(path.stem for path in (HERE / "cases").glob("*.py") if path.stem != "__init__")


def load(area: str) -> ModuleType:
    """The module of an area's cases."""
    return importlib.import_module(f"tests.conformance.cases.{area}")


def cases(area: str) -> dict[str, Callable[[Any], Any]]:
    """The cases of an area by name, in the order they are written."""
    found: dict[str, Callable[[Any], Any]] = {}
    for name, item in vars(load(area)).items():
        if name.startswith("_") or not inspect.isfunction(item) or item.__module__ != load(area).__name__:
            continue
        if list(inspect.signature(item).parameters) == ["ray"]:
            found[name] = item
    return found


def missing(area: str) -> list[str]:
    """The packages that an area's cases need (its NEEDS) and this interpreter has not."""
    return [name for name in getattr(load(area), "NEEDS", ()) if importlib.util.find_spec(name) is None]


def init_options(area: str) -> dict[str, Any] | None:
    """Arguments of ``ray.init`` for an area; None when its cases start clusters themselves."""
    declared: dict[str, Any] | None = getattr(load(area), "INIT", DEFAULT_INIT)
    if declared is None:
        return None
    return {**kit.QUIET, **declared}


def _overdue(_signal: int, _frame: FrameType | None) -> None:
    raise CaseTimeout


def _run_case(ray: Any, case: Callable[[Any], Any]) -> Any:
    signal.signal(signal.SIGALRM, _overdue)
    signal.alarm(CASE_LIMIT_S)
    # The alarm interrupts a wait that answers signals; this one ends a process that does not.
    faulthandler.dump_traceback_later(CASE_LIMIT_S + 5, exit=True)
    try:
        return kit.canonical(case(ray))
    except CaseTimeout:
        faulthandler.dump_traceback(all_threads=True)
        return {"hangs": True}
    except Exception as error:
        message = str(error).strip().splitlines() or [""]
        return {"raised": type(error).__name__, "text": message[-1][:300]}
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        gc.collect()


def _engine(name: str, area: str) -> ModuleType:
    if name == "spoke" and getattr(load(area), "THROUGH_RAY_COMPAT", False):
        import ray_compat

        ray_compat.install()
        name = "ray"
    return importlib.import_module(name)


def _main() -> None:
    parser = argparse.ArgumentParser(description="run the cases of one area on one engine")
    parser.add_argument("--engine", default="spoke", help="module to import: spoke or ray")
    parser.add_argument("--area", required=True)
    parser.add_argument("--case", action="append", default=[], help="only these cases")
    parser.add_argument("--extra-path", action="append", default=[], help="appended to sys.path")
    arguments = parser.parse_args()
    sys.path.extend(arguments.extra_path)
    ray = _engine(arguments.engine, arguments.area)
    options = init_options(arguments.area)
    if options is not None:
        ray.init(**options)
    try:
        for name, case in cases(arguments.area).items():
            if arguments.case and name not in arguments.case:
                continue
            started = time.monotonic()
            result = _run_case(ray, case)
            line = {"case": name, "result": result, "seconds": round(time.monotonic() - started, 2)}
            print("\n@case " + json.dumps(line), flush=True)
            if result == {"hangs": True}:
                os._exit(3)  # the engine's state is unknown now; the parent goes on in a new process
    finally:
        ray.shutdown()


def _one_process(
    python: str, engine: str, area: str, names: list[str], extra: list[str]
) -> tuple[list[dict[str, Any]], str]:
    command = [python, "-m", "tests.conformance.runner", "--engine", engine, "--area", area]
    for name in names:
        command += ["--case", name]
    for path in extra:
        command += ["--extra-path", path]
    environment = dict(os.environ, PYTHONUNBUFFERED="1")
    if engine == "ray":
        environment["RAY_ADDRESS"] = "local"  # not the cluster of somebody else on this machine
    limit = CASE_LIMIT_S * 2 + 12 * len(names)
    # A temporary directory of its own, with a short path: unix socket names have 108 bytes.
    folder = environment["TMPDIR"] = tempfile.mkdtemp(prefix="conformance-")
    try:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            output, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            output, errors = process.communicate()
        if engine == "spoke":
            left = [name for name in os.listdir(folder) if not name.startswith(kit.FLAG_PREFIX)]
            assert not left, f"{area} left in its temporary directory: {left}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    lines = [line[6:] for line in output.splitlines() if line.startswith("@case ")]
    return [json.loads(line) for line in lines], errors


def run_area(
    area: str,
    *,
    engine: str = "spoke",
    python: str = sys.executable,
    extra: list[str] | None = None,
    names: list[str] | None = None,
) -> dict[str, dict[str, Any]]:
    """The cases of `area` (all, or `names`) on `engine`: name -> {"result", "seconds", "log"}."""
    remaining = list(cases(area) if names is None else names)
    done: dict[str, dict[str, Any]] = {}
    while remaining:
        lines, log = _one_process(python, engine, area, remaining, extra or [])
        for line in lines:
            hangs = line["result"] == {"hangs": True}
            done[line["case"]] = {**line, "log": log[-6000:] if hangs else ""}
            remaining.remove(line["case"])
        if lines and lines[-1]["result"] == {"hangs": True}:
            continue
        if remaining:  # the process ended inside this case (or before it, in init)
            name = remaining.pop(0)
            done[name] = {
                "case": name,
                "result": {"ends the process": True},
                "seconds": 0.0,
                "log": log[-6000:],
            }
            if not lines:
                for other in remaining:
                    done[other] = {**done[name], "case": other}
                break
    return done


if __name__ == "__main__":
    _main()

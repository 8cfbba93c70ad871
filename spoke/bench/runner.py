"""Runs one workload on one engine in a process of its own, and leaves nothing of it behind.

Engines take turns within each workload, and the order is reversed in each pass, so that a machine
that slows down for a minute slows both.  A workload that fails is a row that says so, never a gap.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from spoke import config

from . import gangs as gangs  # these register their workloads themselves
from . import handover as handover
from . import surroundings as surroundings
from .budget import TARGETS
from .floors import FLOORS
from .workloads import MARK, WORKLOADS, Workload, cluster_processes

TIMEOUT_S = 240.0
GRACE_S = 1.0  # for what dies of itself once the driver has gone; what stays longer was left behind
ROOT = Path(__file__).resolve().parents[2]  # the folder that holds the package


@dataclass(frozen=True)
class Engine:
    """`module` is what the workload imports; `python` the interpreter that has it."""

    name: str
    module: str
    python: str


@dataclass
class Figure:
    """The samples of one workload on one engine, of all passes together."""

    samples: list[float] = field(default_factory=list)
    error: str = ""
    left_behind: int = 0
    version: str = ""

    @property
    def value(self) -> float | None:
        return median(self.samples) if self.samples else None


@dataclass
class Row:
    workload: Workload
    figures: dict[str, Figure]
    floor_name: str | None
    floor_samples: list[float] = field(default_factory=list)

    @property
    def floor(self) -> float | None:
        return median(self.floor_samples) if self.floor_samples else None

    def better(self, value: float | None, other: float | None) -> float | None:
        """How many times as good `value` is as `other`."""
        if not value or not other:
            return None
        return value / other if self.workload.higher else other / value

    def over_ray(self) -> float | None:
        return self.better(self._value("spoke"), self._value("ray"))

    def floor_share(self) -> float | None:
        return self.better(self._value("spoke"), self.floor)

    def met(self) -> bool | None:
        target, value = TARGETS.get(self.workload.name), self._value("spoke")
        if target is None:
            return None
        if value is None:
            return False if "spoke" in self.figures else None
        return target.met(value, self.workload.higher, self.over_ray(), self.floor_share())

    def _value(self, engine: str) -> float | None:
        figure = self.figures.get(engine)
        return figure.value if figure else None


def run_once(engine: Engine, workload: Workload, quick: bool, timeout_s: float = TIMEOUT_S) -> Figure:
    """One process of one workload.  Never raises for a failing workload: `Figure.error` says what failed."""
    mark = uuid.uuid4().hex
    environ = {**config.environment(), MARK: mark, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1"}
    # An installed engine has its bytecode beside it; so must one that runs from its checkout.
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if engine.module == "spoke":  # run by path, the file does not find the package beside it by itself
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environ.get("PYTHONPATH", "")]))
    file = sys.modules[workload.body.__module__].__file__
    command = [engine.python, str(file), engine.module, workload.name]
    process = subprocess.Popen(
        command + ["--quick"] * quick,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    figure = Figure()
    output = b""
    try:
        output, _ = process.communicate(timeout=timeout_s)
        if process.returncode:
            figure.error = f"exit status {process.returncode}"
    except subprocess.TimeoutExpired:
        figure.error = f"no result within {timeout_s:g} s"
    finally:
        left = remaining(process.pid, mark, 0.0 if process.returncode is None else GRACE_S)
        figure.left_behind = len(left) if process.returncode is not None else 0
        for pid in [process.pid, *left] if process.returncode is None else left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()
        if process.stdout:
            process.stdout.close()
    return parse(output.decode(errors="replace"), figure)


def remaining(driver: int, mark: str, grace_s: float) -> list[int]:
    """The processes of a cluster that are still there `grace_s` after its driver ended."""
    deadline = time.monotonic() + grace_s
    while (left := cluster_processes(driver, mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def parse(output: str, figure: Figure) -> Figure:
    lines = [line for line in output.splitlines() if line.strip()]
    for line in reversed(lines):
        if line.startswith("RESULT "):
            result = json.loads(line.removeprefix("RESULT "))
            figure.samples, figure.version = result["samples"], result["version"]
            return figure
    figure.error = f"{figure.error or 'no result'}: {lines[-1][:200] if lines else 'no output'}"
    return figure


def join(into: Figure, new: Figure) -> None:
    into.samples += new.samples
    into.error = into.error or new.error
    into.left_behind += new.left_behind
    into.version = into.version or new.version


def run_all(
    engines: list[Engine],
    names: list[str],
    *,
    passes: int = 2,
    quick: bool = False,
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
) -> Iterator[Row]:
    """Yields one row per workload once all its passes are done."""
    for name in names:
        workload = WORKLOADS[name]
        target = TARGETS.get(name)
        row = Row(workload, {engine.name: Figure() for engine in engines}, target.floor if target else None)
        for number in range(passes * (1 if quick else workload.passes)):
            for engine in engines if number % 2 == 0 else engines[::-1]:
                join(row.figures[engine.name], run_once(engine, workload, quick))
            if row.floor_name:
                row.floor_samples += FLOORS[row.floor_name][1]()
        for engine in engines:
            figure = row.figures[engine.name]
            shown = "failed" if figure.value is None else f"{figure.value:.6g} {workload.unit}"
            say(f"{name}: {engine.name} {shown} {figure.error}".rstrip())
        yield row

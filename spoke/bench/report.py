"""The table, in markdown, and its JSON twin.

Every figure is a median with the least and the greatest sample beside it: where those lie far
apart the machine was busy, and the row is to be read as an order of magnitude.
"""

from __future__ import annotations

import os
import platform
import sys
from datetime import datetime, timezone
from typing import Any

from .budget import TARGETS
from .floors import FLOORS
from .runner import Figure, Row


def number(value: float | None) -> str:
    if value is None:
        return "-"
    if value >= 1e5:
        return f"{value / 1e3:,.0f} k"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def spread(samples: list[float]) -> str:
    if not samples:
        return "-"
    middle = sorted(samples)
    half = len(middle) // 2
    value = middle[half] if len(middle) % 2 else (middle[half - 1] + middle[half]) / 2
    if len(set(samples)) == 1:
        return number(value)
    return f"{number(value)} ({number(middle[0])}..{number(middle[-1])})"


def shown(figure: Figure | None) -> str:
    if figure is None:
        return "-"
    text = spread(figure.samples) if figure.samples else "**failed**"
    if figure.left_behind:
        text += f", left {figure.left_behind} processes behind"
    return text


def times(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}x"


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = platform.processor() or "unknown"
    memory = 0
    with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
        for line in cpuinfo:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        memory = int(meminfo.readline().split()[1]) * 1024
    return {
        "cpu": model,
        "cpus": os.cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def versions(rows: list[Row]) -> dict[str, str]:
    found: dict[str, str] = {}
    for row in rows:
        for engine, figure in row.figures.items():
            if figure.version:
                found.setdefault(engine, figure.version)
    return found


def markdown(rows: list[Row], box: dict[str, Any]) -> str:
    engines = (
        ", ".join(f"{name} {version}" for name, version in versions(rows).items()) or "no engine answered"
    )
    hardware = f"{box['cpu']}, {box['cpus']} CPUs, {box['memory_gb']} GB, Linux {box['kernel']}"
    lines = [
        f"{hardware}, Python {box['python']}, load {box['load']}, {box['when']}; {engines}.",
        "",
        "Medians (least..greatest sample); x is how many times as good; floors measured beside their row.",
        "",
        "| workload | unit | Spoke | Ray | x Ray | floor | of floor | target | met |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        name, unit, higher = row.workload.name, row.workload.unit, row.workload.higher
        target = TARGETS.get(name)
        floor = f"{spread(row.floor_samples)} {FLOORS[row.floor_name][0]}" if row.floor_name else "-"
        cells = [
            name,
            unit,
            shown(row.figures.get("spoke")),
            shown(row.figures.get("ray")),
            times(row.over_ray()),
            floor if row.floor_samples else "-",
            times(row.floor_share()),
            (target.text(unit, higher) if target else "") or "-",
            {True: "yes", False: "**no**", None: "-"}[row.met()],
        ]
        lines.append("| " + " | ".join(cells) + " |")
    errors = [
        f"- {row.workload.name}, {engine}: {figure.error}"
        for row in rows
        for engine, figure in row.figures.items()
        if figure.error
    ]
    return "\n".join([*lines, *(["", "Failures:", *errors] if errors else [])])


def as_json(rows: list[Row], box: dict[str, Any]) -> dict[str, Any]:
    return {
        "machine": box,
        "command": sys.argv[1:],
        "versions": versions(rows),
        "rows": [
            {
                "name": row.workload.name,
                "unit": row.workload.unit,
                "higher_is_better": row.workload.higher,
                "engines": {
                    engine: {
                        "median": figure.value,
                        "min": min(figure.samples, default=None),
                        "max": max(figure.samples, default=None),
                        "samples": figure.samples,
                        "error": figure.error,
                        "left_behind": figure.left_behind,
                    }
                    for engine, figure in row.figures.items()
                },
                "over_ray": row.over_ray(),
                "floor": {"name": row.floor_name, "median": row.floor, "samples": row.floor_samples},
                "floor_share": row.floor_share(),
                "met": row.met(),
            }
            for row in rows
        ],
    }

"""Makes ``spoke/COVERAGE.md``: ``python -m tests.coverage.table [--check]``.

``names.json`` holds the names of Ray 2.60's modules with their parameters and members, read from Ray by
introspection.  A name works when Spoke's module of the same path has it, of the same kind, with every
parameter and public member of Ray's; what it does is compared by the conformance suite.  Everything
else must be explained, in `spoke.absent` (refused) or below (ignored); a name without either fails.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from spoke import absent, options
from spoke.lifecycle import _IGNORED, init

HERE = Path(__file__).parent
TABLE = HERE.parent.parent / "spoke" / "COVERAGE.md"
README = TABLE.parent.parent / "README.md"
BEGIN, END = "<!-- coverage: made by python -m tests.coverage.table -->", "<!-- end of coverage -->"
WORKS, IGNORED, REFUSED = "works", "accepted and ignored", "refused by name"

# The modules that are promised; the others are what those consist of in Ray.
PROMISED = (
    "ray", "ray.util", "ray.exceptions", "ray.actor", "ray.runtime_context", "ray.runtime_env",
    "ray.util.placement_group", "ray.util.scheduling_strategies", "ray.util.actor_pool", "ray.util.queue",
    "ray.util.multiprocessing", "ray.util.joblib", "ray.util.metrics", "ray.util.state",
    "ray.util.collective", "ray.util.accelerators", "ray.util.check_serialize", "ray.util.serialization",
    "ray.dag", "ray.experimental.internal_kv", "ray.experimental.tqdm_ray", "ray.experimental.channel",
    "ray.experimental.compiled_dag_ref", "ray.experimental.locations", "ray.experimental.queue",
    "ray.cluster_utils", "ray.job_submission", "ray.types", "ray.remote_function", "ray.job_config",
    "ray.util.actor_group", "ray.util.annotations", "ray.util.debug", "ray.util.helpers",
)  # fmt: skip

# What is there and has no effect, with the reason.
NO_EFFECT = {
    "ray.internal": "`free` marks objects as freed; memory is given back with an object's last ref",
    "ray.util.annotations.AnnotationType": "marks say how stable a name is; they change nothing",
}
NO_EFFECT_OPTIONS = {
    "object_store_memory": "objects take what room there is; a full store says so by name",
    "enable_task_events": "there is no event store to leave calls out of",
    "_labels": "shown with the task; nothing schedules by them",
    "enable_tensor_transport": "any actor's tensors travel by the mover that fits",
    "_actor_generator_backpressure_num_objects": "give _generator_backpressure_num_objects at the method",
}
NO_EFFECT_INIT = {
    "include_dashboard": "see `spoke status`",
    "dashboard_host": "see `spoke status`",
    "dashboard_port": "see `spoke status`",
    "configure_logging": "Spoke touches no logger, but under `import ray`",
    "logging_format": "Spoke touches no logger, but under `import ray`",
}


class Row(NamedTuple):
    """One name of Ray's."""

    name: str
    status: str
    note: str
    imported: bool  # is it there only because Ray's module imports it?


def names() -> dict[str, Any]:
    """Ray's names by module, and its options."""
    found: dict[str, Any] = json.loads((HERE / "names.json").read_text(encoding="utf-8"))
    return found


def judge(module: str, name: str, fact: dict[str, Any]) -> Row:
    """What one name of one module is.

    Raises:
        ValueError: it does not work, and nobody says why.
    """
    full = f"{module}.{name}"
    if absent.REFUSED.get(full) and fact["kind"] != "module" and name != "client":
        _must_be_missing(module, name)
    imported = "from" in fact
    try:
        if full == "ray.client":
            raise AttributeError(name)
        ours = _module_of(module)
        value = getattr(ours, name)
    except (ImportError, AttributeError):
        why = absent.reason(full)
        if why is None and imported:
            why = "it is a helper that Ray's module imports, no interface"
        if why is None:
            raise ValueError(f"{full} is missing, and spoke/absent.py does not say why") from None
        return Row(name, REFUSED, why, imported)
    if full in NO_EFFECT or module in NO_EFFECT:
        return Row(name, IGNORED, NO_EFFECT.get(full) or NO_EFFECT[module], imported)
    lacking = [] if imported else [*_lacking_kind(value, fact), *_lacking_members(value, fact)]
    if lacking:
        why = absent.part(full)
        if why is None:
            raise ValueError(f"{full}: {', '.join(lacking)}")
        return Row(name, WORKS, f"{why} ({', '.join(lacking)})", imported)
    return Row(name, WORKS, "", imported)


def _must_be_missing(module: str, name: str) -> None:
    """A name is not refused and there.

    Raises:
        ValueError: it is.
    """
    try:
        there = hasattr(_module_of(module), name)
    except ImportError:
        there = False
    if there:
        raise ValueError(f"{module}.{name} is there, and spoke/absent.py refuses it: remove it from there")


def _module_of(module: str) -> Any:
    """Spoke's module; `spoke.util.placement_group` the module, not the function of that name."""
    return importlib.import_module("spoke" + module.removeprefix("ray"))


def _lacking_kind(value: Any, fact: dict[str, Any]) -> Iterator[str]:
    kind = fact["kind"]
    if kind in ("class", "exception", "enum") and not isinstance(value, type):
        yield f"is no {kind}"
    if kind == "exception" and not (isinstance(value, type) and issubclass(value, BaseException)):
        yield "is no exception"
    if kind == "function" and not callable(value):
        yield "cannot be called"
    if kind == "module" and not isinstance(value, types.ModuleType):
        yield "is no module"
    if kind in ("function", "class"):
        yield from _lacking_parameters(value, fact.get("params"))


def _lacking_parameters(value: Any, wanted: list[str] | None) -> Iterator[str]:
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    ours = {p.name for p in parameters}
    positional = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    for name in wanted or ():
        if name.startswith(("*", "_")) or name in ours or (positional and name in ("args",)):
            continue
        yield f"no argument `{name}`"


def _lacking_members(value: Any, fact: dict[str, Any]) -> Iterator[str]:
    for member, parameters in (fact.get("members") or {}).items():
        if member.startswith("_") or member in absent.MEMBERS:
            continue
        if not hasattr(value, member) and member not in getattr(value, "__annotations__", {}):
            yield f"no `{member}`"
        elif parameters is not None and callable(getattr(value, member, None)):
            for lacking in _lacking_parameters(getattr(value, member), parameters):
                yield f"`{member}`: {lacking}"


def options_rows() -> Iterator[tuple[str, list[Row]]]:
    """Options of tasks and actors, and arguments of `init`."""
    wanted = names()["options"]
    for kind, known in (("task", options.TASK), ("actor", options.ACTOR)):
        yield (
            f"options of {kind}s",
            [_option(name, name in known, NO_EFFECT_OPTIONS) for name in wanted[kind]],
        )
    ours = set(inspect.signature(init).parameters)
    fact = names()["modules"]["ray"]["init"]
    given = [name for name in fact["params"] if not name.startswith(("*", "_"))]
    without = {**dict.fromkeys(_IGNORED, "what it turns does not exist here"), **NO_EFFECT_INIT}
    rows = [_option(name, name in ours or name in _IGNORED, without) for name in given]
    yield "arguments of `init`", rows


def _option(name: str, known: bool, no_effect: dict[str, str]) -> Row:
    if not known:
        return Row(name, REFUSED, "the error names it", False)
    return Row(name, IGNORED if name in no_effect else WORKS, no_effect.get(name, ""), False)


def judged() -> dict[str, list[Row]]:
    """All rows by module.

    Raises:
        ValueError: names that do not work and that nobody explains, all of them.
    """
    found: dict[str, list[Row]] = {}
    wrong: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module, facts in names()["modules"].items():
            rows = found[module] = []
            for name, fact in facts.items():
                try:
                    rows.append(judge(module, name, fact))
                except ValueError as error:
                    wrong.append(str(error))
    if wrong:
        raise ValueError("\n".join(wrong))
    return found


def totals(rows: list[Row]) -> tuple[int, int, int, int]:
    """How many work, are ignored, are refused; how many in all."""
    count = [sum(row.status == status for row in rows) for status in (WORKS, IGNORED, REFUSED)]
    return count[0], count[1], count[2], len(rows)


def _line(title: str, rows: list[Row]) -> str:
    works, ignored, refused, total = totals(rows)
    share = f"{100 * works / total:.1f} %" if total else "-"
    return f"| {title} | {works} | {ignored} | {refused} | {total} | {share} |"


def summary(modules: dict[str, list[Row]]) -> str:
    """The totals as a table, which README.md shows too."""
    every = [row for rows in modules.values() for row in rows]
    promised = [row for module in PROMISED for row in modules[module]]
    lines = [
        "| | works | ignored | refused | names | works |",
        "|---|---|---|---|---|---|",
        _line("**public names of the promised modules**", [row for row in promised if not row.imported]),
        _line("names that those modules only import", [row for row in promised if row.imported]),
        _line("all names, the insides of Ray's packages too", every),
        *[_line(title, rows) for title, rows in options_rows()],
    ]
    return "\n".join(lines)


def readme(modules: dict[str, list[Row]]) -> str:
    """README.md with the present totals."""
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{summary(modules)}\n{END}{after}"


def render(modules: dict[str, list[Row]]) -> str:
    """The whole document."""
    parts = [
        "# Ray's names on Spoke",
        "",
        f"Every public name of Ray {names()['ray']}'s core, by module: does `import spoke as ray` (or "
        "`import ray` through `ray_compat`) have it?  Made by `python -m tests.coverage.table`; a test keeps "
        "it true.  What the names do is compared with real Ray by `tests/conformance`.",
        "",
        summary(modules),
        "",
        "Not in these modules, and refused as a whole:",
        "",
        *[f"- `{name}`: {why}" for name, why in sorted(absent.REFUSED.items()) if name.count(".") == 1],
        "",
        "## Modules",
        "",
        "| module | works | ignored | refused | names | works |",
        "|---|---|---|---|---|---|",
        *[_line(f"`{module}`", rows) for module, rows in modules.items() if rows],
        "",
        "## Names",
        "",
    ]
    for title, rows in [*modules.items(), *options_rows()]:
        if rows:
            parts += [f"### `{title}`" if "." in title or title == "ray" else f"### {title}", ""]
            parts += _listing(rows)
    return "\n".join(parts).rstrip() + "\n"


def _listing(rows: list[Row]) -> list[str]:
    works = [f"`{row.name}`" for row in rows if row.status == WORKS and not row.note]
    lines = [f"Work: {', '.join(works)}.", ""] if works else []
    others = [row for row in rows if row.note or row.status != WORKS]
    if others:
        lines += ["| name | is | why |", "|---|---|---|"]
        lines += [f"| `{row.name}` | {row.status} | {row.note} |" for row in others]
        lines.append("")
    return lines


def _main() -> int:
    parser = argparse.ArgumentParser(description="make or check spoke/COVERAGE.md")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if the file is out of date")
    check = parser.parse_args().check
    modules = judged()
    wanted = {TABLE: render(modules), README: readme(modules)}
    if check:
        return int(any(path.read_text(encoding="utf-8") != text for path, text in wanted.items()))
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(_main())

"""Helpers that cases use on every engine.

Rules: nothing here knows which engine runs; everything that a case returns is made comparable by
`canonical`; waiting is on conditions (flags, predicates), never on a fixed amount of time.
"""

from __future__ import annotations

import enum
import importlib
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

FLAG_PREFIX = "flag-"  # of what cases make in the temporary directory; the runner removes it
PATIENCE_S = 30.0  # how long a condition that must come true may take on a loaded machine

# For `init`: what cases do not look at.
QUIET: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
open_graphs: list[Any] = []  # of the case before; Ray's poll until they are torn down


def canonical(value: Any) -> Any:
    """A JSON-able form that keeps the differences which matter (tuple or list, bytes or str)."""
    if value is None or (isinstance(value, bool | int | str) and not isinstance(value, enum.Enum)):
        return value
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, list):
        return [canonical(item) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [canonical(item) for item in value]}
    if isinstance(value, dict):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return {"set": sorted(str(canonical(item)) for item in value)}
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return {"array": value.tolist(), "dtype": str(value.dtype)}
    return {"object": type(value).__name__}


def described(error: BaseException, *fragments: str, kinds: tuple[type, ...] = ()) -> dict[str, Any]:
    """What a user sees of an error: its type's name, which fragments its text has, its kinds."""
    text = str(error)
    seen: dict[str, Any] = {"error": type(error).__name__}
    if fragments:
        seen["has"] = [fragment for fragment in fragments if fragment in text]
    if kinds:
        seen["is"] = [kind.__name__ for kind in kinds if isinstance(error, kind)]
    return seen


def caught(call: Callable[[], Any], *fragments: str, kinds: tuple[type, ...] = ()) -> Any:
    """The error that `call` raises, described; or its value if it raises none."""
    try:
        value = call()
    except Exception as error:
        return described(error, *fragments, kinds=kinds)
    return {"value": canonical(value)}


def sub(ray: Any, name: str) -> Any:
    """The module `name` below the engine: ``sub(ray, "util.queue")``."""
    return importlib.import_module(f"{ray.__name__}.{name}")


class Flag:
    """A signal between processes of one machine: a file that exists or not.  Picklable."""

    def __init__(self) -> None:
        self.path = os.path.join(tempfile.mkdtemp(prefix=FLAG_PREFIX), "flag")

    def set(self) -> None:
        """Raise the flag."""
        with open(self.path, "a", encoding="utf-8"):
            pass

    def is_set(self) -> bool:
        """Whether the flag was raised."""
        return os.path.exists(self.path)

    def wait(self) -> bool:
        """Block until the flag is up."""
        return eventually(self.is_set)

    def append(self, line: str) -> None:
        """Add a line that `lines` of any process then shows; one write, so lines do not mix."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def lines(self) -> list[str]:
        """The lines appended until now."""
        if not self.is_set():
            return []
        with open(self.path, encoding="utf-8") as file:
            return file.read().splitlines()


def eventually(predicate: Callable[[], Any], seconds: float = PATIENCE_S) -> bool:
    """Whether `predicate` comes true within `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        if predicate():
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)


def settled(ray: Any) -> bool:
    """Wait until every resource of the cluster is free again; False if that does not happen."""

    def free() -> bool:
        have, total = ray.available_resources(), ray.cluster_resources()
        names = [name for name in total if name not in ("memory", "object_store_memory")]
        return all(abs(have.get(name, 0.0) - total[name]) < 1e-6 for name in names)

    return eventually(free)


def alive(pid: int) -> bool:
    """Whether a process of this machine lives (a zombie does not)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def actors_for_graphs(ray: Any, cls: type, count: int = 1) -> list[Any]:
    """So many actors, for a new case."""
    while open_graphs:
        open_graphs.pop().teardown(kill_actors=True)
    return [ray.remote(num_cpus=0)(cls).remote() for _ in range(count)]


def compiled(ray: Any, build: Callable[[Any], Any], **options: Any) -> Any:
    """The compiled graph of the node that `build` makes of the input."""
    with sub(ray, "dag").InputNode() as given:
        node = build(given)
    graph = node.experimental_compile(**options)
    open_graphs.append(graph)
    return graph

"""What in a value cannot be serialized, and where it is.

Functions are looked into by their closures and globals, other objects by their attributes, containers
by their items, down to a given depth; reported is the innermost thing that fails by itself.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from types import FunctionType
from typing import Any, TextIO

from spoke import absent, codec


class FailureTuple:
    """Something that cannot be serialized.

    Attributes:
        obj: the thing itself.
        path: names that lead to it, from the value that was asked about.
        parent: what holds it, or None.
    """

    def __init__(self, obj: Any, path: tuple[str, ...], parent: Any) -> None:
        self.obj = obj
        self.path = path
        self.parent = parent

    @property
    def name(self) -> str:
        """The last name of the path."""
        return self.path[-1]

    def __repr__(self) -> str:
        where = " -> ".join(self.path)
        return f"FailTuple({self.name} [path={where}, obj={self.obj}, parent={self.parent}])"


def inspect_serializability(
    base_obj: Any, name: str | None = None, depth: int = 3, print_file: TextIO | None = None
) -> tuple[bool, set[FailureTuple]]:
    """Can it be serialized?  If not, print and return what inside it cannot.

    Args:
        name: what to call the value; default its own name.
        depth: how many levels to look into.
        print_file: where to print, default standard output.
    """
    out = print_file or sys.stdout
    title = name or str(getattr(base_obj, "__name__", type(base_obj).__name__))
    print(f"Checking whether {title} can be serialized: {base_obj!r}", file=out)
    failures: list[FailureTuple] = []
    if _search(base_obj, (title,), None, depth, failures, set(), out):
        return True, set()
    for failure in failures:
        print(f"cannot be serialized: {failure}", file=out)
    print("Create it inside the task or actor, or register a serializer for its class.", file=out)
    return False, set(failures)


def _search(
    value: Any,
    path: tuple[str, ...],
    parent: Any,
    depth: int,
    failures: list[FailureTuple],
    seen: set[int],
    out: TextIO,
) -> bool:
    try:
        codec.dumps(value)
    except Exception as error:
        print(f"{'  ' * (len(path) - 1)}{path[-1]}: {error}", file=out)
    else:
        return True
    before = len(failures)
    if depth > 0:
        for inner_name, inner in _inside(value):
            if id(inner) not in seen:
                seen.add(id(inner))
                _search(inner, (*path, inner_name), value, depth - 1, failures, seen, out)
    if len(failures) == before:
        failures.append(FailureTuple(value, path, parent))
    return False


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    function = getattr(value, "_function", value)
    if isinstance(function, FunctionType):
        found = inspect.getclosurevars(function)
        yield from found.globals.items()
        yield from found.nonlocals.items()
    elif isinstance(value, dict):
        for key, item in value.items():
            yield str(key), item
    elif isinstance(value, list | tuple | set | frozenset):
        for index, item in enumerate(value):
            yield str(index), item
    else:
        yield from getattr(value, "__dict__", {}).items()


__getattr__ = absent.getter(__name__)

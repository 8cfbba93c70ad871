"""Label selectors: which nodes may be used, by their labels.

Rules of this module: a selector is parsed once into ``(key, operator, values)`` and matched many
times.  Accepted forms of a value: ``"v"``, ``"!v"``, ``"in(a,b)"``, ``"!in(a,b)"``, a list of
admitted values, and ``{"op": "in"|"not_in"|"exists"|"does_not_exist", "values": [...]}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

Selector = tuple[str, str, tuple[str, ...]]

_OPERATORS: Final = ("in", "not_in", "exists", "does_not_exist")


def parse(selector: Mapping[str, Any] | None) -> tuple[Selector, ...]:
    """All conditions of one selector.

    Raises:
        ValueError: a key or value that is none of the accepted forms.
    """
    if not selector:
        return ()
    return tuple(_parse_one(key, value) for key, value in selector.items())


def _parse_one(key: Any, value: Any) -> Selector:
    if type(key) is not str or not key:
        raise ValueError(f"label selector: {key!r} is not a label name")
    if isinstance(value, str):
        text = value.strip()
        operator = "in"
        if text.startswith("!"):
            operator, text = "not_in", text[1:].strip()
        if text.startswith("in(") and text.endswith(")"):
            return key, operator, tuple(part.strip() for part in text[3:-1].split(","))
        return key, operator, (text,)
    if isinstance(value, (list, tuple)):
        return key, "in", _texts(key, value)
    if isinstance(value, Mapping):
        operator = value.get("op", "")
        if operator in _OPERATORS:
            return key, operator, _texts(key, value.get("values") or ())
    raise ValueError(f"label selector: {key!r}: {value!r} is not a condition")


def _texts(key: str, values: Sequence[Any]) -> tuple[str, ...]:
    if not all(isinstance(value, str) for value in values):
        raise ValueError(f"label selector: {key!r}: the values must be text")
    return tuple(values)


def matches_all(selectors: Sequence[Selector], labels: Mapping[str, str]) -> bool:
    """Whether a node with these labels satisfies every condition."""
    for key, operator, values in selectors:
        label = labels.get(key)
        if operator == "in":
            if label not in values:
                return False
        elif operator == "not_in":
            if label in values:
                return False
        elif (label is None) == (operator == "exists"):
            return False
    return True


def count_matching(selectors: Sequence[Selector], labels: Mapping[str, str]) -> int:
    """How many of the conditions a node satisfies (for preferences)."""
    return sum(matches_all((selector,), labels) for selector in selectors)


def show(selectors: Sequence[Selector]) -> str:
    """Readable form for error texts."""
    return ", ".join(f"{key} {operator}({','.join(values)})" for key, operator, values in selectors)

"""Labels of nodes, and selectors by them: what may be written, and why something may not.

Rules of this module: the form is Ray's.  A key is ``[prefix/]name``; a value of a selector is ``value``,
``!value``, ``in(a,b)`` or ``!in(a,b)``.  What `spoke.core.selectors` then reads is never in doubt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

RESERVED: Final = "ray.io/"  # the prefix of labels that a node gives itself

_WORD: Final = r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_NAME: Final = re.compile(_WORD)
_PREFIX: Final = re.compile(rf"(?:{_WORD.replace('61', '251')})?")
_SELECTOR: Final = re.compile(rf"!?(?:{_WORD}|in\({_WORD}(?:, ?{_WORD})*\))|")
_SHAPE: Final = (
    "must be 63 chars or less beginning and ending with an alphanumeric character ([a-z0-9A-Z]) "
    "with dashes (-), underscores (_), dots (.), and alphanumerics between."
)


def key_problem(key: str) -> str | None:
    """What is wrong with the key of a label, or None."""
    prefix, _, name = key.rpartition("/")
    if not _PREFIX.fullmatch(prefix):
        return (
            f"Invalid label key prefix `{prefix}`. Prefix must be a series of DNS labels separated by dots "
            "(.), not longer than 253 characters in total."
        )
    if not _NAME.fullmatch(name):
        return f"Invalid label key name `{name}`. Name {_SHAPE}"
    return None


def value_problem(value: str) -> str | None:
    """What is wrong with the value of a node's label, or None; it may be empty."""
    if value and not _NAME.fullmatch(value):
        return f"Invalid label key value `{value}`. Value {_SHAPE}"
    return None


def condition_problem(value: str) -> str | None:
    """What is wrong with the value of a selector, or None."""
    if not _SELECTOR.fullmatch(value):
        return (
            f"Invalid label selector value `{value}`. The label selector value should contain optional "
            f"operators and a label value. Supported operators are: ! and in(). Value {_SHAPE}"
        )
    return None


def selector_problem(selector: Mapping[str, str] | None) -> str | None:
    """What is wrong with a selector of text by text, or None."""
    for key, value in (selector or {}).items():
        problem = key_problem(key) or condition_problem(value)
        if problem:
            return problem
    return None


def fallback_problem(strategies: list[dict[str, Any]] | None) -> str | None:
    """What is wrong with a list of selectors that are tried in turn, or None."""
    for one in strategies or ():
        if not isinstance(one, dict):
            return "Each element in fallback_strategy must be a dictionary."
        if not one:
            return "Empty dictionary found in `fallback_strategy`."
        for name in one:
            if name != "label_selector":
                return f"Unsupported option found: '{name}'. Only ['label_selector'] is currently supported."
        selector = one["label_selector"]
        if selector is not None and not isinstance(selector, dict):
            return 'The value of "label_selector" must be a dictionary.'
        problem = selector_problem(selector)
        if problem:
            return problem
    return None


def check_node_labels(labels: Mapping[str, str]) -> None:
    """Check keys and values of a node's labels.

    Raises:
        ValueError: a key or value of another form.
    """
    for key, value in labels.items():
        problem = key_problem(key) or value_problem(value)
        if problem:
            raise ValueError(problem)


def check_not_reserved(labels: Mapping[str, str]) -> None:
    """Check that no key begins with `RESERVED`.

    Raises:
        ValueError: one does.
    """
    for key in labels:
        if key.startswith(RESERVED):
            raise ValueError(
                f"Custom label keys `{key}` cannot start with the prefix `{RESERVED}`. "
                "This is reserved for Ray defined labels."
            )


def parse_text(text: str) -> dict[str, str]:
    """Labels of ``key=value,key=value``.

    Raises:
        ValueError: not of this form.
    """
    found = {}
    for pair in text.split(",") if text else ():
        parts = pair.split("=")
        if len(parts) != 2:
            raise ValueError("Label string is not a key-value pair.")
        found[parts[0].strip()] = parts[1].strip()
    check_node_labels(found)
    return found


def parse_json(text: str) -> dict[str, str]:
    """Labels of a JSON object.

    Raises:
        ValueError: not JSON (`json.JSONDecodeError`), not text to text, or a reserved key.
    """
    found = _texts(json.loads(text), "the ")
    check_not_reserved(found)
    return found


def parse_yaml_file(path: str) -> dict[str, str]:
    """Labels of a YAML file with a map; none for no path.

    Raises:
        OSError: it cannot be read.
        ValueError: not text to text, or of another form.
    """
    if not path:
        return {}
    try:
        import yaml
    except ImportError:
        raise ValueError("a file of labels is YAML and needs PyYAML: pip install pyyaml") from None
    with open(path, encoding="utf-8") as file:
        found = _texts(yaml.safe_load(file))
    check_node_labels(found)
    return found


def _texts(found: Any, article: str = "") -> dict[str, str]:
    if not isinstance(found, dict):
        raise ValueError("The format after deserialization is not a key-value pair map.")
    for key, value in found.items():
        if not isinstance(key, str):
            raise ValueError("The key is not string type.")
        if not isinstance(value, str):
            raise ValueError(f'The value of {article}"{key}" is not string type.')
    return found

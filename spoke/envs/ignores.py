"""Which files of a directory belong to its package: patterns as git has them.

Rules of this module: pure text; a path is relative to the directory that holds the patterns, its parts
separated by "/".  The last pattern that matches decides; what lies in an excluded directory is excluded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

IGNORE_FILES = (".gitignore", ".rayignore")


class Patterns:
    """The lines of an ignore file."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._rules = [rule for rule in map(_rule, lines) if rule is not None]

    def __bool__(self) -> bool:
        return bool(self._rules)

    def excludes(self, path: str, is_dir: bool) -> bool:
        """Is this path left out?"""
        for expression, keeps, directories_only in reversed(self._rules):
            if (is_dir or not directories_only) and expression.fullmatch(path):
                return not keeps
        return False


def _rule(line: str) -> tuple[re.Pattern[str], bool, bool] | None:
    """(expression, is it a "!" pattern, directories only), or None for a comment."""
    text = line.rstrip("\r\n")
    while text.endswith(" ") and not text.endswith("\\ "):
        text = text[:-1]
    if not text or text.startswith("#"):
        return None
    keeps = text.startswith("!")
    text = text[1:] if keeps else text
    directories_only = text.endswith("/")
    text = text.rstrip("/") if directories_only else text
    anchored = "/" in text
    text = text.lstrip("/")
    if text.startswith("./"):
        text = text[2:]
    if not text:
        return None
    body = _translate(text)
    return re.compile(body if anchored else f"(?:.*/)?{body}", re.DOTALL), keeps, directories_only


def _translate(text: str) -> str:
    """A regular expression for a pattern without "!", leading or trailing "/"."""
    parts = text.split("/")
    found: list[str] = []
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part == "**":
            found.append(".*" if last else "(?:.*/)?")
        else:
            found.append(_translate_part(part) + ("" if last else "/"))
    return "".join(found)


def _translate_part(part: str) -> str:
    found = []
    position = 0
    while position < len(part):
        char = part[position]
        position += 1
        if char == "*":
            while position < len(part) and part[position] == "*":
                position += 1
            found.append("[^/]*")
        elif char == "?":
            found.append("[^/]")
        elif char == "\\" and position < len(part):
            found.append(re.escape(part[position]))
            position += 1
        elif char == "[" and (end := _end_of_set(part, position)) > 0:
            inner = part[position:end].replace("\\", "\\\\")
            inner = "^" + inner[1:] if inner[0] in "!^" else inner
            found.append(f"(?!/)[{inner}]")
            position = end + 1
        else:
            found.append(re.escape(char))
    return "".join(found)


def _end_of_set(part: str, start: int) -> int:
    """Where the set that begins at `start` is closed; -1: it is not, and "[" means itself."""
    first = start + 1 if part[start : start + 1] in ("!", "^") else start
    return part.find("]", first + 1)

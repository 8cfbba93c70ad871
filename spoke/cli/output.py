"""How rows are printed: as a table for people, as JSON or YAML for programs.

A table is never folded: an id must stay one word that can be copied.  In a terminal that is too narrow the
terminal itself wraps the lines.  In a pipe there is plain text without control codes.
"""

from __future__ import annotations

import json
import re
import sys
import time
from typing import Any, Final

import click

FORMATS: Final = ("default", "json", "yaml", "table")
NOTHING: Final = "No resource in the cluster"
_RULE: Final = "-" * 30
# Texts that YAML reads as themselves without quotes.
_PLAIN: Final = re.compile(r"[A-Za-z_/][A-Za-z0-9_/.:@+-]*[A-Za-z0-9_/.@+-]|[A-Za-z_/]")
_WORDS: Final = frozenset(("null", "true", "false", "yes", "no", "on", "off", "y", "n", "none"))


def print_rows(rows: list[dict[str, Any]], columns: list[str], form: str, title: str = "List") -> None:
    """A list: a table of `columns`, or every field as JSON or YAML."""
    if form == "json":
        click.echo(json.dumps(rows, default=_plain))
    elif form == "yaml":
        click.echo(as_yaml(rows), nl=False)
    elif not rows:
        click.echo(NOTHING)
    else:
        heading(title)
        click.echo(f"Stats:\n{_RULE}\nTotal: {len(rows)}\n\nTable:\n{_RULE}")
        print_table([name.upper() for name in columns], [[row[name] for name in columns] for row in rows])


def heading(title: str) -> None:
    """The line above a report."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    click.echo(f"\n======== {title}: {stamp} ========")


def print_table(headers: list[str], rows: list[list[Any]], numbered: bool = True) -> None:
    """Rows below their headers; numbers to the right, all else to the left."""
    cells = [[_cell(value) for value in row] for row in rows]
    right = [
        bool(rows) and all(isinstance(row[i], (int, float)) for row in rows) for i in range(len(headers))
    ]
    if numbered:
        headers = ["", *headers]
        cells = [[str(number), *row] for number, row in enumerate(cells)]
        right = [True, *right]
    widths = [max([len(headers[i]), *(len(row[i]) for row in cells)]) for i in range(len(headers))]

    def line(row: list[str]) -> str:
        parts = [
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(row, widths, right, strict=True)
        ]
        return "  ".join(parts).rstrip()

    lines = [line(row) for row in cells]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.text import Text

        console = Console(highlight=False, soft_wrap=True)
        console.print(Text(line(headers), style="bold"))
        console.print(Text("\n".join(lines)))
    else:
        click.echo("\n".join([line(headers), *lines]))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if (
        isinstance(value, dict)
        and value
        and all(isinstance(one, (int, float, str)) for one in value.values())
    ):
        return ", ".join(f"{name}: {_number(one)}" for name, one in value.items())
    if isinstance(value, (dict, list)):
        return json.dumps(value, default=_plain) if value else ""
    return " ".join(_number(value).split())


def _number(value: Any) -> str:
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else f"{value:.6g}"
    return str(value)


def _plain(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


# -- YAML


def as_yaml(value: Any) -> str:
    """One YAML document of dicts, lists and scalars."""
    return "---\n" + "".join(f"{line}\n" for line in _yaml_lines(value)) + "...\n"


def _yaml_lines(value: Any) -> list[str]:
    if isinstance(value, dict) and value:
        lines = []
        for key, inner in value.items():
            if isinstance(inner, (dict, list)) and inner:
                lines += [f"{_yaml_scalar(str(key))}:", *(f"    {line}" for line in _yaml_lines(inner))]
            else:
                lines.append(f"{_yaml_scalar(str(key))}: {_yaml_scalar(inner)}")
        return lines
    if isinstance(value, (list, tuple)) and value:
        lines = []
        for inner in value:
            first, *rest = _yaml_lines(inner)
            lines += [f"-   {first}", *(f"    {line}" for line in rest)]
        return lines
    return [_yaml_scalar(value)]


def _yaml_scalar(value: Any) -> str:
    if isinstance(value, (dict, list, tuple)):
        return "{}" if isinstance(value, dict) else "[]"
    if value is None or isinstance(value, (bool, int, float)):
        return json.dumps(value)
    text = _plain(value)
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return json.dumps(text)

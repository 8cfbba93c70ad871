"""``python -m ray_compat script.py [args]``: run a Ray program on Spoke, with its children.

The interpreter is started anew with the search path set, so that the program runs exactly as by
``python script.py [args]``; ``-m module`` and ``-c code`` work as well.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import NoReturn

import ray_compat

USAGE = """usage: python -m ray_compat script.py [args]
       python -m ray_compat -m module [args]
       python -m ray_compat -c code [args]
       python -m ray_compat --path     print the folder to put first into PYTHONPATH
       python -m ray_compat --bin      print the folder with the executable `ray`, for PATH
"""


def main() -> int:
    """Entry of the command; does not return where a program is run."""
    status = _answer(sys.argv[1:])
    if status is None:
        _run(sys.argv[1:])
    return status


def _run(arguments: list[str]) -> NoReturn:
    ray_compat.install()
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    os.execv(sys.executable, [sys.executable, *flags, *arguments])


def _answer(arguments: list[str]) -> int | None:
    """The exit status where no program is to be run, after saying why."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="", file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    if arguments[0] == "--path":
        print(ray_compat.search_path())
        return 0
    if arguments[0] == "--bin":
        print(ray_compat.executables())
        return 0
    if arguments[0].startswith("-") and arguments[0] not in ("-m", "-c"):
        print(f"ray_compat: unknown option {arguments[0]!r}\n{USAGE}", end="", file=sys.stderr)
        return 2
    if arguments[0] in ("-m", "-c") and len(arguments) == 1:
        print(f"ray_compat: {arguments[0]} needs an argument\n{USAGE}", end="", file=sys.stderr)
        return 2
    if sys.flags.ignore_environment:
        print(
            "ray_compat: this interpreter ignores PYTHONPATH (-E or -I), by which `ray` is found; "
            "run it without that option",
            file=sys.stderr,
        )
        return 2
    return None


if __name__ == "__main__":
    sys.exit(main())

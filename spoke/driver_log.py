"""Workers' output at the driver: each line with the name and pid it came from."""

from __future__ import annotations

import sys
from typing import Any

from spoke import logs


def print_lines(node_id: bytes, pid: int, name: str, stream: str, lines: list[Any]) -> None:
    """Print lines of a worker's stdout or stderr to the stream of the same name."""
    target = sys.stderr if stream in ("stderr", "err") else sys.stdout
    try:
        target.write(logs.format_lines(name, pid, "", lines))
        target.flush()
    except (ValueError, OSError):
        pass  # the driver closed its output

"""What user code prints in a worker, with the name of the task or actor in the stream itself.

The name is written (`logs.marker`) only right before something is printed, and only where it differs
from the last one, so a call that prints nothing costs nothing.  Output that goes past Python's
`sys.stdout` and `sys.stderr` belongs to whatever printed last.
"""

from __future__ import annotations

import io
import sys
from typing import Any

from spoke import logs
from spoke.running import running


class MarkedStream(io.TextIOWrapper):
    """A text stream, line by line, that names what writes to it."""

    _last = ""

    def write(self, text: str) -> int:
        """As of any text stream."""
        name = _name()
        if name and name != self._last:
            self._last = name
            super().write(logs.marker(name).decode())
        return super().write(text)


def _name() -> str:
    host = running.actor
    if host is not None:
        return str(host.shown_name)
    job = running.job()
    return "" if job is None else str(job.name)


def install() -> None:
    """Replace the standard output and error of this worker."""
    sys.stdout = sys.__stdout__ = _marked(sys.stdout)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _marked(sys.stderr)  # type: ignore[misc]


def _marked(stream: Any) -> Any:
    if stream is None:
        return None
    encoding, errors = stream.encoding, stream.errors
    return MarkedStream(stream.detach(), encoding, errors, line_buffering=True)

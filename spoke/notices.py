"""What happens in a job that nobody waits for: said to the user at once, told to programs that subscribed.

Kinds of notices have Ray's names, as programs look for those.  Subscribers are called wherever a notice comes
up, with the engine's lock held or not, so all they may do is to hand it on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

from spoke import config

LIBRARY: Final = "ray"  # the logger of programs' engine, whatever its name here
WORKER_DIED: Final = "worker_died"
NODE_REMOVED: Final = "node_removed"
LARGE_PICKLE: Final = "pickling_large_object"
MANY_QUEUED: Final = "excess_queueing_warning"

errors: list[Callable[[str, str], None]] = []  # called with kind and text
lines: list[Callable[[dict[str, Any]], None]] = []  # called with a batch of a worker's output
show = True  # whether notices are printed: not where the workers' output is not


def warn(kind: str, text: str) -> None:
    """Something went wrong, or will."""
    for subscriber in errors:
        subscriber(kind, text)
    if show:
        try:
            print(f"spoke: {text}", file=sys.stderr, flush=True)
        except (ValueError, OSError):
            pass  # the program closed its output


def node_removed(node_id: bytes, reason: str) -> None:
    """A node is gone that did not leave by itself."""
    warn(NODE_REMOVED, f"The node with node id: {node_id.hex()} has been marked dead: {reason}.")


def log_unhandled(error: BaseException) -> None:
    """A call failed, and nobody has asked for its result."""
    import logging

    text = f"Unhandled error (suppress with 'RAY_IGNORE_UNHANDLED_ERRORS=1'): {error}"
    logging.getLogger(LIBRARY).error(text)


on_unhandled: Callable[[BaseException], None] = log_unhandled


def unhandled(error: BaseException) -> None:
    """As `log_unhandled`, unless the user does not want to know, or wants it elsewhere."""
    if not config.get("ignore_unhandled_errors"):
        on_unhandled(error)

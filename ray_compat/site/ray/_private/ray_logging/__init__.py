"""Names of `ray._private.ray_logging`: the logger of Ray's name, and how workers' lines are shown."""

from __future__ import annotations

import logging

from spoke.dedup import LogDeduplicator as LogDeduplicator

_handler: logging.Handler | None = None


def setup_logger(logging_level: str | int, logging_format: str) -> None:
    """Log what the logger ``ray`` is told, from this level on, to standard error."""
    global _handler
    logger = logging.getLogger("ray")
    logger.setLevel(logging_level.upper() if isinstance(logging_level, str) else logging_level)
    if _handler is None:
        _handler = logging.StreamHandler()
        logger.addHandler(_handler)
    _handler.setFormatter(logging.Formatter(logging_format))
    logger.propagate = False

"""Where Spoke answers otherwise than Ray on purpose: the reason, and what Spoke answers.

Keys are ``area/case``.  A case that is here and agrees with Ray fails, so that the table stays true.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Difference(NamedTuple):
    """A deliberate difference."""

    reason: str
    spoke: Any


DIFFERENCES: dict[str, Difference] = {}

"""Which Spoke this is, and whose interface it has."""

from __future__ import annotations

__version__ = "0.2.0"
RAY_VERSION = "2.60.0"

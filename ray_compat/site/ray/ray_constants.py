"""Where older programs look for `ray._private.ray_constants`."""

from __future__ import annotations

from ray._private.ray_constants import *  # noqa: F403

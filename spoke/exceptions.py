"""Public name of Spoke's errors, as `ray.exceptions` is Ray's."""

from __future__ import annotations

from spoke.errors import *  # noqa: F403
from spoke.errors import RAY_EXCEPTION_TYPES as RAY_EXCEPTION_TYPES

"""Public name of Spoke's errors, as `ray.exceptions` is Ray's."""

from __future__ import annotations

from typing import Final

from spoke import absent
from spoke.errors import *  # noqa: F403
from spoke.errors import RAY_EXCEPTION_TYPES as RAY_EXCEPTION_TYPES

PYTHON: Final = 0  # the language of every task and actor

__getattr__ = absent.getter(__name__)

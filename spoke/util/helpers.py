"""Names of `ray.util.helpers`: results as they come."""

from __future__ import annotations

from typing import Final

from spoke import absent
from spoke.util.iterating import as_completed as as_completed
from spoke.util.iterating import map_unordered as map_unordered

DEFAULT_CHUNK_SIZE: Final = 10  # refs taken at a time
DEFAULT_BACKPRESSURE_SIZE: Final = 100  # calls under way at a time

__all__ = ["DEFAULT_BACKPRESSURE_SIZE", "DEFAULT_CHUNK_SIZE", "as_completed", "map_unordered"]

__getattr__ = absent.getter(__name__)

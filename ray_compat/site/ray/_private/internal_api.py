"""Names of `ray._private.internal_api`: what is in the object stores, as a text, and the end of objects."""

from __future__ import annotations

from ray.scripts import scripts as _scripts
from spoke import internal as _internal

memory_summary = _scripts.memory_summary
free = _internal.free

"""Names of `ray.types`."""

from __future__ import annotations

from spoke.objectref import ObjectRef as ObjectRef

__all__ = ["ObjectRef"]

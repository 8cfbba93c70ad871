"""Names of `ray.types`."""

from __future__ import annotations

from spoke import absent
from spoke.objectref import ObjectRef as ObjectRef

__all__ = ["ObjectRef"]

__getattr__ = absent.getter(__name__)

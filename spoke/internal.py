"""Names of `ray.internal`."""

from __future__ import annotations

from typing import Any


def free(object_refs: Any, local_only: bool = False) -> None:
    """Let go of objects; accepted, and without effect beyond the check of the arguments.

    The memory of an object is given back with its last ref: drop the refs instead.

    Raises:
        TypeError: not a ref or a list of refs.
    """
    from spoke.objectref import ObjectRef

    refs = [object_refs] if isinstance(object_refs, ObjectRef) else object_refs
    if not isinstance(refs, list | tuple) or not all(isinstance(ref, ObjectRef) for ref in refs):
        raise TypeError(f"free() expects a list of ObjectRef, got {object_refs!r}")

"""Names of `ray.internal`."""

from __future__ import annotations

from typing import Any


def free(object_refs: Any, local_only: bool = False) -> None:
    """Let go of objects of this process although refs to them exist: who gets one is told so by name.

    The memory is given back with an object's last ref, as always, since somebody may look at it; objects
    that other processes own, and those that are not there yet, stay as they are.

    Raises:
        TypeError: not a ref or a list of refs.
    """
    from spoke import current
    from spoke.objectref import ObjectRef

    refs = [object_refs] if isinstance(object_refs, ObjectRef) else object_refs
    if not isinstance(refs, list | tuple) or not all(isinstance(ref, ObjectRef) for ref in refs):
        raise TypeError(f"free() expects a list of ObjectRef, got {object_refs!r}")
    replies = getattr(current.client, "replies", None)  # none on another engine
    if replies is not None:
        replies.free([ref._entry for ref in refs])

"""`spoke.why`: the same answers as ``spoke why ID``, for what a program holds."""

from __future__ import annotations

from typing import Any

from spoke import current, inquiry
from spoke.handles import engine
from spoke.ids import ACTOR_BYTES, GROUP_BYTES, OBJECT_BYTES


def why(of: Any) -> str:
    """Why something is not there yet, or what it does: text for people, its first line says it all.

    For an object: which argument its task waits for and how that is made, what resources are lacking and who
    holds them, or on which worker it runs, since when (seconds) and at which line.  For an actor: the same of
    its creation, its state, what it runs.  For a gang or placement group: what each node lacks.

    Args:
        of: an ObjectRef, ObjectRefGenerator, actor handle, gang or placement group, or the hexadecimal id of
            one.

    Raises:
        TypeError: none of these.
        ValueError: not such an id, or nothing is known of it.
    """
    name = _id_of(of)
    return inquiry.why(current.client or engine(), name)


def _id_of(of: Any) -> bytes:
    if isinstance(of, str):
        try:
            name = bytes.fromhex(of)
        except ValueError:
            name = b""
        if len(name) not in (ACTOR_BYTES, GROUP_BYTES, OBJECT_BYTES):
            raise ValueError(f"{of!r} is not the hexadecimal id of an object, actor or placement group")
        return name
    from spoke.gang import Gang
    from spoke.handles import ActorHandle
    from spoke.objectref import ObjectRef
    from spoke.streams import ObjectRefGenerator
    from spoke.util.placement_group import PlacementGroup

    if isinstance(of, ObjectRef):
        return of.binary()
    if isinstance(of, ObjectRefGenerator):
        return bytes(of.completed().binary())
    if isinstance(of, ActorHandle):
        return bytes(of._core.actor_id)
    if isinstance(of, (Gang, PlacementGroup)):
        return bytes.fromhex(of.id if isinstance(of, Gang) else of.id.hex())
    raise TypeError(f"why() takes a ref, actor handle, gang or placement group, not {type(of).__name__}")

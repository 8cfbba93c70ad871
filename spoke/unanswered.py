"""What calls and refs become that nobody answers any more: an owner, a worker or an actor is gone."""

from __future__ import annotations

from typing import Final

from spoke import codec
from spoke.core.channels import ActorChannel
from spoke.core.obituary import describe_death
from spoke.core.refs import SYSTEM

OWNER_DIED: Final = ("OwnerDiedError", "The process that owned the object has died.")
WORKER_DIED: Final = "A worker died or was killed while executing a task by an unexpected system error"
OBJECT_FREED: Final = ("ObjectFreedError", "The object is no longer held by its owner.")

# How a dead actor ended that never got a place -> the error of its calls.
_NEVER_PLACED: Final = {
    "unschedulable": "ActorUnschedulableError",
    "group_gone": "ActorPlacementGroupRemoved",
    "runtime_env": "RuntimeEnvSetupError",
}


def encode_error(name: str, text: str) -> list[bytes]:
    """Value of a SYSTEM error: the class's name in `spoke.errors` and the message."""
    return [codec.dumps((name, text))[0]]


def dead_actor_value(channel: ActorChannel) -> tuple[int, list[bytes]]:
    """Status and value of every call to a dead actor."""
    if channel.payload:
        return SYSTEM, [bytes(channel.payload)]
    error = _NEVER_PLACED.get(str(channel.info.get("kind")))
    if error is not None:
        return SYSTEM, encode_error(error, str(channel.info.get("cause")))
    text = describe_death(channel.name, channel.info, channel.actor_id)
    return SYSTEM, encode_error("ActorDiedError", text)

"""Names of `ray.actor`."""

from __future__ import annotations

from typing import Final, NoReturn

from spoke import absent
from spoke.actorclass import ActorClass as ActorClass
from spoke.actorclass import ActorClassInheritanceException as ActorClassInheritanceException
from spoke.actormeta import ASYNC_CONCURRENCY
from spoke.api import method as method
from spoke.errors import AsyncioActorExit
from spoke.handles import ActorHandle as ActorHandle
from spoke.handles import ActorMethod as ActorMethod

DEFAULT_MAX_CONCURRENCY_ASYNC: Final = ASYNC_CONCURRENCY  # calls at a time of an async actor


def exit_actor() -> NoReturn:
    """End the actor that this is called in, after answering the call with ActorDiedError; no restart.

    Raises:
        TypeError: not called in an actor.
        SystemExit: always, in a thread of the actor; AsyncioActorExit in a coroutine.
    """
    from spoke import current

    client = current.client
    facts = client.runtime_context if client is not None else {}
    if not facts.get("actor_id"):
        raise TypeError("exit_actor API is called on a non-actor worker.")
    if facts.get("leave"):  # the engine's own way
        facts["leave"]()
    if facts.get("in_coroutine"):
        raise AsyncioActorExit("exit_actor() was called")
    raise SystemExit(0)  # the worker takes code 0 for meant, and does not restart the actor


__all__ = [
    "DEFAULT_MAX_CONCURRENCY_ASYNC",
    "ActorClass",
    "ActorClassInheritanceException",
    "ActorHandle",
    "ActorMethod",
    "exit_actor",
    "method",
]
__getattr__ = absent.getter(__name__)

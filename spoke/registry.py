"""Actor classes by name: registered once, spawned from processes that never imported them.

Rules of this module: a registration is a pickled class under its name in the cluster's key-value
store, in a namespace of the store that is Spoke's own; it lasts as long as the cluster, and a later
one of the same name replaces it.  A class registered before `init` is stored at its first need.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from spoke import codec, current
from spoke.actorclass import ActorClass
from spoke.api import get, remote
from spoke.errors import ActorUnschedulableError, GetTimeoutError
from spoke.handles import ActorHandle, engine

if TYPE_CHECKING:
    from spoke.client import Client

SPACE: Final = "spoke:actor_types"

_classes: dict[str, ActorClass] = {}  # registered by this process
_stored: tuple[int, set[str]] = (0, set())  # id of the engine they are stored through, names


def register(name: str, **options: Any) -> Callable[[Any], Any]:
    """Class decorator: make the class known to the cluster as `name`.

    Args:
        **options: of `remote`, for actors spawned by this name.

    Raises:
        ValueError: `name` is empty or no text, or an option is wrong.
        TypeError: what is decorated is not a class.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"the name of an actor type is a text, not {name!r}")

    def decorate(cls: Any) -> Any:
        actor = cls if isinstance(cls, ActorClass) else (remote(**options)(cls) if options else remote(cls))
        if not isinstance(actor, ActorClass):
            raise TypeError(f"an actor type is a class, not {cls!r}")
        _classes[name] = actor
        _stored[1].discard(name)
        if current.client is not None:
            _store(current.client)
        return cls

    return decorate


def _store(client: Client) -> None:
    """Store what this process has registered and this cluster does not have from it."""
    global _stored
    if _stored[0] != id(client):
        _stored = (id(client), set())
    for name, actor in _classes.items():
        if name not in _stored[1]:
            blob = codec.dumps_function(actor)
            client.request("kv_put", namespace=SPACE, key=name.encode(), value=blob)
            _stored[1].add(name)


def actor_types() -> list[str]:
    """The names of all registered actor classes, sorted."""
    client = current.client or engine()
    _store(client)
    keys = client.request("kv_keys", namespace=SPACE, prefix=b"")
    return sorted(bytes(key).decode() for key in keys)


def spawn(type_name: str, /, *args: Any, name: str | None = None, **kwargs: Any) -> ActorHandle:
    """Start an actor of a registered class; see `wait_ready`.

    Args:
        name: of the actor, for `get_actor`; unique in the namespace.

    Raises:
        ValueError: no class is registered as `type_name`; the actor's name is taken.
        TypeError: the arguments do not fit the constructor.
    """
    client = current.client or engine()
    _store(client)
    blob = client.request("kv_get", namespace=SPACE, key=str(type_name).encode())
    if blob is None:
        raise ValueError(f"unknown actor type {type_name!r}; registered: {actor_types()}")
    actor: ActorClass = codec.loads(blob)
    if name is not None:
        actor = actor.options(name=name)
    return actor.remote(*args, **kwargs)


def wait_ready(handle: ActorHandle, timeout: float | None = None) -> None:
    """Wait until an actor's constructor has returned.

    Args:
        timeout: seconds; None waits for ever.

    Raises:
        ActorDiedError: the constructor raised (with its traceback), or the process died.
        ActorUnschedulableError: `timeout` passed, and no node of the cluster could ever hold the actor.
        GetTimeoutError: `timeout` passed; the text says what the actor waits for.
    """
    if not isinstance(handle, ActorHandle):
        raise TypeError(f"wait_ready() takes an actor handle, not {type(handle).__name__}")
    started = time.monotonic()
    try:
        get(handle.__ray_ready__.remote(), timeout=timeout)
    except GetTimeoutError:
        client = current.client or engine()
        reason = str(client.request("why", id=handle._core.actor_id))
        text = f"not ready after {time.monotonic() - started:.1f} s: {reason}"
        if reason.startswith("No node"):
            raise ActorUnschedulableError(text) from None
        raise GetTimeoutError(f"the actor is {text}") from None

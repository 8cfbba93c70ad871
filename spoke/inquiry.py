"""Why an object is not there, told by the process that owns it and by all it depends on.

The owner looks at its own tables (`core/pending.py`) and asks the hub for the rest: what a class of tasks or
an actor waits for, what the worker of a call does, who owns an argument and what that waits for in turn.
Rules of this module: nothing here is on the path of a call; questions of others are answered by a thread of
their own, as answering takes questions in turn.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

from spoke import wire
from spoke.core.inquiries import PREFIX_BYTES
from spoke.core.pending import Pending, examine, unready
from spoke.errors import RayError
from spoke.ids import ACTOR_BYTES, OBJECT_BYTES

if TYPE_CHECKING:
    from spoke.client import Client

DEPTH_MAX: Final = 4  # arguments of arguments
ARGUMENTS_MAX: Final = 5  # of each call
ASK_S: Final = 8.0  # more than what the hub waits for a process


def answer_later(client: Client, number: int, name: bytes) -> None:
    """EXPLAIN: another process asks; lock held."""
    threading.Thread(target=_answer, args=(client, number, name), name="spoke-explain", daemon=True).start()


def _answer(client: Client, number: int, name: bytes) -> None:
    try:
        text = explain(client, name)
    except Exception as error:  # whatever it is, the one who asks waits for words
        text = f"it cannot say: {type(error).__name__}: {error}"
    with client.lock:
        client.hub.tell(wire.REQUEST, 0, "explained", {"number": number, "text": text})


def explain(client: Client, name: bytes) -> str:
    """Of an object of this process, or of a call or the actor that it runs."""
    if len(name) == OBJECT_BYTES:
        return why_object(client, name)
    if client.executor is None:
        return "it runs no calls"
    return str(client.executor.explain(name))


def why(client: Client, name: bytes) -> str:
    """Of any id.

    Raises:
        ValueError: nothing is known of it.
    """
    if len(name) == OBJECT_BYTES:
        return why_object(client, name)
    if len(name) == ACTOR_BYTES and (pending := _creation(client, name)) is not None:
        return _told(client, pending, 0)
    return str(client.request("explain", ASK_S, id=name))


def _creation(client: Client, actor_id: bytes) -> Pending | None:
    """An actor that the hub does not know yet, as its arguments are not there."""
    with client.lock:
        creation = client.submitter.creation(actor_id)
        if creation is None or not creation.waiting:
            return None
        found = Pending("the actor is not created yet: its constructor waits for arguments")
        found.arguments = unready(creation.packed.slots if creation.packed is not None else None)
        return found


def why_object(client: Client, object_id: bytes, depth: int = 0) -> str:
    """Why an object is not there, or that it is."""
    with client.lock:
        entry = client.refs.entries.get(object_id)
        mine = entry is not None and entry.owner is None
        pending = examine(client.calls, entry) if entry is not None and mine else None
    if pending is not None:
        return _told(client, pending, depth)
    if object_id[:PREFIX_BYTES] == client.call_prefix:
        return "nobody holds a reference to it any more: it was freed"
    return str(client.request("explain", ASK_S, id=object_id))


def _told(client: Client, pending: Pending, depth: int) -> str:
    text = pending.text
    if pending.ask is not None:
        text += f": {_ask(client, pending)}"
    indent = "  " * (depth + 1)
    for where, object_id in pending.arguments[:ARGUMENTS_MAX]:
        text += f"\n{indent}{where} {object_id.hex()}: "
        text += _argument(client, object_id, depth + 1).replace("\n", f"\n{indent}")
    if len(pending.arguments) > ARGUMENTS_MAX:
        text += f"\n{indent}and {len(pending.arguments) - ARGUMENTS_MAX} more"
    return text


def _argument(client: Client, object_id: bytes, depth: int) -> str:
    if depth >= DEPTH_MAX:
        return "not there yet; ask for it by itself"
    try:
        return why_object(client, object_id, depth)
    except (RayError, ValueError) as error:
        return str(error)


def _ask(client: Client, pending: Pending) -> str:
    assert pending.ask is not None
    what, name, call_id = pending.ask
    try:
        if what == "actor":
            return why(client, name)
        args: dict[str, Any] = {"id": name} if what == "class" else {"id": call_id, "worker": name}
        return str(client.request("explain", ASK_S, **args))
    except (RayError, ValueError) as error:
        return str(error)

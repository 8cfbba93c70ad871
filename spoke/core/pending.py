"""Why an object of this process is not there yet, as far as this process knows.

Rules of this module: reads the tables of calls and references and changes nothing.  What only others know
(who holds the resources, what a worker does) is named by `Pending.ask`, for the shell to follow.
"""

from __future__ import annotations

from typing import Any, Final

from spoke.core.calls import Call, CallTable
from spoke.core.refs import CANCELLED, EXCEPTION, PENDING, VALUE, Entry

OUTCOMES: Final = {VALUE: "its value is there", EXCEPTION: "it is there: an exception that user code raised",
                   CANCELLED: "it was cancelled"}  # fmt: skip

Ask = tuple[str, Any, Any]  # "class", class id, None | "actor", id, None | "worker", peer, call id


class Pending:
    """What is known of one object."""

    __slots__ = ("arguments", "ask", "text")

    def __init__(self, text: str, ask: Ask | None = None) -> None:
        self.text = text
        self.ask = ask
        self.arguments: list[tuple[str, bytes]] = []  # those that are not ready: which, object id


def examine(calls: CallTable, entry: Entry) -> Pending:
    """An object that this process owns."""
    if entry.status != PENDING:
        return Pending(OUTCOMES.get(entry.status, "it failed, with an error that names the cause"))
    call = entry.call
    if type(call) is not Call:
        return Pending("a promise of its owner, such as a group's ready(): no call makes it")
    found = _actor_call(calls, call) if type(call.key) is bytes else _task(calls, call)
    if call.cancelled:
        found.text += ", and was cancelled"
    if call.attempt:
        found.text += f" (attempt {call.attempt + 1})"
    found.arguments = unready(call.slots)
    if found.arguments:
        found.ask = None
    return found


def unready(slots: Any) -> list[tuple[str, bytes]]:
    """The top-level arguments that are not there: how they are called, and their object ids."""
    return [
        (f"argument {where}" if type(where) is int else f"argument {where}=", entry.id)
        for where, entry in slots or ()
        if entry.status == PENDING
    ]


def _task(calls: CallTable, call: Call) -> Pending:
    name = f"task {call.name or 'function'}"
    if call.waiting:
        return Pending(f"{name} waits for {_some(call.waiting)}")
    if call.peer is not None:
        return Pending(f"{name} was sent to a worker", ("worker", call.peer, call.id))
    group = calls.tasks.classes.get(call.key)
    if group is None or call not in group.queue:
        return Pending(f"{name} is about to be queued")
    before = group.queue.index(call)
    text = f"{name} waits for a worker, {_behind(before)}"
    return Pending(text, ("class", call.key, None))


def _actor_call(calls: CallTable, call: Call) -> Pending:
    channel = calls.actors.channels.get(call.key)
    name = f"call {call.name or call.target}()"
    if channel is None:
        return Pending(f"{name} waits to be sent")
    whom = f"actor {channel.info.get('class_name') or ''} {call.key.hex()}".replace("  ", " ")
    if call.id in channel.inflight and call.peer is not None:
        return Pending(f"{name} was sent to {whom}, which is {channel.state}", ("worker", call.peer, call.id))
    if call.waiting:
        return Pending(f"{name} to {whom} waits for {_some(call.waiting)}")
    before = channel.queue.index(call) if call in channel.queue else 0
    text = f"{name} to {whom}, which is {channel.state}, waits to be sent, {_behind(before)}"
    if before and channel.queue[0].waiting:
        text += f", of which the first waits for {_some(channel.queue[0].waiting)}"
    return Pending(text, ("actor", call.key, None))


def _some(count: int) -> str:
    return f"{count} arguments" if count > 1 else "an argument"


def _behind(before: int) -> str:
    return (
        f"behind {before} earlier ones" if before > 1 else "behind an earlier one" if before else "the next"
    )

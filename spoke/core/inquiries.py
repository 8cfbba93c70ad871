"""Questions that a process must answer itself: what it runs, what its objects wait for.

The hub knows who made an object (the prefix of ids that each process announced) and where an actor lives;
it passes the question on (EXPLAIN), and the answer back.  Rules of this module: nobody waits for ever, as
who does not answer in `GIVE_UP_S` is said to be silent; an asker or answerer that is gone ends its questions.
"""

from __future__ import annotations

from typing import Any, Final

from spoke import wire
from spoke.core.directory import DEFERRED, Directory, RequestError
from spoke.core.state import Actor, Client, State

GIVE_UP_S: Final = 4.0
OPEN_MAX: Final = 1000
PREFIX_BYTES: Final = 16  # of object and call ids, the same for all of one process
TEXT_MAX: Final = 64 * 1024


class _Open:
    __slots__ = ("answerer", "asker", "give_up", "known", "request_id")

    def __init__(self, asker: bytes, request_id: int, answerer: bytes, known: str, give_up: float) -> None:
        self.asker = asker
        self.request_id = request_id
        self.answerer = answerer
        self.known = known  # what the hub says ahead of the answer
        self.give_up = give_up


class Inquiries:
    """See the module."""

    def __init__(self, state: State, directory: Directory) -> None:
        self.s = state
        self._directory = directory
        self._open: dict[int, _Open] = {}
        self._count = 0
        self.requests = {"explain": self._explain, "explained": self._explained}

    def _explain(self, client: Client, args: dict[str, Any]) -> Any:
        """id: of an actor, a group, a class of the asker's, an object, or of a call that `worker` runs."""
        name, worker = args["id"], args.get("worker")
        if worker is not None:
            answerer = self.s.clients.get(worker)
            if answerer is None:
                return "its process is gone; the news of it is under way"
            return self._pass_on(client, answerer, name, _place(self.s, answerer))
        if type(name) is int or name in self.s.groups or name in self.s.removed_groups:
            return self._directory.answer(client, "why", {"id": name})
        actor = self.s.actors.get(name)
        if actor is not None or name in self.s.dead_actors:
            return self._actor(client, name, actor)
        owner = next((one for one in self.s.clients.values() if _made(one, name)), None)
        if owner is None:
            text = f"no process of this cluster made {name.hex()}: its owner is gone, or it is no id of an"
            raise RequestError("ValueError", f"{text} object, actor or group")
        return self._pass_on(client, owner, name, f"owned by {owner.role} {_place(self.s, owner)}")

    def _actor(self, client: Client, actor_id: bytes, actor: Actor | None) -> Any:
        known = self._directory.answer(client, "why", {"id": actor_id})
        worker = actor.holding.worker if actor is not None and actor.holding is not None else None
        answerer = self.s.clients.get(worker.worker_id) if worker is not None else None
        if answerer is None or actor is None or actor.state not in ("STARTING", "ALIVE"):
            return known
        return self._pass_on(client, answerer, actor_id, f"{known} in {_place(self.s, answerer)}")

    def _pass_on(self, client: Client, answerer: Client, name: bytes, known: str) -> Any:
        s = self.s
        if len(self._open) >= OPEN_MAX:
            raise RequestError("RuntimeError", f"{OPEN_MAX} such questions are open already")
        self._count += 1
        give_up = s.now + GIVE_UP_S
        self._open[self._count] = _Open(client.peer, s.request_id, answerer.peer, known, give_up)
        s.send(answerer.peer, wire.EXPLAIN, self._count, name)
        s.wake_at(give_up)
        return DEFERRED

    def _explained(self, client: Client, args: dict[str, Any]) -> None:
        found = self._open.get(args["number"])
        if found is not None and found.answerer == client.peer:
            self._answer(args["number"], str(args["text"])[:TEXT_MAX])

    def _answer(self, number: int, text: str) -> None:
        found = self._open.pop(number)
        value = f"{found.known}: {text}" if found.known else text
        self.s.send(found.asker, wire.RESPONSE, found.request_id, None, value)

    def check(self) -> None:
        """Say who is silent."""
        for number, found in list(self._open.items()):
            if found.give_up <= self.s.now:
                silent = f"it has not answered for {GIVE_UP_S:g} s: it is stopped, or in code that holds"
                self._answer(number, f"{silent} Python's lock")
            else:
                self.s.wake_at(found.give_up)

    def client_lost(self, peer: bytes) -> None:
        """A process is gone."""
        for number, found in list(self._open.items()):
            if found.asker == peer:
                del self._open[number]
            elif found.answerer == peer:
                self._answer(number, "it ended just now")


def _made(client: Client, name: bytes) -> bool:
    prefix = client.info.get("calls")
    return type(prefix) is bytes and len(prefix) == PREFIX_BYTES and name[:PREFIX_BYTES] == prefix


def _place(s: State, client: Client) -> str:
    """Where a process is, for people."""
    node = s.nodes.get(client.node_id)
    where = f" on node {node.node_id.hex()[:8]} ({node.host})" if node is not None else ""
    return f"process {client.pid}{where}"

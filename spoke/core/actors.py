"""Actors: created, named, started, restarted, ended.

Rules of this module: an actor moves through `_TRANSITIONS` only; every handle names an incarnation,
which grows by one at each restart; watchers see every state once and in order.  The creator owns the
actor and it dies with its owner, unless it is detached.  Resources are held by the worker's process
and come back when it is reaped, also after the actor is DEAD.

Beyond `spoke.core.shape`, a creation spec holds: name, namespace, detached,
max_restarts (-1: without end), class_name, request_id (the creator waits for a RESPONSE), and
anything else, which comes back to whoever asks for the actor by name.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final

from spoke import wire
from spoke.core import Send
from spoke.core.exits import Exit
from spoke.core.ledger import to_floats
from spoke.core.obituary import OUT_OF_SCOPE
from spoke.core.pool import Pool
from spoke.core.shape import Shape
from spoke.core.state import Actor, Client, Holding, State, Worker
from spoke.limits import MAX_ACTORS, MAX_DEAD_RECORDS

PENDING: Final = "PENDING_CREATION"
STARTING: Final = "STARTING"
ALIVE: Final = "ALIVE"
RESTARTING: Final = "RESTARTING"
DEAD: Final = "DEAD"
GANG_BROKEN: Final = "gang_broken"  # kind of the end of a rank whose gang lost another one

_TRANSITIONS: Final[dict[str, tuple[str, ...]]] = {
    PENDING: (STARTING, DEAD),
    STARTING: (ALIVE, RESTARTING, DEAD),
    ALIVE: (RESTARTING, DEAD),
    RESTARTING: (STARTING, DEAD),
    DEAD: (),
}
CLOSE_S: Final = 2.0  # for what a process whose constructor raised has for its exit
EXIT: Final = "exit_actor"  # how the reason begins when an actor ends itself; its own kill() is a kill
_EARLY_MAX: Final = 10_000


class Actors:
    """All actors by id and by name."""

    def __init__(self, state: State, pool: Pool) -> None:
        self.s = state
        self.pool = pool
        self._early_watchers: dict[tuple[bytes, bytes], float] = {}  # (actor, client) -> give up at
        self._early_kills: dict[bytes, str] = {}
        # Set by the groups: an actor may be a rank of a gang, and its end the end of all of them.
        self.ending: Callable[[Actor, str, str], Callable[[], None] | None] = _no_gang
        self.may_restart: Callable[[Actor, Exit], bool] = lambda actor, exit_: True
        self.stale: Callable[[Actor], str] = lambda actor: ""
        self.on_ended: Callable[[bytes], None] = lambda actor_id: None  # the endpoints: an actor is dead
        self.on_worker_ended: Callable[[Worker, str, str], None] = lambda worker, kind, cause: None

    # -- creation

    def create(self, client: Client, actor_id: bytes, spec: dict[str, Any], blob: Any) -> None:
        """A client asks for an actor; duplicates and defects are answered by name."""
        s = self.s
        known = s.actors.get(actor_id) or s.dead_actors.get(actor_id)
        if known is not None:  # said again, as the answer was lost with an earlier life of the hub
            self._respond(client, spec, None, {"actor": describe(known)})
            self.watch(client, actor_id)
            return
        if actor_id in s.refused:
            self._answer_refused(client, actor_id, spec)
            return
        try:
            shape = Shape(spec)
            if len(s.actors) >= MAX_ACTORS:
                raise ValueError(f"the cluster has {MAX_ACTORS} actors, its limit")
            restarts = spec.get("max_restarts") or 0
            if type(restarts) is not int:
                raise ValueError(f"max_restarts is {restarts!r}, not a number")
        except ValueError as error:
            s.refuse(actor_id, ["ValueError", str(error)])
            self._answer_refused(client, actor_id, spec)
            return
        actor = Actor(actor_id, spec, blob, shape)
        job = s.jobs.get(client.job)
        actor.namespace = actor.namespace or (job.info.get("namespace", "") if job else "")
        if actor.name and not self._name(client, actor):
            return
        actor.job = client.job
        s.actors[actor_id] = actor
        s.note("actor", actor_id, actor)
        s.note("blob", actor_id, actor)
        if spec.get("detached"):
            if job is not None:
                job.keepers += 1
        else:
            actor.owner = client
            client.actors[actor_id] = actor
        self._respond(client, spec, None, {"actor": describe(actor)})
        actor.watchers[client.peer] = client
        client.watching[actor_id] = actor
        if self._early_watchers:  # rarely: not worth a look at every client each time
            for peer, watcher in list(s.clients.items()):
                if self._early_watchers.pop((actor_id, peer), None) is not None:
                    self.watch(watcher, actor_id)
        s.enqueue(actor, shape.fit_key)
        reason = self._early_kills.pop(actor_id, None)
        if reason is not None:
            self.end(actor, "killed", reason)
        elif stale := self.stale(actor):
            self.end(actor, GANG_BROKEN, stale)

    def create_detached(self, spec: dict[str, Any], blob: Any, job_id: bytes) -> None:
        """The hub itself creates an actor, from the spec and blob of one that it had."""
        s = self.s
        digest = blake2b(s.config.seed, digest_size=12, salt=b"actor")
        digest.update(s.serial().to_bytes(8, "little"))
        actor = Actor(digest.digest() + job_id, spec, blob, Shape(spec))
        if actor.name and s.actor_names.setdefault((actor.namespace, actor.name), actor) is not actor:
            actor.name = ""  # somebody took it meanwhile
        actor.job = job_id
        s.actors[actor.actor_id] = actor
        s.note("actor", actor.actor_id, actor)
        s.note("blob", actor.actor_id, actor)
        job = s.jobs.get(job_id)
        if job is not None:
            job.keepers += 1
        s.enqueue(actor, actor.shape.fit_key)

    def _name(self, client: Client, actor: Actor) -> bool:
        """Take the name, or answer that it is taken."""
        key = (actor.namespace, actor.name)
        if key not in self.s.actor_names:
            self.s.actor_names[key] = actor
            return True
        text = f"The name {actor.name} (namespace={actor.namespace}) is already taken by a live actor."
        self.s.refuse(actor.actor_id, ["ActorAlreadyExistsError", text])
        self._answer_refused(client, actor.actor_id, actor.spec)
        return False

    def _answer_refused(self, client: Client, actor_id: bytes, spec: dict[str, Any]) -> None:
        """The same answer each time it is asked for."""
        error = self.s.refused[actor_id][0]
        self._respond(client, spec, error, None)
        self._refuse(client, actor_id, error[1])

    def _respond(self, client: Client, spec: dict[str, Any], error: list[str] | None, value: Any) -> None:
        request_id = spec.get("request_id")
        if type(request_id) is int:
            self.s.send(client.peer, wire.RESPONSE, request_id, error, value)

    def _refuse(self, client: Client, actor_id: bytes, cause: str) -> None:
        info = {"cause": cause, "kind": "refused", "incarnation": 0}
        self.s.send(client.peer, wire.ACTOR_STATE, actor_id, DEAD, 0, None, info)

    # -- states

    def _move(self, actor: Actor, state: str, **info: Any) -> None:
        assert state in _TRANSITIONS[actor.state], f"actor {actor.actor_id.hex()}: {actor.state} -> {state}"
        actor.state = state
        actor.info = info
        self.s.note("actor", actor.actor_id, actor)
        for watcher in actor.watchers.values():
            self._tell(watcher, actor)

    def _tell(self, client: Client, actor: Actor) -> None:
        worker = actor.holding.worker if actor.holding is not None else None
        address = worker.address if worker is not None and actor.state in (STARTING, ALIVE) else None
        info = {
            "class_name": actor.spec.get("class_name") or "",
            "name": actor.name,
            "namespace": actor.namespace,
            "incarnation": actor.incarnation,
            "restarts_left": actor.restarts_left,
            **actor.info,
        }
        if worker is not None:
            info.setdefault("node_id", worker.node.node_id)
            info.setdefault("pid", worker.pid)
        message = (wire.ACTOR_STATE, actor.actor_id, actor.state, actor.incarnation, address, info)
        self.s.out.append(Send(client.peer, message, actor.error if actor.state == DEAD else b""))

    def watch(self, client: Client, actor_id: bytes) -> None:
        """Tell the present state now and later ones as they come.

        A handle may travel faster than its creation: an unknown actor gets some time to appear.
        """
        s = self.s
        actor = s.actors.get(actor_id) or s.dead_actors.get(actor_id)
        if actor is None:
            give_up = s.now + s.config.unknown_s
            self._early_watchers[actor_id, client.peer] = give_up
            s.wake_at(give_up)
            if len(self._early_watchers) > _EARLY_MAX:
                self._give_up(next(iter(self._early_watchers)))
            return
        if actor.state != DEAD:
            actor.watchers[client.peer] = client
            client.watching[actor_id] = actor
        self._tell(client, actor)

    def _give_up(self, key: tuple[bytes, bytes]) -> None:
        del self._early_watchers[key]
        client = self.s.clients.get(key[1])
        if client is not None:
            self._refuse(client, key[0], "no such actor is known to this cluster")

    def check(self) -> None:
        """Answer watchers of actors that never appeared."""
        for key, give_up in list(self._early_watchers.items()):
            if give_up > self.s.now:
                self.s.wake_at(give_up)
                break
            self._give_up(key)

    # -- life

    def placed(self, actor: Actor, holding: Holding) -> None:
        """Resources were taken; a worker is looked for."""
        actor.holding = holding
        holding.user = actor

    def bind(self, actor: Actor, worker: Worker) -> None:
        """The worker is there: send it the constructor, and its address to the callers."""
        self.start(actor, worker)
        actor.workers = [*actor.workers[-7:], (worker.node.node_id, worker.worker_id)]
        self._move(actor, STARTING)

    def start(self, actor: Actor, worker: Worker) -> None:
        """Send the constructor."""
        holding = actor.holding
        assert holding is not None
        spec = {
            **actor.spec,
            "gpu_ids": holding.node.topology.shown(holding.share.gpu_ids),
            "assigned": to_floats(holding.share.amounts),
            "namespace": actor.namespace,
            "job_id": actor.job,
            "restarted": actor.incarnation > 0,
        }
        message = (wire.START_ACTOR, actor.actor_id, actor.incarnation, spec)
        self.s.out.append(Send(worker.worker_id, message, actor.blob))

    def _of(self, worker: Worker | None, actor_id: bytes, incarnation: int) -> Actor | None:
        """The actor that this worker runs in this incarnation."""
        actor = self.s.actors.get(actor_id)
        if worker is None or actor is None or actor.holding is None or actor.incarnation != incarnation:
            return None
        return actor if actor.holding.worker is worker else None

    def ready(self, worker: Worker | None, actor_id: bytes, incarnation: int) -> None:
        """The constructor returned."""
        actor = self._of(worker, actor_id, incarnation)
        if actor is not None and actor.state == STARTING:
            self._move(actor, ALIVE)

    def failed(self, worker: Worker | None, actor_id: bytes, incarnation: int, text: str, error: Any) -> None:
        """The constructor raised: the actor is DEAD with the user's error."""
        actor = self._of(worker, actor_id, incarnation)
        if worker is not None and actor is not None and actor.state == STARTING:
            self.pool.leaves(worker, CLOSE_S)
            actor.error = error
            self.end(actor, "constructor", text)

    def kill(self, client: Client, actor_id: bytes, no_restart: bool, reason: str, incarnation: int) -> None:
        """A client, or the actor itself, ends an actor; where it may restart, only the incarnation meant."""
        s = self.s
        actor = s.actors.get(actor_id)
        if actor is None:
            if actor_id not in s.dead_actors and no_restart:
                s.remember(self._early_kills, actor_id, reason, _EARLY_MAX)
            return
        holding = actor.holding
        worker = holding.worker if holding is not None else None
        if not no_restart and wire.ANY_INCARNATION != incarnation < actor.incarnation:
            return  # said again, and done already
        if not no_restart and actor.restarts_left:
            if worker is not None:
                self.pool.stop(worker, True, reason or "killed")
            return
        if worker is not None and client.worker is worker and reason.startswith(EXIT):
            self.pool.leaves(worker)  # it says goodbye: let it finish its replies
            self.end(actor, "exited", reason or "the actor exited")
        elif reason == OUT_OF_SCOPE:
            if worker is not None and actor.state == ALIVE:
                self.pool.leaves(worker)  # what it has for its exit runs
                s.send(worker.worker_id, wire.STOP_WORKER, worker.worker_id, False)
            self.end(actor, "out_of_scope", reason)
        else:
            self.end(actor, "killed", reason or "killed by a handle's owner")

    def worker_died(self, actor: Actor, exit_: Exit) -> None:
        """The worker of an actor is gone (its holding was released): restart, or end."""
        actor.holding = None
        if actor.state == DEAD:
            return
        if actor.state in (PENDING, RESTARTING):  # resources were taken, nothing had run
            self.s.enqueue(actor, actor.shape.fit_key)
            return
        if not actor.restarts_left or not self.may_restart(actor, exit_):
            self.end(actor, exit_.kind, exit_.text, exit_.info())
            return
        if actor.restarts_left > 0:
            actor.restarts_left -= 1
        actor.incarnation += 1
        info = exit_.info()
        if actor.state == STARTING and exit_.heard and exit_.kind == "worker_died":
            info["unborn"] = True  # no call has run in it: the constructor never returned
        self._move(actor, RESTARTING, **info)
        self.s.enqueue(actor, actor.shape.fit_key)

    def end(self, actor: Actor, kind: str, cause: str, info: dict[str, Any] | None = None) -> None:
        """DEAD for good: the name is free, callers are told, the process is stopped."""
        s = self.s
        if actor.state == DEAD:
            return
        afterwards = self.ending(actor, kind, cause)
        holding, actor.holding = actor.holding, None
        worker = holding.worker if holding is not None else None
        details: dict[str, Any] = {"code": None, "signal": 0, "tail": ""}
        if holding is not None:
            details["node_id"] = holding.node.node_id
            details["pid"] = worker.pid if worker is not None else 0
            details["ip"] = holding.node.host
        details.update(info or {})
        details.update(cause=cause, kind=kind)
        if kind == "unschedulable":
            details["unschedulable"] = True
        s.dequeue(actor)
        self._move(actor, DEAD, **details)
        self.on_ended(actor.actor_id)
        if holding is not None:
            holding.user = None
            if worker is not None:
                self.on_worker_ended(worker, kind, cause)
            if worker is None:
                self.pool.cancel(holding)
                s.release(holding)
            elif worker.stop_at is None:
                # A rank may clean up, as its devices are fine; the agent kills what takes too long.
                self.pool.stop(worker, kind not in ("constructor", GANG_BROKEN), cause)
        self._bury(actor)
        if afterwards is not None:
            afterwards()

    def _bury(self, actor: Actor) -> None:
        s = self.s
        del s.actors[actor.actor_id]
        if s.actor_names.get((actor.namespace, actor.name)) is actor:
            del s.actor_names[actor.namespace, actor.name]
        for watcher in actor.watchers.values():
            watcher.watching.pop(actor.actor_id, None)
        actor.watchers = {}
        actor.blob = b""
        if actor.owner is not None:
            actor.owner.actors.pop(actor.actor_id, None)
            actor.owner = None
        elif (job := s.jobs.get(actor.job)) is not None:
            job.keepers -= 1
            if not job.live:
                self.pool.job_ended(job.job_id)
        s.note("blob", actor.actor_id, None)
        s.remember(s.dead_actors, actor.actor_id, actor, MAX_DEAD_RECORDS, "actor")

    def client_lost(self, client: Client) -> None:
        """Its actors die with it; it watches no more."""
        for actor in list(client.actors.values()):
            self.end(actor, "owner_died", "its owner (the process that created it) died")
        for watched in client.watching.values():
            if isinstance(watched, Actor):
                watched.watchers.pop(client.peer, None)
        for key in [key for key in self._early_watchers if key[1] == client.peer]:
            del self._early_watchers[key]


def _no_gang(actor: Actor, kind: str, cause: str) -> None:
    """What follows the end of an actor outside of gangs."""


def describe(actor: Actor) -> dict[str, Any]:
    """What a process needs to make a handle, and what a state query shows."""
    holding = actor.holding
    worker = holding.worker if holding is not None else None
    spec = {name: value for name, value in actor.spec.items() if name != "request_id"}
    strategy = actor.spec.get("strategy")
    return {
        "group_id": actor.shape.group_id,
        "rank": strategy.get("rank") if isinstance(strategy, dict) else None,
        "workers": actor.workers,
        "actor_id": actor.actor_id,
        "name": actor.name,
        "namespace": actor.namespace,
        "class_name": actor.spec.get("class_name") or "",
        "repr_name": actor.spec.get("repr_name") or "",
        "state": actor.state,
        "incarnation": actor.incarnation,
        "restarts_left": actor.restarts_left,
        "detached": bool(actor.spec.get("detached")),
        "job_id": actor.job,
        "node_id": holding.node.node_id if holding is not None else None,
        "worker_id": worker.worker_id if worker is not None else None,
        "pid": worker.pid if worker is not None else 0,
        "address": worker.address if worker is not None and actor.state in (STARTING, ALIVE) else None,
        "gpu_ids": list(holding.share.gpu_ids) if holding is not None else [],
        "info": actor.info,
        "meta": actor.spec.get("meta"),
        "spec": spec,
    }

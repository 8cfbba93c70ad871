"""A hub core with obedient agents and workers around it, for tests of single rules.

Workers connect at once when spawned (unless `auto_start` is off) and die at once when stopped
(unless `auto_stop` is off).  Every step is audited.
"""

from __future__ import annotations

from typing import Any

from spoke import wire
from spoke.core import Drop, Event, Log, Lost, Received, Send, Tick
from spoke.core.hub import HubConfig, HubCore


def name(text: str, size: int = 28) -> bytes:
    return text.encode().ljust(size, b".")


class Harness:
    """Sends messages into a hub and keeps what each peer was sent."""

    def __init__(self, **config: Any) -> None:
        config.setdefault("prestart", 0)
        self.hub = HubCore(HubConfig(seed=b"test", **config))
        self.now = 10.0
        self.auto_start = True
        self.auto_stop = True
        self.auto_prepare = True
        self.inbox: dict[bytes, list[list[Any]]] = {}
        self.payloads: dict[bytes, list[Any]] = {}
        self.dropped: dict[bytes, str] = {}
        self.worker_node: dict[bytes, bytes] = {}
        self.spawned: dict[bytes, list[Any]] = {}
        self.pids = 100
        self.owns: dict[bytes, int] = {}  # what workers answer when they are asked

    def step(self, event: Event) -> None:
        pending = [event]
        while pending:
            commands = self.hub.step(self.now, pending.pop(0))
            self.hub.validate()
            for command in commands:
                if isinstance(command, Send):
                    message = wire.decode(wire.encode(*command.message))
                    self.inbox.setdefault(command.peer, []).append(message)
                    self.payloads.setdefault(command.peer, []).append(command.payload)
                    pending.extend(self._react(command.peer, message))
                elif isinstance(command, Drop):
                    self.dropped[command.peer] = command.reason
                else:
                    assert isinstance(command, Log)

    def _react(self, peer: bytes, message: list[Any]) -> list[Event]:
        if message[0] == wire.SPAWN:
            self.worker_node[message[1]] = peer
            self.spawned[message[1]] = message
            if self.auto_start:
                return [self.worker_up(message[1])]
        elif message[0] == wire.SPECIALIZE:
            self.spawned[message[1]] = message
            if self.auto_start:
                return [Received(message[1], [wire.SPECIALIZED])]
        elif message[0] == wire.OWNS:
            return [Received(peer, [wire.REQUEST, 0, "owns", {"count": self.owns.get(peer, 0)}])]
        elif message[0] == wire.PREPARE and self.auto_prepare:
            ports = [[index, port or 20_000 + index] for index, _, port in message[3]]
            return [Received(peer, [wire.PREPARED, message[1], message[2], ports, ""])]
        elif message[0] == wire.STOP_WORKER and self.auto_stop:
            return [self.exit_of(message[1], None, 9)]
        return []

    def worker_up(self, worker_id: bytes) -> Event:
        self.pids += 1
        address = [worker_id, self.worker_node[worker_id], "host", 0]
        return Received(worker_id, [wire.CLIENT_UP, "worker", address, self.pids, {}])

    def exit_of(
        self, worker_id: bytes, code: int | None = None, signal: int = 0, tail: str = "", pid: int = 5
    ) -> Event:
        node_id = self.worker_node[worker_id]
        return Received(node_id, [wire.WORKER_EXIT, worker_id, pid, code, signal, tail, 0])

    # -- actors of the test

    def say(self, peer: bytes, *message: Any, payload: Any = b"") -> None:
        self.step(Received(peer, wire.decode(wire.encode(*message)), payload))

    def node(self, label: str, labels: dict[str, str] | None = None, **resources: float) -> bytes:
        node_id = name(label)
        self.say(node_id, wire.AGENT_UP, node_id, label, 1, resources, labels or {}, 1)
        return node_id

    def driver(self, label: str, node_id: bytes = b"", **info: Any) -> bytes:
        peer = name(label)
        self.say(peer, wire.CLIENT_UP, "driver", [peer, node_id, "host", 0], 9, info)
        return peer

    def pass_time(self, seconds: float, *beating: bytes) -> None:
        """Let time pass in small pieces, with heartbeats of these nodes."""
        end = self.now + seconds
        while self.now < end:
            self.now = round(min(end, self.now + 0.25), 6)
            for node_id in beating:
                self.step(Received(node_id, [wire.HEARTBEAT, 1]))
            deadline = self.hub.next_deadline()
            if deadline is not None and deadline <= self.now:
                self.step(Tick())

    def lose(self, peer: bytes) -> None:
        self.step(Lost(peer, "gone"))

    def want(
        self, peer: bytes, class_id: int, count: int, spec: dict[str, Any] | None = None, **res: float
    ) -> None:
        self.say(peer, wire.WANT, class_id, {"resources": res, **(spec or {})}, count)

    def actor(self, peer: bytes, label: str, spec: dict[str, Any] | None = None, **res: float) -> bytes:
        actor_id = name(label, 16)
        self.say(peer, wire.CREATE_ACTOR, actor_id, {"resources": res, **(spec or {})}, payload=b"blob")
        return actor_id

    def group(
        self, peer: bytes, label: str, bundles: list[dict[str, float]], strategy: str = "PACK", **spec: Any
    ) -> bytes:
        group_id = name(label, 18)
        self.say(peer, wire.CREATE_GROUP, group_id, {"bundles": bundles, "strategy": strategy, **spec})
        return group_id

    def ask(self, peer: bytes, what: str, **args: Any) -> Any:
        self.take(peer, wire.RESPONSE)
        self.say(peer, wire.REQUEST, 77, what, args)
        _, _, error, value = self.take(peer, wire.RESPONSE)[-1]
        if error is not None:
            raise LookupError(*error)
        return value

    # -- what came back

    def take(self, peer: bytes, kind: int) -> list[list[Any]]:
        """Messages of a kind that a peer got since the last take."""
        box = self.inbox.get(peer, [])
        found = [message for message in box if message[0] == kind]
        self.inbox[peer] = [message for message in box if message[0] != kind]
        return found

    def grants(self, peer: bytes) -> list[list[Any]]:
        return self.take(peer, wire.GRANT)

    def states(self, peer: bytes, kind: int = wire.ACTOR_STATE) -> list[str]:
        return [message[2] for message in self.take(peer, kind)]

    def started(self, actor_id: bytes) -> bytes:
        """The worker that was told last to run an actor."""
        for worker_id in reversed(list(self.worker_node)):
            for message in self.inbox.get(worker_id, []):
                if message[0] == wire.START_ACTOR and message[1] == actor_id:
                    return worker_id
        raise LookupError("not started")

    def ready(self, actor_id: bytes, incarnation: int = 0) -> bytes:
        worker_id = self.started(actor_id)
        self.say(worker_id, wire.ACTOR_READY, actor_id, incarnation)
        return worker_id

    def free(self, node_id: bytes, resource: str = "CPU") -> float:
        return self.hub.state.nodes[node_id].ledger.free.get(resource, 0) / 10_000


def one_node(cpus: float = 2.0, **more: float) -> tuple[Harness, bytes, bytes]:
    """A hub with one node and one driver on it."""
    hub = Harness()
    node = hub.node("n1", CPU=cpus, **more)
    return hub, node, hub.driver("driver", node)

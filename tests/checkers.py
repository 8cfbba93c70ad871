"""Referees that watch a hub from outside: they know the world's processes, not the hub's tables.

What the hub said (GRANT, START_ACTOR, GROUP_STATE) and what processes are really alive is enough to
see whether anything was promised twice.
"""

from __future__ import annotations

from typing import Any

from spoke import wire
from spoke.core import Command, Event, Received, Send

UNIT = 10_000


class Promise:
    """Resources that the hub said a process may use."""

    def __init__(
        self,
        node_id: bytes,
        worker_id: bytes,
        resources: dict[str, float],
        gpu_ids: list[int],
        group: tuple[bytes, int] | None,
    ) -> None:
        self.node_id = node_id
        self.worker_id = worker_id
        self.amounts = {name: round(value * UNIT) for name, value in resources.items()}
        self.gpu_ids = list(gpu_ids)
        self.group = group
        self.blocked = False


class ResourceReferee:
    """GANG-1, GANG-2, GANG-3 and no oversale, from messages and real deaths alone."""

    def __init__(self) -> None:
        self.totals: dict[bytes, dict[str, int]] = {}
        self.promises: dict[tuple[Any, ...], Promise] = {}  # ("lease", id) or ("actor", worker_id)
        self.groups: dict[bytes, dict[str, Any]] = {}
        self.bundles: dict[bytes, list[dict[str, int]]] = {}
        self.specs: dict[tuple[bytes, int], dict[str, Any]] = {}
        self.worker_node: dict[bytes, bytes] = {}
        self.dead: dict[bytes, bool] = {}  # processes that are reaped, whether or not the hub knows
        self.held: dict[bytes, list[int]] = {}  # devices that the hub knows are not free, by node
        self.woke: dict[bytes, bool] = {}  # nodes where a sleeper took its CPUs back
        self.granted_total = 0
        self.granted_to: dict[int, bytes] = {}

    # -- what the hub hears

    def heard(self, event: Event) -> None:
        if type(event) is not Received:
            return
        message, peer = event.message, event.peer
        kind = message[0]
        if kind == wire.AGENT_UP:
            amounts = {name: round(value * UNIT) for name, value in message[4].items()}
            self.totals[peer] = amounts
        elif kind == wire.DEVICES_HELD:
            self.held[peer] = [index for index, _ in message[1]]
        elif kind == wire.WANT:
            self.specs[peer, message[1]] = message[2]
        elif kind == wire.GIVE_BACK and not message[2]:
            self.promises.pop(("lease", message[1]), None)
        elif kind == wire.BLOCKED:
            for promise in self.promises.values():
                if promise.worker_id == peer:
                    promise.blocked = message[1]
                    if not message[1]:
                        self.woke[promise.node_id] = True
        elif kind == wire.CLIENT_UP and "report" in message[4]:
            self._reported(peer, message[4]["report"])
        elif kind == wire.CREATE_GROUP:
            self.bundles[message[1]] = [
                {name: round(value * UNIT) for name, value in bundle.items()}
                for bundle in message[2]["bundles"]
            ]

    def _reported(self, peer: bytes, report: dict[str, Any]) -> None:
        """What was given back, or woke up, while the hub was away."""
        for class_id, spec, _ in report["wants"]:
            self.specs[peer, class_id] = spec
        held = [lease[0] for lease in report["leases"]]
        for key in [key for key in self.promises if key[0] == "lease" and key[1] not in held]:
            if self.granted_to.get(key[1]) == peer:
                del self.promises[key]
        for promise in self.promises.values():
            if promise.worker_id == peer and promise.blocked != report.get("blocked", False):
                promise.blocked = report.get("blocked", False)
                self.woke[promise.node_id] = True

    # -- what really happens

    def process_died(self, worker_id: bytes) -> None:
        """The process is reaped: what it was promised is free from here on."""
        self.dead[worker_id] = True
        for key in [key for key, promise in self.promises.items() if promise.worker_id == worker_id]:
            del self.promises[key]

    # -- what the hub says

    def said(self, commands: list[Command]) -> None:
        fresh = []
        for command in commands:
            if type(command) is not Send:
                continue
            message = command.message
            kind = message[0]
            if kind == wire.SPAWN:
                self.worker_node[message[1]] = command.peer
            elif kind == wire.GRANT:
                info = message[4]
                spec = self.specs[command.peer, message[1]]
                promise = Promise(
                    info["node_id"], message[3][0], info["resources"], info["gpu_ids"], _group_of(spec)
                )
                self.granted_total += 1
                self.granted_to[message[2]] = command.peer
                if promise.worker_id not in self.dead:
                    self.promises["lease", message[2]] = promise
                    fresh.append(promise)
            elif kind == wire.START_ACTOR:
                spec = message[3]
                node_id = self.worker_node[command.peer]
                promise = Promise(node_id, command.peer, spec["assigned"], spec["gpu_ids"], _group_of(spec))
                if promise.worker_id not in self.dead:
                    self.promises["actor", command.peer] = promise
                    fresh.append(promise)
            elif kind == wire.GROUP_STATE:
                self._group_state(message[1], message[2], message[3])
        for promise in fresh:
            self._check(promise)

    def _group_state(self, group_id: bytes, state: str, info: dict[str, Any]) -> None:
        if state == "CREATED":
            assert len(info["nodes"]) == len(self.bundles[group_id]), "GANG-2: bundles are missing"
            assert all(info["nodes"]), "GANG-2: created with a slot that has no node"
            strategy_ok = self.groups.get(group_id, {}).get("state") != "REMOVED"
            assert strategy_ok, "a removed group came back"
        self.groups[group_id] = {"state": state, **info}
        if state == "CREATED":
            for node_id in info["nodes"]:
                self._check_node(node_id, cpu=any("CPU" in one for one in self.bundles[group_id]))

    def _check(self, promise: Promise) -> None:
        others = [one for one in self.promises.values() if one.node_id == promise.node_id]
        for index in promise.gpu_ids:
            used = sum(min(UNIT, one.amounts.get("GPU", 0)) for one in others if index in one.gpu_ids)
            assert used <= UNIT, f"GANG-1: device {index} was promised to several live processes"
            whole = promise.amounts.get("GPU", 0) >= UNIT  # a share may have been on its way before
            stuck = whole and index in self.held.get(promise.node_id, ())
            assert not stuck, f"GANG-3: device {index} was promised while a process holds it"
        self._check_node(promise.node_id, cpu="CPU" in promise.amounts)

    def _check_node(self, node_id: bytes, cpu: bool) -> None:
        """Slots of groups plus what runs outside of groups stays within the node.

        CPUs may be oversubscribed by those that wake up from get, so they count only where new ones
        were handed out and nobody ever woke up.
        """
        cpu = cpu and node_id not in self.woke
        used: dict[str, int] = {}
        inside: dict[tuple[bytes, int], dict[str, int]] = {}
        for promise in self.promises.values():
            if promise.node_id != node_id:
                continue
            amounts = dict(promise.amounts)
            if not cpu or promise.blocked:
                amounts.pop("CPU", None)
            target = used
            if promise.group is not None:
                target = inside.setdefault(promise.group, {})
            for name, units in amounts.items():
                target[name] = target.get(name, 0) + units
        for group_id, group in self.groups.items():
            if group["state"] not in ("CREATED", "RESCHEDULING"):
                continue
            for index, home in enumerate(group["nodes"]):
                if home == node_id:
                    for name, units in self.bundles[group_id][index].items():
                        if cpu or name != "CPU":
                            used[name] = used.get(name, 0) + units
        totals = self.totals[node_id]
        for name, units in used.items():
            assert units <= totals.get(name, 0), f"{name} of {node_id.hex()[:8]} was promised twice"
        for (group_id, _), amounts in inside.items():
            room: dict[str, int] = {}
            group = self.groups.get(group_id)
            if group is None or group["state"] == "REMOVED":
                continue
            for index, home in enumerate(group["nodes"]):
                if home == node_id:
                    for name, units in self.bundles[group_id][index].items():
                        room[name] = room.get(name, 0) + units
            for name, units in amounts.items():
                assert units <= room.get(name, 0), f"{name} of a slot was promised twice"


def _group_of(spec: dict[str, Any]) -> tuple[bytes, int] | None:
    strategy = spec.get("strategy")
    if isinstance(strategy, dict) and strategy["kind"] == "group":
        return strategy["group_id"], 0
    return None


class StateReferee:
    """One watcher's view of actors and groups: legal steps only."""

    _ACTOR = {
        None: ("PENDING_CREATION", "STARTING", "ALIVE", "RESTARTING", "DEAD"),
        "PENDING_CREATION": ("PENDING_CREATION", "STARTING", "DEAD"),
        "STARTING": ("STARTING", "ALIVE", "RESTARTING", "DEAD"),
        "ALIVE": ("ALIVE", "RESTARTING", "DEAD"),
        "RESTARTING": ("RESTARTING", "STARTING", "DEAD"),
        "DEAD": ("DEAD",),
    }
    _GROUP = {
        None: ("CREATED", "REMOVED", "RESCHEDULING"),
        "CREATED": ("CREATED", "RESCHEDULING", "REMOVED"),
        "RESCHEDULING": ("RESCHEDULING", "CREATED", "REMOVED"),
        "REMOVED": ("REMOVED",),
    }

    def __init__(self) -> None:
        self.actors: dict[bytes, tuple[str, int]] = {}
        self.groups: dict[bytes, str] = {}

    def actor_state(self, actor_id: bytes, state: str, incarnation: int, address: Any, info: Any) -> None:
        before, last = self.actors.get(actor_id, (None, 0))
        assert state in self._ACTOR[before], f"actor went from {before} to {state}"
        assert incarnation >= last, "an incarnation went back"
        assert (address is not None) == (state in ("STARTING", "ALIVE")), state
        if state == "DEAD":
            assert info["cause"], "a death without a cause"
        self.actors[actor_id] = (state, incarnation)

    def group_state(self, group_id: bytes, state: str) -> None:
        before = self.groups.get(group_id)
        assert state in self._GROUP[before], f"group went from {before} to {state}"
        self.groups[group_id] = state

"""Answers to REQUESTs: tables, names, the key-value store.

Rules of this module: reads the hub's tables and changes only the key-value store.  Values are plain
msgpack data; ids are bytes except where Ray's own form (hex) is asked for.  A refusal is
``RequestError(class name, message)``, which the client raises by that name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from spoke.core import actors, groups, reached
from spoke.core.exits import Exit
from spoke.core.journal import kv_key
from spoke.core.ledger import to_floats
from spoke.core.state import Actor, Client, Group, Node, State, Want, Worker
from spoke.core.why import explain, headline
from spoke.limits import MAX_DEAD_RECORDS, MAX_KV_VALUE_BYTES

ROWS_MAX = 10_000
DEFERRED = object()  # the answer to a request follows later, by its `State.request_id`
Handler = Callable[[Client, dict[str, Any]], Any]


class RequestError(Exception):
    """The exception the asker gets, by class name."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(name, text)
        self.name = name
        self.text = text


class Directory:
    """One method per question; see `answer`."""

    def __init__(self, state: State) -> None:
        self.s = state
        self._ended: dict[bytes, dict[str, Any]] = {}  # the latest workers that were reaped, by id
        self._table: dict[str, Handler] = {
            "nodes": self._nodes,
            "cluster_resources": self._cluster_resources,
            "available_resources": self._available_resources,
            "get_actor": self._get_actor,
            "list_named_actors": self._list_named_actors,
            "actor": self._actor,
            "actors": self._actors,
            "workers": self._workers,
            "ended_workers": lambda client, args: list(self._ended.values())[-ROWS_MAX:],
            "leases": self._leases,
            "groups": self._groups,
            "group": self._group,
            "use_group": self._use_group,
            "topology": lambda client, args: reached.describe(self.find_group(client, args)),
            "why": self._why,
            "deaths": self._deaths,
            "last_call": self._last_call,
            "demands": self._demands,
            "jobs": self._jobs,
            "pids": self._pids,
            "owns": self._owns,
            "address": self._address,
            "kv_put": self._kv_put,
            "kv_get": self._kv_get,
            "kv_del": self._kv_del,
            "kv_keys": self._kv_keys,
            "kv_exists": self._kv_exists,
            "ping": lambda client, args: self.s.now,
        }

    def add(self, requests: Mapping[str, Handler]) -> None:
        """Further questions, answered by other tables."""
        self._table.update(requests)

    def answer(self, client: Client, what: str, args: dict[str, Any]) -> Any:
        """The value of one question.

        Raises:
            RequestError: what the asker shall raise.
        """
        handler = self._table.get(what)
        if handler is None:
            raise RequestError("ValueError", f"the hub knows no request {what!r}")
        try:
            return handler(client, args)
        except (KeyError, TypeError, AttributeError) as error:
            raise RequestError("ValueError", f"malformed arguments of request {what!r}: {error!r}") from None

    # -- nodes and resources

    def _nodes(self, client: Client, args: dict[str, Any]) -> list[dict[str, Any]]:
        return [self._node(node) for node in list(self.s.nodes.values())[-ROWS_MAX:]]

    def _node(self, node: Node) -> dict[str, Any]:
        return {
            "NodeID": node.node_id.hex(),
            "Alive": node.alive,
            "alive": node.alive,
            "NodeManagerAddress": node.address,
            "NodeManagerHostname": node.labels.get("spoke.io/hostname", node.host),
            "NodeManagerPort": node.port,
            "ObjectManagerPort": node.port,
            "NodeName": node.address,
            "Host": node.host,
            "DeathReason": 0 if node.alive else 1,
            "DeathReasonMessage": node.death,
            "Resources": to_floats(node.ledger.total) if node.alive else {},
            "Available": to_floats(node.ledger.free) if node.alive else {},
            "Labels": dict(node.labels),
            "IsHead": node.is_head,
            "Topology": node.topology.plain(),
            "Draining": {index: list(holders.pids) for index, holders in node.held.items()},
            "pid": node.pid,
            "workers": len(node.workers),
            "silent_s": self.s.now - node.last_heard,
        }

    def _cluster_resources(self, client: Client, args: dict[str, Any]) -> dict[str, float]:
        total: dict[str, int] = {}
        for node in self.s.alive:
            for name, units in node.ledger.total.items():
                total[name] = total.get(name, 0) + units
        return to_floats(total)

    def _available_resources(self, client: Client, args: dict[str, Any]) -> dict[str, float]:
        free: dict[str, int] = {}
        for node in self.s.alive:
            for name, units in node.ledger.free.items():
                free[name] = free.get(name, 0) + max(0, units)
        return to_floats({name: units for name, units in free.items() if units})

    # -- actors

    def _namespace(self, client: Client, args: dict[str, Any]) -> str:
        namespace = args.get("namespace")
        if namespace:
            return str(namespace)
        job = self.s.jobs.get(client.job)
        return str(job.info.get("namespace", "")) if job is not None else ""

    def _get_actor(self, client: Client, args: dict[str, Any]) -> dict[str, Any]:
        name, namespace = args["name"], self._namespace(client, args)
        actor = self.s.actor_names.get((namespace, name))
        if actor is None:
            text = (
                f"Failed to look up actor with name '{name}'. No live actor of this name is in namespace "
                f"'{namespace}': it was never created, is in another namespace, or has died."
            )
            raise RequestError("ValueError", text)
        return actors.describe(actor)

    def _list_named_actors(self, client: Client, args: dict[str, Any]) -> list[dict[str, str]]:
        everywhere = args.get("all_namespaces", False)
        namespace = self._namespace(client, args)
        return [
            {"name": name, "namespace": space}
            for (space, name) in self.s.actor_names
            if everywhere or space == namespace
        ]

    def _actor(self, client: Client, args: dict[str, Any]) -> dict[str, Any] | None:
        actor = self.s.actors.get(args["id"]) or self.s.dead_actors.get(args["id"])
        return actors.describe(actor) if actor is not None else None

    def _actors(self, client: Client, args: dict[str, Any]) -> list[dict[str, Any]]:
        rows = [*self.s.dead_actors.values(), *self.s.actors.values()][-ROWS_MAX:]
        return [
            {
                **actors.describe(row),
                "spec": None,
                "meta": None,
                "resources": row.spec.get("resources") or {},
                "runtime_env": row.spec.get("runtime_env") or {},
            }
            for row in rows
        ]

    # -- processes

    def worker_ended(self, worker: Worker, exit_: Exit) -> None:
        """A worker was reaped: it stays known as one that ended."""
        row = {
            "worker_id": worker.worker_id,
            "node_id": worker.node.node_id,
            "pid": worker.pid,
            "wanted": worker.why,  # why it was stopped; "" for an end that nobody asked for
            "cause": exit_.text,
            "code": exit_.code,
            "signal": exit_.signal,
        }
        self.s.remember(self._ended, worker.worker_id, row, MAX_DEAD_RECORDS)

    def _workers(self, client: Client, args: dict[str, Any]) -> list[dict[str, Any]]:
        rows = []
        for worker in list(self.s.workers.values())[:ROWS_MAX]:
            user = worker.holding.user if worker.holding is not None else None
            rows.append(
                {
                    "worker_id": worker.worker_id,
                    "node_id": worker.node.node_id,
                    "pid": worker.pid,
                    "state": worker.state,
                    "job_id": worker.job,
                    "gpu_ids": list(worker.key[1] or ()),
                    "actor_id": user.actor_id if isinstance(user, Actor) else None,
                    "lease_id": getattr(user, "lease_id", None),
                }
            )
        return rows

    def _leases(self, client: Client, args: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {
                "lease_id": lease.lease_id,
                "client": lease.want.client.peer,
                "class_id": lease.want.class_id,
                "granted": lease.granted,
                "node_id": lease.holding.node.node_id,
                "worker_id": lease.holding.worker.worker_id if lease.holding.worker is not None else None,
                "resources": to_floats(lease.holding.share.amounts),
                "gpu_ids": list(lease.holding.share.gpu_ids),
                "blocked": lease.holding.blocked,
            }
            for lease in list(self.s.leases.values())[:ROWS_MAX]
        ]

    def _pids(self, client: Client, args: dict[str, Any]) -> dict[str, list[int]]:
        return {
            "agents": [node.pid for node in self.s.alive],
            "workers": [worker.pid for worker in self.s.workers.values() if worker.pid],
            "drivers": [other.pid for other in self.s.clients.values() if other.worker is None],
        }

    def _owns(self, client: Client, args: dict[str, Any]) -> None:
        """A worker says how many of its objects and calls others wait for."""
        if client.worker is not None:
            client.worker.owns = int(args["count"])
            client.worker.calls = bytes(args.get("calls") or b"")
            client.worker.owns_at = self.s.now

    def _address(self, client: Client, args: dict[str, Any]) -> list[Any] | None:
        """Where a process listens, None for one that is gone."""
        other = self.s.clients.get(args["id"])
        return None if other is None else other.address

    def _jobs(self, client: Client, args: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {
                "job_id": job.job_id,
                "driver": job.driver.peer if job.driver is not None else None,
                "pid": job.info.get("pid", 0),
                "ip": job.driver.address[2] if job.driver is not None else "",
                "node_id": job.driver.node_id if job.driver is not None else b"",
                "namespace": job.info.get("namespace", ""),
                "entrypoint": job.info.get("entrypoint", ""),
                "submission_id": job.info.get("submission_id", ""),
                "running": job.driver is not None,
                "age_s": self.s.now - job.started_at,
                "ran_s": (job.ended_at or self.s.now) - job.started_at,
            }
            for job in list(self.s.jobs.values())[-ROWS_MAX:]
        ]

    # -- groups

    def _groups(self, client: Client, args: dict[str, Any]) -> list[dict[str, Any]]:
        rows = [*self.s.removed_groups.values(), *self.s.groups.values()][-ROWS_MAX:]
        return [groups.describe(row) for row in rows]

    def find_group(self, client: Client, args: dict[str, Any]) -> Group:
        """The group of an id or a name.

        Raises:
            RequestError: there is none.
        """
        group_id, name = args.get("id"), args.get("name")
        group: Group | None = None
        if group_id is not None:
            group = self.s.groups.get(group_id) or self.s.removed_groups.get(group_id)
        elif name:
            group = self.s.group_names.get((self._namespace(client, args), name))
        if group is None:
            raise RequestError("ValueError", f"Failed to look up placement group {name or group_id!r}")
        return group

    def _use_group(self, client: Client, args: dict[str, Any]) -> None:
        """May the asker put something into a group of another job, or remove it?"""
        if args["id"] not in self.s.removed_groups:
            foreign = self.find_group(client, args).foreign(client.job)
            if foreign:
                raise RequestError("AuthenticationError", foreign)

    def _group(self, client: Client, args: dict[str, Any]) -> dict[str, Any]:
        return groups.describe(self.find_group(client, args))

    # -- what waits

    def _why(self, client: Client, args: dict[str, Any]) -> str:
        name = args["id"]
        if type(name) is int:
            want = client.wants.get(name)
            return explain(self.s, want) if want is not None else "nothing is wanted for this class"
        item = self.s.actors.get(name) or self.s.groups.get(name)
        if item is not None:
            if isinstance(item, Actor) and item.line is None:
                return f"the actor is {item.state}" + ("" if item.holding is None else _startup(self.s, item))
            return explain(self.s, item)
        buried = self.s.dead_actors.get(name)
        if buried is not None:
            return f"the actor is DEAD: {buried.info.get('cause', '')}"
        removed = self.s.removed_groups.get(name)
        if removed is not None:
            return f"the placement group was removed: {removed.reason}"
        raise RequestError("ValueError", f"nothing is known of {name!r}")

    def _demands(self, client: Client, args: dict[str, Any]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for line in self.s.lines.values():
            for item in line.all():
                if len(rows) >= ROWS_MAX:
                    return rows
                row: dict[str, Any] = {"reason": headline(self.s, item)}
                row["infeasible"] = bool(line.infeasible)
                if isinstance(item, Want):
                    row.update(what="class", id=item.class_id, client=item.client.peer)
                    row.update(count=item.count - len(item.leases), bundles=[to_floats(item.shape.place)])
                elif isinstance(item, Actor):
                    row.update(what="actor", id=item.actor_id, count=1, bundles=[to_floats(item.shape.place)])
                elif isinstance(item, Group):
                    bundles = [to_floats(bundle) for bundle in item.request.bundles]
                    row.update(what="group", id=item.group_id, count=1, bundles=bundles)
                rows.append(row)
        return rows

    # -- deaths

    def _deaths(self, client: Client, args: dict[str, Any]) -> list[dict[str, Any]]:
        """Of workers that were followed by another; those of actors for good are on the actors' rows."""
        return [{**record, "worker_id": worker_id} for worker_id, record in self.s.deaths.items()][-ROWS_MAX:]

    def _last_call(self, client: Client, args: dict[str, Any]) -> None:
        """A caller says which call of its was under way when a worker died; the first word counts."""
        actor = self.s.dead_actors.get(args.get("actor") or b"")
        record = self.s.deaths.get(args["worker"]) or (actor.info if actor is not None else {})
        if record.get("kind") == "worker_died":
            record.setdefault("last_call", str(args["call"])[:200])

    # -- key-value store

    def _kv_put(self, client: Client, args: dict[str, Any]) -> bool:
        """True if the key is new."""
        s = self.s
        key = (str(args.get("namespace") or ""), _bytes(args["key"]))
        value = _bytes(args["value"])
        old = s.kv.get(key)
        if old is not None and not args.get("overwrite", True):
            return False
        grown = s.kv_bytes + len(value) + (len(key[1]) if old is None else -len(old))
        if grown > MAX_KV_VALUE_BYTES:
            text = f"the key-value store is full: {s.kv_bytes} of {MAX_KV_VALUE_BYTES} bytes are used"
            raise RequestError("ValueError", text)
        s.kv_bytes = grown
        s.kv[key] = value
        s.note("kv", kv_key(*key), (key, value))
        return old is None

    def _kv_get(self, client: Client, args: dict[str, Any]) -> bytes | None:
        return self.s.kv.get((str(args.get("namespace") or ""), _bytes(args["key"])))

    def _kv_exists(self, client: Client, args: dict[str, Any]) -> bool:
        return (str(args.get("namespace") or ""), _bytes(args["key"])) in self.s.kv

    def _kv_keys(self, client: Client, args: dict[str, Any]) -> list[bytes]:
        namespace, prefix = str(args.get("namespace") or ""), _bytes(args.get("prefix") or b"")
        return [key for space, key in self.s.kv if space == namespace and key.startswith(prefix)]

    def _kv_del(self, client: Client, args: dict[str, Any]) -> int:
        """How many keys were deleted."""
        key = _bytes(args["key"])
        doomed = [key]
        if args.get("by_prefix"):
            doomed = self._kv_keys(client, {**args, "prefix": key})
        deleted = 0
        for one in doomed:
            value = self.s.kv.pop((str(args.get("namespace") or ""), one), None)
            if value is not None:
                self.s.note("kv", kv_key(str(args.get("namespace") or ""), one), None)
                self.s.kv_bytes -= len(value) + len(one)
                deleted += 1
        return deleted


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError(f"{type(value).__name__} is not bytes")
    return bytes(value)


def _startup(s: State, actor: Actor) -> str:
    if actor.holding is None:
        return ""
    since = f" for {s.now - actor.holding.since:.1f} s"
    return since if actor.holding.worker is not None else f"; a worker process for it is being started{since}"

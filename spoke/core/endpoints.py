"""Endpoints: addresses under names, each for as long as the process that registered it lives.

Rules of this module: many endpoints may have one name; names are per namespace, as those of actors.  An
endpoint goes with its owner (the process that registered it), or with the actor that it names.  Clients
that watch a name are sent all its rows at each change, so that nobody asks the hub before a call (HUB-1).
"""

from __future__ import annotations

from typing import Any

from spoke import wire
from spoke.core.directory import RequestError
from spoke.core.state import Client, State
from spoke.limits import MAX_ENDPOINTS, MAX_NAME_CHARS

Key = tuple[str, str]  # namespace, name


class Endpoint:
    """One address under a name."""

    __slots__ = ("actor_id", "address", "endpoint_id", "key", "meta", "metadata", "owner")

    def __init__(self, endpoint_id: str, key: Key, owner: Client, args: dict[str, Any]) -> None:
        self.endpoint_id = endpoint_id
        self.key = key
        self.owner = owner
        self.address = str(args["address"])
        self.metadata = dict(args.get("metadata") or {})
        self.actor_id: bytes | None = args.get("actor_id")
        self.meta: bytes | None = args.get("meta")  # describes the actor's class

    def row(self) -> dict[str, Any]:
        """What clients are told."""
        return {
            "id": self.endpoint_id,
            "name": self.key[1],
            "namespace": self.key[0],
            "address": self.address,
            "metadata": self.metadata,
            "actor_id": self.actor_id,
            "meta": self.meta,
            "pid": self.owner.pid,
            "job_id": self.owner.info.get("submission_id") or "",
        }

    def record(self) -> dict[str, Any]:
        """What a restarted hub needs."""
        return {**self.row(), "owner": self.owner.peer}


class Endpoints:
    """All endpoints and who watches them."""

    def __init__(self, state: State) -> None:
        self.s = state
        self.table: dict[str, Endpoint] = {}
        self.names: dict[Key, dict[str, Endpoint]] = {}
        self.watchers: dict[Key, dict[bytes, Client]] = {}
        self._count = 0
        self.requests = {
            "endpoint_register": self._register,
            "endpoint_unregister": self._unregister,
            "endpoints": self._list,
            "endpoints_watch": self._watch,
            "endpoints_unwatch": self._unwatch,
        }

    def _key(self, client: Client, args: dict[str, Any]) -> Key:
        name = args["name"]
        if not isinstance(name, str) or not name or len(name) > MAX_NAME_CHARS:
            raise RequestError("ValueError", f"the name of an endpoint is a text, not {name!r}")
        return self._namespace(client, args), name

    def _namespace(self, client: Client, args: dict[str, Any]) -> str:
        namespace = args.get("namespace")
        if namespace:
            return str(namespace)
        job = self.s.jobs.get(client.job)
        return str(job.info.get("namespace", "")) if job is not None else ""

    def _register(self, client: Client, args: dict[str, Any]) -> str:
        key = self._key(client, args)
        job = args.get("job")
        if job and job != client.info.get("submission_id"):
            if job not in self.s.submissions:
                raise RequestError("KeyError", f"no job {job!r} is known")
            text = f"only the processes of job {job!r} register endpoints for it"
            raise RequestError("AuthenticationError", text)
        actor_id = args.get("actor_id")
        if actor_id is not None and actor_id not in self.s.actors:
            raise RequestError("ValueError", "the actor of the endpoint is dead or unknown")
        if len(self.table) >= MAX_ENDPOINTS:
            raise RequestError("RuntimeError", f"{MAX_ENDPOINTS} endpoints are registered")
        self._count += 1
        found = Endpoint(f"{client.peer.hex()[:12]}-{self._count}", key, client, args)
        self._add(found)
        self._tell(key)
        return found.endpoint_id

    def _add(self, found: Endpoint) -> None:
        self.table[found.endpoint_id] = found
        self.names.setdefault(found.key, {})[found.endpoint_id] = found
        self.s.note("endpoint", found.endpoint_id.encode(), found)

    def restore(self, records: list[dict[str, Any]], watched: dict[bytes, list[list[str]]]) -> None:
        """After a restart of the hub: the endpoints of those who came back, and what they watch."""
        for record in records:
            owner = self.s.clients.get(record["owner"])
            actor_id = record["actor_id"]
            self._count = max(self._count, int(record["id"].rpartition("-")[2]))
            if owner is None or (actor_id is not None and actor_id not in self.s.actors):
                self.s.note("endpoint", record["id"].encode(), None)
            else:
                self._add(Endpoint(record["id"], (record["namespace"], record["name"]), owner, record))
        for peer, keys in watched.items():
            client = self.s.clients.get(peer)
            if client is not None:
                for namespace, name in keys:
                    self._watch(client, {"namespace": namespace, "name": name})

    def _unregister(self, client: Client, args: dict[str, Any]) -> bool:
        """Whether it was there; only its owner's job may remove it."""
        found = self.table.get(args["id"])
        if found is None:
            return False
        if found.owner.job != client.job:
            raise RequestError("AuthenticationError", "the endpoint belongs to another job")
        self._remove([found])
        return True

    def _list(self, client: Client, args: dict[str, Any]) -> list[dict[str, Any]]:
        namespace, name, prefix = self._namespace(client, args), args.get("name"), args.get("prefix") or ""
        if name is not None:
            return self.rows((namespace, name))
        everywhere = args.get("all_namespaces", False)
        return [
            found.row()
            for found in self.table.values()
            if found.key[1].startswith(prefix) and (everywhere or found.key[0] == namespace)
        ]

    def _watch(self, client: Client, args: dict[str, Any]) -> None:
        """The client is told the rows of a name, now and at each change from here on."""
        key = self._key(client, args)
        self.watchers.setdefault(key, {})[client.peer] = client
        self.s.send(client.peer, wire.ENDPOINTS, key[0], key[1], self.rows(key))

    def _unwatch(self, client: Client, args: dict[str, Any]) -> None:
        key = self._key(client, args)
        watchers = self.watchers.get(key, {})
        watchers.pop(client.peer, None)
        if not watchers:
            self.watchers.pop(key, None)

    def rows(self, key: Key) -> list[dict[str, Any]]:
        """The endpoints of a name, in order of registration."""
        return [found.row() for found in self.names.get(key, {}).values()]

    # -- ends

    def client_lost(self, client: Client) -> None:
        """A process is gone, and with it what it registered and watched."""
        for key in [key for key, watchers in self.watchers.items() if client.peer in watchers]:
            self._unwatch(client, {"namespace": key[0], "name": key[1]})
        self._remove([found for found in self.table.values() if found.owner is client])

    def actor_ended(self, actor_id: bytes) -> None:
        """An actor is dead, and with it the endpoints that name it."""
        if self.table:
            self._remove([found for found in self.table.values() if found.actor_id == actor_id])

    def _remove(self, doomed: list[Endpoint]) -> None:
        touched: dict[Key, bool] = {}
        for found in doomed:
            del self.table[found.endpoint_id]
            self.s.note("endpoint", found.endpoint_id.encode(), None)
            same = self.names[found.key]
            del same[found.endpoint_id]
            if not same:
                del self.names[found.key]
            touched[found.key] = True
        for key in touched:
            self._tell(key)

    def _tell(self, key: Key) -> None:
        rows = self.rows(key)
        for peer in self.watchers.get(key, {}):
            self.s.send(peer, wire.ENDPOINTS, key[0], key[1], rows)

"""From a name to addresses: fixed tables, the cluster's endpoints, a cloud's list of machines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from spoke import current
from spoke.endpoints.addresses import Addresses, ResolvedEndpoint, ResolveResult, Update
from spoke.endpoints.channel import parse_url
from spoke.endpoints.pool import EndpointPool
from spoke.handles import engine

RESOLVE_S = 5.0  # default limit of a question to a hub, in seconds


class Resolver(Addresses):
    """What all resolvers share."""

    def lookup(self, name: str) -> EndpointPool:
        """An `EndpointPool` over the addresses of `name`."""
        return EndpointPool(name, self)


class FixedResolver(Resolver):
    """``FixedResolver({"calc": "127.0.0.1:9000", "db": ["spoke://a:1/db", "spoke://b:1/db"]})``.

    Raises:
        ValueError: something is no address.
    """

    def __init__(self, addresses: Mapping[str, str | Sequence[str]]) -> None:
        self._table: dict[str, list[ResolvedEndpoint]] = {}
        for name, given in addresses.items():
            urls = [given] if isinstance(given, str) else list(given)
            self._table[name] = [_fixed(name, index, url) for index, url in enumerate(urls)]

    def resolve(self, name: str) -> ResolveResult:
        """The addresses of exactly this name; none is an empty result."""
        return ResolveResult(name, list(self._table.get(name, [])))


def _fixed(name: str, index: int, url: str) -> ResolvedEndpoint:
    (host, port), hosted = parse_url(url)
    return ResolvedEndpoint(f"spoke://{host}:{port}/{hosted or name}", f"fixed-{name}-{index}", {})


class ClusterResolver(Resolver):
    """The endpoints of a cluster.

    Args:
        address: ``host:port`` of the cluster.  [default: the one this process is connected to]
        namespace: of the names.  [default: this job's]
        timeout: limit of one question in seconds.

    Raises:
        RuntimeError: no address was given, and this process is connected to no cluster.
        ConnectionError: no cluster answers at the address.
    """

    def __init__(
        self, address: str | None = None, *, namespace: str | None = None, timeout: float = RESOLVE_S
    ) -> None:
        if address is None and current.client is None:
            raise RuntimeError(
                "no cluster: call spoke.init(), or give the address as ClusterResolver('host:port')"
            )
        self._address = address
        self._namespace = namespace
        self._timeout = timeout

    def resolve(self, name: str) -> ResolveResult:
        """The live endpoints of exactly this name."""
        return ResolveResult(name, resolved(self._ask("endpoints", name=name)))

    def _ask(self, what: str, **args: Any) -> Any:
        args["namespace"] = self._namespace
        client = current.client
        if client is not None and self._address in (None, client.runtime_context.get("address")):
            return client.request(what, self._timeout, **args)
        from spoke.observer import reach

        observer = reach(str(self._address), self._timeout)
        try:
            return observer.ask(what, self._timeout, **args)
        finally:
            observer.close()

    def watch(self, name: str, update: Update) -> Callable[[], None] | None:
        """Subscribe through this process's own link to the hub."""
        client = current.client
        if client is None or self._address not in (None, client.runtime_context.get("address")):
            return None

        def changed(rows: list[dict[str, Any]]) -> None:
            update(resolved(rows))

        key = (self._namespace or client.facts().get("namespace") or "", name)
        with client.lock:
            client.hub.endpoint_watchers.setdefault(key, []).append(changed)
        # The hub sends the present rows the way it sends changes, so that they come in order.
        client.request("endpoints_watch", self._timeout, name=name, namespace=key[0])

        def stop() -> None:
            with client.lock:
                watchers = client.hub.endpoint_watchers.get(key, [])
                if changed in watchers:
                    watchers.remove(changed)
                last = not watchers
                client.hub.endpoint_watchers.pop(key, None) if last else None
            if last and client.closed is None:
                client.request("endpoints_unwatch", self._timeout, name=name, namespace=key[0])

        return stop


def resolved(rows: list[dict[str, Any]]) -> list[ResolvedEndpoint]:
    """Rows of the hub as addresses; the handle of an actor is made when it is first called."""
    return [
        ResolvedEndpoint(row["address"], row["id"], row["metadata"], (row["actor_id"], row["meta"]))
        if row["actor_id"]
        else ResolvedEndpoint(row["address"], row["id"], row["metadata"])
        for row in rows
    ]


class CloudApi(Protocol):
    """A cloud's list of machines, each ``{"name", "status", "internal_ip", "metadata": {...}}``."""

    def list_instances(self) -> list[dict[str, Any]]:
        """All machines."""


class StaticCloud:
    """A list that does not change, for tests."""

    def __init__(self, instances: list[dict[str, Any]]) -> None:
        self._instances = instances

    def list_instances(self) -> list[dict[str, Any]]:
        """The list."""
        return self._instances


class CloudResolver(Resolver):
    """Machines whose metadata ``spoke_actor_<name>`` holds the port of a server.

    Only machines count that are RUNNING and have an internal address.
    """

    def __init__(self, api: CloudApi) -> None:
        self._api = api

    def resolve(self, name: str) -> ResolveResult:
        """The addresses of `name` on the machines of this moment."""
        found = []
        for one in self._api.list_instances():
            port = str((one.get("metadata") or {}).get(f"spoke_actor_{name}", ""))
            if one.get("status") == "RUNNING" and one.get("internal_ip") and port.isdigit():
                url = f"spoke://{one['internal_ip']}:{port}/{name}"
                found.append(ResolvedEndpoint(url, f"cloud-{one.get('name')}-{name}", {}))
        return ResolveResult(name, found)


def lookup(
    name: str,
    *,
    namespace: str | None = None,
    resolver: Resolver | None = None,
    timeout: float | None = None,
    token: str | None = None,
) -> EndpointPool:
    """All endpoints of a name as one callee; close it, or use it in a ``with`` statement.

    Args:
        namespace: of the name.  [default: this job's]
        resolver: where addresses come from.  [default: the cluster's endpoints]
        timeout: limit of each call in seconds; None: no limit.
        token: of servers of plain objects.  [default: as `ActorServer`]
    """
    if resolver is None:
        engine()
        resolver = ClusterResolver(namespace=namespace)
    return EndpointPool(name, resolver, timeout, token)

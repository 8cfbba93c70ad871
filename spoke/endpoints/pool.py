"""Many endpoints under one name as one callee.

Rules of this module: where the resolver can, the pool subscribes to changes instead of asking before each
call (the cluster's resolver does).  ``call`` goes round the members of the moment; a member that is added
or removed skips at most one turn.  Nothing is retried unless the caller says that the method may be
repeated.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from spoke.backoff import ExponentialBackoff
from spoke.endpoints.addresses import Addresses, ResolvedEndpoint
from spoke.endpoints.broadcast import BroadcastResult
from spoke.endpoints.channel import Channel, parse_url
from spoke.errors import ActorDiedError, ActorUnavailableError
from spoke.handles import engine, rebuild_weak_handle

UNAVAILABLE: Final = (ActorUnavailableError, ActorDiedError)
ASK_S: Final = 0.2  # between questions to a resolver that cannot push


class _ActorMember:
    """A member that is an actor of the cluster."""

    def __init__(self, endpoint: ResolvedEndpoint) -> None:
        self.endpoint = endpoint
        self._handle = rebuild_weak_handle(*endpoint.handle)
        self._client = engine()

    def start(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return getattr(self._handle, method).remote(*args, **kwargs)

    def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout: float | None) -> Any:
        return self._client.get_one(getattr(self._handle, method).remote(*args, **kwargs), timeout)

    def close(self) -> None:
        pass


class _ServerMember:
    """A member that a server of plain objects hosts."""

    def __init__(self, endpoint: ResolvedEndpoint, secret: bytes | None) -> None:
        self.endpoint = endpoint
        target, self._name = parse_url(endpoint.url)
        self._channel = Channel(target, secret)

    def start(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._channel.call(self._name, method, args, kwargs)

    def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout: float | None) -> Any:
        return self._channel.call(self._name, method, args, kwargs).result(timeout)

    def close(self) -> None:
        self._channel.close()


class _Methods:
    """``proxy.method(*args)``: what `EndpointPool.call` and its like return; each method is made once."""

    def __init__(self, start: Callable[..., Any]) -> None:
        self._start = start

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(f"{name!r} is no public method")
        start = self._start

        def method(*args: Any, **kwargs: Any) -> Any:
            return start(name, args, kwargs)

        self.__dict__[name] = method
        return method


class EndpointPool:
    """The live members of a name; see `spoke.lookup`.

    Args:
        name: of the endpoints.
        resolver: where their addresses come from.
        timeout: limit of one call in seconds; None: no limit.
        token: of servers of plain objects.  [default: as `ActorServer`]
    """

    def __init__(
        self, name: str, resolver: Addresses, timeout: float | None = None, token: str | None = None
    ) -> None:
        self.name = name
        self._resolver = resolver
        self._timeout = timeout
        self._secret = token.encode() if token else None
        self._changed = threading.Condition()
        self._members: list[Any] = []
        self._by_id: dict[tuple[str, str], Any] = {}
        self._callbacks: list[Callable[[list[ResolvedEndpoint]], None]] = []
        self._pending: list[ResolvedEndpoint] | None = None
        self._turn = itertools.count()
        self._closed = False
        self._stop = resolver.watch(name, self._update)
        if self._stop is None:
            self._update(resolver.resolve(name).endpoints)
        self._direct = _Methods(self._call)
        self._patient = _Methods(self._call_again)

    # -- members

    def _update(self, endpoints: list[ResolvedEndpoint]) -> None:
        """The addresses changed; may run under the engine's lock, so members are made later."""
        with self._changed:
            self._pending = endpoints
            callbacks = list(self._callbacks)
            self._changed.notify_all()
        for callback in callbacks:
            callback(list(endpoints))

    def _current(self) -> list[Any]:
        if self._pending is None:
            return self._members
        with self._changed:
            endpoints, self._pending = self._pending, None
            if endpoints is None:
                return self._members
            old, self._by_id = self._by_id, {}
            for one in endpoints:
                key = (one.actor_id, one.url)
                self._by_id[key] = old.pop(key, None) or self._member(one)
            self._members = list(self._by_id.values())
        for gone in old.values():
            gone.close()
        return self._members

    def _member(self, endpoint: ResolvedEndpoint) -> Any:
        return _ActorMember(endpoint) if endpoint.handle else _ServerMember(endpoint, self._secret)

    def _present(self) -> list[Any]:
        """Members for the next call.

        Raises:
            RuntimeError: there are none.
        """
        if self._stop is None and not self._members:
            self._update(self._resolver.resolve(self.name).endpoints)
        members = self._current()
        if self._closed:
            raise RuntimeError(f"the pool of {self.name!r} was closed")
        if not members:
            raise RuntimeError(f"No endpoints for {self.name!r}")
        return members

    @property
    def endpoints(self) -> list[ResolvedEndpoint]:
        """The addresses of the moment, in order of registration."""
        return [member.endpoint for member in self._current()]

    @property
    def size(self) -> int:
        """How many members there are."""
        return len(self._current())

    def __len__(self) -> int:
        return self.size

    def wait_for_size(self, size: int, timeout: float = 60.0) -> None:
        """Wait until there are at least `size` members; returns at once for 0 or less.

        Raises:
            TimeoutError: there are fewer after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while self.size < size:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{self.size} of {size} endpoints for {self.name!r} within {timeout:g} s")
            with self._changed:
                if self._pending is None:
                    self._changed.wait(left if self._stop is not None else min(left, ASK_S))
            if self._stop is None:
                self._update(self._resolver.resolve(self.name).endpoints)

    def subscribe(self, callback: Callable[[list[ResolvedEndpoint]], None]) -> Callable[[], None]:
        """Call `callback` with all addresses at each change; it must be quick.  Returns what ends that."""
        with self._changed:
            self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback) if callback in self._callbacks else None

    # -- calls

    def call(self, retry_on_unavailable: bool = False) -> Any:
        """``pool.call().method(*args)``: the next member's answer.

        Args:
            retry_on_unavailable: ask another member when one is gone, for methods that may run twice.

        Raises (when the method is called):
            RuntimeError: there is no member.
            the exception of the method; ActorUnavailableError or ActorDiedError: the member is gone.
        """
        return self._patient if retry_on_unavailable else self._direct

    def _call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        members = self._present()
        return members[next(self._turn) % len(members)].call(method, args, kwargs, self._timeout)

    def _call_again(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tried: dict[tuple[str, str], bool] = {}
        while True:
            members = self._present()
            fresh = [m for m in members if (m.endpoint.actor_id, m.endpoint.url) not in tried] or members
            member = fresh[next(self._turn) % len(fresh)]
            try:
                return member.call(method, args, kwargs, self._timeout)
            except UNAVAILABLE:
                tried[member.endpoint.actor_id, member.endpoint.url] = True
                if len(tried) > len(members):
                    raise

    def submit(self) -> Any:
        """``pool.submit().method(*args)``: a ref, or a future for a server of plain objects."""
        return _Methods(self._submit)

    def _submit(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        members = self._present()
        return members[next(self._turn) % len(members)].start(method, args, kwargs)

    def broadcast(self) -> Any:
        """``pool.broadcast().method(*args)``: a `BroadcastResult` over all members of the moment."""
        return _Methods(self._broadcast)

    def _broadcast(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> BroadcastResult:
        members = self._present()
        calls = []
        for member in members:
            try:
                calls.append(member.start(method, args, kwargs))
            except UNAVAILABLE as error:
                calls.append(_failed(error))
        return BroadcastResult([member.endpoint for member in members], calls)

    # -- the end

    def close(self) -> None:
        """End the subscription and the connections; may be repeated."""
        if self._closed:
            return
        self._closed = True
        if self._stop is not None:
            self._stop()
        for member in self._members:
            member.close()
        self._members, self._by_id = [], {}

    shutdown = close

    def __enter__(self) -> EndpointPool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _failed(error: BaseException) -> Any:
    from concurrent.futures import Future

    future: Future[Any] = Future()
    future.set_exception(error)
    return future


class ActorClient:
    """One object by name: waits for the name, keeps the address, and looks again when it was lost.

    Only the search for the name is repeated, never a call.

    Args:
        timeout: seconds until a name that is not there is a TimeoutError.
    """

    def __init__(
        self,
        resolver: Addresses,
        name: str,
        timeout: float = 30.0,
        initial_backoff: float = 0.1,
        max_backoff: float = 2.0,
        backoff_factor: float = 2.0,
        backoff_jitter: float = 0.25,
    ) -> None:
        self._resolver, self._name, self._limit = resolver, name, timeout
        self._backoff = ExponentialBackoff(initial_backoff, max_backoff, backoff_factor, backoff_jitter)
        self._member: Any = None

    def _found(self) -> Any:
        if self._member is not None:
            return self._member
        self._backoff.reset()
        deadline = time.monotonic() + self._limit
        while True:
            found = self._resolver.resolve(self._name)
            if not found.is_empty:
                first = found.first()
                self._member = _ActorMember(first) if first.handle else _ServerMember(first, None)
                return self._member
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no endpoint {self._name!r} within {self._limit:g} s")
            time.sleep(min(left, self._backoff.next()))

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):
            raise AttributeError(f"{method!r} is no public method")

        def call(*args: Any, **kwargs: Any) -> Any:
            member = self._found()
            try:
                return member.call(method, args, kwargs, self._limit)
            except UNAVAILABLE:
                self._member = None
                member.close()
                raise

        return call

    def _close(self) -> None:
        if self._member is not None:
            self._member.close()
            self._member = None

    def __enter__(self) -> ActorClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()

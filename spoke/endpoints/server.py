"""A server of plain objects: their public methods can be called from other processes.

It needs no cluster: with a fixed port and a common token (`SPOKE_TOKEN`, or `token=`), `FixedResolver`
finds it. In a cluster its objects are registered as endpoints, under the names that they are given.

Rules of this module: one thread reads and answers what is about the server itself (health, lists), so that a
slow method holds up neither; each object has threads of its own, one by default, so that its methods run one
after the other in the order of arrival.
"""

from __future__ import annotations

import inspect
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from spoke import current, errorpack, link, machine, wire
from spoke._native import Reactor
from spoke.endpoints.channel import ERROR, MISSING, VALUE, default_token, pack, unpack
from spoke.errors import ProtocolError
from spoke.jobcontext import ActorContext, context_or_none
from spoke.links import ACCEPTED, CLOSED, FRAME

ABOUT: Final = ""  # the name under which the server answers for itself


class _Hosted:
    """One object and the threads that run its methods."""

    def __init__(self, name: str, target: Any, max_concurrency: int) -> None:
        self.name = name
        self.target = target
        self.endpoint_id = ""
        self.threads = ThreadPoolExecutor(max_concurrency, thread_name_prefix=f"spoke-{name[:8]}")

    def method(self, name: str) -> Any:
        """The bound public method, or None."""
        found = None if name.startswith("_") else getattr(self.target, name, None)
        return found if callable(found) else None

    def methods(self) -> list[dict[str, str]]:
        """Name, signature and documentation of each public method."""
        rows = []
        for name in dir(self.target):
            found = self.method(name)
            if found is not None:
                doc = inspect.getdoc(found) or ""
                rows.append({"name": name, "signature": _signature(found), "doc": doc})
        return rows


class ActorServer:
    """Hosts plain objects for callers in other processes.

    Args:
        host: address to listen on.  [default: loopback; in a cluster that spans machines, the node's]
        port: 0 takes a free one.  [default: the job's port "actor" where the job asked for one, else 0]
        token: text that callers must hold.  [default: the cluster's, else SPOKE_TOKEN, else one known to this
            process only]

    Raises:
        OSError: the port is taken.
        ValueError: the token is too short.
    """

    def __init__(self, host: str | None = None, port: int | None = None, *, token: str | None = None) -> None:
        from spoke.token import check

        self._secret = check(token) if token is not None else default_token()
        self._host = host or _default_host()
        self._wanted = _default_port() if port is None else port
        self._reactor = Reactor()
        self._hosted: dict[str, _Hosted] = {}
        self._handshakes = link.ServerHandshakes(self._reactor, self._secret, os.urandom(28))
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)  # no method runs
        self._running = 0  # calls under way
        self._started = time.monotonic()
        self._thread: threading.Thread | None = None
        self._ending = False
        self._done = threading.Event()
        self.port = 0
        if port is not None:
            self._listen()

    @property
    def address(self) -> str:
        """``host:port`` as callers write it; starts to listen."""
        self._listen()
        host = machine.outward_ip() if self._host in ("0.0.0.0", "::") else self._host
        return f"{host}:{self.port}"

    def _listen(self) -> None:
        if not self.port:
            self.port = self._reactor.listen_tcp(self._host, self._wanted)[1]

    # -- what is hosted

    def register(
        self, name: str, actor: Any, metadata: dict[str, Any] | None = None, *, max_concurrency: int = 1
    ) -> str:
        """Host `actor` as `name`; in a cluster also as an endpoint of that name.  Returns its id.

        Args:
            max_concurrency: methods of this object that may run at the same time.

        Raises:
            ValueError: the name is empty, contains "/" or is taken.
        """
        if not isinstance(name, str) or not name or "/" in name:
            raise ValueError(f"the name of an object is a text without '/', not {name!r}")
        hosted = _Hosted(name, actor, max_concurrency)
        with self._lock:
            if name in self._hosted:
                raise ValueError(f"{name!r} is hosted already")
            self._hosted[name] = hosted
        if current.client is not None:
            from spoke import endpoints

            hosted.endpoint_id = endpoints.register(name, f"spoke://{self.address}/{name}", metadata)
        return hosted.endpoint_id or f"local-{name}"

    def unregister(self, name: str) -> bool:
        """Host it no more; whether it was there."""
        with self._lock:
            hosted = self._hosted.pop(name, None)
        if hosted is None:
            return False
        if hosted.endpoint_id and current.client is not None:
            from spoke import endpoints

            endpoints.unregister(hosted.endpoint_id)
        hosted.threads.shutdown(wait=False)
        return True

    # -- serving

    def serve_background(self) -> int:
        """Serve in a thread of its own; returns the port."""
        self._listen()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="spoke-server", daemon=True)
            self._thread.start()
        return self.port

    def serve(self) -> None:
        """Serve until `shutdown` is called from elsewhere, or the process is interrupted."""
        self.serve_background()
        try:
            self._done.wait()
        finally:
            self.shutdown()

    def _run(self) -> None:
        while not self._ending:
            for kind, conn, meta, payload in self._reactor.poll(200_000):
                if kind == ACCEPTED:
                    self._handshakes.accepted(conn, time.monotonic())
                elif conn in self._handshakes:
                    if kind == FRAME:
                        self._handshakes.frame(conn, meta)
                    else:
                        self._handshakes.closed(conn)
                elif kind == FRAME:
                    self._received(conn, meta, payload)
                elif kind == CLOSED:
                    self._reactor.close(conn)
            self._handshakes.expire(time.monotonic())
        self._done.set()

    def _received(self, conn: int, meta: bytes, payload: Any) -> None:
        try:
            message = wire.decode(meta)
            if message[0] != wire.ENDPOINT_CALL:
                raise ProtocolError(f"{wire.name_of(message[0])} is no call")
        except ProtocolError:
            self._reactor.close(conn)
            return
        _, call_id, name, method = message
        if name == ABOUT:
            self._answer(conn, call_id, *self._about(method))
            return
        with self._lock:
            hosted = self._hosted.get(name)
            if hosted is None and not name and len(self._hosted) == 1:
                hosted = next(iter(self._hosted.values()))
            names = list(self._hosted)
            if hosted is not None:
                self._running += 1
        if hosted is None:
            self._answer(conn, call_id, MISSING, b"", f"no object {name!r} is hosted here, but {names}")
            return
        hosted.threads.submit(self._call, conn, call_id, hosted, method, payload)

    def _about(self, method: str) -> tuple[int, bytes, str]:
        with self._lock:
            if method == "health":
                value: Any = {"healthy": True, "uptime_s": time.monotonic() - self._started,
                              "running": self._running}  # fmt: skip
            elif method == "actors":
                value = list(self._hosted)
            elif method == "methods":
                value = {name: hosted.methods() for name, hosted in self._hosted.items()}
            else:
                return MISSING, b"", f"a server knows nothing of {method!r}"
        return VALUE, pack(value), ""

    def _call(self, conn: int, call_id: int, hosted: _Hosted, name: str, payload: Any) -> None:
        """In a thread of the object: one method."""
        try:
            method = hosted.method(name)
            if method is None:
                known = [row["name"] for row in hosted.methods()]
                answer: tuple[int, bytes, str] = (
                    MISSING, b"", f"{hosted.name!r} has no public method {name!r}, but {known}"
                )  # fmt: skip
            else:
                args, kwargs = unpack(payload)
                if wants_context(method):
                    args = (context_or_none() or ActorContext.outside(), *args)
                answer = VALUE, pack(method(*args, **kwargs)), ""
        except BaseException as error:  # the caller's, whatever it is
            answer = ERROR, errorpack.pack(f"{hosted.name}.{name}", error), ""
        try:
            self._answer(conn, call_id, *answer)
        finally:
            with self._lock:
                self._running -= 1
                self._idle.notify_all()

    def _answer(self, conn: int, call_id: int, status: int, payload: bytes, text: str) -> None:
        self._reactor.send(conn, wire.encode(wire.ENDPOINT_REPLY, call_id, status, text), payload)

    # -- the end

    def shutdown(self, grace_period: float = 5.0) -> None:
        """Unregister everything, let running methods end for `grace_period` seconds, close.  May be
        repeated.
        """
        for name in list(self._hosted):
            self.unregister(name)
        with self._lock:
            self._idle.wait_for(lambda: not self._running, grace_period)
        self._ending = True
        self._reactor.wake()
        if self._thread is not None and threading.current_thread() is not self._thread:
            self._thread.join()
        self._done.set()
        self._reactor.close_all()

    def __enter__(self) -> ActorServer:
        self.serve_background()
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()


def wants_context(method: Any) -> bool:
    """Whether the first parameter asks for the context: annotated `ActorContext`, or named ``ctx``."""
    try:
        parameters = list(inspect.signature(method).parameters.values())
    except (TypeError, ValueError):
        return False
    if not parameters:
        return False
    first = parameters[0]
    annotation = first.annotation
    if annotation is inspect.Parameter.empty:
        return first.name == "ctx"
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return name.rpartition(".")[2] == "ActorContext"


def _signature(method: Any) -> str:
    try:
        return str(inspect.signature(method))
    except (TypeError, ValueError):
        return "(...)"


def _default_host() -> str:
    client = current.client
    return str(client.address[2]) if client is not None else "127.0.0.1"


def _default_port() -> int:
    found = context_or_none()
    return found.ports.get("actor", 0) if found is not None else 0

"""The engine that carries a program's calls on a Ray cluster, by real Ray's public functions.

Rules of this module: how a process gets its client is in `ray_process`; what a driver started it also ends,
within `ENDED_S`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import os
import signal
import threading
import time
from typing import Any, Final

from spoke import codec, objectref, orphans
from spoke.engines import realray
from spoke.engines.ray_errors import Translating, translated, unsupported
from spoke.engines.ray_groups import RayGroups
from spoke.engines.ray_questions import Questions
from spoke.engines.ray_refs import Refs, real
from spoke.engines.ray_submit import Carriers, RaySubmitter
from spoke.objectref import ObjectRef
from spoke.streams import DynamicObjectRefGenerator

ENDED_S: Final = 10.0  # processes of a cluster of our own have ended so long after `close`

# What modules of Spoke's own engine reach for, and what its users then miss: (feature, way out).
_MISSING: Final = {
    "store": ("registered memory (spoke.empty, from_tensor, register_memory)", "pass tensors as values"),
    "router": ("transport_of and object_store_stats", "see Ray's own metrics"),
    "waiting": ("direct targets", "get() the value and copy it"),
    "links": ("endpoints", "name actors and find them with get_actor"),
    "refs": ("object locations", "see Ray's own state API"),
    "calls": ("the list of this process's calls", "see Ray's own state API"),
}  # fmt: skip


class RayClient:
    """See `spoke.engines.Engine`."""

    def __init__(self, ray: Any, carriers: Carriers, owned: bool) -> None:
        self.ray = ray
        self.owned = owned  # started by this program, so ended by `close`
        self.is_worker = realray.in_worker()
        self.connected = realray.is_connected()  # and not a client of a proxy, by ray://
        self.closed: str | None = None
        self.job_env: dict[str, Any] = {}  # Ray merges environments itself
        self.actor_meta = b""
        self.lock = threading.Lock()
        self.objects = Refs()
        self.submitter = RaySubmitter(self, carriers)
        self.hub = RayGroups(self)
        self.questions = Questions(self)
        self.rdma = _NoRdma()
        self.call_counter = itertools.count(1)
        facts = ray.get_runtime_context()
        self.namespace = str(facts.namespace)
        self.address = [
            bytes.fromhex(facts.get_worker_id()), bytes.fromhex(facts.get_node_id()),
            ray.util.get_node_ip_address(), 0,
        ]  # fmt: skip
        self.node_id = self.address[1]
        future, in_loop, named = self.future, self._asyncio_future, self._named
        objectref.install(self.address, None, None, future, in_loop, carriers.rebuild, named)
        # Ray's pickler knows Ray's refs and handles.
        codec.use_pickler(ray.cloudpickle.dumps, ray.cloudpickle.CloudPickler.dispatch)

    def __getattr__(self, name: str) -> Any:
        if name in _MISSING:
            raise unsupported(*_MISSING[name])
        raise AttributeError(f"'RayClient' object has no attribute {name!r}")

    @property
    def detached_actors(self) -> bool:
        """See `spoke.engines.Engine`; Ray does this by itself."""
        return False

    @property
    def captured_group(self) -> bytes | None:
        """See `spoke.engines.Engine`."""
        if not self.is_worker:
            return None
        context = self.ray.get_runtime_context()
        captures = context.should_capture_child_tasks_in_placement_group
        return bytes.fromhex(context.get_placement_group_id()) if captures else None

    def translating(self) -> Any:
        """Errors of Ray inside are raised as Spoke's."""
        return Translating(self.ray)

    def check_open(self) -> None:
        """RaySystemError after `close`."""
        if self.closed is not None:
            from spoke.errors import RaySystemError

            raise RaySystemError(self.closed)

    # -- objects

    def get_one(self, ref: ObjectRef[Any], timeout: float | None) -> Any:
        """See `spoke.engines.Engine`."""
        self.check_open()
        with self.translating():
            return self._value(self.ray.get(real(ref), timeout=timeout))

    def get(self, refs: list[ObjectRef[Any]], timeout: float | None) -> list[Any]:
        """See `spoke.engines.Engine`."""
        self.check_open()
        with self.translating():
            return [self._value(value) for value in self.ray.get(list(map(real, refs)), timeout=timeout)]

    def _value(self, value: Any) -> Any:
        if type(value).__name__ == "DynamicObjectRefGenerator" and type(value).__module__.startswith("ray"):
            return DynamicObjectRefGenerator([self.objects.ref(one) for one in value])
        return value

    def put(self, value: Any) -> ObjectRef[Any]:
        """See `spoke.engines.Engine`."""
        self.check_open()
        with self.translating():
            return self.objects.ref(self.ray.put(value))

    def wait(self, refs: list[Any], num_returns: int, timeout: float | None) -> tuple[list[Any], list[Any]]:
        """See `spoke.engines.Engine`."""
        self.check_open()
        given = {}
        for one in refs:
            source: Any = real(one) if type(one) is ObjectRef else one.generator.source
            given[source] = one
        with self.translating():
            ready, rest = self.ray.wait(list(given), num_returns=num_returns, timeout=timeout)
        return [given[one] for one in ready], [given[one] for one in rest]

    def _named(self, object_id: bytes) -> Any:
        """The entry of an id that a program gives: Ray knows what it names."""
        return self.objects.entry(object_id, self.ray.ObjectRef(object_id))

    def future(self, ref: ObjectRef[Any]) -> concurrent.futures.Future[Any]:
        """A future of the value, or of its error."""
        made: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def finished(source: Any) -> None:
            if made.set_running_or_notify_cancel():
                error = source.exception()
                if error is None:
                    made.set_result(self._value(source.result()))
                else:
                    made.set_exception(translated(error, self.ray))

        real(ref).future().add_done_callback(finished)
        return made

    def _asyncio_future(self, ref: ObjectRef[Any]) -> asyncio.Future[Any]:
        return asyncio.wrap_future(self.future(ref))

    def when_resolved(self, ref: ObjectRef[Any], waiter: Any) -> None:
        """See `spoke.engines.Engine`."""
        entry = ref._entry
        real(ref).future().add_done_callback(lambda _: waiter.resolved(entry))

    # -- actors, calls

    def kill(self, actor_id: bytes, no_restart: bool) -> None:
        """See `spoke.engines.Engine`."""
        with self.translating():
            self.ray.kill(self.objects.handle(actor_id), no_restart=no_restart)

    def actor_state(self, actor_id: bytes) -> str:
        """See `spoke.engines.Engine`."""
        return str(self.questions.actor(actor_id).get("State") or "UNKNOWN")

    def cancel(self, ref: ObjectRef[Any], force: bool, recursive: bool) -> None:
        """See `spoke.engines.Engine`."""
        with self.translating():
            self.ray.cancel(real(ref), force=force, recursive=recursive)

    def own_actor(self) -> dict[str, Any]:
        """See `spoke.engines.Engine`."""
        life: Any = self.objects.life(self.ray.get_runtime_context().current_actor)
        return {"life": ObjectRef(life), "meta": self.actor_meta}

    def describe_actor(self, actor_id: bytes, meta: bytes) -> None:
        """Let other processes that find the actor by its name know its class."""
        self.questions.kv_put(namespace="spoke:actors", key=actor_id, value=meta)

    # -- the cluster

    @property
    def runtime_context(self) -> dict[str, Any]:
        """See `spoke.engines.Engine`."""
        return self.questions.facts()

    def facts(self) -> dict[str, Any]:
        """As `runtime_context`."""
        return self.questions.facts()

    def request(self, what: str, timeout: float | None = None, **args: Any) -> Any:
        """See `spoke.engines.Engine`.

        Raises:
            EngineUnsupported: it is about something that Ray does not have.
        """
        self.check_open()
        with self.translating():
            return self.questions.ask(what, args)

    def close(self) -> None:
        """Leave the cluster; one that `start` started ends, with all its processes."""
        if self.closed is not None:
            return
        self.hub.close()
        self.closed = "the driver called shutdown()"
        objectref.install(None, None, None, None, None)
        codec.use_own_pickler()
        if self.owned:
            _end(self.ray)


class _NoRdma:
    """Calls travel as Ray sends them; see `ActorHandle.init_rdma`."""

    def __init__(self) -> None:
        self.pipes = self

    def init(self, actor_id: bytes, timeout: float) -> bool:
        """Not over RDMA."""
        return False

    def path(self, actor_id: bytes) -> tuple[str, str]:
        """How calls travel, and why."""
        return "socket", "calls on the Ray engine travel as Ray sends them"


def _end(ray: Any) -> None:
    """Shut Ray down; what it leaves of a cluster of our own after `ENDED_S` is killed (PROC-2)."""
    node = getattr(getattr(ray._private, "worker", None), "_global_node", None)
    infos = [info for each in (node.all_processes if node is not None else {}).values() for info in each]
    started = [info.process.pid for info in infos]
    for pid in started:  # grows while it is walked: children, and theirs
        started += orphans.children(pid)
    ray.shutdown()
    deadline = time.monotonic() + ENDED_S
    while (left := [pid for pid in started if orphans.is_running(pid)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

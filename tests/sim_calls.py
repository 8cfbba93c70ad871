"""A cluster of real engines in one thread, from a seed: hub core, clients, executors, virtual time.

Everything above sockets is the code under test: the hub's core, and in each process `spoke.client`
with its tables, links with their handshakes, packed values, blocks in shared memory, and the
executor's queue.  Simulated are the network, the agents, the clock, and threads: user code is a
generator that yields what it waits for (`tests.sim_programs`).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import spoke.client
import spoke.execution
import spoke.links
import spoke.outcome
import spoke.replies
import spoke.store
from spoke import _native, objectref, wire
from spoke.client import Client
from spoke.core import Drop, Log, Lost, Received, Send, Tick
from spoke.core.hub import HubConfig, HubCore
from spoke.core.refs import PENDING, Entry
from spoke.links import Links
from spoke.objectref import ObjectRef
from spoke.running import running
from spoke.segments import SegmentTable
from tests.sim_calls_net import ACCEPTED, CLOSED, Net, Reactor, Time, names_of, port_of
from tests.sim_calls_referee import Referee
from tests.sim_calls_run import Exited, FakeOs, Run, SimExecutor, Suspended

TOKEN = b"token"
HUB_ID = b"h" * 28
FUNCTION_ID = b"f" * 16
SEGMENT_BYTES = 1 << 20


class HubHost:
    """The hub's shell."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.id = HUB_ID
        self.node_id = b"hub"
        self.alive = True
        self.reactor = Reactor(world, self)
        rng = world.rng
        self.core = HubCore(
            HubConfig(
                seed=b"sim-%d" % world.seed,
                idle_worker_s=rng.choice([0.2, 5.0]),
                heartbeat_s=0.5,
                prestart=rng.choice([None, 0, 2]),
            )
        )
        self.peers: dict[int, bytes] = {}  # conn -> process
        self.conns: dict[bytes, int] = {}
        self._tick_at: float | None = None

    def connect(self, reactor: Reactor, process_id: bytes) -> int:
        near, far = reactor.pair(self.reactor)
        self.peers[far.conn] = process_id
        self.conns[process_id] = far.conn
        return near.conn

    def arrive(self, kind: int, conn: int, meta: bytes, payload: Any) -> None:
        peer = self.peers[conn]
        if kind == CLOSED:
            if self.conns.get(peer) == conn:
                del self.conns[peer]
                self.step(Lost(peer, "closed"))
        else:
            self.step(Received(peer, wire.decode(meta), payload))

    def step(self, event: Any) -> None:
        world = self.world
        for command in self.core.step(world.now, event):
            if type(command) is Send:
                conn = self.conns.get(command.peer)
                if conn is not None:
                    self.reactor.send(conn, wire.encode(*command.message), command.payload)
            elif type(command) is Drop:
                conn = self.conns.pop(command.peer, None)
                if conn is not None:
                    self.reactor.close(conn)
            else:
                assert type(command) is Log and command.level != "error", command
        deadline = self.core.next_deadline()
        if deadline is not None and (self._tick_at is None or deadline < self._tick_at):
            self._tick_at = deadline
            world.schedule(max(deadline, world.now), lambda: self._tick(deadline))

    def _tick(self, due: float) -> None:
        if self._tick_at == due:
            self._tick_at = None
            self.step(Tick())


class Agent:
    """The daemon of one node: spawns and reaps, and holds the segments."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.id = self.node_id = world.rng.randbytes(28)
        self.alive = True
        self.reactor = Reactor(world, self)
        self.segments = SegmentTable(1 << 30, _native.Segment.create)
        self.workers: dict[bytes, Proc | None] = {}
        self.procs: list[Proc] = []
        self.peers: dict[int, bytes] = {}
        self.mapped: dict[int, dict[int, None]] = {}  # conn -> segments that the process has mapped
        self.segments.on_drop = self._dropped
        self._hub = world.hub.connect(self.reactor, self.id)
        host = f"host-{self.id.hex()[:4]}"
        self._tell(wire.AGENT_UP, self.id, host, 0, {"CPU": 4.0, "memory": 1000.0}, {}, 1)
        self._beat(0)

    def _tell(self, *message: Any) -> None:
        if self.alive:
            self.reactor.send(self._hub, wire.encode(*message))

    def _beat(self, sequence: int) -> None:
        if self.alive:
            self._tell(wire.HEARTBEAT, sequence)
            self.world.after(1.0, lambda: self._beat(sequence + 1))

    def arrive(self, kind: int, conn: int, meta: bytes, payload: Any) -> None:
        if kind == CLOSED and conn == self._hub:
            self.die()
        if kind in (CLOSED, ACCEPTED):
            return
        message = wire.decode(meta)
        kind = message[0]
        if kind == wire.ORPHAN_FREE:
            self.segments.orphan_free(message[1], message[2], self.peers[conn])
        elif kind == wire.MAPPED:
            self.note_mapping(conn, message[1])
        elif kind == wire.SPAWN:
            worker_id = message[1]
            self.workers[worker_id] = None
            self.world.after(self.world.rng.uniform(0.005, 0.1), lambda: self._start(worker_id))
        elif kind == wire.STOP_WORKER:
            worker_id = message[1]
            proc = self.workers.get(worker_id)
            if proc is not None and not message[2]:
                self.world.referee.stopped_idle(proc)
            self.world.after(self.world.rng.uniform(0.001, 0.02), lambda: self.reap(worker_id, None, 9))

    def note_mapping(self, conn: int, segment_id: int) -> None:
        if self.segments.get(segment_id) is None:
            self.reactor.send(conn, wire.encode(wire.UNMAP, segment_id))
        else:
            self.mapped.setdefault(conn, {})[segment_id] = None

    def _dropped(self, segment_id: int) -> None:
        for conn, mapped in self.mapped.items():
            if mapped.pop(segment_id, 0) is None:
                self.reactor.send(conn, wire.encode(wire.UNMAP, segment_id))

    def _start(self, worker_id: bytes) -> None:
        if self.alive and worker_id in self.workers:
            self.workers[worker_id] = Proc(self.world, worker_id, self, "worker")

    def reap(self, worker_id: bytes, code: int | None, signal: int) -> None:
        if self.alive and worker_id in self.workers:
            proc = self.workers.pop(worker_id)
            if proc is not None:
                proc.die()
            self.segments.owner_died(worker_id)
            self._tell(wire.WORKER_EXIT, worker_id, 9, code, signal, "", 0)

    def die(self, silently: bool = False) -> None:
        """The node is gone, with its processes (PROC-1)."""
        if not self.alive:
            return
        for proc in list(self.procs):
            proc.die(silently)
        self.alive = False
        self.workers.clear()
        if silently:
            self.reactor.vanish()
        else:
            self.reactor.close_all()


class Proc:
    """A driver or a worker: the real client and executor, and the user code that runs here."""

    def __init__(self, world: World, process_id: bytes, agent: Agent, role: str) -> None:
        self.world = world
        self.id = process_id
        self.agent = agent
        self.node_id = agent.id
        self.role = role
        self.alive = True
        self.runs: list[Run] = []
        self.bag: list[Any] = []  # what user code keeps in globals
        self.stalled_until = 0.0
        self.inbox: list[tuple[int, int, bytes, Any]] = []
        self._draining = self._flushing = False
        self._tick_at: float | None = None
        self.reactor = reactor = Reactor(world, self)
        reactor.listen(*names_of(process_id))
        links = Links(reactor, TOKEN, process_id, agent.id)  # type: ignore[arg-type]
        hub = links.adopt(world.hub.connect(reactor, process_id), HUB_ID)
        own, far = reactor.pair(agent.reactor)
        agent.peers[far.conn] = process_id
        self._at_agent = far.conn
        address = [process_id, agent.id, "host", port_of(process_id)]
        with world.inside(None):
            self.client = Client(reactor, links, address, hub, links.adopt(own.conn, agent.id))  # type: ignore[arg-type]
            # What nobody waits for is said by a thread; none runs beside the world.
            self.client.futures.post = lambda work: None  # type: ignore[method-assign]
        self._prepare(role)
        world.procs[process_id] = self
        agent.procs.append(self)
        world.referee.watch(self)
        with world.inside(self):
            self.client.hub.tell(wire.CLIENT_UP, role, address, 7, {})

    def _prepare(self, role: str) -> None:
        client, world = self.client, self.world
        client.call_prefix = world.rng.randbytes(16)
        client.submitter.functions[FUNCTION_ID] = b"code"
        client.facts = lambda: {"job_id": b"jobi", "namespace": "", "address": None}
        client.store.segment_bytes = SEGMENT_BYTES
        client.store._request_segment = self._new_segment
        client.store._map_segment = self._map_segment
        client.router.tcp.fetch = self._fetch  # type: ignore[method-assign]
        client.waiting.gone = self._gone  # type: ignore[method-assign]
        client.waiting.wait_all = self._suspend  # type: ignore[method-assign]
        client.is_worker = role == "worker"
        self.executor: SimExecutor | None = None
        if role == "worker":
            self.executor = SimExecutor(self)
            client.on_hub_lost = lambda: FakeOs._exit(0)

        def misbehaved(link: Any, error: Exception) -> None:
            raise AssertionError(f"{self}: {error!r}") from error

        client._misbehaved = misbehaved  # type: ignore[method-assign]

    def __repr__(self) -> str:
        return f"{self.role} {self.id.hex()[:8]}{'' if self.alive else ' (dead)'}"

    # -- shared memory

    def _new_segment(self, size: int) -> tuple[int, int, int]:
        import os

        segment_id, segment = self.agent.segments.add(self.id, size)
        return segment_id, size, os.dup(segment.fd)

    def _map_segment(self, segment_id: int) -> tuple[int, int, int]:
        import os

        entry = self.agent.segments.get(segment_id)
        if entry is None:
            raise KeyError(segment_id)
        self.agent.note_mapping(self._at_agent, segment_id)
        return segment_id, entry.bytes, os.dup(entry.segment.fd)

    def _fetch(self, parts: list[list[Any]]) -> list[Any]:
        return [self._read_block(part) for part in parts]

    def _read_block(self, part: list[Any]) -> Any:
        from spoke.errors import ObjectLostError

        agent = self.world.agents_by_id[part[0]]
        entry = agent.segments.get(part[2]) if agent.alive else None
        if entry is None:
            raise ObjectLostError.from_message("the node is gone")
        return bytes(entry.segment.view(part[3], part[4]))

    def _gone(self, parts: list[Any]) -> None:
        """As `spoke.waiting.Waiting.gone`, which asks the hub."""
        world, client = self.world, self.client
        for node_id in {part[0]: None for part in parts if type(part) is not bytes}:
            if node_id in client.refs.gone:
                continue
            if all(node.node_id != node_id for node in world.hub.core.state.alive):
                with client.lock:
                    client.lineage.node_lost(node_id)
                    client._settle()
            elif not world.agents_by_id[node_id].alive:
                raise Suspended([])  # the hub does not know yet

    def _suspend(self, refs: list[Any], timeout: float | None) -> None:
        if any(ref._entry.status == PENDING for ref in refs):
            raise Suspended(refs, timeout)

    # -- events

    def arrive(self, kind: int, conn: int, meta: bytes, payload: Any) -> None:
        if not self.alive:
            return
        self.inbox.append((kind, conn, meta, payload))
        if not self._draining:
            self._draining = True
            rng = self.world.rng
            late = 0.0 if rng.random() < 0.7 else rng.uniform(0, 0.003)
            self.world.schedule(max(self.world.now + late, self.stalled_until), self._drain)

    def _drain(self) -> None:
        self._draining = False
        if self.alive:
            events, self.inbox = self.inbox, []
            with self.world.inside(self):
                self.client._dispatch(events)

    def after_step(self) -> None:
        """What the poll loop and the main thread do once events are handled."""
        client = self.client
        assert not self.world.referee.failures, self.world.referee.failures
        client.refs.validate()
        client.calls.validate()
        client.lineage.validate()
        if self.executor is not None:
            self.executor.pump()
        if client.links.held and not self._flushing:
            self._flushing = True
            self.world.after(self.world.rng.uniform(0, 0.003), self._flush)
        due = client.calls.next_deadline()
        if due is not None and (self._tick_at is None or due < self._tick_at):
            self._tick_at = due
            at = max(due, self.world.now + 1e-6, self.stalled_until)
            self.world.schedule(at, lambda: self._tick(due))

    def _flush(self) -> None:
        """The I/O thread takes the lead and writes what was held back."""
        self._flushing = False
        if self.alive:
            self.client.links.flush_held()

    def _tick(self, due: float) -> None:
        if self._tick_at == due and self.alive:
            self._tick_at = None
            with self.world.inside(self):
                self.client._tick(self.world.now)

    def exited(self, code: int) -> None:
        """The process ended itself."""
        if self.alive:
            self.die()
            self.world.after(0.002, lambda: self.agent.reap(self.id, code, 0))

    def crash(self) -> None:
        if self.alive:
            self.die()
            self.world.after(self.world.rng.uniform(0.001, 0.01), lambda: self.agent.reap(self.id, None, 11))

    def die(self, silently: bool = False) -> None:
        if not self.alive:
            return
        self.world.referee.died(self)
        self.alive = False
        self.agent.procs.remove(self)
        if silently:
            self.reactor.vanish()
        else:
            self.reactor.close_all()
        with self.world.inside(None):
            self.forget()

    def forget(self) -> None:
        """User code and what it holds are gone."""
        for run in self.runs:
            run.program.close()
        self.runs.clear()
        self.bag.clear()
        if self.executor is not None and self.executor.actor is not None:
            self.executor.actor.instance = None


class World(Net):
    """Everything, from a seed; use it in a ``with``."""

    def __init__(self, seed: int, programs: Any) -> None:
        super().__init__(seed)
        self.clock = Time(self)
        self.referee = Referee()
        self.programs = programs
        self.procs: dict[bytes, Proc] = {}
        self.agents_by_id: dict[bytes, Agent] = {}
        self.current: Proc | None = None
        self._homes: dict[int, tuple[Entry, Proc]] = {}  # id(entry) -> the process that it belongs to
        self.hub = HubHost(self)
        self._undo: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> World:
        gc.collect()
        gc.disable()
        for module in (spoke.client, spoke.replies, spoke.links, spoke.outcome):
            self._patch(module, "time", self.clock)
        self._patch(spoke.execution, "os", FakeOs)
        self._patch(spoke.links, "os", FakeOs)
        self._patch(spoke.store, "INLINE_BYTES_MAX", 4096)
        self._patch(ObjectRef, "__init__", self._ref_init(ObjectRef.__init__))
        hooks = objectref._hooks
        for name in ("address", "release", "resolve", "future", "asyncio_future"):
            self._patch(hooks, name, None)
        hooks.release = self._ref_dropped
        return self

    def _patch(self, target: Any, name: str, value: Any) -> None:
        self._undo.append((target, name, getattr(target, name)))
        setattr(target, name, value)

    def __exit__(self, *failure: Any) -> None:
        for proc in self.procs.values():
            proc.alive = False
            proc.forget()
            proc.client.closed = "the simulation is over"
            proc.client.store._own.clear()
            proc.client.store._mapped.clear()
        for agent in self.agents_by_id.values():
            agent.segments.clear()
        running.main_job = running.actor = None
        for target, name, value in reversed(self._undo):
            setattr(target, name, value)
        gc.enable()

    # -- whose code runs

    def _ref_init(self, init: Any) -> Any:
        def made(ref: ObjectRef[Any], entry: Entry) -> None:
            init(ref, entry)
            if self.current is not None:
                self._homes[id(entry)] = (entry, self.current)
                self.referee.made(self.current.id, entry.id)

        return made

    def note(self, ref: Any, before: int) -> None:
        """A ref that may have been made without its ``__init__`` (there were `before` of its kind)."""
        assert self.current is not None
        if isinstance(ref, ObjectRef) and self.referee.count(self.current.id, ref.binary()) == before:
            self._homes[id(ref._entry)] = (ref._entry, self.current)
            self.referee.made(self.current.id, ref.binary())

    def _ref_dropped(self, entry: Entry) -> None:
        home = self._homes.get(id(entry))
        if home is not None and home[1].alive:
            self.referee.dropped(home[1].id, entry.id)
            if home[1] is self.current:
                home[1].client.release(entry)
                return
            with self.inside(home[1]):
                home[1].client.release(entry)

    @contextmanager
    def inside(self, proc: Proc | None) -> Iterator[None]:
        """What runs inside is code of that process (None: of nobody)."""
        hooks = objectref._hooks
        before = self.current, hooks.address, hooks.resolve, running.main_job, running.actor
        self.current = proc
        hooks.release = self._ref_dropped
        if proc is not None:
            hooks.address = proc.client.address
            hooks.resolve = self._resolve
            running.main_job = proc.runs[0].job if proc.runs else None
            running.actor = proc.executor.actor if proc.executor is not None else None
        try:
            yield
            if proc is not None and proc.alive:
                proc.after_step()
        except Exited as end:
            assert proc is not None
            proc.exited(end.code)
        finally:
            self.current, hooks.address, hooks.resolve, running.main_job, running.actor = before
            hooks.release = self._ref_dropped

    def _resolve(self, object_id: bytes, owner: wire.Address) -> ObjectRef[Any]:
        assert self.current is not None
        self.referee.unpickled(self.current, object_id, owner[0])
        before = self.referee.count(self.current.id, object_id)
        ref = self.current.client.resolve_ref(object_id, owner)
        self.note(ref, before)
        return ref

    # -- building and breaking

    def add_node(self) -> Agent:
        agent = Agent(self)
        self.agents_by_id[agent.id] = agent
        return agent

    @property
    def agents(self) -> list[Agent]:
        return [agent for agent in self.agents_by_id.values() if agent.alive]

    def living(self, role: str) -> list[Proc]:
        return [proc for proc in self.procs.values() if proc.alive and proc.role == role]

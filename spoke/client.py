"""The engine of a process that calls: a driver, or a worker on behalf of the code it runs.

It owns the process's tables (calls, refs), its links and its blocks, and carries out what the pure
tables ask for.  One lock guards the tables; it is held for microseconds and never while waiting.
`__del__` and weak-reference callbacks may run at any instruction, so what they release goes through
a queue that is drained by whoever can take the lock (`release`).
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from spoke import codec, config, limits, notices, objectref, rdmaside, wire
from spoke._native import Reactor
from spoke.core import Send
from spoke.core.calls import Call, CallTable
from spoke.core.exits import LEFT
from spoke.core.lineage import Lineage
from spoke.core.obituary import OUT_OF_SCOPE
from spoke.core.refs import ACTOR_SUFFIX, PUT_SUFFIX, SYSTEM, VALUE, Entry, RefTable
from spoke.errors import ProtocolError
from spoke.futures import Futures
from spoke.hubside import HubSide
from spoke.lead import Lead
from spoke.links import ACCEPTED, BUSY, CLOSED, FRAME, HELD_MAX, READABLE, RESUMED, Link, Links
from spoke.objectref import ObjectRef
from spoke.replies import Replies
from spoke.rings import Rings
from spoke.sharing import Sharing
from spoke.store import Store
from spoke.submit import Submitter
from spoke.transport.router import Router
from spoke.transport.shm import SharedMemory
from spoke.transport.tcp import Tcp
from spoke.unanswered import OBJECT_FREED, OWNER_DIED, WORKER_DIED, dead_actor_value, encode_error
from spoke.values import Values
from spoke.waiting import Waiting
from spoke.wire import decode, encode

if TYPE_CHECKING:
    from spoke.rejoin import Rejoin


def _lineage(client: Client) -> Lineage:
    limit = config.get("max_lineage_bytes")
    lineage = Lineage(client.refs, client.calls, client.node_id, encode_error, limit)
    lineage.has_copy, lineage.forget_copy = client.values.has_copy, client.values.forget_copy
    return lineage


class Client:
    """One process's part in the cluster.

    Args:
        reactor: with the links to hub and agent already adopted by `links`.
        process_id, node_id: of this process (28 bytes each).
        address: this process's `wire.Address`.
        hub, agent: links to the hub and to this node's agent (the same one in a head daemon).
        info: job_id, namespace and what else the hub said in WELCOME.
    """

    detached_actors = False  # those of this job that do not say

    def __init__(self, reactor: Reactor, links: Links, address: wire.Address, hub: Link, agent: Link) -> None:
        self.reactor = reactor
        self.links = links
        self.address = address
        self.process_id: bytes = address[0]
        self.node_id: bytes = address[1]
        self.lock = threading.Lock()
        self.refs = RefTable()
        self.calls = CallTable(encode_error)
        self.calls.actors.on_death = dead_actor_value
        self.lead = Lead(reactor, self._dispatch, self.calls.next_deadline, self._tick)
        self.lead.held, self.lead.before_waiting = links.held, links.flush_held
        self.hub = HubSide(self, hub, agent)
        self.store = Store(
            self.node_id, self.process_id, 64 << 20,
            self.hub.new_segment, self.hub.map_segment, self.hub.give_back,
        )  # fmt: skip
        mode = config.get("transport")
        self.router = Router(self.node_id, mode, SharedMemory(self.store), Tcp(self.hub), self.process_id)
        self.rdma = rdmaside.join(self)
        self.values = Values(self, self.store, self.router)
        self.lineage = _lineage(self)
        self.submitter = Submitter(self)
        self.calls.place = self.submitter.place
        self.calls.fetch = self.refs.fetch
        self.replies = Replies(self)
        self.sharing, self.rings = Sharing(self), Rings(self)
        self.waiting = Waiting(self)
        self.get, self.get_one, self.wait = self.waiting.get, self.waiting.get_one, self.waiting.wait
        self.when_resolved, self.block_on = self.waiting.when_resolved, self.waiting.block_on
        self.futures = Futures(self)
        self.closed: str | None = None  # why nothing can be called any more
        self.info: dict[str, Any] = {}
        self.namespace, self.job_id = "", b""  # a worker's: those of whom it works for
        self.job_env: dict[str, Any] = {}
        self.paths: list[Any] | None = None  # of a driver that joined: its modules' and its own directory
        self.logging: dict[str, Any] | None = None  # a `LoggingConfig`, for what it starts as well
        self.captured_group: bytes | None = None  # group that new calls of the running code go to
        self.is_worker = False
        self.grants: dict[int, dict[str, Any]] = {}  # of a worker: by lease, what its caller told
        self.facts: Callable[[], dict[str, Any]] = dict
        self.on_closing: Callable[[], None] | None = None
        self.on_closed: Callable[[], None] | None = None
        self.on_welcome: Callable[[], None] | None = None
        self.on_hub_lost: Any = None
        self.rejoin: Rejoin | None = None  # where the hub has a journal
        self.hub_target: Any = None  # where it listens
        self.executor: Any = None  # of a worker: runs its jobs
        self.failed: deque[list[Any]] = deque(maxlen=limits.ENDED_CALLS_KEPT)  # without an answer
        self.children: deque[tuple[bytes, bytes]] = deque(maxlen=limits.ENDED_CALLS_KEPT)  # calls of calls
        self.worker_report: Any = None  # worker hook: what it runs, for a hub that was restarted
        self.call_prefix, self.call_counter = os.urandom(16), itertools.count(1)
        self._dropped: deque[Entry] = deque()
        self._abandoned: deque[ObjectRef[Any]] = deque()
        self._lost_peers: list[bytes] = []
        self.handlers = self._handlers()
        future, in_loop, known = self.futures.future, self.futures.asyncio_future, self.values.known
        objectref.install(address, self.release, self.resolve_ref, future, in_loop, known=known)

    def _handlers(self) -> dict[int, Any]:
        """What answers a message, by its kind."""
        return {
            wire.REPLY: self.replies.on_reply,
            wire.STREAM_ITEM: self.replies.on_stream_item,
            wire.GRANT: self._on_grant,
            wire.LEASE_LOST: self._on_lease_lost,
            wire.RECLAIM: lambda link, m, p: self.calls.tasks.reclaim(time.monotonic()),
            wire.RECALLED: lambda link, m, p: self.calls.tasks.recalled(m[1], m[2]),
            wire.ACTOR_STATE: self._on_actor_state,
            wire.FETCH: self._on_fetch,
            wire.LOST: self._on_lost,
            wire.VALUE: lambda link, m, p: self.refs.on_value(link.peer, m[1], m[2], m[3]),
            wire.BORROW: lambda link, m, p: self.refs.on_borrow(link.peer, m[1]),
            wire.RELEASE: lambda link, m, p: self.refs.on_release(link.peer, m[1]),
            wire.HELD: self._on_held,
            wire.FREE_BLOCKS: lambda link, m, p: self.store.returned(link.peer, m[1], m[2]),
            wire.SHARED: self.sharing.on_shared,
            wire.WELCOME: self._on_welcome,
            wire.NODE_STATE: self._on_node_state,
            wire.OWNS: self.replies.on_owns,
            wire.INSPECT: self._on_inspect,
            **self.submitter.handlers,
            **self.hub.handlers,
            **self.rdma.handlers,
            **self.rings.handlers,
        }

    # -- the face's view of the engine

    @property
    def runtime_context(self) -> dict[str, Any]:
        """The facts that `get_runtime_context()` shows."""
        return self.facts()

    def request(self, what: str, timeout: float | None = None, **args: Any) -> Any:
        """Ask the hub; see `HubSide.request`."""
        return self.hub.request(what, timeout, **args)

    def kill(self, actor_id: bytes, no_restart: bool) -> None:
        """End an actor at once; may be repeated."""
        with self.lock:
            meant = self.calls.actors.kill(actor_id, no_restart)
            self.hub.tell(wire.KILL_ACTOR, actor_id, no_restart, "it was killed by `ray.kill`", meant)

    def actor_state(self, actor_id: bytes) -> str:
        """The state of an actor as this process knows it."""
        channel = self.calls.actors.channels.get(actor_id)
        return channel.state if channel is not None else "UNKNOWN"

    def cancel(self, ref: ObjectRef[Any], force: bool, recursive: bool) -> None:
        """Cancel the call that would resolve `ref`; ValueError for `force` on an actor's call."""
        self.submitter.cancel(ref, force, recursive)

    def abandon(self, completed: ObjectRef[Any]) -> None:
        """The consumer of a stream is gone, its call goes on; safe at any instruction."""
        self._abandoned.append(completed)
        self.release_later()

    def own_actor(self) -> dict[str, Any]:
        """Id and class description of the actor that runs in this process."""
        from spoke.running import running

        host = running.actor
        return {"actor_id": host.actor_id, "meta": host.spec["meta"]}

    # -- ids

    def new_call_id(self) -> bytes:
        """24 bytes: this process's random prefix and a counter."""
        return self.call_prefix + next(self.call_counter).to_bytes(8, "big")

    # -- refs

    def make_ref(self, entry: Entry) -> ObjectRef[Any]:
        """A counted ref; call with the lock held."""
        entry.local += 1
        return ObjectRef(entry)

    def release(self, entry: Entry) -> None:
        """One use of `entry` less; safe at any instruction of any thread."""
        if not self.lock.acquire(False):
            self._dropped.append(entry)
            self.release_later()
            return
        try:
            self.refs.drop(entry)
            self._settle()
        finally:
            self.lock.release()
        if self._dropped:  # by another thread, after the last look
            self.release_later()

    def release_later(self) -> None:
        """Settle now if nobody holds the lock; whoever does looks again when he lets go."""
        while (self._dropped or self._abandoned or self.store.idle) and self.lock.acquire(False):
            try:
                self._settle()
            finally:
                self.lock.release()

    def resolve_ref(self, object_id: bytes, owner: wire.Address) -> ObjectRef[Any]:
        """The ref that was just unpickled; keeps its source until the owner knows of us."""
        source = codec.context.source
        with self.lock:
            entry = self.refs.entries.get(object_id)
            if entry is None:
                if owner[0] == self.process_id:
                    entry = self.refs.own(object_id)
                    self.refs.resolve(entry, SYSTEM, encode_error(*OBJECT_FREED))
                else:
                    entry = self.refs.meet(object_id, owner, self._pin(source, object_id))
            elif entry.unconfirmed and source is not None:
                self.refs.meet(object_id, owner, self._pin(source, object_id))
            ref = self.make_ref(entry)
            self._settle()
        return ref

    def _pin(self, source: Any, object_id: bytes) -> Any:
        """Keep what the ref came in until the owner's HELD; returns what to call then."""
        if source is None:
            return None
        if isinstance(source, Entry):
            source.local += 1
            return lambda: self._dropped.append(source)
        return source.pin(object_id)

    def _on_held(self, link: Link, message: list[Any], payload: Any) -> None:
        for held in message[1]:
            if not self.replies.unpin(link.peer, held):
                self.refs.on_held(link.peer, [held])

    # -- running what the tables ask for

    def _settle(self) -> None:
        """Carry out all that the tables want; lock held."""
        refs, calls, dropped, idle = self.refs, self.calls, self._dropped, self.store.idle
        while True:
            while dropped:
                refs.drop(dropped.popleft())
            while self._abandoned:
                call = self._abandoned.popleft()._entry.call
                if isinstance(call, Call):
                    self.replies.let_go(call)
            if refs.freed:
                entry = refs.freed.popleft()
                value = entry.value
                if entry.status:
                    self.replies.freed_error(entry)
                if not value or len(value) > 1 or type(value[0]) is not bytes:  # as inline values are
                    self._free(entry)
            elif calls.out:
                out, calls.out = calls.out, []
                by_peer, send_call = self.links.by_peer, self.submitter.send
                for order in out:
                    if order[0] == "send" and order[1] in by_peer:
                        send_call(by_peer[order[1]], order[3])
                    else:
                        self._carry_out(order)
            elif refs.out:
                sends, refs.out = refs.out, []
                for send in sends:
                    assert isinstance(send, Send)
                    self.tell(send.peer, *send.message)
            elif self._lost_peers:
                self._peer_lost(self._lost_peers.pop())
            elif idle:
                self.rdma.mover.withdraw()
            else:
                return

    def _carry_out(self, order: tuple[Any, ...]) -> None:
        what = order[0]
        if what == "send":
            _, peer, address, call = order
            link = self.links.by_peer.get(peer) or self._open(peer, address)
            if link is not None:
                self.submitter.send(link, call)
        elif what == "hub":
            self.hub.tell(*order[1])
        elif what == "peer":
            self.tell(order[1], *order[2])
        else:
            _, call, status, value = order
            if self.closed is None:
                self._remember_failure(call, status, value)
            self.replies.resolve_all(call, status, value)

    def tell(self, peer: bytes, *message: Any) -> None:
        """One message to a peer, connecting where an address is known; lock held."""
        link = self.links.by_peer.get(peer)
        if link is None:
            address = self.refs.addresses.get(peer)
            if address is None:
                return
            link = self._open(peer, address)
            if link is None:
                return
        if message[0] == wire.VALUE:
            self.sharing.before(link, message[3])
        self.links.send(link, encode(*message))

    def send_soon(self, conn: int, meta: bytes) -> None:
        """Send a frame that the peer is not waiting for, as it has others to work on; lock held.

        While nobody polls it is held back, for one system call and one wake for up to `HELD_MAX` frames: it
        goes out with the next for that peer, when this process waits, or when the I/O thread takes the
        lead, within milliseconds.
        """
        taken, held = self.lead.taken, self.links.held
        if not taken():
            count = held.get(conn, 0) + 1
            if count < HELD_MAX:
                held[conn] = count
                self.reactor.send(conn, meta, None, -1, True)
                if taken():  # taken meanwhile, perhaps before the frame was there to be written
                    self.links.flush_held()
                return
            held.pop(conn, None)
        self.reactor.send(conn, meta)

    def _open(self, peer: bytes, address: wire.Address) -> Link | None:
        try:
            return self.links.open(peer, address)
        except OSError:
            self._lost_peers.append(peer)
            return None

    def _free(self, entry: Entry) -> None:
        """An owned object is gone: give its blocks back to whoever allocated them."""
        if len(entry.id) == 28 and entry.id.endswith(ACTOR_SUFFIX):
            self.hub.tell(wire.KILL_ACTOR, entry.id[:16], True, OUT_OF_SCOPE, wire.ANY_INCARNATION)
            return
        blocks: dict[bytes, list[Any]] = {}
        for part in entry.value or ():
            if type(part) is not bytes:
                blocks.setdefault(part[1], []).append(part)
        self.lineage.released(entry)
        forfeited = self.refs.forfeited
        retire = bool(forfeited) and forfeited.pop(entry.id, False) is None
        for allocator, descriptors in blocks.items():
            self.free_blocks(allocator, descriptors, retire)

    def free_blocks(self, allocator: bytes, descriptors: list[Any], retire: bool = False) -> None:
        """Blocks that this process held a use of; lock held.

        `retire`: their memory must not be written again, as somebody may look at it unbeknown to us.
        """
        if allocator == self.process_id:
            self.store.release_described(descriptors, retire)
        else:
            self.hub.count_returned(allocator, descriptors)
            if allocator in self.links.by_peer:
                self.tell(allocator, wire.FREE_BLOCKS, descriptors, retire)
            else:
                self.hub.tell_returned(allocator)

    # -- events

    def _dispatch(self, events: list[Any]) -> None:
        handlers, by_conn = self.handlers, self.links.by_conn
        with self.lock:
            for kind, conn, meta, payload in events:
                if kind == FRAME:
                    link = by_conn.get(conn)
                    if link is None or not link.ready:
                        self.links.handshake_frame(conn, meta)
                        continue
                    try:
                        message = decode(meta)
                        handlers[message[0]](link, message, payload)
                    except (ProtocolError, KeyError) as error:
                        self._misbehaved(link, error)
                elif kind == CLOSED:
                    self._closed(conn)
                elif kind == ACCEPTED:
                    self.links.accepted(conn)
                elif kind == BUSY:
                    self.rings.offer(conn)
                elif kind == READABLE:
                    self.rdma.mover.on_readable()
                elif kind == RESUMED:
                    self.rdma.pipes.resumed(by_conn.get(conn), meta.decode())
            while self.links.broken:
                self._closed(self.links.broken.pop())
            self._settle()

    def _misbehaved(self, link: Link, error: Exception) -> None:
        """A trusted peer sent what this version does not know: cut the link, by name."""
        self.reactor.close(link.conn)
        self._closed(link.conn)

    def _closed(self, conn: int) -> None:
        link = self.links.closed(conn)
        if link is None:
            return
        if link is self.hub.link and self.rejoin is not None and self.closed is None:
            self.rejoin.lost()
        elif link is self.hub.link or link is self.hub.agent:
            self.fail_everything("the connection to the cluster was lost")
            if self.on_hub_lost is not None:
                self.on_hub_lost()
        else:
            # Where both sides had connected at once, what went by this link is lost for good: the other
            # link alone would leave its calls and borrows waiting for ever.
            for other in [one for one in self.links.by_conn.values() if one.peer == link.peer]:
                self.reactor.close(other.conn)
                self.links.closed(other.conn)
            self._peer_lost(link.peer)

    def _peer_lost(self, peer: bytes) -> None:
        now = time.monotonic()
        self.rdma.peer_lost(peer)  # before anything that it could read is freed
        self.calls.on_peer_lost(now, peer)
        self.refs.on_peer_lost(peer, encode_error(*OWNER_DIED))
        self.store.peer_lost(peer)
        self.replies.peer_lost(peer)
        self.hub.peer_lost(peer)

    def fail_everything(self, reason: str) -> None:
        """The cluster is gone: every waiting call ends now, by name (CALL-3); lock held."""
        if self.closed is None:
            self.closed = reason
        self.calls.fail_all("RaySystemError", reason)
        self.hub.fail_all(reason)
        for peer in list(self.refs.borrowed_from):
            self.refs.on_peer_lost(peer, encode_error("RaySystemError", reason))
        self._settle()
        self.lineage.clear()

    def _tick(self, now: float) -> None:
        with self.lock:
            self.calls.tick(now)
            self._settle()

    def _on_welcome(self, link: Link, message: list[Any], payload: Any) -> None:
        self.info.update(message[1])
        self.hub.welcomed()
        if self.on_welcome is not None:
            self.on_welcome()

    def _on_node_state(self, link: Link, message: list[Any], payload: Any) -> None:
        """A node is gone: so are its processes, even where TCP has not noticed yet."""
        if message[2]:
            return
        node_id = message[1]
        if not self.is_worker and not message[3].startswith(LEFT):
            notices.node_removed(node_id, message[3])
        gone = dict.fromkeys([*message[4], node_id] if node_id != self.node_id else message[4])
        for other in [one for one in self.links.by_conn.values() if one.peer in gone]:
            self.reactor.close(other.conn)
            self.links.closed(other.conn)
        for peer in gone:
            self._peer_lost(peer)
        self.lineage.node_lost(node_id)
        self.waiting.node_lost(node_id)

    def _on_fetch(self, link: Link, message: list[Any], payload: Any) -> None:
        self.replies.unread.pop(message[1], None)  # it is the borrower's matter
        self.refs.on_fetch(link.peer, message[1], encode_error(*OBJECT_FREED))

    def _on_lost(self, link: Link, message: list[Any], payload: Any) -> None:
        self.lineage.on_lost(link.peer, message[1], message[2], encode_error(*OBJECT_FREED))

    def _on_inspect(self, link: Link, message: list[Any], payload: Any) -> None:
        """Somebody wants to see what this process runs or holds."""
        from spoke.inspecting import answer

        self.hub.tell(wire.INSPECTED, message[1], answer(self, message[2], message[3]))

    def _remember_failure(self, call: Call, status: int, value: list[Any]) -> None:
        from spoke.inspecting import remember_failure

        remember_failure(self, call, status, value)

    def _on_grant(self, link: Link, message: list[Any], payload: Any) -> None:
        self.calls.tasks.granted(time.monotonic(), *message[1:])

    def _on_lease_lost(self, link: Link, message: list[Any], payload: Any) -> None:
        lease = self.calls.tasks.leases.get(message[1])
        ended = {} if lease is None or self.is_worker or message[3] != "worker_died" else lease.inflight
        if not all(call.cancelled for call in ended.values()):  # else somebody meant it
            notices.warn(notices.WORKER_DIED, f"{WORKER_DIED}: {message[2]}")
        self.calls.tasks.lease_lost(*message[1:])

    def _on_actor_state(self, link: Link, message: list[Any], payload: Any) -> None:
        self.submitter.actor_moved(message[1], message[2])
        _, actor_id, state, incarnation, address, info = message
        self.calls.actors.on_state(actor_id, state, incarnation, address, info, payload)

    # -- objects

    def read(self, entry: Entry) -> Any:
        """The value of a resolved entry, or its error raised."""
        if entry.status == VALUE:
            return self.values.read(entry)
        raise self.replies.error_of(entry)

    def put(self, value: Any) -> ObjectRef[Any]:
        """Store a value; this process owns the object.

        Raises:
            TypeError: not serializable.
            ObjectStoreFullError: no shared memory for it.
        """
        self.check_open()
        parts, contains, _ = self.values.pack(value)
        return self.own(VALUE, parts, contains)

    def own(self, status: int, parts: list[Any], contains: list[Entry] | None = None) -> ObjectRef[Any]:
        """A new object of this process, of a packed value or error."""
        object_id = self.new_call_id() + PUT_SUFFIX
        with self.lock:
            entry = self.refs.own(object_id)
            entry.value = parts
            entry.contains = contains
            entry.status = status
            ref = self.make_ref(entry)
            if self._dropped:
                self._settle()
        return ref

    def check_open(self) -> None:
        if self.closed is not None:
            from spoke.errors import RaySystemError

            raise RaySystemError(self.closed)

    def close(self) -> None:
        """Leave the cluster: waiting calls end by name, links close, the I/O thread ends."""
        closing, self.on_closing = self.on_closing, None
        if closing is not None:
            closing()
        with self.lock:
            self.fail_everything("the driver called shutdown()")
            self.refs.disown()
        self.rdma.close()
        objectref.install(None, None, None, None, None)
        self.futures.stop()
        self.lead.stop()
        self.reactor.close_all()
        if self.on_closed is not None:
            self.on_closed()

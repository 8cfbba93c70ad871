"""The hub's tables: what is known of nodes, workers, clients, leases, actors, groups and jobs.

Rules of this module: records and the few operations that keep two records in step (taking and
giving resources, the waiting lines, commands out).  Decisions are in the modules above.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from spoke import wire
from spoke.core import Command, Log, Send
from spoke.core.hubconfig import HubConfig as HubConfig
from spoke.core.ledger import GPU, Ledger, Share
from spoke.core.topology import Topology
from spoke.limits import MAX_DEAD_RECORDS

if TYPE_CHECKING:
    from spoke.core.prepare import Preparing
    from spoke.core.shape import Shape

Key = tuple[str, "tuple[int, ...] | None"]  # what a worker was started with: env key, GPUs shown
NO_TOPOLOGY: Final = Topology({})


class Holders:
    """Who holds a device that should be free: process ids, and since when."""

    __slots__ = ("pids", "since")

    def __init__(self, pids: list[int], since: float) -> None:
        self.pids = pids
        self.since = since


class Node:
    """One machine and the pool of workers on it."""

    def __init__(
        self, node_id: bytes, host: str, port: int, ledger: Ledger, labels: dict[str, str], pid: int
    ) -> None:
        self.node_id = node_id
        self.host = host
        self.port = port
        self.ledger = ledger
        self.labels = labels
        self.pid = pid
        self.alive = True
        self.is_head = False
        self.address = host  # by which programs know it, while it listens on `host`
        self.death = ""
        self.last_heard = 0.0
        self.joined_at = 0.0
        self.load = 0  # holdings, to spread what takes no resources
        self.spread_at = 0  # `seq` of the latest request that was to be spread and came here
        self.workers: dict[bytes, Worker] = {}
        self.idle: dict[tuple[Key, bytes], list[Worker]] = {}  # by key and job; the last is the warmest
        self.idle_count = 0
        self.waiting: dict[Key, deque[Holding]] = {}  # resources taken, worker not started yet
        self.starting: dict[Key, int] = {}
        self.starting_count = 0
        self.failures: dict[Key, int] = {}  # starts in a row that failed
        self.retry_at: dict[Key, float] = {}
        self.prestart = 0
        self.start_max = 8  # at once
        self.topology = NO_TOPOLOGY  # as its agent reported it
        self.held: dict[int, Holders] = {}  # GPUs that processes nobody answers for hold (GANG-3)

    @property
    def has_gpu(self) -> bool:
        return GPU in self.ledger.total


STARTING: Final = "STARTING"
IDLE: Final = "IDLE"
BUSY: Final = "BUSY"
STOPPING: Final = "STOPPING"


class Worker:
    """One process of a node.  It stays in the tables until its exit was reported (GANG-3)."""

    __slots__ = (
        "address",
        "asked_at",
        "calls",
        "env_error",
        "forced",
        "holding",
        "idle_since",
        "job",
        "key",
        "node",
        "owns",
        "owns_at",
        "pid",
        "preparing",
        "since",
        "state",
        "stop_at",
        "why",
        "worker_id",
    )

    def __init__(self, worker_id: bytes, node: Node, key: Key, now: float) -> None:
        self.worker_id = worker_id
        self.node = node
        self.key = key
        self.state = STARTING
        self.since = now
        self.idle_since = now
        self.job = b""  # once it ran code of a job it serves no other
        self.pid = 0
        self.address: wire.Address | None = None
        self.holding: Holding | None = None
        self.owns = 0  # objects and calls that others wait for: not stopped for idleness
        self.owns_at = -1.0  # when it said so
        self.calls = b""  # what it said of the calls that it ran, for who asks when it is gone
        self.asked_at = -1.0  # when it was asked
        self.stop_at: float | None = None  # leaves by itself; killed at this time
        self.forced = False  # the stop was an order to kill
        self.why = ""  # why the hub stopped it
        self.preparing = False  # its node makes its runtime environment, which may take long
        self.env_error = ""  # why that failed


class Holding:
    """Resources taken for one lease or one life of an actor; outlives both until the worker is gone."""

    __slots__ = (
        "blocked",
        "bundle",
        "job",
        "key",
        "node",
        "serial",
        "shape",
        "share",
        "since",
        "user",
        "worker",
    )

    def __init__(
        self, serial: int, node: Node, share: Share, bundle: Bundle | None, shape: Shape, job: bytes
    ) -> None:
        self.serial = serial
        self.node = node
        self.share = share
        self.bundle = bundle
        self.shape = shape
        self.job = job
        self.user: Lease | Actor | None = None  # None: ended, the process is not reaped yet
        self.worker: Worker | None = None
        self.blocked = False
        self.since = 0.0
        gpus: tuple[int, ...] | None = share.gpu_ids or None
        if gpus is None and bundle is not None and node.has_gpu:
            gpus = ()  # a member of a group sees its own devices only
        self.key: Key = (shape.env_key, gpus)


class Item:
    """Something that waits for placement."""

    __slots__ = (
        "blocked_since",
        "earmark",
        "line",
        "reclaim_at",
        "reported",
        "seq",
        "unknown_since",
        "waits_since",
    )

    def __init__(self) -> None:
        self.seq = 0
        self.line: Line | None = None  # the line it stands in
        self.waits_since = 0.0  # when it came to its line
        self.blocked_since: float | None = None
        self.reclaim_at = 0.0
        self.reported = False  # the owner knows that it is infeasible
        self.unknown_since: float | None = None  # it names a group of which no creation arrived yet
        self.earmark: dict[bytes, dict[str, int]] | None = None  # room kept free for it, by node


class Line:
    """Items that fit on exactly the same nodes, in order of arrival."""

    __slots__ = ("blocked_at", "infeasible", "infeasible_at", "items", "key", "live")

    def __init__(self, key: Any) -> None:
        self.key = key
        self.items: deque[tuple[int, Item]] = deque()  # (seq, item); stale when they differ
        self.live = 0
        self.blocked_at = -1  # version of the cluster's capacity at which the head did not fit
        self.infeasible = ""
        self.infeasible_at = -1

    def head(self) -> Item | None:
        while self.items:
            seq, item = self.items[0]
            if item.line is self and item.seq == seq:
                return item
            self.items.popleft()
        return None

    def all(self) -> list[Item]:
        return [item for seq, item in self.items if item.line is self and item.seq == seq]


class Want(Item):
    """How many workers a client can use for one class of tasks."""

    __slots__ = ("class_id", "client", "count", "leases", "shape", "spec")

    def __init__(self, client: Client, class_id: int, spec: dict[str, Any], shape: Shape) -> None:
        super().__init__()
        self.client = client
        self.class_id = class_id
        self.spec = spec
        self.shape = shape
        self.count = 0
        self.leases: dict[int, Lease] = {}


class Lease:
    """A worker lent to a client, or (`granted` False) about to be."""

    __slots__ = ("granted", "holding", "lease_id", "want")

    def __init__(self, lease_id: int, want: Want, holding: Holding) -> None:
        self.lease_id = lease_id
        self.want = want
        self.holding = holding
        self.granted = False


class Client:
    """A driver or a worker in its role as a caller."""

    __slots__ = (
        "actors",
        "address",
        "groups",
        "info",
        "job",
        "leases",
        "node_id",
        "peer",
        "pid",
        "role",
        "wants",
        "watching",
        "worker",
    )

    def __init__(self, peer: bytes, role: str, address: wire.Address, pid: int, info: dict[str, Any]) -> None:
        self.peer = peer
        self.role = role
        self.address = address
        self.node_id: bytes = address[1] if len(address) > 1 else b""
        self.pid = pid
        self.info = info
        self.job = b""
        self.worker: Worker | None = None
        self.wants: dict[int, Want] = {}
        self.leases: dict[int, Lease] = {}  # granted ones
        self.actors: dict[bytes, Actor] = {}  # owned, not detached
        self.groups: dict[bytes, Group] = {}
        self.watching: dict[bytes, Actor | Group | None] = {}


class Actor(Item):
    """One actor through all its incarnations."""

    __slots__ = (
        "actor_id",
        "blob",
        "error",
        "holding",
        "incarnation",
        "info",
        "job",
        "name",
        "namespace",
        "owner",
        "restarts_left",
        "shape",
        "spec",
        "state",
        "watchers",
        "workers",
    )

    def __init__(self, actor_id: bytes, spec: dict[str, Any], blob: Any, shape: Shape) -> None:
        super().__init__()
        self.actor_id = actor_id
        self.spec = spec
        self.blob = blob
        self.shape = shape
        self.state = "PENDING_CREATION"
        self.incarnation = 0
        self.restarts_left: int = spec.get("max_restarts") or 0
        self.name: str = spec.get("name") or ""
        self.namespace: str = spec.get("namespace") or ""
        self.owner: Client | None = None  # None: detached
        self.job = b""
        self.holding: Holding | None = None
        self.info: dict[str, Any] = {}
        self.error: Any = b""  # pickled error of the constructor
        self.workers: list[tuple[bytes, bytes]] = []  # node and worker of its latest incarnations
        self.watchers: dict[bytes, Client] = {}


class Bundle:
    """One slot of a group: a ledger of its own, cut out of a node's."""

    __slots__ = ("group", "index", "ledger", "node", "share")

    def __init__(self, group: Group, index: int) -> None:
        self.group = group
        self.index = index
        self.node: Node | None = None
        self.share: Share | None = None
        self.ledger: Ledger | None = None


class Group(Item):
    """A placement group (a gang's ticket)."""

    __slots__ = (
        "attempt",
        "avoid",
        "bundles",
        "creator",
        "expires_at",
        "gang",
        "group_id",
        "holdings",
        "incarnation",
        "job",
        "kept",
        "lost",
        "name",
        "namespace",
        "owner",
        "placed_at",
        "ports",
        "ports_of",
        "preparing",
        "reason",
        "relaunch",
        "request",
        "restarts",
        "spec",
        "state",
        "tries",
        "watchers",
    )

    def __init__(self, group_id: bytes, spec: dict[str, Any]) -> None:
        super().__init__()
        self.group_id = group_id
        self.spec = spec
        self.request: Any = None  # placement.Request
        self.bundles: list[Bundle] = []
        self.state = "PENDING"
        self.placed_at = 0.0
        self.tries = 0  # to place it
        self.kept: tuple[int, dict[bytes, dict[str, int]]] | None = None  # room kept, and in which span
        self.reason = ""
        self.name: str = spec.get("name") or ""
        self.namespace: str = spec.get("namespace") or ""
        self.owner: Client | None = None
        self.job = b""
        self.holdings: dict[int, Holding] = {}
        self.watchers: dict[bytes, Client] = {}
        self.gang: Any = None  # the policy of its ranks (groups.GangPolicy); None: a plain group
        self.creator = b""  # who relaunches its ranks
        self.incarnation = 0  # of its ranks: grows when a lost one ends all
        self.lost: list[Any] | None = None  # [rank, cause] of the latest loss
        self.restarts: list[float] = []  # when, within the policy's window
        self.expires_at: float | None = None  # not placed, or not used, by then: released
        # Of a gang, agreed with its nodes (see `spoke.core.prepare`):
        self.attempt = 0
        self.preparing: Preparing | None = None
        self.avoid: dict[bytes, float] = {}  # nodes that refused it, until when
        self.ports: list[int] = []  # one per slot, held by its node
        self.ports_of = -1  # the incarnation that they are for
        # Of a detached gang whose ranks were lost: [spec, blob, job] of each, until they are launched again
        self.relaunch: list[list[Any]] = []

    def foreign(self, job: bytes) -> str:
        """A gang's id is a capability of its job: why processes of `job` may not use it; "" if they may."""
        if self.gang is None or self.owner is None or job == self.job:
            return ""
        return f"gang {self.group_id.hex()} belongs to job {self.job.hex()}, not to {job.hex()}"


class Job:
    """A driver and all that runs on its behalf."""

    __slots__ = ("driver", "ended_at", "info", "job_id", "keepers", "started_at")

    def __init__(self, job_id: bytes, driver: Client | None, info: dict[str, Any], now: float) -> None:
        self.job_id = job_id
        self.driver = driver
        self.info = info
        self.started_at = now
        self.ended_at: float | None = None
        self.keepers = 0  # live detached actors

    @property
    def live(self) -> bool:
        return self.driver is not None or self.keepers > 0


class State:
    """All tables, the commands collected in this step, and the waiting lines."""

    def __init__(self, config: HubConfig) -> None:
        self.config = config
        self.now = 0.0
        self.request_id = 0  # of the REQUEST that is being answered
        self.out: list[Command] = []
        self.nodes: dict[bytes, Node] = {}
        self.alive: list[Node] = []  # in order of joining
        self.fenced: dict[bytes, bool] = {}  # nodes and workers declared dead
        self.workers: dict[bytes, Worker] = {}
        self.clients: dict[bytes, Client] = {}
        self.leases: dict[int, Lease] = {}
        self.actors: dict[bytes, Actor] = {}
        self.dead_actors: dict[bytes, Actor] = {}  # the latest, in order of death
        self.actor_names: dict[tuple[str, str], Actor] = {}
        self.groups: dict[bytes, Group] = {}
        self.deaths: dict[bytes, dict[str, Any]] = {}  # the latest of workers that were followed by another
        self.refused: dict[bytes, list[Any]] = {}  # ids not created: [error or None, id of the one that is]
        self.removed_groups: dict[bytes, Group] = {}  # the latest, in order of removal
        self.group_names: dict[tuple[str, str], Group] = {}
        self.jobs: dict[bytes, Job] = {}
        self.submissions: dict[str, Any] = {}  # submitted jobs (core/jobs.py) by id
        self.kv: dict[tuple[str, bytes], bytes] = {}
        self.kv_bytes = 0
        self.lines: dict[Any, Line] = {}
        self.earmarked: list[Item] = []
        self.dirty = False  # something may now be placed
        self.version = 0  # grows when capacity grows
        self.topology = 0  # grows when nodes come or go
        self.touched: dict[bytes, Node] = {}  # pools to look after
        self.next_check: float | None = None
        self.changed: dict[tuple[str, bytes], Any] = {}  # to be journaled at the end of the step
        self._seq = 0
        self._serial = config.boot << 40  # numbers of an earlier life may still be in use

    # -- small services

    def serial(self) -> int:
        self._serial += 1
        return self._serial

    def send(self, peer: bytes, *message: Any) -> None:
        self.out.append(Send(peer, message))

    def log(self, level: str, text: str, **fields: Any) -> None:
        self.out.append(Log(level, text, fields))

    def note(self, table: str, key: bytes, what: Any) -> None:
        """`what` changed, or (None) is to be forgotten: journal it with this step."""
        if self.config.durable:
            self.changed[table, key] = what

    def wake_at(self, when: float) -> None:
        """Look again at `when`, or now if that is past: a hub that looks late takes it that it slept."""
        when = max(when, self.now)
        if self.next_check is None or when < self.next_check:
            self.next_check = when

    def grew(self) -> None:
        """Capacity grew, or a decision changed: what waits may be tried again."""
        self.version += 1
        self.dirty = True

    # -- resources

    def hold(self, node: Node, share: Share, bundle: Bundle | None, shape: Shape, job: bytes) -> Holding:
        holding = Holding(self.serial(), node, share, bundle, shape, job)
        holding.since = self.now
        node.load += 1
        if bundle is not None:
            bundle.group.holdings[holding.serial] = holding
        return holding

    def release(self, holding: Holding) -> None:
        """Give back what a holding took, once (its process is gone or free for others)."""
        self.block(holding, False)
        bundle = holding.bundle
        ledger = bundle.ledger if bundle is not None else holding.node.ledger
        if bundle is not None:
            del bundle.group.holdings[holding.serial]
            if bundle.node is not holding.node:
                ledger = None  # the slot died with its node and may stand elsewhere by now
        if ledger is not None:
            ledger.give(holding.share)
        holding.node.load -= 1
        holding.worker = None
        self.touched[holding.node.node_id] = holding.node
        if bundle is not None and bundle.group.state == "REMOVED":
            self.settle(bundle)
        self.grew()

    def block(self, holding: Holding, blocked: bool) -> None:
        """A task sleeps in get: others may use its CPUs meanwhile."""
        if holding.blocked == blocked:
            return
        holding.blocked = blocked
        bundle = holding.bundle
        ledger = bundle.ledger if bundle is not None else holding.node.ledger
        if bundle is not None and bundle.node is not holding.node:
            return
        if blocked:
            self.grew()
        if ledger is None or not holding.shape.cpu:
            return
        (ledger.lend if blocked else ledger.overdraw)(holding.shape.cpu)

    def settle(self, bundle: Bundle) -> None:
        """Return a slot of a removed group to its node, once nothing in it lives (GANG-3)."""
        if bundle.node is None or bundle.ledger is None or bundle.share is None or not bundle.ledger.idle():
            return
        if bundle.node.alive:
            bundle.node.ledger.give(bundle.share)
        bundle.node.load -= 1
        bundle.node = bundle.share = bundle.ledger = None
        self.grew()

    # -- waiting lines

    def enqueue(self, item: Item, key: Any) -> None:
        """Stand at the end of the line for `key`."""
        self._seq += 1
        item.seq = self._seq
        item.waits_since = self.now
        line = self.lines.get(key)
        if line is None:
            line = self.lines[key] = Line(key)
        item.line = line
        line.items.append((item.seq, item))
        line.live += 1
        if len(line.items) > 2 * line.live + 16:
            line.items = deque((one.seq, one) for one in line.all())
        self.dirty = True

    def requeue(self, item: Item) -> None:
        """Go to the end of the same line: others in it take turns."""
        line = item.line
        assert line is not None
        self._leave(item)
        self._seq += 1
        item.seq = self._seq
        line.items.append((item.seq, item))

    def dequeue(self, item: Item) -> None:
        """Leave the line, placed or not."""
        line = item.line
        if line is None:
            return
        item.line = None
        line.live -= 1
        if not line.live:
            self.lines.pop(line.key, None)
        elif item.blocked_since is not None and line.blocked_at == self.version:
            line.blocked_at = -1  # it was the head: what waits now has not been looked at
            self.dirty = True
        self._leave(item)

    def _leave(self, item: Item) -> None:
        item.blocked_since = None
        item.unknown_since = None
        item.reported = False
        if item.earmark is not None:
            self.earmarked.remove(item)
            item.earmark = None
            self.grew()

    def refuse(self, name: bytes, error: list[str]) -> None:
        """What was asked for under this id is not created, now or when it is asked for again."""
        self.note("refused", name, [error])
        self.remember(self.refused, name, [error], MAX_DEAD_RECORDS, "refused")

    def remember(self, table: dict[Any, Any], key: Any, value: Any, limit: int, journaled: str = "") -> None:
        """Keep the latest `limit` entries."""
        table[key] = value
        while len(table) > limit:
            oldest = next(iter(table))
            del table[oldest]
            if journaled:
                self.note(journaled, oldest, None)

"""Calls to tasks: per class a queue and the workers leased for it.

A class of tasks shares resources, placement and environment, so any leased worker of the class can
run any of its tasks.  The caller tells the hub how many workers the class could use (declarative),
fills each worker to a depth that fits the tasks' measured duration, and gives idle workers back.

Depth: a task of 20 us would spend its life waiting for round trips, so short tasks are sent ahead
(up to `DEPTH_MAX`, about `AHEAD_S` of work).  Where the guess was wrong, what has not started is
recalled and goes to an idle worker; a worker that blocks in get hands its queue back by itself.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from spoke import wire
from spoke.core.refs import CANCELLED

if TYPE_CHECKING:
    from spoke.core.calls import Call, CallTable

DEPTH_MAX: Final = 128
AHEAD_S: Final = 0.004
RECALL_AFTER_S: Final = 0.01
TURN_S: Final = 0.1  # a busy worker that the hub wants is kept this long in all
IDLE_S: Final = 0.5
VERDICT_S: Final = 1.5
WANT_MAX: Final = 4096


class Lease:
    """One leased worker."""

    __slots__ = (
        "address", "calls_done", "done_before", "granted_at", "idle_since", "inflight", "info",
        "introduced", "lease_id", "lost", "peer", "recalling", "return_at", "returning", "task_class",
    )  # fmt: skip

    def __init__(self, lease_id: int, address: wire.Address, info: dict[str, Any], owner: TaskClass) -> None:
        self.lease_id = lease_id
        self.address = address
        self.peer: bytes = address[0]
        self.info = info
        self.task_class = owner
        self.inflight: dict[bytes, Call] = {}
        self.idle_since: float | None = None
        self.recalling = False
        self.granted_at = 0.0
        self.return_at: float | None = None  # when the turn of a lease that the hub wants is over
        self.returning = False  # the hub wants it: no more tasks, back when those it has are done
        self.calls_done = 0
        self.done_before = 0  # calls_done when its backlog was looked at last
        self.introduced = False  # the worker was told whom it works for
        self.lost: float | None = None  # link ended; when to stop waiting for the hub's verdict


class TaskClass:
    """Tasks that any one of a set of leased workers can run."""

    __slots__ = (
        "class_id",
        "leases",
        "max_calls",
        "micros",
        "queue",
        "recall_at",
        "spec",
        "wanted",
        "warned",
    )

    def __init__(self, class_id: int, spec: dict[str, Any]) -> None:
        self.class_id = class_id
        self.spec = spec
        self.queue: deque[Call] = deque()
        self.leases: dict[int, Lease] = {}
        self.wanted = 0
        self.micros: float | None = None  # moving average of the execution time
        self.recall_at: float | None = None
        self.max_calls: int = spec.get("max_calls") or 0  # a worker is retired after so many; 0: never
        self.warned = ""


class TaskClasses:
    """All classes and leases of one process."""

    def __init__(self, table: CallTable) -> None:
        self.table = table
        self.classes: dict[int, TaskClass] = {}
        self.leases: dict[int, Lease] = {}
        self.by_peer: dict[bytes, Lease] = {}
        self.idle: dict[int, Lease] = {}  # in the order in which they became idle
        self.backlogged: dict[int, TaskClass] = {}  # classes with recall_at set
        self.lost: dict[int, Lease] = {}
        self.turns: dict[int, Lease] = {}  # wanted by the hub, their turn not over yet
        self.clock = 0.0

    def task_class(self, class_id: int, spec: dict[str, Any]) -> TaskClass:
        found = self.classes.get(class_id)
        if found is None:
            found = self.classes[class_id] = TaskClass(class_id, spec)
        return found

    def enqueue(self, call: Call, front: bool = False) -> None:
        group = self.classes[call.key]
        if front:
            group.queue.appendleft(call)
        elif group.queue:
            # Those before it wait for room, which a reply makes; only the number wanted may change.
            group.queue.append(call)
            if len(group.queue) > group.wanted:
                self._want(group)
            return
        else:
            group.queue.append(call)
        self._dispatch(group)

    def _depth(self, group: TaskClass) -> int:
        if group.micros is None or group.max_calls:
            return 1
        depth = int(AHEAD_S * 1e6 / (group.micros + 1))
        return 1 if depth < 1 else depth if depth < DEPTH_MAX else DEPTH_MAX

    def _dispatch(self, group: TaskClass) -> None:
        """Fill the least loaded workers first, then ask for as many more as could be used."""
        queue = group.queue
        if queue and group.leases:
            depth = self._depth(group)
            while queue:
                lease = self._least_loaded(group)
                if lease is None or len(lease.inflight) >= depth:
                    break
                self._send(lease, queue.popleft())
        if queue or group.wanted > len(group.leases):
            self._want(group)

    @staticmethod
    def _least_loaded(group: TaskClass) -> Lease | None:
        best, least = None, 0
        for lease in group.leases.values():
            load = len(lease.inflight)
            if (best is None or load < least) and lease.lost is None and not lease.returning:
                best, least = lease, load
                if load == 0:
                    break
        return best

    def _send(self, lease: Lease, call: Call) -> None:
        if lease.idle_since is not None:
            lease.idle_since = None
            self.idle.pop(lease.lease_id, None)
        lease.inflight[call.id] = call
        call.peer = lease.peer
        group = lease.task_class
        if group.recall_at is None and len(lease.inflight) > 1:
            group.recall_at = 0.0  # the next tick, which knows the time, sets it
            self.backlogged[group.class_id] = group
        self.table.out.append(("send", lease.peer, lease.address, call))

    def _want(self, group: TaskClass) -> None:
        """Tell the hub when the number of useful workers left the band of what it was told.

        Rounded up to powers of two while growing, so that a thousand submissions cost ten messages.
        """
        busy = sum(1 for lease in group.leases.values() if lease.inflight)
        useful = min(WANT_MAX, busy + len(group.queue))
        if useful > group.wanted and group.queue:
            count = min(WANT_MAX, 1 << (useful - 1).bit_length())
        elif not group.queue and group.wanted > len(group.leases):
            count = len(group.leases)
        else:
            return
        group.wanted = count
        self.table.out.append(("hub", (wire.WANT, group.class_id, group.spec, count)))

    # -- answers

    def granted(self, now: float, class_id: int, lease_id: int, address: Any, info: dict[str, Any]) -> None:
        group = self.classes.get(class_id)
        if group is None or (not group.queue and group.wanted <= len(group.leases)):
            self.table.out.append(("hub", (wire.GIVE_BACK, lease_id, False)))
            return
        lease = Lease(lease_id, address, info, group)
        lease.granted_at = now
        group.leases[lease_id] = self.leases[lease_id] = lease
        self.by_peer[lease.peer] = lease
        self._dispatch(group)
        if not lease.inflight:
            self._now_idle(now, lease)

    def replied(self, now: float, call: Call, micros: int) -> None:
        lease = self.by_peer.get(call.peer) if call.peer else None
        if lease is None or lease.inflight.pop(call.id, None) is None:
            return
        group = lease.task_class
        group.micros = micros if group.micros is None else group.micros * 0.8 + micros * 0.2
        lease.calls_done += 1
        if group.max_calls and lease.calls_done >= group.max_calls:
            self._give_back(lease, retire=True)
        elif lease.returning:
            if not lease.inflight:
                self._give_back(lease, retire=False)
        elif group.queue:
            if len(lease.inflight) * 2 <= self._depth(group):  # refill by halves: fewer wakes
                self._dispatch(group)
        elif not lease.inflight:
            self._now_idle(now, lease)

    def _now_idle(self, now: float, lease: Lease) -> None:
        # The hub waits for it, or says anew where the next task is, which is to be elsewhere.
        if lease.return_at is not None or lease.task_class.spec.get("strategy") == "SPREAD":
            self._give_back(lease, retire=False)
            return
        lease.idle_since = now
        self.idle[lease.lease_id] = lease
        group = lease.task_class
        if group.recall_at is None and any(len(other.inflight) > 1 for other in group.leases.values()):
            group.recall_at = now + RECALL_AFTER_S
            self.backlogged[group.class_id] = group
        self._want(group)

    def hold(self) -> None:
        """What waits for an argument again is queued when that is there."""
        for group in self.classes.values():
            if any(call.waiting for call in group.queue):
                group.queue = deque(call for call in group.queue if not call.waiting)
                self._want(group)

    def forget(self, call: Call) -> None:
        group = self.classes.get(call.key)
        if group is None:
            return
        if call.peer is not None:
            lease = self.by_peer.get(call.peer)
            if lease is not None and lease.inflight.pop(call.id, None) is not None and lease.lost is None:
                if group.queue and not lease.returning:
                    self._dispatch(group)
                elif not lease.inflight:
                    self._now_idle(self.clock, lease)
            return
        try:
            group.queue.remove(call)
        except ValueError:
            return
        self._want(group)

    def recalled(self, lease_id: int, call_ids: list[bytes]) -> None:
        """Calls a worker hands back unstarted."""
        lease = self.leases.get(lease_id)
        if lease is None:
            return
        lease.recalling = False
        for call_id in reversed(call_ids):
            call = lease.inflight.pop(call_id, None)
            if call is None:
                continue
            call.peer = None
            if call.cancelled:  # the worker had let go of it before it heard of that
                self.table.fail(call, CANCELLED, [])
            else:
                lease.task_class.queue.appendleft(call)
        # A worker that handed back its queue is busy or blocked: fill the others first.
        if lease.returning and not lease.inflight:
            self._give_back(lease, retire=False)
        self._dispatch(lease.task_class)

    # -- losing and giving back workers

    def reclaim(self, now: float) -> None:
        """The hub needs workers: give back every idle one now, and busy ones after their turn.

        Without the latter a caller with an endless queue would keep all others from their first task;
        without a turn of `TURN_S` callers would pass workers around instead of using them.
        """
        for lease in list(self.idle.values()):
            self._give_back(lease, retire=False)
        for lease in self.leases.values():
            if not lease.returning and lease.return_at is None:
                lease.return_at = max(now, lease.granted_at + TURN_S)
                self.turns[lease.lease_id] = lease

    def _give_back(self, lease: Lease, retire: bool) -> None:
        group = lease.task_class
        self._remove(lease)
        if not retire:
            group.wanted = min(group.wanted, len(group.leases))  # as the hub understands it
        elif group.wanted > len(group.leases) and not group.queue:
            group.wanted = len(group.leases)
            self.table.out.append(("hub", (wire.WANT, group.class_id, group.spec, group.wanted)))
        self.table.out.append(("hub", (wire.GIVE_BACK, lease.lease_id, retire)))
        self._want(group)  # what is queued needs another one

    def _remove(self, lease: Lease) -> None:
        self.leases.pop(lease.lease_id, None)
        self.idle.pop(lease.lease_id, None)
        self.lost.pop(lease.lease_id, None)
        self.turns.pop(lease.lease_id, None)
        lease.task_class.leases.pop(lease.lease_id, None)
        if self.by_peer.get(lease.peer) is lease:
            del self.by_peer[lease.peer]

    def on_peer_lost(self, now: float, peer: bytes) -> None:
        lease = self.by_peer.get(peer)
        if lease is not None and lease.lost is None:
            lease.lost = now + VERDICT_S
            lease.idle_since = None
            self.idle.pop(lease.lease_id, None)
            self.lost[lease.lease_id] = lease

    def lease_lost(self, lease_id: int, reason: str, kind: str) -> None:
        """The hub says why a worker is gone: retry what may be retried, fail the rest by name."""
        lease = self.leases.get(lease_id)
        if lease is None:
            return
        self._remove(lease)
        group = lease.task_class
        group.wanted = min(group.wanted, len(group.leases))
        again = []
        error = "NodeDiedError" if kind == "node_died" else "WorkerCrashedError"
        if kind == "out_of_memory":
            error = "OutOfMemoryError"
        if lease.inflight and kind == "worker_died":
            said = {"worker": lease.peer, "call": next(iter(lease.inflight.values())).name}
            self.table.out.append(("hub", (wire.REQUEST, 0, "last_call", said)))
        for call in lease.inflight.values():
            if call.cancelled and kind == "worker_died":
                said = {"worker": lease.peer, "call": call.name}
                self.table.out.append(("hub", (wire.REQUEST, 0, "cancelled_by_force", said)))
            call.left, call.peer = call.peer, None
            if call.retries_left != 0 and not call.cancelled:
                call.retries_left -= call.retries_left > 0
                call.attempt += 1
                if not self.table.missing(call):
                    again.append(call)
            elif call.cancelled:
                self.table.fail(call, CANCELLED, [])
            else:
                self.table.fail_named(call, error, f"Task {call.name} failed: {reason}")
        group.queue.extendleft(reversed(again))
        self._dispatch(group)

    def unschedulable(self, class_id: int, reason: str, error: str = "TaskUnschedulableError") -> None:
        """The hub will never grant a worker for this class: its waiting tasks fail by name."""
        group = self.classes.get(class_id)
        if group is None:
            return
        group.wanted = len(group.leases)
        while group.queue:
            if error == "TaskUnschedulableError" and "placement group" in reason and "removed" in reason:
                error = "TaskPlacementGroupRemoved"
            self.table.fail_named(group.queue.popleft(), error, reason)

    # -- time

    def next_deadline(self) -> float | None:
        first_idle = None
        for lease in self.idle.values():
            if lease.idle_since is not None:
                first_idle = lease.idle_since + IDLE_S
            break
        if not (self.backlogged or self.lost or self.turns):  # as nearly always, at every poll
            return first_idle
        times = [lease.lost for lease in self.lost.values() if lease.lost is not None]
        times.extend(lease.return_at for lease in self.turns.values() if lease.return_at is not None)
        if first_idle is not None:
            times.append(first_idle)
        times.extend(group.recall_at for group in self.backlogged.values() if group.recall_at is not None)
        return min(times) if times else None

    def tick(self, now: float) -> None:
        self.clock = now
        for lease in list(self.idle.values()):
            if lease.idle_since is None or lease.idle_since + IDLE_S > now:
                break
            self._give_back(lease, retire=False)
        for lease in list(self.turns.values()):
            if lease.return_at is not None and lease.return_at <= now:
                del self.turns[lease.lease_id]
                lease.returning = True
                if not lease.inflight and lease.lost is None:
                    self._give_back(lease, retire=False)
        for lease in list(self.lost.values()):
            if lease.lost is not None and lease.lost <= now:
                # The hub still counts the lease: the worker lives, only the link to it broke.
                self.table.out.append(("hub", (wire.GIVE_BACK, lease.lease_id, True)))
                self.lease_lost(lease.lease_id, "the connection to its worker was lost", "worker_died")
        for group in list(self.backlogged.values()):
            if group.recall_at == 0.0:
                self._look_again(group, now)
            elif group.recall_at is not None and group.recall_at <= now:
                self._unblock(group, now)

    def _look_again(self, group: TaskClass, now: float) -> None:
        group.recall_at = now + RECALL_AFTER_S
        for lease in group.leases.values():
            lease.done_before = lease.calls_done

    def _unblock(self, group: TaskClass, now: float) -> None:
        """Take back what waits behind a task that turned out long, or beside an idle worker."""
        backlog = [lease for lease in group.leases.values() if len(lease.inflight) > 1]
        if not backlog:
            group.recall_at = None
            del self.backlogged[group.class_id]
            return
        idle = any(not lease.inflight for lease in group.leases.values())
        busiest = max(backlog, key=lambda lease: len(lease.inflight))
        for lease in backlog:
            stuck = lease.calls_done == lease.done_before
            if stuck:
                group.micros = max(group.micros or 0.0, RECALL_AFTER_S * 1e6)
            if (stuck or (idle and lease is busiest)) and not lease.recalling and lease.lost is None:
                lease.recalling = True
                self.table.out.append(("peer", lease.peer, (wire.RECALL, lease.lease_id, 1)))
        self._look_again(group, now)

    def validate(self) -> None:
        for lease_id, lease in self.leases.items():
            assert lease.task_class.leases[lease_id] is lease
            for call in lease.inflight.values():
                assert call.id in self.table.calls, f"CALL-1: {call} in flight but resolved"
        for group in self.classes.values():
            assert not group.queue or group.wanted or group.leases, "CALL-3: nobody will run what is queued"
            for call in group.queue:
                assert call.peer is None and call.id in self.table.calls

"""Calls from the caller's side: order, retry, cancel, death; one table, no sockets.

- CALL-1: a call resolves exactly once.
- CALL-2: calls of this process to one actor are sent in submission order, so they start in order.
- CALL-3: a lost peer resolves or retries everything that was sent to it.

The table keeps a queue per actor (`ActorChannel`, core/channels.py) and a queue plus leases per
class of tasks (`TaskClass`, core/leasing.py).  What it wants done it appends to ``out`` as tuples:

``("send", peer, address, call)``     send the call to that process
``("hub", message)``                  one message to the hub
``("peer", peer, message)``           one message to a process already connected
``("done", call, status, value)``     the call failed or was cancelled here: resolve its returns
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from spoke import wire
from spoke.core.channels import ActorChannels
from spoke.core.leasing import TaskClasses
from spoke.core.refs import CANCELLED, PENDING, SYSTEM, Entry

RETRY_FOREVER: Final = -1


class Call:
    """One submitted call, from submission to resolution."""

    __slots__ = (
        "args", "attempt", "cancelled", "entries", "id", "key", "left", "name", "num_returns", "options",
        "parent", "peer", "pins", "retries_left", "retry_on", "slots", "stream", "target", "waiting",
    )  # fmt: skip

    def __init__(
        self, call_id: bytes, key: Any, target: Any, args: list[Any], num_returns: int, name: str = "",
        retries_left: int = 0, retry_on: Callable[[Any], bool] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.id = call_id
        self.key = key  # actor id (bytes) or class id (int)
        self.target = target  # method name, or function id of a task
        self.args = args  # parts of (args, kwargs); b"" for none
        self.num_returns = num_returns  # -1 streaming
        self.entries: list[Entry] = []  # of the returns
        self.slots: list[tuple[int | str, Entry]] | None = None  # top-level refs: position and entry
        self.pins: list[Entry] | None = None  # counted for this call until it resolves
        self.options = options  # travels with the call
        self.retries_left = retries_left
        self.retry_on = retry_on  # which user exceptions to retry
        self.waiting = 0  # dependencies not yet resolved
        self.peer: bytes | None = None  # where it was sent
        self.left: bytes | None = None  # where it was sent and may still run, though it is given up
        self.cancelled = False
        self.stream: Any = None  # generator state of num_returns="streaming"
        self.name = name
        self.attempt = 0
        self.parent: bytes | None = None  # the call whose code submitted this one

    def __repr__(self) -> str:
        return f"Call({self.name or self.target!r}, {self.id.hex()[-8:]})"


class DependencyWaiter:
    """Counts down a call's unresolved top-level refs."""

    __slots__ = ("call", "table")

    def __init__(self, table: CallTable, call: Call) -> None:
        self.table = table
        self.call = call

    def resolved(self, entry: Entry) -> None:
        call = self.call
        call.waiting -= 1
        if entry.status > 0:
            self.table.fail_argument(call, entry)
        elif call.waiting == 0:
            self.table.ready(call)


class CallTable:
    """All unresolved calls of one process.  Not thread safe: the shell holds its lock."""

    def __init__(self, encode_error: Callable[[str, str], list[Any]]) -> None:
        self.encode_error = encode_error  # (class name, text) -> value of a SYSTEM error
        self.calls: dict[bytes, Call] = {}
        self.recomputing: dict[bytes, Call] = {}  # of those, whose results were lost (core/lineage.py)
        self.out: list[tuple[Any, ...]] = []
        self.fetch: Callable[[Entry], None] | None = None  # asks the owner for a borrowed dependency
        # What a call resolves to whose argument is an error.
        self.argument_error: Callable[[Call, Entry], tuple[int, list[Any]]] | None = None
        self.place: Callable[[Call], None] | None = None  # may change the class by where arguments lie
        self.actors = ActorChannels(self)
        self.tasks = TaskClasses(self)

    # -- the life of a call

    def submit(self, call: Call) -> None:
        """Take a new call; its dependencies are in ``call.slots``."""
        self.calls[call.id] = call
        if type(call.key) is bytes:
            if call.slots is None:
                self.actors.submit(call)
                return
            if not self.actors.enqueue(call):
                return
        elif call.slots is None:
            self.tasks.enqueue(call)
            return
        self._await_slots(call)

    def _await_slots(self, call: Call) -> None:
        """The call is ready when all of its dependencies are there."""
        for _, entry in call.slots or ():
            if entry.status == PENDING:
                self._wait_for(call, entry)
            elif entry.status > 0:
                self.fail_argument(call, entry)
                return
        if call.waiting == 0:
            self.ready(call)

    def _wait_for(self, call: Call, entry: Entry) -> None:
        call.waiting += 1
        waiter = DependencyWaiter(self, call)
        if entry.waiters is None:
            entry.waiters = []
        entry.waiters.append(waiter)
        if entry.owner is not None and self.fetch is not None:
            self.fetch(entry)

    # -- lost results (core/lineage.py)

    def again(self, call: Call) -> None:
        """Take an answered call once more: ahead of those that wait, as they may need what it returns."""
        self.calls[call.id] = self.recomputing[call.id] = call
        call.peer = call.left = None
        call.waiting = 0
        call.cancelled = False
        if type(call.key) is not bytes or self.actors.enqueue(call, front=True):
            self._await_slots(call)

    def hold(self, lost: dict[bytes, Entry]) -> None:
        """These objects are pending again: what was not sent yet waits for them."""
        for call in list(self.calls.values()) if lost else ():
            if call.peer is None:
                for _, entry in call.slots or ():
                    if lost.get(entry.id) is entry:
                        self._wait_for(call, entry)
        self.tasks.hold()

    def missing(self, call: Call) -> bool:
        """Whether an argument of a call that is not sent is pending again; then the call waits for it."""
        for _, entry in call.slots or ():
            if entry.status == PENDING:
                self._wait_for(call, entry)
        return call.waiting > 0

    def ready(self, call: Call) -> None:
        """All dependencies are there."""
        if call.id not in self.calls:
            return
        if isinstance(call.key, bytes):
            self.actors.pump(call.key)
        else:
            if call.slots and self.place is not None:
                self.place(call)
            self.tasks.enqueue(call, front=call.id in self.recomputing)

    def fail(self, call: Call, status: int, value: list[Any]) -> None:
        """Resolve a call without a reply."""
        if self.calls.pop(call.id, None) is None:
            return
        self._forget(call)
        self.out.append(("done", call, status, value))

    def fail_argument(self, call: Call, entry: Entry) -> None:
        """An argument is an error: so is the call."""
        if self.argument_error is not None:
            self.fail(call, *self.argument_error(call, entry))
        else:
            self.fail(call, entry.status, entry.value or [])

    def fail_named(self, call: Call, error: str, text: str) -> None:
        self.fail(call, SYSTEM, self.encode_error(error, text))

    def _forget(self, call: Call) -> None:
        if isinstance(call.key, bytes):
            self.actors.forget(call)
        else:
            self.tasks.forget(call)

    def replied(self, now: float, peer: bytes, call_id: bytes, micros: int) -> Call | None:
        """A reply of `peer` arrived; the call if this is its first resolution (CALL-1), else None."""
        call = self.calls.pop(call_id, None)
        if call is None:
            return None
        if call.peer != peer:  # whoever answers had been declared dead
            if call.peer is not None:
                self.calls[call_id] = call  # it runs elsewhere by now, and needs its arguments there
                return None
            self._forget(call)  # queued again
        elif type(call.key) is bytes:
            channel = self.actors.channels.get(call.key)
            if channel is not None:
                channel.inflight.pop(call_id, None)
        else:
            self.tasks.replied(now, call, micros)
        return call

    def retry(self, call: Call) -> bool:
        """Queue a call again if its budget allows; False: the caller must fail it."""
        if call.cancelled or call.retries_left == 0:
            return False
        if call.retries_left > 0:
            call.retries_left -= 1
        call.attempt += 1
        call.peer = None
        self.calls[call.id] = call
        if isinstance(call.key, bytes):
            self.actors.requeue(call)
        else:
            self.tasks.enqueue(call, front=True)
        return True

    def cancel(self, call: Call, force: bool, recursive: bool) -> None:
        """Cancel: queued here ends at once, sent ones are asked for at the callee."""
        if call.id not in self.calls or call.cancelled:
            return
        call.cancelled = True
        if call.peer is None:
            self.fail(call, CANCELLED, [])
        else:
            self.out.append(("peer", call.peer, (wire.CANCEL, call.id, force, recursive)))

    # -- time

    def next_deadline(self) -> float | None:
        """When `tick` wants to be called, in monotonic seconds."""
        tasks = self.tasks
        if not self.actors.verdicts:
            return (
                tasks.next_deadline() if tasks.idle or tasks.backlogged or tasks.lost or tasks.turns else None
            )
        first, second = tasks.next_deadline(), self.actors.next_deadline()
        if first is None or second is None:
            return first if second is None else second
        return min(first, second)

    def tick(self, now: float) -> None:
        self.tasks.tick(now)
        self.actors.tick(now)

    def on_peer_lost(self, now: float, peer: bytes) -> None:
        """CALL-3: the hub's word on the cause follows within the deadline, else a general one."""
        self.actors.on_peer_lost(now, peer)
        self.tasks.on_peer_lost(now, peer)

    def fail_all(self, error: str, text: str) -> None:
        """The end: nothing will answer any more."""
        for call in list(self.calls.values()):
            self.fail_named(call, error, text)

    def validate(self) -> None:
        """Assert the cross-links; for tests."""
        self.actors.validate()
        self.tasks.validate()

"""Waiting for objects: what ``get`` and ``wait`` do, and whoever else waits for an entry.

An entry that is resolved is read without a lock: its value is set before its status.  Where the node of its
blocks is gone, reading it fails and the entry is pending again, or its error is known (`lost_again`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from spoke.core.refs import PENDING, VALUE, Entry, Foreign
from spoke.errors import GetTimeoutError, ObjectLostError, RayDirectTransportError, RayError, RaySystemError
from spoke.lead import Waiter

if TYPE_CHECKING:
    from spoke.client import Client
    from spoke.objectref import ObjectRef

BLOCKED_AFTER_S: Final = 0.004  # a task that waits longer in get gives its CPU to others
VERDICT_S: Final = 1.5  # how long the hub may take to say that a node is gone to which the link ended
HUB_ANSWER_S: Final = 10.0  # it may be about to be restarted
UNREADABLE: Final = (ObjectLostError, RayDirectTransportError)  # what reading lost blocks raises


class Waiting:
    """The waits of one client."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.hook: Any = None  # of a worker: (bool) -> None, the running task waits in get
        self._verdicts: list[tuple[bytes, Waiter]] = []  # of threads that found a node silent

    def when_resolved(self, ref: ObjectRef[Any], waiter: Any) -> None:
        """Call ``waiter.resolved(entry)`` once the object is known, at once if it is."""
        entry = ref._entry
        client = self._client
        with client.lock:
            if entry.status == PENDING:
                self.enlist(entry, waiter)
                client._settle()
                return
        waiter.resolved(entry)

    def enlist(self, entry: Entry, waiter: Any) -> None:
        """Have ``waiter.resolved(entry)`` called when the pending `entry` is resolved; lock held."""
        if entry.waiters is None:
            entry.waiters = [waiter]
        else:
            entry.waiters.append(waiter)
        if entry.owner is not None:
            self._client.refs.fetch(entry)

    def get_one(self, ref: ObjectRef[Any], timeout: float | None) -> Any:
        """The value of one ref; as `get`."""
        entry = ref._entry
        client = self._client
        if entry.status == PENDING:
            waiter = Waiter(1)
            with client.lock:
                if entry.status == PENDING:
                    self.enlist(entry, waiter)
                    if client.refs.out or client._dropped:
                        client._settle()
                else:
                    waiter.done = True
            if timeout is None and self.hook is None:
                client.lead.wait(waiter)
            else:
                began = time.monotonic()
                if not self.block_on(waiter, timeout):
                    self._late([ref], waiter, timeout)
                if timeout is not None:
                    timeout = max(0.0, timeout - (time.monotonic() - began))
        if entry.status == VALUE:
            try:
                return client.values.read(entry)
            except UNREADABLE:
                pass
        elif entry.status != PENDING:
            raise client.replies.error_of(entry)
        return self._get_again(ref, timeout)

    def get(self, refs: list[ObjectRef[Any]], timeout: float | None) -> list[Any]:
        """Values of `refs` in order; waits at most `timeout` seconds in all.

        Raises:
            GetTimeoutError: not all are there in time.
            RayTaskError, RayActorError, ...: the first failed object's error.
        """
        began = 0.0
        for ref in refs:
            if ref._entry.status == PENDING:
                began = time.monotonic()
                self.wait_all(refs, timeout)
                break
        read = self._client.values.read
        values: list[Any] = []
        try:
            for ref in refs:
                entry = ref._entry
                if entry.status != VALUE:
                    break
                values.append(read(entry))
            else:
                return values
        except UNREADABLE:
            pass
        if began and timeout is not None:
            timeout = max(0.0, timeout - (time.monotonic() - began))
        return values + self._get_each(refs[len(values) :], timeout)

    # -- objects whose node is gone

    def _get_each(self, refs: list[ObjectRef[Any]], timeout: float | None) -> list[Any]:
        """As `get`, one after the other: the first has failed, or its node is gone."""
        deadline = None if timeout is None else time.monotonic() + timeout
        values = []
        for ref in refs:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            values.append(self.get_one(ref, left))
        return values

    def _get_again(self, ref: ObjectRef[Any], timeout: float | None) -> Any:
        """As `get_one`, after the value could not be read."""
        entry = ref._entry
        if entry.status == VALUE:
            parts = entry.value
            try:
                return self._client.values.read(entry)
            except UNREADABLE as error:
                self.lost_again(entry, parts, error)
        return self.get_one(ref, timeout)

    def lost_again(self, entry: Entry, parts: list[Any] | None, error: RayError) -> None:
        """Reading `entry`, which was `parts`, raised `error`: raise it, too, unless it has changed since.

        It has where its node is gone: it is pending then, as it is made again, or its error says why not.
        """
        if entry.status == VALUE and entry.value is parts:
            self.gone(parts or [])
            if entry.status == VALUE and entry.value is parts:
                raise error

    def gone(self, parts: list[Any]) -> None:
        """See which nodes of these blocks are gone for good, by the hub's word: the tables know it then."""
        for node_id in {part[0]: None for part in parts if type(part) is not bytes}:
            if node_id != self._client.node_id:
                self._look_at(node_id)

    def _look_at(self, node_id: bytes) -> None:
        client = self._client
        gone = client.refs.gone
        verdict = (node_id, Waiter(1))
        with client.lock:
            if node_id in gone:
                return
            self._verdicts.append(verdict)
        try:
            try:
                rows = client.request("nodes", HUB_ANSWER_S)
            except (GetTimeoutError, RaySystemError):
                return  # the hub stays away
            alive = [row["NodeID"] for row in rows if row["Alive"]]
            if node_id.hex() not in alive:
                with client.lock:  # it was gone before the hub knew of this process
                    client.lineage.node_lost(node_id)
                    client._settle()
            elif node_id not in client.links.by_peer:  # else it lives, and has said that nothing is there
                client.lead.wait(verdict[1], time.monotonic() + VERDICT_S)
        finally:
            with client.lock:
                self._verdicts.remove(verdict)

    def node_lost(self, node_id: bytes) -> None:
        """The hub has said that a node is gone; lock held."""
        for waits_for, waiter in self._verdicts:
            if waits_for == node_id:
                waiter.finish()

    def wait_all(self, refs: list[ObjectRef[Any]], timeout: float | None) -> None:
        """Wait until none is pending; GetTimeoutError after `timeout` seconds."""
        client = self._client
        waiter = Waiter(0)
        with client.lock:
            seen = set()
            for ref in refs:
                entry = ref._entry
                if entry.status == PENDING and entry.id not in seen:
                    seen.add(entry.id)
                    waiter.remaining += 1
                    self.enlist(entry, waiter)
            waiter.done = waiter.remaining == 0
            if client.refs.out or client._dropped:
                client._settle()
        if not self.block_on(waiter, timeout):
            self._late(refs, waiter, timeout)

    def _late(self, refs: list[ObjectRef[Any]], waiter: Waiter, timeout: float | None) -> None:
        self.forget(refs, waiter)
        late = sum(1 for ref in refs if ref._entry.status == PENDING)
        raise GetTimeoutError(f"Get timed out: {late} of {len(refs)} object(s) not ready within {timeout} s.")

    def block_on(self, waiter: Waiter, timeout: float | None) -> bool:
        """Wait; where this thread runs a task, its CPU goes to others meanwhile."""
        deadline = None if timeout is None else time.monotonic() + timeout
        hook, lead = self.hook, self._client.lead
        if hook is None:
            return lead.wait(waiter, deadline)
        soon = time.monotonic() + BLOCKED_AFTER_S
        if lead.wait(waiter, soon if deadline is None else min(soon, deadline)):
            return True
        if deadline is not None and deadline <= soon:
            return False
        blocked = hook(True)
        try:
            return lead.wait(waiter, deadline)
        finally:
            if blocked:
                hook(False)

    def forget(self, refs: list[ObjectRef[Any]], waiter: Waiter) -> None:
        """`waiter` waits for none of these any longer."""
        with self._client.lock:
            for ref in refs:
                waiters = ref._entry.waiters
                if waiters is not None and waiter in waiters:
                    waiters.remove(waiter)

    def wait(
        self, refs: list[ObjectRef[Any]], num_returns: int, timeout: float | None
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """The first `num_returns` resolved refs (in the order given) and the others.

        Raises:
            ValueError: all of them are of an earlier session.
        """
        if refs and all(type(ref._entry.call) is Foreign for ref in refs):
            why = f"these refs are of an earlier session, {refs[0]._entry.call.why}"
            raise ValueError(f"Ray object whose owner is unknown: {why}")
        for index in range(min(num_returns, len(refs))):
            if refs[index]._entry.status == PENDING:
                found = self._wait_some(refs, num_returns, timeout)
                while timeout is None and len(found[0]) < num_returns:  # one was lost just then
                    found = self._wait_some(refs, num_returns, timeout)
                return found
        return refs[:num_returns], refs[num_returns:]

    def _wait_some(
        self, refs: list[ObjectRef[Any]], num_returns: int, timeout: float | None
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        pending: list[ObjectRef[Any]] = []
        waiter = Waiter(num_returns)
        with self._client.lock:
            for ref in refs:
                if ref._entry.status == PENDING:
                    pending.append(ref)
                else:
                    waiter.remaining -= 1
                    if waiter.remaining == 0:
                        break
            if waiter.remaining > 0:
                for ref in pending:
                    self.enlist(ref._entry, waiter)
                self._client._settle()
        if waiter.remaining > 0:
            self.block_on(waiter, timeout)
            self.forget(pending, waiter)
        ready: list[ObjectRef[Any]] = []
        rest: list[ObjectRef[Any]] = []
        for ref in refs:
            here = len(ready) < num_returns and ref._entry.status != PENDING
            (ready if here else rest).append(ref)
        return ready, rest

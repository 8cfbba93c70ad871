"""Waiting for objects: what ``get`` and ``wait`` do, and whoever else waits for an entry.

An entry that is resolved is read without a lock: its status changes once, and its value is set before.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from spoke.core.refs import PENDING, VALUE, Entry
from spoke.errors import GetTimeoutError
from spoke.lead import Waiter

if TYPE_CHECKING:
    from spoke.client import Client
    from spoke.objectref import ObjectRef

BLOCKED_AFTER_S: Final = 0.004  # a task that waits longer in get gives its CPU to others


class Waiting:
    """The waits of one client."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.hook: Any = None  # of a worker: (bool) -> None, the running task waits in get

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
            elif not self.block_on(waiter, timeout):
                self._late([ref], waiter, timeout)
        if entry.status == VALUE:
            return client.values.read(entry)
        raise client.replies.error_of(entry)

    def get(self, refs: list[ObjectRef[Any]], timeout: float | None) -> list[Any]:
        """Values of `refs` in order; waits at most `timeout` seconds in all.

        Raises:
            GetTimeoutError: not all are there in time.
            RayTaskError, RayActorError, ...: the first failed object's error.
        """
        for ref in refs:
            if ref._entry.status == PENDING:
                self.wait_all(refs, timeout)
                break
        read = self._client.values.read
        values = []
        for ref in refs:
            entry = ref._entry
            if entry.status != VALUE:
                raise self._client.replies.error_of(entry)
            values.append(read(entry))
        return values

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
        """The first `num_returns` resolved refs (in the order given) and the others."""
        for index in range(min(num_returns, len(refs))):
            if refs[index]._entry.status == PENDING:
                return self._wait_some(refs, num_returns, timeout)
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

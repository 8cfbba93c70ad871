"""Streaming generators on the caller's side: items arrive as they are yielded."""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from spoke import wire
from spoke.core.refs import PENDING
from spoke.lead import Waiter
from spoke.objectref import ObjectRef

if TYPE_CHECKING:
    from spoke.client import Client


class Stream:
    """Items of one streaming call that the consumer has not taken yet."""

    __slots__ = ("call_id", "consumed", "ended", "items", "peer", "received", "waiters")

    def __init__(self, call_id: bytes) -> None:
        self.call_id = call_id
        self.items: deque[Any] = deque()  # ObjectRefs, in order
        self.received = 0  # items with an index up to here have arrived
        self.consumed = 0
        self.ended = False
        self.peer: bytes | None = None
        self.waiters: list[Any] = []

    def wake(self) -> None:
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            waiter.resolved(None)

    def resolved(self, entry: Any) -> None:
        """The call is over (this object waits on its hidden return)."""
        self.ended = True
        self.wake()


class ObjectRefGenerator:
    """Yields an ObjectRef per item of a remote generator, in order, as they arrive.

    ``next()`` waits for the next item; its ref is resolved already.  An error raised by the remote
    generator comes as a last ref whose value is that error; where the call was cancelled or its worker died,
    the last ref is that of the call itself.  Works with ``for`` and ``async for``.
    """

    def __init__(self, client: Client, stream: Stream, completed: ObjectRef[Any]) -> None:
        self._client = client
        self._stream = stream
        self._completed = completed
        entry = completed._entry
        entry.waiters = [stream]
        # Weakly: the registry of finalizers must not keep the client, and all that it reaches, alive.
        weakref.finalize(self, _abandon, weakref.ref(client), stream, completed)

    def __iter__(self) -> ObjectRefGenerator:
        return self

    def __next__(self) -> ObjectRef[Any]:
        return self._next_sync(None)

    @property
    def _generator_ref(self) -> ObjectRef[Any]:
        return self._completed

    def _next_sync(self, timeout_s: float | None = None) -> ObjectRef[Any]:
        """The next ref; after `timeout_s` seconds without an item the nil ref."""
        stream = self._stream
        while not stream.items:
            if stream.ended:
                raise StopIteration
            waiter = Waiter(1)
            with self._client.lock:
                if stream.items or stream.ended:
                    continue
                stream.waiters.append(waiter)
            if not self._client.block_on(waiter, timeout_s):
                self._leave(waiter)
                return ObjectRef.nil()
        return self._take()

    def _leave(self, waiter: Any) -> None:
        """Whoever waited has gone: who asks again and again leaves nothing behind."""
        with self._client.lock:
            if waiter in self._stream.waiters:
                self._stream.waiters.remove(waiter)

    def _take(self) -> ObjectRef[Any]:
        stream = self._stream
        ref: ObjectRef[Any] = stream.items.popleft()
        stream.consumed += 1
        if stream.peer is not None and not stream.ended:
            with self._client.lock:
                self._client.tell(stream.peer, wire.STREAM_CREDIT, stream.call_id, stream.consumed)
        return ref

    def __aiter__(self) -> ObjectRefGenerator:
        return self

    async def __anext__(self) -> ObjectRef[Any]:
        return await self._next_async(None)

    async def _next_async(self, timeout_s: float | None = None) -> ObjectRef[Any]:
        """As `_next_sync`; the end is a StopAsyncIteration."""
        import asyncio

        stream = self._stream
        while not stream.items:
            if stream.ended:
                raise StopAsyncIteration
            loop = asyncio.get_running_loop()
            future: asyncio.Future[None] = loop.create_future()
            with self._client.lock:
                if stream.items or stream.ended:
                    continue
                waiter = _LoopWaiter(loop, future)
                stream.waiters.append(waiter)
            done, _ = await asyncio.wait([future], timeout=timeout_s)
            if not done:
                self._leave(waiter)
                return ObjectRef.nil()
        return self._take()

    def completed(self) -> ObjectRef[Any]:
        """A ref that resolves to None when the generator has ended, to an error where its worker died."""
        return self._completed

    def next_ready(self) -> bool:
        """Whether ``next()`` would return a ref at once."""
        return bool(self._stream.items)

    def is_finished(self) -> bool:
        """Whether every item was taken."""
        return self._stream.ended and not self._stream.items

    def task_id(self) -> Any:
        """The id of the call."""
        return self._completed.task_id()

    def __reduce__(self) -> Any:
        raise TypeError("An ObjectRefGenerator cannot be serialized: pass the refs it yields instead.")


class _LoopWaiter:
    __slots__ = ("future", "loop")

    def __init__(self, loop: Any, future: Any) -> None:
        self.loop = loop
        self.future = future

    def resolved(self, entry: Any) -> None:
        try:
            self.loop.call_soon_threadsafe(lambda: self.future.done() or self.future.set_result(None))
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more


def _abandon(weak: weakref.ref[Client], stream: Stream, completed: ObjectRef[Any]) -> None:
    """The consumer is gone: the producer need not wait for it."""
    client = weak()
    if (
        client is not None
        and not stream.ended
        and client.closed is None
        and completed._entry.status == PENDING
    ):
        client.abandon(completed)


class DynamicObjectRefGenerator:
    """The refs returned by a task with ``num_returns="dynamic"``."""

    def __init__(self, refs: list[Any]) -> None:
        self._refs = refs

    def __iter__(self) -> Any:
        return iter(self._refs)

    def __len__(self) -> int:
        return len(self._refs)

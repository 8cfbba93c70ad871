"""A first-in first-out queue between processes, held by an async actor."""

from __future__ import annotations

import queue
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from spoke import absent, api
from spoke.actorclass import ActorClass

if TYPE_CHECKING:
    from spoke.handles import ActorHandle


class Empty(queue.Empty):
    """The queue is empty, and stayed so for the time given."""


class Full(queue.Full):
    """The queue is full, and stayed so for the time given."""


class Queue:
    """Like `queue.Queue`, for any number of processes; handles of it may be passed around.

    Args:
        maxsize: most items held; 0 is no bound.
        actor_options: options of the actor that holds the queue.
    """

    def __init__(self, maxsize: int = 0, actor_options: dict[str, Any] | None = None) -> None:
        options = {"num_cpus": 0, **(actor_options or {})}
        self.maxsize = maxsize
        self.actor: ActorHandle | None = ActorClass(_QueueActor, options).remote(maxsize)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.maxsize, self.actor)

    @property
    def _actor(self) -> ActorHandle:
        if self.actor is None:
            raise RuntimeError("the queue was shut down")
        return self.actor

    def __len__(self) -> int:
        return self.size()

    def size(self) -> int:
        """Items in the queue now."""
        return int(api.get(self._actor.qsize.remote()))

    qsize = size

    def empty(self) -> bool:
        """Is there no item now?"""
        return bool(api.get(self._actor.empty.remote()))

    def full(self) -> bool:
        """Is there no room now?"""
        return bool(api.get(self._actor.full.remote()))

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add an item; waits for room, at most `timeout` seconds.

        Raises:
            Full: no room in time, or at once with ``block=False``.
            ValueError: a negative timeout.
        """
        done = api.get(self._actor.put.remote(item, _wait_s(block, timeout)))
        if not done:
            raise Full

    async def put_async(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """`put` for asyncio code."""
        if not await self._actor.put.remote(item, _wait_s(block, timeout)):
            raise Full

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the oldest item; waits for one, at most `timeout` seconds.

        Raises:
            Empty: no item in time, or at once with ``block=False``.
            ValueError: a negative timeout.
        """
        found = api.get(self._actor.get.remote(_wait_s(block, timeout)))
        if not found:
            raise Empty
        return found[0]

    async def get_async(self, block: bool = True, timeout: float | None = None) -> Any:
        """`get` for asyncio code."""
        found = await self._actor.get.remote(_wait_s(block, timeout))
        if not found:
            raise Empty
        return found[0]

    def put_nowait(self, item: Any) -> None:
        """Add an item, or raise Full at once."""
        self.put(item, block=False)

    def get_nowait(self) -> Any:
        """Take an item, or raise Empty at once."""
        return self.get(block=False)

    def put_nowait_batch(self, items: Iterable[Any]) -> None:
        """Add all items, or none.

        Raises:
            Full: no room for all of them.
            TypeError: `items` is not iterable.
        """
        if not isinstance(items, Iterable):
            raise TypeError("Argument 'items' must be an Iterable")
        batch = list(items)
        room = api.get(self._actor.put_batch.remote(batch))
        if room is not None:
            raise Full(
                f"Cannot add {len(batch)} items to a queue of size {room} and maximum size {self.maxsize}."
            )

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        """Take exactly `num_items` items.

        Raises:
            Empty: there are fewer; none is taken.
            TypeError: not a number.
            ValueError: negative.
        """
        if not isinstance(num_items, int):
            raise TypeError("Argument 'num_items' must be an int")
        if num_items < 0:
            raise ValueError("'num_items' must be nonnegative")
        found, size = api.get(self._actor.get_batch.remote(num_items))
        if found is None:
            raise Empty(f"Cannot get {num_items} items from a queue of size {size}.")
        return list(found)

    def shutdown(self, force: bool = False, grace_period_s: int = 5) -> None:
        """End the queue; what it holds is lost.

        Args:
            force: at once; otherwise calls that wait may go on for `grace_period_s` seconds.
        """
        actor, self.actor = self.actor, None
        if actor is None:
            return
        if not force:
            ending = actor.__ray_terminate__.remote()
            api.wait([ending], num_returns=1, timeout=grace_period_s)
        api.kill(actor, no_restart=True)


def _rebuild(maxsize: int, actor: ActorHandle | None) -> Queue:
    made = Queue.__new__(Queue)
    made.maxsize = maxsize
    made.actor = actor
    return made


def _wait_s(block: bool, timeout: float | None) -> float | None:
    """Seconds to wait: 0 not at all, None for ever."""
    if not block:
        return 0.0
    if timeout is not None and timeout < 0:
        raise ValueError("'timeout' must be a non-negative number")
    return timeout


class _QueueActor:
    """Answers False or empty instead of raising: late callers are ordinary here."""

    def __init__(self, maxsize: int) -> None:
        import asyncio

        self._maxsize = maxsize
        self._queue: asyncio.Queue[Any] = asyncio.Queue(max(0, maxsize))

    async def qsize(self) -> int:
        return self._queue.qsize()

    async def empty(self) -> bool:
        return self._queue.empty()

    async def full(self) -> bool:
        return self._queue.full()

    async def put(self, item: Any, wait_s: float | None) -> bool:
        import asyncio

        if wait_s == 0:
            if self._queue.full():
                return False
            self._queue.put_nowait(item)
            return True
        try:
            await asyncio.wait_for(self._queue.put(item), wait_s)
        except asyncio.TimeoutError:
            return False
        return True

    async def get(self, wait_s: float | None) -> list[Any]:
        import asyncio

        if wait_s == 0:
            return [] if self._queue.empty() else [self._queue.get_nowait()]
        try:
            return [await asyncio.wait_for(self._queue.get(), wait_s)]
        except asyncio.TimeoutError:
            return []

    async def put_batch(self, items: list[Any]) -> int | None:
        """None when all were added, else the present size."""
        if self._maxsize > 0 and len(items) + self._queue.qsize() > self._maxsize:
            return self._queue.qsize()
        for item in items:
            self._queue.put_nowait(item)
        return None

    async def get_batch(self, count: int) -> tuple[list[Any] | None, int]:
        size = self._queue.qsize()
        if count > size:
            return None, size
        return [self._queue.get_nowait() for _ in range(count)], size


__getattr__ = absent.getter(__name__)

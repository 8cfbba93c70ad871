"""A pool of actors to map over, with results in order or as they come."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from spoke import absent, api

if TYPE_CHECKING:
    from spoke.handles import ActorHandle


class ActorPool:
    """Gives each value to an idle actor: ``pool.map(lambda actor, value: actor.f.remote(value), values)``.

    Not thread safe.
    """

    def __init__(self, actors: Iterable[ActorHandle]) -> None:
        self._idle: list[ActorHandle] = list(actors)
        self._busy: dict[Any, tuple[int, ActorHandle]] = {}  # ref -> index of its value, actor
        self._refs: dict[int, Any] = {}  # index of a value -> ref, until its result is taken
        self._submitted = 0
        self._next = 0  # index of the next result in order
        self._waiting: deque[tuple[Callable[[Any, Any], Any], Any]] = deque()

    def map(self, fn: Callable[[Any, Any], Any], values: Iterable[Any]) -> Iterator[Any]:
        """Results of ``fn(actor, value)`` in the order of the values."""
        self._drain()
        for value in values:
            self.submit(fn, value)
        return self._results(self.get_next)

    def map_unordered(self, fn: Callable[[Any, Any], Any], values: Iterable[Any]) -> Iterator[Any]:
        """Results of ``fn(actor, value)`` as they come."""
        self._drain()
        for value in values:
            self.submit(fn, value)
        return self._results(self.get_next_unordered)

    def _results(self, take: Callable[[], Any]) -> Iterator[Any]:
        while self.has_next():
            yield take()

    def _drain(self) -> None:
        """Wait for the results that were not taken, and drop them."""
        while self.has_next():
            self.get_next_unordered()

    def submit(self, fn: Callable[[Any, Any], Any], value: Any) -> None:
        """Run ``fn(actor, value)`` on an idle actor, now or when one becomes idle."""
        if not self._idle:
            self._waiting.append((fn, value))
            return
        actor = self._idle.pop()
        ref = fn(actor, value)
        self._busy[ref] = (self._submitted, actor)
        self._refs[self._submitted] = ref
        self._submitted += 1

    def has_next(self) -> bool:
        """Is there a result to take, now or later?"""
        return bool(self._refs)

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The next result in order.

        Args:
            timeout: seconds to wait at most; None waits for ever.
            ignore_if_timedout: drop a result that is late; the error is raised all the same.

        Raises:
            StopIteration: there is no further result.
            TimeoutError: not there in time.
            ValueError: results were taken out of order before.
        """
        if not self.has_next():
            raise StopIteration("No more results to get")
        if self._next not in self._refs:
            raise ValueError("It is not allowed to call get_next() after get_next_unordered().")
        ref = self._refs[self._next]
        late = timeout is not None and not api.wait([ref], timeout=timeout)[0]
        if late and not ignore_if_timedout:
            raise TimeoutError("Timed out waiting for result")
        del self._refs[self._next]
        self._next += 1
        self._release(ref)
        if late:
            raise TimeoutError("Timed out waiting for result, which is dropped")
        return api.get(ref)

    def get_next_unordered(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """Any result that is there, in no order; arguments and errors as `get_next`."""
        if not self.has_next():
            raise StopIteration("No more results to get")
        ready, _ = api.wait(list(self._busy), num_returns=1, timeout=timeout)
        if not ready:
            raise TimeoutError("Timed out waiting for result")
        ref = ready[0]
        index = self._busy[ref][0]
        del self._refs[index]
        self._next = max(self._next, index + 1)
        self._release(ref)
        return api.get(ref)

    def _release(self, ref: Any) -> None:
        _, actor = self._busy.pop(ref)
        self._return(actor)

    def _return(self, actor: ActorHandle) -> None:
        self._idle.append(actor)
        if self._waiting:
            self.submit(*self._waiting.popleft())

    def has_free(self) -> bool:
        """Is an actor idle, with no value waiting?"""
        return bool(self._idle) and not self._waiting

    def pop_idle(self) -> ActorHandle | None:
        """Take an idle actor out of the pool; None if there is none."""
        return self._idle.pop() if self.has_free() else None

    def push(self, actor: ActorHandle) -> None:
        """Add an actor to the pool.

        Raises:
            ValueError: it is in the pool already.
        """
        if actor in self._idle or any(actor == busy for _, busy in self._busy.values()):
            raise ValueError("Actor already belongs to current ActorPool")
        self._return(actor)


__getattr__ = absent.getter(__name__)

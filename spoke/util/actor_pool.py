"""A pool of actors to map over, with results in order or as they come."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from spoke import absent, api
from spoke.errors import ActorDiedError

if TYPE_CHECKING:
    from spoke.handles import ActorHandle


class ActorPool:
    """Gives each value to an idle actor: ``pool.map(lambda actor, value: actor.f.remote(value), values)``.

    An actor that died gets no further value.  Not thread safe.
    """

    def __init__(self, actors: Iterable[ActorHandle]) -> None:
        self._idle: list[ActorHandle] = list(actors)
        # ref, or a tuple of those of a method with several results -> index of its value, actor
        self._busy: dict[Any, tuple[int, ActorHandle]] = {}
        self._refs: dict[int, Any] = {}  # index of a value -> the same key, until its result is taken
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
        """Drop the results that were not taken, without waiting for them."""
        for index, ref in list(self._refs.items()):
            del self._refs[index]
            ready, _ = api.wait(_flat(ref), timeout=0)
            if ready:
                self._taken(ref)
            else:
                self._return(self._busy.pop(ref)[1])
        self._next = self._submitted

    def submit(self, fn: Callable[[Any, Any], Any], value: Any) -> None:
        """Run ``fn(actor, value)`` on an idle actor, now or when one becomes idle."""
        if not self._idle:
            self._waiting.append((fn, value))
            return
        actor = self._idle.pop()
        ref = fn(actor, value)
        ref = tuple(ref) if isinstance(ref, list) else ref
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
        refs = _flat(ref)
        late = timeout is not None and bool(api.wait(refs, num_returns=len(refs), timeout=timeout)[1])
        if late and not ignore_if_timedout:
            raise TimeoutError("Timed out waiting for result")
        del self._refs[self._next]
        self._next += 1
        if late:
            self._return(self._busy.pop(ref)[1])
            raise TimeoutError("Timed out waiting for result, which is dropped")
        return self._taken(ref)

    def get_next_unordered(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """Any result that is there, in no order; arguments and errors as `get_next`."""
        if not self.has_next():
            raise StopIteration("No more results to get")
        firsts = {_flat(ref)[0]: ref for ref in self._busy}
        ready, _ = api.wait(list(firsts), num_returns=1, timeout=timeout)
        if not ready:
            raise TimeoutError("Timed out waiting for result")
        ref = firsts[ready[0]]
        index = self._busy[ref][0]
        del self._refs[index]
        self._next = max(self._next, index + 1)
        return self._taken(ref)

    def _taken(self, ref: Any) -> Any:
        """The result; its actor takes the next value, unless it is dead."""
        actor: ActorHandle | None = self._busy.pop(ref)[1]
        try:
            return api.get(list(ref) if isinstance(ref, tuple) else ref)
        except ActorDiedError:
            actor = None
            raise
        finally:
            self._return(actor)

    def _return(self, actor: ActorHandle | None) -> None:
        if actor is not None:
            self._idle.append(actor)
        if self._waiting and self._idle:
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


def _flat(ref: Any) -> list[Any]:
    return list(ref) if isinstance(ref, tuple) else [ref]


__getattr__ = absent.getter(__name__)

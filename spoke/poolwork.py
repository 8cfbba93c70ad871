"""What a `WorkerPool` hands to its workers: single calls and runs of map items, and who executes them.

A piece of work knows how to start on a worker, and what to do with its answer or its failure.  None of
it takes the pool's lock: the pool calls it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from typing import Any, Final

from spoke import codec, errorpack

RUN_S: Final = 0.01  # a run of items is doubled while it takes less than half of it, halved above twice
RUN_MAX: Final = 4096  # items


class PoolFuture(Future[Any]):
    """A `concurrent.futures.Future` that can be awaited as well."""

    def __await__(self) -> Generator[Any, None, Any]:
        import asyncio

        return asyncio.wrap_future(self).__await__()


class Runner:
    """The actor behind each worker: keeps the functions it was sent, by number."""

    def __init__(self) -> None:
        self._functions: dict[int, Any] = {}

    def ready(self) -> None:
        """Answers when the worker has started."""

    def _function(self, number: int, blob: bytes | None) -> Any:
        if blob is not None:
            self._functions[number] = codec.loads(blob)
        return self._functions[number]

    def call(self, number: int, blob: bytes | None, /, *args: Any, **kwargs: Any) -> Any:
        """One submitted call."""
        return self._function(number, blob)(*args, **kwargs)

    def run(self, number: int, blob: bytes | None, items: list[Any], spread: bool) -> Any:
        """Items of a map up to the first that raises: results, pickled error or None, seconds taken."""
        function = self._function(number, blob)
        results: list[Any] = []
        append = results.append
        error = None
        started = time.perf_counter()
        try:
            if spread:
                for item in items:
                    append(function(*item))
            else:
                for item in items:
                    append(function(item))
        except Exception as raised:
            error = errorpack.pack(getattr(function, "__name__", "task"), raised)
        return results, error, time.perf_counter() - started


class Function:
    """The user's function, pickled once."""

    __slots__ = ("blob", "number")

    def __init__(self, number: int, function: Callable[..., Any]) -> None:
        self.number = number
        try:
            self.blob = codec.dumps_function(function)
        except TypeError:
            raise
        except Exception as error:
            raise TypeError(f"{function!r} cannot be sent to a worker: {error}") from error


class Call:
    """One submitted call."""

    __slots__ = ("_claimed", "args", "function", "future", "kwargs", "tries")

    def __init__(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self.future = PoolFuture()
        self.tries = 0
        self._claimed = False

    size = 1

    def claim(self) -> bool:
        """Whether it is to be run: False when it was cancelled before."""
        self._claimed = self._claimed or self.future.set_running_or_notify_cancel()
        return self._claimed

    def start(self, handle: Any, blob: bytes | None) -> Any:
        return handle.call.remote(self.function.number, blob, *self.args, **self.kwargs)

    def finish(self, value: Any) -> None:
        self.future.set_result(value)

    def fail(self, error: BaseException) -> None:
        self.future.set_exception(error)

    def drop(self) -> None:
        """It will not be run."""
        if self._claimed or not self.future.cancel():
            self.fail(RuntimeError("WorkerPool has been shutdown"))


class Map:
    """The items of one `map`, cut into runs as workers become idle."""

    __slots__ = ("_changed", "_given", "_items", "_results", "_run", "_spread", "fixed", "function")

    def __init__(self, function: Function, items: list[Any], spread: bool, chunksize: int | None) -> None:
        self.function = function
        self.fixed = chunksize
        self._items = items
        self._spread = spread
        self._given = 0
        self._run = chunksize or 1
        self._results: dict[int, tuple[list[Any], BaseException | None]] = {}
        self._changed = threading.Condition()

    @property
    def size(self) -> int:
        """Items that no worker was given yet."""
        return len(self._items) - self._given

    def next_run(self, workers: int) -> Run | None:
        """What the next idle worker gets; at most an equal share of what is left."""
        left = self.size
        if not left:
            return None
        count = min(self._run, left) if self.fixed else min(self._run, -(-left // max(1, workers)))
        start, self._given = self._given, self._given + count
        return Run(self, start, self._items[start : start + count])

    def learned(self, count: int, seconds: float) -> None:
        """A run of `count` items took `seconds`."""
        if self.fixed or count < self._run:
            return
        if seconds < RUN_S / 2:
            self._run = min(RUN_MAX, self._run * 2)
        elif seconds > RUN_S * 2:
            self._run = max(1, self._run // 2)

    def store(self, start: int, values: list[Any], error: BaseException | None) -> None:
        """The results of a run, up to the item that raised."""
        with self._changed:
            self._results[start] = (values, error)
            self._changed.notify_all()

    def cancel(self, error: BaseException) -> None:
        """Items that were not given out fail with `error`."""
        start, self._given = self._given, len(self._items)
        if start < len(self._items):
            self.store(start, [], error)

    def results(self, deadline: float | None, stop: Callable[[], None]) -> Iterator[Any]:
        """Results in the order of the items; `stop` is called when they are not wanted any more."""
        index, count = 0, len(self._items)
        try:
            while index < count:
                values, error = self._take(index, deadline)
                yield from values
                if error is not None:
                    raise error
                index += len(values)
        finally:
            stop()

    def _take(self, index: int, deadline: float | None) -> tuple[list[Any], BaseException | None]:
        with self._changed:
            while index not in self._results:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"item {index} of the map was not done in time")
                self._changed.wait(left)
            return self._results.pop(index)


class Run:
    """Consecutive items of a map."""

    __slots__ = ("_items", "_map", "_start", "tries")

    def __init__(self, owner: Map, start: int, items: list[Any]) -> None:
        self._map = owner
        self._start = start
        self._items = items
        self.tries = 0

    @property
    def function(self) -> Function:
        return self._map.function

    @property
    def size(self) -> int:
        return len(self._items)

    def claim(self) -> bool:
        return True

    def start(self, handle: Any, blob: bytes | None) -> Any:
        return handle.run.remote(self.function.number, blob, self._items, self._map._spread)

    def finish(self, value: Any) -> None:
        values, error, seconds = value
        self._map.learned(len(self._items), seconds)
        self._map.store(self._start, values, errorpack.unpack(error) if error else None)

    def fail(self, error: BaseException) -> None:
        self._map.store(self._start, [], error)

    def drop(self) -> None:
        self.fail(RuntimeError("WorkerPool has been shutdown"))

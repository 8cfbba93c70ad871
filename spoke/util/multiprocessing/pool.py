"""A pool of processes with the interface of `multiprocessing.Pool`.

Each process is an actor.  Items are dealt out in chunks; all chunks of a process travel in one call, and
with them the function, as bytes that an actor unpickles when it meets them first.  Where `multiprocessing`
and Ray's pool differ (an iterator's timeout, the error of a dead process), this follows Ray's.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import TimeoutError
from types import FunctionType
from typing import Any, Final, NamedTuple

from spoke import absent, api, lifecycle
from spoke.errors import GetTimeoutError, RayError
from spoke.util.multiprocessing.working import APPLY, CALL, MAP, STAR, Failure, PoolActor, Work

CHUNKS_PER_PROCESS: Final = 4
AHEAD: Final = 2  # chunks of an iterator that a process has at a time
SLICED: Final = frozenset({list, tuple, range})  # whose slices are chunks; a range's travels as a range
APART: Final = frozenset({"max_concurrency", "max_task_retries"})  # with these, a chunk is a call of its own

Callback = Callable[[Any], Any] | None


class PoolTaskError(Exception):
    """What an error callback gets, and an iterator gives; `underlying` is what the user's function raised."""

    def __init__(self, underlying: BaseException) -> None:
        super().__init__(underlying)
        self.underlying = underlying


class Share(NamedTuple):
    """The chunks that went to a process in one call, and the answer's ref."""

    ref: Any
    starts: range  # the position of each chunk's first item
    size: int  # of a chunk

    def place(self, found: list[Any], results: list[Any]) -> None:
        """Put the answer where its items stood."""
        for index, start in enumerate(self.starts):
            results[start : start + self.size] = found[index * self.size : (index + 1) * self.size]


class AsyncResult:
    """The result of an ``*_async`` call, ready or not.

    Args:
        shares: whose results make the result.
        count: of all items.
        callback, error_callback: called once, in another thread, with the result, or with the
            `PoolTaskError` of the first error.
        single: the result is that of the only item.
    """

    def __init__(
        self,
        shares: list[Share],
        count: int,
        callback: Callback = None,
        error_callback: Callback = None,
        single: bool = False,
    ) -> None:
        self._shares = shares
        self._count = count
        self._refs = [share.ref for share in shares]
        self._single = single
        self._value: Any = None
        self._error: BaseException | None = None
        self._done = False
        self._lock = threading.Lock()
        if callback is not None or error_callback is not None:
            self._call_back(callback, error_callback)

    def _call_back(self, callback: Callback, error_callback: Callback) -> None:
        missing = len(self._refs)
        lock = threading.Lock()

        def one_more(_: Any) -> None:
            nonlocal missing
            with lock:
                missing -= 1
                if missing > 0:
                    return
            self._collect(None)
            chosen = error_callback if self._error is not None else callback
            if chosen is not None:
                chosen(self._value if self._error is None else self._reported())

        if not self._refs:
            one_more(None)
        for ref in self._refs:
            ref.future().add_done_callback(one_more)

    def _reported(self) -> BaseException | None:
        """The error as a callback gets it."""
        if self._error is None or isinstance(self._error, RayError):
            return self._error
        return PoolTaskError(self._error)

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the result is there, or `timeout` seconds have passed."""
        try:
            self._collect(timeout)
        except GetTimeoutError:
            pass

    def get(self, timeout: float | None = None) -> Any:
        """The result.

        Raises:
            multiprocessing.TimeoutError: not there within `timeout` seconds.
            whatever the function raised; RayActorError where its process died.
        """
        try:
            self._collect(timeout)
        except GetTimeoutError:
            raise TimeoutError from None
        if self._error is not None:
            raise self._error
        return self._value

    def ready(self) -> bool:
        """Whether the result is there."""
        if self._done:
            return True
        if not self._refs:
            return True
        return len(api.wait(self._refs, num_returns=len(self._refs), timeout=0)[0]) == len(self._refs)

    def successful(self) -> bool:
        """Whether the function returned and did not raise.

        Raises:
            ValueError: the result is not there yet.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        self._collect(None)
        return self._error is None

    def _collect(self, timeout: float | None) -> None:
        with self._lock:
            if self._done:
                return
            try:
                answers = api.get(self._refs, timeout=timeout)
            except GetTimeoutError:
                raise
            except RayError as error:
                self._error = error
            else:
                results: list[Any] = [None] * self._count
                for share, (_, found) in zip(self._shares, answers, strict=True):
                    share.place(found, results)
                if any(failed for failed, _ in answers):
                    self._error = next(item.error() for item in results if type(item) is Failure)
                self._value = results[0] if self._single else results
            self._done = True
            self._refs = []
            self._shares = []


class IMapIterator:
    """Results of `imap`, chunk by chunk; a bounded number of chunks is under way at a time."""

    def __init__(self, pool: Pool, func: Any, iterable: Iterable[Any], chunksize: int | None = None) -> None:
        self._pool = pool
        self._work = pool._work(func, MAP)
        self._chunks = _chunks(iterable, pool._chunksize(iterable, chunksize))
        self._running: deque[Any] = deque()
        self._ready: deque[Any] = deque()
        for _ in range(AHEAD * pool.processes):
            self._submit()

    def _submit(self) -> None:
        chunk = next(self._chunks, None)
        if chunk is not None:
            self._running.append(self._pool._submit(self._work, [chunk]))

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """The next result; a `PoolTaskError` where the function raised, as in Ray (not in `multiprocessing`).

        Raises:
            StopIteration: there is none.
            multiprocessing.TimeoutError: none within `timeout` seconds; it may be asked for again.
            RayActorError: the process died.
        """
        while not self._ready:
            if not self._running:
                raise StopIteration
            self._ready.extend(self._take(timeout))
            self._submit()
        item = self._ready.popleft()
        if type(item) is Failure:
            return PoolTaskError(item.error())
        if isinstance(item, RayError):
            raise item
        return item

    def _take(self, timeout: float | None) -> list[Any]:
        """The results of the next chunk."""
        return self._results(self._running[0], timeout)

    def _results(self, ref: Any, timeout: float | None) -> list[Any]:
        try:
            found: list[Any] = api.get(ref, timeout=timeout)[1]
        except GetTimeoutError:
            raise TimeoutError from None
        except RayError as error:
            found = [error]
        self._running.remove(ref)
        return found


class OrderedIMapIterator(IMapIterator):
    """Results in the order of the items."""


class UnorderedIMapIterator(IMapIterator):
    """Results as they come."""

    def _take(self, timeout: float | None) -> list[Any]:
        ready, _ = api.wait(list(self._running), num_returns=1, timeout=timeout)
        if not ready:
            raise TimeoutError
        return self._results(ready[0], timeout)


class Pool:
    """As `multiprocessing.Pool`, over processes of the cluster.

    Args:
        processes: how many, at least 1; default: one per CPU of the cluster.
        initializer, initargs: called once in each process, before this returns.
        maxtasksperchild: a process is replaced after so many chunks.
        context: ignored, there for compatibility.
        ray_address: the cluster to join if this program has joined none yet.
        ray_remote_args: options of the actors, as for ``options()``.

    Raises:
        ValueError: fewer than one process, or more than the cluster has CPUs.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] | None = None,
        maxtasksperchild: int | None = None,
        context: Any = None,
        ray_address: str | None = None,
        ray_remote_args: dict[str, Any] | None = None,
    ) -> None:
        if context is not None:
            import warnings

            warnings.warn("The `context` argument is not supported. Set it to None.", stacklevel=2)
        self._closed = False
        self._initializer = initializer, tuple(initargs or ())
        self._tasks_max = maxtasksperchild or 0
        self._options = ray_remote_args or {}
        self._apart = maxtasksperchild is not None or not APART.isdisjoint(self._options)
        self.processes = self._join_cluster(processes, ray_address)
        self._stopping: list[Any] = []
        self._actors = [self._new_actor() for _ in range(self.processes)]
        if initializer is not None:
            api.get([actor.ping.remote() for actor in self._actors])
        self._done = [0] * self.processes
        self._turn = 0
        self._lock = threading.Lock()

    @staticmethod
    def _join_cluster(processes: int | None, address: str | None) -> int:
        if processes is not None and processes <= 0:
            raise ValueError("Processes in the pool must be >0.")
        if not api.is_initialized():
            api.init(address=address, num_cpus=processes if lifecycle.joins(address) is None else None)
        cpus = int(api.cluster_resources().get("CPU", 0))
        if processes is None:
            return max(1, cpus)
        if processes > cpus:
            raise ValueError(
                f"Tried to start a pool with {processes} processes on an existing cluster, "
                f"but there are only {cpus} CPUs in it: give processes={cpus} or fewer."
            )
        return processes

    def _new_actor(self) -> Any:
        return PoolActor.options(**self._options).remote(*self._initializer)  # type: ignore[attr-defined]

    # -- sending work

    def _work(self, func: Any, how: int) -> Work:
        self._check_running()
        return Work.of(func, how, type(func) is FunctionType)

    def _submit(self, work: Work, chunks: list[Sequence[Any]]) -> Any:
        """Chunks to the next process in turn; returns the answer's ref."""
        with self._lock:
            index = self._turn % self.processes
            self._turn += 1
            if self._tasks_max and self._done[index] >= self._tasks_max:
                self._retire(index)
            self._done[index] += 1
            actor = self._actors[index]
        return actor.run.remote(work.how, work.blob, work.keep, chunks)

    def _retire(self, index: int) -> None:
        self._stopping.append(self._actors[index].__ray_terminate__.remote())
        self._actors[index] = self._new_actor()
        self._done[index] = 0

    def _chunksize(self, iterable: Any, chunksize: int | None) -> int:
        if chunksize is None:
            count = len(iterable) if hasattr(iterable, "__len__") else 1
            chunksize = -(-count // (self.processes * CHUNKS_PER_PROCESS))
        elif chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize}")
        return max(1, chunksize)

    def _send(
        self,
        func: Any,
        iterable: Iterable[Any],
        chunksize: int | None,
        how: int,
        callback: Callback = None,
        error_callback: Callback = None,
    ) -> AsyncResult:
        work = self._work(func, how)
        items: Any = iterable if type(iterable) in SLICED else list(iterable)
        count = len(items)
        size = self._chunksize(items, chunksize)
        dealt = -(-count // size) if self._apart else self.processes
        shares = []
        for first in range(0, min(dealt * size, count), size):
            starts = range(first, count, dealt * size)
            ref = self._submit(work, [items[start : start + size] for start in starts])
            shares.append(Share(ref, starts, size))
        return AsyncResult(shares, count, callback, error_callback)

    # -- one call

    def apply(self, func: Callable[..., Any], args: Any = None, kwargs: dict[str, Any] | None = None) -> Any:
        """``func(*args, **kwargs)`` in a process of the pool; waits for it."""
        return self.apply_async(func, args, kwargs).get()

    def apply_async(
        self, func: Callable[..., Any], args: Any = None, kwargs: dict[str, Any] | None = None,
        callback: Callback = None, error_callback: Callback = None,
    ) -> AsyncResult:  # fmt: skip
        """As `apply`, at once with an `AsyncResult`."""
        args, kwargs = tuple(args or ()), kwargs or {}
        if type(func) is FunctionType:
            ref = self._submit(self._work(func, APPLY), [[(args, kwargs)]])
        else:  # an object that is callable: pickled like any argument, and new for each call
            self._check_running()
            ref = self._submit(Work(CALL, b"", False), [[(func, args, kwargs)]])
        return AsyncResult([Share(ref, range(1), 1)], 1, callback, error_callback, single=True)

    # -- many calls

    def map(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None) -> Any:
        """Results of ``func(item)`` for each item, in order.

        Args:
            chunksize: items per call, at least 1; default: a quarter of a process's share.
        """
        return self._send(func, iterable, chunksize, MAP).get()

    def map_async(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None,
        callback: Callback = None, error_callback: Callback = None,
    ) -> AsyncResult:  # fmt: skip
        """As `map`, at once with an `AsyncResult`."""
        return self._send(func, iterable, chunksize, MAP, callback, error_callback)

    def starmap(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = None) -> Any:
        """As `map`, of ``func(*item)``."""
        return self._send(func, iterable, chunksize, STAR).get()

    def starmap_async(
        self, func: Callable[..., Any], iterable: Iterable[Any],
        callback: Callback = None, error_callback: Callback = None,
    ) -> AsyncResult:  # fmt: skip
        """As `starmap`, at once with an `AsyncResult`."""
        return self._send(func, iterable, None, STAR, callback, error_callback)

    def imap(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = 1
    ) -> OrderedIMapIterator:
        """An iterator of the results in order; items are taken as results are."""
        return OrderedIMapIterator(self, func, iterable, chunksize)

    def imap_unordered(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = 1
    ) -> UnorderedIMapIterator:
        """An iterator of the results as they come."""
        return UnorderedIMapIterator(self, func, iterable, chunksize)

    # -- the end

    def _check_running(self) -> None:
        if self._closed:
            raise ValueError("Pool not running")

    def __enter__(self) -> Pool:
        self._check_running()
        return self

    def __exit__(self, *failure: Any) -> None:
        self.terminate()

    def close(self) -> None:
        """No more work is taken; the processes end when what they have is done."""
        if not self._closed:
            self._closed = True
            self._stopping.extend(actor.__ray_terminate__.remote() for actor in self._actors)

    def terminate(self) -> None:
        """End the processes now, whatever they do."""
        self._closed = True
        for actor in self._actors:
            api.kill(actor)

    def join(self) -> None:
        """Wait until the processes have ended.

        Raises:
            ValueError: neither `close` nor `terminate` was called before.
        """
        if not self._closed:
            raise ValueError("Pool is still running")
        for actor in self._actors:
            self._stopping.append(actor.ping.remote())  # never answered: it ends with the actor
        api.wait(self._stopping, num_returns=len(self._stopping))
        self._stopping = []


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    source = iter(items)
    while chunk := list(itertools.islice(source, size)):
        yield chunk


__getattr__ = absent.getter(__name__)

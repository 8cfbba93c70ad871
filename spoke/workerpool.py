"""A pool of processes on the cluster that runs plain functions: a `concurrent.futures.Executor`.

Rules of this module:

- A worker is an actor; it holds one piece of work at a time, and only idle workers are given any
  (`spoke.poolwork` says what a piece is).
- What the user's function raises ends its future and nothing else.  The death of a worker is retried
  within `max_retries` and then ends the future with `WorkerCrashedError`; the worker is replaced.
- When workers cannot be started any more, everything that waits fails with the reason: nothing hangs.
- One thread per pool (`spoke-pool`) takes results and hands out work; futures are finished without the
  pool's lock.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from typing import Any, Final, NamedTuple

from spoke.errors import RayActorError, RayError, WorkerCrashedError
from spoke.handles import engine
from spoke.poolwork import Call, Function, Map, PoolFuture, Run, Runner
from spoke.quantities import actor_options

START_FAILURES_MAX: Final = 3  # starts in a row that failed: the pool is broken
WAIT_S: Final = 60.0  # default of wait_for_workers
FUNCTIONS_KEPT: Final = 256  # pickled functions that the pool remembers

PENDING, IDLE, BUSY, FAILED = "PENDING", "IDLE", "BUSY", "FAILED"


class PoolStatus(NamedTuple):
    """Figures of a pool: workers by state, calls and map items by state."""

    idle: int
    busy: int
    pending: int
    failed: int
    queued: int
    completed: int


class _Worker:
    """One actor of the pool."""

    __slots__ = ("handle", "known", "number", "state", "work")

    def __init__(self, number: int, handle: Any) -> None:
        self.number = number
        self.handle = handle
        self.state = PENDING
        self.known: set[int] = set()  # numbers of the functions it has
        self.work: Call | Run | None = None


class WorkerPool(Executor):
    """Run functions on `num_workers` processes of the cluster.

    Args:
        num_workers: how many; see `resize`.
        resources: of each worker, such as ``{"CPU": 1, "memory": "2GB"}``.  [default: one CPU]
        max_retries: how often a call is run again after the death of its worker.  [default: 0]
        runtime_env: of the workers.
        name_prefix: names of the workers are prefix-pool-number.

    Raises:
        ValueError, TypeError: a wrong argument.
    """

    def __init__(
        self,
        num_workers: int,
        *,
        resources: dict[str, Any] | None = None,
        max_retries: int = 0,
        runtime_env: dict[str, Any] | None = None,
        name_prefix: str = "worker",
    ) -> None:
        _check_count("num_workers", num_workers, 1)
        _check_count("max_retries", max_retries, 0)
        options = actor_options({"CPU": 1} if resources is None else resources)
        if runtime_env:
            options["runtime_env"] = runtime_env
        from spoke.api import remote

        self._client: Any = engine()  # until the pool has shut down
        self._actor_class: Any = remote(**options)(Runner)
        self.pool_id = os.urandom(4).hex()
        self._prefix = name_prefix
        self._max_retries = max_retries
        self._lock = threading.Lock()
        self._workers: dict[int, _Worker] = {}
        self._idle: deque[_Worker] = deque()
        self._waiting: deque[Call | Run | Map] = deque()
        self._functions: dict[Any, Function] = {}
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._changed = threading.Condition(self._lock)
        self._started = 0
        self._failures = 0  # starts that failed, in a row
        self._failed = 0
        self._completed = 0
        self._wanted = num_workers
        self._closing = False
        self._broken: BaseException | None = None
        with self._lock:
            self._fill()
        self._thread = threading.Thread(target=self._serve, name="spoke-pool", daemon=True)
        self._thread.start()

    # -- work

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> PoolFuture:
        """Run ``fn(*args, **kwargs)`` on an idle worker, now or later; top-level refs arrive as values.

        Raises:
            RuntimeError: the pool was shut down, or has no workers.
            TypeError: `fn` cannot be pickled.
            WorkerCrashedError: no worker can be started any more.
        """
        with self._lock:
            self._check_open()
            call = Call(self._function(fn), args, kwargs)
            self._waiting.append(call)
            doomed = self._dispatch()
        _fail(doomed)
        return call.future

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,  # None: found while running
        **unknown: Any,
    ) -> Iterator[Any]:
        """Results of `fn` for the items of `iterables`, in order; the first error is raised in its place.

        Args:
            timeout: seconds from now until the last result; None: no limit.
            chunksize: items that a worker is given at a time; by default as many as take about 10 ms.

        Raises:
            TimeoutError, from the iterator: a result is late.
            RuntimeError, TypeError, WorkerCrashedError: as `submit`.
        """
        if unknown:
            raise TypeError(f"map() got an unexpected keyword argument {next(iter(unknown))!r}")
        if chunksize is not None:
            _check_count("chunksize", chunksize, 1)
        deadline = None if timeout is None else time.monotonic() + timeout
        items = list(iterables[0]) if len(iterables) == 1 else list(zip(*iterables, strict=False))
        with self._lock:
            self._check_open()
            work = Map(self._function(fn), items, len(iterables) != 1, chunksize)
            if items:
                self._waiting.append(work)
            doomed = self._dispatch()
        _fail(doomed)
        return work.results(deadline, lambda: self._abandon(work))

    def _abandon(self, work: Map) -> None:
        with self._lock:
            work.cancel(RuntimeError("the map was abandoned"))

    def _check_open(self) -> None:
        if self._closing:
            raise RuntimeError("WorkerPool has been shutdown")
        if self._broken is not None:
            raise WorkerCrashedError(f"the pool has no workers any more: {self._broken}")
        if not self._wanted:
            raise RuntimeError("No workers available")

    def _function(self, fn: Callable[..., Any]) -> Function:
        if not callable(fn):
            raise TypeError(f"submit() and map() take a function, not {fn!r}")
        try:
            known = self._functions.get(fn)
        except TypeError:  # not hashable
            return Function(self._number(), fn)
        if known is None:
            if len(self._functions) >= FUNCTIONS_KEPT:
                del self._functions[next(iter(self._functions))]
            known = self._functions[fn] = Function(self._number(), fn)
        return known

    def _number(self) -> int:
        return int(next(self._client.call_counter))

    # -- handing out

    def _dispatch(self) -> list[Any]:
        """Give idle workers what waits; lock held.  Returns what cannot be run: (work, error)."""
        while self._idle and self._waiting:
            work = self._take()
            if work is None:
                break
            worker = self._idle.popleft()
            if self._is_dead(worker):
                self._waiting.appendleft(work)
                self._lose(worker)
                continue
            known = work.function.number in worker.known
            try:
                ref = work.start(worker.handle, None if known else work.function.blob)
            except Exception as error:  # arguments that do not pickle, a cluster that is gone
                self._idle.appendleft(worker)
                return [(work, error), *self._dispatch()]
            worker.known.add(work.function.number)
            worker.state, worker.work = BUSY, work
            self._await(worker, ref)
        return []

    def _take(self) -> Call | Run | None:
        while self._waiting:
            work = self._waiting.popleft()
            if isinstance(work, Map):
                run = work.next_run(len(self._workers))
                if work.size:
                    self._waiting.append(work)
                if run is not None:
                    return run
            elif work.claim():
                return work
        return None

    def _is_dead(self, worker: _Worker) -> bool:
        return bool(self._client.actor_state(worker.handle._core.actor_id) == "DEAD")

    def _await(self, worker: _Worker, ref: Any) -> None:
        self._client.when_resolved(ref, _Done(self._inbox, worker, ref))

    def _serve(self) -> None:
        """The pool's thread: until the pool is closed and nothing is left to do."""
        while True:
            event = self._inbox.get()
            if event is not None:
                self._ended(*event)
            del event
            with self._lock:
                done = self._closing and not self._waiting and not any(w.work for w in self._workers.values())
                if done:
                    workers, self._workers = list(self._workers.values()), {}
                    self._idle.clear()
                    self._changed.notify_all()
            if done:
                self._kill(workers)
                self._client = None
                return

    def _ended(self, worker: _Worker, ref: Any) -> None:
        """A worker answered, or died."""
        error: BaseException | None = None
        value = None
        try:
            value = self._client.get([ref], None)[0]
        except BaseException as raised:
            error = raised
        work = worker.work
        died = isinstance(error, RayError) and not hasattr(error, "traceback_str")
        with self._lock:
            worker.work = None
            if died:
                doomed = self._worker_died(worker, work, error)
            else:
                self._failures = 0
                doomed = self._now_idle(worker, work)
            doomed += self._dispatch()
            self._changed.notify_all()
        if work is not None and not died:
            try:
                if error is None:
                    work.finish(value)
            except Exception as unreadable:  # an error whose class this process cannot build
                error = unreadable
            if error is not None:
                work.fail(error)
        _fail(doomed)

    def _now_idle(self, worker: _Worker, work: Call | Run | None) -> list[Any]:
        if work is not None:
            self._completed += work.size
        worker.state = IDLE
        if worker.number not in self._workers:
            self._kill([worker])
        elif len(self._workers) > self._wanted:
            del self._workers[worker.number]
            self._kill([worker])
        else:
            self._idle.append(worker)
        return []

    def _worker_died(self, worker: _Worker, work: Call | Run | None, error: Any) -> list[Any]:
        doomed: list[Any] = []
        if work is not None:
            work.tries += 1
            if work.tries <= self._max_retries and isinstance(error, RayActorError):
                self._waiting.appendleft(work)
            else:
                doomed.append((work, WorkerCrashedError(f"the worker that ran the call died: {error}")))
        elif worker.state == PENDING:
            self._failures += 1
            if self._failures >= START_FAILURES_MAX or not isinstance(error, RayActorError):
                self._broken = error
        if self._client.closed is not None:
            self._broken = error
        self._lose(worker)
        if self._broken is not None and not self._workers:
            doomed += self._drain(WorkerCrashedError(f"the pool has no workers any more: {self._broken}"))
        return doomed

    def _lose(self, worker: _Worker) -> None:
        """A worker is gone: replace it, unless that is hopeless."""
        worker.state = FAILED
        self._failed += 1
        self._workers.pop(worker.number, None)
        self._fill()

    def _drain(self, error: BaseException) -> list[Any]:
        doomed: list[Any] = []
        while self._waiting:
            work = self._waiting.popleft()
            if isinstance(work, Map):
                work.cancel(error)
            elif work.claim():
                doomed.append((work, error))
        return doomed

    # -- workers

    def _fill(self) -> None:
        while len(self._workers) < self._wanted and self._broken is None and not self._drained():
            number, self._started = self._started, self._started + 1
            name = f"{self._prefix}-{self.pool_id}-{number}"
            worker = _Worker(number, self._actor_class.options(name=name).remote())
            self._workers[number] = worker
            self._await(worker, worker.handle.ready.remote())

    def _drained(self) -> bool:
        return self._closing and not self._waiting

    def _kill(self, workers: list[_Worker]) -> None:
        for worker in workers:
            if self._client.closed is None:
                self._client.kill(worker.handle._core.actor_id, True)

    def resize(self, num_workers: int) -> None:
        """Change the number of workers; surplus ones end when they have finished what they run.

        With 0 workers nothing can be submitted, and what waits waits until there are some again.

        Raises:
            ValueError: not a number of 0 or more.
            RuntimeError: the pool was shut down.
        """
        _check_count("num_workers", num_workers, 0)
        with self._lock:
            if self._closing:
                raise RuntimeError("WorkerPool has been shutdown")
            self._wanted = num_workers
            surplus: list[_Worker] = []
            while len(self._workers) > num_workers and self._idle:
                worker = self._idle.pop()
                del self._workers[worker.number]
                surplus.append(worker)
            self._fill()
        self._kill(surplus)

    def wait_for_workers(self, min_workers: int | None = None, timeout: float = WAIT_S) -> None:
        """Wait until `min_workers` have started.  [default: all]

        Raises:
            TimeoutError: they have not within `timeout` seconds.
            WorkerCrashedError: they cannot be started.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            while True:
                wanted = self._wanted if min_workers is None else min_workers
                there = sum(worker.state in (IDLE, BUSY) for worker in self._workers.values())
                if there >= wanted:
                    return
                self._check_open()
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"{there} of {wanted} workers started within {timeout:g} s")
                self._changed.wait(left)

    @property
    def size(self) -> int:
        """Number of live workers, starting ones included."""
        return len(self._workers)

    @property
    def idle_count(self) -> int:
        """Number of workers that have nothing to do."""
        return len(self._idle)

    @property
    def job_ids(self) -> list[str]:
        """Names of the live workers."""
        with self._lock:
            return [f"{self._prefix}-{self.pool_id}-{number}" for number in self._workers]

    def status(self) -> PoolStatus:
        """Figures of this moment; `failed` counts workers that died since the start."""
        with self._lock:
            states = [worker.state for worker in self._workers.values()]
            return PoolStatus(
                states.count(IDLE),
                states.count(BUSY),
                states.count(PENDING),
                self._failed,
                sum(work.size for work in self._waiting),
                self._completed,
            )

    def print_status(self) -> None:
        """`status` as one line."""
        figures = ", ".join(f"{name} {value}" for name, value in self.status()._asdict().items())
        print(f"WorkerPool {self.pool_id}: {figures}")

    # -- the end

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work and end the workers when all that was submitted is done; may be repeated.

        Args:
            wait: return only then.
            cancel_futures: cancel what has not started.
        """
        doomed: list[Any] = []
        with self._lock:
            self._closing = True
            if cancel_futures:
                while self._waiting:
                    work = self._waiting.popleft()
                    if isinstance(work, Map):
                        work.cancel(RuntimeError("WorkerPool has been shutdown"))
                    else:
                        doomed.append(work)
            if not self._wanted:
                doomed += self._waiting
                self._waiting.clear()
        for work in doomed:
            work.drop()
        self._inbox.put(None)
        if wait and threading.current_thread() is not self._thread:
            self._thread.join()


class _Done:
    """Waiter of a ref: called under the engine's lock, so it only hands on."""

    __slots__ = ("_event", "_inbox")

    def __init__(self, inbox: queue.SimpleQueue[Any], worker: _Worker, ref: Any) -> None:
        self._inbox = inbox
        self._event = (worker, ref)

    def resolved(self, entry: Any) -> None:
        self._inbox.put(self._event)


def _fail(doomed: list[Any]) -> None:
    for work, error in doomed:
        work.fail(error)


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is a whole number of {least} or more, not {value!r}")

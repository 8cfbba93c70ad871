"""The actor of a worker: its instance, and where its methods run.

- plain: on the main thread, in order;
- threaded (`max_concurrency` > 1 or concurrency groups): a pool of threads per group;
- async (any coroutine method): a thread with an event loop, at most `max_concurrency` methods at a time;
  each concurrency group has its own, so that a method that blocks its loop holds up no other group.
"""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from spoke.incoming import CallSource, open_args
from spoke.outcome import runs_when_read
from spoke.running import running
from spoke.submit import STREAMING

if TYPE_CHECKING:
    from spoke.execution import Executor, Job

ASYNC_CONCURRENCY: Final = 1000


class ActorHost:
    """Hosts the one actor of this process.  spec keys used: class_name, max_concurrency, is_async,
    concurrency_groups (name -> limit), method_groups (method -> group)."""

    def __init__(self, executor: Executor, actor_id: bytes, incarnation: int, spec: dict[str, Any]) -> None:
        self.executor = executor
        self.actor_id = actor_id
        self.incarnation = incarnation
        self.spec = spec
        self.class_name: str = spec.get("class_name") or "actor"
        self.shown_name = self.class_name  # of its output
        self.repr_name = ""  # the same, where the class says so
        self.instance: Any = None
        self.under_construction: Any = None  # the class, while its constructor runs
        self.owner: Any = None  # address of the process that counts the handles
        self.is_async = bool(spec.get("is_async"))
        limit = spec.get("max_concurrency")
        self.limit: int = limit or (ASYNC_CONCURRENCY if self.is_async else 1)
        self.groups: dict[str, int] = spec.get("concurrency_groups") or {}
        self.method_groups: dict[str, str] = spec.get("method_groups") or {}
        self._waiting: list[Job] | None = []  # until the constructor returned
        self._pools: dict[str, queue.SimpleQueue[Any]] = {}
        self._loops: dict[str, GroupLoop] = {}
        self._methods: dict[str, Any] = {}
        # Calls of a plain actor go straight to the main thread's queue.
        self._plain = not self.is_async and self.limit == 1 and not self.groups

    @property
    def threaded(self) -> bool:
        return not self.is_async and (self.limit > 1 or bool(self.groups))

    # -- start

    def construct(self, cls: Any, args: Any, kwargs: Any) -> None:
        """Make the instance on the main thread (in the loop for an async ``__init__``)."""
        self.under_construction = cls
        if self.is_async:
            import asyncio

            loop = self._group_loop("").loop
            asyncio.run_coroutine_threadsafe(self._construct_async(cls, args, kwargs), loop).result()
        elif type(cls).__call__ is type.__call__:
            self.instance = _new(cls, args, kwargs)  # known to the error of an `__init__` that raises
            if isinstance(self.instance, cls):
                self.instance.__init__(*args, **kwargs)
        else:
            self.instance = cls(*args, **kwargs)
        self.under_construction = None
        own_repr: Any = type(self.instance).__repr__
        if own_repr is not object.__repr__:
            self.shown_name = self.repr_name = self.repr_of_instance()

    async def _construct_async(self, cls: Any, args: Any, kwargs: Any) -> None:
        """In the loop, so that the constructor may make tasks; ``async def __init__`` is awaited."""
        self.instance = instance = _new(cls, args, kwargs)
        outcome = instance.__init__(*args, **kwargs)
        if outcome is not None and hasattr(outcome, "__await__"):
            await outcome

    def ready(self) -> None:
        """The constructor returned: start what waited for it, and the threads of all groups; lock held."""
        for group in ("", *self.groups):
            if self.is_async:
                self._group_loop(group)
            elif self.threaded:
                self._pool(group)
        waiting, self._waiting = self._waiting or [], None
        for job in waiting:
            self._place(job)

    def repr_of_instance(self) -> str:
        """How the class wants its instance to be called."""
        if self.instance is None:
            return self.class_name  # there is none: it failed before
        try:
            return repr(self.instance)
        except Exception:  # the user's code; a name is not worth the actor
            return self.class_name

    def accept(self, job: Job) -> None:
        """A call arrived; lock held."""
        message = job.message
        if message[2] != self.actor_id or message[3] != self.incarnation:
            self.executor.outcome.system(
                job, "ActorUnavailableError", "The call was meant for an earlier incarnation of the actor."
            )
        elif self._waiting is not None:
            self._waiting.append(job)
        elif self._plain and not job.options:
            self.executor.queue.append(job)
            self.executor.wake()
        else:
            self._place(job)

    def _place(self, job: Job) -> None:
        group = job.options.get("concurrency_group")
        if group and group not in self.groups:
            error = ValueError(f"{self.class_name} has no concurrency group {group!r}: {sorted(self.groups)}")
            self.executor.jobs.pop(job.call_id, None)
            raised = partial(self.executor.outcome.raised, job, error, time.perf_counter_ns(), None)
            self.executor.client.futures.post(raised)  # it asks the instance for its name: not under the lock
        elif self.is_async and job.message[4] != "__ray_terminate__":
            loop = self._group_loop(self._group(job))
            loop.start(job.call_id, self._run_async(job, loop.places))
        elif self.threaded:
            self._pool(self._group(job)).put(job)
        else:
            self.executor.queue.append(job)
            self.executor.wake()

    def _group(self, job: Job) -> str:
        group = job.options.get("concurrency_group") or self.method_groups.get(job.message[4], "")
        return str(group) if group in self.groups else ""

    def method(self, name: str) -> Any:
        """The bound method, or what stands behind one of Ray's special names."""
        found = self._methods.get(name)
        if found is None:
            if name == "__ray_call__":
                found = self._call_function
            elif name == "__ray_terminate__":
                found = self._terminate
            elif name == "__ray_ready__":
                found = _ready
            else:
                found = _bound(self.instance, name)
            self._methods[name] = found
        return found

    def close(self) -> None:
        """The process ends in order: the instance's last words, and its ``__del__``; on the main thread."""
        last_words = getattr(type(self.instance), "__ray_shutdown__", None)
        if last_words is not None:
            try:
                last_words(self.instance)
            except BaseException:  # the process ends all the same, in order
                traceback.print_exc()
        self._methods.clear()
        self.instance = None

    def _call_function(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        return function(self.instance, *args, **kwargs)

    def _terminate(self) -> None:
        raise SystemExit(0)

    # -- plain and threaded

    def run_here(self, job: Job) -> None:
        try:
            method = self.method(job.message[4])
        except AttributeError as error:
            method = partial(_raise, error)
        self.executor.execute(job, method)

    def _pool(self, group: str) -> queue.SimpleQueue[Any]:
        pool = self._pools.get(group)
        if pool is None:
            pool = self._pools[group] = queue.SimpleQueue()
            for index in range(self.groups.get(group, self.limit)):
                name = f"spoke-{group or 'calls'}-{index}"
                threading.Thread(target=self._run_pool, args=(pool,), name=name, daemon=True).start()
        return pool

    def _run_pool(self, pool: queue.SimpleQueue[Any]) -> None:
        while True:
            self.run_here(pool.get())

    # -- async

    def _group_loop(self, group: str) -> GroupLoop:
        loop = self._loops.get(group)
        if loop is None:
            loop = self._loops[group] = GroupLoop(group, self.groups.get(group, self.limit))
        return loop

    async def _run_async(self, job: Job, places: Any) -> None:
        import asyncio

        executor = self.executor
        outcome = executor.outcome
        started = time.perf_counter_ns()
        source = None
        try:
            if job.cancelled:
                raise asyncio.CancelledError
            async with places:
                if job.cancelled:
                    raise asyncio.CancelledError
                running.enter(job)
                message = job.message
                args: Any = ()
                kwargs: Any = {}
                if message[6] is not None and (message[6][0] or message[6][1]):
                    source = CallSource(executor.client, job.link, message[1])
                    args, kwargs = open_args(executor.client, source, message[1], message[6])
                result = self.method(message[4])(*args, **kwargs)
                del args, kwargs
                if isinstance(result, Coroutine):  # and not any awaitable: a ref that is returned stays one
                    result = await result
                if runs_when_read(result, message[5]):
                    await self._stream(job, result, message[5], started, source)
                else:
                    outcome.returned(job, result, message[5], started, source)
        except (asyncio.CancelledError, KeyboardInterrupt):
            outcome.cancelled(job, source)
        except BaseException as error:
            outcome.raised(job, error, started, source)
        finally:
            executor.jobs.pop(job.call_id, None)

    async def _stream(self, job: Job, result: Any, num_returns: int, started: int, source: Any) -> None:
        outcome = self.executor.outcome
        if num_returns != STREAMING or not hasattr(result, "__aiter__"):
            outcome.generator(job, result, num_returns, started, source)
            return
        import asyncio

        index = 0
        async for item in result:
            index = outcome.send_yield(job, index, item)
            if job.options.get("backpressure"):
                await asyncio.get_running_loop().run_in_executor(None, outcome.keep_pace, job, index)
        outcome.end_stream(job, index, started, source)

    def tasks(self) -> list[tuple[bytes, Any]]:
        """The asyncio tasks of calls that have not ended."""
        return [pair for loop in list(self._loops.values()) for pair in list(loop.tasks.items())]

    def cancel(self, job: Job) -> None:
        """Cancel a call that is not in the main queue; lock held."""
        if self.is_async:
            self._group_loop(self._group(job)).cancel(job.call_id)
        # A thread cannot be interrupted safely: a queued call is skipped when its turn comes.


class GroupLoop:
    """A thread with an event loop, for the calls of one concurrency group of an async actor."""

    def __init__(self, group: str, limit: int) -> None:
        import asyncio

        self.loop = asyncio.new_event_loop()
        self.places = asyncio.Semaphore(limit)
        self.tasks: dict[bytes, Any] = {}
        name = f"spoke-asyncio-{group}" if group else "spoke-asyncio"
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        import asyncio

        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def start(self, call_id: bytes, coroutine: Any) -> None:
        """Run a call; from any thread."""
        self.loop.call_soon_threadsafe(self._start, call_id, coroutine)

    def _start(self, call_id: bytes, coroutine: Any) -> None:
        task = self.tasks[call_id] = self.loop.create_task(coroutine)
        task.add_done_callback(lambda _: self.tasks.pop(call_id, None))

    def cancel(self, call_id: bytes) -> None:
        """Cancel a call that has not ended; from any thread."""
        self.loop.call_soon_threadsafe(self._cancel, call_id)

    def _cancel(self, call_id: bytes) -> None:
        import inspect

        task = self.tasks.get(call_id)
        # One that has not begun sees by itself that it is cancelled; stopped here it would answer nobody.
        if task is not None and inspect.getcoroutinestate(task.get_coro()) != inspect.CORO_CREATED:
            task.cancel()


def _bound(instance: Any, name: str) -> Any:
    """The method that the class has: an attribute of the instance may have the same name."""
    cls = type(instance)
    for base in cls.__mro__:
        if name in base.__dict__:
            attribute = base.__dict__[name]
            bind = getattr(attribute, "__get__", None)
            return bind(instance, cls) if bind is not None else attribute
    return getattr(instance, name)


def _raise(error: BaseException, *args: Any, **kwargs: Any) -> Any:
    raise error


def _ready() -> bool:
    return True


def _new(cls: Any, args: Any, kwargs: Any) -> Any:
    plain: bool = cls.__new__ is object.__new__
    return cls.__new__(cls) if plain else cls.__new__(cls, *args, **kwargs)

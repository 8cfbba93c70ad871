"""Running other people's code: the callee's side of tasks and actors.

Jobs arrive from the poll loop (lock held) and are queued here.  A task or a plain actor runs on the
main thread in arrival order (CALL-2); a threaded actor has a pool per concurrency group, an async
actor an event loop.  Every job is answered exactly once, whatever its code does.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections import deque
from functools import partial
from threading import get_ident
from types import GeneratorType
from typing import TYPE_CHECKING, Any, Final

import msgpack

from spoke import codec, config, context, errorpack, limits, spawning, wire
from spoke._native import show_title
from spoke.actor_host import ActorHost
from spoke.cancelling import Interrupts
from spoke.incoming import CallSource, open_args
from spoke.lead import Waiter
from spoke.outcome import Outcome, runs_when_read
from spoke.running import running
from spoke.wire import encode

if TYPE_CHECKING:
    from spoke.client import Client
    from spoke.links import Link


SEND_S: Final = 1.0  # how long a process that ends in order waits for the peers of calls that it made

_NO_OPTIONS: dict[str, Any] = {}


class Job:
    """One call to run."""

    __slots__ = ("cancelled", "credit", "function", "link", "message", "options", "payload", "task_name")

    def __init__(self, link: Link, message: list[Any], payload: Any) -> None:
        self.link = link
        self.message = message
        self.payload = payload
        self.cancelled = False
        self.credit: Any = None  # waiter of a generator that is ahead of its consumer
        self.function: Any = None  # of a task, once it is known
        self.task_name = ""  # its name
        extra = message[6] if message[0] == wire.CALL else message[5]
        self.options: dict[str, Any] = (extra[2] if extra else None) or _NO_OPTIONS

    @property
    def function_name(self) -> str:
        if self.message[0] != wire.CALL:
            return self.task_name
        class_name = running.actor.class_name if running.actor is not None else "actor"
        return f"{class_name}.{self.message[4]}"

    @property
    def name(self) -> str:
        return str(self.options.get("name") or self.function_name)

    @property
    def call_id(self) -> bytes:
        return self.message[1]  # type: ignore[no-any-return]


class Executor:
    """Runs the jobs of one worker."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.queue: deque[Job] = deque()
        self.jobs: dict[bytes, Job] = {}  # queued or running
        self.functions: dict[bytes, Any] = {}
        self.actor: ActorHost | None = None
        self.interrupts = Interrupts()
        self.outcome = Outcome(self)
        self.consumed: dict[bytes, int] = {}
        self._idle: Waiter | None = None
        self._idle_title = "ray::IDLE"  # what ps shows, as programs written for Ray look for it
        self._starting: tuple[Any, ...] | None = None
        self._unknown: dict[bytes, list[Job]] = {}  # jobs that wait for a function's code
        self._early: list[Job] = []  # actor calls before the actor itself
        self._stop: int | None = None
        client.waiting.hook = self._waiting
        self._blocked = False
        client.executor = self
        client.worker_report = self.report
        client.handlers.update(
            {
                wire.TASK: self._on_task,
                wire.CALL: self._on_call,
                wire.START_ACTOR: self._on_start_actor,
                wire.SURROUNDINGS: self._on_surroundings,
                wire.CANCEL: self._on_cancel,
                wire.RECALL: lambda link, m, p: self._hand_back(link.peer, m[1], m[2]),
                wire.FUNCTION: self._on_function,
                wire.STREAM_CREDIT: self._on_credit,
                wire.SHUTDOWN: lambda link, m, p: os._exit(0),
                wire.STOP_WORKER: self._on_stop,
            }
        )

    # -- the main thread

    def run(self) -> None:
        """Run jobs until the process ends."""
        while True:
            try:
                while self.queue or self._starting is not None or self._stop is not None:
                    self._run_next()
                self._wait_for_more()
            except KeyboardInterrupt:
                continue  # an interrupt that came too late for its task

    def _run_next(self) -> None:
        """One of the things that wait for the main thread."""
        if self._starting is not None:
            starting, self._starting = self._starting, None
            self._start_actor(*starting)
        elif self._stop is not None:
            self._exit(self._stop)
        else:
            job = self.queue.popleft()
            if self.actor is not None:
                self.actor.run_here(job)
            else:
                function = self.functions[job.message[3]]
                job.function, job.task_name = function, function.__name__
                self.execute(job, function)

    def _wait_for_more(self) -> None:
        idle = Waiter(1)
        with self.client.lock:
            if self.queue or self._starting is not None or self._stop is not None:
                return
            self._idle = idle
        show_title(self._idle_title)
        self.client.lead.wait(idle)

    def wake(self) -> None:
        """There is something for the main thread; lock held."""
        idle = self._idle
        if idle is not None:
            self._idle = None
            idle.finish()

    def execute(self, job: Job, function: Any) -> None:
        """Run one synchronous job on this thread and answer it."""
        message = job.message
        started = time.perf_counter_ns()
        source = None
        interrupts = self.interrupts
        on_main = get_ident() == interrupts.main
        if on_main:
            running.main_job = job
            show_title("ray::" + job.name)
        else:
            running.enter(job)
        try:
            extra = message[6] if message[0] == wire.CALL else message[5]
            try:
                if on_main:
                    interrupts.inside = job  # ahead of the look: one that is cancelled later is interrupted
                if job.cancelled:
                    raise KeyboardInterrupt
                if extra is None or not (extra[0] or extra[1]):
                    result = function()
                else:
                    source = CallSource(self.client, job.link, message[1])
                    args, kwargs = open_args(self.client, source, message[1], extra)
                    result = function(*args, **kwargs)
                    del args, kwargs
                if message[0] == wire.CALL:
                    num_returns = message[5]
                else:
                    num_returns = message[4]
                if (num_returns < 0 or type(result) is GeneratorType) and runs_when_read(result, num_returns):
                    self.outcome.generator(job, result, num_returns, started, source)
                    return
            finally:
                if on_main:
                    interrupts.end(job)
            self.outcome.returned(job, result, num_returns, started, source)
        except KeyboardInterrupt:
            self.outcome.cancelled(job, source)
        except BaseException as error:
            self.outcome.raised(job, error, started, source)
        finally:
            if on_main:
                running.main_job = None
            else:
                running.leave()
            self.jobs.pop(message[1], None)

    def report(self) -> dict[str, Any]:
        """What this process runs, for a hub that was restarted; lock held."""
        host = self.actor
        return {
            "actor": [host.actor_id, host.incarnation] if host is not None else None,
            "busy": bool(self.jobs),
            "blocked": self._blocked,
            "job": self.client.facts().get("job_id") or b"",
        }

    def explain(self, name: bytes) -> str:
        """What a call, or the actor of this process, does now."""
        from spoke import underway

        return underway.explain(self, name)

    # -- arrivals (lock held)

    def _on_task(self, link: Link, message: list[Any], payload: Any) -> None:
        function_id = message[3]
        job = Job(link, message, None)
        self.jobs[message[1]] = job
        if message[6] is not None:
            self._enter_lease(message[2], message[6])
        if payload and function_id not in self.functions:
            self._load_function(function_id, payload)
        if function_id in self.functions:
            self.queue.append(job)
            self.wake()
        else:
            waiting = self._unknown.setdefault(function_id, [])
            waiting.append(job)
            if len(waiting) == 1:
                self.client.links.send(link, encode(wire.NEED_FUNCTION, function_id))

    def _enter_lease(self, lease_id: int, grant: dict[str, Any]) -> None:
        """A new caller: what it said holds for what its tasks start in turn."""
        client = self.client
        client.grants.clear()
        client.grants[lease_id] = grant
        self.enter_context(grant, grant.get("strategy"))

    def enter_context(self, grant: dict[str, Any], strategy: Any) -> None:
        client = self.client
        paths = grant.get("paths")
        if paths != client.paths:
            client.paths = paths
            if paths:
                context.enter_paths(grant)
        client.namespace = grant.get("namespace") or ""
        client.job_id = grant.get("job_id") or b""
        client.detached_actors = bool(grant.get("detached_actors"))
        client.job_env = context.inherited_env(grant)
        if grant.get("logging") != client.logging:
            from spoke import structuredlogs

            client.logging = grant.get("logging")
            structuredlogs.apply(client.logging)
        threads = (grant.get("resources") or {}).get("CPU", 1)
        config.set_default_threads(max(1, int(threads)))
        captures = isinstance(strategy, dict) and strategy.get("kind") == "group" and strategy.get("capture")
        client.captured_group = strategy["group_id"] if captures else None

    def _load_function(self, function_id: bytes, blob: Any) -> None:
        self.functions[function_id] = _Unloaded(self, function_id, bytes(blob))

    def _on_function(self, link: Link, message: list[Any], payload: Any) -> None:
        self._load_function(message[1], payload)
        self.queue.extend(self._unknown.pop(message[1], ()))
        self.wake()

    def _on_call(self, link: Link, message: list[Any], payload: Any) -> None:
        job = Job(link, message, payload)
        self.jobs[message[1]] = job
        if self.actor is None:
            self._early.append(job)
        else:
            self.actor.accept(job)

    def _on_start_actor(self, link: Link, message: list[Any], payload: Any) -> None:
        self._starting = (message[1], message[2], message[3], payload)
        spec = message[3]
        self.actor = ActorHost(self, message[1], message[2], spec)
        self.enter_context(
            {**(spec.get("context") or {}), "resources": spec.get("assigned")}, spec.get("strategy")
        )
        early, self._early = self._early, []
        for job in early:
            self.actor.accept(job)
        self.wake()

    def _on_surroundings(self, link: Link, message: list[Any], payload: Any) -> None:
        """This worker was started ahead of need and ran nothing: now it is for somebody with variables."""
        try:
            spawning.take_over(message[1], message[2])
        except OSError as error:
            os.write(2, f"spoke worker: {error}\n".encode())
            os._exit(1)
        self.client.hub.tell(wire.SPECIALIZED)

    def _start_actor(self, actor_id: bytes, incarnation: int, spec: dict[str, Any], payload: Any) -> None:
        """Build the actor; a constructor that raises ends this process once everybody is told."""
        host = self.actor
        assert host is not None
        blob, parts, slots, args_id, owner = msgpack.unpackb(payload, strict_map_key=False)
        host.owner = owner
        source = None
        started = time.perf_counter_ns()
        running.enter_actor(host)
        self._idle_title = f"ray::{host.class_name}"
        show_title(f"{self._idle_title}.__init__")
        try:
            args: Any = ()
            kwargs: Any = {}
            if parts or slots:
                source = CallSource(self.client, None, actor_id)
                extra = [parts, slots, None]
                args, kwargs = open_args(self.client, source, actor_id, extra, args_id, owner)
            host.construct(_loaded(blob, f"The actor with name {host.class_name}"), args, kwargs)
            del args, kwargs
        except BaseException as error:
            text, body = self.outcome.constructor_error(host, error)
            self._send_calls()
            with self.client.lock:
                self.client.hub.tell(wire.ACTOR_FAILED, actor_id, incarnation, text, payload=body)
            self.stop_soon(1)
            return
        finally:
            running.leave()
        micros = (time.perf_counter_ns() - started) // 1000
        self.outcome.ended.append((b"\xff" * 8 + actor_id, "__init__", "", None, started, micros, 0))
        with self.client.lock:
            if host.repr_name:
                said = {"actor": actor_id, "name": host.repr_name[: limits.MAX_NAME_CHARS]}
                self.client.hub.tell(wire.REQUEST, 0, "repr_name", said)
            # The creator lets go of the arguments when it hears of this.
            # No call runs ahead of it, so that the hub knows of a worker that died whether one may have.
            if source is None:
                self._ready(host)
            else:
                source.then(partial(self._ready, host))

    def _ready(self, host: ActorHost) -> None:
        """Lock held."""
        self.client.hub.tell(wire.ACTOR_READY, host.actor_id, host.incarnation)
        host.ready()

    def _on_credit(self, link: Link, message: list[Any], payload: Any) -> None:
        job = self.jobs.get(message[1])
        if job is not None:
            self.consumed[message[1]] = message[2]
            if job.credit is not None:
                job.credit.finish()

    # -- handing back, cancelling

    def _hand_back(self, peer: bytes, lease_id: int, keep: int) -> None:
        """Give unstarted tasks back to their caller, all but the first `keep`; lock held."""
        mine = [job for job in self.queue if job.link.peer == peer and job.message[0] == wire.TASK]
        running_one = running.main_job is not None
        back = mine[max(0, keep - running_one) :]
        for job in back:
            self.queue.remove(job)
            self.jobs.pop(job.call_id, None)
        self.client.tell(peer, wire.RECALLED, lease_id, [job.call_id for job in back])

    def _waiting(self, waiting: bool) -> bool:
        """The main thread's task waits in get (or goes on): its CPU is free meanwhile."""
        job = running.main_job
        if job is None or not running.on_main_thread() or job.message[0] != wire.TASK:
            return False
        client = self.client
        with client.lock:
            if waiting and self.queue:
                self._hand_back(job.link.peer, job.message[2], 1)
            self._blocked = waiting
            client.hub.tell(wire.BLOCKED, waiting)
        return True

    def _on_cancel(self, link: Link, message: list[Any], payload: Any) -> None:
        _, call_id, force, recursive = message
        job = self.jobs.get(call_id)
        if job is None:
            self.client.submitter.on_cancel(link, message, payload)
            return
        if job.cancelled:
            return
        job.cancelled = True
        if recursive:
            self.client.submitter.cancel_children(call_id, force)
        if job in self.queue:
            self.queue.remove(job)
            self.jobs.pop(call_id, None)
            self.outcome.cancelled(job)
        elif force and job.message[0] == wire.TASK:
            os._exit(1)
        elif self.actor is not None:
            self.actor.cancel(job)
        else:
            self.interrupts.interrupt(job)
        if job.credit is not None:
            job.credit.finish()

    # -- the end

    def stop_soon(self, code: int) -> None:
        """End this process when the running job has been answered."""
        self._stop = code
        with self.client.lock:
            self.wake()
        self.client.reactor.wake()  # the main thread may lead, and nothing may come to it

    def _on_stop(self, link: Link, message: list[Any], payload: Any) -> None:
        """Nobody needs the actor of this process any more."""
        self._stop = self._stop or 0
        self.wake()

    def _send_calls(self) -> None:
        """Wait until the calls that user code made here are under way, as this process ends in order."""
        deadline = time.monotonic() + SEND_S
        while time.monotonic() < deadline:
            with self.client.lock:
                if not self.client.submitter.unsent():
                    return
            self.client.lead.wait(Waiter(), time.monotonic() + 0.005)

    def _last_words(self) -> None:
        if self.actor is not None:
            self.actor.close()
        atexit._run_exitfuncs()

    def _exit(self, code: int) -> None:
        """End in order: what was to run at the exit runs, and what was sent is in the sockets."""
        self._last_words()
        self.flush_output()
        self._send_calls()
        with self.client.lock:
            for _ in range(100):
                links = self.client.links.by_conn.values()
                if not any(self.client.reactor.queued(link.conn) > 0 for link in links):
                    break
                self.client.reactor.poll(10_000, 0)
        os._exit(code)

    @staticmethod
    def flush_output() -> None:
        import sys

        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:  # closed or replaced by user code; nothing to save
                continue


class _Unloaded:
    """A function whose code has arrived but is not unpickled yet: that happens under its first call."""

    __slots__ = ("__name__", "blob", "executor", "function_id")

    def __init__(self, executor: Executor, function_id: bytes, blob: bytes) -> None:
        self.__name__ = ""
        self.executor = executor
        self.function_id = function_id
        self.blob = blob

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        function = _loaded(self.blob, "The remote function")
        job = running.job()
        if job is not None:
            job.function, job.task_name = function, getattr(function, "__name__", "task")
            show_title("ray::" + job.name)
        self.executor.functions[self.function_id] = function
        return function(*args, **kwargs)


def _loaded(blob: bytes, what: str) -> Any:
    """A function or class from its bytes; RuntimeError where this worker lacks what it needs."""
    try:
        return codec.loads(blob)
    except Exception as error:
        raise RuntimeError(
            f"{what} failed to import on the worker. This may be because needed library dependencies are not "
            f"installed in the worker environment or cannot be found from sys.path {sys.path}:\n\n"
            f"{errorpack.text_of(error)}"
        ) from None

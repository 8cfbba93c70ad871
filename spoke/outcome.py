"""Answering a job: its value, its error, its items, or that it was cancelled."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections import deque
from threading import get_ident
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from msgpack import Packer, packb

from spoke import codec, errorpack, wire
from spoke.core.refs import CANCELLED, EXCEPTION, SYSTEM, VALUE
from spoke.errors import ActorDiedError, AsyncioActorExit, RayTaskError
from spoke.lead import Waiter
from spoke.limits import ENDED_CALLS_KEPT, ERROR_CHARS, ERRORS_KEPT
from spoke.submit import DYNAMIC, ITEM_SUFFIX, return_id
from spoke.wire import encode

if TYPE_CHECKING:
    from spoke.core.refs import Entry
    from spoke.execution import Executor, Job
    from spoke.incoming import CallSource
    from spoke.store import Block
    from spoke.values import Packed


class Outcome:
    """Packs and sends the answers of one worker."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._client = executor.client
        # Used by the main thread only, for replies only: a Packer must not be entered twice.
        self._main = executor.interrupts.main
        self._pack = Packer().pack
        # The latest calls that were answered, for `inspecting`: id, method (a number for a task), name of
        # the function, name by option, start (ns), duration (us), status.  Nothing that holds arguments.
        self.ended: deque[tuple[Any, ...]] = deque(maxlen=ENDED_CALLS_KEPT)
        self._keep = self.ended.append
        # What the latest of them raised, as text.
        self.errors: deque[tuple[bytes, str]] = deque(maxlen=ERRORS_KEPT)

    def returned(
        self, job: Job, result: Any, num_returns: int, started: int, source: CallSource | None
    ) -> None:
        """Send the return values; raises TypeError if one does not serialize."""
        if job.cancelled:  # it ran to its end all the same, in a thread that cannot be interrupted
            self.cancelled(job, source)
            return
        values = self._client.values
        if num_returns == 1:
            parts, contains, blocks = values.pack(result)
            if not contains and not blocks:
                self._reply(job, VALUE, started, [[parts, None]], source)
                return
            packed = [(parts, contains, blocks)]
        elif num_returns == 0:
            packed = []
        else:
            packed = values.pack_all(_split(result, num_returns))
        del result
        self._values(job, packed, started, source)

    def _values(
        self,
        job: Job,
        packed: list[Packed],
        started: int,
        source: CallSource | None,
        error: bytes | None = None,
    ) -> None:
        """Send values; or an error, and the values that were there before it if it is not retried."""
        if job.cancelled:
            self._client.values.discard(packed)
            self.cancelled(job, source)
            return
        lent = [self._lend(job, job.call_id, *one) for one in packed]
        if error is None:
            self._reply(job, VALUE, started, lent, source)
        else:
            self._reply(job, EXCEPTION, started, [[[error], None], *lent], source)

    def _lend(
        self, job: Job, key: bytes, parts: list[Any], contains: list[Entry] | None, blocks: list[Block]
    ) -> list[Any]:
        """A packed value as ``[parts, contained refs]``: blocks and refs are the caller's from here on.

        Blocks without refs have an empty list of these: None tells the caller that there is neither.
        """
        client = self._client
        refs: list[Any] | None = None
        if blocks or contains:
            own = client.address
            refs = [[entry.id, entry.owner or own] for entry in contains or ()]
            with client.lock:
                client.replies.hand_over(job.link, key, contains, blocks)
                client.sharing.before(job.link, parts)
        return [parts, refs]

    def _reply(
        self, job: Job, status: int, started: int, values: list[Any] | None, source: CallSource | None
    ) -> None:
        client = self._client
        micros = (time.perf_counter_ns() - started) // 1000
        message = job.message
        self._keep((message[1], message[4], job.task_name, job.options.get("name"), started, micros, status))
        if source is None or source.empty:
            # At once, never held back: the next job may end this process.
            pack = self._pack if get_ident() == self._main else packb
            meta = pack((wire.REPLY, message[1], status, micros, values, None))
            client.reactor.send(job.link.conn, meta)
            return
        with client.lock:
            retained = source.finish()
            client.reactor.send(
                job.link.conn, encode(wire.REPLY, job.call_id, status, micros, values, retained)
            )

    def raised(self, job: Job, error: BaseException, started: int, source: CallSource | None) -> None:
        """Send the error of the user's code (or of unpickling its arguments)."""
        if isinstance(error, (SystemExit, AsyncioActorExit)):
            self._exit(error)
            return
        self._reply(job, EXCEPTION, started, [[[self._packed_error(job, error)], None]], source)

    def _packed_error(self, job: Job, error: BaseException) -> bytes:
        body = self.pack_error(job.name or "task", error)
        self.errors.append(
            (job.call_id, "".join(traceback.format_exception_only(error)).strip()[:ERROR_CHARS])
        )
        error.__traceback__ = None  # its frames hold the arguments, which may be views
        return body

    def _exit(self, error: BaseException) -> None:
        """exit_actor() or sys.exit(): the process ends, and its end answers the call.

        An actor that ends without an error code means it: the hub is told, so that it is not restarted.
        """
        executor, client = self._executor, self._client
        code = _exit_code(error) if isinstance(error, SystemExit) else 0
        host = executor.actor
        if host is not None and code == 0:
            with client.lock:
                reason = "exit_actor() or sys.exit() was called in it (exit code 0)"
                client.hub.tell(wire.KILL_ACTOR, host.actor_id, True, reason, wire.ANY_INCARNATION)
        executor.stop_soon(code)

    def pack_error(self, name: str, error: BaseException) -> bytes:
        """A RayTaskError of `error`, pickled; an error that does not travel goes as its text."""
        task_error = self.task_error(name, error)
        try:
            body, buffers, refs = codec.dumps(task_error)
            if not buffers and not refs:
                codec.loads(body)
                return body
        except Exception:
            pass  # the cause does not pickle, or does not unpickle: its traceback text still does
        text = task_error.traceback_str or repr(error)
        return codec.dumps(RayTaskError(name, text, _text_only(error), None, os.getpid()))[0]

    def task_error(self, name: str, error: BaseException) -> RayTaskError:
        host = self._executor.actor
        actor_id = host.actor_id.hex() if host else None
        shown = host.repr_of_instance() if host else None
        ip = self._client.address[2]
        text = errorpack.text_of(error)
        return RayTaskError(name, text, error, f"ray::{name}()", os.getpid(), ip, shown, actor_id)

    def constructor_error(self, host: Any, error: BaseException) -> tuple[str, bytes]:
        """Text and pickled ActorDiedError for a constructor that raised."""
        task_error = self.task_error(f"{host.class_name}.__init__", error)
        died = ActorDiedError.from_task_error(task_error)
        print(
            f"Exception raised in creation task: {died}", file=sys.stderr, flush=True
        )  # perhaps nobody asks
        text = f"the actor's constructor raised {type(error).__name__}: {error}"
        try:
            body = codec.dumps(died)[0]
            codec.loads(body)
        except Exception:
            task_error = RayTaskError(task_error.function_name, task_error.traceback_str, _text_only(error))
            body = codec.dumps(ActorDiedError.from_task_error(task_error))[0]
        return text, body

    def cancelled(self, job: Job, source: CallSource | None = None) -> None:
        self._executor.jobs.pop(job.call_id, None)
        if source is not None:
            self._reply(job, CANCELLED, time.perf_counter_ns(), [], source)
            return
        # No lock is taken here: a cancelled job that never started is answered under it.
        self._client.reactor.send(job.link.conn, encode(wire.REPLY, job.call_id, CANCELLED, 0, [], None))

    def system(self, job: Job, name: str, text: str) -> None:
        """Refuse a job by a named error of ours."""
        self._executor.jobs.pop(job.call_id, None)
        value = [[[codec.dumps((name, text))[0]], None]]
        self._client.reactor.send(job.link.conn, encode(wire.REPLY, job.call_id, SYSTEM, 0, value, None))

    # -- generators

    def generator(
        self, job: Job, result: Any, num_returns: int, started: int, source: CallSource | None
    ) -> None:
        """Run a synchronous generator and send what it yields."""
        if num_returns == DYNAMIC:
            self._dynamic(job, result, started, source)
            return
        if num_returns > 0:
            self._static(job, result, num_returns, started, source)
            return
        index = 0
        for item in _iterate(result, job.name or "task"):
            index = self.send_yield(job, index, item)
            del item
            self.keep_pace(job, index)
            if job.cancelled:
                raise KeyboardInterrupt
        self.end_stream(job, index, started, source)

    def _static(
        self, job: Job, result: Any, num_returns: int, started: int, source: CallSource | None
    ) -> None:
        """A generator with a fixed number of returns: those before its error are there, as in Ray."""
        values = self._client.values
        packed: list[Packed] = []
        failure = None
        try:
            for item in result:
                if len(packed) == num_returns:
                    raise ValueError(f"Task returned more than num_returns={num_returns} objects.")
                packed.append(values.pack(item))
                del item
            if len(packed) < num_returns:
                raise ValueError(f"Task returned {len(packed)} objects, but num_returns={num_returns}.")
        except AsyncioActorExit:
            values.discard(packed)
            raise
        except Exception as error:
            failure = error
        except BaseException:
            values.discard(packed)
            raise
        if failure is None or len(packed) == num_returns:
            if failure is not None:
                print(f"{job.name}: an error after all {num_returns} return values:", file=sys.stderr)
                traceback.print_exception(failure)
            self._values(job, packed, started, source)
            return
        self._values(job, packed, started, source, self._packed_error(job, failure))

    def _dynamic(self, job: Job, result: Any, started: int, source: CallSource | None) -> None:
        """One value: the refs of all items, the last one that of the error if there is one, as in Ray."""
        from spoke.streams import DynamicObjectRefGenerator

        refs: list[Any] = []
        body = None
        try:
            for item in _iterate(result, job.name or "task", "dynamic"):
                refs.append(self._client.put(item))
                del item
        except AsyncioActorExit:
            raise
        except Exception as error:
            body = self._packed_error(job, error)
            refs.append(self._client.own(EXCEPTION, [body]))
        packed = [self._client.values.pack(DynamicObjectRefGenerator(refs))]
        self._values(job, packed, started, source, body)

    def send_yield(self, job: Job, index: int, value: Any) -> int:
        """Send the items of one yield after `index` others; how many there are then.

        Raises:
            ValueError: not as many as `_num_objects_per_yield` says.
        """
        together = job.options.get("per_yield", 1)
        items = [value] if together == 1 else _together(value, together)
        for item in items:
            index += 1
            self.send_item(job, index, item)
        return index

    def send_item(self, job: Job, index: int, item: Any) -> None:
        packed = self._client.values.pack(item)
        value = self._lend(job, return_id(job.call_id, index) + ITEM_SUFFIX, *packed)
        self._client.reactor.send(job.link.conn, encode(wire.STREAM_ITEM, job.call_id, index, VALUE, value))

    def end_stream(self, job: Job, count: int, started: int, source: CallSource | None) -> None:
        body = codec.dumps(None)[0]
        self._executor.consumed.pop(job.call_id, None)
        # With an empty list, as `_lend` has it where there are blocks: those of the items.
        self._reply(job, VALUE, started, [[[body], []]], source)

    def keep_pace(self, job: Job, index: int) -> None:
        """With a limit on items ahead of the consumer, wait for it (LIM-1)."""
        limit = job.options.get("backpressure")
        if not limit or limit < 0:
            return
        executor = self._executor
        while index - executor.consumed.get(job.call_id, 0) >= limit and not job.cancelled:
            job.credit = Waiter(1)
            if index - executor.consumed.get(job.call_id, 0) >= limit and not job.cancelled:
                self._client.block_on(job.credit, None)
            job.credit = None


def runs_when_read(result: Any, num_returns: int) -> bool:
    """Does the body of a call run only while its values are taken, as a generator's does?"""
    return num_returns < 0 or (num_returns > 0 and type(result) is GeneratorType)


def _iterate(result: Any, name: str, kind: str = "streaming") -> Any:
    try:
        return iter(result)
    except TypeError:
        raise TypeError(
            f"{name} was called with num_returns={kind!r} and must be a generator, "
            f"but returned {type(result).__name__}"
        ) from None


def _together(value: Any, count: int) -> Any:
    """The items of a yield that makes several."""
    if not isinstance(value, (tuple, list)):
        raise ValueError(
            f"A generator with _num_objects_per_yield={count} must yield a tuple or list of length {count}, "
            f"not {type(value).__name__}."
        )
    if len(value) != count:
        raise ValueError(f"A generator yielded {len(value)} objects, but _num_objects_per_yield={count}.")
    return value


def _split(result: Any, num_returns: int) -> list[Any]:
    try:
        values = list(result)
    except TypeError:
        raise TypeError(
            f"The task has num_returns={num_returns} but returned one {type(result).__name__}; "
            "return that many values"
        ) from None
    if len(values) != num_returns:
        raise ValueError(f"The task returned {len(values)} values, but num_returns={num_returns}")
    return values


def _text_only(error: BaseException) -> Exception:
    """A stand-in for an error that does not travel."""
    try:
        return RuntimeError(f"{type(error).__name__}: {error}")
    except Exception:
        return RuntimeError(type(error).__name__)


def _exit_code(error: SystemExit) -> int:
    code = error.code
    return code if isinstance(code, int) else (0 if code is None else 1)

"""The threads of a simulated process: its executor, and user code that waits in virtual time."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from spoke import wire
from spoke.core.refs import PENDING, VALUE, Entry
from spoke.errors import GetTimeoutError, ObjectLostError
from spoke.execution import Executor, Job
from spoke.incoming import CallSource, open_args
from spoke.objectref import ObjectRef
from spoke.running import running

if TYPE_CHECKING:
    from tests.sim_calls import Proc

Program = Generator[tuple[Any, ...], Any, Any]


class Exited(BaseException):
    """The simulated process called os._exit."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Suspended(BaseException):
    """Code that would block for these refs, or for the hub's word on a node where there are none."""

    def __init__(self, refs: list[ObjectRef[Any]], timeout: float | None = None) -> None:
        self.refs = refs
        self.timeout = 1e6 if timeout is None else timeout


class FakeOs:
    @staticmethod
    def _exit(code: int) -> None:
        raise Exited(code)

    @staticmethod
    def urandom(size: int) -> bytes:
        return b"n" * size


class SimExecutor(Executor):
    """The executor with its main thread replaced by runs in virtual time."""

    def __init__(self, proc: Proc) -> None:
        super().__init__(proc.client)
        self.proc = proc
        self.interrupts = self  # type: ignore[assignment]
        self._planned = False

    def pump(self) -> None:
        """Plan the main thread's next job."""
        if (self.queue or self._starting or self._stop is not None) and not self._planned:
            limit = self.actor.spec.get("side_by_side", 1) if self.actor is not None else 1
            if len(self.proc.runs) < limit:
                self._planned = True
                world = self.proc.world
                soon = world.now + world.rng.uniform(0, 0.0005)
                world.schedule(max(soon, self.proc.stalled_until), self._next)

    def _next(self) -> None:
        self._planned = False
        if self.proc.alive:
            with self.proc.world.inside(self.proc):
                if self._starting or self.queue or self._stop is not None:
                    self._run_next()

    def _last_words(self) -> None:
        """None: what is registered with atexit here is the test's."""

    def _send_calls(self) -> None:
        """Nothing waits in virtual time: calls may be lost with who made them."""

    def execute(self, job: Job, function: Any) -> None:
        """As `Executor.execute`, but the code goes on after this returns."""
        proc, message = self.proc, job.message
        if job.cancelled:
            self.jobs.pop(job.call_id, None)
            self.outcome.cancelled(job)
            return
        incarnation = self.actor.incarnation if self.actor is not None else 0
        proc.world.referee.started(proc, job, incarnation)
        started = proc.world.clock.perf_counter_ns()
        source: Any = None
        extra = message[6] if message[0] == wire.CALL else message[5]
        if extra is not None and (extra[0] or extra[1]):
            source = CallSource(self.client, job.link, message[1])
        program = self._program(job, source, extra)
        run = Run(proc, program, job, lambda result, error: self._ended(job, started, source, result, error))
        run.step(None)

    def _program(self, job: Job, source: Any, extra: Any) -> Program:
        """The code of a job, arguments opened first; where they are lost, it waits for them."""
        args: Any = ()
        kwargs: Any = {}
        refs: list[ObjectRef[Any]] = []  # kept until the arguments are opened, as `open_args` itself does
        while source is not None:
            try:
                args, kwargs = open_args(self.client, source, job.call_id, extra)
                break
            except Suspended as pause:
                refs, timeout = pause.refs, pause.timeout
            if refs:
                yield "until", list(refs), timeout
                if any(ref._entry.status == PENDING for ref in refs):
                    raise GetTimeoutError("the arguments are not made again in time")
            else:
                yield "sleep", 0.1
        program = self.proc.world.programs.body(self.proc, job, args, kwargs)
        del args, kwargs, refs
        return (yield from program)

    def _ended(self, job: Job, started: int, source: Any, result: Any, error: BaseException | None) -> None:
        num_returns = job.message[5] if job.message[0] == wire.CALL else job.message[4]
        if isinstance(error, AssertionError):
            self.proc.world.referee.failures.append(f"user code in {self.proc}: {error}")
        try:
            if error is not None:
                raise error
            if num_returns < 0:
                self.outcome.end_stream(job, result, started, source)
            else:
                self.outcome.returned(job, result, num_returns, started, source)
        except KeyboardInterrupt:
            self.outcome.cancelled(job, source)
        except BaseException as problem:
            self.outcome.raised(job, problem, started, source)
        finally:
            self.jobs.pop(job.call_id, None)

    def interrupt(self, job: Job) -> None:
        for run in self.proc.runs:
            if run.job is job:
                run.interrupt()


class Run:
    """One thread of user code: a generator and what it waits for."""

    def __init__(self, proc: Proc, program: Program, job: Job | None, done: Any) -> None:
        self.proc = proc
        self.program = program
        self.job = job
        self.done = done
        self.turn = 0  # counts waits, so that a late wake is told from a due one
        self.waiter: Any = None
        self.blocked = False
        proc.runs.append(self)

    def wake(self, turn: int, value: Any = None, error: BaseException | None = None) -> None:
        """Go on if still in wait number `turn`."""
        if turn != self.turn or not self.proc.alive:
            return
        world = self.proc.world
        if self.proc.stalled_until > world.now:
            world.schedule(self.proc.stalled_until, lambda: self.wake(turn, value, error))
            return
        with world.inside(self.proc):
            self.step(value, error)

    def interrupt(self) -> None:
        turn = self.turn
        self.proc.world.after(0.0001, lambda: self.wake(turn, None, KeyboardInterrupt()))

    def step(self, value: Any, error: BaseException | None = None) -> None:
        """Run the code until it waits again; the process is entered."""
        self.turn += 1
        before, running.main_job = running.main_job, self.job
        try:
            self._leave_wait(error is not None)
            try:
                if isinstance(value, Waiting):
                    value = value.result()
                request = self.program.throw(error) if error is not None else self.program.send(value)
            except StopIteration as end:
                result, end.value = end.value, None
                self._finish(result, None)
                return
            except Exited:
                raise
            except BaseException as problem:
                problem.__traceback__ = None
                self._finish(None, problem)
                return
            self._wait(*request)
        finally:
            running.main_job = before

    def _finish(self, result: Any, error: BaseException | None) -> None:
        self.proc.runs.remove(self)
        self.done(result, error)

    def _wait(self, what: str, *args: Any) -> None:
        world, turn = self.proc.world, self.turn
        if what == "sleep":
            world.after(args[0], lambda: self.wake(turn))
        elif what == "until":
            waiting = self.waiter = Waiting(self, args[0], len(args[0]), args[1], read=False)
            waiting.begin()
            world.after(0.004, lambda: self._block(turn))
        elif what == "item":
            assert self.job is not None and self.proc.executor is not None
            self.proc.executor.outcome.send_item(self.job, args[0], args[1])
            world.after(0.0, lambda: self.wake(turn))
        else:
            waiting = self.waiter = Waiting(self, *args)
            waiting.begin()
            if self.job is not None:
                world.after(0.004, lambda: self._block(turn))

    def _block(self, turn: int) -> None:
        executor = self.proc.executor
        if turn == self.turn and self.proc.alive and executor is not None:
            with self.proc.world.inside(self.proc):
                before, running.main_job = running.main_job, self.job
                self.blocked = executor._waiting(True)
                running.main_job = before

    def _leave_wait(self, interrupted: bool) -> None:
        if self.waiter is not None:
            self.waiter.end()
            if interrupted:
                self.waiter.refs = []
            self.waiter = None
        if self.blocked:
            self.blocked = False
            assert self.proc.executor is not None
            self.proc.executor._waiting(False)


class Waiting:
    """As `Client.get` and `Client.wait`, over virtual time: some of `refs` within `timeout`."""

    def __init__(
        self, run: Run, refs: list[ObjectRef[Any]], num_returns: int, timeout: float, read: bool = True
    ) -> None:
        self.run = run
        self.read = read
        self.refs = refs
        self.missing = num_returns
        self.timeout = timeout

    def begin(self) -> None:
        run, client = self.run, self.run.proc.client
        turn, world = run.turn, run.proc.world
        with client.lock:
            for ref in self.refs:
                if ref._entry.status == PENDING:
                    client.waiting.enlist(ref._entry, self)
                else:
                    self.missing -= 1
            client._settle()
        world.after(0.0 if self.missing <= 0 else self.timeout, lambda: run.wake(turn, self))

    def resolved(self, entry: Entry) -> None:
        self.missing -= 1
        if self.missing <= 0:
            run, turn = self.run, self.run.turn
            run.proc.world.after(0.0, lambda: run.wake(turn, self))

    def end(self) -> None:
        self.run.proc.client.waiting.forget(self.refs, self)  # type: ignore[arg-type]

    def result(self) -> list[tuple[str, Any]]:
        """Per ref ``("value", v)``, ``("error", exception)`` or ``("pending", None)``."""
        client = self.run.proc.client
        found: list[tuple[str, Any]] = []
        for ref in self.refs if self.read else ():
            entry = ref._entry
            if entry.status == PENDING:
                found.append(("pending", None))
                continue
            parts = entry.value
            try:
                found.append(("value", client.read(entry)))
            except Exception as error:
                if entry.status == VALUE and isinstance(error, ObjectLostError):
                    try:
                        client.waiting.lost_again(entry, parts, error)
                        if entry.status == PENDING:
                            found.append(("pending", None))
                            continue
                        error = client.replies.error_of(entry)
                    except Suspended:
                        found.append(("pending", None))
                        continue
                    except ObjectLostError as same:
                        error = same
                error.__traceback__ = None
                found.append(("error", error))
        self.refs = []
        return found

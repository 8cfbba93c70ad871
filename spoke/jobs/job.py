"""A submitted job as its users see it."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from spoke import codec, errorpack
from spoke.errors import RayError
from spoke.jobs.line import Line, wait

SUCCEEDED, KILLED = "SUCCEEDED", "KILLED"
TERMINAL = (SUCCEEDED, "FAILED", KILLED, "WORKER_FAILED", "UNSCHEDULABLE")


class JobFailedError(RayError):
    """A job did not succeed.  `__cause__` is what its function raised, where it did.

    Attributes:
        job_id, state: of the job.
        exit_code: of its last attempt, or None.
    """

    def __init__(self, job_id: str, state: str, message: str, exit_code: int | None = None) -> None:
        super().__init__(job_id, state, message, exit_code)
        self.job_id, self.state, self.message, self.exit_code = job_id, state, message, exit_code

    def __str__(self) -> str:
        code = "" if self.exit_code is None else f" (exit code {self.exit_code})"
        return f"job {self.job_id} is {self.state}{code}: {self.message}"


class AttemptInfo(NamedTuple):
    """One try of a job; times are in seconds since the epoch, 0 where it did not come to that."""

    attempt_id: int
    state: str
    worker_id: str
    pid: int
    exit_code: int | None
    error: str
    started_at: float
    finished_at: float
    is_worker_failure: bool
    ports: dict[str, int]


class Subscription:
    """A callback on the output of a job; `stop` ends it."""

    def __init__(self, job: Job, callback: Callable[[str], None]) -> None:
        self.error: BaseException | None = None  # the last that the callback raised
        self._job = job
        self._callback = callback
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spoke-job-log", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for line in self._job._lines(True, None, None, None, self._stopped):
                try:
                    self._callback(line)
                except Exception as error:  # the next line may be welcome all the same
                    self.error = error
                    print(f"spoke: a callback on the log of {self._job.id} raised {error!r}", file=sys.stderr)
        except Exception as error:  # the cluster is gone
            self.error = error

    def stop(self, timeout: float = 2.0) -> None:
        """No call of the callback begins after this; waits at most `timeout` seconds for one that runs."""
        self._stopped.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)


class Job:
    """A job of the cluster; any number of these may name the same one.

    Attributes:
        id: its name, after its parents' names: "parent/child".
    """

    def __init__(self, job_id: str, line: Line) -> None:
        self.id = job_id
        self._line = line

    def __repr__(self) -> str:
        return f"Job({self.id!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    # -- facts

    def info(self) -> dict[str, Any]:
        """All that the hub knows of it.

        Raises:
            KeyError: the job is unknown.
        """
        found: dict[str, Any] = self._line.ask("job", id=self.id)
        return found

    def status(self) -> str:
        """PENDING, BUILDING, RUNNING, SUCCEEDED, FAILED, KILLED, WORKER_FAILED or UNSCHEDULABLE."""
        return str(self.info()["state"])

    @property
    def message(self) -> str:
        """Why it is in its state."""
        return str(self.info()["message"])

    @property
    def exit_code(self) -> int | None:
        """Of the latest attempt: 128 and the number of the signal that ended it, -1 after a timeout."""
        code: int | None = self.info()["exit_code"]
        return code

    @property
    def ports(self) -> dict[str, int]:
        """The ports of the latest attempt, by name."""
        return dict(self.info()["ports"])

    def attempts(self) -> list[AttemptInfo]:
        """Its tries so far, the first first."""
        return [
            AttemptInfo(one["number"], one["state"], one["node_id"].hex(), one["pid"], one["exit_code"],
            one["error"],
                        one["started_ms"] / 1000, one["finished_ms"] / 1000, one["is_worker_failure"],
                        one["ports"])
            for one in self.info()["attempts"]
        ]  # fmt: skip

    # -- waiting

    def wait(
        self,
        timeout: float | None = None,
        *,
        stream_logs: bool = False,
        raise_on_failure: bool = False,
    ) -> str:
        """Wait for the end; returns the state that it ended in.

        Args:
            timeout: seconds; None: no limit.
            stream_logs: print its output meanwhile, each line once: ``[job][HH:MM:SS] text``.
            raise_on_failure: see Raises.

        Raises:
            TimeoutError: it has not ended.
            KeyError: the job is unknown.
            JobFailedError: with `raise_on_failure`, it ended in another state than SUCCEEDED.
        """
        printer = Subscription(self, self._print) if stream_logs else None
        try:
            found = wait(self._line, self.id, None, timeout)
        finally:
            if printer is not None:
                printer._thread.join(10.0)
                printer.stop()
        if found is None:
            raise TimeoutError(f"Job {self.id} did not complete in {timeout:g}s")
        if raise_on_failure and found["state"] != SUCCEEDED:
            raise self._failure(found)
        return str(found["state"])

    def _print(self, line: str) -> None:
        print(f"[{self.id}][{time.strftime('%H:%M:%S')}] {line}", flush=True)

    def wait_until(self, state: str, timeout: float | None = None) -> str:
        """Wait until it is in `state`, or has ended; returns the state it is in.

        Raises:
            TimeoutError: neither within `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        found: dict[str, Any] | None = self.info()
        while found is not None and found["state"] not in (state, *TERMINAL):
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            found = wait(self._line, self.id, found["version"], left)
        if found is None:
            raise TimeoutError(f"Job {self.id} was not {state} within {timeout:g}s")
        return str(found["state"])

    def result(self, timeout: float | None = None) -> Any:
        """The value that its function returned; None for a command line.

        Raises:
            TimeoutError: it has not ended.
            JobFailedError: it did not succeed; its cause is what the function raised.
        """
        found = wait(self._line, self.id, None, timeout)
        if found is None:
            raise TimeoutError(f"Job {self.id} did not complete in {timeout:g}s")
        if found["state"] != SUCCEEDED:
            raise self._failure(found)
        if not found["has_result"]:
            return None
        return codec.loads(bytes(self._line.ask("job_result", id=self.id))[1:])

    def _failure(self, found: dict[str, Any]) -> JobFailedError:
        failure = JobFailedError(self.id, found["state"], found["message"], found["exit_code"])
        body = self._line.ask("job_result", id=self.id) if found["has_result"] else None
        if body and bytes(body[:1]) == b"E":
            try:
                failure.__cause__ = errorpack.unpack(bytes(body)[1:])
            except Exception:  # its class is not here: the text stands in the log
                pass
        return failure

    # -- output

    def logs(
        self,
        *,
        follow: bool = False,
        tail: int | None = None,
        since: float | None = None,
        source: str | None = None,
        grep: str | None = None,
        attempt: int | None = None,
    ) -> Iterator[str]:
        """Lines of its output, in the order in which each stream was written.

        Args:
            follow: go on until the job has ended, over all its attempts.
            tail: only the last lines, counted before `grep`.
            since: only what was written at or after this time (seconds since the epoch), or up to 0.5 s
            before. source: "stdout" or "stderr".  [default: both] grep: a regular expression that lines
            must contain. attempt: number of an attempt.  [default: the latest; with `follow` from there on]

        Raises (when iterated):
            KeyError: the job is unknown.
            ValueError: a wrong argument, or no attempt has been started yet (not with `follow`).
            RuntimeError: the logs are gone with their node.
        """
        pattern = re.compile(grep) if grep is not None else None
        args: dict[str, Any] = {"tail": tail, "source": source}
        if since is not None:
            args["since_ms"] = int(since * 1000)
        for line in self._lines(follow, attempt, args, source, None):
            if pattern is None or pattern.search(line):
                yield line

    def _lines(
        self,
        follow: bool,
        attempt: int | None,
        args: dict[str, Any] | None,
        source: str | None,
        stopped: threading.Event | None,
    ) -> Iterator[str]:
        chosen = attempt
        while True:
            if follow and not self._has_attempt(chosen):
                if not self._next_attempt(stopped, chosen):
                    return
                continue
            if chosen is None:
                found = self.info()["attempts"]
                chosen = found[-1]["number"] if found else None
            yield from self._attempt_lines(chosen, follow, dict(args or {}), source, stopped)
            if not follow or (stopped is not None and stopped.is_set()):
                return
            chosen, args = (chosen or 0) + 1, None

    def _has_attempt(self, number: int | None) -> bool:
        found = self.info()["attempts"]
        return any(number is None or one["number"] == number for one in found)

    def _next_attempt(self, stopped: threading.Event | None, number: int | None) -> bool:
        """Wait until there is an attempt; False when there will be none."""
        found: dict[str, Any] | None = self.info()
        while found is None or not any(number in (None, one["number"]) for one in found["attempts"]):
            if (stopped is not None and stopped.is_set()) or (
                found is not None and found["state"] in TERMINAL
            ):
                return False
            seen = found["version"] if found is not None else 0
            found = wait(self._line, self.id, seen, 0.5) or self.info()
        return True

    def _attempt_lines(
        self,
        number: int | None,
        follow: bool,
        args: dict[str, Any],
        source: str | None,
        stopped: threading.Event | None,
    ) -> Iterator[str]:
        parts: dict[str, bytes] = {}
        asked = dict(args, follow=follow)
        while stopped is None or not stopped.is_set():
            try:
                answer = self._line.ask(
                    "job_log", 0.5 if stopped is not None else None, id=self.id, attempt=number, args=asked
                )
            except TimeoutError:  # only to look whether this is still wanted
                continue
            offsets = dict(answer["offsets"])
            for name, (offset, data) in answer["chunks"].items():
                offsets[name] = offset + len(data)
                *lines, parts[name] = (parts.get(name, b"") + data).split(b"\n")
                for line in lines:
                    yield line.decode("utf-8", "replace")
            asked = {"offsets": offsets, "source": source, "follow": follow}
            if answer["done"]:
                break
        for rest in parts.values():
            if rest:
                yield rest.decode("utf-8", "replace")

    def on_log(self, callback: Callable[[str], None]) -> Subscription:
        """Call `callback` with each line, from the beginning, in a thread of its own, until the job ends.

        What the callback raises is printed, kept in the subscription's `error`, and ends nothing.
        """
        return Subscription(self, callback)

    # -- the end

    def terminate(self, *, force: bool = False, grace_s: float | None = None) -> bool:
        """End it and all jobs below it: SIGTERM, `grace_s` seconds [default: 5], SIGKILL.

        Returns at once; the job is KILLED when its processes are gone (`wait`).  False when it had ended.

        Args:
            force: SIGKILL at once.
        """
        return bool(self._line.ask("job_stop", id=self.id, force=force, grace_s=grace_s))

"""The life of a submitted job: eight states, one table of transitions, attempts, budgets of retries.

Rules of this module: records and decisions about one job, nothing about other jobs or nodes.  Failures
(exit codes, exceptions, timeouts, failed health checks) and preemptions (the node was lost) are counted
apart; a job that was stopped by a user is never tried again.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Final

PENDING: Final = "PENDING"
BUILDING: Final = "BUILDING"
RUNNING: Final = "RUNNING"
SUCCEEDED: Final = "SUCCEEDED"
FAILED: Final = "FAILED"
KILLED: Final = "KILLED"
WORKER_FAILED: Final = "WORKER_FAILED"
UNSCHEDULABLE: Final = "UNSCHEDULABLE"

# From a state to those that may follow; back to PENDING is another attempt.
TRANSITIONS: Final[dict[str, tuple[str, ...]]] = {
    PENDING: (BUILDING, RUNNING, FAILED, KILLED, WORKER_FAILED, UNSCHEDULABLE, PENDING),
    BUILDING: (RUNNING, SUCCEEDED, FAILED, KILLED, WORKER_FAILED, PENDING),
    RUNNING: (SUCCEEDED, FAILED, KILLED, WORKER_FAILED, PENDING),
    SUCCEEDED: (),
    FAILED: (),
    KILLED: (),
    WORKER_FAILED: (),
    UNSCHEDULABLE: (),
}
TERMINAL: Final = tuple(state for state, following in TRANSITIONS.items() if not following)

FAILURE: Final = "failure"
PREEMPTION: Final = "preemption"


class RetryBudget:
    """How often, after which exit codes and how soon a job is tried again.

    fields: max_failures (0), max_preemptions (100), initial_delay_s (0: at once), max_delay_s (60),
    multiplier (2), retry_on (exit codes; empty: all but 0), no_retry_on (exit codes; wins).
    """

    __slots__ = ("initial_delay_s", "max_delay_s", "max_failures", "max_preemptions", "multiplier",
                 "no_retry_on", "retry_on")  # fmt: skip

    def __init__(self, fields: dict[str, Any]) -> None:
        self.max_failures = int(fields.get("max_failures", 0))
        self.max_preemptions = int(fields.get("max_preemptions", 100))
        self.initial_delay_s = float(fields.get("initial_delay_s", 0.0))
        self.max_delay_s = float(fields.get("max_delay_s", 60.0))
        self.multiplier = float(fields.get("multiplier", 2.0))
        self.retry_on = tuple(fields.get("retry_on", ()))
        self.no_retry_on = tuple(fields.get("no_retry_on", ()))
        if min(self.max_failures, self.max_preemptions, self.initial_delay_s) < 0 or self.multiplier < 1:
            raise ValueError(f"a retry budget has no such numbers: {fields!r}")

    def allows(self, kind: str, count: int, exit_code: int | None) -> bool:
        """Whether to try again after the `count`-th failure or preemption."""
        if kind == PREEMPTION:
            return count <= self.max_preemptions
        if exit_code in self.no_retry_on or (self.retry_on and exit_code not in self.retry_on):
            return False
        return count <= self.max_failures

    def delay_s(self, job_id: str, count: int) -> float:
        """Pause before the next attempt: grows with each, a tenth more or less by the job's name."""
        if not self.initial_delay_s:
            return 0.0
        pause = min(self.max_delay_s, self.initial_delay_s * self.multiplier ** (count - 1))
        digest = blake2b(f"{job_id}:{count}".encode(), digest_size=4).digest()
        return float(pause * (0.9 + 0.2 * int.from_bytes(digest, "big") / 2**32))


class Attempt:
    """One try of a job."""

    __slots__ = ("error", "exit_code", "finished_ms", "is_worker_failure", "node_id", "number", "pid",
    "ports",
                 "started_ms", "state")  # fmt: skip

    def __init__(self, number: int, node_id: bytes) -> None:
        self.number = number
        self.node_id = node_id
        self.state = PENDING
        self.pid = 0
        self.ports: dict[str, int] = {}
        self.exit_code: int | None = None
        self.error = ""
        self.started_ms = 0
        self.finished_ms = 0
        self.is_worker_failure = False

    def record(self) -> dict[str, Any]:
        """All fields, as plain values."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def of(cls, record: dict[str, Any]) -> Attempt:
        """The attempt of a `record`."""
        found = cls(record["number"], record["node_id"])
        for name in cls.__slots__:
            setattr(found, name, record[name])
        return found


def move(state: str, to: str) -> str:
    """`to`, if the table allows it after `state`: an illegal transition is a defect and never silent."""
    assert to in TRANSITIONS[state], f"a job cannot go from {state} to {to}"
    return to

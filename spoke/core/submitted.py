"""The record of one submitted job."""

from __future__ import annotations

from typing import Any, Final

from spoke.core.jobstates import PENDING, TERMINAL, Attempt, RetryBudget
from spoke.core.ledger import Share
from spoke.core.schedulers import Request
from spoke.core.shape import Shape
from spoke.core.state import Item, Node

RECORDED: Final = ("state", "message", "exit_code", "number", "failures", "preemptions", "result", "stopping")


class Submitted(Item):
    """One job."""

    __slots__ = (
        "attempts", "budget", "children", "ending", "exit_code", "failures", "group", "message", "name",
        "node", "number", "parent", "preemptions", "queued_at", "ready_at", "request", "result", "shape",
        "share", "spec", "state", "stopping", "submission_id", "version", "waiters",
    )  # fmt: skip

    def __init__(self, submission_id: str, spec: dict[str, Any]) -> None:
        super().__init__()
        self.submission_id = submission_id
        self.spec = spec
        self.shape = Shape(spec)
        self.budget = RetryBudget(spec.get("retries") or {})
        self.name: str = spec.get("name") or submission_id
        self.parent: str = spec.get("parent") or ""
        self.group: str = spec.get("group") or ""
        self.state = PENDING
        self.message = ""
        self.exit_code: int | None = None
        self.number = 0  # of the present attempt
        self.attempts: list[Attempt] = []
        self.failures = 0
        self.preemptions = 0
        self.queued_at = 0.0
        self.ready_at = 0.0  # not before this time: back-off
        self.request: Request | None = None  # as the scheduler sees it while it waits, without its group
        self.node: Node | None = None
        self.share: Share | None = None
        self.result: bytes | None = None
        self.stopping = ""  # why its processes are being ended
        self.ending: tuple[str, str] | None = None  # terminal state and message, once all children ended
        self.children: dict[str, Submitted] = {}
        # (peer, request) -> the version it has seen; None: it waits for the end
        self.waiters: dict[tuple[bytes, int], Any] = {}
        self.version = 0

    @property
    def live(self) -> bool:
        """Whether it has not ended."""
        return self.state not in TERMINAL

    def describe(self) -> dict[str, Any]:
        """What clients are told."""
        latest = self.attempts[-1] if self.attempts else None
        return {
            "job_id": self.submission_id,
            "name": self.name,
            "parent": self.parent,
            "group": self.group,
            "state": self.state,
            "message": self.message,
            "exit_code": self.exit_code,
            "attempt": self.number,
            "attempts": [attempt.record() for attempt in self.attempts],
            "failures": self.failures,
            "preemptions": self.preemptions,
            "submitted_ms": self.spec.get("submitted_ms", 0),
            "started_ms": next((one.started_ms for one in self.attempts if one.started_ms), 0),
            "finished_ms": latest.finished_ms if latest is not None and not self.live else 0,
            "node_id": latest.node_id if latest is not None else b"",
            "ports": latest.ports if latest is not None else {},
            "has_result": self.result is not None,
            "entrypoint": self.spec.get("entrypoint") or "",
            "metadata": self.spec.get("metadata") or {},
            "runtime_env": self.spec.get("runtime_env") or {},
            "resources": self.spec.get("resources") or {},
            "version": self.version,
        }

    @classmethod
    def of(cls, record: dict[str, Any]) -> Submitted:
        """The job of a `record`, on no node."""
        job = cls(record["id"], record["spec"])
        for name in RECORDED:
            setattr(job, name, record[name])
        job.attempts = [Attempt.of(one) for one in record["attempts"]]
        return job

    def record(self) -> dict[str, Any]:
        """What a restarted hub needs: plain values."""
        return {
            "id": self.submission_id,
            "spec": self.spec,
            "attempts": [attempt.record() for attempt in self.attempts],
            "node_id": self.node.node_id if self.node is not None else b"",
            **{name: getattr(self, name) for name in RECORDED},
        }

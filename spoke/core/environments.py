"""Runtime environments as the hub sees them: which workers wait for theirs, and who hears how it goes.

Rules of this module: the node of a worker makes its environment, and says so; the hub only keeps such a
worker out of the count of those that start, and passes on what is said to the drivers that wait.
"""

from __future__ import annotations

from typing import Any, Final

from spoke import wire
from spoke.core.pool import Pool
from spoke.core.state import Client, Node, State, Worker

PREPARING: Final = "preparing"
READY: Final = "ready"
FAILED: Final = "failed"
NAME: Final = "runtime_env"  # of the output at the driver


class Environments:
    """See the module."""

    def __init__(self, state: State, pool: Pool) -> None:
        self.s = state
        self.pool = pool
        self.requests = {"env_eager": self._eager}

    def said(self, node: Node, worker_id: bytes, state: str, pid: int, lines: list[Any]) -> None:
        """ENV_STATE of an agent."""
        worker = self.s.workers.get(worker_id)
        if worker is None or worker.node is not node:
            return
        if state == FAILED:
            worker.env_error = "\n".join(map(str, lines)) or "no reason was given"
            return  # its exit follows
        self.pool.prepares(worker, state == PREPARING)
        if lines:
            self._tell(worker, pid, lines)

    def _tell(self, worker: Worker, pid: int, lines: list[Any]) -> None:
        """The drivers whose work waits for this environment."""
        node = worker.node
        jobs = dict.fromkeys(holding.job for holding in node.waiting.get(worker.key, ()))
        for job_id in jobs:
            job = self.s.jobs.get(job_id)
            if job is not None and job.driver is not None:
                message = (wire.LOG_LINES, node.node_id, pid, NAME, "stderr", lines)
                self.s.send(job.driver.peer, *message)

    def _eager(self, client: Client, args: dict[str, Any]) -> None:
        """A driver's environment, ahead of its first task."""
        for node in self.s.alive:
            self.s.send(node.node_id, wire.PREPARE_ENV, args["env"])

"""How processes ended, as the state API shows it: a kind, and a sentence.

Rules of this module: the kinds are Ray's.  What somebody meant is known when it is decided (`meant`, and
`_cancelled` of a caller that cancelled a task by force); an end that nobody meant is an error of the system,
unless the process left without one.
"""

from __future__ import annotations

from typing import Any, Final

from spoke.core.exits import Exit
from spoke.core.state import Client, State, Worker
from spoke.limits import MAX_DEAD_RECORDS

SYSTEM_ERROR: Final = "SYSTEM_ERROR"
USER_ERROR: Final = "USER_ERROR"
BY_SYSTEM: Final = "INTENDED_SYSTEM_EXIT"
BY_USER: Final = "INTENDED_USER_EXIT"

_SIGKILL: Final = 9
_OOM: Final = (
    "; something killed it by force: the kernel, as memory ran out (OOM, see dmesg), or a program or person"
)


class Endings:
    """The latest ends of workers and drivers."""

    def __init__(self, state: State) -> None:
        self.s = state
        self.table: dict[bytes, dict[str, Any]] = {}
        self._meant: dict[bytes, tuple[str, str]] = {}
        self.requests = {"ended_workers": self._list, "cancelled_by_force": self._cancelled}

    def meant(self, worker: Worker, kind: str, cause: str) -> None:
        """The actor of a worker ends, in this way (`Actors.end`), and so does the worker."""
        if kind == "constructor":
            cause = f"Worker exits because there was an exception in the initialization method: {cause}"
            self._meant[worker.worker_id] = (USER_ERROR, cause)
        else:
            self._meant[worker.worker_id] = (BY_USER if kind == "exited" else BY_SYSTEM, cause)

    def worker_gone(self, worker: Worker, exit_: Exit) -> None:
        """A worker was reaped, or its node is lost."""
        found = self._meant.pop(worker.worker_id, None)
        if found is None:
            detail = exit_.text + (_OOM if exit_.signal == _SIGKILL and not worker.why else "")
            kind = BY_SYSTEM if worker.why else BY_USER if exit_.code == 0 else SYSTEM_ERROR
            found = (kind, detail)
        self._note(worker.worker_id, "WORKER", worker.node.node_id, worker.node.host, worker.pid, *found)

    def driver_left(self, client: Client) -> None:
        """The link of a driver ended."""
        detail = "the driver called ray.shutdown(), or its process ended"
        self._note(client.peer, "DRIVER", client.node_id, client.address[2], client.pid, BY_USER, detail)

    def _note(
        self, worker_id: bytes, role: str, node_id: bytes, ip: str, pid: int, kind: str, detail: str
    ) -> None:
        record = {
            "worker_id": worker_id, "worker_type": role, "node_id": node_id, "ip": ip, "pid": pid,
            "exit_type": kind, "exit_detail": detail,
        }  # fmt: skip
        self.s.remember(self.table, worker_id, record, MAX_DEAD_RECORDS)

    def _cancelled(self, client: Client, args: dict[str, Any]) -> None:
        """A caller had a task's worker end, by cancelling the task."""
        record = self.table.get(args["worker"])
        if record is not None and record["exit_type"] == SYSTEM_ERROR:
            record["exit_type"] = BY_USER
            record["exit_detail"] = f"its task {args['call']} was cancelled by ray.cancel(force=True)"

    def _list(self, client: Client, args: dict[str, Any]) -> list[dict[str, Any]]:
        return list(self.table.values())

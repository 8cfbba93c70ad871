"""The output of workers, actors, tasks and jobs: which files there are, and their lines.

Workers' files are on the machine of their node, so these functions show those of this machine; the output of
submitted jobs comes through the hub, from any node.
"""

from __future__ import annotations

import glob
import os
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from spoke import records
from spoke.handles import ActorHandle
from spoke.logs import MARK
from spoke.util.state.common import DEFAULT_RPC_TIMEOUT
from spoke.util.state.exception import RayStateApiException
from spoke.util.state.source import Source, looking

FOLLOW_S: Final = 0.1
_MARK: Final = MARK.decode()  # begins what tells whose output follows
_KINDS: Final = {".out": "worker_out", ".err": "worker_err"}


def _directories(source: Source, node_id: str | None, node_ip: str | None) -> list[tuple[str, str]]:
    """Node id and log directory of the cluster's nodes on this machine."""
    wanted = {
        row["NodeID"]
        for row in source.ask("nodes")
        if node_id in (None, row["NodeID"]) and node_ip in (None, row["NodeManagerAddress"])
    }
    if not wanted:
        raise RayStateApiException(f"the cluster has no node {node_id or node_ip}")
    return [
        (str(record["node_id"]), str(record["log_dir"]))
        for record in records.live()
        if record.get("log_dir") and record["node_id"] in wanted
    ]


def list_logs(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    glob_filter: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
) -> dict[str, list[str]]:
    """Names of the log files of nodes on this machine: {"worker_out": [...], "worker_err": [...], ...}.

    Args:
        glob_filter: a pattern of file names, or of folder/name; None: all.

    Raises:
        RayStateApiException: there is no such node; ServerUnavailable: there is no cluster to ask.
    """
    found: dict[str, list[str]] = {"worker_out": [], "worker_err": []}
    with looking(address, timeout) as source:
        folders = _directories(source, node_id, node_ip)
    for _, folder in folders:
        for pattern in (glob_filter or "*", os.path.join("*", glob_filter or "*")):
            for path in sorted(glob.glob(os.path.join(folder, pattern))):
                if os.path.isfile(path):
                    kind = _KINDS.get(os.path.splitext(path)[1], "internal")
                    found.setdefault(kind, []).append(os.path.relpath(path, folder))
    return {kind: list(dict.fromkeys(names)) for kind, names in found.items()}


def get_log(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    filename: str | None = None,
    actor_id: str | None = None,
    task_id: str | None = None,
    pid: int | None = None,
    follow: bool = False,
    tail: int = -1,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    suffix: str = "out",
    encoding: str | None = "utf-8",
    errors: str | None = "strict",
    submission_id: str | None = None,
    attempt_number: int = 0,
    _interval: float | None = None,
    filter_ansi_code: bool = False,
) -> Iterator[str]:
    """Lines of one log, chosen by a file's name or the id of an actor, task, process or submitted job.

    What an actor or a worker wrote is one file; a task's lines are those that its worker wrote while it ran
    under the task's name.

    Args:
        follow: go on until the generator is closed.
        tail: only this many of the last lines; -1 gives all.
        suffix: "out" or "err".
        attempt_number: of a task that was retried.

    Raises:
        ValueError: nothing is asked for, or there is no such actor, task or process.
        RayStateApiException: its file is not on this machine.
        ServerUnavailable: there is no cluster to ask.
    """
    if suffix not in ("out", "err"):
        raise ValueError(f"suffix is 'out' or 'err', not {suffix!r}")
    if submission_id is not None:
        yield from _of_job(submission_id, follow, tail)
        return
    with looking(address, timeout) as source:
        name: str | None = None
        if filename is None:
            worker, name = _worker_of(source, actor_id, task_id, pid, attempt_number)
            filename = f"worker-{worker}.{suffix}"
        path = _find(source, filename, node_id, node_ip)
    with open(path, encoding=encoding or "utf-8", errors=errors) as file:
        lines = _Lines(file, name)
        if tail >= 0:
            yield from deque(lines, tail)
        else:
            yield from lines
        while follow:
            more = list(lines)
            yield from more
            if not more:
                time.sleep(_interval or FOLLOW_S)


class _Lines:
    """The lines of a file, without those that only tell whose output follows.

    Args:
        name: only what was written under this name; None: all.
    """

    def __init__(self, file: Any, name: str | None) -> None:
        self._file = file
        self._name = name
        self._now: str | None = None

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        while True:
            line = self._file.readline()
            if not line:
                raise StopIteration
            text, mark, name = line.partition(_MARK)
            wanted = self._name is None or self._now == self._name
            if mark:
                self._now = name.rstrip("\n")
                text = text and text + "\n"
            if text and wanted:
                return str(text)


def _find(source: Source, filename: str, node_id: str | None, node_ip: str | None) -> str:
    for _, folder in _directories(source, node_id, node_ip):
        # An actor of a gang writes into the gang's folder.
        for path in (os.path.join(folder, filename), *glob.glob(os.path.join(folder, "*", filename))):
            if os.path.isfile(path):
                return path
    raise RayStateApiException(
        f"no log {filename!r} on this machine: it was empty, or its node is elsewhere; see list_logs()"
    )


def _of_job(submission_id: str, follow: bool, tail: int) -> Iterator[str]:
    from spoke.job_submission import JobSubmissionClient
    from spoke.jobs.job import Job

    client = JobSubmissionClient()
    try:
        lines = Job(submission_id, client._line).logs(follow=follow, tail=tail if tail >= 0 else None)
        for line in lines:
            yield line + "\n"
    except (KeyError, RuntimeError) as error:
        raise ValueError(str(error)) from None
    finally:
        client.close()


def _worker_of(
    source: Source, actor_id: Any, task_id: str | None, pid: int | None, attempt: int
) -> tuple[str, str | None]:
    """The hexadecimal id of a worker, and under which name the wanted lines were written (None: any).

    Raises:
        ValueError: it is not said, or there is none.
    """
    if task_id is not None:
        from spoke.util.state.rows import tasks

        for row in tasks(source):
            if row.task_id == task_id and row.attempt_number == attempt:
                if row.worker_id is None:
                    raise ValueError(f"task {task_id} has no worker: it is {row.state}")
                return row.worker_id, None if row.actor_id else row.name
        raise ValueError(f"no task {task_id} with attempt {attempt} is known")
    if actor_id is not None:
        wanted = actor_id._actor_id if isinstance(actor_id, ActorHandle) else actor_id
        wanted = wanted.hex() if not isinstance(wanted, str) else wanted
        for row in source.ask("actors"):
            if row["actor_id"].hex() == wanted:
                if not row["workers"]:
                    raise ValueError(f"actor {wanted} has had no worker: it is {row['state']}")
                return row["workers"][-1][1].hex(), None
        raise ValueError(f"no actor {wanted} is known")
    if pid is None:
        raise ValueError("say which log: filename, actor_id, task_id, submission_id or pid")
    for row in source.ask("workers"):
        if row["pid"] == int(pid):
            return row["worker_id"].hex(), None
    raise ValueError(f"no worker has pid {pid}")

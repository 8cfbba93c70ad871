"""The output of workers, actors, tasks and jobs: which files there are, and their lines.

The files are read by the agents of their nodes, which the hub asks, so they may be on any node's machine.
"""

from __future__ import annotations

import codecs
import warnings
from collections import deque
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from spoke.handles import ActorHandle
from spoke.logs import MARK
from spoke.util.state.common import DEFAULT_RPC_TIMEOUT
from spoke.util.state.exception import RayStateApiException
from spoke.util.state.source import Source, looking

WAIT_S: Final = 2.0  # how long a reader that follows waits for one answer
PART_CHARS: Final = 4 * 1024 * 1024  # of a line that wait for its end
_MARK: Final = MARK.decode()  # begins what tells whose output follows
_KINDS: Final = {".out": "worker_out", ".err": "worker_err"}


class Place(NamedTuple):
    """A log file: on which node, and its path in the log directory there, or its name alone."""

    node_id: str
    filename: str


def _nodes(source: Source, node_id: str | None, node_ip: str | None) -> list[str]:
    """Ids of the nodes that live and are meant."""
    wanted = [
        row for row in source.ask("nodes")
        if node_id in (None, row["NodeID"]) and node_ip in (None, row["NodeManagerAddress"])
    ]  # fmt: skip
    if not wanted:
        raise RayStateApiException(f"the cluster has no node {node_id or node_ip}")
    return [str(row["NodeID"]) for row in wanted if row["Alive"]]


def ask_node(source: Source, node_id: str, **args: Any) -> Any:
    """What the agent of a node says of its log files; see `spoke.logreading`.

    Raises:
        RayStateApiException: the node is gone, or will not say.
    """
    try:
        return source.ask("node_logs", node=bytes.fromhex(node_id), args=args)
    except (RuntimeError, ValueError) as error:
        raise RayStateApiException(str(error)) from None


def list_logs(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    glob_filter: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
) -> dict[str, list[str]]:
    """Names of the nodes' log files: {"worker_out": [...], "worker_err": [...], ...}.

    Args:
        glob_filter: a pattern of file names, or of folder/name; None: all.

    Raises:
        RayStateApiException: there is no such node; ServerUnavailable: there is no cluster to ask.
    """
    found: dict[str, list[str]] = {"worker_out": [], "worker_err": []}
    left_out = 0
    with looking(address, timeout) as source:
        for node in _nodes(source, node_id, node_ip):
            answer = ask_node(source, node, glob=glob_filter or "*")
            left_out += answer["left_out"]
            for name in answer["names"]:
                _, dot, suffix = name.rpartition(".")
                found.setdefault(_KINDS.get(dot + suffix, "internal"), []).append(name)
    if left_out:
        warnings.warn(
            f"{left_out} more log files are left out: give a pattern.", RuntimeWarning, stacklevel=2
        )
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
        RayStateApiException: its node is gone, or there is no such file.
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
            place, name = _worker_of(source, actor_id, task_id, pid, attempt_number, suffix, node_id, node_ip)
        else:
            place = _find(source, filename, node_id, node_ip)
        # The last lines of a file are found where it is; those of one name are cut out of all.
        last = tail if tail >= 0 and name is None else -1
        reader = Reader(source, [place], last)
        cutter = Cutter(name, encoding or "utf-8", errors or "strict")
        lines = _until_now(reader, cutter, place, not follow)
        yield from deque(lines, tail) if tail >= 0 else lines
        while follow:
            (piece,) = reader.read(_interval or WAIT_S)
            yield from cutter.cut(piece or b"")


def _until_now(reader: Reader, cutter: Cutter, place: Place, final: bool) -> Iterator[str]:
    """All lines that are there, also a last one without an end if the reading is `final`.

    Raises:
        RayStateApiException: there is no such file.
    """
    (piece,) = reader.read()
    if piece is None:
        raise RayStateApiException(
            f"no log {place.filename!r} on its node: nothing was written, or it is removed"
        )
    while piece:
        yield from cutter.cut(piece)
        (piece,) = reader.read()
    if final:
        yield from cutter.cut(b"")


class Reader:
    """Reads files from where it has come to.

    Args:
        places: all on one node.
        tail: of each file, only this many of the last lines; -1: all.
    """

    def __init__(self, source: Source, places: list[Place], tail: int = -1) -> None:
        self._source = source
        self._node_id = places[0].node_id
        self._files = [(place.filename, 0 if tail < 0 else None, tail) for place in places]

    def read(self, within_s: float = 0) -> list[bytes | None]:
        """What follows in each file, b"" if nothing does, None if there is no such file (any more).

        Args:
            within_s: where nothing follows anywhere, wait so long for it.
        """
        within_s = min(within_s, self._source.timeout_s / 2)
        found = ask_node(self._source, self._node_id, files=self._files, within_s=within_s)
        for index, one in enumerate(found):
            if one is not None:
                self._files[index] = (self._files[index][0], one[0] + len(one[1]), 0)
        return [one and one[1] for one in found]


class Cutter:
    """Cuts what is read of a worker's file into lines, without those that only tell whose output follows.

    Args:
        name: only what was written under this name; None: all.
        encoding, errors: of the text.
    """

    def __init__(self, name: str | None = None, encoding: str = "utf-8", errors: str = "strict") -> None:
        self._name = name
        self._now: str | None = None
        self._part = ""
        self._decoder = codecs.getincrementaldecoder(encoding)(errors)

    def cut(self, piece: bytes) -> Iterator[str]:
        """The lines that end in this piece; b"" gives out what has waited for its end, as does its length."""
        *lines, self._part = (self._part + self._decoder.decode(piece)).split("\n")
        for line in lines:
            yield from self._shown(line + "\n")
        if (not piece or len(self._part) > PART_CHARS) and self._part and _MARK not in self._part:
            line, self._part = self._part, ""
            yield from self._shown(line)

    def _shown(self, line: str) -> Iterator[str]:
        text, mark, name = line.partition(_MARK)
        wanted = self._name is None or self._now == self._name
        if mark:
            self._now = name.rstrip("\n")
            text = text and text + "\n"
        if text and wanted:
            yield text


def _find(source: Source, filename: str, node_id: str | None, node_ip: str | None) -> Place:
    """The first node that has this file."""
    for node in _nodes(source, node_id, node_ip):
        place = Place(node, filename)
        if Reader(source, [place], 0).read()[0] is not None:
            return place
    raise RayStateApiException(f"no log {filename!r} on any node that lives; see list_logs()")


def _of_job(submission_id: str, follow: bool, tail: int) -> Iterator[str]:
    from spoke.job_submission import JobSubmissionClient
    from spoke.jobs.job import Job

    client = JobSubmissionClient()
    try:
        lines = Job(submission_id, client._line).logs(follow=follow, tail=tail if tail >= 0 else None)
        for line in lines:
            yield line + "\n"
    except (KeyError, RuntimeError) as error:
        raise ValueError(str(error.args[0])) from None
    finally:
        client.close()


def _worker_of(
    source: Source, actor_id: Any, task_id: str | None, pid: int | None, attempt: int, suffix: str,
    node_id: str | None, node_ip: str | None,
) -> tuple[Place, str | None]:  # fmt: skip
    """The file of a worker, and under which name the wanted lines were written (None: any).

    Raises:
        ValueError: it is not said, or there is none.
    """
    if task_id is not None:
        from spoke.util.state.rows import tasks

        for row in tasks(source):
            if row.task_id == task_id and row.attempt_number == attempt:
                if row.worker_id is None:
                    raise ValueError(f"task {task_id} has no worker: it is {row.state}")
                name = None if row.actor_id else row.name
                return Place(str(row.node_id), f"worker-{row.worker_id}.{suffix}"), name
        raise ValueError(f"no task {task_id} with attempt {attempt} is known")
    if actor_id is not None:
        wanted = actor_id._actor_id if isinstance(actor_id, ActorHandle) else actor_id
        wanted = wanted.hex() if not isinstance(wanted, str) else wanted
        for row in source.ask("actors"):
            if row["actor_id"].hex() == wanted:
                if not row["workers"]:
                    raise ValueError(f"actor {wanted} has had no worker: it is {row['state']}")
                node, worker = row["workers"][-1]
                return Place(node.hex(), f"worker-{worker.hex()}.{suffix}"), None
        raise ValueError(f"no actor {wanted} is known")
    if pid is None:
        raise ValueError("say which log: filename, actor_id, task_id, submission_id or pid")
    meant = _nodes(source, node_id, node_ip)
    for row in source.ask("workers"):
        if row["pid"] == int(pid) and row["node_id"].hex() in meant:
            return Place(row["node_id"].hex(), f"worker-{row['worker_id'].hex()}.{suffix}"), None
    raise ValueError(f"no worker has pid {pid}")

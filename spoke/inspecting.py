"""What one process knows of calls and objects, put into rows for somebody who asks (wire.INSPECT).

Rules of this module: it only reads, with the client's lock held, unpickles nothing of the user's, and costs
nothing until it is asked.  A call is known to its caller until it is answered, and to the worker that ran it
for a while longer; who puts the answers together (`spoke.util.state`) prefers the worker's row.  Times are
wall clock, in microseconds since the epoch.
"""

from __future__ import annotations

import io
import pickle
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from msgpack import packb

from spoke.core.refs import ACTOR_SUFFIX, CANCELLED, EXCEPTION, PENDING, PUT_SUFFIX, SYSTEM, VALUE, Entry
from spoke.limits import ERROR_CHARS

if TYPE_CHECKING:
    from spoke.client import Client

TASK_FIELDS: Final = (
    "task_id", "name", "function", "actor_id", "state", "start_us", "micros", "error_type", "attempt",
    "parent", "peer", "ran_here", "message",
)  # fmt: skip
OBJECT_FIELDS: Final = ("object_id", "size", "status", "kind", "owner", "uses", "attempt")

RUNNING: Final = "RUNNING"
QUEUED: Final = "SUBMITTED_TO_WORKER"
BEHIND: Final = "PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY"  # it waits at its actor for its turn
FINISHED: Final = "FINISHED"
FAILED: Final = "FAILED"
CREATION: Final = b"\xff" * 8  # before an actor's id: the call of its constructor, as Ray names it

_ERRORS: Final = {  # the names that Ray has for how a task can fail
    "WorkerCrashedError": "WORKER_DIED",
    "ActorDiedError": "ACTOR_DIED",
    "ActorUnavailableError": "ACTOR_UNAVAILABLE",
    "ActorUnschedulableError": "ACTOR_UNSCHEDULABLE_ERROR",
    "TaskUnschedulableError": "TASK_UNSCHEDULABLE_ERROR",
    "OwnerDiedError": "OWNER_DIED",
    "OutOfMemoryError": "OUT_OF_MEMORY",
    "NodeDiedError": "NODE_DIED",
    "RuntimeEnvSetupError": "RUNTIME_ENV_SETUP_FAILED",
}


def answer(client: Client, what: str, args: dict[str, Any]) -> bytes:
    """The packed ``[facts, rows]`` of this process; rows of an unknown question are empty.  Lock held."""
    limit = max(1, int(args.get("rows") or 1))
    facts: dict[str, Any] = {}
    rows: list[Any] = []
    if what == "tasks":
        rows = _tasks(client)
        facts["children"] = list(client.children)
    elif what == "objects":
        rows = _objects(client)
    elif what == "store":
        facts["store"] = client.store.stats()
    elif what == "runtime_env":
        facts["runtime_env"] = dict(client.job_env)
    facts["left_out"] = max(0, len(rows) - limit)
    body: bytes = packb([facts, rows[-limit:]])
    return body


def last_words(client: Client) -> bytes:
    """As `answer` for "tasks", of a process that may be ended now; empty where no call was answered."""
    if client.executor is None or not client.executor.outcome.ended:
        return b""
    return answer(client, "tasks", {"rows": len(client.executor.outcome.ended)})


# -- calls


def _tasks(client: Client) -> list[Any]:
    rows = _ended(client) if client.executor is not None else []
    rows += [_failed(row) for row in client.failed]
    if client.executor is not None:
        rows += _under_way(client)
    for call in client.calls.calls.values():
        actor_id = call.key if isinstance(call.key, bytes) else None
        function = _function(client, call)
        state = "PENDING_ARGS_AVAIL" if call.waiting else "PENDING_NODE_ASSIGNMENT"
        if call.peer is not None:
            state = QUEUED
        rows.append(
            [call.id, call.options.get("name") if call.options else None, function, actor_id, state, 0, 0, "",
             call.attempt, call.parent, call.peer, False, ""]
        )  # fmt: skip
    return rows


def _function(client: Client, call: Any) -> str:
    """``f``, or ``Class.method``."""
    if not isinstance(call.key, bytes):
        return str(call.name or "task")
    channel = client.calls.actors.channels.get(call.key)
    return f"{channel.name if channel is not None else 'actor'}.{call.target}"


def _ended(client: Client) -> list[Any]:
    """Calls that this worker has answered."""
    host = client.executor.actor
    actor_id = host.actor_id if host is not None else None
    to_wall = time.time_ns() - time.perf_counter_ns()
    texts = dict(client.executor.outcome.errors)
    rows = []
    for call_id, method, task_name, name, started, micros, status in client.executor.outcome.ended:
        of_actor = isinstance(method, str) and host is not None
        function = f"{host.class_name}.{method}" if of_actor else task_name
        error = {EXCEPTION: "TASK_EXECUTION_EXCEPTION", CANCELLED: "TASK_CANCELLED"}.get(status, "")
        name = name or (_own_name(host, method) if of_actor else None)
        rows.append(
            [call_id, name, function, actor_id if of_actor else None, FAILED if error else FINISHED,
             (started + to_wall) // 1000, micros, error, 0, None, None, True,
             texts.get(call_id, "") if error else ""]
        )  # fmt: skip
    return rows


def _own_name(host: Any, method: str) -> str | None:
    """What a method is called of an actor whose class has a ``__repr__``."""
    return f"{host.repr_name}.{method}" if host is not None and host.repr_name else None


def remember_failure(client: Client, call: Any, status: int, value: list[Any]) -> None:
    """A call failed or was cancelled at its caller: keep its row, nothing that it refers to; lock held."""
    error, packed = "TASK_CANCELLED", b""
    if status == SYSTEM:
        error, packed = "", value[0]
    elif status != CANCELLED:  # an argument that failed
        error = "DEPENDENCY_FAILED"
    actor_id = call.key if isinstance(call.key, bytes) else None
    client.failed.append(
        [call.id, (call.options or {}).get("name"), _function(client, call), actor_id, FAILED,
         time.time_ns() // 1000, 0, error, call.attempt, call.parent, call.left, False, packed]
    )  # fmt: skip


class _NoClasses(pickle.Unpickler):
    """Reads what `client.encode_error` wrote, a name and a text.

    The error of an actor's constructor is an exception of the user's instead: its class may run anything, and
    a ref in it takes the lock that is held here.
    """

    def find_class(self, module: str, name: str, /) -> Any:
        raise pickle.UnpicklingError(name)


def _failed(row: list[Any]) -> list[Any]:
    """A call that ended at its caller, without an answer."""
    *most, error, attempt, parent, peer, here, packed = row
    text = ""
    if packed:
        try:
            name, text = _NoClasses(io.BytesIO(packed)).load()
        except pickle.UnpicklingError:
            name, text = "ActorDiedError", "The actor's constructor raised; its own row says what."
        error = _ERRORS.get(name, name)
    return [*most, error, attempt, parent, peer, here, text[:ERROR_CHARS]]


def _under_way(client: Client) -> list[Any]:
    """Calls that this worker runs, or has and does not run yet: the oldest run, as many as may at once."""
    executor = client.executor
    host = executor.actor
    at_once = host.limit + sum(host.groups.values()) if host is not None else 1
    actor_id = host.actor_id if host is not None else None
    waiting = BEHIND if host is not None and host._waiting is None else QUEUED
    rows = []
    for index, job in enumerate(executor.jobs.values()):
        state = RUNNING if index < at_once else waiting
        method = job.function_name.rpartition(".")[2]
        names = [job.options.get("name") or _own_name(host, method), job.function_name]
        rows.append([job.call_id, *names, actor_id, state, 0, 0, "", 0, None, None, True, ""])
    return rows


# -- objects


def _objects(client: Client) -> list[Any]:
    refs = client.refs
    pinned = _counted(entry for call in client.calls.calls.values() for entry in call.pins or ())
    inside = _counted(inner for entry in refs.entries.values() for inner in entry.contains or ())
    rows = []
    for entry in refs.entries.values():
        uses = entry.local - pinned.get(entry.id, 0) - inside.get(entry.id, 0)
        if entry.id.endswith(ACTOR_SUFFIX):
            kind = "ACTOR_HANDLE"
        elif uses > 0:
            kind = "LOCAL_REFERENCE"
        elif entry.id in pinned or (entry.status == PENDING and entry.call is not None):
            kind = "USED_BY_PENDING_TASK"
        elif entry.id in inside:
            kind = "CAPTURED_IN_OBJECT"
        else:
            kind = "PINNED_IN_MEMORY"  # for those who borrow it
        attempt = getattr(entry.call, "attempt", 0)
        owner = entry.owner[0] if entry.owner is not None else client.process_id
        rows.append(
            [entry.id, _size(entry.value), _status(entry), kind, owner, max(uses, 0), attempt]
        )  # fmt: skip
    return rows


def counts(client: Client) -> dict[bytes, tuple[int, int]]:
    """Of each object that this process refers to: its refs, and its calls that carry it; lock held."""
    pinned = _counted(entry for call in client.calls.calls.values() for entry in call.pins or ())
    inside = _counted(inner for entry in client.refs.entries.values() for inner in entry.contains or ())
    found = {}
    for object_id, entry in client.refs.entries.items():
        submitted = pinned.get(object_id, 0)
        local = entry.local - submitted - inside.get(object_id, 0)
        if not object_id.endswith(ACTOR_SUFFIX) and local + submitted > 0:
            found[object_id] = local, submitted
    return found


def is_known(client: Client, object_id: bytes, inline: bool) -> bool:
    """Whether this process can read the object without waiting; with `inline`, only one in no block.

    The owner of one that is not known here is asked, without waiting for the answer; lock held.
    """
    entry = client.refs.entries.get(object_id)
    if entry is None or entry.status not in (VALUE, EXCEPTION):
        if entry is not None and entry.owner is not None:
            client.refs.fetch(entry)  # who looks again knows
            client._settle()
        return False
    put = object_id.endswith(PUT_SUFFIX)
    return not inline or (not put and all(isinstance(part, bytes) for part in entry.value or ()))


def _counted(entries: Iterable[Entry]) -> dict[bytes, int]:
    counts: dict[bytes, int] = {}
    for entry in entries:
        counts[entry.id] = counts.get(entry.id, 0) + 1
    return counts


def _status(entry: Entry) -> str:
    """Where the task stands that makes the object; FINISHED for one that was put."""
    if entry.id.endswith(ACTOR_SUFFIX):
        return "NIL"
    if entry.status == PENDING:
        call = entry.call
        waits = getattr(call, "waiting", 0)
        return "PENDING_ARGS_AVAIL" if waits else QUEUED if getattr(call, "peer", None) else "PENDING"
    return FINISHED if entry.status in (0, EXCEPTION) else FAILED


def _size(parts: Any) -> int | None:
    """Bytes of a value, None while there is none."""
    if parts is None:
        return None
    return sum(len(part) if isinstance(part, bytes) else int(part[4]) for part in parts)

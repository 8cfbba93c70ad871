"""Questions to all processes: handed on to each, answered together when all have, or when time is up.

What calls run and which objects are held is known to the processes alone (HUB-1), so the hub keeps none
of it and asks when somebody wants to see it.  A process that does not answer in time, as its code holds
the interpreter, is named instead of waited for.  Answers are opaque here.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from spoke import wire
from spoke.core import Send
from spoke.core.directory import DEFERRED, RequestError
from spoke.core.state import Client, State, Worker
from spoke.limits import MAX_META_BYTES, MAX_TASK_EVENTS

ANSWER_S: Final = 3.0  # default time to answer
ANSWER_MAX_S: Final = 60.0
OPEN_MAX: Final = 32  # questions at a time (LIM-1)
ROWS_MIN: Final = 100  # that each process may give, however many there are
PAST_BYTES: Final = MAX_META_BYTES // 4  # of what workers said that are gone
BYTES_MAX: Final = MAX_META_BYTES * 3 // 4  # of all answers together, as they travel in one message


class _Question:
    """One question on its way."""

    __slots__ = ("answers", "asker", "bytes", "deadline", "request_id", "waits")

    def __init__(self, asker: bytes, request_id: int, deadline: float) -> None:
        self.asker = asker
        self.request_id = request_id
        self.deadline = deadline
        self.waits: dict[bytes, Client] = {}
        self.answers: list[list[Any]] = []
        self.bytes = 0


class Inspections:
    """The open questions to processes."""

    def __init__(self, state: State) -> None:
        self.s = state
        self._open: dict[int, _Question] = {}
        self._serial = 0
        self._past: deque[list[Any]] = deque()
        self._past_bytes = 0
        self.requests = {"inspect": self._ask}

    def _ask(self, client: Client, args: dict[str, Any]) -> Any:
        """``topic`` goes to every driver and worker, or to the one with the id ``process``."""
        s = self.s
        if len(self._open) >= OPEN_MAX:
            raise RequestError("RuntimeError", f"{OPEN_MAX} questions to all processes wait already")
        limit_s = min(float(args.get("within_s") or ANSWER_S), ANSWER_MAX_S)
        question = _Question(client.peer, s.request_id, s.now + limit_s)
        only = args.get("process")
        for other in s.clients.values():
            if other.role != "observer" and only in (None, other.peer):
                question.waits[other.peer] = other
        if args["topic"] == "tasks":
            question.answers += [one for one in self._past if only in (None, one[1])]
            question.bytes += self._past_bytes
        if not question.waits:
            return {"answers": question.answers, "missing": []}
        self._serial += 1
        self._open[self._serial] = question
        rows = max(ROWS_MIN, MAX_TASK_EVENTS // len(question.waits))
        for peer in question.waits:
            s.send(peer, wire.INSPECT, self._serial, str(args["topic"]), {"rows": rows})
        s.wake_at(question.deadline)
        return DEFERRED

    def answered(self, client: Client, number: int, answer: bytes) -> None:
        """INSPECTED of a process; one that comes too late, or does not fit any more, is dropped."""
        question = self._open.get(number)
        if question is None or client.peer not in question.waits:
            return
        question.bytes += len(answer)
        if question.bytes <= BYTES_MAX:
            del question.waits[client.peer]
            question.answers.append([*self._row(client), answer])
        if not question.waits or question.bytes > BYTES_MAX:
            self._close(number)

    def keep(self, worker: Worker) -> None:
        """A worker that told of its calls is gone: keep what it said, the latest of all such."""
        if not worker.calls:
            return
        row = ["worker", worker.worker_id, worker.node.node_id, worker.pid, worker.node.address, worker.job]
        self._past.append([*row, worker.calls])
        self._past_bytes += len(worker.calls)
        while self._past_bytes > PAST_BYTES:
            self._past_bytes -= len(self._past.popleft()[-1])

    def check(self) -> None:
        """Close what has waited for too long."""
        for number, question in list(self._open.items()):
            if question.deadline <= self.s.now:
                self._close(number)
            else:
                self.s.wake_at(question.deadline)

    def client_lost(self, client: Client) -> None:
        """It answers no more, and waits for no answer."""
        for number, question in list(self._open.items()):
            if question.asker == client.peer:
                del self._open[number]
            elif question.waits.pop(client.peer, None) is not None and not question.waits:
                self._close(number)

    def _close(self, number: int) -> None:
        question = self._open.pop(number)
        value = {
            "answers": question.answers,
            "missing": [self._row(client) for client in question.waits.values()],
        }
        self.s.out.append(Send(question.asker, (wire.RESPONSE, question.request_id, None, value)))

    def _row(self, client: Client) -> list[Any]:
        """``[role, process id, node id, pid, address of the node, job id]``."""
        job = client.job if client.worker is None else client.worker.job
        node = self.s.nodes.get(client.node_id)
        address = client.address[2] if node is None else node.address
        return [client.role, client.peer, client.node_id, client.pid, address, job]

"""Questions about output, of jobs and in log files: handed on to the agent that has it, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spoke import wire
from spoke.core import Send
from spoke.core.directory import DEFERRED, RequestError
from spoke.core.state import Client, Node, State
from spoke.core.submitted import Submitted


class LogQuestions:
    """The questions that agents have not answered yet.

    Args:
        find: the job of a request's arguments; RequestError when there is none.
    """

    def __init__(self, state: State, find: Callable[[dict[str, Any]], Submitted]) -> None:
        self.s = state
        self._find = find
        self._asked: dict[int, tuple[bytes, int, bytes]] = {}  # our number -> client, its request, node
        self._serial = 0
        self.requests = {"job_log": self._of_job, "node_logs": self._of_node}

    def _of_job(self, client: Client, args: dict[str, Any]) -> Any:
        """For the output of an attempt, on whatever node it ran."""
        job = self._find(args)
        wanted = args.get("attempt")
        attempt = next((one for one in reversed(job.attempts) if wanted in (None, one.number)), None)
        if attempt is None:
            which = "no attempt" if wanted is None else f"no attempt {wanted}"
            raise RequestError("ValueError", f"job {job.submission_id!r} has {which} on a node yet")
        serial = self._hand_on(client, attempt.node_id)
        asked = args.get("args") or {}
        self.s.send(attempt.node_id, wire.READ_LOG, serial, job.submission_id, attempt.number, asked)
        return DEFERRED

    def _of_node(self, client: Client, args: dict[str, Any]) -> Any:
        """For files in the log directory of ``node``."""
        serial = self._hand_on(client, args["node"])
        self.s.send(args["node"], wire.READ_FILES, serial, args.get("args") or {})
        return DEFERRED

    def _hand_on(self, client: Client, node_id: bytes) -> int:
        """The number of a question to this node."""
        node = self.s.nodes.get(node_id)
        if node is None or not node.alive:
            raise RequestError("RuntimeError", "the logs are gone with their node")
        self._serial += 1
        self._asked[self._serial] = (client.peer, self.s.request_id, node_id)
        return self._serial

    def read(self, node: Node, number: int, error: list[Any] | None, value: Any) -> None:
        """LOG_CHUNK of an agent."""
        found = self._asked.pop(number, None)
        if found is not None and found[2] == node.node_id:
            self._respond(found[0], found[1], error, value)

    def client_lost(self, peer: bytes) -> None:
        """Nobody waits for these answers any more."""
        for number in [number for number, entry in self._asked.items() if entry[0] == peer]:
            del self._asked[number]

    def node_died(self, node: Node, reason: str) -> None:
        """These answers will never come."""
        for number, (peer, request_id, home) in list(self._asked.items()):
            if home == node.node_id:
                del self._asked[number]
                error = ["RuntimeError", f"the node with the logs is gone: {reason}"]
                self._respond(peer, request_id, error)

    def _respond(self, peer: bytes, request_id: int, error: list[Any] | None, value: Any = None) -> None:
        self.s.out.append(Send(peer, (wire.RESPONSE, request_id, error, value)))

"""What a process asks of its hub and of its node's agent."""

from __future__ import annotations

import itertools
import os
import time
from typing import TYPE_CHECKING, Any, Final

from spoke import wire
from spoke.errors import GetTimeoutError, ObjectLostError, ObjectStoreFullError, RaySystemError
from spoke.ids import GROUP_BYTES, JOB_BYTES, random_bytes
from spoke.lead import Waiter
from spoke.replies import named_error
from spoke.segments import WHOLE
from spoke.wire import encode

if TYPE_CHECKING:
    from spoke.client import Client
    from spoke.links import Link
    from spoke.objectref import ObjectRef

AGENT_ANSWER_S: Final = 30.0
PIECE_ANSWER_S: Final = 60.0


class _Question(Waiter):
    __slots__ = ("answer", "asked", "error", "of_agent", "peer")

    def __init__(self, peer: bytes = b"") -> None:
        super().__init__(1)
        self.peer = peer  # who answers, where it is neither the hub nor this node's agent
        self.answer: Any = None
        self.error: Any = None  # [class name, message]
        self.asked: tuple[bytes, Any] | None = None  # the message and its payload, to ask again
        self.of_agent = False


class HubSide:
    """Questions and answers; all `on_*` run with the client's lock held."""

    def __init__(self, client: Client, link: Link, agent: Link) -> None:
        self._client = client
        self.link = link
        self.agent = agent
        self._questions: dict[int, _Question] = {}
        self._ids = itertools.count(1)
        self._agents: dict[bytes, wire.Address] = {}
        # allocator -> (node, segment) -> uses given back so far; for the agent, if the allocator dies
        self._returned: dict[bytes, dict[tuple[bytes, int], int]] = {}
        self.group_states: dict[bytes, tuple[str, dict[str, Any]]] = {}
        self.group_waiters: dict[bytes, list[Any]] = {}
        # (namespace, name) -> callbacks that take the rows of all endpoints of the name; lock held
        self.endpoint_watchers: dict[tuple[str, str], list[Any]] = {}
        self.on_log_lines: Any = None
        self.on_pending_reason: Any = None
        self.handlers = {
            wire.RESPONSE: self._on_response,
            wire.SEGMENT: self._on_segment,
            wire.BLOCK: self._on_block,
            wire.READ_BLOCK: self._on_read_block,
            wire.TRIM: self._on_trim,
            wire.UNMAP: self._on_unmap,
            wire.GROUP_STATE: self._on_group_state,
            wire.PENDING_REASON: self._on_pending_reason,
            wire.LOG_LINES: self._on_log_lines,
            wire.ENDPOINTS: self._on_endpoints,
            wire.EXPLAIN: self._on_explain,
            wire.SHUTDOWN: self._on_shutdown,
        }

    def tell(self, *message: Any, payload: Any = None) -> None:
        """One message to the hub; lock held."""
        meta = encode(*message)
        rejoin = self._client.rejoin
        if rejoin is not None:
            if message[0] in wire.LASTING:
                self._keep(message, meta, payload)
            if rejoin.away:
                return
        self._client.links.send(self.link, meta, payload)

    # -- a hub that is restarted

    def welcomed(self) -> None:
        """The hub has let us in, perhaps again; lock held."""
        client = self._client
        if client.info.get("durable") and client.rejoin is None:
            from spoke.rejoin import Rejoin

            client.rejoin = Rejoin(client, client.hub_target, "worker" if client.is_worker else "driver")

    def _on_explain(self, link: Link, message: list[Any], payload: Any) -> None:
        from spoke import inquiry

        inquiry.answer_later(self._client, message[1], message[2])

    def _on_shutdown(self, link: Link, message: list[Any], payload: Any) -> None:
        """The cluster ends in order, or will not have this process: nobody comes back."""
        self._client.rejoin = None
        self._client.fail_everything(f"the cluster ended: {message[1]}")

    def _keep(self, message: tuple[Any, ...], meta: bytes, payload: Any) -> None:
        """The hub must have this on record before it may be forgotten; lock held."""
        assert self._client.rejoin is not None
        self._client.rejoin.keep(meta, payload)
        if message[0] in (wire.CREATE_ACTOR, wire.CREATE_GROUP):
            question = self._questions.get(message[2].get("request_id"))
            if question is not None:
                question.asked = (meta, payload)

    def unanswered(self, of_agent: bool) -> list[tuple[bytes, Any]]:
        """The questions to the hub, or to the agent, that wait for their answers; lock held."""
        asked = list(self._questions.values())
        return [one.asked for one in asked if one.asked is not None and one.of_agent == of_agent]

    # -- questions

    def request(self, what: str, timeout: float | None = None, **args: Any) -> Any:
        """Ask the hub and wait for its answer.

        Raises:
            the error the hub names, GetTimeoutError after `timeout` seconds, RaySystemError if the
            cluster is gone.
        """
        question_id = next(self._ids)
        return self._ask(question_id, self.link, (wire.REQUEST, question_id, what, args), timeout)

    def expect(self) -> tuple[int, _Question]:
        """An id for a message whose RESPONSE is awaited with `collect`; lock held or not."""
        question_id, question = next(self._ids), _Question()
        self._questions[question_id] = question
        return question_id, question

    def collect(self, question_id: int, question: _Question, timeout: float | None = None) -> Any:
        """Wait for the answer to `expect`."""
        client = self._client
        try:
            deadline = None if timeout is None else time.monotonic() + timeout
            if not client.lead.wait(question, deadline):
                raise GetTimeoutError(f"no answer within {timeout} s")
        finally:
            self._questions.pop(question_id, None)
        if question.error is not None:
            raise named_error(question.error)
        return question.answer

    def _ask(self, question_id: int, link: Link, message: tuple[Any, ...], timeout: float | None) -> Any:
        client = self._client
        client.check_open()
        question = _Question()
        meta = encode(*message)
        question.asked = (meta, None)
        question.of_agent = message[0] != wire.REQUEST
        with client.lock:
            self._questions[question_id] = question
            if message[0] == wire.REQUEST:
                self.tell(*message)
            else:
                client.links.send(link, meta)
        return self.collect(question_id, question, timeout)

    def _on_response(self, link: Link, message: list[Any], payload: Any) -> None:
        _, question_id, error, value = message
        question = self._questions.get(question_id)
        if question is not None:
            question.error, question.answer = error, value
            question.finish()

    def fail_all(self, reason: str) -> None:
        for question in self._questions.values():
            question.error = ["RaySystemError", reason]
            question.finish()
        for group_id in list(self.group_waiters):
            self._wake_group(group_id)

    # -- segments

    def new_segment(self, size: int) -> tuple[int, int, int]:
        """A fresh segment of `size` bytes: (id, size, descriptor).  Raises ObjectStoreFullError."""
        question_id = next(self._ids)
        return self._segment(question_id, (wire.NEW_SEGMENT, question_id, size))

    def map_segment(self, segment_id: int) -> tuple[int, int, int]:
        """Another process's segment: (id, size, descriptor).  Raises KeyError if it is gone."""
        question_id = next(self._ids)
        try:
            return self._segment(question_id, (wire.MAP_SEGMENT, question_id, segment_id))
        except ObjectStoreFullError:
            raise
        except (RaySystemError, ObjectLostError, KeyError, ValueError):
            raise KeyError(segment_id) from None

    def _segment(self, question_id: int, message: tuple[Any, ...]) -> tuple[int, int, int]:
        answer: tuple[int, int, int] = self._ask(question_id, self.agent, message, AGENT_ANSWER_S)
        return answer

    def _on_segment(self, link: Link, message: list[Any], payload: Any) -> None:
        _, question_id, segment_id, size, error = message
        descriptor = -1 if error is not None else self._client.reactor.take_fd(link.conn)
        question = self._questions.get(question_id)
        if question is None:
            if descriptor >= 0:
                os.close(descriptor)
            return
        question.error = error
        question.answer = (segment_id, size, descriptor)
        question.finish()

    def give_back(self, segment_id: int) -> None:
        """An own segment without blocks is needed no more; with or without the lock."""
        self._client.reactor.send(self.agent.conn, encode(wire.ORPHAN_FREE, segment_id, WHOLE))
        self._client.sharing.forget(segment_id)

    def _on_trim(self, link: Link, message: list[Any], payload: Any) -> None:
        self._client.store.trim()
        self._client.links.send(link, encode(wire.TRIMMED))

    def _on_unmap(self, link: Link, message: list[Any], payload: Any) -> None:
        key = (link.peer, message[1])
        if link is self.agent:
            self._client.store.unmap(message[1])
            self._client.sharing.forget(message[1])
        for allocator, totals in list(self._returned.items()):
            if totals.pop(key, None) is not None and not totals:
                del self._returned[allocator]

    def count_returned(self, allocator: bytes, descriptors: list[Any]) -> None:
        """These uses of blocks go back to `allocator`; lock held."""
        totals = self._returned.setdefault(allocator, {})
        for node_id, _, segment_id, *_ in descriptors:
            totals[node_id, segment_id] = totals.get((node_id, segment_id), 0) + 1

    def tell_returned(self, allocator: bytes) -> None:
        """`allocator` is dead, as far as we know: its agent learns what we gave back; lock held."""
        client = self._client
        for (node_id, segment_id), total in self._returned.get(allocator, {}).items():
            if node_id == client.node_id:
                client.links.send(self.agent, encode(wire.ORPHAN_FREE, segment_id, total))
            elif node_id in client.links.by_peer:
                client.tell(node_id, wire.ORPHAN_FREE, segment_id, total)

    # -- blocks over sockets (`transport.tcp.Source`)

    def block_link(self, part: list[Any]) -> Link:
        """The link to who reads a block to others: its node's agent, or the process that registered it.

        Raises:
            OSError, KeyError, GetTimeoutError: it cannot be reached, or is gone.
        """
        client, node_id = self._client, part[0]
        client.check_open()
        if part[2] < 0:
            return self.process_link(part[1])
        if node_id == client.node_id:
            return self.agent
        with client.lock:
            link = client.links.by_peer.get(node_id)
        if link is None:
            address = self._agent_address(node_id)
            with client.lock:
                link = client.links.open(node_id, address)
        return link

    def process_link(self, process_id: bytes) -> Link:
        """The link to a process, opened if need be; OSError, KeyError where it is gone."""
        client = self._client
        with client.lock:
            link = client.links.by_peer.get(process_id)
        if link is None:
            address = client.refs.addresses.get(process_id) or self.request("address", 10.0, id=process_id)
            if address is None:
                raise KeyError(f"process {process_id.hex()[:12]} is gone, and its registered memory with it")
            with client.lock:
                link = client.links.open(process_id, address)
        return link

    def _on_read_block(self, link: Link, message: list[Any], payload: Any) -> None:
        """A peer reads registered memory of this process; its own window bounds what it asks ahead."""
        _, question_id, segment_id, offset, length, _, _ = message
        try:
            if segment_id > 0:
                raise ValueError(f"segment {segment_id} is read from its node's agent")
            data = self._client.store.view([b"", b"", segment_id, offset, length, 0, 0])
        except (ObjectLostError, ValueError) as error:
            text = [type(error).__name__, str(error)]
            self._client.links.send(link, encode(wire.BLOCK, question_id, text))
        else:
            self._client.links.send(link, encode(wire.BLOCK, question_id, None), data)

    def ask_piece(self, link: Link, part: list[Any], start: int, length: int) -> tuple[int, _Question]:
        """Ask for bytes of a block; RaySystemError where the link is gone."""
        client = self._client
        question_id, question = next(self._ids), _Question(link.peer)
        with client.lock:
            if client.links.by_conn.get(link.conn) is not link:
                raise RaySystemError("the connection to the node was lost")
            self._questions[question_id] = question
            client.links.send(
                link, encode(wire.READ_BLOCK, question_id, part[2], part[3] + start, length, part[5], part[6])
            )
        return question_id, question

    def receive_piece(self, asked: tuple[int, _Question], length: int) -> Any:
        """Wait for the answer to `ask_piece`."""
        return self.collect(*asked, PIECE_ANSWER_S)

    def forget_piece(self, asked: tuple[int, _Question]) -> None:
        """Nobody waits for this answer any more."""
        self._questions.pop(asked[0], None)

    def peer_lost(self, peer: bytes) -> None:
        """What `peer` was asked gets no answer, and what it was given back may be lost; lock held."""
        if peer in self._returned:
            self.tell_returned(peer)
        self._agents.pop(peer, None)
        for question in self._questions.values():
            if question.peer == peer:
                question.error = ["RaySystemError", "the connection to the node was lost"]
                question.finish()

    def _on_block(self, link: Link, message: list[Any], payload: Any) -> None:
        question = self._questions.get(message[1])
        if question is not None:
            question.error, question.answer = message[2], payload
            question.finish()

    def _agent_address(self, node_id: bytes) -> wire.Address:
        address = self._agents.get(node_id)
        if address is None:
            for node in self.request("nodes", timeout=10.0):
                if node["Alive"]:
                    known = bytes.fromhex(node["NodeID"])
                    self._agents[known] = [known, known, node["Host"], node["NodeManagerPort"]]
            address = self._agents.get(node_id)
            if address is None:
                raise KeyError(f"node {node_id.hex()[:12]} is not alive")
        return address

    # -- groups

    def create_group(self, spec: dict[str, Any], named: bool) -> bytes:
        """Reserve a placement group; returns its id, its state follows by GROUP_STATE.

        Raises:
            RaySystemError: with `named`, which waits for the hub's word: the name is taken.
        """
        client = self._client
        client.check_open()
        group_id: bytes = random_bytes(GROUP_BYTES - JOB_BYTES) + client.runtime_context["job_id"]
        if named:
            spec["request_id"], question = self.expect()
        with client.lock:
            self.group_states[group_id] = ("PENDING", {})
            self.tell(wire.CREATE_GROUP, group_id, spec)
        if named:
            self.collect(spec["request_id"], question)
        return group_id

    def group_ready(self, group_id: bytes, value: Any) -> ObjectRef[Any]:
        """A ref to `value` that resolves when the group is placed; ValueError if there is no such group."""
        from spoke.group_ready import group_ready_ref

        return group_ready_ref(self._client, group_id, value)

    def wait_group(self, group_id: bytes, timeout: float | None) -> bool:
        """Whether the group is placed within `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        self._watch_group(group_id)
        while True:
            waiter = Waiter(1)
            with self._client.lock:
                state = self.group_states.get(group_id, ("PENDING", {}))[0]
                if state in ("CREATED", "REMOVED") or self._client.closed:
                    return state == "CREATED"
                self.group_waiters.setdefault(group_id, []).append(waiter)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._client.block_on(waiter, left):
                return False

    def _watch_group(self, group_id: bytes) -> None:
        if group_id not in self.group_states:
            group = self.request("watch_group", id=group_id)
            self.group_states.setdefault(group_id, (group["state"], group))

    def on_group(self, group_id: bytes, callback: Any) -> None:
        """Call ``callback.resolved(None)`` at the next change of the group's state; lock held."""
        self.group_waiters.setdefault(group_id, []).append(callback)

    def remove_group(self, group_id: bytes) -> None:
        with self._client.lock:
            self.tell(wire.REMOVE_GROUP, group_id)

    def _on_group_state(self, link: Link, message: list[Any], payload: Any) -> None:
        _, group_id, state, info = message
        self.group_states[group_id] = (state, info)
        self._wake_group(group_id)

    def _wake_group(self, group_id: bytes) -> None:
        for waiter in self.group_waiters.pop(group_id, ()):
            waiter.resolved(None)

    # -- pushed news

    def _on_pending_reason(self, link: Link, message: list[Any], payload: Any) -> None:
        _, what, key, reason, fatal = message
        if fatal and what == "class":
            self._client.calls.tasks.unschedulable(key, reason)
        elif fatal and what == "environment":
            self._client.calls.tasks.unschedulable(key, reason, "RuntimeEnvSetupError")
        elif self.on_pending_reason is not None:
            self.on_pending_reason(what, key, reason, fatal)

    def _on_endpoints(self, link: Link, message: list[Any], payload: Any) -> None:
        for callback in self.endpoint_watchers.get((message[1], message[2]), ()):
            callback(message[3])

    def _on_log_lines(self, link: Link, message: list[Any], payload: Any) -> None:
        if self.on_log_lines is not None:
            self.on_log_lines(*message[1:])

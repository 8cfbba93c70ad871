"""Calls over RDMA: carries out `core/rdma_calls.py` on the links of one client.

A pipe belongs to the link by which it was agreed on; the link's frames go through it in both directions
and reach the same handlers, so nothing above knows of it.  The client's lock is held, except in `init`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from spoke import _native, wire
from spoke.core import Lost, Received, Send, rdma_calls
from spoke.lead import Waiter
from spoke.transport.base import TransportFailed
from spoke.transport.verbs import Device
from spoke.wire import encode

if TYPE_CHECKING:
    from spoke.client import Client
    from spoke.links import Link

KINDS: Final = (wire.RDMA_PIPE, wire.RDMA_PIPE_ACCEPT, wire.RDMA_SWITCH, wire.RDMA_PIPE_CLOSE)
LOOK_S: Final = 0.005  # while the hub has not said where an actor lives


class Pipes:
    """The call channels of one client.

    Args:
        device: shared with the reads.
    """

    def __init__(self, client: Client, device: Device) -> None:
        self._client = client
        self._device = device
        self._machine = rdma_calls.Calls(client.process_id)
        self._links: dict[bytes, Link] = {}  # by which the channel was agreed on
        self._pipes: dict[tuple[bytes, int], _native.RdmaPipe] = {}
        self._waiting: dict[bytes, list[Waiter]] = {}
        self._why: dict[bytes, str] = {}  # why there is no channel to a peer
        self.handlers = dict.fromkeys(KINDS, self._on_message)

    def init(self, actor_id: bytes, timeout: float) -> bool:
        """Whether the calls to an actor go over RDMA, at the latest after `timeout` seconds."""
        client = self._client
        client.check_open()
        deadline = time.monotonic() + timeout
        peer = self._peer_of(actor_id, deadline)
        if peer is None:
            return False
        waiter = Waiter(1)
        with client.lock:
            link = client.links.by_peer.get(peer)
            if link is None:
                self._why[peer] = "there is no link to the actor's process"
                return False
            if link.ring is not None:
                self._why[peer] = "the link goes through shared memory of this node"
                return False
            self._links.setdefault(peer, link)
            self._waiting.setdefault(peer, []).append(waiter)
            self._step(rdma_calls.Init(peer))
        client.block_on(waiter, max(0.0, deadline - time.monotonic()))
        with client.lock:
            if waiter in self._waiting.get(peer, ()):
                self._waiting[peer].remove(waiter)
                self._why[peer] = f"it was not open within {timeout:g} s"
                self._step(rdma_calls.GiveUp(peer))
            return self._machine.state(peer) == rdma_calls.OPEN

    def path(self, actor_id: bytes) -> tuple[str, str]:
        """("rdma", "") or ("socket", why not RDMA) for calls to this actor."""
        channel = self._client.calls.actors.channels.get(actor_id)
        peer = channel.peer if channel is not None else None
        if peer is None or not self._machine.state(peer):
            return "socket", self._why.get(peer or b"", "init_rdma was not called")
        return (
            ("rdma", "") if self._machine.state(peer) == rdma_calls.OPEN else ("socket", "it is being opened")
        )

    def busy(self, peer: bytes) -> bool:
        """Whether calls to this process go over RDMA, or soon will."""
        return bool(self._machine.state(peer))

    def messages(self) -> int:
        """Slots of rings that this process wrote."""
        return sum(pipe.messages for pipe in self._pipes.values())

    def _peer_of(self, actor_id: bytes, deadline: float) -> bytes | None:
        """The process of an actor, once it is known and linked; None where it is dead or too late."""
        client = self._client
        while True:
            with client.lock:
                channel = client.calls.actors.channel(actor_id)
                client._settle()
                if channel.state == "DEAD":
                    return None
                if channel.peer is not None and channel.address is not None:
                    if channel.peer not in client.links.by_peer:
                        client._open(channel.peer, channel.address)
                        client._settle()
                    link = client.links.by_peer.get(channel.peer)
                    if link is not None and link.ready:
                        return channel.peer
            if time.monotonic() >= deadline:
                return None
            time.sleep(LOOK_S)

    # -- events

    def _on_message(self, link: Link, message: list[Any], payload: Any) -> None:
        if message[0] == wire.RDMA_PIPE and not self._machine.state(link.peer):
            self._links[link.peer] = link
        self._step(Received(link.peer, message))

    def peer_lost(self, peer: bytes) -> None:
        """Its link is gone."""
        self._step(Lost(peer))
        self._links.pop(peer, None)

    def resumed(self, link: Link | None, why: str) -> None:
        """The channel of a link failed; its frames go by the socket again, none lost or twice."""
        if link is not None and self._links.get(link.peer) is link:
            self._step(rdma_calls.Resumed(link.peer, f"the RDMA channel failed ({why})"))

    def close(self) -> None:
        """The process leaves the cluster; its links are closed after this."""
        for peer in list(self._links):
            self.peer_lost(peer)

    def _step(self, event: Any) -> None:
        pending = [event]
        while pending:
            for command in self._machine.step(time.monotonic(), pending.pop(0)):
                answer = self._carry_out(command)
                if answer is not None:
                    pending.append(answer)

    def _carry_out(self, command: Any) -> Any:
        client, link = self._client, self._links.get(command.peer)
        if isinstance(command, rdma_calls.Settled):
            self._why[command.peer] = command.why
            for waiter in self._waiting.pop(command.peer, ()):
                waiter.finish()
            return None
        if link is None:
            return None
        if isinstance(command, Send):
            client.links.send(link, encode(*command.message))
            return None
        key = (command.peer, command.number)
        try:
            if isinstance(command, rdma_calls.MakePipe):
                if client.reactor.peer_uid(link.conn) is not None:  # it may have rings
                    return rdma_calls.PipeFailed(*key, "it is on this node, where calls need no network card")
                made = self._pipes[key] = _native.RdmaPipe(self._device.engine())
                return rdma_calls.PipeMade(*key, made.address)
            if isinstance(command, rdma_calls.ConnectPipe):
                self._pipes[key].connect(command.address)
            elif isinstance(command, rdma_calls.Divert):
                client.reactor.divert(link.conn, self._pipes[key])
            elif isinstance(command, rdma_calls.ReceiveFrom):
                client.reactor.receive_from(link.conn, self._pipes[key])
            elif isinstance(command, rdma_calls.DropPipe):
                dropped = self._pipes.pop(key, None)
                if dropped is not None:
                    dropped.close(command.why)
        except (OSError, TransportFailed) as error:
            return rdma_calls.PipeFailed(*key, str(error))
        return None

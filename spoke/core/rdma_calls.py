"""Call channels over RDMA: how a link between two processes comes to carry its frames through a pipe.

    initiator                                   other side
    RDMA_PIPE(number, address)             ──▶  makes its end, connects it
                                           ◀──  RDMA_PIPE_ACCEPT(number, address)
    connects, RDMA_SWITCH(number), diverts ──▶  takes frames out of the pipe from here on
    takes frames out of the pipe           ◀──  RDMA_SWITCH(number), diverts

RDMA_SWITCH is the last frame that its sender sends by the socket, and nobody looks into a pipe before the
peer's RDMA_SWITCH: so the frames of each direction stay in order, each once (CALL-2).  Afterwards the
socket is the peer's sign of life.  Where a pipe fails, the reactors of both sides agree by the socket on how
far each direction came, and go on by it (`csrc/framing.cpp`): no frame is lost or comes twice, so calls under
way know nothing of it.  `Resumed` then ends the channel here; another can be agreed on.

Where both sides begin at once, the one with the smaller process id goes on.
"""

from __future__ import annotations

from typing import Any

from spoke.core import Lost, Received, Send, _Record
from spoke.wire import RDMA_PIPE, RDMA_PIPE_ACCEPT, RDMA_PIPE_CLOSE, RDMA_SWITCH

OPENING, ACCEPTED, SWITCHED, OPEN = "OPENING", "ACCEPTED", "SWITCHED", "OPEN"


class Init(_Record):
    """Event: calls to this peer shall go over RDMA."""

    __slots__ = ("peer",)

    def __init__(self, peer: bytes) -> None:
        self.peer = peer


class GiveUp(_Record):
    """Event: nobody waits for the channel any more; it is taken back unless frames go through it."""

    __slots__ = ("peer",)

    def __init__(self, peer: bytes) -> None:
        self.peer = peer


class PipeMade(_Record):
    """Event: this end exists."""

    __slots__ = ("address", "number", "peer")

    def __init__(self, peer: bytes, number: int, address: bytes) -> None:
        self.peer, self.number, self.address = peer, number, address


class PipeFailed(_Record):
    """Event: this end could not be made or connected."""

    __slots__ = ("number", "peer", "why")

    def __init__(self, peer: bytes, number: int, why: str) -> None:
        self.peer, self.number, self.why = peer, number, why


class Resumed(_Record):
    """Event: the pipe failed, and the link's frames go by the socket again."""

    __slots__ = ("peer", "why")

    def __init__(self, peer: bytes, why: str) -> None:
        self.peer, self.why = peer, why


class _OfPipe(_Record):
    __slots__ = ("number", "peer")

    def __init__(self, peer: bytes, number: int) -> None:
        self.peer, self.number = peer, number


class MakePipe(_OfPipe):
    """Command: make this end; feed PipeMade or PipeFailed."""

    __slots__ = ()


class Divert(_OfPipe):
    """Command: from now on the link's frames are sent through the pipe."""

    __slots__ = ()


class ReceiveFrom(_OfPipe):
    """Command: from now on frames come out of the pipe."""

    __slots__ = ()


class ConnectPipe(_Record):
    """Command: connect this end to the one at this address."""

    __slots__ = ("address", "number", "peer")

    def __init__(self, peer: bytes, number: int, address: bytes) -> None:
        self.peer, self.number, self.address = peer, number, address


class DropPipe(_Record):
    """Command: this end is not needed any more."""

    __slots__ = ("number", "peer", "why")

    def __init__(self, peer: bytes, number: int, why: str) -> None:
        self.peer, self.number, self.why = peer, number, why


class Settled(_Record):
    """Command: tell who waits: the channel is open, or why it is not."""

    __slots__ = ("peer", "why")

    def __init__(self, peer: bytes, why: str) -> None:
        self.peer, self.why = peer, why


class _Channel:
    __slots__ = ("mine", "number", "peer_address", "state")

    def __init__(self, number: int, state: str, mine: bool, peer_address: bytes = b"") -> None:
        self.number = number
        self.state = state
        self.mine = mine  # this side began
        self.peer_address = peer_address


class Calls:
    """The call channels of one process.

    Args:
        my_id: its process id.
    """

    def __init__(self, my_id: bytes) -> None:
        self._my_id = my_id
        self._channels: dict[bytes, _Channel] = {}
        self._next = 1
        self._out: list[Any] = []

    def state(self, peer: bytes) -> str:
        """OPENING, ACCEPTED, SWITCHED or OPEN; empty where there is no channel."""
        channel = self._channels.get(peer)
        return channel.state if channel is not None else ""

    def step(self, now: float, event: Any) -> list[Any]:
        """Take one event, return the commands in the order in which they must be carried out."""
        if isinstance(event, Received):
            self._received(event.peer, event.message)
        elif isinstance(event, Init):
            self._init(event.peer)
        elif isinstance(event, PipeMade):
            self._made(event)
        elif isinstance(event, PipeFailed):
            self._end(event.peer, event.number, event.why, tell=True)
        elif isinstance(event, GiveUp):
            channel = self._channels.get(event.peer)
            if channel is not None and channel.mine and channel.state == OPENING:
                self._end(event.peer, channel.number, "it was not open in time", tell=True)
        elif isinstance(event, (Lost, Resumed)):
            channel = self._channels.get(event.peer)
            if channel is not None:
                why = event.why if isinstance(event, Resumed) else "the link ended"
                self._end(event.peer, channel.number, why, tell=False)
        out, self._out = self._out, []
        return out

    def _init(self, peer: bytes) -> None:
        channel = self._channels.get(peer)
        if channel is None:
            number, self._next = self._next, self._next + 1
            self._channels[peer] = _Channel(number, OPENING, True)
            self._out.append(MakePipe(peer, number))
        elif channel.state == OPEN:
            self._out.append(Settled(peer, ""))

    def _made(self, event: PipeMade) -> None:
        channel = self._channels.get(event.peer)
        if channel is None or channel.number != event.number:
            self._out.append(DropPipe(event.peer, event.number, "it is not needed any more"))
        elif channel.mine:
            self._out.append(Send(event.peer, (RDMA_PIPE, event.number, event.address)))
        else:
            self._out.append(ConnectPipe(event.peer, event.number, channel.peer_address))
            self._out.append(Send(event.peer, (RDMA_PIPE_ACCEPT, event.number, event.address, "")))

    def _received(self, peer: bytes, message: list[Any]) -> None:
        kind, number = message[0], message[1]
        channel = self._channels.get(peer)
        if kind == RDMA_PIPE:
            self._offered(peer, number, message[2])
        elif channel is None or channel.number != number:
            return
        elif kind == RDMA_PIPE_ACCEPT and channel.mine and channel.state == OPENING:
            if message[2] is None:
                self._end(peer, number, message[3], tell=False)
                return
            channel.state = SWITCHED
            self._out.append(ConnectPipe(peer, number, message[2]))
            self._switch(peer, number)
        elif kind == RDMA_SWITCH and channel.state in (ACCEPTED, SWITCHED):
            self._out.append(ReceiveFrom(peer, number))
            if channel.state == ACCEPTED:
                self._switch(peer, number)
            channel.state = OPEN
            self._out.append(Settled(peer, ""))
        elif kind == RDMA_PIPE_CLOSE:
            self._end(peer, number, message[2], tell=False)

    def _switch(self, peer: bytes, number: int) -> None:
        self._out.append(Send(peer, (RDMA_SWITCH, number)))
        self._out.append(Divert(peer, number))

    def _offered(self, peer: bytes, number: int, address: bytes) -> None:
        channel = self._channels.get(peer)
        if channel is not None:
            if channel.state != OPENING or self._my_id < peer:
                return  # open already, or ours goes on and the peer gives way
            self._out.append(DropPipe(peer, channel.number, "the peer's goes on"))
        self._channels[peer] = _Channel(number, ACCEPTED, False, address)
        self._out.append(MakePipe(peer, number))

    def _end(self, peer: bytes, number: int, why: str, tell: bool) -> None:
        channel = self._channels.get(peer)
        if channel is None or channel.number != number:
            return
        del self._channels[peer]
        self._out.append(DropPipe(peer, number, why))
        if tell and channel.mine:
            self._out.append(Send(peer, (RDMA_PIPE_CLOSE, number, why)))
        elif tell:
            self._out.append(Send(peer, (RDMA_PIPE_ACCEPT, number, None, why)))
        self._out.append(Settled(peer, why))

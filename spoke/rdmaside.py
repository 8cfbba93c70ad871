"""A client's part in RDMA: the links and the poll loop, as `transport/rdma.py` needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from spoke import wire
from spoke.lead import Waiter
from spoke.rdmapipes import Pipes
from spoke.transport.rdma import Rdma

if TYPE_CHECKING:
    from spoke.client import Client

KINDS: Final = (
    wire.RDMA_CONNECT, wire.RDMA_ACCEPT, wire.RDMA_ASK, wire.RDMA_GRANT, wire.RDMA_DONE, wire.RDMA_CLOSE,
    wire.RDMA_OFFER, wire.RDMA_WITHDRAW,
)  # fmt: skip


class RdmaSide:
    """`transport.rdma.Control` of one client."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.lock = client.lock
        self.mover = Rdma(self, client.store)
        self.pipes = Pipes(client, self.mover.device)
        self.handlers = {**dict.fromkeys(KINDS, self._on_message), **self.pipes.handlers}

    def _on_message(self, link: Any, message: list[Any], payload: Any) -> None:
        self.mover.on_message(link.peer, message)

    def peer_lost(self, peer: bytes) -> None:
        """First of all that is done about it: what it reads must not be freed while it can; lock held."""
        self.mover.peer_lost(peer)
        self.pipes.peer_lost(peer)

    def close(self) -> None:
        """The process leaves the cluster."""
        with self.lock:
            self.pipes.close()
        self.mover.close()

    def open_link(self, process_id: bytes) -> None:
        self._client.check_open()
        self._client.hub.process_link(process_id)

    def tell(self, peer: bytes, *message: Any) -> None:
        self._client.tell(peer, *message)

    def tell_ahead(self, peer: bytes, *message: Any) -> None:
        links = self._client.links
        link = links.by_peer.get(peer)
        if link is not None and link.ready:
            # Where what follows goes by another link, it leaves when this process waits.
            links.held[link.conn] = links.held.get(link.conn, 0) + 1
            self._client.reactor.send(link.conn, wire.encode(*message), None, -1, True)

    def make_waiter(self) -> Waiter:
        return Waiter(1)

    def block_on(self, waiter: Any, timeout: float | None) -> bool:
        return self._client.block_on(waiter, timeout)

    def watch(self, fd: int) -> int:
        return self._client.reactor.watch(fd)

    def unwatch(self, source: int) -> None:
        self._client.reactor.unwatch(source)


def join(client: Client) -> RdmaSide:
    """RDMA for this client, where ``SPOKE_TRANSPORT`` allows it; others may read from it in any case."""
    side = RdmaSide(client)
    client.store.on_idle = client.release_later
    if client.router.mode in ("auto", "rdma"):
        client.router.rdma = side.mover
    return side

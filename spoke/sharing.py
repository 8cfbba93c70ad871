"""Passing the mappings of segments between processes of one node, ahead of what lies in them.

Before the first message that names a block of a segment, the sender passes the segment's descriptor
on the same link (SHARED), and the receiver maps it at once: the first ``get`` of a large object then
asks nobody.  It is a shortcut only: a process that meets a block whose segment it has not mapped asks
its agent.  The agent is told of every mapping (MAPPED), so that its word that the segment is gone
(UNMAP) finds it.

Between nodes what goes ahead is a lease of the blocks, for a peer that reads by RDMA (`transport/rdma.py`).

All methods run with the client's lock held.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from spoke import wire
from spoke.wire import encode

if TYPE_CHECKING:
    from spoke.client import Client
    from spoke.links import Link


class Sharing:
    """One client's part in it."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def before(self, link: Link, parts: list[Any]) -> None:
        """A message with these parts goes to the peer of `link` next."""
        for part in parts:
            if type(part) is not bytes and part[2] not in link.shared and part[0] == self._client.node_id:
                self._share(link, part[2])
        self._client.rdma.mover.offer(link.peer, parts)

    def _share(self, link: Link, segment_id: int) -> None:
        client = self._client
        if not link.ready or client.reactor.peer_uid(link.conn) is None:
            return  # the handshake comes first, and descriptors travel over unix sockets only
        memory = client.store.memory_of(segment_id)
        if memory is not None:
            link.shared.add(segment_id)
            client.reactor.send(link.conn, encode(wire.SHARED, segment_id, memory.size), None, memory.fd)

    def forget(self, segment_id: int) -> None:
        """The segment is gone, and its id is never used again."""
        for link in list(self._client.links.by_conn.values()):
            link.shared.discard(segment_id)

    def on_shared(self, link: Link, message: list[Any], payload: Any) -> None:
        _, segment_id, size = message
        client = self._client
        descriptor = client.reactor.take_fd(link.conn)
        if descriptor < 0:
            return
        try:
            link.shared.add(segment_id)  # the peer needs no copy of its own
            if client.store.adopt(segment_id, size, descriptor):
                client.links.send(client.hub.agent, encode(wire.MAPPED, segment_id))
        except OSError:
            pass  # no room in the address space now: whoever reads the block asks again, and is told
        finally:
            os.close(descriptor)

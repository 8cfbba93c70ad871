"""Which path a block takes, and what was learnt about paths.

``SPOKE_TRANSPORT`` says what may be used:

- ``auto``: blocks of this node are mapped; others come by RDMA where both ends can, else over TCP.
  Registered memory of another process cannot be mapped: on one node it comes over a socket.
- ``shm``: blocks of this node are mapped; those of other nodes are refused.
- ``rdma``: blocks of this node are mapped; others come by RDMA or not at all.
- ``tcp``: all blocks come over sockets, those of this node as well.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from spoke.errors import RayDirectTransportError
from spoke.transport.base import Destination, Part, Transport, TransportFailed, in_host, land

SEGMENT, REGION, OWN_REGION = range(3)  # what a block lies in: regions are `spoke.regions`
NO_DEVICE = "no RDMA device on this node"


class Path(NamedTuple):
    """How blocks of a node get here; `why_not_rdma` is empty where it is RDMA, or needs none."""

    name: str
    why_not_rdma: str


class Router:
    """Chooses among the paths of one process.

    Args:
        node_id, process_id: of this process.
        mode: the value of ``SPOKE_TRANSPORT``.
        rdma: None where this process has no device.
    """

    def __init__(
        self, node_id: bytes, mode: str, shm: Transport, tcp: Transport, process_id: bytes = b""
    ) -> None:
        self.node_id = node_id
        self.process_id = process_id
        self.mode = mode
        self.maps = mode != "tcp"  # whether blocks of this node are mapped
        self.shm = shm
        self.tcp = tcp
        self.rdma: Transport | None = None
        self.why_no_rdma = NO_DEVICE
        self._failed: dict[bytes, str] = {}  # node -> why RDMA did not work when it was tried last

    def path(self, node_id: bytes) -> Path:
        """The path that blocks of a node take: TCP where the last try by RDMA failed, with the reason.

        Raises:
            RayDirectTransportError: ``SPOKE_TRANSPORT`` allows none.
        """
        path, failed = self._next(node_id), self._failed.get(node_id)
        return Path("tcp", failed) if path.name == "rdma" and failed and self.mode != "rdma" else path

    def _next(self, node_id: bytes) -> Path:
        """The path that is tried for the next block."""
        if node_id == self.node_id and self.maps:
            return Path("shm", "")
        if self.mode == "tcp":
            return Path("tcp", "SPOKE_TRANSPORT=tcp")
        if self.mode == "shm":
            raise RayDirectTransportError(
                f"SPOKE_TRANSPORT=shm allows no way to node {node_id.hex()[:12]}: set it to auto, rdma or tcp"
            )
        why = self.why_no_rdma if self.rdma is None else self.rdma.unable(node_id)
        if why is None:
            return Path("rdma", "")
        if self.mode == "rdma":
            raise RayDirectTransportError(
                f"SPOKE_TRANSPORT=rdma, and node {node_id.hex()[:12]} cannot be reached by RDMA: {why}"
            )
        return Path("tcp", self._failed.get(node_id, why))

    def path_of(self, part: Part) -> Path:
        """The path of one block, `path` with registered memory in mind."""
        kind = self._kind(part)
        if kind == OWN_REGION:
            return Path(self.shm.name, "")
        path = self.path(part[0])
        return Path(self.tcp.name, "") if kind == REGION and path.name == self.shm.name else path

    def _kind(self, part: Part) -> int:
        return SEGMENT if part[2] > 0 else OWN_REGION if part[1] == self.process_id else REGION

    def fetch(self, parts: list[Part]) -> list[Any]:
        """Blocks as read-only buffers, in order.

        Raises:
            ObjectLostError: a block is gone.
            RayDirectTransportError: ``SPOKE_TRANSPORT`` allows no path that works.
        """
        buffers: list[Any] = [None] * len(parts)
        for (node_id, kind), indices in self._by_source(parts).items():
            batch = [parts[index] for index in indices]
            for index, found in zip(indices, self._run(node_id, kind, "fetch", batch), strict=True):
                buffers[index] = found
        return buffers

    def read(self, parts: list[Part], into: list[Destination]) -> None:
        """Blocks into the destination of their index; raises as `fetch` does.

        What lies on a GPU is written there by RDMA where the network card can, else by way of the host.

        What was there before is lost even where it raises.
        """
        for (node_id, kind), indices in self._by_source(parts).items():
            self._run(node_id, kind, "read", [parts[i] for i in indices], [into[i] for i in indices])

    def _run(self, node_id: bytes, kind: int, what: str, *batch: Any) -> Any:
        if kind == OWN_REGION:
            return _through_host(self.shm, *batch)
        name = self._next(node_id).name
        if name == "shm" and kind == REGION:
            name = "tcp"
        if name == "rdma":
            assert self.rdma is not None
            try:
                done = getattr(self.rdma, what)(*batch)
            except TransportFailed as error:
                self._failed[node_id] = str(error)
                if self.mode == "rdma":
                    raise RayDirectTransportError(f"SPOKE_TRANSPORT=rdma: {error}") from error
                return _through_host(self.tcp, *batch)
            self._failed.pop(node_id, None)
            return done
        return _through_host(self.shm if name == "shm" else self.tcp, *batch)

    def stats(self) -> dict[str, int]:
        """``<path>_blocks``, ``<path>_bytes`` and ``<path>_copies`` of what was brought here so far."""
        found: dict[str, int] = {}
        for path in (self.shm, self.tcp, self.rdma):
            if path is not None:
                found |= {
                    f"{path.name}_blocks": path.blocks,
                    f"{path.name}_bytes": path.bytes,
                    f"{path.name}_copies": path.copies,
                }
        return found

    def _by_source(self, parts: list[Part]) -> dict[tuple[bytes, int], list[int]]:
        """Indices of the parts by node and kind of memory."""
        found: dict[tuple[bytes, int], list[int]] = {}
        for index, part in enumerate(parts):
            found.setdefault((part[0], self._kind(part)), []).append(index)
        return found


def _through_host(path: Transport, parts: list[Part], into: list[Destination] | None = None) -> Any:
    """`fetch` without destinations, else `read`, by a path that writes memory of the host only."""
    if into is None:
        return path.fetch(parts)
    path.read(parts, in_host(into))
    land(into)
    return None

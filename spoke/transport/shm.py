"""Blocks of this node: mapped, or copied out of the mapping where the reader brings the memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spoke.transport.base import Part, Transport

if TYPE_CHECKING:
    from spoke.store import Store


class SharedMemory(Transport):
    """Reads what processes of this node wrote; `fetch` gives views that keep the mapping alive."""

    name = "shm"

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    def unable(self, node_id: bytes) -> str | None:
        return None if node_id == self._store.node_id else "it lies on another node"

    def read(self, parts: list[Part], into: list[memoryview]) -> None:
        for part, target in zip(parts, into, strict=True):
            target[:] = memoryview(self._store.view(part))
        self.count(parts, len(parts))

    def fetch(self, parts: list[Part]) -> list[Any]:
        views = [self._store.view(part) for part in parts]
        self.count(parts, 0)
        return views

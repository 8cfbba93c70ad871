"""Refs, actor lives and generators of real Ray behind Spoke's faces.

Rules of this module: Ray counts; an entry keeps Ray's object and nothing else.  A ref that is pickled goes as
Ray's own ref inside the value, so that Ray sees it, and comes back as Spoke's in the other process.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from spoke.engines.ray_errors import unsupported
from spoke.objectref import ObjectRef
from spoke.streams import ObjectRefGenerator

if TYPE_CHECKING:
    from spoke.engines.ray_client import RayClient

WEAK_SUFFIX: Final = b"\0"  # of the key of a handle that does not count
LIFE_SUFFIX: Final = b"\xff" * 12  # after an actor's id: the ref that its handles count


class Held:
    """What Ray knows an object, or an actor, by; in the place of `core.refs.Entry`."""

    __slots__ = ("__weakref__", "call", "id", "local", "owner", "wanted")

    def __init__(self, id: bytes, real: Any) -> None:
        self.id = id
        self.owner = (b"", real)  # pickled with the ref, see `spoke.engines.ray_process.rebuild`
        self.call = None
        self.local = 0
        self.wanted: dict[str, float] = {}  # of an actor made here: what its node must have

    @property
    def real(self) -> Any:
        """Ray's ObjectRef or ActorHandle."""
        return self.owner[1]

    @property
    def status(self) -> int:
        """What those look at who read the bytes of an object themselves; there are none here."""
        raise unsupported("get(into=...)", "get() the value and copy it")


class Refs:
    """One entry per object and process, as long as a ref is there."""

    def __init__(self) -> None:
        self._entries: WeakValueDictionary[bytes, Held] = WeakValueDictionary()
        self._lock = threading.Lock()

    def entry(self, id: bytes, real: Any, weak: bool = False) -> Held:
        """The entry of an id; handles that do not keep their actor alive have another than those that do."""
        key = id + WEAK_SUFFIX if weak else id
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                found = self._entries[key] = Held(id, real)
            return found

    def ref(self, real: Any) -> ObjectRef[Any]:
        """Spoke's ref for Ray's."""
        entry: Any = self.entry(real.binary(), real)
        return ObjectRef(entry)

    def life(self, handle: Any) -> Held:
        """The entry of an actor, from Ray's handle."""
        weak = bool(getattr(handle, "_ray_weak_ref", False))
        return self.entry(handle._actor_id.binary() + LIFE_SUFFIX, handle, weak)

    def handle(self, actor_id: bytes) -> Any:
        """Ray's handle of an actor that this process has a handle of, or None."""
        key = actor_id + LIFE_SUFFIX
        found = self._entries.get(key) or self._entries.get(key + WEAK_SUFFIX)
        return None if found is None else found.real

    def wanted(self, actor_id: bytes) -> dict[str, float]:
        """What the node of an actor made here must have; empty if unknown."""
        found = self._entries.get(actor_id + LIFE_SUFFIX)
        return {} if found is None else found.wanted


def real(value: Any) -> Any:
    """Ray's ref for Spoke's; anything else as it is."""
    entry: Any = value._entry if type(value) is ObjectRef else None
    return value if entry is None else entry.real


class RayRefGenerator(ObjectRefGenerator):
    """A streaming generator of Ray that yields Spoke's refs."""

    def __init__(self, client: RayClient, source: Any) -> None:
        self._engine = client
        self.source = source
        self._stream: Any = None  # `wait` asks Ray, not a stream of ours
        self._completed = client.objects.ref(source.completed())

    def _next_sync(self, timeout_s: float | None = None) -> ObjectRef[Any]:
        with self._engine.translating():
            found = self.source._next_sync(timeout_s)
        return ObjectRef.nil() if found.is_nil() else self._engine.objects.ref(found)

    async def _next_async(self, timeout_s: float | None = None) -> ObjectRef[Any]:
        with self._engine.translating():
            found = await self.source._next_async(timeout_s)
        return ObjectRef.nil() if found.is_nil() else self._engine.objects.ref(found)

    def next_ready(self) -> bool:
        """Whether ``next()`` would return or raise at once."""
        return bool(self.source.next_ready())

    def is_finished(self) -> bool:
        """Whether every item was taken."""
        return bool(self.source.is_finished())


RayRefGenerator.__name__ = ObjectRefGenerator.__name__  # users see one type

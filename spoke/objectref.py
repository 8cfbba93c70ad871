"""ObjectRef: the handle of an object, counted in the process's reference table.

The engine installs itself with `install`; before that, and after shutdown, refs are inert.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from spoke import codec

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures

    from spoke.core.refs import Entry

T = TypeVar("T")


class _Hooks:
    """What refs ask of the engine; one instance, filled by `install`."""

    __slots__ = ("address", "asyncio_future", "find", "future", "rebuild", "release", "resolve")

    def __init__(self) -> None:
        self.address: Any = None
        self.release: Callable[[Entry], None] | None = None
        self.resolve: Callable[[bytes, Any], ObjectRef[Any]] | None = None
        self.find: Callable[[bytes], Entry | None] | None = None  # counts what it finds
        self.future: Callable[[ObjectRef[Any]], Any] | None = None
        self.asyncio_future: Callable[[ObjectRef[Any]], Any] | None = None
        self.rebuild: Callable[[bytes, Any], ObjectRef[Any]] = rebuild_ref  # what pickled refs name


def install(
    address: Any,
    release: Any,
    resolve: Any,
    future: Any,
    asyncio_future: Any,
    rebuild: Any = None,
    find: Any = None,
) -> None:
    """Connect refs with the engine of this process; None everywhere disconnects them."""
    _hooks.address, _hooks.release, _hooks.rebuild = address, release, rebuild or rebuild_ref
    _hooks.resolve, _hooks.future, _hooks.asyncio_future = resolve, future, asyncio_future
    _hooks.find = find


class ObjectRef(Generic[T]):
    """A reference to an object that is, or will be, somewhere in the cluster.

    Made by ``put``, by ``.remote()`` calls, and by receiving one.  The object lives as long as any
    ref to it.  Refs are equal when they name the same object; they can be awaited in asyncio code.

    Args:
        id: the 28 bytes of the id of an object that this process knows.  Any other id names an object that
            never comes: `wait` and `get` need a timeout then.

    Raises:
        TypeError: `id` is no bytes.
        ValueError: not 28 bytes.
    """

    __slots__ = ("__weakref__", "_entry", "_id")

    def __init__(self, id: Entry | bytes) -> None:
        # The engine gives an entry, and has counted this ref in entry.local before it calls here.
        entry: Any = id
        self._id: bytes
        try:
            self._id = entry.id
        except AttributeError:
            self._entry = _nothing()
            self._entry = entry = _named(entry)
            self._id = entry.id
        else:
            self._entry = entry

    def __del__(self) -> None:
        release = _hooks.release
        if release is not None:
            release(self._entry)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, ObjectRef) and self._id == other._id)

    def __hash__(self) -> int:
        return hash(self._id)

    def __repr__(self) -> str:
        return f"ObjectRef({self._id.hex()})"

    def __reduce__(self) -> Any:
        codec.note_ref(self)
        return _hooks.rebuild, (self._id, self._entry.owner or _hooks.address)

    def binary(self) -> bytes:
        """The 28 bytes of the object id."""
        return self._id

    def hex(self) -> str:
        """The object id as 56 hexadecimal digits."""
        return self._id.hex()

    @classmethod
    def nil(cls) -> ObjectRef[Any]:
        """A ref that names no object."""
        return cls(_nothing())

    @classmethod
    def from_binary(cls, id_bytes: bytes) -> ObjectRef[Any]:
        """As ``ObjectRef(id_bytes)``."""
        return cls(id_bytes)

    @classmethod
    def from_hex(cls, hex_id: str) -> ObjectRef[Any]:
        """The ref of an id as `hex` gives it.

        Raises:
            ValueError: not hexadecimal, or of another length.
        """
        return cls(bytes.fromhex(hex_id))

    @classmethod
    def from_random(cls) -> ObjectRef[Any]:
        """A ref that names an object which never comes."""
        return cls(os.urandom(28))

    def is_nil(self) -> bool:
        """Whether this ref names no object."""
        return self._id == b"\xff" * 28

    @classmethod
    def size(cls) -> int:
        """Length of the id in bytes."""
        return 28

    def task_id(self) -> Any:
        """The id of the call that returns this object."""
        from spoke.ids import TaskID

        return TaskID(self._id[:24])

    def job_id(self) -> Any:
        """The id of this process's job, which made the object unless the ref came from another job."""
        from spoke import current
        from spoke.ids import JobID

        client = current.client
        return JobID.nil() if client is None else JobID(client.runtime_context["job_id"])

    def redis_shard_hash(self) -> int:
        """A hash that is equal in every process, unlike `hash`."""
        return int.from_bytes(self._id[-8:], "little")

    def owner_address(self) -> bytes:
        """The id of the process that owns the object."""
        return bytes((self._entry.owner or _hooks.address or [b""])[0])

    def call_site(self) -> str:
        """Where in the program the object was made: not recorded, so an empty text."""
        return ""

    def tensor_transport(self) -> str | None:
        """The mover that the call named, or None: chosen by the sender."""
        return None

    def future(self) -> concurrent.futures.Future[T]:
        """A `concurrent.futures.Future` of the value."""
        if _hooks.future is None:
            raise RuntimeError("this ref is used after shutdown()")
        return _hooks.future(self)  # type: ignore[no-any-return]

    def _on_completed(self, py_callback: Callable[[Any], Any]) -> ObjectRef[T]:
        """Call a function with the value, or with the exception, in another thread, once it is there."""
        self.future().add_done_callback(lambda done: py_callback(done.exception() or done.result()))
        return self

    def as_future(self) -> asyncio.Future[T]:
        """An asyncio future of the value, in the running loop."""
        if _hooks.asyncio_future is None:
            raise RuntimeError("this ref is used after shutdown()")
        return _hooks.asyncio_future(self)  # type: ignore[no-any-return]

    def __await__(self) -> Generator[Any, None, T]:
        return self.as_future().__await__()


def _nothing() -> Entry:
    from spoke.core.refs import Entry

    entry = Entry(b"\xff" * 28, None)
    entry.local = 1 << 40  # never released
    return entry


def _named(id: Any) -> Entry:
    """The counted entry of an id that a program gives."""
    from spoke.core.refs import Entry

    if not isinstance(id, bytes):
        raise TypeError(f"Unsupported type: {type(id)}, expected bytes")
    if len(id) != ObjectRef.size():
        raise ValueError(f"ID string needs to have length {ObjectRef.size()}, got {len(id)}")
    entry = _hooks.find(id) if _hooks.find is not None else None
    if entry is None:
        entry = Entry(id, None)
        entry.local = 1
    return entry


def rebuild_ref(object_id: bytes, owner: Any) -> ObjectRef[Any]:
    """The ref that was pickled, in this process."""
    if _hooks.resolve is None:
        raise RuntimeError("an ObjectRef was unpickled before init(): call init() first")
    return _hooks.resolve(object_id, owner)


_hooks = _Hooks()
ObjectID = ObjectRef  # its older name

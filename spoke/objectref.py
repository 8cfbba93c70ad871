"""ObjectRef: the handle of an object, counted in the process's reference table.

The engine installs itself with `install`; before that, and after shutdown, refs are inert.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from spoke import codec, config
from spoke.core.refs import ACTOR_SUFFIX, Stray, Unknown
from spoke.errors import OufOfBandObjectRefSerializationException
from spoke.ids import OBJECT_BYTES, check_length, random_bytes

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures

    from spoke.core.refs import Entry

T = TypeVar("T")


class _Hooks:
    """What refs ask of the engine; one instance, filled by `install`."""

    __slots__ = ("address", "asyncio_future", "future", "known", "rebuild", "release", "resolve")

    def __init__(self) -> None:
        self.address: Any = None
        self.known: Callable[[bytes], Entry | None] | None = None
        self.release: Callable[[Entry], None] | None = None
        self.resolve: Callable[[bytes, Any], ObjectRef[Any]] | None = None
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
    known: Any = None,
) -> None:
    """Connect refs with the engine of this process; None everywhere disconnects them."""
    _hooks.address, _hooks.release, _hooks.rebuild = address, release, rebuild or rebuild_ref
    _hooks.resolve, _hooks.future, _hooks.asyncio_future = resolve, future, asyncio_future
    _hooks.known = known


class ObjectRef(Generic[T]):
    """A reference to an object that is, or will be, somewhere in the cluster.

    Made by ``put``, by ``.remote()`` calls, and by receiving one.  The object lives as long as any
    ref to it.  Refs are equal when they name the same object; they can be awaited in asyncio code.

    ``ObjectRef(id)`` is one more ref to an object that this process has refs to; any other id names
    nothing: it never comes, and passing it on raises ValueError.
    """

    __slots__ = ("__weakref__", "_entry", "_id")

    def __init__(self, id: Any) -> None:
        # The engine gives the entry, and has counted this ref in entry.local before it calls here.
        try:
            self._id: bytes = id.id
            self._entry: Entry = id
        except AttributeError:
            self._entry = Unknown(b"", None)  # for `__del__`, where the id is wrong
            self._entry = _entry_of(id)
            self._id = self._entry.id

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
        if isinstance(self._entry, Stray):
            self._entry.refuse()
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
        return cls(b"\xff" * OBJECT_BYTES)

    @classmethod
    def from_random(cls) -> ObjectRef[Any]:
        """A ref to an object that does not exist."""
        return cls(random_bytes(OBJECT_BYTES))

    @classmethod
    def from_binary(cls, id_bytes: bytes) -> ObjectRef[Any]:
        """The ref with these 28 bytes."""
        return cls(id_bytes)

    @classmethod
    def from_hex(cls, hex_id: str | bytes) -> ObjectRef[Any]:
        """The ref with these 56 hexadecimal digits."""
        return cls(bytes.fromhex(hex_id.decode() if isinstance(hex_id, bytes) else hex_id))

    def is_nil(self) -> bool:
        """Whether this ref names no object."""
        return self._id == b"\xff" * OBJECT_BYTES

    @classmethod
    def size(cls) -> int:
        """Length of the id in bytes."""
        return OBJECT_BYTES

    def task_id(self) -> Any:
        """The id of the call that returns this object."""
        from spoke.ids import TaskID

        return TaskID(self._id[:24])

    def job_id(self) -> Any:
        """The id of this process's job, which made the object unless the ref came from another job."""
        return self.task_id().job_id()

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
        """An asyncio future of the value, in the running loop, or in the one that this thread is to run."""
        if _hooks.asyncio_future is None:
            raise RuntimeError("this ref is used after shutdown()")
        return _hooks.asyncio_future(self)  # type: ignore[no-any-return]

    def __await__(self) -> Generator[Any, None, T]:
        return self.as_future().__await__()


def _entry_of(object_id: Any) -> Entry:
    """The entry of an id that a program gives, counted."""
    check_length(object_id, OBJECT_BYTES)
    entry = None if _hooks.known is None else _hooks.known(object_id)
    if entry is None:
        entry = Unknown(object_id, None)
        entry.local = 1
    return entry


def _keep(refs: list[Any]) -> None:
    """Have these objects live as long as this process: their refs are in bytes that nobody counts."""
    for ref in refs:
        object_id = ref.binary()
        if object_id.endswith(ACTOR_SUFFIX) or _hooks.known is None:
            continue
        if not config.get("allow_uncounted_refs"):
            raise OufOfBandObjectRefSerializationException(
                f"It is not allowed to serialize ray.ObjectRef {object_id.hex()} outside of a value. Set "
                "RAY_allow_out_of_band_object_ref_serialization=1 to allow it: its object then lives as long "
                "as this process."
            )
        _hooks.known(object_id)  # counts


def rebuild_ref(object_id: bytes, owner: Any) -> ObjectRef[Any]:
    """The ref that was pickled, in this process."""
    if _hooks.resolve is None:
        raise RuntimeError("an ObjectRef was unpickled before init(): call init() first")
    return _hooks.resolve(object_id, owner)


_hooks = _Hooks()
codec.keep = _keep
ObjectID = ObjectRef  # its older name

"""Identities: plain bytes inside, these classes on the public surface.

A nil id is all 0xff, as in Ray.  Lengths in bytes: job 4, actor 16, placement group 18, task 24,
node, worker and object 28.  An object is its task's id and a 4-byte little-endian index.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar, TypeVar

_Id = TypeVar("_Id", bound="BaseID")

JOB_BYTES = 4
ACTOR_BYTES = 16
GROUP_BYTES = 18
TASK_BYTES = 24
OBJECT_BYTES = 28
UNIQUE_BYTES = 28


def random_bytes(size: int) -> bytes:
    """Unpredictable bytes: ids are also capabilities, so they are not guessable."""
    return os.urandom(size)


def object_id(task_id: bytes, index: int) -> bytes:
    """The id of a task's result number `index`, counted from 1; 0 is the task's generator."""
    return task_id + index.to_bytes(4, "little")


def check_length(id_bytes: Any, size: int) -> None:
    """Raise unless these are so many bytes."""
    if not isinstance(id_bytes, bytes):
        raise TypeError(f"Unsupported type: {type(id_bytes)}, expected bytes")
    if len(id_bytes) != size:
        raise ValueError(f"ID string needs to have length {size}, got {len(id_bytes)}")


class BaseID:
    """An immutable byte string of a fixed length.

    Raises:
        ValueError: the bytes have another length.
        TypeError: the argument is not bytes.
    """

    __slots__ = ("_bytes",)
    _size: ClassVar[int] = UNIQUE_BYTES

    def __init__(self, id_bytes: bytes) -> None:
        check_length(id_bytes, self._size)
        self._bytes = id_bytes

    @classmethod
    def size(cls) -> int:
        """Length in bytes."""
        return cls._size

    @classmethod
    def nil(cls: type[_Id]) -> _Id:
        """The id that stands for none."""
        return cls(b"\xff" * cls._size)

    @classmethod
    def from_random(cls: type[_Id]) -> _Id:
        """A new id."""
        return cls(random_bytes(cls._size))

    @classmethod
    def from_binary(cls: type[_Id], id_bytes: bytes) -> _Id:
        """The id with these bytes."""
        return cls(id_bytes)

    @classmethod
    def from_hex(cls: type[_Id], hex_id: str | bytes) -> _Id:
        """The id with this hexadecimal text.

        Raises:
            ValueError: not hexadecimal, or of another length.
        """
        text = hex_id.decode() if isinstance(hex_id, bytes) else hex_id
        return cls(bytes.fromhex(text))

    def binary(self) -> bytes:
        """The bytes of the id."""
        return self._bytes

    def hex(self) -> str:
        """The id in hexadecimal, lower case."""
        return self._bytes.hex()

    def is_nil(self) -> bool:
        """Is this the id that stands for none?"""
        return self._bytes == b"\xff" * self._size

    def redis_shard_hash(self) -> int:
        """A hash that is equal in every process, unlike `hash`."""
        return int.from_bytes(self._bytes[-8:], "little")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._bytes == other._bytes

    def __hash__(self) -> int:
        return hash(self._bytes)

    def __bytes__(self) -> bytes:
        return self._bytes

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._bytes.hex()})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._bytes,)


class UniqueID(BaseID):
    """28 random bytes."""

    __slots__ = ()


class NodeID(UniqueID):
    """A node, which is one run of an agent."""

    __slots__ = ()


class WorkerID(UniqueID):
    """A process that calls or is called: worker or driver."""

    __slots__ = ()


class FunctionID(UniqueID):
    """An exported function."""

    __slots__ = ()


class ActorClassID(UniqueID):
    """An exported actor class."""

    __slots__ = ()


class ClusterID(UniqueID):
    """A cluster."""

    __slots__ = ()


class JobID(BaseID):
    """A driver's run in a cluster."""

    __slots__ = ()
    _size = JOB_BYTES

    @classmethod
    def from_int(cls, value: int) -> JobID:
        """The id of job number `value`."""
        return cls(value.to_bytes(JOB_BYTES, "little"))

    def int(self) -> int:
        """The number of the job."""
        return int_from(self._bytes)


def int_from(data: bytes) -> int:
    """Little-endian number; apart because `JobID.int` hides the built-in name in its class."""
    return int.from_bytes(data, "little")


class ActorID(BaseID):
    """An actor: 12 random bytes and its job's id."""

    __slots__ = ()
    _size = ACTOR_BYTES

    @classmethod
    def of(cls, job_id: JobID, parent_task_id: Any = None, parent_task_counter: int = 0) -> ActorID:
        """A new actor of the job."""
        return cls(random_bytes(ACTOR_BYTES - JOB_BYTES) + job_id.binary())

    @property
    def job_id(self) -> JobID:
        """The job that created the actor."""
        return JobID(self._bytes[-JOB_BYTES:])


class PlacementGroupID(BaseID):
    """A placement group: 14 random bytes and its job's id."""

    __slots__ = ()
    _size = GROUP_BYTES

    @classmethod
    def of(cls, job_id: JobID) -> PlacementGroupID:
        """A new group of the job."""
        return cls(random_bytes(GROUP_BYTES - JOB_BYTES) + job_id.binary())


class TaskID(BaseID):
    """One call: 16 random bytes of the caller and its 8-byte counter."""

    __slots__ = ()
    _size = TASK_BYTES

    def job_id(self) -> JobID:
        """The job of this process, which made the call unless the id came from another job."""
        from spoke import current

        client = current.client
        return JobID.nil() if client is None else JobID(client.runtime_context["job_id"])


class ObjectID(BaseID):
    """An object: its task's id and a 4-byte index."""

    __slots__ = ()
    _size = OBJECT_BYTES

    def task_id(self) -> TaskID:
        """The call that makes the object."""
        return TaskID(self._bytes[:TASK_BYTES])

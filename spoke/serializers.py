"""Classes that pack themselves straight into shared memory: ``register_serializer``.

Pickle writes an object into bytes, which are then copied into a block.  A class that is registered here
is asked for its size, gets a block of that size to write into, and is read from a view of the block:
no bytes in between, on one node and between nodes.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from pickle import PickleBuffer
from typing import Any, TypeVar

from spoke import codec
from spoke.handles import engine
from spoke.store import INLINE_BYTES_MAX

T = TypeVar("T")


def register_serializer(
    cls: type[T],
    *,
    size: Callable[[T], int],
    pack_into: Callable[[T, memoryview], Any],
    unpack_from: Callable[[memoryview], T],
) -> None:
    """Have instances of `cls` (not of subclasses) pack themselves in every value that this process sends.

    `unpack_from` travels along, so receivers need not register; registering again replaces.

    Args:
        size: the bytes that an instance needs.
        pack_into: writes it into a writable view of exactly that many bytes.
        unpack_from: the instance from a read-only view, which it may keep: the object's memory lives as
            long as the view does.

    Raises:
        TypeError: not a class, something that cannot be called, or an `unpack_from` that cannot be sent.
    """
    if not isinstance(cls, type):
        raise TypeError(f"register_serializer takes a class, not {cls!r}")
    for name, function in (("size", size), ("pack_into", pack_into), ("unpack_from", unpack_from)):
        if not callable(function):
            raise TypeError(f"register_serializer({cls.__name__}): {name} must be callable, not {function!r}")
    # Compressed, so that a name of `__main__` inside does not send the whole value to the slow pickler.
    unpacker = zlib.compress(codec.dumps_function(unpack_from))

    def reduce(value: T) -> Any:
        count = size(value)
        if not isinstance(count, int) or count < 0:
            raise TypeError(f"size of {cls.__name__} must be a number of bytes, not {count!r}")
        if count <= INLINE_BYTES_MAX:
            small = bytearray(count)
            _pack(pack_into, value, small)
            return _unpack, (unpacker, bytes(small))
        _, block = engine().store.empty(count)
        _pack(pack_into, value, block)
        return _unpack, (unpacker, PickleBuffer(block))

    codec.register_reducer(cls, reduce)


def _pack(pack_into: Callable[[Any, memoryview], Any], value: Any, into: Any) -> None:
    try:
        pack_into(value, memoryview(into))
    except Exception as error:
        raise TypeError(f"pack_into of {type(value).__name__}: {error}") from error


def deregister_serializer(cls: type) -> None:
    """Undo `register_serializer`: instances of `cls` are pickled again; unknown classes are ignored."""
    codec.deregister_reducer(cls)


@functools.lru_cache(256)
def _unpacker(packed: bytes) -> Callable[[memoryview], Any]:
    function: Callable[[memoryview], Any] = codec.loads(zlib.decompress(packed))
    return function


def _unpack(unpacker: bytes, buffer: Any) -> Any:
    return _unpacker(unpacker)(memoryview(buffer).toreadonly())

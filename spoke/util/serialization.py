"""Serializers of one's own, and values as bytes outside of the cluster."""

from __future__ import annotations

from typing import Any

from spoke import absent, codec


def register_serializer(cls: type, *, serializer: Any, deserializer: Any) -> None:
    """Pickle instances of `cls` as ``deserializer(serializer(value))``, in values made by this process.

    Raises:
        TypeError: `cls` is no class, or the functions cannot be called.
    """
    if not isinstance(cls, type) or not callable(serializer) or not callable(deserializer):
        raise TypeError("register_serializer(cls, serializer=function, deserializer=function)")
    codec.register_reducer(cls, lambda value: (deserializer, (serializer(value),)))


def deregister_serializer(cls: type) -> None:
    """Undo `register_serializer`; unknown classes are ignored."""
    codec.deregister_reducer(cls)


class StandaloneSerializationContext:
    """Values to bytes and back without a cluster; ObjectRefs inside are not counted."""

    def serialize_and_pack(self, value: Any) -> bytes:
        """The value as bytes.

        Raises:
            TypeError: it cannot be pickled; the text names the part.
        """
        import msgpack

        body, buffers, _ = codec.dumps(value)
        packed: bytes = msgpack.packb([bytes(body), [bytes(buffer.raw()) for buffer in buffers]])
        return packed

    def deserialize(self, data: bytes) -> Any:
        """The value of `serialize_and_pack`."""
        import msgpack

        body, buffers = msgpack.unpackb(data)
        return codec.loads(body, buffers)


__getattr__ = absent.getter(__name__)

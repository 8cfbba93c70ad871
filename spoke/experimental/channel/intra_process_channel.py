"""A channel between parts of one process: values pass by reference, without a copy."""

from __future__ import annotations

import uuid
from typing import Any

from spoke import absent
from spoke.experimental.channel.common import ChannelContext, ChannelInterface


class IntraProcessChannel(ChannelInterface):
    """Holds one value until so many readers of this process have read it.

    Raises:
        AssertionError: `read` without a value, or `write` before all have read the last one.
    """

    def __init__(self, num_readers: int, _channel_id: str | None = None) -> None:
        self._num_readers = num_readers
        self._channel_id = _channel_id or str(uuid.uuid4())

    def ensure_registered_as_writer(self) -> None:
        """Nothing to do."""

    def ensure_registered_as_reader(self) -> None:
        """Nothing to do."""

    def __reduce__(self) -> Any:
        return IntraProcessChannel, (self._num_readers, self._channel_id)

    def __str__(self) -> str:
        return f"IntraProcessChannel(channel_id={self._channel_id})"

    def write(self, value: Any, timeout: float | None = None) -> None:
        """Keep a value for the readers."""
        ChannelContext.get_current().serialization_context.set_data(
            self._channel_id, value, self._num_readers
        )

    def read(self, timeout: float | None = None, deserialize: bool = True) -> Any:
        """The value itself; None with ``deserialize=False``, which only counts as a read."""
        value = ChannelContext.get_current().serialization_context.get_data(self._channel_id)
        return value if deserialize else None

    def close(self) -> None:
        """Forget the value."""
        ChannelContext.get_current().serialization_context.reset_data(self._channel_id)


__getattr__ = absent.getter(__name__)

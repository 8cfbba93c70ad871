"""A channel whose every value several parts of one process read."""

from __future__ import annotations

import uuid
from typing import Any

from spoke import absent
from spoke.experimental.channel.common import ChannelContext, ChannelInterface


class CachedChannel(ChannelInterface):
    """Reads each value of `inner_channel` once and gives it `num_reads` times.

    Without an inner channel, what is written is given `num_reads` times.

    Raises:
        AssertionError: `num_reads` is not positive, or there is nothing to read.
    """

    def __init__(
        self, num_reads: int, inner_channel: ChannelInterface | None = None, _channel_id: str | None = None
    ) -> None:
        assert num_reads > 0, "num_reads must be greater than 0."
        self._num_reads = num_reads
        self._inner_channel = inner_channel
        self._channel_id = _channel_id or str(uuid.uuid4())

    def ensure_registered_as_writer(self) -> None:
        """See `ChannelInterface`."""
        if self._inner_channel is not None:
            self._inner_channel.ensure_registered_as_writer()

    def ensure_registered_as_reader(self) -> None:
        """See `ChannelInterface`."""
        if self._inner_channel is not None:
            self._inner_channel.ensure_registered_as_reader()

    def __reduce__(self) -> Any:
        return CachedChannel, (self._num_reads, self._inner_channel, self._channel_id)

    def __str__(self) -> str:
        return (
            f"CachedChannel(channel_id={self._channel_id}, num_reads={self._num_reads}), "
            f"inner_channel={self._inner_channel})"
        )

    def write(self, value: Any, timeout: float | None = None) -> None:
        """Write to the inner channel; without one, keep the value."""
        if self._inner_channel is not None:
            self._inner_channel.write(value, timeout)
        else:
            ChannelContext.get_current().serialization_context.set_data(
                self._channel_id, value, self._num_reads
            )

    def read(self, timeout: float | None = None) -> Any:
        """The value, from the inner channel if all reads of the one before are done."""
        context = ChannelContext.get_current().serialization_context
        if context.has_data(self._channel_id):
            return context.get_data(self._channel_id)
        assert self._inner_channel is not None, "there is no value, and no inner channel to read one from"
        value = self._inner_channel.read(timeout)
        if self._num_reads > 1:
            context.set_data(self._channel_id, value, self._num_reads - 1)
        return value

    def close(self) -> None:
        """Close the inner channel and forget the value."""
        if self._inner_channel is not None:
            self._inner_channel.close()
        ChannelContext.get_current().serialization_context.reset_data(self._channel_id)


__getattr__ = absent.getter(__name__)

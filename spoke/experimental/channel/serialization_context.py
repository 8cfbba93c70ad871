"""Values that pass between parts of one process by reference."""

from __future__ import annotations

import threading
from typing import Any

from spoke import absent


class _SerializationContext:
    """Values by channel; each is there until it was read as often as was said."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, list[Any]] = {}  # [value, readers left]

    def set_data(self, channel_id: str, value: Any, num_readers: int) -> None:
        """Keep a value for so many readers.

        Raises:
            AssertionError: the value before was not read by all, or nobody is to read.
        """
        assert num_readers > 0, "num_readers must be greater than 0."
        with self._lock:
            assert channel_id not in self._values, f"Channel {channel_id} already exists in the buffer."
            self._values[channel_id] = [value, num_readers]

    def has_data(self, channel_id: str) -> bool:
        """Is there a value?"""
        return channel_id in self._values

    def get_data(self, channel_id: str) -> Any:
        """The value, for one of its readers.

        Raises:
            AssertionError: there is none.
        """
        with self._lock:
            entry = self._values.get(channel_id)
            assert entry is not None, f"Channel {channel_id} does not exist in the buffer."
            entry[1] -= 1
            if entry[1] == 0:
                del self._values[channel_id]
            return entry[0]

    def reset_data(self, channel_id: str) -> None:
        """Forget the value."""
        with self._lock:
            self._values.pop(channel_id, None)


__getattr__ = absent.getter(__name__)

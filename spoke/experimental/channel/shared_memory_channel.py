"""Channels between processes, on one node or several: see `ends` for how they work.

A channel is made by its writer, a driver or an actor, and passed to its readers in a call.  Readers on
the writer's node map large values; others read them over the network.
"""

from __future__ import annotations

from typing import Any, Final

from spoke import absent
from spoke.experimental.channel import ends
from spoke.experimental.channel.common import ChannelInterface, ChannelOutputType
from spoke.experimental.channel.intra_process_channel import IntraProcessChannel
from spoke.experimental.channel.utils import get_self_actor, split_readers_by_locality
from spoke.handles import ActorHandle
from spoke.runtime_context import get_runtime_context

MIN_BUFFER_BYTES: Final = 1000


class SharedMemoryType(ChannelOutputType):
    """Values that travel as objects of shared memory.

    Args:
        buffer_size_bytes: what a value may take at first; longer ones are taken, too.  At least 1000.
        num_shm_buffers: values that may wait for their readers.

    Raises:
        ValueError: the size is too small.
    """

    def __init__(self, *, buffer_size_bytes: int | None = None, num_shm_buffers: int | None = None) -> None:
        from spoke.dag.context import DAGContext

        default = DAGContext.get_current().buffer_size_bytes
        self.buffer_size_bytes = default if buffer_size_bytes is None else buffer_size_bytes
        self._num_shm_buffers = 1 if num_shm_buffers is None else num_shm_buffers

    def create_channel(
        self,
        writer: Any,
        reader_and_node_list: list[tuple[Any, str]],
        driver_actor_id: str | None = None,
    ) -> ChannelInterface:
        """A `CompositeChannel`."""
        return CompositeChannel(writer, reader_and_node_list, self._num_shm_buffers, driver_actor_id)


class _ProcessChannel(ChannelInterface):
    """A channel with room for `capacity` values, made by its writer."""

    def __init__(
        self, writer: Any, reader_and_node_list: list[tuple[Any, str]], typ: Any, capacity: int
    ) -> None:
        assert reader_and_node_list, "a channel needs at least one reader: give [(actor, node id)]"
        for reader, _ in reader_and_node_list:
            assert isinstance(reader, ActorHandle), f"a reader is the handle of an actor, not {reader!r}"
        size = typ.buffer_size_bytes if isinstance(typ, SharedMemoryType) else typ
        if size is not None and size < MIN_BUFFER_BYTES:
            raise ValueError(f"typ.buffer_size_bytes must be at least {MIN_BUFFER_BYTES} bytes, not {size}")
        assert writer == get_self_actor(), (
            f"a channel is made by its writer: call {type(self).__name__}(...) inside of {writer!r}, and "
            "with None as the writer in a driver"
        )
        assert capacity > 0, "a channel needs room for one value at least"
        self._place = ends.WriterEnd(len(reader_and_node_list), capacity).place

    def __reduce__(self) -> Any:
        return _restored, (type(self), self.__dict__)

    def __str__(self) -> str:
        return f"{type(self).__name__}({self._place.channel.hex()})"

    def ensure_registered_as_writer(self) -> None:
        """See that this process may write.

        Raises:
            ValueError: another one does.
        """
        self._writer()

    def _writer(self) -> ends.WriterEnd:
        end = ends.writer_of(self._place)
        if end is None:
            raise ValueError(f"{self} is written by the process that made it; this one can read")
        return end

    def ensure_registered_as_reader(self) -> None:
        """Connect to the writer.

        Raises:
            RayChannelError: the channel is closed.
        """
        ends.reader_of(self._place)

    def write(self, value: Any, timeout: float | None = None) -> None:
        """Hand a value to every reader; waits until there is room.

        Raises:
            RayChannelTimeoutError: readers have not taken what was written before.
            RayChannelError: the channel is closed, or a reader died.
            ValueError: this process is not the writer.
        """
        self._writer().write(value, ends.check_timeout(timeout))

    def read(self, timeout: float | None = None) -> Any:
        """The next value; an exception that was written is returned, not raised.

        Raises:
            RayChannelTimeoutError: none came.
            RayChannelError: the channel is closed, or the writer died.
        """
        seconds = ends.check_timeout(timeout)
        return ends.reader_of(self._place).read(seconds)

    def release_buffer(self, timeout: float | None = None) -> None:
        """Pass over the next value."""
        self.read(timeout)

    def close(self) -> None:
        """End the channel for all its processes; may be called again, by any of them."""
        ends.close(self._place)


def _restored(cls: type[_ProcessChannel], state: dict[str, Any]) -> _ProcessChannel:
    channel = cls.__new__(cls)
    channel.__dict__.update(state)
    return channel


class Channel(_ProcessChannel):
    """Room for one value: a write waits until all readers have read the value before.

    Args:
        writer: the actor that makes and writes it; None in a driver.
        reader_and_node_list: the readers and the ids of their nodes; a driver is named by the handle of
            a `CompiledDAG.DAGDriverProxyActor`.
        typ: a size in bytes or a `SharedMemoryType`; longer values are taken, too.

    Raises:
        AssertionError: the writer is not this process, or there are no readers.
        ValueError: the size is below 1000 bytes.
    """

    def __init__(
        self,
        writer: Any,
        reader_and_node_list: list[tuple[Any, str]],
        typ: int | SharedMemoryType | None = None,
    ) -> None:
        super().__init__(writer, reader_and_node_list, typ, 1)

    @staticmethod
    def is_local_node(node_id: str) -> bool:
        """Is it the node of this process?"""
        return get_runtime_context().get_node_id() == node_id


class BufferedSharedMemoryChannel(_ProcessChannel):
    """As `Channel`, with room for `num_shm_buffers` values."""

    def __init__(
        self,
        writer: Any,
        reader_and_node_list: list[tuple[Any, str]],
        num_shm_buffers: int,
        typ: int | SharedMemoryType | None = None,
    ) -> None:
        super().__init__(writer, reader_and_node_list, typ, num_shm_buffers)
        self._buffers = num_shm_buffers

    @property
    def next_write_index(self) -> int:
        """Which buffer the next value goes into."""
        return self._writer().written % self._buffers

    @property
    def next_read_index(self) -> int:
        """Which buffer the next value comes from."""
        return ends.reader_of(self._place).taken % self._buffers


class CompositeChannel(ChannelInterface):
    """For each reader the channel that fits: by reference in the writer's process, else between processes.

    Args:
        num_shm_buffers: values that may wait for readers in other processes.
        driver_actor_id: the id, in hex, of the actor that stands for the driver among the readers.
    """

    def __init__(
        self,
        writer: Any,
        reader_and_node_list: list[tuple[Any, str]],
        num_shm_buffers: int,
        driver_actor_id: str | None = None,
    ) -> None:
        self._driver_actor_id = driver_actor_id
        self._channel_dict: dict[str, ChannelInterface] = {}
        self._channels: list[ChannelInterface] = []
        others = [(reader, node) for reader, node in reader_and_node_list if reader != writer]
        own = len(reader_and_node_list) - len(others)
        if own:
            self._add(IntraProcessChannel(own), [writer])
        if others:
            readers = [reader for part in split_readers_by_locality(writer, others) for reader, _ in part]
            between = BufferedSharedMemoryChannel(writer, others, num_shm_buffers)
            self._add(between, readers)

    def _add(self, channel: ChannelInterface, readers: list[Any]) -> None:
        self._channels.append(channel)
        for reader in readers:
            self._channel_dict[reader._actor_id.hex()] = channel

    def __str__(self) -> str:
        return f"CompositeChannel(_channels={[str(channel) for channel in self._channels]})"

    def _mine(self) -> ChannelInterface:
        """The channel that this process reads.

        Raises:
            AssertionError: it is none of the readers.
        """
        actor = get_runtime_context().get_actor_id() or self._driver_actor_id
        found = self._channel_dict.get(actor or "")
        assert found is not None, f"this process reads nothing of {self}: it is none of its readers"
        return found

    def ensure_registered_as_writer(self) -> None:
        """See `ChannelInterface`."""
        for channel in self._channels:
            channel.ensure_registered_as_writer()

    def ensure_registered_as_reader(self) -> None:
        """See `ChannelInterface`."""
        self._mine().ensure_registered_as_reader()

    def write(self, value: Any, timeout: float | None = None) -> None:
        """Hand a value to every reader; waits until there is room."""
        for channel in self._channels:
            channel.write(value, timeout)

    def read(self, timeout: float | None = None) -> Any:
        """The next value for this process."""
        return self._mine().read(timeout)

    def release_buffer(self, timeout: float | None = None) -> None:
        """Pass over the next value for this process."""
        self._mine().read(timeout)

    def close(self) -> None:
        """Close all channels."""
        for channel in self._channels:
            channel.close()


__getattr__ = absent.getter(__name__)

"""What all channels are, and how several of them are read and written as one.

A reader gives the list of what its channels hold, in their order.  The error of a task among them is
the result of all, at once; what the other channels had for that round is passed over later.
"""

from __future__ import annotations

import abc
import asyncio
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from spoke import absent
from spoke.dag.context import DAGContext
from spoke.errors import RayChannelError, RayChannelTimeoutError, RayTaskError
from spoke.experimental.channel.accelerator_context import AcceleratorContext as AcceleratorContext
from spoke.experimental.channel.communicator import Communicator as Communicator
from spoke.experimental.channel.communicator_handle import CommunicatorHandle as CommunicatorHandle
from spoke.experimental.channel.ends import check_timeout
from spoke.experimental.channel.serialization_context import _SerializationContext


class CompiledDAGArgs(NamedTuple):
    """The arguments of an execution, as a writer takes them for the input of a graph."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class ChannelInterface(abc.ABC):
    """From one writer to some readers; a value is written when all of them have read the one before.

    Times are in seconds; None and -1 wait for ever, 0 does not wait.
    """

    def __init__(self, writer: Any, readers: list[Any], typ: Any) -> None:
        self._typ = typ

    @abc.abstractmethod
    def ensure_registered_as_writer(self) -> None:
        """See that this process may write; may be called again."""

    @abc.abstractmethod
    def ensure_registered_as_reader(self) -> None:
        """See that this process may read; may be called again."""

    @abc.abstractmethod
    def write(self, value: Any, timeout: float | None = None) -> None:
        """Hand a value to every reader."""

    @abc.abstractmethod
    def read(self, timeout: float | None = None) -> Any:
        """The next value; an exception that was written is returned, not raised."""

    @abc.abstractmethod
    def close(self) -> None:
        """End the channel; does not wait, may be called again."""


class ChannelOutputType:
    """What travels through a channel, and so which channel it takes."""

    def register_custom_serializer(self) -> None:
        """Prepare this process for values of this type; nothing to do here."""

    def create_channel(
        self,
        writer: Any,
        reader_and_node_list: list[tuple[Any, str]],
        driver_actor_id: str | None = None,
    ) -> ChannelInterface:
        """A channel for values of this type; see `CompositeChannel` for the arguments.

        Raises:
            TypeError: this type says nothing about channels; `SharedMemoryType` does.
        """
        raise TypeError(
            f"a {type(self).__name__} makes no channel: take a SharedMemoryType or a TorchTensorType"
        )

    def requires_accelerator(self) -> bool:
        """Do values travel from device to device?"""
        return False

    def get_custom_communicator(self) -> Communicator | None:
        """The communicator that was given for them, if any."""
        return None

    def set_communicator_id(self, group_id: str) -> None:
        """Name the communicator of this process (`ChannelContext.communicators`) that carries the values.

        Raises:
            ValueError: values of this type take none.
        """
        raise ValueError(f"a {type(self).__name__} takes no communicator")


class ChannelContext:
    """What channels of this process share: `get_current`."""

    serialization_context = _SerializationContext()
    _current: ChannelContext | None = None
    _lock = threading.Lock()

    def __init__(self) -> None:
        self.communicators: dict[str, Communicator] = {}
        self.communicator_handles: dict[str, CommunicatorHandle] = {}
        self._torch_device: Any = None

    @staticmethod
    def get_current() -> ChannelContext:
        """The context of this process, made at the first call."""
        with ChannelContext._lock:
            if ChannelContext._current is None:
                ChannelContext._current = ChannelContext()
            return ChannelContext._current

    @property
    def torch_available(self) -> bool:
        """Can torch be imported here?"""
        import importlib.util

        return importlib.util.find_spec("torch") is not None

    @property
    def torch_device(self) -> Any:
        """The device of this process's tensors: the one that was set, else the first one."""
        if self._torch_device is None:
            self._torch_device = AcceleratorContext.get().get_accelerator_devices()[0]
        return self._torch_device

    def set_torch_device(self, device: Any) -> None:
        """Set the device of this process's tensors."""
        self._torch_device = device


def retry_and_check_interpreter_exit(f: Callable[[], None]) -> bool:
    """Call `f`, a read or write in a thread, until it is not late; True if the interpreter ends meanwhile."""
    while True:
        try:
            f()
        except RayChannelTimeoutError:
            if sys.is_finalizing():
                return True
        else:
            return False


# -- reading -------------------------------------------------------------------------------------------


class ReaderInterface(abc.ABC):
    """Reads one value of each of its channels."""

    def __init__(self, input_channels: list[ChannelInterface]) -> None:
        assert isinstance(input_channels, list), "give a list of channels"
        assert all(isinstance(one, ChannelInterface) for one in input_channels), "give a list of channels"
        self._input_channels = input_channels
        self._closed = False
        self._num_reads = 0
        self._got: dict[int, Any] = {}  # of the round under way, by position; kept when time is over
        self._owed: list[ChannelInterface] = []  # whose value of a failed round was not read

    def get_num_reads(self) -> int:
        """How many rounds were read."""
        return self._num_reads

    @abc.abstractmethod
    def start(self) -> None:
        """Begin."""

    def read(self, timeout: float | None = None) -> list[Any]:
        """One value of each channel; None and -1 wait for ever.

        Raises:
            RayChannelTimeoutError: not all have one; those that have keep it for the next call.
            RayChannelError: a channel is closed.
        """
        values = self._read_round(check_timeout(timeout))
        self._num_reads += 1
        return values

    def _read_round(self, timeout: float | None) -> list[Any]:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._owed:
            self._owed[0].read(_left(deadline))
            del self._owed[0]
        channels = self._input_channels
        while missing := [number for number in range(len(channels)) if number not in self._got]:
            # Several channels take turns, since any of them may have the error that ends the round.
            turn = DAGContext.get_current().read_iteration_timeout if len(missing) > 1 else None
            for number in missing:
                try:
                    value = channels[number].read(_left(deadline, turn))
                except RayChannelTimeoutError:
                    if deadline is not None and time.monotonic() >= deadline:
                        raise
                    continue
                self._got[number] = value
                if isinstance(value, RayTaskError):
                    self._owed = [one for other, one in enumerate(channels) if other not in self._got]
                    self._got = {}
                    return [value] * len(channels)
        got, self._got = self._got, {}
        return [got[number] for number in range(len(channels))]

    def close(self) -> None:
        """Close the channels."""
        self._closed = True
        for channel in self._input_channels:
            channel.close()


def _left(deadline: float | None, at_most: float | None = None) -> float | None:
    """Seconds until a deadline, or `at_most`."""
    if deadline is None:
        return at_most
    left = max(0.0, deadline - time.monotonic())
    return left if at_most is None else min(left, at_most)


class SynchronousReader(ReaderInterface):
    """Reads in the thread that asks."""

    def start(self) -> None:
        """Nothing to do."""

    def release_channel_buffers(self, timeout: float | None = None) -> None:
        """Pass over the next value of each channel.

        Raises:
            RayChannelTimeoutError: there is none.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        for channel in self._input_channels:
            release: Any = getattr(channel, "release_buffer", None)
            assert release is not None, f"a {type(channel).__name__} has no buffer to release"
            release(_left(deadline))


class AwaitableBackgroundReader(ReaderInterface):
    """Reads in a thread, for futures that come through a queue, in their order."""

    def __init__(self, input_channels: list[ChannelInterface], fut_queue: asyncio.Queue[Any]) -> None:
        super().__init__(input_channels)
        self._fut_queue = fut_queue
        self._task: asyncio.Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, "spoke-channel-read")

    def start(self) -> None:
        """Begin to read, in the running loop."""
        self._task = asyncio.ensure_future(self.run())

    async def run(self) -> None:
        """Fulfil the queue's futures until the channels close: theirs is the error then."""
        loop = asyncio.get_running_loop()
        while not self._closed:
            future = await self._fut_queue.get()
            try:
                values = await loop.run_in_executor(self._thread, self.read)
            except Exception as error:
                if not future.done():
                    future.set_exception(error)
                if isinstance(error, RayChannelError):
                    return
            else:
                if not future.done():
                    future.set_result(values)
                del values  # it is the caller's
            del future

    def close(self) -> None:
        """Close the channels and end the thread."""
        super().close()
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._task is not None:
            self._task.cancel()


# -- writing -------------------------------------------------------------------------------------------


class WriterInterface(abc.ABC):
    """Writes each of its channels' part of a value.

    Args:
        output_channels: where to.
        output_idxs: per channel, what of the value: an index or key, None for all of it.
        is_input: is a value the `CompiledDAGArgs` of an execution?  Others go whole to every channel then.
    """

    def __init__(
        self,
        output_channels: list[ChannelInterface],
        output_idxs: list[int | str | None],
        is_input: bool = False,
    ) -> None:
        assert len(output_channels) == len(output_idxs), "give one index per channel, None for the whole"
        self._output_channels = output_channels
        self._output_idxs = output_idxs
        self._is_input = is_input
        self._closed = False
        self._num_writes = 0

    def get_num_writes(self) -> int:
        """How many values were written."""
        return self._num_writes

    @abc.abstractmethod
    def start(self) -> None:
        """Begin."""

    @abc.abstractmethod
    def write(self, val: Any, timeout: float | None = None) -> Any:
        """Write a value; None and -1 wait for ever."""

    def _parts(self, value: Any) -> list[Any]:
        """What each channel gets.

        Raises:
            ValueError: the value is no tuple with one part per channel.
        """
        count = len(self._output_channels)
        if self._is_input:
            if not isinstance(value, CompiledDAGArgs):
                return [value] * count
            return [
                value.args[key] if isinstance(key, int) else value.kwargs[key]  # type: ignore[index]
                for key in self._output_idxs
            ]
        if count > 1:
            if isinstance(value, Exception):
                return [value] * count
            if not isinstance(value, tuple):
                raise ValueError(f"Expected a tuple of {count} outputs, but got {type(value)}")
            if len(value) != count:
                raise ValueError(f"Expected {count} outputs, but got {len(value)} outputs")
        return [value if key is None else value[key] for key in self._output_idxs]

    def close(self) -> None:
        """Close the channels."""
        self._closed = True
        for channel in self._output_channels:
            channel.close()


class SynchronousWriter(WriterInterface):
    """Writes in the thread that asks."""

    def start(self) -> None:
        """See that this process may write."""
        for channel in self._output_channels:
            channel.ensure_registered_as_writer()

    def write(self, val: Any, timeout: float | None = None) -> None:
        """Write a value; waits for room.

        Raises:
            RayChannelTimeoutError: a channel's readers have not read what was there.
            ValueError: the value has not one part per channel.
        """
        for channel, part in zip(self._output_channels, self._parts(val), strict=True):
            channel.write(part, timeout)
        self._num_writes += 1


class AwaitableBackgroundWriter(WriterInterface):
    """Writes in a thread; `write` only puts into its queue."""

    def __init__(
        self,
        output_channels: list[ChannelInterface],
        output_idxs: list[int | str | None],
        is_input: bool = False,
    ) -> None:
        super().__init__(output_channels, output_idxs, is_input)
        self._queue: asyncio.Queue[list[Any]] = asyncio.Queue()
        self._task: asyncio.Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, "spoke-channel-write")

    def start(self) -> None:
        """Begin to write, in the running loop."""
        for channel in self._output_channels:
            channel.ensure_registered_as_writer()
        self._task = asyncio.ensure_future(self.run())

    async def run(self) -> None:
        """Write what is in the queue until the channels close."""
        loop = asyncio.get_running_loop()
        while not self._closed:
            parts = await self._queue.get()
            try:
                await loop.run_in_executor(self._thread, self._write_parts, parts)
            except RayChannelError:
                return

    def _write_parts(self, parts: list[Any]) -> None:
        for channel, part in zip(self._output_channels, parts, strict=True):
            channel.write(part)

    async def write(self, val: Any, timeout: float | None = None) -> None:
        """Put a value into the queue.

        Raises:
            RuntimeError: the writer is closed.
            ValueError: the value has not one part per channel.
        """
        if self._closed:
            raise RuntimeError("DAG execution cancelled")
        await self._queue.put(self._parts(val))
        self._num_writes += 1

    def close(self) -> None:
        """Close the channels and end the thread."""
        super().close()
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._task is not None:
            self._task.cancel()


__getattr__ = absent.getter(__name__)

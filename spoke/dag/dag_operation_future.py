"""Results of a graph's operations that may still be under way on a device."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

from spoke import absent


class DAGOperationFuture(abc.ABC):
    """A result that `wait` gives."""

    @abc.abstractmethod
    def wait(self) -> Any:
        """The result, once it may be used."""


class ResolvedFuture(DAGOperationFuture):
    """A result that is there."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def wait(self) -> Any:
        """The result."""
        return self._result


class GPUFuture(DAGOperationFuture):
    """A result that a stream of the process's device computes; at once there where there is no device.

    Args:
        buf: the result.
        fut_id: an id; the future of the same id before is over.
        stream: what computes it; default the device's present one.
    """

    gpu_futures: ClassVar[dict[int, GPUFuture]] = {}

    def __init__(self, buf: Any, fut_id: int, stream: Any = None) -> None:
        from spoke.experimental.channel.accelerator_context import AcceleratorContext

        self._buf = buf
        self._device = AcceleratorContext.get()
        self._event = self._device.create_event()
        if self._event is not None:
            self._event.record(stream or self._device.current_stream())
        GPUFuture.add_gpu_future(fut_id, self)

    @staticmethod
    def add_gpu_future(fut_id: int, fut: GPUFuture) -> None:
        """Keep a future until `remove_gpu_future`, or the next of its id."""
        GPUFuture.remove_gpu_future(fut_id)
        GPUFuture.gpu_futures[fut_id] = fut

    @staticmethod
    def remove_gpu_future(fut_id: int) -> None:
        """Forget a future."""
        before = GPUFuture.gpu_futures.pop(fut_id, None)
        if before is not None:
            before.destroy_event()

    def wait(self) -> Any:
        """The result; the device's present stream goes on only when it is there."""
        if self._event is not None:
            self._device.current_stream().wait_event(self._event)
        return self._buf

    def destroy_event(self) -> None:
        """Forget what the device would tell."""
        self._event = None


__getattr__ = absent.getter(__name__)
